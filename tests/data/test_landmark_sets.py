"""The readers of landmark sets, on tiny layouts drawn as the official ones."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gluonface.data import (
    aflw,
    cofw,
    read_300w,
    read_aflw,
    read_coco_landmarks,
    read_cofw,
    read_jd106,
    read_jsonl,
    read_wflw,
    unpack_cofw,
    wflw_subset,
    without_photos_of,
    write_jsonl,
)
from gluonface.data.aflw import frontal_faces
from gluonface.data.ibug import SOURCES, read_pts
from gluonface.data.jd106 import centre_most
from gluonface.errors import DataError, ImageError, InputError, MissingDependencyError
from gluonface.faces import SCHEMES
from gluonface.geometry import flip_points, similarity_transform, warp_points
from gluonface.image import load_image, save_image

SIZE_HW = (60, 80)


def photo(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.full((*SIZE_HW, 3), value, np.uint8))


def grid(count, x=20.0, y=10.0):
    """Points that differ in x and y, on a grid of ten columns two pixels apart."""
    index = np.arange(count)
    return np.stack([x + 2 * (index % 10), y + 2 * (index // 10)], axis=1)


def check_labels(sample, scheme, first_point, box):
    """What every reader owes: one face, landmarks, the five points from them, photo size."""
    faces = sample.faces
    assert sample.size_hw == SIZE_HW and len(faces) == 1 and faces.scheme == scheme
    assert faces.landmarks[0, 0].tolist() == first_point and faces.boxes[0].tolist() == box
    assert faces.landmarks5[0] == pytest.approx(SCHEMES[scheme].five_points(faces.landmarks[0]))
    assert faces.landmarks5_human.tolist() == [True] and not faces.ignore.any()


def written_and_read_back(samples, root, tmp_path):
    write_jsonl(tmp_path / "back.jsonl", samples)
    back = read_jsonl(tmp_path / "back.jsonl", images=root)
    assert [s.image_path for s in back] == [s.image_path for s in samples]
    for before, after in zip(samples, back, strict=True):
        assert after.faces.landmarks == pytest.approx(before.faces.landmarks, abs=0.006)
        assert after.faces.attributes == before.faces.attributes
    return back


# 300-W ---------------------------------------------------------------------------------------------------------------


def write_pts(path, points):
    rows = "".join(f"{x} {y}\n" for x, y in points)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"version: 1\nn_points:  {len(points)}\n{{\n{rows}}}\n")


@pytest.fixture
def ibug(tmp_path):
    root = tmp_path / "300W"
    places = ["afw/a.jpg", "helen/trainset/b.jpg", "lfpw/trainset/c.png", "helen/testset/d.jpg", "lfpw/testset/e.png"]
    places += ["ibug/image_092 _01.jpg", "300W/01_Indoor/indoor_001.png", "300W/02_Outdoor/outdoor_001.png"]
    for place in places:
        photo(root / place)
        write_pts((root / place).with_suffix(".pts"), grid(68))
    return root


def test_300w_has_its_official_splits_and_counts_pixels_from_one(ibug, tmp_path):
    names = {split: [s.name for s in read_300w(ibug, split)] for split in ("train", "common", "challenging", "test")}
    assert names == {
        "train": ["afw/a.jpg", "helen/trainset/b.jpg", "lfpw/trainset/c.png"],
        "common": ["helen/testset/d.jpg", "lfpw/testset/e.png"],
        "challenging": ["ibug/image_092 _01.jpg"],
        "test": ["300W/01_Indoor/indoor_001.png", "300W/02_Outdoor/outdoor_001.png"],
    }
    full = read_300w(ibug, "full")
    assert [s.name for s in full] == names["common"] + names["challenging"]
    assert [s.source for s in full] == ["helen", "lfpw", "ibug"]
    assert [s.source for s in read_300w(ibug, "test")] == ["indoor", "outdoor"]
    # the first of 68 points is written as 20 10, one-based; the grid spans 18 x 12 pixels
    check_labels(full[0], "68", [19.5, 9.5], [19.5, 9.5, 37.5, 21.5])
    assert full[0].faces.box_from == ["landmarks"]
    written_and_read_back(full, ibug, tmp_path)


def test_the_sources_of_a_split_of_300w_are_those_of_its_faces(ibug):
    for split, sources in SOURCES.items():
        assert {sample.source for sample in read_300w(ibug, split)} == set(sources)


def test_the_test_set_of_300w_is_found_without_its_outer_folder(ibug):
    (ibug / "300W").rename(ibug / "x")
    for part in ("01_Indoor", "02_Outdoor"):
        (ibug / "x" / part).rename(ibug / part)
    assert [s.name for s in read_300w(ibug, "test")] == ["01_Indoor/indoor_001.png", "02_Outdoor/outdoor_001.png"]


def test_a_missing_folder_of_300w_is_an_error_unless_a_part_is_wanted(ibug):
    (ibug / "afw").rename(ibug / "gone")
    with pytest.raises(DataError, match="300W/afw: no such folder; the split train"):
        read_300w(ibug, "train")
    assert len(read_300w(ibug, "train", partial=True)) == 2
    (ibug / "ibug").rename(ibug / "gone2")
    with pytest.raises(DataError, match="holds nothing of the split challenging"):
        read_300w(ibug, "challenging", partial=True)
    with pytest.raises(DataError, match="split must be one of train, common, challenging, full, test, got 'val'"):
        read_300w(ibug, "val")


def test_a_missing_photo_of_300w_is_named(ibug):
    (ibug / "afw/a.jpg").unlink()
    with pytest.raises(DataError, match=r"afw/a\.pts: the photo .*afw/a\.jpg is missing"):
        read_300w(ibug)
    (ibug / "afw/a.jpg").write_text("no image")
    with pytest.raises(ImageError, match="a.jpg"):
        read_300w(ibug)
    (ibug / "afw/a.jpg").unlink()
    (ibug / "afw/a.pts").unlink()
    with pytest.raises(DataError, match="afw: expected .pts files"):
        read_300w(ibug)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("version: 1", "verse: 1"), "line 1: expected 'version: 1', got 'verse: 1'"),
        (lambda t: t.replace("points:  68", "points: 67"), "line 2: expected 'n_points: 68', got 'n_points: 67'"),
        (lambda t: t.replace("{\n", ""), "line 3: expected '{'"),
        (lambda t: t.replace("{\n", "{\n1 2\n"), "expected 68 points between '{' and '}', got 69"),
        (lambda t: t.replace("}", ""), "ends without '}'"),
        (lambda t: "", "ends without '}'"),
        (lambda t: t.replace("20.0 10.0", "20.0 ten"), "line 4: expected 2 numbers, x y of a point; got '20.0 ten'"),
        (lambda t: t.replace("20.0 10.0", "20.0 nan"), "line 4: expected 2 numbers"),
        (lambda t: t.replace("20.0 10.0", "20.0"), "line 4: expected 2 numbers"),
    ],
)
def test_a_wrong_pts_file_is_named_with_its_line(tmp_path, change, message):
    path = tmp_path / "a.pts"
    write_pts(path, grid(68))
    assert read_pts(path).tolist() == grid(68).tolist()
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError) as error:
        read_pts(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


# WFLW ----------------------------------------------------------------------------------------------------------------


def wflw_line(points, rect=(18, 8, 50, 40), attributes=(0, 1, 0, 0, 1, 0), name="0--Parade/a.jpg"):
    return " ".join([*(f"{value:.6f}" for value in np.ravel(points)), *map(str, rect), *map(str, attributes), name])


@pytest.fixture
def wflw(tmp_path):
    root = tmp_path / "WFLW"
    photo(root / "WFLW_images/0--Parade/a.jpg")
    photo(root / "WFLW_images/1--X/b.jpg")
    folder = root / "WFLW_annotations/list_98pt_rect_attr_train_test"
    folder.mkdir(parents=True)
    lines = [wflw_line(grid(98)), wflw_line(grid(98, 30), name="1--X/b.jpg", attributes=(1, 0, 0, 0, 0, 1))]
    lines.append(wflw_line(grid(98, 5), (4, 9, 30, 31), (1, 0, 0, 0, 0, 0)))
    (folder / "list_98pt_rect_attr_test.txt").write_text("\n".join(lines) + "\n")
    (folder / "list_98pt_rect_attr_train.txt").write_text(lines[1] + "\n")
    return root


def wflw_list(root, split="test"):
    return root / f"WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{split}.txt"


def test_wflw_gathers_the_lines_of_a_photo_and_counts_pixels_from_zero(wflw, tmp_path):
    samples = read_wflw(wflw, "test")
    assert [s.name for s in samples] == ["WFLW_images/0--Parade/a.jpg", "WFLW_images/1--X/b.jpg"]
    assert [len(s.faces) for s in samples] == [2, 1]
    assert samples[0].faces.landmarks[:, 0].tolist() == [[20.5, 10.5], [5.5, 10.5]]
    assert samples[0].faces.boxes[1].tolist() == [4.5, 9.5, 30.5, 31.5]
    expected = {"pose": 0, "expression": 1, "illumination": 0, "makeup": 0, "occlusion": 1, "blur": 0}
    assert samples[0].faces.attributes[0] == expected
    check_labels(samples[1], "98", [30.5, 10.5], [18.5, 8.5, 50.5, 40.5])
    written_and_read_back(samples, wflw, tmp_path)
    assert len(read_wflw(wflw, "train")) == 1


def test_each_attribute_of_wflw_has_its_own_column(wflw):
    for column, name in enumerate(("pose", "expression", "illumination", "makeup", "occlusion", "blur")):
        wflw_list(wflw).write_text(wflw_line(grid(98), attributes=np.eye(6, dtype=int)[column]))
        (sample,) = read_wflw(wflw, "test")
        assert [key for key, value in sample.faces.attributes[0].items() if value] == [name]


def test_a_subset_of_wflw_holds_the_faces_with_the_attribute_only(wflw):
    samples = read_wflw(wflw, "test")
    pose = wflw_subset(samples, "pose")
    assert [(s.name[-5:], len(s.faces)) for s in pose] == [("a.jpg", 1), ("b.jpg", 1)]
    assert pose[0].faces.landmarks[0, 0].tolist() == [5.5, 10.5]
    assert [s.name[-5:] for s in wflw_subset(samples, "blur")] == ["b.jpg"]
    assert wflw_subset(samples, "makeup") == []
    with pytest.raises(DataError, match="attribute must be one of pose, .*, got 'largepose'"):
        wflw_subset(samples, "largepose")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (wflw_line(grid(97)), "line 4: expected 206 numbers (98 points, rectangle, six attributes) and the name"),
        (wflw_line(grid(98)).rsplit(" ", 1)[0], "got 206 words"),
        (wflw_line(grid(98)).replace("20.000000", "x", 1), "line 4: expected 206 numbers"),
        (wflw_line(grid(98), rect=(50, 8, 18, 40)), "line 4: expected a rectangle x1 y1 x2 y2"),
        (wflw_line(grid(98), attributes=(0, 2, 0, 0, 0, 0)), "line 4: expected six attributes of 0 or 1, got 0 2 0"),
        (wflw_line(grid(98), name="2--Y/c.jpg"), "line 4: the photo"),
    ],
)
def test_a_wrong_line_of_wflw_is_named(wflw, line, message):
    path = wflw_list(wflw)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError) as error:
        read_wflw(wflw, "test")
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_missing_files_of_wflw_are_errors_and_missing_photos_a_part(wflw):
    (wflw / "WFLW_images/1--X/b.jpg").unlink()
    with pytest.raises(DataError, match=r"test.txt, line 2: the photo .*b\.jpg is missing"):
        read_wflw(wflw, "test")
    assert [s.name[-5:] for s in read_wflw(wflw, "test", partial=True)] == ["a.jpg"]
    with pytest.raises(DataError, match="none of the 1 photos"):
        read_wflw(wflw, "train", partial=True)
    wflw_list(wflw).unlink()
    with pytest.raises(DataError, match="test.txt: cannot read the annotation file"):
        read_wflw(wflw, "test")


# AFLW ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def aflw_mat(cells):
    """The variables of AFLWinfo_release.mat for four faces on three photos."""
    points = [grid(19, x, 12) for x in (10, 20, 30, 40)]
    mask = np.ones((4, 19), np.uint8)
    mask[1, 3] = 0
    return {
        "nameList": cells([np.array([name]) for name in ("0/a.jpg", "2/b.jpg", "0/a.jpg", "3/c.jpg")]),
        "bbox": np.array([[8, 28, 10, 30], [18, 58, 10, 50], [28, 38, 10, 50], [38, 58, 10, 30]], np.float64),
        "data": np.array([p.T.ravel() for p in points]),
        "mask_new": mask,
        "ra": np.array([[3, 4, 2, 1]], np.float64),
    }


@pytest.fixture
def save_aflw(tmp_path, aflw_mat, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    monkeypatch.setitem(aflw.NUM_FACES, "train", 2)
    for name in ("0/a.jpg", "2/b.jpg", "3/c.jpg"):
        photo(tmp_path / "AFLW/data/flickr" / name)

    def save(**changes):
        mat = {key: value for key, value in {**aflw_mat, **changes}.items() if value is not None}
        scipy_io.savemat(tmp_path / "AFLW/AFLWinfo_release.mat", mat)
        return tmp_path / "AFLW"

    return save


def test_aflw_follows_the_protocols_order_and_counts_pixels_from_one(save_aflw, tmp_path):
    root = save_aflw()
    train, test, frontal = (read_aflw(root, split) for split in ("train", "test", "frontal"))
    assert [s.name for s in train] == ["data/flickr/0/a.jpg", "data/flickr/3/c.jpg"]  # faces 3 and 4
    assert [s.name for s in test] == ["data/flickr/2/b.jpg", "data/flickr/0/a.jpg"]  # faces 2 and 1
    assert [s.name for s in frontal] == ["data/flickr/0/a.jpg"]
    check_labels(train[0], "19", [29.5, 11.5], [27.5, 9.5, 37.5, 49.5])
    assert train[0].faces.landmarks[0, 18].tolist() == [45.5, 13.5]
    assert train[0].faces.attributes[0] == {"visible": [True] * 19, "face_size": 20.0}
    hidden = test[0].faces
    assert hidden.attributes[0]["visible"].index(False) == 3 and np.isfinite(hidden.landmarks).all()
    written_and_read_back(test, root, tmp_path)


def test_frontal_faces_of_the_test_split_of_aflw_are_those_of_the_split_frontal(save_aflw):
    test, frontal = (read_aflw(save_aflw(), split) for split in ("test", "frontal"))
    assert [s.name for s in test if frontal_faces(s.faces).all()] == [s.name for s in frontal]
    bare = test[0].faces.with_(attributes=[{"blur": 1}])
    with pytest.raises(DataError, match=r'face 0 of 1: expected the attribute "visible" .*, got \[\'blur\'\]'):
        frontal_faces(bare)


def test_faces_of_aflw_on_one_photo_come_together(save_aflw):
    samples = read_aflw(save_aflw(ra=np.array([[3, 1, 2, 4]])), "train")
    assert len(samples) == 1 and samples[0].faces.landmarks[:, 0, 0].tolist() == [29.5, 9.5]


def test_a_wrong_file_of_aflw_is_named(save_aflw, aflw_mat):
    for changes, message in (
        ({"data": aflw_mat["data"][:, :36]}, r"expected data of shape \(4, 38\), got \(4, 36\)"),
        ({"mask_new": None}, "the variables mask_new are missing"),
        ({"ra": np.array([[0, 1, 2, 3]])}, "expected ra to hold the numbers 1 to 4"),
        ({"bbox": aflw_mat["bbox"][:, [0, 2, 1, 3]]}, r"face 2: expected finite points and a box left < right"),
        ({"data": np.where(aflw_mat["data"] == 40, np.nan, aflw_mat["data"])}, "face 3: expected finite points"),
    ):
        root = save_aflw(**changes)
        with pytest.raises(DataError, match=f"AFLWinfo_release.mat.*{message}"):
            read_aflw(root)
    (root / "AFLWinfo_release.mat").write_text("no matlab file, but text that is long enough to have a header" * 9)
    with pytest.raises(DataError, match="not a MATLAB file of version 5"):
        read_aflw(root)
    (root / "AFLWinfo_release.mat").unlink()
    with pytest.raises(DataError, match="cannot read the annotation file"):
        read_aflw(root)


def test_missing_photos_of_aflw_are_named_unless_a_part_is_wanted(save_aflw):
    root = save_aflw()
    (root / "data/flickr/3/c.jpg").unlink()
    with pytest.raises(DataError, match=r"face 4: the photo .*3/c\.jpg is missing"):
        read_aflw(root, "train")
    assert [s.name[-5:] for s in read_aflw(root, "train", partial=True)] == ["a.jpg"]
    (root / "data/flickr").rename(root / "elsewhere")
    with pytest.raises(DataError, match="expected one of the folders data/flickr, flickr, images"):
        read_aflw(root)
    with pytest.raises(DataError, match="split must be one of train, test, frontal"):
        read_aflw(root, "full")


# COFW ----------------------------------------------------------------------------------------------------------------


class FakeH5py:
    """As much of h5py as the reader uses, on files that are .npz inside: for where h5py is not installed."""

    class File(dict):
        def __init__(self, path, mode):
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    super().__init__({key: SimpleNamespace(array=arrays[key]) for key in arrays})
            except ValueError as error:
                raise OSError("file signature not found") from error

        def __getitem__(self, key):
            return {(): super().__getitem__(str(key)).array}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass


def write_hdf5(path, h5py, photos, points, boxes, keys):
    """A COFW file: h5py's when it is there, else what `FakeH5py` reads."""
    if h5py is None:
        refs = [f"photo{i}" for i in range(len(photos))]
        arrays = dict(zip(refs, photos, strict=True))
        with path.open("wb") as file:
            np.savez(file, **arrays, **dict(zip(keys, (np.array([refs]), points, boxes), strict=True)))
        return
    with h5py.File(path, "w") as file:
        refs = [file.create_dataset(f"#refs#/{i}", data=image).ref for i, image in enumerate(photos)]
        cell = file.create_dataset(keys[0], (1, len(refs)), dtype=h5py.ref_dtype)
        for i, ref in enumerate(refs):
            cell[0, i] = ref
        file[keys[1]], file[keys[2]] = points, boxes


@pytest.fixture(params=["fake", "h5py"])
def save_cofw(request, tmp_path, monkeypatch, rng):
    h5py = pytest.importorskip("h5py") if request.param == "h5py" else None
    if h5py is None:
        monkeypatch.setattr(cofw, "import_optional", lambda *_: FakeH5py)
    color = rng.integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8)
    grey = rng.integers(0, 255, SIZE_HW, dtype=np.uint8)

    def save(split="train", photos=(color.T, grey.T), keys=("IsTr", "phisTr", "bboxesTr"), **changes):
        occluded = np.arange(29) % 2
        column = np.concatenate([grid(29).T.ravel(), occluded])
        arrays = {
            "points": np.stack([column, column + 1], axis=1)[:, : len(photos)],
            "boxes": np.array([[18, 19], [8, 9], [30, 31], [32, 33]])[:, : len(photos)],
            **changes,
        }
        write_hdf5(tmp_path / f"COFW_{split}_color.mat", h5py, photos, **arrays, keys=keys)
        return SimpleNamespace(root=tmp_path, color=color, grey=grey)

    return save


def test_cofw_is_unpacked_into_photos_with_29_points(save_cofw, tmp_path):
    made = save_cofw()
    samples = unpack_cofw(made.root, "train", tmp_path / "images")
    assert [s.name for s in samples] == ["cofw_train/000001.png", "cofw_train/000002.png"]
    assert np.array_equal(load_image(samples[0].image_path), made.color)
    assert np.array_equal(load_image(samples[1].image_path), np.repeat(made.grey[:, :, None], 3, axis=2))
    check_labels(samples[0], "29", [19.5, 9.5], [17.5, 7.5, 47.5, 39.5])
    assert samples[0].faces.landmarks[0, 28].tolist() == [35.5, 13.5]
    assert samples[0].faces.attributes[0]["occluded"][:3] == [False, True, False]
    assert samples[1].faces.boxes[0].tolist() == [18.5, 8.5, 49.5, 41.5]
    written_and_read_back(samples, tmp_path / "images", tmp_path)


def test_the_test_file_of_cofw_names_its_variables_otherwise(save_cofw):
    made = save_cofw("test", keys=("IsT", "phisT", "bboxesT"))
    assert len(list(read_cofw(made.root, "test"))) == 2
    made = save_cofw("test")
    with pytest.raises(DataError, match="the variables IsT, phisT, bboxesT are missing"):
        list(read_cofw(made.root, "test"))


def test_a_wrong_file_of_cofw_is_named(save_cofw):
    wide = np.zeros((2, *SIZE_HW), np.uint8)
    for changes, message in (
        ({"points": np.zeros((86, 2))}, r"expected phisTr of shape \(87, 2\), got \(86, 2\)"),
        ({"boxes": np.zeros((2, 4))}, r"expected bboxesTr of shape \(4, 2\), got \(2, 4\)"),
        ({"boxes": np.zeros((4, 2))}, "photo 1: expected finite points and a box"),
        ({"points": np.full((87, 2), np.nan)}, "photo 1: expected finite points"),
        ({"photos": (wide, wide)}, r"photo 1: expected pixels of shape \(W, H\) or \(3, W, H\)"),
        ({"photos": (np.zeros(SIZE_HW),) * 2}, r"photo 1: expected pixels .* float64"),
    ):
        made = save_cofw(**changes)
        with pytest.raises(DataError, match=f"COFW_train_color.mat.*{message}"):
            list(read_cofw(made.root))
    (made.root / "COFW_train_color.mat").write_text("text")
    with pytest.raises(DataError, match="not a MATLAB file of version 7.3"):
        list(read_cofw(made.root))
    with pytest.raises(DataError, match="COFW_test_color.mat: no such file"):
        list(read_cofw(made.root, "test"))
    with pytest.raises(DataError, match="split must be one of train, test"):
        list(read_cofw(made.root, "val"))


def test_without_h5py_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"gluonface\[cofw\]"):
        list(read_cofw(tmp_path))


# JD-landmark ---------------------------------------------------------------------------------------------------------


def jd_face(part, name, rects="18 8 48 40\n", value=90, points=None):
    photo(part / "picture" / name, value)
    points = grid(106) if points is None else points
    (part / "landmark").mkdir(exist_ok=True)
    (part / "landmark" / f"{name}.txt").write_text("106\n" + "".join(f"{x} {y}\n" for x, y in points))
    if rects is not None:
        (part / "rect").mkdir(exist_ok=True)
        (part / "rect" / f"{name}.rect").write_text(rects)


def test_jd_landmark_is_read_by_folder_and_counts_pixels_from_zero(tmp_path):
    root = tmp_path / "JD"
    jd_face(root / "Training_data/AFW", "AFW_1_0.jpg")
    jd_face(root / "Training_data/LFPW", "LFPW_1_0.jpg", "0 0 9 9\n30 20 50 42\n60 40 79 59\n")
    jd_face(root / "Test_data1", "t.jpg")
    samples = read_jd106(root / "Training_data", root)
    names = ["Training_data/AFW/picture/AFW_1_0.jpg", "Training_data/LFPW/picture/LFPW_1_0.jpg"]
    assert [s.name for s in samples] == names
    check_labels(samples[0], "106", [20.5, 10.5], [18.5, 8.5, 48.5, 40.5])
    assert samples[1].faces.boxes[0].tolist() == [30.5, 20.5, 50.5, 42.5]
    assert [s.name for s in read_jd106(root / "Test_data1")] == ["picture/t.jpg"]
    written_and_read_back(samples, root, tmp_path)


def test_without_rectangles_the_box_of_jd_landmark_is_that_of_the_points(tmp_path):
    jd_face(tmp_path / "data", "a.jpg", rects=None)
    (sample,) = read_jd106(tmp_path / "data")
    check_labels(sample, "106", [20.5, 10.5], [20.5, 10.5, 38.5, 30.5])
    assert sample.faces.box_from == ["landmarks"]
    (tmp_path / "bbox").mkdir()
    (tmp_path / "bbox/a.jpg.rect").write_text("1 2 30 40")
    (sample,) = read_jd106(tmp_path / "data")
    assert sample.faces.boxes[0].tolist() == [1.5, 2.5, 30.5, 40.5] and sample.faces.box_from == [""]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("landmark/a.jpg.txt", "105\n1 2\n", "line 1: expected the number of points, 106, got '105'"),
        ("landmark/a.jpg.txt", "", "line 1: expected the number of points, 106, got 'an empty file'"),
        ("landmark/a.jpg.txt", "106\n" + "1 2\n" * 105, "expected 106 lines of points, got 105"),
        ("landmark/a.jpg.txt", "106\n" + "1 2\n" * 105 + "1 2 3\n", "line 107: expected 2 numbers"),
        ("rect/a.jpg.rect", "1 2 3\n", "line 1: expected 4 numbers, x1 y1 x2 y2 of a face; got '1 2 3'"),
        ("rect/a.jpg.rect", "9 2 3 8\n", "line 1: expected x1 y1 x2 y2 with x1 < x2"),
        ("rect/a.jpg.rect", "\n", "expected a line x1 y1 x2 y2, found an empty file"),
    ],
)
def test_a_wrong_file_of_jd_landmark_is_named_with_its_line(tmp_path, file, text, message):
    jd_face(tmp_path, "a.jpg")
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError) as error:
        read_jd106(tmp_path)
    assert str(error.value).startswith(str(tmp_path / file)) and message in str(error.value)


def test_missing_files_of_jd_landmark_are_named(tmp_path):
    jd_face(tmp_path, "a.jpg")
    photo(tmp_path / "picture/b.jpg")
    with pytest.raises(DataError, match=r"picture/b\.jpg: expected .*landmark/b\.jpg\.txt beside it"):
        read_jd106(tmp_path)
    (tmp_path / "picture/b.jpg").unlink()
    (tmp_path / "rect/a.jpg.rect").unlink()
    with pytest.raises(DataError, match=r"rect/a\.jpg\.rect: cannot read"):
        read_jd106(tmp_path)
    (tmp_path / "picture/a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg\.txt: the photo .*picture/a\.jpg is missing"):
        read_jd106(tmp_path)
    (tmp_path / "landmark/a.jpg.txt").unlink()
    with pytest.raises(DataError, match="landmark: expected files NAME.jpg.txt, found none"):
        read_jd106(tmp_path)
    with pytest.raises(DataError, match="nothing: no such folder"):
        read_jd106(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no picture"):
        read_jd106(tmp_path / "empty")
    with pytest.raises(DataError, match="expected a folder within"):
        read_jd106(tmp_path, tmp_path / "empty")


def test_the_centre_most_face_is_the_one_nearest_to_the_middle_of_the_photo():
    boxes = [[0, 0, 100, 100], [90, 30, 110, 60], [150, 0, 190, 90]]
    assert centre_most(boxes, (100, 200)) == 1
    assert centre_most(boxes, (100, 100)) == 0
    assert centre_most(boxes, (100, 400)) == 2
    assert centre_most([boxes[2], boxes[1], boxes[1]], (100, 200)) == 1
    with pytest.raises(InputError, match="M at least 1"):
        centre_most(np.zeros((0, 4)), (100, 200))


def test_photos_of_the_test_set_leave_the_training_set_by_name_and_by_content(tmp_path):
    train, test = tmp_path / "train", tmp_path / "test"
    jd_face(train, "same_name.jpg", value=10)
    jd_face(train, "renamed.jpg", value=20)
    jd_face(train, "own.jpg", value=30)
    jd_face(test, "same_name.png", value=40)
    jd_face(test, "copy.jpg", value=20)
    # a flat photo of another brightness may have as many bytes: length alone must not remove
    own, copy = train / "picture/own.jpg", test / "picture/copy.jpg"
    pad = max(own.stat().st_size, copy.stat().st_size)
    for path in (own, copy, train / "picture/renamed.jpg"):
        path.write_bytes(path.read_bytes().ljust(pad, b"\0"))
    kept, removed = without_photos_of(read_jd106(train), read_jd106(test))
    assert [s.name for s in kept] == ["picture/own.jpg"]
    assert [s.name for s in removed] == ["picture/renamed.jpg", "picture/same_name.jpg"]
    assert without_photos_of(kept, []) == (kept, [])
    own.unlink()
    with pytest.raises(DataError, match="own.jpg: cannot read the photo"):
        without_photos_of(kept, read_jd106(test))


# COCO form -----------------------------------------------------------------------------------------------------------


def coco(**face):
    keypoints = [[x, y, 1] for x, y in grid(19).tolist()]
    keypoints[3] = [0, 0, 0]
    keypoints[4][2] = 2
    annotation = {"id": 7, "image_id": 5, "bbox": [18, 8, 30, 32], "keypoints": np.ravel(keypoints).tolist(), **face}
    images = [{"id": 5, "file_name": "a.jpg", "width": SIZE_HW[1], "height": SIZE_HW[0]}]
    images.append({"id": 6, "file_name": "none.jpg", "width": SIZE_HW[1], "height": SIZE_HW[0]})
    return {"images": images, "annotations": [annotation]}


@pytest.fixture
def save_coco(tmp_path):
    for name in ("a.jpg", "none.jpg"):
        photo(tmp_path / name)

    def save(tree):
        path = tmp_path / "faces.json"
        path.write_text(json.dumps(tree))
        return path

    return save


def test_keypoints_of_coco_count_from_zero_and_its_boxes_from_the_corner(save_coco):
    a, none = read_coco_landmarks(save_coco(coco(box_size=25)))
    faces = a.faces
    assert faces.scheme == "19" and faces.landmarks[0, 0].tolist() == [20.5, 10.5]
    assert faces.boxes.tolist() == [[18, 8, 48, 40]]
    assert np.isnan(faces.landmarks[0, 3]).all() and np.isfinite(faces.landmarks[0]).sum() == 36
    assert faces.attributes[0] == {"face_size": 25.0, "visible": [i == 4 for i in range(19)]}
    assert len(none.faces) == 0 and none.size_hw == SIZE_HW


def test_a_crowd_or_a_face_without_points_is_an_ignore_region(save_coco):
    assert read_coco_landmarks(save_coco(coco(iscrowd=1)))[0].faces.ignore.tolist() == [True]
    assert read_coco_landmarks(save_coco(coco(keypoints=[0] * 57)))[0].faces.ignore.tolist() == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"keypoints": [1.0] * 60},
            "annotation 0: expected keypoints as x, y, v of 19, 29, 68, 98, 106 points, got 60",
        ),
        ({"keypoints": None}, "got None numbers"),
        ({"keypoints": ["x"] * 57}, "annotation 0: expected 57 numbers"),
        ({"keypoints": [1.0, 1.0, 3.0] * 19}, "must be 0, 1 or 2, got [3.0]"),
        ({"bbox": [1, 2, 3]}, "annotation 0: expected 4 numbers, bbox as x, y, width, height"),
        ({"bbox": None}, "annotation 0: expected 4 numbers"),
        ({"bbox": [1, 2, 0, 4]}, "bbox must have a positive width and height"),
        ({"box_size": "big"}, "annotation 0: expected 1 numbers, box_size"),
        ({"image_id": 99}, "annotation 0: image_id 99 is none of the images"),
    ],
)
def test_a_wrong_annotation_of_coco_form_is_named(save_coco, change, message):
    path = save_coco(coco(**change))
    with pytest.raises(DataError) as error:
        read_coco_landmarks(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_a_file_of_another_form_or_another_photo_is_refused(save_coco, tmp_path):
    tree = coco()
    for wrong, message in (
        ([], "expected an object with the lists images and annotations"),
        ({**tree, "images": [{"id": 5}]}, "image 0: expected an object with file_name, width, height"),
        ({**tree, "annotations": [3]}, "annotation 0: expected an object, got 3"),
        ({**tree, "images": [{**tree["images"][0], "width": 81}]}, "a.jpg should have 81 x 60 pixels, .* has 80 x 60"),
        ({**tree, "images": [{**tree["images"][0], "file_name": "gone.jpg"}]}, "the photo .*gone.jpg is missing"),
    ):
        path = save_coco(wrong)
        with pytest.raises(DataError, match=message):
            read_coco_landmarks(path)
    (tmp_path / "faces.json").write_text("{")
    with pytest.raises(DataError, match="not a JSON file"):
        read_coco_landmarks(tmp_path / "faces.json")
    with pytest.raises(DataError, match="cannot read"):
        read_coco_landmarks(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("name", "scheme", "faces"),
    [("300w", "68", 2), ("wflw", "98", 4), ("aflw", "19", 2), ("cofw", "29", 2), ("lapa", "106", 2)],
)
def test_the_sample_of_each_set_is_read_and_its_faces_are_mirror_images_of_themselves(facedata, name, scheme, faces):
    samples = read_coco_landmarks(facedata / f"samples/{name}/test_{name}.json")
    assert len(samples) == 2 and sum(len(s.faces) for s in samples) == faces
    for sample in samples:
        height, width = sample.size_hw
        assert load_image(sample.image_path).shape == (height, width, 3) and sample.faces.scheme == scheme
        for points, size in zip(sample.faces.landmarks, sample.faces.face_sizes, strict=True):
            assert (points >= 0).all() and (points <= (width, height)).all()
            assert mirror_error(points, width, SCHEMES[scheme].flip_index) < 0.12 * size
            assert mirror_error(points, width, np.arange(len(points))) > 0.12 * size


def mirror_error(points, width, flip_index):
    """How far mirrored points lie from the points, after the best turn, shift and scaling: mean distance in pixels."""
    mirrored = flip_points(points, width, flip_index)
    moved = warp_points(similarity_transform(mirrored, points), mirrored)
    return float(np.mean([math.dist(a, b) for a, b in zip(moved, points, strict=True)]))
