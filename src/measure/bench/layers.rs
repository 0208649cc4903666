//! Layers alone: every distinct op of a family in a training step, on numbers of its own.

use super::record::{BenchRecord, BenchRow, LayerError, LayerWork};
use super::{NetworkBench, milliseconds, time};
use crate::device::{Data, Device, Session};
use crate::error::Result;
use crate::experiment::Events;
use crate::experiment::events::tell;
use crate::graph::{Graph, Io, Op, Role};
use crate::host::ceiling::Ceilings;
use crate::launch::Products;
use crate::ops::mma;
use crate::plan::Pass;
use crate::report::roofline::Point;
use crate::rng::{Rng, Stream};
use crate::shape::{DType, Type};
use crate::table::{number, text_table};
use crate::train::network::TRAIN;
use std::collections::HashMap;
use std::sync::Arc;

/// An op with the types it is used on.
struct Layer {
    /// The first layer that has it, and the op's pass.
    name: String,
    op: Arc<dyn Op>,
    ins: Vec<Type>,
    outs: Vec<Type>,
    uses: usize,
    /// The layer's place in the network.
    place: usize,
}

impl Layer {
    /// Those of a role in a graph, without those that are equal to another; layer by layer.
    fn all(g: &Graph, nodes: &[usize], role: Role) -> Vec<Layer> {
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut found: Vec<(String, Layer)> = vec![];
        for &i in nodes {
            let n = &g.nodes()[i];
            let next = places.len();
            let place = *places.entry(&n.label).or_insert(next);
            if n.op.describe().role != role {
                continue;
            }
            let (ins, outs) = g.io(n);
            let key = format!("{:?} {ins:?}", n.op);
            let name = format!("{} {}", n.label, Pass::of(g, i).name());
            match found.iter_mut().find(|f| f.0 == key) {
                Some((_, known)) => {
                    known.uses += 1;
                    // Adjoints come last layer first.
                    if place < known.place {
                        (known.place, known.name) = (place, name);
                    }
                }
                None => found.push((key, Layer { name, op: n.op.clone(), ins, outs, uses: 1, place })),
            }
        }
        found.sort_by_key(|f| f.1.place);
        found.into_iter().map(|f| f.1).collect()
    }
}

impl NetworkBench<'_> {
    /// Measures each alone, between two measurements of the ceilings: another program's turn must not pass for one.
    pub(super) fn layers(
        &self,
        mut record: BenchRecord,
        role: Role,
        mut device: Box<dyn Device>,
    ) -> Result<(BenchRecord, Vec<Point>)> {
        let products = self.model.precision.products();
        let blueprint = self.model.blueprint(self.batch)?;
        let nodes = blueprint.graph.needed(&blueprint.want[TRAIN]);
        let layers = Layer::all(&blueprint.graph, &nodes, role);
        let before = self.model.ceilings(&mut *device)?;
        for (i, layer) in layers.iter().enumerate() {
            tell!(self.events, "{} of {}: {}", i + 1, layers.len(), layer.name);
            let row;
            (row, device) = one(layer, products, device, self.rounds, self.events)?;
            record.rows.push(row);
        }
        let roof = before.zip(self.model.ceilings(&mut *device)?).map(|(a, b)| a.max(b));
        record.ceilings = roof.map(Into::into);
        let works = record.rows.iter_mut().filter_map(|r| r.work.as_mut());
        works.for_each(|w| w.judge(roof));
        let point = |r: &BenchRow| {
            let w = r.work.as_ref()?;
            let (layer, pass) = r.name.rsplit_once(' ')?;
            Some(Point::new(layer, pass, w.storage, [w.gflop, w.least_gb], r.time.time_median_s))
        };
        let points = record.rows.iter().filter_map(point).collect();
        Ok((record, points))
    }
}

impl LayerWork {
    /// Fills in how near it came to the ceilings.
    fn judge(&mut self, roof: Option<Ceilings>) {
        self.compute_percent = roof.map(|r| 100.0 * self.gflop_per_s / r.arithmetic(self.storage));
        self.memory_percent = roof.map(|r| 100.0 * self.gb_per_s / r.bandwidth());
    }
}

fn one(
    layer: &Layer,
    products: Products,
    device: Box<dyn Device>,
    rounds: usize,
    events: &dyn Events,
) -> Result<(BenchRow, Box<dyn Device>)> {
    let mut g = Graph::default();
    let ins: Vec<_> = layer.ins.iter().enumerate().map(|(i, t)| g.state(&format!("operand {i}"), *t)).collect();
    let outs = g.push_arc(layer.op.clone(), &ins);
    let options = device.options(products);
    let mut session = Session::new(g, &[&outs], options, device)?;
    let numbers: Vec<Vec<f32>> = layer.ins.iter().enumerate().map(|(i, t)| drawn(i, t)).collect();
    for (v, x) in ins.iter().zip(&numbers) {
        session.write(*v, Data::F32(x))?;
    }
    let time = time(&mut session, 0, rounds, events)?;
    let io = Io { ins: &layer.ins, outs: &layer.outs };
    let cost = layer.op.cost(&io);
    let operands: Vec<_> = layer.ins.iter().map(|t| format!("{:?}", t.shape)).collect();
    let (gflop, least_gb) = (cost.flops / 1e9, (cost.read + cost.write) / 1e9);
    let work = LayerWork {
        operands: operands.join(" "),
        uses: layer.uses,
        gflop,
        gflop_per_s: gflop / time.time_median_s,
        least_gb,
        gb_per_s: least_gb / time.time_median_s,
        storage: mma::storage(&*layer.op, &layer.ins),
        compute_percent: None,
        memory_percent: None,
    };
    let error = difference(layer, &io, &numbers, &session.read(outs[0])?);
    let row = BenchRow { name: layer.name.clone(), time, work: Some(work), error, ..BenchRow::default() };
    Ok((row, session.into_device()))
}

/// Numbers in [-1, 1] that the type has, or bytes; they repeat after a prime number of them, for drawing each would take
/// longer than computing with them.
fn drawn(operand: usize, t: &Type) -> Vec<f32> {
    const PERIOD: usize = 1_048_573;
    let mut rng = Rng::new(1, Stream::Test(operand as u32), 0);
    let mut one = || match t.dtype {
        DType::U8 => rng.below(256) as f32,
        dtype => dtype.round(2.0 * rng.uniform() as f64 - 1.0) as f32,
    };
    let n = t.numel();
    let some: Vec<f32> = (0..n.min(PERIOD)).map(|_| one()).collect();
    (0..n).map(|i| some[i % PERIOD]).collect()
}

/// Multiply-adds of the definition that are taken the time for.
const TERMS: f64 = 3e7;

/// How far the first output is from the definition, at elements far apart where all of them would take too long.
fn difference(layer: &Layer, io: &Io, ins: &[Vec<f32>], got: &[f32]) -> Option<LayerError> {
    let terms = layer.op.cost(io).flops / 2.0;
    let some = ((TERMS / (terms / got.len() as f64)) as usize).clamp(4, got.len());
    let at: Vec<usize> = (0..some).map(|i| i * got.len() / some + i % (got.len() / some)).collect();
    let views: Vec<&[f32]> = ins.iter().map(Vec::as_slice).collect();
    let want = layer.op.eval_at(io, &views, &at)?;
    let largest = want.iter().fold(0f64, |m, w| m.max(w.abs())).max(f64::MIN_POSITIVE);
    // `f64::max` would drop a NaN.
    let errors = at.iter().zip(&want).map(|(i, w)| (got[*i] as f64 - w).abs() / largest);
    let worst = errors.fold(0.0, |m: f64, e| if m.is_nan() || e <= m { m } else { e });
    let error_largest = Some(worst).filter(|w| w.is_finite());
    Some(LayerError { error_largest, error_elements: some, output_elements: got.len() })
}

/// The table for people.
pub fn table(record: &BenchRecord) -> String {
    let header = ["layer", "uses", "ms (fastest – slowest)", "n", "GFLOP/s", "%", "GB/s", "%", "error", "of"];
    let row = |r: &BenchRow| {
        let mut cells = vec![r.name.clone()];
        let work = r.work.as_ref();
        cells.push(work.map_or("-".into(), |w| w.uses.to_string()));
        cells.extend([milliseconds(&r.time), r.time.n.to_string()]);
        let rates = [
            work.map(|w| w.gflop_per_s),
            work.and_then(|w| w.compute_percent),
            work.map(|w| w.gb_per_s),
            work.and_then(|w| w.memory_percent),
        ];
        cells.extend(rates.map(|rate| number(rate, 0)));
        cells.extend(match &r.error {
            Some(e) => [
                e.error_largest.map_or("NaN".into(), |e| format!("{e:.1e}")),
                match e.error_elements == e.output_elements {
                    true => "all".into(),
                    false => e.error_elements.to_string(),
                },
            ],
            None => ["-".into(), "0".into()],
        });
        cells
    };
    let rows: Vec<_> = record.rows.iter().map(row).collect();
    let mut text = text_table(&header.map(String::from), &rows);
    if let Some(roof) = &record.ceilings {
        text += &format!("\n{}", roof.text());
    }
    // Half a unit in the last of 8 or 11 places, relative to the number.
    let rounding = match &*record.precision {
        "bf16" => " Activations are rounded to\nbf16, which is up to 3.9e-3 of it; gradients of weights are float32.",
        "tf32" => " Operands are rounded to\ntf32, which is up to 4.9e-4 of each.",
        "fp16" => " Activations are rounded to\nfp16, which is up to 4.9e-4 of it; gradients of weights are float32.",
        _ => "",
    };
    text + &format!(
        "\n{} of {} at batch {} on {}, {}: each layer alone, equal ones once. The error is the largest difference from the\n\
         float64 definition among so many elements of the output, relative to the largest of them.{rounding}\n",
        record.bench,
        record.model.as_deref().unwrap_or("-"),
        record.batch.unwrap_or(1),
        record.device,
        record.precision
    )
}
