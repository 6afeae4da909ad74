import json

import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample
from gluonface.data.jsonl import read_jsonl, write_jsonl
from gluonface.errors import DataError

FACE = {"box": [1, 2, 11, 22.5]}


def line(**changes) -> dict:
    entry = {"image": "a/1.jpg", "width": 40, "height": 30, "source": "a", "faces": [FACE]}
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def face(**changes) -> dict:
    return line(faces=[FACE, {**FACE, **changes}])


def write(path, *entries) -> None:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def test_null_fields_are_unknown_and_regions_to_ignore_stay_so(tmp_path):
    full = {
        "box": [1, 2, 11, 22.5],
        "box_from": "human",
        "ignore": False,
        "landmarks5": [[3, 4], [8, 4.5], None, [3, 9], [8, 9]],
        "landmarks5_from": "human",
        "landmarks68": [[i, i + 0.5] for i in range(68)],
        "pose": {"yaw": 10.5, "pitch": -3, "roll": 7, "residual": 0.02, "from": "fit68"},
        "mesh468": 17,
        "attributes": {"mask": "with"},
    }
    empty = dict.fromkeys(full) | {"box": [0, 0, 5, 5], "ignore": True}
    write(tmp_path / "x.jsonl", line(faces=[full, empty]))
    (sample,) = read_jsonl(tmp_path / "x.jsonl")
    labels = sample.faces
    assert sample.size_hw == (30, 40) and sample.source == "a" and sample.name == "a/1.jpg"
    assert sample.image_path == str(tmp_path / "images" / "a/1.jpg")
    assert labels.ignore.tolist() == [False, True]
    assert labels.landmarks5[0, 1].tolist() == [8, 4.5] and np.isnan(labels.landmarks5[0, 2]).all()
    assert labels.landmarks5_human.tolist() == [True, False]
    assert labels.pose[0].tolist() == [10.5, -3, 7]  # yaw, pitch, roll
    assert labels.landmarks[0, 67].tolist() == [67, 67.5]
    assert labels.mesh_row.tolist() == [17, -1]
    assert labels.attributes == [{"mask": "with"}, {}] and labels.box_from == ["human", ""]
    for known in (labels.landmarks5[1], labels.landmarks[1], labels.pose[1]):
        assert np.isnan(known).all()


def test_what_is_written_is_read_back(tmp_path, rng):
    points = rng.uniform(0, 30, (2, 5, 2)).round(2)
    points[1, 3] = np.nan
    labels = FaceLabels(
        boxes=np.array([[0.25, 1, 10, 12], [3, 3, 3, 9]]),
        ignore=np.array([False, True]),
        landmarks5=points,
        landmarks5_human=np.array([False, True]),
        landmarks=np.stack([np.full((68, 2), np.nan), rng.uniform(0, 30, (68, 2)).round(2)]),
        scheme="68",
        pose=np.array([[1.25, -2, 3], [np.nan] * 3]),
        mesh_row=np.array([-1, 4]),
        attributes=[{"blur": 2}, {}],
        box_from=["human", ""],
    )
    sample = FaceSample(str(tmp_path / "images/é 1.jpg"), (30, 40), labels, source="a", name="é 1.jpg")
    write_jsonl(
        tmp_path / "x.jsonl", [sample, FaceSample("images/none.jpg", (3, 4), FaceLabels.empty(), name="none.jpg")]
    )
    back, none = read_jsonl(tmp_path / "x.jsonl")
    assert (back.image_path, back.size_hw, back.source, back.name) == (
        sample.image_path,
        sample.size_hw,
        sample.source,
        sample.name,
    )
    for field in ("boxes", "ignore", "landmarks5", "landmarks5_human", "landmarks", "pose", "mesh_row"):
        np.testing.assert_allclose(getattr(back.faces, field), getattr(labels, field), atol=1e-5, err_msg=field)
    assert back.faces.attributes == labels.attributes and back.faces.box_from == labels.box_from
    assert len(none.faces) == 0 and none.faces.landmarks is None


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("{broken", "not a JSON object"),
        ([1, 2], "expected a JSON object"),
        (line(image=...), "image must be the path"),
        (line(width=0), "width must be a positive whole number of pixels, got 0"),
        (line(height=3.5), "height must be a positive whole number of pixels, got 3.5"),
        (line(source=7), "source must be a text"),
        (line(faces=...), "faces is missing"),
        (line(faces={}), "faces must be a list"),
        (line(faces=[[1, 2, 3, 4]]), "face 0 must be an object"),
        (line(faces=[{"ignore": True}]), "face 0: box is missing"),
        (face(box=[1, 2, 3]), "face 1: box must be 4 numbers"),
        (face(box=[1, 2, "3", 4]), "face 1: box must be 4 numbers"),
        (face(box=[5, 2, 3, 4]), "face 1: box must be"),
        (face(box=[5, 2, 5, 4]), "is empty; leave the face out or set ignore to true"),
        (face(box=[1, 2, float("nan"), 4]), "face 1: box must be finite"),
        (face(ignore=1), "face 1: ignore must be bool or null, got 1"),
        (face(landmarks5=[[1, 2]] * 4), "face 1: landmarks5 must be 5x2 numbers"),
        (face(landmarks5=[[1, float("inf")]] * 5), "face 1: landmarks5 must be finite"),
        (face(landmarks68=[[1, 2]] * 5), "face 1: landmarks68 must be 68x2 numbers"),
        (face(pose={"yaw": 1, "roll": 2}), "pose must have yaw, pitch and roll, pitch is missing"),
        (face(pose=[1, 2, 3]), "pose must be dict or null"),
        (face(mesh468=1.5), "mesh468 must be int or null"),
        (face(attributes="with"), "attributes must be dict or null"),
    ],
)
def test_a_wrong_field_is_reported_with_file_and_line(tmp_path, entry, complaint):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(line())}\n\n{entry if isinstance(entry, str) else json.dumps(entry)}\n")
    with pytest.raises(DataError) as caught:
        read_jsonl(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert complaint in str(caught.value)


def test_a_missing_or_binary_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl: cannot read the annotation file"):
        read_jsonl(tmp_path / "no.jsonl")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match="not a UTF-8 text file"):
        read_jsonl(tmp_path / "x.jsonl")


def test_sources_are_filtered_and_an_unknown_one_is_an_error(tmp_path):
    write(tmp_path / "x.jsonl", line(), line(source="b"), line(source="c"))
    assert [s.source for s in read_jsonl(tmp_path / "x.jsonl", sources=["c", "a"])] == ["a", "c"]
    with pytest.raises(DataError, match="no image has the source d; the file has a, b, c"):
        read_jsonl(tmp_path / "x.jsonl", sources=["a", "d"])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [])

    def samples():
        yield FaceSample("a.jpg", (3, 4), FaceLabels.empty())
        raise RuntimeError("reader stopped")

    with pytest.raises(RuntimeError):
        write_jsonl(path, samples())
    assert path.read_text() == "" and [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]
    with pytest.raises(DataError, match="cannot be written"):
        write_jsonl(tmp_path / "no" / "x.jsonl", [])


def test_the_corpus_reads_as_its_readme_counts_it(facedata):
    train = read_jsonl(facedata / "det_train.jsonl")
    faces = sum(len(s.faces) for s in train)
    ignored = sum(int(s.faces.ignore.sum()) for s in train)
    assert (len(train), faces - ignored, ignored) == (3313, 5449, 3212)
    assert sum(not len(s.faces) for s in train) == 431
    val = read_jsonl(facedata / "det_val.jsonl", sources="mask")
    assert sum(int((~s.faces.ignore).sum()) for s in val) == 468
