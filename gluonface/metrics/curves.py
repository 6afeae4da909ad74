"""Precision-recall curves and the area under them. NumPy only."""

from __future__ import annotations

import numpy as np

__all__ = ["average_precision", "counts_by_score", "tie_ends"]


def tie_ends(values: np.ndarray) -> np.ndarray:
    """Index (n,) of the last of each run of equal values (N,)."""
    if not len(values):
        return np.zeros(0, np.int64)
    return np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)


def counts_by_score(scores: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many detections are taken, and how many of them are right, as the score threshold falls.

    Detections of equal score enter together, so nothing depends on the order of the photos or on the sort.

    Parameters
    ----------
    scores : ndarray (N,)
        In any order.
    hits : ndarray of bool (N,)
        True where the detection took a face.

    Returns
    -------
    thresholds : ndarray (n,)
        The distinct scores, highest first.
    taken, right : ndarray of int (n,)
        Detections of at least that score, and hits among them.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    scores, hits = np.asarray(scores)[order], np.asarray(hits, bool)[order]
    ends = tie_ends(scores)
    return scores[ends], ends + 1, np.cumsum(hits)[ends]


def average_precision(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Area under the interpolated precision-recall curve, all points (PASCAL VOC 2010 and later, WIDER FACE).

    The precision at a recall is the best one at that recall or beyond; past the last point of the curve it is 0.

    Parameters
    ----------
    recall, precision : ndarray (..., n)
        In the order of falling thresholds: recall does not fall.

    Returns
    -------
    ndarray (...) or float64
        0 for an empty curve.
    """
    envelope = np.maximum.accumulate(np.asarray(precision, float)[..., ::-1], axis=-1)[..., ::-1]
    return np.sum(np.diff(np.asarray(recall, float), prepend=0.0, axis=-1) * envelope, axis=-1)
