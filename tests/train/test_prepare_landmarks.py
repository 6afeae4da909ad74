"""The prepare scripts of the landmark sets: from a tiny official layout to files that are read back."""

import ast
from pathlib import Path

import numpy as np
import pytest

from gluonface.data import aflw, cofw, read_jsonl, write_jsonl
from gluonface.data.landmark_sets import labels_of, sample_of
from gluonface.image import load_image, save_image

SETS = ("300w", "wflw", "aflw", "cofw", "jd106")
TRAIN = Path(__file__).parents[2] / "train"


def photo(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.full((60, 80, 3), value, np.uint8))


def numbers(count, start=10):
    return [f"{start + i % 9} {start + i // 9}" for i in range(count)]


def make_300w(root):
    for place in ("afw", "helen/trainset", "lfpw/trainset", "helen/testset", "lfpw/testset", "ibug", "300W/01_Indoor"):
        photo(root / place / "a.jpg")
        text = "\n".join(["version: 1", "n_points: 68", "{", *numbers(68), "}"])
        (root / place / "a.pts").write_text(text)


def make_wflw(root):
    photo(root / "WFLW_images/0--Parade/a.jpg")
    folder = root / "WFLW_annotations/list_98pt_rect_attr_train_test"
    folder.mkdir(parents=True)
    for split, faces in (("train", 1), ("test", 2)):
        lines = [" ".join([*numbers(98), "5 6 40 50", f"{i} 1 1 1 1 1", "0--Parade/a.jpg"]) for i in range(faces)]
        (folder / f"list_98pt_rect_attr_{split}.txt").write_text("\n".join(lines))


def make_jd106(root):
    for place, value in (("Training_data/AFW", 1), ("Training_data/IBUG", 2), ("Test_data1", 2)):
        name = f"{place.replace('/', '_')}.jpg"
        photo(root / place / "picture" / name, value)
        for folder, suffix, lines in (("landmark", "txt", ["106", *numbers(106)]), ("rect", "rect", ["8 8 30 30"])):
            (root / place / folder).mkdir()
            (root / place / folder / f"{name}.{suffix}").write_text("\n".join(lines))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(script, root, out, *arguments) -> int:
    return script.main([str(root), "--out", str(out), *arguments])


def counts(out, images):
    """Split -> faces of each file, read back."""
    files = sorted(out.glob("*.jsonl"))
    return {path.stem: sum(len(s.faces) for s in read_jsonl(path, images=images)) for path in files}


def test_300w_becomes_a_file_for_each_split_with_names_relative_to_the_root(load_script, tmp_path, out, capsys):
    script, root = load_script("prepare_300w"), tmp_path / "300W"
    make_300w(root)
    assert run(script, root, out, "--partial") == 0
    assert f"{out}/300w_train.jsonl: 3 photos, 3 faces" in capsys.readouterr().out
    expected = {"300w_train": 3, "300w_common": 2, "300w_challenging": 1, "300w_full": 3, "300w_test": 1}
    assert counts(out, root) == expected
    (first, *_) = read_jsonl(out / "300w_train.jsonl", images=root)
    assert first.name == "afw/a.jpg" and first.faces.landmarks[0, 0].tolist() == [9.5, 9.5]


def test_another_number_of_faces_than_the_official_is_refused(load_script, tmp_path, out, capsys):
    script, root = load_script("prepare_300w"), tmp_path / "300W"
    make_300w(root)
    assert run(script, root, out) == 1
    errors = capsys.readouterr().err
    assert "train: 3 faces, the official split has 3,148; --partial accepts that" in errors
    assert "02_Outdoor: no such folder; the split test of 300-W needs it" in errors
    assert "5 problems; no annotations were written" in errors and not out.exists()
    assert run(script, root, out, "--splits", "common", "--partial") == 0
    assert counts(out, root) == {"300w_common": 2}


def test_wflw_becomes_two_files_and_on_wish_its_subsets(load_script, tmp_path, out, monkeypatch):
    script, root = load_script("prepare_wflw"), tmp_path / "WFLW"
    make_wflw(root)
    assert run(script, root, out) == 1
    monkeypatch.setattr(script, "NUM_FACES", {"train": 1, "test": 2})
    assert run(script, root, out, "--subsets") == 0
    found = counts(out, root)
    assert found.pop("wflw_test_pose") == 1 and found.pop("wflw_train") == 1
    names = {"wflw_test", *(f"wflw_test_{a}" for a in ("expression", "illumination", "makeup", "occlusion", "blur"))}
    assert found == dict.fromkeys(names, 2)


@pytest.fixture
def make_aflw(cells):
    """A function that lays out an AFLW of one face for each name of a photo, all points but the last face's seen."""
    scipy_io = pytest.importorskip("scipy.io")

    def make(root, *photos):
        for value, name in enumerate(dict.fromkeys(photos)):
            photo(root / "images" / name, 90 + value)
        mask = np.ones((len(photos), 19))
        mask[-1] = 0
        points = np.tile(np.concatenate([np.arange(19) + 10, np.arange(19) + 20]), (len(photos), 1))
        box = np.tile([8.0, 38, 12, 42], (len(photos), 1))
        names = cells([np.array([name]) for name in photos])
        order = np.arange(len(photos))[None] + 1
        mat = {"nameList": names, "bbox": box, "data": points, "mask_new": mask, "ra": order}
        scipy_io.savemat(root / "AFLWinfo_release.mat", mat)

    return make


def test_aflw_becomes_three_files(load_script, tmp_path, out, monkeypatch, make_aflw):
    script, root = load_script("prepare_aflw"), tmp_path / "AFLW"
    make_aflw(root, *["0/a.jpg"] * 3)
    monkeypatch.setitem(aflw.NUM_FACES, "train", 1)
    monkeypatch.setitem(aflw.NUM_FACES, "test", 2)
    assert run(script, root, out) == 0
    assert counts(out, root) == {"aflw_train": 1, "aflw_test": 2, "aflw_frontal": 1}
    (sample,) = read_jsonl(out / "aflw_test.jsonl", images=root)
    assert [face["face_size"] for face in sample.faces.attributes] == [30, 30]


def test_photos_of_another_set_are_left_out_of_the_training_file_of_aflw(
    load_script, tmp_path, out, monkeypatch, make_aflw, capsys
):
    script, root, other = load_script("prepare_aflw"), tmp_path / "AFLW", tmp_path / "AFLW2000"
    make_aflw(root, "0/image1.jpg", "0/image1.jpg", "2/image2.jpg", "0/image1.jpg", "3/image3.jpg")
    monkeypatch.setitem(aflw.NUM_FACES, "train", 3)
    monkeypatch.setitem(aflw.NUM_FACES, "test", 2)
    photo(other / "image1.jpg", 10)  # a crop of the photo
    labels = labels_of("19", np.stack([np.arange(19) + 10, np.arange(19) + 20], axis=1)[None].astype(float))
    write_jsonl(tmp_path / "others.jsonl", [sample_of(other, "image1.jpg", labels, "aflw2000", "face 1")])
    assert run(script, root, out) == 0
    assert counts(out, root) == {"aflw_train": 3, "aflw_test": 2, "aflw_frontal": 1}
    capsys.readouterr()
    words = ("--without", str(tmp_path / "others.jsonl"), "--without-images", str(other))
    assert run(script, root, out, *words) == 0
    assert "1 training photos occur in others.jsonl and were left out" in capsys.readouterr().out
    (kept,) = read_jsonl(out / "aflw_train.jsonl", images=root)
    assert kept.name == "images/2/image2.jpg"
    assert counts(out, root) == {"aflw_train": 1, "aflw_test": 2, "aflw_frontal": 1}


def test_a_training_file_of_aflw_without_photos_is_none(load_script, tmp_path, out, monkeypatch, make_aflw, capsys):
    script, root = load_script("prepare_aflw"), tmp_path / "AFLW"
    make_aflw(root, *["0/a.jpg"] * 3)
    monkeypatch.setitem(aflw.NUM_FACES, "train", 1)
    monkeypatch.setitem(aflw.NUM_FACES, "test", 2)
    assert run(script, root, out) == 0
    test = ("--without", str(out / "aflw_test.jsonl"))
    assert run(script, root, tmp_path / "less", *test, "--without-images", str(root)) == 1
    assert "expected photos for training that are not in" in capsys.readouterr().err
    assert run(script, root, tmp_path / "less", *test) == 1  # photos are not in images/ beside the file
    assert "cannot read the photo" in capsys.readouterr().err and not (tmp_path / "less").exists()
    for words in (("--splits", "test", *test), ("--without-images", str(root))):
        with pytest.raises(SystemExit):
            run(script, root, tmp_path / "less", *words)


def test_cofw_is_written_beside_its_photos(load_script, tmp_path, out, monkeypatch, rng, capsys):
    script = load_script("prepare_cofw")
    image = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    points = np.stack([np.arange(29) + 10.0, np.arange(29) + 20.0], axis=1)
    monkeypatch.setattr(cofw, "read_cofw", lambda root, split: iter([(image, labels_of("29", points[None]))]))
    monkeypatch.setattr(script, "NUM_FACES", {"train": 1, "test": 1})
    assert run(script, tmp_path, out) == 0
    (sample,) = read_jsonl(out / "cofw_train.jsonl")  # the default folder of photos
    assert np.array_equal(load_image(sample.image_path), image)
    monkeypatch.undo()
    assert run(script, tmp_path, tmp_path / "other") == 1
    errors = capsys.readouterr().err
    assert "COFW_train_color.mat: no such file" in errors or "gluonface[cofw]" in errors


def test_test_photos_are_left_out_of_the_training_file_of_jd_landmark(load_script, tmp_path, out, monkeypatch, capsys):
    script, root = load_script("prepare_jd106"), tmp_path / "JD"
    make_jd106(root)
    assert run(script, root, out) == 1
    assert "test: 1 faces, the official split has 2,000" in capsys.readouterr().err
    assert run(script, root, out, "--partial") == 0
    assert "1 training photos occur in Test_data1 and were left out" in capsys.readouterr().out
    (train,) = read_jsonl(out / "jd106_train.jsonl", images=root)
    assert train.name == "Training_data/AFW/picture/Training_data_AFW.jpg"
    assert counts(out, root) == {"jd106_train": 1, "jd106_test": 1}
    assert run(script, root, out, "--partial", "--train", "Training_data/AFW", "Nothing") == 1
    assert "Nothing: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", SETS)
def test_an_empty_folder_is_a_problem_that_is_told_without_a_traceback(load_script, tmp_path, out, capsys, name):
    assert run(load_script(f"prepare_{name}"), tmp_path, out) == 1
    assert "no annotations were written" in capsys.readouterr().err
    assert not list(tmp_path.glob("**/*.jsonl"))


@pytest.mark.parametrize("name", SETS)
def test_the_recipe_stands_on_top_of_the_script(name):
    doc = ast.get_docstring(ast.parse((TRAIN / f"prepare_{name}.py").read_text(encoding="utf-8")))
    assert f"python train/prepare_{name}.py ~/" in doc and "--out data" in doc
