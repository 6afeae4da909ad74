"""What MaskFace is trained on (section 3.3 of the paper): WIDER FACE for detection, then AFLW or 300-W for landmarks.

photo -> `MaskFaceTrainTransform` or `MaskFaceLandmarkTransform` -> (size, size, 3) uint8 and labels, with one warp;
`RetinaFaceSamples` makes an epoch of them. The test presets are RetinaFace's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from ....errors import InputError
from ....geometry import rotation_matrix_about
from ...base import FaceLabels
from ..affine import Affine
from ..ops import Flip, random_window, window_with_face
from .retinaface import load_test, transform_test
from .view import TrainView, check_shares

__all__ = ["MaskFaceLandmarkTransform", "MaskFaceTrainTransform", "load_test", "transform_test"]

#: Faces that are learnt, in pixels of the view (square root of the box's area): areas of .4 of the smallest anchor's,
#: 16x16, to 2.5 of the largest one's, 406x406.
MIN_FACE, MAX_FACE = math.sqrt(0.4) * 16, math.sqrt(2.5) * 256 * 2 ** (2 / 3)


@dataclass(frozen=True, kw_only=True)
class _View(TrainView):
    """A window on a photo, then mirrored or not.

    Every face has its best anchors, however little they overlap it, and what these would learn from faces that are too
    small or too large is harmful; so those are ignore regions. (The paper removes them: they would be background.)
    """

    min_face: float = MIN_FACE
    max_face: float = MAX_FACE

    def plan(
        self,
        photo_hw: tuple[int, int],
        labels: FaceLabels,
        rng: np.random.Generator,
        size_hw: tuple[int, int] | None = None,
    ) -> Affine:
        """Where the view lies on the photo."""
        size_hw = (self.size, self.size) if size_hw is None else size_hw
        window = self._window(photo_hw, labels, rng, size_hw)
        return window.then(Flip(prob=self.flip_prob).plan(size_hw, labels, rng))

    @abstractmethod
    def _window(
        self, photo_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator, size_hw: tuple[int, int]
    ) -> Affine:
        """The same before mirroring."""


@dataclass(frozen=True, kw_only=True)
class MaskFaceTrainTransform(_View):
    """Views for detection: the photo at a random scale, and a crop of it.

    Parameters
    ----------
    scales : (float, float)
        The scale is drawn evenly from this range.
    face_prob : float
        Share of the crops that hold a random face whole, at a random place, one that is learnt at this scale; the
        others lie anywhere, as do all where there is no such face.
    size, min_face, max_face, min_visible, flip_prob, photometric, degrade, fill
        See `TrainView`.
    """

    scales: tuple[float, float] = (0.5, 2.5)
    face_prob: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "face_prob")
        _check_range("scales", self.scales)

    def _window(self, photo_hw, labels, rng, size_hw) -> Affine:
        scale = rng.uniform(*self.scales) * max(size_hw) / self.size
        sizes = labels.face_sizes * scale
        faces = np.flatnonzero(~labels.ignore & (sizes >= self.min_face) & (sizes <= self.max_face))
        if len(faces) and rng.uniform() < self.face_prob:
            face = labels[[int(rng.choice(faces))]]
            return window_with_face(np.eye(2) * scale, photo_hw, face, size_hw, rng)
        return random_window(np.eye(2) * scale, photo_hw, size_hw, rng)


@dataclass(frozen=True, kw_only=True)
class MaskFaceLandmarkTransform(_View):
    """Views for landmarks: a random face of the photo, one with points if there is one, at a random size and turned.

    The crop holds this face whole, at a random place: one without the face would teach no points. A photo without faces
    gives a crop of its short side.

    Parameters
    ----------
    face_range : (float, float)
        The face's size in pixels (square root of the box's area, before the turn) is drawn evenly from this range.
    max_degrees : float
        So is its turn, by up to this angle to either side.
    size, min_face, max_face, min_visible, flip_prob, photometric, degrade, fill
        See `TrainView`; 480 pixels.
    """

    size: int = 480
    face_range: tuple[float, float] = (150.0, 450.0)
    max_degrees: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("face_range", self.face_range)

    def _window(self, photo_hw, labels, rng, size_hw) -> Affine:
        turn = rng.uniform(-self.max_degrees, self.max_degrees)
        drawn = rng.uniform(*self.face_range) * max(size_hw) / self.size
        faces = ~labels.ignore & (labels.face_sizes > 0)
        with_points = faces & _have_points(labels)
        faces = np.flatnonzero(with_points if with_points.any() else faces)
        if not len(faces):
            linear = rotation_matrix_about((0, 0), turn, max(size_hw) / min(photo_hw))[:, :2]
            return random_window(linear, photo_hw, size_hw, rng)
        face = labels[[int(rng.choice(faces))]]
        linear = rotation_matrix_about((0, 0), turn, drawn / float(face.face_sizes[0]))[:, :2]
        return window_with_face(linear, photo_hw, face, size_hw, rng)


def _check_range(name: str, values: tuple[float, float]) -> None:
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise InputError(f"{name} must be two positive numbers, the smaller one first, got {values}")


def _have_points(labels: FaceLabels) -> np.ndarray:
    """Which faces (M,) have a known point of any scheme."""
    known = np.isfinite(labels.landmarks5).all(axis=2).any(axis=1)
    if labels.landmarks is not None:
        known |= np.isfinite(labels.landmarks).all(axis=2).any(axis=1)
    return known
