/*! Which nodes run, in which order, and which run together. */

use super::stale;
use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::shape::Type;
use std::collections::HashMap;

/// Groups of nodes in the order they run.
pub(super) fn order(g: &Graph, want: &[Value], group: bool) -> Result<Vec<Vec<usize>>> {
    let nodes = g.needed(want);
    let before = constraints(g, &nodes)?;
    Ok(if group { by_depth(g, &nodes, &before) } else { as_built(g, &nodes, &before) })
}

/// For each node, the nodes that must run before it: the writers of what it reads, and, if it updates a value in place,
/// every other reader of the old contents.
fn constraints(g: &Graph, nodes: &[usize]) -> Result<HashMap<usize, Vec<usize>>> {
    let mut writer: HashMap<Value, usize> = HashMap::new();
    let mut readers: HashMap<Value, Vec<usize>> = HashMap::new();
    for &i in nodes {
        writer.extend(g.nodes()[i].outs.iter().map(|o| (*o, i)));
        g.nodes()[i].ins.iter().for_each(|v| readers.entry(*v).or_default().push(i));
    }
    let mut before: HashMap<usize, Vec<usize>> = HashMap::new();
    for &i in nodes {
        let n = &g.nodes()[i];
        let list = before.entry(i).or_default();
        list.extend(n.ins.iter().filter_map(|v| writer.get(v)));
        for &(_, input) in n.op.alias() {
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
/// instead of until the end.
fn as_built(g: &Graph, nodes: &[usize], before: &HashMap<usize, Vec<usize>>) -> Vec<Vec<usize>> {
    let updates: Vec<usize> = nodes.iter().copied().filter(|&i| !g.nodes()[i].op.alias().is_empty()).collect();
    let mut waiting: HashMap<usize, usize> = updates.iter().map(|&u| (u, before[&u].len())).collect();
    let mut unblocks: HashMap<usize, Vec<usize>> = HashMap::new();
    for &u in &updates {
        before[&u].iter().for_each(|&b| unblocks.entry(b).or_default().push(u));
    }
    let mut order = vec![];
    for &i in nodes {
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
    order
}

/// Nodes of equal depth cannot depend on one another, so (depth, op, types) is a complete rule for running together.
fn by_depth(g: &Graph, nodes: &[usize], before: &HashMap<usize, Vec<usize>>) -> Vec<Vec<usize>> {
    let mut depth: HashMap<usize, usize> = HashMap::new();
    for &i in nodes {
        let d = before[&i].iter().map(|b| depth[b] + 1).max().unwrap_or(0);
        depth.insert(i, d);
    }
    let mut sorted = nodes.to_vec();
    sorted.sort_by_key(|i| depth[i]);
    let mut steps: Vec<Vec<usize>> = vec![];
    let mut at: HashMap<(usize, String, Vec<Type>), usize> = HashMap::new();
    for i in sorted {
        let n = &g.nodes()[i];
        let types = n.ins.iter().chain(&n.outs).map(|v| g.ty(*v)).collect();
        match at.entry((depth[&i], format!("{:?}", n.op), types)) {
            std::collections::hash_map::Entry::Occupied(e) => steps[*e.get()].push(i),
            std::collections::hash_map::Entry::Vacant(e) => {
                e.insert(steps.len());
                steps.push(vec![i]);
            }
        }
    }
    steps
}
