"""Datasets, transforms that move labels with pixels, batches. Names load on first use, MXNet with the datasets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aflw import read_aflw
    from .aflw2000 import read_aflw2000
    from .base import FaceLabels, FaceSample
    from .biwi import read_biwi
    from .cofw import read_cofw, unpack_cofw
    from .dataset import FaceDataset
    from .facejsonl import FaceJsonLines
    from .fddb import ellipses_of, read_fddb
    from .helen_parts import part_labels, read_helen_parts
    from .ibug import read_300w
    from .jd106 import read_jd106, without_photos_of
    from .jsonl import read_jsonl, write_jsonl
    from .landmark_sets import read_coco_landmarks
    from .loader import BatchLoader
    from .malf import read_malf
    from .recordio import FaceLst, FaceRecord, write_lst, write_record
    from .toolbox_faces import read_afw, read_pascal_faces
    from .w300lp import read_300w_lp
    from .wflw import read_wflw, wflw_subset
    from .widerface import WiderFace
    from .widerpose import read_widerpose

__all__ = [
    "BatchLoader",
    "FaceDataset",
    "FaceJsonLines",
    "FaceLabels",
    "FaceLst",
    "FaceRecord",
    "FaceSample",
    "WiderFace",
    "ellipses_of",
    "part_labels",
    "read_300w",
    "read_300w_lp",
    "read_aflw",
    "read_aflw2000",
    "read_afw",
    "read_biwi",
    "read_coco_landmarks",
    "read_cofw",
    "read_fddb",
    "read_helen_parts",
    "read_jd106",
    "read_jsonl",
    "read_malf",
    "read_pascal_faces",
    "read_wflw",
    "read_widerpose",
    "unpack_cofw",
    "wflw_subset",
    "without_photos_of",
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
    "ellipses_of": "fddb",
    "part_labels": "helen_parts",
    "read_300w": "ibug",
    "read_300w_lp": "w300lp",
    "read_aflw": "aflw",
    "read_aflw2000": "aflw2000",
    "read_afw": "toolbox_faces",
    "read_biwi": "biwi",
    "read_coco_landmarks": "landmark_sets",
    "read_cofw": "cofw",
    "read_fddb": "fddb",
    "read_helen_parts": "helen_parts",
    "read_jd106": "jd106",
    "read_jsonl": "jsonl",
    "read_malf": "malf",
    "read_pascal_faces": "toolbox_faces",
    "read_wflw": "wflw",
    "read_widerpose": "widerpose",
    "unpack_cofw": "cofw",
    "wflw_subset": "wflw",
    "without_photos_of": "jd106",
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
