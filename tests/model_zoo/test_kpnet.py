import dataclasses

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.box_mapping import BOX_STYLES, BoxMapping, boxes_from_points, default_box_mapping
from gluonface.decode import decode_scale_map
from gluonface.errors import InputError
from gluonface.facts import ModelFacts
from gluonface.loss import MapLoss, SquarePointsLoss
from gluonface.model_zoo import kpnet
from gluonface.model_zoo.counting import count_macs, count_parameters
from gluonface.model_zoo.detector import FaceDetector
from gluonface.model_zoo.keypoint_detector import TagDetector
from gluonface.model_zoo.kpnet_backbones import DRNet, HourglassLight
from gluonface.targets import KPNetTargets

BACKBONE = pytest.mark.parametrize("backbone", kpnet.VARIANTS)


@pytest.fixture(autouse=True)
def _fixed_weights():
    mx.random.seed(7)


def facts_of(backbone="drnet", dataset="fc26"):
    figures = kpnet.figures(backbone, "", dataset)
    return ModelFacts(f"kpnet_{backbone}_{dataset}", "kpnet", backbone, dataset, **figures)


def made(backbone="drnet", dataset="fc26", lively=True, **options):
    """A net; a lively one has scale and response maps with many peaks, those of a new one are nearly flat."""
    net = kpnet.kpnet(facts_of(backbone, dataset), **options)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if lively and hasattr(net.network, "scale_head"):
        features = net.network.backbone(images())
        small = 2 / (float(features.norm().asscalar()) / features.size**0.5 * (9 * features.shape[1]) ** 0.5)
        for head in (net.network.scale_head, net.network.response_head):
            if head is not None:
                head.weight.set_data(mx.nd.random.normal(0, small, head.weight.shape))
    return net


def images(count=2, size_hw=(64, 64)):
    return mx.nd.array(np.random.default_rng(0).normal(0, 1, (count, 3, *size_hw)))


def arrays(outputs) -> list[np.ndarray]:
    return [output.asnumpy() for output in outputs]


def test_every_backbone_and_dataset_is_in_the_table():
    names = [name for name, *_ in kpnet.MODELS]
    assert {"kpnet_drnet_fc26", "kpnet_hourglass_fc26", "kpnet_drnet_aflw"} <= set(names)
    assert all(name == f"kpnet_{backbone}_{dataset}" for name, backbone, _, dataset in kpnet.MODELS)


@BACKBONE
@pytest.mark.parametrize("dataset", ["fc26", "aflw"])
def test_parameters_and_multiply_accumulates_are_those_of_the_table(backbone, dataset):
    net, facts = made(backbone, dataset), facts_of(backbone, dataset)
    assert count_parameters(net) == facts.params
    assert count_macs(net.network, (1, 3, 256, 256)) / 1e9 == pytest.approx(facts.gf, abs=6e-4)
    assert facts.size == 256


@BACKBONE
@pytest.mark.parametrize("size_hw", [(64, 64), (70, 97), (33, 130)])
def test_maps_have_a_cell_for_every_second_pixel_of_any_input(backbone, size_hw):
    scale_map, response = made(backbone).network(images(2, size_hw))
    h, w = (-(-side // 2) for side in size_hw)
    assert scale_map.shape == (2, 60, h, w) and response.shape == (2, 5, h, w)


@pytest.mark.parametrize("backbone", [DRNet, HourglassLight])
def test_a_change_of_pixels_is_seen_most_in_their_cell_and_far_around(backbone):
    net = backbone()
    net.initialize(mx.init.MSRAPrelu(slope=0))
    x = images(1, (48, 64))
    before = net(x).asnumpy()
    for row, column in ((3, 5), (20, 30), (12, 17)):
        changed = x.copy()
        changed[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 3
        difference = np.abs(net(changed).asnumpy() - before).sum(axis=(0, 1))
        top, left = np.unravel_index(difference.argmax(), difference.shape)
        # Within a cell of stride 8, where most layers are.
        assert abs(top - row) <= 4 and abs(left - column) <= 4
        assert (difference > 1e-6).mean() > 0.3


def test_outputs_have_the_hosts_form_and_are_padded_with_minus_1():
    net = made(lively=False, post_nms=7, score_thresh=0.999)
    outputs = arrays(net(images()))
    assert [o.shape for o in outputs] == [(2, 7, 1), (2, 7, 1), (2, 7, 4), (2, 7, 10)]
    assert all((o == -1).all() for o in outputs)


def test_a_new_net_finds_nothing_and_every_point_in_the_middle():
    net = made(lively=False)
    scale_map, response = net.network(images())
    assert scale_map.sigmoid().asnumpy().max() < 0.05
    places = net.network.reader(response, mx.nd.array(np.full((2, 1, 4), (10, 10, 40, 40)))).asnumpy()
    assert np.abs(places - 0.5).max() < 0.1


def test_a_batch_gives_what_its_images_give_alone():
    net = made(score_thresh=1e-5, post_nms=20)
    net.hybridize()
    x = images(3)
    together = arrays(net(x))
    for i in range(3):
        for whole, alone in zip(together, net(x[i : i + 1]), strict=True):
            np.testing.assert_allclose(whole[i], alone.asnumpy()[0], atol=5e-3)


def test_proposals_and_thresholds_can_be_changed_on_a_hybridised_net():
    net = made(score_thresh=1e-5)
    net.hybridize()
    x = images()
    many = int((net(x)[0].asnumpy() >= 0).sum())
    net.set_nms(nms_topk=4, score_thresh=1e-5)
    few = net(x)[0].asnumpy()
    assert few.shape == (2, 4, 1) and 0 < (few >= 0).sum() < many
    net.set_nms(score_thresh=1.1)
    assert (net(x)[0].asnumpy() == -1).all()
    with pytest.raises(InputError, match="nms_topk"):
        net.set_nms(nms_topk=0)


@pytest.mark.parametrize("style", BOX_STYLES)
def test_boxes_are_of_the_style_asked_for(style):
    net = made(score_thresh=1e-5, nms_thresh=1, box_style=style)
    net.hybridize()
    ids, _, boxes, landmarks = arrays(net(images()))
    there = ids[..., 0] >= 0
    points = landmarks[there].reshape(-1, 5, 2)
    assert len(points) > 10
    np.testing.assert_allclose(boxes[there], boxes_from_points(points, style=style), atol=0.05)
    net.set_box_style("tight")
    np.testing.assert_allclose(net(images())[2].asnumpy()[there][0, :2], points[0].min(axis=0), atol=0.05)


def test_a_fitted_mapping_travels_with_the_weights(tmp_path, rng):
    mapping = default_box_mapping()
    mapping = BoxMapping(mapping.frame, mapping.weights + rng.normal(0, 0.05, mapping.weights.shape))
    net, other = made(score_thresh=1e-5), made(score_thresh=1e-5)
    net.hybridize()
    x = images()
    before = net(x)[2].asnumpy()
    net.set_box_mapping(mapping)
    after = arrays(net(x))
    assert np.abs(after[2] - before).max() > 0.5
    net.save_parameters(str(tmp_path / "net.params"))
    other.load_parameters(str(tmp_path / "net.params"))
    for one, two in zip(after, arrays(other(x)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)


def test_scale_proposals_alone_are_boxes_with_their_probability():
    net = made(boxes="proposals", score_thresh=1e-5, nms_thresh=1)
    x = images(1)
    ids, scores, boxes, _ = arrays(net(x))
    squares, probabilities = decode_scale_map(net.network(x)[0].asnumpy()[0], count=100, score_thresh=1e-5)
    count = int((probabilities > 0).sum())
    assert (ids >= 0).sum() == count > 5
    np.testing.assert_allclose(scores[0, :count, 0], probabilities[:count], rtol=1e-4)
    np.testing.assert_allclose(boxes[0, :count], squares[:count], atol=1e-2)


@pytest.mark.parametrize("reader", kpnet.READERS)
def test_labelled_squares_can_take_the_place_of_proposals(reader):
    net = made(reader=reader)
    _, maps = net.network(images(1))
    squares = mx.nd.array([[[10, 10, 30, 30], [5, 20, 45, 60], [0, 0, 0, 0]]])
    points, boxes, scores = net.find_points(maps, squares, mx.nd.array([[1, 1, 0]]))
    assert points.shape == (1, 3, 5, 2) and boxes.shape == (1, 3, 4)
    assert (scores.asnumpy()[0, :2] > 0.25).all() and scores.asnumpy()[0, 2] == 0
    if reader != "regression":  # which may point anywhere
        inside = points.asnumpy()[0, 1]
        assert (inside >= (5, 20)).all() and (inside <= (45, 60)).all()


@pytest.mark.parametrize("num_points", [5, 19, 68])
@pytest.mark.parametrize("reader", kpnet.READERS)
def test_every_reader_takes_every_number_of_points(num_points, reader):
    net = made(reader=reader, num_points=num_points, score_thresh=1e-5)
    net.hybridize()
    ids, *_, landmarks = net(images(1))
    assert landmarks.shape == (1, 100, 2 * num_points) and (ids.asnumpy() >= 0).any()
    assert np.isfinite(landmarks.asnumpy()).all()


def test_a_level_of_anchors_stands_on_the_same_backbone():
    net = made(head="anchors", score_thresh=0.0, post_nms=10)
    assert isinstance(net, FaceDetector) and isinstance(net.network.backbone, DRNet)
    assert net.spec.count((256, 256)) == 3 * 128 * 128
    outputs = arrays(net(images(2, (66, 50))))
    assert [o.shape for o in outputs] == [(2, 10, 1), (2, 10, 1), (2, 10, 4), (2, 10, 10)]
    cls_preds, box_preds, landmark_preds = net.network(images(1, (66, 50)))
    count = net.spec.count((66, 50))
    assert (cls_preds.shape, box_preds.shape, landmark_preds.shape) == (
        (1, count, 2),
        (1, count, 4),
        (1, count, 10),
    )


def test_associative_embedding_stands_on_the_same_backbone():
    net = made(head="tags", score_thresh=0.0, nms_topk=20, post_nms=10)
    net.hybridize()
    assert isinstance(net, TagDetector) and isinstance(net.network.backbone, DRNet)
    outputs = arrays(net(images(2, (66, 50))))
    assert [o.shape for o in outputs] == [(2, 10, 1), (2, 10, 1), (2, 10, 4), (2, 10, 10)]
    heatmaps, tags = net.network(images(2, (66, 50)))
    assert heatmaps.shape == tags.shape == (2, 5, 33, 25)
    ids, _, boxes, landmarks = outputs
    there = ids[..., 0] >= 0
    assert there.any()
    np.testing.assert_allclose(boxes[there], boxes_from_points(landmarks[there].reshape(-1, 5, 2)), atol=0.05)
    with pytest.raises(InputError, match="nms_topk"):
        net.set_nms(nms_topk=0)


def test_exported_whole_it_gives_the_same_faces(tmp_path):
    net = made(score_thresh=1e-5, post_nms=12)
    net.hybridize()
    x = images(2, (64, 96))
    wanted = arrays(net(x))
    net.export(str(tmp_path / "net"))
    loaded = mx.gluon.SymbolBlock.imports(
        str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params")
    )
    for one, two in zip(wanted, loaded(x), strict=True):
        np.testing.assert_allclose(one, two.asnumpy(), atol=1e-3)


def test_no_parameter_of_a_hybridised_net_is_warned_about(recwarn):
    for options in ({}, {"reader": "regression", "box_style": "tight"}, {"boxes": "proposals"}):
        net = made(**options)
        net.hybridize()
        net(images(1))
    assert not [w for w in recwarn if "not used" in str(w.message)]


@pytest.mark.parametrize("reader", kpnet.READERS)
def test_a_few_steps_learn_a_face_and_its_points(reader):
    from gluonface.data.base import FaceLabels

    net = made(reader=reader, lively=False, score_thresh=0.3)
    net.network.hybridize()
    box, side = np.float32([[20, 16, 44, 46]]), 64
    points = np.float32([[[26, 28], [38, 28], [32, 34], [28, 40], [36, 40]]])
    encoder = KPNetTargets((side, side), max_squares=2, response_map=reader == "argmax")
    labels = FaceLabels(box, landmarks5=points)
    x = mx.nd.array(np.random.default_rng(1).normal(0, 1, (1, 3, side, side)))
    trainer = mx.gluon.Trainer(net.network.collect_params(), "adam", {"learning_rate": 5e-3})
    map_loss, point_loss, rng = MapLoss(1000.0), SquarePointsLoss(100.0), np.random.default_rng(0)
    for _ in range(60):
        scale_targets, squares, places, masks, *response = (
            mx.nd.array(t[None]) for t in encoder.encode_labels(labels, rng)
        )
        with mx.autograd.record():
            scale_map, maps = net.network(x)
            loss = map_loss(scale_map, scale_targets)
            if reader == "argmax":
                loss = loss + map_loss(maps, response[0])
            else:
                found = net.network.reader(maps, squares)
                loss = loss + point_loss(found, places, masks, mx.nd.ones(1))
        loss.backward()
        trainer.step(1)
    assert loss.asscalar() < 5
    with mx.autograd.record():  # with the statistics that BatchNorm learnt with
        scale_map, maps = net.network(x)
    proposals, probabilities = net.search(scale_map)
    assert probabilities.asnumpy()[0, 0] > 0.3
    found, _, _ = net.find_points(maps, proposals, probabilities)
    assert np.abs(found.asnumpy()[0, 0] - points[0]).max() < 3


def test_options_out_of_range_are_refused():
    for options, message in (
        ({"reader": "mean"}, "reader to be one of soft, argmax, regression, got 'mean'"),
        ({"boxes": "all"}, "boxes to be one of points, proposals"),
        ({"scoring": "peaks"}, "scoring to be one of mean, proposal, got 'peaks'"),
        ({"head": "mesh"}, "head to be one of keypoints, anchors, tags, got 'mesh'"),
        ({"num_points": 7}, "num_points to be one of None, 5, 19, 68, got 7"),
        ({"box_style": "round"}, "box style among corpus, tight, square"),
        ({"beta": 0}, "beta to be positive"),
        ({"pretrained_base": True}, "no pretrained weights"),
    ):
        with pytest.raises(InputError, match=message):
            kpnet.kpnet(facts_of(), **options)


def test_the_facts_are_the_net_s():
    net = kpnet.kpnet(dataclasses.replace(facts_of(), licence="mine"))
    assert net.facts.licence == "mine" and net.classes == ("face",) and net.num_points == 5
