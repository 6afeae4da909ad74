"""Check an unpacked WIDER FACE and write the annotation files the training scripts read.

Download by hand (the terms forbid passing the photos on): WIDER_train.zip, WIDER_val.zip and wider_face_split.zip from
the page of the data set, and RetinaFace's annotations with five points (retinaface_gt_v1.1.zip). Unpack the first three
into one folder:

    ~/WIDER/WIDER_train/images/0--Parade/...   ~/WIDER/WIDER_val/images/...   ~/WIDER/wider_face_split/...

    python train/prepare_widerface.py ~/WIDER --labels ~/retinaface_gt --out data          # a minute or two
    python train/train_retinaface.py --train data/widerface_train.jsonl --images ~/WIDER ...

RetinaFace's train/label.txt holds five points; it must be there. Its val/label.txt, which is read where it is, holds
boxes alone as published, and widerface_val.jsonl then has no points: five-point figures on the validation photos need a
val/label.txt with points, in the form of the training list.

Writes data/widerface_train.jsonl (12,880 photos with about 159,000 boxes, of which the invalid and empty ones become
ignore regions) and data/widerface_val.jsonl (3,226 photos, 39,704 boxes). Photos stay where they are. The exit status
is 1, and nothing is written, when anything is missing; what is missing is listed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from gluonface._compat import import_optional
from gluonface.data.base import FaceSample
from gluonface.data.jsonl import write_jsonl
from gluonface.data.widerface_files import (
    NUM_PHOTOS,
    WiderEntry,
    add_five_points,
    read_retinaface_labels,
    read_widerface_mat,
    read_widerface_txt,
    to_sample,
)
from gluonface.errors import GluonFaceError
from gluonface.image import load_image


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with WIDER_train, WIDER_val and wider_face_split")
    parser.add_argument(
        "--labels",
        type=Path,
        help="folder with RetinaFace's train/label.txt (five points) and perhaps val/label.txt (boxes alone as "
        "published: five-point figures on the validation photos need a val list with points)",
    )
    parser.add_argument("--mat", action="store_true", help="read the .mat lists, not the text lists (needs SciPy)")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder to write to (default: data)")
    parser.add_argument("--decode", action="store_true", help="decode every photo, not only its header (half an hour)")
    parser.add_argument("--partial", action="store_true", help="accept a part of the photos: use what is there")
    return parser.parse_args(argv)


def read_entries(args: argparse.Namespace, split: str) -> list[WiderEntry]:
    """The official list of a split, with five points where --labels has them."""
    suffix = ".mat" if args.mat else "_bbx_gt.txt"
    path = args.root / "wider_face_split" / f"wider_face_{split}{suffix}"
    entries = (read_widerface_mat if args.mat else read_widerface_txt)(path)
    if len(entries) != NUM_PHOTOS[split] and not args.partial:
        raise GluonFaceError(f"{path}: lists {len(entries):,} photos, the official list has {NUM_PHOTOS[split]:,}")
    labels = args.labels and args.labels / split / "label.txt"
    if labels and (split == "train" or labels.is_file()):
        entries, lost = add_five_points(entries, read_retinaface_labels(labels))
        if lost:
            print(f"{split}: the five points of {lost:,} faces in {labels} fit no box of the official list; left out")
    return entries


def read_split(args: argparse.Namespace, split: str) -> tuple[list[FaceSample], list[str]]:
    """The photos of a split and what is wrong with it."""
    tqdm = import_optional("tqdm", "train").tqdm
    folder = args.root / f"WIDER_{split}" / "images"
    if not folder.is_dir():
        return [], [f"{folder}: no such folder; unpack WIDER_{split}.zip into {args.root}"]
    try:
        entries = read_entries(args, split)
    except GluonFaceError as error:
        return [], [str(error)]
    samples, problems = [], []
    for entry in tqdm(entries, desc=split, unit="photo", disable=not sys.stderr.isatty()):
        if args.partial and not (folder / entry.name).is_file():
            continue
        try:
            sample = to_sample(entry, args.root, split)
            if args.decode:
                load_image(sample.image_path)
        except GluonFaceError as error:
            problems.append(str(error))
            continue
        samples.append(sample)
    if not samples and not problems:
        problems.append(f"{folder}: holds none of the photos of the official list")
    return samples, problems


def describe(samples: list[FaceSample]) -> str:
    """Counts of one split."""
    faces = sum(len(sample.faces) for sample in samples)
    ignored = sum(int(sample.faces.ignore.sum()) for sample in samples)
    pointed = sum(int(np.isfinite(sample.faces.landmarks5).all(axis=(1, 2)).sum()) for sample in samples)
    return f"{len(samples):,} photos, {faces - ignored:,} faces, {pointed:,} with five points, {ignored:,} ignored"


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    found, problems = {}, []
    for split in NUM_PHOTOS:
        found[split], wrong = read_split(args, split)
        problems += wrong
    if problems:
        for problem in problems[:20]:
            print(problem, file=sys.stderr)
        if len(problems) > 20:
            print(f"... and {len(problems) - 20:,} more", file=sys.stderr)
        print(f"{len(problems):,} problems; nothing was written", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    for split, samples in found.items():
        path = args.out / f"widerface_{split}.jsonl"
        write_jsonl(path, samples)
        print(f"{path}: {describe(samples)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
