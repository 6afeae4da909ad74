"""Head pose under a turn or a mirror of the image.

``R = Rx(pitch) Ry(yaw) Rz(roll)`` with y up and z towards the viewer, the convention of 300W-LP and AFLW2000:
Rx = [1 0 0; 0 c s; 0 -s c], Ry = [c 0 -s; 0 1 0; s 0 c], Rz = [c s 0; -s c 0; 0 0 1].
"""

from __future__ import annotations

import numpy as np

_MIRROR = np.diag([-1.0, 1.0, 1.0])


def rotation_from_pose(pose: np.ndarray) -> np.ndarray:
    """(M, 3) yaw, pitch, roll in degrees -> (M, 3, 3) rotation matrices."""
    yaw, pitch, roll = np.deg2rad(np.asarray(pose, np.float64)).T
    one, zero = np.ones_like(yaw), np.zeros_like(yaw)

    def matrix(*entries: np.ndarray) -> np.ndarray:
        return np.stack(entries, axis=-1).reshape(-1, 3, 3)

    def cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.cos(angle), np.sin(angle)

    c, s = cos_sin(pitch)
    rx = matrix(one, zero, zero, zero, c, s, zero, -s, c)
    c, s = cos_sin(yaw)
    ry = matrix(c, zero, -s, zero, one, zero, s, zero, c)
    c, s = cos_sin(roll)
    rz = matrix(c, s, zero, -s, c, zero, zero, zero, one)
    return rx @ ry @ rz


def pose_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """(M, 3, 3) rotation matrices -> (M, 3) yaw in [-90, 90], pitch and roll in [-180, 180] degrees."""
    pitch = np.arctan2(rotation[:, 1, 2], rotation[:, 2, 2])
    yaw = np.arcsin(np.clip(-rotation[:, 0, 2], -1, 1))
    roll = np.arctan2(rotation[:, 0, 1], rotation[:, 0, 0])
    return np.rad2deg(np.stack([yaw, pitch, roll], axis=-1))


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
