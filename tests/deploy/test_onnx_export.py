"""Every row of the converter table against MXNet, run by onnxruntime; then whole nets."""

import functools
import json

import numpy as np
import pytest

import gluonface
from gluonface._compat import import_gluoncv, mx
from gluonface.deploy.symbol import read_symbol, trace
from gluonface.errors import DeployError, InputError

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install gluonface[deploy]")
ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install gluonface[bench]")
onnx_export = pytest.importorskip("gluonface.deploy.onnx_export")
CONVERTERS, export_onnx, to_onnx = onnx_export.CONVERTERS, onnx_export.export_onnx, onnx_export.to_onnx

S = mx.sym
SEEDS = range(4)


def run_onnx(model, inputs):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def run_mxnet(symbol, inputs, params):
    arrays = {name: mx.nd.array(a, dtype=a.dtype) for name, a in {**inputs, **params}.items()}
    executor = symbol.bind(
        mx.cpu(),
        {name: arrays[name] for name in symbol.list_arguments()},
        aux_states={name: arrays[name] for name in symbol.list_auxiliary_states()},
        grad_req="null",
    )
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def assert_same(symbol, inputs, params, *, opset=17, rtol=1e-4, atol=1e-5):
    """Shapes, types and numbers of all outputs."""
    model = to_onnx(symbol, params, {name: a.shape for name, a in inputs.items()}, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    found, expected = run_onnx(model, inputs), run_mxnet(symbol, inputs, params)
    assert [a.shape for a in found] == [a.shape for a in expected]
    assert [a.dtype for a in found] == [a.dtype for a in expected]
    for f, e in zip(found, expected):
        assert np.isfinite(e).all()
        np.testing.assert_allclose(f, e, rtol=rtol, atol=atol)


# ---- cases: operator -> function of (rng, seed) that gives symbol, inputs, parameters --------------------------------

CASES = {}


def case(*ops):
    def enter(function):
        for op in ops:
            CASES.setdefault(op, []).append(function)
        return function

    return enter


@functools.cache
def x(name="data"):
    """The variable of that name; all cases share it, as a net's layers share their input."""
    return S.var(name)


def normal(rng, *shape, scale=1.0):
    return rng.normal(0, scale, shape).astype(np.float32)


def shape_of(rng, dims):
    return tuple(int(side) for side in rng.integers(1, 6, dims))


def distinct(rng, *shape):
    """Numbers at least 0.1 apart, in random order."""
    count = int(np.prod(shape))
    return ((rng.permutation(count) - count / 2) * 0.1).astype(np.float32).reshape(shape)


#: Operator -> range of the numbers it gets.
RANGES = (
    ("abs ceil cbrt cos erf exp expm1 fix floor negative relu rint round sigmoid sign", -3, 3),
    ("arcsinh arctan degrees radians sin sinh cosh softsign square tanh trunc BlockGrad make_loss identity", -3, 3),
    ("log log10 log1p log2 rsqrt sqrt reciprocal", 0.1, 5),
    ("arccos arcsin arctanh tan", -0.9, 0.9),
    ("arccosh", 1.1, 5),
)
UNARY = {word: (low, high) for words, low, high in RANGES for word in words.split()}
NAMES = {"identity": "_copy"}


def unary_case(word, low, high):
    def function(rng, seed):
        data = rng.uniform(low, high, shape_of(rng, seed % 4 + 1)).astype(np.float32)
        if word in ("round", "fix", "trunc", "floor", "ceil", "rint", "sign"):
            data.flat[: data.size // 2] = np.round(data.flat[: data.size // 2] * 2) / 2
        return getattr(S, word)(x()), {"data": data}, {}

    return function


for word, (low, high) in UNARY.items():
    case(NAMES.get(word, word))(unary_case(word, low, high))


@case("logical_not")
def _(rng, seed):
    return S.logical_not(x()), {"data": rng.integers(-1, 2, (3, 4)).astype(np.float32)}, {}


@case("MakeLoss")
def _(rng, seed):
    return S.MakeLoss(x()), {"data": normal(rng, 2, 3)}, {}


@case("Dropout")
def _(rng, seed):
    return S.Dropout(x(), p=0.5), {"data": normal(rng, 2, 3)}, {}


@case("_identity_with_attr_like_rhs")
def _(rng, seed):
    symbol = S._internal._identity_with_attr_like_rhs(x(), x("b"))
    return symbol, {"data": normal(rng, 2, 3), "b": normal(rng, 2, 3)}, {}


ARITHMETIC = ("add", "sub", "mul", "div")
COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "lesser", "lesser_equal")
LOGICAL = ("logical_and", "logical_or", "logical_xor")
BINARY = (*ARITHMETIC, "mod", "power", "maximum", "minimum", "hypot", *COMPARISONS, *LOGICAL)
SCALARS = {"add": "plus", "sub": "minus"}


def operand(rng, word, shape):
    if word in ("mod", "div", "power"):
        return rng.uniform(0.5, 3, shape).astype(np.float32)
    # Whole numbers are often equal.
    return (
        rng.integers(-1, 2, shape).astype(np.float32) if "equal" in word or "logical" in word else normal(rng, *shape)
    )


def scalar_of(rng, word):
    return float(rng.integers(0, 2)) if word in COMPARISONS or word in LOGICAL else float(rng.uniform(0.5, 2))


def binary_cases(word):
    same = f"elemwise_{word}" if word in ARITHMETIC else f"_{word}"
    scalar = f"_{SCALARS.get(word, word)}_scalar"

    @case(same)
    def _(rng, seed):
        shape = shape_of(rng, seed + 1)
        a, b = operand(rng, word, shape), operand(rng, word, shape)
        if word in ("mod", "div"):
            a, b = (array * rng.choice(np.float32([-1, 1]), shape) for array in (a, b))
        function = getattr(S, same, None) or getattr(S._internal, same)
        return function(x(), x("b")), {"data": a, "b": b}, {}

    @case(f"broadcast_{word}")
    def _(rng, seed):
        shape = shape_of(rng, 3)
        part = tuple(1 if i == seed else side for i, side in enumerate(shape))
        a, b = operand(rng, word, shape), operand(rng, word, part)
        return getattr(S, f"broadcast_{word}")(x(), x("b")), {"data": a}, {"b": b}

    @case(scalar)
    def _(rng, seed):
        a = operand(rng, word, shape_of(rng, 3))
        return getattr(S._internal, scalar)(x(), scalar=scalar_of(rng, word)), {"data": a}, {}

    if word in ("sub", "div", "power", "mod"):
        reverse = f"_r{SCALARS.get(word, word)}_scalar"

        @case(reverse)
        def _(rng, seed):
            a = operand(rng, "div", shape_of(rng, 3))
            return getattr(S._internal, reverse)(x(), scalar=scalar_of(rng, word)), {"data": a}, {}


for word in BINARY:
    binary_cases(word)


@case("_grad_add")
def _(rng, seed):
    return S._internal._grad_add(x(), x("b")), {"data": normal(rng, 2, 3), "b": normal(rng, 2, 3)}, {}


@case("add_n")
def _(rng, seed):
    names = [f"x{i}" for i in range(seed + 1)]
    return S.add_n(*map(x, names)), {name: normal(rng, 2, 3) for name in names}, {}


@case("clip")
def _(rng, seed):
    return S.clip(x(), -0.5 * seed, 1), {"data": normal(rng, 3, 4)}, {}


@case("Cast")
def _(rng, seed):
    dtype = ("int32", "uint8", "float64", "float16")[seed]
    return S.Cast(x(), dtype=dtype), {"data": rng.uniform(0, 9, (3, 4)).astype(np.float32)}, {}


@case("amp_cast")
def _(rng, seed):
    return S.amp_cast(x(), dtype=("float32", "float16")[seed % 2]), {"data": normal(rng, 3, 4)}, {}


@case("where")
def _(rng, seed):
    shape = shape_of(rng, 3)
    condition = rng.integers(-1, 2, shape if seed % 2 else shape[:1]).astype(np.float32)
    inputs = {"data": condition, "a": normal(rng, *shape), "b": normal(rng, *shape)}
    return S.where(x(), x("a"), x("b")), inputs, {}


@case("Activation")
def _(rng, seed):
    kinds = ("relu", "sigmoid", "tanh", "softrelu", "softsign")
    data = normal(rng, *shape_of(rng, 4), scale=3)
    return S.Group([S.Activation(x(), act_type=kind) for kind in kinds]), {"data": data}, {}


@case("LeakyReLU")
def _(rng, seed):
    shape = shape_of(rng, (4, 2, 3, 4)[seed])
    # The second output of rrelu is for training.
    kinds = [S.LeakyReLU(x(), act_type=kind)[0] for kind in ("leaky", "elu", "selu", "gelu", "rrelu")]
    kinds += [S.LeakyReLU(x(), act_type=kind, slope=0.1) for kind in ("leaky", "elu")]
    kinds.append(S.LeakyReLU(x(), x("gamma"), act_type="prelu"))
    return S.Group(kinds), {"data": normal(rng, *shape)}, {"gamma": normal(rng, shape[1] if seed else 1)}


@case("hard_sigmoid")
def _(rng, seed):
    options = {} if seed == 0 else {"alpha": 0.1 * seed, "beta": 0.4}
    return S.hard_sigmoid(x(), **options), {"data": normal(rng, 3, 4, scale=3)}, {}


@case("_contrib_div_sqrt_dim")
def _(rng, seed):
    return S.contrib.div_sqrt_dim(x()), {"data": normal(rng, *shape_of(rng, 3))}, {}


@case("Convolution")
def _(rng, seed):
    dims, groups = (2, 1, 3, 2)[seed], (1, 1, 1, 3)[seed]
    kernel, sides = rng.integers(1, 4, dims), rng.integers(7, 10, dims)
    symbol = S.Convolution(
        x(),
        x("w"),
        *([x("b")] if seed % 2 else []),
        kernel=tuple(kernel),
        num_filter=6,
        num_group=groups,
        no_bias=seed % 2 == 0,
        **({} if seed == 0 else {"stride": (2,) * dims, "dilate": (seed,) * dims, "pad": (1,) * dims}),
    )
    params = {"w": normal(rng, 6, 3 // groups, *kernel), "b": normal(rng, 6)}
    return symbol, {"data": normal(rng, 2, 3, *sides)}, {n: a for n, a in params.items() if n == "w" or seed % 2}


@case("Deconvolution")
def _(rng, seed):
    options = (
        {"kernel": (4, 4), "stride": (2, 2), "pad": (1, 1)},
        {"kernel": (3, 3), "stride": (2, 3), "pad": (1, 0), "adj": (1, 2), "num_group": 2},
        {"kernel": (4, 3), "stride": (3, 2), "pad": (1, 0), "adj": (0, 1), "num_group": 2, "no_bias": False},
        {"kernel": (3,), "dilate": (2,), "stride": (2,), "no_bias": False},
    )[seed]
    groups, dims = options.get("num_group", 1), len(options["kernel"])
    bias = not options.get("no_bias", True)
    symbol = S.Deconvolution(x(), x("w"), *([x("b")] if bias else []), num_filter=6, **options)
    params = {"w": normal(rng, 4, 6 // groups, *options["kernel"]), **({"b": normal(rng, 6)} if bias else {})}
    return symbol, {"data": normal(rng, 2, 4, *(5, 6)[:dims])}, params


def deformable(rng, seed, modulated):
    groups, deformable_groups = (1, 1, 2, 1)[seed], (1, 2, 1, 2)[seed]
    stride, dilate = ((1, 1), (2, 1), (1, 2), (1, 1))[seed], ((1, 1), (1, 1), (1, 2), (2, 2))[seed]
    h, w = 7, 8
    oh, ow = ((side + 2 - (d * 2 + 1)) // s + 1 for side, s, d in zip((h, w), stride, dilate))
    inputs = {"data": normal(rng, 1, 4, h, w), "offset": normal(rng, 1, deformable_groups * 18, oh, ow, scale=3)}
    if modulated:
        inputs["mask"] = rng.uniform(0, 1, (1, deformable_groups * 9, oh, ow)).astype(np.float32)
    bias = seed % 2 == 1
    params = {"w": normal(rng, 6, 4 // groups, 3, 3), **({"b": normal(rng, 6)} if bias else {})}
    function = S.contrib.ModulatedDeformableConvolution if modulated else S.contrib.DeformableConvolution
    symbol = function(
        *map(x, (*inputs, *params)),
        kernel=(3, 3),
        stride=stride,
        dilate=dilate,
        pad=(1, 1),
        num_filter=6,
        num_group=groups,
        num_deformable_group=deformable_groups,
        no_bias=not bias,
    )
    return symbol, inputs, params


@case("_contrib_DeformableConvolution")
def _(rng, seed):
    return deformable(rng, seed, modulated=False)


@case("_contrib_ModulatedDeformableConvolution")
def _(rng, seed):
    return deformable(rng, seed, modulated=True)


@case("FullyConnected")
def _(rng, seed):
    shape = shape_of(rng, 3 if seed else 2)
    flatten, no_bias = seed != 2, seed == 3
    width = int(np.prod(shape[1:])) if flatten else shape[-1]
    params = {"w": normal(rng, 5, width), **({} if no_bias else {"b": normal(rng, 5)})}
    symbol = S.FullyConnected(*map(x, ("data", *params)), num_hidden=5, flatten=flatten, no_bias=no_bias)
    return symbol, {"data": normal(rng, *shape)}, params


@case("FullyConnected")
def _(rng, seed):
    # The weights are computed, and not known before.
    symbol = S.FullyConnected(x(), x("w"), num_hidden=5, flatten=False, no_bias=True)
    return symbol, {"data": normal(rng, 2, 3, 4), "w": normal(rng, 5, 4)}, {}


@case("dot")
def _(rng, seed):
    k, transpose_a, transpose_b = 4, seed in (1, 3), seed in (2, 3)
    a, b = shape_of(rng, 2 if seed != 0 else 3), shape_of(rng, 2)
    a = (k, *a[1:]) if transpose_a else (*a[:-1], k)
    b = (*b[:-1], k) if transpose_b else (k, *b[1:])
    symbol = S.dot(x(), x("b"), transpose_a=transpose_a, transpose_b=transpose_b)
    return symbol, {"data": normal(rng, *a), "b": normal(rng, *b)}, {}


@case("dot")
def _(rng, seed):
    if seed == 0:
        return S.dot(x(), x("b")), {"data": normal(rng, 4), "b": normal(rng, 4)}, {}
    if seed == 1:
        return S.dot(x(), x("b")), {"data": normal(rng, 2, 3, 4), "b": normal(rng, 4, 3, 2)}, {}
    if seed == 2:
        return S.dot(x(), x("b"), transpose_b=True), {"data": normal(rng, 2, 4), "b": normal(rng, 3, 2, 4)}, {}
    return S.dot(x(), x("b"), transpose_a=True), {"data": normal(rng, 4, 2, 3), "b": normal(rng, 4, 5)}, {}


@case("batch_dot", "_linalg_gemm2")
def _(rng, seed):
    transpose_a, transpose_b = bool(seed & 1), bool(seed & 2)
    a, b = ((3, 4, 2) if transpose_a else (3, 2, 4)), ((3, 5, 4) if transpose_b else (3, 4, 5))
    flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    symbol = S.Group([S.batch_dot(x(), x("b"), **flags), S.linalg_gemm2(x(), x("b"), alpha=1 + seed, **flags)])
    return symbol, {"data": normal(rng, *a), "b": normal(rng, *b)}, {}


@case("Embedding")
def _(rng, seed):
    index = rng.integers(0, 7, shape_of(rng, 2)).astype(np.float32)
    return S.Embedding(x(), x("w"), input_dim=7, output_dim=3), {"data": index}, {"w": normal(rng, 7, 3)}


@case("Pooling")
def _(rng, seed):
    outputs, sides = [], (int(rng.integers(7, 12)), int(rng.integers(7, 12)))
    for kind in ("max", "avg", "sum"):
        for convention in ("valid", "full"):
            for options in (
                {"kernel": (2, 2)},
                {"kernel": (2, 3), "stride": (2, 2)},
                {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)},
                {"kernel": (5, 4), "stride": (3, 3), "pad": (2, 1)},
            ):
                outputs.append(S.Pooling(x(), pool_type=kind, pooling_convention=convention, **options))
                if kind == "avg":
                    outputs.append(
                        S.Pooling(
                            x(), pool_type=kind, pooling_convention=convention, count_include_pad=False, **options
                        )
                    )
        outputs.append(S.Pooling(x(), pool_type=kind, global_pool=True))
    return S.Group(outputs), {"data": normal(rng, 2, 3, *sides)}, {}


@case("Pooling")
def _(rng, seed):
    # One axis, and three.
    one = [S.Pooling(x(), kernel=(3,), stride=(2,), pad=(1,), pool_type=kind) for kind in ("max", "avg")]
    three = [S.Pooling(x("b"), kernel=(2, 2, 3), stride=(2, 1, 2), pool_type=kind) for kind in ("max", "avg")]
    return S.Group([*one, *three]), {"data": normal(rng, 1, 2, 7 + seed), "b": normal(rng, 1, 2, 4, 5, 6)}, {}


@case("Pooling")
def _(rng, seed):
    data = rng.uniform(0.1, 1, (1, 2, 7, 8)).astype(np.float32)
    options = {"kernel": (3, 2), "stride": (2, 2), "pool_type": "lp", "p_value": seed % 3 + 1}
    return S.Pooling(x(), **options), {"data": data}, {}


@case("_contrib_AdaptiveAvgPooling2D")
def _(rng, seed):
    size = {0: {}, 1: {"output_size": 2}, 2: {"output_size": (3, 4)}, 3: {"output_size": (7, 5)}}[seed]
    data = normal(rng, 2, 3, int(rng.integers(7, 12)), 9)
    return S.contrib.AdaptiveAvgPooling2D(x(), **size), {"data": data}, {}


@case("UpSampling")
def _(rng, seed):
    if seed == 0:
        return S.UpSampling(x(), scale=3, sample_type="nearest", num_args=1), {"data": normal(rng, 2, 3, 4, 5)}, {}
    if seed == 3:
        scale = 2
    else:
        mode = ("concat", "sum")[seed - 1]
        symbol = S.UpSampling(x(), x("b"), scale=4, sample_type="nearest", num_args=2, multi_input_mode=mode)
        return symbol, {"data": normal(rng, 1, 3, 2, 3), "b": normal(rng, 1, 3, 4, 6)}, {}
    symbol = S.UpSampling(x(), x("w"), scale=scale, sample_type="bilinear", num_args=2, num_filter=3)
    return symbol, {"data": normal(rng, 1, 3, 4, 5)}, {"w": normal(rng, 3, 1, 4, 4)}


@case("UpSampling")
def _(rng, seed):
    scale = seed + 2
    kernel = 2 * scale - scale % 2
    symbol = S.UpSampling(x(), x("w"), scale=scale, sample_type="bilinear", num_args=2, num_filter=2)
    return symbol, {"data": normal(rng, 1, 2, 3, 4)}, {"w": normal(rng, 2, 1, kernel, kernel)}


@case("_contrib_BilinearResize2D")
def _(rng, seed):
    data, outputs = normal(rng, 1, 2, *rng.integers(3, 9, 2)), []
    for corners in (True, False):
        height, width = (int(side) for side in rng.integers(1, 15, 2))
        outputs.append(S.contrib.BilinearResize2D(x(), height=height, width=width, align_corners=corners))
        outputs.append(
            S.contrib.BilinearResize2D(x(), mode="odd_scale", scale_height=2, scale_width=1.5, align_corners=corners)
        )
    outputs.append(S.contrib.BilinearResize2D(x(), x("like"), mode="like"))
    return S.Group(outputs), {"data": data, "like": normal(rng, 1, 2, 5, 11)}, {}


@case("_contrib_ROIAlign")
def _(rng, seed):
    corner = rng.uniform(-3, 40, (6, 2))
    rois = np.hstack([rng.integers(0, 2, (6, 1)), corner, corner + rng.uniform(0.5, 30, (6, 2))]).astype(np.float32)
    outputs = [
        S.contrib.ROIAlign(x(), x("rois"), pooled_size=(3, 4), spatial_scale=scale, sample_ratio=ratio, aligned=aligned)
        for aligned in (True, False)
        for scale, ratio in ((0.25, 2), (0.5, -1), (1.0, 3))
    ]
    return S.Group(outputs), {"data": normal(rng, 2, 3, 16, 20), "rois": rois}, {}


@case("ROIPooling")
def _(rng, seed):
    corner = rng.integers(0, 20, (6, 2))
    rois = np.hstack([rng.integers(0, 2, (6, 1)), corner, corner + rng.integers(5, 19, (6, 2))]).astype(np.float32)
    symbol = S.ROIPooling(x(), x("rois"), pooled_size=(3, 2), spatial_scale=(0.25, 0.5, 1.0, 0.3)[seed])
    return symbol, {"data": normal(rng, 2, 3, 40, 40), "rois": rois}, {}


@case("BatchNorm")
def _(rng, seed):
    shape, axis = shape_of(rng, 4), (1, 1, -1, 2)[seed]
    channels = shape[axis]
    params = {"gamma": normal(rng, channels), "beta": normal(rng, channels), "mean": normal(rng, channels)}
    params["var"] = rng.uniform(0.5, 2, channels).astype(np.float32)
    options = {} if seed == 0 else {"fix_gamma": seed == 1, "eps": 1e-5, "axis": axis}
    return S.BatchNorm(*map(x, ("data", *params)), **options), {"data": normal(rng, *shape)}, params


@case("GroupNorm")
def _(rng, seed):
    groups = (1, 2, 3, 6)[seed]
    data, size = normal(rng, 2, 6, *shape_of(rng, 2)), group_norm_size(groups)
    params = {"gamma": normal(rng, size), "beta": normal(rng, size)}
    return S.GroupNorm(x(), x("gamma"), x("beta"), num_groups=groups, eps=1e-3), {"data": data}, params


def group_norm_size(groups):
    """Whether gamma goes by groups or by channels is what this MXNet says."""
    symbol = S.GroupNorm(x(), x("gamma"), x("beta"), num_groups=groups)
    return symbol.infer_shape(data=(2, 6, 3, 3))[0][1][0]


@case("InstanceNorm")
def _(rng, seed):
    options = {} if seed == 0 else {"eps": 1e-5}
    params = {"gamma": normal(rng, 3), "beta": normal(rng, 3)}
    return S.InstanceNorm(x(), x("gamma"), x("beta"), **options), {"data": normal(rng, 2, 3, 4, 5 + seed)}, params


@case("LayerNorm")
def _(rng, seed):
    shape, axis = (2, 3, 4 + seed), (-1, 1, 2, 0)[seed]
    params = {"gamma": normal(rng, shape[axis]), "beta": normal(rng, shape[axis])}
    options = {} if seed == 0 else {"axis": axis, "eps": 1e-3}
    return S.LayerNorm(x(), x("gamma"), x("beta"), **options), {"data": normal(rng, *shape)}, params


@case("L2Normalization")
def _(rng, seed):
    modes = ("instance", "channel", "spatial")
    data = normal(rng, *shape_of(rng, 4))
    return S.Group([S.L2Normalization(x(), mode=mode, eps=0.1 * seed + 1e-6) for mode in modes]), {"data": data}, {}


@case("LRN")
def _(rng, seed):
    options = {"nsize": 3} if seed == 0 else {"nsize": 5, "alpha": 0.1 * seed, "beta": 0.5, "knorm": 1}
    return S.LRN(x(), **options), {"data": normal(rng, 2, 7, 3, 3)}, {}


@case("softmax", "softmin", "log_softmax")
def _(rng, seed):
    options = ({}, {"axis": 1}, {"axis": 0, "temperature": 2.5}, {"temperature": 0.5})[seed]
    kinds = (S.softmax, S.softmin, S.log_softmax)
    return S.Group([kind(x(), **options) for kind in kinds]), {"data": normal(rng, 3, 4, 5)}, {}


@case("SoftmaxActivation")
def _(rng, seed):
    options = {"mode": "channel"} if seed % 2 else {}
    return S.SoftmaxActivation(x(), **options), {"data": normal(rng, 2, 3, 4, 5)}, {}


@case("Reshape")
def _(rng, seed):
    codes = ((0, -1), (-1, 0, 0, 0), (0, -4, 2, -1, -2), (-3, -2), (0, 0, -3), (-4, 1, -1, 0, -2), (5, -1))
    outputs = [S.reshape(x(), shape=shape) for shape in codes]
    outputs.append(S.reshape(x(), shape=(-1, 0), reverse=True))
    return S.Group(outputs), {"data": normal(rng, 2, 4, 3 + seed, 5)}, {}


@case("Flatten", "expand_dims", "squeeze", "reshape_like")
def _(rng, seed):
    outputs = [S.Flatten(x()), S.expand_dims(x(), axis=seed - 2), S.squeeze(S.expand_dims(x(), axis=seed), axis=seed)]
    outputs += [S.squeeze(x()), S.reshape_like(x(), x("b"))]
    return S.Group(outputs), {"data": normal(rng, 2, 1, 3, 4), "b": normal(rng, 4, 6)}, {}


@case("transpose")
def _(rng, seed):
    options = {} if seed == 0 else {"axes": tuple(rng.permutation(4))}
    return S.transpose(x(), **options), {"data": normal(rng, *shape_of(rng, 4))}, {}


@case("SwapAxis")
def _(rng, seed):
    return S.SwapAxis(x(), dim1=seed, dim2=(seed + 2) % 4), {"data": normal(rng, *shape_of(rng, 4))}, {}


@case("Concat")
def _(rng, seed):
    names, dim = [f"x{i}" for i in range(seed + 1)], (1, 0, 2, -1)[seed]
    shapes = [[2, 3, 4] for _ in names]
    for shape in shapes:
        shape[dim] = int(rng.integers(1, 5))
    return S.Concat(*map(x, names), dim=dim), {n: normal(rng, *s) for n, s in zip(names, shapes)}, {}


@case("stack")
def _(rng, seed):
    names = [f"x{i}" for i in range(seed + 1)]
    return S.stack(*map(x, names), axis=seed % 3 - 1), {name: normal(rng, 2, 3) for name in names}, {}


@case("SliceChannel")
def _(rng, seed):
    squeeze = seed == 3
    symbol = S.split(x(), num_outputs=(2, 1, 3, 6)[seed], axis=(1, 1, -2, 1)[seed], squeeze_axis=squeeze)
    return S.Group(list(symbol)), {"data": normal(rng, 2, 6, 3)}, {}


@case("_split_v2")
def _(rng, seed):
    parts, axis, squeeze = ((2, 1, False), ((1, 4), 1, False), (2, 0, True), ((2,), -1, False))[seed]
    return S.Group(list(S.split_v2(x(), parts, axis=axis, squeeze_axis=squeeze))), {"data": normal(rng, 2, 6, 3)}, {}


@case("slice")
def _(rng, seed):
    options = (
        {"begin": (0, 1), "end": (2, 3)},
        {"begin": (None, -2, None), "end": (None, None, 3)},
        {"begin": (None, 4, 1), "end": (None, 1, 4), "step": (-1, -2, None)},
        {"begin": (None, 0, None), "end": (None, 100, None)},
    )[seed]
    return S.slice(x(), **options), {"data": normal(rng, 3, 6, 5)}, {}


@case("slice_axis")
def _(rng, seed):
    axis, begin, end = ((1, 1, 3), (-1, -3, None), (0, 0, -1), (2, 2, 5))[seed]
    return S.slice_axis(x(), axis=axis, begin=begin, end=end), {"data": normal(rng, 3, 6, 5)}, {}


@case("slice_like")
def _(rng, seed):
    options = ({}, {"axes": (1,)}, {"axes": (0, -1)}, {"axes": (1, 2)})[seed]
    return S.slice_like(x(), x("b"), **options), {"data": normal(rng, 4, 6, 5), "b": normal(rng, 2, 3, 5)}, {}


@case("Crop")
def _(rng, seed):
    if seed < 2:
        options = ({"h_w": (3, 4), "offset": (1, 2)}, {"h_w": (4, 5), "center_crop": True})[seed]
        return S.Crop(x(), num_args=1, **options), {"data": normal(rng, 1, 2, 7, 8)}, {}
    options = ({"offset": (2, 1)}, {"center_crop": True})[seed - 2]
    symbol = S.Crop(x(), x("b"), num_args=2, **options)
    return symbol, {"data": normal(rng, 1, 2, 7, 8), "b": normal(rng, 1, 3, 4, 5)}, {}


@case("Pad")
def _(rng, seed):
    width = (0, 0, 0, 0, *(int(side) for side in rng.integers(0, 3, 4)))
    outputs = [S.Pad(x(), mode=mode, pad_width=width) for mode in ("constant", "edge", "reflect")]
    outputs.append(S.Pad(x(), mode="constant", pad_width=width, constant_value=1.5))
    return S.Group(outputs), {"data": normal(rng, 2, 3, 4, 5)}, {}


@case("tile")
def _(rng, seed):
    reps = ((2,), (1, 2, 3), (2, 1, 1, 3), (3, 2))[seed]
    return S.tile(x(), reps=reps), {"data": normal(rng, 2, 3, 2)}, {}


@case("repeat")
def _(rng, seed):
    options = {} if seed == 0 else {"axis": seed - 2}
    return S.repeat(x(), repeats=seed + 1, **options), {"data": normal(rng, 2, 3)}, {}


@case("broadcast_axis", "broadcast_like", "broadcast_to")
def _(rng, seed):
    outputs = [S.broadcast_axis(x(), axis=(0, 2), size=(2, 3)), S.broadcast_to(x(), shape=(2, 0, 4))]
    outputs.append(S.broadcast_like(x(), x("b")))
    return S.Group(outputs), {"data": normal(rng, 1, 3 + seed, 1), "b": normal(rng, 5, 3 + seed, 2)}, {}


@case("reverse")
def _(rng, seed):
    return S.reverse(x(), axis=((0,), (1, 2), (2,), (0, 2))[seed]), {"data": normal(rng, 2, 3, 4)}, {}


@case("depth_to_space", "space_to_depth")
def _(rng, seed):
    block = seed % 3 + 1
    data = normal(rng, 2, 2 * block**2, 2 * block, 3 * block)
    return (
        S.Group([S.depth_to_space(x(), block_size=block), S.space_to_depth(x(), block_size=block)]),
        {"data": data},
        {},
    )


@case("sum", "mean", "max", "min", "prod", "norm")
def _(rng, seed):
    data, outputs = normal(rng, 2, 3, 4), []
    for function in (S.sum, S.mean, S.max, S.min, S.prod):
        for options in ({}, {"axis": 1}, {"axis": (0, -1), "keepdims": True}, {"axis": 1, "exclude": True}):
            outputs.append(function(x(), **options))
        outputs.append(function(x(), keepdims=True))
    outputs += [S.norm(x()), S.norm(x(), ord=1, axis=1), S.norm(x(), ord=2, axis=(1, 2), keepdims=True)]
    return S.Group(outputs), {"data": data}, {}


@case("argmax", "argmin", "argmax_channel")
def _(rng, seed):
    outputs = []
    for function in (S.argmax, S.argmin):
        outputs += [function(x(), axis=1), function(x(), axis=-1, keepdims=True), function(x())]
    return S.Group([*outputs, S.argmax_channel(x())]), {"data": distinct(rng, 2, 5, 4 + seed)}, {}


@case("topk", "sort", "argsort")
def _(rng, seed):
    options = ({}, {"k": 3, "axis": 1}, {"k": 2, "axis": 0, "is_ascend": True}, {"k": 5, "axis": None})[seed]
    outputs = [S.topk(x(), ret_typ=kind, **options) for kind in ("value", "indices")]
    outputs += list(S.topk(x(), ret_typ="both", dtype="int32", **options))
    if seed != 3:
        outputs.append(S.topk(x(), ret_typ="mask", **options))
    order = {"is_ascend": seed % 2 == 0, "axis": (-1, 1, 0, None)[seed]} if seed else {}
    outputs += [S.sort(x(), **order), S.argsort(x(), **order)]
    return S.Group(outputs), {"data": distinct(rng, 3, 4, 5)}, {}


@case("take")
def _(rng, seed):
    options = ({}, {"axis": 1}, {"axis": -1, "mode": "wrap"}, {"axis": 0, "mode": "clip"})[seed]
    low, high = (-5, 12) if seed > 1 else (0, 3)
    index = rng.integers(low, high, shape_of(rng, 2)).astype(np.float32)
    return S.take(x(), x("i"), **options), {"data": normal(rng, 3, 4, 5), "i": index}, {}


@case("pick")
def _(rng, seed):
    options, axis = (
        ({}, {"axis": 1}, {"axis": 0, "keepdims": True}, {"axis": 1, "mode": "wrap"})[seed],
        (2, 1, 0, 1)[seed],
    )
    shape = [3, 4, 5]
    limit = shape.pop(axis)
    low, high = (-3, 9) if seed == 3 else (0, limit)
    index = rng.integers(low, high, shape).astype(np.float32)
    return S.pick(x(), x("i"), **options), {"data": normal(rng, 3, 4, 5), "i": index}, {}


@case("gather_nd")
def _(rng, seed):
    depth = seed % 3 + 1
    index = np.stack([rng.integers(0, side, (2, 6)) for side in (3, 4, 5)[:depth]]).astype(np.float32)
    return S.gather_nd(x(), x("i")), {"data": normal(rng, 3, 4, 5), "i": index}, {}


@case("one_hot")
def _(rng, seed):
    options = ({}, {"on_value": 2, "off_value": -1}, {"dtype": "int32"}, {})[seed]
    return S.one_hot(x(), depth=5, **options), {"data": rng.integers(-2, 7, (3, 4)).astype(np.float32)}, {}


@case("_contrib_box_decode")
def _(rng, seed):
    anchors = rng.uniform(1, 9, (1, 6, 4)).astype(np.float32)
    options = {"std0": 0.1, "std1": 0.1, "std2": 0.2, "std3": 0.3} if seed else {}
    options |= {"format": "corner"} if seed % 2 else {"clip": 0.5}
    return S.contrib.box_decode(x(), x("a"), **options), {"data": normal(rng, 2, 6, 4)}, {"a": anchors}


def rows_of(rng, batch, count, classes):
    """Class, score, box, two more: crowded boxes, scores well apart."""
    corner = rng.uniform(-5, 25, (batch, count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 20, (batch, count, 2))], -1)
    scores = np.stack([rng.permutation(count) / count for _ in range(batch)])[..., None]
    ids = rng.integers(0, classes, (batch, count, 1))
    return np.concatenate([ids, scores, boxes, rng.normal(size=(batch, count, 2))], -1).astype(np.float32)


@case("_contrib_box_nms")
def _(rng, seed):
    options = (
        {"overlap_thresh": 0.3, "valid_thresh": 0.2, "force_suppress": True, "id_index": 0},
        {"overlap_thresh": 0.3, "valid_thresh": 0.1, "topk": 20, "id_index": 0},
        {"overlap_thresh": 0.4, "id_index": 0, "background_id": 1},
        {},
    )[seed]
    return S.contrib.box_nms(x(), **options), {"data": rows_of(rng, (1, 3, 2, 2)[seed], 40, 3)}, {}


@case("_contrib_box_nms")
def _(rng, seed):
    rows = rows_of(rng, 2, 30, 2)
    if seed == 0:  # nothing is good enough
        return S.contrib.box_nms(x(), valid_thresh=2), {"data": rows}, {}
    if seed == 1:  # a threshold of 1 keeps all
        return S.contrib.box_nms(x(), overlap_thresh=1, topk=10), {"data": rows}, {}
    if seed == 2:  # other places of the columns
        rows = rows[..., [2, 3, 4, 5, 1, 0, 6]][0]
        return S.contrib.box_nms(x(), coord_start=0, score_index=4, id_index=5), {"data": rows}, {}
    centred = rows_of(rng, 2, 30, 2)
    centred[..., 4:6] -= centred[..., 2:4]
    corner_to_centre = S.contrib.box_nms(x(), overlap_thresh=0.3, out_format="center")
    centre_to_corner = S.contrib.box_nms(x("b"), overlap_thresh=0.3, in_format="center", id_index=0)
    return S.Group([corner_to_centre, centre_to_corner]), {"data": rows, "b": centred}, {}


# ---- tests -----------------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_has_a_numeric_case():
    assert set(CONVERTERS) - set(CASES) == set(), "write a case for these"
    assert set(CASES) - set(CONVERTERS) == set(), "these are in no row"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("op", sorted(CASES))
def test_an_operator_is_what_it_is_in_mxnet(op, seed):
    for number, function in enumerate(CASES[op]):
        symbol, inputs, params = function(np.random.default_rng([seed, number, len(op)]), seed)
        graph = read_symbol(symbol, params, {name: a.shape for name, a in inputs.items()})
        assert op in graph.operators()
        assert_same(symbol, inputs, params)


@pytest.mark.parametrize(
    ("symbol", "inputs", "params"),
    [
        (
            S.Deconvolution(x(), x("w"), kernel=(4, 3), stride=(2, 3), target_shape=(10, 17), num_filter=3),
            {"data": (1, 2, 5, 6)},
            {"w": (2, 3, 4, 3)},
        ),
        (
            S.Deconvolution(x(), x("w"), kernel=(3, 4), stride=(2, 2), target_shape=(10, 13), num_filter=3),
            {"data": (1, 2, 5, 6)},
            {"w": (2, 3, 3, 4)},
        ),
        *(
            (
                S.Pooling(x(), kernel=(k,), stride=(2,), pad=(0, 0, 0), pool_type="max", pooling_convention="same"),
                {"data": (1, 2, n)},
                {},
            )
            for k, n in ((2, 8), (3, 8), (3, 7))
        ),
    ],
)
def test_what_mxnets_fast_library_refuses_is_right_too(rng, symbol, inputs, params):
    # In double precision MXNet computes these itself.
    inputs, params = ({n: rng.normal(size=shape) for n, shape in arrays.items()} for arrays in (inputs, params))
    single = [{n: a.astype(np.float32) for n, a in arrays.items()} for arrays in (inputs, params)]
    found = run_onnx(to_onnx(symbol, single[1], {n: a.shape for n, a in inputs.items()}), single[0])
    expected = run_mxnet(symbol, inputs, params)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", onnx_export.OPSETS)
def test_other_operator_sets_give_the_same(rng, opset):
    # Reductions and splits are written differently from 18 on.
    parts = S.split(S.mean(x(), axis=3, keepdims=True), num_outputs=2, axis=1)
    symbol = S.Group(
        [parts[0], S.L2Normalization(S.max(parts[1], axis=2)), S.UpSampling(x(), scale=2, sample_type="nearest")]
    )
    assert_same(symbol, {"data": normal(rng, 2, 4, 5, 6)}, {}, opset=opset)
    model = to_onnx(symbol, {}, {"data": (2, 4, 5, 6)}, opset=opset)
    assert model.opset_import[0].version == opset


def test_deformable_convolution_raises_the_operator_set():
    symbol, inputs, params = deformable(np.random.default_rng(0), 0, modulated=False)
    assert to_onnx(symbol, params, {n: a.shape for n, a in inputs.items()}).opset_import[0].version == 19


def test_all_operators_that_cannot_be_written_are_named_at_once():
    symbol = S.Group([S.linalg_potrf(x()), S.relu(S.SequenceReverse(x())), S.gamma(x(), name="first_gamma")])
    with pytest.raises(DeployError, match="(?s)ONNX.*SequenceReverse.*_linalg_potrf.*gamma.*first_gamma") as error:
        to_onnx(symbol, {}, {"data": (3, 3)})
    assert "relu" not in str(error.value).replace("first", "")


@pytest.mark.parametrize(
    ("symbol", "shape", "what"),
    [
        (
            S.contrib.ROIAlign(
                x(),
                S.reshape(S.slice(x(), (0, 0, 0), (1, 1, 1)), (1, 5)),
                pooled_size=(2, 2),
                spatial_scale=1,
                position_sensitive=True,
            ),
            (1, 4, 5, 5),
            "position_sensitive",
        ),
        (S.contrib.box_nms(x(), overlap_thresh=-0.5), (1, 4, 6), "overlap_thresh"),
        (S.pick(x(), S.sum(x(), axis=0), axis=None), (6,), "axis"),
        (S.Dropout(x(), mode="always"), (6,), "mode always"),
        (S.LeakyReLU(x(), act_type="rrelu"), (6, 6), "output 1"),
        (S.batch_dot(x(), S.softmax(x(), S.sum(x(), axis=-1), use_length=True)), (2, 2, 2), "use_length"),
    ],
)
def test_an_option_that_cannot_be_written_is_named_with_its_node(symbol, shape, what):
    with pytest.raises(DeployError, match=what):
        to_onnx(symbol, {}, {"data": shape})


def test_outputs_get_their_names_also_when_they_are_inputs_constants_or_the_same_twice(rng):
    double = x() * 2
    symbol = S.Group([double, double, x(), x("w") + 1])
    data, weight = normal(rng, 2, 3), normal(rng, 4)
    model = to_onnx(symbol, {"w": weight}, {"data": (2, 3)}, output_names=["a", "b", "c", "d"], doc="about it")
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == ["a", "b", "c", "d"] and model.doc_string == "about it"
    for found, expected in zip(run_onnx(model, {"data": data}), (data * 2, data * 2, data, weight + 1)):
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"opset": 11}, "expected opset among 17"),
        ({"output_names": ["a", "b"]}, "expected 1 output names"),
        ({"output_names": ["data"]}, "differ"),
    ],
)
def test_wrong_arguments_are_named(options, what):
    with pytest.raises(InputError, match=what):
        to_onnx(S.relu(x()), {}, {"data": (1, 2)}, **options)


def test_weights_of_a_folded_batch_norm_are_not_written_twice(rng):
    symbol, params = x(), {}
    for i in range(3):
        names = [f"{role}{i}" for role in ("w", "gamma", "beta", "mean", "var")]
        symbol = S.Convolution(symbol, x(names[0]), kernel=(1, 1), num_filter=4, no_bias=True)
        symbol = S.BatchNorm(symbol, *map(x, names[1:]), fix_gamma=False)
        params |= {names[0]: normal(rng, 4, 4, 1, 1), **{name: np.abs(normal(rng, 4)) + 0.5 for name in names[1:]}}
    model = to_onnx(symbol, params, {"data": (1, 4, 5, 5)})
    assert [node.op_type for node in model.graph.node] == ["Conv"] * 3
    assert len(model.graph.initializer) == 6
    assert_same(symbol, {"data": normal(rng, 1, 4, 5, 5)}, params)


# ---- whole nets ------------------------------------------------------------------------------------------------------


def photo(net, height, width):
    """A person, as the net wants it."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image for a photo of a person")
    cv2 = pytest.importorskip("cv2")
    image = data.astronaut()
    if net.facts.task == "landmarks":
        image = image[40:230, 130:320]
    rgb = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) / 255
    return np.float32((rgb - net.facts.mean) / net.facts.std).transpose(2, 0, 1)[None]


@functools.cache
def trained(name):
    return gluonface.get_model(name, pretrained=True)


TRAINED = gluonface.list_models(pretrained=True)


@pytest.mark.parametrize("name", TRAINED)
def test_raw_predictions_of_a_trained_net_are_the_same(tmp_path, name):
    net = trained(name)
    side = net.facts.size if net.facts.task == "landmarks" else 320
    path = export_onnx(net, tmp_path / "net.onnx", size=(side, side), whole=False)
    data = photo(net, side, side)
    expected = net.network(mx.nd.array(data))
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    model = onnx.load(path)
    names = ["heatmaps"]
    if net.facts.task == "detection":
        names = ["cls_preds", "box_preds", "landmark_preds", *(["pose_cells"] if len(expected) == 4 else [])]
    if net.facts.variant.startswith("mesh"):
        names = ["cls_preds", "box_preds", "landmark_preds", "mesh_cells", "first_cls_preds", "first_box_preds"]
    if net.facts.system == "kpnet":
        names = ["scale_map", "maps"]
    if net.facts.system == "maskface":
        names = ["cls_preds", "box_preds", *(f"level{k}" for k in range(2, 7))]
    assert [output.name for output in model.graph.output] == names
    for found, array in zip(run_onnx(model, {"data": data}), expected):
        np.testing.assert_allclose(found, array.asnumpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_detections_and_points_of_a_trained_net_are_the_same(tmp_path, name):
    net = trained(name)
    sides = (net.facts.size,) * 2 if net.facts.task == "landmarks" else (480, 512)
    batch = 2 if net.facts.task == "detection" else 1
    if net.facts.system == "maskface":
        # Points of hundreds of boxes of low score would take most of a minute.
        net.set_nms(net.nms_thresh, net.nms_topk, 30, 0.1)
    path = export_onnx(net, tmp_path / "net.onnx", size=sides, batch=batch)
    data = photo(net, *sides)
    data = np.concatenate([data, data[..., ::-1]][:batch])
    expected = [array.asnumpy() for array in net(mx.nd.array(data))]
    model = onnx.load(path)
    found = dict(zip([output.name for output in model.graph.output], run_onnx(model, {"data": data})))
    if net.facts.task == "landmarks":
        np.testing.assert_allclose(found["landmarks"], expected[0], rtol=0, atol=0.01)
        np.testing.assert_allclose(found["scores"], expected[1], rtol=0, atol=1e-4)
        return
    ids, scores, bboxes, landmarks = (found[name] for name in ("ids", "scores", "bboxes", "landmarks"))
    assert [a.shape for a in found.values()] == [a.shape for a in expected]
    # Rows of nearly equal score may change places, and one more or less may pass the threshold.
    seen = expected[1][..., 0] > 0.1
    # KPNet's scores are low.
    assert seen.any(axis=1).all() and (expected[1][:, 0] > (0.1 if net.facts.system == "kpnet" else 0.9)).all()
    np.testing.assert_array_equal(scores[..., 0] > 0.1, seen)
    np.testing.assert_allclose(scores[seen], expected[1][seen], rtol=0, atol=1e-4)
    np.testing.assert_allclose(bboxes[seen], expected[2][seen], rtol=0, atol=0.05)
    np.testing.assert_allclose(landmarks[seen], expected[3][seen], rtol=0, atol=0.05)
    if len(expected) == 5:
        more = "mesh" if net.facts.variant.startswith("mesh") else "pose"
        np.testing.assert_allclose(found[more][seen], expected[4][seen], rtol=0, atol=0.05)
    assert (ids[seen] == 0).all() and (bboxes[:, -1] == -1).all()


@pytest.mark.parametrize("options", [{"head": "stitch"}, {"head": "shared"}, {"deformable": True}], ids=str)
def test_a_net_with_pose_is_the_same_raw_and_whole(tmp_path, lively, options):
    net = lively("mos_mobilenet0.25_widerface", (64, 96), **options)
    data = np.random.default_rng(1).normal(size=(2, 3, 64, 96)).astype(np.float32)
    names = {
        False: ["cls_preds", "box_preds", "landmark_preds", "pose_cells"],
        True: ["ids", "scores", "bboxes", "landmarks", "pose"],
    }
    for whole in (False, True):
        path = export_onnx(net, tmp_path / "net.onnx", size=(64, 96), batch=2, whole=whole)
        model = onnx.load(path)
        assert [output.name for output in model.graph.output] == names[whole]
        expected = [array.asnumpy() for array in (net if whole else net.network)(mx.nd.array(data))]
        assert not whole or (expected[0] >= 0).sum() > 20
        for found, array in zip(run_onnx(model, {"data": data}), expected, strict=True):
            np.testing.assert_allclose(found, array, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "options", [{"mesh": False}, {"cascade": False}, {"deformable": True}, {"scoring": "first"}], ids=str
)
def test_a_net_with_meshes_is_the_same_raw_and_whole(tmp_path, lively, options):
    net = lively("retinaface_mobilenet0.25_mesh468_widerface", (64, 96), **options)
    data = np.random.default_rng(1).normal(size=(1, 3, 64, 96)).astype(np.float32)
    cells = [] if "mesh" in options else ["mesh_cells"]
    first = [] if "cascade" in options else ["first_cls_preds", "first_box_preds"]
    names = {
        False: ["cls_preds", "box_preds", "landmark_preds", *cells, *first],
        True: ["ids", "scores", "bboxes", "landmarks", *(["mesh"] if cells else [])],
    }
    for whole in (False, True):
        path = export_onnx(net, tmp_path / "net.onnx", size=(64, 96), whole=whole)
        model = onnx.load(path)
        assert [output.name for output in model.graph.output] == names[whole]
        said = {entry.key: entry.value for entry in model.metadata_props}.get("scoring")
        assert said == (options.get("scoring", "mean") if first else None)
        expected = [array.asnumpy() for array in (net if whole else net.network)(mx.nd.array(data))]
        for found, array in zip(run_onnx(model, {"data": data}), expected, strict=True):
            assert np.abs(array).max() > 0
            np.testing.assert_allclose(found, array, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "raw"),
    [
        ({}, ["scale_map", "maps"]),
        ({"reader": "argmax", "num_points": 19}, ["scale_map", "maps"]),
        ({"reader": "regression", "box_style": "square"}, ["scale_map", "maps"]),
        ({"head": "tags"}, ["heatmaps", "tags"]),
        ({"head": "anchors"}, ["cls_preds", "box_preds", "landmark_preds"]),
    ],
    ids=str,
)
def test_a_net_that_finds_faces_by_points_is_the_same_raw_and_whole(tmp_path, small_kpnet, options, raw):
    net = small_kpnet((64, 96), **options)
    data = np.random.default_rng(1).normal(size=(2, 3, 64, 96)).astype(np.float32)
    for whole, names in ((False, raw), (True, ["ids", "scores", "bboxes", "landmarks"])):
        path = export_onnx(net, tmp_path / "net.onnx", size=(64, 96), batch=2, whole=whole)
        model = onnx.load(path)
        assert [output.name for output in model.graph.output] == names
        props = {entry.key: entry.value for entry in model.metadata_props}
        assert props["scheme"] == str(options.get("num_points", 5))
        expected = [array.asnumpy() for array in (net if whole else net.network)(mx.nd.array(data))]
        assert not whole or (expected[0] >= 0).sum() > 5
        for found, array in zip(run_onnx(model, {"data": data}), expected, strict=True):
            np.testing.assert_allclose(found, array, rtol=0, atol=1e-3)


def test_a_file_says_what_it_is(tmp_path):
    net = trained(TRAINED[0])
    path = export_onnx(TRAINED[0], tmp_path / "net.onnx", size=64, whole=False)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    model = onnx.load(path)
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert (props["model"], props["licence"]) == (net.facts.name, net.facts.licence)
    assert props["source_sha256"] == net.facts.sha256
    assert json.loads(props["mean"]) == list(net.facts.mean) and json.loads(props["size_hw"]) == [64, 64]
    (entry,) = model.graph.input
    assert entry.name == "data" and [d.dim_value for d in entry.type.tensor_type.shape.dim] == [1, 3, 64, 64]


def test_weights_that_were_trained_further_do_not_pass_for_those_of_the_zoo(tmp_path):
    net = gluonface.get_model(TRAINED[0], pretrained=True)
    weight = next(iter(net.collect_params(".*weight").values()))
    weight.set_data(weight.data() * 1.01)
    model = onnx.load(export_onnx(net, tmp_path / "net.onnx", size=64, whole=False))
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props["source_sha256"] == "" and props["licence"] != net.facts.licence


def test_a_landmark_net_reads_points_at_the_size_of_its_crop_only(tmp_path):
    name = gluonface.list_models(pretrained=True, task="landmarks")[0]
    with pytest.raises(InputError, match="size"):
        export_onnx(name, tmp_path / "net.onnx", size=160)
    with pytest.raises(InputError, match="batch"):
        export_onnx(name, tmp_path / "net.onnx", batch=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "side"), [("mobilenetv2_1.0", 64), ("resnet18_v1", 64), ("ssd_512_mobilenet1.0_voc", 128)]
)
def test_nets_of_gluoncv_are_the_same(rng, name, side):
    import_gluoncv()
    from gluoncv.model_zoo import get_model

    net = get_model(name, pretrained=False, **({"pretrained_base": False} if "ssd" in name else {}))
    net.initialize()
    data = normal(rng, 1, 3, side, side)
    net(mx.nd.array(data))  # shapes are known from here on
    for parameter_name, parameter in net.collect_params().items():
        if parameter_name.endswith("weight"):
            fan_in = np.prod(parameter.shape[1:])
            parameter.set_data(mx.nd.array(normal(rng, *parameter.shape, scale=np.sqrt(2 / fan_in))))
        elif parameter_name.endswith(("gamma", "_var")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
        elif parameter_name.endswith(("beta", "_mean", "bias")):
            parameter.set_data(mx.nd.array(normal(rng, *parameter.shape, scale=0.1)))
    expected = net(mx.nd.array(data))
    symbol, params = trace(net)
    if "ssd" not in name:
        assert_same(symbol, {"data": data}, params, rtol=1e-3, atol=1e-4)
        return
    found = run_onnx(to_onnx(symbol, params, {"data": data.shape}), {"data": data})
    ids, scores, bboxes = (a.asnumpy() for a in expected)
    assert (scores > 0).sum() > 20
    np.testing.assert_allclose(found[1], scores, rtol=0, atol=1e-4)
    # Rows whose neighbours have another score cannot have changed places.
    gaps = np.abs(np.diff(scores[0, :, 0], prepend=2, append=-2))
    alone = np.minimum(gaps[:-1], gaps[1:]) > 1e-5
    np.testing.assert_array_equal(found[0][0, alone], ids[0, alone])
    np.testing.assert_allclose(found[2][0, alone], bboxes[0, alone], rtol=0, atol=0.05)
