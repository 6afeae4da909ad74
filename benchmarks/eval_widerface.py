"""The official WIDER FACE evaluation of a folder of text predictions or of a model.

    python benchmarks/eval_widerface.py --predictions DIR --ground-truth eval_tools/ground_truth
    python benchmarks/eval_widerface.py --model NAME --images WIDER_val/images --ground-truth eval_tools/ground_truth
    python benchmarks/eval_widerface.py --model NAME --images WIDER_test/images --split test --save-predictions X

Predictions are the usual ``event/name.txt`` (name, count, ``x y w h score`` lines) or an .npz file. The ground truth is
the folder of wider_face_val.mat and wider_{easy,medium,hard}_val.mat of the official tool. Scoring takes ten seconds;
detecting on the 3,226 photos ten minutes on one core with W1 and MobileNet 0.25, hours with W3.

Three protocols, whose figures are not comparable:
  W1  one scale, long side 640 (the default)
  W2  one scale, each photo as it is (--size stored)
  W3  several scales, mirrored too, box voting (--multi-scale --flip; or long sides: --size 320,1280 --flip)

Short sides of W3 shrink together until no long side is above --max-long-side: with the default, those of all photos
longer than 4:3. The protocol that is printed tells the limit.

--average adds the mean over the IoU thresholds .5:.05:.95 to the figures at .5, of each setting: RetinaFace's Table 1
reports it of the hard one. Ten scorings instead of one.

Check: the corpus's widerface_eval/predictions_retinaface_mnet025.npz gives easy .9448, medium .9245, hard .8153.
For the test server, zip the folder that --save-predictions wrote.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from common import new_figure, provenance, rounded, run, save_figure, write_result
from detectors import (
    add_detector_arguments,
    add_view_arguments,
    build_analyzer,
    check_arguments,
    detect,
    long_sides,
    scales,
    view,
)

from gluonface._compat import import_optional
from gluonface.errors import DataError
from gluonface.metrics import (
    evaluate_widerface,
    read_predictions,
    read_widerface_ground_truth,
    widerface_curves,
    write_prediction,
)
from gluonface.metrics.curves import average_precision
from gluonface.metrics.scoring import IOU_THRESHOLDS
from gluonface.metrics.widerface_protocol import WiderFaceGroundTruth, to_xywh
from gluonface.tta import MAX_LONG_SIDE


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    truth = read_widerface_ground_truth(args.ground_truth) if args.split == "val" else None
    if args.predictions:
        name, protocol = args.name or Path(args.predictions).name, args.protocol
        predictions = read_predictions(args.predictions, truth.names)
        for photo, found in predictions.items() if args.save_predictions else ():
            write_prediction(args.save_predictions, photo, *found)
    else:
        names = truth.names if truth else list_photos(args.images)
        analyzer, name = build_analyzer(args, boxes_alone=True)
        protocol = protocol_of(args)
        found = detect(analyzer, (str(Path(args.images) / f"{photo}.jpg") for photo in names), args)
        predictions = {}
        for photo, faces in progress(zip(names, found), len(names)):
            predictions[photo] = to_xywh(faces.boxes), faces.scores
            if args.save_predictions:
                write_prediction(args.save_predictions, photo, *predictions[photo])
    if truth is None:
        print(f"{len(predictions)} files for the test server in {args.save_predictions}: zip that folder")
        return 0

    curves = widerface_curves(predictions, truth)
    figures = {setting: float(average_precision(*curve)) for setting, curve in curves.items()}
    print(f"{name}, WIDER FACE validation ({len(truth)} photos), protocol {protocol}")
    print("   ".join(f"{setting} {value:.4f}" for setting, value in figures.items()))
    averages = averages_of(predictions, truth) if args.average else {}
    if averages:
        print("mean over IoU .5:.05:.95")
        print("   ".join(f"{key} {value:.4f}" for key, value in averages.items()))
    if args.plot:
        plot(args.plot, name, curves, figures)
    if args.json:
        detections = sum(len(scores) for _, scores in predictions.values())
        result = {
            "model": name,
            "protocol": protocol,
            "data": "widerface_val",
            "domain": f"WIDER FACE validation ({len(truth)} photos)",
            "photos": len(truth),
            "detections": detections,
            **figures,
            **averages,
            **provenance(argv),
        }
        write_result(args.json, rounded(result))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", metavar="DIR|NPZ", help="score these predictions")
    parser.add_argument("--protocol", default="not stated", metavar="W1|W2|W3", help="how --predictions were made")
    parser.add_argument("--name", help="what to call --predictions (default: the folder's name)")
    add_detector_arguments(parser)
    add_view_arguments(parser, several_long_sides=True)
    parser.add_argument(
        "--max-long-side",
        type=int,
        default=MAX_LONG_SIDE,
        metavar="N",
        help="several scales shrink together to long sides of at most so many pixels (default: %(default)s; 0: no "
        "limit, which takes much memory for panoramas)",
    )
    parser.add_argument("--images", metavar="DIR", help="folder of event/name.jpg")
    parser.add_argument("--ground-truth", metavar="DIR", help="folder of the official .mat files")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="test: only write the predictions")
    parser.add_argument("--average", action="store_true", help="also the means over IoU .5:.05:.95: ten scorings")
    parser.add_argument("--save-predictions", metavar="DIR", help="write the predictions as text files")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--plot", metavar="PNG", help="draw the three precision-recall curves")
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    has_model = bool(args.model or args.insightface)
    if bool(args.predictions) == has_model:
        parser.error("give either --predictions or a model (--model or --insightface)")
    if has_model and not args.images:
        parser.error("a model needs --images")
    if args.split == "val" and not args.ground_truth:
        parser.error("the validation split needs --ground-truth")
    if args.split == "test" and not (has_model and args.save_predictions):
        parser.error("the test split has no labels here: give a model and --save-predictions")
    if args.split == "test" and args.average:
        parser.error("--average is a figure of the validation split: the test split has no labels here")
    if args.max_long_side < 0:
        parser.error("--max-long-side is a number of pixels, or 0 for no limit")
    if args.max_long_side != MAX_LONG_SIDE and (long_sides(args) or not (scales(args) or args.flip)):
        parser.error("--max-long-side goes with several short sides or --flip, not with the long sides of --size")
    args.max_long_side = args.max_long_side or None
    return args


def protocol_of(args: argparse.Namespace) -> str:
    """The name of the protocol, and what was different from it."""
    sides = scales(args)
    if long_sides(args):
        sides = ", ".join(map(str, long_sides(args)))
        return f"W3, several scales and flip (long sides {sides}; flip {'on' if args.flip else 'off'})"
    if sides or args.flip:
        what = "short sides " + ", ".join(map(str, sides)) if sides else f"one scale, {view(args)['size']}"
        if sides or args.size:  # a photo as it is does not shrink
            what += f"; long side {f'at most {args.max_long_side}' if args.max_long_side else 'without limit'}"
        return f"W3, several scales and flip ({what}; flip {'on' if args.flip else 'off'})"
    if args.size is None:
        return "W2, one scale, original size"
    return f"W1, one scale, long side {args.size}" if isinstance(args.size, int) else f"one canvas {view(args)['size']}"


def averages_of(
    predictions: Mapping[str, tuple[np.ndarray, np.ndarray]], truth: WiderFaceGroundTruth
) -> dict[str, float]:
    """``average_<setting>``: the mean of a setting's average precision over the thresholds `IOU_THRESHOLDS`; the rest
    of the protocol as it is. Predictions as `evaluate_widerface` takes them.
    """
    each = [evaluate_widerface(predictions, truth, iou_thresh) for iou_thresh in IOU_THRESHOLDS]
    return {f"average_{setting}": float(np.mean([one[setting] for one in each])) for setting in each[0]}


def list_photos(images: str) -> list[str]:
    """``event/name`` of all photos of a folder of events."""
    names = sorted(f"{p.parent.name}/{p.stem}" for p in Path(images).glob("*/*.jpg"))
    if not names:
        raise DataError(f"{images}: no event/name.jpg in this folder")
    return names


def progress(items: Iterable, total: int) -> Iterable:
    """A bar where someone sees it."""
    return import_optional("tqdm", "bench").tqdm(items, total=total, unit="photo", disable=None)


def plot(path: str, name: str, curves: dict, figures: dict) -> None:
    """Draw the curves of the three settings."""
    drawing = new_figure(figsize=(6, 4.5))
    axes = drawing.subplots()
    for setting, (recall, precision) in curves.items():
        axes.plot(recall, precision, label=f"{setting} {figures[setting]:.4f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=f"{name}, WIDER FACE validation")
    axes.legend(loc="lower left")
    axes.grid(alpha=0.3)
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
