"""`FaceAnalyzer`: images in, `Faces` out, with nets of the model zoo.

Data flow: canvases (h, w, 3) uint8, laid out by `gluonface.analysis.Analyzer` -> x (B, 3, h, w) -> net -> ids, scores,
boxes and points on the canvases, which the analyzer turns into Faces in pixels of the photos.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._compat import mx
from .alignment import LandmarkPredictor, context_of, prepared
from .analysis import STRIDE, Analyzer, LandmarkStage, preprocess
from .decode import squares_about
from .errors import InputError
from .geometry import Letterbox
from .image import MAX_PIXELS
from .model_zoo import DEFAULT_DETECTOR, get_model

if TYPE_CHECKING:
    from .mesh import MeshTopology

__all__ = ["FaceAnalyzer", "find_in_squares"]


class FaceAnalyzer(Analyzer):
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
    landmarks : str, HybridBlock or LandmarkStage, optional
        Second stage: a landmark net by its name, or as a net, or a stage with settings of its own, such as
        a `gluonface.alignment.LandmarkPredictor`. ``Faces.landmarks`` then holds its points.
    topology : MeshTopology, optional
        Of a detector with meshes: what their vertices are (`gluonface.mesh.load_topology`), from which the pose
        follows. By default meshes of 468 vertices are those of `gluonface.mesh.topology_468`, and others bring no pose.
    ctx : mx.Context, optional
        Where named nets run (CPU by default); a given net runs where its parameters are.
    size : int, (int, int), "auto" or None
        An int S: the photo's long side becomes S, smaller or larger, on a canvas S x S; on one that ends where the
        photo does, rounded up as with None, of a net that looks at all of it (``net.close_canvas``). A pair (h, w):
        that canvas.
        "auto": the size the net is meant for (``net.facts.size``). None: the photo keeps its size, on a canvas rounded
        up to a multiple of ``net.stride``, of 32 where the net has none. For faces of very different sizes in one photo
        see `gluonface.tta.detect_multiscale`.
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
        landmarks: str | mx.gluon.HybridBlock | LandmarkStage | None = None,
        topology: MeshTopology | None = None,
        ctx: mx.Context | None = None,
        size: int | tuple[int, int] | str | None = "auto",
        score_thresh: float | None = None,
        nms_thresh: float | None = None,
        max_faces: int | None = None,
        batch_size: int = 16,
        root: str | os.PathLike | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
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
        if landmarks is not None and not isinstance(landmarks, LandmarkStage):
            landmarks = LandmarkPredictor(landmarks, ctx=ctx, root=root)
        super().__init__(
            self.net.facts,
            landmarks=landmarks,
            topology=topology,
            size=size,
            score_thresh=score_thresh,
            max_faces=max_faces,
            batch_size=batch_size,
            max_pixels=max_pixels,
        )
        self.ctx = context_of(self.net)
        self.device = str(self.ctx)
        self.stride = getattr(self.net, "stride", STRIDE)
        self.close_canvas = getattr(self.net, "close_canvas", False)
        self._set_nms(nms_thresh)

    def _forward(self, canvases: Sequence[np.ndarray], score_thresh: float) -> Callable[[], Sequence[mx.nd.NDArray]]:
        return self._started(prepared(canvases, self.facts, self.ctx), score_thresh)

    def _started(self, x: mx.nd.NDArray, score_thresh: float) -> Callable[[], Sequence[mx.nd.NDArray]]:
        # MXNet computes in the background; what has to wait for the network is left for later.
        if hasattr(self.net, "finish"):
            return functools.partial(self.net.finish, x, self.net.network(x), score_thresh)
        outputs = self.net(x)
        return lambda: outputs

    def _collect(self, handle: Callable[[], Sequence[mx.nd.NDArray]]) -> tuple[np.ndarray, ...]:
        return tuple(output.asnumpy() for output in handle())

    def detect_canvas(self, x: np.ndarray | Sequence[np.ndarray], score_thresh: float = 0.0) -> tuple[np.ndarray, ...]:
        """Run the net on prepared canvases (`gluonface.analysis.preprocess`); `gluonface.analysis.postprocess` makes
        `Faces` of what comes out.

        Parameters
        ----------
        x : (B, 3, h, w) float32 array, or a sequence of B arrays (3, h, w)
        score_thresh : float
            Weaker boxes may be left out, or come without points and mesh, as is faster.

        Returns
        -------
        ids (B, n, 1), scores (B, n, 1), bboxes (B, n, 4) and landmarks (B, n, 2K) where the net has them
            Canvas pixels, best first, padded with -1.
        """
        x = mx.nd.from_numpy(np.stack(x).astype(np.float32, copy=False)).as_in_context(self.ctx)
        return self._collect(self._started(x, score_thresh))

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


def find_in_squares(net, image: np.ndarray, placed: Letterbox, boxes: np.ndarray) -> tuple:
    """What a `KeypointDetector` says of squares about boxes, in the place of its proposals (KPNet, Table 3).

    The squares have the longer sides of the boxes, not rounded to cells and bins; their probability is 1.

    Parameters
    ----------
    net : KeypointDetector
    image : (H, W, 3) uint8 RGB
    placed : Letterbox
        Where the photo lies on the net's canvas.
    boxes : (M, 4)
        xyxy in pixels of the photo.

    Returns
    -------
    points (1, P, K, 2), boxes (1, P, 4), scores (1, P)
        NDArrays in pixels of the canvas, in the order of the boxes. P is M; without boxes 1, of probability 0.
    """
    boxes = placed.forward_boxes(boxes).reshape(-1, 2, 2)
    squares, probabilities = np.zeros((max(1, len(boxes)), 4)), np.zeros(max(1, len(boxes)))
    squares[: len(boxes)] = squares_about(boxes.mean(axis=1), (boxes[:, 1] - boxes[:, 0]).max(axis=1, initial=0))
    probabilities[: len(boxes)] = 1
    canvas, squares, probabilities = (
        mx.nd.array(array[None], ctx=context_of(net))
        for array in (preprocess(image, placed, net.facts), squares, probabilities)
    )
    _, maps = net.network(canvas)
    return net.find_points(maps, squares, probabilities)
