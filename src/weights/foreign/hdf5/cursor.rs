//! How the bytes of one structure are read.

use super::Fault;
use std::ops::Range;

/// Reads forward through one structure. Positions are those in the HDF5 file.
pub(super) struct Cursor<'a> {
    /// The file up to the structure's end.
    pub bytes: &'a [u8],
    pub at: usize,
    pub base: usize,
    /// For errors.
    pub what: &'static str,
}

impl<'a> Cursor<'a> {
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn fault(&self, problem: impl std::fmt::Display) -> Fault {
        Fault::at(self.base + self.at, format!("{}: {problem}", self.what))
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let taken = self.bytes.get(self.at..).and_then(|b| b.get(..n));
        let taken = taken.ok_or_else(|| self.fault(format!("{n} bytes where {} are left", self.left())))?;
        self.at += n;
        Ok(taken)
    }

    pub fn range(&mut self, n: usize) -> Result<Range<usize>, Fault> {
        let start = self.at;
        self.take(n)?;
        Ok(start..self.at)
    }

    /// Of 1 to 8 bytes, little endian as everything in HDF5.
    pub fn number(&mut self, bytes: usize) -> Result<u64, Fault> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, b| n << 8 | *b as u64))
    }

    /// A number to count bytes or elements with; what no machine could hold is too large for every file, too.
    pub fn size(&mut self, bytes: usize) -> Result<usize, Fault> {
        Ok(usize::try_from(self.number(bytes)?).unwrap_or(usize::MAX))
    }

    /// None where nothing was ever written.
    pub fn address(&mut self) -> Result<Option<usize>, Fault> {
        Ok(Some(self.size(8)?).filter(|a| *a != usize::MAX))
    }

    pub fn required(&mut self) -> Result<usize, Fault> {
        self.address()?.ok_or_else(|| self.fault("an undefined address"))
    }

    pub fn expect(&mut self, signature: &[u8]) -> Result<(), Fault> {
        match self.bytes.get(self.at..) {
            Some(b) if b.starts_with(signature) => {
                self.at += signature.len();
                Ok(())
            }
            _ => Err(self.fault(format!("does not begin with `{}`", signature.escape_ascii()))),
        }
    }
}
