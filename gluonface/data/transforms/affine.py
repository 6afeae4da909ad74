"""`Affine`: where pixels, boxes, points, pose and meshes go, as one matrix.

Geometric transforms make plans; plans are joined by a matrix product, so a chain of them costs one warp of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...faces import SCHEMES
from ...geometry import box_area, clip_boxes, warp_image, warp_points
from ..base import FaceLabels
from ._pose import move_pose

__all__ = ["Affine", "keep_visible"]


# Upper half of an ellipse, from its left end over the top to its right end: the outline of a forehead.
_ARC = np.stack([-np.cos(np.linspace(0, np.pi, 9)), -np.sin(np.linspace(0, np.pi, 9))], axis=-1)


def _determinant(matrix: np.ndarray) -> float:
    (a, b), (c, d) = matrix[:, :2].tolist()  # np.linalg.det takes ten times as long
    return a * d - b * c


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine map from one image to another.

    Parameters
    ----------
    matrix : (2, 3) float64
        Takes continuous coordinates of the source to those of the result.
    size_hw : (int, int)
        Height and width of the result in pixels.
    """

    matrix: np.ndarray
    size_hw: tuple[int, int]

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, np.float64)
        if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or abs(_determinant(matrix)) < 1e-12:
            raise InputError(f"Affine needs a finite, invertible matrix of shape (2, 3), got {matrix.tolist()}")
        height, width = (int(side) for side in self.size_hw)
        if height < 1 or width < 1:
            raise InputError(f"Affine needs a result of at least 1x1 pixels, got (height, width) {self.size_hw}")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "size_hw", (height, width))

    @classmethod
    def identity(cls, size_hw: tuple[int, int]) -> Affine:
        """The map that leaves an image of that size as it is."""
        return cls(np.eye(2, 3), size_hw)

    @property
    def linear(self) -> np.ndarray:
        """(2, 2) the matrix without its shift."""
        return self.matrix[:, :2]

    @property
    def scale(self) -> float:
        """Result pixels per source pixel (square root of the ratio of areas)."""
        return math.sqrt(abs(_determinant(self.matrix)))

    @property
    def mirrored(self) -> bool:
        """Whether left and right (or up and down) are exchanged."""
        return _determinant(self.matrix) < 0

    def then(self, following: Affine) -> Affine:
        """The map that does this one and then another."""
        matrix = following.linear @ self.matrix
        matrix[:, 2] += following.matrix[:, 2]
        return Affine(matrix, following.size_hw)

    def warp(self, image: np.ndarray, fill: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
        """The image under the map: bilinear, averaged first where it shrinks more than twofold.

        Parameters
        ----------
        image : (H, W, 3) uint8
        fill : (int, int, int)
            Colour of what lies outside the source.

        Returns
        -------
        (h, w, 3) uint8
            A new array.
        """
        return warp_image(image, self.matrix, self.size_hw, fill)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) under the map; NaN stays NaN."""
        return warp_points(self.matrix, points).astype(np.float32)

    def labels(self, labels: FaceLabels) -> FaceLabels:
        """Boxes, points, pose and meshes under the map; nothing is clipped or dropped (see `keep_visible`).

        A box that turns becomes the upright rectangle round the ellipse inscribed in it: heads are oval, and the
        rectangle round the turned corners would be up to twice as large as the face. A face with a dense
        jaw gets the rectangle round its turned outline (points and forehead). Both are exact for quarter turns.

        The depth of a mesh, seen from afar, grows and shrinks with the image (`scale`). Under a mirror, a mesh without
        ``mesh_flip`` becomes NaN, a face without mesh: the mirror image has no vertices where some of this kind are.
        All else of the face is mirrored.
        """
        boxes = self._boxes(labels.boxes)
        landmarks5 = self.points(labels.landmarks5)
        landmarks = labels.landmarks
        if landmarks is not None:
            jaw = SCHEMES[labels.scheme].groups["jaw"] if labels.scheme != "5" else ()
            outlined = np.isfinite(landmarks).all(axis=(1, 2)) & ~labels.ignore
            if len(jaw) > 1 and outlined.any() and not self._upright():
                ends = jaw[0], jaw[-1]
                boxes[outlined] = self._outline_boxes(labels.boxes[outlined], landmarks[outlined], ends)
            landmarks = self.points(landmarks)
        if self.mirrored:
            landmarks5 = landmarks5[:, SCHEMES["5"].flip_index]
            landmarks = landmarks if landmarks is None else landmarks[:, SCHEMES[labels.scheme].flip_index]
        return labels.with_(
            boxes=boxes,
            landmarks5=landmarks5,
            landmarks=landmarks,
            pose=move_pose(labels.pose, self.linear),
            mesh=None if labels.mesh is None else self._mesh(labels.mesh, labels.mesh_flip),
        )

    def _mesh(self, mesh: np.ndarray, mesh_flip: np.ndarray | None) -> np.ndarray:
        moved = np.concatenate([self.points(mesh[..., :2]), mesh[..., 2:] * np.float32(self.scale)], axis=-1)
        if not self.mirrored:
            return moved
        return np.full_like(moved, np.nan) if mesh_flip is None else moved[:, mesh_flip]

    def _upright(self) -> bool:
        """Whether sides of boxes stay level and plumb."""
        size = np.abs(self.linear)
        return min(size[0, 1] + size[1, 0], size[0, 0] + size[1, 1]) < 1e-9 * size.max()

    def _boxes(self, boxes: np.ndarray) -> np.ndarray:
        boxes = boxes.astype(np.float64)
        centre = warp_points(self.matrix, (boxes[:, :2] + boxes[:, 2:]) / 2)
        half = (boxes[:, 2:] - boxes[:, :2]) / 2
        # Half the extent of the image of an ellipse with half-axes a, b along x is sqrt((L00 a)^2 + (L01 b)^2).
        half = np.sqrt(half**2 @ (self.linear**2).T)
        return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)

    def _outline_boxes(self, boxes: np.ndarray, landmarks: np.ndarray, jaw_ends: tuple[int, int]) -> np.ndarray:
        """Upright rectangles (M, 4) round turned faces."""
        points = landmarks.astype(np.float64)
        low = boxes[:, None, :2].astype(np.float64)
        size = np.maximum(boxes[:, None, 2:] - boxes[:, None, :2], 1e-3)
        # A forehead over the jaw's two ends, up to the upper edge of the box.
        ends = points[:, list(jaw_ends)]
        middle = ends.mean(axis=1, keepdims=True)
        radius = np.stack([np.ptp(ends[:, :, 0], axis=1) / 2, np.maximum(middle[:, 0, 1] - low[:, 0, 1], 0)], axis=-1)
        outline = np.concatenate([points, middle + _ARC * radius[:, None]], axis=1)
        # Stretched so that on the upright face it fills the box exactly: a map that turns nothing changes nothing.
        first, extent = outline.min(axis=1, keepdims=True), np.ptp(outline, axis=1)[:, None]
        outline = warp_points(self.matrix, low + (outline - first) / np.maximum(extent, 1e-3) * size)
        return np.concatenate([outline.min(axis=1), outline.max(axis=1)], axis=1).astype(np.float32)


def keep_visible(
    labels: FaceLabels,
    size_hw: tuple[int, int],
    *,
    min_visible: float = 0.4,
    centre_inside: bool = True,
    min_face: float = 0.0,
    max_face: float = math.inf,
) -> FaceLabels:
    """Clip boxes to an image, drop what is outside, turn what cannot be learnt into ignore regions.

    Parameters
    ----------
    labels : FaceLabels
        In pixels of the image, possibly reaching beyond it.
    size_hw : (int, int)
        Height and width of the image.
    min_visible : float
        A face of which less than this share of its box is inside becomes an ignore region.
    centre_inside : bool
        So does a face whose centre is outside.
    min_face : float
        So does a face smaller than this, in pixels (square root of its whole box's area): too small to learn, not
        background either.
    max_face : float
        So does a face larger than this.

    Returns
    -------
    FaceLabels
        Boxes inside the image. Points are not clipped: those of a face cut by the border stay where the face has them.
    """
    height, width = size_hw
    boxes = clip_boxes(labels.boxes, size_hw)
    whole, inside = box_area(labels.boxes), box_area(boxes)
    seen = inside > 1e-3 * np.maximum(whole, 1e-6)
    sizes = np.sqrt(whole)
    spoilt = (inside < min_visible * whole) | (sizes < min_face) | (sizes > max_face)
    if centre_inside:
        x, y = ((labels.boxes[:, :2] + labels.boxes[:, 2:]) / 2).T
        spoilt |= (x < 0) | (x > width) | (y < 0) | (y > height)
    return labels.with_(boxes=boxes.astype(np.float32), ignore=labels.ignore | spoilt)[seen]
