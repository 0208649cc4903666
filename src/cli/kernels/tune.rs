//! `kernels tune`: measures every tile of every product of a network on a GPU, in the place where it runs, and keeps the
//! fastest for that GPU.

use crate::cli::profile::timed::median;
use crate::cli::ranges::{MANY, whole};
use crate::cli::reading::batch;
use crate::cli::subject::{Chosen, Run, Scale, Subject};
use crate::cli::{Bar, Compute, output, stopped};
use crate::device::GpuSpec;
use crate::device::tuning::{MeasuredTile, TileTable};
use crate::error::{Error, Result};
use crate::launch::Code;
use crate::launch::choices::{Product, Tiles};
use crate::launch::estimate::Limits;
use crate::progress::Progress;
use crate::table::text_table;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Args)]
pub struct Command {
    #[arg(long, value_enum, default_value_t = Run::Train)]
    pass: Run,
    #[arg(long, default_value = "25", value_parser = batch, value_name = "N")]
    batch: usize,
    /// Measured runs of each tile after one that is not; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = whole::<u32>(1..=MANY))]
    repeat: u32,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: Subject,
    #[command(flatten)]
    compute: Compute,
}

/// What another tile must save to be taken instead of the rule's: less is noise.
const WORTH: f64 = 0.02;

/// One product, and what each tile took.
struct Tried {
    product: Product,
    /// Launches of one run.
    launches: usize,
    /// The rule's tile.
    rule: usize,
    /// The kernel's variants, and seconds of their launches.
    tiles: Vec<(&'static [i64], Vec<f64>)>,
}

#[derive(Serialize)]
struct Row {
    product: String,
    /// Of one run.
    launches: usize,
    #[serde(flatten)]
    measured: MeasuredTile,
    rule: BTreeMap<String, i64>,
}

#[derive(Serialize)]
struct Report {
    device: String,
    model: String,
    precision: &'static str,
    pass: Run,
    batch: usize,
    file: String,
    /// Of all products of a run, with the rule's tiles and with those that are kept.
    rule_us: f64,
    kept_us: f64,
    products: Vec<Row>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let chosen = self.model.choose(1, Scale::Full)?;
        let spec = self.compute.open()?.spec();
        let Some(GpuSpec { model, limits, .. }) = spec.gpu.filter(|gpu| gpu.has_clock) else {
            return Err(Error::usage(format!("tiles are measured on a GPU, and {} is none", spec.name))
                .fix("use `--device cuda`; `deep-affect kernels launches` shows what the rule takes"));
        };
        // What was measured of other products stays.
        let mut table = TileTable::of(&model)?.unwrap_or_else(|| TileTable::new(model.clone()));
        let mut tried: Vec<Tried> = vec![];
        let (bar, mut turn, mut turns) = (Bar::new(), 0, 1);
        while turn < turns {
            let tiles = tried.iter().map(|t| (t.product.to_string(), t.product.named(t.at(turn)))).collect();
            self.turn(&chosen, &limits, tiles, &mut tried)?;
            if turn == 0 {
                turns = tried.iter().map(|t| t.tiles.len()).max().unwrap_or(0);
                bar.start("tiles", turns as u64);
            }
            bar.inc();
            turn += 1;
            if stopped() {
                return Err(Error::interrupted("stopped while measuring; nothing was kept"));
            }
        }
        bar.done();
        let products: Vec<Row> = tried.iter_mut().map(Tried::row).collect();
        table.products.extend(products.iter().map(|r| (r.product.clone(), r.measured.clone())));
        let file = table.write()?.display().to_string();
        let sum = |us: fn(&Row) -> f64| products.iter().map(|r| r.launches as f64 * us(r)).sum();
        let report = Report {
            device: model,
            model: chosen.name.clone(),
            precision: chosen.precision.name(),
            pass: self.pass,
            batch: self.batch,
            file,
            rule_us: sum(|r| r.measured.rule_us),
            kept_us: sum(|r| r.measured.median_us),
            products,
        };
        let json = || serde_json::to_string_pretty(&report).expect("plain data") + "\n";
        output::print(&if self.json { json() } else { report.text() })
    }

    /// Measures every launch with these tiles; the first turn, with the rule's, finds the products.
    fn turn(&self, chosen: &Chosen, limits: &Limits, tiles: Tiles, tried: &mut Vec<Tried>) -> Result<()> {
        let device = self.compute.open_tiled(Some(tiles))?;
        let (mut session, plan) = chosen.measured(self.pass, self.batch, device)?;
        let first = tried.is_empty();
        // By launch: the product and the tile of it.
        let mut places = vec![];
        for s in session.device().launches(session.graph(), &session.plans()[plan])? {
            let Code::Kernel(call) = &s.launch.code else { unreachable!("a GPU runs kernels") };
            let Some(product) = &call.product else {
                places.push(None);
                continue;
            };
            let known = tried.iter().position(|t| t.product == *product);
            let at = known.unwrap_or_else(|| {
                let tiles: Vec<_> = product.candidates(limits).into_iter().map(|v| (v, vec![])).collect();
                let rule = tiles.iter().position(|t| t.0 == call.consts).expect("one of them");
                tried.push(Tried { product: product.clone(), launches: 0, rule, tiles });
                tried.len() - 1
            });
            tried[at].launches += first as usize;
            places.push(Some((at, tried[at].tiles.iter().position(|t| t.0 == call.consts).expect("one of them"))));
        }
        for run in 0..=self.repeat {
            let mut places = places.iter();
            session.profile(plan, &mut |p| {
                if let (Some(Some((at, tile))), true) = (places.next(), run > 0) {
                    tried[*at].tiles[*tile].1.push(p.seconds);
                }
            })?;
        }
        Ok(())
    }
}

impl Tried {
    /// What turn `turn` takes: every tile has one, and the rule's the first.
    fn at(&self, turn: usize) -> &'static [i64] {
        self.tiles[(self.rule + turn) % self.tiles.len()].0
    }

    fn row(&mut self) -> Row {
        let us: Vec<f64> = self.tiles.iter_mut().map(|t| 1e6 * median(&mut t.1)).collect();
        let best = (0..us.len()).min_by(|a, b| us[*a].total_cmp(&us[*b])).expect("the rule's at least");
        let kept = if us[best] < (1.0 - WORTH) * us[self.rule] { best } else { self.rule };
        let n = [kept, self.rule].map(|i| self.tiles[i].1.len());
        Row {
            product: self.product.to_string(),
            launches: self.launches,
            measured: MeasuredTile {
                tile: self.product.named(self.tiles[kept].0),
                median_us: us[kept],
                rule_us: us[self.rule],
                n,
            },
            rule: self.product.named(self.tiles[self.rule].0),
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let header = ["product", "launches", "by the rule", "us", "kept", "us", "n"];
        let size = |tile: &BTreeMap<String, i64>| ["BM", "BN", "BK"].map(|c| tile[c].to_string()).join("x");
        let row = |r: &Row| {
            let m = &r.measured;
            vec![
                r.product.clone(),
                r.launches.to_string(),
                size(&r.rule),
                format!("{:.1}", m.rule_us),
                size(&m.tile),
                format!("{:.1}", m.median_us),
                m.n[0].to_string(),
            ]
        };
        let rows: Vec<_> = self.products.iter().map(row).collect();
        let pass = self.pass.text();
        text_table(&header.map(String::from), &rows)
            + &format!(
                "\n{}, {pass} at batch {} in {} on {}: the products take {:.3} ms by the rule and {:.3} ms with the tiles \
                 that are kept in {}\n",
                self.model,
                self.batch,
                self.precision,
                self.device,
                self.rule_us / 1e3,
                self.kept_us / 1e3,
                self.file
            )
    }
}
