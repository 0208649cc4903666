use super::*;
use std::borrow::Cow;

#[path = "../../tests/common/devices.rs"]
mod devices;

/// Whether NVRTC is here. Without it a test fails, or says that it did nothing where that is asked for.
pub fn present() -> bool {
    available().map_err(|e| devices::without("sim", &e)).is_ok()
}

/// Texts in memory; the first is the source.
fn source(files: &[(&str, &'static str)]) -> KernelText {
    let find = |path: &str| match files.iter().find(|f| f.0 == path) {
        Some(f) => Ok(Cow::Borrowed(f.1)),
        None => Err(Error::job("missing")),
    };
    KernelText::with(files[0].0, &find).unwrap()
}

pub const UNIT: Unit = Unit { source: "a.cu", defines: vec![] };
const KERNEL: &str = "#include \"tile/one.cuh\"
extern \"C\" __global__ void __launch_bounds__(64) k(float *x) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[63 - threadIdx.x] * TWO;
}";

pub fn kernel(two: &'static str) -> KernelText {
    source(&[
        ("a.cu", KERNEL),
        ("tile/one.cuh", "  #  include \"two.cuh\"\n#include \"nowhere.cuh\"\n"),
        ("two.cuh", two),
    ])
}

#[test]
fn includes_are_found_through_includes() {
    let source = kernel("");
    assert_eq!(source.headers.keys().collect::<Vec<_>>(), ["tile/one.cuh", "two.cuh"]);
    assert!(KernelText::open("no such.cu").is_err());
    let add = KernelText::open("arith.cu").unwrap();
    assert_eq!(add.headers.keys().collect::<Vec<_>>(), ["args.cuh", "common.cuh", "half.cuh"]);
}

#[test]
fn targets_are_written_and_read() {
    for t in Target::ALL {
        assert_eq!(t.to_string().parse::<Target>().unwrap(), t);
    }
    assert_eq!("90a".parse::<Target>().unwrap().to_string(), "sm_90a");
    assert_eq!("sm_x".parse::<Target>().unwrap_err().exit_code(), 2);
}

#[test]
fn a_device_gets_what_it_can_run() {
    let of = |compute| {
        let (target, translate) = Target::of_device(compute);
        (target.to_string(), translate)
    };
    let own = [75, 80, 86, 89, 100, 120].map(|c| (c, format!("sm_{c}"), false));
    let others = [(87, "sm_86"), (90, "sm_90a"), (103, "sm_100"), (121, "sm_120")].map(|(c, t)| (c, t.into(), false));
    let translated = [(110, "sm_100"), (130, "sm_120")].map(|(c, t)| (c, t.into(), true));
    for (compute, target, translate) in own.into_iter().chain(others).chain(translated) {
        assert_eq!(of(compute), (target, translate), "{compute}");
    }
}

#[test]
fn compiles_to_code_text_and_resources() {
    if !present() {
        return;
    }
    let source = source(&[("a.cu", KERNEL), ("tile/one.cuh", "#include \"two.cuh\""), ("two.cuh", "#define TWO 2")]);
    for target in Target::ALL {
        let c = compile_source(&UNIT, &source, target).unwrap();
        assert_eq!(c.cubin[..4], *b"\x7fELF");
        assert!(c.ptx.contains(&format!(".target {target}")) && c.ptx.contains(".loc"));
        assert_eq!(c.resources.len(), 1);
        let r = &c.resources[0];
        assert_eq!((r.entry.as_str(), r.shared, r.stack, r.barriers), ("k", 256, 0, 1));
        assert!(r.registers > 0 && c.warnings.is_empty(), "{c:?}");
    }
}

#[test]
fn a_mistake_has_file_and_line() {
    if !present() {
        return;
    }
    let target = Target::new(80);
    let error = |files: &[(&str, &'static str)]| compile_source(&UNIT, &source(files), target).unwrap_err().to_string();
    let text = error(&[("a.cu", KERNEL), ("tile/one.cuh", "int f() {\n  return X; }\n#define TWO 2")]);
    assert!(text.starts_with("tile/one.cuh: line 2: error: identifier \"X\" is undefined"), "{text}");
    assert!(text.ends_with("this was a.cu for sm_80"), "{text}");
    let text = error(&[("a.cu", "#include \"nowhere.cuh\"")]);
    assert!(text.starts_with("a.cu: line 1: catastrophic error: cannot open source file \"nowhere.cuh\""), "{text}");
    let text = error(&[("a.cu", "extern \"C\" __global__ void k() { asm volatile(\"wgmma.fence.sync.aligned;\"); }")]);
    assert!(text.starts_with("a.cu: ptxas") && text.contains("wgmma.fence"), "{text}");
    let text = error(&[("a.cu", "\0")]);
    assert_eq!(text, "a.cu: error: a zero byte in the source; this was a.cu for sm_80");
    let far = compile_source(&UNIT, &source(&[("a.cu", "")]), Target::new(77)).unwrap_err().to_string();
    assert!(far.contains("--gpu-architecture") && far.contains("sm_77"), "{far}");
}

#[test]
fn code_names_its_sources_and_nothing_of_where_it_was_compiled() {
    if !present() {
        return;
    }
    let source = source(&[("a.cu", KERNEL), ("tile/one.cuh", "#define TWO 2")]);
    let compiled = compile_source(&UNIT, &source, Target::new(89)).unwrap();
    let holds = |text: &str| compiled.cubin.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(holds(source.root.trim_end_matches('/')) || holds(&source.root), "the cubin has the sources' folder");
    let here = std::env::current_dir().unwrap();
    assert!(!holds(here.to_str().unwrap()), "the cubin has the working folder");
    assert!(compiled.ptx.contains("\"a.cu\"") && !compiled.ptx.contains(here.to_str().unwrap()));
}
