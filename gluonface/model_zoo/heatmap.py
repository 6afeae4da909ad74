"""Heatmap landmarks: sub-pixel face landmarks using heatmaps and a bag of tricks (Earp et al., 2021).

Paper line: section 3; a classifier's last map is scaled up letter by letter to one heatmap a landmark, whose peak is
read to a fraction of a cell.
Data flow: aligned crop (B, 3, 192, 192) -> backbone (B, C, 6, 6) -> 1x1 stem (B, 256, 6, 6) -> letters, each doubling
the map -> 1x1 head (B, K, h, w) -> decoder -> landmarks (B, K, 2) in pixels of the crop, scores (B, K).
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass

from .._compat import mx
from ..errors import InputError
from ..faces import SCHEMES
from ..facts import ModelFacts
from ..geometry import HEATMAP_TEMPLATE
from .backbone import Features
from .block import ReadsHeatmaps

nn = mx.gluon.nn

#: Side of the crop in pixels.
SIZE = 192
#: Pixels of the crop a cell of the backbone's last map.
BACKBONE_STRIDE = 32
#: Channels the stem leaves of the backbone's.
STEM = 256


class Upscaling(nn.HybridSequential):
    """One letter of an upscaling strategy, twice the map's height and width.

    ``d``: deconvolution 4x4 of stride 2, F filters. ``s``: convolution 3x3 with F filters, then pixel shuffle, F / 4
    channels out. Both with BatchNorm and ReLU.

    Parameters
    ----------
    letter : {"s", "d"}
    filters : int
        F.
    in_channels : int
    """

    def __init__(self, letter: str, filters: int, in_channels: int, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            if letter == "d":
                convolution = nn.Conv2DTranspose(
                    filters, 4, strides=2, padding=1, use_bias=False, in_channels=in_channels
                )
            else:
                convolution = nn.Conv2D(filters, 3, padding=1, use_bias=False, in_channels=in_channels)
            self.add(convolution, nn.BatchNorm(in_channels=filters), nn.Activation("relu"))
            if letter == "s":
                self.add(PixelShuffle())


class PixelShuffle(nn.HybridBlock):
    """Maps (B, 4C, h, w) to (B, C, 2h, 2w): four channels become the four cells of a square."""

    def hybrid_forward(self, F, x):
        # Channel 4c + 2i + j goes to row 2y + i, column 2x + j of channel c.
        x = x.reshape((0, -4, -1, 4, 0, 0)).reshape((0, 0, -4, 2, 2, 0, 0))
        return x.transpose((0, 1, 4, 2, 5, 3)).reshape((0, 0, -3, -3))


class HeatmapNetwork(nn.HybridBlock):
    """Heatmaps of a face.

    Parameters
    ----------
    features : HybridBlock
        Images to their last map.
    in_channels : int
        C of that map.
    strategy : str
        Letters "s" and "d", see `Upscaling`.
    num_points : int
        K.
    filters, stem : int
        F of every letter; channels before the first.
    """

    def __init__(self, features, in_channels: int, strategy: str, num_points: int, filters: int, stem: int, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.features = features
            self.stem = nn.Conv2D(stem, 1, in_channels=in_channels)
            self.upscaling = nn.HybridSequential()
            channels = stem
            for letter in strategy:
                self.upscaling.add(Upscaling(letter, filters, channels))
                channels = filters if letter == "d" else filters // 4
            # Small at first: a heatmap is nearly 0 nearly everywhere.
            self.head = nn.Conv2D(num_points, 1, in_channels=channels, weight_initializer=mx.init.Normal(0.001))

    def hybrid_forward(self, F, x):
        """Crops (B, 3, H, W) to heatmaps (B, K, h, w), h = H / 32 * 2^letters."""
        return self.head(self.upscaling(self.stem(self.features(x))))


class LandmarkNet(ReadsHeatmaps):
    """Network and decoder in one graph.

    Parameters
    ----------
    network : HybridBlock
        Crops (B, 3, size, size) to heatmaps (B, K, h, w).
    facts : ModelFacts
        Preprocessing, scheme and terms; ``net.facts``.
    stride : int
        Pixels of the crop a cell of the heatmaps.
    decoder : str
        One of `gluonface.decode.HEATMAP_DECODERS`.

    Raises
    ------
    InputError
        Unknown decoder, or heatmaps of less than 5x5 cells.
    """

    def __init__(self, network, facts: ModelFacts, *, stride: int, decoder: str = "dark", **kwargs):
        super().__init__(**kwargs)
        self.facts, self.stride = facts, stride
        with self.name_scope():
            self.network = network
        self.set_decoder(decoder)

    @property
    def scheme(self) -> str:
        """Key of `gluonface.faces.SCHEMES`."""
        return self.facts.scheme

    def set_decoder(self, method: str) -> None:
        """Choose how points are read off heatmaps, see :func:`gluonface.decode.decode_heatmaps`."""
        side = self.facts.size // self.stride
        self._set_decoder((side, side), method)

    def hybrid_forward(self, F, x):
        """Crops (B, 3, size, size), RGB, normalised as ``net.facts`` says, to landmarks (B, K, 2) in their pixels and
        scores (B, K), the heights of the heatmaps' peaks.
        """
        points, scores = self.decoder(self.network(x))
        return points * self.stride, scores


# ---- variants --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BackboneFacts:
    """GluonCV's name, channels of the last map, parameters and multiply-accumulates at 192x192, and the default F."""

    host: str
    channels: int
    params: int
    macs: int
    filters: int = 128


BACKBONES = {
    "mobilenet": BackboneFacts("mobilenet1.0", 1024, 3_206_976, 417_097_728),
    "mobilenetv2_0.25": BackboneFacts("mobilenetv2_0.25", 1280, 236_312, 20_863_872, filters=256),
    "mobilenetv2_1.0": BackboneFacts("mobilenetv2_1.0", 1280, 2_223_872, 220_036_608),
    "mobilenetv3": BackboneFacts("mobilenetv3_large", 960, 2_971_952, 157_683_840),
    "resnet18": BackboneFacts("resnet18_v1b", 512, 11_176_512, 1_332_412_416),
    "resnet50": BackboneFacts("resnet50_v1b", 2048, 23_508_032, 3_002_793_984),
}

#: Dataset in a name -> scheme of its points.
DATASETS = {"jd106": "106", "wflw": "98", "300w": "68", "fc26": "68", "cofw": "29", "aflw": "19"}

_NAME = re.compile(rf"heatmap_({'|'.join(map(re.escape, BACKBONES))})_([sd]+)_({'|'.join(DATASETS)})")

# (backbone, strategies) of the paper's tables 2, 3, 4 and 6.
_PAPER = (
    ("mobilenetv2_0.25", "ssss dsss ddss dssd dsds ddds sssd sdsd ssdd sddd dddd"),
    ("mobilenetv2_1.0", "ssd sdd sssd sdsd"),
    *((backbone, "sdd") for backbone in ("mobilenet", "mobilenetv3", "resnet18", "resnet50")),
)
# What other sets are usually measured with. Any other strategy can be built too.
_USUAL = (("mobilenetv2_1.0", "sdd"), ("resnet50", "sdd"))
_LISTED = {
    "jd106": _PAPER,
    **dict.fromkeys(("wflw", "300w", "cofw", "aflw"), _USUAL),
    "fc26": (("mobilenetv2_1.0", "sdd"), ("mobilenetv2_0.25", "sssd")),
}

#: (name, backbone, variant, dataset) of every model of this system that is listed; the variant is the strategy.
MODELS = [
    (f"heatmap_{backbone}_{strategy}_{dataset}", backbone, strategy, dataset)
    for dataset, nets in _LISTED.items()
    for backbone, strategies in nets
    for strategy in strategies.split()
]


def parse(name: str) -> tuple[str, str, str] | None:
    """``heatmap_<backbone>_<strategy>_<dataset>`` to its three parts; None for another name.

    Four letters at most: five would give heatmaps as large as the crop.
    """
    match = _NAME.fullmatch(name)
    return match.groups() if match and len(match[2]) <= 4 else None


def figures(
    backbone: str,
    strategy: str,
    dataset: str,
    filters: int | None = None,
    stem: int = STEM,
    num_points: int | None = None,
) -> dict:
    """Parameters and GF of a net, counted layer by layer, and its facts that need no weights."""
    base = BACKBONES[backbone]
    filters = base.filters if filters is None else filters
    scheme = DATASETS[dataset] if num_points is None else str(num_points)
    cells, channels = (SIZE // BACKBONE_STRIDE) ** 2, stem
    params = base.params + (base.channels + 1) * stem
    macs = base.macs + cells * base.channels * stem
    for letter in strategy:
        weights = channels * filters * (16 if letter == "d" else 9)
        params += weights + 2 * filters  # BatchNorm's scale and shift
        macs += cells * weights
        cells *= 4
        channels = filters if letter == "d" else filters // 4
    params += (channels + 1) * int(scheme)
    macs += cells * channels * int(scheme)
    return {
        "params": params,
        "gf": macs / 1e9,
        "size": SIZE,
        "scheme": scheme,
        "template": tuple(map(tuple, HEATMAP_TEMPLATE.tolist())),
    }


def heatmap(
    facts: ModelFacts,
    *,
    pretrained_base: bool | str | os.PathLike = False,
    root: str | os.PathLike | None = None,
    filters: int | None = None,
    stem: int = STEM,
    num_points: int | None = None,
    decoder: str | None = None,
    size: int | None = None,
) -> LandmarkNet:
    """Build a landmark net.

    Parameters
    ----------
    facts : ModelFacts
        Its ``backbone`` is a key of `BACKBONES`, its ``variant`` a strategy. Becomes ``net.facts``, with the figures of
        this net.
    pretrained_base, root
        See :class:`gluonface.model_zoo.backbone.Features`.
    filters : int, optional
        F of every letter, a multiple of 4; 256 with MobileNetV2 0.25, 128 with the others.
    stem : int
        Channels between backbone and letters.
    num_points : int, optional
        K, where not that of the dataset; one of the schemes.
    decoder : str, optional
        See `LandmarkNet`; by default what the facts of the weights name, "dark" without weights.
    size : int, optional
        Side of the crop, a multiple of 32; 192.

    Returns
    -------
    LandmarkNet
        Not initialised, except for a pretrained backbone.

    Raises
    ------
    InputError
        An argument is out of range.
    """
    base, strategy = BACKBONES[facts.backbone], facts.variant
    if filters is not None and (filters < 4 or filters % 4):
        raise InputError(f"expected filters to be a multiple of 4, got {filters}")
    if stem < 1:
        raise InputError(f"expected stem to be at least 1, got {stem}")
    if num_points is not None and str(num_points) not in SCHEMES:
        raise InputError(f"expected num_points among {', '.join(SCHEMES)}, got {num_points}")
    if size is not None and (size < BACKBONE_STRIDE or size % BACKBONE_STRIDE):
        raise InputError(f"expected size to be a multiple of {BACKBONE_STRIDE}, got {size}")
    changed = figures(facts.backbone, strategy, facts.dataset, filters, stem, num_points)
    facts = dataclasses.replace(
        facts, params=changed["params"], gf=changed["gf"], scheme=changed["scheme"], size=size or facts.size
    )
    network = HeatmapNetwork(
        Features(base.host, pretrained=pretrained_base, root=root),
        base.channels,
        strategy,
        int(facts.scheme),
        base.filters if filters is None else filters,
        stem,
    )
    return LandmarkNet(network, facts, stride=BACKBONE_STRIDE >> len(strategy), decoder=decoder or facts.decoder)
