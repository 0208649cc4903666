/*! Signals, and what each asks for: SIGINT (Ctrl-C), SIGTERM and SIGHUP to finish the step of a training, keep what there is and
end, with exit code 130 for SIGINT and 143 for the other two; a second one to end at once, unless it is SIGTERM and comes within
[`TWICE`]. Whatever is no training ends at the first: by itself within [`GRACE`] where it works in parts and asks between them, at
once where it does not. SIGUSR1 (what Slurm can send some time before its limit) asks for a checkpoint, after which the job goes
on. Elsewhere than on Unix there is Ctrl-C alone. */

use crate::error::{Error, Kind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const INTERRUPTED: u8 = 130;
#[cfg(unix)]
const TERMINATED: u8 = 143;

/// The exit code of a job that is to stop; 0 while none is.
static STOP: AtomicU8 = AtomicU8::new(0);
static SAVE: AtomicBool = AtomicBool::new(false);
/// Whether there is a job that asks if it is to stop. All others have nothing to keep and would never hear of it.
static ASKED: AtomicBool = AtomicBool::new(false);
/// How many trainings there are, whose steps are finished however long they take.
static TRAININGS: AtomicUsize = AtomicUsize::new(0);

/// When a training was asked to end.
static SINCE: OnceLock<Instant> = OnceLock::new();

/// How long a second SIGTERM is the first one once more: a system that ends a job sends it to every process of it, and a script
/// that waits for this one hands it on.
#[cfg(unix)]
const TWICE: Duration = Duration::from_secs(1);

/// How long a job that is no training has to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// A training begins or has ended: in between, what it did since its last checkpoint is kept when it is to stop.
pub fn training(runs: bool) {
    match runs {
        true => TRAININGS.fetch_add(1, Relaxed),
        false => TRAININGS.fetch_sub(1, Relaxed),
    };
}

/// Whether the job is to stop.
pub fn stopped() -> bool {
    ASKED.store(true, Relaxed);
    STOP.load(Relaxed) != 0
}

/// Whether a checkpoint was asked for and not written since.
pub fn save_wanted() -> bool {
    SAVE.load(Relaxed)
}

/// To be said before a checkpoint is written: a signal that comes meanwhile asks for another one. True if it was asked for.
pub fn saving() -> bool {
    SAVE.swap(false, Relaxed)
}

/// The exit code for an error, by what stopped the job if something did.
pub fn exit_code(e: &Error) -> u8 {
    match STOP.load(Relaxed) {
        code if code != 0 && e.kind() == Kind::Interrupted => code,
        _ => e.exit_code(),
    }
}

fn stop(code: u8) {
    #[cfg(unix)]
    if code == TERMINATED && SINCE.get().is_some_and(|since| since.elapsed() < TWICE) {
        return;
    }
    if STOP.swap(code, Relaxed) != 0 || !ASKED.load(Relaxed) {
        std::process::exit(code.into());
    }
    if TRAININGS.load(Relaxed) > 0 {
        SINCE.get_or_init(Instant::now);
        remark!("\nstopping after this step; once more to leave at once");
        return;
    }
    // Where a read never ends or a part takes minutes, nobody asks in time.
    std::thread::sleep(GRACE);
    if TRAININGS.load(Relaxed) == 0 {
        std::process::exit(code.into());
    }
}

/// Listens from now on. To be called before there is any other thread.
#[cfg(unix)]
pub fn watch() {
    use libc::{SIG_BLOCK, SIG_SETMASK, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    use std::mem::zeroed;
    use std::ptr::{null, null_mut};

    // Blocked in this thread, and with it in all that come later, signals wait until the thread below takes them: an ordinary
    // thread, which may do what a handler of signals may not.
    // SAFETY: zeros are valid for both structures, which the system fills; all pointers are of living variables or null where
    // that is allowed.
    let (set, before) = unsafe {
        let (mut set, mut before) = (zeroed::<libc::sigset_t>(), zeroed::<libc::sigset_t>());
        let mut now = zeroed::<libc::sigaction>();
        libc::sigemptyset(&mut set);
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1] {
            libc::sigaction(signal, null(), &mut now);
            // Who starts it with `nohup` wants it to go on when the terminal is closed.
            if signal != SIGHUP || now.sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(&mut set, signal);
            }
        }
        libc::pthread_sigmask(SIG_BLOCK, &set, &mut before);
        // A file that may not grow (`ulimit -f`) is an error of the write, which says which file it was.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        (set, before)
    };
    let listen = move || {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers are of living variables.
            match unsafe { libc::sigwait(&set, &mut signal) } {
                0 if signal == SIGUSR1 => SAVE.store(true, Relaxed),
                0 => stop(if signal == SIGINT { INTERRUPTED } else { TERMINATED }),
                _ => return,
            }
        }
    };
    if std::thread::Builder::new().name("signals".into()).spawn(listen).is_err() {
        // SAFETY: the mask is what the system said it was. Signals end the program, as they do without a listener.
        unsafe { libc::pthread_sigmask(SIG_SETMASK, &before, null_mut()) };
    }
}

/// Listens from now on.
#[cfg(not(unix))]
pub fn watch() {
    let _ = ctrlc::set_handler(|| stop(INTERRUPTED));
}
