/*! Names and layouts of weight files, ours and other people's, told from tensor names and shapes alone.

| lineage | names | filters | dense weights | source |
|---|---|---|---|---|
| ours | `conv1_1.weight`, `fc1.bias` | [K,R,S,C] | [out, in], H,W,C flattened | `layout: KRSC` in the header |
| ours, foreign layout | the same, or `fc6` to `fc8` | [K,C,R,S] | [out, in], C,H,W | `layout: OIHW`, a PyTorch file, or shapes that leave no doubt |
| torchvision | `features.N`, `classifier.N` in their order, or `classifier` alone | [K,C,R,S] | [out, in], C,H,W | torchvision/models/vgg.py |
| timm | `features.N`, `pre_logits.fc1`, `.fc2`, `head.fc` | [K,C,R,S] | as convolutions | timm/models/vgg.py, `_filter_fn` |
| torch | any `LAYER.weight` | [K,C,R,S] | [out, in] | other networks' state dicts |
| Keras | `block1_conv1/kernel`, `fc1/bias`, `predictions/..`, and those of [`super::applications`] | [R,S,C,K] | [in, out], H,W,C | keras.applications |
| Caffe | `conv1_1/0`, `fc6/1`, `fc8../..` | [K,C,R,S] | [out, in], C,H,W | VGG_ILSVRC, Places365 |
| TensorFlow | `conv1_1_W`, `fc6_b` | [R,S,C,K] | [in, out], H,W,C | `vgg16_weights.npz` |

Ours are [out, H, W, C] throughout, so every foreign layout comes to one split and one order of axes ([`Axes`]). */

use super::LAYOUT;
use super::applications::Application;
use super::strided::Axes;
use std::collections::{BTreeMap, BTreeSet};

/// Who wrote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// Names and layout of ours, for any network.
    Ours,
    /// Our names, torch's layout: the header says `layout: OIHW`.
    OursOihw,
    Torchvision,
    Timm,
    /// A state dict of another network.
    Torch,
    Keras,
    Caffe,
    Tensorflow,
    Unknown,
}

/// How a lineage writes filters and dense weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Krsc,
    Oihw,
    Hwio,
}

impl Lineage {
    fn layout(self) -> Layout {
        match self {
            Lineage::Ours | Lineage::Unknown => Layout::Krsc,
            Lineage::OursOihw | Lineage::Torchvision | Lineage::Timm | Lineage::Torch | Lineage::Caffe => Layout::Oihw,
            Lineage::Keras | Lineage::Tensorflow => Layout::Hwio,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Lineage::Ours => "deep-affect",
            Lineage::OursOihw => "deep-affect names in OIHW layout",
            Lineage::Torchvision => "torchvision",
            Lineage::Timm => "timm",
            Lineage::Torch => "torch",
            Lineage::Keras => "Keras",
            Lineage::Caffe => "Caffe",
            Lineage::Tensorflow => "TensorFlow",
            Lineage::Unknown => "not recognised",
        }
    }
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    pub lineage: Lineage,
    /// `vgg11`, `vgg13`, `vgg16` or `vgg19`, from the number of convolutions in each block; `-bn` behind it with batch norm.
    pub network: Option<&'static str>,
    /// Outputs of the last dense layer; None without a classifier.
    pub classes: Option<usize>,
    /// Why nothing was recognised, or a part was not, with the remedy.
    pub trouble: Option<String>,
}

impl Recognised {
    /// For people: `torchvision vgg16, 1000 classes`.
    pub fn describe(&self) -> String {
        let who = self.lineage.name();
        if self.lineage == Lineage::Unknown {
            return who.into();
        }
        let net = self.network.map_or(String::new(), |n| format!(" {n}"));
        match self.classes {
            Some(n) => format!("{who}{net}, {n} classes"),
            None => format!("{who}{net}, no classifier"),
        }
    }
}

/// One tensor of the file under our name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTensor {
    /// Without the tower: `conv1_1.weight`.
    pub ours: String,
    pub theirs: String,
    /// In our layout: `[K,R,S,C/groups]`, `[out, in]` or `[out]`.
    pub shape: Vec<usize>,
    /// How theirs becomes it.
    pub axes: Axes,
}

/// What the file is, and every tensor of it, `(name, shape)`, under our name. Tensors without one keep theirs and come as
/// they are, so that nothing disappears silently: they turn up as extra when the file is matched to a network.
pub fn recognise(tensors: &[(&str, &[usize])], metadata: &BTreeMap<String, String>) -> (Recognised, Vec<NamedTensor>) {
    let mut kind = Recognised { lineage: Lineage::Unknown, network: None, classes: None, trouble: None };
    match lineage(tensors, metadata) {
        Ok(l) => kind.lineage = l,
        Err(why) => kind.trouble = Some(why.into()),
    }
    let layers = match kind.lineage {
        Lineage::Torchvision | Lineage::Timm => Layers { convs: features(tensors), dense: classifier(tensors) },
        _ => Layers::default(),
    };
    let application = Application::of(tensors);
    // Layers of two filters and one bias.
    let separable: BTreeSet<&str> = tensors.iter().filter_map(|t| t.0.strip_suffix("/pointwise_kernel")).collect();
    let our_name = |theirs: &str| match kind.lineage {
        Lineage::Keras => keras(theirs, &application, &separable),
        lineage => our_name(lineage, theirs, &layers),
    };
    let named = |(theirs, shape): &(&str, &[usize])| NamedTensor {
        ours: our_name(theirs).unwrap_or_else(|| theirs.to_string()),
        theirs: theirs.to_string(),
        shape: shape.to_vec(),
        axes: Axes::default(),
    };
    let mut sources: Vec<NamedTensor> = tensors.iter().map(named).collect();
    reorder(&mut sources, kind.lineage.layout());
    kind.network = network(&sources);
    let last = |s: &&NamedTensor| {
        s.ours.strip_suffix(".weight").is_some_and(|l| l.starts_with("fc") || TOPS.contains(&l)) && s.shape.len() == 2
    };
    let dense = sources.iter().filter(last);
    kind.classes = dense.max_by(|a, b| a.ours.cmp(&b.ours)).and_then(|s| s.shape.first().copied());
    (kind, sources)
}

/// Last dense layers that are not called `fc` and a number.
const TOPS: [&str; 3] = ["predictions", "classifier", "dense"];

/// What wrappers put into every name, at its beginning or further in, that belongs to no layer: DataParallel and
/// DistributedDataParallel, torch.compile, FullyShardedDataParallel.
const WRAPPERS: [&str; 3] = ["module", "_orig_mod", "_fsdp_wrapped_module"];
/// What programs call the one network that they train, where every name begins with it.
const HOLDERS: [&str; 10] =
    ["model", "net", "network", "backbone", "encoder", "base_model", "student", "ema", "ema_model", "state_dict"];

/// The names without what was put before the network's own, in the same order, and a remark that says so; None where they are
/// the network's. A beginning that all have in common goes if it is one of [`HOLDERS`], or if the names behind it are those
/// of a known program and the whole ones are not.
pub fn unwrapped(tensors: &[(&str, &[usize])], metadata: &BTreeMap<String, String>) -> Option<(Vec<String>, String)> {
    let mut removed: Vec<String> = Vec::new();
    let mut names: Vec<String> = tensors.iter().map(|t| t.0.to_string()).collect();
    for wrapper in WRAPPERS {
        let inner = format!(".{wrapper}.");
        let bare = |n: &String| {
            let n = n.replace(&inner, ".");
            n.strip_prefix(&inner[1..]).unwrap_or(&n).to_string()
        };
        let without: Vec<String> = names.iter().map(bare).collect();
        if without != names {
            removed.push(format!("`{}`", &inner[1..]));
            names = without;
        }
    }
    let known = |names: &[String]| {
        let listed: Vec<(&str, &[usize])> = names.iter().zip(tensors).map(|(n, t)| (n.as_str(), t.1)).collect();
        !matches!(lineage(&listed, metadata), Ok(Lineage::Torch) | Err(_))
    };
    while let Some((holder, _)) = names.first().and_then(|n| n.split_once('.')) {
        let prefix = format!("{holder}.");
        let Some(without) = names.iter().map(|n| n.strip_prefix(&prefix).map(String::from)).collect::<Option<Vec<_>>>()
        else {
            break;
        };
        // What is left must be a name as well, of a layer and its part.
        let whole = without.iter().all(|n| n.contains('.'));
        if !whole || !(HOLDERS.contains(&holder) || known(&without) && !known(&names)) {
            break;
        }
        removed.push(format!("`{prefix}`"));
        names = without;
    }
    // Two networks in one file may differ by nothing else.
    let once = names.iter().collect::<std::collections::HashSet<_>>().len() == names.len();
    (once && !removed.is_empty()).then(|| (names, format!("{} removed from the names", removed.join(", "))))
}

fn lineage(tensors: &[(&str, &[usize])], metadata: &BTreeMap<String, String>) -> Result<Lineage, &'static str> {
    let has = |name: &str| tensors.iter().any(|t| t.0 == name);
    let any = |f: &dyn Fn(&str) -> bool| tensors.iter().any(|t| f(t.0));
    let layout = metadata.get(LAYOUT).map_or("", |s| s.as_str());
    let ours = any(&is_ours);
    if layout.starts_with("KRSC") {
        Ok(Lineage::Ours)
    } else if ours && (layout.starts_with("OIHW") || (layout.is_empty() && is_oihw(tensors))) {
        Ok(Lineage::OursOihw)
    } else if ours {
        Err(
            "the file states no layout, and its shapes do not tell; save it as safetensors with the metadata `layout`, \
             `KRSC` or `OIHW`",
        )
    } else if has("features.0.weight") && (has("head.fc.weight") || has("pre_logits.fc1.weight")) {
        Ok(Lineage::Timm)
    } else if has("features.0.weight") {
        Ok(Lineage::Torchvision)
    } else if any(&is_keras) {
        Ok(Lineage::Keras)
    } else if any(&|n| caffe(n).is_some()) {
        Ok(Lineage::Caffe)
    } else if any(&|n| tensorflow(n).is_some()) {
        Ok(Lineage::Tensorflow)
    } else if any(&|n| n.ends_with(".weight")) {
        Ok(Lineage::Torch)
    } else {
        Err("the tensor names are those of no known program; convert the file with torchvision's names")
    }
}

/// Our names of torchvision's layers, by their index within `features` and `classifier`.
#[derive(Default)]
struct Layers {
    convs: BTreeMap<usize, String>,
    dense: BTreeMap<usize, String>,
}

fn our_name(lineage: Lineage, theirs: &str, layers: &Layers) -> Option<String> {
    match lineage {
        Lineage::Torchvision | Lineage::Timm => {
            let (stem, end) = theirs.rsplit_once('.')?;
            Some(format!("{}.{end}", torch_layer(stem, layers)?))
        }
        // Our convolutions with Caffe's count of the dense layers, as VGG-Face has them in torch.
        Lineage::OursOihw => {
            let (stem, end) = theirs.rsplit_once('.')?;
            Some(format!("{}.{end}", counted_on(stem)?))
        }
        Lineage::Caffe => caffe(theirs),
        Lineage::Tensorflow => tensorflow(theirs),
        _ => None,
    }
}

/// Whether the shapes of the filters leave no doubt: the two last extents are alike and small in all of them, and the two
/// first are others in one.
fn is_oihw(tensors: &[(&str, &[usize])]) -> bool {
    let mut filters = tensors.iter().filter(|t| t.0.ends_with(".weight") && t.1.len() == 4).map(|t| t.1);
    filters.clone().all(|s| s[2] == s[3] && s[2] <= 11) && filters.any(|s| s[1] != s[2] && s[0] != s[1])
}

fn number(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

/// `conv1_1` with any numbers.
fn is_conv(layer: &str) -> bool {
    layer.strip_prefix("conv").and_then(|s| s.split_once('_')).is_some_and(|(a, b)| number(a) && number(b))
}

/// `conv1_1.weight`, `fc1.bias`, with or without a tower before it.
fn is_ours(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")) else { return false };
    let layer = stem.rsplit('.').next().unwrap_or(stem);
    // timm's `pre_logits.fc1` and ResNet's `fc` are not ours.
    is_conv(layer) || (layer.strip_prefix("fc").is_some_and(number) && !stem.starts_with("pre_logits."))
}

/// Index within `features` -> `convB_I`, and with batch norm `normB_I` for the index behind it. Each convolution is
/// followed by a ReLU, each block by a pool: an index two further on (three with batch norm) is in the same block, any
/// larger step begins the next one.
fn features(tensors: &[(&str, &[usize])]) -> BTreeMap<usize, String> {
    let index = |name: &str, end: &str| name.strip_prefix("features.")?.strip_suffix(end)?.parse::<usize>().ok();
    let mut at: Vec<usize> = tensors.iter().filter(|t| t.1.len() == 4).filter_map(|t| index(t.0, ".weight")).collect();
    at.sort_unstable();
    let norms: Vec<usize> = tensors.iter().filter_map(|t| index(t.0, ".running_mean")).collect();
    let within = if norms.is_empty() { 2 } else { 3 };
    let (mut block, mut i, mut last) = (1, 0, None);
    let mut names = BTreeMap::new();
    for n in at {
        (block, i) = match last {
            Some(l) if n - l > within => (block + 1, 1),
            _ => (block, i + 1),
        };
        last = Some(n);
        names.insert(n, format!("conv{block}_{i}"));
        if norms.contains(&(n + 1)) {
            names.insert(n + 1, format!("norm{block}_{i}"));
        }
    }
    names
}

/// Index within `classifier` -> `fcN`, in their order: 0, 3, 6 in torchvision, 1, 4, 6 where a dropout stands before each of
/// the first two, and others where there are fewer layers between. Torchvision's keep their names when one is missing.
fn classifier(tensors: &[(&str, &[usize])]) -> BTreeMap<usize, String> {
    let index = |name: &str| name.strip_prefix("classifier.")?.strip_suffix(".weight")?.parse::<usize>().ok();
    let mut at: Vec<usize> = tensors.iter().filter(|t| t.1.len() >= 2).filter_map(|t| index(t.0)).collect();
    at.sort_unstable();
    let torchvision = at.iter().all(|i| [0, 3, 6].contains(i));
    let place = |(nth, i): (usize, usize)| (i, format!("fc{}", if torchvision { i / 3 } else { nth } + 1));
    at.into_iter().enumerate().map(place).collect()
}

fn torch_layer<'a>(stem: &str, layers: &'a Layers) -> Option<&'a str> {
    let index = |of: &str| stem.strip_prefix(of)?.parse::<usize>().ok();
    Some(match stem {
        // FER2013's VGG19 has one dense layer.
        "classifier" | "pre_logits.fc1" => "fc1",
        "pre_logits.fc2" => "fc2",
        "head.fc" => "fc3",
        _ => match index("classifier.") {
            Some(i) => layers.dense.get(&i)?,
            None => layers.convs.get(&index("features.")?)?,
        },
    })
}

/// What Keras calls the values of a layer, and how we do.
fn keras_part(end: &str) -> Option<&'static str> {
    Some(match end {
        "kernel" | "depthwise_kernel" | "pointwise_kernel" | "gamma" => "weight",
        "bias" | "beta" => "bias",
        "moving_mean" => "running_mean",
        "moving_variance" => "running_var",
        _ => return None,
    })
}

fn is_keras(name: &str) -> bool {
    name.rsplit_once('/').is_some_and(|(_, end)| keras_part(end).is_some())
}

/// `block1_conv1/kernel`, `fc1/bias`, `predictions/kernel`, `block2_sepconv1/pointwise_kernel`.
fn keras(name: &str, application: &Application, separable: &BTreeSet<&str>) -> Option<String> {
    let (theirs, end) = name.rsplit_once('/')?;
    let (part, layer) = (keras_part(end)?, application.layer(theirs)?);
    Some(match end {
        "depthwise_kernel" if separable.contains(theirs) => format!("{layer}.depthwise.{part}"),
        "pointwise_kernel" | "bias" if separable.contains(theirs) => format!("{layer}.pointwise.{part}"),
        _ => format!("{layer}.{part}"),
    })
}

/// Caffe counts its dense layers on from the five blocks: `fc6`, `fc7`, `fc8` (`fc8a` for Places365).
fn counted_on(layer: &str) -> Option<String> {
    if is_conv(layer) {
        return Some(layer.into());
    }
    let fc = layer.strip_prefix("fc")?.trim_end_matches(|c: char| !c.is_ascii_digit());
    let digits = fc.find(|c: char| !c.is_ascii_digit()).map_or(fc, |end| &fc[..end]);
    match digits.parse::<usize>() {
        Ok(n @ 6..=8) => Some(format!("fc{}", n - 5)),
        _ => None,
    }
}

/// `conv1_1/0` (weights), `fc8a/1` (bias).
fn caffe(name: &str) -> Option<String> {
    let (layer, blob) = name.rsplit_once('/')?;
    let end = match blob {
        "0" => "weight",
        "1" => "bias",
        _ => return None,
    };
    Some(format!("{}.{end}", counted_on(layer)?))
}

/// `conv1_1_W`, `fc6_b`.
fn tensorflow(name: &str) -> Option<String> {
    let (layer, end) = name.rsplit_once('_')?;
    let end = match end {
        "W" => "weight",
        "b" => "bias",
        _ => return None,
    };
    Some(format!("{}.{end}", counted_on(layer)?))
}

/// Shapes in our layout and the axes that lead there. A tensor whose shape makes no sense keeps it, and is reported as
/// mis-shaped by the match.
fn reorder(sources: &mut [NamedTensor], layout: Layout) {
    if layout == Layout::Krsc {
        return;
    }
    // fc1 sees the last convolution's channels, flattened: that is how its pixels are known.
    let last = sources.iter().filter(|s| is_conv(s.ours.trim_end_matches(".weight")) && s.shape.len() == 4);
    let channels = last.max_by(|a, b| a.ours.cmp(&b.ours)).map(|s| s.shape[if layout == Layout::Hwio { 3 } else { 0 }]);
    for s in sources {
        let Some(layer) = s.ours.strip_suffix(".weight") else { continue };
        let dense = layer.starts_with("fc");
        match (layout, s.shape.as_slice()) {
            // Zero extents and overflow were dealt with when the file was opened.
            (Layout::Oihw, &[k, c, h, w]) if dense => {
                (s.shape, s.axes) = (vec![k, c * h * w], Axes::order(&[0, 2, 3, 1]));
            }
            (Layout::Oihw, &[k, c, r, q]) => {
                (s.shape, s.axes) = (vec![k, r, q, c], Axes::order(&[0, 2, 3, 1]));
            }
            (Layout::Oihw, &[k, n]) if layer == "fc1" => {
                let Some(c) = channels.filter(|c| *c > 0 && n % c == 0) else { continue };
                let side = (n / c).isqrt();
                if side * side == n / c {
                    s.axes = Axes::chw(k, c, side, side);
                } else {
                    // Not the square picture VGG flattens: refuse by shape rather than guess rows and columns.
                    s.shape = vec![k, c, n / c];
                }
            }
            // A depthwise filter has its channels where others have their inputs.
            (Layout::Hwio, &[r, q, c, 1]) if s.theirs.ends_with("depthwise_kernel") => {
                (s.shape, s.axes) = (vec![c, r, q, 1], Axes::order(&[2, 0, 1, 3]));
            }
            (Layout::Hwio, &[r, q, c, k]) => {
                (s.shape, s.axes) = (vec![k, r, q, c], Axes::order(&[3, 0, 1, 2]));
            }
            (Layout::Hwio, &[n, k]) => {
                (s.shape, s.axes) = (vec![k, n], Axes::order(&[1, 0]));
            }
            _ => {}
        }
    }
}

/// From the number of convolutions in each block.
fn network(sources: &[NamedTensor]) -> Option<&'static str> {
    let mut blocks = BTreeMap::<&str, usize>::new();
    for s in sources {
        let layer = s.ours.strip_suffix(".weight").filter(|l| is_conv(l)).and_then(|n| n.strip_prefix("conv"));
        if let Some((block, _)) = layer.and_then(|l| l.split_once('_')) {
            *blocks.entry(block).or_default() += 1;
        }
    }
    let norm = sources.iter().any(|s| s.ours.starts_with("norm") && s.ours.ends_with(".running_mean"));
    let (plain, normed) = match blocks.into_values().collect::<Vec<_>>()[..] {
        [1, 1, 2, 2, 2] => ("vgg11", "vgg11-bn"),
        [2, 2, 2, 2, 2] => ("vgg13", "vgg13-bn"),
        [2, 2, 3, 3, 3] => ("vgg16", "vgg16-bn"),
        [2, 2, 4, 4, 4] => ("vgg19", "vgg19-bn"),
        _ => return None,
    };
    Some(if norm { normed } else { plain })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub const VGG16: [usize; 13] = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
    pub const VGG19: [usize; 16] = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34];

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

    fn ask(tensors: &[(String, Vec<usize>)], layout: &str) -> (Recognised, BTreeMap<String, NamedTensor>) {
        let listed: Vec<(&str, &[usize])> = tensors.iter().map(|t| (&t.0[..], &t.1[..])).collect();
        let meta = match layout {
            "" => BTreeMap::new(),
            l => BTreeMap::from([(LAYOUT.to_string(), l.to_string())]),
        };
        let (kind, sources) = recognise(&listed, &meta);
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
                assert_eq!(s["conv1_1.weight"].axes, Axes::order(&[0, 2, 3, 1]));
                assert_eq!(s["conv1_1.bias"].axes, Axes::default());
                assert_eq!(s["fc1.weight"].shape, [5, 18]);
                let fc1 = if head == "timm" { Axes::order(&[0, 2, 3, 1]) } else { Axes::chw(5, 2, 3, 3) };
                assert_eq!(s["fc1.weight"].axes, fc1);
                assert_eq!(s["fc2.weight"].shape, [5, 5]);
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
        assert_eq!(s["fc1.weight"].axes, Axes::chw(2, 4, 2, 2));
        let (_, s) = ask(&t, "KRSC");
        assert!(s.values().all(|s| s.axes == Axes::default()));
        // Shapes tell where the channels are not as many as a filter has rows.
        let filters = |a: &[usize], b: &[usize]| {
            vec![
                ("conv1_1.weight".to_string(), a.to_vec()),
                ("conv1_2.weight".into(), b.to_vec()),
                ("fc6.weight".into(), vec![2, 32]),
            ]
        };
        let (kind, s) = ask(&filters(&[4, 3, 3, 3], &[8, 4, 3, 3]), "");
        assert_eq!((kind.lineage, &s["fc1.weight"].axes), (Lineage::OursOihw, &Axes::chw(2, 8, 2, 2)));
        for (a, b) in [([4, 3, 3, 3], [8, 3, 3, 4]), ([3, 3, 3, 4], [3, 3, 4, 8]), ([3, 3, 4, 4], [3, 3, 4, 4])] {
            assert_eq!(ask(&filters(&a, &b), "").0.lineage, Lineage::Unknown, "{a:?} {b:?}");
        }
    }

    #[test]
    fn dense_layers_are_named_by_their_order() {
        for at in [[0, 3, 6], [1, 4, 6], [0, 2, 4]] {
            let mut t = fake(&VGG16, "torchvision");
            for (name, _) in &mut t {
                for (from, to) in [0, 3, 6].into_iter().zip(at) {
                    if let Some(end) = name.strip_prefix(&format!("classifier.{from}.")) {
                        *name = format!("classifier.{to}._{end}");
                    }
                }
            }
            t.iter_mut().for_each(|t| t.0 = t.0.replace("._", "."));
            let (kind, s) = ask(&t, "");
            assert_eq!(kind.classes, Some(4));
            for (i, at) in at.iter().enumerate() {
                assert_eq!(s[&format!("fc{}.weight", i + 1)].theirs, format!("classifier.{at}.weight"));
                assert_eq!(s[&format!("fc{}.bias", i + 1)].theirs, format!("classifier.{at}.bias"));
            }
        }
        let mut t = fake(&VGG16, "torchvision");
        t.retain(|t| !t.0.starts_with("classifier.3"));
        assert_eq!(ask(&t, "").1["fc3.weight"].theirs, "classifier.6.weight");
    }

    #[test]
    fn what_was_put_before_the_names_is_removed_and_said() {
        let bare = |names: &[&str]| {
            let listed: Vec<(&str, &[usize])> = names.iter().map(|n| (*n, &[2usize, 2, 3, 3][..])).collect();
            unwrapped(&listed, &BTreeMap::new())
        };
        for (before, removed) in [
            ("module.", "`module.` removed from the names"),
            ("_orig_mod.", "`_orig_mod.` removed"),
            ("model.", "`model.` removed"),
            ("model.module._orig_mod.", "`module.`, `_orig_mod.`, `model.` removed"),
            ("my_vgg.", "`my_vgg.` removed"),
        ] {
            let names = ["features.0.weight", "classifier.0.weight"].map(|n| format!("{before}{n}"));
            let (names, said) = bare(&names.each_ref().map(String::as_str)).unwrap();
            assert_eq!(names, ["features.0.weight", "classifier.0.weight"], "{before}");
            assert!(said.starts_with(removed), "{said}");
        }
        // Of examples that wrap the convolutions alone.
        let (names, _) = bare(&["features.module.0.weight", "classifier.0.weight"]).unwrap();
        assert_eq!(names, ["features.0.weight", "classifier.0.weight"]);
        for own in [
            &["features.0.weight", "features.2.weight"][..],
            &["layer1.0.conv1.weight", "layer1.0.conv2.weight"],
            &["model.weight", "model.bias"],
            &["a.features.0.weight", "b.features.0.weight"],
            &["module.0.weight", "0.weight"],
            &[],
        ] {
            assert_eq!(bare(own), None, "{own:?}");
        }
    }

    #[test]
    fn what_is_not_understood_says_so_and_nothing_disappears() {
        let mut t = fake(&VGG16, "torchvision");
        t.push(("ema.decay".into(), vec![1]));
        let (_, s) = ask(&t, "");
        assert_eq!(s["ema.decay"].theirs, "ema.decay");
        let (kind, s) = ask(&[("layer1.0.conv1.weight".to_string(), vec![6, 5, 3, 2])], "");
        assert_eq!((kind.lineage, kind.network), (Lineage::Torch, None));
        assert_eq!(s["layer1.0.conv1.weight"].shape, [6, 3, 2, 5]);
        let (kind, _) = ask(&[("a".to_string(), vec![1])], "");
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
    fn keras_caffe_and_tensorflow_become_ours() {
        let t = |names: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
            names.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect()
        };
        let (kind, s) = ask(
            &t(&[
                ("block1_conv1/kernel", &[3, 3, 3, 4]),
                ("block1_conv1/bias", &[4]),
                ("fc1/kernel", &[36, 8]),
                ("predictions/kernel", &[8, 10]),
            ]),
            "",
        );
        assert_eq!((kind.lineage, kind.classes), (Lineage::Keras, Some(10)));
        assert_eq!(s["conv1_1.weight"].shape, [4, 3, 3, 3]);
        assert_eq!(s["conv1_1.weight"].axes, Axes::order(&[3, 0, 1, 2]));
        assert_eq!((&s["fc1.weight"].shape[..], &s["fc1.weight"].axes), (&[8, 36][..], &Axes::order(&[1, 0])));
        assert_eq!(s["fc3.weight"].shape, [10, 8]);
        let (kind, s) = ask(&t(&[("conv1_1/0", &[4, 3, 3, 3]), ("fc6/0", &[8, 16]), ("fc8a/0", &[365, 8])]), "");
        assert_eq!((kind.lineage, kind.classes), (Lineage::Caffe, Some(365)));
        assert_eq!(s["fc1.weight"].axes, Axes::chw(8, 4, 2, 2));
        let (kind, s) = ask(&t(&[("conv1_1_W", &[3, 3, 3, 4]), ("fc6_b", &[8])]), "");
        assert_eq!(kind.lineage, Lineage::Tensorflow);
        assert_eq!((s["conv1_1.weight"].shape[0], s["fc1.bias"].shape[0]), (4, 8));
    }

    #[test]
    fn batch_norm_stands_behind_its_convolution() {
        // torchvision's vgg11_bn: convolution, norm, ReLU; a pool after each block.
        let mut t = vec![];
        for i in [0, 4, 8, 11, 15, 18, 22, 25] {
            t.push((format!("features.{i}.weight"), vec![2, if i == 0 { 3 } else { 2 }, 3, 3]));
            t.push((format!("features.{}.weight", i + 1), vec![2]));
            t.push((format!("features.{}.running_mean", i + 1), vec![2]));
        }
        t.push(("classifier.weight".into(), vec![7, 2]));
        let (kind, s) = ask(&t, "");
        assert_eq!((kind.network, kind.classes), (Some("vgg11-bn"), Some(7)));
        assert_eq!(s["norm3_2.running_mean"].theirs, "features.12.running_mean");
        assert_eq!(s["norm3_2.weight"].theirs, "features.12.weight");
        assert_eq!(s["conv4_1.weight"].theirs, "features.15.weight");
        assert_eq!(s["fc1.weight"].shape, [7, 2]);
    }
}
