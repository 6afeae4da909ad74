import pickle

import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample
from gluonface.data.facejsonl import FaceJsonLines, attach_meshes, write_jsonl
from gluonface.errors import DataError, ImageError, InputError
from gluonface.image import load_image, save_image
from gluonface.mesh import topology_468


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


def meshed_folder(tmp_path, rows):
    """A photo whose faces name rows of a file of three meshes."""
    (tmp_path / "images").mkdir()
    save_image(tmp_path / "images" / "a.png", np.zeros((20, 30, 3), np.uint8))
    labels = FaceLabels(boxes=np.tile([1, 2, 9, 8], (len(rows), 1)), mesh_row=rows)
    samples = [FaceSample(str(tmp_path / "images" / "a.png"), (20, 30), labels, name="a.png")]
    write_jsonl(tmp_path / "faces.jsonl", samples)
    meshes = np.random.default_rng(0).normal(10, 4, (3, 468, 3)).astype(np.float16)
    np.savez(tmp_path / "meshes.npz", mesh468=meshes)
    return meshes.astype(np.float32)


def test_faces_have_the_meshes_of_their_rows_with_depth_from_the_nose(tmp_path):
    meshes, topology = meshed_folder(tmp_path, [2, -1, 0]), topology_468()
    dataset = FaceJsonLines(tmp_path / "faces.jsonl", meshes=tmp_path / "meshes.npz", topology=topology)
    _, labels = pickle.loads(pickle.dumps(dataset.store)).read(0)  # as workers get them
    assert labels.mesh.shape == (3, 468, 3) and np.isnan(labels.mesh[1]).all()
    np.testing.assert_array_equal(labels.mesh[[0, 2], :, :2], meshes[[2, 0], :, :2])
    np.testing.assert_allclose(labels.mesh[0, :, 2], meshes[2, :, 2] - meshes[2, topology.nose_tip, 2], atol=1e-5)
    np.testing.assert_array_equal(labels.mesh_flip, topology.flip_index)
    assert FaceJsonLines(tmp_path / "faces.jsonl")[0][1].mesh is None


def test_meshes_that_do_not_fit_are_a_typed_error(tmp_path):
    meshed_folder(tmp_path, [2, -1, 0])
    samples, topology = FaceJsonLines(tmp_path / "faces.jsonl").samples, topology_468()
    for array, message in (
        (np.zeros((2, 468, 3), np.float32), r"a\.png: its mesh is row 2, .* has 2"),
        (np.full((3, 468, 3), np.nan, np.float32), r"finite numbers, the mesh of a face in a\.png"),
        (np.zeros((3, 68, 3), np.float32), r"expected floats \(R, 468, 3\) for .*, got float32 of shape \(3, 68, 3\)"),
        (np.zeros((3, 468, 3), np.int64), "expected floats"),
    ):
        np.save(tmp_path / "meshes.npy", array)
        with pytest.raises(DataError, match=message):
            attach_meshes(samples, tmp_path / "meshes.npy", topology)
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    with pytest.raises(DataError, match="one array of meshes, got a, b"):
        attach_meshes(samples, tmp_path / "two.npz", topology)
    with pytest.raises(InputError, match="meshes and topology go together"):
        FaceJsonLines(tmp_path / "faces.jsonl", meshes=tmp_path / "meshes.npz")


def test_corpus_photos_have_the_size_their_annotation_says(facedata):
    dataset = FaceJsonLines(facedata / "det_val.jsonl")
    for index in range(0, len(dataset), 20):
        image, labels = dataset[index]
        assert image.shape[:2] == dataset.samples[index].size_hw
        assert (labels.boxes[:, 2] <= image.shape[1]).all()
