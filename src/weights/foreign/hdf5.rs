/*! HDF5 as h5py writes it for Keras: HDF5 File Format Specification 3.0, whose sections are named below. A tree of groups
with their string attributes, and datasets whose values stay where they are in the file.

Read: superblocks 0, 2 and 3; object headers 1 and 2; groups as symbol tables and as links in the header; integers and IEEE
floats, little endian; contiguous, compact and chunked values, these deflated or shuffled. Refused by name: fractal heaps
(`libver="latest"` from nine members on), the chunk indices of layout version 4, layouts before version 3, other filters and
types, big-endian numbers, soft and external links, external files, shared messages, a superblock that is not the file's first byte.

The sums behind version 2 structures are not checked: whoever forges a file forges them too, and damage that this reader
cares about shows as an address outside the file. */

use super::{Array, Fault, row_major};
use cursor::Cursor;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

mod chunks;
mod cursor;
mod links;
mod strings;
#[cfg(test)]
mod tests;
mod values;

const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Most groups within groups; Keras needs about two for each model within a model.
const MAX_DEPTH: usize = 32;
/// Bytes of structures (not of values) that may be read, and so a bound of the time and memory that a file can ask for:
/// structures may point at each other any number of times. A large Keras file has 2 MiB.
const MAX_STRUCTURE: usize = 16 << 20;
/// Messages of an object header; one of eight bytes takes four times as much here.
const MAX_MESSAGES: usize = 1 << 16;
/// What an object and a string cost in memory besides their bytes, counted against the same bound.
const OVERHEAD: usize = 96;

#[derive(Debug, Default)]
pub struct HdfGroup {
    /// Attributes that are a string or strings. Others are of no use here.
    pub attributes: BTreeMap<String, Vec<String>>,
    pub members: BTreeMap<String, HdfNode>,
}

#[derive(Debug)]
pub enum HdfNode {
    HdfGroup(HdfGroup),
    Dataset(Dataset),
}

/// Where the messages of a dataset are; [`Reader::array`] reads them when they are wanted, so that a dataset of a strange
/// type does no harm where nobody asks for it.
#[derive(Debug, Default)]
pub struct Dataset {
    space: Option<Range<usize>>,
    datatype: Option<Range<usize>>,
    layout: Option<Range<usize>>,
    filters: Option<Range<usize>>,
    external: bool,
}

/// Whether this is an HDF5 file.
pub fn is_hdf5(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE)
}

impl HdfGroup {
    /// The object at a path of names with `/` between them; no two paths lead to the same one.
    pub fn find(&self, path: &str) -> Option<&HdfNode> {
        let mut names = path.split('/');
        let mut node = self.members.get(names.next()?)?;
        for name in names {
            let HdfNode::HdfGroup(group) = node else { return None };
            node = group.members.get(name)?;
        }
        Some(node)
    }

    pub fn group(&self, path: &str) -> Option<&HdfGroup> {
        match self.find(path)? {
            HdfNode::HdfGroup(group) => Some(group),
            HdfNode::Dataset(_) => None,
        }
    }
}

/// A file and what has been spent on it.
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Of the file's first byte in the file around it; added to every place that leaves this module.
    base: usize,
    spent: usize,
    /// Bytes that chunked arrays are as they stand and unpacked, all together.
    packed: (usize, usize),
    seen: HashSet<usize>,
    heaps: HashMap<usize, Vec<(u64, Range<usize>)>>,
}

/// A header message: its type and its bytes.
struct Message {
    kind: u64,
    data: Range<usize>,
}

impl<'a> Reader<'a> {
    /// The tree of the HDF5 file that is `bytes[within]`. Places and ranges are those of `bytes`.
    pub fn open(bytes: &'a [u8], within: Range<usize>) -> Result<(Self, HdfGroup), Fault> {
        let base = within.start;
        let bytes = bytes.get(within).ok_or_else(|| Fault::at(base, "the HDF5 file is cut off"))?;
        let (seen, heaps) = (HashSet::new(), HashMap::new());
        let mut reader = Self { bytes, base, spent: 0, packed: (0, 0), seen, heaps };
        let root = reader.superblock()?;
        match reader.object(root, 0)? {
            HdfNode::HdfGroup(group) => Ok((reader, group)),
            HdfNode::Dataset(_) => Err(Fault::at(base + root, "the root of the HDF5 file is not a group")),
        }
    }

    /// A dataset as an array under the given name. Errors name `path`.
    pub fn array(&mut self, dataset: &Dataset, path: &str, name: String) -> Result<Array, Fault> {
        let (dtype, shape, place) =
            self.values(dataset).map_err(|e| Fault::of(format!("dataset `{path}`, {}", e.place), e.problem))?;
        Ok(Array { name, dtype, strides: row_major(&shape), shape, place })
    }

    fn cursor(&self, range: Range<usize>, what: &'static str) -> Result<Cursor<'a>, Fault> {
        match self.bytes.get(..range.end) {
            Some(bytes) if range.start <= range.end => Ok(Cursor { bytes, at: range.start, base: self.base, what }),
            _ => Err(Fault::at(
                self.base.saturating_add(range.start),
                format!("{what} up to byte {} of a file of {}", range.end, self.bytes.len()),
            )),
        }
    }

    fn cursor_from(&self, at: usize, what: &'static str) -> Result<Cursor<'a>, Fault> {
        self.cursor(at..self.bytes.len(), what)
    }

    fn spend(&mut self, at: usize, bytes: usize) -> Result<(), Fault> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > MAX_STRUCTURE {
            return Err(Fault::at(
                self.base.saturating_add(at),
                format!("more than {} MiB of groups and attributes, or a circle of them", MAX_STRUCTURE >> 20),
            ));
        }
        Ok(())
    }

    /// II.A: the address of the root group's header.
    fn superblock(&self) -> Result<usize, Fault> {
        let mut c = self.cursor_from(0, "superblock")?;
        c.expect(SIGNATURE)?;
        let version = c.number(1)?;
        match version {
            0 => c.take(4)?,
            2 | 3 => &[],
            v => return Err(c.fault(format!("version {v} is not supported"))),
        };
        let (offsets, lengths) = (c.number(1)?, c.number(1)?);
        if (offsets, lengths) != (8, 8) {
            return Err(c.fault(format!("addresses of {offsets} and lengths of {lengths} bytes; only 8 are supported")));
        }
        c.take(if version == 0 { 9 } else { 1 })?;
        let first = c.address()?;
        // Free space, or the superblock's extension: neither matters to a reader.
        c.take(8)?;
        let end = c.address()?;
        // Driver information, then the root's symbol table entry, which begins with the offset of a name.
        c.take(if version == 0 { 16 } else { 0 })?;
        let root = c.address()?;
        if first != Some(0) {
            return Err(c.fault("a base address; only files that begin with their superblock are supported"));
        }
        match (root, end) {
            (Some(root), Some(end)) if end <= self.bytes.len() => Ok(root),
            (Some(_), Some(end)) => Err(Fault::at(
                self.base,
                format!("truncated: the superblock speaks of {end} bytes, the file has {}", self.bytes.len()),
            )),
            _ => Err(c.fault("no root group")),
        }
    }

    /// What the header at `at` describes, with everything below it.
    fn object(&mut self, at: usize, depth: usize) -> Result<HdfNode, Fault> {
        let place = self.base.saturating_add(at);
        let refuse = |problem: &str| Err(Fault::at(place, problem));
        if depth > MAX_DEPTH {
            return refuse("groups nested more than 32 deep");
        }
        // Keras never links an object twice; whoever does may as well link a group to itself.
        if !self.seen.insert(at) {
            return refuse("an object with a second link to it, or a circle of groups");
        }
        self.spend(at, OVERHEAD)?;
        let (mut group, mut dataset, mut links) = (HdfGroup::default(), Dataset::default(), Vec::new());
        let messages = self.messages(at)?;
        let is_group = messages.iter().any(|m| matches!(m.kind, 0x02 | 0x06 | 0x11));
        for Message { kind, data } in messages {
            match kind {
                0x01 => dataset.space = Some(data),
                0x02 => self.undense(data, 8, "links")?,
                0x03 => dataset.datatype = Some(data),
                0x06 => links.push(self.link(data)?),
                0x07 => dataset.external = true,
                0x08 => dataset.layout = Some(data),
                0x0b => dataset.filters = Some(data),
                0x0c => group.attributes.extend(self.attribute(data)?),
                0x11 => self.symbol_table(data, &mut links)?,
                0x15 => self.undense(data, 2, "attributes")?,
                _ => {}
            }
        }
        match (is_group, dataset.layout.is_some()) {
            (true, false) => {}
            (false, true) => return Ok(HdfNode::Dataset(dataset)),
            _ => return refuse("an object that is neither a group nor a dataset"),
        }
        for (name, target) in links {
            let node = self.object(target, depth + 1)?;
            if group.members.insert(name, node).is_some() {
                return refuse("a group with two members of one name");
            }
        }
        Ok(HdfNode::HdfGroup(group))
    }

    /// IV.A.1: the messages of an object header, continuation blocks included.
    fn messages(&mut self, at: usize) -> Result<Vec<Message>, Fault> {
        let mut c = self.cursor_from(at, "object header")?;
        let v2 = c.bytes.get(at..).is_some_and(|b| b.starts_with(b"OHDR"));
        c.take(if v2 { 4 } else { 0 })?;
        let version = c.number(1)?;
        if version != if v2 { 2 } else { 1 } {
            return Err(c.fault(format!("version {version} is not supported")));
        }
        let flags = c.number(1)?;
        let (width, ordered) = if v2 {
            // Four times, and how many attributes make them move out.
            c.take(if flags & 0x20 != 0 { 16 } else { 0 } + if flags & 0x10 != 0 { 4 } else { 0 })?;
            (1 << (flags & 3), flags & 4 != 0)
        } else {
            c.take(6)?;
            (4, false)
        };
        let first = c.size(width)?;
        c.take(if v2 { 0 } else { 4 })?;
        let (mut blocks, mut all) = (vec![c.range(first)?], Vec::new());
        let head = if !v2 { 8 } else { 4 + if ordered { 2 } else { 0 } };
        while let Some(block) = blocks.pop() {
            self.spend(block.start, block.len())?;
            let mut c = self.cursor(block, "object header")?;
            while c.left() >= head {
                let kind = c.number(if v2 { 1 } else { 2 })?;
                let (size, flags) = (c.size(2)?, c.number(1)?);
                c.take(head - if v2 { 4 } else { 5 })?;
                let data = c.range(size)?;
                match kind {
                    0x10 => blocks.push(self.continuation(data, v2)?),
                    _ if flags & 2 != 0 => return Err(c.fault(format!("shared messages ({kind}) are not supported"))),
                    _ if all.len() == MAX_MESSAGES => return Err(c.fault(format!("more than {MAX_MESSAGES} messages"))),
                    _ => all.push(Message { kind, data }),
                }
            }
        }
        Ok(all)
    }

    /// IV.A.2.q: the block that a header goes on in, without its signature and sum.
    fn continuation(&self, data: Range<usize>, v2: bool) -> Result<Range<usize>, Fault> {
        let mut c = self.cursor(data, "object header continuation")?;
        let (at, size) = (c.required()?, c.size(8)?);
        let mut c = self.cursor_from(at, "object header continuation")?;
        let size = if v2 {
            c.expect(b"OCHK")?;
            size.checked_sub(8).ok_or_else(|| c.fault("is cut off"))?
        } else {
            size
        };
        c.range(size)
    }
}
