/*! Ops that become one where the device has a kernel that does both: what lies between them is neither written nor read.

A rule stands beside the op that it makes and is listed by its family ([`super::Family::fuse`]); this file runs them. Values
keep their names, types and contents, and nodes their places: the fused op stands where the last of its parts stood, or where
the first one did if all that it reads is there by then, and its parts stay where they are, needed by nobody. So whatever is
asked of a graph afterwards is right; that nothing is computed twice is what the rules see to. */

use super::ALL;
use crate::graph::{Graph, Node, Op, Value};
use crate::shape::Type;

/// A rule that replaces ops by one that does the same.
#[derive(Clone, Copy)]
pub enum FusionRule {
    /// Looks at one node after another, which may be the last of what it fuses.
    Node(Stage, fn(&mut Graph, &Uses, usize)),
    /// Looks at all nodes at once.
    Graph(Stage, fn(&mut Graph, &Uses)),
}

/// When a rule runs. Each rule sees what those before it made; those of one stage meet in no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Layers with what follows them, and the gradients that go back through both: what the later stages see.
    Layers,
    /// Gradients with the masks that they go back through.
    Gradients,
    /// Where networks begin and end.
    Ends,
    /// Products with what changes how their operands and results are stored.
    Storage,
    /// Updates of parameters, and penalties on them.
    Updates,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Layers, Self::Gradients, Self::Ends, Self::Storage, Self::Updates];
}

/// Fuses what leads to the values in `want`, of which none is fused away.
pub fn fuse(g: &mut Graph, want: &[&[Value]]) {
    for now in Stage::ALL {
        for rule in ALL.iter().flat_map(|family| family.fuse) {
            let (FusionRule::Node(stage, _) | FusionRule::Graph(stage, _)) = *rule;
            if stage == now {
                rule.run(g, &Uses::new(g, want));
            }
        }
    }
}

impl FusionRule {
    fn run(self, g: &mut Graph, uses: &Uses) {
        match self {
            FusionRule::Graph(_, fuse) => fuse(g, uses),
            FusionRule::Node(_, fuse) => {
                for &at in &uses.needed {
                    if uses.know(&g.nodes()[at]) {
                        fuse(g, uses, at);
                    }
                }
            }
        }
    }
}

/// Who writes and who reads each value, of the nodes that are needed.
pub struct Uses {
    pub needed: Vec<usize>,
    pub writer: Vec<Option<usize>>,
    pub readers: Vec<Vec<usize>>,
    wanted: Vec<bool>,
    /// By node: which of the lists need it, a bit for each.
    pub lists: Vec<u32>,
}

impl Uses {
    fn new(g: &Graph, want: &[&[Value]]) -> Self {
        let mut lists = vec![0; g.nodes().len()];
        want.iter().enumerate().for_each(|(list, w)| g.needed(w).into_iter().for_each(|i| lists[i] |= 1 << list));
        let want = want.concat();
        let (mut writer, mut readers, mut wanted) = (vec![None; g.len()], vec![vec![]; g.len()], vec![false; g.len()]);
        let needed = g.needed(&want);
        for &i in &needed {
            g.nodes()[i].outs.iter().for_each(|v| writer[v.i()] = Some(i));
            g.nodes()[i].ins.iter().for_each(|v| readers[v.i()].push(i));
        }
        want.iter().for_each(|v| wanted[v.i()] = true);
        Self { needed, writer, readers, wanted, lists }
    }

    /// Whether a node still writes something that it wrote when this was made: it was not retired since.
    pub fn know(&self, n: &Node) -> bool {
        n.outs.iter().any(|v| v.i() < self.readers.len())
    }

    /// The readers of a value that nobody else wants.
    pub fn readers(&self, v: Value) -> &[usize] {
        if self.wanted[v.i()] { &[] } else { &self.readers[v.i()] }
    }

    /// The node that writes `v`, if it is a `T` and node `reader` is all that reads it.
    pub fn only<'g, T: Op>(&self, g: &'g Graph, v: Value, reader: usize) -> Option<(usize, &'g T)> {
        let at = self.writer[v.i()].filter(|_| self.readers(v) == [reader])?;
        Some((at, is::<T>(&g.nodes()[at])?))
    }
}

/// The op of a node, if it is a `T`.
pub(super) fn is<T: Op>(n: &Node) -> Option<&T> {
    n.op_as()
}

/// Puts `op`, which does what nodes `part` and `at` do, in the place of `at`, if it takes such operands; its outputs.
pub(super) fn join(
    g: &mut Graph,
    [part, at]: [usize; 2],
    op: impl Op,
    ins: &[Value],
    out: Value,
) -> Option<Vec<Value>> {
    let types: Vec<Type> = ins.iter().map(|v| g.ty(*v)).collect();
    // `op` reads later than `part` did.
    let updated = g.nodes()[part..at].iter().any(|n| n.op.in_place().iter().any(|a| ins.contains(&n.ins[a.1])));
    (!updated && op.infer(&types).is_ok()).then(|| g.replace(at, part, op, ins, &[out]))
}
