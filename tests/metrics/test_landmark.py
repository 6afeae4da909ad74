"""`LandmarkMetric`: the figures of the function from photos, from a net's batch, all at once or bit by bit."""

import numpy as np
import pytest

pytest.importorskip("mxnet")

from gluonface._compat import mx
from gluonface.data.base import FaceLabels
from gluonface.errors import InputError
from gluonface.faces import Faces
from gluonface.metrics import LandmarkMetric, evaluate_landmarks, normalisers

RNG = np.random.default_rng(3)
POINTS = RNG.uniform(20, 80, (5, 19, 2)).astype(np.float32)
PREDICTED = POINTS + RNG.normal(0, 1.5, POINTS.shape).astype(np.float32)
BOXES = np.array([[20, 20, 80, 80.0]] * 5)
# Photos of 2, 0 and 3 faces.
PARTS = (slice(0, 2), slice(2, 2), slice(2, 5))
LABELS = [FaceLabels(BOXES[p], landmarks=POINTS[p], scheme="19") for p in PARTS]
ARRAYS = [PREDICTED[p] for p in PARTS]


def expected(rows=slice(None), norm="interocular", threshold=0.08):
    sizes = normalisers(norm, POINTS[rows], "19", BOXES[rows])
    scores = evaluate_landmarks(PREDICTED[rows], POINTS[rows], "19", sizes, threshold)
    return [scores.nme, scores.auc, scores.failure_rate]


def faces(points):
    boxes = BOXES[: len(points)]
    return Faces(boxes, np.ones(len(points)), landmarks=points, scheme="19", size_hw=(100, 100))


@pytest.mark.parametrize("norm", ["interocular", "box"])
def test_the_metric_gives_the_figures_of_the_function(norm):
    metric = LandmarkMetric(norm, threshold=0.05)
    metric.update(LABELS, ARRAYS)
    names, values = metric.get()
    assert names == ["nme", "auc", "failure_rate"]
    assert values == pytest.approx(expected(norm=norm, threshold=0.05))
    assert metric.num_inst == 5
    assert 0 < values[0] < 1


def test_faces_give_the_same_as_arrays():
    metric = LandmarkMetric()
    metric.update(LABELS, [faces(ARRAYS[0]), Faces.empty((100, 100)), faces(ARRAYS[2])])
    assert metric.get()[1] == pytest.approx(expected())


@pytest.mark.parametrize("as_array", [np.asarray, mx.nd.array], ids=["numpy", "mxnet"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_of_crops_as_a_net_gives_it(as_array, count):
    labels = [FaceLabels(BOXES[[i]], landmarks=POINTS[[i]], scheme="19") for i in range(count)]
    points, scores = as_array(PREDICTED[:count]), as_array(np.ones((count, 19), np.float32))
    for preds in ((points, scores), [points, scores], points):
        metric = LandmarkMetric()
        metric.update(labels, preds)
        assert metric.get()[1] == pytest.approx(expected(slice(count)))


def test_two_photos_are_not_taken_for_points_and_scores():
    metric = LandmarkMetric()
    metric.update([LABELS[0], LABELS[2]], [ARRAYS[0], ARRAYS[2]])
    assert metric.get()[1] == pytest.approx(expected())


def test_faces_add_up_over_updates_until_the_reset():
    metric = LandmarkMetric()
    for pair in zip(LABELS, ARRAYS):
        metric.update(*([one] for one in pair))
    assert metric.get()[1] == pytest.approx(expected())
    metric.reset()
    assert np.isnan(metric.get()[1]).all()
    assert metric.num_inst == 0
    metric.update(LABELS[0], faces(ARRAYS[0]))
    assert metric.get()[1] == pytest.approx(expected(slice(0, 2)))


def test_ignored_and_unlabelled_faces_are_skipped():
    points = POINTS.copy()
    points[1] = np.nan
    labels = FaceLabels(BOXES, landmarks=points, scheme="19", ignore=[False, False, True, False, False])
    metric = LandmarkMetric()
    metric.update([labels, FaceLabels(BOXES[:1])], [PREDICTED, np.zeros((1, 19, 2))])
    assert metric.num_inst == 3
    assert metric.get()[1] == pytest.approx(expected([0, 3, 4]))


def test_a_missed_face_is_a_failure():
    predicted = PREDICTED[:2].copy()
    predicted[1] = np.nan
    metric = LandmarkMetric(figures=("missed", "failure_rate", "nme"), threshold=10)
    metric.update([LABELS[0]], [predicted])
    assert metric.get()[1] == pytest.approx([1, 0.5, expected(slice(0, 1))[0]])


def test_it_is_a_metric_of_the_host():
    metric = mx.metric.CompositeEvalMetric([LandmarkMetric(figures=("nme",))])
    metric.update(LABELS, ARRAYS)
    names, values = metric.get()
    assert names == ["nme"]
    assert values == pytest.approx(expected()[:1])


@pytest.mark.parametrize(
    ("labels", "preds", "message"),
    [
        (LABELS[:1], ARRAYS, "predictions of 1 photos, got those of 3"),
        (LABELS[:1], [PREDICTED[:1]], r"photo 0: expected the points of 2 labelled faces"),
        (LABELS[:1], [PREDICTED[:2, :5]], r"19 landmarks, got points of shape \(2, 5, 2\)"),
        (LABELS[:1], [np.zeros((2, 38))], r"points \(n, K, 2\), got shape \(2, 38\)"),
        (LABELS[0], Faces(BOXES[:2], [1, 1], size_hw=(9, 9)), "expected faces with landmarks"),
    ],
)
def test_predictions_that_do_not_fit_are_named(labels, preds, message):
    with pytest.raises(InputError, match=message):
        LandmarkMetric().update(labels, preds)


def test_landmarks_of_two_schemes_do_not_mix():
    metric = LandmarkMetric()
    metric.update(LABELS, ARRAYS)
    five = FaceLabels(BOXES[:1], landmarks=POINTS[:1, :5], scheme="5")
    with pytest.raises(InputError, match="points and labels of 19 landmarks, got .* labels of 5"):
        metric.update([five], [PREDICTED[:1, :5]])
    assert metric.get()[1] == pytest.approx(expected())


def test_an_update_that_fails_adds_nothing():
    metric = LandmarkMetric()
    with pytest.raises(InputError):
        metric.update(LABELS, [*ARRAYS[:2], PREDICTED[:1]])
    assert metric.num_inst == 0
    assert np.isnan(metric.get()[1]).all()


def test_an_unknown_norm_is_refused():
    with pytest.raises(InputError, match="got 'eyes'"):
        LandmarkMetric("eyes")
