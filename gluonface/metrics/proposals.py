"""Recall of the best few detections of each photo. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .scoring import PhotoMatch

__all__ = ["recall_at_top"]


def recall_at_top(matches: Sequence[PhotoMatch], top: int = 100) -> float:
    """Share of faces that the `top` best-scored detections of their photo find (KPNet, Table 1: 100 proposals).

    Parameters
    ----------
    matches : sequence of PhotoMatch
        The first of their thresholds counts, 0.5 by default. Detections that were dropped have their places, too.
    top : int

    Returns
    -------
    float
        NaN without faces.

    Raises
    ------
    InputError
        `top` is below 1.
    """
    if top < 1:
        raise InputError(f"expected to take at least 1 detection of a photo, got {top}")
    faces = sum(len(match.face_sizes) for match in matches)
    # Better detections choose first, so the fate of the first ones does not depend on those that are left out.
    found = sum(int(np.sum(match.face_of[0, :top] >= 0)) for match in matches)
    return found / faces if faces else float("nan")
