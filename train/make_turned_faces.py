"""Make training photos of heads that look far aside, by turning the faces of a corpus that has meshes of them.

Head pose sets hold few of them (98 % of this corpus look less than 30 degrees aside), so views of the photos at a yaw
between 20 and 75 degrees are made as 300W-LP was (Zhu et al., CVPR 2016, section 4; gluonface.data.turn3d):

    python train/make_turned_faces.py ../shared/facedata/lmk_train.jsonl --out runs/turned_train --every ytf=3
    python train/make_turned_faces.py ../shared/facedata/lmk_val.jsonl --out runs/turned_val

Writes OUT/images/<source>-3d/*.jpg, crops round one face of at most 320 pixels, and OUT/turned.jsonl, which
train/train_mos.py and benchmarks/eval_pose.py read. The first command gives 2,654 photos, the second 469, in a minute
or two on one core. Views of a photo that its licence forbids to pass on are not to be passed on either. Figures
on such views are to be called synthetic: texture and labels come from the same mesh, and nobody measured the angles.

Beside the annotations, or named by --meshes, there must be mesh468.npz (array mesh468 (n, 468, 3), the row is the
`mesh468` of a face), mesh468_triangles.npy and mesh468_to_68.json.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from gluonface._compat import import_optional
from gluonface.data.base import FaceLabels, FaceSample
from gluonface.data.jsonl import read_jsonl, write_jsonl
from gluonface.data.turn3d import FRONTAL_YAW, turn_face, unseen_share
from gluonface.errors import DataError
from gluonface.image import load_image, save_image

#: Views of which more was hidden in the photo than this share of the face are not written.
MOST_UNSEEN = 0.15
#: Nor are those of which fewer of the 68 points than this lie inside the crop.
LEAST_INSIDE = 60
#: The meshes are flatter than heads: the mean face of scans to which the poses of the corpus were fitted
#: (template68.npy) has 1.2 times their depth. With this factor the pose fitted to the moved points agrees best with the
#: composed one, over all angles (500 faces at 25 to 70 degrees of yaw: 3.2 degrees on average; unscaled 4.3).
MESH_DEPTH = 1.15
#: Degrees by which the pitch changes at most.
PITCH_JITTER = 8.0


class Meshes:
    """The meshes of a corpus, and which of their vertices are the 68 points.

    Parameters
    ----------
    folder : Path
        Of mesh468.npz, mesh468_triangles.npy and mesh468_to_68.json.
    """

    def __init__(self, folder: Path):
        try:
            with np.load(folder / "mesh468.npz") as file:
                self.meshes = file["mesh468"]
            self.triangles = np.load(folder / "mesh468_triangles.npy")
            self.vertices_68 = np.array(json.loads((folder / "mesh468_to_68.json").read_text())["common"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: cannot read the meshes ({error}); name their folder with --meshes") from error

    def of_row(self, row: int, name: str) -> np.ndarray:
        """The mesh (468, 3) of a face of the photo `name`, in its pixels, as deep as a head is."""
        if row >= len(self.meshes):
            raise DataError(f"{name}: mesh468 is row {row}, the meshes have {len(self.meshes)}; they belong to others")
        return self.meshes[row] * np.array([1, 1, MESH_DEPTH])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="annotations with 68 points, pose and mesh468, as JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--images", type=Path, help="folder of the photos (default: images beside the annotations)")
    parser.add_argument("--meshes", type=Path, help="folder of the meshes (default: that of the annotations)")
    parser.add_argument("--views", type=int, default=1, help="of each face (default: 1)")
    parser.add_argument(
        "--yaw", type=float, nargs=2, default=(20.0, 75.0), metavar=("FROM", "TO"), help="drawn evenly (default: 20 75)"
    )
    parser.add_argument(
        "--every", nargs="*", type=_source_and_step, default=[], metavar="SOURCE=N", help="take each Nth of a source"
    )
    parser.add_argument(
        "--margin", type=float, default=2.5, help="side of the crop in sizes of the face (default: 2.5)"
    )
    parser.add_argument("--side", type=int, default=320, help="its long side in pixels at most (default: 320)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.views < 1 or args.side < 1 or not 0 <= args.yaw[0] <= args.yaw[1] <= 90:
        parser.error("expected --views and --side of at least 1, and --yaw FROM TO within 0 and 90")
    tqdm = import_optional("tqdm", "train").tqdm

    samples = read_jsonl(args.data, args.images)
    meshes = Meshes(args.meshes or args.data.parent)
    counts, written = collections.Counter(), []
    chosen = list(_each_nth(samples, dict(args.every)))
    for number, sample in tqdm(chosen, unit="photo", disable=not sys.stderr.isatty()):
        # By its place in the file: what is drawn for a photo does not depend on which others are taken.
        rng = np.random.default_rng((args.seed, number))
        image = None
        for face in np.flatnonzero(~sample.faces.ignore):
            labels = sample.faces[[face]]
            if labels.mesh_row[0] < 0 or labels.scheme != "68" or not np.isfinite(labels.pose).all():
                counts["without mesh, pose or 68 points"] += args.views
                continue
            image = load_image(sample.image_path) if image is None else image
            mesh = meshes.of_row(int(labels.mesh_row[0]), sample.name)
            cropped = crop_face(image, labels, mesh, args.margin, args.side)
            for view in range(args.views):
                turned = turned_view(*cropped, meshes, args.yaw, rng)
                if turned is None:
                    counts["degenerate"] += 1
                    continue
                written.append(_save(args.out / "images", f"{face}-{view}", *turned, sample))
    write_jsonl(args.out / "turned.jsonl", written)
    print(f"{args.out / 'turned.jsonl'}: {len(written):,} views; left out: {dict(counts) or 'none'}")
    return 0


def crop_face(
    image: np.ndarray, labels: FaceLabels, mesh: np.ndarray, margin: float, side: int
) -> tuple[np.ndarray, FaceLabels, np.ndarray]:
    """The part of a photo round one face, shrunk to a long side of at most `side`, with labels and mesh in its pixels.

    It is a square `margin` times the size of the face wide, as far as the photo goes.
    """
    box = labels.boxes[0].astype(np.float64)
    centre, half = (box[:2] + box[2:]) / 2, margin / 2 * np.sqrt(np.prod(box[2:] - box[:2]))
    x1, y1 = np.maximum(np.floor(centre - half), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(centre + half), image.shape[1::-1]).astype(int)
    image = image[y1:y2, x1:x2]
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Sides are whole pixels, so the two scales may differ by a little; depth takes the width's, as its turn does.
    factor = np.array(size) / (width, height)
    offset = np.array([x1, y1])
    return (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA),
        labels.with_(
            boxes=(labels.boxes - np.tile(offset, 2)) * np.tile(factor, 2),
            landmarks=(labels.landmarks - offset) * factor,
            landmarks5=(labels.landmarks5 - offset) * factor,
        ),
        (mesh - (x1, y1, 0)) * (*factor, factor[0]),
    )


def turned_view(
    image: np.ndarray, labels: FaceLabels, mesh: np.ndarray, meshes: Meshes, yaw: tuple[float, float], rng
) -> tuple[np.ndarray, FaceLabels] | None:
    """One view at a yaw drawn between two bounds, further aside than the photo; None where that shows too little."""
    now = float(labels.pose[0, 0])
    side = np.sign(now) if abs(now) > FRONTAL_YAW else rng.choice((-1.0, 1.0))
    target = side * rng.uniform(max(yaw[0], min(abs(now), yaw[1])), yaw[1])
    delta_yaw, delta_pitch = target - now, rng.uniform(-PITCH_JITTER, PITCH_JITTER)
    if side * delta_yaw <= 0:
        return None
    new_pose = labels.pose[0] + (delta_yaw, delta_pitch, 0)
    if unseen_share(mesh, meshes.triangles, labels.pose[0], new_pose) > MOST_UNSEEN:
        return None
    turned, moved = turn_face(
        image, mesh, meshes.triangles, labels, delta_yaw, delta_pitch, vertices_68=meshes.vertices_68
    )
    height, width = turned.shape[:2]
    inside = ((moved.landmarks[0] >= 0) & (moved.landmarks[0] <= (width, height))).all(axis=1)
    if inside.sum() < LEAST_INSIDE:
        return None
    delta = {"delta_yaw": round(float(delta_yaw), 2), "delta_pitch": round(float(delta_pitch), 2)}
    return turned, moved.with_(attributes=[{**labels.attributes[0], "synthetic": "turned", **delta}])


def _save(folder: Path, suffix: str, image: np.ndarray, labels: FaceLabels, photo: FaceSample) -> FaceSample:
    """Write one view as <source>-3d/<photo>-<suffix>.jpg; what to note of it."""
    source, photo_name = f"{photo.source or 'photos'}-3d", PurePosixPath(photo.name)
    parts = photo_name.with_suffix("").parts
    # The folder that is called as the source is not named twice; others tell photos of one name apart.
    name = f"{source}/{'_'.join(parts[parts[0] == photo.source :])}-{suffix}.jpg"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, image, quality=90)
    return FaceSample(image_path=str(path), size_hw=image.shape[:2], faces=labels, source=source, name=name)


def _each_nth(samples: list[FaceSample], steps: dict[str, int]) -> Iterator[tuple[int, FaceSample]]:
    """Samples with their places in the file, of some sources only each Nth."""
    missing = set(steps) - {sample.source for sample in samples}
    if missing:
        raise DataError(f"--every names {', '.join(sorted(missing))}, of which there are no photos")
    seen = collections.Counter()
    for number, sample in enumerate(samples):
        if seen[sample.source] % steps.get(sample.source, 1) == 0:
            yield number, sample
        seen[sample.source] += 1


def _source_and_step(text: str) -> tuple[str, int]:
    source, _, step = text.partition("=")
    if not source or not step.isdecimal() or int(step) < 1:
        raise argparse.ArgumentTypeError(f"expected SOURCE=N such as ytf=3, got {text!r}")
    return source, int(step)


if __name__ == "__main__":
    sys.exit(main())
