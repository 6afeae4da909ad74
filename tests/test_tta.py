"""Test-time augmentation with a detector that knows where the face is and is a little off, otherwise in every run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gluonface.errors import InputError
from gluonface.faces import SCHEMES, Faces
from gluonface.geometry import box_iou, warp_image, warp_points
from gluonface.pipeline import FaceAnalyzer
from gluonface.pose import geodesic_degrees, rotation_from_pose
from gluonface.tta import SHORT_SIDES, detect_multiscale, mirror_faces, soften_faces, vote_faces

SIZE_HW = (300, 400)
CORNERS = ((70, 70), (1210, 70), (70, 1210), (1210, 1210))
BOX = np.array([60.0, 90.0, 160.0, 210.0])
POINTS = np.array([[85, 130], [140, 128], [108, 155], [92, 180], [130, 182]], float)
# 68 points all over the box.
DENSE = BOX[:2] + np.random.default_rng(7).uniform(5, 95, (68, 2))


def moved(coordinates, shift) -> np.ndarray:
    """Boxes or points moved to the right."""
    result = np.array(coordinates)
    result[..., 0::2] += shift
    return result


class Oracle:
    """Knows the face of the photo and its mirror image; errs as `shift` says, by pixels of the photo, run by run."""

    def __init__(self, shift=lambda run: 0.0, score=lambda run: 0.5, seen_at=lambda scale: True, pose=None, size=640):
        self.facts = SimpleNamespace(size=size)
        self.runs = 0
        self.pose = pose  # pose(run) of the face as it is in the photo, or None for a detector without
        self.canvases, self.mirrored, self.thresholds = [], [], []
        self.shift, self.score, self.seen_at = shift, score, seen_at

    def detect_letterboxed(self, images, boxes, score_thresh=None):
        results = []
        self.thresholds.append(score_thresh)
        self.canvases.append((boxes[0].canvas_hw, boxes[0].resized_hw, len(images)))
        for image, box in zip(images, boxes):
            is_mirrored = bool(image[0, 0, 0] < image[0, -1, 0])
            self.mirrored.append(is_mirrored)
            face = Faces([BOX], [self.score(self.runs)], landmarks5=[POINTS], size_hw=SIZE_HW)
            if self.pose is not None:
                yaw, pitch, roll = self.pose(self.runs)
                # A mirrored head looks to the other side and tilts the other way.
                face = face.with_(pose=[[-yaw, pitch, -roll] if is_mirrored else [yaw, pitch, roll]])
            if is_mirrored:
                # A real detector calls the eye on the viewer's left the left one, whichever it was before.
                boxes_, points = face.boxes.copy(), face.landmarks5.copy()
                boxes_[:, [0, 2]] = SIZE_HW[1] - boxes_[:, [2, 0]]
                points[..., 0] = SIZE_HW[1] - points[..., 0]
                face = face.with_(boxes=boxes_, landmarks5=points[:, [1, 0, 2, 4, 3]])
            shift = self.shift(self.runs) * (-1 if is_mirrored else 1)
            face = face.with_(boxes=moved(face.boxes, shift), landmarks5=moved(face.landmarks5, shift))
            results.append(face if self.seen_at(box.scale_xy[0]) else face[:0])
            self.runs += 1
        return results


def ramp() -> np.ndarray:
    """Bright on the left, so that a mirrored photo is recognised."""
    return np.repeat(np.repeat(np.linspace(250, 0, 400).astype(np.uint8)[None], 300, axis=0)[..., None], 3, axis=2)


def test_all_scales_and_mirrors_agree_on_one_face():
    oracle = Oracle()
    faces = detect_multiscale(oracle, ramp())
    assert len(faces) == 1
    np.testing.assert_allclose(faces.boxes[0], BOX, atol=1e-3)
    np.testing.assert_allclose(faces.landmarks5[0], POINTS, atol=1e-3)
    assert faces.size_hw == SIZE_HW
    assert oracle.mirrored == [False, True] * len(SHORT_SIDES)


def test_the_photo_is_run_at_the_short_sides_on_the_smallest_canvas():
    oracle = Oracle()
    detect_multiscale(oracle, ramp(), (150, 300, 600), flip=False)
    assert oracle.canvases == [((160, 224), (150, 200), 1), ((320, 416), (300, 400), 1), ((608, 800), (600, 800), 1)]
    oracle = Oracle()
    detect_multiscale(oracle, ramp(), None)
    assert oracle.canvases == [((320, 416), (300, 400), 2)]


def test_the_longest_side_is_bounded_and_the_scales_keep_their_ratio():
    oracle = Oracle()
    detect_multiscale(oracle, ramp(), (300, 600), flip=False, max_long_side=400)
    assert [resized for _, resized, _ in oracle.canvases] == [(150, 200), (300, 400)]
    oracle = Oracle()
    detect_multiscale(oracle, ramp(), (600,), flip=False, max_long_side=None)
    assert oracle.canvases[0][1] == (600, 800)


def test_the_vote_is_the_mean_weighted_by_score():
    oracle = Oracle(shift=lambda run: [0, 8, 4, 0][run], score=lambda run: [0.9, 0.3, 0.3, 0.5][run])
    faces = detect_multiscale(oracle, ramp(), (300, 600))
    shift = (8 * 0.3 + 4 * 0.3) / 2.0
    assert faces.scores.tolist() == pytest.approx([0.9])
    np.testing.assert_allclose(faces.boxes[0], moved(BOX, shift), atol=1e-3)
    np.testing.assert_allclose(faces.landmarks5[0], moved(POINTS, shift), atol=1e-3)


def test_a_face_seen_at_one_scale_only_is_kept():
    assert len(detect_multiscale(Oracle(seen_at=lambda scale: scale > 3), ramp())) == 1
    assert len(detect_multiscale(Oracle(seen_at=lambda scale: False), ramp())) == 0


def test_size_ranges_take_faces_from_the_runs_meant_for_them():
    oracle = Oracle(score=lambda run: [0.4, 0.4, 0.9, 0.9][run])
    faces = detect_multiscale(oracle, ramp(), (300, 600), size_ranges=[(50, 1000), (0, 50)])
    assert faces.scores.tolist() == pytest.approx([0.4])  # the face is 110 pixels large
    with pytest.raises(InputError, match="a size range for each of the 2 scales, got 1"):
        detect_multiscale(Oracle(), ramp(), (300, 600), size_ranges=[(0, 1)])


def test_long_sides_are_those_of_the_photo_and_take_the_place_of_short_ones():
    oracle = Oracle(size=400)
    detect_multiscale(oracle, ramp(), (999,), long_sides=(200, 800), flip=False)
    assert [resized for _, resized, _ in oracle.canvases] == [(150, 200), (600, 800)]
    with pytest.raises(InputError, match="expected long sides of at least one pixel"):
        detect_multiscale(oracle, ramp(), long_sides=(0, 5))


@pytest.mark.parametrize(("size", "answers"), [(400, 0.4), (1000, 0.9)])
def test_large_faces_are_taken_from_the_smallest_of_the_long_sides(size, answers):
    # The face is 110 pixels large: 220 on the larger canvas, more than a quarter of 400 and less than one of 1000.
    def found(**options):
        oracle = Oracle(score=lambda run: [0.9, 0.4][run], size=size)
        return detect_multiscale(oracle, ramp(), long_sides=(800, 300), flip=False, **options).scores.tolist()

    assert found() == pytest.approx([answers])
    assert found(size_ranges=[(0, 999)] * 2) == pytest.approx([0.9])


def test_no_more_faces_are_given_than_the_analyzer_gives_for_a_photo():
    for most, count in ((None, 3), (2, 2)):
        oracle = Oracle(shift=lambda run: 110 * run)
        oracle.max_faces = most
        assert len(detect_multiscale(oracle, ramp(), (300, 400, 500), flip=False)) == count


def test_two_long_sides_find_a_face_that_fills_the_photo_and_tiny_ones():
    photo = pytest.importorskip("skimage.data", reason="needs gluonface[demo]").astronaut()
    face, middle = np.array([177.0, 60, 272, 184]), np.array([224.5, 122])
    # A face 1032 pixels high, as the whole photo shows it, and four of 20 to 34 in the corners.
    places = [(1280 / 154, 640, 640), *((h / 124, *corner) for h, corner in zip((34, 28, 24, 20), CORNERS))]
    image, boxes = np.zeros((1280, 1280, 3), np.uint8), []
    for scale, *place in places:
        linear, half = np.eye(2) * scale, min(640, round(scale * 200))
        x, y = np.array(place, int) - half
        inside = np.column_stack([linear, half - scale * middle])
        image[y : y + 2 * half, x : x + 2 * half] = warp_image(photo, inside, (2 * half, 2 * half))
        boxes.append(warp_points(inside, face.reshape(2, 2)).ravel() + np.tile([x, y], 2))
    analyzer = FaceAnalyzer("retinaface_mobilenet0.25_mask")

    def found(*long_sides):
        faces = detect_multiscale(analyzer, image, long_sides=long_sides, flip=False)
        return len(faces), (box_iou(np.array(boxes), faces.boxes).max(axis=1, initial=0) > 0.6).tolist()

    assert found(256) == (1, [True] + [False] * 4)
    assert found(1280)[1] == [False] + [True] * 4
    assert found(256, 1280) == (5, [True] * 5)


def test_the_score_threshold_goes_to_the_detector():
    oracle = Oracle()
    detect_multiscale(oracle, ramp(), (300,), score_thresh=0.02)
    assert oracle.thresholds == [0.02]


@pytest.mark.parametrize("sides", [(), (0,)])
def test_wrong_short_sides_are_refused(sides):
    with pytest.raises(InputError, match="short sides"):
        detect_multiscale(Oracle(), ramp(), sides)


@pytest.mark.parametrize("flip", [False, True])
def test_the_pose_of_all_scales_and_mirrors_is_that_of_the_photo(flip):
    faces = detect_multiscale(Oracle(pose=lambda run: (30, -12, 8)), ramp(), flip=flip)
    np.testing.assert_allclose(faces.pose, [[30, -12, 8]], atol=1e-3)
    assert faces.pose.dtype == np.float32
    assert detect_multiscale(Oracle(), ramp()).pose is None


def test_errors_of_pose_are_averaged_by_score():
    yaws, scores = [20, 32, 26, 20], [0.9, 0.3, 0.3, 0.5]
    oracle = Oracle(pose=lambda run: (yaws[run], 0, 0), score=lambda run: scores[run])
    faces = detect_multiscale(oracle, ramp(), (300, 600))
    # About one axis the rotation nearest to the mean matrix has the direction of the mean vector.
    vector = sum(s * np.exp(1j * np.deg2rad(y)) for s, y in zip(scores, yaws))
    np.testing.assert_allclose(faces.pose, [[np.rad2deg(np.angle(vector)), 0, 0]], atol=1e-3)


def test_faces_with_meshes_are_looked_for_in_mirrored_photos_and_voted_without_them():
    class WithMesh(Oracle):
        def detect_letterboxed(self, *args):
            return [faces.with_(mesh=np.zeros((len(faces), 4, 3))) for faces in super().detect_letterboxed(*args)]

    with_meshes, plain = (detect_multiscale(kind(), ramp(), flip=True) for kind in (WithMesh, Oracle))
    assert with_meshes.mesh is None
    np.testing.assert_array_equal(with_meshes.boxes, plain.boxes)


class Dense(Oracle):
    """An oracle with 68 points, too, as MaskFace has them."""

    def detect_letterboxed(self, images, boxes, score_thresh=None):
        first, found = self.runs, super().detect_letterboxed(images, boxes, score_thresh)
        mirror = lambda points: (points * (-1, 1) + (SIZE_HW[1], 0))[SCHEMES["68"].flip_index]  # noqa: E731
        results = []
        for run, faces in enumerate(found, start=first):
            points = moved(DENSE, self.shift(run))
            points = mirror(points) if self.mirrored[run] else points
            results.append(faces.with_(landmarks=np.tile(points, (len(faces), 1, 1)), scheme="68"))
        return results


def test_dense_points_of_all_scales_and_mirrors_are_those_of_the_photo():
    faces = detect_multiscale(Dense(pose=lambda run: (30, -12, 8)), ramp())
    assert (len(faces), faces.scheme) == (1, "68")
    np.testing.assert_allclose(faces.landmarks[0], DENSE, atol=1e-3)
    np.testing.assert_allclose(faces.landmarks5[0], POINTS, atol=1e-3)
    np.testing.assert_allclose(faces.pose, [[30, -12, 8]], atol=1e-3)


def test_dense_points_are_voted_with_the_weights_of_the_five():
    oracle = Dense(shift=lambda run: [0, 8, 4, 0][run], score=lambda run: [0.9, 0.3, 0.3, 0.5][run])
    faces = detect_multiscale(oracle, ramp(), (300, 600))
    shift = (8 * 0.3 + 4 * 0.3) / 2.0
    np.testing.assert_allclose(faces.landmarks[0], moved(DENSE, shift), atol=1e-3)
    np.testing.assert_allclose(faces.landmarks5[0], moved(POINTS, shift), atol=1e-3)


def test_the_points_of_a_landmark_net_take_the_place_of_the_detectors():
    oracle = Dense()
    oracle.landmarks = lambda images, found: [f.with_(landmarks=np.ones((len(f), 29, 2)), scheme="29") for f in found]
    faces = detect_multiscale(oracle, ramp())
    assert faces.scheme == "29" and (faces.landmarks == 1).all()


def test_a_photo_without_faces_has_no_dense_points():
    faces = detect_multiscale(Dense(seen_at=lambda scale: False), ramp())
    assert faces.landmarks.shape == (0, 68, 2) and faces.scheme == "68"


def test_voting_refuses_dense_points_of_different_schemes_or_in_some_results_only():
    dense, other = (
        Faces([BOX], [0.5], landmarks=np.zeros((1, k, 2)), scheme=str(k), size_hw=SIZE_HW) for k in (68, 29)
    )
    with pytest.raises(InputError, match="dense landmarks of one scheme in all results, got schemes 29, 68"):
        vote_faces([dense, other])
    with pytest.raises(InputError, match="expected dense landmarks in all results or in none"):
        vote_faces([dense, Faces([BOX], [0.5], size_hw=SIZE_HW)])
    # A result without faces does not matter.
    assert vote_faces([other[:0], dense, Faces.empty(SIZE_HW)]) == dense


def test_a_photo_without_faces_has_no_poses():
    faces = detect_multiscale(Oracle(pose=lambda run: (1, 2, 3), seen_at=lambda scale: False), ramp())
    assert len(faces) == 0 and faces.pose.shape == (0, 3)
    # Other engines may leave parts out where they found nothing.
    with_pose = Faces([BOX], [0.5], landmarks5=[POINTS], pose=[[1, 2, 3]], size_hw=SIZE_HW)
    np.testing.assert_allclose(vote_faces([Faces.empty(SIZE_HW), with_pose]).pose, [[1, 2, 3]], atol=1e-4)


# The pieces


def posed(poses, scores=None) -> Faces:
    """Faces in one place."""
    return Faces([BOX] * len(poses), [0.5] * len(poses) if scores is None else scores, pose=poses, size_hw=SIZE_HW)


def test_the_mean_of_poses_is_that_of_rotations(rng):
    centre = np.array([40.0, -25.0, 60.0])
    away = rng.normal(0, 6, (40, 3))
    poses = np.concatenate([centre + away, centre - away])
    mean = vote_faces([posed(poses)]).pose
    assert geodesic_degrees(rotation_from_pose(mean), rotation_from_pose(centre)).max() < 1
    # Nearest to all: no neighbour has a smaller sum of squared distances of matrices.
    matrices = rotation_from_pose(poses)
    cost = lambda pose: ((matrices - rotation_from_pose(pose)) ** 2).sum()  # noqa: E731
    assert all(cost(mean[0]) < cost(mean[0] + step) for step in np.vstack([np.eye(3), -np.eye(3)]) * 0.3)


def test_poses_beyond_profile_keep_their_angles():
    # The other triple of the same rotation is (85, 190, 175).
    np.testing.assert_allclose(vote_faces([posed([[95, 10, -5]])]).pose, [[95, 10, -5]], atol=1e-3)
    mean = vote_faces([posed([[94, 10, -5], [86, 10, -5]], [0.6, 0.5])]).pose[0]
    assert 88 < mean[0] < 92 and np.abs(mean[1:] - (10, -5)).max() < 1


def test_voting_refuses_poses_in_some_results_only():
    plain = Faces([BOX], [0.5], size_hw=SIZE_HW)
    with pytest.raises(InputError, match="expected a pose in all results or in none"):
        vote_faces([plain, posed([[1, 2, 3]])])
    assert vote_faces([plain, plain]).pose is None


def test_mirroring_twice_changes_nothing():
    faces = Faces([BOX], [0.5], landmarks5=[POINTS], pose=[[20, -10, 5]], size_hw=SIZE_HW)
    mirrored = mirror_faces(faces)
    assert mirrored.pose.tolist() == [[-20, -10, -5]]
    assert mirrored.landmarks5[0, 0, 0] < mirrored.landmarks5[0, 1, 0]
    again = mirror_faces(mirrored)
    np.testing.assert_allclose(again.boxes, faces.boxes, atol=1e-4)
    np.testing.assert_allclose(again.landmarks5, faces.landmarks5, atol=1e-4)


def test_what_cannot_be_mirrored_says_so():
    with pytest.raises(InputError, match="mirror a mesh"):
        mirror_faces(Faces([BOX], [0.5], mesh=np.zeros((1, 4, 3)), size_hw=SIZE_HW))
    with pytest.raises(InputError, match="scheme '7'"):
        mirror_faces(Faces([BOX], [0.5], landmarks=np.zeros((1, 7, 2)), scheme="7", size_hw=SIZE_HW))


def test_voted_boxes_that_have_moved_together_are_suppressed():
    # A and C do not overlap enough to suppress each other, but both are drawn to B.
    boxes = [[0, 0, 100, 100], [45, 0, 145, 100], [20, 0, 120, 100]]
    voted = vote_faces([Faces(boxes, [0.9, 0.8, 0.7], size_hw=(100, 200))], vote_thresh=0.4)
    assert len(voted) == 1
    assert len(vote_faces([Faces(boxes, [0.9, 0.8, 0.7], size_hw=(100, 200))], 0.4, nms_thresh=0.99)) == 2


def test_voting_keeps_faces_without_points_and_refuses_a_mixture():
    plain = Faces([BOX], [0.5], size_hw=SIZE_HW)
    assert vote_faces([plain, plain]).landmarks5 is None
    with pytest.raises(InputError, match="in all results or in none"):
        vote_faces([plain, Faces([BOX], [0.5], landmarks5=[POINTS], size_hw=SIZE_HW)])
    with pytest.raises(InputError, match="of one photo"):
        vote_faces([plain, Faces.empty((5, 5))])


def test_voting_on_nothing_is_nothing():
    assert vote_faces([Faces.empty(SIZE_HW)] * 3) == Faces.empty(SIZE_HW)


def test_soft_suppression_lowers_what_overlaps_a_better_face_and_sorts_anew():
    boxes = [[0, 0, 100, 100], [50, 0, 150, 100], [200, 200, 240, 240]]
    faces = soften_faces(Faces(boxes, [0.9, 0.6, 0.5], size_hw=(300, 300)), "linear")
    np.testing.assert_allclose(faces.scores, [0.9, 0.5, 0.4], atol=1e-6)  # the overlap is a third
    np.testing.assert_array_equal(faces.boxes, np.array(boxes)[[0, 2, 1]])
    assert len(soften_faces(Faces(boxes, [0.9, 0.6, 0.5], size_hw=(300, 300)), "linear", score_thresh=0.45)) == 2


def test_several_scales_soften_before_they_vote():
    class Twice:
        """Finds a face and, beside it, half of it again."""

        score_thresh = 0.1

        def detect_letterboxed(self, images, boxes, score_thresh):
            found = [[40, 40, 80, 80], [60, 40, 100, 80]]
            return [Faces(found, [0.9, 0.6], size_hw=image.shape[:2]) for image in images]

    image = np.zeros((160, 200, 3), np.uint8)
    plain, soft = (detect_multiscale(Twice(), image, None, flip=False, soft=method) for method in (None, "linear"))
    np.testing.assert_allclose(plain.scores, [0.9, 0.6], atol=1e-6)
    np.testing.assert_allclose(soft.scores, [0.9, 0.4], atol=1e-6)
