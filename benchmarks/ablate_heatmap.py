r"""The paper's ablations on data at hand: upscaling strategies and tricks, one run a row and seed.

    python benchmarks/ablate_heatmap.py --train facedata/lmk_train.jsonl --val facedata/lmk_val.jsonl \
        --out runs/ablation [--json benchmarks/results/ablation/heatmap.json --picture .../heatmap.png]

Each row trains MobileNetV2 0.25 with train/train_heatmap.py for the same number of epochs: the paper's loss, optimiser
and batch, the learning rate falling along a cosine, since the short runs have no time for steps. The backbone starts
from the weights of a trained landmark net (--start-model), the rest from random numbers of the seed: from random
numbers alone, runs this short end at the mean face. Strategies are compared with all tricks that help in the paper,
tricks with the strategy SSS. The figure is the NME of the last weights on the validation faces, on crops aligned by
their labelled five points as in the paper, without flip averaging (but for the rows that add it).

A run that was made is not made again: what was stopped goes on where it was. Rows are made seed by seed, so that a
table with fewer seeds is there early. A difference counts only where it is larger than twice its standard error over
the seeds; with two seeds that is a coarse measure, and the table says "within the spread" otherwise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ablation import beyond_spread, draw_rows, epochs_done, finished, in_words
from ablation import train as train_with
from common import describe_domain, new_figure, provenance, rounded, run, save_figure, table, write_result

from gluonface import get_model
from gluonface._compat import mx
from gluonface.alignment import LandmarkPredictor
from gluonface.data import read_jsonl
from gluonface.faces import SCHEMES
from gluonface.image import load_image
from gluonface.metrics import evaluate_landmarks, label_sizes, scored_faces

#: What helps in the paper, as flags of train/train_heatmap.py.
HELPFUL = ("--flip-copies", "--pca-noise=.05", "--jitter=.4", "--random-erasing=.5", "--rotate=15")
#: The strategy that tricks are compared with.
STRATEGY = "sss"


@dataclass(frozen=True)
class Row:
    """One line of the table: a run, and how its net is tested.

    Attributes
    ----------
    part : {"strategies", "tricks"}
    label : str
    strategy : str
    flags : tuple of str
        Of train/train_heatmap.py.
    flip : str
        See LandmarkPredictor.
    run_of : str
        Label of the row whose run this one tests in another way; "" for a run of its own.
    """

    part: str
    label: str
    strategy: str = STRATEGY
    flags: tuple[str, ...] = ()
    flip: str = "none"
    run_of: str = ""

    @property
    def folder(self) -> str:
        """Of the row's run."""
        words = f"{self.strategy}-{'-'.join(self.flags) or 'plain'}"
        return "".join(c if c.isalnum() or c in "-." else "" for c in words).replace("--", "-")


ROWS = (
    *(Row("strategies", s.upper(), s, HELPFUL) for s in ("sss", "dss", "ssd", "dds", "sdd", "ddd")),
    Row("tricks", "none"),
    Row("tricks", "test-time flip, points", flip="points", run_of="none"),
    Row("tricks", "test-time flip, heatmaps", flip="heatmaps", run_of="none"),
    Row("tricks", "flipped copies", flags=("--flip-copies",)),
    Row("tricks", "PCA noise .05", flags=("--pca-noise=.05",)),
    Row("tricks", "colour jitter .4", flags=("--jitter=.4",)),
    Row("tricks", "random erasing .5", flags=("--random-erasing=.5",)),
    Row("tricks", "rotation 15°", flags=("--rotate=15",)),
    Row("tricks", "scaling ±.1", flags=("--scale=.1",)),
    Row("tricks", "shifting ±10 px", flags=("--shift=10",)),
    Row("tricks", "all that help", flags=HELPFUL),
    Row("tricks", "all that help, flip points", flags=HELPFUL, flip="points", run_of="all that help"),
)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    rows = [row for row in ROWS if args.part in (None, row.part)]
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else None
    test = Test(args)
    measured: dict[tuple[str, int], dict] = {}
    for seed in args.seeds:
        for row in rows:
            folder, epochs = folder_of(args, row, seed), epochs_of(row, args.epochs)
            if not row.run_of and not finished(folder, epochs):
                if args.collect or (deadline and time.monotonic() > deadline):
                    continue
                train(args, row, seed)
            if finished(folder, epochs):
                measured[row.label + row.part, seed] = test(row, folder)
    result = summarise(rows, args.seeds, measured)
    print(describe(result))
    if args.json:
        facts = {"model": "heatmap_mobilenetv2_0.25", "start": args.start_model, "epochs": args.epochs}
        facts |= {"data_shape": args.data_shape}
        facts |= {"train_sources": args.sources, "seeds": args.seeds, "domain": test.domain, "norm": "interocular"}
        write_result(args.json, rounded({**facts, "rows": result, **provenance(argv)}))
    if args.picture:
        plot(args.picture, result, test.domain)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, metavar="JSONL", help="annotations to learn from, 68 points")
    parser.add_argument("--val", required=True, metavar="JSONL", help="annotations to test on")
    parser.add_argument(
        "--sources", nargs="+", default=["helen", "lfpw"], help="learn from these (default: %(default)s)"
    )
    parser.add_argument("--val-sources", nargs="+", default=["helen"], help="test on these (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument(
        "--start-model",
        default="heatmap_mobilenetv2_0.25_sssd_fc26",
        metavar="NAME",
        help="whose backbone all runs start from (default: %(default)s)",
    )
    parser.add_argument("--part", choices=("strategies", "tricks"), help="only these rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the faces, flipped copies counted as two")
    parser.add_argument("--data-shape", type=int, default=96, help="side of the crops in pixels")
    parser.add_argument("--minutes", type=float, default=0, help="start no new run after so many (default: no limit)")
    parser.add_argument(
        "--collect", action="store_true", help="train nothing: test and tabulate the runs that are there"
    )
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--picture", metavar="PNG", help="draw it")
    return parser.parse_args(argv)


def folder_of(args: argparse.Namespace, row: Row, seed: int) -> Path:
    if row.run_of:
        row = next(r for r in ROWS if (r.part, r.label) == (row.part, row.run_of))
    return args.out / f"{row.folder}-seed{seed}"


def epochs_of(row: Row, epochs: int) -> int:
    """Epochs of the training script: with flipped copies one of them has every face twice."""
    return max(1, epochs // 2) if "--flip-copies" in row.flags else epochs


def train(args: argparse.Namespace, row: Row, seed: int) -> None:
    folder = folder_of(args, row, seed)
    folder.mkdir(parents=True, exist_ok=True)
    flags = [
        *(f"--model={name_of(row)}", f"--train={args.train}", "--sources", *args.sources),
        *("--cache=memory", "--worker-kind=thread"),
        *(f"--data-shape={args.data_shape}", f"--epochs={epochs_of(row, args.epochs)}", f"--seed={seed}"),
        *("--lr-mode=cosine", "--warmup-epochs=.5", "--keep-checkpoints=1", *row.flags),
    ]
    start = []
    if not epochs_done(folder):
        start.append(f"--start={write_start(args, row, seed, folder / 'start.params')}")
    print(f"{row.part}, {row.label}, seed {seed}: {folder}", flush=True)
    train_with("train_heatmap.py", folder, flags, start)


def name_of(row: Row) -> str:
    return f"heatmap_mobilenetv2_0.25_{row.strategy}_fc26"


def write_start(args: argparse.Namespace, row: Row, seed: int, path: Path) -> Path:
    """Weights that a run starts from: the trained backbone of ``--start-model``, all else random."""
    mx.random.seed(seed)
    trained, net = get_model(args.start_model, pretrained=True), get_model(name_of(row), size=args.data_shape)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, args.data_shape, args.data_shape)))
    own = net.network.features._collect_params_with_prefix()
    for name, parameter in trained.network.features._collect_params_with_prefix().items():
        own[name].set_data(parameter.data())
    net.save_parameters(str(path))
    return path


class Test:
    """NME of a run's last weights."""

    def __init__(self, args: argparse.Namespace):
        samples = read_jsonl(args.val, sources=args.val_sources)
        rows = [scored_faces(sample.faces) for sample in samples]
        self.labels = [sample.faces[r] for sample, r in zip(samples, rows)]
        self.images = [load_image(sample.image_path) for sample in samples]
        self.sizes = np.concatenate([label_sizes("interocular", labels) for labels in self.labels])
        self.truth = np.concatenate([labels.landmarks for labels in self.labels])
        self.size = args.data_shape
        self.domain = describe_domain(args.val, set(args.val_sources), len(samples), len(self.truth))

    def __call__(self, row: Row, folder: Path) -> dict:
        """NME, AUC and failure rate of the run in a folder, measured once and kept there."""
        kept = folder / f"test-{row.flip}.json"
        if not kept.is_file():
            # At the size that it was trained at.
            net = get_model(name_of(row), size=self.size, decoder="dark")
            net.load_parameters(folder / "last.params")
            net.hybridize()
            five = [SCHEMES[labels.scheme].five_points(labels.landmarks) for labels in self.labels]
            points, _ = LandmarkPredictor(net, flip=row.flip, passes=1).from_points(self.images, five)
            scores = evaluate_landmarks(np.concatenate(points), self.truth, net.scheme, self.sizes)
            write_result(kept, rounded({"nme": scores.nme, "auc": scores.auc, "failure_rate": scores.failure_rate}))
        return json.loads(kept.read_text(encoding="utf-8"))


def summarise(rows: Sequence[Row], seeds: Sequence[int], measured: dict) -> list[dict]:
    """A dict a row: NME of each seed, mean, difference from the part's first row and whether it is more than chance."""
    result = []
    for row in rows:
        found = {
            seed: measured[row.label + row.part, seed]["nme"]
            for seed in seeds
            if (row.label + row.part, seed) in measured
        }
        if not found:
            continue
        entry = {"part": row.part, "label": row.label, "seeds": list(found), "nme": list(found.values())}
        entry["mean"] = float(np.mean(entry["nme"]))
        first = next((r for r in result if r["part"] == row.part), None)
        if first is not None:
            entry["difference"] = entry["mean"] - first["mean"]
            entry["beyond_spread"] = beyond_spread(first["nme"], entry["nme"])
        result.append(entry)
    return result


def describe(result: list[dict]) -> str:
    rows = [("", "NME, % of each seed", "mean", "difference")]
    for r in result:
        change = in_words(100 * r["difference"], r["beyond_spread"]) if "difference" in r else ""
        rows.append(
            (
                f"{r['part']}: {r['label']}",
                " ".join(f"{100 * v:.2f}" for v in r["nme"]),
                f"{100 * r['mean']:.2f}",
                change,
            )
        )
    return table(rows)


def plot(path: str, result: list[dict], domain: str) -> None:
    """A dot a seed, a line at the mean, the part's first row as reference."""
    parts = [part for part in ("strategies", "tricks") if any(r["part"] == part for r in result)]
    counts = [sum(r["part"] == part for r in result) for part in parts]
    drawing = new_figure(figsize=(7, 1.2 + 0.33 * sum(counts)))
    drawing.suptitle(
        f"NME over the distance of the outer eye corners, {domain}\nMobileNetV2 0.25, a dot a seed", size=9
    )
    for axes, part in zip(np.atleast_1d(drawing.subplots(len(parts), 1, height_ratios=counts)), parts):
        rows = [r for r in result if r["part"] == part]
        dots = [(r["label"], [100 * v for v in r["nme"]]) for r in rows]
        draw_rows(axes, dots, reference=100 * rows[0]["mean"])
        axes.set(xlabel="NME, %", title=part)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
