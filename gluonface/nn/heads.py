"""Prediction heads."""

from __future__ import annotations

from itertools import pairwise

from .._compat import mx
from ..decode import POSE_BINS, AnchorSpec

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
        return _anchor_rows(F, (conv(m) for conv, m in zip(self.convs, maps)), self.width)


class SharedAnchorHead(nn.HybridBlock):
    """One 1x1 convolution for all pyramid levels, else as `AnchorHead`.

    Parameters
    ----------
    width, per_cell, in_channels : int
    bias : Initializer, optional
        Of the biases; zeros by default.
    """

    def __init__(self, width: int, per_cell: int, in_channels: int, bias=None, **kwargs):
        super().__init__(**kwargs)
        self.width, self.channels = width, per_cell * width
        with self.name_scope():
            # A block called for each level would give the graph several nodes of one name.
            shape = (self.channels, in_channels, 1, 1)
            self.weight = self.params.get("weight", shape=shape, init=mx.init.Normal(0.01))
            self.bias = self.params.get("bias", shape=(self.channels,), init=bias or "zeros")

    def hybrid_forward(self, F, *maps, weight, bias):
        """Levels (B, C, h, w), finest first, to (B, N, width)."""
        found = (F.Convolution(m, weight, bias, kernel=(1, 1), num_filter=self.channels) for m in maps)
        return _anchor_rows(F, found, self.width)


def _anchor_rows(F, maps, width: int):
    """Predictions (B, A * width, h, w) of each level to (B, N, width)."""
    return F.concat(*(m.transpose((0, 2, 3, 1)).reshape((0, -1, width)) for m in maps), dim=1)


class CellFeatures(nn.HybridBlock):
    """Levels (B, C, h, w), finest first, as the vectors of their cells (B, cells, C) in the order of the anchors:
    anchor i belongs to cell i // A.
    """

    def hybrid_forward(self, F, *maps):
        rows = [m.transpose((0, 2, 3, 1)).reshape((0, -3, -2)) for m in maps]
        return F.concat(*rows, dim=1)


def take_cells(F, cells, anchors, per_cell: int):
    """Vectors (B, n, C) of the cells of chosen anchors.

    Parameters
    ----------
    cells : (B, cells, C)
        From `CellFeatures`.
    anchors : (B, n)
        Numbers of the anchors.
    per_cell : int
        A.
    """
    image = F.broadcast_like(F.contrib.arange_like(anchors, axis=0).expand_dims(1), anchors)
    return F.gather_nd(cells, F.stack(image, F.floor(anchors / per_cell), axis=0))


class _OrderedBins(mx.init.Initializer):
    """Starts a classifier of angles as one that knows the order of its bins.

    Logits -(c - m)^2 / 2 s^2 of bin c are a Gaussian of spread s about m; with m a linear function of the features they
    are linear in these, up to what all bins share. So each angle starts with c times one small random vector as weights
    and -c^2 / 2 s^2 as bias. From independent weights a net needs thousands of updates only to learn which bins are
    neighbours.
    """

    #: s in bins, 12 degrees: about that of the angles in photographs; and the spread of the random vectors.
    _SPREAD, _SMALL = 4.0, 0.01

    def _init_weight(self, _, arr):
        # An initialiser given to a layer is called here for its bias, too.
        angles = arr.shape[0] // POSE_BINS
        centres = mx.nd.tile(mx.nd.arange(POSE_BINS, ctx=arr.context) - (POSE_BINS - 1) / 2, reps=angles)
        if arr.ndim == 1:
            arr[:] = -mx.nd.square(centres) / (2 * self._SPREAD**2)
        else:
            vectors = mx.nd.random.normal(0, self._SMALL, (angles, arr.shape[1]), ctx=arr.context)
            arr[:] = mx.nd.repeat(vectors, POSE_BINS, axis=0) * centres.reshape((-1, 1)) / self._SPREAD


class PoseHead(nn.HybridBlock):
    """Head pose of chosen anchors: the 1x1 convolutions of an `AnchorHead`, worked out where a pose is wanted only.

    A pose is 198 numbers, and of thousands of anchors a few hold a face. Each level, and each anchor of its cells, has
    weights of its own.

    Parameters
    ----------
    spec : AnchorSpec
        The sides of the anchors grow from level to level and inside one: a side says which anchor of a cell it is.
    in_channels : int
        C.
    """

    def __init__(self, spec: AnchorSpec, in_channels: int, **kwargs):
        super().__init__(**kwargs)
        self.sides = tuple(side for sides in spec.sizes for side in sides)
        if list(self.sides) != sorted(set(self.sides)):
            raise ValueError(f"PoseHead: expected anchor sides that grow, got {spec.sizes}")
        self.per_cell, self.in_channels = spec.per_cell, in_channels
        with self.name_scope():
            self.dense = nn.Dense(
                len(self.sides) * 3 * POSE_BINS,
                in_units=in_channels,
                flatten=False,
                weight_initializer=_OrderedBins(),
                bias_initializer=_OrderedBins(),
            )

    def hybrid_forward(self, F, cells, anchors, sides):
        """Logits of the pose bins.

        Parameters
        ----------
        cells : (B, cells, C)
            From `CellFeatures`.
        anchors : (B, n)
            Numbers of the anchors.
        sides : (B, n)
            Their sides in pixels.

        Returns
        -------
        (B, n, 198)
            66 bins of yaw, then of pitch, then of roll.
        """
        logits = self.dense(take_cells(F, cells, anchors, self.per_cell)).reshape((0, 0, len(self.sides), -1))
        # How many sides are smaller is the anchor's kind.
        kind = F.add_n(*(sides > (low + high) / 2 for low, high in pairwise(self.sides)))
        return F.sum(F.broadcast_mul(logits, F.one_hot(kind, len(self.sides)).expand_dims(-1)), axis=2)


class MeshHead(nn.HybridBlock):
    """Meshes of chosen anchors: a `SharedAnchorHead` of 3V numbers, worked out where a mesh is wanted only.

    As the paper has it, one 1x1 convolution serves all levels (section 3.3); each of the A anchors of a cell has
    weights of its own. For all anchors of a photo its output would be a gigabyte.

    Parameters
    ----------
    num_vertices : int
        V.
    per_cell : int
        A.
    in_channels : int
        C.
    """

    def __init__(self, num_vertices: int, per_cell: int, in_channels: int, **kwargs):
        super().__init__(**kwargs)
        self.width, self.per_cell, self.in_channels = 3 * num_vertices, per_cell, in_channels
        with self.name_scope():
            # Anchor after anchor along the second axis.
            shape = (self.width, per_cell * in_channels)
            self.weight = self.params.get("weight", shape=shape, init=mx.init.Normal(0.01))
            self.bias = self.params.get("bias", shape=(self.width, per_cell), init="zeros")

    def hybrid_forward(self, F, cells, anchors, weight, bias):
        """Coded vertices.

        Parameters
        ----------
        cells : (B, cells, C)
            From `CellFeatures`.
        anchors : (B, n)
            Numbers of the anchors.

        Returns
        -------
        (B, n, 3V)
            x, y, z of vertex after vertex.
        """
        vectors = take_cells(F, cells, anchors, self.per_cell)
        kind = F.one_hot(anchors - F.floor(anchors / self.per_cell) * self.per_cell, self.per_cell)
        # A vector in the place of its anchor, zeros in the others': one product instead of A, of which one is used.
        placed = F.broadcast_mul(kind.expand_dims(3), vectors.expand_dims(2)).reshape((0, 0, -3))
        options = {"num_hidden": self.width, "no_bias": True, "flatten": False}
        return F.FullyConnected(placed, weight, **options) + F.FullyConnected(kind, bias, **options)
