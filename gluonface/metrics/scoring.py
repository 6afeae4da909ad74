"""How good detections are: average precision, recall, by face size, five-point error. NumPy only.

In each photo the detections, best score first, take the face they overlap most among those still free; each face is
taken once. A detection that takes no face is dropped, neither right nor wrong, when at least half of its area lies on
one ignore region; otherwise it is a false alarm.

Letters: N detections and M labelled faces of one photo, R ignore regions, T thresholds of the intersection over union.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import InputError
from ..geometry import box_area, box_ioa, box_iou
from .curves import average_precision, counts_by_score

__all__ = [
    "IOU_THRESHOLDS",
    "SIZE_BINS",
    "Detections",
    "Labels",
    "PhotoMatch",
    "evaluate_detections",
    "match_photo",
    "match_photos",
    "precision_recall",
    "summarize",
]

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))

#: Name, least and largest (not reached) size of a face: sqrt(width x height) of its box, in pixels of the stored photo.
#: Not of the canvas the network sees: so the same faces are in a bin at every input size and for every detector, and
#: detections from a file, of which no canvas is known, can be scored.
SIZE_BINS = (("under 16", 0, 16), ("16-32", 16, 32), ("32-96", 32, 96), ("over 96", 96, np.inf))

_IGNORE_OVERLAP = 0.5
_UNMATCHED, _DROPPED = -1, -2


class Detections(Protocol):
    """What is read of a photo's detections; :class:`gluonface.Faces` has it."""

    boxes: np.ndarray
    scores: np.ndarray
    landmarks5: np.ndarray | None


class Labels(Protocol):
    """What is read of a photo's labels; :class:`gluonface.data.base.FaceLabels` has it."""

    boxes: np.ndarray
    ignore: np.ndarray
    landmarks5: np.ndarray
    landmarks5_human: np.ndarray


@dataclass(frozen=True)
class PhotoMatch:
    """What became of the detections of one photo.

    Attributes
    ----------
    scores : ndarray (N,)
        Best first.
    sizes : ndarray (N,)
        sqrt(width x height) of the detected boxes.
    face_of : ndarray of int (T, N)
        At each threshold the face a detection took, -1 for a false alarm, -2 where it was dropped.
    face_sizes : ndarray (M,)
        sqrt(width x height) of the faces (ignore regions are not among them).
    has_points : ndarray of bool (M,)
        Where a human set the five points, or some of them.
    point_error : ndarray (M,)
        Mean distance of the known points over the face's size, at the first threshold; NaN where nothing was compared.
    """

    scores: np.ndarray
    sizes: np.ndarray
    face_of: np.ndarray
    face_sizes: np.ndarray
    has_points: np.ndarray
    point_error: np.ndarray


def match_photo(detections: Detections, labels: Labels, iou_thresholds: Sequence[float] = IOU_THRESHOLDS) -> PhotoMatch:
    """Compare the detections of one photo with its labels.

    Parameters
    ----------
    detections : Detections
        ``boxes`` (N, 4) xyxy, ``scores`` (N,) in any order, ``landmarks5`` (N, 5, 2) or None.
    labels : Labels
        In the same pixels: ``boxes`` (M + R, 4), ``ignore`` of bool (M + R,), ``landmarks5`` (M + R, 5, 2) with NaN
        where unknown, ``landmarks5_human`` of bool (M + R,).
    iou_thresholds : sequence of float (T,)

    Raises
    ------
    InputError
        Arrays do not fit one another, or a score is NaN.
    """
    boxes, scores = np.asarray(detections.boxes).reshape(-1, 4), np.asarray(detections.scores).reshape(-1)
    if len(boxes) != len(scores) or np.isnan(scores).any():
        raise InputError(f"expected a score that is a number for each of {len(boxes)} boxes, got {scores.shape} scores")
    ignore = np.asarray(labels.ignore, bool)
    label_boxes = np.asarray(labels.boxes).reshape(-1, 4)
    if len(ignore) != len(label_boxes):
        raise InputError(f"expected an ignore flag for each of {len(label_boxes)} labels, got {len(ignore)}")
    faces, regions = label_boxes[~ignore], label_boxes[ignore]

    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    overlap = box_iou(boxes, faces)
    face_of = np.stack([_match(overlap, threshold) for threshold in iou_thresholds])
    on_region = (box_ioa(boxes, regions) >= _IGNORE_OVERLAP).any(axis=1)
    face_of[(face_of == _UNMATCHED) & on_region] = _DROPPED

    face_sizes = np.sqrt(box_area(faces))
    points = np.asarray(labels.landmarks5)[~ignore]
    has_points = np.asarray(labels.landmarks5_human, bool)[~ignore] & np.isfinite(points).all(axis=2).any(axis=1)
    point_error = np.full(len(faces), np.nan)
    if detections.landmarks5 is not None and len(boxes):
        found = np.asarray(detections.landmarks5)[order]
        for n, m in enumerate(face_of[0]):
            if m >= 0 and has_points[m]:
                point_error[m] = np.nanmean(np.linalg.norm(found[n] - points[m], axis=1)) / face_sizes[m]
    return PhotoMatch(scores, np.sqrt(box_area(boxes)), face_of, face_sizes, has_points, point_error)


def _match(overlap: np.ndarray, threshold: float) -> np.ndarray:
    """The face (N,) each detection takes, rows of overlap (N, M) in order; -1 for none."""
    face_of = np.full(len(overlap), _UNMATCHED)
    if not overlap.size:
        return face_of
    free = overlap.copy()
    for n in np.flatnonzero(overlap.max(axis=1) >= threshold):
        m = free[n].argmax()
        if free[n, m] >= threshold:
            face_of[n] = m
            free[:, m] = -1
    return face_of


def match_photos(detections: Iterable[Detections], labels: Iterable[Labels]) -> list[PhotoMatch]:
    """:func:`match_photo` of each photo at :data:`IOU_THRESHOLDS`.

    Raises
    ------
    InputError
        There are not as many detections as labels, or one pair does not fit; the message says which.
    """
    detections, labels = list(detections), list(labels)
    if len(detections) != len(labels):
        raise InputError(f"expected the detections of {len(labels)} photos, got those of {len(detections)}")
    matches = []
    for i, pair in enumerate(zip(detections, labels)):
        try:
            matches.append(match_photo(*pair))
        except InputError as error:
            raise InputError(f"photo {i}: {error}") from error
    return matches


def evaluate_detections(detections: Iterable[Detections], labels: Iterable[Labels]) -> dict:
    """Score detections against labels, photo by photo; see :func:`match_photo` and :func:`summarize`.

    Examples
    --------
    >>> analyzer = gluonface.FaceAnalyzer(score_thresh=0.02)
    >>> result = evaluate_detections(analyzer(paths), [sample.faces for sample in samples])
    >>> result["ap50"]

    """
    return summarize(match_photos(detections, labels))


def summarize(matches: Sequence[PhotoMatch]) -> dict:
    """Figures of a set of photos.

    Parameters
    ----------
    matches : sequence of PhotoMatch
        At :data:`IOU_THRESHOLDS`.

    Returns
    -------
    dict
        ``photos`` and ``faces`` counted; ``ap50``, average precision at an intersection over union of 0.5; ``ap``, its
        mean over .5:.05:.95; ``recall_at_1fppi``, the recall at the lowest score threshold with at most one false alarm
        a photo over the whole set, and that threshold, ``score_at_1fppi``; ``by_size``, for each of :data:`SIZE_BINS`
        its ``faces``, ``ap50``, ``recall`` (at any score) and ``recall_at_1fppi`` (at the threshold of the whole set);
        ``nme5``, mean distance of the five points over the face's size, over the ``nme5_faces`` faces that were found
        and whose points are human; ``nme5_missed``, how many such faces were not found. NaN where there is nothing to
        count.

        In a size bin the faces of other bins are what ignore regions are elsewhere: a detection that took one is
        dropped, and so is a false alarm whose own size lies outside the bin.
    """
    found = _Pool.of(matches)
    faces = np.concatenate([np.zeros(0), *[m.face_sizes for m in matches]])
    ap = [found.ap(t, found.counted[t], len(faces)) for t in range(len(IOU_THRESHOLDS))]
    threshold = found.score_at_false_alarms(len(matches))
    errors = np.concatenate([np.zeros(0), *[m.point_error[m.has_points] for m in matches]])
    compared = np.isfinite(errors)
    return {
        "photos": len(matches),
        "faces": len(faces),
        "ap50": ap[0],
        "ap": float(np.mean(ap)),
        "recall_at_1fppi": _ratio(np.sum(found.hit[0] & (found.scores >= threshold)), len(faces)),
        "score_at_1fppi": threshold,
        "by_size": {name: _in_bin(found, faces, low, high, threshold) for name, low, high in SIZE_BINS},
        "nme5": _ratio(errors[compared].sum(), compared.sum()),
        "nme5_faces": int(compared.sum()),
        "nme5_missed": int((~compared).sum()),
    }


def precision_recall(matches: Sequence[PhotoMatch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve at an intersection over union of 0.5.

    Returns
    -------
    thresholds, recall, precision : ndarray (n,)
        One point for each distinct score, highest first.
    """
    found = _Pool.of(matches)
    counted = found.counted[0]
    thresholds, taken, right = counts_by_score(found.scores[counted], found.hit[0, counted])
    num_faces = sum(len(m.face_sizes) for m in matches)
    return thresholds, right / max(num_faces, 1), right / taken


@dataclass(frozen=True)
class _Pool:
    """All photos' N detections: ``hit`` and ``counted`` are (T, N), ``size`` is that of the face taken or their own."""

    scores: np.ndarray
    size: np.ndarray
    hit: np.ndarray
    counted: np.ndarray

    @classmethod
    def of(cls, matches: Sequence[PhotoMatch]) -> _Pool:
        empty = np.zeros((len(IOU_THRESHOLDS), 0), int)
        face_of = np.concatenate([empty, *[m.face_of for m in matches]], axis=1)
        sizes = []
        for m in matches:
            size, took = m.sizes.astype(float), m.face_of[0] >= 0
            size[took] = m.face_sizes[m.face_of[0][took]]
            sizes.append(size)
        scores = np.concatenate([np.zeros(0, np.float32), *[m.scores for m in matches]])
        return cls(scores, np.concatenate([np.zeros(0), *sizes]), face_of >= 0, face_of != _DROPPED)

    def ap(self, t: int, chosen: np.ndarray, num_faces: int) -> float:
        """Average precision at threshold t of the chosen detections, a mask (N,)."""
        if not num_faces:
            return float("nan")
        _, taken, right = counts_by_score(self.scores[chosen], self.hit[t, chosen])
        return float(average_precision(right / num_faces, right / taken))

    def score_at_false_alarms(self, most: int) -> float:
        """The lowest score at which at most that many detections are false alarms; infinite when there is none."""
        chosen = self.counted[0]
        thresholds, taken, right = counts_by_score(self.scores[chosen], self.hit[0, chosen])
        allowed = np.flatnonzero(taken - right <= most)
        return float(thresholds[allowed[-1]]) if len(allowed) else float("inf")


def _in_bin(found: _Pool, faces: np.ndarray, low: float, high: float, threshold: float) -> dict:
    num_faces = int(np.sum((faces >= low) & (faces < high)))
    chosen = found.counted[0] & (found.size >= low) & (found.size < high)
    hits = found.hit[0] & chosen
    return {
        "faces": num_faces,
        "ap50": found.ap(0, chosen, num_faces),
        "recall": _ratio(hits.sum(), num_faces),
        "recall_at_1fppi": _ratio(np.sum(hits & (found.scores >= threshold)), num_faces),
    }


def _ratio(part: float, whole: int) -> float:
    return float(part / whole) if whole else float("nan")
