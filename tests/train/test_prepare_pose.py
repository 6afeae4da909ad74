"""The prepare scripts of the head pose sets: from a tiny official layout to files that are read back."""

import ast
from pathlib import Path

import numpy as np
import pytest

from gluonface.data import read_jsonl
from gluonface.image import save_image

SETS = ("aflw2000", "300w_lp", "biwi", "widerpose")
TRAIN = Path(__file__).parents[2] / "train"
FACE = "10 20 40 50 " + "20 30 0.0 " * 5 + "0.8 1 2 3"


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.full((120, 120, 3), 90, np.uint8))


def annotate(path, yaw, **points):
    pose = np.zeros((1, 7))
    pose[0, 1] = np.deg2rad(yaw)
    pytest.importorskip("scipy.io").savemat(path, {"Pose_Para": pose, **points})


def make_aflw2000(root):
    for number, yaw in ((2, 40), (4, -120)):
        photo(root / f"image{number:05d}.jpg")
        points = np.random.default_rng(number).uniform(20, 90, (3, 68))
        annotate(root / f"image{number:05d}.mat", yaw, pt3d_68=points)


def make_300w_lp(root, parts=("AFW", "HELEN", "IBUG", "LFPW")):
    points = np.random.default_rng(1).uniform(20, 90, (2, 68))
    for part in (*parts, *(f"{part}_Flip" for part in parts)):
        photo(root / part / "a.jpg")
        annotate(root / part / "a.mat", 120 if part == "IBUG" else 30, pt2d=points)


def make_biwi(root, sequences=("01", "03", "12")):
    for name in sequences:
        photo(root / name / "frame_00003_rgb.png")
        (root / name / "frame_00003_pose.txt").write_text("1 0 0\n0 1 0\n0 0 1\n\n0 0 900\n")
        text = "517 0 60\n0 517 60\n0 0 1\n\n0 0 0 0\n\n1 0 0\n0 1 0\n0 0 1\n\n0 0 0\n\n120 120\n"
        (root / name / "rgb.cal").write_text(text)


def make_widerpose(root):
    for name in ("a", "b"):
        photo(root / f"WIDER_train/images/0--Parade/{name}.jpg")
    text = f"# 0--Parade/a.jpg\n{FACE}\n10 20 9 9\n# 0--Parade/b.jpg\n{FACE}\n"
    (root / "label.txt").write_text(text)
    (root / "wider_face_split").mkdir()
    text = "0--Parade/a.jpg\n1\n10 20 40 50 0 0 0 1 0 0\n"
    (root / "wider_face_split/wider_face_train_bbx_gt.txt").write_text(text)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(script, root, out, *arguments) -> int:
    return script.main([str(root), "--out", str(out), *map(str, arguments)])


def yaws(out, images):
    """Yaws of each file, read back."""
    files = sorted(out.glob("*.jsonl"))
    return {
        path.stem: [round(float(yaw)) for s in read_jsonl(path, images=images) for yaw in s.faces.pose[:, 0]]
        for path in files
    }


def test_aflw2000_becomes_the_whole_and_the_protocol(load_script, tmp_path, out, capsys, monkeypatch):
    script, root = load_script("prepare_aflw2000"), tmp_path / "AFLW2000"
    make_aflw2000(root)
    assert run(script, root, out) == 1
    errors = capsys.readouterr().err
    assert (
        "all: 2 faces, the official split has 2,000" in errors and "99: 1 faces, the official split has 1,969" in errors
    )
    assert not out.exists()
    monkeypatch.setattr(script, "NUM_FACES", {"all": 2, "99": 1})
    assert run(script, root, out) == 0
    assert f"{out}/aflw2000_99.jsonl: 1 photos, 1 faces" in capsys.readouterr().out
    assert yaws(out, root) == {"aflw2000_99": [40], "aflw2000_all": [40, -120]}


def test_300w_lp_is_written_with_its_flips_or_without(load_script, tmp_path, out, capsys):
    script, root = load_script("prepare_300w_lp"), tmp_path / "300W_LP"
    make_300w_lp(root)
    assert run(script, root, out) == 1
    assert "all: 8 faces, the official split has 122,450" in capsys.readouterr().err
    assert run(script, root, out, "--partial") == 0
    assert yaws(out, root) == {"300w_lp_all": [30, 30, 120, 30, 30, 30, 30, 30]}
    assert run(script, root, out, "--splits", "unflipped", "--max-angle", 99, "--points", "2d") == 0
    assert yaws(out, root)["300w_lp_unflipped"] == [30, 30, 30]


def test_biwi_becomes_all_train_and_test(load_script, tmp_path, out, capsys):
    script, root = load_script("prepare_biwi"), tmp_path / "hpdb"
    make_biwi(root)
    assert run(script, root, out) == 1
    assert "rgb.cal: cannot read the annotation file" in capsys.readouterr().err
    assert run(script, root, out, "--partial", "--head-mm", 90, 90, 90) == 0
    assert yaws(out, root) == {"biwi_all": [0, 0, 0], "biwi_test": [0, 0], "biwi_train": [0]}
    (sample,) = read_jsonl(out / "biwi_train.jsonl", images=root)
    x1, _, x2, _ = sample.faces.boxes[0]
    assert x2 - x1 == pytest.approx(51.7, abs=0.02) and (x1 + x2) / 2 == pytest.approx(60.5, abs=0.01)


def test_wider_face_with_poses_says_how_many_there_are(load_script, tmp_path, out, capsys):
    script, root = load_script("prepare_widerpose"), tmp_path / "WIDER"
    make_widerpose(root)
    labels = ("--labels", root / "label.txt")
    assert run(script, root, out, *labels) == 0
    assert capsys.readouterr().out == f"{out}/widerpose_train.jsonl: 2 photos, 3 faces\n2 of them with a head pose\n"
    first, _ = read_jsonl(out / "widerpose_train.jsonl", images=root)
    assert first.faces.pose[0].tolist() == [2, 1, 3] and np.isnan(first.faces.pose[1]).all()
    assert run(script, root, out, *labels, "--official") == 0
    (only,) = read_jsonl(out / "widerpose_train.jsonl", images=root)
    assert only.faces.ignore.tolist() == [True] and only.faces.pose[0].tolist() == [2, 1, 3]
    (root / "WIDER_train/images/0--Parade/b.jpg").unlink()
    assert run(script, root, tmp_path / "other", *labels) == 1
    assert "b.jpg" in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert run(script, root, out, *labels, "--partial") == 0


@pytest.mark.parametrize("name", SETS)
def test_an_empty_folder_is_a_problem_that_is_told_without_a_traceback(load_script, tmp_path, out, capsys, name):
    (tmp_path / "label.txt").write_text("# a.jpg\n")
    arguments = ["--labels", tmp_path / "label.txt"] if name == "widerpose" else []
    for partial in ([], ["--partial"]):
        assert run(load_script(f"prepare_{name}"), tmp_path, out, *arguments, *partial) == 1
        assert "no annotations were written" in capsys.readouterr().err
    assert not list(tmp_path.glob("**/*.jsonl"))


@pytest.mark.parametrize("name", SETS)
def test_a_failed_write_leaves_the_old_file(load_script, tmp_path, out, monkeypatch, name):
    make = {"aflw2000": make_aflw2000, "300w_lp": make_300w_lp, "biwi": make_biwi, "widerpose": make_widerpose}[name]
    root = tmp_path / "set"
    make(root)
    arguments = ["--partial", *(["--labels", root / "label.txt"] if name == "widerpose" else [])]
    script = load_script(f"prepare_{name}")
    assert run(script, root, out, *arguments) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}

    def fail(*_):
        raise RuntimeError("out of space")

    monkeypatch.setattr("gluonface.files.os.replace", fail)
    with pytest.raises(RuntimeError, match="out of space"):
        run(script, root, out, *arguments)
    assert {path: path.read_bytes() for path in out.iterdir() if path.suffix == ".jsonl"} == before


@pytest.mark.parametrize("name", SETS)
def test_the_recipe_stands_on_top_of_the_script_and_in_its_help(load_script, capsys, name):
    doc = ast.get_docstring(ast.parse((TRAIN / f"prepare_{name}.py").read_text(encoding="utf-8")))
    assert f"python train/prepare_{name}.py ~/" in doc and "--out data" in doc
    with pytest.raises(SystemExit) as stop:
        load_script(f"prepare_{name}").main(["--help"])
    assert stop.value.code == 0 and f"python train/prepare_{name}.py ~/" in capsys.readouterr().out
