"""MaskFace: multi-task face and landmark detector (Yashunin, Baydasov, Vlasov, 2020).

Paper line: section 3.2 and figure 2; a single-shot detector on a feature pyramid, and the keypoint head of Mask R-CNN,
which looks at the faces that were found in the level of their size.
Data flow: image (B, 3, H, W) -> C2..C5 -> FPN P2..P6 -> context M2..M6 -> shared 1x1 heads -> (B, N, 2 | 4) -> NMS ->
faces of all images -> RoIAlign (R, C, 14, 14) -> 8 convolutions, deconvolution -> heatmaps (R, K, 56, 56) -> points.

What the paper leaves open is that of maskrcnn-benchmark, on which its authors build: ResNeXt are of 32 groups of 8
channels (the published X-152 of ImageNet-5k is), the pyramid's convolutions have no activation, P6 is every second cell
of P5, and "the first two convolutional layers" that stay frozen are the stem and the stage of C2.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import numpy as np

from .._compat import mx
from ..decode import AnchorSpec
from ..errors import InputError
from ..faces import SCHEMES
from ..facts import ModelFacts
from ..nn.blocks import PartlyUsed
from ..nn.context import GroupContext
from ..nn.heads import SharedAnchorHead
from ..nn.pyramid import FPN
from ..nn.roi import KeypointHead, number_boxes
from ..targets import MASKFACE_ANCHORS
from .backbone import BACKBONES, Backbone
from .block import ReadsHeatmaps
from .detector import AnchorDetector

nn = mx.gluon.nn

#: Long side in pixels that the net is meant for.
SIZE = 640
#: Faces whose points are found at once; of more, the heatmaps would take too much memory.
FACES_AT_ONCE = 256

# Share of faces among anchors that a new net tells (Lin et al. 2017, section 4.1): from a half, the many background
# anchors would drown the faces at first.
_PRIOR = 0.01


class _Prior(mx.init.Initializer):
    """Starts the biases of background and face, in turn, at the logits of `_PRIOR`."""

    def _init_weight(self, _, arr):
        half = 0.5 * np.log((1 - _PRIOR) / _PRIOR)
        arr[:] = mx.nd.array(np.tile([half, -half], arr.size // 2), ctx=arr.context)


class MaskFaceNetwork(PartlyUsed, nn.HybridBlock):
    """Raw predictions of MaskFace; ``keypoint_head`` is the detector's and the loss's to call.

    Parameters
    ----------
    backbone : HybridBlock
        Image to C2, C3, C4, C5; its ``channels`` are the maps' channels.
    channels : int
        Channels of pyramid, context and keypoint head.
    spec : AnchorSpec
    num_points : int
        K; 0 for a detector without keypoint head.
    k0 : float
        See `gluonface.nn.roi.PyramidRoIAlign`.
    roi_scale : float
        See `gluonface.nn.roi.KeypointHead`.
    context : bool
        False leaves the context modules out: the heads look at the pyramid itself.
    """

    def __init__(
        self,
        backbone,
        channels: int,
        spec: AnchorSpec,
        num_points: int = 5,
        k0: float = 3,
        roi_scale: float = 1,
        context: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        with self.name_scope():
            self.backbone = backbone
            # Not called as RetinaFace's, whose weights can start the backbone, but fit none of these.
            self.fpn = FPN(channels, backbone.channels)
            self.contexts = nn.HybridSequential()
            for _ in spec.strides:
                self.contexts.add(GroupContext(channels) if context else nn.HybridSequential(prefix=""))
            self.cls_head = SharedAnchorHead(2, spec.per_cell, channels, bias=_Prior())
            self.box_head = SharedAnchorHead(4, spec.per_cell, channels)
            self.keypoint_head = None
            if num_points:
                self.keypoint_head = KeypointHead(channels, num_points, spec.strides, k0, roi_scale)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to cls_preds (B, N, 2) logits, box_preds (B, N, 4), and with a keypoint head the levels
        M2..M6 (B, C, h, w) that it looks at.
        """
        maps = [context(level) for context, level in zip(self.contexts, self.fpn(*self.backbone(x)))]
        preds = self.cls_head(*maps), self.box_head(*maps)
        return preds if self.keypoint_head is None else (*preds, *maps)

    def infer_shape(self, *args):
        """Only the backbone leaves shapes to the first pass; Gluon would look for the keypoint head's in this graph."""
        self.backbone.infer_shape(*args)


class MaskFaceDetector(ReadsHeatmaps, AnchorDetector):
    """Two passes: network, decoding and non-maximum suppression for boxes, then the keypoint head for all faces of all
    images at once. Outputs as `gluonface.model_zoo.detector.FaceDetector` has them.

    On arrays the second pass is made for as many faces as were found, so that a photo without any costs none; that
    number has to be waited for. As a symbol, exported, it is one graph of fixed shapes, which works out points for
    ``post_nms`` boxes an image, faces or not: set that low before (``set_nms``). Both give the same.

    Parameters
    ----------
    network : MaskFaceNetwork
    spec : AnchorSpec
    facts : ModelFacts
    num_points : int
        K.
    decoder : str
        One of `gluonface.decode.HEATMAP_DECODERS`.
    nms_thresh, nms_topk, post_nms, score_thresh
        See :meth:`AnchorDetector.set_nms`.
    """

    def __init__(
        self, network, spec: AnchorSpec, facts: ModelFacts, *, num_points: int, decoder: str = "dark", **kwargs
    ):
        super().__init__(network, spec, facts, num_points=num_points, **kwargs)
        if network.keypoint_head is not None:
            self.set_decoder(decoder)

    def set_decoder(self, method: str) -> None:
        """Choose how points are read off heatmaps, see :func:`gluonface.decode.decode_heatmaps`."""
        self._set_decoder((KeypointHead.MAP_SIDE,) * 2, method)

    # GroupNorm in pyramid and context looks at all of the canvas.
    close_canvas = True

    def find_boxes(self, F, x, cls_preds, box_preds, least: float = 0.0):
        """Raw predictions to ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4): best first, padded with -1; ``least``
        as in :meth:`AnchorDetector.find`.
        """
        scores = F.slice_axis(F.softmax(cls_preds, axis=-1), axis=-1, begin=1, end=2)
        topk, _, scores, anchors, box_preds = self._choose(F, scores, least, self.anchors(x), box_preds)
        boxes = self.decode_boxes(box_preds, anchors)
        rows = self._suppress(F, F.concat(F.zeros_like(scores), scores, boxes, dim=-1), topk)
        return tuple(F.slice_axis(rows, axis=-1, begin=a, end=b) for a, b in ((0, 1), (1, 2), (2, 6)))

    def find_points(self, F, rois, *maps):
        """Rows (R, 5) of image and box, and the levels, to points (R, 2K) in input pixels, x and y in turn.

        Heatmaps of height 1 are read, exp(logit - highest logit): what a softmax gives, but for a factor.
        """
        head = self.network.keypoint_head
        logits, rois = head(rois, *maps), head.widen(rois)
        highest = F.max(logits, axis=(2, 3), keepdims=True)
        points, _ = self.decoder(F.exp(F.broadcast_sub(logits, highest)))
        low = F.slice_axis(rois, axis=1, begin=1, end=3)
        size = F.slice_axis(rois, axis=1, begin=3, end=5) - low
        places = F.broadcast_mul(points / KeypointHead.MAP_SIDE, size.expand_dims(1))
        return F.broadcast_add(places, low.expand_dims(1)).reshape((0, -1))

    def find(self, F, x, cls_preds, box_preds, *maps, least: float = 0.0):
        """Images (B, 3, H, W) and what the network gives for them to ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4)
        and, with a keypoint head, landmarks (B, n, 2K): best first, in input pixels, padded with -1.
        """
        ids, scores, boxes = self.find_boxes(F, x, cls_preds, box_preds, least)
        if not maps:
            return ids, scores, boxes
        rois = number_boxes(F, boxes)
        points = self.find_points(F, rois, *maps)
        found = F.broadcast_like(F.slice_axis(rois, axis=1, begin=0, end=1) >= 0, points)
        points = F.where(found, points, F.ones_like(points) * -1).reshape((-1, 2 * self.num_points))
        landmarks = F.reshape_like(points, boxes, lhs_begin=0, lhs_end=1, rhs_begin=0, rhs_end=2)
        return ids, scores, boxes, landmarks

    def finish(self, x, preds, score_thresh: float = 0.0):
        """As of any detector; boxes of at least that score are looked at for points, which are -1 of all others."""
        with x.ctx:
            cls_preds, box_preds, *maps = preds
            ids, scores, boxes = self.find_boxes(mx.nd, x, cls_preds, box_preds, score_thresh)
            if not maps:
                return ids, scores, boxes
            wanted = mx.nd.broadcast_like(scores >= score_thresh, boxes)
            return ids, scores, boxes, self._points_of(mx.nd.where(wanted, boxes, -mx.nd.ones_like(boxes)), maps)

    def _points_of(self, boxes, maps):
        """Landmarks (B, n, 2K) of boxes (B, n, 4)."""
        rois = number_boxes(mx.nd, boxes)
        landmarks = mx.nd.full((len(rois), 2 * self.num_points), -1, ctx=boxes.ctx)
        faces = np.flatnonzero(rois[:, 0].asnumpy() >= 0)
        for start in range(0, len(faces), FACES_AT_ONCE):
            chosen = mx.nd.array(faces[start : start + FACES_AT_ONCE], ctx=boxes.ctx, dtype="int32")
            landmarks[chosen] = self.find_points(mx.nd, rois.take(chosen), *maps)
        return landmarks.reshape((*boxes.shape[:2], -1))


# ---- variants --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A row of the table of variants: the backbone, counted to C5, with its frozen parameters, at 640x640 pixels, and
    the channels C of everything behind it.
    """

    backbone: str
    params: int
    macs: int
    channels: int = 256


VARIANTS = {
    # Ours: small enough to be trained on a processor.
    "mobilenet0.25": Variant("mobilenet0.25", params=213_072, macs=332_851_200, channels=64),
    "mobilenetv2_1.0": Variant("mobilenetv2_1.0", params=1_811_712, macs=2_281_011_200),
    "resnet50_v1b": Variant("resnet50_v1b", params=23_508_032, macs=33_364_377_600),
    "resnext101": Variant("resnext101_32x8d", params=86_742_336, macs=133_975_244_800),
    "resnext152": Variant("resnext152_32x8d", params=120_323_392, macs=199_039_385_600),
}
#: Dataset in a name -> points of its faces, K.
DATASETS = {"widerface": 5, "aflw": 19, "300w": 68, "fc26": 68}

#: (name, backbone, variant, dataset) of every model of this system.
MODELS = [(f"maskface_{backbone}_{dataset}", backbone, "", dataset) for backbone in VARIANTS for dataset in DATASETS]


def figures(
    backbone: str,
    variant: str,
    dataset: str,
    channels: int | None = None,
    num_points: int | None = None,
    context: bool = True,
) -> dict:
    """Parameters of a net, frozen ones too, and GF of its boxes, counted layer by layer; what points cost depends on
    the faces: `keypoint_macs` for each.
    """
    one = VARIANTS[backbone]
    c = one.channels if channels is None else channels
    num_points = DATASETS[dataset] if num_points is None else num_points
    cut = BACKBONES[one.backbone]
    levels = (cut.early[1], *cut.channels)
    cells = [(SIZE // stride) ** 2 for stride in MASKFACE_ANCHORS.strides]
    # A factor and an offset for each channel of each normalisation.
    smooth, around, predictors = 9 * c * c, 9 * c * c * 3 // 2 * context, 6 * MASKFACE_ANCHORS.per_cell
    params = one.params + sum(levels) * c + len(levels) * (smooth + 4 * c)
    params += len(cells) * (around + 4 * c * context) + predictors * (c + 1)
    if num_points:
        params += KeypointHead.DEPTH * (smooth + 2 * c) + (16 * c + 1) * num_points
    macs = one.macs + sum(n * (level + 9 * c) * c for n, level in zip(cells, levels))
    macs += sum(cells) * (around + predictors * c)
    return {"params": params, "gf": macs / 1e9, "size": SIZE}


def keypoint_macs(channels: int, num_points: int) -> int:
    """Multiply-accumulates of the keypoint head for one face."""
    return KeypointHead.SIDE**2 * channels * (KeypointHead.DEPTH * 9 * channels + 16 * num_points)


def maskface(
    facts: ModelFacts,
    *,
    pretrained_base: bool | str | os.PathLike = False,
    root: str | os.PathLike | None = None,
    channels: int | None = None,
    num_points: int | None = None,
    k0: float = 3,
    roi_scale: float = 1,
    keypoints: bool = True,
    context: bool = True,
    frozen: bool = True,
    decoder: str | None = None,
    **nms: float,
) -> MaskFaceDetector:
    """Build MaskFace.

    Parameters
    ----------
    facts : ModelFacts
        Its ``backbone`` is a key of `VARIANTS`. Becomes ``net.facts``, with the figures of this net.
    pretrained_base, root
        See :class:`gluonface.model_zoo.backbone.Backbone`; True for the first three rows of `VARIANTS`.
    channels : int, optional
        C of pyramid, context and keypoint head, a multiple of 4; 256, with MobileNet 0.25 64.
    num_points : int, optional
        K, where not that of the dataset; one of the schemes.
    k0 : float
        Level of the pyramid in which points of a face of 224 pixels are looked for, 2 to 6; the lower, the finer the
        map (section 4.4).
    roi_scale : float
        Points of a face are looked for in its box times this, 1 to 2; the paper's 1 is meant for boxes in which they
        all are.
    keypoints : bool
        False leaves the keypoint head out: boxes alone.
    context : bool
        False leaves the context modules out, the paper's "FPN" (tables 1 and 6).
    frozen : bool
        Training leaves the backbone up to C2 and all its BatchNorms as they are, as the paper does (section 3.3). False
        to start from random weights, which need their statistics.
    decoder : str, optional
        How points are read off heatmaps, see :func:`gluonface.decode.decode_heatmaps`; by default what the facts of the
        weights name, "dark" without weights.
    **nms
        See :meth:`gluonface.model_zoo.detector.AnchorDetector.set_nms`. Points are found for every box that is left: of
        a photo's many boxes of low score a higher ``score_thresh`` spares those.

    Returns
    -------
    MaskFaceDetector
        Not initialised, except for a pretrained backbone.

    Raises
    ------
    InputError
        An argument is out of range.
    """
    row = VARIANTS[facts.backbone]
    channels = row.channels if channels is None else channels
    if channels < 4 or channels % 4:
        raise InputError(f"expected channels to be a multiple of 4, got {channels}")
    if num_points is not None and str(num_points) not in SCHEMES:
        raise InputError(f"expected num_points among {', '.join(SCHEMES)}, got {num_points}")
    if not 2 <= k0 <= 6:
        raise InputError(f"expected k0 to be from 2 to 6, the levels of the pyramid, got {k0}")
    if not 1 <= roi_scale <= 2:
        raise InputError(f"expected roi_scale to be from 1 to 2, times the box, got {roi_scale}")
    num_points = (DATASETS[facts.dataset] if num_points is None else num_points) if keypoints else 0
    counted = figures(facts.backbone, facts.variant, facts.dataset, channels, num_points, context)
    facts = dataclasses.replace(facts, params=counted["params"], gf=counted["gf"])
    base = Backbone(row.backbone, pretrained=pretrained_base, root=root, early=True)
    if frozen:
        base.freeze()
    network = MaskFaceNetwork(base, channels, MASKFACE_ANCHORS, num_points, k0, roi_scale, context)
    return MaskFaceDetector(
        network, MASKFACE_ANCHORS, facts, num_points=num_points, decoder=decoder or facts.decoder, **nms
    )
