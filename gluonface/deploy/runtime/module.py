"""`Module`: the functions of an artefact, arrays in, arrays out."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Sequence

import numpy as np

from ...analysis import cut_batches
from ...errors import DeployError, InputError
from . import libraries
from .manifest import Bucket, Manifest
from .reader import Artifact, open_artifact

__all__ = ["Module", "aligned_empty"]

# DLPack's number of the processor, and TVM's of the allocator that keeps what it freed for the next run.
_CPU, _POOLED = 1, 2
# What TVM's generated code may expect of an address.
_ALIGNMENT = 64

# Threads of TVM's pool that belongs to the calling thread.
_pool = threading.local()


def aligned_empty(shape: tuple[int, ...], dtype=np.uint8) -> np.ndarray:
    """An array, its contents undefined, that a compiled function reads in place."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


class Module:
    """The compiled functions of an artefact.

    Safe to use from several threads: each has a virtual machine of its own, the weights are shared.

    >>> module = Module("retinaface.artefact")
    >>> scores, bboxes, landmarks = module.run("b1_640x640", canvas)  # (1, 640, 640, 3) uint8 RGB

    Parameters
    ----------
    artifact : path or Artifact
        A folder or a zip, or what `open_artifact` gave.
    threads : int
        Threads that one call uses.

    Raises
    ------
    DeployError
        From `open_artifact`, or the library cannot be loaded.
    InputError
        ``threads`` is below 1.
    """

    def __init__(self, artifact: str | os.PathLike | Artifact, *, threads: int = 1):
        if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
            raise InputError(f"expected threads to be a whole number of at least 1, got {threads!r}")
        if not isinstance(artifact, Artifact):
            artifact = open_artifact(artifact)
        self.artifact = artifact
        self.threads = int(threads)
        where = str(artifact.folder)
        self._ffi = libraries.load_runtime(artifact.runtime_libraries, artifact.manifest.versions, where)
        try:
            self._executable = self._ffi.load_module(str(artifact.library))
            names = {b.function for b in self.manifest.buckets}
            if (faces := self.manifest.faces) is not None:
                names |= {faces.function(b, n) for b in self.manifest.buckets for n in faces.batches}
            machine = self._machine()
            missing = sorted(name for name in names if not machine.implements_function(name))
        # Whatever TVM raises: its own errors are registered under names of Python's built-in ones.
        except Exception as error:
            raise DeployError(f"{where}: the library cannot be loaded: {_first_line(error)}") from error
        if missing:
            raise DeployError(f"{where}: expected the functions of the manifest in the library, it lacks {missing}")
        self._local = threading.local()
        self._local.machine = machine
        self._helper: concurrent.futures.ThreadPoolExecutor | None = None
        self._helper_lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """Of the artefact."""
        return self.artifact.manifest

    def __repr__(self) -> str:
        shapes = ", ".join(bucket.function for bucket in self.manifest.buckets)
        return f"Module({self.manifest.model}, {shapes}, {self.threads} thread{'s' * (self.threads > 1)})"

    def run(
        self, function: str | Bucket, canvas: np.ndarray | Sequence[np.ndarray], score_thresh: float = 0.0
    ) -> tuple[np.ndarray, ...]:
        """Call one of the functions, and where the artefact has functions for faces, those of the faces it finds.

        Parameters
        ----------
        function : str or Bucket
            Of ``manifest.buckets``.
        canvas : (B, H, W, 3) uint8 array, RGB, or a sequence of B arrays (H, W, 3)
            An array from `aligned_empty` is read in place; all else is copied first.
        score_thresh : float
            Functions for faces do not look at weaker ones, whose landmarks are then -1.

        Returns
        -------
        tuple of arrays
            As ``manifest.outputs`` says; float32, the caller's own.

        Raises
        ------
        InputError
            No such function, or an array of another shape or type.
        DeployError
            The library reports an error.
        """
        name = function.function if isinstance(function, Bucket) else function
        bucket = next((b for b in self.manifest.buckets if b.function == name), None)
        if bucket is None:
            names = ", ".join(b.function for b in self.manifest.buckets)
            raise InputError(f"{self.manifest.model}: expected one of the functions {names}, got {name!r}")
        canvas = self._aligned(bucket, canvas)
        # TVM makes a pool of threads for each thread that calls it, and never changes its size. A loop of one thread
        # needs none.
        if self.threads > 1 and getattr(_pool, "threads", self.threads) != self.threads:
            return self._helping().submit(self._run_here, bucket, canvas, score_thresh).result()
        return self._run_here(bucket, canvas, score_thresh)

    def _aligned(self, bucket: Bucket, canvas) -> np.ndarray:
        """The input as compiled code reads it; copied, if it must be, to memory that this thread uses again."""
        if isinstance(canvas, np.ndarray):
            fits = canvas.shape == bucket.shape and canvas.dtype == np.uint8
            found = f"{canvas.shape} {canvas.dtype}"
        else:
            canvas = [np.asarray(one) for one in canvas]
            fits = len(canvas) == bucket.batch and all(
                c.shape == bucket.shape[1:] and c.dtype == np.uint8 for c in canvas
            )
            found = f"{len(canvas)} of {sorted({f'{c.shape} {c.dtype}' for c in canvas})}"
        if not fits:
            raise InputError(f"{self.manifest.model}: {bucket.function} takes {bucket.shape} uint8, got {found}")
        if isinstance(canvas, np.ndarray):
            flags = canvas.flags
            if flags.c_contiguous and flags.writeable and canvas.ctypes.data % _ALIGNMENT == 0:
                return canvas
        copies = self._local.__dict__.setdefault("copies", {})
        copy = copies.get(bucket)
        if copy is None:
            copy = copies[bucket] = aligned_empty(bucket.shape)
        for place, one in zip(copy, canvas):
            place[...] = one
        return copy

    def _run_here(self, bucket: Bucket, canvas: np.ndarray, score_thresh: float) -> tuple[np.ndarray, ...]:
        libraries.set_threads(self.threads)
        if self.threads > 1:
            _pool.threads = self.threads
        machine = getattr(self._local, "machine", None)
        if machine is None:
            machine = self._local.machine = self._machine()
        try:
            outputs = machine[bucket.function](self._ffi.from_dlpack(canvas))
            faces = self.manifest.faces
            given = len(outputs) if faces is None else len(outputs) - faces.levels
            # Copied, so that the memory goes back to TVM's pool of it.
            results = tuple(np.array(np.from_dlpack(output)) for output in outputs[:given])
            if faces is None:
                return results
            return (*results, self._landmarks(machine, bucket, *results, outputs[given:], score_thresh))
        except Exception as error:
            raise DeployError(f"{self.manifest.model}: {bucket.function} failed: {_first_line(error)}") from error

    def _landmarks(self, machine, bucket: Bucket, scores, boxes, levels, score_thresh: float) -> np.ndarray:
        """Landmarks (B, n, 2K) of the faces of all canvases together; -1 for what is none, too weak or without area."""
        faces = self.manifest.faces
        landmarks = np.full((*scores.shape, 2 * faces.num_points), -1, np.float32)
        there = (scores >= max(score_thresh, 0)) & (boxes[..., 2:] > boxes[..., :2]).all(axis=-1)
        images, rows = np.nonzero(there)
        for start, stop, batch in cut_batches(len(rows), faces.batches):
            found = images[start:stop], rows[start:stop]
            rois = aligned_empty((batch, 5), np.float32)
            rois[...] = -1
            rois[: stop - start, 0], rois[: stop - start, 1:] = found[0], boxes[found]
            (points,) = machine[faces.function(bucket, batch)](self._ffi.from_dlpack(rois), *levels)
            landmarks[found] = np.from_dlpack(points)[: stop - start].reshape(stop - start, -1)
        return landmarks

    def _machine(self):
        machine = self._executable["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED, _CPU, 0, _POOLED)
        return machine

    def _helping(self) -> concurrent.futures.ThreadPoolExecutor:
        """A thread whose pool has the size wanted here, for callers whose pool has another."""
        with self._helper_lock:
            if self._helper is None:
                self._helper = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="gluonface")
            return self._helper


def _first_line(error: Exception) -> str:
    """TVM's messages go on with a trace of its own functions."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
