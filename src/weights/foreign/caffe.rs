/*! Caffe's `.caffemodel`: a NetParameter (src/caffe/proto/caffe.proto) with its layers as LayerParameter (`layer`, 2014 on)
or as V1LayerParameter (`layers`). A layer's blobs become the arrays `LAYER/0`, the weights, and `LAYER/1`, the bias, each
value where it lies. Shapes are Caffe's: filters [O,I,H,W], inner products [out, in] with the input flattened in C,H,W
order. Other fields say how to train, and are stepped over. */

use super::proto::{self, Value, fields};
use super::{Archive, Array, Fault, Format, row_major};
use crate::weights::header::MAX_RANK;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;

/// Most arrays in a file, and blobs of one layer. The deepest networks have a thousand.
const MAX_BLOBS: usize = 1 << 14;

/// Whether this is a network of Caffe: protobuf says nothing of what it is, but only this has layers in these fields and
/// no number in the first.
pub fn is_caffe(bytes: &[u8]) -> bool {
    let mut fields = fields(bytes, 0..bytes.len()).map_while(Result::ok);
    fields.find(|f| !matches!(f, (3.., _))).is_some_and(|f| matches!(f, (1..=2, Value::Bytes(_))))
        && fields.any(|f| matches!(f, (2 | 100, Value::Bytes(_))))
}

/// All blobs of the network.
pub fn read(bytes: &[u8]) -> Result<Archive, Fault> {
    let mut notes = BTreeMap::from([("layout".to_string(), "OIHW".to_string())]);
    let mut arrays = Vec::new();
    for field in fields(bytes, 0..bytes.len()) {
        match field? {
            (1, name) => drop(notes.insert("network".to_string(), proto::text(bytes, &name)?)),
            (2, Value::Bytes(old)) => layer(bytes, old, 4, 6, &mut arrays)?,
            (100, Value::Bytes(new)) => layer(bytes, new, 1, 7, &mut arrays)?,
            _ => {}
        }
    }
    if arrays.is_empty() {
        return Err(Fault::at(0, "no layer with weights: no .caffemodel, or one that is written for training only"));
    }
    Archive { format: Format::Caffe, arrays, notes, beside: Vec::new() }.check(bytes.len())
}

/// The blobs of a layer, whose name and blobs are in the fields of these numbers.
fn layer(bytes: &[u8], range: Range<usize>, name: u64, blob: u64, arrays: &mut Vec<Array>) -> Result<(), Fault> {
    let (mut own, mut blobs) = (String::new(), Vec::new());
    let start = range.start;
    for field in fields(bytes, range) {
        match field? {
            (n, value @ Value::Bytes(_)) if n == name => own = proto::text(bytes, &value)?,
            (n, Value::Bytes(range)) if n == blob => blobs.push(range),
            // The layers of 2013 hold another layer inside, with the name and the blobs.
            (1, Value::Bytes(range)) if name == 4 => {
                return Err(Fault::at(
                    range.start,
                    "a layer of before 2014; upgrade the file with upgrade_net_proto_binary",
                ));
            }
            _ => {}
        }
        if arrays.len() + blobs.len() > MAX_BLOBS {
            return Err(Fault::at(start, format!("more than {MAX_BLOBS} blobs")));
        }
    }
    for (i, range) in blobs.into_iter().enumerate() {
        let name = format!("{own}/{i}");
        arrays.push(
            array(bytes, range, i, name.clone())
                .map_err(|e| Fault::of(format!("blob `{name}`, {}", e.place), e.problem))?,
        );
    }
    Ok(())
}

/// BlobProto, the `i`-th of its layer.
fn array(bytes: &[u8], blob: Range<usize>, i: usize, name: String) -> Result<Array, Fault> {
    let (mut shape, mut old) = (None, [None; 4]);
    for field in fields(bytes, blob.clone()) {
        match field? {
            (n @ 1..=4, Value::Number(extent)) => {
                old[n as usize - 1] = Some(usize::try_from(extent).unwrap_or(usize::MAX))
            }
            (7, Value::Bytes(range)) => {
                let mut extents = Vec::new();
                for dim in fields(bytes, range) {
                    if let (1, value) = dim? {
                        proto::numbers(bytes, &value, MAX_RANK, &mut extents)?;
                    }
                }
                shape = Some(extents);
            }
            _ => {}
        }
    }
    // Before shapes every blob had four extents, of which those that it does without are 1 and come first.
    let shape = match (shape, old.map(|n| n.unwrap_or(1))) {
        (Some(shape), _) => shape,
        (None, [1, 1, out, inputs]) if i == 0 => vec![out, inputs],
        (None, [1, 1, 1, out]) => vec![out],
        (None, all) => all.to_vec(),
    };
    let (mut dtype, (mut size, mut place)) = (Dtype::F32, proto::values(bytes, blob.clone(), 5, 4)?);
    if size == 0 {
        (dtype, (size, place)) = (Dtype::F64, proto::values(bytes, blob.clone(), 8, 8)?);
    }
    let wanted = shape.iter().try_fold(dtype.bitsize() / 8, |a, n| a.checked_mul(*n));
    if wanted != Some(size) || size == 0 {
        return Err(Fault::at(blob.start, format!("{size} bytes of values for {shape:?}")));
    }
    Ok(Array { name, dtype, strides: row_major(&shape), shape, place })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fixture, in_order, reference, tensors, torment};
    use super::*;

    /// A field of bytes, or a message.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let key = (number as u32) << 3 | 2;
        let varint = |n: u32| [n as u8 & 127 | 128, (n >> 7) as u8 & 127 | 128, (n >> 14) as u8];
        [&varint(key), &varint(bytes.len() as u32), bytes].concat()
    }

    #[test]
    fn both_forms_hold_the_networks_values() {
        let plain = in_order(&reference("torchvision.safetensors"));
        for (name, last, classes) in [("caffe-v1.caffemodel", "fc8", 10), ("caffe.caffemodel", "fc8a", 11)] {
            let file = fixture(name);
            assert!(is_caffe(&file));
            let archive = read(&file).unwrap();
            let own: Vec<&str> = archive.arrays.iter().map(|a| a.name.as_str()).collect();
            assert_eq!((own.len(), own[0], own[1], own[26]), (32, "conv1_1/0", "conv1_1/1", "fc6/0"));
            assert_eq!(own[30..], [format!("{last}/0"), format!("{last}/1")]);
            assert!(archive.arrays.iter().all(|a| matches!(a.place, super::super::ArrayData::Mapped(_))));
            let tensors = tensors(&archive, &file);
            for (own, want) in own.iter().zip(&plain).take(30) {
                assert_eq!(&tensors[*own], want, "{name}: {own}");
            }
            let (shape, values) = &tensors[own[30]];
            assert_eq!((&shape[..], &values[..90]), (&[classes, 9][..], &plain[30].1[..]));
        }
        assert_eq!(read(&fixture("caffe-v1.caffemodel")).unwrap().notes["network"], "VGG_ILSVRC_16_layers");
    }

    #[test]
    fn floats_need_not_be_packed_and_may_be_doubles() {
        let loose: Vec<u8> = [1f32, 2.0].iter().flat_map(|v| [&[45], &v.to_le_bytes()[..]].concat()).collect();
        let double = field(8, &[1f64, 2.0].map(f64::to_le_bytes).concat());
        for (blob, dtype) in [(loose, Dtype::F32), (double, Dtype::F64)] {
            let blob = [&field(7, &field(1, &[2]))[..], &blob].concat();
            let file = field(100, &[field(1, b"a"), field(7, &blob)].concat());
            let archive = read(&file).unwrap();
            assert_eq!(archive.arrays[0].dtype, dtype);
            assert_eq!(tensors(&archive, &file)["a/0"], (vec![2], vec![1.0, 2.0]));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |blob: &[u8]| field(100, &[field(1, b"a"), field(7, blob)].concat());
        let shape = |dims: &[u8]| field(7, &field(1, dims));
        let huge = [vec![255, 255, 255, 255, 255, 255, 255, 255, 127], vec![2]].concat();
        let value = field(5, &[0; 8]);
        let a = with(&[shape(&[2]), value.clone()].concat());
        assert!(read(&a).is_ok());
        for (file, want) in [
            (with(&[shape(&[3]), value.clone()].concat()), "blob `a/0`, byte 19: 8 bytes of values for [3]"),
            (with(&[shape(&huge), value.clone()].concat()), "8 bytes of values for [9223372036854775807, 2]"),
            (with(&[shape(&[1; 17]), value.clone()].concat()), "more than 16 extents"),
            (with(&field(5, &[0; 7])), "7 bytes of values of 4"),
            (with(&shape(&[0])), "0 bytes of values for [0]"),
            (with(&[9, 8]), "blob `a/0`, byte 20: 8 bytes, of which 1 are there"),
            ([a.clone(), a.clone()].concat(), "tensor `a/0`: the name is empty or comes twice"),
            (field(2, &field(1, b"")), "a layer of before 2014; upgrade the file with upgrade_net_proto_binary"),
            (field(1, b"net"), "no layer with weights"),
            (field(1, &[b'n'; 5000]), "a name of 5000 bytes"),
            (field(100, &field(7, b"").repeat(MAX_BLOBS + 1)), "more than 16384 blobs"),
            (b"hello".to_vec(), "byte 2: no protobuf: a field of wire type 4"),
        ] {
            let e = read(&file).unwrap_err();
            assert!(format!("{}: {}", e.place, e.problem).contains(want), "{e:?}\n{want}");
        }
    }

    #[test]
    fn damage_is_refused_or_harmless() {
        // Cut between two layers it is a smaller network, which the importer refuses for the layers that are missing.
        let whole = |bytes: &[u8]| match read(bytes)? {
            a if a.arrays.len() < 32 => Err(Fault::at(bytes.len(), "layers are missing")),
            a => Ok(a),
        };
        torment(whole, &fixture("caffe-v1.caffemodel"), 2000);
        torment(whole, &fixture("caffe.caffemodel"), 2000);
    }
}
