"""Face annotations as JSON lines, read and written: one object a line and image. No MXNet here.

    {"image": "helen/xxx.jpg", "width": W, "height": H, "source": "helen", "faces": [
      {"box": [x1, y1, x2, y2], "box_from": "human|landmarks|teacher", "ignore": false,
       "landmarks5": [[x, y] x 5] or null, "landmarks5_from": "human|teacher" or null,
       "landmarks68": [[x, y] x 68] or null,  (or landmarks19, 29, 98, 106: one scheme a line)
       "pose": {"yaw": .., "pitch": .., "roll": ..} or null,
       "mesh468": row or null, "attributes": {...}}]}

`image` is relative to the images folder. Coordinates are continuous pixels; the centre of the first one is (0.5, 0.5).
Of a face only `box` is needed. A single point may be null. Fields that are not named here are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..faces import SCHEMES
from ..files import write_atomically
from .base import FaceLabels, FaceSample

__all__ = ["parse_faces", "read_jsonl", "sample_to_dict", "write_jsonl", "write_text_atomically"]


# Scheme of dense landmarks -> number of points.
_DENSE = {name: scheme.num_points for name, scheme in SCHEMES.items() if name != "5"}


class _BadFieldError(Exception):
    """What is wrong with one line; the reader adds file and line number."""


def _numbers(value: Any, shape: tuple[int, ...], field: str, face: int) -> np.ndarray:
    """A list of numbers as float32 array of that shape; a null point becomes NaN."""
    wanted = "x".join(map(str, shape))
    if len(shape) == 2 and isinstance(value, list):
        value = [[np.nan] * shape[1] if row is None else row for row in value]
    try:
        array = np.array(value, np.float32)
    except (TypeError, ValueError):
        array = None
    if array is None or array.shape != shape or _has_text(value):
        raise _BadFieldError(f"face {face}: {field} must be {wanted} numbers, got {_short(value)}")
    if np.isinf(array).any() or (len(shape) == 1 and np.isnan(array).any()):
        raise _BadFieldError(f"face {face}: {field} must be finite, got {_short(value)}")
    return array


def _has_text(value: Any) -> bool:
    """Whether NumPy would have read "3" or true as a number."""
    if isinstance(value, list):
        return any(_has_text(entry) for entry in value)
    return isinstance(value, (str, bool))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _box(face: dict, number: int) -> np.ndarray:
    if "box" not in face:
        raise _BadFieldError(f"face {number}: box is missing, expected [x1, y1, x2, y2]")
    box = _numbers(face["box"], (4,), "box", number)
    if box[2] < box[0] or box[3] < box[1]:
        raise _BadFieldError(f"face {number}: box must be [x1, y1, x2, y2], x1 <= x2 and y1 <= y2, got {face['box']}")
    if (box[2] == box[0] or box[3] == box[1]) and not face.get("ignore"):
        raise _BadFieldError(f"face {number}: box {face['box']} is empty; leave the face out or set ignore to true")
    return box


def _typed(face: dict, field: str, kind: type, default: Any, number: int) -> Any:
    value = face.get(field)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _BadFieldError(f"face {number}: {field} must be {kind.__name__} or null, got {_short(value)}")
    return value


def _pose(face: dict, number: int) -> list[float]:
    pose = _typed(face, "pose", dict, None, number)
    if pose is None:
        return [np.nan] * 3
    missing = [name for name in ("yaw", "pitch", "roll") if name not in pose]
    if missing:
        raise _BadFieldError(f"face {number}: pose must have yaw, pitch and roll, {', '.join(missing)} is missing")
    return list(_numbers([pose["yaw"], pose["pitch"], pose["roll"]], (3,), "pose", number))


def parse_faces(faces: Any) -> FaceLabels:
    """The list under "faces" of one line as labels.

    Raises
    ------
    DataError
        Naming face and field, not the file: `read_jsonl` adds that.
    """
    try:
        return _parse_faces(faces)
    except _BadFieldError as error:
        raise DataError(str(error)) from None


def _parse_faces(faces: Any) -> FaceLabels:
    if not isinstance(faces, list):
        raise _BadFieldError(f"faces must be a list, got {_short(faces)}")
    count = len(faces)
    boxes = np.zeros((count, 4), np.float32)
    landmarks5 = np.full((count, 5, 2), np.nan, np.float32)
    landmarks, scheme = None, None
    pose = np.full((count, 3), np.nan, np.float32)
    ignore = np.zeros(count, np.bool_)
    human = np.zeros(count, np.bool_)
    mesh_row = np.full(count, -1, np.int64)
    attributes, box_from = [], []
    for i, face in enumerate(faces):
        if not isinstance(face, dict):
            raise _BadFieldError(f"face {i} must be an object, got {_short(face)}")
        boxes[i] = _box(face, i)
        ignore[i] = _typed(face, "ignore", bool, False, i)
        if face.get("landmarks5") is not None:
            landmarks5[i] = _numbers(face["landmarks5"], (5, 2), "landmarks5", i)
            human[i] = _typed(face, "landmarks5_from", str, "", i) == "human"
        for name in (n for n in _DENSE if face.get(f"landmarks{n}") is not None):
            if scheme not in (None, name):
                raise _BadFieldError(f"face {i}: landmarks{name} beside landmarks{scheme}; one scheme a line is read")
            shape = (_DENSE[name], 2)
            if landmarks is None:
                landmarks, scheme = np.full((count, *shape), np.nan, np.float32), name
            landmarks[i] = _numbers(face[f"landmarks{name}"], shape, f"landmarks{name}", i)
        pose[i] = _pose(face, i)
        mesh_row[i] = _typed(face, "mesh468", int, -1, i)
        attributes.append(_typed(face, "attributes", dict, {}, i))
        box_from.append(_typed(face, "box_from", str, "", i))
    return FaceLabels(
        boxes=boxes,
        ignore=ignore,
        landmarks5=landmarks5,
        pose=pose,
        landmarks=landmarks,
        scheme=scheme,
        mesh_row=mesh_row,
        landmarks5_human=human,
        attributes=attributes,
        box_from=box_from,
    )


def _parse_line(text: str, images: Path) -> FaceSample:
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        raise _BadFieldError(f"not a JSON object ({error.msg} at column {error.colno})") from None
    if not isinstance(entry, dict):
        raise _BadFieldError(f"expected a JSON object, got {_short(entry)}")
    name = entry.get("image")
    if not isinstance(name, str) or not name:
        raise _BadFieldError(f"image must be the path of the image file, got {_short(name)}")
    for field in ("width", "height"):
        side = entry.get(field)
        if not isinstance(side, int) or isinstance(side, bool) or side < 1:
            raise _BadFieldError(f"{field} must be a positive whole number of pixels, got {_short(side)}")
    source = entry.get("source") or ""
    if not isinstance(source, str):
        raise _BadFieldError(f"source must be a text, got {_short(source)}")
    if "faces" not in entry:
        raise _BadFieldError("faces is missing; an image without faces has an empty list")
    return FaceSample(
        image_path=str(images / name),
        size_hw=(entry["height"], entry["width"]),
        faces=_parse_faces(entry["faces"]),
        source=source,
        name=name,
    )


def read_jsonl(
    path: str | os.PathLike, images: str | os.PathLike | None = None, sources: Sequence[str] | None = None
) -> list[FaceSample]:
    """Read annotations; images are not opened.

    Parameters
    ----------
    path : path
        The JSON-lines file.
    images : path, optional
        Folder the image paths are relative to; ``images`` beside the file by default.
    sources : sequence of str, optional
        Keep only images whose `source` is one of these.

    Returns
    -------
    list of FaceSample
        In the order of the file.

    Raises
    ------
    DataError
        Missing file; a wrong field (naming file, line, face and what was expected); a source that does not occur.
    """
    path = Path(path)
    images = path.parent / "images" if images is None else Path(images)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotation file: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error
    samples = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            samples.append(_parse_line(line, images))
        except _BadFieldError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
    if sources is not None:
        if isinstance(sources, str):
            sources = [sources]
        found = {sample.source for sample in samples}
        if set(sources) - found:
            raise DataError(
                f"{path}: no image has the source {', '.join(sorted(set(sources) - found))}; "
                f"the file has {', '.join(sorted(found)) or 'none'}"
            )
        samples = [sample for sample in samples if sample.source in sources]
    return samples


def _rounded(array: np.ndarray) -> list:
    """Numbers as they are written: 0.01 px is below every annotation's precision. NaN points become null."""
    if array.ndim == 2:
        return [None if np.isnan(row).any() else _rounded(row) for row in array]
    return [round(float(value), 2) for value in array]


def sample_to_dict(sample: FaceSample) -> dict[str, Any]:
    """One sample as the object that its line holds."""
    labels = sample.faces
    height, width = sample.size_hw
    faces = []
    for i in range(len(labels)):
        known5 = np.isfinite(labels.landmarks5[i]).any()
        dense = {}
        if labels.landmarks is not None:
            known = np.isfinite(labels.landmarks[i]).any()
            dense[f"landmarks{labels.scheme}"] = _rounded(labels.landmarks[i]) if known else None
        pose = dict(zip(("yaw", "pitch", "roll"), _rounded(labels.pose[i]), strict=True))
        faces.append(
            {
                "box": _rounded(labels.boxes[i]),
                "box_from": labels.box_from[i] or None,
                "ignore": bool(labels.ignore[i]),
                "landmarks5": _rounded(labels.landmarks5[i]) if known5 else None,
                "landmarks5_from": ("human" if labels.landmarks5_human[i] else "teacher") if known5 else None,
                **dense,
                "pose": pose if np.isfinite(labels.pose[i]).all() else None,
                "mesh468": int(labels.mesh_row[i]) if labels.mesh_row[i] >= 0 else None,
                "attributes": labels.attributes[i],
            }
        )
    return {"image": sample.name, "width": int(width), "height": int(height), "source": sample.source, "faces": faces}


def write_jsonl(path: str | os.PathLike, samples: Iterable[FaceSample]) -> None:
    """Write annotations, all or nothing: a reader never sees half a file.

    Coordinates and angles are rounded to 0.01. Images are named by `FaceSample.name`: the file is read back with the
    same images folder.

    Raises
    ------
    DataError
        When the file cannot be written.
    """
    lines = (json.dumps(sample_to_dict(sample), separators=(",", ":"), ensure_ascii=False) for sample in samples)
    write_text_atomically(path, "".join(line + "\n" for line in lines))


def write_text_atomically(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file by way of a temporary file beside it; DataError when that fails."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
