"""How good detectors are. Names load on first use; MXNet comes with the two metric classes only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bootstrap import Comparison, RankedDetections, paired_bootstrap
    from .detection import DetectionMetric
    from .scoring import PhotoMatch, evaluate_detections, match_photo, match_photos, precision_recall, summarize
    from .widerface import WiderFaceMetric
    from .widerface_files import read_predictions, write_prediction
    from .widerface_protocol import evaluate_widerface, read_widerface_ground_truth, widerface_curves

_HOME_OF = {
    "Comparison": "bootstrap",
    "DetectionMetric": "detection",
    "PhotoMatch": "scoring",
    "RankedDetections": "bootstrap",
    "WiderFaceMetric": "widerface",
    "evaluate_detections": "scoring",
    "evaluate_widerface": "widerface_protocol",
    "match_photo": "scoring",
    "match_photos": "scoring",
    "paired_bootstrap": "bootstrap",
    "precision_recall": "scoring",
    "read_predictions": "widerface_files",
    "read_widerface_ground_truth": "widerface_protocol",
    "summarize": "scoring",
    "widerface_curves": "widerface_protocol",
    "write_prediction": "widerface_files",
}

__all__ = [
    "Comparison",
    "DetectionMetric",
    "PhotoMatch",
    "RankedDetections",
    "WiderFaceMetric",
    "evaluate_detections",
    "evaluate_widerface",
    "match_photo",
    "match_photos",
    "paired_bootstrap",
    "precision_recall",
    "read_predictions",
    "read_widerface_ground_truth",
    "summarize",
    "widerface_curves",
    "write_prediction",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
