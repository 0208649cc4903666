"""Writes what the imports of the files beside it must come to: ours.safetensors, the tiny network in this program's layout,
and features.safetensors, what PyTorch computes with three of the files in float64. Needs `pip install torch numpy
safetensors`, after make_torch.py.

    python tests/foreign/make_expected.py
"""

from pathlib import Path

import numpy
import safetensors.torch
import tiny
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def ours():
    """[K,C,R,S] -> [K,R,S,C] and [out, C*H*W] -> [out, H*W*C], one index at a time."""
    out, last = {}, tiny.CHANNELS[-1]
    for name, t in tiny.tensors().items():
        if t.ndim == 4:
            t = numpy.stack([t[:, c] for c in range(t.shape[1])], axis=-1)
        elif name == "fc1.weight":
            pixels = tiny.SIDE * tiny.SIDE
            t = numpy.stack([t[:, c * pixels + p] for p in range(pixels) for c in range(last)], axis=-1)
        out[name] = numpy.ascontiguousarray(t)
    return out


def network(state, last):
    """torchvision's layers from the names alone: `features` in the order of its indices, then the classifier."""
    t = {n: v.double() for n, v in state.items() if v.dtype == torch.float32}

    def run(x):
        convs = sorted(int(n.split(".")[1]) for n, v in t.items() if n.startswith("features.") and v.ndim == 4)
        norm = f"features.{convs[0] + 1}.running_mean" in t
        for i, at in enumerate(convs):
            x = torch.nn.functional.conv2d(x, t[f"features.{at}.weight"], t[f"features.{at}.bias"], padding=1)
            if norm:
                mean, var, w, b = (t[f"features.{at + 1}.{p}"] for p in ["running_mean", "running_var", "weight", "bias"])
                x = torch.nn.functional.batch_norm(x, mean, var, w, b, eps=1e-5)
            x = x.relu()
            following = convs[i + 1] if i + 1 < len(convs) else None
            if following is None or following - at > (3 if norm else 2):
                x = torch.nn.functional.max_pool2d(x, 2)
        x = x.flatten(1)
        for i, layer in enumerate(last):
            x = torch.nn.functional.linear(x, t[f"{layer}.weight"], t[f"{layer}.bias"])
            x = x.relu() if i + 1 < len(last) else x
        return x.softmax(1)

    return run


def main():
    save_file(ours(), HERE / "ours.safetensors", metadata={"layout": "KRSC"})
    draw, out = numpy.random.default_rng(5), {}
    for file, side, last in [
        ("torchvision", tiny.IMAGE, ["classifier.0", "classifier.3", "classifier.6"]),
        ("torchvision-bn", tiny.IMAGE, ["classifier.0", "classifier.3", "classifier.6"]),
        ("face", 44, ["classifier"]),
    ]:
        x = torch.tensor(draw.standard_normal((2, 3, side, side)).astype("float32"))
        out[f"{file}.x"] = numpy.ascontiguousarray(x.permute(0, 2, 3, 1).numpy().astype("float16"))
        # Of the rounded picture, so that the file stays small.
        x = torch.tensor(out[f"{file}.x"].astype("float64")).permute(0, 3, 1, 2)
        out[f"{file}.y"] = network(safetensors.torch.load_file(HERE / f"{file}.safetensors"), last)(x).numpy()
    save_file(out, HERE / "features.safetensors")


if __name__ == "__main__":
    main()
