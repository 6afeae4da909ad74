"""Fit the boxes of a data set to the points of its faces, for KPNet's box_style "corpus".

    python train/fit_box_mapping.py FACEDATA/det_train.jsonl FACEDATA/lmk_train.jsonl --out boxes.json
    python train/fit_box_mapping.py FACEDATA/lmk_train.jsonl --points 68     # says how well it fits, writes nothing

The annotations are JSON lines (format: gluonface/data/jsonl.py). Faces with all points take part, those of --min-size
pixels and more; the box of a face may be from a person or a detector, but one drawn round the points says nothing
about a convention (--box-from chooses). In the net: net.set_box_mapping(mapping), or in training, which keeps it with
the weights. Seconds; on FC26 the five points give the box with a mean IoU of .825 (.756 unfitted).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gluonface.box_mapping import boxes_from_points, default_box_mapping, fit_box_mapping
from gluonface.data import read_jsonl
from gluonface.errors import DataError, GluonFaceError
from gluonface.faces import SCHEMES
from gluonface.files import write_atomically
from gluonface.geometry import box_iou


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, nargs="+", help="JSON lines of faces with points and boxes")
    parser.add_argument("--points", default="5", choices=SCHEMES, help="scheme of the points (5)")
    parser.add_argument("--min-size", type=float, default=20.0, help="smallest face in pixels (20)")
    parser.add_argument("--box-from", nargs="+", help="take boxes of these origins only, such as human teacher")
    parser.add_argument("--out", type=Path, help="JSON file to write the mapping to")
    args = parser.parse_args(argv)
    try:
        points, boxes = labelled_faces(args.annotations, args.points, args.min_size, args.box_from)
        mapping = fit_box_mapping(points, boxes, SCHEMES[args.points].flip_index)
    except GluonFaceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(points):,} faces")
    for name, tried in (("fitted", mapping), ("unfitted", default_box_mapping(points.shape[1]))):
        iou = overlaps(boxes_from_points(points, tried), boxes)
        print(f"{name}: mean IoU {iou.mean():.3f}, of at least .5 {np.mean(iou >= 0.5):.1%}")
    if args.out:
        write_atomically(args.out, json.dumps(mapping.to_dict()) + "\n")
        print(args.out)
    return 0


def labelled_faces(
    paths: Iterable[Path], scheme: str = "5", min_size: float = 0.0, box_from: list[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, K, 2) and boxes (n, 4) of all faces that have them."""
    points, boxes = [], []
    for path in paths:
        for sample in read_jsonl(path):
            faces = sample.faces
            if scheme != "5" and faces.scheme != scheme:
                continue
            own = faces.landmarks5 if scheme == "5" else faces.landmarks
            taken = np.isfinite(own).all(axis=(1, 2)) & ~faces.ignore & (faces.face_sizes >= max(min_size, 1))
            # Points that are all in one place have no size.
            taken &= (own.min(axis=1) < own.max(axis=1)).any(axis=1)
            if box_from is not None:
                taken &= np.array([origin in box_from for origin in faces.box_from], bool)
            points.extend(own[taken])
            boxes.extend(faces.boxes[taken])
    if not points:
        raise DataError(f"{', '.join(map(str, paths))}: expected faces with {scheme} points and a box, found none")
    return np.array(points, np.float64), np.array(boxes, np.float64)


def overlaps(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """IoU (n,) of boxes (n, 4) with one each."""
    return np.array([box_iou(a[None], b[None])[0, 0] for a, b in zip(found, wanted)])


if __name__ == "__main__":
    sys.exit(main())
