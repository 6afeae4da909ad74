"""How long reading points off heatmaps takes, by each method of `gluonface.decode.decode_heatmaps`, on one core.

    python benchmarks/decode_heatmaps.py [--json benchmarks/results/decode/64x106x48.json]

64 faces x 106 points, maps of 48x48 cells, 16 million numbers: Gaussians under noise, placed as points of aligned faces
are, around the middle with one or two in a hundred at the border. The target: "dark" in less than 5 milliseconds on one
core. The methods take turns in a process of its own with one thread (NumPy reads OMP_NUM_THREADS
when it starts); medians are given. A few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from common import provenance, rounded, run, table, write_result

from gluonface.decode import HEATMAP_DECODERS, decode_heatmaps, encode_heatmaps

#: Milliseconds that "dark" may take.
TARGET_MS = 5.0
_WARM_UP = 3
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.worker:
        import cv2

        cv2.setNumThreads(1)
        print(json.dumps(measure(drawn_heatmaps(args.faces, args.points, args.size), args.methods, args.repeats)))
        return 0
    job = {"faces": args.faces, "points": args.points, "size": args.size, "methods": args.methods}
    result = {**job, "threads": 1, "repeats": args.repeats, **in_own_process(args), "target_ms": TARGET_MS}
    print(describe(result))
    if args.json:
        write_result(args.json, rounded({**result, **provenance(argv)}, 3))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=64, metavar="N", help="(default: 64)")
    parser.add_argument("--points", type=int, default=106, metavar="K", help="(default: 106)")
    parser.add_argument("--size", type=int, default=48, metavar="N", help="cells a side of a map (default: 48)")
    parser.add_argument(
        "--methods", nargs="+", choices=HEATMAP_DECODERS, default=list(HEATMAP_DECODERS), help="(default: all)"
    )
    parser.add_argument("--repeats", type=int, default=50, metavar="N", help="measurements of each (default: 50)")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.faces, args.points, args.repeats) < 1 or args.size < 5:
        parser.error("--faces, --points and --repeats are at least 1, --size at least 5")
    return args


def drawn_heatmaps(faces: int, points: int, size: int) -> np.ndarray:
    """(faces, points, size, size) float32: a Gaussian of sigma 1.5 cells somewhere on each map, and noise."""
    rng = np.random.default_rng(0)
    maps = np.empty((faces, points, size, size), np.float32)
    for face in maps:  # one at a time: less memory
        where = rng.normal(size / 2, size / 6, (points, 2)).clip(0, size)
        face[...] = encode_heatmaps(where, (size, size), sigma=1.5)
        face += rng.normal(0, 0.02, face.shape)
    return maps


def in_own_process(args: argparse.Namespace) -> dict:
    """`measure` in a process that has one thread."""
    words = [f"--{key}={getattr(args, key)}" for key in ("faces", "points", "size", "repeats")]
    command = [sys.executable, __file__, "--worker", *words, "--methods", *args.methods]
    env = {**os.environ, **dict.fromkeys(_THREADS, "1")}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"decode_heatmaps.py: the measuring process ended with status {done.returncode}")
    return json.loads(done.stdout)


def measure(heatmaps: np.ndarray, methods: Sequence[str], repeats: int) -> dict:
    """Median milliseconds of each method, and where the middle 80 % of the measurements lie."""
    taken = {method: [] for method in methods}
    for turn in range(_WARM_UP + repeats):
        for method, times in taken.items():
            start = time.perf_counter()
            decode_heatmaps(heatmaps, method)
            if turn >= _WARM_UP:
                times.append(1000 * (time.perf_counter() - start))
    return {
        "median_ms": {method: statistics.median(times) for method, times in taken.items()},
        "ms_10_to_90": {m: [float(np.percentile(times, q)) for q in (10, 90)] for m, times in taken.items()},
    }


def describe(result: dict) -> str:
    """The result as text."""
    rows = [("method", "median ms", "10th", "90th percentile")]
    for method, median in result["median_ms"].items():
        rows.append((method, *(f"{value:.2f}" for value in (median, *result["ms_10_to_90"][method]))))
    text = (
        f"{result['faces']} faces x {result['points']} points, {result['size']}x{result['size']} cells, one thread\n\n"
        f"{table(rows)}"
    )
    if "dark" in result["median_ms"]:
        met = result["median_ms"]["dark"] < result["target_ms"]
        text += f"\n\ndark: {'under' if met else 'NOT under'} the target of {result['target_ms']:g} ms"
    return text


if __name__ == "__main__":
    run(main)
