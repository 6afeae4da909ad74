"""Check an unpacked WFLW and write the annotation files the training scripts read.

Download by hand from the page of the data set (research only): WFLW_images.tar.gz and WFLW_annotations.tar.gz. Unpack
both into one folder:

    ~/WFLW/WFLW_images/0--Parade/...
    ~/WFLW/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{train,test}.txt

    python train/prepare_wflw.py ~/WFLW --out data --subsets

Writes wflw_train.jsonl (7,500 faces) and wflw_test.jsonl (2,500), with 98 points; a photo may hold several faces. With
--subsets also the test faces of each attribute, wflw_test_<attribute>.jsonl: pose 326, expression 314, illumination
698, makeup 206, occlusion 736, blur 773. Photos stay where they are and are named relative to ~/WFLW. The exit status
is 1, and nothing is written, when anything is missing; --partial accepts missing photos.
"""

from __future__ import annotations

import sys

from gluonface.data.prepare import prepare, prepare_parser
from gluonface.data.wflw import ATTRIBUTES, NUM_FACES, read_wflw, wflw_subset


def main(argv: list[str] | None = None) -> int:
    parser = prepare_parser(__doc__, "folder with WFLW_images and WFLW_annotations", list(NUM_FACES))
    parser.add_argument("--subsets", action="store_true", help="also write the test faces of each attribute")
    args = parser.parse_args(argv)
    read = {split: lambda split=split: read_wflw(args.root, split, args.partial) for split in args.splits}
    if args.subsets:
        for name in ATTRIBUTES:
            read[f"test_{name}"] = lambda name=name: wflw_subset(read_wflw(args.root, "test", args.partial), name)
    prepared = prepare(lambda split: read[split](), list(read), args.out, "wflw", {} if args.partial else NUM_FACES)
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
