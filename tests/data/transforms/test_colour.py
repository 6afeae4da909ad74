import colorsys

import numpy as np
import pytest

from gluonface.data.base import FaceLabels
from gluonface.data.transforms.colour import Degrade, Grey, PhotometricDistort

NOTHING = {"prob": 1.0, "brightness": 0.0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0.0}


@pytest.fixture
def image(rng):
    return rng.integers(60, 190, (40, 50, 3), dtype=np.uint8)


def distorted(image, seed=0, **changes):
    return PhotometricDistort(**{**NOTHING, **changes})(image, FaceLabels.empty(), np.random.default_rng(seed))[0]


def test_brightness_adds_and_contrast_multiplies(image):
    difference = distorted(image, brightness=30.0).astype(int) - image
    assert np.ptp(difference) <= 1 and 0 < abs(difference.mean()) <= 30
    np.testing.assert_allclose(distorted(image, contrast=(1.3, 1.3)), image * 1.3, atol=1)


def test_no_saturation_is_grey_and_keeps_luma(image):
    grey = distorted(image, saturation=(0, 0))
    assert (np.ptp(grey, axis=2) <= 1).all()
    np.testing.assert_allclose(grey[..., 0], image @ [0.299, 0.587, 0.114], atol=1.5)
    np.testing.assert_array_equal(grey, Grey(prob=1.0)(image, FaceLabels.empty(), np.random.default_rng(0))[0])


def test_hue_turns_the_colour_circle():
    red = np.full((1, 1, 3), (180, 60, 60), np.uint8)
    hues = set()
    for seed in range(20):
        turned = distorted(red, seed, hue=18.0)[0, 0]
        hue = colorsys.rgb_to_hsv(*(turned / 255))[0] * 360
        hues.add(round((hue + 180) % 360 - 180))
    assert min(hues) < -5 and max(hues) > 5 and max(map(abs, hues)) < 30


def test_colours_stop_at_black_and_white():
    image = np.array([[[250, 250, 250], [3, 3, 3]]], np.uint8)
    brighter = distorted(image, contrast=(1.5, 1.5))
    assert brighter.tolist() == [[[255] * 3, [4] * 3]] or brighter.tolist() == [[[255] * 3, [5] * 3]]


def only(**changes) -> Degrade:
    return Degrade(**{"blur_prob": 0.0, "lowres_prob": 0.0, "noise_prob": 0.0, "jpeg_prob": 0.0, **changes})


@pytest.mark.parametrize("which", ["blur_prob", "lowres_prob", "noise_prob", "jpeg_prob"])
def test_each_degradation_changes_pixels_a_little_and_nothing_else(image, which):
    worse, labels = only(**{which: 1.0})(image, FaceLabels.empty(), np.random.default_rng(1))
    assert worse.shape == image.shape and worse.dtype == np.uint8 and len(labels) == 0
    assert 0.5 < np.abs(worse.astype(int) - image).mean() < 45
    assert abs(worse.mean() - image.mean()) < 2


def test_noise_has_the_deviation_asked_for():
    flat = np.full((200, 200, 3), 128, np.uint8)
    noisy, _ = only(noise_prob=1.0, noise_sigma=(6.0, 6.0))(flat, FaceLabels.empty(), np.random.default_rng(2))
    assert abs(noisy.std() - 6) < 0.2 and abs(noisy.mean() - 128) < 0.1


def test_nothing_drawn_changes_nothing(image):
    same, _ = only()(image, FaceLabels.empty(), np.random.default_rng(0))
    np.testing.assert_array_equal(same, image)


def test_inputs_are_not_changed(image):
    before = image.copy()
    all_of_it = Degrade(blur_prob=1.0, lowres_prob=1.0, noise_prob=1.0, jpeg_prob=1.0)
    for op in (PhotometricDistort(prob=1.0), Grey(prob=1.0), all_of_it):
        changed, _ = op(image, FaceLabels.empty(), np.random.default_rng(0))
        assert not np.shares_memory(changed, image)
    np.testing.assert_array_equal(image, before)
