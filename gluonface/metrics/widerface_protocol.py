"""The official WIDER FACE protocol (validation set, three settings).

WIDER FACE, Yang et al., CVPR 2016; the evaluation tool published with it is followed step by step: scores are stretched
to [0, 1] over the whole set, the curve has 1000 thresholds, a box has ``w + 1`` by ``h + 1`` pixels, a detection goes
to the face it overlaps most, and faces outside a setting are neither to be found nor false alarms. Everywhere else in
this package a width is ``x2 - x1``; the ``+ 1`` stays in this file. A second detection of a face already found is a
false alarm.

Letters: N detections and M faces of one photo.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._compat import import_optional
from ..errors import DataError, InputError
from .curves import average_precision

__all__ = [
    "SETTINGS",
    "WiderFaceGroundTruth",
    "evaluate_widerface",
    "photo_name",
    "read_widerface_ground_truth",
    "to_xywh",
    "widerface_curves",
]

logger = logging.getLogger(__name__)

SETTINGS = ("easy", "medium", "hard")
_NUM_THRESHOLDS = 1000


@dataclass(frozen=True)
class WiderFaceGroundTruth:
    """The faces of the validation photos.

    Attributes
    ----------
    names : tuple of str
        ``event/name`` of each photo, without suffix: 3,226 in the official set.
    boxes_xywh : tuple of ndarray (M, 4)
        x, y, width, height as annotated.
    counted : dict of str to tuple of ndarray of bool (M,)
        For each setting the faces that it asks for.
    """

    names: tuple[str, ...]
    boxes_xywh: tuple[np.ndarray, ...]
    counted: Mapping[str, tuple[np.ndarray, ...]]

    def __len__(self) -> int:
        return len(self.names)


def read_widerface_ground_truth(folder: str | os.PathLike) -> WiderFaceGroundTruth:
    """Read ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat`` as they come with the official tool.

    Raises
    ------
    DataError
        A file is missing, is not such a .mat file, or lists other photos than the first.
    """
    folder = Path(folder)
    path = folder / "wider_face_val.mat"
    mat = _load_mat(path, ("event_list", "file_list", "face_bbx_list"))
    try:
        names = _photo_names(mat)
        boxes = [np.asarray(b, np.float64).reshape(-1, 4) for event in mat["face_bbx_list"][:, 0] for b in event[:, 0]]
        counted = {}
        for setting in SETTINGS:
            path = folder / f"wider_{setting}_val.mat"
            mat = _load_mat(path, ("event_list", "file_list", "gt_list"))
            if _photo_names(mat) != names:
                raise DataError(f"{path}: expected the photos of wider_face_val.mat in the same order, got others")
            rows = [np.asarray(rows, np.int64).ravel() for event in mat["gt_list"][:, 0] for rows in event[:, 0]]
            counted[setting] = tuple(_mask_of_rows(r, len(b), path, n) for r, b, n in zip(rows, boxes, names))
    except (IndexError, TypeError) as error:
        raise DataError(f"{path}: expected the nested lists of the official tool ({error})") from error
    return WiderFaceGroundTruth(tuple(names), tuple(boxes), counted)


def _load_mat(path: Path, keys: tuple[str, ...]) -> dict:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected the .mat files of the official evaluation tool "
            "(wider_face_val.mat, wider_easy_val.mat, wider_medium_val.mat, wider_hard_val.mat)"
        )
    loadmat = import_optional("scipy.io", "bench").loadmat
    try:
        mat = loadmat(path, variable_names=keys)
    except Exception as error:  # SciPy raises many types on a damaged file
        raise DataError(f"{path}: not a readable .mat file ({error}); fetch it again") from error
    missing = [key for key in keys if key not in mat]
    if missing:
        raise DataError(f"{path}: expected the variables {', '.join(keys)}, {missing[0]} is missing")
    return mat


def _photo_names(mat: dict) -> list[str]:
    events = [str(event[0]) for event in mat["event_list"][:, 0]]
    return [f"{event}/{name[0]}" for event, names in zip(events, mat["file_list"][:, 0]) for name in names[:, 0]]


def _mask_of_rows(one_based: np.ndarray, count: int, path: Path, name: str) -> np.ndarray:
    if one_based.size and not (one_based.min() >= 1 and one_based.max() <= count):
        raise DataError(f"{path}: {name} has {count} faces, but gt_list names face {int(one_based.max())}")
    mask = np.zeros(count, bool)
    mask[one_based - 1] = True
    return mask


def photo_name(path: str) -> str:
    """``event/name`` of ``event/name.jpg``; a name without a picture's suffix stays as it is."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and suffix.lower() in ("jpg", "jpeg", "png") else path


def to_xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) of this package as the benchmark writes them: x, y, width, height.

    Its annotations count pixels: a box of width w that begins at column x covers [x, x + w] in continuous coordinates.
    """
    boxes = np.asarray(boxes_xyxy)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def evaluate_widerface(
    predictions: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ground_truth: WiderFaceGroundTruth,
    iou_thresh: float = 0.5,
) -> dict[str, float]:
    """Average precision of the three settings.

    Parameters
    ----------
    predictions : mapping of str to (boxes_xywh (N, 4), scores (N,))
        By ``event/name`` without suffix: x, y, width, height in pixels of the photo and any scores, in any order.
        Photos that the ground truth does not know are left out with a warning.
    ground_truth : WiderFaceGroundTruth
    iou_thresh : float
        Least intersection over union of a hit.

    Returns
    -------
    dict
        ``easy``, ``medium``, ``hard``.

    Raises
    ------
    InputError
        A photo is missing, or its arrays have the wrong shape or are not finite.
    """
    curves = widerface_curves(predictions, ground_truth, iou_thresh)
    return {setting: float(average_precision(*curve)) for setting, curve in curves.items()}


def widerface_curves(
    predictions: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ground_truth: WiderFaceGroundTruth,
    iou_thresh: float = 0.5,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Recall (1000,) and precision (1000,) of each setting; parameters and errors as :func:`evaluate_widerface`."""
    photos = _checked_predictions(predictions, ground_truth)
    every_score = np.concatenate([scores for _, scores in photos]) if photos else np.zeros(0)
    if not every_score.size:
        return {setting: (np.zeros(_NUM_THRESHOLDS), np.zeros(_NUM_THRESHOLDS)) for setting in SETTINGS}
    low, span = every_score.min(), np.ptp(every_score) or 1.0

    # A detection's fate needs no threshold, and a threshold only counts: so fates first, then one count for all photos.
    counted = {setting: [] for setting in SETTINGS}  # scores of the detections that are not on a face left out
    found = {setting: [] for setting in SETTINGS}  # scores at which a face is found first
    for i, (boxes, scores) in enumerate(photos):
        faces = ground_truth.boxes_xywh[i]
        if not len(faces) or not len(boxes):
            continue
        scores = (scores - low) / span
        overlap = _official_iou(boxes, faces)
        face_of = overlap.argmax(axis=1)
        on_face = overlap[np.arange(len(boxes)), face_of] >= iou_thresh
        for setting in SETTINGS:
            wanted = on_face & ground_truth.counted[setting][i][face_of]
            counted[setting].append(scores[wanted | ~on_face])
            # Best score first, so the first detection of each face is its best.
            first = np.unique(face_of[wanted], return_index=True)[1]
            found[setting].append(scores[wanted][first])
    return {setting: _curve(counted[setting], found[setting], ground_truth.counted[setting]) for setting in SETTINGS}


def _checked_predictions(predictions, ground_truth):
    """(boxes_xywh float64 (N, 4), scores float64 (N,)) of each photo of the ground truth, best first."""
    missing = [name for name in ground_truth.names if name not in predictions]
    if missing:
        raise InputError(
            f"predictions: {len(missing)} of {len(ground_truth)} photos are missing, the first is {missing[0]!r}; "
            "a photo without faces needs boxes of shape (0, 4)"
        )
    if len(predictions) > len(ground_truth):
        logger.warning("%d photos are not in the ground truth and are left out", len(predictions) - len(ground_truth))
    photos = []
    for name in ground_truth.names:
        boxes, scores = (np.asarray(array, np.float64) for array in predictions[name])
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
            raise InputError(
                f"predictions[{name!r}]: expected boxes_xywh (N, 4) and scores (N,), got {boxes.shape} and "
                f"{scores.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise InputError(f"predictions[{name!r}]: expected finite numbers")
        order = np.argsort(-scores, kind="stable")
        photos.append((boxes[order], scores[order]))
    return photos


def _official_iou(a_xywh: np.ndarray, b_xywh: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union where both edges belong to a box, as in the official tool."""
    a_min, b_min = a_xywh[:, None, :2], b_xywh[None, :, :2]
    edges = np.minimum(a_min + a_xywh[:, None, 2:], b_min + b_xywh[None, :, 2:]) - np.maximum(a_min, b_min) + 1
    inter = np.prod(np.maximum(edges, 0), axis=2)
    a_area, b_area = np.prod(a_xywh[:, 2:] + 1, axis=1), np.prod(b_xywh[:, 2:] + 1, axis=1)
    return inter / (a_area[:, None] + b_area[None, :] - inter)


def _curve(counted: list, found: list, masks: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    thresholds = 1 - np.arange(1, _NUM_THRESHOLDS + 1) / _NUM_THRESHOLDS
    num_counted, num_found = (_number_at_least(scores, thresholds) for scores in (counted, found))
    num_faces = sum(int(mask.sum()) for mask in masks)
    return num_found / max(num_faces, 1), num_found / np.maximum(num_counted, 1)


def _number_at_least(scores: list[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    ascending = np.sort(np.concatenate([np.zeros(0), *scores]))
    return len(ascending) - np.searchsorted(ascending, thresholds, side="left")
