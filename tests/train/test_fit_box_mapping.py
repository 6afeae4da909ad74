"""fit_box_mapping.py: what it reads, writes and says."""

import json

import numpy as np
import pytest

from gluonface.box_mapping import BoxMapping, boxes_from_points
from gluonface.data import FaceLabels, FaceSample, write_jsonl

FIVE = np.array([[32, 40], [68, 40], [50, 58], [36, 78], [64, 78.0]])


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("fit_box_mapping")


@pytest.fixture
def labels(rng, tmp_path):
    """A file of 30 faces with a box of 100 x 140, one without points, one that is small and one ignored."""
    samples = []
    for i in range(30):
        scale, shift = rng.uniform(0.5, 3), rng.uniform(0, 200, 2)
        points, box = FIVE * scale + shift, np.array([0, -20, 100, 120]) * scale + np.tile(shift, 2)
        faces = FaceLabels(
            np.stack([box, box, box / 20, box]),
            ignore=[False, False, False, True],
            landmarks5=np.stack([points, np.full((5, 2), np.nan), points / 20, points * 3]),
            box_from=["human", "human", "teacher", "human"],
        )
        samples.append(FaceSample(f"{i}.jpg", (1000, 1000), faces))
    path = tmp_path / "labels.jsonl"
    write_jsonl(path, samples)
    return path


def test_the_written_mapping_gives_the_boxes_back(script, labels, tmp_path, capsys):
    out = tmp_path / "boxes.json"
    assert script.main([str(labels), "--out", str(out)]) == 0
    mapping = BoxMapping.from_dict(json.loads(out.read_text()))
    np.testing.assert_allclose(boxes_from_points(FIVE, mapping), [0, -20, 100, 120], atol=1)
    said = capsys.readouterr().out
    assert "30 faces" in said and "fitted: mean IoU 0.9" in said.replace("1.000", "0.99") and str(out) in said


def test_small_faces_and_other_origins_can_be_left_out(script, labels):
    assert len(script.labelled_faces([labels])[0]) == 60
    assert len(script.labelled_faces([labels], min_size=20)[0]) == 30
    assert len(script.labelled_faces([labels, labels], box_from=["teacher"])[0]) == 60


def test_a_file_without_such_faces_is_told(script, labels, capsys):
    assert script.main([str(labels), "--points", "68"]) == 1
    assert "expected faces with 68 points and a box, found none" in capsys.readouterr().err


def test_on_the_corpus_a_fit_is_nearer_than_none(script, facedata, capsys):
    assert script.main([str(facedata / "det_train.jsonl"), "--box-from", "human"]) == 0
    fitted, unfitted = (
        float(line.split("mean IoU ")[1].split(",")[0]) for line in capsys.readouterr().out.splitlines()[1:]
    )
    assert fitted > 0.78 and fitted > unfitted + 0.1
