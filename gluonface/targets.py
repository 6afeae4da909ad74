"""Labels to training targets, in NumPy, in the workers.

Letters: N anchors, M labelled faces, K landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .decode import LIGHT_ANCHORS, AnchorSpec, anchors_for, encode_boxes, encode_heatmaps, encode_points, encode_pose
from .geometry import box_ioa, box_iou

__all__ = ["AnchorTargets", "HeatmapTargets", "MOSTargets", "match_anchors"]

#: ``cls_targets`` of an anchor that is neither face nor background.
IGNORED = -1


def match_anchors(
    anchors: np.ndarray,
    boxes: np.ndarray,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float,
) -> np.ndarray:
    """Assign anchors to faces by overlap.

    Parameters
    ----------
    anchors : ndarray (N, 4)
    boxes : ndarray (M, 4)
        xyxy in the same pixels.
    positive_iou, negative_iou : float
        An anchor is positive from the first on, background below the second, and ignored between.
    low_quality_iou : float
        A face's best anchors are positive from this overlap on, even below ``positive_iou``.

    Returns
    -------
    ndarray, int64, (N,)
        Index of the face, -1 for background, -2 for ignored.
    """
    if len(boxes) == 0:
        return np.full(len(anchors), -1)
    iou = box_iou(anchors, boxes)
    face = iou.argmax(axis=1)
    overlap = iou[np.arange(len(anchors)), face]
    matched = np.where(overlap >= positive_iou, face, np.where(overlap < negative_iou, -1, -2))
    best = iou.max(axis=0)
    # Larger faces first, so that where two faces share their best anchor the smaller one, which has fewer others, keeps
    # it.
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for m in np.argsort(-area):
        if best[m] >= low_quality_iou:
            matched[iou[:, m] >= best[m] - 1e-6] = m
    return matched


@dataclass(frozen=True)
class AnchorTargets:
    """Training targets of an anchor-based detector.

    Attributes
    ----------
    size_hw : (int, int)
        Network input in pixels.
    spec : AnchorSpec
    positive_iou, negative_iou, low_quality_iou : float
        See :func:`match_anchors`. The paper's .5 and .3 leave small faces without an anchor of .5 when there are two
        sizes an octave apart; the light variant's sources use one threshold of .35.
    ignore_ioa : float
        Background anchors of which this share lies on an ignore region are ignored.
    """

    size_hw: tuple[int, int]
    spec: AnchorSpec = LIGHT_ANCHORS
    positive_iou: float = 0.35
    negative_iou: float = 0.35
    low_quality_iou: float = 0.2
    ignore_ioa: float = 0.5

    def __post_init__(self):
        object.__setattr__(self, "anchors", anchors_for(self.size_hw, self.spec))

    def encode_labels(self, labels) -> tuple[np.ndarray, ...]:
        """Targets of one image from its :class:`gluonface.data.base.FaceLabels`, see :meth:`__call__`."""
        return self(labels.boxes, labels.landmarks5, labels.ignore, labels.points_only)

    def match(self, boxes: np.ndarray) -> np.ndarray:
        """Which of the faces each anchor is for, (N,): see :func:`match_anchors`."""
        return match_anchors(
            self.anchors,
            boxes,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            low_quality_iou=self.low_quality_iou,
        )

    def __call__(
        self,
        boxes: np.ndarray,
        landmarks5: np.ndarray,
        ignore: np.ndarray,
        points_only: np.ndarray | None = None,
        matched: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Targets of one image.

        Parameters
        ----------
        boxes : ndarray (M, 4)
            xyxy in input pixels.
        landmarks5 : ndarray (M, 5, 2)
            NaN where unknown.
        ignore : ndarray, bool, (M,)
            Regions that are neither face nor background.
        points_only : ndarray, bool, (M,), optional
            Faces whose points are learnt, but neither class nor box: their anchors are ignored.
        matched : ndarray (N,), optional
            What `match` gave for the boxes that are not ignored, where the caller needs it, too.

        Returns
        -------
        cls_targets : ndarray, float32, (N,)
            1 face, 0 background, -1 ignored.
        box_targets : ndarray, float32, (N, 4)
            0 where the anchor is not positive.
        landmark_targets : ndarray, float32, (N, 10)
        landmark_masks : ndarray, float32, (N, 1)
            1 where the anchor is for a face that has points.
        """
        anchors = self.anchors
        faces, points = boxes[~ignore], landmarks5[~ignore]
        if matched is None:
            matched = self.match(faces)
        cls_targets = np.where(matched >= 0, 1.0, np.where(matched == -1, 0.0, float(IGNORED))).astype(np.float32)
        if ignore.any():
            on_region = box_ioa(anchors, boxes[ignore]).max(axis=1) >= self.ignore_ioa
            cls_targets[on_region & (cls_targets == 0)] = IGNORED
        box_targets = np.zeros((len(anchors), 4), np.float32)
        landmark_targets = np.zeros((len(anchors), 2 * landmarks5.shape[1]), np.float32)
        landmark_masks = np.zeros((len(anchors), 1), np.float32)
        positive = np.flatnonzero(matched >= 0)
        if len(positive):
            face = matched[positive]
            box_targets[positive] = encode_boxes(faces[face], anchors[positive])
            known = np.isfinite(points[face]).all(axis=(1, 2))
            with_points = positive[known]
            landmark_targets[with_points] = encode_points(points[face[known]], anchors[with_points])
            landmark_masks[with_points] = 1
            if points_only is not None:
                cls_targets[positive[points_only[~ignore][face]]] = IGNORED
        return cls_targets, box_targets, landmark_targets, landmark_masks


@dataclass(frozen=True)
class MOSTargets(AnchorTargets):
    """Training targets of MOS: those of `AnchorTargets`, and head pose.

    Attributes
    ----------
    min_pose_face : float
        Faces smaller than this in the network's input, in pixels (square root of the box's area), are masked out of the
        pose loss (MOS section 4.1: faces under 35x35 carry no pose).
    max_pose_anchors : int
        P: of an image's anchors, so many learn a pose, those that overlap their face best. A pose is 198 numbers, and
        most anchors have none to learn: the loss looks at these alone.
    dense_points : int
        Give targets of so many dense landmarks, too, for `gluonface.loss.DensePointsLoss`; 0: none.
    """

    min_pose_face: float = 35.0
    max_pose_anchors: int = 64
    dense_points: int = 0

    def encode_labels(self, labels) -> tuple[np.ndarray, ...]:
        """Targets of one image from its :class:`gluonface.data.base.FaceLabels`.

        Returns
        -------
        cls_targets (N,), box_targets (N, 4), landmark_targets (N, 10), landmark_masks (N, 1)
            See `AnchorTargets`; ``labels.points_only`` are ignored in the first two.
        face_sizes : ndarray, float32, (N,)
            Size in pixels (square root of the box's area) of the face whose class and box a positive anchor learns,
            else 0.
        pose_anchors : ndarray, float32, (P,)
            Numbers of the anchors that learn a pose, 0 where there are fewer.
        pose_sides : ndarray, float32, (P,)
            Their sides in pixels.
        pose_targets : ndarray, float32, (P, 3)
            Yaw, pitch, roll in degrees.
        pose_masks : ndarray, float32, (P,)
            1 where there is one.
        dense_targets : ndarray, float32, (P, 2K)
            With ``dense_points``: dense landmarks of the faces of these anchors, coded like the five.
        dense_masks : ndarray, float32, (P,)
            With ``dense_points``: 1 where they are known.
        """
        boxes, poses = labels.boxes[~labels.ignore], labels.pose[~labels.ignore]
        matched = self.match(boxes)
        targets = self(labels.boxes, labels.landmarks5, labels.ignore, labels.points_only, matched)
        sizes = labels.face_sizes[~labels.ignore]
        face_sizes = np.zeros(len(self.anchors), np.float32)
        pose_anchors = np.zeros(self.max_pose_anchors, np.float32)
        pose_sides = np.zeros(self.max_pose_anchors, np.float32)
        pose_targets = np.zeros((self.max_pose_anchors, 3), np.float32)
        pose_masks = np.zeros(self.max_pose_anchors, np.float32)
        learnt = np.flatnonzero(targets[0] == 1)
        if len(learnt):
            face_sizes[learnt] = sizes[matched[learnt]]
        posed = (encode_pose(poses) >= 0).all(axis=-1) & (sizes >= self.min_pose_face)
        anchors = np.flatnonzero(matched >= 0)
        anchors = anchors[posed[matched[anchors]]] if len(anchors) else anchors
        if len(anchors) > self.max_pose_anchors:
            overlap = box_iou(self.anchors[anchors], boxes)[np.arange(len(anchors)), matched[anchors]]
            anchors = anchors[np.argsort(-overlap, kind="stable")[: self.max_pose_anchors]]
        count = len(anchors)
        pose_anchors[:count], pose_masks[:count] = anchors, 1
        if count:
            pose_sides[:count] = self.anchors[anchors, 2] - self.anchors[anchors, 0]
            pose_targets[:count] = poses[matched[anchors]]
        posed = *targets, face_sizes, pose_anchors, pose_sides, pose_targets, pose_masks
        return (*posed, *self._dense(labels, anchors, matched)) if self.dense_points else posed

    def _dense(self, labels, anchors: np.ndarray, matched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        targets = np.zeros((self.max_pose_anchors, 2 * self.dense_points), np.float32)
        masks = np.zeros(self.max_pose_anchors, np.float32)
        if len(anchors) and labels.landmarks is not None and labels.landmarks.shape[1] == self.dense_points:
            points = labels.landmarks[~labels.ignore][matched[anchors]]
            known = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)))
            targets[known] = encode_points(points[known], self.anchors[anchors[known]])
            masks[known] = 1
        return targets, masks


@dataclass(frozen=True)
class HeatmapTargets:
    """Training targets of a heatmap net.

    Attributes
    ----------
    map_hw : (int, int)
        h, w of the heatmaps.
    stride : int
        Pixels of the crop a cell.
    sigma : float
        Standard deviation of the Gaussians in cells.
    """

    map_hw: tuple[int, int]
    stride: int
    sigma: float = 1.5

    def encode_labels(self, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Targets of a crop from the :class:`gluonface.data.base.FaceLabels` of its one face, see :meth:`__call__`."""
        return self(labels.landmarks[0])

    def __call__(self, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Targets of one face.

        Parameters
        ----------
        landmarks : ndarray (K, 2)
            x, y in pixels of the crop; NaN where unknown.

        Returns
        -------
        heatmap_targets : ndarray, float32, (K, h, w)
            Gaussians of height 1.
        point_targets : ndarray, float32, (K, 2)
            x, y in cells; 0 where unknown.
        point_masks : ndarray, float32, (K,)
            1 inside the crop, 0.5 outside (its heatmap shows a flank or nothing, its place cannot be learnt), 0 where
            unknown.
        """
        cells = np.asarray(landmarks, np.float32) / self.stride
        known = np.isfinite(cells).all(axis=-1)
        inside = known & (cells >= 0).all(axis=-1) & (cells <= self.map_hw[::-1]).all(axis=-1)
        masks = np.where(inside, 1, np.where(known, 0.5, 0)).astype(np.float32)
        return encode_heatmaps(cells, self.map_hw, self.sigma), np.where(known[:, None], cells, 0), masks
