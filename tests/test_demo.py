"""The demo's crowd is what it says, and the demo runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gluonface.faces import Faces
from gluonface.geometry import box_iou

ROOT = Path(__file__).parents[1]

pytest.importorskip("skimage", reason="the crowd is made of scikit-image's astronaut: pip install 'gluonface[demo]'")


@pytest.fixture(scope="module")
def crowd_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import crowd

        yield crowd


@pytest.fixture(scope="module")
def crowd(crowd_module):
    return crowd_module.compose_crowd()


def test_the_crowd_has_many_sizes_and_angles(crowd):
    assert len(crowd.boxes) >= 25
    assert crowd.heights.min() == 16
    assert crowd.heights.max() == 200
    assert {0.0, 60.0, -60.0, 180.0} <= set(crowd.degrees.tolist())


def test_every_face_of_the_crowd_lies_inside_the_picture_and_none_hides_another(crowd):
    height, width = crowd.image.shape[:2]
    assert (crowd.boxes[:, :2] >= 0).all()
    assert (crowd.boxes[:, 2] <= width).all()
    assert (crowd.boxes[:, 3] <= height).all()
    overlaps = box_iou(crowd.boxes, crowd.boxes)
    np.fill_diagonal(overlaps, 0)
    assert overlaps.max() < 0.1


def test_the_same_seed_gives_the_same_crowd_and_another_seed_another(crowd_module):
    first, again, other = (
        crowd_module.compose_crowd((200, 300), heights=(40, 30), angles=(0, 90), seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.boxes, other.boxes)


def test_the_faces_lie_where_the_boxes_say(crowd_module):
    one = crowd_module.compose_crowd((300, 400), heights=(124,), angles=(0,), seed=3)
    x1, y1, x2, y2 = np.rint(one.boxes[0]).astype(int)
    fx1, fy1, fx2, fy2 = crowd_module.FACE_BOX.astype(int)
    assert (y2 - y1, x2 - x1) == (fy2 - fy1, fx2 - fx1)
    face = crowd_module.astronaut()[fy1:fy2, fx1:fx2].astype(int)
    inner = (slice(30, -20), slice(20, -20))  # without what is not the person
    assert np.abs(one.image[y1:y2, x1:x2][inner] - face[inner]).mean() < 10


def test_a_face_turned_by_a_right_angle_has_a_lying_box(crowd_module):
    lying = crowd_module.compose_crowd((300, 400), heights=(124,), angles=(90,), seed=3)
    width, height = lying.boxes[0, 2:] - lying.boxes[0, :2]
    assert (width, height) == pytest.approx((124, 95), abs=0.2)


def test_a_face_is_counted_once_however_often_it_is_detected(crowd_module):
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)
    crowd = crowd_module.Crowd(np.zeros((20, 60, 3), np.uint8), boxes, np.full(3, 10), np.zeros(3))
    seen = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [43, 5, 53, 15]], np.float32)
    faces = Faces(seen, np.array([0.9, 0.8, 0.7], np.float32), size_hw=(20, 60))
    assert crowd.found_in(faces).tolist() == [True, False, False]
    assert crowd.found_in(Faces.empty((20, 60))).tolist() == [False] * 3


def test_the_demo_finds_the_face_lists_it_and_writes_its_pictures(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"astronaut\.jpg: [12] faces?\n", done.stdout)
    found, placed = map(int, re.search(r"found (\d+) of the (\d+) faces in the crowd", done.stdout).groups())
    assert found >= 0.8 * placed
    assert {path.name for path in tmp_path.iterdir()} == {"astronaut.jpg", "crowd.jpg", "landmarks.jpg", "pose.jpg"}
    assert re.search(r"pose of the face by mos_\S+: yaw [+-]\d+°, pitch [+-]\d+°, roll [+-]\d+°", done.stdout)
