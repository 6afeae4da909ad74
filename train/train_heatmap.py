r"""Train heatmap landmark nets.

The paper's recipe (section 3.4), JD-landmark, one GPU: Adam, batch 16, 40 epochs, 1e-3, /10 at 20 and 30; mean squared
error on Gaussians; flipped copies, PCA noise .05, colour jitter .4, random erasing, rotation by up to 15 degrees after
aligning:

    python train/prepare_jd106.py ~/JD --out data
    python train/train_heatmap.py --model heatmap_mobilenetv2_1.0_sdd_jd106 --pretrained-base \
        --train data/jd106_train.jsonl --val data/jd106_test.jsonl --images ~/JD --norm box --gpus 0 \
        --flip-copies --pca-noise .05 --jitter .4 --random-erasing .5 --rotate 15

The weights that come with the package were trained on two CPU cores; the commands, the hours they took and the figures
they gave are in model_zoo/heatmap_mobilenetv2_1.0_sdd_fc26.md and model_zoo/heatmap_mobilenetv2_0.25_sssd_fc26.md.
"""

from __future__ import annotations

import argparse
import logging

import numpy as np

from gluonface._compat import mx
from gluonface.alignment import LandmarkPredictor
from gluonface.data.facejsonl import FaceJsonLines
from gluonface.data.loader import BatchLoader
from gluonface.data.transforms.colour import Degrade
from gluonface.data.transforms.presets.heatmap import HeatmapSamples, HeatmapTrainTransform
from gluonface.engine import (
    Engine,
    TrainConfig,
    add_training_arguments,
    config_from_args,
    freeze_batch_norm,
    seed_everything,
)
from gluonface.errors import InputError
from gluonface.image import load_image
from gluonface.loss import HEATMAP_LOSSES, HeatmapLoss
from gluonface.metrics.landmark_scoring import NORMS, evaluate_landmarks, label_sizes, scored_faces
from gluonface.model_zoo import get_model
from gluonface.targets import HeatmapTargets
from gluonface.training.inputs import (
    add_base_argument,
    add_data_arguments,
    batch_loader,
    image_preparer,
    source_weights,
)

PAPER = TrainConfig(
    batch_size=16,
    epochs=40,
    optimizer="adam",
    lr=1e-3,
    lr_mode="step",
    lr_decay_epoch=(20, 30),
    wd=0.0,
    save_prefix="runs/heatmap",
)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="heatmap_mobilenetv2_1.0_sdd_jd106", help="name of the model to train")
    model.add_argument("--filters", type=int, help="filters of every letter (default: the model's)")
    model.add_argument("--stem", type=int, help="channels before the first letter (default: 256)")
    add_base_argument(model)
    model.add_argument("--start", metavar="PARAMS", help="start from a file of weights of this model")
    model.add_argument(
        "--frozen-layers",
        type=int,
        default=0,
        metavar="N",
        help="keep the backbone's first N layers as they are: a third faster on a CPU (MobileNetV2: 6)",
    )
    model.add_argument("--data-shape", type=int, default=192, help="side of the training crops in pixels")
    data = parser.add_argument_group("data")
    add_data_arguments(data, "NME from labelled boxes")
    data.add_argument("--val-sources", nargs="+", metavar="NAME", help="validate on these sources only")
    data.add_argument("--norm", choices=NORMS, default="interocular", help="what the NME is divided by")
    tricks = parser.add_argument_group("tricks (each off by default; see the recipe above)")
    tricks.add_argument("--flip-copies", action="store_true", help="each face also mirrored: twice the epoch")
    tricks.add_argument("--pca-noise", type=float, default=0.0, metavar="SIGMA", help="colour noise, the paper: .05")
    tricks.add_argument("--jitter", type=float, default=0.0, help="of brightness, contrast, saturation, the paper: .4")
    tricks.add_argument("--random-erasing", type=float, default=0.0, metavar="PROB", help="hide a rectangle")
    tricks.add_argument("--rotate", type=float, default=0.0, metavar="DEGREES", help="turn after aligning, paper: 15")
    tricks.add_argument("--scale", type=float, default=0.0, metavar="SHARE", help="size after aligning (hurt)")
    tricks.add_argument("--shift", type=float, default=0.0, metavar="PIXELS", help="shift after aligning (hurt)")
    tricks.add_argument(
        "--mirror-shift",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="move the labels of mirrored copies to the right, since people do not label symmetrically (300-W: .0046)",
    )
    tricks.add_argument("--point-jitter", type=float, default=0.0, metavar="SHARE", help="disturb the five points")
    tricks.add_argument("--box-prob", type=float, default=0.0, help="share of crops aligned by the box alone")
    tricks.add_argument("--degrade", action="store_true", help="blur, noise and JPEG artefacts now and then")
    loss = parser.add_argument_group("loss")
    loss.add_argument("--loss", choices=HEATMAP_LOSSES, default="mse", help="of heatmaps (default: the paper's)")
    loss.add_argument("--sigma", type=float, default=1.5, help="of the Gaussians, in cells")
    loss.add_argument("--place-weight", type=float, default=0.0, help="of the distance of soft-argmax, in cells")
    add_training_arguments(parser, PAPER)
    return parser.parse_args(argv)


def build_net(args: argparse.Namespace):
    """The net to train, initialised."""
    # Nets are tested at the size that they are trained at: at another, faces have another scale.
    net = get_model(
        args.model,
        pretrained_base=args.pretrained_base,
        filters=args.filters,
        stem=args.stem,
        size=args.data_shape,
    )
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if args.start:
        net.load_parameters(args.start)
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    for layer in list(net.network.features.layers)[: args.frozen_layers]:
        freeze_batch_norm(layer)
        for parameter in layer.collect_params().values():
            parameter.grad_req = "null"
    return net


def make_loader(args: argparse.Namespace, config: TrainConfig, net, rank: int, num_workers: int) -> BatchLoader:
    """Batches of crops and their targets."""
    transform = HeatmapTrainTransform(
        size=args.data_shape,
        point_jitter=args.point_jitter,
        box_prob=args.box_prob,
        rotate=args.rotate,
        scale=args.scale,
        shift=args.shift,
        mirror_shift=args.mirror_shift,
        jitter=args.jitter,
        pca_noise=args.pca_noise,
        random_erasing=args.random_erasing,
        degrade=Degrade() if args.degrade else None,
    )
    samples = HeatmapSamples(
        FaceJsonLines(args.train, args.images, args.sources, cache=args.cache),
        transform,
        seed=config.seed,
        flip_copies=args.flip_copies,
        source_weights=source_weights(args.source_weight),
    )
    if samples.scheme != net.scheme:
        raise InputError(f"{args.train} has {samples.scheme} landmarks, {args.model} learns {net.scheme}")
    targets = HeatmapTargets(map_hw(args, net), net.stride, args.sigma)
    return batch_loader(samples, targets.encode_labels, config, args.worker_kind, rank, num_workers)


def map_hw(args: argparse.Namespace, net) -> tuple[int, int]:
    """Cells of the heatmaps of a training crop."""
    return (args.data_shape // net.stride,) * 2


def main(argv=None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = config_from_args(args)
    seed_everything(config.seed)
    net = build_net(args)
    net.hybridize(static_alloc=True)
    loss = HeatmapLoss(map_hw(args, net), args.loss, args.place_weight)

    def losses(net, x, *targets):
        return dict(zip(("heatmap", "place"), loss(net.network(x), *targets)))

    engine = Engine(
        net,
        losses,
        config,
        prepare=image_preparer(net.facts),
        evaluate=validation(args) if args.val else None,
        best_key="nme" if args.val else None,
        best_mode="min",
    )
    loss.initialize(ctx=engine.contexts)  # constants
    loss.hybridize(static_alloc=True)
    with make_loader(args, config, net, engine.rank, engine.num_workers) as loader:
        engine.fit(loader.epoch)


def validation(args: argparse.Namespace):
    """NME of the net on the labelled faces, aligned from their boxes, without averaging over flips."""
    samples = FaceJsonLines(args.val, args.images, args.val_sources).samples
    labels = [s.faces[scored_faces(s.faces)] for s in samples]
    if not any(map(len, labels)):
        raise InputError(f"{args.val}: expected faces with landmarks to validate on, found none")
    samples, labels = zip(*((s, own) for s, own in zip(samples, labels) if len(own)))
    images = [load_image(s.image_path) for s in samples]
    truth = np.concatenate([own.landmarks for own in labels])
    sizes = np.concatenate([label_sizes(args.norm, own) for own in labels])

    def evaluate(net) -> dict[str, float]:
        landmarks, _ = LandmarkPredictor(net).from_boxes(images, [own.boxes for own in labels])
        scores = evaluate_landmarks(np.concatenate(landmarks), truth, net.scheme, sizes)
        return {"nme": scores.nme, "auc": scores.auc, "failure_rate": scores.failure_rate}

    return evaluate


if __name__ == "__main__":
    main()
