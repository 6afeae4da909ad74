"""The frames that are fit to recognise somebody by: what is rated how, what is kept, and how little."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import weakref

import cv2
import numpy as np
import pytest

from gluonface.analysis import Analyzer
from gluonface.errors import InputError, VideoError
from gluonface.faces import Faces
from gluonface.frames import (
    FULL_SIZE,
    REASONS,
    WEIGHTS,
    FrameRules,
    FrameSelector,
    best_frames,
    exposure,
    rate_face,
    sharpness,
    stream_best_frames,
)
from gluonface.geometry import ARCFACE_TEMPLATE_112, FIVE_IN_BOX, five_from_boxes, warp_points
from gluonface.tracking import IouTracker
from gluonface.video import Frame

SIZE_HW = (240, 320)
RULES = FrameRules(min_frames=1)


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """A picture of detail at all scales and middling brightness, (240, 320, 3)."""
    rng = np.random.default_rng(3)
    picture = sum(
        cv2.resize(rng.normal(0, 12, (240 // k, 320 // k)), (320, 240), interpolation=cv2.INTER_CUBIC)
        for k in (1, 2, 4, 8, 16)
    )
    return np.repeat(np.clip(128 + picture, 20, 235).astype(np.uint8)[..., None], 3, axis=2)


def face(x=160.0, y=120.0, size=80.0, pose=(0.0, 0.0, 0.0), score=0.9, points=True) -> Faces:
    """One square face about (x, y)."""
    boxes = np.array([[x - size / 2, y - size / 2, x + size / 2, y + size / 2]])
    return Faces(
        boxes,
        [score],
        landmarks5=five_from_boxes(boxes) if points else None,
        pose=None if pose is None else [pose],
        size_hw=SIZE_HW,
    )


def together(*parts: Faces) -> Faces:
    return Faces(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        landmarks5=np.concatenate([part.landmarks5 for part in parts]),
        pose=np.concatenate([part.pose for part in parts]),
        size_hw=SIZE_HW,
    )


class Scripted:
    """An analyzer that finds in each frame what it was told."""

    max_pixels = 10**6

    def __init__(self, script):
        self.script = iter(script)

    def stream(self, images):
        for _ in images:
            yield next(self.script)


def chosen(tracks) -> list[list[int]]:
    return [[choice.index for choice in track.best] for track in tracks]


# Rating


def test_sharpness_falls_as_the_blur_grows_and_hardly_depends_on_size(texture):
    patch = texture[40:200, 40:200]
    blurred = [sharpness(cv2.GaussianBlur(patch, (0, 0), share * 160)) for share in (0.01, 0.02, 0.03, 0.04, 0.08)]
    assert sharpness(patch) > blurred[0]
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[-1] < 0.1
    for share in (0.01, 0.02):
        soft = cv2.GaussianBlur(patch, (0, 0), share * 160)
        values = [
            sharpness(cv2.resize(soft, (side, side), interpolation=cv2.INTER_AREA)) for side in (160, 120, 80, 56, 40)
        ]
        assert max(values) - min(values) < 0.15, values


@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
def test_sharpness_sees_a_smear_in_any_direction(texture, degrees):
    kernel = np.zeros((41, 41), np.float32)
    for step in np.linspace(-12, 12, 200):
        angle = math.radians(degrees)
        kernel[round(20 + step * math.sin(angle)), round(20 + step * math.cos(angle))] += 1 / 200
    patch = texture[40:200, 40:200]
    before, after = (value / (1 - value) for value in map(sharpness, (patch, cv2.filter2D(patch, -1, kernel))))
    assert after < before / 6  # of the sum over the directions some three quarters would be left


def test_sharpness_does_not_depend_on_contrast_and_light(texture):
    patch = texture[40:200, 40:200]
    dim = (patch * 0.5).astype(np.uint8)
    assert sharpness(dim) == pytest.approx(sharpness(patch), abs=0.05)
    assert sharpness(np.full((80, 80, 3), 90, np.uint8)) == 0


def test_sharpness_takes_patches_of_any_size(texture):
    for size_hw in ((1, 1), (1, 40), (3, 200), (240, 320)):
        assert 0 <= sharpness(texture[: size_hw[0], : size_hw[1]]) <= 1


def test_exposure_is_the_share_of_pixels_that_tell_something():
    patch = np.full((10, 10, 3), 128, np.uint8)
    patch[:3], patch[8:] = 0, 255
    assert exposure(patch) == pytest.approx(0.5)


def test_the_score_is_the_weighted_mean_that_the_module_tells(texture):
    score, parts = rate_face(texture, face(size=40, pose=(30, -20, 70), score=0.5)[0], np.array([30, -20, 70]))
    assert parts["pose"] == pytest.approx((math.cos(math.radians(30)) * math.cos(math.radians(20))) ** 2)
    assert parts["size"] == pytest.approx(40 / FULL_SIZE)
    assert parts["detector"] == pytest.approx(0.5)
    assert parts["sharpness"] == sharpness(texture[100:140, 140:180])
    assert list(parts) == list(WEIGHTS)
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert score == pytest.approx(math.exp(sum(WEIGHTS[name] * math.log(value) for name, value in parts.items())))


def test_the_full_size_fills_the_crop_for_recognition_without_enlarging():
    eyes, mouth = (
        np.linalg.norm(ARCFACE_TEMPLATE_112[[0, 1]].mean(0) - ARCFACE_TEMPLATE_112[[3, 4]].mean(0)),
        np.linalg.norm(FIVE_IN_BOX[[0, 1]].mean(0) - FIVE_IN_BOX[[3, 4]].mean(0)),
    )
    width = np.linalg.norm(np.subtract(*ARCFACE_TEMPLATE_112[:2])) / np.subtract(*FIVE_IN_BOX[[1, 0], 0])
    assert pytest.approx(math.sqrt(width * eyes / mouth), abs=0.5) == FULL_SIZE


def test_a_face_turned_right_back_or_of_score_0_scores_0_and_nothing_is_outside_0_and_1(texture):
    for pose in ((120.0, 0.0, 0.0), (0.0, 100.0, 0.0)):
        assert rate_face(texture, face()[0], np.array(pose))[0] == 0
    score, parts = rate_face(texture, face(size=200, score=3.0)[0], np.zeros(3))
    assert parts["size"] == parts["detector"] == 1
    assert 0 <= score <= 1


# Limits


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (face(x=40), "border"),
        (face(x=280.5), "border"),
        (face(y=40.5), "border"),
        (face(size=39), "size"),
        (face(pose=(36, 0, 0)), "yaw"),
        (face(pose=(-36, 0, 0)), "yaw"),
        (face(pose=(0, 31, 0)), "pitch"),
        (face(pose=(0, 0, -46)), "roll"),
        (face(pose=(34, -29, 44), size=41), None),
        (face(x=42), None),
    ],
)
def test_a_frame_outside_a_limit_is_dropped_and_counted(texture, found, reason):
    selector = FrameSelector(RULES)
    selector.add(Frame(0, 0.0, texture), found, np.array([0]))
    (track,) = selector.end()
    assert track.dropped == ({} if reason is None else {reason: 1})
    assert len(track.best) == (reason is None)
    assert set(track.dropped) <= set(REASONS)


def test_blurred_and_dark_frames_are_dropped(texture):
    selector = FrameSelector(RULES)
    frames = (cv2.GaussianBlur(texture, (0, 0), 6), np.where(texture > 150, texture, 0), texture)
    for index, image in enumerate(frames):
        selector.add(Frame(index, index / 25, image), face(), np.array([0]))
    (track,) = selector.end()
    assert track.dropped == {"sharpness": 1, "exposure": 1}
    assert chosen([track]) == [[2]]


def test_a_pose_is_fitted_to_the_points_where_the_detector_has_none(texture):
    # The template squeezed to half its width, as if turned by some 60 degrees, and tilted.
    narrow = ARCFACE_TEMPLATE_112 @ np.diag([0.6, 1.0]) + [100, 70]
    narrow[2, 0] -= 12
    for points, reason in ((five_from_boxes(face().boxes), None), (narrow[None], "yaw")):
        selector = FrameSelector(RULES)
        found = face(pose=None).with_(landmarks5=points)
        selector.add(Frame(0, 0.0, texture), found, np.array([0]))
        (track,) = selector.end()
        assert list(track.dropped) == ([] if reason is None else [reason])
        if reason is None:
            assert np.abs(track.best[0].pose).max() < 15
            assert track.best[0].face.pose is None


def test_points_on_a_line_are_a_reason_of_their_own(texture):
    line = np.linspace(100, 140, 5)[None, :, None].repeat(2, axis=2)
    for found, rules in (
        (face(pose=None).with_(landmarks5=line), RULES),
        (face().with_(landmarks5=np.full((1, 5, 2), 120.0)), FrameRules(min_frames=1, align=True)),
    ):
        selector = FrameSelector(rules)
        selector.add(Frame(0, 0.0, texture), found, np.array([0]))
        assert selector.end()[0].dropped == {"points": 1}


def test_faces_with_neither_pose_nor_points_are_an_input_error(texture):
    with pytest.raises(InputError, match="neither"):
        FrameSelector().add(Frame(0, 0.0, texture), face(pose=None, points=False), np.array([0]))


def test_faces_of_another_frame_or_number_are_an_input_error(texture):
    with pytest.raises(InputError, match="frame of size"):
        FrameSelector().add(Frame(0, 0.0, texture[:100]), face(), np.array([0]))
    with pytest.raises(InputError, match="track of each of 1 faces"):
        FrameSelector().add(Frame(0, 0.0, texture), face(), np.array([0, 1]))


@pytest.mark.parametrize(
    "options",
    [
        {"per_face": 0},
        {"min_gap_seconds": -1},
        {"max_yaw": 181},
        {"min_size": float("nan")},
        {"min_sharpness": 1.1},
        {"margin": -0.1},
    ],
)
def test_a_rule_out_of_range_is_an_input_error_that_names_it(options):
    with pytest.raises(InputError, match=f"FrameRules.{next(iter(options))}: expected a number from"):
        FrameRules(**options)


# Choosing


def frames_of(texture, count, fps=10.0):
    return [Frame(index, index / fps, texture) for index in range(count)]


def test_the_frontal_frame_of_each_face_wins(texture):
    yaws = (30, 20, 10, 4, -6, -16)
    script = [
        together(face(x=100, pose=(yaw, 0, 0)), face(x=220, pose=(yaw - 20, 0, 0))) for yaw in yaws
    ]  # the second one is at its best in the second frame
    tracks = best_frames(Scripted(script), frames_of(texture, 6))
    assert [(track.id, chosen([track])[0]) for track in sorted(tracks, key=lambda t: t.id)] == [(0, [3]), (1, [1])]
    assert [track.id for track in tracks] == [1, 0]  # the best first: 0 degrees beat 4
    assert tracks[0].score > tracks[1].score > 0


def test_a_choice_tells_all_of_its_frame(texture):
    rules = FrameRules(min_frames=1, margin=0.25, align=True)
    found = face(x=100.5, y=100.25, size=60, pose=(5, -3, 2))
    (track,) = best_frames(Scripted([found]), [Frame(17, 3.5, texture)], rules)
    (choice,) = track.best
    assert (choice.track, choice.index, choice.seconds, choice.size) == (0, 17, 3.5, pytest.approx(60))
    assert choice.face == found[0]
    np.testing.assert_array_equal(choice.pose, [5, -3, 2])
    assert choice.crop_xy == (56, 55)  # 100.5 - 30 - 15 = 55.5, rounded to even; 55.25
    x, y = choice.crop_xy
    np.testing.assert_array_equal(choice.crop, texture[y : y + 90, x : x + 90])
    assert choice.crop.base is None  # not a view, which would keep the frame
    assert choice.aligned.shape == (112, 112, 3)
    row = json.loads(json.dumps(track.to_dict(), allow_nan=False))
    assert (row["track"], row["frames"], row["first_frame"], row["last_seconds"]) == (0, 1, 17, 3.5)
    (best,) = row["best"]
    assert best["pose"] == {"yaw": 5, "pitch": -3, "roll": 2}
    assert best["crop"] == [56, 55, 146, 145]
    assert best["face"]["box"] == [70.5, 70.25, 130.5, 130.25]
    assert set(best["quality"]) == set(WEIGHTS)
    assert best["score"] == pytest.approx(choice.score, abs=1e-4)


def test_a_crop_ends_where_the_frame_ends(texture):
    (track,) = best_frames(Scripted([face(x=50, y=70, size=90)]), [texture], FrameRules(min_frames=1, margin=1.0))
    assert track.best[0].crop_xy == (0, 0)
    assert track.best[0].crop.shape == (205, 185, 3)


def test_the_aligned_face_lies_as_the_template_says(texture):
    image = texture.copy()
    found = face(x=150, y=110, size=90)
    x, y = np.floor(found.landmarks5[0, 2]).astype(int)
    image[y - 1 : y + 2, x - 1 : x + 2] = (255, 0, 0)
    (track,) = best_frames(Scripted([found]), [image], FrameRules(min_frames=1, align=True))
    red = track.best[0].aligned.astype(int)
    row, column = np.unravel_index((red[..., 0] - red[..., 1]).argmax(), (112, 112))
    # The nose of the mean face in its box, not quite that of the template.
    np.testing.assert_allclose([column + 0.5, row + 0.5], ARCFACE_TEMPLATE_112[2], atol=4)


def test_several_frames_of_a_face_are_apart_in_time_and_best_first(texture):
    # Ever more frontal: each frame beats the one before.
    script = [face(pose=(30 - t, 0, 0)) for t in range(30)]
    rules = FrameRules(min_frames=1, per_face=3, min_gap_seconds=0.8)
    (track,) = best_frames(Scripted(script), frames_of(texture, 30), rules)
    indices = [choice.index for choice in track.best]
    assert indices[0] == 29
    assert len(indices) == 3
    assert min(abs(a - b) for a, b in itertools.combinations(indices, 2)) >= 8
    assert [choice.score for choice in track.best] == sorted((c.score for c in track.best), reverse=True)


def test_without_a_gap_the_best_frames_are_simply_the_best(texture, rng):
    yaws = rng.permutation(30)
    script = [face(pose=(yaw, 0, 0)) for yaw in yaws]
    rules = FrameRules(min_frames=1, per_face=4, min_gap_seconds=0)
    (track,) = best_frames(Scripted(script), frames_of(texture, 30), rules)
    assert [yaws[choice.index] for choice in track.best] == [0, 1, 2, 3]


def test_there_are_as_many_choices_as_time_allows_whatever_the_order(texture, rng):
    rules = FrameRules(min_frames=1, per_face=4, min_gap_seconds=0.5)
    for _ in range(20):
        script = [face(pose=(yaw, 0, 0)) for yaw in rng.uniform(0, 34, 60)]
        (track,) = best_frames(Scripted(script), frames_of(texture, 60), rules)
        assert len(track.best) == 4
        best = max(range(60), key=lambda t: -script[t].pose[0, 0])
        assert track.best[0].index == best


def test_of_equal_frames_the_earliest_is_taken(texture):
    (track,) = best_frames(Scripted([face()] * 5), frames_of(texture, 5))
    assert chosen([track]) == [[0]]


def test_a_short_track_gives_no_frame_but_is_told(texture):
    script = [together(face(x=100), face(x=220)), together(face(x=100), face(x=220)), face(x=100)]
    tracks = best_frames(Scripted(script), frames_of(texture, 3), FrameRules(min_frames=3))
    assert [(track.id, track.count, len(track.best)) for track in tracks] == [(0, 3, 1), (1, 2, 0)]
    assert tracks[1].score == 0


def test_weak_faces_that_begin_no_track_are_passed_over(texture):
    assert best_frames(Scripted([face(score=0.4)]), [texture], RULES) == []
    tracker = IouTracker(start_score=0.35)
    assert len(best_frames(Scripted([face(score=0.4)]), [texture], RULES, tracker=tracker)) == 1


# Streaming


def test_a_track_comes_as_soon_as_it_has_ended_from_an_endless_video(texture):
    nothing = Faces.empty(SIZE_HW)
    script = itertools.cycle([face()] * 5 + [nothing] * 20)
    looked = []
    stream = stream_best_frames(
        Scripted(script),
        (texture for _ in itertools.count()),
        batch_size=1,
        on_frame=lambda frame, faces, ids: looked.append((frame.index, ids.tolist())),
    )
    track = next(stream)
    assert (track.id, track.first_frame, track.last_frame, track.count) == (0, 0, 4, 5)
    assert looked[-1] == (4 + 11, [])  # the tracker waits for ten frames
    assert looked[:5] == [(t, [0]) for t in range(5)]
    assert next(stream).id == 1


def test_a_face_that_stays_is_reported_every_so_often(texture):
    rules = FrameRules(report_seconds=1.0)
    script = itertools.repeat(face())
    tracks = stream_best_frames(Scripted(script), (texture for _ in itertools.count()), rules, fps=10)
    first, second = next(tracks), next(tracks)
    assert (first.id, first.first_frame, first.last_frame) == (0, 0, 10)
    assert (second.id, second.first_frame) == (0, 11)


def test_no_more_than_a_batch_of_frames_and_the_best_crops_are_held(texture):
    frames, crops, most = [], [], 0

    def video():
        nonlocal most
        for _ in range(500):
            most = max(most, sum(frame() is not None for frame in frames))
            image = texture.copy()
            frames.append(weakref.ref(image))
            yield image
            del image

    script = [together(face(x=100, pose=(abs(t - 250) / 10, 0, 0)), face(x=220)) for t in range(500)]
    rules = FrameRules(per_face=2, min_gap_seconds=0.4)
    selector_bins = []
    original = FrameSelector.add

    def watched(self, *args):
        out = original(self, *args)
        selector_bins.append(max(len(record.bins) for record in self._records.values()))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrameSelector, "add", watched)
        for track in stream_best_frames(Scripted(script), video(), rules, batch_size=4):
            crops += [choice.crop for choice in track.best]
    assert len(frames) == 500
    assert most <= 4
    assert max(selector_bins) == 4  # 3 n - 2
    assert len(crops) == 4
    assert sum(frame() is not None for frame in frames) == 0


def test_a_wrong_video_is_known_at_once():
    with pytest.raises(VideoError, match="no such file"):
        stream_best_frames(Scripted([]), "missing.mp4")
    with pytest.raises(InputError, match="batch_size"):
        stream_best_frames(Scripted([]), [], batch_size=0)


def test_every_analyzer_has_the_method():
    assert Analyzer.best_frames.__doc__
    rules = {entry.name for entry in dataclasses.fields(FrameRules)}
    assert set(FrameRules().to_dict()) == rules
    assert json.dumps(FrameRules().to_dict())


# For real


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A video of the astronaut: small and sharp at first, large at last, all blurred but frame 13, and a smear."""
    photo = pytest.importorskip("skimage.data", reason="needs gluonface[demo]").astronaut()
    path = str(tmp_path_factory.mktemp("walk") / "walk.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (640, 480))
    if not writer.isOpened():
        pytest.skip("this OpenCV does not write MJPG")
    for t in range(20):
        scale = 0.3 + 0.05 * t
        image = cv2.warpAffine(
            photo,
            np.array([[scale, 0, 60 + 5 * t], [0, scale, 100 - 3 * t]], float),
            (640, 480),
            flags=cv2.INTER_AREA,
        )
        if t >= 3 and t != 13:
            image = cv2.blur(image, (15, 1)) if t % 2 else cv2.GaussianBlur(image, (0, 0), 1.2 + 0.15 * t)
        writer.write(image[..., ::-1])
    writer.release()
    return path


def test_the_large_sharp_frontal_frame_of_a_real_video_wins(walk):
    from gluonface import FaceAnalyzer

    tracks = FaceAnalyzer(max_faces=5).best_frames(walk, FrameRules(align=True))
    track = tracks[0]
    assert chosen([track]) == [[13]]
    (choice,) = track.best
    assert choice.seconds == pytest.approx(1.3, abs=0.01)
    assert choice.quality["sharpness"] > 0.5
    assert np.abs(choice.pose).max() < 30
    assert track.count >= 15
    assert len(repr(track)) < 1000  # without the pictures
    assert track.dropped.get("size", 0) >= 1
    # The eyes are where recognition models want them.
    eyes = warp_points(np.eye(2, 3), choice.face.landmarks5[0, :2]) - choice.crop_xy
    assert (eyes > 0).all() and (eyes < choice.crop.shape[1::-1]).all()
    assert choice.aligned.shape == (112, 112, 3)
