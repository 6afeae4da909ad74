"""Check an unpacked 300-W and write the annotation files the training scripts read.

Download by hand from the page of the challenge (research only): afw.zip, helen.zip, lfpw.zip, ibug.zip and the test set
300w.zip. Unpack them into one folder:

    ~/300W/afw/...  ~/300W/helen/{trainset,testset}/...  ~/300W/lfpw/{trainset,testset}/...  ~/300W/ibug/...
    ~/300W/300W/01_Indoor/...  ~/300W/300W/02_Outdoor/...

    python train/prepare_300w.py ~/300W --out data
    python train/prepare_300w.py ~/300W --out data --splits train common challenging full       # without the test set

Writes 300w_train.jsonl (3,148 faces: afw 337, helen 2,000, lfpw 811), 300w_common.jsonl (554), 300w_challenging.jsonl
(135), 300w_full.jsonl (689, both) and 300w_test.jsonl (600), one face a photo, with 68 points. Photos stay where they
are and are named relative to ~/300W. The exit status is 1, and nothing is written, when anything is missing or a
split has another number of faces; --partial accepts that.
"""

from __future__ import annotations

import sys

from gluonface.data.ibug import NUM_FACES, read_300w
from gluonface.data.prepare import prepare, prepare_parser


def main(argv: list[str] | None = None) -> int:
    args = prepare_parser(__doc__, "folder with afw, helen, lfpw, ibug and 300W", list(NUM_FACES)).parse_args(argv)
    prepared = prepare(
        lambda split: read_300w(args.root, split, args.partial),
        args.splits,
        args.out,
        "300w",
        {} if args.partial else NUM_FACES,
    )
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
