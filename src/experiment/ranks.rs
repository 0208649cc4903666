//! One run by several ranks: who this one is, what it computes on, and what it tells and hears.

use super::config::Compute;
use super::events::{Events, tell};
use crate::device::{Cuda, Data, cuda};
use crate::error::{Error, Kind, Message, Result, option};
use crate::hash;
use crate::ops::norm;
use crate::progress::Progress;
use crate::ranks::{Communicator, PATIENCE, Peers, Place, Tcp, agree};
use crate::train::checkpoint::Card;
use crate::train::fit::{self, State};
use crate::train::network::Network;
use crate::weights::WeightFile;
use serde_json::Value;
use std::ffi::OsString;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Meets the other ranks, at the place that the environment gives this one.
///
/// # Errors
/// A rank that does not come, or is of another program.
pub fn meet(place: &Place) -> Result<Arc<dyn Communicator>> {
    Ok(Arc::new(Tcp::meet(place, PATIENCE)?))
}

/// The processes of this machine that are the other ranks of this one. They end with it.
pub struct Crew(Vec<Child>);

impl Crew {
    /// Starts this program `ranks - 1` times with `arguments`, and meets what it started: this process is rank 0.
    ///
    /// # Errors
    /// A process that cannot be started, or ends before it has come.
    pub fn start(ranks: usize, arguments: &[OsString]) -> Result<(Self, Place, Arc<dyn Communicator>)> {
        let wrong = |e: std::io::Error| Error::job(format!("cannot start {ranks} ranks: {e}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(wrong)?;
        let port = listener.local_addr().map_err(wrong)?.port();
        let (program, mut crew) = (std::env::current_exe().map_err(wrong)?, Self(vec![]));
        for rank in 1..ranks {
            let mut command = Command::new(&program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            for (name, number) in
                [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", ranks), ("LOCAL_WORLD_SIZE", ranks)]
            {
                command.env(name, number.to_string());
            }
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
            crew.0.push(command.spawn().map_err(wrong)?);
        }
        let tcp = Tcp::host(listener, ranks, PATIENCE, &mut || crew.lives())?;
        let place = Place { rank: 0, ranks, local: 0, locals: ranks, master: ("127.0.0.1".into(), port) };
        Ok((crew, place, Arc::new(tcp)))
    }

    /// Fails where one of them has ended, with the last line that it wrote.
    fn lives(&mut self) -> Result<()> {
        for (rank, child) in (1..).zip(&mut self.0) {
            if let Ok(Some(status)) = child.try_wait() {
                let mut text = String::new();
                let read = child.stderr.take().map(|mut e| e.read_to_string(&mut text));
                let last = text.lines().last().filter(|_| read.is_some()).unwrap_or_default();
                return Err(Error::job(format!("rank {rank} has ended before it began ({status}): {last}")));
            }
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        /// How long they have to end by themselves.
        const GRACE: Duration = Duration::from_secs(5);
        let until = Instant::now() + GRACE;
        for child in &mut self.0 {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
                thread::sleep(Duration::from_millis(10));
            }
            // Of one that has ended this does nothing.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a rank computes on: of several on one machine each has its own GPU, or its share of the cores.
pub fn computing(mut compute: Compute, place: &Place) -> Compute {
    let Place { local, locals, .. } = *place;
    if compute.device == "cuda" || compute.device == "auto" && Cuda::new(local).is_ok() {
        compute.device = format!("cuda:{local}");
    } else if compute.device == "auto" && cuda::driver().is_err() {
        compute.device = "cpu".into();
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    compute.threads.get_or_insert((cores / locals).max(1));
    compute
}

/// What a rank other than the first says: nothing. It stops as the first does.
pub struct Quiet(pub Arc<dyn Events>);

impl Progress for Quiet {
    fn start(&self, _: &str, _: u64) {}
    fn inc(&self) {}
    fn done(&self) {}
    fn stopped(&self) -> bool {
        self.0.stopped()
    }
}

impl Events for Quiet {
    fn remark(&self, _: &Message) {}
    fn training(&self, runs: bool) {
        self.0.training(runs)
    }
}

/// Tells the others why this rank ends, where it ends by an error. Of being asked to stop all know already, and who hears of it a
/// second time may still wait for what a third rank said before it stopped.
pub fn parting<T>(peers: &Peers, result: Result<T>) -> Result<T> {
    if let (Some(peers), Err(e)) = (peers, &result) {
        match e.kind() {
            Kind::Interrupted => peers.leave(""),
            _ => peers.leave(&e.to_string()),
        }
    }
    result
}

/// Fails unless every rank trains the same, on the same pictures.
pub(super) fn compared(peers: &dyn Communicator, card: &Card, sharded: bool) -> Result<()> {
    let kept = if sharded { "in shares" } else { "whole" };
    let version = ("version".to_string(), crate::VERSION.to_string());
    let mut all = vec![version, ("optimizer_state".to_string(), kept.to_string())];
    let mut value = serde_json::to_value(card).expect("a card is plain data");
    if let Value::Object(fields) = &mut value {
        // Who makes it, and where it stands, which the first rank tells.
        ["made_by", "state"].iter().for_each(|name| drop(fields.remove(*name)));
    }
    flatten("", &value, &mut all);
    agree(peers, &all)
}

/// The leaves of a tree, by their path. Of what no line can hold the checksum stands for it.
fn flatten(path: &str, value: &Value, to: &mut Vec<(String, String)>) {
    const LONG: usize = 64;
    let inner = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, v)| flatten(&inner(name), v, to)),
        Value::Array(all) if all.iter().any(Value::is_object) => {
            all.iter().enumerate().for_each(|(i, v)| flatten(&inner(&(i + 1).to_string()), v, to));
        }
        leaf => {
            let text = leaf.to_string();
            let sum = || format!("{:016x} (a checksum)", hash::checksum(text.as_bytes()));
            let shown = if text.len() > LONG { sum() } else { text.clone() };
            to.push((path.into(), shown));
        }
    }
}

/// Gives every rank the weights of the first, what its optimiser remembers, and where its run stands. Only the first reads what is
/// gone on from: `file`.
pub(super) fn begin_alike(
    peers: &dyn Communicator,
    net: &mut Network,
    state: &mut State,
    file: Option<&WeightFile>,
) -> Result<()> {
    let mut text = serde_json::to_vec(state).expect("a state is plain data");
    peers.broadcast(0, &mut text)?;
    *state = serde_json::from_slice(&text)
        .map_err(|e| Error::job(format!("where the run of rank 0 stands cannot be read: {e}")))?;
    net.stored().into_iter().try_for_each(|v| fit::first_ranks(net, peers, v))?;
    if !net.sharded {
        let memory: Vec<_> = net.parts.iter().flat_map(|p| p.memory().collect::<Vec<_>>()).collect();
        return memory.into_iter().try_for_each(|v| fit::first_ranks(net, peers, v));
    }
    // Of a run that begins nothing is remembered; of one that has ended, nothing any more.
    let mut goes_on = vec![u8::from(file.is_some() && !state.finished)];
    peers.broadcast(0, &mut goes_on)?;
    if goes_on != [1] {
        return Ok(());
    }
    let graph = net.session.graph().clone();
    let all: Vec<_> = net.parts.iter().flat_map(|p| p.remembered(&graph)).collect();
    for m in all {
        let mut bytes = match file {
            Some(file) => bytemuck::cast_slice::<f32, u8>(&file.tensor(&m.name)?.to_f32()?).to_vec(),
            None => vec![],
        };
        peers.broadcast(0, &mut bytes)?;
        if let (Some(v), None) = (m.here, file) {
            let own = bytes.get(4 * m.own.start..4 * m.own.end).unwrap_or_default();
            net.session.write(v, Data::F32(&bytemuck::pod_collect_to_vec::<u8, f32>(own)))?;
        }
    }
    Ok(())
}

/// What people must know who train by ranks, if they do.
pub(super) fn remark(peers: &dyn Communicator, net: &Network, events: &dyn Events) {
    let (ranks, rows, batch) = (peers.ranks(), net.batch, net.whole);
    tell!(events, "{ranks} ranks: {rows} pictures of each batch of {batch} on each, gradients summed over all");
    if net.sharded {
        let graph = net.session.graph();
        let whole =
            net.parts.iter().flat_map(|p| p.remembered(graph)).map(|m| graph.ty(m.param).bytes()).sum::<usize>();
        let own = net.parts.iter().flat_map(|p| p.memory()).map(|v| graph.ty(v).bytes()).sum::<usize>();
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let [own, whole] = [own, whole].map(mib);
        tell!(events, "optimiser's state: {own:.1} of {whole:.1} MiB on this rank");
    }
    let idle = ranks - batch.div_ceil(rows);
    if idle > 0 {
        tell!(events, "note: {idle} ranks have no picture of a batch; raise {}", option("batch"));
    }
    let norms = net.session.graph().nodes().iter().any(|n| n.op_as::<norm::Update>().is_some());
    if norms {
        tell!(
            events,
            "note: batch norms measure the {rows} pictures of their rank, and evaluate by what rank 0 has seen; their results \
             depend on the number of ranks"
        );
    }
}
