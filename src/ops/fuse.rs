/*! Ops that become one where the device has a kernel that does both: what lies between them is neither written nor read.

Values keep their names, types and contents, and nodes their places: the fused op stands where the last of its parts
stood, or where the first one did if all that it reads is there by then, and its parts stay where they are, needed by
nobody. So whatever is asked of a graph afterwards is right; that nothing is computed twice is what the rules here see to. */

mod updates;

use super::activation::ReluGrad;
use super::arith::{Fill, Mul};
use super::cast::Cast;
use super::conv::{self, FusedBackward};
use super::image::{INPUTS, Inputs, Normalize};
use super::layout::{Concat, Slice};
use super::loss::{Mse, MseBoth, MseGrad};
use super::pool::unpool::{Unpool, WINDOW};
use super::pool::{MaxPool, MaxPoolGrad};
use super::softmax::{Softmax, SoftmaxConcat, SoftmaxConcatGrad, SoftmaxGrad};
use super::{dense, dropout};
use crate::graph::{Graph, Kind, Node, Op, Value};
use crate::shape::{DType, Type};

/// Fuses what leads to the values in `want`, of which none is fused away.
pub fn fuse(g: &mut Graph, want: &[&[Value]]) {
    // Each rule sees what the one before it made.
    for rule in [
        fuse_conv_pool,
        fuse_dense_dropout,
        fuse_dgrad_mask,
        fuse_cast_mask,
        fuse_dgrad_unpool,
        fuse_softmax_concat,
        fuse_mse_grad,
        fuse_inputs,
        fuse_cast_dense,
        fuse_dense_cast,
    ] {
        let uses = Uses::new(g, want);
        for at in uses.needed.clone() {
            if uses.know(&g.nodes()[at]) {
                rule(g, &uses, at);
            }
        }
    }
    updates::penalties(g, &Uses::new(g, want));
    updates::learn(g, &Uses::new(g, want));
    updates::updates(g, &Uses::new(g, want));
}

/// Who writes and who reads each value, of the nodes that are needed.
struct Uses {
    needed: Vec<usize>,
    writer: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
    wanted: Vec<bool>,
    /// By node: which of the lists need it, a bit for each.
    lists: Vec<u32>,
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
    fn know(&self, n: &Node) -> bool {
        n.outs.iter().any(|v| v.i() < self.readers.len())
    }

    /// The readers of a value that nobody else wants.
    fn readers(&self, v: Value) -> &[usize] {
        if self.wanted[v.i()] { &[] } else { &self.readers[v.i()] }
    }

    /// The node that writes `v`, if it is a `T` and node `reader` is all that reads it.
    fn only<'g, T: Op>(&self, g: &'g Graph, v: Value, reader: usize) -> Option<(usize, &'g T)> {
        let at = self.writer[v.i()].filter(|_| self.readers(v) == [reader])?;
        Some((at, is::<T>(&g.nodes()[at])?))
    }
}

/// The op of a node, if it is a `T`.
fn is<T: Op>(n: &Node) -> Option<&T> {
    n.op_as()
}

/// Puts `op`, which does what nodes `part` and `at` do, in the place of `at`, if it takes such operands; its outputs.
fn join(g: &mut Graph, [part, at]: [usize; 2], op: impl Op, ins: &[Value], out: Value) -> Option<Vec<Value>> {
    let types: Vec<Type> = ins.iter().map(|v| g.ty(*v)).collect();
    // `op` reads later than `part` did.
    let updated = g.nodes()[part..at].iter().any(|n| n.op.in_place().iter().any(|a| ins.contains(&n.ins[a.1])));
    (!updated && op.infer(&types).is_ok()).then(|| g.replace(at, part, op, ins, &[out]))
}

/// conv.fprop with ReLU -> maxpool becomes conv.pooled; maxpool.grad -> relu.grad becomes unpool, which knows from the
/// index what they find in the convolution's result.
fn fuse_conv_pool(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(&MaxPool { window }) = is(&g.nodes()[at]).filter(|p: &&MaxPool| p.window == WINDOW) else { return };
    let (y, pooled) = (g.nodes()[at].ins[0], g.nodes()[at].outs[0]);
    let Some((part, &conv)) = uses.writer[y.i()].and_then(|i| Some((i, is::<conv::Fprop>(&g.nodes()[i])?))) else {
        return;
    };
    // Of the other readers, the gradients that go back through the same pooling and the ReLU.
    let mut back = None;
    match *uses.readers(y) {
        [only] if only == at => {}
        [a, b, c] if a == at => {
            let (Some(max), Some(ReluGrad)) = (is::<MaxPoolGrad>(&g.nodes()[b]), is(&g.nodes()[c])) else { return };
            let (d, masked) = (&g.nodes()[b], &g.nodes()[c]);
            if max.window != window || d.ins[0] != y || masked.ins != [y, d.outs[0]] || uses.readers(d.outs[0]) != [c] {
                return;
            }
            back = Some((c, d.ins[1], masked.outs[0]));
        }
        _ => return,
    }
    let ins = g.nodes()[part].ins.clone();
    let outs =
        join(g, [part, at], conv::Pooled { conv, index: back.is_some(), storage: g.ty(pooled).dtype }, &ins, pooled);
    if let (Some(outs), Some((at, d, dz))) = (outs, back) {
        g.replace(at, part, Unpool, &[pooled, outs[1], d], &[dz]);
    }
}

/// dense.fprop with ReLU -> dropout becomes dense.dropped, which draws the mask that nobody else reads; dropout -> relu.grad
/// becomes dropout.grad, which knows from the result what was kept.
fn fuse_dense_dropout(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(&apply) = is::<dropout::Apply>(&g.nodes()[at]) else { return };
    let ([y, m], dropped) = (g.nodes()[at].ins[..].try_into().expect("x and mask"), g.nodes()[at].outs[0]);
    let (Some(part), Some(draw)) = (uses.writer[y.i()], uses.writer[m.i()]) else { return };
    let (Some(&dense), Some(&mask)) = (is::<dense::Fprop>(&g.nodes()[part]), is::<dropout::Mask>(&g.nodes()[draw]))
    else {
        return;
    };
    // The other readers are the gradients.
    let back = match (uses.readers(y), uses.readers(m)) {
        ([a], [b]) if [a, b] == [&at, &at] => None,
        (&[a, c], &[b, d]) if [a, b] == [at, at] => {
            let (scaled, masked) = (&g.nodes()[d], &g.nodes()[c]);
            let (Some(again), Some(ReluGrad)) = (is::<dropout::Apply>(scaled), is(masked)) else { return };
            let alone = uses.readers(scaled.outs[0]) == [c];
            if *again != apply || scaled.ins[1] != m || masked.ins != [y, scaled.outs[0]] || !alone {
                return;
            }
            Some((c, scaled.ins[0], masked.outs[0]))
        }
        _ => return,
    };
    if mask.keep != apply.keep {
        return;
    }
    let ins = [&g.nodes()[part].ins[..], &g.nodes()[draw].ins].concat();
    let done = join(g, [part, at], dense::Dropped { dense, mask }, &ins, dropped);
    if let (Some(_), Some((at, dy, dz))) = (done, back) {
        let op = dropout::Grad { keep: apply.keep, storage: g.ty(dropped).dtype };
        g.replace(at, part, op, &[dropped, dy], &[dz]);
    }
}

/// What dropout kept of what a relu.grad or dropout.grad goes back through.
fn kept(n: &Node) -> Option<f32> {
    is::<ReluGrad>(n).map(|_| 1.0).or_else(|| is::<dropout::Grad>(n).map(|d| d.keep))
}

/// dgrad -> relu.grad or dropout.grad becomes dgrad with a mask.
fn fuse_dgrad_mask(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(keep) = kept(&g.nodes()[at]) else { return };
    let ([y, dx], dz) = (g.nodes()[at].ins[..].try_into().expect("y and dx"), g.nodes()[at].outs[0]);
    let ins = |g: &Graph, part: usize| [&g.nodes()[part].ins[..], &[y]].concat();
    let plain = |fused| fused == FusedBackward::Nothing && keep == 1.0;
    if let Some((part, &op)) = uses.only::<conv::Dgrad>(g, dx, at).filter(|(_, op)| plain(op.fused)) {
        join(g, [part, at], conv::Dgrad { fused: FusedBackward::Relu, ..op }, &ins(g, part), dz);
    } else if let Some((part, &op)) = uses.only::<dense::Dgrad>(g, dx, at).filter(|(_, op)| op.mask.is_none()) {
        join(g, [part, at], dense::Dgrad { mask: Some(keep), ..op }, &ins(g, part), dz);
    }
}

/// cast -> relu.grad or dropout.grad becomes dropout.grad of what was cast.
fn fuse_cast_mask(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(keep) = kept(&g.nodes()[at]) else { return };
    let ([y, dx], dz) = (g.nodes()[at].ins[..].try_into().expect("y and dx"), g.nodes()[at].outs[0]);
    if let Some((part, Cast { .. })) = uses.only(g, dx, at) {
        let ins = [y, g.nodes()[part].ins[0]];
        join(g, [part, at], dropout::Grad { keep, storage: g.ty(y).dtype }, &ins, dz);
    }
}

/// Softmax of each -> concat becomes softmax.concat, and slice -> softmax.grad of each becomes softmax.concat.grad, in the
/// place of the first of them.
fn fuse_softmax_concat(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(Concat) = is(&g.nodes()[at]) else { return };
    let (parts, y) = (g.nodes()[at].ins.clone(), g.nodes()[at].outs[0]);
    let (mut ins, mut back, mut from) = (vec![], vec![], 0);
    for p in parts {
        let width = g.ty(p).channels();
        let Some(n) = uses.writer[p.i()].map(|i| &g.nodes()[i]).filter(|n| is::<Softmax>(n).is_some()) else { return };
        ins.push(n.ins[0]);
        match *uses.readers(p) {
            [only] if only == at => {}
            [a, s] if a == at && is::<SoftmaxGrad>(&g.nodes()[s]).is_some() => {
                let own = Slice { from, width };
                let found = uses.only::<Slice>(g, g.nodes()[s].ins[1], s).filter(|(_, slice)| **slice == own);
                let Some((slice, _)) = found else { return };
                back.push((s, g.nodes()[slice].ins[0], (from, width)));
            }
            _ => return,
        }
        from += width;
    }
    let types: Vec<Type> = ins.iter().map(|v| g.ty(*v)).collect();
    // Scores are no state: nothing has updated them since.
    if SoftmaxConcat.infer(&types).is_err() || back.iter().any(|b| b.1 != back[0].1) {
        return;
    }
    g.replace(at, at, SoftmaxConcat, &ins, &[y]);
    if let Some(&(first, d, _)) = back.iter().min() {
        let dx: Vec<Value> = back.iter().map(|b| g.nodes()[b.0].outs[0]).collect();
        back.iter().for_each(|b| g.retire(b.0));
        let parts = back.iter().map(|b| b.2).collect();
        g.replace(first, at, SoftmaxConcatGrad { parts }, &[y, d], &dx);
    }
}

/// mse and mse.grad become mse.both, in the place of the first: whatever is derived from a loss is derived after it, and the
/// gradient of the loss is 1 or, where it is scaled, the scale.
fn fuse_mse_grad(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(&Mse { reduction }) = is(&g.nodes()[at]) else { return };
    let (mut ins, loss) = (g.nodes()[at].ins.clone(), g.nodes()[at].outs[0]);
    let grads = uses.readers[ins[0].i()].iter().filter(|&&i| {
        let n = &g.nodes()[i];
        is::<MseGrad>(n).is_some_and(|grad| grad.reduction == reduction) && n.ins[..3] == ins
    });
    let &[grad] = &grads.copied().collect::<Vec<_>>()[..] else { return };
    let writer = |v: Value| uses.writer[v.i()].map(|i| &g.nodes()[i]);
    let one = |v: Value| writer(v).and_then(is::<Fill>).is_some_and(|fill| fill.value == 1.0);
    let d = g.nodes()[grad].ins[3];
    let scale = match writer(d).filter(|n| is::<Mul>(n).is_some()).map(|n| &n.ins[..]) {
        Some(&[fill, scale]) if one(fill) && g.kind(scale) == Kind::Input => Some(scale),
        _ if one(d) => None,
        _ => return,
    };
    ins.extend(scale);
    let dx = g.nodes()[grad].outs[0];
    g.retire(grad);
    g.replace(at, at, MseBoth { reduction, scaled: scale.is_some() }, &ins, &[loss, dx]);
}

/// image.normalize and cast, of several networks, become image.inputs, in the place of the first.
fn fuse_inputs(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(Normalize { .. }) = is(&g.nodes()[at]) else { return };
    let ty = g.ty(g.nodes()[at].ins[0]);
    // What one plan needs is not made by another, and their images must be there when the first of them runs.
    let own = |i: &usize| {
        let n = &g.nodes()[*i];
        is::<Normalize>(n).is_some()
            && uses.know(n)
            && g.ty(n.ins[0]) == ty
            && uses.lists[*i] == uses.lists[at]
            && uses.writer[n.ins[0].i()].is_none_or(|w| w < at)
    };
    let later = uses.needed.iter().copied().filter(|i| *i >= at);
    let mut nodes: Vec<usize> = later.filter(own).take(INPUTS).collect();
    // Of every network: its image, what is made of that, and how it is stored.
    let (mut each, mut ins, mut outs) = (vec![], vec![], vec![]);
    for i in nodes.clone() {
        let (x, y) = (g.nodes()[i].ins[0], g.nodes()[i].outs[0]);
        let cast = uses.readers(y).first().filter(|_| uses.readers(y).len() == 1);
        let cast = cast.filter(|c| is::<Cast>(&g.nodes()[**c]).is_some());
        each.extend(is::<Normalize>(&g.nodes()[i]).copied());
        ins.push(x);
        outs.push(cast.map_or(y, |c| g.nodes()[*c].outs[0]));
        nodes.extend(cast);
    }
    let to = g.ty(outs[0]).dtype;
    if nodes.len() > 1 && outs.iter().all(|y| g.ty(*y).dtype == to) {
        nodes.iter().for_each(|n| g.retire(*n));
        g.replace(at, at, Inputs { each, to }, &ins, &outs);
    }
}

/// The type that a dense layer stores its result as, and the layer.
fn stored(g: &Graph, at: usize) -> Option<(dense::Fprop, DType)> {
    let n = &g.nodes()[at];
    is::<dense::Mixed>(n).map(|m| (m.dense, m.to)).or_else(|| Some((*is::<dense::Fprop>(n)?, g.ty(n.outs[0]).dtype)))
}

/// cast -> dense.fprop becomes dense.mixed.
fn fuse_cast_dense(g: &mut Graph, uses: &Uses, at: usize) {
    let Some((dense, to)) = stored(g, at) else { return };
    let (mut ins, y) = (g.nodes()[at].ins.clone(), g.nodes()[at].outs[0]);
    if let Some((part, Cast { .. })) = uses.only(g, ins[0], at) {
        ins[0] = g.nodes()[part].ins[0];
        let by = g.ty(ins[1]).dtype;
        join(g, [part, at], dense::Mixed { dense, by, to }, &ins, y);
    }
}

/// dense.fprop or dense.mixed -> cast becomes dense.mixed.
fn fuse_dense_cast(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(&Cast { to }) = is(&g.nodes()[at]) else { return };
    let (x, y) = (g.nodes()[at].ins[0], g.nodes()[at].outs[0]);
    let Some(part) = uses.writer[x.i()].filter(|_| uses.readers(x) == [at]) else { return };
    if let Some((dense, _)) = stored(g, part) {
        let ins = g.nodes()[part].ins.clone();
        let by = g.ty(ins[1]).dtype;
        join(g, [part, at], dense::Mixed { dense, by, to }, &ins, y);
    }
}

/// conv.dgrad -> unpool becomes dgrad that writes all four pixels of each of its own.
fn fuse_dgrad_unpool(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(Unpool) = is(&g.nodes()[at]) else { return };
    let ([pooled, index, d], dz) = (g.nodes()[at].ins[..].try_into().expect("three inputs"), g.nodes()[at].outs[0]);
    if let Some((part, &op)) = uses.only::<conv::Dgrad>(g, d, at).filter(|(_, op)| op.fused == FusedBackward::Nothing) {
        let ins = [&g.nodes()[part].ins[..], &[pooled, index]].concat();
        join(g, [part, at], conv::Dgrad { fused: FusedBackward::Pool, ..op }, &ins, dz);
    }
}
