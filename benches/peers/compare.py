"""Times `deep-affect` and its peers on the fused network, in turns, and prints one table.

    python compare.py [--cases infer:1,infer:8,train:4,first] [--rounds 5] [--peers NAME,...] [--json FILE]
    python compare.py --network resnet101 [--cases infer:1,infer:8,train:8]
    python compare.py --precision bf16 [--cases infer:1,infer:8]

Every program is a process of its own that waits until it is asked for one run (`worker.py` describes the protocol), so
that a round visits all of them within seconds and whatever else the machine does hits all alike. `ratio` is the median
over rounds of our time divided by the peer's in the same round: below 1 we are faster. Training holds gigabytes per
program, so there each peer takes turns with us alone. `first` starts a process on a photograph and 1.4 GB of weights.
`CPU` is the same ratio of processor time of all threads, which other work on the machine disturbs least. `--network` names
another network, in turns with PyTorch in both layouts; `--precision bf16` has inference in it by those who know it on a processor.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
arguments = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
arguments.add_argument("--network", choices=["resnet101", "densenet201", "inception-v3", "xception", "emosepar"])
arguments.add_argument("--precision", default="float32", choices=["float32", "bf16"])
arguments.add_argument("--cases", help="what to run, and the batch")
arguments.add_argument("--rounds", type=int, default=5)
arguments.add_argument("--threads", type=int, default=os.cpu_count())
arguments.add_argument("--peers", default="torch,torch-nhwc,onnxruntime,openvino,tensorflow,candle")
arguments.add_argument("--binary", required=True, help="deep-affect, built with --release")
arguments.add_argument("--scratch", required=True, help="folder of run.sh: environments, weights, candle")
arguments.add_argument("--json", help="every sample, to this file")
a = arguments.parse_args()
BF16 = a.precision == "bf16"
a.cases = a.cases or ("infer:1,infer:8" if BF16 else "infer:1,infer:8,train:8" if a.network else "infer:1,infer:8,train:4,first")
if a.network and "first" in a.cases:
    arguments.error("`first` rates a photograph with the fused network: leave out --network")
if BF16 and ("first" in a.cases or "train" in a.cases):
    arguments.error("--precision bf16 is for inference")
PEERS = [p for p in a.peers.split(",") if p.startswith("torch") or not a.network and (p == "openvino" or not BF16)]
OURS = "deep-affect"
INFERENCE_ONLY = ["onnxruntime", "openvino"]
WEIGHTS = os.path.join(a.scratch, "fused")


def python(peer, case, *rest):
    environment = "tensorflow" if peer == "tensorflow" else "torch"
    model = WEIGHTS + (".safetensors" if peer == "torch" else ".onnx")
    program = [os.path.join(a.scratch, environment, "bin", "python"), os.path.join(HERE, "worker.py")]
    network = ["--network", a.network] if a.network else []
    return [*program, "--peer", peer, *network, "--case", case, "--threads", str(a.threads), "--precision", a.precision, "--model", model, *rest]  # fmt: skip


def command(program, case, batch):
    if program == OURS:
        network = [a.network] if a.network else []
        precision = ["--precision", a.precision] if BF16 else []
        return [a.binary, "profile", *network, *precision, "--pass", case, "--batch", str(batch), "--threads", str(a.threads), "--paced", "--json"]  # fmt: skip
    if program == "candle":
        return [os.path.join(a.scratch, "candle", "release", "candle-peer"), case, str(batch)]
    return python(program, case, "--batch", str(batch))


class Worker:
    """A program that runs when it is told to."""

    def __init__(self, program, case, batch):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(a.threads))
        self.program, self.seconds, self.cpu_seconds = program, [], []
        self.process = subprocess.Popen(command(program, case, batch), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=environment)  # fmt: skip
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.program} stopped with {self.process.wait()}: {' '.join(self.process.args)}")
        return json.loads(line)["seconds"]

    def cpu(self):
        """Processor time of all threads; 0 where the system has no clock of another process (all but Linux)."""
        # What clock_getcpuclockid(3) answers.
        return time.clock_gettime((~self.process.pid << 3) | 2) if sys.platform == "linux" else 0.0

    def run(self):
        before = self.cpu()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(self.read())
        self.cpu_seconds.append(self.cpu() - before)

    def finish(self):
        """What the program says of itself at the end."""
        self.process.stdin.close()
        rest = json.loads(self.process.stdout.read())
        self.process.wait()
        return rest


def in_turns(programs, case, batch, rounds):
    workers = []
    for p in programs:
        progress(f"{case} {batch}: starting {p}")
        workers.append(Worker(p, case, batch))
    for r in range(rounds):
        progress(f"{case} {batch}: round {r + 1} of {rounds} of {', '.join(programs)}")
        for w in workers:
            time.sleep(0.3)  # Whoever ran last may still be spinning.
            w.run()
    rows = []
    for w in workers:
        rest = w.finish()
        rows.append(dict(case=f"{case}:{batch}", program=w.program, seconds=w.seconds, cpu_seconds=w.cpu_seconds,
                         peak_memory_mib=rest["peak_memory_mib"], gflop=rest.get("gflop")))  # fmt: skip
    return rows


def evict(path):
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def first(cached):
    """Process start to the printed rating of one photograph."""
    case = "first:cached" if cached else "first:evicted"
    photo, ours = os.path.join(a.scratch, "photo.png"), os.path.join(a.scratch, "model", "checkpoint.safetensors")
    programs = {OURS: ([a.binary, "predict", "--model", ours, photo, "--threads", str(a.threads)], ours)}
    for p in ["torch", "onnxruntime", "openvino"]:
        if p in PEERS:
            c = python(p, "first", "--photo", photo)
            programs[p] = (c, c[c.index("--model") + 1])
    rows = {p: dict(case=case, program=p, seconds=[], cpu_seconds=[], peak_memory_mib=0, gflop=None) for p in programs}
    for r in range(a.rounds + 1):
        progress(f"{case}: round {r} of {a.rounds}")
        for p, (line, weights) in programs.items():
            if not cached:
                evict(weights)
            start = time.perf_counter()
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            # wait4 gives this child's own peak.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            if status:
                sys.exit(f"{' '.join(line)}\n{process.stderr.read().decode()}")
            rows[p]["peak_memory_mib"] = max(rows[p]["peak_memory_mib"], usage.ru_maxrss / 1024)
            if r > 0:  # The first round fills the page cache, or compiles Python's files.
                rows[p]["seconds"].append(seconds)
    return list(rows.values())


def progress(text):
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)  # fmt: skip


def rows_of(case):
    kind, _, batch = case.partition(":")
    if kind == "first":
        return [first(cached=True), first(cached=False)]
    peers = [p for p in PEERS if kind == "infer" or p not in INFERENCE_ONLY]
    if kind == "infer":
        return [in_turns([OURS, *peers], kind, int(batch), a.rounds)]
    # candle takes minutes for a step: once is enough to see where it stands.
    return [in_turns([OURS, p], kind, int(batch), 1 if p == "candle" else a.rounds) for p in peers]


def ratio(ours, row, key):
    """The median of ours over theirs, round by round; None where it was not measured."""
    pairs = [(o, t) for o, t in zip(ours[key], row[key]) if t]
    return statistics.median(o / t for o, t in pairs) if pairs else None


def table(group):
    """Rows for people, ours first."""
    ours = group[0]
    gflop = ours["gflop"]
    for row in group:
        s, cpu = row["seconds"], row["cpu_seconds"]
        middle = statistics.median(s)
        work = f"{gflop / middle:6.0f}" if gflop else "     –"
        busy = f"{statistics.median(cpu):7.3f}" if any(cpu) else "      –"
        verdict = ""
        if row is not ours:
            wall, processor_time = ratio(ours, row, "seconds"), ratio(ours, row, "cpu_seconds")
            verdict = f"{wall:7.2f} {'    –' if processor_time is None else f'{processor_time:5.2f}'}{'  slower' if wall > 1 else ''}"
        yield (f"{row['case']:<14} {row['program']:<12} {middle:8.3f} ({min(s):.3f} – {max(s):.3f}) n={len(s):<2} {busy} {work} "
               f"{row['peak_memory_mib']:7.0f} {verdict}")  # fmt: skip


def processor():
    if os.path.exists("/proc/cpuinfo"):
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()


def versions():
    lines = []
    environments = [("torch", "torch torchvision onnxruntime openvino"), ("tensorflow", "tensorflow-cpu keras")]
    for environment, names in environments[:1] if a.network else environments:
        pip = os.path.join(a.scratch, environment, "bin", "pip")
        shown = subprocess.run([pip, "show", *names.split()], capture_output=True, text=True).stdout.splitlines()
        field = {"Name": [], "Version": []}
        for line in shown:
            key, _, value = line.partition(": ")
            if key in field:
                field[key].append(value)
        lines += [f"{n} {v}" for n, v in zip(field["Name"], field["Version"])]
    return ", ".join(lines + ([] if a.network else ["candle-core 0.11.1"]))


now, load = time.strftime("%Y-%m-%d %H:%M"), os.getloadavg()[0]
print(f"{a.network or 'fused'}{' in bf16' * BF16}; {processor()}, {a.threads} threads, {now} UTC, load {load:.1f}; {versions()}", flush=True)
print(f"{'case':<14} {'program':<12} {'median s':>8} (fastest – slowest)       CPU s GFLOP/s peak MiB   ours / theirs, CPU", flush=True)
samples = []
for case in a.cases.split(","):
    for group in rows_of(case):
        progress("")
        print("\n".join(table(group)), flush=True)
        samples += group
        if a.json:
            with open(a.json, "w") as f:
                json.dump(samples, f, indent=1)
