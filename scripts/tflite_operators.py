"""TFLite operators as `convert_mediapipe.py` translates them to ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tflite
from tflite_graph import Converter


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
    """Padding of a window operator as ONNX wants it: top, left, bottom, right."""
    if option.Padding() == tflite.Padding.VALID:
        return [0, 0, 0, 0]
    (height, width), (rows, columns) = c.shape(source)[1:3], c.shape(output)[1:3]
    top, bottom = same_pads(height, rows, option.StrideH(), kernel[0], dilation[0])
    left, right = same_pads(width, columns, option.StrideW(), kernel[1], dilation[1])
    return [top, left, bottom, right]


def convolution(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    """Plain and depthwise convolution, with its fused activation."""
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
    """MediaPipe's own transposed convolution with bias."""
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
    """Average and maximum pooling."""
    option = options(operator, tflite.Pool2DOptions)
    kernel = [option.FilterHeight(), option.FilterWidth()]
    kind = "AveragePool" if c.kind(operator) == "AVERAGE_POOL_2D" else "MaxPool"
    c.node(
        kind, [c.value(inputs[0])], name, kernel_shape=kernel, strides=[option.StrideH(), option.StrideW()],
        pads=pads(c, option, inputs[0], output, kernel, [1, 1]),
    )  # fmt: skip


def arithmetic(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    """Addition and multiplication, with their fused activation."""
    multiply = c.kind(operator) == "MUL"
    option = options(operator, tflite.MulOptions if multiply else tflite.AddOptions)
    c.node("Mul" if multiply else "Add", [c.value(i) for i in inputs[:2]], name + ".linear")
    c.activation(name + ".linear", option.FusedActivationFunction(), name)


def unary(onnx_kind: str) -> Callable[..., None]:
    """Converter of an operator that ONNX has under another name."""

    def build(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
        c.node(onnx_kind, [c.value(inputs[0])], name)

    return build


def pad(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    """Zeros around an image."""
    amounts = c.constants[inputs[1]][[0, 3, 1, 2]]
    c.node(
        "Pad",
        [c.value(inputs[0]), c.initializer(name + ".pads", amounts.T.reshape(-1).astype(np.int64))],
        name,
    )


def reshape(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    """Flatten an image, channels last, as TFLite lays it out."""
    channels_last = c.node("Transpose", [c.value(inputs[0])], name + ".last", perm=[0, 2, 3, 1])
    c.node(
        "Reshape", [channels_last, c.initializer(name + ".shape", np.array(c.shape(output), np.int64))], name
    )


def resize(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    """Bilinear resizing."""
    option = options(operator, tflite.ResizeBilinearOptions)
    half_pixel = "half_pixel" if option.HalfPixelCenters() else "asymmetric"
    mode = "align_corners" if option.AlignCorners() else half_pixel
    size = c.initializer(name + ".size", np.array(c.first(output), np.int64))
    c.node(
        "Resize", [c.value(inputs[0]), "", "", size], name, mode="linear", coordinate_transformation_mode=mode
    )


def concatenate(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    """Concatenation along any axis."""
    axis = options(operator, tflite.ConcatenationOptions).Axis()
    if len(c.shape(output)) == 4:
        axis = {0: 0, 1: 2, 2: 3, 3: 1}[axis % 4]
    c.node("Concat", [c.value(i) for i in inputs], name, axis=axis)


def depth_to_space(c: Converter, operator: Any, inputs: list[int], output: int, name: str) -> None:
    """Channels to pixels."""
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
