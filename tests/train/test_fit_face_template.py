"""fit_face_template.py: a known head comes back from its images; the table of the package is what it makes."""

from pathlib import Path

import numpy as np
import pytest

from gluonface import face_template
from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.errors import DataError
from gluonface.faces import SCHEMES
from gluonface.pose import rotation_from_pose


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("fit_face_template")


def made_up_faces(script, rng, count=40, noise=0.0):
    """A symmetric head, and images of it from different sides, sizes and places."""
    head = script.normalised(rng.normal(size=(68, 3)))
    pose = rng.uniform(-40, 40, (count, 3))
    scale = rng.uniform(20, 200, (count, 1, 1))
    points = scale * np.einsum("nij,kj->nki", rotation_from_pose(pose)[:, :2], head) * (1, -1)
    points += rng.uniform(100, 500, (count, 1, 2)) + noise * scale * rng.normal(size=(count, 68, 2))
    return head, points, pose


def test_a_known_head_comes_back_from_its_images(script, rng):
    head, points, pose = made_up_faces(script, rng)
    template, error = script.fit_template(points, pose)
    np.testing.assert_allclose(template, head, atol=1e-4)
    assert error < 1e-4


def test_noise_averages_out_and_is_reported(script, rng):
    head, points, pose = made_up_faces(script, rng, 2000, noise=0.1)
    template, error = script.fit_template(points, pose)
    assert np.abs(template - head).max() < 0.03
    assert error == pytest.approx(0.1 * np.sqrt(2), rel=0.05)


def test_the_template_is_symmetric_centred_and_of_radius_1(script, rng):
    _, points, pose = made_up_faces(script, rng, noise=0.2)
    template, _ = script.fit_template(points, pose)
    np.testing.assert_allclose(template[SCHEMES["68"].flip_index] * (-1, 1, 1), template, atol=1e-12)
    np.testing.assert_allclose(template.mean(axis=0), 0, atol=1e-12)
    assert (template**2).sum(axis=1).mean() == pytest.approx(1)


def test_heads_that_all_look_one_way_say_nothing_about_depth(script, rng):
    _, points, _ = made_up_faces(script, rng)
    with pytest.raises(DataError, match="look different ways"):
        script.fit_template(points, np.tile([10.0, 5, 0], (len(points), 1)))


def test_the_script_writes_a_module_with_the_table(script, rng, tmp_path, capsys):
    head, points, pose = made_up_faces(script, rng)
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    samples = [
        FaceSample(
            image_path=f"{i}.jpg",
            size_hw=(900, 900),
            faces=FaceLabels(boxes[[i]], pose=pose[[i]], landmarks=points[[i]], scheme="68"),
            source=("helen", "ytf")[i % 2],
            name=f"{i}.jpg",
        )
        for i in range(len(points))
    ]
    samples.append(FaceSample("x.jpg", (9, 9), FaceLabels(np.array([[0, 0, 5, 5]])), "mask", "x.jpg"))
    write_jsonl(tmp_path / "faces.jsonl", samples)
    out = tmp_path / "table.py"
    assert script.main([str(tmp_path / "faces.jsonl"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("40 faces; root-mean-square residual")
    names = {}
    exec(out.read_text(), names)
    np.testing.assert_allclose(names["FACE_68"], head, atol=2e-3)
    assert "40 faces of\nHelen and YouTube Faces" in names["__doc__"]
    assert script.main([str(tmp_path / "none.jsonl")]) == 1
    assert "cannot read" in capsys.readouterr().err
    write_jsonl(tmp_path / "faces.jsonl", samples[-1:])
    assert script.main([str(tmp_path / "faces.jsonl")]) == 1
    assert "found none in it" in capsys.readouterr().err


def test_the_table_of_the_package_is_what_the_script_makes_of_the_corpus(script, facedata, tmp_path):
    assert script.main([str(facedata / "lmk_train.jsonl"), "--out", str(tmp_path / "face_template.py")]) == 0
    made, shipped = {}, Path(face_template.__file__).read_text()
    exec((tmp_path / "face_template.py").read_text(), made)
    # The last digit may differ with the linear algebra at hand.
    np.testing.assert_allclose(face_template.FACE_68, made["FACE_68"], atol=1.5e-3)
    np.testing.assert_allclose(face_template.FACE_5, made["FACE_5"], atol=1.5e-3)
    assert shipped.split('"""')[1] == made["__doc__"]
