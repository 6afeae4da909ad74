"""The script that makes topologies: a small model in every kind of file, and MediaPipe's outlines."""

import json

import numpy as np
import pytest

from gluonface.mesh import PARTS, load_topology, topology_468

SHAPE = np.array([[-1, 1, 0], [1, 1, 0], [0, 0, 1], [-1, -1, 0], [1, -1, 0], [9, 9, 9]], float)  # the last is unused
VERTICES = [0, 1, 2, 3, 4]
TRIANGLES = [[0, 3, 2], [3, 4, 2], [4, 1, 2], [1, 0, 2]]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("make_topology")


@pytest.fixture
def model(tmp_path):
    """Files of a pyramid of five vertices in a model of six."""
    np.save(tmp_path / "shape.npy", SHAPE)
    np.savez(
        tmp_path / "model.npz",
        mean=SHAPE.ravel(),
        transposed=SHAPE.T,
        triangles=TRIANGLES,
        columns=np.transpose(TRIANGLES),
    )
    np.save(tmp_path / "halves.npy", np.array(TRIANGLES) + 0.5)
    np.savetxt(tmp_path / "vertices.txt", VERTICES)
    np.savetxt(tmp_path / "from_one.txt", np.array(VERTICES) + 1)
    np.savetxt(tmp_path / "triangles_from_one.txt", np.array(TRIANGLES) + 1)
    (tmp_path / "triangles.json").write_text(json.dumps(TRIANGLES))
    (tmp_path / "parts.json").write_text(json.dumps({"nose": [0, 1, 2]}))
    (tmp_path / "parts_from_one.json").write_text(json.dumps({"nose": [1, 2, 3]}))
    (tmp_path / "outlines.json").write_text(json.dumps({"nose": [0, 2, 1]}))
    (tmp_path / "model.obj").write_text(
        "".join(f"v {x} {y} {z}\n" for x, y, z in SHAPE[:5])
        + "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in TRIANGLES)
    )
    return tmp_path


def make(script, folder, *arguments):
    out = folder / "out.npz"
    words = [str(folder / word[1:]) if word.startswith("@") else word for word in arguments]
    return script.main(["subset", "--name", "own", "--out", str(out), *words]), out


@pytest.mark.parametrize(
    "arguments",
    [
        (
            "--shape",
            "@shape.npy",
            "--vertices",
            "@vertices.txt",
            "--triangles",
            "@triangles.json",
            "--parts",
            "@parts.json",
        ),
        (
            *("--shape", "@model.npz:mean", "--vertices", "@vertices.txt", "--triangles", "@model.npz:triangles"),
            *("--triangles-of", "model", "--outlines", "@outlines.json"),
        ),
        (
            *("--shape", "@model.npz:transposed", "--vertices", "@vertices.txt", "--triangles", "@model.npz:columns"),
            *("--parts", "@parts.json"),
        ),
        ("--shape", "@model.obj", "--parts", "@parts.json"),
    ],
)
def test_every_kind_of_file_gives_the_same_topology(script, model, arguments, capsys):
    code, out = make(script, model, *arguments, "--nose-tip", "2")
    assert code == 0
    assert "own" in capsys.readouterr().out
    own = load_topology(out)
    np.testing.assert_array_equal(own.canonical, SHAPE[:5])
    np.testing.assert_array_equal(own.triangles, TRIANGLES)
    assert own.nose_tip == 2 and own.part_names == ("nose",)
    assert own.triangle_parts.tolist() == [0, 0, 0, 1]
    assert own.flip_index.tolist() == [1, 0, 2, 4, 3]


def test_files_that_count_from_one_give_it_too(script, model):
    code, out = make(
        script,
        model,
        *("--shape", "@shape.npy", "--vertices", "@from_one.txt", "--triangles", "@triangles_from_one.txt"),
        *("--parts", "@parts_from_one.json", "--nose-tip", "3", "--one-based"),
    )
    assert code == 0
    own = load_topology(out)
    np.testing.assert_array_equal(own.triangles, TRIANGLES)
    assert own.nose_tip == 2 and own.triangle_parts.tolist() == [0, 0, 0, 1]


def test_matlab_files_are_read(script, model):
    io = pytest.importorskip("scipy.io")
    io.savemat(model / "model.mat", {"shapeMU": SHAPE.reshape(-1, 1), "tri": (np.array(TRIANGLES) + 1.0)})
    code, out = make(
        script,
        model,
        *("--shape", "@model.mat:shapeMU", "--triangles", "@model.mat:tri", "--triangles-of", "model"),
        *("--nose-tip", "3", "--one-based"),
    )
    assert code == 0
    np.testing.assert_array_equal(load_topology(out).triangles, TRIANGLES)


def test_matlab_files_that_scipy_does_not_read_are_named(script, model, capsys):
    pytest.importorskip("scipy.io")
    # What Matlab writes since 7.3, as its first bytes say.
    (model / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    code, _ = make(script, model, "--shape", "@new.mat:shapeMU", "--triangles", "@triangles.json")
    assert code == 1 and "new.mat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shape", "@none.npy", "--triangles", "@triangles.json"), "none.npy"),
        (("--shape", "@shape.npy"), "has no triangles"),
        (
            ("--shape", "@model.npz", "--triangles", "@triangles.json"),
            "ARRAY one of columns, mean, transposed, triangles",
        ),
        (("--shape", "@shape.npy", "--triangles", "@halves.npy"), "halves.npy: expected whole numbers"),
        (("--shape", "@shape.npy", "--triangles", "@triangles.json", "--parts", "@triangles.json"), "expected {"),
        (("--shape", "@shape.npy", "--triangles", "@triangles.json"), "expected nose_tip"),
        (("--shape", "@shape.npy", "--triangles", "@vertices.txt"), "triangles: expected (T, 3), got (5,)"),
        (
            (
                "--shape",
                "@shape.npy",
                "--triangles",
                "@triangles.json",
                "--nose-tip",
                "2",
                "--uv",
                "@model.npz:transposed",
            ),
            "uv: expected (6, 2), a row for each vertex of the model, got (3, 6)",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_nothing_is_written(script, model, arguments, message, capsys):
    code, out = make(script, model, *arguments)
    assert code == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_the_topology_of_the_package_comes_back_from_its_own_arrays(script, tmp_path):
    shipped = topology_468()
    np.save(tmp_path / "canonical.npy", shipped.canonical)
    np.save(tmp_path / "triangles.npy", shipped.triangles)
    np.save(tmp_path / "uv.npy", shipped.uv)
    tables = {name: shipped.points[key][:, 0].tolist() for name, key in (("fitted", "68"), ("common", "68_common"))}
    (tmp_path / "points.json").write_text(json.dumps(tables))
    options = zip(
        ("--shape", "--triangles", "--uv", "--points68"), ("canonical.npy", "triangles.npy", "uv.npy", "points.json")
    )
    words = [word for option, name in options for word in (option, str(tmp_path / name))]
    assert script.main(["mediapipe", *words, "--out", str(tmp_path / "out.npz")]) == 0
    back = load_topology(tmp_path / "out.npz")
    for name in ("canonical", "triangles", "triangle_parts", "uv", "flip_index"):
        np.testing.assert_array_equal(getattr(back, name), getattr(shipped, name))
    assert back.part_names == PARTS
