"""Parts of the faces of Helen (Smith et al., CVPR 2013), pixel by pixel, in their official layout. No MXNet here.

SmithCVPR2013_dataset_resized.zip, or the one of the original sizes, unpacks to a folder with

    exemplars.txt  tuning.txt  testing.txt     a line ``number , name`` for each of 2,000, 230 and 100 photos
    images/NAME.jpg
    labels/NAME/NAME_lbl00.png ... _lbl10.png  for each label how sure it is of a pixel, 0 to 255

with the labels background, face skin (without ears and neck), left and right brow, left and right eye, nose, upper lip,
inner mouth, lower lip, hair. A pixel is of the surest one. One face of a photo is labelled; others may be in it. Which
side is called left is not stated: `gluonface.mesh.PAPER_PARTS` takes both sides as one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..image import load_image
from ..mesh import PARTS
from .annotation_files import read_lines
from .base import FaceLabels, FaceSample
from .landmark_sets import sample_of

__all__ = ["NUM_FACES", "SPLITS", "part_labels", "read_helen_parts"]

SPLITS = ("exemplars", "tuning", "testing")
#: Faces, one a photo.
NUM_FACES = {"exemplars": 2_000, "tuning": 230, "testing": 100}

#: The set's labels by number: parts by their name in `PARTS`, None for what is no part.
_LABELS = (
    *(None, None, "left brow", "right brow", "left eye", "right eye", "nose"),
    *("upper lip", None, "lower lip", None),
)
#: Labels that a box of the face goes round: skin, parts and inner mouth.
_FACE = range(1, 10)
#: Label of the set -> number of a part in a label map, 0 for none.
_PART_OF = np.array([0 if part is None else 1 + PARTS.index(part) for part in _LABELS], np.uint8)


def read_helen_parts(root: str | os.PathLike, split: str = "testing", partial: bool = False) -> list[FaceSample]:
    """Read a split of the set.

    Parameters
    ----------
    root : path
        The folder with the three lists. Photos are named relative to it.
    split : str
        "exemplars", "tuning" or "testing".
    partial : bool
        Skip photos that are missing.

    Returns
    -------
    list of FaceSample
        One face each, in the order of the list; its box is the one round skin, parts and mouth. `part_labels` has the
        parts.

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong, naming the file.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    root, path = Path(root), Path(root) / f"{split}.txt"
    samples = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name = line.split(",")[-1].strip()
        if line.count(",") != 1 or not name or Path(name).name != name:
            raise DataError(f"{path}, line {number}: expected 'number , name', got {line[:80]!r}")
        photo = f"images/{name}.jpg"
        if partial and not (root / photo).is_file():
            continue
        sample = sample_of(root, photo, FaceLabels.empty(), "helen", f"{path}, line {number}")
        rows, columns = np.nonzero(np.isin(_surest(sample), _FACE))
        if not len(rows):
            raise DataError(f"{_folder(sample)}: no pixel is of a face")
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        faces = FaceLabels(np.array([box], np.float32), box_from=["human"])
        samples.append(FaceSample(sample.image_path, sample.size_hw, faces, sample.source, sample.name))
    if not samples:
        raise DataError(f"{path}: names no photo that is there")
    return samples


def part_labels(sample: FaceSample) -> np.ndarray:
    """The parts of the labelled face of a photo that `read_helen_parts` gave: (H, W) uint8, 0 or 1 + the number of a
    part in `gluonface.mesh.PARTS`.

    Raises
    ------
    DataError, ImageError
        A label is missing, or is not of the photo's size.
    """
    return _PART_OF[_surest(sample)]


def _folder(sample: FaceSample) -> Path:
    photo = Path(sample.image_path)
    return photo.parents[1] / "labels" / photo.stem


def _surest(sample: FaceSample) -> np.ndarray:
    """(H, W) number of the set's label of each pixel."""
    folder = _folder(sample)
    sure = []
    for number in range(len(_LABELS)):
        path = folder / f"{folder.name}_lbl{number:02d}.png"
        if not path.is_file():
            raise DataError(f"{path}: the label is missing; each photo has {len(_LABELS)}")
        sure.append(load_image(path)[..., 0])
        if sure[-1].shape != sample.size_hw:
            raise DataError(
                f"{path}: expected {sample.size_hw[1]} x {sample.size_hw[0]} pixels as the photo, got "
                f"{sure[-1].shape[1]} x {sure[-1].shape[0]}"
            )
    return np.argmax(sure, axis=0)
