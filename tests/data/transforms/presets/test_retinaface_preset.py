import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.data.base import FaceLabels
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.data.transforms.colour import Degrade
from gluonface.data.transforms.presets.retinaface import (
    RetinaFaceSamples,
    RetinaFaceTrainTransform,
    load_test,
    transform_test,
)
from gluonface.errors import InputError
from gluonface.image import save_image

ALL_MOVES = {"rotate_prob": 0.6, "max_degrees": 35, "quarter_turn_prob": 0.4, "flip_prob": 0.5, "photometric": None}


@pytest.mark.parametrize("face_prob", [0.0, 1.0])
def test_a_painted_dot_is_where_its_point_says(dots, face_prob):
    transform = RetinaFaceTrainTransform(
        size=160, face_prob=face_prob, face_sizes=(48, 64), fill=(0, 0, 0), **ALL_MOVES
    )
    looked = mirrored = 0
    for seed in range(40):
        image, labels = transform(dots.image, dots.labels, np.random.default_rng(seed))
        assert image.shape == (160, 160, 3)
        points = labels.landmarks5[0, :3]
        if labels.ignore[0] or (points < 4).any() or (points > 156).any():
            continue
        looked += 1
        # Seen from the nose, the red eye follows the green one clockwise unless the view is mirrored.
        red, green, nose = (dots.find(image, channel) for channel in range(3))
        turn = np.cross(red - nose, green - nose)
        mirrored += turn < 0
        assert dots.error(image, labels, mirrored=turn < 0) < 0.3
    assert looked >= 10 and 0 < mirrored < looked


def test_every_view_has_the_size_and_labels_inside_it(dots, rng):
    transform = RetinaFaceTrainTransform(size=96, rotate_prob=1.0, degrade=Degrade(jpeg_prob=1.0), min_face=12)
    for _ in range(50):
        image, labels = transform(dots.image, dots.labels, rng)
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert (labels.boxes >= 0).all() and (labels.boxes <= 96).all()
        assert (labels.boxes[:, 2:] > labels.boxes[:, :2]).all()
        # Clipping takes away up to 60 % of a face that was at least min_face.
        assert (labels.face_sizes[~labels.ignore] >= 12 * 0.4**0.5 - 1e-3).all()


def test_chosen_faces_come_in_the_sizes_and_shares_asked_for(dots, rng):
    transform = RetinaFaceTrainTransform(
        size=160, face_prob=1.0, face_sizes=(24, 96), face_size_weights=(3, 1), min_photo=0.0
    )
    sizes = np.array([transform(dots.image, dots.labels, rng)[1].face_sizes[0] for _ in range(200)])
    assert sizes.min() >= 24 / 2**0.5 - 0.1 and sizes.max() <= 96 * 2**0.5 + 0.1
    assert 0.65 < (sizes < 48).mean() < 0.85


def test_a_photo_is_neither_magnified_nor_shrunk_beyond_the_limits(dots, rng):
    transform = RetinaFaceTrainTransform(size=200, face_prob=1.0, face_sizes=(4, 170), max_upscale=1.5, min_photo=0.5)
    scales = [transform.plan(dots.size_hw, dots.labels, rng).scale for _ in range(60)]
    assert min(scales) >= 0.5 * 200 / 210 - 1e-9 and max(scales) <= 1.5 + 1e-9


def test_a_photo_without_faces_gives_a_view_without_faces(rng):
    image, labels = RetinaFaceTrainTransform(size=64)(np.full((50, 70, 3), 9, np.uint8), FaceLabels.empty(), rng)
    assert image.shape == (64, 64, 3) and len(labels) == 0


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (2000, 3)])
def test_photos_of_odd_shapes_are_survived(rng, size_hw):
    labels = FaceLabels(boxes=[[0, 0, size_hw[1], size_hw[0]]])
    transform = RetinaFaceTrainTransform(size=64, rotate_prob=0.5, quarter_turn_prob=0.5)
    for _ in range(10):
        assert transform(np.zeros((*size_hw, 3), np.uint8), labels, rng)[0].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"flip_prob": 1.5}, "flip_prob must be between 0 and 1, got 1.5"),
        ({"size": 8}, "size must be at least 32"),
        ({"face_sizes": (16, 32), "face_size_weights": (1,)}, "one weight each"),
        ({"face_sizes": ()}, "face_sizes must be positive"),
        ({"fill": "grey"}, 'fill must be a colour .* or "random"'),
    ],
)
def test_wrong_arguments_are_named(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        RetinaFaceTrainTransform(**arguments)


@pytest.fixture
def dataset(photo_folder):
    return FaceJsonLines(photo_folder / "faces.jsonl", cache="memory")


def samples_of(dataset, **changes) -> RetinaFaceSamples:
    return RetinaFaceSamples(dataset, RetinaFaceTrainTransform(size=64, **ALL_MOVES), **{"seed": 7, **changes})


def test_an_item_depends_on_seed_epoch_and_index_alone(dataset):
    first, second = samples_of(dataset, mosaic_prob=0.5), samples_of(dataset, mosaic_prob=0.5)
    before = [first.sample(item, 3) for item in range(8)]
    for item in (5, 0, 7):
        second.sample(item, 2)
        image, labels = second.sample(item, 3)
        np.testing.assert_array_equal(image, before[item][0])
        np.testing.assert_array_equal(labels.boxes, before[item][1].boxes)
    assert any((first.sample(item, 4)[0] != before[item][0]).any() for item in range(8))
    other_seed = samples_of(dataset, mosaic_prob=0.5, seed=8)
    assert any((other_seed.sample(item, 3)[0] != before[item][0]).any() for item in range(8))


def test_indexing_gives_the_items_of_the_epoch_set(dataset):
    samples = samples_of(dataset)
    samples.set_epoch(5)
    np.testing.assert_array_equal(samples[2][0], samples.sample(2, 5)[0])
    np.testing.assert_array_equal(samples[-1][0], samples.sample(len(samples) - 1, 5)[0])
    with pytest.raises(IndexError):
        samples[len(samples)]


def test_weights_say_how_often_a_source_occurs(dataset):
    samples = samples_of(dataset, source_weights={"a": 3, "b": 0.5, "none": 0})
    sources = [dataset.samples[i].source for i in samples.indices(1)]
    assert (sources.count("a"), sources.count("b"), sources.count("none")) == (6, 2, 0)  # of 2, 5 and 1
    assert len(samples) == 8 and len({tuple(sorted(samples.indices(epoch))) for epoch in range(20)}) > 1


def test_a_source_that_does_not_exist_is_refused(dataset):
    with pytest.raises(InputError, match="source_weights must name sources of the dataset"):
        samples_of(dataset, source_weights={"c": 2})
    with pytest.raises(InputError, match="no images to train on"):
        samples_of(dataset, source_weights={"a": 0, "b": 0, "none": 0})


def test_a_mosaic_holds_smaller_faces_of_several_photos(dataset):
    transform = RetinaFaceTrainTransform(size=128, photometric=None, face_prob=1.0, face_sizes=(40,), min_face=0)
    one = RetinaFaceSamples(dataset, transform, seed=1)
    many = RetinaFaceSamples(dataset, transform, seed=1, mosaic_prob=1.0, mosaic_grids=((3, 2),))
    sizes = [np.concatenate([s.sample(i, 0)[1].face_sizes for i in range(8)]) for s in (one, many)]
    assert len(sizes[1]) > 2 * len(sizes[0])
    assert np.median(sizes[1]) < 0.75 * np.median(sizes[0])
    assert many.sample(0, 0)[0].shape == (128, 128, 3)


def test_an_extra_item_is_another_view_of_its_image_the_same_every_time(dataset):
    samples, again = samples_of(dataset), samples_of(dataset)
    assert [samples.extra_item(image, copy) for copy in (0, 1) for image in (0, 7)] == [8, 15, 16, 23]
    for image in (0, 3, 5):
        usual = list(samples.indices(1)).index(image)
        items = [usual, samples.extra_item(image, 0), samples.extra_item(image, 1)]
        views = [samples.sample(item, 1)[0] for item in items]
        assert all((one != other).any() for one, other in ((views[0], views[1]), (views[1], views[2])))
        for item, view in zip(items, views, strict=True):
            np.testing.assert_array_equal(again.sample(item, 1)[0], view)
            assert (again.sample(item, 2)[0] != view).any()
            assert samples.describe(item, 1) == dataset.samples[image].image_path


def test_extra_items_count_images_not_the_items_of_an_epoch(dataset):
    samples = samples_of(dataset, source_weights={"a": 4, "b": 0.5, "none": 0})
    assert len(samples) == 10
    numbers = {samples.extra_item(image, copy) for image in range(8) for copy in range(2)}
    assert len(numbers) == 16 and min(numbers) == 10
    for image in range(8):  # also those that the weights leave out
        assert samples.describe(samples.extra_item(image, 1), 4) == dataset.samples[image].image_path


def test_a_stitched_item_is_for_certain_the_mosaic_of_smaller_faces_that_it_could_be_by_chance(dataset):
    transform = RetinaFaceTrainTransform(size=96, photometric=None, face_prob=1.0, face_sizes=(40,), min_face=0)
    samples = RetinaFaceSamples(dataset, transform, seed=1)
    mosaics = RetinaFaceSamples(dataset, transform, seed=1, mosaic_prob=1.0)
    for item in range(8):
        image, labels = samples.sample(item, 0, stitched=True)
        assert image.shape == (96, 96, 3)
        np.testing.assert_array_equal(image, mosaics.sample(item, 0)[0])
        np.testing.assert_array_equal(labels.boxes, mosaics.sample(item, 0)[1].boxes)
        np.testing.assert_array_equal(image, samples.sample(item, 0, stitched=True)[0])
        assert (image != samples.sample(item, 0)[0]).any()
    sizes = [
        np.concatenate([samples.sample(item, 0, stitched=stitched)[1].face_sizes for item in range(8)])
        for stitched in (False, True)
    ]
    assert np.median(sizes[1]) < 0.75 * np.median(sizes[0])


def test_a_test_photo_has_its_long_side_resized_and_is_padded_below(tmp_path):
    photo = np.zeros((50, 80, 3), np.uint8)
    photo[:, 40:] = (255, 128, 0)
    save_image(tmp_path / "x.png", photo)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    x, image = load_test(str(tmp_path / "x.png"), size=160, mean=mean, std=std)
    assert x.shape == (1, 3, 128, 160) and image.shape == (100, 160, 3)
    assert isinstance(x, mx.nd.NDArray) and x.dtype == np.float32 and image.dtype == np.uint8
    orange = (np.array([1, 128 / 255, 0]) - mean) / std
    np.testing.assert_allclose(x[0, :, 50, 150].asnumpy(), orange, atol=0.02)
    np.testing.assert_allclose(x[0, :, 110, 150].asnumpy(), -np.array(mean) / std, atol=1e-5)


def test_several_test_photos_give_two_lists_as_in_the_host(tmp_path):
    photos = [mx.nd.zeros((30, 20, 3), dtype="uint8"), mx.nd.ones((20, 30, 3), dtype="uint8")]
    tensors, images = transform_test(photos, size=64)
    assert [t.shape for t in tensors] == [(1, 3, 64, 64)] * 2
    assert [i.shape for i in images] == [(64, 43, 3), (43, 64, 3)]
