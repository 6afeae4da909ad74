"""ShuffleNet V2: what it counts, what its units do, that its graph takes any size."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import InputError, WeightsError
from gluonface.model_zoo.backbone import BACKBONES, Backbone, Features
from gluonface.model_zoo.counting import count_macs, count_parameters
from gluonface.model_zoo.shufflenet import SHUFFLENETS, BasicUnit, DownUnit, ShuffleNetV2

# Width -> parameters that torchvision publishes, millions of parameters and of multiply-accumulates that the paper
# prints (table 5), and the latter counted layer by layer: conv1 to the dense layer, nothing else.
PUBLISHED = {
    0.5: (1_366_792, 1.4, 41, 40_476_448),
    1.0: (2_278_604, 2.3, 146, 144_907_992),
    1.5: (3_503_624, 3.5, 299, 295_759_392),
    2.0: (7_393_996, 7.4, 591, 583_253_464),
}


@pytest.mark.parametrize("width", PUBLISHED)
def test_parameters_and_multiply_accumulates_are_the_published_ones(width):
    params, millions, mega, macs = PUBLISHED[width]
    net = ShuffleNetV2(width)
    assert count_parameters(net) == params
    assert round(params / 1e6, 1) == millions
    counted = count_macs(net, (1, 3, 224, 224))
    assert counted == macs
    # The paper's are up to 1.5 % above the sum over the layers of its table 5.
    assert counted / 1e6 == pytest.approx(mega, rel=0.015)


@pytest.mark.parametrize("classes", [10, 1000])
def test_a_classifier_gives_logits_for_any_input_size(classes):
    net = ShuffleNetV2(0.5, classes=classes)
    net.initialize()
    for height, width in [(32, 32), (33, 70), (1, 97)]:
        assert net(mx.nd.ones((2, 3, height, width))).shape == (2, classes)


def test_there_are_four_widths():
    with pytest.raises(InputError, match=r"expected width 0.5, 1.0, 1.5, 2.0, got 0.25"):
        ShuffleNetV2(0.25)


def lively(block, rng):
    """Random weights under which maps keep their size."""
    block.initialize()
    for name, parameter in block.collect_params().items():
        fan_in = max(1, int(np.prod(parameter.shape[1:])))
        value = rng.normal(0, np.sqrt(1.5 / fan_in), parameter.shape) if name.endswith("weight") else None
        value = rng.uniform(0.5, 1.5, parameter.shape) if value is None else value
        parameter.set_data(mx.nd.array(value))
    return block


def test_a_basic_unit_leaves_half_of_the_channels_as_they_are_and_interleaves_the_rest(rng):
    unit, x = lively(BasicUnit(8), rng), mx.nd.array(rng.normal(size=(2, 8, 5, 6)))
    out = unit(x)
    np.testing.assert_array_equal(out[:, 0::2].asnumpy(), x[:, :4].asnumpy())
    np.testing.assert_array_equal(out[:, 1::2].asnumpy(), unit.branch2(x[:, 4:]).asnumpy())


def test_a_down_unit_halves_the_map_in_both_branches(rng):
    unit, x = lively(DownUnit(12, 5), rng), mx.nd.array(rng.normal(size=(2, 5, 7, 6)))
    out = unit(x)
    assert out.shape == (2, 12, 4, 3)
    for k, branch in enumerate((unit.branch1, unit.branch2)):
        np.testing.assert_array_equal(out[:, k::2].asnumpy(), branch(x).asnumpy())


def test_the_depthwise_convolutions_have_no_activation_behind_them():
    children = list(BasicUnit(8).branch2)
    kinds = "".join({"Conv2D": "C", "BatchNorm": "B", "Activation": "A"}[type(child).__name__] for child in children)
    assert kinds == "CBACBCBA"
    assert [child._kwargs["num_group"] for child in children if type(child).__name__ == "Conv2D"] == [1, 4, 1]


def test_hybridised_and_exported_it_gives_the_imperative_logits(tmp_path, rng):
    net = lively(ShuffleNetV2(0.5, classes=10), rng)
    images = [mx.nd.array(rng.normal(size=(2, 3, *hw))) for hw in ((64, 64), (45, 70))]
    expected = [net(x).asnumpy() for x in images]
    assert all(np.isfinite(e).all() and e.std() > 0 for e in expected)
    net.hybridize()
    for x, wanted in zip(images, expected):  # one graph, two sizes
        np.testing.assert_allclose(net(x).asnumpy(), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    net.export(str(tmp_path / "net"))
    read = mx.gluon.SymbolBlock.imports(
        str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"), ctx=mx.cpu()
    )
    for x, wanted in zip(images, expected):
        np.testing.assert_allclose(read(x).asnumpy(), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_every_parameter_gets_a_gradient(rng):
    net = lively(ShuffleNetV2(0.5, classes=3), rng)
    with mx.autograd.record():
        loss = net(mx.nd.array(rng.normal(size=(2, 3, 64, 64)))).square().sum()
    loss.backward()
    for name, parameter in net.collect_params().items():
        if parameter.grad_req != "null":
            assert np.abs(parameter.grad().asnumpy()).max() > 0, name


# ---- as a backbone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHUFFLENETS)
def test_a_backbone_ends_with_the_stages_and_leaves_conv5_out(name):
    backbone = Backbone(name)
    backbone.initialize()
    for height, width in [(64, 96), (101, 75)]:
        maps = backbone(mx.nd.zeros((1, 3, height, width)))
        shapes = [(1, c, -(-height // s), -(-width // s)) for c, s in zip(backbone.channels, (8, 16, 32))]
        assert [m.shape for m in maps] == shapes
    whole = Features(name)
    whole.initialize()
    conv5 = whole.layers[-3:]
    assert conv5[0].weight.shape[1] == backbone.channels[-1]
    assert count_parameters(backbone) + count_parameters(conv5) == count_parameters(whole)


def test_the_backbone_comes_without_gluoncv(monkeypatch):
    from gluonface.model_zoo import backbone

    def missing():
        raise AssertionError("GluonCV was asked")

    monkeypatch.setattr(backbone, "import_gluoncv", missing)
    assert backbone.Backbone("shufflenetv2_1.0").channels == (116, 232, 464)


@pytest.mark.parametrize("block", [Backbone, Features])
def test_weights_that_gluoncv_does_not_have_are_an_error_that_says_what_to_give(block):
    with pytest.raises(WeightsError, match=r"shufflenetv2_1.5: .*GluonCV has no .*\.npz .*shufflenet_v2_x1_5 "):
        block("shufflenetv2_1.5", pretrained=True)


@pytest.mark.parametrize("name", ["resnet50_v1b", "resnet152_v1b"])
def test_the_maps_of_a_resnet_have_the_channels_and_parameters_they_should(name):
    backbone = Backbone(name)
    symbol = mx.sym.Group(list(backbone(mx.sym.var("data"))))
    arguments, shapes, _ = symbol.infer_shape(data=(1, 3, 64, 96))
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in zip(BACKBONES[name].channels, (8, 16, 32))]
    # torchvision's counts without the dense layer of 2048 x 1000 weights and 1000 biases.
    published = {"resnet50_v1b": 25_557_032, "resnet152_v1b": 60_192_808}[name]
    sizes = {n: int(np.prod(shape)) for n, shape in zip(symbol.list_arguments(), arguments)}
    assert sum(sizes.values()) - sizes["data"] == published - 2_049_000
