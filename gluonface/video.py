"""The one door for videos: a file, an address, a camera, a folder or any row of pictures becomes one
(H, W, 3) uint8 RGB frame after another, or a `VideoError` says why not. NumPy and OpenCV only.

One frame is in memory at a time. Rotation that a phone wrote into the file is applied where OpenCV can (FFmpeg).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from .errors import InputError, VideoError
from .image import IMAGE_SUFFIXES, MAX_PIXELS, iter_image_files, load_image

__all__ = ["DEFAULT_FPS", "Frame", "frame_count", "read_frames"]

#: Pictures a second where nothing says how many.
DEFAULT_FPS = 25.0

_LOGGER = logging.getLogger(__name__)


class Frame(NamedTuple):
    """One frame of a video."""

    #: Its number in the video, from 0 on; frames left out count.
    index: int
    #: When it was taken, from the first frame on.
    seconds: float
    #: (H, W, 3) uint8 RGB array.
    image: np.ndarray


def read_frames(
    source: str | os.PathLike | int | Iterable,
    step: int = 1,
    max_frames: int | None = None,
    *,
    fps: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Frame]:
    """The frames of a video, one after another.

    >>> for index, seconds, image in read_frames("walk.mp4", step=5):
    ...     faces = analyzer(image)

    Parameters
    ----------
    source : path, str, int or iterable
        A file, or an address that OpenCV opens ("rtsp://..."); the number of a camera; a folder of pictures, which are
        taken in the order of their names; or an iterable of pictures, of what `load_image` takes, or of `Frame`, which
        keep their numbers and times.
    step : int
        Every so many-th frame only, the first one included.
    max_frames : int, optional
        Stop after giving out so many.
    fps : float, optional
        Frames a second, instead of the times in the file. Pictures are taken to be `DEFAULT_FPS` a second; a camera's
        frames have the times at which they came.
    max_pixels : int
        Largest width times height.

    Returns
    -------
    iterator of Frame
        (index, seconds, image). The video is opened at the first frame, and closed after the last one or when the
        iterator is dropped. A file that ends long before its header says is read as far as it goes, with a warning in
        the log.

    Raises
    ------
    VideoError
        Missing, empty, not a video, without frames, too large; what can be seen from outside is raised at once.
    ImageError
        One of the pictures cannot be read.
    InputError
        An argument is out of range.
    """
    if step < 1 or (max_frames is not None and max_frames < 1):
        raise InputError(f"expected step and max_frames of at least 1, got step={step}, max_frames={max_frames}")
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise InputError(f"expected fps above 0, got {fps}")
    if _is_camera(source):
        frames = _captured(int(source), f"camera {source}", step, fps, max_pixels)
    elif isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        if _check_file(name) == "folder":
            frames = _pictures(_pictures_of(name), step, fps, max_pixels)
        else:
            frames = _captured(name, name, step, fps, max_pixels)
    elif isinstance(source, np.ndarray) and source.ndim != 4:
        raise InputError(f"expected a video as an array (T, H, W, 3), got {source.shape}")
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, memoryview)):
        frames = _pictures(source, step, fps, max_pixels)
    else:
        raise InputError(
            f"expected a path, a camera's number or an iterable of pictures as a video, got {type(source).__name__}"
        )
    return _first(frames, max_frames)


def _first(frames: Iterator[Frame], count: int | None) -> Iterator[Frame]:
    with contextlib.closing(frames):
        yield from itertools.islice(frames, count)


def frame_count(source, step: int = 1, max_frames: int | None = None) -> int | None:
    """How many frames `read_frames` will give, as far as can be told beforehand: a file's header may be off. None:
    unknown, as for a camera.
    """
    is_path, count = isinstance(source, (str, os.PathLike)), None
    if is_path and Path(source).is_dir():
        count = len(iter_image_files(source))
    elif is_path and Path(source).is_file():
        capture = cv2.VideoCapture(os.fsdecode(source))
        count = _whole(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
    elif not is_path and hasattr(source, "__len__"):
        count = len(source)
    count = None if not count else -(-count // step)
    return count if count is None or max_frames is None else min(count, max_frames)


def _is_camera(source) -> bool:
    return isinstance(source, (int, np.integer)) and not isinstance(source, (bool, np.bool_))


def _check_file(name: str) -> str:
    """Whether it is a "file", a "folder" or an "address"; VideoError for what cannot be a video, without opening it."""
    if "://" in name:
        return "address"
    path = Path(name)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "folder"
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                empty = not file.read(1)
        else:
            empty = False  # a pipe or a device: looking would take from it
    except FileNotFoundError as error:
        raise VideoError(name, "no such file") from error
    except PermissionError as error:
        raise VideoError(name, "no permission to read it") from error
    except (OSError, ValueError) as error:  # ValueError: a zero character in the name
        raise VideoError(name, f"cannot be read: {error}") from error
    if empty:
        raise VideoError(name, "is empty")
    if path.suffix.lower() in IMAGE_SUFFIXES and path.suffix.lower() != ".gif":
        # OpenCV would take photo_7.jpg for the seventh frame of a row of files.
        raise VideoError(name, "is a picture, not a video: give the folder of the pictures, or a list of them")
    return "file"


def _pictures_of(folder: str) -> list[str]:
    files = iter_image_files(folder)
    if not files:
        raise VideoError(folder, f"has no pictures ({' '.join(IMAGE_SUFFIXES)}) in it")
    return files


def _pictures(pictures: Iterable, step: int, fps: float | None, max_pixels: int) -> Iterator[Frame]:
    index = -1  # enumerate() would hold on to the picture before
    for picture in pictures:
        index += 1
        if index % step:
            continue
        if isinstance(picture, Frame):
            yield picture._replace(image=load_image(picture.image, max_pixels=max_pixels))
        else:
            yield Frame(index, index / (fps or DEFAULT_FPS), load_image(picture, max_pixels=max_pixels))
        picture = None  # gone before the next one comes
    if index < 0:
        raise VideoError(f"<{type(pictures).__name__}>", "has no frames")


def _captured(source: str | int, name: str, step: int, fps: float | None, max_pixels: int) -> Iterator[Frame]:
    """Frames of what OpenCV opens."""
    capture = _open(source, name)
    try:
        _check_pixels(name, *(_whole(capture.get(p)) for p in _SIDES), max_pixels)
        count = _whole(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        clock = _Clock(capture, live=_is_camera(source), fps=fps)
        index = -1
        while _grab(capture, name):
            index += 1
            seconds = clock.seconds(index)
            if index % step == 0:
                yield Frame(index, seconds, _retrieve(capture, name, max_pixels))
        if index < 0:
            raise VideoError(name, "has no frame that can be decoded: truncated, or of a codec that is not here")
        # Headers of some formats only estimate the number.
        if index + 1 < 0.9 * count - 1:
            _LOGGER.warning("%s: ends after %d of the %d frames that its header says", name, index + 1, count)
    finally:
        capture.release()


_SIDES = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)


def _open(source: str | int, name: str) -> cv2.VideoCapture:
    try:
        capture = cv2.VideoCapture(source)
    except cv2.error as error:
        raise VideoError(name, f"cannot be opened: {' '.join(str(error).split())}") from error
    if not capture.isOpened():
        capture.release()
        file = "is not a video that OpenCV can open, or is truncated"
        raise VideoError(name, "is not there or in use" if _is_camera(source) else file)
    return capture


def _grab(capture: cv2.VideoCapture, name: str) -> bool:
    try:
        return capture.grab()
    except cv2.error as error:
        raise VideoError(name, f"is damaged: {' '.join(str(error).split())}") from error


def _retrieve(capture: cv2.VideoCapture, name: str, max_pixels: int) -> np.ndarray:
    try:
        good, image = capture.retrieve()
    except cv2.error as error:
        raise VideoError(name, f"is damaged: {' '.join(str(error).split())}") from error
    if not good or image is None or image.size == 0:
        raise VideoError(name, "has a frame that cannot be decoded")
    _check_pixels(name, image.shape[1], image.shape[0], max_pixels)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


def _check_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise VideoError(
            name, f"{width} x {height} is {width * height} pixels, more than the {max_pixels} allowed (max_pixels)"
        )


def _whole(value: float) -> int:
    """A property of a capture; 0 where it is unknown, which comes as 0, as a negative number or as NaN."""
    return int(value) if np.isfinite(value) and value > 0 else 0


class _Clock:
    """Times of frames from the first one on: never going back, whatever the file says."""

    def __init__(self, capture: cv2.VideoCapture, live: bool, fps: float | None):
        self.capture, self.live, self.fps = capture, live, fps
        told = capture.get(cv2.CAP_PROP_FPS)
        # Some containers tell their time base, 90,000 a second, instead.
        self.interval = 1 / told if np.isfinite(told) and 0 < told <= 1000 else 1 / DEFAULT_FPS
        self.first = self.last = None

    def seconds(self, index: int) -> float:
        """Of the frame just grabbed."""
        if self.fps is not None:
            return index / self.fps
        now = time.monotonic() if self.live else self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self.first is None:
            self.first, self.last = now if np.isfinite(now) else 0.0, 0.0
            return 0.0
        now -= self.first
        if not (np.isfinite(now) and (now > self.last or self.live)):
            now = self.last + self.interval
        self.last = now
        return now
