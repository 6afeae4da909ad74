r"""How long boxes and dense points take with 1 to 500 faces in a photo: one net beside a pipeline of two.

    python benchmarks/time_faces.py --model maskface_mobilenet0.25_fc26 \
        --json benchmarks/results/latency/faces_maskface_mobilenet0.25_fc26.json --picture .../faces.png
    python benchmarks/time_faces.py --model maskface_mobilenet0.25_fc26 --weights runs/maskface/best.params
    python benchmarks/time_faces.py --model retinaface_mobilenet0.25_mesh468_fc26 \
        --json benchmarks/results/latency/faces_retinaface_mobilenet0.25_mesh468_fc26.json --picture .../mesh_faces.png

  maskface   one net; the points of a face are looked for in the maps that its box was found in
  mesh       one net, RetinaFace; a face's mesh, and its pose from it, follow from the vector of the cell that found it
  no_mesh    the same net with box and five points alone (random weights): what is between the two is the meshes'
  two_stage  a detector, and a landmark net on an aligned crop of each face, one crop a face

The photos show so many faces: scikit-image's astronaut, pasted side by side. As many boxes as that are worked on, those
of the highest scores, whether a net takes them for faces or not: so each way has the same work whatever its weights
are, and random ones do. Nothing is suppressed, though what suppression costs for so many boxes is paid. A measurement
goes from the photo in memory (640x480) to `Faces`: normalisation, networks, decoding, alignment. The ways take turns in
one process, so that a machine that slows down slows all; medians are given, and as ratio the median over the turns of
the time of the one net over that of the two. A straight line through the medians (least squares) gives the
milliseconds of a photo and of a face. A process for each number of threads; MXNet. Five minutes on two idle cores.

MaskFace's paper has .11 ms a face on a 2080 Ti (section 4.5), about 1 GF a face (Table 1); RetinaFace's has 22.3 ms a
photo on a P40 (section 4.2), whatever the faces.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from common import (
    in_own_process,
    markdown_table,
    new_figure,
    provenance,
    rounded,
    run,
    save_figure,
    time_in_turns,
    write_result,
)
from time_pose import SIZE_HW, photo_of

from gluonface.faces import Faces
from gluonface.model_zoo import model_facts

#: System of the one net -> way -> words; the one net first, the two last.
WAYS = {
    "maskface": {"maskface": "MaskFace", "two_stage": "detector, landmark net"},
    "retinaface": {
        "mesh": "RetinaFace with meshes",
        "no_mesh": "without meshes",
        "two_stage": "detector, landmark net",
    },
}
#: What the papers measured.
PAPER = {
    "maskface": {"ms_a_face": 0.11, "where": "2080 Ti (Yashunin et al. 2020, section 4.5)"},
    "retinaface": {"ms_a_photo": 22.3, "where": "P40, ResNet-50 (Deng et al. 2020, section 4.2)"},
}
_WARM_UP = 1


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.worker:
        job = json.loads(args.worker)
        write_result(job["out"], {"runs": work(job)})
        return 0
    runs = []
    for threads in args.threads:
        names = {"model": args.model, "detector": args.detector, "landmarks": args.landmarks}
        job = {**names, "threads": threads, "faces": args.faces, "rounds": args.rounds, "root": args.root}
        runs += measure({**job, "weights": args.weights, "channels": args.channels})
    facts = model_facts(args.model, args.root)
    result = {
        "model": args.model,
        "channels": args.channels,
        "detector": args.detector,
        "landmarks": args.landmarks,
        "size_hw": list(SIZE_HW),
        "weights": Path(args.weights).name if args.weights else "shipped" if facts.trained else "random",
        "rounds": args.rounds,
        "runs": runs,
        "lines": [
            {"threads": threads, **lines_of([one for one in runs if one["threads"] == threads])}
            for threads in args.threads
        ],
        "paper": PAPER[facts.system],
    }
    result = rounded({**result, **provenance(argv)}, 3)
    print("\n\n".join(describe(result)))
    if args.json:
        write_result(args.json, result)
    if args.picture:
        plot(args.picture, result)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="maskface_mobilenet0.25_fc26", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--weights", metavar="FILE", help="run these weights of --model instead of the shipped ones")
    parser.add_argument("--channels", type=int, metavar="C", help="of --model (default: the model's)")
    parser.add_argument(
        "--detector",
        default="retinaface_mobilenet0.25_mask",
        metavar="NAME",
        help="first of the two nets (default: %(default)s)",
    )
    parser.add_argument(
        "--landmarks",
        default="heatmap_mobilenetv2_1.0_sdd_fc26",
        metavar="NAME",
        help="second of the two nets (default: %(default)s)",
    )
    parser.add_argument(
        "--faces", type=int, nargs="+", default=[1, 10, 100, 500], metavar="N", help="(default: 1 10 100 500)"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each way (default: 7)")
    parser.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--picture", metavar="PNG", help="draw it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.rounds, *args.threads, *args.faces) < 1:
        parser.error("--rounds, --threads and --faces are at least 1")
    facts = model_facts(args.model, args.root)
    if facts.system not in WAYS or (facts.system == "retinaface" and not facts.variant):
        parser.error(f"--model: expected a MaskFace or a RetinaFace with a mesh, got {args.model}")
    if args.channels and facts.system != "maskface":
        parser.error(f"--channels is for MaskFace, {args.model} has its own")
    return args


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(job: dict) -> list[dict]:
    """Call `work` in a process of its own: the number of threads is read when it starts."""
    return in_own_process(__file__, job)["runs"]


def work(job: dict) -> list[dict]:
    """``runs`` of one number of threads, one for each number of faces."""
    cv2.setNumThreads(job["threads"])
    nets = build_nets(job)
    return [
        {
            "threads": job["threads"],
            "faces": count,
            **take_turns(ways_of(nets, count), photo_of(count), job["rounds"]),
        }
        for count in job["faces"]
    ]


def build_nets(job: dict) -> dict:
    """The nets ``model``, ``detector`` and ``landmarks``, of a model with meshes ``no_mesh``, too; random weights where
    there are none.
    """
    from gluonface import get_model
    from gluonface._compat import mx

    names = {role: job[role] for role in ("model", "detector", "landmarks")}
    options = {"model": {"channels": job["channels"]} if job["channels"] else {}}
    if model_facts(job["model"], job["root"]).variant:
        names["no_mesh"], options["no_mesh"] = job["model"], {"mesh": False}
    nets = {}
    for role, name in names.items():
        own = job["weights"] if role == "model" else None
        # Weights of a net with a mesh do not fit one without.
        trained = role != "no_mesh" and model_facts(name, job["root"]).trained and not own
        net = nets[role] = get_model(name, pretrained=trained, root=job["root"], **options.get(role, {}))
        if own:
            net.load_parameters(own)
        elif not trained:
            mx.random.seed(1)
            net.initialize(mx.init.Xavier())
            if role in ("model", "no_mesh"):
                net.network(mx.nd.zeros((1, 3, 64, 64)))  # shapes that the whole graph of a net with meshes hides
        net.hybridize()
    return nets


def ways_of(nets: dict, count: int) -> dict[str, Callable[[np.ndarray], Faces]]:
    """Each way as a function of a photo, with so many boxes."""
    from gluonface import FaceAnalyzer
    from gluonface.alignment import LandmarkPredictor

    alone = {"mesh": "model", "no_mesh": "no_mesh"} if "no_mesh" in nets else {"maskface": "model"}
    for role in (*alone.values(), "detector"):
        nets[role].set_nms(1.0, count, count, 0.0)
    options = {"size": SIZE_HW, "batch_size": 1, "score_thresh": 0.0}
    # A second crop is for faces that were off; boxes of no face would all have one.
    second = LandmarkPredictor(nets["landmarks"], passes=1)
    return {
        **{way: FaceAnalyzer(nets[role], **options) for way, role in alone.items()},
        "two_stage": FaceAnalyzer(nets["detector"], landmarks=second, **options),
    }


def take_turns(ways: dict[str, Callable], photo: np.ndarray, rounds: int) -> dict:
    """``median_ms`` of each way, ``ratio`` of the one net, the first, to the two, and ``given``, the faces of each."""
    taken, given = time_in_turns(ways, photo, _WARM_UP, rounds)
    ratio = statistics.median(a / b for a, b in zip(taken[next(iter(ways))], taken["two_stage"]))
    return {
        "median_ms": {name: statistics.median(each) for name, each in taken.items()},
        "ratio": ratio,
        "given": given,
    }


def lines_of(runs: Sequence[dict]) -> dict[str, dict]:
    """The straight line through each way's medians: ``ms_a_photo`` and ``ms_a_face``; None of one number of faces."""
    counts, lines = [one["faces"] for one in runs], {}
    for name in runs[0]["median_ms"]:
        face = photo = None
        if len(set(counts)) > 1:
            face, photo = map(float, np.polyfit(counts, [one["median_ms"][name] for one in runs], 1))
        lines[name] = {"ms_a_photo": photo, "ms_a_face": face}
    return lines


# ---- table and picture -----------------------------------------------------------------------------------------------


def describe(result: dict) -> list[str]:
    """The result in Markdown: what was done, and the table."""
    height, width = result["size_hw"]
    machine, paper = result["machine"], result["paper"]
    channels = f" of {result['channels']} channels" if result["channels"] else ""
    ways = words_of(result)
    rows = [["threads", "faces", *(f"{words}, ms" for words in ways.values()), "ratio"]]
    for one in result["runs"]:
        medians = [f"{one['median_ms'][name]:.1f}" for name in ways]
        rows.append([str(one["threads"]), str(one["faces"]), *medians, f"{one['ratio']:.2f}"])
    for line in result["lines"]:
        if all(line[name]["ms_a_face"] is not None for name in ways):
            slopes = [f"{line[name]['ms_a_face']:.2f}" for name in ways]
            rows.append([str(line["threads"]), "each further one", *slopes, ""])
    unit = "face" if "ms_a_face" in paper else "photo"
    return [
        f"Median milliseconds from a photo {width} wide and {height} high in memory to boxes and dense points: "
        f"`{result['model']}`{channels} ({result['weights']} weights) beside `{result['detector']}` with "
        f"`{result['landmarks']}`, taking turns in one process, MXNet; {machine['cpu']}, {machine['cores']} cores. The "
        f"paper's own: {paper[f'ms_a_{unit}']:g} ms a {unit}, {paper['where']}.",
        markdown_table(rows),
    ]


def words_of(result: dict) -> dict[str, str]:
    """The ways that were measured, in words."""
    return WAYS[model_facts(result["model"]).system]


def plot(path: str, result: dict) -> None:
    """Milliseconds over the number of faces, a panel a number of threads."""
    threads = [line["threads"] for line in result["lines"]]
    drawing = new_figure(figsize=(5 * len(threads), 4))
    for i, (count, line) in enumerate(zip(threads, result["lines"])):
        axes = drawing.add_subplot(1, len(threads), i + 1)
        runs = [one for one in result["runs"] if one["threads"] == count]
        for name, words in words_of(result).items():
            slope = line[name]["ms_a_face"]
            text = words if slope is None else f"{words}: {slope:.2f} ms a face"
            axes.plot([one["faces"] for one in runs], [one["median_ms"][name] for one in runs], marker="o", label=text)
        axes.set(xscale="log", yscale="log", xlabel="faces in the photo", ylabel="milliseconds a photo")
        axes.set_title(f"{count} thread{'s' * (count > 1)}", size=9)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    drawing.suptitle(
        f"{result['model']} beside {result['detector']} with {result['landmarks']}\n640x480, MXNet, "
        f"{result['machine']['cpu']}",
        size=9,
    )
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
