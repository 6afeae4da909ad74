"""WIDER FACE in its official layout, and RetinaFace's five points for it. No MXNet here.

An unpacked download is a folder with

    WIDER_train/images/<event>/*.jpg      wider_face_split/wider_face_train_bbx_gt.txt, wider_face_train.mat
    WIDER_val/images/<event>/*.jpg        wider_face_split/wider_face_val_bbx_gt.txt, wider_face_val.mat

and RetinaFace's annotations a folder with ``train/label.txt`` (boxes and five points) and ``val/label.txt`` (as
published boxes alone; a list with points in the form of the training list is read as such). All give whole numbers x,
y, width, height in pixels; a box is [x, y, x + width, y + height].
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..geometry import box_iou, clip_boxes
from .annotation_files import load_mat, read_lines
from .base import FaceLabels, FaceSample
from .image_size import image_size

__all__ = [
    "NUM_PHOTOS",
    "WiderEntry",
    "add_five_points",
    "labels_of_rows",
    "read_label_blocks",
    "read_retinaface_labels",
    "read_widerface",
    "read_widerface_mat",
    "read_widerface_txt",
    "to_sample",
]

#: Photos of the official splits.
NUM_PHOTOS = {"train": 12_880, "val": 3_226}
#: What the official lists say of each face after its box, in the order of the text files.
ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")


@dataclass(frozen=True, eq=False)
class WiderEntry:
    """One photo of an annotation list, before its size is known.

    Parameters
    ----------
    name : str
        ``event/file.jpg``.
    faces : FaceLabels
        Not clipped. Invalid and empty boxes are ignore regions; what the list says besides is in `attributes`.
    """

    name: str
    faces: FaceLabels


def _labels(xywh: np.ndarray, attributes: list[dict[str, Any]], landmarks5: np.ndarray | None = None) -> FaceLabels:
    xywh = np.asarray(xywh, np.float32).reshape(-1, 4)
    size = np.maximum(xywh[:, 2:], 0)
    invalid = np.array([entry.get("invalid", 0) == 1 for entry in attributes], np.bool_)
    known = None if landmarks5 is None else np.isfinite(landmarks5).all(axis=(1, 2))
    return FaceLabels(
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + size], axis=1),
        ignore=invalid | (size <= 0).any(axis=1),
        landmarks5=landmarks5,
        landmarks5_human=known,
        attributes=attributes,
        box_from=["human"] * len(xywh),
    )


def _numbers(line: str, counts: Sequence[int], place: str, what: str) -> list[float]:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        numbers = []
    if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        raise DataError(f"{place}: expected {what}, got {line.strip()[:80]!r}")
    return numbers


def read_widerface_txt(path: str | os.PathLike) -> list[WiderEntry]:
    """Read ``wider_face_<split>_bbx_gt.txt``.

    For each photo its name, the number of faces and one line a face: x, y, width, height, blur, expression,
    illumination, invalid, occlusion, pose. A photo without faces has the number 0 and still one line, of zeros.

    Raises
    ------
    DataError
        Naming file, line and what was expected there.
    """
    path = Path(path)
    lines = read_lines(path)
    entries, at = [], 0

    def line(expected: str) -> str:
        if at >= len(lines):
            raise DataError(f"{path}: ends after line {len(lines)}, where {expected} should follow; it is cut off")
        return lines[at]

    while at < len(lines):
        name = lines[at].strip()
        at += 1
        if not name:
            continue
        if not name.lower().endswith((".jpg", ".jpeg", ".png")):
            raise DataError(f"{path}, line {at}: expected the name of a photo (event/file.jpg), got {name[:80]!r}")
        number = line(f"the number of faces of {name}").strip()
        at += 1
        if not number.isdigit():
            raise DataError(f"{path}, line {at}: expected the number of faces of {name}, got {number[:80]!r}")
        rows = []
        for _ in range(max(int(number), 1)):
            text = line(f"a face of {name}")
            if number == "0" and len(text.split()) != 10:
                break  # some copies leave the line of zeros out
            at += 1
            rows.append(_numbers(text, (10,), f"{path}, line {at}", f"10 numbers of a face of {name}"))
        table = np.array(rows[: int(number)], np.float32).reshape(-1, 10)
        attributes = [dict(zip(ATTRIBUTES, map(int, row[4:]), strict=True)) for row in table]
        entries.append(WiderEntry(name, _labels(table[:, :4], attributes)))
    return entries


def read_widerface_mat(path: str | os.PathLike) -> list[WiderEntry]:
    """Read ``wider_face_<split>.mat``, the MATLAB form of the same list.

    Raises
    ------
    DataError
        When the file is missing, no MAT file or has another structure.
    MissingDependencyError
        When SciPy is not installed.
    """
    path = Path(path)
    optional = [f"{name}_label_list" for name in ATTRIBUTES]
    mat = load_mat(path, ("event_list", "file_list", "face_bbx_list"), optional)
    entries = []
    try:
        for event, (name_cell,) in enumerate(mat["event_list"]):
            folder = str(np.ravel(name_cell)[0])
            for photo, file_cell in enumerate(mat["file_list"][event, 0][:, 0]):
                boxes = np.asarray(mat["face_bbx_list"][event, 0][photo, 0], np.float32).reshape(-1, 4)
                columns = {
                    name: np.ravel(mat[f"{name}_label_list"][event, 0][photo, 0]).astype(int)
                    for name in ATTRIBUTES
                    if f"{name}_label_list" in mat
                }
                attributes = [{name: int(column[i]) for name, column in columns.items()} for i in range(len(boxes))]
                # A photo without faces has one box of zeros, as in the text file.
                some = slice(0, 0) if len(boxes) == 1 and not boxes.any() else slice(None)
                entries.append(
                    WiderEntry(f"{folder}/{np.ravel(file_cell)[0]}.jpg", _labels(boxes[some], attributes[some]))
                )
    except (IndexError, ValueError, TypeError) as error:
        raise DataError(f"{path}: photo {len(entries)} does not have the official nested lists: {error}") from error
    return entries


def read_label_blocks(
    path: str | os.PathLike, counts: Sequence[int], what: str
) -> Iterator[tuple[str, list[list[float]], list[int]]]:
    """Photos of a ``label.txt``: a line ``# event/file.jpg``, then one line of numbers for each face.

    Parameters
    ----------
    path : path
    counts : sequence of int
        How many numbers a line may have.
    what : str
        What they are, for the error.

    Yields
    ------
    (name, rows, lines)
        Of a photo: its name, the numbers of each face, and in which line of the file they stand.

    Raises
    ------
    DataError
        Naming file, line and what was expected there.
    """
    path = Path(path)
    name, rows, lines = None, [], []
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith("#"):
            if name is not None:
                yield name, rows, lines
            name, rows, lines = line[1:].strip(), [], []
            if not name:
                raise DataError(f"{path}, line {number}: expected the name of a photo after #")
        elif line.strip():
            if name is None:
                raise DataError(f"{path}, line {number}: expected '# event/file.jpg' first, got {line[:80]!r}")
            known = ", ".join(map(str, counts[:-1])) + f" or {counts[-1]}"
            rows.append(
                _numbers(line, counts, f"{path}, line {number}", f"{known} numbers of a face of {name} ({what})")
            )
            lines.append(number)
    if name is not None:
        yield name, rows, lines


def labels_of_rows(rows: Sequence[Sequence[float]]) -> FaceLabels:
    """Labels of the faces of one photo of a ``label.txt``.

    Parameters
    ----------
    rows : sequence of sequence of float
        x, y, width, height; where there are 19 numbers and more, five times x, y, flag; then one number for blur. What
        comes after is left to the caller.
    """
    points = np.full((len(rows), 5, 2), np.nan, np.float32)
    attributes: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        attributes.append({})
        if len(row) < 19:
            continue
        table = np.array(row[4:19]).reshape(5, 3)
        known = (table[:, :2] >= 0).all(axis=1)
        points[i, known] = table[known, :2]
        if known.any():
            attributes[i]["landmark_flags"] = table[:, 2].astype(int).tolist()
        if len(row) >= 20:
            attributes[i]["landmark_blur"] = row[19]
    return _labels(np.array([row[:4] for row in rows], np.float32), attributes, points)


def read_retinaface_labels(path: str | os.PathLike) -> list[WiderEntry]:
    """Read RetinaFace's ``label.txt``.

    A line ``# event/file.jpg``, then one line a face: x, y, width, height; in lists with points, as published the
    training list alone, also five times x, y, flag (0 visible, 1 hidden) and one number for blur, kept as attributes
    "landmark_flags" and "landmark_blur". -1 stands for unknown points.

    Raises
    ------
    DataError
        Naming file, line and what was expected there.
    """
    blocks = read_label_blocks(path, (4, 19, 20), "x y w h, 5 x (x y flag), blur")
    return [WiderEntry(name, labels_of_rows(rows)) for name, rows, _ in blocks]


def add_five_points(entries: Sequence[WiderEntry], labels: Iterable[WiderEntry]) -> tuple[list[WiderEntry], int]:
    """Give the faces of the official list the five points of RetinaFace's, where boxes agree (IoU of at least 0.8).

    A pose that the labels have (`widerpose`) goes with them.

    Returns
    -------
    (entries, lost)
        New entries, and the number of faces with points or a pose that no official box agrees with.
    """
    by_name = {entry.name: entry.faces for entry in labels}
    merged, lost = [], 0
    for entry in entries:
        other = by_name.pop(entry.name, None)
        if other is None or not len(other):
            merged.append(entry)
            continue
        faces = entry.faces
        points, human, pose = faces.landmarks5.copy(), faces.landmarks5_human.copy(), faces.pose.copy()
        attributes = list(faces.attributes)
        overlap = box_iou(other.boxes, faces.boxes) if len(faces) else np.zeros((len(other), 0))
        for i in np.flatnonzero(_is_told(other)):
            best = int(overlap[i].argmax()) if len(faces) else -1
            if best < 0 or overlap[i, best] < 0.8:
                lost += 1
                continue
            points[best], pose[best] = other.landmarks5[i], other.pose[i]
            human[best] = np.isfinite(points[best]).any()
            attributes[best] = {**attributes[best], **other.attributes[i]}
        faces = faces.with_(landmarks5=points, landmarks5_human=human, pose=pose, attributes=attributes)
        merged.append(WiderEntry(entry.name, faces))
    lost += sum(int(_is_told(faces).sum()) for faces in by_name.values())
    return merged, lost


def _is_told(faces: FaceLabels) -> np.ndarray:
    """(M,) bool: whether a face has more than its box."""
    return np.isfinite(faces.landmarks5).any(axis=(1, 2)) | np.isfinite(faces.pose).any(axis=1)


def to_sample(entry: WiderEntry, root: Path, split: str) -> FaceSample:
    """A photo with its size, from the image file's header; boxes clipped to it.

    A box of which nothing lies inside the photo becomes an ignore region.

    Raises
    ------
    ImageError
        When the image file is missing or no image.
    """
    name = f"WIDER_{split}/images/{entry.name}"
    size_hw = image_size(root / name)
    boxes = clip_boxes(entry.faces.boxes, size_hw).astype(np.float32)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    faces = entry.faces.with_(boxes=boxes, ignore=entry.faces.ignore | empty)
    return FaceSample(image_path=str(root / name), size_hw=size_hw, faces=faces, source="widerface", name=name)


def read_widerface(
    root: str | os.PathLike,
    split: str,
    *,
    labels: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
) -> Iterator[FaceSample]:
    """Photos of one split of an unpacked WIDER FACE, one after another: each image file's header is read.

    Parameters
    ----------
    root : path
        Folder with ``WIDER_train``, ``WIDER_val`` and ``wider_face_split``. Images are named relative to it.
    split : "train" or "val"
    labels : path, optional
        RetinaFace's ``label.txt`` of that split, which gives five points where it has them.
    annotations : path, optional
        Official list to read instead of ``wider_face_split/wider_face_<split>_bbx_gt.txt``; a .mat file is read as
        such.

    Raises
    ------
    DataError, ImageError
        At the first thing that is wrong.
    """
    if split not in NUM_PHOTOS:
        raise DataError(f"split must be one of {', '.join(NUM_PHOTOS)}, got {split!r}")
    root = Path(root)
    if annotations is None:
        annotations = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    is_mat = Path(annotations).suffix.lower() == ".mat"
    entries = read_widerface_mat(annotations) if is_mat else read_widerface_txt(annotations)
    if labels is not None:
        entries, _ = add_five_points(entries, read_retinaface_labels(labels))
    return (to_sample(entry, root, split) for entry in entries)
