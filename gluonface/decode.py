"""NumPy decoders: what a network says about its anchors, in pixels.

Every function here has a HybridBlock twin in :mod:`gluonface.nn` (``anchors.py``, ``coder.py``) and a test that the two
agree. Letters: N anchors, K landmarks, A anchors per cell, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["AnchorSpec", "anchors_for", "decode_boxes", "decode_points", "encode_boxes", "encode_points"]


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
