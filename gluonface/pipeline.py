"""`FaceAnalyzer`: images in, `Faces` out.

Data flow: path | bytes | array -> image.py (H, W, 3) uint8 RGB -> letterbox on a canvas -> x (B, 3, h, w) -> net ->
Faces in pixels of the photo -> with a landmark net: aligned crops of all faces of the batch -> dense landmarks.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ._compat import mx
from .alignment import LandmarkPredictor, context_of, normalise
from .errors import ImageError, InputError
from .faces import Faces
from .geometry import Letterbox, apply_letterbox, clip_boxes, letterbox
from .image import MAX_PIXELS, load_image
from .model_zoo import DEFAULT_DETECTOR, ModelFacts, get_model

__all__ = ["FaceAnalyzer", "postprocess", "preprocess"]

# With size=None a canvas is the photo rounded up to this, the coarsest stride of the detectors here.
_STORED_MULTIPLE = 32


def preprocess(image: np.ndarray, box: Letterbox, facts: ModelFacts, out: np.ndarray | None = None) -> np.ndarray:
    """One image as a network wants it: letterboxed, (rgb / 255 - mean) / std, channels first.

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB array
    box : Letterbox
        Where it goes on the canvas; the rest is black.
    facts : ModelFacts
        Mean and std, which come with the weights.
    out : (3, h, w) float32 array, optional
        Written to, for example a slice of a batch.

    Returns
    -------
    (3, h, w) float32 array
    """
    canvas = apply_letterbox(image, box)
    if out is None:
        out = np.empty((3, *box.canvas_hw), np.float32)
    return normalise(canvas, facts, out)


def postprocess(
    outputs: Sequence[np.ndarray],
    boxes: Sequence[Letterbox],
    score_thresh: float = 0.0,
    max_faces: int | None = None,
) -> list[Faces]:
    """What a detector gave for a batch, as `Faces` in pixels of each photo.

    Parameters
    ----------
    outputs : sequence of arrays
        ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4) and, where the net has them, landmarks (B, n, 2K); canvas
        pixels, padded with -1.
    boxes : sequence of B Letterbox
        Where each photo lies on its canvas.
    score_thresh : float
        Weaker faces are left out.
    max_faces : int, optional
        Only so many, the best.

    Returns
    -------
    list of B Faces
        Best first. Boxes are cut at the border of the photo, and those without area left out; landmarks are not cut.
    """
    ids, scores, bboxes, *rest = outputs
    results = []
    for i, box in enumerate(boxes):
        in_photo = clip_boxes(box.inverse_boxes(bboxes[i]), box.source_hw).astype(np.float32)
        found = (ids[i, :, 0] >= 0) & (scores[i, :, 0] >= score_thresh)
        found &= (in_photo[:, 2] > in_photo[:, 0]) & (in_photo[:, 3] > in_photo[:, 1])
        rows = np.flatnonzero(found)
        rows = rows[np.argsort(-scores[i, rows, 0], kind="stable")][:max_faces]
        parts = {}
        if rest:
            num_points = rest[0].shape[-1] // 2
            points = box.inverse_points(rest[0][i, rows].reshape(len(rows), num_points, 2))
            parts = {"landmarks5": points} if num_points == 5 else {"landmarks": points, "scheme": str(num_points)}
        results.append(Faces(in_photo[rows], scores[i, rows, 0], size_hw=box.source_hw, **parts))
    return results


class FaceAnalyzer:
    """Finds the faces in photos.

    >>> analyzer = FaceAnalyzer()
    >>> faces = analyzer("photo.jpg")
    >>> many = analyzer(["a.jpg", "b.png"])  # one batch through the network
    >>> analyzer = FaceAnalyzer(landmarks="heatmap_mobilenetv2_1.0_sdd_fc26")
    >>> analyzer("photo.jpg").landmarks.shape  # 68 points a face, of all faces of a batch at once
    (3, 68, 2)

    Parameters
    ----------
    detector : str or HybridBlock, optional
        A name from `list_models`, whose weights are loaded, or a net with ``net.facts``; the default is
        `gluonface.model_zoo.DEFAULT_DETECTOR`.
    landmarks : str, HybridBlock or LandmarkPredictor, optional
        Second stage: a landmark net by its name, or as a net, or a `gluonface.alignment.LandmarkPredictor` with
        settings of its own. ``Faces.landmarks`` then holds its points.
    ctx : mx.Context, optional
        Where named nets run (CPU by default); a given net runs where its parameters are.
    size : int, (int, int), "auto" or None
        An int S: the photo's long side becomes S, smaller or larger, on a canvas S x S. A pair (h, w): that canvas.
        "auto": the size the net is meant for (``net.facts.size``). None: the photo keeps its size, on a canvas rounded
        up to a multiple of 32.
    score_thresh : float, optional
        Weaker faces are left out; the default comes with the weights.
    nms_thresh : float, optional
        Of two boxes with a larger IoU the weaker one goes; by default what the net has set. Set on the net itself.
    max_faces : int, optional
        At most so many faces an image, the best.
    batch_size : int
        Images that go through the network at once.
    root : path, optional
        Folder of weights of your own, searched before the package's.
    max_pixels : int
        Larger images are refused before they are decoded.

    Raises
    ------
    ModelNotFoundError, WeightsError
        From loading a named detector.
    InputError
        An argument is out of range, or the net has no facts or no parameters.
    """

    def __init__(
        self,
        detector: str | mx.gluon.HybridBlock | None = None,
        *,
        landmarks: str | mx.gluon.HybridBlock | LandmarkPredictor | None = None,
        ctx: mx.Context | None = None,
        size: int | tuple[int, int] | str | None = "auto",
        score_thresh: float | None = None,
        nms_thresh: float | None = None,
        max_faces: int | None = None,
        batch_size: int = 16,
        root: str | os.PathLike | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        if batch_size < 1 or (max_faces is not None and max_faces < 1):
            raise InputError(
                f"expected batch_size and max_faces of at least 1, got batch_size={batch_size}, max_faces={max_faces}"
            )
        if detector is None:
            detector = DEFAULT_DETECTOR
        if isinstance(detector, str):
            self.net = get_model(detector, pretrained=True, ctx=ctx, root=root)
            self.net.hybridize()
        else:
            self.net = detector
        if not hasattr(self.net, "facts"):
            raise InputError(
                f"expected a net with facts (mean, std, size: see gluonface.model_zoo.ModelFacts), got "
                f"{type(self.net).__name__} without net.facts"
            )
        if self.net.facts.task != "detection":
            raise InputError(
                f"expected a detector, got {self.net.facts.name}, which is for {self.net.facts.task}: give it as "
                "FaceAnalyzer(landmarks=...)"
            )
        self.landmarks: LandmarkPredictor | None = None
        if isinstance(landmarks, LandmarkPredictor):
            self.landmarks = landmarks
        elif landmarks is not None:
            self.landmarks = LandmarkPredictor(landmarks, ctx=ctx, root=root)
        self.ctx = context_of(self.net)
        self.canvas_hw = _canvas(self.net.facts.size if size == "auto" else size)
        self.score_thresh = self.net.facts.score_thresh if score_thresh is None else score_thresh
        self.max_faces = max_faces
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self._set_nms(nms_thresh)

    @property
    def detector_name(self) -> str:
        """Name of the detector."""
        return self.net.facts.name

    def __repr__(self) -> str:
        size = "stored size" if self.canvas_hw is None else f"{self.canvas_hw[1]}x{self.canvas_hw[0]}"
        second = "" if self.landmarks is None else f"landmarks={self.landmarks.facts.name}, "
        return f"FaceAnalyzer({self.detector_name}, {second}{size}, score_thresh={self.score_thresh}, {self.ctx})"

    def __call__(self, images, on_error: str = "raise") -> Faces | list[Faces]:
        """Find the faces in one image or in many.

        Parameters
        ----------
        images : path, bytes, array (H, W, 3) RGB, or an iterable of such
            See `load_image`. An iterable is cut into batches of ``batch_size``.
        on_error : str
            "raise", or "return": an image that cannot be read leaves its `ImageError` in its place.

        Returns
        -------
        Faces, or a list of Faces for an iterable
            In pixels of each image, best first; the same numbers in a batch as alone.

        Raises
        ------
        ImageError
            An image cannot be read.
        """
        if isinstance(images, Iterable) and not _is_one_image(images):
            return list(self.stream(images, on_error))
        return next(self.stream([images], on_error))

    def stream(self, images: Iterable, on_error: str = "raise") -> Iterator[Faces]:
        """`Faces` of one image after another, holding two batches at most in memory (with a landmark net, their photos
        too).

        Parameters and errors are those of a call; with ``on_error="raise"`` the images before a bad batch still come
        out first.
        """
        if on_error not in ("raise", "return"):
            raise InputError(f'expected on_error to be "raise" or "return", got {on_error!r}')
        return self._stream(iter(images), on_error)

    def _stream(self, images: Iterator, on_error: str) -> Iterator[Faces]:
        running = None
        while sources := list(itertools.islice(images, self.batch_size)):
            try:
                started = self._start(sources, on_error)
            except ImageError:
                if running is not None:
                    yield from running.finish()
                raise
            # MXNet computes in the background: this batch runs while the next one is read.
            if running is not None:
                yield from running.finish()
            running = started
        if running is not None:
            yield from running.finish()

    def _load(self, source, on_error: str) -> np.ndarray | ImageError:
        if isinstance(source, mx.nd.NDArray):  # what mx.image.imread gives
            source = source.asnumpy()
        try:
            return load_image(source, max_pixels=self.max_pixels)
        except ImageError as error:
            if on_error == "raise":
                raise
            return error

    def _start(self, sources: list, on_error: str) -> _Batch:
        """Read images and send them through the net, those of equal canvas together."""
        batch = _Batch(self, [None] * len(sources), [], {})
        groups: dict[tuple[int, int], list] = {}
        for i, source in enumerate(sources):
            image = self._load(source, on_error)
            if isinstance(image, ImageError):
                batch.results[i] = image
                continue
            canvas_hw = self._canvas_for(image)
            # A photo on a canvas of its own keeps its size.
            box = letterbox(image.shape[:2], canvas_hw, upscale=self.canvas_hw is not None)
            # Only the canvas is kept, where nothing else will be needed: a batch of large photos would fill the memory.
            if self.landmarks is not None:
                batch.images[i] = image
            groups.setdefault(canvas_hw, []).append((i, box, preprocess(image, box, self.net.facts)))
        for group in groups.values():
            places, boxes, canvases = zip(*group)
            batch.groups.append((places, boxes, self._forward(canvases)))
        return batch

    def _canvas_for(self, image: np.ndarray) -> tuple[int, int]:
        if self.canvas_hw is not None:
            return self.canvas_hw
        height, width = (-(-side // _STORED_MULTIPLE) * _STORED_MULTIPLE for side in image.shape[:2])
        return height, width

    def _forward(self, canvases: Sequence[np.ndarray]) -> tuple:
        """Outputs of the net (MXNet arrays, perhaps still being computed) for canvases (3, h, w)."""
        x = np.stack(canvases).astype(np.float32, copy=False)
        return self.net(mx.nd.from_numpy(x).as_in_context(self.ctx))

    def detect_canvas(self, x: np.ndarray | Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Run the net on prepared canvases (`preprocess`); `postprocess` makes `Faces` of what comes out.

        Parameters
        ----------
        x : (B, 3, h, w) float32 array, or a sequence of B arrays (3, h, w)

        Returns
        -------
        ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4) and landmarks (B, n, 2K) where the net has them
            Canvas pixels, best first, padded with -1.
        """
        return tuple(output.asnumpy() for output in self._forward(x))

    def detect_letterboxed(
        self,
        images: Sequence[np.ndarray],
        boxes: Sequence[Letterbox],
        score_thresh: float | None = None,
    ) -> list[Faces]:
        """Find faces in images (H, W, 3) uint8 RGB laid on canvases as told, as one batch.

        Parameters
        ----------
        images : sequence of B arrays
        boxes : sequence of B Letterbox
            All with the same canvas.
        score_thresh : float, optional
            Instead of the analyzer's; never below what the net itself cuts off (``net.set_nms``).

        Returns
        -------
        list of B Faces
            In pixels of each image.
        """
        if len(images) != len(boxes) or len({box.canvas_hw for box in boxes}) != 1:
            raise InputError(
                f"expected a Letterbox for each of {len(images)} images, all of one canvas, got "
                f"{len(boxes)} of canvases {sorted({box.canvas_hw for box in boxes})}"
            )
        # The dense landmarks are left to the caller, who may have other views of the same faces.
        outputs = self.detect_canvas([preprocess(*pair, self.net.facts) for pair in zip(images, boxes)])
        return postprocess(outputs, boxes, self.score_thresh if score_thresh is None else score_thresh, self.max_faces)

    def _set_nms(self, nms_thresh: float | None) -> None:
        net = self.net
        if not hasattr(net, "set_nms"):
            if nms_thresh is not None:
                raise InputError(f"expected a net with set_nms to set nms_thresh on, got {type(net).__name__}")
            return
        # The net cuts off weak boxes first, so it must not cut off more than is asked for here.
        score_thresh = min(net.score_thresh, self.score_thresh)
        nms_thresh = net.nms_thresh if nms_thresh is None else nms_thresh
        if (nms_thresh, score_thresh) != (net.nms_thresh, net.score_thresh):
            net.set_nms(nms_thresh, net.nms_topk, net.post_nms, score_thresh)


@dataclass
class _Batch:
    """Images on their way through the net."""

    analyzer: FaceAnalyzer
    results: list
    groups: list[tuple[tuple[int, ...], tuple[Letterbox, ...], tuple]]
    images: dict[int, np.ndarray]

    def finish(self) -> list[Faces | ImageError]:
        """Wait for the net."""
        for places, boxes, outputs in self.groups:
            arrays = tuple(output.asnumpy() for output in outputs)
            for i, faces in zip(
                places, postprocess(arrays, boxes, self.analyzer.score_thresh, self.analyzer.max_faces)
            ):
                self.results[i] = faces
        if self.images:
            places = list(self.images)
            found = self.analyzer.landmarks([self.images[i] for i in places], [self.results[i] for i in places])
            for i, faces in zip(places, found):
                self.results[i] = faces
        return self.results


def _is_one_image(images) -> bool:
    return isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, mx.nd.NDArray))


def _canvas(size) -> tuple[int, int] | None:
    """Height and width of the canvas a `size` argument means; None: as stored."""
    if size is None:
        return None
    try:
        height, width = (int(size), int(size)) if np.ndim(size) == 0 else (int(side) for side in size)
    except (TypeError, ValueError) as error:
        raise InputError(f'expected size to be "auto", an int, (height, width) or None, got {size!r}') from error
    if height < 1 or width < 1:
        raise InputError(f"expected a size of at least 1, got {size!r}")
    return height, width
