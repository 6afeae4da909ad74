"""The WIDER FACE protocol: the published case to four digits, a slow twin, and the prediction files."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gluonface.errors import DataError, InputError
from gluonface.faces import Faces
from gluonface.metrics import (
    WiderFaceMetric,
    evaluate_widerface,
    read_predictions,
    read_widerface_ground_truth,
    widerface_curves,
    write_prediction,
)
from gluonface.metrics.widerface_protocol import SETTINGS, WiderFaceGroundTruth, photo_name, to_xywh


@pytest.fixture(scope="module")
def official(facedata):
    pytest.importorskip("scipy")
    return read_widerface_ground_truth(facedata / "widerface_eval")


def test_the_published_detections_give_the_published_figures(facedata, official):
    folder = facedata / "widerface_eval"
    predictions = read_predictions(folder / "predictions_retinaface_mnet025.npz", official.names)
    expected = json.loads((folder / "expected_ap.json").read_text())["predictions_retinaface_mnet025.npz"]
    result = evaluate_widerface(predictions, official)
    assert {setting: round(value, 4) for setting, value in result.items()} == {s: expected[s] for s in SETTINGS}


def test_the_official_ground_truth_has_the_known_numbers(official):
    assert len(official) == 3226
    assert sum(map(len, official.boxes_xywh)) == 39708
    assert {s: sum(int(mask.sum()) for mask in official.counted[s]) for s in SETTINGS} == {
        "easy": 7211,
        "medium": 13319,
        "hard": 31958,
    }


def random_case(rng, photos=12):
    boxes = [np.c_[rng.integers(0, 80, (m, 2)), rng.integers(5, 40, (m, 2))] for m in rng.integers(0, 8, photos)]
    names = [f"{i % 3}--Event/photo_{i}" for i in range(photos)]
    counted = {s: tuple(rng.uniform(size=len(b)) < p for b in boxes) for s, p in zip(SETTINGS, (0.3, 0.6, 0.9))}
    predictions = {}
    for name, faces in zip(names, boxes):
        near = [b + rng.normal(0, 3, 4) for b in faces for _ in range(rng.integers(0, 3))]
        far = [[*rng.uniform(0, 90, 2), *rng.uniform(5, 40, 2)] for _ in range(rng.integers(0, 4))]
        found = np.array([*near, *far]).reshape(-1, 4)
        predictions[name] = (np.maximum(found, 0), rng.uniform(-2, 3, len(found)).round(2))
    return predictions, WiderFaceGroundTruth(tuple(names), tuple(b.astype(float) for b in boxes), counted)


def slow_protocol(predictions, truth, setting):
    """The evaluation tool, step by step and photo by photo (recall and proposal lists, 1000 thresholds)."""
    scores = [s for _, all_scores in predictions.values() for s in all_scores]
    low, high = min(scores), max(scores)
    curve, num_faces = np.zeros((1000, 2)), 0
    for name, faces, wanted in zip(truth.names, truth.boxes_xywh, truth.counted[setting]):
        num_faces += int(wanted.sum())
        boxes, raw = predictions[name]
        if not len(faces) or not len(boxes):
            continue
        order = sorted(range(len(raw)), key=lambda n: -raw[n])
        boxes, values = boxes[order], [(raw[n] - low) / (high - low) for n in order]
        found, proposals, recalls = set(), [], []
        for box in boxes:
            overlaps = [plus_one_iou(box, face) for face in faces]
            best = int(np.argmax(overlaps))
            proposal = 1
            if overlaps[best] >= 0.5:
                if not wanted[best]:
                    proposal = -1
                else:
                    found.add(best)
            proposals.append(proposal)
            recalls.append(len(found))
        for t in range(1000):
            above = [n for n, value in enumerate(values) if value >= 1 - (t + 1) / 1000]
            if above:
                curve[t, 0] += sum(p == 1 for p in proposals[: above[-1] + 1])
                curve[t, 1] += recalls[above[-1]]
    precision = np.concatenate([[0], curve[:, 1] / np.maximum(curve[:, 0], 1), [0]])
    recall = np.concatenate([[0], curve[:, 1] / num_faces, [1]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    i = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[i + 1] - recall[i]) * precision[i + 1]))


def plus_one_iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) + 1
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) + 1
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] + 1) * (a[3] + 1) + (b[2] + 1) * (b[3] + 1) - inter)


@pytest.mark.parametrize("seed", range(3))
def test_the_protocol_agrees_with_a_slow_twin(seed):
    predictions, truth = random_case(np.random.default_rng(seed))
    result = evaluate_widerface(predictions, truth)
    for setting in SETTINGS:
        assert 0.05 < result[setting] < 1
        assert result[setting] == pytest.approx(slow_protocol(predictions, truth, setting), abs=1e-12)


def one_photo(*faces, counted=None):
    boxes = np.array(faces, float).reshape(-1, 4)
    mask = np.ones(len(boxes), bool) if counted is None else np.array(counted)
    return WiderFaceGroundTruth(("e/p",), (boxes,), dict.fromkeys(SETTINGS, (mask,)))


def found(*boxes, scores=None):
    return {"e/p": (np.array(boxes, float).reshape(-1, 4), np.linspace(1, 0, len(boxes)) if scores is None else scores)}


def test_both_edges_belong_to_a_box():
    # 9 of 19 columns: continuous 9 / 19 = .47, with the edge 10 / 20 = .5
    assert evaluate_widerface(found([0, 0, 9, 19]), one_photo([0, 0, 19, 19]))["easy"] == 1
    assert evaluate_widerface(found([0, 0, 8, 19]), one_photo([0, 0, 19, 19]))["easy"] == 0


def test_a_detection_on_a_face_left_out_is_neither_right_nor_wrong():
    truth = one_photo([0, 0, 20, 20], [50, 0, 20, 20], counted=[False, True])
    assert evaluate_widerface(found([0, 0, 20, 20], [50, 0, 20, 20]), truth)["hard"] == 1
    assert evaluate_widerface(found([90, 90, 20, 20], [50, 0, 20, 20]), truth)["hard"] == 0.5


def test_scores_are_stretched_over_the_whole_set():
    truth = one_photo([0, 0, 20, 20])
    boxes = ([0, 0, 20, 20], [50, 50, 20, 20])
    results = [evaluate_widerface(found(*boxes, scores=np.array(s)), truth) for s in ((5, -5), (0.02, 0.01))]
    assert results[0] == results[1] == dict.fromkeys(SETTINGS, 1)


def test_no_detections_and_one_detection_are_fine():
    truth = one_photo([0, 0, 20, 20])
    assert evaluate_widerface(found(), truth) == dict.fromkeys(SETTINGS, 0)
    assert evaluate_widerface(found([0, 0, 20, 20], scores=np.array([0.4])), truth) == dict.fromkeys(SETTINGS, 1)


def test_the_curves_have_a_thousand_points():
    predictions, truth = random_case(np.random.default_rng(0))
    recall, precision = widerface_curves(predictions, truth)["hard"]
    assert recall.shape == precision.shape == (1000,)
    assert (np.diff(recall) >= 0).all()


def test_a_missing_photo_and_wrong_arrays_are_named():
    truth = one_photo([0, 0, 20, 20])
    with pytest.raises(InputError, match="1 of 1 photos are missing, the first is 'e/p'"):
        evaluate_widerface({}, truth)
    with pytest.raises(InputError, match=r"'e/p'.*got \(1, 4\) and \(2,\)"):
        evaluate_widerface({"e/p": (np.zeros((1, 4)), np.zeros(2))}, truth)
    with pytest.raises(InputError, match="finite"):
        evaluate_widerface({"e/p": (np.zeros((1, 4)), np.array([np.nan]))}, truth)


def test_predictions_come_back_from_text_files(tmp_path):
    boxes, scores = np.array([[1.5, 2, 30, 40.25], [0, 0, 5, 5]]), np.array([0.1, 1 / 3], np.float32)
    path = write_prediction(tmp_path, "0--Parade/a.b_1", boxes, scores)
    assert path.read_text().splitlines() == [
        "a.b_1",
        "2",
        "0.00 0.00 5.00 5.00 0.333333343",
        "1.50 2.00 30.00 40.25 0.100000001",
    ]
    write_prediction(tmp_path, "0--Parade/none", np.zeros((0, 4)), np.zeros(0))
    read = read_predictions(tmp_path, ["0--Parade/none", "0--Parade/a.b_1"])
    assert read["0--Parade/none"][0].shape == (0, 4)
    assert read["0--Parade/a.b_1"][0].tolist() == boxes[::-1].tolist()
    assert read["0--Parade/a.b_1"][1].astype(np.float32).tolist() == scores[::-1].tolist()


BAD_FILES = {
    "": "line 1: expected a name line",
    "p\n": "line 2: expected a name line and a count line",
    "p\ntwo\n1 2 3 4 5\n": "line 2: expected the number of faces, got 'two'",
    "p\n2\n1 2 3 4 .5\n": "line 2: the count is 2, but 1 lines follow",
    "p\n1\n1 2 3 4 .5\n1 2 3 4 .5\n": "line 2: the count is 1, but 2 lines follow",
    "p\n2\n1 2 3 4 .5\n1 2 3 4\n": "line 4: expected five finite numbers",
    "p\n1\n1 2 3 x .5\n": "line 3: expected five numbers",
    "p\n1\n1 2 nan 4 .5\n": "line 3: expected five finite numbers",
    "p\n1\n100 2 -30 4 .5\n": "line 3: expected a width and a height of at least 0",
}


@pytest.mark.parametrize("text", BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_prediction_file_is_named_with_its_line(tmp_path, text):
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "p.txt").write_text(text)
    with pytest.raises(DataError) as error:
        read_predictions(tmp_path, ["e/p"])
    assert str(tmp_path / "e" / "p.txt") in str(error.value)
    assert BAD_FILES[text] in str(error.value)


def test_missing_and_binary_prediction_files_are_named(tmp_path):
    with pytest.raises(DataError, match="found neither"):
        read_predictions(tmp_path / "nowhere", ["e/p"])
    with pytest.raises(DataError, match=r"1 of 1 files are missing, the first is e/p\.txt"):
        read_predictions(tmp_path, ["e/p"])
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "p.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="not a text file"):
        read_predictions(tmp_path, ["e/p"])
    (tmp_path / "p.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="expected an .npz file"):
        read_predictions(tmp_path / "p.npz", ["e/p"])


def test_a_folder_without_the_mat_files_is_named(tmp_path):
    pytest.importorskip("scipy")
    with pytest.raises(DataError, match=r"wider_face_val\.mat: no such file"):
        read_widerface_ground_truth(tmp_path)
    (tmp_path / "wider_face_val.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(DataError, match=r"wider_face_val\.mat: "):
        read_widerface_ground_truth(tmp_path)


def test_the_mat_files_are_read_as_the_official_tool_writes_them(tmp_path, cells):
    scipy_io = pytest.importorskip("scipy.io")

    lists = {
        "event_list": cells(["0--Parade", "1--Shop"]),
        "file_list": cells([cells(["a", "b"]), cells(["c"])]),
        "face_bbx_list": cells([cells([np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.zeros((0, 4))]), cells([np.eye(4)])]),
    }
    gt_list = cells([cells([np.array([[2]]), np.zeros((0, 0))]), cells([np.array([[1], [4]])])])
    scipy_io.savemat(tmp_path / "wider_face_val.mat", lists)
    for setting in SETTINGS:
        scipy_io.savemat(tmp_path / f"wider_{setting}_val.mat", {**lists, "gt_list": gt_list})
    truth = read_widerface_ground_truth(tmp_path)
    assert truth.names == ("0--Parade/a", "0--Parade/b", "1--Shop/c")
    assert truth.boxes_xywh[0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [mask.tolist() for mask in truth.counted["easy"]] == [[False, True], [], [True, False, False, True]]

    gt_list[0, 0][0, 0] = np.array([[3]])
    scipy_io.savemat(tmp_path / "wider_hard_val.mat", {**lists, "gt_list": gt_list})
    with pytest.raises(DataError, match=r"0--Parade/a has 2 faces, but gt_list names face 3"):
        read_widerface_ground_truth(tmp_path)


def test_boxes_of_this_package_become_x_y_width_height():
    assert to_xywh(np.array([[1, 2, 11, 32.0]])).tolist() == [[1, 2, 10, 30]]
    assert photo_name("0--Parade/a.b.jpg") == "0--Parade/a.b"
    assert photo_name("0--Parade/a.b") == "0--Parade/a.b"


def test_the_metric_gives_the_figures_of_the_function():
    pytest.importorskip("mxnet")
    predictions, truth = random_case(np.random.default_rng(1))
    metric = WiderFaceMetric(truth)
    assert np.isnan(metric.get()[1]).all()
    for name, (boxes, scores) in predictions.items():
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        metric.update(name + ".jpg", Faces(corners, scores, size_hw=(100, 100)))
    names, values = metric.get()
    expected = evaluate_widerface(predictions, truth)
    assert dict(zip(names, values)) == pytest.approx(expected, abs=1e-6)  # Faces are float32
    with pytest.raises(InputError, match="'e/q' is not a photo"):
        metric.update("e/q", Faces.empty((10, 10)))
    metric.reset()
    metric.update(truth.names[0], Faces.empty((10, 10)))
    with pytest.raises(InputError, match="11 of 12 photos are missing"):
        metric.get()


def test_scoring_needs_no_mxnet():
    code = (
        "import sys; sys.modules['mxnet'] = None\n"
        "from gluonface.metrics import evaluate_detections, evaluate_widerface, paired_bootstrap, write_prediction\n"
        "assert 'gluonface.metrics.detection' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
