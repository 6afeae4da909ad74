import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import LIGHT_ANCHORS, decode_pose
from gluonface.errors import InputError, WeightsError
from gluonface.model_zoo import get_model, list_models, model_facts
from gluonface.model_zoo.counting import count_macs, count_parameters
from gluonface.model_zoo.mos import HEADS, MODELS, TASKS, VARIANTS
from gluonface.training.detection import load_start

LIGHT = "mos_mobilenet0.25_widerface"
TRAINED = "retinaface_mobilenet0.25_mask"  # comes with the package


@pytest.fixture(autouse=True)
def _fixed_weights():
    mx.random.seed(5)


def made(name=LIGHT, **options):
    net = get_model(name, **options)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    return net


def images(count=2, size_hw=(64, 64)):
    return mx.nd.array(np.random.default_rng(0).normal(0, 1, (count, 3, *size_hw)))


def arrays(outputs) -> list[np.ndarray]:
    return [output.asnumpy() for output in outputs]


def started(**options):
    """A net whose scores, boxes and poses differ from anchor to anchor; those of a new one are nearly the same."""
    net = made(score_thresh=0.0, post_nms=20, **options)
    load_start(net, TRAINED)
    for parameter in net.network.pose_head.collect_params().values():
        parameter.set_data(mx.nd.random.normal(0, 1, parameter.shape))
    return net


def test_every_variant_is_listed_under_the_name_of_its_backbone_and_dataset():
    names = list_models("mos_*")
    assert names == [name for name, *_ in MODELS]
    assert {f"mos_{backbone}_widerface" for backbone in VARIANTS} <= set(names)
    assert "mos_mobilenet0.25_fc26" in names and set(names) <= set(list_models(task="detection"))
    facts = model_facts(LIGHT)
    assert (facts.system, facts.backbone, facts.dataset) == ("mos", "mobilenet0.25", "widerface")


@pytest.mark.parametrize("backbone", VARIANTS)
def test_parameters_and_multiply_accumulates_are_those_of_the_table(backbone):
    net = made(f"mos_{backbone}_widerface")
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    facts = model_facts(f"mos_{backbone}_widerface")
    assert count_parameters(net) == VARIANTS[backbone].params == facts.params
    gf = count_macs(net.network, (1, 3, 640, 640)) / 1e9
    assert gf == pytest.approx(VARIANTS[backbone].gf, abs=6e-4) and facts.gf == VARIANTS[backbone].gf


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size_hw", [(64, 64), (70, 97), (33, 320)])
def test_predictions_have_a_row_per_anchor_for_any_input_size(size_hw, head):
    net = made(head=head)
    x = images(2, size_hw)
    count, channels = net.spec.count(size_hw), VARIANTS["mobilenet0.25"].channels
    shapes = [output.shape for output in net.network(x)]
    assert shapes == [(2, count, 2), (2, count, 4), (2, count, 10), (2, count // 2, channels)]


def test_there_are_16800_anchors_at_640():
    net = made()
    assert net.spec is LIGHT_ANCHORS and net.spec.count((640, 640)) == 16_800
    symbol = mx.sym.Group(list(net.network(mx.sym.var("data"))))
    _, shapes, _ = symbol.infer_shape(data=(1, 3, 640, 640))
    assert [shape[1] for shape in shapes] == [16_800, 16_800, 16_800, 8_400]


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_face_s_pose_is_that_of_its_own_anchor(hybrid):
    net = started(nms_thresh=0.3)
    if hybrid:
        net.hybridize()
    x = images()
    ids, scores, _, _, pose = arrays(net(x))
    cls_preds, _, _, cells = net.network(x)
    probability = cls_preds.softmax(axis=-1).asnumpy()[..., 1]
    count = probability.shape[1]
    anchors = net.anchors(x).asnumpy()[0]
    sides = np.tile(anchors[:, 2] - anchors[:, 0], (2, 1))
    logits = net.network.pose_head(cells, mx.nd.array(np.tile(np.arange(count), (2, 1))), mx.nd.array(sides))
    every = decode_pose(logits.asnumpy())
    for i in range(2):
        rows = np.flatnonzero(ids[i, :, 0] >= 0)
        assert len(rows) > 5
        # No two scores are alike, so that a score says which anchor it is.
        own = np.abs(probability[i][None] - scores[i, rows]).argmin(axis=1)
        assert len(set(own)) == len(rows) and list(own) != sorted(own)
        np.testing.assert_allclose(pose[i, rows], every[i, own], atol=2e-2)
        assert np.ptp(pose[i, rows, 0]) > 1


def test_outputs_have_the_hosts_form_and_are_padded_with_minus_1():
    net = made(post_nms=7, score_thresh=0.999999)
    outputs = arrays(net(images()))
    assert [o.shape for o in outputs] == [(2, 7, 1), (2, 7, 1), (2, 7, 4), (2, 7, 10), (2, 7, 3)]
    assert all((o == -1).all() for o in outputs)


def test_a_batch_gives_what_its_images_give_alone():
    net = started()
    x = images(3)
    together = arrays(net(x))
    for i in range(3):
        for whole, alone in zip(together, net(x[i : i + 1]), strict=True):
            np.testing.assert_allclose(whole[i], alone.asnumpy()[0], atol=5e-3)


@pytest.mark.parametrize("head", HEADS)
def test_a_hybridised_net_gives_the_imperative_faces(head):
    net = started(head=head)
    x = images(2, (96, 64))
    expected = arrays(net(x))
    net.hybridize(static_alloc=True)
    for _ in range(2):
        for found, wanted in zip(net(x), expected, strict=True):
            np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_of_the_network_is_trained(head):
    net = started(head=head)
    x = images()
    with mx.autograd.record():
        *preds, cells = net.network(x)
        # Of each kind of anchor one.
        chosen, sides = mx.nd.array([[2, 3, 130, 131, 160, 161]] * 2), mx.nd.array([[16, 32, 64, 128, 256, 512]] * 2)
        total = sum((p**2).sum() for p in (*preds, net.network.pose_head(cells, chosen, sides)))
    total.backward()
    for name, parameter in net.network.collect_params().items():
        if parameter.grad_req != "null":
            assert np.abs(parameter.grad().asnumpy()).sum() > 0, name


def test_deformable_convolution_is_in_pyramid_and_context_and_starts_as_none():
    plain, deformable = made(), made(deformable=True)
    x = images()
    plain.network(x), deformable.network(x)
    ours, theirs = (n.network._collect_params_with_prefix() for n in (deformable, plain))
    new = {name for name in ours if "offset" in name}
    assert new and all(name.startswith(("pyramid.", "context.")) for name in new)
    assert count_parameters(deformable) > count_parameters(plain)
    assert [o.shape for o in deformable(x)] == [o.shape for o in plain(x)]
    assert set(ours) - new == set(theirs)


def test_the_shared_head_has_no_branches_and_needs_as_many_parameters_less():
    stitch, shared = made(), made(head="shared")
    for net in (stitch, shared):
        net.network(images(1))
    assert shared.network.multi_task is None
    channels, tasks = VARIANTS["mobilenet0.25"].channels, len(TASKS)
    level = tasks * (channels**2 + channels) + tasks**2 * channels
    assert count_parameters(stitch) - count_parameters(shared) == 3 * level


@pytest.mark.parametrize("option", [{"head": "shared"}, {"deformable": True}])
def test_a_retinaface_has_neither_of_the_options(option):
    with pytest.raises(
        InputError, match=f"retinaface_mobilenet0.25_widerface has no {next(iter(option))}; its options"
    ):
        get_model("retinaface_mobilenet0.25_widerface", **option)


def test_an_unknown_head_is_refused():
    with pytest.raises(InputError, match="expected head to be one of stitch, shared, got 'split'"):
        get_model(LIGHT, head="split")


@pytest.mark.parametrize("head", HEADS)
def test_the_weights_of_a_retinaface_start_a_net_that_finds_the_same_faces(head):
    source = get_model(TRAINED, pretrained=True)
    net = made(head=head)
    load_start(net, TRAINED)
    assert (net.facts.mean, net.facts.std) == (source.facts.mean, source.facts.std)
    assert net.facts.name == LIGHT
    x = images(2, (96, 64)) * 40
    *preds, _ = net.network(x)
    for found, wanted in zip(preds, source.network(x), strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), rtol=1e-4, atol=1e-4)
    *found, pose = arrays(net(x))
    for ours, theirs in zip(found, arrays(source(x)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    assert (np.abs(pose) <= 99).all()


def test_the_weights_of_a_retinaface_of_another_backbone_are_refused():
    with pytest.raises(InputError, match="with the backbone mobilenetv2_1.0"):
        load_start(made("mos_mobilenetv2_1.0_widerface"), TRAINED)


def test_weights_written_by_one_net_are_read_by_another(tmp_path):
    net, again = started(), get_model(LIGHT, score_thresh=0.0, post_nms=20)
    x = images(1)
    expected = arrays(net(x))
    net.save_parameters(str(tmp_path / "mos.params"))
    load_start(again, str(tmp_path / "mos.params"))
    for found, wanted in zip(again(x), expected, strict=True):
        np.testing.assert_array_equal(found.asnumpy(), wanted)
    with pytest.raises(WeightsError, match="do not fit"):
        load_start(made(head="shared"), str(tmp_path / "mos.params"))
