"""The frames of a video that are fit to recognise a face by: pose, size, sharpness, light. NumPy and OpenCV only.

What the MOS paper's network is for (section 1): faces are detected and tracked, their pose and quality estimated, and
by these some pictures selected, which go on to be compared with known persons.

Data flow: video -> `read_frames` -> analyzer -> Faces of each frame -> `IouTracker` -> for each face its hard limits,
then a score in [0, 1] (`rate_face`) -> the crops of the best of each track, and nothing else, are kept -> a `FaceTrack`
for each track as soon as it has ended.

The score is a weighted geometric mean of five parts, each 1 where there is nothing to better:

* pose: cos^2(yaw) cos^2(pitch), the share of the face's front that is seen, squared; 0.67 at a yaw of 35 degrees. Roll
  does not count: aligning undoes it.
* size: the square root of the box's area over `FULL_SIZE` pixels, up to 1.
* sharpness: see `sharpness`; 0.5 where the blur's standard deviation is 2 % of the face's size.
* exposure: the share of pixels that are neither black nor white.
* detector: the detector's score.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import cv2
import numpy as np

from .errors import InputError
from .faces import Face, Faces
from .geometry import align_crop, clip_boxes
from .pose import fit_pose
from .tracking import IouTracker
from .video import Frame, read_frames

__all__ = [
    "FULL_SIZE",
    "REASONS",
    "WEIGHTS",
    "FaceTrack",
    "FrameChoice",
    "FrameRules",
    "FrameSelector",
    "best_frames",
    "exposure",
    "rate_face",
    "sharpness",
    "stream_best_frames",
]

#: Size of a face, in pixels, from which more adds nothing: it fills the 112x112 crop that recognition models take
#: without being enlarged. The eyes are 35.2 pixels apart there (`ARCFACE_TEMPLATE_112`) and 0.46 of the box in a photo
#: (`FIVE_IN_BOX`), eyes and mouth 40.7 and 0.359 of it: a box of 77x113, the square root of whose area is 93.
FULL_SIZE = 93.0

#: How much each part of the score counts. Between the frames of one face it is pose and blur that differ most, and they
#: are what recognition suffers from most; light and the detector's doubts decide between equals.
WEIGHTS = {"pose": 0.35, "size": 0.2, "sharpness": 0.25, "exposure": 0.1, "detector": 0.1}

#: Why a frame is not taken for a face, in the order in which it is asked: the first one that holds is counted.
REASONS = {
    "border": "cut off by the border",
    "size": "too small",
    "points": "points all on a line",
    "yaw": "turned aside",
    "pitch": "looking up or down",
    "roll": "tilted",
    "sharpness": "blurred",
    "exposure": "too dark or too bright",
}

# Sharpness is looked at on a face of this size, the smallest that passes by default, so that all faces are shrunk to it
# and size does not count a second time.
_SHARPNESS_SIDE = 40
# Energy of the second derivatives at which sharpness is 0.5. On 161 photographs of faces, from three sources, a blur of
# 1, 2, 3, 4 % of the face's size gave medians of 0.074, 0.031, 0.013, 0.007 (0.117 without), half of the faces lying
# within a factor of 1.3; a smear along a line of 8 and 15 % of it 0.04 and 0.011, whatever its direction.
_HALF_SHARP = 0.03
# Second derivatives along a row, a column and both diagonals, for a step of one pixel; the diagonal's is longer.
_SECOND_DERIVATIVES = tuple(
    np.array(kernel, np.float32)
    for kernel in (
        [[0, 0, 0], [1, -2, 1], [0, 0, 0]],
        [[0, 1, 0], [0, -2, 0], [0, 1, 0]],
        [[0.5, 0, 0], [0, -1, 0], [0, 0, 0.5]],
        [[0, 0, 0.5], [0, -1, 0], [0.5, 0, 0]],
    )
)
# Grey levels, squared, that are taken for noise when the contrast is divided out: a flat patch is not sharp.
_NOISE = 10.0**2
# Grey levels from which on, and up to which, nothing is told apart any more.
_BLACK, _WHITE = 8, 247
# Files have their times in milliseconds.
_TICK = 1e-3
# A box nearer to the border than this, in pixels, was cut there (analyzers clip boxes at the border).
_BORDER = 1.0


@dataclass(frozen=True)
class FrameRules:
    """Which frames of a face are taken: limits that all of them must keep, and how many.

    Parameters
    ----------
    per_face : int
        At most so many frames of each track, the best.
    min_gap_seconds : float
        Frames of one track are at least so far apart: neighbours show the same.
    min_frames : int
        Tracks of fewer frames give none: 3 as SORT has it, since a false alarm seldom lasts.
    max_yaw, max_pitch, max_roll : float
        Largest turn either way, in degrees. By default 35, 30 and 45: recognition loses little up to there, the far eye
        is still seen, and roll is undone by aligning. 180 turns a limit off.
    min_size : float
        Smallest face, in pixels: the square root of the box's area. 40: the crop to recognise it by is enlarged 2.3
        times, and of faces below 35 the paper's pose is not trained.
    min_sharpness : float
        Least sharpness in [0, 1]. 0.25 is a blur of 3.3 % of the face's size, 3 pixels in a crop of 112.
    min_exposure : float
        Least share of pixels that are neither black nor white.
    margin : float
        What a crop shows around the box, in shares of the box's sides, where the frame has it.
    align : bool
        Also give each face aligned by its five points, 112x112.
    report_seconds : float, optional
        A track that lasts is given out, and counted anew, so often: for cameras before which somebody stays. By default
        a track is given out when it has ended.

    Raises
    ------
    InputError
        A value is out of range.
    """

    per_face: int = 1
    min_gap_seconds: float = 1.0
    min_frames: int = 3
    max_yaw: float = 35.0
    max_pitch: float = 30.0
    max_roll: float = 45.0
    min_size: float = 40.0
    min_sharpness: float = 0.25
    min_exposure: float = 0.5
    margin: float = 0.25
    align: bool = False
    report_seconds: float | None = None

    def __post_init__(self):
        ranges = {
            **dict.fromkeys(("per_face", "min_frames"), (1, math.inf)),
            **dict.fromkeys(("min_gap_seconds", "min_size", "margin", "report_seconds"), (0, math.inf)),
            **dict.fromkeys(("max_yaw", "max_pitch", "max_roll"), (0, 180)),
            **dict.fromkeys(("min_sharpness", "min_exposure"), (0, 1)),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"FrameRules.{name}: expected a number from {low} to {high}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values ready for JSON."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


@dataclass(frozen=True, eq=False)
class FrameChoice:
    """A frame that was chosen for a face, and the picture of the face in it."""

    #: Number of the track.
    track: int
    #: Number of the frame in the video.
    index: int
    #: When it was, from the first frame on.
    seconds: float
    #: As detected, in pixels of the frame.
    face: Face
    #: (3,) float32 yaw, pitch, roll in degrees: the detector's, or fitted to the five points where it has none.
    pose: np.ndarray
    #: Square root of the box's area, in pixels.
    size: float
    #: The ranking, in [0, 1].
    score: float
    #: Its parts, each in [0, 1]: pose, size, sharpness, exposure, detector.
    quality: dict[str, float]
    #: (h, w, 3) uint8 RGB array: the box and its margin.
    crop: np.ndarray = field(repr=False)
    #: x, y of the crop's upper left corner in the frame.
    crop_xy: tuple[int, int]
    #: (112, 112, 3) uint8 RGB array, with ``align``.
    aligned: np.ndarray | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers ready for JSON, without the pictures; the face is one of `Faces.to_dict`."""
        height, width = self.crop.shape[:2]
        return {
            "frame": self.index,
            "seconds": round(self.seconds, 3),
            "score": round(self.score, 4),
            "quality": {name: round(value, 4) for name, value in self.quality.items()},
            "size": round(self.size, 1),
            "pose": {name: round(float(v), 2) for name, v in zip(("yaw", "pitch", "roll"), self.pose)},
            "crop": [*self.crop_xy, self.crop_xy[0] + width, self.crop_xy[1] + height],
            "face": self.face.to_dict()["faces"][0],
        }


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """One face from where it came to where it went, and the frames of it that are fit."""

    #: Number of the track, from 0 on.
    id: int
    #: Numbers and times of the first and the last frame in which the face was found.
    first_frame: int
    last_frame: int
    first_seconds: float
    last_seconds: float
    #: In how many frames it was found.
    count: int
    #: How many of these are not fit, by reason (`REASONS`).
    dropped: dict[str, int]
    #: Best first; empty where no frame is fit, or the track is shorter than ``min_frames``.
    best: list[FrameChoice]

    @property
    def score(self) -> float:
        """Of the best frame; 0 without one."""
        return self.best[0].score if self.best else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers ready for JSON, without the pictures."""
        return {
            "track": self.id,
            "first_frame": self.first_frame,
            "last_frame": self.last_frame,
            "first_seconds": round(self.first_seconds, 3),
            "last_seconds": round(self.last_seconds, 3),
            "frames": self.count,
            "dropped": dict(self.dropped),
            "best": [choice.to_dict() for choice in self.best],
        }


# ---- rating one face -------------------------------------------------------------------------------------------------


def sharpness(patch: np.ndarray) -> float:
    """How sharp a face is, in [0, 1], whatever its size, contrast and light.

    The patch is shrunk to 40 pixels (square root of its area), where second derivatives are taken along the rows, the
    columns and both diagonals; the smallest of the four variances, over the variance of the patch, says how much detail
    is left in the direction that is worst. It is the variance of the Laplacian by its directions: the Laplacian adds
    them up, and so sees little of the commonest blur, a smear along the way somebody walks.

    Parameters
    ----------
    patch : (h, w, 3) uint8 RGB array
        The face's box.

    Returns
    -------
    float
        About 0.8 for a sharp face; 0.7, 0.5, 0.3, 0.2 with a blur of 1, 2, 3, 4 % of its size (standard deviation of
        the Gaussian); 0.55 and 0.25 when smeared along a line of 8 and 15 %. Faces smaller than 40 pixels are enlarged
        and count as blurred.
    """
    height, width = patch.shape[:2]
    scale = _SHARPNESS_SIDE / math.sqrt(height * width)
    size_wh = max(3, round(width * scale)), max(3, round(height * scale))
    # Averaged over areas when shrunk, or noise and aliasing would pass for detail.
    small = cv2.resize(_grey(patch), size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    small = small.astype(np.float32)
    energy = min(float(cv2.filter2D(small, cv2.CV_32F, kernel).var()) for kernel in _SECOND_DERIVATIVES)
    energy /= float(small.var()) + _NOISE
    return energy / (energy + _HALF_SHARP)


def exposure(patch: np.ndarray) -> float:
    """Share, in [0, 1], of the pixels of a patch (h, w, 3) uint8 RGB that are neither black (up to 8 of 255) nor white
    (from 247 on).
    """
    grey = _grey(patch)
    return float(((grey > _BLACK) & (grey < _WHITE)).mean())


def _grey(patch: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(patch), cv2.COLOR_RGB2GRAY)


def rate_face(image: np.ndarray, face: Face, pose: np.ndarray) -> tuple[float, dict[str, float]]:
    """How fit a face is to be recognised, without limits: the score and its parts, see the head of this module.

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB array
    face : Face
        In its pixels.
    pose : (3,) array
        Yaw, pitch, roll in degrees.

    Returns
    -------
    score : float
        In [0, 1].
    parts : dict of float
        pose, size, sharpness, exposure, detector, each in [0, 1].
    """
    patch = _cut(image, face.box)
    yaw, pitch = (max(0.0, math.cos(math.radians(angle))) for angle in pose[:2])
    parts = {
        "pose": (yaw * pitch) ** 2,
        "size": min(1.0, _size(face.box) / FULL_SIZE),
        "sharpness": sharpness(patch),
        "exposure": exposure(patch),
        "detector": min(1.0, max(0.0, face.score)),
    }
    return math.prod(parts[name] ** weight for name, weight in WEIGHTS.items()), parts


def _size(box: np.ndarray) -> float:
    return math.sqrt(max(0.0, float(box[2] - box[0])) * max(0.0, float(box[3] - box[1])))


def _pixels(box: np.ndarray, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the pixels that a box covers, one at least."""
    height, width = size_hw
    x1, y1, x2, y2 = (round(float(value)) for value in clip_boxes(box, size_hw))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _cut(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What a box shows, not copied."""
    x1, y1, x2, y2 = _pixels(box, image.shape[:2])
    return image[y1:y2, x1:x2]


# ---- choosing among the frames of each track -------------------------------------------------------------------------


@dataclass
class _Record:
    """What is kept of a track that still goes on.

    Time is cut into bins as long as the gap between chosen frames, and of each the best frame is kept: ones that are
    not neighbours are far enough apart. A choice rules out its bin's two neighbours at most, so 3 n - 2 bins give n
    choices, and only the best so many bins are kept.
    """

    #: Number and time of the frame.
    first_at: tuple[int, float]
    last_at: tuple[int, float]
    count: int = 0
    dropped: Counter = field(default_factory=Counter)
    bins: dict[int, FrameChoice] = field(default_factory=dict)


class FrameSelector:
    """Takes the faces of a video frame by frame, numbered by a tracker, and keeps the best frames of each.

    Holds at most ``3 per_face - 2`` crops of each track that still goes on, and no frame.

    Parameters
    ----------
    rules : FrameRules, optional
    """

    def __init__(self, rules: FrameRules | None = None):
        self.rules = FrameRules() if rules is None else rules
        self._records: dict[int, _Record] = {}

    def add(self, frame: Frame, faces: Faces, ids: np.ndarray) -> list[FaceTrack]:
        """Look at the faces of the next frame.

        Parameters
        ----------
        frame : Frame
            Not kept.
        faces : Faces
            In its pixels.
        ids : (n,) int array
            Track of each face; negative: none.

        Returns
        -------
        list of FaceTrack
            Those that have lasted for ``report_seconds``; they begin anew.

        Raises
        ------
        InputError
            Faces with neither pose nor five points.
        """
        if len(ids) != len(faces):
            raise InputError(f"expected the track of each of {len(faces)} faces, got {len(ids)} numbers")
        if frame.image.shape[:2] != faces.size_hw:
            raise InputError(f"expected faces of a frame of size {frame.image.shape[:2]}, got faces of {faces.size_hw}")
        for number, face in zip((int(number) for number in ids), faces):
            if number < 0:
                continue
            now = frame.index, frame.seconds
            record = self._records.setdefault(number, _Record(now, now))
            record.count += 1
            record.last_at = now
            self._look(record, number, frame, face)
        every = self.rules.report_seconds
        if every is None:
            return []
        return self.end(
            [number for number, record in self._records.items() if frame.seconds - record.first_at[1] >= every]
        )

    def end(self, ids: Iterable[int] | None = None) -> list[FaceTrack]:
        """Give out tracks that have ended, by default all; unknown numbers are passed over."""
        numbers = sorted(self._records) if ids is None else sorted(set(ids) & set(self._records))
        return [self._finished(number, self._records.pop(number)) for number in numbers]

    def _look(self, record: _Record, number: int, frame: Frame, face: Face) -> None:
        rules = self.rules
        reason, pose = self._outside(face)
        if reason is None:
            score, parts = rate_face(frame.image, face, pose)
            least = {"sharpness": rules.min_sharpness, "exposure": rules.min_exposure}
            reason = next((name for name, value in least.items() if parts[name] < value), None)
        if reason is not None:
            record.dropped[reason] += 1
            return
        gap = rules.min_gap_seconds
        place = math.floor((frame.seconds - record.first_at[1]) / gap) if gap else frame.index
        worst, rival = place, record.bins.get(place)
        if rival is None and len(record.bins) >= max(1, 3 * rules.per_face - 2):
            # Of two worst ones the later goes.
            worst = min(record.bins, key=lambda at: (record.bins[at].score, -at))
            rival = record.bins[worst]
        if rival is not None and rival.score >= score:
            return
        record.bins.pop(worst, None)
        record.bins[place] = self._choice(number, frame, face, pose, score, parts)

    def _outside(self, face: Face) -> tuple[str | None, np.ndarray]:
        """Which limit a face breaks that can be told without its pixels, and its pose."""
        rules, nowhere = self.rules, np.full(3, np.nan, np.float32)
        height, width = face.size_hw
        x1, y1, x2, y2 = face.box
        if x1 < _BORDER or y1 < _BORDER or x2 > width - _BORDER or y2 > height - _BORDER:
            return "border", nowhere
        if _size(face.box) < rules.min_size:
            return "size", nowhere
        pose = _pose_of(face)
        if not np.isfinite(pose).all():
            return "points", pose
        if rules.align and not np.ptp(face.alignment_points[0], axis=0).any():
            return "points", pose
        most = {"yaw": rules.max_yaw, "pitch": rules.max_pitch, "roll": rules.max_roll}
        for (name, value), angle in zip(most.items(), pose):
            if abs(angle) > value:
                return name, pose
        return None, pose

    def _choice(self, number, frame, face, pose, score, parts) -> FrameChoice:
        x1, y1, x2, y2 = face.box
        around = self.rules.margin * np.array([x2 - x1, y2 - y1])
        left, top, right, bottom = _pixels(face.box + np.concatenate([-around, around]), frame.image.shape[:2])
        aligned = None
        if self.rules.align:
            aligned = align_crop(frame.image, face.alignment_points[0])
        return FrameChoice(
            track=number,
            index=frame.index,
            seconds=frame.seconds,
            face=face,
            pose=pose,
            size=_size(face.box),
            score=score,
            quality=parts,
            # A copy: a view would hold the whole frame.
            crop=frame.image[top:bottom, left:right].copy(),
            crop_xy=(left, top),
            aligned=aligned,
        )

    def _finished(self, number: int, record: _Record) -> FaceTrack:
        best: list[FrameChoice] = []
        if record.count >= self.rules.min_frames:
            for choice in sorted(record.bins.values(), key=lambda choice: (-choice.score, choice.index)):
                gap = self.rules.min_gap_seconds - _TICK
                apart = all(abs(choice.seconds - other.seconds) >= gap for other in best)
                if apart and len(best) < self.rules.per_face:
                    best.append(choice)
        return FaceTrack(
            id=number,
            first_frame=record.first_at[0],
            last_frame=record.last_at[0],
            first_seconds=record.first_at[1],
            last_seconds=record.last_at[1],
            count=record.count,
            dropped={name: record.dropped[name] for name in REASONS if record.dropped[name]},
            best=best,
        )


def _pose_of(face: Face) -> np.ndarray:
    """(3,) float32 yaw, pitch, roll: the detector's, or fitted to the points; NaN where these lie on a line."""
    if face.pose is not None:
        return face.pose[0]
    if face.landmarks5 is None and face.landmarks is None:
        raise InputError(
            "expected faces with a pose, or with points to fit one to, got neither: use a detector that gives one of "
            "them, such as mos_* or retinaface_*"
        )
    return fit_pose(face.alignment_points)[0][0].astype(np.float32)


# ---- from a video to its faces ---------------------------------------------------------------------------------------


def stream_best_frames(
    analyzer,
    video,
    rules: FrameRules | None = None,
    *,
    tracker: IouTracker | None = None,
    step: int = 1,
    max_frames: int | None = None,
    fps: float | None = None,
    batch_size: int = 4,
    on_frame: Callable[[Frame, Faces, np.ndarray], None] | None = None,
) -> Iterator[FaceTrack]:
    """The faces of a video, each as soon as it has gone: for cameras and streams without an end.

    >>> for track in stream_best_frames(analyzer, 0, FrameRules(align=True)):  # camera 0
    ...     for choice in track.best:
    ...         recognise(choice.aligned)

    Parameters
    ----------
    analyzer : Analyzer
        A `gluonface.FaceAnalyzer`, or what `gluonface.deploy.runtime.load` gives.
    video : path, int or iterable
        What `read_frames` takes.
    rules : FrameRules, optional
    tracker : IouTracker, optional
        One with settings of its own.
    step, max_frames, fps
        See `read_frames`. The tracker sees one frame in ``step``, in which faces move further.
    batch_size : int
        Frames that are looked at together, and so held in memory; a camera's faces come out so many frames late.
    on_frame : callable, optional
        Called with each frame, its faces and their tracks (n,), for example to draw them.

    Yields
    ------
    FaceTrack
        Also those without any fit frame, with ``best`` empty.

    Raises
    ------
    VideoError, ImageError, InputError
        From reading the video; faces with neither pose nor points.
    """
    if batch_size < 1:
        raise InputError(f"expected batch_size of at least 1, got {batch_size}")
    selector = FrameSelector(rules)
    frames = read_frames(video, step, max_frames, fps=fps, max_pixels=analyzer.max_pixels)
    return _streamed(analyzer, frames, selector, IouTracker() if tracker is None else tracker, batch_size, on_frame)


def _streamed(analyzer, frames, selector, tracker, batch_size, on_frame) -> Iterator[FaceTrack]:
    with contextlib.closing(frames):
        while batch := list(itertools.islice(frames, batch_size)):
            for frame, faces in zip(batch, analyzer.stream([frame.image for frame in batch])):
                ids = tracker.update(faces)
                if on_frame is not None:
                    on_frame(frame, faces, ids)
                yield from selector.end(tracker.ended)
                yield from selector.add(frame, faces, ids)
            # Gone before the next ones are read: no more than a batch in memory.
            batch = frame = None
    yield from selector.end()


def best_frames(
    analyzer,
    video,
    rules: FrameRules | None = None,
    *,
    tracker: IouTracker | None = None,
    step: int = 1,
    max_frames: int | None = None,
    fps: float | None = None,
    batch_size: int = 4,
) -> list[FaceTrack]:
    """The faces of a whole video, that with the best frame first; see `stream_best_frames`.

    Tracks without any fit frame come last, with ``best`` empty.
    """
    tracks = stream_best_frames(
        analyzer, video, rules, tracker=tracker, step=step, max_frames=max_frames, fps=fps, batch_size=batch_size
    )
    return sorted(tracks, key=lambda track: (-track.score, track.id))
