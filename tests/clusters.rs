//! The program under the engines that run it on many machines, where they are installed: the script of `study slurm` under
//! Slurm's daemons, of which a test starts a pair for itself (as root, who alone may run tasks for others), and a worker under Ray.
#![cfg(unix)]

#[path = "common/devices.rs"]
mod devices;
#[path = "common/runs.rs"]
mod runs;

use runs::text;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Two models on two folds; the first two cells last until they are asked to end.
const STUDY: &str = r#"
manifest = "set.csv"
folds = 2

[train]
image = 32
width = 32
head = [12, 6]
epochs = EPOCHS
patience = 1000000
batch = 4
val = 0.2
lr = 0.01
init-missing = true
features = ["object"]

[[model]]
name = "shared"

[[model]]
name = "split"
architecture = "split"
"#;

fn fine(out: Output) -> String {
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout).to_string()
}

/// A controller and a node without authentication, on this machine's loopback alone.
struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    fn start(folder: PathBuf) -> Self {
        ["state", "spool"].iter().for_each(|f| fs::create_dir_all(folder.join(f)).unwrap());
        let host = text(&Command::new("hostname").arg("-s").output().unwrap().stdout).trim().to_string();
        let ports = [0, 0].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [controller, node] = ports.each_ref().map(|p| p.local_addr().unwrap().port());
        drop(ports);
        let at = folder.display();
        // Two GPUs, which nothing touches: the script asks for one.
        let config = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={controller}\nSlurmdPort={node}\n\
             AuthType=auth/none\nCredType=cred/none\nSlurmUser=root\nSlurmdUser=root\n\
             StateSaveLocation={at}/state\nSlurmdSpoolDir={at}/spool\nSlurmctldPidFile={at}/slurmctld.pid\n\
             SlurmdPidFile={at}/slurmd.pid\nSlurmctldLogFile={at}/slurmctld.log\nSlurmdLogFile={at}/slurmd.log\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nMpiDefault=none\nSwitchType=switch/none\n\
             SlurmdParameters=config_overrides\nGresTypes=gpu\nSchedulerParameters=sched_interval=1,batch_sched_delay=0\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=100 Gres=gpu:2 State=UNKNOWN\n\
             PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
        );
        fs::write(folder.join("slurm.conf"), config).unwrap();
        let gpus = format!("NodeName={host} Name=gpu File=/dev/null\nNodeName={host} Name=gpu File=/dev/zero\n");
        fs::write(folder.join("gres.conf"), gpus).unwrap();
        let cluster = Self { folder };
        ["slurmctld", "slurmd"].iter().for_each(|daemon| drop(fine(cluster.run(Path::new("/"), &[daemon, "-c"]))));
        cluster.until("the node is there", || text(&cluster.run(Path::new("/"), &["sinfo"]).stdout).contains(" idle "));
        cluster
    }

    /// One of Slurm's programs, or one that finds them.
    fn run(&self, dir: &Path, args: &[&str]) -> Output {
        let bin = Path::new(env!("CARGO_BIN_EXE_deep-affect")).parent().unwrap();
        let path = format!("{}:{}:/usr/sbin", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(args[0]);
        command.args(&args[1..]).current_dir(dir).env("PATH", path);
        command.env("SLURM_CONF", self.folder.join("slurm.conf")).output().unwrap()
    }

    /// Waits; says what the daemons said where it is in vain.
    fn until(&self, what: &str, mut there: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !there() {
            if Instant::now() > end {
                let beside = fs::read_dir(self.folder.parent().unwrap()).unwrap().map(|f| f.unwrap().path());
                let told = beside.filter(|f| f.extension().is_some_and(|e| e == "out"));
                let told = told.chain(["slurmctld.log", "slurmd.log"].map(|log| self.folder.join(log)));
                let told = told.map(|f| format!("{}\n{}", f.display(), fs::read_to_string(&f).unwrap_or_default()));
                panic!("not within a minute: {what}\n{}", told.collect::<String>());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run(Path::new("/"), &["scancel", "-u", "root"]);
        // A node that ends before its tasks leaves them to themselves.
        let end = Instant::now() + Duration::from_secs(20);
        while !self.run(Path::new("/"), &["squeue", "-h"]).stdout.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.run(Path::new("/"), &["scontrol", "shutdown"]);
    }
}

/// Costs seven seconds where Slurm is installed.
#[test]
fn tasks_that_are_queued_again_go_on() {
    let there = |program: &str| Path::new("/usr/sbin").join(program).exists();
    if !there("slurmctld") || !there("slurmd") {
        return devices::without("slurm", &"no slurmctld in /usr/sbin; `apt-get install slurm-wlm`");
    }
    // SAFETY: it asks and changes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return devices::without("slurm", &"its daemons have to be started by root");
    }
    let dir = runs::folder();
    let p = dir.path();
    let cluster = Cluster::start(p.join("cluster"));
    for (name, epochs) in [("short", "2"), ("long", "100000")] {
        fs::write(p.join(format!("{name}.toml")), STUDY.replace("EPOCHS", epochs)).unwrap();
        let script = format!("{name}.sbatch");
        fine(
            runs::program(p, &["study", "slurm", &format!("{name}.toml"), "--out", name, "--script", &script])
                .output()
                .unwrap(),
        );
    }
    let submit = |args: &[&str]| {
        let out =
            [&["sbatch", "--parsable", "--output=%A_%a.out"], args, &["--device", "cpu", "--threads", "1"]].concat();
        fine(cluster.run(p, &out)).trim().to_string()
    };
    let said = |job: &str, task: u32| fs::read_to_string(p.join(format!("{job}_{task}.out"))).unwrap_or_default();

    // As it is: a task for each cell, and the last one makes the tables.
    let job = submit(&["short.sbatch"]);
    cluster.until("the tables", || p.join("short/tables.md").exists());
    assert_eq!((1..=4).map(|task| said(&job, task).matches("\ncell ").count()).sum::<usize>(), 4);

    // Queued again by somebody else, and by the script when its time is nearly over: both cells stop in order and go on.
    let job = submit(&["--array=1-2", "long.sbatch"]);
    let checkpoint = |fold: u32| p.join(format!("long/shared/fold-{fold}.safetensors"));
    cluster.until("checkpoints", || (1..=2).all(|fold| checkpoint(fold).exists()));
    let task = |n: u32| format!("{job}_{n}");
    fine(cluster.run(p, &["scontrol", "requeue", &task(1)]));
    fine(cluster.run(p, &["scancel", "--batch", "--signal=USR1", &task(2)]));
    let stopped = |n: u32| said(&job, n).matches("\nerror: stopped ").count();
    cluster.until("both are stopped", || (1..=2).all(|n| stopped(n) == 1));
    let state = |n: u32| text(&cluster.run(p, &["squeue", "-h", "-j", &task(n), "-o", "%T"]).stdout).trim().to_string();
    cluster.until("both wait", || (1..=2).all(|n| state(n) == "PENDING"));
    let epochs = |n: u32| {
        let file = deep_affect::weights::WeightFile::open(checkpoint(n)).unwrap();
        deep_affect::train::checkpoint::card(&file).unwrap().state.epoch
    };
    let before = [epochs(1), epochs(2)];
    // Slurm lets a job rest for two minutes before it begins again. Within the second in which it ended it would not be let in:
    // credentials are revoked by the second.
    std::thread::sleep(Duration::from_secs(2));
    (1..=2).for_each(|n| {
        drop(fine(cluster.run(p, &["scontrol", "update", &format!("jobid={}", task(n)), "StartTime=now"])))
    });
    cluster.until("both run", || (1..=2).all(|n| state(n) == "RUNNING"));
    // From where they were: a cell that began anew would have a checkpoint of fewer epochs.
    cluster.until("both train", || {
        let now = [epochs(1), epochs(2)];
        assert!(now[0] >= before[0] && now[1] >= before[1], "{now:?} epochs, after {before:?}");
        now[0] > before[0] && now[1] > before[1]
    });
}

/// The example of the page, as it stands there but for its resources. Costs ten seconds where Ray is installed.
#[test]
fn ray_rates_a_list() {
    let python = |code: &str, dir: &Path| {
        let path = Path::new(env!("CARGO_BIN_EXE_deep-affect")).parent().unwrap();
        let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap());
        Command::new("python3").args(["-c", code]).current_dir(dir).env("PATH", path).output().unwrap()
    };
    if !python("import ray.data, pandas", Path::new("/")).status.success() {
        return devices::without("ray", &"python3 cannot import it; `python3 -m pip install ray pandas pyarrow`");
    }
    let page = include_str!("../src/experiment/prediction/README.md");
    let (_, example) = page.split_once("```python\nclass Rate:").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let here =
        [("ray.data.read", "rows = ray.data.read"), ("concurrency=8", "concurrency=2"), ("num_gpus=1", "num_cpus=0.5")];
    let example = here.into_iter().fold(example.to_string(), |text, (there, here)| {
        assert!(text.contains(there), "{text}");
        text.replace(there, here)
    });
    let code = format!(
        "import json, subprocess, pandas, ray\nray.init(num_cpus=2, include_dashboard=False)\nclass Rate:{example}\n\
         for row in rows.take_all(): print(json.dumps(row))\n"
    );
    let dir = runs::folder();
    let paths: Vec<String> = (0..24).map(|i| format!("pictures/{i}.png")).collect();
    fs::write(dir.path().join("list.csv"), format!("path\n{}\n", paths.join("\n"))).unwrap();
    fs::write(dir.path().join("list.txt"), paths.join("\n")).unwrap();
    let rows = |text: String| {
        let all = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        let mut all: Vec<_> = all.map(|row| (row["path"].to_string(), row["valence_1to9"].as_f64().unwrap())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let want = rows(runs::good(dir.path(), &["predict", "--list", "list.txt", "--format", "jsonl"]));
    assert_eq!((rows(fine(python(&code, dir.path()))), want.len()), (want, 24));
}
