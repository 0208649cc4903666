/*! Files in the address space, and what becomes of one that shrinks meanwhile.

A mapping is a promise by whoever owns the file: **replace files by rename, never overwrite or truncate them in place**. Our
own writers keep it ([`crate::atomic`]). Where somebody else breaks it (`cp new.safetensors model.safetensors`), the system
answers the next look at a lost page with the signal SIGBUS. [`watch`] turns that into one line that names the file, and exit
code 1: for pages of the files that are mapped here, and for no other fault. */

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A file mapped read-only.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    /// Its place among those that the handler knows; None where there was no room for it.
    #[cfg(unix)]
    place: Option<u16>,
}

impl Mapped {
    /// Maps all of a file; `path` stands for it in messages.
    pub fn new(path: &Path, file: &File) -> io::Result<Self> {
        // SAFETY: the file is only read. That it is not changed in place is the contract at the top of this module; who
        // shrinks it ends the process.
        let map = unsafe { Mmap::map(file) }?;
        // Only the handler on Unix names the file.
        #[cfg(not(unix))]
        let _ = path;
        Ok(Self {
            #[cfg(unix)]
            place: fault::enter(path, &map),
            map,
        })
    }

    /// The mapping itself, for advice about it.
    pub fn map(&self) -> &Mmap {
        &self.map
    }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(unix)]
impl Drop for Mapped {
    fn drop(&mut self) {
        fault::leave(self.place);
    }
}

/// What a file is said to be that does not keep the contract.
pub const CHANGED: &str = "the file was changed while it was being read";
/// What to do about it.
pub const REMEDY: &str = "run again, and replace files by renaming a new one over them, not by overwriting";

/// Has this process end with a line where a page of a [`Mapped`] file is gone. For programs: a library leaves signals alone.
pub fn watch() {
    #[cfg(unix)]
    fault::watch();
}

#[cfg(unix)]
mod fault {
    use super::{CHANGED, REMEDY};
    use crate::error;
    use std::path::Path;
    use std::ptr::null_mut;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};

    /// What a signal handler can read: no lock, no allocation.
    struct Place {
        /// Address of the first byte; [`FREE`], or [`TAKEN`] while the rest is being changed.
        start: AtomicUsize,
        end: AtomicUsize,
        /// The line to be written.
        line: AtomicPtr<u8>,
        length: AtomicUsize,
    }

    const FREE: usize = 0;
    const TAKEN: usize = 1;

    /// Far more than any run maps: its towers, checkpoints and pictures.
    const PLACES: usize = 256;
    static ALL: [Place; PLACES] = [const {
        Place {
            start: AtomicUsize::new(FREE),
            end: AtomicUsize::new(0),
            line: AtomicPtr::new(null_mut()),
            length: AtomicUsize::new(0),
        }
    }; PLACES];

    /// Tells the handler of a mapping.
    pub fn enter(path: &Path, bytes: &[u8]) -> Option<u16> {
        let free = |p: &Place| p.start.compare_exchange(FREE, TAKEN, SeqCst, SeqCst).is_ok();
        let i = ALL.iter().position(free)?;
        let name = error::line(&path.display().to_string());
        let line = format!("error: {name}: {CHANGED}; {REMEDY}\n").into_bytes().into_boxed_slice();
        let (p, start) = (&ALL[i], bytes.as_ptr() as usize);
        p.length.store(line.len(), SeqCst);
        p.line.store(Box::into_raw(line).cast(), SeqCst);
        p.end.store(start + bytes.len(), SeqCst);
        p.start.store(start, SeqCst);
        Some(i as u16)
    }

    /// Forgets a mapping that nobody reads any more.
    pub fn leave(place: Option<u16>) {
        let Some(p) = place.map(|i| &ALL[usize::from(i)]) else { return };
        p.start.store(TAKEN, SeqCst);
        let line = std::ptr::slice_from_raw_parts_mut(p.line.swap(null_mut(), SeqCst), p.length.load(SeqCst));
        // SAFETY: it came from a box of this length in `enter`, and this place was entered once since.
        drop(unsafe { Box::from_raw(line) });
        p.start.store(FREE, SeqCst);
    }

    /// Whose handler this one stands before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    /// Runs where a thread touched what is not there: only calls that POSIX allows in a handler.
    extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system hands a valid `info` to a handler with SA_SIGINFO.
        let at = unsafe { (*info).si_addr() } as usize;
        for p in &ALL {
            let (start, end) = (p.start.load(SeqCst), p.end.load(SeqCst));
            // Another thread may be changing a place; then its start is no longer what it was.
            if start > TAKEN && (start..end).contains(&at) && p.start.load(SeqCst) == start {
                // SAFETY: this thread is reading the mapping of this place, which therefore stays, and with it the line.
                unsafe {
                    libc::write(2, p.line.load(SeqCst).cast(), p.length.load(SeqCst));
                    libc::_exit(1);
                }
            }
        }
        // Not ours: the faulting instruction runs again and meets whoever was there before.
        if let Some(before) = BEFORE.get() {
            // SAFETY: an action that the system gave us.
            unsafe { libc::sigaction(signal, before, null_mut()) };
        }
    }

    pub fn watch() {
        // SAFETY: `sigaction` is plain data for which zeros are valid, and both calls get valid pointers.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) != 0 || BEFORE.set(before).is_err() {
                return;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, null_mut());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        std::fs::write(&path, b"a file").unwrap();
        let map = || Mapped::new(&path, &File::open(&path).unwrap()).unwrap();
        for _ in 0..1000 {
            let (a, b) = (map(), map());
            assert!(a.place.is_some() && b.place.is_some() && a.place != b.place);
            assert_eq!(*a, b"a file"[..]);
        }
    }
}
