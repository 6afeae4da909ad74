"""What is seen inside boxes: features of a face from the level of a pyramid that its size asks for, and its points."""

from __future__ import annotations

import math

from .._compat import mx
from .blocks import GroupNorm, conv_block

nn = mx.gluon.nn

#: Side in pixels of a face that belongs to level k0 (FPN's eq. 1; MaskFace eq. 6).
CANONICAL_SIDE = 224
# Pixels beyond the top left corner, more than a cell of any level.
_OFF_THE_MAP = 1e4


def _has_area(F, boxes, axis: int):
    """1 for boxes whose width and height are positive, else 0; not so for NaN."""
    low, high = F.slice_axis(boxes, axis=axis, begin=0, end=2), F.slice_axis(boxes, axis=axis, begin=2, end=4)
    return F.min(high > low, axis=axis, keepdims=True)


def number_boxes(F, boxes):
    """Boxes (B, P, 4) as rows (BP, 5) of image and box, image after image; those without area, which are padding, with
    the image -1.
    """
    real = _has_area(F, boxes, axis=2)
    image = F.broadcast_like(F.contrib.arange_like(boxes, axis=0).reshape((-1, 1, 1)), real)
    return F.concat(F.where(real, image, F.ones_like(image) * -1), boxes, dim=2).reshape((-3, 0))


class WidenBoxes(nn.HybridBlock):
    """Boxes grown about their centre; twin of `gluonface.geometry.widen_boxes`.

    Parameters
    ----------
    scale : float
        Of width and height.
    """

    def __init__(self, scale: float, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def hybrid_forward(self, F, rois):
        """Rows (R, 5) of image and box xyxy to such rows; a box without area stays one."""
        if self.scale == 1:
            return rois
        image = F.slice_axis(rois, axis=1, begin=0, end=1)
        low, high = F.slice_axis(rois, axis=1, begin=1, end=3), F.slice_axis(rois, axis=1, begin=3, end=5)
        more = (high - low) * ((self.scale - 1) / 2)
        return F.concat(image, low - more, high + more, dim=1)


class PyramidRoIAlign(nn.HybridBlock):
    """Features of boxes from a pyramid, each box from the one level of its size (MaskFace eq. 6).

    k = floor(k0 + log2(sqrt(w h) / 224)), kept within the pyramid. All boxes of all images are looked at at once, by
    every level, where those of other levels are moved off the map and give zeros: so the levels' sum is what each box
    has on its own. A selection would give arrays whose length depends on the values, which a graph cannot have; the
    four looks too many are a few thousandths of the keypoint head's multiply-accumulates.

    Boxes are continuous, the first cell's centre at half a cell; four points are averaged for each cell of a box, as in
    maskrcnn-benchmark, which the authors build on.

    Parameters
    ----------
    strides : sequence of int
        Pixels a cell of each level, finest first, powers of 2 in a row.
    side : int
        Cells along each side of a box.
    k0 : float
        Level of a face of 224 pixels; a lower one looks at finer levels.
    """

    def __init__(self, strides, side: int = 14, k0: float = 3, **kwargs):
        super().__init__(**kwargs)
        self.strides, self.side = tuple(strides), side
        first = math.log2(strides[0])
        # From this area on a box belongs to the second, third ... level; so the border needs no rounded logarithm.
        self.areas = [(CANONICAL_SIDE * 2.0 ** (first + n - k0)) ** 2 for n in range(1, len(self.strides))]

    def hybrid_forward(self, F, rois, *maps):
        """Rows (R, 5) of image and box xyxy in pixels of the input, and levels (B, C, h, w), to (R, C, side, side).

        Zeros for a row with the image -1 or a box without area. No gradient reaches the boxes.
        """
        image = F.slice_axis(rois, axis=1, begin=0, end=1)
        boxes = F.slice_axis(rois, axis=1, begin=1, end=5)
        level = self.level(F, boxes)
        # MXNet's own way to leave out a box, the image -1, writes a zero into another box's features on a processor.
        # One without area ends the process there.
        index, real = F.relu(image), (image >= 0) * _has_area(F, boxes, axis=1)
        corner = F.ones_like(F.slice_axis(boxes, axis=1, begin=0, end=2)) * -_OFF_THE_MAP
        away = F.concat(corner, corner + 1, dim=1)
        found = []
        for n, (stride, m) in enumerate(zip(self.strides, maps)):
            own = F.broadcast_like((level == n) * real, boxes)
            found.append(
                F.contrib.ROIAlign(
                    m,
                    F.concat(index, F.where(own, boxes, away), dim=1),
                    pooled_size=(self.side, self.side),
                    spatial_scale=1 / stride,
                    sample_ratio=2,
                    aligned=True,
                )
            )
        return F.add_n(*found)

    def level(self, F, boxes):
        """Boxes (R, 4) to the numbers of their levels (R, 1), from 0, the finest."""
        low, high = F.slice_axis(boxes, axis=1, begin=0, end=2), F.slice_axis(boxes, axis=1, begin=2, end=4)
        size = F.relu(high - low)
        area = F.slice_axis(size, axis=1, begin=0, end=1) * F.slice_axis(size, axis=1, begin=1, end=2)
        return F.add_n(*(area >= least for least in self.areas))


class KeypointHead(nn.HybridBlock):
    """Logits of where in its box each point of a face is (MaskFace section 3.2).

    RoIAlign to 14x14, eight convolutions 3x3, a deconvolution to 28x28, bilinear interpolation to 56x56. A softmax over
    the cells of a map gives probabilities.

    Parameters
    ----------
    channels : int
        C of the levels and the convolutions.
    num_points : int
        K.
    strides : sequence of int
        Of the levels.
    k0 : float
        See `PyramidRoIAlign`.
    roi_scale : float
        What is looked at is the box times this. The paper's 1 asks for boxes that hold all points of a face; 68 points
        with a jaw lie on the border of a box that ends there, and beyond it as soon as it is found a little too small.
    """

    #: Cells along each side of a box: what is cut out of the pyramid, and the heatmaps.
    SIDE, MAP_SIDE = 14, 56
    #: Convolutions 3x3.
    DEPTH = 8

    def __init__(self, channels: int, num_points: int, strides, k0: float = 3, roi_scale: float = 1, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.widen = WidenBoxes(roi_scale)
            self.align = PyramidRoIAlign(strides, self.SIDE, k0)
            self.convs = nn.HybridSequential()
            for _ in range(self.DEPTH):
                self.convs.add(conv_block(channels, 3, in_channels=channels, norm=GroupNorm))
            # Small at first: a point is as likely in any cell.
            self.deconv = nn.Conv2DTranspose(
                num_points, 4, strides=2, padding=1, in_channels=channels, weight_initializer=mx.init.Normal(0.01)
            )

    def hybrid_forward(self, F, rois, *maps):
        """Rows (R, 5) of image and box xyxy in pixels of the input, and levels (B, C, h, w), to logits (R, K, 56, 56).

        Cell (0, 0) of a map is the top left 56th of the box as ``widen`` has it. A row with the image -1 is no face;
        what it gives means nothing.
        """
        heatmaps = self.deconv(self.convs(self.align(self.widen(rois), *maps)))
        return F.contrib.BilinearResize2D(heatmaps, height=self.MAP_SIDE, width=self.MAP_SIDE, align_corners=False)
