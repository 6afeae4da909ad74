"""Rows of MaskFace's table are runs that can be made, and differ only beyond the seeds' spread."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.errors import DataError
from gluonface.image import save_image
from gluonface.model_zoo import model_facts
from gluonface.model_zoo.maskface import maskface

ROOT = Path(__file__).parents[2]
MODEL = "maskface_mobilenet0.25_fc26"


@pytest.fixture
def module(script):
    return script("ablate_maskface")


def measured_as(ap50=0.9, nme=0.05, nme5=0.04, epochs=6, **changes):
    """What a row's test gives."""
    figures = {"epochs": epochs, "seconds": 600.0, "ap50": ap50, "ap": 0.5, "recall_at_1fppi": 0.8}
    return {**figures, "nme": nme, "auc": 0.4, "nme5": nme5, "missed": 1, **changes}


def words_of(out, *more, flags=("--train", "x.jsonl")):
    return [*map(str, ("--out", out, "--det-val", "d.jsonl", "--points-val", "p.jsonl", *more)), "--", *flags]


def test_every_row_is_a_run_of_the_training_script_and_a_net(module):
    help_text = subprocess.run(
        [sys.executable, ROOT / "train" / "train_maskface.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    args = module.parse_args(words_of("o", "--channels", "32"))
    for row in module.ROWS:
        for flag in module.flags_of(args, row, 1):
            assert not flag.startswith("--") or flag.split("=")[0] in help_text
        maskface(model_facts(args.model), **row.options)
    for flag in module.OWN_FLAGS:
        assert flag in help_text
    assert len({row.folder for row in module.ROWS}) == len({row.label for row in module.ROWS}) == len(module.ROWS)


def test_a_row_measures_the_net_that_its_run_trains(module):
    import importlib.util

    spec = importlib.util.spec_from_file_location("train_maskface", ROOT / "train" / "train_maskface.py")
    training = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(training)
    args = module.parse_args(
        words_of("o", "--roi-scale", "1.25", flags=("--max-proposals", "4", "--train", "x", "--val-points=v"))
    )
    for row in module.ROWS:
        flags = training.parse_args(module.flags_of(args, row, 1))
        assert flags.train == "x" and flags.max_proposals == (4 if flags.keypoints else 16)
        assert flags.val_points == ("v" if flags.keypoints else None)
        given = {name: getattr(flags, name) for name in ("context", "keypoints", "k0")}
        assert given == {"context": True, "keypoints": True, "k0": 3, **row.options}
        assert flags.roi_scale == (1.25 if flags.keypoints else 1)
        assert flags.phase == "both" and flags.start == args.start


def test_the_paper_of_each_k0_is_that_of_section_44(module):
    assert {row.folder: row.paper for row in module.ROWS if row.paper} == {"maskface": 1.54, "k0-4": 1.57, "k0-5": 1.64}


def test_what_the_user_passes_on_wins_over_the_schedule_and_not_over_the_row(module):
    args = module.parse_args(words_of("o", "--epochs", "4", flags=("--train", "x", "--lr-mode=step")))
    flags = module.flags_of(args, module.ROWS[1], 7)
    assert flags.index("--lr-mode=cosine") < flags.index("--lr-mode=step") < flags.index("--k0=2")
    assert {"--epochs=4", "--seed=7", f"--model={MODEL}", "--start=retinaface_mobilenet0.25_mask"} <= set(flags)
    assert not any(flag.startswith("--channels") for flag in flags)


@pytest.mark.parametrize(
    ("more", "flags", "words"),
    [
        ((), ("--train", "x", "--no-context"), "--no-context: the rows say that"),
        ((), ("--train", "x", "--lambda-kp", "1"), "--lambda-kp: the rows say that"),
        (
            ("--rows", "nokeypoints"),
            ("--train", "x", "--val-points", "v"),
            "--val-points: does nothing for the rows nokeypoints",
        ),
        ((), (), "give the data after --, as train/train_maskface.py"),
        (("--start", "w.params"), ("--train", "x"), "'w.params' is no model with weights"),
        (("--minutes", "0"), ("--train", "x"), "--minutes above 0"),
    ],
)
def test_arguments_that_would_make_rows_unlike_are_refused(module, capsys, more, flags, words):
    with pytest.raises(SystemExit):
        module.parse_args(words_of("o", *more, flags=flags))
    assert words in capsys.readouterr().err


def test_runs_are_made_once_and_one_that_fails_leaves_the_others(module, tmp_path, pretend, capsys, save_run):
    made = pretend(module, measured_as, fails="k0")
    save_run(tmp_path / "maskface-seed1", done=6, wanted=6, seconds=600)
    save_run(tmp_path / "nocontext-seed1", done=2, wanted=6, seconds=600)
    out = tmp_path / "maskface.json"
    rows = ("maskface", "k0-4", "nocontext")
    assert module.main(words_of(tmp_path, "--rows", *rows, "--seeds", "1", "--json", out)) == 1
    assert made == [
        ("train_maskface.py", "k0-4-seed1", "--max-minutes=30.00"),
        ("train_maskface.py", "nocontext-seed1", "--max-minutes=20.00"),
    ]
    assert "k0 4, seed 1: it failed" in capsys.readouterr().err
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == ["maskface", "nocontext"]


def summary(module, measured, rows):
    common = {
        "model": MODEL,
        "channels": None,
        "roi_scale": 1.3,
        "points_score": 0.1,
        "start": "retinaface_mobilenet0.25_mask",
        "epochs": 6,
        "minutes": 30,
    }
    domains = {"detection": "streets", "points": "portraits"}
    rows = module.summarise(rows, [1, 2], measured, 6)
    return {**common, "seeds": [1, 2], "size": 640, "domains": domains, "rows": rows}


@pytest.fixture
def result(module):
    rows = [row for row in module.ROWS if row.folder in ("maskface", "k0-4", "nocontext", "nokeypoints")]
    each = {"maskface": (0.90, 0.91), "k0-4": (0.905, 0.915), "nocontext": (0.7, 0.71), "nokeypoints": (0.93, 0.94)}
    without = {"nme": None, "auc": None, "nme5": None, "missed": None}
    measured = {}
    for row in rows:
        for i, ap50 in enumerate(each[row.folder]):
            measured[row.label, i + 1] = measured_as(ap50, **(without if row.folder == "nokeypoints" else {}))
    return summary(module, measured, rows)


def test_rows_are_compared_with_the_net_of_the_paper_beyond_the_spread(module, result, tmp_path):
    ap = {row["name"]: row["figures"]["ap50"] for row in result["rows"]}
    assert "difference" not in ap["maskface"]
    assert ap["k0-4"]["difference"] == pytest.approx(0.005) and not ap["k0-4"]["beyond_spread"]
    assert ap["nocontext"]["difference"] == pytest.approx(-0.2) and ap["nocontext"]["beyond_spread"]
    lines = {line.split(" | ")[0][2:]: line for line in "\n".join(module.describe(result)).splitlines()}
    assert "| k0 4 | 91.00 (90.50, 91.50); +0.50, within the spread |" in lines["k0 4"]
    assert lines["k0 4"].endswith("| 1.0 | 10.0 | 1.57 |")
    assert lines["no keypoint head"].endswith("| - | - | - | - | 10.0 | - |")
    module.plot(str(tmp_path / "x.png"), result)
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_a_row_that_misses_the_hard_faces_is_worse_by_the_auc_however_small_its_error(module):
    rows = [row for row in module.ROWS if row.folder in ("maskface", "k0-4")]
    measured = {}
    for seed in (1, 2):
        measured[rows[0].label, seed] = measured_as(nme=0.05 + seed / 1e4, auc=0.4 + seed / 1e3, missed=1)
        measured[rows[1].label, seed] = measured_as(nme=0.03 + seed / 1e4, auc=0.3 + seed / 1e3, missed=40)
    _, other = module.summarise(rows, [1, 2], measured, 6)
    assert other["figures"]["nme"]["difference"] == pytest.approx(-0.02)
    assert other["figures"]["auc"]["difference"] == pytest.approx(-0.1) and other["figures"]["auc"]["beyond_spread"]
    text = "\n".join(module.describe(summary(module, measured, rows)))
    assert "| dense landmarks: AUC over all faces, % |" in text
    assert "| 30.15 (30.10, 30.20); -10.00 |" in text


def test_the_documents_show_the_table_where_there_is_a_result_and_nothing_where_there_is_none(
    module, result, script, tmp_path
):
    tables = script("make_tables")
    (tmp_path / "ablation").mkdir()
    assert tables.ablation_maskface_table([], tables.Results.read(tmp_path), None) == ""
    (tmp_path / "ablation" / "maskface.json").write_text(json.dumps(result))
    results = tables.Results.read(tmp_path)
    assert "| no context modules | 70.50 (70.00, 71.00); -20.00 |" in tables.ablation_maskface_table([], results, None)
    assert results.ablation == results.ablation_kpnet == results.ablation_mos == []


@pytest.fixture
def data(tmp_path, rng):
    """Two photos with a labelled face of 68 and five points each, and one without faces."""
    (tmp_path / "images").mkdir()
    samples = []
    for name in ("a.png", "b.png", "none.png"):
        save_image(tmp_path / "images" / name, rng.integers(0, 255, (64, 96, 3), np.uint8))
        dense = rng.uniform(20, 60, (1, 68, 2)).astype(np.float32)
        five = np.array([[[30, 30], [50, 30], [40, 40], [32, 50], [48, 50]]], np.float32)
        box = np.array([[20.0, 12, 60, 60]])
        labels = FaceLabels(box, landmarks5=five, landmarks5_human=[True], landmarks=dense, scheme="68")
        labels = labels[[] if name == "none.png" else [0]]
        samples.append(FaceSample(name, (64, 96), labels, source="helen", name=name))
    write_jsonl(tmp_path / "val.jsonl", samples)
    return tmp_path / "val.jsonl"


def test_nets_that_are_there_are_measured_once_and_again_after_another_epoch(module, data, tmp_path, capsys, save_run):
    names = ("maskface", "nokeypoints")
    for row in (row for row in module.ROWS if row.folder in names):
        folder = tmp_path / "runs" / f"{row.folder}-seed1"
        save_run(folder, done=1, wanted=2, seconds=60)
        net = maskface(model_facts(MODEL), channels=8, **row.options)
        mx.random.seed(1)
        net.initialize(mx.init.Xavier())
        net.network.cls_head.bias.set_data(mx.nd.zeros(6))
        net.network(mx.nd.zeros((1, 3, 64, 64)))
        net.save_parameters(str(folder / "last.params"))
    words = (
        f"--out {tmp_path / 'runs'} --det-val {data} --points-val {data} --epochs 2 --seeds 1 --size 64 --channels 8"
    )
    words = [*words.split(), "--collect", "--rows", *names, "--json", str(tmp_path / "maskface.json")]
    assert module.main(words) == 0
    result = json.loads((tmp_path / "maskface.json").read_text())
    assert [row["name"] for row in result["rows"]] == list(names)
    assert all(row["cut_short"] and row["seconds"] == [60] for row in result["rows"])
    assert "2 photos, 2 faces" in result["domains"]["points"]
    whole, bare = (row["figures"] for row in result["rows"])
    assert 0 <= whole["ap50"]["mean"] <= 1 and 0 <= bare["ap50"]["mean"] <= 1
    assert whole["missed"]["mean"] < 2 and whole["nme"]["mean"] > 0 and whole["nme5"]["mean"] > 0
    assert 0 <= whole["auc"]["mean"] <= 1 and bare["auc"]["mean"] is None
    assert bare["missed"]["mean"] is None and bare["nme"]["mean"] is None and bare["nme5"]["mean"] is None
    folder = tmp_path / "runs" / "maskface-seed1"
    kept = json.loads((folder / "test.json").read_text())
    (folder / "test.json").write_text(json.dumps({**kept, "ap50": 0.123}))
    capsys.readouterr()
    assert module.main(words) == 0 and "12.30" in capsys.readouterr().out
    (folder / "checkpoints" / "epoch-0002").mkdir()
    assert module.main(words) == 0 and "12.30" not in capsys.readouterr().out


def test_photos_without_landmarks_are_an_error_and_so_is_nothing_to_tabulate(module, data, tmp_path):
    words = f"--out {tmp_path / 'runs'} --det-val {data} --points-val {data} --collect"
    with pytest.raises(DataError, match="no run has ended an epoch yet"):
        module.main(words.split())
    bare = FaceSample("a.png", (64, 96), FaceLabels([[16, 16, 60, 60]]), name="a.png")
    write_jsonl(tmp_path / "bare.jsonl", [bare])
    with pytest.raises(DataError, match="expected photos with dense landmarks of one scheme, got none"):
        module.main(words.replace(f"--points-val {data}", f"--points-val {tmp_path / 'bare.jsonl'}").split())
