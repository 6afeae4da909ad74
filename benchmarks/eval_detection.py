"""Score a detector on annotated photos: average precision, recall, by face size, five-point error.

    python benchmarks/eval_detection.py --model retinaface_mobilenet0.25_fc26 --data facedata/det_val.jsonl --size 640
    python benchmarks/eval_detection.py --detections found.jsonl --data facedata/det_val.jsonl --json out/found.json
    python benchmarks/eval_detection.py --compare a.json b.json      # is a better? paired bootstrap over photos

``found.jsonl`` is what ``gluonface detect --score 0.02 --json`` writes, or any detector that writes the same lines.
Photos are in ``images/`` beside the data unless --images says otherwise. Some ten photos a second on one core at 640
with MobileNet 0.25.

Faces are found at an intersection over union of 0.5 (ap50) and .5:.05:.95 (ap). Detections on ignore regions are
neither right nor wrong. Sizes of faces are sqrt(width x height) in pixels of the stored photo, whatever --size is. The
five-point error is a share of that size, over the found faces whose points were set by people; where the data label one
face of each photo only (lmk_val.jsonl), --points-only leaves out the precision, which would be wrong. MaskFace,
whose points take time of their own, gives them with --points-only alone. With --rotate the
photos and their labels are turned (clockwise); the five points keep their names: the left eye of the upright face.

Other sets than JSON lines: --format says how --data is read.
  afw, pascal_faces   the toolbox's .mat file (Mathias et al., 2014); with --fit-boxes, as the toolbox does, the figures
                      are comparable with the papers': average precision at 0.5, ap50
  malf                text of the form that gluonface.data.malf states
  fddb                the folder FDDB-folds, the rectangles round its ellipses (eval_fddb.py has the set's own protocol)
--min-face 10 leaves out faces of less than 10 pixels at a long side of 640 (KPNet: 20 at 1280): ignore regions.
--top 100 adds recall_top100, the recall of the 100 best detections of each photo: final faces, suppressed, of a score
of .02 at least. KPNet's Table 1 counts proposals instead: --proposals measures those of a KPNet as ablate_kpnet.py
does, suppressed at the paper's IoU of .6, whatever their score, the best 100 of each photo unless --top says otherwise.
All figures are then those of the proposals.
--size 256,640 looks at the photos with both long sides and puts the faces together (`gluonface.tta.detect_multiscale`).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import (
    describe_photos,
    figure,
    looked_at,
    new_figure,
    provenance,
    read_result,
    rounded,
    run,
    save_figure,
    table,
    write_result,
)
from detectors import (
    add_detector_arguments,
    add_view_arguments,
    box_convention,
    build_analyzer,
    build_proposer,
    check_arguments,
    detect,
    read_detections,
    read_photos,
    scales,
    view,
)

from gluonface.data import FaceSample, read_afw, read_fddb, read_jsonl, read_malf, read_pascal_faces
from gluonface.data.base import FaceLabels
from gluonface.data.transforms.affine import Affine
from gluonface.data.transforms.ops import QuarterTurn
from gluonface.errors import DataError
from gluonface.geometry import rotation_matrix_about
from gluonface.metrics import (
    Comparison,
    PhotoMatch,
    RankedDetections,
    fit_boxes,
    match_photos,
    paired_bootstrap,
    precision_recall,
    recall_at_top,
    summarize,
)
from gluonface.metrics.scoring import SIZE_BINS

#: Proposals of a photo that count, where --top says nothing else (KPNet, Table 1).
MOST_PROPOSALS = 100
#: Long side in pixels of the photo that --min-face speaks of.
SMALL_AT = 640
#: --format -> reader of photos and annotations.
READERS = {"afw": read_afw, "fddb": read_fddb, "malf": read_malf, "pascal_faces": read_pascal_faces}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.data is None:
        a, b = args.compare
        print(describe_comparison(Path(a).stem, Path(b).stem, compare(read_result(a), read_result(b), args)))
        return 0

    samples = read_samples(args)
    turns = [turn(sample.size_hw, args.rotate) for sample in samples]
    labels = [sample.faces if plan is None else plan.labels(sample.faces) for sample, plan in zip(samples, turns)]
    if args.min_face:
        labels = [without_small(one, sample.size_hw, args.min_face) for one, sample in zip(labels, samples)]
    if args.detections:
        detections, name = read_detections(args.detections, samples)
    else:
        # Points that take a net time of their own are looked for where it is points that are measured.
        boxes_alone = not args.points_only
        analyzer, name = build_proposer(args) if args.proposals else build_analyzer(args, boxes_alone=boxes_alone)
        detections = detect(analyzer, read_photos(samples, turns), args)

    detections, fitted = list(detections), {}
    if args.fit_boxes:
        fit = fit_boxes(detections, labels)
        fitted = {"fitted_boxes": dataclasses.asdict(fit)}
        detections = [faces.with_(boxes=fit(faces.boxes)) for faces in detections]
    matches = match_photos(detections, labels)
    if not args.points_only and all(faces.landmarks5 is None for faces in detections):
        # Boxes alone say nothing of points: none is missed.
        matches = [dataclasses.replace(one, has_points=np.zeros_like(one.has_points)) for one in matches]
    result = rounded(
        {
            "model": name,
            **settings(args),
            **({"min_face": args.min_face} if args.min_face else {}),
            "data": Path(args.data).stem,
            "domain": domain(args, samples, labels),
            **fitted,
            **figures(matches, args.points_only),
            **({f"recall_top{args.top}": recall_at_top(matches, args.top)} if args.top else {}),
            **provenance(argv),
        }
    )
    if not args.points_only:
        result["per_photo"] = RankedDetections.of([sample.name for sample in samples], matches).to_dict()
    print(describe(result))
    if args.plot:
        plot(args.plot, result, *precision_recall(matches))
    if args.compare:
        other = read_result(args.compare[0])
        comparison = compare(result, other, args)
        print("\n" + describe_comparison("this", Path(args.compare[0]).stem, comparison))
        names = {"with": Path(args.compare[0]).name, "model": other["model"]}
        result["comparison"] = {**names, **rounded(comparison.to_dict())}
    if args.json:
        write_result(args.json, result)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_detector_arguments(parser)
    add_view_arguments(parser, several_long_sides=True)
    parser.add_argument("--detections", metavar="FILE", help="score these detections (JSON lines) instead of a model's")
    parser.add_argument("--data", metavar="JSONL", help="annotated photos; with --format that set's annotations")
    parser.add_argument("--format", choices=("jsonl", *READERS), default="jsonl", help="see above (default: jsonl)")
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: images/ beside the data)")
    parser.add_argument("--sources", nargs="+", metavar="NAME", help="only photos of these sources of the data")
    parser.add_argument("--rotate", type=float, default=0.0, metavar="DEG", help="turn photos and labels, clockwise")
    parser.add_argument(
        "--points-only", action="store_true", help="only the five points: the data label one face of each photo"
    )
    parser.add_argument("--top", type=int, metavar="N", help="recall of the N best detections of a photo, too")
    parser.add_argument("--proposals", action="store_true", help="of a KPNet the proposals in the place of faces")
    parser.add_argument(
        "--fit-boxes", action="store_true", help="one shift and stretch for all boxes, fitted to these labels, first"
    )
    parser.add_argument(
        "--min-face",
        type=float,
        default=0.0,
        metavar="PX",
        help="leave out faces smaller than this, in pixels of the photo at a long side of 640 (default: none)",
    )
    parser.add_argument("--domain", metavar="TEXT", help="what the photos are, in words, to stand beside the figures")
    parser.add_argument("--json", metavar="OUT", help="write the result, with what comparing it takes")
    parser.add_argument("--plot", metavar="PNG", help="draw the precision-recall curve")
    parser.add_argument("--compare", nargs="+", metavar="JSON", help="two results, or one to compare this run with")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="of the bootstrap (default: 10000)")
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    args.nothing_to_run = not (args.model or args.insightface or args.detections)
    if args.data is None and args.nothing_to_run:
        if len(args.compare or ()) != 2:
            parser.error("give --data and a detector (--model, --insightface or --detections), or --compare A B")
        return args
    if args.data is None or args.nothing_to_run:
        parser.error("--data and one of --model, --insightface and --detections belong together")
    if args.detections and (args.model or args.insightface or args.rotate):
        parser.error("--detections are scored as they are: no --model, --insightface or --rotate")
    if args.points_only and (args.compare or args.plot):
        parser.error("--points-only gives no precision to --compare or --plot")
    if args.points_only and (args.top or args.fit_boxes):
        parser.error("--points-only counts no boxes: no --top or --fit-boxes")
    if args.top is not None and args.top < 1:
        parser.error("--top is at least 1")
    if args.proposals:
        if args.boxes == "points" or not args.model or args.insightface or args.points_only or box_convention(args):
            parser.error(
                "--proposals are the boxes of a KPNet's scale map: they go with --model, not with --insightface, "
                "--points-only, --boxes points, --box-style or --box-mapping"
            )
        if not isinstance(args.size, int) or scales(args) or args.flip or args.nms is not None:
            parser.error("--proposals go with one long side (--size 256), not with several scales, --flip or --nms")
        args.top = args.top or MOST_PROPOSALS
    if args.format != "jsonl" and (args.sources or not args.images):
        parser.error(f"--format {args.format} needs --images, and has no --sources")
    if args.compare and len(args.compare) != 1:
        parser.error("--compare takes one result beside a run")
    return args


def read_samples(args: argparse.Namespace) -> list[FaceSample]:
    """The annotated photos that the flags ask for."""
    if args.format == "jsonl":
        return read_jsonl(args.data, args.images, args.sources)
    return READERS[args.format](args.images, args.data)


def figures(matches: list[PhotoMatch], points_only: bool) -> dict:
    """The figures of the result."""
    every = summarize(matches)
    return {k: v for k, v in every.items() if not points_only or k in ("photos", "faces") or k.startswith("nme5")}


def settings(args: argparse.Namespace) -> dict:
    """How the photos were looked at, as keys of the result."""
    degrees = int(args.rotate) if args.rotate.is_integer() else args.rotate
    if args.detections:
        return {"size": None, "flip": False, "rotate": 0}
    # eval_fddb.py has no such switch.
    proposals = {"proposals": True} if getattr(args, "proposals", False) else {}
    return {**view(args), "rotate": degrees, **proposals, **box_convention(args)}


def domain(args: argparse.Namespace, samples: list[FaceSample], labels: list) -> str:
    faces = int(sum((~one.ignore).sum() for one in labels))
    words = args.domain or describe_photos(args.data, samples, faces)
    if args.min_face:
        words += f", faces of at least {args.min_face:g} pixels at a long side of 640"
    return words + (f", turned by {args.rotate:g} degrees" if args.rotate else "")


def without_small(labels: FaceLabels, size_hw: tuple[int, int], least: float) -> FaceLabels:
    """Labels in which faces smaller than so many pixels, were the photo's long side 640, are ignore regions."""
    return labels.with_(ignore=labels.ignore | (labels.face_sizes * SMALL_AT / max(size_hw) < least))


def turn(size_hw: tuple[int, int], degrees: float) -> Affine | None:
    """Where pixels go when a photo is turned clockwise; the canvas grows until the whole photo is on it."""
    if degrees % 360 == 0:
        return None
    if degrees % 90 == 0:
        return QuarterTurn.plan_for(size_hw, int(degrees // 90))
    height, width = size_hw
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    canvas_hw = math.ceil(width * sin + height * cos), math.ceil(width * cos + height * sin)
    matrix = rotation_matrix_about((width / 2, height / 2), degrees)
    matrix[:, 2] += (canvas_hw[1] - width) / 2, (canvas_hw[0] - height) / 2
    return Affine(matrix, canvas_hw)


def compare(a: dict, b: dict, args: argparse.Namespace) -> Comparison:
    for result in (a, b):
        if not {"model", "per_photo"} <= set(result):
            raise DataError(f"the result of {result.get('model')} has no per_photo: it is not one of --json")
    return paired_bootstrap(*(RankedDetections.from_dict(r["per_photo"]) for r in (a, b)), resamples=args.resamples)


def describe_comparison(a: str, b: str, comparison: Comparison) -> str:
    c = comparison
    if c.low > 0 or c.high < 0:
        verdict = f"{a if c.difference > 0 else b} is better"
    else:
        verdict = "no difference is shown"
    return (
        f"ap50 of {a}: {c.ap50_a:.4f}\nap50 of {b}: {c.ap50_b:.4f}\n"
        f"difference {c.difference:+.4f}, 95 % interval {c.low:+.4f} to {c.high:+.4f}, p = {c.p_value:.4f}: {verdict}\n"
        f"(paired bootstrap over {c.photos} photos, {c.resamples} resamples)"
    )


def describe(result: dict) -> str:
    """The result as text."""
    parts = [f"{result['model']}, {looked_at(result)}\n{result['domain']}"]
    if "ap50" in result:
        parts.append(
            f"ap50 {figure(result['ap50'])}   ap {figure(result['ap'])}   recall at one false alarm a photo "
            f"{figure(result['recall_at_1fppi'])} (score {figure(result['score_at_1fppi'])})"
        )
    parts += [f"{key}: {figure(value)}" for key, value in result.items() if key.startswith("recall_top")]
    if result["nme5_faces"] + result["nme5_missed"]:
        parts.append(
            f"five points: error {figure(result['nme5'], 4)} of the face's size over {result['nme5_faces']} faces, "
            f"{result['nme5_missed']} not found"
        )
    if "by_size" in result:
        rows = [("face size, stored pixels", "faces", "ap50", "recall", "at 1 false alarm")]
        for name, *_ in SIZE_BINS:
            row = result["by_size"][name]
            rows.append((name, str(row["faces"]), *(figure(row[k]) for k in ("ap50", "recall", "recall_at_1fppi"))))
        parts.append(table(rows))
    return "\n\n".join(parts)


def plot(path: str, result: dict, thresholds: np.ndarray, recall: np.ndarray, precision: np.ndarray) -> None:
    drawing = new_figure(figsize=(6, 4.5))
    axes = drawing.subplots()
    axes.plot(recall, precision)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision (IoU 0.5)")
    axes.set_title(f"{result['model']}, {looked_at(result)}: ap50 {figure(result['ap50'])}\n{result['domain']}", size=9)
    at = np.flatnonzero(thresholds >= (result["score_at_1fppi"] or np.inf) - 1e-5)  # it was rounded
    if len(at):
        axes.plot(recall[at[-1]], precision[at[-1]], "o", label="one false alarm a photo")
        axes.legend(loc="lower left")
    axes.grid(alpha=0.3)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
