"""RetinaFace's whole variant becomes an artefact that finds the same boxes, points and meshes."""

from dataclasses import replace

import numpy as np
import pytest

tvm = pytest.importorskip("tvm", reason="needs gluonface[deploy]")

import gluonface  # noqa: E402
from gluonface._compat import mx  # noqa: E402
from gluonface.analysis import normalise  # noqa: E402
from gluonface.decode import AnchorSpec  # noqa: E402
from gluonface.deploy import build  # noqa: E402
from gluonface.deploy.build import buckets_for, compile_model  # noqa: E402
from gluonface.deploy.runtime import load, parse_manifest  # noqa: E402
from gluonface.deploy.targets import find_target  # noqa: E402
from gluonface.errors import DeployError  # noqa: E402
from gluonface.mesh import topology_468  # noqa: E402
from gluonface.model_zoo import retinaface_mesh  # noqa: E402
from gluonface.pose import rotation_from_pose  # noqa: E402

# Weights are random, so a model that has none: what trained ones take as input would not suit them.
NAME, SIZE = "retinaface_mobilenet0.25_mesh468_widerface", (64, 96)
SPEC = AnchorSpec((8, 16), ((12, 16, 20), (25, 32, 40)))

needs_compiler = pytest.mark.skipif(find_target("native").compiler() is None, reason="no C++ compiler here")


class Backbone(mx.gluon.nn.HybridBlock):
    """One map of one layer, which compiles in a second."""

    channels = (8,)

    def __init__(self, *_, **__):
        super().__init__()
        with self.name_scope():
            self.conv = mx.gluon.nn.Conv2D(8, 9, 8, padding=4, in_channels=3, activation="relu")

    def hybrid_forward(self, F, x):
        return (self.conv(x),)


@pytest.fixture(scope="module")
def whole(lively):
    """A function that builds a net of two levels with options, whose first head moves boxes and whose meshes have a
    shape.
    """

    def make(name=NAME, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retinaface_mesh, "Backbone", Backbone)
            patch.setattr(retinaface_mesh, "RETINAFACE_ANCHORS", SPEC)
            row = retinaface_mesh.Variant(channels=16, params=0, gf=0.0, deformable=False)
            patch.setitem(retinaface_mesh.VARIANTS, "mobilenet0.25", row)
            net = lively(name, SIZE, post_nms=5, **options)
        image = mx.nd.array(np.random.default_rng(0).normal(0, 1, (1, 3, *SIZE)))
        parts = list(net.network(image))
        if net.network.cascade:
            weight = net.network.first_box_head.weight
            weight.set_data(weight.data() * (0.3 / parts[-1].asnumpy().std()))
        if net.network.mesh_head is not None:
            coded = net.network.mesh_head(parts[3], mx.nd.arange(8).reshape((1, -1)))
            weight = net.network.mesh_head.weight
            weight.set_data(weight.data() * (0.5 / coded.asnumpy().std()))
        return net

    return make


@pytest.fixture(scope="module")
def compiled(whole, tmp_path_factory):
    """A net with cascade and mesh, and its artefact."""
    net = whole()
    folder = tmp_path_factory.mktemp("mesh") / "artefact"
    return net, compile_model(net, folder, sizes=[SIZE], batches=(2,), records=None)


@pytest.fixture
def canvases(rng):
    return rng.integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)


def assert_same(found, net, canvases):
    """What a library gave for canvases is what MXNet's net gives, to a hundredth of a pixel."""
    data = np.stack([normalise(canvas, net.facts, np.empty((3, *SIZE), np.float32)) for canvas in canvases])
    ids, scores, *parts = (array.asnumpy() for array in net(mx.nd.array(data)))
    if len(parts) == 3:
        parts[2] = parts[2].reshape(*parts[2].shape[:2], -1, 3)
    there = ids[..., 0] >= 0
    assert there.sum() >= 5 and ((found[0] >= 0) == there).all()
    assert np.abs(found[0] - scores[..., 0])[there].max() < 1e-4
    for ours, theirs in zip(found[1:], parts, strict=True):
        assert ours.shape == theirs.shape and theirs[there].std() > 3
        assert np.abs(ours - theirs)[there].max() < 1e-2
        assert (ours[~there] == -1).all()


@needs_compiler
def test_boxes_points_and_meshes_are_those_of_mxnet(compiled, canvases):
    net, artefact = compiled
    assert_same(load(artefact, score_thresh=0.02).module.run("b2_64x96", canvases), net, canvases)


@needs_compiler
def test_faces_have_the_mesh_and_the_pose_that_the_analyzer_of_mxnet_gives_them(compiled, rng):
    net, artefact = compiled
    # Little of the canvas is empty: what such a net finds there is in no photo.
    cells = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    photos = [np.ascontiguousarray(cells[:height, :width]) for height, width in ((64, 96), (131, 192))]
    theirs = gluonface.FaceAnalyzer(net, size=SIZE, score_thresh=0.02)(photos)
    for ours, expected in zip(load(artefact, score_thresh=0.02)(photos), theirs, strict=True):
        assert len(ours) == len(expected) > 0 and ours.mesh.shape[1:] == (468, 3)
        np.testing.assert_allclose(ours.mesh, expected.mesh, rtol=0, atol=2e-2)
        np.testing.assert_allclose(ours.landmarks5, expected.landmarks5, rtol=0, atol=2e-2)
        np.testing.assert_allclose(ours.pose, expected.pose, rtol=0, atol=0.5)
    known = topology_468()
    tilted = replace(known, canonical=known.canonical @ rotation_from_pose([0, 0, 20]))
    expected = gluonface.FaceAnalyzer(net, size=SIZE, score_thresh=0.02, topology=tilted)(photos[0]).pose
    assert np.abs(expected - theirs[0].pose).max() > 5
    found = load(artefact, score_thresh=0.02, topology=tilted)(photos[0]).pose
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.5)


@needs_compiler
def test_the_manifest_says_that_there_is_a_mesh_and_is_refused_with_outputs_out_of_order(compiled):
    manifest = load(compiled[1], score_thresh=0.02).module.manifest
    assert [output.name for output in manifest.outputs] == ["scores", "bboxes", "landmarks", "mesh"]
    assert parse_manifest(manifest.to_json().encode(), "here") == manifest
    scores, boxes, points, mesh = manifest.outputs
    for outputs in (
        (scores, boxes, mesh, points),
        (*manifest.outputs, mesh),
        (*manifest.outputs[:3], replace(mesh, name="hair")),
    ):
        with pytest.raises(DeployError, match="here: outputs: expected scores, bboxes, landmarks, pose, mesh"):
            parse_manifest(replace(manifest, outputs=outputs).to_json().encode(), "here")


@needs_compiler
def test_a_library_that_gives_something_else_than_a_mesh_is_an_error(compiled, rng):
    analyzer = load(compiled[1], score_thresh=0.02)
    rows = [np.zeros((1, 5)), np.zeros((1, 5, 4)), np.zeros((1, 5, 10)), np.zeros((1, 5, 30))]
    with pytest.raises(DeployError, match=r"expected mesh \(B, n, V, 3\), the library gave \(1, 5, 30\)"):
        analyzer._collect(tuple(rows))


def test_deformable_convolution_in_the_anchors_themselves_finds_the_same_and_has_tiles(whole, canvases):
    net, row = whole(NAME.replace("468", "50"), deformable=True, cascade=False), find_target("native")
    module = build.module_of(net, buckets_for(net, [SIZE]), row)
    assert not [g for g in build.fuse(module, row).functions if "matmul" in g.name_hint]
    executable = tvm.relax.build(build.lower(module, row)[0], target=row.tvm_target())
    machine = tvm.relax.VirtualMachine(executable, tvm.cpu())
    found = [array.numpy() for array in machine["b1_64x96"](tvm.runtime.tensor(canvases[:1]))]
    assert found[3].shape == (1, 5, 50, 3)
    assert_same(found, net, canvases[:1])


@pytest.mark.parametrize("scoring", ["first", "second"])
def test_scores_are_those_of_the_head_that_the_net_takes_them_from(whole, canvases, scoring):
    net, row = whole(NAME.replace("468", "7"), scoring=scoring), find_target("native")
    module, _ = build.lower(build.module_of(net, buckets_for(net, [SIZE]), row), row)
    machine = tvm.relax.VirtualMachine(tvm.relax.build(module, target=row.tvm_target()), tvm.cpu())
    found = [array.numpy() for array in machine["b1_64x96"](tvm.runtime.tensor(canvases[:1]))]
    assert_same(found, net, canvases[:1])


def test_a_net_without_mesh_has_the_outputs_of_any_detector(whole):
    net, row = whole(mesh=False), find_target("native")
    module = build.module_of(net, buckets_for(net, [SIZE]), row)
    shapes = [tuple(int(side) for side in field.shape) for field in module["b1_64x96"].ret_ty.fields]
    assert shapes == [(1, 5), (1, 5, 4), (1, 5, 10)]
    assert "square_anchors" in module.script()


def test_it_compiles_for_gpus(whole):
    net, row = whole(NAME.replace("468", "7")), find_target("cuda-sm80")
    module, _ = build.lower(build.module_of(net, buckets_for(net, [SIZE]), row), row)
    functions = {g.name_hint: f for g, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    assert "blockIdx.x" in functions["head_mesh"].script()
