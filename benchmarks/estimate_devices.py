"""How long our trained nets would take on the devices of the papers: estimates, for nobody here has the devices.

    python benchmarks/estimate_devices.py --json benchmarks/results/devices/estimates.json     # about five minutes
    python benchmarks/make_tables.py                                                          # into docs/devices.md
    python benchmarks/estimate_devices.py --quick                      # seconds a net; only to see that it works

The time of a net is the sum over its kernels of the longer of two: its operations over the share of the device's peak
that such a kernel reaches, and the bytes that it moves over the device's memory bandwidth; on a GPU, a launch a kernel
besides. Kernels, operations and bytes are those of the compiled net; peaks and bandwidths come from data sheets (see
`DEVICES`). The shares are measured on this machine, one thread, with code for vectors of two widths (the targets of
`WIDTHS`): the better share of both and the higher clock give the optimistic estimate, the worse and the lower the
pessimistic one. The same sum for this machine, with the shares of the other nets, is set against the measured time.

Measure on a machine that does nothing else, and with AVX-512. Nets that share their kernels (the same network with
other weights) are measured once.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from common import RESULTS, markdown_table, provenance, read_result, rounded, run, table, write_result

from gluonface._compat import import_optional
from gluonface.errors import DataError, InputError
from gluonface.geometry import apply_letterbox, letterbox
from gluonface.model_zoo import get_model, list_models, model_facts
from gluonface.model_zoo.counting import count_macs

#: Targets that the shares are measured with: vectors of 8 and of 16 float32 numbers.
WIDTHS = ("x86-64-v3", "x86-64-v4")
#: Canvases of detectors, (height, width); landmark nets have theirs.
CANVASES = ((480, 640), (640, 640))
KINDS = ("convolution", "depthwise", "rest")
RESULT = RESULTS / "devices" / "estimates.json"

# Sums that the peak is measured with, each in a register: enough to hide the latency of two units, and few enough for
# the sixteen registers of AVX2. And how often each is added to, a few milliseconds.
_SUMS, _ADDITIONS = 12, 1 << 19
_COPIED_BYTES = 256 << 20


# ---- the devices, from their data sheets -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A device, or some of its cores.

    Attributes
    ----------
    name, part : str
        What it is called, and which of its cores compute.
    clock_ghz : (float, float)
        The lowest and the highest that the data sheet promises.
    flops_per_cycle : int
        float32 operations of a core (of all of a GPU) in a cycle; a fused multiply-add is two.
    cores : int
    bandwidth : float
        Of the memory, in GB/s.
    source : str
        Of these figures.
    launch_us : (float, float)
        What starting a kernel takes at least and at most.
    """

    name: str
    part: str
    clock_ghz: tuple[float, float]
    flops_per_cycle: int
    cores: int
    bandwidth: float
    source: str
    launch_us: tuple[float, float] = (0.0, 0.0)

    @property
    def label(self) -> str:
        """Name and part in one."""
        return f"{self.name}, {self.part}"

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.launch_us[1] > 0

    @property
    def peak_gflops(self) -> tuple[float, float]:
        """At the lowest and at the highest clock."""
        low, high = (clock * self.flops_per_cycle * self.cores for clock in self.clock_ghz)
        return low, high


_RK3399 = (
    "data sheet: two Cortex-A72 to 1.8 GHz, four Cortex-A53 to 1.4 GHz, two channels of 32 bits; memory taken to be "
    "LPDDR4 at 1600 MT/s. Operations a cycle: published measurements of Cortex-A72, two units of 64 bits; Cortex-A53 "
    "is taken to do as many"
)
_KRYO = (
    "announcement: four Kryo 385 Gold, derived from Cortex-A75, to 2.8 GHz; four channels of 16 bits, LPDDR4X at "
    "3733 MT/s. Operations a cycle: half those of Cortex-A76, which doubled the width of the vector units"
)
_I5 = (
    "product page: four cores, 2.4 GHz base, 4.1 GHz turbo (of one core; four are taken to reach it for the optimistic "
    "figure), two channels of DDR4-2666. Operations a cycle: two fused multiply-adds of 8 numbers, as all cores of "
    "Skylake's family"
)
_P40 = "data sheet: 3840 cores, 1303 MHz base, 1531 MHz boost, 346 GB/s"
_GTX1650 = "product page: 896 cores, 1485 MHz base, 1665 MHz boost, GDDR5 with 128 GB/s"
_GTX1080 = "product page: 3584 cores, 1480 MHz base, 1582 MHz boost, GDDR5X with 484 GB/s"
#: Starting a kernel is commonly said to take a few microseconds: an assumption, in no data sheet.
_LAUNCH = (3.0, 10.0)

DEVICES = (
    Device("RK3399", "one Cortex-A72", (1.8, 1.8), 8, 1, 12.8, _RK3399),
    Device("RK3399", "both Cortex-A72", (1.8, 1.8), 8, 2, 12.8, _RK3399),
    # Work is cut into equal parts, so the slowest cores set the pace.
    Device("RK3399", "all six cores", (1.4, 1.4), 8, 6, 12.8, _RK3399),
    Device("Snapdragon 845", "one Kryo 385 Gold", (2.8, 2.8), 8, 1, 29.9, _KRYO),
    Device("Snapdragon 845", "four Kryo 385 Gold", (2.8, 2.8), 8, 4, 29.9, _KRYO),
    Device("i5-9300H", "one core", (2.4, 4.1), 32, 1, 41.8, _I5),
    Device("i5-9300H", "four cores", (2.4, 4.1), 32, 4, 41.8, _I5),
    Device("Tesla P40", "GPU", (1.303, 1.531), 2 * 3840, 1, 346.0, _P40, _LAUNCH),
    Device("GTX 1650", "GPU", (1.485, 1.665), 2 * 896, 1, 128.0, _GTX1650, _LAUNCH),
    Device("GTX 1080 Ti", "GPU", (1.480, 1.582), 2 * 3584, 1, 484.0, _GTX1080, _LAUNCH),
)


@dataclass(frozen=True)
class PaperFigure:
    """A time that a paper states.

    Attributes
    ----------
    paper, net, device, canvas, milliseconds : str
        As the paper has them.
    gf : float, optional
        Multiply-accumulates of the net in 10^9, as the paper has them, with the ``milliseconds`` of one image.
    peak_of : str
        Label of the row of `DEVICES` that is meant, "" where there is none or the paper leaves it open.
    ours : str
        Beginning of the names of our nets that are the same network.
    """

    paper: str
    net: str
    device: str
    canvas: str
    milliseconds: str
    gf: float | None = None
    peak_of: str = ""
    ours: str = ""


_SUBPIXEL, _CORE, _CARD = "sub-pixel landmarks", "i5-9300H, one core", "GTX 1650, GPU"
_SDD = "heatmap_mobilenetv2_1.0_sdd_"
PAPER_FIGURES = (
    PaperFigure(_SUBPIXEL, "MobileNetV2 1.0", _CORE, "192x192", "65.7", 0.43, _CORE, _SDD),
    PaperFigure(_SUBPIXEL, "ResNet18", _CORE, "192x192", "131.5"),
    PaperFigure(_SUBPIXEL, "ResNet50", _CORE, "192x192", "241.5", 3.23, _CORE),
    PaperFigure(_SUBPIXEL, "MobileNetV2 1.0", "GTX 1650", "192x192", "4.20", 0.43, _CARD, _SDD),
    PaperFigure(_SUBPIXEL, "ResNet18", "GTX 1650", "192x192", "4.83"),
    PaperFigure(_SUBPIXEL, "ResNet50", "GTX 1650", "192x192", "8.71", 3.23, _CARD),
    PaperFigure(_SUBPIXEL, "MobileNetV2 1.0", "Snapdragon 845 (which cores, or its GPU, is not said)", "192x192",
                "67.3", None, "Snapdragon 845, one Kryo 385 Gold", _SDD),
    PaperFigure("MOS", "MOS-S (ShuffleNetV2)", "RK3399, several threads of ncnn", "640x480", "68"),
    PaperFigure("MOS", "MOS-S (ShuffleNetV2)", "RTX 2060", "640x480", "10.8"),
    PaperFigure("MOS", "MOS-L (ResNet152)", "RTX 2060", "640x480", "62.2"),
    PaperFigure("MOS", "RetinaFace MobileNet + PnP", "RTX 2060", "640x480", "7.2"),
    PaperFigure("RetinaFace", "ResNet50", "Tesla P40", "not said", "22.3"),
    PaperFigure("KPNet", "DRNet", "GTX 1080 Ti", "long side 256", "2.6; 1.0 in batches above 32"),
    PaperFigure("KPNet", "Hourglass-light", "GTX 1080 Ti", "long side 256", "10.3; 1.6 in batches above 32"),
    PaperFigure("MaskFace", "ResNeXt-152", "RTX 2080 Ti", "640x480", "about 50 (20 images a second)"),
    PaperFigure("MaskFace", "landmarks of a face", "RTX 2080 Ti", "not said", "0.11"),
)  # fmt: skip


# ---- what a net does -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """A call of a fused kernel.

    Attributes
    ----------
    name : str
    kind : str
        One of `KINDS`.
    flops : int
        Twice the multiply-accumulates that it carries out, the channels that fill up a vector among them and of a
        convolution by Winograd the fewer ones. Of the rest, the numbers that it reads and writes.
    moved : int
        Bytes of all that it reads, each once, and of all that it writes.
    """

    name: str
    kind: str
    flops: int
    moved: int


def kernels_of(fused, function: str) -> list[Kernel]:
    """The calls of a function of a fused module (`gluonface.deploy.build.fuse`), in order.

    Raises
    ------
    DataError
        The function calls something that is no kernel.
    """
    from gluonface.deploy import schedules

    found = []
    for callee in _callees(fused[function]):
        kernel = fused[callee]
        sizes = [(math.prod(int(side) for side in p.ty.shape), str(p.ty.dtype)) for p in kernel.params]
        moved = sum(count * np.dtype(dtype).itemsize for count, dtype in sizes)
        if schedules.tile_of(kernel) is None:
            found.append(Kernel(callee, "rest", sum(count for count, _ in sizes), moved))
            continue
        signature = schedules.signature(kernel)
        kind = "depthwise" if signature.startswith("depthwise") else "convolution"
        found.append(Kernel(callee, kind, 2 * products_of(signature), moved))
    return found


def _callees(function) -> Iterable[str]:
    """Names of what a function calls, in order."""
    relax = import_optional("tvm.relax", "deploy")
    for block in function.body.blocks:
        for call in (binding.value for binding in block.bindings):
            if not isinstance(call, relax.Call):
                continue  # one of the results of a call, or the function's own
            if str(getattr(call.op, "name", "")) != "relax.call_tir":
                raise DataError(f"expected calls of kernels, got one of {call.op}")
            yield call.args[0].name_hint


def products_of(signature: str) -> int:
    """Multiply-accumulates of a kernel by its signature, "convolution out1x60x80x64 sum3x3x64 in1x60x80x64"."""
    extents = dict(re.findall(r" (out|sum)([\dx]+)", signature))
    return math.prod(int(n) for word in ("out", "sum") for n in extents[word].split("x"))


def totals(kernels: Iterable[Kernel]) -> dict[str, dict]:
    """Calls, operations and bytes of each kind."""
    kernels = list(kernels)
    return {
        kind: {
            "calls": sum(k.kind == kind for k in kernels),
            "flops": sum(k.flops for k in kernels if k.kind == kind),
            "bytes": sum(k.moved for k in kernels if k.kind == kind),
        }
        for kind in KINDS
    }


# ---- the model -------------------------------------------------------------------------------------------------------


def seconds_of(
    kernels: Iterable[Kernel], peak_gflops: float, shares: dict[str, float], bandwidth: float, launch_us: float = 0.0
) -> tuple[float, float]:
    """Estimated seconds of a net, and how many of them are of kernels that wait for the memory.

    Parameters
    ----------
    kernels : iterable of Kernel
    peak_gflops, bandwidth : float
        Of the device, in 10^9 operations and 10^9 bytes a second.
    shares : dict
        Kind of kernel -> share of the peak.
    launch_us : float
        Microseconds that starting a kernel takes.
    """
    total = waiting = 0.0
    for kernel in kernels:
        computing = kernel.flops / (peak_gflops * 1e9 * shares[kernel.kind])
        moving = kernel.moved / (bandwidth * 1e9)
        total += max(computing, moving) + launch_us * 1e-6
        waiting += moving if moving > computing else 0.0
    return total, waiting


def estimate(device: Device, kernels: dict[str, list[Kernel]], shares: dict[str, dict[str, float]]) -> dict:
    """Milliseconds of a net on a device.

    Parameters
    ----------
    device : Device
    kernels, shares : dict
        Of each of `WIDTHS`.

    Returns
    -------
    dict
        ``low`` and ``high`` milliseconds; ``waiting``, the share of ``low`` that kernels wait for the memory.
    """
    (slow, fast), (soon, late) = device.peak_gflops, device.launch_us
    best = [seconds_of(kernels[w], fast, shares[w], device.bandwidth, soon) for w in kernels]
    worst = [seconds_of(kernels[w], slow, shares[w], device.bandwidth, late) for w in kernels]
    low, waiting = min(best)
    return {"low": 1e3 * low, "high": 1e3 * max(worst)[0], "waiting": waiting / low}


def shares_of(nets: Iterable[dict], width: str) -> dict[str, float]:
    """Kind of kernel -> share of the peak that its kernels reach, over all nets given as results."""
    found = {}
    measured = [net["measured"][width] for net in nets]
    for kind in KINDS:
        seconds = sum(1e-3 * m["kernel_ms"][kind] * m["peak_gflops"] for m in measured)
        flops = sum(m["totals"][kind]["flops"] for m in measured)
        # A net without kernels of a kind says nothing of them, and asks for nothing.
        found[kind] = flops / 1e9 / seconds if seconds > 0 else 1.0
    return found


# ---- measuring -------------------------------------------------------------------------------------------------------


def peak_gflops(target) -> float:
    """10^9 operations a second of one core in a loop of nothing but fused multiply-adds, compiled for a target."""
    tvm, te = import_optional("tvm", "deploy"), import_optional("tvm.te", "deploy")
    T = import_optional("tvm.script.ir_builder.tirx", "deploy")
    builder = import_optional("tvm.script.ir_builder", "deploy").IRBuilder

    def generate(ins, outs):
        with builder() as made:
            factors, sums = T.buffer_proxy(ins[0]), T.buffer_proxy(outs[0])
            with T.serial(0, _ADDITIONS) as _, T.unroll(0, _SUMS) as i, T.vectorized(0, target.lanes) as lane:
                sums[i, lane] = sums[i, lane] * factors[0, lane] + factors[1, lane]
            return made.get()

    factors = te.placeholder((2, target.lanes), "float32", "factors")
    sums = te.extern([(_SUMS, target.lanes)], [factors], generate, dtype=["float32"], name="sums")
    loop = te.create_prim_func([factors, sums]).with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": loop}), target=target.tvm_target())
    device = tvm.cpu()
    # x / 2 + 1 stays between 1 and 2: no number is ever too small or too large to be fast.
    half = tvm.runtime.tensor(np.repeat(np.float32([[0.5], [1]]), target.lanes, axis=1), device)
    out = tvm.runtime.tensor(np.ones((_SUMS, target.lanes), np.float32), device)
    results = built.mod.time_evaluator("main", device, number=1, repeat=20)(half, out).results
    return 2 * _ADDITIONS * _SUMS * target.lanes / min(results) / 1e9


def copy_bandwidth() -> float:
    """10^9 bytes a second, read and written, of one core that copies what no cache holds."""
    source = np.ones(_COPIED_BYTES, np.uint8)
    copy = np.empty_like(source)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        np.copyto(copy, source)
        seconds.append(time.perf_counter() - start)
    return 2 * _COPIED_BYTES / min(seconds) / 1e9


class Prepared:
    """A net of one canvas, fused for a target.

    Attributes
    ----------
    kernels : list of Kernel
    """

    def __init__(self, net, canvas: tuple[int, int], target):
        from gluonface.deploy import build

        self._build = build
        (self.bucket,) = self._build.buckets_for(net, [canvas])
        self.target = target
        self._module = self._build.module_of(net, [self.bucket], target)
        self.kernels = kernels_of(self._build.fuse(self._module, target), self.bucket.function)

    def measure(self, repeats: int) -> dict:
        """Milliseconds on one thread: ``ms`` of a call, and ``kernel_ms`` of each kind of kernel.

        A call is timed as a whole and, with a clock between the kernels, in parts.
        """
        tvm, relax = import_optional("tvm", "deploy"), import_optional("tvm.relax", "deploy")
        from gluonface.deploy import engines, tune

        records = tune.Records.shipped(self.target.records)
        lowered, choices = self._build.lower(self._module, self.target, records)
        with self.target.tvm_target():
            executable = relax.build(lowered, target=self.target.tvm_target())
        whole, parts = (relax.VirtualMachine(executable, tvm.cpu()) for _ in range(2))
        tvm.get_global_func("runtime.config_threadpool")(1, 1)
        photo, _ = engines.drawn_photo()
        canvas = apply_letterbox(photo, letterbox(photo.shape[:2], self.bucket.size_hw))
        data = tvm.runtime.tensor(canvas[None])
        kind_of, spent, began = {k.name: k.kind for k in self.kernels}, dict.fromkeys(KINDS, 0.0), 0.0

        def clock(function, name, before, result, *args):
            nonlocal began
            if before:
                began = time.perf_counter()
            elif name in kind_of:
                spent[kind_of[name]] += time.perf_counter() - began
            return 0

        parts.set_instrument(clock)
        calls, kinds = [], {kind: [] for kind in KINDS}
        for turn in range(-2, repeats):
            spent.update(dict.fromkeys(KINDS, 0.0))
            parts[self.bucket.function](data)
            start = time.perf_counter()
            whole[self.bucket.function](data)
            if turn >= 0:
                calls.append(time.perf_counter() - start)
                for kind, seconds in spent.items():
                    kinds[kind].append(seconds)
        tiled = [c.how for c in choices if c.how != "plain"]
        return {
            "ms": 1e3 * _undisturbed(calls),
            "kernel_ms": {kind: 1e3 * _undisturbed(seconds) for kind, seconds in kinds.items()},
            "schedules": f"{tiled.count('tuned')} of {len(tiled)} tuned",
        }


def _undisturbed(seconds: Sequence[float]) -> float:
    """The tenth percentile: what else a machine does slows a call down, and nothing speeds it up."""
    return float(np.percentile(seconds, 10))


def subjects(names: Sequence[str]) -> list[tuple[str, tuple[int, int]]]:
    """Each model with each of its canvases."""
    found = []
    for name in names:
        facts = model_facts(name)
        found += [(name, c) for c in (CANVASES if facts.task == "detection" else ((facts.size, facts.size),))]
    return found


def measure(names: Sequence[str], repeats: int, say=lambda text: None) -> dict:
    """All of a result but where it comes from.

    Parameters
    ----------
    names : sequence of str
        Models with weights.
    repeats : int
        Timed calls of each net with each width.
    """
    from gluonface.deploy.targets import find_target

    targets = {width: find_target(width) for width in WIDTHS}
    _need_vectors(targets.values())
    nets, kernels, seen = [], [], {}
    for name, canvas in subjects(names):
        net = get_model(name, pretrained=True)
        first = Prepared(net, canvas, targets[WIDTHS[0]])
        same = seen.setdefault((canvas, tuple(first.kernels)), name)
        if same != name:
            next(n for n in nets if n["models"][0] == same and n["size_hw"] == list(canvas))["models"].append(name)
            continue
        prepared = {WIDTHS[0]: first, **{w: Prepared(net, canvas, targets[w]) for w in WIDTHS[1:]}}
        gf = count_macs(net.network, (1, 3, *canvas)) / 1e9
        nets.append({"models": [name], "size_hw": list(canvas), "gf": gf, "measured": {}})
        kernels.append({width: p.kernels for width, p in prepared.items()})
        for width, p in prepared.items():
            before = peak_gflops(targets[width])
            measured = p.measure(repeats)
            peak = max(before, peak_gflops(targets[width]))
            nets[-1]["measured"][width] = {**measured, "peak_gflops": peak, "totals": totals(p.kernels)}
            say(f"{name} {canvas[0]}x{canvas[1]} {width}: {measured['ms']:.2f} ms, peak {peak:.1f} GFLOP/s")
    bandwidth = copy_bandwidth()
    shares = {width: shares_of(nets, width) for width in WIDTHS}
    for net, own in zip(nets, kernels):
        net["check"] = {width: _check(net, own[width], nets, width, bandwidth) for width in WIDTHS}
        net["estimates"] = {device.label: estimate(device, own, shares) for device in DEVICES}
    return {
        "nets": nets,
        "shares": shares,
        "copy_gb_s": bandwidth,
        "repeats": repeats,
        "devices": [asdict(device) for device in DEVICES],
    }


def _need_vectors(targets) -> None:
    from gluonface.deploy.runtime import machine

    have = machine.cpu_features()
    for target in targets:
        missing = sorted(set(target.features) - have) if have is not None else []
        if missing:
            raise InputError(f"expected a processor of {target.name}, this one lacks {', '.join(missing)}")


def _check(net: dict, kernels: list[Kernel], nets: Sequence[dict], width: str, bandwidth: float) -> dict:
    """The estimate of a net on this machine, from the shares of the other networks where there are any."""
    others = [other for other in nets if not set(other["models"]) & set(net["models"])]
    shares = shares_of(others or nets, width)
    seconds, _ = seconds_of(kernels, net["measured"][width]["peak_gflops"], shares, bandwidth)
    return {"estimated_ms": 1e3 * seconds, "off": 1e3 * seconds / net["measured"][width]["ms"] - 1, "own": not others}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    names = args.models or list_models(pretrained=True)
    found = measure(names, 5 if args.quick else args.repeats, lambda text: print(text, file=sys.stderr))
    result = rounded({**provenance(argv), **found}, 6)
    print(describe(result))
    if args.json:
        write_result(args.json, result)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models with weights (default: all)")
    parser.add_argument("--repeats", type=int, default=200, metavar="N", help="calls of each net (default: 200)")
    parser.add_argument("--quick", action="store_true", help="five calls: no figures to keep")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {args.repeats}")
    return args


def describe(result: dict) -> str:
    """A result for people to read."""
    nets = result["nets"]
    head = ["{} {}x{}".format(net["models"][0], *net["size_hw"]) for net in nets]
    rows = [["estimated ms", *head]]
    rows += [[label, *(_span(net["estimates"][label]) for net in nets)] for label in nets[0]["estimates"]]
    checks = [["measured here, ms", *head]]
    for width in WIDTHS:
        pairs = ((net["measured"][width]["ms"], net["check"][width]["off"]) for net in nets)
        checks.append([f"{width} (estimate off by)", *(f"{ms:.2f} ({100 * off:+.0f} %)" for ms, off in pairs)])
    shares = [["share of peak", *KINDS], *([w, *(_percent(s[k]) for k in KINDS)] for w, s in result["shares"].items())]
    return "\n\n".join(map(table, (rows, checks, shares)))


# ---- the page --------------------------------------------------------------------------------------------------------


def devices_table(facts, results, path: Path) -> str:
    """The region "devices" of docs/devices.md, for make_tables.py; empty while nothing is measured.

    Parameters
    ----------
    facts, results
        Not needed.
    path : Path
        Of the document, in a folder of the project.
    """
    source = path.parents[1] / RESULT.relative_to(RESULTS.parents[1])
    return page(read_result(source)) if source.is_file() else ""


def page(result: dict) -> str:
    """All figures of a result as Markdown."""
    nets, devices = result["nets"], [_device(row) for row in result["devices"]]
    ours = [net["estimates"] for net in nets]
    parts = ["**Estimates** of milliseconds a call, not measurements; optimistic to pessimistic, batch 1, float32."]
    for gpu in (False, True):
        chosen = [device for device in devices if device.gpu == gpu]
        rows = [["network", "canvas", *(f"{d.name}" if gpu else d.label for d in chosen)]]
        rows += [[*_named(net), *(_span(e[d.label]) for d in chosen)] for net, e in zip(nets, ours)]
        parts.append(markdown_table(rows))
    parts.append(_waiting(devices, ours))
    parts.append(
        "**The papers' own figures**, of their networks and code, and our estimate where the network is the same:"
    )
    parts.append(_papers(result, devices))
    parts.append(
        f"The sum against a measured time: **this machine** ({result['machine']['cpu']}), one thread, with shares from "
        "the other networks only. An estimate for a device cannot be expected to be nearer than these are."
    )
    parts.append(_checks(nets))
    parts.append(
        "Shares of the peak, measured here with one thread; a large copy reads and writes "
        f"{result['copy_gb_s']:.0f} GB/s:"
    )
    parts.append(_shares(result))
    parts.append(
        "What was counted, for the code with 8 lanes. GF are multiply-accumulates of the network in 10^9 as the papers "
        "count them; those that the kernels carry out are fewer where Winograd's method saves some, and more by the "
        "channels that fill up a vector."
    )
    parts.append(_counts(nets))
    parts.append("What was looked up:")
    parts.append(_sources(devices))
    names = f"`{WIDTHS[0]}` and `{WIDTHS[1]}`"
    parts.append(f"Measured on {result['date']} with {names}, {result['repeats']} calls each: `{result['command']}`.")
    return "\n\n".join(parts)


def _waiting(devices: Sequence[Device], ours: Sequence[dict]) -> str:
    """How much the memory matters, in words."""
    groups = {
        "one core": [d for d in devices if not d.gpu and d.cores == 1],
        "several cores": [d for d in devices if not d.gpu and d.cores > 1],
        "a GPU": [d for d in devices if d.gpu],
    }
    most = (f"{_percent(max(e[d.label]['waiting'] for d in g for e in ours))} on {name}" for name, g in groups.items())
    return f"Kernels that wait for the memory make up at most so much of the optimistic figure: {', '.join(most)}."


def _device(row: dict) -> Device:
    return Device(**{**row, "clock_ghz": tuple(row["clock_ghz"]), "launch_us": tuple(row["launch_us"])})


def _papers(result: dict, devices: Sequence[Device]) -> str:
    head = [
        "paper",
        "network",
        "device",
        "input",
        "the paper's ms",
        "its share of the device's peak",
        "our estimate, ms",
    ]
    rows, peaks = [head], {device.label: device.peak_gflops[1] for device in devices}
    for p in PAPER_FIGURES:
        share = p.gf and 2 * p.gf / (1e-3 * float(p.milliseconds)) / peaks[p.peak_of]
        same = [net for net in result["nets"] if p.ours and any(name.startswith(p.ours) for name in net["models"])]
        cells = [_percent(share) if share else "-", _span(same[0]["estimates"][p.peak_of]) if same else "-"]
        rows.append([p.paper, p.net, p.device, p.canvas, p.milliseconds, *cells])
    return markdown_table(rows)


def _checks(nets: Sequence[dict]) -> str:
    rows = [["network", "canvas", "code for", "measured, ms", "estimated, ms", "off by"]]
    for net in nets:
        for width, check in net["check"].items():
            off = f"{100 * check['off']:+.0f} %" + (" (its own shares)" if check["own"] else "")
            cells = [f"{net['measured'][width]['ms']:.2f}", f"{check['estimated_ms']:.2f}", off]
            rows.append([*_named(net), f"`{width}`", *cells])
    return markdown_table(rows)


def _shares(result: dict) -> str:
    rows = [["code for", "lanes", "peak, GFLOP/s", *KINDS, *(f"time in {kind}" for kind in KINDS), "schedules"]]
    for width, lanes in zip(WIDTHS, (8, 16)):
        measured = [net["measured"][width] for net in result["nets"]]
        spent = {kind: sum(m["kernel_ms"][kind] for m in measured) for kind in KINDS}
        cells = [_percent(result["shares"][width][kind]) for kind in KINDS]
        cells += [_percent(spent[kind] / sum(spent.values())) for kind in KINDS]
        tuned = sorted({m["schedules"] for m in measured})
        peak = max(m["peak_gflops"] for m in measured)
        rows.append([f"`{width}`", str(lanes), f"{peak:.0f}", *cells, ", ".join(tuned)])
    return markdown_table(rows)


def _counts(nets: Sequence[dict]) -> str:
    rows = [["network", "canvas", "GF", "carried out", "kernels", "MB moved"]]
    for net in nets:
        each = net["measured"][WIDTHS[0]]["totals"]
        products = sum(each[kind]["flops"] for kind in KINDS if kind != "rest") / 2e9
        calls, moved = (sum(t[key] for t in each.values()) for key in ("calls", "bytes"))
        rows.append([*_named(net), f"{net['gf']:.2f}", f"{products:.2f}", str(calls), f"{moved / 1e6:.0f}"])
    return markdown_table(rows)


def _sources(devices: Sequence[Device]) -> str:
    rows = [["device", "clock, GHz", "operations a cycle", "cores", "peak, GFLOP/s", "memory, GB/s"]]
    for d in devices:
        clock, peak = _range(d.clock_ghz, "g"), _range(d.peak_gflops, ".0f")
        rows.append([d.label, clock, str(d.flops_per_cycle), str(d.cores), peak, f"{d.bandwidth:g}"])
    notes = dict.fromkeys(f"- {d.name}, {d.source}." for d in devices)
    return markdown_table(rows) + "\n\n" + "\n".join(notes)


def _named(net: dict) -> list[str]:
    height, width = net["size_hw"]
    return [", ".join(f"`{name}`" for name in net["models"]), f"{width} wide, {height} high"]


def _span(estimated: dict) -> str:
    """Optimistic to pessimistic milliseconds."""
    pair = estimated["low"], estimated["high"]
    return _range(pair, ".0f" if pair[0] >= 10 else ".1f" if pair[0] >= 1 else ".2f")


def _range(pair: Sequence[float], form: str) -> str:
    return "-".join(dict.fromkeys(f"{value:{form}}" for value in pair))


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.1f} %"


if __name__ == "__main__":
    run(main)
