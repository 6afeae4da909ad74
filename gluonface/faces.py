"""`Faces`, the result of looking at one image, and the landmark schemes. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .errors import InputError

__all__ = ["SCHEMES", "Face", "Faces", "Scheme"]


@dataclass(frozen=True)
class Scheme:
    """Facts about one set of K facial landmarks.

    Parameters
    ----------
    name : str
        As in ``Faces.scheme``: the number of points, written out.
    num_points : int
        K.
    names : tuple of str
        What each point is.
    groups : mapping of str to tuple of int
        The points that belong together (one eye, the mouth, ...).
    flip_pairs : tuple of (int, int)
        Points that exchange places when the image is mirrored.
    """

    name: str
    num_points: int
    names: tuple[str, ...]
    groups: Mapping[str, tuple[int, ...]]
    flip_pairs: tuple[tuple[int, int], ...]

    @property
    def flip_index(self) -> np.ndarray:
        """(K,) int64: row k of the mirrored points is row ``flip_index[k]`` of the original ones."""
        index = np.arange(self.num_points)
        for a, b in self.flip_pairs:
            index[a], index[b] = b, a
        return index


SCHEMES: dict[str, Scheme] = {
    "5": Scheme(
        name="5",
        num_points=5,
        names=("left eye", "right eye", "nose", "left mouth corner", "right mouth corner"),
        groups={"eyes": (0, 1), "nose": (2,), "mouth": (3, 4)},
        flip_pairs=((0, 1), (3, 4)),
    ),
}


# The arrays of `Faces` and the shape each has for one face; None: any length.
_ARRAYS = {
    "boxes": (4,),
    "scores": (),
    "landmarks5": (5, 2),
    "landmarks": (None, 2),
    "pose": (3,),
    "mesh": (None, 3),
}


@dataclass(frozen=True, eq=False)
class Faces:
    """The n faces of one image, in pixels of that image.

    Every array is checked once, copied and made read-only. Coordinates are continuous: the image covers [0, W] x [0, H]
    and the centre of its first pixel is (0.5, 0.5). Index with an int, a slice, a mask or an array of indices; iterate
    to get one `Face` after another.

    Parameters
    ----------
    boxes : (n, 4) array
        x1, y1, x2, y2 with x2 >= x1 and y2 >= y1, finite.
    scores : (n,) array
        Finite, higher is surer.
    landmarks5 : (n, 5, 2) array, optional
        Left eye, right eye, nose, left mouth corner, right mouth corner; left is the viewer's left.
    landmarks : (n, K, 2) array, optional
        Dense landmarks of the scheme named by `scheme`.
    scheme : str, optional
        "5", "19", "29", "68", "98", "106" or "468": needed with `landmarks`, where K must agree.
    pose : (n, 3) array, optional
        Yaw, pitch, roll in degrees, AFLW2000-3D convention (positive: nose to the viewer's left, looking up, head
        tilting clockwise).
    mesh : (n, V, 3) array, optional
        x, y in pixels; z in the same unit, smaller is nearer to the camera.
    size_hw : (int, int)
        Height and width of the image.

    Raises
    ------
    InputError
        An array has the wrong shape, is not finite, or a box is inside out.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks5: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    scheme: str | None = None
    pose: np.ndarray | None = None
    mesh: np.ndarray | None = None
    size_hw: tuple[int, int] = field(kw_only=True)

    def __post_init__(self):
        n = len(np.atleast_1d(self.boxes)) if np.size(self.boxes) else 0
        for name, shape in _ARRAYS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _frozen_array(name, value, n, shape))
            elif name in ("boxes", "scores"):
                raise InputError(f"Faces.{name}: expected an array, got None")
        wrong = np.flatnonzero((self.boxes[:, 2] < self.boxes[:, 0]) | (self.boxes[:, 3] < self.boxes[:, 1]))
        if wrong.size:
            raise InputError(
                f"Faces.boxes: expected x1, y1, x2, y2 with x2 >= x1 and y2 >= y1, got {self.boxes[wrong[0]].tolist()} "
                f"for face {wrong[0]} of {n}"
            )
        object.__setattr__(self, "size_hw", _checked_size(self.size_hw))
        self._check_scheme()

    def _check_scheme(self):
        if (self.landmarks is None) != (self.scheme is None):
            raise InputError("Faces: landmarks and scheme go together, got only one of them")
        if self.scheme is not None and self.scheme != str(self.landmarks.shape[1]):
            raise InputError(
                f"Faces.landmarks: expected shape (n, {self.scheme}, 2) for scheme {self.scheme!r}, "
                f"got {self.landmarks.shape}"
            )

    @classmethod
    def empty(cls, size_hw: tuple[int, int]) -> Faces:
        """No face in an image of that height and width: boxes (0, 4), scores (0,), landmarks5 (0, 5, 2)."""
        return cls(np.zeros((0, 4)), np.zeros(0), landmarks5=np.zeros((0, 5, 2)), size_hw=size_hw)

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Face]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index) -> Faces:
        """The chosen faces: an int gives a `Face`, a slice, mask (n,) or array of indices gives `Faces`."""
        if isinstance(index, (int, np.integer)) and not isinstance(index, (bool, np.bool_)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"face {index} of {len(self)}")
            return self._take(np.array([index]), Face)
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0 and index.dtype != bool:
                index = index.astype(np.int64)  # np.asarray([]) is float
            if index.ndim != 1 or index.dtype.kind not in "bi" or (index.dtype == bool and len(index) != len(self)):
                raise IndexError(
                    f"expected an int, a slice, a mask of length {len(self)} or an array of indices, "
                    f"got {index.dtype} of shape {index.shape}"
                )
        return self._take(index, Faces)

    def _take(self, index, kind):
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        chosen = {name: None if array is None else array[index] for name, array in arrays.items()}
        return kind(**chosen, scheme=self.scheme, size_hw=self.size_hw)

    def __eq__(self, other) -> bool:
        """Same size, scheme, parts and exactly the same numbers."""
        if not isinstance(other, Faces):
            return NotImplemented
        if (self.size_hw, self.scheme) != (other.size_hw, other.scheme):
            return False
        pairs = [(getattr(self, name), getattr(other, name)) for name in _ARRAYS]
        return all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs)

    __hash__ = None

    def __repr__(self) -> str:
        parts = [name for name in ("landmarks5", "pose", "mesh") if getattr(self, name) is not None]
        if self.scheme is not None:
            parts.append(f"{self.scheme} landmarks")
        text = f"{type(self).__name__}({len(self)} in {self.size_hw[1]}x{self.size_hw[0]}"
        if len(self):
            text += f", scores {self.scores.max():.3f}..{self.scores.min():.3f}"
        return text + "".join(f", {part}" for part in parts) + ")"

    def with_(self, **fields) -> Faces:
        """A copy with some fields replaced, checked again (as `dataclasses.replace`)."""
        return dataclasses.replace(self, **fields)

    def sorted_by_score(self) -> Faces:
        """The same faces, best first; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]

    def largest(self) -> Faces:
        """The face whose box has the largest area, as `Faces` of length 1; of length 0 when there is none."""
        areas = (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])
        return self[np.argsort(-areas, kind="stable")[:1]]

    def to_dict(self, image: str | None = None, model: str | None = None) -> dict:
        """Plain numbers ready for JSON: what ``gluonface detect --json`` writes, one such object an image.

        Keys: image, width, height, model, faces; a face has box, score and, where known, landmarks5, landmarks, pose,
        mesh. The numbers are the shortest decimals that give back the same float32.
        """
        height, width = self.size_hw
        faces = []
        for i in range(len(self)):
            face = {"box": _numbers(self.boxes[i]), "score": _numbers(self.scores[i])}
            for name in ("landmarks5", "landmarks", "mesh"):
                if getattr(self, name) is not None:
                    face[name] = _numbers(getattr(self, name)[i])
            if self.pose is not None:
                face["pose"] = dict(zip(("yaw", "pitch", "roll"), _numbers(self.pose[i])))
            faces.append(face)
        return {"image": image, "width": width, "height": height, "model": model, "faces": faces}

    @classmethod
    def from_dict(cls, d: Mapping) -> Faces:
        """The inverse of `to_dict` (image and model are the caller's to keep).

        A part (landmarks5, landmarks, pose, mesh) that some faces have and others lack is an error.

        Raises
        ------
        InputError
            A key is missing or a value has the wrong shape.
        """
        for key in ("width", "height", "faces"):
            if key not in d:
                raise InputError(f"Faces.from_dict: expected the keys width, height and faces, {key!r} is missing")
        size_hw, faces = (d["height"], d["width"]), d["faces"]
        if not faces:
            return cls.empty(size_hw)
        parts = {}
        for name in _ARRAYS:
            key = {"boxes": "box", "scores": "score"}.get(name, name)
            values = [face.get(key) for face in faces]
            missing = [i for i, value in enumerate(values) if value is None]
            if len(missing) == len(values) and name not in ("boxes", "scores"):
                continue
            if missing:
                raise InputError(f"Faces.from_dict: face {missing[0]} of {len(values)} has no {key!r}")
            if key == "pose":
                values = [[value[angle] for angle in ("yaw", "pitch", "roll")] for value in values]
            parts[name] = values
        scheme = str(len(parts["landmarks"][0])) if "landmarks" in parts else None
        return cls(**parts, scheme=scheme, size_hw=size_hw)


class Face(Faces):
    """One face: `Faces` of length 1, with its box and score without the leading axis."""

    def __post_init__(self):
        super().__post_init__()
        if len(self) != 1:
            raise InputError(f"Face: expected one face, got {len(self)}")

    @property
    def box(self) -> np.ndarray:
        """(4,) float32: x1, y1, x2, y2."""
        return self.boxes[0]

    @property
    def score(self) -> float:
        """Higher is surer."""
        return float(self.scores[0])


def _frozen_array(name: str, value, n: int, shape: tuple) -> np.ndarray:
    """A read-only float32 copy of `value`, of shape (n, *shape)."""
    expected = ", ".join(["n", *("K" if size is None else str(size) for size in shape)]) + ("," if not shape else "")
    try:
        array = np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"Faces.{name}: expected an array of shape ({expected}): {error}") from error
    if array.ndim == 1 and array.size == 0 and shape:
        array = array.reshape(0, *(0 if size is None else size for size in shape))
    fits = array.ndim == 1 + len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape[1:]))
    if not fits or len(array) != n:
        raise InputError(f"Faces.{name}: expected shape ({expected}) with n = {n} boxes, got {array.shape}")
    finite = np.isfinite(array.reshape(n, -1)).all(axis=1) if n else np.ones(0, bool)
    if not finite.all():
        i = int(np.argmin(finite))
        raise InputError(f"Faces.{name}: expected finite numbers, got {array[i].tolist()} for face {i} of {n}")
    array.flags.writeable = False
    return array


def _checked_size(size_hw) -> tuple[int, int]:
    try:
        height, width = (int(value) for value in size_hw)
    except (TypeError, ValueError) as error:
        raise InputError(f"Faces.size_hw: expected (height, width), got {size_hw!r}") from error
    if height < 1 or width < 1:
        raise InputError(f"Faces.size_hw: expected a height and width of at least 1, got {(height, width)}")
    return height, width


def _numbers(array: np.ndarray):
    """Nested lists of the shortest decimals that are the same float32 (0.1, not 0.10000000149)."""
    if array.ndim:
        return [_numbers(row) for row in array]
    return float(np.format_float_scientific(array, unique=True))
