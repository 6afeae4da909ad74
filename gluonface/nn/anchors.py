"""Anchors as a graph: any input size, no stored constants."""

from __future__ import annotations

from .._compat import mx
from ..decode import AnchorSpec


class AnchorGenerator(mx.gluon.nn.HybridBlock):
    """Anchors of an input batch; twin of :func:`gluonface.decode.anchors_for`.

    Parameters
    ----------
    spec : AnchorSpec
    """

    def __init__(self, spec: AnchorSpec, **kwargs):
        super().__init__(**kwargs)
        self.spec = spec

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to anchors (1, N, 4), xyxy in input pixels."""
        levels = [self._level(F, x, s, sizes) for s, sizes in zip(self.spec.strides, self.spec.sizes)]
        return F.concat(*levels, dim=1)

    def _level(self, F, x, stride, sizes):
        # Every stride-th row and column: a tensor whose extent is the level's, ceil(H / stride) x ceil(W / stride).
        cells = F.slice_axis(F.slice_axis(x, axis=0, begin=0, end=1), axis=1, begin=0, end=1)
        cells = F.slice(cells, begin=(None,) * 4, end=(None,) * 4, step=(1, 1, stride, stride))
        cells = F.zeros_like(cells)
        column = F.contrib.arange_like(cells, axis=3, start=0.5).reshape((1, 1, 1, -1)) * stride
        row = F.contrib.arange_like(cells, axis=2, start=0.5).reshape((1, 1, -1, 1)) * stride
        cx, cy = F.broadcast_add(cells, column), F.broadcast_add(cells, row)
        boxes = [F.concat(cx - s / 2, cy - s / 2, cx + s / 2, cy + s / 2, dim=1) for s in sizes]
        # (1, A * 4, h, w) -> (1, h * w * A, 4)
        return F.concat(*boxes, dim=1).transpose((0, 2, 3, 1)).reshape((1, -1, 4))
