"""RetinaFace: single-shot multi-level face localisation in the wild (Deng et al., CVPR 2020), light variants; the whole
of the paper is in `gluonface.model_zoo.retinaface_mesh`.

Paper line: section 3.3; a pyramid with context modules whose anchors predict class, box and five points together.
Data flow: image (B, 3, H, W) -> C3..C5 -> pyramid P3..P5 -> SSH context -> three 1x1 heads -> (B, N, 2 | 4 | 10).

The light variant is that of the authors' sources: three levels, two square anchors a cell (16,800 at 640x640), no
deformable convolution, one head. Coding is eq. 4 of the paper, without variances.
"""

from __future__ import annotations

import os

from .._compat import mx
from ..decode import LIGHT_ANCHORS, AnchorSpec
from ..facts import ModelFacts
from ..nn.context import SSHContext
from ..nn.heads import AnchorHead
from ..nn.pyramid import FeaturePyramid
from . import retinaface_mesh
from .backbone import Backbone
from .detector import FaceDetector, Variant

nn = mx.gluon.nn


class RetinaFaceNetwork(nn.HybridBlock):
    """Raw predictions of RetinaFace.

    Parameters
    ----------
    backbone : HybridBlock
        Image to C3, C4, C5; its ``channels`` are the maps' channels.
    channels : int
        Channels of pyramid and context.
    spec : AnchorSpec
    num_points : int
        K.
    """

    def __init__(self, backbone, channels: int, spec: AnchorSpec, num_points: int = 5, **kwargs):
        super().__init__(**kwargs)
        levels, per_cell = len(spec.strides), spec.per_cell
        with self.name_scope():
            self.backbone = backbone
            self.pyramid = FeaturePyramid(channels, backbone.channels)
            self.context = nn.HybridSequential()
            for _ in range(levels):
                self.context.add(SSHContext(channels))
            self.cls_head = AnchorHead(2, per_cell, channels, levels)
            self.box_head = AnchorHead(4, per_cell, channels, levels)
            self.landmark_head = AnchorHead(2 * num_points, per_cell, channels, levels)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to cls_preds (B, N, 2) logits, box_preds (B, N, 4), landmark_preds (B, N, 2K)."""
        maps = [context(level) for context, level in zip(self.context, self.pyramid(*self.backbone(x)))]
        return self.cls_head(*maps), self.box_head(*maps), self.landmark_head(*maps)


VARIANTS = {
    "mobilenet0.25": Variant(channels=64, params=426_608, gf=0.981),
    "mobilenet0.5": Variant(channels=128, params=1_657_728, gf=3.775),
    "mobilenetv2_1.0": Variant(channels=64, params=2_025_248, gf=2.915),
    "resnet50_v1b": Variant(channels=256, params=27_293_600, gf=44.265),
}
DATASETS = {"mobilenet0.25": ("widerface", "fc26", "mask")}

#: (name, backbone, variant, dataset) of every model of this system.
MODELS = [
    (f"retinaface_{backbone}_{dataset}", backbone, "", dataset)
    for backbone in VARIANTS
    for dataset in DATASETS.get(backbone, ("widerface",))
] + retinaface_mesh.MODELS


def options(variant: str) -> tuple[str, ...]:
    """Options of a net beside the settings of non-maximum suppression: those with a mesh have some."""
    return retinaface_mesh.OPTIONS if variant else ()


def figures(backbone: str, variant: str, dataset: str) -> dict:
    """Parameters and GF of a net, whatever its dataset, as `ModelFacts` has them."""
    return retinaface_mesh.figures(backbone, variant, dataset) if variant else VARIANTS[backbone].figures()


def retinaface(
    facts: ModelFacts,
    *,
    pretrained_base: bool | str | os.PathLike = False,
    root: str | os.PathLike | None = None,
    **options,
) -> FaceDetector | retinaface_mesh.RetinaFaceMeshDetector:
    """Build a RetinaFace: a light one, or where the variant is a mesh the whole of the paper.

    Parameters
    ----------
    facts : ModelFacts
        Its ``backbone`` is a key of ``VARIANTS``. Becomes ``net.facts``.
    pretrained_base, root
        See :class:`gluonface.model_zoo.backbone.Backbone`.
    **options
        Of a light one see :meth:`gluonface.model_zoo.detector.FaceDetector.set_nms`, else
        :func:`gluonface.model_zoo.retinaface_mesh.retinaface_mesh`.

    Returns
    -------
    FaceDetector or RetinaFaceMeshDetector
        Not initialised, except for a pretrained backbone.
    """
    if facts.variant:
        return retinaface_mesh.retinaface_mesh(facts, pretrained_base=pretrained_base, root=root, **options)
    base = Backbone(facts.backbone, pretrained=pretrained_base, root=root)
    network = RetinaFaceNetwork(base, VARIANTS[facts.backbone].channels, LIGHT_ANCHORS)
    return FaceDetector(network, LIGHT_ANCHORS, facts, **options)
