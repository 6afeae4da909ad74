"""What the scripts that score detectors share: flags, the detector that they ask for, detections of a file, and which
detection belongs to which labelled face.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gluonface import FaceAnalyzer, Faces, get_model, load_image
from gluonface.box_mapping import BOX_STYLES, BoxMapping
from gluonface.data import FaceSample
from gluonface.data.transforms.affine import Affine
from gluonface.decode import KPNET_SCALES
from gluonface.errors import DataError, InputError
from gluonface.geometry import SOFT_NMS
from gluonface.metrics import best_proposals, closest_proposals
from gluonface.model_zoo import import_insightface, model_facts
from gluonface.model_zoo.detector import MOST_BOXES, AnchorDetector, FaceDetector
from gluonface.model_zoo.keypoint_detector import BOXES, SCORINGS
from gluonface.model_zoo.kpnet import HEADS, READERS
from gluonface.model_zoo.maskface import MaskFaceDetector
from gluonface.model_zoo.mos import HEADS as MOS_HEADS
from gluonface.model_zoo.retinaface_mesh import SCORINGS as CASCADE_SCORINGS
from gluonface.training.detection import BoxesAlone
from gluonface.tta import MAX_LONG_SIDE, SHORT_SIDES, detect_multiscale

#: Everything from this score on is evaluated; WIDER FACE's usual choice.
LOW_SCORE = 0.02
#: A detection that overlaps a labelled face less is not its.
LEAST_IOU = 0.5
#: Options of get_model that weights of a file may have been trained with, or are to be used with, and what they may be:
#: numbers, yes or no, or some of these words. Of detectors, of landmark nets.
DETECTOR_OPTIONS: dict[str, type | tuple[str, ...]] = {
    "channels": int,
    "k0": float,
    "roi_scale": float,
    "num_points": int,
    "reader": READERS,
    "head": (*HEADS, *MOS_HEADS),
    "boxes": BOXES,
    "scoring": tuple(dict.fromkeys((*SCORINGS, *CASCADE_SCORINGS))),
    "cascade": bool,
    "deformable": bool,
    "mesh": bool,
}
LANDMARK_OPTIONS = {"filters": int, "stem": int}
#: Words for True and False.
YES_NO = {"yes": True, "no": False}
#: Boxes that are given out where those that overlap are to stay.
_MOST_FACES = 5000
# How proposals are counted: suppressed as KPNet's faces are, after so many were looked at.
_PROPOSAL_NMS = 0.6
_MOST_PEAKS = 400


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for :func:`build_detector`."""
    group = parser.add_argument_group("detector")
    group.add_argument("--model", metavar="NAME", help="model whose shipped weights run (see `gluonface models`)")
    group.add_argument("--weights", metavar="FILE", help="run these weights of --model instead of the shipped ones")
    add_weights_arguments(group, DETECTOR_OPTIONS)
    group.add_argument("--insightface", metavar="FILE", help="run an InsightFace-style MXNet checkpoint (.params)")
    group.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    group.add_argument("--box-style", choices=BOX_STYLES, help="KPNet: what boxes are, see gluonface.box_mapping")
    group.add_argument(
        "--box-mapping", metavar="JSON", help="KPNet: boxes from points as train/fit_box_mapping.py fitted them to data"
    )


def add_weights_arguments(parser, options: Mapping[str, type | tuple[str, ...]]) -> None:
    """Flags for :func:`build_net`: what weights of a file do not say themselves."""
    parser.add_argument(
        "--facts-of",
        metavar="NAME",
        help="with --weights: whose mean and std they were trained with, such as those of the start",
    )
    for name, kind in options.items():
        if isinstance(kind, tuple):
            what = {"choices": kind}
        elif kind is bool:
            what = {"choices": tuple(YES_NO)}
        else:
            what = {"type": kind, "metavar": "X" if kind is float else "N"}
        parser.add_argument(_flag(name), help="of the net of --weights, see get_model", **what)


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def check_weights_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse the above without weights of a file."""
    if args.facts_of and not args.weights:
        parser.error("--facts-of goes with --weights: shipped weights bring their facts")
    given = [_flag(name) for name in _options(args)]
    if given and not args.weights:
        parser.error(f"{' and '.join(given)} go with --weights: shipped weights bring their options")


def add_view_arguments(parser: argparse.ArgumentParser, *, several_long_sides: bool = False) -> None:
    """Flags for :func:`build_analyzer` and :func:`detect`: at what sizes the photos are looked at. With
    ``several_long_sides`` --size takes a list, too.
    """
    group = parser.add_argument_group("view")
    group.add_argument(
        "--size",
        type=parse_sizes if several_long_sides else parse_size,
        default=640,
        metavar="N|N,N|HxW|stored" if several_long_sides else "N|HxW|stored",
        help="long side of the photos in pixels (default: 640), "
        + ("several (256,640), put together, " if several_long_sides else "")
        + "a canvas, or their own size",
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
    if box_convention(args) and (not args.model or args.insightface):
        parser.error("--box-style and --box-mapping go with --model, a KPNet")
    check_weights_arguments(parser, args)
    if long_sides(args) and scales(args):
        parser.error("several scales are long sides (--size) or short sides (--multi-scale, --scales), not both")
    if args.soft_nms and not (scales(args) or long_sides(args) or args.flip):
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


def parse_sizes(text: str) -> int | tuple[int, int] | list[int] | None:
    """As `parse_size`, or ``256,640``: several long sides."""
    if "," not in text:
        return parse_size(text)
    sides = [int(side) if re.fullmatch(r"[1-9]\d*", side) else 0 for side in text.split(",")]
    if min(sides) < 1 or len(set(sides)) < len(sides):
        raise argparse.ArgumentTypeError(f"expected long sides that are different numbers (256,640), got {text!r}")
    return sides


def long_sides(args: argparse.Namespace) -> list[int] | None:
    """Several long sides; None for one scale, or short sides."""
    size = getattr(args, "size", None)
    return size if isinstance(size, list) else None


def scales(args: argparse.Namespace) -> list[int] | None:
    """Short sides of several scales; None for one scale."""
    return args.scales or (list(SHORT_SIDES) if args.multi_scale else None)


def view(args: argparse.Namespace) -> dict:
    """How the photos are looked at, as keys of a result: size, scales or long_sides, and flip."""
    soft = {"soft_nms": args.soft_nms} if args.soft_nms else {}
    if scales(args):
        return {"scales": scales(args), "flip": args.flip, **soft}
    if long_sides(args):
        return {"long_sides": long_sides(args), "flip": args.flip, **soft}
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
    options = DETECTOR_OPTIONS | LANDMARK_OPTIONS
    given = {name: getattr(args, name, None) for name in options}
    return {
        name: YES_NO[value] if options[name] is bool else value for name, value in given.items() if value is not None
    }


def build_net(model: str, args: argparse.Namespace):
    """The net of that name with the weights that the flags ask for, and what to call it."""
    style = getattr(args, "box_style", None)
    net = get_model(model, pretrained=not args.weights, root=args.root, box_style=style, **_options(args))
    name = model
    if args.weights:
        net.load_parameters(args.weights)
        name = f"{model} ({Path(args.weights).name})"
        if args.facts_of:
            facts = model_facts(args.facts_of)
            net.facts = dataclasses.replace(net.facts, mean=facts.mean, std=facts.std)
    if getattr(args, "box_mapping", None):
        set_box_mapping(net, args.box_mapping)
    return net, name


def set_box_mapping(net, path: str) -> None:
    """Give a net the mapping in a file of train/fit_box_mapping.py, in the place of its weights' own.

    Raises
    ------
    DataError
        The file cannot be read or holds something else.
    InputError
        The net's boxes do not come from points, or from another number of points.
    """
    if not hasattr(net, "set_box_mapping"):
        raise InputError(f"--box-mapping: expected a KPNet whose boxes come from points, got {net.facts.name}")
    net.set_box_mapping(BoxMapping.load(path))


def box_convention(args: argparse.Namespace) -> dict:
    """What the boxes of the net are, where it is not what comes with its weights, as keys of a result."""
    given = {"box_style": args.box_style, "box_mapping": args.box_mapping and Path(args.box_mapping).stem}
    return {key: value for key, value in given.items() if value}


def build_analyzer(
    args: argparse.Namespace, score_thresh: float | None = LOW_SCORE, *, boxes_alone: bool = False
) -> tuple[FaceAnalyzer, str]:
    """`FaceAnalyzer` of that net with all scores from 0.02 on (None: from what comes with the weights), and what to
    call it. With ``boxes_alone`` points that would take a net time of their own are not looked for.
    """
    net, name = build_detector(args)
    # The number of faces that a net of maps looks at is a cap whatever suppression does: it stays.
    lift_caps = args.soft_nms and isinstance(net, AnchorDetector)
    if boxes_alone and isinstance(net, MaskFaceDetector) and net.num_points:
        net = BoxesAlone(net)
    nms_thresh = 1.0 if args.soft_nms and args.nms is None else args.nms
    # Each run of several has a canvas of its own.
    size = "auto" if long_sides(args) else args.size
    analyzer = FaceAnalyzer(net, size=size, score_thresh=score_thresh, nms_thresh=nms_thresh, batch_size=args.batch)
    if lift_caps:
        # The caps are meant for what suppression leaves. Not -1 for all: the padding of all anchors would be given out.
        net.set_nms(net.nms_thresh, MOST_BOXES, _MOST_FACES, net.score_thresh)
    return analyzer, name


def build_proposer(args: argparse.Namespace) -> tuple[FaceAnalyzer, str]:
    """`most_proposals` of a KPNet's own: those of the scale map, or with another head whatever it proposes; and what to
    call it. The flags are those of `build_analyzer`, ``size`` is a long side, and ``top`` how many of a photo.
    """
    net, name = build_detector(argparse.Namespace(**{**vars(args), "boxes": "proposals"}))
    return most_proposals(net, args.top, args.size, args.batch), name


def most_proposals(net, top: int, size: int, batch: int = 8) -> FaceAnalyzer:
    """An analyzer that gives the `top` best proposals of each photo, suppressed at KPNet's IoU, whatever their score.

    The net itself is changed: its settings of suppression are of no more use.

    Parameters
    ----------
    net : FaceDetector, KeypointDetector or TagDetector
        Scale proposals of the second with ``boxes="proposals"``.
    top : int
    size : int
        Long side of the photos.
    batch : int
        Photos at once.
    """
    # Dozens of anchors propose one face; of a scale map or a heatmap only peaks do, at most one a cell.
    many = MOST_BOXES if isinstance(net, FaceDetector) else min(_MOST_PEAKS, (size // KPNET_SCALES.stride) ** 2)
    net.set_nms(_PROPOSAL_NMS, many, top, 0)
    return FaceAnalyzer(net, size=size, score_thresh=0, batch_size=batch)


def without_threshold(analyzer: FaceAnalyzer) -> FaceAnalyzer:
    """The analyzer's net as one that leaves out no box for its score, only those that overlap a better one.

    The net itself is changed: the given analyzer is of no more use.
    """
    analyzer.net.set_nms(analyzer.net.nms_thresh, MOST_BOXES, -1, 0)
    return FaceAnalyzer(analyzer.net, size=analyzer.canvas_hw, score_thresh=0, batch_size=analyzer.batch_size)


def detect(analyzer: FaceAnalyzer, photos: Iterable, args: argparse.Namespace) -> Iterator[Faces]:
    """Faces of one photo (a path or an array) after another, looked at as the flags say."""
    if not (scales(args) or long_sides(args) or args.flip):
        return analyzer.stream(photos)
    return (_detect_often(analyzer, load_image(photo), args) for photo in photos)


def _detect_often(analyzer: FaceAnalyzer, image, args: argparse.Namespace) -> Faces:
    if long_sides(args):
        # No limit: the sides are those that were asked for.
        return detect_multiscale(
            analyzer, image, long_sides=long_sides(args), flip=args.flip, soft=args.soft_nms, max_long_side=None
        )
    sides = scales(args)
    if sides is None and args.size is not None:  # one scale, given by the long side
        sides = [max(1, round(args.size * min(image.shape[:2]) / max(image.shape[:2])))]
    limit = getattr(args, "max_long_side", MAX_LONG_SIDE)
    return detect_multiscale(analyzer, image, sides, flip=args.flip, soft=args.soft_nms, max_long_side=limit)


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


def match_faces(
    samples: list[FaceSample], detections: list[Faces], iou: float | None = None, least_iou: float = LEAST_IOU
) -> list[Found]:
    """Detections of labelled faces; the best overlap first, from ``least_iou`` on, each face and each detection once.
    With ``iou`` as `best_proposals` chooses them.
    """
    matched = []
    for sample, faces in zip(samples, detections):
        if iou is None:
            rows = closest_proposals(faces.boxes, sample.faces.boxes, least_iou)
        else:
            rows = best_proposals(faces.boxes, faces.scores, sample.faces.boxes, iou)
        matched.append(Found(faces[rows[rows >= 0]], np.flatnonzero(rows >= 0)))
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
