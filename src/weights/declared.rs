/*! What a file says about the pictures it was trained on: their side, and what was done to them. Files of ours carry the JSON of [`Preprocess`]; other people
write a preset's name or a sentence ("caffe: RGB 0-255 -> BGR, minus (103.939, 116.779, 123.68)"). A sentence is accepted
only if its numbers single out a preset; anything else is an error, because a wrong preset is the classic silent one. */

use super::names::{Lineage, Recognised};
use super::{IMAGE, PREPROCESS};
use crate::error::{Error, Result};
use crate::preprocess::{Order, PRESETS, Preprocess};
use std::collections::BTreeMap;
use std::path::Path;

/// Keys under which other people state it, after ours.
const KEYS: [&str; 2] = [PREPROCESS, "preprocessing"];

/// Whether anything is stated.
pub fn any(metadata: &BTreeMap<String, String>) -> bool {
    KEYS.iter().any(|k| metadata.contains_key(*k))
}

/// The header's statement if there is one, else what the file's lineage implies, else None.
pub fn preprocessing(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    kind: &Recognised,
) -> Result<Option<Preprocess>> {
    let stated = KEYS.iter().find_map(|k| metadata.get(*k).map(|v| (*k, v)));
    let Some((key, text)) = stated else {
        return match kind.lineage {
            Lineage::Torchvision | Lineage::Timm => Preprocess::preset("torch").map(Some),
            Lineage::Keras => Preprocess::preset("keras").map(Some),
            Lineage::Caffe => Preprocess::preset("caffe").map(Some),
            Lineage::Tensorflow => Preprocess::preset("tensorflow").map(Some),
            _ => Ok(None),
        };
    };
    let names = PRESETS.map(|p| p.0).join(", ");
    let refuse = |why: String| {
        Err(Error::file(path, why)
            .at(format!("metadata `{key}`"))
            .fix(format!("write one of {names}, or the JSON of a preprocessing, there")))
    };
    let text = text.trim();
    if text.starts_with('{') {
        return match serde_json::from_str::<Preprocess>(text) {
            Ok(p) if sane(&p) => Ok(Some(p)),
            Ok(_) => refuse("scale, mean and std must be finite, scale and std not zero".into()),
            Err(e) => refuse(format!("not understood: {e}")),
        };
    }
    match PRESETS.iter().find(|p| p.0 == text).map(|p| p.1.clone()).or_else(|| sentence(text)) {
        Some(p) => Ok(Some(p)),
        None => refuse(format!("`{}` names no preprocessing", text.chars().take(120).collect::<String>())),
    }
}

/// The side of the squares in pixels, if the header states it.
pub fn image(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Option<usize>> {
    let Some(text) = metadata.get(IMAGE) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| {
        let text: String = text.chars().take(40).collect();
        Error::file(path, format!("`{text}` is no side in pixels"))
            .at(format!("metadata `{IMAGE}`"))
            .fix("write a whole number there")
    })
}

fn sane(p: &Preprocess) -> bool {
    let divisor = |x: &f32| x.is_finite() && *x != 0.0;
    divisor(&p.scale) && p.std.iter().all(divisor) && p.mean.iter().all(|m| m.is_finite())
}

/// The preset whose mean, deviation and channel order a sentence states. How to resize is the preset's: sentences do
/// not say.
fn sentence(text: &str) -> Option<Preprocess> {
    let triples = triples(text);
    let bgr = text.to_ascii_lowercase().contains("bgr");
    let near = |a: &[f32; 3], b: &[f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs());
    PRESETS.iter().map(|p| &p.1).find_map(|p| {
        if (p.order == Order::Bgr) != bgr {
            return None;
        }
        let agrees = match &triples[..] {
            [mean] => near(mean, &p.mean) && p.std == [1.0; 3] && p.scale == 1.0,
            [mean, std] => near(mean, &p.mean) && near(std, &p.std) && p.std != [1.0; 3],
            _ => false,
        };
        agrees.then(|| p.clone())
    })
}

/// All `(a, b, c)` and `[a, b, c]` of numbers.
fn triples(text: &str) -> Vec<[f32; 3]> {
    let bracketed = text.split(['(', '[']).skip(1).filter_map(|t| t.split([')', ']']).next());
    bracketed
        .filter_map(|t| {
            let numbers: Vec<f32> = t.split(',').map(|n| n.trim().parse().ok()).collect::<Option<_>>()?;
            <[f32; 3]>::try_from(numbers).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(lineage: Lineage, meta: &[(&str, &str)]) -> Result<Option<Preprocess>> {
        let meta = meta.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let kind = Recognised { lineage, network: None, classes: None, trouble: None };
        preprocessing(Path::new("w.safetensors"), &meta, &kind)
    }

    #[test]
    fn the_header_wins_then_the_lineage() {
        let caffe = "caffe: RGB 0-255 -> BGR, minus (103.939, 116.779, 123.68)";
        let name = |r: Result<Option<Preprocess>>| r.unwrap().map(|p| p.name());
        assert_eq!(name(ask(Lineage::Torchvision, &[])), Some("torch"));
        assert_eq!(name(ask(Lineage::Timm, &[])), Some("torch"));
        assert_eq!(name(ask(Lineage::Ours, &[])), None);
        assert_eq!(name(ask(Lineage::Torchvision, &[("preprocessing", caffe)])), Some("keras"));
        assert_eq!(name(ask(Lineage::Torchvision, &[("preprocess", "caffe-places")])), Some("caffe-places"));
        let torch = "RGB / 255, minus [0.485, 0.456, 0.406], divided by [0.229, 0.224, 0.225]";
        assert_eq!(name(ask(Lineage::Unknown, &[("preprocess", torch)])), Some("torch"));
        for (n, p, _) in PRESETS {
            let json = serde_json::to_string(&p).unwrap();
            assert_eq!(name(ask(Lineage::Ours, &[("preprocess", &json)])), Some(n));
        }
    }

    #[test]
    fn the_side_is_a_whole_number() {
        let ask = |text: &str| image(Path::new("w.safetensors"), &BTreeMap::from([("image".into(), text.into())]));
        assert_eq!(ask("44").unwrap(), Some(44));
        assert_eq!(image(Path::new("w"), &BTreeMap::new()).unwrap(), None);
        for text in ["", "44x44", "-1", "4.5", "99999999999999999999999"] {
            let e = ask(text).unwrap_err().to_string();
            assert!(e.contains("metadata `image`") && e.contains("is no side in pixels"), "{text}: {e}");
        }
    }

    #[test]
    fn what_singles_out_no_preset_is_refused() {
        for text in [
            "as usual",
            "RGB, minus (103.939, 116.779, 123.68)",
            "BGR, minus (1, 2, 3)",
            "RGB minus (0.485, 0.456, 0.406)",
            "RGB minus (0.485, 0.456, 0.406), std (1, 1, 1)",
            "BGR minus (NaN, 116.779, 123.68)",
            "",
            "{}",
            r#"{"resize":"squash-nearest","order":"rgb","scale":0.0,"mean":[0,0,0],"std":[1,1,1]}"#,
        ] {
            let e = ask(Lineage::Torchvision, &[("preprocess", text)]).unwrap_err().to_string();
            assert!(e.contains("metadata `preprocess`") && e.contains("write one of keras"), "{text}: {e}");
        }
    }
}
