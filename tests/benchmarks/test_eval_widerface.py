"""eval_widerface.py: the published case through text files, a stand-in model, the test split, bad files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gluonface.faces import Faces
from gluonface.image import save_image
from gluonface.metrics import read_predictions, read_widerface_ground_truth, write_prediction
from gluonface.metrics.widerface_protocol import WiderFaceGroundTruth


def test_the_published_detections_as_text_files_give_the_published_figures(script, facedata, tmp_path, capsys):
    folder = facedata / "widerface_eval"
    truth = read_widerface_ground_truth(folder)
    for name, found in read_predictions(folder / "predictions_retinaface_mnet025.npz", truth.names).items():
        write_prediction(tmp_path / "predictions", name, *found)
    out = tmp_path / "result.json"
    words = ["--predictions", str(tmp_path / "predictions"), "--ground-truth", str(folder), "--json", str(out)]
    assert script("eval_widerface").main(words) == 0
    result = json.loads(out.read_text())
    assert [round(result[s], 4) for s in ("easy", "medium", "hard")] == [0.9448, 0.9245, 0.8153]
    assert (result["photos"], result["detections"], result["protocol"]) == (3226, 143889, "not stated")
    assert "easy 0.9448   medium 0.9245   hard 0.8153" in capsys.readouterr().out


@pytest.fixture
def tiny(tmp_path, cells):
    """Three photos in two events with their official lists."""
    scipy_io = pytest.importorskip("scipy.io")

    boxes = {
        "0--Parade/a": [[10, 10, 20, 30]],
        "0--Parade/b": [[5, 5, 12, 12], [30, 30, 9, 9]],
        "1--Shop/c": [[1, 2, 30, 40]],
    }
    a, b, c = (np.array(photo) for photo in boxes.values())
    lists = {
        "event_list": cells(["0--Parade", "1--Shop"]),
        "file_list": cells([cells(["a", "b"]), cells(["c"])]),
        "face_bbx_list": cells([cells([a, b]), cells([c])]),
    }
    every = cells([cells([np.array([[1]]), np.array([[1], [2]])]), cells([np.array([[1]])])])
    (tmp_path / "truth").mkdir()
    scipy_io.savemat(tmp_path / "truth" / "wider_face_val.mat", lists)
    for setting in ("easy", "medium", "hard"):
        scipy_io.savemat(tmp_path / "truth" / f"wider_{setting}_val.mat", {**lists, "gt_list": every})
    for i, name in enumerate(boxes):
        path = tmp_path / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, np.full((64, 64, 3), 10 * i, np.uint8))
    return tmp_path, boxes


@pytest.fixture
def module(script, tiny, monkeypatch):
    """eval_widerface with a stand-in that knows the faces by the photo's name."""
    _, boxes = tiny

    class Knowing:
        def __init__(self, boxes_alone):
            assert boxes_alone

        def stream(self, photos):
            for path in photos:
                xywh = np.array(boxes["/".join(Path(path).with_suffix("").parts[-2:])], float)
                corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
                yield Faces(corners, np.linspace(0.9, 0.8, len(corners)), size_hw=(64, 64))

    loaded = script("eval_widerface")
    monkeypatch.setattr(loaded, "build_analyzer", lambda args, boxes_alone: (Knowing(boxes_alone), args.model))
    return loaded


def run_model(module, folder, *more):
    words = ["--model", "knowing", "--images", str(folder / "images"), "--ground-truth", str(folder / "truth")]
    return module.main([*words, *more])


@pytest.mark.parametrize(
    ("flags", "protocol"),
    [
        ([], "W1, one scale, long side 640"),
        (["--size", "stored"], "W2, one scale, original size"),
    ],
)
def test_a_model_is_run_scored_and_its_predictions_kept(module, tiny, flags, protocol):
    pytest.importorskip("tqdm")
    folder, boxes = tiny
    more = ["--save-predictions", str(folder / "kept"), "--json", str(folder / "result.json")]
    assert run_model(module, folder, *more, *flags) == 0
    result = json.loads((folder / "result.json").read_text())
    assert (result["easy"], result["medium"], result["hard"]) == (1, 1, 1)
    assert result["protocol"] == protocol
    kept = read_predictions(folder / "kept", boxes)
    assert {name: found.tolist() for name, (found, _) in kept.items()} == boxes


def test_several_scales_and_flip_are_the_third_protocol(module, tiny, monkeypatch):
    folder, _ = tiny
    monkeypatch.setattr(module, "detect", lambda analyzer, photos, args: analyzer.stream(photos))
    out = str(folder / "r.json")
    run_model(module, folder, "--multi-scale", "--flip", "--json", out)
    protocol = json.loads(Path(out).read_text())["protocol"]
    assert protocol.startswith("W3, several scales and flip (short sides 500, 800")
    assert protocol.endswith("1700; long side at most 2300; flip on)")


@pytest.mark.parametrize(
    ("words", "limit", "told"),
    [
        (("--scales", "32", "96"), 2300, "short sides 32, 96; long side at most 2300;"),
        (("--scales", "32", "96", "--max-long-side", "80"), 80, "short sides 32, 96; long side at most 80;"),
        (("--scales", "32", "96", "--max-long-side", "0"), None, "short sides 32, 96; long side without limit;"),
        (("--flip", "--size", "90"), 2300, "one scale, 90; long side at most 2300;"),
        (("--flip", "--size", "stored"), 2300, "one scale, stored; flip on"),
        (("--size", "64,96"), None, "W3, several scales and flip (long sides 64, 96; flip off)"),
    ],
    ids=str,
)
def test_the_limit_of_the_long_side_goes_to_the_scales_and_into_the_protocol(
    module, tiny, script, monkeypatch, words, limit, told
):
    folder, _ = tiny
    limits = []

    def looked(analyzer, image, short_sides=None, *, max_long_side, **_):
        limits.append(max_long_side)
        return Faces.empty(image.shape[:2])

    monkeypatch.setattr(script("detectors"), "detect_multiscale", looked)
    run_model(module, folder, *words, "--json", str(folder / "r.json"))
    assert limits == [limit] * 3
    assert told in json.loads((folder / "r.json").read_text())["protocol"]


def test_long_sides_that_are_asked_for_have_no_other_limit(module, tiny, capsys):
    with pytest.raises(SystemExit):
        run_model(module, tiny[0], "--size", "64,96", "--flip", "--max-long-side", "80")
    assert "not with the long sides of --size" in capsys.readouterr().err


def test_the_average_is_that_of_ten_thresholds_of_overlap(module, tmp_path, monkeypatch, capsys):
    """One face is found exactly, the other, 10 pixels wide and high, with an overlap of .72: up to .7 both count."""
    faces = np.array([[0, 0, 9, 9], [50, 50, 9, 9]], float)
    asked = {"easy": [True, False], "medium": [False, True], "hard": [True, True]}
    counted = {setting: (np.array(mask),) for setting, mask in asked.items()}
    monkeypatch.setattr(
        module, "read_widerface_ground_truth", lambda folder: WiderFaceGroundTruth(("0/a",), (faces,), counted)
    )
    write_prediction(tmp_path / "found", "0/a", np.array([faces[0], [50, 50, 9, 6.2]]), np.array([0.9, 0.8]))
    words = ["--predictions", tmp_path / "found", "--ground-truth", "g", "--json", tmp_path / "r.json"]
    module.main([*map(str, words)])
    assert "average_hard" not in json.loads((tmp_path / "r.json").read_text())
    module.main([*map(str, words), "--average"])
    result = json.loads((tmp_path / "r.json").read_text())
    assert [result[setting] for setting in asked] == [1, 1, 1]
    # Above .7 the second is a false alarm, and its face is missed.
    assert [result[f"average_{setting}"] for setting in asked] == [1, 0.5, 0.75]
    assert "average_easy 1.0000   average_medium 0.5000   average_hard 0.7500" in capsys.readouterr().out


def test_the_test_split_only_writes_the_files(module, tiny, capsys):
    folder, boxes = tiny
    words = ["--model", "knowing", "--images", str(folder / "images"), "--split", "test"]
    assert module.main([*words, "--save-predictions", str(folder / "server")]) == 0
    assert "3 files for the test server" in capsys.readouterr().out
    assert sorted(
        p.relative_to(folder / "server").with_suffix("").as_posix() for p in (folder / "server").glob("*/*")
    ) == sorted(boxes)


def test_npz_predictions_can_be_turned_into_text_files(script, tiny):
    folder, boxes = tiny
    counts = [len(b) for b in boxes.values()]
    arrays = {
        "images": list(boxes),
        "offsets": np.cumsum([0, *counts]),
        "boxes_xywh": np.concatenate(list(boxes.values())),
    }
    np.savez(folder / "p.npz", **arrays, scores=np.linspace(0.9, 0.5, sum(counts)))
    words = ["--predictions", str(folder / "p.npz"), "--ground-truth", str(folder / "truth")]
    assert script("eval_widerface").main([*words, "--save-predictions", str(folder / "text")]) == 0
    assert read_predictions(folder / "text", boxes)["1--Shop/c"][0].tolist() == boxes["1--Shop/c"]


def test_the_curves_are_drawn(module, tiny):
    pytest.importorskip("matplotlib")
    folder, _ = tiny
    run_model(module, folder, "--plot", str(folder / "curves.png"))
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_bad_prediction_file_ends_the_command_with_its_name_and_line(script, tiny, monkeypatch, capsys):
    folder, boxes = tiny
    for name, found in boxes.items():
        write_prediction(folder / "bad", name, np.array(found), np.ones(len(found)))
    (folder / "bad" / "1--Shop" / "c.txt").write_text("c\n1\n1 2 thirty 40 1\n")
    words = ["--predictions", str(folder / "bad"), "--ground-truth", str(folder / "truth")]
    monkeypatch.setattr(sys, "argv", ["benchmarks/eval_widerface.py", *words])
    with pytest.raises(SystemExit) as ended:
        script("common").run(script("eval_widerface").main)
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("eval_widerface.py: ")
    assert "c.txt, line 3: expected five numbers x y w h score" in message


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--predictions", "p"],
        ["--predictions", "p", "--model", "m", "--ground-truth", "g"],
        ["--model", "m", "--ground-truth", "g"],
        ["--model", "m", "--images", "i", "--split", "test"],
        ["--model", "m", "--images", "i", "--split", "test", "--save-predictions", "s", "--average"],
        ["--model", "m", "--images", "i", "--ground-truth", "g", "--max-long-side", "0"],
        ["--model", "m", "--images", "i", "--ground-truth", "g", "--multi-scale", "--max-long-side", "-1"],
    ],
)
def test_a_command_line_that_means_nothing_is_refused(script, words):
    with pytest.raises(SystemExit) as refused:
        script("eval_widerface").main(words)
    assert refused.value.code == 2
