"""`FaceJsonLines`: a dataset of face annotations in JSON lines, the format of `gluonface.data.jsonl`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._compat import mx
from ..errors import DataError
from .base import FaceLabels, FaceSample
from .jsonl import read_jsonl, write_jsonl
from .store import SampleStore

__all__ = ["FaceJsonLines", "write_jsonl"]


class FaceJsonLines(mx.gluon.data.Dataset):
    """Images and face labels from a JSON-lines file.

    Item i is ``(image, labels)``: (H, W, 3) uint8 RGB and `FaceLabels`.

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

    Attributes
    ----------
    samples : list of FaceSample
        The annotations, read without opening an image.
    store : SampleStore
        The same without MXNet, for worker processes.

    Raises
    ------
    DataError
        When the file or the images folder is missing, or a line is wrong.
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
        self.store = SampleStore(samples, cache)

    @property
    def samples(self) -> list[FaceSample]:
        """The annotations, in the order of the file."""
        return self.store.samples

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> tuple[np.ndarray, FaceLabels]:
        return self.store.read(index)
