"""Boxes, points, letterbox and its inverse, non-maximum suppression, similarity transform. NumPy only.

Where pixels move OpenCV is imported inside the function.

Coordinates are continuous pixels: an image covers [0, W] x [0, H], the centre of its first pixel is (0.5, 0.5) and a
box x1, y1, x2, y2 is x2 - x1 wide. OpenCV's warps count pixel centres as integers; the half pixel is added in
`warp_image`, nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .errors import InputError

__all__ = [
    "ARCFACE_TEMPLATE_112",
    "FIVE_IN_BOX",
    "HEATMAP_TEMPLATE",
    "SOFT_NMS",
    "Letterbox",
    "align_crop",
    "apply_letterbox",
    "box_area",
    "box_ioa",
    "box_iou",
    "box_vote",
    "clip_boxes",
    "flip_boxes",
    "five_from_boxes",
    "flip_points",
    "invert_affine",
    "letterbox",
    "nms",
    "rotation_matrix_about",
    "similarity_transform",
    "soft_nms",
    "vote",
    "warp_image",
    "warp_points",
]

# Five points of a face in the usual 112x112 crop for recognition (ArcFace, arXiv:1801.07698, and most recognition
# models since). The published numbers count the centre of the first pixel as 0; half a pixel makes them continuous.
ARCFACE_TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
) + np.array([0.5, 0.5])
ARCFACE_TEMPLATE_112.flags.writeable = False

# Five points of a face in the square crop that landmark nets look at, in shares of its side: the mean face of 1,673
# Helen and LFPW training photographs, made symmetric, with a distance of 0.28 between the eyes, so that chin, ears and
# turned faces stay inside (all 68 points of 99.7 % of them).
HEATMAP_TEMPLATE = np.array([[0.36, 0.298], [0.64, 0.298], [0.5, 0.456], [0.3785, 0.596], [0.6215, 0.596]])
HEATMAP_TEMPLATE.flags.writeable = False

# Where the five points of an upright frontal face lie in its box, in shares of width and height: means over 1,080 of
# these photographs, made symmetric. Boxes as detectors trained on WIDER FACE draw them, forehead included.
FIVE_IN_BOX = np.array([[0.27, 0.389], [0.73, 0.389], [0.5, 0.583], [0.299, 0.748], [0.701, 0.748]])
FIVE_IN_BOX.flags.writeable = False

#: How `soft_nms` lowers scores.
SOFT_NMS = ("linear", "gaussian")

# Largest number of box pairs compared at once, to bound memory (float64: 32 MB).
_PAIRS_AT_ONCE = 4_000_000


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Areas (N,) of boxes (N, 4) xyxy in square pixels; 0 for a box that is inside out."""
    boxes = np.asarray(boxes)
    return np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # One axis after the other, in place: training does this for every photo and all its anchors.
    sides = []
    for low, high in ((0, 2), (1, 3)):
        side = np.minimum(a[:, high, None], b[None, :, high])
        side -= np.maximum(a[:, low, None], b[None, :, low])
        sides.append(np.maximum(side, 0, out=side))
    return np.multiply(*sides, out=sides[0])


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of boxes (N, 4) with boxes (M, 4), both xyxy; 0 where the union is empty."""
    a, b = _as_boxes(a), _as_boxes(b)
    overlap = _intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def box_ioa(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection of boxes (N, 4) with boxes (M, 4) over the area of the former, (N, M); 0 for a box without area."""
    a, b = _as_boxes(a), _as_boxes(b)
    overlap = _intersection(a, b)
    area = np.broadcast_to(box_area(a)[:, None], overlap.shape)
    return np.divide(overlap, area, out=np.zeros_like(overlap), where=area > 0)


def _as_boxes(boxes) -> np.ndarray:
    boxes = np.asarray(boxes)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"expected boxes of shape (N, 4), got {boxes.shape}")
    # Areas of integers would overflow.
    return boxes.astype(np.result_type(boxes.dtype, np.float32), copy=False)


def clip_boxes(boxes: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Boxes (..., 4) xyxy cut at the border of an image of that height and width; one outside ends up without area."""
    height, width = size_hw
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.asarray(boxes).dtype))


def widen_boxes(boxes: np.ndarray, scale: float) -> np.ndarray:
    """Boxes (n, 4) grown about their centre: width and height times a scale. Not clipped to anything."""
    low, high = boxes[..., :2], boxes[..., 2:]
    more = (high - low) * ((scale - 1) / 2)
    return np.concatenate([low - more, high + more], axis=-1)


def nms(boxes: np.ndarray, scores: np.ndarray, iou_thresh: float, top_k: int | None = None) -> np.ndarray:
    """Greedy non-maximum suppression.

    Parameters
    ----------
    boxes : (N, 4) array, xyxy
    scores : (N,) array
    iou_thresh : float
        A box goes when its IoU with a better kept one is greater than this.
    top_k : int, optional
        Stop after that many kept boxes.

    Returns
    -------
    (n,) int64 array
        Indices of the kept boxes, best first; of equal scores the earlier box is the better one.
    """
    boxes, scores = _as_boxes(boxes), np.asarray(scores)
    if scores.shape != (len(boxes),):
        raise InputError(f"expected scores of shape ({len(boxes)},), got {scores.shape}")
    order = np.argsort(-scores, kind="stable")
    areas = box_area(boxes)
    keep = []
    while order.size and (top_k is None or len(keep) < top_k):
        best, order = order[0], order[1:]
        keep.append(best)
        overlap = _intersection(boxes[best : best + 1], boxes[order])[0]
        # Multiplied out, so that boxes without area need no special case.
        order = order[overlap <= iou_thresh * (areas[best] + areas[order] - overlap)]
    return np.array(keep, dtype=np.int64)


def soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    method: str = "linear",
    *,
    iou_thresh: float = 0.3,
    sigma: float = 0.5,
    score_thresh: float = 0.001,
    top_k: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Non-maximum suppression that lowers scores instead of removing boxes (Bodla et al., arXiv:1704.04503).

    The best box is kept, those that overlap it lose some of their score, then the next best is kept by the scores as
    they now are. The defaults are those of the paper's sources.

    Parameters
    ----------
    boxes : (N, 4) array, xyxy
    scores : (N,) array
        Not negative.
    method : {"linear", "gaussian"}
        A score is multiplied with 1 - IoU where the IoU is at least `iou_thresh` (the paper's second equation), or with
        exp(-IoU^2 / sigma) (its third).
    iou_thresh : float
        Of "linear".
    sigma : float
        Of "gaussian".
    score_thresh : float
        Boxes whose score is or falls below it go. With "linear" these are at least the exact copies of a kept box,
        whose scores become 0, unless the threshold is 0.
    top_k : int, optional
        Stop after that many kept boxes.

    Returns
    -------
    keep : (n,) int64 array
        Indices of the kept boxes in the order in which they were kept; of equal scores the earlier box is the better.
    lowered : (n,) array
        Their scores, falling.
    """
    boxes, scores = _as_boxes(boxes), np.asarray(scores)
    if method not in SOFT_NMS:
        raise InputError(f"expected a method among {', '.join(SOFT_NMS)}, got {method!r}")
    if scores.shape != (len(boxes),):
        raise InputError(f"expected scores of shape ({len(boxes)},), got {scores.shape}")
    if scores.size and scores.min() < 0:
        raise InputError(f"expected scores that are not negative, got {scores.min()}")
    if not sigma > 0:
        raise InputError(f"expected a sigma above 0, got {sigma}")
    lowered = scores.astype(np.float64)
    areas = box_area(boxes)
    left = np.flatnonzero(lowered >= score_thresh)
    keep = []
    while left.size and (top_k is None or len(keep) < top_k):
        at = lowered[left].argmax()
        best, left = left[at], np.delete(left, at)
        keep.append(best)
        overlap = _intersection(boxes[best : best + 1], boxes[left])[0]
        union = areas[best] + areas[left] - overlap
        iou = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
        lowered[left] *= np.where(iou >= iou_thresh, 1 - iou, 1) if method == "linear" else np.exp(-(iou**2) / sigma)
        left = left[lowered[left] >= score_thresh]
    keep = np.array(keep, dtype=np.int64)
    return keep, lowered[keep].astype(np.result_type(scores.dtype, np.float32), copy=False)


def vote(boxes: np.ndarray, scores: np.ndarray, values: np.ndarray, iou_thresh: float) -> tuple[np.ndarray, np.ndarray]:
    """Non-maximum suppression that averages what it removes (Gidaris and Komodakis, arXiv:1505.01749, section 4).

    Parameters
    ----------
    boxes : (N, 4) array, xyxy
    scores : (N,) array
        Not negative: they are the weights.
    values : (N, D) array
        What is averaged, for example the boxes, or boxes and points side by side.
    iou_thresh : float
        A kept box averages over all boxes whose IoU with it is at least this; the suppression uses the same number.

    Returns
    -------
    keep : (n,) int64 array
        Indices of the kept boxes, best first.
    averaged : (n, D) array
        Score-weighted mean of `values` over the boxes each kept one stands for.
    """
    boxes, scores, values = _as_boxes(boxes), np.asarray(scores, dtype=np.float64), np.asarray(values)
    if values.ndim != 2 or len(values) != len(boxes):
        raise InputError(f"expected values of shape ({len(boxes)}, D), got {values.shape}")
    if scores.size and scores.min() < 0:
        raise InputError(f"expected scores that are not negative, got {scores.min()}")
    keep = nms(boxes, scores, iou_thresh)
    averaged = np.zeros((len(keep), values.shape[1]))
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(boxes)))
    for start in range(0, len(keep), rows):
        chunk = keep[start : start + rows]
        weights = (box_iou(boxes[chunk], boxes) >= iou_thresh) * scores
        # A box always stands for itself, also without area (IoU 0) or with score 0.
        weights[np.arange(len(chunk)), chunk] = np.maximum(scores[chunk], np.finfo(np.float64).tiny)
        averaged[start : start + rows] = weights @ values / weights.sum(axis=1, keepdims=True)
    return keep, averaged.astype(np.result_type(values.dtype, np.float32), copy=False)


def box_vote(boxes: np.ndarray, scores: np.ndarray, iou_thresh: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) and scores (n,) after `vote`, best first; a kept box is the mean of all that overlap it."""
    keep, averaged = vote(boxes, scores, _as_boxes(boxes), iou_thresh)
    return averaged.astype(np.float32), np.asarray(scores)[keep]


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes (..., 4) xyxy in the mirrored image of that width."""
    boxes = np.asarray(boxes)
    flipped = boxes.copy()
    flipped[..., 0] = width - boxes[..., 2]
    flipped[..., 2] = width - boxes[..., 0]
    return flipped


def flip_points(points: np.ndarray, width: float, flip_index: np.ndarray | None = None) -> np.ndarray:
    """Points (..., K, 2) in the mirrored image of that width.

    `flip_index` (K,) exchanges left and right (``SCHEMES["5"].flip_index``); None leaves the order as it is.
    """
    flipped = np.array(points)
    flipped[..., 0] = width - flipped[..., 0]
    return flipped if flip_index is None else flipped[..., flip_index, :]


@dataclass(frozen=True)
class Letterbox:
    """Where a photo lies on the canvas a network sees: canvas = source * scale_xy + offset_xy.

    Parameters
    ----------
    scale_xy : (float, float)
        Exact ratio of the resized to the source size, for each axis.
    offset_xy : (float, float)
        Top left corner of the resized photo on the canvas, pixels.
    canvas_hw, source_hw : (int, int)
        Height and width of both.
    """

    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]
    canvas_hw: tuple[int, int]
    source_hw: tuple[int, int]

    @property
    def resized_hw(self) -> tuple[int, int]:
        """Height and width of the photo on the canvas."""
        return round(self.source_hw[0] * self.scale_xy[1]), round(self.source_hw[1] * self.scale_xy[0])

    def forward_points(self, points: np.ndarray) -> np.ndarray:
        """Source points (..., 2) on the canvas."""
        return np.asarray(points) * self.scale_xy + self.offset_xy

    def inverse_points(self, points: np.ndarray) -> np.ndarray:
        """Canvas points (..., 2) in the source."""
        return (np.asarray(points) - self.offset_xy) / self.scale_xy

    def forward_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Source boxes (..., 4) xyxy on the canvas."""
        boxes = np.asarray(boxes)
        return self.forward_points(boxes.reshape(*boxes.shape[:-1], 2, 2)).reshape(boxes.shape)

    def inverse_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Canvas boxes (..., 4) xyxy in the source."""
        boxes = np.asarray(boxes)
        return self.inverse_points(boxes.reshape(*boxes.shape[:-1], 2, 2)).reshape(boxes.shape)


def letterbox(size_hw: tuple[int, int], canvas_hw: tuple[int, int], upscale: bool = True) -> Letterbox:
    """Fit an image of size_hw into canvas_hw: aspect kept, top left, the rest is padding.

    The resized size is a whole number of pixels, at least 1, so the two scales differ a little; `Letterbox` has the
    exact ones. With ``upscale=False`` a small image keeps its size.
    """
    (height, width), (canvas_height, canvas_width) = size_hw, canvas_hw
    if min(height, width, canvas_height, canvas_width) < 1:
        raise InputError(f"expected sizes of at least 1, got image {tuple(size_hw)} and canvas {tuple(canvas_hw)}")
    scale = min(canvas_height / height, canvas_width / width)
    if not upscale:
        scale = min(scale, 1.0)
    resized_height = min(max(1, round(height * scale)), canvas_height)
    resized_width = min(max(1, round(width * scale)), canvas_width)
    return Letterbox(
        scale_xy=(resized_width / width, resized_height / height),
        offset_xy=(0.0, 0.0),
        canvas_hw=(int(canvas_height), int(canvas_width)),
        source_hw=(int(height), int(width)),
    )


def apply_letterbox(image: np.ndarray, box: Letterbox, pad_value: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """Lay an image (H, W, 3) uint8 on a canvas (h, w, 3) uint8 as `box` says.

    Shrinking averages over areas (no aliasing), enlarging is bilinear; both keep the (0.5, 0.5) convention.
    """
    import cv2

    if image.shape[:2] != box.source_hw:
        raise InputError(f"expected an image of height and width {box.source_hw}, got shape {image.shape}")
    left, top = (int(value) for value in box.offset_xy)
    if (left, top) != tuple(box.offset_xy):
        raise InputError(f"expected an offset of whole pixels, got {box.offset_xy}")
    height, width = box.resized_hw
    resized = image
    if (height, width) != image.shape[:2]:
        shrinks = height < image.shape[0] or width < image.shape[1]
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    canvas = np.empty((*box.canvas_hw, 3), np.uint8)
    canvas[:] = pad_value
    canvas[top : top + height, left : left + width] = resized
    return canvas


def similarity_transform(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift (2, 3) that take points src (K, 2) nearest to dst (K, 2) in the least squares sense.

    Umeyama 1991 without reflection. In the plane that is one complex factor, so no singular value decomposition is
    needed.

    Raises
    ------
    InputError
        Other shapes, fewer than two points, or all of src in one place.
    """
    src, dst = np.asarray(src, dtype=np.float64), np.asarray(dst, dtype=np.float64)
    if src.ndim != 2 or src.shape[1] != 2 or len(src) < 2 or src.shape != dst.shape:
        raise InputError(f"expected two arrays of shape (K, 2) with K >= 2, got {src.shape} and {dst.shape}")
    src_mean, dst_mean = src.mean(axis=0), dst.mean(axis=0)
    (sx, sy), (dx, dy) = (src - src_mean).T, (dst - dst_mean).T
    spread = sx @ sx + sy @ sy
    # "In one place" is relative to where: far from the origin, rounding alone spreads points.
    if not spread > (1e-9 * (1 + np.abs(src).max())) ** 2:
        raise InputError(f"expected points that are apart, got all {len(src)} at about {src_mean.tolist()}")
    a, b = (sx @ dx + sy @ dy) / spread, (sx @ dy - sy @ dx) / spread
    linear = np.array([[a, -b], [b, a]])
    return np.column_stack([linear, dst_mean - linear @ src_mean])


def five_from_boxes(boxes: np.ndarray) -> np.ndarray:
    """Where the five points of upright frontal faces lie in boxes (M, 4) xyxy: (M, 5, 2), see `FIVE_IN_BOX`."""
    boxes = np.asarray(boxes, np.float64)
    return boxes[..., None, :2] + FIVE_IN_BOX * (boxes[..., None, 2:] - boxes[..., None, :2])


def warp_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) under an affine matrix (2, 3)."""
    matrix = np.asarray(matrix)
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """The affine matrix (2, 3) that undoes another; InputError when it flattens the plane."""
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise InputError(f"expected a finite matrix of shape (2, 3), got {matrix.tolist()}")
    try:
        linear = np.linalg.inv(matrix[:, :2])
    except np.linalg.LinAlgError as error:
        raise InputError(f"expected a matrix that can be inverted, got {matrix.tolist()}") from error
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def rotation_matrix_about(center_xy: tuple[float, float], degrees: float, scale: float = 1.0) -> np.ndarray:
    """Affine matrix (2, 3) that turns points about a centre, clockwise as the viewer sees it, and scales."""
    angle = math.radians(degrees)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    center = np.asarray(center_xy, dtype=np.float64)
    return np.column_stack([linear, center - linear @ center])


def warp_image(
    image: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int], border_value: tuple[int, int, int] = (0, 0, 0)
) -> np.ndarray:
    """An image (H, W, 3) uint8 under an affine matrix (2, 3) of continuous coordinates, source to result.

    Bilinear; where the matrix shrinks more than twofold the source is first averaged over areas, so that nothing
    aliases. Outside the source lies `border_value`.

    Returns
    -------
    (h, w, 3) uint8 array of size_hw.
    """
    import cv2

    height, width = size_hw
    matrix = np.asarray(matrix, dtype=np.float64)
    outline = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
    corners = warp_points(invert_affine(matrix), outline)
    # Only the part of the source that is seen: faster, and OpenCV refuses sides beyond 32,767 pixels.
    x1, y1 = (int(low) for low in np.maximum(np.floor(corners.min(axis=0)) - 2, 0))
    x2, y2 = (int(high) for high in np.minimum(np.ceil(corners.max(axis=0)) + 2, image.shape[1::-1]))
    if x1 >= x2 or y1 >= y2:
        return np.full((height, width, 3), border_value, np.uint8)
    # Whole factors per axis: OpenCV averages over whole pixels fifteen times faster than over fractions of them.
    factors = np.floor(1 / np.maximum(np.hypot(*matrix[:, :2]), 1e-9) + 1e-6)
    factor_x, factor_y = (
        max(1, int(factor), math.ceil(side / 32_000)) for factor, side in zip(factors, (x2 - x1, y2 - y1))
    )
    part = image[y1:y2, x1:x2]
    if factor_x > 1 or factor_y > 1:
        missing_y, missing_x = (y1 - y2) % factor_y, (x1 - x2) % factor_x
        if missing_x or missing_y:
            part = cv2.copyMakeBorder(part, 0, missing_y, 0, missing_x, cv2.BORDER_REPLICATE)
        shrunk = part.shape[1] // factor_x, part.shape[0] // factor_y
        part = cv2.resize(part, shrunk, interpolation=cv2.INTER_AREA)
    linear = matrix[:, :2] * (factor_x, factor_y)
    shift = matrix[:, 2] + matrix[:, :2] @ (x1, y1)
    # From continuous to index coordinates: index = continuous - 0.5 on both sides.
    return cv2.warpAffine(
        part,
        np.column_stack([linear, shift + linear.sum(axis=1) * 0.5 - 0.5]),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=tuple(float(value) for value in border_value),
    )


def align_crop(image: np.ndarray, landmarks5: np.ndarray, size: int = 112) -> np.ndarray:
    """The face turned and scaled so that its five points come nearest to `ARCFACE_TEMPLATE_112`.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    landmarks5 : (5, 2) array
        Left eye, right eye, nose, left mouth corner, right mouth corner; left is the viewer's left.
    size : int
        Side of the square crop; the template is scaled with it.

    Returns
    -------
    (size, size, 3) uint8 array, black outside the photo.

    Raises
    ------
    InputError
        All five points lie in one place.
    """
    matrix = similarity_transform(landmarks5, ARCFACE_TEMPLATE_112 * (size / 112))
    return warp_image(image, matrix, (size, size))
