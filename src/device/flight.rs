//! What ranks do together while the launches after it go on.

use crate::error::Result;
use crate::launch::{Code, Collective, Launch, Operands};
use crate::par;
use crate::plan::Scheduled;
use crate::ranks::Communicator;
use std::sync::mpsc::channel;
use std::sync::{Condvar, Mutex};
use std::thread;

/// By launch: how many of the plan's collectives must be done before it begins. `meets(a, b)` says whether launches a and b
/// touch memory of each other. Collectives themselves follow each other in any case.
pub fn awaited(launches: &[Scheduled], meets: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let collective = |i: &usize| matches!(launches[*i].launch.code, Code::Collective(_));
    let all: Vec<usize> = (0..launches.len()).filter(collective).collect();
    let of = |i: usize| {
        let before = all.partition_point(|c| *c < i);
        (0..before).rev().find(|n| meets(all[*n], i)).map_or(0, |n| n + 1)
    };
    (0..launches.len()).map(|i| if collective(&i) { 0 } else { of(i) }).collect()
}

/// How many collectives of a run are done, or why the next one is not.
struct Flight {
    done: Mutex<Result<usize>>,
    landed: Condvar,
}

impl Flight {
    fn land(&self, result: Result<()>) {
        let mut done = self.done.lock().expect("nobody panics with it");
        match (&mut *done, result) {
            (Ok(n), Ok(())) => *n += 1,
            (Ok(_), Err(e)) => *done = Err(e),
            (Err(_), _) => {}
        }
        self.landed.notify_all();
    }

    /// Waits until `n` are done. False where that will never be.
    fn wait(&self, n: usize) -> bool {
        let mut done = self.done.lock().expect("nobody panics with it");
        loop {
            match &*done {
                Ok(have) if *have < n => done = self.landed.wait(done).expect("nobody panics with it"),
                done => return done.is_ok(),
            }
        }
    }
}

/// Exchanges the outputs of a launch with the other ranks, if there are any.
pub fn exchange(c: Collective, call: &mut Operands, peers: Option<&dyn Communicator>) -> Result<()> {
    let Some(peers) = peers.filter(|_| c.ranks > 1) else { return Ok(()) };
    call.with(|operands| peers.exchange(c.exchange, c.bucket, &mut operands.outputs::<f32>()))
}

/// Runs launches in order, `kernel` each that is no collective; those are done by a thread of their own, one after another,
/// while the launches go on that do not touch what is being exchanged.
pub fn run(
    launches: &[Scheduled],
    calls: &mut [Operands],
    awaited: &[usize],
    peers: &dyn Communicator,
    kernel: impl Fn(&Launch, &mut Operands),
) -> Result<()> {
    let flight = Flight { done: Mutex::new(Ok(0)), landed: Condvar::new() };
    thread::scope(|scope| -> Result<()> {
        let (send, receive) = channel::<(Collective, &mut Operands)>();
        let flight = &flight;
        par::beside(scope, move || {
            for (c, call) in receive {
                let result = exchange(c, call, Some(peers));
                let failed = result.is_err();
                flight.land(result);
                if failed {
                    break;
                }
            }
        })?;
        for ((s, call), n) in launches.iter().zip(calls).zip(awaited) {
            match s.launch.code {
                // Where nobody takes it any more, one before it failed.
                Code::Collective(c) => drop(send.send((c, call))),
                _ if flight.wait(*n) => kernel(&s.launch, call),
                _ => break,
            }
        }
        Ok(())
    })?;
    flight.done.into_inner().expect("nobody panics with it").map(drop)
}
