r"""Train RetinaFace (light variants).

The paper's recipe (section 4.2), WIDER FACE, 4 GPUs: random square crops to 640, flip, photometric distortion; SGD .9,
weight decay 5e-4, batch 32; 1e-3 -> 1e-2 after 5 epochs, /10 at 55 and 68, 80 epochs:

    python train/prepare_widerface.py ~/WIDER --labels ~/retinaface_gt --out data
    python train/train_retinaface.py --model retinaface_mobilenet0.25_widerface --pretrained-base \
        --train data/widerface_train.jsonl --val data/widerface_val.jsonl --images ~/WIDER --gpus 0,1,2,3

The weights that come with the package were trained on two CPU cores from the published WIDER FACE checkpoint; the two
commands, the hours they took and the figures they gave are in model_zoo/retinaface_mobilenet0.25_fc26.md and
.._mask.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging

import numpy as np

from gluonface._compat import mx
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.data.loader import BatchLoader
from gluonface.data.transforms.colour import Degrade
from gluonface.data.transforms.presets.retinaface import RetinaFaceSamples, RetinaFaceTrainTransform
from gluonface.engine import Engine, TrainConfig, add_training_arguments, config_from_args, seed_everything
from gluonface.loss import AnchorLoss
from gluonface.metrics.scoring import evaluate_detections
from gluonface.model_zoo import get_model, import_insightface, list_models, model_facts
from gluonface.model_zoo.weights import find_weights
from gluonface.pipeline import FaceAnalyzer
from gluonface.targets import AnchorTargets
from gluonface.training.inputs import add_base_argument, add_data_arguments, image_preparer, source_weights

PAPER = TrainConfig(
    batch_size=32,
    epochs=80,
    lr=1e-2,
    lr_mode="step",
    lr_decay_epoch=(55, 68),
    warmup_epochs=5.0,
    warmup_lr=1e-3,
    momentum=0.9,
    wd=5e-4,
    save_prefix="runs/retinaface",
)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="retinaface_mobilenet0.25_widerface", help="name of the model to train")
    add_base_argument(model)
    start = model.add_mutually_exclusive_group()
    start.add_argument(
        "--start",
        metavar="MODEL|PARAMS",
        help="start from a model that has weights, or from a file of weights of this one",
    )
    start.add_argument("--start-insightface", metavar="PARAMS", help="start from an InsightFace-style checkpoint")
    data = parser.add_argument_group("data")
    add_data_arguments(data, "AP")
    data.add_argument("--data-shape", type=int, default=640, help="side of the training crops in pixels")
    data.add_argument("--val-size", type=int, default=640, help="long side of the validation photos in pixels")
    views = parser.add_argument_group("augmentation (defaults: the paper's)")
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
    loss = parser.add_argument_group("loss")
    loss.add_argument("--box-weight", type=float, default=1.0, help="lambda 1")
    loss.add_argument("--landmark-weight", type=float, default=1.0, help="lambda 2")
    loss.add_argument("--smooth-at", type=float, default=1.0, help="where smooth-L1 becomes a line")
    loss.add_argument("--positive-iou", type=float, default=0.35)
    loss.add_argument("--negative-iou", type=float, default=0.35)
    loss.add_argument("--hard-negatives", type=float, default=3.0, help="background anchors mined per positive one")
    add_training_arguments(parser, PAPER)
    return parser.parse_args(argv)


def build_net(args: argparse.Namespace):
    """The net to train, initialised."""
    if args.start_insightface:
        return import_insightface(args.start_insightface, name=args.model)
    net = get_model(args.model, pretrained_base=args.pretrained_base)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if args.start in list_models():
        source = model_facts(args.start)
        net.load_parameters(find_weights(source))
        net.facts = dataclasses.replace(net.facts, mean=source.mean, std=source.std)
    elif args.start:
        net.load_parameters(args.start)
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    return net


def make_loader(args: argparse.Namespace, config: TrainConfig, rank: int, num_workers: int) -> BatchLoader:
    """Batches of crops and anchor targets."""
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
    samples = RetinaFaceSamples(
        FaceJsonLines(args.train, args.images, args.sources, cache=args.cache),
        transform,
        seed=config.seed,
        mosaic_prob=args.mosaic,
        source_weights=source_weights(args.source_weight),
    )
    targets = AnchorTargets(
        (args.data_shape, args.data_shape), positive_iou=args.positive_iou, negative_iou=args.negative_iou
    )
    return BatchLoader(
        samples,
        config.batch_size,
        encode=targets.encode_labels,
        num_workers=config.num_workers,
        worker_kind=args.worker_kind,
        seed=config.seed,
        part_index=rank,
        num_parts=num_workers,
    )


class NormalisedBatches:
    """An epoch's batches with each image's share of the batch's positive anchors added, see AnchorLoss."""

    def __init__(self, loader: BatchLoader, epoch: int):
        self.loader, self.number = loader, epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        for images, cls_targets, *others in self.loader.epoch(self.number):
            positives = max(1, int((cls_targets == 1).sum()))
            yield images, cls_targets, *others, np.full(len(images), len(images) / positives, np.float32)


def main(argv=None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = config_from_args(args)
    seed_everything(config.seed)
    net = build_net(args)
    net.hybridize(static_alloc=True)
    loss = AnchorLoss(args.box_weight, args.landmark_weight, args.hard_negatives, smooth_at=args.smooth_at)
    loss.hybridize(static_alloc=True)

    def losses(net, x, *targets):
        return dict(zip(("cls", "box", "landmark"), loss(*net.network(x), *targets)))

    engine = Engine(
        net,
        losses,
        config,
        prepare=image_preparer(net.facts),
        evaluate=validation(args) if args.val else None,
        best_key="ap50" if args.val else None,
    )
    with make_loader(args, config, engine.rank, engine.num_workers) as loader:
        engine.fit(lambda epoch: NormalisedBatches(loader, epoch))


def validation(args: argparse.Namespace):
    """AP of the net on the validation photos, each at a long side of ``--val-size``."""
    data = FaceJsonLines(args.val, args.images)
    photos = [s.image_path for s in data.samples]
    labels = [s.faces for s in data.samples]

    def evaluate(net) -> dict[str, float]:
        analyzer = FaceAnalyzer(net, size=args.val_size, score_thresh=0.02, batch_size=4)
        figures = evaluate_detections(analyzer.stream(photos), labels)
        return {key: figures[key] for key in ("ap50", "ap", "recall_at_1fppi")}

    return evaluate


if __name__ == "__main__":
    main()
