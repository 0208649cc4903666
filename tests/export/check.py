"""Runs what `deep-affect weights export` wrote: ONNX in ONNX Runtime (after onnx.checker), weights under torchvision's names
in PyTorch, where they are put into torchvision's own modules or plain functions. Each against what deep-affect computes.

    python check.py --binary target/debug/deep-affect --scratch FOLDER [CHECKPOINT ...]

FOLDER is what `EXPORT_DIR=FOLDER cargo test --test export every` leaves: per network NAME.onnx, NAME.torch and NAME.answers
(three pictures, and ratings or class scores). Checkpoints of `train` are exported here and held against `predict`.
The difference is the largest one over the largest output, for three pictures at once and one by one; more than 1e-4 fails.
"""
import argparse
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy

arguments = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
arguments.add_argument("--binary", required=True)
arguments.add_argument("--scratch", required=True)
arguments.add_argument("checkpoints", nargs="*")
a = arguments.parse_args()
LIMIT = 1e-4
TORCHVISION = {"alexnet-torchvision": "alexnet", "inception-v3-keras": "inception_v3", "inception-v3": "inception_v3"}


def softmax(scores):
    e = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def difference(got, expected):
    """Over the largest output; not a number where anything is."""
    return float(np.abs(got.astype(np.float64) - expected).max() / np.abs(expected).max())


def by_onnx(path):
    """Pictures to ratings, or to class scores, which are looked at before the softmax: behind it they may all be 0 and 1."""
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[0]) for i in session.get_inputs()] == [("image", "tensor(uint8)", "N")]
    if session.get_outputs()[0].name == "probabilities":
        model = onnx.load(path)
        scores = model.graph.node[-1].input[0]
        model.graph.output.append(onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, ["N", "K"]))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(pictures):
        outputs = session.run(None, {"image": pictures})
        if outputs[0].ndim == 1:
            return np.stack(outputs, 1)
        probabilities, scores = outputs
        assert difference(probabilities, softmax(scores)) <= 1e-6
        return scores

    return run


# Weights by name, W, on prepared pictures [N,3,S,S].


def preprocessed(pictures, p):
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    if p["order"] == "bgr":
        x = x.flip(1)
    column = lambda values: torch.tensor(values).reshape(3, 1, 1)
    return (x * p["scale"] - column(p["mean"])) / column(p["std"])


def places(W, prefix):
    return sorted(int(k[len(prefix) :].split(".")[0]) for k in W if k.startswith(prefix) and k.endswith(".weight"))


def sequence(W, prefix, x, last_relu=False):
    """Linear layers with ReLU between."""
    at = places(W, prefix)
    for i in at:
        x = F.linear(x, W[f"{prefix}{i}.weight"], W[f"{prefix}{i}.bias"])
        x = x.relu() if i != at[-1] or last_relu else x
    return x


def vgg(W, prefix, x, pooled=False):
    at = places(W, f"{prefix}features.")
    for i, following in zip(at, at[1:] + [None]):
        x = F.conv2d(x, W[f"{prefix}features.{i}.weight"], W[f"{prefix}features.{i}.bias"], padding=1).relu()
        if following is None and pooled:
            return x.mean((2, 3))
        if following is None or following - i > 2:
            x = F.max_pool2d(x, 2)
    return sequence(W, f"{prefix}classifier.", x.flatten(1))


def fused(W, config, pictures):
    outputs = []
    for member in [""] if config["architecture"] == "shared" else [f"{t}." for t in config["targets"]]:
        features = []
        for t in config["towers"]:
            x, pooled = preprocessed(pictures, t["preprocess"]), config["tower_output"] == "pooled"
            y = vgg(W, f"{member}{t['name']}.", x, pooled)
            features.append(y if pooled else y.softmax(1))
        x = torch.cat(features, 1)
        if config["standardize"]:
            x = (x - W[f"{member}head.features.mean"]) * W[f"{member}head.features.inverse"]
        outputs.append(sequence(W, f"{member}head.", x, config["out_act"] == "relu"))
    return torch.cat(outputs, 1)


def published(W, x):
    """The fused network on one preparation for all towers."""
    features = [vgg(W, f"{t}.", x).softmax(1) for t in ("object", "scene", "face")]
    return sequence(W, "head.", torch.cat(features, 1))


def krizhevsky(W, x):
    for i, (stride, pad, groups) in enumerate([(4, 0, 1), (1, 2, 2), (1, 1, 1), (1, 1, 2), (1, 1, 2)], 1):
        x = F.conv2d(x, W[f"conv{i}.weight"], W[f"conv{i}.bias"], stride, pad, groups=groups).relu()
        x = F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0) if i <= 2 else x
        x = F.max_pool2d(x, 3, 2) if i in (1, 2, 5) else x
    for i in (6, 7, 8):
        x = F.linear(x.flatten(1), W[f"fc{i}.weight"], W[f"fc{i}.bias"])
        x = x.relu() if i < 8 else x
    return x


def norm(W, name, x):
    return F.batch_norm(x, *(W[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")), eps=1e-3)


def separable(W, name, x, pad):
    w = W[f"{name}.depthwise.weight"]
    x = F.conv2d(x, w, padding=pad, groups=len(w))
    return norm(W, f"{name}_bn", F.conv2d(x, W[f"{name}.pointwise.weight"], W.get(f"{name}.pointwise.bias")))


def emosepar(W, x):
    x = norm(W, "conv_bn", F.conv2d(x, W["conv.weight"])).relu()
    for b in (1, 2, 3):
        x = separable(W, f"block{b}_sepconv1", F.max_pool2d(x, 3, 2), 0).relu()
        x = separable(W, f"block{b}_sepconv2", x, 0)
    return F.linear(x.mean((2, 3)), W["dense.weight"], W["dense.bias"])


def same(x, kernel, value):
    """Keras's padding of stride 2: the odd pixel goes below and to the right."""
    total = [max((-(-n // 2) - 1) * 2 + kernel - n, 0) for n in x.shape[2:]]
    return F.pad(x, (total[1] // 2, -(-total[1] // 2), total[0] // 2, -(-total[0] // 2)), value=value)


def xception(W, x):
    x = norm(W, "block1_conv1_bn", F.conv2d(x, W["block1_conv1.weight"], stride=2)).relu()
    x = norm(W, "block1_conv2_bn", F.conv2d(x, W["block1_conv2.weight"])).relu()
    for b in range(2, 14):
        y = x
        for i in (1, 2, 3):
            if f"block{b}_sepconv{i}.depthwise.weight" in W:
                y = separable(W, f"block{b}_sepconv{i}", y if (b, i) == (2, 1) else y.relu(), 1)
        if f"block{b}_residual.weight" in W:
            y = F.max_pool2d(same(y, 3, float("-inf")), 3, 2)
            x = norm(W, f"block{b}_residual_bn", F.conv2d(x, W[f"block{b}_residual.weight"], stride=2))
        x = x + y
    for i in (1, 2):
        x = separable(W, f"block14_sepconv{i}", x, 1).relu()
    return F.linear(x.mean((2, 3)), W["predictions.weight"], W["predictions.bias"])


def module(name, W):
    """torchvision's own module of that name, its tensors replaced by these, whose shapes are a narrower network's."""
    options = {"weights": None}
    if name.startswith("inception"):
        options |= {"init_weights": False, "aux_logits": False}
    net = getattr(torchvision.models, TORCHVISION.get(name, name).replace("-", "_"))(**options).eval()
    if hasattr(net, "avgpool") and (name.startswith("vgg") or name.startswith("alexnet")):
        net.avgpool = torch.nn.Identity()  # pictures are small here
    own = {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
    if name == "inception-v3-keras":
        own = {k for k in own if not k.endswith("bn.weight")}
    assert own == set(W), f"{name}: {sorted(own ^ set(W))[:6]}"
    for k, v in W.items():
        owner, _, part = k.rpartition(".")
        owner = net.get_submodule(owner)
        assert getattr(owner, part).ndim == v.ndim
        if part.startswith("running"):
            setattr(owner, part, v)
        else:
            setattr(owner, part, torch.nn.Parameter(v, requires_grad=False))
    for m in net.modules():
        if name == "inception-v3-keras" and isinstance(m, torch.nn.BatchNorm2d):
            m.weight = None
    return net


def by_torch(name, path):
    """Pictures to ratings or scores."""
    with safe_open(path, "pt") as f:
        model = json.loads(f.metadata()["model"])
        W = {k: f.get_tensor(k) for k in f.keys()}
    if model["task"] == "end_to_end":
        forward = lambda pictures: fused(W, model["config"], pictures)
    elif model["task"] == "tower":
        forward = lambda pictures: vgg(W, "", preprocessed(pictures, model["tower"]["preprocess"]))
    else:
        prepare = {"order": "rgb", "scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        plain = {"alexnet": krizhevsky, "emosepar": emosepar, "xception": xception, "deep-affect": published}
        if name in plain:
            net = lambda x: plain[name](W, x)
        else:
            net = module(name, W)
        forward = lambda pictures: net(preprocessed(pictures, prepare))

    def run(pictures):
        pool = F.avg_pool2d
        if name == "inception-v3-keras":  # divides by the pixels that are there
            F.avg_pool2d = lambda *args, **options: pool(*args, **options, count_include_pad=False)
        try:
            with torch.no_grad():
                return forward(pictures).numpy()
        finally:
            F.avg_pool2d = pool

    return run


WORST = 0.0


def hold(name, runs, pictures, expected):
    """One line: the largest difference of each, at once and one by one."""
    global WORST
    line = []
    for which, run in runs.items():
        at_once = difference(run(pictures), expected)
        alone = max(difference(run(pictures[i : i + 1]), expected[i : i + 1]) for i in range(len(pictures)))
        WORST = max(WORST, at_once, alone) if at_once == at_once and alone == alone else float("inf")
        line.append(f"{which} {at_once:8.1e} {alone:8.1e}")
    print(f"{name:22} {'   '.join(line)}", flush=True)


print(f"{'':22} largest difference over largest output, at once and one by one")
for file in sorted(f for f in os.listdir(a.scratch) if f.endswith(".answers")):
    name, stem = file.removesuffix(".answers"), os.path.join(a.scratch, file.removesuffix(".answers"))
    held = load_numpy(stem + ".answers")
    y = np.concatenate([held[k] for k in sorted(held) if k != "image"], 1)
    hold(name, {"onnx": by_onnx(stem + ".onnx"), "torch": by_torch(name, stem + ".torch")}, held["image"], y)

for path in a.checkpoints:
    stem = os.path.join(a.scratch, "checkpoint")
    command = lambda *rest: subprocess.run([a.binary, *rest], check=True, capture_output=True, text=True).stdout
    for form, end in (("onnx", ".onnx"), ("torch-names", ".torch")):
        command("weights", "export", path, "--format", form, "--out", stem + end)
    run = by_onnx(stem + ".onnx")
    with safe_open(stem + ".torch", "pt") as f:
        config = json.loads(f.metadata()["model"])["config"]
    side, pictures, files = config["image"], [], []
    assert config["towers"][0]["preprocess"]["resize"].startswith("squash-"), "a crop would change the pictures"
    for seed in range(3):
        # At the model's own size a resizing without a crop changes nothing.
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
        files.append(os.path.join(a.scratch, f"{seed}.png"))
        Image.fromarray(pixels).save(files[-1])
        pictures.append(pixels)
    rows = [json.loads(l) for l in command("predict", "--model", path, "--format", "jsonl", *files).splitlines()]
    key = lambda row, t: row[next(k for k in row if k == t or k.startswith(f"{t}_"))]
    expected = np.array([[key(row, t) for t in config["targets"]] for row in rows])
    hold(os.path.basename(path), {"onnx": run, "torch": by_torch("", stem + ".torch")}, np.stack(pictures), expected)

print(f"largest of all {WORST:.1e}, limit {LIMIT:.0e}")
sys.exit(not WORST <= LIMIT)
