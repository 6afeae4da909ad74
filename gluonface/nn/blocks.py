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


class GroupNorm(nn.HybridBlock):
    """Group normalisation with a factor and an offset for each channel (Wu and He 2018, section 3).

    Gluon's own has one of each for a group, and MXNet's operator takes twice the time of this on a processor.

    Parameters
    ----------
    channels : int
        C.
    groups : int
        At most so many; fewer where C is not a multiple or groups would be of one channel, which in a map of one cell
        is always 0.
    """

    def __init__(self, channels: int, groups: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.groups = max(g for g in range(1, min(groups, max(channels // 2, 1)) + 1) if channels % g == 0)
        with self.name_scope():
            # Of mean 0 and variance 1, never updated: what is left is a factor and an offset a channel.
            self.affine = nn.BatchNorm(use_global_stats=True, in_channels=channels, prefix="affine_")

    def hybrid_forward(self, F, x):
        """(B, C, h, w) to the same shape."""
        grouped = x.reshape((0, -4, self.groups, -1, 0, 0)).reshape((0, 0, -1))
        one = F.ones_like(F.slice(grouped, begin=(0, 0, None), end=(1, 1, None))).reshape((-1,))
        normal = F.LayerNorm(grouped, one, F.zeros_like(one), axis=-1, eps=1e-5)
        return self.affine(F.reshape_like(normal, x))


def conv_block(
    channels: int,
    kernel: int,
    *,
    in_channels: int = 0,
    stride: int = 1,
    act: str | None = "relu",
    norm: type[nn.HybridBlock] | None = None,
):
    """Convolution without bias, normalisation, activation; the map keeps its size at stride 1.

    Parameters
    ----------
    channels, kernel, stride : int
    in_channels : int
        0 leaves the shape to the first forward pass.
    act : str or None
        ``"relu"`` or None for a linear block.
    norm : type, optional
        Such as `GroupNorm`; BatchNorm by default.

    Returns
    -------
    HybridSequential
        Maps (B, in_channels, h, w) to (B, channels, ceil(h / stride), ceil(w / stride)).
    """
    block = nn.HybridSequential(prefix="")
    block.add(
        nn.Conv2D(channels, kernel, strides=stride, padding=kernel // 2, use_bias=False, in_channels=in_channels),
        nn.BatchNorm(in_channels=channels) if norm is None else norm(channels),
    )
    if act is not None:
        block.add(nn.Activation(act))
    return block
