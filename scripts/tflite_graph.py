"""The ONNX graph of a TFLite model as it grows: tensors, constants (sparse ones, too), nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
MIN_COMPRESSED = 512  # smaller constants stay float32: nothing to gain
MIN_INT8 = 60_000  # 8 bits hurt in the small first layers, and save little there
TENSOR_TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}
SEGMENT_TYPES = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}


@dataclass
class Converter:
    """Builds the ONNX graph of one TFLite model; `operators` has a function for each kind of operator."""

    data: bytes
    storage: str
    operators: Mapping[str, Callable[..., None]]
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
        if kind not in self.operators:
            raise NotImplementedError(f"TFLite operator {kind} has no conversion yet; add it to OPERATORS.")
        self.operators[kind](self, operator, inputs, output, f"t{output}")
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


def densify(values: np.ndarray, sparsity: Any, shape: list[int]) -> np.ndarray:
    """Expand a sparse tensor (TFLite schema, `SparsityParameters`) to a dense array of `shape`."""
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
            parents = [[*parent, i] for parent in parents for i in range(level.DenseSize())]
            continue
        segments = union_vector(level.ArraySegments(), level.ArraySegmentsType())
        indices = union_vector(level.ArrayIndices(), level.ArrayIndicesType())
        parents = [
            [*parent, int(i)]
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
