"""MaskFace becomes an artefact that finds the same faces, and the same points in those that it found."""

import json
import shutil

import numpy as np
import pytest

tvm = pytest.importorskip("tvm", reason="needs gluonface[deploy]")

import gluonface  # noqa: E402
from gluonface._compat import mx  # noqa: E402
from gluonface.analysis import normalise  # noqa: E402
from gluonface.deploy import build, roi_heads, runtime  # noqa: E402
from gluonface.deploy.build import buckets_for, compile_model  # noqa: E402
from gluonface.deploy.relax import Emitter, relax  # noqa: E402
from gluonface.deploy.targets import find_target  # noqa: E402
from gluonface.errors import DeployError, InputError  # noqa: E402
from gluonface.nn.roi import PyramidRoIAlign  # noqa: E402

SIZE = (64, 96)

needs_compiler = pytest.mark.skipif(find_target("native").compiler() is None, reason="no C++ compiler here")


@pytest.fixture(scope="module")
def compiled(small_maskface, tmp_path_factory):
    """A net and its artefact."""
    net = small_maskface(context=False)
    folder = tmp_path_factory.mktemp("maskface") / "artefact"
    return net, compile_model(net, folder, sizes=[SIZE], batches=(2,), face_batches=(4, 2), records=None)


@pytest.fixture(scope="module")
def module(compiled):
    return runtime.Module(compiled[1])


@pytest.fixture
def canvases(rng):
    return rng.integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)


def found_by_mxnet(net, canvases):
    """scores (B, n), bboxes, landmarks, and which rows are faces (B, n)."""
    data = np.stack([normalise(canvas, net.facts, np.empty((3, *SIZE), np.float32)) for canvas in canvases])
    ids, scores, *rest = (array.asnumpy() for array in net(mx.nd.array(data)))
    return [scores[..., 0], *rest], ids[..., 0] >= 0


@needs_compiler
def test_boxes_and_points_are_those_of_mxnet(compiled, module, canvases):
    expected, there = found_by_mxnet(compiled[0], canvases)
    found = module.run("b2_64x96", canvases)
    assert there.sum() > 10 and ((found[0] >= 0) == there).all()
    for ours, theirs, tolerance in zip(found, expected, (1e-4, 1e-2, 1e-2), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs)[there].max() < tolerance
        assert (ours[~there] == -1).all()
    # Faces of several levels, and points that are not all in one place.
    sides = (expected[1][..., 2:] - expected[1][..., :2])[there].prod(axis=1) ** 0.5
    assert sides.max() > 3 * sides.min()
    assert expected[2][there].reshape(-1, 19, 2).std(axis=1).min() > 0.5


@needs_compiler
@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_any_number_of_faces_is_looked_at_and_filled_up_to_the_batches(module, canvases, monkeypatch, count):
    scores, _, landmarks = module.run("b2_64x96", canvases)
    best = np.sort(scores.ravel())[::-1]
    thresh = (best[count - 1] + best[count]) / 2 if count else 2.0
    called, function = [], runtime.FaceFunctions.function

    def named(bucket, batch):
        called.append(batch)
        return function(bucket, batch)

    monkeypatch.setattr(runtime.FaceFunctions, "function", staticmethod(named))
    few = module.run("b2_64x96", canvases, score_thresh=thresh)
    assert called == {0: [], 1: [2], 3: [2, 2], 5: [4, 2]}[count]
    looked_at = scores >= thresh
    assert looked_at.sum() == count
    np.testing.assert_array_equal(few[0], scores)
    np.testing.assert_allclose(few[2][looked_at], landmarks[looked_at], rtol=0, atol=1e-4)
    assert (few[2][~looked_at] == -1).all()


@needs_compiler
def test_faces_are_those_of_the_analyzer_of_mxnet(compiled, rng):
    net, artefact = compiled
    photos = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in (SIZE, (150, 130))]
    theirs = gluonface.FaceAnalyzer(net, size=SIZE, score_thresh=0.3)(photos)
    analyzer = runtime.load(artefact, score_thresh=0.3)
    for found, expected in zip(analyzer(photos), theirs, strict=True):
        assert len(found) == len(expected) > 1 and found.scheme == "19"
        np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=2e-2)
        np.testing.assert_allclose(found.landmarks, expected.landmarks, rtol=0, atol=2e-2)
        np.testing.assert_allclose(found.landmarks5, expected.landmarks5, rtol=0, atol=2e-2)
    nobody = runtime.load(artefact, score_thresh=1.0)(photos[0])
    assert len(nobody) == 0 and nobody.landmarks.shape == (0, 19, 2)


@needs_compiler
def test_the_manifest_says_what_looks_at_faces(module):
    manifest = module.manifest
    assert manifest.faces == runtime.FaceFunctions((2, 4), 5, 19)
    assert [output.name for output in manifest.outputs] == ["scores", "bboxes", "landmarks"]
    assert runtime.Manifest.from_dict(json.loads(manifest.to_json())) == manifest
    # What a C++ program is to refuse.
    assert "faces 5 19 2 4" in manifest.to_lines().splitlines()


WRONG = {
    "no batch": (lambda faces: faces.update(batches=[]), r"faces\.batches: expected numbers of faces"),
    "a batch twice": (lambda faces: faces.update(batches=[2, 2]), r"faces\.batches"),
    "a batch of none": (lambda faces: faces.update(batches=[0, 2]), r"faces\.batches"),
    "a batch of thousands": (lambda faces: faces.update(batches=[2, 4097]), r"faces\.batches: .*from 1 to 4096"),
    "no levels": (lambda faces: faces.update(levels=0), r"faces\.levels: expected a whole number from 1 to 16, got 0"),
    "too many levels": (lambda faces: faces.update(levels=17), r"faces\.levels: .*from 1 to 16, got 17"),
    "a bool for points": (lambda faces: faces.update(num_points=True), r"faces\.num_points: .*4096, got True"),
    "too many points": (lambda faces: faces.update(num_points=999_999_999), r"faces\.num_points: .*from 1 to 4096"),
    "points of no scheme": (
        lambda faces: faces.update(num_points=20),
        r"faces\.num_points: expected 5 or 19, the points of facts\.scheme, got 20",
    ),
    "a missing key": (lambda faces: faces.pop("num_points"), r"faces: .*missing \['num_points'\]"),
}


@needs_compiler
@pytest.mark.parametrize("what", WRONG)
def test_a_manifest_with_wrong_functions_for_faces_is_refused(module, what):
    change, said = WRONG[what]
    values = json.loads(module.manifest.to_json())
    change(values["faces"])
    with pytest.raises(DeployError, match=said):
        runtime.Manifest.from_dict(values)
    values = json.loads(module.manifest.to_json())
    values["outputs"].pop()
    with pytest.raises(DeployError, match="landmarks of a detector with functions for faces"):
        runtime.Manifest.from_dict(values)


@needs_compiler
def test_the_points_of_faces_are_five_or_those_of_the_scheme(module):
    values = json.loads(module.manifest.to_json())
    values["facts"]["scheme"] = None
    with pytest.raises(DeployError, match=r"faces\.num_points: expected 5, got 19"):
        runtime.Manifest.from_dict(values)
    values["faces"]["num_points"] = 5
    assert runtime.Manifest.from_dict(values).faces.num_points == 5


@needs_compiler
def test_a_library_that_lacks_a_function_for_faces_is_refused(compiled, tmp_path):
    folder = shutil.copytree(compiled[1], tmp_path / "artefact")
    values = json.loads((folder / "manifest.json").read_text())
    values["faces"]["batches"] = [2, 4, 16]
    (folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(DeployError, match="it lacks .'b2_64x96_f16'"):
        runtime.Module(folder)


@needs_compiler
def test_a_net_without_keypoints_becomes_a_detector_of_boxes(small_maskface, tmp_path, canvases):
    net = small_maskface(keypoints=False, context=False)
    artefact = compile_model(net, tmp_path / "boxes", sizes=[SIZE], batches=(2,), records=None)
    module = runtime.Module(artefact)
    assert module.manifest.faces is None and [o.name for o in module.manifest.outputs] == ["scores", "bboxes"]
    assert "faces" not in json.loads((artefact / "manifest.json").read_text())
    expected, there = found_by_mxnet(net, canvases)
    found = module.run("b2_64x96", canvases)
    assert there.sum() > 10 and ((found[0] >= 0) == there).all()
    for ours, theirs, tolerance in zip(found, expected, (1e-4, 1e-2), strict=True):
        assert np.abs(ours - theirs)[there].max() < tolerance
    assert runtime.load(artefact)(canvases[0]).landmarks is None


def test_it_compiles_for_gpus(small_maskface):
    net, row = small_maskface(), find_target("cuda-sm80")
    module, _ = build.lower(build.module_of(net, buckets_for(net, [SIZE]), row, (2,)), row)
    functions = {g.name_hint: f for g, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    assert "blockIdx.x" in functions["pyramid_roi_align"].script()


def test_batches_of_no_face_and_of_thousands_are_refused(small_maskface, tmp_path):
    for batches in ((), (0, 1), (1, 4097)):
        with pytest.raises(InputError, match="expected face_batches from 1 to 4096"):
            compile_model(small_maskface(context=False), tmp_path / "net", face_batches=batches)


def test_features_of_boxes_are_those_of_mxnet(rng):
    strides, side = (4, 8, 16, 32, 64), 5
    align = PyramidRoIAlign(strides, side, k0=3)
    maps = [rng.normal(0, 1, (2, 3, -(-96 // stride), -(-70 // stride))).astype(np.float32) for stride in strides]
    low = rng.uniform(-30, 60, (40, 2))
    boxes = np.concatenate([low, low + np.exp(rng.uniform(np.log(2), np.log(2000), (40, 2)))], axis=1)
    # Right at the borders of the levels.
    boxes[:4] = [[0, 0, root, root] for root in np.sqrt(align.areas)]
    rois = np.concatenate([rng.integers(0, 2, (40, 1)), boxes], axis=1).astype(np.float32)
    # No face, without area, not a number, far off the map.
    rois[4, 0], rois[5, 3], rois[6, 1:] = -1, rois[5, 1], np.nan
    rois[7, 1:] += 1e5
    expected = align(*map(mx.nd.array, (rois, *maps))).asnumpy()
    levels = align.level(mx.nd, mx.nd.array(rois[:, 1:])).asnumpy()
    assert set(levels.ravel()) == {0, 1, 2, 3, 4} and (expected[:4] != 0).any()

    emitter = Emitter()
    arrays = [rois, *(np.ascontiguousarray(m.transpose(0, 2, 3, 1)) for m in maps)]
    variables = [relax.Var(f"x{i}", relax.TensorType(a.shape, "float32")) for i, a in enumerate(arrays)]
    with emitter.bb.function("main", variables):
        with emitter.bb.dataflow():
            cut = roi_heads.pyramid_roi_align(emitter, variables[0], variables[1:], strides, align.areas, side)
            result = emitter.bb.emit_output(cut)
        emitter.bb.emit_func_output(result)
    executable = relax.build(emitter.bb.get(), target=tvm.target.Target({"kind": "llvm"}))
    found = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, arrays)).numpy()
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, rtol=0, atol=1e-4)
    assert (found[4:8] == 0).all()
