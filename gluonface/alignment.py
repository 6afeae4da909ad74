"""`LandmarkPredictor`: faces in photos to dense landmarks, by way of aligned crops.

Data flow: photo and five points -> similarity transform to the net's template -> crop (size, size, 3) uint8 -> x (B, 3,
size, size) -> net -> points in the crop -> inverse transform -> landmarks (n, K, 2) in pixels of the photo.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from ._compat import mx
from .decode import decode_heatmaps
from .errors import InputError
from .faces import SCHEMES, Faces
from .geometry import five_from_boxes, invert_affine, similarity_transform, warp_image, warp_points
from .model_zoo import ModelFacts, get_model

__all__ = ["FLIPS", "LandmarkPredictor", "align_faces", "context_of", "normalise"]

#: How far off a crop may be, in shares of its side, before another one is made ("auto" passes). Training turns, scales
#: and shifts crops by about as much; beyond it the error grows.
REALIGN_FROM = 0.03

#: What is averaged over a crop and its mirror image.
FLIPS = ("none", "points", "heatmaps")


def normalise(image: np.ndarray, facts: ModelFacts, out: np.ndarray) -> np.ndarray:
    """An image (h, w, 3) uint8 RGB as a network wants it, written into ``out`` (3, h, w) float32."""
    # One look-up a pixel: a tenth of the time of the arithmetic.
    levels = np.arange(256, dtype=np.float64) / 255
    for plane, mean, std, target in zip(cv2.split(image), facts.mean, facts.std, out):
        target[...] = cv2.LUT(plane, ((levels - mean) / std).astype(np.float32)[None])
    return out


def context_of(net) -> mx.Context:
    """Where a net runs: where its parameters are, the CPU when it has none; InputError when it is not initialised."""
    for parameter in net.collect_params().values():
        try:
            return parameter.list_ctx()[0]
        except RuntimeError as error:
            raise InputError(
                f"expected a net with parameters, but {parameter.name} is not initialised: load weights "
                "(pretrained=True, net.load_parameters) or call net.initialize()"
            ) from error
    return mx.cpu()


def align_faces(five: np.ndarray, facts: ModelFacts) -> np.ndarray:
    """Similarity transforms (n, 2, 3) from photos to crops for five points (n, 5, 2) in pixels of their photos.

    Raises
    ------
    InputError
        Five points lie in one place.
    """
    template = np.asarray(facts.template) * facts.size
    matrices = [similarity_transform(points, template) for points in np.asarray(five, np.float64)]
    return np.stack(matrices) if matrices else np.zeros((0, 2, 3))


class LandmarkPredictor:
    """Finds the dense landmarks of faces that are known by five points or by a box.

    Parameters
    ----------
    net : str or LandmarkNet
        A name from `list_models`, whose weights are loaded, or a net.
    ctx : mx.Context, optional
        Where a named net runs (CPU by default); a given net runs where its parameters are.
    flip : {"none", "points", "heatmaps"}
        Test-time averaging over each crop and its mirror image, of points or of heatmaps: twice the time.
    passes : int or "auto"
        Crops of each face, each from the points that were found in the one before. "auto": a second one for the faces
        whose first one was off by more than `REALIGN_FROM`, such as those known by a box alone.
    batch_size : int
        Crops that go through the network at once, from as many photos as it takes.
    root : path, optional
        Folder of weights of your own, searched before the package's.

    Raises
    ------
    ModelNotFoundError, WeightsError
        From loading a named net.
    InputError
        An argument is out of range, or not a landmark net.
    """

    def __init__(
        self,
        net: str | mx.gluon.HybridBlock,
        *,
        ctx: mx.Context | None = None,
        flip: str = "none",
        passes: int | str = "auto",
        batch_size: int = 32,
        root: str | os.PathLike | None = None,
    ):
        if flip not in FLIPS:
            raise InputError(f"expected flip to be one of {', '.join(FLIPS)}, got {flip!r}")
        if batch_size < 1 or (passes != "auto" and not (isinstance(passes, int) and passes >= 1)):
            raise InputError(
                f'expected batch_size and passes of at least 1, or passes="auto", got {batch_size} and {passes!r}'
            )
        if isinstance(net, str):
            net = get_model(net, pretrained=True, ctx=ctx, root=root)
            if net.facts.task == "landmarks":
                net.hybridize()
        task = getattr(getattr(net, "facts", None), "task", None)
        if task != "landmarks":
            raise InputError(f"expected a landmark net, such as heatmap_*, got {_describe(net)}")
        self.net, self.flip, self.passes, self.batch_size = net, flip, passes, batch_size
        self._flip_index = SCHEMES[net.scheme].flip_index

    @property
    def facts(self) -> ModelFacts:
        """Of the net."""
        return self.net.facts

    @property
    def ctx(self) -> mx.Context:
        """Where the net runs."""
        return context_of(self.net)

    def __call__(self, images: Sequence[np.ndarray], faces: Sequence[Faces]) -> list[Faces]:
        """`Faces` with the dense landmarks added.

        Faces are aligned by their five points where they have them and these are not all in one place, else by their
        box.

        Parameters
        ----------
        images : sequence of (H, W, 3) uint8 RGB arrays
        faces : sequence of Faces
            Of each image.

        Returns
        -------
        list of Faces
            With ``landmarks`` and ``scheme`` of the net; the detector's ``landmarks5`` stay.
        """
        five = []
        for found in faces:
            points = five_from_boxes(found.boxes)
            usable = np.zeros(len(found), bool)
            if found.landmarks5 is not None:
                usable = _apart(found.landmarks5, found.boxes)
                points[usable] = found.landmarks5[usable]
            points[~usable] = five_from_boxes(_not_flat(found.boxes[~usable]))
            five.append(points)
        landmarks, _ = self.from_points(images, five)
        return [f.with_(landmarks=points, scheme=self.net.scheme) for f, points in zip(faces, landmarks)]

    def from_boxes(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Landmarks of faces known by boxes (n, 4) xyxy of each image; as `from_points`."""
        boxes = [_not_flat(np.asarray(b, np.float64).reshape(-1, 4)) for b in boxes]
        return self.from_points(images, [five_from_boxes(b) for b in boxes])

    def from_points(
        self,
        images: Sequence[np.ndarray],
        five: Sequence[np.ndarray],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Landmarks of faces known by five points.

        Parameters
        ----------
        images : sequence of (H, W, 3) uint8 RGB arrays
        five : sequence of (n, 5, 2) arrays
            Of each image, in its pixels: left eye, right eye, nose, left and right mouth corner, left being the
            viewer's left.

        Returns
        -------
        landmarks : list of (n, K, 2) float32 arrays
            In pixels of each image.
        scores : list of (n, K) float32 arrays
            Heights of the heatmaps' peaks: about 1 where the net is sure.

        Raises
        ------
        InputError
            Five points lie in one place, or there are not as many of one as of the other.
        """
        if len(images) != len(five):
            raise InputError(f"expected five points for each of {len(images)} images, got {len(five)} arrays")
        counts = [len(points) for points in five]
        owner = np.repeat(np.arange(len(images)), counts)
        points = np.concatenate([np.asarray(p, np.float64).reshape(-1, 5, 2) for p in five] or [np.zeros((0, 5, 2))])
        landmarks, scores = self._once(images, owner, points)
        rows = np.arange(len(owner))
        for _ in range(1 if self.passes == "auto" else self.passes - 1):
            found = SCHEMES[self.net.scheme].five_points(landmarks[rows])
            again = _apart(found)
            if self.passes == "auto":
                again &= self._offset(points[rows], found) > REALIGN_FROM
            rows = rows[again]
            points[rows] = found[again]
            landmarks[rows], scores[rows] = self._once(images, owner[rows], points[rows])
        own = [slice(end - count, end) for count, end in zip(counts, np.cumsum(counts))]
        return [landmarks[rows] for rows in own], [scores[rows] for rows in own]

    def _offset(self, five: np.ndarray, found: np.ndarray) -> np.ndarray:
        """How far off a crop by ``five`` (n, 5, 2) is if the face is where ``found`` (n, 5, 2) says, (n,) in shares of
        its side: the mean distance that the template's points move from one alignment to the other.
        """
        facts = self.facts
        template = np.asarray(facts.template) * facts.size
        offsets = np.full(len(five), np.inf)
        for i in np.flatnonzero(_apart(found)):
            crop, better = (similarity_transform(points, template) for points in (five[i], found[i]))
            moved = warp_points(crop, warp_points(invert_affine(better), template))
            offsets[i] = np.linalg.norm(moved - template, axis=1).mean() / facts.size
        return offsets

    def _once(self, images, owner, five) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (N, K, 2) and scores (N, K) of N faces, each in the image that it belongs to."""
        facts = self.facts
        matrices = align_faces(five, facts)
        num_points = SCHEMES[self.net.scheme].num_points
        landmarks, scores = (
            np.zeros((len(five), num_points, 2), np.float32),
            np.zeros((len(five), num_points), np.float32),
        )
        for start in range(0, len(five), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(five)))
            x = np.empty((len(rows), 3, facts.size, facts.size), np.float32)
            for place, i in enumerate(rows):
                normalise(warp_image(images[owner[i]], matrices[i], (facts.size, facts.size)), facts, x[place])
            points, scores[rows.start : rows.stop] = self.predict(x)
            for place, i in enumerate(rows):
                landmarks[i] = warp_points(invert_affine(matrices[i]), points[place])
        return landmarks, scores

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prepared crops (B, 3, size, size) float32 to landmarks (B, K, 2) in their pixels and scores (B, K)."""
        size, index = self.facts.size, self._flip_index
        shift = self.facts.mirror_shift * size
        inputs = mx.nd.from_numpy(np.ascontiguousarray(x, np.float32)).as_in_context(self.ctx)
        if self.flip == "none":
            points, scores = self.net(inputs)
            return points.asnumpy(), scores.asnumpy()
        mirrored = mx.nd.flip(inputs, axis=3)
        if self.flip == "points":
            (points, scores), (other, other_scores) = self.net(inputs), self.net(mirrored)
            other = other.asnumpy()[:, index]
            other[..., 0] = size + shift - other[..., 0]
            return (points.asnumpy() + other) / 2, (scores.asnumpy() + other_scores.asnumpy()[:, index]) / 2
        maps, other = self.net.network(inputs), self.net.network(mirrored)
        both = (maps.asnumpy() + other.asnumpy()[:, index, :, ::-1]) / 2
        points, scores = decode_heatmaps(both, self.net.decoder.method)
        # The mirror image's peaks lie a whole shift to the left, the mean half of it.
        return points * self.net.stride + np.float32([shift / 2, 0]), scores


def _describe(net) -> str:
    facts = getattr(net, "facts", None)
    return type(net).__name__ if facts is None else facts.name


def _apart(five: np.ndarray, boxes: np.ndarray | None = None) -> np.ndarray:
    """(n,) whether five points (n, 5, 2) are spread enough to align by: over 1/20 of the box, or of a pixel."""
    spread = np.asarray(five, np.float64).std(axis=1).max(axis=1) if len(five) else np.zeros(0)
    least = 0.05 if boxes is None else np.maximum(0.05, 0.05 * (boxes[:, 2:] - boxes[:, :2]).max(axis=1))
    return np.isfinite(spread) & (spread >= least)


def _not_flat(boxes: np.ndarray) -> np.ndarray:
    """Boxes of a side of a pixel at least, so that something can be placed in them."""
    boxes = np.array(boxes, np.float64)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return boxes
