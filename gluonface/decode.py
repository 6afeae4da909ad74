"""NumPy decoders: what a network says about its anchors, in pixels, and the points that heatmaps show.

Every function here has a HybridBlock twin in :mod:`gluonface.nn` (``anchors.py``, ``coder.py``, ``heatmap.py``) and a
test that the two agree. Letters: N anchors, K landmarks, A anchors per cell, H W image, h w map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import InputError

__all__ = [
    "HEATMAP_DECODERS",
    "POSE_BINS",
    "AnchorSpec",
    "anchors_for",
    "decode_boxes",
    "decode_heatmaps",
    "decode_points",
    "decode_pose",
    "encode_boxes",
    "encode_heatmaps",
    "encode_points",
    "encode_pose",
]


@dataclass(frozen=True)
class AnchorSpec:
    """Square anchors of a feature pyramid.

    Attributes
    ----------
    strides : tuple of int
        Pixels per cell of each level, finest first.
    sizes : tuple of tuple of float
        Side of each anchor of a cell in pixels, per level. All levels have the same number of anchors per cell.
    """

    strides: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        if len(self.strides) != len(self.sizes) or len({len(s) for s in self.sizes}) != 1:
            raise ValueError(
                f"AnchorSpec needs one tuple of sizes per stride, all of one length; "
                f"got strides {self.strides} and sizes {self.sizes}"
            )

    @property
    def per_cell(self) -> int:
        """Anchors per cell, A."""
        return len(self.sizes[0])

    def count(self, size_hw: tuple[int, int]) -> int:
        """Number of anchors N for an input of ``size_hw`` pixels."""
        height, width = size_hw
        return sum(-(-height // s) * -(-width // s) for s in self.strides) * self.per_cell


# P3..P5 with two anchors a cell: 16,800 anchors at 640x640 (RetinaFace, light variant; MOS section 3).
LIGHT_ANCHORS = AnchorSpec(strides=(8, 16, 32), sizes=((16, 32), (64, 128), (256, 512)))


def anchors_for(size_hw: tuple[int, int], spec: AnchorSpec = LIGHT_ANCHORS) -> np.ndarray:
    """All anchors of an input, in the order in which the heads predict.

    Levels follow one another, finest first; inside a level rows, then columns, then sizes. A cell's anchors are centred
    on the cell. A level has ceil(H / stride) x ceil(W / stride) cells, as convolutions of stride 2 and padding 1 make
    it.

    Parameters
    ----------
    size_hw : (int, int)
        Height and width of the network's input in pixels.
    spec : AnchorSpec

    Returns
    -------
    ndarray, float32, (N, 4)
        Boxes xyxy in input pixels; they may reach beyond the input.
    """
    height, width = size_hw
    levels = []
    for stride, sizes in zip(spec.strides, spec.sizes):
        cy = (np.arange(-(-height // stride), dtype=np.float32) + 0.5) * stride
        cx = (np.arange(-(-width // stride), dtype=np.float32) + 0.5) * stride
        half = np.asarray(sizes, np.float32) / 2
        grid_y, grid_x, grid_half = np.meshgrid(cy, cx, half, indexing="ij")
        level = np.stack([grid_x - grid_half, grid_y - grid_half, grid_x + grid_half, grid_y + grid_half], axis=-1)
        levels.append(level.reshape(-1, 4))
    return np.concatenate(levels)


def _centre_and_scale(anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:3] - anchors[..., 0:1]


def encode_boxes(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Boxes as regression targets of square anchors (RetinaFace eq. 4: no variances).

    Parameters
    ----------
    boxes : ndarray (N, 4)
        xyxy in pixels, one for each anchor, of positive width and height.
    anchors : ndarray (N, 4)
        xyxy in pixels, square.

    Returns
    -------
    ndarray (N, 4)
        (x - x_a) / s, (y - y_a) / s of the centre, log(w / s), log(h / s), with s the anchor's side.
    """
    centre, scale = _centre_and_scale(anchors)
    size = boxes[..., 2:] - boxes[..., :2]
    return np.concatenate([((boxes[..., :2] + boxes[..., 2:]) / 2 - centre) / scale, np.log(size / scale)], axis=-1)


def decode_boxes(box_preds: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Inverse of :func:`encode_boxes`; twin of :class:`gluonface.nn.coder.BoxDecoder`.

    Parameters
    ----------
    box_preds : ndarray (..., N, 4)
    anchors : ndarray (N, 4)
        xyxy in pixels, square.

    Returns
    -------
    ndarray (..., N, 4)
        xyxy in pixels.
    """
    centre, scale = _centre_and_scale(anchors)
    xy = box_preds[..., :2] * scale + centre
    half = np.exp(np.minimum(box_preds[..., 2:], MAX_LOG_SIZE)) * scale / 2
    return np.concatenate([xy - half, xy + half], axis=-1)


# exp() of a wild prediction must not overflow: a face is never e^6 = 400 times its anchor.
MAX_LOG_SIZE = 6.0


def encode_points(points: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Landmarks as regression targets of square anchors (RetinaFace eq. 4).

    Parameters
    ----------
    points : ndarray (N, K, 2)
        x, y in pixels.
    anchors : ndarray (N, 4)
        xyxy in pixels, square.

    Returns
    -------
    ndarray (N, 2K)
        (x - x_a) / s, (y - y_a) / s of point after point.
    """
    centre, scale = _centre_and_scale(anchors)
    coded = (points - centre[..., None, :]) / scale[..., None, :]
    return coded.reshape(*points.shape[:-2], 2 * points.shape[-2])


def decode_points(landmark_preds: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Inverse of :func:`encode_points`; twin of :class:`gluonface.nn.coder.PointDecoder`.

    Parameters
    ----------
    landmark_preds : ndarray (..., N, 2K)
    anchors : ndarray (N, 4)
        xyxy in pixels, square.

    Returns
    -------
    ndarray (..., N, K, 2)
        x, y in pixels.
    """
    centre, scale = _centre_and_scale(anchors)
    points = landmark_preds.reshape(*landmark_preds.shape[:-1], landmark_preds.shape[-1] // 2, 2)
    return points * scale[..., None, :] + centre[..., None, :]


# ---- head pose -------------------------------------------------------------------------------------------------------

#: Bins of an angle (MOS section 3.2.1, as in Hopenet), each of `POSE_BIN_DEGREES`; together they reach from -99 to 99.
POSE_BINS = 66
POSE_BIN_DEGREES = 3.0
POSE_LIMIT = POSE_BINS * POSE_BIN_DEGREES / 2

#: Middle of each bin in degrees, (66,): what the expected angle is a mean of. (Hopenet takes the lower edges, whose
#: mean is 1.5 degrees off until a network has learnt to make up for it.)
POSE_BIN_CENTRES = ((np.arange(POSE_BINS) + 0.5) * POSE_BIN_DEGREES - POSE_LIMIT).astype(np.float32)


def encode_pose(pose: np.ndarray) -> np.ndarray:
    """Angles as the bins that a network learns to choose; `decode_pose` is the inverse, to within half a bin.

    Parameters
    ----------
    pose : ndarray (..., 3)
        Yaw, pitch, roll in degrees.

    Returns
    -------
    ndarray, int64, (..., 3)
        Number of the bin, -1 where an angle is not finite or beyond 99 degrees.
    """
    pose = np.asarray(pose, np.float64)
    known = np.abs(np.where(np.isfinite(pose), pose, np.inf)) <= POSE_LIMIT
    bins = np.floor((np.where(known, pose, 0) + POSE_LIMIT) / POSE_BIN_DEGREES).astype(np.int64)
    return np.where(known, np.minimum(bins, POSE_BINS - 1), -1)


def decode_pose(pose_preds: np.ndarray) -> np.ndarray:
    """Expected angles under a softmax over the bins; twin of :class:`gluonface.nn.coder.PoseDecoder`.

    Parameters
    ----------
    pose_preds : ndarray (..., 198)
        Logits of the 66 bins of yaw, then of pitch, then of roll.

    Returns
    -------
    ndarray (..., 3)
        Yaw, pitch, roll in degrees.
    """
    logits = pose_preds.reshape(*pose_preds.shape[:-1], 3, POSE_BINS)
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weight @ POSE_BIN_CENTRES) / weight.sum(axis=-1)


# ---- heatmaps --------------------------------------------------------------------------------------------------------

#: Ways to read a point off a heatmap (sub-pixel heatmap landmarks, section 3.3).
HEATMAP_DECODERS = ("dark", "gradient", "argmax", "soft")

# What soft-argmax multiplies heatmaps of peak 1 with: the e^15 of the peak outweighs the background of any map, while
# a Gaussian's flank still counts.
SOFT_ARGMAX_BETA = 15.0

# Eq. 2's correction coefficient: a quarter cell towards the higher neighbour (Xiao et al. 2018; Newell et al. 2016).
GRADIENT_SHIFT = 0.25

# The Gaussian is fitted to the cells around the highest one, weighted by a Gaussian of this many cells: the flanks say
# where the peak is, but what a network draws far from it is no Gaussian.
FIT_RADIUS = 2
FIT_SIGMA = 1.2
# Cells below this share of the peak count as this much: their logarithm would be noise.
FIT_FLOOR = 0.01


def _fit_filters() -> np.ndarray:
    """(5, 5, 25, 5): for a highest cell at (row, column) of the window, the window's logarithms to the five
    coefficients of x, y, x^2, xy, y^2 of their weighted least squares fit, with the highest cell as origin.

    Where the map's border cuts the window off, one side of the peak is unseen and a curvature of its own would be
    guesswork under noise: there the Gaussian is fitted round, x^2 and y^2 with one coefficient and no xy.
    """
    side = 2 * FIT_RADIUS + 1
    grid_y, grid_x = (axis.ravel() for axis in np.mgrid[:side, :side])
    filters = np.empty((side, side, side * side, 5))
    for row in range(side):
        for column in range(side):
            x, y = (grid_x - column).astype(float), (grid_y - row).astype(float)
            # The root of the weight. At the map's border the window reaches farther from the highest cell than
            # elsewhere; those cells are background.
            weight = np.exp(-(x**2 + y**2) / (4 * FIT_SIGMA**2)) * (np.maximum(abs(x), abs(y)) <= FIT_RADIUS)
            if (row, column) == (FIT_RADIUS, FIT_RADIUS):
                terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
                fit = (np.linalg.pinv(terms * weight[:, None]) * weight)[1:]
            else:
                terms = np.stack([np.ones_like(x), x, y, x * x + y * y], axis=1)
                _, b_x, b_y, a = np.linalg.pinv(terms * weight[:, None]) * weight
                fit = b_x, b_y, a, np.zeros_like(a), a
            filters[row, column] = np.transpose(fit)
    return filters.astype(np.float32)


#: See `_fit_filters`; used by both twins.
FIT_FILTERS = _fit_filters()


def encode_heatmaps(points: np.ndarray, map_hw: tuple[int, int], sigma: float) -> np.ndarray:
    """Gaussians of height 1 at points: what the heatmap networks learn; `decode_heatmaps` is the inverse.

    Parameters
    ----------
    points : ndarray (..., K, 2)
        x, y in cells of the map, continuous: the centre of the first cell is (0.5, 0.5). NaN gives an empty map.
    map_hw : (int, int)
        h, w.
    sigma : float
        Standard deviation in cells.

    Returns
    -------
    ndarray, float32, (..., K, h, w)
    """
    height, width = map_hw
    points = np.asarray(points, np.float32)
    x, y = points[..., 0, None], points[..., 1, None]
    across = np.exp(-((np.arange(width, dtype=np.float32) + 0.5 - x) ** 2) / (2 * sigma**2))
    down = np.exp(-((np.arange(height, dtype=np.float32) + 0.5 - y) ** 2) / (2 * sigma**2))
    return np.nan_to_num(down[..., :, None] * across[..., None, :])


def decode_heatmaps(heatmaps: np.ndarray, method: str = "dark") -> tuple[np.ndarray, np.ndarray]:
    """Points and how sure they are; twin of :class:`gluonface.nn.heatmap.HeatmapDecoder`.

    Parameters
    ----------
    heatmaps : ndarray (..., K, h, w)
    method : str
        "argmax" : centre of the highest cell (eq. 1).
        "gradient" : shifted a quarter cell towards the higher neighbour along x and y (eq. 2).
        "dark" : peak of the Gaussian that fits the highest cell and those around it (eq. 3; Zhang et al. 2020): the
        logarithm of a Gaussian is a quadratic, fitted here by weighted least squares over 5x5 cells, so that noise is
        averaged and the border needs no blur. At most one cell from the highest.
        "soft" : mean place under softmax(15 heatmap).

    Returns
    -------
    points : ndarray, float32, (..., K, 2)
        x, y in cells, continuous: the centre of the first cell is (0.5, 0.5).
    scores : ndarray, float32, (..., K)
        The highest value of each map.

    Raises
    ------
    InputError
        Unknown method, or maps with a side under 5 cells.
    """
    heatmaps = np.asarray(heatmaps, np.float32)
    if method not in HEATMAP_DECODERS:
        raise InputError(f"expected a decoder among {', '.join(HEATMAP_DECODERS)}, got {method!r}")
    if heatmaps.ndim < 3 or min(heatmaps.shape[-2:]) < 2 * FIT_RADIUS + 1:
        raise InputError(f"expected heatmaps (..., K, h, w) of at least 5x5 cells, got shape {heatmaps.shape}")
    *lead, height, width = heatmaps.shape
    flat = np.ascontiguousarray(heatmaps).reshape(-1, height * width)
    if method == "dark":
        points, scores = _gaussian_peaks(flat, height, width)
    else:
        best = flat.argmax(axis=1)
        scores = flat[np.arange(len(flat)), best]
        row, column = np.divmod(best, width)
        points = np.stack([column, row], axis=1) + np.float32(0.5)
        if method == "gradient":
            points += GRADIENT_SHIFT * _slope_signs(flat, row, column, height, width)
        elif method == "soft":
            points = _soft_argmax(flat, scores, height, width)
    return points.astype(np.float32).reshape(*lead, 2), scores.reshape(lead)


def _soft_argmax(flat, scores, height, width):
    weight = np.exp(SOFT_ARGMAX_BETA * (flat - scores[:, None])).reshape(-1, height, width)
    total = weight.sum(axis=(1, 2))
    x = weight.sum(axis=1) @ (np.arange(width, dtype=np.float32) + 0.5)
    y = weight.sum(axis=2) @ (np.arange(height, dtype=np.float32) + 0.5)
    return np.stack([x, y], axis=1) / total[:, None]


def _slope_signs(flat, row, column, height, width):
    """Which neighbour of a cell is higher, along x and y: -1, 0 or 1; the border's cells repeat outside."""
    rows = np.arange(len(flat))
    across = [flat[rows, row * width + np.clip(column + step, 0, width - 1)] for step in (-1, 1)]
    down = [flat[rows, np.clip(row + step, 0, height - 1) * width + column] for step in (-1, 1)]
    return np.sign(np.stack([across[1] - across[0], down[1] - down[0]], axis=1))


# Cells whose maps are looked at together: small enough for the processor's cache, where the windows round the highest
# cells are then taken from, large enough that Python's own time does not count.
_CELLS_AT_ONCE = 2_400_000


def _gaussian_peaks(flat, height, width):
    """Peaks (N, 2) in cells of Gaussians fitted round the highest cells of maps (N, h * w), and these heights (N,)."""
    side = 2 * FIT_RADIUS + 1
    steps = np.arange(side)
    cells = (steps[:, None] * width + steps).ravel()
    windows, best = np.empty((len(flat), side * side), np.float32), np.empty(len(flat), np.intp)
    at_once = max(1, _CELLS_AT_ONCE // (height * width))
    for begin in range(0, len(flat), at_once):
        maps, rows = flat[begin : begin + at_once], slice(begin, begin + at_once)
        best[rows] = maps.argmax(axis=1)
        top, left = _window_corner(best[rows], height, width)
        # One flat take of small windows: fancy indexing along two axes takes three times as long.
        start = np.arange(len(maps)) * (height * width) + top * width + left
        np.take(maps, start[:, None] + cells, mode="clip", out=windows[rows])
    scores = windows.max(axis=1)
    logs = np.log(np.maximum(windows, np.maximum(FIT_FLOOR * scores, 1e-12)[:, None]))
    logs -= logs[:, side * side // 2, None]  # the fit is of differences; float32 keeps more of small numbers
    fit = logs @ FIT_FILTERS[FIT_RADIUS, FIT_RADIUS]
    row, column = np.divmod(best, width)
    top, left = _window_corner(best, height, width)
    place = (row - top) * side + (column - left)
    at_border = np.flatnonzero(place != side * FIT_RADIUS + FIT_RADIUS)
    for other in np.flatnonzero(np.bincount(place[at_border])):
        there = at_border[place[at_border] == other]
        fit[there] = logs[there] @ FIT_FILTERS[divmod(int(other), side)]
    b_x, b_y, a_xx, a_xy, a_yy = fit.T
    # The quadratic a_xx x^2 + a_xy xy + a_yy y^2 + b_x x + b_y y has a maximum where its curvature is negative.
    determinant = 4 * a_xx * a_yy - a_xy**2
    peaked = (a_xx < -1e-6) & (determinant > 1e-9)
    determinant = np.where(peaked, determinant, 1)
    shift = np.stack([a_xy * b_y - 2 * a_yy * b_x, a_xy * b_x - 2 * a_xx * b_y], axis=1) / determinant[:, None]
    shift = np.where(peaked[:, None], np.clip(shift, -1, 1), 0)
    return np.stack([column, row], axis=1) + np.float32(0.5) + shift, scores


def _window_corner(best, height, width):
    """Row and column of the first cell of the window round a map's cell number, moved inside at the border."""
    row, column = np.divmod(best, width)
    side = 2 * FIT_RADIUS + 1
    return np.clip(row - FIT_RADIUS, 0, height - side), np.clip(column - FIT_RADIUS, 0, width - side)
