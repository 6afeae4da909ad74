"""Check AFLW with its 19 points and write the annotation files the training scripts read.

Ask the authors of AFLW for the photos (research only) and unpack aflw-images-{0,2,3}.tar.gz; put AFLWinfo_release.mat,
from the page of "Unconstrained Face Alignment via Cascaded Compositional Learning" (Zhu et al., CVPR 2016), beside
them:

    ~/AFLW/AFLWinfo_release.mat   ~/AFLW/data/flickr/{0,2,3}/...        (or flickr/ or images/ instead of data/flickr/)

    python train/prepare_aflw.py ~/AFLW --out data          # needs SciPy; reads the headers of 22,000 photos

Writes aflw_train.jsonl (20,000 faces), aflw_test.jsonl (the other 4,386, AFLW-Full) and aflw_frontal.jsonl (those of
the test whose 19 points can all be seen, AFLW-Frontal: 1,314 in the papers), with 19 points; a photo may hold several
faces. The attribute face_size is what the protocol divides by (--norm face_size). Photos stay where they are and are
named relative to ~/AFLW. The exit status is 1, and nothing is written, when anything is missing; --partial accepts
missing photos.
"""

from __future__ import annotations

import sys

from gluonface.data.aflw import NUM_FACES, SPLITS, read_aflw
from gluonface.data.prepare import prepare, prepare_parser


def main(argv: list[str] | None = None) -> int:
    args = prepare_parser(__doc__, "folder with AFLWinfo_release.mat and the photos", SPLITS).parse_args(argv)
    prepared = prepare(
        lambda split: read_aflw(args.root, split, args.partial),
        args.splits,
        args.out,
        "aflw",
        {} if args.partial else NUM_FACES,
    )
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
