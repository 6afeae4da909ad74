import numpy as np
import pytest

from gluonface.decode import (
    HEATMAP_DECODERS,
    KPNET_SCALES,
    LIGHT_ANCHORS,
    POSE_BIN_CENTRES,
    POSE_BINS,
    SCORE_POINTS,
    AnchorSpec,
    ScaleSpec,
    anchors_for,
    decode_boxes,
    decode_heatmaps,
    decode_points,
    decode_pose,
    decode_scale,
    decode_scale_map,
    encode_boxes,
    encode_heatmaps,
    encode_points,
    encode_pose,
    encode_scale,
    encode_scale_map,
    face_scores,
    point_peaks,
    points_in_squares,
    square_argmax,
    square_soft_argmax,
    squares_about,
)
from gluonface.errors import InputError
from gluonface.faces import SCHEMES


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


# Scale maps


def test_bins_are_those_of_equation_1(rng):
    sizes = rng.uniform(4.4, 250, 500)
    by_hand = 10 * (np.log2(sizes * 2048 / 256) - 5)
    assert (np.abs(encode_scale(sizes) - by_hand) <= 0.5).all()
    # The same photo, looked at larger in training, has the same bins.
    np.testing.assert_array_equal(encode_scale(sizes * 2.5, ScaleSpec(long_side=640)), encode_scale(sizes))


def test_bins_reach_from_2_to_the_5_to_2_to_the_11_of_a_photo_of_2048_and_are_kept_there():
    whole = ScaleSpec(long_side=2048)
    assert encode_scale([2**6, 2**10.5, 2**11], whole).tolist() == [10, 55, 60]
    assert encode_scale([1, 2**5, 2**12], whole).tolist() == [1, 1, 60]
    assert KPNET_SCALES.smallest == 4 and decode_scale(60) == 256


def test_a_bin_s_size_is_within_3_5_percent_of_the_face_s(rng):
    sizes = rng.uniform(4.2, 256, 500)
    assert (np.abs(np.log(decode_scale(encode_scale(sizes)) / sizes)) <= np.log(2) / 20 + 1e-6).all()
    assert encode_scale(decode_scale(np.arange(1, 61))).tolist() == list(range(1, 61))


def test_the_scale_map_is_equations_2_and_3_cell_by_cell(rng):
    centres, sizes, shape = rng.uniform(0, 60, (12, 2)), 2 ** rng.uniform(2, 8, 12), (28, 30)
    sizes[:3], centres[0], centres[1] = 200, (1, 1), (59, 55)
    found = encode_scale_map(centres, sizes, shape)
    wanted = np.zeros((60, *shape))
    for (x, y), b in zip(np.floor(centres / 2), encode_scale(sizes)):
        radius = int(b // 10)
        for i in range(shape[0]):
            for j in range(shape[1]):
                if max(abs(i - y), abs(j - x)) <= radius:
                    away = 0 if radius == 0 else ((i - y) / radius) ** 2 + ((j - x) / radius) ** 2
                    wanted[b - 1, i, j] = max(wanted[b - 1, i, j], np.exp(-away / (2 * 0.1**2)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert (found == 1).sum() >= 10 and ((found > 0.1) & (found < 1)).any()


def test_neighbouring_bins_count_as_half_right_only_where_asked():
    face = np.array([[10.0, 10.0]]), np.array([40.0])
    paper, soft = (encode_scale_map(*face, (16, 16), bin_sigma=sigma) for sigma in (0, 1.2))
    bin_of = int(paper[:, 5, 5].argmax())
    expected = np.exp(-((np.arange(60) - bin_of) ** 2) / (2 * 1.2**2))
    expected[np.abs(np.arange(60) - bin_of) > 4] = 0
    np.testing.assert_allclose(soft[:, 5, 5], expected, rtol=1e-5)
    np.testing.assert_array_equal(soft[bin_of], paper[bin_of])
    assert not np.delete(paper, bin_of, axis=0).any()
    # The smallest and the largest bins have neighbours on one side only.
    for size in (4.3, 256.0):
        edge = encode_scale_map(face[0], np.array([size]), (16, 16), bin_sigma=1.2)
        assert edge[:, 5, 5].max() == 1 and (edge[:, 5, 5] > 0).sum() == 5


def test_a_face_centred_outside_has_no_target():
    assert not encode_scale_map([[-1, 10], [10, 41]], [30, 30], (20, 20)).any()
    assert encode_scale_map(np.zeros((0, 2)), np.zeros(0), (20, 20)).shape == (60, 20, 20)


def logits(probabilities):
    clipped = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped)).astype(np.float32)


def test_proposals_of_a_perfect_map_are_the_faces():
    centres, sizes = np.array([[21, 31], [90.5, 60], [60, 100]]), np.array([12.0, 100, 40])
    squares, probabilities = decode_scale_map(logits(encode_scale_map(centres, sizes, (64, 64))), count=10)
    squares[probabilities < 0.1] = probabilities[probabilities < 0.1] = 0
    assert squares.shape == (10, 4) and (probabilities > 0).sum() == 3 and not squares[3:].any()
    found = {tuple(((s[:2] + s[2:]) / 2).tolist()): s[2] - s[0] for s in squares[:3]}
    for centre, size in zip(centres, sizes):
        side = found[tuple((np.floor(centre / 2) * 2 + 1).tolist())]
        assert side == pytest.approx(size, rel=0.036)


def test_proposals_are_sorted_and_those_below_the_threshold_left_out():
    scale_map = np.full((60, 20, 20), -9.0, np.float32)
    for (b, y, x), value in {(30, 3, 3): 0.0, (10, 10, 10): 2.0, (40, 16, 5): -1.0}.items():
        scale_map[b, y, x] = value
    _, probabilities = decode_scale_map(scale_map, count=3)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp([-2.0, 0, 1])), rtol=1e-5)
    assert (decode_scale_map(scale_map, count=3, score_thresh=0.4)[1] > 0).tolist() == [True, True, False]


def test_of_neighbouring_cells_only_the_highest_proposes_whatever_the_bins(rng):
    scale_map = rng.normal(-5, 1, (60, 24, 24)).astype(np.float32)
    squares, probabilities = decode_scale_map(scale_map, count=200)
    cells = np.floor((squares[probabilities > 0, :2] + squares[probabilities > 0, 2:]) / 4).astype(int)
    best = scale_map.max(axis=0)
    assert 20 < len(cells) < 100
    for x, y in cells:
        assert best[y, x] == best[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
    apart = np.abs(cells[:, None] - cells[None]).max(axis=2) + 2 * np.eye(len(cells))
    assert apart.min() >= 2


def test_a_scale_map_of_another_form_is_refused():
    with pytest.raises(InputError, match=r"expected a scale map \(60, h, w\)"):
        decode_scale_map(np.zeros((59, 8, 8)))
    with pytest.raises(InputError, match="at least 100 cells"):
        decode_scale_map(np.zeros((60, 8, 8)))


def by_loops(response, square, stride=2, beta=1.0):
    """Mean place, highest cell and peak of one response in one square, cell by cell."""
    x1, y1, x2, y2 = square
    cells = []
    for i in range(response.shape[0]):
        for j in range(response.shape[1]):
            x, y = (j + 0.5) * stride, (i + 0.5) * stride
            if x1 - 1e-3 <= x <= x2 + 1e-3 and y1 - 1e-3 <= y <= y2 + 1e-3:
                cells.append((response[i, j], (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)))
    values, xs, ys = np.array(cells, np.float64).T
    weights = np.exp(beta * (values - values.max()))
    weights /= weights.sum()
    return (weights @ xs, weights @ ys), (xs[values.argmax()], ys[values.argmax()]), weights.max()


# Inside; beyond each border; beyond all; of one cell; of whole cells, whose borders go through centres.
SQUARES = np.array(
    [
        *([10, 12, 22.7, 24.7], [-9, 5, 8, 22], [30, -6, 52, 16], [3, 30, 33, 60], [-20, -20, 80, 80]),
        *([8.5, 8.5, 10, 10], [5, 7, 13, 15], [37, 31, 39.1, 33.1]),
    ],
    np.float32,
)


def test_points_in_squares_are_found_as_by_loops(rng):
    response = rng.normal(0, 3, (3, 18, 20)).astype(np.float32)
    for beta in (1.0, 0.3):
        places, peaks = square_soft_argmax(response, SQUARES, beta=beta), point_peaks(response, SQUARES, beta=beta)
        highest = square_argmax(response, SQUARES)
        for p, square in enumerate(SQUARES):
            for k in range(3):
                mean, best, peak = by_loops(response[k], square, beta=beta)
                np.testing.assert_allclose(places[p, k], mean, atol=1e-4)
                np.testing.assert_allclose(highest[p, k], best, atol=1e-5)
                assert peaks[p, k] == pytest.approx(peak, rel=1e-4)


def test_soft_argmax_finds_a_peak_within_a_fraction_of_a_cell(rng):
    points = rng.uniform(20, 60, (1, 30, 2))
    response = 20 * encode_heatmaps(points[0] / 2, (40, 40), 1.5) - 10
    square = np.float32([[10, 10, 70, 70]])
    found = points_in_squares(square_soft_argmax(response, square), square)
    assert np.abs(found - points).max() < 0.3
    assert np.abs(points_in_squares(square_argmax(response, square), square) - points).max() <= 1.001


def test_what_is_outside_a_square_does_not_matter_unless_it_is_beyond_all_measure(rng):
    response = rng.normal(0, 1, (1, 20, 20)).astype(np.float32)
    square = np.float32([[8, 8, 20, 20]])
    alone = square_soft_argmax(response, square)
    response[0, 15, 15] = 40
    np.testing.assert_allclose(square_soft_argmax(response, square), alone, atol=1e-5)
    response[0, 15, 15] = 1e6
    place, peak = square_soft_argmax(response, square), point_peaks(response, square)
    np.testing.assert_allclose(place, 0.5, atol=0.05)  # nothing is left to tell the cells apart by
    assert 0 < peak < 0.05


def test_a_square_beside_the_map_or_none_has_no_place():
    response, squares = np.ones((2, 8, 8)), np.float32([[20, 20, 30, 30], [0, 0, 0, 0], [-8, 2, -2, 8]])
    for found in (square_soft_argmax(response, squares), square_argmax(response, squares)):
        assert found.shape == (3, 2, 2) and not found.any()
    assert not point_peaks(response, squares).any()
    assert square_soft_argmax(response, np.zeros((0, 4))).shape == (0, 2, 2)


def test_scores_are_the_mean_of_the_proposal_and_three_peaks():
    peaks = np.array([[0.2, 0.4, 0.6], [1, 1, 1], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(face_scores(np.array([0.8, 1, 0]), peaks), [0.5, 1, 0])


def test_the_points_that_score_are_of_the_eyes_and_the_nose():
    for count, chosen in SCORE_POINTS.items():
        scheme = SCHEMES[str(count)]
        for point, part in zip(chosen, scheme.five, strict=False):
            assert point in part


def test_squares_are_about_their_centres():
    np.testing.assert_allclose(squares_about(np.array([[3.0, 5]]), np.array([4.0])), [[1, 3, 5, 7]])
