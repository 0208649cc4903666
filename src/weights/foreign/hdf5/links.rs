//! The members of groups, by links in the header or by symbol tables, and the B-trees that these and chunks are found by.

use super::{Fault, OVERHEAD, Reader};
use std::ops::Range;

/// Bytes of a name in a heap.
const MAX_NAME: usize = 1 << 16;

impl Reader<'_> {
    /// IV.A.2.c and v: refuses what is kept in a fractal heap. Before its address stands the largest creation order so
    /// far, if that is tracked, of 8 bytes for links and 2 for attributes.
    pub(super) fn undense(&self, data: Range<usize>, order: usize, what: &str) -> Result<(), Fault> {
        let mut c = self.cursor(data, "header message")?;
        c.take(1)?;
        let tracked = c.number(1)? & 1 != 0;
        c.take(if tracked { order } else { 0 })?;
        match c.address()? {
            None => Ok(()),
            Some(_) => Err(c.fault(format!("{what} in a fractal heap; write the file without libver=\"latest\""))),
        }
    }

    /// IV.A.2.g: a name and the address of an object header.
    pub(super) fn link(&mut self, data: Range<usize>) -> Result<(String, usize), Fault> {
        let mut c = self.cursor(data, "link")?;
        let (version, flags) = (c.number(1)?, c.number(1)?);
        let kind = if flags & 8 != 0 { c.number(1)? } else { 0 };
        if version != 1 || kind != 0 {
            let kind = ["hard", "soft"].get(kind as usize).unwrap_or(&"external");
            return Err(
                c.fault(format!("of kind {kind} and version {version}; only hard ones of version 1 are supported"))
            );
        }
        // Creation order, then the character set, which is a subset of UTF-8 either way.
        c.take(if flags & 4 != 0 { 8 } else { 0 } + if flags & 16 != 0 { 1 } else { 0 })?;
        let size = c.size(1 << (flags & 3))?;
        let name = c.range(size)?;
        Ok((self.text(name)?, c.required()?))
    }

    /// III.A.1, III.B and III.D: the links of a group as a B-tree of symbol table nodes, the names in a local heap.
    pub(super) fn symbol_table(&mut self, data: Range<usize>, links: &mut Vec<(String, usize)>) -> Result<(), Fault> {
        let mut c = self.cursor(data, "symbol table")?;
        let (tree, heap) = (c.required()?, c.required()?);
        let mut c = self.cursor_from(heap, "local heap")?;
        c.expect(b"HEAP")?;
        c.take(4)?;
        let size = c.size(8)?;
        c.take(8)?;
        let at = c.required()?;
        let names = self.cursor_from(at, "local heap")?.range(size)?;
        for (_, node) in self.leaves(tree, 0, 8)? {
            let mut c = self.cursor_from(node, "symbol table node")?;
            c.expect(b"SNOD")?;
            c.take(2)?;
            for _ in 0..c.number(2)? {
                let (name, object, cached) = (c.size(8)?, c.address()?, c.number(4)?);
                let object = match object {
                    Some(object) if cached != 2 => object,
                    _ => return Err(c.fault("a soft link; only hard ones are supported")),
                };
                c.take(20)?;
                let start = names.start.saturating_add(name);
                let rest = self.bytes.get(start..names.end).ok_or_else(|| c.fault("a name outside of its heap"))?;
                let rest = rest.get(..MAX_NAME).unwrap_or(rest);
                let size = rest.iter().position(|b| *b == 0).ok_or_else(|| c.fault("a name without an end"))?;
                self.spend(c.at, 40)?;
                links.push((self.text(start..start + size)?, object));
            }
        }
        Ok(())
    }

    /// III.A.1: what the lowest nodes of a version 1 B-tree of this kind point at, each with the key before it, in no
    /// particular order.
    pub(super) fn leaves(&mut self, root: usize, kind: u64, key: usize) -> Result<Vec<(Range<usize>, usize)>, Fault> {
        let (mut todo, mut leaves) = (vec![(root, None)], Vec::new());
        while let Some((at, expected)) = todo.pop() {
            let mut c = self.cursor_from(at, "B-tree")?;
            c.expect(b"TREE")?;
            let (of, level, children) = (c.number(1)?, c.number(1)?, c.size(2)?);
            if of != kind || expected.is_some_and(|e| e != level) {
                return Err(c.fault(format!("a node of kind {of} at level {level}, which does not belong there")));
            }
            c.take(16)?;
            self.spend(at, 24 + children * (key + OVERHEAD))?;
            for _ in 0..children {
                let (key, child) = (c.range(key)?, c.required()?);
                match level.checked_sub(1) {
                    None => leaves.push((key, child)),
                    below => todo.push((child, below)),
                }
            }
        }
        Ok(leaves)
    }
}
