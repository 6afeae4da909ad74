"""What heatmap landmark nets are trained on: section 3.4 of the paper (a bag of tricks, each a switch), and what real
detectors ask for besides.

photo and five points -> similarity transform to the template, disturbed -> crop (size, size, 3) uint8 and its labels;
`HeatmapSamples` makes an epoch of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import InputError
from ....faces import SCHEMES
from ....geometry import HEATMAP_TEMPLATE, five_from_boxes, rotation_matrix_about, similarity_transform
from ...base import FaceLabels
from ...store import SampleStore
from ..affine import Affine
from ..colour import ColourJitter, Degrade, PcaNoise, RandomErasing, random_fill

__all__ = ["HeatmapSamples", "HeatmapTrainTransform"]


@dataclass(frozen=True, kw_only=True)
class HeatmapTrainTransform:
    """A disturbed aligned crop of one face.

    Called as ``transform(image, labels, rng, mirror) -> (image, labels)`` with the labels of one face.

    Parameters
    ----------
    size : int
        Side of the crop in pixels.
    point_jitter : float
        Standard deviation of what is added to each coordinate of the five points before aligning, in shares of the
        crop's side: detectors are not exact. 0.01 is 3.6 % of the distance between the eyes' centres.
    box_prob : float
        Share of crops aligned by the box alone, as where a detector gives no points: upright, roughly in place.
    rotate : float
        Largest turn after aligning, in degrees to either side. The paper: 15 helps.
    scale : float
        Largest change of size after aligning, as a share. The paper: .05 to .2 hurt.
    shift : float
        Largest shift after aligning along x and y, in pixels of a crop of 192. The paper: 5 to 20 hurt.
    mirror_shift : float
        What labels of a mirrored crop are moved to the right by, in shares of its side. People do not label
        symmetrically: those of 300-W put all points a little to the right of where they put them on mirrored photos.
        Half of it is the shift of the labels from the middle, see ``ModelFacts.mirror_shift``.
    jitter : float
        Strength of `ColourJitter`; 0: none.
    pca_noise : float
        Sigma of `PcaNoise`; 0: none.
    random_erasing : float
        Probability of `RandomErasing`.
    degrade : Degrade, optional
        Blur, lost resolution, noise, JPEG.
    """

    size: int = 192
    point_jitter: float = 0.0
    box_prob: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    mirror_shift: float = 0.0
    jitter: float = 0.0
    pca_noise: float = 0.0
    random_erasing: float = 0.0
    degrade: Degrade | None = None

    def __post_init__(self) -> None:
        if self.size < 32:
            raise InputError(f"size must be at least 32 pixels, got {self.size}")
        for name in ("box_prob", "random_erasing", "scale", "jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("point_jitter", "rotate", "shift", "pca_noise"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        ops = [
            ColourJitter(strength=self.jitter) if self.jitter else None,
            PcaNoise(sigma=self.pca_noise) if self.pca_noise else None,
            self.degrade,
            RandomErasing(prob=self.random_erasing) if self.random_erasing else None,
        ]
        object.__setattr__(self, "_ops", [op for op in ops if op is not None])

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator, mirror: bool = False
    ) -> tuple[np.ndarray, FaceLabels]:
        """One crop.

        Parameters
        ----------
        image : (H, W, 3) uint8 RGB
        labels : FaceLabels
            Of one face.
        rng : numpy.random.Generator
        mirror : bool
            Exchange left and right.

        Returns
        -------
        ((size, size, 3) uint8, FaceLabels)
        """
        plan = self.plan(labels, rng, mirror)
        crop, labels = plan.warp(image, random_fill(rng)), plan.labels(labels)
        if mirror and self.mirror_shift and labels.landmarks is not None:
            moved = labels.landmarks + np.float32([self.mirror_shift * self.size, 0])
            labels = labels.with_(landmarks=moved)
        for op in self._ops:
            crop, labels = op(crop, labels, rng)
        return crop, labels

    def plan(self, labels: FaceLabels, rng: np.random.Generator, mirror: bool = False) -> Affine:
        """Where the crop lies on the photo."""
        five = None if rng.uniform() < self.box_prob else _five_points(labels)
        if five is None:
            five = five_from_boxes(labels.boxes[0])
        template = HEATMAP_TEMPLATE * self.size
        # Disturbing the template's points is disturbing the face's, in pixels of the crop.
        matrix = similarity_transform(five, template + rng.normal(0, self.point_jitter * self.size, template.shape))
        middle = (self.size / 2, self.size / 2)
        turn = rng.uniform(-self.rotate, self.rotate)
        factor = rng.uniform(1 - self.scale, 1 + self.scale)
        disturbed = rotation_matrix_about(middle, turn, factor)
        disturbed[:, 2] += rng.uniform(-self.shift, self.shift, size=2) * (self.size / 192)
        plan = Affine(matrix, (self.size, self.size)).then(Affine(disturbed, (self.size, self.size)))
        if mirror:
            plan = plan.then(Affine(np.array([[-1.0, 0, self.size], [0, 1, 0]]), plan.size_hw))
        return plan


def _five_points(labels: FaceLabels) -> np.ndarray | None:
    """The five points (5, 2) of a face: of its dense landmarks where all are known, else as labelled, else None."""
    if labels.landmarks is not None:
        five = SCHEMES[labels.scheme].five_points(labels.landmarks[0])
        if np.isfinite(five).all():
            return five
    return labels.landmarks5[0] if np.isfinite(labels.landmarks5[0]).all() else None


class HeatmapSamples:
    """The crops that make a training epoch: one of every labelled face, or two, as it is and mirrored.

    Item i of an epoch depends on (seed, epoch, i) alone, see :class:`.retinaface.RetinaFaceSamples`.

    Parameters
    ----------
    dataset : FaceJsonLines, SampleStore, or another object with a ``store``
    transform : HeatmapTrainTransform
    seed : int
    flip_copies : bool
        The paper's first trick: each face also mirrored, its landmarks exchanged. Twice the epoch.
    source_weights : mapping of str to float, optional
        Share of a source's faces that an epoch takes, another random part each time; 1 for a source not named.

    Raises
    ------
    InputError
        No face has landmarks, or faces of one dataset have different schemes.
    """

    def __init__(
        self,
        dataset: Any,
        transform: HeatmapTrainTransform,
        *,
        seed: int = 0,
        flip_copies: bool = False,
        source_weights: Mapping[str, float] | None = None,
    ):
        self.store: SampleStore = getattr(dataset, "store", dataset)
        self.transform, self.seed, self.flip_copies = transform, seed, flip_copies
        weights = dict(source_weights or {})
        sources = sorted({sample.source for sample in self.store.samples})
        if set(weights) - set(sources) or any(not 0 <= weight <= 1 for weight in weights.values()):
            raise InputError(
                f"source_weights must name sources of the dataset ({', '.join(sources)}) with weights between 0 and 1, "
                f"got {weights}"
            )
        schemes = {sample.faces.scheme for sample in self.store.samples} - {None}
        if len(schemes) > 1:
            raise InputError(f"expected landmarks of one scheme, got {', '.join(sorted(schemes))}")
        #: Key of `gluonface.faces.SCHEMES`.
        self.scheme: str | None = next(iter(schemes), None)
        self._faces: dict[str, list[tuple[int, int]]] = {source: [] for source in sources}
        for index, sample in enumerate(self.store.samples):
            self._faces[sample.source] += [(index, face) for face in _labelled(sample.faces)]
        self._counts = {source: round(weights.get(source, 1.0) * len(faces)) for source, faces in self._faces.items()}
        if not sum(self._counts.values()):
            raise InputError("no faces to train on: none has landmarks, or all source_weights are 0")
        self._rows: tuple[int, Sequence[tuple[int, int]]] = (-1, [])

    def __len__(self) -> int:
        return sum(self._counts.values()) * (2 if self.flip_copies else 1)

    def faces(self, epoch: int) -> Sequence[tuple[int, int]]:
        """(image, face) of every item of an epoch, without the mirrored copies."""
        if self._rows[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 0, 2])
            rows = []
            for source, faces in self._faces.items():
                count = self._counts[source]
                rows += faces if count == len(faces) else [faces[i] for i in rng.permutation(len(faces))[:count]]
            self._rows = (epoch, rows)
        return self._rows[1]

    def sample(self, item: int, epoch: int) -> tuple[np.ndarray, FaceLabels]:
        """Item of an epoch: (size, size, 3) uint8 RGB and the labels of its one face."""
        rng = np.random.default_rng([self.seed, epoch, item])
        faces = self.faces(epoch)
        index, face = faces[item % len(faces)]
        image, labels = self.store.read(index)
        return self.transform(image, labels[[face]], rng, mirror=item >= len(faces))

    def describe(self, item: int, epoch: int) -> str:
        """Which image an item comes from, for messages."""
        faces = self.faces(epoch)
        return self.store.samples[faces[item % len(faces)][0]].image_path


def _labelled(labels: FaceLabels) -> list[int]:
    """Faces with at least one landmark."""
    if labels.landmarks is None:
        return []
    known = np.isfinite(labels.landmarks).all(axis=2).any(axis=1)
    return np.flatnonzero(known & ~labels.ignore).tolist()
