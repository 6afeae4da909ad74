"""Check an unpacked AFLW2000-3D and write the annotation files that benchmarks/eval_pose.py reads.

Download AFLW2000-3D.zip by hand from the page of 3DDFA, "Face Alignment Across Large Poses" (Zhu et al., CVPR 2016;
research only), and unpack it: ~/AFLW2000/image00002.jpg, ~/AFLW2000/image00002.mat, ...

    python train/prepare_aflw2000.py ~/AFLW2000 --out data          # needs SciPy; a minute

Writes aflw2000_all.jsonl (2,000 faces, one a photo) and aflw2000_99.jsonl (the 1,969 whose angles lie within 99
degrees, the protocol of Hopenet and of the papers after it), with head pose and 68 points. Photos stay where they are
and are named relative to ~/AFLW2000. The exit status is 1, and nothing is written, when anything is missing or wrong;
--partial accepts missing photos.
"""

from __future__ import annotations

import functools
import sys

from gluonface._compat import import_optional
from gluonface.data.aflw2000 import MAX_ANGLE, NUM_FACES, SPLITS, read_aflw2000
from gluonface.data.prepare import prepare, prepare_parser


def main(argv: list[str] | None = None) -> int:
    args = prepare_parser(__doc__, "the folder AFLW2000", SPLITS).parse_args(argv)
    tqdm = import_optional("tqdm", "train").tqdm
    prepared = prepare(
        lambda split: read_aflw2000(
            args.root,
            MAX_ANGLE if split == "99" else None,
            args.partial,
            functools.partial(tqdm, desc=split, unit="photo", disable=not sys.stderr.isatty()),
        ),
        args.splits,
        args.out,
        "aflw2000",
        {} if args.partial else NUM_FACES,
    )
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
