"""Rows of KPNet's tables are runs that can be made, or measures of them, and differ only beyond the seeds' spread."""

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
from gluonface.model_zoo import get_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(script):
    return script("ablate_kpnet")


def measured_as(ap50=0.9, recall=0.95, nme5=0.04, epochs=6, **changes):
    """What a row's test gives."""
    figures = {"epochs": epochs, "seconds": 600.0, "ap50": ap50, "ap": 0.5, "recall_at_1fppi": 0.8}
    return {**figures, "recall_top100": recall, "nme5": nme5, "nme5_faces": 19, "nme5_missed": 1, **changes}


def words_of(out, *more, flags=("--train", "x.jsonl")):
    return [*map(str, ("--out", out, "--det-val", "d.jsonl", "--points-val", "p.jsonl", *more)), "--", *flags]


def test_every_row_is_a_run_of_the_training_script(module):
    help_text = subprocess.run(
        [sys.executable, ROOT / "train" / "train_kpnet.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    args = module.parse_args(words_of("o"))
    for row in module.ROWS:
        for flag in module.flags_of(args, row, 1):
            assert not flag.startswith("--") or flag.split("=")[0] in help_text
        get_model(module.model_of(args, row), head=row.head, reader=row.reader)
    for flag in module.OWN_FLAGS:
        assert flag in help_text
    assert len({row.name for row in module.ROWS}) == len({row.label for row in module.ROWS}) == len(module.ROWS)


def test_rows_without_a_run_of_their_own_measure_the_net_of_the_paper(module):
    args = module.parse_args(words_of("o"))
    own = {row.name: row for row in module.ROWS if not row.run}
    assert list(own) == ["soft", "argmax", "regression", "anchors", "tags", "hourglass"]
    lent = [row for row in module.ROWS if row.run]
    assert {(row.run, row.boxes) for row in lent} == {
        *((run, boxes) for run in ("soft", "hourglass") for boxes in ("proposals", "labelled")),
        *((run, "labelled") for run in ("argmax", "regression")),
    }
    for row in lent:
        assert module.flags_of(args, row, 1) == module.flags_of(args, own[row.run], 1)
        # Other readers are compared in the same squares.
        assert row.folder == row.run
        assert row.against == (module.LABELLED if row.run in ("argmax", "regression") else own[row.run].label)


def test_the_paper_of_each_row_is_that_of_its_tables(module):
    paper = {row.name: row.paper for row in module.ROWS}
    assert [paper[name]["at50"] for name in ("soft", "argmax", "regression")] == [91.6, 88.98, 90.86]  # Table 2
    for backbone, proposals, soft, labelled in (  # Table 3
        ("soft", (90.7, 47.3), (91.6, 81.1), (96.6, 96.6)),
        ("hourglass", (91.64, 12.52), (92.61, 80.9), (96.72, 96.72)),
    ):
        start = "" if backbone == "soft" else "hourglass-"
        names = (f"{start}proposals", backbone, f"{start}gt")
        rows = [(paper[name]["at50"], paper[name]["at1"]) for name in names]
        assert rows == [proposals, soft, labelled]
    assert [(paper[name]["at50"], paper[name]["nme"]) for name in ("anchors", "tags")] == [(75.82, 2.12), (46.96, 2.12)]


def test_what_the_user_passes_on_wins_over_the_schedule_and_not_over_the_row(module):
    args = module.parse_args(words_of("o", "--epochs", "4", flags=("--train", "x", "--lr-mode=step")))
    flags = module.flags_of(args, module.ROWS[1], 7)
    assert flags.index("--lr-mode=cosine") < flags.index("--lr-mode=step") < flags.index("--reader=argmax")
    assert {"--epochs=4", "--seed=7", "--model=kpnet_drnet_fc26", "--head=keypoints"} <= set(flags)


@pytest.mark.parametrize(
    ("more", "flags", "words"),
    [
        ((), ("--train", "x", "--seed=3"), "--seed: the rows say that"),
        ((), ("--train", "x", "--reader", "argmax"), "--reader: the rows say that"),
        ((), ("--train", "x", "--start", "w.params"), "--start: the rows say that"),
        ((), (), "give the data after --, as train/train_kpnet.py"),
        (("--dataset", "aflw"), ("--train", "x"), "invalid choice: 'aflw'"),
        (("--minutes", "0"), ("--train", "x"), "--minutes above 0"),
    ],
)
def test_arguments_that_would_make_rows_unlike_are_refused(module, capsys, more, flags, words):
    with pytest.raises(SystemExit):
        module.parse_args(words_of("o", *more, flags=flags))
    assert words in capsys.readouterr().err


@pytest.fixture
def pretended(module, pretend):
    """No run is made for real: ``hourglass`` fails, ``soft`` gets no further. A list of what was asked for."""
    return pretend(module, measured_as, fails="hourglass", stuck="soft")


def test_rows_of_one_run_make_it_once_and_fall_with_it(module, pretended, tmp_path, capsys, save_run):
    save_run(tmp_path / "soft-seed1", done=2, wanted=6, seconds=600)
    save_run(tmp_path / "hourglass-seed1", done=2, wanted=6, seconds=600)
    save_run(tmp_path / "tags-seed1", done=6, wanted=6, seconds=600)
    out = tmp_path / "kpnet.json"
    rows = ("soft", "tags", "anchors", "proposals", "gt", "hourglass", "hourglass-gt")
    assert module.main(words_of(tmp_path, "--rows", *rows, "--seeds", "1", "--json", out)) == 1
    assert pretended == [
        ("train_kpnet.py", "soft-seed1", "--max-minutes=20.00"),
        ("train_kpnet.py", "anchors-seed1", "--max-minutes=30.00"),
        ("train_kpnet.py", "hourglass-seed1", "--max-minutes=20.00"),
    ]
    printed = capsys.readouterr()
    assert "hourglass: soft-argmax, seed 1: it failed" in printed.err
    result = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(result) == ["soft", "anchors", "tags", "proposals", "gt"]
    assert [result[name]["cut_short"] for name in result] == [True, False, False, True, True]
    assert "Cut short by the 30 minutes" in printed.out and "in labelled boxes" in printed.out


def test_a_row_that_is_asked_for_alone_has_its_run_made(module, pretended, tmp_path, monkeypatch, save_run):
    monkeypatch.setattr("ablation.train", lambda script, folder, flags, limits: save_run(folder, 6, 6))
    out = tmp_path / "kpnet.json"
    assert module.main(words_of(tmp_path, "--rows", "gt", "--seeds", "1", "2", "--json", out)) == 0
    assert sorted(path.name for path in tmp_path.glob("*-seed*")) == ["soft-seed1", "soft-seed2"]
    (row,) = json.loads(out.read_text())["rows"]
    assert row["name"] == "gt" and row["compared_with"] == "" and row["run_of"] == "soft"


def summary(module, measured, rows):
    common = {"dataset": "fc26", "epochs": 6, "minutes": 30, "seeds": [1, 2], "size": 640}
    domains = {"detection": "streets", "points": "portraits"}
    return {**common, "domains": domains, "rows": module.summarise(rows, [1, 2], measured, 6)}


def test_rows_are_compared_with_the_net_of_the_paper_beyond_the_spread(module, tmp_path):
    rows = [row for row in module.ROWS if row.name in ("soft", "anchors", "tags", "gt", "hourglass", "hourglass-gt")]
    each = {"soft": (0.90, 0.91), "anchors": (0.905, 0.915), "tags": (0.7, 0.71), "gt": (0.95, 0.96)}
    each |= {"hourglass": (0.92, 0.93), "hourglass-gt": (0.92, 0.93)}
    measured = {}
    for row in rows:
        for i, ap50 in enumerate(each[row.name]):
            none = row.boxes == "labelled"
            measured[row.label, i + 1] = measured_as(ap50, None if none else 0.95, None if row.name == "tags" else 0.04)
    result = summary(module, measured, rows)
    by_name = {row["name"]: row for row in result["rows"]}
    ap = {name: row["figures"]["ap50"] for name, row in by_name.items()}
    assert "difference" not in ap["soft"]
    assert ap["anchors"]["difference"] == pytest.approx(0.005) and not ap["anchors"]["beyond_spread"]
    assert ap["tags"]["difference"] == pytest.approx(-0.2) and ap["tags"]["beyond_spread"]
    assert by_name["hourglass"]["compared_with"] == "soft-argmax" and ap["hourglass"]["beyond_spread"]
    assert by_name["hourglass-gt"]["compared_with"] == "hourglass: soft-argmax"
    assert ap["hourglass-gt"]["difference"] == 0 and not ap["hourglass-gt"]["beyond_spread"]
    lines = {line.split(" | ")[0][2:]: line for line in "\n".join(module.describe(result)).splitlines()}
    assert "| anchors | 91.00 (90.50, 91.50); +0.50, within the spread |" in lines["anchors"]
    assert lines["anchors"].endswith("| 1.0 | 10.0 | - | 75.82 | - | 2.12 |")
    assert "70.50 (70.00, 71.00); -20.00 |" in lines["tags"] and lines["tags"].endswith("| - | 46.96 | - | 2.12 |")
    assert lines["in labelled boxes"].endswith("| 1.0 | - | - | 96.60 | 96.60 | - |")
    single = {key: figures for key, figures in measured.items() if key[1] == 1}
    assert "| 90.50 (90.50); +0.50, one seed |" in "\n".join(module.describe(summary(module, single, rows)))
    module.plot(str(tmp_path / "x.png"), result)
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_the_documents_show_the_table_where_there_is_a_result_and_nothing_where_there_is_none(module, script, tmp_path):
    tables = script("make_tables")
    row = module.ROWS[0]
    result = summary(module, {(row.label, seed): measured_as() for seed in (1, 2)}, [row])
    place = tmp_path / "ablation"
    place.mkdir()
    results = tables.Results.read(tmp_path)
    assert tables.ablation_kpnet_table([], results, None) == tables.depth_table([], results, None) == ""
    (place / "kpnet.json").write_text(json.dumps(result))
    results = tables.Results.read(tmp_path)
    assert "| soft-argmax | 90.00 (90.00, 90.00) |" in tables.ablation_kpnet_table([], results, None)
    assert results.ablation == results.ablation_mos == results.depth == []


@pytest.fixture
def data(tmp_path, rng):
    """Two photos with a labelled face each, one of them with an ignore region, and one without faces."""
    samples = []
    for name in ("a.png", "b.png", "none.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        save_image(tmp_path / "images" / name, rng.integers(0, 255, (64, 96, 3), np.uint8))
        points = np.array([[30, 30], [50, 30], [40, 40], [32, 50], [48, 50]], np.float32)
        boxes, known = np.array([[20.0, 12, 60, 60], [70, 5, 80, 20]]), np.full((2, 5, 2), np.nan, np.float32)
        known[0] = points
        labels = FaceLabels(boxes, ignore=[False, True], landmarks5=known, landmarks5_human=[True, False])
        labels = labels[{"a.png": [0], "b.png": [0, 1], "none.png": []}[name]]
        samples.append(FaceSample(name, (64, 96), labels, source="helen", name=name))
    write_jsonl(tmp_path / "val.jsonl", samples)
    return tmp_path / "val.jsonl"


def saved_net(folder, row, dataset="fc26"):
    net = get_model(f"kpnet_{row.backbone}_{dataset}", head=row.head, reader=row.reader)
    mx.random.seed(1)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    if hasattr(net.network, "scale_head"):
        net.network.scale_head.bias.set_data(mx.nd.zeros(60))  # many proposals
    net.save_parameters(str(folder / "last.params"))


def test_every_row_measures_a_net_that_is_there_once_and_again_after_another_epoch(
    module, data, tmp_path, capsys, save_run
):
    rows = [row for row in module.ROWS if row.backbone == "drnet"]
    for row in rows:
        folder = tmp_path / "runs" / f"{row.folder}-seed1"
        save_run(folder, done=1, wanted=2, seconds=60)
        saved_net(folder, row)
    words = f"--out {tmp_path / 'runs'} --det-val {data} --points-val {data} --epochs 2 --seeds 1 --size 64 --collect"
    words = [*words.split(), "--json", str(tmp_path / "kpnet.json")]
    assert module.main(words) == 0
    result = json.loads((tmp_path / "kpnet.json").read_text())
    assert [row["name"] for row in result["rows"]] == [row.name for row in rows]
    assert all(row["cut_short"] and row["seconds"] == [60] for row in result["rows"])
    assert "2 photos, 2 faces" in result["domains"]["points"]
    figures = {row["name"]: row["figures"] for row in result["rows"]}
    assert figures["gt"]["recall_top100"]["values"] == [None]
    # 100 scattered proposals need not find a face, but points and proposals of one net propose the same.
    assert figures["soft"]["recall_top100"] == figures["proposals"]["recall_top100"]
    assert all(0 <= figures[name]["recall_top100"]["mean"] <= 1 for name in figures if not name.endswith("gt"))
    folder = tmp_path / "runs" / "soft-seed1"
    assert {path.name for path in folder.glob("test-*")} == {"test-soft.json", "test-proposals.json", "test-gt.json"}
    # In labelled boxes no face is missed, wherever its points are.
    for name in ("gt", "argmax-gt", "regression-gt"):
        assert figures[name]["nme5_missed"]["mean"] == 0 and figures[name]["nme5"]["mean"] > 0
    assert result["scoring"] == "proposal"
    kept = json.loads((folder / "test-gt.json").read_text())
    (folder / "test-gt.json").write_text(json.dumps({**kept, "ap50": 0.123}))
    words += ["--rows", "gt"]
    assert module.main(words) == 0 and "12.30" in capsys.readouterr().out
    (folder / "checkpoints" / "epoch-0002").mkdir()
    assert module.main(words) == 0 and "12.30" not in capsys.readouterr().out


def test_points_are_looked_for_in_the_labelled_boxes(module, data, tmp_path):
    row = next(row for row in module.ROWS if row.name == "gt")
    saved_net(tmp_path, row)
    args = module.parse_args([*f"--out o --det-val {data} --points-val {data} --size 96 --collect".split()])
    test = module.Test(args)
    net = test.net(row, tmp_path / "last.params", "points")
    a, b, none = (module.find_in_labelled(net, sample, 96) for sample in test.crowd)
    assert len(a) == len(b) == 1 and len(none) == 0
    # Of a response that is nearly flat the mean is the middle of the square about the box (20, 12, 60, 60).
    flat = get_model("kpnet_drnet_fc26")
    flat.load_parameters(str(tmp_path / "last.params"))
    flat.network.response_head.weight.set_data(mx.nd.zeros(flat.network.response_head.weight.shape))
    found = module.find_in_labelled(flat, test.crowd[1], 96)
    np.testing.assert_allclose(found.landmarks5[0], np.full((5, 2), (40, 36)), atol=0.51)


def test_points_in_labelled_boxes_are_compared_with_their_own_labels_whatever_box_they_give(module, data, tmp_path):
    row = next(row for row in module.ROWS if row.name == "gt")
    saved_net(tmp_path, row)
    args = module.parse_args([*f"--out o --det-val {data} --points-val {data} --size 96 --collect".split()])
    test = module.Test(args)
    net = test.net(row, tmp_path / "last.params", "points")
    net.network.response_head.weight.set_data(mx.nd.zeros(net.network.response_head.weight.shape))
    # All points in the middle of the square, (40, 36): a box without area, which matches nothing.
    found = module.errors_in_labelled(net, test.pointed, 96)
    assert found["nme5_faces"] == 2 and found["nme5_missed"] == 0
    points = np.array([[30, 30], [50, 30], [40, 40], [32, 50], [48, 50]])
    error = np.linalg.norm(points - (40, 36), axis=1).mean() / np.sqrt(40 * 48)
    assert found["nme5"] == pytest.approx(error, abs=0.02)


def test_all_rows_are_scored_alike_whatever_the_facts_of_their_models_say(module, data, tmp_path, save_run):
    args = module.parse_args([*f"--out {tmp_path} --det-val {data} --points-val {data} --size 64 --collect".split()])
    test = module.Test(args)
    for row in module.ROWS:
        if row.name not in ("soft", "hourglass"):
            continue
        folder = tmp_path / f"{row.name}-seed1"
        save_run(folder, done=1, wanted=1)
        saved_net(folder, row)
        # The mean of eq. 8 would look at peaks.
        assert test.net(row, folder / "last.params", "points").peaks is None
        kept = {"epochs": 1, "size": 64, "domains": test.domains, "ap50": 0.123}
        (folder / f"test-{row.name}.json").write_text(json.dumps(kept))
        # What was kept holds where the model's own scoring is the one that all rows have.
        same = module.model_facts(module.model_of(args, row)).scoring == module.SCORING
        assert (test(row, folder)["ap50"] == 0.123) == same


def test_the_table_says_what_rows_are_not_alike_in(module):
    rows = [row for row in module.ROWS if row.name in ("soft", "anchors", "gt")]
    measured = {(row.label, seed): measured_as() for row in rows for seed in (1, 2)}
    text = "\n".join(module.describe(summary(module, measured, rows)))  # a result of before
    assert "Faces of KPNet's head are scored by their proposal." in text
    assert 'The five points of "in labelled boxes" are those of the faces alone' in text
    assert "smallest anchors have sides of 22.6 pixels: faces under 10 pixels of a training crop" in text
    measured |= {(module.LABELLED, seed): measured_as(points=module.BY_LABEL) for seed in (1, 2)}
    text = "\n".join(module.describe(summary(module, measured, rows)))
    assert "compared with its own label" in text and "faces alone" not in text
    text = "\n".join(module.describe(summary(module, {(module.SOFT, 1): measured_as()}, rows[:1])))
    assert "anchors" not in text and "labelled boxes" not in text


def test_photos_without_points_are_an_error_and_so_is_nothing_to_tabulate(module, data, tmp_path):
    words = f"--out {tmp_path / 'runs'} --det-val {data} --points-val {data} --collect"
    with pytest.raises(DataError, match="no run has ended an epoch yet"):
        module.main(words.split())
    bare = FaceSample("a.png", (64, 96), FaceLabels([[16, 16, 60, 60]]), name="a.png")
    write_jsonl(tmp_path / "bare.jsonl", [bare])
    with pytest.raises(DataError, match="no face has five points set by people"):
        module.main(words.replace(f"--points-val {data}", f"--points-val {tmp_path / 'bare.jsonl'}").split())
