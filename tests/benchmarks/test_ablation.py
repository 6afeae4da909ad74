"""Runs of an ablation go on where they were, and only as the runs that they are."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from gluonface.errors import GluonFaceError


@pytest.fixture
def module(script):
    return script("ablation")


@pytest.fixture
def commands(module, monkeypatch):
    """What would be run; every command succeeds."""
    seen = []

    def pretend(command, **options):
        seen.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", pretend)
    return seen


def save_epochs(folder, done, wanted):
    for epoch in range(1, done + 1):
        (folder / "checkpoints" / f"epoch-{epoch:04d}").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"epochs": wanted}))
    (folder / "last.params").write_bytes(b"")


def test_a_run_is_finished_at_its_last_epoch_only(module, tmp_path):
    assert module.epochs_done(tmp_path) == 0 and not module.finished(tmp_path, 3)
    save_epochs(tmp_path, done=2, wanted=3)
    assert module.epochs_done(tmp_path) == 2 and not module.finished(tmp_path, 3)
    save_epochs(tmp_path, done=3, wanted=3)
    assert module.finished(tmp_path, 3) and not module.finished(tmp_path, 6)


def test_a_new_run_starts_and_a_stopped_one_is_resumed(module, commands, tmp_path):
    folder = tmp_path / "run"
    module.train("train_x.py", folder, ["--a=1"], ["--start=w"], ["--max-minutes=3"])
    assert commands[0][1].endswith("train_x.py")
    assert commands[0][2:] == ["--a=1", "--start=w", "--max-minutes=3", f"--save-prefix={folder}"]
    save_epochs(folder, done=1, wanted=3)
    module.train("train_x.py", folder, ["--a=1"], ["--start=w"], ["--max-minutes=2"])
    assert commands[1][2:] == ["--a=1", f"--resume={folder}", "--max-minutes=2", f"--save-prefix={folder}"]


def test_a_run_with_other_flags_is_not_gone_on_with(module, commands, tmp_path):
    module.train("train_x.py", tmp_path, ["--a=1"])
    module.train("train_x.py", tmp_path, ["--a=2"])  # nothing was saved yet
    save_epochs(tmp_path, done=1, wanted=3)
    with pytest.raises(GluonFaceError, match=r"other flags \(--a=2 --a=3\).*another --out"):
        module.train("train_x.py", tmp_path, ["--a=3"])
    assert len(commands) == 2


def test_a_script_that_fails_names_its_output(module, monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    with pytest.raises(GluonFaceError, match=r"train_x\.py ended with status 3: see .*out\.log"):
        module.train("train_x.py", tmp_path, [])


def test_a_figure_that_the_row_above_lacks_is_compared_with_another_row_that_the_cell_names(module):
    found = {seed: {"epochs": 3, "seconds": 1, "ap": 0.5, "nme5": 0.04 + seed / 1e4} for seed in (1, 2)}
    above = {seed: {**one, "nme5": None} for seed, one in found.items()}
    points = {seed: {**one, "ap": 0.1, "nme5": one["nme5"] + 0.01} for seed, one in found.items()}
    keys = ("ap", "nme5")
    plain = module.summary_of(keys, found, above, 3)["figures"]
    assert plain["ap"]["difference"] == 0 and "difference" not in plain["nme5"]
    given = module.summary_of(keys, found, above, 3, {"nme5": ("five points", points)})["figures"]
    assert given["ap"] == plain["ap"] and given["nme5"]["difference"] == pytest.approx(-0.01)
    assert module.cell(given["nme5"], 100, 2) == "4.02 (4.01, 4.02); -1.00 (from five points)"
    assert "from" not in module.cell(given["ap"], 100, 2)
    # A run of that row that was cut short takes its own figure alone out of the comparison.
    points[2]["epochs"] = 2
    given = module.summary_of(keys, found, above, 3, {"nme5": ("five points", points)})["figures"]
    assert given["nme5"] == plain["nme5"] and given["ap"] == plain["ap"]
    assert module.summary_of(keys, found, above, 3, {"nme5": ("five points", {})})["figures"] == plain


def test_a_difference_within_the_spread_is_none(module):
    assert not module.beyond_spread([0.06, 0.07], [0.063, 0.066])
    assert module.beyond_spread([0.0601, 0.0602], [0.063, 0.0631])
    assert not module.beyond_spread([0.06], [0.09])  # one seed says nothing
    assert module.in_words(0.5, True, 1) == "+0.5" and module.in_words(-0.5, False) == "-0.50, within the spread"
