"""A trained net becomes an artefact that finds the same faces."""

import json
import subprocess

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs gluonface[deploy]")

import gluonface
from gluonface import cli
from gluonface._compat import mx
from gluonface.alignment import LandmarkPredictor
from gluonface.deploy import build
from gluonface.deploy.build import buckets_for, compile_model, pack_objects, tune_model
from gluonface.deploy.runtime import load
from gluonface.deploy.schedules import Knobs, signature, tile_of
from gluonface.deploy.targets import find_target
from gluonface.deploy.tune import Record, Records
from gluonface.errors import DeployError, InputError, WeightsError

DETECTOR, LANDMARKS = "retinaface_mobilenet0.25_mask", "heatmap_mobilenetv2_0.25_sssd_fc26"
SIZES, BATCHES = [(256, 256), (96, 128)], (2,)

needs_compiler = pytest.mark.skipif(find_target("native").compiler() is None, reason="no C++ compiler here")


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("artefacts"), []
    compile_model(DETECTOR, folder / "detector", sizes=SIZES, batches=BATCHES, records=None, say=said.append)
    compile_model(LANDMARKS, folder / "landmarks.zip", batches=(2,), records=None, as_zip=True)
    (folder / "said.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def astronaut():
    return pytest.importorskip("skimage.data", reason="needs gluonface[demo]").astronaut()


@needs_compiler
def test_a_detector_finds_what_it_finds_with_mxnet(artefacts, astronaut):
    for size in SIZES:
        analyzer = gluonface.FaceAnalyzer(DETECTOR, size=size, score_thresh=0.02)
        photos = [astronaut, astronaut[:, ::-1], astronaut[100:300]]
        found = load(artefacts / "detector", score_thresh=0.02, size=size)(photos)
        for ours, theirs in zip(found, analyzer(photos)):
            assert len(ours) == len(theirs) > 0
            assert np.abs(ours.scores - theirs.scores).max() < 1e-4
            assert np.abs(ours.boxes - theirs.boxes).max() < 0.05
            assert np.abs(ours.landmarks5 - theirs.landmarks5).max() < 0.05
    assert len(load(artefacts / "detector")(np.zeros((40, 50, 3), np.uint8))) == 0


@needs_compiler
def test_two_stages_find_the_dense_points_that_mxnet_finds(artefacts, astronaut):
    compiled = load(artefacts / "detector", landmarks=artefacts / "landmarks.zip", size=(256, 256))
    analyzer = gluonface.FaceAnalyzer(DETECTOR, landmarks=LANDMARKS, size=(256, 256))
    ours, theirs = compiled(astronaut), analyzer(astronaut)
    assert len(ours) == len(theirs) == 1 and ours.scheme == "68"
    assert np.abs(ours.landmarks - theirs.landmarks).max() < 0.05


@needs_compiler
def test_the_manifest_says_what_was_compiled(artefacts):
    manifest = json.loads((artefacts / "detector" / "manifest.json").read_text())
    assert [b["function"] for b in manifest["buckets"]] == ["b2_256x256", "b2_96x128"]
    facts = gluonface.model_zoo.model_facts(DETECTOR)
    assert manifest["weights_sha256"] == facts.sha256 and manifest["licence"] == facts.licence
    assert manifest["nms"] == {"nms_thresh": 0.4, "nms_topk": 10_000, "post_nms": 750, "score_thresh": 0.02}
    assert manifest["schedules"]["tuned"] is False and "by the rule" in manifest["schedules"]["text"]
    said = json.loads((artefacts / "said.json").read_text())
    assert any("not tuned" in text for text in said)


@needs_compiler
def test_a_library_holds_its_weights_once(artefacts):
    size = (artefacts / "detector" / "model.so").stat().st_size
    weights = 4 * gluonface.model_zoo.model_facts(DETECTOR).params
    assert weights < size < 4 * weights  # two buckets


@needs_compiler
@pytest.mark.parametrize("decoder", ["argmax", "gradient", "dark", "soft"])
def test_every_decoder_is_compiled(tmp_path, decoder):
    from gluonface.model_zoo.heatmap import HeatmapNetwork, LandmarkNet

    facts = gluonface.model_zoo.model_facts(LANDMARKS)
    features = mx.gluon.nn.HybridSequential()
    features.add(mx.gluon.nn.Conv2D(8, 3, strides=16, padding=1, in_channels=3), mx.gluon.nn.MaxPool2D(2))
    net = LandmarkNet(HeatmapNetwork(features, 8, "d", 68, 8, 8), facts, stride=16, decoder=decoder)
    mx.random.seed(0)
    net.initialize(mx.init.Normal(0.3))
    compile_model(net, tmp_path / "net", records=None)
    crops = np.random.default_rng(0).integers(0, 256, (3, facts.size, facts.size, 3), np.uint8)
    points, scores = load(tmp_path / "net").predict(crops)
    expected, heights = LandmarkPredictor(net).predict(crops)
    assert np.abs(scores - heights).max() < 1e-4 * np.abs(heights).max()
    assert np.median(np.abs(points - expected)) < 1e-3
    # Where two cells of a map are equally high, either may be the highest.
    assert (np.abs(points - expected).max(axis=2) < 0.01).mean() > 0.98


def test_sizes_that_a_net_cannot_take_are_refused():
    detector = gluonface.get_model(DETECTOR)
    assert [b.function for b in buckets_for(detector)] == ["b1_640x640"]
    assert [b.function for b in buckets_for(detector, [320, (480, 640)], (1, 8))] == [
        "b1_320x320", "b8_320x320", "b1_480x640", "b8_480x640",
    ]  # fmt: skip
    for sizes, batches in (([16], (1,)), ([320], (0,)), ([], (1,)), ([320], ())):
        with pytest.raises(InputError, match="expected sizes of at least 32 and batches of at least 1"):
            buckets_for(detector, sizes, batches)
    with pytest.raises(InputError, match="expected the size 128"):
        buckets_for(gluonface.get_model(LANDMARKS, size=128), [192])


def test_what_cannot_be_compiled_is_said_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected a target among"):
        compile_model(DETECTOR, tmp_path / "a", target="pentium")
    with pytest.raises(WeightsError, match="no weights"):
        compile_model("heatmap_resnet50_sdd_jd106", tmp_path / "a")
    monkeypatch.setattr(type(find_target("native")), "compiler", lambda self: None)
    with pytest.raises(
        DeployError, match="no compiler that links for android-arm64 was found: install the Android NDK"
    ):
        compile_model(DETECTOR, tmp_path / "a", target="android-arm64")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="expected a target whose kernels run on the processor, got cuda-sm80"):
        tune_model(DETECTOR, target="cuda-sm80", path=tmp_path / "r.json")


@needs_compiler
def test_object_files_are_linked_elsewhere_and_packed(tmp_path, astronaut):
    compile_model(DETECTOR, tmp_path / "objects", sizes=[(96, 128)], records=None, objects=True)
    (line,) = (tmp_path / "objects" / "link.txt").read_text().splitlines()
    assert line.startswith("g++ -shared -fPIC -o model.so ") and line.endswith(".o")
    with pytest.raises(DeployError, match="expected a path that does not exist yet"):
        compile_model(DETECTOR, tmp_path / "objects", sizes=[(96, 128)], records=None, objects=True)
    command = [find_target("native").compiler(), *line.split()[1:]]
    subprocess.run(command, cwd=tmp_path / "objects", check=True)
    words = ["pack", str(tmp_path / "objects"), "--library", str(tmp_path / "objects" / "model.so")]
    assert cli.main([*words, "--out", str(tmp_path / "artefact")]) == 0
    assert len(load(tmp_path / "artefact")(astronaut)) == 1
    with pytest.raises(DeployError, match="manifest that gluonface compile --objects wrote"):
        pack_objects(tmp_path / "artefact", tmp_path / "objects" / "model.so", tmp_path / "other")


def test_android_without_its_compiler_gives_object_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(type(find_target("native")), "compiler", lambda self: None)
    words = f"compile {DETECTOR} --target android-arm64 --size 64 --records none --objects --out {tmp_path / 'phone'}"
    assert cli.main(words.split()) == 0
    assert f"gluonface pack {tmp_path / 'phone'} --library model.so" in capsys.readouterr().out
    assert (tmp_path / "phone" / "link.txt").read_text().startswith("aarch64-linux-android28-clang++ -shared")
    machine = [p.read_bytes()[18] for p in (tmp_path / "phone").glob("*.o")]
    assert machine and set(machine) == {0xB7}  # ELF's number of AArch64


def test_records_choose_the_schedules(tmp_path):
    net, row = gluonface.get_model(DETECTOR, pretrained=True), find_target("x86-64-v3")
    module = build.fuse(build.module_of(net, buckets_for(net, [64]), row), row)
    _, choices = build.lower(build.module_of(net, buckets_for(net, [64]), row), row)
    assert {choice.how for choice in choices} == {"rule", "plain"}
    functions = [f for f in module.functions.values() if isinstance(f, build.tvm.tirx.PrimFunc)]
    records = Records()
    records.merge(Record(signature(f), Knobs(1, 1), 1.0, 1) for f in functions if tile_of(f) is not None)
    _, choices = build.lower(build.module_of(net, buckets_for(net, [64]), row), row, records)
    assert {choice.how for choice in choices} == {"tuned", "plain"}


TUNED_SIZES = {"kpnet": [256, 320, 640]}


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("name", gluonface.list_models(pretrained=True))
def test_every_kernel_of_the_trained_nets_comes_tuned(target, name):
    row, net = find_target(target), gluonface.get_model(name, pretrained=True)
    sizes = TUNED_SIZES.get(net.facts.system, [640, (480, 640)]) if net.facts.task == "detection" else None
    _, choices = build.lower(build.module_of(net, buckets_for(net, sizes), row), row, Records.shipped(row.records))
    assert {choice.how for choice in choices} == {"tuned", "plain"}
    if net.facts.task == "detection":
        other = build.module_of(net, buckets_for(net, [384]), row)
        _, choices = build.lower(other, row, Records.shipped(row.records))
        assert "nearest" in {choice.how for choice in choices}  # another size: not tuned, but not left to the rule


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
def test_every_kernel_of_the_light_net_with_deformable_convolution_comes_tuned(target):
    row = find_target(target)
    net = gluonface.get_model("retinaface_mobilenet0.25_mesh468_fc26", deformable=True)
    net.initialize()
    net.network(build.mx.nd.zeros((1, 3, 64, 64)))
    module = build.module_of(net, buckets_for(net, [640]), row)
    module, choices = build.lower(module, row, Records.shipped(row.records))
    assert {choice.how for choice in choices} == {"tuned", "plain"}
    # One of a map of 160 by 160 whose 3x3 kernel's places are moved: nine times 64 channels in one column.
    assert "convolution out1x160x160x64 sum1x1x576 in1x160x160x64" in Records.shipped(row.records).records


@pytest.mark.parametrize("target", ["cuda-sm80", "android-opencl"])
def test_gpu_kernels_say_on_which_threads_they_run(target):
    row = find_target(target)
    net = gluonface.get_model(DETECTOR, pretrained=True)
    module, choices = build.lower(build.module_of(net, buckets_for(net, [64]), row), row)
    functions = [f for f in module.functions.values() if isinstance(f, build.tvm.tirx.PrimFunc)]
    assert len(functions) == len(choices) > 10
    assert all("blockIdx.x" in function.script() for function in functions)
