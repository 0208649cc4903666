//! Words and punctuation of PTX text (PTX ISA section 4).

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenKind {
    /// A name, number, directive or opcode with all its suffixes: anything without blanks and punctuation.
    Word,
    /// A quoted string, without its quotes.
    Text,
    /// One character.
    Mark,
}

#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub kind: TokenKind,
    pub text: &'a str,
    pub line: u32,
}

impl Token<'_> {
    pub fn is(&self, text: &str) -> bool {
        self.kind != TokenKind::Text && self.text == text
    }
}

fn in_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// The tokens of `text`, comments dropped.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>> {
    let bytes = text.as_bytes();
    let (mut out, mut i, mut line) = (vec![], 0, 1);
    while i < bytes.len() {
        let rest = &text[i..];
        let length = match bytes[i] {
            b'\n' => {
                line += 1;
                1
            }
            c if c.is_ascii_whitespace() => 1,
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => {
                let n = rest.find("*/").map_or(rest.len(), |n| n + 2);
                line += rest[..n].matches('\n').count() as u32;
                n
            }
            b'"' => {
                let n = rest[1..].find('"').ok_or_else(|| Error::usage(format!("line {line}: unclosed string")))?;
                out.push(Token { kind: TokenKind::Text, text: &rest[1..1 + n], line });
                n + 2
            }
            c if in_word(c) => {
                // `::` belongs to the word (`ld.shared::cta`); a single colon ends a label. Directives may be
                // written without a blank between them (`.reg.b32`).
                let mut n = 1;
                while let Some(&c) = bytes.get(i + n) {
                    n += match c {
                        b'.' if bytes[i] == b'.' => break,
                        c if in_word(c) => 1,
                        b':' if bytes.get(i + n + 1) == Some(&b':') => 2,
                        _ => break,
                    };
                }
                out.push(Token { kind: TokenKind::Word, text: &rest[..n], line });
                n
            }
            c if c.is_ascii_graphic() => {
                out.push(Token { kind: TokenKind::Mark, text: &rest[..1], line });
                1
            }
            c => return Err(Error::usage(format!("line {line}: unexpected byte {c:#04x} in PTX"))),
        };
        i += length;
    }
    Ok(out)
}

/// An integer literal as its two's complement; None for anything else.
pub fn integer(word: &str) -> Option<u64> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |d| (true, d));
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    let value = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => u64::from_str_radix(&digits[2..], 16),
        [b'0', b'b' | b'B', ..] => u64::from_str_radix(&digits[2..], 2),
        [b'0', _, ..] => u64::from_str_radix(digits, 8),
        _ => digits.parse(),
    };
    value.ok().map(|v| if negative { v.wrapping_neg() } else { v })
}

/// A floating-point literal (`0f` + 8 hex digits, `0d` + 16, or decimal, which is an f64).
pub fn float(word: &str) -> Option<f64> {
    let (sign, digits) = word.strip_prefix('-').map_or((1.0, word), |d| (-1.0, d));
    let value = match digits.as_bytes() {
        [b'0', b'f' | b'F', ..] => f32::from_bits(u32::from_str_radix(&digits[2..], 16).ok()?) as f64,
        [b'0', b'd' | b'D', ..] => f64::from_bits(u64::from_str_radix(&digits[2..], 16).ok()?),
        [c, ..] if c.is_ascii_digit() && digits.contains('.') => digits.parse().ok()?,
        _ => return None,
    };
    Some(sign * value)
}
