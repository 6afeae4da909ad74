"""How far predicted meshes lie from labelled ones, and errors by |yaw| as RetinaFace's tables have them. NumPy only.

What follows from a mesh is scored as anywhere else: its points by `evaluate_landmarks`, its pose by `evaluate_pose`,
its parts by `gluonface.mesh.part_iou`.

Letters: N faces, V vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError

__all__ = ["PAPER_YAW_BINS", "MeshScores", "evaluate_mesh", "summarize_by_yaw"]

#: Name, least and largest |yaw| of the label in degrees (RetinaFace, tables 3 and 5); the largest belongs to its bin.
#: The last one is the profile subset of figure 8; the few labelled beyond 90 degrees are profiles, too.
PAPER_YAW_BINS = (("0-30", 0, 30), ("30-60", 30, 60), ("60-90", 60, np.inf))


@dataclass(frozen=True)
class MeshScores:
    """What `evaluate_mesh` found; fractions of the face's size.

    Attributes
    ----------
    xy : float
        Mean over the faces that were found of the mean distance of their vertices on the image.
    z : float
        The same of depth alone, counted from the tip of the nose.
    xyz : float
        The same of the distance in space.
    faces, missed : int
        All faces, and those among them that were missed.
    errors : ndarray (N, 3)
        xy, z and xyz of each face, NaN for a missed one.
    """

    xy: float
    z: float
    xyz: float
    faces: int
    missed: int
    errors: np.ndarray

    def to_dict(self) -> dict:
        """Plain numbers for JSON, without the errors of each face."""
        return {name: getattr(self, name) for name in ("xy", "z", "xyz", "faces", "missed")}


def evaluate_mesh(predicted: np.ndarray, truth: np.ndarray, sizes: np.ndarray, nose_tip: int) -> MeshScores:
    """Score meshes against labels.

    Parameters
    ----------
    predicted : ndarray (N, V, 3)
        x and y in pixels, z in the same unit from any origin; NaN for all vertices of a face that was missed.
    truth : ndarray (N, V, 3)
        Finite.
    sizes : ndarray (N,)
        What distances are divided by, in pixels: sqrt(width x height) of the labelled box.
    nose_tip : int
        The vertex that depth counts from, in both (RetinaFace, equation 4).

    Raises
    ------
    InputError
        Shapes differ, there are no faces, a label is not finite, a prediction has some vertices only, a size is not
        positive, or there is no such vertex.
    """
    predicted, truth, sizes = (np.asarray(array, np.float64) for array in (predicted, truth, sizes))
    if truth.ndim != 3 or truth.shape[2] != 3 or predicted.shape != truth.shape or sizes.shape != truth.shape[:1]:
        raise InputError(
            f"expected predicted and labelled meshes of one shape (N, V, 3) and sizes (N,), got {predicted.shape}, "
            f"{truth.shape} and {sizes.shape}"
        )
    if not len(truth):
        raise InputError("expected at least one face to score")
    if not 0 <= nose_tip < truth.shape[1]:
        raise InputError(f"expected a nose tip among {truth.shape[1]} vertices, got {nose_tip}")
    wrong = np.flatnonzero(~np.isfinite(truth).all(axis=(1, 2)) | ~(sizes > 0))
    if wrong.size:
        raise InputError(
            f"expected a labelled mesh of finite numbers and a size above 0 for every face, face {wrong[0]} of "
            f"{len(truth)} has others"
        )
    finite = np.isfinite(predicted)
    found = finite.all(axis=(1, 2))
    torn = np.flatnonzero(finite.any(axis=(1, 2)) & ~found)
    if torn.size:
        raise InputError(
            f"expected all vertices of a face, or NaN for all of one that was missed; of face {torn[0]} of "
            f"{len(truth)} some are not finite"
        )
    off = (_from_nose(predicted[found], nose_tip) - _from_nose(truth[found], nose_tip)) / sizes[found, None, None]
    errors = np.full((len(truth), 3), np.nan)
    flat, deep, space = np.linalg.norm(off[..., :2], axis=2), np.abs(off[..., 2]), np.linalg.norm(off, axis=2)
    errors[found] = np.stack([flat, deep, space], axis=-1).mean(axis=1)
    means = errors[found].mean(axis=0) if found.any() else np.full(3, np.nan)
    xy, z, xyz = map(float, means)
    return MeshScores(xy, z, xyz, len(truth), int((~found).sum()), errors)


def _from_nose(meshes: np.ndarray, nose_tip: int) -> np.ndarray:
    """Meshes (N, V, 3) whose depth is 0 at the tip of the nose."""
    shift = np.zeros((len(meshes), 1, 3))
    shift[:, 0, 2] = meshes[:, nose_tip, 2]
    return meshes - shift


def summarize_by_yaw(errors: np.ndarray, yaw: np.ndarray) -> dict:
    """Mean and spread of errors of faces by |yaw|, as RetinaFace's tables 3 and 5 have them.

    Parameters
    ----------
    errors : ndarray (N,)
        Of any kind, 0 or more; not finite for a face that was missed.
    yaw : ndarray (N,)
        Labelled, in degrees; a face with NaN is in no bin.

    Returns
    -------
    dict
        ``by_yaw``, for each of `PAPER_YAW_BINS` the ``mean`` and the ``spread`` (standard deviation) over the faces
        that were found, ``faces`` and ``missed``; ``mean``, that of the bins, each counted once, as in table 3. NaN
        where a bin holds no face that was found.

    Raises
    ------
    InputError
        Shapes differ.
    """
    errors, yaw = np.asarray(errors, np.float64), np.abs(np.asarray(yaw, np.float64))
    if errors.ndim != 1 or errors.shape != yaw.shape:
        raise InputError(f"expected errors and yaws of one shape (N,), got {errors.shape} and {yaw.shape}")
    found = np.isfinite(errors)
    bins = {}
    for name, low, high in PAPER_YAW_BINS:
        chosen = ((yaw > low) | (low == 0)) & (yaw <= high)
        here = errors[chosen & found]
        mean, spread = (float(here.mean()), float(here.std())) if len(here) else (float("nan"), float("nan"))
        counts = {"faces": int(chosen.sum()), "missed": int((chosen & ~found).sum())}
        bins[name] = {"mean": mean, "spread": spread, **counts}
    return {"mean": float(np.mean([one["mean"] for one in bins.values()])), "by_yaw": bins}
