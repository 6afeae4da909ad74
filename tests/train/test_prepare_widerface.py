import numpy as np
import pytest

from gluonface.data.facejsonl import FaceJsonLines
from gluonface.image import save_image

LISTS = {
    "train": "0--Parade/a.jpg\n2\n10 20 30 40 2 1 0 0 1 0 \n50 60 8 9 0 0 1 1 0 1 \n"
    "0--Parade/none.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n",
    "val": "1--Handshaking/b.jpg\n1\n4 90 30 40 0 0 0 0 0 0 \n",
}
LABELS = "# 0--Parade/a.jpg\n10 20 30 40 15 30 0 32 31 0 24 40 0 18 50 0 30 51 0 0.82\n"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("prepare_widerface")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "W" / "wider_face_split").mkdir(parents=True)
    for split, text in LISTS.items():
        (tmp_path / "W" / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").write_text(text)
        for name in (line for line in text.splitlines() if line.endswith(".jpg")):
            path = tmp_path / "W" / f"WIDER_{split}" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, np.zeros((110, 120, 3), np.uint8))
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "label.txt").write_text(LABELS)
    return tmp_path / "W"


def run(script, root, *arguments) -> int:
    return script.main([str(root), "--out", str(root.parent / "out"), *map(str, arguments)])


def test_a_complete_download_becomes_two_annotation_files(script, root, monkeypatch, capsys):
    monkeypatch.setattr(script, "NUM_PHOTOS", {"train": 2, "val": 1})
    assert run(script, root, "--labels", root.parent / "labels", "--decode") == 0
    assert "2 photos, 1 faces, 1 with five points, 1 ignored" in capsys.readouterr().out
    train = FaceJsonLines(root.parent / "out" / "widerface_train.jsonl", images=root)
    image, labels = train[0]
    assert image.shape == (110, 120, 3) and labels.landmarks5[0, 2].tolist() == [24, 40]
    assert labels.ignore.tolist() == [False, True] and labels.attributes[0]["occlusion"] == 1
    assert len(train[1][1]) == 0
    val = FaceJsonLines(root.parent / "out" / "widerface_val.jsonl", images=root)
    assert val[0][1].boxes.tolist() == [[4, 90, 34, 110]]


def test_validation_photos_have_five_points_where_their_list_has_them(script, root, monkeypatch, capsys):
    monkeypatch.setattr(script, "NUM_PHOTOS", {"train": 2, "val": 1})
    labels = root.parent / "labels"
    (labels / "val").mkdir()
    out = root.parent / "out" / "widerface_val.jsonl"
    for points, known in (("", 0), (" 12 95 0 28 95 0 20 100 0 14 105 0 26 105 0 0.5", 1)):
        (labels / "val" / "label.txt").write_text(f"# 1--Handshaking/b.jpg\n4 90 30 40{points}\n")
        assert run(script, root, "--labels", labels) == 0
        assert f"1 photos, 1 faces, {known} with five points" in capsys.readouterr().out
        (_, faces) = FaceJsonLines(out, images=root)[0]
        assert faces.landmarks5_human.tolist() == [bool(known)]
    with pytest.raises(SystemExit):
        script.parse_args(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "perhaps val/label.txt (boxes alone as published: five-point figures on the validation photos need" in words


def test_everything_that_is_missing_is_listed_and_nothing_is_written(script, root, monkeypatch, capsys):
    monkeypatch.setattr(script, "NUM_PHOTOS", {"train": 2, "val": 1})
    (root / "WIDER_train/images/0--Parade/none.jpg").unlink()
    (root / "WIDER_train/images/0--Parade/a.jpg").write_bytes(b"")
    (root / "wider_face_split/wider_face_val_bbx_gt.txt").unlink()
    assert run(script, root) == 1
    errors = capsys.readouterr().err
    for text in ("none.jpg: no such file", "a.jpg: is not an image", "val_bbx_gt.txt: cannot read", "3 problems"):
        assert text in errors
    assert not (root.parent / "out").exists()


def test_a_list_of_the_wrong_length_is_refused_unless_a_part_is_wanted(script, root, capsys):
    assert run(script, root) == 1
    errors = capsys.readouterr().err
    assert "lists 2 photos, the official list has 12,880" in errors and "lists 1 photos" in errors
    (root / "WIDER_train/images/0--Parade/none.jpg").unlink()
    assert run(script, root, "--partial") == 0
    assert len(FaceJsonLines(root.parent / "out" / "widerface_train.jsonl", images=root)) == 1


def test_missing_folders_are_named(script, tmp_path, capsys):
    assert run(script, tmp_path) == 1
    errors = capsys.readouterr().err
    for split in ("train", "val"):
        assert f"WIDER_{split}/images: no such folder; unpack WIDER_{split}.zip into {tmp_path}" in errors
