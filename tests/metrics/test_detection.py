"""`DetectionMetric`: the same figures from `Faces`, from host arrays, all at once or bit by bit."""

import numpy as np
import pytest

pytest.importorskip("mxnet")

from gluonface._compat import mx
from gluonface.data.base import FaceLabels
from gluonface.errors import InputError
from gluonface.faces import Faces
from gluonface.metrics import DetectionMetric, evaluate_detections

SIZE_HW = (100, 100)
TRUTH = [FaceLabels(np.array([[0, 0, 20, 20], [50, 50, 70, 70.0]])), FaceLabels(np.array([[10, 10, 40, 40.0]]))]
FOUND = [
    Faces([[0, 0, 20, 20], [60, 10, 80, 30]], [0.9, 0.95], size_hw=SIZE_HW),
    Faces([[12, 10, 40, 40]], [0.7], size_hw=SIZE_HW),
]


def host_arrays():
    ids, scores, boxes = (np.full((2, 3, n), -1, np.float32) for n in (1, 1, 4))
    for i, faces in enumerate(FOUND):
        ids[i, : len(faces)] = 0
        scores[i, : len(faces), 0], boxes[i, : len(faces)] = faces.scores, faces.boxes
    return ids, scores, boxes, np.full((2, 3, 10), -1, np.float32)


def test_the_metric_gives_the_figures_of_the_function():
    metric = DetectionMetric()
    metric.update(TRUTH, FOUND)
    expected = evaluate_detections(FOUND, TRUTH)
    assert metric.get() == (
        ["ap50", "ap", "recall_at_1fppi"],
        [expected["ap50"], expected["ap"], expected["recall_at_1fppi"]],
    )
    assert 0 < expected["ap50"] < 1


@pytest.mark.parametrize("as_array", [np.asarray, mx.nd.array], ids=["numpy", "mxnet"])
def test_host_arrays_padded_with_minus_one_give_the_same(as_array):
    one, other = DetectionMetric(), DetectionMetric()
    one.update(TRUTH, FOUND)
    other.update(TRUTH, tuple(as_array(a) for a in host_arrays()))
    assert other.get() == one.get()


def test_photos_add_up_over_updates_until_the_reset():
    one, other = DetectionMetric(), DetectionMetric(figures=("ap50", "ap", "recall_at_1fppi"))
    one.update(TRUTH, FOUND)
    for truth, found in zip(TRUTH, FOUND):
        other.update(truth, found)
    assert other.get() == one.get()
    assert other.num_inst == 2
    other.reset()
    assert np.isnan(other.get()[1]).all()


def test_it_is_a_metric_of_the_host():
    metric = mx.metric.CompositeEvalMetric([DetectionMetric(figures=("ap50",))])
    metric.update(TRUTH, FOUND)
    names, values = metric.get()
    assert names == ["ap50"]
    assert values[0] > 0


def test_wrong_numbers_and_shapes_are_named():
    with pytest.raises(InputError, match="predictions of 1 photos, got those of 2"):
        DetectionMetric().update(TRUTH[:1], FOUND)
    with pytest.raises(InputError, match="expected Faces, or ids"):
        DetectionMetric().update(TRUTH, (np.zeros((2, 3, 1)), np.zeros((2, 3, 1)), np.zeros((2, 3, 5))))
