"""The whole of face analysis but the network: what `FaceAnalyzer`, its landmark stage and the runtime of compiled
artefacts share. NumPy and OpenCV only.

Data flow: path | bytes | array -> image.py (H, W, 3) uint8 RGB -> letterbox on a canvas (h, w, 3) uint8 -> backend ->
Faces in pixels of the photo -> with a landmark stage: five points -> similarity transform to the net's template ->
crops (size, size, 3) uint8 of all faces of the batch -> backend -> points in the crops -> inverse transform ->
landmarks (n, K, 2) in pixels of the photo.

A backend is a class that derives from `Analyzer` or `LandmarkStage` and fills in two methods, ``_forward`` and
``_collect`` (see `Backend`). It takes canvases as they are, uint8, and normalises them itself (`normalise`), since a
compiled network has that inside.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from .errors import ImageError, InputError
from .faces import SCHEMES, Faces
from .facts import ModelFacts
from .geometry import (
    Letterbox,
    apply_letterbox,
    clip_boxes,
    five_from_boxes,
    invert_affine,
    letterbox,
    similarity_transform,
    warp_image,
    warp_points,
)
from .image import MAX_PIXELS, load_image
from .pose import fit_pose

if TYPE_CHECKING:
    from .frames import FaceTrack, FrameRules
    from .mesh import MeshTopology

__all__ = [
    "REALIGN_FROM",
    "STRIDE",
    "Analyzer",
    "Backend",
    "LandmarkStage",
    "align_faces",
    "cut_batches",
    "normalise",
    "postprocess",
    "preprocess",
    "whole_strides",
]

#: How far off a crop may be, in shares of its side, before another one is made ("auto" passes). Training turns, scales
#: and shifts crops by about as much; beyond it the error grows.
REALIGN_FROM = 0.03

#: What canvases are whole multiples of where nothing else is known: the coarsest stride of the detectors here.
STRIDE = 32
# The smallest canvas that all of them can look at: an hourglass halves its maps down to stride 64.
_LEAST_SIDE = 64


# ---- from photos to a network and back -------------------------------------------------------------------------------


def normalise(image: np.ndarray, facts: ModelFacts, out: np.ndarray) -> np.ndarray:
    """An image (h, w, 3) uint8 RGB as a network wants it, written into ``out`` (3, h, w) float32."""
    # One look-up a pixel: a tenth of the time of the arithmetic.
    levels = np.arange(256, dtype=np.float64) / 255
    for plane, mean, std, target in zip(cv2.split(image), facts.mean, facts.std, out):
        target[...] = cv2.LUT(plane, ((levels - mean) / std).astype(np.float32)[None])
    return out


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
    topology: MeshTopology | None = None,
) -> list[Faces]:
    """What a detector gave for a batch, as `Faces` in pixels of each photo.

    Parameters
    ----------
    outputs : sequence of arrays
        ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4) and, where the net has them, landmarks (B, n, 2K), pose
        (B, n, 3) and mesh (B, n, 3V); canvas pixels and degrees, padded with -1.
    boxes : sequence of Letterbox
        Where each photo lies on its canvas; less than B where the last canvases are there to fill up the batch.
    score_thresh : float
        Weaker faces are left out.
    max_faces : int, optional
        Only so many, the best.
    topology : MeshTopology, optional
        What the vertices of the net's meshes are; by default meshes of 468 vertices are those of
        `gluonface.mesh.topology_468`, and others are not known.

    Returns
    -------
    list of Faces
        Of each Letterbox, best first. Boxes are cut at the border of the photo, and those without area left out;
        landmarks are not cut. Dense landmarks bring the five points along. A mesh whose topology is known brings the
        pose, where the net gives none: of a face whose mesh is none, all in one place or on a line, it is that of the
        five points (`gluonface.pose.fit_pose`). A photo has no poses where these are in one place or on a line, too.

    Raises
    ------
    InputError
        A topology, and no meshes or those of another number of vertices.
    """
    ids, scores, bboxes, *rest = outputs
    points = rest.pop(0) if rest else None
    # A mesh is wider than the three angles.
    pose = rest.pop(0) if rest and rest[0].shape[-1] == 3 else None
    mesh = rest.pop(0) if rest else None
    if topology is not None and (mesh is None or mesh.shape[-1] != 3 * topology.num_vertices):
        came = "no meshes" if mesh is None else f"meshes of {mesh.shape[-1] // 3}"
        raise InputError(
            f"expected meshes of {topology.num_vertices} vertices, those of the topology {topology.name}, the net "
            f"gives {came}; give the topology of its meshes, or none"
        )
    results = []
    for i, box in enumerate(boxes):
        in_photo = clip_boxes(box.inverse_boxes(bboxes[i]), box.source_hw).astype(np.float32)
        found = (ids[i, :, 0] >= 0) & (scores[i, :, 0] >= score_thresh)
        found &= (in_photo[:, 2] > in_photo[:, 0]) & (in_photo[:, 3] > in_photo[:, 1])
        rows = np.flatnonzero(found)
        rows = rows[np.argsort(-scores[i, rows, 0], kind="stable")][:max_faces]
        parts = {}
        if points is not None:
            num_points = points.shape[-1] // 2
            placed = box.inverse_points(points[i, rows].reshape(len(rows), num_points, 2))
            scheme = str(num_points)
            parts = {"landmarks5": placed} if num_points == 5 else {"landmarks": placed, "scheme": scheme}
            if num_points != 5 and scheme in SCHEMES:
                parts["landmarks5"] = SCHEMES[scheme].five_points(placed)
        if pose is not None:
            # A letterbox shifts and scales: no angle changes.
            parts["pose"] = pose[i, rows]
        if mesh is not None:
            parts["mesh"] = _mesh_in_photo(mesh[i, rows], box)
            if pose is None:
                parts["pose"] = _pose_of_mesh(parts["mesh"], parts.get("landmarks5"), topology)
        results.append(Faces(in_photo[rows], scores[i, rows, 0], size_hw=box.source_hw, **parts))
    return results


def _mesh_in_photo(mesh: np.ndarray, box: Letterbox) -> np.ndarray:
    """Meshes (n, 3V) in pixels of the canvas to (n, V, 3) in those of the photo; depth is scaled as the width is, from
    which the height differs by rounding only.
    """
    vertices = mesh.reshape(len(mesh), mesh.shape[-1] // 3, 3)
    return np.concatenate([box.inverse_points(vertices[..., :2]), vertices[..., 2:] / box.scale_xy[0]], axis=-1)


def _pose_of_mesh(mesh: np.ndarray, five: np.ndarray | None, topology: MeshTopology | None) -> np.ndarray | None:
    """Yaw, pitch, roll (n, 3) in degrees of meshes (n, V, 3), or of five points (n, 5, 2) where a mesh is no face. None
    where the kind of mesh is not known, or five points are no face either (an untrained net puts all in one place).
    """
    from .mesh import pose_from_mesh, topology_468  # here: a process that finds no meshes starts without them

    if topology is None:
        topology = topology_468()
        if mesh.shape[1] != topology.num_vertices:
            return None
    pose, _ = pose_from_mesh(mesh, topology)
    lost = ~np.isfinite(pose).all(axis=1)
    if lost.any() and five is not None:
        pose[lost], _ = fit_pose(five[lost])
    return pose if np.isfinite(pose).all() else None


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


def whole_strides(size_hw: tuple[int, int], stride: int = STRIDE) -> tuple[int, int]:
    """The smallest canvas for an image of a size whose sides are multiples of a net's stride, and at least 64."""
    height, width = (-(-max(side, _LEAST_SIDE) // stride) * stride for side in size_hw)
    return height, width


# ---- what a backend fills in -----------------------------------------------------------------------------------------


def cut_batches(count: int, batches: Sequence[int] | None) -> list[tuple[int, int, int]]:
    """Cut so many canvases into runs of given batch sizes: (start, stop, batch size) of each.

    The largest size that fits first; where none fits any more, the smallest, which is then filled up. None: all at
    once.

    >>> cut_batches(13, (1, 4, 8))
    [(0, 8, 8), (8, 12, 4), (12, 13, 1)]
    >>> cut_batches(7, (4,))
    [(0, 4, 4), (4, 7, 4)]
    """
    runs, start = [], 0
    while start < count:
        left = count - start
        batch = left if batches is None else max((b for b in batches if b <= left), default=min(batches))
        runs.append((start, min(start + batch, count), batch))
        start += batch
    return runs


class Backend:
    """A network on some engine: two methods that a subclass fills in, and the batches that it can run.

    Attributes
    ----------
    buckets : dict of (h, w) to tuple of int, or None
        Canvases that the network can take and the batch sizes it can take of each; None: any. Images are cut into such
        batches (`cut_batches`), the last one filled up with black canvases, whose results are dropped.
    """

    buckets: dict[tuple[int, int], tuple[int, ...]] | None = None

    def _forward(self, canvases: Sequence[np.ndarray], *score_thresh: float) -> Any:
        """Start the network on canvases (h, w, 3) uint8 RGB of one size, as many as a bucket has. A detector is told
        which faces are too weak to be wanted, so that it need not look for their points.

        Returns whatever `_collect` needs. It need not wait for the result, and a later call must not change it.
        """
        raise NotImplementedError

    def _collect(self, handle: Any) -> tuple[np.ndarray, ...]:
        """The result of `_forward`, one row for each of its canvases.

        Of a detector: ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4) and, where it has them, landmarks (B, n, 2K),
        pose (B, n, 3) and mesh (B, n, 3V), see `postprocess`. Of a landmark net: landmarks (B, K, 2) in pixels of the
        crop, scores (B, K).
        """
        raise NotImplementedError

    def _set_buckets(self, buckets: Mapping | None) -> None:
        if buckets is None:
            return
        try:
            self.buckets = {(int(h), int(w)): tuple(sorted(map(int, sizes))) for (h, w), sizes in buckets.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"expected buckets as {{(h, w): (batch size, ...)}}, got {buckets!r}") from error
        if not self.buckets or any(min(canvas) < 1 for canvas in self.buckets):
            raise InputError(f"expected buckets of at least one canvas with a pixel, got {buckets!r}")
        if any(not sizes or sizes[0] < 1 for sizes in self.buckets.values()):
            raise InputError(f"expected batch sizes of at least 1 for each canvas, got {buckets!r}")

    def _check_canvas(self, canvas_hw: tuple[int, int]) -> None:
        """Refuse a canvas that there is no bucket for."""
        if self.buckets is not None and canvas_hw not in self.buckets:
            there = ", ".join(map(_size_text, self.buckets))
            raise InputError(
                f"expected a canvas (width x height) among {there}, which this network can take, got "
                f"{_size_text(canvas_hw)}: compile it for that size, too"
            )

    def _send(self, canvases: Sequence[np.ndarray], *score_thresh: float) -> list[tuple[slice, Any]]:
        """Start the network on canvases of one size, one at least: which of them, and the handle, of each run."""
        canvas_hw = canvases[0].shape[:2]
        self._check_canvas(canvas_hw)
        sent = []
        for start, stop, batch in cut_batches(len(canvases), self.buckets and self.buckets[canvas_hw]):
            filled = list(canvases[start:stop])
            if batch > len(filled):
                filled += [np.zeros_like(filled[0])] * (batch - len(filled))
            sent.append((slice(start, stop), self._forward(filled, *score_thresh)))
        return sent


# ---- photos to faces -------------------------------------------------------------------------------------------------


class Analyzer(Backend):
    """Finds the faces in photos, with a detector on some engine; `gluonface.FaceAnalyzer` is the one on MXNet.

    Parameters
    ----------
    facts : ModelFacts
        Of the detector.
    buckets : mapping of (h, w) to batch sizes, optional
        See `Backend`.
    landmarks : LandmarkStage, optional
        Second stage, on the same engine or another one. ``Faces.landmarks`` then holds its points.
    topology : MeshTopology, optional
        Of a detector with meshes: what their vertices are, from which the pose follows. By default meshes of 468
        vertices are those of `gluonface.mesh.topology_468`, and others bring no pose.
    size : int, (int, int), "auto" or None
        An int S: the photo's long side becomes S, smaller or larger, on a canvas S x S, or with `close_canvas` on one
        that ends where the photo does, up to a multiple of `stride`. A pair (h, w): that canvas.
        "auto": the size the net is meant for (``facts.size``). None: the photo keeps its size, on a canvas rounded up
        to a multiple of `stride`. With buckets, "auto" and None take for each photo the canvas on which it comes out
        nearest to that size, the smallest of several; on it a photo is shrunk if it must be.
    score_thresh : float, optional
        Weaker faces are left out; the default comes with the weights.
    max_faces : int, optional
        At most so many faces an image, the best.
    batch_size : int
        Images that are read and looked at together.
    max_pixels : int
        Larger images are refused before they are decoded.

    Raises
    ------
    InputError
        An argument is out of range, there is no bucket for ``size``, or the facts are not a detector's.
    """

    #: Where the network runs, for people to read.
    device = "cpu"
    #: A canvas that is made for a photo has sides that are multiples of it.
    stride = STRIDE
    #: Whether a canvas beyond the photo does harm: to nets that normalise over all of it (GroupNorm).
    close_canvas = False

    def __init__(
        self,
        facts: ModelFacts,
        *,
        buckets: Mapping[tuple[int, int], Sequence[int]] | None = None,
        landmarks: LandmarkStage | None = None,
        topology: MeshTopology | None = None,
        size: int | tuple[int, int] | str | None = "auto",
        score_thresh: float | None = None,
        max_faces: int | None = None,
        batch_size: int = 16,
        max_pixels: int = MAX_PIXELS,
    ):
        if batch_size < 1 or (max_faces is not None and max_faces < 1):
            raise InputError(
                f"expected batch_size and max_faces of at least 1, got batch_size={batch_size}, max_faces={max_faces}"
            )
        if facts.task != "detection":
            raise InputError(
                f"expected a detector, got {facts.name}, which is for {facts.task}: give it as "
                f"{type(self).__name__}(landmarks=...)"
            )
        if landmarks is not None and not isinstance(landmarks, LandmarkStage):
            raise InputError(f"expected landmarks to be a LandmarkStage or None, got {landmarks!r:.80}")
        if topology is not None:
            from .mesh import MeshTopology

            if not isinstance(topology, MeshTopology):
                raise InputError(
                    "expected topology to be a gluonface.mesh.MeshTopology, such as load_topology reads, or None, got "
                    f"{topology!r:.80}"
                )
        self._set_buckets(buckets)
        self.facts = facts
        self.landmarks = landmarks
        self.topology = topology
        # A photo on a canvas of its own keeps its size.
        self._upscale = size is not None
        #: Height and width of the canvas of all photos, or of the largest; None: `letterbox_for` chooses one for each.
        self.canvas_hw = self._fixed_canvas(size)
        # A canvas that was asked for, or is compiled, is as it is.
        self._may_be_close = buckets is None and (isinstance(size, str) or np.ndim(size) == 0)
        self.score_thresh = facts.score_thresh if score_thresh is None else score_thresh
        self.max_faces = max_faces
        self.batch_size = batch_size
        self.max_pixels = max_pixels

    def _fixed_canvas(self, size) -> tuple[int, int] | None:
        if isinstance(size, str) and size == "auto":
            if self.buckets is not None:
                return next(iter(self.buckets)) if len(self.buckets) == 1 else None
            size = self.facts.size
        canvas_hw = _canvas(size)
        if canvas_hw is not None:
            self._check_canvas(canvas_hw)
        return canvas_hw

    @property
    def detector_name(self) -> str:
        """Name of the detector."""
        return self.facts.name

    def __repr__(self) -> str:
        if self.canvas_hw is not None:
            size = _size_text(self.canvas_hw)
        elif self._upscale:
            size = " or ".join(map(_size_text, self.buckets))
        else:
            size = "stored size"
        second = "" if self.landmarks is None else f"landmarks={self.landmarks.facts.name}, "
        return (
            f"{type(self).__name__}({self.detector_name}, {second}{size}, score_thresh={self.score_thresh}, "
            f"{self.device})"
        )

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

    def best_frames(
        self,
        video: str | os.PathLike | int | Iterable,
        rules: FrameRules | None = None,
        *,
        step: int = 1,
        max_frames: int | None = None,
        fps: float | None = None,
    ) -> list[FaceTrack]:
        """The faces of a video, each with the frames in which it can best be recognised.

        >>> for track in analyzer.best_frames("walk.mp4", FrameRules(per_face=3, max_yaw=25)):
        ...     print(track.id, [choice.index for choice in track.best])

        Parameters
        ----------
        video : path, int or iterable
            A file, a camera's number, a folder of pictures or an iterable of them; see `gluonface.video.read_frames`.
        rules : gluonface.frames.FrameRules, optional
            Limits of pose, size and sharpness, and how many frames of each face.
        step, max_frames, fps
            See `gluonface.video.read_frames`.

        Returns
        -------
        list of gluonface.frames.FaceTrack
            That with the best frame first; those without any fit frame last, with ``best`` empty. For streams without
            an end there is `gluonface.frames.stream_best_frames`.

        Raises
        ------
        VideoError, ImageError
            The video cannot be read.
        """
        from .frames import best_frames  # here: a process that looks at photos starts without

        return best_frames(self, video, rules, step=step, max_frames=max_frames, fps=fps)

    def _stream(self, images: Iterator, on_error: str) -> Iterator[Faces]:
        running = None
        while sources := list(itertools.islice(images, self.batch_size)):
            try:
                started = self._start(sources, on_error)
            except ImageError:
                if running is not None:
                    yield from running.finish()
                raise
            # The network may compute in the background: this batch runs while the next one is read.
            if running is not None:
                yield from running.finish()
            running = started
        if running is not None:
            yield from running.finish()

    def _load(self, source, on_error: str) -> np.ndarray | ImageError:
        if hasattr(source, "asnumpy"):  # what mx.image.imread gives
            source = source.asnumpy()
        try:
            return load_image(source, max_pixels=self.max_pixels)
        except ImageError as error:
            if on_error == "raise":
                raise
            return error

    def _start(self, sources: list, on_error: str) -> _Batch:
        """Read images and send them through the net, those of equal canvas together."""
        batch = _Batch(self, [None] * len(sources))
        groups: dict[tuple[int, int], list] = {}
        for i, source in enumerate(sources):
            image = self._load(source, on_error)
            if isinstance(image, ImageError):
                batch.results[i] = image
                continue
            box = self.letterbox_for(image.shape[:2])
            # Only the canvas is kept, where nothing else will be needed: a batch of large photos would fill the memory.
            if self.landmarks is not None:
                batch.images[i] = image
            groups.setdefault(box.canvas_hw, []).append((i, box, apply_letterbox(image, box)))
        for group in groups.values():
            places, boxes, canvases = zip(*group)
            sent = self._send(canvases, self.score_thresh)
            batch.parts += [(places[rows], boxes[rows], handle) for rows, handle in sent]
        return batch

    def letterbox_for(self, size_hw: tuple[int, int]) -> Letterbox:
        """Where a photo of a size is laid on which canvas."""
        if self.canvas_hw is not None:
            canvas_hw = self.canvas_hw
            if self.close_canvas and self._may_be_close:
                canvas_hw = whole_strides(letterbox(size_hw, canvas_hw).resized_hw, self.stride)
        elif self.buckets is None:
            canvas_hw = whole_strides(size_hw, self.stride)
        else:
            wanted = self.facts.size / max(size_hw) if self._upscale else 1.0

            def distance(canvas_hw):
                scale = min(canvas / side for canvas, side in zip(canvas_hw, size_hw))
                if not self._upscale:
                    scale = min(scale, 1.0)
                return round(abs(math.log(scale / wanted)), 6), math.prod(canvas_hw)

            canvas_hw = min(self.buckets, key=distance)
        return letterbox(size_hw, canvas_hw, upscale=self._upscale)

    def detect_letterboxed(
        self,
        images: Sequence[np.ndarray],
        boxes: Sequence[Letterbox],
        score_thresh: float | None = None,
    ) -> list[Faces]:
        """Find faces in images (H, W, 3) uint8 RGB laid on canvases as told, as one batch: all of them, ``max_faces``
        and dense landmarks are left to the caller, who may have other views of the same faces.

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
        thresh = self.score_thresh if score_thresh is None else score_thresh
        sent = self._send([apply_letterbox(*pair) for pair in zip(images, boxes)], thresh)
        return [
            faces
            for rows, handle in sent
            for faces in postprocess(self._collect(handle), boxes[rows], thresh, topology=self.topology)
        ]


@dataclass
class _Batch:
    """Images on their way through the net: place, letterbox and handle of each run, photos for the second stage."""

    analyzer: Analyzer
    results: list
    parts: list[tuple[tuple[int, ...], tuple[Letterbox, ...], Any]] = field(default_factory=list)
    images: dict[int, np.ndarray] = field(default_factory=dict)

    def finish(self) -> list[Faces | ImageError]:
        """Wait for the net."""
        analyzer = self.analyzer
        for places, boxes, handle in self.parts:
            outputs = analyzer._collect(handle)
            found = postprocess(outputs, boxes, analyzer.score_thresh, analyzer.max_faces, analyzer.topology)
            for i, faces in zip(places, found):
                self.results[i] = faces
        if self.images:
            places = list(self.images)
            found = analyzer.landmarks([self.images[i] for i in places], [self.results[i] for i in places])
            for i, faces in zip(places, found):
                self.results[i] = faces
        return self.results


def _is_one_image(images) -> bool:
    return isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray)) or hasattr(
        images, "asnumpy"
    )


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


def _size_text(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"


# ---- faces to dense landmarks ----------------------------------------------------------------------------------------


class LandmarkStage(Backend):
    """Finds the dense landmarks of faces that are known by five points or by a box, with a landmark net on some engine;
    `gluonface.alignment.LandmarkPredictor` is the one on MXNet.

    Parameters
    ----------
    facts : ModelFacts
        Of the landmark net.
    buckets : mapping of (h, w) to batch sizes, optional
        See `Backend`; the canvas is the crop.
    flip : {"none", "points"}
        Test-time averaging of the points over each crop and its mirror image: twice the time.
    passes : int or "auto"
        Crops of each face, each from the points that were found in the one before. "auto": a second one for the faces
        whose first one was off by more than `REALIGN_FROM`, such as those known by a box alone.
    batch_size : int
        Crops that go through the network at once, from as many photos as it takes.

    Raises
    ------
    InputError
        An argument is out of range, there is no bucket for the crop, or the facts are not a landmark net's.
    """

    #: What may be averaged over a crop and its mirror image.
    flips: tuple[str, ...] = ("none", "points")

    def __init__(
        self,
        facts: ModelFacts,
        *,
        buckets: Mapping[tuple[int, int], Sequence[int]] | None = None,
        flip: str = "none",
        passes: int | str = "auto",
        batch_size: int = 32,
    ):
        if flip not in self.flips:
            raise InputError(f"expected flip to be one of {', '.join(self.flips)}, got {flip!r}")
        if batch_size < 1 or (passes != "auto" and not (isinstance(passes, int) and passes >= 1)):
            raise InputError(
                f'expected batch_size and passes of at least 1, or passes="auto", got {batch_size} and {passes!r}'
            )
        if facts.task != "landmarks":
            raise InputError(f"expected a landmark net, such as heatmap_*, got {facts.name}")
        if facts.scheme not in SCHEMES or np.shape(facts.template) != (5, 2):
            raise InputError(
                f"{facts.name}: expected facts with a scheme among {', '.join(SCHEMES)} and a template of five points, "
                f"got scheme {facts.scheme!r} and template {facts.template!r}"
            )
        self._set_buckets(buckets)
        self._check_canvas((facts.size, facts.size))
        self.facts, self.flip, self.passes, self.batch_size = facts, flip, passes, batch_size
        self._flip_index = SCHEMES[facts.scheme].flip_index

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
        return [f.with_(landmarks=points, scheme=self.facts.scheme) for f, points in zip(faces, landmarks)]

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
            found = SCHEMES[self.facts.scheme].five_points(landmarks[rows])
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
        size = self.facts.size
        matrices = align_faces(five, self.facts)
        num_points = SCHEMES[self.facts.scheme].num_points
        landmarks, scores = (
            np.zeros((len(five), num_points, 2), np.float32),
            np.zeros((len(five), num_points), np.float32),
        )
        for start in range(0, len(five), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(five)))
            crops = np.stack([warp_image(images[owner[i]], matrices[i], (size, size)) for i in rows])
            points, scores[rows.start : rows.stop] = self.predict(crops)
            for place, i in enumerate(rows):
                landmarks[i] = warp_points(invert_affine(matrices[i]), points[place])
        return landmarks, scores

    def predict(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Aligned crops (B, size, size, 3) uint8 RGB to landmarks (B, K, 2) in their pixels and scores (B, K).

        Raises
        ------
        InputError
            Not such an array, or an empty one.
        """
        size = self.facts.size
        if crops.dtype != np.uint8 or crops.shape[1:] != (size, size, 3) or not len(crops):
            raise InputError(f"expected crops (B, {size}, {size}, 3) uint8, got {crops.shape} {crops.dtype}")
        return self._predict(crops)

    def _predict(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sent = self._send(crops)
        if self.flip == "none":
            return self._gather(sent)
        sent_mirrored = self._send(np.ascontiguousarray(crops[:, :, ::-1]))
        (points, scores), (other, other_scores) = self._gather(sent), self._gather(sent_mirrored)
        other = other[:, self._flip_index]
        other[..., 0] = self.facts.size * (1 + self.facts.mirror_shift) - other[..., 0]
        return (points + other) / 2, (scores + other_scores[:, self._flip_index]) / 2

    def _gather(self, sent: list[tuple[slice, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Points and scores of what was sent, without the rows that filled it up."""
        parts = [[array[: rows.stop - rows.start] for array in self._collect(handle)] for rows, handle in sent]
        points, scores = (np.concatenate(arrays) for arrays in zip(*parts))
        return points, scores


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
