"""What a log of MOS holds is drawn, where it belongs."""

import json

import pytest

from gluonface.errors import DataError
from gluonface.image import load_image


@pytest.fixture
def draw(script):
    return script("draw_training")


def write_log(folder, epochs=2, fixed=False):
    folder.mkdir(parents=True)
    records = []
    for epoch in range(epochs):
        seen = {"hard views": 100.0 * epoch, "small share": 0.2 + 0.1 * epoch, "stitched": 0.5}
        seen |= {} if fixed else {f"weight of {part}": 0.1 + epoch for part in ("cls", "box", "landmark", "pose")}
        records.append({"kind": "train", "epoch": epoch, "position": epoch + 0.5, "observed": seen})
        end = {**seen, "hard views": 100.0 * (epoch + 1), "small share": None}
        records.append({"kind": "epoch", "epoch": epoch, "observed": end})
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_positions_count_epochs_that_are_done(draw, tmp_path):
    curves = draw.observed(write_log(tmp_path / "a") / "log.jsonl")
    assert curves["hard views"] == [(1, 100), (2, 200)]  # S is new when an epoch ends
    assert curves["small share"] == [(0.5, 0.2), (1.5, pytest.approx(0.3))]
    assert [position for position, _ in curves["weight of pose"]] == [0.5, 1, 1.5, 2]


@pytest.fixture
def panels(draw, monkeypatch):
    """Titles -> axes of what is drawn."""
    found = {}
    write = draw.save_figure

    def keep(drawing, path):
        found.update({axes.get_title(): axes for axes in drawing.axes})
        write(drawing, path)

    monkeypatch.setattr(draw, "save_figure", keep)
    return found


def test_three_panels_of_several_runs_are_drawn(draw, panels, tmp_path, capsys):
    write_log(tmp_path / "one")
    write_log(tmp_path / "two", epochs=3)
    out = tmp_path / "x.png"
    assert draw.main([str(tmp_path / "one"), str(tmp_path / "two" / "log.jsonl"), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out and load_image(out).std() > 10
    weights, feedback, hard = panels.values()
    assert len(weights.lines) == 8 and weights.get_yscale() == "log"
    assert weights.get_legend() is None
    named = [text.get_text().rsplit(" ", 1)[0] for text in weights.texts[:4]]
    assert named == ["class", "box", "five points", "pose"]
    assert len(feedback.lines) == 5  # two curves of each run, and T
    assert "T = 0.35" in [text.get_text() for text in feedback.get_legend().get_texts()]
    assert [text.get_text() for text in hard.get_legend().get_texts()] == ["one", "two"]
    assert list(hard.lines[1].get_xdata()) == [1, 2, 3]


def test_a_run_with_fixed_weights_is_drawn_without_them(draw, panels, tmp_path):
    write_log(tmp_path / "one", fixed=True)
    assert draw.main([str(tmp_path / "one"), "--out", str(tmp_path / "x.png"), "--threshold", ".5"]) == 0
    weights, feedback, _ = panels.values()
    assert not weights.lines and weights.texts[0].get_text() == "fixed weights"
    assert list(feedback.lines[-1].get_ydata()) == [0.5, 0.5]


def test_runs_of_one_name_are_told_apart(draw, tmp_path):
    logs = [tmp_path / part / "run" / "log.jsonl" for part in ("a", "b")]
    assert draw.names_of(logs) == ["a/run", "b/run"]


def test_logs_that_are_none_are_named(draw, tmp_path):
    with pytest.raises(DataError, match="there is no such log"):
        draw.main([str(tmp_path / "no.jsonl"), "--out", "x.png"])
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"kind": "epoch", "epoch": 0, "observed": {}}) + "\n")
    with pytest.raises(DataError, match="no observer reported anything"):
        draw.main([str(path), "--out", "x.png"])
    with pytest.raises(DataError, match="a --names for each of 1 logs, got 2"):
        draw.main([str(write_log(tmp_path / "c")), "--names", "a", "b", "--out", "x.png"])
