"""Backbones: classifiers cut into the stages that end at strides 8, 16 and 32, or before their pooling. They are
GluonCV's, two more ResNeXt made of its blocks, and ShuffleNet V2, which is ours.

Paper line: any classifier whose maps halve; data flow: image (B, 3, H, W) -> C3, C4, C5, on request C2 before them
(`Backbone`), or the last map (`Features`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._compat import import_gluoncv, mx
from ..errors import InputError, WeightsError
from .shufflenet import SHUFFLENETS, STAGE_ENDS, WIDTHS, ShuffleNetV2

nn = mx.gluon.nn


@dataclass(frozen=True)
class Cut:
    """Where a classifier is cut.

    Attributes
    ----------
    ends : tuple of int
        For a net with ``features``: index behind the last child of C3, C4, C5. Empty for a ResNet, which has named
        layers.
    channels : tuple of int
        Channels of C3, C4, C5.
    early : (int, int) or None
        Index behind the last child of C2, the map of stride 4, and its channels. None: it is not offered.
    """

    ends: tuple[int, ...]
    channels: tuple[int, ...]
    early: tuple[int, int] | None = None


#: ResNeXt of 32 groups of 8 channels, which GluonCV has blocks for, but no nets: blocks of each stage.
RESNEXTS = {"resnext101_32x8d": (3, 4, 23, 3), "resnext152_32x8d": (3, 8, 36, 3)}

BACKBONES = {
    "mobilenet0.25": Cut(ends=(33, 69, 81), channels=(64, 128, 256), early=(21, 32)),
    "mobilenet0.5": Cut(ends=(33, 69, 81), channels=(128, 256, 512), early=(21, 64)),
    # The 1280 channels of MobileNetV2's last 1x1 convolution serve its classifier; a pyramid starts from the 320
    # before.
    "mobilenetv2_1.0": Cut(ends=(9, 16, 20), channels=(32, 96, 320), early=(6, 24)),
    "resnet50_v1b": Cut(ends=(), channels=(512, 1024, 2048), early=(5, 256)),
    "resnet152_v1b": Cut(ends=(), channels=(512, 1024, 2048), early=(5, 256)),
    **dict.fromkeys(RESNEXTS, Cut(ends=(6, 7, 8), channels=(512, 1024, 2048), early=(5, 256))),
    # Stages 2, 3 and 4; conv5 serves the classifier.
    **{name: Cut(ends=STAGE_ENDS, channels=WIDTHS[width][:3]) for name, width in SHUFFLENETS.items()},
}


def _classifier(name: str, pretrained: bool | str | os.PathLike, root: str | os.PathLike | None):
    """A classifier by its name, with GluonCV's ImageNet weights where ``pretrained`` is True."""
    if name in RESNEXTS:
        if pretrained is True:
            raise WeightsError(
                f"{name}: expected a file of weights, got pretrained=True, but GluonCV has no ImageNet weights of this "
                "net. Give the path of an .npz with the arrays of a net of that name under their PyTorch names."
            )
        return import_gluoncv().model_zoo.resnext.ResNext(RESNEXTS[name], 32, 8)
    if name not in SHUFFLENETS:
        where = {"root": os.fspath(root)} if root is not None else {}
        return import_gluoncv().model_zoo.get_model(name, pretrained=pretrained is True, **where)
    if pretrained is True:
        raise WeightsError(
            f"{name}: expected a file of weights, got pretrained=True, but GluonCV has no ImageNet weights of "
            "ShuffleNet V2. Give the path of an .npz with the arrays of torchvision's "
            f"{name.replace('shufflenetv2_', 'shufflenet_v2_x').replace('.', '_')} under their names there."
        )
    return ShuffleNetV2(SHUFFLENETS[name])


class Backbone(nn.HybridBlock):
    """Three stages of a classifier.

    Parameters
    ----------
    name : str
        A key of ``BACKBONES``.
    pretrained : bool or str
        True takes GluonCV's ImageNet weights (GluonCV downloads them once into ``root``); a path takes arrays under the
        names of the PyTorch packages, see :func:`gluonface.model_zoo.importers.load_torch_backbone`.
    root : path
        GluonCV's folder for downloads.
    early : bool
        Give C2, of stride 4, too. The parameters bear the same names with and without it.

    Raises
    ------
    WeightsError
        The weights cannot be read or are another net's, or GluonCV has none of this net.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool | str | os.PathLike = False,
        root: str | os.PathLike | None = None,
        early: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        cut = BACKBONES[name]
        self.channels, self.early = cut.channels, 0
        if early:
            if cut.early is None:
                raise InputError(f"expected a backbone with a map of stride 4 to start from, got {name}")
            self.early, channels = cut.early
            self.channels = (channels, *cut.channels)
        host = _classifier(name, pretrained, root)
        if cut.ends:
            children = list(host.features)
            stages = [children[a:b] for a, b in zip((0, *cut.ends), cut.ends)]
        else:
            stem = [host.conv1, host.bn1, host.relu, host.maxpool, host.layer1, host.layer2]
            stages = [stem, [host.layer3], [host.layer4]]
        with self.name_scope():
            self.stages = nn.HybridSequential()
            for children in stages:
                stage = nn.HybridSequential(prefix="")
                stage.add(*children)
                self.stages.add(stage)
        _load_given(self, pretrained)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to C3, C4, C5 of strides 8, 16, 32; before them C2 of stride 4 where it was asked for."""
        maps, (first, *later) = [], self.stages
        for layer in list(first)[: self.early]:
            x = layer(x)
        if self.early:
            maps.append(x)
        for layer in list(first)[self.early :]:
            x = layer(x)
        maps.append(x)
        for stage in later:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def freeze(self) -> None:
        """Keep what is before C2, and every BatchNorm's statistics, factor and offset, as they are in training."""
        fixed = [layer.collect_params() for layer in list(self.stages[0])[: self.early]]

        def fix_norm(block):
            if isinstance(block, nn.BatchNorm):
                block._kwargs["use_global_stats"] = True
                fixed.append(block.collect_params())

        self.apply(fix_norm)
        for parameters in fixed:
            parameters.setattr("grad_req", "null")


class Features(nn.HybridBlock):
    """All of a classifier before its pooling: the map at stride 32 with all its channels.

    Parameters
    ----------
    name : str
        GluonCV's name of a classifier with ``features`` that ends in a global pooling, or of a ResNet; or a key of
        ``SHUFFLENETS``.
    pretrained, root
        See `Backbone`.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool | str | os.PathLike = False,
        root: str | os.PathLike | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        host = _classifier(name, pretrained, root)
        if hasattr(host, "features"):
            kinds = [type(child) for child in host.features]
            layers = list(host.features)[: kinds.index(nn.GlobalAvgPool2D)]
        else:
            layers = [host.conv1, host.bn1, host.relu, host.maxpool, host.layer1, host.layer2, host.layer3, host.layer4]
        with self.name_scope():
            self.layers = nn.HybridSequential()
            self.layers.add(*layers)
        _load_given(self, pretrained)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to the map (B, C, H / 32, W / 32)."""
        return self.layers(x)


def _load_given(block, pretrained: bool | str | os.PathLike) -> None:
    if pretrained and pretrained is not True:
        from .importers import load_torch_backbone

        load_torch_backbone(block, pretrained)
