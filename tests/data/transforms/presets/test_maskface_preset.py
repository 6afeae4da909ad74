import math
import pickle

import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.data.transforms.affine import Affine
from gluonface.data.transforms.colour import Degrade
from gluonface.data.transforms.presets.maskface import (
    MAX_FACE,
    MIN_FACE,
    MaskFaceLandmarkTransform,
    MaskFaceTrainTransform,
)
from gluonface.data.transforms.presets.retinaface import RetinaFaceSamples
from gluonface.errors import InputError

PHOTO_HW = (900, 1200)


def boxes_about(*faces) -> np.ndarray:
    """Boxes of faces (centre x, centre y, side)."""
    return np.array([[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for x, y, side in faces])


def degrees(plan: Affine) -> float:
    """Clockwise turn of a map that may mirror afterwards."""
    linear = np.diag([-1.0, 1.0]) @ plan.linear if plan.mirrored else plan.linear
    return math.degrees(math.atan2(linear[1, 0], linear[0, 0]))


def holds(plan: Affine, labels: FaceLabels, face: int = 0) -> bool:
    box = plan.labels(labels).boxes[face]
    return bool((box >= -1e-3).all() and (box <= plan.size_hw[0] + 1e-3).all())


@pytest.mark.parametrize(
    "transform",
    [
        MaskFaceTrainTransform(size=160, scales=(0.8, 1.5), min_face=8, photometric=None, fill=(0, 0, 0)),
        MaskFaceLandmarkTransform(size=160, face_range=(60, 110), photometric=None, fill=(0, 0, 0)),
    ],
)
def test_a_painted_dot_is_where_its_point_says(dots, transform):
    looked = mirrored = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        plan = transform.plan(dots.size_hw, dots.labels, rng)
        image, labels = transform(dots.image, dots.labels, np.random.default_rng(seed))
        assert image.shape == (160, 160, 3)
        points = labels.landmarks5[0, :3]
        if labels.ignore[0] or (points < 6).any() or (points > 154).any():
            continue
        looked += 1
        mirrored += plan.mirrored
        assert dots.error(image, labels, mirrored=plan.mirrored) < 0.3
    assert looked >= 10 and 0 < mirrored < looked


# detection


def test_the_limits_of_faces_are_those_of_the_paper():
    assert pytest.approx(0.4 * 16**2) == MIN_FACE**2
    assert pytest.approx(2.5 * 406**2, rel=0.003) == MAX_FACE**2


def test_scales_are_even_from_a_half_to_two_and_a_half(rng):
    transform = MaskFaceTrainTransform()
    assert (transform.size, transform.face_prob, transform.scales) == (640, 0.5, (0.5, 2.5))
    labels = FaceLabels(boxes_about((600, 450, 100)))
    plans = [transform.plan(PHOTO_HW, labels, rng) for _ in range(400)]
    scales = np.array([plan.scale for plan in plans])
    assert 0.5 <= scales.min() < 0.55 and 2.45 < scales.max() <= 2.5
    assert np.histogram(scales, 4)[0].min() > 70
    assert all(plan.size_hw == (640, 640) and abs(degrees(plan)) < 1e-6 for plan in plans)
    assert 0.4 < np.mean([plan.mirrored for plan in plans]) < 0.6


@pytest.mark.parametrize(("face_prob", "low", "high"), [(0.0, 0.0, 0.2), (0.5, 0.45, 0.65), (1.0, 1.0, 1.0)])
def test_half_of_the_crops_hold_a_face_whole(rng, face_prob, low, high):
    transform = MaskFaceTrainTransform(face_prob=face_prob, scales=(2.0, 2.0))
    labels = FaceLabels(boxes_about((100, 90, 80)))  # in a corner, where few crops lie
    share = np.mean([holds(transform.plan(PHOTO_HW, labels, rng), labels) for _ in range(300)])
    assert low <= share <= high


def test_crops_are_made_round_any_face_that_is_learnt_at_the_scale_but_no_other(rng):
    faces = FaceLabels(
        boxes_about((60, 60, 40), (1140, 840, 60), (1140, 60, 12), (60, 840, 50)), ignore=[False, False, False, True]
    )
    transform = MaskFaceTrainTransform(size=320, face_prob=1.0, scales=(0.5, 0.5))
    plans = [transform.plan(PHOTO_HW, faces, rng) for _ in range(60)]
    counts = np.sum([[holds(plan, faces, i) for i in range(4)] for plan in plans], axis=0)
    assert counts[:2].min() > 15 and counts.tolist()[2:] == [0, 0] and counts.sum() == 60


def test_crops_lie_inside_the_photo_where_it_is_larger_and_the_photo_in_them_where_it_is_smaller(rng):
    for photo_hw, inside in ((PHOTO_HW, True), ((200, 300), False)):
        labels = FaceLabels(boxes_about((100, 90, 60)))
        transform = MaskFaceTrainTransform(scales=(1.0, 1.0), flip_prob=0.0)
        for _ in range(20):
            plan = transform.plan(photo_hw, labels, rng)
            low, high = plan.points(np.array([[0, 0], photo_hw[::-1]]))
            if inside:
                assert (low <= 1e-3).all() and (high >= 640 - 1e-3).all()
            else:
                assert (low >= -1e-3).all() and (high <= 640 + 1e-3).all()


def test_faces_too_small_or_too_large_for_the_anchors_are_ignored(rng):
    sides = np.array([9.0, 11.0, 600.0, 650.0])
    for side in sides:
        labels = FaceLabels(boxes_about((350, 350, side)))
        transform = MaskFaceTrainTransform(size=700, scales=(1.0, 1.0), photometric=None)
        _, seen = transform(np.zeros((700, 700, 3), np.uint8), labels, rng)
        assert seen.ignore.tolist() == [side in (9.0, 650.0)]
        half = MaskFaceTrainTransform(size=700, scales=(0.5, 0.5), photometric=None)
        _, seen = half(np.zeros((700, 700, 3), np.uint8), labels, rng)
        assert seen.ignore.tolist() == [side in (9.0, 11.0)]  # the size after scaling counts


# landmarks


def test_landmark_views_bring_a_face_to_150_to_450_pixels_turned_by_up_to_30_degrees(rng):
    transform = MaskFaceLandmarkTransform()
    assert transform.size == 480
    labels = FaceLabels(boxes_about((500, 450, 200)))
    plans = [transform.plan(PHOTO_HW, labels, rng) for _ in range(400)]
    sizes, turns = 200 * np.array([plan.scale for plan in plans]), np.array([degrees(plan) for plan in plans])
    for values, low, high in ((sizes, 150, 450), (turns, -30, 30)):
        assert low <= values.min() < low + 0.03 * (high - low) and high - 0.03 * (high - low) < values.max() <= high
        assert np.histogram(values, 4)[0].min() > 70
    assert all(plan.size_hw == (480, 480) for plan in plans)
    assert 0.4 < np.mean([plan.mirrored for plan in plans]) < 0.6
    assert all(holds(plan, labels) for plan in plans)


def test_of_several_faces_one_with_points_is_taken(rng):
    points = np.full((3, 5, 2), np.nan, np.float32)
    points[1] = 600, 300
    labels = FaceLabels(boxes_about((100, 100, 80), (600, 300, 50), (1000, 700, 90)), landmarks5=points)
    transform = MaskFaceLandmarkTransform(face_range=(200, 200))
    for _ in range(20):
        assert transform.plan(PHOTO_HW, labels, rng).scale == pytest.approx(4)
    dense = np.full((3, 19, 2), np.nan, np.float32)
    dense[2] = 1000, 700
    labels = FaceLabels(labels.boxes, landmarks=dense, scheme="19")
    assert transform.plan(PHOTO_HW, labels, rng).scale == pytest.approx(200 / 90)
    labels = labels.with_(ignore=[False, False, True])  # without, any face that is not ignored
    scales = {round(transform.plan(PHOTO_HW, labels, rng).scale, 6) for _ in range(30)}
    assert scales == {2.5, 4.0}


def test_points_turn_with_the_face(dots, rng):
    transform = MaskFaceLandmarkTransform(face_range=(160, 160), flip_prob=0.0, photometric=None)
    _, labels = transform(dots.image, dots.labels, rng)
    before, after = dots.labels.landmarks5[0], labels.landmarks5[0]
    scale = 160 / dots.labels.face_sizes[0]
    np.testing.assert_allclose(np.hypot(*(after[0] - after[4])), scale * np.hypot(*(before[0] - before[4])), rtol=1e-3)
    assert not labels.ignore[0]


# both


@pytest.mark.parametrize("kind", [MaskFaceTrainTransform, MaskFaceLandmarkTransform])
def test_every_view_has_the_size_and_labels_inside_it(dots, rng, kind):
    transform = kind(size=96, degrade=Degrade(jpeg_prob=1.0))
    for size_hw in [None] * 20 + [(48, 40)] * 20:
        image, labels = transform(dots.image, dots.labels, rng, size_hw)
        height, width = size_hw or (96, 96)
        assert image.shape == (height, width, 3) and image.dtype == np.uint8
        assert (labels.boxes >= 0).all() and (labels.boxes <= [width, height] * 2).all()


@pytest.mark.parametrize("kind", [MaskFaceTrainTransform, MaskFaceLandmarkTransform])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (2000, 3)])
def test_photos_of_odd_shapes_and_without_faces_are_survived(rng, kind, size_hw):
    whole = FaceLabels(boxes=[[0, 0, size_hw[1], size_hw[0]]])
    for labels in (whole, FaceLabels.empty(), whole.with_(ignore=[True])):
        image, seen = kind(size=64)(np.zeros((*size_hw, 3), np.uint8), labels, rng)
        assert image.shape == (64, 64, 3) and len(seen) <= len(labels)


def test_what_is_drawn_shrinks_with_a_tile(rng):
    labels = FaceLabels(boxes_about((600, 450, 100)))
    one = MaskFaceTrainTransform(scales=(2.0, 2.0)).plan(PHOTO_HW, labels, rng, (320, 320))
    assert one.scale == pytest.approx(1.0) and one.size_hw == (320, 320)
    one = MaskFaceLandmarkTransform(face_range=(300, 300)).plan(PHOTO_HW, labels, rng, (240, 240))
    assert one.scale == pytest.approx(1.5)


@pytest.mark.parametrize("kind", [MaskFaceTrainTransform, MaskFaceLandmarkTransform])
def test_an_epoch_is_made_of_these_views(photo_folder, kind):
    dataset = FaceJsonLines(photo_folder / "faces.jsonl", cache="memory")
    first, again = (RetinaFaceSamples(dataset, pickle.loads(pickle.dumps(kind(size=64))), seed=3) for _ in range(2))
    for item in (0, 3, 5):
        (image, labels), (other, _) = first.sample(item, 2), again.sample(item, 2)
        np.testing.assert_array_equal(image, other)
        assert image.shape == (64, 64, 3) and isinstance(labels, FaceLabels)
    assert first.sample(0, 2, stitched=True)[0].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("kind", "arguments", "complaint"),
    [
        (MaskFaceTrainTransform, {"flip_prob": 1.5}, "flip_prob must be between 0 and 1, got 1.5"),
        (MaskFaceTrainTransform, {"face_prob": -1}, "face_prob must be between 0 and 1"),
        (MaskFaceTrainTransform, {"size": 8}, "size must be at least 32"),
        (MaskFaceTrainTransform, {"scales": (2.0, 1.0)}, "scales must be two positive numbers"),
        (MaskFaceTrainTransform, {"min_face": 20, "max_face": 10}, "min_face must be at least 0 and below max_face"),
        (MaskFaceLandmarkTransform, {"face_range": (0, 10)}, "face_range must be two positive numbers"),
        (MaskFaceLandmarkTransform, {"fill": "grey"}, 'fill must be a colour .* or "random"'),
    ],
)
def test_wrong_arguments_are_named(kind, arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        kind(**arguments)
