"""Heads inside artefacts give what the nets' own decoding gives."""

import numpy as np
import pytest

tvm = pytest.importorskip("tvm", reason="needs gluonface[deploy]")

from gluonface._compat import mx  # noqa: E402
from gluonface.decode import LIGHT_ANCHORS, anchors_for  # noqa: E402
from gluonface.deploy import heads  # noqa: E402
from gluonface.deploy.relax import Emitter, relax  # noqa: E402
from gluonface.facts import ModelFacts  # noqa: E402
from gluonface.model_zoo.detector import FaceDetector  # noqa: E402
from gluonface.nn.heads import PoseHead  # noqa: E402
from gluonface.nn.heatmap import SoftArgmax  # noqa: E402

LLVM = tvm.target.Target({"kind": "llvm"})
HW = (64, 96)


def run(emit, *arrays):
    emitter = Emitter()
    variables = [relax.Var(f"x{i}", relax.TensorType(a.shape, "float32")) for i, a in enumerate(arrays)]
    with emitter.bb.function("main", variables):
        with emitter.bb.dataflow():
            result = emitter.bb.emit_output(relax.Tuple(emit(emitter, *variables)))
        emitter.bb.emit_func_output(result)
    executable = relax.build(emitter.bb.get(), target=LLVM)
    found = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, arrays))
    return [array.numpy() for array in found]


class Given(mx.gluon.HybridBlock):
    """A network that gives what it was given, whatever the picture."""

    def __init__(self, predictions, pose_head=None):
        super().__init__()
        self.predictions = [mx.nd.array(p) for p in predictions]
        if pose_head is not None:
            self.pose_head = pose_head

    def hybrid_forward(self, F, x):
        return self.predictions


def predictions(rng, batch, spread):
    count = LIGHT_ANCHORS.count(HW)
    logits = np.stack([np.zeros((batch, count)), rng.normal(-2, spread, (batch, count))], axis=-1)
    return [
        logits.astype(np.float32),
        rng.normal(0, 0.3, (batch, count, 4)).astype(np.float32),
        rng.normal(0, 0.3, (batch, count, 10)).astype(np.float32),
    ]


def posed(rng, batch, channels=12):
    """Vectors of the cells, a pose head for them with random weights, and this head inside of an artefact."""
    cells = rng.normal(0, 1, (batch, LIGHT_ANCHORS.count(HW) // LIGHT_ANCHORS.per_cell, channels)).astype(np.float32)
    head = PoseHead(LIGHT_ANCHORS, channels)
    head.initialize()
    dense = head.dense
    for parameter in (dense.weight, dense.bias):
        parameter.set_data(mx.nd.array(rng.normal(0, 0.5, parameter.shape)))
    weight, bias = dense.weight.data().asnumpy(), dense.bias.data().asnumpy()
    return cells, head, lambda value: heads.Pose(value, weight, bias, head.sides, head.per_cell)


@pytest.mark.parametrize("with_pose", [False, True], ids=["no pose", "pose"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nms_thresh": 0.2, "score_thresh": 0.3},
        {"nms_topk": 20, "post_nms": 5},
        {"nms_topk": -1, "post_nms": -1, "score_thresh": 0.0},
        {"nms_thresh": 1.0, "nms_topk": 40},
        {"score_thresh": 0.9999},
    ],
    ids=lambda settings: " ".join(settings) or "defaults",
)
def test_detections_are_those_of_the_net(settings, with_pose):
    rng = np.random.default_rng(len(settings))
    given, head = predictions(rng, 2, 2.0), None
    if with_pose:
        cells, head, inside = posed(rng, 2)
        given.append(cells)
    facts = ModelFacts("made up", "retinaface", "none", "none", params=0, gf=0.0)
    net = FaceDetector(Given(given, head), LIGHT_ANCHORS, facts, **settings)
    ids, scores, boxes, points, *pose = (a.asnumpy() for a in net(mx.nd.zeros((2, 3, *HW))))
    asked = {"nms_thresh": net.nms_thresh, "nms_topk": net.nms_topk, "post_nms": net.post_nms}

    def emit(e, cls, box, landmark, *cells):
        options = {"more": inside(*cells)} if cells else {}
        anchors = anchors_for(HW, LIGHT_ANCHORS)
        return heads.detections(e, cls, box, landmark, anchors, score_thresh=net.score_thresh, **asked, **options)

    found = run(emit, *given)
    valid = ids[..., 0] >= 0
    assert found[0].shape == scores.shape[:2] and ((found[0] >= 0) == valid).all()
    assert np.abs(found[0] - scores[..., 0])[valid].max(initial=0) < 1e-6
    assert np.abs(found[1] - boxes)[valid].max(initial=0) < 1e-4
    assert np.abs(found[2] - points)[valid].max(initial=0) < 1e-4
    assert (found[1][~valid] == -1).all() and (found[2][~valid] == -1).all()
    assert len(found) == 3 + with_pose
    if with_pose:
        assert np.abs(found[3] - pose[0])[valid].max(initial=0) < 1e-3 and (found[3][~valid] == -1).all()
    if settings.get("score_thresh") != 0.9999:
        assert valid.any()


def test_equal_scores_keep_their_order():
    given = predictions(np.random.default_rng(0), 1, 0.0)
    given[1][:] = 0
    found = run(
        lambda e, *p: heads.detections(
            e, *p, anchors_for(HW, LIGHT_ANCHORS), nms_thresh=1.0, nms_topk=-1, post_nms=-1, score_thresh=0.02
        ),
        *given,
    )
    assert np.abs(found[1][0] - anchors_for(HW, LIGHT_ANCHORS)).max() < 1e-4


@pytest.mark.parametrize("points", [5, 68])
def test_soft_argmax_is_that_of_the_net(points):
    rng = np.random.default_rng(points)
    maps = rng.normal(0, 0.05, (2, points, 7, 6)).astype(np.float32)
    maps[:, np.arange(points), rng.integers(0, 7, points), rng.integers(0, 6, points)] += 1
    maps[0, 0] = 40  # flat and high: nothing may overflow
    block = SoftArgmax((7, 6))
    block.initialize()
    expected = block(mx.nd.array(maps)).asnumpy() * 4
    places, scores = run(
        lambda e, m: heads.soft_argmax(e, m, block.beta, 4), np.ascontiguousarray(maps.transpose(0, 2, 3, 1))
    )
    assert np.abs(places - expected).max() < 1e-4
    assert (scores == maps.max(axis=(2, 3))).all()
