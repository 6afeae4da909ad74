"""Precision-recall curves and the area under them. NumPy only."""

from __future__ import annotations

import numpy as np

__all__ = ["average_precision", "precision_recall", "tie_ends"]


def tie_ends(descending: np.ndarray) -> np.ndarray:
    """Index of the last of each run of equal values.

    Parameters
    ----------
    descending : ndarray (N,)
        Sorted scores.

    Returns
    -------
    ndarray of int (n,)
        One index for each distinct score.
    """
    if not len(descending):
        return np.zeros(0, np.int64)
    return np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(descending) - 1)


def precision_recall(scores: np.ndarray, hits: np.ndarray, num_faces: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve of a set of detections, one point for each distinct score.

    Detections of equal score enter together, so the curve depends neither on the order of the photos nor on the sort.

    Parameters
    ----------
    scores : ndarray (N,)
        In any order.
    hits : ndarray of bool (N,)
        True where the detection found a face that no other one found.
    num_faces : int
        Faces there are to find.

    Returns
    -------
    thresholds, recall, precision : ndarray (n,)
        Thresholds descend, recall never falls. Recall is NaN when there are no faces.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    scores, hits = np.asarray(scores)[order], np.asarray(hits, bool)[order]
    ends = tie_ends(scores)
    found = np.cumsum(hits)[ends]
    recall = found / num_faces if num_faces else np.full(len(ends), np.nan)
    return scores[ends], recall, found / (ends + 1)


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the interpolated precision-recall curve, all points (PASCAL VOC 2010 and later, WIDER FACE).

    The precision at a recall is the best one at that recall or beyond; from the last point of the curve to recall 1 it is 0.

    Parameters
    ----------
    recall, precision : ndarray (n,)
        In the order of falling thresholds: recall does not fall.

    Returns
    -------
    float
        0 for an empty curve, NaN when the recall is.
    """
    envelope = np.maximum.accumulate(np.asarray(precision, float)[::-1])[::-1]
    return float(np.sum(np.diff(np.asarray(recall, float), prepend=0.0) * envelope))
