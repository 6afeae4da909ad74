"""What the readers of landmark sets share, and the reader of COCO-style keypoint files. No MXNet here.

Every reader turns the numbers of its files into continuous pixels, where the centre of the first pixel is (0.5, 0.5):
pixel indices that start at 0 get half a pixel more, those that start at 1 half a pixel less. Points and boxes are not
clipped: error measures divide by the size of the box that the set gives.

Letters: M faces, K landmarks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..faces import SCHEMES
from .annotation_files import parse_numbers
from .base import FaceLabels, FaceSample
from .image_size import image_size

__all__ = [
    "FROM_ONE",
    "FROM_ZERO",
    "count_faces",
    "labels_of",
    "read_coco_landmarks",
    "sample_of",
    "tight_boxes",
]

#: Added to pixel indices whose first pixel is 0, or 1, to get continuous pixels.
FROM_ZERO, FROM_ONE = 0.5, -0.5


def tight_boxes(landmarks: np.ndarray) -> np.ndarray:
    """(M, 4) float32 smallest boxes round the known ones of landmarks (M, K, 2)."""
    return np.concatenate([np.nanmin(landmarks, axis=1), np.nanmax(landmarks, axis=1)], axis=1).astype(np.float32)


def labels_of(
    scheme: str,
    landmarks: np.ndarray,
    boxes: np.ndarray | None = None,
    box_from: str = "",
    attributes: list[dict[str, Any]] | None = None,
) -> FaceLabels:
    """Labels of M faces whose landmarks people placed; the five points are taken from them.

    Parameters
    ----------
    scheme : str
        Key of `gluonface.faces.SCHEMES`.
    landmarks : ndarray (M, K, 2)
        In continuous pixels, NaN where unknown.
    boxes : ndarray (M, 4), optional
        x1, y1, x2, y2 in continuous pixels; the boxes round the landmarks when not given.
    box_from : str
        Where the given boxes come from.
    attributes : list of dict, optional
    """
    landmarks = np.asarray(landmarks, np.float32)
    if boxes is None:
        boxes, box_from = tight_boxes(landmarks), "landmarks"
    five = SCHEMES[scheme].five_points(landmarks)
    return FaceLabels(
        boxes=boxes,
        landmarks5=five,
        landmarks5_human=np.isfinite(five).any(axis=(1, 2)),
        landmarks=landmarks,
        scheme=scheme,
        attributes=attributes,
        box_from=[box_from] * len(landmarks),
    )


def sample_of(root: Path, name: str, faces: FaceLabels, source: str, place: str) -> FaceSample:
    """The sample of a photo, with its size from the image file's header.

    Parameters
    ----------
    root : Path
    name : str
        The photo, relative to root.
    faces : FaceLabels
    source : str
    place : str
        Where the photo is named, for the error: file, or file and line.

    Raises
    ------
    DataError
        There is no such photo.
    ImageError
        It is no image.
    """
    path = root / name
    if not path.is_file():
        raise DataError(f"{place}: the photo {path} is missing")
    return FaceSample(image_path=str(path), size_hw=image_size(path), faces=faces, source=source, name=name)


def count_faces(samples: Sequence[FaceSample]) -> int:
    """How many faces the samples hold, ignore regions not counted."""
    return sum(int((~sample.faces.ignore).sum()) for sample in samples)


# Numbers of a COCO-style keypoint list -> scheme of its landmarks.
_SCHEME_OF_LENGTH = {3 * scheme.num_points: name for name, scheme in SCHEMES.items() if name != "5"}


def read_coco_landmarks(
    path: str | os.PathLike, images: str | os.PathLike | None = None, source: str = "coco"
) -> list[FaceSample]:
    """Read a keypoint file of COCO's form whose keypoints are 19, 29, 68, 98 or 106 landmarks.

    ``images`` have id, file_name, width and height; ``annotations`` have image_id, bbox (x, y, width, height) and
    keypoints (x, y, v for each point; v = 0: not labelled). As COCO defines them, keypoints are pixel indices from 0
    and boxes are measured from the image's corner. A ``box_size`` (AFLW in this form) becomes the attribute face_size;
    points with v = 1 and 2 are told apart by the attribute visible where both occur. A crowd is an ignore region.

    Parameters
    ----------
    path : path
        The JSON file.
    images : path, optional
        Folder of the photos; that of the file by default.
    source : str
        Goes to `FaceSample.source`.

    Returns
    -------
    list of FaceSample
        One for each photo, in the order of the file, with all its faces.

    Raises
    ------
    DataError
        Naming the file, the photo or annotation and what was expected; also when a photo has another size than the
        file says.
    """
    path = Path(path)
    images = path.parent if images is None else Path(images)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotation file: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations")):
        raise DataError(f"{path}: expected an object with the lists images and annotations")
    faces_of: dict[Any, list[dict]] = {}
    for i, image in enumerate(tree["images"]):
        missing = [
            key for key in ("id", "file_name", "width", "height") if not isinstance(image, dict) or key not in image
        ]
        if missing:
            raise DataError(f"{path}, image {i}: expected an object with {', '.join(missing)}, got {str(image)[:80]}")
        faces_of[image["id"]] = []
    for i, annotation in enumerate(tree["annotations"]):
        if not isinstance(annotation, dict):
            raise DataError(f"{path}, annotation {i}: expected an object, got {str(annotation)[:80]}")
        face = _coco_face(annotation, f"{path}, annotation {i}")
        if annotation.get("image_id") not in faces_of:
            raise DataError(f"{path}, annotation {i}: image_id {annotation.get('image_id')!r} is none of the images")
        faces_of[annotation["image_id"]].append(face)
    return [_coco_sample(path, images, image, faces_of[image["id"]], source) for image in tree["images"]]


def _coco_face(annotation: dict, place: str) -> dict[str, Any]:
    keypoints, box = annotation.get("keypoints"), annotation.get("bbox")
    if not isinstance(keypoints, list) or len(keypoints) not in _SCHEME_OF_LENGTH:
        got = len(keypoints) if isinstance(keypoints, list) else repr(keypoints)
        known = ", ".join(_SCHEME_OF_LENGTH.values())
        raise DataError(f"{place}: expected keypoints as x, y, v of {known} points, got {got} numbers")
    points = np.array(parse_numbers([str(n) for n in keypoints], len(keypoints), place, "keypoints")).reshape(-1, 3)
    box = [str(n) for n in box] if isinstance(box, list) else [str(box)]
    x, y, width, height = parse_numbers(box, 4, place, "bbox as x, y, width, height")
    seen = points[:, 2]
    if not np.isin(seen, (0, 1, 2)).all():
        raise DataError(f"{place}: the third number of a keypoint must be 0, 1 or 2, got {sorted(set(seen))}")
    ignore = bool(annotation.get("iscrowd")) or not seen.any()
    if not ignore and (width <= 0 or height <= 0):
        raise DataError(f"{place}: bbox must have a positive width and height, got {width} and {height}")
    attributes: dict[str, Any] = {}
    if "box_size" in annotation:
        attributes["face_size"] = parse_numbers([str(annotation["box_size"])], 1, place, "box_size")[0]
    if (seen == 1).any() and (seen == 2).any():
        attributes["visible"] = (seen == 2).tolist()
    return {
        "scheme": _SCHEME_OF_LENGTH[len(keypoints)],
        "landmarks": np.where(seen[:, None] > 0, points[:, :2] + FROM_ZERO, np.nan),
        "box": [x, y, x + max(width, 0), y + max(height, 0)],
        "attributes": attributes,
        "ignore": ignore,
    }


def _coco_sample(path: Path, images: Path, image: dict, faces: list[dict], source: str) -> FaceSample:
    schemes = {face["scheme"] for face in faces}
    if len(schemes) > 1:
        raise DataError(f"{path}: {image['file_name']} has faces of {' and '.join(sorted(schemes))} points")
    labels = FaceLabels.empty()
    if faces:
        labels = labels_of(
            schemes.pop(),
            np.array([face["landmarks"] for face in faces]),
            np.array([face["box"] for face in faces]),
            attributes=[face["attributes"] for face in faces],
        ).with_(ignore=np.array([face["ignore"] for face in faces]))
    sample = sample_of(images, image["file_name"], labels, source, str(path))
    if sample.size_hw != (image["height"], image["width"]):
        height, width = sample.size_hw
        raise DataError(
            f"{path}: {image['file_name']} should have {image['width']} x {image['height']} pixels, the photo has "
            f"{width} x {height}; the annotations belong to another version of it"
        )
    return sample
