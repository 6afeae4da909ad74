import math

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.geometry import widen_boxes
from gluonface.nn.roi import KeypointHead, PyramidRoIAlign, WidenBoxes, number_boxes

STRIDES = (4, 8, 16, 32, 64)


def levels_by_eq_6(boxes, k0):
    size = boxes[:, 2:] - boxes[:, :2]
    return [min(6, max(2, math.floor(k0 + math.log2(math.sqrt(w * h) / 224)))) for w, h in size]


def bilinear(m, y, x):
    """Value (C,) of a map (C, h, w) at a place in cells, the first cell's centre being at 0.5: the cells at the border
    go on for half a cell, and 0 is beyond a whole one.
    """
    height, width = m.shape[1:]
    y, x = y - 0.5, x - 0.5
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(m))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = m[:, top, left] * (left + 1 - x) + m[:, top, right] * (x - left)
    lower = m[:, down, left] * (left + 1 - x) + m[:, down, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def align_by_hand(rois, maps, side, k0):
    """Twin of PyramidRoIAlign, cell by cell: the mean of four points of each."""
    features = np.zeros((len(rois), maps[0].shape[1], side, side))
    for r, (level, roi) in enumerate(zip(levels_by_eq_6(rois[:, 1:], k0), rois)):
        if roi[0] < 0:
            continue
        m, stride = maps[level - 2][int(roi[0])], 2**level
        x1, y1, x2, y2 = roi[1:] / stride
        for row in range(side):
            for column in range(side):
                points = [
                    bilinear(m, y1 + (row + dy) * (y2 - y1) / side, x1 + (column + dx) * (x2 - x1) / side)
                    for dy in (0.25, 0.75)
                    for dx in (0.25, 0.75)
                ]
                features[r, :, row, column] = np.mean(points, axis=0)
    return features


def pyramid(rng, size_hw=(192, 256), batch=2, channels=3):
    return [
        rng.normal(0, 1, (batch, channels, -(-size_hw[0] // s), -(-size_hw[1] // s))).astype(np.float32)
        for s in STRIDES
    ]


#: Image and box: every level at k0 = 3, whole and broken places, beyond the border, and two that are padding.
ROIS = np.array(
    [
        [0, 10, 20, 40, 60],
        [1, 3.3, 7.7, 203.1, 190.9],
        [0, -30, -20, 300, 250],
        [1, -50, -60, 480, 540],
        [0, -400, -500, 700, 600],
        [1, -900, -900, 1100, 1100],
        [-1, 10, 20, 40, 60],
        [1, 250, 180, 256, 192],
        [-1, -1, -1, -1, -1],
    ],
    np.float32,
)


@pytest.mark.parametrize("k0", [3, 4, 5])
@pytest.mark.parametrize("hybrid", [False, True])
def test_features_of_boxes_are_those_worked_out_by_hand(rng, k0, hybrid):
    maps = pyramid(rng)
    align = PyramidRoIAlign(STRIDES, side=7, k0=k0)
    if hybrid:
        align.hybridize()
    found = align(mx.nd.array(ROIS), *map(mx.nd.array, maps)).asnumpy()
    rois = ROIS.copy()
    rois[-1, 1:] = 0, 0, 9, 9  # padding has no size to take the logarithm of
    assert len(set(levels_by_eq_6(rois[:, 1:], k0))) >= 4
    np.testing.assert_allclose(found, align_by_hand(rois, maps, 7, k0), atol=2e-4)
    assert np.abs(found[[0, 1, 2, 3, 4, 5, 7]]).max(axis=(1, 2, 3)).min() > 0.01
    assert (found[[6, 8]] == 0).all()


# Width, height -> level at k0 of 3, 4, 5 (MaskFace eq. 6, and its example: below 112 at k0 = 4 the level is 2).
LEVELS = [
    (16, 16, (2, 2, 2)),
    (55, 56, (2, 2, 2)),
    (56, 56, (2, 2, 3)),
    (111, 111, (2, 2, 3)),
    (112, 112, (2, 3, 4)),
    (56, 224, (2, 3, 4)),
    (223, 224, (2, 3, 4)),
    (224, 224, (3, 4, 5)),
    (448, 448, (4, 5, 6)),
    (896, 896, (5, 6, 6)),
    (447.9, 448, (3, 4, 5)),
    (1792, 1792, (6, 6, 6)),
    (5000, 5000, (6, 6, 6)),
    (1e-3, 1e-3, (2, 2, 2)),
]


@pytest.mark.parametrize(("column", "k0"), list(enumerate((3, 4, 5))))
def test_the_level_follows_from_the_size_of_a_box(rng, column, k0):
    align = PyramidRoIAlign(STRIDES, k0=k0)
    boxes = mx.nd.array([[5, 7, 5 + w, 7 + h] for w, h, _ in LEVELS])
    assert (align.level(mx.nd, boxes).reshape(-1).asnumpy() + 2).tolist() == [levels[column] for *_, levels in LEVELS]
    drawn = np.exp(rng.uniform(1, 8, (500, 2))).astype(np.float32)
    boxes = np.concatenate([np.zeros_like(drawn), drawn], axis=1)
    found = align.level(mx.nd, mx.nd.array(boxes)).reshape(-1).asnumpy() + 2
    assert found.tolist() == levels_by_eq_6(boxes, k0)


def test_a_box_s_gradient_goes_to_its_own_level_and_image(rng):
    maps = [mx.nd.array(m) for m in pyramid(rng)]
    for m in maps:
        m.attach_grad()
    align = PyramidRoIAlign(STRIDES)
    with mx.autograd.record():
        total = align(mx.nd.array([[1, 0, 0, 300, 300], [-1, 10, 10, 20, 20]]), *maps).sum()
    total.backward()
    touched = [[bool(m.grad[i].abs().max().asscalar() > 0) for i in range(2)] for m in maps]
    assert touched == [[False, False], [False, True], [False, False], [False, False], [False, False]]


def test_boxes_are_numbered_image_by_image_and_padding_has_none():
    boxes = mx.nd.array([[[1, 2, 3, 4], [-1, -1, -1, -1]], [[0, 0, 0, 0], [5, 5, 9, 8]]])
    expected = [[0, 1, 2, 3, 4], [-1, -1, -1, -1, -1], [-1, 0, 0, 0, 0], [1, 5, 5, 9, 8]]
    assert number_boxes(mx.nd, boxes).asnumpy().tolist() == expected


@pytest.mark.parametrize("scale", [1, 1.25, 2])
def test_boxes_grow_about_their_centre_and_padding_stays_padding(scale, rng):
    found = WidenBoxes(scale)(mx.nd.array(ROIS)).asnumpy()
    np.testing.assert_allclose(found[:, 1:], widen_boxes(ROIS[:, 1:], scale), rtol=1e-5, atol=1e-3)
    assert found[:, 0].tolist() == ROIS[:, 0].tolist()
    padding = WidenBoxes(scale)(mx.nd.array([[-1, -1, -1, -1, -1]])).asnumpy()
    assert padding.tolist() == [[-1, -1, -1, -1, -1]]


def test_a_head_with_a_margin_looks_at_what_one_without_sees_in_wider_boxes(rng):
    maps = [mx.nd.array(m) for m in pyramid(rng, channels=8)]
    wide = ROIS.copy()
    wide[:, 1:] = widen_boxes(ROIS[:, 1:], 1.25)
    plain, margin = head_of(), head_of(roi_scale=1.25)
    expected = plain(mx.nd.array(wide), *maps).asnumpy()
    np.testing.assert_allclose(margin(mx.nd.array(ROIS), *maps).asnumpy(), expected, atol=1e-3)
    assert np.abs(expected - plain(mx.nd.array(ROIS), *maps).asnumpy()).max() > 0.1


def head_of(channels=8, num_points=5, **options):
    mx.random.seed(3)
    head = KeypointHead(channels, num_points, STRIDES, **options)
    head.initialize(mx.init.MSRAPrelu(slope=0))
    # Its own start is so small that maps are nearly even.
    head.deconv.weight.set_data(mx.nd.random.normal(0, 1, head.deconv.weight.shape))
    return head


def test_the_mirrored_face_has_the_mirrored_heatmaps(rng):
    """Nothing between the pyramid and the heatmaps shifts a face by a part of a cell."""
    width = 256
    maps = [mx.nd.array(m) for m in pyramid(rng, (192, width), channels=8)]
    head = head_of()
    rois = mx.nd.array([[0, 33.3, 20, 90.1, 85], [1, 12, 3, 170, 200]])
    mirrored = mx.nd.stack(rois[:, 0], width - rois[:, 3], rois[:, 2], width - rois[:, 1], rois[:, 4], axis=1)
    expected = head(rois, *maps).asnumpy()
    for parameter in head.collect_params().values():
        if len(parameter.shape) == 4:
            parameter.set_data(parameter.data().flip(axis=3))
    found = head(mirrored, *(m.flip(axis=3) for m in maps)).asnumpy()
    assert expected.shape == (2, 5, 56, 56) and expected.std() > 0.1
    np.testing.assert_allclose(found[..., ::-1], expected, atol=2e-3)


def test_heatmaps_are_interpolated_between_the_centres_of_28_cells(rng):
    head = head_of(num_points=2)
    small = mx.nd.array(rng.normal(0, 1, (1, 2, 28, 28)))
    object.__setattr__(head, "deconv", lambda features: small)
    maps = [mx.nd.array(m) for m in pyramid(rng, channels=8)]
    found = head(mx.nd.array([[0, 0, 0, 20, 20]]), *maps).asnumpy()[0]
    places = (np.arange(56) + 0.5) / 2
    expected = [[bilinear(small.asnumpy()[0], y, x) for x in places] for y in places]
    np.testing.assert_allclose(found, np.moveaxis(expected, 2, 0), atol=1e-5)


def test_gradients_reach_every_parameter_of_the_head_and_the_maps(rng):
    maps = [mx.nd.array(m) for m in pyramid(rng, channels=8)]
    maps[0].attach_grad()
    head = head_of()
    head.hybridize()
    with mx.autograd.record():
        total = (head(mx.nd.array(ROIS), *maps) ** 2).sum()
    total.backward()
    for name, parameter in head.collect_params().items():
        if parameter.grad_req != "null":
            assert parameter.grad().abs().max().asscalar() > 0, name
    assert maps[0].grad.abs().max().asscalar() > 0


def test_a_batch_of_boxes_gives_what_each_gives_alone(rng):
    maps = [mx.nd.array(m) for m in pyramid(rng, channels=8)]
    head = head_of()
    whole = head(mx.nd.array(ROIS), *maps).asnumpy()
    for row, expected in zip(ROIS, whole):
        np.testing.assert_allclose(head(mx.nd.array(row[None]), *maps).asnumpy()[0], expected, atol=1e-4)
