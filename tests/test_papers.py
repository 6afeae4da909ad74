"""What the papers' nets must count, without their data."""

import pytest

from gluonface._compat import mx
from gluonface.decode import LIGHT_ANCHORS
from gluonface.model_zoo import get_model, list_models, model_facts
from gluonface.model_zoo.counting import count_macs, count_parameters

BACKBONES = ["mobilenet0.25", "mobilenet0.5", "mobilenetv2_1.0", "resnet50_v1b"]


def built(name):
    net = get_model(name)
    net.initialize()
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    return net


def test_the_light_retinaface_has_16800_anchors_and_0_43_million_parameters():
    assert LIGHT_ANCHORS.count((640, 640)) == 16_800
    assert count_parameters(built("retinaface_mobilenet0.25_widerface")) == pytest.approx(0.43e6, rel=0.02)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_stated_parameters_and_gf_are_those_counted(backbone):
    facts = model_facts(f"retinaface_{backbone}_widerface")
    net = built(facts.name)
    assert count_parameters(net) == facts.params
    assert count_macs(net.network, (1, 3, 640, 640)) / 1e9 == pytest.approx(facts.gf, abs=6e-4)


def test_every_model_says_its_parameters_and_gf():
    for name in list_models():
        facts = model_facts(name)
        assert facts.params > 0 and facts.gf > 0 and name.startswith(f"{facts.system}_{facts.backbone}_")


def test_macs_of_convolutions_are_counted_as_by_hand():
    net = mx.gluon.nn.HybridSequential()
    net.add(
        mx.gluon.nn.Conv2D(8, 3, strides=2, padding=1),
        mx.gluon.nn.Conv2D(8, 3, padding=1, groups=8),
        mx.gluon.nn.Conv2DTranspose(4, 4, strides=2, padding=1),
        mx.gluon.nn.Flatten(),
        mx.gluon.nn.Dense(10),
    )
    by_hand = 16 * 16 * 8 * 3 * 9 + 16 * 16 * 8 * 9 + 16 * 16 * 8 * 4 * 16 + 32 * 32 * 4 * 10
    assert count_macs(net, (1, 3, 32, 32)) == by_hand
