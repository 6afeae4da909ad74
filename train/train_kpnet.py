r"""Train KPNet: faces found from their points, in about a million parameters.

The paper's recipe (section "Implementation details"), WIDER FACE: photos at a long side of 256, no augmentation, random
weights, SGD, batch 128 on 4 GPUs, 150,000 updates (at 100 an epoch 1,500 epochs): 1e-5 -> 1e-2 over the first third,
1e-3 in the last:

    python train/prepare_widerface.py ~/WIDER --labels ~/retinaface_gt --out data
    python train/train_kpnet.py --model kpnet_drnet_widerface --whole-photos --train data/widerface_train.jsonl \
        --val data/widerface_val.jsonl --images ~/WIDER --gpus 0,1,2,3

A shorter run (``--epochs``) has the same thirds, unless --warmup-epochs and --lr-decay-epoch say otherwise. With fewer
devices ``--batch-size 16 --accumulate 8`` are 128, too. Momentum and weight decay the paper does not tell;
they are .9 and 1e-4 here. Without --whole-photos, crops and colours are RetinaFace's; turned views (--rotate,
--quarter-turns) are off, as for the paper's test on photos turned by 90 degrees.

AFLW, 19 points: as boxes of some faces are missing, the paper learns there the points of the labelled faces alone, and
nothing of where faces are. ``--train-points`` without --train does so. Its augmentation is that of Feng et al. (2018);
here faces of 23 to 181 pixels, sizes that the net can tell, are mirrored, turned by up to 30 degrees and blurred now
and then; squares are jittered as always. 20,000 faces are up to 156 updates of 128 an epoch:

    python train/prepare_aflw.py ~/AFLW --out data
    python train/train_kpnet.py --model kpnet_drnet_aflw --train-points data/aflw_train.jsonl --images ~/AFLW \
        --val-points data/aflw_test.jsonl --epochs 1000 --face-prob 1 --face-sizes 32 64 128 --rotate 1 \
        --max-degrees 30 --degrade --save-prefix runs/kpnet_aflw --gpus 0,1,2,3

Such weights find no faces: they are measured in labelled boxes, after each epoch (--val-points) and by
benchmarks/eval_landmarks.py. For a net that finds faces, too, give --train data/widerface_train.jsonl --images ~/WIDER
besides, and AFLW's file in a folder of its own with the photos in images/ beside it (a link will do): WIDER FACE then
trains the scale map, AFLW the points.

The weights that come with the package were trained on two CPU cores; the command, the hours it took and the figures it
gave are in model_zoo/kpnet_drnet_fc26.md.

The rows of the paper's ablations are flags: ``--reader argmax``, ``--reader regression`` (Table 2), ``--head anchors``,
``--head tags`` (Table 6).
"""

from __future__ import annotations

import argparse
import logging

from gluonface._compat import mx
from gluonface.box_mapping import BoxMapping
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.data.transforms.presets.kpnet import WholePhoto
from gluonface.data.transforms.presets.retinaface import RetinaFaceSamples
from gluonface.decode import SCALE_SIGMA, SCORE_POINTS
from gluonface.engine import Engine, TrainConfig, add_training_arguments, config_from_args, seed_everything
from gluonface.errors import InputError
from gluonface.loss import AnchorLoss, MapLoss, SquarePointsLoss, TagLoss
from gluonface.model_zoo import get_model
from gluonface.model_zoo.kpnet import HEADS, READERS
from gluonface.targets import AnchorTargets, KPNetTargets, TagTargets
from gluonface.training.config import refuse_flags
from gluonface.training.detection import (
    NormalisedBatches,
    add_anchor_arguments,
    add_points_arguments,
    add_size_arguments,
    add_view_arguments,
    anchor_targets,
    check_points,
    detection_validator,
    idle_view_flags,
    images_of,
    load_start,
    merged_validator,
    square_validator,
    training_samples,
    training_views,
)
from gluonface.training.inputs import add_data_arguments, batch_loader, image_preparer

PAPER = TrainConfig(
    batch_size=128,
    epochs=1500,
    lr=1e-2,
    lr_mode="step",
    lr_decay_epoch=(1000,),
    warmup_epochs=500.0,
    warmup_lr=1e-5,
    momentum=0.9,
    wd=1e-4,
    save_prefix="runs/kpnet",
)

#: Flags of crops, and why they do nothing beside --whole-photos.
OF_CROPS = (
    *("crop_ratios", "face_prob", "face_sizes", "face_size_weights"),
    *("rotate", "max_degrees", "quarter_turns", "degrade"),
)
_WHOLE = "--whole-photos takes each photo as it is"
#: What names of parameters begin with whose shapes follow from the number of points or how they are read: they begin
#: anew where --start has others.
_OF_POINTS = ("network.response_head", "network.reader", "box_mapping")


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="kpnet_drnet_widerface", help="name of the model to train")
    model.add_argument("--head", choices=HEADS, default="keypoints", help="KPNet, or what it is compared with")
    model.add_argument("--reader", choices=READERS, default="soft", help="how points are found in a proposal")
    model.add_argument(
        "--num-points",
        type=int,
        choices=tuple(SCORE_POINTS),
        help="points of a face: 5 learns the five points of the labels, another number their landmarks of that scheme "
        "(default: those of the model's dataset)",
    )
    model.add_argument(
        "--beta", type=float, default=1.0, help="what the response map is multiplied with before the softmax"
    )
    model.add_argument(
        "--box-mapping", metavar="JSON", help="boxes from points as train/fit_box_mapping.py fitted them to data"
    )
    model.add_argument(
        "--start",
        metavar="MODEL|PARAMS",
        help="start from a model that has weights, or from a file; what is of another number of points, or read "
        "otherwise, begins anew",
    )
    data = parser.add_argument_group("data")
    add_data_arguments(data, "AP", train_required=False)
    add_points_arguments(data)
    data.add_argument(
        "--val-points",
        metavar="JSONL",
        help="annotations for the error of points, looked for in squares about labelled boxes, after each epoch",
    )
    add_size_arguments(data)
    data.add_argument(
        "--whole-photos", action="store_true", help="the paper's views: each photo as it is, no augmentation"
    )
    add_view_arguments(parser)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--scale-weight", type=float, default=1e4, help="of the scale map; of the heatmaps with tags")
    loss.add_argument(
        "--focal", action="store_true", help="what is nearly right counts less in the maps' loss (quality focal loss)"
    )
    loss.add_argument("--points-weight", type=float, default=1.0, help="of the points")
    loss.add_argument(
        "--response-weight",
        type=float,
        default=0.0,
        help="of the response map itself, a point in one cell, beside the points that soft-argmax reads from it; ours: "
        "it learns sooner what a point looks like (0: none, the paper)",
    )
    loss.add_argument("--tags-weight", type=float, default=1.0, help="of the points' tags, with tags")
    loss.add_argument(
        "--sigma", type=float, default=SCALE_SIGMA, help="of the scale map's Gaussian, in its radii (eq. 3)"
    )
    loss.add_argument("--bin-sigma", type=float, default=0.0, help="of a Gaussian over sizes, in bins; 0: the one bin")
    loss.add_argument(
        "--per-face", type=int, default=1, help="jittered squares of each face in which points are learnt"
    )
    loss.add_argument(
        "--jitter-cells",
        type=int,
        default=KPNetTargets.jitter_cells,
        help="by how many cells along each axis a square may be off",
    )
    loss.add_argument(
        "--jitter-bins", type=int, default=KPNetTargets.jitter_bins, help="by how many bins of size a square may be off"
    )
    add_anchor_arguments(loss)
    add_training_arguments(parser, PAPER)
    parser.set_defaults(data_shape=256, val_size=256, min_face=4.0, warmup_epochs=None, lr_decay_epoch=None)
    args = parser.parse_args(argv)
    if args.warmup_epochs is None:
        args.warmup_epochs = args.epochs / 3
    if args.lr_decay_epoch is None:
        args.lr_decay_epoch = (round(args.epochs * 2 / 3),)
    if args.warmup_epochs >= args.epochs:
        parser.error(
            f"--warmup-epochs: expected fewer than the {args.epochs} of --epochs, as the learning rate would never be "
            f"--lr, got {args.warmup_epochs:g}"
        )
    if args.response_weight and (args.reader != "soft" or args.head != "keypoints"):
        parser.error("--response-weight goes with points read by soft-argmax: others learn the map alone, or have none")
    refuse_flags(parser, argv, dict.fromkeys(OF_CROPS, _WHOLE) if args.whole_photos else idle_view_flags(args))
    if args.val_points and args.head != "keypoints":
        parser.error("--val-points goes with --head keypoints: other heads look for no points in squares")
    if not args.train:
        check_points_only(parser, argv, args)
        args.scale_weight = 0.0  # where no photo is, black would be the one thing that has no faces
    return args


def check_points_only(parser: argparse.ArgumentParser, argv, args: argparse.Namespace) -> None:
    """End the script where no photo is labelled completely and a flag wants more than points in squares."""
    if not args.train_points:
        parser.error("expected --train, photos labelled completely, or --train-points, or both; got neither")
    if args.head != "keypoints" or args.reader == "argmax" or args.response_weight:
        parser.error(
            "--train-points without --train goes with --head keypoints, --reader soft or regression, and no "
            "--response-weight: other maps learn from what is background, too, which such photos do not tell"
        )
    reason = "without --train, where faces are is not learnt"
    refuse_flags(parser, argv, dict.fromkeys(("val", "sources", "scale_weight", "focal", "sigma", "bin_sigma"), reason))


def build_net(args: argparse.Namespace):
    """The net to train, initialised.

    Raises
    ------
    InputError
        Anchors would have other points than five.
    """
    net = get_model(args.model, head=args.head, reader=args.reader, num_points=args.num_points, beta=args.beta)
    if args.head == "anchors" and net.num_points != 5:
        raise InputError(f"--head anchors learns five points, got a net of {net.num_points}; give --num-points 5")
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if args.start:
        load_start(net, args.start, _OF_POINTS)
    if args.box_mapping and args.head != "anchors":  # whose boxes are learnt
        net.set_box_mapping(BoxMapping.load(args.box_mapping))
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    return net


def make_views(args: argparse.Namespace, seed: int, num_points: int) -> RetinaFaceSamples:
    """An epoch's views of the photos.

    Raises
    ------
    DataError
        No face of them has so many points.
    """
    samples = [sample for part in training_samples(args) for sample in part]
    check_points(samples, num_points, "--train" if args.train else "--train-points")
    whole = WholePhoto(size=args.data_shape, min_face=args.min_face) if args.whole_photos else None
    return training_views(args, samples, seed, whole)


# ---- losses ----------------------------------------------------------------------------------------------------------


class KeypointLosses:
    """Scale map, points in squares, and the response map where points are read by argmax or --response-weight asks for
    it.
    """

    def __init__(self, args: argparse.Namespace):
        self.by_argmax = args.reader == "argmax"
        self.maps = MapLoss(args.scale_weight, args.focal)
        self.response = MapLoss(args.scale_weight if self.by_argmax else args.response_weight, args.focal)
        self.points = SquarePointsLoss(args.points_weight)
        for block in (self.maps, self.response, self.points):
            block.hybridize(static_alloc=True)

    def __call__(self, net, x, scale_targets, squares, place_targets, place_masks, *others):
        """Parts of the loss, see `gluonface.engine.Engine`."""
        *response_targets, normaliser = others
        scale_map, maps = net.network(x)
        parts = {"scale": self.maps(scale_map, scale_targets)}
        if response_targets:
            parts["response"] = self.response(maps, *response_targets)
        if self.by_argmax:  # which has no gradient: the map itself is learnt
            return parts
        places = net.network.reader(maps, squares)
        return {**parts, "points": self.points(places, place_targets, place_masks, normaliser)}


class AnchorLosses:
    """Class, box and points of anchors."""

    def __init__(self, args: argparse.Namespace):
        self.loss = AnchorLoss(negatives_per_positive=args.hard_negatives, smooth_at=args.smooth_at)
        self.loss.hybridize(static_alloc=True)

    def __call__(self, net, x, *targets):
        """Parts of the loss, see `gluonface.engine.Engine`."""
        return dict(zip(("cls", "box", "landmark"), self.loss(*net.network(x), *targets)))


class TagLosses:
    """Heatmaps of the points, and their tags."""

    def __init__(self, args: argparse.Namespace):
        self.maps = MapLoss(args.scale_weight, args.focal)
        self.tags = TagLoss(args.tags_weight, args.tags_weight)
        for block in (self.maps, self.tags):
            block.hybridize(static_alloc=True)

    def __call__(self, net, x, response_targets, cells, masks):
        """Parts of the loss, see `gluonface.engine.Engine`."""
        heatmaps, tags = net.network(x)
        return {"response": self.maps(heatmaps, response_targets), "tags": self.tags(tags, cells, masks)}


# ---- what they are means over, of a batch's arrays -------------------------------------------------------------------


def squares_with_points(images, scale_targets, squares, place_targets, place_masks, *others) -> int:
    return place_masks.any(axis=2).sum()


def positive_anchors(images, cls_targets, *others) -> int:
    return (cls_targets == 1).sum()


def objective(args: argparse.Namespace, net):
    """What a head learns: targets of a view, their loss, and what the loss is a mean over."""
    if args.head == "anchors":
        targets = anchor_targets(args, AnchorTargets, spec=net.spec)
        return targets, AnchorLosses(args), (positive_anchors, positive_anchors)
    size_hw = args.data_shape, args.data_shape
    if args.head == "tags":
        return TagTargets(size_hw, net.num_points), TagLosses(args), ()
    targets = KPNetTargets(
        size_hw,
        net.num_points,
        sigma=args.sigma,
        bin_sigma=args.bin_sigma,
        min_face=args.min_face,
        per_face=args.per_face,
        jitter_cells=args.jitter_cells,
        jitter_bins=args.jitter_bins,
        response_map=args.reader == "argmax" or args.response_weight > 0,
    )
    return targets, KeypointLosses(args), (squares_with_points,)


def validator(args: argparse.Namespace, num_points: int) -> dict:
    """What the engine is told of ``--val`` and ``--val-points``: how to validate, and by what the best weights are
    chosen, average precision where it is there.
    """
    parts = []
    if args.val:
        parts.append(detection_validator(FaceJsonLines(args.val, images_of(args, args.val)).samples, args.val_size))
    if args.val_points:
        samples = FaceJsonLines(args.val_points, images_of(args, args.val_points)).samples
        parts.append(square_validator(samples, args.val_size, num_points))
    best = {"best_key": "ap50"} if args.val else {"best_key": "nme_in_boxes", "best_mode": "min"}
    return {"evaluate": merged_validator(parts), **best} if parts else {}


def main(argv=None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = config_from_args(args)
    seed_everything(config.seed)
    net = build_net(args)
    net.hybridize(static_alloc=True, static_shape=True)
    targets, losses, counts = objective(args, net)
    engine = Engine(
        net,
        losses,
        config,
        prepare=image_preparer(net.facts),
        **validator(args, net.num_points),
    )
    views = make_views(args, config.seed, net.num_points)
    with batch_loader(
        views, targets.encode_labels, config, args.worker_kind, engine.rank, engine.num_workers
    ) as loader:
        engine.fit(lambda epoch: NormalisedBatches(loader.epoch(epoch), *counts))


if __name__ == "__main__":
    main()
