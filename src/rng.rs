/*! Philox 4x32-10, the counter-based generator (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as
1, 2, 3"). A number is a function of (seed, stream, position, step): nothing is stored, nothing depends on the number of
threads, and a resumed run draws what the uninterrupted one would have drawn. */

/// What a stream of numbers is for; part of the counter, so that no two uses ever share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Dropout mask of one layer: a hash of its name.
    Dropout(u32),
    /// Initial value of one parameter: a hash of its name.
    Init(u32),
    /// Order of the training images; the step is the epoch.
    Shuffle,
    /// Assignment of groups to folds.
    Folds,
    /// Values for tests and gradient checks.
    Test(u32),
    /// Which groups a resample has.
    Bootstrap,
    /// What happens to the training images; the position is the row of the data set, the step is the update.
    Augment,
    /// One candidate of a generation; the step is the generation.
    Evolve(u32),
    /// Noise, conditions and photographs of a step of a generator; the step is the update.
    Generate,
}

impl Stream {
    /// The word of the counter that tells streams apart.
    pub fn word(self) -> u32 {
        let (purpose, n) = match self {
            Stream::Dropout(n) => (1, n),
            Stream::Init(n) => (2, n),
            Stream::Shuffle => (3, 0),
            Stream::Folds => (4, 0),
            Stream::Test(n) => (5, n),
            Stream::Augment => (6, 0),
            Stream::Bootstrap => (9, 0),
            Stream::Evolve(n) => (7, n),
            Stream::Generate => (8, 0),
        };
        (purpose << 28) | (n & 0x0fff_ffff)
    }
}

/// Ten rounds of Philox 4x32.
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let ([mut k0, mut k1], [mut c0, mut c1, mut c2, mut c3]) = (key, counter);
    for _ in 0..10 {
        let a = 0xD251_1F53_u64 * c0 as u64;
        let b = 0xCD9E_8D57_u64 * c2 as u64;
        (c0, c1, c2, c3) = ((b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32);
        (k0, k1) = (k0.wrapping_add(0x9E37_79B9), k1.wrapping_add(0xBB67_AE85));
    }
    [c0, c1, c2, c3]
}

/// The four words at position `block` of a stream. Element `i` of a tensor is word `i % 4` of block `i / 4`.
pub fn block(seed: u64, stream: Stream, step: u32, block: u64) -> [u32; 4] {
    philox([seed as u32, (seed >> 32) as u32], [block as u32, (block >> 32) as u32, stream.word(), step])
}

/// 24 random bits as a float in [0, 1): exact in f32 and f64, the same on every device.
pub fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// A sequence of numbers from one stream, for host code that draws one after another.
pub struct Rng {
    seed: u64,
    stream: Stream,
    step: u32,
    next: u64,
}

impl Rng {
    pub fn new(seed: u64, stream: Stream, step: u32) -> Self {
        Self { seed, stream, step, next: 0 }
    }
    pub fn word(&mut self) -> u32 {
        let i = self.next;
        self.next += 1;
        block(self.seed, self.stream, self.step, i / 4)[(i % 4) as usize]
    }
    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        uniform(self.word())
    }
    /// Uniform integer below `n` (> 0), without bias.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u32::try_from(n).expect("fewer than 2^32 things to choose from");
        // Lemire's method: reject the few words that would favour small results.
        loop {
            let m = self.word() as u64 * n as u64;
            if m as u32 >= n.wrapping_neg() % n {
                return (m >> 32) as usize;
            }
        }
    }
    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// FNV-1a, for stream numbers derived from names.
pub fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |h, b| (h ^ b as u32).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([!0; 2], [!0; 4]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn shuffle_is_a_permutation_and_repeats() {
        let draw = |epoch| {
            let mut v: Vec<usize> = (0..100).collect();
            Rng::new(7, Stream::Shuffle, epoch).shuffle(&mut v);
            v
        };
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
        let mut v = draw(3);
        v.sort();
        assert_eq!(v, (0..100).collect::<Vec<_>>());
    }
}
