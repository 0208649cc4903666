//! NVRTC as it is found on this machine: opened at run time, its functions looked up once, nothing linked. A missing file
//! or function is an error like any other. It is code that this process runs, so it is looked for where the system's loader
//! looks, in the folder that the user names by its whole path, and beside the program; never in the current folder.

use super::Version;
use crate::error::{Error, Result};
use crate::files;
use libloading::Library;
use std::env;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Folder of NVRTC, when the loader does not find it by itself.
const FOLDER: &str = "DEEP_AFFECT_NVRTC";

/// Oldest version whose compilers know every option and declaration that the kernels use.
const OLDEST: Version = Version { major: 12, minor: 0 };

#[cfg(windows)]
const NAMES: &[&str] = &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];
#[cfg(not(windows))]
const NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// How the files of its second half begin; CUDA 13 has another set, for other compilers, called `.alt`.
#[cfg(windows)]
const BUILTINS: &str = "nvrtc-builtins64_";
#[cfg(not(windows))]
const BUILTINS: &str = "libnvrtc-builtins.so.";

/// Where `pip install --target nvrtc` puts it, of CUDA 13 and of 12, in a folder that holds the program or one above it.
const BESIDE: [&str; 2] = ["nvrtc/nvidia/cu13/lib", "nvrtc/nvidia/cuda_nvrtc/lib"];

/// The newest CUDA that the driver serves, where one was asked.
pub static DRIVER: OnceLock<Version> = OnceLock::new();

/// Whether the driver loads what this version assembles; so it is where nobody asked one.
pub fn served(version: Version) -> bool {
    DRIVER.get().is_none_or(|driver| super::fits(version, *driver))
}

type Handle = *mut c_void;

/// Declares the functions of the library that are used (NVRTC documentation, "Modules"), and how they are looked up.
macro_rules! functions {
    ($($name:ident($($arg:ty),*);)*) => {
        #[allow(non_snake_case)]
        struct Functions { $($name: unsafe extern "C" fn($($arg),*) -> c_int),* }

        impl Functions {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of nvrtc.h, unchanged from version 11 to 13.
                unsafe { Ok(Self { $($name: *library.get(stringify!($name))?),* }) }
            }
        }
    };
}

functions! {
    nvrtcVersion(*mut c_int, *mut c_int);
    nvrtcCreateProgram(*mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    nvrtcDestroyProgram(*mut Handle);
    nvrtcCompileProgram(Handle, c_int, *const *const c_char);
    nvrtcGetProgramLogSize(Handle, *mut usize);
    nvrtcGetProgramLog(Handle, *mut c_char);
    nvrtcGetPTXSize(Handle, *mut usize);
    nvrtcGetPTX(Handle, *mut c_char);
    nvrtcGetCUBINSize(Handle, *mut usize);
    nvrtcGetCUBIN(Handle, *mut c_char);
}

/// The opened library. Its functions may be called from several threads at once, each with programs of its own.
pub struct Nvrtc {
    pub version: Version,
    functions: Functions,
}

/// What a successful compilation leaves.
pub struct Output {
    pub cubin: Vec<u8>,
    pub ptx: String,
    pub log: String,
}

/// Why there is no output.
pub enum Failure {
    /// What the compiler or the assembler has to say about source and options.
    Log(String),
    /// Nothing was said but the code: nvrtcResult.
    Code(c_int),
}

impl Nvrtc {
    /// The library of this process, looked for once.
    pub fn get() -> Result<&'static Nvrtc> {
        static FOUND: OnceLock<Result<Nvrtc>> = OnceLock::new();
        let find = || Self::find(files::named_by(FOLDER).map_err(Error::usage)?);
        FOUND.get_or_init(find).as_ref().map_err(Error::clone)
    }

    /// In the named folder, else where the loader of the system looks, else beside the program. Of the driver's major version
    /// if there is one.
    fn find(folder: Option<PathBuf>) -> Result<Nvrtc> {
        not_in_the_current_folder();
        let install = format!(
            "install CUDA 13.0, or `pip install '{}'` and set {FOLDER} to the folder that holds libnvrtc.so",
            wheel()
        );
        let (folders, place) = match folder {
            Some(folder) => {
                let place = format!("in {FOLDER}={}", folder.display());
                (vec![folder], place)
            }
            // A name without a folder is for the loader.
            None => {
                ([PathBuf::new()].into_iter().chain(beside()).collect(), "among the libraries of the system".into())
            }
        };
        let mut names = NAMES.to_vec();
        // A stable order: the first that the driver serves, or the first.
        names.sort_by_key(|n| n.contains("13") && !served(Version { major: 13, minor: 0 }));
        let mut places = names.iter().flat_map(|n| folders.iter().map(move |f| (f, f.join(n))));
        let open = |(folder, path): (&PathBuf, PathBuf)| {
            if folder.is_absolute() && path.is_file() {
                open_builtins(folder);
            }
            // SAFETY: opening NVRTC runs its initialisers, which are meant for this.
            unsafe { Library::new(path) }.ok()
        };
        let Some(library) = places.find_map(open) else {
            let names = NAMES.join(", ");
            return Err(Error::job(format!(
                "NVRTC, the compiler of CUDA kernels, is missing: none of {names} {place}"
            ))
            .fix(install));
        };
        let unusable = |why: String| Error::job(format!("NVRTC {place} cannot be used: {why}")).fix(install.clone());
        let functions = Functions::of(&library).map_err(|e| unusable(e.to_string()))?;
        // Its functions are called until the process ends, and unloading compilers is where compilers crash.
        std::mem::forget(library);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two valid places.
        let code = unsafe { (functions.nvrtcVersion)(&mut major, &mut minor) };
        let version = Version { major: major as u32, minor: minor as u32 };
        match code {
            0 if version >= OLDEST => Ok(Nvrtc { version, functions }),
            0 => Err(unusable(format!("it is version {version}, and {OLDEST} is the oldest that will do"))),
            _ => Err(unusable(format!("it does not tell its version (error {code})"))),
        }
    }

    /// Compiles `text`, called `name` in messages. `headers` are names as they are included, and their texts.
    pub fn compile(
        &self,
        name: &str,
        text: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<Output, Failure> {
        let (names, texts): (Vec<&str>, Vec<&str>) = headers.iter().copied().unzip();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let program = Program::new(&self.functions, [name, text], [&names, &texts])?;
        let compiled = program.compile(&options);
        let f = &self.functions;
        let log = text_of(program.bytes(f.nvrtcGetProgramLogSize, f.nvrtcGetProgramLog)?);
        match compiled {
            Err(Failure::Code(_)) if !log.trim().is_empty() => return Err(Failure::Log(log)),
            other => other?,
        }
        let cubin = program.bytes(f.nvrtcGetCUBINSize, f.nvrtcGetCUBIN)?;
        let ptx = text_of(program.bytes(f.nvrtcGetPTXSize, f.nvrtcGetPTX)?);
        Ok(Output { cubin, ptx, log })
    }
}

/// One source being compiled.
struct Program<'a> {
    handle: Handle,
    functions: &'a Functions,
}

impl<'a> Program<'a> {
    fn new(functions: &'a Functions, [name, text]: [&str; 2], [names, texts]: [&[&str]; 2]) -> Result<Self, Failure> {
        let (one, headers) = (Strings::new(&[name, text])?, [Strings::new(names)?, Strings::new(texts)?]);
        let mut program = Program { handle: std::ptr::null_mut(), functions };
        let [names, texts] = headers.each_ref().map(Strings::list);
        // SAFETY: strings that end with zero and outlive the call, which copies them; both lists have as many as is told.
        let code = unsafe {
            let count = names.len() as c_int;
            (functions.nvrtcCreateProgram)(
                &mut program.handle,
                one.0[1].as_ptr(),
                one.0[0].as_ptr(),
                count,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        check(code).map(|()| program)
    }

    fn compile(&self, options: &[&str]) -> Result<(), Failure> {
        let options = Strings::new(options)?;
        let list = options.list();
        // SAFETY: a program that was created; the options outlive the call.
        check(unsafe { (self.functions.nvrtcCompileProgram)(self.handle, list.len() as c_int, list.as_ptr()) })
    }

    /// One of the things that a program holds, by the function that tells its size and the one that copies it.
    fn bytes(
        &self,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, Failure> {
        let mut n = 0;
        // SAFETY: a program that was created; a place for the answer.
        check(unsafe { size(self.handle, &mut n) })?;
        let mut bytes = vec![0; n];
        // SAFETY: as many bytes as it asked for.
        check(unsafe { get(self.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created by this library, destroyed once. An error could only mean that it is gone.
            unsafe { (self.functions.nvrtcDestroyProgram)(&mut self.handle) };
        }
    }
}

/// Strings as C takes them.
struct Strings(Vec<CString>);

impl Strings {
    fn new(strings: &[&str]) -> Result<Self, Failure> {
        let all = strings.iter().map(|s| CString::new(*s)).collect::<Result<_, _>>();
        all.map(Self).map_err(|_| Failure::Log("error: a zero byte in the source".into()))
    }
    fn list(&self) -> Vec<*const c_char> {
        self.0.iter().map(|s| s.as_ptr()).collect()
    }
}

fn check(code: c_int) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure::Code(code)) }
}

/// Text that NVRTC ends with a zero.
fn text_of(mut bytes: Vec<u8>) -> String {
    bytes.truncate(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What `pip` installs it from: of the driver's major version, whose code it loads.
pub fn wheel() -> &'static str {
    match DRIVER.get() {
        Some(Version { major: 12, .. }) => "nvidia-cuda-nvrtc-cu12==12.9.*",
        _ => "nvidia-cuda-nvrtc==13.0.*",
    }
}

/// On Windows the loader looks for a library in the current folder, too, after the system's and before those of PATH. From now on
/// it does not, in all of this process.
pub fn not_in_the_current_folder() {
    #[cfg(windows)]
    {
        #[link(name = "kernel32")]
        unsafe extern "system" {
            fn SetDllDirectoryW(path: *const u16) -> i32;
        }
        // SAFETY: an empty string that ends with zero, which takes the current folder out ("SetDllDirectoryW", Windows API).
        unsafe { SetDllDirectoryW([0].as_ptr()) };
    }
}

/// Folders of NVRTC beside this program: in the folder that holds it and the two above, unless strangers could have put them
/// there.
fn beside() -> Vec<PathBuf> {
    let program = env::current_exe().unwrap_or_default();
    let folders = program.ancestors().skip(1).take(3).flat_map(|f| BESIDE.map(|b| f.join(b)));
    folders.filter(|f| f.is_dir() && files::beside_program(f, 4, &program)).collect()
}

/// In a folder that the loader does not search, NVRTC does not find its own second half either: it is opened first.
fn open_builtins(folder: &Path) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    for path in files.filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(BUILTINS))) {
        // SAFETY: as for NVRTC itself. If it fails, NVRTC says so when it compiles.
        std::mem::forget(unsafe { Library::new(path) });
    }
}
