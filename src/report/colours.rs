/*! Whether pictures that a model is made to see have the colours that people feel so about (Cybulski 2019): their brightness and
saturation beside the ratings that were asked for, and what Valdez & Mehrabian 1994 found. */

use super::study::Sheet;
use crate::descriptors::colour::{Colours, FOUND, Space};
use crate::table::number;
use crate::train::metrics::DimensionMetrics;
use minijinja::context;

/// Names of the columns that [`numbers`] fills.
pub const COLUMNS: [&str; 5] = ["red_0to1", "green_0to1", "blue_0to1", "brightness_0to1", "saturation_0to1"];

/// Means over the pixels of an RGB picture: red, green and blue, luminance, and the largest of the three minus the least.
pub fn numbers(rgb: &[u8]) -> [f64; 5] {
    let colours = Colours::of(rgb);
    let ([r, g, b], [brightness, saturation]) = (colours.rgb, colours.brightness_saturation(Space::Ihsl));
    [r, g, b, brightness, saturation]
}

/// A picture, or several for the same: the ratings that were asked for, and the numbers of [`COLUMNS`].
pub type Asked = (Vec<f64>, [f64; 5]);

/// What brightness and saturation do as ratings rise.
pub struct Signs {
    pub sheet: Sheet,
    /// The same in words, a sentence each.
    pub words: Vec<String>,
}

impl Signs {
    /// What `colours.html` shows.
    pub fn shown(&self) -> minijinja::Value {
        context! { table => self.sheet.html(), words => self.words.join(" ") }
    }
}

/// Correlation; None where one of the two does not vary.
fn r(x: &[f64], y: &[f64]) -> Option<f64> {
    DimensionMetrics::of(x, y).ok()?.pearson_r
}

/// Of pictures for ratings of these names; None without a rating that Valdez & Mehrabian speak of, or for fewer than three
/// pictures.
pub fn signs(ratings: &[String], asked: &[Asked]) -> Option<Signs> {
    // What they call pleasure is valence here.
    let found = |rating: &str| FOUND.iter().find(|f| f.0 == rating || (f.0, rating) == ("pleasure", "valence"));
    let known: Vec<_> =
        ratings.iter().enumerate().filter_map(|(i, rating)| Some((i, rating, found(rating)?))).collect();
    if known.is_empty() || asked.len() < 3 {
        return None;
    }
    let chance = 1.96 / (asked.len() as f64).sqrt();
    let mut sheet = Sheet::new("colours", "Colours of the pictures beside what people feel about colours");
    let pair = |text: &str| (text.to_string(), 3);
    sheet.header = vec![vec![(String::new(), 1), pair("Brightness"), pair("Saturation")]];
    sheet.header.push(Sheet::plain(["Rating", "r", "people", "", "r", "people", ""]));
    let mut words = vec![];
    for (i, rating, (feeling, people)) in known {
        let wanted: Vec<f64> = asked.iter().map(|a| a.0[i]).collect();
        let mut row = vec![rating.clone()];
        for (k, (colour, people)) in ["brightness", "saturation"].iter().zip(people).enumerate() {
            let r = r(&wanted, &asked.iter().map(|a| a.1[3 + k]).collect::<Vec<f64>>());
            let same = r.map(|r| (r > 0.0) == (*people > 0.0));
            let verdict = match (r, same) {
                (None, _) | (_, None) => "-",
                (Some(r), _) if r.abs() < chance => "no more than chance",
                (_, Some(true)) => "as people",
                (_, Some(false)) => "the other way",
            };
            row.extend([number(r, 2), format!("{people:+.2}"), verdict.to_string()]);
            let way = |up: bool| if up { "rises" } else { "falls" };
            let theirs = format!("people's {feeling} {} with it", way(*people > 0.0));
            words.push(match (verdict, r) {
                (_, None) => format!("Whether {colour} goes with {rating} cannot be said: one of them is the same everywhere."),
                ("no more than chance", Some(r)) => {
                    format!("The {colour} of the pictures goes no more with {rating} than chance would have it (r {r:.2}); {theirs}.")
                }
                (verdict, Some(r)) => {
                    let joint = if verdict == "as people" { "and" } else { "but" };
                    format!("The {colour} of the pictures {} with {rating} (r {r:.2}), {joint} {theirs}.", way(r > 0.0))
                }
            });
        }
        sheet.rows.push(row);
    }
    sheet.note = format!(
        "r: correlation, over {} pictures, of the rating that was asked for and a picture's mean luminance, or the mean of its largest \
         channel minus its least. People: the weight that Valdez & Mehrabian 1994 found for patches of one colour. So many \
         independent pictures would come to ±{chance:.2} by chance in one of twenty cases; pictures of neighbouring cells are \
         related, so that theirs is a lenient bound.",
        asked.len()
    );
    Some(Signs { sheet, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rises_and_what_falls_is_said() {
        let names = ["valence", "arousal", "strangeness"].map(String::from);
        // Brightness is valence; saturation falls with arousal, which people's does not.
        let asked: Vec<Asked> = (0..9)
            .map(|i| {
                let [v, a] = [i % 3, i / 3].map(f64::from);
                (vec![v, a, 0.0], [0.0, 0.0, 0.0, v, 2.0 - a])
            })
            .collect();
        let found = signs(&names, &asked).unwrap();
        let rows: Vec<Vec<&str>> = found.sheet.rows.iter().map(|r| r.iter().map(String::as_str).collect()).collect();
        assert_eq!(rows[0], ["valence", "1.00", "+0.69", "as people", "0.00", "+0.22", "no more than chance"]);
        assert_eq!(rows[1], ["arousal", "0.00", "-0.31", "no more than chance", "-1.00", "+0.60", "the other way"]);
        assert_eq!(found.sheet.rows.len(), 2);
        let said = "The brightness of the pictures rises with valence (r 1.00), and people's pleasure rises with it.";
        assert_eq!(found.words[0], said);
        let said = "The saturation of the pictures falls with arousal (r -1.00), but people's arousal rises with it.";
        assert_eq!(found.words[3], said);
        // One colour for all.
        let grey: Vec<Asked> = asked.iter().map(|(x, _)| (x.clone(), [0.5, 0.5, 0.5, 0.5, 0.0])).collect();
        assert!(signs(&names, &grey).unwrap().words.iter().all(|w| w.contains("cannot be said")));
        assert!(signs(&names[2..], &asked).is_none() && signs(&names, &asked[..2]).is_none());
    }

    #[test]
    fn a_red_picture() {
        let [red, green, blue, brightness, saturation] = numbers(&[255, 0, 0, 255, 0, 0]);
        assert_eq!([red, green, blue, saturation], [1.0, 0.0, 0.0, 1.0]);
        assert!((brightness - 0.2126).abs() < 1e-12);
    }
}
