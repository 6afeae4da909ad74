"""rescore_false_positives.py on two drawn photos and detections that stand in for those of nets."""

import json

import numpy as np
import pytest

from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.faces import Faces
from gluonface.image import load_image, save_image

SIZE_HW = (120, 160)
FACE, REGION, STONE, TREE = [10, 10, 30, 30], [100, 60, 150, 110], [60, 10, 80, 30], [60, 60, 90, 90]
# The same places, an IoU of .74 and of .38 away.
NEAR_STONE, BESIDE_STONE, BESIDE_FACE = [63, 10, 83, 30], [69, 10, 89, 30], [19, 10, 39, 30]
ON_REGION = [110, 70, 130, 90]
#: Detector -> boxes and scores of each of the two photos.
FOUND = {
    "plain": (
        [(TREE, 0.92), (FACE, 0.99), (STONE, 0.97), (ON_REGION, 0.98)],
        [(FACE, 0.8), (STONE, 0.95), (BESIDE_FACE, 0.94), (TREE, 0.6)],
    ),
    "mesh": (
        [(FACE, 0.97), (NEAR_STONE, 0.2), (STONE, 0.1), (ON_REGION, 0.99)],
        [(FACE, 0.9), (BESIDE_STONE, 0.9), (BESIDE_FACE, 0.5), (TREE, 0.96)],
    ),
    "calm": ([(FACE, 0.6)], []),
    "sure": ([(FACE, 0.95), (TREE, 0.7)], [(FACE, 0.96)]),
}


class Finder:
    """A detector that gives what it is told to, in place of a network."""

    def __init__(self, found):
        self.found = found

    def stream(self, photos):
        for _, one in zip(photos, self.found):
            boxes = np.array([box for box, _ in one], float).reshape(-1, 4)
            yield Faces(boxes, [score for _, score in one], size_hw=SIZE_HW)


@pytest.fixture
def data(tmp_path):
    """Two photos with the same labels: a face and an ignore region."""
    samples = []
    for i in range(2):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        save_image(path, np.full((*SIZE_HW, 3), 90 + 60 * i, np.uint8))
        labels = FaceLabels(np.array([FACE, REGION], np.float32), ignore=np.array([False, True]))
        samples.append(FaceSample(str(path), SIZE_HW, labels, source="mask", name=path.name))
    write_jsonl(tmp_path / "tiny.jsonl", samples)
    return str(tmp_path / "tiny.jsonl")


@pytest.fixture
def module(script, monkeypatch):
    """The script with stand-in detectors."""
    module = script("rescore_false_positives")
    monkeypatch.setattr(module, "build_analyzer", lambda flags, boxes_alone: (Finder(FOUND[flags.model]), flags.model))
    return module


@pytest.fixture
def result_of(module, data, tmp_path):
    """A function that runs the script and reads what it writes."""

    def run(*words):
        out = tmp_path / "out" / "result.json"
        assert module.main([*words, "--data", data, "--json", str(out)]) == 0
        return json.loads(out.read_text())

    return run


def row(result, of, by, boxes="false positives"):
    (found,) = (r for r in result["rows"] if (r["of"], r["by"], r["boxes"]) == (of, by, boxes))
    return found


def test_each_false_positive_gets_the_best_score_among_the_others_boxes_on_it(result_of):
    result = result_of("--baseline", "plain", "--model", "mesh")
    given = {(one["image"], one["score"]): one["rescored"]["mesh"] for one in result["per_face"]["plain"]}
    # The tree of the first photo has no box, the stone of the second only one that overlaps it too little.
    assert given == {("0.png", 0.97): 0.2, ("1.png", 0.95): 0, ("1.png", 0.94): 0.5, ("0.png", 0.92): 0}
    figures = row(result, "plain", "mesh")
    assert figures["count"] == 4 and figures["highest"] == 0.97
    assert figures["mean"] == pytest.approx(0.945) and figures["median"] == pytest.approx(0.945)
    assert figures["rescored_mean"] == pytest.approx(0.175) and figures["rescored_median"] == pytest.approx(0.1)
    assert figures["share_below"] == 0.75


def test_boxes_on_faces_and_on_ignore_regions_are_no_false_positives(result_of):
    result = result_of("--baseline", "plain", "--model", "mesh")
    boxes = [one["box"] for found in result["per_face"].values() for one in found]
    assert FACE not in boxes and ON_REGION not in boxes


def test_a_badly_placed_box_is_counted_as_one_on_a_face(result_of):
    result = result_of("--baseline", "plain", "--model", "mesh")
    (beside,) = (one for one in result["per_face"]["plain"] if one["box"] == BESIDE_FACE)
    assert beside["face_iou"] == pytest.approx(11 / 29, abs=1e-4)
    assert row(result, "plain", "mesh")["on_a_face"] == 1 and row(result, "mesh", "plain")["on_a_face"] == 0


def test_the_false_positives_of_the_model_are_scored_by_the_baseline(result_of):
    result = result_of("--baseline", "plain", "--model", "mesh")
    assert [(one["score"], one["rescored"]) for one in result["per_face"]["mesh"]] == [(0.96, {"plain": 0.6})]
    figures = row(result, "mesh", "plain")
    assert (figures["count"], figures["rescored_mean"], figures["share_below"]) == (1, 0.6, 0)


def test_faces_found_are_rescored_too_so_that_lower_scores_for_all_are_seen(result_of):
    result = result_of("--baseline", "plain", "--model", "calm")
    faces = row(result, "plain", "calm", "faces found")
    assert (faces["count"], faces["mean"], faces["rescored_mean"]) == (1, 0.99, 0.6)
    assert "on_a_face" in faces and row(result, "calm", "plain", "faces found")["count"] == 0


def test_several_models_score_the_same_false_positives(result_of):
    result = result_of("--baseline", "plain", "--model", "mesh", "calm")
    assert result["models"] == ["mesh", "calm"]
    assert [list(one["rescored"]) for one in result["per_face"]["plain"]] == [["mesh", "calm"]] * 4
    assert row(result, "plain", "calm")["share_below"] == 1
    pairs = [(r["of"], r["by"]) for r in result["rows"] if r["boxes"] == "false positives"]
    assert pairs == [("plain", "mesh"), ("mesh", "plain"), ("plain", "calm"), ("calm", "plain")]


def test_where_no_false_positive_scores_so_high_the_highest_is_said(result_of, tmp_path, capsys):
    picture = tmp_path / "none.png"
    result = result_of("--baseline", "sure", "--model", "calm", "--picture", str(picture))
    figures = row(result, "sure", "calm")
    assert (figures["count"], figures["highest"], figures["rescored_mean"]) == (0, 0.7, None)
    printed = capsys.readouterr().out
    assert "none of the false positives of sure scores above .9: its highest score is .700" in printed
    assert "none of the false positives of calm scores above .9: it has none" in printed
    assert "none.png is not written: there is nothing to draw" in printed and not picture.exists()


def test_both_thresholds_can_be_chosen(result_of, capsys):
    result = result_of("--baseline", "plain", "--model", "mesh", "--above", "0.5", "--below", "0.15")
    figures = row(result, "plain", "mesh")
    assert figures["count"] == 5 and figures["share_below"] == pytest.approx(2 / 5)
    printed = capsys.readouterr().out
    assert "false positives above .5, of" in printed and "below .15" in printed


def test_the_result_says_on_what_and_how_it_was_measured(result_of, tmp_path, capsys):
    result = result_of("--baseline", "plain", "--model", "mesh", "--size", "320", "--domain", "stones and trees")
    assert (result["baseline"], result["size"], result["flip"], result["data"]) == ("plain", 320, False, "tiny")
    assert result["domain"] == "stones and trees"
    assert {"date", "command", "versions", "machine"} <= set(result)
    assert str(tmp_path) not in json.dumps(result)
    assert "long side 320\nstones and trees" in capsys.readouterr().out


def test_small_faces_become_ignore_regions(result_of):
    # 20 pixels of a photo 160 wide are 80 at a long side of 640.
    result = result_of("--baseline", "plain", "--model", "mesh", "--min-face", "81")
    assert row(result, "plain", "mesh", "faces found")["count"] == 0
    assert row(result, "plain", "mesh")["on_a_face"] == 0 and FACE not in [
        one["box"] for one in result["per_face"]["plain"]
    ]


def test_photos_and_labels_turn_together(module, data, tmp_path, monkeypatch):
    out, picture = tmp_path / "result.json", tmp_path / "turned.png"
    turned = Faces([[90, 10, 110, 30], [10, 10, 30, 30]], [0.99, 0.95], size_hw=SIZE_HW[::-1])
    monkeypatch.setattr(module, "detect", lambda analyzer, photos, flags: [turned for _ in photos])
    words = ["--baseline", "plain", "--model", "mesh", "--data", data, "--rotate", "90"]
    assert module.main([*words, "--json", str(out), "--picture", str(picture)]) == 0
    result = json.loads(out.read_text())
    # The face is at the upper right now.
    assert row(result, "plain", "mesh", "faces found")["mean"] == 0.99
    assert row(result, "plain", "mesh")["mean"] == 0.95
    assert result["rotate"] == 90 and picture.exists()


def test_the_picture_has_a_crop_for_each_of_the_highest(result_of, module, tmp_path, monkeypatch):
    written, sheets = [], []
    draw, sheet = module.draw_faces, module.contact_sheet
    monkeypatch.setattr(module, "draw_faces", lambda *a, **k: written.append(k["labels"]) or draw(*a, **k))
    monkeypatch.setattr(module, "contact_sheet", lambda tiles, *a, **k: sheets.append(tiles) or sheet(tiles, *a, **k))
    picture = tmp_path / "pictures" / "sheet.png"
    result_of("--baseline", "plain", "--model", "mesh", "calm", "--picture", str(picture))
    assert written[0] == ["baseline .97, model .20 .00"] and len(written) == 4
    assert 4 * 240 < load_image(picture).shape[1] < 5 * 240  # no empty places
    # The first and the last are of the first photo, which is darker.
    assert [int(np.median(tile)) for tile in sheets[0]] == [90, 150, 150, 90]
    monkeypatch.setattr(module, "_MOST_DRAWN", 2)
    result_of("--baseline", "plain", "--model", "mesh", "--picture", str(picture))
    assert len(sheets[1]) == 2


def test_weights_of_a_file_go_to_their_own_detector_and_are_called_by_their_run(module):
    words = ["--baseline", "plain", "--model", "mesh=runs/all-1/last.params", "--data", "x", "--facts-of", "start"]
    args = module.parse_args(words)
    baseline, model = (module.flags_of(args, one) for one in (args.baseline, *args.model))
    assert (baseline.model, baseline.weights, baseline.facts_of) == ("plain", None, None)
    assert (model.model, model.weights, model.facts_of) == ("mesh", "runs/all-1/last.params", "start")
    assert module.names_of(["mesh", *args.model]) == ["mesh", "mesh (all-1/last.params)"]
    runs = [f"mesh=runs/{row}/seed1/last.params" for row in ("points", "all")]
    assert module.names_of(runs) == [f"mesh ({row}/seed1/last.params)" for row in ("points", "all")]


def test_a_row_of_an_ablation_is_told_by_its_file_and_the_options_it_was_trained_with(module):
    row = "mesh=runs/cascade-1/last.params,mesh=no,deformable=yes,k0=3"
    args = module.parse_args(["--baseline", row, "--model", "plain", "--data", "x"])
    flags = module.flags_of(args, args.baseline)
    assert (flags.model, flags.weights) == ("mesh", "runs/cascade-1/last.params")
    assert (flags.mesh, flags.deformable, flags.cascade, flags.k0) == ("no", "yes", None, 3)
    assert module.names_of([row]) == ["mesh (cascade-1/last.params, mesh=no, deformable=yes, k0=3)"]
    assert module.without_folders([row.replace("runs", "/home/runs")]) == [
        "mesh=last.params,mesh=no,deformable=yes,k0=3"
    ]


def test_the_folders_of_weights_are_no_part_of_the_command(result_of):
    result = result_of("--baseline", "plain", "--model", "mesh=/home/someone/runs/last.params", "calm=b/last.params")
    assert "--model mesh=last.params calm=b/last.params --data tiny.jsonl" in result["command"]
    assert "someone" not in json.dumps(result)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "plain"), "expected different detectors, got plain twice"),
        (("--model", "mesh", "--above", "1"), "--above: expected a score from 0.02 on and below 1, got 1"),
        (("--model", "mesh", "--above", "0.01"), "--above: expected a score from 0.02 on"),
        (("--model", "mesh", "--below", "0"), "--below: expected a score above 0"),
        (("--model", "mesh", "--facts-of", "x"), "--facts-of goes with weights of a file"),
        (("--model", "mesh=x,hair=no"), "unrecognized arguments: --hair=no"),
        (("--model", "mesh=x,cascade=perhaps"), "argument --cascade: invalid choice: 'perhaps'"),
        (("--model", "mesh=,cascade=no"), "--cascade go with --weights"),
        (("--model", "mesh", "--format", "malf"), "--format malf needs --images"),
        (("--model", "mesh", "--soft-nms", "linear"), "--soft-nms goes with several scales"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(module, capsys, words, message):
    with pytest.raises(SystemExit):
        module.parse_args(["--baseline", "plain", "--data", "x", *words])
    assert message in capsys.readouterr().err
