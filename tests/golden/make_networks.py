"""Golden values of whole networks: what torchvision, PyTorch and Keras compute, in float64.

    pip install torch torchvision safetensors numpy
    python make_networks.py torch                    # rewrites networks/{full,small}/ of that framework
    pip install tensorflow-cpu safetensors numpy
    python make_networks.py keras                    # or keras and jax, with KERAS_BACKEND=jax JAX_ENABLE_X64=1

Weights are not stored: both sides draw them by one formula (`draw` below; src/conform/network.rs), so a file holds a
few thousand numbers. `--weights FILE` stores everything instead, for one network, also with weights of your own:

    python make_networks.py torch --only resnet50 --weights resnet50.safetensors
    python make_networks.py torch --only resnet50 --pretrained resnet50-11ad3fa6.pth --weights pretrained.safetensors
    python make_networks.py keras --only xception --pretrained xception_weights.h5 --weights pretrained.safetensors
    deep-affect conform --device cpu pretrained.safetensors

Format: metadata `op` = `network` and, per case, JSON {network, image, seed?}; tensors `<case>.y`, and with --weights
`<case>.x` [N,C,H,W] and `<case>.param.NAME` under our names, in torch's layout (filters OIHW, dense weights [out, in]
of an input flattened in C,H,W order) whatever the framework.
"""

import argparse
import json
import math
import pathlib
import re

import numpy as np
from safetensors.numpy import save_file

SEED = 2021
HERE = pathlib.Path(__file__).parent


def philox(key, blocks, stream):
    """Philox 4x32-10 at counters (block, block >> 32, stream, 0): words [len(blocks), 4]."""
    low = np.uint64(0xFFFFFFFF)
    c = [blocks & low, blocks >> np.uint64(32), np.full_like(blocks, stream), np.zeros_like(blocks)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), b & low, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), a & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1)


def uniform(seed, name, shape):
    """In [-1, 1), exact in float32; element i of the flat array is word i % 4 of block i / 4."""
    hashed = 0x811C9DC5
    for byte in name.encode():
        hashed = ((hashed ^ byte) * 0x01000193) & 0xFFFFFFFF
    stream, n = (2 << 28) | (hashed & 0x0FFFFFFF), math.prod(shape)
    out = np.empty(n, np.float32)
    for first in range(0, n, 1 << 22):
        part = out[first : first + (1 << 22)]
        blocks = np.arange(first // 4, (first + len(part) + 3) // 4, dtype=np.uint64)
        words = philox(seed, blocks, stream).reshape(-1)[: len(part)]
        part[:] = np.float32(2) * ((words >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)) - np.float32(1)
    return out.reshape(shape)


def draw(seed, name, shape, chw=None):
    """The parameter `name` in torch's layout. It is drawn in ours: filters [K,R,S,C], dense weights of H,W,C inputs."""
    if len(shape) == 1:
        # The norm that closes a bottleneck adds little, or 33 of them would double the variance 33 times.
        centre, half = {"weight": (1, 0.25), "running_var": (1, 0.25)}.get(name.rsplit(".", 1)[1], (0, 0.125))
        centre, half = (0.25, 0.0625) if name.endswith((".bn3.weight", "_3_bn.weight")) else (centre, half)
        return np.float32(centre) + np.float32(half) * uniform(seed, name, shape)
    # He uniform keeps the magnitude of ReLU networks; no ReLU comes between a depthwise and a pointwise convolution.
    limit = np.float32(math.sqrt((3 if shape[1] == 1 else 6) / math.prod(shape[1:])))
    if len(shape) == 4:
        k, c, r, s = shape
        return (uniform(seed, name, (k, r, s, c)) * limit).transpose(0, 3, 1, 2)
    c, h, w = chw or (shape[1], 1, 1)
    return (uniform(seed, name, (shape[0], h, w, c)) * limit).transpose(0, 3, 1, 2).reshape(shape)


def image(seed, side):
    """[1,3,S,S] in [-2, 2); drawn in the order H,W,C."""
    return (uniform(seed, "image", (1, side, side, 3)) * np.float32(2)).transpose(0, 3, 1, 2)


class Torch:
    """A torch module under our names."""

    VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
    # name: (published image, small image)
    NETWORKS = {
        **{f"vgg{n}": (224, 32) for n in VGG},
        "vgg16-bn": (224, 32),
        "vgg19-bn": (224, 32),
        "alexnet": (227, 83),
        "alexnet-torchvision": (224, 79),
        "resnet18": (224, 64),
        "resnet50": (224, 64),
        "resnet101": (224, 33),
        "densenet121": (224, 64),
        "densenet201": (224, 33),
        "inception-v3": (299, 75),
    }

    def __init__(self, name, side):
        import torch
        import torchvision.models as models

        torch.manual_seed(0)
        self.torch, self.names, self.flat = torch, {}, {}
        if name == "alexnet":
            self.net = self.krizhevsky(side)
        elif name == "inception-v3":
            self.net = models.inception_v3(weights=None, init_weights=False, transform_input=False, aux_logits=False)
        else:
            self.net = getattr(models, name.removesuffix("-torchvision").replace("-bn", "_bn"))(weights=None)
        if name.startswith("vgg") or name == "alexnet-torchvision":
            # Their adaptive pool does nothing at the published size; elsewhere it is left out, and the first dense
            # layer takes what there is.
            first = 0 if name.startswith("vgg") else 1
            _, c, h, w = self.net.features(torch.zeros(1, 3, side, side)).shape
            if (h, w) != tuple(self.net.avgpool.output_size):
                self.net.avgpool = torch.nn.Identity()
                self.net.classifier[first] = torch.nn.Linear(c * h * w, 4096)
            self.flat[f"classifier.{first}"] = (c, h, w)
        if name.startswith("vgg"):
            # Position in `features` -> convB_C; the classifier's three layers.
            at, norm = 0, name.endswith("-bn")
            for block, convs in enumerate(self.VGG[int(name[3:5])], 1):
                for conv in range(1, convs + 1):
                    self.names[f"features.{at}"] = f"conv{block}_{conv}"
                    if norm:
                        self.names[f"features.{at + 1}"] = f"norm{block}_{conv}"
                    at += 3 if norm else 2
                at += 1
            self.names.update({f"classifier.{at}": f"fc{i}" for i, at in enumerate((0, 3, 6), 1)})
        self.net = self.net.double().eval()

    def krizhevsky(self, side):
        """Krizhevsky, Sutskever & Hinton 2012: two groups, local response norm with k = 2, n = 5, alpha = 1e-4,
        beta = 0.75. torch divides alpha by n; the paper does not."""
        nn = self.torch.nn
        from collections import OrderedDict

        lrn, pool = lambda: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0), lambda: nn.MaxPool2d(3, 2)
        trunk = [
            ("conv1", nn.Conv2d(3, 96, 11, 4)), ("relu1", nn.ReLU()), ("norm1", lrn()), ("pool1", pool()),
            ("conv2", nn.Conv2d(96, 256, 5, 1, 2, groups=2)), ("relu2", nn.ReLU()), ("norm2", lrn()), ("pool2", pool()),
            ("conv3", nn.Conv2d(256, 384, 3, 1, 1)), ("relu3", nn.ReLU()),
            ("conv4", nn.Conv2d(384, 384, 3, 1, 1, groups=2)), ("relu4", nn.ReLU()),
            ("conv5", nn.Conv2d(384, 256, 3, 1, 1, groups=2)), ("relu5", nn.ReLU()), ("pool5", pool()),
        ]  # fmt: skip
        _, c, h, w = nn.Sequential(OrderedDict(trunk))(self.torch.zeros(1, 3, side, side)).shape
        self.flat["fc6"] = (c, h, w)
        dense = [
            ("flatten", nn.Flatten()), ("fc6", nn.Linear(c * h * w, 4096)), ("relu6", nn.ReLU()),
            ("fc7", nn.Linear(4096, 4096)), ("relu7", nn.ReLU()), ("fc8", nn.Linear(4096, 1000)),
        ]  # fmt: skip
        return nn.Sequential(OrderedDict(trunk + dense))

    def ours(self, key):
        layer, part = key.rsplit(".", 1)
        return f"{self.names.get(layer, layer)}.{part}"

    def state(self):
        return {k: v for k, v in self.net.state_dict().items() if not k.endswith("num_batches_tracked")}

    def shapes(self):
        """Our name -> (shape in torch's layout, C,H,W of a flattened input)."""
        flat = lambda k: self.flat.get(k.removesuffix(".weight"))
        return {self.ours(k): (tuple(v.shape), flat(k)) for k, v in self.state().items()}

    def load(self, values):
        with self.torch.no_grad():
            for key, tensor in self.state().items():
                tensor.copy_(self.torch.from_numpy(np.ascontiguousarray(values[self.ours(key)])))

    def pretrained(self, path):
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            theirs = load_file(path)
        else:
            theirs = self.torch.load(path, map_location="cpu", weights_only=True)
        # The names that torchvision's DenseNet had before 2017 are still in its files.
        old = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
        theirs = {old.sub(r"\1\2", k): v for k, v in theirs.items()}
        return {self.ours(k): theirs[k].float().numpy() for k in self.state()}

    def forward(self, x):
        with self.torch.no_grad():
            return self.net(self.torch.from_numpy(x.astype(np.float64))).numpy()


class Keras:
    """A Keras model under our names. The last activation is off: class scores, not probabilities."""

    NETWORKS = {
        "inception-v3-keras": (299, 75),
        "xception": (299, 71),
        "emosepar": (150, 73),
        "resnet101-keras": (224, 33),
        "densenet201-keras": (224, 33),
    }

    def __init__(self, name, side):
        import keras

        keras.config.set_floatx("float64")
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        if name == "emosepar":
            self.net = self.emosepar(keras, side)
        else:
            made = {"xception": "Xception", "inception-v3-keras": "InceptionV3", "resnet101-keras": "ResNet101"}
            make = getattr(keras.applications, made.get(name, "DenseNet201"))
            # With another image than the published one Keras wants the top left out: the pooled features get its dense.
            base = make(weights=None, include_top=False, pooling="avg", input_shape=(side, side, 3))
            top = keras.layers.Dense(1000, name="predictions")(base.output)
            self.net = keras.Model(base.input, top)
        self.name, self.keras = name, keras

    def emosepar(self, keras, side):
        """Noguera 2018, figure 3 of the appendix."""
        L = keras.layers
        net = keras.Sequential([keras.Input((side, side, 3))])
        add = lambda *layers: [net.add(layer) for layer in layers]
        add(L.Conv2D(32, 3, use_bias=False, name="conv"), L.BatchNormalization(name="conv_bn"), L.ReLU())
        for block, k in enumerate((128, 256, 512), 1):
            name = f"block{block}_sepconv"
            add(L.MaxPooling2D(3, 2))
            add(L.SeparableConv2D(k, 3, name=f"{name}1"), L.BatchNormalization(name=f"{name}1_bn"), L.ReLU())
            add(L.SeparableConv2D(k, 3, name=f"{name}2"), L.BatchNormalization(name=f"{name}2_bn"))
        add(L.GlobalAveragePooling2D(), L.Dropout(0.5), L.Dense(2, name="dense"))
        return net

    @staticmethod
    def inception_names():
        """torchvision's names of the convolutions in the order in which Keras makes them."""
        names = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
        dbl3, dbl7 = ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"], [f"7x7dbl_{i}" for i in range(1, 6)]
        kinds = {
            "a": ["1x1", "5x5_1", "5x5_2", *dbl3, "_pool"],
            "b": ["3x3", *dbl3],
            "c": ["1x1", "7x7_1", "7x7_2", "7x7_3", *dbl7, "_pool"],
            "d": ["3x3_1", "3x3_2", "7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4"],
            "e": ["1x1", "3x3_1", "3x3_2a", "3x3_2b", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3a", "3x3dbl_3b", "_pool"],
        }
        for module, kind in zip("5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split(), "aaabccccdee"):
            names += [f"Mixed_{module}.branch{branch}" for branch in kinds[kind]]
        return names

    @staticmethod
    def densenet(layer):
        """torchvision's name of a layer."""
        stem, end = layer.rsplit("_", 1) if "_" in layer else (layer, "")
        kind = {"bn": "norm", "conv": "conv"}.get(end)
        if within := re.match(r"conv(\d)_block(\d+)_(\d)$", stem):
            block, number, i = (int(g) for g in within.groups())
            return f"features.denseblock{block - 1}.denselayer{number}.{kind}{i + (kind == 'norm')}"
        if pool := re.match(r"pool(\d)$", stem):
            return f"features.transition{int(pool[1]) - 1}.{kind}"
        return {"conv1_conv": "features.conv0", "conv1_bn": "features.norm0", "bn": "features.norm5", "predictions": "classifier"}[layer]

    def layers(self):
        """(our layer, Keras layer) of every layer with weights."""
        counter = lambda layer: int((re.search(r"_(\d+)$", layer.name) or [0, 0])[1])
        of = lambda kind: [l for l in self.net.layers if type(l).__name__ == kind]
        automatic = {}
        if self.name == "inception-v3-keras":
            for kind, part in (("Conv2D", "conv"), ("BatchNormalization", "bn")):
                made = sorted(of(kind), key=counter)
                automatic |= {l.name: f"{n}.{part}" for l, n in zip(made, self.inception_names(), strict=True)}
            automatic["predictions"] = "fc"
        elif self.name == "densenet201-keras":
            automatic = {l.name: self.densenet(l.name) for l in self.net.layers if l.weights}
        elif self.name == "xception":
            for kind, part in (("Conv2D", ""), ("BatchNormalization", "_bn")):
                made = sorted((l for l in of(kind) if not l.name.startswith("block")), key=counter)
                automatic |= {l.name: f"block{b}_residual{part}" for l, b in zip(made, (2, 3, 4, 13), strict=True)}
        return [(automatic.get(l.name, l.name), l) for l in self.net.layers if l.weights]

    def weights(self):
        """(our name, variable, to torch's layout, back) of everything."""
        hwio = (lambda w: w.transpose(3, 2, 0, 1), lambda w: w.transpose(2, 3, 1, 0))
        depthwise = (lambda w: w.transpose(2, 3, 0, 1), lambda w: w.transpose(2, 3, 0, 1))
        dense, same = (lambda w: w.T,) * 2, (lambda w: w,) * 2
        parts = {
            "kernel": ("weight", None), "depthwise_kernel": ("depthwise.weight", depthwise),
            "pointwise_kernel": ("pointwise.weight", hwio), "bias": ("bias", same), "gamma": ("weight", same),
            "beta": ("bias", same), "moving_mean": ("running_mean", same), "moving_variance": ("running_var", same),
        }  # fmt: skip
        for ours, layer in self.layers():
            for variable in layer.weights:
                part, how = parts[variable.name]
                if variable.name == "bias" and type(layer).__name__ == "SeparableConv2D":
                    part = "pointwise.bias"
                how = how or (hwio if len(variable.shape) == 4 else dense)
                yield f"{ours}.{part}", variable, *how

    def shapes(self):
        return {name: (to(variable.numpy()).shape, None) for name, variable, to, _ in self.weights()}

    def load(self, values):
        for name, variable, _, back in self.weights():
            variable.assign(back(values[name].astype(np.float64)))

    def pretrained(self, path):
        self.net.load_weights(path)
        return {name: to(variable.numpy()).astype(np.float32) for name, variable, to, _ in self.weights()}

    def forward(self, x):
        return np.asarray(self.net(x.transpose(0, 2, 3, 1).astype(np.float64), training=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("torch", "keras"))
    parser.add_argument("--only", metavar="NETWORK", help="this network alone")
    parser.add_argument("--weights", metavar="FILE", help="write one complete file: image, all parameters, output")
    parser.add_argument("--pretrained", metavar="FILE", help="take the parameters from here (.pth, .safetensors, .h5)")
    args = parser.parse_args()
    framework = Torch if args.framework == "torch" else Keras
    names = [args.only] if args.only else list(framework.NETWORKS)
    if not set(names) <= set(framework.NETWORKS):
        parser.error(f"--only: choose one of {', '.join(framework.NETWORKS)}")
    if (args.weights or args.pretrained) and not (args.only and args.weights):
        parser.error("--weights and --pretrained are for one network: name it with --only, and the file with --weights")
    for name in names:
        for case, side in zip(("full", "small"), framework.NETWORKS[name]):
            if args.weights and case == "small":
                continue
            net = framework(name, side)
            spec = {"network": name, "image": side}
            if args.pretrained:
                values = net.pretrained(args.pretrained)
            else:
                spec["seed"] = SEED
                values = {n: draw(SEED, n, shape, chw) for n, (shape, chw) in net.shapes().items()}
            net.load(values)
            x = image(SEED, side)
            y = net.forward(x)
            print(f"{name} {case} {side}x{side}: largest |y| {abs(y).max():.4g}, spread {y.std():.4g}", flush=True)
            # Keras on JAX is good to float32 alone, whatever its type: such outputs are stored so, and held to that.
            on_jax = args.framework == "keras" and net.keras.backend.backend() == "jax"
            tensors = {f"{case}.y": y.astype(np.float32) if on_jax else y}
            if args.weights:
                tensors[f"{case}.x"] = np.ascontiguousarray(x)
                tensors |= {f"{case}.param.{n}": np.ascontiguousarray(v) for n, v in values.items()}
            path = pathlib.Path(args.weights or HERE / "networks" / case / f"{name}.safetensors")
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, path, {"op": "network", case: json.dumps(spec)})


if __name__ == "__main__":
    main()
