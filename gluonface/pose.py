"""Head pose: angles, rotation matrices, and the pose that follows from points. NumPy only.

A pose is three angles in degrees, always in the order yaw, pitch, roll, in the convention of 300W-LP and AFLW2000-3D.
With x to the viewer's right, y up and z towards the viewer, a point v of a face that looks at the viewer goes to
``R v``, ``R = Rx(pitch) Ry(yaw) Rz(roll)``:

    Rx = [1 0 0; 0 c s; 0 -s c]   Ry = [c 0 -s; 0 1 0; s 0 c]   Rz = [c s 0; -s c 0; 0 0 1]

and, seen from afar, to ``scale * (R v)[:2] * (1, -1) + offset`` in the image, whose y points down. Then

* positive yaw turns the nose to the viewer's left,
* positive pitch looks up,
* positive roll tilts the head clockwise as the viewer sees it.

The same rotation has two such triples, (yaw, pitch, roll) and (180 - yaw, pitch + 180, roll + 180); the one with yaw
between -90 and 90 is taken.
"""

from __future__ import annotations

import numpy as np

from .errors import InputError
from .face_template import FACE_5, FACE_68

__all__ = [
    "fit_pose",
    "geodesic_degrees",
    "pose_distance",
    "pose_from_rotation",
    "rotation_from_pose",
    "wrap_degrees",
]

_TEMPLATES = {len(points): np.array(points) for points in (FACE_5, FACE_68)}
# Extent across over extent along: points that have less lie on a line (a template: in a plane).
_LEAST_WIDTH = 1e-3

# Levenberg-Marquardt. Where it starts it usually rests after 10 steps; a step is a turn in radians.
_MOST_STEPS = 100
_AT_REST = 1e-7
_FIRST_DAMPING, _LEAST_DAMPING = 1e-3, 1e-12
_LEAST_SCALE = 1e-9


def rotation_from_pose(pose: np.ndarray) -> np.ndarray:
    """Rotation matrices of poses.

    Parameters
    ----------
    pose : (..., 3) array
        Yaw, pitch, roll in degrees; the matrix of one with NaN is NaN.

    Returns
    -------
    (..., 3, 3) float64 array

    Raises
    ------
    InputError
        The last axis does not have three entries.
    """
    yaw, pitch, roll = np.moveaxis(np.deg2rad(_with_shape("pose", pose, (3,))), -1, 0)
    cos_y, sin_y, cos_p, sin_p, cos_r, sin_r = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    # The product Rx(pitch) Ry(yaw) Rz(roll), multiplied out.
    rows = (
        (cos_y * cos_r, cos_y * sin_r, -sin_y),
        (sin_p * sin_y * cos_r - cos_p * sin_r, sin_p * sin_y * sin_r + cos_p * cos_r, sin_p * cos_y),
        (cos_p * sin_y * cos_r + sin_p * sin_r, cos_p * sin_y * sin_r - sin_p * cos_r, cos_p * cos_y),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def pose_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Poses of rotation matrices; the inverse of `rotation_from_pose`.

    At a yaw of 90 or -90 degrees pitch and roll turn about the same axis, and only their difference or sum is known:
    pitch is then 0 where the matrix is exact. Whatever the pose, its matrix is `rotation` again.

    Parameters
    ----------
    rotation : (..., 3, 3) array
        The pose of one with NaN is NaN.

    Returns
    -------
    (..., 3) float64 array
        Yaw in [-90, 90], pitch and roll in [-180, 180] degrees.

    Raises
    ------
    InputError
        The last two axes are not 3x3.
    """
    rotation = _with_shape("rotation", rotation, (3, 3))
    first, second, third = (rotation[..., row, :] for row in range(3))
    yaw = np.arctan2(-first[..., 2], np.hypot(first[..., 0], first[..., 1]))
    # Adding 0 makes -0.0 (whose angle would be 180 degrees) 0.0.
    pitch = np.arctan2(second[..., 2] + 0.0, third[..., 2] + 0.0)
    # With the pitch taken back the second row is that of Rz(roll), (-sin, cos, 0). Reading the roll there instead of
    # in the first row keeps it in step with the pitch where both are hardly known, close to a yaw of 90 degrees.
    cos_p, sin_p = np.cos(pitch), np.sin(pitch)
    minus_sin, cos = (cos_p * second[..., column] - sin_p * third[..., column] for column in (0, 1))
    return np.rad2deg(np.stack([yaw, pitch, np.arctan2(0.0 - minus_sin, cos + 0.0)], axis=-1))


def wrap_degrees(angles: np.ndarray) -> np.ndarray:
    """Angles (...) in degrees, brought into (-180, 180] by whole turns; those that lie there stay as they are."""
    angles = np.asarray(angles, np.float64)
    return angles - 360 * np.ceil((angles - 180) / 360)


def geodesic_degrees(rotation_a: np.ndarray, rotation_b: np.ndarray) -> np.ndarray:
    """Angle in [0, 180] degrees of the turn that leads from one rotation (..., 3, 3) to another.

    Raises
    ------
    InputError
        The last two axes are not 3x3.
    """
    a, b = _with_shape("rotation_a", rotation_a, (3, 3)), _with_shape("rotation_b", rotation_b, (3, 3))
    # Of a turn by t: |a - b|^2 = 8 sin^2(t/2), trace + 1 = 4 cos^2(t/2). Exact for small turns, unlike arccos.
    sin = np.sqrt(((a - b) ** 2).sum(axis=(-2, -1)) / 8)
    cos = np.sqrt(np.maximum((a * b).sum(axis=(-2, -1)) + 1, 0)) / 2
    return np.rad2deg(2 * np.arctan2(sin, cos))


def pose_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Absolute difference (..., 3) in degrees of poses (..., 3), angle by angle, the shorter way round: 0 to 180.

    Angles are compared as they stand: two triples of one rotation differ.

    Raises
    ------
    InputError
        The last axis does not have three entries.
    """
    return np.abs(wrap_degrees(_with_shape("pose a", a, (3,)) - _with_shape("pose b", b, (3,))))


def fit_pose(points: np.ndarray, template: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Head pose that explains points in an image best: least squares, seen from afar (scaled orthographic).

    Perspective-n-Point without a camera: scale, offset and rotation of the mean face, started at the affine map of
    least squares made rigid (POS) and refined by Levenberg-Marquardt steps. It is what MOS compares itself with
    ("RetinaFace + PnP", Table 4 and figure 4).

    A face is nearly flat, and a flat one could as well be turned to the other side by the same angle. What tells both
    apart is the nose; the affine map contains it, so the fit starts, and ends, on the side with the smaller residual.

    Parameters
    ----------
    points : (n, K, 2) array
        Points in pixels, K 5 or 68, in the order of `gluonface.faces.SCHEMES`. All K are needed: a face with NaN
        gets NaN for pose and residual, and so does one whose points lie in one place or on a line.
    template : (K, 3) array, optional
        Points of a face that looks at the viewer: x to the viewer's right, y up, z towards the viewer, in any unit. By
        default the mean face of `gluonface.face_template`; with a template, K may be any number from 4.

    Returns
    -------
    pose : (n, 3) float64 array
        Yaw, pitch, roll in degrees; signs as this module says.
    residual : (n,) float64 array
        Root-mean-square distance in the image between points and fitted template, over the square root of the area of
        the points' box.

    Raises
    ------
    InputError
        Points or template of another shape; a template that is flat or not finite.
    """
    points, head = _points_and_head(points, template)
    pose, residual = np.full((len(points), 3), np.nan), np.full(len(points), np.nan)
    usable = np.isfinite(points).all(axis=(1, 2))
    # Centred, and as y up.
    seen = (points[usable] - points[usable].mean(axis=1, keepdims=True)) * (1, -1)
    spread = np.linalg.svd(seen, compute_uv=False)
    wide = spread[:, 1] > _LEAST_WIDTH * spread[:, 0]
    usable[usable], seen = wide, seen[wide]
    if not usable.any():
        return pose, residual

    # All that counts of K points are the three columns that the template spans: with the template U S W^T a face is
    # seen^T U, and what a rotation R shows of the template is (R W S)[:2].
    basis, singular, axes = np.linalg.svd(head, full_matrices=False)
    size = np.sqrt((seen**2).sum(axis=(1, 2), keepdims=True))
    rotation = _fit_rotation(np.einsum("nki,kj->nij", seen / size, basis), axes.T * singular)
    pose[usable] = pose_from_rotation(rotation)

    shown = np.einsum("nij,kj->nki", rotation[:, :2], head)
    scale = (seen * shown).sum(axis=(1, 2), keepdims=True) / (shown**2).sum(axis=(1, 2), keepdims=True)
    squares = ((seen - scale * shown) ** 2).sum(axis=2).mean(axis=1)
    residual[usable] = np.sqrt(squares / np.ptp(seen, axis=1).prod(axis=1))
    return pose, residual


def _points_and_head(points: np.ndarray, template: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, K, 2) and centred template (K, 3), checked."""
    points = np.asarray(points, np.float64)
    if points.ndim != 3 or points.shape[2] != 2:
        raise InputError(f"expected points of shape (n, K, 2), got {points.shape}")
    count = points.shape[1]
    if template is None:
        if count not in _TEMPLATES:
            raise InputError(f"expected 5 or 68 points, got {count}; give their template (K, 3) for others")
        template = _TEMPLATES[count]
    template = np.asarray(template, np.float64)
    if template.shape != (count, 3) or count < 4:
        raise InputError(f"expected a template of shape (K, 3) for {count} points, at least 4, got {template.shape}")
    if not np.isfinite(template).all():
        raise InputError(f"expected a template of finite numbers, got {template[~np.isfinite(template)][0]} in it")
    head = template - template.mean(axis=0)
    spread = np.linalg.svd(head, compute_uv=False)
    if spread[2] <= _LEAST_WIDTH * spread[0]:
        raise InputError("expected a template with depth: the points of this one lie in a plane, which faces two ways")
    return points, head


def _fit_rotation(seen: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Rotations R (n, 3, 3) and scales s > 0 that make ``|seen - s (R head)[:2]|`` smallest; the former are returned.

    Parameters
    ----------
    seen : (n, 2, 3) array
        Of size about 1.
    head : (3, 3) array
        Regular.
    """
    rotation = _nearest_rotation(seen @ np.linalg.inv(head))
    scale, squares = _scale_and_squares(rotation, seen, head)
    damping = np.full(len(seen), _FIRST_DAMPING)
    for _ in range(_MOST_STEPS):
        # For a small turn w about the three axes, the points shown move by w x points; for a small growth g of the
        # scale, by g points.
        x, y, z = np.moveaxis(rotation @ head, 1, 0)
        zero = np.zeros_like(x)
        moves = ((zero, -z), (z, zero), (-y, x), (x, y))
        jacobian = np.stack([np.concatenate(move, axis=1) for move in moves], axis=2)
        error = (seen / scale[:, None, None] - (rotation @ head)[:, :2]).reshape(-1, 6, 1)
        normal = jacobian.transpose(0, 2, 1) @ jacobian
        weight = damping * np.trace(normal, axis1=1, axis2=2) / 4
        step = np.linalg.solve(normal + weight[:, None, None] * np.eye(4), jacobian.transpose(0, 2, 1) @ error)
        turn = step[:, :3, 0]
        turned = _turn_matrix(turn) @ rotation
        new_scale, new_squares = _scale_and_squares(turned, seen, head)
        better = new_squares <= squares
        rotation = np.where(better[:, None, None], turned, rotation)
        scale, squares = np.where(better, new_scale, scale), np.where(better, new_squares, squares)
        damping = np.where(better, damping / 10, damping * 10).clip(_LEAST_DAMPING, None)
        if np.abs(turn).max() < _AT_REST:
            break
    return rotation


def _nearest_rotation(affine: np.ndarray) -> np.ndarray:
    """The first two rows (n, 2, 3) of scaled rotations, more or less, made rotations (n, 3, 3)."""
    u, _, vt = np.linalg.svd(affine, full_matrices=False)
    rows = u @ vt
    return np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)


def _scale_and_squares(rotation: np.ndarray, seen: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best scale (n,) for each rotation, and the squared error (n,) that it leaves."""
    shown = (rotation @ head)[:, :2]
    scale = (seen * shown).sum(axis=(1, 2)) / (shown**2).sum(axis=(1, 2))
    scale = np.maximum(scale, _LEAST_SCALE)
    return scale, ((seen - scale[:, None, None] * shown) ** 2).sum(axis=(1, 2))


def _turn_matrix(turn: np.ndarray) -> np.ndarray:
    """Rotation matrices (n, 3, 3) of turns (n, 3): the axis, as long as the angle in radians."""
    angle = np.linalg.norm(turn, axis=1)[:, None, None]
    x, y, z = turn.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    # sin(a) / a and (1 - cos(a)) / a^2; np.sinc(a / pi) is the former, also at 0.
    return np.eye(3) + np.sinc(angle / np.pi) * cross + np.sinc(angle / 2 / np.pi) ** 2 / 2 * (cross @ cross)


def _with_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(array, np.float64)
    if array.shape[-len(shape) :] != shape:
        raise InputError(f"{name}: expected shape (..., {', '.join(map(str, shape))}), got {array.shape}")
    return array
