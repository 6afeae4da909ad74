"""Which triangle of a mesh each pixel shows: a z-buffer in NumPy.

mesh (V, 3) -> triangles that face the viewer -> pairs of triangle and pixel centre within its box -> inside it? ->
nearest for each pixel. A pixel belongs to a mesh where its centre does; triangles with a common side leave no gap.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

__all__ = ["Raster", "rasterize", "signed_area", "small_first", "vertex_normals"]

# Pairs of triangle and pixel looked at together: some tens of megabytes.
_AT_ONCE = 2**20
_LEAST_LENGTH = 1e-12


@dataclass(frozen=True, eq=False)
class Raster:
    """What a mesh covers of an image.

    Parameters
    ----------
    left_top : (int, int)
        Column and row of the window that holds the mesh.
    triangle : (h, w) int32 array
        The triangle seen at each pixel of the window, -1 for none.
    depth : (h, w) float32 array
        Its z there; infinite for none.
    mesh, triangles : (V, 3), (T, 3) arrays
        What was drawn.
    """

    left_top: tuple[int, int]
    triangle: np.ndarray
    depth: np.ndarray
    mesh: np.ndarray
    triangles: np.ndarray

    @functools.cached_property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (P,) and columns (P,) of the image that are covered; ``image[raster.pixels]`` picks them."""
        rows, columns = np.nonzero(self.triangle >= 0)
        return rows + self.left_top[1], columns + self.left_top[0]

    @functools.cached_property
    def seen(self) -> np.ndarray:
        """(P,) int32: the triangle at each of `pixels`."""
        return self.triangle[self.triangle >= 0]

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Values of vertices (V, C), linear in each triangle, at `pixels`: (P, C) float32."""
        values = np.asarray(values, np.float64)
        rows, columns = self.pixels
        out = np.empty((len(rows), *values.shape[1:]), np.float32)
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            corners = self.triangles[self.seen[part]]
            _, weights = _weights(self.mesh, corners, columns[part] + 0.5, rows[part] + 0.5)
            out[part] = np.einsum("pk,pk...->p...", weights, values[corners])
        return out

    def depth_at(self, points: np.ndarray) -> np.ndarray:
        """Depth (n,) of what is seen at points (n, 2) of the image; infinite where nothing is."""
        height, width = self.depth.shape
        places = np.floor(np.asarray(points, np.float64)) - self.left_top
        inside = ((places >= 0) & (places < (width, height))).all(axis=1)
        found = np.full(len(places), np.inf)
        columns, rows = places[inside].astype(np.int64).T
        found[inside] = self.depth[rows, columns]
        return found


def rasterize(mesh: np.ndarray, triangles: np.ndarray, size_hw: tuple[int, int], cull: bool = True) -> Raster:
    """Draw the triangles of a mesh with hidden surfaces removed.

    Parameters
    ----------
    mesh : (V, 3) array
        x, y in pixels; z smaller nearer to the camera.
    triangles : (T, 3) int array
        Counter-clockwise for who sees them from outside (as shown, with y down, too).
    size_hw : (int, int)
        Of the image.
    cull : bool
        Whether triangles seen from inside count as nothing, as those of the far side of a turned head. Where a lid or
        a lip is closed, triangles between its edges turn over; without them the lips meet.

    Returns
    -------
    Raster
        Where two triangles are equally near, the one with the smaller number is seen.

    Raises
    ------
    InputError
        A mesh of another shape or that is not finite; triangles of vertices that there are not.
    """
    mesh, triangles = _checked(mesh, triangles)
    height, width = size_hw
    low, high = mesh.min(axis=0)[:2], mesh.max(axis=0)[:2]
    # Columns (rows) c whose centre c + 0.5 lies between two numbers.
    left, top = (int(v) for v in np.clip(np.ceil(low - 0.5), 0, (width, height)))
    right, bottom = (int(v) for v in np.clip(np.floor(high - 0.5) + 1, 0, (width, height)))
    h, w = max(bottom - top, 0), max(right - left, 0)
    seen, depth = np.full(h * w, -1, np.int32), np.full(h * w, np.inf)
    area = signed_area(mesh, triangles)
    drawn = np.flatnonzero(area > 0 if cull else area != 0)
    if h * w:
        for number, column, row in _candidates(mesh, triangles, drawn, (left, top, right, bottom)):
            inside, weights = _weights(mesh, triangles[number], column + 0.5, row + 0.5)
            number, weights = number[inside], weights[inside]
            pixel = (row[inside] - top) * w + column[inside] - left
            z = (weights * mesh[triangles[number], 2]).sum(axis=1)
            nearer = z < depth[pixel]
            number, pixel, z = number[nearer], pixel[nearer], z[nearer]
            # The nearest last: of several values assigned to one place the last one stays.
            order = np.lexsort((-number, -z))
            seen[pixel[order]], depth[pixel[order]] = number[order], z[order]
    return Raster((left, top), seen.reshape(h, w), depth.reshape(h, w).astype(np.float32), mesh, triangles)


def signed_area(mesh: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Areas (T,) in square pixels as seen, positive for triangles that face the viewer."""
    a, b, c = np.moveaxis(mesh[triangles, :2], 1, 0)
    # Minus, as y points down.
    return -0.5 * ((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))


def vertex_normals(mesh: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Normals (V, 3) of length 1 out of the face, in the axes of the mesh: those of the triangles, weighted by area.

    A vertex of no triangle gets zeros.
    """
    mesh, triangles = _checked(mesh, triangles)
    a, b, c = np.moveaxis(mesh[triangles], 1, 0)
    # Counter-clockwise with x right, y up, z near is counter-clockwise with y down, z far: both make right-handed axes.
    cross = np.cross(b - a, c - a)
    normals = np.zeros_like(mesh)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], cross)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), _LEAST_LENGTH)


def small_first(meshes: np.ndarray) -> np.ndarray:
    """Order (n,) in which to draw meshes (n, V, 3) over one another: small faces, which are far away, first."""
    return np.argsort(np.ptp(meshes[..., :2], axis=1).prod(axis=1), kind="stable")


def _candidates(
    mesh: np.ndarray, triangles: np.ndarray, drawn: np.ndarray, window: tuple[int, int, int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Triangles (n,) of `drawn` and the columns and rows (n,) of pixels within their boxes, some at a time."""
    corners = mesh[triangles[drawn], :2]
    first = np.clip(np.ceil(corners.min(axis=1) - 0.5), window[:2], window[2:]).astype(np.int64)
    last = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, window[:2], window[2:]).astype(np.int64)
    size = np.maximum(last - first, 0)
    count = size.prod(axis=1)
    drawn, first, size, count = (array[count > 0] for array in (drawn, first, size, count))
    ends = np.cumsum(count)
    start = 0
    while start < len(drawn):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, side="right")))
        part = slice(start, stop)
        which = np.repeat(np.arange(start, stop), count[part])
        place = np.arange(len(which)) - np.repeat(ends[part] - count[part] - done, count[part])
        row, column = np.divmod(place, size[which, 0])
        yield drawn[which], first[which, 0] + column, first[which, 1] + row
        start = stop


def _weights(mesh: np.ndarray, corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether points (n,) lie in triangles (n, 3), borders included, and their barycentric coordinates (n, 3).

    Each side is measured from its smaller vertex to its larger one, whichever triangle asks. Both triangles of a side
    so get the same number, and a point that rounding puts outside of one lies inside the other.
    """
    sides = []
    for k in range(3):
        a, b = corners[:, (k + 1) % 3], corners[:, (k + 2) % 3]
        turned = a > b
        start, end = mesh[np.where(turned, b, a)], mesh[np.where(turned, a, b)]
        side = (end[:, 0] - start[:, 0]) * (y - start[:, 1]) - (end[:, 1] - start[:, 1]) * (x - start[:, 0])
        sides.append(np.where(turned, -side, side))
    sides = np.stack(sides, axis=1)
    whole = sides.sum(axis=1, keepdims=True)
    weights = sides / np.where(whole == 0, 1, whole)
    return ((sides >= 0).all(axis=1) | (sides <= 0).all(axis=1)) & (whole[:, 0] != 0), weights


def _checked(mesh: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mesh, triangles = np.asarray(mesh, np.float64), np.asarray(triangles)
    if mesh.ndim != 2 or mesh.shape[1] != 3 or not len(mesh) or not np.isfinite(mesh).all():
        raise InputError(f"expected a mesh (V, 3) of finite numbers, got {mesh.shape}")
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise InputError(f"expected triangles (T, 3) of whole numbers, got {triangles.shape} {triangles.dtype}")
    if triangles.size and (triangles.min() < 0 or triangles.max() >= len(mesh)):
        raise InputError(
            f"expected triangles of vertices 0 to {len(mesh) - 1}, got {triangles.min()} to {triangles.max()}"
        )
    return mesh, triangles
