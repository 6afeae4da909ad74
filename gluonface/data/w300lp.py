"""300W-LP (Zhu et al., CVPR 2016): 300-W turned to large poses, 68 points and head pose. No MXNet here.

The archive unpacks to a folder ``300W_LP`` with

    AFW/ HELEN/ IBUG/ LFPW/                         <name>.jpg, <name>.mat with Pose_Para (1, 7) and pt2d (2, 68)
    AFW_Flip/ HELEN_Flip/ IBUG_Flip/ LFPW_Flip/     the same mirrored, under the same names
    landmarks/<folder>/<name>_pts.mat               pts_2d, pts_3d (68, 2)

``pts_3d`` are the points of the turned 3-D face, also those that it hides; in ``pts_2d`` the jaw follows the outline
that is seen. Both are in pixels of the photo that count from 1 (see `pose_para`): half a pixel is subtracted. The box
of a face is the one round its 68 points, as for 300-W.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..faces import SCHEMES
from ..geometry import flip_points
from .annotation_files import load_mat
from .base import FaceSample
from .image_size import image_size
from .landmark_sets import FROM_ONE, labels_of, sample_of
from .pose_para import paired_files, pose_of, real_array, within

__all__ = ["NUM_FACES", "PARTS", "SPLITS", "read_300w_lp"]

PARTS = ("AFW", "HELEN", "IBUG", "LFPW")
_FLIP = "_Flip"
SPLITS = {"all": (*PARTS, *(part + _FLIP for part in PARTS)), "unflipped": PARTS}
#: Faces, one a photo: AFW 5,207, HELEN 37,676, IBUG 1,786, LFPW 16,556, and as many mirrored.
NUM_FACES = {"all": 122_450, "unflipped": 61_225}

_POINTS = {"3d": "pts_3d", "2d": "pts_2d"}


def read_300w_lp(
    root: str | os.PathLike,
    split: str = "all",
    points: str = "3d",
    max_angle: float | None = None,
    partial: bool = False,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[FaceSample]:
    """Read 300W-LP.

    Parameters
    ----------
    root : path
        The folder 300W_LP. Photos are named relative to it.
    split : "all" or "unflipped"
        With the mirrored photos or without: transforms mirror, too.
    points : "3d" or "2d"
        ``pts_3d`` or ``pts_2d`` of the folder landmarks. A mirrored photo that has no file there gets the mirrored
        points of its twin; where that has none either, ``pt2d`` beside the photo is taken as it is.
    max_angle : float, optional
        Leave out photos whose yaw, pitch or roll is larger, in degrees.
    partial : bool
        Skip folders that are missing, photos without annotation and annotations without photo.
    progress : function
        Wraps the list of files that is gone through, such as tqdm.

    Returns
    -------
    list of FaceSample
        One face each, by folder and name: box, landmarks "68", their five points, pose. `source` is 300w_lp.

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong, naming the file.
    MissingDependencyError
        SciPy is not installed.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if points not in _POINTS:
        raise DataError(f"points must be one of {', '.join(_POINTS)}, got {points!r}")
    root = Path(root)
    paths: list[Path] = []
    for part in SPLITS[split]:
        if (root / part).is_dir():
            paths += paired_files(root / part, "*", partial)
        elif not partial:
            raise DataError(f"{root / part}: no such folder; 300W-LP has {', '.join(SPLITS[split])}")
    if not paths:
        raise DataError(f"{root}: expected the folder 300W_LP with {', '.join(SPLITS[split])}, found none of them")
    samples = []
    for path in progress(paths):
        mat = load_mat(path, ("Pose_Para",), ("pt2d",))
        pose = pose_of(mat["Pose_Para"], str(path))
        if not within(pose, max_angle):
            continue
        faces = labels_of("68", _points_of(root, path, _POINTS[points], mat)[None]).with_(pose=pose[None])
        name = f"{path.parent.name}/{path.stem}.jpg"
        samples.append(sample_of(root, name, faces, "300w_lp", str(path)))
    return samples


def _points_of(root: Path, path: Path, key: str, mat: dict[str, np.ndarray]) -> np.ndarray:
    """(68, 2) in continuous pixels, for the photo beside ``path``."""
    part = path.parent.name
    own = root / "landmarks" / part / f"{path.stem}_pts.mat"
    twin = root / "landmarks" / part.removesuffix(_FLIP) / own.name
    for file in (own, twin):
        if file.is_file():
            points = real_array(load_mat(file, (key,))[key], (68, 2), str(file), key) + FROM_ONE
            if file == own:
                return points
            return flip_points(points, image_size(path.with_suffix(".jpg"))[1], SCHEMES["68"].flip_index)
    if "pt2d" not in mat:
        raise DataError(f"{path}: has no pt2d, and {own} is missing: the face has no points")
    return real_array(mat["pt2d"], (2, 68), str(path), "pt2d").T + FROM_ONE
