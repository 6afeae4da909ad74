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

AFLW2000-3D is a part of AFLW. Who trains on AFLW and tests there leaves its photos out of the training, as RetinaFace's
paper does; benchmarks/eval_mesh.py --trained-on goes the other way and leaves out photos of the test.

    python train/prepare_aflw.py ~/AFLW --out data --without data/aflw2000_all.jsonl --without-images ~/AFLW2000

A photo is the same where the file has the same name without folder and suffix, or the same bytes. Only aflw_train.jsonl
gets smaller, and how much is printed; the files of the test are the protocol's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gluonface.data.aflw import NUM_FACES, SPLITS, read_aflw
from gluonface.data.base import FaceSample
from gluonface.data.jd106 import without_photos_of
from gluonface.data.jsonl import read_jsonl
from gluonface.data.prepare import prepare, prepare_parser
from gluonface.errors import DataError


def main(argv: list[str] | None = None) -> int:
    parser = prepare_parser(__doc__, "folder with AFLWinfo_release.mat and the photos", SPLITS)
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="JSONL",
        help="leave photos that are in these, too, out of the training file, such as those of a test on AFLW2000-3D "
        "(benchmarks/eval_mesh.py --trained-on leaves them out of the test instead)",
    )
    parser.add_argument(
        "--without-images", metavar="DIR", help="folder of the photos of --without (default: images/ beside each)"
    )
    args = parser.parse_args(argv)
    if args.without_images and not args.without:
        parser.error("--without-images goes with --without")
    if args.without and "train" not in args.splits:
        parser.error("--without makes the training file smaller, and --splits leaves that out: name train, too")
    left_out: list[FaceSample] = []

    def read(split: str) -> list[FaceSample]:
        samples = read_aflw(args.root, split, args.partial)
        for path in args.without if split == "train" else ():
            samples, removed = without_photos_of(samples, read_jsonl(path, args.without_images))
            left_out.extend(removed)
        if not samples:
            raise DataError(f"--without: expected photos for training that are not in {', '.join(args.without)}")
        return samples

    expected = {} if args.partial else dict(NUM_FACES)
    if args.without:
        expected.pop("train", None)  # how many faces are left is no official number
    prepared = prepare(read, args.splits, args.out, "aflw", expected)
    print(prepared, file=sys.stderr if prepared.problems else sys.stdout)
    if args.without and not prepared.problems:
        names = ", ".join(Path(path).name for path in args.without)
        print(f"{len(left_out):,} training photos occur in {names} and were left out")
    return bool(prepared.problems)


if __name__ == "__main__":
    sys.exit(main())
