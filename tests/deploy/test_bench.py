"""`gluonface.deploy.bench`: engines take turns, are compared, and none is blamed for another's fault."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from gluonface.deploy import bench as benching
from gluonface.deploy import engines, runtime
from gluonface.errors import DeployError, InputError, MissingDependencyError, ModelNotFoundError
from gluonface.faces import Faces

LANDMARK_NAME = "heatmap_mobilenetv2_0.25_sssd_fc26"
KEYS = {
    *("model", "function", "batch", "size_hw", "threads", "rounds", "median_ms", "end_to_end_ms", "ratios"),
    *("end_to_end_ratios", "gflops", "peak_gflops", "share_of_peak", "max_difference", "peak_memory_mib", "start_up"),
    *("left_out", "artefact", "date", "versions", "machine"),
}

ALONE = """
import json, sys
from gluonface.deploy import bench
bench._PEAK_SIDE = 256
result = bench.bench(sys.argv[1], rounds=2, function="b3_96x128", threads=2)
loaded = {name.split(".")[0] for name in sys.modules} & {"mxnet", "tvm", "onnx"}
print(json.dumps([result, sorted(loaded)]))
"""


def test_an_artefact_is_measured_alone_without_mxnet_and_tvm(toys):
    done = subprocess.run([sys.executable, "-c", ALONE, str(toys / "detector")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result, loaded = json.loads(done.stdout)
    assert loaded == []
    assert set(result) == KEYS
    assert (result["function"], result["batch"], result["size_hw"]) == ("b3_96x128", 3, [96, 128])
    assert (result["threads"], result["rounds"]) == (2, 2)
    assert 0 < result["median_ms"]["artefact"] < result["end_to_end_ms"]["artefact"]
    assert result["ratios"] == result["max_difference"] == result["left_out"] == {}
    assert result["start_up"]["ms"] > 10 and 20 < result["start_up"]["peak_memory_mib"] < 500
    assert result["artefact"]["tuned"] is False and result["artefact"]["library_bytes"] > 1000


@pytest.fixture(scope="module")
def pretender(toy, tmp_path_factory):
    """A toy landmark net that says it was compiled from the zoo's weights."""
    for name in ("mxnet", "tvm", "onnx", "onnxruntime"):
        pytest.importorskip(name, reason="takes MXNet, TVM, onnx and onnxruntime")
    from gluonface.model_zoo import model_facts

    facts = dataclasses.replace(model_facts(LANDMARK_NAME), card=None)
    buckets = [(1, (facts.size, facts.size))]
    out = tmp_path_factory.mktemp("pretender") / "artefact"
    return toy.write(out, "landmarks", buckets, facts=facts, weights_sha256=facts.sha256)


def test_engines_take_turns_and_differences_to_mxnet_are_seen(pretender, monkeypatch):
    result = benching.bench(pretender, against=["onnxruntime", "mxnet"], rounds=3)
    assert set(result["median_ms"]) == set(result["end_to_end_ms"]) == {"artefact", "onnxruntime", "mxnet"}
    assert set(result["ratios"]) == {"onnxruntime", "mxnet"}
    # The toy has next to nothing to compute.
    assert 0 < result["ratios"]["mxnet"] < 0.5
    assert result["max_difference"]["onnxruntime"]["raw"] < 1e-3
    assert result["max_difference"]["onnxruntime"]["points"] < 0.5
    assert "raw" not in result["max_difference"]["artefact"]
    assert result["max_difference"]["artefact"]["points"] > 1
    gflop = result["gflops"]["mxnet"] * result["median_ms"]["mxnet"] / 1000
    facts = runtime.open_artifact(pretender).manifest.facts
    assert gflop == pytest.approx(2 * facts.gf * (facts.size / 192) ** 2)
    assert result["share_of_peak"]["mxnet"] == pytest.approx(result["gflops"]["mxnet"] / result["peak_gflops"])
    json.dumps(result, allow_nan=False)


def test_other_weights_than_the_zoos_are_not_compared_with_them(toy, toys, tmp_path):
    pytest.importorskip("mxnet")
    with pytest.raises(ModelNotFoundError, match="toy_detection"):
        benching.bench(toys / "detector", against=["mxnet"])
    from gluonface.model_zoo import model_facts

    facts = dataclasses.replace(model_facts(LANDMARK_NAME), card=None)
    toy.write(tmp_path / "a", "landmarks", [(1, (facts.size, facts.size))], facts=facts)
    with pytest.raises(InputError, match="it was compiled from others"):
        benching.bench(tmp_path / "a", against=["mxnet"])


def test_an_engine_that_cannot_run_is_an_error_or_left_out(toys, monkeypatch):
    class Broken(engines.ENGINES["artefact"]):
        @classmethod
        def unusable(cls):
            return "it is broken"

    monkeypatch.setitem(engines.ENGINES, "broken", Broken)
    with pytest.raises(MissingDependencyError, match="broken: it is broken"):
        benching.bench(toys / "detector", against=["broken"])
    monkeypatch.setattr(benching, "start_up", lambda folder: {})
    result = benching.bench(toys / "detector", against=["broken"], leave_out=True, rounds=1)
    assert result["left_out"] == {"broken": "it is broken"} and set(result["median_ms"]) == {"artefact"}


def test_engines_say_which_extra_brings_them(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    for name, extra in (("onnxruntime", "bench"), ("openvino", "bench"), ("mxnet", "cpu")):
        assert f"gluonface[{extra}]" in engines.ENGINES[name].unusable()
    monkeypatch.setattr(engines, "cpu_features", lambda: frozenset({"avx2"}))
    assert "bfloat16" in engines.ENGINES["openvino_bf16"].unusable()
    assert engines.ENGINES["artefact"].unusable() is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"against": ["tensorflow"]}, "expected engines among artefact, onnxruntime"),
        ({"function": "b9_9x9"}, "expected one of the functions b1_96x128"),
        ({"threads": 0}, "threads of at least 1"),
        ({"rounds": 0}, "rounds of at least 1"),
        ({"photos": []}, "at least one photo"),
    ],
)
def test_wrong_arguments_are_named(toys, options, says):
    with pytest.raises(InputError, match=says):
        benching.bench(toys / "detector", **options)


def test_what_goes_wrong_in_a_process_is_told(toys, tmp_path):
    job = engines.make_job(toys / "detector", tmp_path, engines=["artefact"])
    for changed, says in (({"function": "b9_9x9"}, "expected one of the functions"), ({"photos": "no"}, "no")):
        worker = benching._Worker("artefact", dataclasses.replace(job, **changed))
        with pytest.raises(DeployError, match=f"artefact: .*{says}"):
            worker.answer()
        worker.close()
    worker = benching._Worker("artefact", job)
    assert worker.answer() == {"ready": True}
    worker.process.kill()
    with pytest.raises(DeployError, match="its process ended"):
        worker.ask("network", photo=0)
    worker.close()


def test_an_engine_whose_predictions_are_wrong_is_not_measured(monkeypatch, tmp_path):
    class Fake:
        def __init__(self, shift):
            self.shift, self.closed = shift, False

        def ask(self, do, path):
            np.savez(path, raw0_0=np.zeros(4) + self.shift, landmarks_0=np.zeros((1, 5, 2)) + self.shift)

        def close(self):
            self.closed = True

    def workers():
        return {
            "artefact": Fake(0),
            "ncnn": Fake(3),
            "openvino_bf16": Fake(0.2),
            "onnxruntime": Fake(1e-6),
            "mxnet": Fake(0),
        }

    ours, left_out = workers(), {}
    wrong = ours["ncnn"]
    found = benching._differences(ours, tmp_path, left_out)
    assert set(ours) == {"artefact", "openvino_bf16", "onnxruntime", "mxnet"} and wrong.closed
    assert "off by 3 from MXNet's" in left_out["ncnn"] and "pnnx" in left_out["ncnn"]
    assert found["onnxruntime"] == {"raw": pytest.approx(1e-6), "points": pytest.approx(1e-6)}
    assert found["openvino_bf16"]["raw"] == pytest.approx(0.2)
    with pytest.raises(DeployError, match="ncnn: the raw predictions"):
        benching._differences(workers(), tmp_path, None)


def test_the_ratio_is_the_median_over_rounds_so_that_a_slow_round_counts_for_both():
    ratios = benching._ratios({"artefact": [1.0, 10.0, 1.0], "other": [2.0, 20.0, 1.0]})
    assert ratios == {"other": 0.5}


def test_the_machine_is_not_kept_beyond_the_budget():
    class Fake:
        asked = 0

        def ask(self, what, photo):
            Fake.asked += 1
            return {"seconds": [0.001, 0.003, 0.002]}

    samples, made = benching._take_turns({"artefact": Fake()}, 2, 1000, 1e-9, 1, lambda: None, lambda text: None)
    assert made == 5 and samples["artefact"]["network"] == [0.002] * 5
    assert Fake.asked == 2 * (5 + benching._WARM_UP)


@pytest.mark.parametrize("name", ["retinaface_mobilenet0.25_fc26", LANDMARK_NAME])
def test_operations_are_those_that_are_counted_on_the_graph(name):
    pytest.importorskip("mxnet")
    from gluonface import get_model
    from gluonface.model_zoo.counting import count_macs

    net = get_model(name)
    size = (480, 640) if net.facts.task == "detection" else (net.facts.size,) * 2
    counted = 2 * count_macs(net.network, (2, 3, *size)) / 1e9
    assert benching.gflop_of(net.facts, runtime.Bucket.of(2, size)) == pytest.approx(counted, rel=2e-3)


def test_detectors_find_the_drawn_faces():
    pytest.importorskip("mxnet")
    from gluonface import FaceAnalyzer

    image, boxes = engines.drawn_photo()
    assert image.shape == (480, 640, 3) and (image == engines.drawn_photo()[0]).all()
    found = FaceAnalyzer()(image).with_(landmarks5=None)
    assert benching.compare_faces([found], [Faces(boxes, np.ones(12), size_hw=(480, 640))]).faces >= 10


# Do two engines say the same?


def faces(boxes=((10, 10, 50, 50), (60, 60, 90, 90)), scores=(0.9, 0.6), shift=0.0) -> Faces:
    boxes = np.float32(boxes).reshape(-1, 4)
    points = np.repeat(boxes[:, None, :2], 5, axis=1) + np.arange(5)[None, :, None] + shift
    return Faces(boxes, scores, landmarks5=points, size_hw=(100, 100))


def test_faces_are_compared_whatever_their_order():
    turned = faces(((60, 60, 90, 90), (10, 10, 50, 50)), (0.6, 0.9))
    difference = benching.compare_faces([faces()], [turned])
    assert difference == benching.Difference(photos=1, faces=2)
    assert difference.agrees(0.5)


@pytest.mark.parametrize(
    ("other", "agrees"),
    [
        (faces(shift=0.4), True),
        (faces(shift=0.6), False),
        (faces(((10, 10, 50.4, 50), (60, 60, 90, 90))), True),
        (faces(((10, 10, 50.6, 50), (60, 60, 90, 90))), False),
        (faces(scores=(0.9009, 0.6)), True),
        (faces(scores=(0.902, 0.6)), False),
        (faces(((10, 10, 50, 50),), (0.9,)), False),
        (faces(((10, 10, 50, 50), (60, 60, 90, 90), (0, 0, 5, 5)), (0.9, 0.6, 0.5009)), True),
        (faces(((10, 10, 50, 50), (60, 60, 90, 90), (0, 0, 5, 5)), (0.9, 0.6, 0.502)), False),
    ],
)
def test_they_agree_within_half_a_pixel_a_thousandth_and_at_the_threshold(other, agrees):
    assert benching.compare_faces([faces()], [other]).agrees(0.5) is agrees
    assert benching.compare_faces([other], [faces()]).agrees(0.5) is agrees


def test_their_poses_agree_within_a_tenth_of_a_degree():
    one, turned, more = (faces().with_(pose=np.float32([[1, 2, 3], [4, angle, 6]])) for angle in (5, 5.05, 5.2))
    assert benching.compare_faces([one], [turned]).pose == pytest.approx(0.05, abs=1e-5)
    assert benching.compare_faces([one], [turned]).agrees(0.5)
    assert not benching.compare_faces([more], [one]).agrees(0.5)


def test_their_meshes_agree_within_half_a_pixel_and_are_on_both_sides():
    mesh = np.random.default_rng(0).uniform(0, 90, (2, 7, 3)).astype(np.float32)
    one, near, far = (faces().with_(mesh=mesh + off) for off in (0, 0.25, 0.75))
    assert benching.compare_faces([one], [near]).mesh == pytest.approx(0.25, abs=1e-4)
    assert benching.compare_faces([one], [near]).agrees(0.5) and not benching.compare_faces([far], [one]).agrees(0.5)
    with pytest.raises(InputError, match="photo 0: expected mesh on both sides"):
        benching.compare_faces([faces()], [one])


def test_all_that_faces_have_passes_from_an_engine_s_process_to_the_comparison(tmp_path):
    rng = np.random.default_rng(0)
    dense, pose = rng.uniform(0, 90, (2, 68, 2)).astype(np.float32), rng.uniform(-9, 9, (2, 3)).astype(np.float32)
    given = faces().with_(landmarks=dense, scheme="68", pose=pose, mesh=rng.uniform(0, 9, (2, 7, 3)).astype(np.float32))
    for one in (given, faces(), Faces.empty((100, 100))):
        arrays = {}
        for i, each in enumerate((one, one)):
            arrays |= benching.arrays_of(each, i)
        found = benching.faces_of(arrays)
        assert len(found) == 2 and found[1].scheme == one.scheme
        for name in ("boxes", "scores", "landmarks5", "landmarks", "pose", "mesh"):
            if getattr(one, name) is None:
                assert getattr(found[1], name) is None
            else:
                np.testing.assert_array_equal(getattr(found[1], name), getattr(one, name))


def test_faces_of_one_side_are_told_with_photo_score_and_side():
    none = Faces.empty((100, 100))
    difference = benching.compare_faces([faces(), none], [none, faces()])
    assert [(i, round(score, 3), side) for i, score, side in difference.one_sided] == [
        *((0, 0.9, "first"), (0, 0.6, "first"), (1, 0.9, "second"), (1, 0.6, "second"))
    ]
    with pytest.raises(InputError, match="the same photos"):
        benching.compare_faces([none], [none, none])
    with pytest.raises(InputError, match="photo 0: expected landmarks5 on both sides"):
        benching.compare_faces([faces()], [faces().with_(landmarks5=None)])
    with pytest.raises(InputError, match="photo 0: expected pose on both sides"):
        benching.compare_faces([faces()], [faces().with_(pose=np.zeros((2, 3)))])


# On another device


def test_a_device_that_is_not_there_is_named(toys):
    with pytest.raises(DeployError, match="phone at 127.0.0.1:1: b1_96x128 cannot be measured"):
        benching.bench_remote(toys / "detector", host="127.0.0.1", port=1, key="phone")
