"""From a mesh to a denser one: a linear map of its vertices (RetinaFace, section 4.5, 1k to 53k)."""

from __future__ import annotations

import io
import os

import numpy as np

from ..errors import DataError, InputError
from ..files import write_atomically
from .topology import read_arrays

__all__ = ["DenseMap", "fit_dense_map"]

_KEY = "matrix"
# How far the sum of a row may be from 1: a face at column 4,000 would be shifted by 4 pixels.
_SUM_TOLERANCE = 1e-3


class DenseMap:
    """Each vertex of a denser mesh as a weighted sum of the vertices of a mesh, the same for x, y and z.

    So a turned face has a turned dense mesh; and as the weights of a vertex add up to 1, a shifted face a shifted one.

    Parameters
    ----------
    matrix : (W, V) array
        Weights, for W vertices of the denser mesh.

    Raises
    ------
    InputError
        Not a matrix of finite numbers whose rows add up to 1.
    """

    def __init__(self, matrix: np.ndarray):
        matrix = np.asarray(matrix)
        if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind != "f":
            raise InputError(f"expected a matrix (W, V) of floats, got {matrix.shape} {matrix.dtype}")
        sums = matrix.sum(axis=1, dtype=np.float64)
        off = ~(np.abs(sums - 1) <= _SUM_TOLERANCE)  # true for NaN
        if off.any():
            i = int(np.argmax(off))
            raise InputError(f"expected rows that add up to 1, got {sums[i]:g} in row {i}: a shift would not be kept")
        self.matrix = matrix.astype(np.float32)
        self.matrix.flags.writeable = False

    def __repr__(self) -> str:
        return f"DenseMap({self.matrix.shape[1]} to {self.matrix.shape[0]} vertices)"

    def __call__(self, meshes: np.ndarray) -> np.ndarray:
        """Meshes (..., V, D) to denser ones (..., W, D), float32.

        Raises
        ------
        InputError
            Another number of vertices.
        """
        meshes = np.asarray(meshes, np.float32)
        if meshes.ndim < 2 or meshes.shape[-2] != self.matrix.shape[1]:
            raise InputError(f"expected meshes (..., {self.matrix.shape[1]}, D), got {meshes.shape}")
        # About the first vertex, where sums of float32 are exact enough and a row's sum is hardly felt.
        first = meshes[..., :1, :]
        return self.matrix @ (meshes - first) + first

    def save(self, path: str | os.PathLike) -> None:
        """Write a .npz file, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{_KEY: self.matrix})
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> DenseMap:
        """Read the matrix of a .npz file (array "matrix") or of a .npy file.

        Raises
        ------
        DataError
            The file cannot be read or holds something else.
        """
        arrays = read_arrays(path)
        matrix = arrays.get(_KEY, arrays.get("array"))
        if matrix is None:
            raise DataError(f"{path}: expected an array {_KEY!r}, got {', '.join(sorted(arrays)) or 'none'}")
        try:
            return cls(matrix)
        except InputError as error:
            raise DataError(f"{path}: {error}") from error


def fit_dense_map(coarse: np.ndarray, dense: np.ndarray, ridge: float = 1e-4) -> DenseMap:
    """The linear map that predicts dense meshes of faces best: least squares over all faces and all three axes.

    Parameters
    ----------
    coarse : (n, V, 3) array
    dense : (n, W, 3) array
        The same faces.
    ridge : float
        How strongly weights are kept small, a share of the mean square of the coordinates. Faces are much alike, so
        without it the weights of neighbours grow against each other.

    Raises
    ------
    InputError
        Shapes that do not fit; numbers that are not finite; no ridge.
    """
    coarse, dense = np.asarray(coarse, np.float64), np.asarray(dense, np.float64)
    fits = coarse.ndim == dense.ndim == 3 and len(coarse) == len(dense) and coarse.shape[2] == dense.shape[2]
    if not fits or not coarse.size or not (np.isfinite(coarse).all() and np.isfinite(dense).all()):
        raise InputError(f"expected coarse (n, V, 3) and dense (n, W, 3), finite, got {coarse.shape}, {dense.shape}")
    if not ridge > 0:
        raise InputError(f"expected a ridge above 0, got {ridge}")
    # Weights that add up to 1 are 1 / V each plus some that add up to 0; the latter see only where vertices lie about
    # their mean, and each mesh counts in its own size.
    middle = coarse.mean(axis=1, keepdims=True)
    size = np.maximum(np.sqrt(((coarse - middle) ** 2).mean(axis=(1, 2), keepdims=True)), 1e-12)
    source, target = ((array - middle) / size for array in (coarse, dense))
    source = source.transpose(1, 0, 2).reshape(coarse.shape[1], -1)
    target = target.transpose(1, 0, 2).reshape(dense.shape[1], -1)
    normal = source @ source.T
    normal.flat[:: len(normal) + 1] += ridge * np.trace(normal) / len(normal)
    weights = np.linalg.solve(normal, source @ target.T).T
    weights += (1 - weights.sum(axis=1, keepdims=True)) / weights.shape[1]
    return DenseMap(weights)
