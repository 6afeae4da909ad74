"""`FaceJsonLines`: a dataset of face annotations in JSON lines, the format of :mod:`gluonface.data.jsonl`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .dataset import FaceDataset
from .jsonl import read_jsonl, write_jsonl

__all__ = ["FaceJsonLines", "write_jsonl"]


class FaceJsonLines(FaceDataset):
    """Images and face labels from a JSON-lines file; items and attributes as `FaceDataset`.

    Parameters
    ----------
    path : path
        The annotation file.
    images : path, optional
        Folder the image paths in the file are relative to; ``images`` beside the file by default.
    sources : sequence of str, optional
        Keep only images of these sources.
    cache : None, "bytes" or "memory"
        What to keep of an image once it was read, see `SampleStore`.

    Raises
    ------
    DataError
        When the file or the images folder is missing, or a line is wrong; the message names the line.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        images: str | os.PathLike | None = None,
        sources: Sequence[str] | None = None,
        cache: str | None = None,
    ):
        samples = read_jsonl(path, images, sources)
        folder = Path(path).parent / "images" if images is None else Path(images)
        if samples and not folder.is_dir():
            raise DataError(f"{folder}: the images folder of {path} is missing; name another one with images=...")
        super().__init__(samples, cache)
