/*! What an evolution leaves: `atlas.png` with every elite in its cell, `archive.csv`, `colours.csv`, `curves.csv`,
`genomes.json` and `report.html`. */

use super::charts::{self, Chart};
use super::svg::{Axis, Plot, short};
use super::{STYLE, Serde, chart, colours, data_uri, png, render};
use crate::atomic;
use crate::error::{Error, Result};
use crate::evolve::archive::{Axis as Rated, Cells, Elite};
use crate::evolve::cppn::Genome;
use crate::evolve::{Evolution, Fitness, Point};
use minijinja::{Value, context};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

/// Everything there is to tell.
pub struct Evolved<'a> {
    pub evolution: &'a Evolution,
    /// The command.
    pub subtitle: String,
    /// What a reader must know first.
    pub notes: Vec<String>,
    /// What a second opinion is called, and what it says of each elite, in the order of the cells; ratings or probabilities
    /// as the models of the evolution give.
    pub opinions: Vec<(String, Vec<Vec<f32>>)>,
    /// The run card.
    pub facts: Vec<(String, String)>,
}

/// Pixels between two pictures of the atlas.
const GAP: usize = 2;
/// Classes side by side in the atlas.
const ACROSS: usize = 8;

/// Writes all files; the page last.
pub fn write(dir: &Path, e: &Evolved) -> Result<()> {
    let genomes: Vec<_> = e.evolution.archive.filled().map(|(i, x)| json!({"cell": i, "genome": x.solution})).collect();
    let genomes = serde_json::to_string_pretty(&genomes).expect("numbers and names");
    let colours: Vec<[f64; 5]> =
        e.evolution.archive.filled().map(|(_, elite)| colours::numbers(&e.picture(&elite.solution))).collect();
    let signs = signs(e, &colours);
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("atlas.png", atlas(e)?),
        ("archive.csv", archive(e, &colours)?),
        ("curves.csv", curves(&e.evolution.curve).into_bytes()),
        ("genomes.json", (genomes + "\n").into_bytes()),
    ];
    files.extend(signs.as_ref().map(|s| ("colours.csv", s.sheet.csv())));
    files.push(("report.html", html(e, signs)?.into_bytes()));
    files.iter().try_for_each(|(name, bytes)| atomic::write(dir.join(name), |w| w.write_all(bytes)))
}

impl Evolved<'_> {
    fn picture(&self, genome: &Genome) -> Vec<u8> {
        genome.picture(self.evolution.settings.drawing())
    }

    /// Names of what a model says.
    fn outputs(&self) -> Vec<String> {
        match &self.evolution.settings.cells {
            Cells::Grid(axes) => axes.iter().map(|a| format!("{}_1to9", a.rating)).collect(),
            Cells::Classes(names) => names.iter().map(|n| format!("p_{n}")).collect(),
        }
    }
}

/// Where a cell stands: column and row from the upper left. High arousal is above, high valence to the right.
fn place(cells: &Cells, cell: usize) -> [usize; 2] {
    match cells {
        Cells::Classes(_) => [cell % ACROSS, cell / ACROSS],
        Cells::Grid(axes) => match Cells::bins(axes, cell)[..] {
            [x] => [x, 0],
            [x, y, ..] => [x, axes[1].bins - 1 - y],
            [] => [0, 0],
        },
    }
}

/// Columns and rows.
fn extent(cells: &Cells) -> [usize; 2] {
    match cells {
        Cells::Classes(names) => [names.len().min(ACROSS), names.len().div_ceil(ACROSS)],
        Cells::Grid(axes) => [axes.first().map_or(1, |a| a.bins), axes.get(1).map_or(1, |a| a.bins)],
    }
}

/// All elites in their places on grey.
fn atlas(e: &Evolved) -> Result<Vec<u8>> {
    let (side, cells) = (e.evolution.settings.side, &e.evolution.settings.cells);
    let [w, h] = extent(cells).map(|n| n * (side + GAP) + GAP);
    let mut pixels = vec![128u8; w * h * 3];
    for (cell, elite) in e.evolution.archive.filled() {
        let [x, y] = place(cells, cell).map(|n| n * (side + GAP) + GAP);
        for (row, line) in e.picture(&elite.solution).chunks_exact(side * 3).enumerate() {
            pixels[((y + row) * w + x) * 3..][..side * 3].copy_from_slice(line);
        }
    }
    png(pixels, [w, h])
}

/// One row for each filled cell.
fn archive(e: &Evolved, colours: &[[f64; 5]]) -> Result<Vec<u8>> {
    let (s, outputs) = (&e.evolution.settings, e.outputs());
    let mut head: Vec<String> = vec!["cell".into()];
    match &s.cells {
        Cells::Grid(axes) => {
            head.extend(axes.iter().flat_map(|a| ["low", "high"].map(|end| format!("cell_{}_{end}_1to9", a.rating))));
        }
        Cells::Classes(_) => head.push("class".into()),
    }
    head.push(match (&s.cells, s.fitness) {
        (Cells::Classes(_), _) => "fitness_probability".into(),
        (_, Fitness::Centre) => "fitness_minus_distance_points".into(),
        (_, Fitness::Agreement) => "fitness_minus_sd_points".into(),
    });
    head.extend(outputs.iter().cloned());
    head.extend(
        e.opinions.iter().flat_map(|(name, _)| outputs.iter().map(move |o| format!("{}_{o}", name.replace(' ', "_")))),
    );
    head.extend(["hidden_nodes", "edges"].into_iter().chain(colours::COLUMNS).map(String::from));
    let mut table = csv::Writer::from_writer(vec![]);
    let broken = |e: csv::Error| Error::job(format!("cannot write the archive's table: {e}"));
    table.write_record(&head).map_err(broken)?;
    for (row, (index, elite)) in e.evolution.archive.filled().enumerate() {
        let mut line: Vec<String> = vec![index.to_string()];
        match &s.cells {
            Cells::Grid(axes) => {
                for (a, bin) in axes.iter().zip(Cells::bins(axes, index)) {
                    let half = (a.high - a.low) / a.bins as f64 / 2.0;
                    line.extend([a.centre(bin) - half, a.centre(bin) + half].map(|v| v.to_string()));
                }
            }
            Cells::Classes(names) => line.push(names[index].clone()),
        }
        line.push(elite.fitness.to_string());
        line.extend(elite.judged.iter().map(f32::to_string));
        line.extend(e.opinions.iter().flat_map(|(_, all)| all[row].iter().map(f32::to_string)));
        let (nodes, edges) = elite.solution.size();
        line.extend([nodes.to_string(), edges.to_string()]);
        line.extend(colours[row].map(|v| v.to_string()));
        table.write_record(&line).map_err(broken)?;
    }
    table.into_inner().map_err(|e| Error::job(format!("cannot write the archive's table: {e}")))
}

fn curves(points: &[Point]) -> String {
    let mut text =
        "generation,candidates,filled_cells,coverage_percent,qd_score,new_cells,better_elites,beyond\n".to_string();
    for (generation, p) in points.iter().enumerate() {
        let _ = writeln!(
            text,
            "{generation},{},{},{},{},{},{},{}",
            p.candidates, p.filled_cells, p.coverage_percent, p.qd_score, p.new_cells, p.better_elites, p.beyond
        );
    }
    text
}

/// How the colours of elites go with the middles of their cells; None for classes.
fn signs(e: &Evolved, colours: &[[f64; 5]]) -> Option<colours::Signs> {
    let Cells::Grid(axes) = &e.evolution.settings.cells else { return None };
    let middle = |cell| axes.iter().zip(Cells::bins(axes, cell)).map(|(a, bin)| a.centre(bin)).collect();
    let asked = e.evolution.archive.filled().zip(colours).map(|((cell, _), colours)| (middle(cell), *colours));
    let ratings: Vec<String> = axes.iter().map(|a| a.rating.clone()).collect();
    colours::signs(&ratings, &asked.collect::<Vec<_>>())
}

/// What is said of an elite.
fn said(e: &Evolved, row: usize, elite: &Elite<Genome>) -> Vec<String> {
    let of = |values: &[f32]| match &e.evolution.settings.cells {
        Cells::Grid(axes) => {
            let each = axes.iter().zip(values).map(|(a, v)| format!("{} {}", a.rating, short(f64::from(*v), 2)));
            each.collect::<Vec<_>>().join(", ")
        }
        Cells::Classes(names) => {
            let best = (0..names.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]).then(b.cmp(a))).unwrap_or(0);
            format!("{} {} %", names[best], short(f64::from(100.0 * values[best]), 1))
        }
    };
    let opinions = e.opinions.iter().map(|(name, all)| format!("{name}: {}", of(&all[row])));
    std::iter::once(of(&elite.judged)).chain(opinions).collect()
}

/// The elites on the plane of the first two ratings, or along one.
fn plane(e: &Evolved, axes: &[Rated]) -> Result<Chart> {
    let draw = |class: &str, width: f64| -> Result<String> {
        let axis = |a: &Rated| Axis::ratings(&a.rating, a.low, a.high);
        let single = Axis::whole("", 0.0, 1.0, 1);
        let rows = axes.get(1).map_or(1, |a| a.bins) as f64;
        let side = (width - 53.0) / axes[0].bins as f64;
        let height = rows * side + 58.0;
        let mut p = Plot::new(width, height, axis(&axes[0]), axes.get(1).map_or(single, axis));
        for (row, (cell, elite)) in e.evolution.archive.filled().enumerate() {
            let bins = Cells::bins(axes, cell);
            let at = (axes[0].centre(bins[0]), axes.get(1).map_or(0.5, |a| a.centre(bins[1])));
            let side_px = e.evolution.settings.side;
            let uri = data_uri(&png(e.picture(&elite.solution), [side_px, side_px])?)?;
            p.picture(at, (side - 1.0).floor(), &uri, &said(e, row, elite).join("; "));
        }
        Ok(p.finish(class, "The best picture of each cell, in its place."))
    };
    Ok(Chart { svg: draw("pictured", 860.0)?, narrow: String::new(), note: String::new() })
}

/// One measure over the candidates.
fn curve(points: &[Point], label: &str, f: impl Fn(&Point) -> f64) -> Chart {
    let line: Vec<(f64, f64)> = points.iter().map(|p| (p.candidates as f64, f(p))).collect();
    let (first, last) = (line[0], line[line.len() - 1]);
    let described =
        format!("{label}: {} after {} candidates, {} after {}.", short(first.1, 1), first.0, short(last.1, 1), last.0);
    charts::progress(["candidates", label], [last.0.max(1.0), last.1.max(1e-6)], &line, &described)
}

fn html(e: &Evolved, signs: Option<colours::Signs>) -> Result<String> {
    let s = &e.evolution.settings;
    let plane = match &s.cells {
        Cells::Grid(axes) => Some(chart(plane(e, axes)?)),
        Cells::Classes(_) => None,
    };
    let elites = match &s.cells {
        Cells::Grid(_) => vec![],
        Cells::Classes(names) => {
            let one = |(row, (cell, elite)): (usize, (usize, &Elite<Genome>))| -> Result<Value> {
                let image = data_uri(&png(e.picture(&elite.solution), [s.side, s.side])?)?;
                Ok(context! { image, name => names[cell].as_str(), lines => said(e, row, elite) })
            };
            e.evolution.archive.filled().enumerate().map(one).collect::<Result<_>>()?
        }
    };
    let points = &e.evolution.curve;
    let curves: Vec<Value> = if points.is_empty() {
        vec![]
    } else {
        let coverage = curve(points, "coverage, %", |p| p.coverage_percent);
        [coverage, curve(points, "QD score", |p| p.qd_score)].map(chart).into()
    };
    let page = context! {
        style => STYLE,
        title => "Pictures that the model is made to see",
        subtitle => e.subtitle.as_str(),
        notes => &e.notes,
        filled => e.evolution.archive.filled().count(),
        cells => s.cells.count(),
        plane,
        elites,
        colours => signs.map(|s| s.shown()),
        curves,
        facts => Serde(&e.facts),
        version => env!("CARGO_PKG_VERSION"),
    };
    render(include_str!("evolved.html"), page)
}
