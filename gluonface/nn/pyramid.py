"""Feature pyramids: that of the light detectors, and FPN."""

from __future__ import annotations

from .._compat import mx
from .blocks import GroupNorm, conv_block
from .deform import deformable_block

nn = mx.gluon.nn


class FeaturePyramid(nn.HybridBlock):
    """Top-down pyramid: 1x1 laterals, nearest upsampling, sum, 3x3 smoothing (RetinaFace section 3.3).

    The coarsest level is its lateral alone; every finer one is smoothed after the sum, and it is the smoothed map that
    is handed further down, as the authors' MXNet sources do it.

    Parameters
    ----------
    channels : int
        Channels C of every level.
    in_channels : sequence of int
        Channels of the backbone's maps, finest first.
    deformable : bool
        Make the 3x3 smoothing deformable; the paper replaces 3x3 convolutions only, so laterals stay as they are.
    extra : bool
        One level more, a 3x3 convolution of stride 2 on the coarsest map of the backbone: the paper's P6.
    """

    def __init__(self, channels: int, in_channels, deformable: bool = False, extra: bool = False, **kwargs):
        super().__init__(**kwargs)
        smoothing = deformable_block if deformable else conv_block
        with self.name_scope():
            self.laterals = nn.HybridSequential()
            self.smooth = nn.HybridSequential()
            for c in in_channels:
                self.laterals.add(conv_block(channels, 1, in_channels=c))
            for _ in in_channels[:-1]:
                self.smooth.add(smoothing(channels, 3, in_channels=channels))
            self.extra = conv_block(channels, 3, in_channels=in_channels[-1], stride=2) if extra else None

    def hybrid_forward(self, F, *maps):
        """Maps (B, C_i, h_i, w_i), finest first, to as many of (B, C, h_i, w_i), or to one more."""
        levels = [self.laterals[-1](maps[-1])]
        for i in reversed(range(len(maps) - 1)):
            lateral = self.laterals[i](maps[i])
            # An odd map is one row or column smaller than twice the coarser one.
            above = F.slice_like(F.UpSampling(levels[0], scale=2, sample_type="nearest"), lateral, axes=(2, 3))
            levels.insert(0, self.smooth[i](lateral + above))
        if self.extra is not None:
            levels.append(self.extra(maps[-1]))
        return tuple(levels)


class FPN(nn.HybridBlock):
    """Pyramid of Lin et al. 2017 with group normalisation, and one level more (MaskFace section 3.2).

    1x1 laterals without activation, nearest upsampling, sum; the sums are handed down, and each is smoothed by a 3x3
    convolution of its own. The coarsest level is every second cell of the one before, a max pooling of 1x1.

    Parameters
    ----------
    channels : int
        Channels C of every level.
    in_channels : sequence of int
        Channels of the backbone's maps, finest first.
    """

    def __init__(self, channels: int, in_channels, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.laterals = nn.HybridSequential()
            self.smooth = nn.HybridSequential()
            for c in in_channels:
                self.laterals.add(conv_block(channels, 1, in_channels=c, act=None, norm=GroupNorm))
                self.smooth.add(conv_block(channels, 3, in_channels=channels, act=None, norm=GroupNorm))

    def hybrid_forward(self, F, *maps):
        """L maps (B, C_i, h_i, w_i), finest first, to L + 1 of (B, C, h_i, w_i)."""
        sums = [self.laterals[-1](maps[-1])]
        for lateral, m in zip(list(self.laterals)[-2::-1], maps[-2::-1]):
            lateral = lateral(m)
            # An odd map is one row or column smaller than twice the coarser one.
            above = F.slice_like(F.UpSampling(sums[0], scale=2, sample_type="nearest"), lateral, axes=(2, 3))
            sums.insert(0, lateral + above)
        levels = [smooth(m) for smooth, m in zip(self.smooth, sums)]
        return *levels, F.Pooling(levels[-1], kernel=(1, 1), stride=(2, 2), pool_type="max")
