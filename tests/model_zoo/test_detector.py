import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import LIGHT_ANCHORS, anchors_for, decode_boxes, decode_points, decode_pose
from gluonface.errors import WeightsError
from gluonface.geometry import nms
from gluonface.model_zoo import ModelFacts, detector
from gluonface.model_zoo.detector import FaceDetector
from gluonface.nn.blocks import PartlyUsed
from gluonface.nn.heads import PoseHead

FACTS = ModelFacts("test", "test", "none", "none", params=0, gf=0)


class Fixed(mx.gluon.nn.HybridBlock):
    """A network that predicts what it was given, whatever the image."""

    def __init__(self, *preds):
        super().__init__()
        with self.name_scope():
            for name, pred in zip("cbl", preds):
                setattr(self, name, self.params.get_constant(name, mx.nd.array(pred)))

    def hybrid_forward(self, F, x, c, b, l):
        return c, b, l


class FixedWithPose(PartlyUsed, Fixed):
    """The same, with a pose head that is worked out for cells it was given."""

    def __init__(self, cells, *preds):
        super().__init__(*preds)
        with self.name_scope():
            self.cells = self.params.get_constant("cells", mx.nd.array(cells))
            self.pose_head = PoseHead(LIGHT_ANCHORS, cells.shape[-1])

    def hybrid_forward(self, F, x, c, b, l, cells):
        return c, b, l, cells


def made(cls, box, landmark, **options):
    net = FaceDetector(Fixed(cls, box, landmark), LIGHT_ANCHORS, FACTS, **options)
    net.initialize()
    return net


@pytest.fixture
def preds():
    rng = np.random.default_rng(0)
    count = LIGHT_ANCHORS.count((64, 64))
    return [rng.normal(0, s, (2, count, w)).astype(np.float32) for s, w in ((3, 2), (0.3, 4), (0.3, 10))]


X = mx.nd.zeros((2, 3, 64, 64))


def test_a_crowd_is_found_though_dozens_of_boxes_about_each_face_are_sure(rng):
    """200 faces of 50 boxes each; the boxes of the surest few faces alone would fill a list of a thousand."""
    size_hw, faces, copies = (480, 640), 200, 50
    anchors = anchors_for(size_hw)
    places = np.stack(np.meshgrid(np.arange(20) * 30 + 15, np.arange(10) * 30 + 15), axis=2).reshape(-1, 2)
    rows = rng.choice(len(anchors), (faces, copies), replace=False)
    cls, box = np.zeros((1, len(anchors), 2), np.float32), np.zeros((1, len(anchors), 4), np.float32)
    cls[..., 0] = 20
    cls[0, rows, 1] = 20 + np.linspace(9, 3, faces)[:, None] + rng.uniform(0, 0.01, rows.shape)
    side = (anchors[:, 2] - anchors[:, 0])[rows][..., None]
    centre = (anchors[:, :2] + anchors[:, 2:])[rows] / 2
    box[0, rows, :2] = (places[:, None] + rng.normal(0, 0.5, centre.shape) - centre) / side
    box[0, rows, 2:] = np.log(20 / side)
    net = made(cls, box, np.zeros((1, len(anchors), 10), np.float32))
    net.hybridize()
    ids, _, boxes, _ = (o.asnumpy()[0] for o in net(mx.nd.zeros((1, 3, *size_hw))))
    assert (ids >= 0).sum() == faces
    middles = (boxes[:faces, :2] + boxes[:faces, 2:]) / 2
    assert len({tuple(place) for place in np.round((middles - 15) / 30)}) == faces


def test_suppression_looks_at_as_many_boxes_as_have_a_score_and_at_no_more_than_it_may(preds, monkeypatch):
    asked, suppress = [], detector.suppress
    monkeypatch.setattr(detector, "suppress", lambda *a: (asked.append(a[3]), suppress(*a))[1])
    count = int((mx.nd.array(preds[0]).softmax(axis=-1).asnumpy()[..., 1] >= 0.3).sum(axis=1).max())
    net = made(*preds, score_thresh=0.3)
    expected = [o.asnumpy() for o in net(X)]
    assert count <= asked[-1] < 2 * count
    for topk in (-1, count, 5):
        net.set_nms(0.4, topk, 750, 0.3)
        found = [o.asnumpy() for o in net(X)]
        assert asked[-1] == (topk if topk > 0 else asked[0])
        if topk != 5:
            for one, wanted in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, wanted)
    assert (found[0] >= 0).sum(axis=1).max() <= 5
    net.set_nms(0.4, -1, 750, 0.3)
    sure = [o.asnumpy() for o in net.finish(X, net.network(X), 0.9)]
    wanted = expected[1][..., 0] >= 0.9
    assert asked[-1] < asked[0] and wanted.any()
    for one, all_of_them in zip(sure, expected, strict=True):
        np.testing.assert_array_equal(one[wanted], all_of_them[wanted])
    net.set_nms(score_thresh=1.0)
    assert (net(X)[0].asnumpy() == -1).all() and asked[-1] == 64


def test_boxes_are_decoded_of_anchors_with_a_score_alone_and_as_many_rows_are_given_as_ever(preds, monkeypatch):
    decoded, decode = [], detector.BoxDecoder.forward
    monkeypatch.setattr(
        detector.BoxDecoder, "forward", lambda self, *a: (decoded.append([p.shape[1] for p in a]), decode(self, *a))[1]
    )
    net = made(*preds, score_thresh=0.0)
    everything, count = [o.asnumpy() for o in net(X)], preds[0].shape[1]
    assert decoded == [[count, count]] and count > 64
    for post_nms, least, rows in ((7, 0.98, 64), (count - 1, 0.98, count - 1), (-1, 0.98, count), (7, 0.0, count)):
        net.set_nms(0.4, -1, post_nms, 0.0)
        few = [o.asnumpy() for o in net.finish(X, net.network(X), least)]
        assert decoded[-1] == [rows, rows]
        given = post_nms if post_nms > 0 else count
        sure = everything[1][:, :given, 0] >= least
        assert sure.any()
        for one, wanted in zip(few, everything, strict=True):
            assert one.shape[1] == given
            np.testing.assert_allclose(one[sure], wanted[:, :given][sure], rtol=1e-6)


@pytest.mark.parametrize("hybrid", [False, True])
def test_detections_are_those_of_numpy_decoding_and_nms(preds, hybrid):
    net = made(*preds, nms_thresh=0.4, nms_topk=-1, post_nms=-1, score_thresh=0.3)
    if hybrid:
        net.hybridize()
    ids, scores, boxes, landmarks = (o.asnumpy() for o in net(X))
    anchors = anchors_for((64, 64))
    for i in range(2):
        probability = np.exp(preds[0][i, :, 1]) / np.exp(preds[0][i]).sum(axis=1)
        all_boxes = decode_boxes(preds[1][i], anchors)
        chosen = np.flatnonzero(probability > 0.3)
        chosen = chosen[nms(all_boxes[chosen], probability[chosen], 0.4)]
        valid = ids[i, :, 0] >= 0
        assert valid.sum() == len(chosen) > 5
        np.testing.assert_allclose(scores[i, valid, 0], probability[chosen], rtol=1e-5)
        np.testing.assert_allclose(boxes[i, valid], all_boxes[chosen], atol=1e-3)
        expected = decode_points(preds[2][i], anchors)[chosen].reshape(-1, 10)
        np.testing.assert_allclose(landmarks[i, valid], expected, atol=1e-3)
        assert valid[: len(chosen)].all() and (np.diff(scores[i, valid, 0]) <= 0).all()
        assert (boxes[i, ~valid] == -1).all() and (scores[i, ~valid] == -1).all()


def test_outputs_have_the_hosts_form_and_plot_with_its_tools(preds):
    net = made(*preds, post_nms=10)
    ids, scores, boxes, landmarks = net(X)
    assert [o.shape for o in (ids, scores, boxes, landmarks)] == [(2, 10, 1), (2, 10, 1), (2, 10, 4), (2, 10, 10)]
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from gluonface._compat import import_gluoncv

    utils = import_gluoncv().utils
    axes = utils.viz.plot_bbox(
        np.zeros((64, 64, 3), np.uint8), boxes[0], scores[0], ids[0], class_names=net.classes, thresh=0.5
    )
    assert len(axes.patches) == (scores[0].asnumpy() >= 0.5).sum() > 0


CELLS = 6


def with_pose(preds, **options):
    """A detector with pose, and the pose (B, N, 3) of all its anchors in NumPy."""
    rng = np.random.default_rng(1)
    count = preds[0].shape[1]
    cells = rng.normal(0, 1, (2, count // 2, CELLS)).astype(np.float32)
    net = FaceDetector(FixedWithPose(cells, *preds), LIGHT_ANCHORS, FACTS, **options)
    net.initialize()
    dense = net.network.pose_head.dense
    dense.weight.set_data(mx.nd.array(rng.normal(0, 1, dense.weight.shape)))
    dense.bias.set_data(mx.nd.zeros(dense.bias.shape))
    weight = dense.weight.data().asnumpy().reshape(6, 198, CELLS)
    anchors = anchors_for((64, 64))
    kind = np.log2((anchors[:, 2] - anchors[:, 0]) / 16).round().astype(int)
    logits = np.einsum("nwc,bnc->bnw", weight[kind], np.repeat(cells, 2, axis=1))
    return net, decode_pose(logits)


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_pose_of_a_row_is_that_of_its_own_anchor(preds, hybrid):
    net, poses = with_pose(preds, nms_thresh=0.4, nms_topk=-1, post_nms=-1, score_thresh=0.3)
    if hybrid:
        net.hybridize()
    ids, scores, boxes, landmarks, pose = (o.asnumpy() for o in net(X))
    assert pose.shape == (2, poses.shape[1], 3)
    for i in range(2):
        probability = np.exp(preds[0][i, :, 1]) / np.exp(preds[0][i]).sum(axis=1)
        chosen = np.flatnonzero(probability > 0.3)
        chosen = chosen[nms(decode_boxes(preds[1][i], anchors_for((64, 64)))[chosen], probability[chosen], 0.4)]
        assert len(chosen) > 5 and (np.diff(chosen) < 0).any()
        np.testing.assert_allclose(pose[i, : len(chosen)], poses[i, chosen], atol=1e-2)
        assert (pose[i, len(chosen) :] == -1).all() and (ids[i, len(chosen) :] == -1).all()
    plain = [o.asnumpy() for o in made(*preds, nms_thresh=0.4, nms_topk=-1, post_nms=-1, score_thresh=0.3)(X)]
    for found, wanted in zip((ids, scores, boxes, landmarks), plain, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_where_there_is_no_face_there_is_no_pose(preds):
    net, _ = with_pose(preds, score_thresh=1.0, post_nms=4)
    outputs = [o.asnumpy() for o in net(X)]
    assert [o.shape for o in outputs] == [(2, 4, 1), (2, 4, 1), (2, 4, 4), (2, 4, 10), (2, 4, 3)]
    assert all((o == -1).all() for o in outputs)


def test_a_net_with_pose_exported_whole_gives_the_same_poses(preds, tmp_path):
    net, _ = with_pose(preds, post_nms=10)
    net.hybridize()
    expected = [o.asnumpy() for o in net(X)]
    net.export(str(tmp_path / "net"))
    block = mx.gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    for found, wanted in zip(block(X), expected, strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-5, atol=1e-4)


def test_a_hybridised_net_follows_set_nms(preds):
    net = made(*preds, nms_topk=-1, post_nms=-1, score_thresh=0.3)
    net.hybridize()
    counts = []
    for thresh in (0.1, 0.4, 1):
        net.set_nms(nms_thresh=thresh, nms_topk=-1, post_nms=-1, score_thresh=0.3)
        counts.append(int((net(X)[0].asnumpy() >= 0).sum()))
    assert counts[0] < counts[1] < counts[2]
    net.set_nms(nms_thresh=1, nms_topk=-1, post_nms=3)
    assert net(X)[0].shape == (2, 3, 1)


def test_a_net_exported_whole_gives_the_same_detections(preds, tmp_path):
    net = made(*preds, post_nms=10)
    net.hybridize()
    expected = [o.asnumpy() for o in net(X)]
    net.export(str(tmp_path / "net"))
    block = mx.gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    for found, wanted in zip(block(X), expected):
        np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-6)


def test_weights_that_do_not_fit_leave_the_net_unchanged(tmp_path):
    def dense(units):
        net = FaceDetector(mx.gluon.nn.Dense(units, in_units=3), LIGHT_ANCHORS, FACTS)
        net.initialize(mx.init.Normal(1))
        return net

    net, file = dense(4), str(tmp_path / "other.params")
    dense(5).save_parameters(file)
    before = net.network.weight.data().asnumpy()
    with pytest.raises(WeightsError, match="do not fit FaceDetector: of another shape.*network.bias: expected"):
        net.load_parameters(file)
    np.testing.assert_array_equal(net.network.weight.data().asnumpy(), before)
    good = dense(4)
    good.network.weight.data()[0] = np.nan
    good.save_parameters(file)
    with pytest.raises(WeightsError, match="not finite"):
        net.load_parameters(file)
