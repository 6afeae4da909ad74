"""Geometry: every mapping against its inverse, every warp by painting a dot and finding it."""

from __future__ import annotations

import numpy as np
import pytest

from gluonface import geometry
from gluonface.errors import InputError
from gluonface.faces import SCHEMES


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def random_boxes(rng, n, size=100):
    low = rng.uniform(0, size * 0.8, (n, 2))
    return np.concatenate([low, low + rng.uniform(1, size * 0.4, (n, 2))], axis=1).astype(np.float32)


def paint_dot(size_hw, xy, sigma=2.0):
    """A white Gaussian dot centred at continuous xy on black, (H, W, 3) uint8."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    dot = 255 * np.exp(-((x - xy[0]) ** 2 + (y - xy[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(dot).astype(np.uint8)[..., None], 3, axis=2)


def find_dot(image):
    """Centre of mass of the brightness, continuous xy."""
    weight = image[..., 0].astype(np.float64)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


# Boxes


def test_area_is_width_times_height_without_plus_one():
    assert geometry.box_area(np.array([[0, 0, 1, 1], [2, 3, 5, 7], [5, 5, 4, 9]])).tolist() == [1, 12, 0]


def test_iou_of_hand_made_boxes():
    a = np.array([[0, 0, 10, 10]])
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]])
    assert geometry.box_iou(a, b)[0] == pytest.approx([1, 1 / 3, 0, 0.04])
    assert geometry.box_ioa(b, a)[:, 0] == pytest.approx([1, 0.5, 0, 1])


def test_iou_is_symmetric_and_in_0_1(rng):
    a, b = random_boxes(rng, 20), random_boxes(rng, 30)
    iou = geometry.box_iou(a, b)
    assert iou.shape == (20, 30)
    np.testing.assert_allclose(iou, geometry.box_iou(b, a).T)
    assert iou.min() >= 0
    assert iou.max() <= 1
    np.testing.assert_allclose(np.diag(geometry.box_iou(a, a)), 1)


def test_boxes_without_area_overlap_nothing_and_warn_nothing():
    point = np.array([[5, 5, 5, 5]])
    with np.errstate(all="raise"):
        assert geometry.box_iou(point, point).tolist() == [[0]]
        assert geometry.box_ioa(point, [[0, 0, 9, 9]]).tolist() == [[0]]


def test_empty_sets_of_boxes_give_empty_matrices():
    assert geometry.box_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    assert geometry.box_ioa([[0, 0, 1, 1]], []).shape == (1, 0)


def test_large_integer_boxes_do_not_overflow():
    box = np.array([[0, 0, 100_000, 100_000]], np.int32)
    assert geometry.box_iou(box, box)[0, 0] == pytest.approx(1)


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"\(N, 4\), got \(2, 5\)"):
        geometry.box_iou(np.zeros((2, 5)), np.zeros((2, 4)))


def test_clipped_boxes_lie_inside_and_inner_ones_stay():
    boxes = np.array([[-5, -5, 200, 300], [10, 20, 30, 40], [150, 0, 160, 10]], np.float32)
    clipped = geometry.clip_boxes(boxes, (50, 100))
    assert clipped.tolist() == [[0, 0, 100, 50], [10, 20, 30, 40], [100, 0, 100, 10]]
    assert clipped.dtype == np.float32


# Suppression and voting


def test_a_widened_box_keeps_its_centre_and_grows_by_the_scale():
    found = geometry.widen_boxes(np.array([[10.0, 20, 30, 60], [-1, -1, -1, -1]]), 1.5)
    assert found.tolist() == [[5, 10, 35, 70], [-1, -1, -1, -1]]


def slow_nms(boxes, scores, thresh):
    left, keep = sorted(range(len(boxes)), key=lambda i: -scores[i]), []
    while left:
        keep.append(left.pop(0))
        left = [i for i in left if geometry.box_iou(boxes[keep[-1:]], boxes[[i]])[0, 0] <= thresh]
    return keep


@pytest.mark.parametrize("thresh", [0.1, 0.4, 0.9])
def test_nms_keeps_what_the_definition_keeps(rng, thresh):
    boxes, scores = random_boxes(rng, 60), rng.uniform(size=60)
    assert geometry.nms(boxes, scores, thresh).tolist() == slow_nms(boxes, scores, thresh)


def test_nms_gives_the_best_first_and_stops_at_top_k(rng):
    boxes, scores = random_boxes(rng, 60), rng.uniform(size=60)
    keep = geometry.nms(boxes, scores, 0.4)
    assert (np.diff(scores[keep]) <= 0).all()
    assert geometry.nms(boxes, scores, 0.4, top_k=3).tolist() == keep[:3].tolist()


def test_nms_of_nothing_is_nothing():
    assert geometry.nms(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


def test_nms_keeps_the_first_of_equal_boxes():
    boxes = np.tile([[0, 0, 9, 9]], (4, 1))
    assert geometry.nms(boxes, [0.5, 0.7, 0.7, 0.1], 0.4).tolist() == [1]


THREE = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60]], np.float32)  # the first two: IoU 1/3


def test_soft_nms_by_hand():
    keep, lowered = geometry.soft_nms(THREE, np.array([0.9, 0.8, 0.5]), "linear")
    assert keep.tolist() == [0, 1, 2]
    assert lowered == pytest.approx([0.9, 0.8 * 2 / 3, 0.5])
    keep, lowered = geometry.soft_nms(THREE, np.array([0.9, 0.8, 0.5]), "gaussian", sigma=0.25)
    assert keep.tolist() == [0, 1, 2]
    assert lowered == pytest.approx([0.9, 0.8 * np.exp(-1 / 9 / 0.25), 0.5])


def test_a_box_that_lost_score_comes_after_those_that_are_now_better():
    keep, lowered = geometry.soft_nms(THREE, np.array([0.9, 0.7, 0.5]), "linear")
    assert keep.tolist() == [0, 2, 1]
    assert lowered == pytest.approx([0.9, 0.5, 0.7 * 2 / 3])


def test_linear_soft_nms_leaves_boxes_alone_that_overlap_less_than_the_threshold():
    scores = np.array([0.9, 0.8, 0.5])
    keep, lowered = geometry.soft_nms(THREE, scores, "linear", iou_thresh=0.34)
    assert keep.tolist() == [0, 1, 2] and lowered.tolist() == scores.tolist()


def slow_soft_nms(boxes, scores, method, iou_thresh, sigma, score_thresh):
    """The pseudo code of the paper (figure 2)."""
    left, now, found = list(range(len(boxes))), [float(s) for s in scores], []
    left = [i for i in left if now[i] >= score_thresh]
    while left:
        best = max(left, key=lambda i: now[i])
        left.remove(best)
        found.append((best, now[best]))
        for i in left:
            iou = float(geometry.box_iou(boxes[[best]], boxes[[i]])[0, 0])
            if method == "gaussian":
                now[i] *= np.exp(-iou * iou / sigma)
            elif iou >= iou_thresh:
                now[i] *= 1 - iou
        left = [i for i in left if now[i] >= score_thresh]
    return found


@pytest.mark.parametrize("method", geometry.SOFT_NMS)
@pytest.mark.parametrize("score_thresh", [0.0, 0.2])
def test_soft_nms_agrees_with_the_definition(rng, method, score_thresh):
    boxes, scores = random_boxes(rng, 60), rng.uniform(size=60)
    keep, lowered = geometry.soft_nms(boxes, scores, method, iou_thresh=0.2, sigma=0.4, score_thresh=score_thresh)
    wanted = slow_soft_nms(boxes, scores, method, 0.2, 0.4, score_thresh)
    assert keep.tolist() == [i for i, _ in wanted]
    np.testing.assert_allclose(lowered, [score for _, score in wanted], rtol=1e-5)
    assert (np.diff(lowered) <= 0).all() and (lowered < scores[keep]).any()
    assert (len(keep) == 60) == (score_thresh == 0)
    top, top_scores = geometry.soft_nms(
        boxes, scores, method, iou_thresh=0.2, sigma=0.4, score_thresh=score_thresh, top_k=5
    )
    assert top.tolist() == keep[:5].tolist() and top_scores.tolist() == lowered[:5].tolist()


def test_soft_nms_is_hard_where_the_gaussian_is_a_needle(rng):
    boxes, scores = random_boxes(rng, 60), rng.uniform(0.01, 1, size=60)
    keep, lowered = geometry.soft_nms(boxes, scores, "gaussian", sigma=1e-12)
    assert keep.tolist() == geometry.nms(boxes, scores, 0.0).tolist()
    np.testing.assert_array_equal(lowered, scores[keep])


def test_soft_nms_removes_copies_and_leaves_its_arguments_alone():
    boxes, scores = np.tile([[0, 0, 9, 9]], (4, 1)), np.array([0.5, 0.7, 0.7, 0.1], np.float32)
    keep, lowered = geometry.soft_nms(boxes, scores)
    assert keep.tolist() == [1] and lowered.dtype == np.float32
    assert scores.tolist() == np.float32([0.5, 0.7, 0.7, 0.1]).tolist()


def test_soft_nms_of_nothing_and_of_boxes_without_area():
    keep, lowered = geometry.soft_nms(np.zeros((0, 4)), np.zeros(0))
    assert keep.shape == lowered.shape == (0,)
    keep, lowered = geometry.soft_nms([[5, 5, 5, 5], [5, 5, 5, 5]], [0.3, 0.4], "gaussian")
    assert keep.tolist() == [1, 0] and lowered.tolist() == [0.4, 0.3]


@pytest.mark.parametrize(
    ("scores", "options", "complaint"),
    [
        ([0.5], {"method": "hard"}, "linear, gaussian, got 'hard'"),
        ([-0.5], {}, "not negative"),
        ([0.5, 0.5], {}, r"shape \(1,\)"),
        ([0.5], {"sigma": 0}, "sigma above 0"),
    ],
)
def test_soft_nms_refuses_what_means_nothing(scores, options, complaint):
    with pytest.raises(InputError, match=complaint):
        geometry.soft_nms([[0, 0, 1, 1]], scores, **options)


def test_voting_is_the_score_weighted_mean_of_the_boxes_that_overlap():
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]], np.float32)
    voted, scores = geometry.box_vote(boxes, np.array([0.9, 0.3, 0.5], np.float32), 0.4)
    np.testing.assert_allclose(voted, [[0.5, 0, 10.5, 10], [50, 50, 60, 60]], rtol=1e-6)
    assert scores == pytest.approx([0.9, 0.5])


def test_voting_agrees_with_the_definition(rng):
    boxes, scores = random_boxes(rng, 80), rng.uniform(size=80)
    voted, kept = geometry.box_vote(boxes, scores, 0.4)
    for i, k in enumerate(geometry.nms(boxes, scores, 0.4)):
        near = geometry.box_iou(boxes[[k]], boxes)[0] >= 0.4
        np.testing.assert_allclose(voted[i], np.average(boxes[near], axis=0, weights=scores[near]), rtol=1e-5)
        assert kept[i] == scores[k]


def test_voting_in_small_pieces_gives_the_same(rng, monkeypatch):
    boxes, scores = random_boxes(rng, 50), rng.uniform(size=50)
    whole, _ = geometry.box_vote(boxes, scores, 0.4)
    monkeypatch.setattr(geometry, "_PAIRS_AT_ONCE", 120)
    np.testing.assert_array_equal(geometry.box_vote(boxes, scores, 0.4)[0], whole)


def test_a_box_without_area_or_score_votes_for_itself():
    voted, scores = geometry.box_vote([[5, 5, 5, 5], [7, 0, 9, 9]], [0.0, 0.0], 0.4)
    assert voted.tolist() == [[5, 5, 5, 5], [7, 0, 9, 9]]
    assert scores.tolist() == [0, 0]


def test_voting_refuses_negative_weights():
    with pytest.raises(InputError, match="not negative"):
        geometry.box_vote([[0, 0, 1, 1]], [-0.5], 0.4)


# Mirror


def test_a_flipped_box_comes_back_after_a_second_flip(rng):
    boxes = random_boxes(rng, 9)
    flipped = geometry.flip_boxes(boxes, 100)
    assert (flipped[:, 2] >= flipped[:, 0]).all()
    np.testing.assert_allclose(geometry.flip_boxes(flipped, 100), boxes, atol=1e-5)


def test_flipped_points_come_back_after_a_second_flip(rng):
    points, index = rng.uniform(0, 100, (4, 5, 2)), SCHEMES["5"].flip_index
    np.testing.assert_allclose(
        geometry.flip_points(geometry.flip_points(points, 100, index), 100, index), points, atol=1e-9
    )


def test_the_flipped_point_lies_on_the_flipped_dot():
    image = paint_dot((40, 61), (20.3, 15.8))
    found = find_dot(image[:, ::-1])
    np.testing.assert_allclose(geometry.flip_points(np.array([[20.3, 15.8]]), 61)[0], found, atol=0.01)


def test_a_flip_keeps_the_left_eye_on_the_left():
    points = np.array([[10, 5], [30, 5], [20, 10], [12, 20], [28, 20]], np.float32)
    flipped = geometry.flip_points(points, 100, SCHEMES["5"].flip_index)
    assert flipped.tolist() == [[70, 5], [90, 5], [80, 10], [72, 20], [88, 20]]


def test_flipping_leaves_its_argument_alone():
    boxes, points = np.array([[0.0, 0, 5, 5]]), np.array([[1.0, 2]])
    geometry.flip_boxes(boxes, 9)
    geometry.flip_points(points, 9)
    assert boxes.tolist() == [[0, 0, 5, 5]]
    assert points.tolist() == [[1, 2]]


# Letterbox

SIZES = [(480, 640), (640, 480), (333, 517), (1, 1), (1, 900), (8000, 10), (10, 8000), (2000, 3000), (640, 640)]


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("canvas_hw", [(640, 640), (320, 640), (96, 64)])
def test_a_letterbox_fills_one_side_and_stays_inside_the_other(size_hw, canvas_hw):
    box = geometry.letterbox(size_hw, canvas_hw)
    height, width = box.resized_hw
    assert 1 <= height <= canvas_hw[0]
    assert 1 <= width <= canvas_hw[1]
    assert height == canvas_hw[0] or width == canvas_hw[1]
    # The scale is the exact one: the far corner of the photo is the far corner of its picture.
    np.testing.assert_allclose(box.forward_points([size_hw[1], size_hw[0]]), [width, height])


@pytest.mark.parametrize("size_hw", SIZES)
def test_letterboxed_points_and_boxes_come_back(rng, size_hw):
    box = geometry.letterbox(size_hw, (320, 320))
    points = rng.uniform(-5, 900, (6, 5, 2))
    np.testing.assert_allclose(box.inverse_points(box.forward_points(points)), points, atol=1e-7)
    boxes = random_boxes(rng, 8)
    np.testing.assert_allclose(box.inverse_boxes(box.forward_boxes(boxes)), boxes, atol=1e-4)
    assert box.inverse_boxes(np.zeros((0, 4))).shape == (0, 4)
    assert box.inverse_points(np.zeros((0, 5, 2))).shape == (0, 5, 2)


def test_without_upscale_a_small_photo_keeps_its_size():
    assert geometry.letterbox((30, 40), (64, 64), upscale=False).scale_xy == (1, 1)
    assert geometry.letterbox((30, 40), (64, 64)).resized_hw == (48, 64)
    assert geometry.letterbox((300, 400), (64, 64), upscale=False).resized_hw == (48, 64)


def test_a_letterbox_of_no_size_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        geometry.letterbox((0, 40), (64, 64))


@pytest.mark.parametrize("size_hw", [(60, 80), (80, 60), (301, 407), (128, 128), (97, 33)])
def test_a_dot_is_found_where_the_letterbox_says(size_hw):
    box = geometry.letterbox(size_hw, (128, 128))
    xy = np.array([size_hw[1] * 0.4 + 0.3, size_hw[0] * 0.55 + 0.1])
    canvas = geometry.apply_letterbox(paint_dot(size_hw, xy, sigma=3), box)
    assert canvas.shape == (128, 128, 3)
    np.testing.assert_allclose(find_dot(canvas), box.forward_points(xy), atol=0.03)


def test_the_rest_of_the_canvas_is_padding():
    image = np.full((20, 40, 3), 200, np.uint8)
    canvas = geometry.apply_letterbox(image, geometry.letterbox((20, 40), (40, 40)), pad_value=(1, 2, 3))
    assert (canvas[:20] == 200).all()
    assert (canvas[20:] == (1, 2, 3)).all()


def test_a_letterbox_is_applied_to_the_image_it_was_made_for_only():
    with pytest.raises(InputError, match=r"height and width \(20, 40\), got shape \(40, 20, 3\)"):
        geometry.apply_letterbox(np.zeros((40, 20, 3), np.uint8), geometry.letterbox((20, 40), (40, 40)))


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 500), (500, 1), (8000, 10)])
def test_degenerate_photos_fit_on_a_canvas(size_hw):
    canvas = geometry.apply_letterbox(np.full((*size_hw, 3), 9, np.uint8), geometry.letterbox(size_hw, (64, 64)))
    assert canvas.shape == (64, 64, 3)
    assert (canvas[0, 0] == 9).all()


# Affine maps


@pytest.mark.parametrize("degrees", [0, 17, 90, 180, -135])
@pytest.mark.parametrize("scale", [0.01, 1, 30])
def test_a_similarity_transform_is_recovered_from_points(rng, degrees, scale):
    matrix = geometry.rotation_matrix_about((30, -7), degrees, scale)
    src = rng.uniform(0, 100, (5, 2))
    np.testing.assert_allclose(
        geometry.similarity_transform(src, geometry.warp_points(matrix, src)), matrix, atol=1e-9 * max(1, scale) * 100
    )


def test_no_other_similarity_comes_nearer(rng):
    src, dst = rng.uniform(0, 100, (5, 2)), rng.uniform(0, 100, (5, 2))
    best = geometry.similarity_transform(src, dst)

    def error(matrix):
        return ((geometry.warp_points(matrix, src) - dst) ** 2).sum()

    for _ in range(200):
        a, b, x, y = rng.normal(0, [0.02, 0.02, 1, 1])
        assert error(best + np.array([[a, -b, x], [b, a, y]])) >= error(best)


def test_a_mirrored_set_is_not_matched_by_a_reflection(rng):
    src = rng.uniform(0, 100, (5, 2))
    matrix = geometry.similarity_transform(src, src * [-1, 1])
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("src", [np.full((5, 2), 7.0), np.full((5, 2), 1e6 + 0.1), np.zeros((1, 2)), np.zeros((5, 3))])
def test_points_that_fix_no_similarity_are_refused(src):
    with pytest.raises(InputError):
        geometry.similarity_transform(src, np.zeros_like(src))


def test_not_finite_points_fix_no_similarity():
    src = geometry.ARCFACE_TEMPLATE_112.copy()
    src[0, 0] = np.nan
    with pytest.raises(InputError):
        geometry.similarity_transform(src, geometry.ARCFACE_TEMPLATE_112)


def test_an_inverted_affine_map_undoes_it(rng):
    matrix, points = rng.normal(size=(2, 3)), rng.uniform(0, 100, (4, 5, 2))
    there = geometry.warp_points(matrix, points)
    np.testing.assert_allclose(geometry.warp_points(geometry.invert_affine(matrix), there), points, atol=1e-6)


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.full((2, 3), np.nan), np.eye(3)])
def test_a_map_that_cannot_be_inverted_is_refused(matrix):
    with pytest.raises(InputError):
        geometry.invert_affine(matrix)


def test_a_rotation_keeps_its_centre_and_turns_clockwise_as_seen():
    matrix = geometry.rotation_matrix_about((50, 40), 90)
    np.testing.assert_allclose(geometry.warp_points(matrix, [[50, 40], [60, 40]]), [[50, 40], [50, 50]], atol=1e-9)


# Warps


def test_the_identity_warp_changes_no_pixel(rng):
    image = rng.integers(0, 256, (31, 47, 3), dtype=np.uint8)
    np.testing.assert_array_equal(geometry.warp_image(image, np.eye(2, 3), (31, 47)), image)


def test_a_quarter_turn_is_the_exact_one(rng):
    image = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    turned = geometry.warp_image(image, geometry.rotation_matrix_about((15, 15), 90), (30, 30))
    np.testing.assert_array_equal(turned, np.rot90(image, -1))


@pytest.mark.parametrize("scale", [3, 1, 0.6, 0.3, 0.07])
@pytest.mark.parametrize("degrees", [0, 33, 180])
def test_a_dot_is_found_where_the_warp_takes_it(scale, degrees):
    xy = np.array([201.3, 148.8])
    image = paint_dot((300, 400), xy, sigma=max(2, 2 / scale))
    matrix = geometry.rotation_matrix_about(xy, degrees, scale)
    matrix[:, 2] += np.array([60.4, 50.7]) - xy
    warped = geometry.warp_image(image, matrix, (100, 120))
    np.testing.assert_allclose(find_dot(warped), geometry.warp_points(matrix, xy), atol=0.06)


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    small = geometry.warp_image(stripes, np.array([[0.1, 0, 0], [0, 0.1, 0]]), (40, 40))
    assert np.abs(small[2:-2, 2:-2].astype(int) - 127).max() <= 8


def test_outside_the_source_lies_the_border_value():
    image = np.full((10, 10, 3), 255, np.uint8)
    far = np.array([[1, 0, 500], [0, 1, 0]])
    assert (geometry.warp_image(image, far, (8, 8), border_value=(4, 5, 6)) == (4, 5, 6)).all()
    half = geometry.warp_image(image, np.array([[1, 0, 4], [0, 1, 0]]), (8, 8), border_value=(4, 5, 6))
    assert (half[:, :4] == (4, 5, 6)).all()
    assert (half[:, 4:] == 255).all()


@pytest.mark.parametrize("shape", [(5, 40_000), (40_000, 5)])
def test_a_very_long_photo_is_warped_too(shape):
    image = np.full((*shape, 3), 100, np.uint8)
    matrix = np.array([[20 / shape[1], 0, 0], [0, 20 / shape[0], 0]])
    assert abs(int(geometry.warp_image(image, matrix, (20, 20))[10, 10, 0]) - 100) <= 5


# Aligned crops


@pytest.mark.parametrize("size", [112, 224])
@pytest.mark.parametrize(("scale", "degrees"), [(1.7, 20), (0.8, -100), (6.0, 5)])
def test_the_points_of_a_face_land_on_the_template(size, scale, degrees):
    """`scale` is the size of the face in the photo over the size of the template."""
    place = geometry.rotation_matrix_about((56, 56), degrees, scale)
    place[:, 2] += (350, 400)
    landmarks = geometry.warp_points(place, geometry.ARCFACE_TEMPLATE_112)
    for k in range(5):
        photo = paint_dot((900, 900), landmarks[k], sigma=2 * scale)
        crop = geometry.align_crop(photo, landmarks, size)
        assert crop.shape == (size, size, 3)
        np.testing.assert_allclose(find_dot(crop), geometry.ARCFACE_TEMPLATE_112[k] * size / 112, atol=0.08)


def test_the_template_is_the_published_one_plus_half_a_pixel():
    assert geometry.ARCFACE_TEMPLATE_112[0] == pytest.approx([38.7946, 52.1963])


def test_a_face_half_outside_the_photo_is_cropped_with_black():
    landmarks = geometry.ARCFACE_TEMPLATE_112 - [56, 0]
    crop = geometry.align_crop(np.full((112, 112, 3), 255, np.uint8), landmarks)
    assert (crop[:, :55] == 0).all()
    assert (crop[:, 57:] == 255).all()


def test_points_in_one_place_give_no_crop():
    with pytest.raises(InputError, match="points that are apart"):
        geometry.align_crop(np.zeros((50, 50, 3), np.uint8), np.full((5, 2), 25.0))
