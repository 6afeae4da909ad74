"""time_pose.py measures a small job for real, and adds up what others would take."""

import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from gluonface.errors import DeployError
from gluonface.face_template import FACE_5
from gluonface.faces import Faces
from gluonface.model_zoo import get_model
from gluonface.pose import rotation_from_pose

MODEL, START = "mos_mobilenet0.25_fc26", "retinaface_mobilenet0.25_fc26"


@pytest.fixture
def module(script):
    pytest.importorskip("skimage", reason="the photos show scikit-image's astronaut: pip install gluonface[demo]")
    return script("time_pose")


def test_three_ways_take_turns_and_find_the_same_faces(module, tmp_path, capsys):
    from gluonface._compat import mx
    from gluonface.training.detection import load_start

    net = get_model(MODEL)
    net.initialize(mx.init.Xavier())
    load_start(net, START)
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(tmp_path / "mos.params"))
    words = f"--weights {tmp_path / 'mos.params'} --facts-of {START} --engines mxnet --threads 1 --rounds 1 --faces 1 5"
    assert module.main([*words.split(), "--json", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert [(one["engine"], one["threads"], one["faces"]) for one in result["runs"]] == [
        ("mxnet", 1, 1),
        ("mxnet", 1, 5),
    ]
    for one in result["runs"]:
        assert set(one["median_ms"]) == {"mos", "points", "dense"} and min(one["median_ms"].values()) > 1
        assert one["ratio"]["points"] == pytest.approx(one["median_ms"]["mos"] / one["median_ms"]["points"], rel=0.01)
        assert set(one["found"].values()) == {one["faces"]}
    assert result["weights"] == "mos.params" and result["left_out"] == {} and result["size_hw"] == [480, 640]
    printed = capsys.readouterr().out
    assert "MOS over 5" in printed and "paper: 10.8 and 7.2 ms" in printed


def test_the_ratio_is_that_of_turns(module):
    ways = {"mos": lambda photo: time.sleep(0.02) or [1], "points": lambda photo: time.sleep(0.01) or [1, 2]}
    result = module.take_turns(ways, None, 3)
    assert result["median_ms"]["mos"] > 15 and result["found"] == {"mos": 1, "points": 2}
    assert 1.2 < result["ratio"]["points"] < 2.5
    assert module.take_turns({"points": ways["points"]}, None, 1)["ratio"] == {}


def test_photos_show_as_many_faces_as_asked_for(module):
    photo = module.photo_of(20)
    assert photo.shape == (480, 640, 3)
    side = 106  # six columns, four rows
    tiles = [photo[r * side : (r + 1) * side, c * side : (c + 1) * side] for r in range(4) for c in range(6)]
    same = [np.array_equal(tile, tiles[0]) for tile in tiles]
    assert same == [True] * 20 + [False] * 4
    assert np.array_equal(photo, module.photo_of(20))


def test_poses_are_those_of_the_points(module):
    pose = np.array([30.0, 10, -5])
    points = (FACE_5 @ rotation_from_pose(pose).T)[:, :2] * (1, -1) * 50 + 100
    faces = Faces([[50, 50, 150, 150]], [0.9], landmarks5=[points], size_hw=(200, 200))
    np.testing.assert_allclose(module.fitted(faces, "landmarks5").pose[0], pose, atol=0.1)
    assert module.fitted(Faces.empty((9, 9)), "landmarks5").pose.shape == (0, 3)


def test_a_detector_that_gives_no_pose_is_left_out(module, monkeypatch):
    bare = Faces([[1, 1, 5, 5]], [0.9], size_hw=module.SIZE_HW)
    posed = bare.with_(pose=[[1, 2, 3]])
    monkeypatch.setattr(module, "artefact_ways", lambda job: {"mos": lambda photo: bare, "points": lambda photo: posed})
    result = module.work({"engine": "artefact", "threads": 1, "faces": [1], "rounds": 1})
    assert result["left_out"] == {"artefact: MOS": "gives no pose"}
    assert list(result["runs"][0]["median_ms"]) == ["points"]


def test_why_a_net_is_not_compiled_is_told(module, monkeypatch):
    def compiled(name, sizes, batches, args):
        if sizes == [module.SIZE_HW]:
            raise DeployError("no compiler")
        return "landmarks.artefact"

    monkeypatch.setitem(sys.modules, "deploy", SimpleNamespace(compiled=compiled))
    args = module.parse_args(["--weights", "x.params"])
    names = {"mos": MODEL, "beside": START, "landmarks": args.landmarks}
    paths, reasons = module.compiled_nets(names, args)
    assert paths == {"landmarks": "landmarks.artefact"}
    assert reasons == {
        f"artefact of {MODEL}": "only nets whose weights ship are compiled",
        f"artefact of {START}": "no compiler",
    }
