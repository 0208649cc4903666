/*! Offsets of all temporaries in one arena: largest first, each at the lowest gap that no live neighbour occupies. */

use super::{Options, Place, Plan};
use crate::graph::{Graph, Kind, Value};
use crate::launch::Buf;

/// Alignment of every value: a cache line is enough for vectors, 256 bytes for a GPU's widest transactions.
pub const ALIGN: usize = 256;

pub(super) fn place(g: &Graph, want: &[Value], options: Options, steps: Vec<Vec<usize>>) -> Plan {
    // The value that owns the storage: an output that updates an input in place lives where the input lives.
    let mut root: Vec<usize> = (0..g.len()).collect();
    for n in steps.iter().flatten().map(|&i| &g.nodes()[i]) {
        for &(o, i) in n.op.in_place() {
            root[n.outs[o].i()] = root[n.ins[i].i()];
        }
    }
    let mut live: Vec<Option<[usize; 2]>> = vec![None; g.len()];
    for (t, step) in steps.iter().enumerate() {
        for v in step.iter().flat_map(|&i| g.nodes()[i].ins.iter().chain(&g.nodes()[i].outs)) {
            let l = live[root[v.i()]].get_or_insert([t, t]);
            l[1] = t;
        }
    }
    for v in want {
        if let Some(l) = &mut live[root[v.i()]] {
            l[1] = steps.len();
        }
    }
    if options.guard > 0 {
        live.iter_mut().flatten().for_each(|l| *l = [0, steps.len()]);
    }

    let value = |v: usize| g.of_buf(Buf(v as u32));
    let size = |v: usize| (g.ty(value(v)).bytes() + 2 * options.guard).next_multiple_of(ALIGN);
    let temporary = |v: usize| g.kind(value(v)) == Kind::Temp && root[v] == v;
    let mut temps: Vec<(usize, [usize; 2])> =
        (0..g.len()).filter(|&v| temporary(v)).filter_map(|v| Some((v, live[v]?))).collect();
    temps.sort_by_key(|&(v, l)| (std::cmp::Reverse(size(v)), l[0], v));
    let naive_bytes = temps.iter().map(|&(v, _)| size(v)).sum();
    let mut offset = vec![0; g.len()];
    let mut placed: Vec<(usize, [usize; 2])> = vec![];
    let mut arena_bytes = 0;
    for (v, l) in temps {
        let overlaps = |p: &&(usize, [usize; 2])| p.1[0] <= l[1] && l[0] <= p.1[1];
        let mut busy: Vec<[usize; 2]> =
            placed.iter().filter(overlaps).map(|&(p, _)| [offset[p], offset[p] + size(p)]).collect();
        busy.sort_unstable();
        let mut at = 0;
        for [from, to] in busy {
            if at + size(v) <= from {
                break;
            }
            at = at.max(to);
        }
        offset[v] = at;
        arena_bytes = arena_bytes.max(at + size(v));
        placed.push((v, l));
    }

    let places = (0..g.len())
        .map(|v| match (g.kind(value(root[v])), live[root[v]]) {
            (_, None) => Place::Nowhere,
            (Kind::Temp, Some(_)) => Place::Arena(offset[root[v]] + options.guard),
            _ => Place::Persistent(value(root[v])),
        })
        .collect();
    let live = (0..g.len()).map(|v| live[root[v]]).collect();
    let types = g.values().map(|v| g.ty(v)).collect();
    Plan { options, steps, places, live, arena_bytes, naive_bytes, graph: g.id(), types, nodes: g.nodes().len() }
}
