"""The `gluonface` command: ``detect``, ``models``, ``info``. A command is a row of `COMMANDS`.

Exit status: 0 all well, 1 something failed (a photo could not be read), 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import dataclasses
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import __version__
from .errors import GluonFaceError, ImageError, InputError, ModelNotFoundError
from .faces import SCHEMES, Face, Faces
from .files import replacing
from .geometry import align_crop, clip_boxes, warp_image
from .image import IMAGE_SUFFIXES, MAX_PIXELS, iter_image_files, load_image, save_image

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
    parser.add_argument("--model", metavar="NAME", help="detector (see `gluonface models`)")
    parser.add_argument(
        "--landmarks", metavar="NAME", help="landmark net: dense points of each face, from a crop of it"
    )
    parser.add_argument(
        "--size",
        type=_size,
        default="auto",
        metavar="N|HxW|stored",
        help="long side in pixels at which to look, a canvas, or the photo's own size (default: what the model is for)",
    )
    parser.add_argument("--score", type=_fraction, metavar="S", help="leave out weaker faces (default: the model's)")
    parser.add_argument("--nms", type=_fraction, metavar="T", help="IoU above which the weaker of two boxes goes")
    parser.add_argument("--max-faces", type=_positive, metavar="N", help="at most N faces a photo, the best")
    output = parser.add_argument_group("output (without any: a line for each photo and face)")
    output.add_argument("--out", type=Path, metavar="DIR", help="write the photos with boxes and points drawn")
    output.add_argument("--json", metavar="FILE|-", help="write one JSON object a photo and line; - is standard output")
    output.add_argument("--csv", metavar="FILE|-", help="write a table with one face a row")
    output.add_argument(
        "--crops", type=Path, metavar="DIR", help="write each face, aligned by its points, 112x112 as PNG"
    )
    output.add_argument("--quiet", action="store_true", help="say nothing but errors")
    running = parser.add_argument_group("running")
    running.add_argument("--gpu", type=_natural, metavar="ID", help="run on that GPU")
    running.add_argument("--batch", type=_positive, default=8, metavar="N", help="photos at once (default: 8)")
    running.add_argument(
        "--max-pixels",
        type=_positive,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse larger photos (default: 100000000)",
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
    silent = any(value is not None for value in (args.out, args.json, args.csv, args.crops))

    # Outputs are opened before the model is loaded: a wrong path is known at once.
    with contextlib.ExitStack() as stack:
        if args.quiet:
            logger = logging.getLogger("gluonface")
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        json_file = None if args.json is None else stack.enter_context(_output(args.json))
        csv_file = None if args.csv is None else stack.enter_context(_output(args.csv))
        table = None if csv_file is None else csv.writer(csv_file, lineterminator="\n")
        for folder in (args.out, args.crops):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        analyzer = _analyzer(args)
        dense = None if analyzer.landmarks is None else analyzer.landmarks.facts.scheme
        if table is not None:
            table.writerow(_csv_columns(dense))
        bad = found = 0
        with _progress(len(files), show=silent and not args.quiet) as step:
            for i, result in enumerate(analyzer.stream(files, on_error="return")):
                file = files[i]
                try:
                    if isinstance(result, ImageError):
                        raise result
                    if args.out is not None or args.crops is not None:
                        _write_pictures(args, file, result, drawn.get(file), stems[file])
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


def _analyzer(args: argparse.Namespace):
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
    return FaceAnalyzer(
        args.model,
        landmarks=args.landmarks,
        ctx=ctx,
        size=args.size,
        score_thresh=args.score,
        nms_thresh=args.nms,
        max_faces=args.max_faces,
        batch_size=args.batch,
        root=args.root,
        max_pixels=args.max_pixels,
    )


def _lines(file: str, faces: Faces) -> list[str]:
    """What is printed of a photo when no output is asked for."""
    height, width = faces.size_hw
    lines = [f"{file}: {_count(len(faces), 'face')} ({width}x{height})"]
    for face in faces:
        x1, y1, x2, y2 = (round(float(value)) for value in face.box)
        lines.append(f"  {face.score:.3f}  box {x1} {y1} {x2} {y2}  {x2 - x1}x{y2 - y1}")
    return lines


def _csv_columns(dense: str | None) -> list[str]:
    """Names of the columns; `dense` is the scheme of the dense landmarks, if there are some."""
    points = [name.replace(" ", "_") for name in SCHEMES["5"].names]
    points += [f"p{i}" for i in range(SCHEMES[dense].num_points)] if dense else []
    return ["image", "width", "height", "face", "x1", "y1", "x2", "y2", "score"] + [
        f"{name}_{axis}" for name in points for axis in "xy"
    ]


def _csv_rows(file: str, faces: Faces, dense: str | None) -> Iterator[list]:
    d = faces.to_dict(file)
    for i, face in enumerate(d["faces"]):
        points = [value for point in face.get("landmarks5", [("", "")] * 5) for value in point]
        if dense:
            points += [value for point in face["landmarks"] for value in point]
        yield [file, d["width"], d["height"], i, *face["box"], face["score"], *points]


def _write_pictures(args: argparse.Namespace, file: str, faces: Faces, drawn: Path | None, stem: Path) -> None:
    # Read again instead of kept: a batch of large photos would fill the memory.
    image = load_image(file, max_pixels=args.max_pixels)
    if drawn is not None:
        from .viz import draw_faces

        drawn.parent.mkdir(parents=True, exist_ok=True)
        save_image(drawn, draw_faces(image, faces))
    if args.crops is not None:
        for i, face in enumerate(faces):
            path = args.crops / stem.parent / f"{stem.name}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, _crop(image, face))


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
def _progress(total: int, show: bool) -> Iterator[Callable]:
    """A function to call once a photo, with a message for standard error or none; draws a bar where someone sees it."""
    bar = None
    if show and total > 1 and sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
        from tqdm import tqdm

        bar = tqdm(total=total, unit=" photos", file=sys.stderr, leave=False)

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


def _number(text: str, kind: type, good: Callable, expected: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def _size(text: str) -> int | tuple[int, int] | str | None:
    if text in ("stored", "auto"):
        return None if text == "stored" else text
    try:
        sides = [_positive(side) for side in text.lower().split("x")]
    except argparse.ArgumentTypeError:
        sides = []
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(
            f'expected a long side (640), height x width (480x640) or "stored", got {text!r}'
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


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
    Command("models", "List the models.", _models_arguments, _models),
    Command("info", "All that is known about one model.", _info_arguments, _info),
)
