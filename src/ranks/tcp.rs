/*! Ranks connected by TCP, each with every other: for CPUs and for tests, on one machine or on a network that is trusted, for
messages are neither encrypted nor signed. Rank 0 waits at an address that all know; there the others learn of each other.

A sum is made by shares: rank r receives the numbers of its share from all others, adds them in the order of the ranks, and, where
all are to have them, sends the result around. So every number is added once, and every rank has the same bits.

Each message says what it is: number, update, bucket, length and a checksum. Whatever is lost, doubled, damaged or out of turn
is therefore found by the first rank that waits for something else. Every [`BEAT`] each rank says that it lives and how much it
has sent; who is silent for [`SILENCE`] is taken for dead, and a socket that closes is seen at once. */

use super::{Communicator, MOST, Place, shares};
use crate::VERSION;
use crate::error::{Error, Result};
use crate::hash;
use crate::launch::Exchange;
use bytemuck::Pod;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How long ranks wait for each other before the first step.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How long a rank may say nothing at all.
pub const SILENCE: Duration = Duration::from_secs(20);

/// The time between two signs of life.
const BEAT: Duration = Duration::from_secs(2);

/// How long one attempt to connect or to greet may take.
const GREETING: Duration = Duration::from_secs(5);

/// Bytes of a message at most.
const LONGEST: u64 = 1 << 32;

/// What a message begins with: `DA` and the version of this protocol.
const MAGIC: u32 = 0x4441_0002;

/// What a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Hello,
    /// Numbers to be added.
    Part,
    /// Numbers that were.
    Sum,
    /// Numbers of the sender's share, as they are.
    Share,
    Gather,
    Broadcast,
    /// No message: how many were sent.
    Alive,
    /// No message: why nothing will follow, or that all is done.
    Farewell,
}

impl What {
    const ALL: [Self; 8] =
        [Self::Hello, Self::Part, Self::Sum, Self::Share, Self::Gather, Self::Broadcast, Self::Alive, Self::Farewell];
}

/// What stands before the bytes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    what: What,
    bucket: u32,
    step: u64,
    /// Messages from this rank to that one before it.
    number: u64,
    bytes: u64,
    sum: u64,
}

const HEAD: usize = 48;

impl Head {
    fn write(&self) -> [u8; HEAD] {
        let mut to = [0; HEAD];
        to[..4].copy_from_slice(&MAGIC.to_le_bytes());
        to[4] = self.what as u8;
        to[8..12].copy_from_slice(&self.bucket.to_le_bytes());
        for (i, word) in [self.step, self.number, self.bytes, self.sum].into_iter().enumerate() {
            to[16 + 8 * i..24 + 8 * i].copy_from_slice(&word.to_le_bytes());
        }
        to
    }

    fn read(from: &[u8; HEAD]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(from[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(from[at..at + 4].try_into().expect("four bytes"));
        let what = *What::ALL.get(from[4] as usize)?;
        let [step, number, bytes, sum] = [16, 24, 32, 40].map(word);
        (half(0) == MAGIC && bytes <= LONGEST).then_some(Self { what, bucket: half(8), step, number, bytes, sum })
    }

    /// For people: `bucket 3 of update 7`.
    fn said(&self) -> String {
        match self.what {
            What::Part => format!("its part of bucket {} of update {}", self.bucket, self.step),
            What::Sum => format!("the sum of bucket {} of update {}", self.bucket, self.step),
            What::Share => format!("its share of bucket {} after update {}", self.bucket, self.step),
            what => format!("a {what:?} after update {}", self.step).to_lowercase(),
        }
    }
}

type Message = (Head, Vec<u8>);

/// What has arrived.
struct Mail {
    /// By rank.
    queues: Vec<VecDeque<Message>>,
    /// The first thing that went wrong; it ends everything.
    failed: Option<Error>,
    /// By rank, whether it has said that all is done.
    done: Vec<bool>,
    /// By rank, whether nothing can come from it any more.
    closed: Vec<bool>,
}

struct Link {
    stream: TcpStream,
    sent: u64,
}

struct Shared {
    rank: usize,
    /// By rank: where it is, for people.
    names: Vec<String>,
    /// By rank; none for oneself.
    links: Vec<Option<Mutex<Link>>>,
    mail: Mutex<Mail>,
    arrived: Condvar,
    /// By rank: milliseconds after `start` at which it was heard last.
    heard: Vec<AtomicU64>,
    start: Instant,
    step: AtomicU64,
    leaving: AtomicBool,
    silence: Duration,
}

/// See above.
pub struct Tcp {
    shared: Arc<Shared>,
    beating: Option<thread::JoinHandle<()>>,
}

/// Counts what arrives as a sign of life.
struct Ear<'a>(&'a mut TcpStream, &'a Shared, usize);

impl Read for Ear<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(to)?;
        self.1.heard[self.2].store(self.1.start.elapsed().as_millis() as u64, Relaxed);
        Ok(n)
    }
}

fn receive(from: &mut impl Read) -> io::Result<Message> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let head = Head::read(&head).ok_or_else(|| bad("what arrived is no message of this program"))?;
    // What is claimed costs nothing until it arrives: beyond a bucket's usual length the memory grows with that.
    let mut bytes = Vec::with_capacity(head.bytes.min(1 << 26) as usize);
    from.take(head.bytes).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != head.bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if hash::checksum(&bytes) != head.sum {
        return Err(bad("a message arrived damaged"));
    }
    Ok((head, bytes))
}

fn send(to: &mut TcpStream, head: Head, bytes: &[u8]) -> io::Result<()> {
    let head = Head { bytes: bytes.len() as u64, sum: hash::checksum(bytes), ..head };
    // One packet where it is short.
    let (now, later) = bytes.split_at(bytes.len().min(1 << 12));
    to.write_all(&[&head.write(), now].concat())?;
    to.write_all(later)
}

const GREETINGS: Head = Head { what: What::Hello, bucket: 0, step: 0, number: 0, bytes: 0, sum: 0 };

/// What ranks say when they meet.
#[derive(serde::Serialize, serde::Deserialize)]
struct Hello {
    version: String,
    rank: usize,
    ranks: usize,
    /// Where it waits for others.
    port: u16,
}

fn hello(stream: &mut TcpStream, own: &Hello) -> io::Result<()> {
    send(stream, GREETINGS, &serde_json::to_vec(own).expect("plain data"))
}

fn heard<T: serde::de::DeserializeOwned>(stream: &mut TcpStream) -> io::Result<T> {
    let (head, bytes) = receive(stream)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "no greeting of this program");
    if head.what != What::Hello || head.bytes > 1 << 16 {
        return Err(bad());
    }
    serde_json::from_slice(&bytes).map_err(|_| bad())
}

/// Patience with a clock.
#[derive(Clone, Copy)]
struct Until(Instant, Duration);

impl Until {
    fn left(self) -> Option<Duration> {
        self.1.checked_sub(self.0.elapsed()).filter(|left| !left.is_zero())
    }
}

/// Accepts until somebody greets, or patience is over: whoever does not greet is none of ours.
fn accept(listener: &TcpListener, until: Until) -> io::Result<Option<(TcpStream, SocketAddr, Hello)>> {
    listener.set_nonblocking(true)?;
    while until.left().is_some() {
        match listener.accept() {
            Ok((mut stream, from)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(GREETING))?;
                if let Ok(hello) = heard(&mut stream) {
                    return Ok(Some((stream, from, hello)));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Connects with somebody who may not be there yet.
fn connect(to: impl Fn() -> io::Result<SocketAddr>, until: Until) -> io::Result<TcpStream> {
    loop {
        let tried = to().and_then(|to| TcpStream::connect_timeout(&to, GREETING));
        match tried {
            Ok(stream) => return Ok(stream),
            Err(e) if until.left().is_none() => return Err(e),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Tcp {
    /// Meets the other ranks.
    ///
    /// # Errors
    /// A rank that does not come, comes twice or is of another program, and an address that cannot be used.
    pub fn meet(place: &Place, patience: Duration) -> Result<Self> {
        let (host, port) = &place.master;
        if place.rank > 0 {
            return Self::join(place, patience);
        }
        let address = (host.as_str(), *port);
        let bound = TcpListener::bind(address).or_else(|e| match e.kind() {
            // The name is that of a router, or of another of this machine's addresses.
            io::ErrorKind::AddrNotAvailable => TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), *port)),
            _ => Err(e),
        });
        let listener = bound.map_err(|e| {
            Error::job(format!("rank 0 cannot wait for the others at {host}:{port}: {e}"))
                .fix("set MASTER_ADDR to a name of this machine and MASTER_PORT to a free port")
        })?;
        Self::host(listener, place.ranks, patience, &mut || Ok(()))
    }

    /// Rank 0 at an address that the others know. `coming` is asked again and again whether they can still come.
    ///
    /// # Errors
    /// As [`Tcp::meet`], and what `coming` says.
    pub fn host(
        listener: TcpListener,
        ranks: usize,
        patience: Duration,
        coming: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let until = Until(Instant::now(), patience);
        let at = listener.local_addr().map_or("its address".to_string(), |a| a.to_string());
        let wrong = |e: io::Error| Error::job(format!("rank 0 at {at}: {e}"));
        let mut met: Vec<Option<(TcpStream, SocketAddr)>> = (0..ranks).map(|_| None).collect();
        while let Some(missing) = met.iter().skip(1).position(Option::is_none) {
            // A short while, and again.
            let turn = Until(Instant::now(), Duration::from_millis(200));
            let Some((stream, from, hello)) = accept(&listener, turn).map_err(wrong)? else {
                coming()?;
                if until.left().is_some() {
                    continue;
                }
                let (rank, waited) = (missing + 1, patience.as_secs());
                return Err(Error::job(format!("rank {rank} of {ranks} did not come to {at} within {waited} s"))
                    .fix("start it, or look at what it says; every rank must reach that address"));
            };
            let Hello { version, rank, ranks: of, port } = hello;
            let complaint = match met.get(rank) {
                _ if version != VERSION => Some(format!("rank {rank} is version {version}, rank 0 is {VERSION}")),
                _ if of != ranks => Some(format!("rank {rank} is one of {of} ranks, rank 0 one of {ranks}")),
                Some(Some((_, other))) => Some(format!("there are two of rank {rank}: at {other} and at {from}")),
                Some(None) if rank > 0 => None,
                _ => Some(format!("there is no rank {rank} of {ranks} but at {from}")),
            };
            if let Some(complaint) = complaint {
                let fix = "start every rank with the same program and a number of its own";
                return Err(Error::job(complaint).fix(fix));
            }
            met[rank] = Some((stream, SocketAddr::new(from.ip(), port)));
        }
        let addresses: Vec<String> =
            met.iter().map(|m| m.as_ref().map_or(String::new(), |m| m.1.to_string())).collect();
        let text = serde_json::to_vec(&addresses).expect("plain data");
        let mut links = vec![];
        for link in met {
            let link = link.map(|mut m| send(&mut m.0, GREETINGS, &text).map(|()| m.0));
            links.push(link.transpose().map_err(wrong)?);
        }
        let names = addresses.into_iter().map(|a| if a.is_empty() { at.clone() } else { a }).collect();
        Self::begin(0, names, links)
    }

    /// Any other rank.
    fn join(place: &Place, patience: Duration) -> Result<Self> {
        let until = Until(Instant::now(), patience);
        let Place { rank, ranks, master: (host, port), .. } = place;
        let at = format!("{host}:{port}");
        let find = || (host.as_str(), *port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound.into());
        let mut first = connect(find, until).map_err(|e| {
            Error::job(format!("rank 0 does not answer at {at} within {} s: {e}", patience.as_secs()))
                .fix("start it, and set MASTER_ADDR and MASTER_PORT to where it is")
        })?;
        let lost = |with: usize| {
            move |e: io::Error| {
                Error::job(format!("rank {rank} and rank {with} do not find together: {e}"))
                    .fix(format!("look at what rank {with} says"))
            }
        };
        let own = first.local_addr().map_err(lost(0))?.ip();
        let listener = TcpListener::bind((own, 0)).map_err(lost(0))?;
        let port = listener.local_addr().map_err(lost(0))?.port();
        let me = Hello { version: VERSION.into(), rank: *rank, ranks: *ranks, port };
        hello(&mut first, &me).map_err(lost(0))?;
        // The last of all may come late.
        first.set_read_timeout(Some(patience)).map_err(lost(0))?;
        let mut names: Vec<String> = heard(&mut first).map_err(lost(0))?;
        names[0] = at;
        let mut links: Vec<Option<TcpStream>> = (0..*ranks).map(|_| None).collect();
        links[0] = Some(first);
        for (other, name) in names.iter().enumerate().take(*rank).skip(1) {
            let find = || name.parse().map_err(|_| io::ErrorKind::InvalidData.into());
            let mut stream = connect(find, until).map_err(lost(other))?;
            hello(&mut stream, &me).map_err(lost(other))?;
            links[other] = Some(stream);
        }
        while let Some(other) = (rank + 1..*ranks).find(|r| links[*r].is_none()) {
            let met = accept(&listener, until).map_err(lost(other))?;
            let (stream, _, hello) = met.ok_or_else(|| lost(other)(io::ErrorKind::TimedOut.into()))?;
            if let Some(link) = links.get_mut(hello.rank) {
                *link = Some(stream);
            }
        }
        Self::begin(*rank, names, links)
    }

    fn begin(rank: usize, names: Vec<String>, links: Vec<Option<TcpStream>>) -> Result<Self> {
        Self::within(rank, names, links, SILENCE)
    }

    /// With the links that there are: one thread listens to each.
    fn within(rank: usize, names: Vec<String>, links: Vec<Option<TcpStream>>, silence: Duration) -> Result<Self> {
        let wrong = |e: io::Error| Error::job(format!("rank {rank} cannot use its connections: {e}"));
        let ranks = links.len();
        assert!((1..=MOST).contains(&ranks), "{ranks} ranks");
        let mut ears = vec![];
        for (other, stream) in links.iter().enumerate().filter_map(|(r, l)| Some((r, l.as_ref()?))) {
            stream.set_nodelay(true).map_err(wrong)?;
            stream.set_read_timeout(None).map_err(wrong)?;
            // Who is alive takes what it is sent: a thread of its own does.
            stream.set_write_timeout(Some(silence)).map_err(wrong)?;
            ears.push((other, stream.try_clone().map_err(wrong)?));
        }
        let mail = Mail {
            queues: vec![VecDeque::new(); ranks],
            failed: None,
            done: vec![false; ranks],
            closed: (0..ranks).map(|r| links[r].is_none()).collect(),
        };
        let links = links.into_iter().map(|l| l.map(|stream| Mutex::new(Link { stream, sent: 0 }))).collect();
        let shared = Arc::new(Shared {
            rank,
            names,
            links,
            mail: Mutex::new(mail),
            arrived: Condvar::new(),
            heard: (0..ranks).map(|_| AtomicU64::new(0)).collect(),
            start: Instant::now(),
            step: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            silence,
        });
        let start = |name: String, work: Box<dyn FnOnce() + Send>| {
            let started = thread::Builder::new().name(name).stack_size(1 << 18).spawn(work);
            started.map_err(|e| Error::job(format!("cannot start a thread: {e}")).fix("allow more processes"))
        };
        for (other, stream) in ears {
            let shared = shared.clone();
            start(format!("rank {other}"), Box::new(move || shared.listen(other, stream)))?;
        }
        let beats = shared.clone();
        let beating = start("alive".into(), Box::new(move || beats.beat()))?;
        Ok(Self { shared, beating: Some(beating) })
    }

    /// Sends a message; of one link the next number.
    fn tell(&self, to: usize, what: What, bucket: u32, bytes: &[u8]) -> Result<()> {
        let s = &self.shared;
        let step = s.step.load(Relaxed);
        let mut link = s.link(to);
        let head = Head { what, bucket, step, number: link.sent, bytes: 0, sum: 0 };
        link.sent += 1;
        send(&mut link.stream, head, bytes).map_err(|e| {
            drop(link);
            // What the other one said before it went is the better reason.
            thread::sleep(Duration::from_millis(50));
            s.failed().unwrap_or_else(|| s.gone(to, &e.to_string()))
        })
    }

    /// Waits for the next message of a rank, which must be this one.
    fn hear(&self, from: usize, what: What, bucket: u32, bytes: Option<usize>) -> Result<Vec<u8>> {
        let s = &self.shared;
        let mut mail = s.mail();
        let (head, got) = loop {
            if let Some(message) = mail.queues[from].pop_front() {
                break message;
            }
            if let Some(e) = &mail.failed {
                return Err(e.clone());
            }
            if mail.done[from] || mail.closed[from] {
                return Err(s.gone(from, "it has ended"));
            }
            mail = s.arrived.wait_timeout(mail, BEAT / 4).expect("nobody panics with the mail").0;
            let heard = Duration::from_millis(s.heard[from].load(Relaxed));
            if mail.queues[from].is_empty() && s.start.elapsed().saturating_sub(heard) > s.silence {
                return Err(s.gone(from, &format!("it has said nothing for {} s", s.silence.as_secs())));
            }
        };
        drop(mail);
        let due = Head { what, bucket, step: s.step.load(Relaxed), ..head };
        if head != due || bytes.is_some_and(|n| n != got.len()) {
            let (said, due, own) = (head.said(), due.said(), s.rank);
            let length = bytes.map_or(String::new(), |n| format!(", {n} bytes"));
            let problem = format!("rank {from} sent {said}, {} bytes, where rank {own} is at {due}{length}", got.len());
            let e = Error::job(problem).fix("the ranks are out of step: resume from the last checkpoint");
            // Whatever comes next would be out of turn, too.
            s.fail(e.clone());
            return Err(e);
        }
        Ok(got)
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        // Everybody begins with somebody else.
        let (rank, ranks) = (self.shared.rank, self.shared.links.len());
        (1..ranks).map(move |i| (rank + i) % ranks)
    }

    /// What every rank gives, of which this one gives `own`.
    fn gathered(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let of = |r: usize| if r == self.shared.rank { Ok(own.to_vec()) } else { self.hear(r, What::Gather, 0, None) };
        (0..self.ranks()).map(of).collect()
    }

    fn share<T: Pod + std::ops::AddAssign>(&self, how: Exchange, bucket: u32, values: &mut [&mut [T]]) -> Result<()> {
        let own = self.shared.rank;
        let cuts = shares(&values.iter().map(|v| v.len()).collect::<Vec<_>>(), self.ranks());
        let share = |r: usize| [cuts[r], cuts[r + 1]];
        let (said, mine) = match how {
            Exchange::AllGather => (What::Share, collected(values, share(own))),
            Exchange::ReduceScatter | Exchange::AllReduce => {
                let sums = self.sums(bucket, values, &share)?;
                put(values, cuts[own], &sums);
                (What::Sum, sums)
            }
        };
        if how == Exchange::ReduceScatter {
            return Ok(());
        }
        for to in self.others() {
            self.tell(to, said, bucket, &mine)?;
        }
        for r in (0..self.ranks()).filter(|r| *r != own) {
            let [from, to] = share(r);
            let theirs = self.hear(r, said, bucket, Some((to - from) * size_of::<T>()))?;
            put(values, from, &theirs);
        }
        Ok(())
    }

    /// The bytes of this rank's share of the sums over all ranks; the others get what they need for theirs.
    fn sums<T: Pod + std::ops::AddAssign>(
        &self,
        bucket: u32,
        values: &[&mut [T]],
        share: &impl Fn(usize) -> [usize; 2],
    ) -> Result<Vec<u8>> {
        let own = self.shared.rank;
        for to in self.others() {
            self.tell(to, What::Part, bucket, &collected(values, share(to)))?;
        }
        let mut mine = Some(collected(values, share(own)));
        let length = mine.as_ref().map(Vec::len);
        let mut part = |r: usize| match r == own {
            true => Ok(mine.take().expect("every rank is asked for one part")),
            false => self.hear(r, What::Part, bucket, length),
        };
        let mut sums = part(0)?;
        for r in 1..self.ranks() {
            let numbers = part(r)?;
            let number = bytemuck::pod_read_unaligned::<T>;
            for (sum, x) in sums.chunks_exact_mut(size_of::<T>()).zip(numbers.chunks_exact(size_of::<T>())) {
                let mut total = number(sum);
                total += number(x);
                sum.copy_from_slice(bytemuck::bytes_of(&total));
            }
        }
        Ok(sums)
    }
}

/// Numbers `from` to `to` of all parts, counted through.
fn collected<T: Pod>(parts: &[&mut [T]], [from, to]: [usize; 2]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((to - from) * size_of::<T>());
    let mut at = 0;
    for part in parts {
        let inside = |i: usize| i.clamp(at, at + part.len()) - at;
        bytes.extend_from_slice(bytemuck::cast_slice(&part[inside(from)..inside(to)]));
        at += part.len();
    }
    bytes
}

/// Writes numbers from place `from` on.
fn put<T: Pod>(parts: &mut [&mut [T]], from: usize, mut bytes: &[u8]) {
    let mut at = 0;
    for part in parts {
        let begin = from.clamp(at, at + part.len()) - at;
        at += part.len();
        if from < at {
            let to = bytemuck::cast_slice_mut::<T, u8>(&mut part[begin..]);
            let (now, later) = bytes.split_at(bytes.len().min(to.len()));
            to[..now.len()].copy_from_slice(now);
            bytes = later;
        }
        if bytes.is_empty() {
            return;
        }
    }
}

impl Shared {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().expect("nobody panics with the mail")
    }

    fn link(&self, to: usize) -> MutexGuard<'_, Link> {
        self.links[to].as_ref().expect("another rank").lock().expect("nobody panics with a link")
    }

    fn failed(&self) -> Option<Error> {
        self.mail().failed.clone()
    }

    fn gone(&self, rank: usize, why: &str) -> Error {
        let (ranks, at) = (self.links.len(), &self.names[rank]);
        Error::job(format!("rank {rank} of {ranks} at {at} is lost: {why}"))
            .fix("look at what it says; the last checkpoint is as it was")
    }

    fn fail(&self, e: Error) {
        self.mail().failed.get_or_insert(e);
        self.arrived.notify_all();
    }

    /// Takes what a rank sends until it ends.
    fn listen(&self, from: usize, mut stream: TcpStream) {
        let mut taken = 0;
        loop {
            let message = receive(&mut Ear(&mut stream, self, from));
            let Ok((head, bytes)) = message else {
                // Who has gone hears nothing more; by this it knows that we know.
                let _ = stream.shutdown(Shutdown::Both);
                let mut mail = self.mail();
                mail.closed[from] = true;
                if !mail.done[from] && !self.leaving.load(Relaxed) {
                    let e = message.map(drop).unwrap_err();
                    let why = match e.kind() {
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => "its process has ended".into(),
                        _ => e.to_string(),
                    };
                    mail.failed.get_or_insert(self.gone(from, &why));
                }
                drop(mail);
                return self.arrived.notify_all();
            };
            match head.what {
                What::Alive | What::Farewell if head.number != taken => {
                    self.fail(self.gone(from, &format!("of its {} messages {taken} arrived", head.number)));
                }
                What::Alive => {}
                What::Farewell if bytes.is_empty() => self.mail().done[from] = true,
                What::Farewell => {
                    let why = String::from_utf8_lossy(&bytes);
                    let ended = format!("rank {from} of {} at {} has ended: {why}", self.links.len(), self.names[from]);
                    self.fail(Error::job(ended));
                }
                _ if head.number != taken => {
                    let lost = format!("message {} arrived where {taken} was due", head.number);
                    self.fail(self.gone(from, &lost));
                }
                _ => {
                    taken += 1;
                    self.mail().queues[from].push_back((head, bytes));
                }
            }
            self.arrived.notify_all();
        }
    }

    /// Tells all others something that is no message.
    fn announce(&self, what: What, text: &[u8]) {
        for link in self.links.iter().flatten() {
            // Whoever sends just now is alive.
            let link = match what {
                What::Alive => link.try_lock().ok(),
                _ => link.lock().ok(),
            };
            if let Some(mut link) = link {
                let head = Head { what, bucket: 0, step: 0, number: link.sent, bytes: 0, sum: 0 };
                // Who does not take it is found where something is wanted of it.
                let _ = send(&mut link.stream, head, text);
            }
        }
    }

    fn beat(&self) {
        while !self.leaving.load(Relaxed) {
            self.announce(What::Alive, &[]);
            thread::park_timeout(BEAT);
        }
    }

    /// Says farewell, and gives the others a moment to read it before the connections close.
    fn leave(&self, why: &str) {
        if self.leaving.swap(true, Relaxed) {
            return;
        }
        self.announce(What::Farewell, why.as_bytes());
        for link in self.links.iter().flatten().filter_map(|l| l.lock().ok()) {
            let _ = link.stream.shutdown(Shutdown::Write);
        }
        let until = Until(Instant::now(), Duration::from_secs(1));
        let mut mail = self.mail();
        while let Some(left) = until.left().filter(|_| !mail.closed.iter().all(|c| *c)) {
            mail = self.arrived.wait_timeout(mail, left).expect("nobody panics with the mail").0;
        }
        drop(mail);
        for link in self.links.iter().flatten().filter_map(|l| l.lock().ok()) {
            let _ = link.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Communicator for Tcp {
    fn rank(&self) -> usize {
        self.shared.rank
    }
    fn ranks(&self) -> usize {
        self.shared.links.len()
    }
    fn at(&self, step: u64) {
        self.shared.step.store(step, Relaxed);
    }
    fn exchange(&self, how: Exchange, bucket: u32, values: &mut [&mut [f32]]) -> Result<()> {
        self.share(how, bucket, values)
    }
    fn exchange64(&self, how: Exchange, bucket: u32, values: &mut [&mut [f64]]) -> Result<()> {
        self.share(how, bucket, values)
    }
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        for to in self.others() {
            self.tell(to, What::Gather, 0, own)?;
        }
        self.gathered(own)
    }
    fn collect(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.rank() > 0 {
            return self.tell(0, What::Gather, 0, own).map(|()| vec![]);
        }
        self.gathered(own)
    }
    fn broadcast(&self, from: usize, bytes: &mut Vec<u8>) -> Result<()> {
        if from != self.rank() {
            *bytes = self.hear(from, What::Broadcast, 0, None)?;
            return Ok(());
        }
        self.others().try_for_each(|to| self.tell(to, What::Broadcast, 0, bytes))
    }
    fn alive(&self) -> Result<()> {
        self.shared.failed().map_or(Ok(()), Err)
    }
    fn leave(&self, why: &str) {
        self.shared.leave(why)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.shared.leave("");
        if let Some(thread) = self.beating.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends of a connection.
    fn connection() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        [one, listener.accept().unwrap().0]
    }

    fn rank(own: usize, stream: TcpStream, silence: Duration) -> Tcp {
        let mut links = vec![None, None];
        links[1 - own] = Some(stream);
        Tcp::within(own, vec!["a".into(), "b".into()], links, silence).unwrap()
    }

    /// What rank 0 says where rank 1 should have sent its part, and `planted` happened.
    fn found(planted: impl FnOnce(&Tcp)) -> String {
        let [a, b] = connection();
        let (a, b) = (rank(0, a, SILENCE), rank(1, b, SILENCE));
        planted(&b);
        let start = Instant::now();
        let e = a.hear(1, What::Part, 0, Some(4)).unwrap_err().to_string();
        assert!(start.elapsed() < BEAT, "{e}");
        e
    }

    #[test]
    fn what_is_lost_damaged_or_silent_is_found() {
        let lose = |t: &Tcp| t.shared.link(0).sent += 1;
        let beat = |t: &Tcp| t.beating.as_ref().unwrap().thread().unpark();
        let e = found(|t| {
            lose(t);
            t.tell(0, What::Part, 0, &[0; 4]).unwrap();
        });
        assert!(e.contains("rank 1 of 2 at b is lost: message 1 arrived where 0 was due"), "{e}");
        let e = found(|t| {
            lose(t);
            beat(t);
        });
        assert!(e.contains("rank 1 of 2 at b is lost: of its 1 messages 0 arrived"), "{e}");
        let e = found(|t| {
            let head = Head { what: What::Part, bucket: 0, step: 0, number: 0, bytes: 4, sum: 1 };
            t.shared.link(0).stream.write_all(&[&head.write()[..], &[0; 4]].concat()).unwrap();
        });
        assert!(e.contains("a message arrived damaged"), "{e}");
        let e = found(|t| t.shared.link(0).stream.write_all(&[1; HEAD]).unwrap());
        assert!(e.contains("no message of this program"), "{e}");
        // A process that is killed, and one that is stopped.
        let e = found(|t| t.shared.link(0).stream.shutdown(Shutdown::Both).unwrap());
        assert!(e.contains("rank 1 of 2 at b is lost: its process has ended"), "{e}");
        let [a, _b] = connection();
        let a = rank(0, a, Duration::from_millis(100));
        let e = a.hear(1, What::Part, 0, Some(4)).unwrap_err().to_string();
        assert!(e.contains("it has said nothing for 0 s"), "{e}");
    }
}
