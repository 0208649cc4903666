//! A weight's gradient and the step along it as one op: the gradient is not written.

use super::{Wgrad, flops, gpu};
use crate::error::{Error, Result};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Op, Role, host_launches, traffic};
use crate::host;
use crate::launch::{Cost, Launch, Simd};
use crate::ops::fuse::Uses;
use crate::ops::mma::Factors;
use crate::ops::optim::One;
use crate::ops::optim::{self, Sgd};
use crate::shape::Type;

/// [`Wgrad`] and a step of w along dw ([`optim::Update`]). Inputs w, v and, with `copy`, the copy of w that multiplies; then x,
/// dy and hyper. Outputs w, v and the copy in place, and, where there is a bias, db. For batches whose rows are one sum in
/// every kernel: 128 rows, or more of a large layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    pub wgrad: Wgrad,
    pub sgd: Sgd,
    pub copy: bool,
}

impl Update {
    /// Values that are updated.
    fn updated(&self) -> usize {
        2 + self.copy as usize
    }

    /// Rows, inputs and outputs of the layer.
    fn extents(&self, ins: &[Type]) -> [usize; 3] {
        let (x, dy) = (ins[self.updated()], ins[self.updated() + 1]);
        [x.dims()[0], x.row(), dy.row()]
    }

    /// The types of dw and, where there is a bias, db.
    fn gradients(&self, ins: &[Type]) -> Result<Vec<Type>> {
        self.wgrad.infer(&ins[self.updated()..self.updated() + 2])
    }
}

impl Op for Update {
    fn describe(&self) -> Description {
        Description::of("dense.update").role(Role::Dense).in_place(if self.copy {
            &[(0, 0), (1, 1), (2, 2)]
        } else {
            &[(0, 0), (1, 1)]
        })
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let n = self.updated();
        if ins.len() != n + 3 || ins[n].dims().is_empty() || ins[n + 1].dims().is_empty() {
            return Err(Error::job("w, v, as asked for a copy of w, x, dy and hyper are needed"));
        }
        let gradients = self.gradients(ins)?;
        self.sgd.infer(&[ins[0], ins[1], gradients[0], ins[n + 2]])?;
        if self.copy && (ins[2].shape != ins[0].shape || ins[2].dtype != ins[n].dtype || !ins[2].dtype.is_half()) {
            return Err(Error::job("the copy must have w's shape and the 16 bits of x"));
        }
        if !gpu::one_part(self.extents(ins)) {
            return Err(Error::job("more rows than are one sum"));
        }
        Ok([&ins[..n], &gradients[1..]].concat())
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let n = self.updated();
        let types = self.gradients(io.ins).expect("checked by infer");
        let mut gradients: Vec<Vec<f64>> = types.iter().map(|t| vec![f64::NAN; t.numel()]).collect();
        self.wgrad.eval(&Io { ins: &io.ins[n..n + 2], outs: &types }, &ins[n..n + 2], &mut gradients);
        let update = optim::Update { sgd: self.sgd, copy: self.copy, scaled: false, from: 0 };
        let parts = [ins[0], ins[1], &gradients[0], ins[n + 2], ins[n - 1]];
        update.eval(io, &parts[..4 + self.copy as usize], &mut outs[..n]);
        outs.iter_mut().skip(n).zip(gradients.into_iter().skip(1)).for_each(|(out, db)| *out = db);
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, n, [rows, i, o]) = (*self, self.updated(), self.extents(io.ins));
        let sums = if op.wgrad.bias { host::column_sums_scratch(rows, o) } else { 0 };
        host_launches(self, io, group, 4 * (i * o + sums), move |h| {
            let (dw, sums) = h.scratch::<f32>().split_at_mut(i * o);
            host::dense::wgrad(simd, rows, i, o, h.input(n), h.input(n + 1), dw);
            if op.wgrad.bias {
                host::column_sums(simd, rows, o, h.input(n + 1), h.output(n), sums);
            }
            let hyper: [f32; 4] = h.input(n + 2).try_into().expect("checked by infer");
            let w = h.output::<f32>(0);
            op.sgd.take(hyper, w, h.output(1), dw);
            if op.copy {
                h.output::<f32>(2).copy_from_slice(w);
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let factors = Factors::of(io.ins[self.updated()].dtype, gpu.products());
        gpu::update(gpu, factors, self.extents(io.ins), self.wgrad.bias, (self.sgd, self.copy))
    }
    fn cost(&self, io: &Io) -> Cost {
        let [rows, i, o] = self.extents(io.ins);
        Cost { flops: flops(rows, i, o) + 6.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// dense.wgrad -> sgd becomes dense.update where nobody else reads the weight's gradient.
pub(super) fn fuse(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(one) = One::of(g, uses, at).filter(|one| one.by.is_none() && one.penalty.is_none() && !one.piece) else {
        return;
    };
    let Some((part, &wgrad)) = uses.only::<Wgrad>(g, one.g, at) else { return };
    let n = &g.nodes()[part];
    if n.outs[0] != one.g {
        return;
    }
    // The bias's gradient is written where the weight is updated, which is later.
    if n.outs[1..].iter().any(|db| uses.readers[db.i()].iter().any(|&reader| reader < at)) {
        return;
    }
    let ins = [&one.values[..], &n.ins, &[one.hyper]].concat();
    let outs = [&one.outs[..], &n.outs[1..]].concat();
    let types: Vec<Type> = ins.iter().map(|v| g.ty(*v)).collect();
    let op = Update { wgrad, sgd: one.sgd, copy: one.values.len() > 2 };
    // Activations and their gradients are no state: nothing updates them.
    if op.infer(&types).is_ok() {
        g.retire(part);
        g.replace(at, part, op, &ins, &outs);
    }
}
