"""Scale maps and response maps to faces as graphs; twins of the end of :mod:`gluonface.decode`.

Any input size, any number of proposals, no loop over them. What all blocks here live on: a square is rows times
columns, so a sum over its cells is a matrix product with the rows it has, (P, h) x (h, w), and then with its columns.
"""

from __future__ import annotations

import math

import numpy as np

from .._compat import mx
from ..box_mapping import BOX_STYLES, BoxMapping
from ..decode import BINS_PER_OCTAVE, KPNET_SCALES, RESPONSE_DEPTH, SQUARE_EDGE, ScaleSpec
from ..errors import InputError
from .blocks import PartlyUsed

nn = mx.gluon.nn

# Below every logit: cells that the peak filter took out.
_NO_PEAK = -1e30


def _coordinate(F, squares, number: int):
    """Column (B, P, 1) of squares (B, P, 4)."""
    return F.slice_axis(squares, axis=-1, begin=number, end=number + 1)


def _side(F, squares):
    """Sides (B, P, 1) of squares (B, P, 4); 1 where there is no square, as it divides."""
    side = _coordinate(F, squares, 2) - _coordinate(F, squares, 0)
    return side + (side == 0)


def _cell_centres(F, maps, axis: int, stride: int):
    """Centres (1, 1, cells) in pixels of the cells of maps (B, C, h, w) along an axis."""
    return F.contrib.arange_like(maps, axis=axis, start=0.5).reshape((1, 1, -1)) * stride


def _cells_inside(F, maps, squares, stride: int):
    """Which rows (B, P, h) and columns (B, P, w) of maps have their centres in squares (B, P, 4), 1 or 0."""

    def inside(axis, low, high):
        centres, edge = _cell_centres(F, maps, axis, stride), SQUARE_EDGE * stride
        from_low = F.broadcast_greater_equal(centres, _coordinate(F, squares, low) - edge)
        return from_low * F.broadcast_lesser_equal(centres, _coordinate(F, squares, high) + edge)

    return inside(2, 1, 3), inside(3, 0, 2)


def _exponentials(F, response, beta: float):
    """exp(beta * response), not yet divided, (B, K, h, w), at most 1."""
    scaled = response * beta
    # A shift of all changes nothing, so it needs no gradient.
    highest = F.BlockGrad(F.max(scaled, axis=(2, 3), keepdims=True))
    return F.exp(F.maximum(F.broadcast_sub(scaled, highest), -RESPONSE_DEPTH))


def _sum_rows(F, maps, weights, channels: int):
    """Sums over rows of maps (B, C, h, w) with weights (B, P, h): (B, P, C, w)."""
    by_row = maps.transpose((0, 2, 1, 3)).reshape((0, 0, -3))
    return F.batch_dot(weights, by_row).reshape((0, 0, -4, channels, -1))


def _sum_columns(F, rows, weights):
    """Sums over columns of (B, P, C, w) with weights (B, P, w): (B, P, C)."""
    return F.sum(F.broadcast_mul(rows, weights.expand_dims(2)), axis=3)


def _divided(F, parts, total):
    """Parts (B, P, K) of sums of weights of the same shape; 0 where the square has no cell.

    Sums may be as small as e^-70. A quotient's gradient, parts / total^2, would then be 0 / 0 in float32; that of this
    product is worked out factor by factor, none of which is out of range.
    """
    return parts * F.exp(-F.log(total + (total == 0)))


class SquareSoftArgmax(nn.HybridBlock):
    """Scale-adaptive soft-argmax; twin of :func:`gluonface.decode.square_soft_argmax`.

    Its gradient goes to the response, not to the squares.

    Parameters
    ----------
    num_points : int
        K.
    stride : int
        Pixels per cell.
    beta : float
        What the response is multiplied with, 1 / temperature.
    """

    def __init__(self, num_points: int, stride: int = KPNET_SCALES.stride, beta: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.num_points, self.stride, self.beta = num_points, stride, beta

    def hybrid_forward(self, F, response, squares):
        """Response (B, K, h, w) and squares (B, P, 4) xyxy in pixels to places (B, P, K, 2) in shares of their sides, 0
        for a square without cells.
        """
        rows, columns = _cells_inside(F, response, squares, self.stride)
        weights, side = _exponentials(F, response, self.beta), _side(F, squares)

        def shares(axis, low):
            centres = _cell_centres(F, response, axis, self.stride)
            return F.broadcast_div(F.broadcast_sub(centres, _coordinate(F, squares, low)), side)

        summed = _sum_rows(F, weights, rows, self.num_points)
        total = _sum_columns(F, summed, columns)
        x = _divided(F, _sum_columns(F, summed, columns * shares(3, 0)), total)
        down = _sum_rows(F, weights, rows * shares(2, 1), self.num_points)
        y = _divided(F, _sum_columns(F, down, columns), total)
        return F.stack(x, y, axis=-1)


class SquareMean(nn.HybridBlock):
    """Means (B, P, C) of features (B, C, h, w) in squares (B, P, 4) xyxy in pixels; 0 for a square without cells.

    Parameters
    ----------
    channels : int
        C.
    stride : int
    """

    def __init__(self, channels: int, stride: int = KPNET_SCALES.stride, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.stride = channels, stride

    def hybrid_forward(self, F, features, squares):
        rows, columns = _cells_inside(F, features, squares, self.stride)
        total = _sum_columns(F, _sum_rows(F, features, rows, self.channels), columns)
        cells = F.sum(rows, axis=2, keepdims=True) * F.sum(columns, axis=2, keepdims=True)
        return F.broadcast_div(total, F.maximum(cells, 1))


class SquareRegression(nn.HybridBlock):
    """Coordinate regression, the baseline of the paper's Table 2: the mean of the features in a square, and a fully
    connected layer.

    Parameters
    ----------
    num_points : int
        K.
    channels : int
        C.
    stride : int
    """

    def __init__(self, num_points: int, channels: int, stride: int = KPNET_SCALES.stride, **kwargs):
        super().__init__(**kwargs)
        self.num_points = num_points
        with self.name_scope():
            self.mean = SquareMean(channels, stride)
            # Starts with all points in the middle of the square.
            self.dense = nn.Dense(
                2 * num_points,
                in_units=channels,
                flatten=False,
                weight_initializer=mx.init.Normal(0.01),
                bias_initializer=mx.init.Constant(0.5),
            )

    def hybrid_forward(self, F, features, squares):
        """Features (B, C, h, w) and squares (B, P, 4) to places (B, P, K, 2) in shares of their sides."""
        return self.dense(self.mean(features, squares)).reshape((0, 0, -4, self.num_points, 2))


# ---- highest cells ---------------------------------------------------------------------------------------------------


class _RowMaxima(nn.HybridBlock):
    """Highest value of each row of maps between the first and the last column of squares.

    Comparing all cells of all squares would take P times the map. Instead the highest values of all runs of 1, 2, 4 ...
    cells are worked out, each from the one before; a run of any length is two of these that overlap.

    Parameters
    ----------
    max_cells : int
        Columns that a square may have.
    """

    def __init__(self, max_cells: int = 512, **kwargs):
        super().__init__(**kwargs)
        self.max_cells = max_cells
        self.levels = max(1, math.ceil(math.log2(max_cells)))

    def hybrid_forward(self, F, maps, columns):
        """Maps (B, C, h, w), positive, and columns (B, P, w), of 1 in one run and 0 elsewhere, to (B, P, C, h)."""
        runs = [maps]
        for level in range(self.levels - 1):
            step = 2**level
            beyond = F.pad(runs[-1], mode="constant", pad_width=(0,) * 7 + (step,), constant_value=0)
            runs.append(F.maximum(runs[-1], F.slice_axis(beyond, axis=3, begin=step, end=None)))
        # (B, levels, w, C, h), whose first three axes choose.
        table = F.stack(*runs, axis=1).transpose((0, 1, 4, 2, 3))
        count = F.maximum(F.sum(columns, axis=2), 1)
        first = F.argmax(columns, axis=2)
        # log2 of a whole power may be a hair too small.
        level = F.minimum(F.floor(F.log2(count) + 1e-3), self.levels - 1)
        last = F.maximum(first + count - F.round(F.exp(level * math.log(2))), first)
        image = F.broadcast_like(F.contrib.arange_like(first, axis=0).expand_dims(1), first)
        found = [F.gather_nd(table, F.stack(image, level, start, axis=0)) for start in (first, last)]
        return F.maximum(*found)


def _row_maxima(F, block, weights, rows, columns):
    """Highest weight (B, P, K, h) of each row in each square; 0 for rows outside."""
    return F.broadcast_mul(block(weights, columns), rows.expand_dims(2))


class _Peaks(nn.HybridBlock):
    """What looks for the highest cells of a response in squares.

    Parameters
    ----------
    stride : int
        Pixels per cell.
    """

    def __init__(self, stride: int, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride
        with self.name_scope():
            self.row_maxima = _RowMaxima()

    def forward(self, response, *args):
        """See `hybrid_forward`.

        Raises
        ------
        InputError
            A square is wider than the rows that can be searched. Proposals never are, labelled squares may be.
        """
        if isinstance(response, mx.nd.NDArray) and response.shape[3] > self.row_maxima.max_cells:
            self._check_widths(args[0].asnumpy(), response.shape[3])
        return super().forward(response, *args)

    def _check_widths(self, squares: np.ndarray, width: int) -> None:
        """Refuse squares (B, P, 4) with more columns of a map of some width than can be searched."""
        low = np.ceil(squares[..., 0] / self.stride - 0.5 - SQUARE_EDGE).clip(min=0)
        high = np.floor(squares[..., 2] / self.stride - 0.5 + SQUARE_EDGE).clip(max=width - 1)
        columns, most = int((high - low + 1).max(initial=0)), self.row_maxima.max_cells
        if columns > most:
            raise InputError(
                f"expected squares of at most {most} cells of {self.stride}x{self.stride} pixels across, got one of "
                f"{columns}; look at a smaller photo"
            )


class PointPeaks(_Peaks):
    """How high the softmax of each response peaks in each square; twin of :func:`gluonface.decode.point_peaks`.

    Parameters
    ----------
    channels : sequence of int
        Of the response, whose peaks are wanted: `gluonface.decode.SCORE_POINTS` of K.
    stride, beta
        As of `SquareSoftArgmax`.
    """

    def __init__(self, channels, stride: int = KPNET_SCALES.stride, beta: float = 1.0, **kwargs):
        super().__init__(stride, **kwargs)
        self.channels, self.beta = tuple(channels), beta

    def hybrid_forward(self, F, response, squares):
        """Response (B, K, h, w) and squares (B, P, 4) xyxy in pixels to peaks (B, P, channels), 0 for a square without
        cells.
        """
        chosen = F.concat(*(F.slice_axis(response, axis=1, begin=c, end=c + 1) for c in self.channels), dim=1)
        rows, columns = _cells_inside(F, chosen, squares, self.stride)
        weights = _exponentials(F, chosen, self.beta)
        total = _sum_columns(F, _sum_rows(F, weights, rows, len(self.channels)), columns)
        highest = F.max(_row_maxima(F, self.row_maxima, weights, rows, columns), axis=3)
        return _divided(F, highest * (total > 0), total)


class SquareArgmax(_Peaks):
    """Place of each response's highest cell in each square; twin of :func:`gluonface.decode.square_argmax`.

    Parameters
    ----------
    num_points : int
        K.
    stride : int
    """

    def __init__(self, num_points: int, stride: int = KPNET_SCALES.stride, **kwargs):
        super().__init__(stride, **kwargs)
        self.num_points = num_points

    def hybrid_forward(self, F, response, squares):
        """Response (B, K, h, w) and squares (B, P, 4) xyxy in pixels to places (B, P, K, 2) in shares of their sides, 0
        for a square without cells.
        """
        rows, columns = _cells_inside(F, response, squares, self.stride)
        weights = _exponentials(F, response, 1.0)
        best = F.argmax(_row_maxima(F, self.row_maxima, weights, rows, columns), axis=3)
        # The best row of each square and point, (B, P, K, w), in which the column is looked for.
        image = F.broadcast_like(F.contrib.arange_like(best, axis=0).reshape((-1, 1, 1)), best)
        point = F.broadcast_like(F.contrib.arange_like(best, axis=2).reshape((1, 1, -1)), best)
        row = F.gather_nd(weights, F.stack(image, point, best, axis=0))
        column = F.argmax(F.broadcast_mul(row, columns.expand_dims(2)), axis=3)
        side = _side(F, squares)
        x, y = (
            F.broadcast_div(F.broadcast_sub((cell + 0.5) * self.stride, _coordinate(F, squares, low)), side)
            for cell, low in ((column, 0), (best, 1))
        )
        some = F.max(rows, axis=2, keepdims=True) * F.max(columns, axis=2, keepdims=True)
        return F.broadcast_mul(F.stack(x, y, axis=-1), some.expand_dims(3))


# ---- proposals, scores, boxes ----------------------------------------------------------------------------------------


class ScaleProposals(nn.HybridBlock):
    """Proposals of a scale map; twin of :func:`gluonface.decode.decode_scale_map`.

    Parameters
    ----------
    spec : ScaleSpec
    count : int
        P: no more than the map has cells.
    score_thresh : float
        Proposals of a lower probability are left out.
    """

    def __init__(self, spec: ScaleSpec = KPNET_SCALES, count: int = 100, score_thresh: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.count, self.score_thresh = spec, count, score_thresh

    def hybrid_forward(self, F, scale_map):
        """Logits (B, S, h, w) to squares (B, P, 4) xyxy in pixels and probabilities (B, P), best first, both 0 where
        there are fewer.
        """
        best = self._best(F, scale_map)
        around = F.Pooling(best, kernel=(3, 3), stride=(1, 1), pad=(1, 1), pool_type="max")
        peaks = F.where(best >= around, best, F.ones_like(best) * _NO_PEAK)
        values, cells = F.topk(peaks.reshape((0, -1)), k=self.count, ret_typ="both", axis=1)
        probabilities = F.sigmoid(values)
        probabilities = probabilities * (values > _NO_PEAK / 2) * (probabilities >= self.score_thresh)
        # The bins of these cells only, (B, P, S), of which the highest is taken.
        by_cell = scale_map.reshape((0, 0, -3))
        logits = F.gather_nd(by_cell, self._every_bin(F, by_cell, cells))
        sizes = F.exp((F.argmax(logits, axis=2) + 1) * (math.log(2) / BINS_PER_OCTAVE)) * self.spec.smallest
        width = F.broadcast_like(F.max(F.contrib.arange_like(best, axis=3, start=1)).reshape((1, 1)), cells)
        row = F.floor((cells + 0.5) / width)  # the half keeps the division of whole numbers from rounding down
        x, y = ((cell + 0.5) * self.spec.stride for cell in (cells - row * width, row))
        half = sizes / 2
        squares = F.stack(x - half, y - half, x + half, y + half, axis=-1)
        return F.broadcast_mul(squares, (probabilities > 0).expand_dims(2)), probabilities

    def _best(self, F, scale_map):
        """Highest bin of each cell, (B, 1, h, w), by halves: three times as fast as a maximum over an axis."""
        best, count = scale_map, self.spec.bins
        while count > 1:
            # Of an odd number both halves have the middle one.
            half = (count + 1) // 2
            low = F.slice_axis(best, axis=1, begin=0, end=half)
            best, count = F.maximum(low, F.slice_axis(best, axis=1, begin=count - half, end=count)), half
        return best

    def _every_bin(self, F, by_cell, cells):
        """Indices (3, B, P, S) of all bins of some cells."""
        place = F.repeat(cells.expand_dims(2), repeats=self.spec.bins, axis=2)
        image = F.contrib.arange_like(by_cell, axis=0).reshape((-1, 1, 1))
        number = F.contrib.arange_like(by_cell, axis=1).reshape((1, 1, -1))
        return F.stack(F.broadcast_like(image, place), F.broadcast_like(number, place), place, axis=0)


class TagGroups(nn.HybridBlock):
    """Faces by associative embedding (Newell, Huang, Deng 2017), which the paper compares with (Table 6): points of all
    faces are peaks of their maps, and those of one face have alike tags.

    A face is a peak of the root point, and of every other point the peak whose tag is nearest to the root's; so all
    faces are grouped at once, where the authors go from point to point.

    Parameters
    ----------
    num_points : int
        K.
    root : int
        The root point, such as the nose.
    count : int
        P, faces, and peaks of each point that are looked at: no more than a map has cells.
    score_thresh : float
        Root points of a lower probability are left out.
    stride : int
    """

    def __init__(
        self,
        num_points: int,
        root: int,
        count: int = 100,
        score_thresh: float = 0.0,
        stride: int = KPNET_SCALES.stride,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_points, self.root, self.stride = num_points, root, stride
        self.count, self.score_thresh = count, score_thresh

    def hybrid_forward(self, F, heatmaps, tags):
        """Logits and tags (B, K, h, w) to points (B, P, K, 2) in pixels of the input and scores (B, P), the mean
        probability of a face's points, 0 where there are fewer.
        """
        around = F.Pooling(heatmaps, kernel=(3, 3), stride=(1, 1), pad=(1, 1), pool_type="max")
        peaks = F.where(heatmaps >= around, heatmaps, F.ones_like(heatmaps) * _NO_PEAK)
        values, cells = F.topk(peaks.reshape((0, 0, -1)), k=self.count, ret_typ="both", axis=2)
        image = F.broadcast_like(F.contrib.arange_like(values, axis=0).reshape((-1, 1, 1)), values)
        point = F.broadcast_like(F.contrib.arange_like(values, axis=1).reshape((1, -1, 1)), values)
        told = F.gather_nd(tags.reshape((0, 0, -3)), F.stack(image, point, cells, axis=0))
        of_root = F.slice_axis(told, axis=1, begin=self.root, end=self.root + 1)
        # (B, K, P, P): how far the tag of each peak (last) is from that of each root. What is no peak is far away.
        away = F.abs(F.broadcast_sub(told.expand_dims(2), of_root.expand_dims(3)))
        away = F.broadcast_add(away, ((values < _NO_PEAK / 2) * -_NO_PEAK).expand_dims(2))
        nearest = F.argmin(away, axis=3)
        # The root itself is its own peak, not another of the same tag.
        own = F.broadcast_like(F.contrib.arange_like(values, axis=2).reshape((1, 1, -1)), values)
        chosen = F.stack(image, point, F.where(point == self.root, own, nearest), axis=0)
        cell, value = F.gather_nd(cells, chosen), F.gather_nd(values, chosen)
        probabilities = F.sigmoid(value) * (value > _NO_PEAK / 2)
        root = F.slice_axis(probabilities, axis=1, begin=self.root, end=self.root + 1).reshape((0, -1))
        scores = F.mean(probabilities, axis=1) * (root > 0) * (root >= self.score_thresh)
        width = F.broadcast_like(F.max(F.contrib.arange_like(heatmaps, axis=3, start=1)).reshape((1, 1, 1)), cell)
        row = F.floor((cell + 0.5) / width)
        points = F.stack(cell - row * width, row, axis=-1) + 0.5
        return points.transpose((0, 2, 1, 3)) * self.stride, scores


class FaceScore(nn.HybridBlock):
    """Probabilities (B, P) and peaks (B, P, 3) to scores (B, P); twin of :func:`gluonface.decode.face_scores`."""

    def hybrid_forward(self, F, probabilities, peaks):
        mean = F.mean(F.concat(probabilities.expand_dims(2), peaks, dim=2), axis=2)
        return mean * (probabilities > 0)


class PointsInSquares(nn.HybridBlock):
    """Places (B, P, K, 2) in shares of squares (B, P, 4) to points (B, P, K, 2) in their pixels; twin of
    :func:`gluonface.decode.points_in_squares`.
    """

    def hybrid_forward(self, F, places, squares):
        low = F.slice_axis(squares, axis=-1, begin=0, end=2)
        side = F.slice_axis(squares, axis=-1, begin=2, end=4) - low
        return F.broadcast_add(F.broadcast_mul(places, side.expand_dims(2)), low.expand_dims(2))


class _Given(mx.init.Initializer):
    """Starts a parameter as a given array."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _init_weight(self, _, arr):
        arr[:] = mx.nd.array(self.values, ctx=arr.context, dtype=arr.dtype)


class BoxesFromPoints(PartlyUsed, nn.HybridBlock):
    """Boxes of faces from their points; twin of :func:`gluonface.box_mapping.boxes_from_points`.

    The mapping's numbers are parameters of the block, saved and loaded with the weights, but not trained.

    Parameters
    ----------
    mapping : BoxMapping
    style : str
        One of `gluonface.box_mapping.BOX_STYLES`.

    Raises
    ------
    InputError
        Unknown style.
    """

    def __init__(self, mapping: BoxMapping, style: str = "corpus", **kwargs):
        super().__init__(**kwargs)
        self.num_points = mapping.num_points
        self.set_style(style)
        with self.name_scope():
            # Not learnt by gradient; kept for every style, so that weights are alike.
            self.frame, self.weights = (
                self.params.get(name, shape=values.shape, grad_req="null", init=_Given(values))
                for name, values in (("frame", mapping.frame), ("weights", mapping.weights))
            )

    def set_style(self, style: str) -> None:
        """Take another style; InputError where there is none such."""
        if style not in BOX_STYLES:
            raise InputError(f"expected a box style among {', '.join(BOX_STYLES)}, got {style!r}")
        self.style = style
        self._clear_cached_op()

    def set_mapping(self, mapping: BoxMapping) -> None:
        """Take another mapping for as many points."""
        if mapping.num_points != self.num_points:
            raise InputError(f"expected a mapping of {self.num_points} points, got one of {mapping.num_points}")
        for parameter, values in ((self.frame, mapping.frame), (self.weights, mapping.weights)):
            parameter.init = _Given(values)
            if parameter._data is not None:
                parameter.set_data(mx.nd.array(values))

    def hybrid_forward(self, F, points, frame, weights):
        """Points (B, P, K, 2) to boxes (B, P, 4) xyxy in the same pixels."""
        if self.style != "corpus":
            low, high = F.min(points, axis=2), F.max(points, axis=2)
            if self.style == "tight":
                return F.concat(low, high, dim=2)
            half = F.max(high - low, axis=2, keepdims=True) / 2
            return F.concat(F.broadcast_sub((low + high) / 2, half), F.broadcast_add((low + high) / 2, half), dim=2)
        # Sums of x and y with the frame's columns: its origin, and axis as complex products.
        sums = F.dot(points.transpose((0, 1, 3, 2)), frame)
        x, y = (F.slice_axis(sums, axis=2, begin=i, end=i + 1).reshape((0, 0, -1)) for i in (0, 1))
        origin_x, xa, xb = F.split(x, 3, axis=2)
        origin_y, ya, yb = F.split(y, 3, axis=2)
        # Scale and turn of the face, (a + ib): the axis times the points.
        a, b = xa - yb, ya + xb
        square = a * a + b * b
        safe = square + (square == 0)
        px, py = (F.slice_axis(points, axis=3, begin=i, end=i + 1).reshape((0, 0, -1)) for i in (0, 1))
        px, py = F.broadcast_sub(px, origin_x), F.broadcast_sub(py, origin_y)
        qx = F.broadcast_div(F.broadcast_mul(px, a) + F.broadcast_mul(py, b), safe)
        qy = F.broadcast_div(F.broadcast_mul(py, a) - F.broadcast_mul(px, b), safe)
        told = F.dot(F.concat(qx, qy, F.ones_like(a), dim=2), weights)
        cx, cy, u, v = F.split(told, 4, axis=2)
        centre_x, centre_y = origin_x + a * cx - b * cy, origin_y + b * cx + a * cy
        aa, bb, u, v = a * a, b * b, F.relu(u), F.relu(v)
        half_x, half_y = F.sqrt(aa * u + bb * v) / 2, F.sqrt(bb * u + aa * v) / 2
        return F.concat(centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y, dim=2)
