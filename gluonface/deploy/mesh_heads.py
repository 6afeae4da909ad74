"""What RetinaFace's whole variant needs inside the artefact beside `gluonface.deploy.heads`: the anchors of its second
head, and the meshes of the faces that are left.

Twins of `gluonface.nn.coder.SquareAnchors`, `gluonface.nn.coder.MeshDecoder` and `gluonface.nn.heads.MeshHead`. For all
anchors the meshes of a photo would be a gigabyte: of the cells of the faces alone they cost next to nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..decode import MAX_LOG_SIZE
from .heads import IRBuilder, T, anchor_table, each_task, image_of, relax, te, tvm

__all__ = ["Mesh", "square_anchors"]

#: Numbers that are summed up side by side: whole vectors of any processor here, and whole vertices.
_LANES = 48


def square_anchors(e, box_preds, anchors: np.ndarray):
    """Squares about what a first head makes of anchors, of the boxes' areas; the anchors of a second head.

    Parameters
    ----------
    e : Emitter
    box_preds : relax.Expr
        (B, N, 4), of the first head.
    anchors : (N, 4) array
        xyxy in pixels of the canvas.

    Returns
    -------
    relax.Expr
        (B, N, 3): centre x, y and side, as `gluonface.deploy.heads.detections` takes them.
    """
    batch, count, _ = (int(side) for side in box_preds.ty.shape)
    most = T.float32(MAX_LOG_SIZE)

    def compute(box, anchor):
        def value(r, j, k):
            # The root of the area of a box whose sides are e^a and e^b.
            half = (te.min(box[r, j, 2], most) + te.min(box[r, j, 3], most)) / T.float32(2)
            return te.if_then_else(k < 2, box[r, j, k] * anchor[j, 2] + anchor[j, k], te.exp(half) * anchor[j, 2])

        return te.compute((batch, count, 3), value, name="square_anchors")

    return e.te(compute, box_preds, e.constant(anchor_table(anchors)), name="square_anchors")


@dataclass(frozen=True)
class Mesh:
    """Of what the meshes of faces are worked out, a `gluonface.deploy.heads.OfFaces`.

    Attributes
    ----------
    cells : relax.Expr
        (B, cells, C), a vector a cell.
    weight, bias : ndarray
        (3V, A C) and (3V, A): of each of the A anchors of a cell.
    per_cell : int
        A.
    """

    cells: Any
    weight: np.ndarray
    bias: np.ndarray
    per_cell: int

    def of_faces(self, e, scores, places, table):
        """Meshes (B, n, V, 3) in pixels of the canvas, depth from the tip of the nose; see `OfFaces`.

        On a processor the vertices are shared out over the cores, whose weights then serve one face after the other; on
        a GPU every few vertices of every face have a block.
        """
        batch, given = (int(side) for side in scores.ty.shape)
        channels, width = int(self.cells.ty.shape[2]), len(self.weight)
        blocks = -(-width // _LANES)
        tasks = batch * blocks * (given if e.gpu else 1)
        floordiv, floormod = tvm.tirx.floordiv, tvm.tirx.floormod

        def packed(array: np.ndarray, *sides: int) -> np.ndarray:
            """Outputs (3V, ...) in blocks of lanes, which come last."""
            filled = np.zeros((blocks * _LANES, *sides), np.float32)
            filled[:width] = array.reshape(width, *sides)
            return np.ascontiguousarray(np.moveaxis(filled.reshape(blocks, _LANES, *sides), 1, -1))

        def generate(ins, outs):
            with IRBuilder() as builder:
                cells, weights, biases, score, place, anchor = (T.buffer_proxy(b) for b in ins)
                mesh, sums = (T.buffer_proxy(b) for b in outs)
                with each_task(tasks, e.gpu, _LANES) as (t, thread), contextlib.ExitStack() as stack:
                    block, rest = floormod(t, blocks), floordiv(t, blocks)
                    if e.gpu:
                        r, i = floordiv(rest, given), floormod(rest, given)
                    else:
                        r, i = rest, stack.enter_context(T.serial(0, given))

                    def each_lane():
                        return contextlib.nullcontext(thread) if e.gpu else T.serial(0, _LANES)

                    with T.If(score[r, i] >= T.float32(0)):
                        with T.Then():
                            number = place[r, i]
                            cell, kind = floordiv(number, self.per_cell), floormod(number, self.per_cell)
                            with each_lane() as q:
                                sums[t, q] = biases[block, kind, q]
                            with T.serial(0, channels) as c, each_lane() as q:
                                sums[t, q] = sums[t, q] + cells[r, cell, c] * weights[block, kind, c, q]
                            with each_lane() as q, T.If(block * _LANES + q < width), T.Then():
                                image, axis = image_of(table, r), floormod(q, 3)
                                origin = tvm.tirx.Select(axis < 2, anchor[image, number, axis], T.float32(0))
                                mesh[r, i, block * _LANES + q] = sums[t, q] * anchor[image, number, 2] + origin
                        with T.Else(), each_lane() as q, T.If(block * _LANES + q < width), T.Then():
                            mesh[r, i, block * _LANES + q] = T.float32(-1)
                return builder.get()

        def compute(*tensors):
            shapes = [(batch, given, width), (tasks, _LANES)]
            return te.extern(shapes, list(tensors), generate, dtype=["float32"] * 2, name="head_mesh")

        weights = packed(self.weight, self.per_cell, channels)
        constants = (e.constant(weights), e.constant(packed(self.bias, self.per_cell)))
        found = e.te(compute, self.cells, *constants, scores, places, table, name="head_mesh")
        rows = e.call(relax.TupleGetItem(found, 0))
        return e.call(relax.op.reshape(rows, [batch, given, width // 3, 3]))
