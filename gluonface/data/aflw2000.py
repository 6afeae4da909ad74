"""AFLW2000-3D (Zhu et al., CVPR 2016): 68 points and head pose of 2,000 photos in its official layout. No MXNet here.

The archive unpacks to a folder ``AFLW2000`` with ``image00002.jpg``, ``image00002.mat`` and so on, one face a photo:

    Pose_Para (1, 7)    pitch, yaw, roll in radians, shift, scale
    pt3d_68 (3, 68)     68 points of the fitted 3-D face in pixels; x and y are read
    pt2d (2, 21)        AFLW's own 21 points, -1 where they cannot be seen; not read
    roi                 where the photo lay in AFLW's; not read, it is no face's box

Pixels count from 1 (see `pose_para`): half a pixel is subtracted. The box of a face is the one round its 68 points, as
for 300-W. The points are those of a 3-D face fitted to what people marked: also the hidden side of a profile has them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .annotation_files import load_mat
from .base import FaceSample
from .landmark_sets import FROM_ONE, labels_of, sample_of
from .pose_para import paired_files, pose_of, real_array, within

__all__ = ["MAX_ANGLE", "NUM_FACES", "SPLITS", "read_aflw2000"]

#: Hopenet's protocol (Ruiz et al., CVPRW 2018), which the papers follow, leaves photos with a larger angle out: its 66
#: bins of 3 degrees end there.
MAX_ANGLE = 99.0
SPLITS = ("all", "99")
#: Faces, one a photo: of the whole set and of the protocol.
NUM_FACES = {"all": 2_000, "99": 1_969}


def read_aflw2000(
    root: str | os.PathLike,
    max_angle: float | None = None,
    partial: bool = False,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[FaceSample]:
    """Read AFLW2000-3D.

    Parameters
    ----------
    root : path
        The folder AFLW2000. Photos are named relative to it.
    max_angle : float, optional
        Leave out photos whose yaw, pitch or roll is larger, in degrees: `MAX_ANGLE` for the protocol of the papers
        (1,969 photos remain).
    partial : bool
        Skip photos without annotation and annotations without photo.
    progress : function
        Wraps the list of files that is gone through, such as tqdm.

    Returns
    -------
    list of FaceSample
        One face each, by name: box, landmarks "68", their five points, pose.

    Raises
    ------
    DataError, ImageError
        At the first thing that is missing or wrong, naming the file.
    MissingDependencyError
        SciPy is not installed.
    """
    root = Path(root)
    samples = []
    for path in progress(paired_files(root, "image*", partial)):
        mat = load_mat(path, ("Pose_Para", "pt3d_68"))
        pose = pose_of(mat["Pose_Para"], str(path))
        if not within(pose, max_angle):
            continue
        points = real_array(mat["pt3d_68"], (3, 68), str(path), "pt3d_68")[:2].T
        faces = labels_of("68", points[None] + FROM_ONE).with_(pose=pose[None])
        samples.append(sample_of(root, f"{path.stem}.jpg", faces, "aflw2000", str(path)))
    return samples
