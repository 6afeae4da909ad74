"""FDDB (Jain and Learned-Miller, UMass Amherst 2010): 5,171 faces as ellipses on 2,845 photos. No MXNet here.

An unpacked download is two folders,

    originalPics/2002/07/19/big/img_130.jpg ...
    FDDB-folds/FDDB-fold-01-ellipseList.txt ... FDDB-fold-10-ellipseList.txt

and the lists hold, for each photo, its path without suffix, the number of its faces and for each face the line

    major_axis_radius minor_axis_radius angle center_x center_y 1

in pixels and radians. The official program paints the ellipse round the pixel (center_x, center_y), counted from 0, and
its major axis along (cos angle, sin angle), y downwards: positive angles turn clockwise. Half a pixel is added to the
centres. It is a set to measure on only; `gluonface.metrics.fddb` has the protocol.

Letter: M faces.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, InputError
from .annotation_files import parse_numbers, read_lines
from .base import FaceLabels, FaceSample
from .landmark_sets import FROM_ZERO, sample_of

if TYPE_CHECKING:
    from .transforms.affine import Affine

__all__ = ["FOLDS", "NUM_FACES", "NUM_PHOTOS", "boxes_of_ellipses", "ellipses_of", "move_ellipses", "read_fddb"]

FOLDS = tuple(range(1, 11))
#: Of the ten folds together.
NUM_PHOTOS, NUM_FACES = 2_845, 5_171


def boxes_of_ellipses(ellipses: np.ndarray) -> np.ndarray:
    """The smallest upright rectangles (M, 4) round ellipses (M, 5), x1, y1, x2, y2; exact."""
    ellipses = np.asarray(ellipses, np.float64).reshape(-1, 5)
    major, minor, angle, x, y = ellipses.T
    cos, sin = np.cos(angle), np.sin(angle)
    half = np.stack([np.hypot(major * cos, minor * sin), np.hypot(major * sin, minor * cos)], axis=1)
    centre = np.stack([x, y], axis=1)
    return np.concatenate([centre - half, centre + half], axis=1)


def ellipses_of(labels: FaceLabels) -> np.ndarray:
    """(M, 5) float64 major and minor half-axis, angle, centre x and y of labelled faces, from their attributes.

    Raises
    ------
    InputError
        A face has no attribute "ellipse" of five numbers.
    """
    rows = [face.get("ellipse") for face in labels.attributes]
    for i, row in enumerate(rows):
        if not isinstance(row, Sequence) or len(row) != 5:
            raise InputError(
                f"face {i} of {len(rows)}: expected the attribute ellipse with five numbers, as read_fddb gives it, "
                f"got {row!r}"
            )
    return np.array(rows, np.float64).reshape(-1, 5)


def move_ellipses(plan: Affine, ellipses: np.ndarray) -> np.ndarray:
    """Ellipses (M, 5) under a turn, a shift, one scale for both axes or a mirroring; exact.

    Raises
    ------
    InputError
        The map stretches or shears: an ellipse's axes do not stay its axes.
    """
    ellipses = np.asarray(ellipses, np.float64).reshape(-1, 5).copy()
    linear, scale = plan.linear, plan.scale
    if not np.allclose(linear @ linear.T, np.eye(2) * scale**2, atol=1e-6 * scale**2):
        raise InputError(f"expected a map that keeps angles, got one with the matrix {plan.matrix.tolist()}")
    axis = np.stack([np.cos(ellipses[:, 2]), np.sin(ellipses[:, 2])], axis=1) @ linear.T
    ellipses[:, 2] = np.arctan2(axis[:, 1], axis[:, 0])
    ellipses[:, :2] *= scale
    ellipses[:, 3:] = ellipses[:, 3:] @ linear.T + plan.matrix[:, 2]
    return ellipses


def read_fddb(
    images: str | os.PathLike,
    annotations: str | os.PathLike | None = None,
    folds: Iterable[int] = FOLDS,
    partial: bool = False,
) -> list[FaceSample]:
    """Read folds of FDDB.

    Parameters
    ----------
    images : path
        Folder of the photos, originalPics, which are named relative to it.
    annotations : path, optional
        Folder of the lists; FDDB-folds beside the photos by default. A re-labelled version in the same form is read,
        too (KPNet measures on that of Liu et al., CVPR 2017, which adds faces that were left out).
    folds : iterable of int
        Of 1 to 10; all by default.
    partial : bool
        Skip photos that are missing.

    Returns
    -------
    list of FaceSample
        In the order of the lists. Boxes are the smallest rectangles round the ellipses (`boxes_of_ellipses`), not
        clipped to the photo. Attributes: "ellipse", the half-axes in pixels, the angle in radians, clockwise from the
        x axis, and the centre in continuous pixels, see `ellipses_of`; "fold".

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong.
    """
    images = Path(images)
    annotations = images.parent / "FDDB-folds" if annotations is None else Path(annotations)
    samples = []
    for fold in folds:
        if fold not in FOLDS:
            raise DataError(f"folds are numbers of 1 to {FOLDS[-1]}, got {fold!r}")
        path = annotations / f"FDDB-fold-{fold:02}-ellipseList.txt"
        for name, ellipses, line in _read_list(path):
            if partial and not (images / f"{name}.jpg").is_file():
                continue
            labels = FaceLabels(
                boxes=boxes_of_ellipses(ellipses),
                attributes=[{"ellipse": row, "fold": fold} for row in ellipses.tolist()],
                box_from=["ellipse"] * len(ellipses),
            )
            samples.append(sample_of(images, f"{name}.jpg", labels, "fddb", f"{path}, line {line}"))
    if not samples:
        raise DataError(f"{annotations}: none of the photos of these lists is in {images}")
    return samples


def _read_list(path: Path) -> list[tuple[str, np.ndarray, int]]:
    """Name, ellipses (M, 5) in continuous pixels and number of the name's line of each photo."""
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    photos, at = [], 0
    while at < len(lines):
        name, first = lines[at].strip(), at + 1
        count = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if not count.isdigit():
            raise DataError(
                f"{path}, line {first + 1}: expected the number of faces of {name[:80]!r}, got {count[:80]!r}"
            )
        rows = lines[at + 2 : at + 2 + int(count)]
        if len(rows) < int(count):
            raise DataError(f"{path}: ends after {len(rows)} of {count} faces of {name}; it is cut off")
        ellipses = [_ellipse(row, f"{path}, line {first + 2 + i}") for i, row in enumerate(rows)]
        photos.append((name, np.array(ellipses).reshape(-1, 5), first))
        at += 2 + int(count)
    return photos


def _ellipse(line: str, place: str) -> list[float]:
    what = "major_axis_radius minor_axis_radius angle center_x center_y 1"
    major, minor, angle, x, y, _ = parse_numbers(line.split(), 6, place, what)
    if not (major > 0 and minor > 0 and abs(angle) <= 2 * math.pi):
        raise DataError(f"{place}: expected radii above 0 and an angle in radians, got {line.strip()[:80]!r}")
    return [major, minor, angle, x + FROM_ZERO, y + FROM_ZERO]
