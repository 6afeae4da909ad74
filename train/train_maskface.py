r"""Train MaskFace: boxes, and points looked for in the boxes that it has just found.

The paper's recipe (section 3.3) has two phases, each started from the one before: WIDER FACE for boxes and five points,
then AFLW for 19 points, then 300-W for 68. SGD .9, weight decay 1e-4, batch 8 (16 for small nets), 1e-4 -> 1e-2 over
the first 5,000 updates, then /10 whenever the validation stands still, down to 1e-4; ImageNet backbone, its BatchNorms
and all of it up to C2 frozen:

    python train/train_maskface.py --model maskface_resnet50_v1b_widerface --phase detection --pretrained-base \
        --train data/widerface_train.jsonl --val data/widerface_val.jsonl --images ~/WIDER --gpus 0
    python train/train_maskface.py --model maskface_resnet50_v1b_aflw --phase landmarks --norm face_size \
        --start runs/maskface/best.params --train data/aflw_train.jsonl --val-points data/aflw_test.jsonl \
        --images ~/AFLW --warmup-epochs 2 --save-prefix runs/maskface_aflw --gpus 0
    python train/train_maskface.py --model maskface_resnet50_v1b_300w --phase landmarks \
        --start runs/maskface_aflw/best.params --train data/300w_train.jsonl --val-points data/300w_full.jsonl \
        --images ~/300W --warmup-epochs 12.7 --save-prefix runs/maskface_300w --gpus 0

``--phase detection``: photos at .5 to 2.5 of their size, faces of .4 of the smallest anchor's area to 2.5 of the
largest one's, crops of 640 pixels, half of them around a face, flip, colours. ``--phase landmarks``: a face at 150 to
450 pixels in a crop of 480, turned by up to 30 degrees. 5,000 updates are 3.1 epochs of WIDER FACE, 2 of AFLW and 12.7
of 300-W at batch 8. How long the paper trains, and what standing still is, it does not tell; here it is 60 epochs at
most, and 3 validations.

Weights of another number of points start all but the last layer of the keypoint head. Weights in a file do not say with
which mean and std they were trained: ``--facts-of`` does.

``--phase both`` is ours: one corpus with boxes and 68 points, RetinaFace's views, so that a light net can be trained at
once on a processor:

    python train/train_maskface.py --model maskface_mobilenet0.25_fc26 --phase both --data-shape 256 \
        --start retinaface_mobilenet0.25_mask --train facedata/det_train.jsonl --val facedata/det_val.jsonl \
        --train-points facedata/lmk_train.jsonl --points-sources ytf --val-points facedata/lmk_val.jsonl \
        --batch-size 16 --epochs 60 --lr-mode cosine --warmup-epochs 1 --cache bytes --worker-kind thread

The rows of the paper's ablations are flags: ``--no-context``, ``--no-keypoints`` (Table 6), ``--k0`` (section 4.4),
``--lambda-kp`` (section 3.1), ``--no-low-quality`` (section 3.2).
"""

from __future__ import annotations

import argparse
import dataclasses
import logging

import numpy as np

from gluonface._compat import mx
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.data.transforms.colour import Degrade
from gluonface.data.transforms.presets.maskface import MIN_FACE, MaskFaceLandmarkTransform, MaskFaceTrainTransform
from gluonface.data.transforms.presets.retinaface import RetinaFaceSamples
from gluonface.engine import Engine, TrainConfig, add_training_arguments, config_from_args, seed_everything
from gluonface.errors import InputError
from gluonface.loss import FocalLoss, KeypointMaskLoss
from gluonface.metrics import NORMS
from gluonface.model_zoo import list_models, model_facts
from gluonface.model_zoo.maskface import maskface
from gluonface.nn.roi import KeypointHead
from gluonface.targets import MaskFaceTargets, ProposalTargets
from gluonface.training.config import refuse_flags
from gluonface.training.detection import (
    BoxesAlone,
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
    landmark_validator,
    load_start,
    merged_validator,
    training_samples,
    training_views,
    with_landmarks,
)
from gluonface.training.inputs import add_base_argument, add_data_arguments, batch_loader, image_preparer

PAPER = TrainConfig(
    batch_size=8,
    epochs=60,
    lr=1e-2,
    lr_mode="plateau",
    lr_patience=3,
    lr_min=1e-4,
    warmup_epochs=3.1056,  # 5,000 updates of 8 of WIDER FACE's 12,880 photos
    warmup_lr=1e-4,
    momentum=0.9,
    wd=1e-4,
    save_prefix="runs/maskface",
)
#: What the phases differ in where no flag says otherwise: phase -> flags.
PHASES = {
    "detection": {"data_shape": 640, "face_prob": 0.5},
    "landmarks": {"data_shape": 480},
    "both": {"data_shape": 640, "face_prob": 0.0},
}
#: Flags of views that do something in some phases only: attribute -> those phases.
ONLY_IN = {
    "scales": ("detection",),
    "face_range": ("landmarks",),
    "max_degrees": ("landmarks", "both"),
    "face_prob": ("detection", "both"),
    **dict.fromkeys(("face_sizes", "face_size_weights", "crop_ratios", "rotate", "quarter_turns"), ("both",)),
}
#: What begins anew where the weights that a run starts from are of other points, or of a net without.
POINTS = ("network.keypoint_head.",)
#: The keypoint head, which is dear, looks at a multiple of so many rows; for each number its memory is laid out anew.
_ROWS = 8
#: An overlap that no box has: without low-quality matches.
_NONE = 2.0
_SWITCH = argparse.BooleanOptionalAction


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="maskface_resnet50_v1b_widerface", help="name of the model to train")
    model.add_argument(
        "--channels", type=int, metavar="C", help="of pyramid, context and keypoint head (default: the model's)"
    )
    model.add_argument("--k0", type=float, help="level of a face of 224 pixels; the lower, the finer (default: 3)")
    model.add_argument(
        "--roi-scale", type=float, help="points are looked for in a face's box times this (default: 1, the paper)"
    )
    model.add_argument("--context", action=_SWITCH, default=True, help="context modules")
    model.add_argument("--keypoints", action=_SWITCH, default=True, help="keypoint head; without, boxes alone")
    model.add_argument("--frozen", action=_SWITCH, default=True, help="BatchNorms and the backbone up to C2 stay")
    add_base_argument(model)
    model.add_argument(
        "--start",
        metavar="MODEL|PARAMS",
        help="start from a model of that backbone that has weights, whose --channels, --k0 and --roi-scale are then "
        "the default, or from a file: that of the phase before",
    )
    model.add_argument("--facts-of", metavar="NAME", help="model with whose mean and std the weights in the file were")
    data = parser.add_argument_group("data")
    data.add_argument("--phase", choices=PHASES, default="detection", help="see above (default: %(default)s)")
    add_data_arguments(data, "AP")
    add_points_arguments(data)
    data.add_argument("--val-points", metavar="JSONL", help="annotations for the dense landmarks after each epoch")
    data.add_argument("--norm", choices=NORMS, default="interocular", help="what their NME is divided by")
    add_size_arguments(data)
    add_view_arguments(parser)
    own = parser.add_argument_group(
        "views of the phases",
        "Of the flags above, --mosaic, --degrade and --min-face count in all of them, --max-degrees in landmarks and\n"
        "both, the others in both alone.",
        conflict_handler="resolve",  # of two meanings of --face-prob, this one
    )
    own.add_argument("--scales", type=float, nargs=2, default=(0.5, 2.5), metavar="S", help="of photos for detection")
    own.add_argument(
        "--face-range", type=float, nargs=2, default=(150.0, 450.0), metavar="PX", help="of faces for landmarks"
    )
    own.add_argument(
        "--face-prob",
        type=float,
        help="share of crops made around a face: one that is learnt at the photo's scale for detection (default: .5), "
        "one brought to a drawn size for both (default: 0); crops for landmarks always are",
    )
    loss = parser.add_argument_group("loss")
    loss.add_argument("--lambda-kp", type=float, default=0.25, help="weight of the points")
    loss.add_argument(
        "--max-proposals", type=int, default=16, metavar="P", help="of a photo, in which points are learnt"
    )
    loss.add_argument(
        "--low-quality",
        action=_SWITCH,
        default=True,
        help="each face has its best anchors, however little they overlap",
    )
    add_anchor_arguments(loss, 0.5, 0.3, hard_negatives=False)
    add_training_arguments(parser, PAPER)
    parser.set_defaults(data_shape=None, min_face=MIN_FACE)
    args = parser.parse_args(argv)
    for name, value in PHASES[args.phase].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    started = model_facts(args.start) if args.start in list_models() else None
    own = started.options if started and started.system == "maskface" else {}
    for name, value in {"channels": None, "k0": 3.0, "roi_scale": 1.0}.items():
        if getattr(args, name) is None:
            setattr(args, name, own.get(name, value))
    if args.frozen and not (args.start or args.pretrained_base or args.resume):
        parser.error("random weights cannot stay as they are: give --start, --pretrained-base or --no-frozen")
    idle = {name: phases for name, phases in ONLY_IN.items() if args.phase not in phases}
    reasons = idle_view_flags(args) if args.phase == "both" else {}
    reasons |= {name: f"it counts with --phase {' or '.join(idle[name])}" for name in idle}
    if not args.keypoints:
        reasons |= dict.fromkeys(("k0", "roi_scale", "lambda_kp", "max_proposals"), "it counts with a keypoint head")
    refuse_flags(parser, argv, reasons)
    return args


def build_net(args: argparse.Namespace):
    """The net to train, initialised."""
    facts = model_facts(args.model)
    if facts.system != "maskface":
        raise InputError(f"--model: expected a model of MaskFace (maskface_*), got {args.model}")
    net = maskface(
        facts,
        pretrained_base=args.pretrained_base,
        channels=args.channels,
        k0=args.k0,
        roi_scale=args.roi_scale,
        context=args.context,
        keypoints=args.keypoints,
        frozen=args.frozen,
    )
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if args.start:
        load_start(net, args.start, anew=POINTS)
    if args.facts_of:
        facts = model_facts(args.facts_of)
        net.facts = dataclasses.replace(net.facts, mean=facts.mean, std=facts.std)
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    return net


def make_views(args: argparse.Namespace, seed: int, num_points: int) -> RetinaFaceSamples:
    """An epoch's views of the photos, as the phase and the flags say.

    Raises
    ------
    DataError
        No face of them has so many points.
    """
    complete, partial = training_samples(args)
    samples = [*complete, *partial]
    if num_points:
        check_points(samples, num_points, "--train")
    common = {"size": args.data_shape, "min_face": args.min_face, "degrade": Degrade() if args.degrade else None}
    if args.phase == "detection":
        transform = MaskFaceTrainTransform(scales=tuple(args.scales), face_prob=args.face_prob, **common)
    elif args.phase == "landmarks":
        transform = MaskFaceLandmarkTransform(face_range=tuple(args.face_range), max_degrees=args.max_degrees, **common)
    else:
        transform = None
    return training_views(args, samples, seed, transform)


def make_targets(args: argparse.Namespace, num_points: int) -> MaskFaceTargets:
    """Targets of a view that follow from its labels."""
    low = {"low_quality_iou": 0.0 if args.low_quality else _NONE}
    return anchor_targets(args, MaskFaceTargets, num_points=num_points, **low)


class Losses:
    """``loss_fn`` of the engine: class, box, and points in the net's own proposals.

    The proposals are chosen on the host from what the net has just predicted, so that a step waits there for its
    device; with several devices one waits after another.
    """

    watched = ("proposals",)

    def __init__(self, args: argparse.Namespace, net):
        map_hw, head = (KeypointHead.MAP_SIDE,) * 2, net.network.keypoint_head
        roi_scale = head.widen.scale if head is not None else 1.0
        self.choose = ProposalTargets(map_hw, roi_scale=roi_scale, max_proposals=args.max_proposals)
        self.anchors = FocalLoss(smooth_at=args.smooth_at)
        self.points = KeypointMaskLoss(map_hw, weight=args.lambda_kp)
        for block in (self.anchors, self.points):
            block.hybridize(static_alloc=True)

    def __call__(self, net, x, cls_targets, box_targets, face_boxes, face_points, per_anchor):
        """Parts of the loss, see `gluonface.engine.Engine`; ``proposals`` counts those of an image that have points."""
        cls_preds, box_preds, *maps = net.network(x)
        parts = dict(zip(("cls", "box"), self.anchors(cls_preds, box_preds, cls_targets, box_targets, per_anchor)))
        if not maps:
            return {**parts, "proposals": mx.nd.zeros_like(per_anchor)}
        with mx.autograd.pause():
            rows, cells, count = self.propose(net, x, cls_preds, box_preds, face_boxes, face_points)
        # Without proposals, too: an update wants a gradient of every parameter, be it 0.
        logits = net.network.keypoint_head(rows, *maps)
        # A mean over the proposals of this slice, as of one image.
        points = self.points(logits, cells, mx.nd.full((1,), 1 / max(1.0, count.sum()), ctx=x.ctx))
        return {**parts, "points": points, "proposals": mx.nd.array(count, ctx=x.ctx)}

    def propose(self, net, x, cls_preds, box_preds, face_boxes, face_points):
        """Proposals with points as rows (R, 5) of image and box, the cells of their points (1, R, K), and how many an
        image has, an ndarray (B,). R is a multiple of `_ROWS`: the last ones are none, with the image -1.
        """
        scores = mx.nd.softmax(cls_preds, axis=-1)[:, :, 1]
        boxes = net.decode_boxes(box_preds, net.anchors(x))
        arrays = (array.asnumpy() for array in (boxes, scores, face_boxes, face_points))
        rois, cells = self.choose(*arrays)
        image, place = np.nonzero((cells >= 0).any(axis=2))
        missing = max(1, -(-len(image) // _ROWS)) * _ROWS - len(image)
        rows = np.concatenate([image[:, None], rois[image, place]], axis=1)
        rows = np.pad(rows, ((0, missing), (0, 0)), constant_values=-1)
        cells = np.pad(cells[image, place], ((0, missing), (0, 0)), constant_values=-1)[None]
        count = np.bincount(image, minlength=len(x)).astype(np.float32)
        return mx.nd.array(rows, ctx=x.ctx), mx.nd.array(cells, ctx=x.ctx), count


def positive_anchors(images, cls_targets, *others) -> int:
    """Anchors that class and box are means over."""
    return (cls_targets == 1).sum()


def validator(args: argparse.Namespace, num_points: int):
    """``evaluate(net)``, AP on ``--val`` and landmarks on ``--val-points``, and which value chooses the best weights.

    Raises
    ------
    InputError
        The net has no dense landmarks to validate, or others than the annotations.
    """
    if args.val_points and num_points in (0, 5):
        raise InputError(
            f"--val-points: expected a net with dense landmarks, {args.model} has {num_points} points here"
        )
    parts = []
    if args.val:
        boxes = detection_validator(FaceJsonLines(args.val, images_of(args, args.val)).samples, args.val_size)
        parts.append(lambda net: boxes(BoxesAlone(net)))
    if args.val_points:
        samples = FaceJsonLines(args.val_points, images_of(args, args.val_points)).samples
        scheme = with_landmarks(samples)[0].faces.scheme
        if scheme != str(num_points):
            raise InputError(
                f"{args.val_points}: expected landmarks of {num_points} points, as {args.model} has here, got {scheme}"
            )
        parts.append(landmark_validator(samples, args.val_size, args.norm))

    # A missed face counts in the AUC, not in the NME.
    by_points = args.val_points and (args.phase == "landmarks" or not args.val)
    return (merged_validator(parts), "auc" if by_points else "ap50") if parts else (None, None)


def main(argv=None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = config_from_args(args)
    seed_everything(config.seed)
    net = build_net(args)
    net.hybridize(static_alloc=True)
    losses = Losses(args, net)
    evaluate, best_key = validator(args, net.num_points)
    engine = Engine(
        net,
        losses,
        config,
        prepare=image_preparer(net.facts),
        evaluate=evaluate,
        best_key=best_key,
        watched=losses.watched,
    )
    views = make_views(args, config.seed, net.num_points)
    targets = make_targets(args, net.num_points)
    with batch_loader(
        views, targets.encode_labels, config, args.worker_kind, engine.rank, engine.num_workers
    ) as loader:
        engine.fit(lambda epoch: NormalisedBatches(loader.epoch(epoch), positive_anchors))


if __name__ == "__main__":
    main()
