"""Flags that say which detector looks at photos and how, and the detector they ask for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from gluonface import FaceAnalyzer, Faces, get_model, load_image
from gluonface.model_zoo import import_insightface
from gluonface.tta import SHORT_SIDES, detect_multiscale

#: Everything from this score on is evaluated; WIDER FACE's usual choice.
LOW_SCORE = 0.02


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for :func:`build_detector`."""
    group = parser.add_argument_group("detector")
    group.add_argument("--model", metavar="NAME", help="model whose shipped weights run (see `gluonface models`)")
    group.add_argument("--weights", metavar="FILE", help="run these weights of --model instead of the shipped ones")
    group.add_argument("--insightface", metavar="FILE", help="run an InsightFace-style MXNet checkpoint (.params)")
    group.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")


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
    group.add_argument("--batch", type=int, default=8, metavar="N", help="photos at once, one scale (default: 8)")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse combinations of the above that mean nothing."""
    if args.weights and not args.model:
        parser.error("--weights needs the --model they belong to")
    if args.weights and args.insightface:
        parser.error("--weights and --insightface exclude each other")
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
    if scales(args):
        return {"scales": scales(args), "flip": args.flip}
    if isinstance(args.size, tuple):
        return {"size": "x".join(map(str, args.size)), "flip": args.flip}
    return {"size": args.size or "stored", "flip": args.flip}


def build_detector(args: argparse.Namespace):
    """The net that the flags ask for, and what to call it."""
    if args.insightface:
        options = {"name": args.model} if args.model else {}
        net = import_insightface(args.insightface, **options)
        name = f"{Path(args.insightface).name} (imported)"
    else:
        net = get_model(args.model, pretrained=not args.weights, root=args.root)
        name = args.model
        if args.weights:
            net.load_parameters(args.weights)
            name = f"{args.model} ({Path(args.weights).name})"
    net.hybridize()
    return net, name


def build_analyzer(args: argparse.Namespace) -> tuple[FaceAnalyzer, str]:
    """`FaceAnalyzer` of that net with all scores from 0.02 on, and what to call it."""
    net, name = build_detector(args)
    analyzer = FaceAnalyzer(net, size=args.size, score_thresh=LOW_SCORE, nms_thresh=args.nms, batch_size=args.batch)
    return analyzer, name


def detect(analyzer: FaceAnalyzer, photos: Iterable, args: argparse.Namespace) -> Iterator[Faces]:
    """Faces of one photo (a path or an array) after another, looked at as the flags say."""
    if not scales(args) and not args.flip:
        return analyzer.stream(photos)
    return (_detect_often(analyzer, load_image(photo), args) for photo in photos)


def _detect_often(analyzer: FaceAnalyzer, image, args: argparse.Namespace) -> Faces:
    sides = scales(args)
    if sides is None and args.size is not None:  # one scale, given by the long side
        sides = [max(1, round(args.size * min(image.shape[:2]) / max(image.shape[:2])))]
    return detect_multiscale(analyzer, image, sides, flip=args.flip)
