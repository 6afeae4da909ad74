"""What the scripts that score detectors share: flags, the detector that they ask for, detections of a file, and which
detection belongs to which labelled face.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gluonface import FaceAnalyzer, Faces, get_model, load_image
from gluonface.data import FaceSample
from gluonface.data.transforms.affine import Affine
from gluonface.errors import DataError, InputError
from gluonface.geometry import SOFT_NMS, box_iou
from gluonface.metrics import best_proposals
from gluonface.model_zoo import import_insightface, model_facts
from gluonface.tta import SHORT_SIDES, detect_multiscale

#: Everything from this score on is evaluated; WIDER FACE's usual choice.
LOW_SCORE = 0.02
#: A detection that overlaps a labelled face less is not its.
LEAST_IOU = 0.5
#: Options of get_model that weights of a file may have been trained with: of detectors, of landmark nets.
DETECTOR_OPTIONS = {"channels": int, "k0": float}
LANDMARK_OPTIONS = {"filters": int, "stem": int}
#: Boxes that are looked at where no score is too low: suppression takes time with their square.
_MOST_BOXES = 5000


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for :func:`build_detector`."""
    group = parser.add_argument_group("detector")
    group.add_argument("--model", metavar="NAME", help="model whose shipped weights run (see `gluonface models`)")
    group.add_argument("--weights", metavar="FILE", help="run these weights of --model instead of the shipped ones")
    add_weights_arguments(group, DETECTOR_OPTIONS)
    group.add_argument("--insightface", metavar="FILE", help="run an InsightFace-style MXNet checkpoint (.params)")
    group.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")


def add_weights_arguments(parser, options: dict[str, type]) -> None:
    """Flags for :func:`build_net`: what weights of a file do not say themselves."""
    parser.add_argument(
        "--facts-of",
        metavar="NAME",
        help="with --weights: whose mean and std they were trained with, such as those of the start",
    )
    for name, kind in options.items():
        parser.add_argument(
            f"--{name}",
            type=kind,
            metavar="X" if kind is float else "N",
            help="what the net of --weights was trained with",
        )


def check_weights_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse the above without weights of a file."""
    if args.facts_of and not args.weights:
        parser.error("--facts-of goes with --weights: shipped weights bring their facts")
    given = [f"--{name}" for name in _options(args)]
    if given and not args.weights:
        parser.error(f"{' and '.join(given)} go with --weights: shipped weights bring their options")


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for :func:`build_analyzer` and :func:`detect`: at what sizes the photos are looked at."""
    group = parser.add_argument_group("view")
    group.add_argument(
        "--size",
        type=parse_size,
        default=640,
        metavar="N|HxW|stored",
        help="long side of the photos in pixels (default: 640), a canvas, or their own size",
    )
    sides = " ".join(map(str, SHORT_SIDES))
    group.add_argument("--multi-scale", action="store_true", help=f"several scales instead: short sides {sides}")
    group.add_argument("--scales", type=int, nargs="+", metavar="N", help="several scales: these short sides")
    group.add_argument("--flip", action="store_true", help="the mirrored photos, too")
    group.add_argument("--nms", type=float, metavar="T", help="IoU above which the weaker of two boxes goes")
    group.add_argument("--soft-nms", choices=SOFT_NMS, help="Soft-NMS at each scale, in the place of the net's own")
    group.add_argument("--batch", type=int, default=8, metavar="N", help="photos at once, one scale (default: 8)")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse combinations of the above that mean nothing."""
    if args.weights and not args.model:
        parser.error("--weights needs the --model they belong to")
    if args.weights and args.insightface:
        parser.error("--weights and --insightface exclude each other")
    check_weights_arguments(parser, args)
    if args.soft_nms and not (scales(args) or args.flip):
        parser.error("--soft-nms goes with several scales or --flip")
    if args.flip and not scales(args) and isinstance(args.size, tuple):
        parser.error("--flip goes with a long side, the photo's own size or several scales, not with a canvas")


def parse_size(text: str) -> int | tuple[int, int] | None:
    """``640``: long side, ``480x640``: canvas, height first, ``stored``: the photo's own size (None)."""
    if text == "stored":
        return None
    sides = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if sides is None:
        raise argparse.ArgumentTypeError(
            f'expected a long side (640), height x width (480x640) or "stored", got {text!r}'
        )
    height, width = sides.groups()
    return int(height) if width is None else (int(height), int(width))


def scales(args: argparse.Namespace) -> list[int] | None:
    """Short sides of several scales; None for one scale."""
    return args.scales or (list(SHORT_SIDES) if args.multi_scale else None)


def view(args: argparse.Namespace) -> dict:
    """How the photos are looked at, as keys of a result: size or scales, and flip."""
    soft = {"soft_nms": args.soft_nms} if args.soft_nms else {}
    if scales(args):
        return {"scales": scales(args), "flip": args.flip, **soft}
    if isinstance(args.size, tuple):
        return {"size": "x".join(map(str, args.size)), "flip": args.flip}
    return {"size": args.size or "stored", "flip": args.flip, **soft}


def build_detector(args: argparse.Namespace):
    """The net that the flags ask for, and what to call it."""
    if args.insightface:
        options = {"name": args.model} if args.model else {}
        net = import_insightface(args.insightface, **options)
        name = f"{Path(args.insightface).name} (imported)"
    else:
        net, name = build_net(args.model, args)
    net.hybridize()
    return net, name


def _options(args: argparse.Namespace) -> dict:
    """Options of get_model that were given, of those that the script has."""
    given = {name: getattr(args, name, None) for name in (*DETECTOR_OPTIONS, *LANDMARK_OPTIONS)}
    return {name: value for name, value in given.items() if value is not None}


def build_net(model: str, args: argparse.Namespace):
    """The net of that name with the weights that the flags ask for, and what to call it."""
    net = get_model(model, pretrained=not args.weights, root=args.root, **_options(args))
    if not args.weights:
        return net, model
    net.load_parameters(args.weights)
    if args.facts_of:
        facts = model_facts(args.facts_of)
        net.facts = dataclasses.replace(net.facts, mean=facts.mean, std=facts.std)
    return net, f"{model} ({Path(args.weights).name})"


def build_analyzer(args: argparse.Namespace, score_thresh: float | None = LOW_SCORE) -> tuple[FaceAnalyzer, str]:
    """`FaceAnalyzer` of that net with all scores from 0.02 on (None: from what comes with the weights), and what to
    call it.
    """
    net, name = build_detector(args)
    nms_thresh = 1.0 if args.soft_nms and args.nms is None else args.nms
    analyzer = FaceAnalyzer(
        net, size=args.size, score_thresh=score_thresh, nms_thresh=nms_thresh, batch_size=args.batch
    )
    return analyzer, name


def without_threshold(analyzer: FaceAnalyzer) -> FaceAnalyzer:
    """The analyzer's net as one that leaves out no box for its score, only those that overlap a better one.

    The net itself is changed: the given analyzer is of no more use.
    """
    analyzer.net.set_nms(analyzer.net.nms_thresh, _MOST_BOXES, -1, 0)
    return FaceAnalyzer(analyzer.net, size=analyzer.canvas_hw, score_thresh=0, batch_size=analyzer.batch_size)


def detect(analyzer: FaceAnalyzer, photos: Iterable, args: argparse.Namespace) -> Iterator[Faces]:
    """Faces of one photo (a path or an array) after another, looked at as the flags say."""
    if not scales(args) and not args.flip:
        return analyzer.stream(photos)
    return (_detect_often(analyzer, load_image(photo), args) for photo in photos)


def _detect_often(analyzer: FaceAnalyzer, image, args: argparse.Namespace) -> Faces:
    sides = scales(args)
    if sides is None and args.size is not None:  # one scale, given by the long side
        sides = [max(1, round(args.size * min(image.shape[:2]) / max(image.shape[:2])))]
    return detect_multiscale(analyzer, image, sides, flip=args.flip, soft=args.soft_nms)


def read_photos(samples: list[FaceSample], turns: list[Affine | None] | None = None) -> Iterator[np.ndarray]:
    """Photos as the data name them, of the size that they say; turned where there are plans."""
    for sample, plan in zip(samples, turns or [None] * len(samples)):
        image = load_image(sample.image_path)
        if image.shape[:2] != sample.size_hw:
            raise DataError(
                f"{sample.image_path}: the data say {sample.size_hw[1]}x{sample.size_hw[0]}, the photo has "
                f"{image.shape[1]}x{image.shape[0]}"
            )
        yield image if plan is None else plan.warp(image)


def read_detections(path: str, samples: list[FaceSample]) -> tuple[list[Faces], str]:
    """Detections of each photo from JSON lines, and the name of the model that made them.

    A line belongs to the photo whose name its ``image`` ends in.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    wanted = {sample.name: sample for sample in samples}
    found, models = {}, set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            faces = Faces.from_dict(row)
            parts = row["image"].replace("\\", "/").split("/")
        except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            raise DataError(f"{path}, line {number}: not a line of `gluonface detect --json` ({error})") from error
        name = next((n for n in ("/".join(parts[i:]) for i in range(len(parts))) if n in wanted), None)
        if name is None:
            continue
        if name in found:
            raise DataError(f"{path}, line {number}: {name} is here a second time")
        if faces.size_hw != wanted[name].size_hw:
            raise DataError(
                f"{path}, line {number}: {name} is {faces.size_hw[1]}x{faces.size_hw[0]} here and "
                f"{wanted[name].size_hw[1]}x{wanted[name].size_hw[0]} in the data"
            )
        found[name] = faces
        models.add(row.get("model"))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(wanted)} photos are missing, the first is {missing[0]}; a photo without "
            "faces needs a line too"
        )
    names = sorted(filter(None, models))
    return [found[sample.name] for sample in samples], ", ".join(names) or Path(path).name


@dataclass(frozen=True)
class Found:
    """The detections that belong to labelled faces of a photo: row ``labels[i]`` of its labels is ``faces[i]``."""

    faces: Faces
    labels: np.ndarray


def match_faces(samples: list[FaceSample], detections: list[Faces], iou: float | None = None) -> list[Found]:
    """Detections of labelled faces; the best overlap first, each face and each detection once. With ``iou`` as
    `best_proposals` chooses them.
    """
    matched = []
    for sample, faces in zip(samples, detections):
        if iou is not None:
            rows = best_proposals(faces.boxes, faces.scores, sample.faces.boxes, iou)
            matched.append(Found(faces[rows[rows >= 0]], np.flatnonzero(rows >= 0)))
            continue
        overlap = box_iou(sample.faces.boxes, faces.boxes)
        pairs = []
        while overlap.size and overlap.max() >= LEAST_IOU:
            label, row = np.unravel_index(overlap.argmax(), overlap.shape)
            pairs.append((label, row))
            overlap[label], overlap[:, row] = 0, 0
        labels, rows = np.array(sorted(pairs), int).reshape(-1, 2).T
        matched.append(Found(faces[rows], labels))
    return matched


def gathered(
    name: str,
    samples: list[FaceSample],
    found: list[Found],
    detections: list[Faces],
    part: str,
    shape: tuple[int, ...],
) -> np.ndarray | None:
    """A part of the faces found, see `spread`, of ``shape`` where no photo shows one; None where the detector has none.

    Raises
    ------
    DataError
        Some photos' faces have it and others' do not.
    """
    given = [getattr(faces, part) for faces in detections if len(faces)]
    bare = [s.name for s, faces in zip(samples, detections) if len(faces) and getattr(faces, part) is None]
    if bare and len(bare) < len(given):
        raise DataError(f"{name}: the faces on {bare[0]} have no {part}, those on other photos do")
    return None if bare else spread(samples, found, part, given[0].shape[1:] if given else shape)


def spread(samples: list[FaceSample], found: list[Found], part: str, shape: tuple[int, ...]) -> np.ndarray:
    """A part of the faces found, (N, *shape) of all N labelled faces in a row, NaN for those missed."""
    rows = []
    for sample, one in zip(samples, found):
        whole = np.full((len(sample.faces), *shape), np.nan)
        if len(one.faces):
            whole[one.labels] = getattr(one.faces, part)
        rows.append(whole)
    return np.concatenate(rows)
