r"""Five points regressed from a crop of each face, beside those of a detector: the crop-based rows of RetinaFace's
Table 2.

    python benchmarks/regress_points.py --train data/widerface_train.jsonl --data data/widerface_val.jsonl \
        --backbone resnet50_v1b --pretrained-base --gpus 0 --save-prefix runs/wider_r50 \
        --detections-of retinaface_mobilenet0.25_fc26 --json out/wider_r50.json --picture out/wider_r50.png
    python benchmarks/regress_points.py --weights runs/wider_r50/last.params --backbone resnet50_v1b --data X.jsonl

The paper trains ResNet-50 on WIDER FACE and on AFLW, and looks at labelled boxes ("gtbox"): AUC 61.55 % and 8.78 % of
failures, 44.91 % and 25.40 %; its detector of the same backbone gives 58.54 % and 9.82 % by itself, at no cost a face.
It tells neither crop nor recipe: these are ours, and so is the smaller default of --backbone.

Net: a classifier without its classifier, the mean of its last map, ten numbers: places in shares of the crop's side.
Loss: smooth-L1. Crop: a square about the middle of a box, (1 + --margin) times its long side, --size pixels wide. In
training boxes are enlarged, shrunk and shifted, and crops turned and mirrored, since detectors are not exact.

It learns all five points that --train has, a teacher's, too. Scored are those that people set, as in eval_detection.py:
a face's error is the mean distance of its known points over sqrt(width x height) of its labelled box. AUC and failure
rate go up to 10 %, as in the paper. --detections-of takes the boxes that a detector finds on whole photos, from
--score-thresh on; a labelled face and the detection that overlaps it most (intersection over union of at least 0.5,
each detection once) belong together. A face without one is missed: a failure, and infinitely far off in AUC and CED,
but not in the NME.

Weights are best.params where --val chose them, else last.params. --weights are scored as they are; give the --backbone,
--size and --margin that they were trained with.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import describe_photos, provenance, read_result, rounded, run, write_result
from detectors import LEAST_IOU, LOW_SCORE, gathered, match_faces, parse_size, read_photos
from eval_landmarks import describe, plot, read_labelled, seen
from eval_mesh import Truth, by_photo
from eval_widerface import progress

from gluonface import FaceAnalyzer
from gluonface._compat import mx
from gluonface.alignment import context_of, prepared
from gluonface.data import FaceJsonLines, FaceLabels, FaceSample
from gluonface.data.store import CACHES, SampleStore
from gluonface.data.transforms.affine import Affine
from gluonface.data.transforms.colour import ColourJitter, Degrade
from gluonface.data.transforms.ops import Compose, Flip, Geometric, Rotate, place
from gluonface.data.transforms.presets.heatmap import HeatmapSamples
from gluonface.engine import (
    Engine,
    TrainConfig,
    add_training_arguments,
    config_from_args,
    contexts_from_gpus,
    seed_everything,
)
from gluonface.errors import DataError
from gluonface.facts import ModelFacts
from gluonface.geometry import invert_affine, warp_points
from gluonface.metrics import LandmarkScores, evaluate_landmarks
from gluonface.model_zoo.backbone import BACKBONES, Features
from gluonface.model_zoo.block import ZooBlock
from gluonface.model_zoo.counting import count_macs, count_parameters
from gluonface.training.config import refuse_flags
from gluonface.training.inputs import add_base_argument, batch_loader, image_preparer

nn = mx.gluon.nn

#: Of AUC and failure rate (the paper's table 2).
THRESHOLD = 0.10
#: Ours; the paper tells none.
RECIPE = TrainConfig(
    batch_size=64,
    epochs=40,
    optimizer="adam",
    lr=1e-3,
    lr_mode="cosine",
    warmup_epochs=1.0,
    wd=1e-5,
    save_prefix="runs/regress_points",
)
#: Flags that say what weights are of, and those that only training has.
_OF_NET = ("backbone", "size", "margin")
_OF_TRAINING = ("scale", "shift", "rotate", "jitter", "degrade", "smooth_at", "val", "train_sources")
_NOT_WITH_WEIGHTS = (*_OF_TRAINING, "train_images", "cache", "pretrained_base", "resume", "save_prefix", "epochs", "lr")
#: Crops that go through the net at once.
_AT_ONCE = 32


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    samples = read_scored(args.data, args.images, args.sources)
    net, how = measured_net(args)
    rows = measure(args, net, samples)
    print(describe([result for result, _ in rows]))
    if args.picture:
        plot(args.picture, *map(list, zip(*rows)))
    if args.json:
        result = {
            "model": net.facts.name,
            **{name: getattr(args, name) for name in _OF_NET},
            "params": net.facts.params,
            "gf": net.facts.gf,
            **how,
            "detector": args.detections_of,
            **({"score_thresh": args.score_thresh, "iou": LEAST_IOU} if args.detections_of else {}),
            "data": Path(args.data).stem,
            "rows": [result for result, _ in rows],
            **provenance(argv),
        }
        write_result(args.json, rounded(result))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("net and crop")
    model.add_argument(
        "--backbone",
        choices=sorted(BACKBONES),
        default="mobilenet0.25",
        metavar="NAME",
        help=f"one of {', '.join(sorted(BACKBONES))} (default: %(default)s; the paper: ResNet-50)",
    )
    add_base_argument(model)
    model.add_argument("--weights", metavar="PARAMS", help="score these weights and train nothing")
    model.add_argument("--size", type=int, default=112, metavar="N", help="side of the crop (default: %(default)s)")
    model.add_argument(
        "--margin", type=float, default=0.5, metavar="X", help="in shares of the box's long side (default: %(default)s)"
    )
    train = parser.add_argument_group("data to learn from")
    train.add_argument("--train", metavar="JSONL", help="annotations with five points, or dense ones")
    train.add_argument("--val", metavar="JSONL", help="annotations for the NME after each epoch, which chooses weights")
    train.add_argument("--train-images", metavar="DIR", help="folder of both's photos (default: images/ beside each)")
    train.add_argument("--train-sources", nargs="+", metavar="NAME", help="learn from these sources of --train only")
    train.add_argument("--cache", choices=[kind for kind in CACHES if kind], help="keep photos: encoded, or decoded")
    tricks = parser.add_argument_group("crops in training")
    tricks.add_argument("--scale", type=float, default=0.15, help="of boxes, largest change (default: %(default)s)")
    tricks.add_argument(
        "--shift", type=float, default=0.1, help="of boxes, in shares of their sides (default: %(default)s)"
    )
    tricks.add_argument("--rotate", type=float, default=20.0, help="in degrees, to either side (default: %(default)g)")
    tricks.add_argument("--jitter", type=float, default=0.4, help="of colours, see ColourJitter (default: %(default)s)")
    tricks.add_argument("--degrade", action="store_true", help="blur, noise and JPEG artefacts now and then")
    tricks.add_argument(
        "--smooth-at",
        type=float,
        default=0.02,
        metavar="X",
        help="the loss is square below this distance, in shares of the crop's side (default: %(default)s)",
    )
    test = parser.add_argument_group("test")
    test.add_argument("--data", required=True, metavar="JSONL", help="annotated photos to measure on")
    test.add_argument("--images", metavar="DIR", help="folder of their photos (default: images/ beside the data)")
    test.add_argument("--sources", nargs="+", metavar="NAME", help="only photos of these sources of the data")
    test.add_argument("--detections-of", metavar="MODEL", help="also on the boxes of this detector, beside its points")
    test.add_argument("--root", metavar="DIR", help="folder of its weights, searched before the package's")
    test.add_argument(
        "--detector-size",
        type=parse_size,
        default=640,
        metavar="N|HxW|stored",
        help="long side of the photos that it looks at (default: 640), a canvas, or their own size",
    )
    test.add_argument(
        "--score-thresh",
        type=float,
        default=LOW_SCORE,
        metavar="S",
        help="its weaker detections are none (default: %(default)s)",
    )
    test.add_argument("--domain", metavar="TEXT", help="what the photos are, in words, to stand beside the figures")
    test.add_argument("--json", metavar="OUT", help="write the result")
    test.add_argument("--picture", metavar="PNG", help="draw the cumulative error distributions")
    add_training_arguments(parser, RECIPE)
    args = parser.parse_args(argv)
    if bool(args.train) == bool(args.weights):
        parser.error("give either --train, to learn from, or --weights that have learnt")
    if args.weights:
        refuse_flags(parser, argv, dict.fromkeys(_NOT_WITH_WEIGHTS, "--weights are scored as they are"))
    if not args.detections_of:
        refuse_flags(
            parser, argv, dict.fromkeys(("root", "detector_size", "score_thresh"), "it goes with --detections-of")
        )
    if args.size < 32 or not args.margin >= 0:
        parser.error("--size is at least 32 and --margin at least 0")
    # Beyond, the middle of a face could leave its crop.
    if not (0 <= args.scale <= 0.5 and 0 <= args.shift <= 0.5 and 0 <= args.rotate <= 180 and 0 <= args.jitter <= 1):
        parser.error("--scale and --shift are from 0 to .5, --rotate from 0 to 180 and --jitter from 0 to 1")
    if not args.smooth_at > 0:
        parser.error("--smooth-at is above 0")
    return args


# ---- net and crop ----------------------------------------------------------------------------------------------------


class PointRegressor(ZooBlock):
    """Five points of a crop, regressed from the mean of its features.

    Parameters
    ----------
    features : HybridBlock
        Crops (B, 3, size, size) to their last map.

    Attributes
    ----------
    facts : ModelFacts
        Mean, std and size of the crop; set by `build_net`, which knows the shapes.
    """

    facts: ModelFacts

    def __init__(self, features, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = features
            self.mean = nn.GlobalAvgPool2D()
            # Starts with all points in the middle of the crop.
            self.dense = nn.Dense(10, weight_initializer=mx.init.Normal(0.01), bias_initializer=mx.init.Constant(0.5))

    def hybrid_forward(self, F, x):
        """Crops (B, 3, size, size), normalised, to places (B, 5, 2) in shares of their sides."""
        return self.dense(self.mean(self.features(x))).reshape((0, 5, 2))


def build_net(backbone: str, size: int, pretrained_base: bool | str = False) -> PointRegressor:
    """The net, initialised."""
    net = PointRegressor(Features(backbone, pretrained_base))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, size, size)))
    net.facts = ModelFacts(
        name=f"regressor_{backbone}",
        system="regressor",
        backbone=backbone,
        dataset="",
        params=count_parameters(net),
        gf=count_macs(net, (1, 3, size, size)) / 1e9,
        task="landmarks",
        size=size,
        scheme="5",
    )
    net.hybridize(static_alloc=True)
    return net


def face_crop(box: np.ndarray, size: int, margin: float) -> Affine:
    """The square crop about a box (4,): ``1 + margin`` times its long side becomes ``size`` pixels."""
    low, high = np.asarray(box, np.float64).reshape(2, 2)
    scale = size / ((1 + margin) * (high - low).max())
    return place(np.eye(2) * scale, (low + high) / 2, (size / 2, size / 2), (size, size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceCrop(Geometric):
    """`face_crop` of a disturbed box, the first of the labels.

    Parameters
    ----------
    size : int
    margin : float
    scale : float
        Largest change of the box's sides, as a share: both by the same factor.
    shift : float
        Largest shift along x and y, in shares of the side along it.
    """

    size: int = 112
    margin: float = 0.5
    scale: float = 0.0
    shift: float = 0.0

    def plan(self, size_hw: tuple[int, int], labels: FaceLabels, rng: np.random.Generator) -> Affine:
        """A crop near the box's."""
        low, high = labels.boxes[0].astype(np.float64).reshape(2, 2)
        middle = (low + high) / 2 + rng.uniform(-self.shift, self.shift, size=2) * (high - low)
        half = (high - low) / 2 * rng.uniform(1 - self.scale, 1 + self.scale)
        return face_crop(np.concatenate([middle - half, middle + half]), self.size, self.margin)


# ---- training --------------------------------------------------------------------------------------------------------


def measured_net(args: argparse.Namespace) -> tuple[PointRegressor, dict]:
    """The net that is scored, trained here or before, and where it comes from, as keys of a result."""
    if args.weights:
        check_trained_alike(args)
        net = build_net(args.backbone, args.size)
        net.load_parameters(args.weights)
        net.collect_params().reset_ctx(contexts_from_gpus(args.gpus)[0])
        return net, {"weights": Path(args.weights).name}
    config = config_from_args(args)
    # Where and how it is tested changes nothing of a run.
    flags = {name: config.flags[name] for name in ("train", *_OF_NET, *_OF_TRAINING)}
    config = dataclasses.replace(config, flags=flags)
    seed_everything(config.seed)
    net = build_net(args.backbone, args.size, args.pretrained_base)
    epochs = train_net(args, net, config)
    weights = "best.params" if args.val else "last.params"
    net.load_parameters(str(Path(config.save_prefix) / weights))
    return net, {"weights": weights, "trained_on": Path(args.train).stem, "epochs": epochs}


def check_trained_alike(args: argparse.Namespace) -> None:
    """Refuse weights whose run was told another crop: they would load all the same, and score badly."""
    config = Path(args.weights).parent / "config.json"
    before = read_result(config).get("flags") or {} if config.is_file() else {}
    other = [
        f"--{name} {before[name]}" for name in _OF_NET if before.get(name, getattr(args, name)) != getattr(args, name)
    ]
    if other:
        raise DataError(f"{args.weights}: expected the flags that it was trained with: give {' '.join(other)}")


def train_net(args: argparse.Namespace, net: PointRegressor, config: TrainConfig) -> int:
    """Train, or go on; how many epochs are done."""
    smooth_l1 = mx.gluon.loss.HuberLoss(rho=args.smooth_at)
    smooth_l1.hybridize()

    def losses(net, x, places, known):
        return {"points": smooth_l1(net(x), places, known)}

    validation = {}
    if args.val:
        validation_samples = read_scored(args.val, args.train_images)
        validation = {"evaluate": lambda net: validate(net, validation_samples, args.margin)}
        validation |= {"best_key": "nme", "best_mode": "min"}
    engine = Engine(net, losses, config, prepare=image_preparer(net.facts), **validation)
    encode = functools.partial(encode_places, size=args.size)
    with batch_loader(crops_of(args), encode, config, "thread", engine.rank, engine.num_workers) as loader:
        return engine.fit(loader.epoch).epoch


def crops_of(args: argparse.Namespace) -> HeatmapSamples:
    """What an epoch sees: a crop of every face of --train with points."""
    store = SampleStore(read_labelled(args.train, args.train_images, args.train_sources, five=True), args.cache)
    ops = [
        FaceCrop(size=args.size, margin=args.margin, scale=args.scale, shift=args.shift),
        Rotate(max_degrees=args.rotate),
        Flip(),
        ColourJitter(strength=args.jitter),
    ]
    views = Compose([*ops, Degrade()] if args.degrade else ops)
    return HeatmapSamples(store, lambda image, labels, rng, mirror: views(image, labels, rng), seed=args.seed)


def encode_places(labels: FaceLabels, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (5, 2) of a face's points in shares of its crop's side, and which are known (5, 1), 1 or 0."""
    known = np.isfinite(labels.landmarks[0]).all(axis=1, keepdims=True)
    return np.where(known, labels.landmarks[0] / size, 0).astype(np.float32), known.astype(np.float32)


def validate(net: PointRegressor, samples: list[FaceSample], margin: float) -> dict[str, float]:
    """Figures on labelled boxes."""
    truth = Truth.of(samples)
    scores = score(regress(net, samples, scored_boxes(samples, truth), margin), truth)
    return {key: getattr(scores, key) for key in ("nme", "auc", "failure_rate")}


# ---- test ------------------------------------------------------------------------------------------------------------


def read_scored(data: str, images: str | None, sources: list[str] | None = None) -> list[FaceSample]:
    """The photos that show a face whose points people set, without ignore regions. Other faces stay: each may be the
    one that a detection belongs to.
    """
    samples = FaceJsonLines(data, images, sources).samples
    samples = [dataclasses.replace(sample, faces=sample.faces[~sample.faces.ignore]) for sample in samples]
    samples = [sample for sample in samples if len(sample.faces) and scored(Truth.of([sample])).any()]
    if not samples:
        where = f" of {', '.join(sources)}" if sources else ""
        raise DataError(f'{data}: no face{where} has five points that people set ("landmarks5_from": "human")')
    return samples


def scored(truth: Truth) -> np.ndarray:
    """Which faces (N,) are scored: a point at least is known."""
    return np.isfinite(truth.landmarks5).all(axis=2).any(axis=1)


def scored_boxes(samples: list[FaceSample], truth: Truth) -> np.ndarray:
    """Labelled boxes (N, 4) of the faces that are scored, NaN of the others."""
    boxes = np.concatenate([sample.faces.boxes for sample in samples])
    return np.where(scored(truth)[:, None], boxes, np.nan)


def measure(
    args: argparse.Namespace, net: PointRegressor, samples: list[FaceSample]
) -> list[tuple[dict, LandmarkScores]]:
    """Rows of the table, as those of eval_landmarks.py, and what they come from: on labelled boxes, on detected ones,
    and the detector's own points.
    """
    truth = Truth.of(samples)
    points = {f"{net.facts.name}, labelled boxes": regress(net, samples, scored_boxes(samples, truth), args.margin)}
    if args.detections_of:
        analyzer = FaceAnalyzer(
            args.detections_of, root=args.root, size=args.detector_size, score_thresh=args.score_thresh
        )
        detections = list(progress(analyzer.stream(read_photos(samples)), len(samples)))
        found = match_faces(samples, detections)
        boxes = gathered(args.detections_of, samples, found, detections, "boxes", (4,))
        boxes[~scored(truth)] = np.nan
        own = gathered(args.detections_of, samples, found, detections, "landmarks5", (5, 2))
        points[f"{net.facts.name}, detected boxes"] = regress(net, samples, boxes, args.margin)
        if own is not None:
            points[f"{args.detections_of}, its own"] = own
    domain = args.domain or describe_photos(args.data, samples, int(scored(truth).sum()))
    from_boxes = {"align": "boxes", "end_to_end": None}
    from_photos = {"align": "detections", "end_to_end": args.detections_of}
    from_photos |= seen(argparse.Namespace(short_side=None, size=args.detector_size))
    rows = []
    for i, (name, predicted) in enumerate(points.items()):
        scores, how = score(predicted, truth), from_photos if i else from_boxes
        rows.append(
            ({"model": name, "scheme": "5", **how, "norm": "box", "domain": domain, **scores.to_dict()}, scores)
        )
    return rows


def regress(net: PointRegressor, samples: list[FaceSample], boxes: np.ndarray, margin: float) -> np.ndarray:
    """Points (N, 5, 2) of the faces in boxes (N, 4), of one photo after another, in pixels of the photos; NaN where a
    box is.
    """
    points, size = np.full((len(boxes), 5, 2), np.nan), net.facts.size
    numbers = by_photo(samples, np.arange(len(boxes)))
    crops = (
        (number, crop, crop.warp(photo))
        for photo, own in zip(progress(read_photos(samples), len(samples)), numbers)
        for number in own[np.isfinite(boxes[own]).all(axis=1)]
        for crop in [face_crop(boxes[number], size, margin)]
    )
    while batch := list(itertools.islice(crops, _AT_ONCE)):
        of_batch, plans, images = zip(*batch)
        places = net(prepared(images, net.facts, context_of(net))).asnumpy()
        for number, plan, place_of in zip(of_batch, plans, places):
            points[number] = warp_points(invert_affine(plan.matrix), size * place_of)
    return points


def score(predicted: np.ndarray, truth: Truth) -> LandmarkScores:
    """Scores of predicted points (N, 5, 2), NaN for missed faces, over the faces that are scored."""
    rows = scored(truth)
    return evaluate_landmarks(predicted[rows], truth.landmarks5[rows], "5", truth.sizes[rows], THRESHOLD)


if __name__ == "__main__":
    run(main)
