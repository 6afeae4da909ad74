"""AFW and PASCAL faces with the annotations of Mathias et al. (ECCV 2014, "Face detection without bells and whistles").
No MXNet here.

The evaluation toolbox published with the paper holds one .mat file for each set, which papers since then measure
against: ``new_annotations_AFW.mat`` (205 photos, 545 faces, 71 of them to be ignored) and
``Annotations_Face_PASCALLayout_large_fixed.mat`` (851 photos, 1,635 faces, 55 to be ignored). Both have a struct array
``Annotations`` (n, 1):

    imgname           photo, without folder: of AFW's testimages, or of PASCAL VOC's JPEGImages
    objects (M, 6)    x1, y1, x2, y2 in pixels from 1, all inclusive; 0; 1 where the face is to be ignored

An older file of PASCAL faces has (M, 4). AFW's own first file (anno2.mat) is of another form and leaves faces out.

The toolbox ignores faces less than 30 pixels wide or high, too. Its average precision is that of PASCAL VOC at an
intersection over union of 0.5, of boxes that were moved and stretched, all alike, to fit the annotations:
`gluonface.metrics.fit_boxes`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from .annotation_files import load_mat
from .base import FaceLabels, FaceSample
from .landmark_sets import sample_of

__all__ = ["MIN_SIDE", "NUM_PHOTOS", "read_afw", "read_pascal_faces"]

#: Of the published files.
NUM_PHOTOS = {"afw": 205, "pascal_faces": 851}
#: Pixels; the toolbox ignores narrower and lower faces.
MIN_SIDE = 30.0


def read_afw(
    images: str | os.PathLike,
    annotations: str | os.PathLike,
    min_side: float = MIN_SIDE,
    partial: bool = False,
) -> list[FaceSample]:
    """Read AFW (Zhu and Ramanan, CVPR 2012).

    Parameters
    ----------
    images : path
        Folder of the photos, testimages.
    annotations : path
        new_annotations_AFW.mat.
    min_side : float
        Faces less wide or high become ignore regions; 0 for all faces.
    partial : bool
        Skip photos that are missing.

    Returns
    -------
    list of FaceSample
        In the order of the file.

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong.
    MissingDependencyError
        SciPy is not installed.
    """
    return _read(Path(images), Path(annotations), "afw", min_side, partial)


def read_pascal_faces(
    images: str | os.PathLike,
    annotations: str | os.PathLike,
    min_side: float = MIN_SIDE,
    partial: bool = False,
) -> list[FaceSample]:
    """Read PASCAL faces (Yan et al., IVC 2014): photos of PASCAL VOC, Annotations_Face_PASCALLayout_large_fixed.mat.

    Parameters, result and errors as `read_afw`.
    """
    return _read(Path(images), Path(annotations), "pascal_faces", min_side, partial)


def _read(images: Path, path: Path, source: str, min_side: float, partial: bool) -> list[FaceSample]:
    rows = load_mat(path, ("Annotations",))["Annotations"]
    fields = rows.dtype.names or ()
    if not {"imgname", "objects"} <= set(fields):
        raise DataError(f"{path}: expected structs with imgname and objects, got fields {', '.join(fields) or 'none'}")
    samples = []
    for i, row in enumerate(rows.ravel(), start=1):
        place = f"{path}, photo {i}"
        names = np.ravel(row["imgname"])
        if len(names) != 1 or not isinstance(names[0], str):
            raise DataError(f"{place}: expected the name of the photo, got {row['imgname']!r}")
        name = str(names[0]).strip()
        if partial and not (images / name).is_file():
            continue
        labels = _labels(np.asarray(row["objects"]), f"{place}, {name}", min_side)
        samples.append(sample_of(images, name, labels, source, place))
    if not samples:
        raise DataError(f"{path}: none of the {rows.size} photos is in {images}")
    return samples


def _labels(objects: np.ndarray, place: str, min_side: float) -> FaceLabels:
    if not objects.size:
        return FaceLabels.empty()
    if objects.ndim != 2 or objects.shape[1] not in (4, 6) or objects.dtype.kind not in "iuf":
        raise DataError(f"{place}: expected objects of shape (M, 6) or (M, 4), got {objects.shape}, {objects.dtype}")
    objects = objects.astype(np.float64)
    boxes = objects[:, :4] - [1, 1, 0, 0]  # the last pixel belongs to the face
    sides = objects[:, 2:4] - objects[:, :2]  # as the toolbox counts them
    wrong = np.flatnonzero(~(sides > 0).all(axis=1))
    if wrong.size:
        raise DataError(f"{place}, face {wrong[0] + 1}: expected x1 < x2 and y1 < y2, got {objects[wrong[0]].tolist()}")
    marked = objects[:, 5] != 0 if objects.shape[1] == 6 else np.zeros(len(objects), bool)
    return FaceLabels(boxes, ignore=marked | (sides < min_side).any(axis=1), box_from=["human"] * len(boxes))
