"""LandmarkPredictor with a net that finds coloured dots, so that the right answer is known to a fraction of a pixel."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.alignment import FLIPS, LandmarkPredictor
from gluonface.analysis import align_faces
from gluonface.decode import decode_heatmaps, encode_heatmaps
from gluonface.errors import InputError, WeightsError
from gluonface.faces import Faces
from gluonface.geometry import FIVE_IN_BOX, HEATMAP_TEMPLATE, rotation_matrix_about, warp_points
from gluonface.model_zoo import ModelFacts, get_model
from gluonface.pipeline import FaceAnalyzer

FACTS = ModelFacts(
    name="coloured_dots",
    system="fake",
    backbone="none",
    dataset="none",
    params=0,
    gf=0.0,
    task="landmarks",
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.6, 0.7),
    size=96,
    scheme="5",
    template=tuple(map(tuple, HEATMAP_TEMPLATE.tolist())),
)
# Eyes are red, the nose is green, mouth corners are blue: which eye is the left one is a question of place.
COLORS = np.eye(3)[[0, 0, 1, 2, 2]] * 255


class Network(mx.gluon.Block):
    """Crops to heatmaps (B, 5, 24, 24) of the dots' centres; the map is 0 where there is no dot."""

    def forward(self, x):
        rgb = x.asnumpy() * np.reshape(FACTS.std, (3, 1, 1)) + np.reshape(FACTS.mean, (3, 1, 1))
        maps = []
        for image in rgb:
            points = []
            for channel, count in ((0, 2), (1, 1), (2, 2)):
                n, _, stats, centres = cv2.connectedComponentsWithStats((image[channel] > 0.3).astype(np.uint8))
                best = np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:count] + 1
                weight = [self.centre(image[channel], centres[k]) for k in best if n > 1]
                points += sorted(weight) + [(np.nan, np.nan)] * (count - len(weight))
            maps.append(encode_heatmaps(np.array(points) / 4, (24, 24), 1.5))
        return mx.nd.array(np.stack(maps))

    @staticmethod
    def centre(plane, about):
        """Centre of brightness of a dot."""
        y, x = np.mgrid[: plane.shape[0], : plane.shape[1]] + 0.5
        weight = plane * (np.hypot(x - about[0], y - about[1]) < 9)
        return (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()


class ColouredDots(mx.gluon.Block):
    """What a LandmarkNet is to its caller."""

    class decoder:  # noqa: N801
        method = "dark"

    scheme, stride, facts = "5", 4, FACTS

    def __init__(self):
        super().__init__()
        self.network = Network()
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        points, scores = decode_heatmaps(self.network(x).asnumpy())
        return mx.nd.array(points * 4), mx.nd.array(scores)


def draw(size_hw, *faces):
    """A photo with five dots a face."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for face in faces:
        radius = np.linalg.norm(face[1] - face[0]) / 7
        for (x, y), color in zip(face, COLORS):
            center = round((x - 0.5) * 16), round((y - 0.5) * 16)
            cv2.circle(image, center, round(radius * 16), color.tolist(), -1, cv2.LINE_AA, 4)
    return image


def five(center, size, degrees=0.0):
    """Five points of a face of a given size and turn; a little out of the template's proportions."""
    points = (HEATMAP_TEMPLATE - HEATMAP_TEMPLATE.mean(axis=0)) * size * (1.05, 0.97) + center
    return warp_points(rotation_matrix_about(center, degrees), points)


FACES = [[five((150, 120), 200), five((320, 140), 150, 30)], [], [five((90, 110), 120, -70)]]
PHOTOS = [draw((260, 420), *FACES[0]), draw((80, 80)), draw((220, 200), *FACES[2])]


def disturbed(rng):
    return [np.array(f).reshape(-1, 5, 2) + rng.normal(0, 2.5, (len(f), 5, 2)) for f in FACES]


def predictor(**options) -> LandmarkPredictor:
    return LandmarkPredictor(ColouredDots(), **options)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("passes", [1, 2, 3, "auto"])
def test_landmarks_are_found_in_photo_pixels_whatever_the_size_and_turn(rng, flip, passes):
    found, scores = predictor(flip=flip, passes=passes).from_points(PHOTOS, disturbed(rng))
    for ours, truth, heights in zip(found, FACES, scores):
        assert ours.shape == (len(truth), 5, 2) and ours.dtype == np.float32 and heights.shape == (len(truth), 5)
        np.testing.assert_allclose(ours, np.reshape(truth, (-1, 5, 2)), atol=0.35)
        assert (heights > 0.9).all()


def test_all_faces_of_all_photos_make_one_batch(rng):
    net = ColouredDots()
    LandmarkPredictor(net, passes=1).from_points(PHOTOS, disturbed(rng))
    assert net.batches == [3]
    net.batches.clear()
    LandmarkPredictor(net, batch_size=2, passes=2).from_points(PHOTOS, disturbed(rng))
    assert net.batches == [2, 1, 2, 1]
    net.batches.clear()
    assert LandmarkPredictor(net).from_points([PHOTOS[1]], [np.zeros((0, 5, 2))])[0][0].shape == (0, 5, 2)
    assert LandmarkPredictor(net).from_points([], [])[0] == [] and net.batches == []


def test_only_crops_that_were_off_are_made_again():
    net = ColouredDots()
    points = [np.array(face).reshape(-1, 5, 2) for face in FACES]
    LandmarkPredictor(net).from_points(PHOTOS, points)
    assert net.batches == [3]  # the points were right
    points[0] = points[0] + np.array([[[0, 0]], [[8, 0]]])  # the second face's lie 5 % of the crop's side aside
    net.batches.clear()
    found, _ = LandmarkPredictor(net).from_points(PHOTOS, points)
    assert net.batches == [3, 1]
    np.testing.assert_allclose(found[0], FACES[0], atol=0.35)


def test_a_batch_gives_what_single_faces_give(rng):
    points = disturbed(rng)
    together, _ = predictor().from_points(PHOTOS, points)
    for photo, own, expected in zip(PHOTOS, points, together):
        for i in range(len(own)):
            (alone,), _ = predictor().from_points([photo], [own[i : i + 1]])
            np.testing.assert_allclose(alone[0], expected[i], atol=1e-4)


def test_boxes_alone_suffice_for_upright_faces():
    face = five((150, 120), 200, 12)
    low, high = face.min(axis=0), face.max(axis=0)
    size = (high - low) / (FIVE_IN_BOX.max(axis=0) - FIVE_IN_BOX.min(axis=0))
    box = np.concatenate([low - FIVE_IN_BOX.min(axis=0) * size, low + (1 - FIVE_IN_BOX.min(axis=0)) * size])
    net = ColouredDots()
    (found,), _ = LandmarkPredictor(net).from_boxes([draw((260, 420), face)], [box[None]])
    np.testing.assert_allclose(found[0], face, atol=0.35)
    assert net.batches == [1, 1]  # found by the box, then once more by the points


def test_faces_without_usable_points_are_aligned_by_their_box():
    face = five((150, 120), 200)
    photo = draw((260, 420), face)
    low, high = face.min(axis=0), face.max(axis=0)
    box = [*(low - 0.6 * (high - low)), *(high + 0.5 * (high - low))]
    collapsed = np.full((5, 2), 150.0)
    for parts in ({}, {"landmarks5": [collapsed]}):
        (faces,) = predictor()([photo], [Faces([box], [0.9], size_hw=photo.shape[:2], **parts)])
        np.testing.assert_allclose(faces.landmarks[0], face, atol=0.5)
        assert faces.scheme == "5"
    flat = Faces([[7, 7, 7, 7]], [0.9], size_hw=photo.shape[:2])
    (faces,) = predictor()([photo], [flat])
    assert np.isfinite(faces.landmarks).all()


def test_the_detectors_own_points_stay_beside_the_dense_ones(rng):
    own = disturbed(rng)[0]
    boxes = np.concatenate([own.min(axis=1), own.max(axis=1)], axis=1)
    before = Faces(boxes, [0.9, 0.8], landmarks5=own, size_hw=PHOTOS[0].shape[:2])
    after, empty = predictor()(PHOTOS[:2], [before, Faces.empty(PHOTOS[1].shape[:2])])
    np.testing.assert_array_equal(after.landmarks5, before.landmarks5)
    np.testing.assert_allclose(after.landmarks, FACES[0], atol=0.35)
    assert empty.landmarks.shape == (0, 5, 2) and empty.scheme == "5"


def test_points_in_one_place_are_refused():
    with pytest.raises(InputError, match="points that are apart"):
        predictor().from_points(PHOTOS[:1], [np.full((1, 5, 2), 3.0)])
    with pytest.raises(InputError, match="five points for each of 1 images, got 2"):
        predictor().from_points(PHOTOS[:1], [np.zeros((0, 5, 2))] * 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flip": "both"}, "none, points, heatmaps"),
        ({"passes": 0}, "at least 1"),
        ({"passes": "two"}, "auto"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        predictor(**options)


def test_a_detector_is_no_landmark_net_and_the_other_way_round():
    with pytest.raises(InputError, match="expected a landmark net, such as heatmap_"):
        LandmarkPredictor("retinaface_mobilenet0.25_mask")
    with pytest.raises(InputError, match=r"expected a detector, .*FaceAnalyzer\(landmarks="):
        FaceAnalyzer(ColouredDots())
    with pytest.raises(WeightsError, match="no weights come with this model"):
        LandmarkPredictor("heatmap_resnet50_sdd_jd106")
    with pytest.raises(InputError, match="is not initialised"):
        LandmarkPredictor(get_model("heatmap_mobilenetv2_0.25_s_fc26")).from_points(
            PHOTOS[:1], [np.array([FACES[0][0]])]
        )


@pytest.mark.parametrize("flip", FLIPS)
def test_flip_averaging_knows_that_labels_are_not_symmetric(flip, rng):
    """The stand-in gives what it sees, plus half a shift to the right, in a crop as in its mirror image."""
    net, shift = ColouredDots(), 0.02
    net.facts = dataclasses.replace(FACTS, mirror_shift=shift)
    plain = net.network.forward
    net.network.forward = lambda x: mx.nd.array(moved_right(plain(x).asnumpy(), shift / 2 * 24))
    found, _ = LandmarkPredictor(net, flip=flip, passes=1).from_points(PHOTOS[:1], [np.array(FACES[0])])
    for ours, truth in zip(found[0], FACES[0]):
        matrix = align_faces(truth[None], FACTS)[0]
        right = warp_points(matrix, ours) - warp_points(matrix, truth)
        np.testing.assert_allclose(right, np.full((5, 2), [shift / 2 * 96, 0]), atol=0.25)


def moved_right(heatmaps, cells):
    points, _ = decode_heatmaps(heatmaps)
    return encode_heatmaps(points + np.array([cells, 0]), heatmaps.shape[-2:], 1.5)


@pytest.mark.parametrize("flip", FLIPS)
def test_a_real_net_runs_as_it_is_and_hybridised(flip, rng):
    net = get_model("heatmap_mobilenetv2_0.25_s_fc26")
    net.initialize(mx.init.Xavier())
    points = disturbed(rng)
    plain, _ = LandmarkPredictor(net, flip=flip).from_points(PHOTOS, points)
    net.hybridize()
    graph, _ = LandmarkPredictor(net, flip=flip).from_points(PHOTOS, points)
    for ours, theirs in zip(plain, graph):
        np.testing.assert_allclose(ours, theirs, atol=0.1)
