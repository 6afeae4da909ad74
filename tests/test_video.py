"""read_frames: every kind of video, and what is wrong with one."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import weakref

import cv2
import numpy as np
import pytest

from gluonface import video
from gluonface.errors import ImageError, InputError, VideoError
from gluonface.image import save_image
from gluonface.video import DEFAULT_FPS, Frame, frame_count, read_frames


def drawn(t: int, size_hw=(48, 64)) -> np.ndarray:
    """A frame that tells its number by its brightness, reddish."""
    image = np.zeros((*size_hw, 3), np.uint8)
    image[..., 0] = 20 * t + 20
    image[..., 2] = 10
    return image


@pytest.fixture(params=[("walk.avi", "MJPG"), ("walk.mp4", "mp4v")], ids=["avi", "mp4"])
def walk(request, tmp_path) -> str:
    """A video of 9 frames at 10 a second."""
    name, code = request.param
    path = str(tmp_path / name)
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*code), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV does not write {code}")
    for t in range(9):
        writer.write(drawn(t)[..., ::-1])
    writer.release()
    return path


class FakeCapture:
    """A capture of made-up frames that counts how many are open."""

    open = 0
    frames = 5
    shape = (48, 64, 3)
    properties: dict = {}  # noqa: RUF012  replaced, never changed

    def __init__(self, source):
        FakeCapture.source, FakeCapture.open, self.at = source, FakeCapture.open + 1, -1

    def isOpened(self):
        return True

    def get(self, name):
        value = self.properties.get(name, 0.0)
        return value(self.at) if callable(value) else value

    def grab(self):
        self.at += 1
        return self.at < self.frames

    def retrieve(self):
        return True, np.full(self.shape, self.at, np.uint8)

    def release(self):
        FakeCapture.open -= 1


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(FakeCapture, "open", 0)
    monkeypatch.setattr(video.cv2, "VideoCapture", FakeCapture)
    return FakeCapture


def test_the_frames_of_a_file_are_rgb_with_numbers_and_times(walk):
    frames = list(read_frames(walk))
    assert [frame.index for frame in frames] == list(range(9))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(9) / 10, atol=0.002)
    for index, _, image in frames:
        assert image.shape == (48, 64, 3) and image.dtype == np.uint8
        np.testing.assert_allclose(image.mean(axis=(0, 1)), drawn(index)[0, 0], atol=8)


def test_steps_and_a_limit_keep_the_numbers_and_times_of_the_file(walk):
    frames = list(read_frames(walk, step=3))
    assert [frame.index for frame in frames] == [0, 3, 6]
    np.testing.assert_allclose([frame.seconds for frame in frames], [0, 0.3, 0.6], atol=0.002)
    np.testing.assert_allclose(frames[2].image[..., 0].mean(), drawn(6)[0, 0, 0], atol=8)
    assert [frame.index for frame in read_frames(walk, step=2, max_frames=2)] == [0, 2]
    assert [frame.seconds for frame in read_frames(walk, step=4, fps=2)] == [0, 2, 4]


def test_the_number_of_frames_is_told_beforehand(walk, tmp_path):
    assert frame_count(walk) == 9
    assert frame_count(walk, step=2) == len(list(read_frames(walk, step=2))) == 5
    assert frame_count(walk, step=2, max_frames=3) == 3
    assert frame_count([drawn(0)] * 7, step=3) == 3
    assert frame_count(0) is None
    assert frame_count(iter([drawn(0)])) is None
    assert frame_count(str(tmp_path / "missing.mp4")) is None


def test_arrays_paths_and_a_folder_are_videos_too(tmp_path):
    for t in range(3):
        save_image(tmp_path / f"{t:03d}.png", drawn(t))
    paths = sorted(tmp_path.iterdir())
    for source in ([drawn(t) for t in range(3)], np.stack([drawn(t) for t in range(3)]), paths, tmp_path):
        frames = list(read_frames(source))
        assert [(frame.index, frame.seconds) for frame in frames] == [(t, t / DEFAULT_FPS) for t in range(3)]
        for frame in frames:
            np.testing.assert_array_equal(frame.image, drawn(frame.index))
    assert [frame.seconds for frame in read_frames(paths, fps=2, step=2)] == [0, 1]


def test_frames_of_another_reader_keep_their_numbers_and_times():
    frames = [Frame(7, 1.5, drawn(0)), Frame(9, 2.5, drawn(1))]
    assert [(frame.index, frame.seconds) for frame in read_frames(frames)] == [(7, 1.5), (9, 2.5)]


def test_one_frame_at_a_time_is_in_memory():
    images, most = [], 0

    def source():
        for t in range(50):
            image = drawn(t % 10)
            images.append(weakref.ref(image))
            yield image
            del image
            nonlocal most
            most = max(most, sum(image() is not None for image in images))

    for frame in read_frames(source()):
        del frame
    assert len(images) == 50
    assert most == 0


def test_an_endless_video_gives_its_first_frame_at_once():
    frames = read_frames(drawn(0) for _ in itertools.count())
    assert next(frames).index == 0
    assert next(frames).index == 1


@pytest.mark.parametrize("how", ["read to the end", "limited", "closed", "dropped", "failed", "too large"])
def test_the_capture_is_closed_whatever_happens(fake, tmp_path, how, monkeypatch):
    path = tmp_path / "walk.mp4"
    path.write_bytes(b"video")
    if how == "failed":
        monkeypatch.setattr(fake, "retrieve", lambda self: (_ for _ in ()).throw(cv2.error("broken")))
    if how == "too large":
        monkeypatch.setattr(fake, "shape", (480, 640, 3))
    frames = read_frames(path, max_frames=2 if how == "limited" else None, max_pixels=10_000)
    assert fake.open == 0  # nothing is opened before it is needed
    if how in ("read to the end", "limited"):
        assert len(list(frames)) == (2 if how == "limited" else 5)
    elif how in ("failed", "too large"):
        with pytest.raises(VideoError, match="broken" if how == "failed" else "more than the 10000 allowed"):
            next(frames)
    else:
        next(frames)
        assert fake.open == 1
        if how == "closed":
            frames.close()
        else:
            del frames
            gc.collect()
    assert fake.open == 0


def test_a_camera_is_opened_by_its_number_and_timed_by_the_clock(fake, monkeypatch):
    clock = iter([100.0, 100.5, 102.0])
    monkeypatch.setattr(video.time, "monotonic", lambda: next(clock))
    assert [frame.seconds for frame in read_frames(1, max_frames=3)] == [0, 0.5, 2.0]
    assert fake.source == 1


def test_an_address_goes_to_opencv_as_it_is(fake):
    next(read_frames("rtsp://camera/stream"))
    assert fake.source == "rtsp://camera/stream"


def test_times_that_do_not_grow_are_replaced(fake, monkeypatch, tmp_path):
    (tmp_path / "walk.mp4").write_bytes(b"video")
    times = [40.0, 80.0, 80.0, -1.0, 400.0]
    properties = {cv2.CAP_PROP_FPS: 50.0, cv2.CAP_PROP_POS_MSEC: lambda at: times[at]}
    monkeypatch.setattr(fake, "properties", properties)
    seconds = [frame.seconds for frame in read_frames(tmp_path / "walk.mp4")]
    np.testing.assert_allclose(seconds, [0, 0.04, 0.06, 0.08, 0.36])


def test_a_grey_video_becomes_rgb(fake, monkeypatch):
    monkeypatch.setattr(fake, "shape", (48, 64))
    assert next(read_frames(0)).image.shape == (48, 64, 3)


def test_a_video_that_ends_before_its_header_says_is_read_and_said(fake, monkeypatch, caplog):
    monkeypatch.setattr(fake, "properties", {cv2.CAP_PROP_FRAME_COUNT: 100.0})
    with caplog.at_level(logging.WARNING, logger="gluonface"):
        assert len(list(read_frames("http://host/walk.mp4"))) == 5
    assert "ends after 5 of the 100 frames" in caplog.text
    caplog.clear()
    list(read_frames("http://host/walk.mp4", max_frames=3))
    assert not caplog.text


def test_a_truncated_file_is_a_video_error(walk):
    with open(walk, "r+b") as file:  # noqa: PTH123
        file.truncate(os.path.getsize(walk) // 2)  # noqa: PTH202
    with pytest.raises(VideoError, match="walk.*(not a video|truncated)"):
        list(read_frames(walk))


def test_what_is_no_video_says_so(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video, " * 100)
    (tmp_path / "folder").mkdir()
    save_image(tmp_path / "photo_7.png", drawn(0))
    for name, says in (
        ("missing.mp4", "no such file"),
        ("empty.mp4", "is empty"),
        ("folder", "has no pictures"),
        ("photo_7.png", "is a picture, not a video"),
        ("zero\0.mp4", "cannot be read"),
    ):
        with pytest.raises(VideoError, match=says) as caught:
            read_frames(tmp_path / name)  # at once, without asking for a frame
        assert caught.value.source == str(tmp_path / name)
    with pytest.raises(VideoError, match="not a video that OpenCV can open"):
        list(read_frames(tmp_path / "text.mp4"))


def test_a_camera_that_is_not_there_is_a_video_error():
    with pytest.raises(VideoError, match="camera 97: is not there"):
        list(read_frames(97))


def test_a_video_without_frames_is_a_video_error(fake, monkeypatch):
    with pytest.raises(VideoError, match="has no frames"):
        list(read_frames([]))
    monkeypatch.setattr(fake, "frames", 0)
    with pytest.raises(VideoError, match="no frame that can be decoded"):
        list(read_frames(0))


def test_a_picture_that_cannot_be_read_is_an_image_error_that_names_it(tmp_path):
    (tmp_path / "1.png").write_bytes(b"broken")
    frames = read_frames([drawn(0), tmp_path / "1.png"])
    next(frames)
    with pytest.raises(ImageError, match="1.png"):
        next(frames)


def test_frames_that_are_too_large_are_refused(walk):
    with pytest.raises(VideoError, match="64 x 48 is 3072 pixels, more than the 3000 allowed"):
        next(read_frames(walk, max_pixels=3000))
    with pytest.raises(ImageError, match="more than the 3000 allowed"):
        next(read_frames([drawn(0)], max_pixels=3000))


@pytest.mark.parametrize("options", [{"step": 0}, {"max_frames": 0}, {"fps": 0}, {"fps": float("nan")}])
def test_a_wrong_option_is_an_input_error(options):
    with pytest.raises(InputError, match="expected"):
        read_frames([drawn(0)], **options)


@pytest.mark.parametrize("source", [drawn(0), b"bytes", None, 1.5, True])
def test_what_cannot_be_a_video_is_an_input_error(source):
    with pytest.raises(InputError, match="expected a"):
        read_frames(source)
