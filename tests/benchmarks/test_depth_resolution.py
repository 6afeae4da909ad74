"""Nets of Figure 1 see what they are said to see, and are runs that go on where they were."""

import json

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.errors import DataError, GluonFaceError, InputError
from gluonface.image import save_image
from gluonface.model_zoo import get_model
from gluonface.model_zoo.counting import count_parameters

KEY = "recall_top100"


@pytest.fixture
def module(script):
    return script("depth_resolution")


def words_of(out, *more):
    return [*map(str, ("--out", out, "--train", "t.jsonl", "--val", "v.jsonl", *more))]


# ---- nets ------------------------------------------------------------------------------------------------------------


def test_three_blocks_are_the_net_of_the_paper(module):
    net = module.Net(3, 320)
    assert net.layers == 11 and net.spec.sizes[0] == pytest.approx([16 * 2**0.5, 32 * 2**0.5, 64 * 2**0.5])
    built, paper = net.build(), get_model("kpnet_drnet_fc26", head="anchors")
    assert count_parameters(built) == count_parameters(paper)
    shapes = [[p.shape for p in one.collect_params().values()] for one in (built, paper)]
    assert shapes[0] == shapes[1]
    with pytest.raises(InputError, match="blocks, the residual blocks at stride 8, to be at least 1, got 0"):
        module.Net(0, 320).build()


def test_anchors_and_the_smallest_face_grow_with_the_photos(module):
    small, large = module.Net(1, 160), module.Net(1, 640)
    assert large.spec.sizes[0] == pytest.approx([4 * side for side in small.spec.sizes[0]])
    assert (small.min_face, large.min_face) == (5, 20)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_cell_sees_as_far_as_its_field_and_no_farther(module, blocks):
    net = module.Net(blocks, 320)
    network = net.build().network
    network.initialize(mx.init.MSRAPrelu(slope=0))
    network(mx.nd.zeros((1, 3, 32, 32)))
    # Positive weights everywhere, and no biases: of a black photo 0, where anything bright is in the field more.
    for name, parameter in network.collect_params().items():
        if name.endswith(("weight", "bias")):
            size = np.prod(parameter.shape[1:])
            parameter.set_data(mx.nd.full(parameter.shape, 1 / size if name.endswith("weight") else 0))
    side = net.field + 48
    photos = np.zeros((side, 3, 8, side), np.float32)
    photos[np.arange(side), :, 4, np.arange(side)] = 1  # one pixel, another column in each photo
    middle = side // 4
    cls = np.concatenate([network(mx.nd.array(part))[0].asnumpy() for part in np.array_split(photos, 8)])
    by_cell = cls.reshape(side, 4, -(-side // 2), -1)[:, 2, :, 0]
    for cell in range(middle, middle + 4):  # however it lies in the cells of coarser maps
        seen = np.flatnonzero(by_cell[:, cell])
        assert len(seen) == net.field and seen[-1] - seen[0] + 1 == net.field


# ---- runs ------------------------------------------------------------------------------------------------------------


def measured_as(recall=0.9, gf=1.0, epochs=6, seconds=600.0):
    return {"epochs": epochs, "seconds": seconds, KEY: recall, "gf": gf, "params": 500_000}


@pytest.fixture
def pretended(module, monkeypatch, save_run):
    """No run is made for real: nets of six blocks fail. A list of what was asked for."""
    made = []

    class Test:
        domain = "streets"

        def __init__(self, args):
            pass

        def face_sizes(self, size):
            return [12.0, 40.0, 90.0]

        def __call__(self, row, folder):
            return measured_as(epochs=module.epochs_done(folder))

    def train_net(args, row, seed, folder, minutes):
        made.append((folder.name, round(minutes)))
        if row.blocks == 6:
            raise GluonFaceError("it failed")
        save_run(folder, done=6, wanted=6)

    monkeypatch.setattr(module, "Test", Test)
    monkeypatch.setattr(module, "train_net", train_net)
    return made


def test_what_is_done_is_skipped_and_a_run_gets_the_time_that_it_has_left(
    module, pretended, tmp_path, capsys, save_run
):
    save_run(tmp_path / "blocks1-size160-seed1", done=6, wanted=6, seconds=600)
    save_run(tmp_path / "blocks3-size160-seed1", done=2, wanted=6, seconds=600)
    save_run(tmp_path / "blocks3-size320-seed1", done=5, wanted=6, seconds=901)  # its time is up
    out, drawn = tmp_path / "depth.json", tmp_path / "depth.png"
    nets = ("--blocks", "6", "1", "3", "--sizes", "320", "160", "--seeds", "1", "--json", out, "--picture", drawn)
    assert module.main(words_of(tmp_path, *nets)) == 1
    assert pretended == [
        ("blocks3-size160-seed1", 5),
        ("blocks6-size160-seed1", 15),
        ("blocks1-size320-seed1", 15),
        ("blocks6-size320-seed1", 15),
    ]
    printed = capsys.readouterr()
    assert "17 layers at 160, seed 1: it failed" in printed.err
    assert "Cut short by the 15 minutes that a run has, and so not compared: 11 layers at 320." in printed.out
    rows = json.loads(out.read_text())["rows"]
    assert [(r["size"], r["layers"], r["cut_short"]) for r in rows] == [
        (160, 7, False),
        (160, 11, False),
        (320, 7, False),
        (320, 11, True),
    ]
    assert drawn.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("more", "words"),
    [(("--blocks", "0"), "--blocks are at least 1"), (("--sizes", "16"), "--sizes at least 32")],
)
def test_nets_that_are_none_are_refused(module, capsys, more, words):
    with pytest.raises(SystemExit):
        module.parse_args(words_of("o", *more))
    assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        module.parse_args(["--out", "o", "--val", "v.jsonl"])
    assert "give --train, or --collect" in capsys.readouterr().err


def test_a_net_is_compared_with_the_next_shallower_at_its_size(module):
    rows = [module.Net(blocks, size) for size in (160, 320) for blocks in (1, 3, 6)]
    each = {rows[0]: (0.90, 0.91), rows[1]: (0.905, 0.915), rows[2]: (0.90, 0.91)}
    each |= {rows[3]: (0.70, 0.701), rows[5]: (0.85, 0.851)}  # one is missing
    measured = {(row.label, i + 1): measured_as(value) for row, both in each.items() for i, value in enumerate(both)}
    result = module.summarise(rows, [1, 2], measured, 6)
    told = [(r["label"], r["compared_with"], r["figures"][KEY].get("beyond_spread")) for r in result]
    assert told == [
        ("7 layers at 160", "", None),
        ("11 layers at 160", "7 layers at 160", False),
        ("17 layers at 160", "11 layers at 160", False),
        ("7 layers at 320", "", None),
        ("17 layers at 320", "7 layers at 320", True),
    ]
    common = {"epochs": 6, "seeds": [1, 2], "minutes": 15, "sizes": [160, 320], "domain": "streets"}
    lines = "\n".join(module.describe({**common, "rows": result})).splitlines()
    assert "| 7 | 0.50 | 61 | 90.50 (90.00, 91.00) at 1.00 GF | 70.05 (70.00, 70.10) at 1.00 GF |" in lines
    assert "| 11 | 0.50 | 125 | 91.00 (90.50, 91.50); +0.50, within the spread at 1.00 GF | - |" in lines
    assert lines[-1].endswith("| 85.05 (85.00, 85.10); +15.00 at 1.00 GF |")


@pytest.fixture
def data(tmp_path):
    """Four photos of two drawn faces, a large and a small one that does not count."""
    rng, samples = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    for i in range(4):
        image = rng.integers(0, 90, (64, 96, 3), np.uint8)
        x, y = (int(value) for value in rng.integers(28, 36, 2))
        cv2.circle(image, (x, y), 16, (220, 180, 160), -1)
        boxes = [[x - 16, y - 16, x + 16, y + 16], [90, 4, 92, 6]]
        save_image(tmp_path / "images" / f"{i}.png", image)
        samples.append(FaceSample(f"{i}.png", (64, 96), FaceLabels(boxes), source="drawn", name=f"{i}.png"))
    write_jsonl(tmp_path / "all.jsonl", samples)
    return tmp_path / "all.jsonl"


def test_a_run_is_made_goes_on_as_what_it_is_and_is_measured(module, data, tmp_path, monkeypatch):
    monkeypatch.setattr("gluonface.engine.draw_curves", lambda records, path: None)
    out, runs = tmp_path / "depth.json", tmp_path / "runs"
    words = ["--out", runs, "--train", data, "--val", data, "--json", out, "--seeds", 1, "--epochs", 2, "-j", 0]
    words = [*map(str, words), "--blocks", "1", "--sizes", "64", "--batch-size", "2"]
    args, row = module.parse_args(words), module.Net(1, 64)
    module.train_net(args, row, 1, runs / "blocks1-size64-seed1", minutes=1e-6)
    assert module.main([*words, "--collect"]) == 0
    (told,) = json.loads(out.read_text())["rows"]
    assert told["epochs"] == [1] and told["cut_short"]
    with pytest.raises(DataError, match=r"other flags \(--sources=drawn\)"):
        module.main([*words, "--sources", "drawn"])
    with pytest.raises(DataError, match=r"7 layers at 64, seed 1: .*other flags \(--batch-size=2 --batch-size=4\)"):
        module.main([*words, "--batch-size", "4"])
    assert module.main(words) == 0
    result = json.loads(out.read_text())
    (told,) = result["rows"]
    assert told["epochs"] == [2] and not told["cut_short"] and 0 <= told["figures"][KEY]["mean"] <= 1
    assert result["face_sizes"] == pytest.approx([32 * 320 / 96] * 4, abs=1e-4)
    assert told["gf"] == pytest.approx(0.1, abs=0.05)


def test_nothing_to_measure_is_an_error(module, data, tmp_path):
    with pytest.raises(DataError, match="no run has ended an epoch yet"):
        module.main(["--out", str(tmp_path / "runs"), "--val", str(data), "--collect"])
    tiny = FaceSample("0.png", (64, 96), FaceLabels([[90, 4, 92, 6]]), name="0.png")
    write_jsonl(tmp_path / "tiny.jsonl", [tiny])
    with pytest.raises(DataError, match="no face is at least 10 pixels at 320"):
        module.main(["--out", str(tmp_path / "runs"), "--val", str(tmp_path / "tiny.jsonl"), "--collect"])
