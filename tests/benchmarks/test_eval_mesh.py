"""eval_mesh.py on made-up detections of photos that need not be there, and with a stand-in for a landmark net."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.errors import DataError, InputError
from gluonface.faces import Faces
from gluonface.image import load_image, save_image
from gluonface.mesh import DenseMap, MeshTopology, save_topology, segment_parts, topology_468, turn_upright
from gluonface.pose import rotation_from_pose

TOPOLOGY = topology_468()
SIZE = (120, 240)
#: Pose and middle of the faces of each photo.
HEADS = {"a/one.png": [((10, 5, -4), (60, 60)), ((-40, 0, 6), (180, 60))], "two.png": [((70, -10, 0), (100, 60))]}
#: Every face has a box of 80 by 80 pixels: one pixel is 1/80 of its size.
HALF = 40


def mesh_of(pose, middle):
    turned = TOPOLOGY.canonical @ rotation_from_pose(np.array(pose, float)).T
    mesh = turn_upright(turned) * 4 + (*middle, 0)
    return (mesh - (0, 0, mesh[TOPOLOGY.nose_tip, 2])).astype(np.float32)


MESHES = {name: [mesh_of(*head) for head in heads] for name, heads in HEADS.items()}


def box_of(middle):
    return [middle[0] - HALF, middle[1] - HALF, middle[0] + HALF, middle[1] + HALF]


def write_data(folder, rows=(0, 1, 2), dense=True, **fields):
    samples, rows = [], iter(rows)
    for name, heads in HEADS.items():
        meshes = np.array(MESHES[name])
        labels = FaceLabels(
            np.array([box_of(middle) for _, middle in heads], np.float32),
            pose=[pose for pose, _ in heads],
            landmarks5=TOPOLOGY.points_of(meshes, "5")[..., :2],
            landmarks5_human=np.ones(len(heads), bool),
            landmarks=TOPOLOGY.points_of(meshes)[..., :2] if dense else None,
            scheme="68" if dense else None,
            mesh_row=[next(rows) for _ in heads],
        ).with_(**fields)
        samples.append(FaceSample(str(folder / "images" / name), SIZE, labels, source="helen", name=name))
    write_jsonl(folder / "tiny.jsonl", samples)
    return folder / "tiny.jsonl"


def detected(name, mesh=(0, 0, 0), five=(0, 0), drop=(), parts=("landmarks5", "mesh")):
    """The labelled faces of a photo, mesh and points shifted."""
    rows = [i for i in range(len(HEADS[name])) if i not in drop]
    if not rows:
        return Faces.empty(SIZE)
    meshes = np.array([MESHES[name][i] for i in rows])
    given = {"landmarks5": TOPOLOGY.points_of(meshes, "5")[..., :2] + five, "mesh": meshes + mesh}
    boxes = [box_of(HEADS[name][i][1]) for i in rows]
    return Faces(boxes, [0.9] * len(rows), size_hw=SIZE, **{part: given[part] for part in parts})


def write_detections(path, **changed):
    lines = [json.dumps(detected(name, **changed.get(name, changed)).to_dict(name, "found")) for name in HEADS]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Data, their meshes and photos."""
    write_data(tmp_path)
    np.savez(tmp_path / "meshes.npz", meshes=np.concatenate([MESHES[name] for name in HEADS]))
    for name in HEADS:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(tmp_path / "images" / name, np.full((*SIZE, 3), 90, np.uint8))
    return tmp_path


@pytest.fixture
def scored(script, folder):
    """A function: the result of made-up detections."""

    def result(*words, meshes=True, **changed):
        found = write_detections(folder / "found.jsonl", **changed)
        words = ["--detections", found, "--data", folder / "tiny.jsonl", "--json", folder / "out.json", *words]
        words += ["--meshes", folder / "meshes.npz"] if meshes else []
        assert script("eval_mesh").main([*map(str, words)]) == 0
        return json.loads((folder / "out.json").read_text())

    return result


def test_vertices_points_pose_and_parts_are_scored(scored, capsys):
    result = scored(mesh=(1.6, 0, 3), five=(0, 4))
    assert (result["model"], result["photos"], result["faces"], result["missed"]) == ("found", 2, 3, 0)
    assert result["mesh"] == {"xy": pytest.approx(0.02, abs=1e-5), "z": 0, "xyz": pytest.approx(0.02), **counts(3)}
    five = result["five"]
    assert {source: row["nme"] for source, row in five.items()} == {
        "points": pytest.approx(0.05, abs=1e-4),
        "mesh": pytest.approx(0.02, abs=1e-4),
        "labelled_mesh": pytest.approx(0, abs=1e-4),
    }
    assert five["points"]["auc"] == {"0.08": pytest.approx(0.375, abs=2e-3), "0.1": pytest.approx(0.5, abs=2e-3)}
    assert result["dense"]["mesh"]["nme"] == pytest.approx(0.02, abs=1e-4)
    assert result["dense"]["mesh, 68_common"]["nme"] > 0.021
    for way in ("mesh", "labelled_mesh"):
        assert result["pose"][way]["mae"] == pytest.approx(0, abs=0.05)
    assert {"brow", "eye", "nose", "lip"} == set(result["parts"]["joined"])
    assert 0.2 < result["parts"]["joined"]["eye"] < result["parts"]["joined"]["nose"] < 1
    printed = capsys.readouterr().out
    for words in ("vertices, % of the face's size", "five points, its points", "68 points, labelled meshes", "IoU"):
        assert words in printed


def counts(faces, missed=0):
    return {"faces": faces, "missed": missed}


def test_what_is_found_exactly_has_no_error_and_whole_parts(scored):
    result = scored()
    assert result["mesh"]["xyz"] == 0
    assert set(result["parts"]["single"].values()) | set(result["parts"]["joined"].values()) == {1.0}
    assert result["five"]["points"]["failure_rate"] == {"0.08": 0, "0.1": 0}


def test_a_failure_at_8_per_cent_may_be_none_at_10(scored):
    result = scored(five=(0, 7.2))["five"]["points"]
    assert (result["nme"], result["failure_rate"]) == (pytest.approx(0.09, abs=1e-4), {"0.08": 1, "0.1": 0})


def test_errors_are_told_by_yaw_and_the_mean_is_that_of_the_bins(scored):
    result = scored(**{"a/one.png": {"five": (4, 0)}, "two.png": {"five": (8, 0)}})
    row = result["five"]["points"]["nme_by_yaw"]
    assert [one["mean"] for one in row["by_yaw"].values()] == pytest.approx([0.05, 0.05, 0.1], abs=1e-4)
    assert row["mean"] == pytest.approx(0.2 / 3, abs=1e-4)
    assert result["pose"]["mesh"]["yaw_by_yaw"]["by_yaw"]["60-90"] == {
        "mean": pytest.approx(0, abs=0.05),
        "spread": 0,
        **counts(1),
    }


def test_a_missed_face_is_counted_and_fails(scored):
    result = scored(**{"a/one.png": {"drop": (1,), "mesh": (4, 0, 0)}, "two.png": {}})
    assert (result["missed"], result["mesh"]["missed"], result["pose"]["mesh"]["missed"]) == (1, 1, 1)
    assert result["mesh"]["xy"] == pytest.approx(0.025)
    assert result["five"]["points"]["failure_rate"]["0.1"] == pytest.approx(1 / 3, abs=1e-4)
    assert result["dense"]["mesh"]["nme_by_yaw"]["by_yaw"]["30-60"] == {"mean": None, "spread": None, **counts(1, 1)}
    assert {key: result["parts"][key] for key in ("faces", "missed")} == counts(3, 1)


def test_a_face_whose_box_is_overlapped_less_is_found_from_a_smaller_overlap_on(scored, folder, capsys):
    # Labelled boxes of 80 by 80 pixels become tight ones of 80 by 36, as of a turned face: an overlap of .45.
    lines = [json.loads(line) for line in (folder / "tiny.jsonl").read_text().splitlines()]
    x1, y1, x2, _ = lines[1]["faces"][0]["box"]
    lines[1]["faces"][0]["box"] = [x1, y1 + 44, x2, y1 + 80]
    (folder / "tiny.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = scored()
    assert (result["iou"], result["missed"], result["mesh"]["missed"]) == (0.5, 1, 1)
    assert "1 of 3 faces missed, found from an IoU of 0.5 on" in capsys.readouterr().out
    result = scored("--iou", "0.3")
    assert (result["iou"], result["missed"], result["mesh"]["missed"]) == (0.3, 0, 0)
    assert "0 of 3 faces missed, found from an IoU of 0.3 on" in capsys.readouterr().out
    assert scored("--iou", "0.46")["missed"] == 1 and scored("--iou", "1")["missed"] == 1


def test_with_a_lower_overlap_the_same_faces_are_matched_and_more(script, rng):
    module, samples, found = script("detectors"), [], []
    for faces, detections in ((6, 9), (9, 6), (0, 3), (3, 0)):
        corners = rng.uniform(0, 20, (faces + detections, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(30, 60, (len(corners), 2))], axis=1)
        samples.append(FaceSample("a.png", SIZE, FaceLabels(boxes[:faces].astype(np.float32))))
        found.append(Faces(boxes[faces:], np.linspace(0.9, 0.5, detections), size_hw=SIZE))
    ours = module.match_faces(samples, found)
    assert sum(len(one.labels) for one in ours) > 5
    for one, more in zip(ours, module.match_faces(samples, found, least_iou=0.0), strict=True):
        # What overlaps more is matched first, whatever overlap is enough; each detection is one face's.
        kept = dict(zip(more.labels.tolist(), more.faces.boxes.tolist()))
        assert {label: kept[label] for label in one.labels.tolist()} == dict(zip(one.labels, one.faces.boxes.tolist()))
        assert len(np.unique(more.faces.scores)) == len(more.labels)


def test_a_detector_without_mesh_is_scored_by_its_five_points(scored):
    result = scored(five=(0, 4), parts=("landmarks5",))
    assert result["mesh"] is result["parts"] is None
    assert set(result["five"]) == {"points", "labelled_mesh"} and set(result["pose"]) == {"labelled_mesh"}
    assert result["five"]["points"]["nme"] == pytest.approx(0.05, abs=1e-4)


def test_where_nothing_is_labelled_nothing_is_measured(script, scored, folder):
    write_data(folder, dense=False)
    result = scored(meshes=False)
    assert result["mesh"] is result["dense"] is result["parts"] is None
    assert set(result["five"]) == {"points", "mesh"} and set(result["pose"]) == {"mesh"}
    write_data(folder, rows=(0, -1, 2))
    result = scored()
    assert (result["mesh"]["faces"], result["pose"]["labelled_mesh"]["faces"]) == (2, 2)
    assert (result["five"]["labelled_mesh"]["faces"], result["five"]["mesh"]["faces"]) == (2, 3)
    text = (folder / "tiny.jsonl").read_text().replace('"human"', '"teacher"').replace('"pose"', '"other"')
    (folder / "tiny.jsonl").write_text(text.replace('"landmarks68"', '"more"'))
    with pytest.raises(DataError, match="labels nothing that found gives"):
        scored(meshes=False)


def test_ignore_regions_do_not_count(scored, folder):
    lines = [json.loads(line) for line in (folder / "tiny.jsonl").read_text().splitlines()]
    lines[0]["faces"][1]["ignore"] = True
    (folder / "tiny.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert scored()["faces"] == 2


def test_where_no_face_is_found_all_are_missed(scored):
    result = scored(drop=(0, 1))
    assert result["mesh"] == {**dict.fromkeys(("xy", "z", "xyz")), **counts(3, 3)}
    assert result["five"]["mesh"]["failure_rate"] == {"0.08": 1, "0.1": 1}
    assert result["parts"]["missed"] == 3


def test_another_kind_of_mesh_needs_its_topology(scored, folder):
    with pytest.raises(DataError, match=r"the faces on two\.png have no mesh, those on other photos do"):
        scored(**{"two.png": {"parts": ("landmarks5",)}, "a/one.png": {}})
    path = folder / "other.npz"
    save_topology(path, type(TOPOLOGY)("tiny", [[0, 1, 2]], TOPOLOGY.canonical[:5], 1))
    with pytest.raises(InputError, match=r"tiny: expected a mesh of shape \(\.\.\., 5, 3\)"):
        scored("--topology", path, meshes=False)
    save_topology(path, type(TOPOLOGY)("bare", TOPOLOGY.triangles, TOPOLOGY.canonical, 1))
    result = scored("--topology", path)  # no map to points, no parts
    assert result["topology"] == "bare" and result["mesh"]["xy"] == 0
    assert set(result["five"]) == {"points"} and result["dense"] is result["parts"] is None


@pytest.fixture
def denser(folder):
    """Flags of a map to meshes that have a vertex more in the middle of each triangle, and of their topology with the
    nose as their only part.
    """
    count, triangles = TOPOLOGY.num_vertices, TOPOLOGY.triangles
    matrix = np.zeros((count + len(triangles), count), np.float32)
    matrix[:count] = np.eye(count)
    for row, triangle in enumerate(triangles, start=count):
        matrix[row, triangle] = 1 / 3
    dense = DenseMap(matrix)
    dense.save(folder / "map.npz")
    middles = np.arange(count, len(matrix))
    split = np.concatenate([np.stack([*triangles.T[[i, (i + 1) % 3]], middles], axis=1) for i in range(3)])
    nose = np.tile(TOPOLOGY.part_triangles("nose"), 3).astype(np.uint8)
    kind = MeshTopology(
        "split", split, dense(TOPOLOGY.canonical), TOPOLOGY.nose_tip, part_names=("nose",), triangle_parts=nose
    )
    save_topology(folder / "split.npz", kind)
    return ("--dense", folder / "map.npz", "--dense-topology", folder / "split.npz")


def test_parts_are_those_of_the_denser_meshes_that_a_map_makes(scored, denser, folder, capsys):
    bare = scored(mesh=(1.6, 0, 3))
    assert bare["dense_map"] is bare["dense_topology"] is None
    result = scored(*denser, "--picture", folder / "ten.png", mesh=(1.6, 0, 3))
    assert (result["topology"], result["dense_map"], result["dense_topology"]) == ("mediapipe468", "map.npz", "split")
    assert result["parts"]["single"] == {"nose": pytest.approx(bare["parts"]["single"]["nose"], abs=0.01)}
    assert result["parts"]["joined"] is None and result["parts"]["faces"] == 3
    assert {kind: result[kind] for kind in ("mesh", "five", "dense", "pose")} == {
        kind: bare[kind] for kind in ("mesh", "five", "dense", "pose")
    }
    assert "mesh, mapped to split" in capsys.readouterr().out
    assert scored(*denser)["parts"]["single"] == {"nose": 1}


def test_a_map_that_is_of_other_meshes_or_to_ones_without_parts_is_refused(scored, denser, folder):
    own = folder / "own.npz"
    save_topology(own, TOPOLOGY)
    with pytest.raises(DataError, match=r"--dense .*map.npz: expected a matrix \(468, 468\).*, got \(1366, 468\)"):
        scored(*denser[:3], own)
    save_topology(own, MeshTopology("bare", TOPOLOGY.triangles, TOPOLOGY.canonical, 1))
    DenseMap(np.eye(468, dtype=np.float32)).save(folder / "map.npz")
    with pytest.raises(DataError, match=r"--dense-topology .*own.npz: bare names no parts"):
        scored(*denser[:3], own)
    with pytest.raises(DataError, match="found gives no meshes: there are no parts"):
        save_topology(own, TOPOLOGY)
        scored(*denser[:3], own, parts=("landmarks5",))
    (folder / "map.npz").write_text("no map")
    with pytest.raises(DataError, match=r"map.npz: cannot be read"):
        scored(*denser[:3], own)


def test_photos_that_were_trained_on_are_left_out(scored, folder, tmp_path_factory):
    trained = tmp_path_factory.mktemp("trained")
    for place in ("images/x/two.jpg", "images/y/one_more.jpg"):
        (trained / place).parent.mkdir(parents=True)
        save_image(trained / place, np.full((60, 60, 3), 20, np.uint8))
    names = ("x/two.jpg", "y/one_more.jpg")
    samples = [FaceSample(str(trained / "images" / n), (60, 60), FaceLabels.empty(), name=n) for n in names]
    write_jsonl(trained / "train.jsonl", samples)
    result = scored("--trained-on", trained / "train.jsonl")
    assert (result["photos"], result["trained_on"]) == (1, 1)
    write_jsonl(
        trained / "own.jsonl", [FaceSample(str(folder / "images" / n), SIZE, FaceLabels.empty(), name=n) for n in HEADS]
    )
    with pytest.raises(DataError, match=r"not trained on \(2 photos were\)"):
        scored("--trained-on", trained / "own.jsonl", "--trained-images", folder / "images")


def test_a_landmark_net_looks_at_the_labelled_boxes(script, scored, folder, monkeypatch):
    class Predictor:
        def __init__(self, net, root=None):
            self.net = SimpleNamespace(scheme="68")

        def from_boxes(self, images, boxes):
            assert [one.tolist() for one in boxes] == [[box_of(m) for _, m in heads] for heads in HEADS.values()]
            dense = [TOPOLOGY.points_of(np.array(meshes))[..., :2] + (0, 2) for meshes in MESHES.values()]
            return dense, None

    monkeypatch.setattr(script("eval_mesh"), "LandmarkPredictor", Predictor)
    result = scored("--crops", "some_net", drop=(0,))
    assert result["five"]["crops"]["nme"] == pytest.approx(0.025, abs=1e-4)
    assert (result["five"]["crops"]["missed"], result["five"]["points"]["missed"]) == (0, 2)
    assert result["dense"]["crops"]["nme"] == pytest.approx(0.025, abs=1e-4)
    assert result["crops"] == "some_net"


def test_ten_faces_are_drawn_from_one_side_to_the_other(script, scored, folder, monkeypatch):
    module, drawn = script("eval_mesh"), []
    face_tiles = module.face_tiles

    def kept(image, box, mesh, pose, topology, parts):
        drawn.append((pose, face_tiles(image, box, mesh, pose, topology, parts)))
        return drawn[-1][1]

    monkeypatch.setattr(module, "face_tiles", kept)
    scored("--picture", folder / "pictures" / "ten.png")
    assert load_image(folder / "pictures" / "ten.png").ndim == 3
    assert [round(pose[0]) for pose, _ in drawn] == [-40, 10, 70]
    plain, mesh, surface, axes, parts = drawn[1][1]
    # The wireframe lies where the mesh is: round the middle of the box, which is the middle of the tile.
    rows, columns = np.nonzero((mesh != plain).any(axis=2))
    outline = (MESHES["a/one.png"][0][:, :2] - (60, 60)) * 240 / (1.3 * 80) + 120
    assert [columns.min(), rows.min()] == pytest.approx(outline.min(axis=0), abs=3)
    assert [columns.max(), rows.max()] == pytest.approx(outline.max(axis=0), abs=3)
    assert all((tile != plain).any() for tile in (surface, axes, parts)) and (axes != parts).any()
    with pytest.raises(DataError, match="found gives no meshes"):
        scored("--picture", folder / "none.png", parts=("landmarks5",))
    with pytest.raises(DataError, match="there is nothing to draw"):
        scored("--picture", folder / "none.png", drop=(0, 1))


def test_parts_are_compared_with_those_that_people_drew(script, tmp_path):
    """A set of Helen's layout, its labels drawn from the mesh that is found; of another photo nothing is found."""
    mesh = MESHES["two.png"][0]
    labels = segment_parts(mesh[None], TOPOLOGY, SIZE)
    # Sides exchanged: the set does not say which is which.
    number_of = {2: 2, 1: 3, 4: 4, 3: 5, 5: 6, 6: 7, 7: 9}
    for name in ("1_1", "2_2"):
        (tmp_path / "labels" / name).mkdir(parents=True)
        (tmp_path / "images").mkdir(exist_ok=True)
        save_image(tmp_path / "images" / f"{name}.jpg", np.full((*SIZE, 3), 90, np.uint8))
        maps = np.zeros((11, *SIZE), np.uint8)
        maps[0], maps[1, 20:100, 60:140] = 100, 150
        for part, number in number_of.items():
            maps[number][labels == part] = 255
        for number, sure in enumerate(maps):
            save_image(
                tmp_path / "labels" / name / f"{name}_lbl{number:02d}.png", np.repeat(sure[..., None], 3, axis=2)
            )
    (tmp_path / "testing.txt").write_text("1 , 1_1\n2 , 2_2\n")
    found = Faces([box_of((100, 60))], [0.9], mesh=mesh[None], size_hw=SIZE)
    lines = [one.to_dict(f"images/{n}.jpg", "m") for n, one in (("1_1", found), ("2_2", Faces.empty(SIZE)))]
    (tmp_path / "found.jsonl").write_text("\n".join(map(json.dumps, lines)))
    module, out = script("eval_mesh"), tmp_path / "out.json"
    words = ["--detections", tmp_path / "found.jsonl", "--data", tmp_path, "--format", "helen_parts", "--json", out]
    assert module.main([*map(str, words)]) == 0
    result = json.loads(out.read_text())
    assert result["parts"] == {
        **counts(2, 1),
        "single": None,
        "joined": dict.fromkeys(("brow", "eye", "nose", "lip"), 1),
    }
    assert result["mesh"] is result["five"] is None


def test_the_meshes_of_a_net_are_scored_with_its_own_threshold(script, folder, monkeypatch):
    def built(args, score):
        assert score is None

        def stream(images):
            for name, image in zip(HEADS, images, strict=True):
                assert image.shape == (*SIZE, 3)
                yield detected(name, mesh=(4, 0, 0))

        return SimpleNamespace(stream=stream, score_thresh=0.5), "net"

    module = script("eval_mesh")
    monkeypatch.setattr(module, "build_analyzer", built)
    words = ["--model", "net", "--data", folder / "tiny.jsonl", "--meshes", folder / "meshes.npz", "--size", "64"]
    assert module.main([*map(str, words), "--json", str(folder / "out.json")]) == 0
    result = json.loads((folder / "out.json").read_text())
    assert (result["model"], result["size"], result["score_thresh"]) == ("net", 64, 0.5)
    assert result["mesh"] == {"xy": 0.05, "z": 0, "xyz": 0.05, **counts(3)}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--model", "m", "--detections", "f"],
        ["--detections", "f", "--score", "0.5"],
        ["--model", "m", "--flip"],
        ["--model", "m", "--multi-scale"],
        ["--model", "m", "--format", "helen_parts", "--meshes", "x"],
        ["--model", "m", "--trained-images", "x"],
        ["--model", "m", "--iou", "0"],
        ["--model", "m", "--iou", "1.1"],
        ["--model", "m", "--meshes", "x", "--dense", "m.npz"],
        ["--model", "m", "--meshes", "x", "--dense-topology", "t.npz"],
        ["--model", "m", "--dense", "m.npz", "--dense-topology", "t.npz"],
    ],
    ids=str,
)
def test_a_command_line_that_means_nothing_is_refused(script, words):
    with pytest.raises(SystemExit):
        script("eval_mesh").main([*words, "--data", "x.jsonl"])
