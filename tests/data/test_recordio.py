import pickle

import numpy as np
import pytest

from gluonface._compat import import_gluoncv
from gluonface.data.base import FaceLabels
from gluonface.data.jsonl import read_jsonl
from gluonface.data.recordio import FaceLst, FaceRecord, label_to_row, row_to_label, write_lst, write_record
from gluonface.data.transforms.presets.retinaface import RetinaFaceSamples, RetinaFaceTrainTransform
from gluonface.errors import DataError

LABELS = FaceLabels(
    boxes=[[10, 5, 40, 25], [0, 0, 7, 8]],
    ignore=[False, True],
    landmarks5=[[[15, 10], [30, 11], [22, 15], [17, 20], [np.nan] * 2], [[np.nan] * 2] * 5],
)


@pytest.mark.parametrize("coord_normalized", [True, False])
def test_a_row_of_numbers_comes_back_as_the_labels_it_was(coord_normalized):
    row = label_to_row(LABELS, (30, 50), coord_normalized)
    assert row[:4].tolist() == [4, 16, 50, 30] and len(row) == 4 + 2 * 16
    back = row_to_label(row, (30, 50), coord_normalized)
    for field in ("boxes", "ignore", "landmarks5"):
        np.testing.assert_allclose(getattr(back, field), getattr(LABELS, field), atol=1e-4, err_msg=field)


def test_rows_of_other_writers_are_read():
    boxes_only = row_to_label([2, 5, 0, 0.1, 0.2, 0.5, 0.6, -1, 0, 0, 0.1, 0.1], (100, 200))
    np.testing.assert_allclose(boxes_only.boxes, [[20, 20, 100, 60], [0, 0, 20, 10]], atol=1e-4)
    assert boxes_only.ignore.tolist() == [False, True] and np.isnan(boxes_only.landmarks5).all()
    difficult = row_to_label([4, 6, 200, 100, 0, 0.1, 0.2, 0.5, 0.6, 1], (100, 200))
    assert difficult.ignore.tolist() == [True]
    with_points = row_to_label([4, 15, 200, 100, 0, 0.1, 0.2, 0.5, 0.6, *([0.25, 0.5] * 4), -1, -1], (100, 200))
    assert with_points.landmarks5[0, 3].tolist() == [50, 50] and np.isnan(with_points.landmarks5[0, 4]).all()
    assert len(row_to_label([4, 16, 50, 30], (30, 50))) == 0


def test_the_wrong_kind_of_coordinates_is_noticed():
    with pytest.raises(DataError, match="pass coord_normalized=False"):
        row_to_label(label_to_row(LABELS, (30, 50), False), (30, 50), True)
    with pytest.raises(DataError, match="pass coord_normalized=True"):
        row_to_label(label_to_row(LABELS, (30, 50), True), (30, 50), False)


@pytest.mark.parametrize("row", [[4], [4, 4, 0, 0], [4, 5, 0, 0, 1, 2, 3], [1, 5, 0, 0, 0, 1, 1]])
def test_broken_rows_are_refused(row):
    with pytest.raises(DataError, match="a label"):
        row_to_label(row, (30, 50))


@pytest.fixture
def samples(photo_folder):
    samples = read_jsonl(photo_folder / "faces.jsonl")
    return [s for s in samples if len(s.faces)]  # the host's readers know no photo without a face


def test_a_record_file_is_read_as_it_was_written(tmp_path, samples):
    write_record(tmp_path / "faces.rec", samples)
    dataset = FaceRecord(tmp_path / "faces.rec")
    assert len(dataset) == len(samples) == 7
    image, labels = dataset[3]
    assert image.shape[:2] == dataset.samples[3].size_hw == samples[3].size_hw
    np.testing.assert_allclose(labels.boxes, samples[3].faces.boxes, atol=1e-3)
    assert {p.name for p in tmp_path.glob("*")} >= {"faces.rec", "faces.idx"} and not list(tmp_path.glob(".*"))


def test_a_list_file_is_read_as_it_was_written(photo_folder, samples):
    write_lst(photo_folder / "faces.lst", samples)
    dataset = FaceLst(photo_folder / "faces.lst", root=photo_folder / "images")
    image, labels = dataset[6]
    assert len(dataset) == 7 and image.shape[:2] == samples[6].size_hw
    np.testing.assert_allclose(labels.boxes, samples[6].faces.boxes, atol=0.01)


def test_the_host_reads_the_same_boxes(photo_folder, samples):
    detection = import_gluoncv().data
    write_lst(photo_folder / "faces.lst", samples)
    write_record(photo_folder / "faces.rec", samples, coord_normalized=False)
    from_list = detection.LstDetection(str(photo_folder / "faces.lst"), root=str(photo_folder / "images"))
    from_record = detection.RecordFileDetection(str(photo_folder / "faces.rec"), coord_normalized=False)
    for index in (0, 5):
        for dataset in (from_list, from_record):
            image, label = dataset[index]
            assert image.shape[:2] == samples[index].size_hw
            np.testing.assert_allclose(label[:, :4], samples[index].faces.boxes, atol=0.01)
            assert (label[:, 4] == 0).all()


def test_record_files_feed_training_also_from_another_process(tmp_path, samples):
    write_record(tmp_path / "faces.rec", samples)
    views = RetinaFaceSamples(FaceRecord(tmp_path / "faces.rec"), RetinaFaceTrainTransform(size=64), seed=2)
    image, _ = pickle.loads(pickle.dumps(views)).sample(1, 0)
    np.testing.assert_array_equal(image, views.sample(1, 0)[0])


def test_missing_and_wrong_files_are_named(tmp_path, samples):
    with pytest.raises(DataError, match=r"no\.rec: no such file; a record file needs both"):
        FaceRecord(tmp_path / "no.rec")
    with pytest.raises(DataError, match=r"no\.lst: cannot read the list"):
        FaceLst(tmp_path / "no.lst")
    with pytest.raises(DataError, match=r"ends in \.rec"):
        write_record(tmp_path / "faces.bin", samples)
    write_record(tmp_path / "faces.rec", samples, coord_normalized=False)
    with pytest.raises(DataError, match=r"faces\.rec#0: coordinates up to 75 are pixels"):
        FaceRecord(tmp_path / "faces.rec")
    (tmp_path / "x.lst").write_text(f"0\t4\t5\t0\t0\t0\t0.1\t0.1\t0.2\t{samples[0].image_path}\n")
    with pytest.raises(DataError, match=r"x\.lst, line 1: a label must be"):
        FaceLst(tmp_path / "x.lst")
