/*! Which nodes run, in which order, and which run together. */

use super::stale;
use crate::error::Result;
use crate::graph::{Graph, Role, Value};
use crate::launch::Exchange;
use crate::launch::gpu::GROUP;
use crate::shape::Type;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Groups of nodes in the order they run.
pub(super) fn order(g: &Graph, want: &[Value], group: bool) -> Result<Vec<Vec<usize>>> {
    let nodes = g.needed(want);
    let before = constraints(g, &nodes)?;
    let late = late(g, &nodes, &before);
    Ok(if group { together(g, &nodes, &before, &late) } else { as_built(g, &nodes, &before, &late) })
}

/// Nodes that need what all ranks do together, directly or not. They come after all others, so that ranks reduce the first
/// gradients while they compute the last.
fn late(g: &Graph, nodes: &[usize], before: &HashMap<usize, Vec<usize>>) -> HashSet<usize> {
    let collective = |i: &usize| g.nodes()[*i].op.describe().role == Role::Collective;
    let mut late = HashSet::new();
    for &i in nodes {
        if before[&i].iter().any(|b| collective(b) || late.contains(b)) {
            late.insert(i);
        }
    }
    late
}

/// For each node, the nodes that must run before it: the writers of what it reads, and, if it updates a value in place,
/// every other reader of the old contents. What is handed to all ranks follows all collectives that were built before it: ranks
/// compute the same gradients and then each its own updates, and must come to the same collectives in the same order.
fn constraints(g: &Graph, nodes: &[usize]) -> Result<HashMap<usize, Vec<usize>>> {
    let mut writer: HashMap<Value, usize> = HashMap::new();
    let mut readers: HashMap<Value, Vec<usize>> = HashMap::new();
    for &i in nodes {
        writer.extend(g.nodes()[i].outs.iter().map(|o| (*o, i)));
        g.nodes()[i].ins.iter().for_each(|v| readers.entry(*v).or_default().push(i));
    }
    let mut before: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut collectives: Vec<usize> = vec![];
    for &i in nodes {
        let n = &g.nodes()[i];
        let list = before.entry(i).or_default();
        if let Some(c) = n.op.collective() {
            if c.exchange == Exchange::AllGather {
                list.extend(&collectives);
            }
            collectives.push(i);
        }
        list.extend(n.ins.iter().filter_map(|v| writer.get(v)));
        for &(_, input) in n.op.in_place() {
            for &r in readers[&n.ins[input]].iter().filter(|&&r| r != i) {
                if r > i {
                    return Err(stale(g, n.ins[input], r));
                }
                list.push(r);
            }
        }
        list.sort_unstable();
        list.dedup();
    }
    Ok(before)
}

/// The order of the graph, except that an update in place runs as soon as it can: a gradient then lives for one step
/// instead of until the end. What is late follows in the order of the graph.
fn as_built(g: &Graph, nodes: &[usize], before: &HashMap<usize, Vec<usize>>, late: &HashSet<usize>) -> Vec<Vec<usize>> {
    let (last, nodes): (Vec<usize>, Vec<usize>) = nodes.iter().partition(|i| late.contains(i));
    let updates: Vec<usize> = nodes.iter().copied().filter(|&i| !g.nodes()[i].op.in_place().is_empty()).collect();
    let mut waiting: HashMap<usize, usize> = updates.iter().map(|&u| (u, before[&u].len())).collect();
    let mut unblocks: HashMap<usize, Vec<usize>> = HashMap::new();
    for &u in &updates {
        before[&u].iter().for_each(|&b| unblocks.entry(b).or_default().push(u));
    }
    let mut order = vec![];
    for &i in &nodes {
        // An update that waits for nothing runs where it was built; the others were run by what they waited for.
        let mut ready = if before[&i].is_empty() || !waiting.contains_key(&i) { vec![i] } else { vec![] };
        while let Some(i) = ready.pop() {
            order.push(vec![i]);
            for &u in unblocks.get(&i).into_iter().flatten() {
                let left = waiting.get_mut(&u).expect("an update waits");
                *left -= 1;
                if *left == 0 {
                    ready.push(u);
                }
            }
        }
    }
    order.extend(last.into_iter().map(|i| vec![i]));
    order
}

/// Nodes of equal op and types run together, up to [`GROUP`] of them, which is what one launch computes. A node that can run
/// waits for equal ones that cannot run yet, unless they need its result: of two towers the shorter one waits for the longer,
/// so that their equal layers meet. What waits for nobody runs in the order of its depth, and what is late after all else.
fn together(g: &Graph, nodes: &[usize], before: &HashMap<usize, Vec<usize>>, late: &HashSet<usize>) -> Vec<Vec<usize>> {
    let place: HashMap<usize, usize> = nodes.iter().enumerate().map(|(at, &i)| (i, at)).collect();
    // From here on a node is its place in `nodes`.
    let before: Vec<Vec<usize>> = nodes.iter().map(|i| before[i].iter().map(|b| place[b]).collect()).collect();
    let mut after = vec![vec![]; nodes.len()];
    let mut depth = vec![0; nodes.len()];
    for (at, b) in before.iter().enumerate() {
        depth[at] = b.iter().map(|&b| depth[b] + 1).max().unwrap_or(0);
        b.iter().for_each(|&b| after[b].push(at));
    }
    let later = Later::new(&after);
    let (kinds, equal) = kinds(g, nodes);
    let mut waiting: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut done = vec![false; nodes.len()];
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|&at| waiting[at] == 0).collect();
    let mut steps = vec![];
    while !ready.is_empty() {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        ready.iter().for_each(|&at| groups.entry(kinds[at]).or_default().push(at));
        let waits = |kind: usize, group: &[usize]| {
            let more = |&other: &usize| !done[other] && waiting[other] > 0;
            let apart = |other: &usize| group.iter().all(|&at| !later.needs(*other, at));
            group.len() < GROUP && equal[kind].iter().filter(|o| more(o)).any(apart)
        };
        let rank = |kind: usize, group: &[usize]| {
            let first = group.iter().map(|&at| (depth[at], at)).min();
            (group.iter().any(|&at| late.contains(&nodes[at])), waits(kind, group), first)
        };
        let next = groups.iter().min_by_key(|(kind, group)| rank(**kind, group)).expect("something is ready");
        let kind = *next.0;
        let group = groups.remove(&kind).expect("it was found there");
        ready.retain(|at| kinds[*at] != kind);
        for &at in &group {
            done[at] = true;
            for &next in &after[at] {
                waiting[next] -= 1;
                if waiting[next] == 0 {
                    ready.push(next);
                }
            }
        }
        steps.push(group.into_iter().map(|at| nodes[at]).collect());
    }
    steps
}

/// The kind of each node, equal for equal op and types, and all nodes of each kind.
fn kinds(g: &Graph, nodes: &[usize]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut known: HashMap<(String, Vec<Type>), usize> = HashMap::new();
    let mut equal: Vec<Vec<usize>> = vec![];
    let kind = |(at, &i): (usize, &usize)| {
        let n = &g.nodes()[i];
        let types = n.ins.iter().chain(&n.outs).map(|v| g.ty(*v)).collect();
        let kind = *known.entry((format!("{:?}", n.op), types)).or_insert(equal.len());
        if kind == equal.len() {
            equal.push(vec![]);
        }
        equal[kind].push(at);
        kind
    };
    (nodes.iter().enumerate().map(kind).collect(), equal)
}

/// Which nodes need which others, directly or not: a row of bits for each node.
struct Later(Vec<Vec<u64>>);

impl Later {
    /// `after` lists whom each node is directly needed by, all of them further on in the list.
    fn new(after: &[Vec<usize>]) -> Self {
        let mut rows = vec![vec![0u64; after.len().div_ceil(64)]; after.len()];
        for (at, next) in after.iter().enumerate().rev() {
            let (row, others) = rows[at..].split_first_mut().expect("a row for each node");
            for &n in next {
                row.iter_mut().zip(&others[n - at - 1]).for_each(|(a, b)| *a |= b);
                row[n / 64] |= 1 << (n % 64);
            }
        }
        Self(rows)
    }

    fn needs(&self, node: usize, other: usize) -> bool {
        self.0[other][node / 64] >> (node % 64) & 1 == 1
    }
}
