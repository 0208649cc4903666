/*! torchvision's names (torchvision/models/vgg.py): each convolution of a VGG is followed by a ReLU, each block by a pool, and
all of them count in `features.N`; dense layers are followed by ReLU and dropout: `classifier.0`, `.3`, `.6`. The head of a
fused model is such a sequence too. The other networks have torchvision's or Keras's names already. The inverse is
[`crate::weights::names`]. */

use crate::models::HEAD;
use std::collections::{BTreeMap, BTreeSet};

/// `valence.object.conv1_2.bias` -> `valence.object.`, `conv1_2`, `.bias`.
fn split(name: &str) -> (&str, &str, &str) {
    let (stem, part) = name.split_at(name.rfind('.').unwrap_or(name.len()));
    let (scope, layer) = stem.split_at(stem.rfind('.').map_or(0, |i| i + 1));
    (scope, layer, part)
}

/// `conv3_2` -> (3, 2)
fn convolution(layer: &str) -> Option<(usize, usize)> {
    let (block, i) = layer.strip_prefix("conv")?.split_once('_')?;
    Some((block.parse().ok()?, i.parse().ok()?))
}

/// `fc3` -> 2
fn dense(layer: &str) -> Option<usize> {
    layer.strip_prefix("fc")?.parse::<usize>().ok()?.checked_sub(1)
}

/// The scope of a fused model's head, or of one of several.
fn is_head(scope: &str) -> bool {
    let last = scope.strip_suffix('.').map(|s| s.rsplit_once('.').map_or(s, |s| s.1));
    last.and_then(|s| s.strip_prefix(HEAD)).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

/// All names of one file, in their order.
pub fn names<'a>(ours: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let mut towers: BTreeMap<&str, BTreeSet<(usize, usize)>> = BTreeMap::new();
    let mut heads: BTreeMap<&str, usize> = BTreeMap::new();
    for (scope, layer, _) in ours.clone().map(split) {
        if let Some(c) = convolution(layer) {
            towers.entry(scope).or_default().insert(c);
        }
        if let (Some(i), true) = (dense(layer), is_head(scope)) {
            let hidden = heads.entry(scope).or_default();
            *hidden = (*hidden).max(i + 1);
        }
    }
    let name = |name: &str| {
        let (scope, layer, part) = split(name);
        let place = match (towers.get(scope), convolution(layer), dense(layer)) {
            (Some(all), Some(c), _) => format!("features.{}", 2 * all.range(..c).count() + c.0 - 1),
            (Some(_), _, Some(i)) => format!("classifier.{}", 3 * i),
            (None, _, Some(i)) if is_head(scope) => (3 * i).to_string(),
            _ if is_head(scope) && layer == "out" => (3 * heads.get(scope).copied().unwrap_or(0)).to_string(),
            _ => layer.to_string(),
        };
        format!("{scope}{place}{part}")
    };
    ours.map(name).collect()
}
