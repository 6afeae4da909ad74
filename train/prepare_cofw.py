"""Unpack COFW and write the annotation files the training scripts read.

Download by hand from the page of the data set (research only) the color version, COFW_color.zip, and unpack it:

    ~/COFW/COFW_train_color.mat   ~/COFW/COFW_test_color.mat

    pip install "gluonface[cofw]"                           # the files are HDF5
    python train/prepare_cofw.py ~/COFW --out data

The photos are inside the files: they are written as data/images/cofw_train/*.png and data/images/cofw_test/*.png.
Beside them come data/cofw_train.jsonl (1,345 faces) and data/cofw_test.jsonl (507), one face a photo, with 29 points
and the attribute "occluded" for each of them. The exit status is 1, and no annotations are written, when anything is
missing or a split has another number of faces; --partial accepts that.
"""

from __future__ import annotations

import sys

from gluonface.data.cofw import NUM_FACES, unpack_cofw
from gluonface.data.prepare import prepare, prepare_parser


def main(argv: list[str] | None = None) -> int:
    args = prepare_parser(__doc__, "folder with COFW_train_color.mat and COFW_test_color.mat", list(NUM_FACES))
    args = args.parse_args(argv)
    prepared = prepare(
        lambda split: unpack_cofw(args.root, split, args.out / "images"),
        args.splits,
        args.out,
        "cofw",
        {} if args.partial else NUM_FACES,
    )
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
