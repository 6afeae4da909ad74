r"""How long boxes and head poses of a 640x480 photo take: MOS beside RetinaFace with a pose fitted to points (Table 4).

    python benchmarks/time_pose.py --model mos_mobilenet0.25_fc26 \
        --json benchmarks/results/latency/pose_mos_mobilenet0.25_fc26.json
    python benchmarks/time_pose.py --model mos_mobilenet0.25_fc26 --weights runs/mos/best.params --engines mxnet

Three ways, the detectors of the same backbone:

  mos     MOS: one network gives the pose, too
  points  RetinaFace, and a pose fitted to the five points of each face ("RetinaFace + PnP"; `gluonface.pose.fit_pose`)
  dense   RetinaFace, a landmark net on each face, and a pose fitted to its 68 points

The photos show 1, 5 and 20 faces: scikit-image's astronaut, pasted side by side. A measurement goes from the photo in
memory (already 640x480: no decoding of files, no scaling) to `Faces` with poses: normalisation, network, decoding,
suppression, pose. The ways take turns in one process, so that a machine that slows down slows all of them; medians are
given, and as ratio the median over the turns of the time of MOS over that of another way. A process for each engine
and number of threads: MXNet, and artefacts compiled for this machine (`gluonface.deploy`, extra deploy; kept in
--artefacts; of shipped weights only). A way that an engine does not have is left out, with the reason. Three minutes
with MXNet alone on two idle cores.

The paper has, on an RTX 2060, 10.8 ms for MOS-S and 7.2 ms for RetinaFace-M + PnP: a ratio of 1.5.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from common import in_own_process, provenance, rounded, run, table, time_in_turns, write_result
from crowd import FACE_BOX, astronaut
from detectors import build_detector

from gluonface.errors import GluonFaceError, InputError
from gluonface.faces import Faces
from gluonface.model_zoo import model_facts
from gluonface.pose import fit_pose

SIZE_HW = (480, 640)
#: Way -> words.
WAYS = {"mos": "MOS", "points": "RetinaFace, fit to 5 points", "dense": "RetinaFace, landmark net, fit to 68 points"}
ENGINES = ("mxnet", "artefact")
#: What the paper measured, in milliseconds.
PAPER = {"mos": 10.8, "points": 7.2, "where": "MOS-S beside RetinaFace-M, RTX 2060 (Liu et al. 2021, Table 4)"}
_WARM_UP = 2


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.worker:
        job = json.loads(args.worker)
        write_result(job["out"], work(job))
        return 0
    names = {"mos": args.model, "beside": args.beside, "landmarks": args.landmarks}
    runs, left_out = [], {}
    for engine in args.engines:
        artefacts = {}
        if engine == "artefact":
            artefacts, reasons = compiled_nets(names, args)
            left_out |= reasons
            if not artefacts:
                continue
        for threads in args.threads:
            job = {**names, "engine": engine, "threads": threads, "artefacts": artefacts, "faces": args.faces}
            job |= {"weights": args.weights, "facts_of": args.facts_of, "root": args.root, "rounds": args.rounds}
            done = measure(job)
            runs += done["runs"]
            left_out |= done["left_out"]
    result = {
        "model": args.model,
        "beside": args.beside,
        "landmarks": args.landmarks,
        "size_hw": list(SIZE_HW),
        "weights": Path(args.weights).name if args.weights else _weights(args.model, args.root),
        "rounds": args.rounds,
        "runs": runs,
        "left_out": left_out,
        "paper": PAPER,
    }
    result = rounded({**result, **provenance(argv)}, 3)
    print(describe(result))
    if args.json:
        write_result(args.json, result)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mos_mobilenet0.25_fc26", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--weights", metavar="FILE", help="run these weights of --model instead of the shipped ones")
    parser.add_argument("--facts-of", metavar="NAME", help="with --weights: whose mean and std they were trained with")
    parser.add_argument(
        "--beside",
        default="retinaface_mobilenet0.25_fc26",
        metavar="NAME",
        help="detector of the same backbone (default: %(default)s)",
    )
    parser.add_argument(
        "--landmarks",
        default="heatmap_mobilenetv2_0.25_sssd_fc26",
        metavar="NAME",
        help="net of 68 points (default: %(default)s)",
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="(default: both)")
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 5, 20], metavar="N", help="(default: 1 5 20)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="turns of each way (default: 30)")
    parser.add_argument(
        "--artefacts", type=Path, default=Path("out/deploy"), metavar="DIR", help="(default: out/deploy)"
    )
    parser.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.rounds, *args.threads, *args.faces) < 1:
        parser.error("--rounds, --threads and --faces are at least 1")
    return args


def _weights(model: str, root: str | None) -> str:
    return "shipped" if model_facts(model, root).trained else "random"


def photo_of(count: int) -> np.ndarray:
    """A photo (480, 640, 3) uint8 of so many faces, the astronaut's, on a grid."""
    height, width = SIZE_HW
    columns = int(np.ceil(np.sqrt(count * width / height)))
    side = min(width // columns, height // -(-count // columns))
    (left, top), (right, bottom) = FACE_BOX[:2], FACE_BOX[2:]
    half, middle = 0.8 * (bottom - top), ((left + right) / 2, (top + bottom) / 2)
    x, y = (max(0, round(centre - half)) for centre in middle)
    head = astronaut()[y : y + round(2 * half), x : x + round(2 * half)]
    head = cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA)
    photo = np.full((height, width, 3), 120, np.uint8)
    for i in range(count):
        row, column = divmod(i, columns)
        photo[row * side : (row + 1) * side, column * side : (column + 1) * side] = head
    return photo


# ---- artefacts -------------------------------------------------------------------------------------------------------


def compiled_nets(names: dict[str, str], args: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Artefacts of the nets, and why what is not there is not."""
    paths, reasons = {}, {}
    for role, name in names.items():
        try:
            paths[role] = str(compiled_net(name, role, args))
        except GluonFaceError as error:
            reasons[f"artefact of {name}"] = str(error)
    return paths, reasons


def compiled_net(name: str, role: str, args: argparse.Namespace) -> Path:
    """The artefact of a net with its shipped weights, compiled unless the very same is there."""
    from deploy import compiled

    facts = model_facts(name, args.root)
    if not facts.trained or (role == "mos" and args.weights):
        raise InputError("only nets whose weights ship are compiled")
    sizes = [(facts.size, facts.size)] if facts.task == "landmarks" else [SIZE_HW]
    options = {"target": "native", "records": "shipped", "artefacts": args.artefacts, "root": args.root}
    return compiled(name, sizes, [1], argparse.Namespace(**options))


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(job: dict) -> dict:
    """Call `work` in a process of its own: the number of threads is read when it starts."""
    return in_own_process(__file__, job)


def work(job: dict) -> dict:
    """``runs`` and ``left_out`` of one engine and number of threads."""
    cv2.setNumThreads(job["threads"])
    left_out, runs = {}, []
    ways = (mxnet_ways if job["engine"] == "mxnet" else artefact_ways)(job)
    for name in list(ways):
        faces = ways[name](photo_of(1))
        if len(faces) and faces.pose is None:
            left_out[f"{job['engine']}: {WAYS[name]}"] = "gives no pose"
            del ways[name]
    for count in job["faces"]:
        runs.append({"engine": job["engine"], "threads": job["threads"], "faces": count})
        runs[-1] |= take_turns(ways, photo_of(count), job["rounds"])
    return {"runs": runs, "left_out": left_out}


def mxnet_ways(job: dict) -> dict[str, Callable[[np.ndarray], Faces]]:
    from gluonface import FaceAnalyzer, get_model

    def net(name: str, weights: str | None = None, facts_of: str | None = None):
        if weights:
            options = {"model": name, "weights": weights, "facts_of": facts_of, "insightface": None}
            return build_detector(argparse.Namespace(**options, root=job["root"]))[0]
        trained = model_facts(name, job["root"]).trained
        made = get_model(name, pretrained=trained, root=job["root"])
        if not trained:
            made.initialize()
        made.hybridize()
        return made

    mos, beside = net(job["mos"], job["weights"], job["facts_of"]), net(job["beside"])
    options = {"size": SIZE_HW, "batch_size": 1}
    dense = FaceAnalyzer(beside, landmarks=net(job["landmarks"]), **options)
    return ways_of(FaceAnalyzer(mos, **options), FaceAnalyzer(beside, **options), dense)


def artefact_ways(job: dict) -> dict[str, Callable[[np.ndarray], Faces]]:
    from gluonface.deploy import runtime

    paths, threads = job["artefacts"], job["threads"]
    opened = {"mos": None, "beside": None, "dense": None}
    for role in ("mos", "beside"):
        if role in paths:
            opened[role] = runtime.load(paths[role], threads=threads, batch_size=1)
    if {"beside", "landmarks"} <= set(paths):
        opened["dense"] = runtime.load(paths["beside"], landmarks=paths["landmarks"], threads=threads, batch_size=1)
    return ways_of(**opened)


def ways_of(mos, beside, dense) -> dict[str, Callable[[np.ndarray], Faces]]:
    """Each way as a function of a photo; None stands for an analyzer that is not there."""
    ways = {
        "mos": mos,
        "points": beside and (lambda photo: fitted(beside(photo), "landmarks5")),
        "dense": dense and (lambda photo: fitted(dense(photo), "landmarks")),
    }
    return {name: way for name, way in ways.items() if way is not None}


def fitted(faces: Faces, part: str) -> Faces:
    """Faces with the pose that fits some of their points."""
    points = getattr(faces, part)
    count = {"landmarks5": 5, "landmarks": 68}[part]
    pose = fit_pose(np.zeros((0, count, 2)) if points is None else points)[0]
    return faces.with_(pose=pose)


def take_turns(ways: dict[str, Callable], photo: np.ndarray, rounds: int) -> dict:
    """``median_ms`` of each way, ``ratio`` of MOS to each other way, and how many faces each found."""
    taken, found = time_in_turns(ways, photo, _WARM_UP, rounds)
    ratio = {}
    if "mos" in taken:
        others = [name for name in taken if name != "mos"]
        ratio = {name: statistics.median(a / b for a, b in zip(taken["mos"], taken[name])) for name in others}
    return {
        "median_ms": {name: statistics.median(each) for name, each in taken.items()},
        "ratio": ratio,
        "found": found,
    }


def describe(result: dict) -> str:
    """The result as text."""
    rows = [
        ("engine", "threads", "faces", *(f"{words}, ms" for words in WAYS.values()), "MOS over 5", "over 68", "found")
    ]
    for one in result["runs"]:
        cells = [one["engine"], str(one["threads"]), str(one["faces"])]
        cells += [_number(one["median_ms"], name, 1) for name in WAYS]
        cells += [_number(one["ratio"], name, 2) for name in ("points", "dense")]
        rows.append((*cells, " ".join(map(str, one["found"].values()))))
    lines = [
        f"{result['model']} ({result['weights']} weights) beside {result['beside']}, 640 wide, 480 high",
        table(rows),
    ]
    lines += [f"{what} is left out: {why}" for what, why in result["left_out"].items()]
    paper = result["paper"]
    lines.append(f"paper: {paper['mos']} and {paper['points']} ms, {paper['where']}")
    return "\n".join(lines)


def _number(values: dict, name: str, digits: int) -> str:
    return f"{values[name]:.{digits}f}" if name in values else "-"


if __name__ == "__main__":
    run(main)
