"""IouTracker on drawn sequences of boxes."""

from __future__ import annotations

import numpy as np
import pytest

from gluonface.errors import InputError
from gluonface.faces import Faces
from gluonface.tracking import IouTracker


def faces(*centers, size=40.0, scores=None) -> Faces:
    """Square faces about centres (x, y)."""
    centers = np.array(centers, float).reshape(-1, 2)
    boxes = np.hstack([centers - size / 2, centers + size / 2])
    return Faces(boxes, np.full(len(boxes), 0.9) if scores is None else np.array(scores), size_hw=(480, 640))


def run(tracker, sequence) -> list[list[int]]:
    return [tracker.update(found).tolist() for found in sequence]


def test_a_face_that_moves_keeps_its_number_whatever_its_place_in_the_list():
    sequence = [faces((50 + 5 * t, 100), (400, 100 + 5 * t))[[t % 2, 1 - t % 2]] for t in range(6)]
    assert run(IouTracker(), sequence) == [[0, 1], [1, 0]] * 3


def test_the_numbers_are_int64_and_an_empty_frame_gives_none():
    ids = IouTracker().update(Faces.empty((480, 640)))
    assert ids.shape == (0,) and ids.dtype == np.int64
    assert IouTracker().update(faces((50, 50))).dtype == np.int64


def test_two_faces_that_cross_keep_their_numbers():
    tracker = IouTracker()
    for t in range(21):  # they meet at t = 10, at x = 200, a quarter of their height apart
        ids = tracker.update(faces((100 + 10 * t, 100), (300 - 10 * t, 110)))
        assert ids.tolist() == [0, 1], t


def test_of_two_faces_that_cross_the_hidden_one_has_its_number_back_on_the_other_side():
    tracker, seen = IouTracker(), []
    for t in range(31):
        front, back = (100 + 8 * t, 100), (340 - 8 * t, 100)
        hidden = abs(front[0] - back[0]) < 30
        seen.append(tracker.update(faces(front) if hidden else faces(front, back)).tolist())
    assert seen[0] == seen[-1] == [0, 1]
    assert [row for row in seen if len(row) == 1] == [[0]] * 3


def test_a_face_lives_through_a_gap_of_max_gap_frames_and_not_through_a_longer_one():
    for gap, number in ((4, 0), (5, 1)):
        tracker = IouTracker(max_gap=4)
        run(tracker, [faces((50, 50))] * 3 + [faces()] * gap)
        assert tracker.update(faces((50, 50))).tolist() == [number]


def test_over_a_gap_the_box_is_expected_where_its_speed_leads():
    moving = [faces((50 + 12 * t, 100)) for t in range(14)]
    sequence = moving[:5] + [faces()] * 6 + moving[11:]  # 84 pixels on: two widths
    assert run(IouTracker(), sequence) == [[0]] * 5 + [[]] * 6 + [[0]] * 3
    standing = IouTracker()
    run(standing, [moving[4]] * 5 + [faces()] * 6)
    assert standing.update(moving[11]).tolist() == [1]


def test_the_speed_after_a_gap_is_that_of_a_frame_not_of_the_gap():
    tracker = IouTracker()
    positions = {t: (50 + 6 * t, 100) for t in (*range(4), *range(9, 14))}
    assert {tuple(tracker.update(faces(positions[t]) if t in positions else faces())) for t in range(14)} == {(), (0,)}


def test_one_face_leaves_and_another_enters_elsewhere():
    tracker = IouTracker(max_gap=2)
    ended = []
    for t in range(10):
        found = [(600 + 8 * t, 100)] * (t < 4) + [(20 + 6 * t, 300)] * (t >= 3)
        ids = tracker.update(faces(*found)).tolist()
        assert ids == [0] * (t < 4) + [1] * (t >= 3)
        ended.append(tracker.ended)
    assert ended == [()] * 6 + [(0,)] + [()] * 3
    assert tracker.alive == (1,)


def test_a_weak_face_begins_no_track_but_goes_on_with_one():
    tracker = IouTracker(start_score=0.6, keep_score=0.3)
    scores = [0.5, 0.7, 0.35, 0.25, 0.9]
    assert run(tracker, [faces((50, 50), scores=[s]) for s in scores]) == [[-1], [0], [0], [-1], [0]]


def test_the_best_overlap_is_joined_first():
    tracker = IouTracker()
    tracker.update(faces((100, 100), (125, 100)))
    # The first face overlaps with both tracks, with the second one more.
    assert tracker.update(faces((118, 100), (96, 100))).tolist() == [1, 0]


def test_equal_overlaps_go_to_the_older_track_and_the_earlier_face():
    tracker = IouTracker()
    tracker.update(faces((100, 100), (110, 100)))
    assert tracker.update(faces((105, 100))).tolist() == [0]
    tracker = IouTracker()
    tracker.update(faces((100, 100)))
    assert tracker.update(faces((105, 100), (95, 100))).tolist() == [0, 1]


def test_the_same_sequence_gives_the_same_numbers(rng):
    sequence = [faces(*rng.uniform(20, 460, (8, 2)), scores=rng.uniform(0.2, 1, 8)) for _ in range(60)]
    assert run(IouTracker(), sequence) == run(IouTracker(), sequence)


def test_dead_tracks_are_dropped(rng):
    tracker, ended = IouTracker(max_gap=3), []
    for _ in range(300):
        tracker.update(faces(*rng.uniform(20, 460, (5, 2))))
        ended += tracker.ended
        assert len(tracker.alive) <= 5 * 4
    assert len(ended) == len(set(ended)) > 500
    assert not set(ended) & set(tracker.alive)


@pytest.mark.parametrize(
    "options", [{"iou_thresh": 0}, {"iou_thresh": 1.5}, {"max_gap": -1}, {"start_score": 0.2, "keep_score": 0.3}]
)
def test_a_wrong_option_is_an_input_error(options):
    with pytest.raises(InputError, match="expected"):
        IouTracker(**options)
