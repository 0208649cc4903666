//! A model with the weights of its dense layers in 16 bits: half of a file that is nearly all dense weights. A prediction on
//! the CPU reads them as they lie ([`super::checkpoint::bind`]).

use super::checkpoint::{self, CARD, narrows};
use crate::error::{Error, Result};
use crate::weights::header::Info;
use crate::weights::store::{Narrow, What, scale_name};
use crate::weights::write::{Entry, Stream, write};
use crate::weights::{Dtype, TowerWeights, WeightFile};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// How it went.
pub struct Narrowed {
    /// Tensors that are stored in 16 bits now.
    pub tensors: usize,
    /// Bytes of all tensors before and after.
    pub bytes: [usize; 2],
}

/// Writes the model, or the tower of `weights import` or `pretrain`, in `path` to `out`. Everything but the dense weights that
/// [`checkpoint::narrow`] rounds, and that lie in float32, stays as it is.
///
/// # Errors
/// An unfinished run; a file without such a layer; weights beyond the range of float16.
pub fn narrow(path: &Path, out: &Path) -> Result<Narrowed> {
    let file = WeightFile::open(path)?;
    if !file.metadata().contains_key(CARD) {
        TowerWeights::new(file.clone())?;
    } else if !checkpoint::card(&file)?.state.finished {
        return Err(Error::file(path, "is of a run that was not finished").fix("finish it with `train --resume`"));
    }
    file.all_intact()?;
    let rounded = |t: &Info| t.dtype == Dtype::F32 && t.shape.len() == 2 && narrows(&t.shape);
    let tensors = file.infos().iter().filter(|t| rounded(t)).count();
    if tensors == 0 {
        return Err(Error::file(path, "has no dense layer in float32 whose widths are multiples of eight"));
    }
    let streams: Vec<Box<Stream>> = file.infos().iter().map(|t| values(&file, t, rounded(t))).collect();
    let mut entries = vec![];
    for (t, stream) in file.infos().iter().zip(&streams) {
        let dtype = if rounded(t) { Dtype::F16 } else { t.dtype };
        entries.push(Entry::stream(&t.name, dtype, &t.shape, stream));
        if let Some(scales) = &t.scales {
            let bytes = &file.as_bytes()[scales.clone()];
            entries.push(Entry::bytes(&scale_name(&t.name), Dtype::F32, &t.shape[..1], bytes));
        }
    }
    write(out, file.metadata(), &entries)?;
    let before: usize = file.infos().iter().map(|t| t.range.len()).sum();
    let saved: usize = file.infos().iter().filter(|t| rounded(t)).map(|t| t.range.len() / 2).sum();
    Ok(Narrowed { tensors, bytes: [before, before - saved] })
}

/// What writes a tensor.
fn values<'a>(file: &'a Arc<WeightFile>, t: &'a Info, rounded: bool) -> Box<Stream<'a>> {
    /// Bytes at a time.
    const PIECE: usize = 1 << 20;
    Box::new(move |w| {
        let bytes = &file.as_bytes()[t.range.clone()];
        match rounded {
            false => w.write_all(bytes),
            true => {
                let mut narrow = Narrow::new(w, Dtype::F16, What::Values, &t.shape);
                bytes.chunks(PIECE).try_for_each(|piece| narrow.write_all(piece))?;
                narrow.flush()
            }
        }
    })
}
