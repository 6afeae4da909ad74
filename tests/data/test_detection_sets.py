"""The readers of FDDB, AFW, PASCAL faces and MALF, on tiny layouts drawn as the official ones."""

import math

import numpy as np
import pytest

from gluonface.data import ellipses_of, read_afw, read_fddb, read_jsonl, read_malf, read_pascal_faces, write_jsonl
from gluonface.data.base import FaceLabels
from gluonface.data.fddb import boxes_of_ellipses, move_ellipses
from gluonface.data.malf import write_malf
from gluonface.data.transforms.affine import Affine
from gluonface.data.transforms.ops import QuarterTurn
from gluonface.errors import DataError, InputError
from gluonface.faces import Faces
from gluonface.geometry import rotation_matrix_about, warp_points
from gluonface.image import save_image

SIZE_HW = (60, 80)


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.full((*SIZE_HW, 3), 90, np.uint8))


def outline(ellipse, steps=3600):
    """Points of an ellipse."""
    major, minor, angle, x, y = ellipse
    t = np.linspace(0, 2 * math.pi, steps, endpoint=False)
    along, across = major * np.cos(t), minor * np.sin(t)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], axis=1)


# FDDB ----------------------------------------------------------------------------------------------------------------

TWO = "2002/08/11/big/img_1\n2\n20.5 12.25 1.570796 30 25  1\n10 8 -0.5 60.5 30.5  1\n"
NONE = "2003/01/02/big/img_7\n0\n"
ONE = "2002/07/19/big/img_2\n1\n15 10 0.000000 40 20  1\n"


@pytest.fixture
def fddb(tmp_path):
    for name in ("2002/08/11/big/img_1", "2003/01/02/big/img_7", "2002/07/19/big/img_2"):
        photo(tmp_path / "originalPics" / f"{name}.jpg")
    folds = tmp_path / "FDDB-folds"
    folds.mkdir()
    (folds / "FDDB-fold-01-ellipseList.txt").write_text(TWO + NONE)
    (folds / "FDDB-fold-02-ellipseList.txt").write_text(ONE + "\n")
    for fold in range(3, 11):
        (folds / f"FDDB-fold-{fold:02}-ellipseList.txt").write_text("")
    return tmp_path


def test_fddb_gives_ellipses_and_the_rectangles_round_them_over_all_folds(fddb, tmp_path):
    samples = read_fddb(fddb / "originalPics")
    assert [s.name for s in samples] == [
        "2002/08/11/big/img_1.jpg",
        "2003/01/02/big/img_7.jpg",
        "2002/07/19/big/img_2.jpg",
    ]
    assert [len(s.faces) for s in samples] == [2, 0, 1]
    assert samples[0].size_hw == SIZE_HW and samples[0].source == "fddb"
    # pixel indices from 0: half a pixel more; the first ellipse stands upright
    assert ellipses_of(samples[0].faces)[0].tolist() == [20.5, 12.25, 1.570796, 30.5, 25.5]
    assert samples[0].faces.boxes[0] == pytest.approx([18.25, 5, 42.75, 46], abs=1e-4)
    assert samples[2].faces.boxes[0].tolist() == [25.5, 10.5, 55.5, 30.5]
    assert samples[2].faces.attributes[0]["fold"] == 2 and samples[0].faces.box_from == ["ellipse"] * 2
    assert ellipses_of(samples[1].faces).shape == (0, 5)
    assert len(read_fddb(fddb / "originalPics", fddb / "FDDB-folds", folds=[2])) == 1
    write_jsonl(tmp_path / "back.jsonl", samples)
    back = read_jsonl(tmp_path / "back.jsonl", images=fddb / "originalPics")
    assert ellipses_of(back[0].faces).tolist() == ellipses_of(samples[0].faces).tolist()


@pytest.mark.parametrize("angle", [0, 0.3, 1.2, math.pi / 2, -2.5])
def test_the_rectangle_round_an_ellipse_touches_it_on_all_sides(angle):
    ellipse = np.array([20.0, 7.0, angle, 50.0, 40.0])
    points = outline(ellipse)
    (box,) = boxes_of_ellipses(ellipse)
    assert box == pytest.approx(np.concatenate([points.min(axis=0), points.max(axis=0)]), abs=1e-3)


@pytest.mark.parametrize(
    "plan",
    [
        QuarterTurn.plan_for((60, 80), 1),
        QuarterTurn.plan_for((60, 80), 3),
        Affine(rotation_matrix_about((40, 30), 25), (60, 80)),
        Affine(np.array([[0.5, 0, 3], [0, 0.5, -2]]), (40, 40)),
        Affine(np.array([[-1.0, 0, 80], [0, 1, 0]]), (60, 80)),
    ],
    ids=["90", "270", "25", "half", "mirrored"],
)
def test_a_moved_ellipse_covers_the_moved_points(plan):
    ellipse = np.array([20.0, 7.0, 0.4, 35.0, 25.0])
    (moved,) = move_ellipses(plan, ellipse)
    expected = warp_points(plan.matrix, outline(ellipse))
    distance = np.linalg.norm(outline(moved)[:, None, :] - expected[None, ::40], axis=2).min(axis=0)
    assert distance.max() < 0.05
    assert ellipse.tolist() == [20.0, 7.0, 0.4, 35.0, 25.0]


def test_an_ellipse_cannot_be_stretched():
    with pytest.raises(InputError, match="a map that keeps angles"):
        move_ellipses(Affine(np.array([[2.0, 0, 0], [0, 1, 0]]), (60, 80)), np.zeros((1, 5)))


def test_faces_without_ellipses_are_named():
    with pytest.raises(InputError, match="face 1 of 2: expected the attribute ellipse"):
        ellipses_of(FaceLabels(np.zeros((2, 4)), attributes=[{"ellipse": [1, 1, 0, 5, 5]}, {"ellipse": [1]}]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO.replace("\n2\n", "\ntwo\n"), "line 2: expected the number of faces of '2002/08/11/big/img_1', got 'two'"),
        (TWO.replace("\n2\n", "\n3\n"), "ends after 2 of 3 faces of 2002/08/11/big/img_1; it is cut off"),
        (TWO.replace("\n2\n", "\n1\n"), "line 5: expected the number of faces of '10 8 -0.5"),
        (TWO.replace("12.25", "x"), "line 3: expected 6 numbers, major_axis_radius"),
        (TWO.replace("20.5 12.25", "20.5"), "line 3: expected 6 numbers, major_axis_radius"),
        (TWO.replace("12.25", "-1"), "line 3: expected radii above 0 and an angle in radians"),
        (TWO.replace("1.570796", "90"), "line 3: expected radii above 0 and an angle in radians"),
        (TWO + "2002/img_9\n0\n", "line 5: the photo"),
    ],
)
def test_a_wrong_line_of_fddb_is_named(fddb, text, message):
    path = fddb / "FDDB-folds/FDDB-fold-01-ellipseList.txt"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_fddb(fddb / "originalPics")
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_missing_parts_of_fddb_are_errors_unless_a_part_is_wanted(fddb):
    (fddb / "originalPics/2002/08/11/big/img_1.jpg").unlink()
    assert len(read_fddb(fddb / "originalPics", partial=True)) == 2
    with pytest.raises(DataError, match="none of the photos"):
        read_fddb(fddb, fddb / "FDDB-folds", partial=True)
    with pytest.raises(DataError, match="folds are numbers of 1 to 10, got 11"):
        read_fddb(fddb / "originalPics", folds=[11])
    (fddb / "FDDB-folds/FDDB-fold-04-ellipseList.txt").unlink()
    with pytest.raises(DataError, match="fold-04-ellipseList.txt: cannot read the annotation file"):
        read_fddb(fddb / "originalPics", partial=True)


# AFW and PASCAL faces ------------------------------------------------------------------------------------------------


def toolbox_file(path, photos, fields=("imgname", "imgsize", "objects", "flags")):
    scipy_io = pytest.importorskip("scipy.io")
    rows = np.empty((len(photos), 1), [(name, object) for name in fields])
    for i, (name, objects) in enumerate(photos):
        values = {
            "imgname": name,
            "imgsize": np.array([[80], [60], [3]]),
            "objects": objects,
            "flags": np.zeros((1, 1)),
        }
        for field in fields:
            rows[i, 0][field] = values.get(field, 0)
    scipy_io.savemat(path, {"Annotations": rows})
    return path


OBJECTS = np.array([[1, 11, 40, 50, 0, 0], [5, 5, 34, 50, 0, 0], [30, 1, 75, 55, 0, 1]], np.uint16)


def test_the_toolbox_counts_inclusive_pixels_from_one_and_ignores_small_and_marked_faces(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "testimages" / name)
    path = toolbox_file(tmp_path / "afw.mat", [("a.jpg", OBJECTS), ("b.jpg", OBJECTS[:1, :4])])
    first, second = read_afw(tmp_path / "testimages", path)
    assert first.faces.boxes.tolist() == [[0, 10, 40, 50], [4, 4, 34, 50], [29, 0, 75, 55]]
    assert first.faces.ignore.tolist() == [False, True, True]  # the second is 34 - 5 = 29 wide
    assert (first.name, first.source, first.size_hw) == ("a.jpg", "afw", SIZE_HW)
    assert second.faces.boxes.tolist() == [[0, 10, 40, 50]]  # the older form of PASCAL faces
    every = read_pascal_faces(tmp_path / "testimages", path, min_side=0)
    assert every[0].faces.ignore.tolist() == [False, False, True] and every[0].source == "pascal_faces"


def test_a_wrong_file_of_the_toolbox_is_named(tmp_path):
    photo(tmp_path / "a.jpg")
    for photos, message in (
        ([("a.jpg", OBJECTS), ("b.jpg", OBJECTS)], "photo 2: the photo .*b.jpg is missing"),
        ([("a.jpg", OBJECTS[:, :5])], r"photo 1, a.jpg: expected objects of shape \(M, 6\) or \(M, 4\), got \(3, 5\)"),
        ([("a.jpg", OBJECTS[:, [2, 1, 0, 3, 4, 5]])], "photo 1, a.jpg, face 1: expected x1 < x2 and y1 < y2"),
        ([(np.zeros((1, 1)), OBJECTS)], "photo 1: expected the name of the photo"),
    ):
        path = toolbox_file(tmp_path / "afw.mat", photos)
        with pytest.raises(DataError, match=f"afw.mat, {message}"):
            read_afw(tmp_path, path)
    path = toolbox_file(tmp_path / "afw.mat", [("a.jpg", OBJECTS), ("b.jpg", OBJECTS)])
    assert len(read_afw(tmp_path, path, partial=True)) == 1
    with pytest.raises(DataError, match="none of the 2 photos is in"):
        read_afw(tmp_path / "elsewhere", path, partial=True)
    path = toolbox_file(tmp_path / "afw.mat", [("a.jpg", OBJECTS)], fields=("imgname", "boxes"))
    with pytest.raises(DataError, match="expected structs with imgname and objects, got fields imgname, boxes"):
        read_afw(tmp_path, path)


# MALF ----------------------------------------------------------------------------------------------------------------

MALF = "a.jpg\n2\n10 20 30 30 0 0 1 2 1 0 1 0\n1 2 10 10 1\nb\n0\nc.jpg\n1\n5 5 20 20\n"


def malf(folder, text=MALF):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(folder / name)
    (folder / "malf.txt").write_text(text)
    return folder / "malf.txt"


def test_malf_has_boxes_an_ignore_flag_and_attributes(tmp_path):
    a, b, c = read_malf(tmp_path, malf(tmp_path))
    assert a.faces.boxes.tolist() == [[10, 20, 40, 50], [1, 2, 11, 12]] and a.faces.ignore.tolist() == [False, True]
    assert a.faces.attributes == [
        {"yaw": 0, "pitch": 1, "roll": 2, "gender": 1, "glasses": 0, "occluded": 1, "exaggerated": 0},
        {},
    ]
    assert (b.name, len(b.faces), c.faces.ignore.tolist()) == ("b.jpg", 0, [False])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MALF.replace("1 2 10 10 1", "1 2 10 10 2"), "line 4: expected a width and height above 0 and an ignore flag"),
        (MALF.replace("1 2 10 10 1", "1 2 0 10 1"), "line 4: expected a width and height above 0"),
        (MALF.replace("1 2 10 10 1", "1 2 10"), "line 4: expected 4, 5, 8 or 12 numbers"),
        (MALF.replace("1 2 10 10 1", "1 2 x 10 1"), "line 4: expected 5 numbers"),
        (MALF.replace("b\n0", "b\nno"), "line 6: expected the number of faces of 'b', got 'no'"),
        (MALF + "d.jpg\n1\n", "ends after 0 of 1 faces of d.jpg"),
        (MALF + "d.jpg\n0\n", "line 10: the photo"),
    ],
)
def test_a_wrong_line_of_malf_is_named(tmp_path, text, message):
    path = malf(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_malf(tmp_path, path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_detections_for_malf_are_written_best_first(tmp_path):
    faces = Faces(np.array([[1, 2, 11, 14.5], [0, 0, 5, 5]]), np.array([0.5, 0.75]), size_hw=SIZE_HW)
    write_malf(tmp_path / "out.txt", ["a", "b"], [faces, Faces.empty(SIZE_HW)])
    lines = ["a", "2", "0.00 0.00 5.00 5.00 0.75", "1.00 2.00 10.00 12.50 0.5", "b", "0"]
    assert (tmp_path / "out.txt").read_text().splitlines() == lines
    with pytest.raises(DataError, match="detections of 1 photos, got those of 0"):
        write_malf(tmp_path / "out.txt", ["a"], [])
