"""Fit the mean three-dimensional face of 68 points to two-dimensional labels with known pose and write it as a module.

    python train/fit_face_template.py FACEDATA/lmk_train.jsonl --out gluonface/face_template.py
    python train/fit_face_template.py FACEDATA/lmk_train.jsonl      # says how well it fits, writes nothing

The annotations are JSON lines (format: gluonface/data/jsonl.py) of faces with 68 points and pose. The table in the
package comes from lmk_train.jsonl of the corpus FC26, 4,982 faces of Helen, LFPW and YouTube Faces: residual 7.32 % of
the template's radius, in seconds.

A face shows point k at ``x = s R[:2] V[k] * (1, -1) + t``, R being the rotation of its labelled pose. With V known, s
and t follow from the points of one face; with s and t known, each V[k] follows from all faces: both linear, in turns
until V rests. Residuals count in units of the head, so a large photo counts no more than a small one. After each turn
V is made mirror-symmetric, centred, and scaled to a root-mean-square radius of 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from gluonface.data import read_jsonl
from gluonface.errors import DataError, GluonFaceError
from gluonface.faces import SCHEMES
from gluonface.files import write_atomically
from gluonface.pose import rotation_from_pose

_TURNS = 200
_AT_REST = 1e-6
_ALIKE = 1e-3  # smallest to largest eigenvalue of the directions that faces were seen from: about 2 degrees of spread

_MODULE = '''\
"""The mean face in three dimensions, 68 points and five, for `gluonface.pose.fit_pose`.

x to the viewer's right, y up, z towards the viewer, of a face that looks at the viewer; the 68 points are centred and
of root-mean-square radius 1. Order and names of the points: `gluonface.faces.SCHEMES`.

Fitted by train/fit_face_template.py to 68 labelled image points and the labelled rotation of {count:,} faces of
{sources}. These labels are for non-commercial research (300-W and its sources), and this mean of
them was made in such research.
"""

FACE_68 = (
{face_68}
)

#: Eyes' centres, nose tip, mouth corners: means of the above.
FACE_5 = (
{face_5}
)
'''
_COLLECTIONS = {"helen": "Helen", "lfpw": "LFPW", "ytf": "YouTube Faces"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="JSON lines of faces with 68 points and pose")
    parser.add_argument("--out", type=Path, help="Python file to write the table to")
    args = parser.parse_args(argv)
    try:
        points, pose, sources = labelled_faces(args.annotations)
        template, error = fit_template(points, pose)
    except GluonFaceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(points):,} faces; root-mean-square residual {100 * error:.2f} % of the template's radius")
    if args.out:
        write_atomically(args.out, as_module(template, len(points), sources))
        print(args.out)
    return 0


def labelled_faces(path: Path) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """Points (n, 68, 2), poses (n, 3) and sources of the faces that have all 68 points and a pose."""
    points, poses, sources = [], [], set()
    for sample in read_jsonl(path):
        faces = sample.faces
        if faces.scheme != "68":
            continue
        known = np.isfinite(faces.landmarks).all(axis=(1, 2)) & np.isfinite(faces.pose).all(axis=1) & ~faces.ignore
        points.extend(faces.landmarks[known])
        poses.extend(faces.pose[known])
        if known.any():
            sources.add(sample.source)
    if not points:
        raise DataError(f"{path}: expected faces with landmarks68 and pose, found none in it")
    return np.array(points, np.float64), np.array(poses, np.float64), sources


def fit_template(points: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean shape of faces.

    Parameters
    ----------
    points : (n, 68, 2) array
        Image points in pixels.
    pose : (n, 3) array
        Yaw, pitch, roll in degrees.

    Returns
    -------
    template : (68, 3) array
        Mirror-symmetric, centred, root-mean-square radius 1.
    error : float
        Root-mean-square distance between labelled and shown points, in units of the template.

    Raises
    ------
    DataError
        All faces look the same way, so that the images say nothing about the depth.
    """
    rows = rotation_from_pose(pose)[:, :2]
    seen = points * (1, -1)
    seen = seen - seen.mean(axis=1, keepdims=True)  # t, as long as the template is centred
    normal = np.einsum("nij,nik->jk", rows, rows)
    spread = np.linalg.eigvalsh(normal)
    if spread[0] < _ALIKE * spread[-1]:
        raise DataError(f"expected faces that look different ways to find the depth, got {len(points)} that look alike")

    # To begin with, every face is as large as the spread of its points says.
    size = np.sqrt((seen**2).sum(axis=2).mean(axis=1))
    template = np.zeros((points.shape[1], 3))
    for _ in range(_TURNS):
        before = template
        heads = seen / size[:, None, None]
        template = np.linalg.solve(normal, np.einsum("nij,nki->jk", rows, heads)).T
        template = normalised(template)
        shown = np.einsum("nij,kj->nki", rows, template)
        size = (seen * shown).sum(axis=(1, 2)) / (shown**2).sum(axis=(1, 2))
        if np.abs(template - before).max() < _AT_REST:
            break
    residuals = seen / size[:, None, None] - shown
    return template, float(np.sqrt((residuals**2).sum(axis=2).mean()))


def normalised(template: np.ndarray) -> np.ndarray:
    """A shape (68, 3) made mirror-symmetric, centred, and of root-mean-square radius 1."""
    template = (template + template[SCHEMES["68"].flip_index] * (-1, 1, 1)) / 2
    template = template - template.mean(axis=0)
    return template / np.sqrt((template**2).sum(axis=1).mean())


def as_module(template: np.ndarray, count: int, sources: set[str]) -> str:
    """The text of gluonface/face_template.py."""
    five = np.stack([template[list(part)].mean(axis=0) for part in SCHEMES["68"].five])
    names = sorted(_COLLECTIONS.get(source, source) for source in sources)
    return _MODULE.format(
        count=count,
        sources=" and ".join(filter(None, [", ".join(names[:-1]), names[-1]])),
        face_68=_table(template),
        face_5=_table(five),
    )


def _table(points: np.ndarray) -> str:
    # Adding 0 makes -0.0 plain 0.0.
    rows = (np.round(points, 3) + 0.0).tolist()
    return "\n".join(f"    ({x:.3f}, {y:.3f}, {z:.3f})," for x, y, z in rows)


if __name__ == "__main__":
    sys.exit(main())
