"""`Faces`, the result of looking at one image, and the landmark schemes. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .errors import InputError
from .pose import rotation_from_pose

__all__ = ["SCHEMES", "Face", "Faces", "Scheme"]


@dataclass(frozen=True)
class Scheme:
    """Facts about one set of K facial landmarks. Left and right are the viewer's.

    Parameters
    ----------
    name : str
        As in ``Faces.scheme``: the number of points, written out.
    num_points : int
        K.
    names : tuple of str
        What each point is.
    groups : mapping of str to tuple of int
        The points of a part of the face: jaw, brows, eyes, nose, mouth, as far as the scheme has them.
    flip_pairs : tuple of (int, int)
        Points that exchange places when the image is mirrored.
    five : tuple of five tuples of int
        The five points of `Faces.landmarks5`, each the mean of these.
    contours : tuple of tuple of int
        Points that follow one another along a line of the face; closed where the first one returns at the end.
    eye_corners : (int, int)
        Outer corners of left and right eye: the distance that "interocular" errors are divided by. The eyes' centres
        where the scheme has no corners.
    """

    name: str
    num_points: int
    names: tuple[str, ...]
    groups: Mapping[str, tuple[int, ...]]
    flip_pairs: tuple[tuple[int, int], ...]
    five: tuple[tuple[int, ...], ...]
    contours: tuple[tuple[int, ...], ...]
    eye_corners: tuple[int, int]

    @property
    def flip_index(self) -> np.ndarray:
        """(K,) int64: row k of the mirrored points is row ``flip_index[k]`` of the original ones."""
        index = np.arange(self.num_points)
        for a, b in self.flip_pairs:
            index[a], index[b] = b, a
        return index

    def five_points(self, landmarks: np.ndarray) -> np.ndarray:
        """Points (..., K, 2) to the five (..., 5, 2): left eye, right eye, nose, left and right mouth corner.

        Raises
        ------
        InputError
            Not an array of K points.
        """
        landmarks = np.asarray(landmarks)
        if landmarks.ndim < 2 or landmarks.shape[-2:] != (self.num_points, 2):
            raise InputError(f"expected points of shape (..., {self.num_points}, 2), got {landmarks.shape}")
        return np.stack([landmarks[..., list(part), :].mean(axis=-2) for part in self.five], axis=-2)


def _run(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _closed(first: int, last: int) -> tuple[int, ...]:
    return (*_run(first, last), first)


def _numbered(*parts: tuple[str, int]) -> tuple[str, ...]:
    """("jaw", 3) to "jaw 1", "jaw 2", "jaw 3"; a part of one point keeps its name."""
    return tuple(f"{name} {i}" if count > 1 else name for name, count in parts for i in range(1, count + 1))


def _mirrored(*runs: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Pairs of runs (first, last) of points that read the same from either end, such as a jaw from ear to ear."""
    return tuple((first + i, last - i) for first, last in runs for i in range((last - first + 1) // 2))


# Brows and mouths of the 98 and 106 points are numbered alike, at an offset of 8 for the mouth.
_BROWS_9 = ((33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47))
_MOUTH_20 = ((0, 6), (1, 5), (2, 4), (11, 7), (10, 8), (12, 16), (13, 15), (19, 17))

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="5",
            num_points=5,
            names=("left eye", "right eye", "nose", "left mouth corner", "right mouth corner"),
            groups={"eyes": (0, 1), "nose": (2,), "mouth": (3, 4)},
            flip_pairs=((0, 1), (3, 4)),
            five=((0,), (1,), (2,), (3,), (4,)),
            contours=(),
            eye_corners=(0, 1),
        ),
        # AFLW without the ears, as landmark papers use it.
        Scheme(
            name="19",
            num_points=19,
            names=(
                *("left brow outer end", "left brow centre", "left brow inner end"),
                *("right brow inner end", "right brow centre", "right brow outer end"),
                *("left eye outer corner", "left eye centre", "left eye inner corner"),
                *("right eye inner corner", "right eye centre", "right eye outer corner"),
                *("nose left", "nose tip", "nose right"),
                *("left mouth corner", "mouth centre", "right mouth corner", "chin"),
            ),
            groups={
                "jaw": (18,),
                "brows": _run(0, 5),
                "eyes": _run(6, 11),
                "nose": _run(12, 14),
                "mouth": _run(15, 17),
            },
            flip_pairs=_mirrored((0, 5), (6, 11), (12, 14), (15, 17)),
            five=((6, 7, 8), (9, 10, 11), (13,), (15,), (17,)),
            contours=(_run(0, 2), _run(3, 5), _run(6, 8), _run(9, 11), _run(12, 14), _run(15, 17)),
            eye_corners=(6, 11),
        ),
        # COFW (Burgos-Artizzu et al., ICCV 2013).
        Scheme(
            name="29",
            num_points=29,
            names=(
                *("left brow outer end", "right brow outer end", "left brow inner end", "right brow inner end"),
                *("left brow top", "left brow bottom", "right brow top", "right brow bottom"),
                *("left eye outer corner", "right eye outer corner", "left eye inner corner", "right eye inner corner"),
                *("left upper lid", "left lower lid", "right upper lid", "right lower lid"),
                *("left pupil", "right pupil", "nose left", "nose right", "nose tip", "nose base"),
                *("left mouth corner", "right mouth corner", "upper lip top", "upper lip bottom"),
                *("lower lip top", "lower lip bottom", "chin"),
            ),
            groups={
                "jaw": (28,),
                "brows": _run(0, 7),
                "eyes": _run(8, 17),
                "nose": _run(18, 21),
                "mouth": _run(22, 27),
            },
            flip_pairs=(
                *((0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11)),
                *((12, 14), (13, 15), (16, 17), (18, 19), (22, 23)),
            ),
            five=((8, 10, 12, 13), (9, 11, 14, 15), (20,), (22,), (23,)),
            contours=(
                *((0, 4, 2, 5, 0), (1, 6, 3, 7, 1), (8, 12, 10, 13, 8), (9, 14, 11, 15, 9)),
                *((18, 21, 19), (22, 24, 23, 27, 22), (22, 25, 23, 26, 22)),
            ),
            eye_corners=(8, 9),
        ),
        # 300-W, Multi-PIE order.
        Scheme(
            name="68",
            num_points=68,
            names=_numbered(
                *(("jaw", 17), ("left brow", 5), ("right brow", 5), ("nose bridge", 4), ("nose base", 5)),
                *(("left eye", 6), ("right eye", 6), ("outer lips", 12), ("inner lips", 8)),
            ),
            groups={
                "jaw": _run(0, 16),
                "brows": _run(17, 26),
                "eyes": _run(36, 47),
                "nose": _run(27, 35),
                "mouth": _run(48, 67),
            },
            flip_pairs=(
                *_mirrored((0, 16), (17, 26), (31, 35), (48, 54), (55, 59), (60, 64), (65, 67)),
                *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
            ),
            five=(_run(36, 41), _run(42, 47), (30,), (48,), (54,)),
            contours=(
                *(_run(0, 16), _run(17, 21), _run(22, 26), _run(27, 30), _run(31, 35)),
                *(_closed(36, 41), _closed(42, 47), _closed(48, 59), _closed(60, 67)),
            ),
            eye_corners=(36, 45),
        ),
        # WFLW (Wu et al., CVPR 2018).
        Scheme(
            name="98",
            num_points=98,
            names=_numbered(
                *(("jaw", 33), ("left brow", 9), ("right brow", 9), ("nose bridge", 4), ("nose base", 5)),
                *(("left eye", 8), ("right eye", 8), ("outer lips", 12), ("inner lips", 8)),
                *(("left pupil", 1), ("right pupil", 1)),
            ),
            groups={
                "jaw": _run(0, 32),
                "brows": _run(33, 50),
                "eyes": (*_run(60, 75), 96, 97),
                "nose": _run(51, 59),
                "mouth": _run(76, 95),
            },
            flip_pairs=(
                *_mirrored((0, 32), (55, 59)),
                *_BROWS_9,
                *((60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)),
                *((76 + a, 76 + b) for a, b in _MOUTH_20),
                (96, 97),
            ),
            five=(_run(60, 67), _run(68, 75), (54,), (76,), (82,)),
            contours=(
                *(_run(0, 32), _closed(33, 41), _closed(42, 50), _run(51, 54), _run(55, 59)),
                *(_closed(60, 67), _closed(68, 75), _closed(76, 87), _closed(88, 95)),
            ),
            eye_corners=(60, 72),
        ),
        # JD-landmark (Liu et al., 2019), also LaPa.
        Scheme(
            name="106",
            num_points=106,
            names=_numbered(
                *(("jaw", 33), ("left brow", 9), ("right brow", 9), ("nose bridge", 4), ("nose wings", 11)),
                *(("left eye", 8), ("left eye centre", 1), ("right eye", 8), ("right eye centre", 1)),
                *(("outer lips", 12), ("inner lips", 8), ("left pupil", 1), ("right pupil", 1)),
            ),
            groups={
                "jaw": _run(0, 32),
                "brows": _run(33, 50),
                "eyes": (*_run(66, 83), 104, 105),
                "nose": _run(51, 65),
                "mouth": _run(84, 103),
            },
            flip_pairs=(
                *_mirrored((0, 32), (55, 65)),
                *_BROWS_9,
                *((66, 79), (67, 78), (68, 77), (69, 76), (70, 75), (71, 82), (72, 81), (73, 80), (74, 83)),
                *((84 + a, 84 + b) for a, b in _MOUTH_20),
                (104, 105),
            ),
            five=(_run(66, 73), _run(75, 82), (54,), (84,), (90,)),
            contours=(
                *(_run(0, 32), _closed(33, 41), _closed(42, 50), _run(51, 54), _run(55, 65)),
                *(_closed(66, 73), _closed(75, 82), _closed(84, 95), _closed(96, 103)),
            ),
            eye_corners=(66, 79),
        ),
    )
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

    @property
    def alignment_points(self) -> np.ndarray:
        """(n, 5, 2) float32: the five points a face is aligned by, those of the dense landmarks where there are some.

        Dense points are measured in an aligned crop and lie better than the detector's five (sub-pixel heatmap
        landmarks, Table 7).

        Raises
        ------
        InputError
            These faces have neither.
        """
        if self.landmarks is not None and self.scheme in SCHEMES:
            return SCHEMES[self.scheme].five_points(self.landmarks)
        if self.landmarks5 is None:
            raise InputError("these faces have neither landmarks5 nor dense landmarks to align by")
        return self.landmarks5

    @property
    def rotation(self) -> np.ndarray:
        """(n, 3, 3) float32: rotation matrices of `pose`, convention of `gluonface.pose`.

        The columns say where the axes of the head point, those that point to the viewer's right, up and at the viewer
        while it looks at the viewer.

        Raises
        ------
        InputError
            These faces have no pose.
        """
        if self.pose is None:
            raise InputError("these faces have no pose to make a rotation of; a detector with a pose head gives one")
        return rotation_from_pose(self.pose).astype(np.float32)

    @property
    def roll(self) -> np.ndarray:
        """(n,) float32: degrees by which heads are tilted, positive clockwise as the viewer sees it.

        That of `pose` where there is one. Otherwise the tilt in the image, from -180 to 180, of the upright face that
        comes nearest to eyes and mouth of `alignment_points` (least squares): turning the photo by an angle adds this
        angle. It is that of the pose for heads that look at the viewer, and within 10 degrees of it up to a yaw of 30
        and a pitch of 20 degrees, both at once; beyond, `gluonface.pose.fit_pose` tells the three angles apart. NaN of
        faces without points, or with all in one place.
        """
        if self.pose is not None:
            return self.pose[:, 2].copy()
        try:
            points = self.alignment_points.astype(np.float64)
        except InputError:
            return np.full(len(self), np.nan, np.float32)
        left_eye, right_eye, _, left_mouth, right_mouth = np.moveaxis(points, 1, 0)
        across = right_eye - left_eye
        down = (left_mouth + right_mouth - left_eye - right_eye) / 2
        # Down, a quarter turn back, points across. On a face both are about as long; the middle of two points is known
        # twice as well as the difference between two.
        x, y = (across + 2 * np.stack([down[:, 1], -down[:, 0]], axis=1)).T
        # Adding 0 makes -0.0 (whose angle would be -180 degrees) 0.0.
        angles = np.rad2deg(np.arctan2(y + 0.0, x))
        return np.where(np.hypot(x, y) > 0, angles, np.nan).astype(np.float32)

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
