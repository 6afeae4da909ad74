"""eval_detection.py on three drawn photos: detections from a file, a stand-in detector, turned photos, comparisons."""

import json
import math

import numpy as np
import pytest

from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.faces import Faces
from gluonface.image import save_image

SIZES = {"a/one.png": (60, 90), "a/two.png": (80, 80), "three.png": (50, 70)}
BOXES = {"a/one.png": [[10, 10, 30, 34], [50, 20, 62, 30]], "a/two.png": [[20, 30, 60, 70]], "three.png": []}
RED = (250, 10, 10)


@pytest.fixture
def data(tmp_path):
    """Photos with a red rectangle for each face, and their annotations."""
    samples = []
    for name, (height, width) in SIZES.items():
        image = np.full((height, width, 3), 90, np.uint8)
        for x1, y1, x2, y2 in BOXES[name]:
            image[y1:y2, x1:x2] = RED
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, image)
        labels = FaceLabels(np.array(BOXES[name], np.float32).reshape(-1, 4))
        samples.append(FaceSample(str(path), (height, width), labels, source="mask", name=name))
    write_jsonl(tmp_path / "det_tiny.jsonl", samples)
    return tmp_path / "det_tiny.jsonl"


def write_detections(path, drop=(), prefix="/elsewhere/images/", model="found", **changed):
    lines = []
    for name, size_hw in SIZES.items():
        boxes = np.array(BOXES[name], float).reshape(-1, 4)
        faces = Faces(boxes, np.linspace(0.9, 0.5, len(boxes)), size_hw=changed.get(name, size_hw))
        if name not in drop:
            lines.append(json.dumps(faces.to_dict(prefix + name, model)))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


class RedFinder:
    """A detector that finds red rectangles, in place of a network."""

    def stream(self, photos):
        for image in photos:
            red = (np.abs(image.astype(int) - RED) < 60).all(axis=2)
            boxes = []
            while red.any():
                y, x = np.argwhere(red)[0]
                bottom = y + int(np.argmin(np.append(red[y:, x], False)))
                right = x + int(np.argmin(np.append(red[y, x:], False)))
                boxes.append([x, y, right, bottom])
                red[y:bottom, x:right] = False
            scores = np.linspace(0.9, 0.5, len(boxes))
            yield Faces(np.array(boxes, float).reshape(-1, 4), scores, size_hw=image.shape[:2])


@pytest.fixture
def red(script, monkeypatch):
    """eval_detection with the stand-in detector."""
    module = script("eval_detection")
    monkeypatch.setattr(module, "build_analyzer", lambda args, boxes_alone: (RedFinder(), args.model))
    return module


def test_detections_of_a_file_are_scored(script, data, tmp_path, capsys):
    found = write_detections(tmp_path / "found.jsonl")
    out = tmp_path / "out" / "result.json"
    assert script("eval_detection").main(["--detections", found, "--data", str(data), "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert (result["model"], result["ap50"], result["ap"], result["recall_at_1fppi"]) == ("found", 1, 1, 1)
    assert result["domain"] == "mask street photos (FC26 det_tiny, 3 photos, 3 faces)"
    assert {name: row["faces"] for name, row in result["by_size"].items()} == {
        "under 16": 1,
        "16-32": 1,
        "32-96": 1,
        "over 96": 0,
    }
    assert result["by_size"]["over 96"]["ap50"] is None
    assert {"date", "command", "versions", "machine"} <= set(result)
    assert set(result["versions"]) == {"gluonface", "mxnet", "numpy", "python"}
    assert result["machine"]["cores"] >= 1
    assert str(tmp_path) not in out.read_text()
    printed = capsys.readouterr().out
    assert "mask street photos (FC26 det_tiny, 3 photos, 3 faces)" in printed
    assert "ap50 1.000" in printed


def test_faces_too_small_to_ask_for_are_neither_missed_nor_false(script, data, tmp_path):
    # 12x10 pixels of a photo 90 wide are 78 at a long side of 640, the others 156 and 320.
    found, out = write_detections(tmp_path / "found.jsonl"), tmp_path / "result.json"
    main = script("eval_detection").main
    rows = []
    for least in ("77", "79"):
        assert main(["--detections", found, "--data", str(data), "--min-face", least, "--json", str(out)]) == 0
        rows.append(json.loads(out.read_text()))
    assert [sum(size["faces"] for size in row["by_size"].values()) for row in rows] == [3, 2]
    assert all(row["ap50"] == 1 for row in rows)
    assert rows[1]["domain"].endswith("2 faces), faces of at least 79 pixels at a long side of 640")
    assert "per_photo" in rows[1] and rows[1]["min_face"] == 79


BAD_DETECTIONS = {
    "a missing photo": ({"drop": ("a/two.png",)}, r"1 of 3 photos are missing, the first is a/two\.png"),
    "another size": ({"a/one.png": (90, 60)}, r"line 1: a/one\.png is 60x90 here and 90x60 in the data"),
}


@pytest.mark.parametrize("what", BAD_DETECTIONS)
def test_detections_that_do_not_fit_the_data_are_named(script, data, tmp_path, what):
    changes, message = BAD_DETECTIONS[what]
    found = write_detections(tmp_path / "found.jsonl", **changes)
    with pytest.raises(ValueError, match=message):
        script("eval_detection").main(["--detections", found, "--data", str(data)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 4: not a line of"),
        ('{"image": "x.png", "faces": []}', "line 4: not a line of .*width"),
        ('{"width": 3, "height": 3, "faces": []}', "line 4: not a line of .*image"),
        ("[1]", "line 4: not a line of"),
    ],
)
def test_a_bad_line_of_detections_is_named(script, data, tmp_path, line, message):
    found = tmp_path / "found.jsonl"
    write_detections(found)
    found.write_text(found.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message):
        script("eval_detection").main(["--detections", str(found), "--data", str(data)])


def test_a_photo_that_is_there_twice_is_named(script, data, tmp_path):
    found = tmp_path / "found.jsonl"
    write_detections(found)
    found.write_text(found.read_text() * 2)
    with pytest.raises(ValueError, match=r"line 4: a/one\.png is here a second time"):
        script("eval_detection").main(["--detections", str(found), "--data", str(data)])


def test_lines_of_other_photos_do_not_matter(script, data, tmp_path):
    found = tmp_path / "found.jsonl"
    write_detections(found, prefix="")
    extra = json.dumps(Faces.empty((5, 5)).to_dict("other.png"))
    found.write_text(extra + "\n\n" + found.read_text())
    assert script("eval_detection").main(["--detections", str(found), "--data", str(data)]) == 0


@pytest.mark.parametrize("degrees", ["0", "90", "180", "270", "-90", "450"])
def test_photos_and_labels_turn_together(red, data, tmp_path, degrees):
    out = tmp_path / "result.json"
    assert red.main(["--model", "red", "--data", str(data), "--rotate", degrees, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert (result["ap50"], result["ap"]) == (1, 1)
    assert result["rotate"] == int(degrees)
    assert ("turned by" in result["domain"]) == (degrees != "0")


def test_a_quarter_turn_moves_every_pixel_and_label_exactly(script):
    module = script("eval_detection")
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    labels = FaceLabels(
        np.array([[10.0, 5, 30, 35]]), landmarks5=np.array([[[12, 8], [28, 8], [20, 20], [14, 30], [26, 30]]])
    )
    plan = module.turn((40, 60), 90)  # clockwise: the top edge becomes the right one
    assert np.array_equal(plan.warp(image), np.rot90(image, -1))
    turned = plan.labels(labels)
    assert turned.boxes.tolist() == [[5, 10, 35, 30]]
    assert turned.landmarks5[0, 0].tolist() == [32, 12]
    back = module.turn(plan.size_hw, -90)
    assert np.array_equal(back.warp(plan.warp(image)), image)
    assert back.labels(turned).boxes.tolist() == labels.boxes.tolist()


@pytest.mark.parametrize("degrees", [30, 45, 100, 200, -15])
def test_any_other_turn_keeps_the_whole_photo_on_the_canvas(script, degrees):
    plan = script("eval_detection").turn((40, 60), degrees)
    corners = plan.points(np.array([[0, 0], [60, 0], [0, 40], [60, 40.0]]))
    height, width = plan.size_hw
    assert corners.min() >= -1e-3
    assert (corners.max(axis=0) <= np.array([width, height]) + 1e-3).all()
    turned_area = 60 * 40 + (60**2 + 40**2) * abs(math.sin(math.radians(degrees)) * math.cos(math.radians(degrees)))
    assert width * height < 1.06 * turned_area


def test_a_painted_dot_is_found_where_the_turned_point_is(script):
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:23, 50:53] = 255
    plan = script("eval_detection").turn((60, 80), 30)
    where = np.argwhere(plan.warp(image)[..., 0] > 100).mean(axis=0)[::-1] + 0.5
    assert where == pytest.approx(plan.points(np.array([[51.5, 21.5]]))[0], abs=0.3)


def test_a_photo_of_another_size_than_the_data_say_is_named(red, data):
    save_image(data.parent / "images" / "three.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match=r"three\.png: the data say 70x50, the photo has 20x20"):
        red.main(["--model", "red", "--data", str(data)])


def test_two_results_are_compared(red, data, tmp_path, capsys):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    red.main(["--model", "red", "--data", str(data), "--json", str(good)])
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text("".join(json.dumps(Faces.empty(s).to_dict(n, "none")) + "\n" for n, s in SIZES.items()))
    options = ["--resamples", "500", "--compare", str(good)]
    red.main(["--detections", str(nothing), "--data", str(data), "--json", str(bad), *options])
    comparison = json.loads(bad.read_text())["comparison"]
    assert (comparison["with"], comparison["difference"]) == ("good.json", -1)
    capsys.readouterr()
    assert red.main(["--compare", str(good), str(bad), "--resamples", "500"]) == 0
    assert "difference +1.0000" in capsys.readouterr().out


def test_results_without_the_photos_cannot_be_compared(red, tmp_path):
    path = tmp_path / "old.json"
    path.write_text('{"model": "old"}')
    with pytest.raises(ValueError, match="no per_photo"):
        red.main(["--compare", str(path), str(path)])


def test_points_only_says_nothing_of_precision(red, data, tmp_path, capsys):
    out = tmp_path / "result.json"
    red.main(["--model", "red", "--data", str(data), "--points-only", "--json", str(out)])
    result = json.loads(out.read_text())
    assert not {"ap50", "ap", "by_size", "recall_at_1fppi", "per_photo"} & set(result)
    assert result["nme5_faces"] == 0
    assert "ap50" not in capsys.readouterr().out


def test_a_detector_of_boxes_alone_misses_no_points(red, data, tmp_path, capsys):
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    for line in lines:
        for face in line["faces"]:
            x1, y1, x2, y2 = face["box"]
            face["landmarks5"] = [[x1, y1], [x2, y1], [(x1 + x2) / 2, (y1 + y2) / 2], [x1, y2], [x2, y2]]
            face["landmarks5_source"] = "human"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "result.json"
    red.main(["--model", "red", "--data", str(data), "--json", str(out)])
    result = json.loads(out.read_text())
    assert (result["ap50"], result["nme5"], result["nme5_faces"], result["nme5_missed"]) == (1, None, 0, 0)
    assert "five points" not in capsys.readouterr().out


def test_the_recall_of_the_best_few_stands_beside(red, data, tmp_path, capsys):
    out = tmp_path / "result.json"
    red.main(["--model", "red", "--data", str(data), "--top", "1", "--json", str(out)])
    assert json.loads(out.read_text())["recall_top1"] == pytest.approx(2 / 3, abs=1e-5)  # one photo has two faces
    assert "recall_top1: .667" in capsys.readouterr().out
    red.main(["--model", "red", "--data", str(data), "--json", str(out)])
    assert not [key for key in json.loads(out.read_text()) if key.startswith("recall_top")]


def test_proposals_are_measured_in_the_place_of_faces(script, data, tmp_path, monkeypatch, capsys):
    module, asked = script("eval_detection"), []

    def proposer(args):
        asked.append((args.size, args.top))
        return RedFinder(), args.model

    monkeypatch.setattr(module, "build_proposer", proposer)
    out = tmp_path / "result.json"
    words = ["--model", "red", "--data", str(data), "--size", "256", "--json", str(out)]
    assert module.main([*words, "--proposals"]) == 0
    result = json.loads(out.read_text())
    assert asked == [(256, 100)] and result["proposals"] is True and result["recall_top100"] == 1
    assert "red, long side 256, proposals alone" in capsys.readouterr().out
    module.main([*words, "--proposals", "--top", "1"])
    assert asked[1] == (256, 1) and "recall_top1" in json.loads(out.read_text())


def test_proposals_of_a_net_are_the_best_few_of_its_scale_map_whatever_their_score(script, data, tmp_path):
    from gluonface._compat import mx
    from gluonface.model_zoo import get_model

    net = get_model("kpnet_drnet_widerface")
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(tmp_path / "last.params"))
    detectors, module = script("detectors"), script("eval_detection")
    words = ["--model", "kpnet_drnet_widerface", "--weights", str(tmp_path / "last.params"), "--data", str(data)]
    args = module.parse_args([*words, "--size", "64", "--proposals", "--top", "7"])
    analyzer, name = detectors.build_proposer(args)
    assert name == "kpnet_drnet_widerface (last.params)"
    assert analyzer.net.boxes == "proposals" and analyzer.net.post_nms == 7 and analyzer.score_thresh == 0
    found = list(analyzer.stream([np.zeros((48, 64, 3), np.uint8)]))
    # Of a net that knows nothing each is as improbable as its start says; faces would be none.
    assert 0 < len(found[0]) <= 7 and found[0].scores.max() < 0.02


def test_boxes_are_fitted_to_the_labels_first(script, data, tmp_path):
    found, out = tmp_path / "found.jsonl", tmp_path / "result.json"
    lines = []
    for name, size_hw in SIZES.items():
        boxes = np.array(BOXES[name], float).reshape(-1, 4)
        boxes[:, 1] += (boxes[:, 3] - boxes[:, 1]) / 4  # without foreheads
        lines.append(json.dumps(Faces(boxes, np.full(len(boxes), 0.5), size_hw=size_hw).to_dict(name)))
    found.write_text("\n".join(lines))
    module, words = script("eval_detection"), ["--detections", str(found), "--data", str(data), "--json", str(out)]
    module.main(words)
    assert json.loads(out.read_text())["ap"] < 0.8
    module.main([*words, "--fit-boxes"])
    result = json.loads(out.read_text())
    assert result["ap"] == 1 and result["fitted_boxes"]["scale_y"] == pytest.approx(4 / 3, abs=1e-3)


def test_other_sets_are_read_by_their_format(red, data, tmp_path):
    text = "".join(
        f"{name}\n{len(boxes)}\n" + "".join(f"{x1} {y1} {x2 - x1} {y2 - y1}\n" for x1, y1, x2, y2 in boxes)
        for name, boxes in BOXES.items()
    )
    (tmp_path / "malf.txt").write_text(text)
    out = tmp_path / "result.json"
    words = ["--model", "red", "--format", "malf", "--data", str(tmp_path / "malf.txt"), "--json", str(out)]
    assert red.main([*words, "--images", str(data.parent / "images")]) == 0
    result = json.loads(out.read_text())
    assert (result["ap50"], result["domain"]) == (1, "malf (malf, 3 photos, 3 faces)")
    with pytest.raises(SystemExit):
        red.main(words)  # where are the photos?


def test_the_curve_is_drawn(red, data, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plots" / "curve.png"
    red.main(["--model", "red", "--data", str(data), "--plot", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_several_scales_and_flips_go_to_test_time_augmentation(script, data, monkeypatch):
    detectors, calls = script("detectors"), []

    def looked(analyzer, image, short_sides, flip, soft, max_long_side):
        calls.append((image.shape[:2], short_sides, flip, soft))
        return Faces.empty(image.shape[:2])

    monkeypatch.setattr(detectors, "detect_multiscale", looked)
    module = script("eval_detection")
    monkeypatch.setattr(module, "build_analyzer", lambda args, boxes_alone: (RedFinder(), args.model))
    run = ["--model", "red", "--data", str(data)]
    module.main([*run, "--scales", "100", "200"])
    assert calls == [(size, [100, 200], False, None) for size in SIZES.values()]
    calls.clear()
    module.main([*run, "--size", "180", "--flip"])
    assert calls == [((60, 90), [120], True, None), ((80, 80), [180], True, None), ((50, 70), [129], True, None)]
    calls.clear()
    module.main([*run, "--size", "stored", "--flip", "--soft-nms", "gaussian"])
    assert calls[0] == ((60, 90), None, True, "gaussian")


@pytest.mark.parametrize("flags", [(), ("--points-only",)])
def test_points_that_take_time_are_looked_for_where_they_are_what_is_measured(
    script, data, tmp_path, monkeypatch, flags
):
    module, asked = script("eval_detection"), []
    build = lambda args, boxes_alone: (asked.append(boxes_alone), (RedFinder(), args.model))[1]  # noqa: E731
    monkeypatch.setattr(module, "build_analyzer", build)
    assert module.main(["--model", "red", "--data", str(data), *flags]) == 0
    assert asked == [not flags]


def test_several_long_sides_are_one_result(script, data, tmp_path, monkeypatch, capsys):
    detectors, calls = script("detectors"), []

    def looked(analyzer, image, **options):
        calls.append((image.shape[:2], options))
        return Faces.empty(image.shape[:2])

    monkeypatch.setattr(detectors, "detect_multiscale", looked)
    module = script("eval_detection")
    monkeypatch.setattr(module, "build_analyzer", lambda args, boxes_alone: (RedFinder(), args.model))
    out = tmp_path / "result.json"
    words = ["--model", "red", "--data", str(data), "--size", "256,640", "--json", str(out)]
    module.main(words)
    sides = {"long_sides": [256, 640], "soft": None, "max_long_side": None}
    assert calls == [(size, {**sides, "flip": False}) for size in SIZES.values()]
    result = json.loads(out.read_text())
    assert result["long_sides"] == [256, 640] and result["flip"] is False and "size" not in result
    assert "red, long sides 256, 640\n" in capsys.readouterr().out
    calls.clear()
    module.main([*words, "--flip"])
    assert calls[0] == ((60, 90), {**sides, "flip": True})
    assert "long sides 256, 640 and mirrored" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--model", "x"],
        ["--model", "m", "--data", "x", "--size", "256,0"],
        ["--model", "m", "--data", "x", "--size", "256,256"],
        ["--model", "m", "--data", "x", "--size", "256,640", "--scales", "500"],
        ["--detections", "d", "--data", "x", "--proposals"],
        ["--model", "m", "--data", "x", "--proposals", "--size", "256,640"],
        ["--model", "m", "--data", "x", "--proposals", "--flip"],
        ["--model", "m", "--data", "x", "--proposals", "--points-only"],
        ["--detections", "d", "--data", "x", "--box-style", "tight"],
        ["--data", "d.jsonl"],
        ["--compare", "a.json"],
        ["--detections", "d", "--model", "m", "--data", "x"],
        ["--detections", "d", "--data", "x", "--rotate", "90"],
        ["--data", "x", "--weights", "w.params"],
        ["--model", "m", "--data", "x", "--size", "0"],
        ["--model", "m", "--data", "x", "--size", "64x64", "--flip"],
    ],
)
def test_a_command_line_that_means_nothing_is_refused(script, words):
    with pytest.raises(SystemExit) as refused:
        script("eval_detection").main(words)
    assert refused.value.code == 2
