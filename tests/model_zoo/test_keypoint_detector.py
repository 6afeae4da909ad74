"""The detector's graph on made-up maps, against the NumPy decoders; on KPNet's own maps: test_kpnet.py."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.box_mapping import boxes_from_points
from gluonface.decode import (
    SCORE_POINTS,
    decode_scale_map,
    encode_heatmaps,
    encode_scale_map,
    face_scores,
    point_peaks,
    points_in_squares,
    square_argmax,
    square_soft_argmax,
    squares_about,
)
from gluonface.errors import InputError
from gluonface.facts import ModelFacts
from gluonface.geometry import FIVE_IN_BOX, nms
from gluonface.model_zoo.keypoint_detector import KeypointDetector
from gluonface.nn.keypoints import SquareArgmax, SquareSoftArgmax

FACTS = ModelFacts("stub", "kpnet", "stub", "fc26", params=0, gf=0.0)


class Stub(mx.gluon.nn.HybridBlock):
    """Takes the maps, side by side, for its input."""

    response_head = True

    def __init__(self, reader, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.reader = reader

    def hybrid_forward(self, F, x):
        return F.slice_axis(x, axis=1, begin=0, end=60), F.slice_axis(x, axis=1, begin=60, end=None)


def detector(reader=None, hybrid=True, **options):
    net = KeypointDetector(Stub(reader or SquareSoftArgmax(5)), FACTS, **options)
    net.initialize()
    if hybrid:
        net.hybridize()
    return net


def run(net, scale_map, response):
    return [found.asnumpy() for found in net(mx.nd.array(np.concatenate([scale_map, response], axis=1)))]


@pytest.mark.parametrize("hybrid", [False, True], ids=["imperative", "hybridized"])
@pytest.mark.parametrize("reader", [SquareSoftArgmax, SquareArgmax])
def test_faces_are_those_of_the_numpy_decoders(hybrid, reader, rng):
    scale_map = rng.normal(-5, 1, (2, 60, 36, 50)).astype(np.float32)
    response = rng.normal(0, 2, (2, 5, 36, 50)).astype(np.float32)
    net = detector(reader(5), hybrid, nms_thresh=0.3, nms_topk=80, score_thresh=0.15, post_nms=-1)
    ids, scores, boxes, landmarks = run(net, scale_map, response)
    read = square_argmax if reader is SquareArgmax else square_soft_argmax
    for b in range(2):
        squares, probabilities = decode_scale_map(scale_map[b], count=80, score_thresh=0.15)
        points = points_in_squares(read(response[b], squares), squares)
        wanted = face_scores(probabilities, point_peaks(response[b], squares)[:, SCORE_POINTS[5]])
        there = np.flatnonzero(probabilities > 0)
        own_boxes = boxes_from_points(points)
        keep = there[nms(own_boxes[there], wanted[there], 0.3)]
        count = int((ids[b] >= 0).sum())
        assert count == len(keep) and 3 < count < len(there) <= 80
        np.testing.assert_allclose(scores[b, :count, 0], wanted[keep], rtol=1e-3)
        np.testing.assert_allclose(boxes[b, :count], own_boxes[keep], atol=0.05)
        np.testing.assert_allclose(landmarks[b, :count], points[keep].reshape(count, -1), atol=0.05)
        assert (scores[b, count:] == -1).all() and (boxes[b, count:] == -1).all()


@pytest.mark.parametrize("hybrid", [False, True], ids=["imperative", "hybridized"])
def test_an_image_with_fewer_cells_than_faces_are_looked_at_is_refused(hybrid):
    net = detector(hybrid=hybrid)
    with pytest.raises(InputError, match=r"at least 100 cells of 2x2 pixels.* got 20x18 pixels"):
        net(mx.nd.zeros((1, 65, 18, 20)))
    net.set_nms(nms_topk=90)
    assert net(mx.nd.zeros((1, 65, 18, 20)))[1].shape == (1, 90, 1)


def test_faces_can_be_scored_by_their_proposals_alone():
    scale_map = np.full((1, 60, 30, 30), -9.0, np.float32)
    # A small square of few cells, whose softmax peaks by itself, and a large one that is more probable.
    scale_map[0, 5, 8, 8], scale_map[0, 35, 20, 20] = 0.0, 1.0
    response = np.zeros((1, 5, 30, 30), np.float32)
    _, by_mean, mean_boxes, _ = run(detector(), scale_map, response)
    _, by_proposal, boxes, _ = run(detector(scoring="proposal"), scale_map, response)
    np.testing.assert_allclose(by_proposal[0, :2, 0], 1 / (1 + np.exp([-1.0, 0.0])), rtol=1e-5)
    assert (by_mean[0, :2, 0] < by_proposal[0, :2, 0]).all()
    np.testing.assert_allclose(boxes[0, :2].sum(axis=0), mean_boxes[0, :2].sum(axis=0), rtol=1e-5)


def test_labelled_faces_drawn_as_maps_are_found_with_their_points():
    centres, sides = np.array([[30, 40], [80, 30], [70, 80.0]]), np.array([24, 12, 40.0])
    boxes = squares_about(centres, sides)
    boxes[:, [0, 2]] = centres[:, :1] + sides[:, None] * (-0.36, 0.36)  # as wide as faces are
    points = boxes[:, None, :2] + FIVE_IN_BOX * (boxes[:, None, 2:] - boxes[:, None, :2])
    scale_map = 14 * encode_scale_map(centres, sides, (56, 60)) - 7
    drawn = encode_heatmaps(points / 2, (56, 60), 0.8).max(axis=0)
    net = detector(score_thresh=0.5)
    ids, scores, found, landmarks = run(net, scale_map[None], 12 * drawn[None])
    assert (ids[0] >= 0).sum() == 3 and (scores[0, :3] > 0.5).all() and (scores <= 1).all()
    order = np.abs(landmarks[0, :3].reshape(3, 1, 10) - points.reshape(1, 3, 10)).mean(axis=2).argmin(axis=1)
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(landmarks[0, :3].reshape(3, 5, 2), points[order], atol=0.8)
    np.testing.assert_allclose(found[0, :3], boxes[order], atol=3)


def test_a_face_with_sure_points_comes_before_one_without_at_the_same_probability():
    scale_map = np.full((1, 60, 30, 30), -9.0, np.float32)
    scale_map[0, 20, 8, 8] = scale_map[0, 20, 22, 22] = 1.0
    response = np.zeros((1, 5, 30, 30), np.float32)
    response[0, :, 22, 22] = 9
    _, scores, boxes, landmarks = run(detector(), scale_map, response)
    assert scores[0, 0, 0] > scores[0, 1, 0] + 0.5
    np.testing.assert_allclose(landmarks[0, 0], 45, atol=0.2)
    assert (boxes[0, 0, :2] > 40).all()
