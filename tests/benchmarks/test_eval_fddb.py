"""eval_fddb.py on drawn photos in the official layout: detections in both forms, a stand-in detector, turned photos."""

import json

import numpy as np
import pytest

from gluonface.faces import Faces
from gluonface.image import save_image
from gluonface.metrics import read_fddb_detections

pytest.importorskip("scipy")
SIZES = {"2002/08/11/big/img_1": (120, 160), "2002/08/12/big/img_2": (140, 100), "2003/01/01/big/img_3": (90, 90)}
ELLIPSES = {
    "2002/08/11/big/img_1": [[30, 20, 1.4, 40, 50], [25, 18, 0.2, 110, 70]],
    "2002/08/12/big/img_2": [[35, 25, -1.2, 50, 60]],
    "2003/01/01/big/img_3": [],
}
COLOURS = ((250, 10, 10), (10, 250, 10))


@pytest.fixture
def fddb(tmp_path):
    """Photos with ellipses in colours of their own, and their lists."""
    import cv2

    (tmp_path / "FDDB-folds").mkdir()
    for fold in range(1, 11):
        (tmp_path / f"FDDB-folds/FDDB-fold-{fold:02}-ellipseList.txt").write_text("")
    for fold, (name, size_hw) in enumerate(SIZES.items(), start=1):
        image = np.full((*size_hw, 3), 90, np.uint8)
        lines = [name, str(len(ELLIPSES[name]))]
        for (major, minor, angle, x, y), colour in zip(ELLIPSES[name], COLOURS):
            cv2.ellipse(image, (x, y), (major, minor), float(np.degrees(angle)), 0, 360, colour, -1)
            lines.append(f"{major} {minor} {angle} {x} {y}  1")
        path = tmp_path / "originalPics" / f"{name}.jpg"
        path.parent.mkdir(parents=True)
        save_image(path, image)
        (tmp_path / f"FDDB-folds/FDDB-fold-{fold:02}-ellipseList.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


class ColourFinder:
    """A detector that draws boxes round the coloured ellipses, in place of a network."""

    def __init__(self, boxes_alone):
        assert boxes_alone

    def stream(self, photos):
        for image in photos:
            boxes = []
            for colour in COLOURS:
                there = np.argwhere((np.abs(image.astype(int) - colour) < 60).all(axis=2))
                if len(there):
                    boxes.append([*there.min(axis=0)[::-1], *(there.max(axis=0)[::-1] + 1)])
            scores = np.linspace(0.9, 0.5, len(boxes))
            yield Faces(np.array(boxes, float).reshape(-1, 4), scores, size_hw=image.shape[:2])


@pytest.fixture
def module(script, monkeypatch):
    loaded = script("eval_fddb")
    monkeypatch.setattr(loaded, "build_analyzer", lambda args, boxes_alone: (ColourFinder(boxes_alone), args.model))
    return loaded


def run(module, folder, *words):
    where = ["--images", str(folder / "originalPics"), "--annotations", str(folder / "FDDB-folds")]
    out = folder / "out.json"
    assert module.main([*where, "--json", str(out), *words]) == 0
    return json.loads(out.read_text())


def write_perfect(path):
    lines = []
    for name, ellipses in ELLIPSES.items():
        rows = [" ".join(map(str, [*ellipse, 0.9 - i / 10])) for i, ellipse in enumerate(ellipses)]
        lines += [name, str(len(rows)), *rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_perfect_detections_in_fddbs_form_score_one(script, fddb, capsys):
    result = run(script("eval_fddb"), fddb, "--detections", write_perfect(fddb / "found.txt"), "--iou", ".5", ".8")
    for row in result["by_iou"].values():
        assert (row["recall_at_1fp"], row["recall_at_2000fp"], row["continuous_at_50fp"]) == (1, 1, 1)
        assert (row["recall"], row["false_positives"]) == (1, 0)
    assert set(result["by_iou"]) == {"0.5", "0.8"}
    assert (result["photos"], result["faces"], result["detections"]) == (3, 3, 3)
    assert (result["model"], result["shape"], result["truth"]) == ("found", "ellipse", "ellipse")
    assert result["domain"] == "FDDB (3 photos, 3 faces)"
    assert "50 false positives: discrete 1.0000   continuous 1.0000" in capsys.readouterr().out


def test_a_model_is_scored_and_its_detections_kept_for_the_official_program(module, fddb):
    result = run(module, fddb, "--model", "colours", "--save-detections", str(fddb / "kept" / "det.txt"))
    row = result["by_iou"]["0.5"]
    assert row["recall_at_1fp"] == 1 and 0.65 < row["continuous_at_1fp"] < 0.8  # rectangles round ellipses
    kept = read_fddb_detections(fddb / "kept" / "det.txt", SIZES)
    assert [len(one) for one in kept] == [2, 1, 0]
    again = run(module, fddb, "--detections", str(fddb / "kept" / "det.txt"))
    assert again["by_iou"] == result["by_iou"]


def test_several_long_sides_are_one_result(module, script, fddb, monkeypatch):
    asked = []

    def looked(analyzer, image, *, long_sides, **_):
        asked.append(long_sides)
        return next(analyzer.stream([image]))

    monkeypatch.setattr(script("detectors"), "detect_multiscale", looked)
    result = run(module, fddb, "--model", "colours", "--size", "128,256")
    assert asked == [[128, 256]] * 3 and result["long_sides"] == [128, 256]
    assert result["by_iou"]["0.5"]["recall_at_1fp"] == 1


def test_boxes_against_boxes_and_ellipses_against_ellipses_come_near_to_one(module, fddb):
    boxes = run(module, fddb, "--model", "colours", "--truth", "box", "--iou", ".8")
    assert boxes["by_iou"]["0.8"]["recall"] == 1 and boxes["by_iou"]["0.8"]["continuous_at_1fp"] > 0.9
    plain = run(module, fddb, "--model", "colours", "--iou", ".8")
    assert plain["by_iou"]["0.8"]["recall"] == 0
    inscribed = run(module, fddb, "--model", "colours", "--shape", "ellipse")
    assert inscribed["by_iou"]["0.5"]["continuous_at_1fp"] > plain["by_iou"]["0.8"]["continuous_at_1fp"]
    assert (boxes["truth"], inscribed["shape"]) == ("box", "ellipse")


@pytest.mark.parametrize("degrees", ["90", "-90", "180", "30"])
def test_ellipses_turn_with_their_photos(module, fddb, degrees):
    straight = run(module, fddb, "--model", "colours", "--truth", "box")
    turned = run(module, fddb, "--model", "colours", "--truth", "box", "--rotate", degrees)
    name = "continuous_at_50fp"
    # The rectangles round the turned ellipses, not round turned rectangles: the stand-in finds just these.
    assert turned["by_iou"]["0.5"][name] == pytest.approx(straight["by_iou"]["0.5"][name], abs=0.03)
    assert turned["by_iou"]["0.5"][name] > 0.9
    assert turned["rotate"] == int(degrees) and "turned by" in turned["domain"]


def test_json_lines_are_read_too(module, fddb):
    lines = []
    for name, size_hw in SIZES.items():
        boxes = [[x - minor, y - major, x + minor, y + major] for major, minor, _, x, y in ELLIPSES[name]]
        faces = Faces(np.array(boxes, float).reshape(-1, 4), np.full(len(boxes), 0.5), size_hw=size_hw)
        lines.append(json.dumps(faces.to_dict(f"/somewhere/originalPics/{name}.jpg", "net")))
    (fddb / "found.jsonl").write_text("\n".join(lines))
    result = run(module, fddb, "--detections", str(fddb / "found.jsonl"))
    assert (result["model"], result["detections"], result["shape"]) == ("net", 3, "rectangle")


def test_listed_photos_only(module, fddb):
    (fddb / "profile.txt").write_text("2002/08/12/big/img_2.jpg\n\n")
    result = run(module, fddb, "--model", "colours", "--photos", str(fddb / "profile.txt"))
    assert (result["photos"], result["faces"]) == (1, 1) and "listed in profile.txt" in result["domain"]
    (fddb / "profile.txt").write_text("2002/nowhere\n")
    with pytest.raises(ValueError, match="profile.txt: expected names like 2002/08/11/big/img_1.*2002/nowhere is none"):
        run(module, fddb, "--model", "colours", "--photos", str(fddb / "profile.txt"))
    result = run(module, fddb, "--model", "colours", "--folds", "1")
    assert (result["photos"], result["faces"]) == (1, 2) and "folds 1" in result["domain"]


def test_the_curves_are_drawn(module, fddb):
    pytest.importorskip("matplotlib")
    run(module, fddb, "--model", "colours", "--plot", str(fddb / "roc.png"))
    assert (fddb / "roc.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--model", "m", "--detections", "d"],
        ["--detections", "d", "--rotate", "90"],
        ["--model", "m", "--iou", "1"],
    ],
)
def test_a_command_line_that_means_nothing_is_refused(script, words):
    with pytest.raises(SystemExit) as refused:
        script("eval_fddb").main(["--images", "i", "--annotations", "a", *words])
    assert refused.value.code == 2
