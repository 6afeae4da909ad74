"""The arithmetic of estimate_devices.py, what it counts in a compiled net, and the page it is for."""

import argparse
import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from gluonface import cli
from gluonface._compat import mx
from gluonface.errors import InputError
from gluonface.model_zoo import get_model
from gluonface.model_zoo.counting import count_macs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "devices.md"
NAME = "heatmap_mobilenetv2_0.25_s_fc26"


@pytest.fixture
def devices(script):
    return script("estimate_devices")


@pytest.fixture
def targets(devices):
    pytest.importorskip("tvm", reason="needs gluonface[deploy]")
    from gluonface.deploy import targets

    return targets


def region():
    return re.search(r"<!-- begin:devices -->\n(.*)<!-- end:devices -->", PAGE.read_text(encoding="utf-8"), re.S)[1]


def net(devices, models=("a_net",), size=64, ms=2.0, flops=(8e9, 1e9, 1e8)):
    """The result of a net whose kernels take 10, 4 and 1 ms at a peak of 1000 GFLOP/s."""
    counted = {k: {"calls": 2, "flops": f, "bytes": 1e6} for k, f in zip(devices.KINDS, flops)}
    kernel_ms = dict(zip(devices.KINDS, (10.0, 4.0, 1.0)))
    one = {"ms": ms, "kernel_ms": kernel_ms, "peak_gflops": 1000.0, "totals": counted, "schedules": "1 of 2 tuned"}
    return {"models": list(models), "size_hw": [size, size], "gf": 4.5, "measured": dict.fromkeys(devices.WIDTHS, one)}


def result(devices):
    nets = [net(devices, ["heatmap_mobilenetv2_1.0_sdd_x", "its_twin"]), net(devices, ["b"], 96)]
    kernels = {width: [devices.Kernel("k", "convolution", 10**9, 10**6)] for width in devices.WIDTHS}
    shares = {width: devices.shares_of(nets, width) for width in devices.WIDTHS}
    for one in nets:
        one["estimates"] = {d.label: devices.estimate(d, kernels, shares) for d in devices.DEVICES}
        one["check"] = {w: {"estimated_ms": 3.0, "off": 0.5, "own": False} for w in devices.WIDTHS}
    about = {"machine": {"cpu": "Some CPU", "cores": 2}, "date": "2024-06-11", "command": "python x", "repeats": 3}
    return {
        "nets": nets,
        "shares": shares,
        "copy_gb_s": 20.0,
        "devices": [asdict(d) for d in devices.DEVICES],
        **about,
    }


def test_a_kernel_takes_the_longer_of_computing_and_moving(devices):
    shares = {"convolution": 0.5, "depthwise": 0.25, "rest": 0.1}
    heavy = devices.Kernel("heavy", "convolution", 10**9, 10**6)
    wide = devices.Kernel("wide", "depthwise", 10**6, 10**8)
    assert devices.seconds_of([heavy], 100, shares, 10) == pytest.approx((0.02, 0.0))
    assert devices.seconds_of([wide], 100, shares, 10) == pytest.approx((0.01, 0.01))
    assert devices.seconds_of([heavy, wide], 100, shares, 10, launch_us=5)[0] == pytest.approx(0.03001)


def test_the_better_share_at_the_higher_clock_is_the_optimistic_end(devices):
    device = devices.Device("d", "core", (1.0, 2.0), 10, 1, 1e6, "")
    kernels = {width: [devices.Kernel("k", "rest", 10**9, 4)] for width in "ab"}
    found = devices.estimate(device, kernels, {"a": {"rest": 0.5}, "b": {"rest": 0.25}})
    assert (found["low"], found["high"]) == pytest.approx((100.0, 400.0))
    gpu = replace(device, launch_us=(1000.0, 2000.0))
    launched = devices.estimate(gpu, kernels, {"a": {"rest": 1.0}, "b": {"rest": 1.0}})
    assert (launched["low"], launched["high"]) == pytest.approx((51.0, 102.0))


def test_shares_are_those_of_all_operations_over_all_time(devices):
    nets = [net(devices), net(devices, flops=(4e9, 1e9, 3e8))]
    found = devices.shares_of(nets, devices.WIDTHS[0])
    assert found == pytest.approx({"convolution": 12 / 20, "depthwise": 2 / 8, "rest": 0.4 / 2})


def test_products_are_read_off_a_signature(devices):
    assert devices.products_of("convolution out1x60x80x64 sum3x3x16 in1x60x80x16") == 60 * 80 * 64 * 9 * 16
    assert devices.products_of("depthwise out1x8x8x32 sum3x3 in1x8x8x32") == 8 * 8 * 32 * 9


def test_what_a_compiled_net_does_is_counted_and_measured(devices, targets):
    block = get_model(NAME)
    block.initialize()
    block.network(mx.nd.zeros((1, 3, block.facts.size, block.facts.size)))
    prepared = devices.Prepared(block, (block.facts.size,) * 2, targets.find_target("native"))
    counted = devices.totals(prepared.kernels)
    macs = count_macs(block.network, (1, 3, *prepared.bucket.size_hw))
    products = (counted["convolution"]["flops"] + counted["depthwise"]["flops"]) / 2
    # Winograd's method leaves at least 16 of 36 products, and filling up vectors adds some.
    assert 0.4 * macs < products < 1.3 * macs
    assert counted["convolution"]["calls"] > 30 and counted["depthwise"]["calls"] == 17
    side = block.facts.size
    first = prepared.kernels[0]
    assert first.kind == "convolution" and first.moved > side * side * 3 + 4 * (side // 2) ** 2 * 8
    weights = sum(np.prod(p.shape) for p in block.collect_params().values() if p.grad_req != "null")
    assert sum(k.moved for k in prepared.kernels) > 4 * weights
    measured = prepared.measure(repeats=3)
    assert 0 < measured["ms"] < 5000 and all(ms > 0 for ms in measured["kernel_ms"].values())


def test_the_peak_is_that_of_the_vectors_of_the_target(devices, targets):
    native = targets.find_target("native")
    assert 1 < devices.peak_gflops(native) < 2000
    assert devices.peak_gflops(native) > 1.5 * devices.peak_gflops(replace(native, lanes=1))


def test_a_processor_without_the_vectors_is_refused(devices, targets):
    target = replace(targets.find_target("x86-64-v3"), features=("no_such_flag",))
    with pytest.raises(InputError, match="x86-64-v3, this one lacks no_such_flag"):
        devices._need_vectors([target])


def test_a_check_uses_the_shares_of_other_networks(devices):
    own, other = net(devices, flops=(8e9, 1e9, 1e8)), net(devices, ["other"], flops=(4e9, 1e9, 1e8))
    kernels = [devices.Kernel("k", "convolution", 8 * 10**9, 4)]
    width = devices.WIDTHS[0]
    found = devices._check(own, kernels, [own, other], width, 1e3)
    assert found["estimated_ms"] == pytest.approx(20.0) and found["off"] == pytest.approx(9.0) and not found["own"]
    assert devices._check(own, kernels, [own], width, 1e3)["own"]


def test_the_page_says_what_is_an_estimate_and_what_a_paper_says(devices):
    text = devices.page(json.loads(json.dumps(result(devices))))
    assert "**Estimates**" in text and "not measurements" in text and "Some CPU" in text
    for device in devices.DEVICES:
        assert device.label in text and device.source in text
    row = next(line for line in text.splitlines() if "| 65.7 |" in line)
    estimate = result(devices)["nets"][0]["estimates"]["i5-9300H, one core"]
    # 0.86 GFLOP in 65.7 ms of a core that can do 131 GFLOP/s at best.
    assert "| 10.0 % |" in row and row.endswith(f"| {devices._span(estimate)} |")
    assert "`heatmap_mobilenetv2_1.0_sdd_x`, `its_twin`" in text and "+50 %" in text


def test_peaks_are_those_of_the_data_sheets(devices):
    peaks = {device.label: device.peak_gflops for device in devices.DEVICES}
    assert peaks["RK3399, one Cortex-A72"] == pytest.approx((14.4, 14.4))
    assert peaks["i5-9300H, one core"] == pytest.approx((76.8, 131.2))
    assert peaks["Tesla P40, GPU"][1] == pytest.approx(11758, abs=1)
    assert {p.peak_of for p in devices.PAPER_FIGURES} - {""} <= set(peaks)


def test_the_page_is_up_to_date(devices):
    assert region().strip() == devices.devices_table(None, None, PAGE), "run: python benchmarks/make_tables.py"
    if devices.RESULT.is_file():
        stored = json.loads(devices.RESULT.read_text(encoding="utf-8"))["devices"]
        same = stored == json.loads(json.dumps([asdict(device) for device in devices.DEVICES]))
        assert same, "DEVICES changed: measure again, see benchmarks/estimate_devices.py"


def test_an_unmeasured_project_has_an_empty_region(devices, tmp_path):
    path = tmp_path / "docs" / "devices.md"
    assert devices.devices_table(None, None, path) == ""
    stored = tmp_path / "benchmarks" / "results" / "devices" / "estimates.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps(result(devices)))
    assert devices.devices_table(None, None, path).startswith("**Estimates**")


def test_the_commands_on_the_page_are_accepted(targets):
    commands = re.findall(r"^(?:taskset -c \S+ |time )?gluonface (.+)$", PAGE.read_text(encoding="utf-8"), re.M)
    rows = {command.name: command for command in cli.COMMANDS}
    assert len(commands) > 10
    for command in commands:
        name, *words = shlex.split(command)
        parser = argparse.ArgumentParser(exit_on_error=False)
        rows[name].add_arguments(parser)
        args = parser.parse_args(words)
        if name == "compile":
            assert args.target in targets.TARGETS
            get_model(args.name)
