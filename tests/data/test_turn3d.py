"""Faces turned further aside: a drawn photo on a made-up head, the cap of an ellipsoid."""

import cv2
import numpy as np
import pytest

from gluonface.data.base import FaceLabels, concat_labels
from gluonface.data.jsonl import read_jsonl
from gluonface.data.turn3d import box_of_68, turn_face, unseen_share
from gluonface.errors import InputError
from gluonface.geometry import box_iou, clip_boxes
from gluonface.pose import rotation_from_pose

SIZE = 240
SPOKES, RINGS = 24, 9
# Half axes of the head in pixels, and where its middle is.
HALF = np.array([45.0, 60.0, 50.0])
MIDDLE = np.array([120.0, 125.0])
NOSE, NEAR, FAR = 0, 1 + 5 * SPOKES, 1 + 5 * SPOKES + SPOKES // 2  # to the viewer's right of the nose, and to the left


def cap() -> tuple[np.ndarray, np.ndarray]:
    """Mesh (217, 3) and triangles, counter-clockwise for the viewer: the nose, then rings that start at the right."""
    angles = np.arange(SPOKES) * 2 * np.pi / SPOKES
    radii = np.sin(np.linspace(0, 0.45 * np.pi, RINGS + 1)[1:])[:, None]
    x, y = radii * np.cos(angles), -radii * np.sin(angles)
    z = -np.sqrt(1 - radii**2) * np.ones(SPOKES)
    mesh = np.concatenate([[[0, 0, -1]], np.stack([x, y, z], axis=2).reshape(-1, 3)]) * HALF
    rows = 1 + np.arange(RINGS * SPOKES).reshape(RINGS, SPOKES)
    following = np.roll(rows, -1, axis=1)
    triangles = [np.stack([np.zeros(SPOKES, int), rows[0], following[0]], axis=1)]
    for i in range(RINGS - 1):
        triangles.append(np.stack([rows[i], rows[i + 1], following[i + 1]], axis=1))
        triangles.append(np.stack([rows[i], following[i + 1], following[i]], axis=1))
    return mesh + np.array([*MIDDLE, 0]), np.concatenate(triangles)


VERTICES = np.r_[np.arange(1, 69)]


def posed(mesh: np.ndarray, pose) -> np.ndarray:
    """The mesh of a head that looks at the viewer, in another pose."""
    flip = np.array([1, -1, -1])
    return ((mesh - (*MIDDLE, 0)) * flip) @ rotation_from_pose(pose).T * flip + (*MIDDLE, 0)


def labels(mesh, pose=(0, 0, 0)) -> FaceLabels:
    landmarks = mesh[VERTICES, :2][None]
    return FaceLabels(
        boxes=[[70, 50, 170, 190]], landmarks=landmarks, scheme="68", pose=[pose], mesh_row=[7], attributes=[{"a": 1}]
    )


@pytest.fixture
def head():
    return cap()


@pytest.fixture
def photo(rng):
    noise = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def dotted(xy) -> np.ndarray:
    """A dark photo with a bright dot."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    return cv2.circle(image, tuple(round(16 * (c - 0.5)) for c in xy), 16 * 5, (255, 255, 255), -1, shift=4)


def turn(image, head, yaw=0.0, pitch=0.0, pose=(0, 0, 0)):
    mesh, triangles = head
    return turn_face(image, mesh, triangles, labels(mesh, pose), yaw, pitch, vertices_68=VERTICES)


def test_no_turn_changes_neither_photo_nor_points(photo, head):
    image, moved = turn(photo, head)
    assert np.abs(image.astype(int) - photo).max() <= 1
    np.testing.assert_allclose(moved.landmarks, labels(head[0]).landmarks, atol=1e-4)
    np.testing.assert_array_equal(moved.pose, [[0, 0, 0]])


def test_points_move_across_by_the_sine_of_their_depth(photo, head):
    _, moved = turn(photo, head, yaw=40)
    centre = head[0].mean(axis=0)
    x, y, z = (head[0][VERTICES] - centre).T
    angle = np.deg2rad(40)
    # z grows away from the viewer: what is near goes to the left, what is far to the right.
    expected = np.stack([x * np.cos(angle) + z * np.sin(angle), y], axis=1) + centre[:2]
    np.testing.assert_allclose(moved.landmarks[0], expected, atol=1e-3)


@pytest.mark.parametrize("pose", [(12, 9, -14), (-25, -20, 8)])
def test_points_are_those_of_the_head_in_the_composed_pose(photo, pose):
    mesh, triangles = cap()
    delta = np.array([np.sign(pose[0]) * 35, -6, 0])
    before = posed(mesh, pose), triangles
    _, moved = turn(photo, before, *delta[:2], pose=pose)
    np.testing.assert_allclose(moved.pose[0], pose + delta, atol=1e-4)
    after = posed(mesh, pose + delta)
    # The mesh turns about its own middle, so that stays.
    expected = after + before[0].mean(axis=0) - after.mean(axis=0)
    np.testing.assert_allclose(moved.landmarks[0], expected[VERTICES, :2], atol=1e-3)


@pytest.mark.parametrize("yaw", [-50, 50])
def test_positive_yaw_takes_the_nose_to_the_viewers_left(head, yaw):
    image, _ = turn(dotted(head[0][NOSE, :2]), head, yaw)
    _, xs = np.nonzero(image[..., 0] > 128)
    shift = xs.mean() + 0.5 - head[0][NOSE, 0]
    centre = head[0].mean(axis=0)
    assert shift == pytest.approx(np.sin(np.deg2rad(yaw)) * (head[0][NOSE, 2] - centre[2]), abs=2.5)


def test_positive_pitch_takes_the_nose_up(head):
    image, _ = turn(dotted(head[0][NOSE, :2]), head, pitch=20)
    ys, _ = np.nonzero(image[..., 0] > 128)
    assert ys.mean() + 0.5 < head[0][NOSE, 1] - 5


def test_the_texture_goes_where_the_points_go(head):
    mesh = head[0]
    for vertex in (NEAR, NEAR + 3, NEAR - 4, NEAR - SPOKES):
        image, _ = turn(dotted(mesh[vertex, :2]), head, yaw=35)
        ys, xs = np.nonzero(image[..., 0] > 128)
        x, y, z = mesh[vertex] - mesh.mean(axis=0)
        angle = np.deg2rad(35)
        expected = np.array([x * np.cos(angle) + z * np.sin(angle), y]) + mesh.mean(axis=0)[:2]
        np.testing.assert_allclose((xs.mean() + 0.5, ys.mean() + 0.5), expected, atol=2)


def test_what_is_turned_away_is_not_seen(head):
    mesh = head[0]
    seen = [(turn(dotted(mesh[v, :2]), head, 70)[0] > 128).sum() for v in (NEAR, FAR)]
    assert seen[0] > 100
    assert seen[1] == 0


def test_a_long_nose_hides_the_cheek_behind_it(head):
    mesh, triangles = head[0].copy(), head[1]
    mesh[NOSE, 2] -= 30
    centre = mesh.mean(axis=0)
    image, _ = turn(dotted(mesh[NOSE, :2]), (mesh, triangles), 40)
    # Along its ridge, from the tip to where the nose begins.
    start = mesh[1]
    for share in (0.4, 0.6):
        x, y, z = (1 - share) * mesh[NOSE] + share * start - centre
        angle = np.deg2rad(40)
        column, row = x * np.cos(angle) + z * np.sin(angle) + centre[0], y + centre[1]
        assert image[int(row), int(column), 0] > 128


def test_the_border_of_the_photo_stays(photo, head):
    image, _ = turn(photo, head, 60, 8)
    assert np.abs(image.astype(int) - photo).mean() > 20
    for side in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        # Half a pixel inside of the border, where colours change by up to 20 a pixel.
        assert np.abs(image[side].astype(int) - photo[side]).mean() < 6


def test_no_pixel_is_left_as_it_was_behind_the_turned_head(head):
    # Column numbers as colours: where the photo is stretched or pressed together it stays free of jumps, but at the
    # outline of the head, once a row.
    image, _ = turn(np.tile(np.arange(SIZE, dtype=np.uint8)[None, :, None], (SIZE, 1, 3)), head, 60)
    steps = np.abs(np.diff(image[..., 0].astype(int), axis=1)) > 12
    assert steps.sum(axis=1).max() <= 2


def test_a_face_cut_off_by_the_border_can_be_turned(photo, head):
    mesh, triangles = head
    image, moved = turn(photo, (mesh - (100, 0, 0), triangles), 45)
    assert image.shape == photo.shape
    assert moved.boxes[0, 0] == 0


def test_the_labels_say_what_was_made(photo, head):
    _, moved = turn(photo, head, 30)
    np.testing.assert_allclose(moved.landmarks5[0, 2], moved.landmarks[0, 30])
    np.testing.assert_allclose(moved.boxes, box_of_68(moved.landmarks))
    assert moved.mesh_row[0] == -1
    assert moved.attributes == [{"a": 1}]


def test_the_box_moves_and_grows_with_the_points(rng):
    landmarks = rng.uniform(50, 90, (3, 68, 2))
    boxes = box_of_68(landmarks)
    np.testing.assert_allclose(box_of_68(landmarks * 2 + 10), boxes * 2 + 10, rtol=1e-5)
    assert (boxes[:, 1] < landmarks[..., 1].min(axis=1)).all()


def test_the_box_is_the_corpus_box(facedata):
    samples = read_jsonl(facedata / "lmk_val.jsonl", facedata / "images")[::5]
    made = [clip_boxes(box_of_68(s.faces.landmarks), s.size_hw) for s in samples]
    ious = [box_iou(box, s.faces.boxes)[0, 0] for box, s in zip(made, samples)]
    assert np.mean(ious) > 0.98
    assert np.min(ious) > 0.93


def test_unseen_is_what_a_turn_brings_into_sight(head):
    mesh, triangles = head
    assert unseen_share(mesh, triangles, (0, 0, 0), (60, 0, 0)) == 0
    aside = posed(mesh, (50, 0, 0))
    assert unseen_share(aside, triangles, (50, 0, 0), (70, 0, 0)) < 0.05
    assert unseen_share(aside, triangles, (50, 0, 0), (0, 0, 0)) > 0.15


@pytest.mark.parametrize("yaw", [20, -20])
def test_a_turn_towards_the_viewer_is_refused(photo, head, yaw):
    with pytest.raises(InputError, match="further to that side only"):
        turn(photo, head, -yaw / 2, pose=(yaw, 0, 0))


def test_a_nearly_frontal_face_may_be_turned_either_way(photo, head):
    for delta in (-40, 40):
        assert turn(photo, head, delta, pose=(4, 0, 0))[1].pose[0, 0] == 4 + delta


def test_a_turn_past_the_profile_is_refused(photo, head):
    with pytest.raises(InputError, match="at most 90 degrees"):
        turn(photo, head, 95)


def test_what_does_not_fit_is_refused(photo, head):
    mesh, triangles = head
    face = labels(mesh)

    def refused(match, image=photo, mesh=mesh, triangles=triangles, labels=face, vertices=VERTICES):
        with pytest.raises(InputError, match=match):
            turn_face(image, mesh, triangles, labels, 30, vertices_68=vertices)

    refused("RGB image", image=photo.astype(float))
    refused("mesh", mesh=mesh[:, :2])
    refused("finite", mesh=np.where(np.arange(len(mesh))[:, None] == 3, np.nan, mesh))
    refused("whole numbers", triangles=triangles.astype(float))
    refused("vertices 0 to 9", mesh=mesh[:10])
    refused("one face", labels=concat_labels([face, face]))
    refused("68 points", labels=FaceLabels(boxes=face.boxes, pose=face.pose))
    refused("with a pose", labels=face.with_(pose=None))
    refused("vertices_68", vertices=VERTICES[:5])
    refused("a closed one", triangles=np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]))
    refused("one outline", triangles=triangles[SPOKES:])
