"""Losses of the papers, as HybridBlocks.

Letters: B batch, N anchors, P anchors with a pose or a mesh, squares or proposals, K landmarks, V vertices, S scale
bins, h w map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ._compat import mx
from .decode import POSE_BIN_DEGREES, POSE_BINS, POSE_LIMIT
from .errors import InputError
from .nn.coder import PoseDecoder
from .nn.heads import take_cells
from .nn.heatmap import SoftArgmax

nn = mx.gluon.nn


def _smooth_l1(F, difference, smooth_at: float):
    # F.smooth_l1 turns at 1 / scalar^2 and is scaled so that the line has slope 1.
    return F.smooth_l1(difference, scalar=smooth_at**-0.5)


def _box_loss(F, box_preds, box_targets, positive, smooth_at: float):
    """Smooth-L1 (B,) of boxes (B, N, 4), summed over the positive anchors (B, N)."""
    losses = _smooth_l1(F, box_preds - box_targets, smooth_at)
    return F.sum(F.broadcast_mul(losses, positive.expand_dims(-1)), axis=(1, 2))


def _mined_class_loss(F, cls_preds, cls_targets, negatives_per_positive: float, min_negatives: int):
    """Softmax cross-entropy (B,) of logits (B, N, 2), summed over the positive anchors and the hardest negative ones of
    each image.
    """
    positive, negative = cls_targets == 1, cls_targets == 0
    losses = -F.pick(F.log_softmax(cls_preds, axis=-1), F.relu(cls_targets), axis=-1)
    # Rank of each background anchor's loss in its image, hardest 0; mining itself has no gradient.
    hardness = F.BlockGrad(F.where(negative, losses, F.ones_like(losses) * -1))
    rank = F.argsort(F.argsort(hardness, axis=1, is_ascend=False), axis=1)
    count = F.sum(positive, axis=1, keepdims=True)
    wanted = F.broadcast_maximum(count * negatives_per_positive, F.ones_like(count) * min_negatives)
    return F.sum(losses * (positive + negative * F.broadcast_lesser(rank, wanted)), axis=1)


class AnchorLoss(nn.HybridBlock):
    """Class, box and point losses of an anchor-based detector (RetinaFace eq. 3).

    Class is softmax cross-entropy with online hard example mining: all positive anchors and, per image, the
    ``negatives_per_positive`` times as many background anchors of highest loss. Box and points are smooth-L1 over the
    positive anchors. Each part is summed over an image and multiplied by the image's normaliser.

    Parameters
    ----------
    box_weight, landmark_weight : float
        lambda 1 and 2 of eq. 3.
    negatives_per_positive : float
        The paper gives no ratio; 3 is that of SSD and of the light variant's sources.
    min_negatives : int
        Background anchors mined in an image of few or no faces.
    smooth_at : float
        Where smooth-L1 turns from a parabola into a line.
    """

    def __init__(
        self,
        box_weight: float = 1.0,
        landmark_weight: float = 1.0,
        negatives_per_positive: float = 3.0,
        min_negatives: int = 16,
        smooth_at: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.box_weight, self.landmark_weight = box_weight, landmark_weight
        self.negatives_per_positive, self.min_negatives = negatives_per_positive, min_negatives
        self.smooth_at = smooth_at

    def hybrid_forward(
        self,
        F,
        cls_preds,
        box_preds,
        landmark_preds,
        cls_targets,
        box_targets,
        landmark_targets,
        landmark_masks,
        normaliser,
        landmark_normaliser,
    ):
        """Loss parts per image.

        Parameters
        ----------
        cls_preds : (B, N, 2)
        box_preds : (B, N, 4)
        landmark_preds : (B, N, 2K)
        cls_targets : (B, N)
            1 face, 0 background, -1 ignored.
        box_targets : (B, N, 4)
        landmark_targets : (B, N, 2K)
        landmark_masks : (B, N, 1)
        normaliser : (B,)
            Factor of each image's sums: images in the global batch / positive anchors in it, so that the mean over
            images is a mean over positive anchors, whatever the number of devices. Where a device finds out by itself
            which anchors are positive, as for the second head of a cascade: its images / positive anchors in them.
        landmark_normaliser : (B,)
            The same for the points.

        Returns
        -------
        cls, box, landmark : (B,) each
        """
        cls = _mined_class_loss(F, cls_preds, cls_targets, self.negatives_per_positive, self.min_negatives)
        box = _box_loss(F, box_preds, box_targets, cls_targets == 1, self.smooth_at)
        losses = _smooth_l1(F, landmark_preds - landmark_targets, self.smooth_at)
        points = F.sum(F.broadcast_mul(losses, landmark_masks), axis=(1, 2))
        return cls * normaliser, box * normaliser * self.box_weight, points * landmark_normaliser * self.landmark_weight


class FirstHeadLoss(nn.HybridBlock):
    """Class and box losses of the first head of a cascade, as those of `AnchorLoss` (RetinaFace section 3.3).

    Parameters
    ----------
    box_weight, negatives_per_positive, min_negatives, smooth_at
        See `AnchorLoss`.
    """

    def __init__(
        self,
        box_weight: float = 1.0,
        negatives_per_positive: float = 3.0,
        min_negatives: int = 16,
        smooth_at: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.box_weight, self.smooth_at = box_weight, smooth_at
        self.negatives_per_positive, self.min_negatives = negatives_per_positive, min_negatives

    def hybrid_forward(self, F, cls_preds, box_preds, cls_targets, box_targets, normaliser):
        """Logits (B, N, 2), boxes (B, N, 4), their targets (B, N) and (B, N, 4) and a factor (B,) for each image to
        losses of class and box, (B,) each.
        """
        cls = _mined_class_loss(F, cls_preds, cls_targets, self.negatives_per_positive, self.min_negatives)
        box = _box_loss(F, box_preds, box_targets, cls_targets == 1, self.smooth_at)
        return cls * normaliser, box * normaliser * self.box_weight


class MeshLoss(nn.HybridBlock):
    """Vertex and edge-length losses of meshes (RetinaFace eq. 1 and 2).

    Vertices are compared coordinate by coordinate, smooth-L1 as all targets of eq. 4, sum over x, y, z and mean over
    the V vertices. Edges are compared by length alone, wherever they lie and point: L1, mean over the three sides of
    all triangles, a side of two triangles counting twice.

    Parameters
    ----------
    triangles : (T, 3) int array
        Of a `gluonface.mesh.MeshTopology`.
    edge_weight : float
        lambda 0.
    smooth_at : float
        As in `AnchorLoss`.
    """

    # Under the root, so that its slope is finite for an edge of no length: a thousandth of the anchor's side.
    _SMALL = 1e-6

    def __init__(self, triangles: np.ndarray, edge_weight: float = 1.0, smooth_at: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.edge_weight, self.smooth_at = edge_weight, smooth_at
        triangles = np.asarray(triangles)
        if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu" or not triangles.size:
            raise InputError(f"expected triangles (T, 3) of whole numbers, got {triangles.shape} {triangles.dtype}")
        sides = np.sort(np.concatenate([triangles, np.roll(triangles, -1, axis=1)], axis=0).reshape(2, -1).T, axis=1)
        edges, counts = np.unique(sides, axis=0, return_counts=True)
        with self.name_scope():
            self.edges = self.params.get_constant("edges", edges.T.astype(np.float32))
            self.shares = self.params.get_constant("shares", (counts / counts.sum()).astype(np.float32))

    def _lengths(self, F, vertices, edges):
        """Vertices (B, P, V, 3) to the lengths of their edges (B, P, E)."""
        ends = F.take(vertices, edges, axis=2)  # (B, P, 2, E, 3)
        along = F.slice_axis(ends, axis=2, begin=0, end=1) - F.slice_axis(ends, axis=2, begin=1, end=2)
        return F.sqrt(F.sum(F.square(along), axis=4) + self._SMALL).reshape((0, 0, -3))

    def hybrid_forward(self, F, mesh_preds, mesh_targets, mesh_masks, normaliser, edges, shares):
        """Loss parts per image.

        Parameters
        ----------
        mesh_preds : (B, P, 3V)
            From `gluonface.nn.heads.MeshHead`.
        mesh_targets : (B, P, 3V)
        mesh_masks : (B, P)
            See :class:`gluonface.targets.RefinedTargets`.
        normaliser : (B,)
            Images of this device / anchors in them that learn a mesh, which follow from its predictions; see
            `AnchorLoss`.

        Returns
        -------
        vertex, edge : (B,) each
        """
        found, wanted = (a.reshape((0, 0, -1, 3)) for a in (mesh_preds, mesh_targets))
        vertex = F.mean(F.sum(_smooth_l1(F, found - wanted, self.smooth_at), axis=3), axis=2)
        apart = F.abs(self._lengths(F, found, edges) - self._lengths(F, wanted, edges))
        edge = F.sum(F.broadcast_mul(apart, shares.reshape((1, 1, -1))), axis=2)
        vertex, edge = (F.sum(losses * mesh_masks, axis=1) * normaliser for losses in (vertex, edge))
        return vertex, edge * self.edge_weight


class FocalLoss(nn.HybridBlock):
    """Class and box losses of an anchor-based detector without mining (MaskFace eq. 2 and 3).

    Class is the focal loss (Lin et al. 2017) over all anchors that are not ignored: the better an anchor is classified,
    the less it counts, so that the many easy ones do not drown the few hard ones. Box is smooth-L1 over the positive
    anchors. Each part is summed over an image and multiplied by the image's normaliser.

    Parameters
    ----------
    alpha : float
        What positive anchors are multiplied with, background ones with 1 - alpha.
    gamma : float
        Power of the probability that was missed; 0 is cross-entropy.
    box_weight : float
        The paper's 1.
    smooth_at : float
        As in `AnchorLoss`; the paper gives no number.
    """

    def __init__(
        self, alpha: float = 0.25, gamma: float = 2.0, box_weight: float = 1.0, smooth_at: float = 1.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.alpha, self.gamma = alpha, gamma
        self.box_weight, self.smooth_at = box_weight, smooth_at

    def hybrid_forward(self, F, cls_preds, box_preds, cls_targets, box_targets, normaliser):
        """Loss parts per image.

        Parameters
        ----------
        cls_preds : (B, N, 2)
            Logits of background and face; the paper's probability, a sigmoid, is that of their difference.
        box_preds : (B, N, 4)
        cls_targets : (B, N)
            1 face, 0 background, -1 ignored.
        box_targets : (B, N, 4)
        normaliser : (B,)
            See `AnchorLoss`.

        Returns
        -------
        cls, box : (B,) each
        """
        positive, negative = cls_targets == 1, cls_targets == 0
        logs = F.log_softmax(cls_preds, axis=-1)
        right, wrong = F.pick(logs, positive, axis=-1), F.pick(logs, 1 - positive, axis=-1)
        # From logarithms: where the probability of being wrong is rounded to 0 or 1, nothing becomes infinite.
        weights = F.exp(self.gamma * wrong) * (self.alpha * positive + (1 - self.alpha) * negative)
        box = _box_loss(F, box_preds, box_targets, positive, self.smooth_at)
        return F.sum(-weights * right, axis=1) * normaliser, box * normaliser * self.box_weight


class KeypointMaskLoss(nn.HybridBlock):
    """Spatial cross-entropy of landmarks in proposals (MaskFace eq. 4 and 5, after Mask R-CNN).

    The map of each landmark is a softmax over its cells, of which one is the right one. Mean over the K landmarks, one
    that is not known counting as found, as eq. 4 has it, summed over an image's proposals and multiplied by the image's
    normaliser.

    Parameters
    ----------
    map_hw : (int, int)
        h, w.
    weight : float
        lambda_kp; higher, points are more accurate and faces are found less well (section 3.1).
    """

    def __init__(self, map_hw: tuple[int, int] = (56, 56), weight: float = 0.25, **kwargs):
        super().__init__(**kwargs)
        self.cells, self.weight = map_hw[0] * map_hw[1], weight

    def hybrid_forward(self, F, mask_preds, point_cells, normaliser):
        """Loss per image.

        Parameters
        ----------
        mask_preds : (B, P, K, h, w) or (BP, K, h, w)
            Logits, image after image.
        point_cells : (B, P, K)
            Number of the cell of each point, row by row; -1 for a point to be left out. See
            :class:`gluonface.targets.ProposalTargets`.
        normaliser : (B,)
            Images of this device / proposals in them that have points, which follow from its predictions; see
            `AnchorLoss`.

        Returns
        -------
        (B,)
        """
        logs = F.log_softmax(mask_preds.reshape((-1, self.cells)), axis=-1)
        told = F.pick(logs, F.relu(point_cells).reshape((-1,)), axis=-1)
        losses = -F.reshape_like(told, point_cells) * (point_cells >= 0)
        return F.sum(F.mean(losses, axis=2), axis=1) * normaliser * self.weight


class PoseLoss(nn.HybridBlock):
    """Head pose loss of MOS (eq. 1): for each angle the cross-entropy over its bins, and ``beta`` times the squared
    error of the expected angle in degrees.

    Parameters
    ----------
    beta : float
        The paper's .001.
    """

    def __init__(self, beta: float = 0.001, **kwargs):
        super().__init__(**kwargs)
        self.beta = beta
        with self.name_scope():
            self.decode = PoseDecoder()

    def hybrid_forward(self, F, pose_preds, pose_targets, pose_masks, normaliser):
        """Loss per image.

        Parameters
        ----------
        pose_preds : (B, P, 198)
            From `gluonface.nn.heads.PoseHead`.
        pose_targets : (B, P, 3)
            Yaw, pitch, roll in degrees, within 99.
        pose_masks : (B, P)
            1 for a pose, 0 where there are fewer than P.
        normaliser : (B,)
            Factor of each image's sum, see `AnchorLoss`.

        Returns
        -------
        (B,)
            Sum over the three angles.
        """
        logs = F.log_softmax(pose_preds.reshape((0, 0, 3, POSE_BINS)), axis=-1)
        bins = F.clip(F.floor((pose_targets + POSE_LIMIT) / POSE_BIN_DEGREES), 0, POSE_BINS - 1)
        losses = self.beta * F.square(self.decode(pose_preds) - pose_targets) - F.pick(logs, bins, axis=-1)
        return F.sum(F.sum(losses, axis=2) * pose_masks, axis=1) * normaliser


class DensePointsLoss(nn.HybridBlock):
    """Dense landmarks as a teacher of pose: a predictor on the pose's vectors that is dropped after training.

    A pose is three numbers a face, and where labels are few a net learns them slowly; the points that they follow from
    are many. Not of the paper.

    Parameters
    ----------
    num_points : int
        K.
    in_channels : int
        C.
    per_cell : int
        A.
    smooth_at : float
        As in `AnchorLoss`.
    """

    def __init__(self, num_points: int, in_channels: int, per_cell: int, smooth_at: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.per_cell, self.smooth_at, self.num_points = per_cell, smooth_at, num_points
        with self.name_scope():
            self.dense = nn.Dense(
                2 * num_points, in_units=in_channels, flatten=False, weight_initializer=mx.init.Normal(0.01)
            )

    def hybrid_forward(self, F, cells, anchors, dense_targets, dense_masks, normaliser):
        """Loss per image.

        Parameters
        ----------
        cells : (B, cells, C)
        anchors : (B, P)
        dense_targets : (B, P, 2K)
        dense_masks : (B, P)
            See :class:`gluonface.targets.MOSTargets`.
        normaliser : (B,)
            Factor of each image's sum, see `AnchorLoss`.

        Returns
        -------
        (B,)
            Smooth-L1, sum over x and y, mean over the points.
        """
        difference = self.dense(take_cells(F, cells, anchors, self.per_cell)) - dense_targets
        losses = F.sum(_smooth_l1(F, difference, self.smooth_at), axis=2) / self.num_points
        return F.sum(losses * dense_masks, axis=1) * normaliser


class UncertaintyWeights(nn.HybridBlock):
    """Weights of the parts of a loss, learned with the network (MOS section 3.2.2, after Kendall et al. 2018).

    A classification part L becomes L / T^2 + log T (eq. 5), a regression part L / (2 sigma^2) + log sigma (eq. 6). log
    T and log sigma are the parameters, so that no scale can become negative. At fixed parts the least is at T^2 = 2 L
    and sigma^2 = L: every part then weighs 1 / (2 L).

    Parameters
    ----------
    kinds : mapping of str to str
        Name of each part -> "classification" or "regression", in the order of the call.
    """

    def __init__(self, kinds: Mapping[str, str], **kwargs):
        super().__init__(**kwargs)
        for name, kind in kinds.items():
            if kind not in ("classification", "regression"):
                raise InputError(f'part {name}: expected "classification" or "regression", got {kind!r}')
        self.names = tuple(kinds)
        self.factors = tuple(1.0 if kind == "classification" else 0.5 for kind in kinds.values())
        with self.name_scope():
            # No weight decay: it would draw every scale to 1.
            self.log_scales = self.params.get("log_scales", shape=(len(kinds),), init="zeros", wd_mult=0.0)

    def hybrid_forward(self, F, *parts, log_scales):
        """Parts (B,) each to as many weighted parts (B,), and the sum of the logarithms, (1,)."""
        scales = [F.slice_axis(log_scales, axis=0, begin=i, end=i + 1) for i in range(len(self.names))]
        weighted = [F.broadcast_mul(p, f * F.exp(-2 * s)) for p, f, s in zip(parts, self.factors, scales)]
        return *weighted, F.sum(log_scales).reshape((1,))

    def start_at(self, parts: Mapping[str, float]) -> None:
        """Set the scales to what is best for parts of these sizes, such as those of the first batch: parts may differ
        by orders of magnitude, and until the scales have found them the largest part alone is learnt.

        A part of 0 says nothing, as that of pose does in a batch without a posed face: its scale becomes 1.
        """
        squares = [2 * factor * parts[name] for name, factor in zip(self.names, self.factors)]
        self.log_scales.set_data(mx.nd.array([0.5 * math.log(square) if square > 0 else 0.0 for square in squares]))

    def weights(self) -> dict[str, float]:
        """What each part is multiplied with now: 1 / T^2 or 1 / (2 sigma^2)."""
        scales = self.log_scales.list_data()[0].asnumpy()
        return {name: float(f * math.exp(-2 * s)) for name, f, s in zip(self.names, self.factors, scales)}


class SmallBoxLoss(nn.HybridBlock):
    """How much of the box loss comes from small faces: what online feedback sampling goes by (MOS section 3.3).

    Parameters
    ----------
    small : float
        Faces up to this size in pixels; the paper's 25.
    smooth_at : float
        As in `AnchorLoss`.
    """

    def __init__(self, small: float = 25.0, smooth_at: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.small, self.smooth_at = small, smooth_at

    def hybrid_forward(self, F, box_preds, box_targets, face_sizes, normaliser):
        """The box loss of small faces and that of all, (B,) each, without gradient.

        Parameters
        ----------
        box_preds, box_targets : (B, N, 4)
        face_sizes : (B, N)
            See :class:`gluonface.targets.MOSTargets`.
        normaliser : (B,)
        """
        losses = F.sum(_smooth_l1(F, F.BlockGrad(box_preds) - box_targets, self.smooth_at), axis=2)
        losses = losses * (face_sizes > 0)
        small = F.sum(losses * (face_sizes <= self.small), axis=1)
        return small * normaliser, F.sum(losses, axis=1) * normaliser


#: Ways to compare heatmaps.
HEATMAP_LOSSES = ("mse", "awing")


class HeatmapLoss(nn.HybridBlock):
    """Heatmap and place losses of a landmark net.

    The heatmap part is the paper's mean squared error or the adaptive wing loss (Wang, Bo, Fuxin, ICCV 2019: section 4
    and its weighted loss map), which forgives small errors on the background and none at a peak. The place part is the
    distance, in cells, of the soft-argmax from the point: what NME measures, with a gradient of its own.

    Parameters
    ----------
    map_hw : (int, int)
        h, w.
    kind : {"mse", "awing"}
    place_weight : float
        Of the place part; 0 leaves it out.
    """

    # Of the adaptive wing loss, as published: omega, epsilon, alpha, theta, and the weight of the foreground, which is
    # where the target is at least 0.2 after a dilation by one cell.
    _OMEGA, _EPSILON, _ALPHA, _THETA, _FOREGROUND, _FOREGROUND_FROM = 14.0, 1.0, 2.1, 0.5, 10.0, 0.2
    # As a mean over all cells, nearly all of them background, mse would vanish beside the places.
    _MSE_SCALE = 100.0

    def __init__(self, map_hw: tuple[int, int], kind: str = "mse", place_weight: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        if kind not in HEATMAP_LOSSES:
            raise InputError(f"expected a heatmap loss among {', '.join(HEATMAP_LOSSES)}, got {kind!r}")
        self.kind, self.place_weight = kind, place_weight
        with self.name_scope():
            self.soft_argmax = SoftArgmax(map_hw)

    def _adaptive_wing(self, F, error, target):
        power = self._ALPHA - target
        ratio = self._THETA / self._EPSILON
        at_theta = ratio**power
        slope = self._OMEGA / (1 + at_theta) * power * ratio ** (power - 1) / self._EPSILON
        offset = self._THETA * slope - self._OMEGA * F.log(1 + at_theta)
        # Beyond theta the first branch is not used, but its gradient would be computed: it is given theta there.
        near = F.minimum(error, self._THETA) / self._EPSILON
        curved = self._OMEGA * F.log(1 + F.broadcast_power(near + 1e-6, power))
        return F.where(error < self._THETA, curved, slope * error - offset)

    def hybrid_forward(self, F, heatmaps, heatmap_targets, point_targets, point_masks):
        """Loss parts per image.

        Parameters
        ----------
        heatmaps, heatmap_targets : (B, K, h, w)
        point_targets : (B, K, 2)
            In cells.
        point_masks : (B, K)
            See :class:`gluonface.targets.HeatmapTargets`.

        Returns
        -------
        heatmap, place : (B,) each
            Means over the known points and those inside the crop.
        """
        targets = F.BlockGrad(heatmap_targets)
        if self.kind == "mse":
            losses = F.square(heatmaps - targets) * self._MSE_SCALE
        else:
            wide = F.Pooling(targets, kernel=(3, 3), stride=(1, 1), pad=(1, 1), pool_type="max")
            weight = 1 + self._FOREGROUND * (wide >= self._FOREGROUND_FROM)
            losses = self._adaptive_wing(F, F.abs(heatmaps - targets), targets) * weight
        known, inside = point_masks > 0, point_masks == 1
        heatmap = self._mean(F, F.mean(losses, axis=(2, 3)), known)
        away = F.square(self.soft_argmax(heatmaps) - point_targets)
        # The root's slope is finite at 0; a hundredth of a cell matters to nobody.
        place = self._mean(F, F.sqrt(F.sum(away, axis=2) + 1e-4), inside)
        return heatmap, place * self.place_weight

    def _mean(self, F, values, chosen):
        """Mean (B,) of the chosen values (B, K), 0 where none is."""
        return F.sum(values * chosen, axis=1) / F.maximum(F.sum(chosen, axis=1), 1)


class MapLoss(nn.HybridBlock):
    """Binary cross-entropy of a map of logits (KPNet eq. 4): of the scale map, and of the response map where points are
    read by argmax.

    The sum over the cells and channels that count, divided by the number of all: those that are ignored do not make the
    others count more.

    Parameters
    ----------
    weight : float
        The paper's 10,000: of the million numbers of a scale map a few are faces.
    focal : bool
        Each number counts with the square of its distance from the target, the quality focal loss (Li et al. 2020,
        eq. 6): the million that are nearly right already do not drown the few. In the paper all count alike.
    """

    def __init__(self, weight: float = 10_000.0, focal: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.weight, self.focal = weight, focal

    def hybrid_forward(self, F, logits, targets):
        """Logits (B, C, h, w) and targets of the same shape, 0..1 or -1 where ignored, to losses (B,)."""
        losses = (F.Activation(logits, act_type="softrelu") - logits * targets) * (targets >= 0)
        if self.focal:
            losses = losses * F.square(F.sigmoid(logits) - targets)
        return F.mean(losses, axis=(1, 2, 3)) * self.weight


class SquarePointsLoss(nn.HybridBlock):
    """Half the squared distance of points in squares, mean over the K points (KPNet eq. 7), summed over an image's
    squares and multiplied by the image's normaliser.

    Parameters
    ----------
    weight : float
        The paper's 1.
    """

    def __init__(self, weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def hybrid_forward(self, F, places, place_targets, place_masks, normaliser):
        """Loss per image.

        Parameters
        ----------
        places : (B, P, K, 2)
            From ``net.network.reader``, in shares of the squares' sides.
        place_targets : (B, P, K, 2)
        place_masks : (B, P, K)
            See :class:`gluonface.targets.KPNetTargets`. A point that is not known counts as found.
        normaliser : (B,)
            Images in the global batch / squares in it, see `AnchorLoss`.

        Returns
        -------
        (B,)
        """
        losses = F.sum(F.square(places - place_targets), axis=3) * place_masks
        return F.sum(F.mean(losses, axis=2), axis=1) / 2 * normaliser * self.weight


class TagLoss(nn.HybridBlock):
    """Loss of associative embedding (Newell, Huang, Deng 2017, section 3.2): the tags of a face's points are drawn to
    their mean, and the means of two faces apart.

    Parameters
    ----------
    pull, push : float
        Weights of both parts.
    """

    def __init__(self, pull: float = 1.0, push: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.pull, self.push = pull, push

    def hybrid_forward(self, F, tags, cells, masks):
        """Loss per image.

        Parameters
        ----------
        tags : (B, K, h, w)
        cells : (B, P, K)
            Number of the cell of each face's points, row by row; see :class:`gluonface.targets.TagTargets`.
        masks : (B, P, K)
            1 for a point that is there.

        Returns
        -------
        (B,)
            Squared distances from the mean, mean over points and faces; exp(-d^2 / 2) of means d apart, mean over pairs
            of different faces.
        """
        image = F.broadcast_like(F.contrib.arange_like(cells, axis=0).reshape((-1, 1, 1)), cells)
        point = F.broadcast_like(F.contrib.arange_like(cells, axis=2).reshape((1, 1, -1)), cells)
        told = F.gather_nd(tags.reshape((0, 0, -3)), F.stack(image, point, cells, axis=0))
        count = F.sum(masks, axis=2, keepdims=True)
        mean = F.sum(told * masks, axis=2, keepdims=True) / F.maximum(count, 1)
        there = (count > 0).reshape((0, -1))
        faces = F.sum(there, axis=1)
        pull = F.sum(F.square(F.broadcast_sub(told, mean)) * masks, axis=2) / F.maximum(count, 1).reshape((0, -1))
        pull = F.sum(pull, axis=1) / F.maximum(faces, 1)
        apart = F.broadcast_sub(mean, mean.transpose((0, 2, 1)))
        both = F.broadcast_mul(there.expand_dims(2), there.expand_dims(1))
        # Each face beside itself adds 1.
        push = F.sum(F.exp(-F.square(apart) / 2) * both, axis=(1, 2)) - faces
        push = push / F.maximum(faces * (faces - 1), 1)
        return pull * self.pull + push * self.push
