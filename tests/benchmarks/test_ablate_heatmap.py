"""The ablation's rows are runs that can be made, and a difference counts only beyond the spread of the seeds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gluonface.model_zoo import get_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(script):
    return script("ablate_heatmap")


def test_every_row_is_a_run_of_the_training_script_or_tests_one(module):
    help_text = subprocess.run(
        [sys.executable, ROOT / "train" / "train_heatmap.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    labels = {(row.part, row.label) for row in module.ROWS}
    assert len(labels) == len(module.ROWS)
    for row in module.ROWS:
        assert not row.run_of or (row.part, row.run_of) in labels
        for flag in row.flags:
            assert flag.split("=")[0] in help_text
    folders = [row.folder for row in module.ROWS if not row.run_of]
    assert len(set(folders)) == len(folders) - 1  # SSS with all that helps stands in both parts
    tricks = {flag.split("=")[0] for row in module.ROWS for flag in row.flags}
    assert tricks == {"--flip-copies", "--pca-noise", "--jitter", "--random-erasing", "--rotate", "--scale", "--shift"}


def test_flipped_copies_count_twice(module):
    rows = {row.label: row for row in module.ROWS if row.part == "tricks"}
    assert module.epochs_of(rows["none"], 8) == 8 and module.epochs_of(rows["flipped copies"], 8) == 4


def test_a_difference_within_the_spread_is_none(module):
    assert not module.beyond_spread([0.06, 0.07], [0.063, 0.066])
    assert module.beyond_spread([0.0601, 0.0602], [0.063, 0.0631])
    assert not module.beyond_spread([0.06], [0.09])  # one seed says nothing


def test_rows_are_compared_with_the_first_of_their_part(module):
    rows = [row for row in module.ROWS if row.part == "tricks"][:3]
    measured = {("nonetricks", 1): {"nme": 0.07}, ("nonetricks", 2): {"nme": 0.0702}}
    measured[rows[1].label + "tricks", 1] = {"nme": 0.06}
    result = module.summarise(rows, [1, 2], measured)
    assert [r["label"] for r in result] == [rows[0].label, rows[1].label]
    assert "difference" not in result[0] and result[1]["difference"] == pytest.approx(-0.0101)
    assert result[1]["seeds"] == [1] and not result[1]["beyond_spread"]
    assert "within the spread" in module.describe(result)


def test_runs_that_are_there_are_tested_and_drawn_without_training(module, tmp_path):
    from gluonface._compat import mx
    from gluonface.data import FaceLabels, FaceSample, write_jsonl
    from gluonface.image import save_image

    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    save_image(tmp_path / "images" / "a.png", rng.integers(0, 255, (80, 80, 3), np.uint8))
    points = rng.uniform(20, 60, (1, 68, 2)).astype(np.float32)
    labels = FaceLabels(boxes=[[10, 10, 70, 70]], landmarks=points, scheme="68")
    write_jsonl(tmp_path / "val.jsonl", [FaceSample("a.png", (80, 80), labels, source="helen", name="a.png")])
    row = next(row for row in module.ROWS if (row.part, row.label) == ("tricks", "none"))
    folder = tmp_path / "runs" / f"{row.folder}-seed1"
    (folder / "checkpoints" / "epoch-0004").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"epochs": 4}))
    net = get_model("heatmap_mobilenetv2_0.25_sss_fc26")
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(folder / "last.params"))
    words = f"--train x --val {tmp_path / 'val.jsonl'} --out {tmp_path / 'runs'} --epochs 4 --data-shape 64 --collect"
    words += f" --json {tmp_path / 'out.json'} --picture {tmp_path / 'out.png'} --seeds 1 2"
    assert module.main(words.split()) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert [r["label"] for r in result["rows"]] == ["none", "test-time flip, points", "test-time flip, heatmaps"]
    assert all(len(r["nme"]) == 1 and r["nme"][0] > 0 for r in result["rows"])
    assert result["domain"].startswith("Helen portraits") and (tmp_path / "out.png").stat().st_size > 1000
