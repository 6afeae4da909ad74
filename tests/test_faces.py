"""Faces: what goes in is checked, what comes out is plain."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from gluonface.errors import InputError
from gluonface.face_template import FACE_5
from gluonface.faces import SCHEMES, Face, Faces
from gluonface.geometry import rotation_matrix_about, warp_points
from gluonface.pose import pose_distance, rotation_from_pose, wrap_degrees


def three_faces() -> Faces:
    rng = np.random.default_rng(0)
    boxes = np.array([[10, 10, 30, 40], [0, 0, 5, 5], [50.1, 20.2, 90.3, 80.4]])
    return Faces(
        boxes,
        [0.3, 0.9, 0.6],
        landmarks5=rng.uniform(0, 100, (3, 5, 2)),
        landmarks=rng.uniform(0, 100, (3, 68, 2)),
        scheme="68",
        pose=rng.uniform(-30, 30, (3, 3)),
        mesh=rng.normal(0, 100, (3, 7, 3)),
        size_hw=(100, 120),
    )


def test_arrays_are_float32_and_of_the_documented_shapes():
    faces = three_faces()
    shapes = {
        name: getattr(faces, name).shape for name in ("boxes", "scores", "landmarks5", "landmarks", "pose", "mesh")
    }
    assert shapes == {
        "boxes": (3, 4),
        "scores": (3,),
        "landmarks5": (3, 5, 2),
        "landmarks": (3, 68, 2),
        "pose": (3, 3),
        "mesh": (3, 7, 3),
    }
    assert all(getattr(faces, name).dtype == np.float32 for name in shapes)
    assert faces.size_hw == (100, 120)


def test_an_empty_result_has_boxes_of_shape_0_4():
    faces = Faces.empty((7, 9))
    assert len(faces) == 0
    assert faces.boxes.shape == (0, 4)
    assert faces.scores.shape == (0,)
    assert faces.landmarks5.shape == (0, 5, 2)
    assert Faces([], [], size_hw=(7, 9)).boxes.shape == (0, 4)


def test_the_arrays_cannot_be_written_and_the_fields_cannot_be_set():
    faces = three_faces()
    with pytest.raises(ValueError, match="read-only"):
        faces.boxes[0, 0] = 5
    with pytest.raises(ValueError, match="read-only"):
        faces[1].landmarks5[0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        faces.scores = np.zeros(3)


def test_the_callers_array_is_copied_and_stays_writable():
    boxes = np.array([[0, 0, 5, 5]], np.float32)
    faces = Faces(boxes, [1], size_hw=(9, 9))
    boxes[0, 0] = 3
    assert faces.boxes[0, 0] == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"boxes": np.zeros((2, 5))}, r"Faces.boxes: expected shape \(n, 4\) with n = 2 boxes, got \(2, 5\)"),
        ({"boxes": [1, 2, 3, 4]}, r"Faces.boxes: expected shape \(n, 4\)"),
        ({"boxes": None}, "Faces.boxes: expected an array, got None"),
        ({"boxes": [[0, 0, 1, 1], [5, 0, 4, 9]]}, r"x2 >= x1 .*\[5.0, 0.0, 4.0, 9.0\] for face 1 of 2"),
        ({"boxes": [[0, 0, 1, 1], [0, 9, 4, 8]]}, "y2 >= y1"),
        ({"boxes": [[0, 0, 1, 1], [0, np.nan, 4, 8]]}, "Faces.boxes: expected finite numbers.* for face 1 of 2"),
        ({"boxes": "photo.jpg"}, "Faces.boxes: expected an array"),
        ({"scores": [0.5]}, r"Faces.scores: expected shape \(n,\) with n = 2 boxes, got \(1,\)"),
        ({"scores": [[0.5], [0.5]]}, "Faces.scores: expected shape"),
        ({"scores": [0.5, np.inf]}, "Faces.scores: expected finite numbers"),
        ({"landmarks5": np.zeros((2, 10))}, r"Faces.landmarks5: expected shape \(n, 5, 2\)"),
        ({"landmarks5": np.zeros((1, 5, 2))}, "Faces.landmarks5: expected shape"),
        ({"landmarks": np.zeros((2, 68, 2))}, "landmarks and scheme go together"),
        ({"scheme": "68"}, "landmarks and scheme go together"),
        ({"landmarks": np.zeros((2, 67, 2)), "scheme": "68"}, r"expected shape \(n, 68, 2\) .* got \(2, 67, 2\)"),
        ({"pose": np.zeros((2, 2))}, r"Faces.pose: expected shape \(n, 3\)"),
        ({"mesh": np.zeros((2, 468, 2))}, r"Faces.mesh: expected shape \(n, K, 3\)"),
        ({"size_hw": 640}, r"Faces.size_hw: expected \(height, width\), got 640"),
        ({"size_hw": (0, 5)}, "at least 1"),
    ],
)
def test_wrong_input_is_refused_and_named(fields, says):
    good = {"boxes": [[0, 0, 1, 1], [0, 0, 2, 2]], "scores": [0.5, 0.4], "size_hw": (9, 9)}
    with pytest.raises(InputError, match=says):
        Faces(**{**good, **fields})


def test_a_typo_in_a_field_fails():
    with pytest.raises(TypeError):
        Faces([], [], landmark5=None, size_hw=(1, 1))


def test_an_int_gives_one_face_with_box_and_score():
    face = three_faces()[-1]
    assert isinstance(face, Face)
    assert len(face) == 1
    assert face.box == pytest.approx([50.1, 20.2, 90.3, 80.4])
    assert face.score == pytest.approx(0.6)
    assert face.landmarks.shape == (1, 68, 2)
    assert face.size_hw == (100, 120)


def test_slices_masks_and_index_arrays_choose_from_every_array():
    faces = three_faces()
    for index, rows in [
        (slice(1, None), [1, 2]),
        (faces.scores > 0.5, [1, 2]),
        ([2, 0], [2, 0]),
        (np.array([1]), [1]),
        ([], []),
        (np.zeros(3, bool), []),
    ]:
        chosen = faces[index]
        assert type(chosen) is Faces
        for name in ("boxes", "scores", "landmarks5", "landmarks", "pose", "mesh"):
            np.testing.assert_array_equal(getattr(chosen, name), getattr(faces, name)[rows])


@pytest.mark.parametrize("index", [3, -4, np.array([True, False]), [0.5], np.zeros((2, 2), int), "boxes", True])
def test_a_wrong_index_is_an_index_error(index):
    with pytest.raises(IndexError):
        three_faces()[index]


def test_iterating_gives_one_face_after_another():
    scores = [face.score for face in three_faces()]
    assert scores == pytest.approx([0.3, 0.9, 0.6])


def test_sorting_puts_the_best_first_and_keeps_ties_in_order():
    assert three_faces().sorted_by_score().scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    tied = Faces([[0, 0, 1, 1], [0, 0, 2, 2]], [0.5, 0.5], size_hw=(9, 9)).sorted_by_score()
    assert tied.boxes[0, 2] == 1


def test_largest_is_the_face_of_largest_area_and_none_of_none():
    assert three_faces().largest().boxes[0, 0] == pytest.approx(50.1)
    assert len(Faces.empty((5, 5)).largest()) == 0


def test_with_replaces_fields_and_checks_them():
    faces = three_faces().with_(scores=[1, 2, 3], pose=None)
    assert faces.scores.tolist() == [1, 2, 3]
    assert faces.pose is None
    with pytest.raises(InputError):
        faces.with_(scores=[1])


def test_faces_of_the_same_numbers_are_equal_and_others_are_not():
    faces = three_faces()
    assert faces == three_faces()
    assert faces != faces.with_(pose=None)
    assert faces != faces.with_(size_hw=(100, 121))
    assert faces != faces.with_(scores=faces.scores + 1e-3)
    assert faces != "faces"


def test_the_dictionary_is_what_the_command_writes():
    d = three_faces()[:1].to_dict("a.jpg", "some_model")
    assert list(d) == ["image", "width", "height", "model", "faces"]
    assert (d["image"], d["width"], d["height"], d["model"]) == ("a.jpg", 120, 100, "some_model")
    (face,) = d["faces"]
    assert face["box"] == [10, 10, 30, 40]
    assert face["score"] == 0.3  # not 0.30000001192092896
    assert len(face["landmarks5"]) == 5
    assert len(face["landmarks"]) == 68
    assert list(face["pose"]) == ["yaw", "pitch", "roll"]


@pytest.mark.parametrize("faces", [three_faces(), three_faces().with_(landmarks5=None, mesh=None), Faces.empty((3, 4))])
def test_json_gives_back_the_same_float32(faces):
    assert Faces.from_dict(json.loads(json.dumps(faces.to_dict(), allow_nan=False))) == faces


def test_extreme_numbers_come_back_from_json():
    boxes = np.array([[1e-30, 1e-7, 123456.789, 1e30]], np.float32)
    faces = Faces(boxes, [np.float32(1) / 3], size_hw=(1, 1))
    assert Faces.from_dict(json.loads(json.dumps(faces.to_dict()))) == faces


def test_an_incomplete_dictionary_is_refused():
    with pytest.raises(InputError, match="'width' is missing"):
        Faces.from_dict({"height": 3, "faces": []})
    with pytest.raises(InputError, match="face 1 of 2 has no 'score'"):
        Faces.from_dict({"height": 3, "width": 3, "faces": [{"box": [0, 0, 1, 1], "score": 1}, {"box": [0, 0, 1, 1]}]})


def test_the_flip_index_of_five_points_exchanges_eyes_and_mouth_corners():
    scheme = SCHEMES["5"]
    assert scheme.flip_index.tolist() == [1, 0, 2, 4, 3]
    assert len(scheme.names) == scheme.num_points == 5
    assert sorted(i for group in scheme.groups.values() for i in group) == list(range(5))


def test_the_representation_is_short():
    assert repr(three_faces()) == "Faces(3 in 120x100, scores 0.900..0.300, landmarks5, pose, mesh, 68 landmarks)"
    assert repr(Faces.empty((5, 6))) == "Faces(0 in 6x5, landmarks5)"


# schemes


def test_every_scheme_names_each_point_once_and_groups_all_of_them():
    for name, scheme in SCHEMES.items():
        assert name == scheme.name == str(scheme.num_points)
        assert len(set(scheme.names)) == len(scheme.names) == scheme.num_points
        assert sorted(row for rows in scheme.groups.values() for row in rows) == list(range(scheme.num_points))
        assert set(scheme.groups) <= {"jaw", "brows", "eyes", "nose", "mouth"}
        assert {row for line in scheme.contours for row in line} <= set(range(scheme.num_points))
    assert list(SCHEMES) == ["5", "19", "29", "68", "98", "106"]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_mirroring_twice_changes_nothing_and_keeps_every_group(scheme):
    index = scheme.flip_index
    assert sorted(index) == list(range(scheme.num_points))
    np.testing.assert_array_equal(index[index], np.arange(scheme.num_points))
    paired = [row for pair in scheme.flip_pairs for row in pair]
    assert len(set(paired)) == len(paired) and all(a != b for a, b in scheme.flip_pairs)
    for rows in scheme.groups.values():
        assert {int(index[row]) for row in rows} == set(rows)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_a_name_with_left_is_mirrored_to_the_same_name_with_right(scheme):
    for a, b in scheme.flip_pairs:
        one, other = (scheme.names[row].rstrip("0123456789 ") for row in (a, b))
        if "left" in one or "right" in one:
            assert other == (one.replace("left", "right") if "left" in one else one.replace("right", "left"))
        else:
            assert one == other
    alone = set(range(scheme.num_points)) - {row for pair in scheme.flip_pairs for row in pair}
    assert not [scheme.names[row] for row in alone if "left" in scheme.names[row] or "right" in scheme.names[row]]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_the_five_points_of_a_mirrored_face_are_the_mirrored_five_points(scheme, rng):
    points = rng.uniform(0, 100, (3, scheme.num_points, 2))
    mirrored = (points * (-1, 1))[:, scheme.flip_index]
    five = scheme.five_points(points)
    assert five.shape == (3, 5, 2)
    np.testing.assert_allclose(scheme.five_points(mirrored), (five * (-1, 1))[:, [1, 0, 2, 4, 3]])
    with pytest.raises(InputError, match=rf"expected points of shape \(..., {scheme.num_points}, 2\)"):
        scheme.five_points(points[:, 1:])


def test_the_five_of_68_points_are_those_of_the_corpus():
    points = np.arange(136.0).reshape(68, 2)
    expected = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
    np.testing.assert_allclose(SCHEMES["68"].five_points(points), expected)


def test_the_pairs_of_every_scheme_fit_the_labels_of_real_faces(facedata):
    from gluonface.geometry import similarity_transform, warp_points

    seen = set()
    for path in sorted((facedata / "samples").glob("*/*.json")):
        for face in json.loads(path.read_text())["annotations"]:
            points = np.array(face["keypoints"]).reshape(-1, 3)[:, :2]
            scheme = SCHEMES[str(len(points))]
            seen.add(scheme.name)

            def asymmetry(index, points=points):
                mirrored = (points * (-1, 1))[index]
                moved = warp_points(similarity_transform(mirrored, points), mirrored)
                return np.linalg.norm(moved - points, axis=1).mean() / np.ptp(points, axis=0).mean()

            right = asymmetry(scheme.flip_index)
            assert right < 0.12
            for pair in scheme.flip_pairs:  # each pair left out makes the face less symmetric
                index = scheme.flip_index
                index[list(pair)] = pair
                assert asymmetry(index) > right
    assert seen == {"19", "29", "68", "98", "106"}


def test_faces_are_aligned_by_dense_points_where_there_are_some():
    faces = three_faces()
    np.testing.assert_array_equal(faces.alignment_points, SCHEMES["68"].five_points(faces.landmarks))
    np.testing.assert_array_equal(faces.with_(landmarks=None, scheme=None).alignment_points, faces.landmarks5)
    with pytest.raises(InputError, match="neither landmarks5 nor dense landmarks"):
        _ = Faces([[0, 0, 1, 1]], [1], size_hw=(5, 5)).alignment_points


def test_faces_with_a_pose_have_its_rotation():
    faces = three_faces().with_(pose=[[0, 0, 0], [90, 0, 0], [0, 0, 90]])
    assert faces.rotation.dtype == np.float32
    expected = [np.eye(3), [[0, 0, -1], [0, 1, 0], [1, 0, 0]], [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]]
    np.testing.assert_allclose(faces.rotation, expected, atol=1e-7)
    assert faces[1].rotation.shape == (1, 3, 3)
    assert faces[:0].rotation.shape == (0, 3, 3)


def turned(degrees, pose=(0, 0, 0)) -> Faces:
    """Faces of a mean head of that pose, turned in the image by angles (n,), clockwise as the viewer sees it."""
    upright = (np.array(FACE_5) @ rotation_from_pose(np.array(pose)).T)[:, :2] * (1, -1) * 40
    points = [warp_points(rotation_matrix_about((90, 70), angle), upright + np.array([100, 80])) for angle in degrees]
    return Faces(np.tile([0, 0, 9, 9], (len(points), 1)), np.ones(len(points)), landmarks5=points, size_hw=(9, 9))


@pytest.mark.parametrize(("pose", "within"), [((0, 0, 0), 1e-3), ((60, 0, 0), 3), ((-90, 0, 0), 4), ((30, -20, 0), 5)])
def test_the_roll_of_points_is_by_how_much_the_face_is_turned_all_the_way_round(pose, within):
    angles = np.arange(-179, 180, 7)
    rolls = turned(angles, pose).roll
    assert rolls.dtype == np.float32 and (np.abs(rolls) <= 180).all()
    assert pose_distance(np.stack([rolls] * 3, 1), np.stack([angles] * 3, 1)).max() < within
    # Exactly as much as the photo, whatever the pose.
    upright = turned([0], pose).roll
    np.testing.assert_allclose(wrap_degrees(rolls - upright - angles), 0, atol=1e-3)


def test_a_face_upside_down_has_a_roll_of_180():
    assert np.abs(turned([180, -180]).roll).tolist() == pytest.approx([180, 180], abs=1e-3)


def test_the_roll_is_near_that_of_the_pose_of_heads_that_look_aside():
    for yaw, pitch, roll in itertools.product((-30, 30), (-20, 20), range(-180, 180, 15)):
        (found,) = turned([0], (yaw, pitch, roll)).roll
        assert abs(wrap_degrees(found - roll)) < 10


def test_the_roll_is_the_pose_s_where_there_is_one():
    assert turned([50]).with_(pose=[[1, 2, -3]]).roll.tolist() == [-3]


def test_the_roll_is_that_of_the_dense_points_where_there_are_some():
    faces = turned([50])
    dense = np.zeros((1, 19, 2))
    for five, rows in zip(turned([20]).landmarks5[0], SCHEMES["19"].five):
        dense[0, list(rows)] = five
    assert faces.with_(landmarks=dense, scheme="19").roll == pytest.approx(20, abs=1e-3)


def test_faces_without_points_or_with_all_in_one_place_have_no_roll():
    faces = turned([10, 20])
    assert np.isnan(faces.with_(landmarks5=None).roll).all() and faces.with_(landmarks5=None).roll.shape == (2,)
    points = faces.landmarks5.copy()
    points[1] = 7
    rolls = faces.with_(landmarks5=points).roll
    assert rolls[0] == pytest.approx(10, abs=1e-3) and np.isnan(rolls[1])
    assert Faces.empty((9, 9)).roll.shape == (0,)


def test_faces_without_a_pose_have_no_rotation():
    with pytest.raises(InputError, match="no pose to make a rotation of"):
        _ = three_faces().with_(pose=None).rotation
