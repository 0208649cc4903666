//! Training: resumed runs, thread counts, batches and padding change no bit; bad numbers end it with one line.

mod common;
use common::{pictures, reference, small};
use deep_affect::data::{Alpha, Pictures};
use deep_affect::device::{Checks, Cpu, Data, Device, Session};
use deep_affect::error::{Kind, Result};
use deep_affect::graph::{Kind as Role, Value};
use deep_affect::launch::Simd;
use deep_affect::models::{Architecture, Config};
use deep_affect::ops::loss::Reduction;
use deep_affect::ops::optim::Sgd;
use deep_affect::plan::Options;
use deep_affect::shape::DType;
use deep_affect::train::checkpoint::{self, Card};
use deep_affect::train::features::{self, Extracted};
use deep_affect::train::fit::{
    self, AdamForm, Best, Inputs, Samples, Settings, SgdForm, State, Targets, Updates, Watch,
};
use deep_affect::train::narrow::narrow;
use deep_affect::train::network::{self, Blueprint, EVAL, Method, Network, PENALTY, Precision, TRAIN, Task};
use deep_affect::train::params::{Initial, MappedFile};
use deep_affect::train::predictor::Predictor;
use deep_affect::train::schedule::{Decay, PlateauRule, Threshold};
use deep_affect::train::stored::Stored;
use deep_affect::weights::init::Rule;
use deep_affect::weights::{Dtype, WeightFile};
use std::path::Path;
use std::sync::Arc;

fn cpu(threads: usize) -> Box<dyn Device> {
    Box::new(Cpu::new(Some(threads)).unwrap())
}

/// Two ratings a picture, and weights of 1 and 2.
fn samples(pictures: &Pictures) -> Samples<'_> {
    let n = pictures.len();
    let ratings = (0..2 * n).map(|i| 1.0 + (i * i % 17) as f32 / 4.0).collect();
    let weight = (0..n).map(|i| 1.0 + (i % 2) as f32).collect();
    Samples { inputs: Inputs::Pictures(pictures), targets: Targets::ratings(ratings), weight }
}

fn config(architecture: Architecture) -> Config {
    let mut c = small(architecture, 64, 0.5);
    (c.head, c.keep) = (vec![12, 7], vec![0.5, 0.75]);
    c.towers[1].keep = 0.5;
    c.towers[1].l2 = 2e-4;
    c
}

fn end_to_end(config: &Config) -> Task {
    Task::EndToEnd { config: config.clone(), frozen: vec![] }
}

fn initial() -> Initial {
    let mut initial = Initial::new(5, true);
    initial.rule = Rule::He;
    initial
}

/// A network that has not begun: its weights are all zero.
fn empty(task: &Task, batch: usize, form: SgdForm, device: Box<dyn Device>) -> Network {
    let sgd = Sgd { form: form.into(), nesterov: false, dampening: 0.0 };
    Network::new(task, batch, sgd, device).unwrap()
}

fn network(task: &Task, batch: usize, form: SgdForm, device: Box<dyn Device>) -> Network {
    begun(empty(task, batch, form, device))
}

fn begun(mut net: Network) -> Network {
    let params = net.stored();
    for part in &net.parts {
        initial().fill(&mut net.session, &params, &part.prefix, &[]).unwrap();
    }
    net
}

fn settings(epochs: u32) -> Settings {
    // Nearly every epoch lowers the rate.
    let plateau = Some(PlateauRule { wait: 1, threshold: Threshold::Abs(1.0), ..PlateauRule::keras() });
    Settings { epochs, batch: 4, lr: 2e-3, plateau, patience: 0, seed: 11, ..Settings::default() }
}

fn card(task: &Task, s: &Settings, state: &State) -> Card {
    Card {
        format: checkpoint::FORMAT.into(),
        task: task.clone(),
        settings: s.clone(),
        state: state.clone(),
        train_mean: vec![0.0; 2],
        classes: vec![],
        data: String::new(),
        made_by: "a test".into(),
        alpha: Alpha::Drop,
        tower_classes: Default::default(),
        origin: Default::default(),
    }
}

/// Parameters and velocities, bit for bit.
fn bits(net: &Network) -> Vec<Vec<u32>> {
    let all = net.stored().into_iter().chain(net.parts.iter().flat_map(|p| p.memory()));
    all.map(|v| net.session.read(v).unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

/// Asks to stop after some updates, and then writes a checkpoint.
struct Stopper<'a> {
    left: u32,
    path: &'a Path,
    task: &'a Task,
    settings: &'a Settings,
}

impl Watch for Stopper<'_> {
    fn step(&mut self, _: &State, _: u32, _: f64) -> bool {
        self.left -= 1;
        self.left == 0
    }
    fn keep(&mut self, net: &Network, state: &State, best: &Best) -> Result<()> {
        match self.left {
            0 => checkpoint::save(self.path, &card(self.task, self.settings, state), net, best, &[]),
            _ => Ok(()),
        }
    }
}

/// What the settings say about a network.
fn method(s: &Settings) -> Method {
    s.method()
}

/// What a run comes to: parameters and velocities, the state with its history, the best weights.
type End = (Vec<Vec<u32>>, State, Best);

fn whole(task: &Task, data: &Samples, rows: [&[usize]; 2], s: &Settings) -> End {
    whole_by(method(s), task, data, rows, s)
}

fn whole_by(method: Method, task: &Task, data: &Samples, rows: [&[usize]; 2], s: &Settings) -> End {
    let mut net = begun(Network::new(task, s.batch, method, cpu(2)).unwrap());
    let (mut state, mut best) = (State::new(s, net.parts.len()).unwrap(), vec![]);
    fit::fit(&mut net, data, rows, s, &mut state, &mut best, &mut ()).unwrap();
    (bits(&net), state, best)
}

/// The same in sessions of `every` updates, each in a network of its own; looks at each state it resumes from.
fn pieces(
    task: &Task,
    data: &Samples,
    rows: [&[usize]; 2],
    s: &Settings,
    every: u32,
    look: &mut dyn FnMut(&State),
) -> End {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let mut net = begun(Network::new(task, s.batch, method(s), cpu(2)).unwrap());
    let (mut state, mut best) = (State::new(s, net.parts.len()).unwrap(), vec![]);
    loop {
        let mut watch = Stopper { left: every, path: &path, task, settings: s };
        match fit::fit(&mut net, data, rows, s, &mut state, &mut best, &mut watch) {
            Ok(()) => return (bits(&net), state, best),
            Err(e) => assert_eq!(e.kind(), Kind::Interrupted, "{e}"),
        }
        let file = WeightFile::open(&path).unwrap();
        let stopped = checkpoint::card(&file).unwrap();
        assert_eq!(stopped, card(task, s, &state));
        net = Network::new(task, s.batch, method(s), cpu(2)).unwrap();
        (state, best) = (stopped.state, checkpoint::restore(&file, &mut net).unwrap());
        look(&state);
    }
}

/// 11 rows in batches of 4: epochs of 3 updates, the last batch padded.
const TRAINED: [usize; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const MONITORED: [usize; 5] = [11, 12, 13, 14, 15];

fn resumes(task: &Task, data: &Samples, s: &Settings, look: &mut dyn FnMut(&State)) {
    let rows: [&[usize]; 2] = [&TRAINED, &MONITORED];
    let want = whole(task, data, rows, s);
    assert!(want.0.iter().flatten().any(|x| *x != 0) && want.1.history.iter().all(|e| e.val_loss.is_some()));
    let lowered = want.1.parts.iter().filter(|p| p.schedule.lr(want.1.epoch, 0) < s.lr).count();
    assert!(lowered > 0, "the rate should fall on the way: {:?}", want.1.history);
    // In the middle of epochs, at their ends, and everywhere.
    for every in [2, 3, 1, 7] {
        let got = pieces(task, data, rows, s, every, look);
        assert_eq!(got.1, want.1, "stopped every {every} updates");
        assert_eq!(got.2, want.2, "stopped every {every} updates");
        assert!(got.0 == want.0, "stopped every {every} updates: other weights or velocities");
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    let pictures = pictures(16);
    for form in [SgdForm::Keras, SgdForm::Torch] {
        let s = Settings { form, weight_decay: 1e-3, ..settings(6) };
        resumes(&end_to_end(&config(Architecture::Shared)), &samples(&pictures), &s, &mut |_| ());
    }
}

#[test]
fn a_resumed_run_of_adam_has_the_same_bits() {
    let pictures = pictures(16);
    let (c, data) = (Config { keep_features: 0.75, ..config(Architecture::Split) }, samples(&pictures));
    let s = Settings { optimizer: Updates::AdamW, weight_decay: 0.03, ..settings(6) };
    let largest = Settings { optimizer: Updates::Adam, adam: AdamForm::Keras, amsgrad: true, ..s.clone() };
    for s in [&s, &largest] {
        resumes(&end_to_end(&c), &data, s, &mut |state| {
            assert!(state.parts.iter().all(|p| p.updates == state.step));
        });
    }
    let rows: [&[usize]; 2] = [&TRAINED, &MONITORED];
    let [all, kept] = [1.0, 0.75].map(|keep| {
        let c = Config { keep_features: keep, ..c.clone() };
        whole(&end_to_end(&c), &data, rows, &s).0
    });
    assert!(all != kept, "features should be dropped");
}

#[test]
fn a_resumed_decay_has_the_same_bits() {
    let pictures = pictures(16);
    let decay = Some(Decay::Steps { after: vec![2, 3], gamma: 0.5 });
    let s = Settings { plateau: None, decay, warmup: 6, ..settings(4) };
    // Of the run that was stopped last.
    let mut rates: Vec<f64> = vec![];
    resumes(&end_to_end(&config(Architecture::Shared)), &samples(&pictures), &s, &mut |state| {
        if state.history.len() >= rates.len() {
            rates = state.history.iter().map(|e| e.lr / s.lr).collect();
        }
    });
    assert_eq!(rates, [0.5, 1.0, 0.5]);
    let both = Settings { plateau: settings(4).plateau, ..s };
    assert!(State::new(&both, 1).unwrap_err().to_string().contains("not both"));
}

fn augment() -> Option<deep_affect::ops::augment::Augment> {
    Some("rotation=15,shift=0.1,shear=5,zoom=0.1,flip".parse().unwrap())
}

#[test]
fn a_resumed_augmented_run_has_the_same_bits() {
    let pictures = pictures(16);
    let (task, data) = (end_to_end(&config(Architecture::Shared)), samples(&pictures));
    let s = Settings { augment: augment(), ..settings(4) };
    resumes(&task, &data, &s, &mut |_| ());
    let with = whole(&task, &data, [&TRAINED, &MONITORED], &s);
    let without = whole(&task, &data, [&TRAINED, &MONITORED], &settings(4));
    assert!(with.0 != without.0 && with.1.history != without.1.history);
}

#[test]
fn pictures_that_lie_on_the_device_change_no_bit() {
    let pictures = pictures(16);
    for (architecture, augment) in [(Architecture::Shared, None), (Architecture::Split, augment())] {
        let (task, data) = (end_to_end(&config(architecture)), samples(&pictures));
        let s = Settings { augment, ..settings(3) };
        let sent = whole(&task, &data, [&TRAINED, &MONITORED], &s);
        let there = Method { resident: Some(pictures.len()), ..method(&s) };
        assert!(whole_by(there, &task, &data, [&TRAINED, &MONITORED], &s) == sent, "{architecture:?}");
    }
}

#[test]
fn augmentation_happens_once_and_in_training_alone() {
    let c = config(Architecture::Split);
    for resident in [None, Some(9)] {
        let method = Method { augment: augment(), resident, ..method(&settings(1)) };
        let b = Blueprint::new(&end_to_end(&c), 4, method).unwrap();
        let uses = |plan: usize| {
            let nodes = b.graph.needed(&b.want[plan]);
            nodes.iter().filter(|&&i| b.graph.nodes()[i].op.name() == "image.augment").count()
        };
        assert_eq!([uses(TRAIN), uses(EVAL), uses(PENALTY)], [1, 0, 0]);
        let e = Blueprint::new(&Task::Head { config: c.clone() }, 4, method).err().unwrap().to_string();
        assert!(e.contains("trained on features") && e.lines().count() == 1, "{e}");
    }
}

/// The second target of the monitored pictures is far from what the others teach: its part stops early.
fn one_part_stops<'a>(pictures: &'a Pictures) -> Samples<'a> {
    let mut data = samples(pictures);
    let ratings = &mut data.targets.ratings;
    for (i, r) in ratings.chunks_exact_mut(2).enumerate() {
        (r[0], r[1]) = (3.0, if MONITORED.contains(&i) { -9.0 } else { 9.0 });
    }
    data
}

#[test]
fn a_resumed_split_run_has_the_same_bits_with_one_part_stopped() {
    let pictures = pictures(16);
    let (task, data) = (end_to_end(&config(Architecture::Split)), one_part_stops(&pictures));
    let s = Settings { patience: 2, lr: 1e-3, ..settings(8) };
    let mut half = 0;
    resumes(&task, &data, &s, &mut |state| half += (state.parts[1].stopped && !state.parts[0].stopped) as u32);
    assert!(half > 3, "{half} times resumed with one part stopped");
}

#[test]
fn a_part_that_has_stopped_stays_where_it_is() {
    struct Seen(Vec<Vec<f32>>, u32);
    impl Watch for Seen {
        fn keep(&mut self, net: &Network, state: &State, _: &Best) -> Result<()> {
            if state.parts[1].stopped && !state.parts[0].stopped {
                let now: Vec<_> = net.parts[1].params.iter().map(|v| net.session.read(*v).unwrap()).collect();
                assert!(self.1 == 0 || self.0 == now, "weights moved after the part had stopped");
                (self.0, self.1) = (now, self.1 + 1);
            }
            Ok(())
        }
    }
    let pictures = pictures(16);
    let data = one_part_stops(&pictures);
    let sgd = |form| Settings { patience: 2, lr: 1e-3, form, weight_decay: 0.1, ..settings(8) };
    let adam = Settings { optimizer: Updates::Adam, adam: AdamForm::Keras, ..sgd(SgdForm::Keras) };
    for s in [sgd(SgdForm::Keras), sgd(SgdForm::Torch), adam] {
        let mut net = begun(Network::new(&end_to_end(&config(Architecture::Split)), 4, s.method(), cpu(1)).unwrap());
        let (mut state, mut seen) = (State::new(&s, 2).unwrap(), Seen(vec![], 0));
        fit::fit(&mut net, &data, [&TRAINED, &MONITORED], &s, &mut state, &mut vec![], &mut seen).unwrap();
        assert!(seen.1 >= 2, "{} epochs with one part stopped", seen.1);
    }
}

fn extract(c: &Config, pictures: &Pictures) -> Vec<features::Rows> {
    let all: Vec<usize> = (0..pictures.len()).collect();
    features::extract(c, &initial(), pictures, &all, 3, cpu(2), &()).unwrap().0
}

#[test]
fn a_resumed_head_has_the_same_bits() {
    let (pictures, c) = (pictures(16), config(Architecture::Split));
    let data = Samples { inputs: Inputs::Features(extract(&c, &pictures)), ..samples(&pictures) };
    resumes(&Task::Head { config: c }, &data, &Settings { lr: 2e-2, ..settings(6) }, &mut |_| ());
}

/// Pictures of weight 3 are rated 2, those of weight 1 are rated 6: the least weighted error is at 3 for every batch, also
/// where a batch is one picture and its own weight cancels out of its mean.
#[test]
fn the_weighted_optimum_does_not_depend_on_the_batch() {
    /// The bias after the last epoch, before the best weights are put back.
    struct Last(f32);
    impl Watch for Last {
        fn keep(&mut self, net: &Network, _: &State, _: &Best) -> Result<()> {
            self.0 = net.session.read(net.session.graph().find("head.out.bias").unwrap())?[0];
            Ok(())
        }
    }
    let c = Config { head: vec![], keep: vec![], ..config(Architecture::Shared) };
    let rows: Vec<usize> = (0..8).collect();
    let ratings = rows.iter().flat_map(|i| [[2.0, 2.0], [6.0, 6.0]][i % 2]).collect();
    let data = Samples {
        // Features that say nothing: the last layer's bias alone is learned.
        inputs: Inputs::Features(vec![(c.features(), vec![0.0; 8 * c.features()])]),
        targets: Targets::ratings(ratings),
        weight: rows.iter().map(|i| [3.0, 1.0][i % 2]).collect(),
    };
    let learned = |batch: usize, weighted: bool| {
        let decay = Some(Decay::Cosine { epochs: 80, min: 0.0 });
        let s = Settings { plateau: None, decay, momentum: 0.0, batch, lr: 0.1, ..settings(80) };
        let task = Task::Head { config: c.clone() };
        let mut net = begun(Network::new(&task, batch, Method { weighted, ..method(&s) }, cpu(1)).unwrap());
        let mut state = State::new(&s, 1).unwrap();
        let mut last = Last(f32::NAN);
        fit::fit(&mut net, &data, [&rows, &[]], &s, &mut state, &mut vec![], &mut last).unwrap();
        last.0
    };
    for batch in [1, 3, 8] {
        let bias = learned(batch, true);
        assert!((bias - 3.0).abs() <= 0.1, "{bias} in batches of {batch}");
    }
    // Without it a batch of one knows no weights, and one of all does.
    assert!((learned(1, false) - 4.0).abs() <= 0.1);
    assert!((learned(8, false) - 3.0).abs() <= 0.1);
}

/// Large enough that every routine cuts its work into pieces.
fn wide(architecture: Architecture) -> Config {
    let mut c = small(architecture, 8, 0.5);
    for t in &mut c.towers {
        t.dense = vec![64];
    }
    (c.head, c.keep) = (vec![300, 60], vec![0.5, 0.5]);
    c
}

#[test]
fn training_has_the_same_bits_on_any_number_of_threads() {
    let pictures = pictures(16);
    let (task, data) = (end_to_end(&wide(Architecture::Shared)), samples(&pictures));
    let s = Settings { batch: 5, ..settings(2) };
    let ends: Vec<End> = [1, 2, 4, 2]
        .into_iter()
        .map(|threads| {
            let mut net = network(&task, s.batch, s.form, cpu(threads));
            let (mut state, mut best) = (State::new(&s, 1).unwrap(), vec![]);
            fit::fit(&mut net, &data, [&TRAINED, &MONITORED], &s, &mut state, &mut best, &mut ()).unwrap();
            (bits(&net), state, best)
        })
        .collect();
    for (i, end) in ends.iter().enumerate() {
        assert_eq!(end.1, ends[0].1, "run {i}");
        assert!(end.0 == ends[0].0 && end.2 == ends[0].2, "run {i}");
    }
}

/// A finished checkpoint of a network.
fn saved(dir: &Path, task: &Task, net: &Network, extra: &[Stored]) -> Arc<WeightFile> {
    let s = settings(1);
    let state = State { finished: true, ..State::new(&s, net.parts.len()).unwrap() };
    let path = dir.join("m.safetensors");
    checkpoint::save(&path, &card(task, &s, &state), net, &vec![], extra).unwrap();
    WeightFile::open(path).unwrap()
}

#[test]
fn predictions_depend_neither_on_batch_nor_place_nor_threads() {
    let (dir, pictures) = (tempfile::tempdir().unwrap(), pictures(33));
    let square = pictures.bytes().len() / 33;
    for architecture in [Architecture::Shared, Architecture::Split] {
        let task = end_to_end(&wide(architecture));
        let file = saved(dir.path(), &task, &network(&task, 1, SgdForm::Keras, cpu(1)), &[]);
        let mut want: Vec<f32> = vec![];
        for (batch, threads) in [(1, 1), (1, 2), (2, 4), (7, 1), (7, 2), (32, 4), (32, 1)] {
            let mut p = Predictor::new(&file, batch, cpu(threads)).unwrap();
            let got = p.predict(pictures.bytes()).unwrap();
            if want.is_empty() {
                want = got.clone();
                assert!(want.chunks(2).skip(1).all(|y| y != &want[..2]) && want.iter().all(|y| y.is_finite()));
            }
            assert_eq!(got, want, "batch {batch}, {threads} threads");
            // Every place: the same pictures, beginning elsewhere.
            for shift in [1, 5, 20] {
                let mut squares = pictures.bytes().to_vec();
                squares.rotate_left(shift * square);
                let mut got = p.predict(&squares).unwrap();
                got.rotate_right(2 * shift);
                assert_eq!(got, want, "batch {batch}, {threads} threads, shifted by {shift}");
            }
        }
        assert!(Predictor::new(&file, 2, cpu(1)).unwrap().predict(&pictures.bytes()[1..]).is_err());
    }
}

/// Weights of dense layers in 16 bits, of a file or rounded when the model is opened, are read as they lie, and give the
/// bits of a model that has the same numbers in float32.
#[test]
fn dense_weights_in_sixteen_bits_give_the_bits_of_their_numbers() {
    let (dir, pictures) = (tempfile::tempdir().unwrap(), pictures(5));
    let mut c = wide(Architecture::Shared);
    c.head = vec![296, 64];
    let task = end_to_end(&c);
    let file = saved(dir.path(), &task, &network(&task, 1, SgdForm::Keras, cpu(1)), &[]);
    let path = dir.path().join("narrow.safetensors");
    let done = narrow(file.path(), &path).unwrap();
    // One of each tower and one of the head; those of 7 classes, of all 21 and of 2 ratings stay as they are.
    assert_eq!(done.tensors, 4);
    let narrowed = WeightFile::open(&path).unwrap();
    let lies = |name: &str| narrowed.info(name).unwrap().dtype == Dtype::F16;

    let open = |device: Box<dyn Device>| {
        let (g, image, want) = task.evaluation(5, Precision::Float32).unwrap();
        (Session::new(g, &[&want], Options::default(), device).unwrap(), image[0], want)
    };
    let answer = |(mut s, image, want): (Session, Value, Vec<Value>)| {
        s.write(image, Data::U8(pictures.bytes())).unwrap();
        s.run(0).unwrap();
        s.read(want[0]).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let predicted = |file: &Arc<WeightFile>, precision: Precision, batch: usize, threads: usize| {
        let mut p = Predictor::within(precision, file, batch, cpu(threads)).unwrap();
        p.predict(pictures.bytes()).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    for simd in Simd::available() {
        let device = || Box::new(Cpu::with(simd, Some(2), Checks::None).unwrap());
        let mut numbers = open(device());
        for v in numbers.0.graph().stored().collect::<Vec<_>>() {
            let t = narrowed.tensor(numbers.0.graph().name(v)).unwrap();
            numbers.0.write(v, Data::F32(&t.to_f32().unwrap())).unwrap();
        }
        let mut mapped = open(device());
        checkpoint::bind(&narrowed, &mut mapped.0).unwrap();
        let mut rounded = open(device());
        checkpoint::bind(&file, &mut rounded.0).unwrap();
        checkpoint::narrow(&mut rounded.0, DType::F16, |_| {}).unwrap();
        for s in [&mapped.0, &rounded.0] {
            for v in s.graph().stored() {
                let name = s.graph().name(v);
                assert_eq!(s.device().lend(v).is_none(), lies(name), "{name}");
                assert_eq!(s.read(v).unwrap(), *narrowed.tensor(name).unwrap().to_f32().unwrap(), "{name}");
            }
        }
        let want = answer(numbers);
        assert_eq!([answer(mapped), answer(rounded)], [want.clone(), want.clone()], "{simd:?}");
        if simd == Simd::detect() {
            for (batch, threads) in [(1, 1), (5, 2), (2, 4)] {
                assert_eq!(predicted(&narrowed, Precision::Float32, batch, threads), want, "batch {batch}");
                assert_eq!(predicted(&file, Precision::Fp16, batch, threads), want, "batch {batch}");
            }
            let [whole, bf16] = [Precision::Float32, Precision::Bf16].map(|p| predicted(&file, p, 5, 2));
            assert!(whole != want && bf16 != want && bf16 != whole);
        }
    }
    // The definition rounds the same numbers.
    let mut defined = open(reference());
    checkpoint::bind(&file, &mut defined.0).unwrap();
    checkpoint::narrow(&mut defined.0, DType::F16, |_| {}).unwrap();
    for v in defined.0.graph().stored() {
        let name = defined.0.graph().name(v);
        assert_eq!(defined.0.read(v).unwrap(), *narrowed.tensor(name).unwrap().to_f32().unwrap(), "{name}");
    }
}

#[test]
fn mapped_weights_are_as_good_as_copied_ones() {
    let (dir, pictures) = (tempfile::tempdir().unwrap(), pictures(3));
    let c = wide(Architecture::Split);
    let file = saved(dir.path(), &end_to_end(&c), &network(&end_to_end(&c), 1, SgdForm::Keras, cpu(1)), &[]);
    let (mut answers, mut memory) = (vec![], vec![]);
    for mapped in [true, false] {
        let (g, image, want) = end_to_end(&c).evaluation(3, Precision::Float32).unwrap();
        let mut s = Session::new(g, &[&want], Options::default(), cpu(2)).unwrap();
        for v in s.graph().of_kind(Role::Param).collect::<Vec<_>>() {
            let name = s.graph().name(v).to_string();
            match file.aligned_f32(&name) {
                Some(range) if mapped => s.bind(v, Arc::new(MappedFile(file.clone())), range).map(drop).unwrap(),
                _ => s.write(v, Data::F32(&file.tensor(&name).unwrap().to_f32().unwrap())).unwrap(),
            }
        }
        s.write(image[0], Data::U8(pictures.bytes())).unwrap();
        s.run(0).unwrap();
        memory.push(s.device().memory().persistent);
        answers.push(want.iter().map(|v| s.read(*v).unwrap()).collect::<Vec<_>>());
    }
    assert_eq!(answers[0], answers[1]);
    assert!(memory[0] * 10 < memory[1], "{memory:?}: hardly anything was mapped");
    let predicted = Predictor::new(&file, 3, cpu(2)).unwrap().predict(pictures.bytes()).unwrap();
    let valence: Vec<f32> = predicted.chunks(2).map(|y| y[0]).collect();
    assert_eq!(valence, answers[0][0]);
}

/// Loss and gradients of one update over some rows: with PyTorch's form the first velocity is the gradient.
fn gradients(task: &Task, data: &Samples, rows: &[usize], batch: usize) -> (f64, Vec<Vec<f64>>) {
    let s = Settings { epochs: 1, batch, plateau: None, form: SgdForm::Torch, ..settings(1) };
    let mut net = network(task, batch, s.form, reference());
    let mut state = State::new(&s, net.parts.len()).unwrap();
    let mut loss = Losses(vec![]);
    fit::fit(&mut net, data, [rows, &[]], &s, &mut state, &mut vec![], &mut loss).unwrap();
    assert_eq!((state.step, loss.0.len()), (1, net.parts.len()));
    let velocity = net.parts.iter().flat_map(|p| &p.velocity);
    (loss.0.iter().sum(), velocity.map(|v| net.session.read64(*v).unwrap()).collect())
}

/// The exact losses of the last update.
struct Losses(Vec<f64>);
impl Watch for Losses {
    fn keep(&mut self, net: &Network, _: &State, _: &Best) -> Result<()> {
        self.0 = net.parts.iter().map(|p| net.session.read64(p.loss).unwrap()[0]).collect();
        Ok(())
    }
}

fn close(a: &[Vec<f64>], b: &[Vec<f64>]) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let scale = b.iter().fold(1.0f64, |m, x| m.max(x.abs()));
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-12 * scale), "tensor {i}");
    }
}

#[test]
fn a_padded_batch_has_the_loss_and_the_gradient_of_its_rows() {
    let pictures = pictures(16);
    let (task, data) = (end_to_end(&config(Architecture::Shared)), samples(&pictures));
    for rows in [&[3usize, 8, 14][..], &[6], &[1, 2]] {
        let (loss, grads) = gradients(&task, &data, rows, rows.len());
        let (padded_loss, padded) = gradients(&task, &data, rows, 4);
        assert!((loss - padded_loss).abs() <= 1e-12 * loss, "{loss} {padded_loss}");
        close(&padded, &grads);
        assert!(grads.iter().filter(|g| g.iter().any(|x| x.abs() > 1e-6)).count() * 3 > grads.len());
    }
}

#[test]
fn rows_of_weight_zero_change_nothing() {
    let pictures = pictures(16);
    let (task, mut data) = (end_to_end(&config(Architecture::Shared)), samples(&pictures));
    data.weight[2..9].fill(0.0);
    // In batches of one whole batches do not count.
    let s = Settings { batch: 1, ..settings(2) };
    let (weights, state, _) = whole(&task, &data, [&TRAINED, &MONITORED], &s);
    assert!(weights.iter().flatten().all(|x| f32::from_bits(*x).is_finite()));
    assert!(state.history.iter().all(|e| e.train_loss.is_finite()) && state.step == 22);
}

#[test]
fn frozen_towers_do_not_change_and_the_rest_does() {
    let pictures = pictures(16);
    let c = config(Architecture::Shared);
    let frozen = vec!["object".to_string(), "face".to_string()];
    let task = Task::EndToEnd { config: c, frozen };
    let mut net = network(&task, 4, SgdForm::Keras, cpu(2));
    let all = |net: &Network| -> Vec<(String, Vec<f32>)> {
        net.stored().iter().map(|v| (net.session.graph().name(*v).into(), net.session.read(*v).unwrap())).collect()
    };
    let before = all(&net);
    let s = Settings { weight_decay: 0.1, ..settings(2) };
    let mut state = State::new(&s, 1).unwrap();
    fit::fit(&mut net, &samples(&pictures), [&TRAINED, &[]], &s, &mut state, &mut vec![], &mut ()).unwrap();
    let (mut same, mut moved) = (0, 0);
    for ((name, old), (_, new)) in before.iter().zip(all(&net)) {
        let free = name.starts_with("scene.") || name.starts_with("head.");
        if free {
            moved += (*old != new) as usize;
        } else {
            same += 1;
            assert_eq!(*old, new, "{name}");
        }
    }
    assert!(same > 40 && moved > 30, "{same} kept, {moved} moved");
}

#[test]
fn a_head_on_features_is_the_whole_model_with_frozen_towers() {
    let (dir, pictures) = (tempfile::tempdir().unwrap(), pictures(16));
    for architecture in [Architecture::Shared, Architecture::Split] {
        let mut c = config(architecture);
        c.towers[1].keep = 1.0; // A tower that is trained has dropout, a frozen one has not.
        let data = samples(&pictures);
        let made = |made: u32| {
            let cache = dir.path().join(format!("{architecture:?}"));
            std::fs::create_dir_all(&cache).unwrap();
            let (e, _) = features::cached(&c, &initial(), &pictures, 3, cpu(2), &cache, &()).unwrap();
            let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|f| f.unwrap().path()).collect();
            // Every tower has its own, and draws its own weights for each part of a split model.
            assert_eq!(files.len(), c.towers.len() * c.members().len());
            if made == 1 {
                // A damaged file is made again.
                std::fs::write(&files[0], b"damaged").unwrap();
            }
            e
        };
        let e = made(0);
        for i in [1, 2, 3] {
            let again = made(i);
            assert!(again.members == e.members, "features, time {i}");
            let sorted = |e: &Extracted| {
                let of = |t: &Stored| (t.name.clone(), t.shape.clone(), t.values().unwrap().into_owned());
                let mut t: Vec<_> = e.towers.iter().map(of).collect();
                t.sort_by(|a, b| a.0.cmp(&b.0));
                t
            };
            assert!(sorted(&again) == sorted(&e), "towers, time {i}");
        }

        let s = Settings { lr: 2e-2, ..settings(3) };
        let train = |task: &Task, data: &Samples| {
            let mut net = network(task, s.batch, s.form, cpu(2));
            let mut state = State::new(&s, net.parts.len()).unwrap();
            fit::fit(&mut net, data, [&TRAINED, &MONITORED], &s, &mut state, &mut vec![], &mut ()).unwrap();
            (net, state)
        };
        let head = Task::Head { config: c.clone() };
        let cached = Samples { inputs: Inputs::Features(e.members.clone()), ..samples(&pictures) };
        let (mut net, _) = train(&head, &cached);
        let rows: Vec<usize> = (0..16).collect();
        let by_head = fit::predict(&mut net, &cached, &rows).unwrap();
        let file = saved(dir.path(), &head, &net, &e.towers);
        let by_model = Predictor::new(&file, 5, cpu(1)).unwrap().predict(pictures.bytes()).unwrap();
        assert_eq!(by_head, by_model, "{architecture:?}");
        // The slow way round gives the same bits.
        let frozen = c.towers.iter().map(|t| t.name.clone()).collect();
        let (mut slow, _) = train(&Task::EndToEnd { config: c.clone(), frozen }, &data);
        assert_eq!(fit::predict(&mut slow, &data, &rows).unwrap(), by_head, "{architecture:?}");
    }
}

/// The run ends with one line that has all parts, before anything was kept; the state is the one before the step.
fn refused(data: &Samples, s: &Settings, parts: &[&str]) {
    struct Last(State);
    impl Watch for Last {
        fn step(&mut self, state: &State, _: u32, _: f64) -> bool {
            self.0 = state.clone();
            false
        }
        fn keep(&mut self, _: &Network, state: &State, _: &Best) -> Result<()> {
            self.0 = state.clone();
            Ok(())
        }
    }
    let mut net = network(&end_to_end(&config(Architecture::Shared)), s.batch, s.form, cpu(1));
    let mut state = State::new(s, 1).unwrap();
    let mut last = Last(state.clone());
    let e = fit::fit(&mut net, data, [&TRAINED, &MONITORED], s, &mut state, &mut vec![], &mut last).unwrap_err();
    let text = e.to_string();
    assert_eq!((e.kind(), text.lines().count()), (Kind::Job, 1));
    assert!(parts.iter().all(|p| text.contains(p)), "{text}");
    assert_eq!(state, last.0, "{text}");
    // What is kept can be read again: no NaN has come into it.
    assert_eq!(serde_json::from_str::<State>(&serde_json::to_string(&state).unwrap()).unwrap(), state);
}

#[test]
fn bad_numbers_end_a_run_with_one_line() {
    let pictures = pictures(16);
    for (row, x) in [(4, f32::NAN), (10, f32::INFINITY), (12, f32::NAN)] {
        let mut data = samples(&pictures);
        let ratings = &mut data.targets.ratings;
        ratings[2 * row + 1] = x;
        refused(&data, &settings(2), &[&format!("picture {} has the rating {x}", row + 1)]);
        let mut data = samples(&pictures);
        data.weight[row] = -x;
        refused(&data, &settings(2), &[&format!("picture {} has the weight {}", row + 1, -x), "from 0 up"]);
    }
    let mut data = samples(&pictures);
    data.weight[..11].fill(0.0);
    refused(&data, &settings(2), &["all pictures to train on have weight 0"]);
    let mut data = samples(&pictures);
    data.weight[11..].fill(0.0);
    refused(&data, &settings(2), &["all pictures to monitor have weight 0"]);
    // In the second step, and in the first epoch's last one: then only the monitored pictures show it.
    refused(&samples(&pictures), &Settings { lr: 1e30, ..settings(2) }, &["the loss is ", "in epoch 1", "lower lr"]);
    let once = Settings { lr: 1e30, batch: 11, ..settings(2) };
    refused(&samples(&pictures), &once, &["the loss is ", "monitored pictures after epoch 1", "lower lr"]);
}

#[test]
fn weights_that_are_no_numbers_are_never_kept() {
    let pictures = pictures(16);
    let (dir, data) = (tempfile::tempdir().unwrap(), samples(&pictures));
    // The only step of the only epoch has a loss, and ruins the weights; nothing is monitored that would show it.
    let s = Settings { lr: 3e38, batch: 11, epochs: 1, ..settings(1) };
    let task = end_to_end(&config(Architecture::Shared));
    let mut net = network(&task, s.batch, s.form, cpu(1));
    let path = dir.path().join("c.safetensors");
    let (mut state, mut best) = (State::new(&s, 1).unwrap(), vec![]);
    checkpoint::save(&path, &card(&task, &s, &state), &net, &best, &[]).unwrap();
    let before = std::fs::read(&path).unwrap();
    let e = fit::fit(&mut net, &data, [&TRAINED, &[]], &s, &mut state, &mut best, &mut ()).unwrap_err().to_string();
    assert!(e.contains("are NaN or infinite") && e.contains("lower lr"), "{e}");
    let e = checkpoint::save(&path, &card(&task, &s, &state), &net, &vec![], &[]).unwrap_err().to_string();
    assert!(e.contains("are NaN or infinite") && e.contains("the last checkpoint is as it was"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    for (bad, flag) in [
        (Settings { lr: f64::INFINITY, ..settings(1) }, "lr inf"),
        (Settings { lr: 1e39, ..settings(1) }, "lr 1"),
        (Settings { momentum: f32::NAN, ..settings(1) }, "momentum NaN"),
        (Settings { momentum: 1.0, ..settings(1) }, "momentum 1"),
        (Settings { weight_decay: f32::INFINITY, ..settings(1) }, "weight-decay inf"),
    ] {
        let e = State::new(&bad, 1).unwrap_err();
        assert!(e.kind() == Kind::Usage && e.to_string().starts_with(flag), "{e}");
    }
}

#[test]
fn the_penalty_is_in_the_loss_and_in_the_gradient() {
    let pictures = pictures(16);
    let data = samples(&pictures);
    let mut with = small(Architecture::Shared, 64, 1.0);
    let without = with.clone();
    with.towers[1].l2 = 2e-4;
    let rows = [0usize, 5, 9, 13];
    let (loss, grads) = gradients(&end_to_end(&with), &data, &rows, 4);
    let (plain_loss, plain) = gradients(&end_to_end(&without), &data, &rows, 4);

    let mut net = network(&end_to_end(&with), 4, SgdForm::Torch, reference());
    let lambda = 2e-4f32 as f64;
    let (mut by_hand, mut penalised, mut want) = (0.0, 0, plain.clone());
    for (i, &v) in net.parts[0].params.iter().enumerate() {
        let name = net.session.graph().name(v);
        if name.starts_with("scene.conv") && name.ends_with(".weight") {
            let w = net.session.read64(v).unwrap();
            by_hand += lambda * w.iter().map(|w| w * w).sum::<f64>();
            want[i].iter_mut().zip(&w).for_each(|(g, w)| *g += 2.0 * lambda * w);
            penalised += 1;
        }
    }
    assert_eq!(penalised, 13);
    assert!(by_hand > 1e-4 && (loss - plain_loss - by_hand).abs() <= 1e-12 * loss, "{loss} {plain_loss} {by_hand}");
    close(&grads, &want);
    // The monitored loss has it too, from a plan of its own.
    net.session.run(PENALTY).unwrap();
    let penalty = net.session.read64(net.parts[0].penalty.unwrap()).unwrap()[0];
    assert!((penalty - by_hand).abs() <= 1e-12 * by_hand);
    let monitored = fit::losses(&mut net, &data, &rows).unwrap()[0];
    assert!((monitored - loss).abs() <= 1e-6 * loss, "{monitored} {loss}");
    assert_eq!((TRAIN, EVAL), (0, 1));
}

/// JAX's losses and gradients of ratings and classes on one trunk (`golden/make_losses.py`).
#[test]
fn several_losses_are_one_by_their_weights() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/losses.json")).unwrap();
    let list =
        |v: &serde_json::Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    let single = |v: &serde_json::Value| list(v).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let mut c = small(Architecture::Shared, 64, 1.0);
    c.towers.truncate(1);
    c.towers[0].classes = 3;
    (c.head, c.keep, c.classes) = (vec![4], vec![1.0], ["a", "b", "c"].map(String::from).to_vec());
    let data = Samples {
        inputs: Inputs::Features(vec![(3, single(&golden["x"]))]),
        targets: Targets {
            ratings: single(&golden["y"]),
            labels: list(&golden["labels"]).iter().map(|l| *l as i32).collect(),
        },
        weight: single(&golden["rows"]),
    };
    let rows = [0, 1, 2, 3, 4];
    for case in golden["cases"].as_array().unwrap() {
        let sum = case["reduction"] == "sum";
        let of = |key: &str| case[key].as_f64().unwrap() as f32;
        let losses = network::Losses {
            reduction: if sum { Reduction::Sum } else { Reduction::Mean },
            ratings: of("ratings"),
            classes: of("classes"),
        };
        let s = Settings { epochs: 1, batch: 5, plateau: None, form: SgdForm::Torch, losses, ..settings(1) };
        let begun = || {
            let mut net = Network::new(&Task::Head { config: c.clone() }, 5, s.method(), reference()).unwrap();
            for (name, values) in golden["params"].as_object().unwrap() {
                let v = net.session.graph().find(name).unwrap();
                net.session.write(v, Data::F64(&list(values))).unwrap();
            }
            (net, State::new(&s, 1).unwrap())
        };
        let (mut net, mut state) = begun();
        let mut loss = Losses(vec![]);
        fit::fit(&mut net, &data, [&rows, &[]], &s, &mut state, &mut vec![], &mut loss).unwrap();
        let close = |got: f64, want: f64| assert!((got - want).abs() <= 1e-12 * want.abs().max(1.0), "{got} {want}");
        close(loss.0[0], case["loss"].as_f64().unwrap());
        let part = &net.parts[0];
        for (w, v) in part.params.iter().zip(&part.velocity) {
            let want = list(&case["gradients"][net.session.graph().name(*w)]);
            let got = net.session.read64(*v).unwrap();
            assert_eq!(got.len(), want.len());
            got.iter().zip(want).for_each(|(got, want)| close(*got, want));
        }
        assert_eq!(part.params.len(), 6);
        // The history tells of each output before the update, and of a sum by what a row adds. Outputs are read in float32.
        let (mut net, mut state) = begun();
        fit::fit(&mut net, &data, [&rows, &rows], &s, &mut state, &mut vec![], &mut ()).unwrap();
        let epoch = &state.history[0];
        let near = |got: f64, want: f64| assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{got} {want}");
        let by = if sum { list(&golden["rows"]).iter().sum() } else { 1.0 };
        near(epoch.train_loss, case["loss"].as_f64().unwrap() / by);
        let told: Vec<(&str, f64)> = epoch.outputs.iter().map(|o| (o.name.as_str(), o.train.unwrap())).collect();
        assert_eq!(told.iter().map(|t| t.0).collect::<Vec<_>>(), ["valence", "arousal", network::CLASSES]);
        told.iter().zip(list(&golden["errors"])).for_each(|(t, want)| near(t.1, want));
        let (val, outputs) = (epoch.val_loss.unwrap(), epoch.outputs.iter().map(|o| o.val.unwrap()));
        let e: Vec<f64> = outputs.collect();
        let rated = (e[0] + e[1]) / if sum { 1.0 } else { 2.0 };
        near(val, f64::from(losses.ratings) * rated + f64::from(losses.classes) * e[2]);
    }
}
