"""`LandmarkMetric`: NME, AUC and failure rate as an MXNet metric. The scoring is in ``landmark_scoring.py``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._compat import mx
from ..data.base import FaceLabels
from ..errors import InputError
from ..faces import SCHEMES, Faces
from .landmark_scoring import NORMS, evaluate_landmarks, label_sizes, scored_faces

__all__ = ["LandmarkMetric"]


class LandmarkMetric(mx.metric.EvalMetric):
    """How far landmarks lie from the labelled ones, over all faces seen since the last reset.

    Parameters
    ----------
    norm : str
        What distances are divided by, see :func:`gluonface.metrics.normalisers`.
    threshold : float
        Of AUC and failure rate.
    name : str
        What the metric is called in lists of metrics.
    figures : sequence of str
        Which figures of :class:`gluonface.metrics.LandmarkScores` to give.

    Examples
    --------
    >>> metric = LandmarkMetric()
    >>> for x, labels in batches:  # points in pixels of x, one face each
    ...     metric.update(labels, net(x))
    >>> dict(zip(*metric.get()))
    {'nme': 0.034, 'auc': 0.58, 'failure_rate': 0.01}

    """

    def __init__(
        self,
        norm: str = "interocular",
        threshold: float = 0.08,
        name: str = "landmarks",
        figures: Sequence[str] = ("nme", "auc", "failure_rate"),
    ):
        if norm not in NORMS:
            raise InputError(f"expected a norm among {', '.join(NORMS)}, got {norm!r}")
        self.norm, self.threshold, self.figures = norm, threshold, tuple(figures)
        super().__init__(name)

    def reset(self) -> None:
        """Forget all faces."""
        self.scheme, self.predicted, self.truth, self.sizes = None, [], [], []
        super().reset()

    def update(self, labels: FaceLabels | Sequence[FaceLabels], preds: Faces | Sequence) -> None:
        """Add faces.

        Parameters
        ----------
        labels : FaceLabels, or a sequence of B
            Ignored faces and those without a labelled point are skipped.
        preds : Faces, a sequence of B, or arrays
            Points of each labelled face, in the order and the pixels of the labels: `Faces` with landmarks or arrays
            (n, K, 2) of each photo, as `LandmarkPredictor` gives them, NaN for all points of a face that was missed. Or
            what a landmark net gives for a batch of crops of one face each: landmarks (B, K, 2), or these and scores
            (B, K).

        Raises
        ------
        InputError
            There are not as many labels as predictions, their schemes differ, or a face has no size to divide by.
        """
        labels = [labels] if isinstance(labels, FaceLabels) else list(labels)
        points = _of_photos(preds)
        if len(labels) != len(points):
            raise InputError(f"expected the predictions of {len(labels)} photos, got those of {len(points)}")
        new = [self._photo(i, *pair) for i, pair in enumerate(zip(labels, points))]
        for photo in (photo for photo in new if photo is not None):
            for kept, array in zip((self.predicted, self.truth, self.sizes), photo):
                kept.append(array)
        self.num_inst = sum(map(len, self.sizes))

    def _photo(self, i: int, labels: FaceLabels, points: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """Predicted and labelled points and sizes of the scored faces of a photo."""
        if len(points) != len(labels):
            raise InputError(f"photo {i}: expected the points of {len(labels)} labelled faces, got {points.shape}")
        rows = scored_faces(labels)
        if not len(rows):
            return None
        scheme, labels = labels.scheme, labels[rows]
        if self.scheme is None:
            self.scheme = scheme
        shape = (len(points), SCHEMES[scheme].num_points, 2)
        if points.shape != shape or scheme != self.scheme:
            raise InputError(
                f"photo {i}: expected points and labels of {self.scheme} landmarks, got points of shape {points.shape} "
                f"and labels of {scheme}"
            )
        return points[rows], labels.landmarks, label_sizes(self.norm, labels)

    def get(self) -> tuple[list[str], list[float]]:
        """Names and values; NaN before the first face."""
        if not self.sizes:
            return list(self.figures), [float("nan")] * len(self.figures)
        arrays = (np.concatenate(parts) for parts in (self.predicted, self.truth, self.sizes))
        predicted, truth, sizes = arrays
        scores = evaluate_landmarks(predicted, truth, self.scheme, sizes, self.threshold)
        return list(self.figures), [getattr(scores, figure) for figure in self.figures]

    def get_name_value(self) -> list[tuple[str, float]]:
        return list(zip(*self.get()))


def _of_photos(preds) -> list[np.ndarray]:
    """Arrays (n, K, 2) of each photo."""
    if isinstance(preds, (Faces, mx.nd.NDArray, np.ndarray)):
        preds = [preds] if isinstance(preds, Faces) else _array(preds)[:, None]
    preds = list(preds)
    if [getattr(one, "ndim", None) for one in preds] == [3, 2]:
        preds = list(_array(preds[0])[:, None])  # a net's landmarks and scores
    points = []
    for i, one in enumerate(preds):
        if isinstance(one, Faces):
            if one.landmarks is None and len(one):
                raise InputError(f"photo {i}: expected faces with landmarks, got {one!r}")
            one = np.zeros((0, 0, 2)) if one.landmarks is None else one.landmarks
        one = _array(one)
        if one.ndim != 3 or one.shape[2] != 2:
            raise InputError(f"photo {i}: expected Faces with landmarks or points (n, K, 2), got shape {one.shape}")
        points.append(one)
    return points


def _array(array) -> np.ndarray:
    return array.asnumpy() if isinstance(array, mx.nd.NDArray) else np.asarray(array)
