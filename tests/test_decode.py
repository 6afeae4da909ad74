import numpy as np
import pytest

from gluonface.decode import (
    LIGHT_ANCHORS,
    AnchorSpec,
    anchors_for,
    decode_boxes,
    decode_points,
    encode_boxes,
    encode_points,
)


@pytest.fixture
def anchors():
    return anchors_for((96, 160))


def test_the_light_variant_has_16800_anchors_at_640():
    assert len(anchors_for((640, 640))) == LIGHT_ANCHORS.count((640, 640)) == 16_800


def test_anchors_are_centred_on_their_cells_and_ordered_by_level_row_column_size():
    anchors = anchors_for((32, 64))
    np.testing.assert_array_equal(anchors[0], [4 - 8, 4 - 8, 4 + 8, 4 + 8])
    np.testing.assert_array_equal(anchors[1], [4 - 16, 4 - 16, 4 + 16, 4 + 16])
    np.testing.assert_array_equal(anchors[2], [12 - 8, 4 - 8, 12 + 8, 4 + 8])
    np.testing.assert_array_equal(anchors[2 * 8], [4 - 8, 12 - 8, 4 + 8, 12 + 8])
    np.testing.assert_array_equal(anchors[2 * 4 * 8], [8 - 32, 8 - 32, 8 + 32, 8 + 32])


@pytest.mark.parametrize("size_hw", [(1, 1), (33, 47), (640, 480)])
def test_an_odd_input_has_a_cell_for_its_last_pixels(size_hw):
    anchors = anchors_for(size_hw)
    assert len(anchors) == LIGHT_ANCHORS.count(size_hw)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres[:, 0].max() + 16 >= size_hw[1] and centres[:, 1].max() + 16 >= size_hw[0]


def test_decoded_boxes_are_the_encoded_ones(anchors):
    rng = np.random.default_rng(0)
    low = rng.uniform(-20, 150, (len(anchors), 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 200, low.shape)], axis=1)
    np.testing.assert_allclose(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-3)


def test_decoded_points_are_the_encoded_ones(anchors):
    points = np.random.default_rng(1).uniform(-50, 200, (len(anchors), 5, 2))
    np.testing.assert_allclose(decode_points(encode_points(points, anchors), anchors), points, atol=1e-3)


def test_coding_is_that_of_the_papers_equation_4():
    anchor = np.array([[90.0, 190.0, 110.0, 210.0]])  # centre (100, 200), side 20
    box = np.array([[100.0, 180.0, 120.0, 220.0]])  # centre (110, 200), 20 x 40
    np.testing.assert_allclose(encode_boxes(box, anchor), [[0.5, 0, 0, np.log(2)]])
    np.testing.assert_allclose(encode_points(np.array([[[110.0, 190.0]]]), anchor), [[0.5, -0.5]])


def test_a_wild_size_prediction_stays_finite(anchors):
    preds = np.full((len(anchors), 4), 1e4, np.float32)
    assert np.isfinite(decode_boxes(preds, anchors)).all()


def test_a_spec_whose_levels_differ_in_anchors_per_cell_is_refused():
    with pytest.raises(ValueError, match="one tuple of sizes per stride"):
        AnchorSpec(strides=(8, 16), sizes=((16, 32), (64,)))
