"""FDDB's own files of detections, which its official program takes.

For each photo a line with its path without suffix, one with the count, and for each detection ``left_x top_y width
height score`` or ``major_axis_radius minor_axis_radius angle center_x center_y score``. NumPy only.

The program counts pixels from 0 and paints a rectangle from the column left_x to left_x + width, that one too: it is
[left_x, left_x + width + 1] in continuous pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError, InputError
from ..files import write_atomically
from .fddb import Regions

__all__ = ["fddb_name", "read_fddb_detections", "write_fddb_detections"]


def fddb_name(path: str) -> str:
    """``2002/07/19/big/img_130`` of ``2002/07/19/big/img_130.jpg``."""
    return path[:-4] if path.lower().endswith(".jpg") else path


def read_fddb_detections(source: str | os.PathLike, names: Iterable[str]) -> list[Regions]:
    """Detections of the named photos, in that order.

    Parameters
    ----------
    source : path
        A file of all folds, or a folder of one .txt file for each.
    names : iterable of str
        Paths without suffix. Other photos of the files are left out.

    Raises
    ------
    DataError
        A photo is missing, or a file is not of that form; the message names file and line.
    """
    source = Path(source)
    paths = sorted(source.glob("*.txt")) if source.is_dir() else [source]
    if not paths:
        raise DataError(f"{source}: expected a file, or a folder of .txt files, of FDDB's form; found none")
    found: dict[str, Regions] = {}
    for path in paths:
        _read_file(path, found)
    names = list(names)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(names)} photos are missing, the first is {missing[0]}; a photo without "
            "faces needs its name and the count 0 too"
        )
    return [found[name] for name in names]


def _read_file(path: Path, found: dict[str, Regions]) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error})") from error
    while lines and not lines[-1].strip(" \t\x1a"):  # DOS ends text with 1A
        lines.pop()
    at = 0
    while at < len(lines):
        name = fddb_name(lines[at].strip())
        if name in found:
            raise DataError(f"{path}, line {at + 1}: {name} is here a second time")
        # Some detectors write the count as 3.0.
        count = lines[at + 1].strip().removesuffix(".0") if at + 1 < len(lines) else ""
        if not count.isdigit():
            raise DataError(f"{path}, line {at + 2}: expected the number of detections of {name!r}, got {count[:80]!r}")
        at += 2
        rows = lines[at : at + int(count)]
        if len(rows) < int(count):
            raise DataError(f"{path}: ends after {len(rows)} of {count} detections of {name}; it is cut off")
        found[name] = _regions([_numbers(row, f"{path}, line {at + 1 + i}") for i, row in enumerate(rows)], path, name)
        at += int(count)


def _numbers(line: str, place: str) -> list[float]:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (5, 6) or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"{place}: expected five numbers (x y width height score) or six (half-axes, angle, centre, score), "
            f"got {line.strip()[:80]!r}"
        )
    return numbers


def _regions(rows: list[list[float]], path: Path, name: str) -> Regions:
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{path}: {name} has both rectangles and ellipses; expected one of them")
    if not rows:
        return Regions(np.zeros((0, 4)), np.zeros(0))
    array = np.array(rows)
    regions, scores = array[:, :-1], array[:, -1]
    if regions.shape[1] == 4:
        return Regions(np.concatenate([regions[:, :2], regions[:, :2] + regions[:, 2:] + 1], axis=1), scores)
    regions[:, 3:] += 0.5
    return Regions(regions, scores)


def write_fddb_detections(path: str | os.PathLike, names: Sequence[str], detections: Sequence[Regions]) -> None:
    """Write detections for the official program, the photos in the order of its list.

    Parameters
    ----------
    path : path
    names : sequence of str
        Paths of the photos without suffix.
    detections : sequence of Regions
        All rectangles or all ellipses: the program takes one kind.
    """
    if len(names) != len(detections):
        raise InputError(f"expected the detections of {len(names)} photos, got those of {len(detections)}")
    kinds = {one.regions.shape[1] for one in detections if len(one)}
    if len(kinds) > 1:
        raise InputError("expected rectangles or ellipses, got both")
    lines = []
    for name, one in zip(names, detections):
        regions = one.regions.copy()
        if regions.shape[1] == 4:
            regions[:, 2:] -= regions[:, :2] + 1
        else:
            regions[:, 3:] -= 0.5
        rows = (" ".join(f"{value:.4f}" for value in region) for region in regions)
        lines += [name, str(len(one)), *(f"{row} {score:.9g}" for row, score in zip(rows, one.scores))]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in lines))
