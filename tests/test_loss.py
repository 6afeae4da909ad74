import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import encode_heatmaps
from gluonface.errors import InputError
from gluonface.loss import AnchorLoss, HeatmapLoss

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


# heatmaps


def heatmap_case(batch=2, points=3, side=12):
    places = RNG.uniform(2, side - 2, (batch, points, 2)).astype(np.float32)
    targets = encode_heatmaps(places, (side, side), 1.5)
    masks = np.ones((batch, points), np.float32)
    return targets, places, masks


def heatmap_loss(loss, heatmaps, *targets):
    loss.initialize()
    return [part.asnumpy() for part in loss(*(mx.nd.array(a) for a in (heatmaps, *targets)))]


def test_the_mean_squared_error_of_heatmaps_is_that_of_numpy_over_the_known_points():
    targets, places, masks = heatmap_case()
    masks[0, 1] = 0
    heatmaps = targets + RNG.normal(0, 0.1, targets.shape).astype(np.float32)
    found, place = heatmap_loss(HeatmapLoss((12, 12)), heatmaps, targets, places, masks)
    squares = 100 * ((heatmaps - targets) ** 2).mean(axis=(2, 3))
    np.testing.assert_allclose(found, [squares[0, [0, 2]].mean(), squares[1].mean()], rtol=1e-4)
    assert place.tolist() == [0, 0]


def test_the_adaptive_wing_loss_is_the_published_formula():
    targets, places, masks = heatmap_case(1, 1)
    heatmaps = targets + RNG.choice([-0.9, -0.3, 0.05, 0.4, 0.7], targets.shape).astype(np.float32)
    found, _ = heatmap_loss(HeatmapLoss((12, 12), "awing"), heatmaps, targets, places, masks)
    omega, epsilon, alpha, theta = 14, 1, 2.1, 0.5
    total = 0.0
    wide = np.pad(targets[0, 0], 1)
    for y in range(12):
        for x in range(12):
            t, d = float(targets[0, 0, y, x]), abs(float(heatmaps[0, 0, y, x]) - float(targets[0, 0, y, x]))
            if d < theta:
                value = omega * np.log(1 + (d / epsilon) ** (alpha - t))
            else:
                a = omega / (1 + (theta / epsilon) ** (alpha - t)) * (alpha - t)
                a *= (theta / epsilon) ** (alpha - t - 1) / epsilon
                value = a * d - (theta * a - omega * np.log(1 + (theta / epsilon) ** (alpha - t)))
            total += value * (11 if wide[y : y + 3, x : x + 3].max() >= 0.2 else 1)
    np.testing.assert_allclose(found, [total / 144], rtol=1e-4)


def test_the_place_part_is_the_distance_of_soft_argmax_from_points_inside_the_crop():
    targets, places, masks = heatmap_case(1, 2, side=24)
    masks[0, 1] = 0.5  # known, but outside
    _, place = heatmap_loss(HeatmapLoss((24, 24), place_weight=2), targets, targets, places + np.float32([3, 4]), masks)
    np.testing.assert_allclose(place, [10], rtol=0.05)


@pytest.mark.parametrize("kind", ["mse", "awing"])
def test_gradients_of_heatmap_losses_are_finite_also_at_the_right_answer_and_for_faces_without_points(kind):
    targets, places, masks = heatmap_case()
    masks[1] = 0
    loss = HeatmapLoss((12, 12), kind, place_weight=1)
    loss.initialize()
    for heatmaps in (targets, np.zeros_like(targets), RNG.normal(0, 3, targets.shape)):
        x = mx.nd.array(heatmaps)
        x.attach_grad()
        with mx.autograd.record():
            total = sum(part.sum() for part in loss(x, *(mx.nd.array(a) for a in (targets, places, masks))))
        total.backward()
        gradient = x.grad.asnumpy()
        assert np.isfinite(total.asnumpy()).all() and np.isfinite(gradient).all()
        assert not gradient[1].any()


@pytest.mark.parametrize("kind", ["mse", "awing"])
def test_descending_a_heatmap_loss_draws_the_gaussian(kind):
    targets, places, masks = heatmap_case(1, 1)
    loss = HeatmapLoss((12, 12), kind)
    loss.initialize()
    x = mx.nd.zeros(targets.shape)
    x.attach_grad()
    for _ in range(400):
        with mx.autograd.record():
            total = loss(x, *(mx.nd.array(a) for a in (targets, places, masks)))[0]
        total.backward()
        x -= 0.05 * mx.nd.sign(x.grad) if kind == "awing" else 0.3 * x.grad
    assert np.abs(x.asnumpy() - targets).max() < 0.1


def test_an_unknown_heatmap_loss_is_refused():
    with pytest.raises(InputError, match="mse, awing, got 'l1'"):
        HeatmapLoss((8, 8), "l1")
