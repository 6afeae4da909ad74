"""decode_heatmaps.py measures a small job for real, in its own process."""

import json

import numpy as np
import pytest

from gluonface.decode import HEATMAP_DECODERS, decode_heatmaps


def test_every_method_is_measured_and_written(script, tmp_path, capsys):
    out = tmp_path / "decode" / "result.json"
    words = ["--faces", "2", "--points", "3", "--size", "16", "--repeats", "3", "--json", str(out)]
    assert script("decode_heatmaps").main(words) == 0
    result = json.loads(out.read_text())
    assert list(result["median_ms"]) == list(HEATMAP_DECODERS)
    assert all(value > 0 for value in result["median_ms"].values())
    for method, (low, high) in result["ms_10_to_90"].items():
        assert low <= result["median_ms"][method] <= high
    assert (result["faces"], result["points"], result["size"], result["threads"]) == (2, 3, 16, 1)
    assert (result["repeats"], result["target_ms"]) == (3, 5)
    assert {"date", "command", "versions", "machine"} <= set(result)
    assert "one thread" in capsys.readouterr().out


def test_the_measuring_process_has_one_thread(script, monkeypatch):
    module = script("decode_heatmaps")
    seen = {}

    class Done:
        returncode, stdout = 0, "{}"

    monkeypatch.setattr(module.subprocess, "run", lambda command, env, **_: seen.update(env) or Done())
    module.in_own_process(module.parse_args(["--faces", "1"]))
    assert seen["OMP_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == "1"
    Done.returncode = 3
    with pytest.raises(SystemExit, match="ended with status 3"):
        module.in_own_process(module.parse_args([]))


def test_medians_leave_the_warm_up_out(script, monkeypatch):
    module = script("decode_heatmaps")
    clock = [0.0]
    costs = iter([9, 9, 9, 0.001, 0.005, 0.002])
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "decode_heatmaps", lambda maps, method: clock.__setitem__(0, clock[0] + next(costs)))
    assert module.measure(None, ["dark"], 3)["median_ms"] == pytest.approx({"dark": 2})


def test_the_drawn_maps_have_peaks_and_noise_and_few_at_the_border(script):
    maps = script("decode_heatmaps").drawn_heatmaps(4, 106, 48)
    assert (maps.shape, maps.dtype) == ((4, 106, 48, 48), np.float32)
    points, scores = decode_heatmaps(maps)
    assert scores.min() > 0.7
    at_border = ((points < 2) | (points > 46)).any(axis=-1)
    assert 0 < at_border.mean() < 0.04
    assert np.array_equal(maps, script("decode_heatmaps").drawn_heatmaps(4, 106, 48))


@pytest.mark.parametrize(("dark", "words"), [(4.9, "dark: under"), (5.1, "dark: NOT under")])
def test_the_target_is_judged(script, dark, words):
    module = script("decode_heatmaps")
    result = {"faces": 1, "points": 1, "size": 48, "target_ms": 5.0}
    text = module.describe({**result, "median_ms": {"dark": dark}, "ms_10_to_90": {"dark": [1, 9]}})
    assert f"{words} the target of 5 ms" in text


@pytest.mark.parametrize("words", [["--faces", "0"], ["--size", "4"], ["--methods", "mean"]])
def test_a_command_line_that_means_nothing_is_refused(script, words):
    with pytest.raises(SystemExit) as refused:
        script("decode_heatmaps").main(words)
    assert refused.value.code == 2
