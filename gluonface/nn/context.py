"""Context modules: a larger receptive field at the price of a few 3x3 convolutions."""

from __future__ import annotations

from .._compat import mx
from .blocks import GroupNorm, conv_block
from .deform import deformable_block

nn = mx.gluon.nn


class SSHContext(nn.HybridBlock):
    """Context module of SSH: receptive fields of 3x3, 5x5 and 7x7 side by side (Najibi et al. 2017, section 3.3).

    Half of the output channels come from one 3x3 convolution, a quarter each from two and from three in a row.

    Parameters
    ----------
    channels : int
        Channels C in and out, a multiple of 4.
    deformable : bool
        Make all five convolutions deformable (RetinaFace section 3.3).
    """

    def __init__(self, channels: int, deformable: bool = False, **kwargs):
        super().__init__(**kwargs)
        if channels % 4:
            raise ValueError(f"SSHContext: channels must be a multiple of 4, got {channels}")
        quarter, block = channels // 4, deformable_block if deformable else conv_block
        with self.name_scope():
            self.conv3 = block(channels // 2, 3, in_channels=channels, act=None)
            self.stem = block(quarter, 3, in_channels=channels)
            self.conv5 = block(quarter, 3, in_channels=quarter, act=None)
            self.conv7_1 = block(quarter, 3, in_channels=quarter)
            self.conv7_2 = block(quarter, 3, in_channels=quarter, act=None)

    def hybrid_forward(self, F, x):
        """(B, C, h, w) to (B, C, h, w)."""
        stem = self.stem(x)
        return F.relu(F.concat(self.conv3(x), self.conv5(stem), self.conv7_2(self.conv7_1(stem)), dim=1))


class GroupContext(nn.HybridBlock):
    """Context module of MaskFace (section 3.2, figure 3): as `SSHContext`, with wider inner maps, group normalisation
    and a ReLU after each convolution.

    The figure's channels are not in the text. These, half of C in all inner maps, are those of the same shape that come
    nearest to the 32 GF that the module adds in Table 1: 30.2.

    Parameters
    ----------
    channels : int
        Channels C in and out, a multiple of 4.
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        if channels % 4:
            raise ValueError(f"GroupContext: channels must be a multiple of 4, got {channels}")
        half, quarter = channels // 2, channels // 4
        with self.name_scope():
            self.conv3 = conv_block(half, 3, in_channels=channels, norm=GroupNorm)
            self.stem = conv_block(half, 3, in_channels=channels, norm=GroupNorm)
            self.conv5 = conv_block(quarter, 3, in_channels=half, norm=GroupNorm)
            self.conv7_1 = conv_block(half, 3, in_channels=half, norm=GroupNorm)
            self.conv7_2 = conv_block(quarter, 3, in_channels=half, norm=GroupNorm)

    def hybrid_forward(self, F, x):
        """(B, C, h, w) to (B, C, h, w), not negative."""
        stem = self.stem(x)
        return F.concat(self.conv3(x), self.conv5(stem), self.conv7_2(self.conv7_1(stem)), dim=1)
