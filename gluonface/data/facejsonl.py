"""`FaceJsonLines`: a dataset of face annotations in JSON lines, the format of :mod:`gluonface.data.jsonl`, and the
meshes that lie beside it: V vertices a face.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError, InputError
from ..mesh import MeshTopology
from ..mesh.topology import read_arrays
from .base import FaceSample
from .dataset import FaceDataset
from .jsonl import read_jsonl, write_jsonl

__all__ = ["FaceJsonLines", "attach_meshes", "write_jsonl"]


def attach_meshes(samples: Sequence[FaceSample], meshes: str | os.PathLike, topology: MeshTopology) -> list[FaceSample]:
    """Samples whose faces have their meshes beside boxes and points.

    Parameters
    ----------
    samples : sequence of FaceSample
        Their ``mesh_row`` says which row is whose: the field ``mesh468`` of the annotations, whatever V.
    meshes : path
        An .npz file of one array, or an .npy file: (R, V, 3), x and y in pixels of the photos, z in the same unit.
    topology : MeshTopology
        Of V vertices; depth will count from its nose tip.

    Returns
    -------
    list of FaceSample
        Those without any mesh as they are.

    Raises
    ------
    DataError
        The file cannot be read or is of another shape; a face has a row that there is not, or one that is not finite.
    """
    arrays = read_arrays(meshes)
    if len(arrays) != 1:
        raise DataError(f"{meshes}: expected one array of meshes, got {', '.join(arrays) or 'none'}")
    array = next(iter(arrays.values()))
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[1:] != (topology.num_vertices, 3):
        raise DataError(
            f"{meshes}: expected floats (R, {topology.num_vertices}, 3) for {topology.name}, got {array.dtype} of "
            f"shape {array.shape}; another kind of mesh needs its own topology"
        )
    return [_with_mesh(sample, array, meshes, topology) for sample in samples]


def _with_mesh(sample: FaceSample, array: np.ndarray, source, topology: MeshTopology) -> FaceSample:
    rows = sample.faces.mesh_row
    known = rows >= 0
    if not known.any():
        return sample
    if rows.max() >= len(array):
        raise DataError(f"{sample.name}: its mesh is row {rows.max()}, {source} has {len(array)}; it belongs to others")
    mesh = np.full((len(rows), *array.shape[1:]), np.nan, np.float32)
    mesh[known] = array[rows[known]]
    if not np.isfinite(mesh[known]).all():
        raise DataError(f"{source}: expected finite numbers, the mesh of a face in {sample.name} has others")
    mesh[..., 2] -= mesh[:, topology.nose_tip, None, 2]
    return dataclasses.replace(sample, faces=sample.faces.with_(mesh=mesh, mesh_flip=topology.flip_index))


class FaceJsonLines(FaceDataset):
    """Images and face labels from a JSON-lines file; items and attributes as `FaceDataset`.

    Parameters
    ----------
    path : path
        The annotation file.
    images : path, optional
        Folder the image paths in the file are relative to; ``images`` beside the file by default.
    sources : sequence of str, optional
        Keep only images of these sources.
    cache : None, "bytes" or "memory"
        What to keep of an image once it was read, see `SampleStore`.
    meshes : path, optional
        File of the faces' meshes; goes with `topology`. See `attach_meshes`.
    topology : MeshTopology, optional

    Raises
    ------
    DataError
        When the file or the images folder is missing, or a line is wrong; the message names the line. When meshes are
        missing or do not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        images: str | os.PathLike | None = None,
        sources: Sequence[str] | None = None,
        cache: str | None = None,
        meshes: str | os.PathLike | None = None,
        topology: MeshTopology | None = None,
    ):
        samples = read_jsonl(path, images, sources)
        folder = Path(path).parent / "images" if images is None else Path(images)
        if samples and not folder.is_dir():
            raise DataError(f"{folder}: the images folder of {path} is missing; name another one with images=...")
        if (meshes is None) != (topology is None):
            raise InputError("meshes and topology go together, got only one of them")
        if meshes is not None:
            samples = attach_meshes(samples, meshes, topology)
        super().__init__(samples, cache)
