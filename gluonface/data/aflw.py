"""AFLW (Koestinger et al., ICCVW 2011) with the 19 points of Zhu et al. (CVPR 2016). No MXNet here.

``AFLWinfo_release.mat`` lies beside the photos of AFLW, which are in ``data/flickr``, ``flickr`` or ``images`` with the
folders 0, 2 and 3. Its variables, n = 24,386 faces:

    nameList (n, 1)   photo of each face, such as 0/image00002.jpg; several faces may be in one photo
    bbox (n, 4)       left, right, top, bottom
    data (n, 38)      19 x, then 19 y; the points that cannot be seen are completed
    mask_new (n, 19)  1 where the point can be seen
    ra (1, n)         order of the protocol, from 1: the first 20,000 are for training

MATLAB counts pixels from 1: half a pixel is subtracted from points and boxes. (No document of the set says so; if the
numbers count from 0, all points and boxes lie one pixel too far to the upper left. Differences are not touched by it.)
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from .annotation_files import load_mat
from .base import FaceLabels, FaceSample
from .landmark_sets import FROM_ONE, labels_of, sample_of

__all__ = ["NUM_FACES", "SPLITS", "frontal_faces", "read_aflw"]

SPLITS = ("train", "test", "frontal")
#: Faces of the protocol. How many of the test faces are frontal follows from the file.
NUM_FACES = {"train": 20_000, "test": 4_386}

_SHAPES = {"nameList": 1, "bbox": 4, "data": 38, "mask_new": 19}
_PHOTOS = ("data/flickr", "flickr", "images")


def read_aflw(root: str | os.PathLike, split: str = "train", partial: bool = False) -> list[FaceSample]:
    """Read a split of AFLW with 19 points.

    Parameters
    ----------
    root : path
        Folder with AFLWinfo_release.mat and the photos, which are named relative to it.
    split : str
        "train" : the first 20,000 faces of the protocol's order.
        "test" : the other 4,386.
        "frontal" : those of "test" whose 19 points can all be seen.
    partial : bool
        Skip photos that are missing.

    Returns
    -------
    list of FaceSample
        One for each photo with its faces of that split, in the order of the protocol. All 19 points are known; the
        attributes are ``visible``, 19 times True or False, and ``face_size``, sqrt(width x height) of the set's box,
        by which the protocol divides.

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong.
    MissingDependencyError
        SciPy is not installed.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    root = Path(root)
    path = root / "AFLWinfo_release.mat"
    mat = _checked(path, load_mat(path, (*_SHAPES, "ra")))
    folder = next((name for name in _PHOTOS if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: the photos of AFLW are missing, expected one of the folders {', '.join(_PHOTOS)}")
    order = mat["ra"] - 1
    rows = order[: NUM_FACES["train"]] if split == "train" else order[NUM_FACES["train"] :]
    if split == "frontal":
        rows = rows[(mat["mask_new"][rows] == 1).all(axis=1)]
    rows_of: dict[str, list[int]] = {}
    for row in rows:
        rows_of.setdefault(str(np.ravel(mat["nameList"][row, 0])[0]), []).append(int(row))
    samples = []
    for photo, faces in rows_of.items():
        name = f"{folder}/{photo}"
        if partial and not (root / name).is_file():
            continue
        boxes = mat["bbox"][faces][:, [0, 2, 1, 3]]
        sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        attributes = [
            {"visible": (mat["mask_new"][row] == 1).tolist(), "face_size": round(float(size), 3)}
            for row, size in zip(faces, sizes, strict=True)
        ]
        points = mat["data"][faces].reshape(-1, 2, 19).transpose(0, 2, 1)
        labels = labels_of("19", points + FROM_ONE, boxes + FROM_ONE, attributes=attributes)
        samples.append(sample_of(root, name, labels, "aflw", f"{path}, face {faces[0] + 1}"))
    if not samples:
        raise DataError(f"{path}: the split {split} has no face whose photo is in {root / folder}")
    return samples


def frontal_faces(labels: FaceLabels) -> np.ndarray:
    """Which faces (M,) of the split "test" are also those of "frontal".

    Raises
    ------
    DataError
        A face lacks the attribute ``visible`` that `read_aflw` gives.
    """
    bare = [i for i, face in enumerate(labels.attributes) if "visible" not in face]
    if bare:
        raise DataError(
            f'face {bare[0]} of {len(labels)}: expected the attribute "visible" of faces from read_aflw, got '
            f"{sorted(labels.attributes[bare[0]])}"
        )
    return np.array([all(face["visible"]) for face in labels.attributes], bool)


def _checked(path: Path, mat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(mat["nameList"])
    for key, columns in _SHAPES.items():
        if mat[key].shape != (count, columns):
            raise DataError(f"{path}: expected {key} of shape {(count, columns)}, got {mat[key].shape}")
    try:
        mat = {key: value if key == "nameList" else value.astype(np.float64) for key, value in mat.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: expected arrays of numbers: {error}") from error
    order = mat["ra"].ravel()
    if not np.array_equal(np.sort(order), np.arange(1, count + 1)):
        raise DataError(f"{path}: expected ra to hold the numbers 1 to {count} in some order")
    left, right, top, bottom = mat["bbox"].T
    wrong = np.flatnonzero(~((right > left) & (bottom > top)) | ~np.isfinite(mat["data"]).all(axis=1))
    if wrong.size:
        row = wrong[0]
        raise DataError(
            f"{path}, face {row + 1}: expected finite points and a box left < right, top < bottom, "
            f"got the box {mat['bbox'][row].tolist()} and the points {mat['data'][row].tolist()}"
        )
    return {**mat, "ra": order.astype(np.int64)}
