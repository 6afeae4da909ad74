import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.data.transforms.affine import Affine, keep_visible
from gluonface.errors import InputError
from gluonface.geometry import rotation_matrix_about


def turn(degrees: float, size_hw=(200, 200)) -> Affine:
    return Affine(rotation_matrix_about((size_hw[1] / 2, size_hw[0] / 2), degrees), size_hw)


def face68(box) -> np.ndarray:
    """68 points in the lower two thirds of a box: a jaw, and the rest near the middle."""
    x1, y1, x2, y2 = box
    angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([(x1 + x2) / 2 + (x2 - x1) / 2 * np.cos(angle), y1 + (y2 - y1) * (0.35 + 0.65 * np.sin(angle))], -1)
    inner = np.stack([np.linspace(x1 + 10, x2 - 10, 51), np.full(51, y1 + 0.5 * (y2 - y1))], axis=-1)
    return np.concatenate([jaw, inner])


def test_maps_join_in_the_order_they_are_applied(rng):
    first, second = turn(30), Affine(np.array([[2, 0, 5], [0, 3, -1]]), (400, 600))
    points = rng.uniform(0, 200, (7, 2))
    np.testing.assert_allclose(
        first.then(second).points(points), second.points(first.points(points)), rtol=1e-5, atol=1e-3
    )
    assert first.then(second).size_hw == (400, 600)


def test_a_flat_or_infinite_map_is_refused():
    for matrix in (np.zeros((2, 3)), np.full((2, 3), np.nan), np.eye(3)):
        with pytest.raises(InputError, match="finite, invertible"):
            Affine(matrix, (10, 10))
    with pytest.raises(InputError, match="at least 1x1"):
        Affine(np.eye(2, 3), (0, 10))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_quarter_turns_of_boxes_are_exact_with_and_without_68_points(degrees):
    box = np.array([[50, 20, 110, 150]])
    corners = turn(degrees).points(np.array([[50, 20], [110, 150]]))
    expected = [*corners.min(axis=0), *corners.max(axis=0)]
    for landmarks68 in (None, face68(box[0])[None]):
        moved = turn(degrees).labels(
            FaceLabels(boxes=box, landmarks=landmarks68, scheme=landmarks68 if landmarks68 is None else "68")
        )
        np.testing.assert_allclose(moved.boxes[0], expected, atol=1e-3)


@pytest.mark.parametrize("degrees", [20, -45, 130])
def test_the_box_of_a_turned_face_holds_its_head_and_no_corner(degrees):
    box = np.array([[60, 40, 140, 160]])
    angle = np.linspace(0, 2 * np.pi, 721)
    head = np.stack([100 + 40 * np.cos(angle), 100 + 60 * np.sin(angle)], axis=-1)
    turned = turn(degrees).points(head)
    expected = [*turned.min(axis=0), *turned.max(axis=0)]
    np.testing.assert_allclose(turn(degrees).labels(FaceLabels(boxes=box)).boxes[0], expected, atol=0.01)


def test_the_box_of_a_turned_face_with_68_points_is_near_that_of_its_head():
    box = np.array([[60, 40, 140, 160]], np.float32)
    landmarks68 = face68(box[0])[None]
    small_turn = (
        turn(0.01)
        .labels(FaceLabels(boxes=box, landmarks=landmarks68, scheme=landmarks68 if landmarks68 is None else "68"))
        .boxes
    )
    np.testing.assert_allclose(small_turn, box, atol=0.05)
    with_points = (
        turn(40)
        .labels(FaceLabels(boxes=box, landmarks=landmarks68, scheme=landmarks68 if landmarks68 is None else "68"))
        .boxes[0]
    )
    without = turn(40).labels(FaceLabels(boxes=box)).boxes[0]
    np.testing.assert_allclose(with_points, without, atol=8)
    assert not np.allclose(with_points, without, atol=0.1)


def test_a_mirror_exchanges_left_and_right_of_5_and_68_points():
    points5 = np.arange(10).reshape(1, 5, 2)
    points68 = face68((20, 20, 80, 90))[None]
    mirror = Affine(np.array([[-1, 0, 200], [0, 1, 0]]), (200, 200))
    moved = mirror.labels(FaceLabels(boxes=[[20, 20, 80, 90]], landmarks5=points5, landmarks=points68, scheme="68"))
    assert moved.landmarks5[0, :, 0].tolist() == [198, 200, 196, 192, 194]
    # On a face drawn symmetrically every run of points still goes from the viewer's left to the right.
    assert (np.diff(moved.landmarks[0, :17, 0]) > 0).all()
    back = mirror.labels(moved)
    np.testing.assert_allclose(back.landmarks, points68, atol=1e-3)


def test_the_68_points_exchange_as_the_300w_scheme_says():
    mirror = Affine(np.array([[-1, 0, 100], [0, 1, 0]]), (100, 100))
    marked = np.stack([np.arange(68), np.arange(68)], axis=-1)[None].astype(float)
    came_from = (
        mirror.labels(FaceLabels(boxes=[[0, 0, 9, 9]], landmarks=marked, scheme="68")).landmarks[0, :, 1].astype(int)
    )
    pairs = {0: 16, 7: 9, 8: 8, 17: 26, 21: 22, 27: 27, 30: 30, 31: 35, 32: 34, 36: 45, 37: 44, 38: 43, 39: 42, 40: 47}
    pairs |= {41: 46, 48: 54, 49: 53, 51: 51, 55: 59, 56: 58, 57: 57, 60: 64, 61: 63, 62: 62, 65: 67, 66: 66}
    for a, b in pairs.items():
        assert came_from[a] == b and came_from[b] == a
    assert sorted(came_from) == list(range(68))


def test_faces_outside_go_and_faces_cut_off_are_ignored():
    labels = FaceLabels(
        boxes=[
            [10, 10, 30, 30],
            [-8, 0, 12, 20],
            [-12, 0, 8, 20],
            [200, 0, 220, 20],
            [90, 40, 120, 60],
            [50, 50, 54, 54],
        ],
        ignore=[False, False, False, False, True, False],
        box_from=list("abcdef"),
    )
    kept = keep_visible(labels, (100, 100), min_visible=0.5, min_face=5)
    assert kept.box_from == ["a", "b", "c", "e", "f"]
    assert kept.ignore.tolist() == [False, False, True, True, True]  # c: cut off, e: was ignored, f: too small
    assert kept.boxes.tolist()[1] == [0, 0, 12, 20] and kept.boxes.tolist()[3] == [90, 40, 100, 60]


def test_a_face_whose_centre_is_outside_is_ignored_unless_asked_otherwise():
    labels = FaceLabels(boxes=[[-12, 0, 8, 20]])
    assert keep_visible(labels, (100, 100), min_visible=0.1).ignore.tolist() == [True]
    assert keep_visible(labels, (100, 100), min_visible=0.1, centre_inside=False).ignore.tolist() == [False]
