"""The reader of Helen's parts, on a tiny layout drawn as the official one."""

import numpy as np
import pytest

from gluonface.data import part_labels, read_helen_parts
from gluonface.errors import DataError
from gluonface.image import save_image
from gluonface.mesh import PARTS

SIZE_HW = (40, 30)
#: Label of the set -> its rectangle: rows, columns.
DRAWN = {
    1: (slice(5, 35), slice(4, 26)),
    2: (slice(10, 12), slice(6, 12)),
    3: (slice(10, 12), slice(18, 24)),
    4: (slice(14, 17), slice(7, 11)),
    5: (slice(14, 17), slice(19, 23)),
    6: (slice(17, 24), slice(13, 17)),
    7: (slice(26, 28), slice(10, 20)),
    8: (slice(28, 29), slice(10, 20)),
    9: (slice(29, 31), slice(10, 20)),
    10: (slice(0, 5), slice(0, 30)),
}


def write_photo(root, name, drawn=DRAWN, size_hw=SIZE_HW):
    """A photo and how sure each label is: 200 in its rectangle, the skin 120 under the parts, the rest background."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "labels" / name).mkdir(parents=True)
    save_image(root / "images" / f"{name}.jpg", np.full((*SIZE_HW, 3), 90, np.uint8))
    maps = np.zeros((11, *size_hw), np.uint8)
    maps[0] = 100
    for number, place in drawn.items():
        maps[number][place] = 120 if number == 1 else 200
    for number, sure in enumerate(maps):
        save_image(root / "labels" / name / f"{name}_lbl{number:02d}.png", np.repeat(sure[..., None], 3, axis=2))


@pytest.fixture
def root(tmp_path):
    for name in ("100_1", "200_2"):
        write_photo(tmp_path, name)
    (tmp_path / "testing.txt").write_text("1 , 100_1\n2 , 200_2\n\n")
    (tmp_path / "tuning.txt").write_text("1 , 200_2\n")
    return tmp_path


def test_a_face_has_the_box_round_skin_and_parts_but_not_hair(root):
    samples = read_helen_parts(root)
    assert [sample.name for sample in samples] == ["images/100_1.jpg", "images/200_2.jpg"]
    assert (samples[0].size_hw, samples[0].source) == (SIZE_HW, "helen")
    assert samples[0].faces.boxes.tolist() == [[4, 5, 26, 35]]
    assert [sample.name for sample in read_helen_parts(root, "tuning")] == ["images/200_2.jpg"]


def test_a_pixel_is_of_the_surest_label(root):
    labels = part_labels(read_helen_parts(root)[0])
    wanted = np.zeros(SIZE_HW, np.uint8)
    names = {2: "left brow", 3: "right brow", 4: "left eye", 5: "right eye", 6: "nose", 7: "upper lip", 9: "lower lip"}
    for number, part in names.items():
        wanted[DRAWN[number]] = 1 + PARTS.index(part)
    np.testing.assert_array_equal(labels, wanted)
    assert labels.dtype == np.uint8


def test_what_is_missing_or_wrong_is_named(root):
    with pytest.raises(DataError, match="split must be one of exemplars, tuning, testing, got 'test'"):
        read_helen_parts(root, "test")
    with pytest.raises(DataError, match=r"exemplars\.txt"):
        read_helen_parts(root, "exemplars")
    (root / "testing.txt").write_text("1 , 100_1\n../200_2\n")
    with pytest.raises(DataError, match="line 2: expected 'number , name'"):
        read_helen_parts(root)
    (root / "testing.txt").write_text("1 , 300_3\n2 , 200_2\n")
    with pytest.raises(DataError, match=r"line 1: the photo .*300_3\.jpg is missing"):
        read_helen_parts(root)
    assert len(read_helen_parts(root, partial=True)) == 1
    (root / "testing.txt").write_text("1 , 300_3\n")
    with pytest.raises(DataError, match="names no photo that is there"):
        read_helen_parts(root, partial=True)


def test_labels_that_do_not_fit_the_photo_are_named(root):
    write_photo(root, "300_3", size_hw=(50, 30))
    write_photo(root, "400_4", drawn={})
    (root / "testing.txt").write_text("1 , 300_3\n")
    with pytest.raises(DataError, match=r"300_3_lbl00\.png: expected 30 x 40 pixels as the photo, got 30 x 50"):
        read_helen_parts(root)
    (root / "testing.txt").write_text("1 , 400_4\n")
    with pytest.raises(DataError, match="400_4: no pixel is of a face"):
        read_helen_parts(root)
    (root / "labels" / "200_2" / "200_2_lbl07.png").unlink()
    with pytest.raises(DataError, match=r"200_2_lbl07\.png: the label is missing"):
        read_helen_parts(root, "tuning")
