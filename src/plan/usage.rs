//! What lives when: a plan's arena as people look at it.

use super::arena::ALIGN;
use super::{Place, Plan};
use crate::graph::{Graph, Kind, Value};

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    Fprop,
    /// Gradients of activations: everything of the adjoint that is not `Wgrad`.
    Dgrad,
    /// Gradients of weights and biases.
    Wgrad,
    Update,
}

impl Pass {
    pub const ALL: [Pass; 4] = [Pass::Fprop, Pass::Dgrad, Pass::Wgrad, Pass::Update];

    pub fn name(self) -> &'static str {
        match self {
            Pass::Fprop => "fprop",
            Pass::Dgrad => "dgrad",
            Pass::Wgrad => "wgrad",
            Pass::Update => "update",
        }
    }

    pub fn of(g: &Graph, node: usize) -> Self {
        let n = &g.nodes()[node];
        let op = n.op.describe();
        match op.weight_gradient {
            _ if !op.in_place.is_empty() => Pass::Update,
            _ if !n.adjoint => Pass::Fprop,
            true => Pass::Wgrad,
            false => Pass::Dgrad,
        }
    }
}

/// The part of the network that each node belongs to, by its label: towers, stages or blocks, as fine as gives at most
/// `most` of them.
pub fn parts(g: &Graph, nodes: &[usize], most: usize) -> Vec<String> {
    let name = |depth: usize, node: &usize| {
        let words: Vec<&str> = g.nodes()[*node].label.split('.').collect();
        // The last word is a layer.
        words[..(words.len() - 1).clamp(1, depth)].join(".")
    };
    let at = |depth| nodes.iter().map(|n| name(depth, n)).collect::<Vec<_>>();
    let few = |names: &Vec<String>| names.iter().collect::<std::collections::BTreeSet<_>>().len() <= most;
    [3, 2].into_iter().map(at).find(few).unwrap_or_else(|| at(1))
}

/// A value in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub value: Value,
    /// The node that writes it.
    pub node: usize,
    /// Where it begins in the arena, and how much of the arena it holds.
    pub at: usize,
    pub bytes: usize,
    /// First and last step in which it is alive; wanted values live to the last step of all.
    pub first: usize,
    pub last: usize,
}

impl Plan {
    /// Every value of the arena, in the order they are written.
    pub fn lives(&self, g: &Graph) -> Vec<Life> {
        let mut all: Vec<Life> = vec![];
        for (t, &node) in self.steps.iter().enumerate().flat_map(|(t, s)| s.iter().map(move |i| (t, i))) {
            for &value in &g.nodes()[node].outs {
                let (Place::Arena(at), Some([first, last])) = (self.places[value.i()], self.live[value.i()]) else {
                    continue;
                };
                // What an op updates in place was written by an earlier one.
                if g.kind(value) == Kind::Temp && first == t {
                    let bytes = g.ty(value).bytes().next_multiple_of(ALIGN);
                    all.push(Life { value, node, at, bytes, first, last: last.min(self.steps.len() - 1) });
                }
            }
        }
        all
    }

    /// Bytes of all values that are alive in each step. No arena can be smaller than the largest of them.
    pub fn live_bytes(&self, g: &Graph) -> Vec<usize> {
        let mut sums = vec![0; self.steps.len()];
        for l in self.lives(g) {
            sums[l.first..=l.last].iter_mut().for_each(|s| *s += l.bytes);
        }
        sums
    }
}
