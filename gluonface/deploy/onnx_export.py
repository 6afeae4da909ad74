"""MXNet nets as ONNX files, written with standard operators only, so that any ONNX runtime reads them.

Data flow: Symbol, parameters, input shapes -> `read_symbol` (static shapes, constants, BatchNorm folded) -> one
converter an operator (``CONVERTERS``) -> ``onnx.ModelProto`` -> checked, written whole.

Shapes are static, so MXNet's special codes of Reshape, its pooling conventions and the like need no counterpart: the
shape that comes out is known and written down. Where ONNX lacks an operator it is composed of others.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from .._compat import import_optional
from ..errors import DeployError, InputError
from ..files import write_atomically
from ..model_zoo import get_model
from ..model_zoo.keypoint_detector import KeypointDetector, TagDetector
from ..model_zoo.maskface import MaskFaceDetector
from ..model_zoo.retinaface_mesh import RetinaFaceMeshDetector
from ..model_zoo.store import read_params
from ..model_zoo.weights import find_weights
from .symbol import Graph, Node, Ref, batch_norm_terms, read_symbol, trace

onnx = import_optional("onnx", "deploy")

__all__ = ["CONVERTERS", "OPSETS", "export_onnx", "to_onnx"]

#: Operator sets that can be written. From 18 on the axes of reductions are an input; 19 brought DeformConv.
OPSETS = (17, 18, 19, 20)
#: The first operator set that has what an operator is written with, where it is not the first of all.
_FIRST_OPSET = {"_contrib_DeformableConvolution": 19, "_contrib_ModulatedDeformableConvolution": 19}
_LOWEST = float(np.finfo(np.float32).min)
_INT64 = np.iinfo(np.int64)


# ---- writing ---------------------------------------------------------------------------------------------------------


class _Writer:
    """Collects ONNX nodes; calling it appends one and gives the name of its result.

    Inputs are names, arrays (which become initializers) or None for an optional input that is left out.
    """

    def __init__(self, opset: int):
        self.opset = opset
        self.nodes: list = []
        self.initializers: dict[str, np.ndarray] = {}
        self.place = "graph"  # names of what is written begin with it
        self._names: set[str] = set()
        self._known: dict[tuple, str] = {}

    def name(self, wish: str) -> str:
        """A name that nothing has yet."""
        name, number = wish, 1
        while name in self._names:
            name, number = f"{wish}_{number}", number + 1
        self._names.add(name)
        return name

    def constant(self, array: np.ndarray, wish: str | None = None) -> str:
        """An initializer; the same small array is stored once."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.nbytes <= 256 and wish is None else None
        if key is not None and key in self._known:
            return self._known[key]
        name = self.name(wish or f"{self.place}_constant")
        self.initializers[name] = array
        if key is not None:
            self._known[key] = name
        return name

    def __call__(self, op: str, *inputs: str | np.ndarray | None, count: int = 1, **attributes):
        names = ["" if x is None else x if isinstance(x, str) else self.constant(x) for x in inputs]
        while names and not names[-1]:
            names.pop()
        outputs = [self.name(self.place) for _ in range(count)]
        self.nodes.append(onnx.helper.make_node(op, names, outputs, name=outputs[0], **attributes))
        return outputs[0] if count == 1 else tuple(outputs)

    def cast(self, x: str, dtype: str) -> str:
        """As another type, named as NumPy does."""
        return self("Cast", x, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """With another shape of as many elements."""
        return self("Reshape", x, _ints(shape))

    def slice(self, x: str, begin: int, end: int, axis: int) -> str:
        """Part of one axis."""
        return self("Slice", x, _ints([begin]), _ints([end]), _ints([axis]))

    def reduce(self, op: str, x: str, axes: Sequence[int], keepdims: bool = True) -> str:
        """A reduction; its axes were attributes once."""
        if op == "ReduceSum" or self.opset >= 18:
            return self(op, x, _ints(axes), keepdims=int(keepdims))
        return self(op, x, axes=list(axes), keepdims=int(keepdims))


def _ints(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, np.int64).reshape(-1)


def _number(value: float, dtype: str = "float32") -> np.ndarray:
    return np.asarray(value, dtype)


#: Converter: writer, node and the names of the node's inputs to the name of its result, or a tuple of names.
Converter = Callable[..., "str | tuple[str, ...]"]

#: MXNet's operators by name.
CONVERTERS: dict[str, Converter] = {}


def _converts(*ops: str):
    """Enter a converter in the table."""

    def enter(converter: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(ops, converter))
        return converter

    return enter


def _refuse(n: Node, what: str) -> DeployError:
    return DeployError(f"{n.op} {n.name}: {what} cannot be written as ONNX")


def _shaped(w: _Writer, n: Node, x: str, shape: Sequence[int]) -> str:
    """``x`` of a shape as the node's first output, whose shape may only have other axes of length 1."""
    return x if tuple(shape) == n.shape else w.reshape(x, n.shape)


# ---- element by element ----------------------------------------------------------------------------------------------


def _plain(op: str, **attributes) -> Converter:
    """One ONNX operator of all inputs."""
    return lambda w, n, *x: w(op, *x, **attributes)


def _no_op(w: _Writer, n: Node, *x: str) -> str:
    return x[0]


def _round(w, n, x):
    # Halves go away from zero.
    return w("Mul", w("Sign", x), w("Floor", w("Add", w("Abs", x), _number(0.5))))


def _gelu(w, n, x):
    half = w("Mul", x, _number(0.5))
    return w("Mul", half, w("Add", w("Erf", w("Mul", x, _number(math.sqrt(0.5)))), _number(1)))


_UNARY: dict[str, Converter] = {
    **{
        name: _plain(op)
        for name, op in {
            "abs": "Abs",
            "arccos": "Acos",
            "arccosh": "Acosh",
            "arcsin": "Asin",
            "arcsinh": "Asinh",
            "arctan": "Atan",
            "arctanh": "Atanh",
            "ceil": "Ceil",
            "cos": "Cos",
            "cosh": "Cosh",
            "erf": "Erf",
            "exp": "Exp",
            "floor": "Floor",
            "log": "Log",
            "negative": "Neg",
            "reciprocal": "Reciprocal",
            "relu": "Relu",
            "sigmoid": "Sigmoid",
            "sign": "Sign",
            "sin": "Sin",
            "sinh": "Sinh",
            "softsign": "Softsign",
            "sqrt": "Sqrt",
            "tan": "Tan",
            "tanh": "Tanh",
        }.items()
    },
    **dict.fromkeys(("BlockGrad", "MakeLoss", "_copy", "_identity_with_attr_like_rhs", "make_loss"), _no_op),
    "cbrt": lambda w, n, x: w("Mul", w("Sign", x), w("Pow", w("Abs", x), _number(1 / 3))),
    "degrees": lambda w, n, x: w("Mul", x, _number(180 / math.pi)),
    "expm1": lambda w, n, x: w("Sub", w("Exp", x), _number(1)),
    "log10": lambda w, n, x: w("Mul", w("Log", x), _number(1 / math.log(10))),
    "log1p": lambda w, n, x: w("Log", w("Add", x, _number(1))),
    "log2": lambda w, n, x: w("Mul", w("Log", x), _number(1 / math.log(2))),
    "logical_not": lambda w, n, x: w.cast(w("Not", w.cast(x, "bool")), n.dtypes[0]),
    "radians": lambda w, n, x: w("Mul", x, _number(math.pi / 180)),
    # Halves go down.
    "rint": lambda w, n, x: w("Ceil", w("Sub", x, _number(0.5))),
    "round": _round,
    "rsqrt": lambda w, n, x: w("Reciprocal", w("Sqrt", x)),
    "square": lambda w, n, x: w("Mul", x, x),
    **dict.fromkeys(("fix", "trunc"), lambda w, n, x: w("Mul", w("Sign", x), w("Floor", w("Abs", x)))),
}
CONVERTERS.update(_UNARY)


def _comparison(op: str) -> Converter:
    """0 or 1 in the type of the inputs."""
    return lambda w, n, a, b: w.cast(w(op, a, b), n.dtypes[0])


def _unequal(w, n, a, b):
    return w.cast(w("Not", w("Equal", a, b)), n.dtypes[0])


def _logical(op: str) -> Converter:
    return lambda w, n, a, b: w.cast(w(op, w.cast(a, "bool"), w.cast(b, "bool")), n.dtypes[0])


def _mod(w, n, a, b):
    # The sign is the divisor's, as in Python; that of ONNX is the dividend's.
    return w("Mod", w("Add", w("Mod", a, b, fmod=1), b), b, fmod=1)


def _hypot(w, n, a, b):
    return w("Sqrt", w("Add", w("Mul", a, a), w("Mul", b, b)))


#: Two arrays, in MXNet's words -> converter; the names in use follow from the words.
_BINARY: dict[str, Converter] = {
    "add": _plain("Add"),
    "sub": _plain("Sub"),
    "mul": _plain("Mul"),
    "div": _plain("Div"),
    "mod": _mod,
    "power": _plain("Pow"),
    "maximum": _plain("Max"),
    "minimum": _plain("Min"),
    "hypot": _hypot,
    "equal": _comparison("Equal"),
    "not_equal": _unequal,
    "greater": _comparison("Greater"),
    "greater_equal": _comparison("GreaterOrEqual"),
    "lesser": _comparison("Less"),
    "lesser_equal": _comparison("LessOrEqual"),
    "logical_and": _logical("And"),
    "logical_or": _logical("Or"),
    "logical_xor": _logical("Xor"),
}
_SCALAR_NAMES = {"add": "plus", "sub": "minus"}


def _with_scalar(binary: Converter, reverse: bool = False) -> Converter:
    def convert(w, n, x):
        if n.in_dtype() != n.dtypes[0]:
            x = w.cast(x, n.dtypes[0])
        scalar = w.constant(_number(n.number("scalar", 0), n.dtypes[0]))
        return binary(w, n, scalar, x) if reverse else binary(w, n, x, scalar)

    return convert


for _word, _binary in _BINARY.items():
    _same = f"elemwise_{_word}" if _word in ("add", "sub", "mul", "div") else f"_{_word}"
    CONVERTERS[_same] = CONVERTERS[f"broadcast_{_word}"] = _binary
    CONVERTERS[f"_{_SCALAR_NAMES.get(_word, _word)}_scalar"] = _with_scalar(_binary)
    if _word in ("sub", "div", "power", "mod"):
        CONVERTERS[f"_r{_SCALAR_NAMES.get(_word, _word)}_scalar"] = _with_scalar(_binary, reverse=True)
CONVERTERS["_grad_add"] = _BINARY["add"]


@_converts("add_n")
def _add_n(w, n, *x):
    return x[0] if len(x) == 1 else w("Sum", *x)


@_converts("Dropout")
def _dropout(w, n, x):
    if n.text("mode", "training") == "always":
        raise _refuse(n, "mode always")
    return x


@_converts("clip")
def _clip(w, n, x):
    return w("Clip", x, _number(n.number("a_min"), n.dtypes[0]), _number(n.number("a_max"), n.dtypes[0]))


@_converts("Cast", "amp_cast")
def _cast(w, n, x):
    return x if n.in_dtype() == n.dtypes[0] else w.cast(x, n.dtypes[0])


@_converts("where")
def _where(w, n, condition, x, y):
    if len(n.in_shape(0)) < len(n.shape):  # one condition for each row
        condition = w.reshape(condition, (-1, *[1] * (len(n.shape) - 1)))
    return w("Where", w.cast(condition, "bool"), x, y)


_ACTIVATIONS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softrelu": "Softplus",
    "softsign": "Softsign",
}


@_converts("Activation")
def _activation(w, n, x):
    return w(_ACTIVATIONS[n.text("act_type")], x)


@_converts("LeakyReLU")
def _leaky_relu(w, n, x, gamma=None):
    kind, slope = n.text("act_type", "leaky"), n.number("slope", 0.25)
    if kind == "prelu":
        return w("PRelu", x, w.reshape(gamma, (-1, *[1] * (len(n.shape) - 2))))
    if kind == "gelu":
        return _gelu(w, n, x)
    if kind == "rrelu":
        kind, slope = "leaky", (n.number("lower_bound", 0.125) + n.number("upper_bound", 0.334)) / 2
    if kind == "selu":
        return w("Selu", x, alpha=1.6732632423543772, gamma=1.0507009873554805)
    return w({"leaky": "LeakyRelu", "elu": "Elu"}[kind], x, alpha=slope)


@_converts("hard_sigmoid")
def _hard_sigmoid(w, n, x):
    return w("HardSigmoid", x, alpha=n.number("alpha", 0.2), beta=n.number("beta", 0.5))


@_converts("_contrib_div_sqrt_dim")
def _div_sqrt_dim(w, n, x):
    return w("Mul", x, _number(n.shape[-1] ** -0.5))


# ---- convolutions and dense layers -----------------------------------------------------------------------------------


def _window(n: Node, dims: int) -> dict:
    """Attributes that all convolutions share."""
    layout = n.text("layout", "NC")
    if not layout.startswith("NC"):
        raise _refuse(n, f"layout {layout}")
    pad = n.integers("pad", (0,) * dims)
    return {
        "kernel_shape": list(n.integers("kernel")),
        "strides": list(n.integers("stride", (1,) * dims)),
        "dilations": list(n.integers("dilate", (1,) * dims)),
        "pads": [*pad, *pad],
        "group": n.integer("num_group", 1),
    }


@_converts("Convolution")
def _convolution(w, n, x, weight, bias=None):
    return w("Conv", x, weight, bias, **_window(n, len(n.shape) - 2))


@_converts("Deconvolution")
def _deconvolution(w, n, x, weight, bias=None):
    dims = len(n.shape) - 2
    window = _window(n, dims)
    adj = n.integers("adj", (0,) * dims)
    if any(n.integers("target_shape", (0,) * dims)):
        # The shape is asked for; what is too much is cut on both sides, one pixel more at the beginning.
        spare = [
            stride * (i - 1) + dilation * (k - 1) + 1 - o
            for stride, i, dilation, k, o in zip(
                window["strides"], n.in_shape()[2:], window["dilations"], window["kernel_shape"], n.shape[2:]
            )
        ]
        pad, adj = [(s + 1) // 2 for s in spare], [s % 2 for s in spare]
        window["pads"] = [*pad, *pad]
    return w("ConvTranspose", x, weight, bias, output_padding=list(adj), **window)


@_converts("_contrib_DeformableConvolution")
def _deformable_convolution(w, n, x, offset, weight, bias=None):
    # MXNet reads 0 outside of [0, side), and repeats the last row and column up to there; ONNX fades out over a pixel
    # on every side. So places are moved: beyond the last row onto it, outside to where both read 0.
    window, sides = _window(n, 2), n.in_shape()[2:]
    kernel, cells = window["kernel_shape"], n.in_shape(1)[2:]
    taps = np.stack(np.meshgrid(*[np.arange(k) for k in kernel], indexing="ij"), -1).reshape(-1, 2)
    base = np.zeros((len(taps), 2, *cells), np.float32)
    for axis, (stride, dilation, pad) in enumerate(zip(window["strides"], window["dilations"], window["pads"])):
        along = np.arange(cells[axis]).reshape(-1, *[1] * (1 - axis))
        base[:, axis] = along * stride - pad + taps[:, axis, None, None] * dilation
    groups = n.integer("num_deformable_group", 1)
    base = np.tile(base.reshape(1, -1, *cells), (1, groups, 1, 1))
    limit = np.tile(np.float32(sides), groups * len(taps)).reshape(1, -1, 1, 1)
    place = w("Add", offset, base)
    inside = w("And", w("GreaterOrEqual", place, _number(0)), w("Less", place, limit))
    place = w("Where", inside, w("Min", place, limit - 1), _number(-16))
    return w("DeformConv", x, weight, w("Sub", place, base), bias, offset_group=groups, **window)


@_converts("_contrib_ModulatedDeformableConvolution")
def _modulated_deformable_convolution(w, n, x, offset, mask, weight, bias=None):
    groups = n.integer("num_deformable_group", 1)
    return w("DeformConv", x, weight, offset, bias, mask, offset_group=groups, **_window(n, 2))


@_converts("FullyConnected")
def _fully_connected(w, n, x, weight, bias=None):
    if n.flag("flatten", True):
        if len(n.in_shape()) != 2:
            x = w.reshape(x, (n.in_shape()[0], -1))
        return w("Gemm", x, weight, bias, transB=1)
    value = n.in_value(1)
    y = w("MatMul", x, w("Transpose", weight, perm=[1, 0]) if value is None else np.ascontiguousarray(value.T))
    return y if bias is None else w("Add", y, bias)


@_converts("dot")
def _dot(w, n, a, b):
    # Sums over the last axis of a and the first of b; transposed, over the first of a and the last of b.
    (shape_a, shape_b), transposed = (n.in_shape(0), n.in_shape(1)), (n.flag("transpose_a"), n.flag("transpose_b"))
    if transposed[0] and len(shape_a) > 1:
        a = w("Transpose", w.reshape(a, (shape_a[0], -1)), perm=[1, 0])
    else:
        a = w.reshape(a, (-1, shape_a[-1]))
    if transposed[1] and len(shape_b) > 1:
        b = w("Transpose", w.reshape(b, (-1, shape_b[-1])), perm=[1, 0])
    else:
        b = w.reshape(b, (shape_b[0], -1))
    return w.reshape(w("MatMul", a, b), n.shape)


def _swapped(w: _Writer, x: str, dims: int) -> str:
    """Last two axes exchanged."""
    return w("Transpose", x, perm=[*range(dims - 2), dims - 1, dims - 2])


@_converts("batch_dot", "_linalg_gemm2")
def _batch_dot(w, n, a, b):
    if n.integer("axis", -2) != -2:
        raise _refuse(n, f"axis {n.integer('axis')}")
    dims = len(n.in_shape())
    a = _swapped(w, a, dims) if n.flag("transpose_a") else a
    b = _swapped(w, b, dims) if n.flag("transpose_b") else b
    y, alpha = w("MatMul", a, b), n.number("alpha", 1)
    return y if alpha == 1 else w("Mul", y, _number(alpha))


@_converts("Embedding")
def _embedding(w, n, x, weight):
    return w("Gather", weight, _clipped(w, x, n.in_shape(1)[0]))


# ---- pooling and sampling --------------------------------------------------------------------------------------------


def _fit(n: Node, kernel, strides, pad) -> list[int]:
    """Padding after each axis so that the known number of windows fits exactly; may be negative."""
    return [(o - 1) * s + k - i - p for o, s, k, i, p in zip(n.shape[2:], strides, kernel, n.in_shape()[2:], pad)]


def _window_sizes(n: Node, kernel, strides, pad, include_pad: bool) -> np.ndarray:
    """How many elements each window's sum is divided by, as MXNet counts: padding, but nothing beyond it."""
    sizes = np.ones((), np.float32)
    for o, k, s, p, i in zip(n.shape[2:], kernel, strides, pad, n.in_shape()[2:]):
        begin = np.arange(o) * s - p
        end = np.minimum(begin + k, i + p)
        if not include_pad:
            begin, end = np.maximum(begin, 0), np.minimum(end, i)
        sizes = sizes[..., None] * (end - begin)
    return sizes.astype(np.float32)


@_converts("Pooling")
def _pooling(w, n, x):
    kind, dims = n.text("pool_type", "max"), len(n.shape) - 2
    layout = n.text("layout", "NC")
    if not layout.startswith("NC"):
        raise _refuse(n, f"layout {layout}")
    if n.flag("global_pool"):
        kernel, strides, pad = n.in_shape()[2:], (1,) * dims, (0,) * dims
        if kind in ("max", "avg"):
            return w("GlobalMaxPool" if kind == "max" else "GlobalAveragePool", x)
    else:
        kernel = n.integers("kernel")
        strides = n.integers("stride", (1,) * dims)
        # The convention "same" wants three zeros, whatever the number of axes.
        pad = n.integers("pad", (0,) * dims)[:dims]
    after = _fit(n, kernel, strides, pad)
    window = {"kernel_shape": list(kernel), "strides": list(strides)}
    if any(p >= k for k, p in zip(kernel, np.maximum(pad, after))):
        # Runtimes want padding smaller than the window.
        pads = _ints([0, 0, *pad, 0, 0, *np.maximum(after, 0)])
        x = w("Pad", x, pads, _number(_LOWEST if kind == "max" else 0))
        window["pads"], native = [0] * (2 * dims), False
    else:
        window["pads"], native = [*pad, *np.maximum(after, 0).tolist()], True
    if kind == "max":
        return w("MaxPool", x, **window)
    if kind == "avg":
        include = n.flag("count_include_pad", True)
        sizes = _window_sizes(n, kernel, strides, pad, include)
        if native and not include:
            return w("AveragePool", x, count_include_pad=0, **window)
        y = w("AveragePool", x, count_include_pad=1, **window)
        share = np.float32(math.prod(kernel)) / sizes
        return y if (share == 1).all() else w("Mul", y, share[None, None])
    power = n.integer("p_value", 2) if kind == "lp" else 1
    if power > 1:
        x = w("Pow", x, _number(power))
    y = w("AveragePool", x, count_include_pad=1, **window)
    y = w("Mul", y, _number(math.prod(kernel)))
    return w("Pow", y, _number(1 / power)) if power > 1 else y


@_converts("_contrib_AdaptiveAvgPooling2D")
def _adaptive_average(w, n, x):
    if n.shape[2:] == (1, 1):
        return w("GlobalAveragePool", x)
    # A mean over an interval of each axis is a product with a matrix.
    for axis, (side, out) in enumerate(zip(n.in_shape()[2:], n.shape[2:])):
        matrix = np.zeros((out, side), np.float32)
        for i in range(out):
            begin, end = i * side // out, -(-(i + 1) * side // out)
            matrix[i, begin:end] = 1 / (end - begin)
        x = w("MatMul", matrix, x) if axis == 0 else w("MatMul", x, np.ascontiguousarray(matrix.T))
    return x


@_converts("UpSampling")
def _up_sampling(w, n, *x):
    scale = n.integer("scale")
    if n.text("sample_type") == "bilinear":
        # A deconvolution, channel by channel, with the filter given.
        kernel, pad = 2 * scale - scale % 2, scale // 2
        return w(
            "ConvTranspose",
            *x,
            kernel_shape=[kernel] * 2,
            strides=[scale] * 2,
            pads=[pad] * 4,
            group=n.shape[1],
        )
    maps = []
    for i, name in enumerate(x):
        scales = np.float32([1, 1, *(o / side for o, side in zip(n.shape[2:], n.in_shape(i)[2:]))])
        maps.append(
            w(
                "Resize",
                name,
                None,
                scales,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        )
    if len(maps) == 1:
        return maps[0]
    return w("Sum", *maps) if n.text("multi_input_mode", "concat") == "sum" else w("Concat", *maps, axis=1)


@_converts("_contrib_BilinearResize2D")
def _bilinear_resize(w, n, x, like=None):
    # A side of one pixel is the first pixel in both modes.
    corners = n.flag("align_corners", True)
    return w(
        "Resize",
        x,
        None,
        None,
        _ints(n.shape),
        mode="linear",
        coordinate_transformation_mode="align_corners" if corners else "pytorch_half_pixel",
    )


@_converts("ROIPooling")
def _roi_pooling(w, n, x, rois):
    return w("MaxRoiPool", x, rois, pooled_shape=list(n.shape[2:]), spatial_scale=n.number("spatial_scale"))


@_converts("_contrib_ROIAlign")
def _roi_align(w, n, x, rois):
    if n.flag("position_sensitive"):
        raise _refuse(n, "position_sensitive")
    height, width = n.shape[2:]
    batch = w("Squeeze", w.slice(rois, 0, 1, 1), _ints([1]))
    return w(
        "RoiAlign",
        x,
        w.slice(rois, 1, 5, 1),
        w.cast(batch, "int64"),
        mode="avg",
        output_height=height,
        output_width=width,
        sampling_ratio=max(n.integer("sample_ratio", -1), 0),
        spatial_scale=n.number("spatial_scale"),
        coordinate_transformation_mode="half_pixel" if n.flag("aligned") else "output_half_pixel",
    )


# ---- normalisation ---------------------------------------------------------------------------------------------------


def _per_channel(dims: int, axis: int = 1) -> tuple[int, ...]:
    """Shape that lets (C,) meet an array of so many axes."""
    return (-1, *[1] * (dims - 1 - axis))


def _scale_and_shift(w: _Writer, n: Node, x: str, gamma: str, beta: str, axis: int = 1) -> str:
    shape = _per_channel(len(n.shape), axis)
    return w("Add", w("Mul", x, w.reshape(gamma, shape)), w.reshape(beta, shape))


@_converts("BatchNorm")
def _batch_norm(w, n, x, *_):
    dims = len(n.shape)
    scale, shift = (
        terms.astype(np.float32).reshape(_per_channel(dims, n.integer("axis", 1) % dims))
        for terms in batch_norm_terms(n)
    )
    return w("Add", w("Mul", x, scale), shift)


@_converts("GroupNorm")
def _group_norm(w, n, x, gamma, beta):
    groups, channels, one = n.integer("num_groups", 1), n.shape[1], np.ones(n.integer("num_groups", 1), np.float32)
    x = w.reshape(x, (n.shape[0], groups, -1))
    eps = n.number("eps", 1e-5)
    if n.in_shape(1)[0] == groups != channels:
        return w.reshape(w("InstanceNormalization", x, gamma, beta, epsilon=eps), n.shape)
    x = w.reshape(w("InstanceNormalization", x, one, 0 * one, epsilon=eps), n.shape)
    return _scale_and_shift(w, n, x, gamma, beta)


@_converts("InstanceNorm")
def _instance_norm(w, n, x, gamma, beta):
    return w("InstanceNormalization", x, gamma, beta, epsilon=n.number("eps", 1e-3))


@_converts("LayerNorm")
def _layer_norm(w, n, x, gamma, beta):
    dims, eps = len(n.shape), n.number("eps", 1e-5)
    axis = n.integer("axis", -1) % dims
    if axis == dims - 1:
        return w("LayerNormalization", x, gamma, beta, axis=-1, epsilon=eps)
    # ONNX normalises over all axes from this one on, MXNet over this one alone.
    x = w("Sub", x, w.reduce("ReduceMean", x, [axis]))
    variance = w.reduce("ReduceMean", w("Mul", x, x), [axis])
    x = w("Div", x, w("Sqrt", w("Add", variance, _number(eps))))
    return _scale_and_shift(w, n, x, gamma, beta, axis)


@_converts("L2Normalization")
def _l2_normalization(w, n, x):
    dims = len(n.shape)
    axes = {"instance": range(1, dims), "channel": [1], "spatial": range(2, dims)}[n.text("mode", "instance")]
    total = w.reduce("ReduceSum", w("Mul", x, x), list(axes))
    return w("Div", x, w("Sqrt", w("Add", total, _number(n.number("eps", 1e-10)))))


@_converts("LRN")
def _lrn(w, n, x):
    return w(
        "LRN",
        x,
        alpha=n.number("alpha", 1e-4),
        beta=n.number("beta", 0.75),
        bias=n.number("knorm", 2.0),
        size=n.integer("nsize"),
    )


def _softmax(op: str, sign: int = 1) -> Converter:
    def convert(w, n, x, *length):
        if length:
            raise _refuse(n, "use_length")
        factor = sign / n.number("temperature", 1)
        if factor != 1:
            x = w("Mul", x, _number(factor))
        x = w(op, x, axis=n.integer("axis", -1))
        return x if n.in_dtype() == n.dtypes[0] else w.cast(x, n.dtypes[0])

    return convert


CONVERTERS["softmax"] = _softmax("Softmax")
CONVERTERS["softmin"] = _softmax("Softmax", -1)
CONVERTERS["log_softmax"] = _softmax("LogSoftmax")


@_converts("SoftmaxActivation")
def _softmax_activation(w, n, x):
    # Its documentation says that an instance is everything but the first axis; what it does is the last axis.
    return w("Softmax", x, axis=1 if n.text("mode", "instance") == "channel" else -1)


# ---- shapes ----------------------------------------------------------------------------------------------------------


@_converts("Flatten", "Reshape", "expand_dims", "reshape_like", "squeeze")
def _reshape(w, n, x, *_):
    return _shaped(w, n, x, n.in_shape())


@_converts("transpose")
def _transpose(w, n, x):
    dims = len(n.shape)
    return w("Transpose", x, perm=[a % dims for a in n.integers("axes", range(dims)[::-1])])


@_converts("SwapAxis")
def _swap_axis(w, n, x):
    perm = list(range(len(n.shape)))
    a, b = n.integer("dim1", 0), n.integer("dim2", 0)
    perm[a], perm[b] = perm[b], perm[a]
    return w("Transpose", x, perm=perm)


@_converts("Concat")
def _concat(w, n, *x):
    return x[0] if len(x) == 1 else w("Concat", *x, axis=n.integer("dim", 1))


@_converts("stack")
def _stack(w, n, *x):
    axis = n.integer("axis", 0) % len(n.shape)
    return w("Concat", *(w("Unsqueeze", name, _ints([axis])) for name in x), axis=axis)


@_converts("SliceChannel", "_split_v2")
def _split(w, n, x):
    axis = n.integer("axis", 1 if n.op == "SliceChannel" else 0) % len(n.in_shape())
    if n.op == "SliceChannel" or n.integer("sections", 0):
        count = n.integer("num_outputs") if n.op == "SliceChannel" else n.integer("sections")
        sizes = [n.in_shape()[axis] // count] * count
    else:
        cuts = [*n.integers("indices", (0,)), n.in_shape()[axis]]
        sizes = [b - a for a, b in pairwise(cuts)]
    if len(sizes) == 1:
        parts = (x,)
    else:
        parts = w("Split", x, _ints(sizes), count=len(sizes), axis=axis)
    if not n.flag("squeeze_axis"):
        return parts
    return tuple(w("Squeeze", part, _ints([axis])) for part in parts)


@_converts("slice")
def _slice(w, n, x):
    begin, end = n.literal("begin"), n.literal("end")
    begin, end = (v if isinstance(v, (tuple, list)) else (v,) for v in (begin, end))
    step = n.literal("step", ())
    step = step if isinstance(step, (tuple, list)) else (step,)
    step = [s or 1 for s in (*step, *[1] * (len(begin) - len(step)))]
    starts = [(0 if s > 0 else _INT64.max) if b is None else b for b, s in zip(begin, step)]
    ends = [(_INT64.max if s > 0 else _INT64.min) if e is None else e for e, s in zip(end, step)]
    return w("Slice", x, _ints(starts), _ints(ends), _ints(range(len(begin))), _ints(step))


@_converts("slice_axis")
def _slice_axis(w, n, x):
    end = n.literal("end")
    return w.slice(x, n.integer("begin"), _INT64.max if end is None else end, n.integer("axis") % len(n.shape))


@_converts("slice_like")
def _slice_like(w, n, x, like=None):
    axes = [a for a in range(len(n.shape)) if n.shape[a] != n.in_shape()[a]]
    return w("Slice", x, _ints([0] * len(axes)), _ints([n.shape[a] for a in axes]), _ints(axes)) if axes else x


@_converts("Crop")
def _crop(w, n, x, like=None):
    size, whole = n.shape[2:], n.in_shape()[2:]
    offset = [(a - b) // 2 for a, b in zip(whole, size)] if n.flag("center_crop") else n.integers("offset", (0, 0))
    return w("Slice", x, _ints(offset), _ints([o + s for o, s in zip(offset, size)]), _ints([2, 3]))


@_converts("Pad")
def _pad(w, n, x):
    widths = n.integers("pad_width")
    pads = _ints([*widths[::2], *widths[1::2]])
    return w("Pad", x, pads, _number(n.number("constant_value", 0)), mode=n.text("mode"))


@_converts("tile")
def _tile(w, n, x):
    reps, shape = n.integers("reps", ()), n.in_shape()
    dims = max(len(reps), len(shape))
    if len(shape) < dims:
        x = w.reshape(x, (*[1] * (dims - len(shape)), *shape))
    return w("Tile", x, _ints([*[1] * (dims - len(reps)), *reps]))


@_converts("repeat")
def _repeat(w, n, x):
    axis, times, shape = n.integer("axis"), n.integer("repeats"), n.in_shape()
    if axis is None:
        x, shape, axis = w.reshape(x, (-1,)), (math.prod(shape),), 0
    return w("Gather", x, np.repeat(np.arange(shape[axis], dtype=np.int64), times), axis=axis % len(shape))


@_converts("broadcast_axis", "broadcast_like", "broadcast_to")
def _expand(w, n, x, like=None):
    return w("Expand", x, _ints(n.shape))


@_converts("reverse")
def _reverse(w, n, x):
    axes = n.integers("axis")
    return w("Slice", x, _ints([-1] * len(axes)), _ints([_INT64.min] * len(axes)), _ints(axes), _ints([-1] * len(axes)))


@_converts("depth_to_space")
def _depth_to_space(w, n, x):
    return w("DepthToSpace", x, blocksize=n.integer("block_size"), mode="DCR")


@_converts("space_to_depth")
def _space_to_depth(w, n, x):
    return w("SpaceToDepth", x, blocksize=n.integer("block_size"))


# ---- reductions, order, look-up --------------------------------------------------------------------------------------


def _reduction(op: str) -> Converter:
    def convert(w, n, x):
        dims = len(n.in_shape())
        axes = sorted({a % dims for a in n.integers("axis", range(dims))})
        if n.flag("exclude"):
            axes = [a for a in range(dims) if a not in axes]
        if not axes:  # all were excluded
            return x
        # An MXNet array has an axis at least, so nothing is left out where all are summed.
        whole = len(axes) == dims
        y = w.reduce(op, x, axes, keepdims=n.flag("keepdims") or whole)
        return w.reshape(y, n.shape) if whole and not n.flag("keepdims") else y

    return convert


CONVERTERS.update(
    {
        "sum": _reduction("ReduceSum"),
        "mean": _reduction("ReduceMean"),
        "max": _reduction("ReduceMax"),
        "min": _reduction("ReduceMin"),
        "prod": _reduction("ReduceProd"),
    }
)


@_converts("norm")
def _norm(w, n, x):
    # Not ReduceL1 and ReduceL2, which not every runtime reads rightly.
    if n.integer("ord", 2) == 1:
        return CONVERTERS["sum"](w, n, w("Abs", x))
    return w("Sqrt", CONVERTERS["sum"](w, n, w("Mul", x, x)))


def _arg(op: str) -> Converter:
    def convert(w, n, x):
        axis = n.integer("axis")
        if axis is None:
            x, axis = w.reshape(x, (-1,)), 0
        y = w.cast(w(op, x, axis=axis, keepdims=1), n.dtypes[0])
        return w.reshape(y, n.shape)

    return convert


CONVERTERS["argmax"] = _arg("ArgMax")
CONVERTERS["argmin"] = _arg("ArgMin")


@_converts("argmax_channel")
def _argmax_channel(w, n, x):
    return w.cast(w("ArgMax", x, axis=1, keepdims=0), n.dtypes[0])


def _ordered(w: _Writer, n: Node, x: str, k: int, ascending: bool) -> tuple[str, str, int, tuple[int, ...]]:
    """Values and indices (int64) of the first k along the node's axis; that axis; the shape of what was ordered."""
    shape = n.in_shape()
    axis = n.literal("axis", -1)
    if axis is None:
        x, axis, shape = w.reshape(x, (-1,)), 0, (math.prod(shape),)
    axis %= len(shape)
    k = min(k, shape[axis]) if k > 0 else shape[axis]
    values, indices = w("TopK", x, _ints([k]), count=2, axis=axis, largest=int(not ascending), sorted=1)
    return values, indices, axis, shape


@_converts("topk")
def _topk(w, n, x):
    values, indices, axis, shape = _ordered(w, n, x, n.integer("k", 1), n.flag("is_ascend"))
    kind = n.text("ret_typ", "indices")
    if kind == "mask":
        ones = w("Expand", _number(1, n.dtypes[0]), w("Shape", indices))
        return w.reshape(w("ScatterElements", np.zeros(shape, n.dtypes[0]), indices, ones, axis=axis), n.shape)
    if kind == "value":
        return values
    if kind == "both":
        return values, w.cast(indices, n.dtypes[1])
    return w.cast(indices, n.dtypes[0])


@_converts("sort")
def _sort(w, n, x):
    return _ordered(w, n, x, 0, n.flag("is_ascend", True))[0]


@_converts("argsort")
def _argsort(w, n, x):
    return w.cast(_ordered(w, n, x, 0, n.flag("is_ascend", True))[1], n.dtypes[0])


def _clipped(w: _Writer, index: str, length: int) -> str:
    """Indices as int64, those out of range replaced by the first or the last."""
    low, high = _number(0, "int64"), _number(length - 1, "int64")
    return w("Min", w("Max", w.cast(index, "int64"), low), high)


def _index(w: _Writer, n: Node, index: str, length: int, mode: str) -> str:
    if mode == "wrap":
        return w("Mod", w.cast(index, "int64"), _number(length, "int64"))
    return _clipped(w, index, length)


@_converts("take")
def _take(w, n, x, index):
    axis = n.integer("axis", 0) % len(n.in_shape())
    return w("Gather", x, _index(w, n, index, n.in_shape()[axis], n.text("mode", "clip")), axis=axis)


@_converts("pick")
def _pick(w, n, x, index):
    shape = n.in_shape()
    axis = n.literal("axis", -1)
    if axis is None:
        raise _refuse(n, "axis None")
    axis %= len(shape)
    index = w.reshape(_index(w, n, index, shape[axis], n.text("mode", "clip")), (*shape[:axis], 1, *shape[axis + 1 :]))
    return w.reshape(w("GatherElements", x, index, axis=axis), n.shape)


@_converts("gather_nd")
def _gather_nd(w, n, x, index):
    dims = len(n.in_shape(1))
    index = w("Transpose", w.cast(index, "int64"), perm=[*range(1, dims), 0])
    return w("GatherND", x, index)


@_converts("one_hot")
def _one_hot(w, n, index):
    values, depth = np.float32([n.number("off_value", 0), n.number("on_value", 1)]), n.integer("depth")
    # ONNX counts negative ones from the end, for MXNet there is nothing there.
    index = w.cast(index, "int64")
    index = w("Where", w("Less", index, _number(0, "int64")), _number(depth, "int64"), index)
    y = w("OneHot", index, _number(depth, "int64"), values, axis=-1)
    return y if n.dtypes[0] == "float32" else w.cast(y, n.dtypes[0])


# ---- boxes -----------------------------------------------------------------------------------------------------------


@_converts("_contrib_box_decode")
def _box_decode(w, n, x, anchors):
    first, second = w.slice(anchors, 0, 2, 2), w.slice(anchors, 2, 4, 2)
    if n.text("format", "center") == "corner":
        size = w("Sub", second, first)
        centre = w("Add", first, w("Mul", size, _number(0.5)))
    else:
        centre, size = first, second
    std = np.float32([n.number(f"std{i}", 1) for i in range(4)])
    centre = w("Add", w("Mul", w("Mul", w.slice(x, 0, 2, 2), std[:2]), size), centre)
    log_size = w("Mul", w.slice(x, 2, 4, 2), std[2:])
    if n.number("clip", -1) > 0:
        log_size = w("Min", log_size, _number(n.number("clip")))
    half = w("Mul", w("Mul", w("Exp", log_size), size), _number(0.5))
    return w("Concat", w("Sub", centre, half), w("Add", centre, half), axis=2)


@_converts("_contrib_box_nms")
def _box_nms(w, n, x):
    """Non-maximum suppression with MXNet's layout: kept rows first, best first, then rows of -1.

    The rows that the suppression looks at are put in order first, so nothing depends on the order in which a runtime's
    NonMaxSuppression names the rows it keeps. Classes that do not suppress each other are moved apart, which costs
    float32 some digits of their boxes' places in the suppression, not in the result.
    """
    (rows, width), batch = n.in_shape()[-2:], math.prod(n.in_shape()[:-2])
    topk = n.integer("topk", -1)
    k = min(topk, rows) if topk >= 0 else rows
    if k == 0:
        return x
    thresh, valid = n.number("overlap_thresh", 0.5), n.number("valid_thresh", 0)
    if thresh < 0:
        raise _refuse(n, f"overlap_thresh {thresh}")
    first, score_index, id_index = n.integer("coord_start", 2), n.integer("score_index", 1), n.integer("id_index", -1)
    in_format, out_format = n.text("in_format", "corner"), n.text("out_format", "corner")
    x = w.reshape(x, (batch, rows, width))

    def column(of: str, i: int) -> str:
        return w.reshape(w.slice(of, i, i + 1, 2), (batch, -1))

    scores = column(x, score_index)
    usable = w("Greater", scores, _number(valid))
    background = n.integer("background_id", -1)
    if id_index >= 0 and background >= 0:
        usable = w("And", usable, w("Not", w("Equal", column(x, id_index), _number(background))))
    scores, order = w("TopK", w("Where", usable, scores, _number(_LOWEST)), _ints([k]), count=2, axis=1)
    x = w("GatherND", x, w.reshape(order, (batch, k, 1)), batch_dims=1)
    usable = w("Greater", scores, _number(_LOWEST))

    boxes = w.slice(x, first, first + 4, 2)
    if id_index >= 0 and not n.flag("force_suppress"):
        # Class by class along x, further apart than any two boxes lie or are wide. Rows that are not looked at have no
        # say.
        looked_at = w("Where", w.reshape(usable, (batch, k, 1)), boxes, _number(0))
        reach = w.reduce("ReduceMax", w("Abs", looked_at), [1, 2])
        shift = w("Mul", w.slice(x, id_index, id_index + 1, 2), w("Add", w("Mul", reach, _number(3)), _number(1)))
        along = np.float32([1, 0, 1, 0] if in_format == "corner" else [1, 0, 0, 0])
        boxes = w("Add", boxes, w("Mul", shift, along))
    kept = w(
        "NonMaxSuppression",
        boxes,
        w.reshape(scores, (batch, 1, k)),
        _ints([k]),
        np.float32([min(thresh, 1)]),
        np.float32([max(valid, _LOWEST / 2)]),
        center_point_box=int(in_format == "center"),
    )
    # Triples of picture, class and row to a mask (B, k).
    place = w("Gather", kept, _ints([0, 2]), axis=1)
    ones = w("Expand", _number(1), w("Shape", w("Gather", kept, _number(0, "int64"), axis=1)))
    mask = w("ScatterND", np.zeros((batch, k), np.float32), place, ones)
    # Those kept come first and stay in order.
    mask, order = w("TopK", w("Mul", mask, np.arange(k, 0, -1, dtype=np.float32)), _ints([k]), count=2, axis=1)
    x = w("GatherND", x, w.reshape(order, (batch, k, 1)), batch_dims=1)
    if in_format != out_format:
        x = _converted(w, x, first, width, in_format)
    is_kept = w.reshape(w("Greater", mask, _number(0)), (batch, k, 1))
    x = w("Where", is_kept, x, _number(-1))
    if k < rows:
        x = w("Concat", x, np.full((batch, rows - k, width), -1, np.float32), axis=1)
    return _shaped(w, n, x, (batch, rows, width))


def _converted(w: _Writer, rows: str, first: int, width: int, in_format: str) -> str:
    """Rows (B, k, width) with boxes in the other format; where the first coordinate is negative MXNet leaves them."""
    boxes = w.slice(rows, first, first + 4, 2)
    a, b = w.slice(boxes, 0, 2, 2), w.slice(boxes, 2, 4, 2)
    if in_format == "corner":
        pair = w("Mul", w("Add", a, b), _number(0.5)), w("Sub", b, a)
    else:
        half = w("Mul", b, _number(0.5))
        pair = w("Sub", a, half), w("Add", a, half)
    negative = w("Less", w.slice(boxes, 0, 1, 2), _number(0))
    boxes = w("Where", negative, boxes, w("Concat", *pair, axis=2))
    parts = [w.slice(rows, 0, first, 2)] if first else []
    parts.append(boxes)
    if first + 4 < width:
        parts.append(w.slice(rows, first + 4, width, 2))
    return w("Concat", *parts, axis=2)


# ---- whole nets ------------------------------------------------------------------------------------------------------


def to_onnx(
    symbol,
    params: Mapping,
    shapes: Mapping[str, Sequence[int]],
    *,
    opset: int = 17,
    output_names: Sequence[str] | None = None,
    doc: str = "",
):
    """A symbol and its parameters as an ONNX model with static shapes.

    Parameters
    ----------
    symbol : mx.sym.Symbol
    params : mapping of str to NDArray or ndarray
        As of a ``.params`` file, with or without "arg:" and "aux:".
    shapes : mapping of str to sequence of int
        Shape of every input; inputs are float32 and keep their names.
    opset : int
        One of ``OPSETS``; raised to 19 where the net has deformable convolutions.
    output_names : sequence of str, optional
        By default MXNet's names.
    doc : str
        The model's ``doc_string``.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    DeployError
        Operators, or their options, that cannot be written; all operators are named at once.
    InputError
        Another opset, a wrong number of names, parameters that do not fit.
    """
    if opset not in OPSETS:
        raise InputError(f"expected opset among {', '.join(map(str, OPSETS))}, got {opset}")
    names = list(symbol.list_outputs() if output_names is None else output_names)
    graph = read_symbol(symbol, params, shapes)
    if len(names) != len(graph.outputs):
        raise InputError(f"expected {len(graph.outputs)} output names, one for each output, got {len(names)}: {names}")
    if output_names is not None and len({*names, *shapes}) < len(names) + len(shapes):
        raise InputError(f"expected output names that differ from each other and from the inputs', got {names}")
    graph.require(CONVERTERS, "ONNX")
    graph.fold_batch_norms()
    writer = _Writer(max([opset, *(_FIRST_OPSET.get(op, 0) for op in graph.operators())]))
    values: dict[Ref, str] = {(node, 0): writer.name(node.name) for node in graph.inputs}
    # MXNet's names may occur twice.
    outputs = [writer.name(name) for name in names]
    _write_nodes(writer, graph, values)
    _name_outputs(writer, [_value(values, ref) for ref in graph.outputs], outputs)

    def info(name: str, ref: Ref):
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(ref[0].dtypes[ref[1]]))
        return onnx.helper.make_tensor_value_info(name, kind, ref[0].shapes[ref[1]])

    read = {name for node in writer.nodes for name in node.input}
    content = onnx.helper.make_graph(
        writer.nodes,
        "gluonface",
        [info(node.name, (node, 0)) for node in graph.inputs],
        [info(name, ref) for name, ref in zip(outputs, graph.outputs)],
        [onnx.numpy_helper.from_array(a, name) for name, a in writer.initializers.items() if name in read],
    )
    opsets = [onnx.helper.make_opsetid("", writer.opset)]
    return onnx.helper.make_model(
        content,
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
        producer_name="gluonface",
        doc_string=doc,
    )


def _write_nodes(writer: _Writer, graph: Graph, values: dict[Ref, str]) -> None:
    """Write every node and enter the name of every value; those of the inputs are there."""
    for node in graph:
        if node.op == "null":
            if not node.is_input:
                values[node, 0] = writer.constant(node.value, node.name)
            continue
        writer.place = node.name
        results = CONVERTERS[node.op](writer, node, *(_value(values, ref) for ref in node.inputs))
        for k, name in enumerate((results,) if isinstance(results, str) else results):
            values[node, k] = name


def _value(values: Mapping[Ref, str], ref: Ref) -> str:
    if ref not in values:  # such as the mask of a Dropout
        raise _refuse(ref[0], f"output {ref[1]}, which is there for training,")
    return values[ref]


def _name_outputs(writer: _Writer, values: Sequence[str], names: Sequence[str]) -> None:
    """Give the graph's outputs their names."""
    made = {name for node in writer.nodes for name in node.output}
    changes: dict[str, str] = {}
    for value, name in zip(values, names):
        # An input, a constant or what is another output already is copied.
        if value not in made or value in changes:
            value = writer("Identity", value)
        changes[value] = name
    for node in writer.nodes:
        inputs, outputs = ([changes.get(name, name) for name in field] for field in (node.input, node.output))
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)


#: What nets of a task give, whole and raw, in order; a net may give the first few only.
_OUTPUTS = {
    ("detection", True): ("ids", "scores", "bboxes", "landmarks", "pose"),
    ("detection", False): ("cls_preds", "box_preds", "landmark_preds", "pose_cells"),
    ("landmarks", True): ("landmarks", "scores"),
    ("landmarks", False): ("heatmaps",),
}
#: Raw outputs of detectors that have no anchors, or no points of each anchor.
_MAPS = {
    KeypointDetector: ("scale_map", "maps"),
    TagDetector: ("heatmaps", "tags"),
    MaskFaceDetector: ("cls_preds", "box_preds", *(f"level{k}" for k in range(2, 7))),
}


def _names_of_outputs(net, whole: bool) -> tuple[str, ...]:
    """What a net gives, in order; it may give the first few only."""
    names = _OUTPUTS[net.facts.task, whole]
    if isinstance(net, RetinaFaceMeshDetector):
        if whole:
            return (*names[:4], "mesh")
        cells = () if net.network.mesh_head is None else ("mesh_cells",)
        return (*names[:3], *cells, "first_cls_preds", "first_box_preds")
    return names if whole else _MAPS.get(type(net), names)


def export_onnx(
    net_or_name,
    out_path: str | os.PathLike,
    *,
    size: int | tuple[int, int] | None = None,
    batch: int = 1,
    whole: bool = True,
    opset: int = 17,
    root: str | os.PathLike | None = None,
) -> Path:
    """Write a net of the zoo as an ONNX file.

    Its input is ``data`` (batch, 3, H, W), float32, RGB, normalised: ``(rgb / 255 - mean) / std``. What is known about
    the net is in the file's metadata: ``model``, ``task``, ``licence``, ``terms``, ``source_sha256``, ``mean``,
    ``std``, ``colour_order``, ``size_hw``, ``scheme``; of a cascade ``scoring``, the head whose scores count.

    Parameters
    ----------
    net_or_name : AnchorDetector, KeypointDetector, TagDetector, LandmarkNet or str
        A net with parameters, or the name of a trained model.
    out_path : path
    size : int or (H, W), optional
        In pixels; ``net.facts.size`` by default.
    batch : int
    whole : bool
        With decoding and non-maximum suppression: ``ids``, ``scores``, ``bboxes``, ``landmarks`` and, where it has it,
        ``pose`` or ``mesh`` of a detector, ``landmarks`` and ``scores`` of a landmark net. Otherwise raw:
        ``cls_preds``, ``box_preds``, ``landmark_preds`` and ``pose_cells``, with meshes ``mesh_cells`` and the first
        head's ``first_cls_preds`` and ``first_box_preds``; of KPNet ``scale_map`` and ``maps``, where it finds points
        in, or, with tags, ``heatmaps`` and ``tags``; of MaskFace ``cls_preds``, ``box_preds`` and the levels that its
        keypoint head looks at, ``level2`` to ``level6``; of a landmark net ``heatmaps``.
    opset : int
        See `to_onnx`.
    root : path, optional
        Folder searched for weights before the package's own.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    ModelNotFoundError, WeightsError
        No such model, or no weights.
    DeployError
        The net cannot be written.
    InputError
        Size or batch out of range.
    """
    net = get_model(net_or_name, pretrained=True, root=root) if isinstance(net_or_name, str) else net_or_name
    facts = net.facts
    size = facts.size if size is None else size
    height, width = (size, size) if np.isscalar(size) else size
    if min(height, width, batch) < 1:
        raise InputError(f"expected size and batch of 1 or more, got size {size}, batch {batch}")
    if whole and facts.task == "landmarks" and (height, width) != (facts.size, facts.size):
        raise InputError(f"{facts.name}: expected the size of the net's crop, {facts.size}, got {height}x{width}")
    symbol, params = trace(net if whole else net.network)
    names = _names_of_outputs(net, whole)
    model = to_onnx(
        symbol,
        params,
        {"data": (batch, 3, height, width)},
        opset=opset,
        output_names=names[: len(symbol.list_outputs())],
        doc=f"{facts.name}: {'whole net' if whole else 'raw predictions'}; input (rgb / 255 - mean) / std",
    )
    model.graph.name = facts.name
    from_zoo = _has_weights_of_zoo(net, root)
    metadata = {
        "model": facts.name,
        "task": facts.task,
        "licence": facts.licence if from_zoo else "that of the weights, which did not come with gluonface",
        "terms": facts.terms if from_zoo else "",
        "source_sha256": facts.sha256 if from_zoo else "",
        "mean": json.dumps(facts.mean),
        "std": json.dumps(facts.std),
        "colour_order": "RGB",
        "size_hw": json.dumps([height, width]),
        "scheme": facts.scheme or str(getattr(net, "num_points", 5)),
    }
    if isinstance(net, RetinaFaceMeshDetector) and net.network.cascade:
        metadata["scoring"] = net.scoring
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path = Path(out_path)
    write_atomically(path, model.SerializeToString())
    return path


def _has_weights_of_zoo(net, root) -> bool:
    """Whether a net's parameters are those that its facts tell of; a net may have been trained further."""
    if not net.facts.trained:
        return False
    arrays = read_params(find_weights(net.facts, root))
    params = net._collect_params_with_prefix()
    return set(arrays) == set(params) and all(
        np.array_equal(params[name].data(params[name].list_ctx()[0]).asnumpy(), array) for name, array in arrays.items()
    )
