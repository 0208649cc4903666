/*! Fingerprints of files, of kernels and of cached bytes. SHA-256 names what others check too: weight files. FNV-1a with 128 bits names contents: it is published with test
vectors, has no tables, and at 128 bits an accidental collision among 2^40 pictures has a chance of 2^-49. It is not meant
against an adversary: whoever can write into the cache folder can already choose its contents. The 64-bit checksum is the
same idea by words, because it is taken over every cached byte on every start. */

use crate::error::{Error, Result};
use crate::files;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;

/// SHA-256 as other programs print it: 64 hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// Length and SHA-256 of a file, which is never in memory whole.
pub fn of_file(path: &Path) -> Result<(u64, String)> {
    let mut file = files::open(path).map_err(|e| Error::io(path, "read", e))?;
    let (mut sum, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).map_err(|e| Error::io(path, "read", e))? {
            0 => return Ok((bytes, hexadecimal(sum))),
            n => {
                sum.update(&piece[..n]);
                bytes += n as u64;
            }
        }
    }
}

fn hexadecimal(sum: Sha256) -> String {
    sum.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// FNV-1a, 128 bits (Fowler, Noll & Vo; draft-eastlake-fnv).
#[derive(Clone, Copy)]
pub struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x6c62272e07bb014262b821756295c58d)
    }
}

impl Fnv {
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        const PRIME: u128 = (1 << 88) + 0x13b;
        self.0 = bytes.iter().fold(self.0, |h, &b| (h ^ b as u128).wrapping_mul(PRIME));
        self
    }
    /// A length before the bytes, so that neighbouring fields cannot trade characters.
    pub fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.update(&(bytes.len() as u64).to_le_bytes()).update(bytes)
    }
    pub fn finish(self) -> u128 {
        self.0
    }
}

/// The 128-bit name of a content.
pub fn content(bytes: &[u8]) -> u128 {
    Fnv::default().update(bytes).finish()
}

/// The same as 32 hexadecimal digits.
pub fn content_hex(bytes: &[u8]) -> String {
    format!("{:032x}", content(bytes))
}

/// Detects flipped, lost and moved bytes: four lanes of multiply-and-rotate over little-endian words.
pub fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut lanes = [1_u64, 2, 3, 4].map(|i| i.wrapping_mul(PRIME) ^ bytes.len() as u64);
    let step = |h: u64, word: &[u8]| {
        let mut w = [0; 8];
        w[..word.len()].copy_from_slice(word);
        (h ^ u64::from_le_bytes(w)).wrapping_mul(PRIME).rotate_left(29)
    };
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = step(*lane, word);
        }
    }
    for (lane, word) in lanes.iter_mut().zip(blocks.remainder().chunks(8)) {
        *lane = step(*lane, word);
    }
    lanes.into_iter().fold(0, |h, lane| (h ^ lane ^ (lane >> 31)).wrapping_mul(PRIME).rotate_left(23))
}

/// Bytes of a piece of a [`Sum`].
pub const PIECE: usize = 1 << 20;

/// The checksum of a long content, in two steps so that pieces can be summed side by side: [`checksum`] of the little-endian
/// checksums of its pieces of [`PIECE`] bytes.
pub fn combined(pieces: &[u64]) -> u64 {
    let bytes: Vec<u8> = pieces.iter().flat_map(|p| p.to_le_bytes()).collect();
    checksum(&bytes)
}

/// [`combined`] of what comes bit by bit.
#[derive(Default)]
pub struct Sum {
    piece: Vec<u8>,
    pieces: Vec<u64>,
}

impl Sum {
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            bytes = later;
            if now.len() == PIECE {
                self.pieces.push(checksum(now));
                continue;
            }
            self.piece.extend_from_slice(now);
            if self.piece.len() == PIECE {
                self.pieces.push(checksum(&self.piece));
                self.piece.clear();
            }
        }
    }
    pub fn finish(mut self) -> u64 {
        if !self.piece.is_empty() {
            self.pieces.push(checksum(&self.piece));
        }
        combined(&self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of FIPS 180-4 and of draft-eastlake-fnv.
    #[test]
    fn known_answers() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(content(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(content(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
        assert_eq!(content(b"foobar"), 0x343e1662793c64bf6f0d3597ba446f18);
    }

    #[test]
    fn checksum_sees_every_bit_and_every_length() {
        let bytes: Vec<u8> = (0..101).map(|i| (i * 7) as u8).collect();
        let sum = checksum(&bytes);
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(&other), sum);
        }
        for n in 0..bytes.len() {
            assert_ne!(checksum(&bytes[..n]), sum);
        }
        assert_ne!(checksum(&[0; 8]), checksum(&[0; 9]));
    }

    #[test]
    fn however_it_comes_the_sum_is_that_of_its_pieces() {
        let bytes: Vec<u8> = (0..2 * PIECE + 12345).map(|i| (i * i / 7) as u8).collect();
        for length in [0, 5, PIECE - 1, PIECE, PIECE + 1, bytes.len()] {
            let bytes = &bytes[..length];
            let want = combined(&bytes.chunks(PIECE).map(checksum).collect::<Vec<_>>());
            for step in [1 << 12, PIECE - 3, PIECE, 3 * PIECE] {
                let mut sum = Sum::default();
                bytes.chunks(step).for_each(|part| sum.update(part));
                assert_eq!(sum.finish(), want, "{length} bytes by {step}");
            }
        }
    }
}
