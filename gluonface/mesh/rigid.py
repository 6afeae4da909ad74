"""Pose from a mesh: the scaled rotation that fits the canonical shape to it, in closed form (RetinaFace, 4.5)."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..pose import pose_from_rotation
from .export import turn_upright
from .topology import MeshTopology

__all__ = ["fit_similarity", "pose_from_mesh"]

# Second over first singular value of source times target: less, and the points lie on a line, more or less.
_LEAST_WIDTH = 1e-6


def pose_from_mesh(
    meshes: np.ndarray, topology: MeshTopology, scheme: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Head pose of meshes, by least squares against the canonical shape.

    Depth counts as much as width and height here; `gluonface.pose.fit_pose` with the canonical shape as template does
    without it.

    Parameters
    ----------
    meshes : (n, V, 3) array
        x, y in pixels, y down; z in the same unit, smaller nearer to the camera.
    topology : MeshTopology
    scheme : str, optional
        Compare only the points of that scheme, such as "68"; by default all vertices.

    Returns
    -------
    pose : (n, 3) float64 array
        Yaw, pitch, roll in degrees, signs of `gluonface.pose`; NaN for a mesh that is not finite or that is a line.
    residual : (n,) float64 array
        Root-mean-square distance of the vertices from the fitted shape over the square root of the area of their box
        in the image.

    Raises
    ------
    InputError
        Meshes of another shape; a scheme that the topology has no map for.
    """
    meshes = topology.checked(meshes, dims=(3,)).astype(np.float64)
    if meshes.ndim != 3:
        raise InputError(f"expected meshes of shape (n, {topology.num_vertices}, 3), got {meshes.shape}")
    head = topology.canonical.astype(np.float64)
    if scheme is not None:
        meshes, head = topology.points_of(meshes, scheme), topology.points_of(head, scheme)
    seen = turn_upright(meshes)
    scale, rotation, offset = fit_similarity(head, seen)
    shown = scale[:, None, None] * np.einsum("nij,kj->nki", rotation, head) + offset[:, None]
    squares = ((seen - shown) ** 2).sum(axis=2).mean(axis=1)
    return pose_from_rotation(rotation), np.sqrt(squares / np.ptp(seen[..., :2], axis=1).prod(axis=1))


def fit_similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale s, rotation R and offset t for which ``s R source + t`` lies nearest to each target: least squares.

    In closed form (Umeyama, PAMI 1991): of a target that is a mirror image, the best rotation is given and not the
    reflection that would fit it.

    Parameters
    ----------
    source : (K, 3) array
        Not all on a line.
    target : (n, K, 3) array

    Returns
    -------
    scale : (n,) float64 array
        Of a mirror image, which no rotation may fit, it can be 0.
    rotation : (n, 3, 3) float64 array
    offset : (n, 3) float64 array
        All three are NaN for a target that is not finite or whose points lie on a line.

    Raises
    ------
    InputError
        Shapes that do not fit; a source that is a line.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.ndim != 2 or source.shape[1] != 3 or target.ndim != 3 or target.shape[1:] != source.shape:
        raise InputError(f"expected source (K, 3) and target (n, K, 3), got {source.shape} and {target.shape}")
    middle = source.mean(axis=0)
    spread = np.linalg.svd(source - middle, compute_uv=False)
    if not np.isfinite(source).all() or spread[1] <= _LEAST_WIDTH * spread[0]:
        raise InputError("expected a source of finite points that do not all lie on a line")
    count = len(target)
    scale, rotation, offset = np.full(count, np.nan), np.full((count, 3, 3), np.nan), np.full((count, 3), np.nan)
    usable = np.isfinite(target).all(axis=(1, 2))
    centre = target[usable].mean(axis=1)
    moment = np.einsum("nki,kj->nij", target[usable] - centre[:, None], source - middle)
    u, singular, vt = np.linalg.svd(moment)
    wide = singular[:, 1] > _LEAST_WIDTH * singular[:, 0]
    usable[usable], u, singular, vt, centre = wide, u[wide], singular[wide], vt[wide], centre[wide]
    # A product of determinant -1 would mirror: the axis of the least extent is turned round instead.
    signs = np.ones((len(u), 3))
    signs[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    rotation[usable] = (u * signs[:, None]) @ vt
    scale[usable] = (singular * signs).sum(axis=1) / ((source - middle) ** 2).sum()
    offset[usable] = centre - scale[usable, None] * (rotation[usable] @ middle)
    return scale, rotation, offset
