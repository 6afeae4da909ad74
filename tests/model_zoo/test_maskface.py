import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import HEATMAP_DECODERS, anchors_for, decode_boxes
from gluonface.errors import InputError, WeightsError
from gluonface.faces import SCHEMES
from gluonface.geometry import widen_boxes
from gluonface.model_zoo import get_model, list_models, maskface, model_facts
from gluonface.model_zoo.backbone import Backbone
from gluonface.model_zoo.counting import count_macs, count_parameters
from gluonface.model_zoo.maskface import DATASETS, MODELS, VARIANTS, keypoint_macs
from gluonface.nn.roi import WidenBoxes
from gluonface.pipeline import FaceAnalyzer
from gluonface.training.detection import BoxesAlone, load_start

LIGHT = "maskface_mobilenet0.25_fc26"
TRAINED = "retinaface_mobilenet0.25_mask"  # comes with the package
#: Pixels of the drawn images: the levels have odd sides, too.
SIZE_HW = (96, 70)


@pytest.fixture(autouse=True)
def _fixed_weights():
    mx.random.seed(5)


def made(name=LIGHT, channels=16, **options):
    net = get_model(name, channels=channels, **options)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    return net


def images(count=2, size_hw=SIZE_HW):
    return mx.nd.array(np.random.default_rng(0).normal(0, 1, (count, 3, *size_hw)))


def arrays(outputs) -> list[np.ndarray]:
    return [output.asnumpy() for output in outputs]


def started(**options):
    """A net whose scores, boxes and heatmaps differ from place to place; those of a new one are nearly the same."""
    options = {"score_thresh": 0.0, "post_nms": 6, "frozen": False} | options
    net = made(**options)
    network = net.network
    network(images(1))
    blocks = [network.cls_head, network.box_head]
    if network.keypoint_head is not None:
        blocks.append(network.keypoint_head.deconv)
    for block in blocks:
        for parameter in block.collect_params(".*weight").values():
            parameter.set_data(mx.nd.random.normal(0, 0.2, parameter.shape))
    return net


@pytest.fixture(scope="module")
def shared():
    """A net that no test changes; all boxes are kept, the best six given out."""
    mx.random.seed(5)
    return started(nms_thresh=1.0)


# ---- names, counts, anchors ------------------------------------------------------------------------------------------


def test_every_variant_is_listed_under_the_name_of_its_backbone_and_dataset():
    names = list_models("maskface_*")
    assert names == [name for name, *_ in MODELS] and set(names) <= set(list_models(task="detection"))
    wanted = {"mobilenetv2_1.0", "resnet50_v1b", "resnext101", "resnext152"}
    assert {f"maskface_{b}_{d}" for b in wanted for d in ("widerface", "aflw", "300w", "fc26")} <= set(names)
    facts = model_facts("maskface_resnext152_300w")
    assert (facts.system, facts.backbone, facts.dataset, facts.size) == ("maskface", "resnext152", "300w", 640)


@pytest.mark.parametrize("options", [{}, {"channels": 48}, {"num_points": 19}, {"keypoints": False}])
def test_parameters_and_multiply_accumulates_are_those_of_the_facts(options):
    net = get_model(LIGHT, frozen=False, **options)
    net.network.infer_shape(mx.nd.zeros((1, 3, 64, 64)))
    assert count_parameters(net) == net.facts.params
    assert count_macs(net.network, (1, 3, 640, 640)) == pytest.approx(net.facts.gf * 1e9, abs=1)


@pytest.mark.parametrize("size_hw", [(64, 64), (70, 97), (33, 130)])
def test_predictions_have_a_row_per_anchor_and_a_level_per_stride_for_any_input_size(shared, size_hw):
    net = shared
    cls_preds, box_preds, *maps = net.network(images(2, size_hw))
    count = net.spec.count(size_hw)
    assert cls_preds.shape == (2, count, 2) and box_preds.shape == (2, count, 4)
    height, width = size_hw
    assert [m.shape for m in maps] == [(2, 16, -(-height // s), -(-width // s)) for s in (4, 8, 16, 32, 64)]
    np.testing.assert_allclose(net.anchors(images(1, size_hw)).asnumpy()[0], anchors_for(size_hw, net.spec), atol=1e-4)


def test_there_are_102300_anchors_of_16_to_406_pixels_at_640(shared):
    net = shared
    assert net.spec.count((640, 640)) == 102_300 and net.spec.per_cell == 3
    symbol = mx.sym.Group(list(net.network(mx.sym.var("data"))))
    _, shapes, _ = symbol.infer_shape(data=(1, 3, 640, 640))
    assert [shape[1] for shape in shapes[:2]] == [102_300, 102_300]
    sides = [side for sizes in net.spec.sizes for side in sizes]
    assert [sizes[0] for sizes in net.spec.sizes] == [16, 32, 64, 128, 256]
    np.testing.assert_allclose(np.log2(np.array(sides[1:]) / sides[:-1]), 1 / 3, atol=1e-12)
    assert sides[-1] == pytest.approx(406, abs=0.5)


def test_levels_share_their_predictors_but_not_their_context(shared):
    net = shared
    names = net._collect_params_with_prefix()
    for head, width in (("cls_head", 6), ("box_head", 12)):
        assert [n for n in names if f".{head}." in n] == [f"network.{head}.weight", f"network.{head}.bias"]
        assert names[f"network.{head}.weight"].shape == (width, 16, 1, 1)
    assert len({n.split(".")[2] for n in names if n.startswith("network.contexts.")}) == 5
    # The same features give the same predictions on any level.
    maps = [mx.nd.ones((1, 16, side, side)) for side in (8, 4, 2, 1, 1)]
    for head in (net.network.cls_head, net.network.box_head):
        rows = head(*maps).reshape((1, -1, 3 * head.width)).asnumpy()
        np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :1], rows.shape), rtol=1e-5)


def test_a_new_net_says_that_one_anchor_in_a_hundred_is_a_face():
    scores = made().network(images())[0].softmax(axis=-1).asnumpy()[..., 1]
    assert scores.mean() == pytest.approx(0.01, rel=0.2)


def test_the_coarsest_level_is_every_second_cell_of_the_one_before(shared):
    *_, before, last = shared.network.fpn(*shared.network.backbone(images(1, (256, 160))))
    np.testing.assert_array_equal(last.asnumpy(), before.asnumpy()[:, :, ::2, ::2])


# ---- what training leaves as it is -----------------------------------------------------------------------------------


def trained_step(net):
    x = images(2, (64, 64))
    rois = mx.nd.array([[0, 5, 5, 40, 50], [1, 0, 0, 60, 80], [-1, 0, 0, 0, 0]])
    with mx.autograd.record():
        cls_preds, box_preds, *maps = net.network(x)
        total = (cls_preds**2).sum() + (box_preds**2).sum() + (net.network.keypoint_head(rois, *maps) ** 2).sum()
    total.backward()


@pytest.mark.parametrize("name", [LIGHT, "maskface_mobilenetv2_1.0_widerface"])
def test_a_frozen_backbone_keeps_what_is_before_c2_and_all_batch_normalisation(name):
    net = started(name=name, frozen=True)
    backbone = net.network.backbone
    before = {n: p.data().asnumpy() for n, p in backbone.collect_params().items()}
    trainer = mx.gluon.Trainer(net.network.collect_params(), "sgd", {"learning_rate": 1e-3})
    trained_step(net)
    trainer.step(2)
    early = {n for layer in list(backbone.stages[0])[: backbone.early] for n in layer.collect_params()}
    moved = {n for n, p in backbone.collect_params().items() if (p.data().asnumpy() != before[n]).any()}
    convolutions = {n for n, p in backbone.collect_params().items() if len(p.shape) == 4}
    assert early and moved == convolutions - early
    others = [p for n, p in net.network.collect_params().items() if n not in before and p.grad_req != "null"]
    assert others and all(p.grad().abs().max().asscalar() > 0 for p in others)


def test_what_is_not_frozen_is_trained():
    net = started(frozen=False)
    trained_step(net)
    names = net.network.collect_params().items()
    assert all(p.grad().abs().max().asscalar() > 0 for _, p in names if p.grad_req != "null")
    statistics = [n for n, p in net.network.backbone.collect_params().items() if p.grad_req == "null"]
    assert all(n.endswith(("running_mean", "running_var")) for n in statistics)


# ---- faces -----------------------------------------------------------------------------------------------------------


def by_hand(net, x):
    """Boxes of all anchors and their scores, without suppression."""
    cls_preds, box_preds, *_ = arrays(net.network(x))
    scores = np.exp(cls_preds[..., 1]) / np.exp(cls_preds).sum(axis=-1)
    return decode_boxes(box_preds, anchors_for(x.shape[2:], net.spec)), scores


def test_boxes_are_those_of_the_best_anchors(shared):
    ids, scores, boxes, landmarks = arrays(shared(images()))
    assert ids.shape == (2, 6, 1) and landmarks.shape == (2, 6, 136) and (ids == 0).all()
    every, chance = by_hand(shared, images())
    for i in range(2):
        best = np.argsort(-chance[i])[:6]
        np.testing.assert_allclose(scores[i, :, 0], chance[i, best], rtol=1e-4)
        np.testing.assert_allclose(boxes[i], every[i, best], rtol=1e-3, atol=1e-2)


class TheseHeatmaps(mx.gluon.HybridBlock):
    """In the place of a keypoint head: looks at boxes widened as asked for, and has these logits for them."""

    def __init__(self, logits, roi_scale):
        super().__init__()
        self.logits, self.widen = logits, WidenBoxes(roi_scale)

    def forward(self, rois, *maps):
        return self.logits


@pytest.mark.parametrize("roi_scale", [1, 1.5])
@pytest.mark.parametrize("decoder", HEATMAP_DECODERS)
def test_points_are_read_off_to_a_fraction_of_a_cell_of_the_box(decoder, roi_scale, rng):
    net = get_model(LIGHT, num_points=5, decoder=decoder)
    net.decoder.initialize()
    boxes = np.array([[0, 10, 20, 66, 132], [1, -8.5, 3.25, 30, 99], [0, 100.5, 7, 128.5, 35]], np.float32)
    cells = rng.uniform(12, 44, (3, 5, 2)).astype(np.float32)
    y, x = np.mgrid[:56, :56] + 0.5
    away = (x - cells[..., 0, None, None]) ** 2 + (y - cells[..., 1, None, None]) ** 2
    # The logarithm of a Gaussian, but for a constant that a softmax does not see.
    logits = mx.nd.array(17 - away / (2 * 1.5**2))
    object.__setattr__(net.network, "keypoint_head", TheseHeatmaps(logits, roi_scale))
    found = net.find_points(mx.nd, mx.nd.array(boxes)).asnumpy().reshape(3, 5, 2)
    boxes[:, 1:] = widen_boxes(boxes[:, 1:], roi_scale)
    size = boxes[:, None, 3:] - boxes[:, None, 1:3]
    expected = boxes[:, None, 1:3] + cells / 56 * size
    off = np.abs(found - expected) / size * 56
    assert off.max() < {"dark": 0.01, "soft": 0.1}.get(decoder, 0.51)


def test_a_batch_gives_what_its_images_give_alone(shared):
    x = images(3)
    together = arrays(shared(x))
    assert np.ptp(together[3][..., 0]) > 1
    for i in range(3):
        for whole, alone in zip(together, shared(x[i : i + 1]), strict=True):
            np.testing.assert_allclose(whole[i], alone.asnumpy()[0], atol=5e-2)


def test_more_faces_than_are_looked_at_together_have_the_same_points(shared, monkeypatch):
    expected = arrays(shared(images()))
    monkeypatch.setattr(maskface, "FACES_AT_ONCE", 5)
    for found, wanted in zip(shared(images()), expected, strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted, atol=5e-2)


def test_points_are_looked_for_in_boxes_of_the_score_that_is_asked_for(shared, monkeypatch):
    x = images()
    ids, scores, boxes, landmarks = arrays(shared(x))
    score_thresh = float(np.median(scores[scores >= 0]))
    looked_at = []
    find_points = shared.find_points

    def counted(F, rois, *maps):
        looked_at.append(len(rois))
        return find_points(F, rois, *maps)

    monkeypatch.setattr(shared, "find_points", counted)
    found = arrays(shared.finish(x, shared.network(x), score_thresh))
    wanted = scores[..., 0] >= score_thresh
    assert 0 < sum(looked_at) <= wanted.sum() < (ids[..., 0] >= 0).sum()
    for before, after in zip((ids, scores, boxes), found):
        np.testing.assert_array_equal(after[wanted], before[wanted])
    np.testing.assert_allclose(found[3][wanted], landmarks[wanted], atol=5e-2)
    assert (found[3][~wanted] == -1).all()


@pytest.mark.parametrize("static", [False, True])
def test_a_hybridised_net_gives_the_imperative_faces(shared, static):
    batches = images(1), images(3)
    expected = [arrays(shared(x)) for x in batches]
    shared.hybridize(static_alloc=static)
    try:
        for x, faces in zip((*batches, *batches), expected * 2):
            for found, wanted in zip(shared(x), faces, strict=True):
                np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-3, atol=5e-2)
    finally:
        shared.hybridize(False)


def test_a_net_may_be_hybridised_before_its_first_pass():
    net = made(post_nms=3, score_thresh=0.0)
    net.hybridize()
    assert [o.shape for o in net(images(1))] == [(1, 3, 1), (1, 3, 1), (1, 3, 4), (1, 3, 136)]


def test_exported_as_one_graph_it_gives_the_same_faces_and_padding(tmp_path):
    # Few boxes of the second image are left, so that there is padding.
    net = started(post_nms=8, nms_thresh=0.2)
    x = images()
    x[1] = 0
    _, scores, *_ = net(x)
    threshold = float(np.sort(scores.asnumpy().ravel())[6] + 1e-7)
    net.set_nms(0.2, 1000, 8, threshold)
    expected = arrays(net(x))
    faces = expected[0][..., 0] >= 0
    assert faces.any() and not faces.all() and (expected[3][~faces] == -1).all()
    net.export(str(tmp_path / "maskface"))
    again = mx.gluon.SymbolBlock.imports(
        str(tmp_path / "maskface-symbol.json"), ["data"], str(tmp_path / "maskface-0000.params")
    )
    for found, wanted in zip(again(x), expected, strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-3, atol=5e-2)


def test_where_no_face_is_found_no_point_is_looked_for():
    net = made(post_nms=7, score_thresh=0.999999)
    net.network.keypoint_head.forward = lambda *_: pytest.fail("looked for points")
    outputs = arrays(net(images()))
    assert [o.shape for o in outputs] == [(2, 7, 1), (2, 7, 1), (2, 7, 4), (2, 7, 136)]
    assert all((o == -1).all() for o in outputs)


def test_without_keypoints_it_gives_the_same_boxes_alone(shared):
    net, plain = shared, started(keypoints=False, nms_thresh=1.0)
    assert plain.network.keypoint_head is None and len(plain.network(images())) == 2
    ours = plain._collect_params_with_prefix()
    for name, parameter in net._collect_params_with_prefix().items():
        assert (name in ours) != name.startswith("network.keypoint_head.")
        if name in ours:
            ours[name].set_data(parameter.data())
    for found, wanted in zip(arrays(plain(images())), arrays(net(images()))[:3], strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_net_on_two_devices_finds_the_same_faces_on_each():
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = get_model(LIGHT, channels=16, ctx=contexts, score_thresh=0.0, post_nms=4)
    net.initialize(mx.init.MSRAPrelu(slope=0), ctx=contexts)
    for parameter in net.network.keypoint_head.deconv.collect_params(".*weight").values():
        parameter.set_data(mx.nd.random.normal(0, 1, parameter.shape))
    first, second = (net(images(1).as_in_context(ctx)) for ctx in contexts)
    assert [o.context for o in (*first, *second)] == [contexts[0]] * 4 + [contexts[1]] * 4
    for found, wanted in zip(second, first, strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), atol=5e-2)


@pytest.mark.parametrize("num_points", [5, 68])
def test_faces_of_an_analyzer_have_five_points_and_the_dense_ones(shared, num_points, rng):
    net = shared if num_points == 68 else started(num_points=num_points)
    analyzer = FaceAnalyzer(net, size=96, score_thresh=0.0)
    photo = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    faces, again = analyzer([photo, photo])
    assert len(faces) and faces.landmarks5.shape == (len(faces), 5, 2)
    np.testing.assert_allclose(again.landmarks5, faces.landmarks5, atol=0.1)
    if num_points == 5:
        assert faces.landmarks is None
    else:
        assert faces.landmarks.shape == (len(faces), num_points, 2)
        np.testing.assert_allclose(
            faces.landmarks5, SCHEMES[str(num_points)].five_points(faces.landmarks), rtol=1e-5, atol=1e-4
        )


def test_canvases_end_where_photos_do_since_group_normalisation_looks_at_all_of_them(shared, rng):
    analyzer = FaceAnalyzer(shared, size=96, score_thresh=0.0)
    photos = [rng.integers(0, 256, size).astype(np.uint8) for size in ((40, 96, 3), (192, 130, 3), (40, 96, 3))]
    assert [analyzer.letterbox_for(photo.shape[:2]).canvas_hw for photo in photos] == [(64, 96), (96, 96), (64, 96)]
    assert analyzer.letterbox_for((64, 192)).resized_hw == (32, 96)
    for size, canvas_hw in (((96, 96), (96, 96)), (None, (64, 96))):
        assert FaceAnalyzer(shared, size=size).letterbox_for((40, 96)).canvas_hw == canvas_hw
    assert BoxesAlone(shared).close_canvas
    assert FaceAnalyzer(BoxesAlone(shared), size=96).letterbox_for((40, 96)).canvas_hw == (64, 96)
    for faces, photo in zip(analyzer(photos), photos):
        alone = analyzer(photo)
        assert len(alone) == len(faces) > 0
        np.testing.assert_allclose(faces.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(faces.landmarks, alone.landmarks, atol=0.1)


def test_an_analyzer_looks_for_the_points_of_the_faces_it_gives_alone(shared, monkeypatch, rng):
    photo = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    scores = FaceAnalyzer(shared, size=96, score_thresh=0.0)(photo).scores
    thresholds, finish = [], shared.finish
    monkeypatch.setattr(shared, "finish", lambda x, preds, t: (thresholds.append(t), finish(x, preds, t))[1])
    middle = float(np.median(scores))
    faces = FaceAnalyzer(shared, size=96, score_thresh=middle)(photo)
    assert thresholds == [middle] and len(faces) == (scores >= middle).sum()
    assert (faces.landmarks.reshape(len(faces), -1) != -1).any(axis=1).all()
    FaceAnalyzer(shared, size=96).detect_canvas(np.zeros((1, 3, 96, 96), np.float32), middle)
    assert thresholds == [middle, middle]


# ---- weights and options ---------------------------------------------------------------------------------------------


def test_weights_written_by_one_net_are_read_by_another_with_another_decoder(shared, tmp_path):
    net = shared
    net.save_parameters(str(tmp_path / "net.params"))
    again = get_model(LIGHT, channels=16, nms_thresh=1.0, score_thresh=0.0, post_nms=6, decoder="argmax")
    again.load_parameters(str(tmp_path / "net.params"))
    again.set_decoder("dark")
    for found, wanted in zip(again(images()), arrays(net(images())), strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted, atol=1e-3)
    again.set_decoder("argmax")
    assert not any("decoder" in name for name in net._collect_params_with_prefix())
    with pytest.raises(WeightsError):
        get_model(LIGHT, channels=16, num_points=5).load_parameters(str(tmp_path / "net.params"))


def test_the_backbone_of_a_retinaface_starts_that_of_a_maskface():
    net = made()
    load_start(net, TRAINED)
    source = get_model(TRAINED, pretrained=True)
    for found, wanted in zip(net.network.backbone(images())[1:], source.network.backbone(images()), strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), rtol=1e-4, atol=1e-4)


def test_the_finer_map_of_a_backbone_does_not_change_the_others():
    plain, early = Backbone("mobilenetv2_1.0"), Backbone("mobilenetv2_1.0", early=True)
    plain.initialize(mx.init.MSRAPrelu(slope=0))
    early.initialize()
    x = images(1)
    expected = arrays(plain(x))
    early(x)
    for name, parameter in early._collect_params_with_prefix().items():
        parameter.set_data(plain._collect_params_with_prefix()[name].data())
    first, *found = arrays(early(x))
    assert first.shape == (1, 24, 24, 18) and early.channels == (24, *plain.channels)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_resnexts_have_32_groups_of_8_channels():
    for row, blocks in ((VARIANTS["resnext101"], 33), (VARIANTS["resnext152"], 50)):
        backbone = Backbone(row.backbone, early=True)
        grouped = [b for b in all_blocks(backbone) if isinstance(b, mx.gluon.nn.Conv2D) and b._kwargs["num_group"] > 1]
        assert len(grouped) == blocks
        assert [(b._kwargs["num_group"], b._channels) for b in (grouped[0], grouped[-1])] == [(32, 256), (32, 2048)]


def all_blocks(block):
    found = []
    block.apply(found.append)
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 30}, "expected channels to be a multiple of 4, got 30"),
        ({"channels": 0}, "expected channels to be a multiple of 4, got 0"),
        ({"num_points": 7}, "expected num_points among 5, .* got 7"),
        ({"roi_scale": 0.9}, "expected roi_scale to be from 1 to 2, times the box, got 0.9"),
        ({"k0": 1.5}, "expected k0 to be from 2 to 6, the levels of the pyramid, got 1.5"),
        ({"decoder": "mean"}, "expected a decoder among dark, .* got 'mean'"),
        ({"head": "shared"}, "has no head; its options are"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        get_model(LIGHT, **options)


def test_a_backbone_without_a_finer_map_or_weights_is_refused():
    with pytest.raises(InputError, match="with a map of stride 4 to start from, got shufflenetv2_1.0"):
        Backbone("shufflenetv2_1.0", early=True)
    with pytest.raises(WeightsError, match="GluonCV has no ImageNet weights of this net"):
        get_model("maskface_resnext101_widerface", pretrained_base=True)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_dataset_says_how_many_points_a_face_has(dataset):
    net = get_model(f"maskface_mobilenet0.25_{dataset}")
    assert net.num_points == {"widerface": 5, "aflw": 19, "300w": 68, "fc26": 68}[dataset]
    assert net.network.keypoint_head.deconv._channels == net.num_points
    assert keypoint_macs(64, net.num_points) == 196 * 64 * (8 * 9 * 64 + 16 * net.num_points)
