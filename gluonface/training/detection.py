"""What scripts that train anchor-based detectors share: views of photos, batches, the start, validation."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np

from .._compat import mx
from ..data.base import FaceLabels, FaceSample, label_points_only
from ..data.facejsonl import FaceJsonLines
from ..data.store import SampleStore
from ..data.transforms.colour import Degrade
from ..data.transforms.presets.retinaface import RetinaFaceSamples, RetinaFaceTrainTransform
from ..errors import DataError, InputError
from ..faces import Faces
from ..geometry import letterbox
from ..image import load_image
from ..metrics.landmark_scoring import best_proposals, evaluate_landmarks, label_sizes, scored_faces
from ..metrics.scoring import evaluate_detections
from ..model_zoo import list_models, model_facts
from ..model_zoo.store import read_params
from ..model_zoo.weights import find_weights, load_arrays
from ..pipeline import FaceAnalyzer, find_in_squares
from ..targets import AnchorTargets, labelled_points
from .inputs import source_weights

__all__ = [
    "BoxesAlone",
    "NormalisedBatches",
    "add_anchor_arguments",
    "add_points_arguments",
    "add_size_arguments",
    "add_view_arguments",
    "anchor_targets",
    "detection_validator",
    "errors_in_squares",
    "found_points",
    "idle_view_flags",
    "images_of",
    "landmark_figures",
    "landmark_validator",
    "load_start",
    "merged_validator",
    "square_validator",
    "training_samples",
    "training_views",
    "with_landmarks",
]


def add_size_arguments(group) -> None:
    """``--data-shape`` and ``--val-size``."""
    group.add_argument("--data-shape", type=int, default=640, help="side of the training crops in pixels")
    group.add_argument("--val-size", type=int, default=640, help="long side of the validation photos in pixels")


def add_points_arguments(group) -> None:
    """The flags of `training_samples` about photos that are not labelled completely."""
    group.add_argument(
        "--train-points",
        nargs="+",
        metavar="JSONL",
        help="photos of which one face each is labelled: they do not train where faces are",
    )
    group.add_argument("--points-sources", nargs="+", metavar="NAME", help="take these sources of --train-points only")


def images_of(args: argparse.Namespace, path: str) -> str | None:
    """Folder of the photos of some annotations: ``--images``; None, beside them, where they lie in another folder than
    ``--train``.
    """
    elsewhere = args.train and Path(path).resolve().parent != Path(args.train).resolve().parent
    return None if elsewhere else args.images


def training_samples(args: argparse.Namespace) -> tuple[list[FaceSample], list[FaceSample]]:
    """Photos to learn from: those labelled completely, none without ``--train``, and those of `label_points_only`.

    Raises
    ------
    DataError
        A file cannot be read, or no photo is of a source that was asked for.
    """
    complete = FaceJsonLines(args.train, args.images, args.sources).samples if args.train else []
    partial = []
    for path in args.train_points or ():
        partial += FaceJsonLines(path, images_of(args, path)).samples
    if args.train_points and args.points_sources:
        missing = sorted(set(args.points_sources) - {sample.source for sample in partial})
        if missing:
            raise DataError(f"--points-sources: no photo of --train-points has the source {', '.join(missing)}")
        partial = [sample for sample in partial if sample.source in args.points_sources]
    return complete, list(map(label_points_only, partial))


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `training_views`."""
    views = parser.add_argument_group("augmentation (defaults: RetinaFace's)")
    views.add_argument("--crop-ratios", type=float, nargs="+", default=(0.3, 0.45, 0.6, 0.8, 1.0))
    views.add_argument("--face-prob", type=float, default=0.0, help="share of crops made around a face of a drawn size")
    views.add_argument("--face-sizes", type=float, nargs="+", help="sizes to draw from, in pixels")
    views.add_argument("--face-size-weights", type=float, nargs="+")
    views.add_argument("--mosaic", type=float, default=0.0, help="share of 2x2 mosaics, for small faces")
    views.add_argument("--rotate", type=float, default=0.0, help="share of crops turned by up to --max-degrees")
    views.add_argument("--max-degrees", type=float, default=30.0)
    views.add_argument(
        "--quarter-turns", type=float, default=0.0, help="share of crops turned by 90, 180 or 270 degrees"
    )
    views.add_argument("--degrade", action="store_true", help="blur, noise and JPEG artefacts now and then")
    views.add_argument("--min-face", type=float, default=8.0, help="smaller faces are neither learnt nor background")


def idle_view_flags(args: argparse.Namespace) -> dict[str, str]:
    """Attributes of those flags of `add_view_arguments` that do nothing beside the others, and why (`refuse_flags`)."""
    idle = {}
    if not args.face_prob:
        idle |= dict.fromkeys(("face_sizes", "face_size_weights"), "it counts with --face-prob, the share of them")
    if not args.rotate:
        idle["max_degrees"] = "it counts with --rotate, the share of turned crops"
    return idle


def add_anchor_arguments(
    group, positive_iou: float = 0.35, negative_iou: float = 0.35, *, hard_negatives: bool = True
) -> None:
    """The flags of the anchor loss, one that mines hard negatives or not, and of `anchor_targets`."""
    group.add_argument("--smooth-at", type=float, default=1.0, help="where smooth-L1 becomes a line")
    group.add_argument("--positive-iou", type=float, default=positive_iou)
    group.add_argument("--negative-iou", type=float, default=negative_iou)
    if hard_negatives:
        group.add_argument(
            "--hard-negatives", type=float, default=3.0, help="background anchors mined per positive one"
        )


def training_views(
    args: argparse.Namespace, samples: list[FaceSample], seed: int, transform: Callable | None = None
) -> RetinaFaceSamples:
    """An epoch's views of photos, as the flags say; with a transform of one's own in the place of RetinaFace's."""
    transform = transform or RetinaFaceTrainTransform(
        size=args.data_shape,
        face_prob=args.face_prob,
        face_sizes=args.face_sizes,
        face_size_weights=args.face_size_weights,
        crop_ratios=args.crop_ratios,
        rotate_prob=args.rotate,
        max_degrees=args.max_degrees,
        quarter_turn_prob=args.quarter_turns,
        degrade=Degrade() if args.degrade else None,
        min_face=args.min_face,
    )
    return RetinaFaceSamples(
        SampleStore(samples, args.cache),
        transform,
        seed=seed,
        mosaic_prob=args.mosaic,
        source_weights=source_weights(args.source_weight),
    )


def anchor_targets(args: argparse.Namespace, kind: type[AnchorTargets] = AnchorTargets, **options) -> AnchorTargets:
    """Targets for the training crops, of a class and with options of its own."""
    size_hw = args.data_shape, args.data_shape
    return kind(size_hw, positive_iou=args.positive_iou, negative_iou=args.negative_iou, **options)


class NormalisedBatches:
    """Batches with the factors added that make sums over anchors means over the whole batch, see `AnchorLoss`.

    Parameters
    ----------
    batches : iterable with a length
        Of tuples of arrays.
    *counts : callable
        Each ``count(*arrays)`` gives what a mean is taken over, such as how many anchors are positive. One array (B,)
        is added for each: B over that number, which is at least 1.
    """

    def __init__(self, batches: Iterable, *counts: Callable[..., float]):
        self.batches, self.counts = batches, counts

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for arrays in self.batches:
            size = len(arrays[0])
            factors = (size / max(1.0, float(count(*arrays))) for count in self.counts)
            yield *arrays, *(np.full(size, factor, np.float32) for factor in factors)


def load_start(net, start: str, anew: tuple[str, ...] = ()) -> None:
    """Start a net from a listed model's weights, whose mean and std it takes over, or from a file of weights.

    What the other model has not, such as the pose of a detector without one, keeps its values; what this net has not is
    left out.

    Parameters
    ----------
    net : HybridBlock
        Initialised.
    start : str
        Name or path.
    anew : tuple of str
        What names of parameters begin with that keep their values where the start has none of the same shape, such as
        those of other landmarks. Of a file all others have to fit.

    Raises
    ------
    InputError
        The model is not a detector of the same backbone.
    WeightsError
        The model has no weights, or the file does not fit.
    """
    if start in list_models():
        source = model_facts(start)
        if (source.task, source.backbone) != (net.facts.task, net.facts.backbone):
            raise InputError(
                f"{net.facts.name} can start from a model for {net.facts.task} with the backbone {net.facts.backbone}; "
                f"{start} is for {source.task}, with {source.backbone}"
            )
        path, options = find_weights(source), {"allow_missing": True, "ignore_extra": True}
        facts = dataclasses.replace(net.facts, mean=source.mean, std=source.std)
    else:
        path, options, facts = start, {}, net.facts
    arrays = read_params(path)
    if anew:
        own = {name: p for name, p in net._collect_params_with_prefix().items() if name.startswith(anew)}
        arrays = {name: array for name, array in arrays.items() if name in own or not name.startswith(anew)}
        for name, parameter in own.items():
            if name not in arrays or arrays[name].shape != parameter.shape:
                arrays[name] = parameter.data(parameter.list_ctx()[0]).asnumpy()
    load_arrays(net, arrays, source=path, **options)
    net.facts = facts


class BoxesAlone:
    """A MaskFace net for `FaceAnalyzer` as a detector without points, which for the hundreds of boxes of low score that
    average precision looks at would take most of the time.

    Facts, parameters and settings are the net's: ``set_nms`` here sets them there.

    Parameters
    ----------
    net : MaskFaceDetector
    """

    # Read anew each time, since they change.
    facts, nms_thresh, nms_topk, post_nms, score_thresh = (
        property(attrgetter(f"net.{name}")) for name in ("facts", "nms_thresh", "nms_topk", "post_nms", "score_thresh")
    )

    def __init__(self, net):
        self.net, self.network, self.close_canvas = net, net.network, net.close_canvas
        self.set_nms, self.collect_params, self.hybridize = net.set_nms, net.collect_params, net.hybridize

    def __call__(self, x):
        """Images (B, 3, H, W) to ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4), as the net gives them."""
        return self.finish(x, self.network(x))

    def finish(self, x, preds, score_thresh: float = 0.0):
        """The same of what the network gave."""
        cls_preds, box_preds, *_ = preds
        with x.ctx:
            return self.net.find_boxes(mx.nd, x, cls_preds, box_preds, least=score_thresh)


def merged_validator(parts: Sequence[Callable]) -> Callable | None:
    """``evaluate(net)``: what all of the parts give; None where there are none."""

    def evaluate(net) -> dict[str, float]:
        return {key: value for part in parts for key, value in part(net).items()}

    return evaluate if parts else None


def detection_validator(samples: list[FaceSample], size: int) -> Callable:
    """``evaluate(net)``: average precision on photos, each at that long side."""
    photos = [sample.image_path for sample in samples]
    labels = [sample.faces for sample in samples]

    def evaluate(net) -> dict[str, float]:
        analyzer = FaceAnalyzer(net, size=size, score_thresh=0.02, batch_size=4)
        figures = evaluate_detections(analyzer.stream(photos), labels)
        return {key: figures[key] for key in ("ap50", "ap", "recall_at_1fppi")}

    return evaluate


def check_points(samples: Iterable[FaceSample], num_points: int, flag: str) -> None:
    """Refuse training photos without a face that has the points of a net.

    Parameters
    ----------
    samples : iterable of FaceSample
    num_points : int
        Of the net.
    flag : str
        Where the photos come from, for the message.

    Raises
    ------
    DataError
        No face has so many points.
    """
    if not any(np.isfinite(labelled_points(sample.faces, num_points)).any() for sample in samples):
        expected = "landmarks5" if num_points == 5 else f"landmarks of the scheme {num_points}"
        raise DataError(f"{flag}: expected faces with {expected}, as the net has {num_points} points; found none")


def with_landmarks(samples: list[FaceSample]) -> list[FaceSample]:
    """The photos with dense landmarks, and on them the faces that have some and are not ignored.

    Raises
    ------
    DataError
        No face has dense landmarks, or faces have those of several schemes.
    """
    rows = [scored_faces(sample.faces) for sample in samples]
    kept = [dataclasses.replace(one, faces=one.faces[own]) for one, own in zip(samples, rows) if len(own)]
    schemes = sorted({sample.faces.scheme for sample in kept})
    if len(schemes) != 1:
        raise DataError(f"expected photos with dense landmarks of one scheme, got {', '.join(schemes) or 'none'}")
    return kept


def landmark_figures(samples: list[FaceSample], found: Iterable[Faces], norm: str) -> dict[str, float]:
    """How far the dense landmarks of the faces that a detector with such points finds are off.

    A face that was missed, or whose photo's detections have no such points, is a failure in ``auc`` and
    ``failure_rate`` and counts in ``missed``; ``nme`` is over the others.

    Parameters
    ----------
    samples : list of FaceSample
        From `with_landmarks`.
    found : iterable of Faces
        Of each photo.
    norm : str
        One of `gluonface.metrics.NORMS`.
    """
    truth, predicted = [sample.faces.landmarks for sample in samples], []
    for sample, faces in zip(samples, found, strict=True):
        missed = np.full(sample.faces.landmarks.shape, np.nan)
        same = faces.scheme == sample.faces.scheme
        predicted.append(found_points(faces, sample.faces.boxes) if same else missed)
    sizes = np.concatenate([label_sizes(norm, sample.faces) for sample in samples])
    scores = evaluate_landmarks(np.concatenate(predicted), np.concatenate(truth), samples[0].faces.scheme, sizes)
    return {key: getattr(scores, key) for key in ("nme", "auc", "failure_rate", "missed")}


def landmark_validator(samples: list[FaceSample], size: int, norm: str) -> Callable:
    """``evaluate(net)``: `landmark_figures` of those photos that have landmarks, each at that long side."""
    labelled = with_landmarks(samples)

    def evaluate(net) -> dict[str, float]:
        analyzer = FaceAnalyzer(net, size=size, score_thresh=0.02, batch_size=4)
        return landmark_figures(labelled, analyzer.stream(sample.image_path for sample in labelled), norm)

    return evaluate


def found_points(faces: Faces, boxes: np.ndarray, iou: float = 0.4) -> np.ndarray:
    """Landmarks (M, K, 2) of labelled boxes (M, 4): those of the most confident of the faces that overlap a box by more
    than ``iou`` (MaskFace section 4.3); NaN where there is none.
    """
    points = np.full((len(boxes), *faces.landmarks.shape[1:]), np.nan)
    rows = best_proposals(faces.boxes, faces.scores, boxes, iou)
    points[rows >= 0] = faces.landmarks[rows[rows >= 0]]
    return points


def errors_in_squares(
    net, samples: Iterable[FaceSample], size: int, points_of: Callable[[FaceLabels], np.ndarray]
) -> np.ndarray:
    """How far the points are off that a KPNet finds in squares about the labelled boxes, see `find_in_squares`.

    Parameters
    ----------
    net : KeypointDetector
    samples : iterable of FaceSample
    size : int
        Long side of the photos in pixels.
    points_of : callable
        ``points_of(faces)`` gives the points (M, K, 2) of labelled faces, NaN where a point does not count.

    Returns
    -------
    ndarray (N,)
        For each face with a point that counts and a box that does: the mean distance of its points over the size of
        its box, sqrt(width x height). Whatever box the points give, each face is compared with its own label.
    """
    errors = [np.empty(0)]
    for sample in samples:
        faces = sample.faces[~sample.faces.ignore]
        truth = points_of(faces)
        counted = np.isfinite(truth).all(axis=2).any(axis=1) & (faces.face_sizes > 0)
        if not counted.any():
            continue
        faces, truth = faces[counted], truth[counted]
        image = load_image(sample.image_path)
        placed = letterbox(image.shape[:2], (size, size))
        points, *_ = find_in_squares(net, image, placed, faces.boxes)
        distances = np.linalg.norm(placed.inverse_points(points[0].asnumpy()) - truth, axis=2)
        errors.append(np.nanmean(distances, axis=1) / faces.face_sizes)
    return np.concatenate(errors)


def square_validator(samples: list[FaceSample], size: int, num_points: int) -> Callable:
    """``evaluate(net)``: ``nme_in_boxes``, the mean of `errors_in_squares` of all faces with so many points.

    Raises
    ------
    DataError
        No face has them.
    """

    def points_of(faces: FaceLabels) -> np.ndarray:
        return labelled_points(faces, num_points)

    labelled = [one for one in samples if np.isfinite(points_of(one.faces[~one.faces.ignore])).any()]
    if not labelled:
        raise DataError(f"--val-points: expected faces with {num_points} points, found none in {len(samples)} photos")
    return lambda net: {"nme_in_boxes": float(errors_in_squares(net, labelled, size, points_of).mean())}
