"""The command: what it writes where, and what its exit status says."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import gluonface.pipeline
import gluonface.tta
from gluonface import cli
from gluonface.errors import ImageError, ModelNotFoundError, WeightsError
from gluonface.faces import SCHEMES, Faces
from gluonface.geometry import ARCFACE_TEMPLATE_112, five_from_boxes, rotation_matrix_about, warp_points
from gluonface.image import load_image, save_image


class FakeAnalyzer:
    """As many faces in a photo as its height says: one for each 100 rows. Photos are really read."""

    detector_name = "fake_detector"
    net = object()
    points = True
    posed = False
    tilt = 0
    landmarks = None

    def __init__(self, detector=None, **options):
        if detector == "retinafase":
            raise ModelNotFoundError("no model is called 'retinafase'; near: retinaface_mobilenet0.25_fc26")
        if detector == "damaged":
            raise WeightsError("damaged.params: the file is damaged")
        FakeAnalyzer.options = {"detector": detector, **options}

    def stream(self, sources, on_error="raise"):
        assert on_error == "return"
        for source in sources:
            try:
                image = load_image(source, max_pixels=self.options["max_pixels"])
            except ImageError as error:
                yield error
                continue
            n = image.shape[0] // 100
            boxes = np.array([[10, 100 * i + 10, 90, 100 * i + 90] for i in range(n)], np.float32).reshape(n, 4)
            points = warp_points(rotation_matrix_about((50, 50), self.tilt), ARCFACE_TEMPLATE_112 * 0.7 + [10, 10])
            points = points + np.arange(n)[:, None, None] * [0, 100]
            yield Faces(
                boxes,
                np.linspace(0.9, 0.5, n),
                landmarks5=points.reshape(n, 5, 2) if self.points else None,
                pose=np.tile([12.25, -3.5, 0.75], (n, 1)) if self.posed else None,
                size_hw=image.shape[:2],
            )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two folders with a file of the same name in each; the fake detector in place of the real one."""
    monkeypatch.setattr(gluonface.pipeline, "FaceAnalyzer", FakeAnalyzer)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, height in (("one/a.jpg", 100), ("two/a.jpg", 250), ("two/b.png", 50)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_image(tmp_path / name, rng.integers(0, 256, (height, 100, 3), dtype=np.uint8))
    return tmp_path


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# detect


def test_without_output_options_photos_and_faces_are_printed(folder, capsys):
    assert cli.main(["detect", "one", "two"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "one/a.jpg: 1 face (100x100)",
        "  0.900  box 10 10 90 90  80x80  roll +0",
        "two/a.jpg: 2 faces (100x250)",
        "  0.900  box 10 10 90 90  80x80  roll +0",
        "  0.500  box 10 110 90 190  80x80  roll +0",
        "two/b.png: 0 faces (100x50)",
    ]
    assert err == "gluonface: 3 faces in 3 photos (fake_detector)\n"


def test_boxes_are_of_the_style_asked_for_where_the_net_has_them_from_points(folder, monkeypatch, capsys):
    styles = []

    class Net:
        def set_box_style(self, style):
            styles.append(style)

    assert cli.main(["detect", "one", "--box-style", "square"]) == 2
    assert "--box-style goes with a net that has its boxes from points, such as KPNet; fake_detector has boxes of" in (
        capsys.readouterr().err
    )
    assert cli.main(["detect", "one", "--box-style", "square", "--artefact", "net.artefact"]) == 2
    assert "--box-style does not go with --artefact (it is compiled in)" in capsys.readouterr().err
    monkeypatch.setattr(FakeAnalyzer, "net", Net())
    assert cli.main(["detect", "one"]) == 0 and not styles
    assert cli.main(["detect", "one", "--box-style", "square"]) == 0 and styles == ["square"]


def test_quiet_says_nothing(folder, capsys):
    assert cli.main(["detect", "one", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_json_is_one_object_a_line_in_the_order_given(folder, capsys):
    assert cli.main(["detect", "two/*.*", "one/a.jpg", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == ["two/a.jpg", "two/b.png", "one/a.jpg"]
    assert [len(row["faces"]) for row in rows] == [2, 0, 1]
    assert rows[0] == {**rows[0], "width": 100, "height": 250, "model": "fake_detector"}
    assert rows[0]["faces"][0]["box"] == [10, 10, 90, 90]
    assert len(rows[0]["faces"][1]["landmarks5"]) == 5
    assert "3 faces in 3 photos" in err


def test_json_and_csv_files_appear_complete(folder):
    assert cli.main(["detect", "one", "two", "--json", "out.jsonl", "--csv", "out.csv", "--quiet"]) == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 3
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [(row["image"], row["face"]) for row in rows] == [("one/a.jpg", "0"), ("two/a.jpg", "0"), ("two/a.jpg", "1")]
    assert [float(rows[2][key]) for key in ("x1", "y1", "x2", "y2", "score")] == [10, 110, 90, 190, 0.5]
    assert float(rows[0]["left_eye_x"]) == pytest.approx(ARCFACE_TEMPLATE_112[0, 0] * 0.7 + 10)
    assert files(folder) == ["one/a.jpg", "out.csv", "out.jsonl", "two/a.jpg", "two/b.png"]


def test_a_face_without_points_leaves_the_cells_empty(folder, monkeypatch):
    monkeypatch.setattr(FakeAnalyzer, "points", False)
    assert cli.main(["detect", "one", "--csv", "out.csv", "--quiet"]) == 0
    (row,) = csv.DictReader(Path("out.csv").read_text().splitlines())
    assert row["left_eye_x"] == row["right_mouth_corner_y"] == row["yaw"] == row["roll"] == ""


def test_the_roll_of_a_detector_without_pose_is_that_of_its_points(folder, monkeypatch, capsys):
    monkeypatch.setattr(FakeAnalyzer, "tilt", 150)
    assert cli.main(["detect", "one", "--csv", "out.csv", "--quiet"]) == 0
    (row,) = csv.DictReader(Path("out.csv").read_text().splitlines())
    assert float(row["roll"]) == pytest.approx(150, abs=0.5) and row["yaw"] == row["pitch"] == ""
    assert cli.main(["detect", "one"]) == 0
    assert "80x80  roll +150" in capsys.readouterr().out
    monkeypatch.setattr(FakeAnalyzer, "points", False)
    assert cli.main(["detect", "one"]) == 0
    assert "roll" not in capsys.readouterr().out


def test_the_pose_of_a_detector_that_has_it_is_printed_and_written(folder, monkeypatch, capsys):
    monkeypatch.setattr(FakeAnalyzer, "posed", True)
    assert cli.main(["detect", "one", "--csv", "out.csv", "--json", "out.jsonl", "--quiet"]) == 0
    (row,) = csv.DictReader(Path("out.csv").read_text().splitlines())
    assert [float(row[angle]) for angle in ("yaw", "pitch", "roll")] == [12.25, -3.5, 0.75]
    (face,) = json.loads(Path("out.jsonl").read_text())["faces"]
    assert face["pose"] == {"yaw": 12.25, "pitch": -3.5, "roll": 0.75}
    assert cli.main(["detect", "one"]) == 0
    assert "yaw +12 pitch -4 roll +1" in capsys.readouterr().out


def test_photos_are_drawn_into_the_folder_under_names_of_their_own(folder):
    assert cli.main(["detect", "one", "two", "--out", "out"]) == 0
    assert files("out") == ["one/a.jpg", "two/a.jpg", "two/b.png"]
    before, after = (load_image(f"{where}two/a.jpg").astype(int) for where in ("", "out/"))
    assert before.shape == after.shape
    assert np.abs(before - after)[110, 15:85].mean() > 20  # the line of the second box
    assert cli.main(["detect", "two/a.jpg", "--out", "flat", "--quiet"]) == 0
    assert files("flat") == ["a.jpg"]


def test_names_that_differ_in_their_suffix_only_do_not_collide(folder):
    save_image("two/a.png", np.zeros((100, 100, 3), np.uint8))
    save_image("two/a_png.png", np.zeros((100, 100, 3), np.uint8))
    assert cli.main(["detect", "two", "two/../two/a.jpg", "--out", "out", "--crops", "crops", "--quiet"]) == 0
    assert files("out") == ["a_jpg-2.jpg", "a_jpg.jpg", "a_png-2.png", "a_png.png", "b.png"]
    assert len(files("crops")) == 2 + 2 + 1 + 1


def test_a_photo_is_never_overwritten(folder, capsys):
    before = Path("two/a.jpg").read_bytes()
    assert cli.main(["detect", "two", "--out", "two"]) == 2
    assert "would overwrite the photo" in capsys.readouterr().err
    assert Path("two/a.jpg").read_bytes() == before


def test_a_gif_and_a_file_without_suffix_are_drawn_as_png(folder):
    save_image("x.gif", np.zeros((100, 100, 3), np.uint8))
    Path("photo").write_bytes(Path("one/a.jpg").read_bytes())
    assert cli.main(["detect", "x.gif", "photo", "--out", "out", "--quiet"]) == 0
    assert files("out") == ["photo.png", "x.png"]


def test_crops_are_aligned_to_the_template(folder):
    image = np.zeros((100, 100, 3), np.uint8)
    x, y = np.floor(ARCFACE_TEMPLATE_112[2] * 0.7 + 10).astype(int)
    image[y - 1 : y + 2, x - 1 : x + 2] = 255  # the tip of the nose
    save_image("c.png", image)
    assert cli.main(["detect", "c.png", "two", "--crops", "crops", "--quiet"]) == 0
    assert files("crops") == ["c_0.png", "two/a_0.png", "two/a_1.png"]
    crop = load_image("crops/c_0.png")
    assert crop.shape == (112, 112, 3)
    row, column = np.unravel_index(crop[..., 0].argmax(), (112, 112))
    np.testing.assert_allclose([column + 0.5, row + 0.5], ARCFACE_TEMPLATE_112[2], atol=1.5)


def test_a_face_without_points_is_cropped_by_its_box(folder, monkeypatch):
    monkeypatch.setattr(FakeAnalyzer, "points", False)
    image = np.zeros((100, 100, 3), np.uint8)
    image[10:90, 10:90] = 200
    save_image("c.png", image)
    assert cli.main(["detect", "c.png", "--crops", "crops", "--quiet"]) == 0
    crop = load_image("crops/c_0.png")
    assert crop.shape == (112, 112, 3)
    assert (crop[2:-2, 2:-2] == 200).all()


@pytest.fixture
def meshed(monkeypatch):
    """The detector finds a mesh for each face: the canonical face in its box."""
    from gluonface.mesh import topology_468, turn_upright

    plain = FakeAnalyzer.stream

    def stream(self, sources, on_error="raise"):
        mesh = turn_upright(topology_468().canonical)
        mesh = mesh / np.ptp(mesh[:, 0]) * 60
        for faces in plain(self, sources, on_error):
            middles = np.pad((faces.boxes[:, None, :2] + faces.boxes[:, None, 2:]) / 2, ((0, 0), (0, 0), (0, 1)))
            yield dataclasses.replace(faces, mesh=(mesh + middles).astype(np.float32))

    monkeypatch.setattr(FakeAnalyzer, "stream", stream)
    monkeypatch.setattr(FakeAnalyzer, "topology", None, raising=False)


def test_meshes_are_written_face_by_face_and_drawn_as_asked_for(folder, meshed):
    from gluonface import viz
    from gluonface.mesh import read_obj, topology_468

    save_image("c.png", np.full((100, 100, 3), (90, 120, 60), np.uint8))
    for style in viz._MESH_STYLES:
        words = ["--out", style, "--draw-mesh", style, "--meshes", "meshes", "--quiet"]
        assert cli.main(["detect", "c.png", "two", *words]) == 0
    assert files("meshes") == ["c_0.obj", "two/a_0.obj", "two/a_1.obj"]
    mesh = read_obj("meshes/c_0.obj")
    assert len(mesh.vertices) == 468 and len(mesh.triangles) == len(topology_468().triangles)
    # Upright, in the colour of the photo.
    assert mesh.vertices[10, 1] > mesh.vertices[152, 1] and np.ptp(mesh.vertices[:, 0]) == pytest.approx(60, abs=0.1)
    assert abs(mesh.colors.astype(int) - (90, 120, 60)).max() <= 1
    drawn = [load_image(f"{style}/c.png").astype(int) for style in viz._MESH_STYLES]
    assert all(np.abs(a - b).max() > 50 for a, b in itertools.combinations(drawn, 2))


def test_meshes_that_cannot_be_drawn_are_refused(folder, capsys):
    for words, said in (
        (["--draw-mesh", "parts"], "--draw-mesh goes with --out"),
        (["--meshes", "m", "--size", "64,128"], "--draw-mesh and --meshes go with one --size"),
        (["--meshes", "m"], "go with a detector that finds meshes"),
    ):
        assert cli.main(["detect", "two", *words]) == 2
        assert said in capsys.readouterr().err


def test_meshes_of_an_unknown_kind_ask_for_their_topology(folder, meshed, monkeypatch, capsys):
    known = FakeAnalyzer.stream
    half = lambda *args: (dataclasses.replace(f, mesh=f.mesh[:, :234]) for f in known(*args))  # noqa: E731
    monkeypatch.setattr(FakeAnalyzer, "stream", lambda self, sources, on_error="raise": half(self, sources, on_error))
    assert cli.main(["detect", "two", "--meshes", "m"]) == 2
    assert "the meshes found have 234 vertices: say what they are with --topology" in capsys.readouterr().err


def test_a_bad_photo_is_reported_and_skipped(folder, capsys):
    Path("two/broken.jpg").write_bytes(Path("two/a.jpg").read_bytes()[:500])
    assert cli.main(["detect", "two", "missing.jpg", "one", "--json", "-", "--out", "out"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"] for line in out.splitlines()] == ["two/a.jpg", "two/b.png", "one/a.jpg"]
    assert "gluonface: skipped two/broken.jpg: is damaged or truncated" in err
    assert "gluonface: skipped missing.jpg: no such file" in err
    assert "3 faces in 3 photos, 2 skipped" in err
    assert files("out") == ["one/a.jpg", "two/a.jpg", "two/b.png"]


def test_options_reach_the_analyzer(folder):
    from gluonface._compat import mx

    argv = "detect one --model m --landmarks l --size 480x640 --score 0.7 --nms 0.3 --batch 3 --max-faces 2"
    argv += " --max-pixels 9999999 --quiet"
    assert cli.main([*argv.split(), "--root", "weights"]) == 0
    assert FakeAnalyzer.options == {
        "detector": "m",
        "landmarks": "l",
        "topology": None,
        "ctx": mx.cpu(),
        "size": (480, 640),
        "score_thresh": 0.7,
        "nms_thresh": 0.3,
        "max_faces": 2,
        "batch_size": 3,
        "root": Path("weights"),
        "max_pixels": 9_999_999,
    }
    for text, size in (("320", 320), ("stored", None), ("auto", "auto")):
        cli.main(["detect", "one", "--size", text, "--quiet"])
        assert FakeAnalyzer.options["size"] == size


def test_the_topology_of_meshes_is_told_to_the_analyzer_of_either_kind(folder, monkeypatch, capsys):
    from gluonface.deploy import runtime
    from gluonface.mesh import save_topology, topology_468

    save_topology("kind.npz", dataclasses.replace(topology_468(), name="kind"))
    monkeypatch.setattr(runtime, "load", lambda path, **options: FakeAnalyzer(path, max_pixels=10**8, **options))
    for way, detector in (("--model=m", "m"), ("--artefact=net.artefact", Path("net.artefact"))):
        assert cli.main(["detect", "one", way, "--topology", "kind.npz", "--quiet"]) == 0
        assert FakeAnalyzer.options["detector"] == detector and FakeAnalyzer.options["topology"].name == "kind"
    np.savez("kind.npz", matrix=np.eye(3))
    assert cli.main(["detect", "one", "--topology", "kind.npz"]) == 1
    assert "kind.npz: expected a gluonface mesh topology" in capsys.readouterr().err


def test_several_long_sides_are_looked_at_one_after_another(folder, monkeypatch, capsys):
    looked = []

    def detect(analyzer, image, *, long_sides, flip, max_long_side):
        looked.append((image.shape[:2], long_sides, flip, max_long_side))
        return Faces([[1, 2, 30, 40]], [0.75], size_hw=image.shape[:2])

    monkeypatch.setattr(gluonface.tta, "detect_multiscale", detect)
    assert cli.main(["detect", "two", "missing.jpg", "--size", "256,640"]) == 1
    assert FakeAnalyzer.options["size"] == "auto"
    assert looked == [((250, 100), [256, 640], False, None), ((50, 100), [256, 640], False, None)]
    out, err = capsys.readouterr()
    assert out.count("0.750  box 1 2 30 40") == 2 and "skipped missing.jpg: no such file" in err


class DenseAnalyzer(FakeAnalyzer):
    """With dense points: the left eye's lie elsewhere than the detector's."""

    class landmarks:  # noqa: N801
        class facts:  # noqa: N801
            scheme = "19"

    def stream(self, sources, on_error="raise"):
        for faces in super().stream(sources, on_error):
            if isinstance(faces, Faces):
                dense = np.zeros((len(faces), 19, 2), np.float32)
                for k, rows in enumerate(SCHEMES["19"].five):
                    dense[:, list(rows)] = faces.landmarks5[:, k, None] + (k == 0)
                faces = faces.with_(landmarks=dense, scheme="19")
            yield faces


def test_dense_points_get_columns_of_their_own_and_align_the_crops(folder, monkeypatch):
    monkeypatch.setattr(gluonface.pipeline, "FaceAnalyzer", DenseAnalyzer)
    assert (
        cli.main(
            ["detect", "one", "--csv", "t.csv", "--json", "t.json", "--crops", "dense", "--quiet", "--landmarks", "l"]
        )
        == 0
    )
    with Path("t.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row)[9:11] == ["left_eye_x", "left_eye_y"] and list(row)[19:21] == ["p0_x", "p0_y"]
    assert list(row)[-4:] == ["p18_y", "yaw", "pitch", "roll"] and len(row) == 9 + 10 + 38 + 3
    assert float(row["p6_x"]) == pytest.approx(float(row["left_eye_x"]) + 1)
    (face,) = json.loads(Path("t.json").read_text())["faces"]
    assert len(face["landmarks"]) == 19 and len(face["landmarks5"]) == 5
    monkeypatch.setattr(gluonface.pipeline, "FaceAnalyzer", FakeAnalyzer)
    assert cli.main(["detect", "one", "--crops", "five", "--quiet"]) == 0
    assert not np.array_equal(load_image("dense/a_0.png"), load_image("five/a_0.png"))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["detect"], "the following arguments are required"),
        (["detect", "empty"], "no image files"),
        (["detect", "one", "--model", "retinafase"], "near: retinaface_mobilenet0.25_fc26"),
        (["detect", "one", "--size", "big"], "expected a long side"),
        (["detect", "one", "--size", "1x2x3"], "expected a long side"),
        (["detect", "one", "--size", "256,"], "expected a long side"),
        (["detect", "one", "--size", "256,640x480"], "expected a long side"),
        (["frames", "one", "--size", "256,640", "--out", "x"], "several long sides is for photos"),
        (["compile", "m", "--size", "256,640", "--out", "x"], "expected a side"),
        (["detect", "one", "--score", "5"], "expected a number from 0 to 1, got '5'"),
        (["detect", "one", "--score", "nan"], "expected a number from 0 to 1"),
        (["detect", "one", "--batch", "0"], "at least 1"),
        (["detect", "one", "--gpu", "99"], "MXNet sees"),
        (["detect", "one", "--json", "-", "--csv", "-"], "cannot both"),
        (["detekt", "one"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_wrong_command_line_is_exit_status_2(folder, capsys, argv, says):
    Path("empty").mkdir()
    try:
        status = cli.main(argv)
    except SystemExit as exit:  # argparse leaves this way
        status = exit.code
    assert status == 2
    assert says in capsys.readouterr().err


def test_damaged_weights_are_exit_status_1(folder, capsys):
    assert cli.main(["detect", "one", "--model", "damaged", "--json", "out.jsonl"]) == 1
    assert capsys.readouterr().err == "gluonface: error: damaged.params: the file is damaged\n"
    assert not Path("out.jsonl").exists()


def test_an_output_that_cannot_be_written_is_exit_status_1(folder, capsys):
    assert cli.main(["detect", "one", "--json", "no/such/folder/out.jsonl"]) == 1
    assert "gluonface: error: " in capsys.readouterr().err


def test_an_interrupt_is_exit_status_130_and_leaves_no_half_file(folder, monkeypatch, capsys):
    def interrupted(self, sources, on_error):
        yield Faces.empty((100, 100))
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeAnalyzer, "stream", interrupted)
    assert cli.main(["detect", "one", "two", "--json", "out.jsonl"]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert files(folder) == ["one/a.jpg", "two/a.jpg", "two/b.png"]


def test_a_bar_is_drawn_on_a_terminal_only(folder, monkeypatch, capsys):
    assert cli.main(["detect", "one", "two", "--json", "out.jsonl"]) == 0
    assert "photos/s" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["detect", "one", "two", "nothing.jpg", "--json", "out.jsonl"]) == 1
    err = capsys.readouterr().err
    assert "4/4" in err or "3/4" in err
    assert "skipped nothing.jpg: no such file" in err


# frames


class VideoAnalyzer(FakeAnalyzer):
    """A face that walks to the right and turns, ten frames long, and one that stays for two frames only."""

    max_pixels = 10**8

    def stream(self, images):
        for image in images:
            at = VideoAnalyzer.looked
            VideoAnalyzer.looked += 1
            boxes = np.array([[20 + 4 * at, 30, 80 + 4 * at, 100], [200, 120, 260, 190]])[: 2 if at < 2 else 1]
            pose = np.array([[20.0 - 5 * at, 2, 1], [0, 0, 0]])[: len(boxes)]
            if at >= 10:
                boxes, pose = boxes[:0], pose[:0]
            yield Faces(
                boxes.reshape(-1, 4),
                np.full(len(boxes), 0.9),
                landmarks5=five_from_boxes(boxes.reshape(-1, 4)),
                pose=pose.reshape(-1, 3),
                size_hw=image.shape[:2],
            )


@pytest.fixture
def walk(tmp_path, monkeypatch):
    """A video of 30 frames at 10 a second, blurred up to the third and black in the fifth, in the current folder."""
    monkeypatch.setattr(gluonface.pipeline, "FaceAnalyzer", VideoAnalyzer)
    monkeypatch.setattr(VideoAnalyzer, "looked", 0, raising=False)
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter("walk.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    if not writer.isOpened():
        pytest.skip("this OpenCV does not write MJPG")
    picture = np.random.default_rng(0).integers(40, 220, (60, 80, 3), dtype=np.uint8)
    picture = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_CUBIC)
    for t in range(30):
        writer.write(cv2.GaussianBlur(picture, (0, 0), 8) if t < 3 else picture * (t != 4))
    writer.release()
    return tmp_path


def test_the_best_frame_of_each_face_is_written(walk, capsys):
    assert cli.main(["frames", "walk.avi", "--out", "faces"]) == 0
    # The face is frontal in the frame that is black.
    assert files("faces") == ["contact_sheet.jpg", "frames.jsonl", "track-000_frame-000003_yaw+05.jpg"]
    assert load_image("faces/track-000_frame-000003_yaw+05.jpg").shape == (106, 90, 3)
    rows = [json.loads(line) for line in Path("faces/frames.jsonl").read_text().splitlines()]
    assert [(row["track"], row["frames"], row["video"], row["model"]) for row in rows] == [
        (1, 2, "walk.avi", "fake_detector"),
        (0, 10, "walk.avi", "fake_detector"),
    ]
    (best,) = rows[1]["best"]
    assert (best["file"], best["frame"], best["pose"]["yaw"]) == ("track-000_frame-000003_yaw+05.jpg", 3, 5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "gluonface: 1 picture of 1 of 2 faces in 30 frames (fake_detector), in faces",
        "gluonface: not fit, of 12 views: blurred 6",
        "gluonface: left out: 1 face seen in fewer than 3 frames (--min-frames)",
    ]


def test_the_rules_of_frames_are_options(walk, capsys):
    argv = "frames walk.avi --out faces --per-face 3 --min-gap 0.2 --max-yaw 12 --align --json -"
    assert cli.main(argv.split()) == 0
    assert files("faces") == [
        "contact_sheet.jpg",
        *(f"track-000_frame-{name}" for name in ("000003_yaw+05.jpg", "000003_yaw+05_aligned.png")),
        *(f"track-000_frame-{name}" for name in ("000005_yaw-05.jpg", "000005_yaw-05_aligned.png")),
    ]
    assert load_image("faces/track-000_frame-000005_yaw-05_aligned.png").shape == (112, 112, 3)
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[-1]["best"][0]["aligned_file"].endswith("_aligned.png")
    assert rows[-1]["dropped"]["yaw"] == 5
    assert "turned aside 5" in err


def test_a_video_can_be_looked_at_in_part_and_quietly(walk, capsys):
    argv = "frames walk.avi --out faces --step 2 --max-frames 4 --min-size 90 --quiet --model m --size 320 --batch 2"
    assert cli.main(argv.split()) == 0
    assert VideoAnalyzer.looked == 4
    assert files("faces") == ["frames.jsonl"]  # no face is large enough: no picture
    assert capsys.readouterr() == ("", "")
    assert FakeAnalyzer.options["detector"] == "m"
    assert (FakeAnalyzer.options["size"], FakeAnalyzer.options["batch_size"]) == (320, 2)


def test_a_folder_of_pictures_is_a_video(walk, capsys):
    Path("stills").mkdir()
    for t in range(3):
        save_image(f"stills/{t}.png", np.full((240, 320, 3), 60 * t, np.uint8))
    assert cli.main(["frames", "stills", "--out", "faces"]) == 0
    assert "in 3 frames" in capsys.readouterr().err


def test_ctrl_c_ends_a_video_with_what_there_is(walk, monkeypatch, capsys):
    handler = signal.getsignal(signal.SIGINT)
    original = VideoAnalyzer.stream

    def pressed(self, images):
        for faces in original(self, images):
            if VideoAnalyzer.looked == 8:
                signal.raise_signal(signal.SIGINT)
            yield faces

    monkeypatch.setattr(VideoAnalyzer, "stream", pressed)
    assert cli.main(["frames", "walk.avi", "--out", "faces"]) == 130
    assert VideoAnalyzer.looked == 8
    assert "track-000_frame-000003_yaw+05.jpg" in files("faces")
    assert "frames.jsonl" in files("faces")
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.fixture
def ctrl_c_counts():
    """Ctrl-C as a shell's foreground process takes it: one in the background may have been started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_twice_ends_at_once_and_leaves_no_half_file(walk, monkeypatch, ctrl_c_counts):
    def pressed(self, images):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield from ()

    monkeypatch.setattr(VideoAnalyzer, "stream", pressed)
    assert cli.main(["frames", "walk.avi", "--out", "faces"]) == 130
    assert files("faces") == []


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["frames", "walk.avi"], 2, "required: --out"),
        (["frames", "missing.mp4", "--out", "o"], 1, "missing.mp4: no such file"),
        (["frames", "empty.mp4", "--out", "o"], 1, "empty.mp4: is empty"),
        (["frames", "text.mp4", "--out", "o"], 1, "text.mp4: is not a video that OpenCV can open"),
        (["frames", "walk.avi", "--out", "o", "--max-pixels", "10"], 1, "more than the 10 allowed"),
        (["frames", "walk.avi", "--out", "o", "--max-yaw", "200"], 2, "expected degrees from 0 to 180, got '200'"),
        (["frames", "walk.avi", "--out", "o", "--min-size", "-1"], 2, "expected a number of at least 0"),
        (["frames", "walk.avi", "--out", "o", "--fps", "0"], 2, "expected fps above 0"),
        (["frames", "walk.avi", "--out", "o", "--threads", "2"], 2, "--threads goes with --artefact"),
        (["frames", "walk.avi", "--out", "o", "--model", "retinafase"], 2, "near: retinaface"),
        (["frames", "walk.avi", "--out", "walk.avi"], 1, "error"),
    ],
)
def test_what_is_wrong_with_a_video_or_its_options_is_told(walk, capsys, argv, status, says):
    Path("empty.mp4").touch()
    Path("text.mp4").write_text("no video")
    try:
        found = cli.main(argv)
    except SystemExit as exit:  # argparse leaves this way
        found = exit.code
    assert found == status
    assert says in capsys.readouterr().err
    assert not Path("o/frames.jsonl").exists()


def test_a_bar_of_frames_is_drawn_on_a_terminal(walk, monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["frames", "walk.avi", "--out", "faces"]) == 0
    err = capsys.readouterr().err
    assert "/30 [" in err
    assert "frames/s" in err


def test_a_compiled_detector_takes_frames_too(walk, monkeypatch):
    from gluonface.deploy import runtime

    def load(path, **options):
        VideoAnalyzer.loaded = path, options["threads"], options["batch_size"]
        return VideoAnalyzer()

    monkeypatch.setattr(VideoAnalyzer, "loaded", None, raising=False)
    monkeypatch.setattr(runtime, "load", load)
    argv = "frames walk.avi --out faces --artefact net.artefact --threads 2 --quiet"
    assert cli.main(argv.split()) == 0
    assert VideoAnalyzer.loaded == (Path("net.artefact"), 2, 4)
    assert "frames.jsonl" in files("faces")


# models, info


def test_the_table_of_models_has_a_row_for_each(capsys):
    assert cli.main(["models"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["name", "parameters"]
    assert len(rows) == len(gluonface.list_models())
    assert any(row.startswith("retinaface_mobilenet0.25_fc26 ") and "0.43 M" in row for row in rows)


def test_errors_of_landmarks_are_shown_in_per_cent(capsys):
    assert cli.main(["info", "heatmap_mobilenetv2_1.0_sdd_fc26"]) == 0
    assert re.search(r"^measured +\d\.\d\d %  NME / interocular, Helen", capsys.readouterr().out, re.M)


def test_models_can_be_listed_by_task(capsys):
    assert cli.main(["models", "--task", "landmarks"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert rows and all(row.startswith("heatmap_") for row in rows)
    assert cli.main(["models", "--task", "dreams"]) == 2
    assert "detection, landmarks" in capsys.readouterr().err


def test_models_can_be_filtered_and_listed_as_json(capsys):
    assert cli.main(["models", "--filter", "retinaface_resnet50_v1b_widerface", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [fact["backbone"] for fact in facts] == ["resnet50_v1b"]
    assert cli.main(["models", "--filter", "nothing_like_it"]) == 1
    assert "no model matches" in capsys.readouterr().err


def test_info_tells_what_is_known_about_a_model(capsys):
    assert cli.main(["info", "retinaface_mobilenet0.25_fc26"]) == 0
    out = capsys.readouterr().out
    assert "426,608" in out
    assert cli.main(["info", "retinaface_mobilenet0.25_fc26", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == 426_608


def test_info_on_an_unknown_model_names_near_ones(capsys):
    assert cli.main(["info", "retinaface_mobilenet_fc26"]) == 2
    err = capsys.readouterr().err
    assert "retinaface_mobilenet0.25_fc26" in err
    assert '"' not in err


# As a process


def run(*argv, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    command = [sys.executable, "-m", "gluonface", *argv]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, **options)


def test_help_and_version_do_not_load_mxnet():
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"gluonface {gluonface.__version__}\n")
    code = "import sys; from gluonface import cli\ntry: cli.main(['detect', '--help'])\nexcept SystemExit: pass\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", code + "assert 'mxnet' not in sys.modules"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "--crops" in result.stdout


def test_a_reader_that_leaves_early_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    try:
        result = subprocess.run(
            [sys.executable, "-m", "gluonface", "models"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
    finally:
        os.close(writing)
    assert result.stderr == ""
    assert result.returncode == 141
