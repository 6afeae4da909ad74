"""Every transform moves pixels and points alike: dots are painted where the points are and looked for afterwards."""

import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.data.transforms import ops
from gluonface.data.transforms.colour import PhotometricDistort
from gluonface.errors import InputError

GEOMETRIC = [
    ops.RandomSquareCrop(ratios=(1.0, 0.8)),
    ops.RandomSquareCrop(ratios=(0.9, 1.6), size=170),
    ops.Resize(long_side=311),
    ops.Resize(long_side=75),
    ops.ResizeRange(scales=(0.3, 2.5)),
    ops.FixedCrop(size_hw=(300, 250)),
    ops.ScaleToFace(size_hw=(160, 200), face_sizes=(40, 60, 80)),
    ops.Expand(max_ratio=3.0),
    ops.Flip(prob=1.0),
    ops.Rotate(max_degrees=40),
    ops.QuarterTurn(),
    ops.QuarterTurn(turns=(1,)),
]


@pytest.mark.parametrize("op", GEOMETRIC, ids=lambda op: type(op).__name__)
def test_a_painted_dot_is_where_its_point_says(dots, op):
    looked = 0
    for seed in range(6):
        image, labels = op(dots.image, dots.labels, np.random.default_rng(seed))
        assert not labels.ignore[0]
        points = labels.landmarks5[0, :3]
        if (points > 4).all() and (points < np.array(image.shape[1::-1]) - 4).all():  # no dot is cut off
            looked += 1
            assert dots.error(image, labels, mirrored=isinstance(op, ops.Flip)) < 0.3
    assert looked >= 3


@pytest.mark.parametrize("op", GEOMETRIC, ids=lambda op: type(op).__name__)
def test_inputs_are_not_changed_and_the_same_seed_gives_the_same_result(dots, op):
    image, boxes, points = dots.image.copy(), dots.labels.boxes.copy(), dots.labels.landmarks5.copy()
    first = op(dots.image, dots.labels, np.random.default_rng(3))
    second = op(dots.image, dots.labels, np.random.default_rng(3))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1].boxes, second[1].boxes)
    assert first[0] is not dots.image and not np.shares_memory(first[0], dots.image)
    np.testing.assert_array_equal(dots.image, image)
    np.testing.assert_array_equal(dots.labels.boxes, boxes)
    np.testing.assert_array_equal(dots.labels.landmarks5, points)


def test_regions_to_ignore_move_along(dots):
    _, labels = ops.Flip(prob=1.0)(dots.image, dots.labels, np.random.default_rng(0))
    assert labels.ignore.tolist() == [False, True]
    np.testing.assert_allclose(labels.boxes[1], [170, 100, 200, 140])


def test_a_flip_negates_yaw_and_roll_and_a_second_flip_brings_everything_back(dots, rng):
    flip = ops.Flip(prob=1.0)
    image, labels = flip(dots.image, dots.labels, rng)
    np.testing.assert_allclose(labels.pose[0], [-20, -8, -7], atol=1e-4)
    again, back = flip(image, labels, rng)
    np.testing.assert_array_equal(again, dots.image)
    np.testing.assert_allclose(back.landmarks5[0], dots.labels.landmarks5[0], atol=1e-4)
    np.testing.assert_allclose(back.pose[0], dots.labels.pose[0], atol=1e-4)


@pytest.mark.parametrize("turns", range(4))
def test_a_quarter_turn_keeps_every_pixel(rng, turns):
    image = rng.integers(0, 255, (37, 52, 3), dtype=np.uint8)
    turned, _ = ops.QuarterTurn(turns=(turns,))(image, FaceLabels.empty(), rng)
    np.testing.assert_array_equal(turned, np.rot90(image, -turns))


def test_a_turned_face_keeps_its_left_eye_and_rolls(dots):
    image, labels = ops.QuarterTurn(turns=(2,))(dots.image, dots.labels, np.random.default_rng(0))
    assert dots.error(image, labels) < 0.3  # point 0 is still the red dot
    np.testing.assert_allclose(labels.landmarks5[0, 0], [210 - 70.3, 150 - 61.8], atol=1e-3)
    upright = dots.labels.with_(pose=np.array([[0, 0, 7.0], [np.nan] * 3]))
    _, turned = ops.QuarterTurn(turns=(1,))(dots.image, upright, np.random.default_rng(0))
    np.testing.assert_allclose(turned.pose[0], [0, 0, 97], atol=1e-3)


def test_a_square_crop_without_a_size_copies_pixels(dots):
    for seed in range(8):
        image, _ = ops.RandomSquareCrop()(dots.image, dots.labels, np.random.default_rng(seed))
        plan = ops.RandomSquareCrop().plan(dots.size_hw, dots.labels, np.random.default_rng(seed))
        x, y = -plan.matrix[:, 2].astype(int)
        side = plan.size_hw[0]
        assert side in [round(r * 150) for r in ops.SQUARE_CROP_RATIOS] and plan.size_hw == (side, side)
        np.testing.assert_array_equal(image, dots.image[y : y + side, x : x + side])


def test_a_square_crop_holds_the_centre_of_a_face():
    labels = FaceLabels(boxes=[[290, 10, 300, 20]])
    for seed in range(30):
        plan = ops.RandomSquareCrop(ratios=(0.3,), attempts=2000).plan((200, 400), labels, np.random.default_rng(seed))
        assert ((plan.points(np.array([295, 15])) > 0) & (plan.points(np.array([295, 15])) < 60)).all()


def test_scaling_to_a_face_gives_it_a_size_near_those_asked_for(dots):
    sizes = []
    for seed in range(60):
        op = ops.ScaleToFace(size_hw=(200, 200), face_sizes=(32, 64))
        _, labels = op(dots.image, dots.labels, np.random.default_rng(seed))
        sizes.append(labels.face_sizes[~labels.ignore][0])
        assert (labels.boxes[0] >= 0).all() and (labels.boxes[0] <= 200).all()
    assert min(sizes) >= 32 / 2**0.5 - 0.1 and max(sizes) <= 64 * 2**0.5 + 0.1
    assert np.ptp(sizes) > 40


def test_no_photo_is_magnified_beyond_the_limit():
    labels = FaceLabels(boxes=[[10, 10, 14, 14]])
    op = ops.ScaleToFace(size_hw=(200, 200), face_sizes=(100,), max_upscale=2.0)
    assert op.plan((50, 50), labels, np.random.default_rng(0)).scale == pytest.approx(2)
    crop = ops.RandomSquareCrop(size=200, max_upscale=2.0)
    assert crop.plan((50, 50), labels, np.random.default_rng(0)).scale == pytest.approx(2)


def test_joined_transforms_give_what_they_give_one_by_one(dots):
    chain = [
        ops.FixedCrop(size_hw=(220, 240)),
        ops.Rotate(max_degrees=20),
        ops.Flip(prob=1.0),
        ops.Resize(long_side=200),
    ]
    image, labels = ops.Compose(chain)(dots.image, dots.labels, np.random.default_rng(5))
    assert dots.error(image, labels, mirrored=True) < 0.3
    rng = np.random.default_rng(5)
    one_by_one = dots.image, dots.labels
    for op in chain:
        one_by_one = op(*one_by_one, rng)
    np.testing.assert_allclose(labels.landmarks5[0], one_by_one[1].landmarks5[0], atol=0.01)
    np.testing.assert_allclose(labels.boxes[0], one_by_one[1].boxes[0], atol=0.01)


def test_colours_between_geometric_transforms_are_applied_in_place(dots):
    calls = []

    def note(image, labels, rng):
        calls.append(image.shape)
        return image, labels

    chain = ops.Compose([ops.Resize(long_side=105), note, ops.QuarterTurn(turns=(1,)), PhotometricDistort(prob=1.0)])
    image, labels = chain(dots.image, dots.labels, np.random.default_rng(0))
    assert calls == [(75, 105, 3)] and image.shape == (105, 75, 3) and len(labels) == 2


def test_a_shrunk_photo_does_not_alias():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    image, _ = ops.Resize(long_side=90)(stripes, FaceLabels.empty(), np.random.default_rng(0))
    assert np.abs(image[2:-2, 2:-2].astype(int) - 127).max() < 20  # unfiltered it is 127


def test_expansion_fills_with_the_colour_asked_for(dots):
    op = ops.Expand(max_ratio=4.0, fill=(9, 8, 7))
    image, _ = op(dots.image, dots.labels, np.random.default_rng(1))
    assert image.shape[0] > 200 and (image == (9, 8, 7)).all(axis=2).mean() > 0.3


def test_a_mosaic_shifts_the_labels_of_each_tile(dots):
    flipped = ops.Flip(prob=1.0)(dots.image, dots.labels, np.random.default_rng(0))
    black = np.zeros_like(dots.image), FaceLabels.empty()
    image, labels = ops.mosaic([black, flipped, (dots.image, dots.labels), black], 2, 2)
    assert image.shape == (300, 420, 3) and len(labels) == 4
    lower = image.copy()
    lower[:150] = 0
    assert dots.error(lower, labels[2:]) < 0.3
    upper = image.copy()
    upper[150:] = 0
    assert dots.error(upper, labels[:2], mirrored=True) < 0.3
    np.testing.assert_allclose(labels.boxes[2], dots.labels.boxes[0] + [0, 150, 0, 150])


def test_a_mosaic_shifts_meshes_across_and_not_in_depth(dots):
    mesh = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    tile = dots.image, dots.labels.with_(mesh=mesh)
    bare = np.zeros_like(dots.image), FaceLabels(boxes=[[1, 1, 9, 9]])
    _, labels = ops.mosaic([bare, bare, bare, tile], 2, 2)
    assert np.isnan(labels.mesh[:3]).all()
    np.testing.assert_array_equal(labels.mesh[3:], mesh + np.array([210, 150, 0]))


def test_a_mosaic_whose_tiles_do_not_fit_is_refused(dots):
    tile = dots.image, dots.labels
    with pytest.raises(InputError, match="needs 4 tiles, got 3"):
        ops.mosaic([tile] * 3, 2, 2)
    with pytest.raises(InputError, match="tile 1 must be 150x100"):
        ops.mosaic([(dots.image[:, :100], tile[1]), tile, tile, tile], 4, 1)
