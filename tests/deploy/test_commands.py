"""The commands of deployment, and ``detect --artefact``: arguments, what is printed, errors."""

import json
import sys
import types
from pathlib import Path

import pytest

from gluonface import cli
from gluonface.deploy import artifact, runtime
from gluonface.image import save_image


@pytest.fixture
def compiler(toy, tmp_path, monkeypatch):
    """In place of the compiler, one that writes an artefact of a library that holds nothing, larger with each shape."""
    calls = []

    def compile_model(net, out, *, sizes, batches, as_zip, say, **options):
        calls.append({"net": net, "sizes": sizes, "batches": batches, "as_zip": as_zip, **options})
        say(f"{net}: compiling")
        say("warning: not tuned: by the rule")
        pairs = [(size, size) if isinstance(size, int) else size for size in sizes or [320]]
        buckets = [(batch, pair) for pair in pairs for batch in batches]
        library = tmp_path / "library.so"
        library.write_bytes(bytes(2**20 + 2**19 * len(buckets)))
        schedules = runtime.Schedules(compiler.tuned, "8 of 9 kernels by a record")
        return artifact.write_artifact(
            out, library, toy.manifest("detection", buckets, schedules=schedules), None, as_zip
        )

    def tune_model(net, **options):
        calls.append({"net": net, **options})

    compiler = types.SimpleNamespace(compile_model=compile_model, tune_model=tune_model, calls=calls, tuned=False)
    monkeypatch.setitem(sys.modules, "gluonface.deploy.build", compiler)
    monkeypatch.chdir(tmp_path)
    return compiler


# compile


def test_compile_says_what_it_wrote_and_loudly_that_it_is_not_tuned(compiler, capsys):
    assert cli.main(["compile", "net", "--target", "x86-64-v3", "--size", "480x640", "--out", "made"]) == 0
    out, err = capsys.readouterr()
    assert Path("made/manifest.json").is_file()
    assert "1.50 MiB" in out and "b1_480x640: 1 image 640 wide and 480 high" in out
    assert "Apache-2.0. Do as you like." in out and "8 of 9 kernels by a record" in out
    assert err.count("not tuned") == 0 and err.count("WARNING: NOT TUNED") == 1
    assert "gluonface tune net --target x86-64-v3 --size 480x640 --records FILE" in err
    assert len(compiler.calls) == 1
    compiler.tuned = True
    assert cli.main(["compile", "net", "--out", "made"]) == 0
    assert "TUNED" not in capsys.readouterr().err


def test_growth_is_measured_against_the_first_shape_alone(compiler, capsys):
    assert cli.main(["compile", "net", "--size", "320", "480x640", "--batch", "1", "8", "--out", "made.zip"]) == 0
    assert "3.00 MiB with the weights, of which each shape after the first +0.50" in capsys.readouterr().out
    assert runtime.open_artifact("made.zip", check_host=False).manifest.buckets[-1].function == "b8_480x640"
    first, second = compiler.calls
    assert (first["sizes"], first["batches"], first["as_zip"]) == ([320, (480, 640)], [1, 8], True)
    assert (second["sizes"], second["batches"], second["as_zip"]) == ([(320, 320)], [1], False)


def test_options_reach_the_compiler(compiler):
    cli.main(["compile", "net", "--out", "a"])
    assert compiler.calls[-1] == {
        "net": "net",
        "sizes": None,
        "batches": [1],
        "as_zip": False,
        "target": "native",
        "records": "shipped",
        "bundle": False,
        "objects": False,
        "root": None,
        "box_style": None,
    }
    cli.main(["compile", "net", "--out", "a", "--box-style", "tight"])
    assert compiler.calls[-1]["box_style"] == "tight"
    cli.main(["compile", "net", "--out", "a", "--records", "none", "--bundle", "--target", "cortex-a72", "--root", "w"])
    assert compiler.calls[-1]["records"] is None and compiler.calls[-1]["bundle"] is True
    assert (compiler.calls[-1]["target"], compiler.calls[-1]["root"]) == ("cortex-a72", Path("w"))
    cli.main(["compile", "net", "--out", "a", "--records", "mine.json"])
    assert compiler.calls[-1]["records"] == "mine.json"


def test_without_tvm_the_extra_is_named(monkeypatch, capsys, tmp_path):
    for name in [name for name in sys.modules if name.startswith("gluonface.deploy.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tvm", None)
    for words in (f"compile net --out {tmp_path / 'a'}", "tune net --records r.json"):
        assert cli.main(words.split()) == 1
        assert 'pip install "gluonface[deploy]"' in capsys.readouterr().err


# tune


def test_options_reach_the_tuner(compiler, capsys):
    words = "tune net --target cortex-a76 --trials 64 --size 480x640 --batch 1 8 --minutes 3 --rpc board:9190 --key pi"
    assert cli.main(words.split()) == 0
    (call,) = compiler.calls
    assert call.pop("say")
    assert call == {
        "net": "net",
        "target": "cortex-a76",
        "sizes": [(480, 640)],
        "batches": [1, 8],
        "trials": 64,
        "path": Path("cortex-a76.json"),
        "rpc": ("board", 9190, "pi"),
        "minutes": 3,
        "root": None,
    }
    assert "gluonface compile net --target cortex-a76 --records cortex-a76.json" in capsys.readouterr().out


# export


def test_a_net_is_exported(tmp_path, capsys):
    for name in ("mxnet", "onnx"):
        pytest.importorskip(name)
    import onnx

    path = tmp_path / "new" / "net.onnx"
    words = f"export retinaface_mobilenet0.25_mask --onnx {path} --size 64x96 --batch 2 --raw"
    assert cli.main(words.split()) == 0
    out = capsys.readouterr().out
    assert "2 images 96 wide and 64 high" in out and "MIT." in out
    graph = onnx.load(path).graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [2, 3, 64, 96]
    assert next(output.name for output in graph.output) == "cls_preds"


def test_a_net_is_exported_with_as_many_faces_as_are_wanted(tmp_path, capsys):
    for name in ("mxnet", "onnx"):
        pytest.importorskip(name)
    import onnx

    path = tmp_path / "net.onnx"
    words = f"export retinaface_mobilenet0.25_mask --onnx {path} --size 64 --max-faces 7"
    assert cli.main(words.split()) == 0
    rows = {output.name: output.type.tensor_type.shape.dim[1].dim_value for output in onnx.load(path).graph.output}
    assert set(rows.values()) == {7} and "bboxes" in rows
    capsys.readouterr()
    for name, more in (("retinaface_mobilenet0.25_mask", "--raw"), ("heatmap_mobilenetv2_1.0_sdd_fc26", "")):
        assert cli.main(f"export {name} --onnx {path} --max-faces 7 {more}".split()) != 0
        assert "--max-faces: expected a whole detector, got" in capsys.readouterr().err


# bench


RESULT = {
    "model": "net",
    "size_hw": [480, 640],
    "batch": 1,
    "threads": 2,
    "rounds": 50,
    "machine": {"cpu": "A CPU"},
    "median_ms": {"artefact": 8.0, "ncnn": 10.0},
    "end_to_end_ms": {"artefact": 9.5},
    "ratios": {"ncnn": 0.8},
    "end_to_end_ratios": {},
    "gflops": {"artefact": 100.0, "ncnn": 80.0},
    "share_of_peak": {"artefact": 0.5},
    "max_difference": {"artefact": {"boxes": 1e-5, "one_sided": 0}},
    "artefact": {"tuned": False, "schedules": "rule"},
    "start_up": {"ms": 200.0, "peak_memory_mib": None},
}


def test_the_result_is_printed_and_written(monkeypatch, tmp_path, capsys):
    import gluonface.deploy.bench as benching

    seen = {}
    monkeypatch.setattr(benching, "bench", lambda path, **options: seen.update(path=path, **options) or RESULT)
    out = tmp_path / "new" / "result.json"
    words = f"bench made --against ncnn mxnet --threads 2 --function b1_480x640 --rounds 7 --images a.jpg --json {out}"
    assert cli.main(words.split()) == 0
    assert json.loads(out.read_text()) == RESULT
    assert seen.pop("say")
    assert seen == {
        "path": Path("made"),
        "against": ["ncnn", "mxnet"],
        "threads": 2,
        "function": "b1_480x640",
        "rounds": 7,
        "photos": ["a.jpg"],
        "seconds": 300.0,
        "root": None,
    }
    printed = capsys.readouterr().out
    assert "640 wide and 480 high, 2 threads of A CPU" in printed
    assert [line.split() for line in printed.splitlines() if line.startswith("ncnn")] == [
        ["ncnn", "10.00", "0.80", "-", "-", "80", "-"]
    ]
    assert "not tuned: rule" in printed


def test_a_device_is_measured_through_its_tracker(monkeypatch, capsys):
    import gluonface.deploy.bench as benching

    seen = {}
    result = {k: v for k, v in RESULT.items() if k not in ("max_difference", "start_up", "share_of_peak")}
    result["median_ms"] = {"artefact": 8.0}
    monkeypatch.setattr(benching, "bench_remote", lambda path, **options: seen.update(options) or result)
    assert cli.main(["bench", "made", "--rpc", "[::1]:9190", "--key", "pi", "--threads", "2"]) == 0
    assert seen == {"host": "::1", "port": 9190, "key": "pi", "function": None, "threads": 2, "rounds": 50}
    assert "artefact" in capsys.readouterr().out


def test_a_toy_is_measured_by_the_command(toys, tmp_path, capsys):
    out = tmp_path / "result.json"
    assert cli.main(["bench", str(toys / "landmarks"), "--rounds", "1", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["median_ms"].keys() == {"artefact"}
    assert "toy_landmarks, 1 image 64 wide and 64 high" in capsys.readouterr().out


# detect


def test_photos_go_through_a_compiled_detector_without_mxnet(toys, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_image("a.png", photo())
    monkeypatch.setitem(sys.modules, "mxnet", None)
    words = f"detect a.png --artefact {toys / 'detector'} --landmarks-artefact {toys / 'landmarks'} --size 96x128"
    assert cli.main([*words.split(), "--threads", "2", "--score", "0.6", "--json", "-"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["model"] == "toy_detection" and len(row["faces"]) == 2
    assert len(row["faces"][0]["landmarks"]) == 68
    assert cli.main([*words.split(), "--max-faces", "1", "--quiet", "--json", "-", "--max-pixels", "10"]) == 1
    assert "skipped a.png" in capsys.readouterr().err
    assert cli.main(["detect", "a.png", "--artefact", str(toys / "landmarks")]) == 2
    assert "is a landmark net" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("detect a.png --artefact x --model m", "--model does not go with --artefact"),
        ("detect a.png --artefact x --landmarks l", "a compiled landmark net is --landmarks-artefact"),
        ("detect a.png --artefact x --nms 0.3", "(it is compiled in)"),
        ("detect a.png --landmarks-artefact x", "--landmarks-artefact goes with --artefact"),
        ("detect a.png --threads 2", "--threads goes with --artefact"),
        ("compile net", "--out"),
        ("compile net --out a --size stored", "expected a side (640) or height x width (480x640), got 'stored'"),
        ("compile net --out a --size 1x2x3", "expected a long side"),
        ("compile net --out a --batch 0", "at least 1"),
        ("export net", "--onnx"),
        ("export net --onnx a --size auto", "expected a side"),
        ("tune net --trials 0", "at least 1"),
        ("tune net --rpc board:9190", "--rpc and --key belong together"),
        ("tune net --rpc board --key k", "expected HOST:PORT"),
        ("tune net --minutes -1", "a number above 0"),
        ("bench a --key k", "--rpc and --key belong together"),
        ("bench a --rpc b:1 --key k --against mxnet", "no --against"),
        ("bench a --threads 0", "at least 1"),
    ],
)
def test_a_wrong_command_line_is_exit_status_2(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    try:
        status = cli.main(words.split())
    except SystemExit as exit:  # argparse leaves this way
        status = exit.code
    assert status == 2
    assert says in capsys.readouterr().err


def test_what_is_no_artefact_is_exit_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_image("a.png", runtime.aligned_empty((8, 8, 3)))
    for words in ("bench nothing", "detect a.png --artefact nothing"):
        assert cli.main(words.split()) == 1
        assert "nothing: expected an artefact" in capsys.readouterr().err
