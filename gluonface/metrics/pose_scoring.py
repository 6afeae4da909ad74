"""How far predicted head poses lie from labelled ones. NumPy only.

Pose is yaw, pitch, roll in degrees, in this order, in the AFLW2000-3D convention (`gluonface.pose`). Differences wrap
around: 179 and -179 are 2 degrees apart. Faces with an angle beyond 99 degrees are left out, as is usual on
AFLW2000-3D: the 66 bins of 3 degrees that nets predict pose with (Hopenet, arXiv:1710.00925; MOS) end there.

Letters: N faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import InputError
from ..pose import geodesic_degrees, pose_distance, rotation_from_pose

__all__ = ["ANGLES", "MAX_ANGLE", "YAW_BINS", "PoseScores", "evaluate_pose", "faces_by_yaw", "posed_faces"]

#: The columns of a pose.
ANGLES = ("yaw", "pitch", "roll")
#: Degrees; a face one of whose labelled angles is larger is left out.
MAX_ANGLE = 99.0
#: Name, least and largest |yaw| of the label in degrees; the largest belongs to the next bin, of the last to itself.
YAW_BINS = (("0-15", 0, 15), ("15-30", 15, 30), ("30-45", 30, 45), ("45-60", 45, 60), ("60-99", 60, 99))

_FIGURES = ("mae", *ANGLES, "geodesic")


class Labels(Protocol):
    """What is read of labelled faces; :class:`gluonface.data.base.FaceLabels` has it."""

    ignore: np.ndarray
    pose: np.ndarray


def posed_faces(labels: Labels) -> np.ndarray:
    """Indices (n,) of the faces that a predicted pose can be compared with: not ignored, the pose labelled."""
    return np.flatnonzero(np.isfinite(labels.pose).all(axis=1) & ~np.asarray(labels.ignore, bool))


def faces_by_yaw(truth: np.ndarray) -> dict[str, np.ndarray]:
    """Which faces (N,) of bool are in each of `YAW_BINS`, by the |yaw| of labelled poses (N, 3).

    A face that the protocol leaves out, for whichever of its angles, is in none.
    """
    truth = np.abs(np.asarray(truth, np.float64))
    kept, yaw = (truth <= MAX_ANGLE).all(axis=1), truth[:, 0]
    return {
        name: kept & (yaw >= low) & ((yaw < high) | ((yaw == high) & (high == MAX_ANGLE)))
        for name, low, high in YAW_BINS
    }


@dataclass(frozen=True)
class PoseScores:
    """What `evaluate_pose` found; degrees throughout.

    Attributes
    ----------
    mae : float
        Mean of ``yaw``, ``pitch`` and ``roll``.
    yaw, pitch, roll : float
        Mean absolute error of each angle over the faces that were found.
    geodesic : float
        Mean angle of the rotation between the labelled and the predicted pose, over the same faces.
    faces, missed, left_out : int
        Faces that count, those among them that were missed, and those that do not count for an angle beyond 99.
    by_yaw : dict of str to dict
        The same figures (but ``left_out``) of each of `YAW_BINS`.
    errors : ndarray (N, 3)
        Absolute error of each angle; NaN for faces that were missed or are left out.
    """

    mae: float
    yaw: float
    pitch: float
    roll: float
    geodesic: float
    faces: int
    missed: int
    left_out: int
    by_yaw: dict
    errors: np.ndarray

    def to_dict(self) -> dict:
        """Plain numbers for JSON, without the errors of each face."""
        names = (*_FIGURES, "faces", "missed", "left_out", "by_yaw")
        return {name: getattr(self, name) for name in names}


def evaluate_pose(predicted: np.ndarray, truth: np.ndarray) -> PoseScores:
    """Score predicted poses against labels.

    Parameters
    ----------
    predicted : ndarray (N, 3)
        Yaw, pitch, roll in degrees; NaN for all three of a face that was missed.
    truth : ndarray (N, 3)
        Finite.

    Returns
    -------
    PoseScores
        NaN for the figures of no face.

    Raises
    ------
    InputError
        Shapes differ, there are no faces, a label is not finite, or a prediction has some angles only.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if truth.ndim != 2 or truth.shape[1] != 3 or predicted.shape != truth.shape:
        raise InputError(
            f"expected predicted and labelled poses of one shape (N, 3), got {predicted.shape} and {truth.shape}"
        )
    if not len(truth):
        raise InputError("expected at least one face to score")
    bare = np.flatnonzero(~np.isfinite(truth).all(axis=1))
    if bare.size:
        raise InputError(
            f"expected a labelled pose of finite degrees for every face, got {truth[bare[0]].tolist()} for face "
            f"{bare[0]} of {len(truth)}"
        )
    finite = np.isfinite(predicted)
    found = finite.all(axis=1)
    torn = np.flatnonzero(finite.any(axis=1) & ~found)
    if torn.size:
        raise InputError(
            f"expected all angles of a face, or NaN for all of one that was missed, got {predicted[torn[0]].tolist()} "
            f"for face {torn[0]} of {len(truth)}"
        )
    kept = (np.abs(truth) <= MAX_ANGLE).all(axis=1)
    compared = found & kept
    errors, turns = np.full(truth.shape, np.nan), np.full(len(truth), np.nan)
    errors[compared] = pose_distance(predicted[compared], truth[compared])
    rotations = (rotation_from_pose(pose[compared]) for pose in (predicted, truth))
    turns[compared] = geodesic_degrees(*rotations)
    return PoseScores(
        **_figures(errors, turns, kept, found),
        left_out=int((~kept).sum()),
        by_yaw={name: _figures(errors, turns, rows, found) for name, rows in faces_by_yaw(truth).items()},
        errors=errors,
    )


def _figures(errors: np.ndarray, turns: np.ndarray, rows: np.ndarray, found: np.ndarray) -> dict:
    """Means over the found ones of the faces marked in rows (N,) of bool."""
    counts = {"faces": int(rows.sum()), "missed": int((rows & ~found).sum())}
    rows = rows & found
    if not rows.any():
        return {**dict.fromkeys(_FIGURES, float("nan")), **counts}
    angles = errors[rows].mean(axis=0)
    means = (angles.mean(), *angles, turns[rows].mean())
    return {**dict(zip(_FIGURES, map(float, means))), **counts}
