"""Does memory stay flat? Ten thousand small photos of many sizes through one `FaceAnalyzer`.

    python benchmarks/memory.py --model retinaface_mobilenet0.25_fc26 [--json OUT] [--plot PNG]

The photos are drawn, 32 to 256 pixels a side, every size anew. --size stored (the default) gives each its own canvas,
which is the harder case: MXNet keeps what it prepared for every shape of input it met (MXNET_MKLDNN_CACHE_NUM bounds
that). Memory is that of the process (resident), read every 100 photos. Exit status 1 when it grew by more than --limit
after the first tenth of the photos (a thousand of ten thousand). Five to ten minutes on one core; Linux.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from common import memory_mib, new_figure, provenance, rounded, run, save_figure, write_result
from detectors import parse_size

from gluonface import FaceAnalyzer

_SIDES = (32, 256)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    analyzer = FaceAnalyzer(args.model, size=args.size, batch_size=args.batch, root=args.root)
    readings = watch(analyzer, args.count, args.every)
    result = {
        "model": analyzer.detector_name,
        "size": "stored" if args.size is None else args.size,
        "photos": args.count,
        "sides": list(_SIDES),
        **judge(readings, args.count // 10, args.limit),
        **provenance(argv),
        "resident_mib": [[count, round(mib, 1)] for count, mib in readings],
    }
    print(describe(result, args.limit))
    if args.plot:
        plot(args.plot, result)
    if args.json:
        write_result(args.json, rounded(result, 2))
    return 0 if result["flat"] else 1


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="NAME", help="detector (default: that of FaceAnalyzer)")
    parser.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="photos (default: 10000)")
    parser.add_argument("--every", type=int, default=100, metavar="N", help="photos between readings (default: 100)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="photos at once (default: 16)")
    parser.add_argument(
        "--size", type=parse_size, default=None, metavar="N|HxW|stored", help="as in FaceAnalyzer (default: stored)"
    )
    parser.add_argument("--limit", type=float, default=32, metavar="MIB", help="growth called flat (default: 32)")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--plot", metavar="PNG", help="draw memory over photos")
    args = parser.parse_args(argv)
    if args.count < 20 or not 1 <= args.every <= args.count // 10:
        parser.error("--count is at least 20 and --every at most a tenth of it")
    return args


def drawn_photos(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Photos (h, w, 3) uint8: noise with a disc, each of a size of its own."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        height, width = rng.integers(_SIDES[0], _SIDES[1] + 1, 2)
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        y, x = np.ogrid[:height, :width]
        image[(y - height / 2) ** 2 + (x - width / 2) ** 2 < min(height, width) ** 2 / 9] = (205, 160, 130)
        yield image


def watch(analyzer: FaceAnalyzer, count: int, every: int) -> list[tuple[int, float]]:
    """(photos done, resident MiB), from before the first photo to the last."""
    readings = [(0, memory_mib())]
    for done, _ in enumerate(analyzer.stream(drawn_photos(count)), start=1):
        if done % every == 0 or done == count:
            readings.append((done, memory_mib()))
    return readings


def judge(readings: list[tuple[int, float]], settled: int, limit: float) -> dict:
    """How much memory grew after the first ``settled`` photos: the most it reached over what it was then."""
    base = next(mib for count, mib in readings if count >= settled)
    later = [mib for count, mib in readings if count >= settled]
    growth = max(later) - base
    return {
        "settled_after": settled,
        "settled_mib": base,
        "peak_mib": max(mib for _, mib in readings),
        "growth_mib": growth,
        "last_mib": later[-1],
        "flat": bool(growth <= limit),
    }


def describe(result: dict, limit: float) -> str:
    sides = f"{result['sides'][0]} to {result['sides'][1]} pixels a side, size {result['size']}"
    verdict = "flat" if result["flat"] else "NOT flat"
    return (
        f"{result['model']}: {result['photos']} photos of {sides}\n"
        f"{result['settled_mib']:.0f} MiB after {result['settled_after']} photos, later at most "
        f"{result['growth_mib']:.1f} MiB more, {result['last_mib']:.0f} MiB at the end: {verdict} (limit {limit:g} MiB)"
    )


def plot(path: str | Path, result: dict) -> None:
    drawing = new_figure(figsize=(7, 3.5))
    axes = drawing.subplots()
    axes.plot(*zip(*result["resident_mib"]))
    axes.axvline(result["settled_after"], color="0.6", linestyle="--")
    axes.set(xlabel="photos", ylabel="resident MiB", ylim=(0, None), title=result["model"])
    axes.grid(alpha=0.3)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
