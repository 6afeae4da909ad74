import json

import cv2
import numpy as np
import pytest

from gluonface.image import save_image
from gluonface.model_zoo import get_model, model_facts

PLAIN = model_facts("retinaface_mobilenet0.25_widerface")  # of a model without weights: ImageNet's mean and std


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train_retinaface")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Eight photos of a drawn face on noise, with five points, in the corpus format."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(8):
        image = rng.integers(0, 90, (96, 96, 3), np.uint8)
        x, y, r = rng.integers(30, 66), rng.integers(30, 66), 20
        cv2.ellipse(image, (int(x), int(y)), (r, r), 0, 0, 360, (220, 180, 160), -1)
        points = [[x - 8, y - 6], [x + 8, y - 6], [x, y], [x - 6, y + 9], [x + 6, y + 9]]
        for px, py in points:
            cv2.circle(image, (int(px), int(py)), 2, (20, 20, 60), -1)
        save_image(folder / "images" / f"{i}.png", image)
        face = {
            "box": [float(x - r), float(y - r), float(x + r), float(y + r)],
            "box_from": "human",
            "ignore": False,
            "landmarks5": [[float(a), float(b)] for a, b in points],
            "landmarks5_from": "human",
            "landmarks68": None,
            "pose": None,
            "mesh468": None,
            "attributes": {},
        }
        lines.append({"image": f"{i}.png", "width": 96, "height": 96, "source": "drawn", "faces": [face]})
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def arguments(drawn, out, *more):
    data = str(drawn / "all.jsonl")
    sizes = ["--data-shape", "64", "--val-size", "96", "--batch-size", "4", "-j", "0"]
    return ["--train", data, "--val", data, *sizes, "--save-prefix", str(out), *more]


def read_log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_validates_and_leaves_weights_that_load(script, drawn, tmp_path):
    # Eight updates an epoch.
    often = ("--source-weight", "drawn=4", "--mosaic", "0.25", "--rotate", "0.5")
    script.main(arguments(drawn, tmp_path, "--epochs", "2", "--lr", "3e-3", "--warmup-epochs", "0", *often))
    epochs = [row for row in read_log(tmp_path) if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [0, 1]
    for row in epochs:
        assert set(row["losses"]) == {"cls", "box", "landmark"} and all(np.isfinite(v) for v in row["losses"].values())
        assert 0 <= row["validation"]["ap50"] <= 1
    assert epochs[1]["losses"]["cls"] < epochs[0]["losses"]["cls"]
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.load_parameters(tmp_path / "best.params")


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(script, drawn, tmp_path):
    common = ("--lr", "1e-3", "--warmup-epochs", "0", "--rotate", "1", "--ema-decay", "0.9", "--lr-mode", "constant")
    script.main(arguments(drawn, tmp_path / "a", "--epochs", "2", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "1", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "2", "--resume", str(tmp_path / "b"), *common))
    assert (tmp_path / "a" / "last.params").read_bytes() == (tmp_path / "b" / "last.params").read_bytes()


def test_weights_of_the_same_model_are_a_start(script, drawn, tmp_path):
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize()
    script.build_net(script.parse_args(arguments(drawn, tmp_path)))
    from gluonface._compat import mx

    net.network(mx.nd.zeros((1, 3, 64, 64)))
    file = tmp_path / "start.params"
    net.save_parameters(str(file))
    built = script.build_net(script.parse_args(arguments(drawn, tmp_path, "--start", str(file))))
    ours, theirs = (n._collect_params_with_prefix() for n in (built, net))
    for name in theirs:
        np.testing.assert_array_equal(ours[name].data().asnumpy(), theirs[name].data().asnumpy())


def test_a_model_that_has_weights_is_a_start_with_its_own_preprocessing(script):
    args = script.parse_args(["--train", "x", "--start", "retinaface_mobilenet0.25_mask"])
    net, source = script.build_net(args), get_model("retinaface_mobilenet0.25_mask", pretrained=True)
    assert (net.facts.mean, net.facts.std) == (source.facts.mean, source.facts.std) != (PLAIN.mean, PLAIN.std)
    name = "network.cls_head.convs.0.weight"
    ours, theirs = (n._collect_params_with_prefix()[name].data().asnumpy() for n in (net, source))
    np.testing.assert_array_equal(ours, theirs)
