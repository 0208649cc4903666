//! Measures every tile of every product of a network on a GPU, in the place where it runs, and keeps the fastest for that GPU.

use crate::device::GpuSpec;
use crate::device::tuning::{MeasuredTile, TileTable};
use crate::error::{Error, Result, option};
use crate::experiment::Events;
use crate::experiment::config::Compute;
use crate::launch::Code;
use crate::launch::choices::{Product, Tiles};
use crate::launch::estimate::Limits;
use crate::measure::Purpose;
use crate::measure::model::ResolvedModel;
use crate::measure::profile::median;
use crate::table::text_table;
use serde::Serialize;
use std::collections::BTreeMap;

/// A network whose products are to be tuned.
pub struct Tuning<'a> {
    pub model: &'a ResolvedModel,
    pub purpose: Purpose,
    pub batch: usize,
    /// Measured runs of each tile after one that is not; the median counts.
    pub repeat: u32,
    pub compute: &'a Compute,
    pub events: &'a dyn Events,
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
pub struct TunedProduct {
    product: String,
    /// Of one run.
    launches: usize,
    #[serde(flatten)]
    measured: MeasuredTile,
    rule: BTreeMap<String, i64>,
}

/// Which tiles were kept.
#[derive(Serialize)]
pub struct Tuned {
    device: String,
    model: String,
    precision: &'static str,
    pass: Purpose,
    batch: usize,
    file: String,
    /// Of all products of a run, with the rule's tiles and with those that are kept.
    rule_us: f64,
    kept_us: f64,
    products: Vec<TunedProduct>,
}

impl Tuning<'_> {
    /// # Errors
    /// A device without a clock of its own, a model that does not fit into memory, or a stop.
    pub fn run(&self) -> Result<Tuned> {
        let spec = self.compute.open(self.events)?.spec();
        let Some(GpuSpec { model, limits, .. }) = spec.gpu.filter(|gpu| gpu.has_clock) else {
            let cuda = option("device");
            return Err(Error::usage(format!("tiles are measured on a GPU, and {} is none", spec.name))
                .fix(format!("use `{cuda} cuda`; `deep-affect kernels launches` shows what the rule takes")));
        };
        // What was measured of other products stays.
        let mut table = TileTable::of(&model)?.unwrap_or_else(|| TileTable::new(model.clone()));
        let mut tried: Vec<Tried> = vec![];
        let (mut turn, mut turns) = (0, 1);
        while turn < turns {
            let tiles = tried.iter().map(|t| (t.product.to_string(), t.product.named(t.at(turn)))).collect();
            self.turn(&limits, tiles, &mut tried)?;
            if turn == 0 {
                turns = tried.iter().map(|t| t.tiles.len()).max().unwrap_or(0);
                self.events.start("tiles", turns as u64);
            }
            self.events.inc();
            turn += 1;
            if self.events.stopped() {
                return Err(Error::interrupted("stopped while measuring; nothing was kept"));
            }
        }
        self.events.done();
        let products: Vec<TunedProduct> = tried.iter_mut().map(Tried::row).collect();
        table.products.extend(products.iter().map(|r| (r.product.clone(), r.measured.clone())));
        let file = table.write()?.display().to_string();
        let sum = |us: fn(&TunedProduct) -> f64| products.iter().map(|r| r.launches as f64 * us(r)).sum();
        Ok(Tuned {
            device: model,
            model: self.model.name.clone(),
            precision: self.model.precision.name(),
            pass: self.purpose,
            batch: self.batch,
            file,
            rule_us: sum(|r| r.measured.rule_us),
            kept_us: sum(|r| r.measured.median_us),
            products,
        })
    }

    /// Measures every launch with these tiles; the first turn, with the rule's, finds the products.
    fn turn(&self, limits: &Limits, tiles: Tiles, tried: &mut Vec<Tried>) -> Result<()> {
        let device = self.compute.open_tiled(Some(tiles), self.events)?;
        let (mut session, plan) = self.model.measured(self.purpose, self.batch, device)?;
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

    fn row(&mut self) -> TunedProduct {
        let us: Vec<f64> = self.tiles.iter_mut().map(|t| 1e6 * median(&mut t.1)).collect();
        let best = (0..us.len()).min_by(|a, b| us[*a].total_cmp(&us[*b])).expect("the rule's at least");
        let kept = if us[best] < (1.0 - WORTH) * us[self.rule] { best } else { self.rule };
        let n = [kept, self.rule].map(|i| self.tiles[i].1.len());
        TunedProduct {
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

impl Tuned {
    /// The table for people.
    pub fn text(&self) -> String {
        let header = ["product", "launches", "by the rule", "us", "kept", "us", "n"];
        let size = |tile: &BTreeMap<String, i64>| ["BM", "BN", "BK"].map(|c| tile[c].to_string()).join("x");
        let row = |r: &TunedProduct| {
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
