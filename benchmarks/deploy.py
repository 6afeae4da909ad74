"""Compiled artefacts beside other engines: speed, accuracy, agreement with MXNet, for each trained net and size.

    python benchmarks/deploy.py                # an hour or so on two idle cores
    python benchmarks/deploy.py --data facedata/det_val.jsonl --landmarks facedata/lmk_val.jsonl
    python benchmarks/deploy.py --model retinaface_mobilenet0.25_mask --size 480x640 --threads 1 --results out/short

Each net is compiled for this machine (once, into --artefacts, as long as compiler and weights stay the same) and
measured by `gluonface.deploy.bench`, whose words hold here: the engines take turns in one run, network alone means the
raw predictions, of the artefact all that it does. Engines that cannot run here are left out, with the reason. Detectors
are measured at 640x640 and, as 640 wide and 480 high, at 480x640; landmark nets on their crop.

With --data every engine looks at all photos: AP, and the faces of the artefact beside those of MXNet. They agree where
boxes and points are within 0.5 pixels of the photo, scores within .001 and angles within 0.1 degrees; a face may be
missing on one side only if its score is within .001 of the threshold. Landmark nets look at the faces that the default
detector finds there, and with --landmarks at the labelled boxes: NME over the distance of the outer eye corners. The
exit status is 1 when an artefact does not agree with MXNet.

A result a net and size goes to benchmarks/results/deploy/, from which make_tables.py writes the tables.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import (
    RESULTS,
    describe_domain,
    new_figure,
    provenance,
    read_result,
    rounded,
    run,
    save_figure,
    table,
    write_result,
)
from detectors import LOW_SCORE, parse_size
from eval_detection import read_photos
from eval_landmarks import read_labelled, score, sizes_of

import gluonface
from gluonface import FaceAnalyzer
from gluonface.data import FaceSample, read_jsonl
from gluonface.deploy import bench as benching
from gluonface.deploy import engines, runtime
from gluonface.deploy.artifact import installed_versions
from gluonface.metrics import evaluate_detections
from gluonface.model_zoo import list_models, model_facts
from gluonface.model_zoo.store import weight_folders

#: Height and width at which detectors are measured.
DETECTOR_SIZES = ((480, 640), (640, 640))
#: Photos in memory at once.
_AT_ONCE = 8


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.plot_only:
        plot(args.picture, [read_result(path) for path in sorted(args.results.glob("*.json"))])
        return 0
    results = []
    for model in args.model or list_models(pretrained=True, root=args.root):
        for size_hw in sizes_of_model(model, args):
            result = {**measure(model, size_hw, args), **accuracy(model, size_hw, args)}
            about = provenance(argv)
            about["versions"] = {**result.pop("versions"), **about["versions"]}
            result = rounded({**result, **about})
            write_result(args.results / f"{model}-{shape_text(size_hw)}.json", result)
            print(describe(result) + "\n", flush=True)
            results.append(result)
    if args.picture:
        plot(args.picture, results)
    wrong = [f"{r['model']} {shape_text(r['size_hw'])}" for r in results if r["agrees"] is False]
    if wrong:
        print(f"NOT in agreement with MXNet: {', '.join(wrong)}")
    return 1 if wrong else 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", metavar="NAME", help="(default: all that have weights)")
    parser.add_argument(
        "--size", nargs="+", type=parse_size, metavar="N|HxW", help="of detectors (default: 480x640 640x640)"
    )
    others = [name for name in engines.ENGINES if name != "artefact"]
    parser.add_argument(
        "--against", nargs="*", choices=others, default=others, metavar="ENGINE", help=f"(default: {' '.join(others)})"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="turns of each engine (default: 50)")
    parser.add_argument("--seconds", type=float, default=300, metavar="S", help="for each (default: 300)")
    parser.add_argument("--target", default="native", metavar="T", help="(default: native, this machine)")
    parser.add_argument("--records", default="shipped", metavar="FILE|none", help="tuned schedules (default: shipped)")
    parser.add_argument(
        "--artefacts", type=Path, default=Path("out/deploy"), metavar="DIR", help="(default: out/deploy)"
    )
    parser.add_argument("--data", metavar="JSONL", help="annotated photos for AP and agreement")
    parser.add_argument("--landmarks", metavar="JSONL", help="photos with labelled landmarks for NME and agreement")
    parser.add_argument("--photos", type=int, metavar="N", help="look at the first N photos of each only")
    parser.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "deploy", metavar="DIR", help="(default: benchmarks/results/deploy)"
    )
    parser.add_argument("--picture", metavar="PNG", help="draw the times of one thread")
    parser.add_argument("--plot-only", action="store_true", help="draw --picture from the results that are there")
    args = parser.parse_args(argv)
    if min(args.rounds, *args.threads) < 1 or not args.seconds > 0 or (args.photos is not None and args.photos < 1):
        parser.error("--rounds, --threads and --photos are at least 1, --seconds above 0")
    if args.plot_only and not args.picture:
        parser.error("--plot-only draws --picture")
    if None in (args.size or ()):
        parser.error("--size stored has no meaning for compiled nets")
    if (args.data or args.landmarks) and "mxnet" not in args.against:
        parser.error("--data and --landmarks compare with mxnet: leave it in --against")
    return args


def sizes_of_model(model: str, args: argparse.Namespace) -> list[tuple[int, int]]:
    """Height and width of each canvas at which a net is measured."""
    facts = model_facts(model, args.root)
    if facts.task == "landmarks":
        return [(facts.size, facts.size)]
    return [(size, size) if isinstance(size, int) else size for size in args.size or DETECTOR_SIZES]


def shape_text(size_hw: Sequence[int]) -> str:
    return "x".join(map(str, size_hw))


# Artefacts


def compiled(model: str, sizes: Sequence[tuple[int, int]], batches: Sequence[int], args: argparse.Namespace) -> Path:
    """The artefact of a net, compiled unless the very same is there."""
    from gluonface.deploy.build import compile_model

    shapes = "+".join([*map(shape_text, sizes), *(f"b{batch}" for batch in batches)])
    path = args.artefacts / f"{model}-{args.target}-{shapes}-{fingerprint(model, args)}"
    if not path.exists():
        print(f"compiling {path.name}", flush=True)
        compile_model(
            model,
            path,
            target=args.target,
            sizes=sizes,
            batches=batches,
            records=None if args.records == "none" else args.records,
            root=args.root,
        )
    return path


def fingerprint(model: str, args: argparse.Namespace) -> str:
    """Eight digits that change with weights, compiler and records."""
    own = Path(args.records).read_bytes() if Path(args.records).is_file() else args.records.encode()
    return hashlib.sha256(f"{model_facts(model, args.root).sha256} {_compiler()}".encode() + own).hexdigest()[:8]


@functools.cache
def _compiler() -> str:
    """Hash of what compiles, and of the records that come with it, as they were at the first call."""
    package = Path(gluonface.__file__).parent
    sources = [path for path in (package / "deploy").glob("*.py") if path.stem not in ("bench", "engines")]
    digest = hashlib.sha256(" ".join(f"{k} {v}" for k, v in sorted(installed_versions().items())).encode())
    for folder in weight_folders():
        sources += (folder / "tuning").rglob("*.json")
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def growth(model: str, size_hw: tuple[int, int], args: argparse.Namespace) -> int:
    """Bytes that one more shape adds to the library: another canvas of a detector, a batch of 8 of a landmark net."""
    if model_facts(model, args.root).task == "landmarks":
        more = compiled(model, [size_hw], [1, 8], args)
    else:
        other = next(size for size in (*DETECTOR_SIZES, (320, 320)) if size != size_hw)
        more = compiled(model, [size_hw, other], [1], args)
    one, two = (
        runtime.open_artifact(path).library.stat().st_size for path in (compiled(model, [size_hw], [1], args), more)
    )
    return two - one


# Speed


def measure(model: str, size_hw: tuple[int, int], args: argparse.Namespace) -> dict:
    """The keys of a result that tell of speed and size."""
    path, runs, result = compiled(model, [size_hw], [1], args), [], {}
    for threads in args.threads:
        print(f"{model}, {shape_text(size_hw)}, {threads} thread(s)", flush=True)
        result = benching.bench(
            path,
            against=args.against,
            threads=threads,
            rounds=args.rounds,
            seconds=args.seconds,
            root=args.root,
            leave_out=True,
        )
        runs.append(
            {
                key: result[key]
                for key in (
                    *("threads", "rounds", "median_ms", "end_to_end_ms", "ratios", "end_to_end_ratios"),
                    *("gflops", "peak_gflops", "share_of_peak", "peak_memory_mib"),
                )
            }
        )
    result["artefact"]["growth_bytes"] = growth(model, size_hw, args)
    keys = ("start_up", "left_out", "artefact", "max_difference", "versions")
    return {"model": model, "size_hw": list(size_hw), "runs": runs, **{key: result[key] for key in keys}}


# Accuracy


def accuracy(model: str, size_hw: tuple[int, int], args: argparse.Namespace) -> dict:
    """The keys of a result that tell of accuracy: ``accuracy`` (engine -> figures), ``domains``, ``agrees``."""
    figures: dict[str, dict] = {}
    domains: dict[str, str] = {}
    agree: list[bool] = []
    if not (args.data or args.landmarks):
        return {"accuracy": figures, "domains": domains, "agrees": None}
    names = ["mxnet", "artefact", *(name for name in args.against if name != "mxnet")]
    names = [name for name in names if engines.ENGINES[name].unusable() is None]
    facts = model_facts(model, args.root)
    with tempfile.TemporaryDirectory() as folder:
        path = compiled(model, [size_hw], [1], args)
        job = engines.make_job(path, folder, engines=names, root=args.root)
        opened = {name: open_or_none(name, job) for name in names}
        opened = {name: engine for name, engine in opened.items() if engine is not None}
        for engine in opened.values():
            if facts.task == "detection":
                engine.stage.score_thresh = LOW_SCORE
            else:
                engine.stage.passes = "auto"
        if args.data and facts.task == "detection":
            domains["data"] = on_photos(opened, facts, args, figures, agree)
        elif args.data:
            domains["data"] = on_found_faces(opened, args, figures, agree)
        if args.landmarks and facts.task == "landmarks":
            domains["landmarks"] = on_labelled_faces(opened, args, figures, agree)
    return {"accuracy": figures, "domains": domains, "agrees": all(agree) if agree else None}


def open_or_none(name: str, job: engines.Job) -> engines.Engine | None:
    """An engine that does the whole way from photo to faces."""
    if engines.ENGINES[name] is engines.ENGINES["ncnn"]:
        return None  # raw predictions only
    return engines.open_engine(name, job)


def on_photos(opened: dict, facts, args: argparse.Namespace, figures: dict, agree: list[bool]) -> str:
    """AP of each engine, and its faces above the threshold beside MXNet's; returns what the photos are."""
    samples = read_jsonl(args.data)[: args.photos]
    found = {}
    for name, engine in opened.items():
        found[name] = list(engine.stage.stream(read_photos(samples)))
        scored = evaluate_detections(found[name], [sample.faces for sample in samples])
        figures.setdefault(name, {}).update(ap50=scored["ap50"], ap=scored["ap"])
    shown = {name: [f[f.scores >= facts.score_thresh] for f in faces] for name, faces in found.items()}
    for name, faces in shown.items():
        if name != "mxnet":
            note_agreement(name, faces, shown["mxnet"], samples, facts.score_thresh, figures, agree)
    return describe_domain(args.data, *counts(samples))


def on_found_faces(opened: dict, args: argparse.Namespace, figures: dict, agree: list[bool]) -> str:
    """Landmarks of the faces that the default detector finds, beside MXNet's."""
    samples = read_jsonl(args.data)[: args.photos]
    detector = FaceAnalyzer(root=args.root)
    faces: dict[str, list] = {name: [] for name in opened}
    photos = read_photos(samples)
    while images := list(itertools.islice(photos, _AT_ONCE)):
        detected = detector(images)
        for name, engine in opened.items():
            faces[name] += engine.stage(images, detected)
    for name, found in faces.items():
        if name != "mxnet":
            note_agreement(name, found, faces["mxnet"], samples, detector.score_thresh, figures, agree)
    return describe_domain(args.data, *counts(samples))


def on_labelled_faces(opened: dict, args: argparse.Namespace, figures: dict, agree: list[bool]) -> str:
    """NME of each engine from labelled boxes, for each source of the data, and its points beside MXNet's."""
    samples = read_labelled(args.landmarks, None, None)[: args.photos]
    points: dict[str, list] = {name: [] for name in opened}
    photos, start = read_photos(samples), 0
    while images := list(itertools.islice(photos, _AT_ONCE)):
        boxes = [sample.faces.boxes for sample in samples[start : start + len(images)]]
        start += len(images)
        for name, engine in opened.items():
            points[name] += engine.stage.from_boxes(images, boxes)[0]
    for name, found in points.items():
        row = figures.setdefault(name, {})
        row["nme"] = {}
        for source in sorted({sample.source or "" for sample in samples}):
            rows = [i for i, sample in enumerate(samples) if (sample.source or "") == source]
            here = [samples[i] for i in rows]
            sizes = np.concatenate([sizes_of("interocular", sample) for sample in here])
            row["nme"][source] = score(here, [found[i] for i in rows], sizes, 0.08).nme
        if name != "mxnet":
            row["labelled_points"] = max(float(np.abs(a - b).max()) for a, b in zip(found, points["mxnet"]))
            if name == "artefact":
                agree.append(row["labelled_points"] <= benching.PIXELS)
    return describe_domain(args.landmarks, *counts(samples))


def note_agreement(name, faces, reference, samples, threshold: float, figures: dict, agree: list[bool]) -> None:
    """Enter how far an engine's faces are from MXNet's."""
    difference = benching.compare_faces(faces, reference)
    row = difference.to_dict()
    row["one_sided"] = [
        {"photo": samples[i].name, "score": value, "found_by": name if side == "first" else "mxnet"}
        for i, value, side in difference.one_sided
    ]
    row["agrees"] = difference.agrees(threshold)
    figures.setdefault(name, {})["beside_mxnet"] = row
    if name == "artefact":
        agree.append(row["agrees"])


def counts(samples: list[FaceSample]) -> tuple[set[str], int, int]:
    sources = {sample.source for sample in samples if sample.source}
    return sources, len(samples), int(sum((~sample.faces.ignore).sum() for sample in samples))


# Words and pictures


def describe(result: dict) -> str:
    """A result as text."""
    artefact, start = result["artefact"], result["start_up"]
    height, width = result["size_hw"]
    lines = [
        f"{result['model']}, {width} wide, {height} high, {result['machine']['cpu']}",
        f"library {artefact['library_bytes'] / 2**20:.2f} MiB, {artefact['growth_bytes'] / 2**20:+.2f} for another "
        f"shape; loaded after {start['ms']:.0f} ms, at most {start['peak_memory_mib'] or float('nan'):.0f} MiB; "
        f"{'tuned' if artefact['tuned'] else 'NOT TUNED'}: {artefact['schedules']}",
    ]
    head = (
        "engine",
        "threads",
        "network ms",
        "ratio",
        "end to end ms",
        "ratio",
        "GFLOP/s",
        "of peak",
        "AP@.5",
        "NME %",
    )
    rows = [(*head, "pixels off", "scores off", "degrees off", "one-sided")]
    for one in result["runs"]:
        for name in one["median_ms"]:
            rows.append((name, str(one["threads"]), *speed_cells(one, name), *accuracy_cells(result, name)))
    lines.append(table(rows))
    lines += [f"{name} is left out: {reason}" for name, reason in result["left_out"].items()]
    return "\n".join(lines)


def speed_cells(one: dict, name: str) -> list[str]:
    cells = [one["median_ms"][name], one["ratios"].get(name), one["end_to_end_ms"].get(name)]
    cells += [one["end_to_end_ratios"].get(name)]
    return [
        *("-" if value is None else f"{value:.2f}" for value in cells),
        f"{one['gflops'][name]:.0f}",
        f"{100 * one['share_of_peak'][name]:.0f} %",
    ]


def accuracy_cells(result: dict, name: str) -> list[str]:
    row = result["accuracy"].get(name, {})
    beside = row.get("beside_mxnet")
    off = [] if beside is None else [beside["boxes"], beside["points"], beside.get("mesh", 0.0)]
    off += [row["labelled_points"]] if "labelled_points" in row else []
    return [
        "-" if "ap50" not in row else f"{row['ap50']:.4f}",
        "-" if "nme" not in row else ", ".join(f"{100 * value:.3f}" for value in row["nme"].values()),
        f"{max(off):.1e}" if off else "-",
        "-" if beside is None else f"{beside['scores']:.1e}",
        f"{beside['pose']:.1e}" if beside is not None and beside.get("pose") else "-",
        "-" if beside is None else str(len(beside["one_sided"])),
    ]


def plot(path: str, results: list[dict]) -> None:
    """Bars of the time of each engine with the fewest threads, network alone, and lines where the whole way ends."""
    drawing = new_figure(figsize=(9, 2.2 * max(1, len(results)) + 0.6))
    names = [name for name in engines.ENGINES if any(name in r["runs"][0]["median_ms"] for r in results)]
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    for axes, result in zip(drawing.subplots(max(1, len(results)), squeeze=False)[:, 0], results):
        one = min(result["runs"], key=lambda each: each["threads"])
        for place, name in enumerate(reversed([name for name in names if name in one["median_ms"]])):
            network, whole = one["median_ms"][name], one["end_to_end_ms"].get(name)
            axes.barh(place, network, color=colours[name], height=0.75)
            label = f"{name.replace('_', ' ')}  {network:.1f}" + (f" / {whole:.1f}" if whole else "")
            axes.annotate(
                label, (max(network, whole or 0), place), (4, 0), textcoords="offset points", va="center", size=8
            )
            if whole:
                axes.plot([whole, whole], [place - 0.38, place + 0.38], color="black", linewidth=1)
        height, width = result["size_hw"]
        threads = f"{one['threads']} thread" + "s" * (one["threads"] > 1)
        title = f"{result['model']}, {width} wide, {height} high, {threads} of {result['machine']['cpu']}"
        axes.set_title(title, size=9)
        longest = max(*one["median_ms"].values(), *one["end_to_end_ms"].values())
        axes.set(yticks=[], xlim=(0, 1.3 * longest))
        axes.grid(axis="x", alpha=0.25)
    drawing.supxlabel("milliseconds: bar the network alone, line from photo to faces", size=9)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
