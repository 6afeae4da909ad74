"""Check JD-landmark (106 points) and write the annotation files the training scripts read.

Ask the organisers of the grand challenge for the data (research only) and unpack them into one folder:

    ~/JD106/Training_data/{AFW,HELEN,IBUG,LFPW}/{picture,landmark,rect}/...
    ~/JD106/Test_data1/{picture,landmark,rect}/...

    python train/prepare_jd106.py ~/JD106 --out data
    python train/prepare_jd106.py ~/JD106 --out data --train Training_data2      # of the second challenge

Writes jd106_train.jsonl and jd106_test.jsonl (2,000 faces), one face a photo, with 106 points and the box that the
challenge divides by (--norm box). The first training set has 11,393 faces, the second 20,386, among them photos of the
first test set: whatever occurs in the test set, by name or by content, is left out of the training file, and how much
that was is printed. Photos stay where they are and are named relative to ~/JD106. The exit status is 1, and nothing is
written, when anything is missing or wrong.
"""

from __future__ import annotations

import sys

from gluonface.data.base import FaceSample
from gluonface.data.jd106 import read_jd106, without_photos_of
from gluonface.data.prepare import prepare, prepare_parser

NUM_FACES = {"test": 2_000}


def main(argv: list[str] | None = None) -> int:
    parser = prepare_parser(__doc__, "folder with the training and the test set")
    parser.add_argument("--train", nargs="+", default=["Training_data"], help="training folders within root")
    parser.add_argument("--test", default="Test_data1", help="test folder within root")
    args = parser.parse_args(argv)
    left_out: list[FaceSample] = []

    def read(split: str) -> list[FaceSample]:
        test = read_jd106(args.root / args.test, args.root)
        if split == "test":
            return test
        train = [sample for folder in args.train for sample in read_jd106(args.root / folder, args.root)]
        train, removed = without_photos_of(train, test)
        left_out.extend(removed)
        return train

    prepared = prepare(read, ("train", "test"), args.out, "jd106", {} if args.partial else NUM_FACES)
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    if not prepared.problems:
        print(f"{len(left_out):,} training photos occur in {args.test} and were left out")
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
