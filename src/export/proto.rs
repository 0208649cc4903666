/*! The wire format of protobuf (protobuf.dev/programming-guides/encoding), as far as writing ONNX needs it. A message's length
comes before it, so messages are put together first, with tensors as promises that are kept when their turn comes: a file is
never whole in memory. */

use super::Values;
use std::io::{self, Write};

/// A message in pieces.
#[derive(Default)]
pub struct Message<'a> {
    pieces: Vec<Piece<'a>>,
    len: u64,
}

enum Piece<'a> {
    Bytes(Vec<u8>),
    /// So many bytes, and who writes them.
    Values(u64, Values<'a>),
}

/// Wire types.
const VARINT: u32 = 0;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

impl<'a> Message<'a> {
    fn raw(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        match self.pieces.last_mut() {
            Some(Piece::Bytes(b)) => b.extend_from_slice(bytes),
            _ => self.pieces.push(Piece::Bytes(bytes.into())),
        }
    }

    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.raw(&[n as u8 | 0x80]);
            n >>= 7;
        }
        self.raw(&[n as u8]);
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.varint((field << 3 | wire).into());
    }

    pub fn int(mut self, field: u32, n: i64) -> Self {
        self.tag(field, VARINT);
        // Negative numbers take ten bytes, by their two's complement.
        self.varint(n as u64);
        self
    }

    pub fn ints(self, field: u32, all: impl IntoIterator<Item = i64>) -> Self {
        all.into_iter().fold(self, |m, n| m.int(field, n))
    }

    pub fn float(mut self, field: u32, x: f32) -> Self {
        self.tag(field, FIXED32);
        self.raw(&x.to_le_bytes());
        self
    }

    pub fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.tag(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.raw(bytes);
        self
    }

    pub fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// Bytes that are written later.
    pub fn values(mut self, field: u32, len: u64, values: Values<'a>) -> Self {
        self.tag(field, LENGTH);
        self.varint(len);
        self.len += len;
        self.pieces.push(Piece::Values(len, values));
        self
    }

    pub fn message(mut self, field: u32, inner: Message<'a>) -> Self {
        self.tag(field, LENGTH);
        self.varint(inner.len);
        for piece in inner.pieces {
            match piece {
                Piece::Bytes(b) => self.raw(&b),
                Piece::Values(len, values) => {
                    self.len += len;
                    self.pieces.push(Piece::Values(len, values));
                }
            }
        }
        self
    }

    pub fn messages(self, field: u32, all: impl IntoIterator<Item = Message<'a>>) -> Self {
        all.into_iter().fold(self, |m, inner| m.message(field, inner))
    }

    pub fn write(&self, w: &mut dyn Write) -> io::Result<()> {
        self.pieces.iter().try_for_each(|p| match p {
            Piece::Bytes(b) => w.write_all(b),
            Piece::Values(_, values) => values(w),
        })
    }
}
