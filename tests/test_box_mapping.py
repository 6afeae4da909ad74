import numpy as np
import pytest

from gluonface.box_mapping import BOX_STYLES, BoxMapping, boxes_from_points, default_box_mapping, fit_box_mapping
from gluonface.errors import InputError
from gluonface.faces import SCHEMES
from gluonface.geometry import FIVE_IN_BOX, box_iou, rotation_matrix_about, warp_points

# A face of width 80 and height 104, its box 100 x 136 about (50, 50).
FIVE = np.array([[32, 40], [68, 40], [50, 58], [36, 78], [64, 78.0]])
BOX = np.array([0, -18, 100, 118.0])


def moved(points, boxes, degrees, scale, shift):
    """Faces turned, scaled and shifted; and boxes (n, 4) about the same heads, taken for ellipses."""
    matrix = rotation_matrix_about((0, 0), degrees, scale)
    matrix[:, 2] += shift
    centre = warp_points(matrix, (boxes[..., :2] + boxes[..., 2:]) / 2)
    width, height = np.moveaxis((boxes[..., 2:] - boxes[..., :2]) * scale, -1, 0)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    half = np.stack([np.hypot(width * cos, height * sin), np.hypot(width * sin, height * cos)], axis=-1) / 2
    return warp_points(matrix, points), np.concatenate([centre - half, centre + half], axis=-1)


def some_faces(rng, count=60, noise=0.0, degrees=25.0):
    faces = []
    for _ in range(count):
        turn = rng.uniform(-degrees, degrees), rng.uniform(0.3, 4), rng.uniform(-50, 500, 2)
        faces.append(moved(FIVE + noise * rng.normal(size=(5, 2)), BOX[None], *turn))
    points, boxes = zip(*faces)
    return np.stack(points), np.concatenate(boxes)


def test_a_box_that_follows_from_the_points_is_found_exactly(rng):
    points, boxes = some_faces(rng)
    mapping = fit_box_mapping(points, boxes)
    np.testing.assert_allclose(boxes_from_points(points, mapping), boxes, atol=1e-6)
    new, wanted = some_faces(rng, degrees=180)
    np.testing.assert_allclose(boxes_from_points(new, mapping), wanted, atol=1e-6)


def test_boxes_follow_shifts_sizes_and_turns(rng):
    mapping = default_box_mapping()
    mapping = BoxMapping(mapping.frame, mapping.weights + rng.normal(0, 0.05, mapping.weights.shape))
    points = FIVE + rng.normal(0, 4, (20, 5, 2))
    upright = boxes_from_points(points, mapping)
    turned = boxes_from_points(warp_points(rotation_matrix_about((0, 0), -20), points), mapping)
    for scale, shift in ((2.5, (0, 0)), (1, (30, -7)), (0.2, (5, 5))):
        new = boxes_from_points(points * scale + shift, mapping)
        np.testing.assert_allclose(new, upright * scale + np.tile(shift, 2), atol=1e-9)
    for quarter in (90, 180, 270):
        matrix = rotation_matrix_about((0, 0), quarter)
        corners = warp_points(matrix, upright.reshape(-1, 2, 2))
        wanted = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        np.testing.assert_allclose(boxes_from_points(warp_points(matrix, points), mapping), wanted, atol=1e-9)
    # In between the box is upright, but its centre moves with the face.
    centres = warp_points(rotation_matrix_about((0, 0), -20), (upright[:, :2] + upright[:, 2:]) / 2)
    np.testing.assert_allclose((turned[:, :2] + turned[:, 2:]) / 2, centres, atol=1e-9)


def test_what_the_points_tell_of_the_box_is_learnt(rng):
    points, boxes = some_faces(rng, 400, degrees=10)
    # The nose points to where the box reaches farther, as on turned heads.
    nose = rng.uniform(-8, 8, 400)
    points[:, 2, 0] += nose
    boxes[:, [0, 2]] += 3 * nose[:, None]
    mapping = fit_box_mapping(points[:300], boxes[:300], ridge=0)
    plain = BoxMapping(mapping.frame, np.concatenate([np.zeros((10, 4)), mapping.weights[-1:]]))

    def overlap(one):
        return np.diag(box_iou(boxes_from_points(points[300:], one), boxes[300:])).mean()

    assert overlap(mapping) > 0.95 > overlap(plain) + 0.02


def test_boxes_of_noisy_points_are_near(rng):
    points, boxes = some_faces(rng, 500, noise=1.5)
    found = boxes_from_points(points, fit_box_mapping(points, boxes))
    assert np.diag(box_iou(found, boxes)).min() > 0.75
    assert np.abs((found - boxes).mean(axis=0)).max() < 3


@pytest.mark.parametrize("scheme", ["5", "19", "68"])
def test_a_mapping_fitted_with_mirrored_faces_is_symmetric(rng, scheme):
    flip = SCHEMES[scheme].flip_index
    base = rng.uniform(20, 80, (len(flip), 2))
    points = base + rng.normal(0, 3, (50, len(flip), 2))
    boxes = np.array([0, 0, 100, 120]) + rng.normal(0, 3, (50, 4))
    mapping = fit_box_mapping(points, boxes, flip)
    mirrored = boxes_from_points(points[:, flip] * (-1, 1), mapping)
    np.testing.assert_allclose(
        mirrored[:, [2, 1, 0, 3]] * (-1, 1, -1, 1), boxes_from_points(points, mapping), atol=1e-6
    )


def test_without_a_fit_the_five_points_are_where_upright_faces_have_them():
    width, height = 60.0, 60 * 1.36
    points = np.array([10, 20]) + FIVE_IN_BOX * (width, height)
    found = boxes_from_points(points)
    np.testing.assert_allclose(found, [10, 20, 10 + width, 20 + height], atol=2)
    assert np.isfinite(boxes_from_points(np.random.default_rng(0).uniform(0, 9, (3, 68, 2)))).all()


def test_dense_points_give_the_box_of_the_five_that_they_stand_for(rng):
    points = rng.uniform(0, 100, (4, 19, 2))
    np.testing.assert_allclose(
        boxes_from_points(points), boxes_from_points(SCHEMES["19"].five_points(points)), atol=1e-9
    )


def test_tight_and_square_boxes_are_those_round_the_points():
    points = np.array([[10, 5], [30, 9], [20, 15.0]])
    assert boxes_from_points(points, style="tight").tolist() == [10, 5, 30, 15]
    assert boxes_from_points(points, style="square").tolist() == [10, 0, 30, 20]


@pytest.mark.parametrize("style", BOX_STYLES)
def test_points_in_one_place_and_no_points_have_no_box(style):
    np.testing.assert_allclose(boxes_from_points(np.full((1, 5, 2), 7.0), style=style), [[7, 7, 7, 7]], atol=1e-9)
    assert boxes_from_points(np.zeros((0, 5, 2)), style=style).shape == (0, 4)
    assert boxes_from_points(np.zeros((2, 3, 5, 2)), style=style).shape == (2, 3, 4)


def test_a_mapping_comes_back_from_its_json(rng):
    mapping = fit_box_mapping(*some_faces(rng, noise=1))
    other = BoxMapping.from_dict(mapping.to_dict())
    np.testing.assert_array_equal(other.frame, mapping.frame)
    np.testing.assert_array_equal(other.weights, mapping.weights)


def test_what_is_no_mapping_is_refused():
    good = default_box_mapping().to_dict()
    for wrong, message in (
        ({"frame": good["frame"]}, "keys frame and weights"),
        ({**good, "weights": [[1, 2, 3, 4]]}, r"weights \(2K \+ 1, 4\)"),
        ({**good, "frame": [["a"]]}, "rows of numbers"),
        ({**good, "frame": [[1, 0, 0]] * 5}, "add up to 1, 0, 0"),
        ({**good, "weights": [[float("nan")] * 4] * 11}, "finite"),
    ):
        with pytest.raises(InputError, match=message):
            BoxMapping.from_dict(wrong)


def test_faces_that_cannot_be_fitted_are_named(rng):
    points, boxes = some_faces(rng, 5)
    for changed in ("box", "nan", "point"):
        p, b = points.copy(), boxes.copy()
        if changed == "box":
            b[3, 2] = b[3, 0]
        else:
            p[3] = np.nan if changed == "nan" else 4
        with pytest.raises(InputError, match="face 3: expected finite points"):
            fit_box_mapping(p, b)
    with pytest.raises(InputError, match=r"got \(0, 5, 2\)"):
        fit_box_mapping(points[:0], boxes[:0])
    with pytest.raises(InputError, match="box style among corpus, tight, square"):
        boxes_from_points(points, style="loose")
    with pytest.raises(InputError, match="expected 19 points"):
        boxes_from_points(points, default_box_mapping(19))
    with pytest.raises(InputError, match="number of points among 5"):
        default_box_mapping(7)
