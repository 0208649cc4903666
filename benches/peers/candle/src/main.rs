//! The fused network in candle, speaking the protocol of `worker.py`: `candle-peer infer|train BATCH`.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Optimizer, SGD, ops::softmax};
use std::io::BufRead;
use std::time::Instant;

type Blocks = [(usize, usize); 5];
const VGG16: Blocks = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)];
const VGG19: Blocks = [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)];
const TOWERS: [(&Blocks, &[usize]); 3] =
    [(&VGG16, &[4096, 4096, 1000]), (&VGG16, &[4096, 4096, 365]), (&VGG19, &[2048, 1024, 512, 5])];
const HEAD: &[usize] = &[3000, 1000, 500, 2];

struct Layer {
    w: Var,
    b: Var,
}

impl Layer {
    fn draw(shape: &[usize]) -> Result<Self> {
        let fan_in: usize = shape[1..].iter().product();
        let deviation = (2.0 / fan_in as f32).sqrt();
        Ok(Self {
            w: Var::randn(0.0, deviation, shape, &Device::Cpu)?,
            b: Var::zeros(shape[0], DType::F32, &Device::Cpu)?,
        })
    }
    fn dense(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.w.t()?)?.broadcast_add(&self.b)
    }
}

/// Layers of one dense stack; ReLU between them.
struct Dense(Vec<Layer>);

impl Dense {
    fn draw(mut width: usize, widths: &[usize]) -> Result<Self> {
        let layer = |&k: &usize| Layer::draw(&[k, std::mem::replace(&mut width, k)]);
        Ok(Self(widths.iter().map(layer).collect::<Result<_>>()?))
    }
    fn forward(&self, mut x: Tensor, dropout: f32) -> Result<Tensor> {
        for (i, l) in self.0.iter().enumerate() {
            x = l.dense(&x)?;
            if i + 1 < self.0.len() {
                x = x.relu()?;
                if dropout > 0.0 {
                    x = candle_nn::ops::dropout(&x, dropout)?;
                }
            }
        }
        Ok(x)
    }
}

struct Tower {
    blocks: Vec<Vec<Layer>>,
    dense: Dense,
}

impl Tower {
    fn draw(blocks: &Blocks, widths: &[usize]) -> Result<Self> {
        let mut c = 3;
        let mut layer = |k| Layer::draw(&[k, std::mem::replace(&mut c, k), 3, 3]);
        let blocks =
            blocks.iter().map(|&(k, n)| (0..n).map(|_| layer(k)).collect()).collect::<Result<Vec<Vec<_>>>>()?;
        Ok(Self { blocks, dense: Dense::draw(512 * 7 * 7, widths)? })
    }
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for block in &self.blocks {
            for l in block {
                x = x.conv2d(&l.w, 1, 1, 1, 1)?.broadcast_add(&l.b.reshape((1, (), 1, 1))?)?.relu()?;
            }
            x = x.max_pool2d(2)?;
        }
        softmax(&self.dense.forward(x.flatten_from(1)?, 0.0)?, 1)
    }
}

struct Fused {
    towers: Vec<Tower>,
    head: Dense,
}

impl Fused {
    fn draw() -> Result<Self> {
        Ok(Self {
            towers: TOWERS.iter().map(|(b, d)| Tower::draw(b, d)).collect::<Result<_>>()?,
            head: Dense::draw(TOWERS.iter().map(|t| t.1[t.1.len() - 1]).sum(), HEAD)?,
        })
    }
    fn forward(&self, x: &Tensor, dropout: f32) -> Result<Tensor> {
        let features = self.towers.iter().map(|t| t.forward(x)).collect::<Result<Vec<_>>>()?;
        self.head.forward(Tensor::cat(&features, 1)?, dropout)
    }
    fn vars(&self) -> Vec<Var> {
        let towers = self.towers.iter().flat_map(|t| t.blocks.iter().flatten().chain(&t.dense.0));
        towers.chain(&self.head.0).flat_map(|l| [l.w.clone(), l.b.clone()]).collect()
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, case, batch] = &arguments[..] else { panic!("candle-peer infer|train BATCH") };
    let n: usize = batch.parse().expect("a batch size");
    let model = Fused::draw()?;
    let x = Tensor::rand(-0.5f32, 0.5, (n, 3, 224, 224), &Device::Cpu)?;
    let y = Tensor::rand(0f32, 1.0, (n, 2), &Device::Cpu)?;
    // candle's SGD has no momentum: it does a little less than the others.
    let mut sgd = SGD::new(model.vars(), 1e-4)?;
    let mut turns = std::io::stdin().lock().lines();
    loop {
        let start = Instant::now();
        match &case[..] {
            "infer" => drop(model.forward(&x, 0.0)?.to_vec2::<f32>()?),
            "train" => sgd.backward_step(&candle_nn::loss::mse(&model.forward(&x, 0.5)?, &y)?)?,
            other => panic!("unknown case {other}"),
        }
        println!("{{\"seconds\": {}}}", start.elapsed().as_secs_f64());
        if turns.next().is_none() {
            break;
        }
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.split_whitespace().next());
    println!("{{\"peak_memory_mib\": {}}}", peak.map_or(0, |k| k.parse::<u64>().unwrap_or(0) / 1024));
    Ok(())
}
