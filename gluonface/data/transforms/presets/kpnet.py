"""What KPNet is trained on in its paper: whole photos, as prediction sees them, "none of the data augmentations"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....errors import InputError
from ....geometry import apply_letterbox, letterbox
from ...base import FaceLabels
from ..affine import Affine, keep_visible

__all__ = ["WholePhoto"]


@dataclass(frozen=True, kw_only=True)
class WholePhoto:
    """A photo fitted into a square at its top left, the rest black.

    Called as ``transform(image, labels, rng) -> (image, labels)``, as `RetinaFaceTrainTransform` is.

    Parameters
    ----------
    size : int
        Side of the result in pixels.
    min_face : float
        Faces smaller than this in the result, in pixels, are ignore regions.

    Raises
    ------
    InputError
        The size is below 32.
    """

    size: int = 256
    min_face: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 32:
            raise InputError(f"size must be at least 32 pixels, got {self.size}")

    def __call__(
        self,
        image: np.ndarray,
        labels: FaceLabels,
        rng: np.random.Generator,
        size_hw: tuple[int, int] | None = None,
    ) -> tuple[np.ndarray, FaceLabels]:
        """(size, size, 3) uint8 RGB, or (*size_hw, 3), and the labels in its pixels; nothing is random."""
        size_hw = (self.size, self.size) if size_hw is None else size_hw
        fitted = letterbox(image.shape[:2], size_hw)
        moved = Affine(np.column_stack([np.diag(fitted.scale_xy), fitted.offset_xy]), size_hw).labels(labels)
        return apply_letterbox(image, fitted), keep_visible(moved, size_hw, min_face=self.min_face)
