//! Files of ours as someone leaves them who changes them on purpose.

/// The same file without its checksums, and as of a version of the program that wrote none.
pub fn unsealed(mut bytes: Vec<u8>) -> Vec<u8> {
    for (from, to) in [("\"checksums\"", "\"no_sums__\""), ("deep-affect-checkpoint-2", "deep-affect-checkpoint-1")] {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}
