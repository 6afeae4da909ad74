"""latency.py measures a small job for real, and adds it up."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gluonface.errors import InputError
from gluonface.image import load_image
from gluonface.model_zoo import list_models

MODEL = "retinaface_mobilenet0.25_widerface"


def test_stages_medians_and_memory_are_measured_and_written(script, tmp_path, capsys):
    out = tmp_path / "latency.json"
    words = ["--model", MODEL, "--size", "64", "--threads", "1", "--batch", "1", "2", "--repeats", "1"]
    assert script("latency").main([*words, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["models"] == [MODEL] and result["compiled"] == [] and result["static"] is False
    assert [(r["threads"], r["batch"], r["engine"]) for r in result["runs"]] == [(1, 1, "mxnet"), (1, 2, "mxnet")]
    for one in result["runs"]:
        assert set(one["median_ms"]) == {"decode", "preprocess", "network", "postprocess", "total"}
        # One measurement on a machine that may be busy: stages cannot be compared, but each takes its time.
        assert one["median_ms"]["total"] > 1 and one["median_ms"]["decode"] > 1 and one["median_ms"]["network"] > 0
        assert one["photos_per_second"] == pytest.approx(1000 * one["batch"] / one["median_ms"]["total"], rel=0.01)
        assert one["network_photos_per_second"] == pytest.approx(
            1000 * one["batch"] / one["median_ms"]["network"], 0.01
        )
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


def test_models_and_engines_are_measured_beside_each_other_on_one_canvas(script, tmp_path, monkeypatch):
    latency, jobs = script("latency"), []

    def measured(asked, photo, repeats):
        jobs.extend(asked)
        sample = dict.fromkeys(latency.STAGES, 0.5)
        return [
            latency.summary(job, [sample], {"weights": "random", "peak_memory_mib": 1, "faces": 0}) for job in asked
        ]

    monkeypatch.setattr(latency, "measure", measured)
    monkeypatch.setattr(latency, "compiled", lambda model, out, args: f"{out.name} of batches {args.batch}")
    monkeypatch.setattr(latency.util, "find_spec", lambda name: name)
    monkeypatch.setattr(latency.metadata, "version", lambda name: "0.27")
    out = tmp_path / "latency.json"
    words = ["--model", MODEL, "kpnet_drnet_fc26", "--engine", "mxnet", "artefact", "--static", "--size", "256x320"]
    assert latency.main([*words, "--threads", "1", "--batch", "1", "32", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    rows = [(job["model"], job["engine"], job["batch"], job["artefact"]) for job in jobs]
    assert rows == [
        (model, engine, batch, f"{model} of batches [1, 32]" if engine == "artefact" else None)
        for model in (MODEL, "kpnet_drnet_fc26")
        for engine in ("mxnet", "artefact")
        for batch in (1, 32)
    ]
    assert all(job["size"] == [256, 320] and job["static"] for job in jobs)
    # What make_tables.py calls MXNet's is MXNet's alone.
    assert {one["engine"] for one in result["runs"]} == {"mxnet"} and len(result["runs"]) == 4
    assert {one["engine"] for one in result["compiled"]} == {"artefact"} and len(result["compiled"]) == 4
    assert result["compiled"][1]["network_photos_per_second"] == 64 and result["versions"]["tvm"] == "0.27"


def test_a_compiled_detector_is_measured_stage_by_stage(script, tmp_path, monkeypatch):
    """Of a made-up engine; what compiling gives is the runtime's matter."""
    from gluonface.analysis import Analyzer
    from gluonface.deploy import runtime
    from gluonface.model_zoo import model_facts

    class OneFace(Analyzer):
        def _forward(self, canvases, score_thresh):
            return np.tile([0, 0.9, 8, 8, 40, 40], (len(canvases), 1, 1)).astype(np.float32)

        def _collect(self, handle):
            return handle[..., :1], handle[..., 1:2], handle[..., 2:]

    def load(path, *, threads, size, batch_size):
        assert (path, threads) == ("somewhere", 2)
        return OneFace(model_facts(MODEL), buckets={(64, 96): (2,)}, size=size, batch_size=batch_size)

    monkeypatch.setattr(runtime, "load", load)
    latency = script("latency")
    one = latency.Compiled({"artefact": "somewhere", "threads": 2, "batch": 2, "size": [64, 96]}, latency.drawn_photo())
    sample = one.once()
    assert tuple(sample) == latency.STAGES and min(sample.values()) > 0 and one.faces == 1


def test_a_missing_compiler_leaves_the_engine_out_and_says_so(script, tmp_path, monkeypatch, capsys):
    latency = script("latency")
    monkeypatch.setattr(latency.util, "find_spec", lambda name: None)
    monkeypatch.setattr(latency, "measure", lambda jobs, photo, repeats: [])
    out = tmp_path / "latency.json"
    assert latency.main(["--model", MODEL, "--engine", "artefact", "--size", "64", "--json", str(out)]) == 0
    assert "gluonface[deploy]" in json.loads(out.read_text())["left_out"]["artefact"]
    assert "artefact: left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "artefact", "--size", "stored"], "no meaning for a compiled net"),
        (["--engine", "cuda"], "invalid choice"),
    ],
)
def test_what_cannot_be_measured_is_refused(script, capsys, words, says):
    with pytest.raises(SystemExit) as refused:
        script("latency").main(["--model", MODEL, *words])
    assert refused.value.code == 2 and says in capsys.readouterr().err


def test_compiled_landmark_nets_are_left_to_another_script(script, tmp_path):
    latency = script("latency")
    args = latency.parse_args(["--model", "m", "--engine", "artefact"])
    with pytest.raises(InputError, match=r"deploy\.py measures landmark nets"):
        latency.compiled("heatmap_mobilenetv2_1.0_sdd_fc26", tmp_path / "a", args)


def test_a_process_that_dies_is_an_error_not_a_hang(script):
    worker = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with worker, pytest.raises(SystemExit, match="a measuring process ended with status 0"):
        script("latency").ask(worker)


def test_the_median_is_that_of_the_samples(script):
    samples = [dict.fromkeys(script("latency").STAGES, seconds) for seconds in (0.001, 0.002, 0.1)]
    last = {"weights": "random", "peak_memory_mib": 1.0, "faces": 0}
    job = {"model": "m", "engine": "mxnet", "threads": 1, "batch": 4}
    result = script("latency").summary(job, samples, last)
    assert result["median_ms"]["total"] == pytest.approx(2)
    assert result["photos_per_second"] == result["network_photos_per_second"] == pytest.approx(2000)


def test_the_drawn_photo_is_the_same_every_time(script):
    photo = script("latency").drawn_photo()
    assert photo == script("latency").drawn_photo()
    assert load_image(photo).shape == (960, 1280, 3)
    assert np.std(load_image(photo)) > 20
