"""The tensor expressions alone, at their borders: what no net of the other tests reaches."""

import numpy as np
import pytest

from gluonface._compat import mx

pytest.importorskip("tvm", reason="needs the deploy extra")

from gluonface.deploy import kernels
from gluonface.deploy.relax import CHANNELS_FIRST, CHANNELS_LAST, Emitter, relax, tvm


def machine(compute, *shapes):
    """A function of arrays that gives what ``compute(emitter, *values)`` does."""
    e = Emitter()
    variables = [relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)]
    with e.bb.function("main", variables):
        with e.bb.dataflow():
            result = e.bb.emit_output(compute(e, *variables))
        e.bb.emit_func_output(result)
    executable = relax.build(e.bb.get(), tvm.target.Target({"kind": "llvm", "opt-level": 0}))
    function = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return lambda *arrays: function(*map(tvm.runtime.tensor, arrays)).numpy()


def run(compute, *arrays):
    """What ``compute(emitter, *values)`` gives for arrays."""
    return machine(compute, *(array.shape for array in arrays))(*arrays)


def numbers(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def last(array):
    return np.ascontiguousarray(array.transpose(CHANNELS_LAST))


def first(array):
    return array.transpose(CHANNELS_FIRST)


# ---- moving cells ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("block_first", [True, False])
def test_a_pixel_shuffle_puts_every_channel_where_its_description_says(rng, channels_last, block_first):
    f, g = 2, 3
    x = numbers(rng, 2, 4 * f * g, 3, 5)
    got = run(
        lambda e, v: kernels.pixel_shuffle(e, v, (f, g), block_first=block_first, channels_last=channels_last),
        last(x) if channels_last else x,
    )
    got = first(got) if channels_last else got
    assert got.shape == (2, 4, 3 * f, 5 * g)
    for c in range(4):
        for i in range(f):
            for j in range(g):
                source = (i * g + j) * 4 + c if block_first else (c * f + i) * g + j
                np.testing.assert_array_equal(got[:, c, i::f, j::g], x[:, source])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("block_first", [True, False])
def test_space_to_depth_undoes_a_pixel_shuffle(rng, channels_last, block_first):
    x = numbers(rng, 2, 12, 4, 3)
    options = {"block_first": block_first, "channels_last": channels_last}
    stored = last(x) if channels_last else x
    got = run(
        lambda e, v: kernels.space_to_depth(e, kernels.pixel_shuffle(e, v, (2, 3), **options), (2, 3), **options),
        stored,
    )
    np.testing.assert_array_equal(got, stored)


# ---- sampling between cells ------------------------------------------------------------------------------------------


def test_a_deformable_convolution_that_moves_nothing_is_a_convolution(rng):
    x, weight = numbers(rng, 2, 4, 6, 5), numbers(rng, 6, 2, 3, 3)
    offset, mask = np.zeros((2, 18, 6, 5), np.float32), np.ones((2, 9, 6, 5), np.float32)
    expected = mx.nd.Convolution(
        mx.nd.array(x), mx.nd.array(weight), kernel=(3, 3), pad=(1, 1), num_filter=6, num_group=2, no_bias=True
    ).asnumpy()
    options = {"stride": (1, 1), "pad": (1, 1), "dilate": (1, 1), "groups": 2}
    for masks in ([], [mask]):
        got = run(
            lambda e, v, o, *m: kernels.deformable_convolution(e, v, o, *(m or [None]), weight, **options),
            x, offset, *masks,
        )  # fmt: skip
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        got = run(
            lambda e, v, o, *m: kernels.deformable_convolution(
                e, v, o, *(m or [None]), weight, channels_last=True, **options
            ),
            *map(last, [x, offset, *masks]),
        )
        np.testing.assert_allclose(first(got), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
def test_a_deformable_convolution_is_mxnets_at_and_beyond_the_border(rng, modulated, channels_last):
    """Samples half a cell, one cell and far outside, and right on the last cells."""
    x, weight = numbers(rng, 1, 1, 4, 4) + 3, np.ones((1, 1, 1, 1), np.float32)
    steps = np.float32([-7, -1, -0.75, -0.25, 0, 0.25, 2.75, 3, 3.25, 3.75, 4, 9])
    points = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 4, 4, 2)
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1)
    masks = [numbers(rng, 1, 1, 4, 4)] if modulated else []
    stored = last if channels_last else np.ascontiguousarray
    options = {"stride": (1, 1), "pad": (0, 0), "dilate": (1, 1), "channels_last": channels_last}
    compute = machine(
        lambda e, v, o, *m: kernels.deformable_convolution(e, v, o, *(m or [None]), weight, **options),
        *(stored(m).shape for m in (x, np.zeros((1, 2, 4, 4)), *masks)),
    )
    function = mx.nd.contrib.ModulatedDeformableConvolution if modulated else mx.nd.contrib.DeformableConvolution
    for point in points:
        maps = [x, (point - cells).transpose(2, 0, 1)[None].astype(np.float32), *masks]
        expected = function(*map(mx.nd.array, [*maps, weight]), kernel=(1, 1), num_filter=1, no_bias=True).asnumpy()
        np.testing.assert_allclose(compute(*map(stored, maps)).ravel(), expected.ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_region_of_no_photo_is_zeros_and_others_are_not(rng, channels_last):
    x = numbers(rng, 2, 3, 6, 6) + 5
    boxes = np.float32([[-1, 0, 0, 5, 5], [1, 0, 0, 5, 5], [0, 100, 100, 120, 120]])
    got = run(
        lambda e, v, b: kernels.roi_align(e, v, b, (2, 2), scale=1.0, sample_ratio=2, channels_last=channels_last),
        last(x) if channels_last else x, boxes,
    )  # fmt: skip
    got = first(got) if channels_last else got
    assert not got[0].any() and not got[2].any()
    expected = mx.nd.contrib.ROIAlign(
        mx.nd.array(x), mx.nd.array(boxes[1:2]), pooled_size=(2, 2), spatial_scale=1.0, sample_ratio=2
    ).asnumpy()
    np.testing.assert_allclose(got[1:2], expected, rtol=1e-5)


# ---- boxes -----------------------------------------------------------------------------------------------------------

NMS = {
    "overlap_thresh": 0.5, "valid_thresh": 0.1, "topk": -1, "coord_start": 1, "score_index": 0, "id_index": -1,
    "background_id": -1, "force_suppress": False,
}  # fmt: skip


def suppressed(rows, corner=True, out_corner=None, **options):
    rows = np.asarray(rows, np.float32)
    return run(lambda e, v: kernels.box_nms(e, v, corner=corner, out_corner=out_corner, **{**NMS, **options}), rows)


def test_nms_of_nothing_valid_is_all_minus_one():
    assert (suppressed(np.full((2, 3, 5), 0.05)) == -1).all()


def test_nms_of_one_row_keeps_it():
    row = [[[0.5, 0, 0, 2, 2]]]
    np.testing.assert_allclose(suppressed(row), row)


def test_nms_keeps_the_first_of_equal_scores():
    rows = [[[0.5, 0, 0, 2, 2], [0.5, 0, 0, 2, 1.9], [0.5, 5, 5, 6, 6]]]
    np.testing.assert_allclose(suppressed(rows)[0], [rows[0][0], rows[0][2], [-1] * 5], rtol=1e-6)


def test_nms_keeps_boxes_that_overlap_by_just_the_threshold():
    rows = [[[0.9, 0, 0, 2, 1], [0.8, 0, 0, 1, 1], [0.7, 0, 0, 1.01, 1]]]
    assert (suppressed(rows)[0, :, 0] > 0).sum() == 2


def test_what_a_suppressed_box_overlaps_stays():
    rows = [[[0.9, 0, 0, 2, 1], [0.8, 0.5, 0, 2.5, 1], [0.7, 1.0, 0, 3.0, 1]]]
    np.testing.assert_allclose(suppressed(rows)[0, :, 0], [0.9, 0.7, -1], rtol=1e-6)


def test_only_the_best_topk_of_nms_come_out():
    rows = [[[0.1 * (i + 2), 10 * i, 0, 10 * i + 1, 1] for i in range(6)]]
    np.testing.assert_allclose(suppressed(rows, topk=2)[0, :, 0], [0.7, 0.6, -1, -1, -1, -1], rtol=1e-6)


@pytest.mark.parametrize("corner", [True, False])
def test_nms_rewrites_boxes_that_stay_and_nothing_else(corner):
    box = [2, 3, 6, 5] if corner else [4, 4, 4, 2]
    other = [4, 4, 4, 2] if corner else [2, 3, 6, 5]
    got = suppressed([[[0.05, *box], [0.5, *box]]], corner=corner, out_corner=not corner)
    np.testing.assert_allclose(got, [[[0.5, *other], [-1] * 5]])


@pytest.mark.parametrize("count", [2, 3, 31, 32, 33, 100])
def test_nms_sorts_any_number_of_rows(rng, count):
    rows = np.zeros((3, count, 5), np.float32)
    rows[..., 0] = rng.permuted(np.tile(np.arange(count), (3, 1)), axis=1) / count
    rows[..., 1] = 10 * np.arange(count)
    rows[..., 3], rows[..., 4] = rows[..., 1] + 1, 1
    expected = mx.nd.contrib.box_nms(
        mx.nd.array(rows), valid_thresh=0.3, coord_start=1, score_index=0, id_index=-1
    ).asnumpy()
    np.testing.assert_allclose(suppressed(rows, valid_thresh=0.3), expected)
