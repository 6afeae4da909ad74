"""WIDER FACE with the head poses of MOS (Liu et al., BMVC 2021), in its authors' text form. No MXNet here.

The authors give out one ``label.txt``, of the training photos. Its form is that of RetinaFace's (`widerface_files`)
with three more numbers at the end of a line:

    # 0--Parade/0_Parade_marchingband_1_849.jpg
    x y w h   x y 0.0 (five points)   confidence   pitch yaw roll

Pitch comes first; angles are whole degrees with the signs of `FaceLabels.pose` (they were found by nets that learned
from 300W-LP, then corrected by people). The "confidence" is RetinaFace's number for blur. Boxes and points are taken as
in `widerface_files`: x and y are measured from the corner of the photo, w and h are x2 - x1 and y2 - y1.

When a pose is unknown (NaN):

- a face smaller than 35x35 pixels, by the square root of its area: the authors left those out (section 4.1), and
  whatever their lines hold is no label;
- a line that ends before the pose, as RetinaFace's do;
- the pose -1 -1 -1 of a face whose points are all unknown: -1 is what this file writes for unknown.

0 0 0 is a pose: angles are rounded to degrees, and frontal faces are the most frequent ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .base import FaceSample
from .widerface_files import (
    WiderEntry,
    add_five_points,
    labels_of_rows,
    read_label_blocks,
    read_widerface_mat,
    read_widerface_txt,
    to_sample,
)

__all__ = ["MIN_POSE_SIZE", "read_pose_labels", "read_widerpose"]

#: Pixels: side of the smallest face with a pose, as the square root of its area.
MIN_POSE_SIZE = 35


def read_pose_labels(path: str | os.PathLike) -> list[WiderEntry]:
    """Read a ``label.txt`` with poses.

    Returns
    -------
    list of WiderEntry
        One for each photo, boxes not clipped; pose is yaw, pitch, roll, NaN where unknown.

    Raises
    ------
    DataError
        Naming file, line and what was expected there.
    """
    entries = []
    what = "x y w h, 5 x (x y flag), confidence, pitch yaw roll"
    for name, rows, lines in read_label_blocks(path, (4, 19, 20, 23), what):
        faces = labels_of_rows(rows)
        pose = np.full((len(rows), 3), np.nan)
        for i, row in enumerate(rows):
            if len(row) < 23 or faces.face_sizes[i] < MIN_POSE_SIZE:
                continue
            pitch, yaw, roll = row[20:]
            if (pitch, yaw, roll) == (-1, -1, -1) and np.isnan(faces.landmarks5[i]).all():
                continue
            if max(map(abs, row[20:])) > 180:
                raise DataError(
                    f"{path}, line {lines[i]}: expected pitch, yaw, roll of a face of {name} from -180 to 180 degrees, "
                    f"got {row[20:]}"
                )
            pose[i] = yaw, pitch, roll
        entries.append(WiderEntry(name, faces.with_(pose=pose)))
    return entries


def read_widerpose(
    root: str | os.PathLike,
    labels: str | os.PathLike,
    split: str = "train",
    *,
    annotations: str | os.PathLike | None = None,
    partial: bool = False,
) -> Iterator[FaceSample]:
    """Photos of an unpacked WIDER FACE with poses, one after another: each image file's header is read.

    Parameters
    ----------
    root : path
        Folder with ``WIDER_train``. Images are named relative to it.
    labels : path
        The ``label.txt`` with poses.
    split : str
        Which of ``WIDER_<split>`` the labels are of.
    annotations : path, optional
        The official list (``wider_face_<split>_bbx_gt.txt`` or .mat). Faces are then those of the list, with its marks
        of invalid ones, and get points and pose where a box of the labels agrees with theirs.
    partial : bool
        Skip photos that are missing.

    Yields
    ------
    FaceSample

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong.
    """
    entries = read_pose_labels(labels)
    if annotations is not None:
        read = read_widerface_mat if Path(annotations).suffix.lower() == ".mat" else read_widerface_txt
        entries, _ = add_five_points(read(annotations), entries)
    folder = Path(root) / f"WIDER_{split}" / "images"
    return (to_sample(entry, Path(root), split) for entry in entries if not partial or (folder / entry.name).is_file())
