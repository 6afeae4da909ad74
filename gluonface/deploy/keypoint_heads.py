"""What finds faces in KPNet's maps, inside the artefact: proposals, points, scores and non-maximum suppression.

Twins of :mod:`gluonface.nn.keypoints` and of `gluonface.model_zoo.keypoint_detector.faces_out`. What is below the
threshold costs nothing, and every square is summed up over its own cells only.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np

from ..decode import RESPONSE_DEPTH, SQUARE_EDGE, ScaleSpec, decode_scale
from .heads import IRBuilder, T, each_task, exp_of_negative, keep_or_drop, relax, te, tvm
from .kernels import COUNT, LEFT, merge_sort

__all__ = ["best_faces", "scale_proposals", "square_soft_argmax"]


def scale_proposals(e, scale_map, spec: ScaleSpec, count: int, score_thresh: float) -> tuple:
    """Proposals of a scale map; twin of `gluonface.nn.keypoints.ScaleProposals`.

    Parameters
    ----------
    e : Emitter
    scale_map : relax.Expr
        (B, h, w, S), logits.
    spec : ScaleSpec
    count : int
        P; as many as there are cells, where these are fewer.
    score_thresh : float
        Proposals of a lower probability are left out.

    Returns
    -------
    squares, probabilities : relax.Expr
        (B, P, 4) xyxy in pixels and (B, P), best first, both 0 where there are fewer.
    """
    batch, height, width, bins = (int(side) for side in scale_map.ty.shape)
    cells = height * width
    count = min(count, cells)
    # p >= t where the logit is at least log(t / (1 - t)); a little less, and what is left is decided on p itself.
    share = min(score_thresh, 1 - 1e-7)
    least = -math.inf if share <= 0 else math.log(share / (1 - share)) - 1e-3

    def highest_bin(data):
        def highest(n, cell):
            values = [data[n, tvm.tirx.floordiv(cell, width), tvm.tirx.floormod(cell, width), s] for s in range(bins)]
            while len(values) > 1:
                # Of an odd number both halves have the middle one.
                half = (len(values) + 1) // 2
                values = [te.max(a, b) for a, b in zip(values[:half], values[-half:])]
            return values[0]

        return te.compute((batch, cells), highest, name="highest_bin")

    def generate(ins, outs):
        with IRBuilder() as builder:
            logits, best, half_sides = (T.buffer_proxy(b) for b in ins)
            squares, probabilities, order, merged, numbers = (T.buffer_proxy(b) for b in outs)

            def probability(logit):
                return T.float32(1) / (T.float32(1) + tvm.tirx.exp(T.float32(0) - logit))

            with each_task(batch, e.gpu) as (r, _):
                numbers[r, COUNT] = T.int32(0)
                with T.serial(0, height) as y, T.serial(0, width) as x:
                    value = best[r, y * width + x]
                    likely = value > T.float32(least) if math.isfinite(least) else tvm.tirx.const(True)
                    with T.If(likely), T.Then():
                        # Beyond the border a cell of the 3x3 around this one is another of them.
                        rows = [tvm.tirx.max(y - 1, 0), y, tvm.tirx.min(y + 1, height - 1)]
                        columns = [tvm.tirx.max(x - 1, 0), x, tvm.tirx.min(x + 1, width - 1)]
                        around = [best[r, row * width + column] for row in rows for column in columns]
                        share = probability(value)
                        # 0 is that of no proposal.
                        there = tvm.tirx.all(share >= T.float32(score_thresh), share > T.float32(0))
                        with T.If(tvm.tirx.all(there, *(value >= other for other in around))), T.Then():
                            order[r, numbers[r, COUNT]] = y * width + x
                            numbers[r, COUNT] = numbers[r, COUNT] + 1
                merge_sort(lambda i, j: best[r, i] >= best[r, j], order, merged, numbers, r, cells)
                with T.serial(0, count) as i, T.If(i < numbers[r, COUNT]):
                    with T.Then():
                        place = order[r, i]
                        y, x = tvm.tirx.floordiv(place, width), tvm.tirx.floormod(place, width)
                        # From the last on, so that the first of equal bins is taken.
                        numbers[r, LEFT] = T.int32(bins - 1)
                        with T.serial(0, bins) as s, T.If(logits[r, y, x, bins - 1 - s] >= best[r, place]), T.Then():
                            numbers[r, LEFT] = bins - 1 - s
                        probabilities[r, i] = probability(best[r, place])
                        for axis, cell in enumerate((x, y)):
                            centre = (tvm.tirx.Cast("float32", cell) + T.float32(0.5)) * T.float32(spec.stride)
                            squares[r, i, axis] = centre - half_sides[numbers[r, LEFT]]
                            squares[r, i, axis + 2] = centre + half_sides[numbers[r, LEFT]]
                    with T.Else():
                        probabilities[r, i] = T.float32(0)
                        with T.serial(0, 4) as k:
                            squares[r, i, k] = T.float32(0)
            return builder.get()

    def compute(*tensors):
        shapes = [(batch, count, 4), (batch, count), (batch, cells), (batch, cells), (batch, 3)]
        types = ["float32", "float32", "int32", "int32", "int32"]
        return te.extern(shapes, list(tensors), generate, dtype=types, name="scale_proposals")

    best = e.te(highest_bin, scale_map, name="highest_bin")
    half_sides = e.constant(decode_scale(np.arange(bins) + 1, spec) / np.float32(2))
    found = e.te(compute, scale_map, best, half_sides, name="scale_proposals")
    return tuple(e.call(relax.TupleGetItem(found, k)) for k in range(2))


def square_soft_argmax(e, response, squares, probabilities, beta: float, stride: int) -> tuple:
    """Scale-adaptive soft-argmax and how high the softmax peaks; twin of `gluonface.nn.keypoints.SquareSoftArgmax`,
    `PointPeaks` and `PointsInSquares`.

    Parameters
    ----------
    e : Emitter
    response : relax.Expr
        (B, K, h, w).
    squares, probabilities : relax.Expr
        (B, P, 4) xyxy in pixels and (B, P); a square of probability 0 is none.
    beta : float
        What the response is multiplied with.
    stride : int
        Pixels a cell.

    Returns
    -------
    points, peaks : relax.Expr
        (B, P, K, 2) in pixels and (B, P, K); both 0 where there is no square, or none of its cells.
    """
    batch, points, height, width = (int(side) for side in response.ty.shape)
    count = int(probabilities.ty.shape[1])
    # On a processor the maps of points are shared out over the cores, and the places of a row are summed up side by
    # side, as vectors. On a GPU every point of every square has a block.
    tasks, slots = (batch * points * count, 1) if e.gpu else (batch * points, width)

    def exponentials(data, highest):
        return te.compute(
            (batch, points, height, width),
            lambda n, k, y, x: exp_of_negative(
                te.max(T.float32(beta) * (data[n, k, y, x] - highest[n, k, 0, 0]), T.float32(-RESPONSE_DEPTH))
            ),
            name="exponentials",
        )

    def inside(low, high, side: int):
        """First cell whose centre is in a square, and how many are."""
        edge = SQUARE_EDGE + 0.5
        first = tvm.tirx.ceil(tvm.tirx.max(low / T.float32(stride) - T.float32(edge), T.float32(0)))
        end = tvm.tirx.floor(tvm.tirx.min(high / T.float32(stride) + T.float32(edge - 1), T.float32(side - 1))) + 1
        first, end = (tvm.tirx.Cast("int32", v) for v in (first, end))
        return first, tvm.tirx.max(end - first, 0)

    def generate(ins, outs):
        with IRBuilder() as builder:
            weights, square, probability = (T.buffer_proxy(b) for b in ins)
            places, peaks, total, sum_x, sum_y, highest, sums = (T.buffer_proxy(b) for b in outs)
            with each_task(tasks, e.gpu) as (t, _), contextlib.ExitStack() as stack:
                if e.gpu:
                    one, p = tvm.tirx.floordiv(t, count), tvm.tirx.floormod(t, count)
                else:
                    one, p = t, stack.enter_context(T.serial(0, count))
                r, k = tvm.tirx.floordiv(one, points), tvm.tirx.floormod(one, points)
                places[r, p, k, 0] = T.float32(0)
                places[r, p, k, 1] = T.float32(0)
                peaks[r, p, k] = T.float32(0)
                left, columns = inside(square[r, p, 0], square[r, p, 2], width)
                top, rows = inside(square[r, p, 1], square[r, p, 3], height)
                there = tvm.tirx.all(probability[r, p] > T.float32(0), columns > 0, rows > 0)
                stack.enter_context(T.If(there))
                stack.enter_context(T.Then())
                used = 1 if e.gpu else columns
                with T.serial(0, used) as x:
                    for room in (total, sum_x, sum_y, highest):
                        room[t, x] = T.float32(0)
                with T.serial(0, rows) as j, T.serial(0, columns) as x:
                    weight, slot = weights[r, k, top + j, left + x], 0 if e.gpu else x
                    total[t, slot] = total[t, slot] + weight
                    sum_x[t, slot] = sum_x[t, slot] + weight * tvm.tirx.Cast("float32", x)
                    sum_y[t, slot] = sum_y[t, slot] + weight * tvm.tirx.Cast("float32", j)
                    highest[t, slot] = tvm.tirx.max(highest[t, slot], weight)
                for i in range(4):
                    sums[t, i] = T.float32(0)
                with T.serial(0, used) as x:
                    for i, room in enumerate((total, sum_x, sum_y)):
                        sums[t, i] = sums[t, i] + room[t, x]
                    sums[t, 3] = tvm.tirx.max(sums[t, 3], highest[t, x])
                for axis, first in enumerate((left, top)):
                    cell = sums[t, axis + 1] / sums[t, 0] + tvm.tirx.Cast("float32", first)
                    places[r, p, k, axis] = (cell + T.float32(0.5)) * T.float32(stride)
                peaks[r, p, k] = sums[t, 3] / sums[t, 0]
            return builder.get()

    def compute(*tensors):
        shapes = [(batch, count, points, 2), (batch, count, points), *[(tasks, slots)] * 4, (tasks, 4)]
        return te.extern(shapes, list(tensors), generate, dtype=["float32"] * 7, name="square_soft_argmax")

    # A shift of all changes nothing: the exponentials are taken once, for all squares.
    highest = e.call(relax.op.max(response, axis=[2, 3], keepdims=True))
    weights = e.te(exponentials, response, highest, name="exponentials")
    found = e.te(compute, weights, squares, probabilities, name="square_soft_argmax")
    return tuple(e.call(relax.TupleGetItem(found, k)) for k in range(2))


def best_faces(e, scores, boxes, points, *, nms_thresh: float, post_nms: int) -> list:
    """Faces after non-maximum suppression; twin of `gluonface.model_zoo.keypoint_detector.faces_out`.

    Parameters
    ----------
    e : Emitter
    scores : relax.Expr
        (B, P), 0 for what is none.
    boxes : relax.Expr
        (B, P, 4) xyxy.
    points : relax.Expr
        (B, P, 2K).
    nms_thresh, post_nms
        See ``MapDetector.set_nms``.

    Returns
    -------
    list of relax.Expr
        scores (B, n), bboxes (B, n, 4), landmarks (B, n, 2K); best first, filled up with -1.
    """
    batch, count, width = (int(side) for side in points.ty.shape)
    given = count if post_nms <= 0 else min(post_nms, count)

    def generate(ins, outs):
        with IRBuilder() as builder:
            score, box, point = (T.buffer_proxy(b) for b in ins)
            out_scores, out_boxes, out_points, order, merged, kept, areas, numbers = (T.buffer_proxy(b) for b in outs)
            with each_task(batch, e.gpu) as (r, _):
                numbers[r, COUNT] = T.int32(0)
                with T.serial(0, count) as j, T.If(score[r, j] > T.float32(0)), T.Then():
                    order[r, numbers[r, COUNT]] = j
                    numbers[r, COUNT] = numbers[r, COUNT] + 1
                merge_sort(lambda i, j: score[r, i] >= score[r, j], order, merged, numbers, r, count)
                numbers[r, LEFT] = T.int32(0)
                with T.serial(0, numbers[r, COUNT]) as i, T.If(numbers[r, LEFT] < given), T.Then():
                    place = order[r, i]
                    with T.serial(0, 4) as k:
                        kept[r, numbers[r, LEFT], k] = box[r, place, k]
                    keep_or_drop(r, place, merged, numbers, kept, areas, nms_thresh)
                with T.serial(0, given) as i, T.If(i < numbers[r, LEFT]):
                    with T.Then():
                        out_scores[r, i] = score[r, merged[r, i]]
                        with T.serial(0, 4) as k:
                            out_boxes[r, i, k] = kept[r, i, k]
                        with T.serial(0, width) as k:
                            out_points[r, i, k] = point[r, merged[r, i], k]
                    with T.Else():
                        out_scores[r, i] = T.float32(-1)
                        with T.serial(0, 4) as k:
                            out_boxes[r, i, k] = T.float32(-1)
                        with T.serial(0, width) as k:
                            out_points[r, i, k] = T.float32(-1)
            return builder.get()

    def compute(*tensors):
        room = [(batch, count)] * 2 + [(batch, given + 1, 4), (batch, given + 1), (batch, 3)]
        shapes = [(batch, given), (batch, given, 4), (batch, given, width), *room]
        types = ["float32"] * 3 + ["int32"] * 2 + ["float32"] * 2 + ["int32"]
        return te.extern(shapes, list(tensors), generate, dtype=types, name="best_faces")

    found = e.te(compute, scores, boxes, points, name="best_faces")
    return [e.call(relax.TupleGetItem(found, k)) for k in range(3)]
