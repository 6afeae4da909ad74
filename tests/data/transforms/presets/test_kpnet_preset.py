import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.data.transforms.presets.kpnet import WholePhoto
from gluonface.errors import InputError
from gluonface.geometry import apply_letterbox, letterbox


@pytest.fixture
def labels():
    boxes = np.array([[20, 10, 60, 50], [100, 40, 104, 46]], np.float32)
    points = np.stack([boxes[:, :2] + 2] * 5, axis=1)
    return FaceLabels(boxes, landmarks5=points)


def test_a_photo_is_seen_whole_and_as_prediction_sees_it(rng, labels):
    image = rng.integers(0, 255, (90, 160, 3), np.uint8)
    view, seen = WholePhoto(size=64)(image, labels, rng)
    fitted = letterbox((90, 160), (64, 64))
    np.testing.assert_array_equal(view, apply_letterbox(image, fitted))
    np.testing.assert_allclose(seen.boxes, labels.boxes * 0.4, rtol=1e-5)
    np.testing.assert_allclose(seen.landmarks5, labels.landmarks5 * 0.4, rtol=1e-5)
    again, _ = WholePhoto(size=64)(image, labels, np.random.default_rng(9))
    np.testing.assert_array_equal(view, again)


def test_faces_too_small_in_the_view_are_ignored(rng, labels):
    image = np.zeros((90, 160, 3), np.uint8)
    _, seen = WholePhoto(size=64, min_face=4)(image, labels, rng)
    assert seen.ignore.tolist() == [False, True]
    _, tile = WholePhoto(size=64, min_face=4)(image, labels, rng, (32, 32))
    np.testing.assert_allclose(tile.boxes, labels.boxes * 0.2, rtol=1e-5)


def test_a_view_smaller_than_a_network_takes_is_refused():
    with pytest.raises(InputError, match="at least 32 pixels, got 16"):
        WholePhoto(size=16)
