//! What the compiler and the assembler write: resources by kernel, remarks, the first error.

use super::Resources;
use crate::error::Error;

/// Resources and remarks in a log of `--ptxas-options=-v`. What is not understood is a remark, so that nothing is missed.
pub fn read(log: &str) -> (Vec<Resources>, Vec<String>) {
    let mut found: Vec<Resources> = vec![];
    let mut remarks: Vec<String> = vec![];
    // Whose properties come next: a kernel's, or those of a function it calls, which are in the kernel's stack.
    let mut own = false;
    for line in log.lines() {
        let info = line.strip_prefix("ptxas info    : ").unwrap_or(line);
        if let Some(name) = info.strip_prefix("Compiling entry function '").and_then(|rest| rest.split('\'').next()) {
            found.push(Resources { entry: name.into(), ..Resources::default() });
        } else if let (Some(name), Some(last)) = (info.strip_prefix("Function properties for "), found.last()) {
            own = name == last.entry;
        } else if let (true, Some(r)) = (info.ends_with(" bytes spill loads"), found.last_mut()) {
            if own {
                (r.stack, r.spill_stores) = (before(info, " bytes stack"), before(info, " bytes spill stores"));
                r.spill_loads = before(info, " bytes spill loads");
            }
        } else if let (true, Some(r)) = (info.starts_with("Used "), found.last_mut()) {
            (r.registers, r.barriers) = (before(info, " registers"), before(info, " barriers"));
            r.shared = before(info, " bytes smem");
        } else if info.contains(" bytes gmem") || info.starts_with("Compile time = ") || line.trim().is_empty() {
        } else if let (true, Some(last)) = (line.starts_with(' '), remarks.last_mut()) {
            *last += "\n";
            *last += line;
        } else if !line.starts_with("Remark: ") {
            remarks.push(line.into());
        }
    }
    found.sort_by(|a, b| a.entry.cmp(&b.entry));
    (found, remarks)
}

/// The number before `words`; 0 where the words are missing, which is how the assembler writes 0.
fn before(line: &str, words: &str) -> u32 {
    let number = line.find(words).and_then(|end| line[..end].rsplit([' ', ',']).next());
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The first error of a log, with its file and line where it has them, and the rest behind it.
pub fn error(source: &str, log: &str) -> Error {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let first = lines.iter().position(|l| l.contains("error")).unwrap_or(0);
    let line = lines.get(first).copied().unwrap_or_default();
    // `dense.cu(7): error: identifier "x" is undefined`
    let placed = line.split_once("): ").and_then(|(place, problem)| Some((place.rsplit_once('(')?, problem)));
    let ((file, number), problem) = match placed {
        Some(((file, number), problem)) => ((file, Some(number)), problem),
        None => ((source, None), line),
    };
    let rest = lines.get(first + 1..).unwrap_or_default().join(" | ");
    let error = Error::file(file, if rest.is_empty() { problem.into() } else { format!("{problem} | {rest}") });
    match number {
        Some(number) => error.at(format!("line {number}")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_the_kernels_own() {
        let log = "\
k.cu(3): warning #177-D: variable \"unused\" was declared but never referenced
  int unused;
      ^

Remark: The warnings can be suppressed with \"-diag-suppress <warning-number>\"

ptxas warning : Registers are spilled to local memory in function 'f', 48 bytes spill stores, 52 bytes spill loads
ptxas info    : 4 bytes gmem, 8 bytes cmem[4]
ptxas info    : Compiling entry function 'f' for 'sm_90a'
ptxas info    : Function properties for f
ptxas         .     56 bytes stack frame, 48 bytes spill stores, 52 bytes spill loads
ptxas info    : Used 24 registers, used 2 barriers, 56 bytes cumulative stack size, 1024 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 4.085 ms
ptxas info    : Function properties for _Z6helperf
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : (C7519) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : Compiling entry function 'a' for 'sm_90a'
ptxas info    : Function properties for a
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
";
        let (found, remarks) = read(log);
        let f = Resources {
            entry: "f".into(),
            registers: 24,
            shared: 1024,
            stack: 56,
            spill_stores: 48,
            spill_loads: 52,
            barriers: 2,
        };
        assert_eq!(found, [Resources { entry: "a".into(), registers: 8, ..Resources::default() }, f]);
        let starts = ["k.cu(3): warning", "ptxas warning : Registers are spilled", "ptxas info    : (C7519)"];
        assert_eq!(remarks.len(), starts.len(), "{remarks:#?}");
        assert!(remarks.iter().zip(starts).all(|(r, s)| r.starts_with(s)), "{remarks:#?}");
        assert!(remarks[0].ends_with('^'));
    }

    #[test]
    fn errors_have_a_place() {
        let log = "k.cu(3): warning #1: w\n\na/b.cuh(2): error: identifier \"Y\" is undefined\n  Y;\n  ^\n\n1 error detected.\n";
        let text = error("k.cu", log).to_string();
        assert_eq!(text, "a/b.cuh: line 2: error: identifier \"Y\" is undefined | Y; | ^ | 1 error detected.");
        let text = error("k.cu", "ptxas application ptx input, line 25; error   : Feature\nptxas fatal   : aborted")
            .to_string();
        assert_eq!(text, "k.cu: ptxas application ptx input, line 25; error   : Feature | ptxas fatal   : aborted");
        assert_eq!(error("k.cu", "").to_string(), "k.cu: ");
    }
}
