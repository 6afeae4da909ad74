r"""Train RetinaFace: the light variants, and those with a mesh.

The paper's recipe (section 4.2), WIDER FACE, 4 GPUs: random square crops to 640, flip, photometric distortion; SGD .9,
weight decay 5e-4, batch 32; 1e-3 -> 1e-2 after 5 epochs, /10 at 55 and 68, 80 epochs:

    python train/prepare_widerface.py ~/WIDER --labels ~/retinaface_gt --out data
    python train/train_retinaface.py --model retinaface_mobilenet0.25_widerface --pretrained-base \
        --train data/widerface_train.jsonl --val data/widerface_val.jsonl --images ~/WIDER --gpus 0,1,2,3

The weights that come with the package were trained on two CPU cores from the published WIDER FACE checkpoint; the two
commands, the hours they took and the figures they gave are in model_zoo/retinaface_mobilenet0.25_fc26.md and
.._mask.md.

The whole of the paper, with the recipe above, where faces whose annotation names a row of ``meshes.npz`` learn a mesh,
too, and other photos may be added of which one face each is labelled. The rows of its ablation (Table 1) are flags:
``--deformable no --no-cascade`` (baseline), ``--deformable yes --no-cascade``, ``--deformable yes``, all of them with
``--landmark-weight 0`` and without ``--mesh``; benchmarks/ablate_retinaface.py makes them all, and the tasks on top:

    python train/train_retinaface.py --model retinaface_resnet50_v1b_mesh1103_widerface --pretrained-base \
        --train data/widerface_train.jsonl --train-points data/aflw_train.jsonl --images ~/photos \
        --mesh data/meshes.npz --topology data/mesh1103.npz --val data/widerface_val.jsonl --gpus 0,1,2,3
"""

from __future__ import annotations

import argparse
import logging

import numpy as np

from gluonface._compat import mx
from gluonface.data.base import FaceSample
from gluonface.data.facejsonl import FaceJsonLines, attach_meshes
from gluonface.data.loader import BatchLoader
from gluonface.engine import Engine, TrainConfig, add_training_arguments, config_from_args, seed_everything
from gluonface.errors import InputError
from gluonface.loss import AnchorLoss, FirstHeadLoss, MeshLoss
from gluonface.mesh import MeshTopology, load_topology, topology_468
from gluonface.metrics import closest_proposals, evaluate_mesh
from gluonface.model_zoo import get_model, import_insightface, model_facts
from gluonface.model_zoo.retinaface_mesh import num_vertices
from gluonface.pipeline import FaceAnalyzer
from gluonface.targets import MeshTargets, RefinedTargets
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
    merged_validator,
    training_samples,
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
#: IoU from which an anchor is a face, and below which it is background: of the first head of a cascade, and of the
#: second (section 3.3). A light variant has one of its own.
FIRST_IOU, REFINED_IOU = (0.7, 0.3), (0.5, 0.4)
#: Attributes of flags: what says how a mesh is learnt and tested, and what else models with one have.
OF_MESHES = ("topology", "mesh_weight", "edge_weight", "val_mesh")
OF_MESH_MODELS = ("no_cascade", "deformable", "refined_positive_iou", "refined_negative_iou")


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
    add_points_arguments(data)
    add_size_arguments(data)
    add_view_arguments(parser)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--box-weight", type=float, default=1.0, help="lambda 1")
    loss.add_argument("--landmark-weight", type=float, default=1.0, help="lambda 2")
    add_anchor_arguments(loss)
    mesh = parser.add_argument_group("of models with a mesh")
    mesh.add_argument(
        "--mesh", metavar="NPZ", help="meshes of faces, by the rows that annotations name; without, no mesh is learnt"
    )
    mesh.add_argument("--topology", metavar="NPZ", help="what their vertices are (default: the 468 of the package)")
    mesh.add_argument("--mesh-weight", type=float, default=1.0, help="lambda 3")
    mesh.add_argument("--edge-weight", type=float, default=1.0, help="lambda 0, of edges against vertices")
    mesh.add_argument("--val-mesh", metavar="JSONL", help="annotations for the error of meshes after each epoch")
    mesh.add_argument("--no-cascade", action="store_true", help="one head, in the anchors themselves")
    mesh.add_argument(
        "--deformable", choices=("yes", "no"), help="deformable convolution (default: as the model has it)"
    )
    mesh.add_argument("--refined-positive-iou", type=float, default=REFINED_IOU[0], help="of the second, or only, head")
    mesh.add_argument("--refined-negative-iou", type=float, default=REFINED_IOU[1])
    add_training_arguments(parser, PAPER)
    args = parser.parse_args(argv)
    if model_facts(args.model).variant:
        parser.set_defaults(positive_iou=FIRST_IOU[0], negative_iou=FIRST_IOU[1])
        args = parser.parse_args(argv)
    refuse_flags(parser, argv, idle_view_flags(args) | _idle_flags(args))
    return args


def _idle_flags(args: argparse.Namespace) -> dict[str, str]:
    """Attributes of the flags that do nothing for a model, and why."""
    if not model_facts(args.model).variant:
        why = f"{args.model} has no mesh; those that have are called retinaface_<backbone>_mesh<V>_<dataset>"
        return dict.fromkeys(("mesh", *OF_MESHES, *OF_MESH_MODELS), why)
    idle = {"start_insightface": f"it counts for light models, and {args.model} has a mesh; give --start"}
    if args.no_cascade:
        why = "it counts for the first head of a cascade; the only one has --refined-positive-iou and -negative-iou"
        idle |= dict.fromkeys(("positive_iou", "negative_iou"), why)
    if not args.mesh:
        idle |= dict.fromkeys(OF_MESHES, "it counts with --mesh; without, no mesh is learnt")
    return idle


def read_topology(args: argparse.Namespace) -> MeshTopology | None:
    """What the vertices of the model's mesh are; None where none is learnt.

    Raises
    ------
    InputError
        It has another number of vertices than the model.
    """
    if not args.mesh:
        return None
    topology = load_topology(args.topology) if args.topology else topology_468()
    wanted = num_vertices(model_facts(args.model).variant)
    if topology.num_vertices != wanted:
        raise InputError(
            f"{args.model}: expected a topology of {wanted} vertices, got {topology.name} of {topology.num_vertices}; "
            "name another file with --topology"
        )
    return topology


def build_net(args: argparse.Namespace):
    """The net to train, initialised."""
    if args.start_insightface:
        return import_insightface(args.start_insightface, name=args.model)
    options = {}
    if model_facts(args.model).variant:
        options = {"mesh": bool(args.mesh), "cascade": not args.no_cascade}
        if args.deformable:
            options["deformable"] = args.deformable == "yes"
    net = get_model(args.model, pretrained_base=args.pretrained_base, **options)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if args.start:
        load_start(net, args.start, anew=("network.mesh_head.",))
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    return net


def read_samples(args: argparse.Namespace, topology: MeshTopology | None) -> list[FaceSample]:
    """All training photos: those labelled completely, then those of which one face is."""
    samples = [sample for part in training_samples(args) for sample in part]
    return samples if topology is None else attach_meshes(samples, args.mesh, topology)


def make_loader(
    args: argparse.Namespace,
    config: TrainConfig,
    rank: int,
    num_workers: int,
    topology: MeshTopology | None = None,
) -> BatchLoader:
    """Batches of crops and anchor targets."""
    views = training_views(args, read_samples(args, topology), config.seed)
    targets = anchor_targets(args)
    if model_facts(args.model).variant:
        vertices = 1 if topology is None else topology.num_vertices
        targets = anchor_targets(args, MeshTargets, num_vertices=vertices)
    return batch_loader(views, targets.encode_labels, config, args.worker_kind, rank, num_workers)


def positives(images, cls_targets, *others) -> int:
    """Anchors that class, box and points are means over."""
    return (cls_targets == 1).sum()


def light_losses(args: argparse.Namespace):
    """``loss_fn`` of the engine for a light variant."""
    loss = AnchorLoss(args.box_weight, args.landmark_weight, args.hard_negatives, smooth_at=args.smooth_at)
    loss.hybridize(static_alloc=True)

    def losses(net, x, *targets):
        return dict(zip(("cls", "box", "landmark"), loss(*net.network(x), *targets)))

    return losses


class CascadeLosses(mx.gluon.Block):
    """``loss_fn`` of the engine for a model with a mesh: class and box of the first head; class, box, points, vertices
    and edges of the second, in the boxes that the first has just predicted.

    The first head's anchors are known beforehand, and ``per_anchor`` makes its parts means over those of the whole
    batch. Which learn in the second, or only, head is found out on each device: its parts are means over those of the
    images there, and count in the batch by the number of these images. For that each device's first head is waited for,
    so that of several devices one begins after the other; their backward passes go on side by side.
    """

    def __init__(self, args: argparse.Namespace, topology: MeshTopology | None):
        super().__init__()
        self.targets = RefinedTargets(args.refined_positive_iou, args.refined_negative_iou)
        shared = {"negatives_per_positive": args.hard_negatives, "smooth_at": args.smooth_at}
        self.first = FirstHeadLoss(args.box_weight, **shared)
        self.second = AnchorLoss(args.box_weight, args.landmark_weight, **shared)
        self.mesh_weight, self.mesh = args.mesh_weight, None
        if topology is not None:
            self.mesh = MeshLoss(topology.triangles, args.edge_weight, args.smooth_at)
        for block in self._children.values():
            block.hybridize(static_alloc=True)

    def forward(self, net, x, *arrays):
        """Parts of the loss, see `gluonface.engine.Engine`."""
        cls_targets, box_targets, *faces, per_anchor = arrays
        cls, box, landmark, *rest = net.network(x)
        parts = {}
        with mx.autograd.pause():
            places = mx.nd.broadcast_axis(net.anchors(x), axis=0, size=len(x))
            if net.network.cascade:
                places = net.first_boxes(x, rest[-1])
            made = self.targets(*(array.asnumpy() for array in (places, *faces)))
            refined = [mx.nd.array(array, ctx=x.ctx) for array in (*made, *_means(made))]
        *targets, anchors, meshes, masks, per_box, per_point, per_mesh = refined
        if net.network.cascade:
            parts = dict(zip(("first_cls", "first_box"), self.first(*rest[-2:], cls_targets, box_targets, per_anchor)))
        parts.update(zip(("cls", "box", "landmark"), self.second(cls, box, landmark, *targets, per_box, per_point)))
        if self.mesh is not None:
            coded = net.network.mesh_head(rest[0], anchors)
            vertex, edge = self.mesh(coded, meshes, masks, per_mesh)
            parts.update(vertex=vertex * self.mesh_weight, edge=edge * self.mesh_weight)
        return parts


def _means(made: tuple) -> tuple:
    """The factors of `AnchorLoss` for anchors with a face and for those with points, and for those with a mesh: in
    place of the global batch, of the images of one device.
    """
    cls_targets, _, _, landmark_masks, _, _, mesh_masks = made
    counts = (cls_targets == 1).sum(), landmark_masks.sum(), mesh_masks.sum()
    return tuple(np.full(len(cls_targets), len(cls_targets) / max(1.0, float(n)), np.float32) for n in counts)


def mesh_validator(samples: list[FaceSample], size: int, nose_tip: int):
    """``evaluate(net)``: `evaluate_mesh` of labelled meshes and those of the faces found, on the image and in space."""
    labelled = []
    for sample in (one for one in samples if one.faces.mesh is not None):
        labels = sample.faces[np.isfinite(sample.faces.mesh).all(axis=(1, 2)) & ~sample.faces.ignore]
        labelled += [(sample.image_path, labels)] if len(labels) else []
    if not labelled:
        raise InputError("--val-mesh: expected faces with meshes, got none")
    truth, sizes = (np.concatenate([getattr(labels, key) for _, labels in labelled]) for key in ("mesh", "face_sizes"))

    def evaluate(net) -> dict[str, float]:
        analyzer = FaceAnalyzer(net, size=size, score_thresh=0.02, batch_size=4)
        predicted = []
        for (_, labels), found in zip(labelled, analyzer.stream(path for path, _ in labelled)):
            rows = closest_proposals(found.boxes, labels.boxes)
            predicted.append(np.full(labels.mesh.shape, np.nan))
            if (rows >= 0).any():  # where nothing was found there are no meshes to take any from
                predicted[-1][rows >= 0] = found.mesh[rows[rows >= 0]]
        scores = evaluate_mesh(np.concatenate(predicted), truth, sizes, nose_tip)
        return {"mesh_nme": scores.xy, "mesh_nme_3d": scores.xyz, "mesh_missed": float(scores.missed)}

    return evaluate


def validator(args: argparse.Namespace, topology: MeshTopology | None):
    """AP on ``--val`` and the error of meshes on ``--val-mesh``."""
    tests = []
    if args.val:
        tests.append(detection_validator(FaceJsonLines(args.val, images_of(args, args.val)).samples, args.val_size))
    if args.val_mesh and topology is not None:
        images = images_of(args, args.val_mesh)
        posed = FaceJsonLines(args.val_mesh, images, meshes=args.mesh, topology=topology)
        tests.append(mesh_validator(posed.samples, args.val_size, topology.nose_tip))
    return merged_validator(tests)


def main(argv=None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = config_from_args(args)
    seed_everything(config.seed)
    topology = read_topology(args)
    net = build_net(args)
    net.hybridize(static_alloc=True)
    losses = CascadeLosses(args, topology) if model_facts(args.model).variant else light_losses(args)
    engine = Engine(
        net,
        losses,
        config,
        prepare=image_preparer(net.facts),
        evaluate=validator(args, topology),
        best_key="ap50" if args.val else None,
    )
    if topology is not None:
        losses.mesh.initialize(ctx=engine.contexts)  # constants
    # The points of a light variant are, as ever, a mean over all positive anchors.
    means = (positives,) if model_facts(args.model).variant else (positives, positives)
    with make_loader(args, config, engine.rank, engine.num_workers, topology) as loader:
        engine.fit(lambda epoch: NormalisedBatches(loader.epoch(epoch), *means))


if __name__ == "__main__":
    main()
