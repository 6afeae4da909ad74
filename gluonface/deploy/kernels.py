"""Computations that Relax has no operator for, or only a slow one, as tensor expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .._compat import import_optional
from . import convolution

tvm = import_optional("tvm", "deploy")
te = import_optional("tvm.te", "deploy")
topi = import_optional("tvm.topi", "deploy")
relax = import_optional("tvm.relax", "deploy")
T = import_optional("tvm.script.ir_builder.tirx", "deploy")
IRBuilder = import_optional("tvm.script.ir_builder", "deploy").IRBuilder

__all__ = [
    "box_decode",
    "box_nms",
    "deformable_convolution",
    "merge_sort",
    "pixel_shuffle",
    "roi_align",
    "space_to_depth",
]

#: Columns of the small table of whole numbers that a row works with.
COUNT, LEFT, RIGHT = range(3)


# ---- moving cells ----------------------------------------------------------------------------------------------------


def pixel_shuffle(e, x, block: Sequence[int], *, block_first: bool = False, channels_last: bool = False):
    """Channels become the cells of a block: one permutation.

    Parameters
    ----------
    e : Emitter
    x : relax.Expr
        (B, C f g, h, w), or (B, h, w, C f g).
    block : (int, int)
        f, g: rows and columns of a block.
    block_first : bool
        Whether channel ``(i g + j) C + c`` of the input goes to place (i, j) of channel c, as in depth_to_space. If
        not, channel ``(c f + i) g + j`` does.
    channels_last : bool

    Returns
    -------
    relax.Var
        (B, C, f h, g w), or (B, f h, g w, C).
    """
    f, g = block
    if channels_last:
        batch, height, width, channels = (int(side) for side in x.ty.shape)
    else:
        batch, channels, height, width = (int(side) for side in x.ty.shape)
    channels //= f * g
    if channels_last:
        parts, axes = ([f, g, channels], [0, 1, 3, 2, 4, 5]) if block_first else ([channels, f, g], [0, 1, 4, 2, 5, 3])
        split, joined = [batch, height, width, *parts], [batch, height * f, width * g, channels]
    else:
        parts, axes = ([f, g, channels], [0, 3, 4, 1, 5, 2]) if block_first else ([channels, f, g], [0, 1, 4, 2, 5, 3])
        split, joined = [batch, *parts, height, width], [batch, channels, height * f, width * g]
    return _moved(e, x, split, axes, joined)


def space_to_depth(e, x, block: Sequence[int], *, block_first: bool = True, channels_last: bool = False):
    """The inverse of `pixel_shuffle`: (B, C, f h, g w) to (B, C f g, h, w), or channels-last."""
    f, g = block
    if channels_last:
        batch, height, width, channels = (int(side) for side in x.ty.shape)
        axes = [0, 1, 3, 2, 4, 5] if block_first else [0, 1, 3, 5, 2, 4]
        split = [batch, height // f, f, width // g, g, channels]
        joined = [batch, height // f, width // g, channels * f * g]
    else:
        batch, channels, height, width = (int(side) for side in x.ty.shape)
        axes = [0, 3, 5, 1, 2, 4] if block_first else [0, 1, 3, 5, 2, 4]
        split = [batch, channels, height // f, f, width // g, g]
        joined = [batch, channels * f * g, height // f, width // g]
    return _moved(e, x, split, axes, joined)


def _moved(e, x, split: list[int], axes: list[int], joined: list[int]):
    return e.call(relax.op.reshape(e.call(relax.op.permute_dims(e.call(relax.op.reshape(x, split)), axes)), joined))


# ---- sampling between cells ------------------------------------------------------------------------------------------


def _corners(at):
    """The cells before and after a real coordinate, cell i being at i, and how far it is from the first; int32, int32,
    float32. They are not cut at the border.
    """
    low = te.floor(at).astype("int32")
    return low, low + 1, at - low.astype("float32")


def _cut(place, extent: int):
    """A place along an axis, or the nearest one that there is."""
    return te.max(te.min(place, tvm.tirx.const(extent - 1, place.ty.dtype)), tvm.tirx.const(0, place.ty.dtype))


def _between_cells(read, y, x, height: int, width: int):
    """Value at real coordinates, cell (i, j) being at (i, j); outside of the map its border goes on."""
    rows, columns = (_corners(_cut(at, extent)) for at, extent in ((y, height), (x, width)))
    values = []
    for i in (0, 1):
        for j in (0, 1):
            weight = (rows[2] if i else 1 - rows[2]) * (columns[2] if j else 1 - columns[2])
            values.append(weight * read(_cut(rows[i], height), _cut(columns[j], width)))
    return (values[0] + values[1]) + (values[2] + values[3])


def deformable_convolution(
    e,
    x,
    offset,
    mask,
    weight,
    *,
    stride: Sequence[int],
    pad: Sequence[int],
    dilate: Sequence[int],
    groups: int = 1,
    deformable_groups: int = 1,
    channels_last: bool = False,
):
    """MXNet's deformable convolution, v1 or with a mask v2: what the moved kernel sees, then one matrix product.

    At the border the two differ, as MXNet's do: v1 has nothing outside of the map's cell centres, v2 lets cells fade to
    zero over one cell.

    Parameters
    ----------
    e : Emitter
    x : relax.Expr
        Map of C channels, as `channels_last` says; as are offset and mask.
    offset : relax.Expr
        D k 2 channels, D being ``deformable_groups`` and k the places of the kernel: rows, then columns of each.
    mask : relax.Expr or None
        D k channels.
    weight : (F, C / groups, kh, kw) array or relax.Expr

    Returns
    -------
    relax.Var
        Map of F channels.
    """
    if channels_last:
        batch, height, width, channels = (int(side) for side in x.ty.shape)
        _, out_h, out_w, _ = (int(side) for side in offset.ty.shape)
    else:
        batch, channels, height, width = (int(side) for side in x.ty.shape)
        _, _, out_h, out_w = (int(side) for side in offset.ty.shape)
    fixed = isinstance(weight, np.ndarray)
    filters, each, rows, columns = (int(side) for side in (weight.shape if fixed else weight.ty.shape))
    places, shared = rows * columns, channels // deformable_groups
    table = (batch, out_h, out_w, deformable_groups * places, 4)

    def at(tensor, n, c, y, x):
        return tensor[n, y, x, c] if channels_last else tensor[n, c, y, x]

    def seen_at(moves, n, i, j, k):
        place = tvm.tirx.floormod(k, places)
        y = (i * stride[0] - pad[0] + tvm.tirx.floordiv(place, columns) * dilate[0]).astype("float32")
        x = (j * stride[1] - pad[1] + tvm.tirx.floormod(place, columns) * dilate[1]).astype("float32")
        y, x = y + at(moves, n, 2 * k, i, j), x + at(moves, n, 2 * k + 1, i, j)
        # Beyond a cell outside there is nothing, however far.
        return [te.max(te.min(v, T.float32(side)), T.float32(-1)) for v, side in ((y, height), (x, width))]

    def four_cells(moves):
        """Row before and after, column before and after, each inside of the map."""

        def cell(n, i, j, k, m):
            y, x = map(_corners, seen_at(moves, n, i, j, k))
            row = _cut(tvm.tirx.Select(m == 0, y[0], y[1]), height)
            column = _cut(tvm.tirx.Select(m == 2, x[0], x[1]), width)
            return tvm.tirx.Select(m < 2, row, column)

        return te.compute(table, cell, name="four_cells")

    def four_shares(moves, factors=None):
        """What each of the four cells counts: rows before and after, in them columns before and after."""

        def share(n, i, j, k, m):
            y, x = seen_at(moves, n, i, j, k)
            if factors is None:
                inside = tvm.tirx.all(y >= T.float32(0), x >= T.float32(0), y < T.float32(height), x < T.float32(width))
                y, x = _cut(y, height), _cut(x, width)
            product = T.float32(1)
            for v, side, after in ((y, height, m >= 2), (x, width, tvm.tirx.floormod(m, 2) == 1)):
                low, high, far = _corners(v)
                product = product * tvm.tirx.Select(after, far, 1 - far)
                if factors is not None:
                    place = tvm.tirx.Select(after, high, low)
                    there = tvm.tirx.all(place >= 0, place < side)
                    product = tvm.tirx.Select(there, product, T.float32(0))
            if factors is None:
                return tvm.tirx.Select(inside, product, T.float32(0))
            return product * at(factors, n, k, i, j)

        return te.compute(table, share, name="four_shares")

    def sampled(data, cells, shares, n, c, place, i, j):
        # All channels of a place are moved alike, so that the channels innermost become vectors.
        k = place if deformable_groups == 1 else tvm.tirx.floordiv(c, shared) * places + place
        values = [
            shares[n, i, j, k, m] * at(data, n, c, cells[n, i, j, k, m // 2], cells[n, i, j, k, 2 + m % 2])
            for m in range(4)
        ]
        return (values[0] + values[1]) + (values[2] + values[3])

    def of_channels_last(data, cells, shares):
        return te.compute(
            (batch, out_h, out_w, places * channels),
            lambda n, i, j, q: sampled(
                data, cells, shares, n, tvm.tirx.floormod(q, channels), tvm.tirx.floordiv(q, channels), i, j
            ),
            name="columns",
        )

    def of_groups_last(data, cells, shares):
        return te.compute(
            (groups, batch * out_h * out_w, places * each),
            lambda g, p, q: sampled(
                data,
                cells,
                shares,
                tvm.tirx.floordiv(p, out_h * out_w),
                g * each + tvm.tirx.floormod(q, each),
                tvm.tirx.floordiv(q, each),
                tvm.tirx.floordiv(tvm.tirx.floormod(p, out_h * out_w), out_w),
                tvm.tirx.floormod(p, out_w),
            ),
            name="deformable_columns",
        )

    def of_channels_first(data, cells, shares):
        return te.compute(
            (batch, groups, each * places, out_h * out_w),
            lambda n, g, q, p: sampled(
                data,
                cells,
                shares,
                n,
                g * each + tvm.tirx.floordiv(q, places),
                tvm.tirx.floormod(q, places),
                tvm.tirx.floordiv(p, out_w),
                tvm.tirx.floormod(p, out_w),
            ),
            name="deformable_columns",
        )

    factors = [] if mask is None else [mask]
    sources = [
        x,
        e.te(four_cells, offset, name="four_cells"),
        e.te(four_shares, offset, *factors, name="four_shares"),
    ]
    if channels_last and fixed and groups == 1:
        weight = weight.transpose(0, 2, 3, 1).reshape(filters, places * channels)
        return convolution.of_columns(e, of_channels_last, sources, (batch, out_h, out_w), weight)
    seen = e.te(of_groups_last if channels_last else of_channels_first, *sources, name="deformable_columns")
    shape, last_axes = [groups, filters // groups, each, places], (0, 3, 2, 1)
    if fixed:
        weight = weight.reshape(shape)
        weight = e.constant(np.ascontiguousarray(weight.transpose(last_axes) if channels_last else weight))
    else:
        weight = e.call(relax.op.reshape(weight, shape))
        weight = e.call(relax.op.permute_dims(weight, list(last_axes))) if channels_last else weight
    if not channels_last:
        weight = e.call(relax.op.reshape(weight, [1, groups, filters // groups, each * places]))
        result = e.call(relax.op.matmul(weight, seen))
        return e.call(relax.op.reshape(result, [batch, filters, out_h, out_w]))
    weight = e.call(relax.op.reshape(weight, [groups, places * each, filters // groups]))
    result = e.call(relax.op.matmul(seen, weight))
    if groups > 1:
        result = e.call(relax.op.permute_dims(result, [1, 0, 2]))
    return e.call(relax.op.reshape(result, [batch, out_h, out_w, filters]))


def roi_align(
    e,
    x,
    rois,
    pooled: Sequence[int],
    *,
    scale: float,
    sample_ratio: int = -1,
    aligned: bool = False,
    channels_last: bool = False,
):
    """MXNet's ``contrib.ROIAlign``: the mean of points spread evenly over each cell of each region.

    Parameters
    ----------
    e : Emitter
    x : relax.Expr
        (B, C, h, w), or (B, h, w, C).
    rois : relax.Expr
        (R, 5), photo in the batch and xyxy; a negative photo's region is zeros.
    pooled : (int, int)
        Cells of a region.
    scale : float
        Cells of the map a unit of the boxes.
    sample_ratio : int
        Points along each side of a cell; below 1 as many as the map has cells there.
    aligned : bool
        Whether cell (0, 0) has its centre at 0.5 and small regions stay small.

    Returns
    -------
    relax.Var
        (R, C, *pooled), or (R, *pooled, C).
    """
    if channels_last:
        batch, height, width, channels = (int(side) for side in x.ty.shape)
    else:
        batch, channels, height, width = (int(side) for side in x.ty.shape)
    pooled = tuple(pooled)
    count = int(rois.ty.shape[0])

    def value(data, boxes, r, c, cell):
        shift = T.float32(0.5 if aligned else 0)
        low = [boxes[r, 2 - axis] * T.float32(scale) - shift for axis in (0, 1)]
        extent = [boxes[r, 4 - axis] * T.float32(scale) - shift - low[axis] for axis in (0, 1)]
        if not aligned:
            extent = [te.max(side, T.float32(1)) for side in extent]
        step = [side / T.float32(cells) for side, cells in zip(extent, pooled)]
        if sample_ratio > 0:
            numbers = [tvm.tirx.const(sample_ratio, "int32")] * 2
        else:
            numbers = [te.ceil(side).astype("int32") for side in step]
        axes = [te.reduce_axis((0, number), name) for number, name in zip(numbers, "ij")]
        points = [
            low[k]
            + cell[k].astype("float32") * step[k]
            + (axes[k].astype("float32") + T.float32(0.5)) * step[k] / numbers[k].astype("float32")
            for k in (0, 1)
        ]
        photo = boxes[r, 0].astype("int32")
        inside = tvm.tirx.all(
            photo >= 0,
            *(p >= T.float32(-1) for p in points),
            *(p <= T.float32(n) for p, n in zip(points, (height, width))),
        )
        photo = tvm.tirx.max(tvm.tirx.min(photo, batch - 1), 0)

        def read(y, x):
            return data[photo, y, x, c] if channels_last else data[photo, c, y, x]

        sampled = _between_cells(read, *points, height, width)
        number = tvm.tirx.max(numbers[0] * numbers[1], 1).astype("float32")
        return te.sum(tvm.tirx.Select(inside, sampled, T.float32(0)) / number, axis=axes)

    def compute(data, boxes):
        if channels_last:
            return te.compute(
                (count, *pooled, channels), lambda r, i, j, c: value(data, boxes, r, c, (i, j)), name="roi_align"
            )
        return te.compute(
            (count, channels, *pooled), lambda r, c, i, j: value(data, boxes, r, c, (i, j)), name="roi_align"
        )

    return e.te(compute, x, rois, name="roi_align")


# ---- boxes -----------------------------------------------------------------------------------------------------------


def box_decode(e, data, anchors, *, stds: Sequence[float], limit: float, corner: bool):
    """MXNet's ``contrib.box_decode``: offsets (B, N, 4) from anchors (1, N, 4) to boxes xyxy.

    Parameters
    ----------
    e : Emitter
    data, anchors : relax.Expr
    stds : four floats
        What the offsets are multiplied with.
    limit : float
        Of the logarithms of the extents; none if it is not positive.
    corner : bool
        Whether anchors are xyxy; if not, centre and extent.

    Returns
    -------
    relax.Var
        (B, N, 4).
    """
    batch, count, _ = (int(side) for side in data.ty.shape)

    def compute(offsets, boxes):
        def side(b, n, k):
            axis = tvm.tirx.floormod(k, 2)
            first, second = boxes[0, n, axis], boxes[0, n, axis + 2]
            extent, centre = (second - first, first + (second - first) / 2) if corner else (second, first)

            def std(i):
                return tvm.tirx.Select(axis == 0, T.float32(stds[i]), T.float32(stds[i + 1]))

            logarithm = offsets[b, n, axis + 2] * std(2)
            if limit > 0:
                logarithm = te.min(logarithm, T.float32(limit))
            half = te.exp(logarithm) * extent / 2
            return offsets[b, n, axis] * std(0) * extent + centre + tvm.tirx.Select(k < 2, -half, half)

        return te.compute((batch, count, 4), side, name="box_decode")

    return e.te(compute, data, anchors, name="box_decode")


# ---- non-maximum suppression -----------------------------------------------------------------------------------------


def box_nms(
    e,
    rows,
    *,
    overlap_thresh: float,
    valid_thresh: float,
    topk: int,
    coord_start: int,
    score_index: int,
    id_index: int,
    background_id: int,
    force_suppress: bool,
    corner: bool,
    out_corner: bool | None = None,
):
    """MXNet's ``contrib.box_nms`` of rows (B, N, width): what stays, best first, then rows of -1.

    Only rows above the threshold are sorted (stably, as MXNet does), and only the best ``topk`` are compared, each with
    those that stay so far. ``corner`` says whether boxes come as xyxy or as centre and extent, ``out_corner`` how they
    leave; by default as they came.
    """
    converted = out_corner is not None and out_corner != corner
    batch, count, width = (int(side) for side in rows.ty.shape)
    limit = count if topk < 0 else min(topk, count)
    same_class_only = id_index >= 0 and not force_suppress

    def generate(ins, outs):
        with IRBuilder() as builder:
            data, (out, order, merged, numbers) = T.buffer_proxy(ins[0]), (T.buffer_proxy(b) for b in outs)
            with T.parallel(0, batch) as r:
                _sort_valid(data, r, order, merged, numbers, count, score_index, id_index, background_id, valid_thresh)
                # merged now holds what stays; numbers[r, 1] how many.
                numbers[r, 1] = T.int32(0)
                with T.serial(0, limit) as i, T.If(i < numbers[r, 0]), T.Then():
                    numbers[r, 2] = T.int32(1)
                    with T.serial(0, numbers[r, 1]) as k, T.If(numbers[r, 2] == 1), T.Then():
                        drop = _overlap(data, r, order[r, i], merged[r, k], coord_start, corner) > T.float32(
                            overlap_thresh
                        )
                        if same_class_only:
                            drop = tvm.tirx.all(drop, data[r, order[r, i], id_index] == data[r, merged[r, k], id_index])
                        with T.If(drop), T.Then():
                            numbers[r, 2] = T.int32(0)
                    with T.If(numbers[r, 2] == 1), T.Then():
                        merged[r, numbers[r, 1]] = order[r, i]
                        numbers[r, 1] = numbers[r, 1] + 1
                with T.serial(0, count) as i, T.serial(0, width) as k, T.If(i < numbers[r, 1]):
                    with T.Then():
                        out[r, i, k] = data[r, merged[r, i], k]
                    with T.Else():
                        out[r, i, k] = T.float32(-1)
                if converted:
                    _convert(out, r, numbers[r, 1], coord_start, corner)
            return builder.get()

    def compute(data):
        return te.extern(
            [(batch, count, width), (batch, count), (batch, count), (batch, 3)],
            [data],
            generate,
            dtype=["float32", "int32", "int32", "int32"],
            name="box_nms",
        )

    return relax.TupleGetItem(e.te(compute, rows, name="box_nms"), 0)


def merge_sort(better, order, merged, numbers, row, most: int) -> None:
    """Sort ``order[row, :numbers[row, 0]]``, stably.

    Parameters
    ----------
    better : callable
        ``better(i, j)``: whether what ``order`` holds as i may stand before j.
    order, merged, numbers : buffer proxies
        (B, most) int32, the same as room to work, (B, 3) int32.
    row : expr
    most : int
        That can be there.
    """
    for step in range(math.ceil(math.log2(max(most, 2)))):
        side = 1 << step
        with T.If(side < numbers[row, COUNT]), T.Then():
            with T.serial(0, tvm.tirx.floordiv(numbers[row, COUNT] + (2 * side - 1), 2 * side)) as block:
                start = block * (2 * side)
                middle = tvm.tirx.min(start + side, numbers[row, COUNT])
                end = tvm.tirx.min(start + 2 * side, numbers[row, COUNT])
                numbers[row, LEFT], numbers[row, RIGHT] = start, middle
                with T.serial(0, end - start) as k:
                    # An exhausted half is not looked at, but read within bounds.
                    left = order[row, tvm.tirx.min(numbers[row, LEFT], middle - 1)]
                    right = order[row, tvm.tirx.min(numbers[row, RIGHT], end - 1)]
                    take_left = tvm.tirx.any(numbers[row, RIGHT] >= end, better(left, right))
                    with T.If(tvm.tirx.all(numbers[row, LEFT] < middle, take_left)):
                        with T.Then():
                            merged[row, start + k] = order[row, numbers[row, LEFT]]
                            numbers[row, LEFT] = numbers[row, LEFT] + 1
                        with T.Else():
                            merged[row, start + k] = order[row, numbers[row, RIGHT]]
                            numbers[row, RIGHT] = numbers[row, RIGHT] + 1
            with T.serial(0, numbers[row, COUNT]) as j:
                order[row, j] = merged[row, j]


def _sort_valid(data, r, order, merged, numbers, count, score_index, id_index, background_id, valid_thresh) -> None:
    """Places of the rows above the threshold, best first, into ``order``; how many into ``numbers[r, 0]``."""
    numbers[r, 0] = T.int32(0)
    with T.serial(0, count) as j:
        valid = data[r, j, score_index] > T.float32(valid_thresh)
        if id_index >= 0 and background_id >= 0:
            valid = tvm.tirx.all(valid, data[r, j, id_index] != T.float32(background_id))
        with T.If(valid), T.Then():
            order[r, numbers[r, 0]] = j
            numbers[r, 0] = numbers[r, 0] + 1
    # Of equal scores the earlier row comes first.
    merge_sort(lambda i, j: data[r, i, score_index] >= data[r, j, score_index], order, merged, numbers, r, count)


def _convert(out, r, count, start: int, corner: bool) -> None:
    """Rewrite the first boxes from xyxy to centre and extent, or back."""
    with T.serial(0, count) as i:
        for axis in (0, 1):
            # Buffers are written one element after the other: the first new value still needs both old ones.
            first, second = out[r, i, start + axis], out[r, i, start + axis + 2]
            if corner:
                out[r, i, start + axis] = (first + second) / 2
                out[r, i, start + axis + 2] = (second - out[r, i, start + axis]) * 2
            else:
                out[r, i, start + axis] = first - second / 2
                out[r, i, start + axis + 2] = out[r, i, start + axis] + second


def _overlap(data, r, i, j, start: int, corner: bool):
    """Intersection over union of two rows' boxes."""

    def sides(row, axis):
        low, high = data[r, row, start + axis], data[r, row, start + axis + 2]
        return (low, high) if corner else (low - high / 2, low + high / 2)

    def area(row):
        extents = [high - low for low, high in (sides(row, 0), sides(row, 1))]
        positive = [tvm.tirx.max(extent, T.float32(0)) for extent in extents]
        return positive[0] * positive[1]

    common = T.float32(1)
    for axis in (0, 1):
        (low_i, high_i), (low_j, high_j) = sides(i, axis), sides(j, axis)
        common = common * tvm.tirx.max(tvm.tirx.min(high_i, high_j) - tvm.tirx.max(low_i, low_j), T.float32(0))
    return common / (area(i) + area(j) - common)
