"""`PoseMAE`: mean absolute error of head pose as an MXNet metric. The scoring is in ``pose_scoring.py``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._compat import mx
from ..errors import InputError
from .pose_scoring import evaluate_pose

__all__ = ["PoseMAE"]


class PoseMAE(mx.metric.EvalMetric):
    """How many degrees predicted poses are off, over all faces seen since the last reset.

    Faces one of whose labelled angles is beyond 99 degrees do not count (`gluonface.metrics.evaluate_pose`).

    Parameters
    ----------
    name : str
        What the metric is called in lists of metrics.
    figures : sequence of str
        Which figures of :class:`gluonface.metrics.PoseScores` to give.

    Examples
    --------
    >>> metric = PoseMAE()
    >>> for x, labels in batches:  # labels (B, 3): yaw, pitch, roll in degrees
    ...     metric.update(labels, pose_of(x))
    >>> dict(zip(*metric.get()))
    {'mae': 3.2, 'yaw': 3.0, 'pitch': 4.4, 'roll': 2.2}

    """

    def __init__(self, name: str = "pose", figures: Sequence[str] = ("mae", "yaw", "pitch", "roll")):
        self.figures = tuple(figures)
        super().__init__(name)

    def reset(self) -> None:
        """Forget all faces."""
        self.predicted, self.truth = [], []
        super().reset()

    def update(self, labels, preds) -> None:
        """Add faces.

        Parameters
        ----------
        labels : array (B, 3), or a sequence of such
            Yaw, pitch, roll in degrees, AFLW2000-3D convention; rows with NaN, faces without a label, are skipped.
        preds : array (B, 3), or a sequence of such
            In the same order; NaN for all of a face that was missed.

        Raises
        ------
        InputError
            Shapes do not fit.
        """
        labels, preds = _arrays(labels), _arrays(preds)
        if len(labels) != len(preds):
            raise InputError(f"expected the predictions of {len(labels)} batches, got those of {len(preds)}")
        new = []
        for i, (truth, predicted) in enumerate(zip(labels, preds)):
            if truth.ndim != 2 or truth.shape[1] != 3 or predicted.shape != truth.shape:
                raise InputError(
                    f"batch {i}: expected labelled and predicted poses of one shape (B, 3), got {truth.shape} and "
                    f"{predicted.shape}"
                )
            rows = np.isfinite(truth).all(axis=1)
            new.append((predicted[rows], truth[rows]))
        for predicted, truth in new:
            self.predicted.append(predicted)
            self.truth.append(truth)
        self.num_inst = sum(map(len, self.truth))

    def get(self) -> tuple[list[str], list[float]]:
        """Names and values; NaN before the first face."""
        if not self.num_inst:
            return list(self.figures), [float("nan")] * len(self.figures)
        scores = evaluate_pose(np.concatenate(self.predicted), np.concatenate(self.truth))
        return list(self.figures), [getattr(scores, figure) for figure in self.figures]

    def get_name_value(self) -> list[tuple[str, float]]:
        return list(zip(*self.get()))


def _arrays(value) -> list[np.ndarray]:
    """One array, or several of them, as a list of arrays."""
    if isinstance(value, (mx.nd.NDArray, np.ndarray)):
        value = [value]
    return [one.asnumpy() if isinstance(one, mx.nd.NDArray) else np.asarray(one, np.float64) for one in value]
