"""The paired bootstrap: exact on the whole set, honest about no difference, sure about a clear one."""

import json

import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.errors import InputError
from gluonface.faces import Faces
from gluonface.metrics import RankedDetections, evaluate_detections, match_photos, paired_bootstrap

SIZE_HW = (100, 100)
NAMES = [f"{i}.jpg" for i in range(40)]


def results(hit_rate, seed=0, photos=40):
    """Photos of three faces, found with that probability, and false alarms; one decimal, so some scores are equal."""
    truth_rng, rng = np.random.default_rng(99), np.random.default_rng(seed)
    detections, labels = [], []
    for _ in range(photos):
        x = truth_rng.uniform(0, 20, 3) + np.array([0, 30, 60])
        boxes = np.stack([x, [10] * 3, x + 15, [25] * 3], axis=1)
        kept = boxes[rng.uniform(size=3) < hit_rate]
        wrong = np.array([[10, 60, 40, 90]] * rng.integers(0, 3)).reshape(-1, 4)
        scores = np.concatenate([rng.uniform(0.3, 1, len(kept)), rng.uniform(0.1, 0.8, len(wrong))]).round(1)
        detections.append(Faces(np.concatenate([kept, wrong]), scores, size_hw=SIZE_HW))
        labels.append(FaceLabels(boxes))
    return detections, labels


def ranked(hit_rate, seed=0):
    return RankedDetections.of(NAMES, match_photos(*results(hit_rate, seed)))


def test_each_photo_once_gives_the_average_precision_itself():
    found, truth = results(0.7)
    expected = evaluate_detections(found, truth)["ap50"]
    assert 0.3 < expected < 0.95
    assert ranked(0.7).ap(np.ones((1, 40), int))[0] == pytest.approx(expected, abs=1e-12)


def test_a_selection_of_photos_gives_their_average_precision():
    found, truth = results(0.7)
    counts = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=5)
    values = ranked(0.7).ap(counts)
    for row, value in zip(counts, values):
        chosen = np.repeat(np.arange(40), row)
        expected = evaluate_detections([found[i] for i in chosen], [truth[i] for i in chosen])["ap50"]
        assert value == pytest.approx(expected, abs=1e-12)


def test_work_in_pieces_changes_nothing(monkeypatch):
    counts = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=7)
    whole = ranked(0.7).ap(counts)
    monkeypatch.setattr("gluonface.metrics.bootstrap._AT_ONCE", 200)
    assert ranked(0.7).ap(counts) == pytest.approx(whole, abs=1e-12)


def test_a_result_comes_back_from_json():
    before = ranked(0.6)
    after = RankedDetections.from_dict(json.loads(json.dumps(before.to_dict())))
    counts = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=20)
    assert after.images == before.images
    assert after.ap(counts).tolist() == before.ap(counts).tolist()


def test_false_alarms_behind_the_last_hit_are_not_kept():
    truth = FaceLabels(np.array([[0, 0, 10, 10.0]]))
    found = Faces([[0, 0, 10, 10], [50, 50, 60, 60], [70, 70, 80, 80]], [0.9, 0.9, 0.1], size_hw=SIZE_HW)
    kept = RankedDetections.of(["a"], match_photos([found], [truth])).to_dict()
    assert kept == {"images": ["a"], "faces": [1], "hits": [[1]], "false_alarms": [[1]]}


def test_a_result_compared_with_itself_differs_by_nothing():
    result = paired_bootstrap(ranked(0.7), ranked(0.7), resamples=200)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_a_clear_difference_is_significant_and_its_interval_holds_it():
    result = paired_bootstrap(ranked(0.9), ranked(0.5, seed=1), resamples=2000)
    assert result.ap50_a - result.ap50_b == result.difference > 0.15
    assert 0 < result.low < result.difference < result.high
    assert result.p_value < 0.005


def test_exchanging_the_two_changes_the_sign_only():
    one = paired_bootstrap(ranked(0.8), ranked(0.7, seed=1), resamples=500)
    other = paired_bootstrap(ranked(0.7, seed=1), ranked(0.8), resamples=500)
    assert other.difference == -one.difference
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert other.p_value == one.p_value


def test_equally_good_detectors_are_rarely_told_apart():
    significant = 0
    for seed in range(20):
        result = paired_bootstrap(ranked(0.7, seed), ranked(0.7, seed + 100), resamples=300)
        significant += result.p_value < 0.05
    assert significant <= 4


def test_the_photos_may_be_in_another_order():
    a, b = ranked(0.8), ranked(0.6, seed=1)
    found, truth = results(0.6, seed=1)
    turned = RankedDetections.of(NAMES[::-1], match_photos(found[::-1], truth[::-1]))
    assert paired_bootstrap(a, turned, 200) == paired_bootstrap(a, b, 200)


def test_other_photos_or_labels_are_refused():
    a = ranked(0.8)
    matches = match_photos(*results(0.8))
    with pytest.raises(InputError, match="same photos"):
        paired_bootstrap(a, RankedDetections.of([f"x{n}" for n in NAMES], matches))
    with pytest.raises(InputError, match=r"0\.jpg: 3 faces in one result, 4 in the other"):
        paired_bootstrap(a, RankedDetections(a.images, a.faces + 1, a.photo, a.rank, a.hit))
    with pytest.raises(InputError, match="'hits' is missing"):
        RankedDetections.from_dict({"images": [], "faces": []})
