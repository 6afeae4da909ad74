import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample, label_points_only
from gluonface.decode import decode_boxes, decode_heatmaps, decode_points
from gluonface.geometry import box_iou
from gluonface.targets import AnchorTargets, HeatmapTargets, MOSTargets, match_anchors

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
    dense = np.stack([[60, 50, *np.stack([np.arange(68), -np.arange(68)], axis=1)], np.full((68, 2), np.nan)])
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
