"""Grad-CAM (Selvaraju et al. 2017, section 3) of a small fused model in PyTorch, float64.

    pip install torch safetensors numpy
    python tests/golden/make_gradcam.py        # writes tests/golden/gradcam/maps.safetensors

The model: an object tower (VGG16 with 1/32 of its channels) and a face tower (VGG19 with 1/64), each with one hidden dense
layer and a softmax, and a head of one hidden layer with the ratings valence and arousal. Parameters are float16 numbers,
so that the file is small; everything is computed in float64 from them. Metadata `maps`: for each map its tower, layer,
target and class. A map is stored before its ReLU, so that both signs can be compared.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

VGG16 = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]
VGG19 = [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]
TOWERS = {"object": (VGG16, 32, 8, 7), "face": (VGG19, 64, 8, 5)}  # blocks, width, hidden units, classes
HEAD, RATINGS, SIDE, BATCH = 6, ["valence", "arousal"], 64, 3

rng = np.random.default_rng(2017)
params = {}


def drawn(name, *shape):
    """Uniform, of a size that keeps signals alive through any depth; biases let most units fire."""
    if len(shape) == 1:
        values = rng.uniform(0.0, 0.2, shape)
    else:
        values = rng.uniform(-1, 1, shape) * np.sqrt(6 / np.prod(shape[1:]))
    params[name] = values.astype(np.float16)
    return torch.tensor(params[name].astype(np.float64))


def tower(name, x):
    """x [N,3,S,S] -> probabilities, scores, {layer: output after its ReLU}."""
    blocks, width, hidden, classes = TOWERS[name]
    seen = {}
    for b, (k, convs) in enumerate(blocks, 1):
        for c in range(1, convs + 1):
            layer = f"conv{b}_{c}"
            k_ = max(k // width, 1)
            w, bias = drawn(f"{name}.{layer}.weight", k_, x.shape[1], 3, 3), drawn(f"{name}.{layer}.bias", k_)
            x = F.conv2d(x, w, bias, padding=1).relu()
            seen[layer] = x
        x = F.max_pool2d(x, 2)
    # The order of the engine's dense weights: rows, columns, channels.
    x = x.permute(0, 2, 3, 1).flatten(1)
    for i, n in enumerate([hidden, classes], 1):
        w, bias = drawn(f"{name}.fc{i}.weight", n, x.shape[1]), drawn(f"{name}.fc{i}.bias", n)
        x = F.linear(x, w, bias)
        x = x.relu() if i == 1 else x
    return x.softmax(1), x, seen


def gradcam(y, a):
    """y [N], a [N,K,H,W] -> sum over k of (mean of dy/da_k) a_k, before the ReLU."""
    (d,) = torch.autograd.grad(y.sum(), a, retain_graph=True)
    return (d.mean((2, 3), keepdim=True) * a).sum(1)


pixels = rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
# Preset `unit`: pixels in [-1, 1].
image = torch.tensor(pixels.astype(np.float64)).permute(0, 3, 1, 2) / 127.5 - 1
image.requires_grad_()

outs = {name: tower(name, image) for name in TOWERS}
x = torch.cat([o[0] for o in outs.values()], 1)
x = F.linear(x, drawn("head.fc1.weight", HEAD, x.shape[1]), drawn("head.fc1.bias", HEAD)).relu()
ratings = F.linear(x, drawn("head.out.weight", 2, HEAD), drawn("head.out.bias", 2))

tensors, maps = {}, {}


def keep(tower, layer, target, y, classes=None):
    a = outs[tower][2][layer]
    key = f"map.{len(maps)}"
    maps[key] = {"tower": tower, "layer": layer, "target": target, "classes": classes}
    tensors[key] = gradcam(y, a).detach().numpy().astype(np.float32)


for tower_name in TOWERS:
    scores, seen = outs[tower_name][1:]
    last = list(seen)[-1]
    for layer in [last, "conv3_3", "conv2_2"]:
        for t, rating in enumerate(RATINGS):
            keep(tower_name, layer, rating, ratings[:, t])
        top = scores.argmax(1)
        keep(tower_name, layer, "class", scores.gather(1, top[:, None])[:, 0], top.tolist())
        keep(tower_name, layer, "class:3", scores[:, 3], [3] * BATCH)

for name, p in params.items():
    # OIHW -> KRSC
    tensors[f"param.{name}"] = np.ascontiguousarray(p.transpose(0, 2, 3, 1) if p.ndim == 4 else p)
tensors["pixels"] = pixels
tensors["ratings"] = ratings.detach().numpy().astype(np.float32)
for name, o in outs.items():
    tensors[f"probabilities.{name}"] = o[0].detach().numpy().astype(np.float32)

out = Path(__file__).parent / "gradcam" / "maps.safetensors"
save_file(tensors, out, {"maps": json.dumps(maps), "framework": f"torch {torch.__version__}"})
for key, m in maps.items():
    t = tensors[key]
    print(f"{m['tower']:7}{m['layer']:8}{m['target']:9}{m['classes']}  {t.min():+.3e} {t.max():+.3e}")
print(ratings, out.stat().st_size, "bytes")
