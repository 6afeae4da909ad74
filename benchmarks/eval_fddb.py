"""The official FDDB evaluation of a model or of detections: recall at a number of false positives, both ROC curves.

    python benchmarks/eval_fddb.py --model NAME --images originalPics --annotations FDDB-folds
    python benchmarks/eval_fddb.py --detections found.txt --images originalPics --annotations FDDB-folds --plot roc.png
    python benchmarks/eval_fddb.py --model NAME --images originalPics --annotations FDDB-folds --rotate 90
    python benchmarks/eval_fddb.py --model NAME ... --photos profile.txt --iou .7 .8 --shape ellipse

Detections are in FDDB's own form (a file, or a folder with one for each fold; rectangles or ellipses) or the JSON lines
of ``gluonface detect --score 0.02 --json``. Scoring takes some seconds; detecting on the 2,845 photos (long side 450)
some minutes on one core. --save-detections writes what the official program reads.

The recall is the share of the 5,171 faces found at the lowest score with at most so many false positives in the whole
set: discrete, faces overlapped by more than --iou; continuous, the sum of the overlaps. Boxes are compared with the
annotated ellipses, so that even the best rectangle overlaps by .84 (gluonface.metrics.fddb): --shape ellipse takes the
ellipses in the boxes, --truth box the rectangles round the annotated ellipses. The JSON says which.

MaskFace (section 4.1) counts the faces, too, that the authors of S3FD labelled besides. They are no part of the
official set and are not read here, where they are false positives: its figures cannot be set beside these.

Profile faces (KPNet's PFDDB): the photos with a face turned by more than 30 degrees; the list is not published. Give
one with --photos, a name a line, with or without .jpg.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import figure, looked_at, new_figure, provenance, rounded, run, save_figure, write_result
from detectors import (
    add_detector_arguments,
    add_view_arguments,
    build_analyzer,
    check_arguments,
    detect,
    read_detections,
    read_photos,
)
from eval_detection import settings, turn
from eval_widerface import progress

from gluonface.data import FaceSample, ellipses_of, read_fddb
from gluonface.data.fddb import FOLDS, boxes_of_ellipses, move_ellipses
from gluonface.errors import DataError
from gluonface.metrics import (
    FddbRoc,
    Regions,
    fddb_roc,
    match_fddb,
    read_fddb_detections,
    summarize_fddb,
    write_fddb_detections,
)
from gluonface.metrics.fddb import FALSE_POSITIVES, ellipses_in_boxes
from gluonface.metrics.fddb_files import fddb_name


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    samples = read_fddb(args.images, args.annotations, args.folds, args.partial)
    if args.photos:
        samples = only_listed(samples, args.photos)
    names = [fddb_name(sample.name) for sample in samples]
    turns = [turn(sample.size_hw, args.rotate) for sample in samples]
    truth, sizes_hw = [], []
    for sample, plan in zip(samples, turns):
        ellipses = ellipses_of(sample.faces)
        ellipses = ellipses if plan is None else move_ellipses(plan, ellipses)
        truth.append(ellipses if args.truth == "ellipse" else boxes_of_ellipses(ellipses))
        sizes_hw.append(sample.size_hw if plan is None else plan.size_hw)

    if args.detections:
        detections, name = read_any(args, samples, names)
    else:
        analyzer, name = build_analyzer(args, boxes_alone=True)
        found = detect(analyzer, read_photos(samples, turns), args)
        detections = [Regions.of(faces, args.shape) for faces in progress(found, len(samples))]
    if args.save_detections:
        write_fddb_detections(args.save_detections, names, detections)

    matches = [match_fddb(*photo) for photo in zip(detections, truth, sizes_hw)]
    curves = {thresh: fddb_roc(matches, thresh) for thresh in args.iou}
    photos, faces = len(samples), sum(map(len, truth))
    result = rounded(
        {
            "model": name,
            **settings(args),
            "shape": shape_of(detections),
            "truth": args.truth,
            "data": "fddb",
            "domain": domain(args, photos, faces),
            "photos": photos,
            "faces": faces,
            "detections": sum(map(len, detections)),
            "by_iou": {f"{thresh:g}": summarize_fddb(curve) for thresh, curve in curves.items()},
            **provenance(argv),
        }
    )
    print(describe(result))
    if args.plot:
        plot(args.plot, result, curves)
    if args.json:
        write_result(args.json, result)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_detector_arguments(parser)
    add_view_arguments(parser, several_long_sides=True)
    parser.add_argument("--detections", metavar="FILE|DIR", help="score these detections instead of a model's")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the photos, originalPics")
    parser.add_argument("--annotations", required=True, metavar="DIR", help="folder of the lists, FDDB-folds")
    parser.add_argument("--folds", type=int, nargs="+", choices=FOLDS, default=FOLDS, help="of 1 to 10 (default: all)")
    parser.add_argument("--photos", metavar="FILE", help="only the photos of this list, for example the profile faces")
    parser.add_argument("--partial", action="store_true", help="leave out photos that are missing")
    parser.add_argument("--rotate", type=float, default=0.0, metavar="DEG", help="turn photos and ellipses, clockwise")
    parser.add_argument(
        "--iou", type=float, nargs="+", default=[0.5], metavar="T", help="overlaps that count (default: .5)"
    )
    parser.add_argument(
        "--shape", choices=("rectangle", "ellipse"), default="rectangle", help="what a model's boxes stand for"
    )
    parser.add_argument(
        "--truth", choices=("ellipse", "box"), default="ellipse", help="what detections are compared with"
    )
    parser.add_argument("--save-detections", metavar="FILE", help="write the detections in FDDB's form")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--plot", metavar="PNG", help="draw the ROC curves")
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    has_model = bool(args.model or args.insightface)
    if bool(args.detections) == has_model:
        parser.error("give either --detections or a model (--model or --insightface)")
    if args.detections and args.rotate:
        parser.error("--detections are scored as they are: no --rotate")
    if not all(0 <= thresh < 1 for thresh in args.iou):
        parser.error("--iou takes numbers of 0 to 1")
    return args


def only_listed(samples: list[FaceSample], path: str) -> list[FaceSample]:
    """The photos that a list names, in the order of the set."""
    try:
        wanted = {fddb_name(line.strip()) for line in Path(path).read_text(encoding="utf-8").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    unknown = wanted - {fddb_name(sample.name) for sample in samples}
    if unknown or not wanted:
        raise DataError(
            f"{path}: expected names like {fddb_name(samples[0].name)}, a line each, of photos of these folds; "
            f"{f'{min(unknown)} is none' if unknown else 'the list is empty'}"
        )
    return [sample for sample in samples if fddb_name(sample.name) in wanted]


def read_any(args: argparse.Namespace, samples: list[FaceSample], names: list[str]) -> tuple[list[Regions], str]:
    """Detections in either form, and what to call them."""
    path = Path(args.detections)
    if path.is_file() and path.read_bytes().lstrip()[:1] == b"{":
        found, name = read_detections(args.detections, samples)
        return [Regions.of(faces, args.shape) for faces in found], name
    found = read_fddb_detections(path, names)
    if args.shape == "ellipse":
        found = [Regions(to_ellipses(one.regions), one.scores) for one in found]
    return found, path.stem


def to_ellipses(regions: np.ndarray) -> np.ndarray:
    return regions if regions.shape[1] == 5 else ellipses_in_boxes(regions)


def shape_of(detections: list[Regions]) -> str:
    return "ellipse" if any(len(one) and one.regions.shape[1] == 5 for one in detections) else "rectangle"


def domain(args: argparse.Namespace, photos: int, faces: int) -> str:
    words = f"FDDB ({photos} photos, {faces} faces"
    words += f", listed in {Path(args.photos).name}" if args.photos else ""
    words += f", folds {' '.join(map(str, args.folds))}" if tuple(args.folds) != FOLDS else ""
    return words + ")" + (f", turned by {args.rotate:g} degrees" if args.rotate else "")


def describe(result: dict) -> str:
    """The result as text."""
    lines = [f"{result['model']}, {looked_at(result)}, {result['shape']}s against {result['truth']}s", result["domain"]]
    for thresh, row in result["by_iou"].items():
        lines.append(f"\noverlap of more than {thresh}: recall {figure(row['recall'], 4)} with all detections, ")
        lines[-1] += f"{row['false_positives']} of them false"
        for n in FALSE_POSITIVES:
            rates = figure(row[f"recall_at_{n}fp"], 4), figure(row[f"continuous_at_{n}fp"], 4)
            lines.append(f"  {n:>4} false positives: discrete {rates[0]}   continuous {rates[1]}")
    return "\n".join(lines)


def plot(path: str, result: dict, curves: dict[float, FddbRoc]) -> None:
    drawing = new_figure(figsize=(6, 4.5))
    axes = drawing.subplots()
    for thresh, curve in curves.items():
        axes.plot(curve.false_positives, curve.discrete, label=f"discrete, overlap > {thresh:g}")
    first = next(iter(curves.values()))
    axes.plot(first.false_positives, first.continuous, "--", label="continuous")
    axes.set(xlim=(0, FALSE_POSITIVES[-1]), ylim=(0, 1), xlabel="false positives", ylabel="true positive rate")
    axes.set_title(f"{result['model']}, {looked_at(result)}\n{result['domain']}", size=9)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
