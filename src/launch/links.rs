/*! What a training step costs on several GPUs, estimated: how long gradients take between them, and how much of that hides
behind the backward pass. Each GPU computes its part of a batch; gradients are summed in buckets, around a ring, on a stream of
their own. The rates name their sources; what comes out is no measurement.

Left out: what a collective takes from the kernels beside it (multiprocessors, memory), and ways that are faster than a ring
(trees, NVLink SHARP), which NCCL takes where it has them. */

use super::Exchange;

/// What joins GPUs. Rates are gigabytes a second in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Links {
    /// GPUs of a node, which NVLink joins.
    pub node: usize,
    /// What a ring gets out of NVLink: 370 of the 450 of an H100 SXM (NVIDIA, github.com/NVIDIA/nccl-tests/issues/212).
    pub nvlink: f64,
    /// What it gets out of the network card that each GPU has: 46 to 48 of the 50 of InfiniBand at 400 Gb/s (NVIDIA,
    /// github.com/NVIDIA/nccl-tests/issues/290).
    pub network: f64,
}

impl Default for Links {
    fn default() -> Self {
        Self { node: 8, nvlink: 370.0, network: 46.0 }
    }
}

/// Seconds until a ring begins, of a hop within a node, of one between nodes: NCCL's own model of its rings
/// (github.com/NVIDIA/nccl, src/graph/tuning.cc, `baseLat` and `hwLat`).
const BEGIN: f64 = 8.4e-6;
const HOP: f64 = 3.4e-6;
const NODE_HOP: f64 = 9.6e-6;

impl Links {
    /// Seconds of so many rounds through all of `gpus`, at each hop of which every GPU hands on its part of `bytes`.
    fn rounds(&self, rounds: f64, gpus: usize, bytes: usize) -> f64 {
        if gpus < 2 {
            return 0.0;
        }
        let nodes = gpus.div_ceil(self.node);
        // A node has as many rings as cards, and each of them leaves it by a card of its own.
        let rate = match nodes {
            1 => self.nvlink,
            _ => self.nvlink.min(self.network * gpus.min(self.node) as f64),
        };
        let (hops, between) = (rounds * (gpus - 1) as f64, rounds * (nodes - 1) as f64);
        let wait = BEGIN + (hops - between) * HOP + between * NODE_HOP;
        wait + hops * bytes as f64 / gpus as f64 / (1e9 * rate)
    }

    /// Seconds until all of `gpus` have the sum of their `bytes`.
    pub fn all_reduce(&self, gpus: usize, bytes: usize) -> f64 {
        self.rounds(2.0, gpus, bytes)
    }

    /// Seconds until each of `gpus` has its part of the sum; or, the other way round, until all have the parts of each.
    pub fn scatter(&self, gpus: usize, bytes: usize) -> f64 {
        self.rounds(1.0, gpus, bytes)
    }
}

/// Gradients that are summed together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub gradients: usize,
    pub bytes: usize,
    /// Seconds from the beginning of the step until the last of them is computed.
    pub ready: f64,
    /// How they are summed.
    pub sum: Exchange,
}

/// A training step as one GPU computes it.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Seconds of the forward and the backward pass.
    pub passes: f64,
    /// Seconds in which the parameters that this GPU updates are.
    pub update: f64,
    /// Whether GPUs update parts of every bucket, and the new parameters are handed round (ZeRO-1: Rajbhandari et al. 2020,
    /// arXiv 1910.02054).
    pub sharded: bool,
    /// Seconds of what is made of parameters that were handed round: copies in 16 bits.
    pub copies: f64,
    pub buckets: Vec<Bucket>,
}

/// When collectives begin and end, in seconds from the beginning of the step, and what they come to.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Of each bucket: its gradients are summed.
    pub sums: Vec<[f64; 2]>,
    /// Of each bucket, where GPUs update parts of it: its parameters are handed round.
    pub gathers: Vec<[f64; 2]>,
    /// Until the last parameter is what it should be.
    pub seconds: f64,
    /// Of all collectives.
    pub sent: f64,
    /// Of these, in which nothing is computed.
    pub exposed: f64,
}

impl Step {
    /// The step on one of `gpus`.
    pub fn on(&self, gpus: usize, links: &Links) -> Timeline {
        let all = self.buckets.iter().map(|b| b.bytes).sum::<usize>().max(1) as f64;
        let (mut t, mut free) = (Timeline::default(), 0f64);
        for b in &self.buckets {
            let takes = match b.sum {
                Exchange::AllReduce => links.all_reduce(gpus, b.bytes),
                Exchange::ReduceScatter | Exchange::AllGather => links.scatter(gpus, b.bytes),
            };
            let begin = free.max(b.ready);
            free = begin + takes;
            t.sums.push([begin, free]);
        }
        let mut at = self.passes;
        for (b, sum) in self.buckets.iter().zip(&t.sums) {
            at = at.max(sum[1]) + self.update * b.bytes as f64 / all;
            if self.sharded {
                let begin = free.max(at);
                free = begin + links.scatter(gpus, b.bytes);
                t.gathers.push([begin, free]);
            }
        }
        // Updates come before copies, which wait each for its bucket.
        for (b, gather) in self.buckets.iter().zip(&t.gathers) {
            at = at.max(gather[1]) + self.copies * b.bytes as f64 / all;
        }
        t.seconds = at;
        t.sent = t.sums.iter().chain(&t.gathers).map(|[from, to]| to - from).sum();
        t.exposed = t.seconds - self.passes - self.update - self.copies;
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-9 * want.abs().max(1e-9), "{got}, not {want}");
    }

    #[test]
    fn a_ring_hands_on_a_part_at_each_hop() {
        let links = Links { node: 8, nvlink: 370.0, network: 46.0 };
        // Fourteen hops of 3.4 us, and 14/8 of 370 MB at 370 GB/s.
        near(links.all_reduce(8, 370_000_000), 8.4e-6 + 14.0 * 3.4e-6 + 1.75e-3);
        near(links.scatter(8, 370_000_000), 8.4e-6 + 7.0 * 3.4e-6 + 0.875e-3);
        near(links.all_reduce(2, 370_000_000), 8.4e-6 + 2.0 * 3.4e-6 + 1e-3);
        near(links.all_reduce(1, 370_000_000), 0.0);
        // Eight nodes: 126 hops, 14 of them between nodes; eight cards of 46 GB/s are slower than NVLink.
        near(links.all_reduce(64, 368_000_000), 8.4e-6 + 112.0 * 3.4e-6 + 14.0 * 9.6e-6 + 126.0 / 64.0 * 1e-3);
        // One GPU in each of two nodes: one card.
        let lone = Links { node: 1, ..links };
        near(lone.all_reduce(2, 46_000_000), 8.4e-6 + 2.0 * 9.6e-6 + 1e-3);
        // Cards that are faster than NVLink do not make it faster.
        near(
            Links { network: 400.0, ..links }.all_reduce(16, 370_000_000),
            8.4e-6 + 28.0 * 3.4e-6 + 2.0 * 9.6e-6 + 30.0 / 16.0 * 1e-3,
        );
    }

    /// A step of 5.4 ms on two GPUs, whose buckets take 1 ms, 1 ms and 2 ms and a little.
    fn step() -> (Step, impl Fn(usize) -> f64) {
        let links = Links::default();
        let bucket = |bytes, ready| Bucket { gradients: 1, bytes, ready, sum: Exchange::AllReduce };
        let buckets = vec![bucket(370_000_000, 1e-3), bucket(370_000_000, 1.5e-3), bucket(740_000_000, 5e-3)];
        (Step { passes: 5e-3, update: 4e-4, buckets, ..Step::default() }, move |bytes| links.all_reduce(2, bytes))
    }

    #[test]
    fn what_is_computed_meanwhile_is_hidden() {
        let (step, sum) = step();
        let t = step.on(2, &Links::default());
        let (small, large) = (sum(370_000_000), sum(740_000_000));
        // The second waits for the first, the third for its gradients.
        for (got, want) in
            t.sums.iter().zip([[1e-3, 1e-3 + small], [1e-3 + small, 1e-3 + 2.0 * small], [5e-3, 5e-3 + large]])
        {
            got.iter().zip(want).for_each(|(got, want)| near(*got, want));
        }
        // Half the parameters are updated while the last bucket is summed, the other half then.
        near(t.seconds, 5e-3 + large + 2e-4);
        near(t.sent, 2.0 * small + large);
        near(t.exposed, large - 2e-4);
        assert!(t.gathers.is_empty());
        // Nobody to wait for.
        let alone = step.on(1, &Links::default());
        near(alone.seconds, 5.4e-3);
        near(alone.exposed + alone.sent + 1.0, 1.0);
    }

    #[test]
    fn who_updates_a_part_hands_it_round() {
        let (mut step, _) = step();
        let links = Links::default();
        step.buckets.iter_mut().for_each(|b| b.sum = Exchange::ReduceScatter);
        (step.sharded, step.update) = (true, 2e-4);
        let t = step.on(2, &links);
        let (small, large) = (links.scatter(2, 370_000_000), links.scatter(2, 740_000_000));
        // The first two are updated while the third is summed; the stream of the collectives is busy until then.
        near(t.sums[2][1], 5e-3 + large);
        near(t.gathers[0][0], 5e-3 + large);
        near(t.gathers[2][0], 5e-3 + large + 2.0 * small);
        near(t.seconds, 5e-3 + 2.0 * large + 2.0 * small);
        near(t.exposed, 2.0 * large + 2.0 * small - 2e-4);
        near(t.sent, 2.0 * (2.0 * small + large));
        // Copies of a bucket, half of all, are made when it is there; those of the others before.
        step.copies = 1e-4;
        near(step.on(2, &links).seconds, t.seconds + 5e-5);
        // Where every GPU needs all sums, these take twice as long.
        step.buckets.iter_mut().for_each(|b| b.sum = Exchange::AllReduce);
        near(step.on(2, &links).sums[2][1], 5e-3 + links.all_reduce(2, 740_000_000));
    }
}
