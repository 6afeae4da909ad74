"""regress_points.py on drawn faces: crops that can be undone, a small net that learns, detections that miss some."""

import json

import numpy as np
import pytest

from gluonface import Faces
from gluonface.data import FaceLabels, FaceSample, read_jsonl, write_jsonl
from gluonface.errors import DataError, GluonFaceError, WeightsError
from gluonface.geometry import FIVE_IN_BOX, five_from_boxes, invert_affine, warp_points
from gluonface.image import save_image

SMALL = ("--backbone", "mobilenet0.25", "--size", "48")
DOT = (255, 40, 40)


@pytest.fixture
def module(script):
    return script("regress_points")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Ten photos of four drawn faces each, with dots at the five points, and one of a face that nobody labelled."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    rng, samples = np.random.default_rng(0), []
    for i in range(11):
        image = rng.integers(0, 60, (96, 96, 3), np.uint8)
        corners = np.array([[x, y] for y in (6, 54) for x in (6, 54)]) + rng.integers(-4, 5, (4, 2))
        boxes = np.concatenate([corners, corners + rng.integers((28, 32), (35, 39), (4, 2))], axis=1)
        points = five_from_boxes(boxes)
        for (x1, y1, x2, y2), five in zip(boxes, points):
            image[y1:y2, x1:x2] = (90, 120, 150)
            for x, y in np.floor(five).astype(int):
                image[y - 2 : y + 3, x - 2 : x + 3] = DOT
        human = np.full(4, i < 10)
        faces = FaceLabels(boxes, landmarks5=points, landmarks5_human=human, ignore=[False] * 3 + [i == 1])
        save_image(folder / "images" / f"{i}.png", image)
        samples.append(
            FaceSample(f"{i}.png", (96, 96), faces, source="drawn" if i < 10 else "teacher", name=f"{i}.png")
        )
    write_jsonl(folder / "all.jsonl", samples)
    return folder / "all.jsonl"


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr("gluonface.engine.draw_curves", lambda records, path: None)


def words_of(data, *more):
    return [*map(str, ("--data", data, *SMALL, *more))]


def training(data, out, *more):
    recipe = ("--epochs", 1, "--lr", 0.02, "--warmup-epochs", 0, "--lr-mode", "constant", "--batch-size", 4, "-j", 0)
    return words_of(data, "--train", data, "--train-sources", "drawn", "--save-prefix", out, *recipe, *more)


class Finder:
    """In the place of `FaceAnalyzer`: finds all faces of photos but the first one of each, exactly as labelled."""

    samples = ()

    def __init__(self, name, **options):
        assert name == "finder" and set(options) == {"root", "size", "score_thresh"}

    def stream(self, photos):
        for photo, sample in zip(photos, self.samples):
            found = sample.faces[1:]
            yield Faces(found.boxes, np.full(len(found), 0.9), landmarks5=found.landmarks5, size_hw=photo.shape[:2])


# ---- crops -----------------------------------------------------------------------------------------------------------


def test_a_crop_holds_the_box_in_its_middle_and_can_be_undone(module):
    box, margin = np.array([20.0, 30, 60, 110]), 0.6
    crop = module.face_crop(box, 48, margin)
    x1, y1, x2, y2 = crop.points(box.reshape(2, 2)).ravel()
    assert (x1 + x2, y1 + y2) == pytest.approx((48, 48)) and y2 - y1 == pytest.approx(48 / (1 + margin))
    assert (x2 - x1) / (y2 - y1) == pytest.approx(0.5)
    points = np.random.default_rng(0).uniform(-50, 200, (5, 2))
    assert warp_points(invert_affine(crop.matrix), crop.points(points)) == pytest.approx(points, abs=1e-3)


def test_places_in_crops_become_points_of_the_photos(module, drawn):
    samples = module.read_scored(drawn, None, None)
    net = module.build_net("mobilenet0.25", 48)
    # Whatever it sees, it says where the points of any box lie in its crop.
    aspect = np.array([0.8, 1.0])
    net.dense.weight.set_data(0 * net.dense.weight.data())
    net.dense.bias.set_data((0.5 + (FIVE_IN_BOX - 0.5) * aspect / 1.25).ravel())
    boxes = np.array([[10, 20, 50, 70]] * 20 + [[np.nan] * 4] * 19)
    points = module.regress(net, samples, boxes, 0.25)
    assert points[:20] == pytest.approx(five_from_boxes(boxes[:20]), abs=1e-3)
    assert np.isnan(points[20:]).all()


def test_a_training_crop_is_disturbed_and_its_labels_go_with_it(module, drawn, tmp_path):
    args = module.parse_args(training(drawn, tmp_path, "--jitter", 0, "--rotate", 40, "--scale", 0.3, "--margin", 0.2))
    crops = module.crops_of(args)
    assert len(crops) == 39  # without the ignore region
    seen = [crops.sample(item, 0) for item in range(20)]
    on_dots, middles = [], []
    for crop, labels in seen:
        places, known = module.encode_places(labels, 48)
        assert crop.shape == (48, 48, 3) and known.all()
        inside = places[(places > 0.05).all(axis=1) & (places < 0.95).all(axis=1)]
        on_dots += [crop[y, x] for x, y in (48 * inside).astype(int)]
        middles.append(places.mean(axis=0))
        assert places[0, 0] < places[1, 0]  # also where it is mirrored, the left eye is the viewer's
    assert np.mean(on_dots, axis=0) == pytest.approx(DOT, abs=25)
    assert np.std(middles, axis=0).min() > 0.02


def test_a_point_that_is_not_known_is_not_learnt(module):
    five = np.array([[12.0, 12], [36, 12], [np.nan, np.nan], [12, 36], [36, 36]])
    places, known = module.encode_places(FaceLabels([[0, 0, 48, 48]], landmarks=five[None], scheme="5"), 48)
    assert places.tolist() == [[0.25, 0.25], [0.75, 0.25], [0, 0], [0.25, 0.75], [0.75, 0.75]]
    assert known.ravel().tolist() == [1, 1, 0, 1, 1]


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_an_epoch_learns_and_the_weights_are_scored_again_beside_a_detector(module, drawn, tmp_path, monkeypatch):
    out, again, drawing = tmp_path / "out.json", tmp_path / "again.json", tmp_path / "ced.png"
    untrained = module.validate(module.build_net("mobilenet0.25", 48), module.read_scored(drawn, None), 0.5)
    assert module.main(training(drawn, tmp_path / "run", "--val", drawn, "--json", out)) == 0
    result = json.loads(out.read_text())
    (row,) = result["rows"]
    assert row["nme"] < 0.8 * untrained["nme"]
    assert (row["faces"], row["missed"], row["threshold"], row["norm"]) == (39, 0, 0.1, "box")
    assert (result["weights"], result["epochs"], result["trained_on"]) == ("best.params", 1, "all")
    assert "drawn" in row["domain"] and "39 faces" in row["domain"]

    monkeypatch.setattr(Finder, "samples", module.read_scored(drawn, None))
    monkeypatch.setattr(module, "FaceAnalyzer", Finder)
    more = ("--detections-of", "finder", "--detector-size", "stored", "--json", again, "--picture", drawing)
    assert module.main(words_of(drawn, "--weights", tmp_path / "run" / "best.params", *more)) == 0
    labelled, detected, own = json.loads(again.read_text())["rows"]
    assert labelled["nme"] == row["nme"]
    assert ("size" in labelled, detected["size"], own["size"]) == (False, "stored", "stored")
    # One face of each of ten photos is missed: a failure, but not in the mean.
    assert (detected["missed"], own["missed"], own["nme"]) == (10, 10, 0)
    assert own["failure_rate"] == pytest.approx(10 / 39, abs=1e-4) and own["auc"] == pytest.approx(29 / 39, abs=1e-4)
    assert detected["failure_rate"] >= 10 / 39 - 1e-4
    assert drawing.stat().st_size > 10_000


def test_boxes_as_labelled_and_as_detected_give_the_same_points(module, drawn, monkeypatch):
    samples = module.read_scored(drawn, None)
    monkeypatch.setattr(Finder, "samples", samples)
    monkeypatch.setattr(module, "FaceAnalyzer", Finder)
    args = module.parse_args(words_of(drawn, "--weights", "x", "--detections-of", "finder"))
    (_, labelled), (_, detected), _ = module.measure(args, module.build_net("mobilenet0.25", 48), samples)
    found = np.isfinite(detected.errors)
    assert found.sum() == 29 and detected.errors[found] == pytest.approx(labelled.errors[found])


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "give either --train, to learn from, or --weights"),
        (("--train", "t", "--weights", "w"), "give either --train, to learn from, or --weights"),
        (("--weights", "w", "--epochs", "3"), "--epochs does nothing here: --weights are scored as they are"),
        (("--weights", "w", "--score-thresh", ".5"), "--score-thresh does nothing here: it goes with --detections-of"),
        (("--weights", "w", "--size", "16"), "--size is at least 32"),
        (("--weights", "w", "--margin", "-.1"), "--margin at least 0"),
        (("--train", "t", "--shift", ".6"), "--scale and --shift are from 0 to .5"),
        (("--train", "t", "--smooth-at", "0"), "--smooth-at is above 0"),
        (("--train", "t", "--backbone", "vgg"), "invalid choice: 'vgg'"),
    ],
)
def test_flags_that_mean_nothing_are_refused(module, capsys, more, words):
    with pytest.raises(SystemExit):
        module.parse_args(["--data", "d.jsonl", *more])
    assert words in capsys.readouterr().err


def test_points_of_a_teacher_are_no_truth(module, drawn, tmp_path):
    assert all(sample.source == "drawn" for sample in module.read_scored(drawn, None))
    assert len(read_jsonl(drawn)) == 11
    with pytest.raises(DataError, match="no face of teacher has five points that people set"):
        module.main(words_of(drawn, "--weights", "w", "--sources", "teacher"))
    with pytest.raises(DataError, match="cannot read the annotation file"):
        module.main(words_of(tmp_path / "none.jsonl", "--weights", "w"))


def test_weights_of_another_net_or_crop_are_refused(module, drawn, tmp_path):
    weights = tmp_path / "last.params"
    module.build_net("mobilenet0.25", 48).save_parameters(str(weights))
    (tmp_path / "config.json").write_text('{"flags": {"backbone": "mobilenet0.25", "size": 48, "margin": 0.25}}')
    with pytest.raises(DataError, match=r"expected the flags that it was trained with: give --margin 0.25"):
        module.main(words_of(drawn, "--weights", weights))
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="do not fit PointRegressor"):
        module.main([*words_of(drawn, "--weights", weights), "--backbone", "mobilenet0.5"])
    with pytest.raises(GluonFaceError):
        module.main(words_of(drawn, "--weights", tmp_path / "none.params"))
