"""PyTorch on the fused network, for the table of `deep-affect bench table`: the same layers, shapes, update and dropout as
`deep-affect bench step|infer|conv|dense`, on seeded random numbers. Needs nothing but torch.

    python deep_affect_torch.py --budget 240 --json torch.json
    python deep_affect_torch.py --device cpu --smoke --json -        # every part, tiny, without a GPU

Cases: a training step (forward, backward, SGD with momentum over all parameters) and an inference, in every set-up that
people use and that PyTorch documents as fast; the layers alone, each pass by itself (`aten.convolution_backward` with one
output asked for). Each time is wall time of a loop of runs of at least 20 ms that ends in a synchronisation, after runs
that do not count (cuDNN tries its algorithms in them). The most telling cases come first; what --budget leaves no time
for is named on stderr and in the records.
"""
import argparse
import contextlib
import dataclasses
import gc
import json
import os
import signal
import sys
import time

arguments = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
arguments.add_argument("--device", default="cuda")
arguments.add_argument("--cases", help="step:BATCH, infer:BATCH, layers:BATCH and ceilings, separated by commas")
arguments.add_argument("--setups", help="only those whose name or precision has one of these words, separated by commas")
arguments.add_argument("--budget", type=float, default=240, help="seconds after which nothing new is begun")
arguments.add_argument("--rounds", type=int, default=5)
arguments.add_argument("--json", default="-", help="where the records go; - is standard output")
arguments.add_argument("--smoke", action="store_true", help="a tiny network and small batches, to see that it runs")
a = arguments.parse_args()
BEGAN = time.monotonic()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

VGG16 = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]
VGG19 = [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]
# Name, convolutions, dense layers, probability of dropout behind the hidden ones, L2 of the convolutions.
TOWERS = [
    ("object", VGG16, [4096, 4096, 1000], 0.0, 0.0),
    ("scene", VGG16, [4096, 4096, 365], 0.5, 2e-4),
    ("face", VGG19, [2048, 1024, 512, 5], 0.0, 0.0),
]
HEAD, SIDE, WIDTH = [3000, 1000, 500, 2], 224, 1
CASES = "step:25,infer:25,infer:1,layers:25,step:64,infer:64,infer:256"
SAMPLE = 0.02  # seconds of a sample at least
if a.smoke:
    HEAD, SIDE, WIDTH, SAMPLE = [12, 8, 6, 2], 32, 16, 0.001
    CASES = "step:2,infer:2,infer:1,layers:2"
    torch.set_num_threads(1)
CUDA = a.device.startswith("cuda")


def narrow(widths):
    """Hidden widths of the tiny network."""
    return [max(1, w // WIDTH) for w in widths[:-1]] + widths[-1:]


class Tower(nn.Module):
    def __init__(self, blocks, widths, drop):
        super().__init__()
        layers, c = [], 3
        for k, convs in blocks:
            for _ in range(convs):
                layers += [nn.Conv2d(c, k // WIDTH, 3, padding=1), nn.ReLU(inplace=True)]
                c = k // WIDTH
            layers.append(nn.MaxPool2d(2))
        self.convolutions = nn.Sequential(*layers)
        self.dense = dense(c * (SIDE // 32) ** 2, narrow(widths), drop)

    def forward(self, x):
        return self.dense(torch.flatten(self.convolutions(x), 1)).softmax(1)


def dense(width, widths, drop):
    layers = []
    for i, k in enumerate(widths):
        layers.append(nn.Linear(width, k))
        if i + 1 < len(widths):
            layers += [nn.ReLU(inplace=True)] + [nn.Dropout(drop)] * (drop > 0)
        width = k
    return nn.Sequential(*layers)


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.towers = nn.ModuleList(Tower(blocks, widths, drop) for _, blocks, widths, drop, _ in TOWERS)
        self.head = dense(sum(widths[-1] for _, _, widths, _, _ in TOWERS), HEAD, 0.5)

    def forward(self, x):
        return self.head(torch.cat([t(x).to(x.dtype) for t in self.towers], 1))

    def groups(self):
        """Parameters by their weight decay: the gradient of an L2 penalty."""
        decayed = {p: 2 * t[4] for t, m in zip(TOWERS, self.towers) for n, p in m.convolutions.named_parameters() if t[4] and n.endswith("weight")}  # fmt: skip
        plain = [p for p in self.parameters() if p not in decayed]
        return [dict(params=plain)] + [dict(params=list(decayed), weight_decay=next(iter(decayed.values())))]


@dataclasses.dataclass
class Setup:
    name: str
    precision: str = "float32"  # float32, tf32, bf16
    nhwc: bool = False
    sgd: str = "foreach"
    graph: bool = False
    compiled: str = ""  # a mode of torch.compile

    def apply(self):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision == "tf32"

    def format(self):
        return torch.channels_last if self.nhwc else torch.contiguous_format


STEPS = [
    Setup("CUDA graph, bf16 autocast, channels_last, fused SGD", "bf16", True, "fused", graph=True),
    Setup("eager, bf16 autocast, channels_last, fused SGD", "bf16", True, "fused"),
    Setup("compile reduce-overhead, bf16 autocast, channels_last, fused SGD", "bf16", True, "fused", compiled="reduce-overhead"),  # fmt: skip
    Setup("compile max-autotune, bf16 autocast, channels_last, fused SGD", "bf16", True, "fused", compiled="max-autotune"),  # fmt: skip
    Setup("eager, bf16 autocast, channels_last, foreach SGD", "bf16", True, "foreach"),
    Setup("CUDA graph, TF32, channels_last, fused SGD", "tf32", True, "fused", graph=True),
    Setup("CUDA graph, channels_last, fused SGD", "float32", True, "fused", graph=True),
    Setup("eager, TF32, channels_last, fused SGD", "tf32", True, "fused"),
    Setup("eager, channels_last, fused SGD", "float32", True, "fused"),
    Setup("eager", sgd="fused"),
]
INFERENCES = [
    Setup("CUDA graph, bf16 weights, channels_last", "bf16", True, graph=True),
    Setup("eager, bf16 weights, channels_last", "bf16", True),
    Setup("compile reduce-overhead, bf16 weights, channels_last", "bf16", True, compiled="reduce-overhead"),
    Setup("compile max-autotune, bf16 weights, channels_last", "bf16", True, compiled="max-autotune"),
    Setup("CUDA graph, TF32, channels_last", "tf32", True, graph=True),
    Setup("CUDA graph, channels_last", "float32", True, graph=True),
    Setup("eager, TF32, channels_last", "tf32", True),
    Setup("eager, channels_last", "float32", True),
    Setup("eager"),
]
LAYERS = [
    Setup("NHWC", "bf16", True),
    Setup("NHWC", "float32", True),
    Setup("NHWC", "tf32", True),
    Setup("NCHW", "float32"),
]


def synchronize():
    if CUDA:
        torch.cuda.synchronize()


def left():
    return a.budget - (time.monotonic() - BEGAN)


def since_start():
    """Seconds since this process was started, the interpreter's start included."""
    try:
        ticks = float(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
        return float(open("/proc/uptime").read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None


def peak_bytes():
    if CUDA:
        return torch.cuda.max_memory_reserved()
    with contextlib.suppress(OSError, IndexError):
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
    return None


def timed(run):
    """Seconds of a run: n, median, fastest and slowest of samples of at least 20 ms."""

    def sample(runs):
        start = time.perf_counter()
        for _ in range(runs):
            run()
        synchronize()
        return (time.perf_counter() - start) / runs

    sample(1), sample(2)
    runs = max(1, min(10_000, int(SAMPLE / sample(1)) + 1))
    samples = sorted(sample(runs) for _ in range(a.rounds))
    return dict(n=len(samples), time_median_s=samples[len(samples) // 2], time_fastest_s=samples[0], time_slowest_s=samples[-1])  # fmt: skip


def graphed(run):
    """The same work as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def model_of(setup):
    torch.manual_seed(1)
    with torch.device(a.device):
        return Fused().to(memory_format=setup.format())


def step(setup, batch):
    model = model_of(setup).train()
    x = (torch.rand(batch, 3, SIDE, SIDE, device=a.device) - 0.5).to(memory_format=setup.format())
    y = 1 + 8 * torch.rand(batch, HEAD[-1], device=a.device)
    sgd = torch.optim.SGD(model.groups(), lr=1e-6, momentum=0.9, **{setup.sgd: True})
    cast = contextlib.nullcontext
    if setup.precision == "bf16":
        # A recorded graph must not remember casts of weights that change.
        cast = lambda: torch.autocast(a.device.split(":")[0], torch.bfloat16, cache_enabled=not setup.graph)  # noqa: E731

    def loss_of(x, y):
        with cast():
            return F.mse_loss(model(x).float(), y)

    if setup.compiled:
        loss_of = torch.compile(loss_of, mode=setup.compiled)

    def run():
        sgd.zero_grad(set_to_none=True)
        loss_of(x, y).backward()
        sgd.step()

    return graphed(run) if setup.graph else run


def inference(setup, batch):
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    model = model_of(setup).eval().to(dtype)
    x = (torch.rand(batch, 3, SIDE, SIDE, device=a.device) - 0.5).to(dtype).to(memory_format=setup.format())
    forward = torch.compile(model, mode=setup.compiled) if setup.compiled else model

    def run():
        with torch.inference_mode():
            forward(x)

    return graphed(run) if setup.graph else run


def shapes():
    """Every layer of a shape that none before it has: name, and (C, K, pixels) or (inputs, outputs)."""
    convolutions, linear, seen = [], [], set()

    def add(to, name, shape):
        if shape not in seen:
            seen.add(shape)
            to.append((name, shape))

    for name, blocks, widths, _, _ in TOWERS:
        c, side = 3, SIDE
        for b, (k, convs) in enumerate(blocks):
            for i in range(convs):
                add(convolutions, f"{name}.conv{b + 1}_{i + 1}", (c, k // WIDTH, side))
                c = k // WIDTH
            side //= 2
        width = c * side * side
        for i, k in enumerate(narrow(widths)):
            add(linear, f"{name}.fc{i + 1}", (width, k))
            width = k
    width = sum(widths[-1] for _, _, widths, _, _ in TOWERS)
    for i, k in enumerate(HEAD):
        add(linear, f"head.fc{i + 1}" if i + 1 < len(HEAD) else "head.out", (width, k))
        width = k
    return convolutions, linear


def conv_passes(setup, batch, shape):
    c, k, side = shape
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    tensor = lambda *dims: (2 * torch.rand(*dims, device=a.device) - 1).to(dtype).to(memory_format=setup.format())  # noqa: E731
    x, w, dy = tensor(batch, c, side, side), tensor(k, c, 3, 3), tensor(batch, k, side, side)
    bias = torch.zeros(k, device=a.device, dtype=dtype)

    def gradient(which):
        mask = [which == 0, which == 1, False]
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)

    passes = dict(fprop=lambda: F.conv2d(x, w, bias, padding=1).relu_(), dgrad=gradient(0), wgrad=gradient(1))
    if c == 3:
        del passes["dgrad"]  # Nobody asks for the gradient of a picture.
    return passes, 2.0 * batch * side * side * k * c * 9


def dense_passes(setup, batch, shape):
    width, k = shape
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    tensor = lambda *dims: (2 * torch.rand(*dims, device=a.device) - 1).to(dtype)  # noqa: E731
    x, w, dy, bias = tensor(batch, width), tensor(k, width), tensor(batch, k), tensor(k)
    passes = dict(fprop=lambda: F.linear(x, w, bias).relu_(), dgrad=lambda: dy @ w, wgrad=lambda: dy.t() @ x)
    return passes, 2.0 * batch * width * k


records, left_out = [], []


def progress(text):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


def record(bench, batch, setup, rows, **rest):
    device = torch.cuda.get_device_name() if CUDA else "cpu"
    threads = {} if CUDA else dict(threads=torch.get_num_threads())
    cudnn = f", cuDNN {torch.backends.cudnn.version()}" if CUDA else ""
    records.append(dict(
        format="deep-affect bench 1", bench=bench, program=f"PyTorch {torch.__version__}{cudnn}", commit=None,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), command=" ".join(sys.argv), device=device,
        precision=setup.precision, model="deep-affect", batch=batch, **threads, **rest, rows=rows))  # fmt: skip


def out_of_time(*_):
    raise TimeoutError("out of time")


def attempt(what, work):
    """Does the work unless there is no time left for it or it cannot be done here."""
    if left() <= 0:
        left_out.append(f"{what}: no time")
        return
    progress(what)
    try:
        if hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, out_of_time)
            signal.setitimer(signal.ITIMER_REAL, max(1.0, left() + 5))
        work()
    except Exception as e:  # A peer that fails must not take the others' numbers with it.
        left_out.append(f"{what}: {type(e).__name__}: {str(e).splitlines()[0][:200] if str(e) else ''}")
        progress(left_out[-1])
    finally:
        if hasattr(signal, "SIGALRM"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()


def wanted(setups):
    words = a.setups.split(",") if a.setups else [""]
    return [s for s in setups if any(w in s.name or w == s.precision for w in words)]


def whole(bench, batch, setup):
    what = f"{bench} at batch {batch}: {setup.name}"
    if (setup.graph and not CUDA) or (setup.compiled and a.smoke):
        left_out.append(f"{what}: needs a GPU" if setup.graph else f"{what}: not in a smoke test")
        return

    def work():
        setup.apply()
        torch._dynamo.reset() if setup.compiled else None
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        run = (step if bench == "step" else inference)(setup, batch)
        run()
        synchronize()
        first = {} if records else dict(start_to_first_step_s=since_start())
        row = dict(name=bench, variant=setup.name, **timed(run))
        record(bench, batch, setup, [dict(row, pictures_per_s=batch / row["time_median_s"])], peak_memory_bytes=peak_bytes(), **first)  # fmt: skip

    attempt(what, work)


def layers(batch, setup):
    for bench, found, passes_of in zip(("conv", "dense"), shapes(), (conv_passes, dense_passes)):
        if bench == "dense" and setup.name == "NCHW":
            continue

        def work():
            setup.apply()
            rows = []
            for name, shape in found:
                if left() <= 0:
                    left_out.append(f"{bench} in {setup.precision} from {name} on: no time")
                    break
                passes, flops = passes_of(setup, batch, shape)
                for which, run in passes.items():
                    row = dict(name=f"{name} {which}", variant=setup.name if bench == "conv" else None, **timed(run))
                    rows.append(dict(row, gflop_per_s=flops / 1e9 / row["time_median_s"]))
            if rows:
                record(bench, batch, setup, rows)

        attempt(f"{bench} at batch {batch}: {setup.name}, {setup.precision}", work)


def ceilings():
    """What the card can do at most: a copy within its memory, and a product of large matrices by cuBLAS."""
    side, size = (256, 1 << 20) if a.smoke else (8192, 1 << 30)
    said = []

    def copy():
        x = torch.empty(size, dtype=torch.uint8, device=a.device)
        y = torch.empty_like(x)
        row = dict(name="copy", **timed(lambda: y.copy_(x)))
        # Read and written.
        row["gb_per_s"] = 2e-9 * size / row["time_median_s"]
        said.append(f"copy {row['gb_per_s']:.0f} GB/s")
        record("ceilings", None, Setup("copy", "bytes"), [row])

    attempt("ceilings: copy", copy)
    for precision in ("bf16", "tf32", "float32"):

        def product():
            setup = Setup("cuBLAS", precision)
            setup.apply()
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            x, y = [torch.rand(side, side, device=a.device).to(dtype) - 0.5 for _ in range(2)]
            row = dict(name=f"product of {side} x {side}", **timed(lambda: x @ y))
            row["gflop_per_s"] = 2e-9 * side**3 / row["time_median_s"]
            said.append(f"product in {precision} {row['gflop_per_s'] / 1e3:.1f} TFLOP/s")
            record("ceilings", None, setup, [row])

        attempt(f"ceilings: product in {precision}", product)
    progress("ceilings: " + ", ".join(said))


torch.backends.cudnn.benchmark = True
torch.set_grad_enabled(True)
for case in (a.cases or CASES).split(","):
    kind, _, batch = case.partition(":")
    batch = int(batch or 1)
    if kind == "ceilings":
        ceilings()
    elif kind == "layers":
        with torch.no_grad():
            for setup in wanted(LAYERS):
                layers(batch, setup)
    else:
        for setup in wanted(STEPS if kind == "step" else INFERENCES):
            whole(kind, batch, setup)
text = json.dumps(records, indent=1)
if a.json == "-":
    print(text)
elif records:
    with open(a.json, "w") as f:
        f.write(text)
for line in left_out:
    print(f"left out: {line}", file=sys.stderr)
sys.exit(0 if records else 1)
