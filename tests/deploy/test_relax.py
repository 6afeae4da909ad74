"""MXNet symbols in Relax: every operator against MXNet, in both orders of a map's axes, and whole nets."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from gluonface._compat import import_gluoncv, mx
from gluonface.deploy.symbol import read_symbol, trace
from gluonface.errors import DeployError
from gluonface.model_zoo import get_model, list_models, model_facts

pytest.importorskip("tvm", reason="needs the deploy extra")

from gluonface.deploy.passes import NORMALISE
from gluonface.deploy.relax import CHANNELS_FIRST, CHANNELS_LAST, from_graph, from_mxnet, relax, tvm
from gluonface.deploy.relax_ops import CONVERTERS

S = mx.sym
#: Without optimisation code is made faster, which is most of the time of these tests.
QUICK = tvm.target.Target({"kind": "llvm", "opt-level": 0})


class Net:
    """A small symbol under construction, with its inputs and parameters.

    Numbers are multiples of 1/4, and weights whole: sums of them are exact in every order, so that comparisons,
    rounding and sorting give one answer.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.inputs, self.params = {}, {}

    def size(self, low=2, high=6):
        return int(self.rng.integers(low, high + 1))

    def choice(self, *options):
        return options[self.rng.integers(len(options))]

    def input(self, *shape, low=-4, high=4, array=None):
        name = f"input{len(self.inputs)}"
        if array is None:
            array = self.rng.integers(4 * low, 4 * high + 1, shape) / 4
        self.inputs[name] = np.asarray(array, np.float32)
        return S.var(name)

    def param(self, *shape, array=None):
        name = f"param{len(self.params)}"
        self.params[name] = np.asarray(self.rng.integers(-2, 3, shape) if array is None else array, np.float32)
        return S.var(name)

    def distinct(self, *shape):
        """An input without two equal numbers."""
        return self.input(array=self.rng.permutation(int(np.prod(shape))).reshape(shape) / 4 - 3)

    def map(self, channels=None, height=None, width=None, batch=None):
        """What a convolution gives, and so channels-last where maps are stored so; with its shape."""
        shape = [batch or self.size(1, 2), channels or self.size(), height or self.size(5, 9), width or self.size(5, 9)]
        x = self.input(shape[0], 3, *shape[2:])
        weight = self.param(shape[1], 3, 1, 1)
        return S.Convolution(x, weight, num_filter=shape[1], kernel=(1, 1), no_bias=True), tuple(shape)

    def value(self, low=0.0, high=1.0):
        """A map whose values are within bounds, at places that are well apart from them."""
        x, _ = self.map()
        return (S.clip(x, -8, 8) + 9) / 18 * (high - low) + low


CASES = {}


def case(*operators, seeds=2):
    """Enter a function from a `Net`, and the operator's name if there are several, to a symbol as their case."""

    def enter(function):
        for operator in operators:
            make = (lambda net, operator=operator: function(net, operator)) if len(operators) > 1 else function
            CASES.setdefault(operator, []).extend((make, seed) for seed in range(seeds))
        return function

    return enter


def operator(name):
    """MXNet's function for a registered operator, whichever of its namespaces has it."""
    for prefix, space in (("_contrib_", S.contrib), ("_", S._internal), ("", S)):
        if name.startswith(prefix):
            found = getattr(space, name[len(prefix) :] if space is S.contrib else name, None)
            if found is not None:
                return found
    raise AttributeError(name)


def expected_of(symbol, net):
    """MXNet's outputs."""
    values = {name: mx.nd.array(array, dtype=array.dtype) for name, array in {**net.inputs, **net.params}.items()}
    executor = symbol.bind(
        mx.cpu(),
        {name: values[name] for name in symbol.list_arguments()},
        aux_states={name: values[name] for name in symbol.list_auxiliary_states()},
        grad_req="null",
    )
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def arrays(result):
    return [result.numpy()] if hasattr(result, "numpy") else [tensor.numpy() for tensor in result]


def graph_of(symbol, net):
    graph = read_symbol(symbol, net.params, {name: array.shape for name, array in net.inputs.items()})
    graph.fold_batch_norms()
    graph.find_pixel_shuffles()
    graph.find_channel_shuffles()
    return graph


def built(module):
    """A machine that runs a module, compiled to a file: a third of the time that compiling in memory takes."""
    executable = relax.build(module, QUICK)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "module.so")
        executable.export_library(file)
        return relax.VirtualMachine(tvm.runtime.load_module(file), tvm.cpu())


def check(cases, *, rtol=1e-5, atol=1e-5, through=None):
    """Compile all cases in both orders as one module and compare every function with MXNet."""
    builder, wanted = relax.BlockBuilder(), []
    for number, (make, seed) in enumerate(cases):
        net = Net(100 * number + seed)
        symbol = make(net)
        for channels_last in (True, False):
            graph = graph_of(symbol, net)
            assert through is None or through in graph.operators(), f"the case has no {through}: {graph.operators()}"
            name = f"case{len(wanted)}"
            module = from_graph(graph, channels_last=channels_last, function=name, builder=builder)
            wanted.append((name, net, symbol, channels_last))
    machine = built(module)
    for name, net, symbol, channels_last in wanted:
        values = [tvm.runtime.tensor(array) for array in net.inputs.values()]
        for got, expected in zip(arrays(machine[name](*values)), expected_of(symbol, net), strict=True):
            assert got.shape == expected.shape, (name, channels_last)
            assert got.dtype == expected.dtype, (name, channels_last)
            np.testing.assert_allclose(
                got, expected, rtol=rtol, atol=atol, err_msg=f"{symbol.tojson()}, channels_last={channels_last}"
            )


# ---- cases: convolutions ---------------------------------------------------------------------------------------------


def convolve(net, x, channels, filters=None, kernel=(3, 3), groups=1, bias=None, **attrs):
    filters = filters or groups * net.size(1, 3)
    bias = net.choice(True, False) if bias is None else bias
    weight = net.param(filters, channels // groups, *kernel)
    terms = [net.param(filters)] if bias else []
    return S.Convolution(
        x, weight, *terms, kernel=kernel, num_filter=filters, num_group=groups, no_bias=not bias, **attrs
    )


@case("Convolution", seeds=3)
def _(net):
    x, _ = net.map(channels=4)
    groups = net.choice(1, 2, 4)
    stride, dilate, pad = net.choice(None, (2, 1)), net.choice(None, (1, 2)), (net.size(0, 2), net.size(0, 2))
    attrs = {key: value for key, value in (("stride", stride), ("dilate", dilate), ("pad", pad)) if value}
    return convolve(net, x, 4, groups=groups, kernel=(net.size(1, 3), net.size(1, 3)), **attrs)


@case("Convolution")
def _(net):  # one axis
    return convolve(net, net.input(2, 4, 12), 4, kernel=(3,), stride=(2,), pad=(1,), groups=2)


@case("Convolution", seeds=1)
def _(net):  # weights that are no constant
    x, _ = net.map(channels=3)
    weight, bias = net.input(4, 3, 3, 3, low=-1, high=1), net.input(4)
    return S.Convolution(x, weight, bias, kernel=(3, 3), num_filter=4)


@case("Deconvolution", seeds=4)
def _(net):
    groups = net.choice(1, 2, 4)
    x, _ = net.map(channels=4)
    filters, kernel, stride = net.size(1, 2), (net.size(2, 4), net.size(2, 4)), (net.size(1, 3), net.size(1, 3))
    bias = net.choice(True, False)
    adj = tuple(min(net.size(0, 1), s - 1) for s in stride)
    terms = [net.param(4, filters, *kernel), *([net.param(filters * groups)] if bias else [])]
    attrs = {"no_bias": False} if bias else net.choice({}, {"no_bias": True})
    return S.Deconvolution(
        x, *terms, kernel=kernel, stride=stride, pad=(1, 0), adj=adj, num_filter=filters * groups, num_group=groups,
        **attrs,
    )  # fmt: skip


@case("Deconvolution", seeds=1)
def _(net):
    x, _ = net.map(channels=4, height=5, width=7)
    attrs = {"kernel": (4, 4), "stride": (2, 2), "num_filter": 2}
    # Its backend on CPU takes no other shape than this one; see below for others.
    return S.Deconvolution(x, net.param(4, 2, 4, 4), target_shape=(12, 16), **attrs)


@case("Deconvolution", seeds=1)
def _(net):  # weights that are no constant
    x, _ = net.map(channels=2)
    return S.Deconvolution(x, net.input(2, 3, 3, 3), kernel=(3, 3), stride=(2, 2), num_filter=3, no_bias=True)


def normalised(net, x, channels, name="BatchNorm", **attrs):
    terms = [net.param(channels) for _ in range(3)]
    variance = net.param(array=net.rng.uniform(0.5, 2, channels))
    return operator(name)(x, *terms, variance, **attrs)


@case("BatchNorm")
def _(net):
    x, shape = net.map()
    x = normalised(net, S.relu(x), shape[1], fix_gamma=net.choice(True, False), eps=1e-3)
    return normalised(net, S.transpose(x, (0, 2, 3, 1)), shape[1], axis=-1, fix_gamma=False)


@case("BatchNorm", seeds=1)
def _(net):
    return normalised(net, net.input(3, 5), 5, fix_gamma=False)


@case("_contrib_SyncBatchNorm", seeds=1)
def _(net):
    x, shape = net.map()
    return normalised(net, S.relu(x), shape[1], "_contrib_SyncBatchNorm", fix_gamma=False, key="a")


@case("FullyConnected")
def _(net):
    x, shape = net.map()
    x = S.FullyConnected(x, net.param(5, int(np.prod(shape[1:]))), net.param(5), num_hidden=5)
    return S.FullyConnected(x, net.param(4, 5), num_hidden=4, no_bias=True)


@case("FullyConnected")
def _(net):
    x, shape = net.map()
    return S.FullyConnected(x, net.param(4, shape[3]), net.param(4), num_hidden=4, flatten=False)


@case("FullyConnected", seeds=1)
def _(net):
    return S.FullyConnected(net.input(2, 3), net.input(4, 3), net.input(4), num_hidden=4)


# ---- cases: element by element ---------------------------------------------------------------------------------------


@case("Activation", seeds=1)
def _(net):
    kinds = ("relu", "sigmoid", "tanh", "softrelu", "softsign")
    return S.Group([S.Activation(net.map()[0], act_type=kind) for kind in kinds])


BOUNDS = {
    **dict.fromkeys(("log", "log10", "log2", "sqrt", "rsqrt", "cbrt", "reciprocal"), (0.1, 5)),
    **dict.fromkeys(("arcsin", "arccos", "arctanh"), (-0.9, 0.9)),
    "arccosh": (1.1, 4),
    "log1p": (-0.5, 3),
    "tan": (-1.2, 1.2),
}
UNARY = (
    "abs", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "cbrt", "ceil", "cos", "cosh", "degrees",
    "erf", "exp", "expm1", "fix", "floor", "log", "log10", "log1p", "log2", "negative", "radians", "reciprocal", "relu",
    "rint", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "softsign", "sqrt", "square", "tan", "tanh", "trunc",
    "_copy", "BlockGrad", "make_loss", "MakeLoss", "Dropout", "hard_sigmoid", "logical_not",
)  # fmt: skip


@case(*UNARY, seeds=1)
def _(net, name):
    steps = name in ("ceil", "fix", "floor", "rint", "round", "sign", "trunc", "logical_not")
    x = net.map()[0] / 4 if steps else net.value(*BOUNDS.get(name, (-3, 3)))
    return operator(name)(operator(name)(x) if name in ("_copy", "Dropout") else x)


@case("cbrt", seeds=1)
def _(net):
    return S.cbrt(net.map()[0])


@case("hard_sigmoid", seeds=1)
def _(net):
    return S.hard_sigmoid(net.map()[0], alpha=0.3, beta=0.25)


@case("zeros_like", "ones_like", seeds=1)
def _(net, name):
    # Alone, a graph's constants are computed while it is read.
    return operator(name)(net.map()[0])


@case("Cast", "amp_cast", seeds=1)
def _(net, name):
    x, _ = net.map()
    kinds = [operator(name)(x, dtype=kind) for kind in (("int32", "float64") if name == "Cast" else ("float16",))]
    return S.Group([*kinds, operator(name)(kinds[0], dtype="float32"), operator(name)(x, dtype="float32")])


@case("clip")
def _(net):
    return S.clip(net.map()[0], -2, 3.5)


@case("LeakyReLU", seeds=1)
def _(net):
    kinds = [{}, {"slope": 0.1}, {"act_type": "elu", "slope": 0.7}, {"act_type": "selu"}, {"act_type": "gelu"}]
    kinds += [{"act_type": "rrelu"}, {"act_type": "rrelu", "lower_bound": 0.2, "upper_bound": 0.3}]
    return S.Group([S.LeakyReLU(net.value(-4, 4), **kind)[0] for kind in kinds])


@case("LeakyReLU", seeds=1)
def _(net):
    x, shape = net.map()
    slopes = [net.param(shape[1]), net.param(1), net.input(shape[1])]
    flat = S.LeakyReLU(net.input(3, 4), net.param(4), act_type="prelu")
    return S.Group([*(S.LeakyReLU(x, slope, act_type="prelu") for slope in slopes), flat])


PAIRS = [name for name in CONVERTERS if name.startswith(("broadcast_", "elemwise_"))]
PAIRS = [name for name in PAIRS if name not in ("broadcast_to", "broadcast_like", "broadcast_axis")]
PLAIN_PAIRS = [f"_{name[10:]}" for name in PAIRS if f"_{name[10:]}" in CONVERTERS]


def second_operand(net, name, shape):
    """A second operand that the operator can take."""
    kind = name.strip("_").removeprefix("broadcast_").removeprefix("elemwise_")
    if kind == "power":
        return net.input(*shape, low=-2, high=2)
    return (
        net.input(array=net.rng.choice([-3, -1.5, 0.5, 2, 4], shape)) if kind in ("div", "mod") else net.input(*shape)
    )


@case(*PAIRS, *PLAIN_PAIRS, "_grad_add", seeds=1)
def _(net, name):
    x, shape = net.map()
    return operator(name)(S.abs(x) / 8 + 0.5 if "power" in name else x, second_operand(net, name, shape))


@case(*(name for name in PAIRS if name.startswith("broadcast_")), seeds=1)
def _(net, name):
    x, shape = net.map()
    return operator(name)(S.abs(x) / 4 + 1, second_operand(net, name, (1, shape[1], 1, 1)))


@case("broadcast_add", "broadcast_div", "broadcast_mod", "broadcast_equal", "broadcast_maximum", seeds=1)
def _(net, name):  # whole numbers, and a constant that is computed while reading
    x, _ = net.map()
    indices = S.Cast(S.abs(x), dtype="int64")
    return operator(name)(indices, S.reshape(S.slice_axis(S.shape_array(x), axis=0, begin=3, end=4), (1, 1, 1, 1)))


@case("broadcast_mod", seeds=1)
def _(net):
    return S.broadcast_mod(net.map()[0], net.param(1, 1, 1, 1) * 0)


SCALARS = [name for name in CONVERTERS if name.endswith("_scalar")]


@case(*SCALARS, seeds=1)
def _(net, name):
    x, kind = net.map()[0], name[1:-7]
    if kind in ("power", "rpower", "rdiv", "rmod"):
        x = S.abs(x) + 0.5
    whole = (
        operator(name)(S.Cast(S.abs(x) + 1, dtype="int32"), scalar=3) if kind not in ("rpower", "power", "hypot") else x
    )
    return S.Group([operator(name)(x, scalar=1.5), whole])


@case("add_n", seeds=1)
def _(net):
    x, shape = net.map()
    return S.add_n(net.input(*shape), x, net.input(*shape))


@case("where", seeds=1)
def _(net):
    x, shape = net.map()
    chosen = net.input(*shape) > 0
    rows = S.where(net.input(shape[0], low=0, high=1), x, net.input(*shape))
    return S.Group([S.where(chosen, x, net.input(*shape)), S.where(x > 1, x, x * 0.5), rows])


@case("where", seeds=1)
def _(net):
    return S.where(net.input(array=[0, 2, -1]), net.input(3, 4), net.input(3, 4))


# ---- cases: shapes ---------------------------------------------------------------------------------------------------


@case("Reshape")
def _(net):
    x, _ = net.map(channels=4)
    codes = [(0, -1), (-2,), (0, 0, -3), (0, -4, 2, -1, 0, 0), (0, 4, -1, 1)]
    return S.Group([*(S.reshape(x, code) for code in codes), S.reshape(x, (-1, 0), reverse=True)])


@case("Reshape", seeds=1)
def _(net):  # a map of one cell, and of one channel, lies alike in both orders
    x = S.reshape(S.Pooling(net.map(batch=2, channels=4)[0], global_pool=True, pool_type="avg", kernel=(1, 1)), (2, 4))
    y, _ = net.map(channels=1)
    return S.Group([x, S.reshape(y, (0, -1))])


@case("Flatten", "expand_dims", "squeeze", "reshape_like", seeds=1)
def _(net, name):
    if name == "Flatten":
        return S.flatten(net.map()[0])
    x, shape = net.map(channels=1)
    if name == "expand_dims":
        return S.Group([S.expand_dims(x, axis=1), S.expand_dims(S.sum(x, axis=1), axis=-1)])
    if name == "reshape_like":
        return S.reshape_like(x, net.input(shape[0], 1, shape[3], shape[2]))
    return S.Group([S.squeeze(x, axis=1), S.squeeze(S.sum(x, axis=(0, 2), keepdims=True))])


@case("transpose", seeds=1)
def _(net):
    x, _ = net.map()
    orders = [(0, 2, 3, 1), (0, 3, 1, 2), (2, 1, 0, 3), ()]
    flat = S.transpose(net.input(3, 4, 5), axes=(1, 2, 0))
    return S.Group([*(S.transpose(x, axes=axes) for axes in orders), flat])


@case("transpose", seeds=1)
def _(net):  # an image that comes channels-last
    x = S.transpose(net.input(2, 6, 7, 3), axes=(0, 3, 1, 2))
    return S.Group([x, convolve(net, x, 3)])


@case("SwapAxis", seeds=1)
def _(net):
    x, _ = net.map()
    return S.Group([S.SwapAxis(x, dim1=1, dim2=3), S.SwapAxis(x, dim1=-1, dim2=0), S.SwapAxis(net.input(2, 3))])


@case("Concat", seeds=1)
def _(net):
    x, shape = net.map()
    parts = [S.concat(x, net.input(*shape), S.relu(x), dim=axis) for axis in (1, 0, -1)]
    return S.Group([*parts, S.concat(net.input(2, 3), net.input(2, 4))])


@case("stack", seeds=1)
def _(net):
    x, shape = net.map()
    flat = S.stack(net.input(2, 3, 4), net.input(2, 3, 4), axis=1)
    return S.Group([S.stack(x, net.input(*shape), axis=axis) for axis in (0, 2, -1)] + [flat, S.stack(x)])


@case("SliceChannel", seeds=1)
def _(net):
    x, _ = net.map(channels=4, height=6)
    y, _ = net.map(channels=2, batch=2)
    parts = [*S.split(x, num_outputs=2), *S.split(x, num_outputs=3, axis=2)]
    parts += [*S.split(y, num_outputs=2, squeeze_axis=True), *S.split(y, num_outputs=2, axis=0, squeeze_axis=True)]
    return S.Group([*parts, *S.split(net.input(3, 4), num_outputs=4, axis=-1, squeeze_axis=1)])


@case("_split_v2", seeds=1)
def _(net):
    x, _ = net.map(channels=6)
    parts = [*S.split_v2(x, (1, 3), axis=1), *S.split_v2(x, 3, axis=1), *S.split_v2(x, (2,), axis=-1)]
    return S.Group([*parts, *S.split_v2(net.input(2, 3), 3, axis=1, squeeze_axis=True)])


@case("slice_axis", seeds=1)
def _(net):
    x, _ = net.map(channels=5)
    what = [(1, 1, None), (-1, -3, -1), (2, 0, 4), (1, -2, None)]
    return S.Group([S.slice_axis(x, axis=axis, begin=begin, end=end) for axis, begin, end in what])


@case("slice", seeds=1)
def _(net):
    x, _ = net.map(channels=5)
    what = [
        ((0, 1), (None, 3), ()),
        ((None, None, -4), (None, None, -1), ()),
        ((0, -1, None), (1, 0, None), (1, -2, 2)),
    ]
    what += [((None, None, None, 4), (None, None, None, None), (None, None, -1, -1)), ((0, 0, 1), (1, 9, 99), ())]
    return S.Group([S.slice(x, begin=begin, end=end, step=step) for begin, end, step in what])


@case("slice_like", seeds=1)
def _(net):
    x, shape = net.map(height=8, width=8)
    y, _ = net.map(batch=shape[0], channels=shape[1], height=5, width=6)
    return S.Group([S.slice_like(x, y), S.slice_like(x, y, axes=(-1,)), S.slice_like(x, net.input(1, 1), axes=(0, 1))])


@case("Crop", seeds=1)
def _(net):
    x, _ = net.map(height=8, width=9)
    y, _ = net.map(height=5, width=4)
    cuts = [
        S.Crop(x, y, num_args=2, offset=(1, 3)),
        S.Crop(x, y, num_args=2, center_crop=True),
        S.Crop(x, y, num_args=2),
    ]
    return S.Group(
        [*cuts, S.Crop(x, num_args=1, h_w=(3, 4), offset=(2, 1)), S.Crop(x, num_args=1, h_w=(5, 6), center_crop=1)]
    )


@case("Pad", seeds=1)
def _(net):
    x, _ = net.map()
    widths = (0, 0, 0, 0, 1, 2, 3, 1)
    pads = [S.pad(x, mode=mode, pad_width=widths) for mode in ("edge", "reflect")]
    return S.Group([*pads, *(S.pad(x, mode="constant", pad_width=widths, constant_value=v) for v in (0, -2.5))])


@case("tile", seeds=1)
def _(net):
    x, _ = net.map()
    return S.Group([S.tile(x, reps=reps) for reps in ((2, 1, 1, 3), (2,), (2, 3), (2, 1, 1, 1, 2))])


@case("repeat", seeds=1)
def _(net):
    x, _ = net.map()
    return S.Group([S.repeat(x, repeats=2, axis=1), S.repeat(x, repeats=3, axis=-1), S.repeat(x, repeats=2)])


@case("reverse", seeds=1)
def _(net):
    x, _ = net.map()
    return S.Group([S.reverse(x, axis=1), S.reverse(x, axis=(2, 3)), S.flip(x, axis=0)])


@case("broadcast_to", "broadcast_like", "broadcast_axis", seeds=1)
def _(net, name):
    x, shape = net.map(channels=1)
    x = S.sum(x, axis=2, keepdims=True)
    if name == "broadcast_to":
        return S.Group([S.broadcast_to(x, shape=(0, 5, 4, 0)), S.broadcast_to(net.input(1, 3), shape=(4, 3))])
    if name == "broadcast_axis":
        return S.Group([S.broadcast_axis(x, axis=(1, 2), size=(3, 4)), S.broadcast_axis(x, axis=2, size=2)])
    other = net.input(shape[0], 4, 5, shape[3])
    return S.Group([S.broadcast_like(x, other), S.broadcast_like(x, other, lhs_axes=(1, 2), rhs_axes=(2, -3))])


# ---- cases: maps -----------------------------------------------------------------------------------------------------


@case("Pooling", seeds=3)
def _(net):
    x, _ = net.map()
    results = []
    for kind in ("max", "avg", "sum"):
        for convention in ("valid", "full"):
            kernel = (net.size(2, 3), net.size(2, 3))
            attrs = {"kernel": kernel, "stride": (net.size(1, 3), net.size(1, 3)), "pooling_convention": convention}
            attrs["pad"] = tuple(net.size(0, side // 2) for side in kernel)
            if kind == "avg":
                attrs |= net.choice({}, {"count_include_pad": True}, {"count_include_pad": False})
            results.append(S.Pooling(x, pool_type=kind, **attrs))
    return S.Group(results)


@case("Pooling", seeds=1)
def _(net):
    x, _ = net.map()
    whole = [S.Pooling(x, global_pool=True, kernel=(2, 2), pool_type=kind) for kind in ("max", "avg", "sum")]
    whole.append(S.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="lp", p_value=2))
    lp = [S.Pooling(x, kernel=(2, 3), stride=(2, 2), pool_type="lp", p_value=p) for p in (1, 2, 3)]
    return S.Group([*whole, *lp, S.Pooling(x, kernel=(2, 2))])


@case("Pooling", seeds=1)
def _(net):
    x = net.input(2, 3, 11)
    kinds = [
        {"pool_type": "max"},
        {"pool_type": "avg", "pad": (1,)},
        {"pool_type": "sum", "pooling_convention": "full"},
    ]
    whole = S.Pooling(x, kernel=(1,), global_pool=True, pool_type="avg")
    return S.Group([*(S.Pooling(x, kernel=(3,), stride=(2,), **kind) for kind in kinds), whole])


@case("_contrib_AdaptiveAvgPooling2D", seeds=1)
def _(net):
    x, _ = net.map(height=8, width=9)
    return S.Group([S.contrib.AdaptiveAvgPooling2D(x, output_size=size) for size in (1, (4, 3), 5, (3, 7))])


@case("_contrib_BilinearResize2D", seeds=2)
def _(net):
    x, _ = net.map(height=net.choice(5, 6), width=7)
    resize = S.contrib.BilinearResize2D
    results = [resize(x, height=h, width=w) for h, w in ((9, 12), (3, 4), (1, 6), (1, 1), (10, 7))]
    results += [resize(x, height=h, width=w, align_corners=False) for h, w in ((9, 12), (3, 4), (12, 14))]
    results += [resize(x, scale_height=2, scale_width=1.5, mode="odd_scale")]
    results += [resize(x, mode=f"to_{kind}") for kind in ("even_down", "even_up", "odd_down", "odd_up")]
    return S.Group([*results, resize(x, net.map(height=4, width=11)[0], mode="like")])


@case("UpSampling", seeds=1)
def _(net):
    x, shape = net.map(height=4, width=6)
    y, _ = net.map(batch=shape[0], channels=shape[1], height=2, width=3)
    both = [
        S.UpSampling(x, y, scale=2, sample_type="nearest", num_args=2, multi_input_mode=mode)
        for mode in ("concat", "sum")
    ]
    return S.Group([S.UpSampling(x, scale=3, sample_type="nearest", num_args=1), *both])


@case("UpSampling", seeds=2)
def _(net):
    x, shape = net.map()
    scale = net.choice(2, 3)
    weight = net.param(shape[1], 1, *[2 * scale - scale % 2] * 2)
    return S.UpSampling(x, weight, scale=scale, sample_type="bilinear", num_filter=shape[1], num_args=2)


def shuffled(x, block, axes, split):
    return S.reshape(S.transpose(S.reshape(x, split), axes), (0, 0, -3, -3))


@case("_pixel_shuffle", seeds=2)
def _(net):
    x, _ = net.map(channels=12)
    f, g = net.choice((2, 2), (3, 2))
    y = x.reshape((0, -4, -1, f * g, 0, 0)).reshape((0, 0, -4, f, g, 0, 0)).transpose((0, 1, 4, 2, 5, 3))
    z = x.reshape((0, -4, f, -1, 0, 0)).reshape((0, 0, -4, g, -1, 0, 0)).transpose((0, 3, 4, 1, 5, 2))
    return S.Group([y.reshape((0, 0, -3, -3)), z.reshape((0, 0, -3, -3))])


@case("_channel_shuffle", seeds=2)
def _(net):
    x, shape = net.map(channels=3)
    stack = S.stack(x, x * 2, net.input(*shape), axis=2)
    return S.Group([stack.reshape((0, -3, 0, 0)), stack.reshape((0, -1, *shape[2:]))])


@case("depth_to_space", "space_to_depth", seeds=2)
def _(net, name):
    x, _ = net.map(channels=8, height=6, width=4)
    return operator(name)(x, block_size=2)


def deformable(net, name, groups, deform):
    x, shape = net.map(channels=4, height=7, width=6)
    kernel, pad, stride, dilate = (3, 2), (1, 1), (net.size(1, 2), 1), (1, net.size(1, 2))
    attrs = {"kernel": kernel, "pad": pad, "stride": stride, "dilate": dilate, "num_filter": 4, "num_group": groups}
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(shape[2:], pad, dilate, kernel, stride)]
    terms = [net.input(shape[0], 2 * deform * 6, *out, low=-3, high=3)]
    if "Modulated" in name:
        terms.append(net.input(shape[0], deform * 6, *out, low=0, high=1))
    terms.append(net.param(4, 4 // groups, *kernel))
    bias = net.choice(True, False)
    terms += [net.param(4)] if bias else []
    return operator(name)(x, *terms, num_deformable_group=deform, no_bias=not bias, **attrs)


@case("_contrib_DeformableConvolution", "_contrib_ModulatedDeformableConvolution", seeds=2)
def _(net, name):
    return deformable(net, name, net.choice(1, 2), net.choice(1, 2, 4))


@case("_contrib_DeformableConvolution", "_contrib_ModulatedDeformableConvolution", seeds=1)
def _(net, name):
    return deformable(net, name, 1, 1)


@case("_contrib_DeformableConvolution", "_contrib_ModulatedDeformableConvolution", seeds=1)
def _(net, name):
    x, shape = net.map(channels=2)
    maps = [net.input(shape[0], 18, *shape[2:]), *([net.input(shape[0], 9, *shape[2:])] if "Mod" in name else [])]
    attrs = {"kernel": (3, 3), "pad": (1, 1), "num_filter": 3, "no_bias": True}
    return operator(name)(x, *maps, net.input(3, 2, 3, 3, low=-1, high=1), **attrs)


def regions(net, count=5):
    corners = net.rng.uniform(-4, 30, (count, 4))
    batch = net.rng.integers(0, 2, (count, 1))
    boxes = np.concatenate(
        [batch, np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    boxes[0, 3:] = boxes[0, 1:3] + 0.5  # smaller than a cell
    return net.input(array=boxes)


@case("_contrib_ROIAlign", seeds=2)
def _(net):
    x, _ = net.map(batch=2, height=7, width=8)
    options = [{"sample_ratio": 2}, {}, {"sample_ratio": 2, "aligned": True}, {"aligned": True}, {"sample_ratio": 1}]
    return S.Group(
        [S.contrib.ROIAlign(x, regions(net), pooled_size=(2, 3), spatial_scale=0.25, **option) for option in options]
    )


@case("ROIPooling", seeds=2)
def _(net):
    x, _ = net.map(batch=2, height=7, width=8)
    return S.ROIPooling(x, regions(net), pooled_size=(2, 3), spatial_scale=0.25)


# ---- cases: normalisation, reductions, products ----------------------------------------------------------------------


@case("LayerNorm", seeds=1)
def _(net):
    x, shape = net.map()
    results = [S.LayerNorm(x, net.param(shape[axis]), net.param(shape[axis]), axis=axis) for axis in (1, -1)]
    return S.Group([*results, S.LayerNorm(net.input(3, 6), net.param(6), net.input(6), eps=1e-3)])


@case("InstanceNorm", seeds=1)
def _(net):
    x, shape = net.map()
    flat = S.InstanceNorm(net.input(2, 3, 7), net.param(3), net.param(3), eps=1e-2)
    return S.Group([S.InstanceNorm(x, net.param(shape[1]), net.param(shape[1])), flat])


@case("GroupNorm", seeds=1)
def _(net):
    x, _ = net.map(channels=6)
    flat = S.GroupNorm(net.input(2, 4, 5), net.param(2), net.input(2), num_groups=2)
    results = [S.GroupNorm(x, net.param(groups), net.param(groups), num_groups=groups, eps=1e-3) for groups in (1, 3)]
    return S.Group([*results, flat])


@case("L2Normalization", seeds=1)
def _(net):
    x, _ = net.map()
    results = [S.L2Normalization(x, mode=mode, eps=1e-3) for mode in ("channel", "spatial", "instance")]
    return S.Group([*results, S.L2Normalization(net.input(3, 4))])


@case("softmax", "log_softmax", "softmin", seeds=1)
def _(net, name):
    x, _ = net.map()
    results = [operator(name)(x, axis=axis) for axis in (1, -1)]
    return S.Group([*results, operator(name)(net.input(3, 4)), operator(name)(x, axis=1, temperature=2.0)])


@case("SoftmaxActivation", seeds=1)
def _(net):
    x, _ = net.map()
    kinds = [S.SoftmaxActivation(x, mode="channel"), S.SoftmaxActivation(x)]
    return S.Group([*kinds, S.SoftmaxActivation(net.input(3, 4))])


@case("sum", "mean", "max", "min", "prod", seeds=1)
def _(net, name):
    x, reduce = net.value(0.5, 1.5), operator(name)
    results = [reduce(x, axis=axis) for axis in (1, (2, 3), (0, -1))]
    results += [reduce(x, axis=(1, 2), keepdims=True), reduce(x, axis=1, exclude=True), reduce(x, axis=0)]
    return S.Group([*results, reduce(x), reduce(net.input(3, 2), axis=1), reduce(x, keepdims=True)])


@case("norm", seeds=1)
def _(net):
    x, _ = net.map()
    results = [S.norm(x, ord=order, axis=axis) for order in (1, 2) for axis in (1, (2, 3))]
    return S.Group([*results, S.norm(x), S.norm(x, axis=1, keepdims=True), S.norm(net.input(3, 4), axis=-1)])


@case("_np_cumsum", seeds=1)
def _(net):
    return S.Group([S.cumsum(net.map()[0], axis=axis) for axis in (1, 3)] + [S.cumsum(net.input(3, 4))])


@case("dot", seeds=1)
def _(net):
    results = [S.dot(net.input(2, 3, 4), net.input(4, 5)), S.dot(net.input(4, 2, 3), net.param(4, 5), transpose_a=True)]
    results += [S.dot(net.input(2, 4), net.input(5, 4), transpose_b=True)]
    results += [S.dot(net.input(2, 4), net.input(3, 5, 4), transpose_b=True)]
    return S.Group([*results, S.dot(net.input(4), net.input(4))])


@case("batch_dot", seeds=1)
def _(net):
    results = []
    for a in (False, True):
        for b in (False, True):
            first, second = net.input(2, *((4, 3) if a else (3, 4))), net.input(2, *((5, 4) if b else (4, 5)))
            results.append(S.batch_dot(first, second, transpose_a=a, transpose_b=b))
    return S.Group(results)


# ---- cases: indices --------------------------------------------------------------------------------------------------


@case("argmax", "argmin", seeds=1)
def _(net, name):
    x, find = net.map()[0], operator(name)
    results = [find(x, axis=1), find(x, axis=-1, keepdims=True), find(x, axis=2)]
    return S.Group([*results, find(x), find(net.input(3, 7), axis=0)])


@case("argmax_channel", seeds=1)
def _(net):
    return S.argmax_channel(net.input(4, 7))


@case("topk", seeds=1)
def _(net):
    results = []
    for kind in ("indices", "value", "both", "mask"):
        x = net.distinct(2, 5, 4)
        results += [
            S.topk(x, axis=1, k=3, ret_typ=kind),
            S.topk(x, k=0, ret_typ=kind, is_ascend=True),
            S.topk(x, ret_typ=kind),
        ]
    results += [S.topk(net.distinct(3, 4), axis=None, k=5), S.topk(net.distinct(2, 6), k=2, dtype="int32")]
    return S.Group([part for result in results for part in result])


@case("sort", "argsort", seeds=1)
def _(net, name):
    find = operator(name)
    results = [find(net.distinct(2, 5, 4), axis=axis) for axis in (0, 1, -1)]
    return S.Group([*results, find(net.distinct(3, 4), is_ascend=False), find(net.distinct(3, 4), axis=None)])


@case("take", seeds=1)
def _(net):
    x, _ = net.map(channels=5)
    results = [S.take(x, net.input(array=[0, 2, 7, -1]), axis=1, mode=mode) for mode in ("clip", "wrap")]
    results += [S.take(x, net.input(array=[[0, 1], [2, 3]]), axis=-1), S.take(x, net.param(array=[1, 0]), axis=2)]
    return S.Group([*results, S.take(net.input(5, 3), net.input(array=[4.0, 1.0]))])


@case("Embedding", seeds=1)
def _(net):
    return S.Embedding(net.input(array=[[0, 3], [5, 2]]), net.param(6, 4), input_dim=6, output_dim=4)


@case("pick", seeds=1)
def _(net):
    x = net.input(2, 5, 4)
    results = [S.pick(x, net.input(array=net.rng.integers(-1, 7, (2, 4))), axis=1, mode=m) for m in ("clip", "wrap")]
    results += [S.pick(x, net.input(array=net.rng.integers(0, 4, (2, 5, 1))), keepdims=True)]
    return S.Group([*results, S.pick(net.input(3, 4), net.input(array=[0, 3, 1]))])


@case("gather_nd", seeds=1)
def _(net):
    x = net.input(3, 4, 5)
    places = [net.rng.integers(0, 3, (1, 6)), net.rng.integers(0, 3, (2, 2, 3)), net.rng.integers(0, 3, (3, 4))]
    return S.Group([S.gather_nd(x, net.input(array=place)) for place in places])


@case("one_hot", seeds=1)
def _(net):
    index = net.input(array=[[0, 3], [5, -1]])
    whole = S.one_hot(index, depth=3, dtype="int32")
    return S.Group([S.one_hot(index, depth=4), S.one_hot(index, depth=6, on_value=2, off_value=-1), whole])


# ---- cases: boxes ----------------------------------------------------------------------------------------------------


@case("_contrib_box_decode", seeds=2)
def _(net):
    anchors = np.abs(net.rng.normal(size=(1, 7, 4)))
    anchors[..., 2:] += anchors[..., :2]
    decode, moves = S.contrib.box_decode, net.input(2, 7, 4, low=-1, high=1)
    results = [decode(moves, net.input(array=anchors), format=kind) for kind in ("corner", "center")]
    options = {"std0": 0.1, "std1": 0.2, "std2": 0.3, "std3": 0.4, "clip": 0.15}
    return S.Group(
        [*results, decode(moves, net.param(array=anchors), **options), decode(moves, net.param(array=anchors))]
    )


def rows(net, count=14, corner=True, width=6):
    """Boxes with well separated scores and overlaps."""
    low, extent = net.rng.uniform(0, 6, (2, count, 2)), net.rng.uniform(1, 5, (2, count, 2))
    table = np.zeros((2, count, width))
    table[..., 0] = net.rng.integers(0, 3, (2, count))
    table[..., 1] = np.stack([net.rng.permutation(count) for _ in range(2)]) / count
    table[..., 2:6] = np.concatenate([low, low + extent] if corner else [low + extent / 2, extent], -1)
    return net.input(array=table)


@case("_contrib_box_nms", seeds=2)
def _(net):
    nms = S.contrib.box_nms
    results = []
    for corner in (True, False):
        kind = "corner" if corner else "center"
        for attrs in (
            {},
            {"id_index": 0},
            {"id_index": 0, "force_suppress": True},
            {"id_index": 0, "background_id": 1},
        ):
            attrs = {**attrs, "overlap_thresh": 0.4, "valid_thresh": 0.3, "in_format": kind, "out_format": kind}
            results.append(nms(rows(net, corner=corner), **attrs))
        other = "center" if corner else "corner"
        results.append(nms(rows(net, corner=corner), in_format=kind, out_format=other, overlap_thresh=0.3, topk=5))
    deep = S.reshape(rows(net), (1, 2, 14, 6))
    return S.Group([*results, nms(deep, topk=4), nms(rows(net, width=9), overlap_thresh=0.2)])


# ---- every operator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_operator_gives_what_mxnet_gives(name):
    check(CASES[name], through=None if name in ("zeros_like", "ones_like") else name, rtol=2e-5, atol=2e-5)


def test_every_row_of_the_table_has_a_case():
    # What a rewriting puts in is tested with it.
    assert sorted(set(CONVERTERS) - set(CASES) - {NORMALISE}) == []
    assert sorted(set(CASES) - set(CONVERTERS)) == []


# ---- the importer ----------------------------------------------------------------------------------------------------


def test_all_operators_without_a_converter_are_named_at_once_and_before_any_work(monkeypatch):
    x = S.var("data")
    worked = []
    monkeypatch.setitem(CONVERTERS, "relu", lambda e, node: worked.append(node))
    symbol = S.Correlation(S.LRN(S.relu(x), nsize=3, name="norm_a"), S.LRN(x, nsize=3), name="cost")
    with pytest.raises(DeployError, match=r"Correlation \(1 times, such as cost\), LRN \(2 times, such as norm_a\)"):
        from_mxnet(symbol, {}, {"data": (1, 2, 6, 6)})
    assert worked == []


def test_operators_with_shapes_that_depend_on_values_are_refused():
    symbol = S.contrib.boolean_mask(S.var("data"), S.var("mask"))
    with pytest.raises(DeployError, match=r"shapes of \S+ \(_contrib_boolean_mask\) do not follow"):
        from_mxnet(symbol, {}, {"data": (4, 3), "mask": (4,)})


def test_attributes_that_cannot_be_written_are_named():
    x, cube = S.var("data"), (1, 3, 4, 4, 4)
    refused = [
        (S.Convolution(x, S.var("w"), num_filter=2, kernel=(1, 1, 1), no_bias=True, name="a"), cube, "3 spatial axes"),
        (S.Pooling(x, kernel=(2, 2, 2), name="a"), cube, "3 spatial axes"),
        (S.softmax(x, S.var("w"), use_length=True, name="a"), (2, 3), "use_length"),
        (S.Deconvolution(x, S.var("w"), kernel=(1, 1), dilate=(2, 1), num_filter=2, name="a"), cube[:4], "dilate"),
    ]
    for symbol, shape, what in refused:
        size = symbol.infer_shape_partial(data=shape)[0]
        params = {
            name: np.ones(side, np.float32) for name, side in zip(symbol.list_arguments(), size) if name != "data"
        }
        with pytest.raises(DeployError, match=f"^a: .* with {what}"):
            from_mxnet(symbol, params, {"data": shape})
    symbol = S.contrib.ROIAlign(
        x, S.var("rois"), pooled_size=(2, 2), spatial_scale=1.0, position_sensitive=True, name="a"
    )
    with pytest.raises(DeployError, match="^a: .* with position_sensitive"):
        from_mxnet(symbol, {}, {"data": (1, 4, 4, 4), "rois": (1, 5)})


@pytest.mark.parametrize("target", [(9, 14), (10, 13), (12, 15)])
def test_a_deconvolution_to_a_target_shape_is_one_with_the_pads_that_give_it(target):
    net = Net(0)
    x, weight = net.input(1, 2, 5, 7), net.param(2, 3, 4, 4)
    attrs = {"kernel": (4, 4), "stride": (2, 2), "num_filter": 3}
    spare = [whole - side for whole, side in zip((12, 16), target)]
    pad, adj = tuple((side + 1) // 2 for side in spare), tuple(side % 2 for side in spare)
    expected = expected_of(S.Deconvolution(x, weight, pad=pad, adj=adj, **attrs), net)[0]
    assert expected.shape == (1, 3, *target)
    for channels_last in (True, False):
        shapes = {"input0": (1, 2, 5, 7)}
        symbol = S.Deconvolution(x, weight, target_shape=target, **attrs)
        machine = built(from_mxnet(symbol, net.params, shapes, channels_last=channels_last))
        np.testing.assert_allclose(arrays(machine["main"](tensor(net.inputs["input0"])))[0], expected)


def test_several_graphs_can_be_functions_of_one_module():
    builder = relax.BlockBuilder()
    for size in (4, 6):
        graph = read_symbol(S.relu(S.var("data")) * 2, {}, {"data": (1, 2, size, size)})
        module = from_graph(graph, function=f"f{size}", builder=builder)
    machine = built(module)
    for size in (4, 6):
        assert arrays(machine[f"f{size}"](tensor(np.ones((1, 2, size, size)))))[0].sum() == 4 * size * size


def test_an_input_and_a_constant_can_be_outputs():
    x = S.var("data")
    symbol = S.Group([x, S.zeros_like(x)])
    machine = built(from_mxnet(symbol, {}, {"data": (2, 3)}))
    got = arrays(machine["main"](tensor(np.ones((2, 3)))))
    np.testing.assert_array_equal(got, [np.ones((2, 3)), np.zeros((2, 3))])


# ---- whole nets ------------------------------------------------------------------------------------------------------


def tensor(array):
    return tvm.runtime.tensor(np.asarray(array, np.float32))


def lively(net, shape, seed=0):
    """Weights under which values stay of one size from layer to layer, so that a wrong one shows at the end."""
    rng = np.random.default_rng(seed)
    net.initialize(mx.init.Zero())
    net(mx.nd.zeros(shape))
    for name, parameter in sorted(net.collect_params().items()):
        if name.endswith("weight"):
            fan_in = max(1, int(np.prod(parameter.shape[1:])))
            value = rng.normal(0, np.sqrt(1.4 / fan_in), parameter.shape)
        elif name.endswith(("gamma", "running_var", "moving_var")):
            value = rng.uniform(0.7, 1.3, parameter.shape)
        elif name.endswith(("beta", "bias", "running_mean", "moving_mean")):
            value = rng.normal(0, 0.1, parameter.shape)
        else:
            continue
        parameter.set_data(mx.nd.array(value))
    return net


def host(name, shape, **options):
    gluoncv = import_gluoncv()
    return lively(gluoncv.model_zoo.get_model(name, pretrained=False, **options), shape)


def imported(block, shape, channels_last=True):
    """Module of a block, its outputs followed by what goes into each NMS; and the same symbol for MXNet."""
    symbol, params = trace(block)
    internals = symbol.get_internals()
    nodes = json.loads(symbol.tojson())["nodes"]
    suppressions = [node for node in nodes if node["op"] == "_contrib_box_nms"]
    before = [internals[f"{nodes[node['inputs'][0][0]]['name']}_output"] for node in suppressions]
    after = [internals[f"{node['name']}_output0"] for node in suppressions]
    symbol = S.Group([*symbol, *before, *after])
    module = from_mxnet(symbol, params, {"data": shape}, channels_last=channels_last)
    return module, symbol, params, [node["attrs"] for node in suppressions]


def compare(block, shape, channels_last=True, seed=0):
    """Raw outputs against MXNet's within 1e-4 of their size; NMS on what went into it."""
    module, symbol, params, suppressions = imported(block, shape, channels_last)
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    got = arrays(built(module)["main"](tensor(image)))
    net = Net(seed)
    net.inputs, net.params = {"data": image}, params
    expected = expected_of(symbol, net)
    outputs = len(got) - 2 * len(suppressions)
    # Where there is an NMS, near ties may go the other way: it is compared on the same numbers.
    for a, b in list(zip(got, expected, strict=True))[0 if not suppressions else outputs :][
        : len(suppressions) or None
    ]:
        assert np.isfinite(b).all() and b.std() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1, np.abs(b).max()))
    for before, after, attrs in zip(got[outputs:], got[outputs + len(suppressions) :], suppressions):
        again = mx.nd.contrib.box_nms(mx.nd.array(before), **attrs).asnumpy()
        assert (again[..., 1] > 0).any()
        np.testing.assert_allclose(after, again, rtol=1e-5, atol=1e-5)
    return got


HOSTS = {
    "mobilenetv2_1.0": (1, 3, 64, 64),
    "resnet18_v1": (2, 3, 64, 96),
    "mobilenetv3_small": (1, 3, 64, 64),
    "ssd_512_mobilenet1.0_voc": (1, 3, 128, 128),
    "yolo3_mobilenet0.25_voc": (1, 3, 64, 64),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_net_of_gluoncv_gives_what_mxnet_gives(name):
    options = {"pretrained_base": False} if name.endswith("voc") else {}
    compare(host(name, HOSTS[name], **options), HOSTS[name])


def test_a_net_of_gluoncv_also_works_channels_first():
    compare(host("mobilenetv2_0.25", (1, 3, 64, 64)), (1, 3, 64, 64), channels_last=False)


@pytest.mark.parametrize("name", list_models(pretrained=True))
def test_a_trained_net_gives_what_mxnet_gives(name):
    if model_facts(name).task == "detection":
        # MaskFace's points of hundreds of such boxes would take minutes.
        few = {"post_nms": 8} if model_facts(name).system == "maskface" else {}
        net, size = get_model(name, pretrained=True, score_thresh=1e-4, **few), 128
    else:
        net, size = get_model(name, pretrained=True, size=64), 64
    compare(net, (1, 3, size, size))


def permutations(module):
    """How often a map's axes are permuted."""
    found = []

    def visit(expression):
        if isinstance(expression, relax.Call) and getattr(expression.op, "name", "") == "relax.permute_dims":
            axes = tuple(int(axis) for axis in expression.attrs.axes)
            if axes in (CHANNELS_LAST, CHANNELS_FIRST):
                found.append(axes)

    relax.analysis.post_order_visit(module["main"], visit)
    return found


@pytest.mark.parametrize("name", ["mobilenetv2_1.0", "resnet18_v1"])
def test_maps_of_a_classifier_stay_as_they_are_stored(name):
    module = imported(host(name, (1, 3, 64, 64)), (1, 3, 64, 64))[0]
    assert permutations(module) == [CHANNELS_LAST]  # the image


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("retinaface_mobilenet0.25_widerface", 0),  # its heads transpose maps to rows, as they already lie
        ("retinaface_resnet50_v1b_widerface", 0),
        ("heatmap_mobilenetv2_0.25_ss_jd106", 1),
        ("heatmap_mobilenetv2_1.0_sdd_jd106", 1),
        ("heatmap_mobilenetv3_sdd_jd106", 1),
        ("heatmap_resnet18_sdd_jd106", 1),
    ],
)
def test_maps_of_our_networks_stay_as_they_are_stored(name, outputs):
    net = get_model(name).network
    net.initialize()
    net(mx.nd.zeros((1, 3, 64, 64)))
    module = imported(net, (1, 3, 64, 64))[0]
    assert permutations(module) == [CHANNELS_LAST] + [CHANNELS_FIRST] * outputs
