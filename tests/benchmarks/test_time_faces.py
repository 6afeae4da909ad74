"""time_faces.py measures a small job for real, and adds up what others would take."""

import json
from types import SimpleNamespace

import pytest

MODEL = "maskface_mobilenet0.25_fc26"
MESHED = "retinaface_mobilenet0.25_mesh468_fc26"


@pytest.fixture
def module(script):
    pytest.importorskip("skimage", reason="the photos show scikit-image's astronaut: pip install gluonface[demo]")
    return script("time_faces")


def test_both_ways_work_on_as_many_faces_as_asked_for(module, tmp_path, capsys):
    words = f"--model {MODEL} --channels 8 --threads 1 --rounds 1 --faces 1 3"
    words += " --landmarks heatmap_mobilenetv2_0.25_sssd_fc26"
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    assert module.main([*words.split(), "--json", str(out), "--picture", str(picture)]) == 0
    result = json.loads(out.read_text())
    assert [(one["threads"], one["faces"]) for one in result["runs"]] == [(1, 1), (1, 3)]
    for one in result["runs"]:
        assert set(one["median_ms"]) == set(module.WAYS["maskface"]) and min(one["median_ms"].values()) > 1
        assert one["ratio"] == pytest.approx(one["median_ms"]["maskface"] / one["median_ms"]["two_stage"], rel=0.01)
        assert one["given"] == dict.fromkeys(one["median_ms"], one["faces"])
    assert result["weights"] == "random" and result["size_hw"] == [480, 640] and result["channels"] == 8
    assert "| each further one |" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000


def test_meshes_stand_beside_the_same_net_without_them(module, tmp_path):
    names = {"model": MESHED, "detector": "retinaface_mobilenet0.25_mask"}
    names |= {"landmarks": "heatmap_mobilenetv2_0.25_sssd_fc26"}
    ways = module.ways_of(module.build_nets({**names, "channels": None, "weights": None, "root": None}), 3)
    assert list(ways) == list(module.WAYS["retinaface"])
    faces = {name: way(module.photo_of(3)) for name, way in ways.items()}
    assert [len(each) for each in faces.values()] == [3, 3, 3]
    assert faces["mesh"].mesh.shape == (3, 468, 3) and faces["no_mesh"].mesh is faces["two_stage"].mesh is None
    medians = {"mesh": 60.0, "no_mesh": 50.0, "two_stage": 40.0}
    runs = [{"threads": 1, "faces": n, "median_ms": {k: v + n for k, v in medians.items()}, "ratio": 1} for n in (1, 9)]
    result = {"model": MESHED, "channels": None, "weights": "random", "detector": "d", "landmarks": "l", "runs": runs}
    result |= {"size_hw": [480, 640], "lines": [{"threads": 1, **module.lines_of(runs)}]}
    result |= {"paper": module.PAPER["retinaface"], "machine": {"cpu": "a processor", "cores": 2}}
    text = "\n".join(module.describe(result))
    assert "| 1 | 9 | 69.0 | 59.0 | 49.0 | 1.00 |" in text and "22.3 ms a photo, P40" in text
    module.plot(str(tmp_path / "x.png"), result)
    assert (tmp_path / "x.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model retinaface_mobilenet0.25_mask", "expected a MaskFace or a RetinaFace with a mesh"),
        ("--model retinaface_mobilenet0.25_mesh468_fc26 --channels 8", "--channels is for MaskFace"),
    ],
)
def test_other_models_and_options_are_refused(module, words, message, capsys):
    with pytest.raises(SystemExit):
        module.parse_args(words.split())
    assert message in capsys.readouterr().err


def test_the_ratio_is_that_of_turns(module, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    # In milliseconds of the turns, the first of which is a warm-up; the machine slows down.
    takes = {"maskface": iter([999, 20, 40, 90]), "two_stage": iter([999, 10, 10, 30])}
    faces = {"maskface": [1], "two_stage": [1, 2]}

    def way(name):
        def look(photo):
            clock.now += next(takes[name]) / 1000
            return faces[name]

        return look

    result = module.take_turns({name: way(name) for name in takes}, None, 3)
    assert result["median_ms"] == pytest.approx({"maskface": 40, "two_stage": 10})
    assert result["ratio"] == pytest.approx(3)
    assert result["given"] == {"maskface": 1, "two_stage": 2}


def run(threads, faces, maskface, two_stage):
    medians = {"maskface": maskface, "two_stage": two_stage}
    return {"threads": threads, "faces": faces, "median_ms": medians, "ratio": maskface / two_stage}


def test_a_line_through_the_medians_gives_the_time_of_a_photo_and_of_a_face(module):
    lines = module.lines_of([run(1, n, 40 + 0.5 * n, 20 + 9 * n) for n in (1, 10, 100)])
    assert lines["maskface"] == pytest.approx({"ms_a_photo": 40, "ms_a_face": 0.5})
    assert lines["two_stage"] == pytest.approx({"ms_a_photo": 20, "ms_a_face": 9})
    assert module.lines_of([run(1, 5, 40, 20)])["maskface"] == {"ms_a_photo": None, "ms_a_face": None}


def test_the_documents_show_the_times_where_there_are_some(module, script, tmp_path):
    tables = script("make_tables")
    (tmp_path / "latency").mkdir()
    assert tables.face_time_table([], tables.Results.read(tmp_path), None) == ""
    runs = [run(2, n, 40.0 + n, 20.0 + 9 * n) for n in (1, 100)]
    result = {
        "model": MODEL,
        "channels": None,
        "detector": "d",
        "landmarks": "l",
        "weights": "shipped",
        "size_hw": [480, 640],
        "runs": runs,
        "lines": [{"threads": 2, **module.lines_of(runs)}],
        "paper": module.PAPER["maskface"],
        "machine": {"cpu": "a processor", "cores": 2},
    }
    (tmp_path / "latency" / f"faces_{MODEL}.json").write_text(json.dumps(result))
    results = tables.Results.read(tmp_path)
    text = tables.face_time_table([], results, None)
    assert "| 2 | 100 | 140.0 | 920.0 | 0.15 |" in text and "| 2 | each further one | 1.00 | 9.00 |" in text
    assert results.latency == results.pose_time == []


@pytest.mark.parametrize("words", ["--rounds 0", "--faces 0", "--threads 0"])
def test_arguments_that_mean_nothing_are_refused(module, words, capsys):
    with pytest.raises(SystemExit):
        module.parse_args(words.split())
    assert "at least 1" in capsys.readouterr().err
