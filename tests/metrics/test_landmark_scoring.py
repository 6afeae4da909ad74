"""NME, AUC, failure rate, groups and norms: small cases worked out by hand."""

import json

import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.errors import InputError
from gluonface.faces import SCHEMES
from gluonface.metrics import (
    area_under_ced,
    best_proposals,
    ced_curve,
    closest_proposals,
    evaluate_landmarks,
    label_sizes,
    normalisers,
    point_errors,
    scored_faces,
)

NAN = np.nan
# 19 points: outer eye corners 14 apart, eye centres 10, the rectangle round all points 14 x 3.5.
FACE_19 = np.full((19, 2), (7.0, 1.0))
FACE_19[6:12] = [(0, 0), (2, 0), (4, 0), (10, 0), (12, 0), (14, 0)]
FACE_19[18] = (7, 3.5)
FACE_5 = np.array([[0, 0], [10, 0], [5, 5], [2, 10], [8, 10.0]])


def moved(face, *lengths):
    """Copies of a face, each with all its points moved so far, in the direction (3, 4)."""
    return np.stack([face + np.array([0.6, 0.8]) * length for length in lengths])


def truth_5(count):
    return np.stack([FACE_5] * count)


@pytest.mark.parametrize(("norm", "size"), [("interocular", 14), ("interpupil", 10), ("box", 12), ("face_size", 7)])
def test_each_norm_gives_what_it_says(norm, size):
    boxes = np.array([[100, 100, 108, 118.0]])
    assert normalisers(norm, FACE_19[None], "19", boxes) == pytest.approx([size])


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "5"])
def test_the_interocular_distance_is_that_of_the_outer_eye_corners_of_every_scheme(scheme):
    left, right = SCHEMES[scheme].eye_corners
    assert "left eye" in SCHEMES[scheme].names[left] and "right eye" in SCHEMES[scheme].names[right]
    points = np.random.default_rng(0).uniform(0, 100, (1, int(scheme), 2))
    points[0, left], points[0, right] = (10, 10), (40, 50)
    assert normalisers("interocular", points, scheme) == pytest.approx([50])


def test_the_eye_corners_of_300_w_are_points_36_and_45():
    assert SCHEMES["68"].eye_corners == (36, 45)


def test_the_face_size_of_the_data_goes_before_the_rectangle_of_the_points():
    faces = np.stack([FACE_19, FACE_19])
    assert normalisers("face_size", faces, "19", face_sizes=np.array([33.0, NAN])).tolist() == [33, 7]


def test_the_rectangle_of_the_points_leaves_out_unlabelled_ones():
    face = FACE_19.copy()
    face[18] = NAN  # the lowest point
    face[7, 0] = NAN  # half a point is none
    assert normalisers("face_size", face[None], "19") == pytest.approx([np.sqrt(14 * 1)])


@pytest.mark.parametrize(
    ("norm", "rows", "value", "message"),
    [
        ("interocular", 11, NAN, "'interocular' is nan for face 1 of 2"),
        ("interocular", 11, (0, 0), "'interocular' is 0.0 for face 1 of 2"),
        ("interpupil", 7, NAN, "'interpupil' is nan for face 1 of 2"),
        ("face_size", slice(None), NAN, "'face_size' is 0.0 for face 1 of 2"),
    ],
)
def test_a_face_without_a_size_is_named(norm, rows, value, message):
    faces = np.stack([FACE_19, FACE_19])
    faces[1, rows] = value
    with pytest.raises(InputError, match=message):
        normalisers(norm, faces, "19")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eyes", FACE_19[None], "19"), "norm among interocular, interpupil, box, face_size, got 'eyes'"),
        (("box", FACE_19[None], "19"), "needs the labelled boxes"),
        (("box", FACE_19[None], "19", np.zeros((2, 4))), "boxes of 1 faces, got 2"),
        (("face_size", FACE_19[None], "19", None, np.ones(3)), "face_sizes of 1 faces, got 3"),
        (("interocular", FACE_19[None], "68"), r"shape \(N, 68, 2\), got \(1, 19, 2\)"),
        (("interocular", FACE_19[None], "20"), "scheme among 5, 19, .*got '20'"),
        (("box", FACE_19[None], "19", np.array([[10, 10, 5, 5.0]])), "is 0.0 for face 0 of 1"),  # inside out
    ],
)
def test_what_cannot_be_normalised_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        normalisers(*arguments)


def test_labels_bring_their_boxes_and_face_sizes():
    labels = FaceLabels(
        np.array([[0, 0, 4, 9], [0, 0, 1, 1.0]]),
        landmarks=np.stack([FACE_19, FACE_19]),
        scheme="19",
        attributes=[{"face_size": 50}, {}],
    )
    assert label_sizes("box", labels).tolist() == [6, 1]
    assert label_sizes("face_size", labels).tolist() == [50, 7]


def test_faces_to_score_are_labelled_and_not_ignored():
    landmarks = np.stack([FACE_19] * 4)
    landmarks[1] = NAN
    landmarks[2, 1:] = NAN  # one point is left
    labels = FaceLabels(np.ones((4, 4)), landmarks=landmarks, scheme="19", ignore=[False, False, False, True])
    assert scored_faces(labels).tolist() == [0, 2]
    assert scored_faces(FaceLabels(np.ones((4, 4)))).tolist() == []


def test_errors_are_distances_over_each_faces_own_size():
    errors = point_errors(moved(FACE_5, 5, 10), truth_5(2), [10, 100])
    assert errors == pytest.approx(np.repeat([[0.5], [0.1]], 5, axis=1))


def test_nme_auc_and_failure_rate_by_hand():
    # Areas .75, .5, .25 and 0 of the limit .08.
    scores = evaluate_landmarks(moved(FACE_5, 2, 4, 6, 10), truth_5(4), "5", np.full(4, 100.0))
    assert scores.errors == pytest.approx([0.02, 0.04, 0.06, 0.10])
    assert scores.nme == pytest.approx(0.055)
    assert scores.auc == pytest.approx(1.5 / 4)
    assert scores.failure_rate == 0.25
    assert (scores.faces, scores.missed, scores.threshold) == (4, 0, 0.08)


def test_an_error_at_the_threshold_is_no_failure():
    predicted = truth_5(2)
    predicted[0, :, 0] += 8  # 8 / 16 is exact
    predicted[1, :, 0] += 8.01
    assert evaluate_landmarks(predicted, truth_5(2), "5", [16, 16], threshold=0.5).failure_rate == 0.5


def test_another_threshold_changes_auc_and_failures_but_not_the_nme():
    scores = evaluate_landmarks(moved(FACE_5, 2, 4), truth_5(2), "5", [100, 100], threshold=0.03)
    assert scores.nme == pytest.approx(0.03)
    assert scores.auc == pytest.approx((1 / 3) / 2)
    assert scores.failure_rate == 0.5


def test_a_missed_face_fails_and_is_not_in_the_nme():
    predicted = moved(FACE_5, 2, 4, 0, 10)
    predicted[2] = NAN
    scores = evaluate_landmarks(predicted, truth_5(4), "5", np.full(4, 100.0))
    assert scores.errors == pytest.approx([0.02, 0.04, np.inf, 0.10])
    assert scores.nme == pytest.approx(0.16 / 3)
    assert scores.failure_rate == 0.5
    assert scores.auc == pytest.approx((0.75 + 0.5) / 4)
    assert (scores.faces, scores.missed) == (4, 1)
    assert scores.percentiles["90"] == pytest.approx(np.percentile([0.02, 0.04, 0.10], 90))


def test_where_all_are_missed_nothing_is_said_of_the_error():
    scores = evaluate_landmarks(np.full((2, 5, 2), NAN), truth_5(2), "5", [1, 1])
    assert (scores.auc, scores.failure_rate, scores.missed) == (0, 1, 2)
    values = [scores.nme, *scores.percentiles.values(), *scores.groups.values()]
    assert np.isnan(values).all()


def test_groups_are_means_over_their_points():
    predicted = truth_5(2)
    predicted[:, 3] += (3, 4)  # left mouth corner, both faces
    predicted[1, 2] += (0, 2)  # the second nose
    scores = evaluate_landmarks(predicted, truth_5(2), "5", [10, 20])
    assert scores.groups == pytest.approx({"eyes": 0, "nose": 0.05, "mouth": (0.5 + 0 + 0.25 + 0) / 4})
    assert scores.nme == pytest.approx((0.5 / 5 + (0.25 + 0.1) / 5) / 2)


def test_unlabelled_points_count_nowhere():
    truth, predicted = truth_5(2), truth_5(2)
    predicted[0, :2] += (3, 4)
    truth[0, 1:3] = NAN  # right eye, nose
    truth[1, 2] = NAN
    scores = evaluate_landmarks(predicted, truth, "5", [10, 10])
    assert scores.errors == pytest.approx([0.5 / 3, 0])  # left eye of three labelled points
    assert scores.nme == pytest.approx(0.5 / 6)  # every face counts the same, however many points it has
    assert scores.groups["eyes"] == pytest.approx(0.5 / 3)
    assert np.isnan(scores.groups["nose"])


def test_percentiles_are_those_of_the_faces():
    lengths = np.arange(101) / 10
    scores = evaluate_landmarks(moved(FACE_5, *lengths), truth_5(101), "5", np.full(101, 100.0))
    assert scores.percentiles == pytest.approx({"90": 0.09, "95": 0.095, "99": 0.099})


def test_the_curve_is_the_share_of_faces_at_most_that_far_off():
    thresholds, share = ced_curve(np.array([0.02, 0.04, 0.04, np.inf]), limit=0.08, steps=4)
    assert thresholds == pytest.approx([0, 0.02, 0.04, 0.06, 0.08])
    assert share.tolist() == [0, 0.25, 0.75, 0.75, 0.75]


def test_the_area_is_that_under_the_curve():
    errors = np.append(np.random.default_rng(0).uniform(0, 0.12, 300), np.inf)
    _, share = ced_curve(errors, 0.08, steps=100_000)
    assert area_under_ced(errors, 0.08) == pytest.approx(share[1:].mean(), abs=1e-4)
    assert area_under_ced(np.zeros(3)) == 1
    assert area_under_ced(np.array([0.08, 1, np.inf])) == 0
    assert np.isnan(area_under_ced(np.zeros(0)))


def test_95_per_cent_of_all_faces_lie_within_ced_95():
    def ced_95(lengths, missed):
        predicted = moved(FACE_5, *lengths)
        predicted[:missed] = NAN
        return evaluate_landmarks(predicted, truth_5(len(lengths)), "5", np.full(len(lengths), 100.0)).ced_95

    assert ced_95(range(1, 21), 0) == pytest.approx(0.19)
    assert ced_95(range(1, 21), 1) == pytest.approx(0.20)  # the missed one lies beyond the 19 others
    assert ced_95(range(1, 21), 2) == np.inf
    assert ced_95([3], 0) == pytest.approx(0.03)


def test_the_most_confident_of_the_detections_that_overlap_a_face_stands_for_it():
    truth = np.array([[0, 0, 10, 10], [100, 0, 110, 10], [50, 0, 60, 10.0]])
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 14], [0, 0, 10, 30], [100, 0, 110, 20], [70, 0, 80, 10.0]])
    scores = np.array([0.3, 0.6, 0.9, 0.2, 1.0])
    # Overlaps with the first face: 1, .71 and exactly 1/3, with the second exactly 1/2.
    assert best_proposals(boxes, scores, truth, 0.3).tolist() == [2, 3, -1]
    assert best_proposals(boxes, scores, truth, 0.4).tolist() == [1, 3, -1]
    assert best_proposals(boxes, scores, truth, 0.5).tolist() == [1, -1, -1]
    assert best_proposals(boxes, scores, truth, 0.8).tolist() == [0, -1, -1]


def test_each_face_and_each_detection_belongs_to_one_pair_the_largest_overlap_first():
    truth = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [50, 0, 60, 10.0]])
    boxes = np.array([[50, 0, 60, 21], [0, 0, 10, 10], [2, 0, 12, 13.0]])
    assert closest_proposals(boxes, truth).tolist() == [1, 2, -1]  # of the last face 10/21 are overlapped
    assert closest_proposals(boxes, truth, 0.4).tolist() == [1, 2, 0]
    assert closest_proposals(boxes[:2], truth).tolist() == [
        1,
        -1,
        -1,
    ]  # 8/12 with the second, which may not have it, too
    assert closest_proposals(boxes[2:], truth).tolist() == [-1, 0, -1]


def test_without_detections_all_faces_are_missed_and_without_faces_none():
    for boxes, truth in ((np.zeros((0, 4)), np.zeros((2, 4))), (np.ones((1, 4)), np.zeros((0, 4)))):
        assert closest_proposals(boxes, truth).tolist() == [-1] * len(truth)
    assert best_proposals(np.zeros((0, 4)), np.zeros(0), np.array([[0, 0, 1, 1.0]]), 0.3).tolist() == [-1]
    assert best_proposals(np.array([[0, 0, 1, 1.0]]), np.ones(1), np.zeros((0, 4)), 0.3).shape == (0,)


def test_a_result_is_plain_numbers():
    scores = evaluate_landmarks(moved(FACE_5, 2, 4), truth_5(2), "5", [100, 100])
    result = json.loads(json.dumps(scores.to_dict()))
    assert result["nme"] == pytest.approx(0.03)
    assert set(result) == {
        *("nme", "auc", "failure_rate", "threshold", "ced_95", "nme_percentiles", "nme_groups", "faces", "missed")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": truth_5(1)}, r"shape \(2, 5, 2\), got \(1, 5, 2\) and \(2, 5, 2\)"),
        ({"scheme": "19"}, r"shape \(2, 19, 2\)"),
        ({"scheme": "20"}, "got '20'"),
        ({"sizes": [1]}, r"shape \(1, 5, 2\)"),
        ({"truth": np.stack([FACE_5, np.full((5, 2), NAN)])}, "face 1 of 2 has none"),
        ({"threshold": 0}, "threshold above 0, got 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    arguments = {"predicted": truth_5(2), "truth": truth_5(2), "scheme": "5", "sizes": [1, 1], **change}
    with pytest.raises(InputError, match=message):
        evaluate_landmarks(**arguments)


def test_a_prediction_with_some_points_only_is_neither_found_nor_missed():
    predicted = truth_5(2)
    predicted[1, 3] = NAN
    with pytest.raises(InputError, match="of face 1 of 2 1 of 5 predicted points are not finite"):
        evaluate_landmarks(predicted, truth_5(2), "5", [1, 1])


def test_no_face_at_all_is_refused():
    empty = np.zeros((0, 5, 2))
    with pytest.raises(InputError, match="at least one face"):
        evaluate_landmarks(empty, empty, "5", [])
