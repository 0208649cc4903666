"""Imports published networks at full size as the real tools write them, and compares what they compute.

    full.sh FOLDER --binary deep-affect PHOTOGRAPH...

Weights are random with a seed (nothing is downloaded): VGG16, VGG16-Places365 and VGG19, by torch.save in both containers,
Keras in its three, protobuf, ONNX and NumPy. Each file is imported; time and peak memory are those of the process. Class
probabilities of the photographs (brought to 224x224 first, so that every program sees the same pixels, prepared as Keras
does) are held against the program that wrote the file; the limit is 1e-4 of the value.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy
from PIL import Image

HERE = pathlib.Path(__file__).parent
CHANNELS = [64, 128, 256, 512, 512]
NETWORKS = {"vgg16": ([2, 2, 3, 3, 3], 1000), "vgg16-places365": ([2, 2, 3, 3, 3], 365), "vgg19": ([2, 2, 4, 4, 4], 1000)}
MEAN = numpy.array([103.939, 116.779, 123.68], "float32")

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--binary", required=True)
a.add_argument("--scratch", required=True, type=pathlib.Path)
a.add_argument("--python", help="of an environment with Keras, if it is another one")
a.add_argument("--keras", help="write a file with Keras and stop: KIND:NETWORK")
a.add_argument("photographs", nargs="*")
a = a.parse_args()


def tensors(network):
    """Ours, in torch's layout. The last layer is small, so that no class has all of the probability."""
    convs, classes = NETWORKS[network]
    draw, inputs = numpy.random.default_rng(2021), 3
    def layer(shape, gain=2.0):
        fan = numpy.prod(shape[1:])
        return draw.standard_normal(shape, "float32") * numpy.float32((gain / fan) ** 0.5), draw.standard_normal(shape[0], "float32") * numpy.float32(0.1)  # fmt: skip
    for block, (channels, n) in enumerate(zip(CHANNELS, convs), 1):
        for i in range(1, n + 1):
            yield f"conv{block}_{i}", *layer((channels, inputs, 3, 3))
            inputs = channels
    for name, shape, gain in [("fc1", (4096, 25088), 2), ("fc2", (4096, 4096), 2), ("fc3", (classes, 4096), 1e-4)]:
        yield name, *layer(shape, gain)


def torch_names(network):
    convs, _ = NETWORKS[network]
    at, names = 0, {}
    for block, n in enumerate(convs, 1):
        for i in range(1, n + 1):
            names[f"conv{block}_{i}"] = f"features.{at}"
            at += 2
        at += 1
    return names | {"fc1": "classifier.0", "fc2": "classifier.3", "fc3": "classifier.6"}


def torch_network(network):
    import torch

    parts, classifier, names = torch.nn.Sequential(), torch.nn.Sequential(), torch_names(network)
    last = None
    for name, w, b in tensors(network):
        if name.startswith("conv"):
            if last and name[4] != last[4]:
                parts.append(torch.nn.MaxPool2d(2))
            layer = torch.nn.Conv2d(w.shape[1], w.shape[0], 3, padding=1)
            parts.extend([layer, torch.nn.ReLU()])
        else:
            layer = torch.nn.Linear(w.shape[1], w.shape[0])
            classifier.extend([layer] if name == "fc3" else [layer, torch.nn.ReLU(), torch.nn.Dropout()])
        layer.weight.data, layer.bias.data = torch.from_numpy(w), torch.from_numpy(b)
        last = name
    parts.append(torch.nn.MaxPool2d(2))

    class Vgg(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.classifier = parts, classifier

        def forward(self, x):
            return self.classifier(self.features(x).flatten(1))

    net = Vgg().eval()
    assert set(net.state_dict()) == {f"{n}.{p}" for n in names.values() for p in ("weight", "bias")}
    return net


def keras_network(network):
    import keras

    convs, classes = NETWORKS[network]
    build = keras.applications.VGG19 if network == "vgg19" else keras.applications.VGG16
    net = build(weights=None, classes=classes)
    for name, w, b in tensors(network):
        if name.startswith("conv"):
            net.get_layer(f"block{name[4]}_conv{name[6:]}").set_weights([w.transpose(2, 3, 1, 0), b])
            continue
        if name == "fc1":
            w = w.reshape(len(w), 512, 7, 7).transpose(0, 2, 3, 1).reshape(len(w), -1)
        net.get_layer({"fc3": "predictions"}.get(name, name)).set_weights([w.T, b])
    return net


def caffemodel(network, path):
    sys.path.insert(0, str(HERE))
    import make_caffe_onnx

    pb = make_caffe_onnx.protobuf()
    named = {f"{n}.{p}": t for n, w, b in tensors(network) for p, t in (("weight", w), ("bias", b))}
    write = make_caffe_onnx.caffe_new if "places" in network else make_caffe_onnx.caffe_old
    path.write_bytes(write(pb, named).SerializeToString())


def write(kind, network, path):
    """The file, and what its program computes with it."""
    x = numpy.stack([numpy.asarray(Image.open(p)) for p in pictures()]).astype("float32")[..., ::-1] - MEAN
    if kind.startswith("keras"):
        net = keras_network(network)
        net.save_weights(path) if kind == "keras.weights.h5" else net.save(path)
        return net.predict(numpy.ascontiguousarray(x), verbose=0)
    import torch

    x = torch.from_numpy(numpy.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    if kind == "caffemodel":
        # Caffe itself is nowhere to be had: the numbers are PyTorch's.
        caffemodel(network, path)
    net = torch_network(network)
    state = net.state_dict()
    if kind == "torch.zip":
        torch.save(state, path)
    elif kind == "torch.legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "npz":
        numpy.savez(path, **{n: t.numpy() for n, t in state.items()})
    elif kind == "onnx":
        torch.onnx.export(net, (x[:1],), path, dynamo=False, verbose=False)
        import onnxruntime

        s = onnxruntime.InferenceSession(path)
        y = numpy.concatenate([s.run(None, {s.get_inputs()[0].name: x[i : i + 1].numpy()})[0] for i in range(len(x))])
        return numpy.asarray(torch.from_numpy(y).softmax(1))
    with torch.no_grad():
        return net(x).softmax(1).numpy()


def pictures():
    return sorted(a.scratch.glob("picture-*.png"))


def run(*line):
    """Seconds and the output of a process."""
    start = time.perf_counter()
    p = subprocess.run(list(map(str, line)), capture_output=True, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(map(str, line))}\n{p.stderr}")
    return time.perf_counter() - start, p.stdout


KINDS = {"torch.zip": ".pth", "torch.legacy": ".pth", "keras.h5": ".h5", "keras.weights.h5": ".weights.h5",
         "keras.keras": ".keras", "caffemodel": ".caffemodel", "onnx": ".onnx", "npz": ".npz"}  # fmt: skip

if a.keras:
    kind, network = a.keras.split(":")
    y = write(kind, network, a.scratch / f"file{KINDS[kind]}")
    numpy.save(a.scratch / "y.npy", y)
    sys.exit()

for i, path in enumerate(a.photographs):
    Image.open(path).convert("RGB").resize((224, 224)).save(a.scratch / f"picture-{i}.png")
print(f"{'network':<16} {'file':<17} {'MiB':>5} {'import s':>8} {'MB/s':>6} {'over file MiB':>13} {'worst relative':>14}", flush=True)
worst = 0
for network in NETWORKS:
    for kind, ending in KINDS.items():
        path, tower = a.scratch / f"file{ending}", a.scratch / "tower.safetensors"
        if kind.startswith("keras"):
            subprocess.run([a.python or sys.executable, __file__, "--binary", a.binary, "--scratch", a.scratch, "--keras", f"{kind}:{network}"], check=True)  # fmt: skip
            want = numpy.load(a.scratch / "y.npy")
        else:
            want = write(kind, network, path)
        size = path.stat().st_size
        seconds, out = run(a.binary, "weights", "import", path, "--as", network, "--out", tower, "--preprocess", "keras", "--json")
        # As the process counts it: that of a child is never less than its parent's.
        peak = json.loads(out)["peak_memory_mib"]
        _, out = run(a.binary, "features", tower, *pictures(), "--json")
        got = numpy.array([json.loads(line)["values"] for line in out.splitlines()])
        error = float((abs(got - want) / want).max())
        worst = max(worst, error) if error == error else float("nan")
        over = peak - size / 2**20
        print(f"{network:<16} {kind:<17} {size / 2**20:5.0f} {seconds:8.2f} {size / 1e6 / seconds:6.0f} {over:13.0f} {error:14.1e}", flush=True)
        path.unlink()
print(f"worst relative difference {worst:.1e}, limit 1e-4")
sys.exit(not worst <= 1e-4)
