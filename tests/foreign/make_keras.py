"""Writes the Keras fixtures beside this script, all of the network in tiny.py under the layer names of Keras' VGG16.

    pip install tensorflow-cpu keras h5py numpy        # made with keras 3.15.1, h5py 3.14.0 (HDF5 1.14.6)
    python make_keras.py

keras.h5            model.save, the whole model
keras.weights.h5    model.save_weights
keras.keras         model.save, a zip with HDF5 inside
keras_nested.h5     block 1 as a model within the model, before block 2
keras_bn.weights.h5 one block with batch normalisation
keras1.h5           as vgg16_weights_tf_dim_ordering_tf_kernels.h5 is laid out (Keras 1.1, TensorFlow kernels)
keras1_notop.h5     the same without the dense layers
keras1_theano.h5    one block with Theano's kernels, which are to be refused
keras_gzip.h5       two blocks and fc1, chunked, shuffled and deflated, attributes of variable length
keras_latest.h5     one block in the newest file format: superblock 3, links in the group's header
keras_dense.h5      the same with more layers, which HDF5 then keeps in a fractal heap, to be refused
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import h5py
import keras
import numpy
import tiny
from keras import layers

HERE = pathlib.Path(__file__).parent
DENSE = {"fc1": "fc1", "fc2": "fc2", "fc3": "predictions"}


def keras_layers():
    """Keras' layer name -> (kernel, bias): filters HWIO, dense kernels [in, out] with the input in H,W,C order."""
    t, out = tiny.tensors(), {}
    for name in [n.removesuffix(".weight") for n in t if n.endswith(".weight")]:
        w, b = t[f"{name}.weight"], t[f"{name}.bias"]
        if name.startswith("conv"):
            block, i = name.removeprefix("conv").split("_")
            out[f"block{block}_conv{i}"] = w.transpose(2, 3, 1, 0), b
            continue
        if name == "fc1":
            w = w.reshape(len(w), tiny.CHANNELS[-1], tiny.SIDE, tiny.SIDE).transpose(0, 2, 3, 1).reshape(len(w), -1)
        out[DENSE[name]] = w.T, b
    return out


WEIGHTS = keras_layers()


def convolutions(blocks=range(1, 6)):
    for block in blocks:
        for i in range(1, tiny.CONVS[block - 1] + 1):
            name = f"block{block}_conv{i}"
            channels = WEIGHTS[name][1].size
            yield layers.Conv2D(channels, 3, padding="same", activation="relu", name=name)
        yield layers.MaxPooling2D(name=f"block{block}_pool")


def head():
    yield layers.Flatten(name="flatten")
    yield layers.Dense(tiny.DENSE[0], activation="relu", name="fc1")
    yield layers.Dense(tiny.DENSE[1], activation="relu", name="fc2")
    yield layers.Dense(tiny.CLASSES, activation="softmax", name="predictions")


def model():
    image = x = keras.Input((tiny.IMAGE, tiny.IMAGE, 3))
    for layer in [*convolutions(), *head()]:
        x = layer(x)
    net = keras.Model(image, x, name="vgg16")
    fill(net)
    return net


def nested():
    image = x = keras.Input((tiny.IMAGE, tiny.IMAGE, 3))
    for layer in convolutions([1]):
        x = layer(x)
    base = keras.Model(image, x, name="vgg16")
    image = keras.Input((tiny.IMAGE, tiny.IMAGE, 3))
    x = base(image)
    for layer in convolutions([2]):
        x = layer(x)
    net = keras.Model(image, x, name="whole")
    fill(base)
    fill(net)
    return net


def fill(net):
    for layer in net.layers:
        if layer.name in WEIGHTS:
            layer.set_weights(WEIGHTS[layer.name])


def normalised():
    """block1 with batch normalisation between convolution and ReLU; gamma 1.5, beta 0.25, mean 0.5, variance 2."""
    image = x = keras.Input((tiny.IMAGE, tiny.IMAGE, 3))
    for i in (1, 2):
        x = layers.Conv2D(tiny.CHANNELS[0], 3, padding="same", name=f"block1_conv{i}")(x)
        x = layers.BatchNormalization(name=f"block1_bn{i}")(x)
        x = layers.Dropout(0.5)(x)
    net = keras.Model(image, x)
    fill(net)
    for layer in net.layers:
        if "_bn" in layer.name:
            layer.set_weights([numpy.full(tiny.CHANNELS[0], v, numpy.float32) for v in (1.5, 0.25, 0.5, 2.0)])
    return net


def keras1(path, names, strings=numpy.bytes_, theano=False, chunked=False, libver=None):
    """Keras 1.1's save_weights. Layers without weights, here the pools, are listed and have an empty group."""
    listed = []
    for name in names:
        listed.append(name)
        if name in ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"):
            listed.append(f"{name.split('_')[0]}_pool")
    with h5py.File(HERE / path, "w", libver=libver) as f:
        f.attrs["layer_names"] = numpy.array([n.encode() for n in listed], strings)
        for name in listed:
            group = f.create_group(name)
            values = dict(zip(["W", "b"], WEIGHTS.get(name, ())))
            keys = {f"{name}_{k}_1:0": v for k, v in values.items()}
            group.attrs["weight_names"] = numpy.array([k.encode() for k in keys], strings) if keys else numpy.zeros(0)
            for key, v in keys.items():
                if theano and v.ndim == 4:
                    v = v.transpose(3, 2, 0, 1)[:, :, ::-1, ::-1]
                # No chunk fits a whole number of times: the last ones stand out beyond the array.
                parts = tuple(n // 2 + 1 for n in v.shape)
                how = {"chunks": parts, "compression": "gzip", "shuffle": True} if chunked else {}
                group.create_dataset(key, data=v, **how)


def main():
    keras.utils.set_random_seed(1)
    convs = [n for n in WEIGHTS if n.startswith("block")]
    net = model()
    net.save(HERE / "keras.h5")
    net.save_weights(HERE / "keras.weights.h5")
    net.save(HERE / "keras.keras")
    nested().save(HERE / "keras_nested.h5")
    normalised().save_weights(HERE / "keras_bn.weights.h5")
    keras1("keras1.h5", WEIGHTS)
    keras1("keras1_notop.h5", convs)
    keras1("keras1_theano.h5", convs[2:4], theano=True)
    keras1("keras_gzip.h5", [*convs[:4], "fc1"], strings=h5py.string_dtype(), chunked=True)
    keras1("keras_latest.h5", convs[:2], libver="latest")
    keras1("keras_dense.h5", convs[:8], libver="latest")


if __name__ == "__main__":
    main()
