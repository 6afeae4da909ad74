"""`SampleStore`: annotated images, decoded when asked for. No MXNet here, so that worker processes stay small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, ImageError, InputError
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
        encoded = self.encoded(index) if encoded is None else encoded
        try:
            image = load_image(encoded)
        except ImageError as error:
            raise ImageError(sample.image_path, error.reason) from error
        if image.shape[:2] != tuple(sample.size_hw):
            height, width = sample.size_hw
            raise DataError(
                f"{sample.image_path}: annotated as {width}x{height} pixels, but the file has "
                f"{image.shape[1]}x{image.shape[0]}; the annotation belongs to another version of this image"
            )
        if self.cache == "memory":
            image.flags.writeable = False
            self._kept[index] = image
        elif self.cache == "bytes":
            self._kept[index] = encoded
        return image

    def encoded(self, index: int) -> bytes:
        """The bytes of one image file."""
        path = self.samples[index].image_path
        try:
            return Path(path).read_bytes()
        except FileNotFoundError as error:
            raise ImageError(path, "no such file") from error
        except OSError as error:
            raise ImageError(path, f"cannot be read: {error.strerror or error}") from error

    def __getstate__(self) -> dict[str, Any]:
        # What was cached stays here: a worker process would copy gigabytes.
        return {**self.__dict__, "_kept": {}}
