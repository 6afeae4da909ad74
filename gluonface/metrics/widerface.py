"""`WiderFaceMetric`: the WIDER FACE protocol as an MXNet metric. The protocol is in ``widerface_protocol.py``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .._compat import mx
from ..errors import InputError
from ..faces import Faces
from .widerface_files import read_predictions, write_prediction
from .widerface_protocol import (
    SETTINGS,
    WiderFaceGroundTruth,
    evaluate_widerface,
    photo_name,
    read_widerface_ground_truth,
    to_xywh,
)

__all__ = [
    "WiderFaceMetric",
    "evaluate_widerface",
    "read_predictions",
    "read_widerface_ground_truth",
    "write_prediction",
]


class WiderFaceMetric(mx.metric.EvalMetric):
    """Average precision of the easy, medium and hard setting over the WIDER FACE validation photos.

    Parameters
    ----------
    ground_truth : path or WiderFaceGroundTruth
        Folder of the official .mat files.
    iou_thresh : float
        Least intersection over union of a hit.
    name : str
        What the metric is called in lists of metrics.

    Examples
    --------
    >>> metric = WiderFaceMetric("eval/ground_truth")
    >>> for name in metric.ground_truth.names:  # event/name
    ...     metric.update(name, analyzer(f"WIDER_val/images/{name}.jpg"))
    >>> metric.get()
    (['easy', 'medium', 'hard'], [0.9448, 0.9245, 0.8153])

    """

    def __init__(
        self, ground_truth: str | os.PathLike | WiderFaceGroundTruth, iou_thresh: float = 0.5, name: str = "widerface"
    ):
        if not isinstance(ground_truth, WiderFaceGroundTruth):
            ground_truth = read_widerface_ground_truth(ground_truth)
        self.ground_truth, self.iou_thresh = ground_truth, iou_thresh
        self._known = frozenset(ground_truth.names)
        super().__init__(name)

    def reset(self) -> None:
        """Forget all photos."""
        self.predictions = {}
        super().reset()

    def update(self, labels: str | Sequence[str], preds: Faces | Sequence[Faces]) -> None:
        """Add photos.

        Parameters
        ----------
        labels : str, or a sequence of str
            ``event/name`` of each photo, with or without ``.jpg``.
        preds : Faces, or a sequence of Faces
            In pixels of the photo, with all scores down to 0.02 or lower.

        Raises
        ------
        InputError
            A photo is not in the ground truth, or there are not as many names as predictions.
        """
        names = [labels] if isinstance(labels, str) else list(labels)
        preds = [preds] if isinstance(preds, Faces) else list(preds)
        if len(names) != len(preds):
            raise InputError(f"expected the faces of {len(names)} photos, got those of {len(preds)}")
        for name, faces in zip(map(photo_name, names), preds):
            if name not in self._known:
                raise InputError(f"{name!r} is not a photo of the ground truth; names look like {min(self._known)!r}")
            self.predictions[name] = (to_xywh(faces.boxes), faces.scores)
        self.num_inst = len(self.predictions)

    def get(self) -> tuple[list[str], list[float]]:
        """Names and values; NaN before the first photo.

        Raises
        ------
        InputError
            Some photos of the set, but not all, were given.
        """
        if not self.predictions:
            return list(SETTINGS), [float("nan")] * len(SETTINGS)
        values = evaluate_widerface(self.predictions, self.ground_truth, self.iou_thresh)
        return list(SETTINGS), [values[setting] for setting in SETTINGS]

    def get_name_value(self) -> list[tuple[str, float]]:
        return list(zip(*self.get()))
