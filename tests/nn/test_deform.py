"""Deformable convolutions: plain at first, then sampled where the offsets say."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import InputError
from gluonface.nn.blocks import conv_block
from gluonface.nn.context import SSHContext
from gluonface.nn.deform import DeformableConv, deformable_block
from gluonface.nn.pyramid import FeaturePyramid

HYBRID = pytest.mark.parametrize("hybrid", [False, True], ids=["imperative", "hybridized"])


def made(block, hybrid=False):
    mx.random.seed(5)
    block.initialize(mx.init.Normal(0.3))
    if hybrid:
        block.hybridize()
    return block


def values(block):
    return {name: p.data().asnumpy() for name, p in block._collect_params_with_prefix().items()}


@HYBRID
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_new_block_is_the_plain_convolution_at_any_input_size(rng, hybrid, kernel):
    deformable = made(deformable_block(6, kernel, in_channels=4), hybrid)
    plain = made(conv_block(6, kernel, in_channels=4))
    shared = plain._collect_params_with_prefix()
    for name, array in values(deformable).items():
        if ".offset." in name:
            assert (array == 0).all()
        else:  # of the same name and shape
            shared[name].set_data(mx.nd.array(array))
    for height, width in [(7, 9), (16, 5), (1, 1)]:
        x = mx.nd.array(rng.normal(size=(2, 4, height, width)))
        expected = plain(x).asnumpy()
        assert expected.std() > 0.01
        np.testing.assert_allclose(deformable(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_weights_of_a_plain_block_load_into_a_deformable_one(tmp_path):
    plain, deformable = made(conv_block(4, 3, in_channels=2)), made(deformable_block(4, 3, in_channels=2))
    file = str(tmp_path / "plain.params")
    plain.save_parameters(file)
    deformable.load_parameters(file, allow_missing=True)
    missing = set(values(deformable)) - set(values(plain))
    assert missing == {"0.offset.weight", "0.offset.bias"}
    np.testing.assert_array_equal(deformable[0].weight.data().asnumpy(), plain[0].weight.data().asnumpy())


def sampled(x, y, x_):
    """Value of a map (C, h, w) between its cells; 0 outside of [0, h) x [0, w), as MXNet has it."""
    _, h, w = x.shape
    if not (0 <= y < h and 0 <= x_ < w):
        return np.zeros(len(x))
    top, left = int(y), int(x_)
    below, right = min(top + 1, h - 1), min(left + 1, w - 1)
    dy, dx = y - top, x_ - left
    upper = (1 - dx) * x[:, top, left] + dx * x[:, top, right]
    return (1 - dy) * upper + dy * ((1 - dx) * x[:, below, left] + dx * x[:, below, right])


@HYBRID
def test_offsets_move_each_place_of_the_kernel_row_first(rng, hybrid):
    block = made(DeformableConv(3, 3, 2), hybrid)
    bias = rng.uniform(-1.5, 1.5, 18)
    block.offset.weight.set_data(mx.nd.array(rng.normal(0, 0.1, (18, 2, 3, 3))))
    block.offset.bias.set_data(mx.nd.array(bias))
    x = mx.nd.array(rng.normal(size=(1, 2, 5, 6)))
    offsets = block.offset(x).asnumpy()[0].reshape(9, 2, 5, 6)
    weight, image = block.weight.data().asnumpy(), x.asnumpy()[0]
    expected = np.zeros((3, 5, 6))
    for i in range(5):
        for j in range(6):
            for k in range(9):
                row, column = i - 1 + k // 3 + offsets[k, 0, i, j], j - 1 + k % 3 + offsets[k, 1, i, j]
                expected[:, i, j] += weight[:, :, k // 3, k % 3] @ sampled(image, row, column)
    np.testing.assert_allclose(block(x).asnumpy()[0], expected, rtol=1e-4, atol=1e-4)


@HYBRID
def test_gradients_of_the_offsets_are_those_of_finite_differences(rng, hybrid):
    block = made(DeformableConv(4, 3, 3), hybrid)
    # Away from the cells' centres, where bilinear sampling has no gradient.
    block.offset.bias.set_data(mx.nd.array(rng.uniform(0.2, 0.8, 18)))
    x = mx.nd.array(rng.normal(size=(2, 3, 8, 7)))
    factors = mx.nd.array(rng.normal(size=(2, 4, 8, 7)))

    def loss():
        return (block(x) * factors).sum()

    x.attach_grad()
    with mx.autograd.record():
        total = loss()
    total.backward()
    for parameter, step in ((block.offset.bias, 1e-2), (block.offset.weight, 1e-3), (block.weight, 1e-2)):
        array, gradient = parameter.data().asnumpy(), parameter.grad().asnumpy()
        for _ in range(4):
            place = tuple(int(rng.integers(side)) for side in array.shape)
            sides = []
            for sign in (1, -1):
                moved = array.copy()
                moved[place] += sign * step
                parameter.set_data(mx.nd.array(moved))
                sides.append(loss().asscalar())
            parameter.set_data(mx.nd.array(array))
            numeric = (sides[0] - sides[1]) / (2 * step)
            assert gradient[place] == pytest.approx(numeric, rel=0.02, abs=0.05), (parameter.name, place)
    assert np.abs(x.grad.asnumpy()).max() > 0


def test_a_new_block_trains_its_offsets_and_stays_finite(rng):
    block = made(deformable_block(4, 3, in_channels=3), hybrid=True)
    x, wanted = mx.nd.array(rng.normal(size=(2, 3, 9, 9))), mx.nd.array(rng.normal(size=(2, 4, 9, 9)))
    trainer = mx.gluon.Trainer(block.collect_params(), "adam", {"learning_rate": 0.02})
    losses = []
    for _ in range(12):
        with mx.autograd.record():
            loss = (block(x) - wanted).square().mean()
        loss.backward()
        trainer.step(1)
        losses.append(loss.asscalar())
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert np.abs(block[0].offset.weight.data().asnumpy()).max() > 0.01


def test_channels_may_be_left_to_the_first_pass_and_an_activation_left_out():
    block = made(deformable_block(4, 3, act=None), hybrid=True)
    out = block(mx.nd.random.normal(shape=(1, 5, 6, 6)))
    assert out.shape == (1, 4, 6, 6) and (out.asnumpy() < 0).any()
    assert block[0].weight.shape == (4, 5, 3, 3)


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(InputError, match="odd side, got 2"):
        DeformableConv(4, 2)


# ---- the switch of context modules and pyramids ----------------------------------------------------------------------

ROLES = ("0.weight", "1.gamma", "1.beta", "1.running_mean", "1.running_var")
CONTEXT = [f"{part}.{role}" for part in ("conv3", "stem", "conv5", "conv7_1", "conv7_2") for role in ROLES]
PYRAMID = [
    f"{part}.{role}" for part in ("laterals.0", "laterals.1", "laterals.2", "smooth.0", "smooth.1") for role in ROLES
]
SWITCHED = pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda **switch: SSHContext(8, **switch), CONTEXT),
        (lambda **switch: FeaturePyramid(8, (3, 5, 6), **switch), PYRAMID),
    ],
    ids=["context", "pyramid"],
)


def maps_for(block, rng):
    sides = [(13, 10), (7, 5), (4, 3)]
    if isinstance(block, SSHContext):
        return [mx.nd.array(rng.normal(size=(2, 8, *sides[0])))]
    return [mx.nd.array(rng.normal(size=(2, c, *hw))) for c, hw in zip((3, 5, 6), sides)]


def outputs(block, maps):
    out = block(*maps)
    return [m.asnumpy() for m in (out if isinstance(out, (list, tuple)) else [out])]


@SWITCHED
def test_without_the_switch_parameters_have_the_names_they_always_had(build, names):
    for block in (build(), build(deformable=False)):
        assert list(block._collect_params_with_prefix()) == names


@SWITCHED
def test_with_the_switch_3x3_convolutions_have_offsets_and_the_start_is_the_plain_module(build, names, rng):
    plain, deformable = made(build()), made(build(deformable=True), hybrid=True)
    shared = values(plain)
    found = deformable._collect_params_with_prefix()
    kernels = {name: shared[name].shape[2:] for name in names if name.endswith("0.weight")}
    offsets = {
        name.replace("0.weight", f"0.offset.{kind}")
        for name, kernel in kernels.items()
        if kernel == (3, 3)
        for kind in ("weight", "bias")
    }
    assert offsets and set(found) == {*names, *offsets}
    for name in names:
        found[name].set_data(mx.nd.array(shared[name]))
    maps = maps_for(plain, rng)
    for ours, theirs in zip(outputs(deformable, maps), outputs(plain, maps), strict=True):
        assert theirs.std() > 1e-2
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
    for name in offsets:
        if name.endswith("bias"):
            found[name].set_data(mx.nd.full(found[name].shape, 0.4))
    assert np.abs(outputs(deformable, maps)[0] - outputs(plain, maps)[0]).max() > 1e-2
