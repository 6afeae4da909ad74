"""Check an unpacked BIWI Kinect Head Pose and write the annotation files that benchmarks/eval_pose.py reads.

Download kinect_head_pose_db.tgz by hand from the page of the database (Fanelli et al., IJCV 2013; non-commercial
research) and unpack it: ~/hpdb/01/frame_00003_rgb.png, ~/hpdb/01/frame_00003_pose.txt, ~/hpdb/01/rgb.cal, ...

    python train/prepare_biwi.py ~/hpdb --out data

Writes biwi_all.jsonl (15,678 faces, one a frame, of 24 sequences: to test nets that learned from another set) and, to
learn from this one, biwi_train.jsonl and biwi_test.jsonl (16 and 8 sequences, nobody in both), with head pose and a box
made from the head's place in space. Pictures stay where they are and are named relative to ~/hpdb. The exit status is
1, and nothing is written, when anything is missing or wrong; --partial accepts missing pictures.
"""

from __future__ import annotations

import functools
import sys

from gluonface._compat import import_optional
from gluonface.data.biwi import HEAD_MM, NUM_FACES, SPLITS, read_biwi
from gluonface.data.prepare import prepare, prepare_parser


def main(argv: list[str] | None = None) -> int:
    parser = prepare_parser(__doc__, "the folder hpdb", list(SPLITS))
    parser.add_argument(
        "--head-mm",
        type=float,
        nargs=3,
        default=HEAD_MM,
        metavar=("WIDTH", "HEIGHT", "DEPTH"),
        help="size of a head in mm, for the boxes (default: {:g} {:g} {:g})".format(*HEAD_MM),
    )
    args = parser.parse_args(argv)
    tqdm = import_optional("tqdm", "train").tqdm
    prepared = prepare(
        lambda split: read_biwi(
            args.root,
            SPLITS[split],
            tuple(args.head_mm),
            args.partial,
            functools.partial(tqdm, desc=split, unit="frame", disable=not sys.stderr.isatty()),
        ),
        args.splits,
        args.out,
        "biwi",
        {} if args.partial else NUM_FACES,
    )
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
