"""COFW (Burgos-Artizzu et al., ICCV 2013): 29 points with occlusion, in its official files. No MXNet here.

``COFW_train_color.mat`` and ``COFW_test_color.mat`` are MATLAB files of version 7.3, that is HDF5, with the photos
inside. HDF5 lists the axes of MATLAB backwards; n faces, one a photo:

    IsTr, IsT         (1, n)    references to photos (3, W, H) or, grey, (W, H), uint8
    phisTr, phisT     (87, n)   29 x, 29 y, 29 times 1 where the point is occluded
    bboxesTr, bboxesT (4, n)    x, y, width, height

MATLAB counts pixels from 1: half a pixel is subtracted from points and boxes. (No document of the set says so, see
`aflw`.) Reading needs h5py: pip install "gluonface[cofw]".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .._compat import import_optional
from ..errors import DataError
from ..image import save_image
from .base import FaceLabels, FaceSample
from .landmark_sets import FROM_ONE, labels_of

__all__ = ["NUM_FACES", "read_cofw", "unpack_cofw"]

#: Faces, one a photo, of the official splits.
NUM_FACES = {"train": 1_345, "test": 507}

_VARIABLES = {"train": ("IsTr", "phisTr", "bboxesTr"), "test": ("IsT", "phisT", "bboxesT")}
_POINTS = 29


def read_cofw(root: str | os.PathLike, split: str = "train") -> Iterator[tuple[np.ndarray, FaceLabels]]:
    """Photos of a split of COFW with their labels, one after another.

    Parameters
    ----------
    root : path
        Folder with COFW_train_color.mat and COFW_test_color.mat.
    split : "train" or "test"

    Yields
    ------
    (image, faces)
        image (H, W, 3) uint8 RGB; faces with one face. All 29 points are known; the attribute ``occluded`` is 29 times
        True or False.

    Raises
    ------
    DataError
        The file is missing or wrong.
    MissingDependencyError
        h5py is not installed.
    """
    if split not in NUM_FACES:
        raise DataError(f"split must be one of {', '.join(NUM_FACES)}, got {split!r}")
    path = Path(root) / f"COFW_{split}_color.mat"
    h5py = import_optional("h5py", "cofw")
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected it among the files of the color version of COFW")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not a MATLAB file of version 7.3: {error}") from error
    with file:
        missing = [key for key in _VARIABLES[split] if key not in file]
        if missing:
            raise DataError(f"{path}: the variables {', '.join(missing)} are missing, expected {_VARIABLES[split]}")
        photos, points, boxes = (np.asarray(file[key][()]) for key in _VARIABLES[split])
        photos = photos.ravel()
        for key, array, rows in zip(_VARIABLES[split][1:], (points, boxes), (3 * _POINTS, 4), strict=True):
            if array.shape != (rows, len(photos)):
                raise DataError(f"{path}: expected {key} of shape {(rows, len(photos))}, got {array.shape}")
        for i, photo in enumerate(photos):
            place = f"{path}, photo {i + 1}"
            yield _image_of(np.asarray(file[photo][()]), place), _labels_of(points[:, i], boxes[:, i], place)


def _image_of(array: np.ndarray, place: str) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and len(array) != 3):
        raise DataError(
            f"{place}: expected pixels of shape (W, H) or (3, W, H), uint8, got {array.shape}, {array.dtype}"
        )
    image = array.T
    return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2))


def _labels_of(points: np.ndarray, xywh: np.ndarray, place: str) -> FaceLabels:
    points, (x, y, width, height) = points.astype(np.float64).reshape(3, _POINTS), xywh.astype(np.float64)
    if not np.isfinite(points).all() or not (width > 0 and height > 0 and np.isfinite(xywh).all()):
        raise DataError(f"{place}: expected finite points and a box x, y, width, height, got the box {xywh.tolist()}")
    box = np.array([[x, y, x + width, y + height]])
    attributes = [{"occluded": (points[2] == 1).tolist()}]
    return labels_of("29", points[:2].T[None] + FROM_ONE, box + FROM_ONE, attributes=attributes)


def unpack_cofw(root: str | os.PathLike, split: str, images: str | os.PathLike) -> list[FaceSample]:
    """Write the photos of a split as ``<images>/cofw_<split>/<number>.png`` and give samples of them.

    Parameters
    ----------
    root, split
        As for `read_cofw`.
    images : path
        Folder that the photos are named relative to; made when it is missing.

    Raises
    ------
    DataError, ImageError, MissingDependencyError
        As `read_cofw`; a photo cannot be written.
    """
    images = Path(images)
    samples = []
    for i, (image, faces) in enumerate(read_cofw(root, split), start=1):
        name = f"cofw_{split}/{i:06d}.png"
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(images / name, image)
        samples.append(FaceSample(str(images / name), image.shape[:2], faces, source="cofw", name=name))
    if not samples:
        raise DataError(f"{Path(root) / f'COFW_{split}_color.mat'}: holds no photos")
    return samples
