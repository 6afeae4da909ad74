"""Boxes of faces from their points (KPNet: "the precise face boxes, no matter how we define it, can be inferred").
NumPy only.

A data set's convention (forehead or not, tight or roomy) is a mapping from points to boxes that is fitted to its labels
with `fit_box_mapping`. It is linear where the face is upright and of unit size:

    points --(their own similarity)--> upright points q --(affine)--> centre, squared width and height --> box

So boxes follow their face under shifts, changes of size and turns by quarters exactly. A box has upright sides, a head
tilted by another angle has not: its box is that of the ellipse with the upright box's axes, tilted with it, which at 0
and 90 degrees is the box itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DataError, InputError
from .faces import SCHEMES
from .geometry import FIVE_IN_BOX, HEATMAP_TEMPLATE

__all__ = ["BOX_STYLES", "BoxMapping", "boxes_from_points", "default_box_mapping", "fit_box_mapping"]

#: "corpus": by a mapping. "tight": the rectangle round the points. "square": the square about that rectangle's centre
#: with its longer side.
BOX_STYLES = ("corpus", "tight", "square")

# Of the mean squared deviation of upright points from their mean, what is added to keep dense points, which move
# together, from having large opposite weights.
_RIDGE = 1e-2
_TURNS = 5


@dataclass(frozen=True, eq=False)
class BoxMapping:
    """Numbers of a mapping from K points to a box.

    With points as complex numbers z = x + iy, the face's place is g = sum of u z and its size and turn S = sum of a z;
    upright points are q = (z - g) / S.

    Attributes
    ----------
    frame : (K, 3) array
        u, and real and imaginary part of a: u adds up to 1, a to 0.
    weights : (2K + 1, 4) array
        From all x of q, all y of q and 1 to centre x, y of the box, and its width and height squared, upright in units
        of |S|.

    Raises
    ------
    InputError
        Other shapes, numbers that are not finite, or sums that are not 1 and 0.
    """

    frame: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        frame, weights = np.asarray(self.frame, np.float64), np.asarray(self.weights, np.float64)
        if frame.ndim != 2 or frame.shape[1:] != (3,) or weights.shape != (2 * len(frame) + 1, 4):
            raise InputError(
                f"expected a frame of shape (K, 3) and weights (2K + 1, 4), got {frame.shape} and {weights.shape}"
            )
        if not (np.isfinite(frame).all() and np.isfinite(weights).all()):
            raise InputError("expected finite numbers in a box mapping")
        if not np.allclose(frame.sum(axis=0), (1, 0, 0), atol=1e-4):
            raise InputError(f"expected the columns of a frame to add up to 1, 0, 0, got {frame.sum(axis=0).tolist()}")
        object.__setattr__(self, "frame", frame)
        object.__setattr__(self, "weights", weights)

    @property
    def num_points(self) -> int:
        """K."""
        return len(self.frame)

    def to_dict(self) -> dict:
        """The numbers as JSON has them."""
        return {"frame": self.frame.tolist(), "weights": self.weights.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping) -> BoxMapping:
        """The mapping that `to_dict` gave; InputError for other keys or values."""
        if not isinstance(values, Mapping) or set(values) != {"frame", "weights"}:
            raise InputError(f"expected a box mapping with the keys frame and weights, got {values!r:.80}")
        try:
            return cls(np.array(values["frame"], np.float64), np.array(values["weights"], np.float64))
        except (TypeError, ValueError) as error:
            raise InputError(f"expected rows of numbers in a box mapping: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> BoxMapping:
        """The mapping in a file of train/fit_box_mapping.py.

        Raises
        ------
        DataError
            The file cannot be read or holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, InputError) as error:
            raise DataError(f"{path}: expected a file of train/fit_box_mapping.py ({error})") from error


def _complex(points: np.ndarray) -> np.ndarray:
    return points[..., 0] + 1j * points[..., 1]


def _frame_of(shape: np.ndarray) -> np.ndarray:
    """The frame (K, 3) in which points (K, 2) of this shape lie about 0 as they are, and others as near as a similarity
    brings them.
    """
    z = _complex(shape - shape.mean(axis=0))
    axis = z.conj() / (np.abs(z) ** 2).sum()
    return np.stack([np.full(len(shape), 1 / len(shape)), axis.real, axis.imag], axis=1)


def _upright(points: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of points (..., K, 2): upright ones (..., K), complex, the place (...) and the size and turn (...)."""
    z = _complex(np.asarray(points, np.float64))
    place, turn = z @ frame[:, 0], z @ (frame[:, 1] + 1j * frame[:, 2])
    return (z - place[..., None]) / np.where(turn == 0, 1, turn)[..., None], place, turn


def default_box_mapping(num_points: int = 5) -> BoxMapping:
    """The mapping of boxes as detectors trained on WIDER FACE draw them, where none was fitted.

    From five points, or from those that dense ones stand for: the mean face (`gluonface.geometry.HEATMAP_TEMPLATE`) and
    its place in a box (`gluonface.geometry.FIVE_IN_BOX`), of constant shape.

    Raises
    ------
    InputError
        There is no scheme of so many points.
    """
    if str(num_points) not in SCHEMES:
        raise InputError(f"expected a number of points among {', '.join(SCHEMES)}, got {num_points}")
    five = SCHEMES[str(num_points)].five
    means = np.zeros((5, num_points))
    for row, part in zip(means, five):
        row[list(part)] = 1 / len(part)
    face = HEATMAP_TEMPLATE - HEATMAP_TEMPLATE.mean(axis=0)
    # Along each axis: the box's low end and size that put the five points where they are in it.
    (low_x, width), (low_y, height) = (
        np.linalg.lstsq(np.stack([np.ones(5), FIVE_IN_BOX[:, i]], axis=1), face[:, i], rcond=None)[0] for i in (0, 1)
    )
    weights = np.zeros((2 * num_points + 1, 4))
    weights[-1] = low_x + width / 2, low_y + height / 2, width**2, height**2
    return BoxMapping(means.T @ _frame_of(face), weights)


def fit_box_mapping(
    points: np.ndarray, boxes: np.ndarray, flip_index: np.ndarray | None = None, ridge: float = _RIDGE
) -> BoxMapping:
    """Fit a mapping to labelled faces, by least squares of what is relative to the box.

    Parameters
    ----------
    points : (n, K, 2) array
        In any pixels, each face's those of its box; upright or tilted.
    boxes : (n, 4) array
        xyxy.
    flip_index : (K,) array, optional
        Order of the mirrored points (``SCHEMES[...].flip_index``): makes the mapping symmetric.
    ridge : float
        See `_RIDGE`; 0 is plain least squares.

    Returns
    -------
    BoxMapping

    Raises
    ------
    InputError
        Other shapes, no face, numbers that are not finite, boxes without area, or a face whose points are all in one
        place.
    """
    points, boxes = np.asarray(points, np.float64), np.asarray(boxes, np.float64)
    if points.ndim != 3 or points.shape[2] != 2 or boxes.shape != (len(points), 4) or not len(points):
        raise InputError(f"expected points (n, K, 2) and boxes (n, 4) of faces, got {points.shape} and {boxes.shape}")
    sides = boxes[:, 2:] - boxes[:, :2]
    centred = points - points.mean(axis=1, keepdims=True)
    wrong = ~(np.isfinite(points).all(axis=(1, 2)) & np.isfinite(boxes).all(axis=1) & (sides > 0).all(axis=1))
    wrong |= ~(np.abs(centred) > 0).any(axis=(1, 2))
    if wrong.any():
        raise InputError(f"face {int(wrong.argmax())}: expected finite points that are apart, and a box with an area")
    if flip_index is not None:
        points = np.concatenate([points, points[:, flip_index] * (-1, 1)])
        boxes = np.concatenate([boxes, boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1)])
        sides, centred = np.tile(sides, (2, 1)), points - points.mean(axis=1, keepdims=True)
    # The mean shape, to which every face is turned and scaled in turns. It starts upright, by the eyes, nose and mouth
    # of a known scheme, by the boxes of another, and stays so.
    shape = (centred / sides.mean(axis=1)[:, None, None]).mean(axis=0)
    if str(points.shape[1]) in SCHEMES:
        q = _upright(points, default_box_mapping(points.shape[1]).frame)[0].mean(axis=0)
        shape = np.stack([q.real, q.imag], axis=1)
    for _ in range(_TURNS):
        q = _upright(points, _frame_of(shape))[0].mean(axis=0)
        shape = np.stack([q.real, q.imag], axis=1) / np.sqrt((np.abs(q) ** 2).mean())
    frame = _frame_of(shape)
    q, place, turn = _upright(points, frame)
    told = np.concatenate([q.real, q.imag], axis=1)
    mean = told.mean(axis=0)
    told, size = told - mean, np.abs(turn)
    told_and_one = np.concatenate([told, np.ones((len(told), 1))], axis=1)
    # Faces that are all alike vary by rounding alone, from which nothing is to be learnt.
    damping = np.append(np.full(len(mean), np.sqrt(ridge * len(told) * ((told**2).mean() + 1e-9))), 0)

    centre = (_complex((boxes[:, :2] + boxes[:, 2:]) / 2) - place) / turn
    one = size / np.sqrt(sides[:, 0] * sides[:, 1])
    of_centre = _least_squares(told_and_one, np.stack([centre.real, centre.imag], axis=1), one, damping)
    # Width and height of the box, squared, are those of the ellipse: see the top of the file.
    squared = (sides / size[:, None]) ** 2
    cos, sin = (turn.real / size)[:, None] ** 2, (turn.imag / size)[:, None] ** 2
    rows = np.concatenate(
        [
            np.concatenate([cos * told_and_one, sin * told_and_one], axis=1),
            np.concatenate([sin * told_and_one, cos * told_and_one], axis=1),
        ]
    )
    both = squared.T.reshape(-1)
    of_size = _least_squares(rows, both[:, None], 1 / both, np.tile(damping, 2)).reshape(2, -1).T
    weights = np.concatenate([of_centre, of_size], axis=1)
    weights[-1] -= mean @ weights[:-1]
    return BoxMapping(frame, weights)


def _least_squares(rows: np.ndarray, targets: np.ndarray, importance: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Weights (D, T) from rows (n, D) to targets (n, T), each row's error counted by its importance (n,)."""
    damped = np.concatenate([rows * importance[:, None], np.diag(damping)])
    wanted = np.concatenate([targets * importance[:, None], np.zeros((len(damping), targets.shape[1]))])
    return np.linalg.lstsq(damped, wanted, rcond=None)[0]


def boxes_from_points(points: np.ndarray, mapping: BoxMapping | None = None, style: str = "corpus") -> np.ndarray:
    """Boxes of faces from their points; twin of :class:`gluonface.nn.keypoints.BoxesFromPoints`.

    Parameters
    ----------
    points : (..., K, 2) array
    mapping : BoxMapping, optional
        For style "corpus"; `default_box_mapping` where there is none.
    style : str
        One of `BOX_STYLES`.

    Returns
    -------
    (..., 4) array
        xyxy in the points' pixels; without area where a face's points are all in one place.

    Raises
    ------
    InputError
        Unknown style, or a mapping for another number of points.
    """
    points = np.asarray(points, np.float64)
    if style not in BOX_STYLES:
        raise InputError(f"expected a box style among {', '.join(BOX_STYLES)}, got {style!r}")
    if points.ndim < 2 or points.shape[-1] != 2:
        raise InputError(f"expected points of shape (..., K, 2), got {points.shape}")
    if style == "corpus":
        mapping = default_box_mapping(points.shape[-2]) if mapping is None else mapping
        if mapping.num_points != points.shape[-2]:
            raise InputError(f"expected {mapping.num_points} points of a face, got shape {points.shape}")
        q, place, turn = _upright(points, mapping.frame)
        told = np.concatenate([q.real, q.imag, np.ones((*q.shape[:-1], 1))], axis=-1) @ mapping.weights
        centre = place + turn * _complex(told[..., :2])
        u, v = np.moveaxis(np.maximum(told[..., 2:], 0), -1, 0)
        along, across = turn.real**2, turn.imag**2
        half = np.stack([np.sqrt(along * u + across * v), np.sqrt(across * u + along * v)], axis=-1) / 2
        centre = np.stack([centre.real, centre.imag], axis=-1)
    else:
        low, high = points.min(axis=-2), points.max(axis=-2)
        centre, half = (low + high) / 2, (high - low) / 2
        if style == "square":
            half = np.broadcast_to(half.max(axis=-1, keepdims=True), half.shape)
    return np.concatenate([centre - half, centre + half], axis=-1)
