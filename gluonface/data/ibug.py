"""300-W (Sagonas et al., ICCVW 2013 and IVC 2016): 68 points in its official layout. No MXNet here.

An unpacked download is a folder with, for each photo, an image and a ``.pts`` file of the same name:

    afw/   helen/trainset/   helen/testset/   lfpw/trainset/   lfpw/testset/   ibug/
    300W/01_Indoor/   300W/02_Outdoor/     (the test set of the challenge; also found without the folder 300W)

The numbers of the .pts files are pixel indices from 1, as in MATLAB: half a pixel is subtracted. The box of a face is
the one round its 68 points.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from ..errors import DataError
from .annotation_files import parse_numbers, read_lines
from .base import FaceSample
from .landmark_sets import FROM_ONE, labels_of, sample_of

__all__ = ["NUM_FACES", "SOURCES", "read_300w", "read_pts"]

_TRAIN = ("afw", "helen/trainset", "lfpw/trainset")
_COMMON = ("helen/testset", "lfpw/testset")
_CHALLENGING = ("ibug",)
_TEST = ("01_Indoor", "02_Outdoor")
_SPLITS = {
    "train": _TRAIN,
    "common": _COMMON,
    "challenging": _CHALLENGING,
    "full": (*_COMMON, *_CHALLENGING),
    "test": _TEST,
}
#: Faces, one a photo, of the official splits.
NUM_FACES = {"train": 3_148, "common": 554, "challenging": 135, "full": 689, "test": 600}


def _source_of(folder: str) -> str:
    return folder.removeprefix("300W/").split("/")[0].split("_")[-1].lower()


#: `FaceSample.source` of the faces of each split.
SOURCES = {split: tuple(map(_source_of, parts)) for split, parts in _SPLITS.items()}

_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG")


def read_pts(path: str | os.PathLike, num_points: int = 68) -> np.ndarray:
    """Points (num_points, 2) float64 of a .pts file, as they stand there.

    The file has ``version: 1``, ``n_points: 68``, ``{``, a line ``x y`` for each point and ``}``.

    Raises
    ------
    DataError
        Naming file, line and what was expected there.
    """
    path = Path(path)
    lines = [(i, line.strip()) for i, line in enumerate(read_lines(path), start=1) if line.strip()]
    heads = (
        (r"version\s*:\s*\d+", "version: 1"),
        (rf"n_points\s*:\s*{num_points}", f"n_points: {num_points}"),
        (r"\{", "{"),
    )
    for (pattern, expected), (i, line) in zip(heads, lines, strict=False):
        if not re.fullmatch(pattern, line):
            raise DataError(f"{path}, line {i}: expected {expected!r}, got {line[:80]!r}")
    if len(lines) < len(heads) or lines[-1][1] != "}":
        raise DataError(f"{path}: ends without '}}'; it is cut off")
    rows = lines[len(heads) : -1]
    if len(rows) != num_points:
        raise DataError(f"{path}: expected {num_points} points between '{{' and '}}', got {len(rows)}")
    return np.array([parse_numbers(line.split(), 2, f"{path}, line {i}", "x y of a point") for i, line in rows])


def read_300w(root: str | os.PathLike, split: str = "train", partial: bool = False) -> list[FaceSample]:
    """Read a split of 300-W.

    Parameters
    ----------
    root : path
        Folder with afw, helen, lfpw, ibug and 300W. Photos are named relative to it.
    split : str
        "train" : afw and the training parts of helen and lfpw, 3,148 faces.
        "common" : the test parts of helen and lfpw, 554.
        "challenging" : ibug, 135.
        "full" : common and challenging, 689.
        "test" : the challenge's own test set, indoor and outdoor, 600.
    partial : bool
        Skip folders that are missing.

    Returns
    -------
    list of FaceSample
        One face each, by folder and name. `source` is afw, helen, lfpw, ibug, indoor or outdoor.

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong.
    """
    if split not in _SPLITS:
        raise DataError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    root = Path(root)
    samples = []
    for part in _SPLITS[split]:
        name = f"300W/{part}" if split == "test" and (root / "300W" / part).is_dir() else part
        if (root / name).is_dir():
            samples += _read_folder(root, name)
        elif not partial:
            raise DataError(f"{root / name}: no such folder; the split {split} of 300-W needs it")
    if not samples:
        raise DataError(f"{root}: holds nothing of the split {split}: {', '.join(_SPLITS[split])}")
    return samples


def _read_folder(root: Path, folder: str) -> list[FaceSample]:
    paths = sorted((root / folder).glob("*.pts"))
    if not paths:
        raise DataError(f"{root / folder}: expected .pts files with photos of the same names, found none")
    source = _source_of(folder)
    samples = []
    for path in paths:
        photo = next((p for p in map(path.with_suffix, _SUFFIXES) if p.is_file()), path.with_suffix(".jpg"))
        faces = labels_of("68", read_pts(path)[None] + FROM_ONE)
        samples.append(sample_of(root, f"{folder}/{photo.name}", faces, source, str(path)))
    return samples
