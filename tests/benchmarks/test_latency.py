"""latency.py measures a small job for real, and adds it up."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gluonface.image import load_image
from gluonface.model_zoo import list_models

MODEL = "retinaface_mobilenet0.25_widerface"


def test_stages_medians_and_memory_are_measured_and_written(script, tmp_path, capsys):
    out = tmp_path / "latency.json"
    words = ["--model", MODEL, "--size", "64", "--threads", "1", "--batch", "1", "2", "--repeats", "1"]
    assert script("latency").main([*words, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["models"] == [MODEL]
    assert [(r["threads"], r["batch"]) for r in result["runs"]] == [(1, 1), (1, 2)]
    for one in result["runs"]:
        assert set(one["median_ms"]) == {"decode", "preprocess", "network", "postprocess", "total"}
        # One measurement on a machine that may be busy: stages cannot be compared, but each takes its time.
        assert one["median_ms"]["total"] > 1 and one["median_ms"]["decode"] > 1 and one["median_ms"]["network"] > 0
        assert one["photos_per_second"] == pytest.approx(1000 * one["batch"] / one["median_ms"]["total"], rel=0.01)
        assert 50 < one["peak_memory_mib"] < 4000
        assert one["weights"] == ("shipped" if MODEL in list_models(pretrained=True) else "random")
    printed = capsys.readouterr().out
    assert "postprocess ms" in printed
    assert MODEL in printed


def test_landmark_nets_are_measured_on_crops_of_faces(script, tmp_path):
    out = tmp_path / "latency.json"
    words = ["--model", "heatmap_mobilenetv2_0.25_s_fc26", "--threads", "1", "--batch", "1", "3", "--repeats", "1"]
    assert script("latency").main([*words, "--json", str(out)]) == 0
    one, three = json.loads(out.read_text())["runs"]
    assert (one["faces"], three["faces"]) == (1, 3)
    assert one["median_ms"]["decode"] == 0 and one["median_ms"]["network"] > 0 and one["median_ms"]["preprocess"] > 0


def test_a_process_that_dies_is_an_error_not_a_hang(script):
    worker = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with worker, pytest.raises(SystemExit, match="a measuring process ended with status 0"):
        script("latency").ask(worker)


def test_the_median_is_that_of_the_samples(script):
    samples = [dict.fromkeys(script("latency").STAGES, seconds) for seconds in (0.001, 0.002, 0.1)]
    last = {"weights": "random", "peak_memory_mib": 1.0, "faces": 0}
    job = {"model": "m", "threads": 1, "batch": 4}
    result = script("latency").summary(job, samples, last)
    assert result["median_ms"]["total"] == pytest.approx(2)
    assert result["photos_per_second"] == pytest.approx(2000)


def test_the_drawn_photo_is_the_same_every_time(script):
    photo = script("latency").drawn_photo()
    assert photo == script("latency").drawn_photo()
    assert load_image(photo).shape == (960, 1280, 3)
    assert np.std(load_image(photo)) > 20
