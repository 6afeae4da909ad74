"""Analyzer and LandmarkStage on made-up NumPy engines of fixed canvases and batch sizes: what an engine is given, and
that its results come back to the right photo.
"""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest

from gluonface.analysis import (
    Analyzer,
    LandmarkStage,
    align_faces,
    cut_batches,
    normalise,
    postprocess,
    preprocess,
    whole_strides,
)
from gluonface.errors import ImageError, InputError
from gluonface.face_template import FACE_5
from gluonface.faces import SCHEMES, Faces
from gluonface.facts import ModelFacts
from gluonface.geometry import HEATMAP_TEMPLATE, letterbox, warp_points
from gluonface.mesh import subset_topology, topology_468, turn_upright
from gluonface.pose import rotation_from_pose

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
CROPS = dataclasses.replace(
    FACTS,
    name="corners",
    task="landmarks",
    scheme="5",
    size=96,
    template=tuple(map(tuple, HEATMAP_TEMPLATE.tolist())),
)
#: Where the five points lie in a box, as parts of its width and height.
PARTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


class Recorder:
    """What an engine saw: the canvas and the batch size of each run, and whether canvases were black."""

    def seen(self, canvases):
        assert all(canvas.dtype == np.uint8 and canvas.shape == canvases[0].shape for canvas in canvases)
        self.runs = [*getattr(self, "runs", []), (canvases[0].shape[:2], len(canvases))]
        self.black = [*getattr(self, "black", []), *(not canvas.any() for canvas in canvases)]


class Rectangles(Recorder, Analyzer):
    """Finds the bright rectangles of a canvas; the score is how bright they are."""

    def _forward(self, canvases, score_thresh):
        self.seen(canvases)
        self.thresholds = [*getattr(self, "thresholds", []), score_thresh]
        rows = np.full((len(canvases), 20, 16), -1, np.float32)
        for i, canvas in enumerate(canvases):
            brightness = canvas.mean(axis=2) / 255
            n, labels, stats, _ = cv2.connectedComponentsWithStats((brightness > 0.1).astype(np.uint8))
            for k in range(1, n):
                x, y, width, height = stats[k, :4]
                points = (x, y) + PARTS * (width, height)
                score = np.median(brightness[labels == k])
                rows[i, k - 1] = [0, score, x, y, x + width, y + height, *points.ravel()]
        return rows

    def _collect(self, handle):
        return handle[..., :1], handle[..., 1:2], handle[..., 2:6], handle[..., 6:]


class Dots(Recorder, LandmarkStage):
    """Finds red eyes, a green nose and blue corners of the mouth, left being the viewer's left."""

    def _forward(self, canvases):
        self.seen(canvases)
        points = np.array([self.five(canvas) for canvas in canvases], np.float32)
        return points, np.isfinite(points).all(axis=2).astype(np.float32)

    def _collect(self, handle):
        return handle

    def five(self, crop):
        points = np.full((5, 2), np.nan)
        for rows, channel in (((0, 1), 0), ((2,), 1), ((3, 4), 2)):
            _, _, stats, centres = cv2.connectedComponentsWithStats((crop[..., channel] > 100).astype(np.uint8))
            best = np.argsort(-stats[1:, cv2.CC_STAT_AREA])[: len(rows)] + 1
            for row, centre in zip(rows, sorted(centres[best].tolist())):
                points[row] = np.add(centre, 0.5)
        return np.nan_to_num(points, nan=-1e3)


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
COUNTS = [2, 1, 0, 1, 3]


def dotted(size_hw, *faces) -> np.ndarray:
    """A photo with five dots a face: red eyes, a green nose, blue corners of the mouth."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for face in faces:
        radius = np.linalg.norm(face[1] - face[0]) / 8
        for (x, y), color in zip(face, np.eye(3)[[0, 0, 1, 2, 2]] * 255):
            center = round((x - 0.5) * 16), round((y - 0.5) * 16)
            cv2.circle(image, center, round(radius * 16), color.tolist(), -1, cv2.LINE_AA, 4)
    return image


def five(center, size) -> np.ndarray:
    return (HEATMAP_TEMPLATE - HEATMAP_TEMPLATE.mean(axis=0)) * size + center


FACES = [[five((150, 120), 200), five((320, 140), 150)], [], [five((90, 110), 120)]]
DOTTED = [dotted((260, 420), *FACES[0]), dotted((80, 80)), dotted((220, 200), *FACES[2])]


# Preprocessing


def test_a_canvas_is_normalised_as_the_facts_say_in_rgb_order():
    image = np.zeros((4, 8, 3), np.uint8)
    image[...] = (255, 128, 0)
    x = preprocess(image, letterbox((4, 8), (8, 8)), FACTS)
    assert x.shape == (3, 8, 8)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:, 0, 0], [(1 - 0.4) / 0.2, (128 / 255 - 0.5) / 0.25, (0 - 0.6) / 0.3], rtol=1e-6)
    np.testing.assert_allclose(x[:, 6, 0], [-0.4 / 0.2, -0.5 / 0.25, -0.6 / 0.3], rtol=1e-6)


def test_preprocessing_writes_into_a_slice_of_a_batch():
    batch = np.zeros((2, 3, 64, 64), np.float32)
    box = letterbox(PHOTOS[0].shape[:2], (64, 64))
    preprocess(PHOTOS[0], box, FACTS, batch[1])
    np.testing.assert_array_equal(batch[1], preprocess(PHOTOS[0], box, FACTS))
    assert (batch[0] == 0).all()


# Postprocessing


def outputs_of(rows, points=None):
    rows = np.array([rows], np.float32)
    parts = [rows[..., :1], rows[..., 1:2], rows[..., 2:6]]
    return parts if points is None else [*parts, np.array([points], np.float32)]


def test_padding_weak_and_empty_boxes_are_dropped_and_the_best_comes_first():
    box = letterbox((100, 100), (50, 50))
    rows = [
        [0, 0.4, 5, 5, 10, 10],
        [0, 0.9, 10, 10, 20, 20],
        [0, 0.1, 10, 10, 20, 20],
        [0, 0.8, 60, 60, 70, 70],  # beside the photo
        [0, 0.7, 30, 30, 30, 40],  # no width
        [0, 0.6, 40, -9, 80, 20],  # partly beside the photo
        [-1, -1, -1, -1, -1, -1],
    ]
    (faces,) = postprocess(outputs_of(rows), [box], 0.3)
    assert faces.scores.tolist() == pytest.approx([0.9, 0.6, 0.4])
    np.testing.assert_allclose(faces.boxes, [[20, 20, 40, 40], [80, 0, 100, 40], [10, 10, 20, 20]])
    assert faces.landmarks5 is None
    assert faces.size_hw == (100, 100)
    assert len(postprocess(outputs_of(rows), [box], 0.3, max_faces=1)[0]) == 1


def test_points_come_back_to_the_photo_and_are_not_cut():
    box = letterbox((100, 200), (50, 50))
    (faces,) = postprocess(outputs_of([[0, 0.9, 0, 0, 9, 9]], [[-4, 2, 6, 2, 3, 4, 1, 6, 5, 6]]), [box])
    np.testing.assert_allclose(faces.landmarks5, [[[-16, 8], [24, 8], [12, 16], [4, 24], [20, 24]]])


def test_more_points_become_landmarks_of_their_scheme():
    box = letterbox((50, 50), (50, 50))
    for rows in ([[0, 0.9, 0, 0, 9, 9]], [[-1, -1, -1, -1, -1, -1]]):
        (faces,) = postprocess(outputs_of(rows, np.zeros((1, 136))), [box])
        assert faces.scheme == "68"
        assert faces.landmarks.shape == (len(faces), 68, 2)


def test_poses_stay_with_their_faces_and_as_they_are():
    box = letterbox((100, 200), (50, 50))
    rows = [[0, 0.4, 0, 0, 9, 9], [0, 0.1, 0, 0, 9, 9], [0, 0.9, 10, 10, 20, 20], [-1, -1, -1, -1, -1, -1]]
    poses = [[10, 20, 30], [1, 1, 1], [-95, 5, -40], [-1, -1, -1]]
    points = np.zeros((4, 10))
    outputs = [*outputs_of(rows, points), np.array([poses], np.float32)]
    (faces,) = postprocess(outputs, [box], 0.3)
    assert faces.scores.tolist() == pytest.approx([0.9, 0.4])
    assert faces.pose.tolist() == [[-95, 5, -40], [10, 20, 30]] and faces.landmarks5.shape == (2, 5, 2)
    assert postprocess(outputs, [box], 0.3, max_faces=1)[0].pose.tolist() == [[-95, 5, -40]]
    (none,) = postprocess(outputs, [box], 0.95)
    assert len(none) == 0 and none.pose.shape == (0, 3)
    assert postprocess(outputs_of(rows, points), [box], 0.3)[0].pose is None


def test_meshes_come_back_to_the_photo_with_their_depth_and_stay_with_their_faces():
    box = letterbox((100, 200), (50, 50))  # a quarter
    rows = [[0, 0.4, 0, 0, 9, 9], [0, 0.9, 10, 10, 20, 20], [-1, -1, -1, -1, -1, -1]]
    meshes = np.array([[[1, 2, 3], [4, 5, -6]], [[7, 8, 0], [-9, 1, 2]], [[-1] * 3] * 2])
    outputs = [*outputs_of(rows, np.zeros((3, 10))), meshes.reshape(1, 3, 6).astype(np.float32)]
    (faces,) = postprocess(outputs, [box], 0.3)
    assert faces.mesh.tolist() == [(4 * meshes[1]).tolist(), (4 * meshes[0]).tolist()]
    assert faces.pose is None  # nobody knows what these vertices are
    (none,) = postprocess(outputs, [box], 0.95)
    assert len(none) == 0 and none.mesh.shape == (0, 2, 3)
    pose = np.array([[[1, 2, 3], [4, 5, 6], [-1] * 3]], np.float32)
    (faces,) = postprocess([*outputs[:4], pose, outputs[4]], [box], 0.3)
    assert faces.pose.tolist() == [[4, 5, 6], [1, 2, 3]] and faces.mesh.shape == (2, 2, 3)


def test_a_mesh_of_a_kind_that_is_known_brings_the_pose_along():
    topology, poses = topology_468(), np.array([[30.0, -10, 5], [-20, 15, 40]])
    heads = np.einsum("nij,kj->nki", rotation_from_pose(poses), topology.canonical)
    meshes = turn_upright(heads * 3) + np.array([25, 25, 0])
    rows = [[0, 0.9, 0, 0, 9, 9], [0, 0.8, 10, 10, 20, 20]]
    outputs = [*outputs_of(rows, np.zeros((2, 10))), meshes.reshape(1, 2, -1).astype(np.float32)]
    (faces,) = postprocess(outputs, [letterbox((200, 200), (50, 50))])
    np.testing.assert_allclose(faces.pose, poses, atol=0.01)
    (none,) = postprocess(outputs, [letterbox((200, 200), (50, 50))], 0.95)
    assert none.mesh.shape == (0, 468, 3) and none.pose.shape == (0, 3)


@pytest.mark.parametrize("what", [lambda mesh: 7, lambda mesh: mesh * (1, 0, 0)], ids=["one place", "a line"])
def test_a_face_whose_mesh_is_none_has_the_pose_of_its_five_points_and_others_that_of_theirs(what):
    topology, poses = topology_468(), np.array([[30.0, -10, 5], [-20, 15, 40]])
    meshes = turn_upright(np.einsum("nij,kj->nki", rotation_from_pose(poses), topology.canonical) * 3) + 25
    turned = np.einsum("nij,kj->nki", rotation_from_pose(poses), FACE_5)[..., :2] * (20, -20) + 25
    meshes[1] = what(meshes[1])
    rows = [[0, 0.9, 0, 0, 9, 9], [0, 0.8, 10, 10, 20, 20]]
    outputs = [*outputs_of(rows, turned.reshape(2, 10)), meshes.reshape(1, 2, -1).astype(np.float32)]
    box = letterbox((200, 200), (50, 50))
    (faces,) = postprocess(outputs, [box])
    np.testing.assert_allclose(faces.pose, poses, atol=0.05)
    outputs[3][0, 1] = 7  # five points in one place, too
    assert postprocess(outputs, [box])[0].pose is None
    assert postprocess([*outputs[:3], np.zeros((1, 2, 6)), outputs[4]], [box])[0].pose is None  # or none at all
    assert postprocess(outputs, [box], max_faces=1)[0].pose is not None


class Meshed(Rectangles):
    """Rectangles that are all the same head, of the vertices of a topology, turned."""

    pose, shape = (30.0, -10.0, 5.0), None

    def _collect(self, handle):
        ids, scores, boxes, points = super()._collect(handle)
        mesh = turn_upright(self.shape @ rotation_from_pose(np.array(self.pose)).T).reshape(1, 1, -1)
        return ids, scores, boxes, points, np.where(ids < 0, -1, mesh).astype(np.float32)


def part_of_a_face():
    topology = topology_468()
    return subset_topology(
        "part", topology.canonical, topology.triangles, np.arange(234), triangles_of="model", nose_tip=topology.nose_tip
    )


def test_an_analyzer_that_knows_the_topology_gives_poses_of_meshes_of_any_kind():
    topology = part_of_a_face()

    class Part(Meshed):
        shape = topology.canonical

    assert all(faces.pose is None for faces in Part(FACTS)(PHOTOS))
    one = Part(FACTS, topology=topology)
    box = letterbox(PHOTOS[1].shape[:2], (128, 128))
    for faces, count in zip([*one(PHOTOS), *one.detect_letterboxed(PHOTOS[1:2], [box])], [*COUNTS, 1]):
        assert faces.pose.shape == (count, 3)
        np.testing.assert_allclose(faces.pose, np.tile(Part.pose, (count, 1)), atol=0.01)


def test_another_topology_of_as_many_vertices_is_taken_instead_of_the_one_that_comes_with_the_package():
    topology = topology_468()
    turned = dataclasses.replace(topology, canonical=topology.canonical @ rotation_from_pose([0, 0, 20]))

    class Other(Meshed):
        shape = turned.canonical

    (face,) = Other(FACTS, topology=turned)(PHOTOS[1])
    np.testing.assert_allclose(face.pose, [Other.pose], atol=0.01)
    (face,) = Other(FACTS)(PHOTOS[1])
    assert abs(face.pose - Other.pose).max() > 10


def test_a_topology_that_does_not_fit_the_net_or_is_none_is_refused():
    class Whole(Meshed):
        shape = topology_468().canonical

    for kind, came in ((Whole, "meshes of 468"), (Rectangles, "no meshes")):
        said = f"expected meshes of 234 vertices, those of the topology part, the net gives {came}; give the topology"
        with pytest.raises(InputError, match=said):
            kind(FACTS, topology=part_of_a_face())(PHOTOS[1])
    with pytest.raises(InputError, match="topology to be a gluonface.mesh.MeshTopology, .* or None, got 'bfm.npz'"):
        Rectangles(FACTS, topology="bfm.npz")


def test_an_analyzer_starts_without_what_knows_meshes():
    code = "import sys, gluonface.analysis, gluonface.deploy.runtime; print('gluonface.mesh' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_normalising_alone_is_the_same():
    canvas = PHOTOS[0]
    x = normalise(canvas, FACTS, np.empty((3, 128, 96), np.float32))
    np.testing.assert_array_equal(x, preprocess(canvas, letterbox((128, 96), (128, 96)), FACTS))


def test_rows_beyond_the_photos_are_there_to_fill_up_the_batch():
    box = letterbox((50, 50), (50, 50))
    (alone,) = postprocess(outputs_of([[0, 0.9, 0, 0, 9, 9]]), [box])
    filled = [np.repeat(part, 3, axis=0) for part in outputs_of([[0, 0.9, 0, 0, 9, 9]])]
    assert postprocess(filled, [box]) == [alone]


def test_the_alignment_takes_the_five_points_to_the_template():
    matrices = align_faces(np.array([HEATMAP_TEMPLATE * 300 + 17]), CROPS)
    np.testing.assert_allclose(warp_points(matrices[0], HEATMAP_TEMPLATE * 300 + 17), HEATMAP_TEMPLATE * 96, atol=1e-6)
    assert align_faces(np.zeros((0, 5, 2)), CROPS).shape == (0, 2, 3)


def test_a_canvas_of_whole_strides_holds_the_photo():
    assert [whole_strides(size) for size in ((1, 1), (32, 65), (640, 479))] == [(64, 64), (64, 96), (640, 480)]
    assert [whole_strides(size, 2) for size in ((1, 1), (171, 256))] == [(64, 64), (172, 256)]


# Batches of given sizes


@pytest.mark.parametrize(
    ("count", "batches", "expected"),
    [
        (0, (1, 8), []),
        (0, None, []),
        (5, None, [(0, 5, 5)]),
        (3, (1,), [(0, 1, 1), (1, 2, 1), (2, 3, 1)]),
        (11, (1, 8), [(0, 8, 8), (8, 9, 1), (9, 10, 1), (10, 11, 1)]),
        (3, (8,), [(0, 3, 8)]),
        (7, (4, 8), [(0, 4, 4), (4, 7, 4)]),
        (8, (4, 8), [(0, 8, 8)]),
    ],
)
def test_the_largest_batch_that_fits_comes_first_and_the_last_is_filled_up(count, batches, expected):
    assert cut_batches(count, batches) == expected


def test_every_canvas_is_in_one_batch_whatever_the_sizes(rng):
    for _ in range(200):
        batches = sorted(set(rng.integers(1, 12, rng.integers(1, 4)).tolist()))
        count = int(rng.integers(0, 40))
        runs = cut_batches(count, batches)
        assert [i for start, stop, _ in runs for i in range(start, stop)] == list(range(count))
        assert all(batch in batches and stop - start <= batch for start, stop, batch in runs)
        assert all(stop - start == batch for start, stop, batch in runs[:-1])


# The detector's half


EXPECTED = Rectangles(FACTS)(PHOTOS)


def test_the_made_up_engine_finds_the_rectangles():
    assert list(map(len, EXPECTED)) == COUNTS
    np.testing.assert_array_equal(EXPECTED[0].boxes, [[16, 24, 48, 64], [60, 80, 92, 120]])


@pytest.mark.parametrize("batches", [(1,), (2,), (4,), (1, 8), (2, 3), (8,)])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_an_engine_of_fixed_batches_gives_what_one_of_any_batch_gives(batches, batch_size):
    one = Rectangles(FACTS, buckets={(128, 128): batches}, batch_size=batch_size)
    many = PHOTOS * 3
    assert one(many) == EXPECTED * 3
    assert all(canvas_hw == (128, 128) and batch in batches for canvas_hw, batch in one.runs)
    assert one(PHOTOS[1]) == EXPECTED[1]


def test_the_last_batch_is_filled_up_with_black_canvases_whose_results_are_dropped():
    one = Rectangles(FACTS, buckets={(128, 128): (4,)}, score_thresh=0.0)
    assert one([PHOTOS[0], PHOTOS[1]]) == EXPECTED[:2]
    assert one.runs == [((128, 128), 4)] and one.black == [False, False, True, True]


def test_without_buckets_a_batch_is_what_there_is():
    one = Rectangles(FACTS, batch_size=2)
    one(PHOTOS)
    assert [batch for _, batch in one.runs] == [2, 2, 1]


def test_each_photo_goes_on_the_canvas_where_it_comes_out_nearest_to_the_nets_size():
    one = Rectangles(FACTS, buckets={(128, 128): (1,), (96, 128): (1,), (64, 64): (1,), (320, 320): (1,)})
    sizes = [(300, 400), (128, 96), (64, 64), (90, 128), (10, 1000)]
    assert [one.letterbox_for(size).canvas_hw for size in sizes] == [
        (96, 128),  # all of it at the net's size, on less than the square has
        (128, 128),
        (128, 128),
        (96, 128),
        (96, 128),
    ]
    assert "128x128 or 128x96 or 64x64 or 320x320" in repr(one)
    for faces, expected in zip(one(PHOTOS), EXPECTED):
        np.testing.assert_allclose(faces.boxes, expected.boxes, atol=1e-4)


def test_a_photo_at_stored_size_goes_on_the_smallest_canvas_that_holds_it_or_is_shrunk():
    one = Rectangles(FACTS, size=None, buckets={(320, 416): (1, 2), (128, 128): (1, 2), (96, 128): (2,)})
    boxes = [one.letterbox_for(image.shape[:2]) for image in PHOTOS]
    assert [box.canvas_hw for box in boxes] == [(128, 128), (320, 416), (96, 128), (96, 128), (96, 128)]
    assert all(box.scale_xy == (1, 1) for box in boxes)
    large = one.letterbox_for((640, 832))
    assert large.canvas_hw == (320, 416) and large.scale_xy == (0.5, 0.5)
    # Nearer to its size on the smaller canvas, but whole on the larger one.
    between = Rectangles(FACTS, size=None, buckets={(96, 96): (1,), (128, 128): (1,)}).letterbox_for((100, 100))
    assert between.canvas_hw == (128, 128) and between.scale_xy == (1, 1)
    found = one(PHOTOS)
    assert found == Rectangles(FACTS, size=None)(PHOTOS) and list(map(len, found)) == COUNTS
    assert sorted(one.runs) == [((96, 128), 2), ((96, 128), 2), ((128, 128), 1), ((320, 416), 1)]


def test_auto_takes_the_only_canvas_there_is():
    one = Rectangles(FACTS, buckets={(64, 96): (1,)})
    assert one.canvas_hw == (64, 96) and "96x64" in repr(one)
    assert list(map(len, one(PHOTOS))) == COUNTS


@pytest.mark.parametrize("size", [64, (64, 128)])
def test_a_size_without_a_bucket_is_refused_and_those_there_are_are_named(size):
    with pytest.raises(InputError, match=r"among 128x128, 96x64, .* got (64x64|128x64): compile it"):
        Rectangles(FACTS, size=size, buckets={(128, 128): (1,), (64, 96): (1,)})
    assert Rectangles(FACTS, size=(64, 96), buckets={(64, 96): (1,)}).canvas_hw == (64, 96)


@pytest.mark.parametrize("buckets", [{}, {(64, 64): ()}, {(64, 64): (0, 1)}, {(0, 64): (1,)}, {64: (1,)}, [(64, 64)]])
def test_buckets_that_are_none_are_refused(buckets):
    with pytest.raises(InputError, match="expected (at least one |buckets|batch sizes)"):
        Rectangles(FACTS, buckets=buckets)


def test_bad_images_stay_in_their_place_and_take_no_part_in_a_batch(tmp_path):
    one = Rectangles(FACTS, buckets={(128, 128): (1, 2)})
    images = [PHOTOS[0], tmp_path / "missing.jpg", PHOTOS[1], b"junk", PHOTOS[4]]
    results = one(images, on_error="return")
    assert [type(result).__name__ for result in results] == ["Faces", "ImageError", "Faces", "ImageError", "Faces"]
    assert [results[i] for i in (0, 2, 4)] == [EXPECTED[i] for i in (0, 1, 4)]
    assert [batch for _, batch in one.runs] == [2, 1]
    assert all(isinstance(result, ImageError) for result in one([b"junk", b""], on_error="return"))
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        one(images)


def test_a_stream_starts_a_batch_before_it_waits_for_the_one_before():
    events = []

    class Noting(Rectangles):
        def _forward(self, canvases, score_thresh):
            events.append("start")
            return super()._forward(canvases, score_thresh)

        def _collect(self, handle):
            events.append("wait")
            return super()._collect(handle)

    one = Noting(FACTS, batch_size=2)
    assert list(itertools.islice(one.stream(PHOTOS), 5)) == EXPECTED
    assert events == ["start", "start", "wait", "start", "wait", "wait"]


def test_letterboxed_images_are_cut_into_batches_too():
    boxes = [letterbox(image.shape[:2], (128, 128)) for image in PHOTOS]
    one = Rectangles(FACTS, buckets={(128, 128): (2,)})
    assert one.detect_letterboxed(PHOTOS, boxes) == EXPECTED and [batch for _, batch in one.runs] == [2, 2, 2]
    assert list(map(len, one.detect_letterboxed(PHOTOS, boxes, 0.8))) == [1, 1, 0, 1, 1]
    with pytest.raises(InputError, match="among 128x128, .* got 64x64"):
        one.detect_letterboxed(PHOTOS[:1], [letterbox(PHOTOS[0].shape[:2], (64, 64))])


def test_a_detector_is_told_which_faces_are_too_weak_to_be_wanted():
    one = Rectangles(FACTS, score_thresh=0.25)
    one(PHOTOS[0])
    boxes = [letterbox(image.shape[:2], (128, 128)) for image in PHOTOS]
    one.detect_letterboxed(PHOTOS, boxes)
    one.detect_letterboxed(PHOTOS, boxes, 0.125)
    assert one.thresholds == [0.25, 0.25, 0.125]


def test_facts_of_another_task_are_refused():
    with pytest.raises(InputError, match=r"expected a detector, got corners, .* Rectangles\(landmarks="):
        Rectangles(CROPS)
    with pytest.raises(InputError, match="expected a landmark net, .* got bright_rectangles"):
        Dots(FACTS)
    with pytest.raises(InputError, match="corners: expected facts with a scheme among .* got scheme '7'"):
        Dots(dataclasses.replace(CROPS, scheme="7"))
    with pytest.raises(InputError, match="template of five points"):
        Dots(dataclasses.replace(CROPS, template=None))
    with pytest.raises(InputError, match="expected landmarks to be a LandmarkStage"):
        Rectangles(FACTS, landmarks="heatmap")


# The landmark stage


@pytest.mark.parametrize("flip", ["none", "points"])
@pytest.mark.parametrize("buckets", [None, {(96, 96): (1,)}, {(96, 96): (2,)}, {(96, 96): (1, 8), (64, 64): (1,)}])
def test_landmarks_come_back_to_the_photos_whatever_the_batches(rng, buckets, flip):
    stage = Dots(CROPS, buckets=buckets, flip=flip)
    points = [np.array(f).reshape(-1, 5, 2) + rng.normal(0, 2, (len(f), 5, 2)) for f in FACES]
    found, scores = stage.from_points(DOTTED, points)
    for ours, truth, heights in zip(found, FACES, scores):
        assert ours.shape == (len(truth), 5, 2) and heights.shape == (len(truth), 5) and (heights == 1).all()
        np.testing.assert_allclose(ours, np.reshape(truth, (-1, 5, 2)), atol=1.0)
    if buckets is not None:
        assert all(run in [((96, 96), batch) for batch in buckets[96, 96]] for run in stage.runs)


def test_the_mirror_image_has_left_and_right_exchanged_and_its_shift_taken_off():
    crop = dotted((96, 96), HEATMAP_TEMPLATE * 96)[None]
    plain, _ = Dots(CROPS).predict(crop)
    both = Dots(CROPS, flip="points")
    averaged, _ = both.predict(crop)
    assert len(both.runs) == 2
    np.testing.assert_allclose(averaged, plain, atol=0.3)
    shifted, _ = Dots(dataclasses.replace(CROPS, mirror_shift=0.05), flip="points").predict(crop)
    np.testing.assert_allclose(shifted - averaged, np.tile([0.05 * 96 / 2, 0], (1, 5, 1)), atol=1e-4)


def test_crops_are_filled_up_and_cut_by_both_batch_size_and_bucket():
    stage = Dots(CROPS, buckets={(96, 96): (2,)}, batch_size=3, passes=1)
    image, points = DOTTED[0], np.array([FACES[0][0]] * 4)
    stage.from_points([image], [points])
    assert [batch for _, batch in stage.runs] == [2, 2, 2]
    assert stage.black == [False, False, False, True, False, True]


def test_photos_without_faces_send_nothing_through_the_network():
    stage = Dots(CROPS)
    (faces,) = stage([DOTTED[1]], [Faces.empty((80, 80))])
    assert faces.landmarks.shape == (0, 5, 2) and faces.scheme == "5" and not hasattr(stage, "runs")
    assert stage([], []) == [] and stage.from_points([], []) == ([], [])


def test_a_stage_whose_crop_has_no_bucket_is_refused():
    with pytest.raises(InputError, match="among 112x112, .* got 96x96"):
        Dots(CROPS, buckets={(112, 112): (1,)})


def test_flips_are_those_of_the_class():
    with pytest.raises(InputError, match="none, points, got 'heatmaps'"):
        Dots(CROPS, flip="heatmaps")


@pytest.mark.parametrize("crops", [np.zeros((1, 3, 96, 96), np.float32), np.zeros((0, 96, 96, 3), np.uint8)])
def test_crops_of_another_kind_are_refused(crops):
    with pytest.raises(InputError, match=r"expected crops \(B, 96, 96, 3\) uint8"):
        Dots(CROPS).predict(crops)


# Both


class Middle(Recorder, LandmarkStage):
    """Says that the points are where the template has them, shifted by a pixel of the crop."""

    def _forward(self, canvases):
        self.seen(canvases)
        points = np.tile(np.float32(HEATMAP_TEMPLATE * 96 + 1), (len(canvases), 1, 1))
        return points, np.ones((len(canvases), SCHEMES["5"].num_points), np.float32)

    def _collect(self, handle):
        return handle


@pytest.mark.parametrize("buckets", [None, {(96, 96): (1, 4)}])
def test_two_stages_look_at_all_photos_of_a_batch_together(tmp_path, buckets):
    stage = Middle(CROPS, buckets=buckets)
    one = Rectangles(FACTS, buckets={(128, 128): (1, 4)}, landmarks=stage)
    images = [*PHOTOS, tmp_path / "missing.jpg"]
    found = one(images, on_error="return")
    assert isinstance(found[-1], ImageError) and "landmarks=corners" in repr(one)
    assert [batch for _, batch in one.runs] == [4, 1]
    assert [batch for _, batch in stage.runs] == ([7] if buckets is None else [4, 1, 1, 1])
    for faces, plain in zip(found, EXPECTED):
        assert faces.with_(landmarks=None, scheme=None) == plain
        assert faces.scheme == "5" and faces.landmarks.shape == (len(plain), 5, 2)
        for points, five_points in zip(faces.landmarks, plain.landmarks5):
            matrix = align_faces(five_points[None], CROPS)[0]
            np.testing.assert_allclose(warp_points(matrix, points), HEATMAP_TEMPLATE * 96 + 1, atol=1e-3)


def test_multiscale_detection_takes_any_engine():
    from gluonface.tta import detect_multiscale

    faces = detect_multiscale(Rectangles(FACTS, landmarks=Middle(CROPS)), PHOTOS[4], short_sides=(90, 180))
    assert len(faces) == 3 and faces.landmarks.shape == (3, 5, 2)


def test_an_engine_of_fixed_canvases_looks_at_several_sizes_on_the_smallest_that_holds_each():
    from gluonface.tta import detect_multiscale

    one = Rectangles(FACTS, buckets={(256, 256): (1, 2), (192, 256): (1,), (128, 128): (1,)}, max_faces=2)
    faces = detect_multiscale(one, PHOTOS[4], long_sides=(128, 256), flip=False, size_ranges=[(0, 999)] * 2)
    assert one.runs == [((128, 128), 1), ((192, 256), 1)]
    assert [round(float(score) * 255) for score in faces.scores] == [230, 180]  # of three, the best two
    # Of a run all are taken: the best one, of 28 pixels, goes with the range of sizes.
    faces = detect_multiscale(one, PHOTOS[4], long_sides=(128, 256), flip=False, size_ranges=[(30, 999)] * 2)
    assert [round(float(score) * 255) for score in faces.scores] == [180, 130]
    one.runs.clear()
    with pytest.raises(InputError, match="among 256x256, 256x192, 128x128, which this network can take, got 320x"):
        detect_multiscale(one, PHOTOS[4], long_sides=(128, 300), flip=False)


class PosedRectangles(Rectangles):
    """Rectangles whose pose says how wide and high they are on the canvas, and how bright."""

    def _collect(self, handle):
        ids, scores, boxes, points = super()._collect(handle)
        pose = np.concatenate([boxes[..., 2:] - boxes[..., :2], 90 * scores], axis=2)
        return ids, scores, boxes, points, np.where(ids < 0, -1, pose)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_engine_with_pose_gives_it_to_its_faces_whatever_the_batches(batch_size):
    results = PosedRectangles(FACTS, batch_size=batch_size)(PHOTOS)
    assert [len(faces) for faces in results] == COUNTS
    for faces, image in zip(results, PHOTOS):
        scale = 128 / max(image.shape[:2])
        expected = np.column_stack([(faces.boxes[:, 2:] - faces.boxes[:, :2]) * scale, 90 * faces.scores])
        np.testing.assert_allclose(faces.pose, expected, atol=1.5)
        assert faces.pose.shape == (len(faces), 3)
