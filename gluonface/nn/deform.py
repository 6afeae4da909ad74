"""Deformable convolutions: the kernel's places are moved by what a second convolution says (Dai et al., ICCV 2017)."""

from __future__ import annotations

from .._compat import mx
from ..errors import InputError

nn = mx.gluon.nn


class DeformableConv(nn.HybridBlock):
    """Convolution without bias whose kernel reaches where its own offsets say (Dai et al. 2017, section 2.1).

    The offsets come from a convolution of the same kernel that starts with zeros, so a new block is the plain
    convolution. Its ``weight`` bears the name that a `Conv2D` in its place would have: weights of a net with plain
    convolutions load into one with deformable ones, but for ``offset``.

    Parameters
    ----------
    channels, kernel : int
        F and the odd side k of the kernel; the map keeps its size.
    in_channels : int
        C; 0 leaves the shape to the first forward pass.

    Raises
    ------
    InputError
        The kernel has an even side.
    """

    def __init__(self, channels: int, kernel: int, in_channels: int = 0, **kwargs):
        super().__init__(**kwargs)
        if kernel % 2 == 0:
            raise InputError(f"DeformableConv: expected a kernel of odd side, got {kernel}")
        self._settings = {
            "kernel": (kernel, kernel),
            "pad": (kernel // 2, kernel // 2),
            "num_filter": channels,
            "no_bias": True,
        }
        with self.name_scope():
            self.weight = self.params.get(
                "weight", shape=(channels, in_channels, kernel, kernel), allow_deferred_init=True
            )
            # Row and column of each of the k * k places.
            self.offset = nn.Conv2D(
                2 * kernel * kernel,
                kernel,
                padding=kernel // 2,
                in_channels=in_channels,
                weight_initializer="zeros",
                bias_initializer="zeros",
                prefix="offset_",
            )

    def hybrid_forward(self, F, x, weight):
        """(B, C, h, w) to (B, F, h, w)."""
        return F.contrib.DeformableConvolution(x, self.offset(x), weight, **self._settings)


def deformable_block(channels: int, kernel: int, *, in_channels: int = 0, act: str | None = "relu"):
    """Deformable convolution without bias, BatchNorm, activation; twin of `gluonface.nn.blocks.conv_block`.

    Parameters
    ----------
    channels, kernel : int
    in_channels : int
        0 leaves the shape to the first forward pass.
    act : str or None
        ``"relu"`` or None for a linear block.

    Returns
    -------
    HybridSequential
        Maps (B, in_channels, h, w) to (B, channels, h, w).
    """
    block = nn.HybridSequential(prefix="")
    block.add(DeformableConv(channels, kernel, in_channels), nn.BatchNorm(in_channels=channels))
    if act is not None:
        block.add(nn.Activation(act))
    return block
