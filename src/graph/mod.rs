/*! Floor 2: a static dataflow graph of ops on typed values. [`crate::ops::backward`] differentiates it by
appending more of the same. */

mod lower;

pub use lower::{GpuCalls, Operand, host_launches};

use crate::error::{Error, Result};
use crate::launch::{Buf, Collective, Cost, Launch, Simd};
use crate::shape::{DType, MOST, Shape, Type};
use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A typed node of data. Graphs alone make values, and know their own ([`Graph::own`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Value {
    number: u32,
    graph: GraphId,
}

impl Value {
    /// The name of its storage: its number in its graph.
    pub fn buf(self) -> Buf {
        Buf(self.number)
    }
    pub(crate) fn i(self) -> usize {
        self.number as usize
    }
}

/// Tells graphs apart, not clones of one graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct GraphId(u32);

impl GraphId {
    /// Whether a value is of this graph.
    pub(crate) fn made(self, v: Value) -> bool {
        v.graph == self
    }
}

impl Default for GraphId {
    /// One that no other graph of this process has.
    fn default() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Who owns a value's storage, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Written from outside before a run.
    Input,
    /// A weight: persistent, saved, differentiated.
    Param,
    /// Measured, not trained: persistent, saved with the weights, not differentiated. Running means, for example.
    Statistic,
    /// Persistent, not saved with the weights, not differentiated: momentum, folded filters.
    State,
    /// Lives between the op that writes it and the last op that reads it.
    Temp,
}

/// The types an op instance works on.
pub struct Io<'a> {
    pub ins: &'a [Type],
    pub outs: &'a [Type],
}

/// The buffers of one of several equal op instances that run together.
#[derive(Clone, Debug)]
pub struct Instance {
    pub ins: Vec<Buf>,
    pub outs: Vec<Buf>,
    /// [`Description::stream`]
    pub stream: u32,
}

/// What an op does in a network, for those who look for it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// Products of matrices made of windows: a convolution, its gradients, and what is fused with them.
    Convolution,
    /// Products of matrices: a dense layer, its gradients, and what is fused with them.
    Dense,
    /// Makes probabilities of class scores.
    Softmax,
    /// Draws what dropout keeps.
    DropoutMask,
    /// Is done by all ranks of a job together.
    Collective,
    #[default]
    Other,
}

impl Role {
    /// Whether its arithmetic is products of matrices, which tensor cores do.
    pub fn multiplies(self) -> bool {
        matches!(self, Role::Convolution | Role::Dense)
    }
}

/// What an op is, apart from its arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// `family.pass`: `conv.fprop`. For people and for records; programs ask for the other properties.
    pub name: &'static str,
    pub role: Role,
    /// Its first output is the gradient of a weight, a bias or a penalty on one.
    pub weight_gradient: bool,
    /// (output, input) pairs that share storage: state updated in place.
    pub in_place: &'static [(usize, usize)],
    /// Inputs and outputs that its host routines take as they are stored. Of all others of 16 bits they are given copies in
    /// float32 ([`crate::launch::half`]).
    pub as_stored: [&'static [usize]; 2],
    /// Inputs of float32 that its host routines also take stored in 16 bits ([`crate::launch::Operands::stored_as`]), with the
    /// bits that the same numbers in float32 give.
    pub narrow: &'static [usize],
    /// The word of the counter that tells its random numbers from others' ([`crate::rng::Stream`]): the one attribute that
    /// does not show in the `Debug` text. Instances that differ in nothing else run together, and launches on a GPU find it
    /// in [`Instance`].
    pub stream: u32,
}

impl Description {
    /// An op that computes something from operands, and no more.
    pub const fn of(name: &'static str) -> Self {
        Self {
            name,
            role: Role::Other,
            weight_gradient: false,
            in_place: &[],
            as_stored: [&[]; 2],
            narrow: &[],
            stream: 0,
        }
    }
    pub const fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }
    pub const fn weight_gradient(self) -> Self {
        Self { weight_gradient: true, ..self }
    }
    pub const fn in_place(self, in_place: &'static [(usize, usize)]) -> Self {
        Self { in_place, ..self }
    }
    pub const fn as_stored(self, ins: &'static [usize], outs: &'static [usize]) -> Self {
        Self { as_stored: [ins, outs], ..self }
    }
    pub const fn narrow(self, narrow: &'static [usize]) -> Self {
        Self { narrow, ..self }
    }
    pub const fn stream(self, stream: u32) -> Self {
        Self { stream, ..self }
    }
}

/// One op: shape rule, definition, adjoint, lowering and cost, on one page. Attributes are fields of the type that
/// implements it; they must all show in its `Debug` text, because equal text means equal work when launches are grouped, but
/// for [`Description::stream`].
pub trait Op: Any + Debug + Send + Sync {
    /// Its name and the properties that others tell ops apart by.
    fn describe(&self) -> Description;
    /// Output types, or why the inputs do not fit.
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>>;
    /// The definition, in float64: plain loops that a reader can check against the formula. Every element of every
    /// output is written; outputs arrive filled with NaN.
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]);
    /// The definition of single elements of output 0, `at`, where it can be had without all others; with the bits of
    /// [`Op::eval`]. For outputs that take too long to evaluate whole.
    fn eval_at(&self, _io: &Io, _ins: &[&[f32]], _at: &[usize]) -> Option<Vec<f64>> {
        None
    }
    /// Appends the ops that compute d(loss)/d(input) from d(loss)/d(output); None where there is no gradient.
    fn grad(&self, _g: &mut Graph, _n: &Node, _dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Err(Error::job(format!("{} has no gradient", self.describe().name)))
    }
    /// The host routines that compute `group`, a list of instances with equal attributes and types. Empty: there is
    /// none, run the definition. A plan gives it instances one by one.
    fn host(&self, _io: &Io, _group: &[Instance], _simd: Simd) -> Vec<Launch> {
        Vec::new()
    }
    /// The kernel launches that compute the instances of `gpu`. Empty: a GPU cannot run this op.
    fn gpu(&self, _gpu: GpuCalls, _io: &Io) -> Vec<Launch> {
        Vec::new()
    }
    /// What it is of all ranks together, in place of routines and kernels of one: its launch on every device. Its outputs lie
    /// where its inputs lie, and its definition is that of one rank.
    fn collective(&self) -> Option<Collective> {
        None
    }
    /// The largest number that its kernels count in 32 bits: elements of an operand, where nothing else is said, and 0 where
    /// 64 bits count all that grows with the operands. A plan for a GPU refuses what is too large ([`gpu::COUNTABLE`]).
    ///
    /// [`gpu::COUNTABLE`]: crate::launch::gpu::COUNTABLE
    fn counted(&self, io: &Io) -> usize {
        io.ins.iter().chain(io.outs).map(Type::numel).max().unwrap_or(0)
    }
    /// Work and least traffic of one instance.
    fn cost(&self, io: &Io) -> Cost {
        traffic(io)
    }
}

impl dyn Op {
    /// [`Description::name`]
    pub fn name(&self) -> &'static str {
        self.describe().name
    }
    /// [`Description::in_place`]
    pub fn in_place(&self) -> &'static [(usize, usize)] {
        self.describe().in_place
    }
}

/// Every input read once, every output written once, no arithmetic.
pub fn traffic(io: &Io) -> Cost {
    let sum = |t: &[Type]| t.iter().map(|t| t.bytes() as f64).sum();
    Cost { flops: 0.0, read: sum(io.ins), write: sum(io.outs) }
}

/// One use of an op.
#[derive(Clone, Debug)]
pub struct Node {
    pub op: Arc<dyn Op>,
    pub ins: Vec<Value>,
    pub outs: Vec<Value>,
    /// The layer it belongs to, for people: `object.conv1_1`. Adjoints carry the label of the op they come from.
    pub label: String,
    /// Appended by differentiation.
    pub adjoint: bool,
}

impl Node {
    /// For people: `conv.fprop of object.conv1_1`.
    pub fn title(&self) -> String {
        match &*self.label {
            "" => self.op.name().to_string(),
            layer => format!("{} of {layer}", self.op.name()),
        }
    }

    /// Its op, if that is a `T`.
    pub fn op_as<T: Op>(&self) -> Option<&T> {
        (&*self.op as &dyn Any).downcast_ref()
    }

    /// Whether it has a role in the network, and not in its adjoint.
    pub fn plays(&self, role: Role) -> bool {
        !self.adjoint && self.op.describe().role == role
    }
}

/// Values and nodes in the order they were built, which is a valid order of evaluation. A clone has the values of its original,
/// by the same names; what is built on the two afterwards must not be mixed.
#[derive(Default, Clone)]
pub struct Graph {
    id: GraphId,
    types: Vec<Type>,
    kinds: Vec<Kind>,
    names: Vec<String>,
    nodes: Vec<Node>,
    by_name: HashMap<String, Value>,
    label: String,
    adjoint: bool,
    prepared: Vec<(Value, Value)>,
    /// What all values take as float64, each rounded up as a plan may round it.
    room: usize,
    error: Option<Error>,
}

/// What stands in for a type that there is not, so that builders can go on: with an error set, nothing is planned any more.
const NOTHING: Type = Type { shape: Shape::ONE, dtype: DType::F32 };

impl Graph {
    /// Every value is made here. Sizes are checked once, here, alone and together: no sum or product that a plan or a routine
    /// makes of them can wrap.
    fn value(&mut self, kind: Kind, name: &str, t: Type) -> Value {
        let room = t.room().and_then(|room| match self.room + room.next_multiple_of(4096) {
            all if all <= MOST => Ok(all),
            _ => Err(Error::job("all values together are larger than the address space of a process")
                .fix("take a smaller batch or smaller images")),
        });
        let t = match room {
            Ok(all) => {
                self.room = all;
                t
            }
            Err(e) => {
                let at = [name, &self.label].into_iter().find(|s| !s.is_empty()).map(|s| format!("{s}: "));
                self.fail(Error::job(at.unwrap_or_default() + &e.to_string()));
                NOTHING
            }
        };
        self.types.push(t);
        self.kinds.push(kind);
        self.names.push(name.into());
        self.at(self.types.len() - 1)
    }

    /// The value with a number.
    fn at(&self, i: usize) -> Value {
        Value { number: i as u32, graph: self.id }
    }

    pub(crate) fn id(&self) -> GraphId {
        self.id
    }

    /// Where a value of this graph is listed; None for one of another.
    fn index(&self, v: Value) -> Option<usize> {
        Some(v.i()).filter(|&i| self.id.made(v) && i < self.len())
    }

    fn named(&mut self, kind: Kind, name: &str, t: Type) -> Value {
        if let Some(&v) = self.by_name.get(name) {
            if self.types[v.i()] != t || self.kinds[v.i()] != kind {
                let old = self.types[v.i()];
                self.fail(Error::job(format!("{name} is used as {:?} and as {:?}", old.shape, t.shape)));
            }
            return v;
        }
        let v = self.value(kind, name, t);
        self.by_name.insert(name.into(), v);
        v
    }

    /// A value written from outside. The same name gives the same value. A type without elements, or too large to be counted
    /// ([`Type::room`]), is an error of [`Graph::check`], as it is for every other value.
    pub fn input(&mut self, name: &str, t: Type) -> Value {
        self.named(Kind::Input, name, t)
    }
    /// A weight. The same name gives the same value, so training and evaluation share it.
    pub fn param(&mut self, name: &str, t: Type) -> Value {
        self.named(Kind::Param, name, t)
    }
    /// What is measured and stored beside the weights. The same name gives the same value.
    pub fn statistic(&mut self, name: &str, t: Type) -> Value {
        self.named(Kind::Statistic, name, t)
    }
    /// Persistent and not differentiated.
    pub fn state(&mut self, name: &str, t: Type) -> Value {
        self.named(Kind::State, name, t)
    }
    /// The type of a value. One that is not of this graph has that of a number: what is built on it fails ([`Graph::check`]).
    pub fn ty(&self, v: Value) -> Type {
        self.index(v).map_or(NOTHING, |i| self.types[i])
    }
    pub fn dims(&self, v: Value) -> &[usize] {
        self.index(v).map_or(&NOTHING, |i| &self.types[i]).dims()
    }
    pub fn kind(&self, v: Value) -> Kind {
        self.index(v).map_or(Kind::Temp, |i| self.kinds[i])
    }
    pub fn name(&self, v: Value) -> &str {
        self.index(v).map_or("", |i| &self.names[i])
    }
    /// Refuses values that neither this graph nor one that it is a clone of has made.
    pub fn own(&self, values: &[Value]) -> Result<()> {
        match values.iter().find(|v| self.index(**v).is_none()) {
            None => Ok(()),
            Some(v) => Err(Error::job(format!("value {} is of another graph", v.number))
                .fix("use the values that this graph returned, or those of the graph that it is a clone of")),
        }
    }
    /// The value that has this storage.
    pub(crate) fn of_buf(&self, buf: Buf) -> Value {
        self.at(buf.0 as usize)
    }
    /// A named value, if there is one.
    pub fn find(&self, name: &str) -> Option<Value> {
        self.by_name.get(name).copied()
    }
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// Number of values.
    pub fn len(&self) -> usize {
        self.types.len()
    }
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
    /// All values, in the order they were made.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        (0..self.len()).map(|i| self.at(i))
    }
    /// All values of one kind, in the order they were made.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = Value> + '_ {
        self.values().filter(move |v| self.kinds[v.i()] == kind)
    }
    /// What a weight file holds, weights and statistics, in the order they were made.
    pub fn stored(&self) -> impl Iterator<Item = Value> + '_ {
        self.values().filter(|v| matches!(self.kinds[v.i()], Kind::Param | Kind::Statistic))
    }
    /// Whether it is a weight of float32 that is read, and only where it may lie in 16 bits ([`Description::narrow`]).
    pub fn narrows(&self, v: Value) -> bool {
        let reads = |n: &'_ Node| {
            let inputs = n.ins.iter().enumerate().filter(|(_, x)| **x == v);
            inputs.map(|(i, _)| n.op.describe().narrow.contains(&i)).collect::<Vec<_>>()
        };
        let reads: Vec<bool> = self.nodes.iter().flat_map(reads).collect();
        self.own(&[v]).is_ok()
            && self.kind(v) == Kind::Param
            && self.ty(v).dtype == DType::F32
            && !reads.is_empty()
            && reads.into_iter().all(|narrow| narrow)
    }
    /// Declares that `out`, an op's output, fills `state` in place from weights alone: folded or packed filters. A session
    /// computes it before it runs a plan that reads `state`, and again when a weight has changed since. An op that builds on
    /// prepared state takes `out`, not `state`.
    pub fn prepare(&mut self, state: Value, out: Value) {
        match self.own(&[state, out]) {
            Ok(()) => self.prepared.push((state, out)),
            Err(e) => self.fail(e),
        }
    }
    /// (state, output) of every such op.
    pub fn prepared(&self) -> &[(Value, Value)] {
        &self.prepared
    }
    /// Input and output types of a node.
    pub fn io(&self, n: &Node) -> (Vec<Type>, Vec<Type>) {
        (n.ins.iter().map(|v| self.ty(*v)).collect(), n.outs.iter().map(|v| self.ty(*v)).collect())
    }
    /// Names the layer that the next nodes belong to.
    pub fn set_label(&mut self, label: &str) {
        self.label = label.into();
    }

    /// Whether the next nodes are adjoints.
    pub(crate) fn set_adjoint(&mut self, adjoint: bool) {
        self.adjoint = adjoint;
    }

    fn fail(&mut self, e: Error) {
        self.error.get_or_insert(e);
    }
    /// The first thing that went wrong while building: builders chain values, so errors wait here until a plan is made.
    pub fn check(&self) -> Result<()> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Refuses what an op cannot be used on: values of another graph, and the storage that it updates in place as an operand a
    /// second time, which it would then read and write as two.
    fn usable(&self, op: &dyn Op, ins: &[Value]) -> Result<()> {
        self.own(ins)?;
        for &(_, i) in op.in_place() {
            let Some(v) = ins.get(i) else { continue };
            if ins.iter().filter(|other| *other == v).count() > 1 {
                return Err(Error::job(format!("{} is updated in place and taken a second time", self.titled(*v))));
            }
        }
        Ok(())
    }

    /// A value's name, or its number where it has none.
    fn titled(&self, v: Value) -> String {
        let name = self.name(v);
        if name.is_empty() { format!("value {}", v.number) } else { name.into() }
    }

    /// Appends one use of `op` and returns its outputs.
    pub fn push(&mut self, op: impl Op + 'static, ins: &[Value]) -> Vec<Value> {
        self.push_arc(Arc::new(op), ins)
    }
    /// [`Graph::push`] for an op with one output.
    pub fn push1(&mut self, op: impl Op + 'static, ins: &[Value]) -> Value {
        self.push(op, ins)[0]
    }
    /// [`Graph::push`] for an op that is already shared.
    pub fn push_arc(&mut self, op: Arc<dyn Op>, ins: &[Value]) -> Vec<Value> {
        let t: Vec<Type> = ins.iter().map(|v| self.ty(*v)).collect();
        let types = match self.usable(&*op, ins).and_then(|()| op.infer(&t)) {
            Ok(types) => types,
            Err(e) => {
                let at = if self.label.is_empty() { String::new() } else { format!("{}: ", self.label) };
                let shapes: Vec<_> = t.iter().map(|t| format!("{:?}", t.shape)).collect();
                self.fail(Error::job(format!("{at}{} of {}: {e}", op.name(), shapes.join(", "))));
                // A value to go on with; nothing can be planned any more.
                vec![*t.first().unwrap_or(&NOTHING)]
            }
        };
        let outs: Vec<Value> = types.into_iter().map(|t| self.value(Kind::Temp, "", t)).collect();
        let (label, adjoint) = (self.label.clone(), self.adjoint);
        // Of another graph's values no node may speak; with an error set, nothing is planned any more.
        let ins = if self.own(ins).is_ok() { ins } else { &[] };
        self.nodes.push(Node { op, ins: ins.to_vec(), outs: outs.clone(), label, adjoint });
        outs
    }

    /// Lets node `at` use `op` on `ins`, under the label of node `part`. It writes the values `outs`, which keep their
    /// types, and new ones for outputs beyond them. Returns all outputs.
    pub(crate) fn replace(
        &mut self,
        at: usize,
        part: usize,
        op: impl Op + 'static,
        ins: &[Value],
        outs: &[Value],
    ) -> Vec<Value> {
        let types: Vec<Type> = ins.iter().map(|v| self.ty(*v)).collect();
        let types = op.infer(&types).expect("the caller knows that it fits");
        assert!(outs.iter().zip(&types).all(|(v, t)| self.ty(*v) == *t), "{} writes other types", op.describe().name);
        let new: Vec<Value> = types[outs.len()..].iter().map(|t| self.value(Kind::Temp, "", *t)).collect();
        let (outs, label) = ([outs, &new].concat(), self.nodes[part].label.clone());
        let adjoint = self.nodes[at].adjoint;
        self.nodes[at] = Node { op: Arc::new(op), ins: ins.to_vec(), outs: outs.clone(), label, adjoint };
        outs
    }

    /// Takes from node `at` the values that it wrote, for another node to write.
    pub(crate) fn retire(&mut self, at: usize) {
        let types: Vec<Type> = self.nodes[at].outs.iter().map(|v| self.ty(*v)).collect();
        self.nodes[at].outs = types.into_iter().map(|t| self.value(Kind::Temp, "", t)).collect();
    }

    /// Nodes that lead to one of `want`, in the order they were built; none leads to a value of another graph.
    pub fn needed(&self, want: &[Value]) -> Vec<usize> {
        let mut live = vec![false; self.len()];
        want.iter().filter_map(|v| self.index(*v)).for_each(|i| live[i] = true);
        let mut nodes = vec![];
        for (i, n) in self.nodes.iter().enumerate().rev() {
            if n.outs.iter().any(|o| live[o.i()]) {
                n.ins.iter().for_each(|v| live[v.i()] = true);
                nodes.push(i);
            }
        }
        nodes.reverse();
        nodes
    }

    /// Drops nodes from `first` on that do not lead to `keep`.
    pub(crate) fn prune(&mut self, first: usize, keep: &[Value]) {
        let mut used = vec![false; self.nodes.len()];
        used[..first].fill(true);
        self.needed(keep).into_iter().for_each(|i| used[i] = true);
        let mut used = used.into_iter();
        self.nodes.retain(|_| used.next().expect("one flag per node"));
    }
}
