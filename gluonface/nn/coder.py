"""Decoders of regression outputs as graphs; twins of :mod:`gluonface.decode`."""

from __future__ import annotations

from .._compat import mx
from ..decode import MAX_LOG_SIZE, POSE_BIN_DEGREES, POSE_BINS, POSE_LIMIT

nn = mx.gluon.nn


def _centre_and_scale(F, anchors):
    """Anchors (1, N, 4) to their centres (1, N, 2) and sides (1, N, 1)."""
    low, high = F.slice_axis(anchors, axis=-1, begin=0, end=2), F.slice_axis(anchors, axis=-1, begin=2, end=4)
    return (low + high) / 2, F.slice_axis(high - low, axis=-1, begin=0, end=1)


class BoxDecoder(nn.HybridBlock):
    """box_preds (B, N, 4) and anchors (1, N, 4) to boxes (B, N, 4) xyxy in pixels (RetinaFace eq. 4)."""

    def hybrid_forward(self, F, box_preds, anchors):
        centre, scale = _centre_and_scale(F, anchors)
        xy = F.broadcast_add(F.broadcast_mul(F.slice_axis(box_preds, axis=-1, begin=0, end=2), scale), centre)
        log_size = F.minimum(F.slice_axis(box_preds, axis=-1, begin=2, end=4), MAX_LOG_SIZE)
        half = F.broadcast_mul(F.exp(log_size), scale / 2)
        return F.concat(xy - half, xy + half, dim=-1)


class PointDecoder(nn.HybridBlock):
    """landmark_preds (B, N, 2K) and anchors (1, N, 4) to points (B, N, 2K) in pixels, x and y in turn (RetinaFace eq.
    4).

    Parameters
    ----------
    num_points : int
        K.
    """

    def __init__(self, num_points: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.num_points = num_points

    def hybrid_forward(self, F, landmark_preds, anchors):
        centre, scale = _centre_and_scale(F, anchors)
        centres = F.tile(centre, reps=(1, 1, self.num_points))
        return F.broadcast_add(F.broadcast_mul(landmark_preds, scale), centres)


class SquareAnchors(nn.HybridBlock):
    """Boxes (B, N, 4) xyxy to the squares (B, N, 4) about their centres that have their areas; twin of
    :func:`gluonface.targets.square_anchors`.
    """

    def hybrid_forward(self, F, boxes):
        low, high = F.slice_axis(boxes, axis=-1, begin=0, end=2), F.slice_axis(boxes, axis=-1, begin=2, end=4)
        centre, half = (low + high) / 2, F.sqrt(F.prod(high - low, axis=-1, keepdims=True)) / 2
        return F.concat(F.broadcast_sub(centre, half), F.broadcast_add(centre, half), dim=-1)


class MeshDecoder(nn.HybridBlock):
    """mesh_preds (B, n, 3V) and anchors (B, n, 4) to meshes (B, n, 3V): x, y in pixels and z in the same unit, of
    vertex after vertex (RetinaFace eq. 4). The inverse of :func:`gluonface.targets.encode_mesh`.
    """

    def hybrid_forward(self, F, mesh_preds, anchors):
        centre, scale = _centre_and_scale(F, anchors)
        origin = F.concat(centre, F.zeros_like(scale), dim=-1).expand_dims(2)
        vertices = mesh_preds.reshape((0, 0, -1, 3))
        placed = F.broadcast_add(F.broadcast_mul(vertices, scale.expand_dims(3)), origin)
        return F.reshape_like(placed, mesh_preds)


class PoseDecoder(nn.HybridBlock):
    """pose_preds (B, n, 198), logits of 66 bins of yaw, pitch and roll each, to expected angles (B, n, 3) in degrees
    (MOS section 3.2.1).
    """

    def hybrid_forward(self, F, pose_preds):
        chances = F.softmax(pose_preds.reshape((0, 0, 3, POSE_BINS)), axis=-1)
        bins = F.contrib.arange_like(chances, axis=3, start=0.5) * POSE_BIN_DEGREES - POSE_LIMIT
        return F.sum(F.broadcast_mul(chances, bins.reshape((1, 1, 1, -1))), axis=-1)
