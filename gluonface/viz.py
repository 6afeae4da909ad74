"""Draw faces on photos: boxes, scores, points, head pose and meshes, as thick as the photo and the faces ask for."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .errors import InputError
from .faces import SCHEMES, Faces
from .geometry import Letterbox, apply_letterbox, letterbox
from .mesh import MeshTopology, rasterize, signed_area, small_first, topology_468, vertex_normals
from .pose import rotation_from_pose

__all__ = [
    "AXIS_COLORS",
    "GROUP_COLORS",
    "PART_COLORS",
    "POINT_COLORS",
    "contact_sheet",
    "draw_axes",
    "draw_faces",
    "draw_mesh",
]

#: One colour (RGB) for each of the five points: left eye, right eye, nose, left and right mouth corner.
POINT_COLORS = ((66, 135, 245), (64, 224, 208), (255, 220, 50), (240, 80, 200), (255, 120, 60))
#: One colour (RGB) for each axis of a head: x to the side that is the viewer's right on a face that looks at the
#: viewer, y out of the crown, z out of the nose.
AXIS_COLORS = ((235, 50, 45), (30, 190, 50), (50, 110, 255))
BOX_COLOR = (40, 220, 60)
_OUTLINE = (0, 0, 0)
#: One colour (RGB) for each group of dense landmarks.
GROUP_COLORS = {
    "jaw": (255, 255, 255),
    "brows": (255, 170, 60),
    "eyes": (90, 190, 255),
    "nose": (255, 225, 70),
    "mouth": (255, 110, 150),
}
#: One colour (RGB) for each part of a mesh, in the order of `gluonface.mesh.PARTS`; they repeat where there are more.
PART_COLORS = (
    *((255, 170, 60), (200, 120, 20), (90, 190, 255), (40, 120, 235)),
    *((255, 225, 70), (255, 110, 150), (200, 40, 90)),
)
_LANDMARK_COLOR = (255, 255, 255)

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Height in pixels of a capital letter of that font at scale 1.
_FONT_HEIGHT = 22
# Length of an axis of a head, as a share of the size of the face.
_AXIS_LENGTH = 0.4
# Colours of meshes: lines, and a surface in the light.
_MESH_COLOR, _SURFACE_COLOR = (120, 235, 255), (225, 215, 205)
# The light comes from above the camera, in the axes of the mesh; what it does not reach is not black.
_LIGHT, _AMBIENT = np.array([0.25, -0.45, -0.86]) / np.linalg.norm([0.25, -0.45, -0.86]), 0.25
# A side of a triangle is hidden where a surface is this much nearer, a share of the width of the mesh.
_HIDDEN = 0.03
# OpenCV draws at positions of 1/16 pixel.
_SHIFT = 4


def draw_faces(
    image: np.ndarray,
    faces: Faces,
    *,
    scores: bool = True,
    points: bool = True,
    pose: bool = True,
    angles: bool = False,
    labels: Sequence[str] | None = None,
    color: tuple[int, int, int] = BOX_COLOR,
    thickness: int | None = None,
) -> np.ndarray:
    """Draw boxes, scores, points and head pose.

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB array
        Not changed.
    faces : Faces
        In pixels of the image.
    scores, points : bool
        Whether to write scores and draw landmarks: the dense ones where there are some, else the five.
    pose : bool
        Whether to draw the axes of heads with a pose (`draw_axes`), from the nose or, of faces without points, from the
        middle of the box.
    angles : bool
        Whether to write their yaw, pitch and roll below the boxes, in whole degrees.
    labels : sequence of n str, optional
        Written instead of the scores.
    color : (int, int, int)
        Of the boxes, RGB.
    thickness : int, optional
        Of the box lines in pixels; by default it grows with the photo and is thinner for small faces.

    Returns
    -------
    (H, W, 3) uint8 RGB array
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"expected an RGB image (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if image.shape[:2] != faces.size_hw:
        raise InputError(f"expected faces of an image of size {image.shape[:2]}, got faces of {faces.size_hw}")
    if labels is not None and len(labels) != len(faces):
        raise InputError(f"expected {len(faces)} labels, got {len(labels)}")
    if labels is None:
        labels = [f"{face.score:.2f}" if scores else "" for face in faces]
    picture = np.ascontiguousarray(image).copy()
    # The best last, so that it lies on top.
    for i in np.argsort(faces.scores, kind="stable"):
        face = faces[int(i)]
        width = _line_width(face, image.shape) if thickness is None else thickness
        _draw_box(picture, face.box, color, width)
        if points:
            _draw_points(picture, face)
        if pose and face.pose is not None:
            size = _face_size(face.box)
            _draw_axes(picture, face.pose[0], _nose(face), _AXIS_LENGTH * size, max(1, round(size / 70)))
    for i in np.argsort(faces.scores, kind="stable"):
        place = _write(picture, labels[i], faces.boxes[i], color) if labels[i] else None
        if angles and faces.pose is not None:
            text = "yaw {:.0f}  pitch {:.0f}  roll {:.0f}".format(*np.round(faces.pose[i]) + 0.0)  # no -0
            _write(picture, text, faces.boxes[i], color, "inside" if place == "below" else "below", letters=0.75)
    return picture


def draw_axes(
    image: np.ndarray, pose: np.ndarray, origin: np.ndarray, length: float, thickness: int | None = None
) -> np.ndarray:
    """Draw the axes of one head, in `AXIS_COLORS`: x to the viewer's right, y up, z at the viewer, turned by its pose.

    An axis ends in a dot, so that one that points at the viewer is seen too. What is nearer to the viewer lies on top.

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB array
        Not changed.
    pose : (3,) array
        Yaw, pitch, roll in degrees.
    origin : (2,) array
        Where the axes meet, in pixels.
    length : float
        Of an axis that lies in the image plane, in pixels.
    thickness : int, optional
        Of the lines in pixels; by default it grows with the length.

    Returns
    -------
    (H, W, 3) uint8 RGB array
    """
    picture = np.ascontiguousarray(image).copy()
    _draw_axes(picture, pose, origin, length, max(1, round(length / 32)) if thickness is None else thickness)
    return picture


def draw_mesh(
    image: np.ndarray,
    meshes: np.ndarray,
    topology: MeshTopology | None = None,
    style: str = "wireframe",
    *,
    color: tuple[int, int, int] | None = None,
    alpha: float = 0.75,
    thickness: int | None = None,
) -> np.ndarray:
    """Draw meshes over a photo, hidden surfaces removed, large faces over small ones.

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB array
        Not changed.
    meshes : (n, V, 3) array
        In pixels of the image; `Faces.mesh`.
    topology : MeshTopology, optional
        By default that of 468 vertices.
    style : "wireframe", "shaded" or "parts"
        The sides of the triangles; a smooth surface in the light; the parts of the face in `PART_COLORS`.
    color : (int, int, int), optional
        Of lines or surface, RGB.
    alpha : float
        How much the drawing covers the photo, 0 to 1.
    thickness : int, optional
        Of the lines in pixels; by default it grows with the face.

    Returns
    -------
    (H, W, 3) uint8 RGB array

    Raises
    ------
    InputError
        No such style; an image, meshes or alpha of another kind.
    """
    if style not in _MESH_STYLES:
        raise InputError(f"expected a style of {', '.join(_MESH_STYLES)}, got {style!r}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"expected an RGB image (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if not 0 <= alpha <= 1:
        raise InputError(f"expected alpha between 0 and 1, got {alpha}")
    if meshes is None:
        raise InputError("expected meshes (n, V, 3), got none; a detector with a mesh head gives them")
    topology = topology_468() if topology is None else topology
    meshes = topology.checked(meshes, dims=(3,))
    if meshes.ndim != 3:
        raise InputError(f"expected meshes of shape (n, {topology.num_vertices}, 3), got {meshes.shape}")
    picture = np.ascontiguousarray(image).copy()
    for i in small_first(meshes):
        _MESH_STYLES[style](picture, meshes[i], topology, color, alpha, thickness)
    return picture


def contact_sheet(
    images: Sequence[np.ndarray], tile_hw: tuple[int, int] = (256, 256), columns: int | None = None, gap: int = 4
) -> np.ndarray:
    """Several images (H, W, 3) uint8 side by side, each fitted into a tile; white between them.

    Parameters
    ----------
    images : sequence of arrays
    tile_hw : (int, int)
        Height and width of a tile.
    columns : int, optional
        Tiles in a row; by default as many as make the sheet about square.
    gap : int
        Pixels between tiles.
    """
    if not len(images):
        raise InputError("expected at least one image")
    height, width = tile_hw
    columns = columns or max(1, round(np.sqrt(len(images) * height / width)))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (gap + place * (side + gap) for place, side in zip(divmod(i, columns), tile_hw))
        sheet[top : top + height, left : left + width] = apply_letterbox(
            image, _centred(image.shape[:2], tile_hw), pad_value=(255, 255, 255)
        )
    return sheet


def _centred(size_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> Letterbox:
    box = letterbox(size_hw, canvas_hw)
    height, width = box.resized_hw
    offset = float((canvas_hw[1] - width) // 2), float((canvas_hw[0] - height) // 2)
    return Letterbox(box.scale_xy, offset, box.canvas_hw, box.source_hw)


def _face_size(box: np.ndarray) -> float:
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))


def _line_width(face, shape: tuple[int, ...]) -> int:
    """1 pixel for a photo of 600, 7 for one of 4000; thinner for a small face, whose box a thick line would fill."""
    return max(1, min(round(max(shape[:2]) / 600 + 0.3), round(_face_size(face.box) / 24)))


def _fixed(values) -> list[int]:
    """Continuous coordinates for OpenCV, whose pixel centres are whole numbers, in 1/16 pixel."""
    limit = 2**15  # of drawing functions; everything beyond lies outside any photo anyway
    return [round(v * 2**_SHIFT) for v in np.clip(np.asarray(values, float) - 0.5, -limit, limit)]


def _draw_box(picture: np.ndarray, box: np.ndarray, color, width: int) -> None:
    # On whole pixels: upright lines have no steps to smooth, and smoothing would only blur them.
    x1, y1, x2, y2 = (round(value / 2**_SHIFT) for value in _fixed(box))
    cv2.rectangle(picture, (x1, y1), (x2, y2), color, width)


def _draw_points(picture: np.ndarray, face) -> None:
    size = _face_size(face.box)
    if face.landmarks is not None:
        _draw_dense(picture, face.landmarks[0], face.scheme, size)
    elif face.landmarks5 is not None:
        _draw_dots(picture, face.landmarks5[0], POINT_COLORS, max(1.0, size / 45))


def _draw_dense(picture: np.ndarray, points: np.ndarray, scheme: str, size: float) -> None:
    """Dense landmarks in the colours of their groups, with a line along each contour where there is room for one."""
    colors = [_LANDMARK_COLOR] * len(points)
    if scheme in SCHEMES:
        facts = SCHEMES[scheme]
        for group, rows in facts.groups.items():
            for row in rows:
                colors[row] = GROUP_COLORS[group]
        if size >= 60:
            for contour in facts.contours:
                line = np.array([_fixed(points[row]) for row in contour])
                cv2.polylines(
                    picture, [line], False, colors[contour[0]], max(1, round(size / 300)), cv2.LINE_AA, _SHIFT
                )
    _draw_dots(picture, points, colors, max(0.7, size / 130))


def _nose(face) -> np.ndarray:
    """(2,): the tip of the nose as it is drawn, or the middle of the box."""
    if face.landmarks5 is None and face.scheme not in SCHEMES:
        return (face.box[:2] + face.box[2:]) / 2
    return face.alignment_points[0, 2]


def _draw_axes(picture: np.ndarray, pose: np.ndarray, origin: np.ndarray, length: float, width: int) -> None:
    rotation = rotation_from_pose(pose)
    start = np.asarray(origin, np.float64)
    for axis in np.argsort(rotation[2], kind="stable"):  # the farthest first
        end = start + length * rotation[:2, axis] * (1, -1)
        line, color = (tuple(_fixed(start)), tuple(_fixed(end))), AXIS_COLORS[axis]
        if width >= 2:  # a dark rim, which shows on any skin
            cv2.line(picture, *line, _OUTLINE, width + 2, cv2.LINE_AA, _SHIFT)
        cv2.line(picture, *line, color, width, cv2.LINE_AA, _SHIFT)
        _draw_dots(picture, end[None], (color,), 1.2 * width)


def _draw_wireframe(picture: np.ndarray, mesh: np.ndarray, topology: MeshTopology, color, alpha, thickness) -> None:
    raster = rasterize(mesh, topology.triangles, picture.shape[:2])
    facing = topology.triangles[signed_area(mesh, topology.triangles) > 0]
    sides = np.unique(np.sort(facing[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    # A side is drawn where its middle is seen.
    middle, width = mesh[sides].mean(axis=1), np.ptp(mesh[:, 0])
    sides = sides[middle[:, 2] <= raster.depth_at(middle[:, :2]) + _HIDDEN * width]
    lines = [np.array([_fixed(start), _fixed(end)]) for start, end in mesh[sides, :2]]
    thickness = max(1, round(width / 400)) if thickness is None else thickness
    drawn = picture.copy()
    cv2.polylines(drawn, lines, False, color or _MESH_COLOR, thickness, cv2.LINE_AA, _SHIFT)
    picture[:] = cv2.addWeighted(drawn, alpha, picture, 1 - alpha, 0)


def _draw_surface(picture: np.ndarray, mesh: np.ndarray, topology: MeshTopology, color, alpha, thickness) -> None:
    raster = rasterize(mesh, topology.triangles, picture.shape[:2])
    normals = raster.interpolate(vertex_normals(mesh, topology.triangles))
    light = normals @ _LIGHT / np.maximum(np.linalg.norm(normals, axis=1), 1e-6)
    shade = _AMBIENT + (1 - _AMBIENT) * np.clip(light, 0, 1)
    _blend(picture, raster.pixels, shade[:, None] * np.array(color or _SURFACE_COLOR), alpha)


def _draw_parts(picture: np.ndarray, mesh: np.ndarray, topology: MeshTopology, color, alpha, thickness) -> None:
    raster = rasterize(mesh, topology.triangles, picture.shape[:2])
    part = topology.triangle_parts[raster.seen].astype(np.int64)
    rows, columns = (places[part > 0] for places in raster.pixels)
    colors = np.array(PART_COLORS if color is None else (color,))
    _blend(picture, (rows, columns), colors[(part[part > 0] - 1) % len(colors)], alpha)


_MESH_STYLES = {"wireframe": _draw_wireframe, "shaded": _draw_surface, "parts": _draw_parts}


def _blend(picture: np.ndarray, pixels: tuple[np.ndarray, np.ndarray], colors: np.ndarray, alpha: float) -> None:
    picture[pixels] = np.round(alpha * colors + (1 - alpha) * picture[pixels]).clip(0, 255).astype(np.uint8)


def _draw_dots(picture: np.ndarray, points: np.ndarray, colors, radius: float) -> None:
    """Filled dots with a dark rim, which shows on light skin as on dark; small ones go without."""
    rim = max(1.0, radius * 0.3) if radius >= 2 else 0.0
    for point, color in zip(points, colors):
        center = tuple(_fixed(point))
        if rim:
            cv2.circle(picture, center, round((radius + rim) * 2**_SHIFT), _OUTLINE, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(picture, center, round(radius * 2**_SHIFT), color, -1, cv2.LINE_AA, _SHIFT)


def _write(picture: np.ndarray, text: str, box: np.ndarray, color, place: str = "above", letters: float = 1.0) -> str:
    """Text on a plate of the box's colour; none for a tiny face.

    Parameters
    ----------
    place : "above", "below" or "inside"
        Where to put it. Where the photo ends, "above" becomes "below" and "below" becomes "inside".
    letters : float
        Their size, as a share of the usual one.

    Returns
    -------
    str
        Where it went; "nowhere" when the text would hide the face.
    """
    height, width = picture.shape[:2]
    letter = np.clip(_face_size(box) / 9, max(height, width) / 90, max(height, width) / 30)
    letter = max(letters * letter, 7.0)
    if letter > 0.75 * (box[3] - box[1]):
        return "nowhere"
    scale = float(letter) / _FONT_HEIGHT
    weight = max(1, round(letter / 9))
    (text_width, text_height), _ = cv2.getTextSize(text, _FONT, scale, weight)
    pad = max(1, round(letter / 4))
    plate_height, plate_width = text_height + 2 * pad, text_width + 2 * pad
    left = int(np.clip(round(float(box[0])), 0, max(0, width - plate_width)))
    upper, lower = round(float(box[1])), round(float(box[3]))
    at_bottom = place != "above"
    if place == "above" and upper < plate_height:
        place = "below"
    if place == "below" and lower + plate_height > height:
        place = "inside"
    inside = min(lower, height) - plate_height if at_bottom else upper
    top = {"above": upper - plate_height, "below": lower, "inside": max(0, inside)}[place]
    cv2.rectangle(picture, (left, top), (left + plate_width - 1, top + plate_height - 1), color, -1)
    ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 128 else (255, 255, 255)
    cv2.putText(picture, text, (left + pad, top + pad + text_height - 1), _FONT, scale, ink, weight, cv2.LINE_AA)
    return place
