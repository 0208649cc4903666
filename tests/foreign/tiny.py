"""The network of every fixture here: VGG16's thirteen convolutions and three dense layers, a few channels wide and with
no two counts alike, so that no two axes can be exchanged unnoticed. 64x64 pictures; five pools leave 2x2."""

import numpy

CHANNELS = [3, 4, 5, 6, 7]
CONVS = [2, 2, 3, 3, 3]
IMAGE = 64
SIDE = IMAGE // 32
DENSE = [8, 9]
CLASSES = 10


def tensors(classes=CLASSES, seed=7):
    """Name -> float32 array in torch's layout: OIHW filters, [out, in] with the input flattened in C,H,W order."""
    draw = numpy.random.default_rng(seed)
    out, inputs = {}, 3

    def layer(name, shape):
        fan = int(numpy.prod(shape[1:]))
        out[f"{name}.weight"] = (draw.standard_normal(shape) * (2 / fan) ** 0.5).astype(numpy.float32)
        out[f"{name}.bias"] = (draw.standard_normal(shape[0]) * 0.1).astype(numpy.float32)

    for block, (channels, convs) in enumerate(zip(CHANNELS, CONVS), 1):
        for i in range(1, convs + 1):
            layer(f"conv{block}_{i}", (channels, inputs, 3, 3))
            inputs = channels
    inputs *= SIDE * SIDE
    for i, outputs in enumerate([*DENSE, classes], 1):
        layer(f"fc{i}", (outputs, inputs))
        inputs = outputs
    return out
