"""Head pose under a turn or a mirror of the image. Conventions and signs are those of `gluonface.pose`."""

from __future__ import annotations

import numpy as np

from ...pose import pose_from_rotation, rotation_from_pose

_MIRROR = np.diag([-1.0, 1.0, 1.0])


def move_pose(pose: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Pose after the image went through a linear map.

    Parameters
    ----------
    pose : (M, 3) array
        Yaw, pitch, roll in degrees; rows with NaN stay as they are.
    linear : (2, 2) array
        The map of image coordinates (x right, y down). Its scale is without effect; of a map that is not a similarity
        the nearest one counts.

    Returns
    -------
    (M, 3) float32
    """
    moved = np.array(pose, np.float32)
    known = np.isfinite(moved).all(axis=1)
    if not known.any():
        return moved
    mirrored = np.linalg.det(linear) < 0
    # The nearest turn is u @ vt of the singular value decomposition; a mirror (x -> -x, applied first) is taken out.
    u, _, vt = np.linalg.svd(linear @ np.diag([-1.0, 1.0]) if mirrored else linear)
    turn = u @ vt
    # Clockwise for the viewer in image coordinates is [c -s; s c]; with y up the same turn is Rz(angle) = [c s; -s c].
    cos, sin = turn[0, 0], turn[1, 0]
    if not mirrored and cos > 1 - 1e-12:
        return moved
    in_plane = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    rotation = rotation_from_pose(moved[known])
    if mirrored:
        rotation = _MIRROR @ rotation @ _MIRROR
    moved[known] = pose_from_rotation(in_plane @ rotation)
    return moved
