"""One shift and stretch for all boxes of a detector, to the box style of a data set. NumPy only.

Sets differ in what a face's box is: with or without forehead, tight or square. The toolbox of Mathias et al. (ECCV
2014), with which AFW and PASCAL faces are measured, moves and stretches the boxes of every detector before it counts:
by the mean of what is wanting on the faces found, five times over. It fits on the faces that it measures; four numbers
learn little of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .scoring import Detections, Labels, match_photo

__all__ = ["BoxFit", "fit_boxes"]


@dataclass(frozen=True)
class BoxFit:
    """A change of boxes in shares of their own width and height.

    Attributes
    ----------
    shift_x, shift_y : float
        What the centre moves by.
    scale_x, scale_y : float
        What width and height are multiplied by.
    """

    shift_x: float = 0.0
    shift_y: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0

    def __call__(self, boxes: np.ndarray) -> np.ndarray:
        """Changed boxes (N, 4) of boxes (N, 4) xyxy; float64."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        size = boxes[:, 2:] - boxes[:, :2]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + size * [self.shift_x, self.shift_y]
        half = size * [self.scale_x, self.scale_y] / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    def then(self, following: BoxFit) -> BoxFit:
        """One change that does this one and then another."""
        return BoxFit(
            self.shift_x + self.scale_x * following.shift_x,
            self.shift_y + self.scale_y * following.shift_y,
            self.scale_x * following.scale_x,
            self.scale_y * following.scale_y,
        )


@dataclass(frozen=True)
class _Boxes:
    boxes: np.ndarray
    scores: np.ndarray
    landmarks5: None = None


def fit_boxes(
    detections: Sequence[Detections], labels: Sequence[Labels], iterations: int = 5, iou_thresh: float = 0.5
) -> BoxFit:
    """Fit boxes to labels; see the text above.

    Parameters
    ----------
    detections, labels : sequence
        Of the same photos, as :func:`gluonface.metrics.match_photos` takes them.
    iterations : int
        The toolbox takes 5.
    iou_thresh : float
        From which overlap on a detection finds a face.

    Returns
    -------
    BoxFit
        One that changes nothing where no face is found.

    Raises
    ------
    InputError
        There are not as many detections as labels.
    """
    if len(detections) != len(labels):
        raise InputError(f"expected the detections of {len(labels)} photos, got those of {len(detections)}")
    fit = BoxFit()
    for _ in range(iterations):
        found, wanted = [np.zeros((0, 4))], [np.zeros((0, 4))]
        for one, label in zip(detections, labels):
            changed = _Boxes(fit(one.boxes), np.asarray(one.scores))
            face_of = match_photo(changed, label, (iou_thresh,)).face_of[0]
            boxes = changed.boxes[np.argsort(-changed.scores, kind="stable")]
            found.append(boxes[face_of >= 0])
            wanted.append(np.asarray(label.boxes, np.float64)[~np.asarray(label.ignore, bool)][face_of[face_of >= 0]])
        found, wanted = np.concatenate(found), np.concatenate(wanted)
        if not len(found):
            return fit
        size = found[:, 2:] - found[:, :2]
        shift = ((wanted[:, :2] + wanted[:, 2:] - found[:, :2] - found[:, 2:]) / 2 / size).mean(axis=0)
        scale = ((wanted[:, 2:] - wanted[:, :2]) / size).mean(axis=0)
        fit = fit.then(BoxFit(*shift.tolist(), *scale.tolist()))
    return fit
