import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import POSE_BINS, decode_pose, encode_heatmaps, encode_pose
from gluonface.errors import InputError
from gluonface.loss import (
    AnchorLoss,
    DensePointsLoss,
    FirstHeadLoss,
    FocalLoss,
    HeatmapLoss,
    KeypointMaskLoss,
    MapLoss,
    MeshLoss,
    PoseLoss,
    SmallBoxLoss,
    SquarePointsLoss,
    TagLoss,
    UncertaintyWeights,
)
from gluonface.targets import encode_cells

RNG = np.random.default_rng(0)


def example(batch=2, anchors=40, positives=(3, 5)):
    cls_targets = np.zeros((batch, anchors), np.float32)
    for row, count in zip(cls_targets, positives):
        row[:count] = 1
        row[-4:] = -1
    masks = (cls_targets == 1)[..., None].astype(np.float32)
    preds = [RNG.normal(size=(batch, anchors, width)).astype(np.float32) for width in (2, 4, 10)]
    targets = [cls_targets, *(RNG.normal(size=(batch, anchors, width)).astype(np.float32) for width in (4, 10)), masks]
    normalisers = [np.full(batch, factor / sum(positives), np.float32) for factor in (1, 1.5)]
    return preds, targets, normalisers


def run(loss, preds, targets, normalisers):
    return [part.asnumpy() for part in loss(*(mx.nd.array(a) for a in (*preds, *targets, *normalisers)))]


def brute_force(preds, targets, normalisers, ratio=3, minimum=16):
    """The same by loops over images."""
    per_anchor, per_point = normalisers
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
        parts.append([cls * per_anchor[i], box * per_anchor[i], landmark * per_point[i]])
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
    preds, targets, normalisers = example()
    preds = [mx.nd.array(p) for p in preds]
    for p in preds:
        p.attach_grad()
    with mx.autograd.record():
        total = sum(part.sum() for part in AnchorLoss()(*preds, *(mx.nd.array(t) for t in (*targets, *normalisers))))
    total.backward()
    for p in preds:
        assert not p.grad.asnumpy()[targets[0] == -1].any()
    assert preds[0].grad.asnumpy()[targets[0] == 1].any()


def test_faces_without_points_add_nothing_to_the_point_loss():
    preds, targets, normalisers = example()
    targets[3] = np.zeros_like(targets[3])
    assert not run(AnchorLoss(), preds, targets, normalisers)[2].any()


def test_an_image_without_faces_still_learns_from_its_hardest_background():
    preds, targets, normalisers = example(positives=(0, 4))
    cls, box, landmark = run(AnchorLoss(min_negatives=16), preds, targets, normalisers)
    assert cls[0] > 0 and box[0] == 0 and landmark[0] == 0


def test_weights_scale_their_part():
    inputs = example()
    one, two = run(AnchorLoss(), *inputs), run(AnchorLoss(box_weight=2, landmark_weight=0.5), *inputs)
    np.testing.assert_allclose(two[0], one[0])
    np.testing.assert_allclose(two[1], 2 * one[1], rtol=1e-5)
    np.testing.assert_allclose(two[2], 0.5 * one[2], rtol=1e-5)


def test_faces_that_train_points_alone_add_to_the_point_loss_only():
    preds, targets, normalisers = example()
    without = run(AnchorLoss(), preds, targets, normalisers)
    targets[3] = targets[3].copy()
    targets[3][0, -4:] = 1  # ignored anchors with points
    cls, box, landmark = run(AnchorLoss(), preds, targets, normalisers)
    np.testing.assert_array_equal([cls, box], without[:2])
    assert landmark[0] > without[2][0] and landmark[1] == without[2][1]


# focal loss


def focal_by_loops(preds, targets, normaliser, alpha, gamma):
    """Eq. 2 and 3, anchor by anchor."""
    (cls_preds, box_preds, _), (cls_targets, box_targets, *_) = preds, targets
    parts = np.zeros((2, len(cls_targets)))
    for b, n in np.ndindex(cls_targets.shape):
        p = 1 / (1 + np.exp(float(cls_preds[b, n, 0] - cls_preds[b, n, 1])))
        if cls_targets[b, n] == 1:
            parts[0, b] -= alpha * (1 - p) ** gamma * np.log(p)
            for d in np.abs(box_preds[b, n] - box_targets[b, n]):
                parts[1, b] += d * d / 2 if d < 1 else d - 0.5
        elif cls_targets[b, n] == 0:
            parts[0, b] -= (1 - alpha) * p**gamma * np.log(1 - p)
    return parts * normaliser


def run_focal(loss, preds, targets, normaliser):
    return [part.asnumpy() for part in loss(*map(mx.nd.array, (*preds[:2], *targets[:2], normaliser)))]


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (0.25, 0), (0.6, 1.5)])
def test_the_focal_loss_is_that_of_the_paper(hybrid, alpha, gamma):
    loss = FocalLoss() if (alpha, gamma) == (0.25, 2) else FocalLoss(alpha, gamma)
    if hybrid:
        loss.hybridize()
    preds, targets, (normaliser, _) = example()
    found = run_focal(loss, preds, targets, normaliser)
    np.testing.assert_allclose(found, focal_by_loops(preds, targets, normaliser, alpha, gamma), rtol=1e-4)


def test_focal_losses_of_three_anchors_by_hand():
    cls_preds = np.log([[[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]]])  # probabilities of a face: .9, .2, .5
    arrays = cls_preds, np.zeros((1, 3, 4)), np.array([[1, 0, -1]]), np.full((1, 3, 4), 2), np.array([0.5])
    cls, box = (part.asscalar() for part in FocalLoss(box_weight=3)(*map(mx.nd.array, arrays)))
    assert cls == pytest.approx(-0.5 * (0.25 * 0.1**2 * np.log(0.9) + 0.75 * 0.2**2 * np.log(0.8)), rel=1e-4)
    assert box == pytest.approx(0.5 * 3 * 4 * 1.5, rel=1e-6)


def test_the_box_part_is_that_of_the_loss_with_mining():
    preds, targets, normalisers = example()
    for smooth_at in (1.0, 1 / 9):
        mined = run(AnchorLoss(box_weight=2, smooth_at=smooth_at), preds, targets, normalisers)[1]
        focal = run_focal(FocalLoss(box_weight=2, smooth_at=smooth_at), preds, targets, normalisers[0])[1]
        np.testing.assert_array_equal(focal, mined)


def focal_gradients(preds, targets, normaliser, loss=None):
    x = [mx.nd.array(p) for p in preds[:2]]
    for p in x:
        p.attach_grad()
    with mx.autograd.record():
        parts = (loss or FocalLoss())(*x, *map(mx.nd.array, (*targets[:2], normaliser)))
        total = parts[0].sum() + parts[1].sum()
    total.backward()
    return total.asscalar(), [p.grad.asnumpy() for p in x]


def test_gradients_of_the_focal_loss_are_its_differences_and_ignored_anchors_have_none():
    preds, targets, (normaliser, _) = example(1, 12, (3,))
    _, (cls, box) = focal_gradients(preds, targets, normaliser)
    step = 1e-3
    for n in range(12):
        for side in (0, 1):
            up, down = preds[0].astype(np.float64), preds[0].astype(np.float64)
            up[0, n, side] += step
            down[0, n, side] -= step
            high, low = (focal_by_loops((p, *preds[1:]), targets, normaliser, 0.25, 2)[0, 0] for p in (up, down))
            assert cls[0, n, side] == pytest.approx((high - low) / (2 * step), abs=1e-5)
    assert not cls[targets[0] == -1].any() and not box[targets[0] != 1].any()
    assert box[targets[0] == 1].all()


def test_anchors_that_are_wrong_beyond_measure_have_finite_gradients_and_right_ones_none():
    logits = np.array([[[0, -300], [0, 300], [0, 300], [0, -300]]], np.float32)
    targets = np.array([[1, 0, 1, 0]], np.float32), np.zeros((1, 4, 4), np.float32)
    total, (cls, _) = focal_gradients((logits, targets[1]), targets, np.ones(1))
    assert total == pytest.approx(0.25 * 300 + 0.75 * 300, rel=1e-5)
    np.testing.assert_allclose(cls[0], [[0.25, -0.25], [-0.75, 0.75], [0, 0], [0, 0]], atol=1e-3)


def test_an_easy_anchor_counts_less_than_by_cross_entropy_and_a_hard_one_about_as_much():
    targets = np.array([[1]], np.float32), np.zeros((1, 1, 4), np.float32)
    shares = []
    for logit in (4.0, -4.0):
        preds = np.array([[[0, logit]]]), targets[1]
        focal, entropy = (run_focal(FocalLoss(0.25, g), preds, targets, np.ones(1))[0][0] for g in (2, 0))
        shares.append(focal / entropy)
    assert shares[0] < 0.001 and shares[1] > 0.9


def test_descending_the_focal_loss_finds_faces_and_boxes():
    preds, targets, _ = example(1, 12, (3,))
    x = [mx.nd.array(p) for p in preds[:2]]
    others = [mx.nd.array(a) for a in (*targets[:2], np.ones(1))]
    for p in x:
        p.attach_grad()
    for _ in range(400):
        with mx.autograd.record():
            total = sum(part.sum() for part in FocalLoss()(*x, *others))
        total.backward()
        for p in x:
            p -= 0.5 * p.grad
    logits, boxes = (p.asnumpy()[0] for p in x)
    known = targets[0][0] >= 0
    np.testing.assert_array_equal(logits[known].argmax(axis=1), targets[0][0][known])
    np.testing.assert_allclose(boxes[:3], targets[1][0, :3], atol=1e-3)


# landmarks in proposals


def mask_case():
    logits = RNG.normal(0, 2, (2, 3, 4, 5, 6)).astype(np.float32)
    cells = RNG.integers(0, 30, (2, 3, 4)).astype(np.float32)
    cells[0, 0, :2], cells[0, 2], cells[1, 1, 3] = -1, -1, 29
    return logits, cells, np.array([0.5, 2.0])


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("weight", [0.25, 1.5])
def test_the_loss_of_masks_is_equation_4_times_its_weight(hybrid, weight):
    logits, cells, normaliser = mask_case()
    loss = KeypointMaskLoss((5, 6)) if weight == 0.25 else KeypointMaskLoss((5, 6), weight)
    if hybrid:
        loss.hybridize()
    wanted = np.zeros(2)
    for b, p, k in np.argwhere(cells >= 0):
        y, x = divmod(int(cells[b, p, k]), 6)
        wanted[b] -= np.log(np.exp(logits[b, p, k, y, x]) / np.exp(logits[b, p, k]).sum()) / 4
    for layout in (logits, logits.reshape(6, 4, 5, 6)):
        found = loss(*map(mx.nd.array, (layout, cells, normaliser))).asnumpy()
        np.testing.assert_allclose(found, weight * wanted * normaliser, rtol=1e-4)
        loss._clear_cached_op()


def test_the_gradient_of_a_mask_is_its_softmax_less_the_one_hot_pixel_and_unknown_points_have_none():
    logits, cells, normaliser = mask_case()
    x = mx.nd.array(logits)
    x.attach_grad()
    with mx.autograd.record():
        total = KeypointMaskLoss((5, 6), 1.0)(x, *map(mx.nd.array, (cells, normaliser))).sum()
    total.backward()
    flat = logits.reshape(2, 3, 4, 30)
    wanted = np.exp(flat) / np.exp(flat).sum(axis=-1, keepdims=True) - np.eye(30)[cells.astype(int)]
    wanted *= (cells >= 0)[..., None] * normaliser[:, None, None, None] / 4
    np.testing.assert_allclose(x.grad.asnumpy().reshape(flat.shape), wanted, atol=1e-5)
    assert (wanted[cells >= 0] != 0).any() and not x.grad.asnumpy()[cells < 0].any()


def test_an_image_whose_proposals_have_no_points_adds_nothing():
    logits, cells, normaliser = mask_case()
    cells[1] = -1
    found = KeypointMaskLoss((5, 6))(*map(mx.nd.array, (logits * 100, cells, normaliser))).asnumpy()
    assert found[0] > 0 and found[1] == 0


def test_a_head_that_knows_nothing_loses_the_logarithm_of_the_number_of_cells():
    loss = KeypointMaskLoss()(mx.nd.zeros((1, 1, 5, 56, 56)), mx.nd.array([[[0, 7, 3135, 55, 1000]]]), mx.nd.ones(1))
    assert loss.asscalar() == pytest.approx(0.25 * np.log(56 * 56), rel=1e-5)


def test_descending_the_loss_of_masks_puts_the_highest_cell_on_the_point():
    points, box = RNG.uniform([20, 40], [60, 120], (1, 3, 2)), np.array([[20, 40, 60, 120]])
    cells = mx.nd.array(encode_cells(points, box, (16, 16))[None])
    x = mx.nd.array(RNG.normal(0, 1, (1, 1, 3, 16, 16)))
    x.attach_grad()
    for _ in range(100):
        with mx.autograd.record():
            total = KeypointMaskLoss((16, 16))(x, cells, mx.nd.ones(1))
        total.backward()
        x -= 20 * x.grad
    assert total.asscalar() < 0.02
    best = x.asnumpy().reshape(3, -1).argmax(axis=1)
    found = np.stack([best % 16, best // 16], axis=1) + 0.5
    assert (np.abs(found * (40 / 16, 80 / 16) + (20, 40) - points[0]) <= (40 / 32, 80 / 32)).all()


# head pose


def pose_case(batch=2, anchors=6):
    preds = RNG.normal(0, 2, (batch, anchors, 3 * POSE_BINS)).astype(np.float32)
    poses = RNG.uniform(-99, 99, (batch, anchors, 3)).astype(np.float32)
    poses[0, 0] = [-99, 0, 99]  # the ends and an edge of a bin
    masks = (RNG.uniform(size=(batch, anchors)) < 0.6).astype(np.float32)
    masks[0, :2] = 1, 0
    return preds, poses, masks, np.array([0.5, 0.25], np.float32)


def pose_by_loops(preds, poses, masks, normaliser, beta):
    """Eq. 1, angle by angle."""
    totals = np.zeros(len(preds))
    for i, k in np.argwhere(masks):
        for angle in range(3):
            logits = preds[i, k, angle * POSE_BINS : (angle + 1) * POSE_BINS].astype(np.float64)
            entropy = np.log(np.exp(logits).sum()) - logits[encode_pose(poses[i, k, angle])]
            totals[i] += entropy + beta * (decode_pose(preds[i, k])[angle] - poses[i, k, angle]) ** 2
    return totals * normaliser


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("beta", [0.001, 0.0, 0.5])
def test_the_pose_loss_is_cross_entropy_over_bins_and_the_squared_error_of_the_expected_angle(hybrid, beta):
    loss = PoseLoss() if beta == 0.001 else PoseLoss(beta)
    if hybrid:
        loss.hybridize()
    inputs = pose_case()
    found = loss(*map(mx.nd.array, inputs)).asnumpy()
    assert found.shape == (2,)
    np.testing.assert_allclose(found, pose_by_loops(*inputs, beta), rtol=1e-4)


def test_only_anchors_with_a_pose_have_a_gradient():
    preds, poses, masks, normaliser = pose_case()
    x = mx.nd.array(preds)
    x.attach_grad()
    with mx.autograd.record():
        total = PoseLoss()(x, *map(mx.nd.array, (poses, masks, normaliser))).sum()
    total.backward()
    np.testing.assert_array_equal(np.abs(x.grad.asnumpy()).sum(axis=2) > 0, masks == 1)
    masks = np.zeros_like(masks)
    assert not PoseLoss()(*map(mx.nd.array, (preds, poses, masks, normaliser))).asnumpy().any()


def test_descending_the_pose_loss_finds_the_pose():
    poses = np.array([[[-70.0, 12.0, 3.0], [30.0, -45.0, 88.0]]], np.float32)
    others = [mx.nd.array(a) for a in (poses, np.ones((1, 2)), np.ones(1))]
    loss, x = PoseLoss(), mx.nd.zeros((1, 2, 3 * POSE_BINS))
    x.attach_grad()
    for _ in range(200):
        with mx.autograd.record():
            total = loss(x, *others)
        total.backward()
        x -= 0.5 * x.grad
    # The cross-entropy draws to the middle of the bin, the squared error to the angle.
    assert np.abs(decode_pose(x.asnumpy()) - poses).max() < 2.5


# weights learnt with the network

KINDS = {"cls": "classification", "box": "regression", "pose": "regression"}
PARTS = {"cls": 0.4, "box": 0.03, "pose": 12.0}


def test_dense_points_are_smooth_l1_over_the_known_faces_of_the_chosen_anchors():
    rng = np.random.default_rng(0)
    loss = DensePointsLoss(num_points=7, in_channels=4, per_cell=2, smooth_at=0.5)
    loss.initialize()
    cells, targets = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 3, 14))
    anchors, masks, factors = np.array([[0, 9, 4], [3, 3, 0]]), np.array([[1, 1, 0], [0, 1, 0]]), np.array([1.0, 2.0])
    found = loss(*(mx.nd.array(a) for a in (cells, anchors, targets, masks, factors))).asnumpy()
    weight, bias = (p.data().asnumpy() for p in (loss.dense.weight, loss.dense.bias))
    expected = np.zeros(2)
    for image, row in np.argwhere(masks):
        off = np.abs(cells[image, anchors[image, row] // 2] @ weight.T + bias - targets[image, row])
        expected[image] += np.where(off < 0.5, off**2, off - 0.25).sum() / 7 * factors[image]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def uncertainty(scales=None, kinds=KINDS):
    weights = UncertaintyWeights(kinds)
    weights.initialize()
    if scales is not None:
        weights.log_scales.set_data(mx.nd.array(np.log(scales)))
    return weights


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_weighted_loss_is_equation_7(hybrid):
    t, sigma_box, sigma_pose = scales = (0.7, 0.2, 3.0)
    weights = uncertainty(scales)
    if hybrid:
        weights.hybridize()
    parts = {name: RNG.uniform(0.1, 2, 4).astype(np.float32) for name in KINDS}
    *weighted, logs = weights(*map(mx.nd.array, parts.values()))
    expected = (parts["cls"] / t**2, parts["box"] / (2 * sigma_box**2), parts["pose"] / (2 * sigma_pose**2))
    assert [w.shape for w in weighted] == [(4,)] * 3 and logs.shape == (1,)
    for found, value in zip(weighted, expected):
        np.testing.assert_allclose(found.asnumpy(), value, rtol=1e-5)
    np.testing.assert_allclose(logs.asnumpy(), [np.log(t) + np.log(sigma_box) + np.log(sigma_pose)], rtol=1e-5)
    said = weights.weights()
    assert list(said) == list(KINDS)
    np.testing.assert_allclose(list(said.values()), [t**-2, sigma_box**-2 / 2, sigma_pose**-2 / 2], rtol=1e-5)


def test_the_weights_start_at_1_for_classes_and_a_half_for_regressions():
    assert uncertainty().weights() == {"cls": 1.0, "box": 0.5, "pose": 0.5}


def descend(weights, steps=600, rate=0.05, wd=0.0):
    trainer = mx.gluon.Trainer(weights.collect_params(), "sgd", {"learning_rate": rate, "wd": wd})
    fixed = [mx.nd.array([value]) for value in PARTS.values()]
    for _ in range(steps):
        with mx.autograd.record():
            loss = mx.nd.add_n(*weights(*fixed))
        loss.backward()
        trainer.step(1)
    return np.exp(weights.log_scales.data().asnumpy()) ** 2


def test_at_fixed_losses_the_optimum_is_where_the_formula_says():
    squares = descend(uncertainty())
    # T^2 = 2 L for a classification, sigma^2 = L for a regression.
    np.testing.assert_allclose(squares, [2 * PARTS["cls"], PARTS["box"], PARTS["pose"]], rtol=1e-3)


def test_at_the_optimum_every_part_weighs_the_inverse_of_twice_itself():
    weights = uncertainty()
    weights.start_at(PARTS)
    np.testing.assert_allclose(list(weights.weights().values()), [1 / (2 * p) for p in PARTS.values()], rtol=1e-5)


def test_started_at_its_optimum_nothing_moves():
    weights = uncertainty()
    weights.start_at(dict(reversed(PARTS.items())))
    before = weights.log_scales.data().asnumpy()
    np.testing.assert_allclose(np.exp(before) ** 2, [2 * PARTS["cls"], PARTS["box"], PARTS["pose"]], rtol=1e-5)
    descend(weights, steps=5)
    np.testing.assert_allclose(weights.log_scales.data().asnumpy(), before, atol=1e-5)


def test_a_part_that_is_zero_at_the_start_leaves_its_scale_at_1():
    weights = uncertainty((9.0, 9.0, 9.0))
    weights.start_at({**PARTS, "pose": 0.0})
    assert weights.weights()["pose"] == 0.5 and weights.weights()["box"] == pytest.approx(1 / 0.06, rel=1e-4)


def test_no_weight_decay_pulls_at_the_scales():
    np.testing.assert_array_equal(descend(uncertainty(), steps=20, wd=5.0), descend(uncertainty(), steps=20))


def test_a_part_that_is_neither_classification_nor_regression_is_refused():
    with pytest.raises(InputError, match='part pose: expected "classification" or "regression", got \'angle\''):
        UncertaintyWeights({**KINDS, "pose": "angle"})


# the share of small faces


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("smooth_at", [1.0, 0.25])
def test_the_box_loss_of_small_faces_is_that_of_faces_up_to_the_limit(hybrid, smooth_at):
    (_, box_preds, _), (_, box_targets, _, _), (normaliser, _) = example()
    sizes = np.zeros(box_preds.shape[:2], np.float32)
    sizes[0, :4] = 10, 25, 25.5, 300
    sizes[1, 5] = 40
    block = SmallBoxLoss(smooth_at=smooth_at)
    if hybrid:
        block.hybridize()
    small, whole = (v.asnumpy() for v in block(*map(mx.nd.array, (box_preds, box_targets, sizes, normaliser))))
    away = np.abs(box_preds - box_targets)
    losses = np.where(away < smooth_at, away**2 / (2 * smooth_at), away - smooth_at / 2).sum(axis=2)
    np.testing.assert_allclose(small, [losses[0, :2].sum() * normaliser[0], 0], rtol=1e-5)
    np.testing.assert_allclose(whole, [losses[0, :4].sum(), losses[1, 5]] * normaliser, rtol=1e-5)


def test_the_share_of_small_faces_is_that_of_the_anchor_loss_and_has_no_gradient():
    preds, targets, normalisers = example()
    sizes = np.where(targets[0] == 1, 20, 0).astype(np.float32)
    x = mx.nd.array(preds[1])
    x.attach_grad()
    x.grad[:] = 7
    with mx.autograd.record():
        small, whole = SmallBoxLoss()(x, *map(mx.nd.array, (targets[1], sizes, normalisers[0])))
        total = small.sum() + whole.sum() + 0 * x.sum()
    total.backward()
    assert not x.grad.asnumpy().any()
    np.testing.assert_allclose(whole.asnumpy(), run(AnchorLoss(), preds, targets, normalisers)[1], rtol=1e-5)
    np.testing.assert_array_equal(small.asnumpy(), whole.asnumpy())


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


@pytest.mark.parametrize("focal", [False, True])
@pytest.mark.parametrize("hybrid", [False, True])
def test_the_map_loss_is_equation_4_times_its_weight_and_focal_times_the_squared_distance(hybrid, focal):
    logits = RNG.normal(0, 3, (2, 6, 5, 4))
    targets = np.where(RNG.uniform(size=logits.shape) < 0.2, RNG.uniform(size=logits.shape), 0)
    targets[RNG.uniform(size=logits.shape) < 0.3] = -1
    loss = MapLoss(focal=focal)
    if hybrid:
        loss.hybridize()
    wanted = np.zeros(2)
    for index in np.ndindex(logits.shape):
        p, t = 1 / (1 + np.exp(-logits[index])), targets[index]
        if t >= 0:
            entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p))
            wanted[index[0]] += entropy * ((p - t) ** 2 if focal else 1) / (6 * 5 * 4)
    np.testing.assert_allclose(loss(mx.nd.array(logits), mx.nd.array(targets)).asnumpy(), 10_000 * wanted, rtol=1e-4)


def test_ignored_and_wild_cells_of_a_map_have_sound_gradients():
    targets = mx.nd.array([[[[-1, 0, 1, 0.5, -1]]]])
    x = mx.nd.array([[[[3, 200, -200, 0, -300]]]])
    x.attach_grad()
    with mx.autograd.record():
        loss = MapLoss(5.0)(x, targets)
    loss.backward()
    np.testing.assert_allclose(x.grad.asnumpy().ravel(), [0, 1, -1, 0, 0], atol=1e-6)
    assert loss.asscalar() == pytest.approx(200 + 200 + np.log(2), rel=1e-5)


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_loss_of_points_in_squares_is_equation_7_summed_over_the_squares(hybrid):
    places, targets = RNG.uniform(size=(2, 2, 3, 4, 2))
    masks = (RNG.uniform(size=(2, 3, 4)) < 0.7).astype(float)
    normaliser = np.array([0.5, 2.0])
    loss = SquarePointsLoss(3.0)
    if hybrid:
        loss.hybridize()
    wanted = np.zeros(2)
    for b, p, k in np.ndindex(masks.shape):
        wanted[b] += masks[b, p, k] * ((places[b, p, k] - targets[b, p, k]) ** 2).sum() / (2 * 4)
    found = loss(*(mx.nd.array(a) for a in (places, targets, masks, normaliser)))
    np.testing.assert_allclose(found.asnumpy(), 3 * wanted * normaliser, rtol=1e-5)


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_tag_loss_pulls_a_face_together_and_pushes_faces_apart(hybrid):
    tags = RNG.normal(0, 1, (3, 4, 6, 5))
    cells, masks = RNG.integers(0, 30, (3, 3, 4)), (RNG.uniform(size=(3, 3, 4)) < 0.7).astype(float)
    masks[0, 0], masks[1, 1:], masks[2] = 1, 0, 0
    loss = TagLoss(pull=0.5, push=2.0)
    if hybrid:
        loss.hybridize()
    wanted = np.zeros(3)
    for b in range(3):
        means, pulls = [], []
        for p in range(3):
            own = np.array([tags[b, k].ravel()[cells[b, p, k]] for k in range(4) if masks[b, p, k]])
            if len(own):
                means.append(own.mean())
                pulls.append(((own - own.mean()) ** 2).mean())
        pairs = [np.exp(-((a - c) ** 2) / 2) for i, a in enumerate(means) for j, c in enumerate(means) if i != j]
        wanted[b] = 0.5 * (np.mean(pulls) if pulls else 0) + 2 * (np.mean(pairs) if pairs else 0)
    assert wanted[0] > 0 and wanted[2] == 0
    found = loss(*(mx.nd.array(a) for a in (tags, cells, masks))).asnumpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_descending_the_tag_loss_gives_each_face_a_tag_of_its_own():
    x = mx.nd.array(RNG.normal(0, 0.1, (1, 2, 4, 4)))
    cells, masks = mx.nd.array([[[0, 1], [5, 6], [10, 11]]]), mx.nd.ones((1, 3, 2))
    x.attach_grad()
    for _ in range(500):
        with mx.autograd.record():
            total = TagLoss()(x, cells, masks)
        total.backward()
        x -= 0.3 * x.grad
    a, b, c = (x[0, :, :, :].reshape((2, 16)).asnumpy()[[0, 1], pair] for pair in ([0, 1], [5, 6], [10, 11]))
    for tags in (a, b, c):
        assert abs(tags[0] - tags[1]) < 0.1
    assert min(abs(a[0] - b[0]), abs(b[0] - c[0]), abs(a[0] - c[0])) > 1


# ---- RetinaFace's cascade and mesh -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_loss_of_a_first_head_is_that_of_class_and_box(hybrid):
    (cls, box, landmark), (cls_targets, box_targets, *points), (per_anchor, per_point) = example()
    first, whole = FirstHeadLoss(0.5, 2.0, 5), AnchorLoss(0.5, 1.0, 2.0, 5)
    if hybrid:
        first.hybridize()
    expected = run(whole, (cls, box, landmark), (cls_targets, box_targets, *points), (per_anchor, per_point))[:2]
    found = run(first, (cls, box), (cls_targets, box_targets), (per_anchor,))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# Two triangles with a side in common: five edges, that one counting twice.
TRIANGLES = np.array([[0, 1, 2], [2, 1, 3]])


def mesh_case(images=2, anchors=3, vertices=4):
    preds, targets = RNG.normal(0, 0.7, (2, images, anchors, 3 * vertices))
    masks = np.ones((images, anchors))
    masks[0, 1] = 0
    return preds, targets, masks, np.array([0.5, 2.0])[:images]


def mesh_loss(*options, hybrid=False):
    loss = MeshLoss(TRIANGLES, *options)
    loss.initialize()
    if hybrid:
        loss.hybridize()
    return lambda *arrays: np.array([part.asnumpy() for part in loss(*map(mx.nd.array, arrays))])


def side_lengths(mesh) -> list[float]:
    """Of the three sides of each triangle."""
    return [np.linalg.norm(mesh[a] - mesh[b]) for t in TRIANGLES for a, b in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))]


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_mesh_loss_is_equations_1_and_2_summed_over_the_anchors(hybrid):
    preds, targets, masks, normaliser = mesh_case()
    wanted = np.zeros((2, 2))
    for image, anchor in np.argwhere(masks):
        found, right = (a[image, anchor].reshape(4, 3) for a in (preds, targets))
        off = np.abs(found - right)
        wanted[0, image] += np.where(off < 1, off**2 / 2, off - 0.5).sum() / 4
        wanted[1, image] += np.abs(np.subtract(side_lengths(found), side_lengths(right))).sum() / (3 * len(TRIANGLES))
    wanted *= normaliser
    np.testing.assert_allclose(mesh_loss(hybrid=hybrid)(preds, targets, masks, normaliser), wanted, rtol=1e-4)
    weighted = mesh_loss(0.25, hybrid=hybrid)(preds, targets, masks, normaliser)
    np.testing.assert_allclose(weighted, wanted * [[1], [0.25]], rtol=1e-4)


def test_the_edge_loss_does_not_see_a_mesh_that_is_shifted_or_turned():
    preds, targets, masks, normaliser = mesh_case()
    vertex, edge = mesh_loss()(preds, targets, masks, normaliser)
    shift = np.tile([0.4, -1.5, 0.8], 4)
    shifted_vertex, shifted_edge = mesh_loss()(preds + shift, targets, masks, normaliser)
    np.testing.assert_allclose(shifted_edge, edge, rtol=1e-4)
    assert (np.abs(shifted_vertex - vertex) > 0.1).all()
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    turned = (preds.reshape(2, 3, 4, 3) @ turn.T).reshape(preds.shape)
    np.testing.assert_allclose(mesh_loss()(turned, targets, masks, normaliser)[1], edge, rtol=1e-4)
    grown = mesh_loss()(targets * 1.5, targets, masks, normaliser)[1]
    mean = [sum(np.mean(side_lengths(m.reshape(4, 3))) for m in targets[i][masks[i] > 0]) for i in range(2)]
    np.testing.assert_allclose(grown, 0.5 * np.array(mean) * normaliser, rtol=1e-3)


def test_the_gradient_of_the_mesh_loss_is_its_slope_and_finite_where_all_vertices_are_in_one_place():
    preds, targets, masks, normaliser = mesh_case()
    loss = MeshLoss(TRIANGLES)
    loss.initialize()

    def total(x):
        return sum(part.sum() for part in loss(x, *map(mx.nd.array, (targets, masks, normaliser))))

    for given in (preds, np.zeros_like(preds), targets):
        x = mx.nd.array(given)
        x.attach_grad()
        with mx.autograd.record():
            value = total(x)
        value.backward()
        gradient = x.grad.asnumpy()
        assert np.isfinite(gradient).all() and not gradient[0, 1].any()
    assert np.abs(gradient).max() < 1e-5  # nothing to learn at the right answer
    x = mx.nd.array(preds)
    x.attach_grad()
    with mx.autograd.record():
        value = total(x)
    value.backward()
    for place in ((0, 0, 3), (1, 2, 11), (1, 1, 7)):
        step = np.zeros_like(preds)
        step[place] = 1e-2
        slope = (total(mx.nd.array(preds + step)) - total(mx.nd.array(preds - step))).asscalar() / 2e-2
        assert x.grad.asnumpy()[place] == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_a_mesh_loss_gives_the_same_on_two_devices():
    preds, targets, masks, normaliser = mesh_case()
    loss, contexts = MeshLoss(TRIANGLES), [mx.cpu(0), mx.cpu(1)]
    loss.initialize(ctx=contexts)
    parts = [loss(*(mx.nd.array(a, ctx=c) for a in (preds, targets, masks, normaliser))) for c in contexts]
    np.testing.assert_array_equal(*([p.asnumpy() for p in both] for both in parts))


@pytest.mark.parametrize("triangles", [np.zeros((0, 3), int), np.zeros((2, 3)), np.zeros((3, 2), int)])
def test_triangles_that_are_none_are_refused(triangles):
    with pytest.raises(InputError, match=r"expected triangles \(T, 3\) of whole numbers"):
        MeshLoss(triangles)
