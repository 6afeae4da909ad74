"""MXNet's operators in Relax: one converter each, in the table `CONVERTERS`.

A converter takes the `Emitter` and the `Node` and gives the value of its output, or a list of values. Attribute
defaults are MXNet's. Numbers that MXNet gives as float32, such as indices and comparisons, stay float32. Names are
those that MXNet writes into a symbol; its aliases never get there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import DeployError
from . import convolution, kernels
from .passes import NORMALISE
from .relax import CHANNELS_FIRST, CHANNELS_LAST, Emitter, Last, checked_axis, relax
from .symbol import Node, batch_norm_terms

__all__ = ["CONVERTERS"]

op = relax.op
#: Converter by MXNet's name of the operator.
CONVERTERS: dict[str, Callable] = {}


def converts(*names: str):
    """Enter a converter in the table."""

    def enter(converter):
        for name in names:
            CONVERTERS[name] = converter
        return converter

    return enter


def stored_axis(axis: int, channels_last: bool) -> int:
    """Where an axis of MXNet's order lies in the stored one."""
    return CHANNELS_LAST.index(axis) if channels_last else axis


def stored_shape(shape: Sequence[int], channels_last: bool) -> list[int]:
    """A shape in the stored order."""
    return [shape[axis] for axis in CHANNELS_LAST] if channels_last else list(shape)


def _follows(e: Emitter, node: Node, *which: int) -> bool:
    """Whether an operator from maps to a map should work channels-last: where one of its maps is stored so."""
    inputs = [node.inputs[i] for i in which] if which else node.inputs
    return len(node.shape) == 4 and any(e.is_last(ref) for ref in inputs)


def _placed(result, channels_last: bool):
    return Last(result) if channels_last else result


def _vector(e: Emitter, node: Node, i: int, shape: Sequence[int]):
    """Input ``i``, such as a value a channel, in a shape that broadcasts."""
    value = node.in_value(i)
    if value is not None:
        return e.constant(value.reshape(shape))
    return e.call(op.reshape(e.plain(node.inputs[i]), list(shape)))


def _along(rank: int, axis: int, channels_last: bool = False) -> list[int]:
    """The shape of a vector along one of MXNet's axes."""
    shape = [1] * rank
    shape[stored_axis(axis, channels_last)] = -1
    return shape


# ---- convolutions and dense layers -----------------------------------------------------------------------------------


def _per_channel(e: Emitter, array: np.ndarray, rank: int, channels_last: bool):
    """An array (C,) that broadcasts along the channels."""
    return e.constant(array.reshape([-1] if channels_last else [1, -1, *[1] * (rank - 2)]))


def _refuse(node: Node, what: str) -> None:
    raise DeployError(f"{node.name}: {node.op} with {what} cannot be written as Relax yet")


def _spatial(node: Node, key: str, default: int) -> tuple[int, ...]:
    count = len(node.in_shape()) - 2
    value = node.integers(key, (default,) * count)
    return value * count if len(value) == 1 and count > 1 else value


@converts("Convolution")
def _convolution(e: Emitter, node: Node):
    if not (node.text("layout") or "NCHW").startswith("NC"):
        _refuse(node, f"layout {node.text('layout')}")
    stride, pad, dilate = _spatial(node, "stride", 1), _spatial(node, "pad", 0), _spatial(node, "dilate", 1)
    groups, rank = node.integer("num_group", 1), len(node.shape)
    padding = [*pad, *pad]
    bias = None if node.flag("no_bias") else node.in_value(2)
    weight = node.in_value(1)
    if rank == 3:
        result = e.call(
            op.nn.conv1d(
                e.plain(node.inputs[0]),
                e.plain(node.inputs[1]),
                strides=stride[0],
                padding=[pad[0], pad[0]],
                dilation=dilate[0],
                groups=groups,
            )
        )
        return _with_bias(e, node, result, bias, False)
    if rank != 4:
        _refuse(node, f"{rank - 2} spatial axes")
    if not e.prefer_last or weight is None or (bias is None and not node.flag("no_bias")):
        result = op.nn.conv2d(
            e.plain(node.inputs[0]),
            e.plain(node.inputs[1]),
            strides=stride,
            padding=padding,
            dilation=dilate,
            groups=groups,
        )
        return _with_bias(e, node, e.call(result), bias, False)
    settings = {"stride": stride, "pad": pad, "dilate": dilate}
    if groups == 1:
        source = node.inputs[0][0]
        if source.op == NORMALISE and (source.in_value(2) == 1).all():  # the rest of it is in the weights
            canvas, mean = e.plain(source.inputs[0]), source.in_value(1)
            return Last(convolution.convolution(e, canvas, weight, bias, subtract=mean, **settings))
        return Last(convolution.convolution(e, e.last(node.inputs[0]), weight, bias, **settings))
    if groups == weight.shape[0] == node.in_shape()[1]:
        return Last(convolution.depthwise(e, e.last(node.inputs[0]), weight, bias, **settings))
    result = op.nn.conv2d(
        e.last(node.inputs[0]),
        e.constant(np.ascontiguousarray(weight.transpose(2, 3, 1, 0))),
        strides=stride,
        padding=padding,
        dilation=dilate,
        groups=groups,
        data_layout="NHWC",
        kernel_layout="HWIO",
    )
    return _with_bias(e, node, e.call(result), bias, True)


def _with_bias(e: Emitter, node: Node, result, bias, channels_last: bool):
    """Add the third input, where there is one."""
    rank = len(node.shape)
    if not node.flag("no_bias", node.op != "Convolution"):
        if bias is not None:
            term = _per_channel(e, bias, rank, channels_last)
        else:
            term = op.reshape(e.plain(node.inputs[2]), [-1] if channels_last else [1, -1, *[1] * (rank - 2)])
        result = op.add(result, term)
    return Last(result) if channels_last else result


@converts("Deconvolution")
def _deconvolution(e: Emitter, node: Node):
    if not (node.text("layout") or "NC").startswith("NC"):
        _refuse(node, f"layout {node.text('layout')}")
    if len(node.shape) != 4:
        _refuse(node, f"{len(node.shape) - 2} spatial axes")
    kernel, stride, pad = _spatial(node, "kernel", 1), _spatial(node, "stride", 1), _spatial(node, "pad", 0)
    adj, groups = _spatial(node, "adj", 0), node.integer("num_group", 1)
    if set(_spatial(node, "dilate", 1)) != {1}:  # nothing to test it against: MXNet has none on CPU
        _refuse(node, "dilate")
    if node.integers("target_shape"):
        # MXNet then chooses pad and adj itself so that the shape comes out.
        target = node.shape[2:]
        total = [s * (i - 1) + k - t for s, i, k, t in zip(stride, node.in_shape()[2:], kernel, target)]
        pad, adj = tuple((t + 1) // 2 for t in total), tuple(t % 2 for t in total)
    return _transposed_convolution(
        e, node, stride, pad, adj, groups, None if node.flag("no_bias", True) else node.in_value(2)
    )


def _transposed_convolution(e: Emitter, node: Node, stride, pad, adj, groups: int, bias):
    weight = node.in_value(1)
    if e.prefer_last and weight is not None and (bias is not None or node.flag("no_bias", True)):
        settings = {"stride": stride, "pad": pad, "out_hw": node.shape[2:], "groups": groups}
        return Last(convolution.deconvolution(e, e.last(node.inputs[0]), weight, bias, **settings))
    result = op.nn.conv2d_transpose(
        e.plain(node.inputs[0]),
        e.plain(node.inputs[1]),
        strides=stride,
        padding=[*pad, *pad],
        output_padding=adj,
        groups=groups,
    )
    return _with_bias(e, node, e.call(result), bias, False)


@converts(NORMALISE)
def _normalise(e: Emitter, node: Node):
    canvas, mean, scale = (e.plain(ref) for ref in node.inputs)
    shifted = e.call(op.subtract(e.call(op.astype(canvas, "float32")), mean))
    return Last(op.multiply(shifted, scale))


@converts("BatchNorm", "_contrib_SyncBatchNorm")
def _batch_norm(e: Emitter, node: Node):
    scale, shift = batch_norm_terms(node)
    rank = len(node.shape)
    axis = checked_axis(node.integer("axis", 1), rank)
    last = rank == 4 and e.is_last(node.inputs[0])
    shape = [1] * rank
    shape[stored_axis(axis, last)] = -1
    x = e.get(node.inputs[0], last)
    result = op.add(
        e.call(op.multiply(x, e.constant(scale.reshape(shape)))), e.constant(shift.reshape(shape).astype(np.float32))
    )
    return Last(result) if last else result


@converts("FullyConnected")
def _fully_connected(e: Emitter, node: Node):
    x = e.plain(node.inputs[0])
    if node.flag("flatten", True):
        x = op.reshape(x, [node.in_shape()[0], int(np.prod(node.in_shape()[1:]))])
    weight = node.in_value(1)
    transposed = (
        e.constant(np.ascontiguousarray(weight.T)) if weight is not None else op.permute_dims(e.plain(node.inputs[1]))
    )
    result = e.call(op.matmul(e.call(x), transposed))
    return result if node.flag("no_bias") else op.add(result, e.plain(node.inputs[2]))


# ---- element by element ----------------------------------------------------------------------------------------------


def _unary(compute):
    def convert(e: Emitter, node: Node):
        last = _follows(e, node, 0)
        return _placed(compute(e, node, e.get(node.inputs[0], last)), last)

    return convert


def _number(e: Emitter, value: float):
    return e.constant(np.float32(value))


def _const(value: float, dtype: str = "float32"):
    # Named, since Relax would make 64 bits 32.
    return relax.const(np.asarray(value, dtype), dtype)


def _softplus(x):
    # log(1 + exp(x)) that does not overflow: max(x, 0) + log(1 + exp(-|x|)).
    return op.add(op.nn.relu(x), op.log(op.add(_const(1), op.exp(op.negative(op.abs(x))))))


def _softsign(x):
    return op.divide(x, op.add(_const(1), op.abs(x)))


def _round_away(x):
    return op.multiply(op.sign(x), op.floor(op.add(op.abs(x), _const(0.5))))


def _cube_root(x):
    return op.multiply(op.sign(x), op.power(op.abs(x), _const(1 / 3)))


def _scaled(factor: float, function=None):
    return lambda x: op.multiply(function(x) if function else x, _const(factor))


_ACTIVATIONS = {
    "relu": op.nn.relu,
    "sigmoid": op.sigmoid,
    "tanh": op.tanh,
    "softrelu": _softplus,
    "softsign": _softsign,
}


@converts("Activation")
@_unary
def _activation(e: Emitter, node: Node, x):
    return _ACTIVATIONS[node.text("act_type", "relu")](x)


for _name, _function in {
    "abs": op.abs,
    "arccos": op.acos,
    "arccosh": op.acosh,
    "arcsin": op.asin,
    "arcsinh": op.asinh,
    "arctan": op.atan,
    "arctanh": op.atanh,
    "cbrt": _cube_root,
    "ceil": op.ceil,
    "cos": op.cos,
    "cosh": op.cosh,
    "degrees": _scaled(180 / np.pi),
    "erf": op.erf,
    "exp": op.exp,
    "expm1": lambda x: op.subtract(op.exp(x), _const(1)),
    "fix": op.trunc,
    "floor": op.floor,
    "log": op.log,
    "log10": _scaled(1 / np.log(10), op.log),
    "log1p": lambda x: op.log(op.add(x, _const(1))),
    "log2": _scaled(1 / np.log(2), op.log),
    "negative": op.negative,
    "ones_like": op.ones_like,
    "radians": _scaled(np.pi / 180),
    "reciprocal": lambda x: op.divide(_const(1), x),
    "relu": op.nn.relu,
    # Halves go down here and away from zero in `round`.
    "rint": lambda x: op.ceil(op.subtract(x, _const(0.5))),
    "round": _round_away,
    "rsqrt": op.rsqrt,
    "sigmoid": op.sigmoid,
    "sign": op.sign,
    "sin": op.sin,
    "sinh": op.sinh,
    "softsign": _softsign,
    "sqrt": op.sqrt,
    "square": op.square,
    "tan": op.tan,
    "tanh": op.tanh,
    "trunc": op.trunc,
    "zeros_like": op.zeros_like,
}.items():
    CONVERTERS[_name] = _unary(lambda e, node, x, function=_function: function(x))


@converts("_copy", "BlockGrad", "make_loss", "MakeLoss", "Dropout")
@_unary
def _identity(e: Emitter, node: Node, x):
    return x


@converts("Cast", "amp_cast")
@_unary
def _cast(e: Emitter, node: Node, x):
    return x if node.in_dtype() == node.dtypes[0] else op.astype(x, node.dtypes[0])


@converts("clip")
@_unary
def _clip(e: Emitter, node: Node, x):
    return op.clip(x, node.number("a_min"), node.number("a_max"))


@converts("hard_sigmoid")
@_unary
def _hard_sigmoid(e: Emitter, node: Node, x):
    slope, offset = _const(node.number("alpha", 0.2)), _const(node.number("beta", 0.5))
    return op.clip(op.add(op.multiply(x, slope), offset), 0, 1)


@converts("logical_not")
@_unary
def _logical_not(e: Emitter, node: Node, x):
    return op.astype(op.equal(x, _const(0, node.in_dtype())), node.dtypes[0])


@converts("LeakyReLU")
def _leaky(e: Emitter, node: Node):
    last, kind, slope = _follows(e, node, 0), node.text("act_type", "leaky"), node.number("slope", 0.25)
    x = e.get(node.inputs[0], last)
    if kind == "leaky":
        result = op.nn.leakyrelu(x, slope)
    elif kind == "rrelu":  # in inference the slope is the middle of its range
        result = op.nn.leakyrelu(x, (node.number("lower_bound", 0.125) + node.number("upper_bound", 0.334)) / 2)
    elif kind == "prelu":
        # A slope a channel, or one for all.
        count, rank = int(np.prod(node.in_shape(1))), len(node.shape)
        gamma = _vector(e, node, 1, [1] * rank if count == 1 else _along(rank, min(1, rank - 1), last))
        result = op.add(op.nn.relu(x), op.multiply(gamma, op.minimum(x, _const(0))))
    elif kind == "gelu":
        result = op.multiply(
            op.multiply(x, _const(0.5)), op.add(_const(1), op.erf(op.multiply(x, _const(np.sqrt(0.5)))))
        )
    elif kind in ("elu", "selu"):
        # Klambauer et al. (2017), Self-normalizing neural networks: alpha and scale.
        alpha, scale = (slope, 1.0) if kind == "elu" else (1.6732632423543772, 1.0507009873554805)
        below = op.multiply(op.subtract(op.exp(op.minimum(x, _const(0))), _const(1)), _const(alpha * scale))
        result = op.add(op.multiply(op.nn.relu(x), _const(scale)), below)
    else:
        _refuse(node, f"act_type {kind}")
    return _placed(result, last)


def _mod(a, b):
    """Remainder with the sign of the divisor; MXNet's of a division by zero is zero."""
    zero = _const(0, str(a.ty.dtype))
    return op.where(op.equal(b, zero), zero, op.floor_mod(a, b))


def _hypot(a, b):
    return op.sqrt(op.add(op.multiply(a, a), op.multiply(b, b)))


def _logical(function):
    def compute(a, b):
        zero = _const(0, str(a.ty.dtype))
        return function(op.not_equal(a, zero), op.not_equal(b, zero))

    return compute


#: (operator on tensors, whether its result is a truth value)
_BINARY = {
    "add": (op.add, False),
    "sub": (op.subtract, False),
    "mul": (op.multiply, False),
    "div": (op.divide, False),
    "mod": (_mod, False),
    "hypot": (_hypot, False),
    "maximum": (op.maximum, False),
    "minimum": (op.minimum, False),
    "power": (op.power, False),
    "equal": (op.equal, True),
    "not_equal": (op.not_equal, True),
    "greater": (op.greater, True),
    "greater_equal": (op.greater_equal, True),
    "lesser": (op.less, True),
    "lesser_equal": (op.less_equal, True),
    "logical_and": (_logical(op.logical_and), True),
    "logical_or": (_logical(op.logical_or), True),
    "logical_xor": (_logical(op.logical_xor), True),
}
#: What MXNet calls those that have a name of their own as ``elemwise_*`` where it takes a number.
_SCALAR_NAMES = {"add": "plus", "sub": "minus"}
#: Those that MXNet also has with the number on the left.
_REVERSED = {"sub": "rminus", "div": "rdiv", "mod": "rmod", "power": "rpower"}


def _binary(kind: str):
    function, truth = _BINARY[kind]

    def convert(e: Emitter, node: Node):
        last = _follows(e, node)
        result = function(e.get(node.inputs[0], last), e.get(node.inputs[1], last))
        return _placed(op.astype(result, node.dtypes[0]) if truth else result, last)

    return convert


def _scalar(kind: str, reverse: bool):
    function, truth = _BINARY[kind]

    def compute(e: Emitter, node: Node, x):
        number = _const(node.number("scalar", 1.0), node.in_dtype())
        result = function(number, x) if reverse else function(x, number)
        return op.astype(result, node.dtypes[0]) if truth else result

    return _unary(compute)


for _kind in _BINARY:
    CONVERTERS[f"broadcast_{_kind}"] = _binary(_kind)
    CONVERTERS[f"elemwise_{_kind}" if _kind in ("add", "sub", "mul", "div") else f"_{_kind}"] = _binary(_kind)
    CONVERTERS[f"_{_SCALAR_NAMES.get(_kind, _kind)}_scalar"] = _scalar(_kind, False)
for _kind, _name in _REVERSED.items():
    CONVERTERS[f"_{_name}_scalar"] = _scalar(_kind, True)
CONVERTERS["_grad_add"] = _binary("add")


@converts("add_n")
def _add_n(e: Emitter, node: Node):
    last = _follows(e, node)
    result = e.get(node.inputs[0], last)
    for ref in node.inputs[1:]:
        result = e.call(op.add(result, e.get(ref, last)))
    return _placed(result, last)


@converts("where")
def _where(e: Emitter, node: Node):
    last = _follows(e, node)
    zero = _const(0, node.in_dtype(0))
    if len(node.in_shape(0)) == len(node.shape):
        chosen = e.get(node.inputs[0], last)
    else:  # a truth value for every row
        chosen = _vector(e, node, 0, _along(len(node.shape), 0))
    x, y = (e.get(ref, last) for ref in node.inputs[1:])
    return _placed(op.where(op.not_equal(chosen, zero), x, y), last)


# ---- shapes ----------------------------------------------------------------------------------------------------------


@converts("Reshape", "Flatten", "expand_dims", "squeeze", "reshape_like")
def _reshape(e: Emitter, node: Node):
    # MXNet's special codes say nothing that the static shape does not.
    if node.shape == node.in_shape() and _follows(e, node, 0):
        return Last(e.last(node.inputs[0]))
    return op.reshape(e.plain(node.inputs[0]), node.shape)


def _permuted(e: Emitter, node: Node, axes: Sequence[int]):
    ref, axes = node.inputs[0], list(axes)
    if len(axes) == 4 and e.is_last(ref):
        x, axes = e.last(ref), [CHANNELS_LAST.index(axis) for axis in axes]
    else:
        x = e.plain(ref)
        if e.prefer_last and axes == list(CHANNELS_FIRST):
            return Last(x)  # it comes channels-last, and may stay so
    return x if axes == sorted(axes) else op.permute_dims(x, axes)


@converts("transpose")
def _transpose(e: Emitter, node: Node):
    return _permuted(e, node, node.integers("axes") or range(len(node.shape))[::-1])


@converts("SwapAxis")
def _swap_axis(e: Emitter, node: Node):
    rank = len(node.shape)
    one, other = (checked_axis(node.integer(key, 0), rank) for key in ("dim1", "dim2"))
    axes = list(range(rank))
    axes[one], axes[other] = other, one
    return _permuted(e, node, axes)


@converts("Concat")
def _concat(e: Emitter, node: Node):
    axis, last = checked_axis(node.integer("dim", 1), len(node.shape)), _follows(e, node)
    return _placed(op.concat([e.get(ref, last) for ref in node.inputs], axis=stored_axis(axis, last)), last)


@converts("stack")
def _stack(e: Emitter, node: Node):
    return op.stack([e.plain(ref) for ref in node.inputs], axis=checked_axis(node.integer("axis", 0), len(node.shape)))


def _cut(e: Emitter, node: Node, ranges: dict[int, tuple[int, int, int]]):
    """Slice the first input: {axis: (begin, end, step)}; a full range cuts nothing."""
    shape = node.in_shape()
    ranges = {a: r for a, r in ranges.items() if r != (0, shape[a], 1)}
    last = len(shape) == 4 and e.is_last(node.inputs[0])
    x = e.get(node.inputs[0], last)
    if ranges:
        x = op.strided_slice(
            x, [stored_axis(a, last) for a in ranges], *(list(column) for column in zip(*ranges.values()))
        )
    return _placed(x, last)


@converts("SliceChannel", "_split_v2")
def _split(e: Emitter, node: Node):
    shape = node.in_shape()
    axis = checked_axis(node.integer("axis", 1), len(shape))
    if node.op == "_split_v2" and not node.integer("sections", 0):
        begins = [*node.integers("indices")]
    else:
        parts = node.integer("num_outputs" if node.op == "SliceChannel" else "sections")
        begins = [shape[axis] // parts * k for k in range(parts)]
    results = []
    for k, (begin, end) in enumerate(zip(begins, [*begins[1:], shape[axis]])):
        part = _cut(e, node, {axis: (begin, end, 1)})
        if node.flag("squeeze_axis"):
            # Without the axis the rest is in MXNet's order only if the stored one was.
            value = part.value if isinstance(part, Last) else part
            if isinstance(part, Last):
                value = op.permute_dims(e.call(value), list(CHANNELS_FIRST))
            part = op.reshape(e.call(value), node.shapes[k])
        results.append(part)
    return results


def _range(begin, end, step, extent: int) -> tuple[int, int, int]:
    """MXNet's begin, end and step, any of which may be None, in numbers that Relax reads alike."""
    return slice(begin, end, step).indices(extent)


@converts("slice_axis")
def _slice_axis(e: Emitter, node: Node):
    axis = checked_axis(node.integer("axis"), len(node.in_shape()))
    return _cut(e, node, {axis: _range(node.integer("begin", 0), node.literal("end"), None, node.in_shape()[axis])})


@converts("slice")
def _slice(e: Emitter, node: Node):
    shape = node.in_shape()
    begin, end = _as_tuple(node.literal("begin")), _as_tuple(node.literal("end"))
    step = _as_tuple(node.literal("step", ())) or (None,) * len(begin)
    if any(s is not None and s < 0 for s in step):
        return _take_backwards(e, node, begin, end, step)
    return _cut(e, node, {a: _range(*what, shape[a]) for a, what in enumerate(zip(begin, end, step))})


def _as_tuple(value) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _take_backwards(e: Emitter, node: Node, begin, end, step):
    last = _follows(e, node, 0)
    x = e.get(node.inputs[0], last)
    for axis, (b, f, s) in enumerate(zip(begin, end, step)):
        index = np.arange(node.in_shape()[axis])[slice(b, f, s)]
        if len(index) != node.in_shape()[axis] or s not in (None, 1):
            x = e.call(op.take(x, e.constant(index.astype(np.int32)), axis=stored_axis(axis, last)))
    return _placed(x, last)


@converts("slice_like")
def _slice_like(e: Emitter, node: Node):
    shape, like = node.in_shape(0), node.in_shape(1)
    axes = node.integers("axes") or range(min(len(shape), len(like)))
    return _cut(e, node, {checked_axis(a, len(shape)): (0, like[checked_axis(a, len(like))], 1) for a in axes})


@converts("Crop")
def _crop(e: Emitter, node: Node):
    extents, wanted = node.in_shape()[2:], node.shape[2:]
    if node.flag("center_crop"):
        offset = tuple((extent - side) // 2 for extent, side in zip(extents, wanted))
    else:
        offset = node.integers("offset", (0, 0))
    return _cut(e, node, {2 + i: (o, o + side, 1) for i, (o, side) in enumerate(zip(offset, wanted))})


@converts("Pad")
def _pad(e: Emitter, node: Node):
    last, mode = _follows(e, node, 0), node.text("mode", "constant")
    widths = node.integers("pad_width")
    widths = stored_shape(list(zip(widths[::2], widths[1::2])), last)
    x, flat = e.get(node.inputs[0], last), [width for pair in widths for width in pair]
    if mode == "constant":
        return _placed(op.nn.pad(x, flat, "constant", node.number("constant_value", 0.0)), last)
    for axis, (before, after) in enumerate(widths):
        if before or after:
            extent = stored_shape(node.in_shape(), last)[axis]
            index = np.pad(np.arange(extent, dtype=np.int32), (before, after), mode)
            x = e.call(op.take(x, e.constant(index), axis=axis))
    return _placed(x, last)


@converts("tile")
def _tile(e: Emitter, node: Node):
    reps, rank = list(node.integers("reps")), len(node.in_shape())
    if len(reps) > rank or not _follows(e, node, 0):
        return op.tile(e.plain(node.inputs[0]), reps)
    return Last(op.tile(e.last(node.inputs[0]), stored_shape([1] * (rank - len(reps)) + reps, True)))


@converts("repeat")
def _repeat(e: Emitter, node: Node):
    axis, repeats = node.integer("axis"), node.integer("repeats")
    if axis is None:
        return op.repeat(e.plain(node.inputs[0]), repeats)
    last = _follows(e, node, 0)
    axis = checked_axis(axis, len(node.in_shape()))
    return _placed(op.repeat(e.get(node.inputs[0], last), repeats, stored_axis(axis, last)), last)


@converts("reverse")
def _reverse(e: Emitter, node: Node):
    last = _follows(e, node, 0)
    x = e.get(node.inputs[0], last)
    for axis in node.integers("axis"):
        x = e.call(op.flip(x, stored_axis(checked_axis(axis, len(node.shape)), last)))
    return _placed(x, last)


@converts("broadcast_to", "broadcast_like", "broadcast_axis")
def _broadcast(e: Emitter, node: Node):
    last = _follows(e, node, 0)
    return _placed(op.broadcast_to(e.get(node.inputs[0], last), stored_shape(node.shape, last)), last)


# ---- maps ------------------------------------------------------------------------------------------------------------


@converts("Pooling")
def _pooling(e: Emitter, node: Node):
    if not (node.text("layout") or "NC").startswith("NC"):
        _refuse(node, f"layout {node.text('layout')}")
    kind, rank = node.text("pool_type", "max"), len(node.shape)
    last = e.prefer_last if rank == 4 else False
    x, extents, out = e.get(node.inputs[0], last), node.in_shape()[2:], node.shape[2:]
    everywhere = [stored_axis(axis, last) for axis in range(2, rank)]
    power = node.integer("p_value", 1) if kind == "lp" else 1
    if power > 1:  # MXNet knows 1, 2 and 3, and takes no absolute values
        raised = e.call(op.multiply(x, x))
        x = raised if power == 2 else e.call(op.multiply(raised, x))
    if node.flag("global_pool"):
        function = {"max": op.max, "avg": op.mean}.get(kind, op.sum)
        result = function(x, axis=everywhere, keepdims=True)
    else:
        result = _pool_windows(e, node, x, kind, extents, out, last)
    if power > 1:
        result = op.sqrt(result) if power == 2 else _cube_root(e.call(result))
    return _placed(result, last)


def _pool_windows(e: Emitter, node: Node, x, kind: str, extents, out, last: bool):
    kernel, stride, pad = _spatial(node, "kernel", 1), _spatial(node, "stride", 1), _spatial(node, "pad", 0)
    if len(extents) not in (1, 2):
        _refuse(node, f"{len(extents)} spatial axes")
    after = [max(0, (o - 1) * s + k - n - p) for n, o, k, s, p in zip(extents, out, kernel, stride, pad)]
    function = {
        ("max", 1): op.nn.max_pool1d, ("max", 2): op.nn.max_pool2d, ("avg", 1): op.nn.avg_pool1d,
        ("avg", 2): op.nn.avg_pool2d,
    }["max" if kind == "max" else "avg", len(extents)]  # fmt: skip
    layout = {1: "NCW", 2: "NHWC" if last else "NCHW"}[len(extents)]
    with_pad = kind != "avg" or node.flag("count_include_pad", True)
    options = {} if kind == "max" else {"count_include_pad": with_pad}
    result = e.call(function(x, kernel, stride, [*pad, *after], layout=layout, **options))
    # Relax divides by all cells of a window; MXNet sums some kinds, and does not count what "full" adds beyond the pad.
    factor = np.full((1, 1, *out), np.prod(kernel), np.float32)
    if kind == "max" or not with_pad:
        return result
    if kind == "avg":
        counts = []
        for n, o, k, s, p in zip(extents, out, kernel, stride, pad):
            begin = np.arange(o) * s - p
            counts.append(np.minimum(begin + k, n + p) - begin)
        factor /= counts[0] if len(out) == 1 else np.outer(*counts)
    if np.all(factor == 1):
        return result
    if np.all(factor == factor.flat[0]):
        return op.multiply(result, _const(factor.flat[0]))
    return op.multiply(result, e.constant(factor.transpose(CHANNELS_LAST) if last else factor))


@converts("_contrib_AdaptiveAvgPooling2D")
def _adaptive_average(e: Emitter, node: Node):
    last, out = e.prefer_last, node.shape[2:]
    x = e.get(node.inputs[0], last)
    if out == (1, 1):
        return _placed(op.mean(x, axis=[stored_axis(axis, last) for axis in (2, 3)], keepdims=True), last)
    return _placed(op.nn.adaptive_avg_pool2d(x, out, layout="NHWC" if last else "NCHW"), last)


def _resize(e: Emitter, x, out: Sequence[int], last: bool, method: str, positions: str):
    return op.image.resize2d(
        x,
        tuple(out),
        layout="NHWC" if last else "NCHW",
        method=method,
        coordinate_transformation_mode=positions,
        rounding_method="floor" if method == "nearest_neighbor" else "round",
    )


@converts("_contrib_BilinearResize2D")
def _bilinear_resize(e: Emitter, node: Node):
    last, extents, out = e.prefer_last, node.in_shape()[2:], node.shape[2:]
    x = e.get(node.inputs[0], last)
    if out == extents:
        return _placed(x, last)
    if not node.flag("align_corners", True):
        return _placed(_resize(e, x, out, last, "linear", "half_pixel"), last)
    # A single row is the first of two: Relax divides by one less than the rows.
    x = e.call(_resize(e, x, [max(side, 2) for side in out], last, "linear", "align_corners"))
    single = [stored_axis(axis, last) for axis in (2, 3) if out[axis - 2] == 1]
    return _placed(op.strided_slice(x, single, [0] * len(single), [1] * len(single)) if single else x, last)


@converts("UpSampling")
def _upsampling(e: Emitter, node: Node):
    last, kind = e.prefer_last, node.text("sample_type")
    if kind == "bilinear":
        # A deconvolution of every channel alone, with weights that are an input.
        scale = node.integer("scale")
        pad = -(-(scale - 1) // 2)
        return _transposed_convolution(e, node, (scale,) * 2, (pad,) * 2, (0, 0), node.shape[1], None)
    maps = [_resize(e, e.get(ref, last), node.shape[2:], last, "nearest_neighbor", "asymmetric") for ref in node.inputs]
    maps = [e.call(m) for m in maps]
    if len(maps) > 1 and node.text("multi_input_mode", "concat") == "concat":
        return _placed(op.concat(maps, axis=stored_axis(1, last)), last)
    result = maps[0]
    for other in maps[1:]:
        result = e.call(op.add(result, other))
    return _placed(result, last)


@converts("_pixel_shuffle", "depth_to_space", "space_to_depth")
def _shuffle(e: Emitter, node: Node):
    last = e.prefer_last
    x = e.get(node.inputs[0], last)
    if node.op == "_pixel_shuffle":
        block, block_first = node.integers("block"), node.flag("block_first")
    else:
        block, block_first = (node.integer("block_size"),) * 2, True
    function = kernels.space_to_depth if node.op == "space_to_depth" else kernels.pixel_shuffle
    return _placed(function(e, x, block, block_first=block_first, channels_last=last), last)


@converts("_channel_shuffle")
def _channel_shuffle(e: Emitter, node: Node):
    last = _follows(e, node)
    stacked = e.call(op.stack([e.get(ref, last) for ref in node.inputs], axis=4 if last else 2))
    return _placed(op.reshape(stacked, stored_shape(node.shape, last)), last)


@converts("_contrib_DeformableConvolution", "_contrib_ModulatedDeformableConvolution")
def _deformable_convolution(e: Emitter, node: Node):
    last, modulated = e.prefer_last, node.op == "_contrib_ModulatedDeformableConvolution"
    maps = 3 if modulated else 2
    x, offset, *mask = (e.get(ref, last) for ref in node.inputs[:maps])
    weight = node.in_value(maps)
    result = kernels.deformable_convolution(
        e,
        x,
        offset,
        mask[0] if modulated else None,
        weight if weight is not None else e.plain(node.inputs[maps]),
        stride=_spatial(node, "stride", 1),
        pad=_spatial(node, "pad", 0),
        dilate=_spatial(node, "dilate", 1),
        groups=node.integer("num_group", 1),
        deformable_groups=node.integer("num_deformable_group", 1),
        channels_last=last,
    )
    if not node.flag("no_bias"):
        result = op.add(result, _vector(e, node, maps + 1, _along(4, 1, last)))
    return _placed(result, last)


@converts("_contrib_ROIAlign")
def _roi_align(e: Emitter, node: Node):
    if node.flag("position_sensitive"):
        _refuse(node, "position_sensitive")
    last = e.prefer_last
    result = kernels.roi_align(
        e,
        e.get(node.inputs[0], last),
        e.plain(node.inputs[1]),
        node.integers("pooled_size"),
        scale=node.number("spatial_scale"),
        sample_ratio=node.integer("sample_ratio", -1),
        aligned=node.flag("aligned"),
        channels_last=last,
    )
    return _placed(result, last)


@converts("ROIPooling")
def _roi_pooling(e: Emitter, node: Node):
    return op.vision.roi_pool(
        e.plain(node.inputs[0]), e.plain(node.inputs[1]), node.integers("pooled_size"), node.number("spatial_scale")
    )


# ---- normalisation, softmax ------------------------------------------------------------------------------------------


def _standardized(e: Emitter, x, axes: Sequence[int], eps: float):
    """Mean 0 and variance 1 over some axes."""
    centred = e.call(op.subtract(x, e.call(op.mean(x, axis=list(axes), keepdims=True))))
    variance = e.call(op.mean(e.call(op.multiply(centred, centred)), axis=list(axes), keepdims=True))
    return e.call(op.multiply(centred, op.rsqrt(op.add(variance, _const(eps)))))


def _affine(e: Emitter, node: Node, x, shape: Sequence[int]):
    return op.add(e.call(op.multiply(x, _vector(e, node, 1, shape))), _vector(e, node, 2, shape))


def _refuse_moments(node: Node) -> None:
    if node.flag("output_mean_var"):
        _refuse(node, "output_mean_var")


@converts("LayerNorm")
def _layer_norm(e: Emitter, node: Node):
    _refuse_moments(node)
    rank, last = len(node.shape), _follows(e, node, 0)
    axis = checked_axis(node.integer("axis", -1), rank)
    x = _standardized(e, e.get(node.inputs[0], last), [stored_axis(axis, last)], node.number("eps", 1e-5))
    return _placed(_affine(e, node, x, _along(rank, axis, last)), last)


@converts("InstanceNorm")
def _instance_norm(e: Emitter, node: Node):
    rank, last = len(node.shape), _follows(e, node, 0)
    axes = [stored_axis(axis, last) for axis in range(2, rank)]
    x = _standardized(e, e.get(node.inputs[0], last), axes, node.number("eps", 1e-3))
    return _placed(_affine(e, node, x, _along(rank, 1, last)), last)


@converts("GroupNorm")
def _group_norm(e: Emitter, node: Node):
    _refuse_moments(node)
    last, shape, groups = _follows(e, node, 0), node.shape, node.integer("num_groups", 1)
    each = shape[1] // groups
    if last:
        grouped, axes = [shape[0], *shape[2:], groups, each], [1, 2, 4]
    else:
        grouped, axes = [shape[0], groups, each, *shape[2:]], list(range(2, len(shape) + 1))
    x = e.call(op.reshape(e.get(node.inputs[0], last), grouped))
    x = _standardized(e, x, axes, node.number("eps", 1e-5))
    # MXNet 1.9 has one factor and one offset a group.
    x = e.call(_affine(e, node, x, [groups, 1] if last else [1, groups, *[1] * (len(shape) - 1)]))
    return _placed(op.reshape(x, stored_shape(shape, last)), last)


@converts("L2Normalization")
def _l2_normalization(e: Emitter, node: Node):
    rank, last = len(node.shape), _follows(e, node, 0)
    axes = {"instance": range(1, rank), "channel": [1], "spatial": range(2, rank)}[node.text("mode", "instance")]
    x = e.get(node.inputs[0], last)
    total = op.sum(e.call(op.multiply(x, x)), axis=[stored_axis(axis, last) for axis in axes], keepdims=True)
    eps = _const(node.number("eps", 1e-10))
    return _placed(op.divide(x, e.call(op.sqrt(op.add(e.call(total), eps)))), last)


@converts("softmax", "SoftmaxActivation", "log_softmax", "softmin")
def _softmax(e: Emitter, node: Node):
    if node.flag("use_length"):
        _refuse(node, "use_length")
    rank, last = len(node.shape), _follows(e, node, 0)
    axis = checked_axis(node.integer("axis", -1), rank)
    x = e.get(node.inputs[0], last)
    if node.op == "SoftmaxActivation":
        axis = 1 if node.text("mode", "instance") == "channel" else rank - 1
    if node.op == "softmin":
        x = e.call(op.negative(x))
    temperature = node.number("temperature")
    if temperature not in (None, 1.0):
        x = e.call(op.divide(x, _number(e, temperature)))
    function = op.nn.log_softmax if node.op == "log_softmax" else op.nn.softmax
    return _placed(function(x, axis=stored_axis(axis, last)), last)


# ---- reductions, products --------------------------------------------------------------------------------------------

_REDUCTIONS = {"sum": op.sum, "mean": op.mean, "max": op.max, "min": op.min, "prod": op.prod}


@converts(*_REDUCTIONS, "norm")
def _reduce(e: Emitter, node: Node):
    rank = len(node.in_shape())
    axes = node.integers("axis")
    axes = list(range(rank)) if axes is None else [checked_axis(a, rank) for a in axes]
    if node.flag("exclude"):
        axes = [a for a in range(rank) if a not in axes]
    last = rank == 4 and e.is_last(node.inputs[0])
    x = e.get(node.inputs[0], last)
    if node.op == "norm":
        order = node.integer("ord", 2)
        x = e.call(op.abs(x) if order == 1 else op.multiply(x, x))
        function = op.sum
    else:
        function = _REDUCTIONS[node.op]
    stored = [stored_axis(a, last) for a in axes]
    keep = node.flag("keepdims") and len(node.shape) == rank
    result = e.call(function(x, axis=stored, keepdims=keep))
    if node.op == "norm" and order == 2:
        result = e.call(op.sqrt(result))
    if keep:
        return _placed(result, last)
    kept = [axis for axis in (CHANNELS_LAST if last else range(rank)) if axis not in axes]
    if kept != sorted(kept):
        result = e.call(op.permute_dims(result, [kept.index(axis) for axis in sorted(kept)]))
    return op.reshape(result, node.shape)  # MXNet gives (1,) where all axes go


@converts("_np_cumsum")
def _cumsum(e: Emitter, node: Node):
    return op.cumsum(e.plain(node.inputs[0]), node.integer("axis"), node.dtypes[0])


@converts("dot")
def _dot(e: Emitter, node: Node):
    a, b = e.plain(node.inputs[0]), e.plain(node.inputs[1])
    rank_a, rank_b = len(node.in_shape(0)), len(node.in_shape(1))
    if node.flag("transpose_a"):
        a = e.call(op.permute_dims(a, [*range(1, rank_a), 0]))
        shape_a = (*node.in_shape(0)[1:], node.in_shape(0)[0])
    else:
        shape_a = node.in_shape(0)
    if node.flag("transpose_b"):
        b = e.call(op.permute_dims(b, [rank_b - 1, *range(rank_b - 1)]))
        shape_b = (node.in_shape(1)[-1], *node.in_shape(1)[:-1])
    else:
        shape_b = node.in_shape(1)
    # The last axis of one against the first of the other.
    inner = shape_a[-1]
    flat_a = op.reshape(a, [int(np.prod(shape_a[:-1])), inner])
    flat_b = op.reshape(b, [inner, int(np.prod(shape_b[1:]))])
    return op.reshape(e.call(op.matmul(e.call(flat_a), e.call(flat_b))), node.shape)


@converts("batch_dot")
def _batch_dot(e: Emitter, node: Node):
    values = []
    for ref, key in zip(node.inputs, ("transpose_a", "transpose_b")):
        value = e.plain(ref)
        values.append(e.call(op.permute_dims(value, [0, 2, 1])) if node.flag(key) else value)
    return op.matmul(*values)


# ---- indices ---------------------------------------------------------------------------------------------------------


@converts("argmax", "argmin", "argmax_channel")
def _arg_best(e: Emitter, node: Node):
    axis = 1 if node.op == "argmax_channel" else node.integer("axis")
    x, rank = e.plain(node.inputs[0]), len(node.in_shape())
    if axis is None:
        x, axis = e.call(op.reshape(x, [-1])), 0
    else:
        axis = checked_axis(axis, rank)
    function = op.argmin if node.op == "argmin" else op.argmax
    return op.reshape(e.call(op.astype(e.call(function(x, axis=axis)), node.dtypes[0])), node.shape)


def _sortable(e: Emitter, node: Node):
    """Input and axis of an operator that sorts; without an axis, everything in one row."""
    x, axis = e.plain(node.inputs[0]), node.literal("axis", -1)
    if axis is None:
        return e.call(op.reshape(x, [-1])), 0, int(np.prod(node.in_shape()))
    axis = checked_axis(int(axis), len(node.in_shape()))
    return x, axis, node.in_shape()[axis]


@converts("topk")
def _topk(e: Emitter, node: Node):
    x, axis, extent = _sortable(e, node)
    kind, k = node.text("ret_typ", "indices"), node.integer("k", 1)
    k = extent if k < 1 else min(k, extent)
    both = e.call(op.topk(x, k, axis, "both", largest=not node.flag("is_ascend"), dtype="int32"))
    values, indices = relax.TupleGetItem(both, 0), relax.TupleGetItem(both, 1)
    if kind == "value":
        return values
    if kind == "mask":
        # (.., k, extent, ..): whether a place is that of one of the k.
        places = e.constant(np.arange(extent, dtype=np.int32).reshape(_along(len(x.ty.shape) + 1, axis + 1)))
        hits = op.astype(op.equal(e.call(op.expand_dims(e.call(indices), axis + 1)), places), "float32")
        return op.reshape(e.call(op.astype(e.call(op.sum(e.call(hits), axis=axis)), node.dtypes[0])), node.shape)
    if kind == "both":
        return [values, op.astype(e.call(indices), node.dtypes[1])]
    return op.astype(e.call(indices), node.dtypes[0])


@converts("sort")
def _sort(e: Emitter, node: Node):
    x, axis, _ = _sortable(e, node)
    return op.reshape(e.call(op.sort(x, axis, descending=not node.flag("is_ascend", True))), node.shape)


@converts("argsort")
def _argsort(e: Emitter, node: Node):
    x, axis, _ = _sortable(e, node)
    order = e.call(op.argsort(x, axis, descending=not node.flag("is_ascend", True), dtype="int32"))
    return op.reshape(e.call(op.astype(order, node.dtypes[0])), node.shape)


def _indices(e: Emitter, ref, mode: str | None, extent: int):
    """Indices as int32 within an axis: MXNet takes floats, and by default the nearest place that there is."""
    index = e.call(op.astype(e.plain(ref), "int32"))
    if mode == "wrap":
        return e.call(op.floor_mod(index, _const(extent, "int32")))
    low, high = _const(0, "int32"), _const(extent - 1, "int32")
    return e.call(op.minimum(e.call(op.maximum(index, low)), high))


@converts("take")
def _take(e: Emitter, node: Node):
    axis = checked_axis(node.integer("axis", 0), len(node.in_shape()))
    index = _indices(e, node.inputs[1], node.text("mode", "clip"), node.in_shape()[axis])
    last = len(node.in_shape(1)) == 1 and _follows(e, node, 0)
    x = e.get(node.inputs[0], last)
    flat = op.take(x, e.call(op.reshape(index, [-1])), axis=stored_axis(axis, last))
    return Last(flat) if last else op.reshape(e.call(flat), node.shape)


@converts("Embedding")
def _embedding(e: Emitter, node: Node):
    index = _indices(e, node.inputs[0], "clip", node.in_shape(1)[0])
    rows = op.take(e.plain(node.inputs[1]), e.call(op.reshape(index, [-1])), axis=0)
    return op.reshape(e.call(rows), node.shape)


@converts("pick")
def _pick(e: Emitter, node: Node):
    x, axis = e.plain(node.inputs[0]), node.literal("axis", -1)
    shape = list(node.in_shape())
    if axis is None:
        shape = [int(np.prod(shape))]
        x, axis = e.call(op.reshape(x, shape)), 0
    axis = checked_axis(int(axis), len(shape))
    index = _indices(e, node.inputs[1], node.text("mode", "clip"), shape[axis])
    index = e.call(op.reshape(index, [*shape[:axis], 1, *shape[axis + 1 :]]))
    return op.reshape(e.call(op.gather_elements(x, index, axis)), node.shape)


@converts("gather_nd")
def _gather_nd(e: Emitter, node: Node):
    # MXNet has the coordinates along the first axis, Relax along the last.
    rank = len(node.in_shape(1))
    index = e.call(op.astype(e.plain(node.inputs[1]), "int64"))
    index = e.call(op.permute_dims(index, [*range(1, rank), 0]))
    return op.gather_nd(e.plain(node.inputs[0]), index)


@converts("one_hot")
def _one_hot(e: Emitter, node: Node):
    index = e.call(op.expand_dims(e.call(op.astype(e.plain(node.inputs[0]), "int32")), -1))
    places = e.constant(np.arange(node.integer("depth"), dtype=np.int32))
    on, off = (
        _const(node.number(key, default), node.dtypes[0]) for key, default in (("on_value", 1.0), ("off_value", 0.0))
    )
    return op.where(op.equal(index, places), on, off)


# ---- boxes -----------------------------------------------------------------------------------------------------------


@converts("_contrib_box_decode")
def _box_decode(e: Emitter, node: Node):
    return kernels.box_decode(
        e,
        e.plain(node.inputs[0]),
        e.plain(node.inputs[1]),
        stds=[node.number(f"std{i}", 1.0) for i in range(4)],
        limit=node.number("clip", -1.0),
        corner=node.text("format", "center") == "corner",
    )


@converts("_contrib_box_nms")
def _box_nms(e: Emitter, node: Node):
    shape = node.in_shape()
    rows = op.reshape(e.plain(node.inputs[0]), [int(np.prod(shape[:-2])), *shape[-2:]])
    corner = node.text("in_format", "corner") == "corner"
    result = kernels.box_nms(
        e,
        e.call(rows),
        overlap_thresh=node.number("overlap_thresh", 0.5),
        valid_thresh=node.number("valid_thresh", 0.0),
        topk=node.integer("topk", -1),
        coord_start=node.integer("coord_start", 2),
        score_index=node.integer("score_index", 1),
        id_index=node.integer("id_index", -1),
        background_id=node.integer("background_id", -1),
        force_suppress=node.flag("force_suppress"),
        corner=corner,
        out_corner=node.text("out_format", "corner") == "corner",
    )
    return op.reshape(e.call(result), node.shape)
