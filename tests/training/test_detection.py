"""What the scripts that train detectors share."""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.data.base import FaceLabels, FaceSample
from gluonface.data.jsonl import write_jsonl
from gluonface.errors import DataError, InputError, WeightsError
from gluonface.faces import Faces
from gluonface.image import save_image
from gluonface.model_zoo import get_model, model_facts
from gluonface.model_zoo.maskface import maskface
from gluonface.pipeline import FaceAnalyzer
from gluonface.targets import AnchorTargets, MOSTargets
from gluonface.training.detection import (
    BoxesAlone,
    NormalisedBatches,
    add_anchor_arguments,
    add_size_arguments,
    add_view_arguments,
    anchor_targets,
    detection_validator,
    errors_in_squares,
    found_points,
    idle_view_flags,
    images_of,
    landmark_validator,
    load_start,
    square_validator,
    training_views,
)
from gluonface.training.inputs import add_data_arguments

TRAINED = "retinaface_mobilenet0.25_mask"


def parse(*words) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_data_arguments(parser, "AP")
    add_size_arguments(parser)
    add_view_arguments(parser)
    add_anchor_arguments(parser)
    return parser.parse_args(["--train", "x.jsonl", *words])


@pytest.fixture
def samples(tmp_path, rng) -> list[FaceSample]:
    """Four photos of noise with a bright disc, each of its own source."""
    made = []
    for i in range(4):
        image = rng.integers(0, 80, (72, 96, 3), dtype=np.uint8)
        cv2.circle(image, (40 + 4 * i, 36), 14, (230, 200, 170), -1)
        save_image(tmp_path / f"{i}.png", image)
        box = np.array([[26 + 4 * i, 22, 54 + 4 * i, 50]])
        made.append(FaceSample(str(tmp_path / f"{i}.png"), (72, 96), FaceLabels(box), source=f"s{i}"))
    return made


# Views


def test_the_flags_say_what_an_epoch_s_views_are(samples):
    words = "--data-shape 64 --face-prob .5 --face-sizes 16 32 --face-size-weights 1 3 --mosaic .25 --rotate .4"
    words += " --max-degrees 20 --quarter-turns .1 --degrade --min-face 5 --crop-ratios .5 1 --source-weight s1=3"
    views = training_views(parse(*words.split()), samples, seed=9)
    transform = views.transform
    assert (transform.size, transform.face_prob, transform.face_sizes) == (64, 0.5, (16, 32))
    assert transform.face_size_weights == (0.25, 0.75) and list(transform.crop_ratios) == [0.5, 1]
    assert (transform.rotate_prob, transform.max_degrees, transform.quarter_turn_prob) == (0.4, 20, 0.1)
    assert transform.degrade is not None and transform.min_face == 5
    assert (views.seed, views.mosaic_prob, len(views)) == (9, 0.25, 6)
    image, labels = views.sample(0, 0)
    assert image.shape == (64, 64, 3) and len(labels)


def test_without_flags_the_views_are_the_paper_s(samples):
    views = training_views(parse(), samples, seed=0)
    transform = views.transform
    assert (transform.size, transform.face_prob, transform.rotate_prob, views.mosaic_prob) == (640, 0, 0, 0)
    assert transform.degrade is None and transform.crop_ratios == (0.3, 0.45, 0.6, 0.8, 1.0) and len(views) == 4


def test_a_source_that_is_not_there_is_refused(samples):
    with pytest.raises(InputError, match="source_weights must name sources"):
        training_views(parse("--source-weight", "other=2"), samples, seed=0)


def test_targets_are_of_the_class_and_options_asked_for():
    args = parse("--data-shape", "96", "--positive-iou", ".5", "--negative-iou", ".3")
    plain, mos = anchor_targets(args), anchor_targets(args, MOSTargets, min_pose_face=20.0)
    assert type(plain) is AnchorTargets and type(mos) is MOSTargets and mos.min_pose_face == 20
    for targets in (plain, mos):
        assert (targets.size_hw, targets.positive_iou, targets.negative_iou) == ((96, 96), 0.5, 0.3)


# Normalised batches


def test_each_factor_makes_a_sum_over_images_a_mean_over_what_is_counted():
    batches = [
        (np.zeros((4, 2)), np.array([[1, 0], [1, 1], [0, 0], [-1, 0]])),
        (np.zeros((2, 2)), np.array([[0, 0], [0, -1]])),
    ]
    normalised = NormalisedBatches(batches, lambda x, c: (c == 1).sum(), lambda x, c: 0.5, lambda x, c: c.size)
    assert len(normalised) == 2
    first, second = normalised
    assert first[0] is batches[0][0] and first[1] is batches[0][1]
    assert [factor.tolist() for factor in first[2:]] == [[np.float32(4 / 3)] * 4, [4.0] * 4, [0.5] * 4]
    assert [factor.tolist() for factor in second[2:]] == [[2.0] * 2, [2.0] * 2, [0.5] * 2]
    assert {factor.dtype for factor in (*first[2:], *second[2:])} == {np.dtype(np.float32)}


# Where weights start


def test_a_listed_model_starts_one_of_its_kind_with_its_own_preprocessing():
    net, source = get_model("retinaface_mobilenet0.25_widerface"), get_model(TRAINED, pretrained=True)
    net.initialize()
    before = net.facts
    load_start(net, TRAINED)
    assert (net.facts.mean, net.facts.std) == (source.facts.mean, source.facts.std) != (before.mean, before.std)
    assert net.facts.name == before.name
    ours, theirs = (n._collect_params_with_prefix() for n in (net, source))
    for name in theirs:
        np.testing.assert_array_equal(ours[name].data().asnumpy(), theirs[name].data().asnumpy())


def test_a_model_without_weights_or_a_damaged_file_is_no_start(tmp_path):
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize()
    with pytest.raises(WeightsError, match="no weights come with this model"):
        load_start(net, "retinaface_mobilenet0.25_widerface")
    (tmp_path / "x.params").write_bytes(b"nothing")
    with pytest.raises(WeightsError):
        load_start(net, str(tmp_path / "x.params"))


@pytest.mark.parametrize("start", [TRAINED, "heatmap_mobilenetv2_0.25_sssd_fc26"])
def test_a_model_of_another_task_or_backbone_is_no_start(start):
    net = get_model("mos_shufflenetv2_0.5_widerface")
    net.initialize()
    with pytest.raises(
        InputError, match="start from a model for detection with the backbone shufflenetv2_0.5; .*is for"
    ):
        load_start(net, start)


def test_a_start_keeps_what_the_other_model_has_not():
    net = get_model("mos_mobilenet0.25_widerface")
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    own = {n: p.data().asnumpy() for n, p in net._collect_params_with_prefix().items() if ".pose_head." in n}
    load_start(net, TRAINED)
    after = net._collect_params_with_prefix()
    assert own and all(np.array_equal(after[name].data().asnumpy(), value) for name, value in own.items())


def saved(name, path, **options):
    """A file of random weights of a small net, and the weights."""
    net = maskface(model_facts(name), channels=8, frozen=False, **options)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(path))
    return values(net)


def values(net):
    return {name: parameter.data().asnumpy() for name, parameter in net._collect_params_with_prefix().items()}


HEAD = "network.keypoint_head."


@pytest.mark.parametrize(("keypoints", "points"), [(True, 19), (False, 5), (True, 5)])
def test_a_file_of_other_points_starts_all_that_fits(tmp_path, keypoints, points):
    theirs = saved("maskface_mobilenet0.25_widerface", tmp_path / "x.params", keypoints=keypoints)
    net = maskface(model_facts("maskface_mobilenet0.25_widerface"), channels=8, num_points=points, frozen=False)
    net.initialize(mx.init.Xavier())
    before = head_of(net)
    load_start(net, str(tmp_path / "x.params"), anew=(HEAD,))
    for name, value in values(net).items():
        fits = name in theirs and theirs[name].shape == value.shape
        np.testing.assert_array_equal(value, theirs[name] if fits else before[name], err_msg=name)
        assert fits or name.startswith(HEAD)


def head_of(net):
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items() if name.startswith(HEAD)}


def test_a_net_without_points_starts_from_a_file_with_points(tmp_path):
    theirs = saved("maskface_mobilenet0.25_widerface", tmp_path / "x.params")
    net = maskface(model_facts("maskface_mobilenet0.25_widerface"), channels=8, keypoints=False, frozen=False)
    net.initialize(mx.init.Xavier())
    with pytest.raises(WeightsError, match="not in this net"):
        load_start(net, str(tmp_path / "x.params"))
    load_start(net, str(tmp_path / "x.params"), anew=(HEAD,))
    for name, value in values(net).items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_only_what_may_begin_anew_may_be_of_another_shape(tmp_path):
    saved("maskface_mobilenet0.25_widerface", tmp_path / "x.params")
    net = maskface(model_facts("maskface_mobilenet0.25_aflw"), channels=16, frozen=False)
    net.initialize(mx.init.Xavier())
    with pytest.raises(WeightsError, match="of another shape .*fpn"):
        load_start(net, str(tmp_path / "x.params"), anew=(HEAD,))


# Validation


def test_a_net_without_its_points_finds_the_same_boxes(samples):
    net = maskface(model_facts("maskface_mobilenet0.25_widerface"), channels=8, frozen=False, score_thresh=0.0)
    net.initialize(mx.init.Xavier())
    net.set_nms(0.4, 100, 5, 0.0)
    options = {"size": 96, "score_thresh": 0}
    paths = [sample.image_path for sample in samples]
    for whole, boxes in zip(FaceAnalyzer(net, **options)(paths), FaceAnalyzer(BoxesAlone(net), **options)(paths)):
        np.testing.assert_array_equal(boxes.boxes, whole.boxes)
        np.testing.assert_array_equal(boxes.scores, whole.scores)
        assert len(boxes) and whole.landmarks5 is not None and boxes.landmarks5 is None


def test_a_net_without_its_points_never_looks_for_them(samples):
    net = maskface(model_facts("maskface_mobilenet0.25_widerface"), channels=8, frozen=False)
    net.initialize(mx.init.Xavier())
    net.set_nms(0.4, 100, 5, 0.0)
    looks = []
    net.network.keypoint_head.register_forward_hook(lambda *_: looks.append(1))
    paths = [sample.image_path for sample in samples]
    for given, looked in ((BoxesAlone(net), False), (net, True)):
        assert all(map(len, FaceAnalyzer(given, size=96, score_thresh=0)(paths)))
        assert bool(looks) == looked


def test_settings_of_a_net_without_its_points_are_the_nets():
    net = maskface(model_facts("maskface_mobilenet0.25_widerface"), channels=8, frozen=False)
    net.initialize(mx.init.Xavier())
    boxes = BoxesAlone(net)
    FaceAnalyzer(boxes, score_thresh=0.001, nms_thresh=0.7)
    assert (net.nms_thresh, net.score_thresh) == (boxes.nms_thresh, boxes.score_thresh) == (0.7, 0.001)
    net.set_nms(nms_topk=9, post_nms=8)
    assert (boxes.nms_topk, boxes.post_nms) == (9, 8)
    net.facts = model_facts("maskface_mobilenet0.25_aflw")
    assert boxes.facts is net.facts


def test_points_of_a_labelled_face_are_those_of_the_most_confident_that_overlaps_it():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 60, 60], [20, 0, 30, 10]]
    points = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 68, 2), np.float32)
    faces = Faces(boxes, [0.5, 0.9, 0.8, 0.7], landmarks=points, scheme="68", size_hw=(90, 90))
    found = found_points(faces, np.array([[0, 0, 10, 10], [20, 0, 30, 26], [50, 50, 60, 60]], np.float32))
    np.testing.assert_array_equal(found[:, 0, 0], [1, np.nan, 2])  # the second is overlapped by 10 / 26 alone
    assert np.isnan(found_points(faces[[]], np.zeros((2, 4)))).all()


def test_landmarks_are_validated_on_the_faces_found_and_missed_ones_fail(tmp_path, monkeypatch):
    box = np.array([[10, 10, 50, 50]], np.float32)
    truth = np.random.default_rng(0).uniform(15, 45, (1, 68, 2)).astype(np.float32)
    labels = FaceLabels(box, landmarks=truth, scheme="68")
    samples = [FaceSample(f"{i}.png", (64, 64), labels, name=f"{i}.png") for i in range(3)]
    samples.append(FaceSample("bare.png", (64, 64), FaceLabels(box), name="bare.png"))  # left out
    given = {
        "0.png": Faces(box, [0.9], landmarks=truth + np.float32([4, 0]), scheme="68", size_hw=(64, 64)),
        "1.png": Faces(box + 100, [0.9], landmarks=truth, scheme="68", size_hw=(64, 64)),
        "2.png": Faces.empty((64, 64)),
    }
    made = {}

    class Knows:
        def __init__(self, net, **options):
            made.update(options)

        def stream(self, images):
            return (given[path] for path in images)

    monkeypatch.setattr("gluonface.training.detection.FaceAnalyzer", Knows)
    figures = landmark_validator(samples, 96, "box")(None)
    assert figures == pytest.approx({"nme": 0.1, "auc": 0, "failure_rate": 1, "missed": 2})
    assert (made["size"], made["score_thresh"]) == (96, 0.02)
    with pytest.raises(DataError, match="landmarks of one scheme, got none"):
        landmark_validator(samples[3:], 96, "box")


def test_validation_is_the_average_precision_of_the_photos(samples, monkeypatch, tmp_path):
    write_jsonl(tmp_path / "all.jsonl", samples)
    made = {}

    class Knows:
        def __init__(self, net, **options):
            made.update(options, net=net)

        def stream(self, images):
            for path, sample in zip(images, samples, strict=True):
                assert path == sample.image_path
                yield made["net"](sample)

    monkeypatch.setattr("gluonface.training.detection.FaceAnalyzer", Knows)
    evaluate = detection_validator(samples, 96)
    right = evaluate(lambda sample: Faces(sample.faces.boxes, [0.9], size_hw=sample.size_hw))
    assert right == pytest.approx({"ap50": 1.0, "ap": 1.0, "recall_at_1fppi": 1.0})
    assert (made["size"], made["score_thresh"]) == (96, 0.02)
    wrong = evaluate(lambda sample: Faces([[0, 0, 9, 9]], [0.9], size_hw=sample.size_hw))
    assert wrong == pytest.approx({"ap50": 0.0, "ap": 0.0, "recall_at_1fppi": 0.0})


def test_a_net_is_validated_at_the_size_asked_for(samples):
    net = get_model("mos_mobilenet0.25_widerface")
    net.initialize()
    figures = detection_validator(samples[:2], 64)(net)
    assert set(figures) == {"ap50", "ap", "recall_at_1fppi"} and all(0 <= v <= 1 for v in figures.values())


def test_points_in_squares_are_compared_with_each_faces_own_label(tmp_path):
    net = get_model("kpnet_drnet_fc26")
    net.initialize()
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    # All points of a flat response lie in the middle of the square.
    net.network.response_head.weight.set_data(mx.nd.zeros(net.network.response_head.weight.shape))
    path = tmp_path / "a.png"
    save_image(path, np.full((96, 96, 3), 90, np.uint8))
    boxes = np.float32([[20, 16, 60, 56], [50, 50, 80, 90], [0, 0, 20, 20]])
    points = np.full((3, 5, 2), np.nan, np.float32)
    points[0], points[1, 2], points[2] = (40, 44), (65, 70), 3
    faces = FaceLabels(boxes, landmarks5=points, ignore=np.array([False, False, True]))
    samples = [FaceSample(str(path), (96, 96), faces), FaceSample("not read.png", (9, 9), FaceLabels(boxes[:1]))]
    errors = errors_in_squares(net, samples, 96, lambda labels: labels.landmarks5)
    np.testing.assert_allclose(errors, [8 / 40, 0], atol=0.03)
    assert square_validator(samples, 96, 5)(net) == {"nme_in_boxes": pytest.approx(errors.mean())}
    with pytest.raises(DataError, match="--val-points: expected faces with 68 points, found none in 2 photos"):
        square_validator(samples, 96, 68)
    ignored = FaceLabels(boxes[:1], landmarks5=points[:1], ignore=np.array([True]))
    with pytest.raises(DataError, match="--val-points: expected faces with 5 points, found none in 1 photos"):
        square_validator([FaceSample(str(path), (96, 96), ignored)], 96, 5)


def test_flags_of_views_that_count_beside_others_only_are_idle_without_them():
    views = {"face_prob": 0.0, "rotate": 0.0}
    assert set(idle_view_flags(argparse.Namespace(**views))) == {"face_sizes", "face_size_weights", "max_degrees"}
    assert set(idle_view_flags(argparse.Namespace(**views | {"face_prob": 0.1}))) == {"max_degrees"}
    assert idle_view_flags(argparse.Namespace(face_prob=0.1, rotate=0.1)) == {}


def test_annotations_in_another_folder_than_the_training_file_have_their_photos_beside_them(tmp_path):
    (tmp_path / "aflw").mkdir()
    args = argparse.Namespace(train=str(tmp_path / "train.jsonl"), images="photos")
    assert images_of(args, str(tmp_path / "val.jsonl")) == "photos"
    assert images_of(args, str(tmp_path / "aflw" / "val.jsonl")) is None
    assert images_of(args, str(tmp_path / "no_folder" / "val.jsonl")) is None  # who reads it says what is missing
    assert images_of(argparse.Namespace(train=None, images="photos"), str(tmp_path / "aflw" / "x.jsonl")) == "photos"
