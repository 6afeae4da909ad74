"""Heatmaps to points as graphs; twins of :func:`gluonface.decode.decode_heatmaps`."""

from __future__ import annotations

import numpy as np

from .._compat import mx
from ..decode import FIT_FILTERS, FIT_FLOOR, FIT_RADIUS, GRADIENT_SHIFT, HEATMAP_DECODERS, SOFT_ARGMAX_BETA
from ..errors import InputError

nn = mx.gluon.nn


class SoftArgmax(nn.HybridBlock):
    """Maps (B, K, h, w) to their mean place (B, K, 2) in cells under a softmax.

    Parameters
    ----------
    map_hw : (int, int)
    beta : float
        What the maps are multiplied with.
    """

    def __init__(self, map_hw: tuple[int, int], beta: float = SOFT_ARGMAX_BETA, **kwargs):
        super().__init__(**kwargs)
        self.beta = beta
        rows, columns = (np.arange(side, dtype=np.float32) + 0.5 for side in map_hw)
        grid = np.stack([np.tile(columns, map_hw[0]), np.repeat(rows, map_hw[1])], axis=1)
        with self.name_scope():
            self.centres = self.params.get_constant("centres", grid)

    def hybrid_forward(self, F, heatmaps, centres):
        weights = F.softmax(heatmaps.reshape((0, 0, -1)) * self.beta, axis=-1)
        return F.dot(weights, centres)


class HeatmapDecoder(nn.HybridBlock):
    """Heatmaps to points and how sure they are.

    Parameters
    ----------
    map_hw : (int, int)
        h, w of the maps: part of the graph.
    method : str
        One of `gluonface.decode.HEATMAP_DECODERS`.
    """

    def __init__(self, map_hw: tuple[int, int], method: str = "dark", **kwargs):
        super().__init__(**kwargs)
        if method not in HEATMAP_DECODERS:
            raise InputError(f"expected a decoder among {', '.join(HEATMAP_DECODERS)}, got {method!r}")
        side = 2 * FIT_RADIUS + 1
        if min(map_hw) < side:
            raise InputError(f"expected heatmaps of at least {side}x{side} cells, got {tuple(map_hw)}")
        self.map_hw, self.method = tuple(map_hw), method
        with self.name_scope():
            if method == "soft":
                self.soft_argmax = SoftArgmax(map_hw)
            elif method == "dark":
                # One column per place of the highest cell in the window and coefficient.
                table = FIT_FILTERS.transpose(2, 0, 1, 3).reshape(side * side, -1)
                self.filters = self.params.get_constant("filters", table)

    def hybrid_forward(self, F, heatmaps, filters=None):
        """Maps (B, K, h, w) to points (B, K, 2) in cells, the centre of the first cell at (0.5, 0.5), and scores
        (B, K), the highest value of each map.
        """
        _, width = self.map_hw
        flat = heatmaps.reshape((0, 0, -1))
        best = F.argmax(flat, axis=-1)
        scores = F.max(flat, axis=-1)
        if self.method == "soft":
            return self.soft_argmax(heatmaps), scores
        row = F.floor((best + 0.5) / width)  # the half keeps the division of whole numbers from rounding down
        column = best - row * width
        points = F.stack(column, row, axis=-1) + 0.5
        if self.method == "gradient":
            points = points + GRADIENT_SHIFT * self._slope_signs(F, flat, row, column)
        elif self.method == "dark":
            points = points + self._gaussian_shift(F, flat, scores, row, column, filters)
        return points, scores

    def _slope_signs(self, F, flat, row, column):
        height, width = self.map_hw

        def value(row, column):
            return F.pick(flat, row * width + column, axis=-1)

        across = value(row, F.clip(column + 1, 0, width - 1)) - value(row, F.clip(column - 1, 0, width - 1))
        down = value(F.clip(row + 1, 0, height - 1), column) - value(F.clip(row - 1, 0, height - 1), column)
        return F.stack(F.sign(across), F.sign(down), axis=-1)

    def _gaussian_shift(self, F, flat, scores, row, column, filters):
        (height, width), side = self.map_hw, 2 * FIT_RADIUS + 1
        top = F.clip(row - FIT_RADIUS, 0, height - side)
        left = F.clip(column - FIT_RADIUS, 0, width - side)
        start = top * width + left
        cells = [F.pick(flat, start + (y * width + x), axis=-1) for y in range(side) for x in range(side)]
        floor = F.maximum(scores * FIT_FLOOR, 1e-12).expand_dims(-1)
        logs = F.log(F.broadcast_maximum(F.stack(*cells, axis=-1), floor))
        middle = F.slice_axis(logs, axis=-1, begin=side * side // 2, end=side * side // 2 + 1)
        # Fits for all places of the highest cell in the window, of which one is taken.
        fits = F.dot(F.broadcast_sub(logs, middle), filters).reshape((0, 0, side * side, 5))
        place = F.one_hot((row - top) * side + (column - left), side * side).expand_dims(-1)
        b_x, b_y, a_xx, a_xy, a_yy = F.split(F.sum(F.broadcast_mul(fits, place), axis=2), 5, axis=-1)
        determinant = 4 * a_xx * a_yy - a_xy * a_xy
        peaked = (a_xx < -1e-6) * (determinant > 1e-9)
        determinant = F.where(peaked, determinant, F.ones_like(determinant))
        shift = F.concat(a_xy * b_y - 2 * a_yy * b_x, a_xy * b_x - 2 * a_xx * b_y, dim=-1)
        return F.broadcast_mul(F.clip(F.broadcast_div(shift, determinant), -1, 1), peaked)
