/*! What a generator leaves: `grid.png` with a picture for each cell and its ratings below, `cells.csv` with the error of each
cell, `colours.csv`, `curves.csv`, `measures.json` and `report.html`. */

use super::charts::{self, Chart};
use super::svg::{Axis, Plot, short};
use super::{STYLE, Serde, chart, colours, data_uri, png, render};
use crate::atomic;
use crate::error::{Error, Result};
use crate::train::generate::Losses;
use minijinja::context;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// A cell of the plane of the first two ratings, or of one, and what was made for its middle.
pub struct Cell {
    /// All ratings that were asked for, in points.
    pub wanted: Vec<f64>,
    /// RGB bytes [side, side, 3], one for each noise; at least one.
    pub pictures: Vec<Vec<u8>>,
    /// What each model says of each picture, in the order of [`Generated::models`].
    pub rated: Vec<Vec<Vec<f32>>>,
}

/// Everything there is to tell.
pub struct Generated<'a> {
    pub cells: Vec<Cell>,
    /// Parts of the plane along the first rating, and the second.
    pub parts: [usize; 2],
    /// Side of the pictures in pixels.
    pub side: usize,
    /// Names of the ratings.
    pub targets: &'a [String],
    /// The range of all ratings that were asked for, in points.
    pub range: [f64; 2],
    /// Who rated: the model that guided, then the judge if there is one.
    pub models: Vec<String>,
    /// After each step.
    pub curve: &'a [Losses],
    /// Other pictures for the same cells, `evolve`'s.
    pub elites: Vec<(usize, Elite)>,
    pub subtitle: String,
    /// What a reader must know first.
    pub notes: Vec<String>,
    pub facts: Vec<(String, String)>,
}

/// A picture that evolution found for a cell.
pub struct Elite {
    /// RGB bytes [side, side, 3].
    pub picture: Vec<u8>,
    pub side: usize,
    /// By each model, as [`Cell::rated`].
    pub rated: Vec<Vec<f32>>,
}

/// What it comes to, in points, points² and levels of 255.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measures {
    /// By each model: the mean over cells, noises and ratings of the squared distance from what was asked for.
    pub squared_error_points2: Vec<(String, f64)>,
    /// The least that any single picture could come to, were it shown for every cell: the variance of what was asked for.
    pub constant_picture_points2: f64,
    /// The same error of evolved pictures over the cells that have one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elites_points2: Vec<(String, f64)>,
    /// Mean absolute difference of two pictures of a cell, levels of 255.
    pub within_cells_levels: f64,
    /// Of pictures of two cells, for one noise.
    pub between_cells_levels: f64,
}

/// Mean absolute difference below which pictures look the same to people, levels of 255.
pub const ALIKE: f64 = 2.0;

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), v| (sum + v, n + 1));
    if n == 0 { 0.0 } else { sum / n as f64 }
}

/// Mean squared distance over ratings.
fn squared(wanted: &[f64], rated: &[f32]) -> f64 {
    mean(wanted.iter().zip(rated).map(|(w, r)| (f64::from(*r) - w).powi(2)))
}

/// Mean absolute difference of the pictures of all pairs.
fn apart(pictures: &[&[u8]]) -> f64 {
    let pair = |a: &[u8], b: &[u8]| mean(a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))));
    mean((0..pictures.len()).flat_map(|i| pictures[..i].iter().map(move |other| pair(pictures[i], other))))
}

impl Cell {
    /// Mean squared error of a model's ratings.
    fn error(&self, model: usize) -> f64 {
        mean(self.rated[model].iter().map(|r| squared(&self.wanted, r)))
    }

    /// Mean over the pictures of a model's rating.
    fn rating(&self, model: usize, target: usize) -> f64 {
        mean(self.rated[model].iter().map(|r| f64::from(r[target])))
    }

    /// Means over the pictures of the numbers of [`colours::COLUMNS`].
    fn colours(&self) -> [f64; 5] {
        let each: Vec<[f64; 5]> = self.pictures.iter().map(|p| colours::numbers(p)).collect();
        std::array::from_fn(|i| mean(each.iter().map(|c| c[i])))
    }

    fn apart(&self) -> f64 {
        apart(&self.pictures.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

impl Generated<'_> {
    pub fn measures(&self) -> Measures {
        let over_cells = |f: &dyn Fn(&Cell) -> f64| mean(self.cells.iter().map(f));
        let variance = |t: usize| {
            let centre = over_cells(&|c| c.wanted[t]);
            over_cells(&|c| (c.wanted[t] - centre).powi(2))
        };
        let elite = |m: usize| mean(self.elites.iter().map(|(i, e)| squared(&self.cells[*i].wanted, &e.rated[m])));
        let named = |f: &dyn Fn(usize) -> f64| {
            self.models.iter().enumerate().map(|(m, name)| (name.clone(), f(m))).collect::<Vec<_>>()
        };
        let first: Vec<&[u8]> = self.cells.iter().map(|c| c.pictures[0].as_slice()).collect();
        Measures {
            squared_error_points2: named(&|m| over_cells(&|c| c.error(m))),
            constant_picture_points2: mean((0..self.targets.len()).map(variance)),
            elites_points2: if self.elites.is_empty() { vec![] } else { named(&elite) },
            within_cells_levels: over_cells(&Cell::apart),
            between_cells_levels: apart(&first),
        }
    }
}

/// Writes all files; the page last.
pub fn write(dir: &Path, g: &Generated) -> Result<()> {
    let json = serde_json::to_string_pretty(&g.measures()).expect("numbers and names");
    let colours: Vec<[f64; 5]> = g.cells.iter().map(Cell::colours).collect();
    let signs = signs(g, &colours);
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("grid.png", grid(g)?),
        ("cells.csv", cells(g, &colours)?),
        ("curves.csv", curves(g.curve).into_bytes()),
        ("measures.json", (json + "\n").into_bytes()),
    ];
    files.extend(signs.as_ref().map(|s| ("colours.csv", s.sheet.csv())));
    files.push(("report.html", html(g, signs)?.into_bytes()));
    files.iter().try_for_each(|(name, bytes)| atomic::write(dir.join(name), |w| w.write_all(bytes)))
}

/// Where a cell stands: column, and row from above. High arousal is above, high valence to the right.
fn place(g: &Generated, cell: usize) -> [usize; 2] {
    [cell / g.parts[1], g.parts[1] - 1 - cell % g.parts[1]]
}

/// Digits of 3 x 5 pixels, a row of three bits after another from the upper left; then the point.
const DIGITS: [u16; 11] = [
    0b111_101_101_101_111,
    0b010_110_010_010_111,
    0b111_001_111_100_111,
    0b111_001_111_001_111,
    0b101_101_111_001_001,
    0b111_100_111_001_111,
    0b111_100_111_101_111,
    0b111_001_010_010_010,
    0b111_101_111_101_111,
    0b111_101_111_001_111,
    0b000_000_000_000_010,
];

/// The first picture of each cell, below it what the guide says of it, in points.
fn grid(g: &Generated) -> Result<Vec<u8>> {
    const GAP: usize = 4;
    let captions: Vec<String> = g
        .cells
        .iter()
        .map(|c| c.rated[0][0].iter().take(2).map(|r| format!("{r:.1}")).collect::<Vec<_>>().join(" "))
        .collect();
    let longest = captions.iter().map(|c| c.chars().count()).max().unwrap_or(0);
    let large = if 8 * longest <= g.side { 2 } else { 1 };
    let [across, down] = [g.side.max(4 * large * longest) + GAP, g.side + 5 * large + 2 * GAP];
    let [w, h] = [g.parts[0] * across + GAP, g.parts[1] * down + GAP];
    let mut pixels = vec![255u8; w * h * 3];
    for (i, (cell, caption)) in g.cells.iter().zip(&captions).enumerate() {
        let [column, row] = place(g, i);
        let [x, y] = [column * across + GAP, row * down + GAP];
        for (line, from) in cell.pictures[0].chunks_exact(g.side * 3).enumerate() {
            pixels[((y + line) * w + x) * 3..][..g.side * 3].copy_from_slice(from);
        }
        for (at, c) in caption.chars().enumerate() {
            let Some(&bits) = c.to_digit(10).map(|d| d as usize).or((c == '.').then_some(10)).map(|d| &DIGITS[d])
            else {
                continue;
            };
            for bit in (0..15).filter(|bit| bits >> (14 - bit) & 1 == 1) {
                for dot in 0..large * large {
                    let column = x + large * (4 * at + bit % 3) + dot % large;
                    let row = y + g.side + GAP / 2 + large * (bit / 3) + dot / large;
                    pixels[(row * w + column) * 3..][..3].fill(0);
                }
            }
        }
    }
    png(pixels, [w, h])
}

/// One row for each cell.
fn cells(g: &Generated, colours: &[[f64; 5]]) -> Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(vec![]);
    let broken = |e: csv::Error| Error::job(format!("cannot write the table of cells: {e}"));
    let mut head: Vec<String> = g.targets.iter().map(|t| format!("wanted_{t}_1to9")).collect();
    for model in g.models.iter().map(|m| m.replace(' ', "_")) {
        head.extend(g.targets.iter().map(|t| format!("{model}_{t}_1to9")));
        head.push(format!("{model}_squared_error_points2"));
    }
    head.extend(["pictures", "apart_levels"].into_iter().chain(colours::COLUMNS).map(String::from));
    table.write_record(&head).map_err(broken)?;
    for (c, colours) in g.cells.iter().zip(colours) {
        let mut row: Vec<String> = c.wanted.iter().map(f64::to_string).collect();
        for m in 0..g.models.len() {
            row.extend((0..g.targets.len()).map(|t| c.rating(m, t).to_string()));
            row.push(c.error(m).to_string());
        }
        row.extend([c.pictures.len().to_string(), c.apart().to_string()]);
        row.extend(colours.map(|v| v.to_string()));
        table.write_record(&row).map_err(broken)?;
    }
    table.into_inner().map_err(|e| Error::job(format!("cannot write the table of cells: {e}")))
}

/// One loss of a step.
type Of = fn(&Losses) -> Option<f64>;

/// Names of the losses.
const LOSSES: [(&str, Of); 4] = [
    ("guide_points2", |l| Some(l.guide)),
    ("apart", |l| l.apart),
    ("generator_nats", |l| l.adversarial),
    ("discriminator_nats", |l| l.discriminator),
];

fn curves(points: &[Losses]) -> String {
    let known: Vec<_> = LOSSES.iter().filter(|(_, f)| points.iter().any(|p| f(p).is_some())).collect();
    let mut text = known.iter().fold("step".to_string(), |text, (name, _)| text + "," + name) + "\n";
    for (step, p) in (1..).zip(points) {
        let _ = write!(text, "{step}");
        known.iter().for_each(|(_, f)| text += &f(p).map_or(",".into(), |v| format!(",{v}")));
        text.push('\n');
    }
    text
}

/// Means over so many neighbouring steps that a curve has at most 200 points.
fn curve(points: &[Losses], label: &str, f: impl Fn(&Losses) -> Option<f64>) -> Option<Chart> {
    let several = points.len().div_ceil(200).max(1);
    let middle = |(i, some): (usize, &[Losses])| {
        let value = mean(some.iter().filter_map(&f));
        ((i * several) as f64 + (some.len() as f64 + 1.0) / 2.0, value)
    };
    points.iter().find_map(&f)?;
    let line: Vec<(f64, f64)> = points.chunks(several).enumerate().map(middle).collect();
    let (first, last, top) = (line[0], line[line.len() - 1], line.iter().map(|p| p.1).fold(1e-6, f64::max));
    let described =
        format!("{label}: {} at step {}, {} at step {}.", short(first.1, 2), first.0, short(last.1, 2), last.0);
    Some(charts::progress(["step", label], [points.len() as f64, top], &line, &described))
}

/// What models say of a picture.
fn said(g: &Generated, rated: &mut dyn Iterator<Item = &[f32]>) -> Vec<String> {
    let ratings = |r: &[f32]| {
        let each = g.targets.iter().zip(r).map(|(t, r)| format!("{t} {}", short(f64::from(*r), 2)));
        each.collect::<Vec<_>>().join(", ")
    };
    g.models.iter().zip(rated).map(|(name, r)| format!("{name}: {}", ratings(r))).collect()
}

/// Pictures in the middle of their cells: cell, picture, its side, by each model what it says.
type Shown<'a> = (usize, &'a [u8], usize, Vec<&'a [f32]>);

fn plane(g: &Generated, pictures: &[Shown], described: &str) -> Result<Chart> {
    let [low, high] = g.range;
    let axis = |t: Option<&String>| t.map_or_else(|| Axis::whole("", 0.0, 1.0, 1), |t| Axis::ratings(t, low, high));
    let side = (860.0 - 53.0) / g.parts[0] as f64;
    let height = side * g.parts[1] as f64 + 58.0;
    let mut p = Plot::new(860.0, height, axis(g.targets.first()), axis(g.targets.get(1)));
    // Below a picture there is room for two numbers within its cell.
    let shown = (side - 26.0).max(side * 0.7).floor();
    for (cell, picture, pixels, rated) in pictures {
        let wanted = &g.cells[*cell].wanted;
        let at = (wanted[0], wanted.get(1).copied().unwrap_or(0.5));
        let uri = data_uri(&png(picture.to_vec(), [*pixels; 2])?)?;
        p.picture(at, shown, &uri, &said(g, &mut rated.iter().copied()).join("; "));
        let numbers: Vec<String> = rated[0].iter().take(2).map(|r| format!("{r:.1}")).collect();
        if side >= 50.0 {
            p.text("tick mid", at, (0.0, shown / 2.0 + 10.0), &numbers.join(" "));
        }
    }
    Ok(Chart { svg: p.finish("pictured", described), narrow: String::new(), note: String::new() })
}

/// How the colours of pictures go with what was asked for.
fn signs(g: &Generated, colours: &[[f64; 5]]) -> Option<colours::Signs> {
    let asked = g.cells.iter().zip(colours).map(|(c, colours)| (c.wanted.clone(), *colours));
    colours::signs(g.targets, &asked.collect::<Vec<_>>())
}

fn html(g: &Generated, signs: Option<colours::Signs>) -> Result<String> {
    let made: Vec<Shown> = g
        .cells
        .iter()
        .enumerate()
        .map(|(i, c)| (i, &c.pictures[0][..], g.side, c.rated.iter().map(|r| &r[0][..]).collect()))
        .collect();
    let elites: Vec<Shown> =
        g.elites.iter().map(|(i, e)| (*i, &e.picture[..], e.side, e.rated.iter().map(|r| &r[..]).collect())).collect();
    let evolved = match elites.is_empty() {
        true => None,
        false => Some(chart(plane(g, &elites, "Evolved pictures for the same cells.")?)),
    };
    let labels = ["error of the guide, points²", "distance of pairs", "generator, nats", "discriminator, nats"];
    let curves = labels.iter().zip(LOSSES).filter_map(|(label, (_, f))| curve(g.curve, label, f)).map(chart);
    let measures = g.measures();
    let row = |(name, error): &(String, f64)| {
        let elites = measures.elites_points2.iter().find(|(n, _)| n == name).map(|e| short(e.1, 2));
        let fields = [Some(name.clone()), Some(short(*error, 2)), elites];
        fields.into_iter().flatten().collect::<Vec<String>>()
    };
    let page = context! {
        style => STYLE,
        title => "Pictures that a generator makes for ratings",
        subtitle => g.subtitle.as_str(),
        notes => &g.notes,
        plane => chart(plane(g, &made, "The first picture made for each cell, in its place.")?),
        evolved,
        evolved_cells => g.elites.len(),
        errors => measures.squared_error_points2.iter().map(row).collect::<Vec<_>>(),
        constant => short(measures.constant_picture_points2, 2),
        colours => signs.map(|s| s.shown()),
        curves => curves.collect::<Vec<_>>(),
        facts => Serde(&g.facts),
        version => env!("CARGO_PKG_VERSION"),
    };
    render(include_str!("generated.html"), page)
}
