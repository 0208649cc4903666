/*! Floor 8: trained models for other programs. [`source`] opens a checkpoint or a tower and says what it computes from what;
[`torch`] knows torchvision's names and layout, [`onnx`] translates the evaluation graph op by op, [`proto`] is the wire
format under it. Everything is refused before anything is written, weights go from the mapped file to the new one row by
row, and files are replaced atomically. */

pub mod onnx;
pub mod proto;
pub mod source;
pub mod torch;

pub use source::{ExportModel, Layout};

use crate::error::Result;
use crate::weights::{Dtype, LAYOUT, write};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What another program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Weights alone, our names and layout: what `train --weights` and this program's library read.
    Safetensors,
    /// safetensors with torchvision's names and PyTorch's layout, for `load_state_dict`.
    TorchNames,
    /// The whole computation from uint8 pictures to ratings or probabilities, opset 17.
    Onnx,
}

/// Writes the model of `file` to `out`; the files that were written.
pub fn export(file: &Path, format: Format, out: &Path) -> Result<Vec<PathBuf>> {
    let source = ExportModel::open(file)?;
    match format {
        Format::Safetensors => tensors(&source, Layout::Ours, out),
        Format::TorchNames => tensors(&source, Layout::Torch, out),
        Format::Onnx => onnx::write(&source, out, onnx::INLINE),
    }
}

/// A writer of one tensor's values.
type Values<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

/// Writes every weight as float32, one tensor after the other.
fn tensors(source: &ExportModel, layout: Layout, out: &Path) -> Result<Vec<PathBuf>> {
    let names = match layout {
        Layout::Ours => source.tensors.iter().map(|t| t.name.clone()).collect(),
        Layout::Torch => torch::names(source.tensors.iter().map(|t| t.name.as_str())),
    };
    let mut metadata = source.metadata();
    match layout {
        Layout::Ours => metadata.insert(LAYOUT.into(), "KRSC".into()),
        // The second is what programs around PyTorch look for.
        Layout::Torch => {
            metadata.extend(BTreeMap::from([(LAYOUT, "OIHW"), ("format", "pt")].map(|(k, v)| (k.into(), v.into()))));
            None
        }
    };
    let values: Vec<Values> = source.tensors.iter().map(|t| source.values(t, layout)).collect();
    let mut entries = vec![];
    for ((t, name), values) in source.tensors.iter().zip(&names).zip(&values) {
        entries.push(write::Entry::stream(name, Dtype::F32, &t.dims(layout), values));
    }
    write::write(out, &metadata, &entries)?;
    Ok(vec![out.into()])
}

#[cfg(test)]
mod tests;
