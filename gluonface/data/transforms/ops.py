"""Geometric transforms that move image, boxes, points, pose and meshes together.

Each is called as ``op(image, labels, rng) -> (image, labels)`` and gives new objects. Each also has
``plan(size_hw, labels, rng) -> Affine``, the map it would apply; `Compose` joins the plans of neighbouring geometric
transforms, so that a chain of them costs one warp. Colours are changed in :mod:`gluonface.data.transforms.colour`.

``rng`` is a ``numpy.random.Generator``: the same generator state gives the same result.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...geometry import rotation_matrix_about
from ..base import FaceLabels, concat_labels
from .affine import Affine, keep_visible

__all__ = [
    "Affine",
    "Compose",
    "Expand",
    "FixedCrop",
    "Flip",
    "Geometric",
    "QuarterTurn",
    "RandomSquareCrop",
    "Resize",
    "ResizeRange",
    "Rotate",
    "ScaleToFace",
    "keep_visible",
    "mosaic",
    "place",
]

#: RetinaFace section 4.2 (after S3FD): side of the square crop as a share of the photo's short side.
SQUARE_CROP_RATIOS = (0.3, 0.45, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class Geometric(ABC):
    """A transform that is an affine map of the image.

    Parameters
    ----------
    fill : (int, int, int)
        Colour of what lies outside the photo.
    min_visible, min_face : float
        Which faces stay faces, see `keep_visible`.
    """

    fill: tuple[int, int, int] = (0, 0, 0)
    min_visible: float = 0.4
    min_face: float = 0.0

    @abstractmethod
    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """The map for an image of that size with these labels."""

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        """Image and labels under the map of `plan`; both are new."""
        plan = self.plan(image.shape[:2], labels, rng)
        moved = keep_visible(plan.labels(labels), plan.size_hw, min_visible=self.min_visible, min_face=self.min_face)
        return plan.warp(image, self.fill), moved


def place(
    linear: np.ndarray, source_xy: Sequence[float], result_xy: Sequence[float], size_hw: tuple[int, int]
) -> Affine:
    """The map with that linear part which takes one point to another."""
    shift = np.asarray(result_xy, np.float64) - linear @ np.asarray(source_xy, np.float64)
    return Affine(np.column_stack([linear, shift]), size_hw)


def _uniform_between(rng: np.random.Generator, a: float, b: float) -> float:
    """Uniform between two numbers in either order."""
    return float(rng.uniform(min(a, b), max(a, b)))


@dataclass(frozen=True, kw_only=True)
class RandomSquareCrop(Geometric):
    """A random square of the photo (RetinaFace section 4.2, S3FD section 3.4), at stored resolution without `size`.

    The square holds the centre of at least one face when the photo has one to learn and `attempts` squares were enough
    to find it. A face whose centre is outside becomes an ignore region where it is seen.

    Parameters
    ----------
    ratios : sequence of float
        Side of the square as a share of the photo's short side, one of them at random. Above 1 the square reaches
        beyond the photo and is filled.
    size : int, optional
        Side of the result in pixels.
    max_upscale : float
        With `size`: the square is no smaller than `size` / `max_upscale`, because magnified blur is no face.
    attempts : int
        Squares tried.
    """

    ratios: Sequence[float] = SQUARE_CROP_RATIOS
    size: int | None = None
    max_upscale: float = math.inf
    attempts: int = 50

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A square at a random place."""
        height, width = size_hw
        faces = labels.boxes[~labels.ignore].astype(np.float64)
        centres = (faces[:, :2] + faces[:, 2:]) / 2
        for _ in range(self.attempts):
            side = float(rng.choice(self.ratios)) * min(height, width)
            if self.size is None:
                side = max(1, round(side))
            else:
                side = max(side, self.size / self.max_upscale)
            x1 = _uniform_between(rng, 0, width - side)
            y1 = _uniform_between(rng, 0, height - side)
            if self.size is None:  # whole pixels: nothing is interpolated
                x1, y1 = math.floor(x1), math.floor(y1)
            inside = ((centres > (x1, y1)) & (centres < (x1 + side, y1 + side))).all(axis=1)
            if inside.any() or not len(centres):
                break
        result = side if self.size is None else self.size
        scale = result / side
        return place(np.eye(2) * scale, (x1, y1), (0, 0), (int(result), int(result)))


@dataclass(frozen=True, kw_only=True)
class Resize(Geometric):
    """The whole photo at another size, aspect kept.

    Parameters
    ----------
    long_side : int
        Longer side of the result in pixels.
    """

    long_side: int = 640

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A map without chance."""
        return _resized(size_hw, self.long_side / max(size_hw))


@dataclass(frozen=True, kw_only=True)
class ResizeRange(Geometric):
    """The whole photo scaled by a random factor, aspect kept.

    Parameters
    ----------
    scales : (float, float)
        Smallest and largest factor; the logarithm is drawn uniformly, so that halving and doubling are equally likely.
    """

    scales: tuple[float, float] = (0.5, 2.0)

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A random scale."""
        return _resized(size_hw, math.exp(rng.uniform(math.log(self.scales[0]), math.log(self.scales[1]))))


def _resized(size_hw: tuple[int, int], scale: float) -> Affine:
    height, width = (max(1, round(side * scale)) for side in size_hw)
    # The exact ratio of each axis, so that the photo fills the rounded size.
    return Affine(np.diag([width / size_hw[1], height / size_hw[0], 1])[:2], (height, width))


@dataclass(frozen=True, kw_only=True)
class FixedCrop(Geometric):
    """A window of a given size at a random place; where the photo is smaller it lies somewhere inside and is padded.

    Parameters
    ----------
    size_hw : (int, int)
        Height and width in pixels.
    """

    size_hw: tuple[int, int] = (640, 640)

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A shift by whole pixels."""
        y1, x1 = (
            int(rng.integers(min(0, photo - window), max(0, photo - window) + 1))
            for photo, window in zip(size_hw, self.size_hw, strict=True)
        )
        return place(np.eye(2), (x1, y1), (0, 0), self.size_hw)


@dataclass(frozen=True, kw_only=True)
class ScaleToFace(Geometric):
    """Scale so that a random face lands on a drawn size, and cut a window with that face in it (data-anchor sampling).

    PyramidBox (arXiv:1803.07737, section 3.4) draws an anchor and then a size near it; here the size is uniform in the
    logarithm within half an octave on either side of the drawn anchor. A photo without a face to learn gets a random
    window instead.

    Parameters
    ----------
    size_hw : (int, int)
        Height and width of the window in pixels.
    face_sizes : sequence of float
        Sizes to draw from, in pixels (square root of the box's area).
    max_upscale : float
        A photo is not magnified more than this, even if the face then stays smaller than drawn.
    """

    size_hw: tuple[int, int] = (640, 640)
    face_sizes: Sequence[float] = (16, 32, 64, 128, 256)
    max_upscale: float = 3.0

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A scale and a place for one face."""
        faces = np.flatnonzero(~labels.ignore & (labels.face_sizes > 0))
        if not len(faces):
            side = _uniform_between(rng, 0.5, 1.0) * min(size_hw)
            scale = min(self.max_upscale, max(self.size_hw) / side)
            return random_window(np.eye(2) * scale, size_hw, self.size_hw, rng)
        face = labels[[int(rng.choice(faces))]]
        target = draw_size(self.face_sizes, rng)
        scale = min(self.max_upscale, target / float(face.face_sizes[0]))
        return window_with_face(np.eye(2) * scale, size_hw, face, self.size_hw, rng)


def draw_size(sizes: Sequence[float], rng: np.random.Generator, weights: Sequence[float] | None = None) -> float:
    """A size within half an octave of one of `sizes`, uniform in the logarithm; `weights` sum to 1."""
    return float(rng.choice(sizes, p=weights)) * 2.0 ** rng.uniform(-0.5, 0.5)


def window_with_face(
    linear: np.ndarray,
    photo_hw: tuple[int, int],
    face: FaceLabels,
    size_hw: tuple[int, int],
    rng: np.random.Generator,
) -> Affine:
    """A window of the photo under `linear` that holds one face whole, at a random place.

    A face larger than the window fills it. As far as the face allows, the window stays inside the photo or, where the
    photo is smaller, the photo inside the window.
    """
    box = Affine(np.column_stack([linear, [0, 0]]), size_hw).labels(face).boxes[0].astype(np.float64)
    low, high = _extent(linear, photo_hw)
    shift = []
    for axis, side in ((0, size_hw[1]), (1, size_hw[0])):
        with_face = sorted((-box[axis], side - box[axis + 2]))
        with_photo = sorted((-low[axis], side - high[axis]))
        both = max(with_face[0], with_photo[0]), min(with_face[1], with_photo[1])
        shift.append(rng.uniform(*(both if both[0] <= both[1] else with_face)))
    return Affine(np.column_stack([linear, shift]), size_hw)


def random_window(
    linear: np.ndarray, photo_hw: tuple[int, int], size_hw: tuple[int, int], rng: np.random.Generator
) -> Affine:
    """A window at a random place of the photo under `linear`; where the photo is smaller it lies in the window."""
    low, high = _extent(linear, photo_hw)
    shift = [rng.uniform(*sorted((-low[axis], size_hw[1 - axis] - high[axis]))) for axis in (0, 1)]
    return Affine(np.column_stack([linear, shift]), size_hw)


def _extent(linear: np.ndarray, photo_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest x, y of a photo under a linear map."""
    height, width = photo_hw
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64) @ linear.T
    return corners.min(axis=0), corners.max(axis=0)


@dataclass(frozen=True, kw_only=True)
class Expand(Geometric):
    """The photo at a random place of a larger canvas (SSD's expansion): faces become small against the whole.

    Parameters
    ----------
    max_ratio : float
        Largest ratio of canvas side to photo side.
    """

    max_ratio: float = 4.0

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A shift by whole pixels on a larger canvas."""
        ratio = rng.uniform(1, self.max_ratio)
        height, width = (int(side * ratio) for side in size_hw)
        x, y = rng.integers(width - size_hw[1] + 1), rng.integers(height - size_hw[0] + 1)
        return place(np.eye(2), (0, 0), (x, y), (height, width))


@dataclass(frozen=True, kw_only=True)
class Flip(Geometric):
    """Left and right exchanged with a probability: points exchange their places, yaw and roll their signs.

    Parameters
    ----------
    prob : float
    """

    prob: float = 0.5

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A mirror or nothing."""
        if rng.uniform() >= self.prob:
            return Affine.identity(size_hw)
        return Affine(np.array([[-1, 0, size_hw[1]], [0, 1, 0]]), size_hw)


@dataclass(frozen=True, kw_only=True)
class Rotate(Geometric):
    """A turn about the centre on the same canvas.

    Points keep their identity: the left eye of the upright face stays point 0.

    Parameters
    ----------
    max_degrees : float
        The angle is uniform in [-max_degrees, max_degrees]; positive is clockwise, like roll.
    prob : float
    """

    max_degrees: float = 30.0
    prob: float = 1.0

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A turn or nothing."""
        if rng.uniform() >= self.prob:
            return Affine.identity(size_hw)
        angle = rng.uniform(-self.max_degrees, self.max_degrees)
        return Affine(rotation_matrix_about((size_hw[1] / 2, size_hw[0] / 2), angle), size_hw)


@dataclass(frozen=True, kw_only=True)
class QuarterTurn(Geometric):
    """An exact turn by 90, 180 or 270 degrees: every pixel keeps its value.

    Parameters
    ----------
    turns : sequence of int
        Clockwise quarter turns, one of them at random.
    """

    turns: Sequence[int] = (0, 1, 2, 3)

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A turn that fits the canvas to the turned photo."""
        return self.plan_for(size_hw, int(rng.choice(self.turns)))

    @staticmethod
    def plan_for(size_hw: tuple[int, int], turns: int) -> Affine:
        """The map of a number of clockwise quarter turns."""
        height, width = size_hw
        matrix, size = {
            0: ([[1, 0, 0], [0, 1, 0]], (height, width)),
            1: ([[0, -1, height], [1, 0, 0]], (width, height)),
            2: ([[-1, 0, width], [0, -1, height]], (height, width)),
            3: ([[0, 1, 0], [-1, 0, width]], (width, height)),
        }[turns % 4]
        return Affine(np.array(matrix), size)


class Compose:
    """Transforms one after another; neighbouring geometric ones cost one warp.

    Labels are clipped and dropped once, after the last of such a run, by the limits of its strictest member.

    Parameters
    ----------
    ops : sequence
        `Geometric` transforms and other callables ``op(image, labels, rng) -> (image, labels)``.
    """

    def __init__(self, ops: Sequence[Callable]):
        self.ops = list(ops)

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        """Image and labels after all transforms."""
        run: list[Geometric] = []
        for op in self.ops:
            if isinstance(op, Geometric):
                run.append(op)
                continue
            image, labels = self._apply(run, image, labels, rng)
            run = []
            image, labels = op(image, labels, rng)
        return self._apply(run, image, labels, rng)

    @staticmethod
    def _apply(
        run: list[Geometric], image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        if not run:
            return image, labels
        plan = Affine.identity(image.shape[:2])
        for op in run:
            plan = plan.then(op.plan(plan.size_hw, plan.labels(labels), rng))
        moved = keep_visible(
            plan.labels(labels),
            plan.size_hw,
            min_visible=max(op.min_visible for op in run),
            min_face=max(op.min_face for op in run),
        )
        return plan.warp(image, run[-1].fill), moved


def mosaic(tiles: Sequence[tuple[np.ndarray, FaceLabels]], rows: int, columns: int) -> tuple[np.ndarray, FaceLabels]:
    """Photos side by side on one canvas: faces get smaller, backgrounds more varied (MOS section 3.3 stitches four).

    Parameters
    ----------
    tiles : sequence of (image, labels)
        Row after row. The tiles of a row have one height, the tiles of a column one width.
    rows, columns : int
        Their product is the number of tiles.

    Returns
    -------
    (image, labels)
    """
    if len(tiles) != rows * columns:
        raise InputError(f"a mosaic of {rows} x {columns} needs {rows * columns} tiles, got {len(tiles)}")
    heights = [tiles[row * columns][0].shape[0] for row in range(rows)]
    widths = [tiles[column][0].shape[1] for column in range(columns)]
    canvas = np.empty((sum(heights), sum(widths), 3), np.uint8)
    parts = []
    for index, (image, labels) in enumerate(tiles):
        row, column = divmod(index, columns)
        if image.shape[:2] != (heights[row], widths[column]):
            raise InputError(
                f"tile {index} must be {heights[row]}x{widths[column]} (height x width) like its row and column, "
                f"got {image.shape[0]}x{image.shape[1]}"
            )
        y, x = sum(heights[:row]), sum(widths[:column])
        canvas[y : y + heights[row], x : x + widths[column]] = image
        shift = np.array([x, y], np.float32)
        parts.append(
            labels.with_(
                boxes=labels.boxes + np.tile(shift, 2),
                landmarks5=labels.landmarks5 + shift,
                landmarks=None if labels.landmarks is None else labels.landmarks + shift,
                mesh=None if labels.mesh is None else labels.mesh + np.append(shift, np.float32(0)),
            )
        )
    return canvas, concat_labels(parts)
