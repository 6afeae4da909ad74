"""Heatmap landmark nets: names, options, shapes, and that points come out in pixels of the crop."""

import hashlib
import json

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import decode_heatmaps
from gluonface.errors import InputError, ModelNotFoundError, WeightsError
from gluonface.model_zoo import get_model, heatmap, list_models, model_facts

SMALL = "heatmap_mobilenetv2_0.25_s_fc26"


def built(name=SMALL, **options):
    net = get_model(name, **options)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    return net


@pytest.fixture
def crops(rng):
    return mx.nd.array(rng.normal(size=(2, 3, 192, 192)))


@pytest.mark.parametrize("strategy", ["s", "d", "sd", "dsd", "ssss"])
@pytest.mark.parametrize("decoder", ["dark", "argmax"])
def test_any_strategy_can_be_built_and_gives_points_in_the_crop(strategy, decoder, crops):
    net = built(f"heatmap_mobilenetv2_0.25_{strategy}_fc26", decoder=decoder)
    maps = net.network(crops)
    side = 6 * 2 ** len(strategy)
    assert maps.shape == (2, 68, side, side)
    points, scores = net(crops)
    expected, heights = decode_heatmaps(maps.asnumpy(), decoder)
    np.testing.assert_allclose(points.asnumpy(), expected * (192 / side), atol=1e-2)
    np.testing.assert_allclose(scores.asnumpy(), heights, rtol=1e-5)
    net.hybridize()
    np.testing.assert_allclose(net(crops)[0].asnumpy(), points.asnumpy(), atol=1e-2)


@pytest.mark.parametrize(("dataset", "points"), heatmap.DATASETS.items())
def test_the_dataset_in_the_name_says_the_scheme(dataset, points, crops):
    name = f"heatmap_mobilenetv2_0.25_s_{dataset}"
    net = built(name)
    assert net.scheme == model_facts(name).scheme == points
    assert net(crops)[0].shape == (2, int(points), 2)


def test_filters_stem_number_of_points_and_size_are_arguments():
    net = built(filters=64, stem=32, num_points=5, size=128)
    points, _ = net(mx.nd.zeros((1, 3, 128, 128)))
    assert points.shape == (1, 5, 2) and net.facts.scheme == "5" and net.facts.size == 128
    shapes = {name: p.shape for name, p in net._collect_params_with_prefix().items()}
    assert shapes["network.stem.weight"] == (32, 1280, 1, 1)
    assert shapes["network.upscaling.0.0.weight"] == (64, 32, 3, 3)
    from gluonface.model_zoo.counting import count_macs, count_parameters

    assert net.facts.params == count_parameters(net.network)
    assert net.facts.gf * 1e9 == pytest.approx(count_macs(net.network, (1, 3, 192, 192)), abs=1)


def test_the_default_filters_are_those_of_the_paper():
    for name, filters in (("heatmap_mobilenetv2_0.25_s_fc26", 256), ("heatmap_mobilenetv2_1.0_s_fc26", 128)):
        assert built(name).network.upscaling[0][0]._channels == filters


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"filters": 6}, "multiple of 4, got 6"),
        ({"stem": 0}, "at least 1, got 0"),
        ({"num_points": 7}, "num_points among 5, 19"),
        ({"size": 100}, "multiple of 32, got 100"),
        ({"decoder": "mean"}, "expected a decoder among"),
        ({"nms_thresh": 0.5}, "has no nms_thresh; its options are filters, stem"),
    ],
)
def test_options_out_of_range_or_of_another_system_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        get_model(SMALL, **options)
    with pytest.raises(InputError, match="retinaface_mobilenet0.25_mask has no filters; its options are nms_thresh"):
        get_model("retinaface_mobilenet0.25_mask", filters=8)


@pytest.mark.parametrize("name", ["heatmap_vgg_sdd_fc26", "heatmap_mobilenetv2_1.0_sdx_fc26", "heatmap_resnet18__fc26"])
def test_a_name_of_no_net_is_not_found(name):
    with pytest.raises(ModelNotFoundError, match="near: .*heatmap_"):
        get_model(name)


def test_five_letters_are_one_too_many():
    with pytest.raises(ModelNotFoundError):
        get_model("heatmap_mobilenetv2_1.0_sddsd_fc26")


def test_nets_without_weights_say_so_and_how_to_train_them():
    with pytest.raises(
        WeightsError, match="no weights .*python train/train_heatmap.py --model heatmap_resnet50_sdd_jd106"
    ):
        get_model("heatmap_resnet50_sdd_jd106", pretrained=True)


def test_all_datasets_and_backbones_are_listed():
    names = list_models("heatmap_*")
    for part in (*heatmap.BACKBONES, *heatmap.DATASETS):
        assert [n for n in names if f"_{part}_" in n or n.endswith(f"_{part}")], part
    assert all(heatmap.parse(name) for name in names)


def test_a_pixel_shuffle_puts_four_channels_into_a_square():
    x = mx.nd.array(np.arange(8).reshape(1, 8, 1, 1))
    assert heatmap.PixelShuffle()(x).asnumpy().tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]
    x = mx.nd.array(np.arange(2 * 12 * 3 * 5).reshape(2, 12, 3, 5))
    found = heatmap.PixelShuffle()(x).asnumpy()
    assert found.shape == (2, 3, 6, 10)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(found[:, :, i::2, j::2], x.asnumpy()[:, 2 * i + j :: 4])


def test_weights_do_not_depend_on_the_decoder(tmp_path, crops):
    net = built(decoder="dark")
    net.save_parameters(str(tmp_path / "x.params"))
    other = get_model(SMALL, decoder="soft")
    other.load_parameters(tmp_path / "x.params")
    np.testing.assert_array_equal(other.network(crops).asnumpy(), net.network(crops).asnumpy())
    assert not [name for name in net._collect_params_with_prefix() if "decoder" in name]
    before = net(crops)[0].asnumpy()
    net.set_decoder("argmax")
    assert not np.array_equal(net(crops)[0].asnumpy(), before)
    net.set_decoder("dark")
    np.testing.assert_array_equal(net(crops)[0].asnumpy(), before)


def test_weights_of_another_strategy_are_refused(tmp_path):
    built().save_parameters(str(tmp_path / "x.params"))
    with pytest.raises(WeightsError, match="do not fit LandmarkNet"):
        get_model("heatmap_mobilenetv2_0.25_d_fc26").load_parameters(tmp_path / "x.params")


@pytest.mark.parametrize("decoder", ["dark", "soft"])
def test_a_net_runs_on_several_devices(tmp_path, crops, decoder):
    file = tmp_path / "w.params"
    built().save_parameters(str(file))
    facts = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "mean": [0, 0, 0]}
    facts |= {"std": [1, 1, 1], "licence": "test", "research_only": False, "template": [[0.1, 0.2]] * 5}
    (tmp_path / f"{SMALL}.json").write_text(json.dumps(facts))
    net = get_model(SMALL, pretrained=True, root=tmp_path, ctx=[mx.cpu(0), mx.cpu(1)], decoder=decoder)
    assert net.facts.template == ((0.1, 0.2),) * 5 and net.facts.std == (1, 1, 1)
    found = [net(crops.as_in_context(mx.cpu(i)))[0].asnumpy() for i in range(2)]
    np.testing.assert_array_equal(*found)
