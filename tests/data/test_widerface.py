import numpy as np
import pytest
import scipy.io

from gluonface.data.widerface import WiderFace, read_retinaface_labels, read_widerface_mat, read_widerface_txt
from gluonface.data.widerface_files import ATTRIBUTES, add_five_points, read_widerface, to_sample
from gluonface.errors import DataError, ImageError
from gluonface.image import save_image

# As the official list has them: a trailing space after each face, a photo without faces, an invalid and an empty box.
TXT = """0--Parade/a.jpg
3
10 20 30 40 2 1 0 0 1 0 
50 60 8 9 0 0 1 1 0 1 
70 5 0 4 0 0 0 0 2 0 
0--Parade/none.jpg
0
0 0 0 0 0 0 0 0 0 0 
1--Handshaking/b.jpg
1
-4 90 30 40 0 0 0 0 0 0 
"""  # noqa: W291
LABELS = """# 0--Parade/a.jpg
10 20 30 40 15.5 30 0.0 32 31 0.0 24.25 40 1.0 18 50 0.0 30 51 0.0 0.82
50 60 8 9 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 0.1
# 1--Handshaking/b.jpg
80 10 12 12 81 12 0 88 12 0 85 15 0 82 18 0 87 18 0 0.5
"""


@pytest.fixture
def root(tmp_path):
    """A tiny unpacked WIDER FACE, train split."""
    (tmp_path / "wider_face_split").mkdir()
    (tmp_path / "wider_face_split" / "wider_face_train_bbx_gt.txt").write_text(TXT)
    for name in ("0--Parade/a.jpg", "0--Parade/none.jpg", "1--Handshaking/b.jpg"):
        path = tmp_path / "WIDER_train" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, np.zeros((110, 120, 3), np.uint8))
    return tmp_path


def cells(rows: list) -> np.ndarray:
    """A MATLAB cell column."""
    column = np.empty((len(rows), 1), object)
    for index, row in enumerate(rows):
        column[index, 0] = row
    return column


def save_mat(path) -> None:
    """The same list as TXT, nested as in wider_face_train.mat."""
    rows = [[[10, 20, 30, 40, 2, 1, 0, 0, 1, 0], [50, 60, 8, 9, 0, 0, 1, 1, 0, 1], [70, 5, 0, 4, 0, 0, 0, 0, 2, 0]]]
    rows += [[[0] * 10], [[-4, 90, 30, 40, 0, 0, 0, 0, 0, 0]]]
    tables = [np.array(row, np.int32) for row in rows]
    names = ["a", "none", "b"]
    mat = {
        "event_list": cells(["0--Parade", "1--Handshaking"]),
        "file_list": cells([cells(names[:2]), cells(names[2:])]),
        "face_bbx_list": cells([cells([t[:, :4] for t in tables[:2]]), cells([tables[2][:, :4]])]),
    }
    for column, name in enumerate(ATTRIBUTES, start=4):
        values = [t[:, column : column + 1].astype(np.uint8) for t in tables]
        mat[f"{name}_label_list"] = cells([cells(values[:2]), cells(values[2:])])
    scipy.io.savemat(path, mat)


def test_the_text_list_is_read_with_its_quirks(root):
    entries = read_widerface_txt(root / "wider_face_split" / "wider_face_train_bbx_gt.txt")
    assert [entry.name for entry in entries] == ["0--Parade/a.jpg", "0--Parade/none.jpg", "1--Handshaking/b.jpg"]
    assert [len(entry.faces) for entry in entries] == [3, 0, 1]
    faces = entries[0].faces
    assert faces.boxes.tolist() == [[10, 20, 40, 60], [50, 60, 58, 69], [70, 5, 70, 9]]
    assert faces.ignore.tolist() == [False, True, True]  # the second is marked invalid, the third is empty
    expected = {"blur": 2, "expression": 1, "illumination": 0, "invalid": 0, "occlusion": 1, "pose": 0}
    assert faces.attributes[0] == expected
    assert faces.box_from == ["human"] * 3 and np.isnan(faces.landmarks5).all()


def test_a_copy_without_the_line_of_zeros_is_read_as_well(tmp_path):
    (tmp_path / "x.txt").write_text(TXT.replace("0 0 0 0 0 0 0 0 0 0 \n", ""))
    assert [len(entry.faces) for entry in read_widerface_txt(tmp_path / "x.txt")] == [3, 0, 1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("what is this\n", "line 1: expected the name of a photo"),
        ("a.jpg\nmany\n", "line 2: expected the number of faces of a.jpg, got 'many'"),
        ("a.jpg\n1\n1 2 3\n", "line 3: expected 10 numbers of a face of a.jpg, got '1 2 3'"),
        ("a.jpg\n2\n1 2 3 4 0 0 0 0 0 0\nb.jpg\n", "line 4: expected 10 numbers of a face of a.jpg, got 'b.jpg'"),
        ("a.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n", "ends after line 3, where a face of a.jpg should follow; it is cut off"),
        ("a.jpg\n", "ends after line 1, where the number of faces of a.jpg should follow"),
    ],
)
def test_a_damaged_text_list_is_reported_with_its_line(tmp_path, text, complaint):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError) as caught:
        read_widerface_txt(tmp_path / "x.txt")
    assert str(tmp_path / "x.txt") in str(caught.value) and complaint in str(caught.value)


def test_the_mat_list_says_the_same_as_the_text_list(root, tmp_path):
    save_mat(tmp_path / "wider_face_train.mat")
    from_mat = read_widerface_mat(tmp_path / "wider_face_train.mat")
    from_txt = read_widerface_txt(root / "wider_face_split" / "wider_face_train_bbx_gt.txt")
    for a, b in zip(from_mat, from_txt, strict=True):
        assert a.name == b.name and a.faces.attributes == b.faces.attributes
        np.testing.assert_array_equal(a.faces.boxes, b.faces.boxes)
        np.testing.assert_array_equal(a.faces.ignore, b.faces.ignore)


def test_a_wrong_mat_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"no\.mat: cannot read"):
        read_widerface_mat(tmp_path / "no.mat")
    (tmp_path / "x.mat").write_bytes(b"not a mat file" * 20)
    with pytest.raises(DataError, match="not a MATLAB file"):
        read_widerface_mat(tmp_path / "x.mat")
    scipy.io.savemat(tmp_path / "y.mat", {"event_list": cells(["a"])})
    with pytest.raises(DataError, match="the variables file_list, face_bbx_list are missing"):
        read_widerface_mat(tmp_path / "y.mat")
    flat = {"event_list": cells(["a"]), "file_list": np.zeros((1, 1)), "face_bbx_list": np.zeros((1, 1))}
    scipy.io.savemat(tmp_path / "z.mat", flat)
    with pytest.raises(DataError, match="official nested lists"):
        read_widerface_mat(tmp_path / "z.mat")


def test_the_official_validation_list_has_its_known_size(facedata):
    entries = read_widerface_mat(facedata / "widerface_eval" / "wider_face_val.mat")
    faces = [len(entry.faces) for entry in entries]
    assert len(faces) == 3226 and sum(faces) == 39708 - 4 and faces.count(0) == 4  # four boxes of zeros are no faces


def test_five_points_are_read_with_unknown_ones_left_open(tmp_path):
    (tmp_path / "label.txt").write_text(LABELS)
    first, second = read_retinaface_labels(tmp_path / "label.txt")
    assert (first.name, second.name) == ("0--Parade/a.jpg", "1--Handshaking/b.jpg")
    assert first.faces.boxes[0].tolist() == [10, 20, 40, 60]
    assert first.faces.landmarks5[0].tolist() == [[15.5, 30], [32, 31], [24.25, 40], [18, 50], [30, 51]]
    assert np.isnan(first.faces.landmarks5[1]).all()
    assert first.faces.landmarks5_human.tolist() == [True, False]
    assert first.faces.attributes[0] == {"landmark_flags": [0, 0, 1, 0, 0], "landmark_blur": pytest.approx(0.82)}


def test_a_list_of_boxes_alone_is_read_as_well(tmp_path):
    (tmp_path / "label.txt").write_text("# a.jpg\n1 2 3 4\n# b.jpg\n")
    first, second = read_retinaface_labels(tmp_path / "label.txt")
    assert first.faces.boxes.tolist() == [[1, 2, 4, 6]] and len(second.faces) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 2 3 4\n", "line 1: expected '# event/file.jpg' first"),
        ("#\n", "line 1: expected the name of a photo after #"),
        ("# a.jpg\n1 2 3 4 5\n", "line 2: expected 4, 19 or 20 numbers of a face of a.jpg"),
    ],
)
def test_a_damaged_list_of_points_is_reported_with_its_line(tmp_path, text, complaint):
    (tmp_path / "label.txt").write_text(text)
    with pytest.raises(DataError, match=complaint):
        read_retinaface_labels(tmp_path / "label.txt")


def test_points_go_to_the_face_with_the_same_box(root, tmp_path):
    (tmp_path / "label.txt").write_text(LABELS)
    official = read_widerface_txt(root / "wider_face_split" / "wider_face_train_bbx_gt.txt")
    merged, lost = add_five_points(official, read_retinaface_labels(tmp_path / "label.txt"))
    assert lost == 1  # the face in b.jpg is nowhere near an official box
    assert merged[0].faces.landmarks5[0, 2].tolist() == [24.25, 40]
    assert np.isnan(merged[0].faces.landmarks5[1:]).all() and np.isnan(merged[2].faces.landmarks5).all()
    assert merged[0].faces.landmarks5_human.tolist() == [True, False, False]
    assert merged[0].faces.attributes[0]["blur"] == 2 and "landmark_flags" in merged[0].faces.attributes[0]
    assert np.isnan(official[0].faces.landmarks5).all()  # the input is as it was


def test_boxes_are_clipped_to_the_photo_and_those_outside_ignored(root):
    samples = list(read_widerface(root, "train"))
    assert samples[2].faces.boxes.tolist() == [[0, 90, 26, 110]] and samples[2].size_hw == (110, 120)
    assert samples[2].name == "WIDER_train/images/1--Handshaking/b.jpg" and samples[2].source == "widerface"
    outside = read_widerface_txt(root / "wider_face_split" / "wider_face_train_bbx_gt.txt")[0]
    moved = outside.faces.with_(boxes=outside.faces.boxes + 500)
    assert to_sample(type(outside)(outside.name, moved), root, "train").faces.ignore.all()


def test_the_dataset_reads_the_official_layout(root, tmp_path):
    (tmp_path / "label.txt").write_text(LABELS)
    dataset = WiderFace(root, "train", labels=tmp_path / "label.txt")
    image, labels = dataset[0]
    assert len(dataset) == 3 and image.shape == (110, 120, 3) and len(labels) == 3
    assert labels.landmarks5_human.tolist() == [True, False, False]
    with pytest.raises(DataError, match="wider_face_val_bbx_gt.txt: cannot read"):
        WiderFace(root, "val")
    with pytest.raises(DataError, match="split must be one of train, val, got 'test'"):
        WiderFace(root, "test")
    (root / "WIDER_train/images/0--Parade/a.jpg").unlink()
    with pytest.raises(ImageError, match=r"0--Parade/a\.jpg: no such file"):
        WiderFace(root, "train")
