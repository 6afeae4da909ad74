"""Faces of one frame to those of the next: who is who in a video. NumPy only.

Data flow: `Faces` of a frame -> IoU of their boxes with where each track should be by now -> a track number for each.

The tracker is the IoU tracker (Bochinski et al., AVSS 2017) with two things of SORT (Bewley et al., ICIP 2016): a track
lives through a short gap, and over it its box moves on at the speed it had. There is no look at the picture: where one
person takes another's place from one frame to the next, the track goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import InputError
from .faces import Faces
from .geometry import box_iou

__all__ = ["IouTracker"]

# Weight of the newest step in a track's speed: the detector's box trembles by a few hundredths of its side.
_NEWEST = 0.5


@dataclass
class _Track:
    """A box that was seen, the speed of its centre in pixels a frame, and how many frames ago that was."""

    number: int
    box: np.ndarray
    velocity: np.ndarray | None = None
    age: int = 0

    def expected(self) -> np.ndarray:
        """The box (4,) xyxy in the frame now looked at: of the size it had, moved on."""
        return self.box if self.velocity is None else self.box + np.tile(self.velocity * self.age, 2)

    def see(self, box: np.ndarray) -> None:
        step = (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / (2 * self.age)
        self.velocity = step if self.velocity is None else _NEWEST * step + (1 - _NEWEST) * self.velocity
        self.box, self.age = box, 0


class IouTracker:
    """Gives the faces of a video their track numbers, frame by frame.

    >>> tracker = IouTracker()
    >>> for faces in analyzer.stream(frames):
    ...     ids = tracker.update(faces)  # (n,) int64, -1: not tracked

    The pair of track and face that overlaps most is joined first, then the next. The same faces give the same numbers.

    Parameters
    ----------
    iou_thresh : float
        A face goes on with a track when its IoU with the box expected there is at least this. SORT's 0.3: a face that
        moves by half of its width between two frames, at unexpected speed, still does.
    start_score : float
        A face must be at least so sure to begin a track: a false alarm does not.
    keep_score : float
        It must be at least so sure to go on with one: turning aside or in a blur, a face that is known to be there
        scores less.
    max_gap : int
        A track ends when its face was not found in more than this many frames in a row. 10: 0.4 s at 25 frames a
        second.

    Attributes
    ----------
    ended : tuple of int
        The tracks that ended at the last update.

    Raises
    ------
    InputError
        An argument is out of range.
    """

    def __init__(
        self, *, iou_thresh: float = 0.3, start_score: float = 0.6, keep_score: float = 0.3, max_gap: int = 10
    ):
        if not 0 < iou_thresh <= 1:
            raise InputError(f"expected iou_thresh above 0 and up to 1, got {iou_thresh}")
        if not keep_score <= start_score:
            raise InputError(f"expected keep_score up to start_score, got {keep_score} and {start_score}")
        if max_gap < 0:
            raise InputError(f"expected max_gap of at least 0 frames, got {max_gap}")
        self.iou_thresh, self.start_score, self.keep_score, self.max_gap = iou_thresh, start_score, keep_score, max_gap
        self.ended: tuple[int, ...] = ()
        self._tracks: list[_Track] = []
        self._next = 0

    @property
    def alive(self) -> tuple[int, ...]:
        """Numbers of the tracks that may still go on, oldest first."""
        return tuple(track.number for track in self._tracks)

    def update(self, faces: Faces) -> np.ndarray:
        """Number the faces of the next frame.

        Parameters
        ----------
        faces : Faces
            Of the next frame, also when it has none: the tracker counts frames.

        Returns
        -------
        (n,) int64 array
            Track of each face, from 0 on in the order of their beginning; -1 for a face too weak to begin one.
        """
        for track in self._tracks:
            track.age += 1
        numbers = np.full(len(faces), -1, np.int64)
        boxes = faces.boxes.astype(np.float64)
        for row, column in self._pairs(boxes, faces.scores):
            self._tracks[row].see(boxes[column])
            numbers[column] = self._tracks[row].number
        self.ended = tuple(track.number for track in self._tracks if track.age > self.max_gap)
        self._tracks = [track for track in self._tracks if track.age <= self.max_gap]
        for column in np.flatnonzero((numbers < 0) & (faces.scores >= self.start_score)):
            self._tracks.append(_Track(self._next, boxes[column]))
            numbers[column] = self._next
            self._next += 1
        return numbers

    def _pairs(self, boxes: np.ndarray, scores: np.ndarray) -> list[tuple[int, int]]:
        """(row of the track, row of the face) of those that go together."""
        expected = np.array([track.expected() for track in self._tracks]).reshape(-1, 4)
        iou = box_iou(expected, boxes)
        iou[:, scores < self.keep_score] = 0
        pairs, tracks_left, faces_left = [], set(range(len(expected))), set(range(len(boxes)))
        # Equal ones in the order of the tracks: the older one first.
        for place in np.argsort(-iou, axis=None, kind="stable"):
            row, column = (int(index) for index in np.unravel_index(place, iou.shape))
            if iou[row, column] < self.iou_thresh:
                break
            if row in tracks_left and column in faces_left:
                pairs.append((row, column))
                tracks_left.remove(row)
                faces_left.remove(column)
        return pairs
