import numpy as np
import pytest

from gluonface.decode import (
    HEATMAP_DECODERS,
    LIGHT_ANCHORS,
    POSE_BIN_CENTRES,
    POSE_BINS,
    AnchorSpec,
    anchors_for,
    decode_boxes,
    decode_heatmaps,
    decode_points,
    decode_pose,
    encode_boxes,
    encode_heatmaps,
    encode_points,
    encode_pose,
)
from gluonface.errors import InputError


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


# head pose


def sure_of(bins) -> np.ndarray:
    """Logits (..., 198) that leave no doubt about bins (..., 3)."""
    logits = np.where(np.arange(POSE_BINS) == np.asarray(bins)[..., None], 50.0, 0.0)
    return logits.reshape(*np.shape(bins)[:-1], 3 * POSE_BINS)


def test_decoded_poses_are_the_encoded_ones_within_half_a_bin(rng):
    poses = rng.uniform(-99, 99, (400, 3))
    bins = encode_pose(poses)
    assert bins.dtype == np.int64 and bins.min() == 0 and bins.max() == POSE_BINS - 1
    away = np.abs(decode_pose(sure_of(bins)) - poses)
    assert 1.2 < away.max() <= 1.5 + 1e-4


def test_bins_are_three_degrees_wide_from_minus_99_to_99():
    assert POSE_BINS == 66 and POSE_BIN_CENTRES[[0, 32, 33, 65]].tolist() == [-97.5, -1.5, 1.5, 97.5]
    assert encode_pose([-99, -96.001, -96]).tolist() == [0, 0, 1]
    assert encode_pose([-0.001, 0, 99]).tolist() == [32, 33, 65]


def test_angles_that_are_unknown_or_beyond_99_degrees_have_no_bin():
    assert encode_pose([np.nan, np.inf, -np.inf]).tolist() == [-1, -1, -1]
    assert encode_pose([[99.001, -99.001, 98.999], [180, 0, -400]]).tolist() == [[-1, -1, 65], [-1, 33, -1]]


def test_the_decoded_angle_is_the_mean_over_the_bins_of_yaw_pitch_and_roll_in_turn():
    logits = np.full((3, POSE_BINS), -np.inf)
    logits[0, [10, 20]] = np.log(0.25), np.log(0.75)
    logits[1, 40] = logits[2, 65] = 0
    expected = [0.25 * POSE_BIN_CENTRES[10] + 0.75 * POSE_BIN_CENTRES[20], POSE_BIN_CENTRES[40], 97.5]
    np.testing.assert_allclose(decode_pose(logits.reshape(-1)), expected, rtol=1e-6)
    # An undecided network looks straight ahead; logits of any size are survived.
    np.testing.assert_allclose(decode_pose(np.zeros((2, 4, 198))), np.zeros((2, 4, 3)), atol=1e-4)
    assert np.isfinite(decode_pose(np.full((1, 198), 1e30, np.float32))).all()


# heatmaps


def error(heatmaps, points, method="dark"):
    return np.abs(decode_heatmaps(heatmaps, method)[0] - points)


@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_gaussians_at_known_places_come_back_exactly(rng, sigma):
    points = rng.uniform(3, 45, (8, 50, 2))
    assert error(encode_heatmaps(points, (48, 48), sigma), points).max() < 1e-3


@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_gaussians_at_the_border_come_back_exactly(rng, sigma):
    for edge in (rng.uniform(0, 2, (400, 2)), 48 - rng.uniform(0, 2, (400, 2))):
        points = np.where(rng.uniform(size=(400, 2)) < 0.5, edge, rng.uniform(0, 48, (400, 2)))
        assert error(encode_heatmaps(points, (48, 48), sigma), points).max() < 1e-2


def test_under_noise_points_come_back_within_a_twentieth_of_a_cell(rng):
    inside = rng.uniform(3, 45, (2000, 2))
    along_the_border = np.stack([rng.uniform(0, 2, 2000), rng.uniform(3, 45, 2000)], axis=1)
    for points, noise in ((inside, 0.02), (along_the_border, 0.01)):
        heatmaps = encode_heatmaps(points, (48, 48), 1.5)
        noisy = heatmaps + rng.normal(0, noise, heatmaps.shape)
        assert np.sqrt((error(noisy, points) ** 2).mean()) < 0.05
        # Which is more than the noise itself costs the cruder ways.
        assert np.sqrt((error(noisy, points, "gradient") ** 2).mean()) > 0.1


def test_the_fit_says_less_than_a_cell_where_a_map_has_no_peak():
    assert (decode_heatmaps(np.zeros((3, 8, 9)))[0] == 0.5).all()
    ramp = np.tile(np.arange(9.0), (1, 8, 1))
    points, scores = decode_heatmaps(ramp)
    assert abs(points[0, 0] - 8.5) <= 1 and scores[0] == 8
    assert np.isfinite(decode_heatmaps(-np.ones((2, 5, 5)))[0]).all()


def test_argmax_is_the_centre_of_the_highest_cell_and_gradient_leans_to_the_higher_neighbour():
    heatmap = np.zeros((1, 6, 7))
    heatmap[0, 2, 4], heatmap[0, 2, 5], heatmap[0, 1, 4] = 1, 0.5, 0.25
    points, scores = decode_heatmaps(heatmap, "argmax")
    assert points.tolist() == [[4.5, 2.5]] and scores.tolist() == [1]
    assert decode_heatmaps(heatmap, "gradient")[0].tolist() == [[4.75, 2.25]]


def test_soft_argmax_finds_gaussians_within_a_tenth_of_a_cell(rng):
    points = rng.uniform(6, 42, (200, 2))
    assert error(encode_heatmaps(points, (48, 48), 1.5), points, "soft").max() < 0.1


@pytest.mark.parametrize("method", HEATMAP_DECODERS)
def test_leading_axes_are_kept_and_a_batch_decodes_as_its_parts(rng, method):
    heatmaps = rng.uniform(0, 1, (2, 3, 4, 12, 10)).astype(np.float32)
    points, scores = decode_heatmaps(heatmaps, method)
    assert points.shape == (2, 3, 4, 2) and scores.shape == (2, 3, 4) and points.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(points[1, 2], decode_heatmaps(heatmaps[1, 2], method)[0], atol=1e-5)
    assert decode_heatmaps(np.zeros((0, 4, 12, 10)), method)[0].shape == (0, 4, 2)


def test_an_unknown_decoder_and_maps_too_small_are_refused():
    with pytest.raises(InputError, match="expected a decoder among dark, gradient, argmax, soft, got 'darc'"):
        decode_heatmaps(np.zeros((1, 8, 8)), "darc")
    with pytest.raises(InputError, match="at least 5x5 cells"):
        decode_heatmaps(np.zeros((1, 4, 8)))


def test_an_unknown_point_has_an_empty_map():
    maps = encode_heatmaps([[np.nan, np.nan], [2.5, 1.5]], (5, 6), 1.0)
    assert maps.shape == (2, 5, 6) and not maps[0].any() and maps[1, 1, 2] == 1
