"""LFW's ten folds: a case worked out by hand, a slow twin, missed faces, the pairs file."""

import itertools
import json
import math

import numpy as np
import pytest

from gluonface.errors import DataError, InputError
from gluonface.metrics import read_lfw_pairs, verify_pairs
from gluonface.metrics.verification import LfwPair, best_threshold

NAN = float("nan")


def test_three_folds_by_hand():
    # Fold:          0              1              2
    similarities = [0.9, 0.2, 0.1, 0.8, 0.7, 0.3, 0.6, 0.4, 0.5]
    same = [True, True, False, True, False, False, True, False, False]
    folds = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    result = verify_pairs(similarities, same, folds)
    # Fold 0, from the others: .8+ .7- .6+ .5- .4- .3-; above .7 or above .5 one is wrong, the lower is taken: .55.
    # Fold 1: .9+ .6+ .5- .4- .2+ .1-: above .5 one is wrong, below it two: .55.
    # Fold 2: .9+ .8+ .7- .3- .2+ .1-: above .7 one is wrong: .75.
    assert result.thresholds == pytest.approx((0.55, 0.55, 0.75))
    # Fold 0: .9 and .1 right, .2 wrong. Fold 1: .7 wrong. Fold 2: .6 wrong.
    assert result.fold_accuracies == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert result.accuracy == pytest.approx(2 / 3)
    assert (result.pairs, result.missed) == (9, 0)


def test_deviation_and_standard_error_by_hand():
    similarities = [0.9, 0.5, 0.6, 0.2]
    result = verify_pairs(similarities, [True, False, True, False], [0, 0, 1, 1])
    assert result.thresholds == pytest.approx((0.4, 0.7))
    assert result.fold_accuracies == (0.5, 0.5)
    result = verify_pairs([0.9, 0.5, 0.75, 0.2], [True, False, True, False], [0, 0, 1, 1])
    assert result.thresholds == pytest.approx((0.475, 0.7))
    assert result.fold_accuracies == (0.5, 1)
    assert result.std == pytest.approx(0.25)
    assert result.standard_error == pytest.approx(math.sqrt(0.125) / math.sqrt(2))


def slow(similarities, same, folds):
    """Straight from the definition: every threshold between two levels is tried."""
    accuracies = []
    for fold in sorted(set(folds)):
        rest = [(s, y) for s, y, f in zip(similarities, same, folds) if f != fold]
        levels = sorted({s for s, _ in rest})
        tries = [levels[0], *((a + b) / 2 for a, b in itertools.pairwise(levels)), levels[-1] + 1e-9]
        best = max(tries, key=lambda t: (sum((s >= t) == y for s, y in rest), -t))
        here = [(s, y) for s, y, f in zip(similarities, same, folds) if f == fold]
        accuracies.append(sum((s >= best) == y for s, y in here) / len(here))
    return accuracies


@pytest.mark.parametrize("seed", range(5))
def test_many_pairs_agree_with_the_slow_twin(seed):
    rng = np.random.default_rng(seed)
    same = rng.random(200) < 0.5
    similarities = np.round(rng.normal(0.4 * same, 0.3), 2)  # rounded: many equal ones
    folds = np.arange(200) % 10
    result = verify_pairs(similarities, same, folds)
    assert result.fold_accuracies == pytest.approx(slow(similarities.tolist(), same.tolist(), folds.tolist()))
    assert 0.6 < result.accuracy < 0.95


def test_separable_pairs_are_all_right_with_the_threshold_half_way():
    result = verify_pairs([0.8, 0.2, 0.9, 0.4], [True, False, True, False], ["a", "a", "b", "b"])
    assert (result.accuracy, result.std, result.standard_error) == (1, 0, 0)
    assert result.thresholds == pytest.approx((0.65, 0.5))


@pytest.mark.parametrize(("same", "threshold"), [([True, True], 0.3), ([False, False], np.nextafter(0.6, 1))])
def test_pairs_of_one_kind_have_a_threshold_too(same, threshold):
    assert best_threshold(np.array([0.6, 0.3]), np.array(same)) == threshold


def test_a_pair_with_a_missed_face_is_wrong_and_chooses_no_threshold():
    similarities, same, folds = (
        [0.8, 0.2, NAN, 0.9, 0.4, NAN],
        [True, False, True, True, False, False],
        [0] * 3 + [1] * 3,
    )
    result = verify_pairs(similarities, same, folds)
    assert result.fold_accuracies == pytest.approx((2 / 3, 2 / 3))
    assert result.thresholds == pytest.approx((0.65, 0.5))
    assert result.missed == 2


def test_a_result_is_plain_numbers():
    result = verify_pairs([0.8, 0.2, 0.9, 0.4], [True, False, True, False], [0, 0, 1, 1])
    assert json.loads(json.dumps(result.to_dict()))["fold_accuracies"] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1], [True, False], [0, 1]), "of one length"),
        (([0.1, 0.2], [True, False], [3, 3]), "at least two folds, got 1"),
        (([NAN, 0.2], [True, False], [0, 1]), "no pair outside fold 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        verify_pairs(*arguments)


PAIRS = ["2\t2", "Ann\t1\t2", "Bo_B.\t3\t10", "Ann\t1\tBo_B.\t3", "Ann\t2\tCy\t1"]
PAIRS += ["Cy\t1\t2", "Cy\t2\t3", "Cy\t1\tAnn\t1", "Cy\t3\tBo_B.\t10", ""]


def test_the_pairs_file_is_read_fold_by_fold(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(PAIRS))
    pairs = read_lfw_pairs(path)
    assert len(pairs) == 8
    assert pairs[1] == LfwPair(("Bo_B.", 3), ("Bo_B.", 10), True, 0)
    assert pairs[3] == LfwPair(("Ann", 2), ("Cy", 1), False, 0)
    assert [p.same for p in pairs] == [True, True, False, False] * 2
    assert [p.fold for p in pairs] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: "300"}, r"pairs\.txt, line 1: expected the numbers of folds and of pairs"),
        ({0: "0 2"}, "line 1: expected the numbers"),
        ({0: "2 3"}, "expected 2 folds of 2 x 3 pairs, got 8 lines"),
        ({2: "Ann 1 Cy 1"}, "line 3: expected \"name i j\".*got 'Ann 1 Cy 1'"),
        ({3: "Ann 1 2"}, 'line 4: expected "name i name j"'),
        ({5: "Cy one 2"}, "line 6: expected"),
    ],
)
def test_a_bad_pairs_file_is_named_with_its_line(tmp_path, change, message):
    lines = list(PAIRS)
    for at, line in change.items():
        lines[at] = line
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        read_lfw_pairs(path)


def test_an_empty_pairs_file_is_named(tmp_path):
    (tmp_path / "pairs.txt").write_text("\n")
    with pytest.raises(DataError, match=r"pairs\.txt, line 1: .*got \[\]"):
        read_lfw_pairs(tmp_path / "pairs.txt")


def test_a_missing_pairs_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: cannot be read"):
        read_lfw_pairs(tmp_path / "none.txt")
