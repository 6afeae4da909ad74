"""What every anchor-based detector here is: a network of raw predictions, and the same network with decoding and NMS.

The two are two blocks that share parameters: ``net.network`` is trained, ``net`` is used. On arrays the network is a
hybridised graph of its own, and what follows is worked out for as many boxes as have a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .._compat import mx
from ..decode import AnchorSpec
from ..facts import ModelFacts
from ..nn.anchors import AnchorGenerator
from ..nn.coder import BoxDecoder, PointDecoder, PoseDecoder
from .block import ZooBlock

#: Boxes that suppression looks at by default, best first. Dozens of boxes about each face may be sure, so these are the
#: boxes of some hundred faces.
MOST_BOXES = 10_000


@dataclass(frozen=True)
class Variant:
    """A row of an anchor-based system's table: pyramid channels, and the counts that the tests hold it to."""

    channels: int
    params: int
    gf: float

    def figures(self) -> dict:
        """Parameters and GF as `ModelFacts` has them."""
        return {"params": self.params, "gf": self.gf}


def suppress(F, rows, nms_thresh: float, nms_topk: int, post_nms: int, score_thresh: float):
    """Non-maximum suppression of rows (B, N, 6 + ...) of class, score, box xyxy and more: those that are left, best
    first, padded with -1; the numbers are those of :meth:`AnchorDetector.set_nms`.
    """
    # A threshold of 1 keeps all boxes, but sorts them and drops those of low score as any other does.
    rows = F.contrib.box_nms(
        rows,
        overlap_thresh=nms_thresh if 0 < nms_thresh < 1 else 1,
        topk=nms_topk,
        valid_thresh=score_thresh,
        id_index=0,
        score_index=1,
        coord_start=2,
        force_suppress=True,
    )
    if post_nms > 0:
        # slice, unlike slice_axis, allows fewer rows than asked for.
        rows = F.slice(rows, begin=(None, 0, None), end=(None, post_nms, None))
    return rows


class AnchorDetector(ZooBlock):
    """Base of detectors whose network says something about anchors: anchors, decoded boxes, non-maximum suppression.

    Parameters
    ----------
    network : HybridBlock
    spec : AnchorSpec
        The anchors that the predictions refer to.
    facts : ModelFacts
        Preprocessing and terms; ``net.facts``.
    num_points : int
        K.
    nms_thresh, nms_topk, post_nms, score_thresh
        See :meth:`set_nms`.
    """

    classes = ("face",)
    #: See :class:`gluonface.analysis.Analyzer`.
    close_canvas = False

    def __init__(
        self,
        network,
        spec: AnchorSpec,
        facts: ModelFacts,
        *,
        num_points: int = 5,
        nms_thresh: float = 0.4,
        nms_topk: int = MOST_BOXES,
        post_nms: int = 750,
        score_thresh: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.facts = facts
        self.spec = spec
        self.num_points = num_points
        with self.name_scope():
            self.network = network
            self.anchors = AnchorGenerator(spec)
            self.decode_boxes = BoxDecoder()
        self.set_nms(nms_thresh, nms_topk, post_nms, score_thresh)

    def set_nms(
        self, nms_thresh: float = 0.4, nms_topk: int = MOST_BOXES, post_nms: int = 750, score_thresh: float = 0.02
    ) -> None:
        """Set non-maximum suppression, as in GluonCV's detectors.

        Parameters
        ----------
        nms_thresh : float
            Boxes overlapping a better one by more than this IoU are dropped; 0 or less, or 1 or more, keeps all.
        nms_topk : int
            Detections looked at, best first; -1 for all. An exported graph of MXNet takes time with the square of it,
            however many there are: 0.2 s for 10,000, 12 ms for 1,000.
        post_nms : int
            Detections given out at most; -1 for all.
        score_thresh : float
            Detections below it are dropped before all else.
        """
        self.nms_thresh, self.nms_topk = nms_thresh, nms_topk
        self.post_nms, self.score_thresh = post_nms, score_thresh

    def find(self, F, x, *preds, least: float = 0.0):
        """Raw predictions of images x (B, 3, H, W) to what a call gives; in a graph of fixed shapes, too. Faces of a
        score below ``least`` may be missing.
        """
        raise NotImplementedError

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W), RGB, normalised as ``net.facts`` says, to what `find` makes of them."""
        return self.find(F, x, *self.network(x))

    def forward(self, x):
        """See `hybrid_forward`, to which only symbols go: on arrays it is `finish` that follows the network."""
        return super().forward(x) if isinstance(x, mx.sym.Symbol) else self.finish(x, self.network(x))

    def finish(self, x, preds, score_thresh: float = 0.0):
        """`find` on arrays, which waits for the network: how many boxes have a score decides what suppression costs.

        Parameters
        ----------
        x : NDArray (B, 3, H, W)
        preds : sequence of NDArray
            What ``net.network(x)`` gave.
        score_thresh : float
            Faces below it may be missing, or have less than a face has, which saves time.
        """
        with x.ctx:
            return self.find(mx.nd, x, *preds, least=score_thresh)

    def export(self, path: str, epoch: int = 0, remove_amp_cast: bool = True) -> None:
        """As Gluon's blocks do, as one graph; no pass is needed before."""
        self._clear_cached_op()
        self._build_cache(mx.nd.zeros((1, 3, self.facts.size, self.facts.size)))
        super().export(path, epoch, remove_amp_cast)

    def _choose(self, F, scores, least: float, *parts):
        """What is worked out and looked at by suppression: in a graph of fixed shapes all anchors, of arrays those that
        have a score, a small part of them.

        Parameters
        ----------
        scores : (B, N, 1)
        least : float
            See `find`.
        *parts : (B, N, ...) or (1, N, ...)
            What there is of each anchor.

        Returns
        -------
        topk : int
            How many rows suppression looks at.
        number : (B, n, 1)
            The chosen anchors.
        scores : (B, n, 1)
            Of these, in the same order; -1 of rows that fill up.
        *parts : (B, n, ...)
        """
        if F is not mx.nd:
            number = F.broadcast_like(F.contrib.arange_like(scores, axis=1).reshape((1, -1, 1)), scores)
            return self.nms_topk, number, scores, *parts
        host = scores.asnumpy()[:, :, 0]
        batch, count = host.shape
        chosen = [np.flatnonzero(row >= max(self.score_thresh, least)) for row in host]
        # Operators take time for rows that they may look at, rows of no score included. Few numbers, few sizes.
        enough = 1 << max(6, (max(map(len, chosen)) - 1).bit_length())
        topk = min(enough, self.nms_topk) if self.nms_topk > 0 else enough
        # As many rows as are given out, at least.
        width = min(max(enough, self.post_nms), count) if self.post_nms > 0 else count
        number, kept = np.zeros((batch, width), np.int32), np.full((batch, width), -1, host.dtype)
        for i, rows in enumerate(chosen):
            number[i, : len(rows)], kept[i, : len(rows)] = rows, host[i, rows]
        options = {"ctx": scores.ctx, "dtype": "int32"}
        alike = mx.nd.array(number, **options)
        own = mx.nd.array(number + count * np.arange(batch, dtype=np.int32)[:, None], **options)
        parts = [part[0].take(alike) if len(part) == 1 else part.reshape((-3, 0)).take(own) for part in parts]
        kept = mx.nd.array(kept[:, :, None], ctx=scores.ctx, dtype=host.dtype)
        return topk, alike.expand_dims(2).astype(host.dtype), kept, *parts

    def _suppress(self, F, rows, topk: int):
        """Rows (B, n, 6 + ...) of class, score, box xyxy and more, to those that are left, best first."""
        return suppress(F, rows, self.nms_thresh, topk, self.post_nms, self.score_thresh)

    def _of_faces(self, F, ids, scores, least: float, work_out, *parts):
        """What costs much a face, of the rows that are left: (B, n, C), -1 of padding.

        In a graph of fixed shapes it is worked out for all rows, of arrays for as many as are faces of a score of
        ``least`` or more, which come first.

        Parameters
        ----------
        ids, scores : (B, n, 1)
        work_out : callable
            ``parts`` of some rows to (B, rows, C).
        *parts : (B, n, ...)
        """
        missing = 0
        if F is mx.nd:
            count = int((F.broadcast_logical_and(ids >= 0, scores >= least)).sum(axis=1).max().asscalar())
            # Few numbers, few sizes.
            kept = min(1 << max(0, count - 1).bit_length(), ids.shape[1])
            missing = ids.shape[1] - kept
            ids, *parts = (part[:, :kept] for part in (ids, *parts))
        found = work_out(*parts)
        found = F.where(F.broadcast_like(ids, found) < 0, F.ones_like(found) * -1, found)
        if not missing:
            return found
        padding = F.full((len(found), missing, found.shape[2]), -1, ctx=found.ctx, dtype=found.dtype)
        return F.concat(found, padding, dim=1)


class FaceDetector(AnchorDetector):
    """Network, decoding and non-maximum suppression in one graph; outputs as GluonCV's detectors give them.

    Parameters
    ----------
    network : HybridBlock
        Images (B, 3, H, W) to ``cls_preds (B, N, 2)`` logits of background and face, ``box_preds (B, N, 4)``,
        ``landmark_preds (B, N, 2K)``. One with a ``pose_head`` (`gluonface.nn.heads.PoseHead`) also gives what that
        takes, ``pose_cells (B, cells, C)``.
    spec : AnchorSpec
        The anchors that the predictions refer to.
    facts : ModelFacts
        Preprocessing and terms; ``net.facts``.
    num_points : int
        K.
    nms_thresh, nms_topk, post_nms, score_thresh
        See :meth:`set_nms`.
    """

    def __init__(self, network, spec: AnchorSpec, facts: ModelFacts, *, num_points: int = 5, **nms: float):
        super().__init__(network, spec, facts, num_points=num_points, **nms)
        with self.name_scope():
            self.decode_points = PointDecoder(num_points)
            self.decode_pose = PoseDecoder() if hasattr(network, "pose_head") else None

    def find(self, F, x, cls_preds, box_preds, landmark_preds, *pose_cells, least: float = 0.0):
        """Find faces in a batch; a call of the net takes x alone.

        Parameters
        ----------
        x : (B, 3, H, W)
            RGB, normalised as ``net.facts`` says.
        cls_preds, ...
            What the network gives for it.
        least
            See :meth:`AnchorDetector.find`.

        Returns
        -------
        ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4), landmarks (B, n, 2K), pose (B, n, 3) where the network has it
            Best first, in input pixels and degrees, padded with -1.
        """
        scores = F.slice_axis(F.softmax(cls_preds, axis=-1), axis=-1, begin=1, end=2)
        topk, number, scores, anchors, box_preds, landmark_preds = self._choose(
            F, scores, least, self.anchors(x), box_preds, landmark_preds
        )
        columns = [
            F.zeros_like(scores),
            scores,
            self.decode_boxes(box_preds, anchors),
            self.decode_points(landmark_preds, anchors),
        ]
        if self.decode_pose is not None:
            # Which anchor a row is from, for the pose of those that are left.
            side = F.slice_axis(anchors, axis=-1, begin=2, end=3) - F.slice_axis(anchors, axis=-1, begin=0, end=1)
            columns += [number, F.broadcast_like(side, scores)]
        rows = self._suppress(F, F.concat(*columns, dim=-1), topk)
        cuts = (0, 1, 2, 6, 6 + 2 * self.num_points)
        found = tuple(F.slice_axis(rows, axis=-1, begin=a, end=b) for a, b in pairwise(cuts))
        if self.decode_pose is None:
            return found
        number, side = (
            F.slice_axis(rows, axis=-1, begin=cuts[-1] + k, end=cuts[-1] + k + 1).reshape((0, -1)) for k in (0, 1)
        )

        def poses(number, side):
            # The rows that are padding take the first anchor's, and lose it again.
            return self.decode_pose(self.network.pose_head(*pose_cells, F.relu(number), side))

        return *found, self._of_faces(F, *found[:2], least, poses, number, side)
