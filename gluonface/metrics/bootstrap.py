"""Is one detector better than another? A paired bootstrap over photos. NumPy only.

Photos are drawn with replacement, the same ones for both, and the average precision of both is computed anew: faces of
one photo are not independent of one another, photos are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import InputError
from .curves import average_precision, tie_ends
from .scoring import PhotoMatch

__all__ = ["Comparison", "RankedDetections", "paired_bootstrap"]

# Numbers in one work array: 16 MB.
_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class RankedDetections:
    """All that the average precision of any selection of photos needs: who came before whom, and who was right.

    False alarms behind the last hit change no average precision and are left out. Kept in the JSON of a result.

    Attributes
    ----------
    images : tuple of str (P,)
        The photos, by name.
    faces : ndarray of int (P,)
        Faces of each photo.
    photo, rank : ndarray of int (N,)
        The photo of a detection and its place by score over all photos, 1 the best, equal scores the same.
    hit : ndarray of bool (N,)
        Whether it took a face.
    """

    images: tuple[str, ...]
    faces: np.ndarray
    photo: np.ndarray
    rank: np.ndarray
    hit: np.ndarray

    @classmethod
    def of(cls, images: Sequence[str], matches: Sequence[PhotoMatch]) -> RankedDetections:
        """Rank the detections of photos matched at their first threshold."""
        if len(images) != len(matches):
            raise InputError(f"expected a match for each of {len(images)} images, got {len(matches)}")
        scores = np.concatenate([np.zeros(0), *[m.scores for m in matches]])
        face_of = np.concatenate([np.zeros(0, int), *[m.face_of[0] for m in matches]])
        photo = np.repeat(np.arange(len(matches)), [len(m.scores) for m in matches])
        hit = face_of >= 0
        counted = (face_of != -2) & (scores >= scores[hit].min(initial=np.inf))
        rank = np.unique(-scores[counted], return_inverse=True)[1].reshape(-1) + 1
        faces = np.array([len(m.face_sizes) for m in matches], int)
        return cls(tuple(images), faces, photo[counted], rank, hit[counted])

    def to_dict(self) -> dict:
        """Plain lists: ``images``, ``faces``, and of each photo the ranks of its ``hits`` and ``false_alarms``."""

        def ranks(mask: np.ndarray) -> list[list[int]]:
            return [np.sort(self.rank[mask & (self.photo == p)]).tolist() for p in range(len(self.images))]

        return {
            "images": list(self.images),
            "faces": self.faces.tolist(),
            "hits": ranks(self.hit),
            "false_alarms": ranks(~self.hit),
        }

    @classmethod
    def from_dict(cls, d: Mapping) -> RankedDetections:
        """The inverse of :meth:`to_dict`; InputError when a key is missing or the lengths differ."""
        missing = [key for key in ("images", "faces", "hits", "false_alarms") if key not in d]
        if missing:
            raise InputError(f"expected the keys images, faces, hits and false_alarms, {missing[0]!r} is missing")
        count = len(d["images"])
        if not count == len(d["faces"]) == len(d["hits"]) == len(d["false_alarms"]):
            raise InputError(f"expected faces, hits and false_alarms of each of {count} images")
        groups = [*d["hits"], *d["false_alarms"]]
        lengths = np.array([len(group) for group in groups], int)
        photo = np.repeat(np.tile(np.arange(count), 2), lengths)
        rank = np.array([rank for group in groups for rank in group], int)
        hit = np.arange(len(rank)) < lengths[:count].sum()
        return cls(tuple(d["images"]), np.array(d["faces"], int), photo, rank, hit)

    def ap(self, counts: np.ndarray) -> np.ndarray:
        """Average precision where photo p occurs ``counts[:, p]`` times.

        Parameters
        ----------
        counts : ndarray of int (R, P)

        Returns
        -------
        ndarray (R,)
            0 where a selection has no faces.
        """
        order = np.argsort(self.rank, kind="stable")
        ends = tie_ends(self.rank[order])
        photo, hit = self.photo[order], self.hit[order]
        values = np.zeros(len(counts))
        rows = max(1, _AT_ONCE // max(1, len(order)))
        for start in range(0, len(counts), rows):
            chunk = np.asarray(counts[start : start + rows], np.float64)
            weights = chunk[:, photo]
            taken = np.cumsum(weights, axis=1)[:, ends]
            right = np.cumsum(weights * hit, axis=1)[:, ends]
            num_faces = np.maximum(chunk @ self.faces, 1)[:, None]
            values[start : start + rows] = average_precision(right / num_faces, right / np.maximum(taken, 1))
        return values


@dataclass(frozen=True)
class Comparison:
    """Two detectors on the same photos.

    Attributes
    ----------
    ap50_a, ap50_b : float
        Over all photos.
    difference : float
        ``ap50_a - ap50_b``.
    low, high : float
        95 % interval of the difference (percentiles of the bootstrap).
    p_value : float
        Two-sided: twice the share of selections in which the sign is the other one, at least 2 / (resamples + 1).
    photos, resamples : int
    """

    ap50_a: float
    ap50_b: float
    difference: float
    low: float
    high: float
    p_value: float
    photos: int
    resamples: int

    def to_dict(self) -> dict:
        return asdict(self)


def paired_bootstrap(a: RankedDetections, b: RankedDetections, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two results on the same photos.

    Parameters
    ----------
    a, b : RankedDetections
        With the same images, in any order, and the same number of faces in each.
    resamples : int
        Selections drawn.
    seed : int
        Of the selections.

    Raises
    ------
    InputError
        The photos or their faces differ.
    """
    for one in (a, b):
        if not one.images or len(set(one.images)) != len(one.images):
            raise InputError(f"expected at least one photo, each once, got {len(one.images)} names")
    only = sorted(set(a.images) ^ set(b.images))
    if only:
        raise InputError(
            f"expected results on the same photos, {only[0]} and {len(only) - 1} more are in one of them only"
        )
    place = {image: p for p, image in enumerate(a.images)}
    order = np.array([place[image] for image in b.images])
    if np.any(a.faces[order] != b.faces):
        p = int(np.flatnonzero(a.faces[order] != b.faces)[0])
        raise InputError(f"{b.images[p]}: {a.faces[order][p]} faces in one result, {b.faces[p]} in the other")

    n = len(a.images)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    whole = np.ones((1, n), int)
    ap_a, ap_b = float(a.ap(whole)[0]), float(b.ap(whole)[0])
    differences = a.ap(counts) - b.ap(counts[:, order])
    low, high = np.percentile(differences, [2.5, 97.5])
    least = min(np.sum(differences <= 0), np.sum(differences >= 0))
    p_value = min(1.0, 2 * (least + 1) / (resamples + 1))
    return Comparison(ap_a, ap_b, ap_a - ap_b, float(low), float(high), float(p_value), n, resamples)
