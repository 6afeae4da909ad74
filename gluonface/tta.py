"""Test-time augmentation: one photo at several scales and mirrored, the results put together by box voting.

This is how WIDER FACE figures are usually made. RetinaFace (arXiv:1905.00641, section 4.2, testing details): the short
side at 500, 800, 1100, 1400 and 1700 pixels, mirrored too, box voting at IoU 0.4. Any detector that `FaceAnalyzer`
takes can use it.

A net that is meant for small pictures, such as KPNet, finds faces that fill a photo and tiny ones with two long sides,
its own and a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .analysis import STRIDE, whole_strides
from .errors import InputError
from .faces import SCHEMES, Faces
from .geometry import Letterbox, clip_boxes, flip_boxes, flip_points, nms, soft_nms, vote
from .image import load_image
from .pose import pose_distance, pose_from_rotation, rotation_from_pose, wrap_degrees

__all__ = ["SHORT_SIDES", "detect_multiscale", "mirror_faces", "soften_faces", "vote_faces"]

#: Short sides in pixels at which RetinaFace is tested.
SHORT_SIDES = (500, 800, 1100, 1400, 1700)

# Largest face that a run at a larger long side than the smallest answers for, on its canvas, in shares of the long side
# that the net is meant for. Of faces larger than it knows a net finds parts: those of the detectors here are 0.37 to
# 0.51 of that side on an astronaut's face that fills the photo, looked at with a long side of 1280 and 2048.
_ANSWERS_UP_TO = 0.25

#: Long side in pixels of the largest run.
MAX_LONG_SIDE = 2300

# Parts of `Faces` that are averaged beside the boxes, and what they are called in errors.
_VOTED = {"landmarks5": "five points", "landmarks": "dense landmarks", "pose": "a pose"}


def detect_multiscale(
    analyzer,
    image,
    short_sides: Sequence[int] | None = SHORT_SIDES,
    *,
    long_sides: Sequence[int] | None = None,
    flip: bool = True,
    soft: str | None = None,
    vote_thresh: float = 0.4,
    nms_thresh: float | None = None,
    max_long_side: int | None = MAX_LONG_SIDE,
    size_ranges: Sequence[tuple[float, float]] | None = None,
    score_thresh: float | None = None,
) -> Faces:
    """Find faces in one photo at several scales, mirrored too.

    >>> detect_multiscale(FaceAnalyzer(), "photo.jpg", long_sides=(640, 1600), flip=False)

    Parameters
    ----------
    analyzer : Analyzer or HybridBlock
        `FaceAnalyzer`, or one on another engine that has a canvas for each scale. A net is wrapped in `FaceAnalyzer` as
        it is, with its own threshold of NMS and scores.
    image : path, bytes or array (H, W, 3) RGB
    short_sides : sequence of int, optional
        Short side of the photo in pixels, one run each; None: one run at the photo's own size.
    long_sides : sequence of int, optional
        Instead of short sides: long sides in pixels, as ``FaceAnalyzer(size=)`` has one, and each run answers for the
        faces that it is good at (see `size_ranges`).
    flip : bool
        Also look at the mirrored photo, in the same batch.
    soft : {"linear", "gaussian"}, optional
        Soft-NMS of the boxes of each run before the vote (MaskFace section 4.2), see `gluonface.geometry.soft_nms`.
        The analyzer has to leave it boxes that overlap, ``FaceAnalyzer(net, nms_thresh=1)``, and enough of them: what
        the net's own suppression would have dropped counts against its cap now, and the weaker faces of a crowd would
        go. Lift it after that: ``net.set_nms(1, post_nms=5000, score_thresh=net.score_thresh)`` of nets with anchors,
        which is 750.
    vote_thresh : float
        Boxes of all runs that overlap the best by at least this IoU become one: the mean weighted by score, of boxes,
        of points, five and dense, and, where the detector gives them, of poses (see `vote_faces`).
    nms_thresh : float, optional
        A last non-maximum suppression of the voted boxes, which have moved; `vote_thresh` by default.
    max_long_side : int, optional
        All scales shrink together until the largest run has no longer side than this. 2300 lets a 4:3 photo pass and
        bounds the memory that a panorama takes.
    size_ranges : sequence of (low, high), optional
        For each side, the sizes sqrt(width x height) of faces in photo pixels to take from that run. Of short sides all
        by default. Of long sides those that are at most a quarter of ``facts.size`` on the canvas; the run at the
        smallest side answers for all.
    score_thresh : float, optional
        Weaker faces are left out; by default the analyzer's. For WIDER FACE 0.02, or what the benchmark asks for.

    Returns
    -------
    Faces
        In pixels of the photo, best first; with dense landmarks where the detector gives them, or where the analyzer
        has a landmark net: then they are that net's, found once on the voted faces.

    Raises
    ------
    ImageError
        The image cannot be read.
    InputError
        Sides or ranges are none, an engine of fixed canvases has none that is large enough, or what it finds cannot be
        mirrored (`mirror_faces`).
    """
    if not hasattr(analyzer, "detect_letterboxed"):
        from .pipeline import FaceAnalyzer  # loads MXNet: not for compiled nets

        analyzer = FaceAnalyzer(analyzer)
    image = load_image(image)
    if long_sides is None:
        scales = _scales(image.shape[:2], min, short_sides, max_long_side)
        by_default = [(0.0, np.inf)] * len(scales)
    else:
        scales = _scales(image.shape[:2], max, long_sides, max_long_side)
        most = _ANSWERS_UP_TO * analyzer.facts.size
        by_default = [(0.0, np.inf if scale == min(scales) else most / scale) for scale in scales]
    if size_ranges is None:
        size_ranges = by_default
    if len(size_ranges) != len(scales):
        raise InputError(f"expected a size range for each of the {len(scales)} scales, got {len(size_ranges)}")
    mirrored = np.ascontiguousarray(image[:, ::-1])
    least = getattr(analyzer, "score_thresh", 0.0) if score_thresh is None else score_thresh
    runs = []
    for scale, (low, high) in zip(scales, size_ranges):
        box = _scaled(image.shape[:2], scale, analyzer)
        images = [image, mirrored] if flip else [image]
        found = analyzer.detect_letterboxed(images, [box] * len(images), score_thresh)
        if flip:
            # A vote keeps no meshes, and they cannot be mirrored.
            found[1] = mirror_faces(found[1].with_(mesh=None))
        for faces in found:
            if soft is not None:
                faces = soften_faces(faces, soft, least)
            size = np.sqrt(np.prod(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1))
            runs.append(faces[(size >= low) & (size < high)])
    faces = vote_faces(runs, vote_thresh, nms_thresh)[: getattr(analyzer, "max_faces", None)]
    predictor = getattr(analyzer, "landmarks", None)
    return faces if predictor is None else predictor([image], [faces])[0]


def mirror_faces(faces: Faces) -> Faces:
    """The same faces in the mirrored photo: left and right points exchanged, yaw and roll negated.

    Raises
    ------
    InputError
        Dense landmarks of a scheme whose flip pairs are not known, or a mesh.
    """
    width = faces.size_hw[1]
    if faces.mesh is not None or (faces.scheme is not None and faces.scheme not in SCHEMES):
        what = "a mesh" if faces.mesh is not None else f"landmarks of scheme {faces.scheme!r}"
        raise InputError(f"cannot mirror {what}: which points exchange places is not known")
    fields = {"boxes": flip_boxes(faces.boxes, width)}
    for name, scheme in (("landmarks5", "5"), ("landmarks", faces.scheme)):
        points = getattr(faces, name)
        if points is not None:
            fields[name] = flip_points(points, width, SCHEMES[scheme].flip_index)
    if faces.pose is not None:
        fields["pose"] = faces.pose * np.array([-1, 1, -1])
    return faces.with_(**fields)


def soften_faces(faces: Faces, method: str = "linear", score_thresh: float = 0.001) -> Faces:
    """The faces after `gluonface.geometry.soft_nms`: with lowered scores, best first, those above a threshold."""
    keep, lowered = soft_nms(faces.boxes, faces.scores, method, score_thresh=score_thresh)
    return faces[keep].with_(scores=lowered)


def vote_faces(runs: Sequence[Faces], vote_thresh: float = 0.4, nms_thresh: float | None = None) -> Faces:
    """One result of several for the same photo, by box voting (`geometry.vote`) and a last non-maximum suppression.

    Parameters
    ----------
    runs : sequence of Faces
        All of one photo, all with five points or all without, and the same with dense landmarks, of one scheme, and
        with poses; those without faces need not say. All these parts are kept, meshes are not. The mean of poses is
        that of rotations, weighted by score: the rotation nearest to the mean of their matrices, as angles near to
        those of the best box.
    vote_thresh, nms_thresh : float
        See `detect_multiscale`.

    Raises
    ------
    InputError
        The results are of different photos, dense landmarks of different schemes, or a part that some have and others
        lack.
    """
    if not runs or len({faces.size_hw for faces in runs}) != 1:
        raise InputError(f"expected results of one photo, got sizes {sorted({faces.size_hw for faces in runs})}")
    # A run without faces need not say what its faces would have.
    runs = [faces for faces in runs if len(faces)] or runs
    schemes = sorted({faces.scheme for faces in runs} - {None})
    if len(schemes) > 1:
        raise InputError(f"expected dense landmarks of one scheme in all results, got schemes {', '.join(schemes)}")
    size_hw = runs[0].size_hw
    boxes = np.concatenate([faces.boxes for faces in runs])
    scores = np.concatenate([faces.scores for faces in runs])
    values = {name: _part_of_all(runs, name, called) for name, called in _VOTED.items()}
    values = {"boxes": boxes} | {name: part for name, part in values.items() if part is not None}
    poses = values.get("pose")
    if poses is not None:
        values["pose"] = rotation_from_pose(poses)
    columns = [part.reshape(len(part), np.prod(part.shape[1:], dtype=int)) for part in values.values()]
    keep, voted = vote(boxes, scores, np.concatenate(columns, axis=1), vote_thresh)
    ends = np.cumsum([part.shape[1] for part in columns])
    parts = dict(zip(values, np.split(voted, ends[:-1], axis=1)))
    scores, boxes = scores[keep], clip_boxes(parts.pop("boxes"), size_hw)
    last = nms(boxes, scores, vote_thresh if nms_thresh is None else nms_thresh)
    parts = {name: part[last].reshape(len(last), *values[name].shape[1:]) for name, part in parts.items()}
    if poses is not None:
        parts["pose"] = _mean_poses(parts["pose"], poses[keep[last]])
    scheme = schemes[0] if schemes else None
    return Faces(boxes[last], scores[last], scheme=scheme, size_hw=size_hw, **parts)


def _part_of_all(runs: Sequence[Faces], name: str, called: str) -> np.ndarray | None:
    """A part of the faces of all runs, one after another; None where no run has it."""
    parts = [getattr(faces, name) for faces in runs]
    if all(part is None for part in parts):
        return None
    if any(part is None and len(faces) for part, faces in zip(parts, runs)):
        raise InputError(f"expected {called} in all results or in none")
    return np.concatenate([part for part in parts if part is not None])


def _mean_poses(matrices: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Poses (n, 3) of the rotations nearest to means (n, 3, 3) of rotations.

    Of the two triples of angles that a rotation has, the one nearer to those of ``near`` (n, 3) is taken: networks give
    yaws of up to 99 degrees.
    """
    u, _, vt = np.linalg.svd(matrices.astype(np.float64))
    u[..., -1] *= np.linalg.det(u @ vt)[:, None]
    one = pose_from_rotation(u @ vt)
    other = wrap_degrees(one * (-1, 1, 1) + 180)
    nearer = pose_distance(other, near).sum(axis=1) < pose_distance(one, near).sum(axis=1)
    return np.where(nearer[:, None], other, one)


def _scales(
    size_hw: tuple[int, int], which: Callable, sides: Sequence[int] | None, max_long_side: int | None
) -> list[float]:
    """Scales at which a photo's short (``min``) or long (``max``) side has so many pixels."""
    if sides is None:
        return [1.0]
    if not len(sides) or min(sides) < 1:
        name = "short" if which is min else "long"
        raise InputError(f"expected {name} sides of at least one pixel, got {sides!r}")
    scales = [side / which(size_hw) for side in sides]
    too_long = 1.0 if max_long_side is None else max(1.0, max(scales) * max(size_hw) / max_long_side)
    return [scale / too_long for scale in scales]


def _scaled(size_hw: tuple[int, int], scale: float, analyzer) -> Letterbox:
    """The whole photo at a scale, on the smallest canvas for it that the analyzer has."""
    resized_hw = tuple(max(1, round(side * scale)) for side in size_hw)
    canvas_hw = whole_strides(resized_hw, getattr(analyzer, "stride", STRIDE))
    # Of a compiled net; where none is large enough, the analyzer says which there are.
    large_enough = [hw for hw in getattr(analyzer, "buckets", None) or () if np.all(np.subtract(hw, resized_hw) >= 0)]
    return Letterbox(
        scale_xy=(resized_hw[1] / size_hw[1], resized_hw[0] / size_hw[0]),
        offset_xy=(0.0, 0.0),
        canvas_hw=min(large_enough, key=np.prod, default=canvas_hw),
        source_hw=size_hw,
    )
