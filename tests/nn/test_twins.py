"""HybridBlocks against their NumPy twins of gluonface.decode."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import (
    HEATMAP_DECODERS,
    LIGHT_ANCHORS,
    anchors_for,
    decode_boxes,
    decode_heatmaps,
    decode_points,
    decode_pose,
    encode_heatmaps,
)
from gluonface.errors import InputError
from gluonface.nn.anchors import AnchorGenerator
from gluonface.nn.coder import BoxDecoder, MeshDecoder, PointDecoder, PoseDecoder, SquareAnchors
from gluonface.nn.heatmap import HeatmapDecoder
from gluonface.targets import encode_mesh, square_anchors

HYBRID = pytest.mark.parametrize("hybrid", [False, True], ids=["imperative", "hybridized"])


def block(cls, hybrid, *args):
    made = cls(*args)
    if hybrid:
        made.hybridize()
    return made


@HYBRID
def test_graph_anchors_are_the_numpy_anchors_for_any_size(hybrid):
    generator = block(AnchorGenerator, hybrid, LIGHT_ANCHORS)
    for height, width in [(64, 64), (100, 77), (1, 9), (320, 640)]:
        found = generator(mx.nd.full((2, 3, height, width), np.nan)).asnumpy()
        assert found.shape[0] == 1
        if np.isnan(found).any():
            pytest.fail("anchors depend on the pixels")
        np.testing.assert_array_equal(found[0], anchors_for((height, width)))


@HYBRID
def test_graph_box_decoding_is_the_numpy_decoding(hybrid):
    anchors = anchors_for((64, 96))
    preds = np.random.default_rng(0).normal(0, 1, (2, len(anchors), 4)).astype(np.float32)
    preds[0, 0] = 1e4
    found = block(BoxDecoder, hybrid)(mx.nd.array(preds), mx.nd.array(anchors[None]))
    np.testing.assert_allclose(found.asnumpy(), decode_boxes(preds, anchors), rtol=1e-5, atol=1e-3)


@HYBRID
def test_graph_point_decoding_is_the_numpy_decoding(hybrid):
    anchors = anchors_for((64, 96))
    preds = np.random.default_rng(1).normal(0, 1, (2, len(anchors), 10)).astype(np.float32)
    found = block(PointDecoder, hybrid, 5)(mx.nd.array(preds), mx.nd.array(anchors[None])).asnumpy()
    expected = decode_points(preds, anchors)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-3)


@HYBRID
def test_graph_squares_are_the_numpy_squares(hybrid, rng):
    low = rng.uniform(-40, 90, (2, 9, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 80, (2, 9, 2))], axis=2).astype(np.float32)
    found = block(SquareAnchors, hybrid)(mx.nd.array(boxes)).asnumpy()
    np.testing.assert_allclose(found, square_anchors(boxes), rtol=1e-5, atol=1e-3)
    sides = found[..., 2:] - found[..., :2]
    np.testing.assert_allclose(sides.prod(axis=2), (boxes[..., 2:] - boxes[..., :2]).prod(axis=2), rtol=1e-3)


@HYBRID
def test_decoded_meshes_are_those_that_were_encoded(hybrid, rng):
    meshes = rng.normal(50, 30, (6, 11, 3)).astype(np.float32)
    anchors = square_anchors(np.column_stack([rng.uniform(0, 50, (6, 2)), rng.uniform(60, 90, (6, 2))]))
    coded = encode_mesh(meshes, anchors)
    found = block(MeshDecoder, hybrid)(*(mx.nd.array(a.reshape(2, 3, -1)) for a in (coded, anchors)))
    np.testing.assert_allclose(found.asnumpy().reshape(meshes.shape), meshes, rtol=1e-4, atol=1e-3)


@HYBRID
def test_graph_pose_decoding_is_the_numpy_decoding(hybrid, rng):
    decoder = block(PoseDecoder, hybrid)
    for scale in (0.1, 3, 60):
        preds = rng.normal(0, scale, (2, 7, 198)).astype(np.float32)
        found = decoder(mx.nd.array(preds)).asnumpy()
        assert found.shape == (2, 7, 3)
        np.testing.assert_allclose(found, decode_pose(preds), atol=1e-3)


@HYBRID
@pytest.mark.parametrize("method", HEATMAP_DECODERS)
def test_graph_heatmap_decoding_is_the_numpy_decoding(hybrid, method, rng):
    points = np.concatenate([rng.uniform(0, 14, (2, 20, 2)), [[[0.1, 0.2], [15.9, 11.9]]] * 2], axis=1)
    heatmaps = encode_heatmaps(points, (12, 16), 1.5) + rng.normal(0, 0.05, (2, 22, 12, 16)).astype(np.float32)
    heatmaps[0, 0] = 0  # no peak
    decoder = block(HeatmapDecoder, False, (12, 16), method)
    decoder.initialize()
    if hybrid:
        decoder.hybridize()
    found, scores = decoder(mx.nd.array(heatmaps))
    expected, expected_scores = decode_heatmaps(heatmaps, method)
    np.testing.assert_allclose(found.asnumpy(), expected, atol=2e-4)
    np.testing.assert_array_equal(scores.asnumpy(), expected_scores)


def test_the_highest_cell_is_right_in_maps_of_any_width():
    for width in (5, 7, 48, 96, 191):
        heatmaps = np.zeros((1, 5 * width, 5, width), np.float32)
        heatmaps.reshape(1, 5 * width, -1)[0, np.arange(5 * width), np.arange(5 * width)] = 1
        decoder = HeatmapDecoder((5, width), "argmax")
        points, _ = decoder(mx.nd.array(heatmaps))
        np.testing.assert_array_equal(points.asnumpy(), decode_heatmaps(heatmaps, "argmax")[0])


def test_a_decoder_refuses_what_it_cannot_read():
    with pytest.raises(InputError, match="expected a decoder among"):
        HeatmapDecoder((8, 8), "median")
    with pytest.raises(InputError, match="at least 5x5"):
        HeatmapDecoder((4, 8))
