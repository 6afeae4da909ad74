import tracemalloc

import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample, label_points_only
from gluonface.decode import (
    decode_boxes,
    decode_heatmaps,
    decode_points,
    encode_scale,
    encode_scale_map,
    points_in_squares,
)
from gluonface.errors import InputError
from gluonface.geometry import box_ioa, box_iou, nms, widen_boxes
from gluonface.targets import (
    MASKFACE_ANCHORS,
    RETINAFACE_ANCHORS,
    AnchorTargets,
    HeatmapTargets,
    KPNetTargets,
    MaskFaceTargets,
    MeshTargets,
    MOSTargets,
    ProposalTargets,
    RefinedTargets,
    TagTargets,
    encode_cells,
    encode_mesh,
    labelled_points,
    match_anchors,
    square_anchors,
)

NO_POINTS = np.full((1, 5, 2), np.nan, np.float32)


def make(boxes, points=None, ignore=None, **options):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    if points is None:
        points = np.repeat(NO_POINTS, len(boxes), axis=0)
    ignore = np.zeros(len(boxes), bool) if ignore is None else np.asarray(ignore)
    encoder = AnchorTargets((160, 160), **options)
    return encoder, encoder(boxes, np.asarray(points, np.float32), ignore)


def test_positive_anchors_decode_to_their_face_and_its_points():
    box, points = [40, 30, 80, 80], np.random.default_rng(0).uniform(40, 80, (1, 5, 2))
    encoder, (cls, box_targets, landmark_targets, masks) = make([box], points)
    positive = cls == 1
    assert positive.any() and (masks[:, 0] == positive).all()
    np.testing.assert_allclose(
        decode_boxes(box_targets[positive], encoder.anchors[positive]), np.tile(box, (positive.sum(), 1)), atol=1e-3
    )
    decoded = decode_points(landmark_targets[positive], encoder.anchors[positive])
    np.testing.assert_allclose(decoded, np.repeat(points, positive.sum(), axis=0), atol=1e-3)


def test_an_image_without_faces_is_all_background():
    _, (cls, box_targets, landmark_targets, masks) = make([])
    assert (cls == 0).all() and not box_targets.any() and not landmark_targets.any() and not masks.any()


def test_a_face_without_points_has_boxes_but_no_point_targets():
    _, (cls, box_targets, _, masks) = make([[40, 30, 80, 80]])
    assert (cls == 1).any() and np.abs(box_targets).sum() > 0 and not masks.any()


def test_a_face_smaller_than_every_anchor_still_gets_its_best_anchor():
    _, (cls, *_) = make([[50, 50, 58, 58]], low_quality_iou=0.2)
    assert (cls == 1).sum() >= 1
    _, (cls, *_) = make([[50, 50, 58, 58]], low_quality_iou=1.1)
    assert (cls == 1).sum() == 0


def test_background_under_an_ignore_region_is_neither_face_nor_background():
    encoder, (cls, *_) = make([[100, 100, 150, 150], [20, 20, 60, 60]], ignore=[True, False])
    centre = (encoder.anchors[:, :2] + encoder.anchors[:, 2:]) / 2
    small = encoder.anchors[:, 2] - encoder.anchors[:, 0] == 16
    inside = small & ((centre > 110) & (centre < 140)).all(axis=1)
    assert inside.any() and (cls[inside] == -1).all()
    assert (cls == 1).any()


def test_a_face_under_an_ignore_region_stays_a_face():
    _, (alone, *_) = make([[40, 40, 80, 80]])
    _, (both, *_) = make([[40, 40, 80, 80], [0, 0, 160, 160]], ignore=[False, True])
    np.testing.assert_array_equal(alone == 1, both == 1)
    assert not (both == 0).any() or (both[alone == 0] != 1).all()


def test_anchors_between_the_two_thresholds_are_ignored():
    anchors = np.array([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4], [0, 0, 10, 1]], np.float32)
    matched = match_anchors(
        anchors, np.array([[0, 0, 10, 10.0]]), positive_iou=0.5, negative_iou=0.35, low_quality_iou=0.5
    )
    assert matched.tolist() == [0, 0, -2, -1]


def test_of_two_faces_that_share_their_best_anchor_the_smaller_keeps_it():
    anchors = np.array([[0, 0, 16, 16]], np.float32)
    faces = np.array([[0, 0, 16, 12], [0, 0, 12, 12]], np.float32)
    matched = match_anchors(anchors, faces, positive_iou=0.9, negative_iou=0.35, low_quality_iou=0.2)
    assert matched.tolist() == [1]


def test_of_two_faces_that_share_their_best_anchor_the_nearer_keeps_it_where_none_takes_over():
    anchors = np.array([[0, 0, 16, 16]], np.float32)
    faces = np.array([[0, 0, 16, 12], [0, 0, 12, 12]], np.float32)  # IoU .75 and .5625
    options = {"positive_iou": 0.9, "negative_iou": 0.35, "low_quality_iou": 0.2}
    for order, wanted in (([0, 1], 0), ([1, 0], 1)):
        assert match_anchors(anchors, faces[order], take_over=False, **options).tolist() == [wanted]


@pytest.mark.parametrize("take_over", [True, False])
def test_every_best_anchor_is_kept_however_little_it_overlaps_or_none_at_all(take_over):
    # The face shares 16 of 256 + 32 pixels with either of the first two anchors, and nothing with the third.
    anchors = np.array([[0, 0, 16, 16], [18, 0, 34, 16], [60, 60, 76, 76]], np.float32)
    face, away = [14, 0, 20, 8], [100, 100, 110, 110]
    faces = np.array([face, away], np.float32)
    options = {"positive_iou": 0.5, "negative_iou": 0.3, "take_over": take_over}
    assert match_anchors(anchors, faces, low_quality_iou=0.0, **options).tolist() == [0, 0, -1]
    assert match_anchors(anchors, faces, low_quality_iou=1.1, **options).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("size", [12, 20, 45, 90, 150])
def test_faces_of_every_size_find_anchors(size):
    _, (cls, *_) = make([[5, 5, 5 + size, 5 + size]])
    assert (cls == 1).sum() >= 1


def test_what_a_caller_matched_already_is_not_matched_again():
    encoder, expected = make([[40, 30, 80, 80], [0, 0, 160, 160]], ignore=[False, True])
    boxes, points = np.float32([[40, 30, 80, 80], [0, 0, 160, 160]]), np.repeat(NO_POINTS, 2, axis=0)
    ignore = np.array([False, True])
    matched = encoder.match(boxes[:1])
    for found, wanted in zip(encoder(boxes, points, ignore, matched=matched), expected):
        np.testing.assert_array_equal(found, wanted)
    nothing = encoder(boxes, points, ignore, matched=np.full_like(matched, -1))
    assert not (nothing[0] == 1).any()


# MOS

NAMES = ("cls", "box", "landmark", "masks", "sizes", "anchors", "sides", "poses", "pose_masks")
FIVE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def face_labels(*boxes, poses=None, **fields) -> FaceLabels:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    five = boxes[:, None, :2] + FIVE * (boxes[:, None, 2:] - boxes[:, None, :2])
    return FaceLabels(boxes, landmarks5=five, pose=poses, **fields)


def encoded(labels, side=160, **options):
    encoder = MOSTargets((side, side), **options)
    return encoder, dict(zip(NAMES, encoder.encode_labels(labels), strict=True))


LARGE, SMALL = [40, 30, 90, 90], [110, 110, 140, 140]  # of 55 and 30 pixels


def test_mos_targets_are_those_of_a_detector_and_the_pose_of_its_anchors():
    labels = face_labels(LARGE, poses=[[20, -8, 7]])
    encoder, found = encoded(labels)
    for name, wanted in zip(NAMES, AnchorTargets((160, 160)).encode_labels(labels)):
        np.testing.assert_array_equal(found[name], wanted)
    count = int(found["pose_masks"].sum())
    assert count == (found["cls"] == 1).sum() > 1
    assert found["pose_masks"].tolist() == [1] * count + [0] * (64 - count)
    chosen = found["anchors"][:count].astype(int)
    assert sorted(chosen) == np.flatnonzero(found["cls"] == 1).tolist()
    np.testing.assert_array_equal(found["poses"][:count], np.tile(np.float32([20, -8, 7]), (count, 1)))
    np.testing.assert_array_equal(found["sides"][:count], encoder.anchors[chosen, 2] - encoder.anchors[chosen, 0])
    assert not any(found[name][count:].any() for name in ("anchors", "sides", "poses"))
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_each_face_s_anchors_learn_its_own_pose_and_size():
    first, second = LARGE, [100, 90, 150, 158]
    labels = face_labels(first, [0, 100, 30, 140], second, poses=[[5, 6, 7], [0, 0, 0], [-50, 1, 2]])
    encoder, found = encoded(labels.with_(ignore=[False, True, False]))
    matched = encoder.match(labels.boxes[[0, 2]])
    for k in np.flatnonzero(found["pose_masks"]):
        face = matched[int(found["anchors"][k])]
        assert found["poses"][k].tolist() == [[5, 6, 7], [-50, 1, 2]][face]
    np.testing.assert_allclose(
        found["sizes"], np.where(matched >= 0, labels.face_sizes[[0, 2]][np.maximum(matched, 0)], 0), rtol=1e-6
    )
    assert len(np.unique(found["sizes"])) == 3


@pytest.mark.parametrize(("side", "learnt"), [(34.5, False), (35, True), (60, True)])
def test_faces_under_35_pixels_train_no_pose(side, learnt):
    labels = face_labels([40, 40, 40 + side, 40 + side], poses=[[1, 2, 3]])
    _, found = encoded(labels)
    assert (found["cls"] == 1).any() and found["masks"].any()
    assert found["pose_masks"].any() == learnt
    assert encoded(labels, min_pose_face=0)[1]["pose_masks"].any()


@pytest.mark.parametrize("pose", [[np.nan] * 3, [np.nan, 3, 4], [99.5, 0, 0], [0, -120, 0], [0, 0, np.inf]], ids=str)
def test_faces_without_a_whole_pose_or_with_an_angle_beyond_99_train_no_pose(pose):
    _, found = encoded(face_labels(LARGE, [96, 90, 150, 150], poses=[pose, [1, 2, 99]]))
    count = int(found["pose_masks"].sum())
    assert count and (found["poses"][:count] == [1, 2, 99]).all()
    assert all(np.isfinite(array).all() for array in found.values())
    _, alone = encoded(face_labels(LARGE, poses=[pose]))
    assert not alone["pose_masks"].any() and alone["masks"].any()


def test_of_more_anchors_than_fit_those_of_best_overlap_learn_the_pose():
    labels = face_labels([10, 10, 130, 140], [134, 100, 158, 158], poses=[[1, 1, 1], [2, 2, 2]])
    encoder, whole = encoded(labels)
    every = whole["anchors"][whole["pose_masks"] == 1].astype(int)
    _, found = encoded(labels, max_pose_anchors=5)
    assert len(every) > 5 == found["pose_masks"].sum() == len(found["anchors"])
    matched = encoder.match(labels.boxes)
    overlap = {n: box_iou(encoder.anchors[[n]], labels.boxes[[matched[n]]])[0, 0] for n in every}
    best = sorted(overlap.values(), reverse=True)[:5]
    np.testing.assert_allclose([overlap[int(n)] for n in found["anchors"]], best, rtol=1e-6)
    assert [tuple(pose) for pose in found["poses"]] == [(matched[int(n)] + 1,) * 3 for n in found["anchors"]]


def test_dense_points_come_with_the_anchors_that_learn_a_pose():
    first = np.array([60, 50]) + np.stack([np.arange(68), -np.arange(68)], axis=1)
    dense = np.stack([first, np.full((68, 2), np.nan)])
    second = [100, 90, 150, 150]
    labels = face_labels(LARGE, second, poses=[[20, -8, 7], [0, 0, 0]], landmarks=dense, scheme="68")
    encoder = MOSTargets((160, 160), dense_points=68)
    *_, anchors, _, poses, masks, targets, dense_masks = encoder.encode_labels(labels)
    of_first = (poses[:, 0] == 20) & (masks == 1)
    np.testing.assert_array_equal(dense_masks, of_first)
    assert of_first.any() and (masks == 1).sum() > of_first.sum()
    found = decode_points(targets[of_first], encoder.anchors[anchors[of_first].astype(int)])
    np.testing.assert_allclose(found, np.broadcast_to(dense[0], found.shape), atol=1e-3)
    assert not targets[~of_first].any()
    # Points of another scheme are none.
    five = face_labels(LARGE, poses=[[0, 0, 0]], landmarks=np.zeros((1, 5, 2)), scheme="5")
    assert not encoder.encode_labels(five)[-1].any()


def test_a_photo_without_faces_has_no_pose():
    _, found = encoded(FaceLabels.empty())
    assert not any(array.any() for array in found.values())
    _, found = encoded(face_labels(LARGE, poses=[[1, 2, 3]], ignore=[True]))
    assert not found["pose_masks"].any() and not found["sizes"].any() and (found["cls"] == -1).any()


def test_faces_of_points_only_train_points_and_pose_but_neither_class_nor_box():
    labels = face_labels(LARGE, [100, 90, 150, 150], poses=[[5, 6, 7], [-50, 1, 2]], points_only=[True, False])
    encoder, found = encoded(labels)
    matched = encoder.match(labels.boxes)
    assert (found["cls"][matched == 0] == -1).all() and (found["cls"][matched == 1] == 1).all()
    assert (found["masks"][matched >= 0] == 1).all()
    assert (found["sizes"][matched == 0] == 0).all() and (found["sizes"][matched == 1] > 0).all()
    posed = found["anchors"][found["pose_masks"] == 1].astype(int)
    assert sorted(posed) == np.flatnonzero(matched >= 0).tolist()
    # The plain targets, of a detector without pose, know such faces too.
    np.testing.assert_array_equal(AnchorTargets((160, 160)).encode_labels(labels)[0], found["cls"])


def test_nothing_in_a_photo_of_which_one_face_is_labelled_is_background():
    sample = label_points_only(FaceSample("x.jpg", (160, 160), face_labels(LARGE, poses=[[5, 6, 7]])))
    encoder, found = encoded(sample.faces)
    inside = (encoder.anchors[:, :2] >= 0).all(axis=1) & (encoder.anchors[:, 2:] <= 160).all(axis=1)
    assert inside.sum() > 500 and (found["cls"][inside] == -1).all()
    assert not (found["cls"] == 1).any() and not found["sizes"].any()
    assert found["masks"].sum() == found["pose_masks"].sum() > 1


# heatmaps


def test_heatmap_targets_are_gaussians_that_decode_to_the_points_and_mask_what_cannot_be_learnt():
    points = np.array([[10, 20], [np.nan, 5], [70, 30], [63.9, 0.1]])
    heatmaps, cells, masks = HeatmapTargets((16, 16), 4, sigma=1.5)(points)
    assert heatmaps.shape == (4, 16, 16) and heatmaps.dtype == np.float32
    assert masks.tolist() == [1, 0, 0.5, 1]
    np.testing.assert_allclose(cells[[0, 2, 3]], points[[0, 2, 3]] / 4, rtol=1e-6)
    assert cells[1].tolist() == [0, 0] and not heatmaps[1].any()
    found, _ = decode_heatmaps(heatmaps)
    np.testing.assert_allclose(found[[0, 3]] * 4, points[[0, 3]], atol=0.05)


# MaskFace


def maskface(labels, side=160, **options):
    encoder = MaskFaceTargets((side, side), **options)
    return encoder, encoder.encode_labels(labels)


def test_maskface_has_102300_anchors_three_a_cell_from_16_to_406_pixels():
    anchors = MaskFaceTargets((640, 640)).anchors
    sides = anchors[:, 2] - anchors[:, 0]
    assert len(anchors) == MASKFACE_ANCHORS.count((640, 640)) == 102_300 and MASKFACE_ANCHORS.per_cell == 3
    assert (sides < 26).mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(np.unique(sides.round(1)), 16 * 2 ** (np.arange(15) / 3), atol=0.06)


def test_maskface_matches_anchors_as_the_paper_says(rng):
    corners = rng.uniform(0, 120, (8, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(6, 60, (8, 2))], axis=1)
    boxes[0, :2] += 0.5
    boxes[0, 2:] = boxes[0, :2] + (9, 8)  # smaller than all anchors
    boxes[1] = boxes[0] + 1.5  # and one of another face over it
    labels = face_labels(*boxes)
    encoder, (cls, box_targets, *_) = maskface(labels)
    iou = box_iou(encoder.anchors, labels.boxes)
    wanted = np.where(iou.max(axis=1) >= 0.5, 1, np.where(iou.max(axis=1) < 0.3, 0, -1))
    for m in range(8):
        for n in np.flatnonzero(iou[:, m] >= iou[:, m].max() - 1e-6):
            wanted[n] = 1
    np.testing.assert_array_equal(cls, wanted)
    assert iou[:, 0].max() < 0.3 and (cls[iou[:, 0] > 0] == 1).any() and (cls == -1).any()
    for n in np.flatnonzero(cls == 1):
        face = decode_boxes(box_targets[[n]], encoder.anchors[[n]])[0]
        np.testing.assert_allclose(face, labels.boxes[iou[n].argmax()], atol=1e-3)


def test_without_low_quality_matches_a_small_face_is_not_learnt():
    labels = face_labels([50, 50, 58, 58])
    assert (maskface(labels)[1][0] == 1).any()
    assert not (maskface(labels, low_quality_iou=1.1)[1][0] == 1).any()


def test_maskface_ignores_regions_and_faces_whose_points_alone_are_labelled():
    encoder, (cls, *_) = maskface(face_labels(LARGE, [0, 100, 160, 160], ignore=[False, True]))
    inside = (encoder.anchors[:, 1] >= 100) & (encoder.anchors[:, 3] <= 160)
    inside &= (encoder.anchors[:, 0] >= 0) & (encoder.anchors[:, 2] <= 160)
    assert inside.any() and (cls[inside] == -1).all() and (cls == 1).any() and (cls == 0).any()
    sample = label_points_only(FaceSample("a.jpg", (160, 160), face_labels(LARGE)))
    _, (cls, _, face_boxes, face_points) = maskface(sample.faces)
    # Those that lie on it with half of their area or more; around it is padding, which is background.
    on_photo = box_ioa(encoder.anchors, np.array([[0, 0, 160, 160]], np.float32))[:, 0] >= 0.5
    assert (cls[on_photo] == -1).all() and (cls[~on_photo] == 0).all() and not on_photo.all()
    assert face_boxes[0].tolist() == LARGE and not face_boxes[1:].any() and np.isfinite(face_points[0]).all()


def test_faces_with_points_are_handed_on_first_and_large_ones_before_small_ones():
    labels = face_labels([0, 0, 30, 30], LARGE, [0, 60, 40, 100], SMALL, [0, 0, 150, 150], ignore=[False] * 4 + [True])
    labels.landmarks5[1] = np.nan
    labels.landmarks5[2, 3] = np.nan
    _, (_, _, boxes, points) = maskface(labels, max_faces=6)
    assert boxes.tolist() == [[0, 60, 40, 100], [0, 0, 30, 30], SMALL, LARGE, [0] * 4, [0] * 4]
    np.testing.assert_array_equal(points[:4], labels.landmarks5[[2, 0, 3, 1]])
    assert np.isnan(points[3:]).all() and boxes.dtype == points.dtype == np.float32
    _, (_, _, boxes, points) = maskface(labels, max_faces=2)
    assert boxes.tolist() == [[0, 60, 40, 100], [0, 0, 30, 30]] and points.shape == (2, 5, 2)


def test_an_image_without_faces_has_background_and_nothing_to_hand_on():
    _, (cls, box_targets, boxes, points) = maskface(FaceLabels.empty())
    assert not cls.any() and not box_targets.any() and not boxes.any() and np.isnan(points).all()


def test_dense_points_are_handed_on_where_the_scheme_is_theirs(rng):
    points = rng.uniform(45, 85, (1, 19, 2)).astype(np.float32)
    labels = face_labels(LARGE).with_(landmarks=points, scheme="19")
    np.testing.assert_array_equal(maskface(labels, num_points=19)[1][3][0], points[0])
    assert np.isnan(maskface(labels, num_points=68)[1][3]).all()


def test_cells_of_points_by_hand():
    box = np.array([[10, 20, 66, 132]])  # cells of 1 x 2 pixels
    points = np.array([[[10, 20], [66, 132], [10.99, 20.1], [11, 22], [9.99, 50], [30, 132.1], [np.nan, 30], [38, 76]]])
    found = encode_cells(points, box, (56, 56))
    assert found.tolist() == [[0, 56 * 56 - 1, 0, 57, -1, -1, -1, 28 * 56 + 28]]
    assert encode_cells(points[:, :2], box, (2, 8)).tolist() == [[0, 15]]
    assert encode_cells(points[:, :2], np.array([[10, 20, 10, 20]]), (56, 56)).tolist() == [[-1, -1]]
    assert encode_cells(np.zeros((0, 5, 2)), np.zeros((0, 4)), (56, 56)).shape == (0, 5)


def test_the_highest_cell_of_a_one_hot_mask_is_the_point_to_within_half_a_cell(rng):
    low, size = rng.uniform(-20, 100, (6, 2)), rng.uniform(5, 200, (6, 2))
    points = low[:, None] + rng.uniform(size=(6, 7, 2)) * size[:, None]
    cells = encode_cells(points, np.concatenate([low, low + size], axis=1), (24, 56))
    assert (cells >= 0).all() and (cells < 24 * 56).all()
    masks = np.eye(24 * 56, dtype=np.float32)[cells].reshape(6, 7, 24, 56)
    found, _ = decode_heatmaps(masks, "argmax")
    away = np.abs(low[:, None] + found / (56, 24) * size[:, None] - points) / size[:, None] * (56, 24)
    assert away.max() <= 0.5 + 1e-4


def propose(boxes, scores, labels, num_points=5, **options):
    """Proposals (n, 4) and cells (n, K) of one image, without padding."""
    *_, face_boxes, face_points = maskface(labels, num_points=num_points)[1]
    boxes, scores = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32)
    rois, cells = ProposalTargets(**options)(boxes[None], scores[None], face_boxes[None], face_points[None])
    count = int(rois[0].any(axis=1).sum())
    assert not rois[0, count:].any() and (cells[0, count:] == -1).all()
    return rois[0, :count], cells[0, :count]


def test_proposals_teach_the_points_of_the_face_they_overlap():
    labels = face_labels(LARGE, SMALL)
    boxes = np.array([[38, 32, 92, 90], [109, 111, 141, 140], [0, 0, 60, 60], [5, 120, 30, 150]])
    rois, cells = propose(boxes, [0.5, 0.9, 0.9, 0.9], labels)
    np.testing.assert_array_equal(rois, boxes[[1, 0]])
    np.testing.assert_array_equal(cells, encode_cells(labels.landmarks5[[1, 0]], rois, (56, 56)))
    assert (cells >= 0).all() and cells.dtype == rois.dtype == np.float32


def test_weak_overlapping_and_badly_placed_proposals_are_left_out():
    labels = face_labels([0, 0, 100, 100])
    for boxes, scores, kept in (
        ([[0, 0, 100, 100]], [0.02], []),
        ([[0, 0, 100, 100]], [0.021], [0]),
        ([[0, 0, 100, 100]], [-1], []),
        ([[0, 0, 100, 60]], [0.9], []),  # IoU .6 exactly
        ([[0, 0, 100, 61]], [0.9], [0]),
        ([[0, 0, 100, 90], [0, 0, 100, 100]], [0.8, 0.9], [1]),
        ([[0, 0, 100, 62], [0, 38, 100, 100]], [0.8, 0.9], [1, 0]),  # IoU .24
    ):
        rois, _ = propose(boxes, scores, labels)
        np.testing.assert_array_equal(rois, np.reshape(np.array(boxes, np.float32)[kept], (-1, 4)))


def test_points_outside_a_proposal_and_unknown_ones_are_left_out():
    labels = face_labels([0, 0, 100, 100])
    labels.landmarks5[0, 2] = np.nan
    _, cells = propose([[0, 0, 100, 75]], [0.9], labels)
    assert (cells[0] >= 0).tolist() == [True, True, False, False, False]


def test_points_outside_a_proposal_are_learnt_where_the_head_looks_at_more_than_it():
    labels = face_labels([0, 0, 100, 100])
    rois, plain = propose([[0, 0, 100, 75]], [0.9], labels)
    wide, cells = propose([[0, 0, 100, 75]], [0.9], labels, roi_scale=1.5)
    assert wide.tolist() == rois.tolist()  # the head itself widens them
    assert (plain[0] >= 0).tolist() == [True, True, True, False, False] and (cells >= 0).all()
    np.testing.assert_array_equal(cells, encode_cells(labels.landmarks5, widen_boxes(rois, 1.5), (56, 56)))


def test_a_proposal_of_a_face_without_points_is_not_taken_for_its_neighbours():
    labels = face_labels([0, 0, 100, 100], [0, 15, 100, 115])
    between = [[0, 12, 100, 112]]
    assert len(propose(between, [0.9], labels)[0]) == 1
    labels.landmarks5[1] = np.nan
    assert box_iou(np.array(between), labels.boxes)[0, 0] > 0.6
    assert not len(propose(between, [0.9], labels)[0])


def test_each_face_has_a_proposal_before_any_has_two():
    labels = face_labels([0, 0, 60, 60], [80, 80, 140, 140])
    high, low, other = [0, 0, 60, 40], [0, 20, 60, 60], [80, 80, 140, 139]
    for count, wanted in ((1, [high]), (2, [high, other]), (3, [high, other, low])):
        rois, _ = propose([high, low, other], [0.9, 0.8, 0.3], labels, max_proposals=count)
        assert rois.tolist() == np.float32(wanted).tolist()


def test_proposals_agree_with_the_definition_and_a_batch_with_its_images(rng):
    corners = rng.uniform(0, 100, (4, 2))
    labels = [face_labels(*np.concatenate([corners, corners + 40], axis=1)), face_labels(LARGE), FaceLabels.empty()]
    labels[0].landmarks5[2] = np.nan
    faces = [maskface(one)[1][2:] for one in labels]
    face_boxes, face_points = (np.stack(arrays) for arrays in zip(*faces))
    boxes = np.repeat(face_boxes[:, :4], 30, axis=1) + rng.normal(0, 6, (3, 120, 4)).astype(np.float32)
    scores = rng.uniform(size=(3, 120)).astype(np.float32)
    targets = ProposalTargets(max_proposals=50, score_thresh=0.2, map_hw=(7, 9))
    rois, cells = targets(boxes, scores, face_boxes, face_points)
    assert rois.shape == (3, 50, 4) and cells.shape == (3, 50, 5) and not rois[2].any()
    for b in range(2):
        wanted = set()
        strong = np.flatnonzero(scores[b] > 0.2)
        for i in strong[nms(boxes[b, strong], scores[b, strong], 0.6)]:
            iou = box_iou(boxes[b, [i]], labels[b].boxes)[0]
            if iou.max() > 0.6 and np.isfinite(labels[b].landmarks5[iou.argmax()]).all():
                points = labels[b].landmarks5[[iou.argmax()]]
                wanted.add((*boxes[b, i].tolist(), *encode_cells(points, boxes[b, [i]], (7, 9))[0].tolist()))
        found = {(*roi.tolist(), *c.tolist()) for roi, c in zip(rois[b], cells[b]) if roi.any()}
        assert found == wanted and len(wanted) > (4 if b == 0 else 2)
        one = targets(boxes[b : b + 1], scores[b : b + 1], face_boxes[b : b + 1], face_points[b : b + 1])
        np.testing.assert_array_equal(one[0][0], rois[b])
        np.testing.assert_array_equal(one[1][0], cells[b])


def test_only_the_best_boxes_are_looked_at():
    labels = face_labels([0, 0, 60, 60], [80, 80, 140, 140])
    boxes = [[0, 0, 60, 60], [80, 80, 140, 140]]
    rois, _ = propose(boxes, [0.4, 0.5], labels, nms_topk=1)
    assert rois.tolist() == [boxes[1]]


def test_proposals_without_room_are_refused():
    for wrong in ({"max_proposals": 0}, {"nms_topk": 0}, {"map_hw": (0, 56)}):
        with pytest.raises(InputError, match="at least 1"):
            ProposalTargets(**wrong)


# KPNet


def kpnet(labels, side=160, rng=None, **options):
    return KPNetTargets((side, side), **options).encode_labels(labels, rng)


def test_the_scale_map_is_that_of_the_faces():
    scale_targets, *_ = kpnet(face_labels(LARGE, SMALL))
    np.testing.assert_array_equal(scale_targets, encode_scale_map([[65, 60], [125, 125]], [60, 30], (80, 80)))
    assert scale_targets.shape == (60, 80, 80) and scale_targets.dtype == np.float32


def test_an_image_without_faces_is_background_without_squares():
    scale_targets, squares, places, masks = kpnet(FaceLabels.empty(), max_squares=4)
    assert not scale_targets.any() and not squares.any() and not places.any() and not masks.any()
    assert squares.shape == (4, 4) and places.shape == (4, 5, 2) and masks.shape == (4, 5)


def test_squares_are_about_cells_and_off_by_up_to_a_cell_and_a_bin(rng):
    labels = face_labels(LARGE, SMALL)
    off = []
    for _ in range(200):
        _, squares, _, masks = kpnet(labels, rng=rng)
        assert (masks.any(axis=1) == [True, True, *[False] * 30]).all()
        for square, centre, size in zip(squares, ([65, 60], [125, 125]), (60, 30)):
            cell = (square[:2] + square[2:]) / 4 - 0.5
            np.testing.assert_allclose(cell, np.round(cell), atol=1e-4)
            step = np.round(cell - np.floor(np.array(centre) / 2))
            off.append([*step, encode_scale(square[2] - square[0]) - encode_scale(size)])
    for column in np.array(off).T:
        values, counts = np.unique(column, return_counts=True)
        assert values.tolist() == [-1, 0, 1] and counts.min() > 80


def test_without_jitter_the_square_is_the_proposal_of_the_face():
    _, squares, _, _ = kpnet(face_labels(LARGE), jitter_cells=0, jitter_bins=0)
    np.testing.assert_allclose((squares[0, :2] + squares[0, 2:]) / 2, [65, 61], atol=1e-4)
    assert squares[0, 2] - squares[0, 0] == pytest.approx(60, rel=0.036)


def test_places_come_back_as_the_points(rng):
    labels = face_labels(LARGE, SMALL)
    for _ in range(20):
        _, squares, places, masks = kpnet(labels, rng=rng)
        assert masks[:2].all()
        np.testing.assert_allclose(points_in_squares(places, squares)[:2], labels.landmarks5, atol=1e-3)


def test_squares_are_those_of_the_generator_and_without_one_the_proposals_of_the_faces():
    labels = face_labels(*([20 + 5 * i, 20, 60 + 5 * i, 60] for i in range(12)))
    first, again, other = (kpnet(labels, rng=np.random.default_rng(seed))[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first[:12] != other[:12]).any(axis=1).sum() > 6
    np.testing.assert_array_equal(kpnet(labels)[1], kpnet(labels, jitter_cells=0, jitter_bins=0)[1])
    assert (kpnet(labels)[1][:12] != first[:12]).any()


def test_what_is_known_of_labels_are_their_five_points_or_those_of_their_scheme(rng):
    labels = face_labels(LARGE, SMALL).with_(landmarks=rng.uniform(0, 99, (2, 19, 2)), scheme="19")
    assert labelled_points(labels, 5) is labels.landmarks5 and labelled_points(labels, 19) is labels.landmarks
    unknown = labelled_points(labels, 68)
    assert unknown.shape == (2, 68, 2) and np.isnan(unknown).all()


def test_each_face_has_a_square_before_any_has_two_and_large_ones_come_first():
    labels = face_labels(SMALL, LARGE, [10, 10, 30, 30])
    _, squares, _, masks = kpnet(labels, max_squares=4, per_face=3)
    sides = squares[:, 2] - squares[:, 0]
    np.testing.assert_allclose(sides, [60, 30, 20, 60], rtol=0.11)
    assert masks.any(axis=1).all()
    assert (kpnet(labels, max_squares=2)[3].any(axis=1)).all()


def test_points_that_are_unknown_or_cannot_be_found_are_masked():
    labels = face_labels(LARGE)
    labels.landmarks5[0, 0] = np.nan
    labels.landmarks5[0, 1] = 130, 60  # far outside the square
    _, _, places, masks = kpnet(labels)
    assert masks[0].tolist() == [0, 0, 1, 1, 1] and not places[0, :2].any()
    cut = face_labels([-20, 30, 40, 90])
    assert kpnet(cut)[3][0].tolist() == [0, 1, 1, 1, 1]


def test_a_face_without_points_is_in_the_scale_map_but_has_no_square():
    labels = face_labels(LARGE, SMALL)
    labels.landmarks5[0] = np.nan
    scale_targets, squares, _, masks = kpnet(labels)
    assert (scale_targets == 1).sum() == 2 and masks.any(axis=1).sum() == 1
    assert squares[0, 2] - squares[0, 0] == pytest.approx(30, rel=0.11)


def test_dense_points_are_learnt_where_the_scheme_is_theirs(rng):
    points = rng.uniform(45, 85, (1, 19, 2))
    labels = face_labels(LARGE).with_(landmarks=points, scheme="19")
    _, squares, places, masks = kpnet(labels, num_points=19)
    assert masks[0].all() and masks.shape == (32, 19)
    np.testing.assert_allclose(points_in_squares(places, squares)[0], points[0], atol=1e-3)
    assert not kpnet(labels, num_points=68)[3].any()


def test_cells_of_an_ignored_region_count_in_no_bin_but_a_face_there_stays_one():
    labels = face_labels([20, 20, 60, 60], SMALL, [0, 0, 100, 80], ignore=[False, False, True])
    scale_targets, *_ = kpnet(labels)
    inside = np.zeros((80, 80), bool)
    inside[:40, :50] = True
    assert (scale_targets == -1).all(axis=0).sum() == inside.sum() - 49  # the face's Gaussian has a radius of 3
    assert (scale_targets[:, ~inside] >= 0).all() and (scale_targets == 1).sum() == 2
    assert scale_targets[encode_scale(40) - 1, 20, 20] == 1


def test_of_a_face_whose_points_alone_are_labelled_the_scale_map_learns_nothing():
    sample = label_points_only(FaceSample("a.jpg", (160, 160), face_labels(LARGE)))
    scale_targets, _, _, masks = kpnet(sample.faces)
    assert (scale_targets == -1).all() and masks[0].all()


def test_faces_too_small_are_ignored():
    labels = face_labels([20, 20, 23, 23.5], [50, 50, 53.5, 54.2])
    scale_targets, _, _, masks = kpnet(labels)
    assert (scale_targets == 1).sum() == 1 and scale_targets[0, 26, 25] == 1
    assert (scale_targets[:, 10, 10] == -1).all() and masks.any(axis=1).sum() == 1
    assert not (kpnet(labels, min_face=6)[0] == 1).any()


def test_response_targets_are_the_cells_of_the_points():
    labels = face_labels(LARGE, [0, 100, 50, 150], ignore=[False, True])
    *_, response = kpnet(labels, response_map=True)
    assert response.shape == (5, 80, 80) and (response == 1).sum() == 5
    for k, (x, y) in enumerate(labels.landmarks5[0]):
        assert response[k, int(y // 2), int(x // 2)] == 1
    assert (response == -1).all(axis=0).sum() == 25 * 25


def test_an_input_that_is_not_square_has_a_map_of_its_form():
    targets = KPNetTargets((64, 99))
    scale_targets, squares, *_ = targets.encode_labels(face_labels([60, 20, 99, 60]))
    assert scale_targets.shape == (60, 32, 50) and squares[0].any()


def test_options_out_of_range_are_refused():
    for wrong in ({"max_squares": 0}, {"per_face": 0}, {"jitter_cells": -1}, {"jitter_bins": -1}, {"min_face": 0}):
        with pytest.raises(InputError, match="expected"):
            KPNetTargets((64, 64), **wrong)


def test_tags_are_looked_up_in_the_cells_of_the_points():
    labels = face_labels(SMALL, LARGE, [0, 0, 50, 50], ignore=[False, False, True])
    labels.landmarks5[0, 3] = np.nan
    labels.landmarks5[1, 4] = -5, 20
    response, cells, masks = TagTargets((160, 160), max_faces=3).encode_labels(labels)
    assert masks.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 1], [0] * 5]  # the larger face comes first
    for row, face in ((0, 1), (1, 0)):
        for k in np.flatnonzero(masks[row]):
            y, x = divmod(int(cells[row, k]), 80)
            assert response[k, y, x] == 1
            assert (np.floor(labels.landmarks5[face, k] / 2) == (x, y)).all()
    np.testing.assert_array_equal(response, kpnet(labels, response_map=True)[-1])
    assert not TagTargets((64, 64)).encode_labels(FaceLabels.empty())[2].any()


# ---- meshes and the second head of a cascade -------------------------------------------------------------------------


def meshed_labels(*boxes, vertices=6, without=(), **fields) -> FaceLabels:
    """Faces whose vertices lie in their boxes, 0 deep at the first one, the tip of the nose."""
    labels = face_labels(*boxes, **fields)
    shares = np.random.default_rng(7).uniform(0.1, 0.9, (vertices, 3)).astype(np.float32)
    size = labels.boxes[:, None, 2:] - labels.boxes[:, None, :2]
    mesh = np.concatenate([labels.boxes[:, None, :2] + shares[:, :2] * size, shares[:, 2:] * size[..., :1]], axis=2)
    mesh[..., 2] -= mesh[:, :1, 2]
    mesh[list(without)] = np.nan
    return labels.with_(mesh=mesh)


def handed_on(labels, side=160, **options):
    """What `MeshTargets` hands on to the second head, of a batch of one."""
    found = MeshTargets((side, side), num_vertices=labels.mesh.shape[1], **options).encode_labels(labels)
    return [array[None] for array in found[2:]]


def test_a_mesh_is_coded_in_the_frame_of_its_anchor_with_depth_from_the_nose():
    anchors = np.array([[20, 40, 60, 80]], np.float32)  # of side 40 about (40, 60)
    mesh = np.array([[[40, 60, 0], [60, 50, 10], [30, 80, -20]]], np.float32)
    expected = [[0, 0, 0, 0.5, -0.25, 0.25, -0.25, 0.5, -0.5]]
    np.testing.assert_allclose(encode_mesh(mesh, anchors), expected, atol=1e-6)


def test_the_frame_of_a_box_is_the_square_of_its_centre_and_area():
    squares = square_anchors(np.array([[10, 20, 50, 30], [0, 0, 7, 7]], np.float32))
    np.testing.assert_allclose(squares, [[20, 15, 40, 35], [0, 0, 7, 7]], atol=1e-5)


def test_the_first_head_is_matched_at_7_and_3_tenths_and_a_face_without_such_an_anchor_has_its_best():
    assert RETINAFACE_ANCHORS == MASKFACE_ANCHORS
    encoder = MeshTargets((160, 160))
    for box in (LARGE, [70, 70, 81, 83]):
        cls, box_targets, *_ = encoder.encode_labels(face_labels(box))
        overlap = box_iou(encoder.anchors, np.array([box], np.float32))[:, 0]
        best = np.abs(overlap - overlap.max()) < 1e-6
        np.testing.assert_array_equal(cls == 1, (overlap >= 0.7) | best)
        np.testing.assert_array_equal(cls == 0, (overlap < 0.3) & ~best)
        decoded = decode_boxes(box_targets[cls == 1], encoder.anchors[cls == 1])
        np.testing.assert_allclose(decoded, np.tile(box, (len(decoded), 1)), atol=1e-3)


def test_faces_are_handed_on_before_regions_those_with_a_mesh_first_then_large_ones():
    boxes = [0, 0, 90, 90], [100, 100, 120, 120], [10, 110, 40, 140], [120, 10, 140, 30]
    labels = meshed_labels(*boxes, without=[1, 2]).with_(
        ignore=[True, False, False, False], points_only=[False, True, False, False]
    )
    kinds, given, points, meshes = (a[0] for a in handed_on(labels, max_faces=6, max_meshes=2))
    assert kinds.tolist() == [1, 1, 2, 3, 0, 0]
    assert given.tolist() == [list(boxes[i]) for i in (3, 2, 1, 0)] + [[0] * 4] * 2
    np.testing.assert_array_equal(meshes[0], labels.mesh[3])
    assert meshes.shape == (2, 6, 3) and np.isnan(meshes[1]).all()
    np.testing.assert_array_equal(points[:3], labels.landmarks5[[3, 2, 1]])
    cls, *_ = MeshTargets((160, 160), num_vertices=6).encode_labels(labels)
    assert (cls == 1).any() and (cls == -1).any()


def test_a_mesh_of_another_kind_or_none_at_all_is_not_learnt():
    with_other = MeshTargets((160, 160), num_vertices=9).encode_labels(meshed_labels(LARGE))
    without = MeshTargets((160, 160), num_vertices=9).encode_labels(face_labels(LARGE))
    assert np.isnan(with_other[-1]).all() and np.isnan(without[-1]).all()
    with pytest.raises(InputError, match="num_vertices, max_faces and max_meshes of at least 1, got 0, 512 and 16"):
        MeshTargets((160, 160), num_vertices=0)


def test_the_second_head_learns_in_the_boxes_of_the_first_what_hand_and_paper_say():
    face = [20, 30, 60, 110]  # 40 x 80
    labels = meshed_labels(face, [100, 100, 140, 140]).with_(ignore=[False, True])
    boxes = np.array(
        [
            face,  # as it is
            [20, 30, 60, 70],  # IoU .5: its upper half
            [20, 30, 60, 66],  # IoU .45
            [20, 30, 60, 60],  # IoU .375
            [24, 30, 64, 110],  # IoU 36 / 44
            [105, 105, 135, 135],  # on the region
            [200, 200, 230, 230],
        ],
        np.float32,
    )
    given = handed_on(labels)
    cls, box, landmark, points, anchors, meshes, masks = (
        a[0] for a in RefinedTargets(max_mesh_anchors=4)(boxes[None], *given)
    )
    assert cls.tolist() == [1, 1, -1, 0, 1, -1, 0]
    assert points[:, 0].tolist() == [1, 1, 0, 0, 1, 0, 0]
    side = np.sqrt(40 * 80)
    np.testing.assert_allclose(box[0], [0, 0, np.log(40 / side), np.log(80 / side)], atol=1e-6)
    np.testing.assert_allclose(box[4], [-4 / side, 0, np.log(40 / side), np.log(80 / side)], atol=1e-6)
    # The square of the upper half is that half: of side 40 about (40, 50), 20 above the middle of the face.
    np.testing.assert_allclose(box[1], [0, 0.5, 0, np.log(2)], atol=1e-6)
    assert not box[[2, 3, 5, 6]].any()
    nose = labels.landmarks5[0, 2]
    np.testing.assert_allclose(landmark[1, 4:6], (nose - (40, 50)) / 40, atol=1e-6)
    assert masks.tolist() == [1, 1, 1, 0] and anchors.tolist() == [0, 1, 4, 0]
    x, y, z = labels.mesh[0, 2]
    np.testing.assert_allclose(meshes[1].reshape(-1, 3)[2], [(x - 40) / 40, (y - 50) / 40, z / 40], atol=1e-6)
    np.testing.assert_allclose(meshes[0].reshape(-1, 3)[2], [(x - 40) / side, (y - 70) / side, z / side], atol=1e-6)
    assert not meshes[3].any() and {a.dtype for a in (cls, box, meshes)} == {np.dtype(np.float32)}


def test_what_the_second_head_learns_is_decoded_to_the_face():
    labels = meshed_labels(LARGE, SMALL, [100, 10, 140, 60], without=[1])
    rng = np.random.default_rng(2)
    boxes = (labels.boxes[rng.integers(3, size=(2, 40))] + rng.normal(0, 3, (2, 40, 4))).astype(np.float32)
    given = [np.repeat(a, 2, axis=0) for a in handed_on(labels)]
    cls, box, landmark, _, anchors, meshes, masks = RefinedTargets()(boxes, *given)
    assert (cls == 1).sum(axis=1).min() > 20 and masks.sum() < (cls == 1).sum()
    for image in range(2):
        frames, positive = square_anchors(boxes[image]), cls[image] == 1
        face = box_iou(boxes[image], labels.boxes).argmax(axis=1)
        found = decode_boxes(box[image], frames)[positive]
        np.testing.assert_allclose(found, labels.boxes[face[positive]], atol=1e-2)
        found = decode_points(landmark[image], frames)[positive]
        np.testing.assert_allclose(found, labels.landmarks5[face[positive]], atol=1e-2)
        for number, coded, mask in zip(anchors[image].astype(int), meshes[image], masks[image]):
            if mask:
                np.testing.assert_allclose(
                    coded, encode_mesh(labels.mesh[[face[number]]], frames[[number]])[0], atol=1e-5
                )


def test_a_face_whose_points_alone_are_learnt_has_a_mesh_but_no_class():
    labels = meshed_labels(LARGE).with_(points_only=[True])
    cls, _, _, points, _, _, masks = RefinedTargets()(np.array([[LARGE]], np.float32), *handed_on(labels))
    assert cls.tolist() == [[-1]] and points.tolist() == [[[1]]] and masks[0].sum() == 1


def test_of_more_anchors_than_fit_those_of_best_overlap_learn_the_mesh():
    labels = meshed_labels(LARGE)
    boxes = np.array([[40, 30, 90, 90 - 3 * i] for i in (4, 0, 3, 1, 2)], np.float32)
    *_, anchors, _, masks = RefinedTargets(max_mesh_anchors=3)(boxes[None], *handed_on(labels))
    assert anchors.tolist() == [[1, 3, 4]] and masks.tolist() == [[1, 1, 1]]


def matched_by_definition(anchors, faces, positive_iou, negative_iou, low_quality_iou, take_over):
    """`match_anchors` from the overlaps of all with all."""
    iou = box_iou(anchors, faces)
    face, best = iou.argmax(axis=1), iou.max(axis=0)
    overlap = iou.max(axis=1)
    matched = np.where(overlap >= positive_iou, face, np.where(overlap < negative_iou, -1, -2))
    nearest = (iou >= best - 1e-6) & (iou > 0) & (best >= low_quality_iou)
    if not take_over:
        return np.where(nearest.any(axis=1), face, matched)
    for m in np.argsort(-np.prod(faces[:, 2:] - faces[:, :2], axis=1)):
        matched[nearest[:, m]] = m
    return matched


def crowd(rng, count, side=160, step=4) -> np.ndarray:
    """Boxes with corners on a grid, so that many overlap others equally, and some are the same."""
    low = rng.integers(0, side // step, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 8, (count, 2))], axis=1).astype(np.float32) * step
    return np.concatenate([boxes, boxes[: count // 8]])


@pytest.mark.parametrize("take_over", [True, False])
@pytest.mark.parametrize("low_quality_iou", [0.0, 0.2, 1.1])
def test_matches_in_a_crowd_are_those_of_the_overlaps_of_all_with_all(rng, low_quality_iou, take_over):
    anchors, faces = crowd(rng, 3000), crowd(rng, 60)
    given = (0.5, 0.4, low_quality_iou, take_over)
    names = ("positive_iou", "negative_iou", "low_quality_iou", "take_over")
    overlap = np.sort(box_iou(anchors, faces), axis=1)
    assert ((overlap[:, -1] == overlap[:, -2]) & (overlap[:, -1] >= 0.5)).sum() > 10  # two faces are as near
    for boxes in (anchors, anchors[:, [2, 1, 0, 3]], anchors + rng.normal(0, 1, anchors.shape), anchors[:0] + 1):
        boxes = np.concatenate([boxes, anchors[:1]])
        expected = matched_by_definition(boxes, faces, *given)
        np.testing.assert_array_equal(match_anchors(boxes, faces, **dict(zip(names, given))), expected)


def test_a_sliver_of_a_face_takes_no_anchors_but_those_that_touch_it():
    anchors, sliver = np.array([[0, 0, 100, 100], [200, 0, 300, 100]], np.float32), np.array([[10, 10, 10.05, 10.05]])
    options = {"positive_iou": 0.5, "negative_iou": 0.3, "low_quality_iou": 0.0}
    assert 0 < box_iou(anchors, sliver)[0, 0] < 1e-6
    for take_over in (True, False):
        assert match_anchors(anchors, sliver, take_over=take_over, **options).tolist() == [0, -1]


def test_the_second_head_learns_in_a_crowd_what_the_overlaps_of_all_with_all_say(rng):
    faces = crowd(rng, 40)
    labels = meshed_labels(*faces, without=range(0, len(faces), 2)).with_(ignore=np.arange(len(faces)) % 5 == 0)
    boxes = crowd(rng, 2000)
    given = handed_on(labels, max_meshes=16)
    cls, _, _, _, numbers, _, masks = (a[0] for a in RefinedTargets(max_mesh_anchors=32)(boxes[None], *given))
    kinds, rows = given[0][0], given[1][0]
    learnt, regions = rows[kinds == 1], rows[kinds == 3]
    matched = matched_by_definition(boxes, learnt, 0.5, 0.4, 0.2, True)
    on_region = (box_ioa(boxes, regions) >= 0.5).any(axis=1)
    expected = np.where(matched >= 0, 1, np.where((matched == -1) & ~on_region, 0, -1))
    assert all((expected == value).sum() > 30 for value in (1, 0, -1))
    np.testing.assert_array_equal(cls, expected)
    posed = np.flatnonzero((matched >= 0) & (matched < 16))
    overlap = box_iou(boxes, learnt)[posed, matched[posed]]
    best = posed[np.argsort(-overlap, kind="stable")[:32]]
    assert masks.all() and len(posed) > 32
    np.testing.assert_array_equal(numbers, best)


def test_a_crowd_is_matched_without_the_memory_for_the_overlaps_of_all_with_all(rng):
    boxes, faces = crowd(rng, 50_000, side=640), crowd(rng, 200, side=640)
    labels = meshed_labels(*faces, without=range(8, len(faces))).with_(ignore=np.arange(len(faces)) % 3 == 0)
    given = handed_on(labels)
    tracemalloc.start()
    RefinedTargets()(boxes[None], *given)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < len(boxes) * len(faces) * 4


def test_an_image_without_faces_is_all_background_for_the_second_head_too():
    labels = FaceLabels.empty().with_(mesh=np.zeros((0, 6, 3), np.float32))
    boxes = np.array([[[0, 0, 9, 9], [5, 5, 40, 30]]], np.float32)
    cls, box, _, points, _, meshes, masks = RefinedTargets()(boxes, *handed_on(labels))
    assert not any(a.any() for a in (cls, box, points, meshes, masks))
