"""What the vertices of a mesh are: triangles, shape at rest, points, parts. Data, read from a file."""

from __future__ import annotations

import functools
import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..errors import DataError, InputError
from ..faces import SCHEMES
from ..files import write_atomically

__all__ = ["MeshTopology", "load_topology", "read_arrays", "save_topology", "topology_468"]

_FORMAT, _VERSION = "gluonface mesh topology", 1
_POINTS = "points_"  # before the name of an index map in a file
_SHIPPED = Path(__file__).with_name("mesh468.npz")
# Part numbers are uint8, 0 is none.
_MOST_PARTS = 255


@dataclass(frozen=True, eq=False)
class MeshTopology:
    """Facts about one kind of mesh with V vertices and T triangles. Every array is checked, copied and made read-only.

    Parameters
    ----------
    name : str
        Of this kind.
    triangles : (T, 3) int array
        Vertices of each, counter-clockwise for who sees them from outside.
    canonical : (V, 3) array
        The mean face, looking at the viewer: x to the viewer's right, y up, z towards the viewer, any unit.
    nose_tip : int
        The vertex that depth counts from (RetinaFace, equation 4).
    points : mapping of str to (K, m) or (K,) int array
        For a landmark scheme such as "68" the vertices whose mean each point is; -1 fills rows that need fewer than m.
    part_names : tuple of str
        Of parts 1, 2, ...
    triangle_parts : (T,) uint8 array, optional
        The part of each triangle, 0 for none; by default no triangle is of any part.
    uv : (V, 2) array, optional
        Where a vertex lies on a texture, 0 to 1, from its upper left corner.
    flip_index : (V,) int array, optional
        Row v of the mirrored mesh is row ``flip_index[v]`` of the original one. None where the kind is not symmetric.

    Raises
    ------
    InputError
        An array has the wrong shape, is not finite or names vertices that there are not.
    """

    name: str
    triangles: np.ndarray
    canonical: np.ndarray
    nose_tip: int
    points: Mapping[str, np.ndarray] = field(default_factory=dict)
    part_names: tuple[str, ...] = ()
    triangle_parts: np.ndarray | None = None
    uv: np.ndarray | None = None
    flip_index: np.ndarray | None = None

    def __post_init__(self):
        canonical = _numbers("canonical", self.canonical, 3)
        count = len(canonical)
        triangles = _vertices("triangles", self.triangles, count)
        if triangles.ndim != 2 or triangles.shape[1] != 3 or not len(triangles):
            raise InputError(f"triangles: expected shape (T, 3) with T of at least 1, got {triangles.shape}")
        twice = (triangles == np.roll(triangles, 1, axis=1)).any(axis=1)
        if twice.any():
            i = int(np.argmax(twice))
            raise InputError(f"triangles: expected three different vertices, got {triangles[i].tolist()} in row {i}")
        nose_tip = _vertices("nose_tip", self.nose_tip, count)
        if nose_tip.ndim:
            raise InputError(f"nose_tip: expected one vertex, got an array of shape {nose_tip.shape}")
        set_ = functools.partial(object.__setattr__, self)
        set_("canonical", canonical)
        set_("triangles", triangles)
        set_("nose_tip", int(nose_tip))
        set_("points", MappingProxyType({str(key): _index_map(key, rows, count) for key, rows in self.points.items()}))
        set_("part_names", tuple(str(part) for part in self.part_names))
        set_("triangle_parts", _checked_parts(self.triangle_parts, self.part_names, len(triangles)))
        if self.uv is not None:
            set_("uv", _numbers("uv", self.uv, 2, count))
        if self.flip_index is not None:
            flip = _vertices("flip_index", self.flip_index, count)
            if flip.shape != (count,) or (flip[flip] != np.arange(count)).any():
                raise InputError(f"flip_index: expected {count} vertices whose mirror images mirror back to them")
            set_("flip_index", flip)

    def __repr__(self) -> str:
        return (
            f"MeshTopology({self.name!r}, {self.num_vertices} vertices, {len(self.triangles)} triangles, "
            f"{len(self.part_names)} parts, points {', '.join(self.points) or 'none'})"
        )

    @property
    def num_vertices(self) -> int:
        """V."""
        return len(self.canonical)

    @functools.cached_property
    def edges(self) -> np.ndarray:
        """(E, 2) int32: the sides of the triangles, each once, smaller vertex first."""
        sides = np.concatenate([self.triangles[:, [0, 1]], self.triangles[:, [1, 2]], self.triangles[:, [2, 0]]])
        return _frozen(np.unique(np.sort(sides, axis=1), axis=0))

    def part_triangles(self, part: str) -> np.ndarray:
        """(T,) bool: the triangles of a part.

        Raises
        ------
        InputError
            There is no part of that name.
        """
        if part not in self.part_names:
            raise InputError(f"{self.name}: expected a part of {', '.join(self.part_names) or 'no part'}, got {part!r}")
        return self.triangle_parts == 1 + self.part_names.index(part)

    def points_of(self, mesh: np.ndarray, scheme: str = "68") -> np.ndarray:
        """Landmarks of meshes by index map.

        Parameters
        ----------
        mesh : (..., V, D) array
            Of three dimensions, or of the first two.
        scheme : str
            A key of `points`; "5" follows from "68" where it has no map of its own.

        Returns
        -------
        (..., K, D) float array

        Raises
        ------
        InputError
            Another number of vertices; a scheme without a map.
        """
        mesh = self.checked(mesh)
        if scheme not in self.points:
            if scheme == "5" and "68" in self.points:
                dense = self.points_of(mesh, "68")
                return np.stack([dense[..., list(part), :].mean(axis=-2) for part in SCHEMES["68"].five], axis=-2)
            raise InputError(f"{self.name}: expected a scheme of {', '.join(self.points) or 'none'}, got {scheme!r}")
        rows = self.points[scheme]
        used = (rows >= 0)[..., None]
        gathered = np.where(used, mesh[..., rows, :], 0)
        return gathered.sum(axis=-2) / used.sum(axis=-2)

    def checked(self, mesh: np.ndarray, dims: tuple[int, ...] = (2, 3)) -> np.ndarray:
        """Meshes (..., V, D) as floats, in the precision they have; `InputError` for other shapes."""
        mesh = np.asarray(mesh)
        if mesh.dtype not in (np.float32, np.float64):
            mesh = mesh.astype(np.float64)
        if mesh.ndim < 2 or mesh.shape[-2] != self.num_vertices or mesh.shape[-1] not in dims:
            wanted = " or ".join(map(str, dims))
            raise InputError(
                f"{self.name}: expected a mesh of shape (..., {self.num_vertices}, {wanted}), got {mesh.shape}"
            )
        return mesh


def topology_468() -> MeshTopology:
    """The 468 vertices of MediaPipe's face mesh: canonical shape, 898 triangles, texture coordinates, parts, points.

    Its map to 68 points takes the vertices that lie nearest to the points as they are labelled in 300-W,
    mirror-symmetric; "68_common" is the table in common use, whose points of the jaw lie on the outline of the mesh.
    """
    return _shipped()


@functools.cache
def _shipped() -> MeshTopology:
    return load_topology(_SHIPPED)


def save_topology(path: str | os.PathLike, topology: MeshTopology) -> None:
    """Write a topology as a .npz file, whole or not at all."""
    arrays = {
        "format": _FORMAT,
        "version": _VERSION,
        "name": topology.name,
        "triangles": topology.triangles,
        "canonical": topology.canonical,
        "nose_tip": topology.nose_tip,
        "part_names": np.array(topology.part_names, dtype=np.str_),
        "triangle_parts": topology.triangle_parts,
        "uv": topology.uv,
        "flip_index": topology.flip_index,
        **{_POINTS + scheme: rows for scheme, rows in topology.points.items()},
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{key: value for key, value in arrays.items() if value is not None})
    write_atomically(path, buffer.getvalue())


def load_topology(path: str | os.PathLike) -> MeshTopology:
    """Read a topology that `save_topology` wrote.

    Raises
    ------
    DataError
        The file cannot be read, is of another kind or version, or its arrays do not fit together.
    """
    arrays = read_arrays(path)
    kind = str(arrays.pop("format", "")) or "no format"
    if kind != _FORMAT:
        raise DataError(f"{path}: expected a {_FORMAT}, got a file of {kind!r}; train/make_topology.py makes them")
    version = arrays.pop("version", None)
    if version is None or version.shape or version.dtype.kind not in "iu" or int(version) != _VERSION:
        raise DataError(f"{path}: expected version {_VERSION} of the format, got {version}; update gluonface")
    points = {key[len(_POINTS) :]: arrays.pop(key) for key in sorted(arrays) if key.startswith(_POINTS)}
    missing = {"name", "triangles", "canonical", "nose_tip"} - set(arrays)
    unknown = set(arrays) - set(MeshTopology.__dataclass_fields__)
    if missing or unknown:
        raise DataError(f"{path}: arrays missing: {sorted(missing) or 'none'}, unknown: {sorted(unknown) or 'none'}")
    arrays["part_names"] = tuple(np.atleast_1d(arrays.get("part_names", [])).tolist())
    try:
        return MeshTopology(**{**arrays, "name": str(arrays["name"]), "points": points})
    except InputError as error:
        raise DataError(f"{path}: {error}") from error


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name, or that of a .npy file as "array"; never pickled objects.

    Raises
    ------
    DataError
        The file cannot be read, or is neither.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"array": found}
        with found as file:
            return {key: file[key] for key in file.files}
    # What NumPy and zipfile raise for damaged files; RuntimeError is for encrypted ones and odd compression.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, SyntaxError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read as .npz or .npy: {error}") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _numbers(name: str, value, columns: int, rows: int | None = None) -> np.ndarray:
    """A read-only float32 copy of shape (rows, columns)."""
    try:
        array = np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers: {error}") from error
    if array.ndim != 2 or array.shape[1] != columns or not len(array) or rows not in (None, len(array)):
        raise InputError(f"{name}: expected shape ({'V' if rows is None else rows}, {columns}), got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: expected finite numbers, got {array[~np.isfinite(array)][0]} in it")
    return _frozen(array)


def _vertices(name: str, value, count: int, lowest: int = 0) -> np.ndarray:
    """A read-only int32 copy of numbers of vertices."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name}: expected numbers of vertices, got {array.dtype}")
    if array.size and (array.min() < lowest or array.max() >= count):
        raise InputError(f"{name}: expected vertices {lowest} to {count - 1}, got {array.min()} to {array.max()}")
    return _frozen(array.astype(np.int32))


def _index_map(scheme: str, rows, count: int) -> np.ndarray:
    """(K, m) int32, -1 for none."""
    name = f"points of scheme {scheme!r}"
    rows = _vertices(name, rows, count, lowest=-1)
    if rows.ndim == 1:
        rows = rows[:, None]
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"{name}: expected shape (K,) or (K, m), got {rows.shape}")
    if scheme in SCHEMES and len(rows) != SCHEMES[scheme].num_points:
        raise InputError(f"{name}: expected {SCHEMES[scheme].num_points} rows, got {len(rows)}")
    empty = (rows < 0).all(axis=1)
    if empty.any():
        raise InputError(f"{name}: expected at least one vertex a point, got none for point {int(np.argmax(empty))}")
    return rows


def _checked_parts(value, names: tuple[str, ...], count: int) -> np.ndarray:
    """(count,) uint8."""
    if len(names) > _MOST_PARTS or len(set(names)) != len(names):
        raise InputError(f"part_names: expected at most {_MOST_PARTS} different names, got {names}")
    array = np.zeros(count, np.uint8) if value is None else np.asarray(value)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(f"triangle_parts: expected {count} numbers of parts, got {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() > len(names):
        raise InputError(f"triangle_parts: expected 0 to {len(names)}, got {array.min()} to {array.max()}")
    return _frozen(array.astype(np.uint8))
