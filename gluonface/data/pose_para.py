"""What the .mat files of 300W-LP and AFLW2000-3D share (both Zhu et al., CVPR 2016). No MXNet here.

``Pose_Para`` (1, 7) holds pitch, yaw, roll in radians, then shift and scale of the fitted 3-D face. Its rotation is
``R = Rx(pitch) Ry(yaw) Rz(roll)``, the convention of `FaceLabels.pose`, so only order and unit change.

Points are as MATLAB draws them over the photo: y down, the centre of the first pixel at (1, 1). (The sets' own scripts
do so: they plot the points over ``imshow`` and turn y round as ``height + 1 - y``.) Half a pixel is subtracted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError

__all__ = ["paired_files", "pose_of", "real_array", "within"]


def real_array(value: np.ndarray, shape: tuple[int, ...], place: str, what: str) -> np.ndarray:
    """A variable of a .mat file as finite float64 numbers of that shape; DataError says where and what it should be."""
    value = np.asarray(value)
    if value.dtype.kind not in "fiu" or value.shape != shape:
        raise DataError(f"{place}: expected {what}, numbers of shape {shape}, got {value.dtype} of shape {value.shape}")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise DataError(f"{place}: expected {what}, finite numbers, got {np.count_nonzero(~np.isfinite(value))} others")
    return value


def pose_of(parameters: np.ndarray, place: str) -> np.ndarray:
    """(3,) yaw, pitch, roll in degrees of ``Pose_Para``.

    Parameters
    ----------
    parameters : ndarray (1, 7)
    place : str
        The file, for the error.

    Raises
    ------
    DataError
        Another shape, or angles that are not finite.
    """
    pitch, yaw, roll = np.rad2deg(real_array(parameters, (1, 7), place, "Pose_Para")[0, :3])
    return np.array([yaw, pitch, roll])


def within(pose: np.ndarray, max_angle: float | None) -> bool:
    """Whether yaw, pitch and roll (3,) all lie in [-max_angle, max_angle] degrees; None: any will do."""
    return max_angle is None or bool((np.abs(pose) <= max_angle).all())


def paired_files(folder: Path, pattern: str, partial: bool) -> list[Path]:
    """The .mat files of a folder, by name, each beside a photo of its name.

    Parameters
    ----------
    folder : Path
    pattern : str
        Of the names without suffix, such as ``image*``.
    partial : bool
        Leave out what lacks one of the two. Otherwise such names are kept, for their reading to fail.

    Raises
    ------
    DataError
        There is nothing of the kind.
    """
    annotated = {path.stem for path in folder.glob(f"{pattern}.mat")}
    pictured = {path.stem for path in folder.glob(f"{pattern}.jpg")}
    stems = annotated & pictured if partial else annotated | pictured
    if not stems:
        raise DataError(f"{folder}: expected photos {pattern}.jpg with annotations {pattern}.mat, found none")
    return [folder / f"{stem}.mat" for stem in sorted(stems)]
