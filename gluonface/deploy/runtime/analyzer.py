"""`load`: artefacts to an analyzer with the same call and the same `Faces` as `gluonface.FaceAnalyzer`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...analysis import Analyzer, LandmarkStage
from ...errors import DeployError, InputError
from ...image import MAX_PIXELS
from .manifest import Manifest
from .module import Module
from .reader import Artifact, open_artifact

if TYPE_CHECKING:
    from ...mesh import MeshTopology

__all__ = ["CompiledAnalyzer", "CompiledLandmarks", "load"]

#: Says once that the weights inside an artefact are for research only, as loading the weights themselves does.
licence_log = logging.getLogger("gluonface.licence")
_said: set[str] = set()


def load(
    path: str | os.PathLike | Artifact,
    *,
    landmarks: str | os.PathLike | Artifact | LandmarkStage | None = None,
    topology: MeshTopology | None = None,
    threads: int = 1,
    size: int | tuple[int, int] | str | None = "auto",
    score_thresh: float | None = None,
    max_faces: int | None = None,
    batch_size: int = 16,
) -> CompiledAnalyzer | CompiledLandmarks:
    """Load an artefact, or a detector's and a landmark net's together.

    >>> analyzer = load("retinaface.artefact", landmarks="heatmap.artefact")
    >>> analyzer("photo.jpg").landmarks.shape
    (3, 68, 2)

    Parameters
    ----------
    path : path or Artifact
        A folder or a zip that ``gluonface compile`` made.
    landmarks : path, Artifact or LandmarkStage, optional
        Second stage of a detector.
    topology : MeshTopology, optional
        Of a detector with meshes: what their vertices are, see `gluonface.analysis.Analyzer`.
    threads : int
        Threads that one call of a network uses.
    size : int, (int, int), "auto" or None
        Of a detector with several compiled sizes: which one, see `gluonface.analysis.Analyzer`.
    score_thresh : float, optional
        Weaker faces are left out; the default comes with the weights. Not below what the artefact was compiled with.
    max_faces : int, optional
        At most so many faces an image, the best.
    batch_size : int
        Images that are read and looked at together.

    Returns
    -------
    CompiledAnalyzer, or CompiledLandmarks for the artefact of a landmark net
        Safe to use from several threads.

    Raises
    ------
    DeployError
        Not an artefact, damaged, or made for another machine or version.
    MissingDependencyError
        ``tvm_ffi`` is not installed.
    InputError
        An argument is out of range, or does not go with the net's task.
    """
    module = Module(path, threads=threads)
    if module.manifest.task == "landmarks":
        given = {
            "landmarks": landmarks,
            "topology": topology,
            "score_thresh": score_thresh,
            "max_faces": max_faces,
        }
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise InputError(
                f"{module.manifest.model}: expected a detector's artefact with {', '.join(extra)}, got a landmark "
                "net's: load(detector, landmarks=this)"
            )
        return CompiledLandmarks(module)
    if landmarks is not None and not isinstance(landmarks, LandmarkStage):
        # A detector's would run until the first face is found.
        landmarks = landmarks if isinstance(landmarks, Artifact) else open_artifact(landmarks)
        if landmarks.manifest.task != "landmarks":
            raise InputError(
                f"{landmarks.folder}: expected the artefact of a landmark net as landmarks, got "
                f"{landmarks.manifest.model}"
            )
        landmarks = CompiledLandmarks(Module(landmarks, threads=threads))
    return CompiledAnalyzer(
        module,
        landmarks=landmarks,
        topology=topology,
        size=size,
        score_thresh=score_thresh,
        max_faces=max_faces,
        batch_size=batch_size,
    )


class _Compiled:
    """The two methods of a `gluonface.analysis.Backend`, on a compiled module."""

    module: Module

    def _forward(self, canvases: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        bucket = self.module.manifest.bucket(len(canvases), canvases[0].shape[:2])
        return self.module.run(bucket, canvases)


class CompiledAnalyzer(_Compiled, Analyzer):
    """Finds the faces in photos with a compiled detector.

    Parameters
    ----------
    module : Module
        Of a detector.
    score_thresh : float, optional
        Not below the one that it was compiled with.
    landmarks, topology, size, max_faces, batch_size, max_pixels
        As of `gluonface.analysis.Analyzer`.

    Raises
    ------
    InputError
        An argument is out of range.
    """

    def __init__(
        self,
        module: Module,
        *,
        landmarks: LandmarkStage | None = None,
        topology: MeshTopology | None = None,
        size: int | tuple[int, int] | str | None = "auto",
        score_thresh: float | None = None,
        max_faces: int | None = None,
        batch_size: int = 16,
        max_pixels: int = MAX_PIXELS,
    ):
        manifest = module.manifest
        super().__init__(
            manifest.facts,
            buckets=_buckets(manifest),
            landmarks=landmarks,
            topology=topology,
            size=size,
            score_thresh=score_thresh,
            max_faces=max_faces,
            batch_size=batch_size,
            max_pixels=max_pixels,
        )
        compiled = manifest.nms.get("score_thresh", 0.0)
        if self.score_thresh < compiled:
            raise InputError(
                f"{manifest.model}: expected a score_thresh of at least {compiled}, below which the compiled detector "
                f"gives nothing, got {self.score_thresh}; compile it again with a lower one"
            )
        self.module = module
        self._has_mesh = manifest.outputs[-1].name == "mesh"
        _tell_licence(manifest)

    @property
    def device(self) -> str:
        """Where it runs, for people to read."""
        return (
            f"{self.module.manifest.target.name or self.module.manifest.target.mcpu}, {self.module.threads} thread(s)"
        )

    def _forward(self, canvases: Sequence[np.ndarray], score_thresh: float) -> tuple[np.ndarray, ...]:
        bucket = self.module.manifest.bucket(len(canvases), canvases[0].shape[:2])
        return self.module.run(bucket, canvases, score_thresh)

    def _collect(self, handle: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        scores, *rest = handle
        if self._has_mesh:
            mesh = handle[-1]
            if mesh.ndim != 4 or mesh.shape[-1] != 3:
                raise DeployError(f"{self.facts.name}: expected mesh (B, n, V, 3), the library gave {mesh.shape}")
            rest[-1] = mesh.reshape(*mesh.shape[:2], 3 * mesh.shape[2])
        # One class: a row is a face or padding.
        ids = np.where(scores >= 0, np.float32(0), np.float32(-1))
        return (ids[..., None], scores[..., None], *rest)


class CompiledLandmarks(_Compiled, LandmarkStage):
    """Finds the dense landmarks of faces with a compiled landmark net.

    Parameters
    ----------
    module : Module
        Of a landmark net.
    flip, passes, batch_size
        As of `gluonface.analysis.LandmarkStage`.

    Raises
    ------
    InputError
        An argument is out of range.
    """

    def __init__(self, module: Module, *, flip: str = "none", passes: int | str = "auto", batch_size: int = 32):
        manifest = module.manifest
        super().__init__(manifest.facts, buckets=_buckets(manifest), flip=flip, passes=passes, batch_size=batch_size)
        self.module = module
        _tell_licence(manifest)

    def _collect(self, handle: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        if len(handle) != 2:
            raise DeployError(
                f"{self.facts.name}: expected landmarks and scores, the library gave {len(handle)} arrays"
            )
        return handle


def _buckets(manifest: Manifest) -> Mapping[tuple[int, int], list[int]]:
    buckets: dict[tuple[int, int], list[int]] = {}
    for bucket in manifest.buckets:
        buckets.setdefault(bucket.size_hw, []).append(bucket.batch)
    return buckets


def _tell_licence(manifest: Manifest) -> None:
    facts = manifest.facts
    if facts.research_only and facts.name not in _said:
        _said.add(facts.name)
        licence_log.warning("%s: these weights are for non-commercial research only. %s", facts.name, facts.terms)
