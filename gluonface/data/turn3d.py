"""New views of a photo with its face turned further aside, by way of a mesh. NumPy and OpenCV, no MXNet.

After the face profiling of 300W-LP (Zhu et al., CVPR 2016, section 4): the photo is the texture of a mesh of the face
and of anchor points round it, and the mesh is turned. photo + mesh (V,3) -> rings of anchors out to the border -> turn
about the mesh's centre -> which triangle each pixel shows, far ones painted first -> piecewise affine map -> photo.

A face is only turned away from the viewer, to the side where its near half stays in sight: what comes into sight was
seen before, and what was seen and is hidden now needs no pixels. Such views are synthetic: the skin is that of the
photo, light and shadows stay where they were, the back of the head is stretched hair.

Letters: V vertices, T triangles, R anchor points.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..errors import InputError
from ..faces import SCHEMES
from ..pose import rotation_from_pose
from .base import FaceLabels

__all__ = ["FRONTAL_YAW", "box_of_68", "turn_face", "unseen_share"]

#: Degrees of yaw within which a face may be turned to either side; both its cheeks are in sight.
FRONTAL_YAW = 5.0

# Camera axes are x right, y up, z to the viewer; the mesh has y down and z away from the viewer.
_TO_CAMERA = np.array([1.0, -1.0, -1.0])

# Where the rings of anchors lie on their way from the outline of the mesh (0) to the border of the photo (1).
_RINGS = np.array([0.06, 0.13, 0.21, 0.3, 0.4, 0.52, 0.66, 0.82, 1.0])
# The head (ears, hair) reaches this far over the outline, a share of the width of the mesh, at most that share of the
# way to the border. What lies there turns with it; from there to the border the movement fades to zero.
_HEAD, _MOST_HEAD = 0.35, 0.5
# The head goes back behind its outline: depth for each pixel outwards, up to a share of the width of the mesh.
_DEPTH_SLOPE, _MOST_DEPTH = 0.9, 0.4
# An outline that reaches the border or goes beyond it still gets rings, this share of its radius wide.
_LEAST_WIDTH = 0.08

# Sides of the box round 68 points, as the boxes of the corpus lie (fitted on its 4,982 training faces, root-mean-square
# error 0.6 % of the side): x1, y1, x2, y2 move by (constant + slope * n) of the points' width or height; n in [0, 1] is
# where the nose lies between the outermost points of the jaw.
_BOX_CONSTANT = np.array([-0.048, -0.341, -0.076, -0.005])
_BOX_SLOPE = np.array([0.115, 0.018, 0.111, -0.006])

# OpenCV fills polygons at positions of 1/256 pixel.
_SHIFT = 8
# Triangles of less area in pixels are lines.
_LEAST_AREA = 1e-3


def turn_face(
    image: np.ndarray,
    mesh: np.ndarray,
    triangles: np.ndarray,
    labels: FaceLabels,
    delta_yaw: float,
    delta_pitch: float = 0.0,
    *,
    vertices_68: np.ndarray,
) -> tuple[np.ndarray, FaceLabels]:
    """A photo with its face turned by some more degrees, and the labels that go with it.

    The head's rotation R becomes R', that of the pose (yaw + delta_yaw, pitch + delta_pitch, roll): the mesh turns by
    ``R' R^T`` in the axes of the camera, about its middle, seen from afar. With delta_pitch 0 that is a turn about the
    upright axis of a head that is neither tilted nor turned but looks up or down as this one: as when somebody below
    the camera looks aside. (About the camera's own upright axis, pitch and roll would grow with the yaw: from 10
    degrees to more than 30 at a yaw of 75.)

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB array
        Not changed. Best a crop with half a face of surroundings on each side, which take up the movement.
    mesh : (V, 3) array
        x, y in pixels of the image, z in the same unit, smaller nearer to the camera.
    triangles : (T, 3) int array
        Of the mesh, counter-clockwise for who sees them from outside. Together they have one outline.
    labels : FaceLabels
        One face with pose and 68 points.
    delta_yaw, delta_pitch : float
        Degrees.
    vertices_68 : (68,) int array
        The vertex of each of the 68 points, which gives it its depth.

    Returns
    -------
    image : (H, W, 3) uint8 RGB array
    labels : FaceLabels
        The 68 points and the five moved as points in space, hidden ones too; the pose composed; the box as `box_of_68`
        makes it, clipped to the image. The mesh row is gone: the row's mesh is that of the photo.

    Raises
    ------
    InputError
        Shapes that do not fit; labels of several faces or without pose or points; a turn towards the viewer or past
        him, which would need pixels that the photo does not have; a mesh with several outlines, or none.
    """
    image, mesh, triangles = _checked(image, mesh, triangles)
    points = _labelled_points(labels, mesh, vertices_68)
    yaw = float(labels.pose[0, 0])
    if abs(yaw) > FRONTAL_YAW and yaw * delta_yaw < 0:
        raise InputError(
            f"a face with a yaw of {yaw:.1f} degrees can be turned further to that side only, got {delta_yaw:.1f}: the "
            "photo does not show its other cheek; mirror the photo to turn it the other way"
        )
    pose = labels.pose + np.array([delta_yaw, delta_pitch, 0.0])
    if abs(pose[0, 0]) > 90:
        raise InputError(f"expected a turn to a yaw of at most 90 degrees, got one from {yaw:.1f} to {pose[0, 0]:.1f}")
    turn = _turn(labels.pose[0], pose[0])
    centre = mesh.mean(axis=0)

    anchors, stays, ring_triangles = _surroundings(mesh, _outline(triangles), image.shape[:2])
    moved = _turned(mesh, turn, centre)
    moved_anchors = anchors + (1 - stays)[:, None] * (_turned(anchors, turn, centre) - anchors)
    # Far triangles first. The surroundings lie behind the face, and outer rings behind inner ones.
    near_last = triangles[np.argsort(-moved[triangles, 2].mean(axis=1), kind="stable")]
    ordered = np.concatenate([ring_triangles[::-1], near_last])
    target = np.concatenate([moved, moved_anchors])[:, :2]
    # Face and surroundings are one sheet whose border stays: where it is folded, one layer more faces the viewer than
    # does not. So those that do not can go, and no hole is left.
    shown = ordered[_facing(target, ordered)]
    turned = _render(image, np.concatenate([mesh, anchors])[:, :2], target, shown)

    landmarks = _turned(points, turn, centre)[None, :, :2]
    height, width = image.shape[:2]
    return turned, labels.with_(
        boxes=np.clip(box_of_68(landmarks), 0, (width, height, width, height)),
        landmarks=landmarks,
        landmarks5=SCHEMES["68"].five_points(landmarks),
        pose=pose,
        mesh_row=np.array([-1]),
        box_from=["landmarks"],
    )


def unseen_share(mesh: np.ndarray, triangles: np.ndarray, pose: np.ndarray, new_pose: np.ndarray) -> float:
    """Which share of the turned face, 0 to 1 of its area, lay hidden before: there the texture is a guess.

    Parameters
    ----------
    mesh, triangles : (V, 3), (T, 3) arrays
        As those of `turn_face`.
    pose, new_pose : (3,) arrays
        Yaw, pitch, roll in degrees before and after the turn.
    """
    mesh = np.asarray(mesh, np.float64)
    area = np.maximum(_signed_area(_turned(mesh, _turn(pose, new_pose), mesh.mean(axis=0)), triangles), 0)
    return float(area[~_facing(mesh, triangles)].sum() / max(area.sum(), _LEAST_AREA))


def box_of_68(landmarks: np.ndarray) -> np.ndarray:
    """Boxes (M, 4) float32 of faces with 68 points (M, 68, 2), forehead included, as those of the corpus.

    That of the points, its top put up by a third of its height, its sides shifted with the nose.
    """
    landmarks = np.asarray(landmarks, np.float64)
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    jaw_low, jaw_high = landmarks[:, :17, 0].min(axis=1), landmarks[:, :17, 0].max(axis=1)
    nose = (landmarks[:, 30, 0] - jaw_low) / np.maximum(jaw_high - jaw_low, 1e-6)
    shift = _BOX_CONSTANT + _BOX_SLOPE * np.clip(nose, 0, 1)[:, None]
    return (np.concatenate([low, high], axis=1) + shift * np.tile(high - low, 2)).astype(np.float32)


def _checked(image: np.ndarray, mesh: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, mesh, triangles = np.asarray(image), np.asarray(mesh, np.float64), np.asarray(triangles)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"expected an RGB image (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if mesh.ndim != 2 or mesh.shape[1] != 3 or not np.isfinite(mesh).all():
        raise InputError(f"expected a mesh (V, 3) of finite numbers, got {mesh.shape}")
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu" or not triangles.size:
        raise InputError(f"expected triangles (T, 3) of whole numbers, got {triangles.shape} {triangles.dtype}")
    if triangles.min() < 0 or triangles.max() >= len(mesh):
        raise InputError(
            f"expected triangles of vertices 0 to {len(mesh) - 1}, got {triangles.min()} to {triangles.max()}"
        )
    return image, mesh, triangles.astype(np.int64)


def _labelled_points(labels: FaceLabels, mesh: np.ndarray, vertices_68: np.ndarray) -> np.ndarray:
    """The 68 points (68, 3) in the mesh's axes: x, y as labelled, z of their vertices."""
    if len(labels) != 1 or labels.scheme != "68" or not np.isfinite(labels.landmarks).all():
        raise InputError(f"expected labels of one face with 68 points, got {len(labels)} faces, scheme {labels.scheme}")
    if not np.isfinite(labels.pose).all():
        raise InputError("expected labels of a face with a pose, got none; gluonface.pose.fit_pose makes one of points")
    vertices_68 = np.asarray(vertices_68)
    if vertices_68.shape != (68,) or vertices_68.min() < 0 or vertices_68.max() >= len(mesh):
        raise InputError(f"expected vertices_68 of shape (68,), 0 to {len(mesh) - 1}, got {vertices_68.shape}")
    return np.concatenate([labels.landmarks[0].astype(np.float64), mesh[vertices_68, 2:]], axis=1)


def _turn(pose: np.ndarray, new_pose: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) in the camera's axes that leads from one pose (3,) to another."""
    return rotation_from_pose(new_pose) @ rotation_from_pose(pose).T


def _turned(points: np.ndarray, turn: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Points (..., 3) in the mesh's axes after a turn (3, 3) in the camera's."""
    return (((points - centre) * _TO_CAMERA) @ turn.T) * _TO_CAMERA + centre


def _signed_area(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Areas (T,) in square pixels, positive for triangles that face the viewer."""
    a, b, c = np.moveaxis(points[triangles, :2], 1, 0)
    # Minus, as y points down.
    return -0.5 * ((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))


def _facing(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    return _signed_area(points, triangles) > 0


def _outline(triangles: np.ndarray) -> np.ndarray:
    """The vertices (n,) round the mesh, in order: those of edges that only one triangle has."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    have = {(int(a), int(b)) for a, b in edges}
    following = {a: b for a, b in have if (b, a) not in have}
    if not following:
        raise InputError("expected a mesh with an outline, got a closed one")
    loop = [min(following)]
    while following[loop[-1]] != loop[0] and len(loop) <= len(following):
        loop.append(following[loop[-1]])
    if len(loop) != len(following):
        raise InputError(
            f"expected a mesh with one outline, got one with {len(following)} edges of which {len(loop)} join"
        )
    return np.array(loop)


def _surroundings(
    mesh: np.ndarray, outline: np.ndarray, size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rings of anchor points from the outline of the mesh to the border of the photo.

    Returns
    -------
    anchors : (R, 3) array
    stays : (R,) array
        0 for those that turn with the head to 1 for those that do not move.
    triangles : (2R, 3) array
        Between outline and rings, inner rings first; anchor 0 is vertex V.
    """
    rim = mesh[outline]
    centre = rim[:, :2].mean(axis=0)
    out = rim[:, :2] - centre
    radius = np.linalg.norm(out, axis=1)
    out = out / np.maximum(radius, 1e-6)[:, None]
    # Along each ray, the distance to the nearer of the two sides of the photo that it meets.
    height, width = size_hw
    sides = np.where(out > 0, np.array([width, height]) - centre, -centre)
    ways = np.where(np.abs(out) > 1e-9, sides / np.where(np.abs(out) > 1e-9, out, 1), np.inf)
    gap = np.maximum(ways.min(axis=1) - radius, _LEAST_WIDTH * radius)

    size = np.ptp(mesh[:, 0])
    distance = _RINGS[:, None] * gap
    depth = np.minimum(_DEPTH_SLOPE * distance, _MOST_DEPTH * size)
    xy = centre + (radius + distance)[..., None] * out
    anchors = np.concatenate([xy, (rim[:, 2] + depth)[..., None]], axis=2).reshape(-1, 3)
    head = np.minimum(_HEAD * size / gap, _MOST_HEAD)
    fade = np.clip((_RINGS[:, None] - head) / (1 - head), 0, 1)
    stays = (fade**2 * (3 - 2 * fade)).reshape(-1)

    count = len(outline)
    rings = np.concatenate([outline[None], len(mesh) + np.arange(len(anchors)).reshape(-1, count)])
    inner, outer = rings[:-1], rings[1:]
    inner_next, outer_next = np.roll(inner, -1, axis=1), np.roll(outer, -1, axis=1)
    triangles = np.stack([inner, outer, outer_next, inner, outer_next, inner_next], axis=2).reshape(-1, 3)
    return anchors, stays, triangles


def _render(image: np.ndarray, source: np.ndarray, target: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The image with triangles at `source` (V, 2) moved to `target`; later ones lie on top.

    Where no triangle is, the image stays.
    """
    height, width = image.shape[:2]
    corners = target[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    solid = np.abs(cross) > 2 * _LEAST_AREA
    triangles, corners = triangles[solid], corners[solid]

    # Which triangle each pixel shows; 0: none.
    number = np.zeros((height, width), np.int32)
    fixed = np.round((corners - 0.5) * 2**_SHIFT).astype(np.int32)
    for i, corner in enumerate(fixed, start=1):
        cv2.fillConvexPoly(number, corner, i, lineType=cv2.LINE_8, shift=_SHIFT)

    # [x y 1] in the target times this is x, y in the source.
    homogeneous = np.concatenate([corners, np.ones((len(corners), 3, 1))], axis=2)
    texture = source[triangles]
    maps = np.concatenate([np.eye(3, 2)[None], np.linalg.solve(homogeneous, texture)])
    # A polygon is filled to the pixels that its edges touch, up to a pixel too far; of a steep triangle that may be far
    # off on the photo.
    low = np.concatenate([[[0, 0]], texture.min(axis=1) - 1])
    high = np.concatenate([[[width, height]], texture.max(axis=1) + 1])
    centre = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    places = [
        np.clip(
            maps[number, 0, k] * centre[0] + maps[number, 1, k] * centre[1] + maps[number, 2, k],
            low[number, k],
            high[number, k],
        ).astype(np.float32)
        for k in range(2)
    ]
    return cv2.remap(image, places[0] - 0.5, places[1] - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
