"""Context modules: a larger receptive field at the price of a few 3x3 convolutions."""

from __future__ import annotations

from .._compat import mx
from .blocks import conv_block
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
