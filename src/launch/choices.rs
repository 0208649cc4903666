/*! What a device decides where several variants of a kernel compute the same bits: the tile of a product of matrices. A rule
estimates ([`Limits::clocks`]); what was measured on the device goes before it. Which of two kernels, where one is for some
GPUs alone. And what the user of a plan decides, which changes bits: [`Products`]. */

use super::estimate::{Limits, Price};
use super::gpu::Kernel;
use std::collections::BTreeMap;
use std::fmt;

/// What decides about kernels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices {
    pub limits: Limits,
    /// They change no bit.
    pub tiles: Tiles,
    pub warpgroups: Warpgroups,
}

/// Which convolutions are computed by products of warpgroups, which have bits of their own: of those that can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warpgroups {
    #[default]
    Nothing,
    /// Where that is faster by the estimate, whatever the number of images is.
    Faster,
    Everything,
}

/// By what convolutions and dense layers multiply float32 numbers. `kernels/mma/factor.cuh` derives the errors, in units of
/// the sum of the n magnitudes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// Multiply-adds: n 2^-24.
    #[default]
    Float32,
    /// Three products of tf32 on tensor cores: 2^-19 + n 2^-27.
    Tf32x3,
    /// One: 2^-10 + 3 n 2^-24.
    Tf32,
}

impl Products {
    pub const ALL: [Self; 3] = [Self::Float32, Self::Tf32x3, Self::Tf32];
}

/// The fastest variants that were measured: by the text of a [`Product`], the kernel's constants and their values.
pub type Tiles = BTreeMap<String, BTreeMap<String, i64>>;

/// Products of matrices [m,depth] [depth,n] by one launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub kernel: &'static Kernel,
    /// Constants that operands decide: elements per load, element type, products that make up one.
    pub given: Vec<(&'static str, i64)>,
    /// m, n and depth of each.
    pub extents: [usize; 3],
    /// Of one size: instances, groups of channels, phases of a stride, parts of the depth.
    pub copies: usize,
}

/// `conv_fprop_mma VEC=8 STORAGE=2 TERMS=1 m=78400 n=256 depth=2304 copies=3`: the key of tables.
impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.kernel.entry)?;
        self.given.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
        let [m, n, depth] = self.extents;
        write!(f, " m={m} n={n} depth={depth} copies={}", self.copies)
    }
}

impl Product {
    /// The variants of the kernel that compute it within `limits`, in the order of their table.
    pub fn candidates(&self, limits: &Limits) -> Vec<&'static [i64]> {
        let k = self.kernel;
        let agrees = |v: &[i64], (name, value): &(&str, i64)| k.constant(v, name) == Some(*value);
        let able =
            |v: &&&'static [i64]| self.given.iter().all(|g| agrees(v, g)) && k.shared(v) as usize <= limits.shared;
        k.variants.iter().filter(able).copied().collect()
    }

    /// A variant as tables name it: constants and their values.
    pub fn named(&self, variant: &[i64]) -> BTreeMap<String, i64> {
        self.kernel.consts.iter().map(|c| c.to_string()).zip(variant.iter().copied()).collect()
    }
}

impl Choices {
    /// The variant of a product's kernel: the measured one, or the one of the least estimate, of equal ones the first.
    pub fn tile(&self, product: &Product, price: impl Fn(&'static [i64]) -> Price) -> &'static [i64] {
        let candidates = product.candidates(&self.limits);
        self.measured(product, &candidates).unwrap_or_else(|| {
            let clocks = |v: &&'static [i64]| self.limits.clocks(product, &price(v));
            candidates.iter().copied().min_by(|a, b| clocks(a).total_cmp(&clocks(b))).expect("a tile for every product")
        })
    }

    /// The variant that the table has, if this program still has it.
    fn measured(&self, product: &Product, candidates: &[&'static [i64]]) -> Option<&'static [i64]> {
        let tile = self.tiles.get(&product.to_string())?;
        let is =
            |v: &&&'static [i64]| tile.iter().all(|(name, value)| product.kernel.constant(v, name) == Some(*value));
        candidates.iter().find(is).copied()
    }

    /// `measured` or `rule`; None where there is one candidate.
    pub fn chosen_by(&self, product: &Product) -> Option<&'static str> {
        let candidates = product.candidates(&self.limits);
        let measured = self.measured(product, &candidates).is_some();
        (candidates.len() > 1).then_some(if measured { "measured" } else { "rule" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static KERNEL: Kernel = Kernel {
        consts: &["BM", "BN", "VEC", "SHARED"],
        variants: &[&[128, 256, 8, 100_000], &[128, 128, 8, 60_000], &[64, 64, 8, 30_000], &[64, 64, 1, 20_000]],
        ..Kernel::new("none.cu", "product", 3, "")
    };

    fn price(consts: &[i64]) -> Price {
        let [m, n] = [0, 1].map(|i| consts[i] as usize);
        let (products, bytes) = ((m * n) as f64 / 1000.0, 2.0 * (m + n) as f64);
        Price { tile: [m, n], products, shared: 0.0, bytes, results: 0.0, resident: 1, last: 0.0 }
    }

    fn product(m: usize, n: usize) -> Product {
        Product { kernel: &KERNEL, given: vec![("VEC", 8)], extents: [m, n, 1024], copies: 1 }
    }

    #[test]
    fn large_products_take_large_tiles_and_small_ones_fill_the_card() {
        let size = |m, n| Choices::default().tile(&product(m, n), price)[..2].to_vec();
        assert_eq!([size(100_000, 256), size(100_000, 128), size(196, 512)], [[128, 256], [128, 128], [64, 64]]);
        // Two waves of 133 large tiles, or a whole one of twice as many.
        assert_eq!(size(133 * 128, 256), [128, 128]);
    }

    #[test]
    fn what_was_measured_goes_first_where_the_program_still_has_it() {
        let tile = |bm: i64| BTreeMap::from([("BM".to_string(), bm), ("BN".to_string(), 64)]);
        let p = product(100_000, 256);
        assert_eq!(p.to_string(), "product VEC=8 m=100000 n=256 depth=1024 copies=1");
        let known = |bm| Choices { tiles: Tiles::from([(p.to_string(), tile(bm))]), ..Choices::default() };
        assert_eq!((known(64).tile(&p, price)[0], known(64).chosen_by(&p)), (64, Some("measured")));
        assert_eq!((known(96).tile(&p, price)[..2].to_vec(), known(96).chosen_by(&p)), (vec![128, 256], Some("rule")));
    }

    #[test]
    fn a_block_has_no_more_memory_than_the_card_gives_it() {
        let small = Limits { shared: 64 << 10, ..Limits::default() };
        assert_eq!(product(1, 1).candidates(&small).len(), 2);
        let gathered = Product { given: vec![("VEC", 1)], ..product(1, 1) };
        assert_eq!(gathered.candidates(&small), [&[64, 64, 1, 20_000]]);
        assert_eq!(Choices::default().chosen_by(&gathered), None);
    }
}
