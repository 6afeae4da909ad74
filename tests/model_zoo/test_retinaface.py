import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.model_zoo import get_model


@pytest.mark.parametrize("size_hw", [(64, 64), (70, 97), (33, 320)])
def test_predictions_have_a_row_per_anchor_for_any_input_size(size_hw):
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize()
    x = mx.nd.random.uniform(shape=(2, 3, *size_hw))
    count = net.spec.count(size_hw)
    assert [p.shape for p in net.network(x)] == [(2, count, 2), (2, count, 4), (2, count, 10)]
    assert net.anchors(x).shape == (1, count, 4)


def test_network_and_net_share_their_parameters():
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize()
    net(mx.nd.zeros((1, 3, 64, 64)))
    for parameter in net.network.collect_params().values():
        assert any(parameter is p for p in net.collect_params().values())


def test_a_hybridised_network_gives_the_imperative_predictions():
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize(mx.init.Xavier())
    x = mx.nd.random.uniform(shape=(1, 3, 96, 64))
    expected = [p.asnumpy() for p in net.network(x)]
    net.network.hybridize()
    for found, wanted in zip(net.network(x), expected):
        np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-4, atol=1e-6)


def test_every_parameter_of_the_network_is_trained():
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize(mx.init.Xavier())
    x = mx.nd.random.uniform(shape=(2, 3, 64, 64))
    with mx.autograd.record():
        total = sum((p**2).sum() for p in net.network(x))
    total.backward()
    for name, parameter in net.network.collect_params().items():
        if parameter.grad_req != "null":
            assert np.abs(parameter.grad().asnumpy()).sum() > 0, name


def test_a_shifted_photo_gives_shifted_predictions():
    """Anchors, pyramid and heads agree about which cell is which: away from the border, 32 pixels are 4, 2, 1 cells."""
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize(mx.init.Xavier())
    image = np.zeros((1, 3, 512, 544), np.float32)
    image[:, :, 240:272, 240:272] = np.random.default_rng(0).uniform(size=(3, 32, 32))
    shifted = np.roll(image, 32, axis=3)
    for stride, start in ((8, 0), (16, 2 * 64 * 68)):
        h, w = 512 // stride, 544 // stride
        a, b = (
            net.network(mx.nd.array(i))[1].asnumpy()[0, start : start + 2 * h * w].reshape(h, w, 2, 4)
            for i in (image, shifted)
        )
        step = 32 // stride
        middle = slice(240 // stride, 272 // stride)
        moved = b[middle, 240 // stride + step : 272 // stride + step]
        np.testing.assert_allclose(moved, a[middle, middle], atol=1e-4 * np.abs(a).max())
