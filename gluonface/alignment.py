"""`LandmarkPredictor`: faces in photos to dense landmarks, with a landmark net of the model zoo.

Data flow: crops (size, size, 3) uint8, aligned by `gluonface.analysis.LandmarkStage` -> x (B, 3, size, size) -> net ->
points in the crops, which the stage takes back to the photos.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ._compat import mx
from .analysis import LandmarkStage, normalise
from .decode import decode_heatmaps
from .errors import InputError
from .model_zoo import ModelFacts, get_model

__all__ = ["FLIPS", "LandmarkPredictor", "context_of", "prepared"]

#: What is averaged over a crop and its mirror image.
FLIPS = (*LandmarkStage.flips, "heatmaps")


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


def prepared(images: Sequence[np.ndarray], facts: ModelFacts, ctx: mx.Context) -> mx.nd.NDArray:
    """B images (h, w, 3) uint8 RGB of one size as a net wants them, (B, 3, h, w) float32 where it runs."""
    x = np.empty((len(images), 3, *images[0].shape[:2]), np.float32)
    for image, out in zip(images, x):
        normalise(image, facts, out)
    return mx.nd.from_numpy(x).as_in_context(ctx)


class LandmarkPredictor(LandmarkStage):
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
        whose first one was off by more than `gluonface.analysis.REALIGN_FROM`, such as those known by a box alone.
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

    flips = FLIPS

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
        if isinstance(net, str):
            net = get_model(net, pretrained=True, ctx=ctx, root=root)
            net.hybridize()
        if not hasattr(net, "facts"):
            raise InputError(f"expected a landmark net, such as heatmap_*, got {type(net).__name__}")
        super().__init__(net.facts, flip=flip, passes=passes, batch_size=batch_size)
        self.net = net

    @property
    def ctx(self) -> mx.Context:
        """Where the net runs."""
        return context_of(self.net)

    def _forward(self, crops: Sequence[np.ndarray]) -> tuple[mx.nd.NDArray, mx.nd.NDArray]:
        return self.net(prepared(crops, self.facts, self.ctx))

    def _collect(self, handle: tuple[mx.nd.NDArray, mx.nd.NDArray]) -> tuple[np.ndarray, np.ndarray]:
        points, scores = handle
        return points.asnumpy(), scores.asnumpy()

    def _predict(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.flip != "heatmaps":
            return super()._predict(crops)
        inputs = prepared(crops, self.facts, self.ctx)
        maps, other = self.net.network(inputs), self.net.network(mx.nd.flip(inputs, axis=3))
        both = (maps.asnumpy() + other.asnumpy()[:, self._flip_index, :, ::-1]) / 2
        points, scores = decode_heatmaps(both, self.net.decoder.method)
        # The mirror image's peaks lie a whole shift to the left, the mean half of it.
        shift = self.facts.mirror_shift * self.facts.size
        return points * self.net.stride + np.float32([shift / 2, 0]), scores
