"""Small blocks: a convolution with its normalisation and activation."""

from __future__ import annotations

from .._compat import mx

nn = mx.gluon.nn


def conv_block(channels: int, kernel: int, *, in_channels: int = 0, stride: int = 1, act: str | None = "relu"):
    """Convolution without bias, BatchNorm, activation; the map keeps its size at stride 1.

    Parameters
    ----------
    channels, kernel, stride : int
    in_channels : int
        0 leaves the shape to the first forward pass.
    act : str or None
        ``"relu"`` or None for a linear block.

    Returns
    -------
    HybridSequential
        Maps (B, in_channels, h, w) to (B, channels, ceil(h / stride), ceil(w / stride)).
    """
    block = nn.HybridSequential(prefix="")
    block.add(
        nn.Conv2D(channels, kernel, strides=stride, padding=kernel // 2, use_bias=False, in_channels=in_channels),
        nn.BatchNorm(in_channels=channels),
    )
    if act is not None:
        block.add(nn.Activation(act))
    return block
