"""A net with head pose becomes an artefact that finds the same boxes, points and poses."""

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs gluonface[deploy]")

import gluonface
from gluonface._compat import mx
from gluonface.analysis import normalise
from gluonface.deploy import build
from gluonface.deploy.build import buckets_for, compile_model
from gluonface.deploy.runtime import load
from gluonface.deploy.targets import find_target

# Random weights, so a model that has none: what trained ones take as input would not suit them.
NAME, SIZE = "mos_mobilenet0.25_widerface", (64, 96)

needs_compiler = pytest.mark.skipif(find_target("native").compiler() is None, reason="no C++ compiler here")


@pytest.fixture(scope="module", params=["stitch", "shared"])
def compiled(request, lively, tmp_path_factory):
    """A net and its artefact."""
    net = lively(NAME, SIZE, head=request.param)
    folder = tmp_path_factory.mktemp("mos") / "artefact"
    return net, compile_model(net, folder, sizes=[SIZE], batches=(1, 2), records=None)


@pytest.fixture
def canvases(rng):
    return rng.integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)


@needs_compiler
def test_boxes_points_and_pose_are_those_of_mxnet(compiled, canvases):
    net, artefact = compiled
    data = np.stack([normalise(canvas, net.facts, np.empty((3, *SIZE), np.float32)) for canvas in canvases])
    ids, scores, boxes, points, pose = (array.asnumpy() for array in net(mx.nd.array(data)))
    found = load(artefact, score_thresh=0.02).module.run("b2_64x96", canvases)
    there = ids[..., 0] >= 0
    assert there.sum() > 20 and not there.all() and pose[there].std(axis=0).min() > 3
    assert ((found[0] >= 0) == there).all()
    for ours, theirs, tolerance in zip(found, (scores[..., 0], boxes, points, pose), (1e-4, 1e-3, 1e-3, 1e-3)):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs)[there].max() < tolerance
        assert (ours[~there] == -1).all()


@needs_compiler
def test_one_picture_gives_what_it_gives_in_a_batch(compiled, canvases):
    module = load(compiled[1], score_thresh=0.02).module
    both = module.run("b2_64x96", canvases)
    for i in range(2):
        for alone, of_both in zip(module.run("b1_64x96", canvases[i : i + 1]), both):
            np.testing.assert_allclose(alone[0], of_both[i], rtol=0, atol=1e-3)


@needs_compiler
def test_faces_have_the_pose_that_the_analyzer_of_mxnet_gives_them(compiled, rng):
    net, artefact = compiled
    photos = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((64, 96), (150, 130))]
    theirs = gluonface.FaceAnalyzer(net, size=SIZE, score_thresh=0.02)(photos)
    for ours, expected in zip(load(artefact, score_thresh=0.02)(photos), theirs, strict=True):
        assert len(ours) == len(expected) > 5
        np.testing.assert_allclose(ours.pose, expected.pose, rtol=0, atol=1e-3)
        np.testing.assert_allclose(ours.landmarks5, expected.landmarks5, rtol=0, atol=2e-3)
    assert load(artefact, score_thresh=1.0)(photos[0]).pose.shape == (0, 3)


@needs_compiler
def test_the_manifest_says_that_there_is_a_pose(compiled):
    manifest = load(compiled[1], score_thresh=0.02).module.manifest
    assert [output.name for output in manifest.outputs] == ["scores", "bboxes", "landmarks", "pose"]
    assert "degrees" in manifest.outputs[3].meaning


@pytest.mark.parametrize(
    ("name", "options"),
    [(NAME, {}), (NAME, {"head": "shared"}), (NAME, {"deformable": True}), ("mos_shufflenetv2_0.5_widerface", {})],
    ids=str,
)
def test_no_map_changes_its_order_on_the_way_and_stitching_is_element_by_element(lively, name, options):
    net, row = lively(name, SIZE, **options), find_target("x86-64-v3")
    module = build.module_of(net, buckets_for(net, [SIZE]), row)
    assert "permute_dims" not in module.script()
    _, choices = build.lower(module, row)
    names = [choice.kernel for choice in choices]
    stitched = [name for name in names if "multiply" in name and "strided_slice" in name and "convolution" not in name]
    assert bool(stitched) == (options.get("head") != "shared")
    # Whatever multiplies a map with weights has a tile, deformable convolutions among it.
    assert not [name for name in names if "matmul" in name]


@pytest.mark.parametrize("target", ["cuda-sm80", "android-opencl"])
def test_it_compiles_for_gpus(lively, target):
    net, row = lively(NAME, SIZE), find_target(target)
    module, _ = build.lower(build.module_of(net, buckets_for(net, [SIZE]), row), row)
    (pose,) = [f for name, f in module.functions.items() if name.name_hint == "head_pose"]
    assert "blockIdx.x" in pose.script()
