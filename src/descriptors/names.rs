/*! Eleven colour names (van de Weijer et al. 2009): how likely each is the name of a colour, by a table of 32 x 32 x 32 colours
that is not ours to give away. These forms of it are read:

* `w2c.mat`, MATLAB 5 to 7: a matrix [32768, 11], or with the colours before the names [32768, 14];
* the same as `.npy` or as text, a line a colour (`w2c.txt`);
* OpenCV's ten numbers a colour (`featureColorName.cpp` of its tracking module, or its lines as text, or `.npy`), which are the
  eleven probabilities in an orthonormal basis without the constant.

Red runs fastest: row floor(R / 8) + 32 floor(G / 8) + 1024 floor(B / 8). */

use crate::error::{Error, Result};
use crate::files;
use crate::weights::foreign::{ArrayData, npy};
use crate::weights::strided::Strided;
use std::io::Read;
use std::path::Path;

/// The names, in the order of the table.
pub const NAMES: [&str; 11] =
    ["black", "blue", "brown", "grey", "green", "orange", "pink", "purple", "red", "white", "yellow"];
const COLOURS: usize = 32 * 32 * 32;
/// Which names each number of OpenCV's form sets against which: `a..b` against `b..c`.
const TREE: [[usize; 3]; 10] =
    [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8], [8, 9, 10], [8, 10, 11], [0, 2, 4], [4, 6, 8], [0, 4, 8], [0, 8, 11]];
/// What probabilities may be off by: files have five digits.
const ROUNDED: f64 = 1e-3;

/// Probabilities of [`NAMES`] for each of 32 x 32 x 32 colours.
pub struct ColourNames {
    table: Vec<[f64; NAMES.len()]>,
}

impl ColourNames {
    /// Reads a table in any of the forms above.
    ///
    /// # Errors
    /// A file that is none, another number of colours, numbers that are no probabilities.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = files::read(file, files::TENSORS).map_err(|e| Error::io(file, "read", e))?;
        let ending = file.extension().map(|e| e.to_ascii_lowercase());
        let rows = match ending.as_ref().and_then(|e| e.to_str()) {
            Some("npy") => of_npy(&bytes),
            Some("mat") => of_mat(&bytes),
            _ => Ok(of_text(&String::from_utf8_lossy(&bytes))),
        };
        rows.and_then(|rows| Self::of_rows(&rows)).map_err(|problem| {
            Error::file(file, problem)
                .fix("give w2c.mat, w2c.txt, featureColorName.cpp of OpenCV, or a .npy of [32768, 11]")
        })
    }

    fn of_rows(rows: &[Vec<f64>]) -> Result<Self, String> {
        let width = rows.first().map_or(0, Vec::len);
        if rows.len() != COLOURS || rows.iter().any(|r| r.len() != width) {
            return Err(format!("has {} rows of numbers, and {COLOURS} colours are needed", rows.len()));
        }
        let names = NAMES.len();
        let one = |row: &Vec<f64>| -> Option<[f64; NAMES.len()]> {
            let row = match width {
                10 => expanded(row),
                11 => row[..].try_into().ok()?,
                14 => row[3..].try_into().ok()?,
                _ => return None,
            };
            let sum = row.iter().sum::<f64>();
            (row.iter().all(|p| (-ROUNDED..=1.0 + ROUNDED).contains(p)) && (sum - 1.0).abs() <= ROUNDED).then_some(row)
        };
        let table: Vec<_> = rows.iter().map_while(one).collect();
        match rows.get(table.len()) {
            None => Ok(Self { table }),
            Some(_) => Err(format!("row {} is not the probabilities of {names} names", table.len() + 1)),
        }
    }

    /// Mean probabilities over [pixels, 3].
    pub fn of(&self, rgb: &[u8]) -> Vec<f64> {
        let pixels = rgb.as_chunks::<3>().0;
        let mut sums = [0.0; NAMES.len()];
        for p in pixels {
            let [r, g, b] = p.map(|x| usize::from(x / 8));
            sums.iter_mut().zip(&self.table[r + 32 * g + 1024 * b]).for_each(|(sum, p)| *sum += p);
        }
        sums.iter().map(|s| s / pixels.len() as f64).collect()
    }
}

/// Ten numbers to eleven probabilities: 1 / 11, and each number along its direction of the tree.
fn expanded(row: &[f64]) -> [f64; NAMES.len()] {
    let mut p = [1.0 / NAMES.len() as f64; NAMES.len()];
    for ([a, b, c], y) in TREE.into_iter().zip(row) {
        let (left, right) = ((b - a) as f64, (c - b) as f64);
        let size = (left * right * (left + right)).sqrt();
        p[a..b].iter_mut().for_each(|p| *p += y * right / size);
        p[b..c].iter_mut().for_each(|p| *p -= y * left / size);
    }
    p
}

/// Every line that is numbers alone, apart from commas and braces.
fn of_text(text: &str) -> Vec<Vec<f64>> {
    let numbers = |line: &str| -> Option<Vec<f64>> {
        let words = line.split(|c: char| c.is_whitespace() || ",;{}".contains(c)).filter(|w| !w.is_empty());
        // C++ marks single precision.
        words.map(|w| w.trim_end_matches('f').parse().ok()).collect()
    };
    text.lines().filter_map(numbers).filter(|row| !row.is_empty()).collect()
}

fn of_npy(bytes: &[u8]) -> Result<Vec<Vec<f64>>, String> {
    let array = npy::single(bytes)?;
    let (&[_, columns], ArrayData::Mapped(range)) = (&array.shape[..], array.place) else {
        return Err(format!("has the shape {:?}", array.shape));
    };
    let values = Strided::new(&bytes[range], array.dtype, &array.shape, &array.strides)
        .ok_or_else(|| format!("has elements of {:?}", array.dtype))?;
    let mut all = vec![0.0f32; values.numel()];
    values.read(&mut all);
    Ok(all.chunks_exact(columns.max(1)).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect())
}

/// The first matrix of 32768 rows in a MATLAB file of version 5 to 7 (MAT-File Format, MathWorks: tags of type and size,
/// elements of whole 8 bytes, matrices column by column).
fn of_mat(bytes: &[u8]) -> Result<Vec<Vec<f64>>, String> {
    let newer = "is no MATLAB file of version 5 to 7; in MATLAB: save('w2c.mat', 'w2c', '-v7')";
    if bytes.get(126..128) != Some(b"IM") || bytes.get(124..126) != Some(&[0, 1]) {
        return Err(newer.into());
    }
    let mut rest = &bytes[128..];
    while let Some((kind, mut body, after)) = element(rest) {
        let mut unpacked = vec![];
        if kind == 15 {
            // A table is 4 MB; nobody unpacks more for it.
            let mut reader = flate2::read::ZlibDecoder::new(body).take(64 << 20);
            reader.read_to_end(&mut unpacked).map_err(|e| format!("is damaged: {e}"))?;
            body = element(&unpacked).map_or(&[], |e| e.1);
        }
        if let Some(rows) = matrix(body) {
            return Ok(rows);
        }
        // Only packed elements are not filled up to whole 8 bytes.
        rest = after;
    }
    Err(format!("has no matrix of {COLOURS} rows of numbers"))
}

/// Type, bytes, and what follows.
fn element(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..at + 4)?.first_chunk()?));
    let (kind, size) = (word(0)?, word(4)?);
    if kind >> 16 > 0 {
        // Up to four bytes lie where the size would.
        return Some((kind & 0xffff, bytes.get(4..4 + (kind >> 16) as usize)?, bytes.get(8..)?));
    }
    let body = bytes.get(8..8 + size as usize)?;
    let filled = if kind == 15 { size as usize } else { (size as usize).next_multiple_of(8) };
    Some((kind, body, bytes.get(8 + filled..).unwrap_or_default()))
}

/// Rows of a matrix element of the right height: flags, extents, name, values.
fn matrix(body: &[u8]) -> Option<Vec<Vec<f64>>> {
    let (_, _, rest) = element(body)?;
    let (_, extents, rest) = element(rest)?;
    let (_, _, rest) = element(rest)?;
    let (kind, values, _) = element(rest)?;
    let extents: Vec<u32> = extents.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let values: Vec<f64> = match kind {
        7 => values.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        9 => values.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        _ => return None,
    };
    let fits = extents.len() == 2 && extents[0] as usize == COLOURS && values.len() == COLOURS * extents[1] as usize;
    fits.then(|| (0..COLOURS).map(|i| values.iter().skip(i).step_by(COLOURS).copied().collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Every colour is one name for sure: its row, counted round.
    fn certain() -> Vec<Vec<f64>> {
        (0..COLOURS).map(|i| (0..11).map(|name| f64::from(u8::from(i % 11 == name))).collect()).collect()
    }

    /// The tree's numbers of probabilities: their products with its directions.
    fn folded(row: &[f64]) -> Vec<f64> {
        let along = |[a, b, c]: [usize; 3]| {
            let (left, right) = ((b - a) as f64, (c - b) as f64);
            let sum = |p: &[f64]| p.iter().sum::<f64>();
            (sum(&row[a..b]) * right - sum(&row[b..c]) * left) / (left * right * (left + right)).sqrt()
        };
        TREE.into_iter().map(along).collect()
    }

    /// A MATLAB file of one matrix, packed or not.
    fn mat(rows: &[Vec<f64>], packed: bool) -> Vec<u8> {
        let tagged = |kind: u32, body: &[u8]| {
            let mut out = [kind.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
            out.extend(body);
            out.resize(out.len().next_multiple_of(8), 0);
            out
        };
        let extents = [rows.len() as u32, rows[0].len() as u32].map(u32::to_le_bytes).concat();
        let values: Vec<u8> =
            (0..rows[0].len()).flat_map(|c| rows.iter().flat_map(move |r| r[c].to_le_bytes())).collect();
        // The name in the short form.
        let name = [&[1, 0, 3, 0], &b"w2c\0"[..]].concat();
        let body = [tagged(6, &[6, 0, 0, 0, 0, 0, 0, 0]), tagged(5, &extents), name, tagged(9, &values)].concat();
        let mut file = vec![b' '; 124];
        file.extend([0, 1, b'I', b'M']);
        let matrix = tagged(14, &body);
        if !packed {
            file.extend(matrix);
            return file;
        }
        let mut z = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::fast());
        z.write_all(&matrix).unwrap();
        let z = z.finish().unwrap();
        file.extend([15u32.to_le_bytes(), (z.len() as u32).to_le_bytes()].concat());
        file.extend(z);
        file
    }

    #[test]
    fn every_form_is_the_same_table() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, file) = (certain(), |name: &str| dir.path().join(name));
        let line = |r: &[f64]| r.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
        let text = |rows: &[Vec<f64>]| rows.iter().map(|r| line(r) + "\n").collect::<String>();
        let ten: Vec<Vec<f64>> = rows.iter().map(|r| folded(r)).collect();
        let code: String = ten.iter().map(|r| format!("  {{{}f}},\n", line(r).replace(' ', "f,"))).collect();
        let coloured: Vec<Vec<f64>> = rows.iter().map(|r| [&[3.5, 3.5, 3.5], &r[..]].concat()).collect();
        for (name, bytes) in [
            ("w2c.txt", text(&rows).into_bytes()),
            ("with_colours.txt", text(&coloured).into_bytes()),
            ("x.cpp", format!("// Copyright 2013\nconst double ColorNames[32768][10]={{\n{code}}};\n").into_bytes()),
            ("w2c.mat", mat(&rows, true)),
            ("plain.MAT", mat(&coloured, false)),
        ] {
            std::fs::write(file(name), bytes).unwrap();
            let table = ColourNames::read(&file(name)).unwrap().table;
            let far = |(a, b): (&[f64; 11], &Vec<f64>)| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-12);
            assert_eq!(table.iter().zip(&rows).position(far), None, "{name}");
        }
        // Red runs fastest: (8, 0, 0) is row 1, (0, 0, 8) is row 1024 = 93 * 11 + 1.
        let names = ColourNames::read(&file("w2c.txt")).unwrap();
        assert_eq!(names.of(&[15, 7, 0])[1], 1.0);
        assert_eq!(names.of(&[0, 0, 8, 0, 0, 0])[..2], [0.5, 0.5]);
    }

    #[test]
    fn what_is_no_table_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut off = certain();
        off[7][0] = 0.5;
        let line = |r: &Vec<f64>| r.iter().map(f64::to_string).collect::<Vec<_>>().join(",") + "\n";
        for (name, bytes, problem) in [
            ("a.txt", b"1 2 3\n".to_vec(), "has 1 rows of numbers, and 32768 colours are needed"),
            (
                "b.txt",
                off.iter().map(line).collect::<String>().into_bytes(),
                "row 8 is not the probabilities of 11 names",
            ),
            ("c.mat", vec![0; 200], "is no MATLAB file of version 5 to 7"),
            ("d.mat", mat(&[vec![1.0; 11]], true), "has no matrix of 32768 rows"),
            ("e.npy", vec![0; 20], "e.npy"),
        ] {
            let file = dir.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            let e = ColourNames::read(&file).map(|_| ()).unwrap_err().to_string();
            assert!(e.contains(problem) && e.lines().count() == 1, "{e}");
        }
    }
}
