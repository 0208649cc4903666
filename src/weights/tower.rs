/*! A weight file seen as the parameters of one network, under our names and in our layout, and its match to what the
network wants: everything missing, extra or mis-shaped is named in one message. */

use super::file::WeightFile;
use super::header::shape as show;
use super::names::{Kind, Permute, Source, recognise};
use super::stated;
use crate::error::{Error, Result};
use crate::preprocess::Preprocess;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A mapped file with every tensor under our name.
pub struct TowerWeights {
    pub file: Arc<WeightFile>,
    pub kind: Kind,
    preprocess: Result<Option<Preprocess>>,
    image: Result<Option<usize>>,
    /// By our name.
    pub map: BTreeMap<String, Source>,
}

impl TowerWeights {
    /// Maps `path` and finds out what it is. Fails on a file that is not valid, whose names or layout are not
    /// understood, or that gives one parameter twice.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(WeightFile::open(path)?)
    }

    /// The same for a file that is already mapped.
    pub fn new(file: Arc<WeightFile>) -> Result<Self> {
        let (kind, sources) = recognise(file.infos(), file.metadata());
        if let Some(trouble) = &kind.trouble {
            return Err(Error::file(file.path(), trouble));
        }
        let mut map = BTreeMap::new();
        for s in sources {
            let theirs = s.theirs.clone();
            if let Some(first) = map.insert(s.ours.clone(), s) {
                return Err(Error::file(
                    file.path(),
                    format!("`{}` and `{theirs}` are both {}", first.theirs, first.ours),
                )
                .fix("remove one of them"));
            }
        }
        let preprocess = stated::preprocess(file.path(), file.metadata(), &kind);
        let image = stated::image(file.path(), file.metadata());
        Ok(Self { file, kind, preprocess, image, map })
    }

    /// What the network was trained on: the header's statement, else the lineage's. Fails if the header's statement is
    /// not understood, or if there is none and the lineage implies nothing.
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

    /// A parameter by our name, in our layout: borrowed from the mapping where the file has it as float32 and in our
    /// order, else converted. NaN and infinity are refused.
    pub fn load(&self, ours: &str) -> Result<Cow<'_, [f32]>> {
        let s = self.source(ours)?;
        let values = self.file.tensor(&s.theirs)?.to_f32()?;
        self.check_finite(&s.theirs, &values)?;
        Ok(s.permute.apply(values))
    }

    /// The same to a place of the caller's, without a copy between. Fails if `out` has another length.
    pub fn load_into(&self, ours: &str, out: &mut [f32]) -> Result<()> {
        let s = self.source(ours)?;
        let values = self.file.tensor(&s.theirs)?.to_f32()?;
        if values.len() != out.len() {
            let problem = format!("{} values for the {} of parameter `{ours}`", values.len(), out.len());
            return Err(Error::file(self.file.path(), problem)
                .at(format!("tensor `{}`", s.theirs))
                .fix("give the file of the same network"));
        }
        self.check_finite(&s.theirs, &values)?;
        s.permute.apply_into(&values, out);
        Ok(())
    }

    /// Where in the mapping a parameter lies that a device can use without a copy: float32, our order, 64-byte aligned.
    /// None if [`TowerWeights::load`] must copy. The values are read once, for the same refusal.
    pub fn bind(&self, ours: &str) -> Result<Option<Range<usize>>> {
        let s = self.source(ours)?;
        if s.permute != Permute::None {
            return Ok(None);
        }
        let Some(range) = self.file.aligned_f32(&s.theirs) else { return Ok(None) };
        self.check_finite(&s.theirs, &self.file.tensor(&s.theirs)?.to_f32()?)?;
        Ok(Some(range))
    }

    fn source(&self, ours: &str) -> Result<&Source> {
        self.map.get(ours).ok_or_else(|| {
            Error::file(self.file.path(), format!("no tensor for parameter `{ours}`"))
                .fix("`deep-affect inspect` lists what the file holds")
        })
    }

    fn check_finite(&self, theirs: &str, values: &[f32]) -> Result<()> {
        let bad = |x: &&f32| !x.is_finite();
        if !values.par_chunks(1 << 16).any(|c| c.iter().fold(false, |b, x| b | !x.is_finite())) {
            return Ok(());
        }
        let n = values.par_iter().filter(bad).count();
        Err(Error::file(self.file.path(), format!("{n} of {} values are NaN or infinite", values.len()))
            .at(format!("tensor `{theirs}`"))
            .fix("use a file whose weights were trained to the end; some distributions fill the classifier with NaN"))
    }

    /// Compares with what a network wants: our names without the tower, shapes in our layout.
    pub fn match_to(&self, wanted: &[(String, Vec<usize>)]) -> Matched<'_> {
        let mut m = Matched { weights: self, found: vec![], missing: vec![], extra: vec![], misshaped: vec![] };
        let mut left = self.map.clone();
        for (name, shape) in wanted {
            left.remove(name);
            match self.map.get(name) {
                None => m.missing.push((name.clone(), shape.clone())),
                Some(s) if &s.shape != shape => m.misshaped.push((name.clone(), shape.clone(), s.shape.clone())),
                Some(s) => m.found.push(s),
            }
        }
        m.extra = left.into_values().map(|s| s.theirs).collect();
        m
    }
}

/// What of a network's parameters a file gives.
pub struct Matched<'a> {
    weights: &'a TowerWeights,
    /// In the order they were wanted.
    pub found: Vec<&'a Source>,
    /// Name and shape, ours: to be drawn ([`super::init::draw`]) or refused.
    pub missing: Vec<(String, Vec<usize>)>,
    /// In the file and not wanted, by the file's name.
    pub extra: Vec<String>,
    /// Name, wanted shape, the file's shape, in our layout.
    pub misshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
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

impl Matched<'_> {
    /// Everything wanted is there, in the right shape, and nothing else.
    pub fn require_all(&self) -> Result<()> {
        self.require(Allow::default())
    }

    /// One error that names every tensor that is not as it should be. Wrong shapes are never let pass.
    pub fn require(&self, allow: Allow) -> Result<()> {
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
        let mut remedy = "give the file of the same network";
        if missing.is_some() {
            remedy = "give the file of the same network, or add --init-missing to draw what is missing";
        }
        let parts: Vec<String> = [missing, shapes, extra].into_iter().flatten().collect();
        if parts.is_empty() {
            return Ok(());
        }
        let problem = format!("does not fit the network ({}): {}", self.weights.kind.describe(), parts.join("; "));
        Err(Error::file(self.weights.file.path(), problem).fix(remedy))
    }

    /// How many of the found parameters need no copy.
    pub fn mapped(&self) -> usize {
        let direct = |s: &&&Source| s.permute == Permute::None && self.weights.file.aligned_f32(&s.theirs).is_some();
        self.found.iter().filter(direct).count()
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

    #[test]
    fn torchvision_and_timm_give_the_same_numbers() {
        let (a, b) = (open(&fake(&VGG16, "torchvision"), &[]).unwrap(), open(&fake(&VGG16, "timm"), &[]).unwrap());
        for t in [&a, &b] {
            let m = t.match_to(&wanted());
            m.require_all().unwrap();
            assert_eq!(m.found.len(), wanted().len());
            assert_eq!(t.preprocess().unwrap().name(), "torch");
        }
        for (name, shape) in wanted() {
            let x = a.load(&name).unwrap();
            assert_eq!(x.len(), shape.iter().product::<usize>());
            assert_eq!(x, b.load(&name).unwrap());
            let mut y = vec![0.0; x.len()];
            a.load_into(&name, &mut y).unwrap();
            assert_eq!(*x, y[..]);
            assert!(a.load_into(&name, &mut y[1..]).unwrap_err().to_string().contains("tensor `"));
        }
        // conv1_1 [2,3,3,3]: our (k, r, s, c) comes from (k, c, r, s).
        let w = a.load("conv1_1.weight").unwrap();
        assert_eq!(w[((3 + 2) * 3) * 3 + 1], ((3 + 1) * 3 + 2) as f32 * 3.0);
        // fc1 [5,18]: our column (h*3+w)*2+c comes from c*9+h*3+w.
        let w = a.load("fc1.weight").unwrap();
        assert_eq!(w[4 * 18 + (2 * 3 + 1) * 2 + 1], (4 * 18 + 9 + 2 * 3 + 1) as f32);
    }

    #[test]
    fn missing_extra_and_mis_shaped_are_named_in_one_message() {
        let t = open(&fake(&VGG16, ""), &[]).unwrap();
        let mut want = wanted();
        want[0].1 = vec![2, 3, 3, 4];
        want.remove(3);
        let m = t.match_to(&want);
        let e = m.require_all().unwrap_err().to_string();
        for part in [
            "6 missing: fc1.weight [5,18], ",
            "1 mis-shaped: conv1_1.weight is [2,3,3,3] instead of [2,3,3,4]",
            "1 extra: features.2.bias",
            "--init-missing",
            "torchvision vgg16, no classifier",
        ] {
            assert!(e.contains(part), "{part}: {e}");
        }
        let e = m.require(Allow { missing: true, extra: true }).unwrap_err().to_string();
        assert!(e.contains("mis-shaped") && !e.contains("missing") && !e.contains("extra"), "{e}");
        let nothing = open(&[("features.0.weight".into(), vec![2, 3, 3, 3])], &[]).unwrap();
        let e = nothing.match_to(&wanted()).require_all().unwrap_err().to_string();
        assert!(e.contains("31 missing: ") && e.contains(" and 23 more"), "{e}");
        assert!(
            open(&fake(&VGG16, ""), &[])
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
        let want = [("conv1_1.weight".to_string(), vec![64, 3, 3, 3]), ("conv1_1.bias".into(), vec![64])];
        assert_eq!(t.match_to(&want).mapped(), 2);
        let e = t.preprocess().unwrap_err().to_string();
        assert!(e.contains("does not say how"), "{e}");
        assert!(open(&fake(&VGG16, ""), &[]).unwrap().bind("conv1_2.weight").unwrap().is_none());
    }

    #[test]
    fn one_parameter_twice_is_refused() {
        let mut t = fake(&VGG16, "timm");
        t.push(("classifier.6.bias".into(), vec![4]));
        let e = open(&t, &[]).err().unwrap().to_string();
        assert!(e.contains("are both fc3.bias"), "{e}");
    }
}
