"""RetinaFace as a whole (Deng et al., CVPR 2020): a face mesh for each face, beside box and five points.

Paper line: section 3.3 and figure 2; five levels, a context module for each, 1x1 predictors that all levels share, and
a second context module that refines what the first has found.
Data flow: image (B, 3, H, W) -> C2..C5 -> pyramid P2..P6 -> context -> class and box of the anchors (B, N, 2 | 4) ->
second context -> class, box, five points in the boxes of the first head (B, N, 2 | 4 | 10), and the vectors of the
cells (B, cells, C), of which those that hold a face give meshes (B, n, 3V).

Where the paper is silent: the second context module looks at the output of the first, as in its authors' sources; the
first head predicts class and box alone; a box that it has moved counts as the square of its centre and area, since eq.
4 has one scale; a face's score may be that of either head, or of both (`SCORINGS`). Shared predictors are what makes
the ResNet-50 net the paper's 155 MB: one for each level would add 40.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from .._compat import mx
from ..decode import AnchorSpec
from ..errors import InputError
from ..facts import ModelFacts
from ..nn.blocks import PartlyUsed
from ..nn.coder import MeshDecoder, PointDecoder, SquareAnchors
from ..nn.context import SSHContext
from ..nn.heads import CellFeatures, MeshHead, SharedAnchorHead
from ..nn.pyramid import FeaturePyramid
from ..targets import RETINAFACE_ANCHORS
from .backbone import Backbone
from .detector import AnchorDetector

nn = mx.gluon.nn

#: What a face's score is where there are two heads: that of the mean of their logits, as Cascade R-CNN averages its
#: stages (Cai and Vasconcelos 2018), which the paper follows there, or of one. The second head calls many more of the
#: boxes about a face right, which it is to refine, and so may rank faces worse than the first.
SCORINGS = ("mean", "first", "second")


class RetinaFaceMeshNetwork(PartlyUsed, nn.HybridBlock):
    """Raw predictions of the whole RetinaFace; ``mesh_head`` is the detector's and the loss's to call.

    Parameters
    ----------
    backbone : HybridBlock
        Image to C2, C3, C4, C5; its ``channels`` are the maps' channels.
    channels : int
        Channels C of pyramid and context.
    spec : AnchorSpec
    num_vertices : int
        V; 0 for a net without mesh.
    cascade : bool
        Two heads, the second in the boxes of the first.
    deformable : bool
        Deformable convolution in pyramid and context.
    """

    def __init__(
        self,
        backbone,
        channels: int,
        spec: AnchorSpec,
        num_vertices: int,
        cascade: bool = True,
        deformable: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.cascade = cascade
        with self.name_scope():
            self.backbone = backbone
            # Not called as the light variant's, whose weights can start the backbone, but fit none of these.
            self.fpn = FeaturePyramid(channels, backbone.channels, deformable, extra=True)
            self.fpn.extra[0].weight.init = mx.init.Xavier()
            self.contexts = _contexts(spec, channels, deformable)
            self.second_contexts = _contexts(spec, channels, deformable) if cascade else None
            if cascade:
                self.first_cls_head = SharedAnchorHead(2, spec.per_cell, channels)
                self.first_box_head = SharedAnchorHead(4, spec.per_cell, channels)
            self.cls_head = SharedAnchorHead(2, spec.per_cell, channels)
            self.box_head = SharedAnchorHead(4, spec.per_cell, channels)
            self.landmark_head = SharedAnchorHead(10, spec.per_cell, channels)
            self.cells = CellFeatures() if num_vertices else None
            self.mesh_head = MeshHead(num_vertices, spec.per_cell, channels) if num_vertices else None

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to cls_preds (B, N, 2) logits, box_preds (B, N, 4), landmark_preds (B, N, 10); with a
        mesh mesh_cells (B, N / A, C), from which ``mesh_head`` has the meshes of chosen anchors; with a cascade the
        first head's cls_preds (B, N, 2) and box_preds (B, N, 4), whose boxes all others refer to.
        """
        maps = [context(level) for context, level in zip(self.contexts, self.fpn(*self.backbone(x)))]
        first = ()
        if self.cascade:
            first = self.first_cls_head(*maps), self.first_box_head(*maps)
            maps = [context(level) for context, level in zip(self.second_contexts, maps)]
        cells = () if self.cells is None else (self.cells(*maps),)
        return self.cls_head(*maps), self.box_head(*maps), self.landmark_head(*maps), *cells, *first

    def infer_shape(self, *args):
        """Only the backbone leaves shapes to the first pass; Gluon would look for the mesh head's in this graph."""
        self.backbone.infer_shape(*args)


def _contexts(spec: AnchorSpec, channels: int, deformable: bool):
    modules = nn.HybridSequential()
    for _ in spec.strides:
        modules.add(SSHContext(channels, deformable))
    return modules


class RetinaFaceMeshDetector(PartlyUsed, AnchorDetector):
    """Network, decoding and non-maximum suppression in one graph, and the meshes of what is left.

    Parameters
    ----------
    network : RetinaFaceMeshNetwork
    spec : AnchorSpec
    facts : ModelFacts
    scoring : str
        One of `SCORINGS`; without a cascade there is one score.
    nms_thresh, nms_topk, post_nms, score_thresh
        See :meth:`AnchorDetector.set_nms`. In a graph of fixed shapes a mesh is worked out for each of ``post_nms``
        rows, faces or not; on arrays for as many as are faces.
    """

    def __init__(self, network, spec: AnchorSpec, facts: ModelFacts, *, scoring: str = "mean", **nms: float):
        super().__init__(network, spec, facts, **nms)
        self.scoring = scoring
        with self.name_scope():
            self.square = SquareAnchors()
            self.decode_points = PointDecoder(self.num_points)
            self.decode_mesh = MeshDecoder()

    def first_boxes(self, x, first_box_preds):
        """What the first head makes of the anchors of images x (B, 3, H, W): boxes (B, N, 4), xyxy in input pixels."""
        return self.decode_boxes(first_box_preds, self.anchors(x))

    def find(self, F, x, cls_preds, box_preds, landmark_preds, *rest, least: float = 0.0):
        """Find faces in a batch; a call of the net takes x alone.

        Parameters
        ----------
        x : (B, 3, H, W)
            RGB, normalised as ``net.facts`` says.
        cls_preds, ...
            What the network gives for it.
        least
            See :meth:`AnchorDetector.find`.

        Returns
        -------
        ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4), landmarks (B, n, 10), and mesh (B, n, 3V) where there is one
            Best first, in input pixels, depth from the tip of the nose, padded with -1.
        """
        first = ()
        if self.network.cascade:
            cls_preds = {"first": rest[-2], "second": cls_preds, "mean": (cls_preds + rest[-2]) / 2}[self.scoring]
            first = rest[-1:]
        scores = F.slice_axis(F.softmax(cls_preds, axis=-1), axis=-1, begin=1, end=2)
        topk, number, scores, anchors, box_preds, landmark_preds, *first = self._choose(
            F, scores, least, self.anchors(x), box_preds, landmark_preds, *first
        )
        if first:
            anchors = self.square(self.decode_boxes(first[0], anchors))
        boxes, points = self.decode_boxes(box_preds, anchors), self.decode_points(landmark_preds, anchors)
        # Which anchor a row is from, and where that lies, for the mesh of those that are left.
        frames = F.broadcast_like(anchors, boxes)
        rows = self._suppress(F, F.concat(F.zeros_like(scores), scores, boxes, points, number, frames, dim=-1), topk)
        cuts = ((0, 1), (1, 2), (2, 6), (6, 16), (16, 17), (17, 21))
        *found, number, frames = (F.slice_axis(rows, axis=-1, begin=a, end=b) for a, b in cuts)
        if self.network.mesh_head is None:
            return tuple(found)

        def meshes(number, frames):
            # The rows that are padding take the first anchor's, and lose it again.
            coded = self.network.mesh_head(rest[0], F.relu(number).reshape((0, -1)))
            return self.decode_mesh(coded, frames)

        return *found, self._of_faces(F, *found[:2], least, meshes, number, frames)


# ---- variants --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A row of the table of variants: channels C, parameters without the mesh's, multiply-accumulates in 10^9 of one
    photo of 640x640, all convolutions counted as plain ones, and whether there are deformable ones.
    """

    channels: int
    params: int
    gf: float
    deformable: bool


VARIANTS = {
    # Ours: small enough to be trained on a processor, for which deformable convolution is slow.
    "mobilenet0.25": Variant(channels=64, params=854_674, gf=4.186, deformable=False),
    "resnet50_v1b": Variant(channels=256, params=37_803_324, gf=95.088, deformable=True),
    "resnet152_v1b": Variant(channels=256, params=72_439_100, gf=155.696, deformable=True),
}
DATASETS = ("widerface", "fc26")

#: (name, backbone, variant, dataset) of the models that are listed; the mesh of others may have any number of vertices.
MODELS = [
    (f"retinaface_{backbone}_{variant}_{dataset}", backbone, variant, dataset)
    for backbone, variant, dataset in (
        ("mobilenet0.25", "mesh468", "fc26"),
        ("resnet50_v1b", "mesh1103", "widerface"),
        ("resnet152_v1b", "mesh1103", "widerface"),
    )
]
#: What `retinaface_mesh` takes beside the settings of non-maximum suppression.
OPTIONS = ("cascade", "deformable", "mesh", "scoring")


def parse(name: str) -> tuple[str, str, str] | None:
    """Backbone, variant and dataset of a name such as ``retinaface_resnet50_v1b_mesh5023_widerface``, or None."""
    found = re.fullmatch(
        rf"retinaface_({'|'.join(map(re.escape, VARIANTS))})_(mesh[1-9]\d*)_({'|'.join(DATASETS)})", name
    )
    return found and found.groups()


def num_vertices(variant: str) -> int:
    """V of a variant such as ``mesh468``."""
    return int(variant.removeprefix("mesh"))


def figures(backbone: str, variant: str, dataset: str) -> dict:
    """Parameters and GF of a net as it is by default; what meshes cost depends on the faces."""
    row = VARIANTS[backbone]
    mesh = 3 * num_vertices(variant) * RETINAFACE_ANCHORS.per_cell * (row.channels + 1)
    return {"params": row.params + mesh, "gf": row.gf}


def retinaface_mesh(
    facts: ModelFacts,
    *,
    pretrained_base: bool | str | os.PathLike = False,
    root: str | os.PathLike | None = None,
    cascade: bool = True,
    deformable: bool | None = None,
    mesh: bool = True,
    scoring: str | None = None,
    **nms: float,
) -> RetinaFaceMeshDetector:
    """Build the whole RetinaFace.

    Parameters
    ----------
    facts : ModelFacts
        Its ``backbone`` is a key of `VARIANTS`, its ``variant`` says how many vertices a mesh has. Becomes
        ``net.facts``.
    pretrained_base, root
        See :class:`gluonface.model_zoo.backbone.Backbone`.
    cascade : bool
        False: one head, in the anchors themselves (the first rows of Table 1).
    deformable : bool, optional
        Deformable convolution in pyramid and context; by default as the paper has it in ResNets.
    mesh : bool
        False: class, box and five points alone.
    scoring : {"mean", "first", "second"}, optional
        What a face's score is, of the two heads of a cascade; by default as the facts say. See `SCORINGS`.
    **nms
        See :meth:`gluonface.model_zoo.detector.AnchorDetector.set_nms`.

    Returns
    -------
    RetinaFaceMeshDetector
        Not initialised, except for a pretrained backbone.

    Raises
    ------
    InputError
        An unknown scoring, or one of two heads for a net with one.
    """
    if scoring is not None and not cascade:
        raise InputError(f"{facts.name}: scoring chooses between the two heads of a cascade, and cascade is off")
    scoring = facts.scoring if scoring is None else scoring
    if scoring not in SCORINGS:
        raise InputError(f"{facts.name}: expected scoring to be one of {', '.join(SCORINGS)}, got {scoring!r}")
    row = VARIANTS[facts.backbone]
    deformable = row.deformable if deformable is None else deformable
    base = Backbone(facts.backbone, pretrained=pretrained_base, root=root, early=True)
    vertices = num_vertices(facts.variant) if mesh else 0
    network = RetinaFaceMeshNetwork(base, row.channels, RETINAFACE_ANCHORS, vertices, cascade, deformable)
    return RetinaFaceMeshDetector(network, RETINAFACE_ANCHORS, facts, scoring=scoring, **nms)
