//! The library's lists of names as a command line knows them: each name, and what help says of it.

use crate::data::Alpha;
use crate::evolve::Fitness;
use crate::experiment::config::{Choice, Monitor, Resident};
use crate::experiment::prediction::AnswerFormat;
use crate::export::Format;
use crate::host::pattern::{Colour, Coordinates};
use crate::measure::Purpose;
use crate::models::{Architecture, OutAct};
use crate::ops::loss::Reduction;
use crate::train::fit::{AdamForm, SgdForm, Updates};
use crate::train::network::Precision;
use crate::weights::init::Rule;
use crate::weights::store::Store;
use clap::ValueEnum;
use clap::builder::PossibleValue;

/// A value without a name here cannot be asked for.
macro_rules! choices {
    ($($list:ty { $($value:ident = $name:literal $(or $alias:literal)? $(: $help:literal)?),* })*) => {$(
        impl ValueEnum for $list {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$value),*]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                match self {
                    $(Self::$value => Some(PossibleValue::new($name)$(.alias($alias))?$(.help($help))?),)*
                    #[allow(unreachable_patterns)]
                    _ => None,
                }
            }
        }
    )*};
}

choices! {
    Architecture { Shared = "shared", Split = "split" }
    OutAct { Linear = "linear", Relu = "relu" }
    Fitness {
        Centre = "centre": "By its distance from the middle of the cell",
        Agreement = "agreement": "By how well several models agree"
    }
    Colour {
        Hls = "hls": "Hue, lightness and saturation",
        Rgb = "rgb": "Red, green and blue"
    }
    Coordinates {
        Unit = "unit": "From -1 to 1",
        Pixels = "pixels": "Indices of pixels, as in the program of Nguyen, Yosinski & Clune 2015"
    }
    Choice { Auto = "auto", Yes = "yes", MinMax = "minmax", No = "no" }
    Monitor {
        Val = "val": "A part of those that would be trained on",
        Train = "train": "None but those that are trained on",
        Test = "test": "Those that are tested: a leak"
    }
    Reduction {
        Mean = "mean": "Over all elements, by the weights of their rows: rows x outputs of ratings, rows of classes",
        Sum = "sum": "The same without the division"
    }
    SgdForm { Keras = "keras", Torch = "torch" }
    AdamForm {
        Torch = "torch": "1e-8 is added to the root of the corrected mean of squares: PyTorch, Optax",
        Keras = "keras": "1e-7 is added to the root of the mean of squares as it is: Keras, TensorFlow"
    }
    Updates {
        Sgd = "sgd": "Stochastic gradient descent with momentum, as in the paper",
        Adam = "adam": "Adam (Kingma & Ba 2015; means over .9 and .999), weight decay being an L2 penalty",
        AdamW = "adamw": "Adam with decoupled weight decay (Loshchilov & Hutter 2019): for small heads"
    }
    Precision {
        Float32 = "float32",
        Tf32x3 = "tf32x3": "Stored as float32 and as exact: three products of 11 significant bits for one on a GPU's tensor cores. Plain float32 on the CPU",
        Tf32 = "tf32": "Stored as float32, multiplied with 11 significant bits on a GPU's tensor cores. Plain float32 on the CPU",
        Bf16 = "bf16": "Activations, and the copies of weights that multiply them, with 8 significant bits and the range of float32; where the CPU predicts, the weights of dense layers alone",
        Fp16 = "fp16": "The same with 11 significant bits up to 65,504; the loss is scaled so that gradients stay inside"
    }
    Resident {
        Auto = "auto": "On a GPU, if it has room for all of them",
        Yes = "yes",
        No = "no": "Those of each batch are sent"
    }
    Alpha {
        Drop = "drop": "Whatever colour stands under it shows: Pillow's `convert(\"RGB\")`, and what photographs want",
        White = "white": "Blended with white: drawings and emoji, whose transparent part hides black"
    }
    AnswerFormat {
        Table = "table": "For people",
        Csv = "csv": "One row a picture, under a header",
        Jsonl = "jsonl": "One JSON object a line, written as each picture is done",
        Json = "json": "One JSON array of the same objects, complete when the last picture is done"
    }
    Purpose {
        Infer = "infer": "Pictures to outputs",
        Train = "train": "Forward, adjoint and update of everything that is trained"
    }
    Rule {
        Glorot = "glorot": "Glorot & Bengio 2010, \"Understanding the difficulty of training deep feedforward neural networks\": sqrt(6 / (fan_in + fan_out))",
        He = "he": "He et al. 2015, \"Delving deep into rectifiers\": sqrt(6 / fan_in). Sixteen rectified layers drawn by Glorot's rule pass on a hundredth of their input and do not begin to learn"
    }
    Store {
        Float32 = "float32": "4 bytes a weight, mapped and used as they lie",
        F16 = "f16" or "float16": "2 bytes a weight",
        Int8 = "int8" or "i8": "1 byte a weight and 4 a filter"
    }
    Format {
        Safetensors = "safetensors": "Weights alone, our names and layout: what `train --weights` and this program's library read",
        TorchNames = "torch-names": "safetensors with torchvision's names and PyTorch's layout, for `load_state_dict`",
        Onnx = "onnx": "The whole computation from uint8 pictures to ratings or probabilities, opset 17"
    }
}
