import numpy as np
import pytest

from gluonface.data.transforms._pose import move_pose
from gluonface.pose import rotation_from_pose

HEAD = np.array([[-1, 0.5, 0.2], [1, 0.5, 0.2], [0, 0, 1], [-0.6, -0.7, 0.4], [0.6, -0.7, 0.4], [0, 1.2, -0.3]])
POSES = np.array([[0, 0, 0], [25, -12, 8], [-60, 30, -100], [5, 5, 170]])


def project(head: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Head points in image coordinates, y down, as the corpus defines pose."""
    rotation = rotation_from_pose(pose[None])[0]
    return (head @ rotation.T)[:, :2] * (1, -1)


@pytest.mark.parametrize("degrees", [-150, -37, 0, 20, 90, 180])
def test_the_turned_pose_projects_onto_the_turned_points(degrees):
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    linear = 1.7 * np.array([[cos, -sin], [sin, cos]])
    for pose, moved in zip(POSES, move_pose(POSES, linear), strict=True):
        np.testing.assert_allclose(1.7 * project(HEAD, moved), project(HEAD, pose) @ linear.T, atol=1e-5)


def test_the_mirrored_pose_is_that_of_the_mirrored_head():
    linear = np.array([[-1.0, 0], [0, 1]])
    for pose, moved in zip(POSES, move_pose(POSES, linear), strict=True):
        mirrored_head = HEAD * (-1, 1, 1)
        np.testing.assert_allclose(project(mirrored_head, moved), project(HEAD, pose) @ linear.T, atol=1e-5)
    np.testing.assert_allclose(move_pose(POSES, linear)[1], [-25, -12, -8], atol=1e-5)


def test_scaling_leaves_a_pose_and_unknown_ones_stay_unknown():
    poses = np.array([[10, 20, 30], [np.nan] * 3])
    moved = move_pose(poses, np.diag([0.5, 0.5]))
    np.testing.assert_allclose(moved[0], poses[0], atol=1e-5)
    assert np.isnan(moved[1]).all()


def test_a_head_at_a_yaw_of_90_degrees_is_turned_and_mirrored_too():
    poses = np.array([[90.0, 20, 30], [-90, -10, 5], [90, 0, 0]])
    for linear in (np.array([[0.6, -0.8], [0.8, 0.6]]), np.array([[-1.0, 0], [0, 1]])):
        head = HEAD * (-1, 1, 1) if np.linalg.det(linear) < 0 else HEAD
        for pose, moved in zip(poses, move_pose(poses, linear), strict=True):
            np.testing.assert_allclose(project(head, moved), project(HEAD, pose) @ linear.T, atol=1e-5)
