"""Score landmark nets, and detectors with points of their own, on annotated faces: NME, AUC of the CED curve, failure
rate, by part of the face.

    python benchmarks/eval_landmarks.py --model heatmap_mobilenetv2_1.0_sdd_fc26 --data facedata/lmk_val.jsonl
    python benchmarks/eval_landmarks.py --model NAME --weights runs/heatmap/best.params --data X.jsonl --source helen
    python benchmarks/eval_landmarks.py --model NAME --data X.jsonl --end-to-end retinaface_mobilenet0.25_mask
    python benchmarks/eval_landmarks.py --model A B C --data X.jsonl --norm box --picture ced.png
    python benchmarks/eval_landmarks.py --model MASKFACE --data 300w_full.jsonl --subsets 300w
    python benchmarks/eval_landmarks.py --model MASKFACE RETINAFACE --five --end-to-end --short-side 640 \
        --data aflw.jsonl --norm face_size --threshold .1 --picture ced.png
    python benchmarks/eval_landmarks.py --model kpnet_drnet_aflw --weights runs/kpnet_aflw/last.params \
        --data data/aflw_test.jsonl --images ~/AFLW --subsets aflw --norm face_size
    python benchmarks/eval_landmarks.py --predictions found.jsonl --data X.jsonl --json out/found.json

``found.jsonl`` is what ``gluonface detect --landmarks NET --json`` writes. Photos are in ``images/`` beside the data
unless --images says otherwise. Five to ten faces a second on one core with MobileNetV2 1.0 and the defaults: two crops
of each face, each as it is and mirrored.

A face's error is the mean distance of its labelled points over what --norm says: interocular (300-W, WFLW, COFW), box
(JD-landmark), face_size (AFLW: the attribute ``face_size``, else the rectangle of its points). NME is the mean over
faces, the failure rate the share of faces with more than --threshold, AUC the area under the share of faces over the
error up to there. ``ced_95`` is the error within which 95 % of the faces lie. JSON has fractions, what is printed is in
per cent.

Where crops come from:
  --align boxes    (default) the template placed by the labelled box, then, where that was off, by the points found
                   A detector with points of its own, such as MaskFace: each labelled face at 256 pixels in the middle
                   of a crop of 480, in which the net looks for it (MaskFace, section 4.2)
                   KPNet: squares about the labelled boxes stand in the place of its proposals (KPNet, Table 3, "GT
                   box"), on the whole photo at a long side of 256, where no face is larger than the net's bins of size
                   reach, or at --size, as for weights trained on smaller crops; no face is missed
  --align points   the labelled five points: an oracle, no detector is that good, and the figures say so
  --end-to-end D   the detector D looks at the whole photo. A labelled face and the detection that overlaps it most
                   (intersection over union of at least 0.5, each detection once) belong together; a face without one is
                   missed: infinitely far off in AUC, CED and failure rate, not in the NME. The NME from labelled
                   boxes of the same faces, those found, stands beside it. --predictions are matched in the same way.
  --end-to-end     without D, detectors with points of their own: each finds the faces of the whole photo itself

Of a detector with points of its own the most confident detection that overlaps a labelled face by more than --match-iou
counts, from a score of .02 on; by default .3 on whole photos and .4 on single faces (MaskFace, section 4.3). With
--match-iou that is so of D and of --predictions, too: then all miss a face in the same case. The paper's NMEs are of
models that found every face; in its CED curves, as here, missed faces lower the upper end.

--subsets tells the figures of parts of the data, too: 300w common, challenging, full and test, as far as the file has
them, aflw full and frontal. 300-W is divided by interocular, AFLW by face_size.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import describe_photos, new_figure, provenance, rounded, run, save_figure, table, write_result, zoomed
from detectors import (
    DETECTOR_OPTIONS,
    LANDMARK_OPTIONS,
    LOW_SCORE,
    Found,
    add_weights_arguments,
    build_net,
    check_weights_arguments,
    match_faces,
    parse_size,
    read_detections,
    read_photos,
)
from eval_widerface import progress

from gluonface import FaceAnalyzer, Faces
from gluonface.alignment import FLIPS, LandmarkPredictor
from gluonface.data import FaceLabels, FaceSample, ibug, read_jsonl
from gluonface.data.aflw import frontal_faces
from gluonface.data.transforms.affine import Affine
from gluonface.decode import HEATMAP_DECODERS, KPNET_SCALES
from gluonface.errors import DataError, InputError
from gluonface.faces import SCHEMES
from gluonface.geometry import box_area, invert_affine, warp_points
from gluonface.image import load_image, save_image
from gluonface.metrics import (
    NORMS,
    LandmarkScores,
    best_proposals,
    ced_curve,
    evaluate_landmarks,
    label_sizes,
    scored_faces,
)
from gluonface.model_zoo.keypoint_detector import KeypointDetector
from gluonface.pipeline import find_in_squares
from gluonface.tta import detect_multiscale
from gluonface.viz import contact_sheet, draw_faces

#: Photos in memory at once.
_AT_ONCE = 16
#: Pixels of a labelled face, sqrt(width x height), for a detector with points of its own (MaskFace, section 4.2), and
#: of the side of its crop, which the paper does not tell: that of the crops in training (section 3.3).
_FACE, _CROP = 256, 480
#: IoU with its label from which on a detection may be a face: on whole photos, on crops (MaskFace, section 4.3).
_PHOTO_IOU, _CROP_IOU = 0.3, 0.4
#: Pixels of a face on a sheet.
_TILE = 320
#: Figures of a part of the data.
_OF_SUBSET = ("nme", "auc", "failure_rate", "ced_95", "faces", "missed")
_ALIGNED = {
    "boxes": "aligned from labelled boxes",
    "points": "aligned by labelled points (an oracle)",
    "detections": "faces as detected",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a net, or a file, said of the faces: points (n, K, 2) of each photo, NaN for faces that were missed, and how
    it looked at them, as keys of a result.
    """

    name: str
    how: dict
    points: list[np.ndarray]
    from_boxes: list[np.ndarray] | None = None


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    samples = read_labelled(args.data, args.images, args.sources, args.five)
    sizes = np.concatenate([sizes_of(args.norm, sample) for sample in samples])
    subsets = subsets_of(args.subsets, args.data, samples)
    if args.predictions:
        runs = [run_of_file(args, samples)]
    else:
        predictors = [build_predictor(name, args) for name in args.model]
        for predictor in predictors:
            check_scheme(predictor.facts.name, scheme_of(predictor), args.data, samples)
        found = None
        others = [one.facts.name for one in predictors if not isinstance(one, PointDetector)]
        if others and args.end_to_end is not None:
            if not args.end_to_end:
                raise InputError(f"--end-to-end: expected the name of a detector for {others[0]}, which finds no faces")
            found = match_faces(samples, detect(args, samples), args.match_iou)
        runs = [run_of(predictor, args, samples, found) for predictor in predictors]

    results, curves = [], []
    for one in runs:
        scores = score(samples, one.points, sizes, args.threshold)
        results.append(
            {
                "model": one.name,
                "scheme": samples[0].faces.scheme,
                **one.how,
                "norm": args.norm,
                "data": Path(args.data).stem,
                "domain": domain(args, samples),
                "photos": len(samples),
                **scores.to_dict(),
                **(compared(samples, scores, one.from_boxes, sizes) if one.from_boxes is not None else {}),
                **({"subsets": by_subset(subsets, samples, one.points, sizes, args.threshold)} if subsets else {}),
                **provenance(argv),
            }
        )
        curves.append(scores)
    print(describe(results))
    if args.picture:
        plot(args.picture, results, curves)
    if args.sheet:
        draw_sheet(args.sheet, samples, runs[0].points, curves[0])
    if args.json:
        write_result(args.json, rounded(results[0]))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", nargs="+", metavar="NAME", help="landmark nets or detectors (see `gluonface models`)")
    model.add_argument("--weights", metavar="FILE", help="run these weights of --model instead of the shipped ones")
    add_weights_arguments(model, LANDMARK_OPTIONS | DETECTOR_OPTIONS)
    model.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    model.add_argument("--predictions", metavar="JSONL", help="score these landmarks instead of a model's")
    view = parser.add_argument_group("view")
    view.add_argument("--align", choices=("boxes", "points"), default="boxes", help="see above (default: boxes)")
    view.add_argument(
        "--end-to-end", nargs="?", const="", metavar="DETECTOR", help="faces as this detector finds them, see above"
    )
    view.add_argument("--match-iou", type=float, metavar="T", help="which detection is a labelled face's, see above")
    view.add_argument(
        "--size",
        type=lambda text: text if text == "auto" else parse_size(text),
        default="auto",
        metavar="N|HxW|stored",
        help="end to end, or of KPNet in labelled boxes: long side of the photos, a canvas, or their own size "
        "(default: auto, the detector's; 256 of KPNet in labelled boxes)",
    )
    view.add_argument(
        "--short-side", type=int, metavar="N", help="end to end: short side of the photos instead (MaskFace: 640)"
    )
    view.add_argument(
        "--score-thresh",
        type=float,
        metavar="S",
        help="weaker detections are none (default: that of the detector D; .02 of one with points of its own)",
    )
    view.add_argument(
        "--flip",
        choices=FLIPS,
        default="points",
        help="of landmark nets: averaging over crop and mirror image (default: points, the paper's; none: one pass)",
    )
    view.add_argument(
        "--decoder", choices=HEATMAP_DECODERS, help="how heatmaps are read (default: what the weights' facts name)"
    )
    view.add_argument(
        "--passes",
        type=lambda text: text if text == "auto" else int(text),
        default="auto",
        metavar="N",
        help="of landmark nets: crops of each face (default: auto, a second one where the first was off)",
    )
    parser.add_argument("--data", required=True, metavar="JSONL", help="annotated photos")
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: images/ beside the data)")
    parser.add_argument(
        "--source", "--sources", dest="sources", nargs="+", metavar="NAME", help="only photos of these sources"
    )
    parser.add_argument("--subsets", choices=SUBSETS, help="figures of parts of the data, see above")
    parser.add_argument(
        "--five",
        action="store_true",
        help="score the five points alone, of labels and nets of any scheme; interocular is then between eye centres",
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
    if args.predictions and (args.weights or args.end_to_end is not None or args.align == "points"):
        parser.error("--predictions are scored as they are: no --weights, --end-to-end or --align points")
    if args.weights and len(args.model) > 1:
        parser.error("--weights are of one --model")
    check_weights_arguments(parser, args)
    if args.end_to_end is None and (args.short_side or (args.predictions and args.size != "auto")):
        parser.error("--size and --short-side go with --end-to-end")
    if args.size != "auto" and args.short_side:
        parser.error("give either --size or --short-side")
    if args.match_iou is not None and not 0 <= args.match_iou < 1:
        parser.error("--match-iou is from 0 to 1")
    if args.end_to_end is not None and args.align == "points":
        parser.error("--end-to-end faces are aligned as they were detected: no --align points")
    if args.json and args.model and len(args.model) > 1:
        parser.error("--json holds the result of one --model")
    if not args.threshold > 0 or (args.passes != "auto" and args.passes < 1):
        parser.error("--threshold is above 0 and --passes at least 1")
    return args


def read_labelled(data: str, images: str | None, sources: list[str] | None, five: bool = False) -> list[FaceSample]:
    """The photos with dense landmarks, or the five points, with the faces that are scored only; all of one scheme."""
    samples = []
    for sample in read_jsonl(data, images, sources):
        if five:
            labels = sample.faces.with_(landmarks=five_of(sample.faces), scheme="5")
            sample = dataclasses.replace(sample, faces=labels)
        rows = scored_faces(sample.faces)
        if len(rows):
            samples.append(dataclasses.replace(sample, faces=sample.faces[rows]))
    if not samples:
        dense = ", ".join(f"landmarks{name}" for name in SCHEMES if name != "5")
        wanted = "five points" if five else f"dense landmarks (one of {dense})"
        where = f" of {', '.join(sources)}" if sources else ""
        raise DataError(f"{data}: no face{where} has {wanted}")
    schemes = sorted({sample.faces.scheme for sample in samples}, key=int)
    if len(schemes) > 1:
        raise DataError(f"{data}: expected landmarks of one scheme, got {', '.join(schemes)}; choose with --source")
    return samples


def check_scheme(name: str, scheme: str, data: str, samples: list[FaceSample]) -> None:
    if samples[0].faces.scheme not in (scheme, "5"):
        raise DataError(f"{data} has {samples[0].faces.scheme} landmarks a face, {name} gives {scheme}")


def sizes_of(norm: str, sample: FaceSample) -> np.ndarray:
    """What the errors of a photo's faces are divided by."""
    try:
        return label_sizes(norm, sample.faces)
    except InputError as error:
        raise DataError(f"{sample.name}: {error}") from error


class PointDetector:
    """A detector that gives points itself, in the place of a `LandmarkPredictor`: no mirror image, one pass.

    Parameters
    ----------
    net : HybridBlock
        Its ``num_points`` are a scheme's.
    score_thresh : float
        Weaker detections are none.
    match_iou : float, optional
        See `best_proposals`; by default 0.4 on crops.
    """

    def __init__(self, net, score_thresh: float = LOW_SCORE, match_iou: float | None = None):
        self.net, self.facts, self.scheme = net, net.facts, str(net.num_points)
        self.score_thresh = score_thresh
        self.crop_iou = _CROP_IOU if match_iou is None else match_iou
        self.photo_iou = _PHOTO_IOU if match_iou is None else match_iou

    def analyzer(self, size) -> FaceAnalyzer:
        """The net on photos of that size, see `FaceAnalyzer`."""
        return FaceAnalyzer(self.net, size=size, score_thresh=self.score_thresh, batch_size=8)

    def from_boxes(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> tuple[list[np.ndarray], None]:
        """Points (n, K, 2) of the faces in labelled boxes (n, 4) of each image, NaN for those that were not found in
        their crop.
        """
        views = [[face_view(box) for box in labelled] for labelled in boxes]
        crops = (view.warp(image) for image, row in zip(images, views) for view in row)
        found = self.analyzer((_CROP, _CROP)).stream(crops)
        points = [np.full((len(row), int(self.scheme), 2), np.nan, np.float32) for row in views]
        for own, row, labelled in zip(points, views, boxes):
            for i, (view, box) in enumerate(zip(row, labelled)):
                faces = next(found)
                label = view.points(np.reshape(box, (1, 2, 2))).reshape(1, 4)
                best = best_proposals(faces.boxes, faces.scores, label, self.crop_iou)[0]
                if best >= 0:
                    own[i] = warp_points(invert_affine(view.matrix), points_of(faces, self.scheme)[best])
        return points, None

    def how_in_boxes(self) -> dict:
        """How `from_boxes` looks at the faces, as keys of a result."""
        seen_as = {"score_thresh": self.score_thresh, "face_pixels": _FACE}
        return {**seen_as, **how_aligned("boxes", None, self.crop_iou)}


class SquareDetector(PointDetector):
    """A KPNet. Faces of 256 pixels, as `PointDetector` shows them, are the largest of its bins: in labelled boxes it
    sees the whole photo, as in its paper, and its points are read in squares about the boxes.

    Parameters
    ----------
    net : KeypointDetector
    size : int, (int, int) or None
        Of the photos there, see `FaceAnalyzer`. By default no face of a photo is larger than the bins reach; the size
        in the net's facts may be larger, for the sake of small faces.
    score_thresh, match_iou
        See `PointDetector`; of detections on whole photos alone.
    """

    def __init__(
        self, net, size=KPNET_SCALES.long_side, score_thresh: float = LOW_SCORE, match_iou: float | None = None
    ):
        super().__init__(net, score_thresh, match_iou)
        self.size = size

    def from_boxes(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> tuple[list[np.ndarray], None]:
        """Points (n, K, 2) of the faces in labelled boxes (n, 4) of each image, all of them found."""
        analyzer, points = self.analyzer(self.size), []
        for image, labelled in zip(images, boxes):
            placed = analyzer.letterbox_for(image.shape[:2])
            found, *_ = find_in_squares(self.net, image, placed, labelled)
            points.append(placed.inverse_points(found[0].asnumpy()[: len(labelled)]))
        return points, None

    def how_in_boxes(self) -> dict:
        """How `from_boxes` looks at the faces, as keys of a result."""
        return {"squares": True, **size_told(self.size), **how_aligned("boxes")}


def face_view(box: np.ndarray) -> Affine:
    """The crop of a labelled box (4,): the face at `_FACE` pixels in its middle."""
    box = np.asarray(box, np.float64)
    scale = _FACE / np.sqrt(box_area(box[None])[0])
    shift = _CROP / 2 - scale * (box[:2] + box[2:]) / 2
    return Affine(np.column_stack([np.eye(2) * scale, shift]), (_CROP, _CROP))


def points_of(faces: Faces, scheme: str) -> np.ndarray:
    """Points (n, K, 2) of that scheme, which the faces have, or of scheme "5" those of any.

    Raises
    ------
    InputError
        The faces have no such points.
    """
    if scheme == "5":
        return faces.alignment_points
    if faces.scheme != scheme:
        what = "none" if faces.scheme is None else faces.scheme
        raise InputError(
            f"expected {scheme} dense landmarks of each face found, got {what}: score a detector that gives them, or "
            "--five"
        )
    return faces.landmarks


def scheme_of(predictor: LandmarkPredictor | PointDetector) -> str:
    """Of the points that it gives."""
    return predictor.scheme if isinstance(predictor, PointDetector) else predictor.net.scheme


def build_predictor(name: str, args: argparse.Namespace) -> LandmarkPredictor | PointDetector:
    """The net with the weights that the flags ask for, as they want it used."""
    net, _ = build_net(name, args)
    if args.decoder:
        if not hasattr(net, "set_decoder"):
            raise InputError(f"--decoder: expected a net with heatmaps of points, got {name}")
        net.set_decoder(args.decoder)
    if args.size != "auto" and args.end_to_end is None and not isinstance(net, KeypointDetector):
        raise InputError(f"--size goes with --end-to-end, or with a KPNet in labelled boxes, got {name}")
    net.hybridize()
    if net.facts.task == "landmarks":
        return LandmarkPredictor(net, flip=args.flip, passes=args.passes)
    if args.align == "points":
        raise InputError(f"--align points: expected a landmark net, got {name}, which looks for faces itself")
    score_thresh = LOW_SCORE if args.score_thresh is None else args.score_thresh
    if isinstance(net, KeypointDetector):
        if args.end_to_end is None and (args.score_thresh is not None or args.match_iou is not None):
            raise InputError(
                f"--score-thresh and --match-iou go with --end-to-end: in labelled boxes {name} finds every face"
            )
        own = args.end_to_end is not None or args.size == "auto"  # --size is of the photos end to end
        return SquareDetector(net, KPNET_SCALES.long_side if own else args.size, score_thresh, args.match_iou)
    return PointDetector(net, score_thresh, args.match_iou)


def detect(args: argparse.Namespace, samples: list[FaceSample]) -> list[Faces]:
    """What the detector finds on each photo, with its own threshold unless told otherwise."""
    analyzer = FaceAnalyzer(args.end_to_end, root=args.root, size=args.size, score_thresh=args.score_thresh)
    return look(analyzer, args, samples)


def look(analyzer: FaceAnalyzer, args: argparse.Namespace, samples: list[FaceSample]) -> list[Faces]:
    """Faces of each whole photo."""
    if args.short_side is None:
        found = analyzer.stream(read_photos(samples))
    else:
        found = (detect_multiscale(analyzer, photo, [args.short_side], flip=False) for photo in read_photos(samples))
    return list(progress(found, len(samples)))


def run_of_file(args: argparse.Namespace, samples: list[FaceSample]) -> Run:
    """What a file says."""
    detections, name = read_detections(args.predictions, samples)
    points = predicted_points(args.predictions, samples, match_faces(samples, detections, args.match_iou))
    return Run(name, how_aligned("detections", None, args.match_iou), points)


def run_of(predictor: LandmarkPredictor | PointDetector, args: argparse.Namespace, samples, found) -> Run:
    """What a net says, with detections also from labelled boxes."""
    name = predictor.facts.name + (f" ({Path(args.weights).name})" if args.weights else "")
    decoder = getattr(predictor.net, "decoder", None)
    how = {"flip": args.flip, "decoder": decoder and decoder.method}
    if isinstance(predictor, PointDetector):
        how["flip"] = "none"
        boxes = predict(predictor, samples, "boxes")
        if args.end_to_end is None:
            return Run(name, how | predictor.how_in_boxes(), boxes)
        how["score_thresh"] = predictor.score_thresh
        detections = look(predictor.analyzer(args.size), args, samples)
        matched = match_faces(samples, detections, predictor.photo_iou)
        points = [spread(sample, one, one.faces) for sample, one in zip(samples, matched)]
        how |= {**seen(args), **how_aligned("detections", name, predictor.photo_iou)}
        return Run(name, how, points, boxes)
    how["passes"] = args.passes
    if found is None:
        return Run(name, how | how_aligned(args.align), predict(predictor, samples, args.align))
    how |= {**seen(args), **how_aligned("detections", args.end_to_end, args.match_iou)}
    return Run(name, how, predict(predictor, samples, "detections", found), predict(predictor, samples, "boxes"))


def how_aligned(align: str, end_to_end: str | None = None, match_iou: float | None = None) -> dict:
    """Where the faces come from, as keys of a result."""
    matched = {} if match_iou is None else {"match_iou": match_iou}
    return {"align": align, "oracle": align == "points", "end_to_end": end_to_end, **matched}


def seen(args: argparse.Namespace) -> dict:
    """At what size whole photos were looked at, where the flags say it, as keys of a result."""
    if args.short_side:
        return {"short_side": args.short_side}
    return {} if args.size == "auto" else size_told(args.size)


def size_told(size: int | tuple[int, int] | None) -> dict:
    """The size of photos as a key of a result."""
    return {"size": "x".join(map(str, size)) if isinstance(size, tuple) else size or "stored"}


def predict(predictor: LandmarkPredictor, samples: list[FaceSample], align: str, found=None) -> list[np.ndarray]:
    """Landmarks (n, K, 2) of the labelled faces of each photo, NaN for those that were not found."""
    points = []
    reader = iter(progress(read_photos(samples), len(samples)))
    while images := list(itertools.islice(reader, _AT_ONCE)):
        here = slice(len(points), len(points) + len(images))
        if align == "boxes":
            points += predictor.from_boxes(images, [sample.faces.boxes for sample in samples[here]])[0]
        elif align == "points":
            points += predictor.from_points(images, [labelled_five(sample) for sample in samples[here]])[0]
        else:
            faces = predictor(images, [one.faces for one in found[here]])
            points += [spread(*row) for row in zip(samples[here], found[here], faces)]
    if points[0].shape[1] != samples[0].faces.landmarks.shape[1]:  # dense points of a net, labels of five
        points = [SCHEMES[scheme_of(predictor)].five_points(of_photo) for of_photo in points]
    return points


def five_of(labels: FaceLabels) -> np.ndarray:
    """Five points (n, 5, 2) of faces: of the dense landmarks where all are labelled, else the five."""
    if labels.landmarks is None:
        return labels.landmarks5
    five = SCHEMES[labels.scheme].five_points(labels.landmarks)
    whole = np.isfinite(five).all(axis=(1, 2))
    five[~whole] = labels.landmarks5[~whole]
    return five


def labelled_five(sample: FaceSample) -> np.ndarray:
    """`five_of` the faces of a photo, all of them known."""
    five, labels = five_of(sample.faces), sample.faces
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
    if len(faces):
        points[found.labels] = points_of(faces, sample.faces.scheme)
    return points


def predicted_points(path: str, samples: list[FaceSample], found: list[Found]) -> list[np.ndarray]:
    """`spread` of landmarks from a file."""
    scheme = samples[0].faces.scheme
    for sample, one in zip(samples, found):
        if scheme == "5" and (one.faces.landmarks5 is not None or one.faces.scheme in SCHEMES):
            continue
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
    here = np.isfinite(scores.errors) & np.isfinite(with_boxes.errors)
    if not here.any():
        return {"nme_gt_boxes": float("nan"), "relative": float("nan"), "compared": 0}
    reference = float(with_boxes.errors[here].mean())
    relative = float(scores.errors[here].mean()) / reference - 1 if reference else float("nan")
    return {"nme_gt_boxes": reference, "relative": relative, "compared": int(here.sum())}


def subsets_of(kind: str | None, data: str, samples: list[FaceSample]) -> dict[str, np.ndarray]:
    """Name of each part of the data and which faces (N,) belong to it; parts that the data have not are left out."""
    if kind is None:
        return {}
    try:
        masks = {name: np.concatenate([among(s) for s in samples]) for name, among in SUBSETS[kind].items()}
    except DataError as error:
        raise DataError(f"{data}: --subsets {kind}: {error}") from error
    if kind == "300w":
        # A part is told of whole only: half of the common set, or its training faces beside, would pass for it.
        sources = {sample.source for sample in samples}
        whole = {name: set(ibug.SOURCES[name]) <= sources for name in masks}
        known = {source for name in masks for source in ibug.SOURCES[name]}
        if sources - known or not any(whole.values()):
            raise DataError(
                f"{data}: --subsets 300w: expected photos of whole test sets of 300-W ({', '.join(sorted(known))}), "
                f"got {', '.join(sorted(filter(None, sources))) or 'none with a source'}"
            )
        return {name: mask for name, mask in masks.items() if whole[name]}
    return {name: mask for name, mask in masks.items() if mask.any()}


def _from(split: str) -> Callable[[FaceSample], np.ndarray]:
    return lambda sample: np.full(len(sample.faces), sample.source in ibug.SOURCES[split])


#: Data set -> part -> which faces (n,) of a photo belong to it.
SUBSETS = {
    "300w": {split: _from(split) for split in ("common", "challenging", "full", "test")},
    "aflw": {"full": lambda sample: np.ones(len(sample.faces), bool), "frontal": lambda s: frontal_faces(s.faces)},
}


def by_subset(subsets: dict[str, np.ndarray], samples: list[FaceSample], points, sizes, threshold: float) -> dict:
    """Figures of each part."""
    truth, predicted = np.concatenate([sample.faces.landmarks for sample in samples]), np.concatenate(points)
    figures = {}
    for name, mask in subsets.items():
        scores = evaluate_landmarks(predicted[mask], truth[mask], samples[0].faces.scheme, sizes[mask], threshold)
        figures[name] = {key: getattr(scores, key) for key in _OF_SUBSET}
    return figures


def domain(args: argparse.Namespace, samples: list[FaceSample]) -> str:
    faces = sum(len(sample.faces) for sample in samples)
    return args.domain or describe_photos(args.data, samples, faces)


def per_cent(value: float | None, digits: int = 2) -> str:
    """``3.45``; a dash where nothing was measured."""
    return "-" if value is None or not np.isfinite(value) else f"{100 * value:.{digits}f}"


def looked_at(result: dict) -> str:
    """How faces were looked at, in words."""
    words = [_ALIGNED[result["align"]] + (f" by {result['end_to_end']}" if result["end_to_end"] else "")]
    if "face_pixels" in result:
        words = [f"labelled faces at {result['face_pixels']} pixels"]
    if "squares" in result:
        words = ["in squares about labelled boxes"]
    words += [
        f"{word} {result[key]}" for key, word in (("short_side", "short side"), ("size", "size")) if key in result
    ]
    if "match_iou" in result:
        words.append(f"the most confident one over IoU {result['match_iou']:g}")
    if "flip" in result:
        words.append("one pass of the net" if result["flip"] == "none" else f"{result['flip']} averaged over flips")
    if result.get("decoder"):
        words.append(f"decoder {result['decoder']}")
    if "passes" in result:
        words.append(f"{crops_a_face(result['passes'])} a face")
    return ", ".join(words)


def all_looked_at(results: list[dict]) -> str:
    """`looked_at` of all results, of each where they differ."""
    words = {r["model"]: looked_at(r) for r in results}
    if len(set(words.values())) == 1:
        return looked_at(results[0])
    return "\n".join(f"{model}: {how}" for model, how in words.items())


def crops_a_face(passes: int | str) -> str:
    return "one or two crops" if passes == "auto" else "1 crop" if passes == 1 else f"{passes} crops"


def describe(results: list[dict]) -> str:
    """The results as text, in per cent."""
    first = results[0]
    rows = [("per cent", "faces", "missed", "NME", "AUC", "failures", "NME 90th", "95th", "99th percentile", "CED@.95")]
    groups = [("NME, per cent", *first["nme_groups"])]
    for r in results:
        figures = (r["nme"], r["auc"], r["failure_rate"], *r["nme_percentiles"].values(), r["ced_95"])
        rows.append((r["model"], str(r["faces"]), str(r["missed"]), *map(per_cent, figures)))
        groups.append((r["model"], *map(per_cent, r["nme_groups"].values())))
    parts = [
        f"{first['domain']}\n{first['scheme']} points, {all_looked_at(results)}\n"
        f"errors over {first['norm']}, AUC and failures at {100 * first['threshold']:g} %",
        table(rows),
        table(groups),
    ]
    for r in results:
        if "nme_gt_boxes" in r:
            change = "-" if not np.isfinite(r["relative"]) else f"{100 * r['relative']:+.1f} %"
            parts.append(
                f"{r['model']}: NME from detections {per_cent(r['nme'])} %, from labelled boxes "
                f"{per_cent(r['nme_gt_boxes'])} %: {change} (both over the {r['compared']} faces found in both ways)"
            )
    if "subsets" in first:
        rows = [("NME, per cent", *(f"{name} ({one['faces']} faces)" for name, one in first["subsets"].items()))]
        rows += [(r["model"], *(with_missed(one) for one in r["subsets"].values())) for r in results]
        parts.append(table(rows))
    return "\n\n".join(parts)


def with_missed(part: dict) -> str:
    """NME of a part of the data, and how many of its faces were missed."""
    return per_cent(part["nme"]) + (f" ({part['missed']} missed)" if part["missed"] else "")


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
        # Infinitely far off: the curve ends below 100 % by as much.
        text += f", {scores.missed} missed" if scores.missed else ""
        axes.step(100 * thresholds, 100 * share, where="post", label=text)
    axes.set(
        xlim=(0, 100 * first["threshold"]),
        ylim=(0, 102),
        xlabel=f"NME, % ({first['norm']})",
        ylabel="share of faces, %",
    )
    title = f"Cumulative error distribution, {first['scheme']} points\n{first['domain']}\n{all_looked_at(results)}"
    axes.set_title(title, size=8, wrap=True)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
