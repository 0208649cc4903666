/*! Floor 1: the processes that train one model together, as each of them sees the others. A process is called a rank and has a
number from 0; which one it is comes from the environment ([`Place`]), and what ranks say to each other goes through a
[`Communicator`]. [`Tcp`] is one over sockets: for CPUs and for tests. */

mod place;
mod tcp;

pub use place::{Place, SIZES, numbered};
pub use tcp::{PATIENCE, SILENCE, Tcp};

use crate::error::{Error, Result};
use crate::launch::Exchange;
use std::ops::Range;
use std::sync::Arc;

/// Most ranks of a job: each of them is connected with every other.
pub const MOST: usize = 64;

/// Bytes of the gradients that are summed in one message: as in PyTorch's DistributedDataParallel, enough for the rate of a
/// network, and few enough that the first are on their way while the others are still computed.
pub const BUCKET: usize = 25 << 20;

/// A value is cut into shares at multiples of so many numbers: 256 bytes, which suit every kernel.
const GRAIN: usize = 64;

/// The shares of ranks in a bucket of values that have so many numbers, counted through: where each begins, and at last where all
/// end. They are equal but for fewer than [`GRAIN`] numbers where a value is cut.
pub fn shares(sizes: &[usize], ranks: usize) -> Vec<usize> {
    let all: usize = sizes.iter().sum();
    let cut = |rank: usize| {
        let (cut, mut at) = (all * rank / ranks, 0);
        for n in sizes {
            if cut < at + n {
                return at + (cut - at) / GRAIN * GRAIN;
            }
            at += n;
        }
        all
    };
    (0..=ranks).map(cut).collect()
}

/// What a share is made of: of each value that has a part in it, its place in the bucket, and which of its numbers.
pub fn pieces(sizes: &[usize], share: Range<usize>) -> Vec<(usize, Range<usize>)> {
    let (mut at, mut pieces) = (0, vec![]);
    for (i, n) in sizes.iter().enumerate() {
        let inside = |x: usize| x.clamp(at, at + n) - at;
        let piece = inside(share.start)..inside(share.end);
        at += n;
        if !piece.is_empty() {
            pieces.push((i, piece));
        }
    }
    pieces
}

/// What the ranks of a job do together. Every rank makes the same calls in the same order, from one thread at a time; where one
/// does not, the call fails on the others, and says which rank it was and what it did instead.
///
/// Sums have the same bits on every rank, and again whenever the same numbers are added by as many ranks.
pub trait Communicator: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;
    /// How many ranks there are, at least 1.
    fn ranks(&self) -> usize;
    /// What follows belongs to this update of the weights, the same on every rank.
    fn at(&self, step: u64);
    /// Does what `how` says with the values of a bucket, each as long on every rank.
    fn exchange(&self, how: Exchange, bucket: u32, values: &mut [&mut [f32]]) -> Result<()>;
    /// The same in float64: the definition.
    fn exchange64(&self, how: Exchange, bucket: u32, values: &mut [&mut [f64]]) -> Result<()>;
    /// What every rank gives, by rank, as long as it likes.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// The same to the first rank alone; the others hear nothing.
    fn collect(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// Replaces `bytes` by those of rank `from`.
    fn broadcast(&self, from: usize, bytes: &mut Vec<u8>) -> Result<()>;
    /// Waits until every rank is here.
    fn barrier(&self) -> Result<()> {
        self.gather(&[]).map(drop)
    }
    /// Whether all others live, as far as this rank has heard; of those that are lost one line. Waits for nobody.
    fn alive(&self) -> Result<()>;
    /// Tells the others why this rank ends, so that each of them can say it. Nothing can be done together afterwards.
    fn leave(&self, why: &str);
}

/// How the others are reached; None where there are none.
pub type Peers = Option<Arc<dyn Communicator>>;

/// The first rank of a job: the one that writes.
pub fn leads(peers: &Peers) -> bool {
    peers.as_ref().is_none_or(|p| p.rank() == 0)
}

/// The rows of a batch of `batch` rows that a rank computes at most: those of rank r are from r times as many on.
pub fn rows_of_a_rank(batch: usize, ranks: usize) -> usize {
    batch.div_ceil(ranks.max(1))
}

/// Refuses ranks that do not compute the same. `own` are names and values that all must have alike; the first rank's count.
///
/// # Errors
/// One line with every value that differs: its name, who has it, and what the first rank has.
pub fn agree(peers: &dyn Communicator, own: &[(String, String)]) -> Result<()> {
    let text = serde_json::to_vec(own).expect("plain text");
    let all = peers.gather(&text)?;
    let read = |bytes: &Vec<u8>| serde_json::from_slice::<Vec<(String, String)>>(bytes).unwrap_or_default();
    let first = read(&all[0]);
    let mut differ = vec![];
    for (rank, bytes) in all.iter().enumerate().skip(1) {
        let other = read(bytes);
        let value = |of: &[(String, String)], name: &str| {
            of.iter().find(|(n, _)| n == name).map_or("nothing".to_string(), |(_, v)| v.clone())
        };
        let mut names: Vec<&String> = first.iter().chain(&other).map(|(n, _)| n).collect();
        names.sort();
        names.dedup();
        for name in names {
            let [a, b] = [&first, &other].map(|of| value(of, name));
            if a != b {
                differ.push(format!("{name} is {a} on rank 0 and {b} on rank {rank}"));
            }
        }
    }
    if differ.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("the ranks do not train the same: {}", differ.join("; ")))
        .fix("start every rank with the same program, command and pictures"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal_and_cut_values_where_kernels_can() {
        for sizes in [&[1000][..], &[7, 0, 1, 40], &[64 * 9, 5, 64 * 30 + 1, 3], &[25_088 * 4096, 4096]] {
            let all: usize = sizes.iter().sum();
            for ranks in [1, 2, 3, 8, 64] {
                let cuts = shares(sizes, ranks);
                assert!(cuts.len() == ranks + 1 && cuts[0] == 0 && cuts[ranks] == all && cuts.is_sorted(), "{cuts:?}");
                let mut got = vec![0; sizes.len()];
                for share in cuts.windows(2) {
                    let more = (share[1] - share[0]).abs_diff(all / ranks);
                    assert!(more <= GRAIN, "{more} numbers off: {sizes:?}, {ranks} ranks");
                    let pieces = pieces(sizes, share[0]..share[1]);
                    assert_eq!(pieces.iter().map(|p| p.1.len()).sum::<usize>(), share[1] - share[0]);
                    for (i, piece) in pieces {
                        // In the order of the ranks, from a number on that kernels can begin with.
                        assert!(piece.start == got[i] && piece.start.is_multiple_of(GRAIN) && !piece.is_empty());
                        got[i] = piece.end;
                    }
                }
                assert_eq!(got, sizes);
            }
        }
    }
}
