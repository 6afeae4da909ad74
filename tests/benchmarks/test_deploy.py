"""deploy.py measures a small job for real; what it writes fills the tables."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest

from gluonface import Faces
from gluonface.image import save_image
from gluonface.model_zoo import model_facts

MODEL = "heatmap_mobilenetv2_0.25_sssd_fc26"


@pytest.fixture
def deploy(script):
    pytest.importorskip("tvm", reason="compiling takes TVM: pip install gluonface[deploy]")
    pytest.importorskip("onnxruntime")
    return script("deploy")


@pytest.fixture
def toy():
    """The module toy.py of tests/deploy."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("toy", Path(__file__).parents[1] / "deploy" / "toy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path, rng):
    """Two photos with a labelled face each, as JSON lines."""
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(2):
        save_image(tmp_path / "images" / f"{i}.png", rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
        points = rng.uniform(30, 90, (68, 2)).round(2).tolist()
        face = {"box": [20, 20, 100, 110], "landmarks68": points}
        rows.append({"image": f"{i}.png", "width": 160, "height": 120, "source": "helen", "faces": [face]})
    path = tmp_path / "val.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def compile_toys(deploy, toy, monkeypatch):
    """Toys in place of compiled nets: fast, and in no agreement with MXNet."""

    def compile_model(model, out, *, sizes, batches, **options):
        facts = dataclasses.replace(model_facts(model), card=None)
        buckets = [(batch, size) for size in sizes for batch in batches]
        toy.write(out, facts.task, buckets, facts=facts, weights_sha256=facts.sha256)

    monkeypatch.setitem(
        __import__("sys").modules, "gluonface.deploy.build", types.SimpleNamespace(compile_model=compile_model)
    )


def test_a_net_is_compiled_measured_and_compared(deploy, toy, data, tmp_path, monkeypatch, capsys):
    compile_toys(deploy, toy, monkeypatch)
    monkeypatch.setattr(deploy.benching, "start_up", lambda folder: {"ms": 1.0, "peak_memory_mib": None})
    words = ["--model", MODEL, "--against", "onnxruntime", "mxnet", "--threads", "1", "--rounds", "1"]
    words += ["--landmarks", str(data), "--results", str(tmp_path / "results"), "--artefacts", str(tmp_path / "made")]
    picture = tmp_path / "times.png"
    assert deploy.main([*words, "--picture", str(picture)]) == 1
    printed = capsys.readouterr().out
    assert f"NOT in agreement with MXNet: {MODEL} 128x128" in printed
    result = json.loads((tmp_path / "results" / f"{MODEL}-128x128.json").read_text())
    assert result["size_hw"] == [128, 128] and result["agrees"] is False
    (one,) = result["runs"]
    assert set(one["median_ms"]) == set(one["end_to_end_ms"]) == {"artefact", "onnxruntime", "mxnet"}
    assert result["artefact"]["growth_bytes"] != 0 and result["start_up"]["ms"] > 0
    off = {name: row.get("labelled_points") for name, row in result["accuracy"].items()}
    assert off["artefact"] > 0.5 > off["onnxruntime"] and off["mxnet"] is None
    assert result["accuracy"]["mxnet"]["nme"]["helen"] == pytest.approx(
        result["accuracy"]["onnxruntime"]["nme"]["helen"], abs=1e-3
    )
    assert "2 photos, 2 faces" in result["domains"]["landmarks"]
    assert {"mxnet", "onnxruntime", "apache-tvm"} <= set(result["versions"])
    assert picture.stat().st_size > 1000
    # Compiled once.
    before = sorted(path.name for path in (tmp_path / "made").iterdir() if path.is_dir())
    assert len(before) == 2
    args = deploy.parse_args(words)
    assert deploy.compiled(MODEL, [(128, 128)], [1], args).name in before


class Fixed:
    """An engine that finds what it is told to."""

    def __init__(self, scores, shift=0.0):
        def stream(photos):
            for _ in photos:
                boxes = np.float32([[20, 20, 100, 110], [0, 0, 30, 30]])[: len(scores)] + np.float32(shift)
                yield Faces(boxes, scores, size_hw=(120, 160))

        self.stage = types.SimpleNamespace(stream=stream)


def test_agreement_is_about_faces_above_the_threshold_of_every_photo(deploy, data):
    args = types.SimpleNamespace(data=str(data), photos=None)
    facts = types.SimpleNamespace(score_thresh=0.5)

    def agreement(ours, theirs):
        figures, agree = {}, []
        domain = deploy.on_photos({"mxnet": theirs, "artefact": ours}, facts, args, figures, agree)
        assert "2 photos, 2 faces" in domain
        return figures, agree

    figures, agree = agreement(Fixed([0.9, 0.4]), Fixed([0.9, 0.1]))
    assert agree == [True] and figures["artefact"]["ap50"] == pytest.approx(1)
    assert figures["artefact"]["beside_mxnet"]["faces"] == 2 and "beside_mxnet" not in figures["mxnet"]
    figures, agree = agreement(Fixed([0.9, 0.6]), Fixed([0.9]))
    assert agree == [False]
    alone = figures["artefact"]["beside_mxnet"]["one_sided"]
    assert [(row["photo"], row["found_by"], round(row["score"], 3)) for row in alone] == [
        ("0.png", "artefact", 0.6),
        ("1.png", "artefact", 0.6),
    ]
    assert agreement(Fixed([0.9, 0.5005]), Fixed([0.9]))[1] == [True]
    assert agreement(Fixed([0.9], shift=0.7), Fixed([0.9]))[1] == [False]
    assert agreement(Fixed([0.9]), Fixed([0.91]))[1] == [False]


def test_a_change_of_weights_or_records_asks_for_another_artefact(deploy, tmp_path):
    args = deploy.parse_args([])
    first = deploy.fingerprint(MODEL, args)
    assert deploy.fingerprint("heatmap_mobilenetv2_1.0_sdd_fc26", args) != first
    args.records = "none"
    assert deploy.fingerprint(MODEL, args) != first
    args.records = str(tmp_path / "records.json")
    prints = set()
    for text in ("a", "b"):
        Path(args.records).write_text(text)
        prints.add(deploy.fingerprint(MODEL, args))
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--rounds 0", "at least 1"),
        ("--plot-only", "draws --picture"),
        ("--size stored", "no meaning"),
        ("--data x.jsonl --against onnxruntime", "leave it in --against"),
        ("--against tensorflow", "invalid choice"),
    ],
)
def test_wrong_arguments_are_named(deploy, capsys, words, says):
    with pytest.raises(SystemExit):
        deploy.parse_args(words.split())
    assert says in capsys.readouterr().err


# The tables


def result(**changes):
    beside = {"boxes": 1e-4, "points": 0.0312, "scores": 2e-6, "one_sided": []}
    one = {"threads": 1, "median_ms": {"artefact": 8.04, "ncnn": 9.0, "mxnet": 29.0}, "gflops": {"artefact": 101.4}}
    one |= {"end_to_end_ms": {"artefact": 9.96, "mxnet": 31.0}, "share_of_peak": {"artefact": 0.555}}
    return {
        "model": "net",
        "size_hw": [480, 640],
        "runs": [one],
        "artefact": {"library_bytes": 3 * 2**20, "growth_bytes": 2**19, "schedules": "45 of 45 kernels by a record"},
        "start_up": {"ms": 201.0, "peak_memory_mib": 94.2},
        "accuracy": {"mxnet": {"ap50": 0.90123}, "artefact": {"ap50": 0.90121, "beside_mxnet": beside}},
        "domains": {"data": "street photos"},
        "left_out": {"openvino_bf16": "this processor does not compute with bfloat16"},
        "machine": {"cpu": "Some CPU", "cores": 2},
        **changes,
    }


def test_results_become_tables_and_stale_ones_are_seen(script, tmp_path, capsys):
    main = script("make_tables").main
    folder = tmp_path / "benchmarks" / "results" / "deploy"
    folder.mkdir(parents=True)
    (folder / "net-480x640.json").write_text(json.dumps(result()))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- begin:deploy -->\n<!-- end:deploy -->\n")
    assert main(["--root", str(tmp_path)]) == 0
    text = readme.read_text()
    assert "| model | canvas | threads | artefact | ncnn | MXNet |" in text
    assert "| `net` | 640 wide, 480 high | 1 | 8.0 / 10.0 | 9.0 / - | 29.0 / 31.0 |" in text
    assert "| 3.00 MiB | +0.50 MiB | 201 ms | 94 MiB | 101 | 56 % | 45 of 45 kernels by a record |" in text
    assert "| artefact | .9012 | - | 0.0001 | 0.0312 | 2.0e-06 | 0 |" in text
    assert "street photos" in text and "Some CPU, 2 cores" in text
    assert "Left out: OpenVINO bf16 of `net`: this processor does not compute with bfloat16." in text
    assert main(["--root", str(tmp_path), "--check"]) == 0
    (folder / "net-480x640.json").write_text(json.dumps(result(start_up={"ms": 99.0, "peak_memory_mib": None})))
    assert main(["--root", str(tmp_path), "--check"]) == 1
    capsys.readouterr()


def test_without_results_there_is_no_table(script, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- begin:deploy -->\n<!-- end:deploy -->\n")
    assert script("make_tables").main(["--root", str(tmp_path), "--check"]) == 0
