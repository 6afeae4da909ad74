r"""Does aligning by dense landmarks help recognition? Verification with a detector's five points and without.

    python benchmarks/verify_alignment.py --pairs lfw/pairs.txt --images lfw --embedding r100.onnx \
        --detector retinaface_mobilenet0.25_mask --landmarks heatmap_mobilenetv2_1.0_sdd_fc26 [--json OUT]

Sub-pixel heatmap landmarks, Table 7. The pairs are in LFW's format, photos are ``NAME/NAME_0001.jpg`` (or .png); other
sets (CFP-FP, CALFW, CPLFW) can be brought into it. Of each photo the centre-most face is taken, as LFW is annotated. It
is cropped to 112x112 by five points, once the detector's own and once those out of the dense landmarks, and embedded;
the similarity of two faces is the cosine. Ten folds, the threshold for one chosen on the others.

A pair with a photo without a face counts as told wrongly, in both ways. Nearly all of the time goes into the embedding.
The paper's figures, detector MobileNetV2, from five points to dense landmarks: LFW 99.87 to 99.87, CFP-FP 98.36 to
98.59, CALFW 95.82 to 95.80, CPLFW 93.58 to 94.02 per cent.

The embedding is an ONNX file that takes (1, 3, S, S) and gives one vector. InsightFace's newer models want RGB,
(value - 127.5) / 127.5, the defaults; its LResNet100E-IR takes values as they are: --mean 0 --std 1.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import provenance, rounded, run, table, write_result
from eval_widerface import progress

from gluonface import FaceAnalyzer, Faces, load_image
from gluonface.alignment import FLIPS, LandmarkPredictor
from gluonface.data.jd106 import centre_most
from gluonface.errors import DataError, InputError, WeightsError
from gluonface.geometry import align_crop
from gluonface.metrics.verification import LfwPair, Verification, read_lfw_pairs, verify_pairs

#: What a crop was aligned by, and the key of its figures.
WAYS = {"detector_points": "the detector's five points", "dense_points": "five points out of the dense landmarks"}
_SUFFIXES = (".jpg", ".jpeg", ".png")
_AT_ONCE = 16


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    pairs = read_lfw_pairs(args.pairs)
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    paths = {name: photo_path(args.images, *name) for name in names}
    embed = OnnxEmbedding(args.embedding, args.input_size, args.mean, args.std, bgr=args.bgr)
    analyzer, predictor = build(args)
    vectors = embed_photos(list(paths.values()), analyzer, predictor, embed, args.input_size)
    vectors = dict(zip(paths, vectors))
    figures = {way: verify(pairs, {name: v[i] for name, v in vectors.items()}) for i, way in enumerate(WAYS)}
    before, after = figures.values()
    result = {
        "detector": args.detector,
        "landmarks": args.landmarks,
        "flip": args.flip,
        "embedding": Path(args.embedding).name,
        "data": Path(args.pairs).stem,
        "photos": len(names),
        "faces_not_found": sum(v[0] is None for v in vectors.values()),
        "pairs": len(pairs),
        "pairs_missed": before.missed,
        **{way: one.to_dict() for way, one in figures.items()},
        "difference": after.accuracy - before.accuracy,
        **provenance(argv),
    }
    print(describe(result))
    if args.json:
        write_result(args.json, rounded(result))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True, metavar="TXT", help="pairs in LFW's format")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of NAME/NAME_0001.jpg")
    parser.add_argument("--detector", required=True, metavar="NAME", help="detector (see `gluonface models`)")
    parser.add_argument("--landmarks", required=True, metavar="NAME", help="landmark net (see `gluonface models`)")
    parser.add_argument("--root", metavar="DIR", help="folder of weights, searched before the package's")
    parser.add_argument(
        "--flip", choices=FLIPS, default="points", help="test-time averaging of the landmarks (default: points)"
    )
    parser.add_argument("--json", metavar="OUT", help="write the result")
    embedding = parser.add_argument_group("embedding")
    embedding.add_argument("--embedding", required=True, metavar="ONNX", help="recognition model")
    embedding.add_argument("--input-size", type=int, default=112, metavar="S", help="side of its crops (default: 112)")
    embedding.add_argument(
        "--mean", type=float, nargs="+", default=[127.5], metavar="X", help="one or three, of 0..255"
    )
    embedding.add_argument("--std", type=float, nargs="+", default=[127.5], metavar="X", help="one or three, of 0..255")
    colours = embedding.add_mutually_exclusive_group()
    colours.add_argument("--rgb", dest="bgr", action="store_false", help="order of its colours (the default)")
    colours.add_argument("--bgr", action="store_true", help="order of its colours, also of --mean and --std")
    args = parser.parse_args(argv)
    if args.input_size < 1 or {len(args.mean), len(args.std)} - {1, 3} or min(args.std) <= 0:
        parser.error("--input-size is at least 1, --mean and --std are one number or three, --std above 0")
    return args


def build(args: argparse.Namespace) -> tuple[FaceAnalyzer, LandmarkPredictor]:
    """Detector and landmark net of the flags."""
    analyzer = FaceAnalyzer(args.detector, root=args.root, batch_size=_AT_ONCE)
    return analyzer, LandmarkPredictor(args.landmarks, flip=args.flip, root=args.root)


class OnnxEmbedding:
    """Crops (S, S, 3) uint8 RGB to vectors (D,) of length 1, by an ONNX model in OpenCV.

    Raises
    ------
    WeightsError
        OpenCV cannot read the file, or cannot run it on such crops.
    """

    def __init__(self, path: str, size: int, mean: Sequence[float], std: Sequence[float], bgr: bool = False):
        import cv2

        self.path, self.size, self.bgr = path, size, bgr
        self.mean, self.std = (np.asarray(values, np.float32) for values in (mean, std))
        self._error = cv2.error
        if not Path(path).is_file():
            raise WeightsError(f"{path}: no such file")
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise WeightsError(f"{path}: OpenCV cannot read this ONNX file: {error}") from error

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """The vector (D,) of a crop."""
        pixels = crop[..., ::-1] if self.bgr else crop
        x = ((pixels.astype(np.float32) - self.mean) / self.std).transpose(2, 0, 1)[None]
        try:
            self.net.setInput(np.ascontiguousarray(x))
            vector = self.net.forward().reshape(-1).astype(np.float64)
        except self._error as error:
            raise WeightsError(f"{self.path}: OpenCV cannot run this model on (1, 3, S, S): {error}") from error
        length = np.linalg.norm(vector)
        if not (np.isfinite(length) and length > 0):
            raise WeightsError(f"{self.path}: the embedding of a crop has the length {length}: is it another model?")
        return vector / length


def photo_path(folder: str, name: str, number: int) -> Path:
    """Where LFW keeps a photo."""
    stem = Path(folder) / name / f"{name}_{number:04d}"
    for suffix in _SUFFIXES:
        # Not with_suffix: names have dots.
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return path
    raise DataError(f"{stem}{_SUFFIXES[0]}: no such photo (nor {' or '.join(_SUFFIXES[1:])}), but the pairs name it")


def embed_photos(
    paths: Sequence[Path],
    analyzer: FaceAnalyzer,
    predictor: LandmarkPredictor,
    embed: Callable[[np.ndarray], np.ndarray],
    size: int,
) -> list[tuple]:
    """Vectors of the centre-most face of each photo, one for each of `WAYS`; (None, None) where none was found."""
    vectors = []
    reader = map(load_image, progress(paths, len(paths)))
    while images := list(itertools.islice(reader, _AT_ONCE)):
        chosen = [centre_face(faces) for faces in analyzer(images)]
        bare = next((faces for faces in chosen if len(faces) and faces.landmarks5 is None), None)
        if bare is not None:
            raise InputError(f"expected a detector that gives five points, got {bare!r}")
        dense = predictor(images, chosen)
        for image, detected, refined in zip(images, chosen, dense):
            crops = crops_of(image, detected, refined, size)
            vectors.append((None, None) if crops is None else tuple(map(embed, crops)))
    return vectors


def centre_face(faces: Faces) -> Faces:
    """The face whose box is nearest to the photo's middle, as `Faces` of length 1; of length 0 where there is none."""
    return faces[[centre_most(faces.boxes, faces.size_hw)]] if len(faces) else faces


def crops_of(image: np.ndarray, detected: Faces, refined: Faces, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The face aligned by either five points; None without a face or with points that cannot be aligned by."""
    if not len(detected):
        return None
    try:
        return tuple(align_crop(image, five, size) for five in (detected.landmarks5[0], refined.alignment_points[0]))
    except InputError:  # all in one place
        return None


def verify(pairs: Sequence[LfwPair], vectors: dict) -> Verification:
    """Accuracy with these vectors of photos."""
    both = [(vectors[pair.a], vectors[pair.b]) for pair in pairs]
    similarities = [np.nan if a is None or b is None else float(a @ b) for a, b in both]
    return verify_pairs(similarities, [pair.same for pair in pairs], [pair.fold for pair in pairs])


def describe(result: dict) -> str:
    """The result as text, in per cent."""
    rows = [("aligned by", "accuracy", "+-")]
    for way, words in WAYS.items():
        rows.append((words, *(f"{100 * result[way][key]:.2f}" for key in ("accuracy", "std"))))
    rows.append(("difference", f"{100 * result['difference']:+.2f}", ""))
    return (
        f"{result['embedding']} on {result['data']}: {result['pairs']} pairs of {result['photos']} photos, per cent "
        f"and deviation over folds\n{result['detector']}, {result['landmarks']}\n\n{table(rows)}\n\n"
        f"{result['faces_not_found']} photos without a face; the {result['pairs_missed']} pairs they are in count as "
        "told wrongly"
    )


if __name__ == "__main__":
    run(main)
