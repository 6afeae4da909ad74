"""A network on one of several engines: our artefact, onnxruntime, OpenVINO, ncnn, MXNet.

With every engine the code before and after the network is that of `gluonface.analysis`, so that what is measured or
compared is the network. An engine is a row of `ENGINES`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .._compat import import_optional
from ..analysis import Analyzer, LandmarkStage, align_faces, normalise
from ..errors import DeployError, InputError, MissingDependencyError
from ..facts import ModelFacts
from ..geometry import apply_letterbox, five_from_boxes, letterbox, warp_image
from ..image import load_image
from .runtime import (
    Bucket,
    CompiledAnalyzer,
    CompiledLandmarks,
    Manifest,
    Module,
    aligned_empty,
    cpu_features,
    open_artifact,
)

__all__ = [
    "ENGINES",
    "Engine",
    "Job",
    "drawn_photo",
    "engine_of",
    "find_bucket",
    "make_job",
    "open_engine",
    "ort_session",
]

#: Flags of /proc/cpuinfo of which one is needed for bfloat16 to be computed with.
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True)
class Job:
    """What an engine is to run; the paths are of files that `make_job` wrote.

    Attributes
    ----------
    artefact : str
    function : str
        The bucket.
    threads : int
    photos : str
        An .npz with ``photo<i>`` (H, W, 3) uint8 RGB and ``five<i>`` (5, 2), the points of the face that a landmark net
        is to look at.
    raw, whole : str
        ONNX files of `gluonface.deploy.onnx_export.export_onnx`; "" where no engine needs them.
    root : str or None
        Folder of weights, searched before the package's.
    """

    artefact: str
    function: str
    threads: int
    photos: str
    raw: str = ""
    whole: str = ""
    root: str | None = None


class Engine:
    """A network on an engine.

    Attributes
    ----------
    stage : Analyzer, LandmarkStage or None
        Photos to results; None of an engine that does the raw network only.
    inputs : list of arrays
        What `network` takes, one for each photo.
    """

    #: What has to be imported, and the extra that brings it.
    needs: tuple[str, str] | None = None
    #: Whether it takes the ONNX files.
    reads_onnx = False
    #: Whether `network` gives raw predictions.
    raw = True
    #: Words to add where a network is not run as it was exported.
    as_converted = ""

    def __init__(self, job: Job):
        self.job = job
        self.manifest = open_artifact(job.artefact).manifest
        self.facts = self.manifest.facts
        self.bucket = find_bucket(self.manifest, job.function)
        with np.load(job.photos) as arrays:
            count = sum(name.startswith("photo") for name in arrays.files)
            self.photos = [arrays[f"photo{i}"] for i in range(count)]
            self.five = [arrays[f"five{i}"] for i in range(count)]
        self.stage: Analyzer | LandmarkStage | None = None
        self.open()
        self.inputs = [self.input_of(canvases) for canvases in self._canvases()]

    @classmethod
    def unusable(cls) -> str | None:
        """Why it cannot run here, in words; None if it can."""
        if cls.needs is None or importlib.util.find_spec(cls.needs[0]):
            return None
        name, extra = cls.needs
        return f'{name} is not installed: pip install "gluonface[{extra}]"'

    def open(self) -> None:
        """Load the network, and set `stage`."""
        raise NotImplementedError

    def input_of(self, canvases: np.ndarray):
        """Canvases (B, H, W, 3) uint8 as `network` takes them."""
        return normalised(canvases, self.facts)

    def network(self, data) -> Sequence[np.ndarray]:
        """Run the network on one of `inputs`."""
        raise NotImplementedError

    def end_to_end(self, i: int):
        """From photo ``i``, as often as the batch is large: a list of `Faces`, or landmarks (B, K, 2)."""
        batch = self.bucket.batch
        if isinstance(self.stage, Analyzer):
            return self.stage([self.photos[i]] * batch)
        return self.stage.from_points([self.photos[i]], [np.repeat(self.five[i][None], batch, axis=0)])[0][0]

    def staged(self, detector: Callable[..., Analyzer], landmarks: Callable[..., LandmarkStage]):
        """The stage for the artefact's task, of the bucket's shape."""
        if self.facts.task == "detection":
            return detector(size=self.bucket.size_hw, batch_size=self.bucket.batch)
        return landmarks(passes=1, batch_size=self.bucket.batch)

    def _canvases(self) -> Iterator[np.ndarray]:
        height, width = self.bucket.size_hw
        for photo, five in zip(self.photos, self.five):
            if self.facts.task == "detection":
                canvas = apply_letterbox(photo, letterbox(photo.shape[:2], (height, width)))
            else:
                canvas = warp_image(photo, align_faces(five[None], self.facts)[0], (height, width))
            yield np.repeat(canvas[None], self.bucket.batch, axis=0)


def normalised(canvases: Sequence[np.ndarray], facts: ModelFacts) -> np.ndarray:
    """B canvases (h, w, 3) uint8 RGB as a network wants them, (B, 3, h, w) float32."""
    x = np.empty((len(canvases), 3, *canvases[0].shape[:2]), np.float32)
    for canvas, out in zip(canvases, x):
        normalise(canvas, facts, out)
    return x


class _Whole:
    """The two methods of a `gluonface.analysis.Backend`, on a function that runs a whole net."""

    def __init__(self, run: Callable[[np.ndarray], Sequence[np.ndarray]], facts: ModelFacts, bucket: Bucket, **options):
        self._run = run
        super().__init__(facts, buckets={bucket.size_hw: (bucket.batch,)}, **options)

    def _forward(self, canvases: Sequence[np.ndarray], *_: float) -> tuple[np.ndarray, ...]:
        # Copied: engines may write the next result to the same place.
        return tuple(np.array(output) for output in self._run(normalised(canvases, self.facts)))

    def _collect(self, handle: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return handle


class _WholeAnalyzer(_Whole, Analyzer):
    pass


class _WholeLandmarks(_Whole, LandmarkStage):
    pass


class _Artefact(Engine):
    raw = False

    def open(self) -> None:
        self.module = Module(self.job.artefact, threads=self.job.threads)
        self.stage = self.staged(
            lambda **options: CompiledAnalyzer(self.module, **options),
            lambda **options: CompiledLandmarks(self.module, **options),
        )

    def input_of(self, canvases: np.ndarray):
        out = aligned_empty(canvases.shape)
        out[...] = canvases
        return out

    def network(self, data) -> Sequence[np.ndarray]:
        # Raw predictions of other engines have no points of faces that were found: no face is sure enough for them.
        return self.module.run(self.bucket, data, score_thresh=2.0)


class _FromOnnx(Engine):
    """The files with raw predictions and with the whole net, each made into a function by `compiled`."""

    reads_onnx = True

    def open(self) -> None:
        self.network = self.compiled(self.job.raw)
        whole = self.compiled(self.job.whole)
        self.stage = self.staged(
            lambda **options: _WholeAnalyzer(whole, self.facts, self.bucket, **options),
            lambda **options: _WholeLandmarks(whole, self.facts, self.bucket, **options),
        )

    def compiled(self, path: str) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
        raise NotImplementedError


class _OnnxRuntime(_FromOnnx):
    needs = ("onnxruntime", "bench")

    def compiled(self, path: str) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
        session = ort_session(path, self.job.threads)
        return lambda x: session.run(None, {"data": x})


def ort_session(model: str | bytes, threads: int):
    """A session of onnxruntime on the processor, of a file or its bytes."""
    ort = import_optional("onnxruntime", "bench")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _OpenVino(_FromOnnx):
    needs = ("openvino", "bench")
    precision = "f32"

    def compiled(self, path: str) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
        settings = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.job.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # The engines share the same cores, so none may keep to some of them.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = import_optional("openvino", "bench").Core().compile_model(path, "CPU", settings)
        request, outputs = compiled.create_infer_request(), compiled.outputs

        def run(x):
            found = request.infer([x], share_inputs=True, share_outputs=True)
            return [found[output] for output in outputs]

        return run


class _OpenVinoBf16(_OpenVino):
    precision = "bf16"

    @classmethod
    def unusable(cls) -> str | None:
        features = cpu_features()
        if features is not None and not features & set(_BF16):
            return f"this processor does not compute with bfloat16 (none of {', '.join(_BF16)})"
        return super().unusable()


class _Mxnet(Engine):
    needs = ("mxnet", "cpu")

    def open(self) -> None:
        from .._compat import mx
        from ..alignment import LandmarkPredictor
        from ..model_zoo import get_model
        from ..pipeline import FaceAnalyzer

        self._to_mxnet = mx.nd.array
        self.net = get_model(self.facts.name, pretrained=True, root=self.job.root)
        self.net.hybridize()
        self.stage = self.staged(
            lambda **options: FaceAnalyzer(self.net, **options),
            lambda **options: LandmarkPredictor(self.net, **options),
        )

    def input_of(self, canvases: np.ndarray):
        return self._to_mxnet(super().input_of(canvases))

    def network(self, data) -> Sequence[np.ndarray]:
        outputs = self.net.network(data)
        outputs = outputs if isinstance(outputs, (list, tuple)) else (outputs,)
        return [output.asnumpy() for output in outputs]


class _Ncnn(Engine):
    """Raw predictions only: its own format has no non-maximum suppression, and its wheel no reader of ONNX."""

    reads_onnx = True
    as_converted = " of what pnnx made of the network"

    @classmethod
    def unusable(cls) -> str | None:
        if importlib.util.find_spec("ncnn") is None:
            return "ncnn is not installed: pip install ncnn"
        if _pnnx() is None:
            return "ncnn reads no ONNX, and pnnx, which converts it, is not on the path: pip install --no-deps pnnx"
        return None

    def open(self) -> None:
        import ncnn  # no extra brings it: `unusable` has looked

        if self.bucket.batch != 1:
            raise DeployError(f"ncnn takes one image at a time, not {self.bucket.batch}")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(self.job.raw, Path(folder) / "raw.onnx")
            done = subprocess.run(
                [str(_pnnx()), "raw.onnx", "fp16=0"], cwd=folder, capture_output=True, text=True, check=False
            )
            files = [Path(folder) / f"raw.ncnn.{kind}" for kind in ("param", "bin")]
            if not all(file.is_file() for file in files):
                lines = (done.stderr or done.stdout).strip().splitlines() or ["it gave no reason"]
                raise DeployError(f"pnnx cannot convert the network: {lines[-1]:.200}")
            self.net = ncnn.Net()
            options = self.net.opt
            options.num_threads, options.use_vulkan_compute = self.job.threads, False
            # float32 throughout, as the others.
            for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
                setattr(options, f"use_{name}", False)
            if self.net.load_param(str(files[0])) or self.net.load_model(str(files[1])):
                raise DeployError("ncnn cannot load what pnnx made of the network")
        self._matrix = ncnn.Mat

    def network(self, data) -> Sequence[np.ndarray]:
        with self.net.create_extractor() as extractor:
            extractor.input("in0", self._matrix(data[0]))
            return [np.array(extractor.extract(name)[1])[None] for name in self.net.output_names()]


def _pnnx() -> Path | None:
    """The converter of ONNX to ncnn: on the path, or inside the package of its name, which is not imported."""
    found = shutil.which("pnnx")
    if found:
        return Path(found)
    spec = importlib.util.find_spec("pnnx")
    inside = None if spec is None else Path(spec.submodule_search_locations[0]) / "pnnx"
    return inside if inside is not None and inside.is_file() and os.access(inside, os.X_OK) else None


#: What can be measured, by name.
ENGINES: dict[str, type[Engine]] = {
    "artefact": _Artefact,
    "onnxruntime": _OnnxRuntime,
    "openvino": _OpenVino,
    "openvino_bf16": _OpenVinoBf16,
    "ncnn": _Ncnn,
    "mxnet": _Mxnet,
}


def find_bucket(manifest: Manifest, function: str | None) -> Bucket:
    """A compiled function by name; the first one by default.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if function is None:
        return manifest.buckets[0]
    found = [bucket for bucket in manifest.buckets if bucket.function == function]
    if not found:
        names = ", ".join(bucket.function for bucket in manifest.buckets)
        raise InputError(f"{manifest.model}: expected one of the functions {names}, got {function!r}")
    return found[0]


def open_engine(name: str, job: Job) -> Engine:
    """An engine in this process, its network loaded.

    Raises
    ------
    InputError
        No engine of that name.
    MissingDependencyError, DeployError
        It is not installed, or cannot run this network.
    """
    kind = engine_of(name)
    reason = kind.unusable()
    if reason:
        raise MissingDependencyError(f"{name}: {reason}")
    return kind(job)


def engine_of(name: str) -> type[Engine]:
    """The row of `ENGINES`.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if name not in ENGINES:
        raise InputError(f"expected engines among {', '.join(ENGINES)}, got {name!r}")
    return ENGINES[name]


def make_job(
    artefact: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    engines: Sequence[str],
    function: str | None = None,
    threads: int = 1,
    photos: Sequence | None = None,
    root: str | os.PathLike | None = None,
) -> Job:
    """Write what engines need into a folder.

    Parameters
    ----------
    artefact : path
    folder : path
        Exists, and stays until the engines are done.
    engines : sequence of str
        Names from `ENGINES`.
    function : str, optional
        The bucket; the artefact's first one by default.
    threads : int
    photos : sequence of path or array, optional
        `drawn_photo` by default. Of a landmark net each shows one face that fills it.
    root : path, optional
        Folder of weights, searched before the package's.

    Raises
    ------
    InputError
        An argument is out of range, or the artefact's weights are not the zoo's, which the others would run.
    ImageError
        A photo cannot be read.
    """
    if threads < 1:
        raise InputError(f"expected threads of at least 1, got {threads}")
    manifest = open_artifact(artefact).manifest
    bucket, folder = find_bucket(manifest, function), Path(folder)
    others = [name for name in engines if engine_of(name) is not _Artefact]
    raw = whole = ""
    if others:
        from ..model_zoo import model_facts

        facts = model_facts(manifest.model, root)
        if facts.sha256 != manifest.weights_sha256:
            raise InputError(
                f"{artefact}: expected an artefact of the weights that the model zoo has of {manifest.model} "
                f"({facts.file or 'none'}), which {', '.join(others)} would run; it was compiled from others: compile "
                "it again, or name their folder with --root"
            )
    if any(ENGINES[name].reads_onnx for name in others):
        from .onnx_export import export_onnx

        raw, whole = (str(folder / f"{name}.onnx") for name in ("raw", "whole"))
        for path in (raw, whole):
            shape = {"size": bucket.size_hw, "batch": bucket.batch}
            export_onnx(manifest.model, path, **shape, whole=path == whole, root=root)
    arrays = {}
    for i, (photo, five) in enumerate(_photos(photos, manifest.task)):
        arrays |= {f"photo{i}": photo, f"five{i}": five}
    np.savez(folder / "photos.npz", **arrays)
    root = None if root is None else str(root)
    return Job(str(artefact), bucket.function, threads, str(folder / "photos.npz"), raw, whole, root)


def _photos(photos: Sequence | None, task: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if photos is not None and not len(photos):
        raise InputError("expected at least one photo, got none")
    if photos is None:
        image, boxes = drawn_photo()
        yield image, five_from_boxes(boxes[:1])[0]
        return
    for photo in photos:
        image = load_image(photo)
        height, width = image.shape[:2]
        yield image, five_from_boxes(np.float64([[0.15 * width, 0.1 * height, 0.85 * width, 0.9 * height]]))[0]


def drawn_photo() -> tuple[np.ndarray, np.ndarray]:
    """A photo (480, 640, 3) uint8 RGB with texture and a dozen drawn faces, which detectors find, and their boxes
    (12, 4), largest first.
    """
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(60, 200, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    boxes = []
    for k, side in enumerate(np.geomspace(130, 40, 12)):
        x, y, r = 80 + 160 * (k % 4), 80 + 160 * (k // 4), int(side / 2)
        cv2.ellipse(image, (x, y), (int(0.75 * r), r), 0, 0, 360, (205, 160, 130), -1, cv2.LINE_AA)
        for dx in (-1, 1):
            cv2.circle(image, (x + dx * r // 3, y - r // 5), max(1, r // 9), (40, 25, 20), -1, cv2.LINE_AA)
        cv2.ellipse(image, (x, y + r // 2), (r // 3, max(1, r // 10)), 0, 0, 360, (140, 60, 60), -1, cv2.LINE_AA)
        boxes.append([x - 0.75 * r, y - r, x + 0.75 * r, y + r])
    return image, np.float64(boxes)
