r"""The ablation of the MOS paper (Table 1) on data at hand, and what the pose loss does to the five points.

    python benchmarks/ablate_mos.py --out runs/ablation_mos --det-val facedata/det_val.jsonl \
        --pose-val facedata/lmk_val.jsonl --json benchmarks/results/ablation/mos.json --picture .../mos.png \
        -- --train facedata/det_train.jsonl --train-points facedata/lmk_train.jsonl --points-sources ytf \
           --cache bytes --worker-kind thread --data-shape 320 --batch-size 16 --optimizer adam --lr 1e-3 --wd 1e-5

What follows the ``--`` goes to train/train_mos.py as it is, the same for all rows. Each row and seed is a run of that
script: all start from the weights of one detector (--start), go over the photos --epochs times, and the learning rate
falls along a cosine, since short runs have no time for steps. Rows add up, as in the paper: the hard-shared head with
fixed weights 2:1:1:.25, + multi-task head, + uncertainty weights, + online feedback (stitching and mining), +
deformable convolution. Outside of the table, the row with online feedback without the pose loss: the paper's motive is
that the pose loss helps the points of faces that look aside. An epoch with online feedback has up to --hard-share more
views, as in the paper.

A run has --minutes at most. One that the time cuts short keeps the figures it got, is said to be cut short, and is not
compared. Runs that were made are not made again, and what was stopped goes on where it was. Rows are made seed by seed,
so that a table with fewer seeds is there early; --collect tabulates what is there.

The last weights (their moving average, with --ema-decay) are measured: average precision on --det-val; on --pose-val
the pose error of the faces found and of the labelled boxes, and the error of the five points on the labelled boxes, all
and by |yaw| (the words are those of eval_detection.py and eval_pose.py). A row is compared with the one above it. A
difference counts only where it is larger than twice its standard error over the seeds; with two seeds that is a coarse
measure, and the table says "within the spread" otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ablation import (
    add_run_arguments,
    add_start_arguments,
    add_test_arguments,
    cell,
    change,
    chosen_rows,
    cut_short_in_words,
    draw_figures,
    each_seed,
    in_words,
    measured_run,
    parse_with_passed_on,
    passed_on,
    row_trainer,
    runs_in_words,
    runs_of,
    schedule,
    summary_of,
    tabulate,
    trained_net,
    whole,
)
from common import (
    describe_photos,
    figure,
    markdown_table,
    new_figure,
    run,
    save_figure,
)
from detectors import LOW_SCORE, match_faces, read_photos
from eval_pose import Truth, on_boxes, posed_part, read_labelled

from gluonface import FaceAnalyzer
from gluonface.data import read_jsonl
from gluonface.metrics import YAW_BINS, evaluate_detections

SHARED, STITCH = "--head=shared", "--head=stitch"
FIXED, NO_FEEDBACK = "--fixed-weights", ("--stitch-below=0", "--mine-every=0")
#: Flags of train/train_mos.py that say what a run is.
OWN_FLAGS = {
    *("--model", "--head", "--deformable", "--fixed-weights", "--pose-weight", "--stitch-below", "--mine-every"),
    *("--start", "--epochs", "--seed", "--resume", "--save-prefix", "--max-minutes"),
}
#: Figures of a run that are compared: key -> words, factor, decimals.
COMPARED = {
    "ap50": ("AP@0.5, %", 100, 2),
    "mae": ("pose MAE, degrees", 1, 2),
    "nme5": ("five points, % of the face's size", 100, 2),
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    label : str
    folder : str
        Of its runs, before the seed.
    flags : tuple of str
        Of train/train_mos.py.
    paper : tuple of float
        Table 1: AP on WIDER FACE easy, medium, hard in percent, MAE on AFLW2000 in degrees; () outside of the table.
    above : str
        Label of the row that it is compared with; "" for the first.
    """

    label: str
    folder: str
    flags: tuple[str, ...]
    paper: tuple[float, ...] = ()
    above: str = ""

    @property
    def with_pose(self) -> bool:
        """Whether its nets learn the pose."""
        return "--pose-weight=0" not in self.flags

    @property
    def net_options(self) -> dict:
        """Of the model."""
        return {"head": "shared" if SHARED in self.flags else "stitch", "deformable": "--deformable" in self.flags}


FEEDBACK = "+ online feedback"
ROWS = (
    Row("baseline", "baseline", (SHARED, FIXED, *NO_FEEDBACK), (89.32, 88.45, 80.20, 6.73)),
    Row("+ multi-task head", "mth", (STITCH, FIXED, *NO_FEEDBACK), (90.11, 89.31, 81.64, 6.49), "baseline"),
    Row("+ uncertainty weights", "uml", (STITCH, *NO_FEEDBACK), (91.18, 90.26, 83.01, 6.14), "+ multi-task head"),
    Row(FEEDBACK, "feedback", (STITCH,), (92.41, 91.37, 85.24, 6.09), "+ uncertainty weights"),
    Row("+ deformable convolution", "dcn", (STITCH, "--deformable"), (92.91, 91.61, 85.72, 5.97), FEEDBACK),
    Row("online feedback, no pose loss", "nopose", (STITCH, "--pose-weight=0"), above=FEEDBACK),
)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    rows = chosen_rows(args, ROWS)
    test = Test(args)

    about = {
        "system": "mos",
        "model": args.model,
        "start": args.start,
        "epochs": args.epochs,
        "feedback": {"threshold": args.threshold, "mine_every": args.mine_every},
        "flags": passed_on(args),
        "domains": test.domains,
    }
    return tabulate(
        args,
        argv,
        rows,
        row_trainer("train_mos.py", args, flags_of),
        test,
        every_row=ROWS,
        about=about,
        paper="Liu et al. 2021, Table 1: WIDER FACE validation (several scales, flip), AFLW2000",
        table=lambda *runs: {"rows": summarise(*runs), "pose_loss": pose_loss(*runs)},
        describe=describe,
        plot=plot,
    )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] -- FLAGS"
    )
    add_run_arguments(parser)
    folders = [row.folder for row in ROWS]
    add_test_arguments(parser, folders, "the average precision", "--pose-val", "for pose and five points")
    add_start_arguments(parser, "mos_mobilenet0.25_fc26", "retinaface_mobilenet0.25_fc26")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.35,
        metavar="T",
        help="of online feedback (default: the paper's, on WIDER FACE with its many small faces, %(default)s)",
    )
    parser.add_argument(
        "--mine-every", type=int, default=1, metavar="N", help="epochs between two minings (default: %(default)s)"
    )
    return parse_with_passed_on(parser, argv, "train_mos.py", OWN_FLAGS)


def flags_of(args: argparse.Namespace, row: Row, seed: int) -> list[str]:
    """Of the training script; what the user passes on wins over the schedule, not over the row."""
    return [
        *schedule(args),
        *args.flags,
        *(f"--model={args.model}", f"--start={args.start}", f"--epochs={args.epochs}", f"--seed={seed}"),
        *(f"--stitch-below={args.threshold:g}", f"--mine-every={args.mine_every}"),
        *row.flags,
    ]


class Test:
    """Figures of a run's last weights."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.crowd = read_jsonl(args.det_val, args.images)
        self.posed = read_labelled(args.pose_val, args.images, None)
        self.truth = Truth.of(self.posed)
        self.domains = {
            "detection": describe_photos(args.det_val, self.crowd),
            "pose": describe_photos(args.pose_val, self.posed, len(self.truth.pose)),
        }

    def __call__(self, row: Row, folder: Path) -> dict:
        """Figures of the run in a folder, measured once and kept there."""

        def figures() -> dict:
            return self.figures(trained_net(folder, self.args.model, self.args.start, **row.net_options), row.with_pose)

        return measured_run(folder, self.args.size, self.domains, figures)

    def figures(self, net, with_pose: bool) -> dict:
        """All figures of a net; those of a pose that it has not learnt are None."""
        size, truth = self.args.size, self.truth
        analyzer = FaceAnalyzer(net, size=size, score_thresh=LOW_SCORE, batch_size=8)
        found = evaluate_detections(
            analyzer.stream(sample.image_path for sample in self.crowd), [sample.faces for sample in self.crowd]
        )
        analyzer = FaceAnalyzer(net, size=size, batch_size=8)
        detections = list(analyzer.stream(read_photos(self.posed)))
        matched = match_faces(self.posed, detections)
        boxes, pose = (posed_part("the net", self.posed, matched, detections, part) for part in ("boxes", "pose"))
        end_to_end = truth.figures(pose if with_pose else None, np.isfinite(boxes).all(axis=1))
        one_view = argparse.Namespace(scales=None, multi_scale=False, flip=False)
        told = on_boxes("the net", analyzer, one_view, self.posed, truth)
        points = told["points_by_yaw"]
        return {
            **{key: found[key] for key in ("ap50", "ap", "recall_at_1fppi")},
            **{key: end_to_end[key] for key in ("mae", "yaw", "pitch", "roll", "faces", "missed")},
            "mae_by_yaw": {name: end_to_end["by_yaw"][name]["mae"] if with_pose else None for name, *_ in YAW_BINS},
            "mae_on_boxes": told["mae"] if with_pose else None,
            "nme5": points["nme5"],
            "nme5_missed": points["missed"],
            "nme5_by_yaw": {name: points["by_yaw"][name]["nme5"] for name, *_ in YAW_BINS},
            "faces_by_yaw": {name: points["by_yaw"][name]["faces"] for name, *_ in YAW_BINS},
        }


# ---- the table -------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row], seeds: Sequence[int], measured: dict, epochs: int) -> list[dict]:
    """A dict a row: what each seed gave, its mean, and whether it differs from the row above by more than chance."""
    result = []
    for row in rows:
        found = runs_of(row, seeds, measured)
        if not found:
            continue
        above = next((r for r in rows if r.label == row.above), None)
        before = runs_of(above, seeds, measured) if above else {}
        keys = ("ap50", "ap", "recall_at_1fppi", "mae", "yaw", "pitch", "roll", "mae_on_boxes", "nme5", "missed")
        result.append(
            {
                "label": row.label,
                "flags": " ".join(row.flags),
                "in_table": bool(row.paper),
                "compared_with": row.above if before else "",
                **summary_of(keys, found, before, epochs),
                "paper": dict(zip(("easy", "medium", "hard", "mae"), row.paper)),
                **{
                    key: {name: [one[key][name] for one in found.values()] for name, *_ in YAW_BINS}
                    for key in ("mae_by_yaw", "nme5_by_yaw")
                },
            }
        )
    return result


def pose_loss(rows: Sequence[Row], seeds: Sequence[int], measured: dict, epochs: int) -> dict | None:
    """Error of the five points with the pose loss and without, by |yaw|; None until both rows are there and whole."""
    without = next((row for row in rows if not row.with_pose), None)
    having = next((row for row in rows if without and row.label == without.above), None)
    if having is None:
        return None
    one, other = (runs_of(row, seeds, measured) for row in (having, without))
    if not one or not other or not whole(one, epochs) or not whole(other, epochs):
        return None
    bins = {}
    for name in ("all", *(name for name, *_ in YAW_BINS)):
        given, left = (
            [found["nme5"] if name == "all" else found["nme5_by_yaw"][name] for found in each.values()]
            for each in (one, other)
        )
        faces = next(iter(one.values()))["faces_by_yaw"]
        bins[name] = {
            "faces": sum(faces.values()) if name == "all" else faces[name],
            "with": given,
            "without": left,
            **change(left, given),
        }
    return bins


def describe(result: dict) -> list[str]:
    """The result in Markdown: what was done, the table, the errors by |yaw|."""
    sizes = sorted({str(one["size"]) for runs in result["runs"].values() for one in runs.values()})
    parts = [
        f"`{result['model']}`, every row from `{result['start']}`, {runs_in_words(result)}, long side "
        f"{' and '.join(sizes)}; AP on "
        f"{result['domains']['detection']}; pose of the faces found and five points on the labelled boxes of "
        f"{result['domains']['pose']}. Differences from the row above. The paper's columns are its own figures "
        "(ShuffleNetV2, 200 epochs, WIDER FACE and AFLW2000), not comparable but in sign."
    ]
    head = ["", *(words for words, *_ in COMPARED.values()), "minutes a run"]
    rows = [[*head, "paper: AP easy / medium / hard", "paper: MAE"]]
    rows += [_cells(r) for r in result["rows"] if r["in_table"]]
    parts.append(markdown_table(rows))
    outside = [r for r in result["rows"] if not r["in_table"]]
    if outside:
        parts.append("Outside of the paper's table:")
        parts.append(markdown_table([head, *(_cells(r)[: len(head)] for r in outside)]))
    parts += cut_short_in_words(result)
    if result["pose_loss"]:
        parts.append("Error of the five points on the labelled boxes, % of the face's size, by labelled |yaw|:")
        parts.append(_pose_loss(result["pose_loss"]))
    return parts


def _cells(r: dict) -> list[str]:
    cells = [r["label"]]
    cells += [cell(r["figures"][key], factor, digits) for key, (_, factor, digits) in COMPARED.items()]
    cells.append(f"{np.mean(r['seconds']) / 60:.1f}")
    paper = r["paper"]
    if paper:
        cells += [" / ".join(f"{paper[key]:.2f}" for key in ("easy", "medium", "hard")), figure(paper["mae"], 2)]
    return cells


def _pose_loss(bins: dict) -> str:
    rows = [["\\|yaw\\|", "faces", "with pose loss", "without", "difference"]]
    for name, row in bins.items():
        words = in_words(100 * row["difference"], row["beyond_spread"]) if "difference" in row else "-"
        rows.append([name, str(row["faces"]), each_seed(row["with"], 100, 2), each_seed(row["without"], 100, 2), words])
    return markdown_table(rows)


# ---- the picture -----------------------------------------------------------------------------------------------------


def plot(path: str, result: dict) -> None:
    """AP, MAE and five-point error of each row; below, where both are there, the points with and without pose loss."""
    rows, bins = result["rows"], result["pose_loss"]
    drawing = new_figure(figsize=(12.5, 1.4 + 0.4 * len(rows) + (2.8 if bins else 0)))
    upper, lower = drawing.subfigures(2, 1, height_ratios=(1 + 0.4 * len(rows), 2.8)) if bins else (drawing, None)
    draw_figures(upper, rows, COMPARED)
    drawing.suptitle(
        f"{result['model']}, {result['epochs']} epochs, a dot a seed, a stroke their mean\nAP: "
        f"{result['domains']['detection']}; pose, points: {result['domains']['pose']}",
        size=9,
    )
    if bins:
        axes = lower.subplots()
        names = [name for name, row in bins.items() if row["faces"] and "difference" in row]
        for shift, key, words in ((-0.12, "with", "with pose loss"), (0.12, "without", "without")):
            for x, name in enumerate(names):
                values = [100 * value for value in bins[name][key]]
                colour = "C0" if key == "with" else "C3"
                axes.plot([x + shift] * len(values), values, "o", color=colour, alpha=0.7, label="" if x else words)
                axes.plot([x + shift - 0.1, x + shift + 0.1], [np.mean(values)] * 2, color=colour, lw=2)
        axes.set_xticks(range(len(names)), [f"{name}\n{bins[name]['faces']} faces" for name in names])
        axes.set(xlabel="labelled |yaw|, degrees", ylabel="five points,\n% of the face's size")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
