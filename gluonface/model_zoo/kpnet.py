"""KPNet: towards minimal face detector (Song et al., AAAI 2020).

Paper line: figure 2; a shallow net looks at a small photo, a scale map says where faces are and how large, a response
map where their points are, and the box follows from the points.
Data flow: image (B, 3, H, W), long side 256 -> DRNet or Hourglass (B, C, H / 2, W / 2) -> 3x3 scale map (B, 60, h, w)
and 3x3 response map (B, K, h, w) -> P proposals, squares (B, P, 4) -> soft-argmax in each (B, P, K, 2) -> boxes
(B, P, 4), scores -> NMS at IoU .6.

The backbones are drawn in `gluonface.model_zoo.kpnet_backbones`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._compat import mx
from ..decode import KPNET_SCALES, SCORE_POINTS, AnchorSpec
from ..errors import InputError
from ..facts import ModelFacts
from ..nn.blocks import PartlyUsed
from ..nn.heads import AnchorHead
from ..nn.keypoints import SquareArgmax, SquareRegression, SquareSoftArgmax
from .detector import FaceDetector
from .keypoint_detector import BOXES, SCORINGS, KeypointDetector, TagDetector
from .kpnet_backbones import DRNet, HourglassLight

nn = mx.gluon.nn

#: How points are found in a proposal (Table 2): the paper's, and what it is compared with.
READERS = ("soft", "argmax", "regression")
#: What stands on the backbone: KPNet, one level of anchors, or associative embedding (Table 6: "RPN" and "AE").
HEADS = ("keypoints", "anchors", "tags")

#: Anchors of the "RPN" of Table 6: every cell of stride 2, sides of the introduction for photos of 200 to 400 pixels.
RPN_ANCHORS = AnchorSpec(strides=(KPNET_SCALES.stride,), sizes=(tuple(side * 2**0.5 for side in (16, 32, 64)),))

# Logit of a scale map before training: faces in one of e^7 cells and bins. From 0, half of a million cells would first
# have to unlearn a face, at 10,000 times the usual loss.
_RARE = -7.0


# ---- networks --------------------------------------------------------------------------------------------------------


class KPNetNetwork(PartlyUsed, nn.HybridBlock):
    """Raw predictions of KPNet.

    ``network.reader`` finds points in squares, see `gluonface.nn.keypoints`; training calls it with the squares of
    `gluonface.targets.KPNetTargets`, the detector with the proposals.

    Parameters
    ----------
    backbone : HybridBlock
        Image to (B, C, H / 2, W / 2); its ``channels`` is C.
    num_points : int
        K.
    reader : str
        One of `READERS`.
    beta : float
        Of the soft-argmax.
    """

    def __init__(self, backbone, num_points: int, reader: str = "soft", beta: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        channels = backbone.channels
        with self.name_scope():
            self.backbone = backbone
            self.scale_head = nn.Conv2D(
                KPNET_SCALES.bins,
                3,
                padding=1,
                in_channels=channels,
                weight_initializer=mx.init.Normal(0.01),
                bias_initializer=mx.init.Constant(_RARE),
            )
            self.response_head = None
            if reader == "regression":
                self.reader = SquareRegression(num_points, channels)
            else:
                # Of a response map that is learnt cell by cell, each is at first as unlikely to hold the point.
                bias = mx.init.Constant(_RARE) if reader == "argmax" else mx.init.Zero()
                self.response_head = nn.Conv2D(
                    num_points,
                    3,
                    padding=1,
                    in_channels=channels,
                    weight_initializer=mx.init.Normal(0.01),
                    bias_initializer=bias,
                )
                if reader == "argmax":
                    self.reader = SquareArgmax(num_points)
                else:
                    self.reader = SquareSoftArgmax(num_points, beta=beta)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to scale_map (B, 60, h, w), logits, and what ``reader`` takes: the response map
        (B, K, h, w), or for coordinate regression the features (B, C, h, w).
        """
        features = self.backbone(x)
        maps = features if self.response_head is None else self.response_head(features)
        return self.scale_head(features), maps


class AnchorNetwork(nn.HybridBlock):
    """One level of anchors on the backbone, with the outputs of the other anchor-based detectors.

    Parameters
    ----------
    backbone : HybridBlock
    spec : AnchorSpec
        Of one level.
    num_points : int
        K.
    """

    def __init__(self, backbone, spec: AnchorSpec, num_points: int, **kwargs):
        super().__init__(**kwargs)
        channels = backbone.channels
        with self.name_scope():
            self.backbone = backbone
            # An RPN's own 3x3 convolution, before its 1x1 predictors.
            self.shared = nn.Conv2D(channels, 3, padding=1, in_channels=channels, activation="relu")
            self.cls_head = AnchorHead(2, spec.per_cell, channels, 1)
            self.box_head = AnchorHead(4, spec.per_cell, channels, 1)
            self.landmark_head = AnchorHead(2 * num_points, spec.per_cell, channels, 1)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to cls_preds (B, N, 2) logits, box_preds (B, N, 4), landmark_preds (B, N, 2K)."""
        shared = self.shared(self.backbone(x))
        return self.cls_head(shared), self.box_head(shared), self.landmark_head(shared)


class TagNetwork(nn.HybridBlock):
    """Heatmaps of points and their tags on the backbone, for associative embedding.

    Parameters
    ----------
    backbone : HybridBlock
    num_points : int
        K.
    """

    def __init__(self, backbone, num_points: int, **kwargs):
        super().__init__(**kwargs)
        options = {"padding": 1, "in_channels": backbone.channels, "weight_initializer": mx.init.Normal(0.01)}
        with self.name_scope():
            self.backbone = backbone
            self.response_head = nn.Conv2D(num_points, 3, bias_initializer=mx.init.Constant(_RARE), **options)
            self.tag_head = nn.Conv2D(num_points, 3, **options)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to heatmaps, logits, and tags, (B, K, h, w) each."""
        features = self.backbone(x)
        return self.response_head(features), self.tag_head(features)


# ---- variants --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A row of the table of variants: the backbone, and the counts with K = 5 that the tests hold it to; GF are of
    256x256 pixels.
    """

    backbone: type
    params: int
    gf: float


VARIANTS = {
    "drnet": Variant(DRNet, params=1_006_065, gf=2.010),
    "hourglass": Variant(HourglassLight, params=1_048_193, gf=3.955),
}
#: Dataset in a name -> points of its faces, K.
DATASETS = {"widerface": 5, "fc26": 5, "aflw": 19}

#: (name, backbone, variant, dataset) of every model of this system.
MODELS = [(f"kpnet_{backbone}_{dataset}", backbone, "", dataset) for backbone in VARIANTS for dataset in DATASETS]


def figures(backbone: str, variant: str, dataset: str) -> dict:
    """Parameters and GF at 256x256 of a net with the paper's heads, and the long side it is meant for."""
    one, more = VARIANTS[backbone], DATASETS[dataset] - 5
    weights = 9 * one.backbone.channels * more
    size = KPNET_SCALES.long_side
    cells = (size // KPNET_SCALES.stride) ** 2
    return {"params": one.params + weights + more, "gf": one.gf + cells * weights / 1e9, "size": size}


def kpnet(
    facts: ModelFacts,
    *,
    pretrained_base: bool | str | os.PathLike = False,
    root: str | os.PathLike | None = None,
    num_points: int | None = None,
    reader: str = "soft",
    boxes: str = "points",
    box_style: str = "corpus",
    scoring: str | None = None,
    head: str = "keypoints",
    beta: float = 1.0,
    **nms: float,
) -> KeypointDetector | FaceDetector | TagDetector:
    """Build KPNet, or a row of its ablations.

    Parameters
    ----------
    facts : ModelFacts
        Its ``backbone`` is a key of `VARIANTS`. Becomes ``net.facts``.
    pretrained_base : False
        Both backbones are the paper's own and start from random weights.
    root
        Not used: there is no backbone to look for.
    num_points : {5, 19, 68}, optional
        K, where not that of the dataset.
    reader : {"soft", "argmax", "regression"}
        How points are found in a proposal (Table 2).
    boxes : {"points", "proposals"}
        Boxes from the points, or the scale proposals alone (Table 3). For labelled squares in the place of proposals
        see :meth:`KeypointDetector.find_points`.
    box_style : {"corpus", "tight", "square"}
        See `gluonface.box_mapping.BOX_STYLES`.
    scoring : {"mean", "proposal"}, optional
        What a face's score is, see `gluonface.model_zoo.keypoint_detector.SCORINGS`; that of the facts by default.
    head : {"keypoints", "anchors", "tags"}
        What else may stand on the backbone (Table 6); reader, boxes, scoring, beta are then of no use. "anchors" gives
        a `FaceDetector` with one level of anchors, for `gluonface.targets.AnchorTargets` and
        `gluonface.loss.AnchorLoss`, whose boxes have no style. "tags" gives a `TagDetector`, for
        `gluonface.targets.TagTargets`, `gluonface.loss.MapLoss` and `gluonface.loss.TagLoss`.
    beta : float
        What the response map is multiplied with before the softmax.
    **nms
        See :meth:`MapDetector.set_nms`, with anchors :meth:`gluonface.model_zoo.detector.FaceDetector.set_nms`.

    Returns
    -------
    KeypointDetector, FaceDetector or TagDetector
        Not initialised.

    Raises
    ------
    InputError
        An argument is out of range.
    """
    if pretrained_base:
        raise InputError(f"{facts.name}: its backbone has no pretrained weights; expected pretrained_base=False")
    scoring = facts.scoring if scoring is None else scoring
    for name, value, known in (
        ("scoring", scoring, SCORINGS),
        ("reader", reader, READERS),
        ("boxes", boxes, BOXES),
        ("head", head, HEADS),
        ("num_points", num_points, (None, *SCORE_POINTS)),
    ):
        if value not in known:
            raise InputError(f"expected {name} to be one of {', '.join(map(str, known))}, got {value!r}")
    if not beta > 0:
        raise InputError(f"expected beta to be positive, got {beta}")
    num_points = DATASETS[facts.dataset] if num_points is None else num_points
    backbone = VARIANTS[facts.backbone].backbone()
    if head == "anchors":
        network = AnchorNetwork(backbone, RPN_ANCHORS, num_points)
        return FaceDetector(network, RPN_ANCHORS, facts, num_points=num_points, **nms)
    if head == "tags":
        return TagDetector(TagNetwork(backbone, num_points), facts, num_points=num_points, box_style=box_style, **nms)
    network = KPNetNetwork(backbone, num_points, reader, beta)
    options = {"boxes": boxes, "box_style": box_style, "scoring": scoring, "beta": beta}
    return KeypointDetector(network, facts, num_points=num_points, **options, **nms)
