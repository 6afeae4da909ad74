"""verify_alignment.py on drawn persons: a stand-in detector that places points badly, dense landmarks that are right,
and a small ONNX embedding that is written here, byte by byte.
"""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from gluonface.errors import DataError, InputError, WeightsError
from gluonface.faces import SCHEMES, Faces
from gluonface.geometry import (
    ARCFACE_TEMPLATE_112,
    invert_affine,
    rotation_matrix_about,
    similarity_transform,
    warp_image,
    warp_points,
)
from gluonface.image import save_image

SIDE = 200
PERSONS = ("Ann", "Bo_B.", "Cy", "Di")
PHOTOS = 4
# Two folds of three equal and three different pairs.
PAIRS = """2 3
Ann 1 2
Bo_B. 1 2
Cy 1 2
Ann 1 Bo_B. 1
Bo_B. 2 Cy 2
Cy 1 Di 1
Di 1 2
Ann 3 4
Cy 3 4
Di 2 Ann 2
Bo_B. 3 Cy 3
Ann 4 Di 4
"""


# ONNX is protobuf: fields (number << 3 | kind), kind 0 a number, kind 2 bytes with their length before them.


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def message(*fields):
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            value = value.encode() if isinstance(value, str) else value
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def tensor(name, *shape):
    dims = message(*((1, message((1, extent))) for extent in shape))
    return message((1, name), (2, message((1, message((1, 1), (2, dims))))))


def pooling_model(size=112, cells=7):
    """An ONNX file: the mean colours of cells x cells squares, as one vector."""
    step = size // cells
    attributes = [message((1, n), *((8, step),) * 2, (20, 7)) for n in ("kernel_shape", "strides")]
    pool = message((1, "x"), (2, "pooled"), (4, "AveragePool"), *((5, a) for a in attributes))
    flat = message((1, "pooled"), (2, "y"), (4, "Flatten"), (5, message((1, "axis"), (3, 1), (20, 2))))
    x, y = tensor("x", 1, 3, size, size), tensor("y", 1, 3 * cells**2)
    graph = message((1, pool), (1, flat), (2, "pooling"), (11, x), (12, y))
    return message((1, 7), (8, message((1, ""), (2, 11))), (7, graph))


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "pooling.onnx"
    path.write_bytes(pooling_model())
    return path


def dense_of(five):
    """68 points whose five are these."""
    dense = np.zeros((len(five), 68, 2))
    for i, rows in enumerate(SCHEMES["68"].five):
        dense[:, list(rows)] = five[:, [i]]
    return dense


class World:
    """Photos of persons, and what the stand-ins for detector and landmark net see on them, by a number in a pixel."""

    def __init__(self, folder, blind=(), bare=False, flat=()):
        self.blind, self.bare, self.flat = blind, bare, flat
        self.five, self.off, self.batches = [], [], []
        rng = np.random.default_rng(11)
        for person in PERSONS:
            texture = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
            for number in range(1, PHOTOS + 1):
                turn, scale = rng.uniform(-25, 25), rng.uniform(0.8, 1.1)
                matrix = rotation_matrix_about((56, 56), turn, scale)
                matrix[:, 2] += (SIDE / 2 - 56) + rng.uniform(-8, 8, 2)
                photo = warp_image(texture, matrix, (SIDE, SIDE))
                photo[0, 0] = len(self.five)
                path = folder / person / f"{person}_{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_image(path, photo)
                self.five.append(warp_points(matrix, ARCFACE_TEMPLATE_112))
                # Badly placed: as if the face were turned by a quarter or more.
                wrong = rotation_matrix_about((SIDE / 2, SIDE / 2), rng.uniform(90, 270))
                self.off.append(warp_points(wrong, self.five[-1]))
        (folder / "pairs.txt").write_text(PAIRS)

    def analyzer(self, images):
        """The surest face is not the one in the middle."""
        self.batches.append(len(images))
        every = []
        for image in images:
            i = int(image[0, 0, 0])
            five = np.stack([self.off[i] - 70, np.full((5, 2), 9.0) if i in self.flat else self.off[i]])
            middle = self.five[i].mean(axis=0)
            boxes = np.array([[0, 0, 40, 40], [*(middle - 50), *(middle + 50)]])
            every.append(
                Faces.empty(image.shape[:2])
                if i in self.blind
                else Faces(boxes, [0.99, 0.6], None if self.bare else five, size_hw=image.shape[:2])
            )
        return every

    def predictor(self, images, faces):
        results = []
        for image, found in zip(images, faces):
            assert len(found) < 2
            if len(found):
                assert found.scores[0] == np.float32(0.6)
            five = np.stack([self.five[int(image[0, 0, 0])]] * len(found)) if len(found) else np.zeros((0, 5, 2))
            results.append(found.with_(landmarks=dense_of(five), scheme="68"))
        return results


def run(script, monkeypatch, folder, embedding, *words, **options):
    """The result of the script in a world with these options."""
    module, world = script("verify_alignment"), World(folder, **options)
    monkeypatch.setattr(module, "build", lambda args: (world.analyzer, world.predictor))
    out = folder / "out" / "result.json"
    command = ["--pairs", folder / "pairs.txt", "--images", folder, "--embedding", embedding, "--json", out, *words]
    assert module.main([*map(str, command), "--detector", "d", "--landmarks", "l"]) == 0
    return json.loads(out.read_text()), world


def test_points_that_are_right_verify_better_than_points_that_are_not(script, monkeypatch, tmp_path, embedding, capsys):
    result, world = run(script, monkeypatch, tmp_path, embedding)
    assert result["dense_points"]["accuracy"] == 1
    assert result["dense_points"]["std"] == 0
    assert result["detector_points"]["accuracy"] < 0.9
    assert result["difference"] == pytest.approx(1 - result["detector_points"]["accuracy"], abs=1e-5)
    assert (result["pairs"], result["pairs_missed"], result["faces_not_found"]) == (12, 0, 0)
    assert (result["detector"], result["landmarks"], result["embedding"]) == ("d", "l", "pooling.onnx")
    assert result["photos"] == sum(world.batches) == 14  # all that the pairs name, each once
    assert {"date", "command", "versions", "machine"} <= set(result)
    assert str(tmp_path) not in json.dumps(result)
    printed = capsys.readouterr().out
    assert "100.00  0.00" in printed
    assert "five points out of the dense landmarks" in printed


def test_equal_points_give_no_difference(script, monkeypatch, tmp_path, embedding):
    monkeypatch.setattr(World, "predictor", lambda self, images, faces: faces)  # alignment_points are the detector's
    result, _ = run(script, monkeypatch, tmp_path, embedding)
    assert result["difference"] == 0
    assert result["detector_points"] == result["dense_points"]


def test_pairs_with_a_face_that_is_not_found_count_as_wrong(script, monkeypatch, tmp_path, embedding, capsys):
    result, _ = run(script, monkeypatch, tmp_path, embedding, blind=[0])  # Ann 1, in two pairs of the first fold
    assert (result["faces_not_found"], result["pairs_missed"]) == (1, 2)
    assert result["dense_points"]["fold_accuracies"] == pytest.approx([4 / 6, 1], abs=1e-5)
    assert result["dense_points"]["accuracy"] == pytest.approx(5 / 6, abs=1e-5)
    assert "1 photos without a face; the 2 pairs" in capsys.readouterr().out


def test_points_in_one_place_are_a_face_not_found(script, monkeypatch, tmp_path, embedding):
    result, _ = run(script, monkeypatch, tmp_path, embedding, flat=[0])
    assert (result["faces_not_found"], result["pairs_missed"]) == (1, 2)


def test_a_detector_without_five_points_is_refused(script, monkeypatch, tmp_path, embedding):
    with pytest.raises(InputError, match="expected a detector that gives five points"):
        run(script, monkeypatch, tmp_path, embedding, bare=True)


def test_a_photo_that_is_not_there_is_named(script, monkeypatch, tmp_path, embedding):
    world = World(tmp_path)
    (tmp_path / "Cy" / "Cy_0003.png").unlink()
    module = script("verify_alignment")
    monkeypatch.setattr(module, "build", lambda args: (world.analyzer, world.predictor))
    words = ["--pairs", tmp_path / "pairs.txt", "--images", tmp_path, "--embedding", embedding]
    with pytest.raises(DataError, match=r"Cy_0003\.jpg: no such photo \(nor \.jpeg or \.png\)"):
        module.main([*map(str, words), "--detector", "d", "--landmarks", "l"])


def test_names_with_dots_find_their_photos(script, tmp_path):
    path = tmp_path / "Bo_B." / "Bo_B._0012.jpg"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert script("verify_alignment").photo_path(str(tmp_path), "Bo_B.", 12) == path


def test_the_face_in_the_middle_is_taken(script):
    module = script("verify_alignment")
    faces = Faces([[0, 0, 90, 90], [95, 40, 105, 60], [90, 90, 200, 100]], [0.9, 0.1, 0.8], size_hw=(100, 200))
    assert module.centre_face(faces).boxes.tolist() == [[95, 40, 105, 60]]
    assert len(module.centre_face(Faces.empty((100, 200)))) == 0


def test_crops_are_aligned_by_either_points(script):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (20, 20, 3), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    true = warp_points(rotation_matrix_about((56, 56), 20), ARCFACE_TEMPLATE_112)[None] + 40
    detected = Faces([[0, 0, 9, 9]], [1], true + 3, size_hw=(SIDE, SIDE))
    refined = detected.with_(landmarks=dense_of(true), scheme="68")
    crops = script("verify_alignment").crops_of(image, detected, refined, 112)
    for crop, five in zip(crops, (true[0] + 3, true[0])):
        assert crop.shape == (112, 112, 3)
        matrix = invert_affine(similarity_transform(five, ARCFACE_TEMPLATE_112))
        x, y = (warp_points(matrix, np.array([60.5, 40.5])) - 0.5).round().astype(int)
        assert np.abs(crop[40, 60].astype(int) - image[y, x]).max() < 25
    assert not np.array_equal(*crops)


# The embedding


@pytest.mark.parametrize("bgr", [False, True])
def test_crops_are_normalised_as_the_flags_say(script, embedding, bgr):
    embed = script("verify_alignment").OnnxEmbedding(str(embedding), 112, [100, 50, 0], [50, 100, 200], bgr)
    crop = np.empty((112, 112, 3), np.uint8)
    crop[...] = (200, 150, 100)
    expected = [0, 1, 1] if bgr else [2, 1, 0.5]  # 49 cells a colour
    vector = embed(crop)
    assert vector == pytest.approx(np.repeat(expected, 49) / np.linalg.norm(np.repeat(expected, 49)), abs=1e-6)


def test_an_embedding_tells_where_colours_are(script, embedding):
    embed = script("verify_alignment").OnnxEmbedding(str(embedding), 112, [0], [1])
    crop = np.zeros((112, 112, 3), np.uint8)
    crop[16:32, 32:48, 0] = 255  # cell (1, 2) of 7x7, red
    vector = embed(crop)
    assert np.flatnonzero(vector > 0.5).tolist() == [1 * 7 + 2]


def test_a_file_that_is_no_embedding_is_refused(script, embedding, tmp_path):
    module = script("verify_alignment")
    with pytest.raises(WeightsError, match=r"none\.onnx: no such file"):
        module.OnnxEmbedding(str(tmp_path / "none.onnx"), 112, [0], [1])
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model at all")
    with pytest.raises(WeightsError, match=r"bad\.onnx: OpenCV cannot read"):
        module.OnnxEmbedding(str(bad), 112, [0], [1])
    embed = module.OnnxEmbedding(str(embedding), 112, [0], [1])
    with pytest.raises(WeightsError, match="the embedding of a crop has the length 0"):
        embed(np.zeros((112, 112, 3), np.uint8))


@pytest.mark.parametrize(
    "words", [["--mean", "1", "2"], ["--std", "0"], ["--input-size", "0"], ["--rgb", "--bgr"], ["--flip", "both"]]
)
def test_a_command_line_that_means_nothing_is_refused(script, words):
    needed = ["--pairs", "p", "--images", "i", "--embedding", "e", "--detector", "d", "--landmarks", "l"]
    with pytest.raises(SystemExit) as refused:
        script("verify_alignment").main([*needed, *words])
    assert refused.value.code == 2


def test_the_nets_are_those_of_the_flags(script, monkeypatch):
    module, made = script("verify_alignment"), []
    for name in ("FaceAnalyzer", "LandmarkPredictor"):
        monkeypatch.setattr(module, name, lambda net, **options: made.append((net, options)))
    module.build(SimpleNamespace(detector="d", landmarks="l", root="r", flip="none"))
    assert made == [("d", {"root": "r", "batch_size": 16}), ("l", {"flip": "none", "root": "r"})]
