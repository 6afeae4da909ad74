import json

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import InputError
from gluonface.faces import SCHEMES
from gluonface.geometry import HEATMAP_TEMPLATE
from gluonface.image import save_image
from gluonface.model_zoo import get_model

MODEL = "heatmap_mobilenetv2_0.25_ss_fc26"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train_heatmap")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Eight photos of a drawn face with 68 points, in the corpus format."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(8):
        image = rng.integers(0, 90, (96, 96, 3), np.uint8)
        center, size = rng.uniform(44, 52, 2), rng.uniform(60, 75)
        five = (HEATMAP_TEMPLATE - 0.5) * size + center
        points = np.tile(center, (68, 1)) + rng.uniform(-20, 20, (68, 2))
        for place, rows in zip(five, SCHEMES["68"].five):
            points[list(rows)] = place
            cv2.circle(image, (int(place[0]), int(place[1])), 4, (250, 200, 180), -1)
        save_image(folder / "images" / f"{i}.png", image)
        box = [*np.maximum(center - size / 2, 0), *np.minimum(center + size / 2, 96)]
        face = {"box": [round(float(v), 2) for v in box], "landmarks68": points.round(2).tolist()}
        lines.append({"image": f"{i}.png", "width": 96, "height": 96, "source": "drawn", "faces": [face]})
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def arguments(drawn, out, *more):
    data = str(drawn / "all.jsonl")
    sizes = ["--model", MODEL, "--data-shape", "96", "--batch-size", "4", "-j", "0"]
    return ["--train", data, "--val", data, *sizes, "--save-prefix", str(out), *more]


def read_log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


TRICKS = ["--flip-copies", "--pca-noise", ".05", "--jitter", ".4", "--random-erasing", ".5"]
TRICKS += ["--rotate", "15", "--scale", ".05", "--shift", "5"]


def test_a_run_with_every_trick_learns_validates_and_leaves_weights_that_load(script, drawn, tmp_path):
    more = ["--point-jitter", "0.01", "--box-prob", "0.2", "--degrade", "--loss", "awing", "--place-weight", "0.5"]
    script.main(arguments(drawn, tmp_path, "--epochs", "3", "--lr", "1e-3", "--ema-decay", "0.5", *TRICKS, *more))
    epochs = [row for row in read_log(tmp_path) if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    for row in epochs:
        assert set(row["losses"]) == {"heatmap", "place"} and all(np.isfinite(v) for v in row["losses"].values())
        assert row["validation"]["nme"] > 0 and 0 <= row["validation"]["failure_rate"] <= 1
    assert epochs[2]["losses"]["heatmap"] < epochs[0]["losses"]["heatmap"]
    get_model(MODEL).load_parameters(tmp_path / "best.params")


def test_the_papers_recipe_is_the_default(script):
    args = script.parse_args(["--train", "x"])
    assert (args.optimizer, args.lr, args.epochs, args.batch_size, args.lr_decay_epoch) == (
        "adam",
        1e-3,
        40,
        16,
        (20, 30),
    )
    assert args.loss == "mse" and not args.place_weight and args.data_shape == 192
    assert not any(
        (args.flip_copies, args.pca_noise, args.jitter, args.random_erasing, args.rotate, args.scale, args.shift)
    )


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(script, drawn, tmp_path):
    common = ("--lr", "1e-3", "--ema-decay", "0.9", "--lr-mode", "constant", *TRICKS)
    script.main(arguments(drawn, tmp_path / "a", "--epochs", "2", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "1", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "2", "--resume", str(tmp_path / "b"), *common))
    assert (tmp_path / "a" / "last.params").read_bytes() == (tmp_path / "b" / "last.params").read_bytes()


def test_frozen_layers_keep_their_weights_and_statistics(script, drawn, tmp_path):
    args = arguments(drawn, tmp_path, "--epochs", "1", "--lr", "1e-3", "--seed", "5")
    before = script.build_net(script.parse_args(args))
    before.save_parameters(str(tmp_path / "start.params"))
    more = ("--start", str(tmp_path / "start.params"), "--frozen-layers", "6")
    script.main([*args, *more])
    after = get_model(MODEL)
    after.load_parameters(tmp_path / "last.params")
    old, new = (net._collect_params_with_prefix() for net in (before, after))
    for name, parameter in old.items():
        same = np.array_equal(parameter.data().asnumpy(), new[name].data().asnumpy())
        if name.startswith("network.features.layers."):
            assert same == (int(name.split(".")[3]) < 6), name
        elif name.endswith("weight"):
            assert not same, name


def test_landmarks_of_another_scheme_are_refused(script, drawn, tmp_path):
    args = arguments(drawn, tmp_path, "--epochs", "1")
    args[args.index(MODEL)] = "heatmap_mobilenetv2_0.25_ss_wflw"
    with pytest.raises(InputError, match="has 68 landmarks, heatmap_mobilenetv2_0.25_ss_wflw learns 98"):
        script.main(args)


def test_two_devices_learn_what_one_learns(script, drawn, tmp_path, monkeypatch):
    # BatchNorm with live statistics sees half a batch on each device, so these are kept.
    common = ("--epochs", "1", "--lr", "1e-4", "--frozen-bn", "--loss", "awing", "--place-weight", "0.5", "--seed", "3")
    found = []
    for devices in ([mx.cpu(0)], [mx.cpu(0), mx.cpu(1)]):
        monkeypatch.setattr("gluonface.engine.contexts_from_gpus", lambda _, devices=devices: devices)
        out = tmp_path / str(len(devices))
        script.main(arguments(drawn, out, *common))
        found.append(next(row for row in read_log(out) if row["kind"] == "epoch"))
    one, two = found
    for part in ("heatmap", "place"):
        assert two["losses"][part] == pytest.approx(one["losses"][part], rel=1e-3)
    assert two["validation"]["nme"] == pytest.approx(one["validation"]["nme"], rel=1e-2)
