"""Scoring of head pose, and `PoseMAE`, which gives the figures of the function bit by bit."""

from types import SimpleNamespace

import numpy as np
import pytest

from gluonface.errors import InputError
from gluonface.metrics.pose_scoring import YAW_BINS, evaluate_pose, faces_by_yaw, posed_faces

RNG = np.random.default_rng(11)
TRUTH = RNG.uniform(-60, 60, (40, 3))
PREDICTED = TRUTH + RNG.normal(0, 4, TRUTH.shape)


def test_the_figures_are_those_worked_out_by_hand():
    truth = np.array([[10.0, 0, 0], [-20, 5, -5]])
    scores = evaluate_pose(truth + np.array([[3, -2, 1], [-1, 4, 0]]), truth)
    assert (scores.yaw, scores.pitch, scores.roll) == pytest.approx((2, 3, 0.5))
    assert scores.mae == pytest.approx(5.5 / 3)
    assert scores.errors == pytest.approx(np.array([[3, 2, 1], [1, 4, 0]]))
    assert (scores.faces, scores.missed, scores.left_out) == (2, 0, 0)
    assert "errors" not in scores.to_dict()


def test_angles_wrap_around():
    truth = np.array([[0.0, 90, -90]])
    scores = evaluate_pose([[359, -269, 271]], truth)
    assert (scores.yaw, scores.pitch, scores.roll) == pytest.approx((1, 1, 1))
    assert evaluate_pose([[0, 0, 179 - 360]], [[0, 0, 99]]).roll == pytest.approx(80)


def test_the_geodesic_error_is_the_angle_of_the_turn_between_the_poses():
    # One angle changed: the turn is as large. Looking aside by 90 degrees, pitch and roll turn about the same axis.
    truth = np.array([[0.0, 0, 0], [0, 0, 0], [90, 0, 0]])
    scores = [evaluate_pose([p], [t]).geodesic for p, t in zip([[0, 7, 0], [-30, 0, 0], [90, 20, -20]], truth)]
    assert scores[:2] == pytest.approx([7, 30])
    together = evaluate_pose([[90, 20, 20]], truth[2:]).geodesic
    assert sorted([scores[2], together]) == pytest.approx([0, 40], abs=1e-5)


def test_faces_with_an_angle_beyond_99_degrees_are_left_out_and_counted():
    truth = np.array([[0.0, 0, 0], [100, 0, 0], [0, -99.5, 0], [0, 0, 120], [99, -99, 99]])
    scores = evaluate_pose(truth + np.array([[1], [50], [50], [50], [1]]), truth)
    assert (scores.faces, scores.left_out, scores.mae) == (2, 3, pytest.approx(1))
    assert np.isnan(scores.errors[1:4]).all()
    assert scores.by_yaw["0-15"]["faces"] == 1 and scores.by_yaw["60-99"]["faces"] == 1


def test_a_missed_face_counts_and_is_in_no_mean():
    predicted = PREDICTED.copy()
    predicted[:4] = np.nan
    scores, rest = evaluate_pose(predicted, TRUTH), evaluate_pose(PREDICTED[4:], TRUTH[4:])
    assert (scores.faces, scores.missed) == (40, 4)
    assert scores.mae == pytest.approx(rest.mae) and scores.geodesic == pytest.approx(rest.geodesic)
    assert sum(row["missed"] for row in scores.by_yaw.values()) == 4


def test_bins_go_by_the_size_of_the_labelled_yaw():
    truth = np.zeros((8, 3))
    truth[:, 0] = 0, -14.9, 15, -29, 30, 45, -60, 99
    predicted = truth + np.arange(8)[:, None]
    by_yaw = evaluate_pose(predicted, truth).by_yaw
    assert list(by_yaw) == [name for name, *_ in YAW_BINS]
    assert [row["faces"] for row in by_yaw.values()] == [2, 2, 1, 1, 2]
    assert [row["mae"] for row in by_yaw.values()] == pytest.approx([0.5, 2.5, 4, 5, 6.5])
    assert np.array(list(faces_by_yaw(truth).values())).sum(axis=0).tolist() == [1] * 8


def test_a_bin_without_faces_has_no_figures():
    row = evaluate_pose([[1, 1, 1]], [[0, 0, 0]]).by_yaw["60-99"]
    assert row["faces"] == row["missed"] == 0
    assert all(np.isnan(row[key]) for key in ("mae", "yaw", "pitch", "roll", "geodesic"))


def test_all_faces_missed_gives_no_figures():
    scores = evaluate_pose(np.full((2, 3), np.nan), np.zeros((2, 3)))
    assert np.isnan(scores.mae) and scores.missed == 2


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), r"one shape \(N, 3\), got \(2, 3\) and \(3, 3\)"),
        (np.zeros((2, 2)), np.zeros((2, 2)), r"\(N, 3\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "at least one face"),
        (np.zeros((2, 3)), [[0, 0, 0], [0, np.nan, 0]], r"got \[0\.0, nan, 0\.0\] for face 1 of 2"),
        ([[0, 0, 0], [0, np.nan, 0]], np.zeros((2, 3)), "all angles of a face.*face 1 of 2"),
    ],
)
def test_what_cannot_be_scored_is_named(predicted, truth, message):
    with pytest.raises(InputError, match=message):
        evaluate_pose(predicted, truth)


def test_posed_faces_are_those_with_a_label_that_are_not_ignored():
    pose = np.array([[0.0, 0, 0], [np.nan] * 3, [1, 1, 1]])
    assert posed_faces(SimpleNamespace(pose=pose, ignore=np.array([False, False, True]))).tolist() == [0]


# The metric


@pytest.fixture
def mx():
    pytest.importorskip("mxnet")
    from gluonface._compat import mx

    return mx


@pytest.fixture
def metric(mx):
    from gluonface.metrics import PoseMAE

    return PoseMAE()


@pytest.mark.parametrize("kind", ["numpy", "mxnet"])
def test_the_metric_adds_up_to_the_figures_of_the_function(mx, metric, kind):
    as_array = np.asarray if kind == "numpy" else mx.nd.array
    metric.update(as_array(TRUTH[:10]), as_array(PREDICTED[:10]))
    metric.update(
        [as_array(TRUTH[10:20]), as_array(TRUTH[20:])], [as_array(PREDICTED[10:20]), as_array(PREDICTED[20:])]
    )
    names, values = metric.get()
    scores = evaluate_pose(PREDICTED, TRUTH)
    assert names == ["mae", "yaw", "pitch", "roll"]
    assert values == pytest.approx([scores.mae, scores.yaw, scores.pitch, scores.roll], rel=1e-5)
    assert metric.num_inst == 40


def test_the_metric_skips_faces_without_a_label_and_forgets_at_the_reset(metric):
    labels = TRUTH.copy()
    labels[::2] = np.nan
    metric.update(labels, PREDICTED)
    assert metric.num_inst == 20
    assert metric.get()[1][0] == pytest.approx(evaluate_pose(PREDICTED[1::2], TRUTH[1::2]).mae)
    metric.reset()
    assert np.isnan(metric.get()[1]).all()


def test_the_metric_wraps_around_and_is_one_of_the_host(mx):
    from gluonface.metrics import PoseMAE

    several = mx.metric.CompositeEvalMetric([PoseMAE(figures=("roll", "faces"))])
    several.update([mx.nd.array([[0, 0, 99.0]])], [mx.nd.array([[0, 0, -259.0]])])
    assert several.get() == (["roll", "faces"], pytest.approx([2, 1]))


def test_an_update_that_does_not_fit_is_named_and_adds_nothing(metric):
    with pytest.raises(InputError, match=r"batch 1: expected labelled and predicted poses .* \(5, 3\) and \(4, 3\)"):
        metric.update([TRUTH[:5], TRUTH[:5]], [PREDICTED[:5], PREDICTED[:4]])
    with pytest.raises(InputError, match="predictions of 1 batches, got those of 2"):
        metric.update(TRUTH, [PREDICTED, PREDICTED])
    assert metric.num_inst == 0
