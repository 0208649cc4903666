/*! NCCL: what the GPUs of several ranks do together, in place, on a stream of its own. It is looked for when ranks meet and not before.

It is loaded here, not by cudarc: that does not know `libnccl.so.2`, which is what everybody's package has, and panics where it
finds nothing. Reference: `nccl.h` of NCCL 2.32; what is used of it has been the same since 2.0. */

use super::card::failed;
use crate::error::{Error, Result};
use crate::launch::{Collective, Exchange};
use crate::ranks::{Communicator, agree, pieces, shares};
use cudarc::driver::result::{DriverError, event, stream};
use cudarc::driver::sys;
use libloading::Library;
use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::OnceLock;

/// Folder of NCCL, where the loader does not find it by itself.
const FOLDER: &str = "DEEP_AFFECT_NCCL";
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Oldest version, as `major * 10000 + minor * 100`: the first for CUDA 12 (NCCL's release notes).
const OLDEST: c_int = 21600;

/// `ncclFloat32`, `ncclSum`.
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

/// What is being done, for errors.
const PREPARING: &str = "preparing what ranks do together";
const SUMMING: &str = "summing over ranks";
const HANDING: &str = "handing weights to all ranks";

/// `ncclUniqueId`: what the first rank makes, and by which the others find it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Id([u8; 128]);

type Comm = *mut c_void;

struct Functions {
    version: c_int,
    said: unsafe extern "C" fn(c_int) -> *const c_char,
    id: unsafe extern "C" fn(*mut Id) -> c_int,
    begin: unsafe extern "C" fn(*mut Comm, c_int, Id, c_int) -> c_int,
    abort: unsafe extern "C" fn(Comm) -> c_int,
    group: unsafe extern "C" fn() -> c_int,
    ungroup: unsafe extern "C" fn() -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, sys::CUstream) -> c_int,
    reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, c_int, Comm, sys::CUstream) -> c_int,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, sys::CUstream) -> c_int,
}

/// The library, looked for once.
fn functions() -> Result<&'static Functions> {
    static FOUND: OnceLock<Result<Functions, String>> = OnceLock::new();
    let fix =
        || format!("`python3 -m pip install nvidia-nccl-cu13`, and name the folder of its {} in {FOLDER}", NAMES[0]);
    FOUND
        .get_or_init(find)
        .as_ref()
        .map_err(|why| Error::job(format!("GPUs of several ranks need NCCL: {why}")).fix(fix()))
}

fn find() -> Result<Functions, String> {
    let names: Vec<_> = match std::env::var_os(FOLDER) {
        Some(folder) => NAMES.map(|name| Path::new(&folder).join(name)).into(),
        None => NAMES.map(Into::into).into(),
    };
    let mut why = String::new();
    for name in names {
        // SAFETY: opening NCCL starts nothing.
        match unsafe { Library::new(&name) } {
            Ok(library) => return of(library).map_err(|e| format!("{}: {e}", name.display())),
            // The first says most: the second name is that of a link.
            Err(e) if why.is_empty() => why = told(e),
            Err(_) => {}
        }
    }
    Err(why)
}

/// What the loader said, which an error has behind it.
fn told(e: libloading::Error) -> String {
    e.source().map_or_else(|| e.to_string(), ToString::to_string)
}

fn of(library: Library) -> Result<Functions, String> {
    // SAFETY: the signatures of nccl.h.
    let functions = unsafe {
        let number = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>("ncclGetVersion").map_err(told)?;
        let mut version = 0;
        number(&mut version);
        Functions {
            version,
            said: *library.get("ncclGetErrorString").map_err(told)?,
            id: *library.get("ncclGetUniqueId").map_err(told)?,
            begin: *library.get("ncclCommInitRank").map_err(told)?,
            abort: *library.get("ncclCommAbort").map_err(told)?,
            group: *library.get("ncclGroupStart").map_err(told)?,
            ungroup: *library.get("ncclGroupEnd").map_err(told)?,
            all_reduce: *library.get("ncclAllReduce").map_err(told)?,
            reduce: *library.get("ncclReduce").map_err(told)?,
            broadcast: *library.get("ncclBroadcast").map_err(told)?,
        }
    };
    // Its functions are called until the process ends.
    std::mem::forget(library);
    match functions.version {
        old if old < OLDEST => {
            Err(format!("it is version {}, and {} is the oldest that will do", text(old), text(OLDEST)))
        }
        _ => Ok(functions),
    }
}

/// 2.27.3 of 22703.
fn text(version: c_int) -> String {
    format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)
}

impl Functions {
    fn checked(&self, doing: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: a text of the library for each of its codes, which lives as long as it does.
        let said = unsafe { CStr::from_ptr((self.said)(code)) };
        let problem = format!("{doing}: NCCL {} says: {}", text(self.version), said.to_string_lossy());
        Err(Error::job(problem).fix("NCCL_DEBUG=INFO says more"))
    }
}

/// A call of NCCL, on float32 numbers of the GPU, in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    at: sys::CUdeviceptr,
    n: usize,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// Summed, for all.
    Sum,
    /// Summed, for the rank in whose share they are.
    SumFor(c_int),
    /// Those of the rank in whose share they are, for all.
    From(c_int),
}

impl Message {
    /// What a collective comes to, for values at (address, how many numbers).
    pub fn all(c: Collective, values: &[(sys::CUdeviceptr, usize)]) -> Vec<Self> {
        let what: fn(c_int) -> What = match c.exchange {
            Exchange::AllReduce => return values.iter().map(|&(at, n)| Self { at, n, what: What::Sum }).collect(),
            Exchange::ReduceScatter => What::SumFor,
            Exchange::AllGather => What::From,
        };
        let sizes: Vec<usize> = values.iter().map(|v| v.1).collect();
        let cuts = shares(&sizes, c.ranks);
        let mut all = vec![];
        for (rank, share) in cuts.windows(2).enumerate() {
            for (i, piece) in pieces(&sizes, share[0]..share[1]) {
                let at = values[i].0 + (size_of::<f32>() * piece.start) as u64;
                all.push(Self { at, n: piece.len(), what: what(rank as c_int) });
            }
        }
        all
    }
}

/// This rank's GPU among those of all ranks.
pub struct Nccl {
    functions: &'static Functions,
    comm: Comm,
    stream: sys::CUstream,
    /// What was computed before a collective is there.
    ready: sys::CUevent,
    /// By their place in a plan: collectives that are done.
    done: Vec<sys::CUevent>,
}

impl Nccl {
    /// Meets the other ranks, each of which has made the context of its GPU current.
    ///
    /// # Errors
    /// No library or one that is too old, on any of them; libraries that differ.
    pub fn meet(peers: &dyn Communicator) -> Result<Self> {
        // Told before it counts, so that nobody waits for a rank that has none.
        let found = functions();
        let own = found.as_ref().map_or_else(|_| "missing".into(), |f| text(f.version));
        agree(peers, &[("NCCL".into(), own)])?;
        let functions = found?;
        let (mut id, mut bytes) = (Id([0; 128]), vec![]);
        if peers.rank() == 0 {
            // SAFETY: it fills the 128 bytes.
            functions.checked("naming the job", unsafe { (functions.id)(&mut id) })?;
            bytes = id.0.to_vec();
        }
        peers.broadcast(0, &mut bytes)?;
        id.0 = bytes.try_into().map_err(|_| Error::job("the first rank sent no name of the job for NCCL"))?;
        // From here on dropping gives back what there is.
        let mut nccl = Self { functions, comm: null_mut(), stream: null_mut(), ready: null_mut(), done: vec![] };
        let mut prepare = || -> Result<(), DriverError> {
            nccl.stream = stream::create(stream::StreamKind::NonBlocking)?;
            nccl.ready = event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            Ok(())
        };
        prepare().map_err(failed(PREPARING))?;
        let [ranks, rank] = [peers.ranks(), peers.rank()].map(|n| n as c_int);
        // SAFETY: it fills the handle; the identity is that of the first rank.
        let begun = unsafe { (functions.begin)(&mut nccl.comm, ranks, id, rank) };
        functions.checked("meeting the GPUs of the other ranks", begun)?;
        Ok(nccl)
    }

    /// Makes room for so many collectives in a plan.
    pub fn expect(&mut self, collectives: usize) -> Result<()> {
        while self.done.len() < collectives {
            let event = event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
            self.done.push(event.map_err(failed(PREPARING))?);
        }
        Ok(())
    }

    /// Begins a collective, beside what follows on `stream`.
    ///
    /// # Safety
    /// The addresses are those of so many numbers of the GPU, and nothing touches them until [`Nccl::await_one`].
    pub unsafe fn exchange(&self, place: usize, messages: &[Message], stream: sys::CUstream) -> Result<()> {
        let f = self.functions;
        // SAFETY: streams and events live until this is dropped.
        unsafe { event::record(self.ready, stream).and_then(|()| wait(self.stream, self.ready)) }
            .map_err(failed("beginning what ranks do together"))?;
        // As one operation: the values of a bucket are not each a message.
        // SAFETY: what the caller promises.
        let sent = unsafe {
            let mut sent = f.checked(SUMMING, (f.group)());
            for &Message { at, n, what } in messages {
                let (doing, code) = match what {
                    _ if sent.is_err() => break,
                    What::Sum => (SUMMING, (f.all_reduce)(at as _, at as _, n, FLOAT32, SUM, self.comm, self.stream)),
                    What::SumFor(rank) => {
                        (SUMMING, (f.reduce)(at as _, at as _, n, FLOAT32, SUM, rank, self.comm, self.stream))
                    }
                    What::From(rank) => {
                        (HANDING, (f.broadcast)(at as _, at as _, n, FLOAT32, rank, self.comm, self.stream))
                    }
                };
                sent = f.checked(doing, code);
            }
            // A group that was begun is ended.
            let ended = f.checked("what ranks do together", (f.ungroup)());
            sent.and(ended)
        };
        sent?;
        // SAFETY: as above.
        unsafe { event::record(self.done[place], self.stream) }.map_err(failed("ending what ranks do together"))
    }

    /// Lets what follows on `stream` wait for a collective of the plan, and with it for those before it.
    pub fn await_one(&self, place: usize, stream: sys::CUstream) -> Result<()> {
        // SAFETY: both live until this is dropped.
        unsafe { wait(stream, self.done[place]) }.map_err(failed("waiting for other ranks"))
    }
}

/// # Safety
/// Both are handles that live.
unsafe fn wait(stream: sys::CUstream, event: sys::CUevent) -> Result<(), DriverError> {
    // SAFETY: what the caller promises.
    unsafe { stream::wait_event(stream, event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
}

impl Drop for Nccl {
    /// Ends collectives that wait for a rank that is gone, without which nothing could be waited for.
    fn drop(&mut self) {
        // SAFETY: each was made above and is given back once; null where that did not come so far.
        unsafe {
            if !self.comm.is_null() {
                (self.functions.abort)(self.comm);
            }
            for event in self.done.iter().chain([&self.ready]).filter(|e| !e.is_null()) {
                let _ = event::destroy(*event);
            }
            if !self.stream.is_null() {
                let _ = stream::destroy(self.stream);
            }
        }
    }
}
