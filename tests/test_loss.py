import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.loss import AnchorLoss

RNG = np.random.default_rng(0)


def example(batch=2, anchors=40, positives=(3, 5)):
    cls_targets = np.zeros((batch, anchors), np.float32)
    for row, count in zip(cls_targets, positives):
        row[:count] = 1
        row[-4:] = -1
    masks = (cls_targets == 1)[..., None].astype(np.float32)
    preds = [RNG.normal(size=(batch, anchors, width)).astype(np.float32) for width in (2, 4, 10)]
    targets = [cls_targets, *(RNG.normal(size=(batch, anchors, width)).astype(np.float32) for width in (4, 10)), masks]
    return preds, targets, np.full(batch, 1 / sum(positives), np.float32)


def run(loss, preds, targets, normaliser):
    return [part.asnumpy() for part in loss(*(mx.nd.array(a) for a in (*preds, *targets, normaliser)))]


def brute_force(preds, targets, normaliser, ratio=3, minimum=16):
    """The same by loops over images."""
    cls_preds, box_preds, landmark_preds = preds
    cls_targets, box_targets, landmark_targets, masks = targets
    log_probability = cls_preds - np.log(np.exp(cls_preds).sum(axis=-1, keepdims=True))
    smooth = lambda d: np.where(np.abs(d) < 1, d * d / 2, np.abs(d) - 0.5)  # noqa: E731
    parts = []
    for i in range(len(cls_targets)):
        positive, negative = cls_targets[i] == 1, cls_targets[i] == 0
        hardest = np.sort(-log_probability[i][negative, 0])[::-1][: max(ratio * positive.sum(), minimum)]
        cls = -log_probability[i][positive, 1].sum() + hardest.sum()
        box = smooth(box_preds[i] - box_targets[i])[positive].sum()
        landmark = (smooth(landmark_preds[i] - landmark_targets[i]) * masks[i]).sum()
        parts.append(np.array([cls, box, landmark]) * normaliser[i])
    return np.array(parts).T


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_loss_is_the_sum_over_positives_and_hardest_negatives(hybrid):
    loss = AnchorLoss()
    if hybrid:
        loss.hybridize()
    for minimum in (2, 16):
        loss.min_negatives = minimum
        loss._clear_cached_op()
        inputs = example()
        np.testing.assert_allclose(run(loss, *inputs), brute_force(*inputs, minimum=minimum), rtol=1e-4)


def test_ignored_anchors_have_no_gradient():
    preds, targets, normaliser = example()
    preds = [mx.nd.array(p) for p in preds]
    for p in preds:
        p.attach_grad()
    with mx.autograd.record():
        total = sum(part.sum() for part in AnchorLoss()(*preds, *(mx.nd.array(t) for t in (*targets, normaliser))))
    total.backward()
    for p in preds:
        assert not p.grad.asnumpy()[targets[0] == -1].any()
    assert preds[0].grad.asnumpy()[targets[0] == 1].any()


def test_faces_without_points_add_nothing_to_the_point_loss():
    preds, targets, normaliser = example()
    targets[3] = np.zeros_like(targets[3])
    assert not run(AnchorLoss(), preds, targets, normaliser)[2].any()


def test_an_image_without_faces_still_learns_from_its_hardest_background():
    preds, targets, normaliser = example(positives=(0, 4))
    cls, box, landmark = run(AnchorLoss(min_negatives=16), preds, targets, normaliser)
    assert cls[0] > 0 and box[0] == 0 and landmark[0] == 0


def test_weights_scale_their_part():
    inputs = example()
    one, two = run(AnchorLoss(), *inputs), run(AnchorLoss(box_weight=2, landmark_weight=0.5), *inputs)
    np.testing.assert_allclose(two[0], one[0])
    np.testing.assert_allclose(two[1], 2 * one[1], rtol=1e-5)
    np.testing.assert_allclose(two[2], 0.5 * one[2], rtol=1e-5)
