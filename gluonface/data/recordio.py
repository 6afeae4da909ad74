"""The host's own files: LST and RecordIO for detection, as GluonCV's ``LstDetection`` and ``RecordFileDetection``.

The label of an image is one row of numbers: a header of A numbers (A, B, here also image width and height), then
faces of B numbers each. The first five are id, xmin, ymin, xmax, ymax. What follows depends on B:

    B = 5    nothing
    B = 6    1 for a region to ignore ("difficult" of Pascal VOC)
    B = 15   five points x, y, -1 where unknown
    B = 16   the points, then the number of B = 6 (what is written here)

Coordinates are shares of width and height (``coord_normalized=True``, the host's default) or pixels. The host scales
the box alone and leaves points as they are in the file, so write pixels (``coord_normalized=False``) where its own
classes are to read the points.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._compat import mx
from ..errors import DataError
from ..files import replacing
from .base import FaceLabels, FaceSample
from .dataset import FaceDataset
from .image_size import image_size
from .jsonl import write_text_atomically
from .store import SampleStore

__all__ = ["FaceLst", "FaceRecord", "label_to_row", "row_to_label", "write_lst", "write_record"]

_HEADER = 4
_WIDTH = 16


def label_to_row(labels: FaceLabels, size_hw: tuple[int, int], coord_normalized: bool = True) -> np.ndarray:
    """Labels as one row of numbers in the host's layout, B = 16.

    Returns
    -------
    (4 + 16 M,) float32
    """
    height, width = size_hw
    scale = np.array([width, height], np.float32) if coord_normalized else np.ones(2, np.float32)
    table = np.zeros((len(labels), _WIDTH), np.float32)
    table[:, 1:5] = labels.boxes / np.tile(scale, 2)
    known = np.isfinite(labels.landmarks5).all(axis=2, keepdims=True)
    table[:, 5:15] = np.where(known, labels.landmarks5 / scale, -1).reshape(-1, 10)
    table[:, 15] = labels.ignore
    return np.concatenate([np.array([_HEADER, _WIDTH, width, height], np.float32), table.ravel()])


def row_to_label(row: np.ndarray, size_hw: tuple[int, int], coord_normalized: bool = True) -> FaceLabels:
    """A row of the host's layout as labels in pixels; an id below 0 marks a region to ignore, too.

    Raises
    ------
    DataError
        When the numbers do not make rows of B, or look like pixels where shares are said to be and the other way round.
    """
    row = np.asarray(row, np.float32).ravel()
    if len(row) < 2:
        raise DataError(f"a label starts with header width and numbers per face, got {len(row)} numbers")
    header, width = int(row[0]), int(row[1])
    if header < 2 or width < 5 or len(row) < header or (len(row) - header) % width:
        raise DataError(
            f"a label must be a header of A >= 2 numbers and faces of B >= 5 numbers each; "
            f"got {len(row)} numbers with A = {header} and B = {width}"
        )
    table = row[header:].reshape(-1, width)
    boxes = table[:, 1:5]
    if len(boxes):
        largest = np.abs(boxes).max()
        if coord_normalized and largest > 2:
            raise DataError(f"coordinates up to {largest:g} are pixels, not shares: pass coord_normalized=False")
        if not coord_normalized and largest <= 1 and max(size_hw) > 1:
            raise DataError(f"coordinates up to {largest:g} are shares, not pixels: pass coord_normalized=True")
    scale = np.array(size_hw[::-1], np.float32) if coord_normalized else np.ones(2, np.float32)
    landmarks5 = None
    if width >= 15:
        points = table[:, 5:15].reshape(-1, 5, 2)
        # A point may lie a little outside the photo; -1, -1 is the sign of none.
        landmarks5 = np.where((points == -1).all(axis=2, keepdims=True), np.nan, points * scale)
    ignore = table[:, 0] < 0
    if width == 6 or width >= 16:
        ignore |= table[:, 5 if width == 6 else 15] > 0
    return FaceLabels(boxes=boxes * np.tile(scale, 2), ignore=ignore, landmarks5=landmarks5)


def write_lst(path: str | os.PathLike, samples: Iterable[FaceSample], coord_normalized: bool = True) -> None:
    """Write a .lst file, all or nothing: index, label and `FaceSample.name`, separated by tabs."""
    lines = []
    for index, sample in enumerate(samples):
        row = label_to_row(sample.faces, sample.size_hw, coord_normalized)
        lines.append("\t".join([str(index), *(f"{value:.6g}" for value in row), sample.name]) + "\n")
    write_text_atomically(path, "".join(lines))


def write_record(path: str | os.PathLike, samples: Sequence[FaceSample], coord_normalized: bool = True) -> None:
    """Write a .rec file with its .idx beside it; the image files go in as they are.

    Raises
    ------
    DataError
        When the name does not end in .rec or a file cannot be written.
    ImageError
        When an image file cannot be read.
    """
    path = Path(path)
    if path.suffix != ".rec":
        raise DataError(f"{path}: the name of a record file ends in .rec")
    store = SampleStore(samples)
    try:
        # The index takes its place last: who finds it finds the records, too.
        with replacing(path.with_suffix(".idx")) as index_file, replacing(path) as record_file:
            record = mx.recordio.MXIndexedRecordIO(str(index_file), str(record_file), "w")
            for index, sample in enumerate(samples):
                row = label_to_row(sample.faces, sample.size_hw, coord_normalized)
                header = mx.recordio.IRHeader(0, row, index, 0)
                record.write_idx(index, mx.recordio.pack(header, store.encoded(index)))
            record.close()
    except (OSError, mx.MXNetError) as error:
        raise DataError(f"{path}: cannot be written: {error}") from error


class FaceLst(FaceDataset):
    """Images and labels of a .lst file; items and attributes as `FaceDataset`. The header of every image is read first.

    Parameters
    ----------
    filename : path
    root : path
        Folder the image paths are relative to.
    coord_normalized : bool
        Whether the file holds shares of width and height; see the module.
    cache : None, "bytes" or "memory"
        See `SampleStore`.

    Raises
    ------
    DataError
        Naming the line.
    """

    def __init__(
        self,
        filename: str | os.PathLike,
        root: str | os.PathLike = "",
        coord_normalized: bool = True,
        cache: str | None = None,
    ):
        try:
            lines = Path(filename).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{filename}: cannot read the list: {error}") from error
        samples = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            *words, name = line.rstrip().split("\t")
            image_path = Path(root) / name
            size_hw = image_size(image_path)
            try:
                labels = row_to_label(np.array(words[1:], np.float32), size_hw, coord_normalized)
            except ValueError as error:  # DataError is one
                raise DataError(f"{filename}, line {number}: {error}") from error
            samples.append(FaceSample(str(image_path), size_hw, labels, name=name))
        super().__init__(samples, cache)


class _RecordStore(SampleStore):
    """A store whose images are in a record file."""

    def __init__(self, record: Any, keys: list[int], samples: Sequence[FaceSample], cache: str | None):
        super().__init__(samples, cache)
        self._record = record
        self._keys = keys

    def encoded(self, index: int) -> bytes:
        return bytes(mx.recordio.unpack(self._record.read_idx(self._keys[index]))[1])


class FaceRecord(FaceDataset):
    """Images and labels of a .rec file with its .idx; items and attributes as `FaceDataset`. Headers are read first.

    Parameters
    ----------
    filename : path
        The .rec file.
    coord_normalized : bool
        Whether the file holds shares of width and height; see the module.
    cache : None, "bytes" or "memory"
        See `SampleStore`.

    Raises
    ------
    DataError
        When a file is missing or a record is wrong.
    """

    def __init__(self, filename: str | os.PathLike, coord_normalized: bool = True, cache: str | None = None):
        path = Path(filename)
        index_path = path.with_suffix(".idx")
        for file in (path, index_path):
            if not file.is_file():
                raise DataError(f"{file}: no such file; a record file needs both .rec and .idx")
        record = mx.recordio.MXIndexedRecordIO(str(index_path), str(path), "r")
        samples, keys = [], list(record.keys)
        for key in keys:
            where = f"{path}#{key}"
            try:
                header, data = mx.recordio.unpack(record.read_idx(key))
                size_hw = image_size(bytes(data))
                labels = row_to_label(header.label, size_hw, coord_normalized)
            except (ValueError, TypeError, mx.MXNetError) as error:  # DataError and ImageError are ValueErrors
                raise DataError(f"{where}: {error}") from error
            samples.append(FaceSample(where, size_hw, labels))
        self.store = _RecordStore(record, keys, samples, cache)
