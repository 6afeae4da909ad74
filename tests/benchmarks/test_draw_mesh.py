"""The picture of a mesh for the README."""

import numpy as np
import pytest

from gluonface.errors import InputError
from gluonface.faces import Faces
from gluonface.image import load_image
from gluonface.mesh import topology_468, turn_upright

SIZE_HW = (160, 200)


@pytest.fixture
def draw(script):
    return script("draw_mesh")


def face(**parts):
    mesh = turn_upright(topology_468().canonical)
    mesh = mesh / np.ptp(mesh[:, 0]) * 60 + (100, 80, 0)
    box = [*mesh[:, :2].min(axis=0), *mesh[:, :2].max(axis=0)]
    parts = {"mesh": mesh[None], "pose": np.zeros((1, 3)), **parts}
    return Faces([box], [0.9], size_hw=SIZE_HW, **parts)


def test_the_face_stands_beside_its_mesh_surface_axes_and_parts(draw):
    photo = np.full((*SIZE_HW, 3), 200, np.uint8)
    picture = draw.draw(photo, face())
    assert picture.shape[1] > 4.9 * picture.shape[0]
    tiles = [tile[8:-8, 8:-8].astype(int) for tile in np.split(picture[:, : picture.shape[1] // 5 * 5], 5, axis=1)]
    assert np.ptp(tiles[0]) == 0
    drawn = [np.abs(tile - 200).max(axis=2) > 40 for tile in tiles[1:]]
    assert all(share.mean() > 0.003 for share in drawn)
    assert all((a != b).mean() > 0.003 for i, a in enumerate(drawn) for b in drawn[:i])


def test_faces_without_a_mesh_are_refused(draw):
    for faces in (face(mesh=None), Faces.empty(SIZE_HW)):
        with pytest.raises(InputError, match="expected a face with a mesh of 468 vertices"):
            draw.draw(np.zeros((*SIZE_HW, 3), np.uint8), faces)


def test_faces_whose_meshes_give_no_pose_are_refused(draw):
    with pytest.raises(InputError, match="expected faces whose meshes give a pose"):
        draw.draw(np.zeros((*SIZE_HW, 3), np.uint8), face().with_(pose=None))


def test_the_picture_is_of_the_astronaut_and_goes_where_asked(draw, tmp_path, monkeypatch, capsys):
    photo = np.full((*SIZE_HW, 3), 90, np.uint8)
    monkeypatch.setattr(draw, "astronaut", lambda: photo)
    monkeypatch.setattr(draw, "FaceAnalyzer", lambda name: {draw.MODEL: lambda image: face()}[name])
    assert draw.main(["--out", str(tmp_path / "mesh.png")]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    np.testing.assert_array_equal(load_image(tmp_path / "mesh.png"), draw.draw(photo, face()))
