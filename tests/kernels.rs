//! What holds for every registered kernel.

use deep_affect::ops;
use std::path::Path;

/// `BLESS=1` writes the file instead.
#[test]
fn args_cuh_is_what_the_crate_declares() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/args.cuh");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, ops::args()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, ops::args(), "run `BLESS=1 cargo test --test kernels` and look at the difference");
}
