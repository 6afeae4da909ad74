"""ShuffleNet V2: practical guidelines for efficient CNN architecture design (Ma et al., ECCV 2018).

Paper line: section 3, figure 3 (c, d) and table 5; half of the channels pass by a unit untouched, the other half goes
through 1x1, depthwise 3x3 and 1x1, and both are shuffled together.
Data flow: image (B, 3, H, W) -> conv1 and pooling, stride 4 -> stages 2, 3, 4 at strides 8, 16, 32 -> conv5 -> mean
over the map -> logits (B, 1000).
"""

from __future__ import annotations

from .._compat import mx
from ..errors import InputError

__all__ = ["SHUFFLENETS", "STAGE_ENDS", "ShuffleNetV2"]

nn = mx.gluon.nn

#: Channels of stages 2, 3, 4 and of conv5 by width, and the units of each stage (table 5).
WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
UNITS = (4, 8, 4)
#: Channels of conv1 at every width.
STEM = 24
#: Index in ``features`` behind the last unit of stages 2, 3, 4; in front of them stand the four layers of the stem.
STAGE_ENDS = (8, 16, 20)
#: Width by name.
SHUFFLENETS = {f"shufflenetv2_{width}": width for width in WIDTHS}


def _pointwise(channels: int, in_channels: int) -> list:
    """1x1 convolution, BatchNorm, ReLU."""
    return [
        nn.Conv2D(channels, 1, use_bias=False, in_channels=in_channels),
        nn.BatchNorm(in_channels=channels),
        nn.Activation("relu"),
    ]


def _depthwise(channels: int, stride: int) -> list:
    """3x3 convolution of every channel by itself, BatchNorm; no activation (section 3)."""
    return [
        nn.Conv2D(channels, 3, stride, padding=1, groups=channels, use_bias=False, in_channels=channels),
        nn.BatchNorm(in_channels=channels),
    ]


def _joined(F, left, right):
    """Two maps (B, C, h, w) to their shuffled concatenation (B, 2C, h, w): channel c of the first goes to 2c, of the
    second to 2c + 1, which is what transposing the 2 x C channels of a concatenation does.
    """
    return F.stack(left, right, axis=2).reshape((0, -3, 0, 0))


class BasicUnit(nn.HybridBlock):
    """Unit of figure 3 (c): the second half of the channels is computed anew, then all are shuffled.

    Parameters
    ----------
    channels : int
        C in and out, even.
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        half = channels // 2
        with self.name_scope():
            self.branch2 = nn.HybridSequential()
            self.branch2.add(*_pointwise(half, half), *_depthwise(half, 1), *_pointwise(half, half))

    def hybrid_forward(self, F, x):
        """(B, C, h, w) to (B, C, h, w)."""
        kept, changed = F.split(x, num_outputs=2, axis=1)
        return _joined(F, kept, self.branch2(changed))


class DownUnit(nn.HybridBlock):
    """Unit of figure 3 (d), the first of a stage: both branches see all channels and halve the map.

    Parameters
    ----------
    channels : int
        C, even.
    in_channels : int
    """

    def __init__(self, channels: int, in_channels: int, **kwargs):
        super().__init__(**kwargs)
        half = channels // 2
        with self.name_scope():
            # In the order and under the names of the PyTorch packages, whose weights are read in this order.
            self.branch1 = nn.HybridSequential()
            self.branch1.add(*_depthwise(in_channels, 2), *_pointwise(half, in_channels))
            self.branch2 = nn.HybridSequential()
            self.branch2.add(*_pointwise(half, in_channels), *_depthwise(half, 2), *_pointwise(half, half))

    def hybrid_forward(self, F, x):
        """(B, in_channels, h, w) to (B, C, ceil(h / 2), ceil(w / 2))."""
        return _joined(F, self.branch1(x), self.branch2(x))


class ShuffleNetV2(nn.HybridBlock):
    """Classifier with ``features`` and ``output``, as GluonCV's are.

    Parameters
    ----------
    width : float
        A key of ``WIDTHS``.
    classes : int

    Raises
    ------
    InputError
        There is no such width.
    """

    def __init__(self, width: float = 1.0, classes: int = 1000, **kwargs):
        super().__init__(**kwargs)
        if width not in WIDTHS:
            raise InputError(f"ShuffleNetV2: expected width {', '.join(map(str, WIDTHS))}, got {width!r}")
        *stages, last = WIDTHS[width]
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="features_")
            with self.features.name_scope():
                self.features.add(
                    nn.Conv2D(STEM, 3, 2, padding=1, use_bias=False, in_channels=3),
                    nn.BatchNorm(in_channels=STEM),
                    nn.Activation("relu"),
                    nn.MaxPool2D(3, 2, padding=1),
                )
                before = STEM
                for channels, units in zip(stages, UNITS):
                    self.features.add(DownUnit(channels, before))
                    self.features.add(*(BasicUnit(channels) for _ in range(units - 1)))
                    before = channels
                self.features.add(*_pointwise(last, before), nn.GlobalAvgPool2D(), nn.Flatten())
            self.output = nn.Dense(classes, in_units=last)

    def hybrid_forward(self, F, x):
        """Images (B, 3, H, W) to logits (B, classes)."""
        return self.output(self.features(x))
