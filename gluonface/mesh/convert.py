"""Make a topology of files that a user has: a subset of a face model's vertices, its triangles, its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..faces import SCHEMES
from .topology import MeshTopology

__all__ = ["mirror_index", "subset_topology", "triangles_inside"]

# Two vertices mirror each other when they lie this near, a share of the width of the face.
_ALIKE = 0.01
_NOSE_68 = 30  # its tip among the 68 points


def subset_topology(
    name: str,
    shape: np.ndarray,
    triangles: np.ndarray,
    vertices: np.ndarray | None = None,
    *,
    triangles_of: str = "subset",
    points: Mapping[str, np.ndarray] | None = None,
    nose_tip: int | None = None,
    parts: Mapping[str, Sequence[int]] | None = None,
    outlines: Mapping[str, Sequence[int]] | None = None,
    uv: np.ndarray | None = None,
) -> MeshTopology:
    """The topology of some vertices of a face model, as the paper's 1,103 of the 53,215 of the Basel Face Model.

    The model's vertices are N, those of the subset V. All numbers count from 0.

    Parameters
    ----------
    name : str
    shape : (N, 3) array
        The model's mean face: x to the viewer's right, y up, z towards the viewer.
    triangles : (T, 3) int array, or (3, T)
        Either order of their vertices will do; they are turned to face outwards together.
    vertices : (V,) int array, optional
        Those of the model that are used; by default all.
    triangles_of : "subset" or "model"
        What the numbers in `triangles` count: vertices of the subset, or of the model. Of the latter, triangles that
        are not wholly in the subset are left out.
    points : mapping of str to (K,) int array, optional
        The vertex of the model for each point of a scheme, such as the 68.
    nose_tip : int, optional
        Of the model; by default that of the 68 points.
    parts : mapping of str to sequences of int, optional
        Vertices of the model in each part: a triangle is of a part when all its vertices are.
    outlines : mapping of str to sequences of int, optional
        For parts given by their outline instead: vertices of the model, each joined to the next by a side of a
        triangle, the last one to the first.
    uv : (N, 2) array, optional
        Texture coordinates of the model's vertices.

    Raises
    ------
    InputError
        Numbers that do not fit together; points or a nose tip outside the subset; a face that looks elsewhere.
    """
    shape, triangles = np.asarray(shape), np.asarray(triangles)
    if shape.ndim != 2 or shape.shape[1] != 3:
        raise InputError(f"shape: expected (N, 3), got {shape.shape}")
    vertices = np.arange(len(shape)) if vertices is None else np.asarray(vertices)
    _check_numbers("vertices", vertices, len(shape))
    if vertices.ndim != 1 or len(np.unique(vertices)) != len(vertices):
        raise InputError(f"vertices: expected different ones (V,), got {vertices.shape}, some of them twice")
    place = np.full(len(shape), -1)  # in the subset
    place[vertices] = np.arange(len(vertices))
    if triangles_of not in ("subset", "model"):
        raise InputError(f"triangles_of: expected 'subset' or 'model', got {triangles_of!r}")
    _check_numbers("triangles", triangles, len(shape) if triangles_of == "model" else len(vertices))
    if triangles.ndim == 2 and triangles.shape[1] != 3 and triangles.shape[0] == 3:
        triangles = triangles.T
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise InputError(f"triangles: expected (T, 3), got {triangles.shape}")
    if uv is not None and np.shape(uv) != (len(shape), 2):
        raise InputError(f"uv: expected {(len(shape), 2)}, a row for each vertex of the model, got {np.shape(uv)}")
    if triangles_of == "model":
        triangles = place[triangles]
        triangles = triangles[(triangles >= 0).all(axis=1)]
        if not len(triangles):
            raise InputError("triangles: none has all its vertices in the subset; do they count its own vertices?")

    points = {scheme: _in_subset(f"points {scheme}", rows, place) for scheme, rows in (points or {}).items()}
    if nose_tip is None:
        if "68" not in points:
            raise InputError("expected nose_tip, or the 68 points, which have it")
        nose_tip = points["68"][_NOSE_68]
    else:
        nose_tip = _in_subset("nose_tip", nose_tip, place)
    canonical = shape[vertices]
    _check_front(canonical, int(nose_tip), points.get("68"))
    triangles = _turned_outwards(canonical, triangles)

    names, numbers = [], np.zeros(len(triangles), np.uint8)
    inside = {part: _triangles_of(rows, place, triangles) for part, rows in (parts or {}).items()}
    for part, rows in (outlines or {}).items():
        inside[part] = triangles_inside(triangles, _in_subset(f"outline of the {part}", rows, place))
    for part, mask in inside.items():
        if not mask.any():
            raise InputError(f"parts: expected triangles in the {part}, got none")
        names.append(part)
        numbers[mask & (numbers == 0)] = len(names)
    return MeshTopology(
        name=name,
        triangles=triangles,
        canonical=canonical,
        nose_tip=nose_tip,
        points=points,
        part_names=tuple(names),
        triangle_parts=numbers,
        uv=None if uv is None else np.asarray(uv)[vertices],
        flip_index=mirror_index(canonical, int(nose_tip)),
    )


def triangles_inside(triangles: np.ndarray, outline: Sequence[int]) -> np.ndarray:
    """Which triangles (T,) bool lie within a closed line of sides: of its two sides the one with fewer triangles.

    Raises
    ------
    InputError
        A step of the line is no side of a triangle; the line does not part the mesh in two.
    """
    triangles, outline = np.asarray(triangles), np.asarray(outline)
    fence = {frozenset(step) for step in zip(outline.tolist(), np.roll(outline, -1).tolist())}
    neighbours: dict[frozenset, list[int]] = {}
    for i, (a, b, c) in enumerate(triangles.tolist()):
        for side in ((a, b), (b, c), (c, a)):
            neighbours.setdefault(frozenset(side), []).append(i)
    for step in zip(outline.tolist(), np.roll(outline, -1).tolist()):
        if frozenset(step) not in neighbours:
            raise InputError(f"outline: expected sides of triangles, got one from vertex {step[0]} to {step[1]}")
    region = np.full(len(triangles), -1)
    regions = 0
    for start in range(len(triangles)):
        if region[start] >= 0:
            continue
        region[start], waiting = regions, [start]
        while waiting:
            a, b, c = triangles[waiting.pop()].tolist()
            for side in map(frozenset, ((a, b), (b, c), (c, a))):
                for other in neighbours[side] if side not in fence else ():
                    if region[other] < 0:
                        region[other] = regions
                        waiting.append(other)
        regions += 1
    # A mesh may have pieces of its own; the line runs along two regions.
    along = {region[i] for step in fence for i in neighbours[step]}
    if len(along) != 2:
        raise InputError(f"outline: expected a line that parts the mesh in two, got {len(along)} regions along it")
    return region == min(along, key=lambda number: (region == number).sum())


def mirror_index(canonical: np.ndarray, nose_tip: int) -> np.ndarray | None:
    """For each vertex (V,) the one that mirrors it, left to right; None where the shape is not symmetric.

    The middle is the x of the nose's tip. Memory grows with the square of V, so large meshes are done in parts.
    """
    canonical = np.asarray(canonical, np.float64)
    mirrored = canonical * (-1, 1, 1) + (2 * canonical[nose_tip, 0], 0, 0)
    limit = (_ALIKE * np.ptp(canonical[:, 0])) ** 2
    index = np.empty(len(canonical), np.int64)
    for start in range(0, len(canonical), 256):
        part = slice(start, start + 256)
        squares = ((mirrored[part, None] - canonical[None]) ** 2).sum(axis=2)
        index[part] = squares.argmin(axis=1)
        if (squares.min(axis=1) > limit).any():
            return None
    return index if (index[index] == np.arange(len(index))).all() else None


def _check_numbers(name: str, array: np.ndarray, count: int) -> None:
    if array.dtype.kind not in "iu" or not array.size:
        raise InputError(f"{name}: expected whole numbers, got {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() >= count:
        hint = "; do they count from 1?" if array.max() == count and array.min() > 0 else ""
        raise InputError(f"{name}: expected 0 to {count - 1}, got {array.min()} to {array.max()}{hint}")


def _in_subset(name: str, rows, place: np.ndarray) -> np.ndarray:
    """Vertices of the model as numbers of the subset."""
    rows = np.asarray(rows)
    _check_numbers(name, rows, len(place))
    found = place[rows]
    if (found < 0).any():
        raise InputError(f"{name}: expected vertices of the subset, got {np.atleast_1d(rows[found < 0])[:5].tolist()}")
    return found


def _triangles_of(rows: Sequence[int], place: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows)
    _check_numbers("parts", rows, len(place))
    member = np.zeros(len(place) + 1, bool)  # the last for vertices outside the subset
    member[place[rows]] = True
    member[-1] = False
    return member[triangles].all(axis=1)


def _check_front(canonical: np.ndarray, nose_tip: int, points68: np.ndarray | None) -> None:
    """That the face looks at the viewer, upright and not mirrored."""
    if canonical[nose_tip, 2] <= np.median(canonical[:, 2]):
        raise InputError("shape: expected z towards the viewer, got a nose behind the face; turn its axes first")
    if points68 is not None:
        left, right, _, left_mouth, right_mouth = SCHEMES["68"].five_points(canonical[points68][:, :2])
        if left[0] >= right[0] or left_mouth[0] >= right_mouth[0]:
            raise InputError("shape: expected x to the viewer's right, got points of the left eye right of the right")
        if left[1] <= left_mouth[1] or right[1] <= right_mouth[1]:
            raise InputError("shape: expected y up, got eyes below the mouth; turn its axes first")


def _turned_outwards(canonical: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Triangles counter-clockwise as the viewer sees them, most of them at least; all turned or none."""
    a, b, c = np.moveaxis(canonical[triangles, :2].astype(np.float64), 1, 0)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return triangles if area.sum() > 0 else triangles[:, ::-1]
