r"""The ablations of the MaskFace paper (sections 3.1, 3.2 and 4.4, Table 6) on data at hand.

    python benchmarks/ablate_maskface.py --out runs/ablation_maskface --det-val facedata/det_val.jsonl \
        --points-val facedata/lmk_val.jsonl --json benchmarks/results/ablation/maskface.json --picture maskface.png \
        -- --train facedata/det_train.jsonl --train-points facedata/lmk_train.jsonl --points-sources ytf \
           --cache bytes --worker-kind thread --data-shape 256 --batch-size 16

What follows the ``--`` goes to train/train_maskface.py as it is, the same for all rows, but --max-proposals and
--val-points, which go to those with a keypoint head; unless it says otherwise, boxes and points are learnt at once
(--phase both). Each row and seed is a run of that script: all start from the weights of one detector (--start), go over
the photos --epochs times, and the learning rate falls along a cosine, since short runs have no time for standstills. A
row is the paper's net but for one thing: the level k0 that points of a face of 224 pixels are looked for in (section
4.4), no context modules, no keypoint head (Table 6), another weight of the points' loss (section 3.1), no low-quality
matches (section 3.2).

A run has --minutes at most. One that the time cuts short keeps the figures it got, is said to be cut short, and is not
compared. Runs that were made are not made again, and what was stopped goes on where it was. Rows are made seed by seed,
so that a table with fewer seeds is there early; --collect tabulates what is there.

The last weights (their moving average, with --ema-decay) are measured: average precision and recall at one false
positive a photo on --det-val; on --points-val the error of the dense landmarks of the labelled faces that were found,
over the distance of the outer eye corners, and of the five points, over the size of the box (the words are those of
eval_detection.py and eval_landmarks.py). What scores less than .1 is not found there: after a short training a photo
has hundreds of such boxes, and each costs a pass of the keypoint head. Rows find different faces, and one that misses
the hard ones may have the smaller error; so the AUC of the dense landmarks is compared, too, in which a missed face is
a failure. A row is compared with the paper's net. A difference counts only where it is larger than twice its standard
error over the seeds; with two seeds that is a coarse measure, and the table says "within the spread" otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ablation import (
    add_run_arguments,
    add_start_arguments,
    add_test_arguments,
    cell,
    chosen_rows,
    cut_short_in_words,
    draw_figures,
    flags_for,
    measured_run,
    parse_with_passed_on,
    passed_on,
    refuse_flags_of_no_row,
    row_trainer,
    runs_in_words,
    runs_of,
    schedule,
    shown_keys,
    summary_of,
    tabulate,
)
from common import (
    describe_photos,
    figure,
    markdown_table,
    new_figure,
    run,
    save_figure,
)
from detectors import LOW_SCORE

from gluonface import FaceAnalyzer
from gluonface.data import read_jsonl
from gluonface.metrics import evaluate_detections
from gluonface.model_zoo import model_facts
from gluonface.model_zoo.maskface import maskface
from gluonface.training.detection import BoxesAlone, landmark_figures, with_landmarks

#: Flags of train/train_maskface.py that say what a run is.
OWN_FLAGS = {
    *("--model", "--start", "--facts-of", "--channels", "--k0", "--roi-scale", "--lambda-kp"),
    *(f"--{no}{name}" for name in ("context", "keypoints", "low-quality") for no in ("", "no-")),
    *("--epochs", "--seed", "--resume", "--save-prefix", "--max-minutes"),
}
#: Faces whose points are measured have this score at least.
POINTS_SCORE = 0.1
#: Flags of it that go to some rows alone.
TAKERS = dict.fromkeys(("--max-proposals", "--val-points"), lambda row: row.options.get("keypoints", True))
#: Figures of a run that are compared: key -> words, factor, decimals.
COMPARED = {
    "ap50": ("AP@0.5, %", 100, 2),
    "recall_at_1fppi": ("recall at 1 false positive a photo, %", 100, 2),
    "nme": ("dense landmarks, % of the eye distance", 100, 2),
    "auc": ("dense landmarks: AUC over all faces, %", 100, 2),
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
        Of train/train_maskface.py, beside the defaults.
    options : dict
        Of :func:`gluonface.model_zoo.maskface.maskface`, the same in its words.
    paper : float or None
        Section 4.4: error of 19 points on AFLW in percent of the face's size.
    """

    label: str
    folder: str
    flags: tuple[str, ...] = ()
    options: dict = field(default_factory=dict)
    paper: float | None = None


WHOLE = "MaskFace: k0 3, lambda .25"
ROWS = (
    Row(WHOLE, "maskface", paper=1.54),
    Row("k0 2", "k0-2", ("--k0=2",), {"k0": 2}),
    Row("k0 4", "k0-4", ("--k0=4",), {"k0": 4}, paper=1.57),
    Row("k0 5", "k0-5", ("--k0=5",), {"k0": 5}, paper=1.64),
    Row("no context modules", "nocontext", ("--no-context",), {"context": False}),
    Row("no keypoint head", "nokeypoints", ("--no-keypoints",), {"keypoints": False}),
    Row("lambda .05", "lambda-.05", ("--lambda-kp=.05",)),
    Row("lambda 1", "lambda-1", ("--lambda-kp=1",)),
    Row("no low-quality matches", "nolowquality", ("--no-low-quality",)),
)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    rows = chosen_rows(args, ROWS)
    test = Test(args)

    about = {
        "system": "maskface",
        "model": args.model,
        "channels": args.channels,
        "roi_scale": args.roi_scale,
        "start": args.start,
        "epochs": args.epochs,
        "size": args.size,
        "points_score": POINTS_SCORE,
        "flags": passed_on(args),
        "domains": test.domains,
    }
    return tabulate(
        args,
        argv,
        rows,
        row_trainer("train_maskface.py", args, flags_of),
        test,
        every_row=ROWS,
        about=about,
        paper="Yashunin et al. 2020, section 4.4: AFLW, 19 points",
        table=lambda *runs: {"rows": summarise(*runs)},
        describe=describe,
        plot=plot,
    )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] -- FLAGS"
    )
    add_run_arguments(parser)
    folders = [row.folder for row in ROWS]
    add_test_arguments(parser, folders, "average precision and recall", "--points-val", "with dense landmarks")
    add_start_arguments(parser, "maskface_mobilenet0.25_fc26", "retinaface_mobilenet0.25_mask")
    parser.add_argument("--channels", type=int, metavar="C", help="of pyramid and heads (default: the model's)")
    parser.add_argument(
        "--roi-scale", type=float, default=1.0, metavar="X", help="margin about boxes (default: 1, the paper: none)"
    )
    args = parse_with_passed_on(parser, argv, "train_maskface.py", OWN_FLAGS)
    refuse_flags_of_no_row(parser, args, ROWS, TAKERS)
    return args


def flags_of(args: argparse.Namespace, row: Row, seed: int) -> list[str]:
    """Of the training script; what the user passes on wins over the schedule, not over the row."""
    return [
        "--phase=both",
        *schedule(args),
        *flags_for(row, args.flags, TAKERS),
        *(f"--model={args.model}", f"--start={args.start}", f"--epochs={args.epochs}", f"--seed={seed}"),
        *([f"--channels={args.channels}"] if args.channels else []),
        *([f"--roi-scale={args.roi_scale:g}"] if row.options.get("keypoints", True) else []),
        *row.flags,
    ]


# ---- what is measured ------------------------------------------------------------------------------------------------


class Test:
    """Figures of a run's last weights."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.crowd = read_jsonl(args.det_val, args.images)
        self.pointed = read_jsonl(args.points_val, args.images)
        self.dense = with_landmarks(self.pointed)
        self.domains = {
            "detection": describe_photos(args.det_val, self.crowd),
            "points": describe_photos(args.points_val, self.dense),
        }

    def __call__(self, row: Row, folder: Path) -> dict:
        """Figures of the run in a folder, measured once and kept there."""
        weights = folder / "last.params"
        return measured_run(
            *(folder, self.args.size, self.domains, lambda: self.figures(self.net(row, weights))),
            points_score=POINTS_SCORE,
        )

    def net(self, row: Row, weights: Path):
        """A row's net with the weights of a run."""
        net = maskface(
            model_facts(self.args.model), channels=self.args.channels, roi_scale=self.args.roi_scale, **row.options
        )
        net.load_parameters(str(weights))
        start = model_facts(self.args.start)  # mean and std are those that the run started from
        net.facts = dataclasses.replace(net.facts, mean=start.mean, std=start.std)
        net.hybridize()
        return net

    def figures(self, net) -> dict:
        """All figures of a net; of points that it does not give they are None."""
        options = {"size": self.args.size, "batch_size": 8}
        boxes = FaceAnalyzer(BoxesAlone(net), score_thresh=LOW_SCORE, **options).stream(
            sample.image_path for sample in self.crowd
        )
        crowd = evaluate_detections(boxes, [sample.faces for sample in self.crowd])
        paths = [sample.image_path for sample in self.pointed]
        found = dict(zip(paths, FaceAnalyzer(net, score_thresh=POINTS_SCORE, **options).stream(paths)))
        five = evaluate_detections(found.values(), [sample.faces for sample in self.pointed])
        dense = landmark_figures(self.dense, [found[sample.image_path] for sample in self.dense], "interocular")
        has_dense = str(net.num_points) == self.dense[0].faces.scheme
        return {
            **{key: crowd[key] for key in ("ap50", "ap", "recall_at_1fppi")},
            **{key: dense[key] if has_dense else None for key in ("nme", "auc")},
            "nme5": five["nme5"],
            "missed": dense["missed"] if has_dense else five["nme5_missed"] if net.num_points else None,
        }


# ---- the table -------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row], seeds: Sequence[int], measured: dict, epochs: int) -> list[dict]:
    """A dict a row: what each seed gave, its mean, and whether it differs from the paper's net by more than chance."""
    result = []
    whole = next((row for row in rows if row.label == WHOLE), None)
    for row in rows:
        found = runs_of(row, seeds, measured)
        if not found:
            continue
        before = runs_of(whole, seeds, measured) if whole and row is not whole else {}
        result.append(
            {
                "label": row.label,
                "name": row.folder,
                "flags": " ".join(row.flags),
                "compared_with": WHOLE if before else "",
                **summary_of((*COMPARED, "ap", "missed"), found, before, epochs),
                "paper": row.paper,
            }
        )
    return result


def describe(result: dict) -> list[str]:
    """The result in Markdown: what was done, and the table."""
    channels = f" of {result['channels']} channels" if result["channels"] else ""
    margin = f", points in boxes times {result['roi_scale']:g}" if result["roi_scale"] != 1 else ""
    parts = [
        f"`{result['model']}`{channels}{margin}, every row from `{result['start']}`, {runs_in_words(result)}, "
        f"long side {result['size']}; AP and recall on {result['domains']['detection']}; errors of points over the "
        f"faces that a row finds (score {result['points_score']:g} and above), AUC over all, of "
        f"{result['domains']['points']}. Differences from the first row. The paper's column is its own figure "
        "(ResNet-50, 19 points on AFLW, of the face's size), comparable in sign alone."
    ]
    head = ["", *(words for words, *_ in COMPARED.values()), "faces missed there", "minutes a run", "paper: AFLW"]
    parts.append(markdown_table([head, *map(_cells, result["rows"])]))
    return parts + cut_short_in_words(result)


def _cells(r: dict) -> list[str]:
    cells = [r["label"]]
    cells += [cell(r["figures"][key], factor, digits) for key, (_, factor, digits) in COMPARED.items()]
    missed = r["figures"]["missed"]["mean"]
    cells.append("-" if missed is None else f"{missed:.1f}")
    return [*cells, f"{np.mean(r['seconds']) / 60:.1f}", figure(r["paper"], 2)]


# ---- the picture -----------------------------------------------------------------------------------------------------


def plot(path: str, result: dict) -> None:
    """The compared figures of each row, those that some row has."""
    rows = result["rows"]
    drawing = new_figure(figsize=(3 + 3 * len(shown_keys(rows, COMPARED)), 1.6 + 0.4 * len(rows)))
    draw_figures(drawing, rows, COMPARED)
    drawing.suptitle(
        f"{result['model']}, {runs_in_words(result)}, a dot a seed, a stroke their mean\nAP, recall: "
        f"{result['domains']['detection']}; points: {result['domains']['points']}",
        size=9,
    )
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
