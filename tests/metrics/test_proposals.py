"""Recall of the best few detections, and the fit of boxes to a data set's style."""

import math

import numpy as np
import pytest

from gluonface.data import FaceLabels
from gluonface.errors import InputError
from gluonface.faces import Faces
from gluonface.metrics import BoxFit, evaluate_detections, fit_boxes, match_photos, recall_at_top

SIZE_HW = (400, 400)
BOXES = np.array([[10, 10, 50, 60], [100, 20, 150, 80], [200, 200, 260, 290]], float)


def test_recall_at_top_counts_the_best_detections_of_each_photo_only():
    misses = np.array([[300, 300, 320, 320], [330, 300, 350, 320]], float)
    found = Faces(np.concatenate([misses, BOXES]), np.array([0.9, 0.3, 0.8, 0.5, 0.2]), size_hw=SIZE_HW)
    matches = match_photos([found, Faces.empty(SIZE_HW)], [FaceLabels(BOXES), FaceLabels(BOXES[:1])])
    assert [recall_at_top(matches, top) for top in (1, 2, 3, 4, 5, 100)] == [0, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4]


def test_the_best_few_find_what_they_would_find_alone():
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, 100, (40, 2))
    boxes, scores = np.concatenate([corners, corners + rng.uniform(20, 60, (40, 2))], axis=1), rng.permutation(40) / 40
    labels = FaceLabels(boxes[:9] + rng.normal(0, 4, (9, 4)), ignore=np.arange(9) > 6)
    every = match_photos([Faces(boxes, scores, size_hw=SIZE_HW)], [labels])
    for top in (3, 10, 25):
        best = np.argsort(-scores)[:top]
        alone = match_photos([Faces(boxes[best], scores[best], size_hw=SIZE_HW)], [labels])
        assert recall_at_top(every, top) == recall_at_top(alone, 1000)


def test_recall_at_top_needs_faces_and_a_number():
    assert math.isnan(recall_at_top([], 100))
    with pytest.raises(InputError, match="at least 1 detection of a photo, got 0"):
        recall_at_top([], 0)


def test_boxes_of_another_style_are_fitted_to_the_labels():
    style = BoxFit(0.08, -0.1, 0.9, 1.2)
    drawn = [Faces(style(BOXES), np.array([0.9, 0.2, 0.5]), size_hw=SIZE_HW) for _ in range(2)]
    labels = [FaceLabels(BOXES, ignore=np.array([False, False, True])), FaceLabels(BOXES)]
    fit = fit_boxes(drawn, labels)
    assert fit(drawn[0].boxes) == pytest.approx(BOXES, abs=0.01)
    assert evaluate_detections(drawn, labels)["ap"] < 0.8
    fitted = [faces.with_(boxes=fit(faces.boxes)) for faces in drawn]
    assert evaluate_detections(fitted, labels)["ap"] == 1


def test_one_change_after_another_is_one():
    a, b = BoxFit(0.1, -0.2, 0.8, 1.1), BoxFit(-0.05, 0.3, 1.2, 0.7)
    assert a.then(b)(BOXES) == pytest.approx(b(a(BOXES)))


def test_without_a_face_found_nothing_changes():
    assert fit_boxes([Faces.empty(SIZE_HW)], [FaceLabels(BOXES)]) == BoxFit()
    with pytest.raises(InputError, match="detections of 1 photos, got those of 0"):
        fit_boxes([], [FaceLabels(BOXES)])
