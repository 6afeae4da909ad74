"""How long a photo takes, and in what: decoding, pre-processing, network, post-processing; and the memory at its peak.

    python benchmarks/latency.py --model retinaface_mobilenet0.25_fc26 --size 640
    python benchmarks/latency.py --model A B --threads 1 2 --batch 1 16 --repeats 15 --json out/latency.json
    python benchmarks/latency.py --model A B --engine mxnet artefact --static --size 256x256 --batch 1 32

Each combination of model, engine, threads and batch is a process of its own (MXNet reads OMP_NUM_THREADS when it
starts). They take turns, one measurement each a round, so that a machine that slows down or is busy slows all of them;
medians are given. Two minutes for one model with the defaults on two idle cores. On the CPU.

  decode       a JPEG in memory to RGB (1280x960 drawn by this script, unless --photo names a file)
  preprocess   onto the canvas, normalised, stacked to a batch
  network      raw predictions, ``net.network``
  postprocess  boxes and points decoded, non-maximum suppression, `Faces`
  total        ``FaceAnalyzer`` from JPEG to `Faces`, measured by itself: a little more or less than the sum

All models look at the photo on a canvas of the same size, and "network/s" are photos a second of network alone, to
compare models by. With --static MXNet plans the memory of a net once (hybridize: static_alloc, static_shape), which
`FaceAnalyzer` does not for nets it loads itself, as it starts a batch before it has read the results of the one before.

The engine "artefact" is the detector compiled by TVM for this machine, with the shipped schedules, which takes minutes
before measuring starts. Its preprocess is the canvas alone, its network all that is compiled: normalising, decoding and
suppression, too. It is left out where TVM is missing. Compiled landmark nets: see deploy.py.

Of a landmark net, a batch is so many faces of one photo, known by five points: decode is left out (0), preprocess is
aligning and cropping, postprocess reading the heatmaps and the way back to the photo, total ``LandmarkPredictor`` from
the decoded photo and points to landmarks, in one pass, not mirrored. --size does not matter: crops have one.

A model without shipped weights is measured with random ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

import numpy as np
from common import provenance, rounded, run, table, write_result
from detectors import parse_size

from gluonface import get_model
from gluonface.errors import InputError
from gluonface.model_zoo import model_facts
from gluonface.processor import peak_memory_mib

ENGINES = ("mxnet", "artefact")
STAGES = ("decode", "preprocess", "network", "postprocess", "total")
_WARM_UP = 2


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.worker:
        job = json.loads(args.worker)
        (compile_net if "compile_to" in job else work)(job)
        return 0
    photo = Path(args.photo).read_bytes() if args.photo else drawn_photo()
    size = args.size if isinstance(args.size, (int, type(None))) else list(args.size)
    left_out = {}
    if "artefact" in args.engine and util.find_spec("tvm") is None:
        left_out["artefact"] = 'TVM is not installed: pip install "gluonface[deploy]"'
        print(f"artefact: left out, {left_out['artefact']}")
    engines = [engine for engine in args.engine if engine not in left_out]
    with tempfile.TemporaryDirectory() as folder:
        artefacts = {}
        if "artefact" in engines:
            artefacts = {model: compiled(model, Path(folder) / model, args) for model in args.model}
        jobs = [
            {
                "model": model,
                "engine": engine,
                "artefact": artefacts.get(model) if engine == "artefact" else None,
                "static": args.static,
                "threads": threads,
                "batch": batch,
                "size": size,
                "root": args.root,
            }
            for model in args.model
            for engine in engines
            for threads in args.threads
            for batch in args.batch
        ]
        runs = measure(jobs, photo, args.repeats)
    print(describe(runs))
    if args.json:
        result = {
            "models": args.model,
            "size": "stored" if size is None else size,
            "photo": Path(args.photo).name if args.photo else "drawn, JPEG 1280x960",
            "repeats": args.repeats,
            "static": args.static,
            "left_out": left_out,
            **provenance(argv),
            "runs": [one for one in runs if one["engine"] == "mxnet"],
            "compiled": [one for one in runs if one["engine"] == "artefact"],
        }
        if result["compiled"]:
            result["versions"]["tvm"] = metadata.version("apache-tvm")
        write_result(args.json, rounded(result, 3))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", metavar="NAME", help="models (see `gluonface models`)")
    parser.add_argument(
        "--size",
        type=parse_size,
        default=640,
        metavar="N|HxW|stored",
        help="long side of the photo in pixels (default: 640), a canvas, or its own size",
    )
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=ENGINES,
        default=["mxnet"],
        metavar="ENGINE",
        help="mxnet, artefact (default: mxnet)",
    )
    parser.add_argument("--static", action="store_true", help="let MXNet plan the memory of a net once")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], metavar="N", help="photos (default: 1 16)")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="measurements of each (default: 15)")
    parser.add_argument("--photo", metavar="FILE", help="photo to look at instead of a drawn one")
    parser.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not args.worker and not args.model:
        parser.error("give a --model")
    if min(args.repeats, *args.threads, *args.batch) < 1:
        parser.error("--repeats, --threads and --batch are at least 1")
    if "artefact" in args.engine and args.size is None:
        parser.error("--size stored has no meaning for a compiled net")
    return args


def drawn_photo() -> bytes:
    """A JPEG of 1280x960 with texture and 40 drawn faces of 16 to 200 pixels."""
    import cv2

    from gluonface.image import encode_image

    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(60, 200, (24, 32, 3), np.uint8), (1280, 960), interpolation=cv2.INTER_CUBIC)
    for side in np.geomspace(200, 16, 40):
        x, y, r = int(rng.uniform(0, 1280)), int(rng.uniform(0, 960)), int(side / 2)
        cv2.ellipse(image, (x, y), (int(0.75 * r), r), 0, 0, 360, (205, 160, 130), -1, cv2.LINE_AA)
        for dx in (-1, 1):
            cv2.circle(image, (x + dx * r // 3, y - r // 5), max(1, r // 9), (40, 25, 20), -1, cv2.LINE_AA)
        cv2.ellipse(image, (x, y + r // 2), (r // 3, max(1, r // 10)), 0, 0, 360, (140, 60, 60), -1, cv2.LINE_AA)
    return encode_image(image, "JPEG", quality=90)


def new_net(model: str, root: str | None):
    """A model with its weights or, where there are none, with random ones."""
    trained = model_facts(model, root).trained
    net = get_model(model, pretrained=trained, root=root)
    if not trained:
        net.initialize()
    return net


def compiled(model: str, out: Path, args: argparse.Namespace) -> str:
    """The artefact of a detector, with a function for each batch.

    It is compiled by a process of its own: Linux counts the memory of the one that starts them to the peak of workers.
    """
    if model_facts(model, args.root).task != "detection":
        raise InputError(f"expected detectors for the engine artefact, got {model}: deploy.py measures landmark nets")
    print(f"compiling {model}", flush=True)
    sizes, batches = [args.size], sorted(set(args.batch))
    job = {"model": model, "compile_to": str(out), "sizes": sizes, "batches": batches, "root": args.root}
    done = subprocess.run([sys.executable, __file__, "--worker", json.dumps(job)], check=False)
    if done.returncode:
        raise SystemExit(f"latency.py: {model} was not compiled; the message is above")
    return str(out)


def measure(jobs: list[dict], photo: bytes, repeats: int) -> list[dict]:
    """A process for each job; they take turns. Returns what the JSON holds of each."""
    workers = []
    try:
        for job in jobs:
            threads = str(job["threads"])
            env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
            command = [sys.executable, __file__, "--worker", json.dumps(job)]
            workers.append(subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            workers[-1].stdin.write(len(photo).to_bytes(4, "big") + photo)
        samples = [[] for _ in jobs]
        for turn in range(_WARM_UP + repeats):
            for worker, taken in zip(workers, samples):
                answer = ask(worker)
                if turn >= _WARM_UP:
                    taken.append(answer)
        return [summary(job, taken, ask(worker, "end")) for job, worker, taken in zip(jobs, workers, samples)]
    finally:
        for worker in workers:
            worker.stdin.close()
            worker.wait()


def ask(worker: subprocess.Popen, word: str = "go") -> dict:
    """One line to a worker and one back."""
    try:
        worker.stdin.write(f"{word}\n".encode())
        worker.stdin.flush()
    except BrokenPipeError:
        pass  # it died; that it says nothing more is the error
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"latency.py: a measuring process ended with status {worker.wait()}; its message is above")
    return json.loads(line)


def summary(job: dict, samples: list[dict], last: dict) -> dict:
    """Medians of the samples of a job, milliseconds a batch."""
    medians = {stage: 1000 * statistics.median(sample[stage] for sample in samples) for stage in STAGES}
    totals = [1000 * sample["total"] for sample in samples]
    return {
        "model": job["model"],
        "engine": job["engine"],
        "weights": last["weights"],
        "threads": job["threads"],
        "batch": job["batch"],
        "median_ms": medians,
        "total_ms_10_to_90": [float(np.percentile(totals, q)) for q in (10, 90)],
        "photos_per_second": 1000 * job["batch"] / medians["total"],
        "network_photos_per_second": 1000 * job["batch"] / medians["network"],
        "peak_memory_mib": last["peak_memory_mib"],
        "faces": last["faces"],
    }


def compile_net(job: dict) -> None:
    """The compiling process."""
    from gluonface.deploy.build import compile_model

    net = new_net(job["model"], job["root"])
    sizes = [tuple(size) if isinstance(size, list) else size for size in job["sizes"]]
    compile_model(net, job["compile_to"], sizes=sizes, batches=job["batches"], root=job["root"])


def work(job: dict) -> None:
    """The measuring process: a photo on standard input, then a line for each measurement asked for."""
    import cv2

    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    photo = commands.read(int.from_bytes(commands.read(4), "big"))
    cv2.setNumThreads(job["threads"])
    if job["engine"] == "artefact":
        measured = Compiled(job, photo)
    else:
        net = new_net(job["model"], job["root"])
        net.hybridize(static_alloc=job["static"], static_shape=job["static"])
        measured = (Detection if net.facts.task == "detection" else Landmarks)(net, job, photo)
    for command in commands:
        if command.strip() == b"end":
            weights = "shipped" if measured.facts.trained else "random"
            answer = {"weights": weights, "peak_memory_mib": peak_memory_mib(), "faces": measured.faces}
        else:
            answer = measured.once()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Detection:
    """A detector looking at the photo, as often as the batch is large."""

    def __init__(self, net, job: dict, photo: bytes):
        from gluonface import FaceAnalyzer

        self.net, self.facts, self.photos = net, net.facts, [photo] * job["batch"]
        size = tuple(job["size"]) if isinstance(job["size"], list) else job["size"]
        self.analyzer = FaceAnalyzer(net, size=size, batch_size=job["batch"])
        self.faces = 0

    def once(self) -> dict:
        """Seconds of each stage."""
        from gluonface import load_image
        from gluonface._compat import mx
        from gluonface.analysis import postprocess, preprocess

        clock = [time.perf_counter()]
        images = [load_image(data) for data in self.photos]
        clock.append(time.perf_counter())
        box = self.analyzer.letterbox_for(images[0].shape[:2])
        x = np.empty((len(images), 3, *box.canvas_hw), np.float32)
        for image, out in zip(images, x):
            preprocess(image, box, self.facts, out)
        clock.append(time.perf_counter())
        for output in self.net.network(mx.nd.from_numpy(x)):
            output.wait_to_read()
        clock.append(time.perf_counter())
        outputs = self.analyzer.detect_canvas(x, self.analyzer.score_thresh)
        clock.append(time.perf_counter())
        postprocess(outputs, [box] * len(images), self.analyzer.score_thresh)
        clock.append(time.perf_counter())
        self.faces = len(self.analyzer(self.photos)[0])
        clock.append(time.perf_counter())
        decode, pre, network, whole_net, to_faces, total = np.diff(clock).tolist()
        return dict(zip(STAGES, (decode, pre, network, whole_net - network + to_faces, total)))


class Compiled:
    """A compiled detector looking at the photo, as often as the batch is large."""

    def __init__(self, job: dict, photo: bytes):
        from gluonface.deploy import runtime

        self.photos = [photo] * job["batch"]
        size = tuple(job["size"]) if isinstance(job["size"], list) else job["size"]
        self.analyzer = runtime.load(job["artefact"], threads=job["threads"], size=size, batch_size=job["batch"])
        self.facts, self.faces = self.analyzer.facts, 0

    def once(self) -> dict:
        """Seconds of each stage."""
        from gluonface import load_image
        from gluonface.analysis import postprocess
        from gluonface.geometry import apply_letterbox

        analyzer = self.analyzer
        clock = [time.perf_counter()]
        images = [load_image(data) for data in self.photos]
        clock.append(time.perf_counter())
        box = analyzer.letterbox_for(images[0].shape[:2])
        canvases = [apply_letterbox(image, box) for image in images]
        clock.append(time.perf_counter())
        outputs = analyzer._collect(analyzer._forward(canvases, analyzer.score_thresh))
        clock.append(time.perf_counter())
        postprocess(outputs, [box] * len(images), analyzer.score_thresh)
        clock.append(time.perf_counter())
        self.faces = len(analyzer(self.photos)[0])
        clock.append(time.perf_counter())
        return dict(zip(STAGES, np.diff(clock).tolist()))


class Landmarks:
    """A landmark net looking at a batch of faces of 200 pixels on the photo."""

    def __init__(self, net, job: dict, photo: bytes):
        from gluonface import load_image
        from gluonface.alignment import LandmarkPredictor

        self.net, self.facts, self.image, self.faces = net, net.facts, load_image(photo), job["batch"]
        self.predictor = LandmarkPredictor(net, passes=1, batch_size=job["batch"])
        height, width = self.image.shape[:2]
        centres = np.random.default_rng(0).uniform(0.2, 0.8, (job["batch"], 1, 2)) * (width, height)
        self.five = (np.asarray(net.facts.template) - 0.5) * 200 + centres

    def once(self) -> dict:
        """Seconds of each stage."""
        from gluonface._compat import mx
        from gluonface.analysis import align_faces, normalise
        from gluonface.geometry import invert_affine, warp_image, warp_points

        facts = self.facts
        clock = [time.perf_counter()]
        matrices = align_faces(self.five, facts)
        x = np.empty((len(matrices), 3, facts.size, facts.size), np.float32)
        for i, matrix in enumerate(matrices):
            normalise(warp_image(self.image, matrix, (facts.size, facts.size)), facts, x[i])
        clock.append(time.perf_counter())
        self.net.network(mx.nd.from_numpy(x)).wait_to_read()
        clock.append(time.perf_counter())
        points = self.net(mx.nd.from_numpy(x))[0].asnumpy()
        clock.append(time.perf_counter())
        for matrix, found in zip(matrices, points):
            warp_points(invert_affine(matrix), found)
        clock.append(time.perf_counter())
        self.predictor.from_points([self.image], [self.five])
        clock.append(time.perf_counter())
        pre, network, whole_net, back, total = np.diff(clock).tolist()
        return dict(zip(STAGES, (0.0, pre, network, whole_net - network + back, total)))


def describe(runs: list[dict]) -> str:
    """The runs as a table, milliseconds a batch."""
    stages = (f"{stage} ms" for stage in STAGES)
    rows = [("model", "engine", "threads", "batch", *stages, "network/s", "photos/s", "peak MiB")]
    for one in runs:
        medians = (f"{one['median_ms'][stage]:.1f}" for stage in STAGES)
        rows.append(
            (
                one["model"],
                one["engine"],
                str(one["threads"]),
                str(one["batch"]),
                *medians,
                f"{one['network_photos_per_second']:.1f}",
                f"{one['photos_per_second']:.1f}",
                f"{one['peak_memory_mib']:.0f}",
            )
        )
    return table(rows)


if __name__ == "__main__":
    run(main)
