"""KPNet's blocks against their NumPy twins."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.box_mapping import BOX_STYLES, BoxMapping, boxes_from_points, default_box_mapping
from gluonface.decode import (
    ScaleSpec,
    decode_scale_map,
    encode_scale_map,
    face_scores,
    point_peaks,
    points_in_squares,
    square_argmax,
    square_soft_argmax,
    squares_about,
)
from gluonface.errors import InputError
from gluonface.nn.keypoints import (
    BoxesFromPoints,
    FaceScore,
    PointPeaks,
    PointsInSquares,
    ScaleProposals,
    SquareArgmax,
    SquareMean,
    SquareRegression,
    SquareSoftArgmax,
    TagGroups,
)

HYBRID = pytest.mark.parametrize("hybrid", [False, True], ids=["imperative", "hybridized"])


def block(cls, hybrid, *args, **options):
    made = cls(*args, **options)
    made.initialize()
    if hybrid:
        made.hybridize()
    return made


def squares_of(rng, count, size_hw):
    """Squares of all sizes and places: inside, across every border, on cells' centres, smaller than a cell, none."""
    made = squares_about(rng.uniform(-5, 5 + max(size_hw), (count, 2)), 2 ** rng.uniform(1, 8, count))
    made[0] = 0, 0, 0, 0
    made[1] = size_hw[1] + 10, 5, size_hw[1] + 30, 25
    made[2] = 5, 7, 13, 15
    made[3] = -50, -50, 50 + max(size_hw), 50 + max(size_hw)
    return made.astype(np.float32)


@pytest.fixture(params=[(26, 33), (40, 16), (7, 64)], ids=str)
def case(request, rng):
    """Responses (B, K, h, w) and squares (B, P, 4)."""
    height, width = request.param
    response = rng.normal(0, 3, (2, 5, height, width)).astype(np.float32)
    return response, np.stack([squares_of(rng, 40, (2 * height, 2 * width)) for _ in range(2)])


def twins(made, function, response, squares, **options):
    found = made(mx.nd.array(response), mx.nd.array(squares)).asnumpy()
    return found, np.stack([function(r, s, **options) for r, s in zip(response, squares)])


@HYBRID
def test_soft_argmax_is_its_twin_in_many_squares_at_once(hybrid, case):
    for beta in (1.0, 4.0):
        found, wanted = twins(block(SquareSoftArgmax, hybrid, 5, beta=beta), square_soft_argmax, *case, beta=beta)
        np.testing.assert_allclose(found, wanted, atol=2e-4)
        assert wanted[:, 2:].any() and not found[:, :2].any()


@HYBRID
def test_argmax_is_its_twin(hybrid, case):
    found, wanted = twins(block(SquareArgmax, hybrid, 5), square_argmax, *case)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@HYBRID
def test_peaks_are_their_twin_and_those_of_the_chosen_channels(hybrid, case):
    found, wanted = twins(block(PointPeaks, hybrid, (0, 3, 4)), point_peaks, *case)
    np.testing.assert_allclose(found, wanted[..., [0, 3, 4]], rtol=1e-4, atol=1e-6)


@HYBRID
@pytest.mark.parametrize(("cls", "points"), [(SquareArgmax, 1), (PointPeaks, (0,))], ids=["argmax", "peaks"])
def test_squares_wider_than_can_be_searched_are_refused_and_others_are_searched_in_maps_of_any_width(
    cls, points, hybrid
):
    made, response = block(cls, hybrid, points), np.zeros((1, 1, 2, 1200), np.float32)
    response[0, 0, 1, 700] = 5
    twin = square_argmax if cls is SquareArgmax else point_peaks
    squares = np.float32([[[800, -510, 1823.9, 514], [0, 0, 0, 0]], [[1390, -5, 1410, 15], [2000, 0, 5000, 3000]]])
    found, wanted = twins(made, twin, np.repeat(response, 2, axis=0), squares)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="of at most 512 cells of 2x2 pixels across, got one of 513"):
        made(mx.nd.array(response), mx.nd.array([[[800, -510, 1826, 514]]]))


@HYBRID
def test_means_are_those_of_the_cells_inside(hybrid, case):
    features, squares = case
    found = block(SquareMean, hybrid, 5)(mx.nd.array(features), mx.nd.array(squares)).asnumpy()
    y, x = ((np.arange(side) + 0.5) * 2 for side in features.shape[2:])
    for b in range(2):
        for p, (x1, y1, x2, y2) in enumerate(squares[b]):
            inside = ((y >= y1) & (y <= y2))[:, None] & ((x >= x1) & (x <= x2))
            wanted = features[b][:, inside].mean(axis=1) if inside.any() else np.zeros(5)
            np.testing.assert_allclose(found[b, p], wanted, atol=1e-4)


def test_one_hybridised_block_takes_maps_of_any_size_and_any_number_of_squares(rng):
    made = block(SquareSoftArgmax, True, 3)
    for (height, width), count in (((16, 16), 4), ((9, 30), 11), ((33, 5), 6)):
        response = rng.normal(0, 1, (1, 3, height, width)).astype(np.float32)
        squares = squares_of(rng, count, (2 * height, 2 * width))[None]
        found, wanted = twins(made, square_soft_argmax, response, squares)
        np.testing.assert_allclose(found, wanted, atol=2e-4)


def gradient(made, response, squares, weights):
    x = mx.nd.array(response)
    x.attach_grad()
    with mx.autograd.record():
        total = (made(x, mx.nd.array(squares)) * mx.nd.array(weights)).sum()
    total.backward()
    return x.grad.asnumpy()


@HYBRID
def test_the_gradient_of_soft_argmax_is_that_of_finite_differences(hybrid, rng):
    response = rng.normal(0, 1, (1, 2, 9, 11)).astype(np.float32)
    squares = squares_of(rng, 8, (18, 22))[None]
    weights = rng.normal(0, 1, (1, 8, 2, 2))
    found = gradient(block(SquareSoftArgmax, hybrid, 2), response, squares, weights)

    def total(changed):
        return (square_soft_argmax(changed.astype(np.float32), squares[0]).astype(np.float64) * weights[0]).sum()

    step = 1e-2
    for k, i, j in rng.integers(0, (2, 9, 11), (40, 3)):
        up, down = response[0].astype(np.float64), response[0].astype(np.float64)
        up[k, i, j] += step
        down[k, i, j] -= step
        assert found[0, k, i, j] == pytest.approx((total(up) - total(down)) / (2 * step), abs=2e-3)
    assert np.abs(found).max() > 0.05


def test_cells_outside_every_square_have_no_gradient(rng):
    response = rng.normal(0, 1, (1, 1, 20, 20)).astype(np.float32)
    squares = np.float32([[[4, 4, 12, 12], [-10, 20, 6, 36]]])
    found = gradient(block(SquareSoftArgmax, True, 1), response, squares, np.ones((1, 2, 1, 2)))[0, 0]
    y, x = np.meshgrid(*[(np.arange(20) + 0.5) * 2] * 2, indexing="ij")
    inside = np.zeros((20, 20), bool)
    for x1, y1, x2, y2 in squares[0]:
        inside |= (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
    assert not found[~inside].any() and (found[inside] != 0).all()


@pytest.mark.parametrize("cls", [SquareSoftArgmax, SquareArgmax])
def test_wild_responses_give_finite_places_and_gradients(cls, case):
    response, squares = case
    response = response * 1e4
    made = block(cls, True, 5)
    places = made(mx.nd.array(response), mx.nd.array(squares)).asnumpy()
    assert np.isfinite(places).all() and (places >= -1e-3).all() and (places <= 1.001).all()
    if cls is SquareSoftArgmax:
        assert np.isfinite(gradient(made, response, squares, np.ones(places.shape))).all()


def test_descending_the_distance_moves_the_place_to_the_point():
    made, x, squares = block(SquareSoftArgmax, True, 1), mx.nd.zeros((1, 1, 16, 16)), mx.nd.array([[[4, 4, 28, 28]]])
    x.attach_grad()
    wanted = mx.nd.array([[[[0.2, 0.7]]]])
    for _ in range(300):
        with mx.autograd.record():
            loss = mx.nd.square(made(x, squares) - wanted).sum()
        loss.backward()
        x -= 20 * x.grad
    np.testing.assert_allclose(made(x, squares).asnumpy(), wanted.asnumpy(), atol=1e-2)


@HYBRID
def test_regression_learns_places_from_features(hybrid, rng):
    made = block(SquareRegression, hybrid, 2, 3)
    features, squares = mx.nd.array(rng.normal(0, 1, (2, 3, 12, 12))), mx.nd.array(np.full((2, 4, 4), (2, 2, 20, 20)))
    places = made(features, squares)
    assert places.shape == (2, 4, 2, 2)
    np.testing.assert_allclose(places.asnumpy(), 0.5, atol=0.05)
    with mx.autograd.record():
        loss = mx.nd.square(made(features, squares)).sum()
    loss.backward()
    assert np.abs(made.dense.weight.grad().asnumpy()).max() > 0


# Proposals, scores, boxes


@HYBRID
@pytest.mark.parametrize("hw", [(16, 16), (9, 31), (40, 12)], ids=str)
def test_proposals_are_their_twin(hybrid, hw, rng):
    spec = ScaleSpec(long_side=320)
    scale_map = rng.normal(-4, 2, (2, 60, *hw)).astype(np.float32)
    scale_map[0] += 14 * encode_scale_map(rng.uniform(0, 2 * min(hw), (5, 2)), rng.uniform(6, 200, 5), hw, spec)
    for count, thresh in ((3, 0.0), (60, 0.8)):
        made = block(ScaleProposals, hybrid, spec, count, thresh)
        squares, probabilities = (found.asnumpy() for found in made(mx.nd.array(scale_map)))
        assert squares.shape == (2, count, 4) and probabilities.shape == (2, count)
        for b in range(2):
            wanted = decode_scale_map(scale_map[b], spec, count, thresh)
            np.testing.assert_allclose(probabilities[b], wanted[1], rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(squares[b], wanted[0], rtol=1e-4, atol=1e-3)
            assert (np.diff(probabilities[b]) <= 0).all() and probabilities[b, 0] > 0


def test_a_map_without_peaks_above_the_threshold_gives_no_proposal():
    squares, probabilities = block(ScaleProposals, True, count=5, score_thresh=0.5)(mx.nd.full((1, 60, 8, 8), -3))
    assert not squares.asnumpy().any() and not probabilities.asnumpy().any()


@HYBRID
def test_scores_and_points_are_their_twins(hybrid, rng):
    probabilities, peaks = rng.uniform(0, 1, (2, 6)).astype(np.float32), rng.uniform(0, 1, (2, 6, 3)).astype(np.float32)
    probabilities[0, 3] = 0
    found = block(FaceScore, hybrid)(mx.nd.array(probabilities), mx.nd.array(peaks)).asnumpy()
    np.testing.assert_allclose(found, face_scores(probabilities, peaks), rtol=1e-5)
    places, squares = rng.uniform(0, 1, (2, 6, 5, 2)), np.stack([squares_of(rng, 6, (60, 60)) for _ in range(2)])
    found = block(PointsInSquares, hybrid)(mx.nd.array(places), mx.nd.array(squares)).asnumpy()
    np.testing.assert_allclose(found, points_in_squares(places, squares), rtol=1e-4, atol=1e-3)


def some_mapping(rng, num_points=5):
    mapping = default_box_mapping(num_points)
    return BoxMapping(mapping.frame, mapping.weights + rng.normal(0, 0.05, mapping.weights.shape))


@HYBRID
@pytest.mark.parametrize("style", BOX_STYLES)
@pytest.mark.parametrize("num_points", [5, 19])
def test_boxes_are_their_twin(hybrid, style, num_points, rng):
    mapping, points = some_mapping(rng, num_points), rng.uniform(0, 200, (2, 7, num_points, 2))
    points[0, 0] = 0  # as a proposal that is none has them
    found = block(BoxesFromPoints, hybrid, mapping, style)(mx.nd.array(points)).asnumpy()
    np.testing.assert_allclose(found, boxes_from_points(points, mapping, style), rtol=1e-3, atol=1e-2)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("early", [True, False])
def test_a_mapping_is_replaced_saved_and_loaded_with_the_block(early, rng, tmp_path):
    mapping, points = some_mapping(rng), mx.nd.array(rng.uniform(0, 100, (1, 3, 5, 2)))
    made = BoxesFromPoints(default_box_mapping())
    if early:
        made.set_mapping(mapping)
    made.initialize(mx.init.Xavier())
    made.set_mapping(mapping)
    np.testing.assert_allclose(made(points).asnumpy()[0], boxes_from_points(points.asnumpy()[0], mapping), atol=0.05)
    made.save_parameters(str(tmp_path / "boxes"))
    other = BoxesFromPoints(default_box_mapping())
    other.load_parameters(str(tmp_path / "boxes"))
    np.testing.assert_array_equal(other(points).asnumpy(), made(points).asnumpy())
    assert all(parameter.grad_req == "null" for parameter in made.collect_params().values())


def test_an_unknown_style_and_a_mapping_of_other_points_are_refused():
    with pytest.raises(InputError, match="corpus, tight, square, got 'round'"):
        BoxesFromPoints(default_box_mapping(), "round")
    with pytest.raises(InputError, match="of 5 points, got one of 19"):
        BoxesFromPoints(default_box_mapping()).set_mapping(default_box_mapping(19))


# Associative embedding


@HYBRID
def test_points_of_one_tag_are_one_face(hybrid, rng):
    faces = np.array(
        [[[9, 9], [21, 9], [15, 15], [11, 21], [19, 21]], [[41, 31], [51, 31], [47, 37], [43, 41], [51, 43]]]
    )
    heatmaps = np.full((2, 5, 26, 30), -9, np.float32) + rng.uniform(0, 0.1, (2, 5, 26, 30))
    tags = rng.normal(0, 0.1, heatmaps.shape)
    for b, values in enumerate(([2.0, -2.0], [-1.0, 4.0])):
        for face, value, height in zip(faces, values, (4, 3)):
            for k, (x, y) in enumerate(face):
                heatmaps[b, k, y // 2, x // 2] = height - 0.2 * k
                tags[b, k, y // 2, x // 2] = value + rng.normal(0, 0.1)
    made = block(TagGroups, hybrid, 5, root=2, count=12, score_thresh=0.5)
    points, scores = (found.asnumpy() for found in made(mx.nd.array(heatmaps), mx.nd.array(tags)))
    assert points.shape == (2, 12, 5, 2)
    for b in range(2):
        assert (scores[b] > 0).sum() == 2
        np.testing.assert_array_equal(points[b, :2], faces)
        wanted = [np.mean(1 / (1 + np.exp(-(height - 0.2 * np.arange(5))))) for height in (4, 3)]
        np.testing.assert_allclose(scores[b, :2], wanted, rtol=1e-4)


@HYBRID
def test_grouping_is_that_by_loops(hybrid, rng):
    heatmaps = rng.normal(0, 2, (2, 3, 12, 17)).astype(np.float32)
    tags = rng.normal(0, 1, heatmaps.shape).astype(np.float32)
    points, scores = block(TagGroups, hybrid, 3, 1, 40, 0.3)(mx.nd.array(heatmaps), mx.nd.array(tags))
    for b in range(2):
        peaks = []
        for k in range(3):
            padded = np.pad(heatmaps[b, k], 1, constant_values=-np.inf)
            own = [
                (heatmaps[b, k, y, x], y, x)
                for y in range(12)
                for x in range(17)
                if heatmaps[b, k, y, x] == padded[y : y + 3, x : x + 3].max()
            ]
            peaks.append(sorted(own, reverse=True))
        roots = [peak for peak in peaks[1] if 1 / (1 + np.exp(-peak[0])) >= 0.3]
        assert (scores[b].asnumpy() > 0).sum() == len(roots) > 3
        for p, root in enumerate(roots):
            tag, chances = tags[b, 1, root[1], root[2]], []
            for k in range(3):
                best = root if k == 1 else min(peaks[k], key=lambda peak, k=k: abs(tags[b, k, peak[1], peak[2]] - tag))
                chances.append(1 / (1 + np.exp(-best[0])))
                assert points[b, p, k].asnumpy().tolist() == [2 * best[2] + 1, 2 * best[1] + 1]
            assert scores[b, p].asscalar() == pytest.approx(np.mean(chances), rel=1e-4)
