"""The label layout every dataset reader gives and every transform moves. NumPy only.

Coordinates are continuous pixels: the image covers [0, W] x [0, H] and the centre of its first pixel is (0.5, 0.5).
Letters: M labelled faces, V vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..faces import SCHEMES

__all__ = ["FaceLabels", "FaceSample", "concat_labels", "label_points_only"]

# Field -> shape of one face's row and dtype.
_ARRAYS: dict[str, tuple[tuple[int, ...], type]] = {
    "boxes": ((4,), np.float32),
    "ignore": ((), np.bool_),
    "landmarks5": ((5, 2), np.float32),
    "pose": ((3,), np.float32),
    "mesh_row": ((), np.int64),
    "landmarks5_human": ((), np.bool_),
    "points_only": ((), np.bool_),
}
_LISTS = ("attributes", "box_from")
_UNKNOWN = {
    "ignore": False,
    "landmarks5": np.nan,
    "pose": np.nan,
    "mesh_row": -1,
    "landmarks5_human": False,
    "points_only": False,
}


@dataclass(frozen=True, eq=False)
class FaceLabels:
    """The M labelled faces and ignore regions of one image.

    Only `boxes` is needed; what is left out is unknown. Transforms change no array in place: they return new labels.

    Parameters
    ----------
    boxes : (M, 4) float32
        x1, y1, x2, y2 in pixels.
    ignore : (M,) bool
        True for a region that is neither a face to learn nor background.
    landmarks5 : (M, 5, 2) float32
        Left eye, right eye, nose, left and right mouth corner, left being the viewer's left on the upright face. NaN
        where unknown.
    pose : (M, 3) float32
        Yaw, pitch, roll in degrees, convention of 300W-LP and AFLW2000 (``R = Rx(pitch) Ry(yaw) Rz(roll)``): positive
        yaw turns the nose to the viewer's left, positive pitch looks up, positive roll tilts clockwise. NaN where
        unknown.
    landmarks : (M, K, 2) float32, optional
        Dense landmarks of `scheme`, NaN for a face without; None when no face has them.
    scheme : str, optional
        Which landmarks: a key of `gluonface.faces.SCHEMES`; goes with `landmarks`.
    mesh_row : (M,) int64
        Row of the dataset's mesh array, -1 where there is none.
    mesh : (M, V, 3) float32, optional
        Vertices: x, y in pixels, z in the same unit, smaller nearer to the camera, 0 at the tip of the nose. NaN for a
        face without; None when no face has one. See `attach_meshes`.
    mesh_flip : (V,) int64, optional
        Vertex v of a mirrored mesh is vertex ``mesh_flip[v]`` of the original one; goes with `mesh`. None where the
        mesh is not symmetric: a mirrored face then has no mesh.
    landmarks5_human : (M,) bool
        True where people, not a detector, placed the five points.
    points_only : (M,) bool
        True for a face whose points, pose and mesh are to be learnt, but neither its class nor its box; see
        `label_points_only`.
    attributes : list of dict
        What else the dataset says about each face.
    box_from : list of str
        Where each box comes from ("human", "landmarks", "teacher"); "" where unknown.

    Raises
    ------
    InputError
        When a field has the wrong shape or length; the message names it.
    """

    boxes: np.ndarray
    ignore: np.ndarray | None = None
    landmarks5: np.ndarray | None = None
    pose: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    scheme: str | None = None
    mesh_row: np.ndarray | None = None
    mesh: np.ndarray | None = None
    mesh_flip: np.ndarray | None = None
    landmarks5_human: np.ndarray | None = None
    points_only: np.ndarray | None = None
    attributes: list[dict[str, Any]] | None = None
    box_from: list[str] | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        for name, (shape, dtype) in _ARRAYS.items():
            value = getattr(self, name)
            if value is None:
                value = np.full((count, *shape), _UNKNOWN[name], dtype)
            else:
                value = np.asarray(value, dtype)
                if value.shape != (count, *shape):
                    if count or value.size:
                        raise InputError(
                            f"{name} of {count} faces must have the shape {(count, *shape)}, got {value.shape}"
                        )
                    value = value.reshape(count, *shape)
            object.__setattr__(self, name, value)
        self._check_landmarks(count)
        self._check_mesh(count)
        for name, empty in (("attributes", dict), ("box_from", str)):
            value = getattr(self, name)
            value = [empty() for _ in range(count)] if value is None else list(value)
            if len(value) != count:
                raise InputError(f"{name} must have one entry for each of the {count} faces, got {len(value)}")
            object.__setattr__(self, name, value)

    def _check_landmarks(self, count: int) -> None:
        if (self.landmarks is None) != (self.scheme is None):
            raise InputError("landmarks and scheme go together, got only one of them")
        if self.landmarks is None:
            return
        if self.scheme not in SCHEMES:
            raise InputError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        landmarks = np.asarray(self.landmarks, np.float32)
        shape = (count, SCHEMES[self.scheme].num_points, 2)
        if landmarks.shape != shape:
            if count or landmarks.size:
                raise InputError(f"landmarks of {count} faces must have the shape {shape}, got {landmarks.shape}")
            landmarks = landmarks.reshape(shape)
        object.__setattr__(self, "landmarks", landmarks)

    def _check_mesh(self, count: int) -> None:
        if self.mesh is None:
            if self.mesh_flip is not None:
                raise InputError("mesh_flip goes with mesh, got it alone")
            return
        mesh = np.asarray(self.mesh, np.float32)
        if mesh.ndim != 3 or len(mesh) != count or mesh.shape[2] != 3:
            raise InputError(f"mesh of {count} faces must have the shape ({count}, V, 3), got {mesh.shape}")
        object.__setattr__(self, "mesh", mesh)
        if self.mesh_flip is not None:
            flip = np.asarray(self.mesh_flip, np.int64)
            vertices = np.arange(mesh.shape[1])
            if not np.array_equal(np.sort(flip), vertices) or (flip[flip] != vertices).any():
                raise InputError(
                    f"mesh_flip must name for each of {mesh.shape[1]} vertices its mirror image, and for that the "
                    f"vertex, got an array of shape {flip.shape}"
                )
            object.__setattr__(self, "mesh_flip", flip)

    @classmethod
    def empty(cls) -> FaceLabels:
        """Labels of an image without faces: boxes of shape (0, 4)."""
        return cls(boxes=np.zeros((0, 4), np.float32))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> FaceLabels:
        """The faces of a slice, a mask or an array of indices, as new labels."""
        rows = np.arange(len(self))[index]
        if rows.ndim != 1:
            raise InputError("FaceLabels takes a slice, a mask or a sequence of indices; for one face use labels[[i]]")
        picked = {name: getattr(self, name)[rows] for name in _ARRAYS}
        if self.landmarks is not None:
            picked.update(landmarks=self.landmarks[rows], scheme=self.scheme)
        if self.mesh is not None:
            picked.update(mesh=self.mesh[rows], mesh_flip=self.mesh_flip)
        return FaceLabels(**picked, **{name: [getattr(self, name)[row] for row in rows] for name in _LISTS})

    def with_(self, **changes: Any) -> FaceLabels:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    @property
    def face_sizes(self) -> np.ndarray:
        """(M,) float32 square root of each box's area in pixels: the size by which faces are called small or large."""
        sides = np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 0)
        return np.sqrt(sides[:, 0] * sides[:, 1])


def concat_labels(parts: Sequence[FaceLabels]) -> FaceLabels:
    """The faces of several labels, one after another, in one frame of coordinates.

    Raises
    ------
    InputError
        They hold landmarks of different schemes, or meshes of different kinds.
    """
    if not parts:
        return FaceLabels.empty()
    merged: dict[str, Any] = {}
    for name in _ARRAYS:
        merged[name] = np.concatenate([getattr(part, name) for part in parts])
    schemes = {part.scheme for part in parts} - {None}
    if len(schemes) > 1:
        raise InputError(f"labels with landmarks of one scheme can be joined, got {', '.join(sorted(schemes))}")
    if schemes:
        merged["scheme"] = schemes.pop()
        shape = (SCHEMES[merged["scheme"]].num_points, 2)
        merged["landmarks"] = np.concatenate(
            [np.full((len(p), *shape), np.nan, np.float32) if p.landmarks is None else p.landmarks for p in parts]
        )
    meshes = [part for part in parts if part.mesh is not None]
    if meshes:
        shape, flip = meshes[0].mesh.shape[1:], meshes[0].mesh_flip
        if any(p.mesh.shape[1:] != shape or not np.array_equal(p.mesh_flip, flip) for p in meshes):
            counts = ", ".join(sorted({str(p.mesh.shape[1]) for p in meshes}))
            raise InputError(f"labels with meshes of one kind can be joined, got meshes of {counts} vertices")
        merged["mesh_flip"] = flip
        merged["mesh"] = np.concatenate(
            [np.full((len(p), *shape), np.nan, np.float32) if p.mesh is None else p.mesh for p in parts]
        )
    for name in _LISTS:
        merged[name] = [entry for part in parts for entry in getattr(part, name)]
    return FaceLabels(**merged)


def label_points_only(sample: FaceSample) -> FaceSample:
    """A photo of which one face is labelled and others may be in it, made fit to train a detector on.

    Points, pose and mesh of the labelled face are learnt, its class and box are not, and the whole photo is an ignore
    region: nothing in it is background.
    """
    height, width = sample.size_hw
    faces = sample.faces.with_(points_only=~sample.faces.ignore)
    photo = FaceLabels(np.array([[0, 0, width, height]], np.float32), ignore=np.array([True]))
    return replace(sample, faces=concat_labels([faces, photo]))


@dataclass(frozen=True, eq=False)
class FaceSample:
    """One annotated image of a dataset, not yet opened.

    Parameters
    ----------
    image_path : str
        Where the image file is.
    size_hw : (int, int)
        Height and width in pixels.
    faces : FaceLabels
        Its labels, in pixels of that size.
    source : str
        Which collection it comes from; "" where unknown.
    name : str
        The image as its annotation file calls it, relative to the images folder; the path where not given.
    """

    image_path: str
    size_hw: tuple[int, int]
    faces: FaceLabels
    source: str = ""
    name: str = field(default="")

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.image_path)
