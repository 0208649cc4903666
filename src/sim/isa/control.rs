//! Branches and what the simulator need not do (PTX ISA 9.7.12, 9.7.16).

use super::{Line, PtxOperand};
use crate::error::{Error, Result};
use crate::sim::lanes::Args;
use crate::sim::parse::RETURN;
use crate::sim::program::{Exec, PtxType};

pub fn decode(l: &mut Line) -> Result<bool> {
    l.take("uni");
    let indexed = l.take("idx");
    match l.base {
        "bra" => {
            l.expect(1)?;
            let PtxOperand::Name(label) = *l.arg(0)? else { return Err(Error::usage("expected a label")) };
            l.frame.jump(label);
            l.push(Exec::Branch(usize::MAX), Args::default())
        }
        "brx" if indexed => {
            l.expect(2)?;
            let PtxOperand::Name(table) = *l.arg(1)? else { return Err(Error::usage("expected a table of labels")) };
            let a = l.src(0, PtxType::U32)?;
            l.frame.jump(table);
            l.push(Exec::Switch([].into()), Args { a, ..Args::default() })
        }
        "ret" if l.frame.calls > 0 => {
            l.frame.jump(RETURN);
            l.push(Exec::Branch(usize::MAX), Args::default())
        }
        "ret" | "exit" => l.push(Exec::Exit, Args::default()),
        "trap" | "brkpt" => l.push(Exec::Trap, Args::default()),
        "isspacep" => super::convert::isspacep(l),
        // Waiting, prefetching and programmatic dependent launch change no value.
        "nanosleep" | "pmevent" | "griddepcontrol" | "discard" | "applypriority" | "prefetch" | "prefetchu" => {
            l.mods.clear();
            l.push(Exec::Nothing, Args::default())
        }
        _ => Ok(false),
    }
}
