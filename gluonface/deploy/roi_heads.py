"""What looks inside boxes, in the artefact: features of a face from the level of a pyramid that its size asks for.

Twin of `gluonface.nn.roi.PyramidRoIAlign`. There every level is looked at for every box, since a graph of MXNet's
cannot choose; here each box reads its own level only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from .heads import IRBuilder, T, each_task, te, tvm

__all__ = ["pyramid_roi_align"]

#: Points along each side of a cell.
_POINTS = 2


def pyramid_roi_align(e, rois, maps: Sequence, strides: Sequence[int], areas: Sequence[float], side: int):
    """Features of boxes; twin of `gluonface.nn.roi.PyramidRoIAlign`.

    Parameters
    ----------
    e : Emitter
    rois : relax.Expr
        (R, 5), image and box xyxy in pixels of the canvas.
    maps : sequence of relax.Expr
        Levels (B, h, w, C), finest first.
    strides : sequence of int
        Pixels a cell of each level.
    areas : sequence of float
        In square pixels, from which on a box belongs to the second, third ... level.
    side : int
        Cells along each side of a box.

    Returns
    -------
    relax.Var
        (R, side, side, C); zeros for the image -1 or a box without area.
    """
    count = int(rois.ty.shape[0])
    shapes = [tuple(int(extent) for extent in m.ty.shape) for m in maps]
    batch, _, _, channels = shapes[0]
    # On a processor a core takes a row of cells, and channels become vectors. On a GPU each cell has a block, and each
    # channel a thread.
    tasks, threads = (count * side * side, channels) if e.gpu else (count * side, 1)

    def corners(at, extent: int):
        """The cells before and after a place in cells, the first being at 0, and the weight of the second."""
        inside = tvm.tirx.max(tvm.tirx.min(at, T.float32(extent - 1)), T.float32(0))
        low = tvm.tirx.Cast("int32", tvm.tirx.floor(inside))
        return low, tvm.tirx.min(low + 1, extent - 1), inside - tvm.tirx.Cast("float32", low)

    def generate(ins, outs):
        with IRBuilder() as builder:
            roi, *levels = (T.buffer_proxy(b) for b in ins)
            features = T.buffer_proxy(outs[0])

            with each_task(tasks, e.gpu, threads) as (t, thread), contextlib.ExitStack() as stack:

                def each_channel():
                    return contextlib.nullcontext(thread) if e.gpu else T.serial(0, channels)

                line = tvm.tirx.floordiv(t, side) if e.gpu else t
                column = tvm.tirx.floormod(t, side) if e.gpu else stack.enter_context(T.serial(0, side))
                r, row = tvm.tirx.floordiv(line, side), tvm.tirx.floormod(line, side)
                with each_channel() as c:
                    features[r, row, column, c] = T.float32(0)
                low, high = (roi[r, 1], roi[r, 2]), (roi[r, 3], roi[r, 4])
                area = (high[0] - low[0]) * (high[1] - low[1])
                image = tvm.tirx.min(tvm.tirx.Cast("int32", roi[r, 0]), batch - 1)
                real = tvm.tirx.all(roi[r, 0] >= T.float32(0), high[0] > low[0], high[1] > low[1])
                stack.enter_context(T.If(real))
                stack.enter_context(T.Then())
                for n, (level, stride, (_, height, width, _)) in enumerate(zip(levels, strides, shapes)):
                    own = [area >= T.float32(least) for least in areas[max(n - 1, 0) : n]]
                    own += [area < T.float32(least) for least in areas[n : n + 1]]
                    scale, half = T.float32(1 / stride), T.float32(0.5)
                    with contextlib.ExitStack() as inner:
                        if own:
                            inner.enter_context(T.If(tvm.tirx.all(*own)))
                            inner.enter_context(T.Then())
                        i, j = (inner.enter_context(T.serial(0, _POINTS)) for _ in range(2))
                        places = []
                        for axis, cell, point in ((1, row, i), (0, column, j)):
                            first = low[axis] * scale - half
                            step = (high[axis] * scale - half - first) / T.float32(side)
                            share = (tvm.tirx.Cast("float32", point) + half) * step / T.float32(_POINTS)
                            places.append(first + tvm.tirx.Cast("float32", cell) * step + share)
                        y, x = places
                        # The cells at the border go on for a whole one; 0 is beyond.
                        near = [y >= T.float32(-1), y <= T.float32(height), x >= T.float32(-1)]
                        with T.If(tvm.tirx.all(*near, x <= T.float32(width))), T.Then():
                            (top, bottom, down), (left, right, across) = corners(y, height), corners(x, width)
                            up, back = T.float32(1) - down, T.float32(1) - across
                            with each_channel() as c:
                                upper = back * level[image, top, left, c] + across * level[image, top, right, c]
                                lower = back * level[image, bottom, left, c] + across * level[image, bottom, right, c]
                                features[r, row, column, c] = features[r, row, column, c] + (
                                    up * upper + down * lower
                                ) / T.float32(_POINTS**2)
            return builder.get()

    def compute(*tensors):
        shape = (count, side, side, channels)
        return te.extern([shape], list(tensors), generate, dtype=["float32"], name="pyramid_roi_align")

    return e.te(compute, rois, *maps, name="pyramid_roi_align")
