//! Every published network: parameter counts, size limits, gradients, a few steps of training.

use deep_affect::graph::{Graph, Kind, Value};
use deep_affect::models::{self, Network, Size};
use deep_affect::nn::{Mode, Net};
use deep_affect::shape::Type;

/// A network on `n` images of side `image`: graph, images, outputs.
fn built(network: &Network, mode: Mode, n: usize, image: usize, size: Size) -> (Graph, Value, Value) {
    let mut g = Graph::default();
    let x = g.input("image", Type::f32(&[n, image, image, 3]));
    let y = (network.build)(&mut Net::new(&mut g, mode), x, size);
    (g, x, y)
}

#[test]
fn published_parameter_counts() {
    for network in models::ALL {
        let (g, _, y) = built(network, Mode::Eval, 1, network.image, network.size());
        g.check().unwrap();
        assert_eq!(g.dims(y), [1, network.outputs], "{}", network.name);
        let count = |kind| g.of_kind(kind).map(|v| g.ty(v).numel()).sum::<usize>();
        assert_eq!(count(Kind::Param), network.parameters, "{}", network.name);
        assert_eq!(count(Kind::State), network.statistics, "{}", network.name);
    }
}

#[test]
fn smallest_images() {
    for network in models::ALL {
        let size = Size { width: 16, outputs: 3 };
        let (g, _, y) = built(network, Mode::Eval, 2, network.smallest, size);
        g.check().unwrap();
        assert_eq!(g.dims(y), [2, 3], "{}", network.name);
        if network.smallest > 1 {
            let (g, ..) = built(network, Mode::Eval, 2, network.smallest - 1, size);
            let e = g.check().expect_err(network.name).to_string();
            assert!(e.contains("does not fit"), "{}: {e}", network.name);
        }
    }
}

#[test]
fn unknown_names_are_answered_with_the_list() {
    let e = models::find("vgg17").err().unwrap().to_string();
    assert!(models::ALL.iter().all(|n| e.contains(n.name)), "{e}");
    assert!(models::ALL.iter().all(|n| models::find(n.name).unwrap().name == n.name));
}
