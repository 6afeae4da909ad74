"""Labels to training targets, in NumPy, in the workers.

Letters: B batch, N anchors, M labelled faces, P squares, proposals or anchors that learn more than others, K landmarks,
V vertices, S scale bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .decode import (
    KPNET_SCALES,
    LIGHT_ANCHORS,
    SCALE_SIGMA,
    AnchorSpec,
    ScaleSpec,
    anchors_for,
    decode_scale,
    encode_boxes,
    encode_heatmaps,
    encode_points,
    encode_pose,
    encode_scale,
    encode_scale_map,
    squares_about,
)
from .errors import InputError
from .geometry import box_ioa, box_iou, nms, widen_boxes

__all__ = [
    "MASKFACE_ANCHORS",
    "RETINAFACE_ANCHORS",
    "AnchorTargets",
    "HeatmapTargets",
    "KPNetTargets",
    "MOSTargets",
    "MaskFaceTargets",
    "MeshTargets",
    "ProposalTargets",
    "RefinedTargets",
    "TagTargets",
    "encode_cells",
    "encode_mesh",
    "labelled_points",
    "match_anchors",
    "square_anchors",
]

#: ``cls_targets`` of an anchor that is neither face nor background.
IGNORED = -1

#: P2..P6 with three anchors a cell, a third of an octave apart: 102,300 of 16 to 406 pixels at 640x640 (MaskFace
#: section 3.2).
MASKFACE_ANCHORS = AnchorSpec(
    strides=(4, 8, 16, 32, 64),
    sizes=tuple(tuple(side * 2 ** (third / 3) for third in range(3)) for side in (16, 32, 64, 128, 256)),
)
#: Those of the whole RetinaFace (section 3.3) are the same, three quarters of them of P2.
RETINAFACE_ANCHORS = MASKFACE_ANCHORS


def match_anchors(
    anchors: np.ndarray,
    boxes: np.ndarray,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float,
    take_over: bool = True,
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
        A face's best anchors are positive from this overlap on, even below ``positive_iou``. 0: however little they
        overlap it; above 1: no such anchors.
    take_over : bool
        A face has its best anchors even where they overlap another face more. If not, they are for the face that they
        overlap most (MaskFace section 3.2), and a face may be left without.

    Returns
    -------
    ndarray, int64, (N,)
        Index of the face, -1 for background, -2 for ignored.
    """
    if len(boxes) == 0:
        return np.full(len(anchors), -1)
    overlap, face = np.zeros(len(anchors), np.result_type(anchors, boxes)), np.zeros(len(anchors), np.int64)
    best_anchors = {}
    # Face after face, as few anchors touch it: a matrix of all with all takes many times as long, and the memory.
    for m, rows in enumerate(_touching(anchors, boxes)):
        iou = box_iou(anchors[rows], boxes[m : m + 1])[:, 0]
        better = iou > overlap[rows]
        overlap[rows[better]], face[rows[better]] = iou[better], m
        best = iou.max(initial=0)
        # A face that no anchor touches has no best ones.
        if best >= low_quality_iou and best > 0:
            best_anchors[m] = rows[iou >= best - 1e-6]
    matched = np.where(overlap >= positive_iou, face, np.where(overlap < negative_iou, -1, -2))
    if not take_over:
        for rows in best_anchors.values():
            matched[rows] = face[rows]
        return matched
    # Larger faces first, so that where two faces share their best anchor the smaller one, which has fewer others, keeps
    # it.
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for m in np.argsort(-area):
        if m in best_anchors:
            matched[best_anchors[m]] = m
    return matched


def _touching(boxes: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """For one of the boxes (M, 4) after another, the numbers of the boxes (N, 4) that share an area with it."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T, np.result_type(boxes, others))
    for left, top, right, bottom in others:
        yield np.flatnonzero((x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top))


@dataclass(frozen=True)
class AnchorTargets:
    """Training targets of an anchor-based detector.

    Attributes
    ----------
    size_hw : (int, int)
        Network input in pixels.
    spec : AnchorSpec
    positive_iou, negative_iou, low_quality_iou, take_over
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
    take_over: bool = True
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
            take_over=self.take_over,
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
        if matched is None:
            matched = self.match(boxes[~ignore])
        return _encode_matches(
            self.anchors, self.anchors, matched, boxes, landmarks5, ignore, points_only, self.ignore_ioa
        )


def _encode_matches(
    places: np.ndarray,
    frames: np.ndarray,
    matched: np.ndarray,
    boxes: np.ndarray,
    landmarks5: np.ndarray,
    ignore: np.ndarray,
    points_only: np.ndarray | None,
    ignore_ioa: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `AnchorTargets` gives, of anchors that lie at ``places`` (N, 4) and whose targets are coded in the squares
    ``frames`` (N, 4).
    """
    faces, points = boxes[~ignore], landmarks5[~ignore]
    cls_targets = np.where(matched >= 0, 1.0, np.where(matched == -1, 0.0, float(IGNORED))).astype(np.float32)
    if ignore.any():
        covered = np.zeros(len(places), np.result_type(places, boxes))
        regions = boxes[ignore]
        for m, rows in enumerate(_touching(places, regions)):
            covered[rows] = np.maximum(covered[rows], box_ioa(places[rows], regions[m : m + 1])[:, 0])
        cls_targets[(covered >= ignore_ioa) & (cls_targets == 0)] = IGNORED
    box_targets = np.zeros((len(places), 4), np.float32)
    landmark_targets = np.zeros((len(places), 2 * landmarks5.shape[1]), np.float32)
    landmark_masks = np.zeros((len(places), 1), np.float32)
    positive = np.flatnonzero(matched >= 0)
    if len(positive):
        face = matched[positive]
        box_targets[positive] = encode_boxes(faces[face], frames[positive])
        known = np.isfinite(points[face]).all(axis=(1, 2))
        with_points = positive[known]
        landmark_targets[with_points] = encode_points(points[face[known]], frames[with_points])
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
        anchors = _best_anchors(self.anchors, boxes, matched, posed, self.max_pose_anchors)
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


def _best_anchors(
    anchors: np.ndarray, boxes: np.ndarray, matched: np.ndarray, chosen: np.ndarray, most: int
) -> np.ndarray:
    """Numbers of the anchors (N, 4) that are matched (N,) to a chosen one (M,) of the faces (M, 4): all in order, or
    the ``most`` that overlap their face best.
    """
    numbers = np.flatnonzero(matched >= 0)
    numbers = numbers[chosen[matched[numbers]]] if len(numbers) else numbers
    if len(numbers) > most:
        overlap = np.empty(len(numbers), np.result_type(anchors, boxes))
        for m in np.unique(matched[numbers]):
            own = matched[numbers] == m
            overlap[own] = box_iou(anchors[numbers[own]], boxes[m : m + 1])[:, 0]
        numbers = numbers[np.argsort(-overlap, kind="stable")[:most]]
    return numbers


def labelled_points(labels, num_points: int) -> np.ndarray:
    """Points (M, K, 2) of all labels, NaN where unknown: five, or those of the scheme with that number."""
    if num_points == 5:
        return labels.landmarks5
    if labels.landmarks is not None and labels.landmarks.shape[1] == num_points:
        return labels.landmarks
    return np.full((len(labels.boxes), num_points, 2), np.nan, np.float32)


@dataclass(frozen=True)
class MaskFaceTargets(AnchorTargets):
    """Training targets of MaskFace that follow from the labels: class and box of the anchors, and the faces with whose
    points `ProposalTargets` goes on.

    Attributes
    ----------
    num_points : int
        K: 5 takes ``landmarks5`` of the labels, another number their ``landmarks`` where they are of that scheme.
    max_faces : int
        M: so many faces are handed on, those with points first, large ones first among equals.
    """

    spec: AnchorSpec = MASKFACE_ANCHORS
    positive_iou: float = 0.5
    negative_iou: float = 0.3
    low_quality_iou: float = 0.0
    take_over: bool = False
    num_points: int = 5
    max_faces: int = 64

    def encode_labels(self, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Targets of one image from its :class:`gluonface.data.base.FaceLabels`.

        Returns
        -------
        cls_targets (N,), box_targets (N, 4)
            See `AnchorTargets`; ``labels.points_only`` are ignored in both.
        face_boxes : ndarray, float32, (M, 4)
            xyxy in input pixels, of faces that are not ignored; 0 where there are fewer.
        face_points : ndarray, float32, (M, K, 2)
            Their points, NaN where unknown.
        """
        cls_targets, box_targets, *_ = super().encode_labels(labels)
        points = labelled_points(labels, self.num_points)
        faces = np.flatnonzero(~labels.ignore)
        without = ~_with_points(points[faces])
        # Those without points are told, too: a proposal of theirs is not to be taken for one of a neighbour.
        faces = faces[np.lexsort((-labels.face_sizes[faces], without))][: self.max_faces]
        face_boxes = np.zeros((self.max_faces, 4), np.float32)
        face_points = np.full((self.max_faces, self.num_points, 2), np.nan, np.float32)
        face_boxes[: len(faces)], face_points[: len(faces)] = labels.boxes[faces], points[faces]
        return cls_targets, box_targets, face_boxes, face_points


def _with_points(points: np.ndarray) -> np.ndarray:
    """Which of the faces have a known point: (M, K, 2) to (M,)."""
    return np.isfinite(points).all(axis=-1).any(axis=-1)


def encode_cells(points: np.ndarray, boxes: np.ndarray, map_hw: tuple[int, int]) -> np.ndarray:
    """Which cell of a box's map each point is in: the one pixel of a one-hot mask (MaskFace section 3.1).

    Parameters
    ----------
    points : ndarray (P, K, 2)
        x, y in pixels; NaN where unknown.
    boxes : ndarray (P, 4)
        xyxy in the same pixels.
    map_hw : (int, int)
        h, w: into so many rows and columns each box is divided.

    Returns
    -------
    ndarray, int64, (P, K)
        Number of the cell, row by row; -1 for a point that is unknown or outside. The border belongs to the box.
    """
    boxes = np.asarray(boxes, np.float64)
    low, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    places = np.full(np.shape(points), np.nan)
    np.divide(points - low, size, out=places, where=np.broadcast_to(size > 0, places.shape))
    inside = ((places >= 0) & (places <= 1)).all(axis=-1)  # not so for NaN
    sides = np.array(map_hw[::-1])
    column, row = np.moveaxis(
        np.minimum(np.where(inside[..., None], places, 0) * sides, sides - 1).astype(np.int64), -1, 0
    )
    return np.where(inside, row * map_hw[1] + column, -1)


@dataclass(frozen=True)
class ProposalTargets:
    """What the keypoint head of MaskFace learns: points in boxes that the net itself has just proposed (section 3.2).

    The proposals follow from the predictions, so they are chosen in the middle of a training step, without gradient,
    from scores and decoded boxes:

    >>> rois, point_cells = ProposalTargets()(boxes, scores, face_boxes, face_points)
    >>> count = (point_cells >= 0).any(axis=2).sum()
    >>> normaliser = np.full(len(rois), len(rois) / max(1, count))

    The keypoint head then looks at ``rois``, as rows of `gluonface.nn.roi.number_boxes`;
    `gluonface.loss.KeypointMaskLoss` takes the other two.

    Attributes
    ----------
    map_hw : (int, int)
        h, w of the masks.
    score_thresh, nms_thresh, match_iou : float
        Proposals have a higher score than the first, survive non-maximum suppression at the second, and overlap the
        face that they overlap most by more than the third.
    roi_scale : float
        Of the box in which the keypoint head looks, see `gluonface.nn.roi.KeypointHead`; cells are those of it.
    max_proposals : int
        P, of one image. The paper has no limit. Each face has its best proposal before any has two, proposals of high
        score first.
    nms_topk : int
        Boxes looked at, best first.
    """

    map_hw: tuple[int, int] = (56, 56)
    score_thresh: float = 0.02
    nms_thresh: float = 0.6
    match_iou: float = 0.6
    roi_scale: float = 1.0
    max_proposals: int = 16
    nms_topk: int = 1000

    def __post_init__(self):
        if min(self.max_proposals, self.nms_topk, *self.map_hw) < 1:
            raise InputError(
                "expected max_proposals, nms_topk and both sides of map_hw of at least 1, got "
                f"{self.max_proposals}, {self.nms_topk} and {self.map_hw}"
            )

    def __call__(
        self, boxes: np.ndarray, scores: np.ndarray, face_boxes: np.ndarray, face_points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Proposals and targets of a batch.

        Parameters
        ----------
        boxes : ndarray (B, N, 4)
            xyxy in input pixels, as decoded.
        scores : ndarray (B, N)
            Probabilities; -1 for padding.
        face_boxes : ndarray (B, M, 4)
        face_points : ndarray (B, M, K, 2)
            See :class:`MaskFaceTargets`.

        Returns
        -------
        rois : ndarray, float32, (B, P, 4)
            xyxy in input pixels, exactly as proposed; 0 where there are fewer.
        point_cells : ndarray, float32, (B, P, K)
            See :func:`encode_cells`; -1 where there are fewer.
        """
        rois = np.zeros((len(boxes), self.max_proposals, 4), np.float32)
        point_cells = np.full((len(boxes), self.max_proposals, face_points.shape[2]), -1, np.float32)
        for image, arrays in enumerate(zip(boxes, scores, face_boxes, face_points, strict=True)):
            chosen, points = self._of_image(*arrays)
            rois[image, : len(chosen)] = chosen
            point_cells[image, : len(chosen)] = encode_cells(points, widen_boxes(chosen, self.roi_scale), self.map_hw)
        return rois, point_cells

    def _of_image(self, boxes, scores, face_boxes, face_points) -> tuple[np.ndarray, np.ndarray]:
        """Proposals (P or fewer, 4) and the points of their faces (P or fewer, K, 2)."""
        if not _with_points(face_points).any():
            return np.zeros((0, 4), np.float32), face_points[:0]
        looked_at = np.flatnonzero(scores > self.score_thresh)
        looked_at = looked_at[np.argsort(-scores[looked_at], kind="stable")[: self.nms_topk]]
        boxes = boxes[looked_at]
        boxes = boxes[nms(boxes, scores[looked_at], self.nms_thresh)]
        iou = box_iou(boxes, face_boxes)
        face = iou.argmax(axis=1)
        matched = (iou.max(axis=1) > self.match_iou) & _with_points(face_points)[face]
        boxes, face = boxes[matched], face[matched]
        # How many better proposals each one's face has.
        before = np.array([np.count_nonzero(face[:i] == face[i]) for i in range(len(face))], np.int64)
        order = np.argsort(before, kind="stable")[: self.max_proposals]
        return boxes[order], face_points[face[order]]


# ---- a cascade of two heads, and meshes ------------------------------------------------------------------------------

#: What a row of `MeshTargets` is: nothing, a face, one whose points and mesh alone are learnt, a region to ignore.
_PADDING, _FACE, _POINTS_ONLY, _REGION = range(4)


def square_anchors(boxes: np.ndarray) -> np.ndarray:
    """The squares (..., 4) about the centres of boxes (..., 4) xyxy that have their areas: the frame of an anchor that
    a first head has moved. Twin of :class:`gluonface.nn.coder.SquareAnchors`.
    """
    boxes = np.asarray(boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    size = high - low
    half = np.sqrt(size[..., :1] * size[..., 1:]) / 2
    return np.concatenate([(low + high) / 2 - half, (low + high) / 2 + half], axis=-1)


def encode_mesh(meshes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Meshes as regression targets of square anchors (RetinaFace eq. 4);
    :class:`gluonface.nn.coder.MeshDecoder` is the inverse.

    Parameters
    ----------
    meshes : ndarray (N, V, 3)
        x, y in pixels, z in the same unit from the tip of the nose.
    anchors : ndarray (N, 4)
        xyxy in pixels, square.

    Returns
    -------
    ndarray (N, 3V)
        (x - x_a) / s, (y - y_a) / s, z / s of vertex after vertex, with s the anchor's side.
    """
    centre, side = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:3] - anchors[:, :1]
    origin = np.concatenate([centre, np.zeros_like(side)], axis=1)
    return ((meshes - origin[:, None]) / side[:, None]).reshape(len(meshes), -1)


@dataclass(frozen=True)
class MeshTargets(AnchorTargets):
    """Training targets of the whole RetinaFace that follow from the labels: class and box of the first head of the
    cascade, and the faces with which `RefinedTargets` goes on.

    Attributes
    ----------
    positive_iou, negative_iou : float
        The paper's .7 and .3 (section 3.3). ``low_quality_iou`` is ours: small faces and long ones have none of .7.
    num_vertices : int
        V; other meshes are not learnt.
    max_faces : int
        M: so many faces and regions are handed on, faces first, of these those with a mesh, then large ones. Of more,
        the second head would take the rest for background.
    max_meshes : int
        G: of so many faces of an image the mesh is handed on.
    """

    spec: AnchorSpec = RETINAFACE_ANCHORS
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    num_vertices: int = 468
    max_faces: int = 512
    max_meshes: int = 16

    def __post_init__(self):
        super().__post_init__()
        if min(self.num_vertices, self.max_faces, self.max_meshes) < 1:
            raise InputError(
                "expected num_vertices, max_faces and max_meshes of at least 1, got "
                f"{self.num_vertices}, {self.max_faces} and {self.max_meshes}"
            )

    def encode_labels(self, labels) -> tuple[np.ndarray, ...]:
        """Targets of one image from its :class:`gluonface.data.base.FaceLabels`.

        Returns
        -------
        cls_targets (N,), box_targets (N, 4)
            See `AnchorTargets`; ``labels.points_only`` are ignored in both.
        face_kinds : ndarray, float32, (M,)
            0 nothing, 1 a face, 2 one of ``labels.points_only``, 3 a region to ignore.
        face_boxes : ndarray, float32, (M, 4)
            xyxy in input pixels; 0 where there are fewer.
        face_points : ndarray, float32, (M, 5, 2)
            NaN where unknown.
        face_meshes : ndarray, float32, (G, V, 3)
            Of the first rows; NaN where unknown.
        """
        cls_targets, box_targets, *_ = super().encode_labels(labels)
        meshes = labels.mesh
        if meshes is None or meshes.shape[1] != self.num_vertices:
            meshes = np.full((len(labels), self.num_vertices, 3), np.nan, np.float32)
        without = ~np.isfinite(meshes).all(axis=(1, 2))
        rows = np.lexsort((-labels.face_sizes, without, labels.ignore))[: self.max_faces]
        kinds = np.where(labels.ignore, _REGION, np.where(labels.points_only, _POINTS_ONLY, _FACE))
        face_kinds = np.zeros(self.max_faces, np.float32)
        face_boxes = np.zeros((self.max_faces, 4), np.float32)
        face_points = np.full((self.max_faces, 5, 2), np.nan, np.float32)
        face_meshes = np.full((self.max_meshes, self.num_vertices, 3), np.nan, np.float32)
        face_kinds[: len(rows)], face_boxes[: len(rows)] = kinds[rows], labels.boxes[rows]
        face_points[: len(rows)] = labels.landmarks5[rows]
        face_meshes[: len(rows[: self.max_meshes])] = meshes[rows[: self.max_meshes]]
        return cls_targets, box_targets, face_kinds, face_boxes, face_points, face_meshes


@dataclass(frozen=True)
class RefinedTargets:
    """What the second head of the cascade learns, in boxes that the first has just predicted (RetinaFace section 3.3);
    of a net without cascade, its only head in the anchors.

    The boxes follow from the predictions, so the targets are made in the middle of a training step, without gradient.
    A box is matched as it lies; targets are coded, as eq. 4 has one scale, in the square of its centre and area.

    Attributes
    ----------
    positive_iou, negative_iou : float
        The paper's .5 and .4.
    low_quality_iou, take_over, ignore_ioa
        See `AnchorTargets`.
    max_mesh_anchors : int
        P: of an image's anchors, so many learn a mesh, those that overlap their face best.
    """

    positive_iou: float = 0.5
    negative_iou: float = 0.4
    low_quality_iou: float = 0.2
    take_over: bool = True
    ignore_ioa: float = 0.5
    max_mesh_anchors: int = 64

    def __call__(
        self,
        boxes: np.ndarray,
        face_kinds: np.ndarray,
        face_boxes: np.ndarray,
        face_points: np.ndarray,
        face_meshes: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """Targets of a batch.

        Parameters
        ----------
        boxes : ndarray (B, N, 4)
            xyxy in input pixels: what the first head made of each anchor.
        face_kinds (B, M), face_boxes (B, M, 4), face_points (B, M, 5, 2), face_meshes (B, G, V, 3)
            See :class:`MeshTargets`.

        Returns
        -------
        cls_targets (B, N), box_targets (B, N, 4), landmark_targets (B, N, 10), landmark_masks (B, N, 1)
            float32, see `AnchorTargets`.
        mesh_anchors : ndarray, float32, (B, P)
            Numbers of the anchors that learn a mesh, 0 where there are fewer.
        mesh_targets : ndarray, float32, (B, P, 3V)
            See :func:`encode_mesh`.
        mesh_masks : ndarray, float32, (B, P)
            1 where there is one.
        """
        images = zip(boxes, face_kinds, face_boxes, face_points, face_meshes, strict=True)
        return tuple(np.stack(arrays) for arrays in zip(*(self._of_image(*image) for image in images)))

    def _of_image(self, boxes, kinds, face_boxes, face_points, face_meshes) -> tuple[np.ndarray, ...]:
        rows = np.flatnonzero(kinds != _PADDING)
        kinds, face_boxes, face_points = kinds[rows], face_boxes[rows], face_points[rows]
        ignore = kinds == _REGION
        faces = face_boxes[~ignore]
        matched = match_anchors(
            boxes,
            faces,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            low_quality_iou=self.low_quality_iou,
            take_over=self.take_over,
        )
        frames = square_anchors(boxes)
        targets = _encode_matches(
            boxes, frames, matched, face_boxes, face_points, ignore, kinds == _POINTS_ONLY, self.ignore_ioa
        )
        # Faces come first, so the rows of meshes are those of faces.
        known = np.zeros(len(faces), bool)
        count = min(len(faces), len(face_meshes))
        known[:count] = np.isfinite(face_meshes[:count]).all(axis=(1, 2))
        chosen = _best_anchors(boxes, faces, matched, known, self.max_mesh_anchors)
        anchors, masks = np.zeros((2, self.max_mesh_anchors), np.float32)
        meshes = np.zeros((self.max_mesh_anchors, 3 * face_meshes.shape[1]), np.float32)
        if len(chosen):
            anchors[: len(chosen)], masks[: len(chosen)] = chosen, 1
            meshes[: len(chosen)] = encode_mesh(face_meshes[matched[chosen]], frames[chosen])
        return *targets, anchors, meshes, masks


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


@dataclass(frozen=True)
class KPNetTargets:
    """Training targets of KPNet.

    Points are learnt in squares like those that the net will propose: a proposal is about the centre of a cell, its
    side is that of a bin, and it may be off by a cell and by a bin.

    Attributes
    ----------
    size_hw : (int, int)
        Network input in pixels.
    num_points : int
        K: 5 takes ``landmarks5`` of the labels, another number their ``landmarks`` where they are of that scheme.
    spec : ScaleSpec
    sigma, bin_sigma : float
        See :func:`gluonface.decode.encode_scale_map`.
    min_face : float
        Faces whose longer side has fewer pixels of the input are ignored. None: those of less than 2^5 in a photo of
        2048, which are 4 at a long side of 256 and the 20 in a photo of 1280 from which on the paper finds faces.
    max_squares : int
        P.
    per_face : int
        Squares of each face, as far as there is room; each face has one before any has two.
    jitter_cells, jitter_bins : int
        By how many cells along each axis, and by how many bins, a square may be off: whole numbers, evenly drawn.
    response_map : bool
        Give a target of the response map, too, for reading points by argmax.
    """

    size_hw: tuple[int, int]
    num_points: int = 5
    spec: ScaleSpec = KPNET_SCALES
    sigma: float = SCALE_SIGMA
    bin_sigma: float = 0.0
    min_face: float | None = None
    max_squares: int = 32
    per_face: int = 1
    jitter_cells: int = 1
    jitter_bins: int = 1
    response_map: bool = False

    def __post_init__(self):
        if min(self.max_squares, self.per_face) < 1 or min(self.jitter_cells, self.jitter_bins) < 0:
            raise InputError(
                "expected max_squares and per_face of at least 1 and jitters of at least 0, got "
                f"{self.max_squares}, {self.per_face}, {self.jitter_cells}, {self.jitter_bins}"
            )
        if not self.smallest_face > 0:
            raise InputError(f"expected min_face to be positive, got {self.min_face}")

    @property
    def smallest_face(self) -> float:
        """Longer side of the smallest face that is learnt."""
        return self.spec.smallest if self.min_face is None else self.min_face

    def encode_labels(self, labels, rng: np.random.Generator | None = None) -> tuple[np.ndarray, ...]:
        """Targets of one image.

        Parameters
        ----------
        labels : gluonface.data.base.FaceLabels
            ``points_only`` faces have squares, but are ignored in the scale map.
        rng : numpy.random.Generator, optional
            Draws the jitter; `gluonface.data.loader.BatchLoader` gives another one to each item of each epoch. Without,
            squares are not jittered.

        Returns
        -------
        scale_targets : ndarray, float32, (S, h, w)
            0..1; -1, in all bins, for the cells whose centres are in an ignored region or in a face too small to learn,
            where no face is learnt.
        squares : ndarray, float32, (P, 4)
            xyxy in pixels of the input, largest faces first; 0 where there are fewer.
        place_targets : ndarray, float32, (P, K, 2)
            x, y in shares of the square's side from its top left corner.
        place_masks : ndarray, float32, (P, K)
            1 for a point that is known and can be found: inside its square and the input.
        response_targets : ndarray, float32, (K, h, w)
            With ``response_map``: 1 in the cell of each known point of a labelled face, else 0; -1 as above.
        """
        boxes = np.asarray(labels.boxes, np.float64)
        sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        faces = ~labels.ignore & (sizes >= self.smallest_face)
        learnt = faces & ~labels.points_only
        map_hw = self.spec.map_hw(self.size_hw)
        scale_targets = encode_scale_map(centres[learnt], sizes[learnt], map_hw, self.spec, self.sigma, self.bin_sigma)
        ignored = self._inside(boxes[~learnt], map_hw)
        # A face under an ignored region stays one; its bin's Gaussian, not the whole of its cells.
        scale_targets[ignored & (scale_targets == 0)] = -1
        points = labelled_points(labels, self.num_points)
        squares, faces_of = self._squares(centres, sizes, faces & np.isfinite(points).all(axis=2).any(axis=1), rng)
        found = squares, *self._places(points, squares, faces_of)
        if not self.response_map:
            return scale_targets, *found
        return scale_targets, *found, self._response(points[faces], map_hw, ignored)

    def _inside(self, boxes: np.ndarray, map_hw: tuple[int, int]) -> np.ndarray:
        """Which cells (h, w) have their centres in one of the boxes."""
        y, x = ((np.arange(side) + 0.5) * self.spec.stride for side in map_hw)
        inside = np.zeros(map_hw, bool)
        for x1, y1, x2, y2 in boxes:
            inside |= ((y >= y1) & (y <= y2))[:, None] & ((x >= x1) & (x <= x2))
        return inside

    def _squares(self, centres, sizes, chosen, rng) -> tuple[np.ndarray, np.ndarray]:
        """Squares (P, 4), and the number of the face of each that is one."""
        height, width = self.spec.map_hw(self.size_hw)
        cells = np.floor(centres / self.spec.stride)
        chosen &= (cells >= 0).all(axis=1) & (cells < (width, height)).all(axis=1)
        faces = np.flatnonzero(chosen)
        faces = np.tile(faces[np.argsort(-sizes[faces], kind="stable")], self.per_face)[: self.max_squares]
        cells_off, bins_off = np.zeros((len(faces), 2), np.int64), np.zeros(len(faces), np.int64)
        if rng is not None:
            cells_off = rng.integers(-self.jitter_cells, self.jitter_cells + 1, (len(faces), 2))
            bins_off = rng.integers(-self.jitter_bins, self.jitter_bins + 1, len(faces))
        cells = np.clip(cells[faces] + cells_off, 0, (width - 1, height - 1))
        bins = np.clip(encode_scale(sizes[faces], self.spec) + bins_off, 1, self.spec.bins)
        squares = np.zeros((self.max_squares, 4), np.float32)
        squares[: len(faces)] = squares_about((cells + 0.5) * self.spec.stride, decode_scale(bins, self.spec))
        return squares, faces

    def _places(self, points, squares, faces) -> tuple[np.ndarray, np.ndarray]:
        targets = np.zeros((self.max_squares, self.num_points, 2), np.float32)
        masks = np.zeros((self.max_squares, self.num_points), np.float32)
        if len(faces):
            own, low = points[faces], squares[: len(faces), None, :2]
            places = (own - low) / (squares[: len(faces), None, 2:] - low)
            there = (places >= 0) & (places <= 1) & (own >= 0) & (own <= np.array(self.size_hw[::-1]))
            masks[: len(faces)] = there.all(axis=2)
            targets[: len(faces)] = np.where(masks[: len(faces), :, None] > 0, places, 0)
        return targets, masks

    def _response(self, points, map_hw, ignored) -> np.ndarray:
        response = np.broadcast_to(np.where(ignored, np.float32(-1), np.float32(0)), (self.num_points, *map_hw)).copy()
        for face in points:
            for k in np.flatnonzero(np.isfinite(face).all(axis=1)):
                x, y = np.floor(face[k] / self.spec.stride).astype(np.int64)
                if 0 <= y < map_hw[0] and 0 <= x < map_hw[1]:
                    response[k, y, x] = 1
        return response


@dataclass(frozen=True)
class TagTargets:
    """Training targets of associative embedding on KPNet's backbone, for `gluonface.loss.MapLoss` and
    `gluonface.loss.TagLoss`.

    Attributes
    ----------
    size_hw : (int, int)
        Network input in pixels.
    num_points : int
        K.
    max_faces : int
        P, largest first.
    spec : ScaleSpec
    """

    size_hw: tuple[int, int]
    num_points: int = 5
    max_faces: int = 32
    spec: ScaleSpec = KPNET_SCALES

    def encode_labels(self, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Targets of one image from its :class:`gluonface.data.base.FaceLabels`.

        Returns
        -------
        response_targets : ndarray, float32, (K, h, w)
            As of `KPNetTargets`.
        cells : ndarray, float32, (P, K)
            Number of the cell of each point, row by row; 0 where there is none.
        masks : ndarray, float32, (P, K)
            1 for a point that is known and inside the input.
        """
        maps = KPNetTargets(self.size_hw, self.num_points, self.spec, response_map=True)
        *_, response = maps.encode_labels(labels)
        points, (height, width) = labelled_points(labels, self.num_points), self.spec.map_hw(self.size_hw)
        boxes = np.asarray(labels.boxes, np.float64)
        sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        faces = np.flatnonzero(~labels.ignore & (sizes >= maps.smallest_face) & np.isfinite(points).any(axis=(1, 2)))
        faces = faces[np.argsort(-sizes[faces], kind="stable")][: self.max_faces]
        column, row = np.moveaxis(np.floor(points[faces] / self.spec.stride), -1, 0)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)  # not so for NaN
        cells, masks = np.zeros((2, self.max_faces, self.num_points), np.float32)
        masks[: len(faces)] = inside
        cells[: len(faces)] = np.where(inside, row * width + column, 0)
        return response, cells, masks
