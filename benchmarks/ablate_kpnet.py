r"""The ablations of the KPNet paper (Tables 1, 2, 3 and 6) on data at hand.

    python benchmarks/ablate_kpnet.py --out runs/ablation_kpnet --det-val facedata/det_val.jsonl \
        --points-val facedata/lmk_val.jsonl --json benchmarks/results/ablation/kpnet.json --picture .../kpnet.png \
        -- --train facedata/det_train.jsonl --train-points facedata/lmk_train.jsonl --cache bytes --worker-kind thread \
           --data-shape 256 --batch-size 16 --optimizer adam --lr 1e-3 --wd 1e-5

What follows the ``--`` goes to train/train_kpnet.py as it is, the same for all rows. Each run of that script starts
from random weights, as in the paper, goes over the photos --epochs times, and the learning rate falls along a cosine.
Runs: the paper's net (soft-argmax), points by argmax and by regression (Table 2), one level of anchors and tags on the
same backbone (Table 6), and the paper's net on the other backbone. Rows that need no run of their own measure that of a
backbone with the scale proposals as boxes, and points looked for in the labelled boxes in the place of proposals
(Table 3), also by argmax and by regression.

A run has --minutes at most. One that the time cuts short keeps the figures it got, is said to be cut short, and is not
compared. Runs that were made are not made again, and what was stopped goes on where it was. Rows are made seed by seed,
so that a table with fewer seeds is there early; --collect tabulates what is there.

The last weights (their moving average, with --ema-decay) are measured: average precision and recall at one false
positive a photo on --det-val, and there the recall of the 100 best proposals, suppressed at the paper's IoU of .6 and
without a threshold (Table 1): scale proposals, anchors' boxes, faces grouped by tags. On --points-val the error of the
five points of the labelled faces that were found, over the size of the box (the words are those of eval_detection.py);
in labelled boxes the points of every face, each compared with its own label. Faces of all rows with KPNet's head are
scored by their proposal, so that rows do not differ in that, too.

A row is compared with the paper's net on its backbone, the other backbone with DRNet. A difference counts only where it
is larger than twice its standard error over the seeds; with two seeds that is a coarse measure, and the table says
"within the spread" otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ablation import (
    add_run_arguments,
    add_test_arguments,
    cell,
    cut_short_in_words,
    draw_figures,
    epochs_done,
    measured_once,
    parse_with_passed_on,
    passed_on,
    row_trainer,
    runs_in_words,
    runs_of,
    schedule,
    seconds_of,
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
from detectors import LOW_SCORE, most_proposals

from gluonface import FaceAnalyzer, Faces, get_model, load_image
from gluonface._compat import mx
from gluonface.analysis import postprocess
from gluonface.data import FaceLabels, FaceSample, read_jsonl
from gluonface.errors import DataError
from gluonface.geometry import letterbox
from gluonface.metrics import evaluate_detections, match_photos, recall_at_top
from gluonface.model_zoo import model_facts
from gluonface.model_zoo.keypoint_detector import faces_out
from gluonface.model_zoo.kpnet import DATASETS, RPN_ANCHORS
from gluonface.pipeline import find_in_squares
from gluonface.targets import AnchorTargets
from gluonface.training.detection import errors_in_squares

#: Flags of train/train_kpnet.py that say what a run is; all start from random weights.
OWN_FLAGS = {
    *("--model", "--head", "--reader", "--start", "--num-points", "--beta"),
    *("--epochs", "--seed", "--resume", "--save-prefix", "--max-minutes"),
}
#: Figures of a run that are compared: key -> words, factor, decimals.
COMPARED = {
    "ap50": ("AP@0.5, %", 100, 2),
    "recall_at_1fppi": ("recall at 1 false positive a photo, %", 100, 2),
    "recall_top100": ("recall of 100 proposals, %", 100, 2),
    "nme5": ("five points, % of the face's size", 100, 2),
}
#: The paper's figures: key -> words.
PAPER = {
    "top100": "paper: 100 proposals, FDDB",
    "at50": "paper: 50 false positives, FDDB",
    "at1": "paper: 1",
    "nme": "paper: AFLW",
}
#: Proposals of a photo that count (Table 1).
TOP = 100
#: How faces of rows with KPNet's head are scored: all by their proposal. The facts of the models differ in it, and the
#: mean of eq. 8 is another thing for each reader; regression has no peaks to take it of.
SCORING = "proposal"
#: How the points of rows in labelled boxes are compared. Results without this word count those faces alone that
#: suppression leaves and whose boxes overlap a labelled one.
BY_LABEL = "by label"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    label, name : str
    head, reader : str
        See `gluonface.model_zoo.kpnet.kpnet`.
    backbone : str
    boxes : {"points", "proposals", "labelled"}
        From the points, the scale proposals alone, or from the points in labelled boxes.
    run : str
        Name of the row whose run is measured; "" for its own.
    against : str
        Label of the row that it is compared with; "" for the first.
    paper : dict of str to float
        Some of `PAPER`, in percent: recall of 100 proposals (Table 1), at 50 (Tables 2, 3, 6) and 1 false positives in
        all of FDDB (Table 3), error on AFLW (Tables 4, 6).
    """

    label: str
    name: str
    head: str = "keypoints"
    reader: str = "soft"
    backbone: str = "drnet"
    boxes: str = "points"
    run: str = ""
    against: str = ""
    paper: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Of its runs, before the seed."""
        return self.run or self.name

    @property
    def flags(self) -> tuple[str, str]:
        """Of train/train_kpnet.py."""
        return f"--head={self.head}", f"--reader={self.reader}"


SOFT, HOURGLASS, LABELLED = "soft-argmax", "hourglass: soft-argmax", "in labelled boxes"
ROWS = (
    Row(SOFT, "soft", paper={"top100": 96.6, "at50": 91.6, "at1": 81.1, "nme": 1.87}),
    Row("argmax", "argmax", reader="argmax", against=SOFT, paper={"at50": 88.98}),
    Row("regression", "regression", reader="regression", against=SOFT, paper={"at50": 90.86}),
    Row("anchors", "anchors", head="anchors", against=SOFT, paper={"at50": 75.82, "nme": 2.12}),
    Row("tags", "tags", head="tags", against=SOFT, paper={"at50": 46.96, "nme": 2.12}),
    Row(
        "scale proposals alone",
        "proposals",
        boxes="proposals",
        run="soft",
        against=SOFT,
        paper={"top100": 96.6, "at50": 90.7, "at1": 47.3},
    ),
    Row(LABELLED, "gt", boxes="labelled", run="soft", against=SOFT, paper={"at50": 96.6, "at1": 96.6}),
    Row("argmax: in labelled boxes", "argmax-gt", reader="argmax", boxes="labelled", run="argmax", against=LABELLED),
    Row(
        "regression: in labelled boxes",
        "regression-gt",
        reader="regression",
        boxes="labelled",
        run="regression",
        against=LABELLED,
    ),
    Row(
        HOURGLASS,
        "hourglass",
        backbone="hourglass",
        against=SOFT,
        paper={"top100": 96.7, "at50": 92.61, "at1": 80.9, "nme": 1.45},
    ),
    Row(
        "hourglass: scale proposals alone",
        "hourglass-proposals",
        backbone="hourglass",
        boxes="proposals",
        run="hourglass",
        against=HOURGLASS,
        paper={"top100": 96.7, "at50": 91.64, "at1": 12.52},
    ),
    Row(
        "hourglass: in labelled boxes",
        "hourglass-gt",
        backbone="hourglass",
        boxes="labelled",
        run="hourglass",
        against=HOURGLASS,
        paper={"at50": 96.72, "at1": 96.72},
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    rows = [row for row in ROWS if not args.rows or row.name in args.rows]
    test = Test(args)

    about = {
        "system": "kpnet",
        "dataset": args.dataset,
        "epochs": args.epochs,
        "size": args.size,
        "flags": passed_on(args),
        "domains": test.domains,
    }
    return tabulate(
        args,
        argv,
        rows,
        row_trainer("train_kpnet.py", args, flags_of),
        test,
        every_row=ROWS,
        about=about,
        paper="Song et al. 2020, Tables 1, 2, 3, 4 and 6: FDDB, AFLW",
        table=lambda *runs: {"scoring": SCORING, "rows": summarise(*runs)},
        describe=describe,
        plot=plot,
    )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] -- FLAGS"
    )
    add_run_arguments(parser)
    names = [row.name for row in ROWS]
    add_test_arguments(parser, names, "average precision and recall", "--points-val", "for the five points")
    parser.add_argument(
        "--dataset",
        choices=[name for name, points in DATASETS.items() if points == 5],
        default="fc26",
        help="of the models, kpnet_BACKBONE_DATASET (default: %(default)s)",
    )
    return parse_with_passed_on(parser, argv, "train_kpnet.py", OWN_FLAGS)


def model_of(args: argparse.Namespace, row: Row) -> str:
    """Name of a row's model."""
    return f"kpnet_{row.backbone}_{args.dataset}"


def flags_of(args: argparse.Namespace, row: Row, seed: int) -> list[str]:
    """Of the training script; what the user passes on wins over the schedule, not over the row."""
    return [
        *schedule(args),
        *args.flags,
        *(f"--model={model_of(args, row)}", f"--epochs={args.epochs}", f"--seed={seed}"),
        *row.flags,
    ]


# ---- what is measured ------------------------------------------------------------------------------------------------


class Test:
    """Figures of a run's last weights."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.crowd = read_jsonl(args.det_val, args.images)
        self.pointed = [sample for sample in read_jsonl(args.points_val, args.images) if _with_points(sample)]
        if not self.pointed:
            raise DataError(f"{args.points_val}: no face has five points set by people")
        self.domains = {
            "detection": describe_photos(args.det_val, self.crowd),
            "points": describe_photos(args.points_val, self.pointed, sum(map(_with_points, self.pointed))),
        }

    def __call__(self, row: Row, folder: Path) -> dict:
        """Figures of a row, from the run in a folder, measured once and kept there."""
        about = {"epochs": epochs_done(folder), "size": self.args.size, "domains": self.domains}
        if row.head == "keypoints" and model_facts(model_of(self.args, row)).scoring != SCORING:
            # What was kept before scoring was told was scored as the facts say: good where they say the same.
            about["scoring"] = SCORING
        if row.boxes == "labelled":
            about["points"] = BY_LABEL
        figures = lambda: {"seconds": seconds_of(folder), **self.figures(row, folder / "last.params")}  # noqa: E731
        return measured_once(folder / f"test-{row.name}.json", about, figures)

    def figures(self, row: Row, weights: Path) -> dict:
        """All figures of a row; where labelled boxes stand in the place of proposals, those have no recall."""
        net = self.net(row, weights, "proposals" if row.boxes == "proposals" else "points")
        crowd = self.found(row, net, self.crowd)
        if row.boxes == "labelled":
            pointed = errors_in_labelled(net, self.pointed, self.args.size)
        else:
            pointed = self.found(row, net, self.pointed)
        recall = None
        if row.boxes != "labelled":
            # Table 1 counts the scale proposals; of other heads, whatever they propose.
            other = self.net(row, weights, "proposals")
            proposed = most_proposals(other, TOP, self.args.size).stream(sample.image_path for sample in self.crowd)
            recall = recall_at_top(match_photos(proposed, [sample.faces for sample in self.crowd]), TOP)
        return {
            **{key: crowd[key] for key in ("ap50", "ap")},
            # In labelled boxes all faces have the score of their square, 1: there is no threshold to choose.
            "recall_at_1fppi": None if row.boxes == "labelled" else crowd["recall_at_1fppi"],
            "recall_top100": recall,
            **{key: pointed[key] for key in ("nme5", "nme5_faces", "nme5_missed")},
        }

    def net(self, row: Row, weights: Path, boxes: str):
        """A row's net with the weights of a run."""
        options = {"head": row.head, "reader": row.reader, "boxes": boxes, "scoring": SCORING}
        net = get_model(model_of(self.args, row), **options)
        net.load_parameters(str(weights))
        net.hybridize()
        return net

    def found(self, row: Row, net, samples: Sequence[FaceSample]) -> dict:
        """What `evaluate_detections` says of a net's faces."""
        if row.boxes == "labelled":
            faces: Iterable[Faces] = (find_in_labelled(net, sample, self.args.size) for sample in samples)
        else:
            analyzer = FaceAnalyzer(net, size=self.args.size, score_thresh=LOW_SCORE, batch_size=8)
            faces = analyzer.stream(sample.image_path for sample in samples)
        return evaluate_detections(faces, [sample.faces for sample in samples])


def _with_points(sample: FaceSample) -> int:
    """How many faces have points set by people."""
    return int(_counted(sample.faces).sum())


def _counted(faces: FaceLabels) -> np.ndarray:
    """Which labelled faces (M,) have points set by people."""
    known = np.isfinite(faces.landmarks5).all(axis=2).any(axis=1)
    return faces.landmarks5_human & ~faces.ignore & known


def _counted_points(faces: FaceLabels) -> np.ndarray:
    """Points (M, 5, 2) of labelled faces, NaN for those that do not count."""
    return np.where(_counted(faces)[:, None, None], faces.landmarks5, np.nan)


def find_in_labelled(net, sample: FaceSample, size: int) -> Faces:
    """Faces of a `KeypointDetector` with squares about the labelled boxes in the place of proposals (Table 3)."""
    image = load_image(sample.image_path)
    placed = letterbox(image.shape[:2], (size, size))
    boxes = sample.faces.boxes[~sample.faces.ignore]
    points, found, scores = find_in_squares(net, image, placed, boxes)
    outputs = faces_out(mx.nd, points, found, scores, net.num_points, net.nms_thresh, -1)
    return postprocess([output.asnumpy() for output in outputs], [placed])[0]


def errors_in_labelled(net, samples: Sequence[FaceSample], size: int) -> dict:
    """``nme5``, ``nme5_faces`` and ``nme5_missed`` of the points found in squares about the labelled boxes: of every
    face with points set by people, whatever box the points give, each compared with its own label.
    """
    errors = errors_in_squares(net, samples, size, _counted_points)
    return {"nme5": float(np.mean(errors)), "nme5_faces": len(errors), "nme5_missed": 0}


# ---- the table -------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row], seeds: Sequence[int], measured: dict, epochs: int) -> list[dict]:
    """A dict a row: what each seed gave, its mean, and whether it differs from another row by more than chance."""
    result = []
    for row in rows:
        found = runs_of(row, seeds, measured)
        if not found:
            continue
        other = next((r for r in rows if r.label == row.against), None)
        before = runs_of(other, seeds, measured) if other else {}
        result.append(
            {
                "label": row.label,
                "name": row.name,
                "flags": " ".join(row.flags),
                "backbone": row.backbone,
                "boxes": row.boxes,
                **({"points": BY_LABEL} if all(one.get("points") == BY_LABEL for one in found.values()) else {}),
                "run_of": row.run,
                "compared_with": row.against if before else "",
                **summary_of((*COMPARED, "ap", "nme5_missed"), found, before, epochs),
                "paper": row.paper,
            }
        )
    return result


def describe(result: dict) -> list[str]:
    """The result in Markdown: what was done, and the table."""
    parts = [
        f"`kpnet_drnet_{result['dataset']}`, in rows that say so `kpnet_hourglass_{result['dataset']}`, from random "
        f"weights, {runs_in_words(result)}, long side {result['size']}; AP and recall on "
        f"{result['domains']['detection']}; five points of the faces found of {result['domains']['points']}. "
        "Differences from the soft-argmax on the same backbone, of the hourglass itself from DRNet. The paper's "
        "columns are its own figures in percent (150,000 updates; recall at so many false positives in all of FDDB, "
        "error on AFLW), not comparable but in sign."
    ]
    parts += _about_rows(result)
    head = ["", *(words for words, *_ in COMPARED.values()), "faces missed there", "minutes a run", *PAPER.values()]
    parts.append(markdown_table([head, *map(_cells, result["rows"])]))
    return parts + cut_short_in_words(result)


def _about_rows(result: dict) -> list[str]:
    """What the rows that are there make up a paragraph about: scores, and what some of them are not alike in."""
    # Results from before it was told were made with the scoring that all are made with now.
    words = [f"Faces of KPNet's head are scored by their {result.get('scoring', SCORING)}."]
    labelled = [r for r in result["rows"] if r["boxes"] == "labelled"]
    if any(r.get("points") == BY_LABEL for r in labelled):
        words.append("In labelled boxes the points of every face are compared with its own label, and none is missed.")
    old = [f'"{r["label"]}"' for r in labelled if r.get("points") != BY_LABEL]
    if old:
        words.append(
            f"The five points of {', '.join(old)} are those of the faces alone that suppression left and whose boxes "
            "overlapped the labelled ones: not comparable with those of other rows."
        )
    if any("--head=anchors" in r["flags"] for r in result["rows"]):
        smallest = min(min(level) for level in RPN_ANCHORS.sizes)
        # A square overlaps a larger one by the ratio of their areas.
        least = smallest * AnchorTargets.low_quality_iou**0.5
        words.append(
            f"The smallest anchors have sides of {smallest:.1f} pixels: faces under {least:.0f} pixels of a training "
            "crop have no target in that row, which the others learn from."
        )
    return [" ".join(words)]


def _cells(r: dict) -> list[str]:
    cells = [r["label"]]
    cells += [cell(r["figures"][key], factor, digits) for key, (_, factor, digits) in COMPARED.items()]
    cells.append(f"{r['figures']['nme5_missed']['mean']:.1f}")
    cells.append("-" if r["run_of"] else f"{np.mean(r['seconds']) / 60:.1f}")
    return cells + [figure(r["paper"].get(key), 2) for key in PAPER]


# ---- the picture -----------------------------------------------------------------------------------------------------


def plot(path: str, result: dict) -> None:
    """The compared figures of each row."""
    rows = result["rows"]
    drawing = new_figure(figsize=(15, 1.6 + 0.4 * len(rows)))
    draw_figures(drawing, rows, COMPARED)
    drawing.suptitle(
        f"KPNet, {runs_in_words(result)}, a dot a seed, a stroke their mean\nAP, recall: "
        f"{result['domains']['detection']}; points: {result['domains']['points']}",
        size=9,
    )
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
