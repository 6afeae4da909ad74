"""Convolutions on register tiles give MXNet's numbers, whatever the knobs."""

import re

import numpy as np
import pytest

tvm = pytest.importorskip("tvm", reason="needs gluonface[deploy]")

from gluonface._compat import mx  # noqa: E402
from gluonface.deploy import convolution, schedules  # noqa: E402
from gluonface.deploy.relax import Emitter, relax  # noqa: E402

LLVM = tvm.target.Target({"kind": "llvm"})


def module_of(emit, shape, dtype="float32"):
    """A fused, not yet scheduled module of what ``emit(emitter, x)`` gives for x of a shape."""
    emitter = Emitter()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with emitter.bb.function("main", [x]):
        with emitter.bb.dataflow():
            result = emitter.bb.emit_output(emit(emitter, x))
        emitter.bb.emit_func_output(result)
    passes = relax.transform
    with LLVM:
        return tvm.transform.Sequential(
            [passes.LegalizeOps(), passes.AnnotateTIROpPattern(), passes.FuseOps(), passes.FuseTIR()]
        )(emitter.bb.get())


def scheduled(module, knobs=None):
    """The module with its tiled kernel scheduled, by the rule for 8 lanes or with knobs."""
    module = tvm.IRModule(dict(module.functions.items()))
    tiles = 0
    for name, function in list(module.functions.items()):
        if isinstance(function, tvm.tirx.PrimFunc) and (tile := schedules.tile_of(function)):
            done = schedules.schedule_tile(function, tile, knobs, 8, 16)
            for key, value in function.attrs.items():
                done = done.with_attr(key, value)
            module.update_func(name, done.with_attr("tirx.is_scheduled", True))
            tiles += 1
    assert tiles == 1
    return module


def run(module, x):
    executable = relax.build(module, target=LLVM)
    return relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


def kernel(module):
    (found,) = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc) and schedules.tile_of(f)]
    return found


def last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def first(x):
    return x.transpose(0, 3, 1, 2)


CONVOLUTIONS = {
    "1x1": ((1, 16, 6, 8), (32, 1), (1, 1), (0, 0), (1, 1)),
    "3x3 of stride 2, channels that fill no block": ((2, 3, 13, 12), (20, 3), (2, 2), (1, 1), (1, 1)),
    "3x3 dilated": ((1, 8, 10, 9), (16, 3), (1, 1), (2, 2), (2, 2)),
    "3x3 by Winograd": ((2, 32, 16, 12), (24, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 by Winograd, of odd sides": ((1, 48, 15, 13), (32, 3), (1, 1), (1, 1), (1, 1)),
    "5x5 of a map narrower than a tile": ((1, 4, 7, 5), (24, 5), (1, 1), (2, 2), (1, 1)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_that_of_mxnet(name):
    shape, (filters, side), stride, pad, dilate = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    weight = rng.normal(size=(filters, shape[1], side, side)).astype(np.float32)
    bias = rng.normal(size=filters).astype(np.float32)
    expected = mx.nd.Convolution(
        *map(mx.nd.array, (x, weight, bias)),
        kernel=(side, side), stride=stride, pad=pad, dilate=dilate, num_filter=filters,
    ).asnumpy()  # fmt: skip
    settings = {"stride": stride, "pad": pad, "dilate": dilate}
    module = module_of(lambda e, v: convolution.convolution(e, v, weight, bias, **settings), last(x).shape)
    assert (schedules.tile_of(kernel(module)).kind == "winograd") == ("Winograd" in name)
    assert np.abs(first(run(scheduled(module), last(x))) - expected).max() < 1e-4 * max(1, np.abs(expected).max() / 10)


def test_a_canvas_of_bytes_is_shifted_before_it_is_padded():
    rng = np.random.default_rng(1)
    canvas = rng.integers(0, 256, (1, 9, 8, 3), np.uint8)
    weight, mean = rng.normal(size=(16, 3, 3, 3)).astype(np.float32), np.float32([100, 120, 90])
    expected = mx.nd.Convolution(
        mx.nd.array(first(canvas.astype(np.float32) - mean)), mx.nd.array(weight),
        kernel=(3, 3), pad=(1, 1), num_filter=16, no_bias=True,
    ).asnumpy()  # fmt: skip
    module = module_of(
        lambda e, v: convolution.convolution(e, v, weight, None, stride=(1, 1), pad=(1, 1), subtract=mean),
        canvas.shape,
        "uint8",
    )
    assert np.abs(first(run(scheduled(module), canvas)) - expected).max() < 2e-3


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (12, 2)])
def test_a_depthwise_convolution_is_that_of_mxnet(channels, stride):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, channels, 9, 12)).astype(np.float32)
    weight, bias = rng.normal(size=(channels, 1, 3, 3)).astype(np.float32), rng.normal(size=channels)
    expected = mx.nd.Convolution(
        mx.nd.array(x), mx.nd.array(weight), mx.nd.array(bias), kernel=(3, 3), stride=(stride,) * 2, pad=(1, 1),
        num_filter=channels, num_group=channels,
    ).asnumpy()  # fmt: skip
    module = module_of(
        lambda e, v: convolution.depthwise(e, v, weight, bias, stride=(stride,) * 2, pad=(1, 1)), last(x).shape
    )
    assert np.abs(first(run(scheduled(module), last(x))) - expected).max() < 1e-4


def test_a_depthwise_convolution_of_one_place_is_a_product_that_joins_its_neighbours():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 12, 5, 7)).astype(np.float32)
    weight, bias = rng.normal(size=(12, 1, 1, 1)).astype(np.float32), rng.normal(size=12).astype(np.float32)

    def emit(e, v):
        mixed = convolution.depthwise(e, v, weight, bias, stride=(1, 1), pad=(0, 0))
        halves = [relax.op.strided_slice(mixed, [3], [begin], [begin + 6]) for begin in (0, 6)]
        return e.call(relax.op.add(*map(e.call, halves)))

    module = module_of(emit, last(x).shape)
    (function,) = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert schedules.tile_of(function) is None
    expected = x * weight[:, 0] + bias[:, None, None]
    assert np.abs(first(run(module, last(x))) - (expected[:, :6] + expected[:, 6:])).max() < 1e-5
    strided = module_of(
        lambda e, v: convolution.depthwise(e, v, weight, None, stride=(2, 2), pad=(0, 0)), last(x).shape
    )
    assert np.abs(first(run(scheduled(strided), last(x))) - (x * weight[:, 0])[:, :, ::2, ::2]).max() < 1e-5


@pytest.mark.parametrize(
    ("kernel_side", "stride", "pad", "adj"), [(4, 2, 1, 0), (3, 2, 1, 1), (2, 2, 0, 0), (5, 3, 2, 0), (3, 1, 1, 0)]
)
def test_a_deconvolution_by_phase_is_that_of_mxnet(kernel_side, stride, pad, adj):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 8, 5, 6)).astype(np.float32)
    weight, bias = rng.normal(size=(8, 12, kernel_side, kernel_side)).astype(np.float32), rng.normal(size=12)
    expected = mx.nd.Deconvolution(
        mx.nd.array(x), mx.nd.array(weight), mx.nd.array(bias), kernel=(kernel_side,) * 2, stride=(stride,) * 2,
        pad=(pad,) * 2, adj=(adj,) * 2, num_filter=12, no_bias=False,
    ).asnumpy()  # fmt: skip
    settings = {"stride": (stride,) * 2, "pad": (pad,) * 2, "out_hw": expected.shape[2:]}
    module = module_of(lambda e, v: convolution.deconvolution(e, v, weight, bias, **settings), last(x).shape)
    module = scheduled(module) if stride <= 2 else module  # beyond, no tile can be laid
    assert np.abs(first(run(module, last(x))) - expected).max() < 1e-4


@pytest.mark.parametrize("kind", ["convolution", "depthwise", "deconvolution", "winograd", "columns"])
def test_every_schedule_gives_the_same_numbers(kind):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 12 if kind == "winograd" else 4, 16 if kind == "winograd" else 8, 32)).astype(np.float32)

    def turned(data):
        """Every place with the one at the other end of its row."""
        shape = (*x.shape[:3], 64)
        return convolution.te.compute(
            shape,
            lambda n, i, j, c: tvm.tirx.if_then_else(c < 32, data[n, i, j, c % 32], data[n, i, 7 - j, c % 32]),
            name="columns",
        )

    def emit(e, v):
        bias = np.arange(32) / 32
        if kind == "depthwise":
            weight = np.random.default_rng(5).normal(size=(32, 1, 3, 3))
            result = convolution.depthwise(e, v, weight, bias, stride=(1, 1), pad=(1, 1))
        elif kind in ("convolution", "winograd"):
            weight = np.random.default_rng(5).normal(size=(32, 32, 3, 3))
            result = convolution.convolution(e, v, weight, bias, stride=(1, 1), pad=(1, 1))
        elif kind == "columns":
            weight = np.random.default_rng(5).normal(size=(32, 64))
            result = convolution.of_columns(e, turned, [v], x.shape[:3], weight)
        else:
            weight = np.random.default_rng(5).normal(size=(32, 32, 4, 4))
            return convolution.deconvolution(e, v, weight, bias, stride=(2, 2), pad=(1, 1), out_hw=(8, 16))
        # A residual and an activation join the kernel.
        return e.call(relax.op.nn.relu(e.call(relax.op.add(result, v))))

    module = module_of(emit, x.shape)
    tile = schedules.tile_of(kernel(module))
    assert tile.kind == ("convolution" if kind == "columns" else kind)
    assert kind != "columns" or tile.padded
    expected = run(module, x)
    tried = schedules.candidates(tile, 8, 16)
    assert {knobs.order for knobs in tried} == ({"row", "tile"} if kind == "winograd" else {"row", "block", "tile"})
    for knobs in tried[:: max(1, len(tried) // 5)]:
        assert np.abs(run(scheduled(module, knobs), x) - expected).max() < 1e-3, knobs


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("groups", [2, 4])
def test_a_deconvolution_of_groups_is_that_of_mxnet(stride, groups):
    rng = np.random.default_rng(stride)
    for side, pad in ((stride, 0), (2 * stride, stride // 2), (stride + 1, 1), (1, 0), (5, 2)):
        x = rng.normal(size=(2, 4, 4, 5)).astype(np.float32)
        weight = rng.normal(size=(4, 8 // groups, side, side)).astype(np.float32)
        expected = mx.nd.Deconvolution(
            mx.nd.array(x), mx.nd.array(weight), kernel=(side, side), stride=(stride, stride), pad=(pad, pad),
            num_filter=8, num_group=groups, no_bias=True,
        ).asnumpy()  # fmt: skip
        settings = {"stride": (stride, stride), "pad": (pad, pad), "out_hw": expected.shape[2:], "groups": groups}
        module = module_of(
            lambda e, v, w=weight, s=settings: convolution.deconvolution(e, v, w, None, **s), last(x).shape
        )
        assert np.abs(first(run(module, last(x))) - expected).max() < 1e-4, (side, pad)


@pytest.mark.parametrize(("filters", "wanted"), [(16, 24), (256, 16)])
def test_cores_share_rows_where_blocks_are_too_few_to_be_shared(filters, wanted, rng):
    weight = rng.normal(size=(filters, 4, 1, 1)).astype(np.float32)
    same = {"stride": (1, 1), "pad": (0, 0)}
    made = module_of(lambda e, x: convolution.convolution(e, x, weight, None, **same), (1, 24, 8, 4))
    knobs = schedules.Knobs(places=4, vectors=1, order="block")
    script = schedules.schedule(kernel(made), knobs).mod.script()
    assert max(map(int, re.findall(r"T\.parallel\(T\.int64\((\d+)\)\)", script))) == wanted
