use super::proto::Message;
use super::torch;
use std::io::Write;

#[test]
fn the_wire_format_of_the_encoding_guide() {
    // The examples of protobuf.dev/programming-guides/encoding.
    let bytes = |m: &Message| {
        let mut v = vec![];
        m.write(&mut v).unwrap();
        v
    };
    assert_eq!(bytes(&Message::default().int(1, 150)), [0x08, 0x96, 0x01]);
    assert_eq!(bytes(&Message::default().text(2, "testing")), b"\x12\x07testing");
    let inner = || Message::default().int(1, 150);
    assert_eq!(bytes(&Message::default().message(3, inner())), [0x1a, 0x03, 0x08, 0x96, 0x01]);
    assert_eq!(bytes(&Message::default().ints(6, [3, 270])), [0x30, 0x03, 0x30, 0x8e, 0x02]);
    assert_eq!(bytes(&Message::default().int(1, -2))[1..], [0xfe, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    assert_eq!(bytes(&Message::default().float(16, 1.0)), [0x85, 0x01, 0, 0, 0x80, 0x3f]);
    // Promised bytes count in every message around them.
    let late = Message::default().values(9, 300, Box::new(|w: &mut dyn Write| w.write_all(&[7; 300]))).int(1, 1);
    let got = bytes(&Message::default().messages(7, [late, inner()]));
    assert_eq!(got[..6], [0x3a, 0xb1, 0x02, 0x4a, 0xac, 0x02]);
    assert_eq!((got[306..].to_vec(), got[6..306] == [7; 300]), (vec![0x08, 1, 0x3a, 3, 0x08, 0x96, 1], true));
}

#[test]
fn names_are_torchvisions() {
    let of = |names: &[&str]| torch::names(names.iter().copied());
    let layers = |blocks: &[usize]| {
        let layer = |(b, n): (usize, &usize)| (1..=*n).map(move |i| format!("conv{b}_{i}.weight"));
        (1..).zip(blocks).flat_map(layer).collect::<Vec<_>>()
    };
    use crate::weights::names::tests::{VGG16, VGG19};
    for (blocks, places) in [([2, 2, 3, 3, 3], &VGG16[..]), ([2, 2, 4, 4, 4], &VGG19)] {
        let ours = layers(&blocks);
        let theirs: Vec<String> = places.iter().map(|i| format!("features.{i}.weight")).collect();
        assert_eq!(torch::names(ours.iter().map(String::as_str)), theirs);
    }
    let fused = ["object.conv1_1.weight", "object.conv2_1.bias", "object.fc1.weight", "object.fc3.bias"];
    let theirs = ["object.features.0.weight", "object.features.3.bias", "object.classifier.0.weight"];
    assert_eq!(of(&fused)[..3], theirs);
    let head =
        ["arousal.head.features.mean", "arousal.head.fc1.weight", "arousal.head.fc2.bias", "arousal.head.out.bias"];
    let theirs = ["arousal.head.features.mean", "arousal.head.0.weight", "arousal.head.3.bias", "arousal.head.6.bias"];
    assert_eq!(of(&head), theirs);
    assert_eq!(of(&["head.out.weight"]), ["head.0.weight"]);
    // Not ours to rename: these are the networks' own.
    for name in [
        "fc6.weight",
        "fc.weight",
        "conv1.weight",
        "conv_bn.running_mean",
        "layer1.0.conv1.weight",
        "block1_conv1.weight",
    ] {
        assert_eq!(of(&[name]), [name]);
    }
}
