"""FaceAnalyzer with a small net that "detects" bright rectangles, so that the right answer is known to the pixel."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.alignment import LandmarkPredictor
from gluonface.analysis import Analyzer, postprocess, preprocess
from gluonface.errors import ImageError, InputError
from gluonface.faces import Faces
from gluonface.geometry import HEATMAP_TEMPLATE, letterbox
from gluonface.image import encode_image
from gluonface.mesh import topology_468
from gluonface.model_zoo import ModelFacts, get_model
from gluonface.pipeline import FaceAnalyzer

FACTS = ModelFacts(
    name="bright_rectangles",
    system="fake",
    backbone="none",
    dataset="none",
    params=0,
    gf=0.0,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    size=128,
    score_thresh=0.3,
)
#: Where the five points lie in a box, as parts of its width and height.
PARTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


class BrightRectangles(mx.gluon.Block):
    """Boxes round the bright parts of a canvas; the score is how bright they are."""

    def __init__(self, points: bool = True):
        super().__init__()
        self.facts = FACTS
        self.points = points
        self.seen = []

    def forward(self, x):
        self.seen.append(x.shape)
        rgb = x.asnumpy() * np.reshape(FACTS.std, (3, 1, 1)) + np.reshape(FACTS.mean, (3, 1, 1))
        found = [self.rectangles(image.mean(axis=0)) for image in rgb]
        rows = np.full((len(found), 20, 16), -1, np.float32)
        for i, boxes in enumerate(found):
            for k, (score, box) in enumerate(boxes[:20]):
                points = np.asarray(box[:2]) + PARTS * (np.asarray(box[2:]) - box[:2])
                rows[i, k] = [0, score, *box, *points.ravel()]
        parts = [rows[..., :1], rows[..., 1:2], rows[..., 2:6]] + ([rows[..., 6:]] if self.points else [])
        return [mx.nd.array(part) for part in parts]

    @staticmethod
    def rectangles(brightness):
        n, labels, stats, _ = cv2.connectedComponentsWithStats((brightness > 0.1).astype(np.uint8))
        found = []
        for k in range(1, n):
            x, y, width, height = stats[k, :4]
            found.append((float(np.median(brightness[labels == k])), (x, y, x + width, y + height)))
        return sorted(found, reverse=True)


def photo(size_hw, *rectangles, brightness=(230, 180, 130)) -> np.ndarray:
    """Black, with grey rectangles x1, y1, x2, y2."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for (x1, y1, x2, y2), value in zip(rectangles, brightness):
        image[y1:y2, x1:x2] = value
    return image


PHOTOS = [
    photo((128, 96), (16, 24, 48, 64), (60, 80, 92, 120)),
    photo((300, 400), (40, 80, 120, 200)),
    photo((64, 64)),
    photo((50, 30), (0, 0, 30, 25)),
    photo((90, 128), (8, 8, 32, 40), (64, 8, 96, 48), (70, 60, 120, 85)),
]


def analyzer(points=True, **options) -> FaceAnalyzer:
    return FaceAnalyzer(BrightRectangles(points), **options)


# The analyzer


def test_faces_come_back_in_pixels_of_the_photo():
    faces = analyzer()(PHOTOS[0])
    np.testing.assert_array_equal(faces.boxes, [[16, 24, 48, 64], [60, 80, 92, 120]])
    np.testing.assert_allclose(faces.scores, [230 / 255, 180 / 255], rtol=1e-4)
    np.testing.assert_allclose(faces.landmarks5[0], [16, 24] + PARTS * [32, 40], rtol=1e-5)
    assert faces.size_hw == (128, 96)


@pytest.mark.parametrize("size", [64, 128, 333, (96, 160), (400, 100)])
def test_the_size_of_the_canvas_does_not_move_the_boxes(size):
    faces = analyzer(size=size)(PHOTOS[1])
    scale = min(np.array(size if np.ndim(size) else (size, size)) / PHOTOS[1].shape[:2])
    np.testing.assert_allclose(faces.boxes, [[40, 80, 120, 200]], atol=1.5 / scale)


def test_the_canvas_is_what_size_asks_for():
    for size, shape in (
        (64, (1, 3, 64, 64)),
        ((96, 160), (1, 3, 96, 160)),
        (None, (1, 3, 320, 416)),
        ("auto", (1, 3, 128, 128)),
    ):
        one = analyzer(size=size)
        one(PHOTOS[1])
        assert one.net.seen == [shape]


def test_a_photo_at_stored_size_is_not_resized():
    np.testing.assert_array_equal(analyzer(size=None)(PHOTOS[3]).boxes, [[0, 0, 30, 25]])
    np.testing.assert_array_equal(analyzer(size=None)(PHOTOS[1]).boxes, [[40, 80, 120, 200]])


@pytest.mark.parametrize("size", ["auto", 96, None])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_batch_gives_what_one_by_one_gives(size, batch_size):
    one = analyzer(size=size, batch_size=batch_size)
    together = one(PHOTOS)
    assert together == [one(image) for image in PHOTOS]
    assert [len(faces) for faces in together] == [2, 1, 0, 1, 3]


def test_a_list_is_cut_into_true_batches():
    one = analyzer(batch_size=2)
    one(PHOTOS)
    assert [shape[0] for shape in one.net.seen] == [2, 2, 1]


def test_at_stored_size_photos_of_equal_canvas_go_together():
    one = analyzer(size=None)
    one([PHOTOS[2], PHOTOS[3], PHOTOS[2], PHOTOS[1]])
    assert sorted(one.net.seen) == [(1, 3, 320, 416), (3, 3, 64, 64)]


def test_a_net_of_a_finer_stride_gets_smaller_canvases():
    net = BrightRectangles()
    net.stride = 2
    one = FaceAnalyzer(net, size=None)
    assert one([PHOTOS[1], PHOTOS[0]]) == analyzer(size=None)([PHOTOS[1], PHOTOS[0]])
    assert sorted(net.seen) == [(1, 3, 128, 96), (1, 3, 300, 400)]


@pytest.fixture(scope="module")
def kpnet():
    """Trained it is not, but finds "faces" everywhere, of all sizes."""
    mx.random.seed(3)
    net = get_model("kpnet_drnet_fc26", nms_thresh=1.0)
    net.initialize(mx.init.Xavier())
    for head in (net.network.scale_head, net.network.response_head):
        head.weight.set_data(mx.nd.random.normal(0, 0.3, head.weight.shape))
        head.bias.set_data(mx.nd.zeros(head.bias.shape))
    net.hybridize()
    return net


@pytest.mark.parametrize("size", ["auto", 320, 512, 77, (60, 200), None])
def test_kpnet_looks_at_photos_of_any_size_on_canvases_of_any_size(kpnet, size, rng):
    photos = [rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for size_hw in ((150, 120), (33, 301))]
    one = FaceAnalyzer(kpnet, size=size, score_thresh=0.01)
    together = one(photos)
    assert [faces.size_hw for faces in together] == [(150, 120), (33, 301)] and sum(map(len, together)) > 20
    alone = one(photos[1])
    assert len(alone) == len(together[1])
    np.testing.assert_allclose(alone.boxes, together[1].boxes, atol=0.1)


@pytest.mark.parametrize("backbone", ["drnet", "hourglass"])
@pytest.mark.parametrize("stride", [2, 32])
def test_the_smallest_canvas_is_large_enough_for_every_backbone(backbone, stride):
    net = get_model(f"kpnet_{backbone}_fc26")
    net.initialize()
    net.stride = stride
    assert FaceAnalyzer(net, size=None)(np.full((1, 1, 3), 9, np.uint8)).size_hw == (1, 1)


def test_paths_bytes_and_arrays_give_the_same(tmp_path):
    data = encode_image(PHOTOS[0])
    (tmp_path / "a.png").write_bytes(data)
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), data, PHOTOS[0], mx.nd.array(PHOTOS[0], dtype="uint8")]
    one = analyzer()
    for source in sources:
        assert one(source) == one(PHOTOS[0])
    assert one(sources) == [one(PHOTOS[0])] * 5
    assert one(tuple(sources)) == one(iter(sources)) == one(sources)


def test_an_empty_list_gives_an_empty_list():
    assert analyzer()([]) == []


@pytest.mark.parametrize("size", ["auto", None])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (300, 1), (8000, 10)])
def test_degenerate_photos_give_a_result(size_hw, size):
    one = analyzer(size=size)
    assert len(one(np.zeros((*size_hw, 3), np.uint8))) == 0
    (faces,) = one(np.full((*size_hw, 3), 250, np.uint8))
    np.testing.assert_allclose(faces.boxes, [[0, 0, size_hw[1], size_hw[0]]], rtol=1e-4)


def test_a_photo_without_faces_gives_an_empty_result_with_points():
    faces = analyzer()(PHOTOS[2])
    assert faces == Faces.empty((64, 64))
    assert analyzer(points=False)(PHOTOS[2]).landmarks5 is None
    assert analyzer(points=False)(PHOTOS[0]).landmarks5 is None


def test_thresholds_and_limits_choose_faces():
    assert len(analyzer(score_thresh=0.6)(PHOTOS[4])) == 2
    assert len(analyzer(max_faces=1)(PHOTOS[4])) == 1
    assert len(analyzer()(photo((64, 64), (8, 8, 24, 24), brightness=(60,)))) == 0  # 0.24, the facts say 0.3


# Streams and errors


def test_a_stream_reads_batch_by_batch():
    read = []

    def photos():
        for i in itertools.count():
            read.append(i)
            yield PHOTOS[i % 5]

    one = analyzer(batch_size=3)
    results = list(itertools.islice(one.stream(photos()), 7))
    assert results == [one(PHOTOS[i % 5]) for i in range(7)]
    assert len(read) <= 12


def test_a_bad_image_in_a_list_raises_or_stays_in_its_place(tmp_path):
    one = analyzer(batch_size=2)
    images = [PHOTOS[0], tmp_path / "missing.jpg", b"junk", b"", PHOTOS[1]]
    with pytest.raises(ImageError, match=r"missing\.jpg: no such file"):
        one(images)
    results = one(images, on_error="return")
    assert [type(result).__name__ for result in results] == ["Faces", "ImageError", "ImageError", "ImageError", "Faces"]
    assert results[1].source.endswith("missing.jpg")
    assert (results[0], results[4]) == (one(PHOTOS[0]), one(PHOTOS[1]))
    assert isinstance(one(b"junk", on_error="return"), ImageError)


def test_images_before_a_bad_batch_still_come_out():
    stream = analyzer(batch_size=2).stream([PHOTOS[0], PHOTOS[1], b"junk", PHOTOS[0]])
    assert len(next(stream)) == 2
    assert len(next(stream)) == 1
    with pytest.raises(ImageError):
        next(stream)


def test_things_that_are_no_image_say_so():
    for source in (None, 5):
        with pytest.raises(ImageError, match="expected a path, bytes or a NumPy array"):
            analyzer()(source)


def test_the_pixel_limit_holds():
    with pytest.raises(ImageError, match="max_pixels"):
        analyzer(max_pixels=1000)(PHOTOS[1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 0}, "size of at least 1"),
        ({"size": "large"}, "expected size to be"),
        ({"size": (1, 2, 3)}, "expected size to be"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_faces": 0}, "max_faces"),
        ({"nms_thresh": 0.3}, "set_nms"),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        analyzer(**options)


def test_a_wrong_on_error_is_refused_before_anything_is_read():
    with pytest.raises(InputError, match="on_error"):
        analyzer().stream([PHOTOS[0]], on_error="ignore")


def test_a_net_without_facts_or_without_parameters_is_refused():
    with pytest.raises(InputError, match=r"got Dense without net\.facts"):
        FaceAnalyzer(mx.gluon.nn.Dense(3))
    net = mx.gluon.nn.Dense(3)
    net.facts = FACTS
    with pytest.raises(InputError, match="is not initialised"):
        FaceAnalyzer(net)


class WithNms(BrightRectangles):
    nms_thresh, nms_topk, post_nms, score_thresh = 0.4, 1000, 750, 0.2

    def set_nms(self, nms_thresh, nms_topk, post_nms, score_thresh):
        self.was_set = (nms_thresh, nms_topk, post_nms, score_thresh)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"score_thresh": 0.5}, None),
        ({"score_thresh": 0.1}, (0.4, 1000, 750, 0.1)),
        ({"nms_thresh": 0.3}, (0.3, 1000, 750, 0.2)),
    ],
)
def test_the_nets_suppression_is_changed_only_where_needed(options, expected):
    net = WithNms()
    FaceAnalyzer(net, **options)
    assert getattr(net, "was_set", None) == expected


def test_the_analyzer_names_its_detector():
    assert analyzer().detector_name == "bright_rectangles"
    assert repr(analyzer()) == "FaceAnalyzer(bright_rectangles, 128x128, score_thresh=0.3, cpu(0))"


def test_the_topology_of_a_net_s_meshes_is_told_to_the_analyzer():
    topology = topology_468()
    assert analyzer().topology is None and analyzer(topology=topology).topology is topology
    with pytest.raises(InputError, match="topology mediapipe468, the net gives no meshes"):
        analyzer(topology=topology)(PHOTOS[0])


# The lower level


def test_the_parts_put_together_are_the_whole():
    one = analyzer()
    boxes = [letterbox(image.shape[:2], (128, 128)) for image in PHOTOS]
    x = np.stack([preprocess(image, box, FACTS) for image, box in zip(PHOTOS, boxes)])
    outputs = one.detect_canvas(x)
    assert all(isinstance(output, np.ndarray) for output in outputs)
    assert postprocess(outputs, boxes, one.score_thresh) == one(PHOTOS) == one.detect_letterboxed(PHOTOS, boxes)


def test_letterboxes_of_different_canvases_are_no_batch():
    with pytest.raises(InputError, match="all of one canvas"):
        analyzer().detect_letterboxed(
            PHOTOS[:2], [letterbox(p.shape[:2], (64 + i, 64)) for i, p in enumerate(PHOTOS[:2])]
        )
    with pytest.raises(InputError, match="a Letterbox for each of 2 images"):
        analyzer().detect_letterboxed(PHOTOS[:2], [letterbox((128, 96), (64, 64))])


# The same net on an engine of fixed canvases and batch sizes


class Compiled(Analyzer):
    """What a compiled artefact is: it takes uint8 canvases of one size, in batches of 1 or 4, and gives arrays."""

    def __init__(self, net, **options):
        super().__init__(net.facts, buckets={(128, 128): (1, 4)}, **options)
        self.net = net

    def _forward(self, canvases, score_thresh):
        assert all(canvas.shape == (128, 128, 3) and canvas.dtype == np.uint8 for canvas in canvases)
        x = (np.stack(canvases) / 255 - FACTS.mean) / FACTS.std
        return tuple(part.asnumpy() for part in self.net(mx.nd.array(x.transpose(0, 3, 1, 2))))

    def _collect(self, handle):
        return handle


def test_an_engine_of_fixed_batches_gives_the_faces_that_mxnet_gives(tmp_path):
    sources = [*PHOTOS, tmp_path / "no.png", mx.nd.array(PHOTOS[0], dtype="uint8")]
    ours, theirs = Compiled(BrightRectangles()), analyzer()
    for one, other in zip(ours(sources, "return"), theirs(sources, "return")):
        if isinstance(other, ImageError):
            assert str(one) == str(other)
        else:
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.landmarks5, other.landmarks5)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    assert [shape[0] for shape in ours.net.seen] == [4, 1, 1] and [shape[0] for shape in theirs.net.seen] == [6]
    assert ours(mx.nd.array(PHOTOS[0], dtype="uint8")) == ours(PHOTOS[0])


# A real network, with random weights


def test_a_real_net_gives_the_same_in_a_batch_as_alone():
    from gluonface import get_model

    net = get_model("retinaface_mobilenet0.25_fc26")
    mx.random.seed(3)
    net.initialize(mx.init.Xavier(magnitude=2.5))
    net.hybridize()
    rng = np.random.default_rng(0)
    images = [
        cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), size) for size in ((130, 90), (64, 200), (8, 8))
    ]
    one = FaceAnalyzer(net, size=128, score_thresh=0.0)
    for alone, batch in zip([one(image) for image in images], one(images)):
        assert len(alone) == len(batch) > 5
        np.testing.assert_allclose(alone.boxes, batch.boxes, atol=1e-3)
        np.testing.assert_allclose(alone.landmarks5, batch.landmarks5, atol=1e-3)
        np.testing.assert_allclose(alone.scores, batch.scores, atol=1e-5)


# With a landmark net


class CornerNet(mx.gluon.Block):
    """A landmark net that says where the template has the five points, shifted by a pixel of the crop."""

    scheme, stride = "5", 4

    def __init__(self):
        super().__init__()
        template = tuple(map(tuple, HEATMAP_TEMPLATE.tolist()))
        self.facts = dataclasses.replace(
            FACTS, name="corners", task="landmarks", scheme="5", size=64, template=template
        )
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        points = np.tile(HEATMAP_TEMPLATE * 64 + 1, (len(x), 1, 1))
        return mx.nd.array(points), mx.nd.ones((len(x), 5))


def test_dense_landmarks_come_from_crops_of_all_faces_of_all_photos_as_one_batch():
    net = CornerNet()
    both = analyzer(landmarks=net, size=128)
    found = both(PHOTOS)
    assert net.batches == [sum(map(len, found))] and both.landmarks.net is net and "landmarks=corners" in repr(both)
    for faces, plain in zip(found, analyzer(size=128)(PHOTOS)):
        np.testing.assert_array_equal(faces.landmarks5, plain.landmarks5)
        np.testing.assert_array_equal(faces.boxes, plain.boxes)
        assert faces.scheme == "5" and faces.landmarks.shape == (len(plain), 5, 2)
        # A crop's pixel is the face's size over the crop's.
        shift = np.linalg.norm((faces.landmarks - faces.landmarks5).mean(axis=1), axis=1)
        assert (shift < 0.1 * (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1)).all() and (shift > 0).all()


def test_a_landmark_batch_is_cut_with_the_photos_and_bad_photos_stay_errors(tmp_path):
    net = CornerNet()
    found = list(analyzer(landmarks=net, batch_size=2).stream([PHOTOS[0], tmp_path / "no.png", PHOTOS[1]], "return"))
    assert isinstance(found[1], ImageError) and net.batches == [2, 1]
    assert found[0].landmarks.shape == (2, 5, 2)


def test_a_predictor_with_settings_of_its_own_is_taken_as_it_is():
    predictor = LandmarkPredictor(CornerNet(), passes=2)
    found = analyzer(landmarks=predictor)(PHOTOS[0])
    assert predictor.net.batches == [2, 2] and found.scheme == "5"


def test_multiscale_results_get_their_dense_landmarks_once():
    from gluonface.tta import detect_multiscale

    net = CornerNet()
    faces = detect_multiscale(analyzer(landmarks=net), PHOTOS[4], short_sides=(90, 180))
    assert net.batches == [len(faces)] and faces.landmarks.shape == (len(faces), 5, 2)
