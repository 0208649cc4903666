//! Nothing is allocated during a step: what the allocator is asked for is counted, in this process of its own.

mod common;
use deep_affect::device::{Cpu, Data};
use deep_affect::models::Architecture;
use deep_affect::ops::optim::{Form, Sgd};
use deep_affect::train::network::{EVAL, Network, PENALTY, TRAIN, Task};
use deep_affect::train::params::Initial;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

fn count(size: usize) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(size as u64, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        count(l.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(l) }
    }
    unsafe fn alloc_zeroed(&self, l: Layout) -> *mut u8 {
        count(l.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(l) }
    }
    unsafe fn realloc(&self, p: *mut u8, l: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(p, l, size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, l) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Steps after the one that resolves addresses.
const STEPS: usize = 60;

/// Calls and bytes of [`STEPS`] runs of each plan.
fn measure(architecture: Architecture, width: usize, threads: usize) -> Vec<[u64; 2]> {
    let mut c = common::small(architecture, width, 0.5);
    (c.towers[1].l2, c.towers[1].keep) = (2e-4, 0.5);
    let task = Task::EndToEnd { config: c, frozen: vec![] };
    let sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };
    let cpu = Box::new(Cpu::new(Some(threads)).unwrap());
    let mut net = Network::new(&task, 3, sgd, cpu).unwrap();
    let params = net.stored();
    for part in &net.parts {
        Initial::new(1, true).fill(&mut net.session, &params, &part.prefix, &[]).unwrap();
        net.session.write(part.hyper, Data::F32(&[1e-3, 0.9, 0.0, 0.0])).unwrap();
    }
    net.session.write(net.weight, Data::F32(&[1.0; 3])).unwrap();
    let of = |plan| {
        net.session.run(plan).unwrap();
        let before = [&CALLS, &BYTES].map(|x| x.load(Ordering::Relaxed));
        (0..STEPS).for_each(|_| net.session.run(plan).unwrap());
        let after = [&CALLS, &BYTES].map(|x| x.load(Ordering::Relaxed));
        [after[0] - before[0], after[1] - before[1]]
    };
    [TRAIN, EVAL, PENALTY].into_iter().map(of).collect()
}

/// The queue through which a thread pool is handed its work grows by a block of 63 entries at a time: that, twice at
/// most in 60 steps, is all, whatever the model.
#[test]
fn no_allocation_during_a_step() {
    for (architecture, width) in [(Architecture::Shared, 64), (Architecture::Split, 64), (Architecture::Shared, 8)] {
        for (plan, [calls, bytes]) in ["train", "eval", "penalty"].iter().zip(measure(architecture, width, 1)) {
            println!("{architecture:?} 1/{width} {plan}: {calls} calls, {bytes} bytes in {STEPS} steps");
            assert!(calls <= 2 && bytes <= 4096, "{architecture:?} 1/{width} {plan}: {calls} calls, {bytes} bytes");
        }
    }
}
