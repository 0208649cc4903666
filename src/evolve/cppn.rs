/*! Pictures as functions of the place: compositional pattern-producing networks (Stanley 2007), with the functions, the
mutations and the rates of Nguyen, Yosinski & Clune 2015, "Deep neural networks are easily fooled".

A genome is a graph without cycles. Its inputs are x, y, d = sqrt(x² + y²) and 1; a node applies its function to the weighted
sum of what leads to it; three nodes are outputs, of which a pixel's colour is made. */

use crate::error::{Error, Result};
use crate::host::pattern::{self, Drawing, Function, INPUTS, Node, Program, WORDS};
use crate::launch::Simd;
use crate::ops;
use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Nodes 4 to 6.
const OUTPUTS: [usize; 3] = [4, 5, 6];
/// Weights stay between minus this and this.
const LARGEST: f64 = 10.0;
/// Chance of each weight to be changed, and of each function to be drawn anew.
const RATE: f32 = 0.1;
/// Distribution index of polynomial mutation: the larger, the smaller the changes.
const ETA: f64 = 15.0;
/// Chances of the changes of a graph.
const ADD_NODE: f32 = 0.5;
const DELETE_NODE: f32 = 0.2;
const ADD_EDGE: f32 = 0.5;
const DELETE_EDGE: f32 = 0.3;
const MOVE_EDGE: f32 = 0.5;

/// A function, all equally likely.
fn any_function(rng: &mut Rng) -> Function {
    Function::ALL[rng.below(Function::ALL.len())]
}

/// A picture as a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Genome {
    /// Functions of outputs and hidden nodes.
    functions: BTreeMap<usize, Function>,
    /// Weights by (from, to).
    edges: BTreeMap<(usize, usize), f64>,
}

/// A genome in a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    inputs: Vec<String>,
    outputs: Vec<usize>,
    activation: BTreeMap<String, Function>,
    edges: Vec<(usize, usize, f64)>,
}

impl From<Genome> for Written {
    fn from(g: Genome) -> Self {
        Self {
            inputs: ["x", "y", "d", "bias"].map(String::from).to_vec(),
            outputs: OUTPUTS.to_vec(),
            activation: g.functions.iter().map(|(n, f)| (n.to_string(), *f)).collect(),
            edges: g.edges.iter().map(|(&(from, to), &w)| (from, to, w)).collect(),
        }
    }
}

impl TryFrom<Written> for Genome {
    type Error = Error;
    fn try_from(w: Written) -> Result<Self> {
        let no = |what: String| Error::usage(format!("a genome {what}"));
        if w.inputs != ["x", "y", "d", "bias"] || w.outputs != OUTPUTS {
            return Err(no("has the inputs x, y, d, bias and the outputs 4, 5, 6".into()));
        }
        let node = |(name, f): (&String, &Function)| Some((name.parse().ok().filter(|n| *n >= INPUTS)?, *f));
        let functions: BTreeMap<usize, Function> = w.activation.iter().filter_map(node).collect();
        if functions.len() != w.activation.len() || OUTPUTS.iter().any(|o| !functions.contains_key(o)) {
            return Err(no("has a function for each of its nodes from 4 on".into()));
        }
        let mut edges = BTreeMap::new();
        for (from, to, weight) in w.edges {
            let starts = from < INPUTS || (functions.contains_key(&from) && !OUTPUTS.contains(&from));
            if !starts || !functions.contains_key(&to) || !weight.is_finite() {
                return Err(no(format!("cannot have an edge from {from} to {to} of weight {weight}")));
            }
            edges.insert((from, to), weight);
        }
        let genome = Self { functions, edges };
        if genome.order().len() < genome.functions.len() {
            return Err(no("has no cycles".into()));
        }
        match genome.compiled() {
            Some(_) => Ok(genome),
            None => Err(no(format!("has {} values at a time and {WORDS} words, at most", pattern::SLOTS))),
        }
    }
}

impl Genome {
    /// Every input to every output, weights and functions at random.
    pub fn random(rng: &mut Rng) -> Self {
        let functions = OUTPUTS.iter().map(|o| (*o, any_function(rng))).collect();
        let pairs = (0..INPUTS).flat_map(|i| OUTPUTS.map(|o| (i, o)));
        Self { functions, edges: pairs.map(|pair| (pair, weight(rng))).collect() }
    }

    /// Hidden nodes and edges.
    pub fn size(&self) -> (usize, usize) {
        (self.functions.len() - OUTPUTS.len(), self.edges.len())
    }

    /// Nodes in an order in which every edge goes forward; of several the smallest number first. Nodes on a cycle are missing.
    fn order(&self) -> Vec<usize> {
        let mut open: BTreeMap<usize, usize> = self.functions.keys().map(|n| (*n, 0)).collect();
        let inner = || self.edges.keys().filter(|(from, _)| *from >= INPUTS);
        for (_, to) in inner() {
            *open.get_mut(to).expect("a node") += 1;
        }
        let mut ready: BTreeSet<usize> = open.iter().filter(|(_, n)| **n == 0).map(|(n, _)| *n).collect();
        let mut order = vec![];
        while let Some(node) = ready.pop_first() {
            order.push(node);
            for (_, to) in inner().filter(|(from, _)| *from == node) {
                let left = open.get_mut(to).expect("a node");
                *left -= 1;
                if *left == 0 {
                    ready.insert(*to);
                }
            }
        }
        order
    }

    /// What draws it.
    pub fn program(&self) -> Program {
        self.compiled().expect("a genome is not made without")
    }

    /// Its program; None if it has a cycle, or no program has room for it.
    fn compiled(&self) -> Option<Program> {
        let order = self.order();
        if order.len() < self.functions.len() {
            return None;
        }
        let mut number: BTreeMap<usize, usize> = (0..INPUTS).map(|i| (i, i)).collect();
        number.extend(order.iter().enumerate().map(|(i, node)| (*node, INPUTS + i)));
        let mut into: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
        for (&(from, to), &weight) in &self.edges {
            into.entry(to).or_default().push((number[&from], weight));
        }
        let node = |n: &usize| Node { function: self.functions[n], edges: into.remove(n).unwrap_or_default() };
        let nodes: Vec<Node> = order.iter().map(node).collect();
        Program::new(&nodes, OUTPUTS.map(|o| number[&o]))
    }

    /// Outputs of every pixel, row by row, as the definition has them.
    pub fn outputs(&self, how: Drawing) -> Vec<[f64; 3]> {
        let program = self.program();
        (0..how.side * how.side).map(|pixel| ops::pattern::outputs(program.words(), how.inputs(pixel))).collect()
    }

    /// The picture: u8 RGB [side, side, 3].
    pub fn picture(&self, how: Drawing) -> Vec<u8> {
        let mut picture = vec![0; how.side * how.side * 3];
        pattern::draw(Simd::detect(), how, &pattern::rooms(1, &[self.program()]), &mut picture);
        picture
    }

    /// A child: nodes and edges come and go, then weights and functions change.
    pub fn mutated(&self, rng: &mut Rng) -> Self {
        let mut child = self.clone();
        if rng.uniform() < ADD_NODE {
            child.add_node(rng);
        }
        if rng.uniform() < DELETE_NODE {
            child.delete_node(rng);
        }
        if rng.uniform() < ADD_EDGE {
            child.add_edge(rng);
        }
        if rng.uniform() < DELETE_EDGE
            && let Some(edge) = child.any_edge(rng)
        {
            child.edges.remove(&edge);
        }
        if rng.uniform() < MOVE_EDGE {
            child.move_edge(rng);
        }
        // After thousands of generations a graph can outgrow its program: it keeps its form then.
        if child.compiled().is_none() {
            child = self.clone();
        }
        for w in child.edges.values_mut() {
            if rng.uniform() < RATE {
                *w = polynomial(*w, rng);
            }
        }
        for f in child.functions.values_mut() {
            if rng.uniform() < RATE {
                *f = any_function(rng);
            }
        }
        child
    }

    fn any_edge(&self, rng: &mut Rng) -> Option<(usize, usize)> {
        (!self.edges.is_empty()).then(|| *self.edges.keys().nth(rng.below(self.edges.len())).expect("below"))
    }

    fn hidden(&self) -> Vec<usize> {
        self.functions.keys().copied().filter(|n| !OUTPUTS.contains(n)).collect()
    }

    /// Puts a node on an edge: the edge's weight leads to it, 1 from it.
    fn add_node(&mut self, rng: &mut Rng) {
        let Some((from, to)) = self.any_edge(rng) else { return };
        let node = self.functions.keys().next_back().expect("outputs") + 1;
        let weight = self.edges.remove(&(from, to)).expect("an edge");
        self.functions.insert(node, any_function(rng));
        self.edges.insert((from, node), weight);
        self.edges.insert((node, to), 1.0);
    }

    fn delete_node(&mut self, rng: &mut Rng) {
        let hidden = self.hidden();
        if !hidden.is_empty() {
            let node = hidden[rng.below(hidden.len())];
            self.functions.remove(&node);
            self.edges.retain(|(from, to), _| *from != node && *to != node);
        }
    }

    /// Joins two nodes that are not joined, where no cycle comes of it.
    fn add_edge(&mut self, rng: &mut Rng) {
        let weight = weight(rng);
        self.join(rng, None, weight);
    }

    /// Lets an edge begin or end elsewhere.
    fn move_edge(&mut self, rng: &mut Rng) {
        let Some((from, to)) = self.any_edge(rng) else { return };
        let weight = self.edges.remove(&(from, to)).expect("an edge");
        let kept = if rng.uniform() < 0.5 { End::From(from) } else { End::To(to) };
        if !self.join(rng, Some(kept), weight) {
            self.edges.insert((from, to), weight);
        }
    }

    /// Adds one of the edges that may be there, with an end that is given perhaps.
    fn join(&mut self, rng: &mut Rng, kept: Option<End>, weight: f64) -> bool {
        let sources = (0..INPUTS).chain(self.hidden());
        let pairs = sources.flat_map(|from| self.functions.keys().map(move |to| (from, *to)));
        let fits = |(from, to): &(usize, usize)| match kept {
            None => true,
            Some(End::From(f)) => f == *from,
            Some(End::To(t)) => t == *to,
        };
        let may = |pair: &(usize, usize)| fits(pair) && !self.edges.contains_key(pair) && !self.leads(pair.1, pair.0);
        let pairs: Vec<_> = pairs.filter(may).collect();
        if !pairs.is_empty() {
            self.edges.insert(pairs[rng.below(pairs.len())], weight);
        }
        !pairs.is_empty()
    }

    /// Whether edges lead from one node to another, or they are one.
    fn leads(&self, from: usize, to: usize) -> bool {
        let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
        while let Some(node) = open.pop() {
            open.extend(
                self.edges.range((node, 0)..(node + 1, 0)).map(|((_, to), _)| *to).filter(|to| seen.insert(*to)),
            );
        }
        seen.contains(&to)
    }
}

/// The end of an edge that stays.
#[derive(Clone, Copy)]
enum End {
    From(usize),
    To(usize),
}

/// Uniform over all weights.
fn weight(rng: &mut Rng) -> f64 {
    (2.0 * f64::from(rng.uniform()) - 1.0) * LARGEST
}

/// Polynomial mutation (Deb & Goyal 1996) of a weight on its range.
fn polynomial(w: f64, rng: &mut Rng) -> f64 {
    let u = f64::from(rng.uniform());
    let root = 1.0 / (ETA + 1.0);
    let delta = if u < 0.5 { (2.0 * u).powf(root) - 1.0 } else { 1.0 - (2.0 * (1.0 - u)).powf(root) };
    (w + delta * 2.0 * LARGEST).clamp(-LARGEST, LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pattern::{Colour, Coordinates};
    use crate::rng::Stream;

    #[test]
    fn children_are_graphs_that_can_be_written_and_read() {
        let mut rng = Rng::new(3, Stream::Test(1), 0);
        let mut genome = Genome::random(&mut rng);
        let mut largest = 0;
        for _ in 0..500 {
            genome = genome.mutated(&mut rng);
            // Reading refuses cycles and edges from outputs or to inputs.
            let text = serde_json::to_string(&genome).unwrap();
            assert_eq!(serde_json::from_str::<Genome>(&text).unwrap(), genome);
            assert!(genome.edges.values().all(|w| w.abs() <= LARGEST));
            largest = largest.max(genome.size().0);
        }
        assert!(largest > 10, "nodes are added: {largest}");
        assert!(
            genome
                .outputs(Drawing { side: 5, coordinates: Coordinates::Unit, colour: Colour::Rgb })
                .iter()
                .flatten()
                .all(|o| o.abs() <= 1.0)
        );
    }

    #[test]
    fn a_genome_is_refused_by_what_is_wrong_with_it() {
        let text = |activation: &str, edges: &str| {
            format!(
                r#"{{"inputs":["x","y","d","bias"],"outputs":[4,5,6],"activation":{{"4":"sine","5":"sine","6":"linear"{activation}}},"edges":[{edges}]}}"#
            )
        };
        assert!(serde_json::from_str::<Genome>(&text("", "[0,4,1.0]")).is_ok());
        for (activation, edges, what) in [
            ("", "[4,5,1.0]", "edge from 4 to 5"),
            ("", "[0,1,1.0]", "edge from 0 to 1"),
            ("", "[0,9,1.0]", "edge from 0 to 9"),
            (r#","7":"sine","8":"sine""#, "[7,8,1.0],[8,7,1.0]", "no cycles"),
            (r#","2":"sine""#, "", "function for each"),
            (r#","seven":"sine""#, "", "function for each"),
        ] {
            let e = serde_json::from_str::<Genome>(&text(activation, edges)).unwrap_err().to_string();
            assert!(e.contains(what), "{what}: {e}");
        }
    }

    #[test]
    fn small_changes_are_likely_and_stay_within_the_range() {
        let mut rng = Rng::new(1, Stream::Test(2), 0);
        let changed: Vec<f64> = (0..10_000).map(|_| polynomial(9.0, &mut rng)).collect();
        assert!(changed.iter().all(|w| (-LARGEST..=LARGEST).contains(w)));
        let mut size: Vec<f64> = changed.iter().map(|w| (w - 9.0).abs()).collect();
        size.sort_by(f64::total_cmp);
        // Half of |1 - (2u)^(1/16)| lies below 1 - (1/2)^(1/16) = .0424, of a range of 20; above 10 it is cut to 1.
        assert!((size[5000] - 0.848).abs() < 0.03, "{}", size[5000]);
    }
}
