import dataclasses

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import decode_boxes, decode_points
from gluonface.errors import InputError, ModelNotFoundError
from gluonface.model_zoo import get_model, list_models, model_facts
from gluonface.model_zoo.counting import count_parameters
from gluonface.model_zoo.retinaface_mesh import retinaface_mesh
from gluonface.pipeline import FaceAnalyzer
from gluonface.targets import RETINAFACE_ANCHORS, square_anchors
from gluonface.training.detection import load_start


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


# ---- the whole of the paper ------------------------------------------------------------------------------------------

WHOLE = "retinaface_mobilenet0.25_mesh468_fc26"
SMALL = "retinaface_mobilenet0.25_mesh5_fc26"
SWITCHES = pytest.mark.parametrize(
    "options",
    [
        {},
        {"scoring": "first"},
        {"scoring": "second"},
        {"cascade": False},
        {"mesh": False},
        {"cascade": False, "mesh": False},
    ],
    ids=str,
)


def made(name=SMALL, **options):
    """A net whose scores, boxes and meshes differ from anchor to anchor; those of a new one are nearly the same."""
    mx.random.seed(3)
    net = get_model(name, **{"score_thresh": 0.0, "post_nms": 30, **options})
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    for key, parameter in net._collect_params_with_prefix().items():
        if "head." in key:
            parameter.set_data(mx.nd.random.normal(0, 0.3 if "box" in key else 1.0, parameter.shape))
    # Logits up to 5, whatever the switches make of the maps: of larger ones the scores would be alike.
    outputs = net.network(images())
    heads = [(net.network.cls_head, outputs[0])]
    heads += [(net.network.first_cls_head, outputs[-2])] if net.network.cascade else []
    for head, logits in heads:
        for parameter in head.collect_params().values():
            parameter.set_data(parameter.data() * 5 / np.abs(logits.asnumpy()).max())
    return net


def images(count=2, size_hw=(64, 64)):
    return mx.nd.array(np.random.default_rng(0).normal(0, 1, (count, 3, *size_hw)))


def arrays(outputs) -> list[np.ndarray]:
    return [output.asnumpy() for output in outputs]


def test_models_with_a_mesh_are_listed_and_any_number_of_vertices_is_understood():
    assert [name for name in list_models("retinaface_*") if "_mesh" in name] == [
        WHOLE,
        "retinaface_resnet50_v1b_mesh1103_widerface",
        "retinaface_resnet152_v1b_mesh1103_widerface",
    ]
    facts = model_facts("retinaface_resnet50_v1b_mesh5023_widerface")
    assert (facts.system, facts.backbone, facts.variant) == ("retinaface", "resnet50_v1b", "mesh5023")
    for name in ("retinaface_vgg16_mesh468_fc26", "retinaface_mobilenet0.25_mesh0_fc26", SMALL.replace("fc26", "x")):
        with pytest.raises(ModelNotFoundError):
            model_facts(name)


def test_a_light_variant_has_none_of_the_switches():
    for option in ("cascade", "mesh", "deformable", "scoring"):
        with pytest.raises(InputError, match=f"has no {option}; its options are nms_thresh"):
            get_model("retinaface_mobilenet0.25_widerface", **{option: True})
    with pytest.raises(InputError, match="has no head; its options are .*cascade, deformable, mesh"):
        get_model(WHOLE, head="stitch")


def test_scores_are_of_either_head_or_of_both_and_of_a_cascade_alone():
    assert get_model(SMALL).scoring == "mean" and get_model(SMALL, scoring="first").scoring == "first"
    with pytest.raises(InputError, match=f"{SMALL}: expected scoring to be one of mean, first, second, got 'third'"):
        get_model(SMALL, scoring="third")
    with pytest.raises(InputError, match=f"{SMALL}: scoring chooses between the two heads of a cascade"):
        get_model(SMALL, scoring="mean", cascade=False)
    facts = dataclasses.replace(model_facts(SMALL), scoring="second")
    assert retinaface_mesh(facts).scoring == "second" and retinaface_mesh(facts, scoring="mean").scoring == "mean"


@SWITCHES
def test_the_whole_net_has_a_row_per_anchor_for_any_input_size(options):
    net = made(**options)
    cells = [] if options.get("mesh") is False else [(2, "cells", 64)]
    first = [] if options.get("cascade") is False else [(2, "anchors", 2), (2, "anchors", 4)]
    for size_hw in ((64, 64), (70, 97)):
        count = net.spec.count(size_hw)
        wanted = [(2, "anchors", 2), (2, "anchors", 4), (2, "anchors", 10), *cells, *first]
        sizes = {"anchors": count, "cells": count // 3}
        shapes = [tuple(sizes.get(n, n) for n in shape) for shape in wanted]
        assert [p.shape for p in net.network(images(2, size_hw))] == shapes


@pytest.mark.parametrize("hybrid", [False, True])
@SWITCHES
def test_faces_are_decoded_in_the_boxes_of_the_first_head_and_have_the_mesh_of_their_own_anchor(options, hybrid):
    net = made(**options, nms_thresh=0.5)
    if hybrid:
        net.hybridize()
    x = images()
    found = arrays(net(x))
    cls, box, landmark, *rest = net.network(x)
    anchors, first_head = np.tile(net.anchors(x).asnumpy(), (2, 1, 1)), net.network.cascade
    if first_head:
        first = decode_boxes(rest[-1].asnumpy(), anchors)
        np.testing.assert_allclose(net.first_boxes(x, rest[-1]).asnumpy(), first, rtol=1e-4, atol=1e-2)
        assert np.abs(first - anchors).max() > 5
        anchors = square_anchors(first)
    logits = {"mean": (cls + rest[-2]) / 2, "first": rest[-2], "second": cls}[net.scoring] if first_head else cls
    scores = logits.softmax(axis=-1).asnumpy()[..., 1]
    boxes = np.stack([decode_boxes(b, a) for b, a in zip(box.asnumpy(), anchors)])
    points = np.stack([decode_points(p, a).reshape(-1, 10) for p, a in zip(landmark.asnumpy(), anchors)])
    if net.network.mesh_head is not None:
        numbers = mx.nd.array(np.tile(np.arange(scores.shape[1]), (2, 1)))
        coded = net.network.mesh_head(rest[0], numbers).asnumpy().reshape(2, -1, 5, 3)
        sides = anchors[..., 2] - anchors[..., 0]
        meshes = coded * sides[..., None, None]
        meshes[..., :2] += ((anchors[..., :2] + anchors[..., 2:]) / 2)[:, :, None]
    assert len(found) == (4 if net.network.mesh_head is None else 5)
    for i in range(2):
        rows = np.flatnonzero(found[0][i, :, 0] >= 0)
        assert len(rows) > 5
        # Score and box say which anchor it is: where a coarse map is empty, scores are alike and boxes are not.
        alike = np.abs(scores[i][None] - found[1][i, rows]) < 1e-6
        away = np.abs(boxes[i][None] - found[2][i, rows, None]).sum(axis=2)
        own = np.where(alike, away, np.inf).argmin(axis=1)
        assert len(set(own)) == len(rows)
        np.testing.assert_allclose(found[2][i, rows], boxes[i, own], rtol=1e-3, atol=0.05)
        np.testing.assert_allclose(found[3][i, rows], points[i, own], rtol=1e-3, atol=0.05)
        if net.network.mesh_head is not None:
            wanted = meshes[i, own].reshape(len(rows), -1)
            np.testing.assert_allclose(found[4][i, rows], wanted, rtol=1e-3, atol=0.05)
            assert np.ptp(wanted[:, 2::3]) > 1


def test_the_whole_net_pads_with_minus_1_and_a_batch_gives_what_its_images_give_alone():
    net = made()
    x = images(3)
    together = arrays(net(x))
    assert [o.shape for o in together] == [(3, 30, 1), (3, 30, 1), (3, 30, 4), (3, 30, 10), (3, 30, 15)]
    for i in range(3):
        for whole, alone in zip(together, net(x[i : i + 1]), strict=True):
            np.testing.assert_allclose(whole[i], alone.asnumpy()[0], rtol=1e-3, atol=0.05)
    net.set_nms(score_thresh=1.0, post_nms=7)
    assert all((o == -1).all() and o.shape[1] == 7 for o in arrays(net(x)))


def test_meshes_are_worked_out_for_the_rows_that_are_faces_of_the_score_asked_for(monkeypatch):
    net, x, asked = made(), images(), []
    preds, head = net.network(x), net.network.mesh_head
    monkeypatch.setattr(
        head, "forward", lambda cells, rows: (asked.append(rows.shape[1]), type(head).forward(head, cells, rows))[1]
    )
    everything = arrays(net.finish(x, preds))
    scores = everything[1][:, :, 0]
    assert asked == [30] and (scores >= 0).sum(axis=1).tolist() == [30, 30]
    for count in (0, 1, 3, 11):
        middle = (
            1.0 if count == 0 else (np.sort(scores.max(axis=0))[-count - 1] + np.sort(scores.max(axis=0))[-count]) / 2
        )
        few = arrays(net.finish(x, preds, middle))
        most = int((scores >= middle).sum(axis=1).max())
        assert asked[-1] == max(1, 2 ** int(np.ceil(np.log2(max(1, most)))))
        assert few[4].shape == everything[4].shape and (few[4][:, asked[-1] :] == -1).all()
        sure = scores >= middle
        assert sure.any() or count == 0
        np.testing.assert_allclose(few[4][sure], everything[4][sure], rtol=1e-4, atol=1e-3)


def test_every_parameter_of_the_whole_network_is_trained_and_on_two_devices_alike():
    net, contexts = made(), [mx.cpu(0), mx.cpu(1)]
    net.collect_params().reset_ctx(contexts)
    x = images()
    outputs = []
    for context in contexts:
        with mx.autograd.record():
            *preds, cells, first_cls, first_box = net.network(x.as_in_context(context))
            mesh = net.network.mesh_head(cells, mx.nd.array([[0, 400, 770], [1, 2, 1021]], ctx=context))
            total = sum((p**2).mean() for p in (*preds, first_cls, first_box, mesh))
        total.backward()
        outputs.append([p.asnumpy() for p in (*preds, first_cls, first_box, mesh)])
    for ours, theirs in zip(*outputs):
        np.testing.assert_array_equal(ours, theirs)
    for name, parameter in net.network.collect_params().items():
        if parameter.grad_req != "null":
            gradients = [g.asnumpy() for g in parameter.list_grad()]
            assert np.abs(gradients[0]).sum() > 0, name
            np.testing.assert_array_equal(*gradients)


def test_the_second_head_s_boxes_send_no_gradient_to_the_first():
    net = made(mesh=False)
    x = images(1)
    with mx.autograd.record():
        _, box, *_ = net.network(x)
        total = (box**2).mean()
    total.backward()
    assert not net.network.first_box_head.weight.grad().asnumpy().any()
    assert np.abs(net.network.contexts[0].conv3[0].weight.grad().asnumpy()).sum() > 0


def test_deformable_convolution_is_in_laterals_and_both_contexts_and_starts_as_none():
    plain, deformable = made(), made(deformable=True)
    ours, theirs = (n.network._collect_params_with_prefix() for n in (deformable, plain))
    new = {name for name in ours if "offset" in name}
    assert {name.split(".")[0] for name in new} == {"fpn", "contexts", "second_contexts"}
    assert set(ours) - new == set(theirs) and not any("extra" in name for name in new)
    assert get_model("retinaface_resnet50_v1b_mesh1103_widerface").network.fpn.smooth[0][0].offset is not None
    for name in new:
        assert not ours[name].data().asnumpy().any()
    for name, parameter in theirs.items():
        ours[name].set_data(parameter.data())
    x = images(1)
    for found, wanted in zip(deformable.network(x), plain.network(x), strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), rtol=1e-3, atol=1e-2)


def test_the_weights_of_a_light_net_start_the_backbone_of_the_whole_one():
    source = get_model("retinaface_mobilenet0.25_mask", pretrained=True)
    net = made()
    before = net.network.cls_head.weight.data().asnumpy()
    load_start(net, "retinaface_mobilenet0.25_mask")
    ours, theirs = (n.network.backbone._collect_params_with_prefix() for n in (net, source))
    for name in theirs:
        np.testing.assert_array_equal(ours[name].data().asnumpy(), theirs[name].data().asnumpy())
    np.testing.assert_array_equal(net.network.cls_head.weight.data().asnumpy(), before)
    assert net.facts.mean == source.facts.mean


def test_an_analyzer_gives_meshes_and_poses_in_pixels_of_the_photo():
    net = made(WHOLE, post_nms=9)
    photo = np.random.default_rng(0).integers(0, 255, (128, 96, 3), np.uint8)
    faces = FaceAnalyzer(net, size=(64, 48), score_thresh=0.0)(photo)
    assert len(faces) > 2 and faces.mesh.shape == (len(faces), 468, 3) and faces.pose.shape == (len(faces), 3)
    raw = arrays(net(mx.nd.array(_canvas(net, photo))))
    kept = [np.abs(raw[1][0, :, 0] - score).argmin() for score in faces.scores]
    np.testing.assert_allclose(faces.mesh, 2 * raw[4][0, kept].reshape(-1, 468, 3), rtol=1e-3, atol=0.1)


def _canvas(net, photo) -> np.ndarray:
    from gluonface.analysis import preprocess
    from gluonface.geometry import letterbox

    return preprocess(photo, letterbox(photo.shape[:2], (64, 48)), net.facts)[None]


def test_switches_cost_what_they_leave_out():
    whole, alone, single = made(), made(mesh=False), made(cascade=False)
    assert count_parameters(whole) - count_parameters(alone) == 3 * 5 * 3 * (64 + 1)
    # A second context module of 5 convolutions a level, and the first head of 6 numbers an anchor.
    context = 9 * (64 * 32 + 64 * 16 + 3 * 16 * 16) + 2 * (32 + 4 * 16)
    assert count_parameters(whole) - count_parameters(single) == 5 * context + 18 * 65
    assert whole.spec is RETINAFACE_ANCHORS
