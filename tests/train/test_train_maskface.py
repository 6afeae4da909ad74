import dataclasses
import json

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.data.base import FaceLabels
from gluonface.engine import Engine, config_from_args
from gluonface.errors import DataError, InputError
from gluonface.geometry import box_iou
from gluonface.image import save_image
from gluonface.model_zoo import model_facts
from gluonface.model_zoo.counting import count_macs, count_parameters
from gluonface.model_zoo.maskface import maskface
from gluonface.training.checkpoint import read_checkpoint
from gluonface.training.config import learning_rate_at
from gluonface.training.detection import NormalisedBatches
from gluonface.training.inputs import image_preparer

FIVE, DENSE = "maskface_mobilenet0.25_widerface", "maskface_mobilenet0.25_fc26"
TRAINED = "retinaface_mobilenet0.25_mask"  # comes with the package
HEAD = "network.keypoint_head."


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train_maskface")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, face_line):
    """Eight photos of a drawn face with five and 68 points, and four of which a face is labelled only."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    around = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    lines = []
    for i in range(12):
        image = rng.integers(0, 90, (96, 96, 3), np.uint8)
        x, y = (int(v) for v in rng.integers(36, 60, 2))
        r = 24 if i % 4 else 14
        cv2.ellipse(image, (x, y), (r, r), 0, 0, 360, (220, 180, 160), -1)
        five = [[x + r * dx, y + r * dy] for dx, dy in ((-0.4, -0.3), (0.4, -0.3), (0, 0), (-0.3, 0.4), (0.3, 0.4))]
        for px, py in five:
            cv2.circle(image, (round(px), round(py)), 2, (20, 20, 60), -1)
        save_image(folder / "images" / f"{i}.png", image)
        dense = np.stack([x + 0.9 * r * np.cos(around), y + 0.9 * r * np.sin(around)], axis=1)
        lines.append(face_line(f"{i}.png", x, y, r, five, landmarks68=dense.tolist()))
    for name, rows in (("all", lines[:8]), ("partial", lines[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(drawn, out, *more, model=FIVE):
    sizes = ["--data-shape", "64", "--val-size", "64", "--batch-size", "4", "-j", "0", "--channels", "8"]
    run = ["--save-prefix", str(out), "--log-interval", "1", "--lr", "1e-3", "--lr-mode", "constant"]
    run += ["--warmup-epochs", "0", "--no-frozen"]
    return ["--model", model, "--train", str(drawn / "all.jsonl"), *sizes, *run, *more]


def read_log(out):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "epoch"]


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Drawing takes longer than the training here."""
    monkeypatch.setattr("gluonface.engine.draw_curves", lambda records, path: None)


def values(net):
    return {name: p.list_data()[0].asnumpy() for name, p in net._collect_params_with_prefix().items()}


# ---- whole runs ------------------------------------------------------------------------------------------------------


def test_a_run_learns_boxes_and_points_of_faces_that_it_finds(script, drawn, tmp_path):
    data = str(drawn / "all.jsonl")
    start = ("--phase", "both", "--start", TRAINED, "--frozen", "--crop-ratios", "1")
    more = ("--train-points", str(drawn / "partial.jsonl"), "--val", data, "--val-points", data, "--norm", "box")
    quick = ("--optimizer", "adam", "--lr", "3e-3", "--epochs", "6", "--val-interval", "6")
    script.main(arguments(drawn, tmp_path, *start, *more, *quick, model=DENSE))
    epochs = read_log(tmp_path)
    assert all(set(row["losses"]) == {"cls", "box", "points"} for row in epochs)
    assert all(np.isfinite(list(row["losses"].values())).all() for row in epochs)
    assert epochs[-1]["losses"]["cls"] < epochs[0]["losses"]["cls"]
    # Proposals come with the faces that are found; points are learnt from then on.
    assert epochs[-1]["watched"]["proposals"] > 0 and epochs[-1]["losses"]["points"] > 0
    assert {"ap50", "nme", "auc", "missed"} <= set(epochs[-1]["validation"])
    net = maskface(model_facts(DENSE), channels=8)
    net.load_parameters(tmp_path / "best.params")
    assert net(mx.nd.zeros((1, 3, 64, 64)))[3].shape[2] == 2 * 68


@pytest.mark.parametrize(
    ("flags", "options", "parts"),
    [
        (
            ("--phase", "detection", "--k0", "2.5", "--roi-scale", "1.2"),
            {"k0": 2.5, "roi_scale": 1.2},
            {"cls", "box", "points"},
        ),
        (("--phase", "landmarks", "--face-range", "30", "50", "--no-low-quality"), {}, {"cls", "box", "points"}),
        (("--no-keypoints", "--no-context"), {"keypoints": False, "context": False}, {"cls", "box"}),
    ],
    ids=["detection", "landmarks", "boxes alone"],
)
def test_every_phase_and_row_leaves_weights_of_its_net(script, drawn, tmp_path, flags, options, parts):
    script.main(arguments(drawn, tmp_path, "--epochs", "1", *flags))
    (epoch,) = read_log(tmp_path)
    assert set(epoch["losses"]) == parts and set(epoch["watched"]) == {"proposals"}
    net = maskface(model_facts(FIVE), channels=8, **options)
    net.load_parameters(tmp_path / "last.params")


def test_the_margin_about_boxes_is_one_for_net_and_targets_and_comes_with_weights_to_start_from(script):
    words = ["--train", "x", "--phase", "both", "--model", DENSE]
    shipped = model_facts("maskface_mobilenetv2_1.0_fc26").options
    for more, scale, k0 in (
        (["--no-frozen"], 1, 3),
        (["--no-frozen", "--roi-scale", "1.2", "--k0", "2"], 1.2, 2),
        (["--model", "maskface_mobilenetv2_1.0_fc26", "--start", "maskface_mobilenetv2_1.0_fc26"], 1.3, 3),
        (["--start", "maskface_mobilenetv2_1.0_fc26", "--roi-scale", "1.1"], 1.1, 3),
    ):
        args = script.parse_args([*words, *more])
        assert (args.roi_scale, args.k0) == (scale, k0)
        assert args.channels == (shipped["channels"] if "--start" in more else None)
    args = script.parse_args([*words, "--no-frozen", "--channels", "8", "--roi-scale", "1.2"])
    net = script.build_net(args)
    assert net.network.keypoint_head.widen.scale == script.Losses(args, net).choose.roi_scale == 1.2


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(script, drawn, tmp_path):
    common = ("--lr", "1e-2", "--ema-decay", "0.9", "--accumulate", "2", "--phase", "landmarks")
    common = (*common, "--face-range", "30", "50")
    script.main(arguments(drawn, tmp_path / "a", "--epochs", "2", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "1", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "2", "--resume", str(tmp_path / "b"), *common))
    straight, resumed = (read_checkpoint(tmp_path / run).arrays["parameters"] for run in "ab")
    for name, value in straight.items():
        np.testing.assert_allclose(resumed[name], value, atol=1e-7, err_msg=name)


def test_landmarks_start_from_the_weights_of_the_phase_before(script, drawn, tmp_path):
    script.main(arguments(drawn, tmp_path, "--epochs", "1", "--facts-of", TRAINED))
    words = ("--start", str(tmp_path / "last.params"), "--phase", "landmarks", "--facts-of", TRAINED)
    net = script.build_net(script.parse_args(arguments(drawn, tmp_path, *words, model=DENSE)))
    before = read_checkpoint(tmp_path).arrays["parameters"]
    after = values(net)
    new = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    assert new == {f"{HEAD}deconv.weight", f"{HEAD}deconv.bias"}
    assert after[f"{HEAD}deconv.weight"].shape[1] == 68
    assert net.facts.mean == model_facts(TRAINED).mean and net.facts.name == DENSE


# ---- the recipe ------------------------------------------------------------------------------------------------------


def test_the_recipe_is_the_papers_unless_told_otherwise(script):
    args = script.parse_args(["--train", "x.jsonl", "--pretrained-base"])
    assert (args.phase, args.data_shape, args.batch_size, args.momentum, args.wd) == ("detection", 640, 8, 0.9, 1e-4)
    assert (args.lambda_kp, args.k0, args.context, args.keypoints, args.frozen) == (0.25, 3, True, True, True)
    targets = script.make_targets(args, 5)
    assert (targets.positive_iou, targets.negative_iou, targets.low_quality_iou) == (0.5, 0.3, 0)
    assert len(targets.anchors) == 102_300 and not targets.take_over
    per_epoch = 12_880 // args.batch_size
    config = script.config_from_args(args)
    rates = [learning_rate_at(config, *pair) for pair in ((0, per_epoch), (2500, per_epoch), (5001, per_epoch))]
    np.testing.assert_allclose(rates, [1e-4, 5.05e-3, 1e-2], rtol=1e-4)
    falls = [learning_rate_at(config, 60_000, per_epoch, n) for n in range(4)]
    np.testing.assert_allclose(falls, [1e-2, 1e-3, 1e-4, 1e-4])


def test_views_are_those_of_the_phase(script, drawn, tmp_path):
    def views_of(*more):
        args = script.parse_args(["--train", str(drawn / "all.jsonl"), "--no-frozen", *more])
        return script.make_views(args, 0, 5)

    detection = views_of().transform
    assert (detection.size, detection.scales, detection.face_prob) == (640, (0.5, 2.5), 0.5)
    assert detection.min_face**2 == pytest.approx(0.4 * 16**2)
    assert detection.max_face**2 == pytest.approx(2.5 * 406**2, rel=2e-3)
    landmarks = views_of("--phase", "landmarks").transform
    assert (landmarks.size, landmarks.face_range, landmarks.max_degrees) == (480, (150, 450), 30)
    _, labels = views_of("--phase", "landmarks").sample(3, 0)
    assert 140 < labels.face_sizes.max() < 650  # of the upright box about one that is turned
    both = views_of("--phase", "both", "--data-shape", "96", "--degrade", "--rotate", "1", "--mosaic", ".5")
    assert both.transform.rotate_prob == 1 and both.transform.face_prob == 0 and both.mosaic_prob == 0.5
    assert both.transform.degrade is not None and both.transform.min_face == detection.min_face


@pytest.mark.parametrize(
    ("phase", "ignored", "counting"),
    [
        (
            "detection",
            {"rotate": "1", "max-degrees": "20", "quarter-turns": "0", "crop-ratios": "1", "face-sizes": "32",
             "face-size-weights": "1", "face-range": "30 50"},
            "--scales 1 2 --face-prob .3",
        ),
        (
            "landmarks",
            {"rotate": "1", "quarter-turns": ".5", "crop-ratios": "1", "face-sizes": "32", "face-size-weights": "1",
             "face-prob": ".5", "scales": "1 2"},
            "--face-range 30 50 --max-degrees 20",
        ),
        (
            "both",
            {"scales": "1 2", "face-range": "150 450"},
            "--rotate .5 --max-degrees 20 --quarter-turns .2 --crop-ratios 1 --face-prob .3 --face-sizes 32 64 "
            "--face-size-weights 1 2",
        ),
    ],
)  # fmt: skip
def test_a_phase_refuses_the_flags_of_others_views(script, capsys, phase, ignored, counting):
    words = ["--train", "x.jsonl", "--no-frozen", "--phase", phase]
    every = ("--mosaic", ".5", "--degrade", "--min-face", "5")
    assert script.parse_args([*words, *counting.split(), *every]).mosaic == 0.5
    for name, value in ignored.items():
        with pytest.raises(SystemExit):
            script.parse_args([*words, f"--{name}", *value.split()])
        phases = " or ".join(script.ONLY_IN[name.replace("-", "_")])
        assert f"--{name} does nothing here: it counts with --phase {phases}" in capsys.readouterr().err


def test_the_help_says_once_what_the_share_of_faces_is_in_each_phase(script, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.count(" --face-prob FACE_PROB ") == 1
    assert "for detection (default: .5), one brought to a drawn size for both (default: 0)" in text
    for phase, share in (("detection", 0.5), ("both", 0.0)):
        assert script.parse_args(["--train", "x", "--no-frozen", "--phase", phase]).face_prob == share


def test_what_the_net_and_the_data_are_is_kept_with_a_run(script):
    words = ["--train", "x.jsonl", "--phase", "both", "--k0", "4", "--lambda-kp", "1", "--no-context", "--no-frozen"]
    flags = script.config_from_args(script.parse_args([*words, "--cache", "bytes"])).flags
    told = {"train": "x.jsonl", "phase": "both", "k0": 4.0, "lambda_kp": 1.0, "context": False, "frozen": False}
    assert {**flags, **told} == flags and "cache" not in flags


def test_without_low_quality_matches_a_face_between_the_anchors_has_none(script):
    words = ["--train", "x.jsonl", "--no-frozen", "--data-shape", "64"]
    labels = FaceLabels(np.array([[10, 20, 40, 29]], np.float32))
    positive = [
        (script.make_targets(script.parse_args([*words, *more]), 5).encode_labels(labels)[0] == 1).sum()
        for more in ((), ("--no-low-quality",))
    ]
    assert positive[0] > 0 and positive[1] == 0


def test_photos_of_which_one_face_is_labelled_train_points_only(script, drawn, tmp_path):
    partial = ("--train-points", str(drawn / "partial.jsonl"), "--phase", "both", "--crop-ratios", "1")
    args = script.parse_args(arguments(drawn, tmp_path, *partial))
    views, targets = script.make_views(args, 0, 5), script.make_targets(args, 5)
    _, labels = views.sample(11, 0)
    cls_targets, _, face_boxes, face_points = targets.encode_labels(labels)
    # Background is only where the photo is not.
    inside = (targets.anchors[:, :2] >= 0).all(axis=1) & (targets.anchors[:, 2:] <= 64).all(axis=1)
    assert not (cls_targets == 1).any() and (cls_targets[inside] == -1).all()
    assert face_boxes[0].any() and np.isfinite(face_points[0]).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--frozen",), "random weights cannot stay as they are"),
        (("--phase", "dreams"), "invalid choice: 'dreams'"),
        (("--no-keypoints", "--max-proposals", "4"), "--max-proposals does nothing here: it counts with a keypoint"),
    ],
)
def test_runs_that_could_not_learn_are_refused(script, drawn, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit):
        script.parse_args(arguments(drawn, tmp_path, *words))
    assert said in capsys.readouterr().err


def test_other_systems_and_points_that_are_not_validated_are_named(script, drawn, tmp_path):
    with pytest.raises(InputError, match=r"--model: expected a model of MaskFace .* got kpnet_drnet_fc26"):
        script.build_net(script.parse_args(arguments(drawn, tmp_path, model="kpnet_drnet_fc26")))
    args = script.parse_args(arguments(drawn, tmp_path, "--val-points", "x.jsonl"))
    with pytest.raises(InputError, match=f"--val-points: expected a net with dense landmarks, {FIVE} has 5 points"):
        script.validator(args, 5)
    args = script.parse_args(arguments(drawn, tmp_path, "--val-points", str(drawn / "all.jsonl")))
    with pytest.raises(InputError, match=f"all.jsonl: expected landmarks of 19 points, as {FIVE} has here, got 68"):
        script.validator(args, 19)
    with pytest.raises(DataError, match="--train: expected faces with landmarks of the scheme 19"):
        script.make_views(args, 0, 19)
    assert script.make_views(args, 0, 0)


def test_the_best_weights_are_chosen_by_what_a_phase_is_for(script, drawn, tmp_path):
    data = str(drawn / "all.jsonl")

    def chosen_by(phase, *more):
        return script.validator(script.parse_args(arguments(drawn, tmp_path, "--phase", phase, *more)), 68)[1]

    both = ("--val", data, "--val-points", data)
    assert [chosen_by(phase, *both) for phase in ("detection", "landmarks", "both")] == ["ap50", "auc", "ap50"]
    assert chosen_by("both", "--val-points", data) == "auc" and chosen_by("landmarks", "--val", data) == "ap50"
    assert chosen_by("both") is None


# ---- a step ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def step(script, drawn, tmp_path):
    """A net that proposes every anchor, the losses, and a batch of two faces that are anchors; small arrays."""

    def made(*more, faces=((16.0, 16, 48, 48), (8.0, 24, 24, 40)), score=0.0):
        args = script.parse_args(arguments(drawn, tmp_path / "run", "--max-proposals", "4", *more))
        mx.random.seed(3)
        net = script.build_net(args)
        for head in (net.network.cls_head, net.network.box_head):
            head.weight.set_data(mx.nd.zeros(head.weight.shape))
        net.network.cls_head.bias.set_data(mx.nd.array(np.tile([0.0, score], 3)))
        targets = script.make_targets(args, 5)
        rows = []
        for box in faces:
            low, high = np.array(box[:2]), np.array(box[2:])
            shares = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
            points = (low + shares * (high - low))[None].astype(np.float32)
            rows.append(targets.encode_labels(FaceLabels(np.array([box], np.float32), landmarks5=points)))
        images = np.random.default_rng(0).integers(0, 255, (len(rows), 64, 64, 3), dtype=np.uint8)
        (batch,) = NormalisedBatches([(images, *map(np.stack, zip(*rows)))], script.positive_anchors)
        return args, net, script.Losses(args, net), batch

    return made


def gradients(net):
    return {name: p.grad().asnumpy() for name, p in net._collect_params_with_prefix().items() if p.grad_req != "null"}


def test_points_are_learnt_in_the_proposals_and_move_no_box(step):
    _, net, losses, batch = step()
    arrays = image_preparer(net.facts)(batch, mx.cpu())
    with mx.autograd.record():
        parts = losses(net, *arrays)
        parts["points"].mean().backward()
    assert parts["proposals"].asnumpy().min() >= 1
    assert np.abs(parts["points"].asnumpy()).min() > 0
    found = gradients(net)
    assert np.abs(found[f"{HEAD}deconv.weight"]).max() > 0
    assert np.abs(found["network.fpn.laterals.0.0.weight"]).max() > 0
    assert not any(np.abs(value).any() for name, value in found.items() if "box_head" in name or "cls_head" in name)


def test_the_loss_of_points_is_a_mean_over_proposals_with_points_times_lambda(step):
    _, net, losses, batch = step("--lambda-kp", "0.5")
    arrays = image_preparer(net.facts)(batch, mx.cpu())
    for parameter in net.network.keypoint_head.deconv.collect_params().values():
        parameter.set_data(mx.nd.zeros(parameter.shape))
    parts = losses(net, *arrays)
    # Of flat maps each known point costs the logarithm of the number of cells.
    assert float(parts["points"].mean().asscalar()) == pytest.approx(0.5 * np.log(56 * 56), rel=1e-5)


def test_the_keypoint_head_looks_at_the_proposals_with_points_of_all_images_and_at_few_rows_more(step):
    _, net, losses, batch = step()
    x, *arrays = image_preparer(net.facts)(batch, mx.cpu())
    cls_preds, box_preds, *_ = net.network(x)
    rows, cells, count = losses.propose(net, x, cls_preds, box_preds, arrays[2], arrays[3])
    rows, cells, found = rows.asnumpy(), cells.asnumpy(), int(count.sum())
    assert found and rows.shape == (8, 5) and cells.shape == (1, 8, 5)
    np.testing.assert_array_equal(rows[:, 0], [*np.repeat([0, 1], count.astype(int)), *[-1] * (8 - found)])
    overlap = [box_iou(rows[i : i + 1, 1:], arrays[2].asnumpy()[int(rows[i, 0])]).max() for i in range(found)]
    assert min(overlap) > 0.6
    assert (cells[0, :found] >= 0).all() and (cells[0, found:] == -1).all()


def test_images_without_proposals_give_rows_of_no_image(step):
    _, net, losses, batch = step()
    x, *arrays = image_preparer(net.facts)(batch, mx.cpu())
    cls_preds, box_preds, *_ = net.network(x)
    rows, cells, count = losses.propose(net, x, cls_preds, box_preds, arrays[2] * 0, arrays[3])
    assert (rows[:, 0].asnumpy() == -1).all() and (cells.asnumpy() == -1).all() and not count.any()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_without_a_proposal_updates_the_net_all_the_same(step, devices):
    args, net, losses, batch = step(score=-9.0)
    before = values(net)
    train(args, net, losses, batch, devices)
    after = values(net)
    assert losses.seen == [0.0] * devices
    moved = {name for name in before if not np.array_equal(after[name], before[name])}
    assert "network.cls_head.bias" in moved and not any(name.startswith(HEAD) for name in moved)


def train(args, net, losses, batch, devices):
    """One update, on so many devices; ``losses.seen`` becomes the proposals of each."""
    losses.seen = []

    def watched(*arrays):
        parts = losses(*arrays)
        losses.seen.append(float(parts["proposals"].sum().asscalar()))
        return parts

    config = config_from_args(args)
    config = dataclasses.replace(config, epochs=1, wd=0.0, save_prefix=f"{config.save_prefix}{devices}")
    contexts = [mx.cpu(i) for i in range(devices)]
    engine = Engine(net, watched, config, contexts=contexts, prepare=image_preparer(net.facts), watched=losses.watched)
    engine.fit(lambda epoch: [batch])


def test_two_devices_give_the_update_of_one_where_each_has_as_many_proposals(step):
    results = []
    for devices in (1, 2):
        args, net, losses, batch = step("--frozen-bn", faces=((16.0, 16, 48, 48),) * 2)
        train(args, net, losses, batch, devices)
        assert len(losses.seen) == devices and sum(losses.seen) >= 2 and len(set(losses.seen)) == 1
        results.append(values(net))
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, atol=1e-6, rtol=1e-4, err_msg=name)


# ---- a net without context -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keypoints", [True, False])
def test_a_net_without_context_has_the_parameters_and_operations_of_its_facts(keypoints):
    net = maskface(model_facts(DENSE), context=False, keypoints=keypoints, frozen=False)
    whole = maskface(model_facts(DENSE), keypoints=keypoints)
    net.network.infer_shape(mx.nd.zeros((1, 3, 64, 64)))
    assert count_parameters(net) == net.facts.params < whole.facts.params
    assert count_macs(net.network, (1, 3, 640, 640)) == pytest.approx(net.facts.gf * 1e9, abs=1)
    assert net.facts.gf < whole.facts.gf
