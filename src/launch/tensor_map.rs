//! What the copy engine of Hopper is told of a tensor, as plain data: a driver makes a descriptor of it (`cuTensorMapEncodeTiled`
//! of the CUDA Driver API 13.0, whose limits these are), the simulator reads it as it is.

/// Bytes of what a driver makes of one; among a kernel's parameters they begin at a multiple of 64.
pub const BYTES: usize = 128;

/// Which 16-byte pieces of a box change places in shared memory: within rows of so many bytes, by the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swizzle {
    None,
    By32,
    By64,
    By128,
}

impl Swizzle {
    pub const ALL: [Self; 4] = [Self::None, Self::By32, Self::By64, Self::By128];

    /// Bytes of a row, and the widest that a box may be. Without swizzle there is no bound but that of a box.
    pub fn row(self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::By32 => Some(32),
            Self::By64 => Some(64),
            Self::By128 => Some(128),
        }
    }

    /// Where the byte of an address goes.
    pub fn place(self, address: usize) -> usize {
        let pieces = self.row().unwrap_or(16) / 16;
        address ^ (address >> 7 & (pieces - 1)) << 4
    }
}

/// A tensor of up to five axes in global memory, and the box of it that one copy moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorMap {
    /// Bytes of a number.
    pub item: usize,
    /// Extents, the axis whose numbers are neighbours first.
    pub extents: Vec<u64>,
    /// Bytes from one to the next along each axis but the first.
    pub strides: Vec<u64>,
    /// The box's extents.
    pub window: Vec<u64>,
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// Bytes that a copy moves.
    pub fn bytes(&self) -> usize {
        self.window.iter().product::<u64>() as usize * self.item
    }

    /// What a driver would refuse; the tensor begins at `address`.
    pub fn check(&self, address: u64) -> Result<(), String> {
        let Self { item, extents, strides, window, swizzle } = self;
        let row = window.first().map_or(0, |n| *n as usize * item);
        let problem = match () {
            _ if !(1..=5).contains(&extents.len()) => format!("{} axes", extents.len()),
            _ if window.len() != extents.len() || strides.len() + 1 != extents.len() => "axes without numbers".into(),
            _ if ![1, 2, 4, 8].contains(item) => format!("numbers of {item} bytes"),
            _ if extents.iter().any(|n| !(1..=1 << 32).contains(n)) => format!("extents {extents:?}"),
            _ if strides.iter().any(|n| n % 16 != 0 || *n >= 1 << 40) => format!("strides {strides:?}"),
            _ if window.iter().any(|n| !(1..=256).contains(n)) => format!("a box of {window:?}"),
            _ if row % 16 != 0 => format!("rows of {row} bytes in a box"),
            _ if swizzle.row().is_some_and(|most| row > most) => format!("rows of {row} bytes under {swizzle:?}"),
            _ if !address.is_multiple_of(16) => format!("address {address:#x}"),
            _ => return Ok(()),
        };
        Err(format!("a tensor map cannot have {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_refuses_is_refused() {
        let map = |change: &dyn Fn(&mut TensorMap)| {
            let (extents, strides) = (vec![64, 5, 3], vec![128, 640]);
            let mut map = TensorMap { item: 2, extents, strides, window: vec![64, 8, 8], swizzle: Swizzle::By128 };
            change(&mut map);
            map
        };
        assert_eq!((map(&|_| ()).check(1 << 40), map(&|_| ()).bytes()), (Ok(()), 8192));
        type Change<'a> = &'a dyn Fn(&mut TensorMap);
        let changes: [(Change, &str); 10] = [
            (&|m| m.extents.clear(), "0 axes"),
            (&|m| m.strides.truncate(1), "axes without numbers"),
            (&|m| m.window.truncate(1), "axes without numbers"),
            (&|m| m.item = 3, "numbers of 3 bytes"),
            (&|m| m.extents[1] = 0, "extents [64, 0, 3]"),
            (&|m| m.extents[2] = (1 << 32) + 1, "extents [64, 5, 4294967297]"),
            (&|m| m.strides[0] = 120, "strides [120, 640]"),
            (&|m| m.window[1] = 257, "a box of [64, 257, 8]"),
            (&|m| m.window[0] = 60, "rows of 120 bytes in a box"),
            (&|m| m.swizzle = Swizzle::By64, "rows of 128 bytes under By64"),
        ];
        for (change, problem) in changes {
            assert_eq!(map(change).check(0), Err(format!("a tensor map cannot have {problem}")));
        }
        assert_eq!(map(&|_| ()).check(8).unwrap_err(), "a tensor map cannot have address 0x8");
    }
}
