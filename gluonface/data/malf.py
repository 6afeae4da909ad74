"""MALF (Yang et al., FG 2015): square boxes, an ignore flag and what each face is like. No MXNet here.

The set has 5,250 photos with 11,931 faces. The labels of its 5,000 test photos are kept by its authors: detections are
sent to them, and only the 250 example photos can be scored at home. `write_malf` makes what is sent.

The files are given out on request and no public document states the form of the annotations. This reader takes text
in blocks, the form of the results that are sent:

    name of a photo
    number of its faces
    x y width height [ignore [yaw pitch roll [gender glasses occluded exaggerated]]]

with one such line for each face; whoever has the set in another form must write these lines from it. ``ignore`` is 1
for faces smaller than 20 x 20 or too hard to recognise (838 in the set), yaw, pitch and roll are degrees of deformation
(0 small, 1 medium, 2 large), the rest are numbers as the set has them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..faces import Faces
from ..files import write_atomically
from .annotation_files import parse_numbers, read_lines
from .base import FaceLabels, FaceSample
from .landmark_sets import sample_of

__all__ = ["read_malf", "write_malf"]

_ATTRIBUTES = ("yaw", "pitch", "roll", "gender", "glasses", "occluded", "exaggerated")
_COLUMNS = (4, 5, 8, 12)
_SUFFIXES = ("", ".jpg", ".jpeg", ".png")


def read_malf(images: str | os.PathLike, annotations: str | os.PathLike, partial: bool = False) -> list[FaceSample]:
    """Read MALF.

    Parameters
    ----------
    images : path
        Folder of the photos.
    annotations : path
        Text file of the form above; names may come without their suffix.
    partial : bool
        Skip photos that are missing.

    Returns
    -------
    list of FaceSample
        In the order of the file. A box is [x, y, x + width, y + height]; faces with the ignore flag are ignore regions;
        attributes are the numbers after it, by name ("yaw" and so on are degrees of deformation, not angles).

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong.
    """
    images, path = Path(images), Path(annotations)
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    samples, at = [], 0
    while at < len(lines):
        name, first = lines[at].strip(), at + 1
        count = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if not count.isdigit():
            raise DataError(f"{path}, line {first + 1}: expected the number of faces of {name!r}, got {count[:80]!r}")
        rows = lines[at + 2 : at + 2 + int(count)]
        if len(rows) < int(count):
            raise DataError(f"{path}: ends after {len(rows)} of {count} faces of {name}; it is cut off")
        at += 2 + int(count)
        labels = _labels([_face(row, f"{path}, line {first + 2 + i}") for i, row in enumerate(rows)])
        file = next((name + suffix for suffix in _SUFFIXES if (images / (name + suffix)).is_file()), None)
        if file is None and partial:
            continue
        samples.append(sample_of(images, file or name, labels, "malf", f"{path}, line {first}"))
    if not samples:
        raise DataError(f"{path}: none of its photos is in {images}")
    return samples


def _face(line: str, place: str) -> list[float]:
    words = line.split()
    if len(words) not in _COLUMNS:
        known = ", ".join(map(str, _COLUMNS[:-1])) + f" or {_COLUMNS[-1]}"
        raise DataError(f"{place}: expected {known} numbers (x y width height, ignore, ...), got {line.strip()[:80]!r}")
    numbers = parse_numbers(words, len(words), place, "x y width height, ignore, ...")
    if numbers[2] <= 0 or numbers[3] <= 0 or (len(numbers) > 4 and numbers[4] not in (0, 1)):
        raise DataError(
            f"{place}: expected a width and height above 0 and an ignore flag of 0 or 1, got {line.strip()[:80]!r}"
        )
    return numbers


def _labels(rows: list[list[float]]) -> FaceLabels:
    xywh = np.array([row[:4] for row in rows]).reshape(-1, 4)
    return FaceLabels(
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        ignore=np.array([len(row) > 4 and row[4] == 1 for row in rows], bool),
        attributes=[{name: int(value) for name, value in zip(_ATTRIBUTES, row[5:])} for row in rows],
        box_from=["human"] * len(rows),
    )


def write_malf(path: str | os.PathLike, names: list[str], detections: list[Faces]) -> None:
    """Write detections as blocks: name, count, ``x y width height score`` for each, best first.

    Raises
    ------
    DataError
        There are not as many names as detections.
    """
    if len(names) != len(detections):
        raise DataError(f"expected the detections of {len(names)} photos, got those of {len(detections)}")
    lines = []
    for name, faces in zip(names, detections):
        lines += [name, str(len(faces))]
        for i in np.argsort(-faces.scores, kind="stable"):
            x1, y1, x2, y2 = faces.boxes[i].tolist()
            lines.append(f"{x1:.2f} {y1:.2f} {x2 - x1:.2f} {y2 - y1:.2f} {faces.scores[i]:.9g}")
    write_atomically(path, "".join(f"{line}\n" for line in lines))
