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
import logging

from gluonface._compat import mx
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.data.loader import BatchLoader
from gluonface.engine import Engine, TrainConfig, add_training_arguments, config_from_args, seed_everything
from gluonface.loss import AnchorLoss
from gluonface.model_zoo import get_model, import_insightface
from gluonface.training.detection import (
    NormalisedBatches,
    add_anchor_arguments,
    add_size_arguments,
    add_view_arguments,
    anchor_targets,
    detection_validator,
    load_start,
    training_views,
)
from gluonface.training.inputs import add_base_argument, add_data_arguments, batch_loader, image_preparer

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
    add_size_arguments(data)
    add_view_arguments(parser)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--box-weight", type=float, default=1.0, help="lambda 1")
    loss.add_argument("--landmark-weight", type=float, default=1.0, help="lambda 2")
    add_anchor_arguments(loss)
    add_training_arguments(parser, PAPER)
    return parser.parse_args(argv)


def build_net(args: argparse.Namespace):
    """The net to train, initialised."""
    if args.start_insightface:
        return import_insightface(args.start_insightface, name=args.model)
    net = get_model(args.model, pretrained_base=args.pretrained_base)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if args.start:
        load_start(net, args.start)
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    return net


def make_loader(args: argparse.Namespace, config: TrainConfig, rank: int, num_workers: int) -> BatchLoader:
    """Batches of crops and anchor targets."""
    views = training_views(args, FaceJsonLines(args.train, args.images, args.sources).samples, config.seed)
    return batch_loader(views, anchor_targets(args).encode_labels, config, args.worker_kind, rank, num_workers)


def positives(images, cls_targets, *others) -> int:
    """Anchors that class, box and points are means over."""
    return (cls_targets == 1).sum()


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
        evaluate=detection_validator(FaceJsonLines(args.val, args.images).samples, args.val_size) if args.val else None,
        best_key="ap50" if args.val else None,
    )
    with make_loader(args, config, engine.rank, engine.num_workers) as loader:
        engine.fit(lambda epoch: NormalisedBatches(loader.epoch(epoch), positives, positives))


if __name__ == "__main__":
    main()
