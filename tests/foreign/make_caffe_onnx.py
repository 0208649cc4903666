"""Writes the Caffe and ONNX fixtures beside this script, all of the network in tiny.py.

    pip install grpcio-tools onnx onnxscript torch numpy    # made with protobuf 7.36, onnx 1.23.2, torch 2.15.0
    python make_caffe_onnx.py

caffe-v1.caffemodel   as VGG_ILSVRC_16_layers.caffemodel is laid out: `layers`, blobs of four extents
caffe.caffemodel      as vgg16_places365.caffemodel is: `layer`, blobs with a shape, the last layer fc8a of 11 classes
tiny.onnx             by the onnx package, under tiny.py's names: values raw and as floats, fc3 a product and a sum
torch.onnx            torch.onnx.export of the network as torchvision has it
torch-bn.onnx         the TorchScript exporter, which folds batch normalisation and then names nothing
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
import tiny
import torch
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
FC = {"fc1": "fc6", "fc2": "fc7", "fc3": "fc8"}


def protobuf():
    """caffe.proto as a module."""
    out = tempfile.mkdtemp()
    command = ["-m", "grpc_tools.protoc", f"-I{HERE}", f"--python_out={out}", "caffe.proto"]
    subprocess.run([sys.executable, *command], check=True)
    sys.path.insert(0, out)
    import caffe_pb2

    return caffe_pb2


def layer_names(tensors):
    return [n.removesuffix(".weight") for n in tensors if n.endswith(".weight")]


def caffe_old(pb, tensors):
    net = pb.NetParameter(name="VGG_ILSVRC_16_layers", input=["data"], input_dim=[1, 3, tiny.IMAGE, tiny.IMAGE])
    kinds = pb.V1LayerParameter
    for name in layer_names(tensors):
        conv = name.startswith("conv")
        theirs = FC.get(name, name)
        layer = net.layers.add(name=theirs, type=kinds.CONVOLUTION if conv else kinds.INNER_PRODUCT, blobs_lr=[1, 2])
        for what in ("weight", "bias"):
            value = tensors[f"{name}.{what}"]
            blob = layer.blobs.add()
            blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - value.ndim) + value.shape
            blob.data.extend(value.ravel().tolist())
        net.layers.add(name=theirs.replace("conv", "relu"), type=kinds.RELU)
    return net


def caffe_new(pb, tensors):
    net = pb.NetParameter(name="vgg16_places")
    net.layer.add(name="data", type="Input")
    for name in layer_names(tensors):
        theirs = FC.get(name, name).replace("fc8", "fc8a")
        layer = net.layer.add(name=theirs, type="Convolution" if name.startswith("conv") else "InnerProduct")
        for what in ("weight", "bias"):
            value = tensors[f"{name}.{what}"]
            blob = layer.blobs.add()
            blob.shape.dim.extend(value.shape)
            blob.data.extend(value.ravel().tolist())
        net.layer.add(name=theirs.replace("conv", "relu"), type="ReLU")
    return net


def by_package(tensors):
    """Every second weight as float_data instead of raw_data, the last dense layer as MatMul and Add."""
    nodes, values, x = [], [], "image"
    for i, name in enumerate(layer_names(tensors)):
        w, b = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        last = name == "fc3"
        w = w.T.copy() if last else w
        raw = numpy_helper.from_array(w, f"{name}.weight")
        listed = helper.make_tensor(f"{name}.weight", TensorProto.FLOAT, w.shape, w.ravel().tolist())
        values += [listed if i % 2 else raw, numpy_helper.from_array(b, f"{name}.bias")]
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        if last:
            nodes.append(helper.make_node("MatMul", inputs[:2], ["product"]))
            nodes.append(helper.make_node("Add", ["product", f"{name}.bias"], [name]))
        elif name.startswith("fc"):
            nodes.append(helper.make_node("Gemm", inputs, [name], transB=1))
            nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"]))
        else:
            nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"]))
        x = f"{name}.relu"
        block = name.removeprefix("conv").split("_")
        if name.startswith("conv") and int(block[1]) == tiny.CONVS[int(block[0]) - 1]:
            nodes.append(helper.make_node("MaxPool", [x], [f"pool{block[0]}"], kernel_shape=[2, 2], strides=[2, 2]))
            x = f"pool{block[0]}"
        if x == "pool5":
            nodes.append(helper.make_node("Flatten", [x], ["flat"]))
            x = "flat"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, tiny.IMAGE, tiny.IMAGE])
    rating = helper.make_tensor_value_info("fc3", TensorProto.FLOAT, [1, tiny.CLASSES])
    graph = helper.make_graph(nodes, "tiny", [image], [rating], values)
    model = helper.make_model(graph, producer_name="make_caffe_onnx", opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    return model


class Vgg(torch.nn.Module):
    """torchvision/models/vgg.py, a few channels wide."""

    def __init__(self, norm=False, blocks=5, dense=True):
        super().__init__()
        nn, parts, inputs = torch.nn, [], 3
        for channels, convs in list(zip(tiny.CHANNELS, tiny.CONVS))[:blocks]:
            for _ in range(convs):
                parts += [nn.Conv2d(inputs, channels, 3, padding=1)]
                parts += [nn.BatchNorm2d(channels)] if norm else []
                parts += [nn.ReLU(inplace=True)]
                inputs = channels
            parts.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*parts)
        sizes = [inputs * tiny.SIDE**2, *tiny.DENSE, tiny.CLASSES]
        parts = []
        for a, b in zip(sizes, sizes[1:]):
            parts += [nn.Linear(a, b), nn.ReLU(True), nn.Dropout()]
        self.classifier = nn.Sequential(*parts[:-2]) if dense else nn.Identity()

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


def fill(net, tensors):
    layers = [m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    for module, name in zip(layers, layer_names(tensors)):
        module.weight.data = torch.from_numpy(tensors[f"{name}.weight"])
        module.bias.data = torch.from_numpy(tensors[f"{name}.bias"])
    return net.eval()


def main():
    tensors = tiny.tensors()
    pb = protobuf()
    (HERE / "caffe-v1.caffemodel").write_bytes(caffe_old(pb, tensors).SerializeToString())
    (HERE / "caffe.caffemodel").write_bytes(caffe_new(pb, tiny.tensors(classes=11)).SerializeToString())
    (HERE / "tiny.onnx").write_bytes(by_package(tensors).SerializeToString())
    image = torch.zeros(1, 3, tiny.IMAGE, tiny.IMAGE)
    program = torch.onnx.export(fill(Vgg(), tensors), (image,), dynamo=True, verbose=False)
    model = program.model_proto
    for node in model.graph.node:
        # Stack traces with this machine's paths.
        del node.metadata_props[:]
    (HERE / "torch.onnx").write_bytes(model.SerializeToString())
    norm = fill(Vgg(norm=True, blocks=1, dense=False), tensors)
    torch.onnx.export(norm, (image,), HERE / "torch-bn.onnx", dynamo=False, verbose=False)


if __name__ == "__main__":
    main()
