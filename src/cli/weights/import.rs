//! `weights import`: converts another program's weight file to ours.

use crate::cli::{command_line, output, terminal};
use crate::error::Result;
use crate::experiment::foreign::{ImportedWeights, WeightImport};
use crate::weights::store::Store;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// safetensors, .pth, .h5, .weights.h5, .keras, .caffemodel, .onnx or .npz: told by its content.
    file: PathBuf,
    /// What it is: vgg16, vgg19, vgg16-bn, vgg19-bn, vgg16-places365, vgg16-hybrid1365, vgg19-fer2013, or any network
    /// of `deep-affect plan`.
    #[arg(long = "as", value_name = "NETWORK")]
    network: String,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How its pictures were prepared, where the file and its origin do not say: keras, torch, caffe, ...
    #[arg(long, value_name = "PRESET")]
    preprocess: Option<String>,
    /// Side of its pictures in pixels, where dense layers were trained for another than the published one.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(32..=4096))]
    image: Option<u16>,
    /// How filters and dense weights are stored: int8 is 8 bits a weight and a scale a filter, a quarter of the size.
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    store: Store,
    /// Make batch norm a part of the convolutions.
    #[arg(long)]
    fold_batch_norm: bool,
    /// Names of the classes, one a line, in the order of the outputs.
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Terms of the weights, to be kept in the header; known origins bring theirs.
    #[arg(long, value_name = "TEXT")]
    licence: Option<String>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let import = WeightImport {
            file: self.file,
            network: self.network,
            out: self.out,
            preprocess: self.preprocess,
            image: self.image.map(usize::from),
            store: self.store,
            fold_batch_norm: self.fold_batch_norm,
            classes: self.classes,
            licence: self.licence,
            command: command_line(),
        };
        let found = import.run(&*terminal())?;
        output::print_result(&found, self.json, ImportedWeights::text)?;
        let (base, out) = (&found.base, import.out.display());
        let last = if found.classifies { "" } else { " --output pooled" };
        remark!(
            "next: deep-affect train MANIFEST --network {base} --weights {base}={out} --out DIR, or deep-affect features \
             {out} PICTURES{last}"
        );
        Ok(())
    }
}
