"""One peer, one case, one process: builds a network with random weights, warms up once, then takes one timed run for
every line on standard input. Every run is one line of JSON, {"seconds": ...}; the last line is the peak memory.

    python worker.py --peer torch --case infer --batch 1 --threads 2
    python worker.py --peer torch-nhwc --network emosepar --case train --batch 8

The network without a name is Parry & Vuong's: VGG16, VGG16 and VGG19 on one 224x224 photograph, dense layers, softmax, concatenated
(1000 + 365 + 5), then 3000-1000-500-2. A training step is forward, backward and SGD with momentum 0.9 over all 355.8 M
parameters, dropout 0.5 in the head. Other networks are PyTorch's alone: Emosepar and Xception are built here, any other
name is torchvision's. They are trained on classes: cross-entropy and the same SGD.
"""
import argparse
import json
import os
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--peer", required=True, choices=["torch", "torch-nhwc", "onnxruntime", "openvino", "tensorflow"])
arguments.add_argument("--case", required=True, choices=["infer", "train", "first", "save"])
arguments.add_argument("--network", help="emosepar, xception, or a name of torchvision; without, the fused network")
arguments.add_argument("--batch", type=int, default=1)
arguments.add_argument("--threads", type=int, default=os.cpu_count())
arguments.add_argument("--precision", default="float32", choices=["float32", "bf16"], help="bf16: inference of torch and openvino")
arguments.add_argument("--model", help="where `save` writes and `first`, onnxruntime and openvino read")
arguments.add_argument("--photo", help="the photograph of `first`")
a = arguments.parse_args()
for pool in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
    os.environ[pool] = str(a.threads)
# Threads that wait for the next run must sleep: it is somebody else's turn.
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402

VGG16 = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]
VGG19 = [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]
TOWERS = [
    ("object", VGG16, [4096, 4096, 1000]),
    ("scene", VGG16, [4096, 4096, 365]),
    ("face", VGG19, [2048, 1024, 512, 5]),
]
HEAD = [3000, 1000, 500, 2]
SIDE = 224


def torch_model():
    import torch
    from torch import nn

    torch.set_num_threads(a.threads)

    def dense(width, widths):
        layers = []
        for i, k in enumerate(widths):
            layers += [nn.Linear(width, k)] + [nn.ReLU(inplace=True)] * (i + 1 < len(widths))
            width = k
        return layers

    class Tower(nn.Module):
        def __init__(self, blocks, widths):
            super().__init__()
            layers, c = [], 3
            for k, convs in blocks:
                for _ in range(convs):
                    layers += [nn.Conv2d(c, k, 3, padding=1), nn.ReLU(inplace=True)]
                    c = k
                layers.append(nn.MaxPool2d(2))
            self.features = nn.Sequential(*layers)
            self.classifier = nn.Sequential(*dense(512 * (SIDE // 32) ** 2, widths))

        def forward(self, x):
            return self.classifier(torch.flatten(self.features(x), 1)).softmax(1)

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.towers = nn.ModuleList(Tower(blocks, widths) for _, blocks, widths in TOWERS)
            head = dense(sum(widths[-1] for _, _, widths in TOWERS), HEAD)
            # Dropout after every hidden layer, as in the paper.
            self.head = nn.Sequential(*(m for l in head for m in ([l, nn.Dropout(0.5)] if isinstance(l, nn.ReLU) else [l])))

        def forward(self, x):
            return self.head(torch.cat([t(x) for t in self.towers], 1))

    with torch.device("meta"):
        model = Fused()
    return model


def torch_drawn():
    import torch

    torch.manual_seed(1)
    model = torch_model().to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, (2 / p[0].numel()) ** 0.5)
            else:
                p.zero_()
    return model


def torch_network(name):
    """(network, side of its pictures, classes)"""
    from torch import nn

    norm = lambda c: nn.BatchNorm2d(c, eps=1e-3, momentum=0.01)  # noqa: E731
    if name == "emosepar":

        def separable(i, o):
            return [nn.Conv2d(i, i, 3, groups=i, bias=False), nn.Conv2d(i, o, 1), norm(o)]

        layers, c = [nn.Conv2d(3, 32, 3, bias=False), norm(32), nn.ReLU(inplace=True)], 32
        for k in (128, 256, 512):
            layers += [nn.MaxPool2d(3, 2), *separable(c, k), nn.ReLU(inplace=True), *separable(k, k)]
            c = k
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(c, 2)]
        return nn.Sequential(*layers), 150, 2
    if name == "xception":

        def conv(i, o, size, stride=1):
            return [nn.Conv2d(i, o, size, stride, bias=False), norm(o)]

        def separable(i, o):
            return [nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False), *conv(i, o, 1)]

        class Block(nn.Module):
            def __init__(self, i, widths, relu):
                super().__init__()
                layers = []
                for c, k in zip([i, *widths], widths):
                    layers += [nn.ReLU()] * (relu or len(layers) > 0) + separable(c, k)
                shrinks = len(widths) == 2
                self.layers = nn.Sequential(*layers, *[nn.MaxPool2d(3, 2, 1)] * shrinks)
                self.shortcut = nn.Sequential(*conv(i, widths[-1], 1, 2)) if shrinks else nn.Identity()

            def forward(self, x):
                return self.layers(x) + self.shortcut(x)

        relu = nn.ReLU(inplace=True)
        layers, c = [*conv(3, 32, 3, 2), relu, *conv(32, 64, 3), relu], 64
        for widths in [[128] * 2, [256] * 2, [728] * 2, *[[728] * 3] * 8, [728, 1024]]:
            layers.append(Block(c, widths, relu=c > 64))
            c = widths[-1]
        layers += [*separable(c, 1536), relu, *separable(1536, 2048), relu]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)), 299, 1000
    import torchvision

    inception = dict(aux_logits=False, init_weights=False) if name == "inception-v3" else {}
    return getattr(torchvision.models, name.replace("-", "_"))(**inception), 299 if inception else 224, 1000


def torch_step():
    import torch

    classes = None
    if a.network:
        model, side, classes = torch_network(a.network)
    else:
        model, side = torch_drawn(), SIDE
    x = torch.rand(a.batch, 3, side, side) - 0.5
    if a.peer == "torch-nhwc":
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if a.precision == "bf16":
        model, x = model.bfloat16(), x.bfloat16()
    if a.case == "infer":
        model.eval()

        def step():
            with torch.inference_mode():
                model(x)

        return step
    model.train()
    y = torch.randint(classes, (a.batch,)) if classes else torch.rand(a.batch, HEAD[-1])
    loss = torch.nn.functional.cross_entropy if classes else torch.nn.functional.mse_loss
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True)

    def step():
        sgd.zero_grad(set_to_none=True)
        loss(model(x), y).backward()
        sgd.step()

    return step


def onnxruntime_session():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = a.threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(a.model, options, providers=["CPUExecutionProvider"])


def openvino_request():
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_NUM_THREADS": a.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if a.precision == "bf16" else "f32"}
    return core.compile_model(core.read_model(a.model), "CPU", hints).create_infer_request()


def tensorflow_step():
    import tensorflow as tf
    import keras
    from keras import layers

    tf.config.threading.set_intra_op_parallelism_threads(a.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3))
    features = []
    for _, blocks, widths in TOWERS:
        x = image
        for k, convs in blocks:
            for _ in range(convs):
                x = layers.Conv2D(k, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
            x = layers.MaxPooling2D(2)(x)
        x = layers.Flatten()(x)
        for k in widths[:-1]:
            x = layers.Dense(k, activation="relu")(x)
        features.append(layers.Dense(widths[-1], activation="softmax")(x))
    x = layers.Concatenate()(features)
    for k in HEAD[:-1]:
        x = layers.Dropout(0.5)(layers.Dense(k, activation="relu")(x))
    model = keras.Model(image, layers.Dense(HEAD[-1])(x))
    rng = np.random.default_rng(1)
    x = tf.constant(rng.random((a.batch, SIDE, SIDE, 3), dtype=np.float32) - 0.5)
    if a.case == "infer":
        run = tf.function(lambda x: model(x, training=False))
        return lambda: run(x).numpy()
    y = tf.constant(rng.random((a.batch, HEAD[-1]), dtype=np.float32))
    model.compile(optimizer=keras.optimizers.SGD(1e-4, momentum=0.9), loss="mse")
    return lambda: model.train_on_batch(x, y)


def step():
    if a.peer.startswith("torch"):
        return torch_step()
    if a.peer == "tensorflow":
        return tensorflow_step()
    if a.case == "train":
        sys.exit(f"{a.peer} does not train")
    x = np.random.default_rng(1).random((a.batch, 3, SIDE, SIDE), dtype=np.float32) - 0.5
    if a.peer == "onnxruntime":
        session = onnxruntime_session()
        return lambda: session.run(None, {"image": x})
    request = openvino_request()
    return lambda: request.infer({0: x})


def save():
    """The drawn weights as safetensors and as one ONNX file."""
    import torch
    from safetensors.torch import save_file

    model = torch_drawn().eval()
    save_file(model.state_dict(), a.model + ".safetensors")
    image = torch.rand(1, 3, SIDE, SIDE) - 0.5
    axes = {"image": {0: "n"}, "rating": {0: "n"}}
    torch.onnx.export(model, (image,), a.model + ".onnx", input_names=["image"], output_names=["rating"],
                      dynamic_axes=axes, opset_version=17, dynamo=False)  # fmt: skip


def first():
    """From a photograph and a weight file to the rating, once: what a user of `predict` waits for."""
    from PIL import Image

    photo = Image.open(a.photo).convert("RGB").resize((SIDE, SIDE), Image.BILINEAR)
    x = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255 - 0.5
    if a.peer == "torch":
        import torch
        from safetensors.torch import load_file

        model = torch_model()
        model.load_state_dict(load_file(a.model), assign=True)
        with torch.inference_mode():
            return model.eval()(torch.from_numpy(x)).tolist()
    if a.peer == "onnxruntime":
        return onnxruntime_session().run(None, {"image": x})[0].tolist()
    return openvino_request().infer({0: x})[0].tolist()


def peak_mib():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def emit(**line):
    print(json.dumps(line), flush=True)


if a.case == "save":
    save()
elif a.case == "first":
    emit(rating=first(), peak_memory_mib=peak_mib())
else:
    run = step()
    while True:
        start = time.perf_counter()
        run()
        emit(seconds=time.perf_counter() - start)
        if not sys.stdin.readline():
            break
    emit(peak_memory_mib=peak_mib())
