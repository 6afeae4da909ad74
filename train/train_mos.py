r"""Train MOS: boxes, five points and head pose from one light network.

The paper's recipe (section 4.1), WIDER FACE with the authors' pose labels: 640x640 crops, SGD .9, weight decay 5e-4,
batch 64, 1e-3, /10 at 150 and 180 of 200 epochs, ImageNet backbone, uncertainty weights, online feedback sampling:

    python train/prepare_widerpose.py ~/WIDER --labels ~/mos/label.txt --out data
    python train/train_mos.py --model mos_shufflenetv2_1.0_widerface --pretrained-base shufflenet_v2_x1.npz \
        --train data/widerpose_train.jsonl --val data/widerface_val.jsonl --images ~/WIDER --gpus 0

The weights that come with the package were trained on two CPU cores; the command, the hours it took and the figures it
gave are in model_zoo/mos_mobilenet0.25_fc26.md.

The rows of the paper's ablation (Table 1) are flags: ``--head shared`` (baseline), ``--fixed-weights``,
``--stitch-below 0 --mine-every 0`` (no online feedback), ``--deformable``.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging

import numpy as np

from gluonface._compat import mx
from gluonface.data.base import FaceSample
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.engine import Engine, TrainConfig, add_training_arguments, config_from_args, seed_everything
from gluonface.geometry import box_iou
from gluonface.loss import AnchorLoss, DensePointsLoss, PoseLoss, SmallBoxLoss, UncertaintyWeights
from gluonface.metrics.pose_scoring import evaluate_pose, posed_faces
from gluonface.model_zoo import get_model
from gluonface.model_zoo.mos import HEADS
from gluonface.pipeline import FaceAnalyzer
from gluonface.targets import MOSTargets
from gluonface.training.config import refuse_flags
from gluonface.training.detection import (
    NormalisedBatches,
    add_anchor_arguments,
    add_points_arguments,
    add_size_arguments,
    add_view_arguments,
    anchor_targets,
    detection_validator,
    idle_view_flags,
    images_of,
    load_start,
    training_samples,
    training_views,
)
from gluonface.training.feedback import OnlineFeedback
from gluonface.training.inputs import add_base_argument, add_data_arguments, batch_loader, image_preparer
from gluonface.training.observers import Observer

PAPER = TrainConfig(
    batch_size=64,
    epochs=200,
    lr=1e-3,
    lr_mode="step",
    lr_decay_epoch=(150, 180),
    momentum=0.9,
    wd=5e-4,
    save_prefix="runs/mos",
)
#: Parts of the loss, what kind of task each is, and its weight where weights are fixed (section 4.2: 2 : 1 : 1 : .25).
PARTS = {
    "cls": ("classification", 2.0),
    "box": ("regression", 1.0),
    "landmark": ("regression", 1.0),
    "pose": ("regression", 0.25),
    "dense": ("regression", 1.0),  # ours, see --dense-points
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="mos_shufflenetv2_1.0_widerface", help="name of the model to train")
    model.add_argument("--head", choices=HEADS, default="stitch", help="multi-task head, or the hard-shared one")
    model.add_argument("--deformable", action="store_true", help="deformable convolution in pyramid and context")
    add_base_argument(model)
    model.add_argument(
        "--start",
        metavar="MODEL|PARAMS",
        help="start from a model that has weights, such as the RetinaFace of that backbone, or from a file",
    )
    data = parser.add_argument_group("data")
    add_data_arguments(data, "AP")
    add_points_arguments(data)
    data.add_argument("--val-pose", metavar="JSONL", help="annotations for the pose error after each epoch")
    data.add_argument(
        "--turned-from",
        type=float,
        default=20.0,
        metavar="DEG",
        help="photos with a face of at least this yaw are a source of their own, NAME-turned",
    )
    add_size_arguments(data)
    add_view_arguments(parser)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--fixed-weights", action="store_true", help="2 : 1 : 1 : .25 instead of learned weights")
    loss.add_argument("--pose-weight", type=float, default=1.0, help="factor of the pose loss; 0: pose is not learnt")
    loss.add_argument(
        "--dense-points",
        type=int,
        default=0,
        metavar="K",
        help="learn the K dense landmarks of the data along with the pose, with a predictor that is dropped afterwards",
    )
    loss.add_argument("--pose-lr", type=float, default=1.0, help="factor of the learning rate of the pose predictor")
    loss.add_argument("--min-pose-face", type=float, default=35.0, help="smaller faces, in pixels, train no pose")
    add_anchor_arguments(loss)
    feedback = parser.add_argument_group("online feedback sampling")
    feedback.add_argument("--stitch-below", type=float, default=0.35, help="T; 0: no stitching")
    feedback.add_argument("--small", type=float, default=25.0, help="faces up to this size, in pixels, are small")
    feedback.add_argument(
        "--mine-every", type=int, default=1, help="epochs between two minings of hard photos; 0: none"
    )
    feedback.add_argument("--mine-size", type=int, default=320, help="long side in pixels at which photos are mined")
    feedback.add_argument("--hard-share", type=float, default=0.3, help="most that hard photos add to an epoch")
    add_training_arguments(parser, PAPER)
    args = parser.parse_args(argv)
    refuse_flags(parser, argv, idle_view_flags(args))
    return args


def build_net(args: argparse.Namespace):
    """The net to train, initialised."""
    net = get_model(
        args.model, pretrained_base=args.pretrained_base, head=args.head, deformable=args.deformable or None
    )
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if args.start:
        load_start(net, args.start)
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    for parameter in net.network.pose_head.collect_params().values():
        parameter.lr_mult = args.pose_lr
        if not args.pose_weight:
            parameter.grad_req = "null"
    return net


def read_samples(args: argparse.Namespace) -> tuple[list[FaceSample], int]:
    """All training photos, and how many of them, the first, are labelled completely."""
    complete, partial = training_samples(args)
    return [_turned_apart(sample, args.turned_from) for sample in [*complete, *partial]], len(complete)


def _turned_apart(sample: FaceSample, degrees: float) -> FaceSample:
    yaws = sample.faces.pose[:, 0]
    turned = np.isfinite(yaws).any() and np.nanmax(np.abs(yaws)) >= degrees
    return dataclasses.replace(sample, source=f"{sample.source}-turned") if turned else sample


class Losses(mx.gluon.Block):
    """``loss_fn`` of the engine: the four parts, weighted, and what online feedback watches."""

    watched = ("small_box", "all_box")

    def __init__(self, args: argparse.Namespace, network):
        super().__init__()
        # A part that is not learnt has no weight either: its logarithm would fall for ever.
        left_out = {"pose": not args.pose_weight, "dense": not args.dense_points}
        self.parts = {name: row for name, row in PARTS.items() if not left_out.get(name)}
        self.pose_weight = args.pose_weight
        self.anchors = AnchorLoss(negatives_per_positive=args.hard_negatives, smooth_at=args.smooth_at)
        self.pose = PoseLoss()
        self.small = SmallBoxLoss(args.small, args.smooth_at)
        self.dense = self.weights = None
        if args.dense_points:
            head = network.pose_head
            self.dense = DensePointsLoss(args.dense_points, head.in_channels, head.per_cell, args.smooth_at)
        if not args.fixed_weights:
            self.weights = UncertaintyWeights({name: kind for name, (kind, _) in self.parts.items()})
        self.initialize()
        for block in self._children.values():
            block.hybridize(static_alloc=True)

    def start(self, engine: Engine, x, *targets) -> None:
        """Start the learned weights from the losses of a batch, those of all workers together."""
        # As in training: with the statistics that a new BatchNorm starts with a deep net's losses are astronomical.
        with mx.autograd.train_mode():
            parts = self.parts_of(engine.net, x, *targets)[0]
        sums = engine.sum_over_workers(np.array([part.mean().asscalar() for part in parts.values()]))
        self.weights.start_at(dict(zip(parts, sums / engine.num_workers)))

    def parts_of(self, net, x, *arrays):
        """The parts without weights, (B,) each, and the watched ones."""
        *targets, per_anchor, per_point, per_pose = arrays
        cls, box, landmark, masks, face_sizes, pose_anchors, pose_sides, pose, pose_masks, *dense = targets
        cls_preds, box_preds, landmark_preds, pose_cells = net.network(x)
        parts = self.anchors(cls_preds, box_preds, landmark_preds, cls, box, landmark, masks, per_anchor, per_point)
        values = dict(zip(("cls", "box", "landmark"), parts))
        if "pose" in self.parts:
            pose_preds = net.network.pose_head(pose_cells, pose_anchors, pose_sides)
            values["pose"] = self.pose(pose_preds, pose, pose_masks, per_pose) * self.pose_weight
        if self.dense is not None:
            values["dense"] = self.dense(pose_cells, pose_anchors, *dense, per_pose)
        with mx.autograd.pause():
            watched = self.small(box_preds, box, face_sizes, per_anchor)
        return values, dict(zip(self.watched, watched))

    def forward(self, net, x, *arrays):
        """Parts of the loss and what is watched, see `gluonface.engine.Engine`."""
        values, watched = self.parts_of(net, x, *arrays)
        if self.weights is None:
            values = {name: values[name] * weight for name, (_, weight) in self.parts.items()}
        else:
            *weighted, scales = self.weights(*values.values())
            values = {**dict(zip(values, weighted)), "scales": scales}
        return {**values, **watched}


#: What each of the factors of `Losses` is a mean over, of a batch's arrays: images, then those of `MOSTargets`.
def positive_anchors(*arrays) -> float:
    return (arrays[1] == 1).sum()


def anchors_with_points(*arrays) -> float:
    return arrays[4].sum()


def anchors_with_pose(*arrays) -> float:
    return arrays[9].sum()


class LearnedWeights(Observer):
    """Logs and draws what the uncertainty weights come to."""

    def __init__(self, weights: UncertaintyWeights):
        self.weights = weights

    def report(self) -> dict[str, float]:
        """Weight of each part."""
        return {f"weight of {name}": value for name, value in self.weights.weights().items()}


def validator(args: argparse.Namespace):
    """AP on ``--val`` and pose error on ``--val-pose``."""
    detection = (
        detection_validator(FaceJsonLines(args.val, images_of(args, args.val)).samples, args.val_size)
        if args.val
        else None
    )
    posed = FaceJsonLines(args.val_pose, images_of(args, args.val_pose)).samples if args.val_pose else []

    def evaluate(net) -> dict[str, float]:
        figures = detection(net) if detection else {}
        if posed:
            analyzer = FaceAnalyzer(net, size=args.val_size, score_thresh=0.3)
            predicted, truth = [], []
            for sample, found in zip(posed, analyzer.stream(sample.image_path for sample in posed)):
                rows = posed_faces(sample.faces)
                truth.append(sample.faces.pose[rows])
                predicted.append(_poses_at(found, sample.faces.boxes[rows]))
            scores = evaluate_pose(np.concatenate(predicted), np.concatenate(truth)).to_dict()
            figures.update({f"pose_{key}": scores[key] for key in ("mae", "yaw", "pitch", "roll", "missed")})
        return figures

    return evaluate if detection or posed else None


def _poses_at(found, boxes: np.ndarray) -> np.ndarray:
    """Poses (M, 3) of the detections that overlap labelled boxes (M, 4) best; NaN where the overlap is below .5."""
    poses = np.full((len(boxes), 3), np.nan)
    if len(found):
        overlap = box_iou(found.boxes, boxes)
        hit = overlap.max(axis=0) >= 0.5
        poses[hit] = found.pose[overlap.argmax(axis=0)[hit]]
    return poses


def main(argv=None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = config_from_args(args)
    seed_everything(config.seed)
    net = build_net(args)
    net.hybridize(static_alloc=True)
    losses = Losses(args, net.network)
    samples, complete = read_samples(args)
    feedback = OnlineFeedback(
        samples[:complete] + [None] * (len(samples) - complete),
        threshold=args.stitch_below,
        mine_every=args.mine_every,
        max_share=args.hard_share,
        size=args.mine_size,
    )
    observers = {"feedback": feedback}
    if losses.weights is not None:
        observers["weights"] = LearnedWeights(losses.weights)
    engine = Engine(
        net,
        losses,
        config,
        prepare=image_preparer(net.facts),
        evaluate=validator(args),
        best_key="ap50" if args.val else None,
        trained_loss=losses if losses.collect_params() else None,
        watched=losses.watched,
        observers=observers,
    )
    views = training_views(args, samples, config.seed)
    targets = anchor_targets(args, MOSTargets, min_pose_face=args.min_pose_face, dense_points=args.dense_points)
    with batch_loader(
        views, targets.encode_labels, config, args.worker_kind, engine.rank, engine.num_workers
    ) as loader:

        def batches(epoch: int) -> NormalisedBatches:
            hard = [views.extra_item(*pair) for pair in feedback.hard_images()]
            made = loader.epoch(epoch, extra_items=hard, stitch=feedback.stitch)
            return NormalisedBatches(made, positive_anchors, anchors_with_points, anchors_with_pose)

        if losses.weights is not None and not config.resume:
            first = next(iter(batches(0)))
            losses.start(engine, *engine.prepare(first, engine.contexts[0]))
        engine.fit(batches)


if __name__ == "__main__":
    main()
