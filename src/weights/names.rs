/*! Other people's names and layouts. Told from tensor names and shapes alone: torchvision's `features.N` and
`classifier.0|3|6` (torchvision/models/vgg.py), timm's `pre_logits.fc1|fc2` and `head.fc` (timm/models/vgg.py,
`_filter_fn`), and files of ours, which say so in their header (`layout`).

Every foreign layout differs from ours in one way only: channels come before rows and columns. OIHW filters, dense
weights whose input was flattened in C,H,W order, and timm's fc1 kept as a 7x7 convolution are all
`[out, C, H, W] -> [out, H, W, C]`, so there is one permutation, [`Permute::ChwToHwc`]. */

use super::LAYOUT;
use super::header::Info;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Who wrote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// Names and layout of ours, for any network.
    Ours,
    /// Our names, torch's layout: the header says `layout: OIHW`.
    OursOihw,
    Torchvision,
    Timm,
    Unknown,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    pub lineage: Lineage,
    /// `vgg11`, `vgg13`, `vgg16` or `vgg19`, from the number of convolutions in each block.
    pub network: Option<&'static str>,
    /// Outputs of fc3; None without a classifier.
    pub classes: Option<usize>,
    /// Why nothing was recognised, or a part was not, with the remedy.
    pub trouble: Option<String>,
}

impl Kind {
    /// For people: `torchvision vgg16, 1000 classes`.
    pub fn describe(&self) -> String {
        let who = match self.lineage {
            Lineage::Ours => "deep-affect",
            Lineage::OursOihw => "deep-affect names in OIHW layout",
            Lineage::Torchvision => "torchvision",
            Lineage::Timm => "timm",
            Lineage::Unknown => return "not recognised".into(),
        };
        let net = self.network.map_or(String::new(), |n| format!(" {n}"));
        match self.classes {
            Some(n) => format!("{who}{net}, {n} classes"),
            None => format!("{who}{net}, no classifier"),
        }
    }
}

/// Channels that [`Permute::apply`] moves together.
const TILE: usize = 16;

/// How a tensor becomes ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permute {
    /// The values lie as ours do.
    None,
    /// Each row (filter, or output unit) goes from C,H,W to H,W,C order.
    ChwToHwc { c: usize, h: usize, w: usize },
}

impl Permute {
    /// None where channels or pixels are single and the orders agree.
    fn chw(c: usize, h: usize, w: usize) -> Self {
        if c == 1 || h * w == 1 { Permute::None } else { Permute::ChwToHwc { c, h, w } }
    }

    /// The values in our order; borrowed if they already are. `values` must consist of whole rows.
    pub fn apply<'a>(&self, values: Cow<'a, [f32]>) -> Cow<'a, [f32]> {
        if *self == Permute::None {
            return values;
        }
        let mut out = vec![0.0; values.len()];
        self.apply_into(&values, &mut out);
        Cow::Owned(out)
    }

    /// The values in our order to a place of the same length. Fresh memory costs more than the permutation: prefer this
    /// where the place exists already.
    pub fn apply_into(&self, values: &[f32], out: &mut [f32]) {
        assert_eq!(values.len(), out.len(), "as many places as values");
        let Permute::ChwToHwc { c, h, w } = *self else { return out.copy_from_slice(values) };
        let (row, pixels) = (c * h * w, h * w);
        if out.is_empty() {
            return;
        }
        assert_eq!(values.len() % row, 0, "{} values are no whole rows of {c}x{h}x{w}", values.len());
        out.par_chunks_exact_mut(row).zip(values.par_chunks_exact(row)).for_each(|(to, from)| {
            // Few enough channels at a time that their pixels stay in the nearest cache: a row of fc1 is 100 KB.
            for (first, planes) in (0..c).step_by(TILE).zip(from.chunks(TILE * pixels)) {
                let n = planes.len() / pixels;
                for p in 0..pixels {
                    let to = &mut to[p * c + first..][..n];
                    to.iter_mut().zip(planes[p..].iter().step_by(pixels)).for_each(|(y, x)| *y = *x);
                }
            }
        });
    }
}

/// One tensor of the file under our name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Without the tower: `conv1_1.weight`.
    pub ours: String,
    pub theirs: String,
    /// In our layout: `[K,R,S,C/groups]`, `[out, in]` or `[out]`.
    pub shape: Vec<usize>,
    pub permute: Permute,
}

/// What the file is, and every tensor of it under our name. Tensors without one keep theirs and come as they are, so
/// that nothing disappears silently: they turn up as extra when the file is matched to a network.
pub fn recognise(tensors: &[Info], metadata: &BTreeMap<String, String>) -> (Kind, Vec<Source>) {
    let layout = metadata.get(LAYOUT).map_or("", |s| s.as_str());
    let has = |name: &str| tensors.iter().any(|t| t.name == name);
    let ours = tensors.iter().any(|t| is_ours(&t.name));
    let mut kind = Kind { lineage: Lineage::Unknown, network: None, classes: None, trouble: None };
    if layout.starts_with("KRSC") {
        kind.lineage = Lineage::Ours;
    } else if ours && layout.starts_with("OIHW") {
        kind.lineage = Lineage::OursOihw;
    } else if ours {
        kind.trouble = Some("the header states no layout; write `layout`: `KRSC` or `OIHW` into its metadata".into());
    } else if has("features.0.weight") && (has("head.fc.weight") || has("pre_logits.fc1.weight")) {
        kind.lineage = Lineage::Timm;
    } else if has("features.0.weight") {
        kind.lineage = Lineage::Torchvision;
    } else {
        kind.trouble = Some(
            "the tensor names are neither ours nor torchvision's nor timm's; convert the file with one of those".into(),
        );
    }
    if tensors.iter().any(|t| t.name.ends_with(".running_mean")) {
        kind.trouble = Some("it has batch normalisation; fold it into the convolutions first".into());
    }

    let foreign = matches!(kind.lineage, Lineage::Torchvision | Lineage::Timm);
    let convs = if foreign { features(tensors) } else { BTreeMap::new() };
    let sources: Vec<Source> = tensors
        .iter()
        .map(|t| {
            let name = if foreign { foreign_name(&t.name, &convs) } else { None };
            Source {
                ours: name.unwrap_or_else(|| t.name.clone()),
                theirs: t.name.clone(),
                shape: t.shape.clone(),
                permute: Permute::None,
            }
        })
        .collect();
    let sources = if foreign || kind.lineage == Lineage::OursOihw { reorder(sources) } else { sources };
    kind.network = network(&sources);
    kind.classes = sources.iter().find(|s| s.ours == "fc3.weight").and_then(|s| s.shape.first().copied());
    (kind, sources)
}

/// `conv1_1.weight`, `fc1.bias`, with or without a tower before it.
fn is_ours(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")) else { return false };
    let layer = stem.rsplit('.').next().unwrap_or(stem);
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    layer.strip_prefix("conv").and_then(|s| s.split_once('_')).is_some_and(|(a, b)| number(a) && number(b))
        // timm's `pre_logits.fc1` is not ours.
        || (layer.strip_prefix("fc").is_some_and(number) && !stem.starts_with("pre_logits."))
}

/// Index within `features` -> `convB_I`. Each convolution is followed by a ReLU, each block by a pool: an index two
/// further on is in the same block, any larger step begins the next one.
fn features(tensors: &[Info]) -> BTreeMap<usize, String> {
    let index = |t: &Info| t.name.strip_prefix("features.")?.strip_suffix(".weight")?.parse::<usize>().ok();
    let mut at: Vec<usize> = tensors.iter().filter(|t| t.shape.len() == 4).filter_map(index).collect();
    at.sort_unstable();
    let (mut block, mut i, mut last) = (1, 0, None);
    let name = |n: usize| {
        (block, i) = match last {
            Some(l) if n - l > 2 => (block + 1, 1),
            _ => (block, i + 1),
        };
        last = Some(n);
        (n, format!("conv{block}_{i}"))
    };
    at.into_iter().map(name).collect()
}

fn foreign_name(name: &str, convs: &BTreeMap<usize, String>) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    if end != "weight" && end != "bias" {
        return None;
    }
    let layer = match stem {
        "classifier.0" | "pre_logits.fc1" => "fc1",
        "classifier.3" | "pre_logits.fc2" => "fc2",
        "classifier.6" | "head.fc" => "fc3",
        _ => convs.get(&stem.strip_prefix("features.")?.parse().ok()?)?,
    };
    Some(format!("{layer}.{end}"))
}

/// Shapes in our layout and the permutation that leads there. A tensor whose shape makes no sense keeps it, and is
/// reported as mis-shaped by the match.
fn reorder(mut sources: Vec<Source>) -> Vec<Source> {
    // fc1 sees the last convolution's channels, flattened: that is how its pixels are known.
    let last = sources.iter().filter(|s| s.ours.starts_with("conv") && s.shape.len() == 4);
    let channels = last.max_by(|a, b| a.ours.cmp(&b.ours)).map(|s| s.shape[0]);
    for s in &mut sources {
        let Some(layer) = s.ours.strip_suffix(".weight") else { continue };
        match (s.shape.as_slice(), layer) {
            (&[k, c, h, w], _) if layer.starts_with("fc") => {
                // Zero extents and overflow were dealt with when the file was opened.
                s.shape = vec![k, c * h * w];
                s.permute = Permute::chw(c, h, w);
            }
            (&[k, c, r, q], _) => {
                s.shape = vec![k, r, q, c];
                s.permute = Permute::chw(c, r, q);
            }
            (&[_, n], "fc1") => {
                if let Some(c) = channels.filter(|c| *c > 0 && n % c == 0) {
                    let side = (n / c).isqrt();
                    if side * side == n / c {
                        s.permute = Permute::chw(c, side, side);
                    } else {
                        // Not the square picture VGG flattens: refuse by shape rather than guess rows and columns.
                        s.shape = vec![s.shape[0], c, n / c];
                    }
                }
            }
            _ => {}
        }
    }
    sources
}

/// From the number of convolutions in each block.
fn network(sources: &[Source]) -> Option<&'static str> {
    let mut blocks = BTreeMap::<&str, usize>::new();
    for s in sources {
        let layer = s.ours.strip_suffix(".weight").and_then(|n| n.strip_prefix("conv"));
        if let Some((block, _)) = layer.and_then(|l| l.split_once('_')) {
            *blocks.entry(block).or_default() += 1;
        }
    }
    match blocks.into_values().collect::<Vec<_>>()[..] {
        [1, 1, 2, 2, 2] => Some("vgg11"),
        [2, 2, 2, 2, 2] => Some("vgg13"),
        [2, 2, 3, 3, 3] => Some("vgg16"),
        [2, 2, 4, 4, 4] => Some("vgg19"),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use safetensors::Dtype;

    pub const VGG16: [usize; 13] = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
    pub const VGG19: [usize; 16] = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34];

    fn info(name: &str, shape: &[usize]) -> Info {
        Info { name: name.into(), dtype: Dtype::F32, shape: shape.into(), range: 0..0 }
    }

    /// The names of torchvision or timm with 2-channel filters and 3x3 pixels before fc1.
    pub fn fake(at: &[usize], head: &str) -> Vec<(String, Vec<usize>)> {
        let mut v = Vec::new();
        for i in at {
            v.push((format!("features.{i}.weight"), vec![2, if *i == 0 { 3 } else { 2 }, 3, 3]));
            v.push((format!("features.{i}.bias"), vec![2]));
        }
        let fc: [(&str, Vec<usize>); 3] = match head {
            "torchvision" => {
                [("classifier.0", vec![5, 18]), ("classifier.3", vec![5, 5]), ("classifier.6", vec![4, 5])]
            }
            "timm" => {
                [("pre_logits.fc1", vec![5, 2, 3, 3]), ("pre_logits.fc2", vec![5, 5, 1, 1]), ("head.fc", vec![4, 5])]
            }
            _ => return v,
        };
        for (name, shape) in fc {
            v.push((format!("{name}.bias"), vec![shape[0]]));
            v.push((format!("{name}.weight"), shape));
        }
        v
    }

    fn ask(tensors: &[(String, Vec<usize>)], layout: &str) -> (Kind, BTreeMap<String, Source>) {
        let infos: Vec<Info> = tensors.iter().map(|t| info(&t.0, &t.1)).collect();
        let meta = match layout {
            "" => BTreeMap::new(),
            l => BTreeMap::from([(LAYOUT.to_string(), l.to_string())]),
        };
        let (kind, sources) = recognise(&infos, &meta);
        (kind, sources.into_iter().map(|s| (s.ours.clone(), s)).collect())
    }

    #[test]
    fn torchvision_and_timm_become_ours() {
        for (at, net) in [(&VGG16[..], "vgg16"), (&VGG19[..], "vgg19")] {
            for (head, lineage) in [("torchvision", Lineage::Torchvision), ("timm", Lineage::Timm)] {
                let (kind, s) = ask(&fake(at, head), "");
                assert_eq!((kind.lineage, kind.network, kind.classes), (lineage, Some(net), Some(4)));
                assert_eq!(kind.trouble, None);
                assert_eq!(s.len(), 2 * at.len() + 6);
                let last = format!("conv5_{}.weight", if net == "vgg16" { 3 } else { 4 });
                assert_eq!(s[&last].theirs, format!("features.{}.weight", at[at.len() - 1]));
                assert_eq!(s["conv3_1.bias"].theirs, "features.10.bias");
                assert_eq!(s["conv1_1.weight"].shape, [2, 3, 3, 3]);
                assert_eq!(s["conv1_1.weight"].permute, Permute::ChwToHwc { c: 3, h: 3, w: 3 });
                assert_eq!(s["conv1_1.bias"].permute, Permute::None);
                assert_eq!(s["fc1.weight"].shape, [5, 18]);
                assert_eq!(s["fc1.weight"].permute, Permute::ChwToHwc { c: 2, h: 3, w: 3 });
                assert_eq!((&s["fc2.weight"].shape[..], s["fc2.weight"].permute), (&[5, 5][..], Permute::None));
                assert_eq!(s["fc3.weight"].shape, [4, 5]);
            }
            let (kind, s) = ask(&fake(at, ""), "OIHW, names as in the torchvision state_dict");
            assert_eq!((kind.lineage, kind.network, kind.classes), (Lineage::Torchvision, Some(net), None));
            assert_eq!(s.len(), 2 * at.len());
            assert_eq!(kind.describe(), format!("torchvision {net}, no classifier"));
        }
    }

    #[test]
    fn ours_need_a_stated_layout() {
        let t = [("scene.conv1_1.weight".to_string(), vec![4, 3, 3, 3]), ("scene.conv1_1.bias".into(), vec![4])];
        assert_eq!(ask(&t, "KRSC").0.lineage, Lineage::Ours);
        let (kind, _) = ask(&t, "");
        assert!(kind.lineage == Lineage::Unknown && kind.trouble.unwrap().contains("states no layout"));
        let t = [("conv1_1.weight".to_string(), vec![4, 3, 3, 3]), ("fc1.weight".into(), vec![2, 16])];
        let (kind, s) = ask(&t, "OIHW");
        assert_eq!(kind.lineage, Lineage::OursOihw);
        assert_eq!(s["fc1.weight"].permute, Permute::ChwToHwc { c: 4, h: 2, w: 2 });
        let (_, s) = ask(&t, "KRSC");
        assert!(s.values().all(|s| s.permute == Permute::None));
    }

    #[test]
    fn what_is_not_understood_says_so_and_nothing_disappears() {
        let mut t = fake(&VGG16, "torchvision");
        t.push(("ema.decay".into(), vec![1]));
        t.push(("features.1.running_mean".into(), vec![2]));
        let (kind, s) = ask(&t, "");
        assert!(kind.trouble.unwrap().contains("batch normalisation"));
        assert_eq!(s["ema.decay"].theirs, "ema.decay");
        let (kind, _) = ask(&[("layer1.0.conv1.weight".to_string(), vec![1, 1, 1, 1])], "");
        assert_eq!(kind.lineage, Lineage::Unknown);
        assert!(kind.trouble.is_some());
        // fc1 of no square picture is not guessed at.
        let mut t = fake(&VGG16, "torchvision");
        for (n, shape) in &mut t {
            if n == "classifier.0.weight" {
                *shape = vec![5, 12];
            }
        }
        assert_eq!(ask(&t, "").1["fc1.weight"].shape, [5, 2, 6]);
    }

    #[test]
    fn channels_move_last_by_the_index() {
        for (k, c, r, s) in [(2, 3, 2, 4), (3, TILE, 3, 3), (2, 2 * TILE + 1, 1, 3)] {
            oihw_to_krsc(k, c, r, s);
        }
        // By hand: one filter, two channels of 1x2.
        let p = Permute::ChwToHwc { c: 2, h: 1, w: 2 };
        assert_eq!(*p.apply(Cow::Borrowed(&[1.0, 2.0, 10.0, 20.0])), [1.0, 10.0, 2.0, 20.0]);
        let same = [1.0f32, 2.0];
        assert!(matches!(Permute::None.apply(Cow::Borrowed(&same)), Cow::Borrowed(_)));
    }

    /// Each value is its own index in the foreign order.
    fn oihw_to_krsc(k: usize, c: usize, r: usize, s: usize) {
        let from: Vec<f32> = (0..k * c * r * s).map(|i| i as f32).collect();
        let to = Permute::ChwToHwc { c, h: r, w: s }.apply(Cow::Borrowed(&from));
        for ik in 0..k {
            for ic in 0..c {
                for ir in 0..r {
                    for is in 0..s {
                        let theirs = ((ik * c + ic) * r + ir) * s + is;
                        let ours = ((ik * r + ir) * s + is) * c + ic;
                        assert_eq!(to[ours], from[theirs]);
                    }
                }
            }
        }
    }
}
