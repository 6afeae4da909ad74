import json

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.data.base import FaceLabels
from gluonface.data.loader import BatchLoader
from gluonface.errors import DataError, InputError
from gluonface.image import save_image
from gluonface.model_zoo import get_model
from gluonface.training.checkpoint import read_checkpoint
from gluonface.training.config import learning_rate_at

MODEL, HOURGLASS = "kpnet_drnet_widerface", "kpnet_hourglass_widerface"


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
        (("--model", HOURGLASS), {"scale", "points"}, {"name": HOURGLASS}),
    ],
    ids=["soft", "response learnt, too", "argmax", "regression", "anchors", "tags", "whole photos", "hourglass"],
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
    net = get_model(**{"name": MODEL, **options})
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
    assert (args.num_points, args.beta, args.jitter_cells, args.jitter_bins) == (None, 1, 1, 1)


def test_a_run_of_any_length_warms_up_for_a_third_and_decays_after_two(script):
    config = script.config_from_args(script.parse_args(["--train", "x.jsonl", "--epochs", "30"]))
    rates = [learning_rate_at(config, iteration, 10) for iteration in (0, 50, 100, 199, 200, 299)]
    np.testing.assert_allclose(rates, [1e-5, 5.005e-3, 1e-2, 1e-2, 1e-3, 1e-3], rtol=1e-6)
    given = ["--train", "x.jsonl", "--epochs", "30", "--warmup-epochs", "0.5", "--lr-decay-epoch", "12,25"]
    args = script.parse_args(given)
    assert (args.warmup_epochs, args.lr_decay_epoch) == (0.5, (12, 25))
    assert script.parse_args([*given[:4], "--warmup-epochs", "0"]).warmup_epochs == 0


@pytest.mark.parametrize("warmup", ["30", "500"])
def test_a_warm_up_as_long_as_the_run_is_refused(script, warmup, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["--train", "x.jsonl", "--epochs", "30", "--warmup-epochs", warmup])
    assert "--warmup-epochs: expected fewer than the 30 of --epochs" in capsys.readouterr().err


@pytest.fixture(scope="module")
def dense(drawn):
    """The drawn photos, their faces with as many landmarks as one says; JSON lines beside the others."""

    def lines(count):
        path, rng = drawn / f"dense{count}.jsonl", np.random.default_rng(count)
        rows = [json.loads(line) for line in (drawn / "all.jsonl").read_text().splitlines()]
        for row in rows:
            (face,) = row["faces"]
            x1, y1, x2, y2 = face["box"]
            face[f"landmarks{count}"] = (
                np.array([x1, y1]) + rng.uniform(0, 1, (count, 2)) * (x2 - x1, y2 - y1)
            ).tolist()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return lines


@pytest.mark.parametrize("count", [19, 68])
def test_as_many_points_are_learnt_as_asked_for(script, drawn, dense, tmp_path, count):
    flags = ("--num-points", str(count), "--epochs", "1", "--val", dense(count), "--train", dense(count))
    script.main(arguments(drawn, tmp_path, *flags))
    (epoch,) = read_log(tmp_path)
    assert epoch["losses"]["points"] > 0 and "ap50" in epoch["validation"]
    net = get_model(MODEL, num_points=count)
    net.load_parameters(tmp_path / "last.params")
    assert net(mx.nd.zeros((1, 3, 64, 64)))[3].shape[2] == 2 * count


def test_points_that_no_photo_has_are_asked_for_in_vain(script, drawn, dense, tmp_path):
    flags = ("--train", dense(19), "--num-points", "68", "--epochs", "1")
    with pytest.raises(DataError, match="faces with landmarks of the scheme 68, as the net has 68 points; found none"):
        script.main(arguments(drawn, tmp_path, *flags))


def test_anchors_learn_five_points_alone(script, drawn, tmp_path):
    with pytest.raises(InputError, match="anchors learns five points, got a net of 19; give --num-points 5"):
        script.build_net(script.parse_args(arguments(drawn, tmp_path, "--head", "anchors", "--num-points", "19")))
    aflw = ("--head", "anchors", "--model", "kpnet_drnet_aflw", "--num-points", "5")
    assert script.build_net(script.parse_args(arguments(drawn, tmp_path, *aflw))).num_points == 5


def test_the_softness_of_soft_argmax_and_the_jitter_are_flags(script, drawn, tmp_path):
    flags = ("--beta", "4", "--jitter-cells", "0", "--jitter-bins", "2")
    args = script.parse_args(arguments(drawn, tmp_path, *flags))
    net = script.build_net(args)
    assert net.network.reader.beta == net.peaks.beta == 4
    targets, _, _ = script.objective(args, net)
    assert (targets.jitter_cells, targets.jitter_bins) == (0, 2)


def test_whole_photos_have_other_squares_in_each_epoch(script, drawn, tmp_path):
    args = script.parse_args(arguments(drawn, tmp_path, "--whole-photos"))
    views, (targets, _, _) = script.make_views(args, 0, 5), script.objective(args, script.build_net(args))
    loader = BatchLoader(views, 8, encode=targets.encode_labels, shuffle=False)
    first, second, again = (next(loader.epoch(epoch)) for epoch in (0, 1, 0))
    for number, differs in enumerate((False, False, True, True)):  # images, scale map, squares, places of points
        assert (first[number] != second[number]).any() == differs
        np.testing.assert_array_equal(first[number], again[number])


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
    views = script.make_views(args, 0, 5)
    targets, _, _ = script.objective(args, script.build_net(args))
    _, labels = views.sample(11, 0)
    scale, squares, _, masks = targets.encode_labels(labels)
    assert (scale[:, :32, :32] == -1).all()
    assert masks.any() and squares.any()
    with pytest.raises(DataError, match="no photo of --train-points has the source film"):
        script.make_views(
            script.parse_args(arguments(drawn, tmp_path, "--train-points", partial, "--points-sources", "film")), 0, 5
        )


def points_alone(drawn, out, path, *more):
    """`arguments` without photos that are labelled completely."""
    words = arguments(drawn, out, "--train-points", path, "--images", str(drawn / "images"), *more)
    at = words.index("--train")
    return [*words[:at], *words[at + 2 :]]


@pytest.mark.parametrize("flags", [(), ("--reader", "regression"), ("--model", "kpnet_hourglass_aflw")])
def test_where_no_photo_is_labelled_completely_points_are_learnt_and_the_scale_map_is_not(
    script, drawn, dense, tmp_path, flags
):
    model = ("--model", "kpnet_drnet_aflw", "--epochs", "3", "--wd", "0", "--optimizer", "adam", "--lr", "3e-3")
    script.main(points_alone(drawn, tmp_path, dense(19), *model, "--face-prob", "1", *flags))
    losses = [epoch["losses"] for epoch in read_log(tmp_path)]
    assert all(one["scale"] == 0 for one in losses)
    assert 0 < losses[-1]["points"] < losses[0]["points"]
    parameters = read_checkpoint(tmp_path).arrays["parameters"]
    np.testing.assert_array_equal(parameters["network.scale_head.bias"], np.full(60, -7))


def test_the_recipe_for_aflw_shows_faces_at_sizes_that_the_net_can_tell(script, drawn, dense, tmp_path):
    views = ("--data-shape", "256", "--face-prob", "1", "--face-sizes", "32", "64", "128", "--rotate", "1", "--degrade")
    args = script.parse_args(points_alone(drawn, tmp_path, dense(19), "--model", "kpnet_drnet_aflw", *views))
    views, (targets, _, _) = script.make_views(args, 0, 19), script.objective(args, script.build_net(args))
    for epoch in range(4):
        for item in range(len(views)):
            _, labels = views.sample(item, epoch)
            faces = labels[labels.points_only & ~labels.ignore]
            sides = (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1)
            assert len(sides) and sides.min() > targets.spec.smallest and sides.max() <= targets.spec.long_side
            scale, _, _, masks = targets.encode_labels(labels)
            assert (scale <= 0).all() and masks.any()


def test_points_are_validated_in_labelled_boxes_and_the_least_error_is_kept(script, drawn, dense, tmp_path):
    path = dense(19)
    flags = ("--model", "kpnet_drnet_aflw", "--epochs", "3", "--optimizer", "adam", "--lr", "3e-3")
    script.main(points_alone(drawn, tmp_path, path, *flags, "--face-prob", "1", "--val-points", path))
    errors = [epoch["validation"]["nme_in_boxes"] for epoch in read_log(tmp_path)]
    assert len(errors) == 3 and 0 < min(errors) < 1
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["epoch"] == int(np.argmin(errors))
    # With photos labelled completely average precision chooses, and both are told.
    words = arguments(drawn, tmp_path, "--val", str(drawn / "all.jsonl"), "--val-points", str(drawn / "all.jsonl"))
    told = script.validator(script.parse_args(words), 5)
    assert told["best_key"] == "ap50"
    net = script.build_net(script.parse_args(words))
    assert set(told["evaluate"](net)) == {"ap50", "ap", "recall_at_1fppi", "nme_in_boxes"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--whole-photos --rotate .5", "--rotate does nothing here: --whole-photos takes each photo as it is"),
        ("--whole-photos --degrade", "--degrade does nothing here: --whole-photos"),
        ("--face-sizes 20 40", "--face-sizes does nothing here: it counts with --face-prob"),
        ("--max-degrees 40", "--max-degrees does nothing here: it counts with --rotate"),
    ],
)
def test_flags_of_views_that_would_do_nothing_are_refused(script, words, message, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["--train", "x", *words.split()])
    assert message in " ".join(capsys.readouterr().err.split())
    script.parse_args(
        ["--train", "x", "--face-prob", ".2", "--face-sizes", "20", "40", "--rotate", ".5", "--max-degrees", "40"]
    )
    script.parse_args(["--train", "x", "--whole-photos", "--mosaic", ".2", "--min-face", "4"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected --train, photos labelled completely, or --train-points, or both; got neither"),
        (("--train-points", "x", "--head", "tags"), "goes with --head keypoints"),
        (("--train-points", "x", "--head", "anchors"), "goes with --head keypoints"),
        (("--train-points", "x", "--reader", "argmax"), "--reader soft or regression"),
        (("--train-points", "x", "--response-weight", "1"), "no --response-weight"),
        (("--train-points", "x", "--val", "x"), "--val does nothing here: without --train"),
        (("--train-points", "x", "--scale-weight", "10"), "--scale-weight does nothing here: without --train"),
        (("--train-points", "x", "--sources", "aflw"), "--sources does nothing here"),
        (("--train", "x", "--val-points", "x", "--head", "tags"), "--val-points goes with --head keypoints"),
    ],
)
def test_what_points_alone_cannot_teach_is_refused(script, words, message, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(words)
    assert message in " ".join(capsys.readouterr().err.split())


def test_points_that_no_photo_has_are_missed_in_the_file_that_was_given(script, drawn, dense, tmp_path):
    args = script.parse_args(points_alone(drawn, tmp_path, dense(19), "--num-points", "68"))
    with pytest.raises(DataError, match="^--train-points: expected faces with landmarks of the scheme 68"):
        script.make_views(args, 0, 68)


def test_a_net_of_other_points_starts_one_whose_maps_of_points_and_boxes_begin_anew(script, tmp_path):
    five = get_model("kpnet_drnet_fc26", pretrained=True)
    five.save_parameters(str(tmp_path / "five.params"))
    theirs = five._collect_params_with_prefix()
    for start in ("kpnet_drnet_fc26", str(tmp_path / "five.params")):
        for count, reader in ((19, "soft"), (19, "regression"), (5, "soft")):
            words = ["--train", "x", "--num-points", str(count), "--reader", reader, "--start", start]
            net = script.build_net(script.parse_args(words))
            for name, parameter in net._collect_params_with_prefix().items():
                found, there = parameter.data().asnumpy(), theirs.get(name)
                if there is not None and there.shape == found.shape:
                    np.testing.assert_array_equal(found, there.data().asnumpy(), err_msg=name)
                else:
                    assert name.startswith(("network.response_head", "network.reader", "box_mapping")), name
