import pickle

import numpy as np
import pytest

from gluonface.data.facejsonl import FaceJsonLines
from gluonface.errors import DataError, ImageError, InputError
from gluonface.image import load_image, save_image


def test_an_item_is_an_image_and_its_labels(photo_folder):
    dataset = FaceJsonLines(photo_folder / "faces.jsonl")
    image, labels = dataset[2]
    assert len(dataset) == 8 and image.shape == (68, 90, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, load_image(dataset.samples[2].image_path))
    assert labels.boxes.tolist() == [[10, 10, 40, 48], [60, 20, 75, 38]]
    assert len(dataset[3][1]) == 0


def test_it_is_a_dataset_of_the_host(photo_folder):
    shorter = FaceJsonLines(photo_folder / "faces.jsonl").take(3).transform(lambda image, labels: len(labels))
    assert [shorter[i] for i in range(len(shorter))] == [2, 2, 2]


@pytest.mark.parametrize("cache", [None, "bytes", "memory"])
def test_a_cached_image_outlives_its_file_and_an_uncached_one_does_not(photo_folder, cache):
    dataset = FaceJsonLines(photo_folder / "faces.jsonl", cache=cache)
    before = dataset[0][0]
    (photo_folder / "images" / dataset.samples[0].name).unlink()
    if cache is None:
        with pytest.raises(ImageError, match=r"photo0\.png: no such file"):
            dataset[0]
    else:
        np.testing.assert_array_equal(dataset[0][0], before)


def test_a_cached_array_cannot_be_written_to(photo_folder):
    image, _ = FaceJsonLines(photo_folder / "faces.jsonl", cache="memory")[0]
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_the_cache_stays_behind_when_the_store_goes_to_another_process(photo_folder):
    store = FaceJsonLines(photo_folder / "faces.jsonl", cache="memory").store
    empty = len(pickle.dumps(store))
    store.read(0)
    assert len(pickle.dumps(store)) == empty
    assert len(pickle.loads(pickle.dumps(store))) == 8


def test_an_unknown_cache_is_refused(photo_folder):
    with pytest.raises(InputError, match="cache must be one of"):
        FaceJsonLines(photo_folder / "faces.jsonl", cache="disk")


def test_a_missing_images_folder_is_named(photo_folder):
    with pytest.raises(DataError, match=r"elsewhere: the images folder of .*faces\.jsonl is missing"):
        FaceJsonLines(photo_folder / "faces.jsonl", images=photo_folder / "elsewhere")


def test_a_damaged_image_is_named(photo_folder):
    dataset = FaceJsonLines(photo_folder / "faces.jsonl", cache="bytes")
    path = photo_folder / "images" / dataset.samples[1].name
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"photo1\.png: "):
        dataset[1]


def test_an_image_of_another_size_than_annotated_is_an_error(photo_folder):
    dataset = FaceJsonLines(photo_folder / "faces.jsonl")
    save_image(photo_folder / "images" / dataset.samples[0].name, np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(DataError, match=r"photo0\.png: annotated as 90x60 pixels, but the file has 7x5"):
        dataset[0]


def test_corpus_photos_have_the_size_their_annotation_says(facedata):
    dataset = FaceJsonLines(facedata / "det_val.jsonl")
    for index in range(0, len(dataset), 20):
        image, labels = dataset[index]
        assert image.shape[:2] == dataset.samples[index].size_hw
        assert (labels.boxes[:, 2] <= image.shape[1]).all()
