"""What turns a network's raw predictions into what a user wants, inside the artefact.

Twins of :mod:`gluonface.nn.coder`, :mod:`gluonface.nn.heatmap` and of MXNet's ``box_nms``, written for few faces among
many anchors: what cannot be a face is not decoded. Those of KPNet are in :mod:`gluonface.deploy.keypoint_heads`, what
RetinaFace's whole variant has beside these in :mod:`gluonface.deploy.mesh_heads`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from .._compat import import_optional
from ..decode import MAX_LOG_SIZE, POSE_BIN_CENTRES, POSE_BINS
from .kernels import COUNT, LEFT, RIGHT, merge_sort

tvm = import_optional("tvm", "deploy")
te = import_optional("tvm.te", "deploy")
relax = import_optional("tvm.relax", "deploy")
T = import_optional("tvm.script.ir_builder.tirx", "deploy")
IRBuilder = import_optional("tvm.script.ir_builder", "deploy").IRBuilder

__all__ = [
    "OfFaces",
    "Pose",
    "anchor_table",
    "detections",
    "each_task",
    "exp_of_negative",
    "image_of",
    "keep_or_drop",
    "soft_argmax",
]


class OfFaces(Protocol):
    """What is worked out of the faces that are left only; `Pose` is one."""

    def of_faces(self, e, scores, places, table):
        """Its values (B, n, ...), -1 where there is no face.

        Parameters
        ----------
        e : Emitter
        scores : relax.Expr
            (B, n), best first, -1 where there is no face.
        places : relax.Expr
            (B, n or more) int32: anchors of the faces.
        table : relax.Expr
            (1 or B, N, 3): centre x, y and side of the anchors, in pixels of the canvas.
        """


@dataclass(frozen=True)
class Pose:
    """Of what the pose of a face is worked out; see `gluonface.nn.heads.PoseHead`.

    Attributes
    ----------
    cells : relax.Expr
        (B, cells, C), a vector a cell.
    weight, bias : ndarray
        (L A 198, C) and (L A 198,): of each of the A anchors of a cell of each of L levels.
    sides : sequence of float
        Sides of these anchors in pixels, which grow.
    per_cell : int
        A.
    """

    cells: Any
    weight: np.ndarray
    bias: np.ndarray
    sides: Sequence[float]
    per_cell: int

    def of_faces(self, e, scores, places, table):
        """Angles (B, n, 3) in degrees; see `OfFaces`."""
        return _head_pose(e, self, scores, places, table)


@contextlib.contextmanager
def each_task(count: int, gpu: bool, threads: int = 1) -> Iterator[tuple]:
    """Run what follows for every task, such as an image: on a core each, or on a GPU's block each with so many threads.

    Gives the task's number and the thread's.
    """
    if gpu:
        with T.thread_binding(0, count, "blockIdx.x") as image, T.thread_binding(0, threads, "threadIdx.x") as thread:
            yield image, thread
    else:
        with T.parallel(0, count) as image:
            yield image, None


def anchor_table(anchors: np.ndarray) -> np.ndarray:
    """Anchors (N, 4) xyxy as (N, 3) float32: centre x, y and side."""
    low, high = anchors[:, :2], anchors[:, 2:]
    return np.concatenate([(low + high) / 2, high[:, :1] - low[:, :1]], axis=1).astype(np.float32)


def image_of(table, r):
    """Where a table of anchors (1 or B, N, 3) has those of image ``r``: one serves all, or each has its own."""
    return r if int(table.ty.shape[0]) > 1 else 0


def keep_or_drop(r, place, merged, numbers, kept, areas, nms_thresh: float) -> None:
    """Keep a row of an image unless its box overlaps that of a better one that was kept.

    Parameters
    ----------
    r, place : expr
        Image and row.
    merged, numbers, kept, areas : buffer proxies
        Rows that were kept, ``numbers[r, LEFT]`` of them, their boxes xyxy, and room for their areas. The row's own box
        is in ``kept`` behind them.
    nms_thresh : float
        IoU above which it is dropped; none is with 0 or less, or 1 or more.
    """
    slot = numbers[r, LEFT]
    width, height = (tvm.tirx.max(kept[r, slot, i + 2] - kept[r, slot, i], T.float32(0)) for i in (0, 1))
    areas[r, slot] = width * height
    numbers[r, RIGHT] = T.int32(1)
    if 0 < nms_thresh < 1:
        with T.serial(0, numbers[r, LEFT]) as k, T.If(numbers[r, RIGHT] == 1), T.Then():
            common = T.float32(1)
            for axis in range(2):
                common = common * tvm.tirx.max(
                    tvm.tirx.min(kept[r, slot, axis + 2], kept[r, k, axis + 2])
                    - tvm.tirx.max(kept[r, slot, axis], kept[r, k, axis]),
                    T.float32(0),
                )
            overlap = common / (areas[r, slot] + areas[r, k] - common)
            with T.If(overlap > T.float32(nms_thresh)), T.Then():
                numbers[r, RIGHT] = T.int32(0)
    with T.If(numbers[r, RIGHT] == 1), T.Then():
        merged[r, slot] = place
        numbers[r, LEFT] = numbers[r, LEFT] + 1


def detections(
    e,
    cls_preds,
    box_preds,
    landmark_preds,
    anchors,
    *,
    nms_thresh: float,
    nms_topk: int,
    post_nms: int,
    score_thresh: float,
    more: OfFaces | None = None,
):
    """Decoding, choice and non-maximum suppression of anchors; as `gluonface.model_zoo.detector.FaceDetector` does it.

    Parameters
    ----------
    e : Emitter
    cls_preds, box_preds, landmark_preds : relax.Expr
        (B, N, 2) logits of background and face, (B, N, 4), (B, N, 2K); None for ``landmark_preds`` of a net that finds
        boxes alone.
    anchors : (N, 4) array, or relax.Expr (B, N, 3)
        xyxy in pixels of the canvas; or centre x, y and side, where each image has anchors of its own.
    nms_thresh, nms_topk, post_nms, score_thresh
        See ``FaceDetector.set_nms``.
    more : OfFaces, optional

    Returns
    -------
    list of relax.Expr
        scores (B, n), bboxes (B, n, 4), landmarks (B, n, 2K) if there are predictions of them, and what ``more`` gives
        (B, n, ...); best first, filled up with -1.
    """
    batch, count, _ = (int(side) for side in box_preds.ty.shape)
    widths = [] if landmark_preds is None else [int(landmark_preds.ty.shape[2])]
    limit = count if nms_topk < 0 else min(nms_topk, count)
    most = limit if post_nms <= 0 else min(post_nms, limit)
    given = count if post_nms <= 0 else min(post_nms, count)
    table = e.constant(anchor_table(anchors)[None]) if isinstance(anchors, np.ndarray) else anchors
    # p > t where the logit is above log(t / (1 - t)); a little less, and what is left is decided on p itself.
    least = -math.inf if score_thresh <= 0 else math.log(score_thresh / (1 - score_thresh)) - 1e-3

    def generate(ins, outs):
        with IRBuilder() as builder:
            cls, box, *landmark, anchor = (T.buffer_proxy(b) for b in ins)
            scores, boxes, *points, found, order, merged, kept, areas, numbers = (T.buffer_proxy(b) for b in outs)
            with each_task(batch, e.gpu) as (r, _):
                image = image_of(table, r)
                numbers[r, COUNT] = T.int32(0)
                with T.serial(0, count) as j:
                    logit = cls[r, j, 1] - cls[r, j, 0]
                    likely = logit > T.float32(least) if math.isfinite(least) else tvm.tirx.const(True)
                    with T.If(likely), T.Then():
                        found[r, j] = T.float32(1) / (T.float32(1) + tvm.tirx.exp(T.float32(0) - logit))
                        with T.If(found[r, j] > T.float32(score_thresh)), T.Then():
                            order[r, numbers[r, COUNT]] = j
                            numbers[r, COUNT] = numbers[r, COUNT] + 1
                merge_sort(lambda i, j: found[r, i] >= found[r, j], order, merged, numbers, r, count)
                # From here on numbers[r, LEFT] is how many stay, and merged holds their anchors.
                numbers[r, LEFT] = T.int32(0)
                looked_at = tvm.tirx.min(numbers[r, COUNT], limit)
                with T.serial(0, looked_at) as i, T.If(numbers[r, LEFT] < most), T.Then():
                    place = order[r, i]
                    slot = numbers[r, LEFT]
                    for axis in range(2):
                        centre = box[r, place, axis] * anchor[image, place, 2] + anchor[image, place, axis]
                        size = tvm.tirx.exp(tvm.tirx.min(box[r, place, axis + 2], T.float32(MAX_LOG_SIZE)))
                        half = size * (anchor[image, place, 2] / T.float32(2))
                        kept[r, slot, axis] = centre - half
                        kept[r, slot, axis + 2] = centre + half
                    keep_or_drop(r, place, merged, numbers, kept, areas, nms_thresh)
                with T.serial(0, given) as i, T.If(i < numbers[r, LEFT]):
                    with T.Then():
                        place = merged[r, i]
                        scores[r, i] = found[r, place]
                        with T.serial(0, 4) as k:
                            boxes[r, i, k] = kept[r, i, k]
                        for width, offset, point in zip(widths, landmark, points):
                            with T.serial(0, width) as k:
                                centre = anchor[image, place, tvm.tirx.floormod(k, 2)]
                                point[r, i, k] = offset[r, place, k] * anchor[image, place, 2] + centre
                    with T.Else():
                        scores[r, i] = T.float32(-1)
                        with T.serial(0, 4) as k:
                            boxes[r, i, k] = T.float32(-1)
                        for width, point in zip(widths, points):
                            with T.serial(0, width) as k:
                                point[r, i, k] = T.float32(-1)
            return builder.get()

    shapes = [(batch, given), (batch, given, 4), *[(batch, given, width) for width in widths]]
    room = [(batch, count)] * 3 + [(batch, most + 1, 4), (batch, most + 1), (batch, 3)]
    types = ["float32"] * (len(shapes) + 1) + ["int32"] * 2 + ["float32"] * 2 + ["int32"]
    given_preds = [cls_preds, box_preds, *([] if landmark_preds is None else [landmark_preds])]

    def compute(*tensors):
        return te.extern([*shapes, *room], list(tensors), generate, dtype=types, name="detections")

    found = e.te(compute, *given_preds, table, name="detections")
    results = [e.call(relax.TupleGetItem(found, k)) for k in range(len(shapes))]
    if more is not None:
        # What held the order at the end holds the anchors of the faces.
        results.append(more.of_faces(e, results[0], e.call(relax.TupleGetItem(found, len(shapes) + 2)), table))
    return results


def _head_pose(e, pose: Pose, scores, places, table):
    """Angles (B, n, 3) in degrees of the faces that are there, of anchors ``places`` (B, n or more); -1 elsewhere.

    Logits, their softmax and its mean are worked out for these anchors only; twin of `gluonface.nn.heads.PoseHead` and
    `gluonface.nn.coder.PoseDecoder`.
    """
    batch, given = (int(side) for side in scores.ty.shape)
    channels, kinds, width = int(pose.cells.ty.shape[2]), len(pose.sides), 3 * POSE_BINS
    # The logits innermost: they become vectors.
    weight = np.ascontiguousarray(pose.weight.reshape(kinds, width, channels).transpose(0, 2, 1), np.float32)
    bias = pose.bias.reshape(kinds, width).astype(np.float32)
    middles = [(low + high) / 2 for low, high in pairwise(pose.sides)]
    # Faces follow one another on a core, and have a block each on a GPU.
    rooms = given if e.gpu else 1

    def generate(ins, outs):
        with IRBuilder() as builder:
            cells, weights, biases, centres, score, place, anchor = (T.buffer_proxy(b) for b in ins)
            angles, logits, sums = (T.buffer_proxy(b) for b in outs)
            with each_task(batch * rooms, e.gpu) as (k, _), contextlib.ExitStack() as stack:
                if e.gpu:
                    r, i, room = tvm.tirx.floordiv(k, given), tvm.tirx.floormod(k, given), tvm.tirx.floormod(k, given)
                else:
                    r, i, room = k, stack.enter_context(T.serial(0, given)), 0
                with T.If(score[r, i] >= T.float32(0)):
                    with T.Then():
                        side, kind = anchor[image_of(table, r), place[r, i], 2], tvm.tirx.const(0, "int32")
                        for middle in middles:
                            kind = kind + tvm.tirx.Cast("int32", side > T.float32(middle))
                        cell = tvm.tirx.floordiv(place[r, i], pose.per_cell)
                        with T.serial(0, width) as q:
                            logits[r, room, q] = biases[kind, q]
                        with T.serial(0, channels) as c, T.serial(0, width) as q:
                            logits[r, room, q] = logits[r, room, q] + cells[r, cell, c] * weights[kind, c, q]
                        with T.serial(0, 3) as axis:
                            first = axis * POSE_BINS
                            # The highest logit, then the sum of all that is relative to it.
                            sums[r, room, 0] = logits[r, room, first]
                            with T.serial(1, POSE_BINS) as q:
                                sums[r, room, 0] = tvm.tirx.max(sums[r, room, 0], logits[r, room, first + q])
                            with T.serial(0, POSE_BINS) as q:
                                logits[r, room, first + q] = exp_of_negative(
                                    logits[r, room, first + q] - sums[r, room, 0]
                                )
                            sums[r, room, 0] = T.float32(0)
                            sums[r, room, 1] = T.float32(0)
                            with T.serial(0, POSE_BINS) as q:
                                sums[r, room, 0] = sums[r, room, 0] + logits[r, room, first + q]
                                sums[r, room, 1] = sums[r, room, 1] + logits[r, room, first + q] * centres[q]
                            angles[r, i, axis] = sums[r, room, 1] / sums[r, room, 0]
                    with T.Else(), T.serial(0, 3) as axis:
                        angles[r, i, axis] = T.float32(-1)
            return builder.get()

    def compute(*tensors):
        shapes = [(batch, given, 3), (batch, rooms, width), (batch, rooms, 2)]
        return te.extern(shapes, list(tensors), generate, dtype=["float32"] * 3, name="head_pose")

    constants = (e.constant(array) for array in (weight, bias, POSE_BIN_CENTRES))
    found = e.te(compute, pose.cells, *constants, scores, places, table, name="head_pose")
    return e.call(relax.TupleGetItem(found, 0))


def soft_argmax(e, maps, beta: float, stride: float):
    """The mean place of each map under a softmax, and its highest value; twin of `gluonface.nn.heatmap.SoftArgmax`.

    Parameters
    ----------
    e : Emitter
    maps : relax.Expr
        (B, h, w, K).
    beta : float
        What the maps are multiplied with.
    stride : float
        Pixels a cell.

    Returns
    -------
    list of relax.Expr
        landmarks (B, K, 2) in pixels, scores (B, K).
    """
    batch, height, width, points = (int(side) for side in maps.ty.shape)

    def generate(ins, outs):
        with IRBuilder() as builder:
            data = T.buffer_proxy(ins[0])
            places, highest, total, sum_x, sum_y, part = (T.buffer_proxy(b) for b in outs)
            with each_task(batch, e.gpu, points) as (r, thread):

                def each_point():
                    # On a processor the innermost loop, which becomes vectors; on a GPU a thread each.
                    return contextlib.nullcontext(thread) if e.gpu else T.serial(0, points)

                with each_point() as k:
                    highest[r, k] = data[r, 0, 0, k]
                    total[r, k] = T.float32(0)
                    sum_x[r, k] = T.float32(0)
                    sum_y[r, k] = T.float32(0)
                with T.serial(0, height) as y, T.serial(0, width) as x, each_point() as k:
                    highest[r, k] = tvm.tirx.max(highest[r, k], data[r, y, x, k])
                with T.serial(0, height) as y, T.serial(0, width) as x:
                    with each_point() as k:
                        part[r, k] = exp_of_negative(T.float32(beta) * (data[r, y, x, k] - highest[r, k]))
                    with each_point() as k:
                        total[r, k] = total[r, k] + part[r, k]
                        sum_x[r, k] = sum_x[r, k] + part[r, k] * (tvm.tirx.Cast("float32", x) + T.float32(0.5))
                        sum_y[r, k] = sum_y[r, k] + part[r, k] * (tvm.tirx.Cast("float32", y) + T.float32(0.5))
                with each_point() as k:
                    places[r, k, 0] = sum_x[r, k] / total[r, k] * T.float32(stride)
                    places[r, k, 1] = sum_y[r, k] / total[r, k] * T.float32(stride)
            return builder.get()

    def compute(data):
        shapes = [(batch, points, 2)] + [(batch, points)] * 5
        return te.extern(shapes, [data], generate, dtype=["float32"] * 6, name="soft_argmax")

    found = e.te(compute, maps, name="soft_argmax")
    return [e.call(relax.TupleGetItem(found, k)) for k in range(2)]


def exp_of_negative(x):
    """e^x for x <= 0 that becomes vector instructions: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].

    The polynomial is the Taylor series to the seventh power, whose remainder there is below 1e-8 of the value.
    """
    x = tvm.tirx.max(x, T.float32(-87))
    whole = tvm.tirx.floor(x * T.float32(1 / math.log(2)) + T.float32(0.5))
    # ln 2 in two parts, so that the product with the first is exact.
    rest = x - whole * T.float32(0.693359375) - whole * T.float32(math.log(2) - 0.693359375)
    value = T.float32(1 / math.factorial(7))
    for power in range(6, -1, -1):
        value = value * rest + T.float32(1 / math.factorial(power))
    bits = tvm.tirx.Cast("int32", whole + T.float32(127)) << tvm.tirx.const(23, "int32")
    return value * tvm.tirx.reinterpret("float32", bits)
