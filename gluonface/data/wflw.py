"""WFLW (Wu et al., CVPR 2018): 98 points and six attributes in its official layout. No MXNet here.

The two archives unpack into one folder:

    WFLW_images/<event>/*.jpg
    WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{train,test}.txt

A line of a list is one face: x, y of 98 points, x1, y1, x2, y2 of the detection rectangle, the attributes pose,
expression, illumination, make-up, occlusion, blur (0 or 1) and the photo's name. A photo may have several lines. The
numbers are pixel indices from 0: half a pixel is added to points and rectangle.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import DataError
from .annotation_files import parse_numbers, read_lines
from .base import FaceSample
from .landmark_sets import FROM_ZERO, labels_of, sample_of

__all__ = ["ATTRIBUTES", "NUM_FACES", "read_wflw", "wflw_subset"]

#: In the order of the lists.
ATTRIBUTES = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
#: Faces of the official splits; a photo may have several.
NUM_FACES = {"train": 7_500, "test": 2_500}

_LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"
_COUNT = 2 * 98 + 4 + len(ATTRIBUTES)


def read_wflw(root: str | os.PathLike, split: str = "train", partial: bool = False) -> list[FaceSample]:
    """Read a split of WFLW.

    Parameters
    ----------
    root : path
        Folder with WFLW_images and WFLW_annotations. Photos are named relative to it.
    split : "train" or "test"
    partial : bool
        Skip photos that are missing.

    Returns
    -------
    list of FaceSample
        One for each photo with all its faces, in the order of the list. The attributes are 0 or 1 under the names in
        `ATTRIBUTES`; boxes are the detection rectangles ("teacher").

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong, naming file and line.
    """
    if split not in NUM_FACES:
        raise DataError(f"split must be one of {', '.join(NUM_FACES)}, got {split!r}")
    root = Path(root)
    path = root / _LIST.format(split)
    faces_of: dict[str, list[list[float]]] = {}
    line_of: dict[str, int] = {}
    for i, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name, row = _parse_line(line, f"{path}, line {i}")
        faces_of.setdefault(name, []).append(row)
        line_of.setdefault(name, i)
    samples = []
    for name, rows in faces_of.items():
        if partial and not (root / "WFLW_images" / name).is_file():
            continue
        table = np.array(rows)
        faces = labels_of(
            "98",
            table[:, :196].reshape(-1, 98, 2) + FROM_ZERO,
            table[:, 196:200] + FROM_ZERO,
            "teacher",
            [dict(zip(ATTRIBUTES, map(int, row), strict=True)) for row in table[:, 200:]],
        )
        samples.append(sample_of(root, f"WFLW_images/{name}", faces, "wflw", f"{path}, line {line_of[name]}"))
    if not samples:
        raise DataError(f"{path}: none of the {len(faces_of):,} photos that it lists is in {root / 'WFLW_images'}")
    return samples


def _parse_line(line: str, place: str) -> tuple[str, list[float]]:
    words = line.split(None, _COUNT)
    if len(words) <= _COUNT:
        raise DataError(
            f"{place}: expected {_COUNT} numbers (98 points, rectangle, six attributes) and the name of a photo, "
            f"got {len(words)} words"
        )
    row = parse_numbers(words[:_COUNT], _COUNT, place, "98 points, rectangle, six attributes")
    x1, y1, x2, y2 = row[196:200]
    if x2 <= x1 or y2 <= y1:
        raise DataError(f"{place}: expected a rectangle x1 y1 x2 y2 with x1 < x2 and y1 < y2, got {row[196:200]}")
    if not set(row[200:]) <= {0, 1}:
        raise DataError(f"{place}: expected six attributes of 0 or 1, got {' '.join(words[200:_COUNT])}")
    return words[_COUNT].strip(), row


def wflw_subset(samples: Iterable[FaceSample], attribute: str) -> list[FaceSample]:
    """The faces with an attribute, as the papers' tables list them: pose (large pose), expression, illumination, ...

    Photos without such a face are left out.

    Raises
    ------
    DataError
        There is no such attribute.
    """
    if attribute not in ATTRIBUTES:
        raise DataError(f"attribute must be one of {', '.join(ATTRIBUTES)}, got {attribute!r}")
    kept = []
    for sample in samples:
        mask = np.array([face.get(attribute) == 1 for face in sample.faces.attributes], np.bool_)
        if mask.any():
            faces = sample.faces[mask]
            kept.append(FaceSample(sample.image_path, sample.size_hw, faces, sample.source, sample.name))
    return kept
