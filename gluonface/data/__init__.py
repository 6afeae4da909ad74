"""Datasets, transforms that move labels with pixels, batches. Names load on first use, MXNet with the datasets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import FaceLabels, FaceSample
    from .dataset import FaceDataset
    from .facejsonl import FaceJsonLines
    from .jsonl import read_jsonl, write_jsonl
    from .loader import BatchLoader
    from .recordio import FaceLst, FaceRecord, write_lst, write_record
    from .widerface import WiderFace

__all__ = [
    "BatchLoader",
    "FaceDataset",
    "FaceJsonLines",
    "FaceLabels",
    "FaceLst",
    "FaceRecord",
    "FaceSample",
    "WiderFace",
    "read_jsonl",
    "write_jsonl",
    "write_lst",
    "write_record",
]

_HOME_OF = {
    "BatchLoader": "loader",
    "FaceDataset": "dataset",
    "FaceJsonLines": "facejsonl",
    "FaceLabels": "base",
    "FaceLst": "recordio",
    "FaceRecord": "recordio",
    "FaceSample": "base",
    "WiderFace": "widerface",
    "read_jsonl": "jsonl",
    "write_jsonl": "jsonl",
    "write_lst": "recordio",
    "write_record": "recordio",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value  # the next look-up is a plain one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
