import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample, concat_labels, label_points_only
from gluonface.errors import InputError


def two_faces() -> FaceLabels:
    return FaceLabels(
        boxes=np.array([[0, 0, 3, 12], [5, 5, 9, 9]]),
        ignore=np.array([False, True]),
        attributes=[{"mask": "with"}, {}],
        box_from=["human", "teacher"],
    )


def test_what_is_left_out_is_unknown():
    labels = two_faces()
    assert np.isnan(labels.landmarks5).all() and labels.landmarks5.shape == (2, 5, 2)
    assert np.isnan(labels.pose).all() and labels.pose.shape == (2, 3)
    assert labels.mesh_row.tolist() == [-1, -1] and not labels.landmarks5_human.any()
    assert labels.landmarks is None


def test_empty_labels_have_arrays_of_no_rows():
    labels = FaceLabels.empty()
    assert len(labels) == 0
    assert labels.boxes.shape == (0, 4) and labels.landmarks5.shape == (0, 5, 2) and labels.pose.shape == (0, 3)


def test_a_wrong_shape_is_named():
    with pytest.raises(InputError, match=r"pose of 2 faces must have the shape \(2, 3\), got \(2, 2\)"):
        FaceLabels(boxes=np.zeros((2, 4)), pose=np.zeros((2, 2)))
    with pytest.raises(InputError, match="attributes must have one entry for each of the 2 faces, got 1"):
        FaceLabels(boxes=np.zeros((2, 4)), attributes=[{}])


def test_a_mask_picks_rows_of_every_field():
    picked = two_faces()[np.array([False, True])]
    assert picked.boxes.tolist() == [[5, 5, 9, 9]]
    assert picked.ignore.tolist() == [True] and picked.box_from == ["teacher"] and picked.attributes == [{}]


def test_one_index_is_refused_rather_than_guessed():
    with pytest.raises(InputError, match=r"labels\[\[i\]\]"):
        two_faces()[0]


def test_concatenation_fills_missing_landmarks_with_nan():
    with_68 = FaceLabels(boxes=np.zeros((1, 4)), landmarks=np.ones((1, 68, 2)), scheme="68")
    merged = concat_labels([two_faces(), with_68])
    assert len(merged) == 3
    assert np.isnan(merged.landmarks[:2]).all() and (merged.landmarks[2] == 1).all()
    assert merged.box_from == ["human", "teacher", ""]
    assert len(concat_labels([])) == 0


def test_face_size_is_the_root_of_the_area():
    np.testing.assert_allclose(two_faces().face_sizes, [6, 4])


def test_a_sample_is_named_by_its_path_unless_the_file_names_it():
    assert FaceSample("a/b.jpg", (2, 3), FaceLabels.empty()).name == "a/b.jpg"
    assert FaceSample("x/a/b.jpg", (2, 3), FaceLabels.empty(), name="b.jpg").name == "b.jpg"


def test_a_photo_labelled_in_part_becomes_points_only_faces_in_an_ignore_region():
    before = two_faces().with_(pose=np.array([[1, 2, 3], [np.nan] * 3]))
    sample = FaceSample("a.jpg", (40, 60), before, source="ytf", name="a")
    marked = label_points_only(sample)
    assert (marked.image_path, marked.size_hw, marked.source, marked.name) == ("a.jpg", (40, 60), "ytf", "a")
    assert marked.faces.boxes.tolist() == [*before.boxes.tolist(), [0, 0, 60, 40]]
    assert marked.faces.ignore.tolist() == [False, True, True]
    assert marked.faces.points_only.tolist() == [True, False, False]
    assert marked.faces.pose[0].tolist() == [1, 2, 3] and marked.faces.attributes[0] == {"mask": "with"}
    assert not before.points_only.any() and len(sample.faces) == 2


def test_which_faces_are_points_only_stays_with_them():
    labels = FaceLabels(boxes=np.zeros((3, 4)), points_only=[True, False, True])
    assert labels[[2, 1]].points_only.tolist() == [True, False]
    assert concat_labels([labels, two_faces()]).points_only.tolist() == [True, False, True, False, False]
    assert FaceLabels.empty().points_only.shape == (0,)


def test_meshes_stay_with_their_faces():
    mesh, flip = np.arange(18, dtype=np.float64).reshape(2, 3, 3), [0, 2, 1]
    labels = two_faces().with_(mesh=mesh, mesh_flip=flip)
    assert labels.mesh.dtype == np.float32 and labels.mesh_flip.tolist() == flip
    np.testing.assert_array_equal(labels[[1]].mesh, mesh[1:])
    merged = concat_labels([two_faces(), labels, FaceLabels.empty()])
    assert np.isnan(merged.mesh[:2]).all() and merged.mesh_flip.tolist() == flip
    np.testing.assert_array_equal(merged.mesh[2:], mesh)
    assert two_faces().mesh is None and concat_labels([two_faces(), two_faces()]).mesh is None
    marked = label_points_only(FaceSample("a.jpg", (40, 60), labels)).faces
    np.testing.assert_array_equal(marked.mesh[:2], mesh)
    assert marked.mesh.shape == (3, 3, 3)


def test_meshes_of_two_kinds_are_not_joined():
    labels = two_faces().with_(mesh=np.zeros((2, 3, 3)))
    with pytest.raises(InputError, match="meshes of one kind can be joined, got meshes of 3, 4 vertices"):
        concat_labels([labels, two_faces().with_(mesh=np.zeros((2, 4, 3)))])
    with pytest.raises(InputError, match="meshes of one kind"):
        concat_labels([labels, labels.with_(mesh_flip=[1, 0, 2])])


def test_meshes_of_a_wrong_shape_are_named():
    with pytest.raises(InputError, match=r"mesh of 2 faces must have the shape \(2, V, 3\), got \(2, 3\)"):
        two_faces().with_(mesh=np.zeros((2, 3)))
    with pytest.raises(InputError, match="mesh_flip goes with mesh"):
        two_faces().with_(mesh_flip=[0])
    for flip in ([1, 2, 0], [0, 1], [0, 1, 3]):
        with pytest.raises(InputError, match="mesh_flip must name for each of 3 vertices its mirror image"):
            two_faces().with_(mesh=np.zeros((2, 3, 3)), mesh_flip=flip)
