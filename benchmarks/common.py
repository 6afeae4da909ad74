"""What the scripts of this folder share: where and on what a figure was measured, JSON, tables, pictures."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

import gluonface
from gluonface.data import FaceSample
from gluonface.deploy.runtime.machine import processor_name
from gluonface.errors import DataError, GluonFaceError
from gluonface.files import write_atomically
from gluonface.geometry import warp_image, warp_points

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

# The collections of the corpus FC26, in words that can stand beside a figure.
_COLLECTIONS = {
    "mask": "mask street photos",
    "helen": "Helen portraits",
    "lfpw": "LFPW portraits",
    "ytf": "YouTube Faces frames",
    "imagenet": "ImageNet photos",
}


def run(main) -> None:
    """Call a script's main; an error of the package is one line on standard error and exit status 1."""
    try:
        sys.exit(main())
    except GluonFaceError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(1)


def describe_domain(data: str | os.PathLike, sources: set[str], photos: int, faces: int) -> str:
    """What the photos are, in words: "mask street photos (FC26 det_val, 100 photos, 468 faces)"."""
    name = Path(data).stem
    words = sorted(_COLLECTIONS.get(source, source) for source in sources)
    if sources and sources <= set(_COLLECTIONS):
        name = f"FC26 {name}"
    return f"{', '.join(words) or 'photos'} ({name}, {photos} photos, {faces} faces)"


def describe_photos(data: str | os.PathLike, samples: Sequence[FaceSample], faces: int | None = None) -> str:
    """`describe_domain` of annotated photos; ``faces`` are those that count, by default all that are not ignored."""
    if faces is None:
        faces = int(sum((~sample.faces.ignore).sum() for sample in samples))
    return describe_domain(data, {sample.source for sample in samples if sample.source}, len(samples), faces)


def in_own_process(script: str, job: dict) -> dict:
    """What a script's ``--worker JOB`` writes to the job's ``out``, in a process of its own: the number of threads, the
    job's ``threads``, is read when it starts.

    Raises
    ------
    GluonFaceError
        It failed.
    """
    threads = str(job["threads"])
    env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, script, "--worker", json.dumps({**job, "out": str(out)})]
        status = subprocess.run(command, env=env).returncode
        if status:
            raise GluonFaceError(f"the measuring process ended with status {status}; its message is above")
        return read_result(out)


def time_in_turns(
    ways: dict[str, Callable], photo: np.ndarray, warm_up: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of each round that each way takes for a photo, the first rounds left out, and how many faces it
    gave; they take turns, so that a busy machine slows all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    given = {}
    for turn in range(warm_up + rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            faces = way(photo)
            if turn >= warm_up:
                taken[name].append(1000 * (time.perf_counter() - start))
            given[name] = len(faces)
    return taken, given


def provenance(argv: Sequence[str] | None) -> dict:
    """Keys ``date``, ``command``, ``versions`` and ``machine`` of a result.

    Absolute paths in the command lose their folders: they say nothing to others.
    """
    words = [Path(word).name if Path(word).is_absolute() else word for word in (sys.argv[1:] if argv is None else argv)]
    # In an interpreter or a worker of a test run there is no script.
    script = f"benchmarks/{Path(getattr(sys.modules['__main__'], '__file__', None) or 'script').name}"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "command": " ".join(["python", script, *words]),
        "versions": {
            "gluonface": gluonface.__version__,
            "mxnet": _version("mxnet", "mxnet-cu112"),
            "numpy": _version("numpy"),
            "python": platform.python_version(),
        },
        "machine": {"cpu": processor_name(), "cores": os.cpu_count()},
    }


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the head, as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def memory_mib() -> float:
    """Resident memory of this process now, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def rounded(value, digits: int = 5):
    """Floats to so many decimals, NaN and infinity to None (JSON has neither), in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    return value


def write_result(path: str | os.PathLike, result: dict) -> None:
    """Write a result as JSON: a key a line, the lists of ``per_photo`` and ``per_face`` on one line each."""
    lines = []
    for key, value in result.items():
        if key in ("per_photo", "per_face"):
            inner = [f"  {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items()]
            text = "{\n" + ",\n".join(inner) + "\n }"
        else:
            text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False).replace("\n", "\n ")
        lines.append(f" {json.dumps(key)}: {text}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_result(path: str | os.PathLike) -> dict:
    """Read what :func:`write_result` wrote; DataError names the file."""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(result, dict):
        raise DataError(f"{path}: expected a result (a JSON object), got a {type(result).__name__}")
    return result


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text: the first column flush left, the others flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    )


def figure(value: float | None, digits: int = 3) -> str:
    """``.867``; a dash where nothing was measured."""
    if value is None or not math.isfinite(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def size_in_words(size: int | str) -> str:
    """A size as results keep it: of the long side, of a canvas (``"480x640"``), or the photo's own (``"stored"``)."""
    if size == "stored":
        return "stored size"
    return f"canvas {size}" if "x" in str(size) else f"long side {size}"


def looked_at(result: dict) -> str:
    """How the photos of a detection result were looked at, in words."""
    if "scales" in result:
        words = "short sides " + ", ".join(map(str, result["scales"]))
    elif "long_sides" in result:
        words = "long sides " + ", ".join(map(str, result["long_sides"]))
    elif result["size"] is None:
        return "detections from a file"
    else:
        words = size_in_words(result["size"])
    words += " and mirrored" if result["flip"] else ""
    if result.get("proposals"):
        words += ", proposals alone"
    if "box_style" in result:
        words += f", {result['box_style']} boxes"
    return words + (f", boxes by {result['box_mapping']}" if "box_mapping" in result else "")


def zoomed(image, face, middle, scale: float, size: int):
    """A square part of a photo and the face on it, enlarged before it is drawn on, so that dots and lines stay fine.

    Parameters
    ----------
    image : (H, W, 3) uint8
    face : Faces
        Of length 1.
    middle : (2,) of the photo, which comes to lie in the middle of the part
    scale : float
        Pixels of the part a pixel of the photo.
    size : int
        Side of the part in pixels.

    Returns
    -------
    ((size, size, 3) uint8, Faces)
    """
    matrix = np.column_stack([np.eye(2) * scale, size / 2 - scale * np.asarray(middle)])
    # Dense landmarks stand for themselves; the detector's five would lie over them.
    kind = "landmarks5" if face.landmarks is None else "landmarks"
    points = getattr(face, kind)
    placed = {"landmarks5": None, kind: None if points is None else warp_points(matrix, points)}
    boxes = warp_points(matrix, face.boxes.reshape(1, 2, 2)).reshape(1, 4)
    moved = face.with_(boxes=boxes, size_hw=(size, size), **placed)
    return warp_image(image, matrix, moved.size_hw), moved


def new_figure(**size):
    """A matplotlib figure that needs no screen."""
    from gluonface._compat import import_optional

    return import_optional("matplotlib.figure", "bench").Figure(layout="constrained", **size)


def save_figure(drawing, path: str | os.PathLike) -> None:
    """Write a matplotlib figure whole; the suffix says the format."""
    from gluonface.files import replacing

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        drawing.savefig(temporary, dpi=110)
