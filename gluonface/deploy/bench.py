"""`bench`: how fast an artefact is beside other engines, on the same input, in one run.

Every engine is a process of its own, since most read their number of threads when they start. The processes take turns
while the others sleep, so that a machine that slows down or is busy slows all of them. A turn is a run that is not
timed, which brings weights back into the caches and wakes sleeping threads, and a few that are.

Network alone means of onnxruntime, OpenVINO, ncnn and MXNet the raw predictions from a normalised input, and of the
artefact the whole compiled function: normalisation, decoding and non-maximum suppression are inside, a handicap.
End to end means from a decoded photo to `Faces` (of a landmark net: from a photo and five points to landmarks), the
code before and after the network being that of `gluonface.analysis` with every engine. A net that looks for points in
the faces it has found (MaskFace) does so of the faces that are given as an artefact, and of every row that suppression
may leave, 750 of them, as a graph of ONNX: end to end the two cannot be compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.util
import itertools
import json
import logging
import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from .._compat import import_optional
from ..analysis import Analyzer
from ..errors import DeployError, GluonFaceError, InputError, MissingDependencyError
from ..faces import Faces
from ..facts import ModelFacts
from ..geometry import box_iou
from ..processor import peak_memory_mib
from .engines import Engine, Job, engine_of, find_bucket, make_job, open_engine, ort_session
from .runtime import Bucket, open_artifact
from .runtime.machine import processor_name

__all__ = ["DEGREES", "PIXELS", "SCORE", "Difference", "bench", "bench_remote", "compare_faces", "gflop_of", "start_up"]

#: How far boxes and points, scores, and angles, of two engines may be apart that say the same.
PIXELS, SCORE, DEGREES = 0.5, 1e-3, 0.1
#: Runs of a turn that are timed, after one that is not.
_TIMED = 3
#: Rounds before the first that counts.
_WARM_UP = 2
# Threads of a pool spin for a while before they sleep, on cores that the next engine needs.
_PAUSE_SECONDS = 0.05
#: Side of the input that `ModelFacts.gf` holds for.
_GF_SIDE = {"detection": 640, "landmarks": 192}
# Side of the matrices whose product stands for the machine's peak: 0.1 to 0.2 s on one core.
_PEAK_SIDE = 2048
# Attributes of `Faces` beside boxes and scores -> those of `Difference`.
_KINDS = {"landmarks5": "points", "landmarks": "points", "pose": "pose", "mesh": "mesh"}
# A raw prediction that is off by more is wrong, not rounded.
_WRONG = 0.05


# ---- do two engines say the same? ------------------------------------------------------------------------------------


@dataclass
class Difference:
    """How far apart the faces of two engines are; the largest difference of each kind.

    Attributes
    ----------
    photos, faces : int
        Faces that both found.
    boxes, points, mesh : float
        Pixels, of a side or an axis.
    scores : float
    pose : float
        Degrees, of an angle.
    one_sided : list of (int, float, str)
        Photo, score and side ("first", "second") of the faces that one of them found alone.
    """

    photos: int = 0
    faces: int = 0
    boxes: float = 0.0
    points: float = 0.0
    scores: float = 0.0
    pose: float = 0.0
    mesh: float = 0.0
    one_sided: list[tuple[int, float, str]] = dataclasses.field(default_factory=list)

    def agrees(self, threshold: float, pixels: float = PIXELS, score: float = SCORE) -> bool:
        """Whether they say the same: within ``pixels``, ``score`` and `DEGREES`, and a face that is missing on one side
        has a score within ``score`` of ``threshold``.
        """
        return (
            max(self.boxes, self.points, self.mesh) <= pixels
            and self.scores <= score
            and self.pose <= DEGREES
            and all(abs(alone - threshold) <= score for _, alone, _ in self.one_sided)
        )

    def to_dict(self) -> dict:
        """Plain values ready for JSON."""
        return dataclasses.asdict(self)


def compare_faces(first: Sequence[Faces], second: Sequence[Faces]) -> Difference:
    """Compare what two engines found on the same photos; faces that overlap most are the same one.

    Parameters
    ----------
    first, second : sequence of Faces
        Of each photo.

    Raises
    ------
    InputError
        Not as many photos, or of other sizes, or only one side has landmarks, pose or meshes.
    """
    if len(first) != len(second) or any(a.size_hw != b.size_hw for a, b in zip(first, second)):
        raise InputError(f"expected the faces of the same photos, got {len(first)} and {len(second)} of them")
    found = Difference(photos=len(first))
    for photo, (a, b) in enumerate(zip(first, second)):
        rows, columns = _pairs(a.boxes, b.boxes)
        found.faces += len(rows)
        for i in sorted(set(range(len(a))) - set(rows)):
            found.one_sided.append((photo, float(a.scores[i]), "first"))
        for i in sorted(set(range(len(b))) - set(columns)):
            found.one_sided.append((photo, float(b.scores[i]), "second"))
        a, b = a[np.array(rows, int)], b[np.array(columns, int)]
        found.boxes = max(found.boxes, _largest(a.boxes, b.boxes))
        found.scores = max(found.scores, _largest(a.scores, b.scores))
        for name, kind in _KINDS.items():
            one, other = getattr(a, name), getattr(b, name)
            if (one is None) != (other is None):
                raise InputError(f"photo {photo}: expected {name} on both sides or on none")
            if one is not None:
                setattr(found, kind, max(getattr(found, kind), _largest(one, other)))
    return found


def _pairs(first: np.ndarray, second: np.ndarray, least: float = 0.5) -> tuple[list[int], list[int]]:
    """Rows of boxes that overlap most, each once."""
    overlap = box_iou(first, second)
    rows, columns = [], []
    while overlap.size and overlap.max() >= least:
        i, j = np.unravel_index(overlap.argmax(), overlap.shape)
        rows.append(int(i))
        columns.append(int(j))
        overlap[i], overlap[:, j] = -1, -1
    return rows, columns


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.asarray(a, np.float64) - b).max()) if a.size else 0.0


# ---- a process an engine ---------------------------------------------------------------------------------------------


class _Worker:
    """A process that runs an engine when told to; a line of JSON each way."""

    def __init__(self, name: str, job: Job):
        self.name = name
        threads = str(job.threads)
        counts = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")
        folder = str(Path(__file__).resolve().parents[2])
        env = {
            **os.environ,
            **dict.fromkeys(counts, threads),
            "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])),
        }
        command = [sys.executable, "-m", __name__, name, json.dumps(dataclasses.asdict(job))]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(self) -> dict:
        """What it says next.

        Raises
        ------
        DeployError
            It could not do what it was told, or has ended.
        """
        line = self.process.stdout.readline()
        if not line:
            raise DeployError(f"{self.name}: its process ended with status {self.process.wait()}")
        said = json.loads(line)
        if "error" in said:
            raise DeployError(f"{self.name}: {said['error']}")
        return said

    def ask(self, do: str, **arguments) -> dict:
        """Tell it to do something and wait for the answer."""
        # That it has died shows in the answer, which does not come.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _work(name: str, job: Job) -> None:
    """The process of a `_Worker`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers

    def answer(**said) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    cv2.setNumThreads(job.threads)
    logging.getLogger("gluonface.licence").disabled = True  # once is enough: the parent's
    try:
        tasks = _Peak(job.threads) if name == "peak" else _Tasks(open_engine(name, job))
        answer(ready=True)
        for line in sys.stdin:
            command = json.loads(line)
            answer(**getattr(tasks, command.pop("do"))(**command))
    # Whatever an engine raises is the answer: the parent says it, or leaves the engine out.
    except Exception as error:  # noqa: BLE001
        answer(error=(str(error).strip().splitlines() or [type(error).__name__])[0][:500])


class _Tasks:
    """What a process is told to do with its engine."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def network(self, photo: int) -> dict:
        data = self.engine.inputs[photo]
        return _timed(lambda: self.engine.network(data))

    def end_to_end(self, photo: int) -> dict:
        return {} if self.engine.stage is None else _timed(lambda: self.engine.end_to_end(photo))

    def save(self, path: str) -> dict:
        """Write all results of all photos."""
        arrays, count = {}, len(self.engine.photos)
        for i in range(count):
            if self.engine.raw:
                arrays |= {f"raw{k}_{i}": array for k, array in enumerate(self.engine.network(self.engine.inputs[i]))}
            if isinstance(self.engine.stage, Analyzer):
                faces = self.engine.end_to_end(i)[0]
                arrays |= arrays_of(faces, i)
            elif self.engine.stage is not None:
                arrays[f"landmarks_{i}"] = self.engine.end_to_end(i)
        np.savez(path, **arrays)
        return {"photos": count}

    def memory(self) -> dict:
        return {"peak_mib": peak_memory_mib()}


class _Peak:
    """A large float32 matrix product, the faster of NumPy's and onnxruntime's: what the cores can do at best."""

    def __init__(self, threads: int):
        a, b = np.random.default_rng(0).standard_normal((2, _PEAK_SIDE, _PEAK_SIDE)).astype(np.float32)
        self.products = [lambda: a @ b]
        if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
            session = ort_session(_product_model(_PEAK_SIDE), threads)
            self.products.append(lambda: session.run(None, {"a": a, "b": b}))

    def best(self) -> dict:
        seconds = min(min(_timed(product)["seconds"]) for product in self.products)
        return {"gflops": 2 * _PEAK_SIDE**3 / seconds / 1e9}


def _product_model(side: int) -> bytes:
    """An ONNX model of one matrix product."""
    onnx = import_optional("onnx", "deploy")
    shape, helper = (side, side), onnx.helper
    a, b, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "aby")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "product", [a, b], [y])
    opsets = [helper.make_opsetid("", 17)]
    version = helper.find_min_ir_version_for(opsets)
    return helper.make_model(graph, opset_imports=opsets, ir_version=version).SerializeToString()


def _timed(run: Callable) -> dict:
    run()
    seconds = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


# ---- the measurement -------------------------------------------------------------------------------------------------


def bench(
    artefact: str | os.PathLike,
    *,
    against: Sequence[str] = (),
    threads: int = 1,
    photos: Sequence | None = None,
    function: str | None = None,
    rounds: int = 50,
    seconds: float = 300.0,
    root: str | os.PathLike | None = None,
    leave_out: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict:
    """Measure an artefact beside other engines.

    Parameters
    ----------
    artefact : path
    against : sequence of str
        Names from `ENGINES`.
    threads : int
        Of every engine.
    photos, function, root
        See `make_job`.
    rounds : int
        Turns that each engine takes.
    seconds : float
        No new round begins after so long, but five are made.
    leave_out : bool
        Go on without engines that cannot run here; ``left_out`` says why.
    say : callable
        Told in words what happens.

    Returns
    -------
    dict, ready for JSON
        ``median_ms`` and ``end_to_end_ms``: engine -> milliseconds a call, the artefact's under "artefact". ``ratios``
        and ``end_to_end_ratios``: engine -> the artefact's time over its, the median over rounds, below 1 where the
        artefact is faster. ``gflops`` and ``share_of_peak`` of the network alone, by the multiply-accumulates of its
        convolutions. ``max_difference`` to MXNet, where that was measured. ``peak_memory_mib``, ``start_up``,
        ``left_out``, ``model``, ``function``, ``threads``, ``rounds``, ``artefact``, ``machine``, ``versions`` and
        ``date``.

    Raises
    ------
    InputError, ImageError, DeployError, MissingDependencyError
        As of `make_job` and `open_engine`.
    """
    if rounds < 1:
        raise InputError(f"expected rounds of at least 1, got {rounds}")
    names = list(dict.fromkeys(["artefact", *against]))
    left_out = {}
    for name in names:
        reason = engine_of(name).unusable()
        if reason:
            if not leave_out:
                raise MissingDependencyError(f"{name}: {reason}")
            left_out[name] = reason
    names = [name for name in names if name not in left_out]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        say(f"preparing {', '.join(names)}")
        job = make_job(artefact, folder, engines=names, function=function, threads=threads, photos=photos, root=root)
        workers = _start([*names, "peak"], job, left_out if leave_out else None, stack)
        peak, peaks = workers.pop("peak"), []

        def between() -> None:
            peaks.append(peak.ask("best")["gflops"])

        differences = _differences(workers, Path(folder), left_out if leave_out else None)
        samples, made = _take_turns(workers, _count_photos(job), rounds, seconds, threads, between, say)
        memory = {name: worker.ask("memory")["peak_mib"] for name, worker in workers.items()}
    opened = open_artifact(artefact)
    manifest, bucket = opened.manifest, find_bucket(opened.manifest, function)
    network = {name: _median_ms(taken["network"]) for name, taken in samples.items()}
    gflops = {name: gflop_of(manifest.facts, bucket) / (ms / 1000) for name, ms in network.items()}
    whole = {name: taken["end_to_end"] for name, taken in samples.items() if taken["end_to_end"]}
    return {
        "model": manifest.model,
        "function": bucket.function,
        "batch": bucket.batch,
        "size_hw": list(bucket.size_hw),
        "threads": threads,
        "rounds": made,
        "median_ms": network,
        "end_to_end_ms": {name: _median_ms(taken) for name, taken in whole.items()},
        "ratios": _ratios({name: taken["network"] for name, taken in samples.items()}),
        "end_to_end_ratios": _ratios(whole),
        "gflops": gflops,
        "peak_gflops": max(peaks),
        "share_of_peak": {name: value / max(peaks) for name, value in gflops.items()},
        "max_difference": differences,
        "peak_memory_mib": memory,
        "start_up": start_up(opened.folder),
        "left_out": left_out,
        "artefact": about(opened),
        **provenance(),
    }


def _start(names: Sequence[str], job: Job, left_out: dict | None, stack: contextlib.ExitStack) -> dict[str, _Worker]:
    """A process for each name, ready; with ``left_out`` one that fails is entered there."""
    workers = {}
    for name in names:
        worker = _Worker(name, job)
        stack.callback(worker.close)
        try:
            worker.answer()
        except DeployError as error:
            if left_out is None or name in ("artefact", "peak"):
                raise
            left_out[name] = str(error)
        else:
            workers[name] = worker
    return workers


def _differences(workers: dict[str, _Worker], folder: Path, left_out: dict | None) -> dict:
    """Of each engine to MXNet; one whose raw predictions are wrong is taken out of ``workers``."""
    results = {}
    for name, worker in workers.items():
        worker.ask("save", path=str(folder / f"{name}.npz"))
        with np.load(folder / f"{name}.npz") as arrays:
            results[name] = {key: arrays[key] for key in arrays.files}
    if "mxnet" not in results:
        return {}
    reference, found = results["mxnet"], {}
    for name, arrays in results.items():
        if name == "mxnet":
            continue
        raw = [_largest(arrays[key], reference[key]) for key in reference if key in arrays and key.startswith("raw")]
        row = {"raw": max(raw)} if raw else {}
        if raw and not name.endswith("bf16") and not max(raw) <= _WRONG:
            reason = f"the raw predictions{engine_of(name).as_converted} are wrong, off by {max(raw):.3g} from MXNet's"
            if left_out is None:
                raise DeployError(f"{name}: {reason}")
            left_out[name] = reason
            workers.pop(name).close()
            continue
        landmarks = [key for key in arrays if key.startswith("landmarks_")]
        if landmarks:
            row["points"] = max(_largest(arrays[key], reference[key]) for key in landmarks)
        if "faces_0_boxes" in arrays:
            faces = compare_faces(faces_of(arrays), faces_of(reference))
            row |= {key: getattr(faces, key) for key in ("boxes", "points", "scores", "pose", "mesh")}
            row |= {"faces": faces.faces, "one_sided": len(faces.one_sided)}
        found[name] = row
    return found


def arrays_of(faces: Faces, photo: int) -> dict[str, np.ndarray]:
    """What the faces of a photo have, by names from which `faces_of` makes them anew."""
    names = ("boxes", "scores", *_KINDS)
    return {f"faces_{photo}_{name}": getattr(faces, name) for name in names if getattr(faces, name) is not None}


def faces_of(arrays: Mapping[str, np.ndarray]) -> list[Faces]:
    """The faces of each photo."""
    found = []
    while f"faces_{len(found)}_boxes" in arrays:
        start = f"faces_{len(found)}_"
        given = {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
        if "landmarks" in given:
            given["scheme"] = str(given["landmarks"].shape[1])
        found.append(Faces(**given, size_hw=(1, 1)))
    return found


def _count_photos(job: Job) -> int:
    with np.load(job.photos) as arrays:
        return len(arrays.files) // 2


def _take_turns(
    workers: dict[str, _Worker],
    photos: int,
    rounds: int,
    seconds: float,
    threads: int,
    between: Callable[[], None],
    say: Callable[[str], None],
) -> tuple[dict[str, dict[str, list[float]]], int]:
    """Engine -> "network" and "end_to_end" -> median seconds of each round; and the number of rounds.

    ``between`` is called at the start and after every tenth round.
    """
    samples = {name: {"network": [], "end_to_end": []} for name in workers}
    start, made = time.monotonic(), 0
    between()
    for turn in itertools.count(-_WARM_UP):
        late = time.monotonic() - start > seconds and made >= min(5, rounds)
        if turn >= rounds or late:
            break
        for what in ("network", "end_to_end"):
            for name, worker in workers.items():
                if threads > 1:
                    time.sleep(_PAUSE_SECONDS)
                taken = worker.ask(what, photo=turn % photos)
                if turn >= 0 and taken:
                    samples[name][what].append(statistics.median(taken["seconds"]))
        made += turn >= 0
        if made and made % 10 == 0:
            between()
            say(f"{made} of {rounds} rounds")
    return samples, made


def _median_ms(seconds: Sequence[float]) -> float:
    return 1000 * statistics.median(seconds)


def _ratios(samples: dict[str, list[float]]) -> dict[str, float]:
    """Of the artefact's time to each engine's, the median over rounds."""
    ours = samples.get("artefact", [])
    return {
        name: statistics.median(a / b for a, b in zip(ours, taken))
        for name, taken in samples.items()
        if name != "artefact" and ours
    }


def gflop_of(facts: ModelFacts, bucket: Bucket) -> float:
    """Floating-point operations in 10^9 of one call of a bucket, two a multiply-accumulate.

    Convolutions cost in proportion to the pixels, exactly where the sides are multiples of the net's stride.
    """
    pixels = math.prod(bucket.size_hw) / _GF_SIDE[facts.task] ** 2
    return 2 * facts.gf * pixels * bucket.batch


_START_UP = """
import sys
from gluonface.deploy import runtime
stage = runtime.load(sys.argv[1])
print("loaded", flush=True)
import numpy as np
bucket = stage.module.manifest.buckets[0]
if sys.argv[2] == "detection":
    stage([np.zeros((*bucket.size_hw, 3), np.uint8)] * bucket.batch)
else:
    stage.predict(np.zeros(bucket.shape, np.uint8))
print(open("/proc/self/status").read() if sys.platform == "linux" else "")
"""


def start_up(artefact: str | os.PathLike, repeats: int = 5) -> dict:
    """How long a new process takes until an artefact is loaded, Python's own start among it, and its memory at its peak
    after one photo.

    Returns
    -------
    dict
        ``ms``, the median, and ``peak_memory_mib`` (None where the system does not say).
    """
    task = open_artifact(artefact).manifest.task
    folder = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))}
    taken, text = [], ""
    for _ in range(repeats):
        start = time.perf_counter()
        command = [sys.executable, "-c", _START_UP, str(artefact), task]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            line = child.stdout.readline()
            taken.append(time.perf_counter() - start)
            text = child.stdout.read()
        if line.strip() != "loaded" or child.returncode:
            raise DeployError(f"{artefact}: a new process that loads it ended with status {child.returncode}")
    peak = next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM")), None)
    return {"ms": _median_ms(taken), "peak_memory_mib": peak}


def about(artifact) -> dict:
    """What a figure needs beside it of the artefact."""
    manifest = artifact.manifest
    return {
        "library_bytes": artifact.library.stat().st_size,
        "functions": [bucket.function for bucket in manifest.buckets],
        "target": manifest.target.name or manifest.target.mcpu,
        "tuned": manifest.schedules.tuned,
        "schedules": manifest.schedules.text,
        "weights_sha256": manifest.weights_sha256,
    }


def provenance() -> dict:
    """Keys ``date``, ``versions`` and ``machine`` of a result."""
    names = ("gluonface", "apache-tvm", "apache-tvm-ffi", "mxnet", "onnxruntime", "openvino", "ncnn", "numpy")
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "versions": versions,
        "machine": {"cpu": processor_name(), "cores": os.cpu_count()},
    }


# ---- on another device -----------------------------------------------------------------------------------------------


def bench_remote(
    artefact: str | os.PathLike,
    *,
    host: str,
    port: int,
    key: str,
    function: str | None = None,
    threads: int = 1,
    rounds: int = 50,
) -> dict:
    """Measure the network alone of an artefact on a device that a TVM RPC tracker knows.

    Parameters
    ----------
    artefact : path
        Compiled for the device.
    host, port
        Of the tracker (``python -m tvm.exec.rpc_tracker``).
    key : str
        Under which the device's server registered.
    function, threads, rounds
        As of `bench`.

    Returns
    -------
    dict
        As of `bench`, with ``median_ms`` of the artefact alone.

    Raises
    ------
    DeployError
        No tracker, no such device, or it cannot run the library.
    """
    tvm = import_optional("tvm", "deploy")
    rpc = import_optional("tvm.rpc", "deploy")
    relax = import_optional("tvm.relax", "deploy")
    opened = open_artifact(artefact, check_host=False)
    manifest, bucket = opened.manifest, find_bucket(opened.manifest, function)
    try:
        # TVM itself would try for a minute, and wait for a device of that name for ever.
        socket.create_connection((host, port), timeout=5).close()
        tracker = rpc.connect_tracker(host, port)
        there = sorted({server["key"].removeprefix("server:") for server in tracker.summary()["server_info"]})
        if key not in there:
            raise DeployError(f"{host}:{port}: expected a device registered as {key!r}, there are {there or 'none'}")
        session = tracker.request(key, session_timeout=600)
        session.upload(str(opened.library))
        gpu = manifest.target.kind not in ("llvm", "c")
        device = session.device(manifest.target.kind) if gpu else session.cpu()
        machine = relax.VirtualMachine(
            session.load_module(opened.library.name), [device, session.cpu()] if gpu else device
        )
        with contextlib.suppress(tvm.error.InternalError, AttributeError, ValueError):
            # Mode 1: that many of the fast cores. Servers without the function go by TVM_NUM_THREADS.
            session.get_function("runtime.config_threadpool")(1, threads)
        canvas = tvm.runtime.empty(bucket.shape, "uint8", device)
        machine.set_input(bucket.function, canvas)
        evaluate = machine.time_evaluator("invoke_stateful", device, number=1, repeat=rounds + _WARM_UP)
        seconds = evaluate(bucket.function).results[_WARM_UP:]
    except (RuntimeError, OSError, ValueError, AttributeError, TypeError) as error:
        if isinstance(error, GluonFaceError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise DeployError(f"{key} at {host}:{port}: {bucket.function} cannot be measured: {reason:.300}") from error
    median = _median_ms(seconds)
    return {
        "model": manifest.model,
        "function": bucket.function,
        "batch": bucket.batch,
        "size_hw": list(bucket.size_hw),
        "threads": threads,
        "rounds": rounds,
        "median_ms": {"artefact": median},
        "end_to_end_ms": {},
        "ratios": {},
        "gflops": {"artefact": gflop_of(manifest.facts, bucket) / (median / 1000)},
        "artefact": about(opened),
        **provenance(),
        "machine": {"cpu": f"{manifest.target.mcpu} ({key})", "cores": None},
    }


if __name__ == "__main__":
    _work(sys.argv[1], Job(**json.loads(sys.argv[2])))
