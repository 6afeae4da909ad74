"""BIWI Kinect Head Pose (Fanelli et al., IJCV 2013): heads turning before a sensor, official layout. No MXNet here.

The archive unpacks to a folder ``hpdb`` with 24 sequences of 20 people:

    01/ ... 24/     frame_00003_rgb.png, frame_00003_pose.txt, ..., rgb.cal

A pose file holds a rotation M (3, 3) and the head's centre c in mm, as the depth camera sees them: M turns a head that
looks straight into the camera. ``rgb.cal`` holds the colour camera: intrinsic matrix (3, 3), lens distortion (all 0),
then the rotation Q (3, 3) and shift t (3, in mm) that lead from the depth camera to it, x' = Q x + t, and the size of
its pictures.

From M to yaw, pitch, roll. A camera's axes are x right, y down, z away from it; those of `FaceLabels.pose` are x right,
y up, z towards the viewer. A vector v of the first becomes S v of the second with S = diag(1, -1, -1), for the head at
rest as for the turned one, so M becomes R = S M S:

    R = [m00 -m01 -m02; -m10 m11 m12; -m20 m21 m22]
    pitch = atan2(m12, m22)   yaw = asin(m02)   roll = -atan2(m01, m00)

Signs: the nose of a head at rest points to (0, 0, -1) and of the turned one to -(m02, m12, m22). A positive m02 is a
nose to the left of the picture: a positive yaw. (Hopenet's code, which works on the transpose of M, comes to the same
angles.) The colour camera stands turned against the depth camera by about a degree; the papers leave that out and so
does the pose here.

A box is not labelled. It is the one round an ellipsoid of the size of a head (`HEAD_MM`), which stands at c, turns with
the head and is seen by the colour camera.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..pose import pose_from_rotation
from .annotation_files import parse_numbers, read_lines
from .base import FaceLabels, FaceSample
from .landmark_sets import FROM_ZERO, sample_of

__all__ = ["HEAD_MM", "NUM_FACES", "SEQUENCES", "SPLITS", "pose_of_rotation", "read_biwi"]

SEQUENCES = tuple(f"{number:02d}" for number in range(1, 25))
# The papers that train on two thirds of the sequences do not say which. Here nobody is on both sides: 3 and 15, 7 and
# 22 (here), 2 and 21, 5 and 18 (there) show the same person.
_TEST = ("03", "07", "11", "12", "15", "16", "20", "22")
#: "all" tests nets that learned from another set; "train" and "test", 16 and 8, are for learning from this one.
SPLITS = {
    "all": SEQUENCES,
    "train": tuple(name for name in SEQUENCES if name not in _TEST),
    "test": _TEST,
}
#: Faces, one a frame; how many of them belong to a part follows from the files.
NUM_FACES = {"all": 15_678}
#: Width, height and depth of the ellipsoid in mm: the mean breadth of heads, forehead to chin (what a box of WIDER FACE
#: spans) and the mean length of heads, rounded to 10 mm.
HEAD_MM = (150.0, 200.0, 190.0)

_TO_VIEWER = np.diag([1.0, -1.0, -1.0])
# How far a matrix with six digits may be from a rotation.
_TOLERANCE = 0.01


def pose_of_rotation(rotation: np.ndarray) -> np.ndarray:
    """(3,) yaw, pitch, roll in degrees of a pose file's matrix (3, 3), see the top of this module."""
    return pose_from_rotation((_TO_VIEWER @ rotation @ _TO_VIEWER)[None])[0]


def read_biwi(
    root: str | os.PathLike,
    sequences: Sequence[str] = SEQUENCES,
    head_mm: tuple[float, float, float] = HEAD_MM,
    partial: bool = False,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[FaceSample]:
    """Read sequences of BIWI.

    Parameters
    ----------
    root : path
        The folder hpdb. Frames are named relative to it.
    sequences : sequence of str
        Such as ("01", "12"), or a value of `SPLITS`.
    head_mm : (float, float, float)
        Width, height and depth of a head, for the boxes.
    partial : bool
        Skip sequences that are missing, frames without pose and poses without frame.
    progress : function
        Wraps the list of files that is gone through, such as tqdm.

    Returns
    -------
    list of FaceSample
        One face each, by sequence and frame: box and pose. The attribute ``sequence`` is "01" to "24".

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong, naming the file.
    """
    unknown = [name for name in sequences if name not in SEQUENCES]
    if unknown or isinstance(sequences, str):
        raise DataError(f"sequences must be of {SEQUENCES[0]} to {SEQUENCES[-1]}, got {unknown or sequences!r}")
    root = Path(root)
    paths: list[Path] = []
    cameras: dict[str, _Camera] = {}
    for name in sequences:
        if partial and not (root / name).is_dir():
            continue
        cameras[name] = _Camera.read(root / name / "rgb.cal")
        paths += _frames(root / name, partial)
    if not paths:
        raise DataError(f"{root}: expected the folder hpdb with the sequences {', '.join(sequences)}, found none")
    samples = []
    for path in progress(paths):
        rotation, centre = _read_pose(path)
        sequence = path.parent.name
        faces = FaceLabels(
            boxes=cameras[sequence].box_of(rotation, centre, head_mm, str(path))[None],
            pose=pose_of_rotation(rotation)[None],
            attributes=[{"sequence": sequence}],
        )
        photo = f"{sequence}/{path.name.replace('_pose.txt', '_rgb.png')}"
        samples.append(sample_of(root, photo, faces, "biwi", str(path)))
    return samples


def _frames(folder: Path, partial: bool) -> list[Path]:
    """The pose files of a sequence, in order; also where only the picture is there, unless a part is wanted."""
    found = {
        kind: {match[1] for path in folder.iterdir() if (match := re.fullmatch(rf"(frame_\d+)_{kind}", path.name))}
        for kind in (r"pose\.txt", r"rgb\.png")
    }
    posed, pictured = found.values()
    names = posed & pictured if partial else posed | pictured
    if not names and not partial:
        raise DataError(f"{folder}: expected frame_00003_rgb.png, frame_00003_pose.txt and so on, found none")
    return [folder / f"{name}_pose.txt" for name in sorted(names)]


def _rows(path: Path, shape: Sequence[int | None], what: str) -> list[list[float]]:
    """The numbers of a file whose lines, empty ones left out, hold ``shape`` of them; None: as many as there are."""
    lines = [(i, line.split()) for i, line in enumerate(read_lines(path), start=1) if line.strip()]
    if len(lines) != len(shape):
        raise DataError(f"{path}: expected {len(shape)} lines with numbers ({what}), got {len(lines)}")
    return [
        parse_numbers(words, len(words) if count is None else count, f"{path}, line {i}", what)
        for (i, words), count in zip(lines, shape, strict=True)
    ]


def _rotation(rows: list[list[float]], place: str) -> np.ndarray:
    matrix = np.array(rows)
    if np.abs(matrix @ matrix.T - np.eye(3)).max() > _TOLERANCE or np.linalg.det(matrix) < 0:
        raise DataError(f"{place}: expected a rotation matrix, got {matrix.tolist()}")
    return matrix


def _read_pose(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = _rows(path, (3, 3, 3, 3), "rotation and centre of the head")
    return _rotation(rows[:3], str(path)), np.array(rows[3])


class _Camera:
    """The colour camera of a sequence.

    Parameters
    ----------
    intrinsic : ndarray (3, 3)
        Pixel indices from 0, as OpenCV has them.
    rotation : ndarray (3, 3)
    shift : ndarray (3,)
        From the depth camera, in mm.
    """

    def __init__(self, intrinsic: np.ndarray, rotation: np.ndarray, shift: np.ndarray):
        self.focal = intrinsic[[0, 1], [0, 1]]
        self.centre = intrinsic[:2, 2] + FROM_ZERO
        self.rotation, self.shift = rotation, shift

    @classmethod
    def read(cls, path: Path) -> _Camera:
        """From rgb.cal; DataError when it is missing or another file."""
        what = "intrinsic matrix, distortion, rotation, shift, size"
        rows = _rows(path, (3, 3, 3, None, 3, 3, 3, 3, 2), what)
        intrinsic = np.array(rows[:3])
        if not (intrinsic[[0, 1], [0, 1]] > 0).all():
            raise DataError(f"{path}: expected an intrinsic matrix with positive focal lengths, got {rows[:3]}")
        if any(rows[3]):
            raise DataError(f"{path}: expected a lens without distortion, numbers that are 0, got {rows[3]}")
        return cls(intrinsic, _rotation(rows[4:7], str(path)), np.array(rows[7]))

    def box_of(
        self, rotation: np.ndarray, centre: np.ndarray, head_mm: tuple[float, float, float], place: str
    ) -> np.ndarray:
        """(4,) box in continuous pixels round the ellipsoid of a head, as from afar: one scale for all its points."""
        x, y, distance = self.rotation @ centre + self.shift
        if distance <= max(head_mm):
            raise DataError(f"{place}: expected a head before the camera, got its centre {centre.tolist()} mm")
        # Half the extent of an ellipsoid along an axis is the length of its half-axes seen along it.
        half = np.linalg.norm((self.rotation @ rotation)[:2] * (np.array(head_mm) / 2), axis=1)
        scale = self.focal / distance
        middle = self.centre + scale * (x, y)
        return np.concatenate([middle - scale * half, middle + scale * half])
