"""The rows of RetinaFace's Table 1 are runs that can be made, and differ only beyond the spread of the seeds."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from gluonface import Faces
from gluonface._compat import mx
from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.errors import DataError
from gluonface.image import save_image
from gluonface.mesh import topology_468, turn_upright
from gluonface.metrics import match_photos
from gluonface.model_zoo import get_model

ROOT = Path(__file__).parents[2]
MODEL = "retinaface_mobilenet0.25_mesh468_fc26"


@pytest.fixture
def module(script):
    return script("ablate_retinaface")


@pytest.fixture
def training():
    """train/train_retinaface.py as a module."""
    spec = importlib.util.spec_from_file_location("train_retinaface", ROOT / "train" / "train_retinaface.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured_as(ap50=0.9, scores=(0.8, 0.4), epochs=6, **changes):
    """What a run's test gives."""
    figures = {"epochs": epochs, "seconds": 600.0, "ap50": ap50, "ap": 0.5, "recall_at_1fppi": 0.8, "missed": 1}
    figures |= {"nme5": None, "mesh": None, "depth": None, "false_positives": float(np.mean(scores))}
    return {**figures, "false_positive_scores": list(scores), **changes}


def words_of(out, *more, flags=("--train", "x.jsonl"), mesh=("--mesh", "m.npz")):
    words = ("--out", out, "--det-val", "d.jsonl", "--points-val", "p.jsonl", *mesh, *more)
    return [*map(str, words), "--", *flags]


def test_a_row_measures_the_net_that_its_run_trains(module, training):
    args = module.parse_args(words_of("o", "--topology", "t.npz"))
    for row in module.ROWS:
        flags = training.parse_args(module.flags_of(args, row, 1))
        assert (flags.deformable == "yes", not flags.no_cascade, bool(flags.mesh)) == tuple(row.net_options.values())
        assert list(row.net_options) == ["deformable", "cascade", "mesh"]
        assert (flags.landmark_weight, flags.mesh_weight) == (row.points, 1)
        assert flags.start == args.start and bool(flags.topology) == bool(row.mesh)
    weights = {row.folder: training.parse_args(module.flags_of(args, row, 1)).edge_weight for row in module.ROWS}
    assert (weights["vertices"], weights["mesh"], weights["all"]) == (0, 1, 1)
    assert len({row.folder for row in module.ROWS}) == len({row.label for row in module.ROWS}) == len(module.ROWS)


def test_every_flag_that_the_rows_keep_is_one_of_the_training_script(module, training, capsys):
    with pytest.raises(SystemExit):
        training.parse_args(["--help"])
    text = capsys.readouterr().out
    for flag in module.OWN_FLAGS:
        assert flag in text


def test_the_paper_of_each_row_is_that_of_table_1(module):
    assert [row.paper[3] for row in module.ROWS] == [52.65, 53.36, 54.20, 54.73, 54.55, 54.62, 55.02]
    assert [row.paper[2] for row in module.ROWS] == [89.875, 90.286, 90.642, 91.161, 90.983, 90.991, 91.447]
    assert all(sorted(row.paper[:3], reverse=True) == list(row.paper[:3]) for row in module.ROWS)
    gains = {row.folder: row.paper[3] - next(r.paper[3] for r in module.ROWS if r.label == row.above)
             for row in module.ROWS[1:]}  # fmt: skip
    assert gains == pytest.approx(
        {"dcn": 0.71, "cascade": 0.84, "points": 0.53, "vertices": 0.35, "mesh": 0.07, "all": 0.82}
    )


def test_rows_below_go_without_deformable_convolution_where_that_is_asked_for(module):
    args = module.parse_args(words_of("o", "--no-deformable"))
    rows = {row.folder: row for row in module.rows_of(args)}
    assert [name for name, row in rows.items() if row.deformable] == ["dcn"]
    assert rows["cascade"].above == rows["dcn"].above == module.BASELINE and rows["all"].above == module.CASCADE
    assert module.rows_of(module.parse_args(words_of("o"))) == module.ROWS


def test_what_the_user_passes_on_wins_over_the_schedule_and_not_over_the_row(module):
    args = module.parse_args(words_of("o", "--epochs", "4", flags=("--train", "x", "--lr-mode=step")))
    flags = module.flags_of(args, module.ROWS[0], 7)
    assert flags.index("--lr-mode=cosine") < flags.index("--lr-mode=step") < flags.index("--no-cascade")
    assert {"--epochs=4", "--seed=7", f"--model={MODEL}"} <= set(flags)
    assert not any(flag.startswith("--mesh") for flag in flags)


def test_flags_of_a_mesh_and_of_a_cascade_are_passed_on_to_the_rows_that_have_one(module, training):
    shared = ["--train", "x", "--crop-ratios", ".5", "1", "--batch-size=4", "-j", "0", "--val", "w"]
    of_rows = ["--mesh-weight", "0.5", "--val-mesh=v.jsonl", "--positive-iou=.6"]
    given = [*shared[:5], *of_rows[:2], *shared[5:6], *of_rows[2:], *shared[6:]]
    args = module.parse_args(words_of("o", flags=given))
    for row in module.ROWS:
        read = training.parse_args(module.flags_of(args, row, 1))
        assert (read.mesh_weight, read.val_mesh) == ((0.5, "v.jsonl") if row.mesh else (1, None))
        assert read.positive_iou == (0.6 if row.cascade else 0.7)
        assert (read.train, read.batch_size, read.num_workers, read.val) == ("x", 4, 0, "w")
        assert list(read.crop_ratios) == [0.5, 1]
    assert module.passed_on(args) == given


@pytest.mark.parametrize(
    ("more", "flags", "words"),
    [
        ((), ("--train", "x", "--edge-weight", "0"), "--edge-weight: the rows say that"),
        ((), ("--train", "x", "--mesh=m.npz"), "--mesh: the rows say that, or a flag of this script before the --"),
        ((), (), "give the data after --, as train/train_retinaface.py"),
        (("--start", "w.params"), ("--train", "x"), "'w.params' is no model with weights"),
        (("--model", "retinaface_mobilenet0.25_fc26"), ("--train", "x"), "retinaface_mobilenet0.25_fc26 has no mesh"),
        (
            ("--rows", "cascade"),
            ("--train", "x", "--mesh-weight=2"),
            "--mesh-weight: does nothing for the rows cascade",
        ),
        (
            ("--rows", "baseline"),
            ("--train", "x", "--positive-iou=.6"),
            "--positive-iou: does nothing for the rows baseline",
        ),
        ((), ("--train", "x", "--val-mesh"), "--val-mesh: expected one argument"),
    ],
)
def test_arguments_that_would_make_rows_unlike_are_refused(module, capsys, more, flags, words):
    with pytest.raises(SystemExit):
        module.parse_args(words_of("o", *more, flags=flags))
    assert words in capsys.readouterr().err


def test_rows_with_a_mesh_need_meshes_and_others_do_not(module, capsys):
    with pytest.raises(SystemExit):
        module.parse_args(words_of("o", mesh=()))
    assert "give the meshes of the rows vertices, mesh, all with --mesh" in capsys.readouterr().err
    assert module.parse_args(words_of("o", "--rows", "baseline", "points", mesh=())).mesh is None


def test_a_false_positive_is_a_box_of_no_face_and_as_many_count_as_there_are_photos(module):
    labels = FaceLabels([[0, 0, 10, 10], [50, 50, 70, 70]], ignore=[False, True])
    on_face, on_region, beside = [0, 0, 10, 10], [52, 52, 60, 60], [20, 20, 30, 30]
    first = Faces([on_face, on_region, beside], [0.95, 0.9, 0.6], size_hw=(80, 80))
    second = Faces([beside, [30, 0, 40, 10]], [0.7, 0.1], size_hw=(80, 80))
    empty = Faces(np.zeros((0, 4)), np.zeros(0), size_hw=(80, 80))
    highest = module.highest_false_positives(match_photos([first, second], [labels, labels]))
    np.testing.assert_allclose(highest, [0.7, 0.6])
    highest = module.highest_false_positives(match_photos([first, empty, empty], [labels] * 3))
    np.testing.assert_allclose(highest, [0.6, 0, 0])


def test_the_error_of_vertices_is_their_distance_in_space_over_the_size_of_the_box(module):
    mesh = np.random.default_rng(0).uniform(0, 40, (1, 5, 3)).astype(np.float32)
    mesh[:, 1, 2] = 0  # the tip of the nose
    labels = FaceLabels([[0, 0, 20, 80], [100, 100, 140, 140]], mesh=np.concatenate([mesh, np.full_like(mesh, np.nan)]))
    samples = [FaceSample("a.png", (200, 200), labels), FaceSample("b.png", (200, 200), labels[[1]].with_(mesh=None))]
    moved = np.concatenate([mesh, mesh])
    moved[:, np.arange(5) != 1] += np.array([3, 0, 4], np.float32)
    found = Faces(labels.boxes, [0.9, 0.8], mesh=moved, size_hw=(200, 200))
    scores = module.mesh_scores(samples, [found, found], 1)
    assert (scores.xyz, scores.z) == pytest.approx((0.8 * 5 / 40, 0.8 * 4 / 40))
    assert (scores.faces, scores.missed) == (1, 0)
    assert module.mesh_scores(samples, [found[[1]], found], 1).missed == 1


def test_runs_are_made_once_and_one_that_fails_leaves_the_others(module, tmp_path, pretend, capsys, save_run):
    made = pretend(module, measured_as, fails="all")
    save_run(tmp_path / "cascade-seed1", done=6, wanted=6, seconds=600)
    save_run(tmp_path / "points-seed1", done=2, wanted=6, seconds=600)
    out = tmp_path / "retinaface.json"
    rows = ("cascade", "points", "all")
    assert module.main(words_of(tmp_path, "--rows", *rows, "--seeds", "1", "--json", out)) == 1
    assert made == [
        ("train_retinaface.py", "points-seed1", "--max-minutes=20.00"),
        ("train_retinaface.py", "all-seed1", "--max-minutes=30.00"),
    ]
    assert "five points, mesh, seed 1: it failed" in capsys.readouterr().err
    result = json.loads(out.read_text())
    assert [row["name"] for row in result["rows"]] == ["cascade", "points"] and result["false_positives"] is None


def summary(module, measured):
    rows = [row for row in module.ROWS if (row.label, 1) in measured]
    common = {"model": MODEL, "start": "retinaface_mobilenet0.25_mask", "deformable": True, "epochs": 6, "minutes": 30}
    return {
        **common,
        "scoring": "mean",
        "seeds": [1, 2],
        "size": 640,
        "domains": {"detection": "streets", "points": "portraits"},
        "rows": module.summarise(rows, [1, 2], measured, 6),
        "false_positives": module.false_positives(rows, [1, 2], measured, 6),
    }


def measured_rows(module):
    each = {"cascade": (0.90, 0.91), "points": (0.905, 0.915), "vertices": (0.8, 0.81), "all": (0.95, 0.951)}
    measured = {}
    for row in (row for row in module.ROWS if row.folder in each):
        for seed, ap50 in enumerate(each[row.folder], 1):
            scores = (0.3, 0.2 + seed * 1e-3) if row.folder == "all" else (0.9, 0.6 + seed * 1e-3)
            learnt = {
                "nme5": 0.04 if row.points else None,
                **dict.fromkeys(("mesh", "depth"), 0.06 if row.mesh else None),
            }
            measured[row.label, seed] = measured_as(ap50, scores, **learnt)
    return measured


def test_rows_are_compared_with_the_row_that_they_add_to_and_false_positives_stand_side_by_side(module, tmp_path):
    measured = measured_rows(module)
    result = summary(module, measured)
    ap = {row["name"]: row["figures"]["ap50"] for row in result["rows"]}
    assert "difference" not in ap["cascade"]
    assert ap["points"]["difference"] == pytest.approx(0.005) and not ap["points"]["beyond_spread"]
    assert ap["vertices"]["difference"] == pytest.approx(-0.1) and ap["vertices"]["beyond_spread"]
    figures = result["false_positives"]["figures"]
    assert figures["highest"]["difference"] == pytest.approx(-0.6) and figures["highest"]["beyond_spread"]
    assert figures["mean"]["without"] == pytest.approx([0.7505, 0.751])
    text = "\n".join(module.describe(result))
    assert "| vertices | + cascade | 80.50 (80.00, 81.00); -10.00 |" in text
    assert "| 6.00 (6.00, 6.00) |" in text and "| 90.98" not in text and "96.51 / 95.81 / 90.98 | 54.55 |" in text
    assert "| highest | 0.900, 0.900 | 0.300 (0.300, 0.300); -0.600 |" in text and "2 highest false positives" in text
    module.plot(str(tmp_path / "x.png"), result)
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_points_and_meshes_of_the_row_with_everything_are_compared_with_the_rows_that_learn_each_alone(module):
    measured = measured_rows(module)
    for seed in (1, 2):
        meshed = dict.fromkeys(("mesh", "depth"), 0.05 + seed / 5e3)
        measured[module.MESH, seed] = measured_as(0.85, nme5=None, **meshed)
        measured[module.POINTS, seed] |= {"nme5": 0.045 + seed / 5e3}
        measured[module.ALL, seed] |= {"nme5": 0.04, "depth": 0.0503}
    rows = {row["name"]: row for row in summary(module, measured)["rows"]}
    figures = rows["all"]["figures"]
    assert rows["all"]["compared_with"] == module.CASCADE and "compared_with" not in figures["ap50"]
    assert figures["ap50"]["difference"] == pytest.approx(0.0455)
    assert figures["nme5"]["compared_with"] == module.POINTS and figures["nme5"]["beyond_spread"]
    assert figures["nme5"]["difference"] == pytest.approx(-0.0053)
    assert figures["mesh"]["compared_with"] == figures["depth"]["compared_with"] == module.MESH
    assert figures["mesh"]["difference"] == pytest.approx(0.0097)
    text = "\n".join(module.describe(summary(module, measured)))
    assert "| 4.00 (4.00, 4.00); -0.53 (from five points) |" in text
    assert "| 6.00 (6.00, 6.00); +0.97 (from mesh: vertices, edges) |" in text
    assert "5.03 (5.03, 5.03); +0.00, within the spread (from mesh: vertices, edges)" in text
    alone = {key: one for key, one in measured.items() if key[0] not in (module.POINTS, module.MESH)}
    (row,) = (row for row in summary(module, alone)["rows"] if row["name"] == "all")
    assert all("difference" not in row["figures"][key] for key in ("nme5", "mesh", "depth"))


def test_the_rows_of_single_figures_are_rows_that_have_them(module):
    labels = {row.label: row for row in module.ROWS}
    assert {key: label for row in module.ROWS for key, label in row.above_for.items()}.keys() <= set(module.COMPARED)
    for row in module.ROWS:
        learns = {"nme5": lambda r: r.points, **dict.fromkeys(("mesh", "depth"), lambda r: bool(r.mesh))}
        for key, label in row.above_for.items():
            assert learns[key](row) and learns[key](labels[label]) and not learns[key](labels[row.above])


def test_false_positives_wait_for_both_rows_and_for_whole_runs(module):
    measured = measured_rows(module)
    measured[module.ALL, 2] = measured_as(epochs=4)
    assert summary(module, measured)["false_positives"] is None
    alone = {key: one for key, one in measured.items() if key[0] != module.CASCADE}
    assert summary(module, alone)["false_positives"] is None


@pytest.fixture
def data(tmp_path, rng):
    """Two photos with a labelled face each, with five points and a mesh, and one without faces."""
    (tmp_path / "images").mkdir()
    shape = turn_upright(topology_468().canonical)
    mesh = (shape - shape.mean(axis=0)) * 40 / np.ptp(shape[:, 1]) + (40, 36, 0)
    np.savez(tmp_path / "meshes.npz", mesh468=np.float32([mesh, mesh]))
    samples = []
    for i, name in enumerate(("a.png", "b.png", "none.png")):
        save_image(tmp_path / "images" / name, rng.integers(0, 255, (64, 96, 3), np.uint8))
        five = np.array([[[30, 30], [50, 30], [40, 40], [32, 50], [48, 50]]], np.float32)
        labels = FaceLabels([[20, 12, 60, 60]], landmarks5=five, landmarks5_human=[True], mesh_row=[i])
        samples.append(FaceSample(name, (64, 96), labels[[] if name == "none.png" else [0]], name=name))
    write_jsonl(tmp_path / "val.jsonl", samples)
    return tmp_path / "val.jsonl"


def test_nets_that_are_there_are_measured_once_and_again_after_another_epoch(module, data, tmp_path, capsys, save_run):
    names = ("baseline", "all")
    words = f"--out {tmp_path / 'runs'} --det-val {data} --points-val {data} --mesh {data.parent / 'meshes.npz'}"
    words = [*f"{words} --epochs 2 --seeds 1 --size 64 --collect --no-deformable --rows".split(), *names]
    words += ["--json", str(tmp_path / "retinaface.json"), "--scoring", "first"]
    for row in (row for row in module.rows_of(module.parse_args(words)) if row.folder in names):
        folder = tmp_path / "runs" / f"{row.folder}-seed1"
        save_run(folder, done=1, wanted=2, seconds=60)
        mx.random.seed(1)
        net = get_model(MODEL, **row.net_options)
        net.initialize(mx.init.Xavier())
        net.network(mx.nd.zeros((1, 3, 64, 64)))
        net.save_parameters(str(folder / "last.params"))
    assert module.main(words) == 0
    result = json.loads((tmp_path / "retinaface.json").read_text())
    assert [row["name"] for row in result["rows"]] == list(names) and not result["deformable"]
    assert all(row["cut_short"] and row["seconds"] == [60] for row in result["rows"])
    bare, full = (row["figures"] for row in result["rows"])
    assert bare["nme5"]["values"] == bare["mesh"]["values"] == [None]
    # Boxes of random weights are about the anchors, some of which lie on the faces.
    assert full["missed"]["mean"] < 2 and full["nme5"]["mean"] > 0 and full["mesh"]["mean"] > full["depth"]["mean"] > 0
    assert 0 < full["false_positives"]["mean"] < 1
    folder = tmp_path / "runs" / "all-seed1"
    kept = json.loads((folder / "test_first.json").read_text())
    assert len(kept["false_positive_scores"]) == 3
    (folder / "test_first.json").write_text(json.dumps({**kept, "ap50": 0.123}))
    assert "scores are those of the first head." in capsys.readouterr().out
    assert module.main(words) == 0 and "12.30" in capsys.readouterr().out
    # By the other head faces are ranked anew; one head has one score.
    assert module.main([*words[:-1], "second"]) == 0
    others = [
        row["figures"]["false_positives"] for row in json.loads((tmp_path / "retinaface.json").read_text())["rows"]
    ]
    assert others[0] == bare["false_positives"] and others[1] != full["false_positives"]
    capsys.readouterr()
    (folder / "checkpoints" / "epoch-0002").mkdir()
    assert module.main(words) == 0 and "12.30" not in capsys.readouterr().out


def test_photos_without_meshes_are_an_error_and_so_is_nothing_to_tabulate(module, data, tmp_path):
    words = f"--out {tmp_path / 'runs'} --det-val {data} --points-val {data} --mesh {data.parent / 'meshes.npz'}"
    for more in (words, words.partition(" --mesh")[0] + " --rows baseline points"):
        with pytest.raises(DataError, match="no run has ended an epoch yet"):
            module.main([*more.split(), "--collect"])
    bare = FaceSample("a.png", (64, 96), FaceLabels([[16, 16, 60, 60]]), name="a.png")
    write_jsonl(tmp_path / "bare.jsonl", [bare])
    words = words.replace(f"--points-val {data}", f"--points-val {tmp_path / 'bare.jsonl'}")
    with pytest.raises(DataError, match="expected faces with meshes"):
        module.main([*words.split(), "--collect"])
