"""The rows of Table 1 are runs that can be made, add up, and differ only beyond the spread of the seeds."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gluonface.data import FaceLabels, FaceSample, write_jsonl
from gluonface.errors import DataError
from gluonface.image import save_image
from gluonface.metrics import YAW_BINS
from gluonface.model_zoo import get_model

ROOT = Path(__file__).parents[2]
MODEL = "mos_mobilenet0.25_fc26"
BINS = [name for name, *_ in YAW_BINS]


@pytest.fixture
def module(script):
    return script("ablate_mos")


def measured_as(ap50=0.9, mae=3.0, nme5=0.04, epochs=6, **changes):
    """What a run's test gives."""
    return {
        "epochs": epochs,
        "size": 640,
        "seconds": 600.0,
        "ap50": ap50,
        **dict.fromkeys(("ap", "recall_at_1fppi"), 0.5),
        **dict.fromkeys(("mae", "yaw", "pitch", "roll", "mae_on_boxes"), mae),
        "missed": 1,
        "nme5": nme5,
        "mae_by_yaw": dict.fromkeys(BINS, mae),
        "nme5_by_yaw": {**dict.fromkeys(BINS, nme5), BINS[-1]: None},
        "faces_by_yaw": {**dict.fromkeys(BINS, 5), BINS[-1]: 0},
        **changes,
    }


def words_of(out, *more, flags=("--train", "x.jsonl")):
    return [*map(str, ("--out", out, "--det-val", "d.jsonl", "--pose-val", "p.jsonl", *more)), "--", *flags]


def test_every_row_is_a_run_of_the_training_script(module):
    help_text = subprocess.run(
        [sys.executable, ROOT / "train" / "train_mos.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    args = module.parse_args(words_of("o"))
    for row in module.ROWS:
        for flag in module.flags_of(args, row, 1):
            assert not flag.startswith("--") or flag.split("=")[0] in help_text
    for flag in module.OWN_FLAGS:
        assert flag in help_text
    assert len({row.folder for row in module.ROWS}) == len({row.label for row in module.ROWS}) == len(module.ROWS)


def test_rows_add_up_as_in_the_table_of_the_paper(module):
    table = [row for row in module.ROWS if row.paper]
    assert [row.above for row in table] == ["", *(row.label for row in table[:-1])]
    assert [set(b.flags) ^ set(a.flags) for a, b in itertools.pairwise(table)] == [
        {"--head=shared", "--head=stitch"},
        {"--fixed-weights"},
        {"--stitch-below=0", "--mine-every=0"},
        {"--deformable"},
    ]
    assert all(sorted(row.paper[:3], reverse=True) == list(row.paper[:3]) for row in table)
    assert [row.paper[3] for row in table] == [6.73, 6.49, 6.14, 6.09, 5.97]
    (outside,) = (row for row in module.ROWS if not row.paper)
    assert outside.above == table[-2].label and set(outside.flags) - set(table[-2].flags) == {"--pose-weight=0"}
    assert [row.with_pose for row in module.ROWS] == [True] * 5 + [False]


def test_what_the_user_passes_on_wins_over_the_schedule_and_not_over_the_row(module):
    args = module.parse_args(words_of("o", "--epochs", "4", flags=("--train", "x", "--lr-mode=step")))
    flags = module.flags_of(args, module.ROWS[0], 7)
    assert flags.index("--lr-mode=cosine") < flags.index("--lr-mode=step") < flags.index("--head=shared")
    assert {"--epochs=4", "--seed=7", f"--model={MODEL}"} <= set(flags)


@pytest.mark.parametrize(
    ("more", "flags", "words"),
    [
        ((), ("--train", "x", "--seed=3"), "--seed: the rows say that"),
        ((), ("--train", "x", "--head", "shared"), "--head: the rows say that"),
        ((), (), "give the data after --"),
        (("--start", "runs/a.params"), ("--train", "x"), "is no model with weights"),
        (("--minutes", "0"), ("--train", "x"), "--minutes above 0"),
    ],
)
def test_arguments_that_would_make_rows_unlike_are_refused(module, capsys, more, flags, words):
    with pytest.raises(SystemExit):
        module.parse_args(words_of("o", *more, flags=flags))
    assert words in capsys.readouterr().err


@pytest.fixture
def pretended(module, pretend):
    """No run is made for real: the row ``uml`` fails, ``dcn`` gets no further. A list of what was asked for."""
    return pretend(module, measured_as, domains=("detection", "pose"), fails="uml", stuck="dcn")


def test_what_is_done_is_skipped_and_a_run_gets_the_time_that_it_has_left(
    module, pretended, tmp_path, capsys, save_run
):
    save_run(tmp_path / "baseline-seed1", done=6, wanted=6, seconds=600)  # done
    save_run(tmp_path / "mth-seed1", done=2, wanted=6, seconds=600)  # stopped after ten minutes
    save_run(tmp_path / "dcn-seed1", done=5, wanted=6, seconds=1799.9)  # its time is up
    save_run(tmp_path / "dcn-seed2", done=5, wanted=6, seconds=1801)
    out = tmp_path / "mos.json"
    rows = ("--rows", "baseline", "mth", "uml", "dcn", "--minutes", "30", "--json", out)
    assert module.main(words_of(tmp_path, *rows, "--seeds", "1", "2")) == 1  # one row failed
    assert [asked[1:] for asked in pretended] == [
        ("mth-seed1", "--max-minutes=20.00"),
        ("uml-seed1", "--max-minutes=30.00"),
        ("dcn-seed1", "--max-minutes=0.00"),
        ("baseline-seed2", "--max-minutes=30.00"),
        ("mth-seed2", "--max-minutes=30.00"),
        ("uml-seed2", "--max-minutes=30.00"),
    ]
    printed = capsys.readouterr()
    assert "+ uncertainty weights, seed 1: it failed" in printed.err
    result = {row["label"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(result) == ["baseline", "+ multi-task head", "+ deformable convolution"]
    assert result["+ deformable convolution"]["cut_short"] and result["+ deformable convolution"]["epochs"] == [5, 5]
    assert "Cut short by the 30 minutes" in printed.out


def test_runs_made_somewhere_else_are_added_to_only_where_they_are_comparable(module, pretended, tmp_path):
    out = tmp_path / "mos.json"
    once = ("--rows", "baseline", "--seeds", "1", "--json", out)
    assert module.main(words_of(tmp_path / "here", *once)) == 0
    more = ("--rows", "baseline", "mth", "--seeds", "2", "--json", out)
    assert module.main(words_of(tmp_path / "there", *more, "--add")) == 0
    result = json.loads(out.read_text())
    assert [(row["label"], row["seeds"]) for row in result["rows"]] == [
        ("baseline", [1, 2]),
        ("+ multi-task head", [2]),
    ]
    assert result["seeds"] == [1, 2]
    assert {label: list(seeds) for label, seeds in result["runs"].items()} == {
        "baseline": ["1", "2"],
        "+ multi-task head": ["2"],
    }
    other = words_of(tmp_path / "elsewhere", *more, "--add", "--threshold", ".1")
    with pytest.raises(DataError, match="--add cannot add to it, it differs in feedback"):
        module.main(other)
    assert module.main(words_of(tmp_path / "elsewhere", *more)) == 0
    assert [row["seeds"] for row in json.loads(out.read_text())["rows"]] == [[2], [2]]


def test_rows_are_compared_with_the_row_above_beyond_the_spread(module):
    rows = module.ROWS[:3]
    seeds = {rows[0].label: (0.90, 0.91), rows[1].label: (0.905, 0.915), rows[2].label: (0.95, 0.951)}
    measured = {(label, i + 1): measured_as(ap50) for label, each in seeds.items() for i, ap50 in enumerate(each)}
    result = module.summarise(rows, [1, 2], measured, 6)
    ap = [row["figures"]["ap50"] for row in result]
    assert "difference" not in ap[0]
    assert ap[1]["difference"] == pytest.approx(0.005) and not ap[1]["beyond_spread"]
    assert ap[2]["difference"] == pytest.approx(0.0405) and ap[2]["beyond_spread"]
    text = "\n".join(module.describe({**summary(module, rows, measured), "rows": result}))
    assert "91.00 (90.50, 91.50); +0.50, within the spread" in text and "95.05 (95.00, 95.10); +4.05 |" in text
    assert "89.32 / 88.45 / 80.20 | 6.73" in text and "paper" in text


def test_a_run_that_was_cut_short_is_not_compared(module):
    rows = module.ROWS[:3]
    measured = {(row.label, seed): measured_as(epochs=6) for row in rows for seed in (1, 2)}
    measured[rows[1].label, 2] = measured_as(epochs=4)
    result = module.summarise(rows, [1, 2], measured, 6)
    assert [row["cut_short"] for row in result] == [False, True, False]
    assert not any("difference" in row["figures"]["ap50"] for row in result)


def summary(module, rows, measured):
    return {
        **dict(zip(("model", "start", "epochs", "minutes", "seeds"), ("m", "s", 6, 30, [1, 2]))),
        "domains": {"detection": "streets", "pose": "portraits"},
        "runs": {label: {str(seed): {"size": 640}} for label, seed in measured},
        "rows": module.summarise(rows, [1, 2], measured, 6),
        "pose_loss": module.pose_loss(rows, [1, 2], measured, 6),
    }


def test_points_with_and_without_pose_loss_stand_side_by_side(module, tmp_path):
    rows = module.ROWS
    measured = {(row.label, seed): measured_as(nme5=0.04 + seed * 1e-4) for row in rows for seed in (1, 2)}
    for seed in (1, 2):
        without = {"nme5_by_yaw": {**dict.fromkeys(BINS, 0.04), BINS[2]: 0.05 + seed * 1e-4, BINS[-1]: None}}
        measured[rows[-1].label, seed] = measured_as(mae=None, nme5=0.041, **without)
    result = summary(module, rows, measured)
    bins = result["pose_loss"]
    assert list(bins) == ["all", *BINS]
    assert bins["all"]["faces"] == 20 and bins[BINS[-1]]["faces"] == 0
    assert bins[BINS[2]]["difference"] == pytest.approx(-0.01) and bins[BINS[2]]["beyond_spread"]
    assert "difference" not in bins[BINS[-1]]
    assert result["rows"][-1]["figures"]["mae"]["mean"] is None
    text = "\n".join(module.describe(result))
    assert f"| {BINS[2]} | 5 | 4.01, 4.02 | 5.01, 5.02 | -1.00 |" in text
    assert "online feedback, no pose loss" in text.split("Outside of the paper's table")[1]
    module.plot(str(tmp_path / "x.png"), result)
    assert (tmp_path / "x.png").stat().st_size > 10_000
    del measured[rows[-1].label, 1], measured[rows[-1].label, 2]
    assert module.pose_loss(rows, [1, 2], measured, 6) is None


@pytest.fixture
def data(tmp_path, rng):
    """Two photos with a labelled face each."""
    samples = []
    for name in ("a.png", "b.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        save_image(tmp_path / "images" / name, rng.integers(0, 255, (96, 96, 3), np.uint8))
        points = rng.uniform(20, 60, (1, 5, 2)).astype(np.float32)
        labels = FaceLabels([[16, 16, 80, 80]], landmarks5=points, landmarks5_human=[True], pose=[[20, 0, 0]])
        samples.append(FaceSample(name, (96, 96), labels, source="helen", name=name))
    write_jsonl(tmp_path / "val.jsonl", samples)
    return tmp_path / "val.jsonl"


def test_runs_that_are_there_are_measured_once_and_again_after_another_epoch(module, data, tmp_path, capsys, save_run):
    from gluonface._compat import mx

    folder = tmp_path / "runs" / "nopose-seed1"
    save_run(folder, done=1, wanted=2, seconds=60)
    net = get_model(MODEL)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(folder / "last.params"))
    words = f"--out {tmp_path / 'runs'} --det-val {data} --pose-val {data} --epochs 2 --seeds 1 --size 96 --collect"
    words = [*words.split(), "--json", str(tmp_path / "mos.json")]
    assert module.main(words) == 0
    (row,) = json.loads((tmp_path / "mos.json").read_text())["rows"]
    assert row["cut_short"] and row["seconds"] == [60] and not row["in_table"]
    assert row["figures"]["mae"]["values"] == [None] and row["figures"]["nme5"]["values"] != []
    kept = json.loads((folder / "test.json").read_text())
    assert kept["faces_by_yaw"] == {"0-15": 0, "15-30": 2, "30-45": 0, "45-60": 0, "60-99": 0}
    (folder / "test.json").write_text(json.dumps({**kept, "ap50": 0.123}))
    assert module.main(words) == 0 and "12.30" in capsys.readouterr().out
    (folder / "checkpoints" / "epoch-0002").mkdir()
    assert module.main(words) == 0 and "12.30" not in capsys.readouterr().out


def test_nothing_to_tabulate_is_an_error(module, data, tmp_path):
    words = f"--out {tmp_path / 'runs'} --det-val {data} --pose-val {data} --collect"
    with pytest.raises(DataError, match="no run has ended an epoch yet"):
        module.main(words.split())
