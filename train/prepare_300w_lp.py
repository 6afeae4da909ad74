"""Check an unpacked 300W-LP and write the annotation files the training scripts read.

Download 300W-LP.zip by hand from the page of 3DDFA, "Face Alignment Across Large Poses" (Zhu et al., CVPR 2016;
research only), and unpack it:

    ~/300W_LP/{AFW,HELEN,IBUG,LFPW}/...  ~/300W_LP/{AFW,HELEN,IBUG,LFPW}_Flip/...  ~/300W_LP/landmarks/...

    python train/prepare_300w_lp.py ~/300W_LP --out data                        # needs SciPy; some minutes
    python train/prepare_300w_lp.py ~/300W_LP --out data --splits unflipped     # transforms mirror photos, too

Writes 300w_lp_all.jsonl (122,450 faces, one a photo), or 300w_lp_unflipped.jsonl (61,225: AFW 5,207, HELEN 37,676,
IBUG 1,786, LFPW 16,556), with head pose and 68 points. Photos stay where they are and are named relative to ~/300W_LP.
The exit status is 1, and nothing is written, when anything is missing or wrong; --partial accepts missing photos.
"""

from __future__ import annotations

import functools
import sys

from gluonface._compat import import_optional
from gluonface.data.prepare import prepare, prepare_parser
from gluonface.data.w300lp import NUM_FACES, SPLITS, read_300w_lp


def main(argv: list[str] | None = None) -> int:
    parser = prepare_parser(__doc__, "the folder 300W_LP", list(SPLITS))
    parser.set_defaults(splits=["all"])
    parser.add_argument(
        "--points",
        choices=("3d", "2d"),
        default="3d",
        help="3d: those of the 3-D face, also hidden ones; 2d: the jaw along the outline that is seen (default: 3d)",
    )
    parser.add_argument("--max-angle", type=float, metavar="DEGREES", help="leave out faces with a larger angle")
    args = parser.parse_args(argv)
    tqdm = import_optional("tqdm", "train").tqdm
    prepared = prepare(
        lambda split: read_300w_lp(
            args.root,
            split,
            args.points,
            args.max_angle,
            args.partial,
            functools.partial(tqdm, desc=split, unit="photo", disable=not sys.stderr.isatty()),
        ),
        args.splits,
        args.out,
        "300w_lp",
        {} if args.partial or args.max_angle is not None else NUM_FACES,
    )
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
