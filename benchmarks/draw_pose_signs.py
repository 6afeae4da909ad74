"""Draw what the signs of yaw, pitch and roll mean, for docs/pose.md.

    python benchmarks/draw_pose_signs.py [--out docs/img/pose_signs.png] [--degrees 30]

A mean face of 68 points (gluonface/face_template.py; no photo) that looks at the viewer, and turned by each angle
alone to either side, with the axes of the head. In grey behind a turned face: where its points were before.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from common import ROOT, run

from gluonface.face_template import FACE_68
from gluonface.faces import SCHEMES
from gluonface.image import save_image
from gluonface.pose import rotation_from_pose
from gluonface.viz import AXIS_COLORS, draw_axes

_PANEL_HW = (320, 300)
_CENTRE = np.array([150.0, 130.0])
_RADIUS = 78  # pixels to a unit of the template, whose points are at a distance of about 1 from its centre
_NOSE = SCHEMES["68"].five[2][0]
_PAPER, _INK, _FAINT, _FACE = (255, 255, 255), (30, 30, 30), (205, 205, 205), (70, 70, 70)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4  # OpenCV draws at positions of 1/16 pixel


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "pose_signs.png", help="the picture")
    parser.add_argument("--degrees", type=float, default=30, help="how far the heads are turned (%(default)s)")
    args = parser.parse_args(argv)
    save_image(args.out, draw_signs(args.degrees))
    print(args.out)
    return 0


def draw_signs(degrees: float = 30) -> np.ndarray:
    """The picture, (H, W, 3) uint8 RGB: the pose 0 and a turn by each angle; below a legend and the turns back."""
    words = (
        ("nose to the viewer's left", "looks up", "tilts clockwise"),
        ("nose to the viewer's right", "looks down", "tilts anticlockwise"),
    )
    rows = [[draw_panel(np.zeros(3), "all 0", "looks at the viewer")], [draw_legend()]]
    for row, sign in enumerate((degrees, -degrees)):
        for angle, name in enumerate(("yaw", "pitch", "roll")):
            rows[row].append(draw_panel(sign * np.eye(3)[angle], f"{name} {sign:+g}", words[row][angle]))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def draw_legend() -> np.ndarray:
    panel = np.full((*_PANEL_HW, 3), _PAPER, np.uint8)
    lines = ("x: to the viewer's right", "y: out of the crown", "z: out of the nose")
    top = 80
    for line, color in zip(lines, AXIS_COLORS, strict=True):
        cv2.line(panel, (24, top), (50, top), color, 4, cv2.LINE_AA)
        write(panel, line, (62, top + 6), 0.55)
        top += 34
    cv2.line(panel, (24, top), (50, top), _FAINT, 2, cv2.LINE_AA)
    write(panel, "before the turn", (62, top + 6), 0.55)
    write(panel, "The axes turn with the head.", (24, top + 44), 0.55)
    return panel


def draw_panel(pose: np.ndarray, title: str, words: str) -> np.ndarray:
    """One head with its axes, a title and what it says in words."""
    panel = np.full((*_PANEL_HW, 3), _PAPER, np.uint8)
    middle, points = _PANEL_HW[1] // 2, shown(pose)
    if pose.any():
        draw_face(panel, shown(np.zeros(3)), _FAINT)
    draw_face(panel, points, _FACE)
    panel = draw_axes(panel, pose, points[_NOSE], 1.05 * _RADIUS, 4)
    write(panel, title, (middle, 272), 0.75, weight=2, centred=True)
    write(panel, words, (middle, 298), 0.6, centred=True)
    return panel


def shown(pose: np.ndarray) -> np.ndarray:
    """The 68 points (68, 2) of the turned head in a panel, by the formula of `gluonface.pose`."""
    head = np.array(FACE_68)
    return _RADIUS * (head @ rotation_from_pose(pose)[:2].T) * (1, -1) + _CENTRE


def draw_face(picture: np.ndarray, points: np.ndarray, color: tuple[int, int, int]) -> None:
    for contour in SCHEMES["68"].contours:
        cv2.polylines(picture, [fixed(points[list(contour)])], False, color, 2, cv2.LINE_AA, _SHIFT)
    for point in fixed(points):
        cv2.circle(picture, tuple(map(int, point)), 2 * 2**_SHIFT, color, -1, cv2.LINE_AA, _SHIFT)


def fixed(points: np.ndarray) -> np.ndarray:
    """Continuous coordinates as OpenCV takes them: pixel centres are whole numbers, in 1/16 pixel."""
    return np.round((points - 0.5) * 2**_SHIFT).astype(np.int32)


def write(picture, text: str, at: tuple[int, int], scale: float, weight: int = 1, centred: bool = False) -> int:
    """Text whose baseline starts, or is centred, at a place; returns where it ends."""
    width = cv2.getTextSize(text, _FONT, scale, weight)[0][0]
    left = at[0] - width // 2 if centred else at[0]
    cv2.putText(picture, text, (left, at[1]), _FONT, scale, _INK, weight, cv2.LINE_AA)
    return left + width


if __name__ == "__main__":
    run(main)
