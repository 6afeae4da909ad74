import json

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.data.base import FaceLabels
from gluonface.errors import DataError
from gluonface.image import save_image
from gluonface.model_zoo import get_model
from gluonface.training.checkpoint import read_checkpoint
from gluonface.training.config import learning_rate_at

MODEL = "kpnet_drnet_widerface"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train_kpnet")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, face_line):
    """Eight photos of a drawn face on noise with five points, and four of which a face is labelled only."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(12):
        image = rng.integers(0, 90, (96, 96, 3), np.uint8)
        x, y = (int(v) for v in rng.integers(36, 60, 2))
        r = 24 if i % 4 else 10
        cv2.ellipse(image, (x, y), (r, r), 0, 0, 360, (220, 180, 160), -1)
        points = [[x + r * dx, y + r * dy] for dx, dy in ((-0.4, -0.3), (0.4, -0.3), (0, 0), (-0.3, 0.4), (0.3, 0.4))]
        for px, py in points:
            cv2.circle(image, (round(px), round(py)), 2, (20, 20, 60), -1)
        save_image(folder / "images" / f"{i}.png", image)
        lines.append(face_line(f"{i}.png", x, y, r, points if i != 1 else None))
    for name, rows in (("all", lines[:8]), ("partial", lines[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(drawn, out, *more):
    sizes = ["--data-shape", "64", "--val-size", "96", "--batch-size", "4", "-j", "0"]
    run = ["--save-prefix", str(out), "--log-interval", "1", "--lr", "1e-3", "--lr-mode", "constant"]
    run += ["--warmup-epochs", "0"]
    return ["--model", MODEL, "--train", str(drawn / "all.jsonl"), *sizes, *run, *more]


def read_log(out, kind="epoch"):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Drawing takes longer than the training here."""
    monkeypatch.setattr("gluonface.engine.draw_curves", lambda records, path: None)


@pytest.mark.parametrize(
    ("flags", "parts", "options"),
    [
        ((), {"scale", "points"}, {}),
        (("--response-weight", "100", "--focal"), {"scale", "points", "response"}, {}),
        (("--reader", "argmax"), {"scale", "response"}, {"reader": "argmax"}),
        (("--reader", "regression"), {"scale", "points"}, {"reader": "regression"}),
        (("--head", "anchors"), {"cls", "box", "landmark"}, {"head": "anchors"}),
        (("--head", "tags"), {"response", "tags"}, {"head": "tags"}),
        (("--whole-photos", "--source-weight", "drawn=2"), {"scale", "points"}, {}),
    ],
    ids=["soft", "response learnt, too", "argmax", "regression", "anchors", "tags", "whole photos"],
)
def test_a_run_learns_validates_and_leaves_weights_that_load(script, drawn, tmp_path, flags, parts, options):
    validation = ("--train-points", str(drawn / "partial.jsonl"), "--val", str(drawn / "all.jsonl"))
    script.main(arguments(drawn, tmp_path, "--epochs", "3", "--lr", "3e-3", "--optimizer", "adam", *validation, *flags))
    epochs = read_log(tmp_path)
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    for row in epochs:
        assert set(row["losses"]) == parts
        assert {"ap50", "ap", "recall_at_1fppi"} <= set(row["validation"])
    assert sum(epochs[-1]["losses"].values()) < sum(epochs[0]["losses"].values())
    net = get_model(MODEL, **options)
    net.load_parameters(tmp_path / "best.params")
    assert net(mx.nd.zeros((1, 3, 64, 64)))[3].shape[2] == 10


def test_anchors_need_no_boxes_from_points(script, drawn, tmp_path):
    flags = ("--head", "anchors", "--box-mapping", str(tmp_path / "none.json"))
    assert script.build_net(script.parse_args(arguments(drawn, tmp_path, *flags))).spec
    with pytest.raises(DataError, match="expected a file of train/fit_box_mapping"):
        script.build_net(script.parse_args(arguments(drawn, tmp_path, *flags[2:])))


@pytest.mark.parametrize("flags", [("--reader", "argmax"), ("--head", "tags")])
def test_only_soft_argmax_has_the_response_map_learnt_beside_it(script, drawn, tmp_path, flags, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(arguments(drawn, tmp_path, "--response-weight", "1", *flags))
    assert "goes with points read by soft-argmax" in capsys.readouterr().err


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(script, drawn, tmp_path):
    common = ("--rotate", "1", "--quarter-turns", ".5", "--ema-decay", "0.9", "--accumulate", "2")
    script.main(arguments(drawn, tmp_path / "a", "--epochs", "2", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "1", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "2", "--resume", str(tmp_path / "b"), *common))
    straight, resumed = (read_checkpoint(tmp_path / run).arrays["parameters"] for run in "ab")
    for name, value in straight.items():
        np.testing.assert_allclose(resumed[name], value, atol=1e-7, err_msg=name)


def test_the_recipe_is_the_papers_unless_told_otherwise(script):
    args = script.parse_args(["--train", "x.jsonl", "--whole-photos"])
    assert (args.data_shape, args.batch_size, args.optimizer) == (256, 128, "sgd")
    assert (args.scale_weight, args.points_weight, args.sigma, args.bin_sigma) == (1e4, 1, 0.1, 0)
    # 150,000 updates of 128 of 12,880 photos.
    assert args.epochs * (12_880 // args.batch_size) == 150_000
    config = script.config_from_args(args)
    rates = [learning_rate_at(config, iteration, 100) for iteration in (0, 25_000, 50_000, 99_999, 100_000, 149_999)]
    np.testing.assert_allclose(rates, [1e-5, 5.005e-3, 1e-2, 1e-2, 1e-3, 1e-3], rtol=1e-6)
    assert args.rotate == args.quarter_turns == 0


def test_a_mean_over_squares_counts_those_with_a_known_point(script, drawn, tmp_path):
    args = script.parse_args(arguments(drawn, tmp_path))
    targets, _, (count,) = script.objective(args, script.build_net(args))
    points = np.full((3, 5, 2), np.nan, np.float32)
    points[0], points[1, 2] = (24, 24), (45, 35)
    boxes = np.array([[8, 8, 40, 40], [30, 20, 60, 50], [4, 40, 16, 52]], np.float32)
    arrays = [array[None] for array in targets.encode_labels(FaceLabels(boxes, landmarks5=points))]
    assert count(np.zeros((1, 64, 64, 3)), *arrays) == 2


def test_photos_of_which_one_face_is_labelled_train_points_only(script, drawn, tmp_path):
    partial = str(drawn / "partial.jsonl")
    args = script.parse_args(arguments(drawn, tmp_path, "--train-points", partial, "--whole-photos"))
    views = script.make_views(args, 0)
    targets, _, _ = script.objective(args, script.build_net(args))
    _, labels = views.sample(11, 0)
    scale, squares, _, masks = targets.encode_labels(labels)
    assert (scale[:, :32, :32] == -1).all()
    assert masks.any() and squares.any()
    with pytest.raises(DataError, match="no photo of --train-points has the source film"):
        script.make_views(
            script.parse_args(arguments(drawn, tmp_path, "--train-points", partial, "--points-sources", "film")), 0
        )
