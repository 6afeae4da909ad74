"""The pose that labels get under a map, against the pose fitted to points of a head that went through the same map."""

import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.data.transforms.affine import Affine
from gluonface.faces import SCHEMES
from gluonface.geometry import rotation_matrix_about
from gluonface.mesh import pose_from_mesh, topology_468, turn_upright
from gluonface.pose import fit_pose, geodesic_degrees, rotation_from_pose

POSES = [(0, 0, 0), (35, 0, 0), (0, -25, 0), (0, 0, 40), (-65, 20, 15), (75, -30, -50), (10, 50, 160)]
SIZE_HW = (300, 400)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """(68, 3) points with depth: no face, but its own mirror image, as the order of the 68 points has it."""
    points = np.random.default_rng(3).normal(size=(68, 3))
    return points + points[SCHEMES["68"].flip_index] * (-1, 1, 1)


def labels_of(head, pose) -> FaceLabels:
    """Labels of a face of that pose, whose points are those of the head seen from afar."""
    seen = (head @ rotation_from_pose(np.array(pose, float)).T)[:, :2] * (20, -20) + (180, 140)
    box = [[*seen.min(axis=0), *seen.max(axis=0)]]
    return FaceLabels(boxes=box, landmarks=seen[None], scheme="68", pose=np.array([pose], float))


def turn(degrees) -> Affine:
    """A turn of the image about a point that is not the face's, clockwise for the viewer, as a positive roll is."""
    return Affine(rotation_matrix_about((90, 60), degrees), SIZE_HW)


MAPS = {
    "quarter": turn(90),
    "small": turn(12),
    "large": turn(-140),
    "upside down": turn(180),
    "mirrored": Affine(np.array([[-1, 0, 400], [0, 1, 0]]), SIZE_HW),
    "mirrored up and down": Affine(np.array([[1, 0, 0], [0, -1, 300]]), SIZE_HW),
    "halved": Affine(np.array([[0.5, 0, 3], [0, 0.5, -8]]), (150, 200)),
    "shifted": Affine(np.array([[1, 0, 41.5], [0, 1, -17.25]]), SIZE_HW),
}
MAPS["all"] = MAPS["halved"].then(MAPS["small"]).then(MAPS["mirrored"]).then(MAPS["large"]).then(MAPS["shifted"])


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("name", MAPS)
def test_the_pose_moves_as_the_points_of_the_head_do(head, name, pose):
    moved = MAPS[name].labels(labels_of(head, pose))
    fitted, residual = fit_pose(moved.landmarks.astype(np.float64), head)
    assert residual[0] < 1e-5  # moved points are those of a turned head, left and right exchanged where they must be
    assert geodesic_degrees(*rotation_from_pose(np.stack([moved.pose[0], fitted[0]]))) < 0.01


@pytest.mark.parametrize("pose", POSES)
def test_a_mirror_changes_the_signs_of_yaw_and_roll(head, pose):
    moved = MAPS["mirrored"].labels(labels_of(head, pose)).pose[0]
    np.testing.assert_allclose(moved, np.array(pose) * (-1, 1, -1), atol=1e-4)
    back = MAPS["mirrored"].labels(MAPS["mirrored"].labels(labels_of(head, pose)))
    np.testing.assert_allclose(back.pose[0], pose, atol=1e-4)


@pytest.mark.parametrize("name", ["halved", "shifted"])
def test_scale_and_shift_leave_the_pose(head, name):
    for pose in POSES:
        np.testing.assert_array_equal(MAPS[name].labels(labels_of(head, pose)).pose[0], np.array(pose, np.float32))


@pytest.mark.parametrize("degrees", [25, -40])
def test_adding_the_turn_to_the_roll_would_be_wrong_for_a_face_that_looks_aside(head, degrees):
    for yaw, pitch, wrong_by in ((0, 0, (0, 0.01)), (0, 40, (10, 60)), (60, 0, (20, 60)), (-75, 10, (20, 80))):
        moved = turn(degrees).labels(labels_of(head, (yaw, pitch, 0)))
        fitted = rotation_from_pose(fit_pose(moved.landmarks.astype(np.float64), head)[0][0])
        assert geodesic_degrees(rotation_from_pose(moved.pose[0]), fitted) < 0.01
        added = rotation_from_pose(np.array([yaw, pitch, degrees], float))
        low, high = wrong_by
        assert low <= geodesic_degrees(added, fitted) <= high


def test_turns_join(head):
    labels = labels_of(head, (50, 20, -10))
    one_by_one = turn(30).labels(turn(25).labels(labels)).pose[0]
    at_once = turn(25).then(turn(30)).labels(labels).pose[0]
    np.testing.assert_allclose(one_by_one, at_once, atol=1e-3)
    np.testing.assert_allclose(turn(-55).labels(labels.with_(pose=at_once[None])).pose[0], (50, 20, -10), atol=1e-3)


def test_a_face_without_pose_stays_without_beside_one_that_turns(head):
    labels = labels_of(head, (30, 10, 5))
    both = labels[[0, 0]].with_(pose=np.array([[np.nan] * 3, [30, 10, 5]]))
    moved = turn(33).labels(both).pose
    assert np.isnan(moved[0]).all()
    np.testing.assert_array_equal(moved[1], turn(33).labels(labels).pose[0])


def meshed(pose) -> FaceLabels:
    """Labels of the canonical face in that pose, its nose at no depth, and of a face without mesh."""
    topology = topology_468()
    mesh = turn_upright(topology.canonical @ rotation_from_pose(np.array(pose, float)).T * 9)
    mesh += np.array([180, 140, 0])
    mesh[:, 2] -= mesh[topology.nose_tip, 2]
    return FaceLabels(
        boxes=[[100, 60, 260, 220], [5, 5, 20, 20]],
        pose=np.array([pose, [np.nan] * 3], float),
        mesh=np.stack([mesh, np.full_like(mesh, np.nan)]),
        mesh_flip=topology.flip_index,
    )


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("name", MAPS)
def test_a_mesh_moves_with_its_pose_and_its_size(name, pose):
    labels = meshed(pose)
    moved = MAPS[name].labels(labels)
    fitted, residual = pose_from_mesh(moved.mesh[:1], topology_468())
    assert residual[0] < 1e-5  # left and right exchanged where they must be, and depth as large as the rest
    assert geodesic_degrees(*rotation_from_pose(np.stack([moved.pose[0], fitted[0]]))) < 0.02
    assert abs(moved.mesh[0, topology_468().nose_tip, 2]) < 1e-4
    assert np.isnan(moved.mesh[1]).all() and moved.mesh.dtype == np.float32
    if not MAPS[name].mirrored:
        np.testing.assert_allclose(moved.mesh[0, :, :2], MAPS[name].points(labels.mesh[0, :, :2]), atol=1e-3)


def test_a_mesh_that_nobody_knows_the_mirror_image_of_is_lost_under_a_mirror_and_nothing_else_is():
    symmetric = meshed(POSES[1])
    labels = symmetric.with_(mesh_flip=None)
    np.testing.assert_array_equal(MAPS["small"].labels(labels).mesh, MAPS["small"].labels(symmetric).mesh)
    moved, wanted = (MAPS["mirrored"].labels(each) for each in (labels, symmetric))
    assert moved.mesh.shape == (2, 468, 3) and np.isnan(moved.mesh).all() and moved.mesh_flip is None
    np.testing.assert_array_equal(moved.boxes, wanted.boxes)
    np.testing.assert_array_equal(moved.pose, wanted.pose)
