r"""What other detectors make of a detector's false positives of high score (RetinaFace, Figure 6 b), and the other way.

    python benchmarks/rescore_false_positives.py --baseline retinaface_mobilenet0.25_fc26 \
        --model retinaface_mobilenet0.25_mesh468_fc26 --data facedata/det_val.jsonl --size 640 \
        --json out/rescored.json --picture out/rescored.png
    python benchmarks/rescore_false_positives.py --baseline NAME=runs/points/last.params \
        --model NAME=runs/all/last.params --data facedata/det_val.jsonl      # two trainings of one net
    python benchmarks/rescore_false_positives.py --baseline NAME=runs/cascade-seed1/last.params,mesh=no ...

The paper shows false positives of its baseline with scores over .9 to which the net that learns points and meshes gives
less than .3. Here every false positive of --baseline above --above is looked up among the detections of each --model:
the highest score from .02 on of those that overlap it by an IoU of .5 at least, 0 where there is none. Then the other
way: the model's own false positives, scored by the baseline. A net whose scores are all lower would look good in
that: the same is done with the boxes of faces found, where scores should not fall.

A false positive is what takes no labelled face at an IoU of .5, best score first, and does not lie on an ignore region,
as in eval_detection.py. Some are faces all the same: badly placed or second boxes, counted as "on a face" where they
overlap a labelled one by an IoU of .1, and faces that nobody labelled: --picture shows what they are. Where another
net's box was suppressed by a better one beside it, it gives 0, too. Two nets of MobileNet 0.25 take a minute or
two for 100 photos at 640 on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import figure, looked_at, provenance, rounded, run, table, write_result, zoomed
from detectors import (
    DETECTOR_OPTIONS,
    LEAST_IOU,
    LOW_SCORE,
    add_view_arguments,
    add_weights_arguments,
    build_analyzer,
    check_arguments,
    detect,
    read_photos,
)
from eval_detection import READERS, domain, read_samples, settings, turn, without_small

from gluonface import Faces
from gluonface.data import FaceSample
from gluonface.data.base import FaceLabels
from gluonface.data.transforms.affine import Affine
from gluonface.geometry import box_iou
from gluonface.image import save_image
from gluonface.metrics import match_photos
from gluonface.viz import contact_sheet, draw_faces

# A detector on the command line.
_MODEL = "NAME[=FILE[,OPTION=VALUE...]]"
FALSE_POSITIVES, FACES = "false positives", "faces found"
#: A false positive that overlaps a labelled face so far is that face badly placed, or found twice.
ON_FACE = 0.1
_MOST_DRAWN, _COLUMNS = 24, 6
# Side of a crop in the picture, in pixels; the box's longer side takes half of it, so that the surroundings are seen.
_TILE = 240


@dataclass(frozen=True)
class Boxes:
    """Some detections of all photos, highest score first.

    Attributes
    ----------
    photo : ndarray of int (n,)
        Row of the data.
    boxes : ndarray (n, 4)
        xyxy in pixels of the photo.
    scores : ndarray (n,)
    face_iou : ndarray (n,)
        With the labelled face that a box overlaps most; 0 where it touches none.
    """

    photo: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    face_iou: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Boxes:
        """Those of a higher score."""
        kept = self.scores > score
        return Boxes(self.photo[kept], self.boxes[kept], self.scores[kept], self.face_iou[kept])


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    samples = read_samples(args)
    turns = [turn(sample.size_hw, args.rotate) for sample in samples]
    labels = [sample.faces if plan is None else plan.labels(sample.faces) for sample, plan in zip(samples, turns)]
    if args.min_face:
        labels = [without_small(one, sample.size_hw, args.min_face) for one, sample in zip(labels, samples)]

    detections, models = {}, [args.baseline, *args.model]
    for model, name in zip(models, names_of(models)):
        flags = flags_of(args, model)
        analyzer, _ = build_analyzer(flags, boxes_alone=True)
        detections[name] = list(detect(analyzer, read_photos(samples, turns), flags))
    baseline, *others = detections
    sorted_out = {name: sort_out(found, labels) for name, found in detections.items()}
    pairs = [pair for other in others for pair in ((baseline, other), (other, baseline))]
    result = rounded(
        {
            "baseline": baseline,
            "models": others,
            **settings(flags_of(args, args.baseline)),
            **({"min_face": args.min_face} if args.min_face else {}),
            "above": args.above,
            "below": args.below,
            "data": Path(args.data).stem,
            "domain": domain(args, samples, labels),
            "rows": [
                {"boxes": kind, "of": a, "by": b, **figures(sorted_out[a][kind], detections[b], args.above, args.below)}
                for kind in (FALSE_POSITIVES, FACES)
                for a, b in pairs
            ],
            "per_face": {
                name: one_by_one(
                    sorted_out[name][FALSE_POSITIVES].above(args.above),
                    {other: detections[other] for other in (others if name == baseline else [baseline])},
                    samples,
                )
                for name in detections
            },
            **provenance(without_folders(sys.argv[1:] if argv is None else argv)),
        }
    )
    print(describe(result))
    if args.json:
        write_result(args.json, result)
    if args.picture:
        chosen = sorted_out[baseline][FALSE_POSITIVES].above(args.above)
        if len(chosen):
            draw_sheet(args.picture, samples, turns, chosen, [detections[other] for other in others])
        else:
            print(f"\n{args.picture} is not written: there is nothing to draw")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("detectors")
    group.add_argument(
        "--baseline",
        required=True,
        metavar=_MODEL,
        help="whose false positives are looked at: a model with its shipped weights (see `gluonface models`), or with "
        "those of a file, and with options of get_model that a row of an ablation was trained with, such as cascade=no",
    )
    group.add_argument("--model", required=True, nargs="+", metavar="NAME[=FILE...]", help="which others score them")
    group.add_argument(
        "--facts-of",
        metavar="NAME",
        help="whose mean and std weights of files were trained with, such as those of the start",
    )
    group.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    add_view_arguments(parser, several_long_sides=True)
    parser.add_argument(
        "--data", required=True, metavar="JSONL", help="annotated photos; with --format that set's annotations"
    )
    parser.add_argument(
        "--format", choices=("jsonl", *READERS), default="jsonl", help="see eval_detection.py (default: jsonl)"
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: images/ beside the data)")
    parser.add_argument("--sources", nargs="+", metavar="NAME", help="only photos of these sources of the data")
    parser.add_argument("--rotate", type=float, default=0.0, metavar="DEG", help="turn photos and labels, clockwise")
    parser.add_argument(
        "--min-face",
        type=float,
        default=0.0,
        metavar="PX",
        help="faces smaller than this are ignore regions, in pixels of the photo at a long side of 640 (default: none)",
    )
    parser.add_argument("--domain", metavar="TEXT", help="what the photos are, in words, to stand beside the figures")
    parser.add_argument(
        "--above", type=float, default=0.9, metavar="S", help="look at boxes of a higher score (default: .9)"
    )
    parser.add_argument(
        "--below", type=float, default=0.3, metavar="S", help="count those that get a lower score (default: .3)"
    )
    parser.add_argument("--json", metavar="OUT", help="write the result, with each false positive")
    parser.add_argument(
        "--picture",
        metavar="PNG",
        help=f"draw the baseline's false positives, the {_MOST_DRAWN} highest, with its score and those of --model. "
        "Photos for research only make a picture for research only",
    )
    args = parser.parse_args(argv)
    models = [args.baseline, *args.model]
    for model in models:
        check_arguments(parser, flags_of(args, model))
    twice = next((model for model in models if models.count(model) > 1), None)
    if twice:
        parser.error(f"--baseline and --model: expected different detectors, got {twice} twice")
    if args.facts_of and not any("=" in model for model in models):
        parser.error("--facts-of goes with weights of a file, NAME=FILE: shipped weights bring their facts")
    if not LOW_SCORE <= args.above < 1:
        parser.error(f"--above: expected a score from {LOW_SCORE:g} on and below 1, got {args.above:g}")
    if not 0 < args.below <= 1:
        parser.error(f"--below: expected a score above 0 and up to 1, got {args.below:g}")
    if args.format != "jsonl" and (args.sources or not args.images):
        parser.error(f"--format {args.format} needs --images, and has no --sources")
    return args


def parts_of(model: str) -> tuple[str, str, dict[str, str]]:
    """Name, file and options of NAME, NAME=FILE or NAME=FILE,OPTION=VALUE..., as text."""
    name, _, rest = model.partition("=")
    file, *options = rest.split(",")
    return name, file, dict(option.partition("=")[::2] for option in options)


def flags_of(args: argparse.Namespace, model: str) -> argparse.Namespace:
    """The flags of one detector, see `parts_of`, as other scripts have them; where they are none the script ends."""
    name, file, options = parts_of(model)
    parser = argparse.ArgumentParser(prog=model, usage=_MODEL, add_help=False, allow_abbrev=False)
    add_weights_arguments(parser, DETECTOR_OPTIONS)
    told = parser.parse_args([f"--{option.replace('_', '-')}={value}" for option, value in options.items()])
    none = dict.fromkeys(("insightface", "box_style", "box_mapping", "detections"))
    own = {"model": name, "weights": file or None, "facts_of": args.facts_of if file else None}
    return argparse.Namespace(**{**vars(args), **none, **vars(told), **own})


def names_of(models: Sequence[str]) -> list[str]:
    """What to call detectors. Weights of runs have the same names, so their folder stands before them, and as many of
    its parents as tell them apart.
    """
    for parts in range(2, 3 + max(len(Path(parts_of(model)[1]).parts) for model in models)):
        names = [_name_of(model, parts) for model in models]
        if len(set(names)) == len(set(models)):
            break
    return names


def _name_of(model: str, parts: int) -> str:
    name, file, options = parts_of(model)
    told = ["/".join(Path(file).parts[-parts:]), *(f"{option}={value}" for option, value in options.items())]
    return f"{name} ({', '.join(told)})" if file else name


def without_folders(words: Sequence[str]) -> list[str]:
    """A command in which FILE of NAME=FILE loses its folders where it is absolute: they say nothing to others."""
    told = []
    for word in words:
        name, sign, rest = word.partition("=")
        file, comma, options = rest.partition(",")
        told.append(f"{name}{sign}{Path(file).name if Path(file).is_absolute() else file}{comma}{options}")
    return told


def sort_out(detections: list[Faces], labels: list[FaceLabels]) -> dict[str, Boxes]:
    """`FALSE_POSITIVES` and `FACES` of a detector, at an IoU of .5; what lies on ignore regions is neither."""
    # A match speaks of the detections best first.
    ordered = [faces[np.argsort(-faces.scores, kind="stable")] for faces in detections]
    taken = [match.face_of[0] for match in match_photos(ordered, labels)]
    return {
        FALSE_POSITIVES: _gathered(ordered, labels, [face == -1 for face in taken]),
        FACES: _gathered(ordered, labels, [face >= 0 for face in taken]),
    }


def _gathered(detections: list[Faces], labels: list[FaceLabels], kept: list[np.ndarray]) -> Boxes:
    photo = np.concatenate([np.full(rows.sum(), i) for i, rows in enumerate(kept)])
    boxes = np.concatenate([faces.boxes[rows] for faces, rows in zip(detections, kept)])
    scores = np.concatenate([faces.scores[rows] for faces, rows in zip(detections, kept)])
    overlap = [
        box_iou(faces.boxes[rows], one.boxes[~one.ignore]).max(axis=1, initial=0)
        for faces, one, rows in zip(detections, labels, kept)
    ]
    order = np.argsort(-scores, kind="stable")
    return Boxes(photo[order], boxes[order], scores[order], np.concatenate(overlap)[order])


def rescored(chosen: Boxes, detections: list[Faces]) -> np.ndarray:
    """What another detector gives boxes (n,): the highest score of its detections that overlap one, 0 for none."""
    scores = np.zeros(len(chosen))
    for k, (photo, box) in enumerate(zip(chosen.photo, chosen.boxes)):
        faces = detections[photo]
        on_it = box_iou(box[None], faces.boxes)[0] >= LEAST_IOU
        scores[k] = faces.scores[on_it].max(initial=0)
    return scores


def figures(boxes: Boxes, detections: list[Faces], above: float, below: float) -> dict:
    """Scores of a detector's boxes above a score, and what another detector gives them."""
    chosen = boxes.above(above)
    others = rescored(chosen, detections)
    some = len(chosen) > 0
    return {
        "highest": float(boxes.scores[0]) if len(boxes) else None,
        "count": len(chosen),
        "on_a_face": int((chosen.face_iou >= ON_FACE).sum()),
        "mean": float(chosen.scores.mean()) if some else None,
        "median": float(np.median(chosen.scores)) if some else None,
        "rescored_mean": float(others.mean()) if some else None,
        "rescored_median": float(np.median(others)) if some else None,
        "share_below": float((others < below).mean()) if some else None,
    }


def one_by_one(chosen: Boxes, others: dict[str, list[Faces]], samples: list[FaceSample]) -> list[dict]:
    """Each box with its score and what others give it."""
    scores = {name: rescored(chosen, found).tolist() for name, found in others.items()}
    return [
        {
            "image": samples[photo].name,
            "box": box.tolist(),
            "score": float(score),
            "face_iou": float(overlap),
            "rescored": {name: given[k] for name, given in scores.items()},
        }
        for k, (photo, box, score, overlap) in enumerate(
            zip(chosen.photo, chosen.boxes, chosen.scores, chosen.face_iou)
        )
    ]


def describe(result: dict) -> str:
    """The result as text."""
    above, below = (f"{result[key]:g}".lstrip("0") for key in ("above", "below"))
    parts = [f"{looked_at(result)}\n{result['domain']}"]
    for kind in (FALSE_POSITIVES, FACES):
        rows = [r for r in result["rows"] if r["boxes"] == kind]
        head = (f"{kind} above {above}, of", "scored by", "count", *(("on a face",) if kind == FALSE_POSITIVES else ()))
        cells = [(*head, "mean", "median", "rescored mean", "median", f"below {below}")]
        for r in rows:
            counts = (str(r["count"]), *((str(r["on_a_face"]),) if kind == FALSE_POSITIVES else ()))
            scores = (figure(r[key]) for key in ("mean", "median", "rescored_mean", "rescored_median"))
            share = "-" if r["share_below"] is None else f"{100 * r['share_below']:.1f} %"
            cells.append((r["of"], r["by"], *counts, *scores, share))
        parts.append(table(cells))
        # The baseline has a row for each of the others.
        nothing = {r["of"]: r["highest"] for r in rows if not r["count"]}
        for name, highest in nothing.items():
            words = "it has none" if highest is None else f"its highest score is {figure(highest)}"
            parts.append(f"none of the {kind} of {name} scores above {above}: {words}")
    return "\n\n".join(parts)


def draw_sheet(
    path: str, samples: list[FaceSample], turns: list[Affine | None], chosen: Boxes, others: list[list[Faces]]
) -> None:
    """The highest of the boxes, each enlarged, its score and what the others give written on it."""
    given = np.stack([rescored(chosen, found) for found in others], axis=1)
    tiles = []
    for k in range(min(_MOST_DRAWN, len(chosen))):
        i, box = chosen.photo[k], chosen.boxes[k]
        (image,) = read_photos([samples[i]], [turns[i]])
        face = Faces([box], [chosen.scores[k]], size_hw=image.shape[:2])
        scale = _TILE / (2 * max(*(box[2:] - box[:2]), 1))
        tile, moved = zoomed(image, face, (box[:2] + box[2:]) / 2, scale, _TILE)
        words = f"baseline {figure(chosen.scores[k], 2)}, model {' '.join(figure(score, 2) for score in given[k])}"
        tiles.append(draw_faces(tile, moved, labels=[words], thickness=1))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_image(path, contact_sheet(tiles, (_TILE, _TILE), columns=min(_COLUMNS, len(tiles))))


if __name__ == "__main__":
    run(main)
