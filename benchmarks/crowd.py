"""A crowd made of one photo: scikit-image's astronaut, many times, at known sizes and angles in front of a drawn sky.

Used by the demo and by tests, which need a picture with many faces and may not ship one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from gluonface._compat import import_optional
from gluonface.faces import Faces
from gluonface.geometry import box_iou, rotation_matrix_about, warp_image, warp_points

# Where things are in the astronaut photo (512x512), read off it by eye.
FACE_BOX = np.array([177.0, 60.0, 272.0, 184.0])
_HEAD = [(147, 80), (154, 44), (182, 20), (224, 9), (270, 20), (298, 46), (307, 85), (302, 112), (286, 132), (264, 144),
         (258, 176), (190, 176), (182, 138), (160, 116)]  # fmt: skip
_COLLAR = ((208, 222), (97, 72), 12)  # centre, half axes, degrees
_SUIT = [(117, 205), (90, 232), (48, 262), (30, 330), (24, 400), (352, 400), (352, 330), (340, 272), (303, 238)]
_SUIT_FADES_AT = (330, 390)  # rows

# Collisions are looked for in a picture so many times smaller.
_COARSE = 4

# From far to near, and as people stand, lean and, in space, float.
HEIGHTS = tuple(np.geomspace(200, 16, 30).round(1))
ANGLES = (0, 12, -20, 35, -8, 60, -45, 180, 20, -60, 5, -30, 165, 45, -15)


@dataclass(frozen=True)
class Crowd:
    """A composed picture and what is in it.

    Attributes
    ----------
    image : (H, W, 3) uint8 RGB array
    boxes : (M, 4) float32 array
        xyxy in pixels: the upright box round each face as it lies.
    heights : (M,) float32 array
        Of the faces in pixels, before they were turned.
    degrees : (M,) float32 array
        By which each face is turned, clockwise.
    """

    image: np.ndarray
    boxes: np.ndarray
    heights: np.ndarray
    degrees: np.ndarray

    def found_in(self, faces: Faces, iou_thresh: float = 0.5) -> np.ndarray:
        """Which of the M faces were found, (M,) bool: the best detection counts for at most one of them."""
        found = np.zeros(len(self.boxes), bool)
        for overlaps in box_iou(faces.sorted_by_score().boxes, self.boxes):
            best = np.where(found, 0, overlaps).argmax()
            found[best] |= overlaps[best] >= iou_thresh
        return found


def astronaut() -> np.ndarray:
    """The photo (512, 512, 3) uint8 RGB that scikit-image carries (NASA, public domain)."""
    return import_optional("skimage.data", "demo").astronaut()


def compose_crowd(size_hw: tuple[int, int] = (960, 1440), heights=HEIGHTS, angles=ANGLES, seed: int = 7) -> Crowd:
    """Put the astronaut into a sky, once for each height, without hiding a face.

    Parameters
    ----------
    size_hw : (int, int)
        Height and width of the picture.
    heights : sequence of float
        Of the faces, in pixels. One for which no room is found is left out.
    angles : sequence of float
        Degrees by which they are turned, taken in turn.
    seed : int
        Another one gives other places and another sky.

    Returns
    -------
    Crowd
    """
    rng = np.random.default_rng(seed)
    grid_hw = tuple(-(-side // _COARSE) for side in size_hw)
    heads, bodies = np.zeros(grid_hw, np.uint8), np.zeros(grid_hw, np.uint8)
    placed = []
    for i, height in sorted(enumerate(heights), key=lambda item: -item[1]):
        turn = float(angles[i % len(angles)])
        for _ in range(2000):
            matrix, box = _place(float(height), turn, size_hw, rng)
            head, body = _outline(_HEAD, matrix, grid_hw), _outline(_HEAD + _SUIT, matrix, grid_hw)
            if not (body & heads).any() and not (head & bodies).any():
                heads |= head
                bodies |= body
                placed.append((matrix, box, height, turn))
                break
    photo = astronaut()
    matte, image = _matte(photo), _sky(size_hw, rng)
    for matrix, *_ in reversed(placed):  # the far ones first
        _paste(image, photo, matte, matrix)
    _, *columns = zip(*placed)
    return Crowd(image, *(np.array(column, np.float32) for column in columns))


def _matte(photo: np.ndarray) -> np.ndarray:
    """Which part of the photo is the person: (512, 512, 3) uint8, 0 outside, 255 inside, three times the same."""
    rough = np.full((512, 512), cv2.GC_BGD, np.uint8)
    cv2.fillPoly(rough, [np.array(_HEAD)], cv2.GC_PR_FGD)
    cv2.ellipse(rough, (224, 110), (52, 72), 0, 0, 360, cv2.GC_FGD, -1)  # the face and the hair next to it
    cv2.setRNGSeed(0)
    cv2.grabCut(photo, rough, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    body = np.where((rough == cv2.GC_FGD) | (rough == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)
    cv2.ellipse(body, *_COLLAR, 0, 360, 255, -1)
    suit = np.zeros_like(body)
    cv2.fillPoly(suit, [np.array(_SUIT)], 255)
    fade = np.interp(np.arange(512), _SUIT_FADES_AT, (1, 0))[:, None]
    body = np.maximum(cv2.erode(body, np.ones((3, 3), np.uint8)), (suit * fade).astype(np.uint8))
    return np.repeat(cv2.GaussianBlur(body, (5, 5), 0)[..., None], 3, axis=2)


def _paste(image: np.ndarray, photo: np.ndarray, matte: np.ndarray, matrix: np.ndarray) -> None:
    """Lay the photo over the image, in place, where and as far as its matte says."""
    corners = warp_points(matrix, np.array([[0, 0], [512, 0], [512, 512], [0, 512]], float))
    x1, y1 = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    x2, y2 = np.minimum(np.ceil(corners.max(0)).astype(int), image.shape[1::-1])
    part = image[y1:y2, x1:x2]
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] - (x1, y1)])
    alpha = warp_image(matte, matrix, part.shape[:2]) / np.float32(255)
    part[:] = np.rint(part * (1 - alpha) + warp_image(photo, matrix, part.shape[:2]) * alpha)


def _outline(points, matrix: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """The convex hull of points of the photo as it lies in the picture, 1 inside, (h, w) uint8, coarse."""
    hull = cv2.convexHull((warp_points(matrix, np.array(points, float)) / _COARSE).astype(np.float32))
    return cv2.fillConvexPoly(np.zeros(grid_hw, np.uint8), np.rint(hull).astype(np.int32), 1)


def _place(height: float, turn: float, size_hw: tuple[int, int], rng: np.random.Generator):
    """A random place for a face, well inside the picture: matrix (2, 3) of the photo, and its box (4,)."""
    center = (FACE_BOX[:2] + FACE_BOX[2:]) / 2
    matrix = rotation_matrix_about(tuple(center), turn, height / (FACE_BOX[3] - FACE_BOX[1]))
    margin = 0.9 * height
    goal = rng.uniform((margin, margin), (size_hw[1] - margin, size_hw[0] - margin))
    matrix[:, 2] += goal - center
    # A face is an ellipse rather than a box: the box round it as it lies.
    angle = np.linspace(0, 2 * np.pi, 90)
    rim = warp_points(matrix, center + (FACE_BOX[2:] - FACE_BOX[:2]) / 2 * np.stack([np.cos(angle), np.sin(angle)], 1))
    return matrix, np.concatenate([rim.min(0), rim.max(0)])


def _sky(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Deep blue, brighter towards the edge of a planet at the bottom, with stars."""
    height, width = size_hw
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = 2.0 * width
    above = np.hypot(x - 0.55 * width, y - (0.86 * height + radius)) - radius  # pixels above the planet's edge
    glow = np.exp(-np.maximum(above, 0) / (0.16 * height))[..., None]
    sky = np.array([8, 12, 34]) + glow * np.array([70, 130, 200])
    cloud = cv2.resize(rng.random((24, 36), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    planet = np.array([28, 84, 150]) + cloud * np.array([60, 60, 50])
    image = np.where(above[..., None] > 0, sky, planet)
    for _ in range(width * height // 4000):
        sx, sy, light = rng.integers(width), rng.integers(height), rng.uniform(60, 220)
        if above[sy, sx] > 0:
            cv2.circle(image, (int(sx), int(sy)), int(rng.random() < 0.1) + 1, (light,) * 3, -1, cv2.LINE_AA)
    return np.clip(cv2.GaussianBlur(image, (3, 3), 0), 0, 255).astype(np.uint8)
