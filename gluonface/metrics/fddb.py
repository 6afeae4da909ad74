"""The official FDDB protocol: ellipses, matching of largest total overlap, discrete and continuous score, ROC.

FDDB, Jain and Learned-Miller, UMass Amherst 2010; the program published with it is followed step by step. Regions are
sets of pixels of the photo: what lies beyond its border does not count. At every score threshold the detections and
faces of a photo are matched anew, so that the sum of their intersections over union is largest. A pair counts 1
(discrete) when it overlaps by more than 0.5, or as much as it overlaps (continuous); a detection without a pair of more
than 0.5 is a false positive, for both. The ROC curve has the share of faces over the number of false positives in the
whole set, not over their rate; the ten folds are taken together.

Regions are painted as the program paints them (OpenCV; whole-number half-axes, angles in whole degrees), so its figures
come out, not those of exact geometry: all 4,572 points of the published curves of three detectors are the same. From
the exact overlap a painted one differs by .006 on average and .02 at most with faces of 80 pixels, by .011 and .04 with
30 pixels, up as often as down.

A rectangle cannot fit an ellipse: the smallest one round it overlaps it by pi / 4 = .785, the best one, 9 % smaller, by
.837. Overlaps of .7 and .8 (KPNet, Table 2) say little of rectangles, therefore; ellipses in the boxes (`Regions.of`),
or rectangles in place of the annotated ellipses, compare like with like. KPNet does not say which it took.

Letters: N detections and M faces of one photo; n thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .._compat import import_optional
from ..errors import InputError
from ..faces import Faces
from .curves import tie_ends

__all__ = [
    "FALSE_POSITIVES",
    "FddbMatch",
    "FddbRoc",
    "Regions",
    "ellipses_in_boxes",
    "fddb_roc",
    "match_fddb",
    "region_iou",
    "summarize_fddb",
]

#: Numbers of false positives at which papers give the recall (KPNet: 50, and 1 in its error analysis).
FALSE_POSITIVES = (1, 50, 1000, 2000)


@dataclass(frozen=True, eq=False)
class Regions:
    """The detections of one photo as the protocol takes them.

    Parameters
    ----------
    regions : ndarray (N, 4) or (N, 5)
        Rectangles x1, y1, x2, y2, or ellipses: major and minor half-axis in pixels, angle of the major axis in radians,
        clockwise from the x axis, centre x, y. Continuous pixels.
    scores : ndarray (N,)

    Raises
    ------
    InputError
        The arrays do not fit one another, or hold what is no number.
    """

    regions: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        regions, scores = _checked(self.regions), np.asarray(self.scores, np.float64)
        if scores.shape != regions.shape[:1] or not np.isfinite(scores).all():
            raise InputError(f"expected a finite score for each of {len(regions)} regions, got {scores.shape} scores")
        object.__setattr__(self, "regions", regions)
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of(cls, faces: Faces, shape: str = "rectangle") -> Regions:
        """Detected faces.

        Parameters
        ----------
        faces : Faces
        shape : str
            "rectangle" : their boxes. "ellipse" : `ellipses_in_boxes`, which is fairer to a detector that draws its
            boxes round the ellipses.
        """
        if shape not in ("rectangle", "ellipse"):
            raise InputError(f'expected the shape "rectangle" or "ellipse", got {shape!r}')
        return cls(faces.boxes if shape == "rectangle" else ellipses_in_boxes(faces.boxes), faces.scores)


def ellipses_in_boxes(boxes: np.ndarray) -> np.ndarray:
    """The upright ellipses (N, 5) inscribed in boxes (N, 4) xyxy: their smallest rectangle is the box."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    tall = half[:, 1] > half[:, 0]
    angle = np.where(tall, np.pi / 2, 0)
    return np.column_stack([half.max(axis=1), half.min(axis=1), angle, (boxes[:, :2] + boxes[:, 2:]) / 2])


def _checked(regions: np.ndarray) -> np.ndarray:
    regions = np.asarray(regions, np.float64)
    if regions.ndim != 2 or regions.shape[1] not in (4, 5) or not np.isfinite(regions).all():
        raise InputError(
            f"expected finite rectangles (N, 4) or ellipses (N, 5), got an array of the shape {regions.shape}"
        )
    return regions


# A region as pixels: a mask (h, w) of 0 and 1, and where its upper left pixel lies in the photo.
_Painted = tuple[np.ndarray, int, int]


def _pixel_ranges(regions: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """First and last column and row (N, 4) of rectangles, or that an ellipse may have, clipped to the photo.

    As x1, y1, x2, y2, the last two inclusive; a region outside the photo has a last one before the first.
    """
    if regions.shape[1] == 4:
        # From pixel index to continuous pixel and back: a rectangle that ends at index i covers [..., i + 1].
        ends = np.rint(np.concatenate([regions[:, :2], regions[:, 2:] - 1], axis=1)).astype(np.int64)
        ends = np.concatenate([np.minimum(ends[:, :2], ends[:, 2:]), np.maximum(ends[:, :2], ends[:, 2:])], axis=1)
    else:
        centre = np.rint(regions[:, 3:] - 0.5)
        reach = np.ceil(regions[:, :1]) + 2
        ends = np.concatenate([centre - reach, centre + reach], axis=1).astype(np.int64)
    height, width = size_hw
    ends[:, :2] = np.maximum(ends[:, :2], 0)
    ends[:, 2:] = np.minimum(ends[:, 2:], [width - 1, height - 1])
    return ends


def _paint(region: np.ndarray, pixels: np.ndarray) -> _Painted:
    x1, y1, x2, y2 = (int(end) for end in pixels)
    shape = max(y2 - y1 + 1, 0), max(x2 - x1 + 1, 0)
    if len(region) == 4:
        return np.ones(shape, np.uint8), x1, y1
    mask = np.zeros(shape, np.uint8)
    if mask.size:
        import cv2

        major, minor, angle, x, y = region
        centre = int(np.rint(x - 0.5)) - x1, int(np.rint(y - 0.5)) - y1
        cv2.ellipse(mask, centre, (int(major), int(minor)), float(np.degrees(angle)), 0, 360, 1, -1)
    return mask, x1, y1


def region_iou(a: np.ndarray, b: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Intersection over union (N, M) of painted regions.

    Parameters
    ----------
    a : ndarray (N, 4) or (N, 5)
        As in `Regions`.
    b : ndarray (M, 4) or (M, 5)
    size_hw : (int, int)
        Height and width of the photo, beyond which nothing is painted.

    Raises
    ------
    InputError
        Other shapes.
    """
    a, b = _checked(a), _checked(b)
    overlap = np.zeros((len(a), len(b)))
    if not overlap.size:
        return overlap
    ranges_a, ranges_b = _pixel_ranges(a, size_hw), _pixel_ranges(b, size_hw)
    low = np.maximum(ranges_a[:, None, :2], ranges_b[None, :, :2])
    meet = (np.minimum(ranges_a[:, None, 2:], ranges_b[None, :, 2:]) >= low).all(axis=2)
    painted_b = [_paint(*pair) for pair in zip(b, ranges_b)]
    area_b = [int(np.count_nonzero(mask)) for mask, *_ in painted_b]
    for i in np.flatnonzero(meet.any(axis=1)):
        mask_a, left_a, top_a = _paint(a[i], ranges_a[i])
        area_a = int(np.count_nonzero(mask_a))
        for j in np.flatnonzero(meet[i]):
            mask_b, left_b, top_b = painted_b[j]
            left, top = low[i, j]
            part_a = mask_a[top - top_a :, left - left_a :]
            part_b = mask_b[top - top_b :, left - left_b :]
            h, w = min(len(part_a), len(part_b)), min(part_a.shape[1], part_b.shape[1])
            both = int(np.count_nonzero(part_a[:h, :w] & part_b[:h, :w]))
            overlap[i, j] = both / max(area_a + area_b[j] - both, 1)
    return overlap


@dataclass(frozen=True, eq=False)
class FddbMatch:
    """The matchings of one photo, one for each distinct score of its detections.

    Attributes
    ----------
    scores : ndarray (n,)
        Highest first.
    taken : ndarray of int (n,)
        Detections of at least that score.
    overlaps : ndarray (n, M)
        How much each face overlaps its detection then, 0 where it has none.
    """

    scores: np.ndarray
    taken: np.ndarray
    overlaps: np.ndarray


def match_fddb(detections: Regions, truth: np.ndarray, size_hw: tuple[int, int]) -> FddbMatch:
    """Match the detections of one photo with its faces, at every score threshold.

    Parameters
    ----------
    detections : Regions
    truth : ndarray (M, 5) or (M, 4)
        The annotated ellipses (`gluonface.data.fddb.ellipses_of`); rectangles in their place leave the protocol.
    size_hw : (int, int)
        Height and width of the photo.

    Raises
    ------
    InputError
        The arrays have other shapes.
    MissingDependencyError
        SciPy is not installed.
    """
    assign = import_optional("scipy.optimize", "bench").linear_sum_assignment
    order = np.argsort(-detections.scores, kind="stable")
    scores = detections.scores[order]
    overlap = region_iou(detections.regions[order], truth, size_hw)
    touching = overlap.any(axis=1)
    ends = tie_ends(scores)
    rows = np.zeros((len(ends), overlap.shape[1]))
    last, before = np.zeros(overlap.shape[1]), 0
    for step, end in enumerate(ends):
        if touching[before : end + 1].any():  # what overlaps no face changes no matching
            taken = np.flatnonzero(touching[: end + 1])
            which, faces = assign(overlap[taken], maximize=True)
            last = np.zeros_like(last)
            last[faces] = overlap[taken[which], faces]
        rows[step], before = last, end + 1
    return FddbMatch(scores[ends], ends + 1, rows)


@dataclass(frozen=True, eq=False)
class FddbRoc:
    """The curves of a set of photos.

    Attributes
    ----------
    thresholds : ndarray (n,)
        Distinct scores, highest first.
    false_positives : ndarray of int (n,)
        In the whole set.
    discrete, continuous : ndarray (n,)
        True positive rates: shares of the faces.
    faces : int
    """

    thresholds: np.ndarray
    false_positives: np.ndarray
    discrete: np.ndarray
    continuous: np.ndarray
    faces: int

    def at(self, false_positives: int) -> tuple[float, float]:
        """Discrete and continuous rate at the lowest threshold with at most so many false positives.

        (0, 0) where even the highest has more. Where the detections end before, the rates of all of them.
        """
        allowed = np.flatnonzero(self.false_positives <= false_positives)
        return (float(self.discrete[allowed[-1]]), float(self.continuous[allowed[-1]])) if len(allowed) else (0.0, 0.0)


def fddb_roc(matches: Iterable[FddbMatch], iou_thresh: float = 0.5) -> FddbRoc:
    """The curves of photos; KPNet's figures on profile faces take thresholds of 0.7 and 0.8 in place of 0.5."""
    matches = list(matches)
    faces = sum(match.overlaps.shape[1] for match in matches)
    # How the counts of a photo change at each of its scores; the set's counts are the sums over higher scores.
    changes = [np.zeros((0, 3))]
    for match in matches:
        right, total = (match.overlaps > iou_thresh).sum(axis=1), match.overlaps.sum(axis=1)
        changes.append(np.diff(np.column_stack([match.taken, right, total]), axis=0, prepend=0))
    scores = np.concatenate([np.zeros(0), *[match.scores for match in matches]])
    order = np.argsort(-scores, kind="stable")
    ends = tie_ends(scores[order])
    taken, right, total = np.cumsum(np.concatenate(changes)[order], axis=0)[ends].T
    wrong = np.rint(taken - right).astype(np.int64)
    return FddbRoc(scores[order][ends], wrong, right / max(faces, 1), total / max(faces, 1), faces)


def summarize_fddb(roc: FddbRoc, false_positives: Sequence[int] = FALSE_POSITIVES) -> dict[str, float]:
    """Figures of a curve.

    Returns
    -------
    dict
        For each number n of false positives ``recall_at_<n>fp`` and ``continuous_at_<n>fp``; ``recall``, that of all
        detections, and ``false_positives``, how many of them are.
    """
    result = {}
    for n in false_positives:
        result[f"recall_at_{n}fp"], result[f"continuous_at_{n}fp"] = roc.at(n)
    some = len(roc.thresholds) > 0
    return {
        **result,
        "recall": float(roc.discrete[-1]) if some else 0.0,
        "false_positives": int(roc.false_positives[-1]) if some else 0,
    }
