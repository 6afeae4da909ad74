"""Online feedback sampling on made-up losses, faces and labels."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample
from gluonface.errors import InputError, TrainingError
from gluonface.faces import Faces
from gluonface.training.feedback import OnlineFeedback, count_errors

SIZE_HW = (200, 320)


def photo(*boxes, ignore=None, name="x.jpg", size_hw=SIZE_HW) -> FaceSample:
    return FaceSample(name, size_hw, FaceLabels(np.array(boxes, np.float32).reshape(-1, 4), ignore=ignore))


def faces(*boxes, scores=None) -> Faces:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Faces(boxes, np.full(len(boxes), 0.9) if scores is None else scores, size_hw=SIZE_HW)


def engine(epoch=1, rank=0, num_workers=1, others=0):
    """What an observer sees of the engine; the other workers' numbers are `others`."""
    return SimpleNamespace(
        epoch=epoch,
        rank=rank,
        num_workers=num_workers,
        net="the net",
        sum_over_workers=lambda values: np.asarray(values, np.float64) + others,
    )


def batch(feedback, small, total, number=0):
    feedback.after_batch(0, number, {"cls": 3.0, "small_box": small, "all_box": total})


def with_errors(errors, **options) -> OnlineFeedback:
    """Feedback after an epoch in which photo i had errors[i] missed faces; None: not labelled completely."""
    boxes = [[10 + 40 * k, 10, 40 + 40 * k, 50] for k in range(7)]
    photos = [None if count is None else photo(*boxes[: count or 0]) for count in errors]
    feedback = OnlineFeedback(photos, find=lambda net, photos: [faces()] * len(photos), **options)
    feedback.after_epoch(engine())
    return feedback


# Every iteration: the share of small faces


def test_a_batch_is_stitched_when_small_faces_taught_less_than_the_threshold():
    feedback = OnlineFeedback([], threshold=0.35)
    decisions = []
    for small, total in ((0.1, 1.0), (0.5, 1.0), (0.34, 1.0), (0.36, 1.0), (0.0, 2.0), (1.5, 1.5)):
        batch(feedback, small, total)
        assert feedback.share == pytest.approx(small / total)
        decisions.append(feedback.stitch())
    assert decisions == [True, False, True, False, True, False]


def test_nothing_is_stitched_before_the_first_batch():
    feedback = OnlineFeedback([], threshold=1.0)
    assert feedback.share is None and not feedback.stitch()
    batch(feedback, 0.9, 1.0)
    assert feedback.stitch()


def test_a_batch_without_faces_says_nothing():
    feedback = OnlineFeedback([])
    batch(feedback, 0.0, 0.0)
    assert feedback.share is None and not feedback.stitch()
    batch(feedback, 0.1, 1.0)
    batch(feedback, 0.0, 0.0)
    assert feedback.share == pytest.approx(0.1) and feedback.stitch()


def test_a_threshold_of_0_never_stitches():
    feedback = OnlineFeedback([], threshold=0.0)
    batch(feedback, 0.0, 1.0)
    assert not feedback.stitch()


def test_parts_that_are_not_watched_are_named():
    feedback = OnlineFeedback([], small="tiny", total="all_box")
    with pytest.raises(TrainingError, match="needs tiny among the watched parts of the loss"):
        batch(feedback, 0.1, 1.0)
    OnlineFeedback([], small="a", total="b").after_batch(0, 0, {"a": 0.1, "b": 0.4})


def test_the_report_is_of_the_last_batches():
    feedback = OnlineFeedback([photo()], threshold=0.35)
    assert feedback.report() == {"hard views": 0.0}
    for number in range(70):
        batch(feedback, 0.9 if number < 20 else (0.2, 0.4)[number % 2], 1.0, number)
        feedback.stitch()
    # The 20 batches of .9 are long ago; asking twice changes nothing.
    for _ in range(2):
        assert feedback.report() == pytest.approx({"hard views": 0.0, "small share": 0.3, "stitched": 0.5})


# Every epoch: the set S


def test_right_answers_are_no_errors():
    boxes = [10, 10, 50, 60], [100, 30, 140, 80]
    assert count_errors(faces(*boxes), photo(*boxes), 320, 0.5) == (0, 0)
    moved = [14, 12, 54, 62], [97, 30, 137, 80]  # IoU above .5
    assert count_errors(faces(*moved), photo(*boxes), 320, 0.5) == (0, 0)
    assert count_errors(faces(), photo(), 320, 0.5) == (0, 0)


def test_false_alarms_and_missed_faces_are_counted_apart():
    truth = photo([10, 10, 50, 60], [100, 30, 140, 80], [200, 100, 260, 160])
    assert count_errors(faces(), truth, 320, 0.5) == (0, 3)
    assert count_errors(faces([10, 10, 50, 60], [150, 150, 180, 190]), truth, 320, 0.5) == (1, 2)
    # A second box on one face is a false alarm; one that is too far off is that and leaves the face missed.
    assert count_errors(faces([10, 10, 50, 60], [11, 10, 51, 60], [120, 30, 160, 80]), truth, 320, 0.5) == (2, 2)
    assert count_errors(faces([0, 0, 9, 9]), photo(), 320, 0.5) == (1, 0)


def test_weak_detections_count_neither_for_nor_against():
    truth = photo([10, 10, 50, 60])
    found = faces([10, 10, 50, 60], [150, 150, 180, 190], scores=[0.5, 0.49])
    assert count_errors(found, truth, 320, 0.5) == (0, 0)
    assert count_errors(found, truth, 320, 0.51) == (0, 1)
    assert count_errors(found, truth, 320, 0.3) == (1, 0)


def test_what_lies_on_an_ignore_region_is_no_false_alarm_and_no_missed_face():
    truth = photo([10, 10, 50, 60], [100, 0, 320, 200], ignore=[False, True])
    assert count_errors(faces([10, 10, 50, 60], [150, 150, 180, 190]), truth, 320, 0.5) == (0, 0)
    assert count_errors(faces([60, 150, 90, 190]), truth, 320, 0.5) == (1, 1)


@pytest.mark.parametrize(("size", "missed"), [(320, 2), (160, 1), (40, 0)])
def test_faces_too_small_at_the_size_looked_at_may_be_missed(size, missed):
    truth = photo([10, 10, 30, 30], [100, 30, 112, 42])  # 20 and 12 pixels at 320
    assert count_errors(faces(), truth, size, 0.5, min_face=10.0) == (0, missed)
    assert count_errors(faces(), truth, size, 0.5) == (0, 2)


def test_the_net_is_tried_on_the_completely_labelled_photos_and_their_errors_kept():
    seen = []

    def find(net, photos):
        seen.append((net, [p.image_path for p in photos]))
        return [faces([0, 0, 20, 20]) for _ in photos]

    photos = [photo([0, 0, 20, 20], name="a"), None, photo(name="b"), photo([50, 50, 90, 90], name="c")]
    feedback = OnlineFeedback(photos, find=find, max_share=9)
    assert feedback.hard_images() == []
    feedback.after_epoch(engine())
    assert seen == [("the net", ["a", "b", "c"])]
    assert feedback.errors.tolist() == [0, 0, 1, 2]
    assert feedback.hard_images() == [(3, 0), (3, 1), (2, 0)]
    assert feedback.report()["hard views"] == 3


def test_an_epoch_s_errors_replace_those_of_the_one_before():
    answers = iter([faces(), faces([10, 10, 50, 60])])
    feedback = OnlineFeedback([photo([10, 10, 50, 60])], find=lambda net, photos: [next(answers)], max_share=1)
    feedback.after_epoch(engine(1))
    assert feedback.hard_images() == [(0, 0)]
    feedback.after_epoch(engine(2))
    assert feedback.hard_images() == []


def test_the_score_size_and_smallest_face_that_count_are_those_asked_for():
    truth = photo([10, 10, 30, 30], [100, 30, 112, 42])
    found = faces([200, 100, 240, 150], scores=[0.4])
    errors = []
    for options in ({}, {"score_thresh": 0.3}, {"size": 160}, {"min_face": 25}):
        feedback = OnlineFeedback([truth], find=lambda net, photos: [found], **options)
        feedback.after_epoch(engine())
        errors.append(int(feedback.errors[0]))
    assert errors == [2, 3, 1, 0]


def test_photos_with_most_errors_come_first_and_as_often_as_allowed():
    errors = [1, 0, 5, None, 2, 0, 3]
    assert with_errors(errors, max_share=9).hard_images() == [(2, 0), (2, 1), (6, 0), (6, 1), (4, 0), (4, 1), (0, 0)]
    assert with_errors(errors, max_share=9, max_copies=1).hard_images() == [(2, 0), (6, 0), (4, 0), (0, 0)]
    assert with_errors(errors, max_share=9, max_copies=4).hard_images()[:5] == [(2, 0), (2, 1), (2, 2), (2, 3), (6, 0)]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.3, 1), (0.5, 3), (1.0, 6), (2.0, 7)])
def test_an_epoch_grows_by_a_share_of_the_photos_at_most(share, count):
    errors = [1, 0, 5, None, 2, 0, 3]  # six photos that are labelled completely
    views = with_errors(errors, max_share=share).hard_images()
    assert views == with_errors(errors, max_share=9).hard_images()[:count]


def test_mining_keeps_its_interval():
    for every, times in ((0, 0), (1, 6), (3, 2)):
        tried = iter(range(6))
        feedback = OnlineFeedback([photo()], mine_every=every, find=lambda net, photos, n=tried: [next(n), faces()][1:])
        for epoch in range(1, 7):
            feedback.after_epoch(engine(epoch))
        assert next(tried, 6) == times


def test_each_worker_tries_its_share_of_the_photos_and_all_see_all_errors():
    truths = [photo([10, 10, 50, 60], name=str(i)) if i % 3 else None for i in range(11)]
    answers = {str(i): faces([10, 10, 50, 60]) if i % 2 else faces() for i in range(11)}
    seen, own = [], []

    def find(net, photos):
        seen.append([p.image_path for p in photos])
        return [answers[p.image_path] for p in photos]

    # First what each worker finds alone, then both with the other's numbers added.
    for rank in (0, 1):
        feedback = OnlineFeedback(truths, find=find)
        feedback.after_epoch(engine(rank=rank, num_workers=2))
        own.append(feedback.errors)
    assert seen == [["1", "4", "7", "10"], ["2", "5", "8"]]
    expected = [int(truth is not None and i % 2 == 0) for i, truth in enumerate(truths)]
    for rank in (0, 1):
        feedback = OnlineFeedback(truths, find=find)
        feedback.after_epoch(engine(rank=rank, num_workers=2, others=own[1 - rank]))
        assert feedback.errors.tolist() == expected and feedback.errors.dtype == np.int64


def test_what_was_found_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="gluonface.training.feedback"):
        with_errors([1, 0, 5, None], max_share=1)
    assert "6 errors in 2 of 3 training photos: 3 views are added to the next epoch" in caplog.text


def test_photos_are_looked_at_with_the_face_analyzer_unless_told_otherwise(monkeypatch):
    made = {}

    class Analyzer:
        def __init__(self, net, **options):
            made.update(net=net, **options)

        def stream(self, images):
            return (faces() for _ in images)

    monkeypatch.setattr("gluonface.training.feedback.FaceAnalyzer", Analyzer)
    feedback = OnlineFeedback([photo([10, 10, 50, 60])], size=256, score_thresh=0.4)
    feedback.after_epoch(engine())
    assert made == {"net": "the net", "size": 256, "score_thresh": 0.4} and feedback.errors.tolist() == [1]


# State


def test_the_state_goes_through_json_and_back():
    before = with_errors([1, 0, 5, None, 2], max_share=1)
    batch(before, 0.2, 1.0)
    after = OnlineFeedback(before.photos, max_share=1)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.share == before.share and after.hard_images() == before.hard_images() != []
    assert after.stitch() is True
    fresh = OnlineFeedback(before.photos)
    fresh.load_state_dict(json.loads(json.dumps(OnlineFeedback(before.photos).state_dict())))
    assert fresh.share is None and not fresh.stitch()


def test_the_state_of_other_photos_is_refused():
    state = with_errors([1, 2]).state_dict()
    with pytest.raises(
        TrainingError, match="expected the errors of 3 photos, got those of 2: resume with the training"
    ):
        with_errors([1, 2, 3]).load_state_dict(state)


@pytest.mark.parametrize(
    "options", [{"threshold": 1.5}, {"threshold": -0.1}, {"mine_every": -1}, {"max_share": -1}, {"max_copies": 0}]
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="expected threshold in"):
        OnlineFeedback([], **options)
