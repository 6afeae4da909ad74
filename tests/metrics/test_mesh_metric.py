"""Errors of meshes, on small ones whose errors are known."""

import numpy as np
import pytest

from gluonface.errors import InputError
from gluonface.metrics import PAPER_YAW_BINS, evaluate_mesh, summarize_by_yaw

NAN = float("nan")


@pytest.fixture
def truth(rng):
    meshes = rng.normal(0, 20, (3, 7, 3))
    meshes[..., 2] -= meshes[:, 2, None, 2]
    return meshes


def test_errors_on_the_image_and_of_depth_are_shares_of_the_size(truth):
    off = np.zeros_like(truth)
    off[0] += (3, 4, 0)  # 5 pixels of 100
    off[1, np.arange(7) != 2] += (0, 0, 14)  # all but the nose tip, of 50
    scores = evaluate_mesh(truth + off, truth, [100, 50, 10], 2)
    np.testing.assert_allclose(scores.errors, [[0.05, 0, 0.05], [0, 0.24, 0.24], [0, 0, 0]], atol=1e-12)
    assert (scores.xy, scores.z, scores.xyz) == pytest.approx((0.05 / 3, 0.08, 0.29 / 3))
    assert scores.to_dict() == {"xy": scores.xy, "z": scores.z, "xyz": scores.xyz, "faces": 3, "missed": 0}


def test_the_distance_in_space_is_of_each_vertex_not_of_the_means(truth):
    off = np.zeros_like(truth)
    off[:, [0, 1]] = (3, 0, 4), (4, 0, 3)
    scores = evaluate_mesh(truth + off, truth, [1, 1, 1], 2)
    assert (scores.xy, scores.z, scores.xyz) == pytest.approx((1, 1, 10 / 7))


def test_depth_counts_from_the_tip_of_the_nose(truth):
    scores = evaluate_mesh(truth + np.array([0, 0, 9]), truth - np.array([0, 0, 5]), [1, 1, 1], 2)
    assert (scores.xy, scores.z, scores.xyz) == pytest.approx((0, 0, 0), abs=1e-9)
    assert evaluate_mesh(truth + np.eye(7)[2][:, None] * (0, 0, 7), truth, [1, 1, 1], 2).z == pytest.approx(6)


def test_a_missed_face_is_counted_and_in_no_mean(truth):
    predicted = truth + np.array([1, 0, 0])
    predicted[1] = NAN
    scores = evaluate_mesh(predicted, truth, [10, 10, 10], 2)
    assert (scores.faces, scores.missed, scores.xy) == (3, 1, pytest.approx(0.1))
    assert np.isnan(scores.errors[1]).all()
    nothing = evaluate_mesh(np.full_like(truth, NAN), truth, [10, 10, 10], 2)
    assert nothing.missed == 3 and np.isnan([nothing.xy, nothing.z, nothing.xyz]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"predicted": np.zeros((3, 6, 3))}, r"one shape \(N, V, 3\).*\(3, 6, 3\)"),
        ({"sizes": [1, 1]}, "sizes"),
        ({"sizes": [1, 0, 1]}, "size above 0 for every face, face 1 of 3"),
        ({"nose_tip": 7}, "nose tip among 7 vertices, got 7"),
        ({"truth": np.full((3, 7, 3), NAN)}, "finite numbers"),
        ({"torn": True}, "face 2 of 3 some are not finite"),
        (dict.fromkeys(("predicted", "truth"), np.zeros((0, 7, 3))) | {"sizes": []}, "at least one face"),
    ],
    ids=str,
)
def test_what_cannot_be_scored_is_named(truth, changed, message):
    given = {"predicted": truth.copy(), "truth": truth, "sizes": [1, 1, 1], "nose_tip": 2, **changed}
    if given.pop("torn", False):
        given["predicted"][2, 0] = NAN
    with pytest.raises(InputError, match=message):
        evaluate_mesh(**given)


def test_errors_by_yaw_have_mean_and_spread_and_the_mean_of_the_bins():
    yaw = np.array([0, -30, 30.5, 60, -75, 95, NAN])
    result = summarize_by_yaw(np.array([1, 3, 4, np.inf, 7, 9, 100]), yaw)
    assert [name for name, *_ in PAPER_YAW_BINS] == list(result["by_yaw"]) == ["0-30", "30-60", "60-90"]
    assert result["by_yaw"] == {
        "0-30": {"mean": 2, "spread": 1, "faces": 2, "missed": 0},
        "30-60": {"mean": 4, "spread": 0, "faces": 2, "missed": 1},
        "60-90": {"mean": 8, "spread": 1, "faces": 2, "missed": 0},
    }
    assert result["mean"] == pytest.approx(14 / 3)


def test_the_mean_of_the_paper_s_rows_is_that_of_the_three_bins():
    """RetinaFace, table 3: L_5pts+mesh 2.57, 3.32, 4.56, mean 3.48, whatever the numbers of faces."""
    result = summarize_by_yaw(np.repeat([2.57, 3.32, 4.56], (5, 2, 1)), np.repeat([10, 40, 80], (5, 2, 1)))
    assert round(result["mean"], 2) == 3.48


def test_without_profiles_there_is_no_mean_of_the_three():
    result = summarize_by_yaw(np.array([1.0, 2.0]), np.array([3, 40]))
    assert np.isnan(result["mean"]) and np.isnan(result["by_yaw"]["60-90"]["mean"])
    with pytest.raises(InputError, match="one shape"):
        summarize_by_yaw(np.zeros(3), np.zeros(2))
