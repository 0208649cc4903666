/*! Protocol buffers as they lie in a file: the encoding of protobuf.dev/programming-guides/encoding, walked field by field
and never built into a tree. A message inside a message is a range that its reader walks if it knows the field, so nothing
here nests, and what is not known is stepped over. */

use super::{ArrayData, Fault};
use std::ops::Range;

/// Fields that a message may always have. Beyond that they must be four bytes long on average, as the shortest that any
/// number of is of use are: a float is five.
const FREE_FIELDS: usize = 1 << 20;

/// Bytes of a name.
const MAX_NAME: usize = 1 << 12;

/// What a field holds. Ranges are of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    /// 4 or 8 bytes, little endian.
    Fixed(Range<usize>),
    /// A string, bytes, a message, or packed numbers.
    Bytes(Range<usize>),
}

/// The fields of the message in `range`, in order, until one that is broken.
pub fn fields(bytes: &[u8], range: Range<usize>) -> Fields<'_> {
    let (at, end) = (range.start, range.end.min(bytes.len()));
    Fields { bytes: bytes.get(..end).unwrap_or(bytes), at, left: FREE_FIELDS.max(range.len() / 4) }
}

pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    left: usize,
}

impl Fields<'_> {
    fn varint(&mut self) -> Result<u64, Fault> {
        let (start, mut value) = (self.at, 0);
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| Fault::at(start, "a number is cut off"))?;
            self.at += 1;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(Fault::at(start, "a number of more than 64 bits"))
    }

    fn range(&mut self, size: u64) -> Result<Range<usize>, Fault> {
        let end = usize::try_from(size).ok().and_then(|n| self.at.checked_add(n)).filter(|e| *e <= self.bytes.len());
        let problem = || format!("{size} bytes, of which {} are there", self.bytes.len().saturating_sub(self.at));
        let range = self.at..end.ok_or_else(|| Fault::at(self.at, problem()))?;
        self.at = range.end;
        Ok(range)
    }

    fn field(&mut self) -> Result<(u64, Value), Fault> {
        let start = self.at;
        self.left = self.left.checked_sub(1).ok_or_else(|| Fault::at(start, "too many fields that are too short"))?;
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Fixed(self.range(8)?),
            2 => {
                let size = self.varint()?;
                Value::Bytes(self.range(size)?)
            }
            5 => Value::Fixed(self.range(4)?),
            kind => return Err(Fault::at(start, format!("no protobuf: a field of wire type {kind}"))),
        };
        match key >> 3 {
            0 => Err(Fault::at(start, "no protobuf: a field of number 0")),
            number => Ok((number, value)),
        }
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(u64, Value), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

/// A name.
pub fn text(bytes: &[u8], value: &Value) -> Result<String, Fault> {
    match value {
        Value::Bytes(r) if r.len() <= MAX_NAME => {
            Ok(String::from_utf8_lossy(bytes.get(r.clone()).unwrap_or(&[])).into_owned())
        }
        Value::Bytes(r) => {
            Err(Fault::at(r.start, format!("a name of {} bytes, at most {MAX_NAME} are supported", r.len())))
        }
        _ => Ok(String::new()),
    }
}

/// Adds the numbers of a repeated field, packed or not, `most` at most.
pub fn numbers(bytes: &[u8], value: &Value, most: usize, to: &mut Vec<usize>) -> Result<(), Fault> {
    let mut push = |at: usize, n: u64| {
        to.push(usize::try_from(n).unwrap_or(usize::MAX));
        if to.len() > most { Err(Fault::at(at, format!("more than {most} extents"))) } else { Ok(()) }
    };
    match value {
        Value::Number(n) => push(0, *n),
        Value::Fixed(r) => Err(Fault::at(r.start, "a float where an extent should be")),
        Value::Bytes(r) => {
            let mut packed = fields(bytes, r.clone());
            while packed.at < packed.bytes.len() {
                let at = packed.at;
                push(at, packed.varint()?)?;
            }
            Ok(())
        }
    }
}

/// All values of one field of `width` bytes a value, and how many bytes they are. Writers pack them into one run, which is
/// left where it lies; otherwise they are gathered when they are asked for.
pub fn values(bytes: &[u8], message: Range<usize>, field: u64, width: usize) -> Result<(usize, ArrayData), Fault> {
    let (mut size, mut runs, mut first) = (0, 0, 0..0);
    for run in self::runs(bytes, message.clone(), field) {
        let run = run?;
        if run.len() % width != 0 {
            return Err(Fault::at(run.start, format!("{} bytes of values of {width}", run.len())));
        }
        size += run.len();
        if runs == 0 {
            first = run;
        }
        runs += 1;
    }
    if runs <= 1 {
        return Ok((size, ArrayData::Mapped(first)));
    }
    let gather = move |file: &[u8]| {
        let mut out = Vec::with_capacity(size);
        for run in self::runs(file, message.clone(), field) {
            out.extend_from_slice(file.get(run?).unwrap_or(&[]));
        }
        Ok(out)
    };
    Ok((size, ArrayData::Packed(size, Box::new(gather))))
}

/// Where the values of a field are: each fixed one, each packed run.
fn runs(bytes: &[u8], message: Range<usize>, field: u64) -> impl Iterator<Item = Result<Range<usize>, Fault>> {
    fields(bytes, message).filter_map(move |f| match f {
        Ok((n, Value::Fixed(r) | Value::Bytes(r))) if n == field => Some(Ok(r)),
        Ok(_) => None,
        Err(e) => Some(Err(e)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_in_order_until_one_is_broken() {
        // Field 1 number 300, field 2 bytes "ab", field 3 of 4 bytes, field 4 of 8; the guide's own example first.
        let good = [8, 0xac, 2, 18, 2, b'a', b'b', 29, 0, 0, 128, 63, 33, 0, 0, 0, 0, 0, 0, 0, 0];
        let all: Vec<_> = fields(&good, 0..good.len()).map(Result::unwrap).collect();
        let want =
            [(1, Value::Number(300)), (2, Value::Bytes(5..7)), (3, Value::Fixed(8..12)), (4, Value::Fixed(13..21))];
        assert_eq!(all, want);
        for (bytes, want) in [
            (&[8][..], "byte 1: a number is cut off"),
            (&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], "byte 1: a number of more than 64 bits"),
            (&[18, 3, 0, 0], "byte 2: 3 bytes, of which 2 are there"),
            (&[18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], "byte 11: 18446744073709551615 bytes"),
            (&[29, 0, 0, 0], "byte 1: 4 bytes, of which 3 are there"),
            (&[11, 12], "byte 0: no protobuf: a field of wire type 3"),
            (&[0, 0], "byte 0: no protobuf: a field of number 0"),
        ] {
            let mut broken = fields(bytes, 0..bytes.len());
            let e = broken.next().unwrap().unwrap_err();
            assert!(format!("{}: {}", e.place, e.problem).starts_with(want), "{e:?}");
            assert!(broken.next().is_none());
        }
        // A million fields are enough of what says nothing.
        let many = [8, 0].repeat(FREE_FIELDS + 1);
        assert!(fields(&many, 0..many.len()).any(|f| f.is_err()));
    }

    #[test]
    fn values_lie_in_one_run_or_are_gathered() {
        let one = [42, 8, 0, 0, 0, 0, 0, 0, 128, 63];
        assert!(matches!(values(&one, 0..10, 5, 4).unwrap(), (8, ArrayData::Mapped(r)) if r == (2..10)));
        let loose = [45, 0, 0, 0, 0, 8, 1, 45, 0, 0, 128, 63, 42, 4, 0, 0, 0, 64];
        let (12, ArrayData::Packed(12, gather)) = values(&loose, 0..18, 5, 4).unwrap() else { panic!("three floats") };
        assert_eq!(gather(&loose).unwrap(), bytemuck::cast_slice::<f32, u8>(&[0.0, 1.0, 2.0]));
        assert!(values(&one, 0..10, 5, 16).is_err());
        assert!(values(&one, 0..9, 5, 4).is_err());
        assert!(matches!(values(&one, 0..10, 6, 4).unwrap(), (0, ArrayData::Mapped(_))));
    }
}
