/*! Names of keras.applications and of networks of separable convolutions, as the tables of [`crate::models`] have them. Keras
numbers layers that were given no name as they are made (`conv2d_17`), and a session goes on counting: their order tells
which they are.

| network | theirs | ours |
|---|---|---|
| VGG | `block1_conv1`, `predictions` | `conv1_1`, `fc3` |
| ResNet | `conv2_block1_1_conv`, `predictions` | the same |
| DenseNet | `conv2_block1_1_conv`, `pool2_bn`, `bn` | `features.denseblock1.denselayer1.conv1`, `features.transition1.norm`, `features.norm5` |
| Xception | `block2_sepconv1`, `conv2d`, `batch_normalization` | the same, `block2_residual`, `block2_residual_bn` |
| Inception v3 | `conv2d` to `conv2d_93`, `batch_normalization` | `Conv2d_1a_3x3.conv`, `Conv2d_1a_3x3.bn` and on |
| others of separable convolutions | any | the same | */

use std::collections::{BTreeMap, BTreeSet};

/// Whose layers a file of Keras has.
pub(super) enum Application {
    /// VGG, and whatever has no name of its own here.
    Vgg,
    DenseNet,
    /// Layers that keep their names, but for those in the table.
    Named(BTreeMap<String, String>),
}

/// Blocks of Xception whose shortcut is a convolution.
const RESIDUALS: [usize; 4] = [2, 3, 4, 13];

impl Application {
    /// Told by the names of all tensors, `LAYER/kernel`.
    pub fn of(tensors: &[(&str, &[usize])]) -> Self {
        let layers: BTreeSet<&str> = tensors.iter().filter_map(|t| Some(t.0.rsplit_once('/')?.0)).collect();
        let separable = tensors.iter().any(|t| t.0.ends_with("/pointwise_kernel"));
        let made = |kind: &str| -> Vec<&str> {
            let number = |layer: &&str| -> Option<u32> {
                let rest = layer.strip_prefix(kind)?;
                if rest.is_empty() { Some(0) } else { rest.strip_prefix('_')?.parse().ok() }
            };
            let mut all: Vec<(u32, &str)> = layers.iter().filter_map(|l| Some((number(l)?, *l))).collect();
            all.sort_unstable();
            all.into_iter().map(|l| l.1).collect()
        };
        let (convs, norms) = (made("conv2d"), made("batch_normalization"));
        if layers.contains("conv2_block1_0_bn") && layers.contains("pool2_conv") {
            return Application::DenseNet;
        }
        if layers.contains("conv2_block1_0_conv") {
            return Application::Named(BTreeMap::new());
        }
        let inception = inception();
        if [convs.len(), norms.len()] == [inception.len(); 2] {
            let named = |of: &[&str], part: &str| -> Vec<(String, String)> {
                of.iter().zip(&inception).map(|(l, n)| (l.to_string(), format!("{n}.{part}"))).collect()
            };
            let top = ("predictions".to_string(), "fc".to_string());
            return Application::Named(
                named(&convs, "conv").into_iter().chain(named(&norms, "bn")).chain([top]).collect(),
            );
        }
        if separable {
            let mut names = BTreeMap::new();
            if [convs.len(), norms.len()] == [RESIDUALS.len(); 2] {
                for (i, block) in RESIDUALS.into_iter().enumerate() {
                    names.insert(convs[i].to_string(), format!("block{block}_residual"));
                    names.insert(norms[i].to_string(), format!("block{block}_residual_bn"));
                }
            }
            return Application::Named(names);
        }
        Application::Vgg
    }

    /// Our name of a layer; None where it has none.
    pub fn layer(&self, theirs: &str) -> Option<String> {
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        match self {
            Application::Vgg => {
                let conv = theirs.strip_prefix("block").and_then(|l| l.split_once("_conv"));
                Some(match conv.filter(|(b, i)| digits(b) && digits(i)) {
                    Some((b, i)) => format!("conv{b}_{i}"),
                    None if theirs == "predictions" => "fc3".into(),
                    None => theirs.into(),
                })
            }
            Application::Named(names) => Some(names.get(theirs).map_or(theirs, String::as_str).into()),
            Application::DenseNet => Some(densenet(theirs).unwrap_or_else(|| theirs.into())),
        }
    }
}

/// torchvision's name of a layer of Keras's DenseNet.
fn densenet(theirs: &str) -> Option<String> {
    match theirs {
        "conv1_conv" | "conv1/conv" => return Some("features.conv0".into()),
        "conv1_bn" | "conv1/bn" => return Some("features.norm0".into()),
        "bn" => return Some("features.norm5".into()),
        "predictions" | "fc1000" => return Some("classifier".into()),
        _ => {}
    }
    let (stem, kind) = theirs.rsplit_once('_')?;
    let kind = match kind {
        "bn" => "norm",
        "conv" => "conv",
        _ => return None,
    };
    if let Some(pool) = stem.strip_prefix("pool") {
        return Some(format!("features.transition{}.{kind}", pool.parse::<usize>().ok()?.checked_sub(1)?));
    }
    // conv2_block1_0_bn, conv2_block1_1_conv, conv2_block1_1_bn, conv2_block1_2_conv.
    let (block, rest) = stem.strip_prefix("conv")?.split_once("_block")?;
    let (layer, i) = rest.split_once('_')?;
    let [block, layer, i] = [block, layer, i].map(|n| n.parse::<usize>().ok());
    let i = i? + usize::from(kind == "norm");
    Some(format!("features.denseblock{}.denselayer{}.{kind}{i}", block?.checked_sub(1)?, layer?))
}

/// torchvision's names of the convolutions of Inception v3 in the order in which Keras makes them.
fn inception() -> Vec<String> {
    const STEM: [&str; 5] = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"];
    const A: &[&str] = &["1x1", "5x5_1", "5x5_2", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3", "_pool"];
    const B: &[&str] = &["3x3", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3"];
    #[rustfmt::skip]
    const C: &[&str] = &[
        "1x1", "7x7_1", "7x7_2", "7x7_3", "7x7dbl_1", "7x7dbl_2", "7x7dbl_3", "7x7dbl_4", "7x7dbl_5", "_pool",
    ];
    const D: &[&str] = &["3x3_1", "3x3_2", "7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4"];
    #[rustfmt::skip]
    const E: &[&str] = &[
        "1x1", "3x3_1", "3x3_2a", "3x3_2b", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3a", "3x3dbl_3b", "_pool",
    ];
    const MODULES: [(&str, &[&str]); 11] = [
        ("5b", A),
        ("5c", A),
        ("5d", A),
        ("6a", B),
        ("6b", C),
        ("6c", C),
        ("6d", C),
        ("6e", C),
        ("7a", D),
        ("7b", E),
        ("7c", E),
    ];
    let branches = |(module, names): (&str, &'static [&str])| {
        let module = module.to_string();
        names.iter().map(move |n| format!("Mixed_{module}.branch{n}")).collect::<Vec<_>>()
    };
    STEM.map(String::from).into_iter().chain(MODULES.into_iter().flat_map(branches)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::models;
    use crate::nn::{Mode, Net};
    use crate::shape::Type;

    /// Every layer that a network has, by the names of Keras's own model: each of ours comes from one of theirs.
    #[test]
    fn every_layer_of_a_network_has_a_name_in_keras() {
        let numbered = |kind: &str, n: usize, from: usize| -> Vec<String> {
            (from..from + n).map(|i| if i == 0 { kind.into() } else { format!("{kind}_{i}") }).collect()
        };
        let mut dense: Vec<String> = ["conv1_conv", "conv1_bn", "bn", "predictions"].map(String::from).to_vec();
        for (block, layers) in (2..).zip([6, 12, 48, 32]) {
            for layer in 1..=layers {
                dense.extend(["0_bn", "1_conv", "1_bn", "2_conv"].map(|l| format!("conv{block}_block{layer}_{l}")));
            }
        }
        dense.extend((2..=4).flat_map(|b| ["bn", "conv"].map(|l| format!("pool{b}_{l}"))));
        let mut inception = numbered("conv2d", 94, 17);
        inception.extend(numbered("batch_normalization", 94, 17));
        inception.push("predictions".into());
        let mut xception: Vec<String> = ["block1_conv1", "block1_conv2"].map(String::from).to_vec();
        for block in 2..=14 {
            let n = if [2, 3, 4, 13, 14].contains(&block) { 2 } else { 3 };
            xception.extend((1..=n).map(|i| format!("block{block}_sepconv{i}")));
        }
        let norms: Vec<String> = xception.iter().map(|l| format!("{l}_bn")).collect();
        xception.extend(norms);
        xception.extend(numbered("conv2d", 4, 0).into_iter().chain(numbered("batch_normalization", 4, 0)));
        xception.push("predictions".into());
        for (network, theirs) in
            [("densenet201-keras", dense), ("inception-v3-keras", inception), ("xception", xception)]
        {
            let of = |l: &String| {
                format!(
                    "{l}/{}",
                    if l.contains("sepconv") && !l.ends_with("bn") { "pointwise_kernel" } else { "kernel" }
                )
            };
            let tensors: Vec<String> = theirs.iter().map(of).collect();
            let listed: Vec<(&str, &[usize])> = tensors.iter().map(|t| (t.as_str(), &[1usize][..])).collect();
            let application = Application::of(&listed);
            let named: BTreeSet<String> = theirs.iter().filter_map(|l| application.layer(l)).collect();
            let table = models::find(network).unwrap();
            let mut g = Graph::default();
            let x = g.input("image", Type::f32(&[1, table.smallest, table.smallest, 3]));
            table.build(&mut Net::new(&mut g, Mode::Eval), x, models::Size { width: 64, outputs: 3 });
            let layer = |v| {
                let layer = g.name(v).rsplit_once('.').unwrap().0;
                ["depthwise", "pointwise"].iter().fold(layer, |l, end| l.strip_suffix(&format!(".{end}")).unwrap_or(l))
            };
            let ours: BTreeSet<String> = g.stored().map(layer).map(String::from).collect();
            assert_eq!(named, ours, "{network}");
        }
    }
}
