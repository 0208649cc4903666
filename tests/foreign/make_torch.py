"""Writes the PyTorch, numpy and safetensors files beside it, from the networks of tiny.py: what torchvision, timm, the
trainers of face networks and people's own scripts leave behind. Needs `pip install torch numpy safetensors`; torch.save
names storages of the old container by their address, so those files differ from run to run, their values do not.

    python tests/foreign/make_torch.py
"""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy
import safetensors.torch
import tiny
import torch

HERE = Path(__file__).parent


def features(channels, convs, norm):
    """Index of each convolution within torchvision's `features`: a ReLU behind each, a batch norm between if `norm`, a
    pool behind each block."""
    at = 0
    for block, n in enumerate(convs, 1):
        for i in range(1, n + 1):
            yield f"conv{block}_{i}", at, channels[block - 1]
            at += 3 if norm else 2
        at += 1


def torchvision(ours, norm=None):
    """The same tensors under torchvision's names; with `norm`, a generator, a batch norm behind each convolution."""
    out = OrderedDict()
    convs = [sum(n.startswith(f"conv{b}_") for n in ours) // 2 for b in range(1, 6)]
    for name, at, channels in features([len(ours[f"conv{b}_1.bias"]) for b in range(1, 6)], convs, norm is not None):
        out[f"features.{at}.weight"] = torch.tensor(ours[f"{name}.weight"])
        out[f"features.{at}.bias"] = torch.tensor(ours[f"{name}.bias"])
        if norm is not None:
            for part, low, high in [("weight", 0.5, 1.5), ("bias", -0.2, 0.2), ("running_mean", -0.3, 0.3)]:
                out[f"features.{at + 1}.{part}"] = torch.tensor(norm.uniform(low, high, channels).astype("float32"))
            out[f"features.{at + 1}.running_var"] = torch.tensor(norm.uniform(0.3, 2, channels).astype("float32"))
            out[f"features.{at + 1}.num_batches_tracked"] = torch.tensor(1234)
    for i, at in enumerate([0, 3, 6], 1):
        if f"fc{i}.weight" in ours:
            out[f"classifier.{at}.weight"] = torch.tensor(ours[f"fc{i}.weight"])
            out[f"classifier.{at}.bias"] = torch.tensor(ours[f"fc{i}.bias"])
    return out


def timm(theirs):
    """timm's `_filter_fn` (timm/models/vgg.py): the dense layers are convolutions there."""
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    side = {"classifier.0.weight": tiny.SIDE, "classifier.3.weight": 1}
    out = {}
    for name, t in theirs.items():
        stem, part = name.rsplit(".", 1)
        if name in side:
            t = t.reshape(t.shape[0], -1, side[name], side[name])
        out[f"{names.get(stem, stem)}.{part}"] = t.contiguous()
    return out


def face(seed=11):
    """VGG19 with batch norm for 44x44 pictures, as trained on FER2013: sixteen convolutions, five pools to a single
    pixel, and one dense layer `classifier` of seven outputs."""
    draw = numpy.random.default_rng(seed)
    ours, inputs = {}, 3
    for block, (channels, n) in enumerate(zip([3, 4, 5, 6, 8], [2, 2, 4, 4, 4]), 1):
        for i in range(1, n + 1):
            fan = (2 / (9 * inputs)) ** 0.5
            ours[f"conv{block}_{i}.weight"] = (draw.standard_normal((channels, inputs, 3, 3)) * fan).astype("float32")
            ours[f"conv{block}_{i}.bias"] = (draw.standard_normal(channels) * 0.1).astype("float32")
            inputs = channels
    out = torchvision(ours, draw)
    out["classifier.weight"] = torch.tensor(draw.standard_normal((7, inputs)).astype("float32"))
    out["classifier.bias"] = torch.tensor(draw.standard_normal(7).astype("float32"))
    return out


def stream_of_2017(state, path):
    """The stream as Python 2 and PyTorch 0.1 wrote it, which nothing writes any more: `_rebuild_tensor` with four
    arguments, byte strings, an OrderedDict made of a list of pairs, storages of a GPU. Every second tensor is a
    view into one common storage, as the format then allowed. Nothing aligns the data."""

    def text(s):
        return b"U" + bytes([len(s)]) + s.encode()

    def number(n):
        return b"K" + bytes([n]) if n < 256 else b"J" + struct.pack("<i", n)

    def row(numbers):
        return b"(" + b"".join(map(number, numbers)) + b"t"

    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(o, 2) for o in (0x1950A86A20F9469CFC6C, 1001, info))
    storages, pairs = {}, b""
    shared = torch.cat([t.reshape(-1) for i, t in enumerate(state.values()) if i % 2 == 1])
    storages["94000000001"] = shared
    offset = 0
    for i, (name, t) in enumerate(state.items()):
        if i % 2 == 1:
            key, n = "94000000001", shared.numel()
            view = b"(" + text(f"9500{i}") + number(offset) + number(t.numel()) + b"t"
            offset += t.numel()
        else:
            key, n, view = f"9400{i}", t.numel(), b"N"
            storages[key] = t
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cuda:0") + number(n) + view
        storage += b"tQ"
        tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + number(0) + row(t.shape) + row(t.stride()) + b"tR"
        pairs += b"](" + text(name) + tensor + b"e"
    body = b"\x80\x02ccollections\nOrderedDict\n](" + pairs + b"e\x85R."
    keys = sorted(storages)
    data = b"".join(struct.pack("<q", storages[k].numel()) + storages[k].numpy().tobytes() for k in keys)
    path.write_bytes(head + body + pickle.dumps(keys, 2) + data)


def main():
    ours = tiny.tensors()
    state = torchvision(ours)
    norm = torchvision(ours, numpy.random.default_rng(3))
    network = face()

    safetensors.torch.save_file(dict(state), HERE / "torchvision.safetensors")
    safetensors.torch.save_file(timm(state), HERE / "timm.safetensors")
    safetensors.torch.save_file(dict(norm), HERE / "torchvision-bn.safetensors")
    safetensors.torch.save_file(dict(network), HERE / "face.safetensors")

    torch.save(state, HERE / "torch.pth")
    torch.save(state, HERE / "torch-protocol4.pth", pickle_protocol=4)
    torch.save(norm, HERE / "torch-bn.pth")
    old = {"_use_new_zipfile_serialization": False}
    torch.save(state, HERE / "torch-legacy.pth", **old)
    stream_of_2017(state, HERE / "torch-2017.pth")
    torch.save({"net": network, "acc": 71.2, "epoch": 3, "best": torch.tensor(70.5)}, HERE / "torch-face.t7", **old)
    # A checkpoint of a trainer on several GPUs: parameters, not tensors, and an optimizer with tensors of its own.
    parameters = OrderedDict((f"module.{n}", torch.nn.Parameter(t)) for n, t in state.items())
    weights = list(parameters.values())[:2]
    for p in weights:
        p.grad = torch.ones_like(p.data)
    optimizer = torch.optim.SGD(weights, lr=0.0, momentum=0.9)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60]).state_dict()
    checkpoint = {"epoch": 3, "state_dict": parameters, "optimizer": optimizer.state_dict(), "scheduler": schedule}
    torch.save(checkpoint, HERE / "torch-module.pth")
    last = {n: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for n, t in state.items()}
    torch.save(last, HERE / "torch-channels-last.pth")
    torch.save({n: t.bfloat16() if "classifier" in n else t.half() for n, t in state.items()}, HERE / "torch-half.pth")

    theirs = {n: t.numpy() for n, t in state.items()}
    numpy.savez(HERE / "ours.npz", **ours)
    numpy.savez_compressed(HERE / "ours-compressed.npz", **ours)
    numpy.savez(HERE / "torchvision.npz", **theirs)
    # Dense weights as someone who transposed them twice saves them: the first index runs fastest.
    columns = {n: numpy.asfortranarray(a) if "classifier" in n else a for n, a in theirs.items()}
    numpy.savez_compressed(HERE / "torchvision-compressed.npz", **columns)


if __name__ == "__main__":
    main()
