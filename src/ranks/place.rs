//! Which of several processes this one is, as whoever started them says in the environment.

use super::MOST;
use crate::error::{Error, Result};

/// A variable of the environment.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Who starts processes, and what it calls a process's number from 0, how many there are, and the same among those of one
/// machine. The first whose first two variables are set counts. `SLURM_NTASKS` is set in a batch script as well, which is one
/// process; the number of a step's tasks is not.
const STARTERS: [[&str; 4]; 4] = [
    // torchrun, and whatever follows it.
    ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"],
    // srun
    ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"],
    // mpirun of Open MPI
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"],
    // mpiexec of MPICH, Intel MPI and others
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
];

/// Names of the variables that tell how many processes there are.
pub const SIZES: [&str; 4] = [STARTERS[0][1], STARTERS[1][1], STARTERS[2][1], STARTERS[3][1]];

/// A process among several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub rank: usize,
    pub ranks: usize,
    /// Among the processes of this machine: which one, and how many there are.
    pub local: usize,
    pub locals: usize,
    /// Where the first rank is waited for: a name or an address, and a port.
    pub master: (String, u16),
}

fn number(variable: Variable, name: &str) -> Result<Option<u32>, String> {
    let Some(text) = variable(name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| format!("{name} is `{text}`, not a number"))
}

fn starter(variable: Variable) -> Option<[&'static str; 4]> {
    STARTERS.into_iter().find(|names| names[..2].iter().all(|n| variable(n).is_some()))
}

/// The number of this process from 0, and how many there are; None where it was started alone.
///
/// # Errors
/// What is wrong, in words.
pub fn numbered(variable: Variable) -> Result<Option<[u32; 2]>, String> {
    let Some([rank, size, ..]) = starter(variable) else { return Ok(None) };
    let of = |name| number(variable, name).map(|n| n.expect("it is set"));
    let (rank, size) = (of(rank)?, of(size)?);
    if rank >= size {
        return Err(format!("the environment names process {rank} of {size}, counted from 0"));
    }
    Ok(Some([rank, size]))
}

impl Place {
    /// As the environment of this process says; None where it was started alone, or is one of one.
    pub fn of_environment() -> Result<Option<Self>> {
        Self::of(&|name| std::env::var(name).ok())
    }

    /// # Errors
    /// A variable that is no number or contradicts another, too many processes, and no address of the first.
    pub fn of(variable: Variable) -> Result<Option<Self>> {
        let wrong = |why: String| Error::usage(why).fix("start it as torchrun, srun or mpirun do, or alone");
        let Some([rank, ranks]) = numbered(variable).map_err(wrong)?.map(|n| n.map(|n| n as usize)) else {
            return Ok(None);
        };
        if ranks == 1 {
            return Ok(None);
        }
        if ranks > MOST {
            return Err(wrong(format!("{ranks} ranks: one model is trained by {MOST} at most")));
        }
        let [.., local, locals] = starter(variable).expect("found above");
        let local = number(variable, local).map_err(wrong)?.map_or(0, |n| n as usize);
        let locals = number(variable, locals).map_err(wrong)?.map_or(local + 1, |n| n as usize).max(local + 1);
        Ok(Some(Self { rank, ranks, local, locals, master: master(variable, ranks, locals).map_err(wrong)? }))
    }
}

/// Where the first rank waits.
fn master(variable: Variable, ranks: usize, locals: usize) -> Result<(String, u16), String> {
    /// PyTorch's.
    const PORT: u16 = 29500;
    let named = number(variable, "MASTER_PORT")?;
    let port = |n: u32| u16::try_from(n).map_err(|_| format!("MASTER_PORT is {n}, not a port"));
    let job = ["SLURM_JOB_ID", "OMPI_MCA_ess_base_jobid"].iter().find_map(|n| variable(n)?.parse::<u64>().ok());
    let own = match named {
        // At its own port torchrun listens itself, where it says so.
        Some(n) if variable("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True") => port(n + 1)?,
        Some(n) => port(n)?,
        // Jobs that share a machine wait apart.
        None => PORT + (job.unwrap_or(0) % 1000) as u16,
    };
    if let Some(address) = variable("MASTER_ADDR") {
        return Ok((address, own));
    }
    if let Some(list) = variable("SLURM_JOB_NODELIST") {
        return Ok((first_host(&list), own));
    }
    if locals >= ranks {
        return Ok(("127.0.0.1".into(), own));
    }
    Err("MASTER_ADDR is not set, the name or address of the machine of rank 0".into())
}

/// The first of a list of hosts as Slurm writes it: `gpu[03-07,9],cpu1` begins with `gpu03`.
fn first_host(list: &str) -> String {
    let Some(open) = list.find('[').filter(|open| !list[..*open].contains(',')) else {
        return list.split(',').next().unwrap_or_default().into();
    };
    let (head, rest) = (&list[..open], &list[open + 1..]);
    let (inside, after) = rest.split_once(']').unwrap_or((rest, ""));
    let first = inside.split([',', '-']).next().unwrap_or_default();
    // What follows up to the next comma is the end of the name, which may have brackets of its own.
    head.to_string() + first + &first_host(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<Place>> {
        let set = |name: &str| text.split(' ').filter_map(|v| v.split_once('=')).find(|v| v.0 == name);
        Place::of(&|name| set(name).map(|v| v.1.into()))
    }

    fn place(rank: usize, ranks: usize, local: usize, locals: usize, host: &str, port: u16) -> Option<Place> {
        Some(Place { rank, ranks, local, locals, master: (host.into(), port) })
    }

    #[test]
    fn whoever_starts_ranks_is_understood() {
        let torchrun = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=a MASTER_PORT=7000";
        assert_eq!(of(torchrun).unwrap(), place(5, 8, 1, 4, "a", 7000));
        let agent = format!("{torchrun} TORCHELASTIC_USE_AGENT_STORE=True SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2");
        assert_eq!(of(&agent).unwrap(), place(5, 8, 1, 4, "a", 7001));
        let srun = "SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 SLURM_NTASKS_PER_NODE=2 SLURM_JOB_ID=41007 \
                    SLURM_JOB_NODELIST=gpu[03-07,9],cpu1";
        assert_eq!(of(srun).unwrap(), place(3, 4, 1, 2, "gpu03", 29507));
        let mpirun = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 \
                      OMPI_COMM_WORLD_LOCAL_SIZE=2";
        assert_eq!(of(mpirun).unwrap(), place(1, 2, 1, 2, "127.0.0.1", 29500));
        assert_eq!(of("PMI_RANK=0 PMI_SIZE=2 MASTER_ADDR=b").unwrap(), place(0, 2, 0, 1, "b", 29500));
        // One alone: by hand, in a batch script of a job of several tasks, as one of one.
        for alone in ["", "SLURM_PROCID=0 SLURM_NTASKS=8", "RANK=0 WORLD_SIZE=1", "RANK=1"] {
            assert_eq!(of(alone).unwrap(), None, "{alone}");
        }
        for (text, part) in [
            ("RANK=2 WORLD_SIZE=2", "process 2 of 2"),
            ("RANK=x WORLD_SIZE=2", "RANK is `x`"),
            ("RANK=0 WORLD_SIZE=65", "64 at most"),
            ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR is not set"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", "not a port"),
        ] {
            let e = of(text).unwrap_err().to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
    }

    #[test]
    fn lists_of_hosts_have_a_first() {
        let lists =
            [("a1", "a1"), ("a1,b2", "a1"), ("n[1,4-6]", "n1"), ("b,n[1-2]", "b"), ("r[1-2]n[07-9],x", "r1n07")];
        for (list, first) in lists {
            assert_eq!(first_host(list), first);
        }
    }
}
