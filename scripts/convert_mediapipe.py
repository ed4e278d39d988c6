"""Convert MediaPipe's person models (TFLite, float16) to the ONNX files in `assets/matting/`.

The models come out of two npm packages, both Apache-2.0:

    npm pack @mediapipe/selfie_segmentation@0.1.1675465747 @mediapipe/pose@0.5.1675469404
    pip install "onnx>=1.17" "tflite>=2.18"
    python scripts/convert_mediapipe.py mediapipe-*.tgz --out assets/matting

Activations become channels-first. Weights are stored as float16 (as published), or as 8-bit integers with one
scale per output channel, and are widened to float32 when the network is loaded.
"""

from __future__ import annotations

import argparse
import logging
import math
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

LOGGER = logging.getLogger("convert_mediapipe")
OPSET = 17
MIN_COMPRESSED = 512  # smaller constants stay float32: nothing to gain
MIN_INT8 = 60_000  # 8 bits hurt in the small first layers, and save little there


@dataclass(frozen=True)
class Source:
    """One network: where it lies in the packages, what its file is called here, how its weights are stored."""

    member: str
    name: str
    storage: str
    outputs: dict[int, str]


# Outputs are named by their position in the TFLite graph; those not named here are dropped with what feeds them.
SOURCES = (
    Source("package/selfie_segmentation.tflite", "selfie_segmentation", "float16", {0: "mask"}),
    Source(
        "package/pose_landmark_full.tflite", "pose_landmark", "int8", {0: "landmarks", 1: "score", 2: "mask"}
    ),
    Source("package/pose_solution_packed_assets.data", "pose_detection", "int8", {0: "boxes", 1: "scores"}),
)

TENSOR_TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}
SEGMENT_TYPES = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}


def densify(values: np.ndarray, sparsity: Any, shape: list[int]) -> np.ndarray:
    """Expand a TFLite sparse tensor (schema.fbs, `SparsityParameters`) of `values` to a dense array of `shape`."""
    levels = [sparsity.DimMetadata(i) for i in range(sparsity.DimMetadataLength())]
    order = sparsity.TraversalOrderAsNumpy().tolist()
    block_map = sparsity.BlockMapAsNumpy().tolist() if sparsity.BlockMapLength() else []
    rank = len(shape)
    block = [1] * rank
    for level, axis in enumerate(order):
        if axis >= rank:
            block[block_map[axis - rank]] = levels[level].DenseSize()

    # Each stored value's index per level, built level by level from its parents.
    parents: list[list[int]] = [[]]
    for level in levels:
        if level.Format() == tflite.DimensionType.DENSE:
            parents = [parent + [i] for parent in parents for i in range(level.DenseSize())]
            continue
        segments = union_vector(level.ArraySegments(), level.ArraySegmentsType())
        indices = union_vector(level.ArrayIndices(), level.ArrayIndicesType())
        parents = [
            parent + [int(i)]
            for number, parent in enumerate(parents)
            for i in indices[segments[number] : segments[number + 1]]
        ]
    places = np.array(parents, dtype=np.int64)
    position = np.zeros((len(places), rank), dtype=np.int64)
    for level, axis in enumerate(order):
        if axis < rank:
            position[:, axis] += places[:, level] * block[axis]
        else:
            position[:, block_map[axis - rank]] += places[:, level]
    dense = np.zeros(shape, dtype=values.dtype)
    dense[tuple(position.T)] = values[: len(places)]
    return dense


def union_vector(table: Any, kind: int) -> np.ndarray:
    """Read one of the three integer vectors that a sparse dimension may hold."""
    vector = SEGMENT_TYPES[kind]()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy()


@dataclass
class Converter:
    """Builds the ONNX graph of one TFLite model, operator by operator."""

    data: bytes
    storage: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    constants: dict[int, np.ndarray] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def convert(self, name: str, outputs: dict[int, str]) -> onnx.ModelProto:
        """Return the checked model; `outputs` maps positions of graph outputs to names."""
        self.model = tflite.Model.GetRootAsModel(self.data, 0)
        self.graph = self.model.Subgraphs(0)
        self.tensors = [self.graph.Tensors(i) for i in range(self.graph.TensorsLength())]
        for index in range(len(self.tensors)):
            self.read_constant(index)
        source = self.graph.Inputs(0)
        self.names[source] = "image"
        for number in range(self.graph.OperatorsLength()):
            self.operator(self.graph.Operators(number))
        for position, output in outputs.items():
            self.node("Identity", [self.names[self.graph.Outputs(position)]], output)
        results = [
            helper.make_tensor_value_info(title, TensorProto.FLOAT, self.first(self.graph.Outputs(position)))
            for position, title in outputs.items()
        ]
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.first(source))]
        self.drop_unused(set(outputs.values()))
        graph = helper.make_graph(self.nodes, name, inputs, results, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        model.producer_name = "convert_mediapipe"
        onnx.checker.check_model(model, full_check=True)
        return model

    def shape(self, index: int) -> list[int]:
        tensor = self.tensors[index]
        return [int(n) for n in tensor.ShapeAsNumpy()] if tensor.ShapeLength() else []

    def first(self, index: int) -> list[int]:
        """Shape with channels first."""
        shape = self.shape(index)
        return [shape[0], shape[3], shape[1], shape[2]] if len(shape) == 4 else shape

    def read_constant(self, index: int) -> None:
        tensor = self.tensors[index]
        buffer = self.model.Buffers(tensor.Buffer())
        if not buffer.DataLength():
            return
        values = np.frombuffer(buffer.DataAsNumpy().tobytes(), TENSOR_TYPES[tensor.Type()])
        sparsity = tensor.Sparsity()
        if sparsity is not None and sparsity.DimMetadataLength():
            self.constants[index] = densify(values, sparsity, self.shape(index))
        else:
            self.constants[index] = values.reshape(self.shape(index))

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def initializer(self, name: str, values: np.ndarray) -> str:
        """Store a constant, small where that pays; returns the name of its float32 (or integer) value."""
        values = np.ascontiguousarray(values)
        if values.dtype == np.int64 or values.size < MIN_COMPRESSED:
            kept = values if values.dtype == np.int64 else values.astype(np.float32)
            self.initializers.append(numpy_helper.from_array(kept, name))
            return name
        if self.storage == "int8" and values.ndim == 4 and values.size >= MIN_INT8:
            scale = np.abs(values.astype(np.float32)).max(axis=(1, 2, 3)) / 127
            scale = np.maximum(scale, np.finfo(np.float32).tiny)
            steps = np.rint(values.astype(np.float32) / scale[:, None, None, None]).astype(np.int8)
            self.initializers.append(numpy_helper.from_array(steps, name + ".int8"))
            self.initializers.append(numpy_helper.from_array(scale.reshape(-1, 1, 1, 1), name + ".scale"))
            wide = self.node("Cast", [name + ".int8"], name + ".wide", to=TensorProto.FLOAT)
            return self.node("Mul", [wide, name + ".scale"], name)
        self.initializers.append(numpy_helper.from_array(values.astype(np.float16), name + ".half"))
        return self.node("Cast", [name + ".half"], name, to=TensorProto.FLOAT)

    def value(self, index: int) -> str:
        """Name of an activation, or of a constant that enters arithmetic."""
        if index not in self.names:
            values = self.constants[index].astype(np.float32)
            if values.ndim == 4:
                values = values.transpose(0, 3, 1, 2)
            elif values.ndim == 1:
                values = values.reshape(1, -1, 1, 1)
            self.names[index] = self.initializer(f"c{index}", values)
        return self.names[index]

    def activation(self, name: str, code: int, output: str) -> None:
        if code == tflite.ActivationFunctionType.NONE:
            self.node("Identity", [name], output)
        elif code == tflite.ActivationFunctionType.RELU:
            self.node("Relu", [name], output)
        elif code == tflite.ActivationFunctionType.RELU6:
            low = self.initializer(output + ".low", np.float32(0))
            high = self.initializer(output + ".high", np.float32(6))
            self.node("Clip", [name, low, high], output)
        else:
            raise NotImplementedError(
                f"Fused activation {code} has no conversion yet; add it to `activation`."
            )

    def kind(self, operator: Any) -> str:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == tflite.BuiltinOperator.CUSTOM:
            return code.CustomCode().decode()
        return tflite.opcode2name(number)

    def operator(self, operator: Any) -> None:
        kind = self.kind(operator)
        inputs = [int(i) for i in operator.InputsAsNumpy()]
        output = int(operator.Outputs(0))
        if kind in ("DEQUANTIZE", "DENSIFY") and inputs[0] in self.constants:
            self.constants[output] = self.constants[inputs[0]]
            return
        if kind not in OPERATORS:
            raise NotImplementedError(f"TFLite operator {kind} has no conversion yet; add it to OPERATORS.")
        OPERATORS[kind](self, operator, inputs, output, f"t{output}")
        self.names[output] = f"t{output}"

    def drop_unused(self, wanted: set[str]) -> None:
        """Keep what the wanted outputs need, in order."""
        kept = []
        for node in reversed(self.nodes):
            if node.output[0] in wanted:
                kept.append(node)
                wanted |= set(node.input)
        self.nodes = kept[::-1]
        self.initializers = [tensor for tensor in self.initializers if tensor.name in wanted]


def options(operator: Any, cls: Callable[[], Any]) -> Any:
    """Typed options of an operator."""
    table, typed = operator.BuiltinOptions(), cls()
    typed.Init(table.Bytes, table.Pos)
    return typed


def same_pads(size: int, out: int, stride: int, kernel: int, dilation: int = 1) -> tuple[int, int]:
    """Zeros before and after along one axis for TFLite's SAME padding."""
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def pads(
    c: Converter, option: Any, source: int, output: int, kernel: list[int], dilation: list[int]
) -> list[int]:
    if option.Padding() == tflite.Padding.VALID:
        return [0, 0, 0, 0]
    (height, width), (rows, columns) = c.shape(source)[1:3], c.shape(output)[1:3]
    top, bottom = same_pads(height, rows, option.StrideH(), kernel[0], dilation[0])
    left, right = same_pads(width, columns, option.StrideW(), kernel[1], dilation[1])
    return [top, left, bottom, right]


def convolution(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    depthwise = c.kind(operator) == "DEPTHWISE_CONV_2D"
    option = options(operator, tflite.DepthwiseConv2DOptions if depthwise else tflite.Conv2DOptions)
    weight = c.constants[inputs[1]]
    weight = weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)
    kernel = list(weight.shape[2:])
    dilation = [option.DilationHFactor(), option.DilationWFactor()]
    operands = [c.value(inputs[0]), c.initializer(name + ".weight", weight)]
    if len(inputs) > 2 and inputs[2] >= 0:
        operands.append(c.initializer(name + ".bias", c.constants[inputs[2]]))
    c.node(
        "Conv", operands, name + ".linear",
        kernel_shape=kernel, dilations=dilation, strides=[option.StrideH(), option.StrideW()],
        group=c.shape(inputs[0])[3] if depthwise else 1,
        pads=pads(c, option, inputs[0], output, kernel, dilation),
    )  # fmt: skip
    c.activation(name + ".linear", option.FusedActivationFunction(), name)


def transposed_convolution(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    weight = c.constants[inputs[1]]  # out, rows, columns, in
    stride = c.shape(output)[1] // c.shape(inputs[0])[1]
    kernel = list(weight.shape[1:3])
    extra = [max(k - stride, 0) for k in kernel]
    before = [e // 2 for e in extra]
    operands = [
        c.value(inputs[0]),
        c.initializer(name + ".weight", weight.transpose(3, 0, 1, 2)),
        c.initializer(name + ".bias", c.constants[inputs[2]]),
    ]
    c.node(
        "ConvTranspose", operands, name, kernel_shape=kernel, strides=[stride, stride],
        pads=[*before, *(e - b for e, b in zip(extra, before))],
    )  # fmt: skip


def pool(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    option = options(operator, tflite.Pool2DOptions)
    kernel = [option.FilterHeight(), option.FilterWidth()]
    kind = "AveragePool" if c.kind(operator) == "AVERAGE_POOL_2D" else "MaxPool"
    c.node(
        kind, [c.value(inputs[0])], name, kernel_shape=kernel, strides=[option.StrideH(), option.StrideW()],
        pads=pads(c, option, inputs[0], output, kernel, [1, 1]),
    )  # fmt: skip


def arithmetic(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    multiply = c.kind(operator) == "MUL"
    option = options(operator, tflite.MulOptions if multiply else tflite.AddOptions)
    c.node("Mul" if multiply else "Add", [c.value(i) for i in inputs[:2]], name + ".linear")
    c.activation(name + ".linear", option.FusedActivationFunction(), name)


def unary(onnx_kind: str) -> Callable[..., None]:
    def build(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
        c.node(onnx_kind, [c.value(inputs[0])], name)

    return build


def pad(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    amounts = c.constants[inputs[1]][[0, 3, 1, 2]]
    c.node(
        "Pad",
        [c.value(inputs[0]), c.initializer(name + ".pads", amounts.T.reshape(-1).astype(np.int64))],
        name,
    )


def reshape(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    channels_last = c.node("Transpose", [c.value(inputs[0])], name + ".last", perm=[0, 2, 3, 1])
    c.node(
        "Reshape", [channels_last, c.initializer(name + ".shape", np.array(c.shape(output), np.int64))], name
    )


def resize(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    option = options(operator, tflite.ResizeBilinearOptions)
    half_pixel = "half_pixel" if option.HalfPixelCenters() else "asymmetric"
    mode = "align_corners" if option.AlignCorners() else half_pixel
    size = c.initializer(name + ".size", np.array(c.first(output), np.int64))
    c.node(
        "Resize", [c.value(inputs[0]), "", "", size], name, mode="linear", coordinate_transformation_mode=mode
    )


def concatenate(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    axis = options(operator, tflite.ConcatenationOptions).Axis()
    if len(c.shape(output)) == 4:
        axis = {0: 0, 1: 2, 2: 3, 3: 1}[axis % 4]
    c.node("Concat", [c.value(i) for i in inputs], name, axis=axis)


def depth_to_space(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    block = math.isqrt(c.shape(inputs[0])[3] // c.shape(output)[3])
    c.node("DepthToSpace", [c.value(inputs[0])], name, blocksize=block, mode="DCR")


OPERATORS: dict[str, Callable[..., None]] = {
    "CONV_2D": convolution,
    "DEPTHWISE_CONV_2D": convolution,
    "Convolution2DTransposeBias": transposed_convolution,
    "AVERAGE_POOL_2D": pool,
    "MAX_POOL_2D": pool,
    "ADD": arithmetic,
    "MUL": arithmetic,
    "HARD_SWISH": unary("HardSwish"),
    "RELU": unary("Relu"),
    "LOGISTIC": unary("Sigmoid"),
    "PAD": pad,
    "RESHAPE": reshape,
    "RESIZE_BILINEAR": resize,
    "CONCATENATION": concatenate,
    "DEPTH_TO_SPACE": depth_to_space,
}


def read_member(packages: list[Path], member: str) -> bytes:
    """Return a file out of the first package that has it."""
    for package in packages:
        with tarfile.open(package) as archive:
            if member in archive.getnames():
                file = archive.extractfile(member)
                assert file is not None
                return file.read()
    raise FileNotFoundError(f"No package given holds {member}; see the commands at the top of this script.")


def main() -> None:
    """Convert all models."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description="Convert MediaPipe's person models to ONNX.")
    parser.add_argument("packages", nargs="+", type=Path, help="the two npm packages (.tgz)")
    parser.add_argument("--out", type=Path, default=Path("assets/matting"), help="folder of the ONNX files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        converter = Converter(read_member(arguments.packages, source.member), source.storage)
        model = converter.convert(source.name, source.outputs)
        path = arguments.out / f"{source.name}.onnx"
        path.write_bytes(model.SerializeToString())
        LOGGER.info("%s: %d bytes", path, path.stat().st_size)


if __name__ == "__main__":
    main()
