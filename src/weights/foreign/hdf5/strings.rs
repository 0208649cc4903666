//! Attributes that are strings, and the global heap where strings of variable length are.

use super::{Fault, OVERHEAD, Reader};
use std::ops::Range;

impl Reader<'_> {
    /// IV.A.2.m: an attribute that is a string or an array of them; None if it is of another type.
    pub(super) fn attribute(&mut self, data: Range<usize>) -> Result<Option<(String, Vec<String>)>, Fault> {
        let mut c = self.cursor(data, "attribute")?;
        let (version, shared) = (c.number(1)?, c.number(1)?);
        if !(1..=3).contains(&version) {
            return Err(c.fault(format!("version {version} is not supported")));
        }
        if version > 1 && shared != 0 {
            return Ok(None);
        }
        let sizes = [c.size(2)?, c.size(2)?, c.size(2)?];
        c.take(if version == 3 { 1 } else { 0 })?;
        let [name, datatype, space] = sizes.map(|n| {
            c.range(n).and_then(|r| {
                // Version 1 pads each part to a multiple of eight bytes.
                c.take(if version == 1 { n.wrapping_neg() % 8 } else { 0 })?;
                Ok(r)
            })
        });
        let (name, datatype, space) = (self.text(name?)?, datatype?, space?);
        let count = self.count(&self.dataspace(space)?);
        let mut t = self.cursor(datatype, "datatype")?;
        let (class, flags, size) = (t.number(1)? & 15, t.number(3)?, t.size(4)?);
        let mut strings = Vec::new();
        match class {
            3 if size > 0 => {
                for _ in 0..count {
                    let value = c.range(size)?;
                    strings.push(self.text(value)?);
                }
            }
            9 if flags & 15 == 1 => {
                for _ in 0..count {
                    let (size, heap, index) = (c.size(4)?, c.address()?, c.number(4)?);
                    let value = self.heap_object(heap.unwrap_or(0), index, size)?;
                    strings.push(self.text(value)?);
                }
            }
            _ => return Ok(None),
        }
        Ok(Some((name, strings)))
    }

    /// III.E: the first `size` bytes of an object of a global heap.
    pub(super) fn heap_object(&mut self, heap: usize, index: u64, size: usize) -> Result<Range<usize>, Fault> {
        if size == 0 {
            return Ok(0..0);
        }
        if !self.heaps.contains_key(&heap) {
            let mut c = self.cursor_from(heap, "global heap")?;
            c.expect(b"GCOL")?;
            c.take(4)?;
            let all = c.size(8)?;
            let end = self.cursor_from(heap, "global heap")?.range(all)?.end;
            self.spend(heap, all)?;
            let (mut c, mut objects) = (self.cursor(c.at..end, "global heap")?, Vec::new());
            // The object 0 is the free space behind the others; less than a head of it may be left.
            while c.left() >= 16 {
                let index = c.number(2)?;
                c.take(6)?;
                let size = c.size(8)?;
                if index == 0 {
                    break;
                }
                objects.push((index, c.range(size)?));
                c.take(c.left().min(size.wrapping_neg() % 8))?;
            }
            objects.sort_by_key(|o| o.0);
            self.heaps.insert(heap, objects);
        }
        let objects = self.heaps.get(&heap).map_or(&[][..], |o| o);
        let found = objects.binary_search_by_key(&index, |o| o.0).ok().and_then(|i| objects.get(i));
        match found {
            Some((_, r)) if size <= r.len() => Ok(r.start..r.start + size),
            _ => Err(Fault::at(self.base.saturating_add(heap), format!("no object {index} in the global heap"))),
        }
    }

    /// A string up to its first NUL, if there is one.
    pub(super) fn text(&mut self, range: Range<usize>) -> Result<String, Fault> {
        self.spend(range.start, range.len() + OVERHEAD)?;
        let bytes = self.bytes.get(range).unwrap_or(&[]);
        let bytes = bytes.split(|b| *b == 0).next().unwrap_or(&[]);
        Ok(String::from_utf8_lossy(bytes).trim_end_matches(' ').to_string())
    }
}
