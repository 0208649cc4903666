//! Work on many parameters that becomes one launch: their updates, and the penalties on them.

use super::super::arith::Add;
use super::super::dense::{self, Wgrad};
use super::super::loss::{L2, L2Grad, L2Sum};
use super::super::optim::{Own, SEGMENTS, Sgd, Update, Updates};
use super::{Uses, is, join};
use crate::graph::{Graph, Op, Value};
use crate::shape::Type;

/// Bytes of gradients that wait for one another, at most: a launch of this size keeps a GPU busy a hundred times as long as
/// it takes to launch, and the arena does not grow.
const WAITING: usize = 64 << 20;

/// l2 + l2 + l2 + ... becomes l2.sum.
pub(super) fn penalties(g: &mut Graph, uses: &Uses) {
    let mut within = vec![];
    // The last sum of a chain comes first.
    for &at in uses.needed.iter().rev() {
        if within.contains(&at) {
            continue;
        }
        let Some((sums, terms)) = chain(g, uses, at) else { continue };
        let first = terms.iter().map(|t| t.0).min().expect("a sum has terms");
        let (lambdas, ins) = terms.iter().map(|&(_, lambda, w)| (lambda, w)).unzip::<_, _, Vec<f32>, Vec<Value>>();
        let out = g.nodes()[at].outs[0];
        join(g, [first, at], L2Sum { lambdas }, &ins, out);
        within.extend(sums);
    }
}

/// If node `at` is the last of a chain of sums of penalties: the sums, and of every penalty, first to last, its node, lambda
/// and weight.
#[allow(clippy::type_complexity)] // It is taken apart at once.
fn chain(g: &Graph, uses: &Uses, at: usize) -> Option<(Vec<usize>, Vec<(usize, f32, Value)>)> {
    let (mut sums, mut terms, mut last) = (vec![], vec![], at);
    let term = |v: Value, reader: usize| {
        let (i, l2) = uses.only::<L2>(g, v, reader)?;
        Some((i, l2.lambda, g.nodes()[i].ins[0]))
    };
    loop {
        is::<Add>(&g.nodes()[last])?;
        sums.push(last);
        let [left, right] = g.nodes()[last].ins[..] else { return None };
        terms.push(term(right, last)?);
        if let Some(first) = term(left, last) {
            terms.push(first);
            terms.reverse();
            return Some((sums, terms));
        }
        last = uses.only::<Add>(g, left, last)?.0;
    }
}

/// A parameter's update.
struct One {
    at: usize,
    sgd: Sgd,
    /// w, v and, if it has one, the copy; what they become.
    values: Vec<Value>,
    outs: Vec<Value>,
    g: Value,
    hyper: Value,
    by: Option<Value>,
    /// lambda and d of the penalty that is part of its gradient.
    penalty: Option<(f32, Value)>,
}

impl One {
    /// The update that node `at` is, if it is one and nobody reads what it writes.
    fn of(g: &Graph, uses: &Uses, at: usize) -> Option<Self> {
        let n = &g.nodes()[at];
        let update = is::<Update>(n).copied();
        let update = update.or_else(|| is::<Sgd>(n).map(|&sgd| Update { sgd, copy: false, scaled: false }))?;
        if n.outs.iter().any(|v| !uses.readers[v.i()].is_empty()) {
            return None;
        }
        let mut values = n.ins[..2].to_vec();
        values.extend(update.copy.then(|| n.ins[4]));
        let by = update.scaled.then(|| n.ins[4 + update.copy as usize]);
        let mut one =
            Self { at, sgd: update.sgd, values, outs: n.outs.clone(), g: n.ins[2], hyper: n.ins[3], by, penalty: None };
        // g + 2 lambda w d, of which nobody else reads anything.
        if let Some((sum, Add)) = uses.only(g, one.g, at) {
            let [a, b] = g.nodes()[sum].ins[..] else { return Some(one) };
            for (rest, penalty) in [(a, b), (b, a)] {
                let Some((i, &L2Grad { lambda })) = uses.only::<L2Grad>(g, penalty, sum) else { continue };
                let [w, d] = g.nodes()[i].ins[..] else { continue };
                if w == one.values[0] && lambda != 0.0 {
                    (one.g, one.penalty) = (rest, Some((lambda, d)));
                    break;
                }
            }
        }
        Some(one)
    }

    /// Whether one launch can do both.
    fn joins(&self, g: &Graph, other: &One) -> bool {
        fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        let storage = |one: &One| one.values.get(2).map(|copy| g.ty(*copy).dtype);
        let penalty = |one: &One| one.penalty.map(|p| p.1);
        self.sgd == other.sgd
            && (self.hyper, self.by) == (other.hyper, other.by)
            && agree(penalty(self), penalty(other))
            && agree(storage(self), storage(other))
    }
}

/// dense.wgrad -> sgd becomes dense.update where nobody else reads the weight's gradient.
pub(super) fn learn(g: &mut Graph, uses: &Uses) {
    for &at in &uses.needed {
        let Some(one) = One::of(g, uses, at).filter(|one| one.by.is_none() && one.penalty.is_none()) else { continue };
        let Some((part, &wgrad)) = uses.only::<Wgrad>(g, one.g, at) else { continue };
        let n = &g.nodes()[part];
        if n.outs[0] != one.g {
            continue;
        }
        // The bias's gradient is written where the weight is updated, which is later.
        if n.outs[1..].iter().any(|db| uses.readers[db.i()].iter().any(|&reader| reader < at)) {
            continue;
        }
        let ins = [&one.values[..], &n.ins, &[one.hyper]].concat();
        let outs = [&one.outs[..], &n.outs[1..]].concat();
        let types: Vec<Type> = ins.iter().map(|v| g.ty(*v)).collect();
        let op = dense::Update { wgrad, sgd: one.sgd, copy: one.values.len() > 2 };
        // Activations and their gradients are no state: nothing updates them.
        if op.infer(&types).is_ok() {
            g.retire(part);
            g.replace(at, part, op, &ins, &outs);
        }
    }
}

/// The gradient of a penalty becomes part of the update, and updates become one, as many as a launch takes and as gradients
/// may wait. They stand where the last of them stood.
pub(super) fn updates(g: &mut Graph, uses: &Uses) {
    let mut all: Vec<One> = uses.needed.iter().filter_map(|&at| One::of(g, uses, at)).collect();
    // In the order in which their gradients are there.
    all.sort_by_key(|one| (uses.writer[one.g.i()], one.at));
    let bytes = |g: &Graph, one: &One| g.ty(one.g).bytes();
    let mut open: Vec<(usize, Vec<One>)> = vec![];
    for one in all {
        let own = bytes(g, &one);
        if own > WAITING {
            together(g, vec![one]);
            continue;
        }
        match open.iter().position(|(_, group)| group.iter().all(|other| other.joins(g, &one))) {
            Some(i) if open[i].0 + own <= WAITING && open[i].1.len() < SEGMENTS => {
                open[i].0 += own;
                open[i].1.push(one);
            }
            Some(i) => {
                let full = std::mem::replace(&mut open[i], (own, vec![one]));
                together(g, full.1);
            }
            None => open.push((own, vec![one])),
        }
    }
    open.into_iter().for_each(|(_, group)| together(g, group));
}

fn together(g: &mut Graph, group: Vec<One>) {
    if let [one] = &group[..]
        && one.penalty.is_none()
    {
        return;
    }
    let (sgd, by) = (group[0].sgd, group[0].by);
    let each = |one: &One| Own { copy: one.values.len() > 2, lambda: one.penalty.map_or(0.0, |p| p.0) };
    let op = Updates { sgd, scaled: by.is_some(), each: group.iter().map(each).collect() };
    let mut ins: Vec<Value> = group.iter().flat_map(|one| one.values.clone()).collect();
    ins.extend(group.iter().map(|one| one.g));
    ins.push(group[0].hyper);
    ins.extend(by);
    ins.extend(group.iter().find_map(|one| one.penalty).map(|p| p.1));
    let outs: Vec<Value> = group.iter().flat_map(|one| one.outs.clone()).collect();
    let at = group.iter().map(|one| one.at).max().expect("a group has members");
    group.iter().for_each(|one| g.retire(one.at));
    g.replace(at, group[0].at, op, &ins, &outs);
}
