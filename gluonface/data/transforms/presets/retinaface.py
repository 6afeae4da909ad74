"""What RetinaFace is trained and tested on: section 4.2 of the paper, and what small and turned faces need besides.

photo -> `RetinaFaceTrainTransform` -> (size, size, 3) uint8 and labels; `RetinaFaceSamples` makes an epoch of them,
mosaics included; `load_test` and `transform_test` are the test presets as GluonCV users know them.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import InputError
from ....facts import IMAGENET_MEAN, IMAGENET_STD
from ....geometry import apply_letterbox, letterbox
from ....image import load_image
from ...base import FaceLabels
from ...store import SampleStore
from ..affine import Affine
from ..ops import SQUARE_CROP_RATIOS, draw_size, mosaic, place, window_with_face
from .view import TrainView, check_shares

if TYPE_CHECKING:
    import mxnet as mx

__all__ = ["RetinaFaceSamples", "RetinaFaceTrainTransform", "load_test", "transform_test"]


@dataclass(frozen=True, kw_only=True)
class RetinaFaceTrainTransform(TrainView):
    """A random view of a photo: a square crop, or a face at a drawn size.

    Parameters
    ----------
    face_prob : float
        Share of views in which a random face of the photo is brought to a drawn size and lies whole at a random place
        (data-anchor sampling, PyramidBox section 3.4). The others are the paper's square crops. 0 is the paper.
    face_sizes : sequence of float, optional
        Sizes to draw from (square root of the box's area in pixels, then up to half an octave off); powers of two from
        16 to what fits into `size` by default.
    face_size_weights : sequence of float, optional
        How often each is drawn; equally often by default.
    crop_ratios : sequence of float
        Side of the square crop as a share of the photo's short side. Above 1 the photo is padded.
    max_upscale : float
        No photo is magnified more than this.
    min_photo : float
        No photo is shrunk so much that its long side is less than this share of the view: the rest would be empty.
        Small faces of large portraits come from mosaics.
    rotate_prob, max_degrees : float
        Probability of a turn, and its largest angle to either side. The paper turns nothing: 0.
    quarter_turn_prob : float
        Probability of a turn by 90, 180 or 270 degrees (added to the one above). The paper: 0.
    size, min_face, max_face, min_visible, flip_prob, photometric, degrade, fill
        See `TrainView`.
    """

    face_prob: float = 0.5
    face_sizes: Sequence[float] | None = None
    face_size_weights: Sequence[float] | None = None
    crop_ratios: Sequence[float] = SQUARE_CROP_RATIOS
    max_upscale: float = 3.0
    min_photo: float = 0.4
    rotate_prob: float = 0.0
    max_degrees: float = 30.0
    quarter_turn_prob: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "face_prob", "rotate_prob", "quarter_turn_prob")
        sizes = self.face_sizes
        if sizes is None:
            sizes = [2.0**k for k in range(4, 10) if 2**k <= 0.85 * self.size] or [self.size / 2]
        weights = np.ones(len(sizes)) if self.face_size_weights is None else np.asarray(self.face_size_weights, float)
        good_sizes = len(sizes) > 0 and min(sizes) > 0
        if not good_sizes or weights.shape != (len(sizes),) or weights.min() < 0 or weights.sum() <= 0:
            raise InputError(
                f"face_sizes must be positive, with one weight each in face_size_weights; "
                f"got {self.face_sizes} and {self.face_size_weights}"
            )
        object.__setattr__(self, "face_sizes", tuple(float(size) for size in sizes))
        object.__setattr__(self, "face_size_weights", tuple(float(w) for w in weights / weights.sum()))

    def plan(
        self,
        photo_hw: tuple[int, int],
        labels: FaceLabels,
        rng: np.random.Generator,
        size_hw: tuple[int, int] | None = None,
    ) -> Affine:
        """Where the view lies on the photo."""
        size_hw = (self.size, self.size) if size_hw is None else size_hw
        turn = self._turn(rng)
        faces = np.flatnonzero(~labels.ignore & (labels.face_sizes > 0))
        if len(faces) and rng.uniform() < self.face_prob:
            face = labels[[int(faces[rng.integers(len(faces))])]]
            drawn = draw_size(self.face_sizes, rng, self.face_size_weights) * max(size_hw) / self.size
            target = min(drawn, 0.9 * min(size_hw))
            scale = max(target / float(face.face_sizes[0]), self.min_photo * max(size_hw) / max(photo_hw))
            return window_with_face(turn * min(self.max_upscale, scale), photo_hw, face, size_hw, rng)
        return self._square_crop(photo_hw, labels.boxes[faces], turn, size_hw, rng)

    def _turn(self, rng: np.random.Generator) -> np.ndarray:
        """(2, 2) mirror and rotation."""
        mirror = rng.uniform() < self.flip_prob
        degrees = 0.0
        if rng.uniform() < self.rotate_prob:
            degrees += rng.uniform(-self.max_degrees, self.max_degrees)
        if rng.uniform() < self.quarter_turn_prob:
            degrees += 90.0 * rng.integers(1, 4)
        # Rounded so that quarter turns are exact.
        cos, sin = round(math.cos(math.radians(degrees)), 12), round(math.sin(math.radians(degrees)), 12)
        return np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])

    def _square_crop(
        self,
        photo_hw: tuple[int, int],
        faces: np.ndarray,
        turn: np.ndarray,
        size_hw: tuple[int, int],
        rng: np.random.Generator,
        attempts: int = 20,
    ) -> Affine:
        """A square of the photo with the centre of a face in it, where `attempts` squares are enough to find one."""
        height, width = photo_hw
        centres = (faces[:, :2].astype(np.float64) + faces[:, 2:]) / 2
        for _ in range(attempts):
            ratio = self.crop_ratios[int(rng.integers(len(self.crop_ratios)))]
            side = max(ratio * min(photo_hw), max(size_hw) / self.max_upscale)
            x = sorted((side / 2, width - side / 2))
            y = sorted((side / 2, height - side / 2))
            middle = rng.uniform(*x), rng.uniform(*y)
            linear = turn * (max(size_hw) / side)
            seen = np.abs((centres - middle) @ linear.T)
            if not len(seen) or (seen < (size_hw[1] / 2, size_hw[0] / 2)).all(axis=1).any():
                break
        return place(linear, middle, (size_hw[1] / 2, size_hw[0] / 2), size_hw)


class RetinaFaceSamples:
    """The views that make a training epoch.

    Item i of an epoch depends on (seed, epoch, i) alone: not on the order in which items are asked for, not on what was
    asked for before, not on the number of workers. A run that is resumed sees what it would have seen.

    Parameters
    ----------
    dataset : FaceJsonLines, SampleStore, or another object with a ``store``
    transform : RetinaFaceTrainTransform
    seed : int
    mosaic_prob : float
        Share of items that are mosaics of several photos, each a view of its own at the size of its tile.
    mosaic_grids : sequence of (int, int)
        Rows and columns, one of them at random.
    source_weights : mapping of str to float, optional
        How often an image of a source occurs in an epoch, 1 for a source that is not named. 2.5 is twice in every epoch
        and a third time for a random half of the images.

    Notes
    -----
    `sample(item, epoch)` is what `gluonface.data.loader.BatchLoader` calls; indexing gives items of the epoch set by
    `set_epoch`, for other loaders.
    """

    def __init__(
        self,
        dataset: Any,
        transform: RetinaFaceTrainTransform,
        *,
        seed: int = 0,
        mosaic_prob: float = 0.0,
        mosaic_grids: Sequence[tuple[int, int]] = ((2, 2),),
        source_weights: Mapping[str, float] | None = None,
    ):
        self.store: SampleStore = getattr(dataset, "store", dataset)
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self.mosaic_prob = mosaic_prob
        self.mosaic_grids = tuple(mosaic_grids)
        sources = [sample.source for sample in self.store.samples]
        weights = dict(source_weights or {})
        if set(weights) - set(sources) or any(not weight >= 0 for weight in weights.values()):
            raise InputError(
                f"source_weights must name sources of the dataset ({', '.join(sorted(set(sources)))}) "
                f"with weights of at least 0, got {weights}"
            )
        self._weights = np.array([weights.get(source, 1.0) for source in sources])
        self._sources = np.array(sources)
        self._indices: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._length = len(self.indices(0))
        if not self._length:
            raise InputError("no images to train on: the dataset is empty or all source_weights are 0")

    def __len__(self) -> int:
        return self._length

    def indices(self, epoch: int) -> np.ndarray:
        """(len(self),) int64: which image of the dataset each item of an epoch starts from."""
        if self._indices[0] != epoch:
            # The last word keeps this stream apart from those of the items, [seed, epoch, item].
            rng = np.random.default_rng([self.seed, epoch, 0, 2])
            whole = np.floor(self._weights).astype(np.int64)
            picked = [np.repeat(np.arange(len(whole)), whole)]
            # The fractional part as a fixed number of images per source, so that all epochs are of one length.
            for source in sorted(set(self._sources)):
                rows = np.flatnonzero(self._sources == source)
                count = round(float(self._weights[rows[0]] % 1) * len(rows))
                picked.append(rng.permutation(rows)[:count])
            self._indices = (epoch, np.concatenate(picked))
        return self._indices[1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose items indexing gives."""
        self.epoch = epoch

    def __getitem__(self, item: int) -> tuple[np.ndarray, FaceLabels]:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        return self.sample(item % len(self), self.epoch)

    def extra_item(self, image: int, copy: int) -> int:
        """The number of an item beside those of every epoch: another view of an image of the dataset.

        Parameters
        ----------
        image : int
            Place in ``store.samples``.
        copy : int
            From 0: which of the other views.
        """
        return len(self) + copy * len(self.store.samples) + image

    def sample(self, item: int, epoch: int, stitched: bool = False) -> tuple[np.ndarray, FaceLabels]:
        """Item of an epoch: (size, size, 3) uint8 RGB and its labels; a mosaic for certain where `stitched`."""
        rng = np.random.default_rng([self.seed, epoch, item])
        indices = self.indices(epoch)
        first = self._image_of(item, indices)
        if rng.uniform() >= self.mosaic_prob and not stitched:
            return self.transform(*self.store.read(first), rng)
        rows, columns = self.mosaic_grids[int(rng.integers(len(self.mosaic_grids)))]
        others = indices[rng.integers(len(indices), size=rows * columns - 1)]
        heights = _split(self.transform.size, rows)
        widths = _split(self.transform.size, columns)
        tiles = []
        for place_on_grid, index in enumerate(rng.permutation([first, *others])):
            row, column = divmod(place_on_grid, columns)
            image, labels = self.store.read(int(index))
            tiles.append(self.transform(image, labels, rng, (heights[row], widths[column])))
        return mosaic(tiles, rows, columns)

    def _image_of(self, item: int, indices: np.ndarray) -> int:
        if item < len(indices):
            return int(indices[item])
        return (item - len(indices)) % len(self.store.samples)

    def describe(self, item: int, epoch: int) -> str:
        """Which image an item starts from, for messages."""
        return self.store.samples[self._image_of(item, self.indices(epoch))].image_path


def _split(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most."""
    edges = [round(total * i / parts) for i in range(parts + 1)]
    return [b - a for a, b in itertools.pairwise(edges)]


def transform_test(
    imgs: Any,
    size: int = 640,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    multiple: int = 32,
) -> tuple[mx.nd.NDArray, np.ndarray] | tuple[list[mx.nd.NDArray], list[np.ndarray]]:
    """Images as input of the network, as GluonCV's ``transform_test``.

    Parameters
    ----------
    imgs : NDArray or array (H, W, 3) RGB, or an iterable of them
    size : int
        Long side in pixels after resizing; the aspect is kept.
    mean, std : three floats
        The network sees ``(rgb / 255 - mean) / std``. Take them from ``net.facts``.
    multiple : int
        Black is added at the right and below until both sides are multiples of this.

    Returns
    -------
    (x, image) or (list of x, list of image)
        x is an NDArray (1, 3, h, w) float32; image the resized photo (H', W', 3) uint8 without padding, in whose pixels
        the network's boxes are.
    """
    from ...._compat import mx  # here, so that worker processes, which import this module, do without MXNet

    if isinstance(imgs, (mx.nd.NDArray, np.ndarray)):
        imgs = [imgs]
    tensors, images = [], []
    for img in imgs:
        image = load_image(img.asnumpy() if isinstance(img, mx.nd.NDArray) else np.asarray(img))
        height, width = (max(1, round(side * size / max(image.shape[:2]))) for side in image.shape[:2])
        canvas_hw = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        fitted = letterbox(image.shape[:2], (height, width))
        image = apply_letterbox(image, fitted)
        canvas = np.zeros((*canvas_hw, 3), np.uint8)
        canvas[:height, :width] = image
        x = (canvas.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        tensors.append(mx.nd.array(x.transpose(2, 0, 1)[None]))
        images.append(image)
    return (tensors[0], images[0]) if len(tensors) == 1 else (tensors, images)


def load_test(
    filenames: str | os.PathLike | Iterable[str | os.PathLike],
    size: int = 640,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    multiple: int = 32,
) -> tuple[mx.nd.NDArray, np.ndarray] | tuple[list[mx.nd.NDArray], list[np.ndarray]]:
    """Image files as input of the network, as GluonCV's ``load_test``; arguments and result of `transform_test`."""
    if isinstance(filenames, (str, os.PathLike)):
        filenames = [filenames]
    return transform_test([load_image(name) for name in filenames], size, mean, std, multiple)
