"""MOS: a low latency and lightweight framework for face detection, landmark localization, and head pose estimation
(Liu et al., BMVC 2021).

Paper line: section 3.1 and figure 1; a pyramid with SSH context whose multi-task head gives each anchor class, box,
five points and head pose.
Data flow: image (B, 3, H, W) -> C3..C5 -> pyramid P3..P5 -> SSH context -> a branch a task, cross-stitched -> 1x1
predictors -> (B, N, 2 | 4 | 10); the pose predictor is worked out for the anchors that hold a face only, of whose cells
it takes the vectors (B, cells, C), and gives 66 bins of 3 degrees for yaw, pitch and roll each.

The paper's switches are options here: the hard-shared head of its baseline, and deformable convolution.
"""

from __future__ import annotations

import os

from .._compat import mx
from ..decode import LIGHT_ANCHORS, AnchorSpec
from ..errors import InputError
from ..facts import ModelFacts
from ..nn.blocks import PartlyUsed
from ..nn.context import SSHContext
from ..nn.heads import AnchorHead, CellFeatures, PoseHead
from ..nn.pyramid import FeaturePyramid
from ..nn.stitch import MultiTaskHead
from .backbone import Backbone
from .detector import FaceDetector, Variant

nn = mx.gluon.nn

#: The tasks, in the order of the network's outputs.
TASKS = ("cls", "box", "landmark", "pose")
#: How the tasks share a level's map: joined by cross-stitch units, or all on the same map (the paper's baseline).
HEADS = ("stitch", "shared")


class MOSNetwork(PartlyUsed, nn.HybridBlock):
    """Raw predictions of MOS; ``pose_head`` is the detector's and the loss's to call.

    Parameters
    ----------
    backbone : HybridBlock
        Image to C3, C4, C5; its ``channels`` are the maps' channels.
    channels : int
        Channels of pyramid, context and head.
    spec : AnchorSpec
    head : str
        One of `HEADS`.
    deformable : bool
        Deformable convolution in pyramid and context.
    """

    def __init__(
        self, backbone, channels: int, spec: AnchorSpec, head: str = "stitch", deformable: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        levels, per_cell = len(spec.strides), spec.per_cell
        options = {"deformable": True} if deformable else {}
        with self.name_scope():
            self.backbone = backbone
            self.pyramid = FeaturePyramid(channels, backbone.channels, **options)
            self.context = nn.HybridSequential()
            for _ in range(levels):
                self.context.add(SSHContext(channels, **options))
            self.multi_task = None
            if head == "stitch":
                self.multi_task = nn.HybridSequential()
                for _ in range(levels):
                    self.multi_task.add(MultiTaskHead(len(TASKS), channels))
            self.cls_head = AnchorHead(2, per_cell, channels, levels)
            self.box_head = AnchorHead(4, per_cell, channels, levels)
            self.landmark_head = AnchorHead(10, per_cell, channels, levels)
            self.cells = CellFeatures()
            self.pose_head = PoseHead(spec, channels)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to cls_preds (B, N, 2) logits, box_preds (B, N, 4), landmark_preds (B, N, 10) and
        pose_cells (B, N / A, C), from which ``pose_head`` has the pose of chosen anchors.
        """
        maps = [context(level) for context, level in zip(self.context, self.pyramid(*self.backbone(x)))]
        if self.multi_task is None:
            cls, box, landmark, pose = [maps] * len(TASKS)
        else:
            cls, box, landmark, pose = zip(*(head(level) for head, level in zip(self.multi_task, maps)))
        return self.cls_head(*cls), self.box_head(*box), self.landmark_head(*landmark), self.cells(*pose)


VARIANTS = {
    "shufflenetv2_0.5": Variant(channels=64, params=479_716, gf=1.026),
    "shufflenetv2_1.0": Variant(channels=64, params=1_143_464, gf=1.816),  # MOS-S
    "shufflenetv2_1.5": Variant(channels=64, params=2_149_604, gf=2.992),
    "shufflenetv2_2.0": Variant(channels=64, params=3_766_440, gf=4.869),
    "mobilenet0.25": Variant(channels=64, params=556_820, gf=1.127),
    "mobilenetv2_1.0": Variant(channels=64, params=2_155_460, gf=3.061),
    "resnet152_v1b": Variant(channels=256, params=63_036_484, gf=107.109),  # MOS-L
}
DATASETS = {"mobilenet0.25": ("widerface", "fc26")}

#: (name, backbone, variant, dataset) of every model of this system.
MODELS = [
    (f"mos_{backbone}_{dataset}", backbone, "", dataset)
    for backbone in VARIANTS
    for dataset in DATASETS.get(backbone, ("widerface",))
]


def figures(backbone: str, variant: str, dataset: str) -> dict:
    """Parameters and GF of a net with the paper's head, whatever its dataset, as `ModelFacts` has them."""
    return VARIANTS[backbone].figures()


def mos(
    facts: ModelFacts,
    *,
    pretrained_base: bool | str | os.PathLike = False,
    root: str | os.PathLike | None = None,
    head: str = "stitch",
    deformable: bool = False,
    **nms: float,
) -> FaceDetector:
    """Build MOS.

    Parameters
    ----------
    facts : ModelFacts
        Its ``backbone`` is a key of ``VARIANTS``. Becomes ``net.facts``.
    pretrained_base, root
        See :class:`gluonface.model_zoo.backbone.Backbone`.
    head : {"stitch", "shared"}
        The multi-task head, or the hard-shared one that the paper starts its ablation from.
    deformable : bool
        Deformable convolution in pyramid and context (the last row of Table 1).
    **nms
        See :meth:`gluonface.model_zoo.detector.FaceDetector.set_nms`.

    Returns
    -------
    FaceDetector
        Not initialised, except for a pretrained backbone.

    Raises
    ------
    InputError
        Unknown head.
    """
    if head not in HEADS:
        raise InputError(f"expected head to be one of {', '.join(HEADS)}, got {head!r}")
    base = Backbone(facts.backbone, pretrained=pretrained_base, root=root)
    network = MOSNetwork(base, VARIANTS[facts.backbone].channels, LIGHT_ANCHORS, head, deformable)
    return FaceDetector(network, LIGHT_ANCHORS, facts, **nms)
