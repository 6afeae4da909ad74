"""Small blocks: a convolution with its normalisation and activation; what blocks used in part derive from."""

from __future__ import annotations

import warnings

from .._compat import mx

nn = mx.gluon.nn


class PartlyUsed:
    """Base of blocks of whose parameters some serve on some occasions only, which MXNet would warn about."""

    def _build_cache(self, *args):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is not used by any computation.*")
            super()._build_cache(*args)


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
