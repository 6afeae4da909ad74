"""Head pose: angles and rotations are inverse, signs are those of the convention, points give back the pose."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gluonface.data.transforms._pose import move_pose
from gluonface.errors import InputError
from gluonface.face_template import FACE_5, FACE_68
from gluonface.faces import SCHEMES
from gluonface.pose import (
    fit_pose,
    geodesic_degrees,
    pose_distance,
    pose_from_rotation,
    rotation_from_pose,
    wrap_degrees,
)

TEMPLATES = {5: np.array(FACE_5), 68: np.array(FACE_68)}
BOTH = pytest.mark.parametrize("count", [5, 68])
LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = range(5)


def poses_over_the_sphere() -> np.ndarray:
    """(n, 3) poses, yaw from -90 to 90 with both ends, pitch and roll all the way round."""
    axes = np.linspace(-90, 90, 19), np.linspace(-180, 180, 17), np.linspace(-180, 180, 17)
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def shown(head: np.ndarray, pose, scale=50.0, offset=(200.0, 150.0)) -> np.ndarray:
    """Points of a head (K, 3) with poses (n, 3) in the image, (n, K, 2), y down."""
    rotation = rotation_from_pose(np.atleast_2d(pose))
    return scale * np.einsum("nij,kj->nki", rotation[:, :2], head) * (1, -1) + offset


def random_poses(rng, count=200, yaw=60, pitch=40, roll=180) -> np.ndarray:
    return rng.uniform(-1, 1, (count, 3)) * (yaw, pitch, roll)


# angles and rotations


def test_the_rotation_of_a_pose_of_a_rotation_is_that_rotation_also_at_90_degrees_of_yaw():
    rotation = rotation_from_pose(poses_over_the_sphere())
    np.testing.assert_allclose(rotation_from_pose(pose_from_rotation(rotation)), rotation, atol=1e-14)


def test_close_to_90_degrees_of_yaw_the_round_trip_holds_too(rng):
    poses = random_poses(rng, 2000, roll=180)
    poses[:, 0] = rng.choice([-1, 1], 2000) * (90 - 10 ** rng.uniform(-15, 0, 2000))
    rotation = rotation_from_pose(poses)
    np.testing.assert_allclose(rotation_from_pose(pose_from_rotation(rotation)), rotation, atol=1e-14)
    single = rotation.astype(np.float32)
    np.testing.assert_allclose(rotation_from_pose(pose_from_rotation(single)), single, atol=1e-6)


def test_at_a_yaw_of_exactly_90_degrees_the_pitch_is_0():
    aside = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(pose_from_rotation(aside), [90, 0, 0])
    np.testing.assert_array_equal(pose_from_rotation(aside.T), [-90, 0, 0])
    np.testing.assert_array_equal(pose_from_rotation(np.where(aside == 0, -0.0, aside)), [90, 0, 0])


def test_a_pose_comes_back_from_its_rotation(rng):
    poses = random_poses(rng, 500, yaw=89, pitch=179, roll=179)
    np.testing.assert_allclose(pose_from_rotation(rotation_from_pose(poses)), poses, atol=1e-9)


def test_rotations_are_proper_and_are_the_product_of_the_convention(rng):
    for yaw, pitch, roll in random_poses(rng, 20):
        (cp, sp), (cy, sy), (cr, sr) = ((np.cos(a), np.sin(a)) for a in np.deg2rad([pitch, yaw, roll]))
        rx = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        ry = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        rz = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
        rotation = rotation_from_pose([yaw, pitch, roll])
        np.testing.assert_allclose(rotation, rx @ ry @ rz, atol=1e-15)
        assert np.linalg.det(rotation) == pytest.approx(1)


def test_leading_axes_are_kept():
    for lead in ((), (4,), (2, 3), (0,)):
        rotation = rotation_from_pose(np.zeros((*lead, 3)))
        assert rotation.shape == (*lead, 3, 3)
        assert pose_from_rotation(rotation).shape == (*lead, 3)
        assert geodesic_degrees(rotation, rotation).shape == lead


def test_the_other_triple_of_a_rotation_has_the_same_matrix_and_is_never_returned():
    pose = np.array([30.0, 10, -5])
    other = [180 - pose[0], pose[1] + 180, pose[2] + 180]
    np.testing.assert_allclose(rotation_from_pose(other), rotation_from_pose(pose), atol=1e-15)
    np.testing.assert_allclose(pose_from_rotation(rotation_from_pose(other)), pose)


def test_an_unknown_pose_has_an_unknown_rotation_and_the_reverse():
    rotation = rotation_from_pose([[10, 20, 30], [np.nan, np.nan, np.nan]])
    assert np.isfinite(rotation[0]).all() and np.isnan(rotation[1]).all()
    pose = pose_from_rotation(rotation)
    assert np.isfinite(pose[0]).all() and np.isnan(pose[1]).all()


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (rotation_from_pose, [np.zeros((3, 2))], r"pose: expected shape \(..., 3\), got \(3, 2\)"),
        (pose_from_rotation, [np.zeros((3, 2))], r"rotation: expected shape \(..., 3, 3\)"),
        (pose_from_rotation, [np.zeros(3)], r"rotation: expected shape \(..., 3, 3\), got \(3,\)"),
        (geodesic_degrees, [np.eye(3), np.eye(2)], r"rotation_b: expected shape \(..., 3, 3\), got \(2, 2\)"),
        (pose_distance, [np.zeros(3), 4.0], r"pose b: expected shape \(..., 3\), got \(\)"),
    ],
)
def test_arrays_of_another_shape_are_refused(function, arguments, said):
    with pytest.raises(InputError, match=said):
        function(*arguments)


# distances


def test_angles_are_wrapped_into_one_turn_and_stay_as_they_are_within_it():
    given = [0, 180, -180, 181, -181, 540, 720.5, -179.999, np.nan]
    np.testing.assert_allclose(wrap_degrees(given), [0, 180, 180, -179, 179, 180, 0.5, -179.999, np.nan])
    inside = np.array([1e-30, -1e-30, 179.99999999999997, 0.1])
    np.testing.assert_array_equal(wrap_degrees(inside), inside)


def test_the_distance_of_angles_goes_the_shorter_way_round():
    distance = pose_distance([[170, -170, 0], [10, 0, 0]], [[-170, 170, 180], [-10, 0, np.nan]])
    np.testing.assert_allclose(distance, [[20, 20, 180], [20, 0, np.nan]])


def test_the_distance_of_angles_is_that_of_the_triples_not_of_the_rotations():
    np.testing.assert_allclose(pose_distance([30, 10, -5], [150, 190, 175]), [120, 180, 180])


@pytest.mark.parametrize("degrees", [0, 1e-9, 1e-3, 30, 90, 179.9, 180])
def test_the_geodesic_is_the_angle_of_the_turn_between_also_for_tiny_ones(rng, degrees):
    for pose in random_poses(rng, 10):
        rotation = rotation_from_pose(pose)
        for axis in range(3):
            turn = rotation_from_pose(degrees * np.eye(3)[axis])
            assert geodesic_degrees(turn @ rotation, rotation) == pytest.approx(degrees, rel=1e-5, abs=1e-13 * 180)
            assert geodesic_degrees(rotation, rotation @ turn) == pytest.approx(degrees, rel=1e-5, abs=1e-13 * 180)


# signs


def test_positive_yaw_moves_the_nose_to_the_viewers_left():
    nose = shown(TEMPLATES[5], [[0, 0, 0], [30, 0, 0]])[:, NOSE]
    assert nose[1, 0] < nose[0, 0] - 5
    eyes = shown(TEMPLATES[5], [30, 0, 0])[0][[LEFT_EYE, RIGHT_EYE], 0]
    assert eyes[0] < eyes[1]  # the viewer's left stays on the left


def test_positive_pitch_moves_the_nose_up():
    nose = shown(TEMPLATES[5], [[0, 0, 0], [0, 30, 0]])[:, NOSE]
    eyes = shown(TEMPLATES[5], [[0, 0, 0], [0, 30, 0]])[:, [LEFT_EYE, RIGHT_EYE]].mean(axis=1)
    assert (nose - eyes)[1, 1] < (nose - eyes)[0, 1] - 5  # nearer to the eyes, which lie above it: y points down


def test_positive_roll_tilts_clockwise():
    left, right = shown(TEMPLATES[5], [0, 0, 30])[0][[LEFT_EYE, RIGHT_EYE]]
    assert right[1] > left[1] + 5  # the eye on the viewer's right sinks
    np.testing.assert_allclose(np.rad2deg(np.arctan2(*(right - left)[::-1])), 30)


# the mean face


@BOTH
def test_the_mean_face_is_mirror_symmetric(count):
    mirrored = TEMPLATES[count][SCHEMES[str(count)].flip_index] * (-1, 1, 1)
    np.testing.assert_allclose(mirrored, TEMPLATES[count], atol=1e-9)


def test_the_mean_face_is_centred_of_radius_1_and_faces_the_viewer():
    face = TEMPLATES[68]
    assert face.shape == (68, 3)
    np.testing.assert_allclose(face.mean(axis=0), 0, atol=1e-3)
    assert np.sqrt((face**2).sum(axis=1).mean()) == pytest.approx(1, abs=1e-3)
    assert face[:, 2].argmax() == 30  # the tip of the nose is nearest
    assert face[:, 1].argmin() == 8  # the chin is lowest
    assert face[0, 0] < 0 < face[16, 0]  # the jaw starts at the viewer's left
    assert face[[0, 16], 2].max() < face[17:, 2].min()  # ears are farthest


def test_the_five_points_are_those_of_the_68():
    means = [TEMPLATES[68][list(part)].mean(axis=0) for part in SCHEMES["68"].five]
    np.testing.assert_allclose(TEMPLATES[5], means, atol=1e-3)


# pose from points


@BOTH
@pytest.mark.parametrize("yaw", [-90, -60, -30, 0, 30, 60, 90])
def test_fitting_gives_back_the_pose_that_was_projected(count, yaw):
    poses = np.array([[yaw, pitch, roll] for pitch in (-40, 0, 35) for roll in (-120, -20, 0, 75)], float)
    pose, residual = fit_pose(shown(TEMPLATES[count], poses))
    rotations = rotation_from_pose(pose), rotation_from_pose(poses)
    assert geodesic_degrees(*rotations).max() < 1e-4
    if abs(yaw) < 90:
        assert pose_distance(pose, poses).max() < 1e-4
    assert residual.max() < 1e-7


@BOTH
def test_size_and_place_of_the_face_do_not_matter(count, rng):
    poses = random_poses(rng, 20)
    expected, residual = fit_pose(shown(TEMPLATES[count], poses))
    for scale, offset in ((1e-3, (0, 0)), (3000, (-5e4, 1e5))):
        pose, other_residual = fit_pose(shown(TEMPLATES[count], poses, scale, offset))
        np.testing.assert_allclose(pose, expected, atol=1e-4)
        np.testing.assert_allclose(other_residual, residual, atol=1e-6)


@BOTH
def test_one_face_is_fitted_as_among_others(count, rng):
    points = shown(TEMPLATES[count], random_poses(rng, 30)) + rng.normal(0, 4, (30, count, 2))
    together = fit_pose(points)
    for i in range(30):
        alone = fit_pose(points[i : i + 1])
        np.testing.assert_allclose(alone[0][0], together[0][i], atol=1e-3)
        np.testing.assert_allclose(alone[1][0], together[1][i], atol=1e-7)


# Noise in shares of the root-mean-square radius of the head; error in degrees.
@pytest.mark.parametrize(("count", "noise", "error"), [(68, 0.03, 0.8), (68, 0.1, 2.5), (5, 0.03, 4.5), (5, 0.1, 14)])
def test_noise_in_the_points_turns_the_head_little(count, noise, error, rng):
    poses = random_poses(rng, 300)
    points = shown(TEMPLATES[count], poses) + rng.normal(0, 50 * noise, (300, count, 2))
    turned = geodesic_degrees(rotation_from_pose(fit_pose(points)[0]), rotation_from_pose(poses))
    assert turned.mean() < error
    assert turned.max() < 5 * error


def residuals(points, head, rotations) -> np.ndarray:
    """(n, r): what the residual of each face would be at each of the rotations (n, r, 3, 3), at the best scale."""
    head = head - head.mean(axis=0)
    seen = ((points - points.mean(axis=1, keepdims=True)) * (1, -1)).reshape(len(points), 1, -1)
    views = np.einsum("nrij,kj->nrki", rotations[:, :, :2], head).reshape(*rotations.shape[:2], -1)
    explained = np.maximum((views * seen).sum(axis=2), 0) ** 2 / (views**2).sum(axis=2)
    area = np.ptp(points, axis=1).prod(axis=1)[:, None]
    return np.sqrt(((seen**2).sum(axis=2) - explained) / len(head) / area)


@BOTH
@pytest.mark.parametrize("noise", [2, 6])
def test_no_other_rotation_explains_noisy_points_better(count, noise, rng):
    points = shown(TEMPLATES[count], random_poses(rng, 40)) + rng.normal(0, noise, (40, count, 2))
    pose, residual = fit_pose(points)
    fitted = rotation_from_pose(pose)[:, None]
    np.testing.assert_allclose(residuals(points, TEMPLATES[count], fitted)[:, 0], residual, rtol=1e-6)
    # Neither one all over the sphere, nor one that is turned by a tenth of a degree only.
    everywhere = np.broadcast_to(rotation_from_pose(poses_over_the_sphere()[None, ::4]), (40, 1373, 3, 3))
    nearby = rotation_from_pose(0.1 * np.concatenate([np.eye(3), -np.eye(3)])) @ fitted
    for others in (everywhere, nearby):
        assert (residuals(points, TEMPLATES[count], others) > residual[:, None]).all()


def test_five_points_are_not_taken_for_those_of_a_head_turned_to_the_other_side(rng):
    """A flat face looks the same turned either way; the nose decides, also where the points are noisy."""
    poses = np.array([[yaw, pitch, 0.0] for yaw in (-60, -40, -25, 25, 40, 60) for pitch in (-20, 0, 20)])
    points = np.repeat(shown(TEMPLATES[5], poses), 20, axis=0)
    pose, _ = fit_pose(points + rng.normal(0, 0.04 * 50, points.shape))
    assert (np.sign(pose[:, 0]) == np.repeat(np.sign(poses[:, 0]), 20)).all()
    sideways = np.repeat(poses[:, 1] == 0, 20)
    assert np.abs(pose[sideways, 1]).mean() < 8


def test_a_frontal_face_that_is_narrow_or_short_still_looks_at_the_viewer():
    for stretch in ((0.8, 1), (1, 0.8), (1.15, 1), (1, 1.15)):
        (pose,), _ = fit_pose(shown(TEMPLATES[5] * (*stretch, 1), [0, 0, 0]))
        assert abs(pose[0]) < 1e-3 and abs(pose[2]) < 1e-3
        assert abs(pose[1]) < 35


@BOTH
def test_faces_with_unknown_points_have_an_unknown_pose_and_disturb_no_other(count, rng):
    points = shown(TEMPLATES[count], random_poses(rng, 4))
    expected, _ = fit_pose(points)
    points[1, 2, 0], points[2, 0] = np.nan, np.inf
    pose, residual = fit_pose(points)
    np.testing.assert_array_equal(np.isnan(pose).all(axis=1), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(residual), [False, True, True, False])
    np.testing.assert_allclose(pose[[0, 3]], expected[[0, 3]], atol=1e-6)


@BOTH
def test_points_in_one_place_or_on_a_line_have_no_pose(count):
    line = np.linspace(0, 90, count)
    points = np.stack([np.full((count, 2), 7.0), np.stack([line, 2 * line], -1), np.stack([line, 0 * line], -1)])
    with np.errstate(all="raise"):
        pose, residual = fit_pose(points)
    assert np.isnan(pose).all() and np.isnan(residual).all()


@BOTH
def test_no_face_is_fitted_to_nothing(count):
    pose, residual = fit_pose(np.zeros((0, count, 2)))
    assert pose.shape == (0, 3) and residual.shape == (0,)


def test_another_template_may_be_given(rng):
    head = rng.normal(size=(7, 3))
    poses = random_poses(rng, 10, yaw=80)
    pose, _ = fit_pose(shown(head, poses), head + np.array([3, 4, 5]))
    np.testing.assert_allclose(pose, poses, atol=1e-4)


@pytest.mark.parametrize(
    ("points", "template", "said"),
    [
        (np.zeros((5, 2)), None, r"expected points of shape \(n, K, 2\), got \(5, 2\)"),
        (np.zeros((1, 7, 2)), None, "expected 5 or 68 points, got 7; give their template"),
        (np.zeros((1, 5, 2)), np.zeros((4, 3)), r"expected a template of shape \(K, 3\) for 5 points.* got \(4, 3\)"),
        (np.zeros((1, 3, 2)), np.eye(3), "at least 4"),
        (np.zeros((1, 5, 2)), TEMPLATES[5] * (1, 1, 0), "a template with depth"),
        (np.zeros((1, 5, 2)), TEMPLATES[5] * np.nan, "a template of finite numbers, got nan"),
    ],
)
def test_points_and_templates_that_do_not_fit_are_refused(points, template, said):
    with pytest.raises(InputError, match=said):
        fit_pose(points, template)


# pose and the image that it is seen in


@pytest.mark.parametrize("degrees", [-100, -15, 40, 180])
@BOTH
def test_the_pose_of_points_turned_in_the_image_is_the_moved_pose(count, degrees, rng):
    poses = random_poses(rng, 20, roll=60)
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    linear = 0.7 * np.array([[cos, -sin], [sin, cos]])
    pose, _ = fit_pose(shown(TEMPLATES[count], poses) @ linear.T)
    assert pose_distance(pose, move_pose(poses, linear)).max() < 1e-3


@BOTH
def test_the_pose_of_mirrored_points_is_the_moved_pose(count, rng):
    poses = random_poses(rng, 20, roll=60)
    linear = np.array([[-1.0, 0], [0, 1]])
    mirrored = (shown(TEMPLATES[count], poses) @ linear.T)[:, SCHEMES[str(count)].flip_index]
    pose, _ = fit_pose(mirrored)
    assert pose_distance(pose, move_pose(poses, linear)).max() < 1e-3
    assert pose_distance(pose, poses * (-1, 1, -1)).max() < 1e-3


# real faces


def test_the_fit_to_labelled_points_agrees_with_the_labelled_pose(facedata):
    lines = [json.loads(line) for line in (facedata / "lmk_val.jsonl").read_text().splitlines()]
    faces = [line["faces"][0] for line in lines]
    labelled = np.array([[face["pose"][angle] for angle in ("yaw", "pitch", "roll")] for face in faces])
    pose, residual = fit_pose([face["landmarks68"] for face in faces])
    assert (pose_distance(pose, labelled).mean(axis=0) < (0.5, 0.5, 0.5)).all()
    assert residual.mean() < 0.04
    pose, _ = fit_pose([face["landmarks5"] for face in faces])
    assert (pose_distance(pose, labelled).mean(axis=0) < (3, 6.5, 2)).all()
