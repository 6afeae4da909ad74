"""The usual text files of WIDER FACE detections.

``event/name.txt`` has a line with the name, one with the count, and one ``x y w h score`` for each face. NumPy only.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import DataError, InputError
from ..files import write_atomically

__all__ = ["read_predictions", "write_prediction"]


def read_predictions(source: str | os.PathLike, names: Iterable[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Detections of the named photos.

    Parameters
    ----------
    source : path
        A folder with ``event/name.txt`` for each photo, or an .npz file with ``images`` (n,) of ``event/name``,
        ``offsets`` (n + 1,), ``boxes_xywh`` (N, 4) and ``scores`` (N,).
    names : iterable of str
        ``event/name`` without suffix.

    Returns
    -------
    dict of str to (boxes_xywh float64 (N, 4), scores float64 (N,))

    Raises
    ------
    DataError
        A photo's file is missing, or a file is not of that form; the message names file and line.
    """
    source = Path(source)
    if source.is_file():
        return _read_npz(source, names)
    if not source.is_dir():
        raise DataError(f"{source}: expected a folder of event/name.txt files or an .npz file, found neither")
    names = list(names)
    missing = [name for name in names if not (source / f"{name}.txt").is_file()]
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(names)} files are missing, the first is {missing[0]}.txt; a photo "
            "without faces needs a file too, with the count 0"
        )
    return {name: _read_text(source / f"{name}.txt") for name in names}


def _read_text(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error})") from error
    if len(lines) < 2:
        raise DataError(f"{path}, line {len(lines) + 1}: expected a name line and a count line, the file ends")
    try:
        count = int(lines[1])
    except ValueError as error:
        raise DataError(f"{path}, line 2: expected the number of faces, got {lines[1]!r}") from error
    while len(lines) > 2 and not lines[-1].strip():
        lines.pop()
    if len(lines) - 2 != count:
        raise DataError(f"{path}, line 2: the count is {count}, but {len(lines) - 2} lines follow; was the file cut?")
    rows = np.empty((count, 5))
    for i, line in enumerate(lines[2:]):
        rows[i] = _numbers_of(line, f"{path}, line {i + 3}")
    return rows[:, :4], rows[:, 4]


def _numbers_of(line: str, place: str) -> list[float]:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError as error:
        raise DataError(f"{place}: expected five numbers x y w h score, got {line!r}") from error
    if len(numbers) != 5 or not all(map(math.isfinite, numbers)):
        raise DataError(f"{place}: expected five finite numbers x y w h score, got {line!r}")
    if numbers[2] < 0 or numbers[3] < 0:
        raise DataError(f"{place}: expected a width and a height of at least 0, got {line!r}; are these x1 y1 x2 y2?")
    return numbers


def _read_npz(path: Path, names: Iterable[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, offsets = arrays["images"], arrays["offsets"]
            boxes, scores = arrays["boxes_xywh"].astype(np.float64), arrays["scores"].astype(np.float64)
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: expected an .npz file with images, offsets, boxes_xywh and scores ({error})"
        ) from error
    ends_fit = len(offsets) == len(images) + 1 and offsets[0] == 0 and offsets[-1] == len(boxes) == len(scores)
    if not ends_fit or np.any(np.diff(offsets) < 0):
        raise DataError(
            f"{path}: offsets do not divide {len(boxes)} boxes and {len(scores)} scores among {len(images)} images"
        )
    rows = {str(name): slice(*offsets[i : i + 2]) for i, name in enumerate(images)}
    missing = [name for name in names if name not in rows]
    if missing:
        raise DataError(f"{path}: {len(missing)} photos are missing, the first is {missing[0]}")
    return {name: (boxes[part], scores[part]) for name, part in rows.items()}


def write_prediction(folder: str | os.PathLike, name: str, boxes_xywh: np.ndarray, scores: np.ndarray) -> Path:
    """Write ``folder/event/name.txt``, best score first; the test server of the benchmark takes a folder of these.

    Parameters
    ----------
    folder : path
    name : str
        ``event/name`` without suffix.
    boxes_xywh : ndarray (N, 4)
        x, y, width, height in pixels of the photo; written to a hundredth of a pixel.
    scores : ndarray (N,)
        Written so that float32 comes back unchanged.

    Returns
    -------
    Path
    """
    boxes, scores = np.asarray(boxes_xywh, np.float64), np.asarray(scores, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise InputError(f"{name}: expected boxes_xywh (N, 4) and scores (N,), got {boxes.shape} and {scores.shape}")
    path = Path(folder) / f"{name}.txt"
    order = np.argsort(-scores, kind="stable")
    rows = [f"{x:.2f} {y:.2f} {w:.2f} {h:.2f} {s:.9g}" for (x, y, w, h), s in zip(boxes[order], scores[order])]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join([path.name.removesuffix(".txt"), str(len(rows)), *rows]) + "\n")
    return path
