"""JD-landmark (Liu et al., ICME 2019): 106 points in the layout of the grand challenges. No MXNet here.

    Training_data/AFW/   HELEN/   IBUG/   LFPW/     each with the folders picture, landmark and, where given, rect
    Test_data1/                                     the same three folders

``picture/NAME.jpg`` goes with ``landmark/NAME.jpg.txt`` (first 106, then a line ``x y`` for each point) and
``rect/NAME.jpg.rect`` (a line ``x1 y1 x2 y2`` for each face that was found). The rectangles were also handed out on
their own: a folder rect or bbox one level up is found too. The numbers are pixel indices from 0: half a pixel is added
to points and rectangles.

One face of a photo is annotated, the one nearest to its centre (`centre_most`). The training set of the second
challenge holds photos of the first one's test set: `without_photos_of` takes them out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError, InputError
from .annotation_files import parse_numbers, read_lines
from .base import FaceSample
from .landmark_sets import FROM_ZERO, labels_of, sample_of

__all__ = ["centre_most", "read_jd106", "without_photos_of"]

_POINTS = 106


def centre_most(boxes: np.ndarray, size_hw: tuple[int, int]) -> int:
    """Which of the boxes (M, 4) has its centre nearest to the centre of the photo; the first of equals.

    Raises
    ------
    InputError
        There is no box.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise InputError(f"expected boxes of shape (M, 4), M at least 1, got {boxes.shape}")
    height, width = size_hw
    offsets = (boxes[:, :2] + boxes[:, 2:] - (width, height)) / 2
    return int(np.linalg.norm(offsets, axis=1).argmin())


def read_jd106(folder: str | os.PathLike, root: str | os.PathLike | None = None) -> list[FaceSample]:
    """Read a training or test set of the challenges: every folder ``picture`` in it with its neighbours.

    Parameters
    ----------
    folder : path
        Such as Training_data or Test_data1.
    root : path, optional
        Folder that the photos are named relative to; `folder` by default.

    Returns
    -------
    list of FaceSample
        One face each, by folder and name. `source` is ``jd106``. Where no rectangles are found the box is the one
        round the landmarks, and `box_from` says so.

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong.
    """
    folder = Path(folder)
    root = folder if root is None else Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected the folders picture and landmark in it or below it")
    if not folder.is_relative_to(root):
        raise DataError(f"{folder}: expected a folder within {root}")
    parts = sorted(path.parent for path in folder.glob("**/picture") if path.is_dir())
    if not parts:
        raise DataError(f"{folder}: expected the folders picture and landmark in it or below it, found no picture")
    return [sample for part in parts for sample in _read_part(part, root)]


def _read_part(part: Path, root: Path) -> list[FaceSample]:
    landmarks = sorted((part / "landmark").glob("*.txt"))
    if not landmarks:
        raise DataError(f"{part / 'landmark'}: expected files NAME.jpg.txt, found none")
    photos = {path.name for path in (part / "picture").iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")}
    bare = sorted(photos - {path.stem for path in landmarks})
    if bare:
        raise DataError(
            f"{part / 'picture' / bare[0]}: expected {part / 'landmark' / bare[0]}.txt beside it ({len(bare)} photos "
            "have no landmarks)"
        )
    places = (part / "rect", part / "bbox", part.parent / "rect", part.parent / "bbox")
    rects = next((path for path in places if path.is_dir()), None)
    samples = []
    for path in landmarks:
        name = f"{(part / 'picture').relative_to(root).as_posix()}/{path.stem}"
        sample = sample_of(root, name, labels_of("106", _read_points(path)[None]), "jd106", str(path))
        if rects is not None:
            boxes = _read_rects(rects / f"{path.stem}.rect")
            box = boxes[[centre_most(boxes, sample.size_hw)]]
            faces = sample.faces.with_(boxes=box, box_from=[""])
            sample = FaceSample(sample.image_path, sample.size_hw, faces, sample.source, sample.name)
        samples.append(sample)
    return samples


def _read_points(path: Path) -> np.ndarray:
    lines = [(i, line.split()) for i, line in enumerate(read_lines(path), start=1) if line.strip()]
    if not lines or lines[0][1] != [str(_POINTS)]:
        got = " ".join(lines[0][1])[:80] if lines else "an empty file"
        raise DataError(f"{path}, line 1: expected the number of points, {_POINTS}, got {got!r}")
    if len(lines) != _POINTS + 1:
        raise DataError(f"{path}: expected {_POINTS} lines of points, got {len(lines) - 1}")
    rows = [parse_numbers(words, 2, f"{path}, line {i}", "x y of a point") for i, words in lines[1:]]
    return np.array(rows) + FROM_ZERO


def _read_rects(path: Path) -> np.ndarray:
    boxes = []
    for i, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        box = parse_numbers(line.split(), 4, f"{path}, line {i}", "x1 y1 x2 y2 of a face")
        if box[2] <= box[0] or box[3] <= box[1]:
            raise DataError(f"{path}, line {i}: expected x1 y1 x2 y2 with x1 < x2 and y1 < y2, got {line.strip()!r}")
        boxes.append(box)
    if not boxes:
        raise DataError(f"{path}: expected a line x1 y1 x2 y2, found an empty file")
    return np.array(boxes) + FROM_ZERO


def without_photos_of(
    samples: Sequence[FaceSample], others: Iterable[FaceSample]
) -> tuple[list[FaceSample], list[FaceSample]]:
    """Take out the samples whose photo occurs among others, such as a test set's photos out of a training set.

    A photo occurs there when a file has the same name without folder and suffix, or the same bytes (SHA-256). A
    renamed copy is found by its bytes and a re-encoded one by its name; what is both renamed and re-encoded is not.

    Returns
    -------
    (kept, removed)
        Both in the order of `samples`.

    Raises
    ------
    DataError
        A photo cannot be read.
    """
    stems: set[str] = set()
    by_size: dict[int, list[str]] = {}
    for other in others:
        stems.add(Path(other.image_path).stem)
        by_size.setdefault(_size(other.image_path), []).append(other.image_path)
    hashes: dict[int, set[str]] = {}  # of the others' files, by length: few files have the length of another

    def occurs(path: str) -> bool:
        if Path(path).stem in stems:
            return True
        size = _size(path)
        if size not in by_size:
            return False
        if size not in hashes:
            hashes[size] = {_sha256(other) for other in by_size[size]}
        return _sha256(path) in hashes[size]

    kept, removed = [], []
    for sample in samples:
        (removed if occurs(sample.image_path) else kept).append(sample)
    return kept, removed


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot read the photo: {error.strerror or error}") from error


def _sha256(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot read the photo: {error.strerror or error}") from error
