"""The picture of the signs is what its script draws."""

import numpy as np
import pytest

from gluonface.image import load_image


@pytest.fixture
def draw(script):
    return script("draw_pose_signs")


def test_the_picture_is_written_where_asked(draw, tmp_path, capsys):
    assert draw.main(["--out", str(tmp_path / "signs.png")]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    np.testing.assert_array_equal(load_image(tmp_path / "signs.png"), draw.draw_signs())


def test_the_picture_of_the_docs_shows_todays_convention(draw):
    shipped = load_image(draw.ROOT / "docs" / "img" / "pose_signs.png").astype(int)
    drawn = draw.draw_signs()
    assert shipped.shape == drawn.shape
    # Another OpenCV may smooth an edge differently; a turned face is thousands of pixels.
    assert (np.abs(shipped - drawn).max(axis=2) > 64).sum() < 500


def test_a_turn_to_the_other_side_would_be_another_picture(draw):
    there, back = draw.draw_signs(30).astype(int), draw.draw_signs(-30)
    assert (np.abs(there - back).max(axis=2) > 64).sum() > 5000
