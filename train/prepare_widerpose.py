"""Check WIDER FACE with the head poses of MOS and write the annotation file that train/train_mos.py reads.

Unpack WIDER_train.zip of WIDER FACE (and wider_face_split.zip, for --official) into one folder, and download label.txt
with boxes, five points and poses by hand from the page of MOS (Liu et al., BMVC 2021):

    ~/WIDER/WIDER_train/images/0--Parade/...      ~/WIDER/wider_face_split/...      ~/mos/label.txt

    python train/prepare_widerpose.py ~/WIDER --labels ~/mos/label.txt --out data

Writes widerpose_train.jsonl. Faces smaller than 35x35 pixels have no pose. With --official the faces are those of WIDER
FACE's own list, with its marks of invalid ones; points and poses go to the boxes that agree. Photos stay where they are
and are named relative to ~/WIDER. The exit status is 1, and nothing is written, when anything is missing or wrong;
--partial accepts missing photos.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from gluonface._compat import import_optional
from gluonface.data.base import FaceSample
from gluonface.data.prepare import prepare, prepare_parser
from gluonface.data.widerpose import read_widerpose
from gluonface.errors import DataError


def main(argv: list[str] | None = None) -> int:
    parser = prepare_parser(__doc__, "folder with WIDER_train")
    parser.add_argument("--labels", type=Path, required=True, help="label.txt with poses")
    parser.add_argument("--official", action="store_true", help="take the faces from wider_face_train_bbx_gt.txt")
    args = parser.parse_args(argv)
    tqdm = import_optional("tqdm", "train").tqdm
    posed = 0

    def read(split: str) -> list[FaceSample]:
        nonlocal posed
        official = args.root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt" if args.official else None
        photos = read_widerpose(args.root, args.labels, split, annotations=official, partial=args.partial)
        samples = list(tqdm(photos, desc=split, unit="photo", disable=not sys.stderr.isatty()))
        if not samples:
            raise DataError(f"{args.root / f'WIDER_{split}' / 'images'}: holds none of the photos of {args.labels}")
        posed = sum(int(np.isfinite(sample.faces.pose).all(axis=1).sum()) for sample in samples)
        return samples

    prepared = prepare(read, ["train"], args.out, "widerpose", {})
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    if not prepared.problems:
        print(f"{posed:,} of them with a head pose")
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
