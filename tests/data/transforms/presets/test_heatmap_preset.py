"""Crops for heatmap nets: points go where the pixels go, whatever is disturbed."""

import cv2
import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample
from gluonface.data.loader import BatchLoader
from gluonface.data.transforms.colour import Degrade
from gluonface.data.transforms.presets.heatmap import HeatmapSamples, HeatmapTrainTransform
from gluonface.errors import InputError
from gluonface.faces import SCHEMES
from gluonface.geometry import HEATMAP_TEMPLATE, five_from_boxes
from gluonface.image import save_image
from gluonface.targets import HeatmapTargets

EVERYTHING = {
    "point_jitter": 0.02,
    "box_prob": 0.3,
    "rotate": 20.0,
    "scale": 0.1,
    "shift": 8.0,
    "jitter": 0.4,
    "pca_noise": 0.05,
    "random_erasing": 0.3,
    "degrade": Degrade(),
}


def dotted_face(angle=0.0, size=200, scheme="19"):
    """A photo with a white dot at each landmark of a face that is drawn turned, and its labels."""
    rng = np.random.default_rng(1)
    five = (HEATMAP_TEMPLATE - 0.5) * 90
    points = np.zeros((SCHEMES[scheme].num_points, 2))
    for place, rows in zip(five, SCHEMES[scheme].five):
        offsets = rng.uniform(-6, 6, (len(rows), 2))
        points[list(rows)] = place + offsets - offsets.mean(axis=0)
    rest = sorted(set(range(len(points))) - {row for rows in SCHEMES[scheme].five for row in rows})
    points[rest] = rng.uniform(-30, 30, (len(rest), 2))
    turn = np.radians(angle)
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + size / 2
    image = np.zeros((size, size, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round((x - 0.5) * 16), round((y - 0.5) * 16)), 24, (255, 255, 255), -1, cv2.LINE_AA, 4)
    boxes = [[*(points.min(axis=0) - 5), *(points.max(axis=0) + 5)]]
    return image, FaceLabels(boxes=boxes, landmarks=points[None].astype(np.float32), scheme=scheme)


def brightness_at(crop, points):
    """Share of points that lie on something bright, of those inside."""
    inside = ((points >= 1) & (points < crop.shape[0] - 1)).all(axis=1)
    x, y = np.floor(points[inside]).astype(int).T
    return (crop[y, x].max(axis=-1) > 100).mean()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("angle", [0, 35])
def test_points_lie_on_what_they_mark_in_every_view(rng, mirror, angle):
    image, labels = dotted_face(angle)
    transform = HeatmapTrainTransform(size=128, point_jitter=0.02, box_prob=0.3, rotate=20, scale=0.2, shift=10)
    for _ in range(10):
        crop, moved = transform(image, labels, rng, mirror)
        assert crop.shape == (128, 128, 3) and crop.dtype == np.uint8
        assert brightness_at(crop, moved.landmarks[0]) == 1


def test_an_undisturbed_crop_has_the_five_points_where_the_template_has_them(rng):
    image, labels = dotted_face(angle=25)
    _, moved = HeatmapTrainTransform(size=96)(image, labels, rng)
    five = SCHEMES["19"].five_points(moved.landmarks[0])
    np.testing.assert_allclose(five, HEATMAP_TEMPLATE * 96, atol=0.1)


def test_a_mirrored_crop_has_left_and_right_exchanged(rng):
    image, labels = dotted_face()
    _, plain = HeatmapTrainTransform(size=96)(image, labels, rng)
    _, mirrored = HeatmapTrainTransform(size=96)(image, labels, rng, mirror=True)
    expected = (plain.landmarks[0] * (-1, 1) + (96, 0))[SCHEMES["19"].flip_index]
    np.testing.assert_allclose(mirrored.landmarks[0], expected, atol=1e-3)
    assert SCHEMES["19"].five_points(mirrored.landmarks[0])[0, 0] < 48  # the viewer's left eye is still on the left


def test_a_mirror_shift_moves_labels_of_mirrored_crops_only(rng):
    image, labels = dotted_face()
    for mirror, moved_by in ((False, 0), (True, 0.96)):
        pair = [
            HeatmapTrainTransform(size=96, mirror_shift=shift)(image, labels, rng, mirror)[1].landmarks
            for shift in (0.0, 0.01)
        ]
        np.testing.assert_allclose(pair[1] - pair[0], np.full((1, 19, 2), [moved_by, 0]), atol=1e-4)


@pytest.mark.parametrize(
    ("switch", "least"),
    [({"rotate": 15.0}, 10), ({"scale": 0.2}, 0.1), ({"shift": 20.0}, 10), ({"point_jitter": 0.02}, 1)],
)
def test_each_geometric_trick_moves_the_crop_within_its_range(rng, switch, least):
    _, labels = dotted_face()
    plain = HeatmapTrainTransform().plan(labels, rng).matrix
    plans = [HeatmapTrainTransform(**switch).plan(labels, rng).matrix for _ in range(60)]
    turns = [np.degrees(np.arctan2(m[1, 0], m[0, 0])) for m in plans]
    sizes = [np.hypot(m[0, 0], m[1, 0]) / np.hypot(plain[0, 0], plain[1, 0]) for m in plans]
    middle = [(m[:, :2] @ [100, 100] + m[:, 2]) - (plain[:, :2] @ [100, 100] + plain[:, 2]) for m in plans]
    if "rotate" in switch:
        assert least < max(map(abs, turns)) <= 15 and np.allclose(sizes, 1, atol=1e-4)
    elif "scale" in switch:
        assert least < max(abs(s - 1) for s in sizes) <= 0.2 and np.allclose(turns, 0, atol=1e-3)
    elif "shift" in switch:
        assert (
            least < np.abs(middle).max() <= 20 and np.allclose(turns, 0, atol=1e-3) and np.allclose(sizes, 1, atol=1e-4)
        )
    else:
        assert least < np.abs(middle).max() < 20


@pytest.mark.parametrize(
    "switch", [{"jitter": 0.4}, {"pca_noise": 0.5}, {"random_erasing": 1.0}, {"degrade": Degrade(noise_prob=1)}]
)
def test_each_colour_trick_changes_pixels_and_no_point(switch):
    image, labels = dotted_face()
    image = np.maximum(image, 60)
    plain, before = HeatmapTrainTransform()(image, labels, np.random.default_rng(0))
    changed, after = HeatmapTrainTransform(**switch)(image, labels, np.random.default_rng(0))
    assert (plain != changed).any()
    np.testing.assert_array_equal(before.landmarks, after.landmarks)


def test_a_face_without_all_its_points_is_aligned_by_the_five_or_by_the_box(rng):
    _, labels = dotted_face(angle=40)
    landmarks = labels.landmarks.copy()
    landmarks[0, 6:9] = np.nan  # the left eye's
    five = SCHEMES["19"].five_points(labels.landmarks)
    whole = HeatmapTrainTransform().plan(labels, rng).matrix
    by_five = HeatmapTrainTransform().plan(labels.with_(landmarks=landmarks, landmarks5=five), rng).matrix
    np.testing.assert_allclose(whole, by_five, atol=1e-3)
    by_box = HeatmapTrainTransform().plan(labels.with_(landmarks=landmarks), rng)
    np.testing.assert_allclose(by_box.points(five_from_boxes(labels.boxes[0])), HEATMAP_TEMPLATE * 192, atol=12)
    assert abs(by_box.matrix[1, 0]) < 1e-3  # upright


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 8}, "at least 32"),
        ({"box_prob": 2}, "box_prob must be between"),
        ({"rotate": -1}, "rotate must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        HeatmapTrainTransform(**options)


@pytest.fixture
def store(tmp_path):
    """Four photos of two sources; one has a second face without points."""
    from gluonface.data.store import SampleStore

    samples = []
    for i in range(4):
        image, labels = dotted_face(angle=10 * i)
        path = tmp_path / f"{i}.png"
        save_image(path, image)
        if i == 1:
            labels = FaceLabels(
                boxes=np.concatenate([labels.boxes, [[0, 0, 9, 9]]]),
                landmarks=np.concatenate([labels.landmarks, np.full_like(labels.landmarks, np.nan)]),
                scheme="19",
            )
        samples.append(FaceSample(str(path), image.shape[:2], labels, source="even" if i % 2 == 0 else "odd"))
    return SampleStore(samples)


def test_an_epoch_has_every_labelled_face_once_or_twice(store):
    plain = HeatmapSamples(store, HeatmapTrainTransform(size=64))
    assert len(plain) == 4 and plain.scheme == "19"
    doubled = HeatmapSamples(store, HeatmapTrainTransform(size=64), flip_copies=True)
    assert len(doubled) == 8
    first, mirrored = (doubled.sample(i, 0)[1].landmarks[0] for i in (2, 6))
    np.testing.assert_allclose((first * (-1, 1) + (64, 0))[SCHEMES["19"].flip_index], mirrored, atol=1e-3)


def test_a_source_weight_takes_another_share_each_epoch(store):
    samples = HeatmapSamples(store, HeatmapTrainTransform(size=64), source_weights={"odd": 0.5})
    assert len(samples) == 3
    taken = {tuple(sorted(index for index, _ in samples.faces(epoch))) for epoch in range(12)}
    assert taken == {(0, 1, 2), (0, 2, 3)}
    for weights in ({"other": 1}, {"odd": 2}, {"odd": float("nan")}):
        with pytest.raises(InputError, match="source_weights must name sources"):
            HeatmapSamples(store, HeatmapTrainTransform(), source_weights=weights)
    with pytest.raises(InputError, match="no faces to train on"):
        HeatmapSamples(store, HeatmapTrainTransform(), source_weights={"odd": 0, "even": 0})


def test_an_item_depends_on_seed_epoch_and_number_alone(store):
    make = lambda seed: HeatmapSamples(store, HeatmapTrainTransform(size=64, **EVERYTHING), seed=seed)  # noqa: E731
    one, other = make(3), make(3)
    other.sample(0, 5)
    for item in range(4):
        np.testing.assert_array_equal(one.sample(item, 2)[0], other.sample(item, 2)[0])
    assert (one.sample(0, 2)[0] != one.sample(0, 3)[0]).any() and (one.sample(0, 2)[0] != make(4).sample(0, 2)[0]).any()
    assert one.describe(1, 0).endswith(".png")


def test_a_loader_makes_batches_of_crops_and_targets(store):
    samples = HeatmapSamples(store, HeatmapTrainTransform(size=64, **EVERYTHING), flip_copies=True)
    with BatchLoader(
        samples, 4, encode=HeatmapTargets((16, 16), 4).encode_labels, num_workers=2, worker_kind="thread"
    ) as loader:
        batches = loader.epoch(0)
        assert len(batches) == 2
        for images, heatmaps, points, masks in batches:
            assert images.shape == (4, 64, 64, 3) and heatmaps.shape == (4, 19, 16, 16)
            assert points.shape == (4, 19, 2) and masks.shape == (4, 19)


def test_two_schemes_in_one_dataset_are_refused(store):
    store.samples[0] = FaceSample(
        "x.png", (9, 9), FaceLabels(boxes=[[0, 0, 5, 5]], landmarks=np.ones((1, 68, 2)), scheme="68")
    )
    with pytest.raises(InputError, match="one scheme, got 19, 68"):
        HeatmapSamples(store, HeatmapTrainTransform())
