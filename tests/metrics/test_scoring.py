"""Average precision, size bins, five-point error: small cases worked out by hand, and a slow twin."""

import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.errors import InputError
from gluonface.faces import Faces
from gluonface.metrics import evaluate_detections, match_photo, match_photos, precision_recall
from gluonface.metrics.curves import average_precision, counts_by_score
from gluonface.metrics.scoring import IOU_THRESHOLDS

SIZE_HW = (200, 400)


def square(x, y, side=20):
    return [x, y, x + side, y + side]


def faces(*boxes_and_scores, points=None):
    boxes = np.array([b for b, _ in boxes_and_scores], float).reshape(-1, 4)
    return Faces(boxes, [s for _, s in boxes_and_scores], landmarks5=points, size_hw=SIZE_HW)


def labels(*boxes, ignore=(), **fields):
    every = np.array([*boxes, *ignore], np.float32).reshape(-1, 4)
    return FaceLabels(every, ignore=np.arange(len(every)) >= len(boxes), **fields)


def slow_ap(photos, threshold):
    """Average precision straight from its definition: plain loops, one point of the curve for each distinct score."""
    rows, num_faces = [], 0
    for found, truth in photos:
        boxes = [list(b) for b, i in zip(truth.boxes, truth.ignore) if not i]
        regions = [list(b) for b, i in zip(truth.boxes, truth.ignore) if i]
        num_faces += len(boxes)
        taken = set()
        for n in sorted(range(len(found)), key=lambda n: -found.scores[n]):
            best, best_iou = None, threshold
            for m, box in enumerate(boxes):
                inter = overlap(found.boxes[n], box)
                iou = inter / (area(found.boxes[n]) + area(box) - inter)
                if m not in taken and iou >= best_iou and (best is None or iou > best_iou):
                    best, best_iou = m, iou
            if best is not None:
                taken.add(best)
                rows.append((found.scores[n], True))
            elif all(overlap(found.boxes[n], r) < 0.5 * area(found.boxes[n]) for r in regions):
                rows.append((found.scores[n], False))
    points = []
    for score in sorted({s for s, _ in rows}, reverse=True):
        hits = [hit for s, hit in rows if s >= score]
        points.append((sum(hits) / num_faces, sum(hits) / len(hits)))
    total, last = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        total += (recall - last) * max(precision for _, precision in points[k:])
        last = recall
    return total


def area(box):
    return float(box[2] - box[0]) * float(box[3] - box[1])


def overlap(a, b):
    width = min(float(a[2]), float(b[2])) - max(float(a[0]), float(b[0]))
    height = min(float(a[3]), float(b[3])) - max(float(a[1]), float(b[1]))
    return max(width, 0) * max(height, 0)


def test_perfect_detections_score_one():
    truth = labels(square(10, 10), square(100, 50, 40))
    result = evaluate_detections([faces((square(10, 10), 0.9), (square(100, 50, 40), 0.3))], [truth])
    assert (result["ap50"], result["ap"], result["recall_at_1fppi"]) == (1, 1, 1)
    assert (result["photos"], result["faces"]) == (1, 2)


def test_a_false_alarm_above_the_only_hit_halves_the_precision():
    found = faces((square(200, 100), 0.9), (square(10, 10), 0.8))
    assert evaluate_detections([found], [labels(square(10, 10))])["ap50"] == 0.5


def test_the_area_is_that_below_the_monotone_envelope():
    # hit, miss, hit of 4 faces: recall .25 at precision 1, .5 at 2/3
    found = faces((square(0, 0), 0.9), (square(300, 100), 0.8), (square(50, 0), 0.7))
    truth = labels(square(0, 0), square(50, 0), square(100, 0), square(150, 0))
    assert evaluate_detections([found], [truth])["ap50"] == pytest.approx(0.25 + 0.25 * 2 / 3)


def test_a_face_is_found_once():
    twice = faces((square(10, 10), 0.9), (square(11, 10), 0.8))
    match = match_photo(twice, labels(square(10, 10)))
    assert match.face_of[0].tolist() == [0, -1]


def test_the_surer_detection_takes_the_face_even_if_the_other_fits_better():
    match = match_photo(faces((square(10, 10), 0.5), (square(14, 10), 0.9)), labels(square(10, 10)))
    assert match.scores.tolist() == pytest.approx([0.9, 0.5])
    assert match.face_of[0].tolist() == [0, -1]


def test_a_detection_whose_best_face_is_taken_gets_the_next_one():
    # Two labels 4 px apart; both detections overlap the left one most.
    truth = labels(square(10, 10), square(14, 10))
    match = match_photo(faces((square(10, 10), 0.9), (square(11, 10), 0.8)), truth)
    assert match.face_of[0].tolist() == [0, 1]


def test_half_an_overlap_is_a_hit_and_less_is_not():
    truth = labels([0, 0, 20, 20])
    assert match_photo(faces(([0, 0, 20, 10], 0.9)), truth).face_of[0, 0] == 0
    assert match_photo(faces(([0, 0, 20, 9.99], 0.9)), truth).face_of[0, 0] == -1


def test_a_looser_box_counts_at_low_thresholds_only():
    # Intersection over union 0.75: right at .5 to .75, wrong at .8 to .95
    result = evaluate_detections([faces(([0, 0, 20, 15], 0.9))], [labels([0, 0, 20, 20])])
    assert result["ap50"] == 1
    assert result["ap"] == pytest.approx(0.6)


def test_a_detection_on_an_ignore_region_is_neither_right_nor_wrong():
    truth = labels(square(10, 10), ignore=[[100, 0, 400, 200]])
    found = faces((square(200, 50), 0.95), (square(10, 10), 0.9))
    assert evaluate_detections([found], [truth])["ap50"] == 1
    assert match_photo(found, truth).face_of[0].tolist() == [-2, 0]


def test_half_of_the_detection_decides_whether_it_lies_on_an_ignore_region():
    truth = labels(ignore=[[100, 0, 400, 200]])
    match = match_photo(faces(([90, 0, 110, 20], 0.9), ([89, 0, 109, 20], 0.8)), truth)
    assert match.face_of[0].tolist() == [-2, -1]


def test_a_face_inside_an_ignore_region_can_still_be_found():
    truth = labels(square(150, 50), ignore=[[100, 0, 400, 200]])
    assert match_photo(faces((square(150, 50), 0.9)), truth).face_of[0].tolist() == [0]


def test_an_ignore_region_is_not_a_face_to_find():
    assert evaluate_detections([Faces.empty(SIZE_HW)], [labels(ignore=[square(0, 0)])])["faces"] == 0


def test_recall_at_one_false_alarm_a_photo_is_taken_at_the_lowest_such_score():
    # One photo: hit .9, miss .8, hit .7, miss .6, hit .5: at .7 one false alarm, at .5 two.
    found = faces(*[(square(x, 0), s) for x, s in ((0, 0.9), (300, 0.8), (50, 0.7), (350, 0.6), (100, 0.5))])
    truth = labels(square(0, 0), square(50, 0), square(100, 0))
    result = evaluate_detections([found], [truth])
    assert result["recall_at_1fppi"] == pytest.approx(2 / 3)
    assert result["score_at_1fppi"] == pytest.approx(0.7)
    # A second photo without anything allows a second false alarm.
    result = evaluate_detections([found, Faces.empty(SIZE_HW)], [truth, labels()])
    assert result["recall_at_1fppi"] == 1


def test_detections_of_equal_score_enter_together_in_any_order_of_photos():
    hit, miss = faces((square(10, 10), 0.5)), faces((square(300, 10), 0.5))
    truth = labels(square(10, 10))
    one = evaluate_detections([hit, miss], [truth, truth])
    other = evaluate_detections([miss, hit], [truth, truth])
    assert one["ap50"] == other["ap50"] == 0.25


def test_a_face_is_counted_in_the_bin_of_its_size_in_the_stored_photo():
    sides = {"under 16": 15.9, "16-32": 16, "32-96": 95, "over 96": 96}
    truth = labels(*[square(100 * i, 0, side) for i, side in enumerate(sides.values())])
    by_size = evaluate_detections([Faces.empty(SIZE_HW)], [truth])["by_size"]
    assert {name: figures["faces"] for name, figures in by_size.items()} == dict.fromkeys(sides, 1)


def test_faces_and_false_alarms_of_other_bins_do_not_touch_a_bin():
    truth = labels(square(0, 0, 10), square(100, 0, 50))
    found = faces(
        (square(100, 0, 50), 0.9),  # the large face
        (square(200, 100, 60), 0.8),  # a large false alarm
        (square(0, 0, 10), 0.7),  # the small face
    )
    by_size = evaluate_detections([found], [truth])["by_size"]
    assert by_size["under 16"] == {"faces": 1, "ap50": 1, "recall": 1, "recall_at_1fppi": 1}
    assert by_size["32-96"] == {"faces": 1, "ap50": 1, "recall": 1, "recall_at_1fppi": 1}
    assert by_size["16-32"]["faces"] == 0
    assert np.isnan(by_size["16-32"]["ap50"])


def test_a_false_alarm_lowers_the_bin_of_its_own_size():
    truth = labels(square(0, 0, 10), square(100, 0, 50))
    found = faces((square(300, 100, 12), 0.9), (square(100, 0, 50), 0.8), (square(0, 0, 10), 0.7))
    by_size = evaluate_detections([found], [truth])["by_size"]
    assert by_size["under 16"]["ap50"] == 0.5
    assert by_size["32-96"]["ap50"] == 1


def test_the_bins_share_out_hits_and_faces():
    rng = np.random.default_rng(5)
    photos = [random_photo(rng) for _ in range(20)]
    result = evaluate_detections(*zip(*photos))
    found = sum(b["recall"] * b["faces"] for b in result["by_size"].values() if b["faces"])
    assert sum(b["faces"] for b in result["by_size"].values()) == result["faces"]
    assert found == pytest.approx(sum(len({m for m in p.face_of[0] if m >= 0}) for p in match_photos(*zip(*photos))))


POINTS = np.array([[5, 8], [15, 8], [10, 12], [6, 16], [14, 16]], np.float32)


def test_the_five_point_error_is_a_share_of_the_face_size():
    truth = labels([0, 0, 10, 40], landmarks5=POINTS[None], landmarks5_human=[True])
    result = evaluate_detections([faces(([0, 0, 10, 40], 0.9), points=POINTS[None] + [3, 4])], [truth])
    assert result["nme5"] == pytest.approx(5 / 20)
    assert (result["nme5_faces"], result["nme5_missed"]) == (1, 0)


def test_points_of_a_teacher_are_not_scored():
    truth = labels(square(0, 0), landmarks5=POINTS[None], landmarks5_human=[False])
    result = evaluate_detections([faces((square(0, 0), 0.9), points=POINTS[None])], [truth])
    assert np.isnan(result["nme5"])
    assert (result["nme5_faces"], result["nme5_missed"]) == (0, 0)


def test_a_face_not_found_is_missed_and_not_averaged_in():
    truth = labels(square(0, 0), square(100, 0), landmarks5=[POINTS, POINTS], landmarks5_human=[True, True])
    result = evaluate_detections([faces((square(0, 0), 0.9), points=POINTS[None])], [truth])
    assert (result["nme5"], result["nme5_faces"], result["nme5_missed"]) == (0, 1, 1)


def test_unknown_points_of_a_face_are_left_out_of_its_error():
    partly = POINTS.copy()
    partly[1:] = np.nan
    truth = labels(square(0, 0), landmarks5=partly[None], landmarks5_human=[True])
    found = faces((square(0, 0), 0.9), points=POINTS[None] + [2, 0])
    assert evaluate_detections([found], [truth])["nme5"] == pytest.approx(0.1)


def test_detections_without_points_miss_all_points():
    truth = labels(square(0, 0), landmarks5=POINTS[None], landmarks5_human=[True])
    result = evaluate_detections([faces((square(0, 0), 0.9))], [truth])
    assert (result["ap50"], result["nme5_missed"]) == (1, 1)


def random_photo(rng):
    truth = np.array([square(*rng.uniform(0, 150, 2), rng.uniform(5, 60)) for _ in range(rng.integers(0, 6))])
    truth = truth.reshape(-1, 4)
    near = [b + rng.normal(0, 3, 4) for b in truth for _ in range(rng.integers(0, 3))]
    far = [square(*rng.uniform(0, 180, 2), rng.uniform(5, 60)) for _ in range(rng.integers(0, 5))]
    boxes = np.array([*near, *far]).reshape(-1, 4)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    # One decimal only, so that equal scores occur.
    found = Faces(boxes, rng.uniform(0, 1, len(boxes)).round(1), size_hw=SIZE_HW)
    return found, FaceLabels(truth, ignore=rng.uniform(size=len(truth)) < 0.25)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_agrees_with_a_slow_twin(seed):
    rng = np.random.default_rng(seed)
    photos = [random_photo(rng) for _ in range(25)]
    result = evaluate_detections(*zip(*photos))
    expected = [slow_ap(photos, threshold) for threshold in IOU_THRESHOLDS]
    assert 0.1 < expected[0] < 0.95
    assert result["ap50"] == pytest.approx(expected[0], abs=1e-12)
    assert result["ap"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_the_curve_falls_in_score_and_rises_in_recall():
    rng = np.random.default_rng(1)
    matches = match_photos(*zip(*[random_photo(rng) for _ in range(25)]))
    thresholds, recall, precision = precision_recall(matches)
    assert (np.diff(thresholds) < 0).all()
    assert (np.diff(recall) >= 0).all()
    assert (precision <= 1).all()


def test_no_photos_and_no_faces_give_nan_not_an_error():
    for result in (evaluate_detections([], []), evaluate_detections([Faces.empty(SIZE_HW)], [labels()])):
        assert np.isnan([result["ap50"], result["ap"], result["recall_at_1fppi"], result["nme5"]]).all()


def test_a_photo_without_detections_costs_its_faces():
    truth = labels(square(10, 10))
    result = evaluate_detections([faces((square(10, 10), 0.9)), Faces.empty(SIZE_HW)], [truth, truth])
    assert result["ap50"] == 0.5


def test_counts_by_score_of_nothing_are_empty():
    assert [len(a) for a in counts_by_score(np.zeros(0), np.zeros(0, bool))] == [0, 0, 0]
    assert average_precision(np.zeros(0), np.zeros(0)) == 0


def test_a_wrong_number_of_photos_is_named():
    with pytest.raises(InputError, match="detections of 2 photos, got those of 1"):
        evaluate_detections([Faces.empty(SIZE_HW)], [labels(), labels()])


def test_a_score_that_is_not_a_number_is_refused_with_its_photo():
    class Found:
        boxes, scores, landmarks5 = np.array([square(0, 0)]), np.array([np.nan]), None

    with pytest.raises(InputError, match="photo 1"):
        evaluate_detections([Faces.empty(SIZE_HW), Found()], [labels(), labels()])
