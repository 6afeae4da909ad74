"""What scripts that train anchor-based detectors share: views of photos, batches, the start, validation."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ..data.base import FaceSample, label_points_only
from ..data.facejsonl import FaceJsonLines
from ..data.store import SampleStore
from ..data.transforms.colour import Degrade
from ..data.transforms.presets.retinaface import RetinaFaceSamples, RetinaFaceTrainTransform
from ..errors import DataError, InputError
from ..metrics.scoring import evaluate_detections
from ..model_zoo import list_models, model_facts
from ..model_zoo.weights import find_weights
from ..pipeline import FaceAnalyzer
from ..targets import AnchorTargets
from .inputs import source_weights

__all__ = [
    "NormalisedBatches",
    "add_anchor_arguments",
    "add_points_arguments",
    "add_size_arguments",
    "add_view_arguments",
    "anchor_targets",
    "detection_validator",
    "load_start",
    "training_samples",
    "training_views",
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


def training_samples(args: argparse.Namespace) -> tuple[list[FaceSample], list[FaceSample]]:
    """Photos to learn from: those labelled completely, and those of `label_points_only`.

    Raises
    ------
    DataError
        A file cannot be read, or no photo is of a source that was asked for.
    """
    complete = FaceJsonLines(args.train, args.images, args.sources).samples
    partial = []
    for path in args.train_points or ():
        # Annotations that lie somewhere else have their photos beside them.
        images = args.images if Path(path).parent.samefile(Path(args.train).parent) else None
        partial += FaceJsonLines(path, images).samples
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


def add_anchor_arguments(group) -> None:
    """The flags of the anchor loss and of `anchor_targets`."""
    group.add_argument("--smooth-at", type=float, default=1.0, help="where smooth-L1 becomes a line")
    group.add_argument("--positive-iou", type=float, default=0.35)
    group.add_argument("--negative-iou", type=float, default=0.35)
    group.add_argument("--hard-negatives", type=float, default=3.0, help="background anchors mined per positive one")


def training_views(args: argparse.Namespace, samples: list[FaceSample], seed: int) -> RetinaFaceSamples:
    """An epoch's views of photos, as the flags say."""
    transform = RetinaFaceTrainTransform(
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


def load_start(net, start: str) -> None:
    """Start a net from a listed model's weights, whose mean and std it takes over, or from a file of weights.

    What the other model has not, such as the pose of a detector without one, keeps its values; what this net has not is
    left out.

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
        net.load_parameters(find_weights(source), allow_missing=True, ignore_extra=True)
        net.facts = dataclasses.replace(net.facts, mean=source.mean, std=source.std)
    else:
        net.load_parameters(start)


def detection_validator(samples: list[FaceSample], size: int) -> Callable:
    """``evaluate(net)``: average precision on photos, each at that long side."""
    photos = [sample.image_path for sample in samples]
    labels = [sample.faces for sample in samples]

    def evaluate(net) -> dict[str, float]:
        analyzer = FaceAnalyzer(net, size=size, score_thresh=0.02, batch_size=4)
        figures = evaluate_detections(analyzer.stream(photos), labels)
        return {key: figures[key] for key in ("ap50", "ap", "recall_at_1fppi")}

    return evaluate
