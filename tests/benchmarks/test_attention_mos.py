"""Attention is found where an output comes from, and overlaps are those of known maps."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.decode import LIGHT_ANCHORS, anchors_for
from gluonface.errors import DataError, InputError
from gluonface.image import load_image, save_image
from gluonface.model_zoo import get_model, model_facts

MODEL, START = "mos_mobilenet0.25_fc26", "retinaface_mobilenet0.25_fc26"
FACE = 32


@pytest.fixture
def module(script):
    pytest.importorskip("skimage", reason="the picture shows scikit-image's astronaut: pip install gluonface[demo]")
    return script("attention_mos")


class HalfSighted:
    """A net that sees a face everywhere, its class from the left half of the image, its points from the right one; its
    boxes are the anchors and its pose comes from everywhere.
    """

    spec = LIGHT_ANCHORS
    facts = model_facts(MODEL)

    def __init__(self, score=5.0):
        self.score, self.network = score, self
        self.pose_head = lambda cells, number, side: cells[:, :1].tile((1, 1, 1))

    def decode_pose(self, cells):
        return cells

    def __call__(self, x):
        from gluonface._compat import mx

        side, count = x.shape[3], len(anchors_for(x.shape[2:], LIGHT_ANCHORS))
        halves = [mx.nd.slice_axis(x, 3, a, b).sum(axis=(1, 2, 3)) for a, b in ((0, side // 2), (side // 2, side))]
        left, right = (half.reshape((-1, 1, 1)).tile((1, count, 1)) for half in halves)
        cls = mx.nd.concat(left * 0, left * 1e-6 + self.score, dim=2)
        # Boxes far from their anchors, if they followed the image.
        boxes = mx.nd.concat(*[left * 1e-9] * 4, dim=2)
        cells = (left + right)[:, ::2].tile((1, 1, 3))
        return cls, boxes, mx.nd.concat(*[right] * 10, dim=2), cells


def test_attention_is_where_the_outputs_come_from(module):
    side = module.side_of_canvas(FACE)
    canvas, box = np.full((side, side, 3), 100, np.uint8), np.array([24.0, 24, 56, 56])
    maps = module.attention(HalfSighted(), canvas, box, 0.5)
    assert set(maps) == {"class", "box", "points", "pose", "untrained pose"}
    half = side // 2
    for task, share in {"class": 1, "box": 1, "points": 0, "pose": 0.5, "untrained pose": 0.5}.items():
        assert maps[task].shape == (side, side) and maps[task].sum() == pytest.approx(1)
        # Smoothing carries a little across the middle.
        assert maps[task][:, :half].sum() == pytest.approx(share, abs=0.03)


def test_a_face_that_is_not_found_has_no_attention(module):
    canvas = np.full((96, 96, 3), 100, np.uint8)
    assert module.attention(HalfSighted(score=-5.0), canvas, np.array([24.0, 24, 56, 56]), 0.5) is None
    assert module.attention(HalfSighted(), canvas, np.array([0.0, 0, 5, 5]), 0.5) is None  # no anchor is so small


def test_overlaps_of_known_maps(module, rng):
    one, other = rng.random((100, 100)), rng.random((100, 100))
    assert module.overlap(one, one) == {"iou": 1, "correlation": pytest.approx(1)}
    chance = module.overlap(one, other)
    assert chance["iou"] == pytest.approx(0.2 * 0.2 / (0.4 - 0.04), abs=0.02)
    assert chance["correlation"] == pytest.approx(0, abs=0.05)
    assert module.overlap(one, -one)["iou"] == 0 and module.overlap(one, -one)["correlation"] == pytest.approx(-1)
    assert np.isnan(module.overlap(np.ones((9, 9)), one[:9, :9])["correlation"])


def test_a_face_comes_to_lie_in_the_middle_at_one_size(module):
    image = np.zeros((100, 300, 3), np.uint8)
    image[20:60, 200:240] = 255
    canvas, box = module.cut_out(image, np.array([200.0, 20, 240, 60]), 64)
    assert canvas.shape == (160, 160, 3)
    assert box.tolist() == [48, 48, 112, 112]
    assert canvas[50:110, 50:110].min() > 250 and canvas[:40].max() == 0
    part = module.window(canvas[..., 0], 64)
    assert part.shape == (96, 96) and part[20:76, 20:76].min() > 250


def test_another_face_and_a_shifted_map_are_compared_too(module):
    maps = []
    for x in (70, 90):
        y, places = np.mgrid[:160, :160]
        blob = np.exp(-((places - x) ** 2 + (y - 80) ** 2) / 200)
        maps.append({name: blob / blob.sum() for name in ("class", "box", "points", "pose", "untrained pose")})
    result = module.compare(maps, 64)
    assert set(result) == {*("-".join(pair) for pair in module.PAIRS), *module.YARDSTICKS}
    assert result["class-pose"]["iou"] == 1 and result["untrained pose"]["iou"] == 1
    assert result["shifted"]["iou"] < 0.1 and result["another face"]["iou"] < 0.7
    assert result["another face"]["correlation_10_to_90"] == [pytest.approx(result["another face"]["correlation"])] * 2


def test_astronaut_and_data_are_measured_and_drawn(module, tmp_path, capsys):
    from gluonface._compat import mx
    from gluonface.training.detection import load_start

    net = get_model(MODEL)
    net.initialize(mx.init.Xavier())
    load_start(net, START)
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(tmp_path / "mos.params"))
    photo = module.astronaut()
    (tmp_path / "images").mkdir()
    samples = []
    for name, image in (("a.png", photo), ("b.png", photo[:, ::-1])):
        save_image(tmp_path / "images" / name, np.ascontiguousarray(image))
        x1, y1, x2, y2 = module.FACE_BOX
        box = [x1, y1, x2, y2] if name == "a.png" else [512 - x2, y1, 512 - x1, y2]
        samples.append(FaceSample(name, (512, 512), FaceLabels([box], pose=[[0, 0, 0]]), source="x", name=name))
    write_jsonl(tmp_path / "val.jsonl", samples)
    words = f"--model {MODEL} --weights {tmp_path / 'mos.params'} --facts-of {START} --data {tmp_path / 'val.jsonl'}"
    words += f" --face 64 --json {tmp_path / 'out.json'} --picture {tmp_path / 'out.png'}"
    assert module.main(words.split()) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["faces"], result["missed"]) == (2, 0)
    assert 0 < result["pairs"]["class-pose"]["iou"] <= 1
    assert result["pairs"]["shifted"]["iou"] < result["pairs"]["class-pose"]["iou"]
    assert "untrained pose" in result["astronaut"] and "another face" not in result["astronaut"]
    assert load_image(tmp_path / "out.png").std() > 20
    assert "class-pose" in capsys.readouterr().out


def test_a_model_without_pose_is_refused(module):
    with pytest.raises(InputError, match="gives no pose: expected a model of MOS"):
        module.main(["--model", START])


def test_data_without_pose_are_refused(module, tmp_path):
    write_jsonl(tmp_path / "x.jsonl", [FaceSample("a.png", (9, 9), FaceLabels([[1, 1, 5, 5]]), name="a.png")])
    with pytest.raises(DataError, match="no face has a pose"):
        module.chosen_faces(SimpleNamespace(data=tmp_path / "x.jsonl", images=None, sources=None, faces=5))
