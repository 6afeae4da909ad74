"""Prediction heads."""

from __future__ import annotations

from .._compat import mx

nn = mx.gluon.nn


class AnchorHead(nn.HybridBlock):
    """One 1x1 convolution per pyramid level that predicts ``width`` numbers for each of A anchors a cell.

    Parameters
    ----------
    width : int
        Numbers per anchor: 2 classes, 4 box coordinates, 2K landmark coordinates ...
    per_cell : int
        A.
    in_channels : int
    num_levels : int
    """

    def __init__(self, width: int, per_cell: int, in_channels: int, num_levels: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        with self.name_scope():
            self.convs = nn.HybridSequential()
            for _ in range(num_levels):
                self.convs.add(
                    nn.Conv2D(per_cell * width, 1, in_channels=in_channels, weight_initializer=mx.init.Normal(0.01))
                )

    def hybrid_forward(self, F, *maps):
        """Levels (B, C, h, w), finest first, to (B, N, width) in the order of :func:`gluonface.decode.anchors_for`."""
        rows = [conv(m).transpose((0, 2, 3, 1)).reshape((0, -1, self.width)) for conv, m in zip(self.convs, maps)]
        return F.concat(*rows, dim=1)
