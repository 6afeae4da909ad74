"""Backbones of KPNet (Song et al., AAAI 2020), total stride 2: DRNet and a light hourglass.

Paper line: section "Backbone architecture".
Data flow: image (B, 3, H, W) -> maps down to stride 8, or 64 -> up again, joined by long skips -> (B, C, H / 2, W / 2).

DRNet, "only 11 layers", is designed after the text (figure 3 is a picture): the parts and the count of parameters are
the paper's, the widths are ours. One layer is the first convolution, eight are four residual blocks, two follow the
upsamplings; 1x1 projections of shortcuts are not counted, as usual, nor are the heads:

    stride  2      conv 3x3/2, 48 ---------------------------------------------------(+)- conv 3x3, 32 -> heads
                          |                                                           |
    stride  4      max pool 2x2/2 -- residual 64 -----------(C)- conv 3x3, 48 -- nearest x2
                                         |                   |
    stride  8                 residual 128/2 -- residual 128 -- residual 128 -- nearest x2

Hourglass-light is that of Newell et al. 2016, once, as its PyTorch ports have it, at half their width: 64 is the width
of the 3x3 convolutions inside its bottlenecks, between which maps have 128 channels. With 64 channels everywhere it
would have 0.31 M parameters, not the paper's 1.04.

    conv 3x3/2, conv 3x3, BN, ReLU -- residual -- max pool 2x2/2 -- residual -- residual -- hourglass -- residual
    -- 1x1, BN, ReLU -- nearest x2 -> heads

    hourglass(n) = residual + nearest x2 of (max pool -- residual -- hourglass(n - 1) -- residual), n = 4;
    hourglass(0) = residual
"""

from __future__ import annotations

from .._compat import mx
from ..errors import InputError
from ..nn.blocks import conv_block

__all__ = ["DRNet", "HourglassLight"]

nn = mx.gluon.nn


def _upsampled(F, x, like):
    """A map twice as high and wide; an odd finer map is one row or column smaller."""
    return F.slice_like(F.UpSampling(x, scale=2, sample_type="nearest"), like, axes=(2, 3))


def _pool():
    """2x2 max pooling of stride 2; a last odd row or column stands for itself."""
    return nn.MaxPool2D(2, 2, ceil_mode=True)


# ---- DRNet -----------------------------------------------------------------------------------------------------------


class Residual(nn.HybridBlock):
    """Two 3x3 convolutions beside a shortcut, as in ResNet: (B, in_channels, h, w) to (B, channels, h / s, w / s).

    Parameters
    ----------
    channels, in_channels : int
    stride : int
        s.
    """

    def __init__(self, channels: int, in_channels: int, stride: int = 1, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.body = nn.HybridSequential()
            self.body.add(
                conv_block(channels, 3, in_channels=in_channels, stride=stride),
                conv_block(channels, 3, in_channels=channels, act=None),
            )
            self.shortcut = None
            if stride > 1 or channels != in_channels:
                self.shortcut = conv_block(channels, 1, in_channels=in_channels, stride=stride, act=None)

    def hybrid_forward(self, F, x):
        return F.relu(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))


class DRNet(nn.HybridBlock):
    """De-redundancy net: images (B, 3, H, W) to (B, 32, ceil(H / 2), ceil(W / 2)).

    Parameters
    ----------
    blocks : int
        Residual blocks at stride 8, at least 1. The paper's net of 11 layers has 3; each adds two layers, and 32 pixels
        to the side of what a cell sees.
    """

    channels = 32

    def __init__(self, blocks: int = 3, **kwargs):
        if blocks < 1:
            raise InputError(f"expected blocks, the residual blocks at stride 8, to be at least 1, got {blocks}")
        super().__init__(**kwargs)
        with self.name_scope():
            self.first = conv_block(48, 3, in_channels=3, stride=2)
            self.pool = _pool()
            self.fine = Residual(64, 48)
            self.coarse = nn.HybridSequential()
            self.coarse.add(Residual(128, 64, stride=2), *(Residual(128, 128) for _ in range(blocks - 1)))
            self.merged = conv_block(48, 3, in_channels=128 + 64)
            self.last = conv_block(self.channels, 3, in_channels=48)

    def hybrid_forward(self, F, x):
        first = self.first(x)
        fine = self.fine(self.pool(first))
        merged = self.merged(F.concat(_upsampled(F, self.coarse(fine), fine), fine, dim=1))
        return self.last(first + _upsampled(F, merged, first))


# ---- Hourglass-light -------------------------------------------------------------------------------------------------


class Bottleneck(nn.HybridBlock):
    """Residual module of the hourglass: 1x1, 3x3, 1x1, each after BatchNorm and ReLU; size kept.

    Parameters
    ----------
    channels, in_channels : int
        The 3x3 convolution has half as many as ``channels``.
    """

    def __init__(self, channels: int, in_channels: int, **kwargs):
        super().__init__(**kwargs)
        half = channels // 2
        with self.name_scope():
            self.body = nn.HybridSequential()
            for width, before, kernel in ((half, in_channels, 1), (half, half, 3), (channels, half, 1)):
                self.body.add(
                    nn.BatchNorm(in_channels=before),
                    nn.Activation("relu"),
                    nn.Conv2D(width, kernel, padding=kernel // 2, use_bias=False, in_channels=before),
                )
            self.shortcut = None
            if channels != in_channels:
                self.shortcut = nn.Conv2D(channels, 1, use_bias=False, in_channels=in_channels)

    def hybrid_forward(self, F, x):
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


class Hourglass(nn.HybridBlock):
    """(B, C, h, w) to (B, C, h, w), by way of maps halved ``depth`` times.

    Parameters
    ----------
    depth, channels : int
    """

    def __init__(self, depth: int, channels: int, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.beside = Bottleneck(channels, channels)
            self.below = nn.HybridSequential()
            self.below.add(_pool(), Bottleneck(channels, channels))
            self.below.add(Hourglass(depth - 1, channels) if depth > 1 else Bottleneck(channels, channels))
            self.below.add(Bottleneck(channels, channels))

    def hybrid_forward(self, F, x):
        return self.beside(x) + _upsampled(F, self.below(x), x)


class HourglassLight(nn.HybridBlock):
    """Images (B, 3, H, W) to (B, 128, ceil(H / 2), ceil(W / 2))."""

    channels = 128

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        channels, width = self.channels, self.channels // 2
        with self.name_scope():
            self.first = nn.HybridSequential()
            self.first.add(
                nn.Conv2D(width, 3, 2, padding=1, use_bias=False, in_channels=3),
                nn.Conv2D(width, 3, padding=1, use_bias=False, in_channels=width),
                nn.BatchNorm(in_channels=width),
                nn.Activation("relu"),
            )
            self.body = nn.HybridSequential()
            self.body.add(
                Bottleneck(channels, width),
                _pool(),
                Bottleneck(channels, channels),
                Bottleneck(channels, channels),
                Hourglass(4, channels),
                Bottleneck(channels, channels),
                conv_block(channels, 1, in_channels=channels),
            )

    def hybrid_forward(self, F, x):
        first = self.first(x)
        return _upsampled(F, self.body(first), first)
