"""KPNet becomes an artefact that finds the same faces by the same points."""

import numpy as np
import pytest

tvm = pytest.importorskip("tvm", reason="needs gluonface[deploy]")

import gluonface  # noqa: E402
from gluonface._compat import mx  # noqa: E402
from gluonface.analysis import normalise  # noqa: E402
from gluonface.box_mapping import BoxMapping, default_box_mapping  # noqa: E402
from gluonface.decode import (  # noqa: E402
    KPNET_SCALES,
    decode_scale_map,
    point_peaks,
    points_in_squares,
    square_soft_argmax,
)
from gluonface.deploy import build, keypoint_heads  # noqa: E402
from gluonface.deploy.build import buckets_for, compile_model  # noqa: E402
from gluonface.deploy.relax import Emitter, relax  # noqa: E402
from gluonface.deploy.runtime import load  # noqa: E402
from gluonface.deploy.targets import find_target  # noqa: E402
from gluonface.errors import DeployError, InputError  # noqa: E402
from gluonface.model_zoo.keypoint_detector import faces_out  # noqa: E402

# Random weights, so a model that has none: what trained ones take as input would not suit them.
NAME, SIZE = "kpnet_drnet_widerface", (96, 128)

needs_compiler = pytest.mark.skipif(find_target("native").compiler() is None, reason="no C++ compiler here")


def canvases_of(rng, batch, size):
    """Squares of 8x8 pixels in random colours (B, H, W, 3) uint8: maps have peaks of some cells, as a trained net's."""
    cells = rng.integers(0, 256, (batch, -(-size[0] // 8), -(-size[1] // 8), 3)).astype(np.uint8)
    return np.ascontiguousarray(cells.repeat(8, axis=1).repeat(8, axis=2)[:, : size[0], : size[1]])


def found_by_mxnet(net, canvases):
    """scores (B, n), bboxes, landmarks, and which rows are faces (B, n)."""
    data = np.stack([normalise(c, net.facts, np.empty((3, *c.shape[:2]), np.float32)) for c in canvases])
    ids, scores, *rest = (array.asnumpy() for array in net(mx.nd.array(data)))
    return [scores[..., 0], *rest], ids[..., 0] >= 0


def assert_same(found, net, canvases, least=5):
    expected, there = found_by_mxnet(net, canvases)
    assert there.sum() >= least
    assert len(found) == 3 and ((found[0] >= 0) == there).all()
    for ours, theirs, tolerance in zip(found, expected, (1e-4, 1e-3, 1e-3)):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs)[there].max() < tolerance
        assert (ours[~there] == -1).all()


def run(emit, *arrays):
    """What a function of an emitter and values gives, for arrays."""
    emitter = Emitter()
    variables = [relax.Var(f"x{i}", relax.TensorType(a.shape, "float32")) for i, a in enumerate(arrays)]
    with emitter.bb.function("main", variables):
        with emitter.bb.dataflow():
            result = emitter.bb.emit_output(relax.Tuple(emit(emitter, *variables)))
        emitter.bb.emit_func_output(result)
    executable = relax.build(emitter.bb.get(), target=tvm.target.Target({"kind": "llvm"}))
    arrays = [np.ascontiguousarray(array, np.float32) for array in arrays]
    found = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, arrays))
    return [array.numpy() for array in found]


def run_net(net, canvases):
    """What a net's functions give, without writing an artefact."""
    row = find_target("native")
    buckets = buckets_for(net, [canvases.shape[1:3]], [len(canvases)])
    module, _ = build.lower(build.module_of(net, buckets, row), row)
    with row.tvm_target():
        executable = relax.build(module, target=row.tvm_target())
    found = relax.VirtualMachine(executable, tvm.cpu())[buckets[0].function](tvm.runtime.tensor(canvases))
    return [array.numpy() for array in found]


# ---- whole nets ------------------------------------------------------------------------------------------------------


def test_boxes_and_points_are_those_of_mxnet(lively, rng):
    net, canvases = lively(NAME, SIZE), canvases_of(rng, 2, SIZE)
    found = run_net(net, canvases)
    assert_same(found, net, canvases, least=40)
    sides = (found[1][..., 2:] - found[1][..., :2])[found[0] >= 0].max(axis=1)
    assert sides.max() > 3 * sides.min()


@pytest.fixture
def compiled(small_kpnet, tmp_path_factory):
    """A net, with a box mapping that is not the default, and its artefact, which is made once."""
    net, default = small_kpnet(SIZE), default_box_mapping(5)
    weights = default.weights * np.random.default_rng(0).uniform(0.5, 1.5, (11, 4))
    net.set_box_mapping(BoxMapping(default.frame, weights))
    artefact = tmp_path_factory.getbasetemp() / "kpnet"
    if not artefact.exists():
        compile_model(net, artefact, sizes=[SIZE], batches=(1, 2), records=None)
    return net, artefact


@needs_compiler
def test_one_picture_gives_what_it_gives_in_a_batch(compiled, rng):
    module, canvases = load(compiled[1], score_thresh=0.05).module, canvases_of(rng, 2, SIZE)
    both = module.run("b2_96x128", canvases)
    for i in range(2):
        for alone, of_both in zip(module.run("b1_96x128", canvases[i : i + 1]), both):
            np.testing.assert_allclose(alone[0], of_both[i], rtol=0, atol=1e-3)


@needs_compiler
def test_faces_are_those_of_the_analyzer_of_mxnet(compiled, rng):
    net, artefact = compiled
    photos = [canvases_of(rng, 1, size)[0] for size in ((96, 128), (300, 260), (50, 40))]
    theirs = gluonface.FaceAnalyzer(net, size=SIZE, score_thresh=0.06)(photos)
    ours = load(artefact, score_thresh=0.06)(photos)
    for found, expected in zip(ours, theirs, strict=True):
        assert len(found) == len(expected) > 5 and found.landmarks is None
        np.testing.assert_allclose(found.landmarks5, expected.landmarks5, rtol=0, atol=5e-3)
        np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=5e-3)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-4)
    # The mapping is the net's own.
    net.set_box_mapping(default_box_mapping(5))
    other = gluonface.FaceAnalyzer(net, size=SIZE, score_thresh=0.06)(photos[0])
    assert np.abs(other.boxes[0] - theirs[0].boxes[0]).max() > 0.1


@needs_compiler
def test_the_manifest_says_what_is_found(compiled):
    manifest = load(compiled[1], score_thresh=0.05).module.manifest
    assert [output.name for output in manifest.outputs] == ["scores", "bboxes", "landmarks"]
    assert "of the style corpus" in manifest.outputs[1].meaning
    assert manifest.nms == {"nms_thresh": 0.6, "nms_topk": 100, "post_nms": 100, "score_thresh": 0.05}


@needs_compiler
def test_dense_points_are_landmarks_of_their_scheme(small_kpnet, tmp_path, rng):
    net = small_kpnet(SIZE, boxes="proposals", num_points=19)
    analyzer = load(compile_model(net, tmp_path / "net", sizes=[SIZE], records=None))
    assert "scale proposals" in analyzer.module.manifest.outputs[1].meaning
    faces = analyzer(canvases_of(rng, 1, SIZE)[0])
    assert len(faces) and faces.landmarks.shape[1:] == (19, 2) and faces.scheme == "19"
    # A program that reads the lines gets to know the points, too.
    lines = analyzer.module.manifest.to_lines().splitlines()
    assert "points 19" in lines and sum(line.startswith("five ") for line in lines) == 5


OPTIONS = [
    {"box_style": "tight", "num_points": 68, "beta": 2.0, "post_nms": 7},
    {"reader": "argmax", "nms_thresh": 1.0},
    {"reader": "regression", "nms_topk": 10, "score_thresh": 0.7},
    {"head": "anchors"},
    {"head": "tags"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_row_of_the_ablations_is_compiled_at_any_size(small_kpnet, rng, options):
    size = (51, 75)
    net, canvases = small_kpnet(size, **options), canvases_of(rng, 2, size)
    assert_same(run_net(net, canvases), net, canvases)


def test_no_map_of_many_channels_changes_its_order_on_the_way(lively):
    net, row = lively(NAME, SIZE), find_target("x86-64-v3")
    module = build.module_of(net, buckets_for(net, [SIZE]), row)
    turned = [line for line in module.script().splitlines() if "permute_dims" in line]
    # The response map, whose points are summed up one by one, and the points.
    assert len(turned) == 2
    _, choices = build.lower(module, row)
    assert {choice.how for choice in choices} == {"rule", "plain"}


@pytest.mark.parametrize("target", ["cuda-sm80", "android-opencl"])
def test_it_compiles_for_gpus(lively, target):
    net, row = lively(NAME, (64, 96)), find_target(target)
    module, _ = build.lower(build.module_of(net, buckets_for(net, [(64, 96)]), row), row)
    functions = {g.name_hint: f for g, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    assert {"scale_proposals", "square_soft_argmax", "best_faces"} <= set(functions)
    assert all("blockIdx.x" in function.script() for function in functions.values())


def test_what_cannot_be_compiled_is_refused(small_kpnet, tmp_path):
    net, row = small_kpnet((64, 96), head="tags"), find_target("cuda-sm80")
    with pytest.raises(DeployError, match="grouped by tags on processors only"):
        build.module_of(net, buckets_for(net, [64]), row)
    with pytest.raises(InputError, match="expected a net among FaceDetector, .*, got KPNetNetwork"):
        network = small_kpnet((64, 96)).network
        build.module_of(network, buckets_for(net, [64]), row)
    with pytest.raises(InputError, match="expected box_style with the name of a net, got it with a TagDetector"):
        compile_model(net, tmp_path / "net", box_style="tight")
    assert not list(tmp_path.iterdir())


def test_the_style_of_boxes_is_an_option_of_compiling(tmp_path, monkeypatch):
    class AskedError(Exception):
        pass

    def get_model(name, **options):
        raise AskedError(name, options["box_style"])

    monkeypatch.setattr("gluonface.model_zoo.get_model", get_model)
    with pytest.raises(AskedError) as asked:
        compile_model(NAME, tmp_path / "net", box_style="tight")
    assert asked.value.args == (NAME, "tight")


# ---- heads alone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "thresh"), [(100, 0.0), (9, 0.0), (1000, 0.6), (20, 1.0)])
def test_proposals_are_those_of_the_numpy_twin(rng, count, thresh):
    maps = rng.normal(0, 3, (2, 60, 17, 23)).astype(np.float32)
    maps[1] = -200  # no face at all: of a probability that is 0 in float32
    maps[1, 7, 0, 0] = maps[1, 9, 0, 0] = maps[1, 30, 16, 22] = 2  # in corners, the first of two equal bins
    squares, probabilities = run(
        lambda e, m: keypoint_heads.scale_proposals(e, m, KPNET_SCALES, count, thresh), maps.transpose(0, 2, 3, 1)
    )
    count = min(count, 17 * 23)
    for i in range(2):
        expected, share = decode_scale_map(maps[i], KPNET_SCALES, count, thresh)
        if i == 1 and thresh < 0.9:
            # The twin counts cells of a probability that is 0 in float32.
            share[2:] = expected[2:] = 0
            order = np.argsort(squares[i, :2, 0])  # equally good
            squares[i, :2], expected[:2] = squares[i, order], expected[np.argsort(expected[:2, 0])]
        np.testing.assert_allclose(probabilities[i], share, rtol=0, atol=1e-6)
        np.testing.assert_allclose(squares[i], expected, rtol=0, atol=1e-4)
    assert (probabilities[0] > 0).any() == (thresh < 1)


def test_points_and_peaks_in_squares_are_those_of_the_numpy_twins(rng):
    maps = rng.normal(0, 4, (2, 5, 19, 26)).astype(np.float32)
    maps[0, 0] = 3  # flat: the middle of the square
    maps[1, 1] *= 60  # so steep that most of it is as deep as counts
    low = rng.uniform(-1, 33, (2, 8, 2))
    squares = np.concatenate([low, low + rng.uniform(3, 40, (2, 8, 1))], axis=-1).astype(np.float32)
    squares[0, 0], squares[0, 1], squares[0, 2] = (4, 4, 12, 12), (-90, -90, 300, 300), (-20, -20, -4, -4)
    probabilities = np.ones((2, 8), np.float32)
    probabilities[1, 3:] = 0
    points, peaks = run(
        lambda e, *values: keypoint_heads.square_soft_argmax(e, *values, 1.5, 2), maps, squares, probabilities
    )
    for i in range(2):
        there = probabilities[i] > 0
        if i == 0:
            there[2] = False  # it has no cell
        places = square_soft_argmax(maps[i], squares[i], beta=1.5)
        expected = points_in_squares(places, squares[i])
        np.testing.assert_allclose(points[i][there], expected[there], rtol=0, atol=1e-4)
        np.testing.assert_allclose(peaks[i][there], point_peaks(maps[i], squares[i], beta=1.5)[there], atol=1e-5)
        assert (points[i][~there] == 0).all() and (peaks[i][~there] == 0).all()
    np.testing.assert_allclose(points[0, 0, 0], (8, 8), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("nms_thresh", "post_nms"), [(0.4, 100), (0.4, 6), (1.0, -1), (0.0, 6)])
def test_the_best_faces_are_those_of_the_net(rng, nms_thresh, post_nms):
    low = rng.uniform(0, 30, (3, 20, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 25, (3, 20, 2))], axis=-1).astype(np.float32)
    boxes[0, 3] = boxes[0, 4]
    points = rng.normal(size=(3, 20, 5, 2)).astype(np.float32)
    scores = rng.uniform(0.01, 1, (3, 20)).astype(np.float32)
    scores[1, 5:], scores[2] = 0, 0
    _, *expected = faces_out(mx.nd, *map(mx.nd.array, (points, boxes, scores)), 5, nms_thresh, post_nms)
    found = run(
        lambda e, *values: keypoint_heads.best_faces(e, *values, nms_thresh=nms_thresh, post_nms=post_nms),
        scores,
        boxes,
        points.reshape(3, 20, 10),
    )
    for ours, theirs in zip(found, expected, strict=True):
        theirs = theirs.asnumpy()
        np.testing.assert_allclose(ours, theirs[..., 0] if theirs.shape[2] == 1 else theirs, rtol=0, atol=1e-6)
    assert (found[0][2] == -1).all() and (found[0][0] > 0).sum() > 3
