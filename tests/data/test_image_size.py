import numpy as np
import pytest
from PIL import Image

from gluonface.data.image_size import image_size
from gluonface.errors import ImageError
from gluonface.image import load_image


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_that_of_the_image_as_it_is_loaded(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg", exif=exif)
    assert image_size(tmp_path / "x.jpg") == load_image(tmp_path / "x.jpg").shape[:2]
    assert image_size((tmp_path / "x.jpg").read_bytes()) == image_size(tmp_path / "x.jpg")


def test_no_image_and_no_file_are_image_errors(tmp_path):
    with pytest.raises(ImageError, match=r"no\.jpg: no such file"):
        image_size(tmp_path / "no.jpg")
    (tmp_path / "x.jpg").write_bytes(np.zeros(50, np.uint8).tobytes())
    with pytest.raises(ImageError, match=r"x\.jpg: is not an image that can be read"):
        image_size(tmp_path / "x.jpg")
