/*! What a dataset holds: its extents, its type and where its values are (IV.A.2.b, d, i and l). */

use super::chunks::Chunks;
use super::{Dataset, Fault, Reader};
use crate::weights::foreign::ArrayData;
use safetensors::Dtype;
use std::ops::Range;

/// Classes of datatypes, by number.
const CLASSES: [&str; 11] = [
    "integer",
    "float",
    "time",
    "string",
    "bit field",
    "opaque",
    "compound",
    "reference",
    "enumeration",
    "variable-length",
    "array",
];

/// How the filters that are understood undo what was done to a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Deflate,
    /// First bytes of all elements of this size, then all second ones, and so on.
    Shuffle(usize),
}

impl Reader<'_> {
    /// Element type, extents and place of a dataset's values.
    pub(super) fn values(&mut self, dataset: &Dataset) -> Result<(Dtype, Vec<usize>, ArrayData), Fault> {
        let start =
            Fault::at(self.base, "has no values: no dataspace, no datatype or no layout, or values in another file");
        let (Some(space), Some(datatype), Some(layout), false) =
            (dataset.space.clone(), dataset.datatype.clone(), dataset.layout.clone(), dataset.external)
        else {
            return Err(start);
        };
        let shape = self.dataspace(space)?.unwrap_or(vec![0]);
        let dtype = self.datatype(datatype)?;
        let mut c = self.cursor(layout, "layout")?;
        let size = shape.iter().try_fold(dtype.bitsize() / 8, |a, n| a.checked_mul(*n));
        let size = size.ok_or_else(|| c.fault("more bytes than can be counted"))?;
        let (version, class) = (c.number(1)?, c.number(1)?);
        let stored = match (version, class) {
            (3 | 4, 0) => {
                let size = c.size(2)?;
                c.range(size)?
            }
            (3 | 4, 1) => {
                let (at, size) = (c.address()?, c.size(8)?);
                match at {
                    Some(at) => self.cursor_from(at, "values")?.range(size)?,
                    None => 0..0,
                }
            }
            (3, 2) => {
                let rank = c.size(1)?;
                let tree = c.address()?;
                let chunk: Vec<usize> = (0..rank).map(|_| c.size(4)).collect::<Result<_, _>>()?;
                let (Some((element, chunk)), Some(tree)) = (chunk.split_last(), tree) else {
                    return Err(c.fault("chunks that were never written"));
                };
                if *element != dtype.bitsize() / 8 || chunk.len() != shape.len() {
                    return Err(c.fault(format!("chunks of {} extents and {element} bytes an element", chunk.len())));
                }
                let filters = self.filters(dataset.filters.clone(), *element)?;
                let chunks = Chunks::find(self, tree, &shape, chunk, *element, filters)?;
                return Ok((dtype, shape, ArrayData::Packed(size, Box::new(move |file| chunks.unpack(file)))));
            }
            (4, 2) => return Err(c.fault("a chunk index of version 4; write the file without libver=\"latest\"")),
            _ => return Err(c.fault(format!("class {class} of version {version} is not supported"))),
        };
        if stored.len() != size {
            return Err(c.fault(format!("{size} bytes of values, of which {} are stored", stored.len())));
        }
        let [start, end] = [stored.start, stored.end].map(|at| self.base.saturating_add(at));
        Ok((dtype, shape, ArrayData::Mapped(start..end)))
    }

    /// The extents; None for a dataspace without elements.
    pub(super) fn dataspace(&self, data: Range<usize>) -> Result<Option<Vec<usize>>, Fault> {
        let mut c = self.cursor(data, "dataspace")?;
        let (version, rank) = (c.number(1)?, c.number(1)?);
        c.take(1)?;
        let null = match version {
            1 => c.take(5)? == b"",
            2 => c.number(1)? == 2,
            v => return Err(c.fault(format!("version {v} is not supported"))),
        };
        let extents = (0..rank).map(|_| c.size(8)).collect::<Result<_, _>>()?;
        Ok(if null { None } else { Some(extents) })
    }

    /// Elements of a dataspace; what is too much to count is more than any message holds.
    pub(super) fn count(&self, extents: &Option<Vec<usize>>) -> usize {
        extents.as_ref().map_or(0, |e| e.iter().fold(1, |a, n| a.saturating_mul(*n)))
    }

    fn datatype(&self, data: Range<usize>) -> Result<Dtype, Fault> {
        let mut c = self.cursor(data, "datatype")?;
        let (class, flags, size) = (c.number(1)? & 15, c.number(3)?, c.size(4)?);
        let name = CLASSES.get(class as usize).unwrap_or(&"unknown");
        let unsupported = |why: &str| Err(c.fault(format!("{name} of {size} bytes{why} is not supported")));
        if class > 1 {
            return unsupported("");
        }
        // Bit 0 alone is big endian; with bit 6, a float's, it is the VAX's order.
        if flags & 0x41 != 0 {
            return unsupported(", big endian,");
        }
        let properties = self.cursor(c.at..c.bytes.len(), "datatype")?.take(if class == 0 { 4 } else { 12 })?;
        // Bit offset and precision; for floats, where exponent and mantissa begin and how long they are, and the bias.
        Ok(match (class, size, flags >> 3 & 1, properties) {
            (0, 1, 0, [0, 0, 8, 0]) => Dtype::U8,
            (0, 1, 1, [0, 0, 8, 0]) => Dtype::I8,
            (0, 2, 0, [0, 0, 16, 0]) => Dtype::U16,
            (0, 2, 1, [0, 0, 16, 0]) => Dtype::I16,
            (0, 4, 0, [0, 0, 32, 0]) => Dtype::U32,
            (0, 4, 1, [0, 0, 32, 0]) => Dtype::I32,
            (0, 8, 0, [0, 0, 64, 0]) => Dtype::U64,
            (0, 8, 1, [0, 0, 64, 0]) => Dtype::I64,
            (1, 2, _, [0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0]) => Dtype::F16,
            (1, 4, _, [0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0]) => Dtype::F32,
            (1, 8, _, [0, 0, 64, 0, 52, 11, 0, 52, 255, 3, 0, 0]) => Dtype::F64,
            _ => return unsupported(" in that form"),
        })
    }

    /// The filters a chunk went through, in that order.
    fn filters(&self, data: Option<Range<usize>>, element: usize) -> Result<Vec<Filter>, Fault> {
        let Some(data) = data else { return Ok(Vec::new()) };
        let mut c = self.cursor(data, "filters")?;
        let (version, count) = (c.number(1)?, c.number(1)?);
        c.take(if version == 1 { 6 } else { 0 })?;
        let mut filters = Vec::new();
        for _ in 0..count {
            let id = c.number(2)?;
            // Version 2 names no filter of the standard.
            let name = if version == 1 || id >= 256 { c.size(2)? } else { 0 };
            c.take(2)?;
            let numbers = c.size(2)?;
            c.take(name)?;
            let first = if numbers > 0 { c.size(4)? } else { 0 };
            let padded = if version == 1 && numbers % 2 == 1 { numbers + 1 } else { numbers };
            c.take(4 * padded.saturating_sub(1))?;
            filters.push(match id {
                1 => Filter::Deflate,
                2 if first == element => Filter::Shuffle(element),
                2 => return Err(c.fault(format!("shuffled as elements of {first} bytes, which they are not"))),
                _ => return Err(c.fault(format!("filter {id}; only deflate (1) and shuffle (2) are supported"))),
            });
        }
        Ok(filters)
    }
}
