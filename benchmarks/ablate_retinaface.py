r"""The ablation of the RetinaFace paper (Table 1) on data at hand, and what points and meshes do to false positives.

    python benchmarks/ablate_retinaface.py --out runs/ablation_retinaface --det-val facedata/det_val.jsonl \
        --points-val facedata/lmk_val.jsonl --mesh facedata/mesh468.npz \
        --json benchmarks/results/ablation/retinaface.json --picture .../retinaface.png \
        -- --train facedata/det_train.jsonl --train-points facedata/lmk_train.jsonl --points-sources ytf \
           --cache bytes --worker-kind thread --data-shape 256 --batch-size 16 --optimizer adam --lr 1e-3 --wd 1e-5

What follows the ``--`` goes to train/train_retinaface.py as it is, the same for all rows, but --mesh-weight and
--val-mesh, which go to those with a mesh, and --positive-iou and --negative-iou, of the first of two heads, which go to
those with a cascade. Each row and seed is a run of that script: all start from the backbone of one detector (--start),
go over the photos --epochs times, and the learning rate falls along a cosine, since short runs have no time for steps.
Rows as in the paper: class and box alone, + deformable convolution, + cascade; on top of these five points, the
vertices of a mesh, vertices and the lengths of edges, and all at once. A task that a row leaves out has no weight;
photos of --train-points teach such a row nothing, but are in its batches, so that all rows are updated as often.
Deformable convolution is slow on processors: --no-deformable leaves it out of the rows below its own, and the cascade
is then compared with the baseline.

A run has --minutes at most. One that the time cuts short keeps the figures it got, is said to be cut short, and is not
compared. Runs that were made are not made again, and what was stopped goes on where it was. Rows are made seed by seed,
so that a table with fewer seeds is there early; --collect tabulates what is there.

The last weights (their moving average, with --ema-decay) are measured: average precision on --det-val, and there the
scores of the false positives (Figure 6), of a cascade's first or second head or the mean (--scoring); on --points-val,
of the labelled faces that were found, the error of the five points, and that of the vertices, in space and of their
depth from the tip of the nose, over the size of the box (the words are those of eval_detection.py and eval_mesh.py).
False positives are what average precision takes for such at an IoU of .5; the highest ones count, one a photo on
average, so that a net that gives more boxes of low score looks no better for it. The table says with which row each is
compared; with everything learnt, the error of the five points is compared with that of points alone, and those of
vertices with the mesh alone, since the row that it is compared with otherwise has none of them: the cell says so. A
difference counts only where it is larger than twice its standard error over the seeds; with two seeds that is a coarse
measure, and the table says "within the spread" otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from detectors import LOW_SCORE, match_faces, spread

from gluonface import FaceAnalyzer, Faces
from gluonface.data import FaceSample, read_jsonl
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.errors import DataError
from gluonface.mesh import load_topology, topology_468
from gluonface.metrics import MeshScores, evaluate_detections, evaluate_mesh, match_photos
from gluonface.metrics.scoring import PhotoMatch, summarize
from gluonface.model_zoo import model_facts
from gluonface.model_zoo.retinaface_mesh import SCORINGS

#: Flags of train/train_retinaface.py that say what a run is.
OWN_FLAGS = {
    *("--model", "--start", "--start-insightface", "--deformable", "--no-cascade", "--landmark-weight"),
    *("--mesh", "--topology", "--edge-weight", "--epochs", "--seed", "--resume", "--save-prefix", "--max-minutes"),
}
#: Flags of it that go to some rows alone.
TAKERS = {
    **dict.fromkeys(("--mesh-weight", "--val-mesh"), lambda row: bool(row.mesh)),
    **dict.fromkeys(("--positive-iou", "--negative-iou"), lambda row: row.cascade),
}
#: Figures of a run that are compared: key -> words, factor, decimals.
COMPARED = {
    "ap50": ("AP@0.5, %", 100, 2),
    "ap": ("AP .5:.95, %", 100, 2),
    "nme5": ("five points, % of the face's size", 100, 2),
    "mesh": ("vertices, % of the face's size", 100, 2),
    "depth": ("their depth alone, %", 100, 2),
    "false_positives": ("mean score of the highest false positives", 1, 3),
}
#: What is said of the scores of the highest false positives: words -> quantile, None for the mean.
SCORES = {"mean": None, "median": 0.5, "90 % quantile": 0.9, "highest": 1.0}
#: Parts of a mesh's loss (equations 1 and 2).
NO_MESH, VERTICES, EDGES = "", "vertices", "vertices and edges"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    label : str
    folder : str
        Of its runs, before the seed.
    paper : tuple of float
        Table 1: AP on WIDER FACE easy, medium, hard, and average AP, in percent.
    above : str
        Label of the row that it is compared with; "" for the first.
    above_for : mapping of str to str
        The same of figures that the row above has not learnt: key of `COMPARED` -> label.
    deformable, cascade : bool
        See `gluonface.model_zoo.retinaface_mesh.retinaface_mesh`.
    points : bool
        Whether its nets learn the five points.
    mesh : {"", "vertices", "vertices and edges"}
        What of a mesh they learn.
    """

    label: str
    folder: str
    paper: tuple[float, float, float, float]
    above: str = ""
    above_for: Mapping[str, str] = field(default_factory=dict)
    deformable: bool = True
    cascade: bool = True
    points: bool = False
    mesh: str = NO_MESH

    @property
    def flags(self) -> tuple[str, ...]:
        """Of train/train_retinaface.py, without files."""
        return (
            f"--deformable={'yes' if self.deformable else 'no'}",
            *([] if self.cascade else ["--no-cascade"]),
            f"--landmark-weight={self.points:d}",
            *([f"--edge-weight={self.mesh == EDGES:d}"] if self.mesh else []),
        )

    @property
    def net_options(self) -> dict[str, bool]:
        """Of the model."""
        return {"deformable": self.deformable, "cascade": self.cascade, "mesh": bool(self.mesh)}


BASELINE, DEFORMABLE, CASCADE = "baseline", "+ DCN", "+ cascade"
POINTS, ONLY_VERTICES, MESH, ALL = "five points", "vertices", "mesh: vertices, edges", "five points, mesh"
ROWS = (
    Row(BASELINE, "baseline", (95.832, 95.243, 89.875, 52.65), deformable=False, cascade=False),
    Row(DEFORMABLE, "dcn", (96.149, 95.568, 90.286, 53.36), BASELINE, cascade=False),
    Row(CASCADE, "cascade", (96.233, 95.679, 90.642, 54.20), DEFORMABLE),
    Row(POINTS, "points", (96.570, 95.913, 91.161, 54.73), CASCADE, points=True),
    Row(ONLY_VERTICES, "vertices", (96.512, 95.805, 90.983, 54.55), CASCADE, mesh=VERTICES),
    Row(MESH, "mesh", (96.528, 95.829, 90.991, 54.62), ONLY_VERTICES, mesh=EDGES),
    Row(
        ALL,
        "all",
        (96.713, 96.082, 91.447, 55.02),
        CASCADE,
        {"nme5": POINTS, "mesh": MESH, "depth": MESH},
        points=True,
        mesh=EDGES,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    every_row = rows_of(args)
    test = Test(args)
    about = {
        "system": "retinaface",
        "model": args.model,
        "start": args.start,
        "deformable": not args.no_deformable,
        "scoring": scoring_of(args),
        "epochs": args.epochs,
        "size": args.size,
        "flags": passed_on(args),
        "domains": test.domains,
    }
    return tabulate(
        args,
        argv,
        chosen_rows(args, every_row),
        row_trainer("train_retinaface.py", args, flags_of),
        test,
        every_row=every_row,
        about=about,
        paper="Deng et al. 2020, Table 1: WIDER FACE validation (several scales, flip); average AP: hard test subset",
        table=lambda *runs: {"rows": summarise(*runs), "false_positives": false_positives(*runs)},
        describe=describe,
        plot=plot,
    )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] -- FLAGS"
    )
    add_run_arguments(parser)
    folders = [row.folder for row in ROWS]
    add_test_arguments(parser, folders, "average precision", "--points-val", "for five points and meshes")
    add_start_arguments(parser, "retinaface_mobilenet0.25_mesh468_fc26", "retinaface_mobilenet0.25_mask")
    parser.add_argument("--mesh", metavar="NPZ", help="meshes of the faces learnt and measured, for rows that have one")
    parser.add_argument("--topology", metavar="NPZ", help="what their vertices are (default: the 468 of the package)")
    parser.add_argument("--no-deformable", action="store_true", help=f'rows below "{DEFORMABLE}" go without it')
    parser.add_argument(
        "--scoring", choices=SCORINGS, help="whose scores those of a cascade's faces are (default: as the model has it)"
    )
    args = parse_with_passed_on(parser, argv, "train_retinaface.py", OWN_FLAGS)
    if not model_facts(args.model).variant:
        parser.error(f"--model: {args.model} has no mesh; those that have are called retinaface_<backbone>_mesh<V>_...")
    learning = [row.folder for row in chosen_rows(args, ROWS) if row.mesh]
    if learning and not args.mesh:
        parser.error(f"give the meshes of the rows {', '.join(learning)} with --mesh, or leave these out with --rows")
    refuse_flags_of_no_row(parser, args, ROWS, TAKERS)
    return args


def scoring_of(args: argparse.Namespace) -> str:
    """Which head's scores count where there are two."""
    return args.scoring or model_facts(args.model).scoring


def rows_of(args: argparse.Namespace) -> tuple[Row, ...]:
    """The rows, below the second with deformable convolution or without."""
    if not args.no_deformable:
        return ROWS
    plain = (
        dataclasses.replace(row, deformable=False, above=BASELINE if row.above == DEFORMABLE else row.above)
        for row in ROWS[2:]
    )
    return *ROWS[:2], *plain


def flags_of(args: argparse.Namespace, row: Row, seed: int) -> list[str]:
    """Of the training script; what the user passes on wins over the schedule, not over the row."""
    return [
        *schedule(args),
        *flags_for(row, args.flags, TAKERS),
        *(f"--model={args.model}", f"--start={args.start}", f"--epochs={args.epochs}", f"--seed={seed}"),
        *row.flags,
        *([f"--mesh={args.mesh}"] if row.mesh else []),
        *([f"--topology={args.topology}"] if row.mesh and args.topology else []),
    ]


# ---- what is measured ------------------------------------------------------------------------------------------------


class Test:
    """Figures of a run's last weights."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.crowd = read_jsonl(args.det_val, args.images)
        self.topology = load_topology(args.topology) if args.topology else topology_468()
        meshes = {"meshes": args.mesh, "topology": self.topology} if args.mesh else {}
        self.pointed = FaceJsonLines(args.points_val, args.images, **meshes).samples
        if args.mesh and all(sample.faces.mesh is None for sample in self.pointed):
            raise DataError(f"{args.points_val}: expected faces with meshes, rows of {args.mesh}, got none")
        self.domains = {
            "detection": describe_photos(args.det_val, self.crowd),
            "points": describe_photos(args.points_val, self.pointed),
        }

    def __call__(self, row: Row, folder: Path) -> dict:
        """Figures of the run in a folder, measured once and kept there."""
        scoring = scoring_of(self.args)

        def figures() -> dict:
            options = row.net_options | ({"scoring": scoring} if row.cascade else {})
            return self.figures(trained_net(folder, self.args.model, self.args.start, **options), row)

        return measured_run(folder, self.args.size, self.domains, figures, f"test_{scoring}" if row.cascade else "test")

    def figures(self, net, row: Row) -> dict:
        """All figures of a net; of what it has not learnt they are None."""
        analyzer = FaceAnalyzer(net, size=self.args.size, score_thresh=LOW_SCORE, batch_size=8)
        boxes = analyzer.stream(sample.image_path for sample in self.crowd)
        matches = match_photos(boxes, [sample.faces for sample in self.crowd])
        crowd, highest = summarize(matches), highest_false_positives(matches)
        found = list(analyzer.stream(sample.image_path for sample in self.pointed))
        five = evaluate_detections(found, [sample.faces for sample in self.pointed])
        scores = mesh_scores(self.pointed, found, self.topology.nose_tip) if row.mesh else None
        return {
            **{key: crowd[key] for key in ("ap50", "ap", "recall_at_1fppi")},
            "nme5": five["nme5"] if row.points else None,
            "mesh": scores and scores.xyz,
            "depth": scores and scores.z,
            "missed": five["nme5_missed"],
            "false_positives": float(np.mean(highest)),
            "false_positive_scores": highest.tolist(),
        }


def highest_false_positives(matches: Sequence[PhotoMatch]) -> np.ndarray:
    """The highest scores of false positives at an IoU of .5, as many (n,) as photos, best first; what has not been
    looked at, for its low score, counts as 0.
    """
    scores = np.concatenate([match.scores[match.face_of[0] == -1] for match in matches])
    highest = np.sort(scores)[::-1][: len(matches)]
    return np.pad(highest.astype(float), (0, len(matches) - len(highest)))


def mesh_scores(samples: list[FaceSample], detections: list[Faces], nose_tip: int) -> MeshScores:
    """Errors of the vertices of labelled faces with a mesh, of which there is at least one."""
    pairs = [(s, one) for s, one in zip(samples, match_faces(samples, detections)) if s.faces.mesh is not None]
    meshed, found = map(list, zip(*pairs))
    labels = [sample.faces for sample in meshed]
    truth, sizes, ignore = (np.concatenate([getattr(f, k) for f in labels]) for k in ("mesh", "face_sizes", "ignore"))
    known = ~ignore & np.isfinite(truth).all(axis=(1, 2))
    predicted = spread(meshed, found, "mesh", truth.shape[1:])
    return evaluate_mesh(predicted[known], truth[known], sizes[known], nose_tip)


# ---- the table -------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row], seeds: Sequence[int], measured: dict, epochs: int) -> list[dict]:
    """A dict a row: what each seed gave, its mean, and whether it differs from another row by more than chance."""
    result = []
    for row in rows:
        found = runs_of(row, seeds, measured)
        other = next((r for r in rows if r.label == row.above), None)
        before = runs_of(other, seeds, measured) if other else {}
        before_for = {
            key: (r.label, runs_of(r, seeds, measured))
            for key, label in row.above_for.items()
            for r in rows
            if r.label == label
        }
        result.append(
            {
                "label": row.label,
                "name": row.folder,
                "flags": " ".join(row.flags),
                "compared_with": row.above if before else "",
                **summary_of((*COMPARED, "recall_at_1fppi", "missed"), found, before, epochs, before_for),
                "paper": dict(zip(("easy", "medium", "hard", "average"), row.paper)),
            }
        )
    return result


def false_positives(rows: Sequence[Row], seeds: Sequence[int], measured: dict, epochs: int) -> dict | None:
    """Scores of the highest false positives with points and mesh, and without; None until both rows are whole."""
    both = [next((row for row in rows if row.label == label), None) for label in (CASCADE, ALL)]
    if None in both:
        return None
    found = [runs_of(row, seeds, measured) for row in both]
    if not all(each and whole(each, epochs) for each in found):
        return None
    without, given = ([one["false_positive_scores"] for one in each.values()] for each in found)
    figures = {}
    for words, quantile in SCORES.items():
        first, second = (
            [float(np.mean(scores) if quantile is None else np.quantile(scores, quantile)) for scores in each]
            for each in (without, given)
        )
        figures[words] = {"without": first, "with": second, **change(first, second)}
    return {"count": len(without[0]), "figures": figures, "scores": {"without": without, "with": given}}


def describe(result: dict) -> list[str]:
    """The result in Markdown: what was done, the table, the false positives."""
    scores = "the mean of both heads'" if result["scoring"] == "mean" else f"those of the {result['scoring']} head"
    plain = "" if result["deformable"] else f' Rows below "{DEFORMABLE}" without deformable convolution.'
    parts = [
        f"`{result['model']}`, every row from the backbone of `{result['start']}`, {runs_in_words(result)}, long side "
        f"{result['size']}; AP and false positives on {result['domains']['detection']}; points and vertices of the "
        f"faces found of {result['domains']['points']}.{plain} Where there is a cascade, scores are {scores}. The "
        "paper's columns are its own figures (ResNet-50, 80 epochs, WIDER FACE), not comparable but in sign."
    ]
    head = ["", "compared with", *(words for words, *_ in COMPARED.values()), "faces missed", "minutes a run"]
    head += ["paper: AP easy / medium / hard", "paper: average AP"]
    parts.append(markdown_table([head, *map(_cells, result["rows"])]))
    parts += cut_short_in_words(result)
    if result["false_positives"]:
        parts += _false_positives(result["false_positives"])
    return parts


def _cells(r: dict) -> list[str]:
    cells = [r["label"], r["compared_with"] or "-"]
    cells += [cell(r["figures"][key], factor, digits) for key, (_, factor, digits) in COMPARED.items()]
    cells += [f"{r['figures']['missed']['mean']:.1f}", f"{np.mean(r['seconds']) / 60:.1f}"]
    paper = r["paper"]
    cells.append(" / ".join(f"{paper[key]:.2f}" for key in ("easy", "medium", "hard")))
    return [*cells, figure(paper["average"], 2)]


def _false_positives(result: dict) -> list[str]:
    rows = [["", "without points and mesh", "with both"]]
    for words, one in result["figures"].items():
        given = {**one, "values": one["with"], "mean": np.mean(one["with"])}
        rows.append([words, each_seed(one["without"], 1, 3), cell(given, 1, 3)])
    return [
        f"Scores of the {result['count']} highest false positives, one a photo, with the cascade alone and with five "
        "points and mesh (the paper's Figure 6 shows scores over .9 that fall below .3):",
        markdown_table(rows),
    ]


# ---- the picture -----------------------------------------------------------------------------------------------------


def plot(path: str, result: dict) -> None:
    """The compared figures of each row; below, where both are there, the false positives with and without the tasks."""
    rows, scores = result["rows"], result["false_positives"]
    height = 1.6 + 0.4 * len(rows)
    drawing = new_figure(figsize=(3 + 3 * len(shown_keys(rows, COMPARED)), height + (2.8 if scores else 0)))
    upper, lower = drawing.subfigures(2, 1, height_ratios=(height, 2.8)) if scores else (drawing, None)
    draw_figures(upper, rows, COMPARED)
    drawing.suptitle(
        f"{result['model']}, {runs_in_words(result)}, a dot a seed, a stroke their mean\nAP, false positives: "
        f"{result['domains']['detection']}; points, vertices: {result['domains']['points']}",
        size=9,
    )
    if scores:
        axes = lower.subplots()
        for key, words, colour in (("without", "cascade alone", "C3"), ("with", "five points and mesh", "C0")):
            for i, each in enumerate(scores["scores"][key]):
                ranks = np.arange(1, len(each) + 1)
                axes.plot(ranks, each, color=colour, alpha=0.7, label="" if i else f"{words}, a line a seed")
        axes.set(xlabel="false positives, the highest first", ylabel="score", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
