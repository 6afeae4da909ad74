"""The multi-task head against NumPy, and what it starts as."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.nn.stitch import OWN_SHARE, CrossStitch, MultiTaskHead

HYBRID = pytest.mark.parametrize("hybrid", [False, True], ids=["imperative", "hybridized"])
TASKS, CHANNELS = 4, 6


def made(cls, *sizes, hybrid=False, init=None):
    block = cls(*sizes)
    block.initialize(init or mx.init.Xavier())
    if hybrid:
        block.hybridize()
    return block


def randomise(block, rng):
    for parameter in block.collect_params().values():
        parameter.set_data(mx.nd.array(rng.normal(0, 1, parameter.shape)))


def mixes_of(stitch) -> np.ndarray:
    """Weights (task that sees, task seen, channel)."""
    return np.stack([mix.weight.data().asnumpy().reshape(stitch.tasks, -1) for mix in stitch.mixes])


def stitched(maps, weights) -> np.ndarray:
    """Maps (B, n, C, h, w) and weights (n, n, C) to what each task sees, (n, B, C, h, w)."""
    return np.einsum("tsc,bschw->tbchw", weights, maps)


@HYBRID
@pytest.mark.parametrize("init", [None, mx.init.Normal(1), mx.init.MSRAPrelu()], ids=["xavier", "normal", "msra"])
def test_the_head_starts_as_the_identity_whatever_the_net_s_initialiser(hybrid, init, rng):
    head = made(MultiTaskHead, TASKS, CHANNELS, hybrid=hybrid, init=init)
    x = rng.uniform(0, 3, (2, CHANNELS, 5, 4)).astype(np.float32)
    outputs = head(mx.nd.array(x))
    assert len(outputs) == TASKS
    for output in outputs:
        np.testing.assert_allclose(output.asnumpy(), x, rtol=1e-5)


def test_at_first_a_task_sees_mostly_its_own_map_and_equal_shares_of_the_others():
    weights = mixes_of(made(CrossStitch, TASKS, CHANNELS))
    assert weights.shape == (TASKS, TASKS, CHANNELS)
    expected = np.full((TASKS, TASKS), (1 - OWN_SHARE) / (TASKS - 1)) + np.eye(TASKS) * (
        OWN_SHARE - (1 - OWN_SHARE) / (TASKS - 1)
    )
    np.testing.assert_allclose(weights, np.repeat(expected[..., None], CHANNELS, axis=2), rtol=1e-6)


@HYBRID
@pytest.mark.parametrize("tasks", [1, 2, TASKS])
def test_each_task_sees_the_weighted_sum_of_all_maps_channel_by_channel(hybrid, tasks, rng):
    stitch = made(CrossStitch, tasks, CHANNELS, hybrid=hybrid)
    randomise(stitch, rng)
    maps = rng.normal(size=(2, tasks, CHANNELS, 3, 5)).astype(np.float32)
    outputs = stitch(mx.nd.array(maps.reshape(2, tasks * CHANNELS, 3, 5)))
    assert isinstance(outputs, (list, tuple)) and len(outputs) == tasks
    found = np.stack([output.asnumpy() for output in outputs])
    np.testing.assert_allclose(found, stitched(maps, mixes_of(stitch)), rtol=1e-4, atol=1e-5)


@HYBRID
@pytest.mark.parametrize("tasks", [1, 3])
def test_the_head_is_branches_with_relu_then_stitching(hybrid, tasks, rng):
    head = made(MultiTaskHead, tasks, CHANNELS, hybrid=hybrid)
    randomise(head, rng)
    x = rng.normal(size=(2, CHANNELS, 4, 3)).astype(np.float32)
    weight = head.branches.weight.data().asnumpy().reshape(tasks, CHANNELS, CHANNELS)
    bias = head.branches.bias.data().asnumpy().reshape(tasks, CHANNELS)
    branches = np.maximum(np.einsum("toi,bihw->btohw", weight, x) + bias[:, :, None, None], 0)
    found = np.stack([output.asnumpy() for output in head(mx.nd.array(x))])
    np.testing.assert_allclose(found, stitched(branches, mixes_of(head.stitch)), rtol=1e-4, atol=1e-4)


@HYBRID
def test_a_task_s_loss_teaches_its_own_mix_and_the_branches_of_all_tasks(hybrid, rng):
    head = made(MultiTaskHead, TASKS, CHANNELS, hybrid=hybrid)
    x = mx.nd.array(rng.uniform(0, 1, (2, CHANNELS, 4, 4)))
    with mx.autograd.record():
        outputs = head(x)
        loss = (outputs[1] * mx.nd.array(rng.normal(size=outputs[1].shape))).sum()
    loss.backward()
    learnt = [np.abs(mix.weight.grad().asnumpy()).reshape(TASKS, CHANNELS) for mix in head.stitch.mixes]
    assert (learnt[1] > 0).all()
    assert not learnt[0].any() and not learnt[2].any() and not learnt[3].any()
    branches = np.abs(head.branches.weight.grad().asnumpy()).reshape(TASKS, CHANNELS, CHANNELS)
    assert (branches.max(axis=2) > 0).all()


def test_all_tasks_together_teach_every_weight(rng):
    head = made(MultiTaskHead, TASKS, CHANNELS)
    x = mx.nd.array(rng.uniform(0, 1, (2, CHANNELS, 4, 4)))
    with mx.autograd.record():
        loss = sum((output**2).sum() for output in head(x))
    loss.backward()
    for mix in head.stitch.mixes:
        assert (mix.weight.grad().asnumpy() != 0).all()


def test_one_task_alone_sees_its_own_map(rng):
    stitch = made(CrossStitch, 1, CHANNELS)
    x = rng.normal(size=(1, CHANNELS, 3, 3)).astype(np.float32)
    (output,) = stitch(mx.nd.array(x))
    np.testing.assert_allclose(output.asnumpy(), x, rtol=1e-6)


def test_a_head_saved_and_read_again_is_the_same(tmp_path, rng):
    head = made(MultiTaskHead, TASKS, CHANNELS)
    randomise(head, rng)
    head.save_parameters(str(tmp_path / "head.params"))
    again = MultiTaskHead(TASKS, CHANNELS)
    again.load_parameters(str(tmp_path / "head.params"))
    x = mx.nd.array(rng.normal(size=(1, CHANNELS, 3, 3)))
    for one, other in zip(head(x), again(x)):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
