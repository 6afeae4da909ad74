"""The detector that the flags of the scoring scripts ask for."""

import argparse
import json

import numpy as np
import pytest

from gluonface.errors import WeightsError
from gluonface.geometry import box_iou
from gluonface.model_zoo import get_model, model_facts

KPNET, MESHED = "kpnet_drnet_widerface", "retinaface_mobilenet0.25_mesh468_fc26"
MODEL, START = "mos_mobilenet0.25_fc26", "retinaface_mobilenet0.25_fc26"


@pytest.fixture
def module(script):
    return script("detectors")


def parsed(module, *words):
    parser = argparse.ArgumentParser()
    module.add_detector_arguments(parser)
    module.add_view_arguments(parser)
    args = parser.parse_args(words)
    module.check_arguments(parser, args)
    return args


def test_weights_of_a_run_can_take_the_facts_of_its_start(module, tmp_path):
    from gluonface._compat import mx

    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(tmp_path / "best.params"))
    words = ("--model", "retinaface_mobilenet0.25_widerface", "--weights", str(tmp_path / "best.params"))
    plain, _ = module.build_detector(parsed(module, *words))
    given, name = module.build_detector(parsed(module, *words, "--facts-of", START))
    assert name == "retinaface_mobilenet0.25_widerface (best.params)"
    start = model_facts(START)
    assert (given.facts.mean, given.facts.std) == (start.mean, start.std)
    assert not np.allclose(plain.facts.mean, given.facts.mean)
    assert given.facts.name == plain.facts.name


def test_a_light_net_takes_its_weights_with_the_channels_it_was_trained_with(module, tmp_path):
    from gluonface._compat import mx

    name, path = "maskface_mobilenet0.25_fc26", str(tmp_path / "best.params")
    net = get_model(name, channels=8)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(path)
    words = ("--model", name, "--weights", path)
    built, _ = module.build_detector(parsed(module, *words, "--channels", "8", "--k0", "2"))
    assert built.facts.params == net.facts.params
    with pytest.raises(WeightsError, match="do not fit"):
        module.build_detector(parsed(module, *words))


def saved_kpnet(path, **options):
    from gluonface._compat import mx

    net = get_model(KPNET, **options)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(path))
    return net


def test_a_row_of_kpnets_ablations_takes_its_weights_with_what_it_is(module, tmp_path):
    path = str(tmp_path / "last.params")
    words = ("--model", KPNET, "--weights", path)
    for flags, options in (
        (("--reader", "regression", "--num-points", "19"), {"reader": "regression", "num_points": 19}),
        (("--head", "tags"), {"head": "tags"}),
    ):
        saved_kpnet(path, **options)
        built, _ = module.build_detector(parsed(module, *words, *flags))
        assert type(built) is type(get_model(KPNET, **options)) and built.num_points == options.get("num_points", 5)
    saved_kpnet(path)
    built, _ = module.build_detector(parsed(module, *words, "--boxes", "proposals", "--scoring", "proposal"))
    assert built.boxes == "proposals" and built.peaks is None


@pytest.mark.parametrize(
    ("name", "flags", "options"),
    [
        (MESHED, ("--cascade", "no", "--mesh", "no"), {"cascade": False, "mesh": False}),
        (MESHED, ("--deformable", "yes", "--scoring", "second"), {"deformable": True, "scoring": "second"}),
        ("mos_mobilenet0.25_fc26", ("--head", "shared", "--deformable", "no"), {"head": "shared", "deformable": False}),
    ],
)
def test_rows_of_other_ablations_take_their_weights_with_what_they_are(module, tmp_path, name, flags, options):
    from gluonface._compat import mx

    path = str(tmp_path / "last.params")
    net = get_model(name, **options)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(path)
    built, _ = module.build_detector(parsed(module, "--model", name, "--weights", path, *flags))
    for key, parameter in net._collect_params_with_prefix().items():
        found = built._collect_params_with_prefix()[key]
        np.testing.assert_array_equal(found.data().asnumpy(), parameter.data().asnumpy())
    assert getattr(built, "scoring", None) == getattr(net, "scoring", None)
    with pytest.raises(WeightsError, match="do not fit"):
        module.build_detector(parsed(module, "--model", name, "--weights", path))


@pytest.mark.parametrize(
    "option", ["--cascade=no", "--reader=soft", "--head=tags", "--boxes=points", "--scoring=mean", "--num-points=5"]
)
def test_options_of_kpnet_go_with_weights_of_a_file(module, capsys, option):
    with pytest.raises(SystemExit):
        parsed(module, "--model", KPNET, option)
    assert f"{option.partition('=')[0]} go with --weights" in capsys.readouterr().err


def test_boxes_of_a_kpnet_can_be_others_than_its_weights_bring(module, tmp_path):
    from gluonface.box_mapping import default_box_mapping
    from gluonface.errors import DataError, InputError

    path, mapping = str(tmp_path / "last.params"), tmp_path / "afw.json"
    saved_kpnet(path)
    words = ("--model", KPNET, "--weights", path)
    args = parsed(module, *words, "--box-style", "tight")
    assert module.build_detector(args)[0].box_mapping.style == "tight"
    assert module.box_convention(args) == {"box_style": "tight"}
    wider = default_box_mapping().to_dict()
    wider["weights"][-1][2] *= 4
    mapping.write_text(json.dumps(wider))
    args = parsed(module, *words, "--box-mapping", str(mapping))
    net, _ = module.build_detector(args)
    np.testing.assert_allclose(net.box_mapping.weights.data().asnumpy(), wider["weights"], rtol=1e-5)
    assert module.box_convention(args) == {"box_mapping": "afw"}
    mapping.write_text("{}")
    with pytest.raises(DataError, match=r"afw\.json: expected a file of train/fit_box_mapping\.py"):
        module.build_detector(args)
    with pytest.raises(InputError, match="expected a KPNet whose boxes come from points"):
        module.set_box_mapping(get_model("retinaface_mobilenet0.25_widerface"), str(mapping))


def test_shipped_weights_can_be_told_the_style_of_boxes(module):
    args = parsed(module, "--model", "kpnet_drnet_fc26", "--box-style", "square")
    net, name = module.build_detector(args)
    assert net.box_mapping.style == "square" and name == "kpnet_drnet_fc26"


def test_shipped_weights_bring_their_options(module, capsys):
    with pytest.raises(SystemExit):
        parsed(module, "--model", MODEL, "--channels", "8")
    assert "--channels go with --weights" in capsys.readouterr().err


def test_shipped_weights_have_facts_of_their_own(module, capsys):
    with pytest.raises(SystemExit):
        parsed(module, "--model", MODEL, "--facts-of", START)
    assert "--facts-of goes with --weights" in capsys.readouterr().err


# How the photos are looked at


@pytest.fixture
def built(module, monkeypatch):
    """A function that gives the analyzer of a small net without weights, as flags of the view ask for it."""
    from gluonface._compat import mx

    def build(name, *words, **options):
        net = get_model(name, **({"channels": 8} if name.startswith("maskface") else {}))
        mx.random.seed(1)
        net.initialize(mx.init.Xavier())
        monkeypatch.setattr(module, "build_detector", lambda args: (net, name))
        return module.build_analyzer(parsed(module, "--model", name, *words), **options)[0]

    return build


def test_soft_suppression_lifts_the_caps_that_are_meant_for_suppressed_boxes(built):
    name = "retinaface_mobilenet0.25_widerface"
    settings = lambda net: (net.nms_thresh, net.nms_topk, net.post_nms, net.score_thresh)  # noqa: E731
    assert settings(built(name).net) == (0.4, 10_000, 750, 0.02)
    assert settings(built(name, "--flip", "--nms", ".5").net) == (0.5, 10_000, 750, 0.02)
    assert settings(built(name, "--flip", "--soft-nms", "linear").net) == (1, 10_000, 5000, 0.02)
    assert settings(built(name, "--flip", "--soft-nms", "linear", "--nms", ".9").net) == (0.9, 10_000, 5000, 0.02)


def test_soft_suppression_leaves_the_faces_that_a_net_of_maps_looks_at(built):
    net = built("kpnet_drnet_fc26", "--flip", "--soft-nms", "linear").net
    assert (net.nms_thresh, net.nms_topk, net.post_nms) == (1, 100, 100)


def test_the_weakest_of_a_hundred_faces_survives_soft_suppression(module, monkeypatch):
    from gluonface._compat import mx
    from gluonface.decode import LIGHT_ANCHORS, anchors_for
    from gluonface.model_zoo.detector import FaceDetector

    # Ten rows of ten faces, the last the weakest, each told by the 9 anchors nearest to it, by its own the most surely.
    centres = 64 * np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) + 36.0
    anchors = anchors_for((640, 640), LIGHT_ANCHORS)
    logits = np.full((1, len(anchors), 2), (9.0, -9.0), np.float32)
    small = np.flatnonzero(anchors[:, 2] - anchors[:, 0] == 32)
    for rank, centre in enumerate(centres):
        away = np.abs(anchors[small, :2] + 16 - centre).max(axis=1)
        near = away <= 8
        assert near.sum() == 9
        logits[0, small[near], 0], logits[0, small[near], 1] = 0, 3 - rank / 40 - away[near] / 1000

    class Crowd(mx.gluon.nn.HybridBlock):
        def hybrid_forward(self, F, x):
            return F.array(logits), F.zeros((1, len(anchors), 4)), F.zeros((1, len(anchors), 10))

    facts = model_facts("retinaface_mobilenet0.25_widerface")
    monkeypatch.setattr(module, "build_detector", lambda args: (FaceDetector(Crowd(), LIGHT_ANCHORS, facts), "crowd"))
    args = parsed(module, "--model", "crowd", "--scales", "640", "--soft-nms", "linear")
    analyzer, _ = module.build_analyzer(args)
    (found,) = module.detect(analyzer, [np.zeros((640, 640, 3), np.uint8)], args)
    faces = np.concatenate([centres - 16, centres + 16], axis=1)
    assert (box_iou(faces, found.boxes).max(axis=1) > 0.9).all()


@pytest.mark.parametrize("view", [(), ("--flip", "--soft-nms", "linear")])
def test_boxes_alone_are_those_of_the_whole_net_and_its_keypoint_head_is_never_called(module, built, view):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    found, looks, words = [], [], ("--size", "80", *view)
    for boxes_alone in (False, True):
        analyzer = built("maskface_mobilenet0.25_fc26", *words, score_thresh=0, boxes_alone=boxes_alone)
        net = analyzer.net.net if boxes_alone else analyzer.net
        net.network.keypoint_head.register_forward_hook(lambda *_, alone=boxes_alone: looks.append(alone))
        net.set_nms(net.nms_thresh, 30, 20, 0)  # few, for time
        found += module.detect(analyzer, [image], parsed(module, "--model", "x", *words))
    whole, boxes = found
    assert looks and not any(looks) and len(boxes)
    assert whole.scheme == "68" and boxes.landmarks is boxes.landmarks5 is None
    np.testing.assert_array_equal(boxes.boxes, whole.boxes)
    np.testing.assert_array_equal(boxes.scores, whole.scores)


def test_nets_that_find_points_with_their_boxes_stay_as_they_are(built):
    assert built("retinaface_mobilenet0.25_widerface", boxes_alone=True).net.num_points == 5
