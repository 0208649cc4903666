/*! A weight file of ours seen as the parameters of one network, and its match to what the network wants: everything
missing, extra or mis-shaped is named in one message. Other people's files are imported first ([`super::import`]). */

use super::CLASSES;
use super::declared;
use super::file::WeightFile;
use super::header::shape as show;
use super::names::{Lineage, Recognised, recognise};
use crate::error::{Error, Result, option};
use crate::preprocess::Preprocess;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A mapped file of ours.
pub struct TowerWeights {
    pub file: Arc<WeightFile>,
    pub kind: Recognised,
    preprocess: Result<Option<Preprocess>>,
    image: Result<Option<usize>>,
}

impl TowerWeights {
    /// Maps `path`. Fails on a file that is not valid or not ours.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(WeightFile::open(path)?)
    }

    /// The same for a file that is already mapped.
    pub fn new(file: Arc<WeightFile>) -> Result<Self> {
        let listed: Vec<(&str, &[usize])> = file.infos().iter().map(|t| (&t.name[..], &t.shape[..])).collect();
        let (kind, _) = recognise(&listed, file.metadata());
        if kind.lineage != Lineage::Ours {
            let problem = match &kind.trouble {
                Some(t) => t.clone(),
                None => format!("is not in this program's layout but {}", kind.describe()),
            };
            let network = kind.network.unwrap_or("NETWORK");
            let command = format!("`deep-affect weights import {} --as {network} --out FILE`", file.path().display());
            return Err(Error::file(file.path(), problem).fix(format!("import it once: {command}")));
        }
        let preprocess = declared::preprocessing(file.path(), file.metadata(), &kind);
        let image = declared::image(file.path(), file.metadata());
        Ok(Self { file, kind, preprocess, image })
    }

    /// What the network was trained on, as the header states it. Fails if it does not, or is not understood.
    pub fn preprocess(&self) -> Result<Preprocess> {
        self.preprocess.clone()?.ok_or_else(|| {
            Error::file(self.file.path(), "does not say how its pictures were preprocessed")
                .fix("write `preprocess` into its metadata, or state a preprocessing in the request")
        })
    }

    /// Side in pixels of the squares that the network was trained on, if the header states it. Fails if that is not
    /// understood.
    pub fn image(&self) -> Result<Option<usize>> {
        self.image.clone()
    }

    /// Names of the classes, if the header has them.
    pub fn class_names(&self) -> Option<Vec<String>> {
        serde_json::from_str(self.file.metadata().get(CLASSES)?).ok()
    }

    /// A parameter by its name: borrowed from the mapping where the file has it as aligned float32, else converted. NaN,
    /// infinity and damage are refused.
    pub fn load(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        let values = self.file.tensor(name)?.to_f32()?;
        self.check(name, &values)?;
        Ok(values)
    }

    /// Where in the mapping a parameter lies that a device can use without a copy: float32, 64-byte aligned. None if
    /// [`TowerWeights::load`] must copy. The values are read for the same refusals.
    pub fn bind(&self, name: &str) -> Result<Option<Range<usize>>> {
        let Some(range) = self.file.aligned_f32(name) else { return Ok(None) };
        self.check(name, &self.file.tensor(name)?.to_f32()?)?;
        Ok(Some(range))
    }

    /// Refuses what is not as it was written, or no number.
    fn check(&self, name: &str, values: &[f32]) -> Result<()> {
        self.file.intact(name)?;
        let bad = |x: &&f32| !x.is_finite();
        if !values.par_chunks(1 << 16).any(|c| c.iter().fold(false, |b, x| b | !x.is_finite())) {
            return Ok(());
        }
        let n = values.par_iter().filter(bad).count();
        Err(Error::file(self.file.path(), format!("{n} of {} values are NaN or infinite", values.len()))
            .at(format!("tensor `{name}`"))
            .fix("use a file whose weights were trained to the end; some distributions fill the classifier with NaN"))
    }

    /// Compares with what a network wants: our names without the tower, shapes in our layout.
    pub fn match_to(&self, wanted: &[(String, Vec<usize>)]) -> Matched<'_> {
        let have = self.file.infos().iter().map(|t| (t.name.clone(), t.shape.clone()));
        Matched { drawn: true, ..Matched::new(self.file.path(), &self.kind, have, wanted) }
    }
}

/// What of a network's parameters a file gives.
pub struct Matched<'a> {
    path: &'a Path,
    kind: &'a Recognised,
    /// In the order they were wanted.
    pub found: Vec<String>,
    /// Name and shape, ours: to be drawn ([`super::init::draw`]) or refused.
    pub missing: Vec<(String, Vec<usize>)>,
    /// In the file and not wanted.
    pub extra: Vec<String>,
    /// Name, wanted shape, the file's shape, in our layout.
    pub misshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Whether the request can ask for what is missing to be drawn.
    drawn: bool,
}

/// What a request may let pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Parameters that the file lacks (`--init-missing`).
    pub missing: bool,
    /// Tensors that the network does not want (the classifier of a tower that gets a new one).
    pub extra: bool,
}

/// Tensors of one sort that a message names before it counts the rest.
const NAMED: usize = 8;

impl<'a> Matched<'a> {
    pub fn new(
        path: &'a Path,
        kind: &'a Recognised,
        have: impl Iterator<Item = (String, Vec<usize>)>,
        wanted: &[(String, Vec<usize>)],
    ) -> Self {
        let mut m = Self { path, kind, found: vec![], missing: vec![], extra: vec![], misshaped: vec![], drawn: false };
        let mut left: BTreeMap<String, Vec<usize>> = have.collect();
        for (name, shape) in wanted {
            match left.remove(name) {
                None => m.missing.push((name.clone(), shape.clone())),
                Some(s) if &s != shape => m.misshaped.push((name.clone(), shape.clone(), s)),
                Some(_) => m.found.push(name.clone()),
            }
        }
        m.extra = left.into_keys().collect();
        m
    }

    /// Everything wanted is there, in the right shape, and nothing else.
    pub fn require_all(&self) -> Result<()> {
        self.require(Allow::default())
    }

    /// One error that names every tensor that is not as it should be. Wrong shapes are never let pass.
    pub fn require(&self, allow: Allow) -> Result<()> {
        if self.found.is_empty() && self.misshaped.is_empty() && !self.missing.is_empty() {
            let problem = format!("none of its tensors is of this network ({})", self.kind.describe());
            return Err(Error::file(self.path, problem).fix("give the file of the same network"));
        }
        let list = |what: &str, all: Vec<String>| match all.len() {
            0 => None,
            n if n > NAMED => Some(format!("{n} {what}: {} and {} more", all[..NAMED].join(", "), n - NAMED)),
            n => Some(format!("{n} {what}: {}", all.join(", "))),
        };
        let missing = self.missing.iter().map(|(n, s)| format!("{n} {}", show(s))).collect();
        let shapes = self.misshaped.iter();
        let shapes = shapes.map(|(n, want, have)| format!("{n} is {} instead of {}", show(have), show(want))).collect();
        let missing = list("missing", missing).filter(|_| !allow.missing);
        let shapes = list("mis-shaped", shapes);
        let extra = list("extra", self.extra.clone()).filter(|_| !allow.extra);
        let mut remedy = "give the file of the same network".to_string();
        if missing.is_some() && self.drawn {
            remedy += &format!(", or add {} to draw what is missing", option("init-missing"));
        }
        let parts: Vec<String> = [missing, shapes, extra].into_iter().flatten().collect();
        if parts.is_empty() {
            return Ok(());
        }
        let problem = format!("does not fit the network ({}): {}", self.kind.describe(), parts.join("; "));
        Err(Error::file(self.path, problem).fix(remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::super::LAYOUT;
    use super::super::names::tests::{VGG16, fake};
    use super::super::write::{Entry, write_to};
    use super::*;
    use std::io::Write;

    /// A file whose values count up within each tensor.
    fn open(tensors: &[(String, Vec<usize>)], meta: &[(&str, &str)]) -> Result<TowerWeights> {
        let values = |s: &[usize]| (0..s.iter().product::<usize>()).map(|i| i as f32).collect::<Vec<f32>>();
        let data: Vec<Vec<f32>> = tensors.iter().map(|t| values(&t.1)).collect();
        save(tensors.iter().zip(&data).map(|(t, d)| Entry::f32(&t.0, &t.1, d)).collect(), meta)
    }

    fn save(entries: Vec<Entry>, meta: &[(&str, &str)]) -> Result<TowerWeights> {
        let meta = meta.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let mut bytes = Vec::new();
        write_to(&mut bytes, &meta, &entries).unwrap();
        let mut f = tempfile::NamedTempFile::new().unwrap();
        f.write_all(&bytes).unwrap();
        TowerWeights::open(f.path())
    }

    fn wanted() -> Vec<(String, Vec<usize>)> {
        let layers = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"];
        let mut v = Vec::new();
        for l in layers {
            v.push((format!("conv{l}.weight"), vec![2, 3, 3, if l == "1_1" { 3 } else { 2 }]));
            v.push((format!("conv{l}.bias"), vec![2]));
        }
        for (n, out, inn) in [(1, 5, 18), (2, 5, 5), (3, 4, 5)] {
            v.push((format!("fc{n}.weight"), vec![out, inn]));
            v.push((format!("fc{n}.bias"), vec![out]));
        }
        v
    }

    /// The same network under our names.
    fn ours(classifier: bool) -> Vec<(String, Vec<usize>)> {
        wanted().into_iter().filter(|t| classifier || t.0.starts_with("conv")).collect()
    }

    const KRSC: (&str, &str) = (LAYOUT, "KRSC");

    #[test]
    fn other_peoples_files_are_to_be_imported() {
        let e = open(&fake(&VGG16, "torchvision"), &[]).err().unwrap().to_string();
        assert!(e.contains("torchvision vgg16, 4 classes") && e.contains("--as vgg16"), "{e}");
        let e = open(&ours(true), &[]).err().unwrap().to_string();
        assert!(e.contains("states no layout"), "{e}");
    }

    #[test]
    fn missing_extra_and_mis_shaped_are_named_in_one_message() {
        let t = open(&ours(false), &[KRSC]).unwrap();
        let mut want = wanted();
        want[0].1 = vec![2, 3, 3, 4];
        want.remove(3);
        let m = t.match_to(&want);
        let e = m.require_all().unwrap_err().to_string();
        for part in [
            "6 missing: fc1.weight [5,18], ",
            "1 mis-shaped: conv1_1.weight is [2,3,3,3] instead of [2,3,3,4]",
            "1 extra: conv1_2.bias",
            "init-missing",
            "deep-affect vgg16, no classifier",
        ] {
            assert!(e.contains(part), "{part}: {e}");
        }
        let e = m.require(Allow { missing: true, extra: true }).unwrap_err().to_string();
        assert!(e.contains("mis-shaped") && !e.contains("missing") && !e.contains("extra"), "{e}");
        let nothing = open(&[("conv1_1.weight".into(), vec![2, 3, 3, 3])], &[KRSC]).unwrap();
        let e = nothing.match_to(&wanted()).require_all().unwrap_err().to_string();
        assert!(e.contains("31 missing: ") && e.contains(" and 23 more"), "{e}");
        assert!(
            open(&ours(false), &[KRSC])
                .unwrap()
                .match_to(&wanted())
                .require(Allow { missing: true, extra: false })
                .is_ok()
        );
    }

    #[test]
    fn nan_is_refused_by_name() {
        let v = [0.0, f32::NAN, f32::INFINITY, 1.0];
        let w = [0.0; 16];
        let entries = vec![Entry::f32("fc3.bias", &[4], &v), Entry::f32("fc3.weight", &[4, 4], &w)];
        let t = save(entries, &[(LAYOUT, "KRSC")]).unwrap();
        let e = t.load("fc3.bias").unwrap_err().to_string();
        assert!(e.contains("tensor `fc3.bias`: 2 of 4 values are NaN or infinite"), "{e}");
        assert_eq!(t.load("fc3.weight").unwrap().len(), 16);
        assert!(t.load("fc9.weight").is_err());
    }

    #[test]
    fn files_of_ours_are_bound_in_place() {
        let (a, b) = (vec![0.5f32; 64 * 27], vec![0.25f32; 64]);
        let entries = vec![Entry::f32("conv1_1.weight", &[64, 3, 3, 3], &a), Entry::f32("conv1_1.bias", &[64], &b)];
        let t = save(entries, &[(LAYOUT, "KRSC")]).unwrap();
        let at = t.bind("conv1_1.weight").unwrap().unwrap();
        assert_eq!(bytemuck::cast_slice::<u8, f32>(&t.file.as_bytes()[at]), a);
        assert!(matches!(t.load("conv1_1.bias").unwrap(), Cow::Borrowed(_)));
        let e = t.preprocess().unwrap_err().to_string();
        assert!(e.contains("does not say how"), "{e}");
    }
}
