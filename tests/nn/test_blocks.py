import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.nn.blocks import GroupNorm, conv_block


def by_hand(x, groups, gamma, beta):
    grouped = x.astype(np.float64).reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(axis=2, keepdims=True)
    normal = (centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + 1e-5)).reshape(x.shape)
    return normal * gamma[:, None, None] + beta[:, None, None]


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_group_normalisation_has_a_factor_and_an_offset_for_each_channel(rng, hybrid, training):
    norm = GroupNorm(12, groups=3)
    norm.initialize()
    if hybrid:
        norm.hybridize()
    gamma, beta = rng.normal(1, 0.5, 12), rng.normal(0, 1, 12)
    norm.affine.gamma.set_data(mx.nd.array(gamma))
    norm.affine.beta.set_data(mx.nd.array(beta))
    x = rng.normal(3, 5, (2, 12, 7, 5))
    with mx.autograd.record(train_mode=training):
        found = norm(mx.nd.array(x))
    np.testing.assert_allclose(found.asnumpy(), by_hand(x, 3, gamma, beta), atol=1e-4)
    # Nothing is remembered from one batch to the next.
    assert (norm.affine.running_mean.data() == 0).min() == 1 and (norm.affine.running_var.data() == 1).min() == 1


def test_group_normalisation_s_gradients_are_those_of_differences(rng):
    norm = GroupNorm(4, groups=2)
    norm.initialize()
    x, weights = mx.nd.array(rng.normal(0, 1, (1, 4, 3, 3))), mx.nd.array(rng.normal(0, 1, (1, 4, 3, 3)))
    x.attach_grad()
    with mx.autograd.record():
        total = (norm(x) * weights).sum()
    total.backward()
    for place in ((0, 0, 1, 2), (0, 3, 2, 0)):
        step = mx.nd.zeros_like(x)
        step[place] = 1e-2
        slope = ((norm(x + step) - norm(x - step)) * weights).sum().asscalar() / 2e-2
        assert x.grad[place].asscalar() == pytest.approx(slope, abs=2e-2)


@pytest.mark.parametrize(
    ("channels", "groups"), [(256, 32), (128, 32), (64, 32), (48, 24), (24, 12), (16, 8), (12, 6), (1, 1)]
)
def test_groups_are_32_or_as_many_as_leave_two_channels_each(channels, groups):
    assert GroupNorm(channels).groups == groups


def test_a_block_of_convolution_takes_the_normalisation_that_is_asked_for():
    kinds = [type(layer).__name__ for layer in conv_block(8, 3, norm=GroupNorm)]
    assert kinds == ["Conv2D", "GroupNorm", "Activation"]
    assert [type(layer).__name__ for layer in conv_block(8, 3, act=None)] == ["Conv2D", "BatchNorm"]
