"""FDDB's protocol: painted regions against exact geometry, matchings against every possible one, curves by counting."""

import itertools
import math

import numpy as np
import pytest

from gluonface.errors import DataError, InputError
from gluonface.faces import Faces
from gluonface.metrics import (
    Regions,
    fddb_roc,
    match_fddb,
    read_fddb_detections,
    summarize_fddb,
    write_fddb_detections,
)
from gluonface.metrics.fddb import ellipses_in_boxes, region_iou

pytest.importorskip("scipy")
SIZE_HW = (240, 320)
FACES = np.array([[40.0, 28.0, 1.4, 80.5, 90.5], [30.0, 22.0, -0.3, 220.5, 120.5]])


def exact_iou(a, b, size_hw, fine=8):
    """By counting the points of a fine grid, for rectangles and ellipses."""
    height, width = size_hw
    y, x = (np.mgrid[: height * fine, : width * fine] + 0.5) / fine

    def inside(region):
        if len(region) == 4:
            return (x >= region[0]) & (x <= region[2]) & (y >= region[1]) & (y <= region[3])
        major, minor, angle, cx, cy = region
        along = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        across = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        return (along / major) ** 2 + (across / minor) ** 2 <= 1

    one, other = inside(a), inside(b)
    return (one & other).sum() / max((one | other).sum(), 1)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([40, 28, 0.7, 60, 55], [42, 30, 1.0, 66, 50]),
        ([40, 28, 0.7, 60, 55], [30, 20, 95, 88]),
        ([25, 20, 2.0, 10.5, 12.5], [0, 0, 34, 38]),  # over the photo's corner
        ([10, 20, 60, 70], [25, 30, 80, 90]),
    ],
    ids=["ellipses", "ellipse and rectangle", "cut by the border", "rectangles"],
)
def test_painted_regions_overlap_as_exact_ones_to_a_few_hundredths(a, b):
    size_hw = (110, 120)
    assert region_iou(np.array([a]), np.array([b]), size_hw)[0, 0] == pytest.approx(exact_iou(a, b, size_hw), abs=0.02)


def test_whole_rectangles_overlap_exactly():
    a, b = (
        np.array([[10, 20, 60, 70], [0, 0, 5, 5.0]]),
        np.array([[35, 20, 85, 70], [60, 20, 90, 70], [-5, -5, 5, 5.0]]),
    )
    assert region_iou(a, b, SIZE_HW).tolist() == [[25 / 75, 0, 0], [0, 0, 1]]  # what lies outside does not count
    assert region_iou(a, np.array([[400.0, 0, 420, 20]]), SIZE_HW).tolist() == [[0], [0]]
    assert region_iou(np.zeros((0, 4)), b, SIZE_HW).shape == (0, 3)


def test_a_rectangle_never_fits_an_ellipse():
    circle = np.array([[100.0, 100, 0, 120.5, 120.5]])
    round_it, best = (np.array([[120.5 - s, 120.5 - s, 120.5 + s, 120.5 + s]]) for s in (100, 91))
    assert region_iou(round_it, circle, (240, 240))[0, 0] == pytest.approx(math.pi / 4, abs=0.01)
    assert region_iou(best, circle, (240, 240))[0, 0] == pytest.approx(0.837, abs=0.01)
    inscribed = ellipses_in_boxes(np.array([[20.5, 20.5, 220.5, 220.5]]))
    assert region_iou(inscribed, circle, (240, 240))[0, 0] == 1


def test_the_ellipse_in_a_box_lies_along_its_longer_side():
    upright, flat = ellipses_in_boxes(np.array([[10, 20, 30, 60], [10, 20, 60, 40]]))
    assert upright == pytest.approx([20, 10, math.pi / 2, 20, 40]) and flat == pytest.approx([25, 10, 0, 35, 30])
    faces = Faces(np.array([[10, 20, 30, 60.0]]), np.array([0.5]), size_hw=SIZE_HW)
    assert Regions.of(faces, "ellipse").regions.shape == (1, 5) and Regions.of(faces).regions.shape == (1, 4)
    with pytest.raises(InputError, match='"rectangle" or "ellipse", got \'box\''):
        Regions.of(faces, "box")


def test_a_perfect_detector_scores_one():
    matches = [match_fddb(Regions(FACES, np.array([0.9, 0.8])), FACES, SIZE_HW)] * 3
    roc = fddb_roc(matches)
    assert roc.at(0) == (1, pytest.approx(1))
    assert (roc.faces, roc.thresholds.tolist(), roc.false_positives.tolist()) == (6, [0.9, 0.8], [0, 0])
    assert roc.discrete.tolist() == [0.5, 1]
    assert summarize_fddb(roc, [50]) == {
        "recall_at_50fp": 1,
        "continuous_at_50fp": pytest.approx(1),
        "recall": 1,
        "false_positives": 0,
    }


def best_by_trying(overlap):
    """Largest sum over all pairings of rows with columns, and the pairs of it."""
    n, m = overlap.shape
    best = (0.0, ())
    for size in range(min(n, m) + 1):
        for rows in itertools.combinations(range(n), size):
            for columns in itertools.permutations(range(m), size):
                best = max(best, (sum(overlap[r, c] for r, c in zip(rows, columns)), tuple(zip(rows, columns))))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_matchings_are_the_best_of_all_at_every_threshold(seed):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(30, 90, (3, 2))
    truth = np.column_stack([rng.uniform(20, 30, (3, 1)), rng.uniform(12, 20, (3, 1)), rng.uniform(-2, 2, 3), centres])
    corners = centres[rng.integers(0, 3, 5)] + rng.normal(0, 8, (5, 2)) - 20
    found = Regions(np.concatenate([corners, corners + rng.uniform(25, 50, (5, 2))], axis=1), rng.integers(0, 4, 5) / 4)
    overlap = region_iou(found.regions, truth, (120, 120))
    match = match_fddb(found, truth, (120, 120))
    assert match.scores.tolist() == sorted(set(found.scores.tolist()), reverse=True)
    for score, taken, row in zip(match.scores, match.taken, match.overlaps):
        chosen = overlap[found.scores >= score]
        assert taken == len(chosen)
        assert row.sum() == pytest.approx(best_by_trying(chosen)[0])


def test_matching_is_undone_where_a_later_detection_makes_a_better_one():
    # The first detection overlaps both faces; the second only the face it would take first.
    truth = np.array([[0, 0, 20, 20], [10, 0, 30, 20.0]])
    found = Regions(np.array([[4, 0, 24, 20], [0, 0, 19, 20.0]]), np.array([0.9, 0.5]))
    match = match_fddb(found, truth, (40, 40))
    assert match.overlaps == pytest.approx(np.array([[16 / 24, 0], [19 / 20, 14 / 26]]))
    roc = fddb_roc([match])
    assert roc.discrete.tolist() == [0.5, 1] and roc.false_positives.tolist() == [0, 0]
    assert fddb_roc([match], 0.7).discrete.tolist() == [0, 0.5]
    assert fddb_roc([match], 0.7).false_positives.tolist() == [1, 1]


def test_curves_count_over_all_photos():
    """Three photos against counts made threshold by threshold."""
    rng = np.random.default_rng(3)
    photos = []
    for _ in range(3):
        centres = rng.uniform(40, 160, (3, 2))
        truth = np.column_stack([np.full(3, 25.0), np.full(3, 18.0), rng.uniform(-2, 2, 3), centres])
        corners = np.concatenate([centres + rng.normal(0, 4, (3, 2)), rng.uniform(20, 180, (4, 2))]) - 18
        photos.append((Regions(np.concatenate([corners, corners + 36], axis=1), rng.integers(0, 9, 7) / 8), truth))
    photos.append((Regions(np.zeros((0, 4)), np.zeros(0)), photos[0][1]))
    photos.append((photos[0][0], np.zeros((0, 5))))
    roc = fddb_roc([match_fddb(*photo, (200, 200)) for photo in photos])
    assert roc.faces == 12
    assert roc.thresholds.tolist() == sorted({s for d, _ in photos for s in d.scores.tolist()}, reverse=True)
    for i, threshold in enumerate(roc.thresholds):
        right = total = count = 0
        for found, truth in photos:
            chosen = found.scores >= threshold
            overlap = region_iou(found.regions[chosen], truth, (200, 200))
            best, pairs = best_by_trying(overlap)
            right += sum(overlap[pair] > 0.5 for pair in pairs)
            total, count = total + best, count + chosen.sum()
        assert (roc.discrete[i], roc.false_positives[i]) == (pytest.approx(right / 12), count - right)
        assert roc.continuous[i] == pytest.approx(total / 12)
    few = roc.false_positives[0]
    assert roc.at(int(few))[0] == roc.discrete[np.flatnonzero(roc.false_positives <= few)[-1]]
    assert roc.at(-1) == (0, 0) and roc.at(10_000)[0] == roc.discrete[-1]


def test_an_overlap_of_just_a_half_is_not_enough():
    match = match_fddb(Regions(np.array([[0, 0, 10, 20.0]]), np.ones(1)), np.array([[0, 0, 20, 20.0]]), (40, 40))
    assert match.overlaps.tolist() == [[0.5]] and fddb_roc([match]).discrete.tolist() == [0]


def test_no_detections_give_an_empty_curve():
    roc = fddb_roc([match_fddb(Regions(np.zeros((0, 5)), np.zeros(0)), FACES, SIZE_HW)])
    assert (roc.faces, len(roc.thresholds)) == (2, 0)
    assert summarize_fddb(roc, [1]) == {"recall_at_1fp": 0, "continuous_at_1fp": 0, "recall": 0, "false_positives": 0}


@pytest.mark.parametrize(
    ("regions", "scores"),
    [(np.zeros((2, 3)), np.zeros(2)), (np.zeros((2, 4)), np.zeros(1)), (np.full((1, 4), np.nan), np.zeros(1))],
)
def test_regions_are_checked(regions, scores):
    with pytest.raises(InputError, match="expected"):
        Regions(regions, scores)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rectangles", "ellipses"])
def test_detections_come_back_from_a_file(tmp_path, kind):
    regions = FACES if kind == "ellipses" else np.array([[10, 20, 60.5, 70.25], [0, 0, 30, 40]])
    written = [Regions(regions, np.array([0.875, 0.25])), Regions(np.zeros((0, 4)), np.zeros(0))]
    write_fddb_detections(tmp_path / "out.txt", ["2002/a", "2003/b"], written)
    back = read_fddb_detections(tmp_path / "out.txt", ["2003/b", "2002/a"])
    assert len(back[0]) == 0
    assert back[1].regions == pytest.approx(regions, abs=1e-4) and back[1].scores.tolist() == [0.875, 0.25]


def test_a_rectangle_of_a_file_ends_with_its_last_pixel(tmp_path):
    (tmp_path / "out.txt").write_text("2002/a.jpg\n1.0\n10 20 30 40 0.5\n\x1a\n")
    (one,) = read_fddb_detections(tmp_path / "out.txt", ["2002/a"])
    assert one.regions.tolist() == [[10, 20, 41, 61]]


def test_a_folder_has_a_file_for_each_fold(tmp_path):
    for fold, name in (("01", "2002/a"), ("02", "2003/b")):
        (tmp_path / f"fold-{fold}-out.txt").write_text(f"{name}\n0\n")
    assert [len(one) for one in read_fddb_detections(tmp_path, ["2002/a", "2003/b"])] == [0, 0]
    with pytest.raises(DataError, match="1 of 2 photos are missing, the first is 2004/c"):
        read_fddb_detections(tmp_path, ["2002/a", "2004/c"])
    with pytest.raises(DataError, match="expected a file, or a folder of .txt files"):
        (tmp_path / "none").mkdir()
        read_fddb_detections(tmp_path / "none", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nx\n", "line 2: expected the number of detections of 'a', got 'x'"),
        ("a\n2\n1 2 3 4 5\n", "ends after 1 of 2 detections of a"),
        ("a\n1\n1 2 3 4\n", "line 3: expected five numbers"),
        ("a\n1\n1 2 3 4 nan\n", "line 3: expected five numbers"),
        ("a\n2\n1 2 3 4 .5\n1 2 3 4 5 .5\n", "a has both rectangles and ellipses"),
        ("a\n0\na\n0\n", "line 3: a is here a second time"),
    ],
)
def test_a_bad_file_of_detections_is_named(tmp_path, text, message):
    (tmp_path / "out.txt").write_text(text)
    with pytest.raises(DataError) as error:
        read_fddb_detections(tmp_path / "out.txt", ["a"])
    assert str(error.value).startswith(str(tmp_path / "out.txt")) and message in str(error.value)


def test_rectangles_and_ellipses_do_not_go_into_one_file(tmp_path):
    both = [Regions(FACES, np.ones(2)), Regions(np.zeros((1, 4)), np.ones(1))]
    with pytest.raises(InputError, match="got both"):
        write_fddb_detections(tmp_path / "out.txt", ["a", "b"], both)
    with pytest.raises(InputError, match="detections of 1 photos, got those of 2"):
        write_fddb_detections(tmp_path / "out.txt", ["a"], both)
