import numpy as np
import pytest

from gluonface.decode import decode_boxes, decode_heatmaps, decode_points
from gluonface.targets import AnchorTargets, HeatmapTargets, match_anchors

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


def test_heatmap_targets_are_gaussians_that_decode_to_the_points_and_mask_what_cannot_be_learnt():
    points = np.array([[10, 20], [np.nan, 5], [70, 30], [63.9, 0.1]])
    heatmaps, cells, masks = HeatmapTargets((16, 16), 4, sigma=1.5)(points)
    assert heatmaps.shape == (4, 16, 16) and heatmaps.dtype == np.float32
    assert masks.tolist() == [1, 0, 0.5, 1]
    np.testing.assert_allclose(cells[[0, 2, 3]], points[[0, 2, 3]] / 4, rtol=1e-6)
    assert cells[1].tolist() == [0, 0] and not heatmaps[1].any()
    found, _ = decode_heatmaps(heatmaps)
    np.testing.assert_allclose(found[[0, 3]] * 4, points[[0, 3]], atol=0.05)
