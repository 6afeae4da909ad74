"""Score landmark nets on annotated faces: NME, AUC of the CED curve, failure rate, by part of the face.

    python benchmarks/eval_landmarks.py --model heatmap_mobilenetv2_1.0_sdd_fc26 --data facedata/lmk_val.jsonl
    python benchmarks/eval_landmarks.py --model NAME --weights runs/heatmap/best.params --data X.jsonl --source helen
    python benchmarks/eval_landmarks.py --model NAME --data X.jsonl --end-to-end retinaface_mobilenet0.25_mask
    python benchmarks/eval_landmarks.py --model A B C --data X.jsonl --norm box --picture ced.png
    python benchmarks/eval_landmarks.py --predictions found.jsonl --data X.jsonl --json out/found.json

``found.jsonl`` is what ``gluonface detect --landmarks NET --json`` writes. Photos are in ``images/`` beside the data
unless --images says otherwise. Five to ten faces a second on one core with MobileNetV2 1.0 and the defaults: two crops
of each face, each as it is and mirrored.

A face's error is the mean distance of its labelled points over what --norm says: interocular (300-W, WFLW, COFW), box
(JD-landmark), face_size (AFLW: the attribute ``face_size``, else the rectangle of its points). NME is the mean over
faces, the failure rate the share of faces with more than --threshold, AUC the area under the share of faces over the
error up to there. JSON has fractions, what is printed is in per cent.

Where crops come from:
  --align boxes    (default) the template placed by the labelled box, then, where that was off, by the points found
  --align points   the labelled five points: an oracle, no detector is that good, and the figures say so
  --end-to-end D   the detector D looks at the whole photo. A labelled face and the detection that overlaps it most
                   (intersection over union of at least 0.5, each detection once) belong together; a face without one is
                   missed: infinitely far off in AUC and failure rate, not in the NME. The NME from labelled boxes of
                   the same faces, those found, stands beside it. --predictions are matched in the same way.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import describe_photos, new_figure, provenance, rounded, run, save_figure, table, write_result, zoomed
from detectors import Found, match_faces, read_detections, read_photos
from eval_widerface import progress

from gluonface import FaceAnalyzer, Faces, get_model
from gluonface.alignment import FLIPS, LandmarkPredictor
from gluonface.data import FaceLabels, FaceSample, read_jsonl
from gluonface.decode import HEATMAP_DECODERS
from gluonface.errors import DataError, InputError
from gluonface.faces import SCHEMES
from gluonface.image import load_image, save_image
from gluonface.metrics import NORMS, LandmarkScores, ced_curve, evaluate_landmarks, label_sizes, scored_faces
from gluonface.viz import contact_sheet, draw_faces

#: Photos in memory at once.
_AT_ONCE = 16
#: Pixels of a face on a sheet.
_TILE = 320
_ALIGNED = {
    "boxes": "aligned from labelled boxes",
    "points": "aligned by labelled points (an oracle)",
    "detections": "faces as detected",
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    samples = read_labelled(args.data, args.images, args.sources)
    sizes = np.concatenate([sizes_of(args.norm, sample) for sample in samples])
    found = None
    if args.predictions:
        detections, name = read_detections(args.predictions, samples)
        found = match_faces(samples, detections)
        points = predicted_points(args.predictions, samples, found)
        runs = [(name, {}, points, None)]
    else:
        predictors = [build_predictor(name, args) for name in args.model]
        for predictor in predictors:
            check_scheme(predictor.facts.name, predictor.net.scheme, args.data, samples)
        if args.end_to_end:
            found = match_faces(samples, detect(args, samples))
        runs = [run_of(predictor, args, samples, found) for predictor in predictors]

    results, curves = [], []
    for name, how, points, from_boxes in runs:
        scores = score(samples, points, sizes, args.threshold)
        results.append(
            {
                "model": name,
                "scheme": samples[0].faces.scheme,
                **how,
                "norm": args.norm,
                "align": "detections" if found else args.align,
                "oracle": args.align == "points",
                "end_to_end": args.end_to_end,
                "data": Path(args.data).stem,
                "domain": domain(args, samples),
                "photos": len(samples),
                **scores.to_dict(),
                **(compared(samples, scores, from_boxes, sizes) if from_boxes is not None else {}),
                **provenance(argv),
            }
        )
        curves.append(scores)
    print(describe(results))
    if args.picture:
        plot(args.picture, results, curves)
    if args.sheet:
        draw_sheet(args.sheet, samples, runs[0][2], curves[0])
    if args.json:
        write_result(args.json, rounded(results[0]))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", nargs="+", metavar="NAME", help="landmark nets (see `gluonface models`)")
    model.add_argument("--weights", metavar="FILE", help="run these weights of --model instead of the shipped ones")
    model.add_argument("--filters", type=int, metavar="N", help="what the net of --weights was trained with")
    model.add_argument("--stem", type=int, metavar="N", help="what the net of --weights was trained with")
    model.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    model.add_argument("--predictions", metavar="JSONL", help="score these landmarks instead of a model's")
    view = parser.add_argument_group("view")
    view.add_argument("--align", choices=("boxes", "points"), default="boxes", help="see above (default: boxes)")
    view.add_argument("--end-to-end", metavar="DETECTOR", help="faces as this detector finds them, see above")
    view.add_argument(
        "--flip",
        choices=FLIPS,
        default="points",
        help="averaging over crop and mirror image (default: points, the paper's; none: one pass of the net)",
    )
    view.add_argument(
        "--decoder", choices=HEATMAP_DECODERS, help="how heatmaps are read (default: what the weights' facts name)"
    )
    view.add_argument(
        "--passes",
        type=lambda text: text if text == "auto" else int(text),
        default="auto",
        metavar="N",
        help="crops of each face (default: auto, a second one where the first was off)",
    )
    parser.add_argument("--data", required=True, metavar="JSONL", help="annotated photos")
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: images/ beside the data)")
    parser.add_argument(
        "--source", "--sources", dest="sources", nargs="+", metavar="NAME", help="only photos of these sources"
    )
    parser.add_argument("--norm", choices=NORMS, default="interocular", help="see above (default: interocular)")
    parser.add_argument(
        "--threshold", type=float, default=0.08, metavar="X", help="of failure rate and AUC (default: .08)"
    )
    parser.add_argument("--domain", metavar="TEXT", help="what the photos are, in words, to stand beside the figures")
    parser.add_argument("--json", metavar="OUT", help="write the result of one model")
    parser.add_argument("--picture", metavar="PNG", help="draw the cumulative error distribution")
    parser.add_argument(
        "--sheet",
        metavar="PNG",
        help="draw 24 faces with the points found: the 8 with the largest error, the 8 turned most (where the pose is "
        "labelled), and others at even steps of error. Photos for research only make a picture for research only",
    )
    args = parser.parse_args(argv)
    if bool(args.model) == bool(args.predictions):
        parser.error("give either --model or --predictions")
    if args.predictions and (args.weights or args.end_to_end or args.align == "points"):
        parser.error("--predictions are scored as they are: no --weights, --end-to-end or --align points")
    if args.weights and len(args.model) > 1:
        parser.error("--weights are of one --model")
    if (args.filters or args.stem) and not args.weights:
        parser.error("--filters and --stem go with --weights")
    if args.end_to_end and args.align == "points":
        parser.error("--end-to-end faces are aligned as they were detected: no --align points")
    if args.json and args.model and len(args.model) > 1:
        parser.error("--json holds the result of one --model")
    if not args.threshold > 0 or (args.passes != "auto" and args.passes < 1):
        parser.error("--threshold is above 0 and --passes at least 1")
    return args


def read_labelled(data: str, images: str | None, sources: list[str] | None) -> list[FaceSample]:
    """The photos with dense landmarks, with the faces that are scored only; all of one scheme."""
    samples = []
    for sample in read_jsonl(data, images, sources):
        rows = scored_faces(sample.faces)
        if len(rows):
            samples.append(dataclasses.replace(sample, faces=sample.faces[rows]))
    if not samples:
        dense = ", ".join(f"landmarks{name}" for name in SCHEMES if name != "5")
        where = f" of {', '.join(sources)}" if sources else ""
        raise DataError(f"{data}: no face{where} has dense landmarks (one of {dense})")
    schemes = sorted({sample.faces.scheme for sample in samples}, key=int)
    if len(schemes) > 1:
        raise DataError(f"{data}: expected landmarks of one scheme, got {', '.join(schemes)}; choose with --source")
    return samples


def check_scheme(name: str, scheme: str, data: str, samples: list[FaceSample]) -> None:
    if scheme != samples[0].faces.scheme:
        raise DataError(f"{data} has {samples[0].faces.scheme} landmarks a face, {name} gives {scheme}")


def sizes_of(norm: str, sample: FaceSample) -> np.ndarray:
    """What the errors of a photo's faces are divided by."""
    try:
        return label_sizes(norm, sample.faces)
    except InputError as error:
        raise DataError(f"{sample.name}: {error}") from error


def build_predictor(name: str, args: argparse.Namespace) -> LandmarkPredictor:
    """The net with the weights that the flags ask for, as they want it used."""
    net = get_model(name, pretrained=not args.weights, root=args.root, filters=args.filters, stem=args.stem)
    predictor = LandmarkPredictor(net, flip=args.flip, passes=args.passes)
    if args.weights:
        net.load_parameters(args.weights)
    if args.decoder:
        net.set_decoder(args.decoder)
    net.hybridize()
    return predictor


def detect(args: argparse.Namespace, samples: list[FaceSample]) -> list[Faces]:
    """What the detector finds on each photo, with its own threshold and size."""
    analyzer = FaceAnalyzer(args.end_to_end, root=args.root)
    return list(progress(analyzer.stream(photos(samples)), len(samples)))


def photos(samples: list[FaceSample]):
    return read_photos(samples, [None] * len(samples))


def run_of(predictor: LandmarkPredictor, args: argparse.Namespace, samples: list[FaceSample], found) -> tuple:
    """(name, settings, points of each photo, and with detections also the points from labelled boxes) of a net."""
    name = predictor.facts.name + (f" ({Path(args.weights).name})" if args.weights else "")
    how = {"flip": args.flip, "decoder": predictor.net.decoder.method, "passes": args.passes}
    if found is None:
        return name, how, predict(predictor, samples, args.align), None
    return name, how, predict(predictor, samples, "detections", found), predict(predictor, samples, "boxes")


def predict(predictor: LandmarkPredictor, samples: list[FaceSample], align: str, found=None) -> list[np.ndarray]:
    """Landmarks (n, K, 2) of the labelled faces of each photo, NaN for those that were not found."""
    points = []
    reader = iter(progress(photos(samples), len(samples)))
    while images := list(itertools.islice(reader, _AT_ONCE)):
        here = slice(len(points), len(points) + len(images))
        if align == "boxes":
            points += predictor.from_boxes(images, [sample.faces.boxes for sample in samples[here]])[0]
        elif align == "points":
            points += predictor.from_points(images, [labelled_five(sample) for sample in samples[here]])[0]
        else:
            faces = predictor(images, [one.faces for one in found[here]])
            points += [spread(*row) for row in zip(samples[here], found[here], faces)]
    return points


def labelled_five(sample: FaceSample) -> np.ndarray:
    """Five points (n, 5, 2) of the faces of a photo: of the dense landmarks where all are labelled, else the five."""
    labels: FaceLabels = sample.faces
    five = SCHEMES[labels.scheme].five_points(labels.landmarks)
    whole = np.isfinite(five).all(axis=(1, 2))
    five[~whole] = labels.landmarks5[~whole]
    bare = np.flatnonzero(~np.isfinite(five).all(axis=(1, 2)))
    if bare.size:
        raise DataError(
            f"{sample.name}: labelled face {bare[0]} of {len(labels)} lacks some of the five points that --align "
            "points needs; take --align boxes"
        )
    return five


def spread(sample: FaceSample, found: Found, faces: Faces) -> np.ndarray:
    """Landmarks of the faces that were found, NaN for the labelled ones that were not: (n, K, 2)."""
    points = np.full(sample.faces.landmarks.shape, np.nan, np.float32)
    points[found.labels] = faces.landmarks if len(faces) else points[found.labels]
    return points


def predicted_points(path: str, samples: list[FaceSample], found: list[Found]) -> list[np.ndarray]:
    """`spread` of landmarks from a file."""
    scheme = samples[0].faces.scheme
    for sample, one in zip(samples, found):
        if len(one.faces) and one.faces.scheme != scheme:
            what = "no landmarks" if one.faces.scheme is None else f"{one.faces.scheme} landmarks"
            raise DataError(
                f"{path}: {sample.name} has {what} a face, the data have {scheme}; give `gluonface detect` a fitting "
                "--landmarks"
            )
    return [spread(sample, one, one.faces) for sample, one in zip(samples, found)]


def score(samples: list[FaceSample], points: list[np.ndarray], sizes: np.ndarray, threshold: float) -> LandmarkScores:
    truth = np.concatenate([sample.faces.landmarks for sample in samples])
    return evaluate_landmarks(np.concatenate(points), truth, samples[0].faces.scheme, sizes, threshold)


def compared(samples: list[FaceSample], scores: LandmarkScores, from_boxes: list[np.ndarray], sizes) -> dict:
    """NME from labelled boxes of the faces that were found, and how much larger that from detections is."""
    with_boxes = score(samples, from_boxes, sizes, scores.threshold)
    here = np.isfinite(scores.errors)
    reference = float(with_boxes.errors[here].mean()) if here.any() else float("nan")
    return {"nme_gt_boxes": reference, "relative": scores.nme / reference - 1 if reference else float("nan")}


def domain(args: argparse.Namespace, samples: list[FaceSample]) -> str:
    faces = sum(len(sample.faces) for sample in samples)
    return args.domain or describe_photos(args.data, samples, faces)


def per_cent(value: float | None, digits: int = 2) -> str:
    """``3.45``; a dash where nothing was measured."""
    return "-" if value is None or not np.isfinite(value) else f"{100 * value:.{digits}f}"


def looked_at(result: dict) -> str:
    """How faces were looked at, in words."""
    words = [_ALIGNED[result["align"]] + (f" by {result['end_to_end']}" if result["end_to_end"] else "")]
    if "flip" in result:
        words.append("one pass of the net" if result["flip"] == "none" else f"{result['flip']} averaged over flips")
        words += [f"decoder {result['decoder']}", f"{crops_a_face(result['passes'])} a face"]
    return ", ".join(words)


def crops_a_face(passes: int | str) -> str:
    return "one or two crops" if passes == "auto" else "1 crop" if passes == 1 else f"{passes} crops"


def describe(results: list[dict]) -> str:
    """The results as text, in per cent."""
    first = results[0]
    rows = [("per cent", "faces", "missed", "NME", "AUC", "failures", "NME 90th", "95th", "99th percentile")]
    groups = [("NME, per cent", *first["nme_groups"])]
    for r in results:
        figures = (r["nme"], r["auc"], r["failure_rate"], *r["nme_percentiles"].values())
        rows.append((r["model"], str(r["faces"]), str(r["missed"]), *map(per_cent, figures)))
        groups.append((r["model"], *map(per_cent, r["nme_groups"].values())))
    parts = [
        f"{first['domain']}\n{first['scheme']} points, {looked_at(first)}\n"
        f"errors over {first['norm']}, AUC and failures at {100 * first['threshold']:g} %",
        table(rows),
        table(groups),
    ]
    for r in results:
        if "nme_gt_boxes" in r:
            change = "-" if not np.isfinite(r["relative"]) else f"{100 * r['relative']:+.1f} %"
            parts.append(
                f"{r['model']}: NME from detections {per_cent(r['nme'])} %, from labelled boxes "
                f"{per_cent(r['nme_gt_boxes'])} %: {change} (both over the {r['faces'] - r['missed']} faces found)"
            )
    return "\n\n".join(parts)


def draw_sheet(path: str, samples: list[FaceSample], points: list[np.ndarray], scores: LandmarkScores) -> None:
    """24 faces of the first model with their points, each enlarged, the error written on it."""
    owners = [(i, row) for i, sample in enumerate(samples) for row in range(len(sample.faces))]
    tiles = []
    for k in chosen_faces(samples, scores):
        i, row = owners[k]
        image = load_image(samples[i].image_path)
        tiles.append(
            close_up(image, samples[i].faces.boxes[row], points[i][row], samples[i].faces.scheme, scores.errors[k])
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_image(path, contact_sheet(tiles, (_TILE, _TILE), columns=6))


def chosen_faces(samples: list[FaceSample], scores: LandmarkScores, count: int = 24) -> list[int]:
    """Numbers of the faces to draw, without those that were missed."""
    errors = np.where(np.isfinite(scores.errors), scores.errors, -1)
    found = int((errors >= 0).sum())
    by_error = np.argsort(-errors, kind="stable")[:found]
    yaw = np.abs(np.concatenate([sample.faces.pose for sample in samples])[:, :2]).max(axis=1)
    by_pose = np.argsort(-np.nan_to_num(yaw, nan=-1), kind="stable")
    by_pose = by_pose[(errors[by_pose] >= 0) & np.isfinite(yaw[by_pose])]
    chosen = list(by_error[: count // 3])
    chosen += [k for k in by_pose if k not in chosen][: count // 3]
    rest = [k for k in by_error if k not in chosen]
    steps = np.linspace(0, len(rest) - 1, min(count - len(chosen), len(rest))).round().astype(int)
    return [int(k) for k in [*chosen, *(rest[step] for step in steps)]]


def close_up(image: np.ndarray, box: np.ndarray, points: np.ndarray, scheme: str, error: float) -> np.ndarray:
    """A face with its points as a tile, the error written on it."""
    outline = np.array([np.minimum(box[:2], points.min(axis=0)), np.maximum(box[2:], points.max(axis=0))])
    scale = _TILE / (1.15 * np.ptp(outline, axis=0).max())
    face = Faces([box], [1.0], landmarks=points[None], scheme=scheme, size_hw=image.shape[:2])
    tile, moved = zoomed(image, face, outline.mean(axis=0), scale, _TILE)
    return draw_faces(tile, moved, labels=[f"{per_cent(error)} %"], thickness=1)


def plot(path: str, results: list[dict], curves: list[LandmarkScores]) -> None:
    """Draw the share of faces over the error."""
    first = results[0]
    drawing = new_figure(figsize=(7, 5))
    axes = drawing.subplots()
    for result, scores in zip(results, curves):
        thresholds, share = ced_curve(scores.errors, scores.threshold)
        text = f"{result['model']}\nAUC {per_cent(scores.auc)} %, failures {per_cent(scores.failure_rate)} %"
        axes.step(100 * thresholds, 100 * share, where="post", label=text)
    axes.set(
        xlim=(0, 100 * first["threshold"]),
        ylim=(0, 102),
        xlabel=f"NME, % ({first['norm']})",
        ylabel="share of faces, %",
    )
    title = f"Cumulative error distribution, {first['scheme']} points\n{first['domain']}\n{looked_at(first)}"
    axes.set_title(title, size=8, wrap=True)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
