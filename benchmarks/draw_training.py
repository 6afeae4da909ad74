r"""Draw what a training of MOS did by itself: the weights that it learned, and what online feedback sampling did.

    python benchmarks/draw_training.py runs/mos/log.jsonl [MORE/log.jsonl ...] --out training.png [--threshold .35]

Three panels over the epochs: the weight that each part of the loss is multiplied with (1/T^2 of class, 1/(2 sigma^2) of
the others; a run with fixed weights has none); the share of the box loss that came from small faces, beside the
threshold T below which batches are stitched, and the share of stitched batches; and how many views of photos with
errors (the set S) were added to the next epoch. Each line of the log has the means of the last 50 batches.
Of several runs the first is drawn in full lines, the others dashed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common import new_figure, run, save_figure

from gluonface.errors import DataError
from gluonface.training.log import read_log

#: Part of the loss -> words.
PARTS = {"cls": "class", "box": "box", "landmark": "five points", "pose": "pose"}
#: Prefix of a weight among what a run's observers report.
_WEIGHT = "weight of "
_STYLES = ("-", "--", ":", "-.")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    names = args.names or names_of(args.logs)
    if len(names) != len(args.logs):
        raise DataError(f"expected a --names for each of {len(args.logs)} logs, got {len(names)}")
    draw(args.out, {name: observed(path) for name, path in zip(names, args.logs)}, args.threshold)
    print(args.out)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="log.jsonl of a run, or the run's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture")
    parser.add_argument("--names", nargs="+", metavar="TEXT", help="of the runs (default: their folders' names)")
    parser.add_argument("--threshold", type=float, default=0.35, metavar="T", help="--stitch-below (default: 0.35)")
    args = parser.parse_args(argv)
    args.logs = [path / "log.jsonl" if path.is_dir() else path for path in args.logs]
    return args


def names_of(logs: Sequence[Path]) -> list[str]:
    """The names of the runs' folders, longer where two of them agree."""
    depth = 1
    while True:
        names = ["/".join(path.resolve().parent.parts[-depth:]) for path in logs]
        if len(set(names)) == len(names) or depth > 8:
            return names
        depth += 1


def observed(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Name -> (epochs done, value) of all that the observers of a run reported.

    Raises
    ------
    DataError
        There is no such log, or nothing was reported.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such log")
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in read_log(path):
        # The set S is new at the end of an epoch; the rest comes in between, too.
        is_end = record["kind"] == "epoch"
        position = record["epoch"] + 1 if is_end else record["position"]
        for name, value in (record.get("observed") or {}).items():
            if value is not None and (is_end or name != "hard views"):
                curves.setdefault(name, []).append((float(position), float(value)))
    if not curves:
        raise DataError(f"{path}: no observer reported anything: expected the log of a run of train/train_mos.py")
    return curves


def draw(path: Path, runs: dict[str, dict[str, list[tuple[float, float]]]], threshold: float) -> None:
    """The three panels.

    Parameters
    ----------
    path : path
        Of the picture.
    runs : dict of name to `observed`
    threshold : float
        T.
    """
    drawing = new_figure(figsize=(14, 4.2))
    weights, feedback, hard = drawing.subplots(1, 3)
    for i, (run_name, curves) in enumerate(runs.items()):
        options = {"ls": _STYLES[i % len(_STYLES)], "lw": 1.6}
        # Colours are told once, of the first run; which line is which run stands in the last panel.
        told = (lambda words: words) if i == 0 else (lambda words: "_" + words)
        for k, (part, words) in enumerate(PARTS.items()):
            if points := curves.get(_WEIGHT + part):
                weights.plot(*zip(*points), color=f"C{k}", label=told(words), **options)
                weights.annotate(
                    f"{words} {points[-1][1]:.2g}" if i == 0 else f"{points[-1][1]:.2g}",
                    points[-1],
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    size=8,
                )
        for name, words, colour in (
            ("small share", "loss of small faces", "C0"),
            ("stitched", "stitched batches", "C1"),
        ):
            if points := curves.get(name):
                feedback.plot(*zip(*points), color=colour, label=told(words), **options)
        if points := curves.get("hard views"):
            hard.plot(*zip(*points), marker="o", ms=4, color="C2", label=run_name, **options)
    feedback.axhline(threshold, color="black", lw=0.9, ls=(0, (1, 2)), label=f"T = {threshold:g}")
    if weights.lines:
        weights.set_yscale("log")
    else:
        weights.text(0.5, 0.5, "fixed weights", ha="center", va="center", transform=weights.transAxes)
    feedback.set_ylim(-0.02, 1.02)
    hard.set_ylim(bottom=0)
    weights.set(title="learned weights of the loss", ylabel="what the part is multiplied with")
    feedback.set(title="online feedback in every batch, means of 50", ylabel="share (of the box loss; of the batches)")
    hard.set(title="online feedback after every epoch", ylabel="views added to the next epoch (S)")
    last = max(points[-1][0] for curves in runs.values() for points in curves.values())
    for axes in (weights, feedback, hard):
        axes.set(xlabel="epochs", xlim=(0, (1.3 if axes is weights else 1.12) * last))
        axes.grid(alpha=0.3)
        # The weights are named at the ends of their lines, which a legend would hide.
        if axes is feedback or (axes is hard and len(runs) > 1):
            axes.legend(fontsize=8)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
