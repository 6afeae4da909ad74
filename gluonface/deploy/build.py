"""`compile_model`: a trained net becomes an artefact that runs without MXNet.

Data flow: net -> graph a bucket (`symbol`, `passes`) -> Relax function a bucket with its head (`relax`, `heads`) ->
fused kernels -> a schedule each, tuned or by rule (`schedules`, `tune`) -> machine code -> library and manifest
(`artifact`).
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .._compat import import_optional, mx
from ..decode import anchors_for
from ..errors import DeployError, InputError
from ..faces import SCHEMES
from ..facts import ModelFacts
from ..model_zoo.detector import FaceDetector
from ..model_zoo.heatmap import LandmarkNet
from ..model_zoo.keypoint_detector import KeypointDetector, MapDetector, TagDetector
from ..model_zoo.maskface import MaskFaceDetector
from ..model_zoo.retinaface_mesh import RetinaFaceMeshDetector
from ..nn.keypoints import SquareSoftArgmax
from . import heads, keypoint_heads, mesh_heads, roi_heads
from .artifact import installed_runtime, installed_versions, write_artifact
from .passes import take_canvas
from .relax import Emitter, relax, tvm
from .runtime import Bucket, FaceFunctions, Manifest, Output, Schedules, Target, parse_manifest
from .runtime.manifest import MAX_FACE_BATCH
from .schedules import is_written_by_hand, schedule_plain, schedule_tile, signature, tile_of
from .symbol import Graph, Node, read_symbol, trace
from .targets import CompileTarget, find_target
from .tune import Records, search

__all__ = ["buckets_for", "compile_model", "fuse", "lower", "module_of", "pack_objects", "tune_model"]

_DETECTION = (
    Output("scores", "(B, n)", "of each face, best first; -1 where there is none"),
    Output("bboxes", "(B, n, 4)", "x1, y1, x2, y2 in pixels of the canvas"),
    Output("landmarks", "(B, n, 2K)", "x and y of each point in pixels of the canvas"),
)
_POSE = Output("pose", "(B, n, 3)", "yaw, pitch and roll in degrees")
_MESH = Output("mesh", "(B, n, V, 3)", "x, y and, from the tip of the nose, z of each vertex in pixels of the canvas")
#: Faces that are looked at together: one is the smallest photo's, and with eight the maps still fit a core's caches.
FACE_BATCHES = (1, 8)
#: The manifest beside object files, which has no hashes yet.
_DRAFT = "manifest.draft.json"
_LANDMARKS = (
    Output("landmarks", "(B, K, 2)", "x and y of each point in pixels of the crop"),
    Output("scores", "(B, K)", "height of each point's peak"),
)


def buckets_for(
    net, sizes: Iterable[int | tuple[int, int]] | None = None, batches: Iterable[int] = (1,)
) -> list[Bucket]:
    """Every size with every batch.

    Parameters
    ----------
    net : HybridBlock with facts
    sizes : iterable of int or (height, width), optional
        An int is a square; the size that the net is meant for by default.
    batches : iterable of int

    Raises
    ------
    InputError
        A size that the net cannot take, or a batch below 1.
    """
    sizes = [net.facts.size] if sizes is None else list(sizes)
    pairs = [(size, size) if isinstance(size, (int, np.integer)) else tuple(size) for size in sizes]
    batches = list(batches)
    if not pairs or not batches or any(batch < 1 for batch in batches) or any(min(pair) < 32 for pair in pairs):
        raise InputError(f"expected sizes of at least 32 and batches of at least 1, got {sizes} and {batches}")
    if net.facts.task == "landmarks" and set(pairs) != {(net.facts.size,) * 2}:
        raise InputError(f"expected the size {net.facts.size}, which {net.facts.name} takes its crops in, got {sizes}")
    return list(dict.fromkeys(Bucket.of(batch, pair) for pair in pairs for batch in batches))


def face_functions_of(net, batches: Iterable[int] = FACE_BATCHES) -> FaceFunctions | None:
    """The functions of a net that look at faces after they were found, in batches of so many faces; None of a net
    that does not.

    Raises
    ------
    InputError
        No batch, or one below 1 or above `MAX_FACE_BATCH`.
    """
    batches = sorted(set(batches))
    if not batches or batches[0] < 1 or batches[-1] > MAX_FACE_BATCH:
        raise InputError(f"expected face_batches from 1 to {MAX_FACE_BATCH}, got {batches}")
    head = getattr(net.network, "keypoint_head", None) if isinstance(net, MaskFaceDetector) else None
    return None if head is None else FaceFunctions(tuple(map(int, batches)), len(net.spec.strides), net.num_points)


def module_of(net, buckets: Sequence[Bucket], target: CompileTarget, face_batches: Iterable[int] = FACE_BATCHES):
    """A Relax module with a function a bucket, from canvas to final results; and of a net that looks at faces after
    they were found, one for each bucket with each batch of faces (`FaceFunctions`).

    Parameters
    ----------
    net : FaceDetector, RetinaFaceMeshDetector, MaskFaceDetector, KeypointDetector, TagDetector or LandmarkNet
        With weights.
    buckets : sequence of Bucket
    target : CompileTarget
    face_batches : iterable of int
        See `compile_model`.

    Returns
    -------
    tvm.IRModule

    Raises
    ------
    InputError
        The net is another one.
    """
    head = next((head for kind, head in _HEADS.items() if isinstance(net, kind)), None)
    if head is None:
        raise InputError(
            f"expected a net among {', '.join(kind.__name__ for kind in _HEADS)}, got {type(net).__name__}; for other "
            "nets see gluonface.deploy.relax.from_mxnet"
        )
    faces = face_functions_of(net, face_batches)
    builder = relax.BlockBuilder()
    for bucket in buckets:
        graph = _graph(net.network, (bucket.batch, 3, *bucket.size_hw))
        take_canvas(graph, net.facts)
        emitter = Emitter(True, builder, gpu=target.kind != "llvm")
        canvas = relax.Var("canvas", relax.TensorType(bucket.shape, "uint8"))
        with builder.function(bucket.function, [canvas]):
            with builder.dataflow():
                emitter.put((graph.inputs[0], 0), canvas)
                emitter.run(graph)
                results = head(emitter, net, graph, bucket)
                result = builder.emit_output(relax.Tuple(results))
            builder.emit_func_output(result)
        for batch in () if faces is None else faces.batches:
            levels = [relax.Var(f"level{k}", value.ty) for k, value in enumerate(results[-faces.levels :])]
            rois = relax.Var("rois", relax.TensorType((batch, 5), "float32"))
            emitter = Emitter(True, builder, gpu=target.kind != "llvm")
            with builder.function(faces.function(bucket, batch), [rois, *levels]):
                with builder.dataflow():
                    result = builder.emit_output(relax.Tuple([_points_of_faces(emitter, net, rois, levels)]))
                builder.emit_func_output(result)
    return builder.get()


def _graph(block, *shapes: Sequence[int]) -> Graph:
    """A block on inputs of these shapes."""
    names = [f"data{i}" for i in range(len(shapes))]
    symbol, params = trace(block, *names)
    graph = read_symbol(symbol, params, dict(zip(names, shapes)))
    graph.fold_batch_norms()
    graph.find_pixel_shuffles()
    graph.find_channel_shuffles()
    return graph


def _detect(emitter: Emitter, net, graph: Graph, bucket: Bucket) -> list:
    cls_preds, box_preds, landmark_preds, *cells = map(emitter.plain, graph.outputs)
    pose = None
    if cells:
        head = net.network.pose_head
        weight, bias = (_array_of(parameter) for parameter in (head.dense.weight, head.dense.bias))
        pose = heads.Pose(*cells, weight, bias, head.sides, head.per_cell)
    anchors = anchors_for(bucket.size_hw, net.spec)
    return heads.detections(emitter, cls_preds, box_preds, landmark_preds, anchors, **nms_of(net), more=pose)


def _detect_meshes(emitter: Emitter, net, graph: Graph, bucket: Bucket) -> list:
    cls_preds, box_preds, landmark_preds, *rest = map(emitter.plain, graph.outputs)
    anchors, mesh, head = anchors_for(bucket.size_hw, net.spec), None, net.network.mesh_head
    if net.network.cascade:
        if net.scoring != "second":
            cls_preds = rest[-2] if net.scoring == "first" else _mean(emitter, cls_preds, rest[-2])
        anchors = mesh_heads.square_anchors(emitter, rest[-1], anchors)
    if head is not None:
        mesh = mesh_heads.Mesh(rest[0], _array_of(head.weight), _array_of(head.bias), head.per_cell)
    return heads.detections(emitter, cls_preds, box_preds, landmark_preds, anchors, **nms_of(net), more=mesh)


def _mean(emitter: Emitter, a, b):
    return emitter.call(relax.op.multiply(relax.op.add(a, b), emitter.constant(np.float32(0.5))))


def _detect_boxes(emitter: Emitter, net, graph: Graph, bucket: Bucket) -> list:
    cls_preds, box_preds, *levels = graph.outputs
    preds, anchors = map(emitter.plain, (cls_preds, box_preds)), anchors_for(bucket.size_hw, net.spec)
    # The levels go to the functions for faces as they are stored.
    return [*heads.detections(emitter, *preds, None, anchors, **nms_of(net)), *map(emitter.last, levels)]


class _FindPoints(mx.gluon.HybridBlock):
    """The second pass of a `MaskFaceDetector` alone."""

    def __init__(self, net: MaskFaceDetector):
        super().__init__(prefix="")
        self.net = net

    def hybrid_forward(self, F, rois, *maps):
        return self.net.find_points(F, rois, *maps)


def _points_of_faces(emitter: Emitter, net, rois, levels: Sequence):
    """Points (R, K, 2) of boxes (R, 5) and levels (B, h, w, C)."""
    count = int(rois.ty.shape[0])
    shapes = [tuple(int(side) for side in level.ty.shape) for level in levels]
    graph = _graph(_FindPoints(net), (count, 5), *((b, c, h, w) for b, h, w, c in shapes))
    # A look at every level, added up, gives way to one at the level of each box.
    (aligned,) = (
        node for node in graph if node.inputs and all(other.op == "_contrib_ROIAlign" for other, _ in node.inputs)
    )
    features = Node("null", "features", shapes=aligned.shapes, dtypes=aligned.dtypes)
    graph.replace({(aligned, 0): (features, 0)})
    graph.inputs = [graph.inputs[0], features]
    align = net.network.keypoint_head.align
    emitter.put((graph.inputs[0], 0), rois)
    (rois,) = _run_block(emitter, net.network.keypoint_head.widen, rois)
    cut = roi_heads.pyramid_roi_align(emitter, rois, levels, align.strides, align.areas, align.side)
    emitter.put((features, 0), cut, channels_last=True)
    emitter.run(graph)
    return emitter.call(relax.op.reshape(emitter.plain(graph.outputs[0]), [count, net.num_points, 2]))


def _run_block(emitter: Emitter, block, *values) -> list:
    """What a block without a head of its own gives for values, as its operators say."""
    graph = _graph(block, *(tuple(int(side) for side in value.ty.shape) for value in values))
    for node, value in zip(graph.inputs, values):
        emitter.put((node, 0), value)
    emitter.run(graph)
    return [emitter.plain(ref) for ref in graph.outputs]


def _detect_by_points(emitter: Emitter, net, graph: Graph, bucket: Bucket) -> list:
    scale_map, maps = graph.outputs
    spec, reader = net.search.spec, net.network.reader
    squares, probabilities = keypoint_heads.scale_proposals(
        emitter, emitter.last(scale_map), spec, net.nms_topk, net.score_thresh
    )
    maps = emitter.plain(maps)

    def soft(beta: float) -> tuple:
        return keypoint_heads.square_soft_argmax(emitter, maps, squares, probabilities, beta, spec.stride)

    if isinstance(reader, SquareSoftArgmax):
        points, peaks = soft(reader.beta)
    else:
        (places,) = _run_block(emitter, reader, maps, squares)
        (points,) = _run_block(emitter, net.points, places, squares)
    scores, boxes = probabilities, squares
    if net.peaks is not None:
        if not isinstance(reader, SquareSoftArgmax) or reader.beta != net.peaks.beta:
            _, peaks = soft(net.peaks.beta)
        channels = emitter.constant(np.array(net.peaks.channels, np.int32))
        peaks = emitter.call(relax.op.take(peaks, channels, axis=2, mode="clip"))
        (scores,) = _run_block(emitter, net.score, probabilities, peaks)
    if net.boxes == "points":
        (boxes,) = _run_block(emitter, net.box_mapping, points)
    return _best_faces(emitter, net, scores, boxes, points)


def _detect_by_tags(emitter: Emitter, net, graph: Graph, bucket: Bucket) -> list:
    if emitter.gpu:
        raise DeployError(
            f"{net.facts.name}: faces are grouped by tags on processors only; expected a target such as native or "
            "x86-64-v3, or another head than tags"
        )
    points, scores = _run_block(emitter, net.search, *map(emitter.plain, graph.outputs))
    (boxes,) = _run_block(emitter, net.box_mapping, points)
    return _best_faces(emitter, net, scores, boxes, points)


def _best_faces(emitter: Emitter, net, scores, boxes, points) -> list:
    batch, count, number, _ = (int(side) for side in points.ty.shape)
    rows = emitter.call(relax.op.reshape(points, [batch, count, 2 * number]))
    return keypoint_heads.best_faces(emitter, scores, boxes, rows, nms_thresh=net.nms_thresh, post_nms=net.post_nms)


def _array_of(parameter) -> np.ndarray:
    return parameter.data(parameter.list_ctx()[0]).asnumpy()


def _outputs_of(net) -> tuple[Output, ...]:
    """What the functions of a compiled net give, in order."""
    if net.facts.task == "landmarks":
        return _LANDMARKS
    scores, boxes, points = _DETECTION
    if isinstance(net, MapDetector):
        by_points = getattr(net, "boxes", "points") == "points"
        how = f"from the points, of the style {net.box_mapping.style}" if by_points else "squares, scale proposals"
        return (scores, replace(boxes, meaning=f"{boxes.meaning}; {how}"), points)
    if isinstance(net, MaskFaceDetector) and face_functions_of(net) is None:
        return _DETECTION[:2]
    if getattr(net.network, "mesh_head", None) is not None:
        return (*_DETECTION, _MESH)
    return (*_DETECTION, _POSE) if hasattr(net.network, "pose_head") else _DETECTION


def _facts_of(net) -> ModelFacts:
    """As the manifest has them: a detector of dense points says which these are."""
    scheme = net.facts.scheme
    if net.facts.task == "detection" and net.num_points != 5 and str(net.num_points) in SCHEMES:
        scheme = str(net.num_points)
    return replace(net.facts, card=None, scheme=scheme)


def _read_points(emitter: Emitter, net, graph: Graph, bucket: Bucket) -> list:
    (maps,) = graph.outputs
    if net.decoder.method == "soft":
        return heads.soft_argmax(emitter, emitter.last(maps), net.decoder.soft_argmax.beta, net.stride)
    points, scores = _run_block(emitter, net.decoder, emitter.plain(maps))
    return [emitter.call(relax.op.multiply(points, emitter.constant(np.float32(net.stride)))), scores]


#: Kind of net -> what makes results of its network's predictions.
_HEADS = {
    FaceDetector: _detect,
    RetinaFaceMeshDetector: _detect_meshes,
    MaskFaceDetector: _detect_boxes,
    KeypointDetector: _detect_by_points,
    TagDetector: _detect_by_tags,
    LandmarkNet: _read_points,
}


def fuse(module, target: CompileTarget):
    """One kernel for what belongs together: a convolution with its bias, residual and activation, ..."""
    passes = relax.transform
    with target.tvm_target():
        return tvm.transform.Sequential(
            [
                passes.LegalizeOps(),
                passes.AnnotateTIROpPattern(),
                passes.FoldConstant(),
                passes.FuseOps(),
                passes.FuseTIR(),
                passes.DeadCodeElimination(),
            ]
        )(module)


@dataclass(frozen=True)
class Choice:
    """How the schedule of one kernel was found: "tuned", "nearest", "rule" or "plain"."""

    kernel: str
    how: str


def lower(module, target: CompileTarget, records: Records | None = None):
    """Fuse what belongs together and schedule every kernel.

    Parameters
    ----------
    module : tvm.IRModule
    target : CompileTarget
    records : Records, optional
        Tuned schedules; the rule alone without.

    Returns
    -------
    module : tvm.IRModule
        Ready for ``relax.build``.
    choices : list of Choice
        One a kernel.
    """
    module = fuse(module, target)
    if target.kind != "llvm":
        return _schedule_for_gpu(module, target)
    choices = []
    for name, function in list(module.functions.items()):
        if not isinstance(function, tvm.tirx.PrimFunc):
            continue
        tile = tile_of(function)
        if tile is None:
            scheduled, how = schedule_plain(function), "plain"
        else:
            key = signature(function)
            knobs, how = (None, "rule") if records is None else records.find(key, tile, target)
            scheduled = schedule_tile(function, tile, knobs, target.lanes, target.registers)
        for key, value in function.attrs.items():
            scheduled = scheduled.with_attr(key, value)
        module.update_func(name, scheduled.with_attr("tirx.is_scheduled", True))
        choices.append(Choice(name.name_hint, how))
    return module, choices


def _schedule_for_gpu(module, target: CompileTarget):
    dlight = import_optional("tvm.s_tir.dlight", "deploy")
    rules = dlight.gpu
    for name, function in list(module.functions.items()):
        if isinstance(function, tvm.tirx.PrimFunc) and is_written_by_hand(function):
            module.update_func(name, function.with_attr("tirx.is_scheduled", True))
    with target.tvm_target():
        module = dlight.ApplyDefaultSchedule(
            rules.Matmul(), rules.GEMV(), rules.Reduction(), rules.GeneralReduction(), rules.Fallback()
        )(module)
    names = [g.name_hint for g, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)]
    return module, [Choice(name, "rule") for name in names]


def compile_model(
    net,
    out: str | os.PathLike,
    *,
    target: str | CompileTarget = "native",
    sizes: Iterable[int | tuple[int, int]] | None = None,
    batches: Iterable[int] = (1,),
    records: Records | str | os.PathLike | None = "shipped",
    bundle: bool = False,
    as_zip: bool = False,
    objects: bool = False,
    box_style: str | None = None,
    face_batches: Iterable[int] = FACE_BATCHES,
    root: str | os.PathLike | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Compile a net for a target and write the artefact.

    Parameters
    ----------
    net : str or HybridBlock
        A name from `list_models`, whose weights are loaded, or a net.
    out : path
        The folder, or with ``as_zip`` the zip, to make.
    target : str or CompileTarget
        A row of `gluonface.deploy.targets.TARGETS`.
    sizes, batches
        See `buckets_for`: a function is compiled for each size with each batch.
    records : Records, path, "shipped" or None
        Tuned schedules: those that come with the package, those of a file, none.
    bundle : bool
        Put TVM's runtime libraries beside the library.
    as_zip : bool
    objects : bool
        Stop before linking: ``out`` becomes a folder of object files, the line that links them, and the manifest, which
        `pack_objects` makes an artefact of; for targets whose compiler is on another machine.
    box_style : str, optional
        What boxes are of a named net that finds them from points, see `gluonface.box_mapping.BOX_STYLES`; a net that is
        given has a style of its own.
    face_batches : iterable of int
        Of a net that looks at the faces it found once more, MaskFace: so many faces at once, a function each. As many
        as fit go through the largest; what is left over fills up the smallest.
    root : path, optional
        Folder of weights of your own, searched before the package's.
    say : callable
        Told in words what happens.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    ModelNotFoundError, WeightsError, InputError
        The net, the size or the target is none that can be compiled.
    DeployError
        An operator is not supported, no compiler is there, or the artefact cannot be written.
    """
    from ..model_zoo import get_model

    row = find_target(target)
    if isinstance(net, str):
        net = get_model(net, pretrained=True, root=root, box_style=box_style)
    elif box_style is not None:
        raise InputError(
            f"expected box_style with the name of a net, got it with a {type(net).__name__}: see its set_box_style"
        )
    buckets = buckets_for(net, sizes, batches)
    faces = face_functions_of(net, face_batches)
    if row.compiler() is None and not objects:
        raise DeployError(
            f"no compiler that links for {row.name} was found: {row.without_compiler()}; or ask for object files "
            "(--objects) and link them where there is one"
        )
    if bundle and row.mtriple.split("-")[0] != find_target("native").mtriple.split("-")[0]:
        raise DeployError(
            f"the runtime libraries of {row.name} are not those of this machine: take them from the wheels of "
            "apache-tvm and apache-tvm-ffi for that machine, and leave out --bundle"
        )
    if records == "shipped":
        records = Records.shipped(row.records)
    elif isinstance(records, (str, os.PathLike)):
        records = Records.read(records)
    say(f"{net.facts.name}: {', '.join(b.function for b in buckets)} for {row.name} ({row.mcpu or row.kind})")
    module, choices = lower(module_of(net, buckets, row, face_batches), row, records)
    schedules = _told(choices, row)
    if not schedules.tuned:
        say(f"warning: not tuned: {schedules.text}")
    with row.tvm_target():
        executable = relax.build(module, target=row.tvm_target())
    detector = net.facts.task == "detection"
    manifest = Manifest(
        facts=_facts_of(net),
        weights_sha256=net.facts.sha256 or weights_hash(net),
        buckets=tuple(buckets),
        outputs=_outputs_of(net),
        nms=nms_of(net) if detector else {},
        target=Target(row.kind, row.mtriple, row.mcpu, row.features, row.name),
        versions=installed_versions(),
        schedules=schedules,
        faces=faces,
    )
    if objects:
        return _write_objects(Path(out), executable, manifest, row)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "model.so"
        executable.export_library(str(library), fcompile=row.link())
        return write_artifact(out, library, manifest, installed_runtime() if bundle else None, as_zip)


def _write_objects(out: Path, executable, manifest: Manifest, target: CompileTarget) -> Path:
    if out.exists():
        raise DeployError(f"{out}: expected a path that does not exist yet, for the folder of object files")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / "made"
        made.mkdir()
        executable.export_library(str(Path(folder) / "objects.tar"))
        with tarfile.open(Path(folder) / "objects.tar") as archive:
            archive.extractall(made, filter="data")
        names = sorted(path.name for path in made.iterdir())
        (made / "link.txt").write_text(
            f"{target.link_name()} -shared -fPIC -o model.so {' '.join(names)}\n", encoding="utf-8"
        )
        (made / _DRAFT).write_text(manifest.to_json(), encoding="utf-8")
        made.rename(out)
    return out


def pack_objects(
    folder: str | os.PathLike, library: str | os.PathLike, out: str | os.PathLike, as_zip: bool = False
) -> Path:
    """An artefact of a folder of object files and the library that was linked of them.

    Parameters
    ----------
    folder : path
        What ``compile_model(objects=True)`` wrote.
    library : path
        What the line in its ``link.txt`` made.
    out : path
    as_zip : bool

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    DeployError
        A file is missing or damaged, or the artefact cannot be written.
    """
    draft = Path(folder) / _DRAFT
    try:
        text = draft.read_bytes()
    except OSError as error:
        raise DeployError(f"{draft}: expected the manifest that gluonface compile --objects wrote: {error}") from error
    return write_artifact(out, library, parse_manifest(text, str(draft)), None, as_zip)


def tune_model(
    net,
    *,
    target: str | CompileTarget = "native",
    sizes: Iterable[int | tuple[int, int]] | None = None,
    batches: Iterable[int] = (1,),
    trials: int = 32,
    path: str | os.PathLike,
    rpc: tuple[str, int, str] | None = None,
    minutes: float | None = None,
    root: str | os.PathLike | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Records:
    """Search the fastest schedule of every convolution kernel of a net and keep them in a file of records.

    Goes on where it was stopped: kernels that the file has with as many trials are not measured again, and the file is
    written after each kernel.

    Parameters
    ----------
    net, target, sizes, batches, root, say
        See `compile_model`.
    trials : int
        Schedules measured of each kernel, the rule's own first.
    path : path
        The file; made when it is not there.
    rpc : (host, port, key), optional
        Tracker and key of a device that runs TVM's RPC server; this machine by default.
    minutes : float, optional
        Start no kernel after so many.

    Returns
    -------
    Records
        As the file has them.
    """
    from ..model_zoo import get_model

    row = find_target(target)
    if row.kind != "llvm":
        raise InputError(f"expected a target whose kernels run on the processor, got {row.name}: scheduled by rules")
    if isinstance(net, str):
        net = get_model(net, pretrained=True, root=root)
    module = fuse(module_of(net, buckets_for(net, sizes, batches), row), row)
    functions = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    return search(functions, row, trials=trials, path=path, rpc=rpc, minutes=minutes, say=say)


def nms_of(net) -> dict[str, float]:
    """Settings of a detector's non-maximum suppression, as the manifest says them."""
    names = ("nms_thresh", "nms_topk", "post_nms", "score_thresh")
    return {name: getattr(net, name) for name in names}


def weights_hash(net) -> str:
    """SHA-256 over names and values of a net's parameters, for nets that come from no file."""
    digest = hashlib.sha256()
    for name, parameter in sorted(net._collect_params_with_prefix().items()):
        digest.update(name.encode())
        digest.update(_array_of(parameter).tobytes())
    return digest.hexdigest()


def _told(choices: Sequence[Choice], target: CompileTarget) -> Schedules:
    """How the schedules were found, in numbers and words."""
    count = {how: sum(c.how == how for c in choices) for how in ("tuned", "nearest", "rule", "plain")}
    tiled = count["tuned"] + count["nearest"] + count["rule"]
    words = [f"{count['tuned']} of {tiled} convolution kernels by a record for just that shape"]
    if count["nearest"]:
        words.append(f"{count['nearest']} by the nearest record")
    if count["rule"]:
        words.append(f"{count['rule']} by the rule for {target.lanes} lanes and {target.registers} registers")
    return Schedules(
        tuned=tiled > 0 and count["tuned"] == tiled,
        text="; ".join(words),
        records={c.kernel: c.how for c in choices if c.how != "plain"},
    )
