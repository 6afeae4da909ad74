import json

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import DataError, WeightsError
from gluonface.faces import Faces
from gluonface.image import save_image
from gluonface.model_zoo import get_model
from gluonface.model_zoo.store import read_params
from gluonface.training.checkpoint import read_checkpoint

MODEL = "mos_mobilenet0.25_widerface"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train_mos")


def drawn_face(image, x, y, r, yaw):
    """A face whose features stand aside as it turns; positive yaw: to the viewer's left."""
    cv2.ellipse(image, (x, y), (r, r), 0, 0, 360, (220, 180, 160), -1)
    aside = round(-r * np.sin(np.deg2rad(yaw)) / 2)
    points = [
        [x - 8 + aside, y - 6],
        [x + 8 + aside, y - 6],
        [x + 2 * aside, y],
        [x - 6 + aside, y + 9],
        [x + 6 + aside, y + 9],
    ]
    for px, py in points:
        cv2.circle(image, (px, py), 2, (20, 20, 60), -1)
    return points


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, face_line):
    """Eight photos of a drawn face on noise, with five points and pose, and four of which a face is labelled only."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(12):
        image = rng.integers(0, 90, (96, 96, 3), np.uint8)
        x, y = (int(v) for v in rng.integers(36, 60, 2))
        r, yaw = 24 if i % 4 else 10, float((-40, 0, 40)[i % 3])
        points = drawn_face(image, x, y, r, yaw)
        save_image(folder / "images" / f"{i}.png", image)
        pose = {"yaw": yaw, "pitch": 5.0, "roll": 0.0} if i % 5 != 1 else None
        lines.append(face_line(f"{i}.png", x, y, r, points, pose=pose))
    for name, rows in (("all", lines[:8]), ("partial", lines[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(drawn, out, *more):
    data = str(drawn / "all.jsonl")
    sizes = ["--data-shape", "64", "--val-size", "96", "--mine-size", "96", "--batch-size", "4", "-j", "0"]
    run = ["--save-prefix", str(out), "--log-interval", "1", "--lr", "1e-3", "--lr-mode", "constant"]
    return ["--model", MODEL, "--train", data, *sizes, *run, *more]


def read_log(out, kind="epoch"):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Drawing takes longer than the training here."""
    monkeypatch.setattr("gluonface.engine.draw_curves", lambda records, path: None)


def test_a_run_learns_all_tasks_validates_and_leaves_weights_that_load(script, drawn, tmp_path):
    data, partial = (str(drawn / f"{name}.jsonl") for name in ("all", "partial"))
    often = ("--source-weight", "drawn=3", "--min-pose-face", "20", "--hard-share", "0.5")
    validation = ("--train-points", partial, "--val", data, "--val-pose", data)
    script.main(arguments(drawn, tmp_path, "--epochs", "2", *validation, *often))
    epochs = read_log(tmp_path)
    assert [row["epoch"] for row in epochs] == [0, 1]
    for row in epochs:
        assert set(row["losses"]) == {"cls", "box", "landmark", "pose", "scales"}
        assert set(row["watched"]) == {"small_box", "all_box"}
        assert all(np.isfinite(value) for value in (*row["losses"].values(), *row["watched"].values()))
        assert {"ap50", "ap", "pose_mae", "pose_yaw", "pose_missed"} <= set(row["validation"])
        weights = {name: value for name, value in row["observed"].items() if name.startswith("weight of ")}
        assert set(weights) == {f"weight of {part}" for part in ("cls", "box", "landmark", "pose")}
        assert {"hard views", "small share", "stitched"} <= set(row["observed"])
    # What is learnt moves the weights.
    first, last = (row["observed"] for row in (read_log(tmp_path, "train")[0], epochs[-1]))
    assert all(first[name] != last[name] for name in weights)
    # A net that has learnt for a moment misses faces: the set S, of half of the photos that are labelled completely,
    # makes the next epoch a batch longer.
    assert epochs[0]["observed"]["hard views"] == 4
    assert epochs[1]["iteration"] == 2 * epochs[0]["iteration"] + 1
    net = get_model(MODEL)
    net.load_parameters(tmp_path / "best.params")
    *_, pose = net(mx.nd.zeros((1, 3, 64, 64)))
    assert np.isfinite(pose.asnumpy()).all()


def test_the_run_starts_at_weights_that_suit_the_losses_of_its_first_batch(script, drawn, tmp_path, monkeypatch):
    said = {}

    class StopError(Exception):
        pass

    def fit(self, batches):
        said.update(losses=self.loss_fn, engine=self, batch=next(iter(batches(0))))
        raise StopError

    monkeypatch.setattr("gluonface.engine.Engine.fit", fit)
    with pytest.raises(StopError):
        script.main(arguments(drawn, tmp_path, "--min-pose-face", "10"))
    with mx.autograd.train_mode():
        parts, _ = said["losses"].parts_of(said["engine"].net, *said["engine"].prepare(said["batch"], mx.cpu()))
    weights = said["losses"].weights.weights()
    assert set(parts) == set(weights) == {"cls", "box", "landmark", "pose"}
    for name, part in parts.items():
        assert weights[name] == pytest.approx(1 / (2 * float(part.mean().asscalar())), rel=1e-3), name


@pytest.mark.parametrize("more", [(), ("--fixed-weights",)], ids=["learned", "fixed"])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(script, drawn, tmp_path, more):
    partial = str(drawn / "partial.jsonl")
    common = ("--rotate", "1", "--ema-decay", "0.9", "--hard-share", "1", "--train-points", partial, *more)
    script.main(arguments(drawn, tmp_path / "a", "--epochs", "2", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "1", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "2", "--resume", str(tmp_path / "b"), *common))
    assert (tmp_path / "a" / "last.params").read_bytes() == (tmp_path / "b" / "last.params").read_bytes()
    straight, resumed = (read_checkpoint(tmp_path / run) for run in "ab")
    assert straight.state["observers"] == resumed.state["observers"]
    assert any(straight.state["observers"]["feedback"]["errors"])
    assert ("loss" in straight.arrays) == (not more)
    for name, value in straight.arrays.get("loss", {}).items():
        np.testing.assert_array_equal(resumed.arrays["loss"][name], value)


def test_fixed_weights_are_those_of_the_paper(script, drawn, tmp_path):
    args = script.parse_args(arguments(drawn, tmp_path, "--fixed-weights"))
    net = script.build_net(args)
    losses = script.Losses(args, net.network)
    assert losses.weights is None
    inputs = made_inputs(script, args, net)
    plain, watched = losses.parts_of(net, *inputs)
    weighted = losses(net, *inputs)
    assert list(weighted) == ["cls", "box", "landmark", "pose", "small_box", "all_box"]
    for name, weight in (("cls", 2), ("box", 1), ("landmark", 1), ("pose", 0.25)):
        np.testing.assert_allclose(weighted[name].asnumpy(), weight * plain[name].asnumpy(), rtol=1e-5)
    np.testing.assert_allclose(watched["all_box"].asnumpy(), plain["box"].asnumpy(), rtol=1e-5)


def made_inputs(script, args, net):
    """A batch as the engine gives it to the losses."""
    from gluonface.data.loader import BatchLoader
    from gluonface.training.inputs import image_preparer

    samples, _ = script.read_samples(args)
    views = script.training_views(args, samples, 0)
    encode = script.anchor_targets(args, script.MOSTargets, min_pose_face=args.min_pose_face).encode_labels
    made = BatchLoader(views, args.batch_size, encode=encode).epoch(0)
    counts = script.positive_anchors, script.anchors_with_points, script.anchors_with_pose
    return image_preparer(net.facts)(next(iter(script.NormalisedBatches(made, *counts))), mx.cpu())


def test_parts_are_means_over_the_anchors_that_they_are_of(script, drawn, tmp_path):
    words = ("--batch-size", "12", "--min-pose-face", "10", "--train-points", str(drawn / "partial.jsonl"))
    args = script.parse_args(arguments(drawn, tmp_path, *words))
    net = script.build_net(args)
    x, cls, *others = made_inputs(script, args, net)
    masks, pose_masks, factors = others[2], others[7], [f.asnumpy() for f in others[8:]]
    counts = (cls.asnumpy() == 1).sum(), masks.asnumpy().sum(), pose_masks.asnumpy().sum()
    # Some photos train points alone, and some faces have no pose.
    assert len(factors) == 3 and len(set(counts)) == 3
    for factor, count in zip(factors, counts):
        np.testing.assert_allclose(factor, 12 / count, rtol=1e-6)
    losses = script.Losses(args, net.network)
    found, _ = losses.parts_of(net, x, cls, *others)
    sums, _ = losses.parts_of(net, x, cls, *others[:8], *[mx.nd.ones(12)] * 3)
    for name, count in zip(("cls", "box", "landmark", "pose"), (counts[0], *counts)):
        total = float(sums[name].sum().asscalar())
        assert float(found[name].mean().asscalar()) == pytest.approx(total / count, rel=1e-4), name


@pytest.mark.parametrize(
    "more",
    [
        ("--head", "shared"),
        ("--pose-weight", "0"),
        ("--pose-weight", "0", "--fixed-weights", "--head", "shared"),
        ("--deformable",),
        ("--stitch-below", "0", "--mine-every", "0"),
    ],
    ids=" ".join,
)
def test_the_rows_of_the_ablation_run(script, drawn, tmp_path, more):
    script.main(arguments(drawn, tmp_path, "--epochs", "1", *more))
    (row,) = read_log(tmp_path)
    assert all(np.isfinite(value) for value in row["losses"].values())
    assert ("pose" in row["losses"]) == ("--pose-weight" not in more)
    if "--mine-every" in more:
        assert row["observed"]["hard views"] == 0 and row["observed"]["stitched"] == 0
    net = get_model(MODEL, head="shared" if "shared" in more else None, deformable="--deformable" in more or None)
    net.load_parameters(tmp_path / "last.params")


def test_a_run_without_pose_leaves_the_pose_predictor_as_it_was_and_can_be_resumed(script, drawn, tmp_path):
    common = ("--pose-weight", "0", "--wd", "0.1")
    script.main(arguments(drawn, tmp_path, "--epochs", "1", *common))
    first = read_params(tmp_path / "last.params")
    script.main(arguments(drawn, tmp_path, "--epochs", "2", "--resume", str(tmp_path), *common))
    second = read_params(tmp_path / "last.params")
    same = {name: np.array_equal(first[name], second[name]) for name in first}
    assert all(unchanged == (".pose_head." in name) for name, unchanged in same.items() if name.endswith("weight"))


def test_below_the_threshold_batches_are_stitched(script, drawn, tmp_path):
    often = ("--source-weight", "drawn=4", "--turned-from", "90", "--mine-every", "0")
    for threshold, stitched in (("0", 0.0), ("1", 6 / 9)):
        out = tmp_path / threshold
        script.main(arguments(drawn, out, "--epochs", "1", "--stitch-below", threshold, "--small", "1", *often))
        (row,) = read_log(out)
        # Of eight batches the first is made before anything is known, as the one is that starts the weights, and the
        # second while the first is looked at.
        assert row["observed"]["stitched"] == pytest.approx(stitched)
        assert row["watched"]["small_box"] == 0


def test_of_photos_labelled_in_part_one_face_is_learnt_and_they_come_last(script, drawn, tmp_path):
    args = script.parse_args(arguments(drawn, tmp_path, "--train-points", str(drawn / "partial.jsonl")))
    samples, complete = script.read_samples(args)
    assert (len(samples), complete) == (12, 8)
    assert not any(sample.faces.points_only.any() for sample in samples[:8])
    assert all(sample.faces.points_only.tolist() == [True, False] for sample in samples[8:])
    assert all(sample.faces.ignore.tolist() == [False, True] for sample in samples[8:])


def test_photos_of_turned_faces_are_a_source_of_their_own(script, drawn, tmp_path):
    for degrees, turned in (("30", [0, 2, 3, 5]), ("41", [])):
        args = script.parse_args(arguments(drawn, tmp_path, "--turned-from", degrees))
        sources = [sample.source for sample in script.read_samples(args)[0]]
        assert [i for i, source in enumerate(sources) if source == "drawn-turned"] == turned
        assert set(sources) <= {"drawn", "drawn-turned"}


def test_the_pose_predictor_has_a_learning_rate_of_its_own(script, drawn, tmp_path):
    net = script.build_net(script.parse_args(arguments(drawn, tmp_path, "--pose-lr", "10")))
    for name, parameter in net._collect_params_with_prefix().items():
        assert parameter.lr_mult == (10 if ".pose_head." in name else 1)


def test_a_retinaface_is_a_start_and_weights_of_the_other_head_are_not(script, drawn, tmp_path):
    args = script.parse_args(arguments(drawn, tmp_path, "--start", "retinaface_mobilenet0.25_mask"))
    net, source = script.build_net(args), get_model("retinaface_mobilenet0.25_mask", pretrained=True)
    assert net.facts.mean == source.facts.mean
    name = "network.cls_head.convs.0.weight"
    ours, theirs = (n._collect_params_with_prefix()[name].data().asnumpy() for n in (net, source))
    np.testing.assert_array_equal(ours, theirs)
    net.save_parameters(str(tmp_path / "start.params"))
    script.build_net(script.parse_args(arguments(drawn, tmp_path, "--start", str(tmp_path / "start.params"))))
    shared = script.parse_args(
        arguments(drawn, tmp_path, "--head", "shared", "--start", str(tmp_path / "start.params"))
    )
    with pytest.raises(WeightsError, match="do not fit"):
        script.build_net(shared)


def test_dense_points_are_learnt_beside_the_pose_and_saved_with_the_run_alone(script, drawn, tmp_path):
    rows = [json.loads(line) for line in (drawn / "all.jsonl").read_text().splitlines()]
    for row in rows:
        for face in row["faces"]:
            face["landmarks68"] = (face["landmarks5"] * 14)[:68]
    (drawn / "dense.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = arguments(drawn, tmp_path, "--epochs", "1", "--dense-points", "68", "--min-pose-face", "10")
    script.main([str(drawn / "dense.jsonl") if arg.endswith("all.jsonl") else arg for arg in args])
    (epoch,) = read_log(tmp_path)
    assert epoch["losses"]["dense"] > 0 and "weight of dense" in epoch["observed"]
    saved = read_checkpoint(tmp_path).arrays
    assert "loss.dense.dense.weight" in saved["loss"]
    get_model(MODEL).load_parameters(tmp_path / "last.params")  # has none of it


def test_sources_of_photos_labelled_in_part_must_be_there(script, drawn, tmp_path):
    partial = str(drawn / "partial.jsonl")
    args = arguments(drawn, tmp_path, "--train-points", partial, partial, "--points-sources", "drawn")
    assert len(script.read_samples(script.parse_args(args))[0]) == 8 + 2 * 4
    with pytest.raises(DataError, match="film"):
        script.read_samples(script.parse_args([*args, "film"]))


def test_a_labelled_face_s_pose_is_that_of_the_detection_that_overlaps_it_best(script):
    found = Faces(
        [[0, 0, 40, 40], [4, 4, 44, 44], [200, 0, 220, 20]],
        [0.9, 0.8, 0.7],
        pose=[[1, 1, 1], [2, 2, 2], [3, 3, 3]],
        size_hw=(300, 300),
    )
    boxes = np.array([[5, 5, 45, 45], [100, 100, 140, 140], [200, 0, 240, 40]], np.float32)
    poses = script._poses_at(found, boxes)
    assert poses[0].tolist() == [2, 2, 2] and np.isnan(poses[1:]).all()
    assert np.isnan(script._poses_at(Faces.empty((300, 300)), boxes)).all()
