/*! Approximate functions (PTX ISA 9.7.3): computed in f64 and rounded once.

A device's own approximation is within a few units in the last place of this; the bits differ between devices. */

use super::Line;
use super::float::{input, modifiers, output};
use crate::error::Result;
use crate::sim::lanes::{lanes, map1, map2};
use crate::sim::program::PtxType;

/// An f32 function, evaluated in f64.
macro_rules! approximate {
    ($f:expr) => {
        lanes!(
            plain | r,
            s,
            m | {
                let mode = s.mode;
                map1::<f32, f32>(r, s, m, |a| output($f(input(a, mode)), mode))
            }
        )
    };
}

pub fn decode(l: &mut Line) -> Result<bool> {
    let approx = l.take("approx");
    let &[ty] = &l.types[..] else { return Ok(false) };
    match ty {
        PtxType::F32 => {}
        PtxType::F64 if approx && l.take("ftz") => {
            let body = match l.base {
                "rcp" => lanes!(f64 = |a: f64| 1.0 / a),
                "rsqrt" => lanes!(f64 = |a: f64| 1.0 / a.sqrt()),
                _ => return Ok(false),
            };
            return l.map(body, PtxType::F64, PtxType::F64, 1, 0, 1);
        }
        PtxType::F64 if approx && l.base == "rsqrt" => {
            return l.map(lanes!(f64 = |a: f64| 1.0 / a.sqrt()), PtxType::F64, PtxType::F64, 1, 0, 1);
        }
        _ => return Ok(false),
    }
    let full = l.take("full");
    if !approx && !full {
        return Ok(false);
    }
    let mode = modifiers(l);
    if l.base == "div" {
        let body = lanes!(|r, s, m| {
            let mode = s.mode;
            map2::<f32, f32, f32>(r, s, m, |a, b| output(input(a, mode) / input(b, mode), mode))
        });
        return l.map(body, PtxType::F32, PtxType::F32, 2, mode, 1);
    }
    let body = match l.base {
        "ex2" => approximate!(f64::exp2),
        "lg2" => approximate!(f64::log2),
        "rcp" => approximate!(|a: f64| 1.0 / a),
        "rsqrt" => approximate!(|a: f64| 1.0 / a.sqrt()),
        "sqrt" => approximate!(f64::sqrt),
        "sin" => approximate!(f64::sin),
        "cos" => approximate!(f64::cos),
        "tanh" => approximate!(f64::tanh),
        _ => return Ok(false),
    };
    l.map(body, PtxType::F32, PtxType::F32, 1, mode, 1)
}
