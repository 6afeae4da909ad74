"""`DetectionMetric`: average precision as an MXNet metric. The scoring itself is in ``scoring.py``, without MXNet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._compat import mx
from ..data.base import FaceLabels
from ..errors import InputError
from ..faces import Faces
from .scoring import evaluate_detections, match_photo, summarize

__all__ = ["DetectionMetric", "evaluate_detections"]


class DetectionMetric(mx.metric.EvalMetric):
    """Average precision over all photos seen since the last reset.

    Parameters
    ----------
    name : str
        What the metric is called in lists of metrics.
    figures : sequence of str
        Which figures of :func:`gluonface.metrics.summarize` to give.

    Examples
    --------
    >>> metric = DetectionMetric()
    >>> for x, labels in batches:  # boxes in pixels of x
    ...     metric.update(labels, net(x))
    >>> dict(zip(*metric.get()))
    {'ap50': 0.91, 'ap': 0.53, 'recall_at_1fppi': 0.94}

    """

    def __init__(self, name: str = "detection", figures: Sequence[str] = ("ap50", "ap", "recall_at_1fppi")):
        self.figures = tuple(figures)
        super().__init__(name)

    def reset(self) -> None:
        """Forget all photos."""
        self.matches = []
        super().reset()

    def update(self, labels: FaceLabels | Sequence[FaceLabels], preds: Faces | Sequence) -> None:
        """Add photos.

        Parameters
        ----------
        labels : FaceLabels, or a sequence of B
        preds : Faces, a sequence of B, or what a detector gives for a batch
            The latter is ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4) and perhaps landmarks (B, n, 10), padded
            with -1. Boxes are in the same pixels as the labels.

        Raises
        ------
        InputError
            There are not as many labels as predictions, or their arrays do not fit.
        """
        labels = [labels] if isinstance(labels, FaceLabels) else list(labels)
        preds = [preds] if isinstance(preds, Faces) else list(preds)
        if preds and not isinstance(preds[0], Faces):
            preds = _photos_of_batch(preds)
        if len(labels) != len(preds):
            raise InputError(f"expected the predictions of {len(labels)} photos, got those of {len(preds)}")
        self.matches += [match_photo(*pair) for pair in zip(preds, labels)]
        self.num_inst = len(self.matches)

    def get(self) -> tuple[list[str], list[float]]:
        """Names and values; NaN before the first photo."""
        values = summarize(self.matches)
        return list(self.figures), [values[figure] for figure in self.figures]

    def get_name_value(self) -> list[tuple[str, float]]:
        return list(zip(*self.get()))


class _Photo:
    """The detections of one photo of a batch, in pixels of the canvas (which `Faces` would need the size of)."""

    def __init__(self, boxes: np.ndarray, scores: np.ndarray, landmarks5: np.ndarray | None):
        self.boxes, self.scores, self.landmarks5 = boxes, scores, landmarks5


def _photos_of_batch(outputs: Sequence) -> list[_Photo]:
    arrays = [output.asnumpy() if isinstance(output, mx.nd.NDArray) else np.asarray(output) for output in outputs]
    shapes = [array.shape for array in arrays]
    if len(arrays) not in (3, 4) or any(len(s) != 3 or s[:2] != shapes[0][:2] for s in shapes) or shapes[2][2] != 4:
        raise InputError(
            "expected Faces, or ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4) and perhaps landmarks (B, n, 10), "
            f"got shapes {shapes}"
        )
    ids, scores, boxes = arrays[:3]
    points = arrays[3].reshape(*shapes[3][:2], -1, 2) if len(arrays) == 4 and shapes[3][2] == 10 else None
    photos = []
    for i, real in enumerate(ids[..., 0] >= 0):
        photos.append(_Photo(boxes[i, real], scores[i, real, 0], None if points is None else points[i, real]))
    return photos
