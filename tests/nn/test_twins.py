"""HybridBlocks against their NumPy twins of gluonface.decode."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import LIGHT_ANCHORS, anchors_for, decode_boxes, decode_points
from gluonface.nn.anchors import AnchorGenerator
from gluonface.nn.coder import BoxDecoder, PointDecoder

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
