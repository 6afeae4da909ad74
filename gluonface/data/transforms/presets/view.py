"""What random views of photos for the training of detectors share: one warp, what becomes of the labels, colours."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....errors import InputError
from ...base import FaceLabels
from ..affine import Affine, keep_visible
from ..colour import Degrade, PhotometricDistort, random_fill


@dataclass(frozen=True, kw_only=True)
class TrainView(ABC):
    """A random view of a photo, of fixed size, made with one warp; where it lies is for those who derive from this.

    Called as ``transform(image, labels, rng) -> (image, labels)``: (size, size, 3) uint8 RGB, labels in its pixels,
    boxes clipped, faces that cannot be learnt turned into ignore regions.

    Parameters
    ----------
    size : int
        Side of the result in pixels.
    min_face, max_face : float
        Smaller and larger faces in the result, in pixels (square root of the whole box's area), are ignore regions.
    min_visible : float
        So are faces of which less than this share is inside.
    flip_prob : float
        Of mirroring.
    photometric : callable or None
        Colours, called as ``op(image, labels, rng)``; brightness, contrast, saturation and hue by default.
    degrade : callable or None
        Image quality, called the same way; None by default, see `Degrade`.
    fill : (int, int, int) or "random"
        Colour outside the photo. "random": black, as prediction pads, in half of the views, else a random colour, so
        that the network does not take black for the sign of an edge.

    Raises
    ------
    InputError
        A number is out of range.
    """

    size: int = 640
    min_face: float = 8.0
    max_face: float = math.inf
    min_visible: float = 0.4
    flip_prob: float = 0.5
    photometric: Any = field(default_factory=PhotometricDistort)
    degrade: Degrade | None = None
    fill: tuple[int, int, int] | str = "random"

    def __post_init__(self) -> None:
        check_shares(self, "flip_prob", "min_visible")
        if self.size < 32:
            raise InputError(f"size must be at least 32 pixels, got {self.size}")
        if not 0 <= self.min_face < self.max_face:
            raise InputError(f"min_face must be at least 0 and below max_face, got {self.min_face} and {self.max_face}")
        if isinstance(self.fill, str) and self.fill != "random":
            raise InputError(f'fill must be a colour (r, g, b) or "random", got {self.fill!r}')

    def __call__(
        self,
        image: np.ndarray,
        labels: FaceLabels,
        rng: np.random.Generator,
        size_hw: tuple[int, int] | None = None,
    ) -> tuple[np.ndarray, FaceLabels]:
        """One view.

        Parameters
        ----------
        image : (H, W, 3) uint8 RGB
        labels : FaceLabels
        rng : numpy.random.Generator
        size_hw : (int, int), optional
            Another size of the result: a tile of a mosaic. What is drawn shrinks with it.

        Returns
        -------
        ((h, w, 3) uint8, FaceLabels)
        """
        plan = self.plan(image.shape[:2], labels, rng, size_hw)
        view = plan.warp(image, random_fill(rng) if self.fill == "random" else self.fill)
        visible = {"min_visible": self.min_visible, "min_face": self.min_face, "max_face": self.max_face}
        seen = keep_visible(plan.labels(labels), plan.size_hw, **visible)
        for op in (self.photometric, self.degrade):
            if op is not None:
                view, seen = op(view, seen, rng)
        return view, seen

    @abstractmethod
    def plan(
        self,
        photo_hw: tuple[int, int],
        labels: FaceLabels,
        rng: np.random.Generator,
        size_hw: tuple[int, int] | None = None,
    ) -> Affine:
        """Where the view lies on the photo."""


def check_shares(view: TrainView, *names: str) -> None:
    """Refuse attributes that are no shares."""
    for name in names:
        if not 0 <= getattr(view, name) <= 1:
            raise InputError(f"{name} must be between 0 and 1, got {getattr(view, name)}")
