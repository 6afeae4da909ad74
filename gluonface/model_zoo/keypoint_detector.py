"""What a detector is that finds faces from their points (KPNet): a network of maps, and the same network with
proposals, points, boxes and NMS.

As in `gluonface.model_zoo.detector`, the two are two blocks: ``net.network`` is trained, ``net`` is used. They share
parameters.
"""

from __future__ import annotations

from itertools import pairwise

from .._compat import mx
from ..box_mapping import BoxMapping, default_box_mapping
from ..decode import KPNET_SCALES, SCORE_POINTS
from ..errors import InputError
from ..facts import ModelFacts
from ..nn.blocks import PartlyUsed
from ..nn.keypoints import (
    BoxesFromPoints,
    FaceScore,
    PointPeaks,
    PointsInSquares,
    ScaleProposals,
    TagGroups,
)
from .block import ZooBlock
from .detector import suppress

#: Where boxes come from: the points, or the scale proposals alone (KPNet, Table 3).
BOXES = ("points", "proposals")
#: What a face's score is. "mean": eq. 8, of the probability of its proposal and the peaks of three points' softmax.
#: "proposal": the probability alone. A softmax over the few cells of a small square peaks by itself, so that the mean
#: ranks small squares first until the net is sure of its points.
SCORINGS = ("mean", "proposal")


def faces_out(F, points, boxes, scores, num_points: int, nms_thresh: float, post_nms: int):
    """Faces after non-maximum suppression, as GluonCV's detectors give them.

    Parameters
    ----------
    points : (B, P, K, 2)
    boxes : (B, P, 4)
    scores : (B, P)
        0 for what is none.
    num_points : int
        K.
    nms_thresh, post_nms
        See :meth:`MapDetector.set_nms`.

    Returns
    -------
    ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4), landmarks (B, n, 2K)
        Best first, padded with -1.
    """
    scores = scores.expand_dims(2)
    rows = F.concat(F.zeros_like(scores), scores, boxes, points.reshape((0, 0, -3)), dim=2)
    rows = suppress(F, rows, nms_thresh, -1, post_nms, 0)
    cuts = (0, 1, 2, 6, 6 + 2 * num_points)
    return tuple(F.slice_axis(rows, axis=-1, begin=a, end=b) for a, b in pairwise(cuts))


class MapDetector(PartlyUsed, ZooBlock):
    """What detectors of points have in common: a network of maps and the settings of the search in them.

    Parameters
    ----------
    network : HybridBlock
    facts : ModelFacts
        Preprocessing and terms; ``net.facts``.
    num_points : int
        K.
    search : HybridBlock
        What looks for faces in the maps: it has a ``count`` of faces to look at and a ``score_thresh``.
    box_mapping : BoxMapping, optional
        By default that of `gluonface.box_mapping.default_box_mapping`; weights bring their own.
    box_style : str
        One of `gluonface.box_mapping.BOX_STYLES`.
    nms_thresh, nms_topk, post_nms, score_thresh
        See :meth:`set_nms`.
    """

    classes = ("face",)
    #: What both sides of a canvas are padded to a multiple of.
    stride = KPNET_SCALES.stride

    def __init__(
        self,
        network,
        facts: ModelFacts,
        *,
        num_points: int,
        search,
        box_mapping: BoxMapping | None = None,
        box_style: str = "corpus",
        nms_thresh: float = 0.6,
        nms_topk: int = 100,
        post_nms: int = 100,
        score_thresh: float = 0.05,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.facts, self.num_points = facts, num_points
        with self.name_scope():
            self.network = network
            self.search = search
            self.box_mapping = BoxesFromPoints(box_mapping or default_box_mapping(num_points), box_style)
        self.set_nms(nms_thresh, nms_topk, post_nms, score_thresh)

    def set_nms(
        self, nms_thresh: float = 0.6, nms_topk: int = 100, post_nms: int = 100, score_thresh: float = 0.05
    ) -> None:
        """Set how many faces are looked at, and non-maximum suppression.

        Parameters
        ----------
        nms_thresh : float
            Faces overlapping a better one by more than this IoU are dropped; 0 or less, or 1 or more, keeps all.
        nms_topk : int
            P, faces looked at, best first; from 1 to the number of cells, H / 2 * W / 2.
        post_nms : int
            Faces given out at most; -1 for all.
        score_thresh : float
            What is less probable is dropped before all else: a proposal of the scale map, or with tags a nose. Scores
            are means of that and of what the points say.

        Raises
        ------
        InputError
            nms_topk is below 1.
        """
        if nms_topk < 1:
            raise InputError(f"expected nms_topk, the number of faces looked at, to be at least 1, got {nms_topk}")
        self.nms_thresh, self.nms_topk = nms_thresh, nms_topk
        self.post_nms, self.score_thresh = post_nms, score_thresh
        self.search.count, self.search.score_thresh = nms_topk, score_thresh
        # These numbers are part of the graph.
        self.search._clear_cached_op()
        self._clear_cached_op()

    def forward(self, x, *args):
        """See `hybrid_forward`.

        Raises
        ------
        InputError
            The images have fewer cells than faces are looked at.
        """
        if isinstance(x, mx.nd.NDArray):
            height, width = x.shape[2:]
            stride = KPNET_SCALES.stride
            if -(-height // stride) * -(-width // stride) < self.nms_topk:
                raise InputError(
                    f"{self.facts.name}: expected images of at least {self.nms_topk} cells of "
                    f"{stride}x{stride} pixels, one for each face looked at (nms_topk), got {width}x{height} "
                    "pixels; enlarge or pad them"
                )
        return super().forward(x, *args)

    def set_box_mapping(self, mapping: BoxMapping) -> None:
        """Take another box convention, such as `train/fit_box_mapping.py` writes; it is saved with the weights."""
        self.box_mapping.set_mapping(mapping)

    def set_box_style(self, style: str) -> None:
        """Choose what boxes are, see `gluonface.box_mapping.BOX_STYLES`."""
        self.box_mapping.set_style(style)
        self._clear_cached_op()


class KeypointDetector(MapDetector):
    """Network, proposals, points, boxes and non-maximum suppression in one graph; outputs as GluonCV's detectors give
    them.

    Parameters
    ----------
    network : HybridBlock
        Images (B, 3, H, W) to a scale map (B, 60, h, w) and maps from which its ``reader`` finds points in squares, see
        `gluonface.model_zoo.kpnet.KPNetNetwork`.
    facts : ModelFacts
    num_points : int
        K.
    boxes : str
        One of `BOXES`.
    scoring : str
        One of `SCORINGS`.
    beta : float
        Of the softmax whose peaks count in the score.
    **options
        See `MapDetector`.
    """

    def __init__(
        self,
        network,
        facts: ModelFacts,
        *,
        num_points: int = 5,
        boxes: str = "points",
        scoring: str = "mean",
        beta: float = 1.0,
        **options,
    ):
        super().__init__(network, facts, num_points=num_points, search=ScaleProposals(KPNET_SCALES), **options)
        self.boxes = boxes
        with self.name_scope():
            self.points = PointsInSquares()
            # The scale proposals alone are scored alone; features have no peaks.
            self.peaks, self.score = None, FaceScore()
            if scoring == "mean" and boxes == "points" and network.response_head is not None:
                self.peaks = PointPeaks(SCORE_POINTS[num_points], beta=beta)

    def find_points(self, maps, squares, probabilities):
        """Points and scores of faces in squares: the proposals', or labelled ones (Table 3, "GT box").

        Parameters
        ----------
        maps
            The second output of ``net.network``.
        squares : (B, P, 4)
            xyxy in input pixels.
        probabilities : (B, P)
            1 for a labelled face, 0 where there are fewer than P.

        Returns
        -------
        points (B, P, K, 2), boxes (B, P, 4), scores (B, P)
            In input pixels; boxes are the squares with ``boxes="proposals"``.
        """
        points = self.points(self.network.reader(maps, squares), squares)
        scores = probabilities if self.peaks is None else self.score(probabilities, self.peaks(maps, squares))
        return points, self.box_mapping(points) if self.boxes == "points" else squares, scores

    def hybrid_forward(self, F, x):
        """Find faces in a batch.

        Parameters
        ----------
        x : (B, 3, H, W)
            RGB, normalised as ``net.facts`` says.

        Returns
        -------
        ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4), landmarks (B, n, 2K)
            Best first, in input pixels, padded with -1.
        """
        scale_map, maps = self.network(x)
        squares, probabilities = self.search(scale_map)
        points, boxes, scores = self.find_points(maps, squares, probabilities)
        return faces_out(F, points, boxes, scores, self.num_points, self.nms_thresh, self.post_nms)


class TagDetector(MapDetector):
    """Network, grouping by tags, boxes and non-maximum suppression in one graph: associative embedding, with the boxes
    and outputs of `KeypointDetector`.

    Parameters
    ----------
    network : HybridBlock
        Images (B, 3, H, W) to heatmaps, logits, and tags (B, K, h, w) each.
    facts : ModelFacts
    num_points : int
        K.
    **options
        See `MapDetector`.
    """

    def __init__(self, network, facts: ModelFacts, *, num_points: int = 5, **options):
        search = TagGroups(num_points, root=SCORE_POINTS[num_points][2])
        super().__init__(network, facts, num_points=num_points, search=search, **options)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to faces, see `faces_out`."""
        points, scores = self.search(*self.network(x))
        boxes = self.box_mapping(points)
        return faces_out(F, points, boxes, scores, self.num_points, self.nms_thresh, self.post_nms)
