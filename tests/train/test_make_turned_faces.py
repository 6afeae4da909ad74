"""The script that makes views of faces turned aside: a tiny corpus with a made-up mesh, and what is read back."""

import json

import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample
from gluonface.data.jsonl import read_jsonl, write_jsonl
from gluonface.errors import DataError
from gluonface.image import load_image, save_image

SIDE = 9


def dome() -> tuple[np.ndarray, np.ndarray]:
    """Mesh (81, 3) of a grid bent into a dome, its nose at the middle, and triangles."""
    v, u = np.divmod(np.arange(SIDE * SIDE), SIDE)
    x, y = u / (SIDE - 1) * 2 - 1, v / (SIDE - 1) * 2 - 1
    mesh = np.stack([100 + 40 * x, 110 + 50 * y, 40 * (x**2 + y**2) / 2], axis=1)
    corner = np.flatnonzero((u < SIDE - 1) & (v < SIDE - 1))
    # Counter-clockwise as seen with y up: down first, then to the right.
    lower = np.stack([corner, corner + SIDE, corner + SIDE + 1], axis=1)
    upper = np.stack([corner, corner + SIDE + 1, corner + 1], axis=1)
    return mesh, np.concatenate([lower, upper])


def face(pose, mesh_row=0) -> FaceLabels:
    return FaceLabels(
        boxes=[[60, 50, 140, 160]], landmarks=dome()[0][None, :68, :2], scheme="68", pose=[pose], mesh_row=[mesh_row]
    )


@pytest.fixture
def corpus(tmp_path, rng):
    """Four photos: two of source a and two of source b, of which the last has no mesh."""
    folder = tmp_path / "corpus"
    samples = []
    for name, pose, row in (
        ("a/one.jpg", (0, 0, 0), 0),
        ("a/two.jpg", (-12, 5, 3), 0),
        ("b/one.jpg", (30, 0, 0), 0),
        ("b/two.jpg", (0, 0, 0), -1),
    ):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, rng.integers(0, 256, (220, 200, 3), dtype=np.uint8))
        samples.append(FaceSample(str(path), (220, 200), faces=face(pose, row), source=name.split("/")[0], name=name))
    write_jsonl(folder / "faces.jsonl", samples)
    mesh, triangles = dome()
    np.savez(folder / "mesh468.npz", mesh468=mesh[None].astype(np.float16))
    np.save(folder / "mesh468_triangles.npy", triangles.astype(np.int16))
    (folder / "mesh468_to_68.json").write_text(json.dumps({"common": list(range(68))}))
    return folder


@pytest.fixture
def script(load_script):
    return load_script("make_turned_faces")


def run(script, corpus, out, *arguments) -> list[FaceSample]:
    assert script.main([str(corpus / "faces.jsonl"), "--out", str(out), *map(str, arguments)]) == 0
    return read_jsonl(out / "turned.jsonl")


def test_faces_with_a_mesh_are_turned_and_the_others_counted(script, corpus, tmp_path, capsys):
    samples = run(script, corpus, tmp_path / "out", "--views", 2)
    assert [s.name for s in samples] == [
        f"{name}-0-{view}.jpg" for name in ("a-3d/one", "a-3d/two", "b-3d/one") for view in (0, 1)
    ]
    assert {s.source for s in samples} == {"a-3d", "b-3d"}
    assert "'without mesh, pose or 68 points': 2" in capsys.readouterr().out
    for sample in samples:
        assert load_image(sample.image_path).shape[:2] == sample.size_hw
        assert sample.faces.attributes[0]["synthetic"] == "turned"


def test_the_yaw_is_in_bounds_and_further_to_the_side_the_face_looks_to(script, corpus, tmp_path):
    samples = run(script, corpus, tmp_path / "out", "--views", 8, "--yaw", 20, 50)
    yaw = np.array([s.faces.pose[0, 0] for s in samples])
    assert (np.abs(yaw) >= 20).all()
    assert (np.abs(yaw) <= 50).all()
    assert (yaw[8:16] < 0).all()
    assert (yaw[16:] > 30).all()
    # A frontal face goes to either side.
    assert yaw[:8].min() < 0 < yaw[:8].max()
    assert len(set(yaw)) == len(yaw)


def test_the_crop_is_small_and_its_points_lie_inside(script, corpus, tmp_path):
    for sample in run(script, corpus, tmp_path / "out", "--side", 90, "--margin", 2):
        assert max(sample.size_hw) == 90
        points = sample.faces.landmarks[0]
        assert ((points > 0) & (points < sample.size_hw[::-1])).all()


def test_the_same_seed_gives_the_same_views_also_of_fewer_photos(script, corpus, tmp_path):
    whole = run(script, corpus, tmp_path / "whole")
    part = run(script, corpus, tmp_path / "part", "--every", "a=2")
    other = run(script, corpus, tmp_path / "other", "--seed", 1)
    assert [s.name for s in part] == [whole[0].name, whole[2].name]
    np.testing.assert_array_equal(part[1].faces.pose, whole[2].faces.pose)
    assert (other[0].faces.pose != whole[0].faces.pose).any()


def test_a_face_that_looks_further_aside_than_wanted_is_left_out(script, corpus, tmp_path, capsys):
    samples = run(script, corpus, tmp_path / "out", "--yaw", 10, 25)
    assert {s.source for s in samples} == {"a-3d"}
    assert "'degenerate': 1" in capsys.readouterr().out


def test_mistakes_are_named(script, corpus, tmp_path):
    arguments = [str(corpus / "faces.jsonl"), "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match="--every names c"):
        script.main([*arguments, "--every", "c=2"])
    with pytest.raises(DataError, match="cannot read the meshes"):
        script.main([*arguments, "--meshes", str(tmp_path)])
    for wrong in (["--every", "a"], ["--every", "a=0"], ["--yaw", "50", "20"], ["--views", "0"]):
        with pytest.raises(SystemExit):
            script.main([*arguments, *wrong])
    write_jsonl(corpus / "faces.jsonl", read_jsonl(corpus / "faces.jsonl")[:1])
    np.savez(corpus / "mesh468.npz", mesh468=np.zeros((0, 81, 3)))
    with pytest.raises(DataError, match="row 0, the meshes have 0"):
        script.main(arguments)
    assert not (tmp_path / "out" / "turned.jsonl").exists()
