//! A part of the pictures, for one of several processes that know nothing of each other.

use crate::hash;
use crate::ranks;

/// One of several parts. Which pictures are in it follows from their names alone: from the path within the folder or archive
/// that was named, or from the path as it is listed. So every picture is in exactly one, in whatever order they are found and
/// whatever else lies beside them; and parts are only nearly equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    index: u32,
    of: u32,
    /// It was found in the environment, where every process of a job finds its own.
    pub found: bool,
}

/// What names a task of an array: its number, the first, the last, their distance, and how many there are where that is told.
const ARRAYS: [[&str; 5]; 2] = [
    [
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_MAX",
        "SLURM_ARRAY_TASK_STEP",
        "SLURM_ARRAY_TASK_COUNT",
    ],
    ["SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE", ""],
];

/// Most parts.
const MOST: u32 = 1_000_000;

impl Shard {
    /// `3/8`, or `auto`: what the environment says.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Self::of_environment(|name| std::env::var(name).ok());
        }
        let (index, of) = text.split_once('/').ok_or("not I/N, as in 3/8, and not auto")?;
        let number = |t: &str| t.parse::<u32>().map_err(|_| format!("`{t}` is not a whole number"));
        Self { index: number(index)?, of: number(of)?, found: false }.checked()
    }

    fn checked(self) -> Result<Self, String> {
        let Self { index, of, .. } = self;
        match (index, of) {
            (_, of) if !(1..=MOST).contains(&of) => Err(format!("there are 1 to {MOST} shards, not {of}")),
            (0, of) => Err(format!("shards are counted from 1: the first is 1/{of}")),
            (index, of) if index > of => Err(format!("there is no shard {index} of {of}: the last is {of}/{of}")),
            _ => Ok(self),
        }
    }

    /// The task of an array, and its process among several: an array of 4 tasks of 2 processes each has 8 shards.
    fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number = |name: &str| match variable(name) {
            None => Err(format!("{name} is not set; give I/N")),
            Some(text) => text.parse::<u32>().map_err(|_| format!("{name} is `{text}`, not a number; give I/N")),
        };
        let (mut index, mut of, mut found) = (0, 1, false);
        // A job of SGE that is no array has the word `undefined`.
        let array = |names: &&[&str; 5]| variable(names[0]).is_some_and(|v| v != "undefined");
        if let Some([id, first, last, step, count]) = ARRAYS.iter().find(array) {
            let [id, first, last, step] = [number(id)?, number(first)?, number(last)?, number(step)?.max(1)];
            let n = (last.saturating_sub(first) / step).saturating_add(1);
            if !(first..=last).contains(&id) || (id - first) % step != 0 || !count.is_empty() && number(count)? != n {
                return Err(format!(
                    "the tasks of the array ({first} to {last}, this one is {id}) are not evenly spaced; give I/N"
                ));
            }
            (index, of, found) = ((id - first) / step, n, true);
        }
        if let Some([rank, size]) = ranks::numbered(&variable).map_err(|e| format!("{e}; give I/N"))? {
            let wide = u64::from(index) * u64::from(size) + u64::from(rank);
            index = u32::try_from(wide).unwrap_or(u32::MAX - 1);
            (of, found) = (of.saturating_mul(size), true);
        }
        if !found {
            let all = ARRAYS.iter().map(|names| names[0]).chain(ranks::SIZES);
            return Err(format!("none of {} is set; give I/N", all.collect::<Vec<_>>().join(", ")));
        }
        Self { index: index + 1, of, found }.checked()
    }

    /// Whether a picture of this name is in it.
    pub fn has(&self, name: &[u8]) -> bool {
        let place = (u128::from(hash::checksum(name)) * u128::from(self.of)) >> 64;
        place as u32 == self.index - 1
    }

    /// The name of a file of it, as in `part-03-of-16.csv`: files are listed in the order of the parts.
    pub fn file_name(&self, ending: &str) -> String {
        let width = self.of.to_string().len();
        format!("part-{:0width$}-of-{}.{ending}", self.index, self.of)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_of_nearly_equal_parts() {
        for of in [1, 2, 3, 8, 100] {
            let shards: Vec<Shard> = (1..=of).map(|i| Shard::parse(&format!("{i}/{of}")).unwrap()).collect();
            let mut sizes = vec![0_u32; of as usize];
            for i in 0..10_000 {
                for name in [format!("{i:06}.jpg"), format!("a/{i}.jpeg")] {
                    let own: Vec<usize> = (0..shards.len()).filter(|s| shards[*s].has(name.as_bytes())).collect();
                    assert_eq!(own.len(), 1, "{name} of {of}");
                    sizes[own[0]] += 1;
                }
            }
            // Six standard deviations of a binomial.
            let mean = 20_000.0 / f64::from(of);
            assert!(sizes.iter().all(|n| (f64::from(*n) - mean).abs() <= 6.0 * mean.sqrt()), "{of}: {sizes:?}");
        }
        // Of all versions of this program: parts of one job may be made by two.
        assert_eq!((1..=8).find(|i| Shard::parse(&format!("{i}/8")).unwrap().has(b"a.jpg")), Some(3));
        assert_eq!(Shard::parse("3/10").unwrap().file_name("csv"), "part-03-of-10.csv");
    }

    #[test]
    fn what_is_no_part_is_said() {
        for (text, part) in [
            ("5/4", "no shard 5 of 4"),
            ("0/4", "the first is 1/4"),
            ("1/0", "1 to 1000000 shards, not 0"),
            ("1/4000000000", "not 4000000000"),
            ("4", "not I/N"),
            ("a/4", "`a` is not"),
            ("-1/4", "`-1` is not"),
            ("1/4/4", "`4/4` is not"),
            ("", "not I/N"),
        ] {
            let e = Shard::parse(text).unwrap_err();
            assert!(e.contains(part), "{text}: {e}");
        }
    }

    #[test]
    fn a_job_tells_its_tasks_apart() {
        let of = |text: &str| {
            let of = |name: &str| text.split(' ').filter_map(|v| v.split_once('=')).find(|v| v.0 == name);
            Shard::of_environment(|name| of(name).map(|v| v.1.into())).map(|s| s.to_string())
        };
        let slurm = |id, min, max, step, count| {
            format!(
                "SLURM_ARRAY_TASK_ID={id} SLURM_ARRAY_TASK_MIN={min} SLURM_ARRAY_TASK_MAX={max} \
                 SLURM_ARRAY_TASK_STEP={step} SLURM_ARRAY_TASK_COUNT={count}"
            )
        };
        assert_eq!(of(&slurm(0, 0, 7, 1, 8)), Ok("1/8".into()));
        assert_eq!(of(&slurm(8, 1, 8, 1, 8)), Ok("8/8".into()));
        assert_eq!(of(&slurm(5, 1, 9, 4, 3)), Ok("2/3".into()));
        assert_eq!(of(&(slurm(2, 1, 4, 1, 4) + " SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2")), Ok("4/8".into()));
        // A batch script is one process.
        assert_eq!(of(&(slurm(2, 1, 4, 1, 4) + " SLURM_PROCID=0 SLURM_NTASKS=2")), Ok("2/4".into()));
        assert_eq!(of("SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4"), Ok("4/4".into()));
        assert_eq!(of("RANK=0 WORLD_SIZE=2"), Ok("1/2".into()));
        assert_eq!(of("OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3"), Ok("3/3".into()));
        assert_eq!(of("SGE_TASK_ID=4 SGE_TASK_FIRST=2 SGE_TASK_LAST=8 SGE_TASK_STEPSIZE=2"), Ok("2/4".into()));
        for (text, part) in [
            (slurm(3, 1, 7, 1, 3), "not evenly spaced"),
            (slurm(9, 1, 8, 1, 8), "not evenly spaced"),
            ("SLURM_ARRAY_TASK_ID=3".into(), "SLURM_ARRAY_TASK_MIN is not set"),
            ("RANK=x WORLD_SIZE=2".into(), "RANK is `x`"),
            ("RANK=2 WORLD_SIZE=2".into(), "process 2 of 2"),
            ("SGE_TASK_ID=undefined".into(), "none of SLURM_ARRAY_TASK_ID, SGE_TASK_ID, WORLD_SIZE"),
            ("RANK=1".into(), "PMI_SIZE is set"),
        ] {
            let e = of(&text).unwrap_err();
            assert!(e.contains(part), "{text}: {e}");
        }
    }
}
