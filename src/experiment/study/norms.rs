/*! Whether pictures are rated as the words they are tagged with (Kim et al. 2018, Figure 8): norms of words, such as Warriner,
Kuperman & Brysbaert's, against the ratings of the manifest. */

use crate::data::Manifest;
use crate::data::table::{Table, TableOptions};
use crate::error::{Error, Result};
use crate::report::norms::{Point, svg};
use crate::report::study::Sheet;
use crate::table::number;
use crate::train::resampled::over_groups;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// `[norms]` of a study.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norms {
    /// A CSV with a column `word` and one for each rating, by its name or as Warriner et al. call it; 1 to 9.
    pub file: PathBuf,
    /// The manifest's column of words.
    pub tag: String,
}

/// What Warriner et al. call the means of all raters.
const WARRINER: [(&str, &str); 3] = [("valence", "V.Mean.Sum"), ("arousal", "A.Mean.Sum"), ("dominance", "D.Mean.Sum")];

impl Norms {
    /// The table, and a picture for each rating: name, SVG.
    ///
    /// # Errors
    /// A file or a manifest without these columns, text where numbers belong, no word in common.
    pub fn compare(&self, manifest: &Manifest, seed: u64) -> Result<(Sheet, Vec<(String, String)>)> {
        let table = Table::read(&self.file, &TableOptions::default())?;
        let find = |names: &[&str]| {
            let all = names.iter().find_map(|n| table.header.iter().position(|h| h.eq_ignore_ascii_case(n)));
            all.ok_or_else(|| Error::file(&self.file, format!("has no column `{}`", names[0])).fix("add it"))
        };
        let word = find(&["word"])?;
        let tags = manifest.labels(&self.tag)?;
        let mut sheet =
            Sheet::new("norms", &format!("Ratings of pictures against norms of their words ({})", self.tag));
        sheet.header = vec![Sheet::plain(["", "pictures", "words", "r", "95 %"])];
        let mut drawn = vec![];
        for (t, target) in manifest.targets.iter().enumerate() {
            let own = WARRINER.iter().find(|w| w.0 == target).map(|w| w.1);
            let column = find(&[&[target.as_str()][..], own.as_slice()].concat())?;
            let mut norms: HashMap<String, f64> = HashMap::new();
            for (line, fields) in &table.rows {
                let value = table.number(&fields[column]).ok_or_else(|| {
                    Error::file(&self.file, format!("`{}` is not a number", fields[column]))
                        .at(format!("line {line}, column {}", table.header[column]))
                        .fix("leave words without numbers out")
                })?;
                norms.insert(fields[word].trim().to_lowercase(), value);
            }
            let known = tags.iter().zip(&manifest.rows).filter_map(|(tag, row)| {
                let tag = tag.as_ref()?.trim().to_lowercase();
                Some((*norms.get(&tag)?, f64::from(row.targets[t]), tag, row))
            });
            let known: Vec<_> = known.collect();
            if known.is_empty() {
                let problem = format!("has none of the words in column `{}` of the manifest", self.tag);
                return Err(Error::file(&self.file, problem).fix("name the column of words in `tag`"));
            }
            let [x, y]: [Vec<f64>; 2] = [known.iter().map(|k| k.0).collect(), known.iter().map(|k| k.1).collect()];
            let weight: Vec<f64> = known.iter().map(|k| k.3.weight.into()).collect();
            // Pictures of one word have one norm: words are what is resampled.
            let groups: Vec<Option<String>> = known.iter().map(|k| Some(k.2.clone())).collect();
            let [_, r] = over_groups(&y, &x, &weight, &groups, seed);
            let words = groups.iter().collect::<std::collections::HashSet<_>>().len();
            sheet.rows.push(vec![
                target.clone(),
                known.len().to_string(),
                words.to_string(),
                number(r.value, 3),
                format!("{} to {}", number(r.low, 3), number(r.high, 3)),
            ]);
            let points: Vec<Point> = known.iter().map(|k| (k.0, k.1, format!("{}, {}", k.3.path, k.2))).collect();
            drawn.push((format!("norms-{target}.svg"), svg(&points, target, r.value)));
        }
        sheet.note = "Pearson's r; intervals by 2,000 resamples of words.".into();
        Ok((sheet, drawn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_joined_to_their_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let manifest =
            "path,valence,arousal,tag\na.png,2,5,Snake\nb.png,8,4,kitten\nc.png,7,6, Kitten\nd.png,5,5,zyx\n";
        let manifest = Manifest::read(file("m.csv", manifest), &["valence", "arousal"]).unwrap();
        let norms = |text: &str, tag: &str| {
            let norms = Norms { file: file("w.csv", text), tag: tag.into() };
            norms.compare(&manifest, 1)
        };
        let text = "Word,V.Mean.Sum,A.Mean.Sum\nsnake,3,6\nkitten,7.5,4\nhouse,6,3\n";
        let (sheet, drawn) = norms(text, "tag").unwrap();
        assert_eq!((&sheet.rows[0][..3], sheet.rows.len()), (&["valence", "3", "2"].map(String::from)[..], 2));
        // By hand: words 3, 7.5, 7.5 and pictures 2, 8, 7.
        assert_eq!(sheet.rows[0][3], "0.988");
        assert!(drawn[0].1.matches("<circle").count() == 3 && drawn[0].1.contains("r = 0.988"), "{}", drawn[0].1);
        let e = |text: &str, tag: &str| norms(text, tag).unwrap_err().to_string();
        assert!(e("word,valence\nsnake,x\n", "tag").contains("line 2, column valence: `x` is not a number"));
        assert!(e("word,valence\nsnake,3\n", "tag").contains("no column `arousal`"));
        assert!(e("word,valence,arousal\nbird,3,3\n", "tag").contains("none of the words"));
        assert!(e(text, "nothing").contains("no column `nothing`"));
    }
}
