"""How good detections are: average precision, recall, by face size, five-point error. NumPy only.

In each photo the detections, best score first, take the face they overlap most among those still free; each face is taken
once. A detection that takes no face is dropped, neither right nor wrong, when at least half of its area lies on one ignore
region; otherwise it is a false alarm.

Letters: N detections and M labelled faces of one photo, R ignore regions, T thresholds of the intersection over union.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import InputError
from ..geometry import box_area, box_ioa, box_iou
from .curves import average_precision, precision_recall

__all__ = [
    "IOU_THRESHOLDS",
    "SIZE_BINS",
    "Detections",
    "Labels",
    "PhotoMatch",
    "evaluate_detections",
    "match_photo",
    "match_photos",
    "operating_point",
    "summarize",
]

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))

#: Name, least and largest (not reached) size of a face: sqrt(width x height) of its box, in pixels of the stored photo. Not
#: of the canvas the network sees: so the same faces are in a bin at every input size and for every detector, and detections
#: from a file, of which no canvas is known, can be scored.
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
        Where a human set the five points.
    point_error : ndarray (M,)
        Mean distance of the five points over the face's size, at the first threshold; NaN where nothing was compared.
    """

    scores: np.ndarray
    sizes: np.ndarray
    face_of: np.ndarray
    face_sizes: np.ndarray
    has_points: np.ndarray
    point_error: np.ndarray


def match_photo(
    detections: Detections, labels: Labels, iou_thresholds: Sequence[float] = IOU_THRESHOLDS
) -> PhotoMatch:
    """Compare the detections of one photo with its labels.

    Parameters
    ----------
    detections : Detections
        ``boxes`` (N, 4) xyxy, ``scores`` (N,) in any order, ``landmarks5`` (N, 5, 2) or None.
    labels : Labels
        In the same pixels: ``boxes`` (M + R, 4), ``ignore`` of bool (M + R,), ``landmarks5`` (M + R, 5, 2) with NaN where
        unknown, ``landmarks5_human`` of bool (M + R,).
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
    has_points = np.asarray(labels.landmarks5_human, bool)[~ignore] & np.isfinite(points).all(axis=(1, 2))
    point_error = np.full(len(faces), np.nan)
    if detections.landmarks5 is not None and len(boxes):
        found = np.asarray(detections.landmarks5)[order]
        for n, m in enumerate(face_of[0]):
            if m >= 0 and has_points[m]:
                point_error[m] = np.linalg.norm(found[n] - points[m], axis=1).mean() / face_sizes[m]
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
        ``photos`` and ``faces`` counted; ``ap50``, average precision at an intersection over union of 0.5; ``ap``, its mean
        over .5:.05:.95; ``recall_at_1fppi``, see :func:`operating_point`; ``by_size``, for each of :data:`SIZE_BINS` its
        ``faces``, ``ap50``, ``recall`` (at any score) and ``recall_at_1fppi`` (at the score threshold of the whole set);
        ``nme5``, mean distance of the five points over the face's size, over the ``nme5_faces`` faces that were found and
        whose points are human; ``nme5_missed``, how many such faces were not found. NaN where there is nothing to count.

        In a size bin, faces of other bins count as ignore regions do: a detection that took one is dropped, and so is a
        false alarm whose own size lies outside the bin.
    """
    scores, sizes, photo = _joined(matches)
    face_of = np.concatenate([m.face_of for m in matches], axis=1) if matches else np.zeros((len(IOU_THRESHOLDS), 0), int)
    num_faces = sum(len(m.face_sizes) for m in matches)
    ap = [_ap(scores, row, num_faces) for row in face_of]
    threshold, recall = operating_point(scores, face_of[0], num_faces, len(matches))
    errors = np.concatenate([np.zeros(0), *[m.point_error[m.has_points] for m in matches]])
    compared = np.isfinite(errors)
    return {
        "photos": len(matches),
        "faces": num_faces,
        "ap50": ap[0],
        "ap": float(np.mean(ap)),
        "recall_at_1fppi": recall,
        "score_at_1fppi": threshold,
        "by_size": _by_size(matches, scores, sizes, photo, face_of[0], threshold),
        "nme5": float(errors[compared].mean()) if compared.any() else float("nan"),
        "nme5_faces": int(compared.sum()),
        "nme5_missed": int((~compared).sum()),
    }


def _joined(matches: Sequence[PhotoMatch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, sizes and photo number of the detections of all photos."""
    scores = np.concatenate([np.zeros(0, np.float32), *[m.scores for m in matches]])
    sizes = np.concatenate([np.zeros(0, np.float32), *[m.sizes for m in matches]])
    return scores, sizes, np.repeat(np.arange(len(matches)), [len(m.scores) for m in matches])


def _ap(scores: np.ndarray, face_of: np.ndarray, num_faces: int) -> float:
    if not num_faces:
        return float("nan")
    counted = face_of != _DROPPED
    _, recall, precision = precision_recall(scores[counted], face_of[counted] >= 0, num_faces)
    return average_precision(recall, precision)


def operating_point(
    scores: np.ndarray, face_of: np.ndarray, num_faces: int, num_photos: int, fppi: float = 1.0
) -> tuple[float, float]:
    """The lowest score threshold with at most ``fppi`` false alarms per photo, over the whole set.

    Parameters
    ----------
    scores : ndarray (N,)
    face_of : ndarray of int (N,)
        As in :class:`PhotoMatch`, at one threshold.
    num_faces, num_photos : int
    fppi : float

    Returns
    -------
    threshold, recall : float
        Detections of at least this score are taken. NaN and 0 when even the best score has too many false alarms or
        nothing was detected; the recall is NaN without faces.
    """
    counted = face_of != _DROPPED
    thresholds, recall, precision = precision_recall(scores[counted], face_of[counted] >= 0, num_faces)
    ranks = np.searchsorted(-np.sort(-scores[counted]), -thresholds, side="right") if False else None
    del ranks, precision
    raise NotImplementedError
