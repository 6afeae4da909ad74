"""`SampleStore`: annotated images, decoded when asked for. No MXNet here, so that worker processes stay small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, InputError
from ..image import load_image
from .base import FaceLabels, FaceSample

__all__ = ["CACHES", "SampleStore"]

CACHES = (None, "bytes", "memory")


class SampleStore:
    """A list of samples whose images can be read.

    Parameters
    ----------
    samples : sequence of FaceSample
    cache : None, "bytes" or "memory"
        What to keep of an image once it was read: nothing, the file's bytes (some hundred MB for a few thousand
        photos), or the decoded array (H x W x 3 bytes each: 3,313 photos of 640x480 are 3 GB). It fills as images are
        asked for. Threads share one cache; a worker process starts an empty one of its own.
    """

    def __init__(self, samples: Sequence[FaceSample], cache: str | None = None):
        if cache not in CACHES:
            raise InputError(f"cache must be one of {CACHES}, got {cache!r}")
        self.samples = list(samples)
        self.cache = cache
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[np.ndarray, FaceLabels]:
        """The image, (H, W, 3) uint8 RGB, and the labels of one sample. Do not write into the image: it may be cached.

        Raises
        ------
        ImageError
            When the image file is missing or damaged.
        DataError
            When the image has another size than its annotation says.
        """
        sample = self.samples[index]
        kept = self._kept.get(index)
        if kept is None or self.cache == "bytes":
            image = self._decode(sample, index, kept)
        else:
            image = kept
        return image, sample.faces

    def _decode(self, sample: FaceSample, index: int, encoded: bytes | None) -> np.ndarray:
        if encoded is None:
            image = load_image(sample.image_path)
        else:
            image = load_image(encoded)
        if image.shape[:2] != tuple(sample.size_hw):
            height, width = sample.size_hw
            raise DataError(
                f"{sample.image_path}: annotated as {width}x{height} pixels, but the file has "
                f"{image.shape[1]}x{image.shape[0]}; the annotation belongs to another version of this image"
            )
        if self.cache == "memory":
            image.flags.writeable = False
            self._kept[index] = image
        elif self.cache == "bytes" and encoded is None:
            self._kept[index] = Path(sample.image_path).read_bytes()
        return image

    def __getstate__(self) -> dict[str, Any]:
        # What was cached stays here: a worker process would copy gigabytes.
        return {**self.__dict__, "_kept": {}}
