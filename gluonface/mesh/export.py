"""Meshes as OBJ and PLY files, in the colours of the photo."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError, InputError
from ..files import write_atomically
from .topology import MeshTopology

__all__ = ["ObjMesh", "export_mesh", "read_obj", "turn_upright", "vertex_colors", "write_obj", "write_ply"]


def turn_upright(mesh: np.ndarray) -> np.ndarray:
    """Meshes (..., V, 3) from the axes of photos, y down and z away, to those of canonical shapes; or back."""
    return np.asarray(mesh) * (1, -1, -1)


def export_mesh(
    path: str | os.PathLike, mesh: np.ndarray, topology: MeshTopology, image: np.ndarray | None = None
) -> None:
    """Write a mesh in pixels of a photo as .obj or .ply, turned upright, with its middle at the origin.

    Parameters
    ----------
    path : path
        Ends in .obj (with texture coordinates, where the topology has some) or in .ply.
    mesh : (V, 3) array
    topology : MeshTopology
    image : (H, W, 3) uint8 RGB array, optional
        The photo: vertices get its colours.

    Raises
    ------
    InputError
        Another suffix or a mesh of another shape.
    """
    mesh = topology.checked(mesh, dims=(3,))
    upright = turn_upright(mesh - mesh.mean(axis=-2, keepdims=True))
    colors = None if image is None else vertex_colors(image, mesh)
    suffix = Path(path).suffix.lower()
    if suffix == ".obj":
        write_obj(path, upright, topology.triangles, colors, topology.uv)
    elif suffix == ".ply":
        write_ply(path, upright, topology.triangles, colors)
    else:
        raise InputError(f"expected a path that ends in .obj or .ply, got {os.fspath(path)!r}")


def vertex_colors(image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Colours (V, 3) uint8 RGB of a photo where the vertices (V, 2 or 3) lie; outside, those of its border.

    A vertex that the face hides gets the colour of what hides it.
    """
    image, mesh = np.asarray(image), np.asarray(mesh, np.float64)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"expected an RGB image (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if mesh.ndim != 2 or mesh.shape[1] not in (2, 3) or not np.isfinite(mesh).all():
        raise InputError(f"expected a mesh (V, 3) of finite numbers, got {mesh.shape}")
    last = np.array([image.shape[1] - 1, image.shape[0] - 1])
    place = np.clip(mesh[:, :2] - 0.5, 0, last)
    low = np.floor(place).astype(np.int64)
    (x1, y1), (x2, y2) = low.T, np.minimum(low + 1, last).T
    right, down = ((place - low)[:, k, None] for k in range(2))
    upper = image[y1, x1] * (1 - right) + image[y1, x2] * right
    lower = image[y2, x1] * (1 - right) + image[y2, x2] * right
    return np.round(upper * (1 - down) + lower * down).astype(np.uint8)


class ObjMesh(NamedTuple):
    """What `read_obj` finds: vertices (V, 3), triangles (T, 3), colours (V, 3) uint8 or None, uv (V, 2) or None."""

    vertices: np.ndarray
    triangles: np.ndarray
    colors: np.ndarray | None
    uv: np.ndarray | None


def write_obj(
    path: str | os.PathLike,
    vertices: np.ndarray,
    triangles: np.ndarray,
    colors: np.ndarray | None = None,
    uv: np.ndarray | None = None,
) -> None:
    """Write a Wavefront OBJ file, whole or not at all.

    Parameters
    ----------
    path : path
    vertices : (V, 3) array
        Written as they stand, as the shortest decimals that are the same float32; such files have y up.
    triangles : (T, 3) int array
    colors : (V, 3) uint8 RGB array, optional
        Written behind the coordinates, 0 to 1, which most programs read.
    uv : (V, 2) array, optional
        Texture coordinates from the upper left corner; such files count from the lower left one.

    Raises
    ------
    InputError
        Shapes that do not fit.
    """
    vertices, triangles, colors = _checked(vertices, triangles, colors)
    lines = ["# gluonface"]
    tails = [""] * len(vertices) if colors is None else [" {:.4f} {:.4f} {:.4f}".format(*c) for c in colors / 255]
    lines += [f"v {_decimals(vertex)}{tail}" for vertex, tail in zip(vertices, tails)]
    face = "f {} {} {}"
    if uv is not None:
        uv = np.asarray(uv, np.float32)
        if uv.shape != (len(vertices), 2) or not np.isfinite(uv).all():
            raise InputError(f"expected finite uv of shape ({len(vertices)}, 2), got {uv.shape}")
        lines += [f"vt {u:.6f} {1 - v:.6f}" for u, v in uv.tolist()]
        face = "f {0}/{0} {1}/{1} {2}/{2}"
    lines += [face.format(*corners) for corners in (triangles + 1).tolist()]
    write_atomically(path, "\n".join(lines) + "\n")


def read_obj(path: str | os.PathLike) -> ObjMesh:
    """Read vertices and triangles of a Wavefront OBJ file; polygons become fans of triangles, all else is passed over.

    Texture coordinates are read where each vertex has one and the same everywhere.

    Raises
    ------
    DataError
        The file cannot be read, or a line does not make sense; the message names it.
    """
    try:
        text = Path(path).read_text("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: {error}") from error
    vertices, colors, textures, triangles, places = [], [], [], [], {}
    for number, line in enumerate(text.splitlines(), start=1):
        word, *values = line.split("#")[0].split() or [""]
        try:
            if word == "v":
                vertices.append([float(value) for value in values[:3]])
                colors.append([float(value) for value in values[3:6]])
                if len(vertices[-1]) != 3:
                    raise ValueError("expected three coordinates")
            elif word == "vt":
                textures.append([float(values[0]), 1 - float(values[1])])
            elif word == "f":
                corners = [_corner(value, len(vertices), len(textures)) for value in values]
                if len(corners) < 3:
                    raise ValueError("expected at least three corners")
                triangles += [[corners[0][0], a[0], b[0]] for a, b in itertools.pairwise(corners[1:])]
                for vertex, place in corners:
                    places.setdefault(vertex, set()).add(place)
        except (ValueError, IndexError) as error:
            raise DataError(f"{path}:{number}: {error}") from error
    if not vertices or not triangles:
        raise DataError(f"{path}: expected vertices and faces, got {len(vertices)} and {len(triangles)}")
    uv = None
    if len(places) == len(vertices) and all(len(p) == 1 and None not in p for p in places.values()):
        uv = np.array([textures[next(iter(places[vertex]))] for vertex in range(len(vertices))], np.float32)
    paint = None
    if all(len(color) == 3 for color in colors):
        paint = np.round(255 * np.clip(colors, 0, 1)).astype(np.uint8)
    return ObjMesh(np.array(vertices, np.float32), np.array(triangles, np.int32), paint, uv)


def write_ply(
    path: str | os.PathLike, vertices: np.ndarray, triangles: np.ndarray, colors: np.ndarray | None = None
) -> None:
    """Write a PLY file (ASCII), whole or not at all; parameters as those of `write_obj`."""
    vertices, triangles, colors = _checked(vertices, triangles, colors)
    head = ["ply", "format ascii 1.0", "comment gluonface", f"element vertex {len(vertices)}"]
    head += [f"property float {axis}" for axis in "xyz"]
    rows = [_decimals(vertex) for vertex in vertices]
    if colors is not None:
        head += [f"property uchar {color}" for color in ("red", "green", "blue")]
        rows = [f"{row} {r} {g} {b}" for row, (r, g, b) in zip(rows, colors.tolist())]
    head += [f"element face {len(triangles)}", "property list uchar int vertex_indices", "end_header"]
    faces = ["3 {} {} {}".format(*corners) for corners in triangles.tolist()]
    write_atomically(path, "\n".join([*head, *rows, *faces]) + "\n")


def _corner(text: str, vertices: int, textures: int) -> tuple[int, int | None]:
    """Vertex and texture, from 0, of "7", "7/7" or "7/7/7"; negative numbers count from the last one so far."""
    parts = text.split("/")
    return _zero_based(parts[0], vertices), _zero_based(parts[1], textures) if len(parts) > 1 and parts[1] else None


def _zero_based(text: str, count: int) -> int:
    number = int(text)
    index = number - 1 if number > 0 else count + number
    if number == 0 or not 0 <= index < count:
        raise ValueError(f"expected a number 1 to {count}, got {text}")
    return index


def _decimals(row: np.ndarray) -> str:
    return " ".join(np.format_float_positional(value, unique=True, trim="-") for value in row)


def _checked(vertices, triangles, colors) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    vertices, triangles = np.asarray(vertices, np.float32), np.asarray(triangles)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise InputError(f"expected vertices (V, 3) of finite numbers, got {vertices.shape}")
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise InputError(f"expected triangles (T, 3) of whole numbers, got {triangles.shape} {triangles.dtype}")
    if triangles.size and (triangles.min() < 0 or triangles.max() >= len(vertices)):
        raise InputError(f"expected triangles of {len(vertices)} vertices, got {triangles.min()} to {triangles.max()}")
    if colors is not None:
        colors = np.asarray(colors)
        if colors.shape != vertices.shape or colors.dtype != np.uint8:
            raise InputError(f"expected colours {vertices.shape} uint8, got {colors.shape} {colors.dtype}")
    return vertices, triangles.astype(np.int64), colors
