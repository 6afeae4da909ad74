"""How far predicted landmarks lie from labelled ones. NumPy only.

Letters: N faces, K landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import InputError
from ..faces import SCHEMES, Scheme
from ..geometry import box_area, box_iou

__all__ = [
    "NORMS",
    "LandmarkScores",
    "area_under_ced",
    "best_proposals",
    "ced_curve",
    "closest_proposals",
    "evaluate_landmarks",
    "label_sizes",
    "normalisers",
    "point_errors",
    "scored_faces",
]

#: What distances are divided by, see `normalisers`.
NORMS = ("interocular", "interpupil", "box", "face_size")


class Labels(Protocol):
    """What is read of labelled faces; :class:`gluonface.data.base.FaceLabels` has it."""

    boxes: np.ndarray
    ignore: np.ndarray
    landmarks: np.ndarray | None
    scheme: str | None
    attributes: list[dict]


def scored_faces(labels: Labels) -> np.ndarray:
    """Indices (n,) of the faces that predictions can be compared with: not ignored, a point labelled at least."""
    if labels.landmarks is None:
        return np.zeros(0, np.int64)
    known = np.isfinite(labels.landmarks).all(axis=2).any(axis=1)
    return np.flatnonzero(known & ~np.asarray(labels.ignore, bool))


def label_sizes(norm: str, labels: Labels) -> np.ndarray:
    """`normalisers` (M,) of labelled faces; "face_size" reads the number ``face_size`` among their attributes."""
    given = np.array([face.get("face_size", np.nan) for face in labels.attributes], np.float64)
    return normalisers(norm, labels.landmarks, labels.scheme, labels.boxes, given)


def normalisers(
    norm: str,
    truth: np.ndarray,
    scheme: str,
    boxes: np.ndarray | None = None,
    face_sizes: np.ndarray | None = None,
) -> np.ndarray:
    """What distances are divided by, (N,) float64 in pixels.

    Parameters
    ----------
    norm : str
        "interocular" : between the outer corners of the eyes (300-W, WFLW, COFW).
        "interpupil" : between the eyes' centres, the means of their points.
        "box" : sqrt(width x height) of the labelled box (JD-landmark; the paper's tables).
        "face_size" : what the data set gives as the face's size (AFLW); where it gives none, sqrt(width x height) of
        the rectangle round the landmarks.
    truth : ndarray (N, K, 2)
    scheme : str
        Key of `gluonface.faces.SCHEMES`.
    boxes : ndarray (N, 4), optional
    face_sizes : ndarray (N,), optional
        NaN where not given.

    Raises
    ------
    InputError
        Unknown norm or scheme, "box" without boxes, arrays that do not fit, or a face whose normaliser is unknown or
        not positive.
    """
    facts = _scheme(scheme)
    truth = np.asarray(truth, np.float64)
    if truth.ndim != 3 or truth.shape[1:] != (facts.num_points, 2):
        raise InputError(f"expected labelled points of shape (N, {facts.num_points}, 2), got {truth.shape}")
    for what, array in (("boxes", boxes), ("face_sizes", face_sizes)):
        if array is not None and len(array) != len(truth):
            raise InputError(f"expected {what} of {len(truth)} faces, got {len(array)}")
    if norm == "interocular":
        left, right = facts.eye_corners
        sizes = np.linalg.norm(truth[:, left] - truth[:, right], axis=-1)
    elif norm == "interpupil":
        five = facts.five_points(truth)
        sizes = np.linalg.norm(five[:, 0] - five[:, 1], axis=-1)
    elif norm == "box":
        if boxes is None:
            raise InputError('norm "box" needs the labelled boxes')
        sizes = np.sqrt(box_area(np.asarray(boxes, np.float64).reshape(-1, 4)))
    elif norm == "face_size":
        known = np.isfinite(truth).all(axis=2, keepdims=True)
        spread = np.where(known, truth, -np.inf).max(axis=1) - np.where(known, truth, np.inf).min(axis=1)
        sizes = np.sqrt(np.where(known.any(axis=1), spread, 0).prod(axis=1))
        if face_sizes is not None:
            face_sizes = np.asarray(face_sizes, np.float64)
            sizes = np.where(np.isfinite(face_sizes), face_sizes, sizes)
    else:
        raise InputError(f"expected a norm among {', '.join(NORMS)}, got {norm!r}")
    wrong = np.flatnonzero(~(sizes > 0))
    if wrong.size:
        raise InputError(
            f"norm {norm!r} is {sizes[wrong[0]]} for face {wrong[0]} of {len(sizes)} ({wrong.size} such faces): "
            "points it needs are not labelled or lie in one place; take another norm"
        )
    return sizes


def _scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        raise InputError(f"expected a scheme among {', '.join(SCHEMES)}, got {name!r}")
    return SCHEMES[name]


def best_proposals(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, iou: float) -> np.ndarray:
    """Which detection stands for each labelled face: the most confident of those that overlap it by more than ``iou``
    (MaskFace, sections 4.2 and 4.3).

    Parameters
    ----------
    boxes : ndarray (N, 4)
    scores : ndarray (N,)
    truth : ndarray (M, 4)
        Labelled boxes.
    iou : float
        Intersection over union; the paper takes 0.3 for whole photos, 0.4 for single faces.

    Returns
    -------
    ndarray (M,) of int
        Rows of ``boxes``, -1 for a face that was missed. Faces that lie over one another can have the same.
    """
    best_first = np.argsort(-np.asarray(scores), kind="stable")
    fits = box_iou(truth, np.asarray(boxes)[best_first]) > iou
    if not fits.any():
        return np.full(len(fits), -1)
    return np.where(fits.any(axis=1), best_first[fits.argmax(axis=1)], -1)


def closest_proposals(boxes: np.ndarray, truth: np.ndarray, iou: float = 0.5) -> np.ndarray:
    """Which detection lies on each labelled face: the largest overlap first, each face and each detection once.

    Parameters
    ----------
    boxes : ndarray (N, 4)
    truth : ndarray (M, 4)
        Labelled boxes.
    iou : float
        The least intersection over union.

    Returns
    -------
    ndarray (M,) of int
        Rows of ``boxes``, -1 for a face that was missed.
    """
    overlap, rows = box_iou(truth, boxes), np.full(len(truth), -1)
    while overlap.size and overlap.max() >= iou:
        label, row = np.unravel_index(overlap.argmax(), overlap.shape)
        rows[label] = row
        overlap[label], overlap[:, row] = -1, -1
    return rows


def point_errors(predicted: np.ndarray, truth: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Distances (N, K) as fractions of the normalisers (N,); NaN where a point is not labelled."""
    distances = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(truth, np.float64), axis=-1)
    return distances / np.asarray(sizes, np.float64)[:, None]


def ced_curve(errors: np.ndarray, limit: float = 0.08, steps: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative error distribution: thresholds (steps + 1,) up to a limit and the share of faces at most that far off.

    Parameters
    ----------
    errors : ndarray (N,)
        NME of each face, a fraction; inf for a face that was missed.
    """
    thresholds = np.linspace(0, limit, steps + 1)
    errors = np.sort(np.asarray(errors, np.float64))
    return thresholds, np.searchsorted(errors, thresholds, side="right") / max(1, len(errors))


def area_under_ced(errors: np.ndarray, limit: float = 0.08) -> float:
    """Area under the CED curve up to a limit, as a share of the limit: 1 is perfect, NaN without faces.

    Exact, the step curve itself and no sum over thresholds: a face of error e adds what lies to the right of e.
    """
    errors = np.asarray(errors, np.float64)
    return float(np.clip(1 - errors / limit, 0, None).mean()) if len(errors) else float("nan")


@dataclass(frozen=True)
class LandmarkScores:
    """What `evaluate_landmarks` found; fractions of the normaliser throughout.

    Attributes
    ----------
    nme : float
        Mean over the faces that were found of their mean error over labelled points.
    auc : float
        Area under the CED curve up to ``threshold``, 1 is perfect; a missed face counts as infinitely far off.
    failure_rate : float
        Share of faces, missed ones among them, with an NME above ``threshold``.
    threshold : float
    ced_95 : float
        NME within which 95 % of all faces lie, missed ones among them (CED@0.95 of MaskFace, Table 5); inf where more
        than 5 % were missed.
    percentiles : dict of str to float
        NME at the 90th, 95th and 99th percentile of the faces that were found.
    groups : dict of str to float
        Mean error over the labelled points of each group of the scheme, NaN where there are none.
    faces, missed : int
        All faces, and those among them that were missed.
    errors : ndarray (faces,)
        NME of each face, inf for a missed one.
    """

    nme: float
    auc: float
    failure_rate: float
    threshold: float
    ced_95: float
    percentiles: dict
    groups: dict
    faces: int
    missed: int
    errors: np.ndarray

    def to_dict(self) -> dict:
        """Plain numbers for JSON, without the errors of each face."""
        return {
            "nme": self.nme,
            "auc": self.auc,
            "failure_rate": self.failure_rate,
            "threshold": self.threshold,
            "ced_95": self.ced_95,
            "nme_percentiles": self.percentiles,
            "nme_groups": self.groups,
            "faces": self.faces,
            "missed": self.missed,
        }


def evaluate_landmarks(
    predicted: np.ndarray,
    truth: np.ndarray,
    scheme: str,
    sizes: np.ndarray,
    threshold: float = 0.08,
) -> LandmarkScores:
    """Score predictions against labels.

    Parameters
    ----------
    predicted : ndarray (N, K, 2)
        NaN for all points of a face that was missed.
    truth : ndarray (N, K, 2)
        NaN for points that are not labelled.
    scheme : str
    sizes : ndarray (N,)
        From `normalisers`.
    threshold : float
        Of failure rate and AUC.

    Raises
    ------
    InputError
        Shapes differ, there are no faces, a face has no labelled point, a prediction has some points only, or the
        threshold is not positive.
    """
    facts = _scheme(scheme)
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if not threshold > 0:
        raise InputError(f"expected a threshold above 0, got {threshold}")
    shape = (len(sizes), facts.num_points, 2)
    if np.shape(predicted) != shape or np.shape(truth) != shape:
        raise InputError(
            f"expected predicted and labelled points of shape {shape}, got {np.shape(predicted)} and {np.shape(truth)}"
        )
    if not len(sizes):
        raise InputError("expected at least one face to score")
    bare = np.flatnonzero(~np.isfinite(truth).all(axis=2).any(axis=1))
    if bare.size:
        raise InputError(f"expected at least one labelled point on every face, face {bare[0]} of {len(sizes)} has none")
    finite = np.isfinite(predicted)
    missed = ~finite.any(axis=(1, 2))
    torn = np.flatnonzero(~missed & ~finite.all(axis=(1, 2)))
    if torn.size:
        # Silently scoring the points that are there, or the face as missed, would both be wrong.
        raise InputError(
            f"expected all points of a face, or NaN for all of one that was missed; of face {torn[0]} of {len(sizes)} "
            f"{int((~finite[torn[0]]).any(axis=1).sum())} of {facts.num_points} predicted points are not finite"
        )
    errors = point_errors(predicted, truth, sizes)
    found = errors[~missed]
    per_face = np.full(len(errors), np.inf)
    nan = float("nan")
    percentiles, groups = dict.fromkeys(("90", "95", "99"), nan), dict.fromkeys(facts.groups, nan)
    if len(found):
        per_face[~missed] = np.nanmean(found, axis=1)
        percentiles = {k: float(np.percentile(per_face[~missed], int(k))) for k in percentiles}
        for name, rows in facts.groups.items():
            values = found[:, list(rows)]
            groups[name] = float(np.nanmean(values)) if np.isfinite(values).any() else nan
    return LandmarkScores(
        nme=float(per_face[~missed].mean()) if len(found) else nan,
        auc=area_under_ced(per_face, threshold),
        failure_rate=float((per_face > threshold).mean()),
        threshold=threshold,
        ced_95=float(np.sort(per_face)[-(-95 * len(per_face) // 100) - 1]),
        percentiles=percentiles,
        groups=groups,
        faces=len(errors),
        missed=int(missed.sum()),
        errors=per_face,
    )
