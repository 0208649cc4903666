/*! Keras' arrays out of HDF5, under one kind of name whoever wrote them: `LAYER/kernel`, `LAYER/bias`, and `LAYER/gamma`,
`beta`, `moving_mean`, `moving_variance` of batch normalisation. Shapes are Keras' own: filters [H,W,I,O], dense kernels
[in, out], the input of the first one flattened in H,W,C order.

| written by | dataset |
|---|---|
| Keras 1 | `/block1_conv1/block1_conv1_W_1:0`, `…_b_1:0` |
| Keras 2, tf.keras, Keras 3 `.h5` | `/model_weights/LAYER/LAYER/kernel[:0]`, in a weights file without `model_weights` |
| the same, a model within the model | `/model_weights/MODEL/LAYER/kernel[:0]` |
| Keras 3 `.weights.h5` | `/layers/conv2d_1/vars/0`, the layer's name an attribute of `vars` |
| Keras 3 `.keras` | the same in `model.weights.h5` of a zip archive |

The first three list their layers in the attribute `layer_names` and each layer's datasets in `weight_names`
(keras/src/legacy/saving/legacy_h5_format.py), and only what is listed is read: the optimizer's state is not. The others
are followed from `layers` (keras/src/saving/saving_lib.py). Kernels of Theano, [O,I,H,W] and turned by half a circle, are
refused. */

use super::hdf5::{self, HdfGroup, HdfNode, Reader};
use super::{Archive, Array, BLOCKS, Fault, Format, zip};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// The file with the values in a `.keras` archive.
const INNER: &str = "model.weights.h5";

/// The arrays of an HDF5 file or of a `.keras` archive.
pub fn read(bytes: &[u8]) -> Result<Archive, Fault> {
    let mut notes = BTreeMap::from([("layout".to_string(), "HWIO".to_string())]);
    let (format, within) =
        if hdf5::is_hdf5(bytes) { (Format::Hdf5, 0..bytes.len()) } else { (Format::Keras, inner(bytes, &mut notes)?) };
    let (mut reader, root) = Reader::open(bytes, within)?;
    let whole = root.group("model_weights").filter(|g| !strings(g, "layer_names").is_empty());
    let listed = whole.unwrap_or(&root);
    for group in [&root, listed] {
        for key in ["keras_version", "backend"] {
            notes.extend(strings(group, key).into_iter().next().map(|v| (key.to_string(), v)));
        }
    }
    if strings(&root, "model_config").iter().any(|c| c.contains(r#""dim_ordering": "th""#)) {
        return Err(Fault::of("attribute `model_config`", theano()));
    }
    let mut arrays = Vec::new();
    let layers = ["layers", "_layer_checkpoint_dependencies"].iter().find_map(|n| root.group(n));
    match (strings(listed, "layer_names"), layers) {
        (names, _) if !names.is_empty() => {
            let mut seen = HashSet::new();
            for layer in names {
                legacy(&mut reader, listed, &layer, &mut seen, &mut arrays)?;
            }
        }
        (_, Some(layers)) => modern(&mut reader, layers, "layers", &mut arrays)?,
        _ => {
            let problem = "HDF5, but not of Keras: no attribute `layer_names` and no group `layers`";
            return Err(Fault::of("the root group", problem));
        }
    }
    for a in &arrays {
        // Sides of filters are equal, and fewer than channels.
        if let [o, i, h, w] = a.shape[..]
            && (h == w && o != i && o.max(i) > h)
        {
            return Err(Fault::of(format!("tensor `{}`", a.name), format!("[{o},{i},{h},{w}]: {}", theano())));
        }
    }
    by_order(&mut arrays);
    Archive { format, arrays, notes, beside: Vec::new() }.check(bytes.len())
}

/// Keras loads a file of layers that were given no names (`conv2d`, `conv2d_1`, …, `dense`) by their order. So are they
/// named here, where their shapes are those of a VGG and no layer has a VGG's name.
fn by_order(arrays: &mut [Array]) {
    let part = |a: &Array| a.name.rsplit_once('/').map(|(layer, part)| (layer.to_string(), part.to_string()));
    let kernels: Vec<(String, Vec<usize>)> =
        arrays.iter().filter_map(|a| part(a).filter(|p| p.1 == "kernel").map(|p| (p.0, a.shape.clone()))).collect();
    let convs = kernels.iter().take_while(|k| k.1.len() == 4).count();
    let (convs, dense) = kernels.split_at(convs);
    let Some(blocks) = BLOCKS.iter().find(|b| b.iter().sum::<usize>() == convs.len()) else { return };
    let filters = convs.iter().all(|k| k.1[..2] == [3, 3]) && convs.windows(2).all(|w| w[0].1[3] == w[1].1[2]);
    let products =
        dense.len() <= 3 && dense.iter().all(|k| k.1.len() == 2) && dense.windows(2).all(|w| w[0].1[1] == w[1].1[0]);
    if !filters || !products || kernels.iter().any(|k| k.0.starts_with("block")) {
        return;
    }
    let names = (1..).zip(blocks).flat_map(|(b, n)| (1..=*n).map(move |i| format!("block{b}_conv{i}")));
    let names = names.chain((1..).map(|i| format!("fc{i}")));
    let names: BTreeMap<String, String> = kernels.into_iter().map(|k| k.0).zip(names).collect();
    for a in arrays {
        if let Some((name, part)) = part(a).and_then(|(layer, part)| Some((names.get(&layer)?, part))) {
            a.name = format!("{name}/{part}");
        }
    }
}

fn theano() -> &'static str {
    "kernels in Theano's order are not supported; convert them with keras.utils.convert_all_kernels_in_model"
}

/// Where the HDF5 file lies in a `.keras` archive.
fn inner(bytes: &[u8], notes: &mut BTreeMap<String, String>) -> Result<Range<usize>, Fault> {
    let entries = zip::entries(bytes)?;
    if let Some(about) = entries.iter().find(|e| e.name == "metadata.json") {
        let about: Option<BTreeMap<String, String>> = serde_json::from_slice(&about.head(bytes, 1 << 16)).ok();
        notes.extend(about.into_iter().flatten().filter(|(key, _)| key == "keras_version"));
    }
    let Some(entry) = entries.into_iter().find(|e| e.name == INNER) else {
        return Err(Fault::of(zip::place(INNER), "is missing: no archive of Keras, or one in shards"));
    };
    if entry.deflated {
        // Keras stores it; unpacked here it would be in memory as a whole.
        return Err(Fault::of(zip::place(INNER), "is compressed; unpack the archive and import the entry itself"));
    }
    Ok(entry.packed)
}

/// An attribute of strings, also one that Keras cut into `NAME0`, `NAME1` and so on to fit a header; empty if it is not
/// there.
fn strings(group: &HdfGroup, name: &str) -> Vec<String> {
    if let Some(all) = group.attributes.get(name) {
        return all.clone();
    }
    (0..).map_while(|i| group.attributes.get(&format!("{name}{i}"))).flatten().cloned().collect()
}

/// The arrays that a layer of a Keras 1 or 2 file lists.
fn legacy(
    reader: &mut Reader,
    all: &HdfGroup,
    layer: &str,
    seen: &mut HashSet<String>,
    arrays: &mut Vec<Array>,
) -> Result<(), Fault> {
    let Some(group) = all.group(layer) else {
        return Err(Fault::of(format!("layer `{layer}`"), "is listed and is not there"));
    };
    for weight in strings(group, "weight_names") {
        let path = format!("{layer}/{weight}");
        let Some(HdfNode::Dataset(dataset)) = group.find(&weight) else {
            return Err(Fault::of(format!("dataset `{path}`"), "is listed and is not there"));
        };
        arrays.push(reader.array(dataset, &path, legacy_name(layer, &weight))?);
        if !seen.insert(path) {
            return Err(Fault::of(format!("layer `{layer}`"), "is listed twice, or one of its datasets is"));
        }
    }
    Ok(())
}

/// `LAYER/kernel` of a layer's name and a dataset's below it.
fn legacy_name(layer: &str, weight: &str) -> String {
    // TensorFlow's tensors are outputs of an operation, and these are its first.
    let weight = weight.strip_suffix(":0").unwrap_or(weight);
    let (scope, name) = weight.rsplit_once('/').unwrap_or((layer, weight));
    // Keras 1: `LAYER_W_1`, where TensorFlow made the name unique.
    let bare = name.strip_prefix(layer).and_then(|n| n.strip_prefix('_')).unwrap_or(name);
    let bare = bare.rsplit_once('_').filter(|(_, n)| n.parse::<u32>().is_ok()).map_or(bare, |b| b.0);
    let name = match bare {
        "W" => "kernel",
        "b" => "bias",
        _ => name,
    };
    // The scope repeats the layer, now and then with a number to make it unique; in a model within the model it is the
    // layer there.
    let scope = scope.rsplit('/').next().unwrap_or(scope);
    let unique = scope.strip_prefix(layer).and_then(|n| n.strip_prefix('_')).is_some_and(|n| n.parse::<u32>().is_ok());
    format!("{}/{name}", if unique { layer } else { scope })
}

/// The arrays below a group of a Keras 3 weights file: those in `vars`, then those of the layers inside.
fn modern(reader: &mut Reader, group: &HdfGroup, path: &str, arrays: &mut Vec<Array>) -> Result<(), Fault> {
    if let Some(vars) = group.group("vars") {
        let own = path.rsplit('/').next().unwrap_or(path);
        let layer = strings(vars, "name").into_iter().next().unwrap_or(own.to_string());
        let first = arrays.len();
        for (name, node) in in_order(vars) {
            let HdfNode::Dataset(dataset) = node else { continue };
            arrays.push(reader.array(dataset, &format!("{path}/vars/{name}"), format!("{layer}/{name}"))?);
        }
        let own = arrays.get_mut(first..).unwrap_or(&mut []);
        let ranks: Vec<usize> = own.iter().map(|a| a.shape.len()).collect();
        let names: &[&str] = match ranks[..] {
            [2..=5, 1] | [2..=5] => &["kernel", "bias"],
            // A separable convolution.
            [4, 4] | [4, 4, 1] => &["depthwise_kernel", "pointwise_kernel", "bias"],
            [1, 1, 1, 1] => &["gamma", "beta", "moving_mean", "moving_variance"],
            // Of another layer, or of one without some of them: they keep their numbers.
            _ => &[],
        };
        own.iter_mut().zip(names).for_each(|(a, name)| a.name = format!("{layer}/{name}"));
    }
    for (name, node) in in_order(group) {
        // The state of a random generator is no weight.
        if let (HdfNode::HdfGroup(below), false) = (node, ["vars", "seed_generator"].contains(&name)) {
            modern(reader, below, &format!("{path}/{name}"), arrays)?;
        }
    }
    Ok(())
}

/// Members with `conv2d_2` before `conv2d_10`, as they were made.
fn in_order(group: &HdfGroup) -> Vec<(&str, &HdfNode)> {
    let mut all: Vec<_> = group.members.iter().map(|(name, node)| (name.as_str(), node)).collect();
    all.sort_by_key(|(name, _)| {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        (stem, name[stem.len()..].parse::<u64>().unwrap_or(0))
    });
    all
}

#[cfg(test)]
mod tests {
    use super::super::ArrayData;
    use super::super::testing::{Tensors, archive, fixture, in_order, reference, tensors, torment};
    use super::*;

    const READ: [&str; 8] = [
        "keras.h5",
        "keras.weights.h5",
        "keras.keras",
        "keras_nested.h5",
        "keras1.h5",
        "keras1_notop.h5",
        "keras_gzip.h5",
        "keras_latest.h5",
    ];

    /// The network of the fixtures as Keras has it: filters HWIO, dense kernels [in, out], rows of the first one H,W,C.
    fn network() -> Tensors {
        let blocks = [2, 2, 3, 3, 3].into_iter().enumerate();
        let names = blocks.flat_map(|(b, n)| (1..=n).map(move |i| format!("block{}_conv{i}", b + 1)));
        let names = names.chain(["fc1", "fc2", "predictions"].map(String::from));
        let names = names.flat_map(|n| [format!("{n}/kernel"), format!("{n}/bias")]);
        let theirs = in_order(&reference("torchvision.safetensors")).into_iter();
        names
            .zip(theirs.map(|(shape, values)| match shape[..] {
                [o, i, h, w] => {
                    let at = |n: usize| values[((n % o * i + n / o % i) * h + n / o / i / w) * w + n / o / i % w];
                    (vec![h, w, i, o], (0..values.len()).map(at).collect())
                }
                // 7 channels of 2x2 pixels.
                [8, 28] => {
                    let at = |n: usize| values[n % 8 * 28 + n / 8 % 7 * 4 + n / 8 / 7];
                    (vec![28, 8], (0..values.len()).map(at).collect())
                }
                [o, i] => (vec![i, o], (0..values.len()).map(|n| values[n % o * i + n / o]).collect()),
                _ => (shape, values),
            }))
            .collect()
    }

    #[test]
    fn every_kind_of_file_holds_the_networks_values() {
        let network = network();
        for (name, count) in READ.into_iter().zip([32, 32, 32, 8, 32, 26, 10, 4]) {
            let file = fixture(name);
            let archive = read(&file).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!((archive.arrays.len(), archive.notes["layout"].as_str()), (count, "HWIO"), "{name}");
            assert_eq!(archive.arrays[0].name, "block1_conv1/kernel", "{name}");
            let packed = archive.arrays.iter().filter(|a| matches!(a.place, ArrayData::Packed(..))).count();
            assert_eq!(packed, if name == "keras_gzip.h5" { count } else { 0 }, "{name}");
            for (own, values) in tensors(&archive, &file) {
                assert_eq!(values, network[&own], "{name}: {own}");
            }
        }
        for name in ["keras.h5", "keras.keras"] {
            assert_eq!(read(&fixture(name)).unwrap().notes["keras_version"], "3.15.1");
        }
        assert_eq!(read(&fixture("keras.keras")).unwrap().format, Format::Keras);
    }

    #[test]
    fn layers_without_names_are_known_by_their_order() {
        let file = fixture("keras.h5");
        let mut archive = read(&file).unwrap();
        let own: Vec<String> = archive.arrays.iter().map(|a| a.name.clone()).collect();
        let automatic = |arrays: &mut [Array]| {
            let (mut layers, mut convs, mut dense) = (Vec::<String>::new(), 0, 0);
            for a in arrays {
                let (layer, part) = a.name.rsplit_once('/').unwrap();
                let (layer, part) = (layer.to_string(), part.to_string());
                if !layers.contains(&layer) {
                    layers.push(layer.clone());
                    *(if a.shape.len() == 4 { &mut convs } else { &mut dense }) += 1;
                }
                a.name = match layer.starts_with("block") {
                    true => format!("conv2d_{convs}/{part}"),
                    false => format!("dense_{dense}/{part}"),
                };
            }
        };
        automatic(&mut archive.arrays);
        assert_eq!(archive.arrays[2].name, "conv2d_2/kernel");
        by_order(&mut archive.arrays);
        for (a, own) in archive.arrays.iter().zip(&own) {
            assert_eq!(a.name, own.replace("predictions", "fc3"));
        }
        // Another network keeps its names.
        automatic(&mut archive.arrays);
        archive.arrays[2].shape[2] += 1;
        by_order(&mut archive.arrays);
        assert_eq!(archive.arrays[2].name, "conv2d_2/kernel");
    }

    #[test]
    fn batch_normalisation_has_its_names() {
        let file = fixture("keras_bn.weights.h5");
        let all = tensors(&read(&file).unwrap(), &file);
        assert_eq!(all.len(), 12);
        for (name, value) in [("gamma", 1.5), ("beta", 0.25), ("moving_mean", 0.5), ("moving_variance", 2.0)] {
            assert_eq!(all[&format!("block1_bn2/{name}")], (vec![3], vec![value; 3]));
        }
    }

    #[test]
    fn names_of_every_writer() {
        for (layer, weight, want) in [
            ("block1_conv1", "block1_conv1_W_1:0", "block1_conv1/kernel"),
            ("fc1", "fc1_b:0", "fc1/bias"),
            ("fc1", "fc1/kernel:0", "fc1/kernel"),
            ("fc1", "fc1/kernel", "fc1/kernel"),
            ("dense_1", "dense_1_2/bias:0", "dense_1/bias"),
            ("vgg16", "block1_conv1/kernel:0", "block1_conv1/kernel"),
            ("vgg16", "vgg16/block1_conv1/kernel", "block1_conv1/kernel"),
            ("bn", "bn/moving_variance:0", "bn/moving_variance"),
            ("conv", "conv_filter_3:0", "conv/conv_filter_3"),
        ] {
            assert_eq!(legacy_name(layer, weight), want);
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (name, want) in [
            ("keras1_theano.h5", "tensor `block2_conv1/kernel`: [4,3,3,3]: kernels in Theano's order"),
            ("keras_dense.h5", "links in a fractal heap; write the file without libver=\"latest\""),
        ] {
            let e = read(&fixture(name)).unwrap_err();
            assert!(format!("{}: {}", e.place, e.problem).contains(want), "{e:?}");
        }
        let e = read(&archive(&[("config.json", b"{}")], false)).unwrap_err();
        assert_eq!((e.place.as_str(), &e.problem[..10]), ("entry `model.weights.h5`", "is missing"));
    }

    #[test]
    fn damage_is_refused_or_harmless() {
        for name in READ.into_iter().chain(["keras1_theano.h5", "keras_dense.h5", "keras_bn.weights.h5"]) {
            torment(read, &fixture(name), 2000);
        }
    }
}
