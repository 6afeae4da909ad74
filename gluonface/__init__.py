"""Face detection, alignment and head pose for MXNet and GluonCV.

>>> import gluonface
>>> faces = gluonface.FaceAnalyzer()("photo.jpg")
>>> net = gluonface.get_model("retinaface_mobilenet0.25_fc26", pretrained=True)

Importing this package loads NumPy at most: MXNet comes with the first name that needs it (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faces import Faces
    from .image import load_image
    from .model_zoo import get_model, list_models
    from .pipeline import FaceAnalyzer

__version__ = "0.1.0"

__all__ = ["FaceAnalyzer", "Faces", "__version__", "get_model", "list_models", "load_image"]

_HOME_OF = {
    "FaceAnalyzer": "pipeline",
    "Faces": "faces",
    "get_model": "model_zoo",
    "list_models": "model_zoo",
    "load_image": "image",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value  # the next look-up is a plain one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
