"""Parts of faces, pixel by pixel, from meshes, and their IoU (RetinaFace, section 4.5 and table 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import InputError
from .raster import rasterize, small_first
from .topology import MeshTopology

__all__ = ["PAPER_PARTS", "PARTS", "part_iou", "segment_parts"]

#: Parts 1 to 7 of a label map, 0 being none. Left and right are the viewer's.
PARTS = ("left brow", "right brow", "left eye", "right eye", "nose", "upper lip", "lower lip")
#: The columns of the paper's table 4, each of these parts taken as one.
PAPER_PARTS: Mapping[str, tuple[str, ...]] = {
    "brow": ("left brow", "right brow"),
    "eye": ("left eye", "right eye"),
    "nose": ("nose",),
    "lip": ("upper lip", "lower lip"),
}


def segment_parts(meshes: np.ndarray, topology: MeshTopology, size_hw: tuple[int, int]) -> np.ndarray:
    """Which part of a face each pixel shows.

    What the nose or a cheek hides is not seen, and where faces overlap the larger one, which is nearer, lies on top
    with all of its mesh.

    Parameters
    ----------
    meshes : (n, V, 3) array
        In pixels of the image; n may be 0.
    topology : MeshTopology
        With parts.
    size_hw : (int, int)
        Of the image.

    Returns
    -------
    (H, W) uint8 array
        0 or 1 + the number of a part in ``topology.part_names``, which are `PARTS` in that of `topology_468`.

    Raises
    ------
    InputError
        Meshes of another shape or not finite; a topology without parts.
    """
    meshes = topology.checked(meshes, dims=(3,))
    if meshes.ndim != 3:
        raise InputError(f"expected meshes of shape (n, {topology.num_vertices}, 3), got {meshes.shape}")
    if not topology.part_names:
        raise InputError(f"the topology {topology.name!r} names no parts; train/make_topology.py puts them in")
    labels = np.zeros(size_hw, np.uint8)
    for i in small_first(meshes):
        raster = rasterize(meshes[i], topology.triangles, size_hw)
        labels[raster.pixels] = topology.triangle_parts[raster.seen]
    return labels


def part_iou(
    predicted: Iterable[np.ndarray],
    truth: Iterable[np.ndarray],
    part_names: Sequence[str] = PARTS,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """Intersection over union of each part, over the pixels of all label maps together.

    Parameters
    ----------
    predicted, truth : iterables of (H, W) int arrays
        Label maps, 0 or 1 + the number of a part; pairwise of one shape.
    part_names : sequence of str
        What the numbers mean.
    groups : mapping of str to sequences of str, optional
        Parts that count as one, such as `PAPER_PARTS`; by default each part by itself.

    Returns
    -------
    dict of str to float
        0 to 1 for each group; NaN where no pixel is of it.

    Raises
    ------
    InputError
        Maps that do not fit each other; numbers without a part; groups of unknown parts.
    """
    groups = {name: (name,) for name in part_names} if groups is None else groups
    unknown = {part for parts in groups.values() for part in parts} - set(part_names)
    if unknown:
        raise InputError(f"expected groups of {', '.join(part_names)}, got {', '.join(sorted(unknown))}")
    size = 1 + len(part_names)
    counts = np.zeros((size, size), np.int64)  # of pixels, by predicted and true label
    predicted, truth = list(predicted), list(truth)
    if len(predicted) != len(truth):
        raise InputError(f"expected as many predicted label maps as true ones, got {len(predicted)} and {len(truth)}")
    for i, (one, other) in enumerate(zip(map(np.asarray, predicted), map(np.asarray, truth))):
        if one.shape != other.shape or one.ndim != 2 or one.dtype.kind not in "iu" or other.dtype.kind not in "iu":
            raise InputError(f"label maps {i}: expected two of whole numbers (H, W), got {one.shape} and {other.shape}")
        if one.size and (min(one.min(), other.min()) < 0 or max(one.max(), other.max()) >= size):
            raise InputError(f"label maps {i}: expected labels 0 to {size - 1}, got others")
        pairs = one.astype(np.int64) * size + other
        counts += np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    result = {}
    for group, parts in groups.items():
        rows = [1 + list(part_names).index(part) for part in parts]
        both = counts[np.ix_(rows, rows)].sum()
        either = counts[rows].sum() + counts[:, rows].sum() - both
        result[group] = float(both / either) if either else float("nan")
    return result
