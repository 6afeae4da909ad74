"""How good detectors are. Names load on first use; MXNet comes with the four metric classes only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bootstrap import Comparison, RankedDetections, paired_bootstrap
    from .box_fit import BoxFit, fit_boxes
    from .detection import DetectionMetric
    from .fddb import FddbRoc, Regions, fddb_roc, match_fddb, summarize_fddb
    from .fddb_files import read_fddb_detections, write_fddb_detections
    from .landmark import LandmarkMetric
    from .landmark_scoring import (
        NORMS,
        LandmarkScores,
        area_under_ced,
        best_proposals,
        ced_curve,
        closest_proposals,
        evaluate_landmarks,
        label_sizes,
        normalisers,
        point_errors,
        scored_faces,
    )
    from .mesh import PAPER_YAW_BINS, MeshScores, evaluate_mesh, summarize_by_yaw
    from .pose import PoseMAE
    from .pose_scoring import YAW_BINS, PoseScores, evaluate_pose, faces_by_yaw, posed_faces
    from .proposals import recall_at_top
    from .scoring import PhotoMatch, evaluate_detections, match_photo, match_photos, precision_recall, summarize
    from .verification import Verification, read_lfw_pairs, verify_pairs
    from .widerface import WiderFaceMetric
    from .widerface_files import read_predictions, write_prediction
    from .widerface_protocol import evaluate_widerface, read_widerface_ground_truth, widerface_curves

_HOME_OF = {
    "BoxFit": "box_fit",
    "Comparison": "bootstrap",
    "DetectionMetric": "detection",
    "FddbRoc": "fddb",
    "LandmarkMetric": "landmark",
    "LandmarkScores": "landmark_scoring",
    "MeshScores": "mesh",
    "NORMS": "landmark_scoring",
    "PAPER_YAW_BINS": "mesh",
    "PhotoMatch": "scoring",
    "PoseMAE": "pose",
    "PoseScores": "pose_scoring",
    "RankedDetections": "bootstrap",
    "Regions": "fddb",
    "Verification": "verification",
    "WiderFaceMetric": "widerface",
    "YAW_BINS": "pose_scoring",
    "area_under_ced": "landmark_scoring",
    "best_proposals": "landmark_scoring",
    "ced_curve": "landmark_scoring",
    "closest_proposals": "landmark_scoring",
    "evaluate_detections": "scoring",
    "evaluate_landmarks": "landmark_scoring",
    "evaluate_mesh": "mesh",
    "evaluate_pose": "pose_scoring",
    "evaluate_widerface": "widerface_protocol",
    "faces_by_yaw": "pose_scoring",
    "fddb_roc": "fddb",
    "fit_boxes": "box_fit",
    "label_sizes": "landmark_scoring",
    "match_fddb": "fddb",
    "match_photo": "scoring",
    "match_photos": "scoring",
    "normalisers": "landmark_scoring",
    "paired_bootstrap": "bootstrap",
    "point_errors": "landmark_scoring",
    "posed_faces": "pose_scoring",
    "precision_recall": "scoring",
    "read_fddb_detections": "fddb_files",
    "read_lfw_pairs": "verification",
    "read_predictions": "widerface_files",
    "read_widerface_ground_truth": "widerface_protocol",
    "recall_at_top": "proposals",
    "scored_faces": "landmark_scoring",
    "summarize": "scoring",
    "summarize_by_yaw": "mesh",
    "summarize_fddb": "fddb",
    "verify_pairs": "verification",
    "widerface_curves": "widerface_protocol",
    "write_fddb_detections": "fddb_files",
    "write_prediction": "widerface_files",
}

__all__ = [
    "BoxFit",
    "Comparison",
    "DetectionMetric",
    "FddbRoc",
    "LandmarkMetric",
    "LandmarkScores",
    "MeshScores",
    "NORMS",
    "PAPER_YAW_BINS",
    "PhotoMatch",
    "PoseMAE",
    "PoseScores",
    "RankedDetections",
    "Regions",
    "Verification",
    "WiderFaceMetric",
    "YAW_BINS",
    "area_under_ced",
    "best_proposals",
    "ced_curve",
    "closest_proposals",
    "evaluate_detections",
    "evaluate_landmarks",
    "evaluate_mesh",
    "evaluate_pose",
    "evaluate_widerface",
    "faces_by_yaw",
    "fddb_roc",
    "fit_boxes",
    "label_sizes",
    "match_fddb",
    "match_photo",
    "match_photos",
    "normalisers",
    "paired_bootstrap",
    "point_errors",
    "posed_faces",
    "precision_recall",
    "read_fddb_detections",
    "read_lfw_pairs",
    "read_predictions",
    "read_widerface_ground_truth",
    "recall_at_top",
    "scored_faces",
    "summarize",
    "summarize_by_yaw",
    "summarize_fddb",
    "verify_pairs",
    "widerface_curves",
    "write_fddb_detections",
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
