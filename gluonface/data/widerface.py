"""`WiderFace`: a split of WIDER FACE, as downloaded, as a dataset."""

from __future__ import annotations

import os

from .dataset import FaceDataset
from .widerface_files import read_retinaface_labels, read_widerface, read_widerface_mat, read_widerface_txt

__all__ = ["WiderFace", "read_retinaface_labels", "read_widerface", "read_widerface_mat", "read_widerface_txt"]


class WiderFace(FaceDataset):
    """WIDER FACE in its official layout (see `widerface_files`); items and attributes as `FaceDataset`.

    The header of every photo is read at construction, a minute for the training split on a slow disk: JSON lines made
    once by ``train/prepare_widerface.py`` and read by `FaceJsonLines` load faster.

    Parameters
    ----------
    root : path
        Folder with ``WIDER_train``, ``WIDER_val`` and ``wider_face_split``.
    split : "train" or "val"
    labels : path, optional
        RetinaFace's ``label.txt`` of that split, for the five points.
    annotations : path, optional
        Another official list than ``wider_face_split/wider_face_<split>_bbx_gt.txt``, for example the .mat file.
    cache : None, "bytes" or "memory"
        See `SampleStore`.

    Raises
    ------
    DataError, ImageError
        When a file is missing or wrong.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "train",
        labels: str | os.PathLike | None = None,
        annotations: str | os.PathLike | None = None,
        cache: str | None = None,
    ):
        super().__init__(list(read_widerface(root, split, labels=labels, annotations=annotations)), cache)
