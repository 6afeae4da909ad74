"""The `gluonface` command: ``detect``, ``frames``, ``models``, ``info``, ``compile``, ``export``, ``tune``, ``bench``.
A command is a row of `COMMANDS`.

Sizes are height x width in all of them, as arrays have it.

Exit status: 0 all well, 1 something failed (a photo could not be read), 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import dataclasses
import importlib.util
import itertools
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import __version__
from .box_mapping import BOX_STYLES
from .errors import GluonFaceError, ImageError, InputError, ModelNotFoundError
from .faces import SCHEMES, Face, Faces
from .files import replacing, write_atomically
from .frames import REASONS, FrameRules, stream_best_frames
from .geometry import align_crop, apply_letterbox, clip_boxes, letterbox, warp_image
from .image import IMAGE_SUFFIXES, MAX_PIXELS, iter_image_files, load_image, save_image
from .video import frame_count, read_frames

__all__ = ["COMMANDS", "Command", "main"]


@dataclass(frozen=True)
class Command:
    """A subcommand: its arguments and what it does with them (returning the exit status)."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; `argv` is without the program's name. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="gluonface", description="Find faces in photos.")
    parser.add_argument("--version", action="version", version=f"gluonface {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    try:
        status = args.run(args)
        sys.stdout.flush()
    except (ModelNotFoundError, InputError) as error:
        _say(f"error: {error}")
        return 2
    except GluonFaceError as error:
        _say(f"error: {error}")
        return 1
    except BrokenPipeError:
        # Whoever read our output has left (`| head`). Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return status


def _say(message: str) -> None:
    print(f"gluonface: {message}", file=sys.stderr)


# detect


def _detect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE|DIR|GLOB", help="photos, folders of photos, or patterns")
    _net_arguments(parser)
    output = parser.add_argument_group("output (without any: a line for each photo and face)")
    output.add_argument("--out", type=Path, metavar="DIR", help="write the photos with boxes and points drawn")
    output.add_argument("--json", metavar="FILE|-", help="write one JSON object a photo and line; - is standard output")
    output.add_argument("--csv", metavar="FILE|-", help="write a table with one face a row")
    output.add_argument(
        "--crops", type=Path, metavar="DIR", help="write each face, aligned by its points, 112x112 as PNG"
    )
    output.add_argument(
        "--draw-mesh",
        choices=("wireframe", "shaded", "parts"),  # those of viz.draw_mesh, which is not read for --help
        help="of a detector with meshes: draw these in the place of the points on the photos of --out",
    )
    output.add_argument(
        "--meshes",
        type=Path,
        metavar="DIR",
        help="of a detector with meshes: write that of each face as OBJ, coloured by the photo",
    )
    output.add_argument("--quiet", action="store_true", help="say nothing but errors")
    _running_arguments(parser, "photos", 8)


def _net_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="detector (see `gluonface models`)")
    parser.add_argument(
        "--landmarks", metavar="NAME", help="landmark net: dense points of each face, from a crop of it"
    )
    parser.add_argument(
        "--artefact", type=Path, metavar="PATH", help="compiled detector instead of --model: runs without MXNet"
    )
    parser.add_argument(
        "--landmarks-artefact", type=Path, metavar="PATH", help="compiled landmark net, beside --artefact"
    )
    parser.add_argument(
        "--topology",
        metavar="NPZ",
        help="of a detector with meshes: what their vertices are, for the pose (default: the 468 of the package)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default="auto",
        metavar="N|N,N|HxW|stored",
        help="long side in pixels at which to look, several (of photos only), a canvas, or the photo's own size "
        "(default: what the model is for)",
    )
    parser.add_argument("--score", type=_fraction, metavar="S", help="leave out weaker faces (default: the model's)")
    parser.add_argument("--nms", type=_fraction, metavar="T", help="IoU above which the weaker of two boxes goes")
    parser.add_argument("--max-faces", type=_positive, metavar="N", help="at most N faces a photo, the best")
    _box_style_argument(parser)


def _box_style_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--box-style", choices=BOX_STYLES, help="what the boxes of a net are that has them from points, such as KPNet"
    )


def _running_arguments(parser: argparse.ArgumentParser, what: str, batch: int) -> None:
    running = parser.add_argument_group("running")
    running.add_argument("--gpu", type=_natural, metavar="ID", help="run on that GPU")
    running.add_argument("--threads", type=_positive, metavar="N", help="of a compiled net (default: 1)")
    running.add_argument(
        "--batch", type=_positive, default=batch, metavar="N", help=f"{what} at once (default: {batch})"
    )
    running.add_argument(
        "--max-pixels",
        type=_positive,
        default=MAX_PIXELS,
        metavar="N",
        help=f"refuse larger {what} (default: {MAX_PIXELS})",
    )
    running.add_argument("--root", type=Path, metavar="DIR", help="folder of weights, searched before the package's")


def _detect(args: argparse.Namespace) -> int:
    files = iter_image_files(args.inputs)
    if not files:
        raise InputError(f"no image files ({' '.join(IMAGE_SUFFIXES)}) in {', '.join(args.inputs)}")
    if args.json == args.csv == "-":
        raise InputError("--json - and --csv - cannot both go to standard output")
    stems = _output_stems(files)
    drawn = {} if args.out is None else _drawn_paths(files, stems, args.out)
    pictures = any(value is not None for value in (args.out, args.crops, args.meshes))
    silent = pictures or args.json is not None or args.csv is not None
    meshes = args.draw_mesh is not None or args.meshes is not None
    if args.draw_mesh is not None and args.out is None:
        raise InputError("--draw-mesh goes with --out, the folder for the drawn photos")
    if meshes and isinstance(args.size, list):
        raise InputError("--draw-mesh and --meshes go with one --size: of several looks at a photo no mesh is kept")

    # Outputs are opened before the model is loaded: a wrong path is known at once.
    with contextlib.ExitStack() as stack:
        if args.quiet:
            logger = logging.getLogger("gluonface")
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        json_file = None if args.json is None else stack.enter_context(_output(args.json))
        csv_file = None if args.csv is None else stack.enter_context(_output(args.csv))
        table = None if csv_file is None else csv.writer(csv_file, lineterminator="\n")
        for folder in (args.out, args.crops, args.meshes):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        analyzer = _analyzer(args)
        dense = None if analyzer.landmarks is None else analyzer.landmarks.facts.scheme
        if table is not None:
            table.writerow(_csv_columns(dense))
        topology = None
        bad = found = 0
        with _progress(len(files), show=silent and not args.quiet) as step:
            several = isinstance(args.size, list)
            stream = _several_sizes(analyzer, files, args) if several else analyzer.stream(files, on_error="return")
            for i, result in enumerate(stream):
                file = files[i]
                try:
                    if isinstance(result, ImageError):
                        raise result
                    if meshes and topology is None:
                        topology = _topology_of(result, analyzer)
                    if pictures:
                        _write_pictures(args, file, result, drawn.get(file), stems[file], topology)
                except ImageError as error:
                    bad += 1
                    step(f"gluonface: skipped {error}")
                    continue
                found += len(result)
                if json_file is not None:
                    json_file.write(json.dumps(result.to_dict(file, analyzer.detector_name), allow_nan=False) + "\n")
                if table is not None:
                    table.writerows(_csv_rows(file, result, dense))
                if not silent and not args.quiet:
                    print("\n".join(_lines(file, result)), flush=True)
                step()
    if not args.quiet:
        skipped = f", {bad} skipped" if bad else ""
        _say(f"{_count(found, 'face')} in {_count(len(files) - bad, 'photo')}{skipped} ({analyzer.detector_name})")
    return 1 if bad else 0


def _several_sizes(analyzer, files: Sequence[str], args: argparse.Namespace) -> Iterator[Faces | ImageError]:
    """As ``analyzer.stream(files, on_error="return")``, each photo looked at with several long sides."""
    from .tta import detect_multiscale

    for file in files:
        try:
            image = load_image(file, max_pixels=args.max_pixels)
        except ImageError as error:
            yield error
            continue
        yield detect_multiscale(analyzer, image, long_sides=args.size, flip=False, max_long_side=None)


def _analyzer(args: argparse.Namespace):
    if args.artefact is not None:
        return _compiled_analyzer(args)
    for option in ("landmarks_artefact", "threads"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} goes with --artefact, a compiled detector")

    from ._compat import mx  # MXNet takes a second to load: not for --help
    from .pipeline import FaceAnalyzer

    ctx = mx.cpu()
    if args.gpu is not None:
        gpus = mx.context.num_gpus()
        if args.gpu >= gpus:
            raise InputError(
                f"--gpu {args.gpu}: MXNet sees {_count(gpus, 'GPU')}"
                + ("" if gpus else '; it takes an MXNet for CUDA: pip install "gluonface[cu112]"')
            )
        ctx = mx.gpu(args.gpu)
    analyzer = FaceAnalyzer(
        args.model,
        landmarks=args.landmarks,
        topology=_topology(args),
        ctx=ctx,
        size="auto" if isinstance(args.size, list) else args.size,
        score_thresh=args.score,
        nms_thresh=args.nms,
        max_faces=args.max_faces,
        batch_size=args.batch,
        root=args.root,
        max_pixels=args.max_pixels,
    )
    if args.box_style is not None:
        if not hasattr(analyzer.net, "set_box_style"):
            raise InputError(
                f"--box-style goes with a net that has its boxes from points, such as KPNet; {analyzer.detector_name} "
                "has boxes of its own: leave it out"
            )
        analyzer.net.set_box_style(args.box_style)
    return analyzer


def _topology(args: argparse.Namespace):
    """What the vertices of meshes are, as --topology says; None: as the analyzer takes it."""
    if args.topology is None:
        return None
    from .mesh import load_topology

    return load_topology(args.topology)


def _topology_of(faces: Faces, analyzer):
    """What the vertices of the faces' meshes are: as --topology says, by default the 468 of the package."""
    if faces.mesh is None:
        raise InputError(
            "--draw-mesh and --meshes go with a detector that finds meshes, such as "
            f"retinaface_mobilenet0.25_mesh468_fc26; {analyzer.detector_name} finds none"
        )
    from .mesh import topology_468

    topology = analyzer.topology or topology_468()
    if faces.mesh.shape[1] != topology.num_vertices:
        raise InputError(f"the meshes found have {faces.mesh.shape[1]} vertices: say what they are with --topology")
    return topology


def _compiled_analyzer(args: argparse.Namespace):
    for option in ("model", "landmarks", "nms", "box_style", "gpu", "root"):
        if getattr(args, option) is not None:
            hint = {
                "landmarks": "; a compiled landmark net is --landmarks-artefact",
                **dict.fromkeys(("nms", "box_style"), " (it is compiled in)"),
            }
            raise InputError(f"--{option.replace('_', '-')} does not go with --artefact{hint.get(option, '')}")

    from .deploy import runtime

    analyzer = runtime.load(
        args.artefact,
        landmarks=args.landmarks_artefact,
        topology=_topology(args),
        threads=args.threads or 1,
        size="auto" if isinstance(args.size, list) else args.size,
        score_thresh=args.score,
        max_faces=args.max_faces,
        batch_size=args.batch,
    )
    if isinstance(analyzer, runtime.CompiledLandmarks):
        raise InputError(f"--artefact {args.artefact} is a landmark net: give it as --landmarks-artefact to a detector")
    analyzer.max_pixels = args.max_pixels
    return analyzer


def _lines(file: str, faces: Faces) -> list[str]:
    """What is printed of a photo when no output is asked for."""
    height, width = faces.size_hw
    lines = [f"{file}: {_count(len(faces), 'face')} ({width}x{height})"]
    for face in faces:
        x1, y1, x2, y2 = (round(float(value)) for value in face.box)
        pose = ""
        if face.pose is not None:
            yaw, pitch, roll = np.round(face.pose[0]) + 0.0  # no -0
            pose = f"  yaw {yaw:+.0f} pitch {pitch:+.0f} roll {roll:+.0f}"
        elif np.isfinite(face.roll[0]):
            pose = f"  roll {np.round(face.roll[0]) + 0.0:+.0f}"
        lines.append(f"  {face.score:.3f}  box {x1} {y1} {x2} {y2}  {x2 - x1}x{y2 - y1}{pose}")
    return lines


#: The last columns of a table; of a detector without pose the first two are empty, and the roll is that of the points.
_ANGLES = ("yaw", "pitch", "roll")


def _csv_columns(dense: str | None) -> list[str]:
    """Names of the columns; `dense` is the scheme of the dense landmarks, if there are some."""
    points = [name.replace(" ", "_") for name in SCHEMES["5"].names]
    points += [f"p{i}" for i in range(SCHEMES[dense].num_points)] if dense else []
    coordinates = [f"{name}_{axis}" for name in points for axis in "xy"]
    return ["image", "width", "height", "face", "x1", "y1", "x2", "y2", "score", *coordinates, *_ANGLES]


def _csv_rows(file: str, faces: Faces, dense: str | None) -> Iterator[list]:
    d = faces.to_dict(file)
    for i, face in enumerate(d["faces"]):
        points = [value for point in face.get("landmarks5", [("", "")] * 5) for value in point]
        if dense:
            points += [value for point in face["landmarks"] for value in point]
        # The shortest decimals, as all the numbers of a row.
        roll = str(faces.roll[i]) if np.isfinite(faces.roll[i]) else ""
        pose = face.get("pose", {"roll": roll})
        pose = [pose.get(angle, "") for angle in _ANGLES]
        yield [file, d["width"], d["height"], i, *face["box"], face["score"], *points, *pose]


def _write_pictures(
    args: argparse.Namespace, file: str, faces: Faces, drawn: Path | None, stem: Path, topology=None
) -> None:
    # Read again instead of kept: a batch of large photos would fill the memory.
    image = load_image(file, max_pixels=args.max_pixels)
    if drawn is not None:
        from .viz import draw_faces, draw_mesh

        picture = image if args.draw_mesh is None else draw_mesh(image, faces.mesh, topology, args.draw_mesh)
        drawn.parent.mkdir(parents=True, exist_ok=True)
        save_image(drawn, draw_faces(picture, faces, points=args.draw_mesh is None))
    if args.crops is not None:
        for i, face in enumerate(faces):
            save_image(_path_of_face(args.crops, stem, i, ".png"), _crop(image, face))
    if args.meshes is not None:
        from .mesh import export_mesh

        for i, mesh in enumerate(faces.mesh):
            export_mesh(_path_of_face(args.meshes, stem, i, ".obj"), mesh, topology, image)


def _path_of_face(folder: Path, stem: Path, number: int, suffix: str) -> Path:
    """Where something of a photo's face is written, in a folder that is there."""
    path = folder / stem.parent / f"{stem.name}_{number}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _crop(image: np.ndarray, face: Face, size: int = 112) -> np.ndarray:
    """A face aligned by its points, the dense ones where known; without (or with all in one place) its box, squared."""
    if face.landmarks5 is not None or face.landmarks is not None:
        try:
            return align_crop(image, face.alignment_points[0], size)
        except InputError:
            logging.getLogger(__name__).warning("all points of a face lie in one place: cropped by its box")
    x1, y1, x2, y2 = (float(value) for value in clip_boxes(face.box, image.shape[:2]))
    scale = size / max(x2 - x1, y2 - y1)
    shift = size / 2 - scale * (x1 + x2) / 2, size / 2 - scale * (y1 + y2) / 2
    return warp_image(image, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), (size, size))


def _output_stems(files: Sequence[str]) -> dict[str, Path]:
    """A path without suffix for what is written of each file: no two alike, folders kept below the one all share."""
    absolute = {file: Path(os.path.abspath(file)) for file in files}  # noqa: PTH100  (resolve() would follow links)
    root = Path(os.path.commonpath([path.parent for path in absolute.values()]))
    stems = {file: path.relative_to(root).with_suffix("") for file, path in absolute.items()}
    count = collections.Counter(str(stem).casefold() for stem in stems.values())
    taken: set[str] = set()
    for file, stem in stems.items():
        if count[str(stem).casefold()] > 1:  # a.jpg and a.png become a_jpg and a_png
            stem = stem.with_name(absolute[file].name.replace(".", "_"))
        unique, number = stem, 2
        while str(unique).casefold() in taken:
            unique, number = stem.with_name(f"{stem.name}-{number}"), number + 1
        taken.add(str(unique).casefold())
        stems[file] = unique
    return stems


def _drawn_paths(files: Sequence[str], stems: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Where each photo is drawn to; never onto a photo that is read."""
    paths = {}
    for file in files:
        suffix = Path(file).suffix.lower()
        # GIF has 256 colours, and a name without a known suffix says no format.
        suffix = suffix if suffix in IMAGE_SUFFIXES and suffix != ".gif" else ".png"
        paths[file] = folder / stems[file].with_name(stems[file].name + suffix)
    inputs = {Path(file).resolve() for file in files}
    for path in paths.values():
        if path.resolve() in inputs:
            raise InputError(f"--out {folder} would overwrite the photo {path}: choose another folder")
    return paths


@contextlib.contextmanager
def _output(path: str) -> Iterator:
    """A text file that appears when it is complete; "-" is standard output."""
    if path == "-":
        yield sys.stdout
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextlib.contextmanager
def _progress(total: int | None, show: bool, unit: str = "photos") -> Iterator[Callable]:
    """A function to call once a photo, with a message for standard error or none; draws a bar where someone sees it,
    one without an end where the total is unknown.
    """
    bar = None
    if show and total != 1 and sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
        from tqdm import tqdm

        bar = tqdm(total=total, unit=f" {unit}", file=sys.stderr, leave=False)

    def step(message: str | None = None) -> None:
        if message:
            (print if bar is None else bar.write)(message, file=sys.stderr)
        if bar is not None:
            bar.update()

    try:
        yield step
    finally:
        if bar is not None:
            bar.close()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _positive(text: str) -> int:
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def _natural(text: str) -> int:
    return _number(text, int, lambda value: value >= 0, "a whole number of at least 0")


def _fraction(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _angle(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value <= 180, "degrees from 0 to 180")


def _length(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value < float("inf"), "a number of at least 0")


def _number(text: str, kind: type, good: Callable, expected: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def _size(text: str) -> int | list[int] | tuple[int, int] | str | None:
    """A long side, a list of several, a canvas (height, width), "auto", or None: as stored."""
    if text in ("stored", "auto"):
        return None if text == "stored" else text
    separator = "," if "," in text else "x"
    try:
        sides = [_positive(side) for side in text.lower().split(separator)]
    except argparse.ArgumentTypeError:
        sides = []
    if separator == "," and sides:
        return sides
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(
            f'expected a long side (640), several (256,640), height x width (480x640) or "stored", got {text!r}'
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


# frames


def _frames_arguments(parser: argparse.ArgumentParser) -> None:
    rules = FrameRules()
    parser.add_argument(
        "video", metavar="VIDEO", help="a video file, an address (rtsp://...), a camera's number, a folder of pictures"
    )
    _net_arguments(parser)
    choosing = parser.add_argument_group("choosing")
    choosing.add_argument(
        "--per-face",
        type=_positive,
        default=rules.per_face,
        metavar="N",
        help="frames of each face, the best (default: %(default)s)",
    )
    choosing.add_argument(
        "--min-gap",
        type=_length,
        default=rules.min_gap_seconds,
        metavar="S",
        help="seconds between the frames of one face (default: %(default)s)",
    )
    choosing.add_argument(
        "--min-frames",
        type=_positive,
        default=rules.min_frames,
        metavar="N",
        help="leave out faces seen in fewer frames (default: %(default)s)",
    )
    for name in ("yaw", "pitch", "roll"):
        choosing.add_argument(
            f"--max-{name}",
            type=_angle,
            default=getattr(rules, f"max_{name}"),
            metavar="DEGREES",
            help="leave out frames with a larger one, either way (default: %(default)g)",
        )
    choosing.add_argument(
        "--min-size",
        type=_length,
        default=rules.min_size,
        metavar="PIXELS",
        help="leave out smaller faces: square root of the box's area (default: %(default)g)",
    )
    choosing.add_argument(
        "--min-sharpness",
        type=_fraction,
        default=rules.min_sharpness,
        metavar="S",
        help="leave out more blurred faces (default: %(default)s)",
    )
    choosing.add_argument(
        "--min-exposure",
        type=_fraction,
        default=rules.min_exposure,
        metavar="S",
        help="leave out faces with a smaller share of pixels neither black nor white (default: %(default)s)",
    )
    choosing.add_argument(
        "--report",
        type=_length,
        metavar="S",
        help="write a face that stays every S seconds (default: when it has gone)",
    )
    reading = parser.add_argument_group("reading")
    reading.add_argument(
        "--step", type=_positive, default=1, metavar="N", help="look at every N-th frame only (default: 1)"
    )
    reading.add_argument("--max-frames", type=_positive, metavar="N", help="stop after looking at N frames")
    reading.add_argument("--fps", type=_length, metavar="F", help="frames a second, instead of the times in the file")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="write faces, contact_sheet.jpg and frames.jsonl there",
    )
    output.add_argument(
        "--align", action="store_true", help="write each face aligned by its five points, too: 112x112 as PNG"
    )
    output.add_argument(
        "--json", metavar="FILE|-", help="write frames.jsonl, an object a face and line, there; - is standard output"
    )
    output.add_argument("--quiet", action="store_true", help="say nothing but errors")
    _running_arguments(parser, "frames", 4)


def _frames(args: argparse.Namespace) -> int:
    rules = FrameRules(
        per_face=args.per_face,
        min_gap_seconds=args.min_gap,
        min_frames=args.min_frames,
        max_yaw=args.max_yaw,
        max_pitch=args.max_pitch,
        max_roll=args.max_roll,
        min_size=args.min_size,
        min_sharpness=args.min_sharpness,
        min_exposure=args.min_exposure,
        align=args.align,
        report_seconds=args.report,
    )
    if isinstance(args.size, list):
        raise InputError("--size with several long sides is for photos (gluonface detect); give one")
    video = int(args.video) if args.video.isdecimal() and not Path(args.video).exists() else args.video
    # What is wrong with the file is known before the model is loaded.
    frames = read_frames(video, args.step, args.max_frames, fps=args.fps, max_pixels=args.max_pixels)
    dropped: collections.Counter = collections.Counter()
    tiles: list[np.ndarray] = []
    looked = faces = tracks = short = chosen = shown = 0
    with contextlib.ExitStack() as stack:
        if args.quiet:
            logger = logging.getLogger("gluonface")
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        args.out.mkdir(parents=True, exist_ok=True)
        lines = stack.enter_context(_output(str(args.out / "frames.jsonl") if args.json is None else args.json))
        analyzer = _analyzer(args)
        stopped = stack.enter_context(_interrupt_noted())
        stack.enter_context(contextlib.closing(frames))
        total = frame_count(video, args.step, args.max_frames)
        step = stack.enter_context(_progress(total, show=not args.quiet, unit="frames"))

        def note(frame, found, ids) -> None:
            nonlocal looked, faces
            looked += 1
            faces += int((ids >= 0).sum())
            step()

        until = itertools.takewhile(lambda _: not stopped(), frames)
        for track in stream_best_frames(analyzer, until, rules, batch_size=args.batch, on_frame=note):
            dropped.update(track.dropped)
            tracks += 1
            short += track.count < rules.min_frames
            files = _write_choices(args.out, track)
            chosen += len(files)
            shown += bool(files)
            if len(tiles) < _SHEET_TILES:
                tiles += [_tile(choice.crop) for choice in track.best]
            row = {"video": str(args.video), "model": analyzer.detector_name, **track.to_dict()}
            for best, names in zip(row["best"], files):
                best.update(names)
            lines.write(json.dumps(row, allow_nan=False) + "\n")
            lines.flush()
        if tiles:
            from .viz import contact_sheet

            save_image(args.out / "contact_sheet.jpg", contact_sheet(tiles[:_SHEET_TILES], (_TILE, _TILE)))
    if not args.quiet:
        _say(
            f"{_count(chosen, 'picture')} of {shown} of {_count(tracks, 'face')} in {_count(looked, 'frame')} "
            f"({analyzer.detector_name}), in {args.out}"
        )
        reasons = [f"{REASONS[name]} {dropped[name]}" for name in REASONS if dropped[name]]
        if reasons:
            _say(f"not fit, of {_count(faces, 'view')}: {', '.join(reasons)}")
        if short:
            _say(f"left out: {_count(short, 'face')} seen in fewer than {rules.min_frames} frames (--min-frames)")
        if stopped():
            _say("interrupted")
    return 130 if stopped() else 0


# Pictures on the contact sheet, and the side of one, in pixels.
_SHEET_TILES, _TILE = 400, 160


def _write_choices(folder: Path, track) -> list[dict[str, str]]:
    """Write the pictures of a track; their names, as they stand in the JSON."""
    written = []
    for choice in track.best:
        stem = f"track-{track.id:03d}_frame-{choice.index:06d}_yaw{round(float(choice.pose[0])):+03d}"
        names = {"file": f"{stem}.jpg"}
        save_image(folder / names["file"], choice.crop)
        if choice.aligned is not None:
            names["aligned_file"] = f"{stem}_aligned.png"
            save_image(folder / names["aligned_file"], choice.aligned)
        written.append(names)
    return written


def _tile(crop: np.ndarray) -> np.ndarray:
    """A copy no larger than a tile of the contact sheet."""
    return apply_letterbox(crop, letterbox(crop.shape[:2], (_TILE, _TILE)), pad_value=(255, 255, 255))


@contextlib.contextmanager
def _interrupt_noted() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed, which then ends nothing at once: a camera has no other end. The
    second time it does as ever.
    """
    pressed = False

    def note(signum, frame) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: pressed
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


# models, info


def _models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--filter", default="*", metavar="PATTERN", help='such as "retinaface_*"')
    parser.add_argument("--trained", action="store_true", help="only models whose weights are here")
    parser.add_argument("--task", metavar="TASK", help="only models for it: detection or landmarks")
    parser.add_argument("--json", action="store_true", help="all facts of each model, as a JSON list")
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of weights, searched before the package's")


def _models(args: argparse.Namespace) -> int:
    from .model_zoo import list_models, model_facts

    names = list_models(args.filter, pretrained=args.trained, root=args.root, task=args.task)
    facts = [model_facts(name, args.root) for name in names]
    if args.json:
        print(json.dumps([dataclasses.asdict(fact) for fact in facts], indent=2))
        return 0
    if not facts:
        _say(f"no model matches {args.filter!r}" + (" and is trained" if args.trained else ""))
        return 1
    rows = [("name", "parameters", "GF", "trained", "licence of the weights", "measured")]
    for fact in facts:
        label, value = next(iter((fact.metric or {}).items()), ("", ""))
        rows.append(
            (
                fact.name,
                f"{fact.params / 1e6:.2f} M",
                f"{fact.gf:.2f}",
                "yes" if fact.trained else "no",
                fact.licence,
                f"{label} {_figure(label, value)}".strip(),
            )
        )
    print(_table(rows, right=(1, 2)))
    return 0


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model (see `gluonface models`)")
    parser.add_argument("--json", action="store_true", help="as a JSON object")
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of weights, searched before the package's")


def _info(args: argparse.Namespace) -> int:
    from .model_zoo import model_facts

    facts = dataclasses.asdict(model_facts(args.name, args.root))
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    rows = []
    for key, value in facts.items():
        if key == "metric":
            rows += [("measured", f"{_figure(label, figure)}  {label}") for label, figure in (value or {}).items()]
        elif value not in (None, ""):
            rows.append((key.replace("_", " "), _fact(key, value)))
    print(_table(rows))
    return 0


def _fact(key: str, value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    return f"{value:,}" if key == "params" else str(value)


def _figure(label: str, value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{100 * value:.2f} %" if label.startswith("NME") else f"{value:.3f}"


# compile, export, tune, bench


def _shape_arguments(parser: argparse.ArgumentParser, many: bool) -> None:
    number = {"nargs": "+"} if many else {}
    parser.add_argument(
        "--size",
        type=_canvas,
        metavar="N|HxW",
        help="side of a square input, or height x width: 480x640 is a landscape photo (default: what the model is for)",
        **number,
    )
    parser.add_argument(
        "--batch",
        type=_positive,
        default=[1] if many else 1,
        metavar="N",
        help="images in a call (default: 1)",
        **number,
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of weights, searched before the package's")


def _target_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        default="native",
        metavar="T",
        help="what it is to run on, such as x86-64-v3 or cortex-a76; a wrong one lists them all (default: native, this "
        "machine)",
    )


def _compile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model with weights (see `gluonface models`)")
    _target_argument(parser)
    _shape_arguments(parser, many=True)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR|ZIP", help="folder to make, or a file that ends in .zip"
    )
    parser.add_argument(
        "--bundle", action="store_true", help="put TVM's runtime libraries in it, so that it runs without TVM installed"
    )
    parser.add_argument(
        "--objects",
        action="store_true",
        help="stop before linking: a folder of object files and the line that links them, for `gluonface pack`",
    )
    parser.add_argument(
        "--records",
        default="shipped",
        metavar="FILE|none",
        help="tuned schedules of `gluonface tune` (default: those that come with the package for the target)",
    )
    _box_style_argument(parser)
    parser.add_argument(
        "--face-batch",
        type=_positive,
        nargs="+",
        metavar="N",
        help="faces looked at together by a net with a second pass for points, MaskFace (default: 1 8)",
    )


def _compile(args: argparse.Namespace) -> int:
    from .deploy.build import compile_model
    from .deploy.runtime import open_artifact

    def compile_to(out: Path, sizes, batches, say: Callable[[str], None]):
        made = compile_model(
            args.name,
            out,
            target=args.target,
            sizes=sizes,
            batches=batches,
            records=None if args.records == "none" else args.records,
            bundle=args.bundle,
            as_zip=out.suffix == ".zip",
            objects=args.objects,
            root=args.root,
            box_style=args.box_style,
            **({"face_batches": args.face_batch} if args.face_batch else {}),
            say=say,
        )
        return None if args.objects else open_artifact(made, check_host=False)

    if args.objects:
        compile_to(args.out, args.size, args.batch, _say)
        line = (args.out / "link.txt").read_text(encoding="utf-8").strip()
        rows = [("written", f"object files in {args.out} for {args.target}"), ("link there with", line)]
        rows.append(("then", f"gluonface pack {args.out} --library model.so --out ARTEFACT"))
        print(_table(rows))
        return 0
    # That it is not tuned is said below, with what to do.
    artifact = compile_to(args.out, args.size, args.batch, lambda text: text.startswith("warning:") or _say(text))
    manifest, first = artifact.manifest, artifact.manifest.buckets[0]
    library = artifact.library.stat().st_size
    growth = ""
    if len(manifest.buckets) > 1:
        with tempfile.TemporaryDirectory() as folder:
            alone = compile_to(Path(folder) / "first", [first.size_hw], [first.batch], lambda text: None)
            each = (library - alone.library.stat().st_size) / (len(manifest.buckets) - 1)
        growth = f", of which each shape after the first {each / 2**20:+.2f}"
    rows = [("written", f"{args.out} for {args.target}")]
    rows.append(("library", f"{library / 2**20:.2f} MiB with the weights{growth}"))
    rows += [
        ("shape", f"{b.function}: {_count(b.batch, 'image')} {b.size_hw[1]} wide and {b.size_hw[0]} high")
        for b in manifest.buckets
    ]
    rows.append(("schedules", manifest.schedules.text))
    rows.append(("licence", _licence(manifest.facts)))
    print(_table(rows))
    if not manifest.schedules.tuned:
        _say(
            f"WARNING: NOT TUNED for this target and these shapes ({manifest.schedules.text}). It computes the same, "
            f"but slower than it could. `{_tuning_of(args)}` writes records for --records."
        )
    return 0


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what `gluonface compile --objects` made")
    parser.add_argument("--library", type=Path, required=True, metavar="SO", help="what was linked of its object files")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR|ZIP", help="folder to make, or a file that ends in .zip"
    )


def _pack(args: argparse.Namespace) -> int:
    from .deploy.build import pack_objects

    print(f"written  {pack_objects(args.folder, args.library, args.out, args.out.suffix == '.zip')}")
    return 0


def _licence(facts) -> str:
    return f"{facts.licence}. {facts.terms}".strip()


def _tuning_of(args: argparse.Namespace) -> str:
    """The command that tunes what was compiled."""
    sizes = " ".join("x".join(map(str, size)) if isinstance(size, tuple) else str(size) for size in args.size or ())
    words = ["gluonface tune", args.name, "--target", args.target]
    words += [f"--size {sizes}"] if sizes else []
    words += [f"--batch {' '.join(map(str, args.batch))}"] if args.batch != [1] else []
    return " ".join([*words, "--records FILE"])


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model with weights (see `gluonface models`)")
    parser.add_argument("--onnx", type=Path, required=True, metavar="OUT", help="file to write")
    _shape_arguments(parser, many=False)
    parser.add_argument(
        "--raw", action="store_true", help="the network's predictions alone, without decoding and suppression"
    )
    parser.add_argument(
        "--max-faces",
        type=_positive,
        metavar="N",
        help="of a detector: faces given out at most (default: 750; 100 of KPNet). A graph of fixed shapes works out "
        "points (MaskFace) and meshes for so many in every photo: a few make such a net many times as fast",
    )


def _export(args: argparse.Namespace) -> int:
    from .deploy.onnx_export import export_onnx
    from .model_zoo import get_model, model_facts

    facts = model_facts(args.name, args.root)
    if args.max_faces and (args.raw or facts.task != "detection"):
        raise InputError("--max-faces: expected a whole detector, got " + ("--raw" if args.raw else args.name))
    net = args.name
    if args.max_faces:
        net = get_model(args.name, pretrained=True, root=args.root, post_nms=args.max_faces)
    size = args.size or facts.size
    height, width = (size, size) if isinstance(size, int) else size
    args.onnx.parent.mkdir(parents=True, exist_ok=True)
    path = export_onnx(net, args.onnx, size=size, batch=args.batch, whole=not args.raw, root=args.root)
    rows = [("written", f"{path} ({path.stat().st_size / 2**20:.2f} MiB)")]
    rows.append(("input", f"{_count(args.batch, 'image')} {width} wide and {height} high, (rgb / 255 - mean) / std"))
    rows.append(("mean", _fact("mean", facts.mean)))
    rows.append(("std", _fact("std", facts.std)))
    rows.append(("licence", _licence(facts)))
    print(_table(rows))
    return 0


def _tune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model with weights (see `gluonface models`)")
    _target_argument(parser)
    parser.add_argument(
        "--trials", type=_positive, default=32, metavar="N", help="schedules measured of each kernel (default: 32)"
    )
    _shape_arguments(parser, many=True)
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        help="file of records, added to if it is there: a run that was stopped goes on (default: TARGET.json)",
    )
    parser.add_argument("--minutes", type=_above_zero, metavar="M", help="stop after so long")
    _rpc_arguments(parser)


def _tune(args: argparse.Namespace) -> int:
    device = _device(args)

    from .deploy.build import tune_model

    path = args.records or Path(f"{args.target}.json")
    tune_model(
        args.name,
        target=args.target,
        sizes=args.size,
        batches=args.batch,
        trials=args.trials,
        path=path,
        rpc=device,
        minutes=args.minutes,
        root=args.root,
        say=_say,
    )
    print(f"{path}: gluonface compile {args.name} --target {args.target} --records {path} --out DIR")
    return 0


def _rpc_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on another device (both, or none)")
    group.add_argument("--rpc", type=_address, metavar="HOST:PORT", help="TVM's RPC tracker, which knows the device")
    group.add_argument("--key", metavar="K", help="key under which the device registered there")


def _device(args: argparse.Namespace) -> tuple[str, int, str] | None:
    """Host, port and key of a device that is not this one."""
    if (args.rpc is None) != (args.key is None):
        raise InputError("--rpc and --key belong together: the tracker's address, and the device's key there")
    return None if args.rpc is None else (*args.rpc, args.key)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artefact", type=Path, metavar="ARTEFACT", help="folder or zip of `gluonface compile`")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="ENGINE",
        help="onnxruntime, openvino, openvino_bf16, ncnn, mxnet; with mxnet, differences to it are shown",
    )
    parser.add_argument("--threads", type=_positive, default=1, metavar="N", help="of every engine (default: 1)")
    parser.add_argument(
        "--function", metavar="NAME", help="which compiled shape, such as b1_480x640, height first (default: the first)"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="PHOTO",
        help="photos to look at instead of a drawn one; of a landmark net each is one face that fills it",
    )
    parser.add_argument("--rounds", type=_positive, default=50, metavar="N", help="turns of each engine (default: 50)")
    parser.add_argument(
        "--seconds",
        type=_above_zero,
        default=300.0,
        metavar="S",
        help="start no new round after so long (default: 300)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result")
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of weights, searched before the package's")
    _rpc_arguments(parser)


def _bench(args: argparse.Namespace) -> int:
    device = _device(args)
    if device is not None and (args.against or args.images):
        raise InputError("--rpc measures the artefact's network alone: no --against, no --images")

    from .deploy.bench import bench, bench_remote

    shared = {"function": args.function, "threads": args.threads, "rounds": args.rounds}
    if device is None:
        settings = {"against": args.against, "photos": args.images, "seconds": args.seconds, "root": args.root}
        result = bench(args.artefact, **settings, **shared, say=_say)
    else:
        host, port, key = device
        result = bench_remote(args.artefact, host=host, port=port, key=key, **shared)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, json.dumps(result, indent=1, allow_nan=False) + "\n")
    print("\n".join(_bench_lines(result)))
    return 0


def _bench_lines(result: dict) -> Iterator[str]:
    """A result of `gluonface.deploy.bench.bench` for people to read."""
    height, width = result["size_hw"]
    yield (
        f"{result['model']}, {_count(result['batch'], 'image')} {width} wide and {height} high, "
        f"{_count(result['threads'], 'thread')} of {result['machine']['cpu']}, median of {result['rounds']} rounds"
    )
    rows = [("", "network ms", "ratio", "end to end ms", "ratio", "GFLOP/s", "of peak")]
    for name, ms in result["median_ms"].items():
        ratio, whole = result["ratios"].get(name), result["end_to_end_ms"].get(name)
        whole_ratio, share = result.get("end_to_end_ratios", {}).get(name), result.get("share_of_peak", {}).get(name)
        cells = [f"{ms:.2f}", *("-" if v is None else f"{v:.2f}" for v in (ratio, whole, whole_ratio))]
        rows.append((name, *cells, f"{result['gflops'][name]:.0f}", "-" if share is None else f"{100 * share:.0f} %"))
    yield _table(rows, right=range(1, 7))
    yield "network: raw predictions; of the artefact all that it does, with normalisation, decoding and suppression"
    if result["ratios"]:
        yield "ratio: the artefact's time over the engine's, the median over rounds; below 1 the artefact is faster"
    for name, row in result.get("max_difference", {}).items():
        words = ", ".join(f"{key.replace('_', '-')} {value:.2g}" for key, value in row.items() if key != "faces")
        yield f"difference to mxnet, {name}: {words}"
    if "start_up" in result:
        start, memory = result["start_up"]["ms"], result["start_up"]["peak_memory_mib"]
        yield f"a new process has the artefact loaded after {start:.0f} ms" + (
            "" if memory is None else f"; at most {memory:.0f} MiB with a photo"
        )
    if not result["artefact"]["tuned"]:
        yield f"not tuned: {result['artefact']['schedules']}"


def _above_zero(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


def _canvas(text: str) -> int | tuple[int, int]:
    size = None if text in ("stored", "auto") else _size(text)
    if size is None or isinstance(size, list):
        raise argparse.ArgumentTypeError(f"expected a side (640) or height x width (480x640), got {text!r}")
    return size


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, such as 192.168.1.5:9190, got {text!r}")
    return host.strip("[]"), int(port)


def _table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell; those in `right` end flush."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


COMMANDS = (
    Command("detect", "Find the faces in photos.", _detect_arguments, _detect),
    Command("frames", "Choose the frames of a video in which each face is best seen.", _frames_arguments, _frames),
    Command("models", "List the models.", _models_arguments, _models),
    Command("info", "All that is known about one model.", _info_arguments, _info),
    Command("compile", "Compile a model into an artefact that runs without MXNet.", _compile_arguments, _compile),
    Command("pack", "Make an artefact of linked object files.", _pack_arguments, _pack),
    Command("export", "Write a model as an ONNX file.", _export_arguments, _export),
    Command("tune", "Search fast schedules for a model on a target, by measuring.", _tune_arguments, _tune),
    Command("bench", "Measure an artefact beside other engines.", _bench_arguments, _bench),
)
