"""`FaceDataset`: annotated images as a dataset of MXNet Gluon."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._compat import mx
from .base import FaceLabels, FaceSample
from .store import SampleStore

__all__ = ["FaceDataset"]


class FaceDataset(mx.gluon.data.Dataset):
    """Images and face labels.

    Item i is ``(image, labels)``: (H, W, 3) uint8 RGB and `FaceLabels`.

    Parameters
    ----------
    samples : sequence of FaceSample
        From `read_jsonl`, `read_widerface` or made by hand.
    cache : None, "bytes" or "memory"
        What to keep of an image once it was read, see `SampleStore`.

    Attributes
    ----------
    store : SampleStore
        The same without MXNet, for worker processes.
    """

    def __init__(self, samples: Sequence[FaceSample], cache: str | None = None):
        self.store = SampleStore(samples, cache)

    @property
    def samples(self) -> list[FaceSample]:
        """The annotations, known without opening an image."""
        return self.store.samples

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> tuple[np.ndarray, FaceLabels]:
        return self.store.read(index)
