"""Toy artefacts that obey the contract of compiled ones: built in a second, no weights, and what they find is known.

The detector finds one box around all pixels above 127 of each colour channel: green scores 0.875, red 0.75, blue 0.625;
with ``pose`` it gives the left, top and right side of the box for angles, with ``mesh`` the first three points for a
mesh of two vertices. The landmark net puts 68 points where its
template's five say, moved by as much as the middle of the bright pixels is off the middle of the crop.
"""

from pathlib import Path

import numpy as np

from gluonface.deploy import artifact, runtime
from gluonface.faces import SCHEMES
from gluonface.facts import ModelFacts
from gluonface.geometry import FIVE_IN_BOX, HEATMAP_TEMPLATE

CHANNEL_SCORES = (0.75, 0.875, 0.625)
BRIGHT = 127
CROP = 64
#: Where the toy landmark net puts its points in the crop of a face that is placed right, in shares of its side.
POINTS = np.full((68, 2), 0.5)
for _part, _point in zip(SCHEMES["68"].five, HEATMAP_TEMPLATE):
    POINTS[list(_part)] = _point
POINTS[:17, 0] = np.linspace(0.2, 0.8, 17)

X86 = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "x86-64"}
ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}


def native() -> dict:
    """The plainest target of this machine."""
    return (
        X86
        if runtime.architecture() == "x86_64"
        else {"kind": "llvm", "mtriple": f"{runtime.architecture()}-unknown-linux-gnu"}
    )


def facts(task: str, **others) -> ModelFacts:
    values = {
        "name": f"toy_{task}",
        "system": "toy",
        "backbone": "none",
        "dataset": "none",
        "params": 0,
        "gf": 0.0,
        "task": task,
        "licence": "Apache-2.0",
        "terms": "Do as you like.",
    }
    if task == "landmarks":
        values |= {"size": CROP, "scheme": "68", "template": tuple(map(tuple, HEATMAP_TEMPLATE.tolist()))}
    return ModelFacts(**{**values, **others})


def manifest(task: str, buckets, target: dict | None = None, **others) -> runtime.Manifest:
    detector = task == "detection"
    names = ("scores", "bboxes", "landmarks") if detector else ("landmarks", "scores")
    target = target or native()
    values = {
        "facts": facts(task),
        "weights_sha256": "0" * 64,
        "buckets": tuple(runtime.Bucket.of(*bucket) for bucket in buckets),
        "outputs": tuple(runtime.Output(name, "(B, n)", "a toy's") for name in names),
        "nms": {"nms_thresh": 0.4, "nms_topk": 3, "post_nms": 3, "score_thresh": 0.1} if detector else {},
        "target": runtime.Target(target["kind"], target["mtriple"], target.get("mcpu", ""), name="toy"),
        "versions": artifact.installed_versions(),
        "schedules": runtime.Schedules(False, "not tuned: a toy"),
    }
    return runtime.Manifest(**{**values, **others})


def library(
    folder: Path,
    task: str,
    buckets,
    target: dict | None = None,
    compiler: str | None = None,
    pose: bool = False,
    mesh: bool = False,
) -> Path:
    """A compiled toy; ``buckets`` are (batch, (height, width)), ``compiler`` that of another architecture."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder()
    for batch, size_hw in buckets:
        bucket = runtime.Bucket.of(batch, size_hw)
        x = relax.Var("canvas", relax.TensorType(bucket.shape, "uint8"))
        with builder.function(bucket.function, [x]):
            with builder.dataflow():
                outputs = (_detector if task == "detection" else _landmarks)(builder.emit, x, bucket)
                if pose:
                    outputs.append(builder.emit(relax.op.strided_slice(outputs[1], [2], [0], [3])))
                if mesh:
                    six = builder.emit(relax.op.strided_slice(outputs[2], [2], [0], [6]))
                    outputs.append(builder.emit(relax.op.reshape(six, (batch, -1, 2, 3))))
                result = builder.emit_output(relax.Tuple(outputs))
            builder.emit_func_output(result)
    target = tvm.target.Target(target or native())
    module = _in_parallel(relax.get_pipeline("zero")(builder.get()))
    executable = tvm.compile(module, target=target)
    path = folder / f"{task}.so"
    options = {} if compiler is None else {"fcompile": tvm.support.cc.cross_compiler(compiler)}
    executable.export_library(str(path), **options)
    return path


def write(
    out: Path,
    task: str,
    buckets,
    *,
    target=None,
    compiler=None,
    runtime_libs=None,
    as_zip=False,
    pose=False,
    mesh=False,
    **others,
):
    """A whole toy artefact at ``out``; ``others`` replace fields of the manifest."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = library(out.parent, task, buckets, target, compiler, pose, mesh)
    return artifact.write_artifact(out, path, manifest(task, buckets, target, **others), runtime_libs, as_zip)


def _in_parallel(module):
    """Loops over the canvas are split over threads, as in a tuned library."""
    from tvm import s_tir

    schedule = s_tir.Schedule(module)
    for variable in module.get_global_vars():
        if variable.name_hint.startswith("fused_greater"):
            schedule.work_on(variable.name_hint)
            (block, *_) = schedule.get_child_blocks(schedule.get_sblock("root"))
            loops = schedule.get_loops(block)
            schedule.parallel(schedule.fuse(*loops[:2]))
    return schedule.mod


def _constant(values, dtype="float32"):
    from tvm import relax

    return relax.const(np.asarray(values, dtype))


def _bright(emit, x):
    """Whether pixels are bright, int32 (B, H, W, 3)."""
    from tvm.relax import op

    return emit(op.astype(op.greater(x, _constant(BRIGHT, "uint8")), "int32"))


def _detector(emit, x, bucket):
    from tvm import relax
    from tvm.relax import op

    bright = _bright(emit, x)
    sides = []
    for axis, size in ((1, bucket.size_hw[1]), (2, bucket.size_hw[0])):
        seen = emit(op.max(bright, axis=axis))  # (B, size, 3)
        ramp = np.arange(size).reshape(1, size, 1)
        high = emit(op.max(op.multiply(seen, _constant(ramp + 1, "int32")), axis=1))
        low = emit(op.max(op.multiply(seen, _constant(size - ramp, "int32")), axis=1))
        low = emit(op.subtract(_constant(size, "int32"), low))
        sides.append([emit(op.astype(value, "float32")) for value in (low, high)])
    (x1, x2), (y1, y2) = sides
    scores = emit(op.where(op.greater(x2, x1), _constant([CHANNEL_SCORES]), _constant(-1.0)))
    numbers = [x1, y1, x2, y2]
    for fx, fy in FIVE_IN_BOX:
        for low, high, share in ((x1, x2, fx), (y1, y2, fy)):
            numbers.append(emit(op.add(low, op.multiply(op.subtract(high, low), _constant(share)))))
    rows = emit(op.stack(numbers, axis=-1))
    # TVM's sort is in the second runtime library.
    order = emit(op.topk(scores, k=3, axis=1, ret_type="both", largest=True, dtype="int32"))
    scores, index = (emit(relax.TupleGetItem(order, i)) for i in range(2))
    chosen = op.equal(op.expand_dims(index, 2), _constant(np.arange(3).reshape(1, 1, 3), "int32"))
    rows = emit(op.matmul(op.astype(chosen, "float32"), rows))
    rows = emit(op.where(op.expand_dims(op.greater(scores, _constant(0.0)), 2), rows, _constant(-1.0)))
    return [scores, *(emit(op.strided_slice(rows, [2], [start], [stop])) for start, stop in ((0, 4), (4, 14)))]


def _landmarks(emit, x, bucket):
    from tvm.relax import op

    height, width = bucket.size_hw
    bright = emit(op.astype(op.max(_bright(emit, x), axis=3), "float32"))  # (B, H, W)
    count = emit(op.maximum(op.sum(bright, axis=[1, 2]), _constant(1.0)))
    centres = []
    for ramp in (np.arange(width)[None, None] + 0.5 - width / 2, np.arange(height)[None, :, None] + 0.5 - height / 2):
        centres.append(emit(op.divide(op.sum(op.multiply(bright, _constant(ramp)), axis=[1, 2]), count)))
    offset = emit(op.expand_dims(op.stack(centres, axis=-1), 1))  # (B, 1, 2)
    points = emit(op.add(offset, _constant(POINTS[None] * [width, height])))
    return [points, emit(op.broadcast_to(_constant([[0.9]]), (bucket.batch, 68)))]
