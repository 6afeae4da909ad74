r"""Where MOS looks for each of its tasks, and how far class and pose look at the same (section 1 of the paper).

    python benchmarks/attention_mos.py --model mos_mobilenet0.25_fc26 --data facedata/lmk_val.jsonl \
        --json benchmarks/results/pose/attention_mos_mobilenet0.25_fc26.json --picture .../attention_....png

The paper finds, in feature maps and by eye, that the areas of pose and of class "are highly overlapped". Here it is
measured. What a task attends to is where the image has an influence on its outputs for the detected face: the absolute
gradient of the outputs of the face's anchor with respect to the pixels, summed over colours and smoothed. (Grad-CAM on
the map that the tasks share, the context module's, would not do: behind it all convolutions are 1x1, so only the
anchor's own cell has a gradient.) Class is the difference of its two logits, box four numbers, points ten, pose the
three expected angles; the map of each number has sum 1 before they are added, so that none outweighs the others.

Faces are cut out at one size (--face pixels in a canvas of 2.5 times that), each by its labelled box, and the net looks
at that canvas; the anchor is the one of the highest score whose box has an overlap of at least 0.5 with the labelled
one. Faces without one scored at least --score are left out and counted.

Two maps are compared in the square of 1.5 times the face's side: the intersection over union of their areas of highest
attention, a fifth of the square each (two independent ones have .11), and the correlation. Beside class and pose stand
the other pairs of tasks, and three that say what comes by itself: the map of class against the map of pose shifted by
half the square (chance); against that of another face at the same place (looking at the middle of any face); and
against that of a pose predictor of random weights behind the same branch (what the shared layers look at whatever is
asked). Some five seconds a face on one core; --faces says how many, evenly spread over the data.

The picture shows scikit-image's astronaut (NASA, public domain), and the mean maps over the faces of the data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from common import describe_domain, figure, new_figure, provenance, rounded, run, save_figure, table, write_result
from crowd import FACE_BOX, astronaut
from detectors import build_detector
from eval_widerface import progress

from gluonface._compat import mx
from gluonface.analysis import normalise
from gluonface.data import read_jsonl
from gluonface.decode import anchors_for, decode_boxes
from gluonface.errors import DataError, InputError
from gluonface.geometry import box_iou, warp_image
from gluonface.image import load_image
from gluonface.metrics import posed_faces

#: Task -> how many numbers it gives an anchor.
TASKS = {"class": 1, "box": 4, "points": 10, "pose": 3}
#: The same with the pose predictor of random weights.
_MAPS = {**TASKS, "untrained pose": 3}
#: Pairs of tasks, the paper's first.
PAIRS = (
    ("class", "pose"),
    ("class", "box"),
    ("class", "points"),
    ("pose", "points"),
    ("pose", "box"),
    ("box", "points"),
)
#: What comes by itself, of class and pose.
YARDSTICKS = ("shifted", "another face", "untrained pose")
IN_WORDS = {
    "shifted": "class and pose, shifted (chance)",
    "another face": "class and pose of another face",
    "untrained pose": "class and an untrained pose",
}
#: Sides of canvas and of the square of comparison, in sides of the face; width of the smoothing.
CANVAS, WINDOW, SMOOTHING = 2.5, 1.5, 1 / 16
#: Part of the square that counts as the area of highest attention.
AREA = 0.2
LEAST_IOU = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    net, name = build_detector(args)
    if not hasattr(net.network, "pose_head"):
        raise InputError(f"{name} gives no pose: expected a model of MOS")
    result = {
        "model": name,
        "face": args.face,
        "score": args.score,
        "area": AREA,
        "window": WINDOW,
        "smoothing": SMOOTHING * args.face,
        "domain": None,
    }
    means = None
    if args.data:
        rows, texts = chosen_faces(args)
        result["domain"] = texts
        maps = []
        for photo, box in progress(rows, len(rows)):
            one = attention(net, *cut_out(load_image(photo), box, args.face), args.score)
            maps += [] if one is None else [one]
        if len(maps) < 2:
            raise DataError(f"{args.data}: {len(maps)} of {len(rows)} faces were found: too few to compare")
        result |= {"faces": len(rows), "missed": len(rows) - len(maps), "pairs": compare(maps, args.face)}
        means = {task: np.mean([one[task] for one in maps], axis=0) for task in TASKS}
    canvas, box = cut_out(astronaut(), FACE_BOX, args.face)
    own = attention(net, canvas, box, args.score)
    result["astronaut"] = None if own is None else overlaps_of(own, args.face)
    result = rounded({**result, **provenance(argv)})
    print(describe(result))
    if args.picture:
        if own is None:
            raise DataError(f"{name} does not find the astronaut at a score of {args.score:g}: lower --score")
        plot(args.picture, result, canvas, own, means, args.face)
    if args.json:
        write_result(args.json, result)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="NAME", help="a model of MOS")
    parser.add_argument("--weights", metavar="FILE", help="run these weights of --model instead of the shipped ones")
    parser.add_argument("--facts-of", metavar="NAME", help="with --weights: whose mean and std they were trained with")
    parser.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    parser.add_argument("--data", metavar="JSONL", help="annotated photos; without: the astronaut only")
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: images/ beside the data)")
    parser.add_argument("--sources", nargs="+", metavar="NAME", help="only photos of these sources of the data")
    parser.add_argument("--faces", type=int, default=100, metavar="N", help="at most so many (default: 100)")
    parser.add_argument("--face", type=int, default=128, metavar="PX", help="side of the faces (default: 128)")
    parser.add_argument("--score", type=float, default=0.5, metavar="T", help="least score (default: 0.5)")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--picture", metavar="PNG", help="draw the astronaut's maps, and the mean ones")
    parser.set_defaults(insightface=None)
    args = parser.parse_args(argv)
    if args.faces < 2 or args.face < 16:
        parser.error("--faces is at least 2, --face at least 16")
    return args


def chosen_faces(args: argparse.Namespace) -> tuple[list[tuple[Path, np.ndarray]], str]:
    """Photo and box (4,) of the faces with a labelled pose, evenly spread over the data; what they are, in words."""
    rows = []
    for sample in read_jsonl(args.data, args.images, args.sources):
        for i in posed_faces(sample.faces):
            rows.append((sample, sample.faces.boxes[i]))
    if not rows:
        raise DataError(f"{args.data}: no face has a pose")
    rows = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, args.faces).round().astype(int))]
    samples = {sample.name: sample for sample, _ in rows}
    sources = {sample.source for sample in samples.values() if sample.source}
    return [(s.image_path, box) for s, box in rows], describe_domain(args.data, sources, len(samples), len(rows))


def side_of_canvas(face: int) -> int:
    """A multiple of 32, the coarsest stride."""
    return 32 * round(CANVAS * face / 32)


def cut_out(image: np.ndarray, box: np.ndarray, face: int) -> tuple[np.ndarray, np.ndarray]:
    """A face in the middle of a square canvas (S, S, 3) uint8, ``face`` pixels large, and its box (4,) there."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    scale, side = face / np.sqrt(4 * half.prod()), side_of_canvas(face)
    matrix = np.column_stack([np.eye(2) * scale, side / 2 - scale * middle])
    return warp_image(image, matrix, (side, side)), np.concatenate([side / 2 - scale * half, side / 2 + scale * half])


def attention(net, canvas: np.ndarray, box: np.ndarray, least_score: float) -> dict[str, np.ndarray] | None:
    """What each task attends to.

    Parameters
    ----------
    net : FaceDetector
        With a pose head.
    canvas : (S, S, 3) uint8
    box : (4,)
        Of the face.
    least_score : float

    Returns
    -------
    dict of name in `_MAPS` to (S, S) array of sum 1
        None where no anchor of that score has a box that overlaps the face's.
    """
    x = mx.nd.array(normalise(canvas, net.facts, np.empty((3, *canvas.shape[:2]), np.float32))[None])
    anchors = anchors_for(canvas.shape[:2], net.spec)
    cls_preds, box_preds, *_ = (output.asnumpy()[0] for output in net.network(x))
    scores = 1 / (1 + np.exp(cls_preds[:, 0] - cls_preds[:, 1]))
    fitting = box_iou(decode_boxes(box_preds, anchors), box[None])[:, 0] >= LEAST_IOU
    scores = np.where(fitting & (scores >= least_score), scores, -1)
    anchor = int(scores.argmax())
    if scores[anchor] < 0:
        return None

    # The canvas once for each number, so that one pass back gives the gradient of all of them.
    count = sum(_MAPS.values())
    copies = mx.nd.tile(x, (count, 1, 1, 1))
    copies.attach_grad()
    number, side = (mx.nd.full((count, 1), value) for value in (anchor, anchors[anchor, 2] - anchors[anchor, 0]))
    with mx.autograd.record(train_mode=False):
        cls, boxes, points, cells = net.network(copies)
        cls, boxes, points = (
            mx.nd.slice_axis(o, 1, anchor, anchor + 1).reshape((count, -1)) for o in (cls, boxes, points)
        )
        pose = net.decode_pose(net.network.pose_head(cells, number, side)).reshape((count, 3))
        branch = cells[:, anchor // net.spec.per_cell]
        random = np.random.default_rng(0).normal(size=(branch.shape[1], _MAPS["untrained pose"]))
        untrained = mx.nd.dot(branch, mx.nd.array(random))
        given = mx.nd.concat(cls[:, 1:] - cls[:, :1], boxes, points, pose, untrained, dim=1)
        chosen = (given * mx.nd.eye(count)).sum()
    chosen.backward()
    gradients = np.abs(copies.grad.asnumpy()).sum(axis=1, dtype=np.float64)

    sigma, maps, start = SMOOTHING * np.sqrt((box[2:] - box[:2]).prod()), {}, 0
    for task, numbers in _MAPS.items():
        some = gradients[start : start + numbers]
        start += numbers
        whole = sum(one / max(one.sum(), np.finfo(float).tiny) for one in some)
        smooth = cv2.GaussianBlur(whole, (0, 0), float(sigma), borderType=cv2.BORDER_REFLECT)
        maps[task] = smooth / max(smooth.sum(), np.finfo(float).tiny)
    return maps


# ---- comparison ------------------------------------------------------------------------------------------------------


def window(map_: np.ndarray, face: int) -> np.ndarray:
    """The square of comparison, in the middle of a map."""
    side, middle = round(WINDOW * face), len(map_) // 2
    low = middle - side // 2
    return map_[low : low + side, low : low + side]


def highest(map_: np.ndarray) -> np.ndarray:
    """The fifth of the pixels with most attention, bool."""
    return map_ > np.quantile(map_, 1 - AREA)


def overlap(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """``iou`` of the areas of highest attention and ``correlation`` of two squares of maps."""
    one, two = highest(a), highest(b)
    union = (one | two).sum()
    flat = a.std() == 0 or b.std() == 0
    return {
        "iou": float((one & two).sum() / union) if union else float("nan"),
        "correlation": float("nan") if flat else float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
    }


def overlaps_of(maps: dict[str, np.ndarray], face: int, other: dict[str, np.ndarray] | None = None) -> dict[str, dict]:
    """Overlap of each pair of tasks, and the yardsticks: of one face, and another one's maps."""
    seen = {task: window(map_, face) for task, map_ in maps.items()}
    result = {f"{a}-{b}": overlap(seen[a], seen[b]) for a, b in PAIRS}
    result["shifted"] = overlap(seen["class"], np.roll(seen["pose"], len(seen["pose"]) // 2, axis=1))
    result["untrained pose"] = overlap(seen["class"], seen["untrained pose"])
    if other is not None:
        result["another face"] = overlap(seen["class"], window(other["pose"], face))
    return result


def compare(maps: list[dict[str, np.ndarray]], face: int) -> dict[str, dict]:
    """Mean of each overlap over faces, and between what 10 and 90 percent of the faces it lies."""
    each = [overlaps_of(one, face, maps[i - 1]) for i, one in enumerate(maps)]
    result = {}
    for pair in each[0]:
        result[pair] = {}
        for key in ("iou", "correlation"):
            values = [one[pair][key] for one in each]
            low, high = np.nanpercentile(values, [10, 90])
            result[pair] |= {key: float(np.nanmean(values)), f"{key}_10_to_90": [float(low), float(high)]}
    return result


# ---- text and picture ------------------------------------------------------------------------------------------------


def describe(result: dict) -> str:
    """The result as text."""
    lines = [result["model"]]
    if result["domain"]:
        lines.append(f"{result['domain']}; {result['missed']} of {result['faces']} not found")
    head = ("attention of", "IoU", "10-90 %", "correlation", "10-90 %", "astronaut: IoU", "correlation")
    rows = [head]
    for pair in (*(f"{a}-{b}" for a, b in PAIRS), *YARDSTICKS):
        cells = []
        for key in ("iou", "correlation"):
            one = result.get("pairs", {}).get(pair)
            cells += ["-", "-"] if one is None else [figure(one[key]), " to ".join(map(figure, one[f"{key}_10_to_90"]))]
        own = (result["astronaut"] or {}).get(pair, {})
        rows.append((pair, *cells, *(figure(own.get(key)) for key in ("iou", "correlation"))))
    return "\n".join([*lines, table(rows)])


def plot(path: str, result: dict, canvas: np.ndarray, own: dict, means: dict | None, face: int) -> None:
    """The astronaut with each task's map and the outline of its highest fifth; below, the mean maps of the data."""
    drawing = new_figure(figsize=(13, 6.2 if means else 3.5))
    grid = drawing.subplots(2 if means else 1, 1 + len(TASKS), squeeze=False)
    side, half = len(canvas), WINDOW * face / 2
    extent, colours = (0, side, side, 0), dict(zip(TASKS, ("C0", "C2", "C4", "C3")))
    for row, maps in zip(grid, (own, means)):
        both = row[0]
        both.set_title("class and pose: highest fifths" if maps is own else "the same, mean over faces", size=9)
        for axes, task in zip(row[1:], TASKS):
            axes.set_title(task, size=10)
            axes.imshow(maps[task], cmap="inferno" if maps is means else "jet", extent=extent)
            if maps is own:
                axes.imshow(canvas, extent=extent, alpha=0.5)
            outline(axes, maps[task], face, "white")
        both.imshow(canvas if maps is own else np.full_like(canvas, 235), extent=extent)
        for task in ("class", "pose"):
            outline(both, maps[task], face, colours[task])
            both.plot([], [], color=colours[task], label=task)
        both.legend(fontsize=8, loc="lower left")
    for axes in grid.flat:
        low, high = side / 2 - half, side / 2 + half
        axes.plot([low, high, high, low, low], [low, low, high, high, low], color="grey", lw=0.8, ls=":")
        axes.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))
    words = [f"Attention of {result['model']}: absolute gradient on the image"]
    pairs = result.get("pairs") or result["astronaut"]
    names = (("class-pose", "class and pose"), ("class-box", "class and box"), ("class-points", "class and points"))
    beside = {"shifted": "pose shifted", "another face": "pose of another face", "untrained pose": "untrained pose"}
    for start, texts in (("IoU of highest fifths: ", dict(names)), ("class and: ", beside)):
        words.append(start + ", ".join(f"{t} {figure(pairs[k]['iou'], 2)}" for k, t in texts.items() if k in pairs))
    words.append(result["domain"] or "scikit-image's astronaut")
    drawing.suptitle("\n".join(words), size=9)
    save_figure(drawing, path)


def outline(axes, map_: np.ndarray, face: int, colour: str) -> None:
    """The edge of the area of highest attention in the square of comparison."""
    part = highest(window(map_, face)).astype(float)
    places = np.arange(len(part)) + 0.5 + len(map_) // 2 - round(WINDOW * face) // 2
    axes.contour(places, places, part, levels=[0.5], colors=[colour], linewidths=1.5)


if __name__ == "__main__":
    run(main)
