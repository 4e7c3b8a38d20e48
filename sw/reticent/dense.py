"""The same network done densely by the usual runtimes, for comparison: PyTorch and ONNX Runtime.

All at batch 1 on one thread, from stacked uint8 pixels that wait ready-made to the best action. A
runtime that is not installed is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import PIXEL_MAX
from .floatnet import frame_history
from .network import AvgPool, Conv, Dense, Network

__all__ = ["dense_onnx", "dense_torch", "observations", "onnx_models"]

Frames = npt.NDArray[np.uint8]
Decide = Callable[[int], int]

CALIBRATION = 64  # observations that calibrate the int8 network, spread over the frames
ONNX_OPSET, ONNX_IR = 17, 8  # what every ONNX Runtime since 1.15 reads


def observations(
    network: Network, frames: Frames, starts: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """What the network sees at each frame, (N, 1, channels, height, width).

    `starts` marks the frames that begin an episode.
    """
    begins = np.flatnonzero(starts).tolist()
    stacked: list[Frames] = []
    for begin, end in zip(begins, [*begins[1:], len(starts)], strict=True):
        stacked += frame_history(network.input, frames[begin:end])
    return np.stack(stacked)[:, None]


def dense_torch(network: Network, pixels: Frames) -> dict[str, Decide]:
    """Ways to decide on observation t in PyTorch, by name."""
    if find_spec("torch") is None:
        return {}
    import torch

    torch.set_num_threads(1)
    tensors = torch.from_numpy(pixels)
    name = f"PyTorch {version('torch').partition('+')[0]}, dense float32"

    def contender(layout: Any) -> Decide:
        module = _torch_module(network).to(memory_format=layout)

        def decide(t: int) -> int:
            with torch.inference_mode():
                x = tensors[t].to(dtype=torch.float32, memory_format=layout).mul_(1 / PIXEL_MAX)
                return int(module(x).argmax())

        return decide

    return {
        name: contender(torch.contiguous_format),
        f"{name}, channels last": contender(torch.channels_last),
    }


def _torch_module(network: Network) -> Any:
    """The network as a `torch.nn.Sequential`."""
    import torch
    from torch import nn

    modules: list[Any] = []
    for layer in network.layers:
        if isinstance(layer, AvgPool):
            modules.append(nn.AvgPool2d(layer.kernel, layer.stride, layer.padding))
        elif isinstance(layer, Conv):
            out, inputs, *kernel = layer.weight.shape
            modules.append(nn.Conv2d(inputs, out, kernel, layer.stride, layer.padding))
        elif isinstance(layer, Dense):
            modules.append(nn.Linear(*reversed(layer.weight.shape)))
        else:
            modules.append(nn.Flatten())
            continue
        if isinstance(layer, Conv | Dense):
            modules[-1].weight.data = torch.tensor(layer.weight)
            modules[-1].bias.data = torch.tensor(layer.bias)
        if layer.activation == "relu":
            modules.append(nn.ReLU())
    return nn.Sequential(*modules).eval()


def dense_onnx(network: Network, pixels: Frames) -> dict[str, Decide]:
    """Ways to decide on observation t in ONNX Runtime, by name: float32, and its own int8."""
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def contender(model: bytes) -> Decide:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda t: int(session.run(None, {"pixels": pixels[t]})[0].argmax())

    calibration = pixels[np.linspace(0, len(pixels) - 1, CALIBRATION).astype(int)]
    return {
        f"ONNX Runtime {version('onnxruntime')}, dense {kind}": contender(model)
        for kind, model in onnx_models(network, calibration).items()
    }


def onnx_models(network: Network, calibration: Frames) -> dict[str, bytes]:
    """The network as ONNX files, float32 and int8, from uint8 `pixels` to `values`.

    The int8 one is made by ONNX Runtime's static quantisation, with the ranges that the
    observations of `calibration` give. Its input is the pixels as they are.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Feeds the calibration."""

        def __init__(self) -> None:
            self.items: Iterator[dict[str, Any]] = (
                {"x": x.astype(np.float32) / PIXEL_MAX} for x in calibration
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.items, None)

    plain = _onnx_graph(network)
    zero, one = np.array(0, np.float32), np.array(1, np.float32)  # of the pixels
    float32 = onnx.ModelProto()
    float32.CopyFrom(plain)
    _feed_pixels(float32)
    scale = numpy_helper.from_array(np.float32(1 / PIXEL_MAX), "scale")
    float32.graph.initializer.append(scale)
    float32.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.FLOAT))
    float32.graph.node.insert(1, helper.make_node("Mul", ["y", "scale"], ["x"]))

    with TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            Reader(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"TensorQuantOverrides": {"x": [{"rmin": zero, "rmax": one}]}},
        )
        int8 = onnx.load(made)
    _feed_pixels(int8)
    (first,) = (node for node in int8.graph.node if "x" in node.input)
    assert first.op_type == "QuantizeLinear"
    int8.graph.node.remove(first)
    for node in int8.graph.node:
        node.input[:] = ["pixels" if name == first.output[0] else name for name in node.input]
    models = {"float32": float32, "int8": int8}
    for model in models.values():
        onnx.checker.check_model(model, full_check=True)
    return {name: model.SerializeToString() for name, model in models.items()}


def _feed_pixels(model: Any) -> None:
    """Give a model uint8 `pixels` as its input; nothing uses them yet."""
    from onnx import TensorProto

    model.graph.input[0].name = "pixels"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def _onnx_graph(network: Network) -> Any:
    """The network as an ONNX model from float `x` in 0..1 to `values`."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    tensors: list[Any] = []

    def add(kind: str, weights: Iterable[Any] = (), **attributes: Any) -> None:
        names = [nodes[-1].output[0] if nodes else "x"]
        for tensor in weights:
            names.append(f"weight{len(tensors)}")
            tensors.append(numpy_helper.from_array(tensor, names[-1]))
        nodes.append(helper.make_node(kind, names, [f"node{len(nodes)}"], **attributes))

    for layer in network.layers:
        if isinstance(layer, Conv | AvgPool):
            pads = [*layer.padding, *layer.padding]
            if isinstance(layer, Conv):
                add("Conv", [layer.weight, layer.bias], strides=layer.stride, pads=pads)
            else:
                add(
                    "AveragePool",
                    kernel_shape=layer.kernel,
                    strides=layer.stride,
                    pads=pads,
                    count_include_pad=1,
                )
        elif isinstance(layer, Dense):
            add("Gemm", [layer.weight, layer.bias], transB=1)
        else:
            add("Flatten")
            continue
        if layer.activation == "relu":
            add("Relu")
    nodes[-1].output[0] = "values"
    spec = network.input
    shape = [1, spec.stack * spec.channels, spec.height, spec.width]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [1, network.outputs])],
        tensors,
    )
    opset = [helper.make_opsetid("", ONNX_OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=ONNX_IR)
