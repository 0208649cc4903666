//! Several ranks train what one trains: in float64 the same curve, in float32 one as good, with the same bits each time; and what
//! goes wrong among them is found and named. No GPU is needed: ranks are threads, or processes of the program, on loopback.

mod common;
#[cfg(unix)]
#[path = "common/runs.rs"]
mod runs;

use common::{have, pictures, reference, small};
use deep_affect::data::Pictures;
use deep_affect::device::{self, Checks, Cpu, Data, Device, Session};
use deep_affect::error::{Error, Result};
use deep_affect::graph::{Graph, Node};
use deep_affect::launch::{Exchange, Simd};
use deep_affect::models::{Architecture, Config};
use deep_affect::ops::collective::{AllGather, AllReduce, ReduceScatter};
use deep_affect::ops::loss::Reduction;
use deep_affect::plan::{Options, Plan};
use deep_affect::ranks::{BUCKET, Communicator, Peers, Place, Tcp, agree, pieces, shares};
use deep_affect::shape::Type;
use deep_affect::train::fit::{self, AdamForm, Inputs, Samples, Settings, SgdForm, State, Targets, Updates};
use deep_affect::train::network::{Blueprint, Losses, Method, Network, Precision, TRAIN, Task};
use deep_affect::train::params::Initial;
use deep_affect::weights::init::Rule;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` as each of several ranks, threads of this process; one alone has no peers.
fn ranks<T: Send>(n: usize, work: impl Fn(Peers) -> T + Sync) -> Vec<T> {
    if n == 1 {
        return vec![work(None)];
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = |rank| Place { rank, ranks: n, local: rank, locals: n, master: ("127.0.0.1".into(), port) };
    thread::scope(|scope| {
        let work = &work;
        let run = move |tcp: Result<Tcp>| work(Some(Arc::new(tcp.unwrap()) as Arc<dyn Communicator>));
        let first = scope.spawn(move || run(Tcp::host(listener, n, PATIENCE, &mut || Ok(()))));
        let others = (1..n).map(|rank| scope.spawn(move || run(Tcp::meet(&place(rank), PATIENCE))));
        let all: Vec<_> = [first].into_iter().chain(others).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn sums_are_those_of_the_ranks_in_order() {
    for n in [2, 3, 5] {
        let number = |rank: usize, i: usize| (1.0 + rank as f32) / (3.0 + i as f32);
        let got = ranks(n, |peers| {
            let (peers, sizes) = (peers.unwrap(), [7, 0, 1, 40]);
            let rank = peers.rank();
            let mut all: Vec<Vec<f32>> = sizes.map(|size| (0..size).map(|i| number(rank, i)).collect()).into();
            let how = Exchange::AllReduce;
            peers.exchange(how, 0, &mut all.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()).unwrap();
            let mut wide = vec![rank as f64 + 0.1; 2];
            peers.exchange64(how, 1, &mut [&mut wide[..]]).unwrap();
            let mut said = format!("rank {rank}").into_bytes();
            assert_eq!(peers.gather(&said).unwrap()[n - 1], format!("rank {}", n - 1).into_bytes());
            peers.broadcast(1, &mut said).unwrap();
            peers.barrier().unwrap();
            (all, wide, said)
        });
        let sum = |i| (1..n).fold(number(0, i), |sum, rank| sum + number(rank, i));
        for (all, wide, said) in &got {
            assert!(all.iter().flat_map(|x| x.iter().enumerate()).all(|(i, x)| x.to_bits() == sum(i).to_bits()));
            assert_eq!(*wide, vec![(0..n).map(|r| r as f64 + 0.1).sum::<f64>(); 2]);
            assert_eq!(said, b"rank 1");
        }
    }
}

/// Two exchanges that are one: first each rank has the sums of its share, and its own numbers elsewhere; then all have all.
#[test]
fn shares_are_summed_and_handed_round() {
    for n in [2, 3, 5] {
        let sizes = [700, 0, 1, 640];
        let number = |rank: usize, i: usize| (1.0 + rank as f32) / (3.0 + i as f32);
        let sum = |i| (1..n).fold(number(0, i), |sum, rank| sum + number(rank, i));
        let got = ranks(n, |peers| {
            let (peers, mut all) = (peers.unwrap(), vec![]);
            let rank = peers.rank();
            let mut values: Vec<Vec<f32>> = sizes.map(|size| (0..size).map(|i| number(rank, i)).collect()).into();
            for how in [Exchange::ReduceScatter, Exchange::AllGather] {
                peers.exchange(how, 0, &mut values.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()).unwrap();
                all.push(values.clone());
            }
            let collected = peers.collect(format!("rank {rank}").as_bytes()).unwrap();
            assert_eq!(collected.len(), if rank == 0 { n } else { 0 });
            assert!(collected.iter().enumerate().all(|(r, said)| *said == format!("rank {r}").into_bytes()));
            all
        });
        let cuts = shares(&sizes, n);
        for (rank, all) in got.iter().enumerate() {
            let own = pieces(&sizes, cuts[rank]..cuts[rank + 1]);
            assert!(!own.is_empty() && own.len() < sizes.len());
            for (v, values) in all[0].iter().enumerate() {
                for (i, x) in values.iter().enumerate() {
                    let mine = own.iter().any(|(value, piece)| *value == v && piece.contains(&i));
                    let want = if mine { sum(i) } else { number(rank, i) };
                    assert_eq!(x.to_bits(), want.to_bits(), "number {i} of value {v} on rank {rank} of {n}");
                }
            }
            assert!(all[1].iter().flat_map(|v| v.iter().enumerate()).all(|(i, x)| x.to_bits() == sum(i).to_bits()));
        }
    }
}

/// The first error of each rank; `None` where it has none.
fn complaints(n: usize, work: impl Fn(&dyn Communicator) -> Result<()> + Sync) -> Vec<Option<String>> {
    ranks(n, |peers| {
        let peers = peers.unwrap();
        let e = work(&*peers).err().map(|e| e.to_string());
        if let Some(e) = &e {
            peers.leave(e);
        }
        e
    })
}

#[test]
fn ranks_out_of_step_are_named() {
    let exchange =
        |p: &dyn Communicator, how, bucket: u32, n: usize| p.exchange(how, bucket, &mut [&mut vec![1.0; n][..]]);
    let reduce = |p: &dyn Communicator, bucket: u32, n: usize| exchange(p, Exchange::AllReduce, bucket, n);
    let gather = |p: &dyn Communicator, bucket: u32, n: usize| exchange(p, Exchange::AllGather, bucket, n);
    // Whichever side finds it first.
    let out_of_step = |what: &str, faulty: &(dyn Fn(&dyn Communicator) -> Result<()> + Sync), parts: &[&str]| {
        let all = complaints(3, |p| {
            p.at(7);
            match p.rank() {
                1 => faulty(p),
                _ => {
                    [0, 1, 2].into_iter().try_for_each(|b| reduce(p, b, 300))?;
                    [0, 1, 2].into_iter().try_for_each(|b| gather(p, b, 300))
                }
            }
        });
        let first = all[0].as_ref().unwrap_or_else(|| panic!("{what} was not found"));
        assert!(parts.iter().all(|part| all.iter().flatten().any(|e| e.contains(part))), "{what}: {all:?}");
        assert!(first.contains("rank 1"), "{what}: {first}");
    };
    out_of_step(
        "a bucket reduced twice",
        &|p| [0, 0, 1, 2].into_iter().try_for_each(|b| reduce(p, b, 300)),
        &["its part of bucket 0 of update 7", "its part of bucket 1 of update 7"],
    );
    out_of_step(
        "an order that differs",
        &|p| [0, 2, 1].into_iter().try_for_each(|b| reduce(p, b, 300)),
        &["its part of bucket 2 of update 7", "its part of bucket 1 of update 7"],
    );
    out_of_step(
        "an update that was skipped",
        &|p| {
            p.at(8);
            [0, 1, 2].into_iter().try_for_each(|b| reduce(p, b, 300))
        },
        &["its part of bucket 0 of update 8", "of update 7"],
    );
    out_of_step(
        "another length",
        &|p| [0, 1, 2].into_iter().try_for_each(|b| reduce(p, b, 500)),
        &["bytes, where rank"],
    );
    let reduced = |p: &dyn Communicator| [0, 1, 2].into_iter().try_for_each(|b| reduce(p, b, 300));
    out_of_step(
        "shares that are handed round in another order",
        &|p| {
            reduced(p)?;
            [1, 0, 2].into_iter().try_for_each(|b| gather(p, b, 300))
        },
        &["its share of bucket 1 after update 7", "its share of bucket 0 after update 7"],
    );
    out_of_step(
        "a sum where a share is due",
        &|p| {
            reduced(p)?;
            [0, 1, 2].into_iter().try_for_each(|b| reduce(p, b, 300))
        },
        &["its part of bucket 0 of update 7", "its share of bucket 0 after update 7"],
    );
    // Who owns what follows from the sizes: another share is one of another length.
    out_of_step(
        "a share of another rank",
        &|p| {
            reduced(p)?;
            gather(p, 0, 500)
        },
        &["its share of bucket 0 after update 7, ", "512 bytes"],
    );
    out_of_step(
        "a share that is not sent",
        &|p| {
            reduced(p)?;
            [1, 2].into_iter().try_for_each(|b| gather(p, b, 300))
        },
        &["its share of bucket 1 after update 7", "its share of bucket 0 after update 7"],
    );
    out_of_step("an end", &|_| Err(Error::job("the disk is full")), &["rank 1 of 3 at", "has ended: the disk is full"]);
}

#[test]
fn ranks_that_train_something_else_are_named() {
    let all = complaints(3, |p| {
        let lr = if p.rank() == 2 { "0.1" } else { "0.2" };
        let seed = if p.rank() == 1 { "2" } else { "1" };
        agree(p, &[("lr".into(), lr.into()), ("seed".into(), seed.into())])
    });
    for e in &all {
        let e = e.as_ref().unwrap();
        assert!(e.contains("lr is 0.2 on rank 0 and 0.1 on rank 2"), "{e}");
        assert!(e.contains("seed is 1 on rank 0 and 2 on rank 1"), "{e}");
    }
    assert!(complaints(2, |p| agree(p, &[("a".into(), "b".into())])).iter().all(Option::is_none));
}

#[test]
fn who_does_not_come_is_named() {
    let (listener, short) = (TcpListener::bind("127.0.0.1:0").unwrap(), Duration::from_millis(300));
    let at = listener.local_addr().unwrap();
    let e = Tcp::host(listener, 2, short, &mut || Ok(())).err().unwrap().to_string();
    assert!(e.contains("rank 1 of 2 did not come to") && e.contains(&at.to_string()), "{e}");
    let place = Place { rank: 1, ranks: 2, local: 1, locals: 2, master: ("127.0.0.1".into(), at.port()) };
    let e = Tcp::meet(&place, short).err().unwrap().to_string();
    assert!(e.contains("rank 0 does not answer at") && e.contains(&at.to_string()), "{e}");
}

/// A plan that sums, on every kind of device: with what is computed before and after it.
#[test]
fn every_device_sums_over_ranks() {
    for name in ["reference", "cpu", "checked", "sim"].into_iter().filter(|d| *d != "sim" || have("sim")) {
        let got = ranks(2, |peers| {
            let peers = peers.unwrap();
            let mut g = Graph::default();
            let (t, relu) = (Type::f32(&[300]), deep_affect::ops::arith::Scale { by: 2.0 });
            let x: Vec<_> = (0..3).map(|i| g.input(&format!("x{i}"), t)).collect();
            let twice: Vec<_> = x.iter().map(|x| g.push1(relu.clone(), &[*x])).collect();
            let first = g.push(AllReduce { bucket: 0, ranks: 2, values: 2 }, &[twice[0], twice[1]]);
            let second = g.push1(AllReduce { bucket: 1, ranks: 2, values: 1 }, &[twice[2]]);
            // Read while the first may still be on its way.
            let y = [first[0], first[1], second].map(|v| g.push1(relu.clone(), &[v]));
            // A share of their sums, of which twice is handed round: all but the first 64 numbers of one are the second rank's.
            let own = g.push1(ReduceScatter { bucket: 2, ranks: 2, values: 1 }, &[x[0]]);
            let doubled = g.push1(relu.clone(), &[own]);
            let handed = g.push1(AllGather { bucket: 2, ranks: 2, values: 1 }, &[doubled]);
            let y = [y[0], y[1], y[2], handed];
            let mut device: Box<dyn Device> = match name {
                "checked" => Box::new(Cpu::with(Simd::detect(), Some(1), Checks::Poison).unwrap()),
                _ => device::open(name, Some(1)).unwrap(),
            };
            device.connect(peers.clone()).unwrap();
            let mut s = Session::new(g, &[&y], Options::default(), device).unwrap();
            let rank = peers.rank() as f32;
            for run in 0..3 {
                peers.at(run);
                for (i, x) in x.iter().enumerate() {
                    s.write(*x, Data::F32(&[1.0 + rank + i as f32; 300])).unwrap();
                }
                s.run(0).unwrap();
            }
            y.map(|y| s.read(y).unwrap())
        });
        for y in got {
            let want = [12.0, 20.0, 28.0, 6.0];
            assert!(y.iter().zip(want).all(|(y, want)| y.iter().all(|x| *x == want)), "{name}: {y:?}");
        }
    }
    // A plan for ranks that are not there is no plan of one.
    let mut g = Graph::default();
    let x = g.input("x", Type::f32(&[1]));
    let y = g.push1(AllReduce { bucket: 0, ranks: 2, values: 1 }, &[x]);
    let e = Session::new(g, &[&[y]], Options::default(), device::open("cpu", Some(1)).unwrap()).err().unwrap();
    assert!(e.to_string().contains("a plan for 2 ranks"), "{e}");
}

/// What a run comes to: the loss of every epoch, trained on and monitored, and the weights.
#[derive(Clone, PartialEq, Debug)]
struct Curve {
    losses: Vec<f64>,
    weights: Vec<Vec<u32>>,
}

const ROWS: u32 = 18;

/// Trains on 13 pictures and monitors 5, in batches of 6: the last of an epoch has one row, of which most ranks have no part. With
/// dropout, a penalty, rows that count differently and augmentation; a head alone from features.
fn trained(task: &Task, pictures: &Pictures, losses: Losses, peers: &Peers, device: Box<dyn Device>) -> Curve {
    by(task, pictures, Settings { losses, ..Settings::default() }, false, peers, device)
}

/// [`trained`] by other settings, with what the optimiser remembers in shares or not.
fn by(task: &Task, pictures: &Pictures, s: Settings, sharded: bool, peers: &Peers, device: Box<dyn Device>) -> Curve {
    let (n, losses) = (ROWS as usize, s.losses);
    let ratings = (0..2 * n).map(|i| 1.0 + (i * i % 17) as f32 / 4.0).collect();
    let weight = (0..n).map(|i| 1.0 + (i % 3) as f32).collect();
    let (inputs, augment) = match task {
        Task::Head { config } => {
            let feature = |i: usize| (i * 7 % 19) as f32 / 19.0;
            let member = (config.features(), (0..n * config.features()).map(feature).collect());
            (Inputs::Features(vec![member; config.members().len()]), None)
        }
        _ => (Inputs::Pictures(pictures), Some("rotation=15,flip".parse().unwrap())),
    };
    let data = Samples { inputs, targets: Targets::ratings(ratings), weight };
    let lr = if losses.reduction == Reduction::Sum { 2e-5 } else { 2e-3 };
    let s = Settings { epochs: 2, batch: 6, lr, augment, patience: 0, seed: 11, ..s };
    let method = Method { weighted: true, sharded, ..s.method() };
    let mut net = Network::ranked(task, s.batch, method, device, peers).unwrap();
    let (params, mut initial) = (net.stored(), Initial::new(5, true));
    initial.rule = Rule::He;
    for part in &net.parts {
        initial.fill(&mut net.session, &params, &part.prefix, &[]).unwrap();
    }
    let (train, val): (Vec<usize>, Vec<usize>) = ((0..13).collect(), (13..n).collect());
    let mut state = State::new(&s, net.parts.len()).unwrap();
    // The last weights: only the first rank keeps the best.
    struct Last(Vec<Vec<u32>>);
    impl fit::Watch for Last {
        fn keep(&mut self, net: &Network, _: &State, _: &fit::Best) -> Result<()> {
            let of = |v| net.session.read(v).unwrap().iter().map(|x| x.to_bits()).collect();
            self.0 = net.stored().into_iter().map(of).collect();
            Ok(())
        }
    }
    let mut last = Last(vec![]);
    fit::fit(&mut net, &data, [&train, &val], &s, &mut state, &mut vec![], &mut last).unwrap();
    let of = |e: &fit::Epoch| {
        let outputs = e.outputs.iter().flat_map(|o| [o.train.unwrap(), o.val.unwrap()]);
        [e.train_loss, e.val_loss.unwrap()].into_iter().chain(outputs).collect::<Vec<_>>()
    };
    Curve { losses: state.history.iter().flat_map(of).collect(), weights: last.0 }
}

fn config(architecture: Architecture) -> Config {
    let mut c = small(architecture, 64, 0.5);
    (c.head, c.keep) = (vec![12, 7], vec![0.5, 0.75]);
    c.towers.truncate(1);
    c.towers[0].keep = 0.5;
    c.towers[0].l2 = 2e-4;
    c
}

fn end_to_end(config: &Config) -> Task {
    Task::EndToEnd { config: config.clone(), frozen: vec![] }
}

/// The largest error of a curve, as a part of its losses.
fn error(got: &Curve, want: &Curve) -> f64 {
    assert_eq!(got.losses.len(), want.losses.len());
    got.losses.iter().zip(&want.losses).fold(0.0, |m: f64, (g, w)| {
        let e = (g - w).abs() / w;
        if e <= m { m } else { e }
    })
}

/// In float64 only the order of sums is another: 2^-53 for each of 10,000 terms, more than any of them has. A mask, a weight or a
/// penalty that is another shows in the third digit.
const FLOAT64: f64 = 10_000.0 / (1_u64 << 53) as f64;

/// A rounding of float32 for each of 16 layers. By luck one process may be nearer than that.
const LAYERS: f64 = 16.0 / (1 << 24) as f64;

#[test]
fn one_two_and_four_ranks_have_one_curve() {
    let pictures = pictures(ROWS);
    for (architecture, reduction) in [(Architecture::Shared, Reduction::Sum), (Architecture::Split, Reduction::Mean)] {
        let (task, losses) = (end_to_end(&config(architecture)), Losses { reduction, ..Losses::default() });
        let run = |n: usize, device: &(dyn Fn() -> Box<dyn Device> + Sync)| {
            let all = ranks(n, |peers| trained(&task, &pictures, losses, &peers, device()));
            assert!(all.iter().all(|c| *c == all[0]), "{n} ranks have not the same bits");
            all[0].clone()
        };
        let want = run(1, &reference);
        assert!(want.losses.iter().all(|l| l.is_finite() && *l > 0.0), "{want:?}");
        for n in [2, 4] {
            let e = error(&run(n, &reference), &want);
            println!("{n} ranks in float64: {e:e}");
            assert!(e <= FLOAT64, "{n} ranks in float64 are {e:e} off ({architecture:?}, {reduction:?})");
        }
        let cpu = || -> Box<dyn Device> { Box::new(Cpu::new(Some(1)).unwrap()) };
        let one = error(&run(1, &cpu), &want);
        for n in [2, 4] {
            let curve = run(n, &cpu);
            assert!(n != 4 || curve == run(n, &cpu), "{n} ranks have other bits the second time");
            let e = error(&curve, &want);
            // As near as one, but for the sums: each of a rank's rows, then of the ranks. Training multiplies both alike.
            assert!(e <= 4.0 * one + LAYERS, "{n} ranks are {e:e} off, one {one:e} ({architecture:?}, {reduction:?})");
        }
    }
}

/// What each rank updates of its share is what all update of all: the same sums, the same steps.
#[test]
fn shared_optimizers_have_the_bits_of_whole_ones() {
    let pictures = pictures(ROWS);
    let sgd = Settings { nesterov: true, form: SgdForm::Torch, weight_decay: 1e-3, ..Settings::default() };
    let adam = Settings { optimizer: Updates::Adam, adam: AdamForm::Keras, amsgrad: true, ..sgd.clone() };
    let run = |n: usize, s: &Settings, sharded: bool, task: &Task, device: &str| {
        let all =
            ranks(n, |peers| by(task, &pictures, s.clone(), sharded, &peers, device::open(device, Some(1)).unwrap()));
        assert!(all.iter().all(|c| *c == all[0]), "{n} ranks have not the same bits on {device}");
        all[0].clone()
    };
    for (architecture, s, n, device) in [
        (Architecture::Shared, &Settings::default(), 2, "cpu"),
        (Architecture::Split, &sgd, 3, "cpu"),
        (Architecture::Split, &adam, 2, "cpu"),
        (Architecture::Shared, &adam, 4, "cpu"),
        (Architecture::Shared, &sgd, 2, "reference"),
    ] {
        let task = end_to_end(&config(architecture));
        let [whole, shared, again] = [false, true, true].map(|sharded| run(n, s, sharded, &task, device));
        assert!(whole == shared, "{n} ranks on {device}, {architecture:?}: other losses or weights in shares");
        assert!(shared == again, "{n} ranks on {device}, {architecture:?}: other bits the second time");
    }
    if have("sim") {
        let task = Task::Head { config: config(Architecture::Split) };
        for (s, precision) in
            [(&sgd, Precision::Float32), (&adam, Precision::Float32), (&sgd, Precision::Bf16), (&adam, Precision::Fp16)]
        {
            let s = Settings { precision, ..s.clone() };
            let [whole, shared] = [false, true].map(|sharded| run(2, &s, sharded, &task, "sim"));
            assert!(whole == shared, "the simulator in {precision:?}: other losses or weights in shares");
        }
    }
}

/// Every number of every parameter is updated by one rank, which alone remembers something of it, and the ranks have equal
/// shares of that: a part in N of what one rank would have.
#[test]
fn each_rank_remembers_its_share() {
    let mut c = config(Architecture::Shared);
    c.towers[0].width = 1;
    let task = end_to_end(&c);
    let adam = Settings { optimizer: Updates::Adam, ..Settings::default() };
    for (s, kinds) in [(Settings::default(), 1), (adam, 2)] {
        let blueprint = |ranks, rank, sharded| {
            let method = Method { ranks, rank, sharded, ..s.method() };
            Blueprint::new(&task, 8, method).unwrap()
        };
        let device = Cpu::new(Some(1)).unwrap();
        // What a device is asked for.
        let demand = |b: &Blueprint| {
            let want: Vec<_> = b.want.iter().map(Vec::as_slice).collect();
            let (g, plans) = Plan::all(b.graph.clone(), &want, Options::default()).unwrap();
            device.demand(&g, &plans).unwrap()
        };
        let one = blueprint(1, 0, true);
        let (whole, sizes) = (demand(&one), one.parts[0].params.iter().map(|v| one.graph.ty(*v).numel()));
        let sizes: Vec<usize> = sizes.collect();
        let bytes = 4 * kinds * sizes.iter().sum::<usize>();
        assert_eq!(whole.state, bytes);
        for n in [2, 4, 8] {
            let mut updated = vec![0; sizes.len()];
            for rank in 0..n {
                let b = blueprint(n, rank, true);
                let (own, part) = (demand(&b), &b.parts[0]);
                assert!((own.weights, own.inputs) == (whole.weights, demand(&blueprint(n, rank, false)).inputs));
                let more = own.state.abs_diff(bytes / n) as f64 / (bytes / n) as f64;
                assert!(more < 1e-3, "{} bytes on rank {rank} of {n}, not {}", own.state, bytes / n);
                assert_eq!(own.state, part.memory().map(|v| b.graph.ty(v).bytes()).sum::<usize>());
                for (at, own) in updated.iter_mut().zip(&part.own).filter(|(_, own)| !own.is_empty()) {
                    assert_eq!(*at, own.start, "rank {rank} of {n} begins where the one before it has ended");
                    *at = own.end;
                }
            }
            assert_eq!(updated, sizes, "{n} ranks update all, once");
        }
    }
}

/// Whatever ranks update, all come to the same collectives in the same order: first the sums, then what is made of them.
#[test]
fn ranks_with_shares_come_to_the_same_collectives() {
    let mut wide = config(Architecture::Shared);
    wide.towers[0].width = 1;
    for (c, most) in [(wide, 3), (config(Architecture::Split), 2)] {
        for options in [Options::default(), deep_affect::device::gpu::OPTIONS] {
            let order = |rank| {
                let method = Method { ranks: 3, rank, sharded: true, ..Settings::default().method() };
                let b = Blueprint::new(&end_to_end(&c), 6, method).unwrap();
                let (g, plans) = Plan::all(b.graph, &[&b.want[TRAIN]], options).unwrap();
                let together = |i: &usize| g.nodes()[*i].op.collective();
                plans[0].steps().iter().flatten().filter_map(together).collect::<Vec<_>>()
            };
            let first = order(0);
            let (sums, gathers) = first.split_at(first.len() / 2);
            assert!(sums.len() >= most && sums.iter().all(|c| c.exchange == Exchange::ReduceScatter), "{first:?}");
            assert!(gathers.iter().all(|c| c.exchange == Exchange::AllGather), "{first:?}");
            assert!((1..3).all(|rank| order(rank) == first), "{options:?}");
        }
    }
}

/// Of a network of 59 MB: the first sum begins where a third of the backward pass or more is to come, and no update waits for one
/// before its end.
#[test]
fn sums_go_on_beside_the_backward_pass() {
    let mut c = config(Architecture::Shared);
    c.towers[0].width = 1;
    let method = Method { ranks: 2, ..Settings::default().method() };
    let b = Blueprint::new(&end_to_end(&c), 4, method).unwrap();
    for options in [Options::default(), deep_affect::device::gpu::OPTIONS] {
        let (g, plans) = Plan::all(b.graph.clone(), &[&b.want[TRAIN]], options).unwrap();
        let order: Vec<&Node> = plans[0].steps().iter().flatten().map(|&i| &g.nodes()[i]).collect();
        let places = |is: &dyn Fn(&Node) -> bool| (0..order.len()).filter(|&i| is(order[i])).collect::<Vec<_>>();
        let sums = places(&|n| n.op_as::<AllReduce>().is_some());
        let backward = places(&|n| n.adjoint);
        let updates = places(&|n| n.op.describe().name.starts_with("sgd"));
        let bytes = |i: &usize| order[*i].ins.iter().map(|v| g.ty(*v).bytes()).sum::<usize>();
        assert!(sums.len() >= 3 && sums.iter().all(|i| bytes(i) <= BUCKET), "{:?}", sums.iter().map(bytes));
        let after = backward.iter().filter(|i| **i > sums[0]).count();
        assert!(3 * after > backward.len(), "{after} of {} after the first sum", backward.len());
        assert!(!updates.is_empty() && updates[0] > *backward.last().unwrap() && updates[0] > sums[0], "{updates:?}");
        let numbers: Vec<u32> = sums.iter().map(|i| order[*i].op_as::<AllReduce>().unwrap().bucket).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}

/// The same kernels as on a GPU, and the collectives as late as a driver may do them.
#[test]
fn two_ranks_on_the_simulator_are_as_good_as_one() {
    if !have("sim") {
        return;
    }
    let (task, pictures) = (Task::Head { config: config(Architecture::Split) }, pictures(ROWS));
    let run = |n: usize, device: &str| {
        let all = ranks(n, |peers| {
            trained(&task, &pictures, Losses::default(), &peers, device::open(device, Some(1)).unwrap())
        });
        assert!(all.iter().all(|c| *c == all[0]), "{n} ranks have not the same bits");
        all[0].clone()
    };
    let want = run(1, "reference");
    let [one, two] = [1, 2].map(|n| error(&run(n, "sim"), &want));
    assert!(two <= 4.0 * one + LAYERS, "2 ranks are {two:e} off, one {one:e}");
}

/// Processes, as people start them: the rank that is killed ends the others, whose checkpoint is gone on with by other numbers of
/// ranks.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_rank_ends_the_run_and_any_number_goes_on_with_it() {
    use runs::{CHECKPOINT, complaint, folder, good, program, signal, state, text};
    use std::fs;
    use std::path::Path;
    use std::process::Child;
    use std::time::Instant;

    const RUN: &str = "train set.csv --out run --batch 4 --patience 0 --plateau 20 --threads 1 --image 32 --width 64 \
                       --init-missing --head 12,6 --features object --val 0.2 --epochs 8 --checkpoint-every 0";
    let args = |more: &[&'static str]| RUN.split_whitespace().chain(more.iter().copied()).collect::<Vec<&str>>();
    let curve = |dir: &Path| Curve {
        losses: state(dir).history.iter().flat_map(|e| [e.train_loss, e.val_loss.unwrap()]).collect(),
        weights: vec![],
    };
    let whole = |more: &[&'static str]| {
        let dir = folder();
        good(dir.path(), &args(more));
        curve(dir.path())
    };
    let want = whole(&["--device", "reference"]);
    let one = error(&whole(&["--device", "cpu"]), &want);
    let dir = folder();
    let p = dir.path();
    let under_way = |more: &[&'static str], step: u32| -> Child {
        let mut child = program(p, &args(more)).spawn().unwrap();
        while !p.join(CHECKPOINT).exists() || state(p).step < step {
            if child.try_wait().unwrap().is_some() {
                panic!("it ended before update {step}: {}", text(&child.wait_with_output().unwrap().stderr));
            }
            thread::sleep(Duration::from_millis(2));
        }
        child
    };
    let child = under_way(&["--device", "cpu", "--ranks", "2"], 3);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let start = Instant::now();
    let other = children.trim();
    assert!(std::process::Command::new("kill").args(["-KILL", other]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(complaint(&out).contains("rank 1 of 2 at 127.0.0.1:"), "{}", complaint(&out));
    assert!(complaint(&out).contains("is lost: its process has ended"), "{}", complaint(&out));
    assert_eq!(out.status.code(), Some(1));
    let reached = state(p).step;

    let child = under_way(&["--device", "cpu", "--resume"], reached + 4);
    signal(&child, "-TERM");
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(143), "{}", text(&out.stderr));
    // Four ranks that are asked to stop all do, although one of them heard of it.
    let child = under_way(&["--device", "cpu", "--resume", "--ranks", "4"], state(p).step + 4);
    signal(&child, "-TERM");
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(143), "{}", text(&out.stderr));
    assert!(complaint(&out).starts_with("error: stopped "), "{}", complaint(&out));
    good(p, &args(&["--device", "cpu", "--resume", "--ranks", "4"]));
    let e = error(&curve(p), &want);
    assert!(e <= 4.0 * one + LAYERS, "2, 1 and 4 ranks are {e:e} off, one {one:e}");
    assert!(fs::read_to_string(p.join("run/report.html")).unwrap().contains("--ranks 4"));
}

/// A run with the optimiser's state in shares leaves the files of one without, also where it was stopped in between and gone on with
/// the other way; and other numbers of ranks go on with it.
#[cfg(target_os = "linux")]
#[test]
fn shares_are_kept_whole_and_gone_on_with_by_anybody() {
    use runs::{CHECKPOINT, complaint, folder, good, program, results, same, signal, state, text};
    use std::path::Path;

    let optimizers: [&[&str]; 2] = [&["--optimizer", "adam", "--amsgrad"], &["--momentum", "0.8"]];
    for optimizer in optimizers {
        const RUN: &str = "train set.csv --out run --batch 4 --patience 0 --plateau 20 --threads 1 --image 32 --width 64 \
                           --init-missing --head 12,6 --features object --val 0.2 --epochs 6 --checkpoint-every 0 --device cpu";
        let args = |more: &[&'static str]| -> Vec<&str> {
            RUN.split_whitespace().chain(optimizer.iter().copied()).chain(more.iter().copied()).collect()
        };
        let dir = folder();
        good(dir.path(), &args(&["--ranks", "2"]));
        let want = results(dir.path());
        let history = state(dir.path()).history;
        let stopped = |p: &Path, more: &[&'static str], step: u32| {
            let mut child = program(p, &args(more)).spawn().unwrap();
            while !p.join(CHECKPOINT).exists() || state(p).step < step {
                if child.try_wait().unwrap().is_some() {
                    panic!("it ended before update {step}: {}", text(&child.wait_with_output().unwrap().stderr));
                }
                thread::sleep(Duration::from_millis(2));
            }
            signal(&child, "-TERM");
            let out = child.wait_with_output().unwrap();
            assert_eq!(out.status.code(), Some(143), "{}", text(&out.stderr));
            assert!(complaint(&out).starts_with("error: stopped "), "{}", complaint(&out));
            text(&out.stderr).to_string()
        };
        let two = ["--ranks", "2", "--resume", "--shard-optimizer"];
        let dir = folder();
        let p = dir.path();
        let said = stopped(p, &["--ranks", "2", "--shard-optimizer"], 3);
        assert!(said.contains("MiB on this rank"), "{said}");
        stopped(p, &two[..3], state(p).step + 3);
        good(p, &args(&two));
        same(p, &want);
        assert_eq!(state(p).history, history);

        // By three, and by one, which says that there is nothing to share.
        let dir = folder();
        let p = dir.path();
        stopped(p, &["--ranks", "3", "--shard-optimizer"], 3);
        let said = stopped(p, &["--resume", "--shard-optimizer"], state(p).step + 3);
        assert!(said.contains("note: --shard-optimizer: one rank keeps all"), "{said}");
        good(p, &args(&two));
        for (got, want) in state(p).history.iter().zip(&history) {
            let e = (got.train_loss - want.train_loss).abs() / want.train_loss;
            assert!(e <= 100.0 * LAYERS, "epoch {}: {} and {}", want.epoch, got.train_loss, want.train_loss);
        }
    }
}

/// Ranks that were started differently say so before the first update.
#[test]
fn ranks_agree_on_what_they_share() {
    use runs::{complaint, folder, program};

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let dir = folder();
    let start = |rank: &str, more: &[&str]| {
        let args = "train set.csv --out run --batch 4 --threads 1 --image 32 --width 64 --init-missing --head 6 \
                    --features object --epochs 1 --device cpu";
        let args: Vec<&str> = args.split_whitespace().chain(more.iter().copied()).collect();
        let place = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")];
        let mut program = program(dir.path(), &args);
        program.envs(place).env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port).spawn().unwrap()
    };
    let all = [start("0", &["--shard-optimizer"]), start("1", &[])];
    for child in all {
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(2));
        let want = "optimizer_state is in shares on rank 0 and whole on rank 1";
        assert!(complaint(&out).contains(want), "{}", complaint(&out));
    }
    assert!(!dir.path().join(runs::CHECKPOINT).exists());
}
