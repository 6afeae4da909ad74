"""Online feedback sampling: what is trained on next follows from how training goes (MOS section 3.3, figure 2b).

Two halves. In each iteration the share of the box loss that comes from small faces is compared with a threshold: below
it small faces teach the network too little, and the next batch is stitched together from several photos an image, whose
faces are smaller. After each epoch the net is tried on its training photos, and those with false alarms or missed
faces, the set S, are seen again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, TrainingError
from ..metrics.scoring import match_photo
from ..pipeline import FaceAnalyzer
from .observers import Observer

if TYPE_CHECKING:
    from ..data.base import FaceSample
    from ..engine import Engine
    from ..faces import Faces

__all__ = ["OnlineFeedback", "count_errors"]

_logger = logging.getLogger(__name__)

# Batches that a report is a mean over.
_REPORTED = 50


class OnlineFeedback(Observer):
    """The observer that does both; for any detector that is trained with `gluonface.engine.Engine`.

    >>> feedback = OnlineFeedback(store.samples)
    >>> engine = Engine(net, losses, config, watched=("small_box", "all_box"), observers={"feedback": feedback})
    >>> engine.fit(lambda epoch: loader.epoch(epoch, stitch=feedback.stitch,
    ...     extra_items=[samples.extra_item(*pair) for pair in feedback.hard_images()]))

    Parameters
    ----------
    photos : sequence of FaceSample
        The training photos that are labelled completely, or None in place of those that are not: the set S is drawn
        from them, and its numbers are places in this sequence.
    threshold : float
        T: the share of the box loss below which the next batch is stitched; 0 never stitches. The paper's .35.
    small, total : str
        Names of the watched parts: box loss of the small faces and of all, see `gluonface.loss.SmallBoxLoss`.
    mine_every : int
        Epochs between two trials on the training photos; 0: none.
    max_share : float
        S adds at most this share of the photos to an epoch, those with most errors first.
    max_copies : int
        A photo with several errors is added that often at most.
    find : callable, optional
        ``find(net, photos) -> iterable of Faces``, one for each photo; by default `FaceAnalyzer` at ``size``.
    size : int
        Long side in pixels at which the net is tried.
    score_thresh : float
        Score from which a detection counts.
    min_face : float
        Smaller faces, in pixels at that size, may be missed.

    Raises
    ------
    InputError
        A number is out of range.
    """

    def __init__(
        self,
        photos: Sequence[FaceSample | None],
        *,
        threshold: float = 0.35,
        small: str = "small_box",
        total: str = "all_box",
        mine_every: int = 1,
        max_share: float = 0.3,
        max_copies: int = 2,
        find: Callable[[Any, list[FaceSample]], Any] | None = None,
        size: int = 320,
        score_thresh: float = 0.5,
        min_face: float = 10.0,
    ):
        if not 0 <= threshold <= 1 or mine_every < 0 or not max_share >= 0 or max_copies < 1:
            raise InputError(
                "expected threshold in [0, 1], mine_every and max_share of at least 0, max_copies of at least 1, got "
                f"{threshold}, {mine_every}, {max_share} and {max_copies}"
            )
        self.photos = list(photos)
        self.threshold, self.small, self.total = threshold, small, total
        self.mine_every, self.max_share, self.max_copies = mine_every, max_share, max_copies
        self.size, self.score_thresh, self.min_face = size, score_thresh, min_face
        self._find = find or self._find_at_size
        #: Share of the box loss that came from small faces in the last batch; None before the first.
        self.share: float | None = None
        #: False alarms and missed faces in each photo, (len(photos),).
        self.errors = np.zeros(len(self.photos), np.int64)
        self._shares: list[float] = []
        self._decisions: list[bool] = []

    # ---- every iteration: the share of small faces ------------------------------------------------------------------

    def after_batch(self, epoch: int, batch: int, means: dict[str, float]) -> None:
        """Note the share of the box loss that comes from small faces.

        Raises
        ------
        TrainingError
            The loss does not give the parts that are looked at.
        """
        missing = {self.small, self.total} - set(means)
        if missing:
            raise TrainingError(
                f"online feedback needs {', '.join(sorted(missing))} among the watched parts of the loss"
            )
        if means[self.total] > 0:  # a batch without a face says nothing
            self.share = means[self.small] / means[self.total]
            self._shares.append(self.share)

    def stitch(self) -> bool:
        """Whether the batch that begins to be made now is to be stitched."""
        wanted = self.share is not None and self.share < self.threshold
        self._decisions.append(wanted)
        return wanted

    # ---- every epoch: the set S -------------------------------------------------------------------------------------

    def after_epoch(self, engine: Engine) -> None:
        """Try the net on the training photos, each worker on its share of them."""
        if not self.mine_every or engine.epoch % self.mine_every:
            return
        places = [i for i, photo in enumerate(self.photos) if photo is not None]
        own = places[engine.rank :: engine.num_workers]
        errors = np.zeros(len(self.photos), np.int64)
        photos = [self.photos[i] for i in own]
        for i, photo, faces in zip(own, photos, self._find(engine.net, photos)):
            errors[i] = sum(count_errors(faces, photo, self.size, self.score_thresh, self.min_face))
        self.errors = engine.sum_over_workers(errors).astype(np.int64)
        _logger.info(
            "%d errors in %d of %d training photos: %d views are added to the next epoch",
            self.errors.sum(), np.count_nonzero(self.errors), len(places), len(self.hard_images()),
        )  # fmt: skip

    def _find_at_size(self, net: Any, photos: list[FaceSample]) -> Any:
        analyzer = FaceAnalyzer(net, size=self.size, score_thresh=self.score_thresh)
        return analyzer.stream([photo.image_path for photo in photos])

    def hard_images(self) -> list[tuple[int, int]]:
        """The set S: (place in ``photos``, number of the copy from 0) of each view that is added to an epoch."""
        copies = np.minimum(self.errors, self.max_copies)
        most = math.floor(self.max_share * sum(photo is not None for photo in self.photos))
        chosen = []
        for photo in np.argsort(-self.errors, kind="stable"):
            chosen += [(int(photo), copy) for copy in range(copies[photo])]
            if len(chosen) >= most or not copies[photo]:
                break
        return chosen[:most]

    # ---- log and resume ---------------------------------------------------------------------------------------------

    def report(self) -> dict[str, float]:
        """Mean share and share of stitched batches, of the last batches, and the size of S."""
        values = {"hard views": float(len(self.hard_images()))}
        if self._shares:
            values["small share"] = float(np.mean(self._shares[-_REPORTED:]))
        if self._decisions:
            values["stitched"] = float(np.mean(self._decisions[-_REPORTED:]))
        del self._shares[:-_REPORTED], self._decisions[:-_REPORTED]
        return values

    def state_dict(self) -> dict[str, Any]:
        """The last share and the errors of each photo."""
        return {"share": self.share, "errors": self.errors.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises
        ------
        TrainingError
            The state is of another number of photos.
        """
        if len(state["errors"]) != len(self.photos):
            raise TrainingError(
                f"online feedback: expected the errors of {len(self.photos)} photos, got those of "
                f"{len(state['errors'])}: resume with the training data of that run"
            )
        self.share, self.errors = state["share"], np.asarray(state["errors"], np.int64)


def count_errors(
    faces: Faces, photo: FaceSample, size: int, score_thresh: float, min_face: float = 0.0
) -> tuple[int, int]:
    """False alarms and missed faces in a photo, at an intersection over union of 0.5.

    Parameters
    ----------
    faces : Faces
    photo : FaceSample
        All its faces are labelled. What overlaps an ignore region is no false alarm.
    size : int
        Long side in pixels at which the photo was looked at.
    score_thresh : float
        Weaker detections do not count.
    min_face : float
        Faces smaller than this at that size may be missed.
    """
    match = match_photo(faces[faces.scores >= score_thresh], photo.faces, (0.5,))
    taken = match.face_of[0]
    found = np.zeros(len(match.face_sizes), bool)
    found[taken[taken >= 0]] = True
    large = match.face_sizes * (size / max(photo.size_hw)) >= min_face
    return int((taken == -1).sum()), int((~found & large).sum())
