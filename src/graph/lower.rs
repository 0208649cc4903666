//! How ops make launches.

use super::{Instance, Io, Op};
use crate::launch::choices::Product;
use crate::launch::estimate::Price;
use crate::launch::gpu::{self, Access, Call, CudaStruct, Kernel, Location};
use crate::launch::tensor_map::TensorMap;
use crate::launch::{Buf, Choices, Code, Cost, Launch, Operands, Products, Warpgroups};
use crate::shape::Type;
use std::sync::Arc;

/// One host launch per member of a group, all running `routine`.
pub fn host_launches(
    op: &dyn Op,
    io: &Io,
    group: &[Instance],
    scratch: usize,
    routine: impl Fn(&Operands) + Send + Sync + 'static,
) -> Vec<Launch> {
    let code = Code::Host(Arc::new(routine));
    let launch = |(member, m): (usize, &Instance)| Launch {
        name: op.name(),
        member,
        code: code.clone(),
        ins: m.ins.clone(),
        outs: m.outs.clone(),
        scratch,
        cost: op.cost(io),
    };
    group.iter().enumerate().map(launch).collect()
}

/// An operand of a kernel, as the op that calls it sees it.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    /// Input `i`, read.
    In(usize),
    /// Output `o`, of which every element is written.
    Out(usize),
    /// Output `o`, read and written: state that is updated in place, or an output whose other parts are already there.
    Update(usize),
    /// Output `o`, read: an earlier launch of the same op wrote it.
    Result(usize),
    Scratch(Scratch, Access),
    /// What blocks of one launch count in: 32 bits each, zero when it begins, and again when it ends.
    Counts(Counts),
}

/// Some of the counts of one op instance.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    at: usize,
    bytes: usize,
}

/// A part of the scratch memory of one op instance.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    at: usize,
    bytes: usize,
}

/// Collects the kernel launches of a group. Its cost is that of the first one.
pub struct GpuCalls<'a> {
    op: &'a dyn Op,
    io: &'a Io<'a>,
    group: &'a [Instance],
    choices: &'a Choices,
    products: Products,
    /// What the next call computes, and what a tile of it costs.
    product: Option<(Product, Price)>,
    /// Tensor maps of the next call.
    maps: Vec<(usize, TensorMap)>,
    scratch: usize,
    counts: usize,
    launches: Vec<Launch>,
}

impl<'a> GpuCalls<'a> {
    pub fn new(
        op: &'a dyn Op,
        io: &'a Io<'a>,
        group: &'a [Instance],
        choices: &'a Choices,
        products: Products,
    ) -> Self {
        assert!(group.len() <= gpu::GROUP, "the plan splits larger groups");
        Self { op, io, group, choices, products, product: None, maps: vec![], scratch: 0, counts: 0, launches: vec![] }
    }

    /// By what float32 numbers are multiplied.
    pub fn products(&self) -> Products {
        self.products
    }

    /// Which convolutions are computed by products of warpgroups.
    pub fn warpgroups(&self) -> Warpgroups {
        self.choices.warpgroups
    }

    /// The variant of a kernel ([`Choices::tile`]) for `product`, which is that of one instance. The next call computes all.
    pub fn tile(&mut self, product: Product, price: impl Fn(&'static [i64]) -> Price) -> &'static [i64] {
        let product = Product { copies: product.copies * self.group.len(), ..product };
        let tile = self.choices.tile(&product, &price);
        self.product = Some((product, price(tile)));
        tile
    }

    /// Gives the next call tensor maps of its operands, the same ones for each instance.
    pub fn maps(self, maps: Vec<(usize, TensorMap)>) -> Self {
        Self { maps, ..self }
    }

    /// [`Description::stream`] of each instance.
    pub fn streams(&self) -> [u32; gpu::GROUP] {
        std::array::from_fn(|i| self.group.get(i).map_or(0, |m| m.stream))
    }

    /// Reserves scratch memory for each instance. Contents are undefined at first, and stay from launch to launch.
    pub fn scratch(&mut self, bytes: usize) -> Scratch {
        let at = self.scratch;
        self.scratch += bytes.next_multiple_of(256);
        Scratch { at, bytes }
    }

    /// Reserves `n` counts for each instance.
    pub fn counts(&mut self, n: usize) -> Counts {
        let (at, bytes) = (self.counts, 4 * n);
        self.counts += bytes.next_multiple_of(256);
        Counts { at, bytes }
    }

    /// Appends one launch that computes every instance. `grid` counts blocks along x and y.
    pub fn call<A: CudaStruct>(
        mut self,
        kernel: &'static Kernel,
        consts: &[i64],
        grid: [usize; 2],
        operands: &[Operand],
        args: A,
    ) -> Self {
        assert_eq!(kernel.args, A::TEXT, "{} takes other numbers", kernel.entry);
        assert_eq!(kernel.operands, operands.len(), "{} takes other operands", kernel.entry);
        let known = kernel.variants.iter().find(|v| **v == consts);
        let consts = known.unwrap_or_else(|| panic!("{} is not compiled for {consts:?}", kernel.entry));
        for o in operands {
            let of = |t: &Type| t.dtype.is_half() && !kernel.consts.iter().any(|c| ["STORAGE", "FROM"].contains(c));
            let unread = match *o {
                Operand::In(i) => of(&self.io.ins[i]),
                Operand::Out(o) | Operand::Update(o) | Operand::Result(o) => of(&self.io.outs[o]),
                Operand::Scratch(..) | Operand::Counts(_) => false,
            };
            assert!(!unread, "{} reads float32, and an operand of {} has 16 bits", kernel.entry, self.op.name());
        }
        // The plan refuses what is too large.
        let grid = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let of = |m: &Instance| {
            let value =
                |buf: Buf, bytes: usize, access| gpu::CallOperand { place: Location::Value(buf), bytes, access };
            let place = |o: &Operand| match *o {
                Operand::In(i) => value(m.ins[i], self.io.ins[i].bytes(), Access::Read),
                Operand::Out(o) => value(m.outs[o], self.io.outs[o].bytes(), Access::Write),
                Operand::Update(o) => value(m.outs[o], self.io.outs[o].bytes(), Access::Update),
                Operand::Result(o) => value(m.outs[o], self.io.outs[o].bytes(), Access::Read),
                // `done` knows how far apart the instances' parts are.
                Operand::Scratch(s, access) => {
                    gpu::CallOperand { place: Location::Scratch(s.at), bytes: s.bytes, access }
                }
                Operand::Counts(c) => {
                    gpu::CallOperand { place: Location::Counts(c.at), bytes: c.bytes, access: Access::Update }
                }
            };
            operands.iter().map(place).collect()
        };
        let operands = self.group.iter().map(of).collect();
        let (product, price) = self.product.take_if(|p| p.0.kernel == kernel).unzip();
        let cost = if self.launches.is_empty() { self.cost() } else { Cost::default() };
        self.launches.push(Launch {
            name: self.op.name(),
            member: 0,
            code: Code::Kernel(Call {
                kernel,
                consts,
                grid,
                operands,
                args: bytemuck::bytes_of(&args).to_vec(),
                maps: std::mem::take(&mut self.maps),
                product,
                price: price.map(Box::new),
            }),
            ins: self.group.iter().flat_map(|m| m.ins.clone()).collect(),
            outs: self.group.iter().flat_map(|m| m.outs.clone()).collect(),
            scratch: 0,
            cost,
        });
        self
    }

    /// [`GpuCalls::call`] with a thread for each of `items`.
    pub fn each<A: CudaStruct>(
        self,
        kernel: &'static Kernel,
        consts: &[i64],
        items: usize,
        operands: &[Operand],
        args: A,
    ) -> Self {
        self.call(kernel, consts, [gpu::count(items).div_ceil(kernel.threads) as usize, 1], operands, args)
    }

    /// [`GpuCalls::call`] with a thread for every four elements of output 0, as `fours` in `kernels/common.cuh` deals them out: it
    /// takes their number modulo 2^32, for the grid tells the rest.
    pub fn map<A: CudaStruct>(
        self,
        kernel: &'static Kernel,
        consts: &[i64],
        operands: &[Operand],
        args: impl FnOnce(u32) -> A,
    ) -> Self {
        let n = self.io.outs[0].numel();
        self.call(kernel, consts, [n.div_ceil(4 * kernel.threads as usize), 1], operands, args(n as u32))
    }

    fn cost(&self) -> Cost {
        let (c, n) = (self.op.cost(self.io), self.group.len() as f64);
        Cost { flops: n * c.flops, read: n * c.read, write: n * c.write }
    }

    /// The launches.
    pub fn done(mut self) -> Vec<Launch> {
        for launch in &mut self.launches {
            launch.scratch = self.scratch * self.group.len();
            let Code::Kernel(call) = &mut launch.code else { unreachable!("made by `call`") };
            for (instance, operands) in call.operands.iter_mut().enumerate() {
                for o in operands {
                    match &mut o.place {
                        Location::Scratch(at) => *at += instance * self.scratch,
                        Location::Counts(at) => *at += instance * self.counts,
                        Location::Value(_) => {}
                    }
                }
            }
        }
        self.launches
    }
}
