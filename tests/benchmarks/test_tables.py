"""The tables in the documents are those of the committed results."""

import json
import re

import pytest

from gluonface.errors import DataError
from gluonface.model_zoo import list_models, model_facts

NAME = list_models(task="detection", pretrained=True)[0]
LANDMARK_NAME = list_models(task="landmarks", pretrained=True)[0]
HELEN = "Helen portraits (FC26 lmk_val, 330 photos, 330 faces)"
DOMAIN = "mask street photos (FC26 det_val, 100 photos, 468 faces)"


def test_the_committed_tables_are_up_to_date(script, capsys):
    status = script("make_tables").main(["--check"])
    assert status == 0, f"{capsys.readouterr().out}run: python benchmarks/make_tables.py"


def detection(**changes):
    bins = ("under 16", "16-32", "32-96", "over 96")
    return {
        "model": NAME,
        "size": 640,
        "flip": False,
        "rotate": 0,
        "data": "det_val",
        "domain": DOMAIN,
        "ap50": 0.8765,
        "ap": 0.4,
        "recall_at_1fppi": 0.85,
        "by_size": {b: {"faces": 7, "ap50": None, "recall": 0.9, "recall_at_1fppi": 0.8} for b in bins},
        "nme5": None,
        "nme5_faces": 0,
        "nme5_missed": 0,
        **changes,
    }


def landmarks(**changes):
    return {
        "model": LANDMARK_NAME,
        "data": "lmk_val",
        "domain": HELEN,
        "norm": "interocular",
        "align": "boxes",
        "end_to_end": None,
        "flip": "points",
        "decoder": model_facts(LANDMARK_NAME).decoder,
        "nme": 0.03456,
        "nme_groups": {"jaw": 0.05, "eyes": 0.02},
        "nme_percentiles": {"90": 0.05, "95": 0.06, "99": 0.09},
        "auc": 0.6,
        "failure_rate": 0.01,
        "threshold": 0.08,
        "faces": 330,
        "missed": 0,
        **changes,
    }


def pose(**changes):
    bins = ("0-15", "15-30", "30-45", "45-60", "60-99")
    counts = {"faces": 330, "missed": 2}

    def figures(mae):
        rows = {b: {"mae": mae + i, "faces": 66} for i, b in enumerate(bins)} | {"60-99": {"mae": None, "faces": 0}}
        return {**dict.fromkeys(("mae", "yaw", "pitch", "roll", "geodesic"), mae), **counts, "by_yaw": rows}

    points = {"nme5": 0.0456, **counts, "by_yaw": {b: {"nme5": 0.05} for b in bins}}
    return {
        "model": NAME,
        "domain": HELEN,
        "size": 640,
        "flip": False,
        **figures(3.21),
        "left_out": 3,
        "constant": {"median": figures(6.7), "zero": figures(7.8)},
        "on_boxes": {**figures(3.33), "points_by_yaw": points},
        "from_points": figures(4.44),
        "from_landmarks": None,
        "points_by_yaw": None,
        **changes,
    }


def pose_time():
    ways = {"mos": 60.5, "points": 40.25, "dense": 90.0}
    runs = [
        {"engine": "mxnet", "threads": 1, "faces": 5, "median_ms": ways, "ratio": {"points": 1.5, "dense": 0.67}},
        {"engine": "artefact", "threads": 2, "faces": 5, "median_ms": {"points": 9.0}, "ratio": {}},
    ]
    return {
        "model": NAME,
        "beside": "some_retinaface",
        "landmarks": "some_landmarks",
        "weights": "shipped",
        "size_hw": [480, 640],
        "runs": runs,
        "left_out": {"artefact: MOS": "gives no pose"},
        "paper": {"mos": 10.8, "points": 7.2, "where": "MOS-S, RTX 2060"},
        "machine": {"cpu": "Some CPU", "cores": 2},
    }


def attention(script):
    module = script("attention_mos")
    row = {"iou": 0.71, "iou_10_to_90": [0.6, 0.8], "correlation": 0.9, "correlation_10_to_90": [0.85, 0.95]}
    names = [*("-".join(pair) for pair in module.PAIRS), *module.YARDSTICKS]
    pairs = {name: {**row, "iou": round(0.9 - i / 10, 2)} for i, name in enumerate(names)}
    return {"model": NAME, "domain": HELEN, "faces": 100, "missed": 1, "pairs": pairs}


def ablation_mos(script):
    module = script("ablate_mos")
    figures = {key: {"values": [0.9, 0.91], "mean": 0.905} for key in module.COMPARED}
    figures["ap50"] |= {"difference": 0.004, "beyond_spread": False}
    row = {
        "label": "+ multi-task head",
        "in_table": True,
        "cut_short": False,
        "seconds": [600, 660],
        "figures": figures,
    }
    row["paper"] = {"easy": 90.11, "medium": 89.31, "hard": 81.64, "mae": 6.49}
    common = {"start": "some_start", "epochs": 6, "minutes": 30, "seeds": [1, 2], "pose_loss": None}
    common["runs"] = {row["label"]: {"1": {"size": 640}}}
    return {"model": NAME, "domains": {"detection": DOMAIN, "pose": HELEN}, "rows": [row], **common}


@pytest.fixture
def project(tmp_path):
    """A project with results and empty tables."""
    results = tmp_path / "benchmarks" / "results"
    for kind in ("detection", "latency", "memory", "landmarks", "pose", "decode", "ablation"):
        (results / kind).mkdir(parents=True)
    (results / "detection" / f"{NAME}-det_val-640.json").write_text(json.dumps(detection()))
    turned = detection(rotate=90, domain=f"{DOMAIN}, turned by 90 degrees", ap50=0.5)
    (results / "detection" / f"{NAME}-det_val-640-rot90.json").write_text(json.dumps(turned))
    without_small = detection(ap50=0.99, min_face=10.0)  # does not stand for the model
    (results / "detection" / f"{NAME}-det_val-640-min10.json").write_text(json.dumps(without_small))
    stages = ("decode", "preprocess", "network", "postprocess", "total")
    one = {"model": NAME, "threads": 1, "batch": 1, "median_ms": dict.fromkeys(stages, 77.0)}
    one |= {"photos_per_second": 13.0, "peak_memory_mib": 300.0}
    latency = {"size": 640, "machine": {"cpu": "Some CPU", "cores": 2}, "runs": [one]}
    (results / "latency" / f"{NAME}-640.json").write_text(json.dumps(latency))
    (results / "landmarks" / f"{LANDMARK_NAME}-helen.json").write_text(json.dumps(landmarks()))
    found = {"align": "detections", "end_to_end": "some_detector", "nme": 0.036, "missed": 2, "relative": 0.031}
    (results / "landmarks" / f"{LANDMARK_NAME}-helen-found.json").write_text(json.dumps(landmarks(**found)))
    (results / "pose" / f"{NAME}-helen.json").write_text(json.dumps(pose()))
    rows = [
        {"part": "tricks", "label": "none", "nme": [0.07, 0.072], "mean": 0.071},
        {"part": "tricks", "label": "a", "nme": [0.06], "mean": 0.06, "difference": -0.011, "beyond_spread": True},
        {"part": "tricks", "label": "b", "nme": [0.07], "mean": 0.07, "difference": -0.001, "beyond_spread": False},
    ]
    ablation = {"model": "m", "rows": rows, "seeds": [1, 2], "epochs": 8, "data_shape": 96, "domain": HELEN}
    (results / "ablation" / "x.json").write_text(json.dumps({**ablation, "start": "b", "train_sources": ["helen"]}))
    decode = {"faces": 64, "points": 106, "size": 48, "median_ms": {"dark": 4.25}, "machine": {"cpu": "A CPU"}}
    (results / "decode" / "64.json").write_text(json.dumps(decode))
    memory = {"model": NAME, "photos": 10000, "settled_after": 1000, "settled_mib": 500.0, "growth_mib": 4.0}
    (results / "memory" / f"{NAME}.json").write_text(json.dumps(memory))
    (tmp_path / "model_zoo").mkdir()
    (tmp_path / "README.md").write_text("# Top\n\n<!-- begin:models -->\nold\n<!-- end:models -->\n\nend\n")
    every = (
        "models",
        "untrained_models",
        "landmark_models",
        "detection",
        "landmarks",
        "pose",
        "decoding",
        "ablation",
        "speed",
    )
    for name, regions in (("README", every), (NAME, ("figures",)), (LANDMARK_NAME, ("figures",))):
        text = "\n".join(f"<!-- begin:{r} -->\n<!-- end:{r} -->" for r in regions)
        (tmp_path / "model_zoo" / f"{name}.md").write_text(f"before\n{text}\nafter\n")
    (tmp_path / "model_zoo" / f"{LANDMARK_NAME}.json").write_text('{\n  "licence": "research"\n}\n')
    (tmp_path / "model_zoo" / f"{NAME}.json").write_text('{\n  "licence": "MIT"\n}\n')
    return tmp_path


def test_tables_are_stale_until_they_are_written(script, project, capsys):
    main = script("make_tables").main
    before = (project / "README.md").read_text()
    assert main(["--root", str(project), "--check"]) == 1
    assert "README.md: out of date" in capsys.readouterr().out
    assert (project / "README.md").read_text() == before
    assert main(["--root", str(project)]) == 0
    assert main(["--root", str(project), "--check"]) == 0
    assert main(["--root", str(project)]) == 0
    assert "written" not in capsys.readouterr().out.split("out of date")[-1].split("written")[-1]


def test_figures_stand_with_their_domain_machine_and_terms(script, project):
    script("make_tables").main(["--root", str(project)])
    text = (project / "README.md").read_text()
    named = (project / "model_zoo" / "README.md").read_text()
    row = next(line for line in text.splitlines() if NAME in line)
    assert ".876" in row or ".877" in row
    assert "77" in row
    assert re.search(r"Average precision on .*FC26 det_val, 100 photos, 468 faces\), long side 640", text)
    assert "Some CPU" in text
    assert text.startswith("# Top\n")
    assert text.endswith("\n\nend\n")
    assert "old" not in text
    assert all(name in named for name in list_models(task="detection"))
    assert all((name in text) == (name in list_models(pretrained=True)) for name in list_models(task="detection"))


def test_five_points_of_all_detectors_stand_beside_each_other(script, project):
    folder = project / "benchmarks" / "results" / "detection"
    del (points := detection(domain=HELEN, nme5=0.04567, nme5_faces=320, nme5_missed=10))["ap50"]
    (folder / f"{NAME}-lmk_val-640.json").write_text(json.dumps(points))
    path = project / "benchmarks" / "README.md"
    path.write_text("<!-- begin:five_points -->\n<!-- end:five_points -->\n")
    script("make_tables").main(["--root", str(project)])
    lines = path.read_text().splitlines()
    assert lines[1] == "| model | photos | looked at | error, of the face's size | faces found | not found |"
    # Results without points, those of the fixture, have no line.
    assert lines[3:] == [f"| `{NAME}` | {HELEN} | long side 640 | 4.57 % | 320 | 10 |", "<!-- end:five_points -->"]


def test_how_photos_were_looked_at_is_told_and_other_looks_do_not_stand_for_the_model(script, project):
    folder = project / "benchmarks" / "results" / "detection"
    looks = {
        "proposals": ({"proposals": True}, "long side 640, proposals alone"),
        "tight": ({"box_style": "tight"}, "long side 640, tight boxes"),
        "afw": ({"box_mapping": "afw"}, "long side 640, boxes by afw"),
        "two": ({"long_sides": [256, 640]}, "long sides 256, 640"),
    }
    for name, (changes, _) in looks.items():
        result = detection(ap50=0.111, **changes)
        if name == "two":
            del result["size"]
        (folder / f"{NAME}-det_val-640-{name}.json").write_text(json.dumps(result))
    (folder / f"{NAME}-det_val-640.json").unlink()
    script("make_tables").main(["--root", str(project)])
    named = (project / "model_zoo" / "README.md").read_text()
    assert all(f"| {words} | .111 |" in named for _, words in looks.values())
    row = next(line for line in (project / "README.md").read_text().splitlines() if NAME in line)
    assert ".111" not in row


def test_compiled_nets_stand_below_mxnet_at_the_same_batch(script, project):
    stages = ("decode", "preprocess", "network", "postprocess", "total")

    def one(model, batch, engine, ms):
        row = {"model": model, "threads": 1, "batch": batch, "median_ms": dict.fromkeys(stages, ms)}
        return {**row, "engine": engine, "photos_per_second": 1000 * batch / ms, "peak_memory_mib": 300.0}

    cases = [(model, batch) for model in (NAME, "other") for batch in (1, 32)]
    latency = {"size": [256, 320], "machine": {"cpu": "Some CPU", "cores": 2}}
    latency["runs"] = [one(*case, "mxnet", 80.0) for case in cases]
    latency["compiled"] = [one(*case, "artefact", 40.0) for case in cases]
    (project / "benchmarks" / "results" / "latency" / f"{NAME}-256x320.json").write_text(json.dumps(latency))
    path = project / "benchmarks" / "README.md"
    path.write_text("<!-- begin:speed -->\n<!-- end:speed -->\n")
    script("make_tables").main(["--root", str(project)])
    text = path.read_text()
    assert "Median milliseconds a batch, Some CPU, 2 cores. The preprocess of an artefact is the canvas alone" in text
    rows = [line.split(" | ") for line in text.splitlines() if "256x320" in line]
    assert [row[2] for row in rows] == ["MXNet", "artefact"] * 4
    assert [(row[0][2:], row[4]) for row in rows[::2]] == [(f"`{model}`", str(batch)) for model, batch in cases]
    assert rows[3][-2] == "800.0"
    # What was measured before there were engines to choose is MXNet's.
    assert f"| `{NAME}` | 640 | MXNet | 1 | 1 | 77.0 |" in text
    card = (project / "model_zoo" / f"{NAME}.md").read_text()
    assert "| 256x320 | artefact | 1 | 32 | 40.0 |" in card
    # The models' own figure stays that of MXNet.
    row = next(line for line in (project / "README.md").read_text().splitlines() if NAME in line)
    assert "| 77 |" in row


def test_landmark_figures_stand_with_what_they_were_measured_on(script, project):
    script("make_tables").main(["--root", str(project)])
    text = (project / "model_zoo" / "README.md").read_text()
    assert re.search(rf"\[{re.escape(LANDMARK_NAME)}\]\(.*\| 3\.46 % \|", text) and "outer eye corners" in text
    assert (
        "found by some_detector, mirrored too, decoder" in text
        and "| interocular | 3.60 %" in text
        and "2 of 330" in text
    )
    assert "106 heatmaps of 48x48 cells of each of 64 faces, NumPy, one thread of A CPU" in text
    assert "| dark | 4.25 |" in text
    card = (project / "model_zoo" / f"{LANDMARK_NAME}.md").read_text()
    assert "+3.1 % of the NME, over the 328 faces found in both ways" in card and "| 5.00 % | 2.00 % |" in card
    metric = json.loads((project / "model_zoo" / f"{LANDMARK_NAME}.json").read_text())["metric"]
    assert next(iter(metric.items())) == (
        f"NME / interocular, {HELEN}, from labelled boxes, mirrored too, decoder {model_facts(LANDMARK_NAME).decoder}",
        0.03456,
    )
    assert "| tricks: a | 6.00 % | 6.00 % | -1.10 |" in text and "| 7.00 % | -0.10, within the spread |" in text


def test_points_of_a_detector_are_told_as_it_looked_and_those_of_one_look_stand_for_it(script, project):
    name = "maskface_mobilenetv2_1.0_fc26"
    looks = {
        "boxes": landmarks(flip="none", face_pixels=256, nme=0.0321, missed=3),
        "photos": landmarks(
            flip="none",
            align="detections",
            end_to_end=name,
            nme=0.036,
            missed=9,
            relative=0.05,
            compared=319,
            size=320,
            score_thresh=0.3,
            match_iou=0.3,
        ),
    }
    for look, result in looks.items():
        result |= {"model": name, "decoder": model_facts(name).decoder}
        (project / "benchmarks" / "results" / "landmarks" / f"{name}-{look}.json").write_text(json.dumps(result))
    card = project / "model_zoo" / f"{name}.md"
    card.write_text("<!-- begin:figures -->\n<!-- end:figures -->\n")
    script("make_tables").main(["--root", str(project)])
    text = card.read_text()
    assert f"| {HELEN} | around labelled faces at 256 pixels, decoder dark | interocular | 3.21 % |" in text
    looked = "long side 320, score 0.3 and above, the surest one over IoU 0.3"
    assert f"| {HELEN} | found by {name}, {looked}, decoder dark | interocular | 3.60 % |" in text
    short = landmarks(align="detections", end_to_end="d", short_side=640)
    assert script("make_tables").aligned(short).startswith("found by d, short side 640, mirrored too")
    assert "+5.0 % of the NME, over the 319 faces found in both ways" in text
    assert f"NME by part, {HELEN}, around labelled faces at 256 pixels" in text


def test_points_in_labelled_squares_are_told_with_the_size_of_the_photos(script, project):
    result = landmarks(flip="none", squares=True, size=192, nme=0.041)
    result |= {"model": "kpnet_drnet_fc26", "decoder": None}
    (project / "benchmarks" / "results" / "landmarks" / "kpnet.json").write_text(json.dumps(result))
    card = project / "model_zoo" / "kpnet_drnet_fc26.md"
    card.write_text("<!-- begin:figures -->\n<!-- end:figures -->\n")
    script("make_tables").main(["--root", str(project)])
    assert f"| {HELEN} | in squares about labelled boxes, long side 192 | interocular | 4.10 % |" in card.read_text()
    aligned = script("make_tables").aligned
    words = [aligned(result | {"size": size}) for size in ("stored", "480x640")]
    assert words == [f"in squares about labelled boxes, {size}" for size in ("stored size", "canvas 480x640")]


def test_pose_stands_beside_what_knowing_nothing_gives(script, project):
    script("make_tables").main(["--root", str(project)])
    readme = (project / "model_zoo" / "README.md").read_text()
    card = (project / "model_zoo" / f"{NAME}.md").read_text()
    for text, start in ((readme, f"| `{NAME}` |"), (card, "|")):
        lines = text.splitlines()
        assert f"On {HELEN}, long side 640:" in lines
        ways = {"end to end": 3.21, "on labelled boxes": 3.33, "from its five points": 4.44}
        ways |= {"constant: median of the labels": 6.7, "constant: zero": 7.8}
        for way, mae in ways.items():
            by_yaw = " | ".join(f"{mae + i:.2f}" for i in range(4))
            assert f"{start} {way} |{f' {mae:.2f} |' * 5} 2 of 330 | {by_yaw} |" in lines
        assert f"{start} on labelled boxes | 4.56 % |{' 5.00 % |' * 4} 2 of 330 |" in lines
        assert "60-99" not in text  # no face there
        assert "beyond 99 degrees: 3 faces" in text
        assert "from 68 points" not in text
    other = (project / "model_zoo" / f"{LANDMARK_NAME}.md").read_text()
    assert "Head pose" not in other


def test_results_of_mos_that_lie_beside_others_have_tables_of_their_own(script, project):
    results = project / "benchmarks" / "results"
    (results / "latency" / f"pose_{NAME}.json").write_text(json.dumps(pose_time()))
    (results / "pose" / f"attention_{NAME}.json").write_text(json.dumps(attention(script)))
    (results / "ablation" / "mos.json").write_text(json.dumps(ablation_mos(script)))
    names = ("pose_time", "attention", "ablation_mos", "ablation", "pose", "speed")
    path = project / "benchmarks" / "README.md"
    path.write_text("\n".join(f"# {r}\n<!-- begin:{r} -->\n<!-- end:{r} -->" for r in names))
    script("make_tables").main(["--root", str(project)])
    _, *parts = re.split(r"^# ", path.read_text(), flags=re.MULTILINE)
    text = {part.partition("\n")[0]: part for part in parts}
    assert "| MXNet | 1 | 5 | 60.5 | 40.2 | 90.0 | 1.50 | 0.67 |" in text["pose_time"]
    assert "| artefact | 2 | 5 | - | 9.0 | - | - | - |" in text["pose_time"]
    assert "10.8 over 7.2 ms, 1.50 (MOS-S, RTX 2060)" in text["pose_time"]
    assert "Left out: artefact: MOS: gives no pose." in text["pose_time"]
    assert "| class and pose | .90 | .60 to .80 | .90 | .85 to .95 |" in text["attention"]
    assert "| class and an untrained pose | .10 |" in text["attention"]
    assert "| + multi-task head | 90.50 (90.00, 91.00); +0.40, within the spread |" in text["ablation_mos"]
    assert "10.5 | 90.11 / 89.31 / 81.64 | 6.49 |" in text["ablation_mos"]
    assert "tricks: none" in text["ablation"] and "multi-task" not in text["ablation"]
    assert "attention" not in text["pose"] and "fit to 5 points" not in text["speed"]
    card = (project / "model_zoo" / f"{NAME}.md").read_text()
    assert "| class and pose | .90 |" in card and "| MXNet | 1 | 5 | 60.5 |" in card


def mesh():
    bins = {name: {"mean": 0.03, "spread": 0.01, "faces": 5, "missed": 1} for name in ("0-30", "30-60")}
    turned = {"mean": None, "by_yaw": {**bins, "60-90": {"mean": None, "spread": None, "faces": 0, "missed": 0}}}
    at = {"0.08": 0.62, "0.1": 0.71}
    points = {"nme": 0.0312, "faces": 10, "missed": 2, "auc": at, "failure_rate": at, "nme_by_yaw": turned}
    degrees = {"mae": 3.456, "yaw": 3.0, "pitch": 4.0, "roll": 3.3, "faces": 10, "missed": 2}
    joined = {"brow": 0.7223, "eye": 0.78, "nose": 0.92, "lip": 0.77}
    return {
        "model": NAME,
        "domain": HELEN,
        "size": 640,
        "flip": False,
        "faces": 10,
        "missed": 2,
        "trained_on": 0,
        "crops": "some_net",
        "mesh": {"xy": 0.0123, "z": 0.02, "xyz": 0.025, "faces": 10, "missed": 2},
        "five": {"mesh": points, "crops": {**points, "nme_by_yaw": None}},
        "dense": None,
        "pose": {"mesh": {**degrees, "yaw_by_yaw": turned}},
        "parts": {"faces": 10, "missed": 2, "single": None, "joined": joined},
    }


def test_meshes_have_a_table_for_each_kind_of_figure(script, project):
    folder = project / "benchmarks" / "results" / "mesh"
    folder.mkdir()
    (folder / f"{NAME}-helen.json").write_text(json.dumps(mesh()))
    path = project / "benchmarks" / "README.md"
    path.write_text("<!-- begin:mesh -->\n<!-- end:mesh -->\n")
    script("make_tables").main(["--root", str(project)])
    card = (project / "model_zoo" / f"{NAME}.md").read_text()
    for text in (path.read_text(), card):
        assert f"Meshes of `{NAME}` on {HELEN}, long side 640; 2 of 10 faces missed:" in text
        assert "| mesh | 10 | 2 | 1.23 | 2.00 | 2.50 |" in text
        assert "| five points, its mesh | 10 | 2 | 3.12 | 62.00 | 62.00 | 71.00 | 71.00 | 3.00 | 3.00 | - | - |" in text
        assert "| five points, some_net on labelled boxes | 10 | 2 | 3.12 |" in text
        assert "| its mesh | 10 | 2 | 3.46 | 3.00 | 4.00 | 3.30 | .03 ± .01 | .03 ± .01 | - ± - |" in text
        assert "| mesh | 10 | 2 | 72.23 | 78.00 | 92.00 | 77.00 |" in text
    del (result := mesh())["parts"]
    (folder / f"{NAME}-helen.json").write_text(json.dumps(result))
    with pytest.raises(DataError, match="not a result of mesh, 'parts' is missing"):
        script("make_tables").main(["--root", str(project)])


def test_regressed_points_stand_beside_a_detector_s_own(script, project):
    folder = project / "benchmarks" / "results" / "regressed"
    folder.mkdir()
    common = {"domain": HELEN, "nme": 0.0412, "auc": 0.59, "failure_rate": 0.021, "threshold": 0.1, "faces": 330}
    rows = [
        {**common, "model": "regressor_x, labelled boxes", "align": "boxes", "missed": 0},
        {**common, "model": f"{NAME}, its own", "align": "detections", "missed": 3, "size": 320},
    ]
    of_net = {"model": "regressor_x", "backbone": "x", "size": 112, "params": 212_000, "gf": 0.0123}
    result = {**of_net, "weights": "last.params", "rows": rows}
    (folder / "scored.json").write_text(json.dumps(result))
    (folder / "lmk_val.json").write_text(json.dumps({**result, "trained_on": "lmk_train", "epochs": 20}))
    path = project / "benchmarks" / "README.md"
    path.write_text("<!-- begin:regressed -->\n<!-- end:regressed -->\n")
    script("make_tables").main(["--root", str(project)])
    text = path.read_text()
    assert f"x (0.21 M parameters, 0.012 GF a face), 20 epochs of lmk_train; on {HELEN}:" in text
    assert f"0.012 GF a face), weights last.params; on {HELEN}:" in text
    assert "| `regressor_x, labelled boxes` | labelled boxes | 4.12 % | 59.00 % | 2.10 % > 10 % | 0 of 330 |" in text
    assert f"| `{NAME}, its own` | faces found, long side 320 | 4.12 % |" in text and "| 3 of 330 |" in text


def test_a_detector_without_pose_has_rows_from_its_points_and_no_metric(script, project):
    nothing = {**dict.fromkeys(("mae", "yaw", "pitch", "roll", "geodesic", "by_yaw"), None), "on_boxes": None}
    path = project / "benchmarks" / "results" / "pose" / f"{NAME}-helen.json"
    path.write_text(json.dumps(pose(**nothing, left_out=0)))
    script("make_tables").main(["--root", str(project)])
    card = (project / "model_zoo" / f"{NAME}.md").read_text()
    assert "from its five points | 4.44" in card and "end to end" not in card and "left out" not in card.lower()
    assert len(json.loads((project / "model_zoo" / f"{NAME}.json").read_text())["metric"]) == 2


def test_a_card_has_all_figures_of_its_model(script, project):
    script("make_tables").main(["--root", str(project)])
    card = (project / "model_zoo" / f"{NAME}.md").read_text()
    for words in (DOMAIN, "turned by 90 degrees", "under 16", "10,000 small photos", "Some CPU", "| 1 | 1 |"):
        assert words in card
    assert card.count("face size in pixels of the stored photo") == 1  # not for the turned photos


def test_the_facts_of_the_weights_get_the_main_figure_first(script, project):
    script("make_tables").main(["--root", str(project)])
    facts = json.loads((project / "model_zoo" / f"{NAME}.json").read_text())
    assert facts["licence"] == "MIT"
    assert next(iter(facts["metric"].items())) == (f"AP@0.5, {DOMAIN}, long side 640", 0.8765)
    assert len(facts["metric"]) == 3
    assert facts["metric"][f"pose MAE in degrees, {HELEN}, long side 640"] == 3.21


def test_links_lead_to_cards_that_are_there(script, project):
    script("make_tables").main(["--root", str(project)])
    for document in (project / "README.md", project / "model_zoo" / "README.md"):
        for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
            assert (document.parent / link).is_file()
    assert f"(model_zoo/{NAME}.md)" in (project / "README.md").read_text()


def test_a_changed_result_makes_the_tables_stale(script, project):
    main = script("make_tables").main
    main(["--root", str(project)])
    path = project / "benchmarks" / "results" / "detection" / f"{NAME}-det_val-640.json"
    path.write_text(json.dumps(detection(ap50=0.5)))
    assert main(["--root", str(project), "--check"]) == 1


def test_an_unknown_table_and_a_foreign_result_are_named(script, project):
    main = script("make_tables").main
    (project / "README.md").write_text("<!-- begin:modells -->\n<!-- end:modells -->\n")
    with pytest.raises(ValueError, match=r"README\.md: no table is called 'modells'"):
        main(["--root", str(project)])
    (project / "benchmarks" / "results" / "detection" / "x.json").write_text('{"model": "x"}')
    with pytest.raises(ValueError, match=r"x\.json: not a result of detection, 'data' is missing"):
        main(["--root", str(project)])
