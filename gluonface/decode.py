"""NumPy decoders: what a network says about its anchors, in pixels, and the points that heatmaps show.

Every decoder here has a HybridBlock twin in :mod:`gluonface.nn` (``anchors.py``, ``coder.py``, ``heatmap.py``,
``keypoints.py``) and a test that the two agree. Letters: N anchors, P proposals, S scale bins, K landmarks, A anchors
per cell, H W image, h w map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .errors import InputError

__all__ = [
    "HEATMAP_DECODERS",
    "KPNET_SCALES",
    "POSE_BINS",
    "SCORE_POINTS",
    "AnchorSpec",
    "ScaleSpec",
    "anchors_for",
    "decode_boxes",
    "decode_heatmaps",
    "decode_points",
    "decode_pose",
    "decode_scale",
    "decode_scale_map",
    "encode_boxes",
    "encode_heatmaps",
    "encode_points",
    "encode_pose",
    "encode_scale",
    "encode_scale_map",
    "face_scores",
    "point_peaks",
    "points_in_squares",
    "squares_about",
    "square_argmax",
    "square_soft_argmax",
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


# ---- scale maps ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScaleSpec:
    """How a scale map says where a face is and how large (KPNet, eq. 1).

    A cell's channel is a size: there are 60 bins, ten an octave, over sizes from 2^5 to 2^11 of a photo whose long side
    is 2048. A net sees pixels, not photos, so its bins are sizes in pixels of its input, fixed by the long side that
    photos had in training: shown a photo at twice that side, it finds the faces twice as large.

    Attributes
    ----------
    stride : int
        Pixels per cell, N_s.
    long_side : int
        I_max in training: 256 makes the bins reach from 4.3 to 256 pixels.
    bins : int
        S.
    """

    stride: int = 2
    long_side: int = 256
    bins: int = 60

    @property
    def smallest(self) -> float:
        """Size in pixels of a face of 2^5 in a photo of 2048, where bin 0 would be: 4 at a long side of 256."""
        return self.long_side * 2.0**SCALE_FIRST_OCTAVE / SCALE_LONG_SIDE

    def map_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """h, w of the map of an input of H, W."""
        height, width = size_hw
        return -(-height // self.stride), -(-width // self.stride)


#: The paper's: total stride 2, trained at a long side of 256.
KPNET_SCALES = ScaleSpec()

# Of eq. 1.
SCALE_LONG_SIDE, SCALE_FIRST_OCTAVE, BINS_PER_OCTAVE = 2048, 5, 10

#: Standard deviation of eq. 3, in radii.
SCALE_SIGMA = 0.1

#: By K, the points whose peaks count in a face's score (eq. 8): left eye, right eye, nose.
SCORE_POINTS = {5: (0, 1, 2), 19: (7, 10, 13), 68: (36, 45, 30)}

# A cell belongs to a square when its centre lies inside or, as sides of whole cells are usual, on the border; this part
# of a cell keeps rounding from deciding it.
SQUARE_EDGE = 1e-3

# Under a softmax, responses this far below the highest of the whole map count as this far: so the exponentials of a map
# can be taken once, for all squares, and no square has a sum of zero.
RESPONSE_DEPTH = 70.0


def encode_scale(sizes: np.ndarray, spec: ScaleSpec = KPNET_SCALES) -> np.ndarray:
    """Bins of face sizes (eq. 1); `decode_scale` is the inverse, to within half a bin or 3.5 %.

    Parameters
    ----------
    sizes : ndarray (...)
        Longer side of each face's box in pixels of the input, positive.
    spec : ScaleSpec

    Returns
    -------
    ndarray, int64, (...)
        b, from 1 to S: rounded, and kept in this range.
    """
    octaves = np.log2(np.asarray(sizes, np.float64) / spec.smallest)
    return np.clip(np.rint(BINS_PER_OCTAVE * octaves), 1, spec.bins).astype(np.int64)


def decode_scale(bins: np.ndarray, spec: ScaleSpec = KPNET_SCALES) -> np.ndarray:
    """Sizes in pixels, float32, that bins b from 1 to S (...) stand for."""
    return (spec.smallest * 2 ** (np.asarray(bins, np.float64) / BINS_PER_OCTAVE)).astype(np.float32)


def squares_about(centres: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Squares (..., 4) xyxy of some sides (...) about centres (..., 2)."""
    half = np.asarray(sides)[..., None] / 2
    return np.concatenate([centres - half, centres + half], axis=-1)


def encode_scale_map(
    centres: np.ndarray,
    sizes: np.ndarray,
    map_hw: tuple[int, int],
    spec: ScaleSpec = KPNET_SCALES,
    sigma: float = SCALE_SIGMA,
    bin_sigma: float = 0.0,
) -> np.ndarray:
    """What the scale map of some faces should be (eq. 2 and 3).

    1 in the cell of a face's centre and the channel of its size; around it, in this channel, a Gaussian as far as
    floor(b / 10) cells along each axis, with that radius as unit: exp(-(dx^2 + dy^2) / (2 r^2 sigma^2)). (The sign that
    eq. 3 lacks is that of a Gaussian.) Radius 0, of faces under 8 pixels at a long side of 256, leaves the one cell.
    With the paper's sigma of .1 a neighbour has .25 at radius 6, .14 at 5, .04 at 4 and hardly anything below. Where
    faces meet, the higher value counts.

    Parameters
    ----------
    centres : ndarray (M, 2)
        x, y in pixels of the input. A face whose centre is outside the map has no target.
    sizes : ndarray (M,)
        See :func:`encode_scale`.
    map_hw : (int, int)
        h, w.
    spec : ScaleSpec
    sigma : float
    bin_sigma : float
        Standard deviation in bins of a Gaussian over the sizes, ours: neighbouring bins count as half right. 0, the
        paper, has the one bin.

    Returns
    -------
    ndarray, float32, (S, h, w)
        Bin b is channel b - 1.
    """
    height, width = map_hw
    scale_map = np.zeros((spec.bins, height, width), np.float32)
    reach = math.ceil(3 * bin_sigma)
    cells = np.floor(np.asarray(centres, np.float64).reshape(-1, 2) / spec.stride).astype(np.int64)
    for (x, y), b in zip(cells.tolist(), encode_scale(np.reshape(sizes, -1), spec).tolist()):
        if not (0 <= x < width and 0 <= y < height):
            continue
        radius = b // BINS_PER_OCTAVE
        top, left = max(y - radius, 0), max(x - radius, 0)
        low, high = max(b - reach, 1), min(b + reach, spec.bins)
        window = scale_map[low - 1 : high, top : y + radius + 1, left : x + radius + 1]
        # The least unit makes radius 0 the one cell.
        unit = 2 * (max(radius, 1) * sigma) ** 2
        down = np.exp(-((np.arange(window.shape[1]) + top - y) ** 2) / unit)
        across = np.exp(-((np.arange(window.shape[2]) + left - x) ** 2) / unit)
        over = np.exp(-((np.arange(low, high + 1) - b) ** 2) / (2 * max(bin_sigma, 1e-3) ** 2))
        np.maximum(window, over[:, None, None] * (down[:, None] * across), out=window)
    return scale_map


def decode_scale_map(
    scale_map: np.ndarray, spec: ScaleSpec = KPNET_SCALES, count: int = 100, score_thresh: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Proposals of a scale map, best first; twin of :class:`gluonface.nn.keypoints.ScaleProposals`.

    The peak filter: a cell proposes its best bin, and only where no cell of the 3x3 around it has a higher value in any
    bin. Two faces are never centred within a cell of each other, while one face raises many bins and cells.

    Parameters
    ----------
    scale_map : ndarray (S, h, w)
        Logits.
    spec : ScaleSpec
    count : int
        P, at most h * w.
    score_thresh : float
        Proposals of a lower probability are left out.

    Returns
    -------
    squares : ndarray, float32, (P, 4)
        xyxy in pixels of the input, about the centres of cells; they may reach beyond it. 0 where there are fewer.
    probabilities : ndarray, float32, (P,)
        0 where there are fewer.

    Raises
    ------
    InputError
        Other shape, or fewer cells than proposals.
    """
    scale_map = np.asarray(scale_map, np.float32)
    if scale_map.ndim != 3 or len(scale_map) != spec.bins or not 1 <= count <= scale_map[0].size:
        raise InputError(
            f"expected a scale map ({spec.bins}, h, w) of at least {count} cells for as many proposals, "
            f"got shape {scale_map.shape}"
        )
    best = scale_map.max(axis=0)
    height, width = best.shape
    padded = np.pad(best, 1, constant_values=-np.inf)
    around = np.max([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    flat = np.where(best >= around, best, -np.inf).ravel()
    cells = np.argsort(-flat, kind="stable")[:count]
    row, column = np.divmod(cells, width)
    probabilities = 1 / (1 + np.exp(-np.maximum(flat[cells], -RESPONSE_DEPTH)))
    probabilities = np.where(np.isfinite(flat[cells]) & (probabilities >= score_thresh), probabilities, 0)
    centres = (np.stack([column, row], axis=1).astype(np.float32) + np.float32(0.5)) * spec.stride
    squares = squares_about(centres, decode_scale(scale_map[:, row, column].argmax(axis=0) + 1, spec))
    return np.where(probabilities[:, None] > 0, squares, 0), probabilities.astype(np.float32)


def _cells_inside(squares: np.ndarray, map_hw: tuple[int, int], stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows (P, h) and columns (P, w) of a map have their centres in squares (P, 4) xyxy in pixels."""
    edge = np.float32(SQUARE_EDGE * stride)
    height, width = ((np.arange(side, dtype=np.float32) + np.float32(0.5)) * stride for side in map_hw)
    rows = (height >= squares[:, 1, None] - edge) & (height <= squares[:, 3, None] + edge)
    columns = (width >= squares[:, 0, None] - edge) & (width <= squares[:, 2, None] + edge)
    return rows, columns


def _windows(response: np.ndarray, squares: np.ndarray, stride: int):
    """Of each square with cells: its number, the response (K, n, m) inside and the cells' first row and column."""
    rows, columns = _cells_inside(squares, response.shape[1:], stride)
    for number in np.flatnonzero(rows.any(axis=1) & columns.any(axis=1)):
        inside = response[:, rows[number]][:, :, columns[number]]
        yield number, inside, int(rows[number].argmax()), int(columns[number].argmax())


def _softmax_weights(response: np.ndarray, beta: float) -> np.ndarray:
    scaled = np.asarray(response, np.float32) * np.float32(beta)
    return np.exp(np.maximum(scaled - scaled.max(axis=(1, 2), keepdims=True), -np.float32(RESPONSE_DEPTH)))


def _in_square(x, y, square, stride):
    """Places of cells x, y (K,), centres being whole and a half, in shares of a square's side, (K, 2)."""
    return (np.stack([x, y], axis=-1) * stride - square[:2]) / (square[2] - square[0])


def square_soft_argmax(response: np.ndarray, squares: np.ndarray, stride: int = 2, beta: float = 1.0) -> np.ndarray:
    """Scale-adaptive soft-argmax: mean place of each response in each square, under the softmax inside it.

    Eq. 5 and 6; twin of :class:`gluonface.nn.keypoints.SquareSoftArgmax`. Cells count whose centre is in the square;
    those beyond the map's border do not exist, so that there the mean is over what the map has of the square.

    Parameters
    ----------
    response : ndarray (K, h, w)
    squares : ndarray (P, 4)
        xyxy in pixels of the input.
    stride : int
        Pixels per cell.
    beta : float
        What the response is multiplied with, 1 / temperature.

    Returns
    -------
    ndarray, float32, (P, K, 2)
        x, y in shares of the square's side from its top left corner, 0..1; 0 for a square without cells.
    """
    weights = _softmax_weights(response, beta)
    squares = np.asarray(squares, np.float32).reshape(-1, 4)
    places = np.zeros((len(squares), len(weights), 2), np.float32)
    for number, inside, top, left in _windows(weights, squares, stride):
        total = inside.sum(axis=(1, 2))
        x = inside.sum(axis=1) @ (np.arange(inside.shape[2]) + left + 0.5) / total
        y = inside.sum(axis=2) @ (np.arange(inside.shape[1]) + top + 0.5) / total
        places[number] = _in_square(x, y, squares[number], stride)
    return places


def square_argmax(response: np.ndarray, squares: np.ndarray, stride: int = 2) -> np.ndarray:
    """Place of each response's highest cell in each square, as `square_soft_argmax` has it.

    The plain argmax of the paper's ablation (Table 2); twin of :class:`gluonface.nn.keypoints.SquareArgmax`.

    Returns
    -------
    ndarray, float32, (P, K, 2)
    """
    weights = _softmax_weights(response, 1.0)
    squares = np.asarray(squares, np.float32).reshape(-1, 4)
    places = np.zeros((len(squares), len(weights), 2), np.float32)
    for number, inside, top, left in _windows(weights, squares, stride):
        row, column = np.divmod(inside.reshape(len(inside), -1).argmax(axis=1), inside.shape[2])
        places[number] = _in_square(column + left + 0.5, row + top + 0.5, squares[number], stride)
    return places


def point_peaks(response: np.ndarray, squares: np.ndarray, stride: int = 2, beta: float = 1.0) -> np.ndarray:
    """How high the softmax of each response peaks in each square, float32 (P, K): 1 where one cell has it all.

    Twin of :class:`gluonface.nn.keypoints.PointPeaks`; parameters as of `square_soft_argmax`. 0 for a square without
    cells.
    """
    weights = _softmax_weights(response, beta)
    squares = np.asarray(squares, np.float32).reshape(-1, 4)
    peaks = np.zeros((len(squares), len(weights)), np.float32)
    for number, inside, _, _ in _windows(weights, squares, stride):
        peaks[number] = inside.max(axis=(1, 2)) / inside.sum(axis=(1, 2))
    return peaks


def face_scores(probabilities: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Scores (P,) of faces (eq. 8): the proposals' probabilities (P,) and the peaks (P, 3) of eyes and nose.

    Their mean, not their sum, so that a score is within 0..1; the order is the same. A proposal of probability 0 is no
    face and has 0.
    """
    scores = (probabilities + peaks.sum(axis=-1)) / (1 + peaks.shape[-1])
    return np.where(probabilities > 0, scores, 0)


def points_in_squares(places: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Places (..., P, K, 2) in shares of squares (..., P, 4) xyxy, as points in the squares' pixels."""
    low, side = squares[..., None, :2], (squares[..., 2:] - squares[..., :2])[..., None, :]
    return low + places * side
