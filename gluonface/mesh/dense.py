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
_OF_REGRESSIONS = ("centre", "offset", "canonical")
# How far the sum of a row may be from 1: a face at column 4,000 would be shifted by 4 pixels.
_SUM_TOLERANCE = 1e-3


class DenseMap:
    """Each vertex of a denser mesh as a weighted sum of the vertices of a mesh, the same for x, y and z.

    So a turned face has a turned dense mesh; and as the weights of a vertex add up to 1, a shifted face a shifted one.
    A regression of another kind is taken where it can be brought to this form, see `from_regression`. One that mixes x,
    y and z, a matrix (3W, 3V), cannot: its dense mesh does not turn with the face, nor know where on the photo it is.

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
        matrix = _checked_matrix(matrix)
        sums = matrix.sum(axis=1, dtype=np.float64)
        off = ~(np.abs(sums - 1) <= _SUM_TOLERANCE)  # true for NaN
        if off.any():
            i = int(np.argmax(off))
            raise InputError(
                f"expected rows that add up to 1, got {sums[i]:g} in row {i}: a shift would not be kept. If the meshes "
                "of a regression were centred, say on which vertices: DenseMap.from_regression, or an array 'centre' "
                "in its file"
            )
        self.matrix = matrix.astype(np.float32)
        self.matrix.flags.writeable = False

    @classmethod
    def from_regression(
        cls,
        matrix: np.ndarray,
        centre: int | np.ndarray,
        offset: np.ndarray | None = None,
        canonical: np.ndarray | None = None,
    ) -> DenseMap:
        """The map of a regression of meshes that were centred, whose rows add up to anything, with an offset or none.

        ``dense - c = matrix @ (mesh - c) + offset``, where c is the mean of some vertices of the coarse mesh, of both.
        It is the map of which this is the case, so that a shift is kept. An offset has a frame and a unit, those in
        which the regression was made; for a face on a photo it is turned and scaled by the linear map that takes the
        canonical mesh nearest to that of the face, by least squares.

        Parameters
        ----------
        matrix : (W, V) array
        centre : int or (n,) int array
            The vertices of the coarse mesh whose mean is c: all, or one such as the tip of the nose.
        offset : (W, 3) array, optional
        canonical : (V, 3) array, optional
            Goes with the offset: the coarse mesh of the mean face, in the offset's frame and unit.

        Raises
        ------
        InputError
            Arrays that do not fit each other or are not finite; an offset without a canonical mesh, or with a flat one;
            a vertex of the centre twice.
        """
        matrix = _checked_matrix(matrix)
        count, centre = matrix.shape[1], np.atleast_1d(centre)
        whole = centre.ndim == 1 and centre.size > 0 and centre.dtype.kind in "iu"
        if not whole or centre.min() < 0 or centre.max() >= count or len(np.unique(centre)) < len(centre):
            raise InputError(f"centre: expected different vertices (n,) of 0 to {count - 1}, got {centre!r:.80}")
        weights = matrix.astype(np.float32)
        if (offset is None) != (canonical is None):
            raise InputError("offset and canonical go together: the offset, and the mesh in whose frame and unit it is")
        if offset is not None:
            offset, canonical = np.asarray(offset, np.float64), np.asarray(canonical, np.float64)
            for name, array, rows in (("offset", offset, len(matrix)), ("canonical", canonical, count)):
                if array.shape != (rows, 3) or not np.isfinite(array).all():
                    raise InputError(f"{name}: expected finite numbers ({rows}, 3), got an array of {array.shape}")
            rest = canonical - canonical[centre].mean(axis=0)
            if np.linalg.matrix_rank(rest) < 3:
                raise InputError("canonical: expected a face of three dimensions, got one whose vertices lie flat")
            # This inverse times a centred mesh is the linear map (3, 3) that takes the canonical mesh to it.
            weights += (offset @ np.linalg.pinv(rest)).astype(np.float32)
        # What is missing to 1 goes to the centre.
        weights[:, centre] += (1 - weights.sum(axis=1, keepdims=True, dtype=np.float64)) / len(centre)
        return cls(weights)

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
        """Read the matrix of a .npz file (array "matrix") or of a .npy file. A .npz file with an array "centre", and
        maybe "offset" and "canonical", holds a regression, see `from_regression`.

        Raises
        ------
        DataError
            The file cannot be read or holds something else.
        """
        arrays = read_arrays(path)
        matrix = arrays.pop(_KEY if _KEY in arrays else "array", None)
        if matrix is None:
            raise DataError(f"{path}: expected an array {_KEY!r}, got {', '.join(sorted(arrays)) or 'none'}")
        unknown = sorted(set(arrays) - set(_OF_REGRESSIONS))
        if unknown or (arrays and "centre" not in arrays):
            raise DataError(
                f"{path}: expected beside {_KEY!r} nothing, or 'centre' (vertices) and maybe 'offset' and 'canonical', "
                f"got {', '.join(sorted(arrays))}"
            )
        try:
            return cls.from_regression(matrix, **arrays) if arrays else cls(matrix)
        except InputError as error:
            raise DataError(f"{path}: {error}") from error


def _checked_matrix(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind != "f":
        raise InputError(f"expected a matrix (W, V) of floats, got {matrix.shape} {matrix.dtype}")
    return matrix


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
