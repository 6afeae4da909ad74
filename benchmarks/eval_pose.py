"""Score head pose on annotated photos: degrees off, by how far the head is turned, beside what knowing nothing gives.

    python benchmarks/eval_pose.py --model mos_shufflenetv2_1.0_fc26 --data facedata/lmk_val.jsonl --from-points
    python benchmarks/eval_pose.py --model retinaface_mobilenet0.25_fc26 --data X.jsonl --from-points --landmarks NET
    python benchmarks/eval_pose.py --model NAME --weights runs/mos/best.params --data X.jsonl --picture pose.png
    python benchmarks/eval_pose.py --detections found.jsonl --data X.jsonl --json out/found.json
    python benchmarks/eval_pose.py --compare with.json without.json  # paired bootstrap over faces

``found.jsonl`` is what ``gluonface detect --json`` writes. Photos are in ``images/`` beside the data unless --images
says otherwise. Some five photos a second on one core at 640 with a light net: each photo is looked at twice.

Angles are yaw, pitch, roll in the AFLW2000-3D convention, their errors wrap around, ``mae`` is the mean of the three,
``geodesic`` the angle of the turn between the two poses; degrees throughout. Faces with a labelled angle beyond 99 are
left out. A labelled face and the detection that overlaps it most (intersection over union of at least 0.5, each
detection once) belong together; a face without one is missed: counted, and in none of the means.

What is measured:
  end to end       the pose that comes with the detection, with the net's own score threshold (--score takes another)
  on_boxes         the pose of the box that overlaps the labelled one most among all that the net gives whatever their
                   score (of boxes that overlap each other the best one only): what the net knows of faces that it is
                   told of. Not of --detections, several scales or mirrored photos
  --from-points    the pose fitted to the detector's five points; goes with any detector
  --landmarks NET  the pose fitted to 68 points that this net finds on the detected faces
  constant         the same pose for every face found: the median of the labels, which no predictor can know, and zero
  points_by_yaw    the error of the five points, a share of the face's size, sqrt(width x height) of the labelled box;
                   over the faces found whose points were set by people
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
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
    LEAST_IOU,
    Found,
    add_detector_arguments,
    add_view_arguments,
    build_analyzer,
    check_arguments,
    detect,
    gathered,
    match_faces,
    read_detections,
    read_photos,
    scales,
    spread,
    view,
    without_threshold,
)
from eval_widerface import progress

from gluonface import Faces
from gluonface.alignment import LandmarkPredictor
from gluonface.data import FaceSample, read_jsonl
from gluonface.errors import DataError
from gluonface.geometry import box_area, box_iou
from gluonface.metrics import YAW_BINS, evaluate_pose, faces_by_yaw, posed_faces
from gluonface.metrics.pose_scoring import ANGLES, MAX_ANGLE
from gluonface.pose import fit_pose

#: Figures of a way of measuring, degrees.
FIGURES = ("mae", *ANGLES, "geodesic")
#: Key of a result that is a way of measuring pose -> words; "" is the result itself.
WAYS = {
    "": "end to end",
    "on_boxes": "on labelled boxes",
    "from_points": "from its five points",
    "from_landmarks": "from 68 points",
    "median": "constant: median of the labels",
    "zero": "constant: zero",
}
#: Photos in memory at once.
_AT_ONCE = 16
#: Shape of what is taken of a detected face.
_SHAPES = {"boxes": (4,), "pose": (3,), "landmarks5": (5, 2), "landmarks": (68, 2)}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.data is None:
        a, b = args.compare
        print(describe_comparison(Path(a).stem, Path(b).stem, compare(read_result(a), read_result(b), args)))
        return 0

    samples = read_labelled(args.data, args.images, args.sources)
    truth = Truth.of(samples)
    analyzer, seen = None, {"size": None, "flip": False}
    if args.detections:
        detections, name = read_detections(args.detections, samples)
    else:
        analyzer, name = build_analyzer(args, args.score)
        seen = {**view(args), "score_thresh": analyzer.score_thresh}
        detections = list(progress(detect(analyzer, read_photos(samples), args), len(samples)))
    found = match_faces(samples, detections)
    pose, five = (posed_part(name, samples, found, detections, part) for part in ("pose", "landmarks5"))
    dense = dense_points(name, args, samples, found, detections)
    if pose is None and five is None and dense is None:
        raise DataError(f"{name} gives neither pose nor points: there is nothing to score")
    if pose is None and not args.from_points and dense is None:
        raise DataError(f"{name} gives no pose: take --from-points to have it fitted to its points")
    if five is None and args.from_points:
        raise DataError(f"{name} gives no five points that --from-points could fit a pose to")

    there = np.isfinite(posed_part(name, samples, found, detections, "boxes")).all(axis=1)
    predicted = {
        "": pose,
        "from_points": fitted(five) if args.from_points else None,
        "from_landmarks": None if dense is None else fitted(dense),
        **{way: np.where(there[:, None], same, np.nan) for way, same in constants(truth).items()},
    }
    errors = truth.point_errors(five)
    result = rounded(
        {
            "model": name,
            **seen,
            "data": Path(args.data).stem,
            "domain": domain(args, samples, truth),
            "photos": len(samples),
            **truth.figures(predicted[""], there),
            "constant": {
                way: {"pose": dict(zip(ANGLES, map(float, same))), **truth.figures(predicted[way], there)}
                for way, same in constants(truth).items()
            },
            "on_boxes": on_boxes(name, analyzer, args, samples, truth),
            "from_points": truth.figures(predicted["from_points"], there) if args.from_points else None,
            "from_landmarks": None
            if dense is None
            else {"model": args.landmarks or name, **truth.figures(predicted["from_landmarks"], there)},
            "points_by_yaw": None if errors is None else truth.points_by_yaw(errors),
            **provenance(argv),
        }
    )
    result["per_face"] = per_face(truth, pose, errors)
    print(describe(result))
    if args.picture:
        plot(args.picture, result, truth.pose, predicted)
    if args.compare:
        other = read_result(args.compare[0])
        comparison = compare(result, other, args)
        print("\n" + describe_comparison("this", Path(args.compare[0]).stem, comparison))
        result["comparison"] = {"with": Path(args.compare[0]).name, "model": other["model"], **rounded(comparison)}
    if args.json:
        write_result(args.json, result)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_detector_arguments(parser)
    add_view_arguments(parser)
    parser.add_argument("--score", type=float, metavar="T", help="take weaker or only surer faces than the net does")
    parser.add_argument("--detections", metavar="FILE", help="score these detections (JSON lines) instead of a model's")
    parser.add_argument("--from-points", action="store_true", help="also fit the pose to the detector's five points")
    parser.add_argument("--landmarks", metavar="NET", help="also fit it to the 68 points of this landmark net")
    parser.add_argument("--data", metavar="JSONL", help="annotated photos")
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: images/ beside the data)")
    parser.add_argument("--sources", nargs="+", metavar="NAME", help="only photos of these sources of the data")
    parser.add_argument("--domain", metavar="TEXT", help="what the photos are, in words, to stand beside the figures")
    parser.add_argument("--json", metavar="OUT", help="write the result, with what comparing it takes")
    parser.add_argument("--picture", metavar="PNG", help="draw errors by |yaw|, and predicted over labelled yaw")
    parser.add_argument("--compare", nargs="+", metavar="JSON", help="two results, or one to compare this run with")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="of the bootstrap (default: 10000)")
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    nothing_to_run = not (args.model or args.insightface or args.detections)
    if args.data is None and nothing_to_run:
        if len(args.compare or ()) != 2:
            parser.error("give --data and a detector (--model, --insightface or --detections), or --compare A B")
        return args
    if args.data is None or nothing_to_run:
        parser.error("--data and one of --model, --insightface and --detections belong together")
    if args.detections and (args.model or args.insightface or args.score is not None or args.landmarks):
        parser.error("--detections are scored as they are: no --model, --insightface, --score or --landmarks")
    if args.compare and len(args.compare) != 1:
        parser.error("--compare takes one result beside a run")
    if args.resamples < 1:
        parser.error("--resamples is at least 1")
    return args


# ---- labels ----------------------------------------------------------------------------------------------------------


def read_labelled(data: str, images: str | None, sources: list[str] | None) -> list[FaceSample]:
    """The photos that show a face with a labelled pose; ignore regions are dropped, other faces stay: detections of
    them are not to be taken for those of the posed ones.
    """
    samples = []
    for sample in read_jsonl(data, images, sources):
        if len(posed_faces(sample.faces)):
            samples.append(dataclasses.replace(sample, faces=sample.faces[~sample.faces.ignore]))
    if not samples:
        where = f" of {', '.join(sources)}" if sources else ""
        raise DataError(f"{data}: no face{where} has a pose")
    return samples


@dataclasses.dataclass(frozen=True)
class Truth:
    """The N faces with a labelled pose, of one photo after another."""

    photo: list[str]
    pose: np.ndarray  # (N, 3)
    boxes: np.ndarray  # (N, 4)
    landmarks5: np.ndarray  # (N, 5, 2), NaN where people set none

    @classmethod
    def of(cls, samples: list[FaceSample]) -> Truth:
        """The posed faces of photos."""
        faces = [sample.faces[posed_faces(sample.faces)] for sample in samples]
        five = [np.where(one.landmarks5_human[:, None, None], one.landmarks5, np.nan) for one in faces]
        names = [sample.name for sample, one in zip(samples, faces) for _ in range(len(one))]
        pose, boxes = (np.concatenate([getattr(one, part) for one in faces]) for part in ("pose", "boxes"))
        return cls(names, pose.astype(np.float64), boxes, np.concatenate(five))

    def figures(self, predicted: np.ndarray | None, there: np.ndarray) -> dict:
        """Figures of predicted poses (N, 3), NaN for missed faces; None where none are given, with the counts of the
        faces that were found (N,).
        """
        if predicted is not None:
            return evaluate_pose(predicted, self.pose).to_dict()
        counts = evaluate_pose(np.where(there[:, None], self.pose, np.nan), self.pose)
        left = {"faces": counts.faces, "missed": counts.missed, "left_out": counts.left_out}
        return {**dict.fromkeys(FIGURES), **left, "by_yaw": None}

    def point_errors(self, five: np.ndarray | None) -> np.ndarray | None:
        """Mean distance (N,) of the known ones of five points (N, 5, 2) over the face's size; NaN for missed faces and
        those without labelled points; None without points.
        """
        if five is None:
            return None
        known = np.isfinite(self.landmarks5).all(axis=2)
        distances = np.where(known, np.linalg.norm(five - np.where(known[..., None], self.landmarks5, 0), axis=2), 0)
        counts = np.where(known.any(axis=1), known.sum(axis=1), np.nan)
        return distances.sum(axis=1) / counts / np.sqrt(box_area(self.boxes))

    def points_by_yaw(self, errors: np.ndarray) -> dict:
        """Mean of `point_errors` over all faces of the protocol and by |yaw|."""
        known = np.isfinite(self.landmarks5).all(axis=2).any(axis=1)
        bins = faces_by_yaw(self.pose)

        def row(chosen: np.ndarray) -> dict:
            compared = chosen & np.isfinite(errors)
            mean = float(errors[compared].mean()) if compared.any() else float("nan")
            missed = int((chosen & ~compared).sum())
            return {"nme5": mean, "faces": int(chosen.sum()), "missed": missed}

        whole = np.logical_or.reduce(list(bins.values()))
        return {**row(whole & known), "by_yaw": {name: row(chosen & known) for name, chosen in bins.items()}}


def constants(truth: Truth) -> dict[str, np.ndarray]:
    """Poses (3,) that need no photo: the median of the labels that count, and zero."""
    kept = truth.pose[(np.abs(truth.pose) <= MAX_ANGLE).all(axis=1)]
    if not len(kept):
        raise DataError(f"all {len(truth.pose)} labelled poses have an angle beyond {MAX_ANGLE:g} degrees")
    return {"median": np.median(kept, axis=0), "zero": np.zeros(3)}


def domain(args: argparse.Namespace, samples: list[FaceSample], truth: Truth) -> str:
    return args.domain or describe_photos(args.data, samples, len(truth.pose))


# ---- predictions -----------------------------------------------------------------------------------------------------


def posed_part(
    name: str, samples: list[FaceSample], found: list[Found], detections: list[Faces], part: str
) -> np.ndarray | None:
    """`gathered` of all N posed faces."""
    rows = gathered(name, samples, found, detections, part, _SHAPES[part])
    return None if rows is None else rows[posed_rows(samples)]


def spread_posed(samples: list[FaceSample], found: list[Found], part: str) -> np.ndarray:
    """`spread` over all N posed faces."""
    return spread(samples, found, part, _SHAPES[part])[posed_rows(samples)]


def posed_rows(samples: list[FaceSample]) -> np.ndarray:
    """Numbers (N,) of the posed faces among all labelled ones."""
    starts = np.cumsum([0, *(len(sample.faces) for sample in samples)])
    return np.concatenate([start + posed_faces(sample.faces) for start, sample in zip(starts, samples)])


def dense_points(
    name: str, args: argparse.Namespace, samples: list[FaceSample], found: list[Found], detections: list[Faces]
) -> np.ndarray | None:
    """68 points (N, 68, 2) of the posed faces: a net's, or with --from-points those in the file; None without."""
    if args.landmarks:
        predictor = LandmarkPredictor(args.landmarks, root=args.root)
        if predictor.net.scheme != "68":
            raise DataError(
                f"{args.landmarks} gives {predictor.net.scheme} landmarks; a pose is fitted to 68 (or to 5)"
            )
        return spread_posed(samples, list(with_landmarks(predictor, samples, found)), "landmarks")
    schemes = {faces.scheme for faces in detections if len(faces)}
    if args.detections and args.from_points and schemes == {"68"}:
        return spread_posed(samples, found, "landmarks")
    return None


def with_landmarks(predictor: LandmarkPredictor, samples: list[FaceSample], found: list[Found]) -> Iterator[Found]:
    """The faces found, with dense landmarks."""
    images, rest = iter(progress(read_photos(samples), len(samples))), iter(found)
    while chunk := list(itertools.islice(images, _AT_ONCE)):
        here = list(itertools.islice(rest, len(chunk)))
        for one, faces in zip(here, predictor(chunk, [one.faces for one in here])):
            yield dataclasses.replace(one, faces=faces)


def fitted(points: np.ndarray) -> np.ndarray:
    """Poses (N, 3) fitted to points (N, K, 2); NaN for missed faces."""
    found = np.isfinite(points).all(axis=(1, 2))
    pose = np.full((len(points), 3), np.nan)
    if found.any():
        pose[found] = fit_pose(points[found])[0]
    return pose


def on_boxes(name: str, analyzer, args: argparse.Namespace, samples: list[FaceSample], truth: Truth) -> dict | None:
    """Figures of the boxes that overlap the labelled ones most, whatever their score."""
    if analyzer is None or scales(args) or args.flip:
        return None
    found = []
    for sample, faces in zip(samples, progress(without_threshold(analyzer).stream(read_photos(samples)), len(samples))):
        overlap = box_iou(sample.faces.boxes, faces.boxes)
        # At once, since a photo has a thousand boxes.
        labels = np.flatnonzero((overlap >= LEAST_IOU).any(axis=1))
        found.append(Found(faces[overlap[labels].argmax(axis=1) if len(labels) else []], labels))
    taken = [one.faces for one in found]
    pose, five = (posed_part(name, samples, found, taken, part) for part in ("pose", "landmarks5"))
    errors = truth.point_errors(five)
    there = np.isfinite(spread_posed(samples, found, "boxes")).all(axis=1)
    points = None if errors is None else truth.points_by_yaw(errors)
    return {**truth.figures(pose, there), "points_by_yaw": points}


# ---- comparison of two results ---------------------------------------------------------------------------------------


def per_face(truth: Truth, pose: np.ndarray | None, errors: np.ndarray | None) -> dict:
    """What comparing takes, of each face; null for missed faces."""
    nothing = np.full(len(truth.pose), np.nan)
    mae = nothing if pose is None else evaluate_pose(pose, truth.pose).errors.mean(axis=1)
    return rounded(
        {
            "photo": truth.photo,
            "pose": truth.pose.tolist(),
            "predicted": np.full_like(truth.pose, np.nan).tolist() if pose is None else pose.tolist(),
            "mae": mae.tolist(),
            "nme5": (nothing if errors is None else errors).tolist(),
        }
    )


def compare(a: dict, b: dict, args: argparse.Namespace) -> dict:
    """Differences a - b of ``mae`` and ``nme5`` over the faces that both found, all and by |yaw|, and the 95 % interval
    of a paired bootstrap over photos.
    """
    for result in (a, b):
        if not {"model", "per_face"} <= set(result):
            raise DataError(f"the result of {result.get('model')} has no per_face: it is not one of --json")
    one, two = a["per_face"], b["per_face"]
    if one["photo"] != two["photo"] or one["pose"] != two["pose"]:
        raise DataError(f"{a['model']} and {b['model']} were not measured on the same faces")
    bins = faces_by_yaw(np.array(one["pose"]))
    bins = {"all": np.logical_or.reduce(list(bins.values())), **bins}
    _, photo = np.unique(one["photo"], return_inverse=True)
    compared = {}
    for key in ("mae", "nme5"):
        values = (np.array([np.nan if v is None else v for v in faces[key]], np.float64) for faces in (one, two))
        first, second = values
        change = first - second
        compared[key] = {
            name: difference(change[rows], photo[rows], args.resamples)
            for name, rows in ((name, chosen & np.isfinite(change)) for name, chosen in bins.items())
        }
    return compared


def difference(change: np.ndarray, photo: np.ndarray, resamples: int) -> dict:
    """Mean of a change (n,) with its 95 % interval; faces of one photo are drawn together."""
    if not len(change):
        return {"faces": 0, **dict.fromkeys(("difference", "low", "high"), float("nan"))}
    _, photo = np.unique(photo, return_inverse=True)
    sums, counts = np.bincount(photo, change), np.bincount(photo)
    rng = np.random.default_rng(0)
    means = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(0, len(sums), len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return {"faces": len(change), "difference": float(change.mean()), "low": float(low), "high": float(high)}


def describe_comparison(a: str, b: str, comparison: dict) -> str:
    parts = []
    for key, words, scale in (("mae", "pose, degrees", 1), ("nme5", "five points, % of the face's size", 100)):
        rows = [(f"{words}: {a} less {b}", "faces", "difference", "95 % interval", "")]
        for name, row in comparison[key].items():
            low, mean, high = (scale * row[k] for k in ("low", "difference", "high"))
            verdict = "none shown" if not (low > 0 or high < 0) else f"{b if mean > 0 else a} is better"
            cells = (f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}", verdict) if row["faces"] else ("-", "-", "")
            rows.append((name if name == "all" else f"|yaw| {name}", str(row["faces"]), *cells))
        parts.append(table(rows))
    return "\n\n".join(parts)


# ---- text and picture ------------------------------------------------------------------------------------------------


def ways_of(result: dict) -> dict[str, dict]:
    """The figures of each way of measuring that a result holds, keys of `WAYS`; also where all faces were missed."""
    parts = {"": result, **{way: result[way] for way in WAYS if way in result}, **result["constant"]}
    return {way: parts[way] for way in WAYS if parts.get(way) and parts[way]["by_yaw"] is not None}


def points_of(result: dict) -> dict[str, dict]:
    """Errors of the five points that a result holds, keys of `WAYS`."""
    points = {way: one["points_by_yaw"] for way, one in (("", result), ("on_boxes", result["on_boxes"])) if one}
    return {way: one for way, one in points.items() if one and one["nme5"] is not None}


def describe(result: dict) -> str:
    """The result as text."""
    ways = ways_of(result)
    rows = [("degrees", "faces", "missed", "MAE", *ANGLES, "geodesic")]
    bins = [("MAE by |yaw|", *(name for name, *_ in YAW_BINS))]
    bins.append(("faces", *(str(result["constant"]["zero"]["by_yaw"][name]["faces"]) for name, *_ in YAW_BINS)))
    for way, one in ways.items():
        cells = (figure(one[key], 2) for key in FIGURES)
        rows.append((WAYS[way], str(one["faces"]), str(one["missed"]), *cells))
        bins.append((WAYS[way], *(figure(one["by_yaw"][name]["mae"], 2) for name, *_ in YAW_BINS)))
    parts = [f"{result['model']}, {looked_at(result)}\n{result['domain']}", table(rows), table(bins)]
    if result["left_out"]:
        parts.append(f"{result['left_out']} faces with an angle beyond {MAX_ANGLE:g} degrees are left out")
    points = points_of(result)
    if points:
        rows = [("five points by |yaw|, % of the face's size", "faces", "missed", "all", *(n for n, *_ in YAW_BINS))]
        for way, one in points.items():
            errors = [one["nme5"], *(one["by_yaw"][name]["nme5"] for name, *_ in YAW_BINS)]
            cells = ("-" if error is None else f"{100 * error:.2f}" for error in errors)
            rows.append((WAYS[way], str(one["faces"]), str(one["missed"]), *cells))
        parts.append(table(rows))
    return "\n\n".join(parts)


def plot(path: str, result: dict, truth: np.ndarray, predicted: dict[str, np.ndarray | None]) -> None:
    """Errors of each angle by |yaw|, and predicted over labelled yaw."""
    ways = {way: one for way, one in ways_of(result).items() if way not in ("on_boxes", "zero")}
    counts = {name: result["constant"]["median"]["by_yaw"][name] for name, *_ in YAW_BINS}
    names = [name for name, row in counts.items() if row["faces"]]
    colours = {way: f"C{i}" for i, way in enumerate(WAYS)}
    drawing = new_figure(figsize=(11, 8))
    grid = drawing.subplots(2, 2)
    width = 0.8 / len(ways)
    for axes, angle in zip(grid.flat, ANGLES):
        for i, (way, one) in enumerate(ways.items()):
            errors = [np.nan if (e := one["by_yaw"][name][angle]) is None else e for name in names]
            axes.bar(
                np.arange(len(names)) + (i + 0.5) * width - 0.4, errors, width, color=colours[way], label=WAYS[way]
            )
        found = (f"{name}\n{counts[name]['faces']} faces" for name in names)
        axes.set_xticks(range(len(names)), list(found))
        axes.set(ylabel=f"error of {angle}, degrees", xlabel="labelled |yaw|, degrees")
        axes.grid(axis="y", alpha=0.3)
    grid[0, 0].legend(fontsize=8)
    axes = grid[1, 1]
    kept = (np.abs(truth) <= MAX_ANGLE).all(axis=1)
    for way in (way for way in ways if way != "median"):
        axes.plot(truth[kept, 0], predicted[way][kept, 0], ".", ms=4, alpha=0.6, color=colours[way], label=WAYS[way])
    limit = 1.05 * max(10, np.abs(truth[kept, 0]).max())
    axes.plot([-limit, limit], [-limit, limit], "k", lw=0.8)
    axes.set(xlabel="labelled yaw, degrees", ylabel="predicted yaw, degrees", xlim=(-limit, limit))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    missed = f", {result['missed']} missed" if result["missed"] else ""
    drawing.suptitle(f"{result['model']}, {looked_at(result)}{missed}\n{result['domain']}", size=10)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
