/*! Arithmetic-coded JPEG (ITU-T T.81, annexes D, F.1.4, F.2.4 and G.1.3; SOF9 and SOF10), written again with Huffman codes:
the same coefficients, tables of quantisation and headers, so that a picture comes out as from any other JPEG. Nothing is
rounded on the way. */

use std::ops::Range;

/// Scans of one picture: each may be a few bytes, and covers the picture.
const MOST_SCANS: usize = 100;

/// Coefficients of one 8x8 block in zigzag order, which both codings have.
type Block = [i16; 64];

/// One component of the frame.
struct Component {
    id: u8,
    h: usize,
    v: usize,
    /// Table of quantisation.
    table: u8,
    /// Blocks a row, padded to whole units; blocks a row and a column that a scan of this component alone has.
    stride: usize,
    alone: [usize; 2],
    blocks: Vec<Block>,
}

struct Frame {
    /// The frame header after its length: precision, height, width, components.
    body: Vec<u8>,
    progressive: bool,
    components: Vec<Component>,
    /// Units (MCUs) a row and a column.
    units: [usize; 2],
}

impl Frame {
    fn new(progressive: bool, body: &[u8]) -> Result<Self, String> {
        let bad = || "its frame header is damaged".to_string();
        let (&[_, h0, h1, w0, w1, n], rest) = body.split_first_chunk().ok_or_else(bad)?;
        let n = n as usize;
        let (h, w) = (u16::from_be_bytes([h0, h1]) as usize, u16::from_be_bytes([w0, w1]) as usize);
        let parts = rest.as_chunks::<3>().0;
        if h * w == 0 || !(1..=4).contains(&n) || parts.len() != n {
            return Err(bad());
        }
        // A picture of one component has units of one block, whatever its factors are.
        let factors = |&[_, f, _]: &[u8; 3]| if n == 1 { [1, 1] } else { [f >> 4, f & 15].map(usize::from) };
        if parts.iter().flat_map(factors).any(|f| !(1..=4).contains(&f)) {
            return Err(bad());
        }
        let [h_most, v_most] = [0, 1].map(|i| parts.iter().map(|p| factors(p)[i]).max().unwrap_or(1));
        let units = [w.div_ceil(8 * h_most), h.div_ceil(8 * v_most)];
        let component = |p: &[u8; 3]| {
            let [ch, cv] = factors(p);
            let alone = [(w * ch).div_ceil(h_most).div_ceil(8), (h * cv).div_ceil(v_most).div_ceil(8)];
            let blocks = vec![[0; 64]; units[0] * ch * units[1] * cv];
            Component { id: p[0], h: ch, v: cv, table: p[2], stride: units[0] * ch, alone, blocks }
        };
        Ok(Self { body: body[..6].to_vec(), progressive, components: parts.iter().map(component).collect(), units })
    }

    /// The order of the blocks in a scan of `components`.
    fn order(&self, components: &[usize]) -> Order {
        let parts: Vec<_> = components.iter().map(|&c| &self.components[c]).map(|c| [c.h, c.v, c.stride]).collect();
        match *components {
            // Of one component every block is a unit.
            [c] => Order { units: self.components[c].alone, parts: vec![[1, 1, parts[0][2]]] },
            _ => Order { units: self.units, parts },
        }
    }
}

/// Which blocks a unit of a scan has.
struct Order {
    /// Units a row and a column.
    units: [usize; 2],
    /// Of each component blocks a row and a column of a unit, and blocks a row of all.
    parts: Vec<[usize; 3]>,
}

impl Order {
    fn len(&self) -> usize {
        self.units[0] * self.units[1]
    }

    /// Components, counted within the scan, and places of their blocks.
    fn blocks(&self, unit: usize) -> impl Iterator<Item = (usize, usize)> {
        let (x, y) = (unit % self.units[0], unit / self.units[0]);
        let of = move |[h, v, stride]: [usize; 3]| (0..h * v).map(move |n| (y * v + n / h) * stride + x * h + n % h);
        self.parts.iter().enumerate().flat_map(move |(i, part)| of(*part).map(move |block| (i, block)))
    }
}

/// States of the estimate of a probability (T.81, table D.3), from the highest bits on: 16 of Qe, 8 of the next state after the
/// less probable symbol, 1 whether the two symbols then change places, 7 of the next state after the more probable symbol.
const STATES: [u32; 113] = [
    0x5a1d0181, 0x25860e02, 0x11141003, 0x080b1204, 0x03d81405, 0x01da1706, 0x00e51907, 0x006f1c08, 0x00361e09,
    0x001a210a, 0x000d230b, 0x0006090c, 0x00030a0d, 0x00010c0d, 0x5a7f0f8f, 0x3f252410, 0x2cf22611, 0x207c2712,
    0x17b92813, 0x11822a14, 0x0cef2b15, 0x09a12d16, 0x072f2e17, 0x055c3018, 0x04063119, 0x0303331a, 0x0240341b,
    0x01b1361c, 0x0144381d, 0x00f5391e, 0x00b73b1f, 0x008a3c20, 0x00683e21, 0x004e3f22, 0x003b2023, 0x002c2109,
    0x5ae125a5, 0x484c4026, 0x3a0d4127, 0x2ef14328, 0x261f4429, 0x1f33452a, 0x19a8462b, 0x1518482c, 0x1177492d,
    0x0e744a2e, 0x0bfb4b2f, 0x09f84d30, 0x08614e31, 0x07064f32, 0x05cd3033, 0x04de3234, 0x040f3235, 0x03633336,
    0x02d43437, 0x025c3538, 0x01f83639, 0x01a4373a, 0x0160383b, 0x0125393c, 0x00f63a3d, 0x00cb3b3e, 0x00ab3d3f,
    0x008f3d20, 0x5b1241c1, 0x4d045042, 0x412c5143, 0x37d85244, 0x2fe85345, 0x293c5446, 0x23795647, 0x1edf5748,
    0x1aa95749, 0x174e484a, 0x1424484b, 0x119c4a4c, 0x0f6b4a4d, 0x0d514b4e, 0x0bb64d4f, 0x0a404d30, 0x583250d1,
    0x4d1c5852, 0x438e5953, 0x3bdd5a54, 0x34ee5b55, 0x2eae5c56, 0x299a5d57, 0x25165647, 0x557058d9, 0x4ca95f5a,
    0x44d9605b, 0x3e22615c, 0x3824635d, 0x32b4635e, 0x2e175d56, 0x56a85fe0, 0x4f466561, 0x47e56662, 0x41cf6763,
    0x3c3d6864, 0x375e635d, 0x52316966, 0x4c0f6a67, 0x46396b68, 0x415e6763, 0x562769ea, 0x50e76c6b, 0x4b856d67,
    0x55976e6d, 0x504f6f6b, 0x5a106eef, 0x5522706d, 0x59eb70ef,
];

/// A binary context: twice its state, and its more probable symbol in the lowest bit.
type Bin = u8;

/// The decoder of binary decisions (T.81, D.2).
struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The marker that ended the segment, once it was met; zeros follow.
    marker: Option<u8>,
    /// The code register, its upper half the part that is compared; the interval; bits until the next byte.
    c: u32,
    a: u32,
    left: u32,
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, marker: None, c: 0, a: 0, left: 0 }
    }

    /// At the first byte of a segment (T.81, figure D.22).
    fn begin(&mut self) -> Result<(), String> {
        self.marker = None;
        self.c = (u32::from(self.byte()?) << 24) | (u32::from(self.byte()?) << 16);
        (self.a, self.left) = (0x10000, 0);
        Ok(())
    }

    fn raw(&mut self) -> Result<u8, String> {
        let byte = *self.bytes.get(self.at).ok_or("its data end early")?;
        self.at += 1;
        Ok(byte)
    }

    /// The next byte of the segment. An encoder leaves out zeros at its end.
    fn byte(&mut self) -> Result<u8, String> {
        if self.marker.is_some() {
            return Ok(0);
        }
        let byte = self.raw()?;
        if byte != 0xff {
            return Ok(byte);
        }
        let mut next = 0xff;
        while next == 0xff {
            next = self.raw()?;
        }
        if next == 0 {
            return Ok(0xff);
        }
        self.marker = Some(next);
        Ok(0)
    }

    /// One decision (T.81, figures D.14 to D.18).
    fn decide(&mut self, bin: &mut Bin) -> Result<bool, String> {
        let [_, _, less, more] = STATES[usize::from(*bin >> 1)].to_be_bytes();
        let (qe, probable) = (STATES[usize::from(*bin >> 1)] >> 16, *bin & 1);
        self.a -= qe;
        let lower = self.c >> 16 < self.a;
        if lower && self.a >= 0x8000 {
            return Ok(probable == 1);
        }
        // The smaller part of the interval is the less probable symbol's, whichever of the two it is.
        let symbol = if lower == (self.a < qe) { probable ^ 1 } else { probable };
        if !lower {
            self.c -= self.a << 16;
            self.a = qe;
        }
        *bin = match symbol == probable {
            true => (more << 1) | probable,
            false => (less << 1) | (probable ^ (more >> 7)),
        };
        while self.a < 0x8000 {
            if self.left == 0 {
                self.c |= u32::from(self.byte()?) << 8;
                self.left = 8;
            }
            self.a <<= 1;
            self.c <<= 1;
            self.left -= 1;
        }
        Ok(symbol == 1)
    }

    /// A decision of even chances: its state stays.
    fn even(&mut self) -> Result<bool, String> {
        self.decide(&mut 0)
    }

    /// The marker that ends the segment: behind bytes that decoding did not need, if need be.
    fn end(&mut self) -> Result<u8, String> {
        while self.marker.is_none() {
            self.byte()?;
        }
        Ok(self.marker.take().unwrap_or(0))
    }
}

/// Where the statistics of a magnitude lie (T.81, tables F.4 and F.5): those of its category from the second on, and of the
/// bits below its highest, 14 behind.
const BITS: usize = 14;
const DC_CATEGORY: usize = 20;
const AC_CATEGORY: [usize; 2] = [189, 217];

/// Contexts of a table of each class, and what conditions them (DAC).
struct Tables {
    dc: [[Bin; 49]; 16],
    ac: [[Bin; 245]; 16],
    /// Bounds of small differences, as powers of two.
    bounds: [(u8, u8); 16],
    /// The last coefficient of low frequency.
    low: [u8; 16],
}

/// One scan: components, and what it says of their coefficients.
struct Scan {
    /// Component, and its tables of DC and AC.
    parts: Vec<(usize, usize, usize)>,
    band: Range<usize>,
    /// This scan adds a bit to what others said.
    refines: bool,
    shift: u32,
}

impl Scan {
    fn new(frame: &Frame, body: &[u8]) -> Result<Self, String> {
        let bad = || "a scan header is damaged".to_string();
        let (&n, rest) = body.split_first().ok_or_else(bad)?;
        let n = n as usize;
        let parts = rest.get(..2 * n).ok_or_else(bad)?.as_chunks::<2>().0;
        let find = |&[id, tables]: &[u8; 2]| {
            let at = frame.components.iter().position(|c| c.id == id).ok_or_else(bad)?;
            Ok((at, usize::from(tables >> 4), usize::from(tables & 15)))
        };
        let parts = parts.iter().map(find).collect::<Result<Vec<_>, String>>()?;
        let twice = (1..n).any(|i| parts[..i].iter().any(|p| p.0 == parts[i].0));
        if !(1..=4).contains(&n) || twice {
            return Err(bad());
        }
        if !frame.progressive {
            return Ok(Self { parts, band: 0..64, refines: false, shift: 0 });
        }
        let &[first, last, bits] = rest[2 * n..].first_chunk().ok_or_else(bad)?;
        let band = usize::from(first)..usize::from(last) + 1;
        // DC alone, of any components; or AC of one.
        let fits = if first == 0 { last == 0 } else { first <= last && last < 64 && n == 1 };
        if !fits || bits & 15 > 13 {
            return Err(bad());
        }
        Ok(Self { parts, band, refines: bits >> 4 != 0, shift: u32::from(bits & 15) })
    }
}

/// What is known of a component's DC before its next block.
#[derive(Clone, Copy, Default)]
struct Before {
    dc: i16,
    /// First of the four contexts that the difference before chose.
    context: usize,
}

const BAD_CODE: &str = "its data hold a code that there is not";

/// The magnitude less one: how many bits it has, and these (T.81, figures F.23 and F.24). `bins[at]` has said yes already.
fn magnitude(d: &mut Decoder, bins: &mut [Bin], category: usize, mut bit: u32) -> Result<u32, String> {
    let mut at = category;
    while d.decide(&mut bins[at])? {
        bit <<= 1;
        at += 1;
        if bit == 0x8000 {
            return Err(BAD_CODE.into());
        }
    }
    let mut value = bit;
    while bit > 1 {
        bit >>= 1;
        if d.decide(&mut bins[at + BITS])? {
            value |= bit;
        }
    }
    Ok(value)
}

/// The difference to the DC before (T.81, F.1.4.4.1).
fn difference(d: &mut Decoder, bins: &mut [Bin; 49], bounds: (u8, u8), before: &mut Before) -> Result<(), String> {
    let at = before.context;
    before.context = 0;
    if !d.decide(&mut bins[at])? {
        return Ok(());
    }
    let negative = d.decide(&mut bins[at + 1])?;
    let mut less = 0;
    if d.decide(&mut bins[at + 2 + usize::from(negative)])? {
        less = magnitude(d, bins, DC_CATEGORY, 1)?;
    }
    // The highest bit of it, as the bounds are powers of two.
    let bit = less.checked_ilog2().map_or(0, |n| 1 << n);
    let [lower, upper] = [bounds.0, bounds.1].map(|n| (1u32 << n) >> 1);
    if bit >= lower {
        before.context = if bit > upper { 12 } else { 4 } + if negative { 4 } else { 0 };
    }
    let value = (less as i16).wrapping_add(1);
    before.dc = before.dc.wrapping_add(if negative { value.wrapping_neg() } else { value });
    Ok(())
}

/// The coefficients of a band (T.81, F.1.4.4.2).
fn frequencies(d: &mut Decoder, bins: &mut [Bin; 245], low: u8, scan: &Scan, block: &mut Block) -> Result<(), String> {
    let mut k = scan.band.start.max(1);
    while k < scan.band.end {
        if d.decide(&mut bins[3 * (k - 1)])? {
            return Ok(());
        }
        while !d.decide(&mut bins[3 * (k - 1) + 1])? {
            k += 1;
            if k == scan.band.end {
                return Err(BAD_CODE.into());
            }
        }
        let negative = d.even()?;
        let at = 3 * (k - 1) + 2;
        let mut less = 0;
        if d.decide(&mut bins[at])? {
            less = 1;
            if d.decide(&mut bins[at])? {
                less = magnitude(d, bins, AC_CATEGORY[usize::from(k > usize::from(low))], 2)?;
            }
        }
        let value = (less as i16).wrapping_add(1).wrapping_shl(scan.shift);
        block[k] = if negative { value.wrapping_neg() } else { value };
        k += 1;
    }
    Ok(())
}

/// One more bit of the coefficients of a band (T.81, G.1.3.3).
fn refinement(d: &mut Decoder, bins: &mut [Bin; 245], scan: &Scan, block: &mut Block) -> Result<(), String> {
    let one = 1i16 << scan.shift;
    let ended = 1 + (1..scan.band.end).rev().find(|&k| block[k] != 0).unwrap_or(0);
    let mut k = scan.band.start;
    while k < scan.band.end {
        if k >= ended && d.decide(&mut bins[3 * (k - 1)])? {
            return Ok(());
        }
        loop {
            let at = 3 * (k - 1);
            if block[k] != 0 {
                if d.decide(&mut bins[at + 2])? {
                    block[k] = block[k].wrapping_add(if block[k] < 0 { -one } else { one });
                }
                break;
            }
            if d.decide(&mut bins[at + 1])? {
                block[k] = if d.even()? { -one } else { one };
                break;
            }
            k += 1;
            if k == scan.band.end {
                return Err(BAD_CODE.into());
            }
        }
        k += 1;
    }
    Ok(())
}

impl Tables {
    fn forget(&mut self) {
        (self.dc, self.ac) = ([[0; 49]; 16], [[0; 245]; 16]);
    }

    /// Conditioning (T.81, B.2.4.3).
    fn condition(&mut self, body: &[u8]) -> Result<(), String> {
        for &[table, value] in body.as_chunks::<2>().0 {
            let (class, at, low, high) = (table >> 4, usize::from(table & 15), value & 15, value >> 4);
            match class {
                0 if low <= high => self.bounds[at] = (low, high),
                1 => self.low[at] = value,
                _ => return Err("its conditioning of tables is damaged".into()),
            }
        }
        Ok(())
    }

    /// What a scan says of one block of its `part`.
    fn block(
        &mut self,
        d: &mut Decoder,
        scan: &Scan,
        part: usize,
        before: &mut Before,
        block: &mut Block,
    ) -> Result<(), String> {
        let (_, dc, ac) = scan.parts[part];
        if scan.band.start == 0 {
            if scan.refines {
                block[0] |= i16::from(d.even()?) << scan.shift;
            } else {
                difference(d, &mut self.dc[dc], self.bounds[dc], before)?;
                block[0] = before.dc.wrapping_shl(scan.shift);
            }
        }
        match scan.refines {
            _ if scan.band.end == 1 => Ok(()),
            true => refinement(d, &mut self.ac[ac], scan, block),
            false => frequencies(d, &mut self.ac[ac], self.low[ac], scan, block),
        }
    }

    /// The segment of a scan that begins at `at`; the marker behind it, the position behind that, and what is damaged.
    fn scan(
        &mut self,
        bytes: &[u8],
        at: usize,
        interval: usize,
        scan: &Scan,
        frame: &mut Frame,
    ) -> Result<(u8, usize, Option<String>), String> {
        let components: Vec<usize> = scan.parts.iter().map(|p| p.0).collect();
        let order = frame.order(&components);
        let units = order.len();
        let interval = if interval == 0 { units } else { interval };
        let (mut d, mut damage) = (Decoder::new(bytes, at), None);
        for (i, start) in (0..units).step_by(interval).enumerate() {
            if i > 0 {
                let (found, due) = (d.end()?, 0xd0 + ((i - 1) % 8) as u8);
                if found != due {
                    damage.get_or_insert_with(|| "a restart marker is missing".to_string());
                }
                // Another restart is as good as this one; any other marker ends the picture.
                if !(0xd0..=0xd7).contains(&found) {
                    d.marker = Some(found);
                    break;
                }
            }
            self.forget();
            d.begin()?;
            let mut before = [Before::default(); 4];
            let mut run = || {
                for unit in start..units.min(start + interval) {
                    for (part, block) in order.blocks(unit) {
                        let block = &mut frame.components[components[part]].blocks[block];
                        self.block(&mut d, scan, part, &mut before[part], block)?;
                    }
                }
                Ok(())
            };
            match run() {
                Err(why) if d.at < bytes.len() => damage = damage.or(Some(why)),
                other => other?,
            }
        }
        Ok((d.end()?, d.at, damage))
    }
}

/// What a file says, as far as it was read.
struct Picture {
    /// Segments that both codings have.
    head: Vec<u8>,
    frame: Option<Frame>,
    damage: Option<String>,
}

impl Picture {
    fn read(&mut self, bytes: &[u8]) -> Result<(), String> {
        const EARLY: &str = "its data end early";
        let mut tables = Tables { dc: [[0; 49]; 16], ac: [[0; 245]; 16], bounds: [(0, 1); 16], low: [5; 16] };
        let (mut at, mut interval, mut scans) = (2, 0, 0);
        // The marker that a scan ended with.
        let mut met = None;
        loop {
            let marker = match met.take() {
                Some(marker) => marker,
                None => {
                    at += bytes[at..].windows(2).position(|w| w[0] == 0xff && w[1] != 0xff).ok_or(EARLY)? + 2;
                    bytes[at - 1]
                }
            };
            match marker {
                0xd9 => return if scans > 0 { Ok(()) } else { Err(EARLY.into()) },
                0x00 | 0x01 | 0xd0..=0xd8 => continue,
                _ => {}
            }
            let length = bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]) as usize).ok_or(EARLY)?;
            let body = bytes.get(at + 2..at + length.max(2)).ok_or(EARLY)?;
            at += length.max(2);
            match (marker, &mut self.frame) {
                (0xc9 | 0xca, None) => self.frame = Some(Frame::new(marker == 0xca, body)?),
                (0xda, Some(frame)) => {
                    scans += 1;
                    if scans > MOST_SCANS {
                        return Err(format!("it has more than {MOST_SCANS} scans"));
                    }
                    let (marker, behind, damage) = tables.scan(bytes, at, interval, &Scan::new(frame, body)?, frame)?;
                    (met, at) = (Some(marker), behind);
                    self.damage = self.damage.take().or(damage);
                }
                (0xc0..=0xc3 | 0xc5..=0xcb | 0xcd..=0xcf | 0xda, _) => {
                    return Err("its frame headers are damaged".into());
                }
                (0xc4, _) => {}
                (0xcc, _) => tables.condition(body)?,
                (0xdd, _) => interval = body.first_chunk().map_or(0, |b| u16::from_be_bytes(*b)) as usize,
                _ => self.head.extend_from_slice(&bytes[at - length.max(2) - 2..at]),
            }
        }
    }
}

/// Bits of Huffman codes, and of what they announce.
#[derive(Default)]
struct Bits {
    out: Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, bits: u32) {
        self.held = (self.held << bits) | u64::from(value);
        self.count += bits;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.held >> self.count) as u8;
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0);
            }
        }
    }

    /// A coefficient behind the code that says how many bits it has. What is out of reach of 14 bits saturates in any case.
    fn value(&mut self, value: i32, code: impl Fn(u32) -> (u32, u32)) {
        let bits = 32 - value.unsigned_abs().leading_zeros();
        let (code, length) = code(bits);
        self.put(code, length);
        let low = if value < 0 { value - 1 } else { value } as u32;
        self.put(low & ((1 << bits) - 1), bits);
    }
}

/// Codes of one table for all pictures: DC's 16 symbols have 5 bits; of AC's 256 all have 8 but the last two, as no code is
/// all ones.
fn dc_code(bits: u32) -> (u32, u32) {
    (bits, 5)
}

fn ac_code(symbol: u32) -> (u32, u32) {
    if symbol < 254 { (symbol, 8) } else { (254 + symbol, 9) }
}

fn codes() -> Vec<u8> {
    let counts = |all: &[(usize, u8)]| {
        let mut counts = [0; 16];
        all.iter().for_each(|&(bits, n)| counts[bits - 1] = n);
        counts
    };
    let [dc, ac] = [counts(&[(5, 16)]), counts(&[(8, 254), (9, 2)])];
    [&[0x00], &dc[..], &Vec::from_iter(0..16), &[0x10], &ac, &Vec::from_iter(0..=255)].concat()
}

fn written(head: &[u8], frame: &Frame) -> Vec<u8> {
    let mut bits = Bits { out: [&[0xff, 0xd8], head].concat(), ..Bits::default() };
    let mut segment = |marker: u8, body: &[u8]| {
        bits.out.extend([0xff, marker]);
        bits.out.extend((body.len() as u16 + 2).to_be_bytes());
        bits.out.extend_from_slice(body);
    };
    let parts = || frame.components.iter();
    let factors = |c: &Component| [c.id, (c.h << 4 | c.v) as u8, c.table];
    segment(0xc1, &[&frame.body[..], &Vec::from_iter(parts().flat_map(factors))].concat());
    segment(0xc4, &codes());
    let ids = Vec::from_iter(parts().flat_map(|c| [c.id, 0]));
    segment(0xda, &[&[frame.components.len() as u8], &ids[..], &[0, 63, 0]].concat());
    let (order, mut before) = (frame.order(&Vec::from_iter(0..frame.components.len())), [0; 4]);
    for unit in 0..order.len() {
        for (part, block) in order.blocks(unit) {
            let block = frame.components[part].blocks[block].map(|v| i32::from(v).clamp(-0x3fff, 0x3fff));
            bits.value(block[0] - before[part], dc_code);
            before[part] = block[0];
            let mut zeros = 0;
            for &value in &block[1..] {
                if value == 0 {
                    zeros += 1;
                    continue;
                }
                for _ in 0..zeros / 16 {
                    let (code, length) = ac_code(0xf0);
                    bits.put(code, length);
                }
                bits.value(value, |size| ac_code((zeros % 16) << 4 | size));
                zeros = 0;
            }
            if zeros > 0 {
                let (code, length) = ac_code(0);
                bits.put(code, length);
            }
        }
    }
    bits.put(0x7f, 7);
    bits.out.extend([0xff, 0xd9]);
    bits.out
}

/// The same picture in Huffman codes, and what is damaged in it, if anything is.
pub fn huffman(bytes: &[u8]) -> Result<(Vec<u8>, Option<String>), String> {
    let mut picture = Picture { head: vec![], frame: None, damage: None };
    let end = picture.read(bytes).err();
    let frame = picture.frame.ok_or("its frame header is missing")?;
    Ok((written(&picture.head, &frame), picture.damage.or(end)))
}
