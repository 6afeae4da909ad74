"""eval_landmarks.py on drawn photos: stand-ins whose errors are known, and a small net with random weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.errors import DataError, GluonFaceError, InputError, WeightsError
from gluonface.faces import SCHEMES, Faces
from gluonface.image import load_image, save_image

TINY = "heatmap_mobilenetv2_0.25_s_fc26"
RNG = np.random.default_rng(5)
DARK = SimpleNamespace(method="dark")

# Where the stand-in sees the 68 points in a box; the outer eye corners are .6 of its width apart.
PLACES = RNG.integers(5, 46, (68, 2)) / 50
PLACES[[36, 45]] = (0.2, 0.4), (0.8, 0.4)
# Photos, boxes of their faces, and how far from PLACES the labelled points are: errors 5/60, 1.5/30, .6/30.
SIZES = {"one.png": (120, 200), "a/two.png": (90, 100), "three.png": (60, 80)}
BOXES = {"one.png": [[10, 10, 110, 110], [120, 20, 170, 80]], "a/two.png": [[20, 20, 70, 80]], "three.png": []}
OFFSETS = {"one.png": [(3, 4), (0, 1.5)], "a/two.png": [(0.6, 0)], "three.png": []}
ERRORS = [5 / 60, 1.5 / 30, 0.6 / 30]
SOURCES = {"one.png": "helen", "a/two.png": "lfpw", "three.png": "mask"}
# What the stand-in detector finds: the second face of the first photo a little off, that of the second photo not.
FOUND = {
    (120, 200): [[150, 90, 190, 118], [122, 22, 172, 82], [10, 10, 110, 110]],
    (90, 100): [[60, 10, 90, 40]],
    (60, 80): [],
}


def placed(boxes):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return boxes[:, None, :2] + PLACES * (boxes[:, None, 2:] - boxes[:, None, :2])


def labels(name, **fields):
    boxes = np.array(BOXES[name], np.float32).reshape(-1, 4)
    if not len(boxes):
        return FaceLabels(boxes)
    return FaceLabels(boxes, landmarks=placed(boxes) + np.array(OFFSETS[name])[:, None], scheme="68", **fields)


def write_data(folder, **changed):
    """Photos and their annotations; `changed` labels take the place of those of a photo."""
    samples = []
    for name, size_hw in SIZES.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, RNG.integers(0, 256, (*size_hw, 3), np.uint8))
        faces = changed.get(name.partition(".")[0].rpartition("/")[2], labels(name))
        samples.append(FaceSample(str(path), size_hw, faces, source=SOURCES[name], name=name))
    write_jsonl(folder / "lmk_tiny.jsonl", samples)
    return folder / "lmk_tiny.jsonl"


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


class Knowing:
    """In place of a `LandmarkPredictor`: from boxes the points at PLACES, from detections half a pixel lower."""

    scheme = "68"

    def __init__(self, name="knowing"):
        self.facts, self.net, self.calls = (
            SimpleNamespace(name=name),
            SimpleNamespace(scheme=self.scheme, decoder=DARK),
            [],
        )

    def from_boxes(self, images, boxes):
        self.calls.append(("boxes", [image.shape[:2] for image in images]))
        return [placed(b).astype(np.float32) for b in boxes], None

    def from_points(self, images, five):
        self.calls.append(("points", [np.array(f) for f in five]))
        return [np.zeros((len(f), 68, 2)) for f in five], None

    def __call__(self, images, faces):
        self.calls.append(("faces", [len(f) for f in faces]))
        return [f.with_(landmarks=placed(f.boxes) + np.array([0, 0.5]), scheme=self.scheme) for f in faces]


class Finder:
    """In place of a `FaceAnalyzer`."""

    def __init__(self, detector, root=None, size="auto", score_thresh=None):
        self.detector = detector

    def stream(self, photos):
        for image in photos:
            boxes = np.array(FOUND[image.shape[:2]], float).reshape(-1, 4)
            yield Faces(boxes, np.linspace(0.9, 0.5, len(boxes)), size_hw=image.shape[:2])


@pytest.fixture
def known(script, monkeypatch):
    """eval_landmarks with stand-ins; `known.made` are the predictors."""
    module = script("eval_landmarks")
    made = []

    def build(name, args):
        made.append(Knowing(name))
        return made[-1]

    monkeypatch.setattr(module, "build_predictor", build)
    monkeypatch.setattr(module, "FaceAnalyzer", Finder)
    monkeypatch.setattr(module, "made", made, raising=False)
    return module


def result_of(module, tmp_path, *words):
    out = tmp_path / "out" / "result.json"
    assert module.main([*map(str, words), "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_the_figures_are_those_worked_out_by_hand(known, data, tmp_path, capsys):
    result = result_of(known, tmp_path, "--model", "m", "--data", data)
    assert result["nme"] == pytest.approx(np.mean(ERRORS), abs=2e-5)
    assert result["auc"] == pytest.approx((0 + 0.375 + 0.75) / 3, abs=2e-4)
    assert result["failure_rate"] == pytest.approx(1 / 3, abs=1e-5)
    assert (result["faces"], result["missed"], result["photos"]) == (3, 0, 2)
    assert result["nme_percentiles"]["90"] == pytest.approx(np.percentile(ERRORS, 90), abs=2e-5)
    # All points of a face are off by the same.
    assert result["nme_groups"] == pytest.approx(dict.fromkeys(SCHEMES["68"].groups, result["nme"]), abs=1e-5)
    assert (result["model"], result["scheme"], result["norm"], result["align"]) == ("m", "68", "interocular", "boxes")
    assert (result["flip"], result["decoder"], result["passes"], result["oracle"]) == ("points", "dark", "auto", False)
    assert {"date", "command", "versions", "machine"} <= set(result)
    assert result["domain"] == "Helen portraits, LFPW portraits (FC26 lmk_tiny, 2 photos, 3 faces)"
    assert str(tmp_path) not in json.dumps(result)
    printed = capsys.readouterr().out
    assert "aligned from labelled boxes" in printed and "oracle" not in printed
    assert "5.11  37.50     33.33" in printed  # per cent


def test_photos_without_landmarks_are_not_read(known, data, tmp_path):
    (data.parent / "images" / "three.png").unlink()
    result_of(known, tmp_path, "--model", "m", "--data", data)
    assert known.made[0].calls == [("boxes", [(120, 200), (90, 100)])]


def test_ignored_faces_do_not_count(known, tmp_path):
    data = write_data(tmp_path, one=labels("one.png", ignore=[True, False]))
    result = result_of(known, tmp_path, "--model", "m", "--data", data)
    assert result["nme"] == pytest.approx(np.mean(ERRORS[1:]), abs=2e-5)


def test_a_source_can_be_chosen(known, data, tmp_path):
    result = result_of(known, tmp_path, "--model", "m", "--data", data, "--source", "lfpw")
    assert result["nme"] == pytest.approx(ERRORS[2], abs=2e-5)
    assert result["domain"].startswith("LFPW portraits (FC26 lmk_tiny, 1 photos")


@pytest.mark.parametrize(("norm", "size"), [("box", np.sqrt(50 * 60)), ("face_size", 25)])
def test_the_norm_is_taken(known, tmp_path, norm, size):
    data = write_data(tmp_path, two=labels("a/two.png", attributes=[{"face_size": 25}]))
    words = ("--model", "m", "--data", data, "--source", "lfpw", "--norm", norm, "--threshold", ".012")
    result = result_of(known, tmp_path, *words)
    assert (result["norm"], result["nme"]) == (norm, pytest.approx(0.6 / size, abs=2e-5))
    assert result["failure_rate"] == (0.6 / size > 0.012)


def test_detections_end_to_end_are_matched_and_missed_faces_count(known, data, tmp_path, capsys):
    result = result_of(known, tmp_path, "--model", "m", "--data", data, "--end-to-end", "finder")
    # The second face is detected 2 pixels lower and farther right, and both half a pixel lower.
    errors = [np.hypot(3, 3.5) / 60, np.hypot(2, 1) / 30]
    assert (result["faces"], result["missed"]) == (3, 1)
    assert result["nme"] == pytest.approx(np.mean(errors), abs=2e-5)
    assert result["auc"] == pytest.approx((np.clip(1 - np.array(errors) / 0.08, 0, 1)).sum() / 3, abs=2e-4)
    assert result["failure_rate"] == pytest.approx(1 / 3, abs=1e-5)
    assert result["nme_gt_boxes"] == pytest.approx(np.mean(ERRORS[:2]), abs=2e-5)
    assert result["relative"] == pytest.approx(np.mean(errors) / np.mean(ERRORS[:2]) - 1, abs=1e-3)
    assert (result["align"], result["end_to_end"], result["passes"]) == ("detections", "finder", "auto")
    # Only the faces that belong to labelled ones are looked at.
    assert known.made[0].calls[0] == ("faces", [2, 0])
    printed = capsys.readouterr().out
    assert "faces as detected by finder" in printed
    assert "(both over the 2 faces found in both ways)" in printed


def test_a_missed_face_before_one_that_is_found_does_not_take_its_points(known, data, tmp_path, monkeypatch):
    monkeypatch.setitem(FOUND, (120, 200), FOUND[120, 200][:2])
    words = ("--model", "m", "--data", data, "--source", "helen", "--end-to-end", "finder")
    result = result_of(known, tmp_path, *words)
    assert (result["faces"], result["missed"]) == (2, 1)
    assert result["nme"] == pytest.approx(np.hypot(2, 1) / 30, abs=2e-5)
    assert result["nme_gt_boxes"] == pytest.approx(ERRORS[1], abs=2e-5)


def test_where_nothing_is_found_the_result_says_so(known, data, tmp_path, monkeypatch):
    monkeypatch.setattr(known, "FaceAnalyzer", lambda *a, **k: SimpleNamespace(stream=lambda p: map(nothing, p)))
    result = result_of(known, tmp_path, "--model", "m", "--data", data, "--end-to-end", "blind")
    assert (result["missed"], result["auc"], result["failure_rate"]) == (3, 0, 1)
    assert result["nme"] is result["nme_gt_boxes"] is result["relative"] is None


def nothing(image):
    return Faces.empty(image.shape[:2])


def test_a_detection_belongs_to_one_face_and_must_overlap_by_half(script):
    module = script("eval_landmarks")
    truth = FaceLabels(np.array([[0, 0, 20, 20], [4, 0, 24, 20], [50, 0, 70, 20], [100, 0, 120, 20]]))
    sample = FaceSample("p", (50, 200), truth)
    boxes = [[50, 0, 70, 10], [5, 0, 25, 20], [100, 0, 120, 9.9], [50, 0, 70, 21]]
    (one,) = module.match_faces([sample], [Faces(boxes, [0.9, 0.8, 0.7, 0.6], size_hw=(50, 200))])
    # The second face takes the detection that the first overlaps too; the third the closer one of two.
    assert one.labels.tolist() == [1, 2]
    assert one.faces.boxes.tolist() == [boxes[1], boxes[3]]


def test_an_oracle_is_called_one(known, data, tmp_path, capsys):
    result = result_of(known, tmp_path, "--model", "m", "--data", data, "--align", "points")
    assert (result["align"], result["oracle"], result["passes"]) == ("points", True, "auto")
    assert "aligned by labelled points (an oracle)" in capsys.readouterr().out
    kind, five = known.made[0].calls[0]
    assert kind == "points"
    expected = SCHEMES["68"].five_points(labels("one.png").landmarks)
    assert five[0] == pytest.approx(expected, abs=0.01)


def test_an_oracle_takes_the_labelled_five_where_dense_points_are_missing(known, tmp_path):
    gaps = labels("one.png", landmarks5=np.arange(20.0).reshape(2, 5, 2))
    gaps.landmarks[0, 30] = np.nan  # the nose
    data = write_data(tmp_path, one=gaps)
    result_of(known, tmp_path, "--model", "m", "--data", data, "--align", "points")
    five = known.made[0].calls[0][1][0]
    assert five[0].tolist() == gaps.landmarks5[0].tolist()
    assert five[1] == pytest.approx(SCHEMES["68"].five_points(gaps.landmarks[1]), abs=0.01)
    gaps.landmarks5[0, 0] = np.nan
    data = write_data(tmp_path, one=gaps)
    with pytest.raises(DataError, match=r"one\.png: labelled face 0 of 2 lacks some of the five points"):
        known.main(["--model", "m", "--data", str(data), "--align", "points"])


@pytest.mark.parametrize("way", [[], ["--end-to-end", "finder"]])
def test_any_number_of_photos_at_once_gives_the_same(known, data, tmp_path, monkeypatch, way):
    words = ("--model", "m", "--data", data, *way)
    whole = result_of(known, tmp_path, *words)
    monkeypatch.setattr(known, "_AT_ONCE", 1)
    assert result_of(known, tmp_path, *words)["nme"] == whole["nme"]
    assert len(known.made[1].calls) == 2 * len(known.made[0].calls)


def test_several_models_are_drawn_together(known, data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    drawn = []
    save = known.save_figure
    monkeypatch.setattr(known, "save_figure", lambda drawing, path: (drawn.append(drawing), save(drawing, path)))
    picture = tmp_path / "plots" / "ced.png"
    assert known.main(["--model", "first", "second", "--data", str(data), "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    assert "%" in axes.get_xlabel() and "%" in axes.get_ylabel()
    assert "Helen portraits" in axes.get_title()
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [f"{name}\nAUC 37.50 %, failures 33.33 %" for name in ("first", "second")]
    for line in axes.lines:
        x, y = line.get_data()
        assert (x[0], x[-1], y[0]) == (0, 8, 0)
        assert y[-1] == pytest.approx(200 / 3)
        assert y[np.searchsorted(x, 4)] == pytest.approx(100 / 3)
    printed = capsys.readouterr().out
    assert "first" in printed and "second" in printed


# Predictions of a file


def write_predictions(path, points=68, drop=()):
    lines = []
    for name, size_hw in SIZES.items():
        boxes = np.array(FOUND[size_hw], float).reshape(-1, 4)
        dense = {"landmarks": placed(boxes)[:, :points], "scheme": str(points)} if points and len(boxes) else {}
        faces = Faces(boxes, np.ones(len(boxes)), size_hw=size_hw, **dense)
        if name not in drop:
            lines.append(json.dumps(faces.to_dict(f"/elsewhere/{name}", "found")))
    path.write_text("\n".join(lines))
    return str(path)


def test_predictions_of_a_file_are_matched_and_scored(script, data, tmp_path, capsys):
    found = write_predictions(tmp_path / "found.jsonl")
    result = result_of(script("eval_landmarks"), tmp_path, "--predictions", found, "--data", data)
    assert result["nme"] == pytest.approx(np.mean([5 / 60, np.hypot(2, 0.5) / 30]), abs=2e-5)
    assert (result["model"], result["faces"], result["missed"]) == ("found", 3, 1)
    assert result["align"] == "detections"
    assert not {"flip", "decoder", "passes", "nme_gt_boxes"} & set(result)
    assert "faces as detected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 0}, r"one\.png has no landmarks a face, the data have 68"),
        ({"points": 29}, r"one\.png has 29 landmarks a face, the data have 68"),
        ({"drop": ("a/two.png",)}, r"1 of 2 photos are missing, the first is a/two\.png"),
    ],
)
def test_predictions_that_do_not_fit_the_data_are_named(script, data, tmp_path, changes, message):
    found = write_predictions(tmp_path / "found.jsonl", **changes)
    with pytest.raises(DataError, match=message):
        script("eval_landmarks").main(["--predictions", found, "--data", str(data)])


# Detectors that give points themselves

# What the stand-in finds on a crop of a square face, which lies at 112 to 368, best first: a box elsewhere, one 20
# pixels to the right (overlap .85), the face itself.
IN_CROP = [[0, 0, 90, 90], [132, 112, 388, 368], [112, 112, 368, 368]]


class OwnFinder(Finder):
    """`Finder` whose faces have points at PLACES."""

    def __init__(self, detector, root=None, size="auto", score_thresh=None, batch_size=16):
        super().__init__(detector)
        self.points = getattr(detector, "num_points", 0)

    def stream(self, photos):
        for image in photos:
            boxes = np.array(IN_CROP if image.shape[:2] == (480, 480) else FOUND[image.shape[:2]], float).reshape(-1, 4)
            points = {"landmarks": placed(boxes), "scheme": "68"} if self.points == 68 else {}
            if self.points == 5:
                points = {"landmarks5": SCHEMES["68"].five_points(placed(boxes))}
            yield Faces(boxes, np.linspace(0.9, 0.5, len(boxes)), size_hw=image.shape[:2], **points)

    def detect_letterboxed(self, images, boxes, score_thresh=None):
        return list(self.stream(images))


@pytest.fixture
def square(tmp_path, monkeypatch):
    """`data` with a square face on the second photo."""
    monkeypatch.setitem(BOXES, "a/two.png", [[20, 20, 70, 70]])
    return write_data(tmp_path)


@pytest.fixture
def seeing(known, monkeypatch):
    """eval_landmarks whose models "own" and "five" find faces and points, as `OwnFinder` does, others as in `known`."""
    monkeypatch.setattr(known, "FaceAnalyzer", OwnFinder)
    knowing = known.build_predictor

    def build(name, args):
        if name not in ("own", "five"):
            return knowing(name, args)
        net = SimpleNamespace(facts=SimpleNamespace(name=name), num_points=68 if name == "own" else 5)
        if name == "own":
            net.decoder = DARK
        return known.PointDetector(net, match_iou=args.match_iou)

    monkeypatch.setattr(known, "build_predictor", build)
    return known


@pytest.mark.parametrize(("iou", "shift"), [(None, 20), (0.84, 20), (0.9, 0)])
def test_the_most_confident_proposal_on_a_face_of_256_pixels_counts(seeing, square, tmp_path, capsys, iou, shift):
    words = () if iou is None else ("--match-iou", iou)
    result = result_of(seeing, tmp_path, "--model", "own", "--data", square, "--source", "lfpw", *words)
    # 50 pixels of the photo are 256 of the crop.
    assert result["nme"] == pytest.approx(abs(shift * 50 / 256 - 0.6) / 30, abs=2e-5)
    assert (result["align"], result["face_pixels"], result["match_iou"]) == ("boxes", 256, iou or 0.4)
    assert (result["flip"], result["decoder"], result["end_to_end"], result["missed"]) == ("none", "dark", None, 0)
    assert "passes" not in result
    assert "labelled faces at 256 pixels, the most confident one over IoU" in capsys.readouterr().out


def test_a_face_not_found_in_its_crop_is_missed(seeing, data, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "IN_CROP", IN_CROP[:1])
    result = result_of(seeing, tmp_path, "--model", "own", "--data", data, "--source", "lfpw")
    assert (result["missed"], result["auc"], result["failure_rate"]) == (1, 0, 1)
    assert result["nme"] is result["ced_95"] is None


def test_end_to_end_such_a_detector_finds_the_faces_itself(seeing, data, tmp_path, capsys, monkeypatch):
    # A more confident box that overlaps the first face by .32, and the face itself.
    monkeypatch.setitem(FOUND, (120, 200), [[10, 10, 42, 110], [10, 10, 110, 110]])
    result = result_of(seeing, tmp_path, "--model", "own", "--data", data, "--source", "helen", "--end-to-end")
    loose = placed([[10, 10, 42, 110]])[0] - labels("one.png").landmarks[0]
    assert result["nme"] == pytest.approx(np.linalg.norm(loose, axis=1).mean() / 60, abs=2e-5)
    assert (result["faces"], result["missed"], result["failure_rate"]) == (2, 1, 1)
    assert (result["align"], result["end_to_end"], result["match_iou"]) == ("detections", "own", 0.3)
    # From labelled boxes of the faces found: the square one.
    assert result["nme_gt_boxes"] == pytest.approx(np.hypot(20 * 100 / 256 - 3, 4) / 60, abs=2e-5)
    assert result["compared"] == 1 and "(both over the 1 faces found in both ways)" in capsys.readouterr().out

    strict = result_of(
        seeing, tmp_path, "--model", "own", "--data", data, "--source", "helen", "--end-to-end", "--match-iou", ".4"
    )
    assert (strict["nme"], strict["match_iou"]) == (pytest.approx(5 / 60, abs=2e-5), 0.4)


def test_such_a_detector_finds_the_same_at_a_short_side(seeing, data, tmp_path):
    words = ("--model", "own", "--data", data, "--end-to-end")
    whole, short = (result_of(seeing, tmp_path, *words, *more) for more in ((), ("--short-side", "100")))
    assert short["short_side"] == 100 and short["missed"] == 1
    for key in ("nme", "auc", "failure_rate", "nme_gt_boxes", "missed"):
        assert short[key] == pytest.approx(whole[key], abs=1e-5)


@pytest.mark.parametrize(("points", "got"), [({}, "none"), ({"landmarks": np.ones((1, 29, 2)), "scheme": "29"}, "29")])
def test_faces_without_the_points_to_score_are_no_missed_ones(script, points, got):
    module = script("eval_landmarks")
    truth = FaceLabels(np.array([[0, 0, 20, 20]]), landmarks=np.ones((1, 68, 2)), scheme="68")
    sample, faces = FaceSample("p", (50, 200), truth), Faces([[0, 0, 20, 20]], [0.9], size_hw=(50, 200), **points)
    with pytest.raises(InputError, match=f"expected 68 dense landmarks of each face found, got {got}: "):
        module.spread(sample, module.Found(faces, np.array([0])), faces)
    assert np.isnan(module.spread(sample, module.Found(faces[:0], np.array([], int)), faces[:0])).all()


def test_a_landmark_net_beside_it_needs_a_detector_and_is_drawn_with_it(seeing, data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    words = ["--model", "own", "m", "--data", str(data), "--end-to-end"]
    with pytest.raises(InputError, match="--end-to-end: expected the name of a detector for m"):
        seeing.main(words)
    drawn = []
    monkeypatch.setattr(seeing, "save_figure", lambda drawing, path: drawn.append(drawing))
    assert seeing.main([*words, "finder", "--match-iou", ".3", "--picture", "ced.png"]) == 0
    (axes,) = drawn[0].axes
    own, other = (line.get_ydata() for line in axes.lines)
    # Both miss one of three faces: their curves end at two thirds at most.
    assert max(own) <= 200 / 3 + 1e-6 and max(other) <= 200 / 3 + 1e-6
    assert all("1 missed" in text.get_text() for text in axes.get_legend().get_texts())
    printed = capsys.readouterr().out
    assert "own: faces as detected by own" in printed and "m: faces as detected by finder" in printed


def test_five_points_compare_nets_of_any_scheme(seeing, square, tmp_path):
    truth = SCHEMES["68"].five_points(labels("a/two.png").landmarks)[0]
    size = np.linalg.norm(truth[0] - truth[1])
    words = ("--data", square, "--source", "lfpw", "--five")
    for name, error in (("m", 0.6), ("own", 20 * 50 / 256 - 0.6), ("five", 20 * 50 / 256 - 0.6)):
        result = result_of(seeing, tmp_path, "--model", name, *words)
        assert (result["scheme"], result["nme"]) == ("5", pytest.approx(error / size, abs=2e-5))
    found = write_predictions(tmp_path / "found.jsonl")
    result = result_of(seeing, tmp_path, "--predictions", found, "--data", square, "--source", "helen", "--five")
    assert (result["scheme"], result["missed"]) == ("5", 0)


def test_five_points_cannot_be_scored_as_68(seeing, data):
    with pytest.raises(DataError, match="has 68 landmarks a face, five gives 5"):
        seeing.main(["--model", "five", "--data", str(data)])


def test_a_crop_gives_the_points_that_the_net_finds_on_it(script, monkeypatch):
    from gluonface import FaceAnalyzer, get_model
    from gluonface._compat import mx

    module = script("eval_landmarks")
    for name, pixels in (("_FACE", 32), ("_CROP", 64)):
        monkeypatch.setattr(module, name, pixels)
    mx.random.seed(1)
    net = get_model("maskface_mobilenet0.25_fc26", channels=8)
    net.initialize(mx.init.Xavier())
    net.set_nms(nms_thresh=0.1, nms_topk=-1, post_nms=20, score_thresh=0)  # boxes all over the crop
    image, boxes = RNG.integers(0, 256, (90, 120, 3), np.uint8), np.array([[20, 20, 70, 70], [60, 30, 100, 80.0]])
    ((points,), scores) = module.PointDetector(net, score_thresh=0, match_iou=0).from_boxes([image], [boxes])
    assert points.shape == (2, 68, 2) and scores is None
    view = module.face_view(boxes[1])
    assert np.sqrt(40 * 50) * view.scale == pytest.approx(32) and view.size_hw == (64, 64)
    faces = FaceAnalyzer(net, size=None, score_thresh=0)(view.warp(image))
    middle = view.points(boxes[1].reshape(2, 2)).ravel()
    met = [i for i, box in enumerate(faces.boxes) if (box[:2] < middle[2:]).all() and (box[2:] > middle[:2]).all()]
    np.testing.assert_allclose(view.points(points[1]), faces.landmarks[met[0]], atol=0.5)


# KPNet, in squares about the labelled boxes


@pytest.mark.parametrize(("count", "size"), [(5, None), (19, 128), (68, 200)])
def test_the_points_of_kpnet_are_read_in_squares_about_the_labelled_boxes(script, tmp_path, capsys, count, size):
    model, weights = f"kpnet_drnet_{'fc26' if count == 5 else 'aflw'}", tmp_path / "kpnet.params"
    net = random_net(model, num_points=count)
    # Of a response that is flat the mean is the middle of the square.
    net.network.response_head.weight.set_data(np.zeros(net.network.response_head.weight.shape))
    net.save_parameters(str(weights))
    changed, errors = {}, []
    for name, boxes in BOXES.items():
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        points = middle[:, None] + RNG.uniform(-0.4, 0.4, (len(boxes), count, 2)) * sides[:, None]
        errors += list(np.linalg.norm(points - middle[:, None], axis=2).mean(axis=1) / np.sqrt(sides.prod(axis=1)))
        dense = {"landmarks": points, "scheme": str(count)} if count > 5 else {"landmarks5": points}
        changed[name.partition(".")[0].rpartition("/")[2]] = FaceLabels(boxes, **(dense if len(boxes) else {}))
    words = ["--data", write_data(tmp_path, **changed), "--norm", "box", *(["--five"] if count == 5 else [])]
    words += [] if size is None else ["--size", size]
    options = ["--weights", weights, "--num-points", count]
    result = result_of(script("eval_landmarks"), tmp_path, "--model", model, *options, *words)
    # Up to a cell, two pixels of a photo at that size.
    assert result["nme"] == pytest.approx(np.mean(errors), abs=0.02)
    assert (result["scheme"], result["faces"], result["missed"]) == (str(count), 3, 0)
    assert result["squares"] and not {"face_pixels", "match_iou", "passes", "score_thresh"} & set(result)
    # Also where the net's own size is larger: so no face is larger than its bins reach.
    assert result["size"] == (size or 256)
    assert f"in squares about labelled boxes, size {size or 256}, one pass" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--score-thresh=.5", "--match-iou=.4"])
def test_in_labelled_boxes_kpnet_has_no_threshold_and_no_overlap_to_ask_for(script, tmp_path, flag):
    weights = tmp_path / "kpnet.params"
    random_net("kpnet_drnet_fc26").save_parameters(str(weights))
    words = ["--model", "kpnet_drnet_fc26", "--weights", str(weights), "--data", "x.jsonl", flag]
    module = script("eval_landmarks")
    with pytest.raises(InputError, match="go with --end-to-end: in labelled boxes kpnet_drnet_fc26 finds every face"):
        module.build_predictor("kpnet_drnet_fc26", module.parse_args(words))


def test_end_to_end_a_size_is_of_the_photos_not_of_the_squares_beside_them(script, tmp_path):
    pytest.importorskip("mxnet")
    weights = tmp_path / "kpnet.params"
    random_net("kpnet_drnet_fc26").save_parameters(str(weights))
    module = script("eval_landmarks")
    words = ["--model", "kpnet_drnet_fc26", "--weights", str(weights), "--data", "x.jsonl", "--size", "640"]
    for more, size in ((["--end-to-end"], 256), ([], 640)):
        args = module.parse_args([*words, *more])
        assert module.build_predictor("kpnet_drnet_fc26", args).size == size


def test_a_size_of_photos_is_refused_where_faces_are_cropped(script, weights, data):
    words = ["--model", TINY, "--weights", str(weights), "--data", str(data), "--size", "256"]
    with pytest.raises(InputError, match=f"--size goes with --end-to-end, or with a KPNet .*, got {TINY}"):
        script("eval_landmarks").main(words)


# Parts of the data


def sample_from(source, **fields):
    return FaceSample("x.png", (9, 9), FaceLabels(np.array([[0, 0, 9, 9.0]] * 2), **fields), source=source)


def test_faces_of_300_w_belong_to_the_parts_that_the_data_have_whole(script):
    module = script("eval_landmarks")
    samples = [sample_from(source) for source in ("helen", "ibug", "lfpw")]
    parts = module.subsets_of("300w", "d", samples)
    assert {name: mask.tolist() for name, mask in parts.items()} == {
        "common": [True, True, False, False, True, True],
        "challenging": [False, False, True, True, False, False],
        "full": [True] * 6,
    }
    assert list(module.subsets_of("300w", "d", samples[1:2])) == ["challenging"]
    assert list(module.subsets_of("300w", "d", [sample_from(s) for s in ("indoor", "outdoor")])) == ["test"]
    assert module.subsets_of(None, "d", samples) == {}
    for wrong in (samples[:1], [*samples, sample_from("afw")]):
        with pytest.raises(DataError, match=r"d: --subsets 300w: expected photos of whole test sets of 300-W"):
            module.subsets_of("300w", "d", wrong)


def test_frontal_faces_are_scored_beside_all(known, tmp_path, capsys):
    seen, hidden = {"visible": [True, True]}, {"visible": [True, False]}
    one, two = labels("one.png", attributes=[hidden, seen]), labels("a/two.png", attributes=[hidden])
    data = write_data(tmp_path, one=one, two=two)
    result = result_of(known, tmp_path, "--model", "m", "--data", data, "--subsets", "aflw")
    full, frontal = result["subsets"]["full"], result["subsets"]["frontal"]
    assert (full["nme"], full["faces"]) == (result["nme"], 3)
    assert (frontal["nme"], frontal["faces"]) == (pytest.approx(ERRORS[1], abs=2e-5), 1)
    assert "full (3 faces)" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"--subsets aflw: face 0 of 2: expected the attribute .visible."):
        known.main(["--model", "m", "--data", str(write_data(tmp_path)), "--subsets", "aflw"])


# What is wrong is said


def test_data_without_landmarks_are_refused(known, tmp_path):
    bare = FaceLabels(np.array([[0, 0, 9, 9.0]]), landmarks5=np.ones((1, 5, 2)))
    data = write_data(tmp_path, one=bare, two=bare)
    with pytest.raises(DataError, match=r"lmk_tiny\.jsonl: no face has dense landmarks \(one of landmarks19, .*106"):
        known.main(["--model", "m", "--data", str(data)])
    data = write_data(tmp_path)
    with pytest.raises(DataError, match="no face of mask has dense landmarks"):
        known.main(["--model", "m", "--data", str(data), "--source", "mask"])


def test_a_model_of_another_scheme_is_refused_before_any_photo_is_read(known, data, monkeypatch):
    monkeypatch.setattr(Knowing, "scheme", "29")
    with pytest.raises(DataError, match=r"lmk_tiny\.jsonl has 68 landmarks a face, m gives 29"):
        known.main(["--model", "m", "--data", str(data)])
    assert known.made[0].calls == []


def test_data_of_two_schemes_are_refused(known, tmp_path):
    other = FaceLabels(np.array([[0, 0, 9, 9.0]]), landmarks=np.ones((1, 29, 2)), scheme="29")
    data = write_data(tmp_path, two=other)
    with pytest.raises(DataError, match="one scheme, got 29, 68; choose with --source"):
        known.main(["--model", "m", "--data", str(data)])
    assert known.main(["--model", "m", "--data", str(data), "--source", "helen"]) == 0


def test_an_unknown_source_is_named(known, data):
    with pytest.raises(DataError, match="no image has the source nobody; the file has helen, lfpw, mask"):
        known.main(["--model", "m", "--data", str(data), "--source", "nobody"])


def test_a_face_without_a_size_is_named_with_its_photo(known, tmp_path):
    gaps = labels("one.png")
    gaps.landmarks[1, 36] = np.nan
    data = write_data(tmp_path, one=gaps)
    with pytest.raises(DataError, match=r"one\.png: norm 'interocular' is nan for face 1 of 2"):
        known.main(["--model", "m", "--data", str(data)])
    assert known.main(["--model", "m", "--data", str(data), "--norm", "box"]) == 0


def test_a_photo_of_another_size_than_the_data_say_is_named(known, data):
    save_image(data.parent / "images" / "one.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(DataError, match=r"one\.png: the data say 200x120, the photo has 20x20"):
        known.main(["--model", "m", "--data", str(data)])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--model", "m", "--predictions", "p"],
        ["--predictions", "p", "--end-to-end", "d"],
        ["--predictions", "p", "--align", "points"],
        ["--predictions", "p", "--weights", "w"],
        ["--model", "a", "b", "--weights", "w"],
        ["--model", "a", "b", "--json", "out.json"],
        ["--model", "m", "--filters", "64"],
        ["--model", "m", "--end-to-end", "d", "--align", "points"],
        ["--model", "m", "--threshold", "0"],
        ["--model", "m", "--passes", "0"],
        ["--model", "m", "--flip", "both"],
        ["--model", "m", "--channels", "64"],
        ["--model", "m", "--short-side", "640"],
        ["--predictions", "p", "--size", "640"],
        ["--model", "m", "--end-to-end", "d", "--size", "640", "--short-side", "640"],
        ["--model", "m", "--match-iou", "1"],
        ["--predictions", "p", "--end-to-end"],
    ],
)
def test_a_command_line_that_means_nothing_is_refused(script, words):
    with pytest.raises(SystemExit) as refused:
        script("eval_landmarks").main(["--data", "x.jsonl", *words])
    assert refused.value.code == 2


# A real net, with random weights


def random_net(name, **options):
    from gluonface import get_model
    from gluonface._compat import mx

    net = get_model(name, **options)
    mx.random.seed(3)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    return net


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    pytest.importorskip("mxnet")
    path = tmp_path_factory.mktemp("weights") / "tiny.params"
    random_net(TINY).save_parameters(str(path))
    return path


def expected_points(weights, data, flip, decoder, align="boxes", passes="auto"):
    from gluonface import get_model, load_image
    from gluonface.alignment import LandmarkPredictor
    from gluonface.data import read_jsonl

    net = get_model(TINY, decoder=decoder)
    net.load_parameters(str(weights))
    samples = read_jsonl(data)[:2]
    images = [load_image(sample.image_path) for sample in samples]
    predictor = LandmarkPredictor(net, flip=flip, passes=passes)
    if align == "boxes":
        points = predictor.from_boxes(images, [s.faces.boxes for s in samples])[0]
    else:
        points = predictor.from_points(images, [SCHEMES["68"].five_points(s.faces.landmarks) for s in samples])[0]
    truth = np.concatenate([s.faces.landmarks for s in samples])
    distances = np.linalg.norm(np.concatenate(points) - truth, axis=2).mean(axis=1)
    return (distances / np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)).mean()


@pytest.mark.parametrize(
    ("flip", "decoder", "align", "passes"),
    [
        ("points", "dark", "boxes", 1),
        ("none", "argmax", "boxes", 1),
        ("heatmaps", "soft", "points", 1),
        ("none", "dark", "points", 2),
    ],
)
def test_weights_of_a_run_are_scored_as_the_flags_say(script, weights, data, tmp_path, flip, decoder, align, passes):
    words = ["--model", TINY, "--weights", weights, "--data", data, "--flip", flip, "--decoder", decoder]
    result = result_of(script("eval_landmarks"), tmp_path, *words, "--align", align, "--passes", passes)
    assert result["nme"] == pytest.approx(expected_points(weights, data, flip, decoder, align, passes), rel=1e-3)
    assert result["model"] == f"{TINY} (tiny.params)"
    assert (result["flip"], result["decoder"]) == (flip, decoder)


def test_each_flag_changes_something(weights, data):
    ways = [("none", "dark"), ("points", "dark"), ("heatmaps", "dark"), ("none", "argmax"), ("none", "soft")]
    assert len({round(expected_points(weights, data, *way), 5) for way in ways}) == len(ways)


def test_shipped_weights_run_by_name(script, weights, data, tmp_path):
    from gluonface.facts import IMAGENET_MEAN, IMAGENET_STD
    from gluonface.model_zoo import store

    root = tmp_path / "zoo"
    root.mkdir()
    (root / weights.name).write_bytes(weights.read_bytes())
    facts = {"file": weights.name, "sha256": store.sha256_file(weights), "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    (root / f"{TINY}.json").write_text(json.dumps({**facts, "licence": "none", "research_only": False}))
    module = script("eval_landmarks")
    result = result_of(module, tmp_path, "--model", TINY, "--root", root, "--data", data)
    assert result["model"] == TINY
    assert result["nme"] == pytest.approx(expected_points(weights, data, "points", "dark"), rel=1e-3)


def test_a_detector_of_the_package_goes_before_the_net(script, weights, data, tmp_path, monkeypatch):
    module = script("eval_landmarks")
    monkeypatch.setattr(module, "FaceAnalyzer", Finder)
    words = ("--model", TINY, "--weights", weights, "--data", data, "--end-to-end", "finder", "--flip", "none")
    result = result_of(module, tmp_path, *words)
    assert (result["faces"], result["missed"]) == (3, 1)
    assert result["relative"] == pytest.approx(result["nme"] / result["nme_gt_boxes"] - 1, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--model", "heatmap_mobilenetv2_0.25_s_cofw"], DataError, "has 68 landmarks a face, .*cofw gives 29"),
        (["--model", "retinaface_mobilenet0.25_widerface"], WeightsError, "do not fit FaceDetector"),
        (["--model", TINY, "--stem", "32"], WeightsError, "do not fit LandmarkNet"),
    ],
)
def test_a_net_that_does_not_fit_is_refused(script, weights, data, tmp_path, words, error, message):
    fitting = weights
    if "cofw" in words[1]:
        fitting = tmp_path / "cofw.params"
        random_net(words[1]).save_parameters(str(fitting))
    with pytest.raises(error, match=message):
        script("eval_landmarks").main([*words, "--weights", str(fitting), "--data", str(data)])


def test_a_net_without_weights_says_so(script, data):
    with pytest.raises(GluonFaceError, match="no weights come with this model"):
        script("eval_landmarks").main(["--model", TINY, "--data", str(data)])


def test_a_sheet_shows_the_worst_faces_first_and_leaves_out_those_missed(known, data, tmp_path):
    picture = tmp_path / "out" / "sheet.png"
    assert known.main(["--model", "m", "--data", str(data), "--sheet", str(picture)]) == 0
    assert load_image(picture).shape[0] > 300  # three faces in one row
    samples = known.read_labelled(str(data), None, None)
    scores = SimpleNamespace(errors=np.array([0.02, np.inf, 0.05]))
    assert known.chosen_faces(samples, scores) == [2, 0]


def test_a_sheet_holds_the_faces_that_are_turned_most(script):
    module = script("eval_landmarks")
    poses = np.zeros((40, 3), np.float32)
    poses[[5, 17], 0] = (70, -80)
    poses[30] = np.nan
    labels = FaceLabels(boxes=np.tile([0, 0, 9, 9], (40, 1)), pose=poses)
    samples = [FaceSample("x.png", (9, 9), labels)]
    chosen = module.chosen_faces(samples, SimpleNamespace(errors=np.linspace(0.1, 0.01, 40)))
    assert len(chosen) == len(set(chosen)) == 24
    assert chosen[:8] == [0, 1, 2, 3, 4, 5, 6, 7] and 17 in chosen[8:10] and chosen[-1] == 39
