"""Write the figures of benchmarks/results/ and the facts of the models into the documents.

    python benchmarks/make_tables.py            # README.md, benchmarks/README.md, model_zoo/*.md, model_zoo/*.json
    python benchmarks/make_tables.py --check    # changes nothing; exit status 1 when one of them is out of date

In the documents the text between ``<!-- begin:NAME -->`` and ``<!-- end:NAME -->`` is replaced. NAME is one of

  models           the detectors that have weights: parameters, cost, accuracy, speed, terms of the weights
  untrained_models the other detectors
  landmark_models  the same of the landmark nets that have weights
  detection        every result of eval_detection.py
  five_points      the five points of those of its results that have them
  landmarks        every result of eval_landmarks.py
  pose             every result of eval_pose.py
  mesh             every result of eval_mesh.py
  regressed        every result of regress_points.py
  pose_time        every result of time_pose.py
  attention        every result of attention_mos.py
  decoding         results of decode_heatmaps.py
  ablation         the result of ablate_heatmap.py
  ablation_mos     the result of ablate_mos.py
  ablation_kpnet   the result of ablate_kpnet.py
  ablation_maskface  the result of ablate_maskface.py
  ablation_retinaface  the result of ablate_retinaface.py
  face_time        every result of time_faces.py
  depth            the result of depth_resolution.py
  speed            every result of latency.py
  deploy           every result of deploy.py: compiled artefacts beside other engines
  devices          the estimates of estimate_devices.py
  figures          on a model's card: all that was measured of it

The ``metric`` of a model's facts (what ``gluonface models`` shows) comes from the same results. They are found by name:
detection/<model>-<data>-<size>[-rot90].json, landmarks/<model>-<what>.json, pose/<model>-<what>.json,
mesh/<model>-<what>.json, regressed/*.json, latency/<model>-<size>.json, memory/<model>.json, decode/*.json,
ablation/*.json, deploy/<model>-<height>x<width>.json, pose/attention_<model>.json, latency/pose_<model>.json,
latency/faces_<model>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ablate_kpnet
import ablate_maskface
import ablate_mos
import ablate_retinaface
import attention_mos
import depth_resolution
import estimate_devices
import eval_mesh
import time_faces
import time_pose
from ablation import in_words
from common import ROOT, figure, looked_at, markdown_table, read_result, run, size_in_words
from eval_pose import FIGURES, WAYS, points_of, ways_of

from gluonface.decode import KPNET_SCALES
from gluonface.errors import DataError
from gluonface.files import write_atomically
from gluonface.metrics.pose_scoring import ANGLES, YAW_BINS
from gluonface.metrics.scoring import SIZE_BINS
from gluonface.model_zoo import ModelFacts, list_models, model_facts

#: Side of the square input that the GF of a system's models are of; 640 where it is not named.
COUNTED_AT = {"kpnet": KPNET_SCALES.long_side}
#: The result that stands for a model where there is room for one figure.
MAIN_DATA, MAIN_SIZE = "det_val", 640
MAIN_LANDMARK_DATA, MAIN_LANDMARK_DOMAIN = "lmk_val", "Helen"

_REGION = re.compile(r"(<!-- begin:([\w-]+) -->\n)(.*?)(<!-- end:\2 -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    results = Results.read(args.root / "benchmarks" / "results")
    facts = [model_facts(name) for name in list_models()]
    stale = []
    for path in documents(args.root):
        before = path.read_text(encoding="utf-8")
        after = with_metric(before, path, results) if path.suffix == ".json" else filled(before, path, facts, results)
        if after != before:
            stale.append(path)
            if not args.check:
                write_atomically(path, after)
    for path in stale:
        print(f"{path.relative_to(args.root)}: {'out of date' if args.check else 'written'}")
    if args.check and stale:
        print("run: python benchmarks/make_tables.py", file=sys.stderr)
        return 1
    return 0


def documents(root: Path) -> list[Path]:
    """What may hold figures."""
    fixed = [root / "README.md", root / "benchmarks" / "README.md", root / "docs" / "devices.md"]
    zoo = root / "model_zoo"
    return [path for path in [*fixed, *sorted(zoo.glob("*.md")), *sorted(zoo.glob("*.json"))] if path.is_file()]


@dataclass(frozen=True)
class Results:
    """The results of each script, in the order of the file names."""

    detection: list[dict]
    landmarks: list[dict]
    pose: list[dict]
    mesh: list[dict]
    regressed: list[dict]
    pose_time: list[dict]
    face_time: list[dict]
    attention: list[dict]
    decode: list[dict]
    ablation: list[dict]
    ablation_mos: list[dict]
    ablation_kpnet: list[dict]
    ablation_maskface: list[dict]
    ablation_retinaface: list[dict]
    depth: list[dict]
    latency: list[dict]
    memory: list[dict]
    deploy: list[dict]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """All files of ``folder``; DataError names one that lacks what the tables need."""
        needed = {
            "detection": ("model", "data", "domain", "rotate", "flip", "nme5"),
            "landmarks": ("model", "domain", "norm", "align", "flip", "nme", "nme_groups", "auc", "failure_rate"),
            "pose": (
                "model",
                "domain",
                "flip",
                "mae",
                "constant",
                "on_boxes",
                "from_points",
                "points_by_yaw",
                "left_out",
            ),
            "mesh": ("model", "domain", "flip", "faces", "missed", "crops", "mesh", "five", "dense", "pose", "parts"),
            "regressed": ("model", "backbone", "size", "params", "gf", "weights", "rows"),
            "pose_time": ("model", "beside", "landmarks", "weights", "size_hw", "runs", "left_out", "paper", "machine"),
            "attention": ("model", "domain", "pairs", "faces", "missed"),
            "decode": ("machine", "faces", "points", "size", "median_ms"),
            "ablation": ("model", "start", "rows", "seeds", "epochs", "data_shape", "domain", "train_sources"),
            "ablation_mos": ("model", "start", "rows", "seeds", "epochs", "minutes", "domains", "pose_loss"),
            "ablation_kpnet": ("dataset", "rows", "seeds", "epochs", "minutes", "size", "domains"),
            "ablation_maskface": (
                "model",
                "start",
                "rows",
                "seeds",
                "epochs",
                "minutes",
                "size",
                "domains",
                "channels",
                "roi_scale",
                "points_score",
            ),
            "ablation_retinaface": (
                "model",
                "start",
                "deformable",
                "rows",
                "seeds",
                "epochs",
                "minutes",
                "size",
                "domains",
                "false_positives",
            ),
            "face_time": ("model", "detector", "landmarks", "weights", "size_hw", "runs", "paper", "machine"),
            "depth": ("rows", "seeds", "epochs", "minutes", "sizes", "domain"),
            "latency": ("size", "machine", "runs"),
            "memory": ("model", "photos", "settled_after", "settled_mib", "growth_mib"),
            "deploy": (
                "model",
                "size_hw",
                "runs",
                "artefact",
                "start_up",
                "accuracy",
                "domains",
                "left_out",
                "machine",
            ),
        }
        return cls(**{kind: _read_all(folder, kind, keys) for kind, keys in needed.items()})

    def main_of(self, model: str) -> dict | None:
        """The detection result that stands for a model."""
        chosen = [
            r
            for r in self.detection
            if (r["model"], r["data"], r.get("size"), r["rotate"]) == (model, MAIN_DATA, MAIN_SIZE, 0)
            and not (r["flip"] or r.get("min_face") or r.get("proposals"))
            and not {"box_style", "box_mapping"} & set(r)
        ]
        return chosen[0] if chosen else None

    def main_landmarks_of(self, model: str) -> dict | None:
        """The landmark result that stands for a model: from labelled boxes, with the defaults of the script."""
        facts = model_facts(model)
        # Detectors look once.
        flip = "points" if facts.task == "landmarks" else "none"
        chosen = [
            r
            for r in self.landmarks
            if (r["model"], r["data"], r["align"], r["flip"], r["decoder"])
            == (model, MAIN_LANDMARK_DATA, "boxes", flip, facts.decoder)
            and MAIN_LANDMARK_DOMAIN in r["domain"]
        ]
        return chosen[0] if chosen else None

    def runs_of(self, model: str) -> list[tuple[dict, dict]]:
        """(result, run) of each latency measurement of a model on MXNet."""
        return [(result, one) for result in self.latency for one in result["runs"] if one["model"] == model]

    def runs_on_all_engines(self) -> list[tuple[dict, dict]]:
        """(result, run) of each latency measurement, what a compiled net took below what MXNet took for the same."""
        runs = []
        for result in self.latency:
            every = [*result["runs"], *result.get("compiled", ())]
            models = list(dict.fromkeys(one["model"] for one in every))
            every.sort(key=lambda one: (models.index(one["model"]), one["threads"], one["batch"]))
            runs += [(result, one) for one in every]
        return runs


#: Kinds of results that lie in the folder of another kind: folder, and what their names begin with.
_GUESTS = {
    "pose_time": ("latency", "pose_"),
    "attention": ("pose", "attention_"),
    "ablation_mos": ("ablation", "mos"),
    "ablation_kpnet": ("ablation", "kpnet"),
    "ablation_maskface": ("ablation", "maskface"),
    "ablation_retinaface": ("ablation", "retinaface"),
    "face_time": ("latency", "faces_"),
    "depth": ("ablation", "depth_resolution"),
}


def _read_all(folder: Path, kind: str, keys: Sequence[str]) -> list[dict]:
    place, prefix = _GUESTS.get(kind, (kind, ""))
    guests = tuple(start for where, start in _GUESTS.values() if where == place) if not prefix else ()
    results = []
    for path in sorted((folder / place).glob(f"{prefix}*.json")):
        if guests and path.name.startswith(guests):
            continue
        results.append(read_result(path))
        missing = [key for key in keys if key not in results[-1]]
        if missing:
            raise DataError(f"{path}: not a result of {kind}, {missing[0]!r} is missing")
    return results


def filled(text: str, path: Path, facts: list[ModelFacts], results: Results) -> str:
    """The document with its regions written anew."""

    def content(match: re.Match) -> str:
        name = match.group(2)
        if name == "figures":
            made = figures(path.stem, results)
        elif name in _REGIONS:
            made = _REGIONS[name](facts, results, path)
        else:
            raise DataError(f"{path}: no table is called {name!r}; there are figures, {', '.join(_REGIONS)}")
        return match.group(1) + (made + "\n" if made else "") + match.group(4)

    return _REGION.sub(content, text)


def with_metric(text: str, path: Path, results: Results) -> str:
    """The facts of a model's weights with ``metric`` written anew."""
    facts = json.loads(text)
    metric = {
        f"AP@0.5, {r['domain']}, {looked_at(r)}": round(r["ap50"], 4)
        for r in results.detection
        if r["model"] == path.stem and r.get("ap50") is not None
    }
    metric |= {
        f"NME / {r['norm']}, {r['domain']}, {aligned(r)}": round(r["nme"], 5)
        for r in results.landmarks
        if r["model"] == path.stem
    }
    metric |= {
        f"pose MAE in degrees, {r['domain']}, {looked_at(r)}": round(r["mae"], 3)
        for r in results.pose
        if r["model"] == path.stem and r["mae"] is not None
    }
    best = results.main_landmarks_of(path.stem)
    if best is not None:
        first = f"NME / {best['norm']}, {best['domain']}, {aligned(best)}"
        metric = {first: metric.pop(first), **metric}
    main = results.main_of(path.stem)
    if main is not None:  # first, since the command's list shows the first one
        first = f"AP@0.5, {main['domain']}, {looked_at(main)}"
        metric = {first: metric.pop(first), **metric}
    if list(facts.get("metric", {}).items()) == list(metric.items()):  # their order counts
        return text
    return json.dumps({**facts, "metric": metric}, indent=2, ensure_ascii=False) + "\n"


def models_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    detectors = [f for f in facts if f.task == "detection"]
    shown, machines, rows = set(), set(), []
    for one in (f for f in detectors if f.trained):
        result = results.main_of(one.name)
        if result:
            shown.add(f"{result['domain']}, {looked_at(result)}")
        timed = [(r, t) for r, t in results.runs_of(one.name) if _is_plain(r, t)]
        if timed:
            machines.add(timed[0][0]["machine"]["cpu"])
        rows.append(
            [
                _linked(path, one.name),
                f"{one.params / 1e6:.2f} M",
                _cost(one),
                figure(result and result["ap50"]),
                f"{timed[0][1]['median_ms']['total']:.0f}" if timed else "-",
                _terms(one),
            ]
        )
    # The domain stands with the figures: in short above them, in full below.
    short = "; ".join(sorted({words.split(" (")[0] for words in shown}))
    precision = f"AP@0.5, {short} *" if shown else "AP@0.5"
    speed = "ms a photo **" if machines else "ms a photo"
    rows.insert(0, ["model", "parameters", "GF", precision, speed, "terms of the weights"])
    notes = []
    if shown:
        notes.append(f"\\* Average precision on {'; '.join(sorted(shown))}.")
    if machines:
        notes.append(
            f"\\** From JPEG (1280x960) to `Faces`, long side 640, MXNet, one thread of {', '.join(sorted(machines))}."
        )
    bare = [f for f in detectors if not f.trained]
    families = ", ".join(
        f"{sum(f.system == name for f in bare)} {name}" for name in dict.fromkeys(f.system for f in bare)
    )
    if bare:
        index = ROOT / "model_zoo" / "README.md"
        where = "below" if path == index else f"in [model_zoo/README.md]({os.path.relpath(index, path.parent)})"
        notes.append(f"{len(bare)} more detectors, without weights yet, can be trained ({families}): they are {where}.")
    return "\n\n".join([markdown_table(rows), *notes])


def untrained_models_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    rows = [["detector without weights", "parameters", "GF"]]
    rows += [
        [f"`{one.name}`", f"{one.params / 1e6:.2f} M", _cost(one)]
        for one in facts
        if one.task == "detection" and not one.trained
    ]
    return markdown_table(rows)


def _cost(facts: ModelFacts) -> str:
    return f"{facts.gf:.2f} at {COUNTED_AT.get(facts.system, 640)}"


def landmark_models_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    nets = [f for f in facts if f.task == "landmarks"]
    head = ["model", "points", "parameters", "GF at 192", "NME, Helen portraits *", "ms a face **"]
    rows = [[*head, "terms of the weights"]]
    notes, machines = set(), set()
    for one in (f for f in nets if f.trained):
        result = results.main_landmarks_of(one.name)
        if result:
            notes.add(f"{result['domain']}: mean distance over that of the outer eye corners, {aligned(result)}")
        timed = [(r, t) for r, t in results.runs_of(one.name) if (t["threads"], t["batch"]) == (1, 1)]
        machines.update(r["machine"]["cpu"] for r, _ in timed)
        cells = [one.scheme, f"{one.params / 1e6:.2f} M", f"{one.gf:.2f}", _percent(result and result["nme"])]
        cells.append(f"{timed[0][1]['median_ms']['total']:.1f}" if timed else "-")
        rows.append([_linked(path, one.name), *cells, _terms(one)])
    bare = len([f for f in nets if not f.trained])
    parts = [markdown_table(rows)]
    parts += [f"\\* {note}." for note in sorted(notes)]
    if machines:
        parts.append(
            f"\\** From photo and five points to landmarks, MXNet, one thread of {', '.join(sorted(machines))}."
        )
    parts.append(
        f"`gluonface models --task landmarks` lists {bare} more without weights, for 106 (`_jd106`), 98 (`_wflw`), 68 "
        "(`_300w`), 29 (`_cofw`) and 19 (`_aflw`) points."
    )
    return "\n\n".join(parts)


def _linked(path: Path, name: str) -> str:
    """A model's name, linked to its card where it has one."""
    card = _card_beside(path, name)
    return f"[{name}]({card})" if (path.parent / card).is_file() else f"`{name}`"


def _percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _card_beside(path: Path, name: str) -> str:
    """The card of a model as linked to from a document."""
    zoo = (path.parents[1] if path.parent.name in ("model_zoo", "benchmarks") else path.parent) / "model_zoo"
    return Path(os.path.relpath(zoo / f"{name}.md", path.parent)).as_posix()


def _terms(facts: ModelFacts) -> str:
    if not facts.trained:
        return "no weights"
    return "**non-commercial research only**" if facts.research_only else facts.licence


def _is_plain(result: dict, one: dict) -> bool:
    return result["size"] == MAIN_SIZE and (one["threads"], one["batch"]) == (1, 1)


def detection_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return _detection([r for r in results.detection if "ap50" in r], with_model=True)


def _detection(results: list[dict], with_model: bool) -> str:
    head = ["photos", "looked at", "AP@0.5", "AP .5:.95", "recall at 1 false alarm a photo"]
    rows = [["model", *head] if with_model else head]
    for r in results:
        cells = [r["domain"], looked_at(r), *(figure(r[k]) for k in ("ap50", "ap", "recall_at_1fppi"))]
        rows.append([f"`{r['model']}`", *cells] if with_model else cells)
    return markdown_table(rows) if results else ""


def five_points_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    rows = [["model", "photos", "looked at", "error, of the face's size", "faces found", "not found"]]
    for r in results.detection:
        if r["nme5"] is not None:
            cells = [r["domain"], looked_at(r), _percent(r["nme5"]), str(r["nme5_faces"]), str(r["nme5_missed"])]
            rows.append([f"`{r['model']}`", *cells])
    return markdown_table(rows) if len(rows) > 1 else ""


def _by_size(result: dict) -> str:
    bins = [name for name, *_ in SIZE_BINS]
    rows = [["face size in pixels of the stored photo", *bins]]
    rows.append(["faces", *(str(result["by_size"][b]["faces"]) for b in bins)])
    for key, words in (("ap50", "AP@0.5"), ("recall_at_1fppi", "recall at 1 false alarm a photo")):
        rows.append([words, *(figure(result["by_size"][b][key]) for b in bins)])
    return markdown_table(rows)


def aligned(result: dict) -> str:
    """How the faces of a landmark result were looked at, in words."""
    words = {
        "boxes": "from labelled boxes",
        "points": "aligned by the labelled points (an oracle)",
        "detections": f"found by {result['end_to_end']}",
    }[result["align"]]
    if "face_pixels" in result:
        words = f"around labelled faces at {result['face_pixels']} pixels"
    if "squares" in result:
        return f"in squares about labelled boxes, {size_in_words(result['size'])}"
    # What differs from how the script or the detector has it by itself.
    if "short_side" in result:
        words += f", short side {result['short_side']}"
    elif "size" in result:
        words += f", {size_in_words(result['size'])}"
    if "score_thresh" in result:
        words += f", score {result['score_thresh']:g} and above"
    if result["align"] == "detections" and "match_iou" in result:
        words += f", the surest one over IoU {result['match_iou']:g}"
    flips = {"none": "", "points": ", mirrored too", "heatmaps": ", heatmaps of the mirror image averaged"}
    return f"{words}{flips[result['flip']]}, decoder {result['decoder']}"


def landmarks_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return _landmarks(results.landmarks, with_model=True)


def _landmarks(results: list[dict], with_model: bool) -> str:
    head = ["photos", "faces", "over", "NME", "90th", "95th", "99th percentile", "AUC", "failures", "missed"]
    rows = [["model", *head] if with_model else head]
    for r in results:
        cells = [r["domain"], aligned(r), r["norm"], _percent(r["nme"])]
        cells += [_percent(r["nme_percentiles"][p]) for p in ("90", "95", "99")]
        cells += [_percent(r["auc"], 1), f"{_percent(r['failure_rate'])} > {_percent(r['threshold'], 0)}"]
        cells.append(f"{r['missed']} of {r['faces']}")
        rows.append([f"`{r['model']}`", *cells] if with_model else cells)
    return markdown_table(rows) if results else ""


def _by_group(result: dict) -> str:
    rows = [list(result["nme_groups"]), [_percent(value) for value in result["nme_groups"].values()]]
    return markdown_table(rows)


def pose_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return "\n\n".join(_pose(results.pose, with_model=True))


def _pose(results: list[dict], with_model: bool) -> list[str]:
    """For each set of photos degrees of each way of measuring, also by |yaw|, and the error of the five points."""
    if not results:
        return []
    parts = [
        "Head pose: degrees off, means over the faces found. MAE is the mean of yaw, pitch and roll, geodesic the "
        "angle of the turn between the two poses, and the last columns are the MAE of faces by labelled \\|yaw\\|. The "
        "constants answer the same pose for every face."
    ]
    groups: dict[str, list[dict]] = {}
    for r in results:
        groups.setdefault(f"{r['domain']}, {looked_at(r)}", []).append(r)
    for where, group in groups.items():
        parts += _pose_on(where, group, with_model)
    left_out = sum(r["left_out"] for r in results)
    return parts + ([f"Left out for an angle beyond 99 degrees: {left_out} faces."] if left_out else [])


def _pose_on(where: str, results: list[dict], with_model: bool) -> list[str]:
    """The tables of one set of photos."""
    faces = results[0]["constant"]["zero"]["by_yaw"]
    # Bins that hold no face say nothing.
    bins = [name for name, *_ in YAW_BINS if faces[name]["faces"]]
    model = ["model"] if with_model else []
    counted = [f"{b} ({faces[b]['faces']} faces)" for b in bins]
    every = [[*model, "pose", "MAE", *ANGLES, "geodesic", "missed", *counted]]
    points = [[*model, "five points", "all", *bins, "missed"]]
    for r in results:
        start = [f"`{r['model']}`"] if with_model else []
        for way, one in ways_of(r).items():
            cells = [WAYS[way], *(figure(one[key], 2) for key in FIGURES), f"{one['missed']} of {one['faces']}"]
            every.append([*start, *cells, *(figure(one["by_yaw"][b]["mae"], 2) for b in bins)])
        for way, one in points_of(r).items():
            shares = [_percent(one["nme5"]), *(_percent(one["by_yaw"][b]["nme5"]) for b in bins)]
            points.append([*start, WAYS[way], *shares, f"{one['missed']} of {one['faces']}"])
    parts = [f"On {where}:", markdown_table(every)]
    if len(points) > 1:
        parts += ["Error of the five points there, of the face's size, by labelled \\|yaw\\|:", markdown_table(points)]
    return parts


def mesh_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return "\n\n".join(_meshes(results.mesh))


def _meshes(results: list[dict]) -> list[str]:
    """What was measured of meshes, and of points, poses and parts that follow from them."""
    parts = []
    for r in results:
        parts.append(
            f"Meshes of `{r['model']}` on {r['domain']}, {looked_at(r)}; {r['missed']} of {r['faces']} faces missed:"
        )
        parts += map(markdown_table, eval_mesh.tables_of(r))
    return parts


def regressed_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    """Five points regressed from crops, beside a detector's own."""
    parts = []
    for r in results.regressed:
        learnt = f"{r['epochs']} epochs of {r['trained_on']}" if "epochs" in r else f"weights {r['weights']}"
        parts.append(
            f"Crops of {r['size']} pixels, {r['backbone']} ({r['params'] / 1e6:.2f} M parameters, {r['gf']:.3f} GF a "
            f"face), {learnt}; on {r['rows'][0]['domain']}:"
        )
        head = ["points", "looked at", "error, of the face's size", "AUC", "failures", "missed"]
        rows = [
            [
                f"`{one['model']}`",
                "labelled boxes"
                if one["align"] == "boxes"
                else f"faces found, {size_in_words(one.get('size', 'auto'))}",
                _percent(one["nme"]),
                _percent(one["auc"]),
                f"{_percent(one['failure_rate'])} > {_percent(one['threshold'], 0)}",
                f"{one['missed']} of {one['faces']}",
            ]
            for one in r["rows"]
        ]
        parts.append(markdown_table([head, *rows]))
    return "\n\n".join(parts)


def pose_time_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return "\n\n".join(_pose_time(results.pose_time))


def _pose_time(results: list[dict]) -> list[str]:
    """Milliseconds of a photo with poses: MOS and the ways beside it, and the paper's own figures."""
    parts = []
    for r in results:
        height, width = r["size_hw"]
        rows = [["engine", "threads", "faces", *time_pose.WAYS.values(), "ratio to 5 points", "to 68 points"]]
        for one in r["runs"]:
            cells = [_ENGINES[one["engine"]], str(one["threads"]), str(one["faces"])]
            cells += [_known(one["median_ms"], way, 1) for way in time_pose.WAYS]
            cells += [_known(one["ratio"], way, 2) for way in ("points", "dense")]
            rows.append(cells)
        paper, machine = r["paper"], r["machine"]
        parts.append(
            f"Median milliseconds from a photo {width} wide and {height} high in memory to faces with poses: "
            f"`{r['model']}` ({r['weights']} weights) beside `{r['beside']}` and, for 68 points, `{r['landmarks']}`, "
            f"taking turns in one process; {machine['cpu']}, {machine['cores']} cores. The ratio is that of MOS to it; "
            f"the paper's own: {paper['mos']:g} over {paper['points']:g} ms, {paper['mos'] / paper['points']:.2f} "
            f"({paper['where']})."
        )
        parts.append(markdown_table(rows))
        if r["left_out"]:
            parts.append(f"Left out: {'; '.join(f'{what}: {why}' for what, why in r['left_out'].items())}.")
    return parts


def _known(values: dict, key: str, digits: int) -> str:
    return f"{values[key]:.{digits}f}" if key in values else "-"


def attention_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return "\n\n".join(_attention(results.attention))


def _attention(results: list[dict]) -> list[str]:
    """How far the tasks of MOS look at the same places, and what comes by itself."""
    parts = []
    for r in results:
        rows = [["attention of", "IoU", "of 10 to 90 % of the faces", "correlation", "of 10 to 90 %"]]
        for pair in (*("-".join(pair) for pair in attention_mos.PAIRS), *attention_mos.YARDSTICKS):
            one, cells = r["pairs"][pair], []
            for key in ("iou", "correlation"):
                cells += [figure(one[key], 2), " to ".join(figure(value, 2) for value in one[f"{key}_10_to_90"])]
            words = attention_mos.IN_WORDS.get(pair) or pair.replace("-", " and ")
            rows.append([words, *cells])
        parts.append(
            f"Attention of `{r['model']}`, {r['domain']}, {r['missed']} not found: overlap of the fifths of a face's "
            "surroundings with most influence on a task's outputs, and correlation of the whole maps."
        )
        parts.append(markdown_table(rows))
    return parts


def face_time_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return "\n\n".join(part for r in results.face_time for part in time_faces.describe(r))


def depth_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return "\n\n".join(part for r in results.depth for part in depth_resolution.describe(r))


def decoding_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    parts = []
    for r in results.decode:
        rows = [["decoder", "median ms"], *([name, f"{ms:.2f}"] for name, ms in r["median_ms"].items())]
        parts.append(
            f"{r['points']} heatmaps of {r['size']}x{r['size']} cells of each of {r['faces']} faces, NumPy, one thread "
            f"of {r['machine']['cpu']}.\n\n" + markdown_table(rows)
        )
    return "\n\n".join(parts)


def as_described_by(script) -> Callable[[list[ModelFacts], Results, Path], str]:
    """The region ablation_<system> of an ablation script ablate_<system>: what it says of each of its results."""
    kind = script.__name__.replace("ablate", "ablation")

    def table(facts: list[ModelFacts], results: Results, path: Path) -> str:
        return "\n\n".join(part for r in getattr(results, kind) for part in script.describe(r))

    return table


ablation_mos_table, ablation_kpnet_table, ablation_maskface_table, ablation_retinaface_table = map(
    as_described_by, (ablate_mos, ablate_kpnet, ablate_maskface, ablate_retinaface)
)


def ablation_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    parts = []
    for r in results.ablation:
        rows = [["", "NME of each seed", "mean", "difference"]]
        for row in r["rows"]:
            change = in_words(100 * row["difference"], row["beyond_spread"]) if "difference" in row else ""
            each = ", ".join(_percent(value) for value in row["nme"])
            rows.append([f"{row['part']}: {row['label']}", each, _percent(row["mean"]), change])
        parts.append(
            f"`{r['model']}`, its backbone from `{r['start']}` and the rest from random weights, {r['epochs']} passes "
            f"over {' and '.join(r['train_sources'])} in crops of {r['data_shape']} pixels, {len(r['seeds'])} seeds; "
            f"NME over the distance of the outer eye corners, {r['domain']}, aligned by the five labelled points.\n\n"
            + markdown_table(rows)
        )
    return "\n\n".join(parts)


def speed_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    return _speed(results.runs_on_all_engines(), with_model=True)


#: Stages of latency.py.
_STAGES = ("decode", "preprocess", "network", "postprocess", "total")


def _speed(runs: list[tuple[dict, dict]], with_model: bool) -> str:
    # Results of before there were engines to choose are MXNet's.
    engines = {one.get("engine", "mxnet") for _, one in runs}
    with_engine = engines != {"mxnet"}
    engine = ["engine"] if with_engine else []
    head = ["size", *engine, "threads", "batch", *_STAGES, "photos/s", "peak MiB"]
    rows = [["model", *head] if with_model else head]
    for result, one in runs:
        medians = (f"{one['median_ms'][stage]:.1f}" for stage in _STAGES)
        cells = [
            _size(result["size"]),
            *([_ENGINES[one.get("engine", "mxnet")]] if with_engine else []),
            str(one["threads"]),
            str(one["batch"]),
            *medians,
            f"{one['photos_per_second']:.1f}",
            f"{one['peak_memory_mib']:.0f}",
        ]
        rows.append([f"`{one['model']}`", *cells] if with_model else cells)
    if not runs:
        return ""
    machines = sorted({f"{r['machine']['cpu']}, {r['machine']['cores']} cores" for r, _ in runs})
    what = "Median milliseconds a batch" + ("" if with_engine else ", MXNet") + f", {'; '.join(machines)}."
    if with_engine:
        what += (
            " The preprocess of an artefact is the canvas alone: normalisation, decoding and suppression are inside of "
            "its network."
        )
    return f"{what}\n\n" + markdown_table(rows)


def _size(size: int | str | Sequence[int]) -> str:
    """A long side, "stored", or a canvas as --size takes it: 480x640, height first."""
    return str(size) if isinstance(size, (int, str)) else "x".join(map(str, size))


#: Engine of a result of deploy.py -> the head of its column.
_ENGINES = {
    "artefact": "artefact",
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "openvino_bf16": "OpenVINO bf16",
    "ncnn": "ncnn",
    "mxnet": "MXNet",
}


def deploy_table(facts: list[ModelFacts], results: Results, path: Path) -> str:
    if not results.deploy:
        return ""
    machines = sorted({f"{r['machine']['cpu']}, {r['machine']['cores']} cores" for r in results.deploy})
    parts = [
        f"Median milliseconds of one photo or face, the network alone / the whole way from photo to `Faces`; engines "
        f"taking turns in one run; {'; '.join(machines)}. The artefact's network does more than the others': "
        "normalisation, decoding and suppression are inside.",
        _deploy_speed(results.deploy),
        _deploy_artefacts(results.deploy),
        "Operations are those of the plain convolution. Winograd's way carries out fewer, so more than the whole peak "
        "can stand there.",
    ]
    measured = [r for r in results.deploy if r["accuracy"]]
    if measured:
        domains = sorted({domain for r in measured for domain in r["domains"].values()})
        parts.append(
            f"The same weights on {'; '.join(domains)}: AP@0.5 of detectors, NME of landmark nets from labelled boxes, "
            "not mirrored; and how far the faces are from MXNet's at most, in pixels of the photo."
        )
        parts.append(_deploy_accuracy(measured))
    left_out = {
        f"{_ENGINES[name]} of `{r['model']}`: {why}" for r in results.deploy for name, why in r["left_out"].items()
    }
    parts += [f"Left out: {'; '.join(sorted(left_out))}."] if left_out else []
    return "\n\n".join(parts)


def _canvas(result: dict) -> list[str]:
    height, width = result["size_hw"]
    return [f"`{result['model']}`", f"{width} wide, {height} high"]


def _deploy_speed(results: list[dict]) -> str:
    there = {name for r in results for one in r["runs"] for name in one["median_ms"]}
    names = [name for name in _ENGINES if name in there]
    rows = [["model", "canvas", "threads", *(_ENGINES[name] for name in names)]]
    for r in results:
        for one in r["runs"]:
            cells = []
            for name in names:
                both = (one["median_ms"].get(name), one["end_to_end_ms"].get(name))
                cells.append(" / ".join("-" if ms is None else f"{ms:.1f}" for ms in both))
            rows.append([*_canvas(r), str(one["threads"]), *cells])
    return markdown_table(rows)


def _deploy_artefacts(results: list[dict]) -> str:
    head = [
        "library",
        "each further shape",
        "loaded after",
        "peak memory",
        "GFLOP/s, one thread",
        "of peak",
        "schedules",
    ]
    rows = [["artefact", "canvas", *head]]
    for r in results:
        artefact, start = r["artefact"], r["start_up"]
        one = min(r["runs"], key=lambda each: each["threads"])
        memory = "-" if start["peak_memory_mib"] is None else f"{start['peak_memory_mib']:.0f} MiB"
        cells = [f"{artefact['library_bytes'] / 2**20:.2f} MiB", f"{artefact['growth_bytes'] / 2**20:+.2f} MiB"]
        cells += [f"{start['ms']:.0f} ms", memory, f"{one['gflops']['artefact']:.0f}"]
        cells += [_percent(one["share_of_peak"]["artefact"], 0), artefact["schedules"]]
        rows.append([*_canvas(r), *cells])
    return markdown_table(rows)


def _deploy_accuracy(results: list[dict]) -> str:
    rows = [["model", "canvas", "engine", "AP@0.5", "NME", "boxes off", "points off", "scores off", "on one side only"]]
    for r in results:
        for name in (name for name in _ENGINES if name in r["accuracy"]):
            row = r["accuracy"][name]
            beside = row.get("beside_mxnet", {})
            points = [value for value in (beside.get("points"), row.get("labelled_points")) if value is not None]
            nme = ", ".join(f"{_percent(value)} ({source})" for source, value in row.get("nme", {}).items())
            cells = [figure(row.get("ap50"), 4), nme or "-"]
            cells += [f"{beside['boxes']:.4f}" if beside else "-", f"{max(points):.4f}" if points else "-"]
            cells += [f"{beside['scores']:.1e}" if beside else "-", str(len(beside["one_sided"])) if beside else "-"]
            rows.append([*_canvas(r), _ENGINES[name], *cells])
    return markdown_table(rows)


def figures(model: str, results: Results) -> str:
    """All that was measured of a model, for its card."""
    parts = []
    detection = [r for r in results.detection if r["model"] == model]
    found = [r for r in detection if "ap50" in r]
    if found:
        parts.append(_detection(found, with_model=False))
    for r in found:
        if r["rotate"] == 0 and not r.get("min_face"):
            parts.append(f"On {r['domain']}, {looked_at(r)}:\n\n" + _by_size(r))
        if "comparison" in r:
            parts.append(_comparison(r))
    parts += [
        f"Five points: mean error {100 * r['nme5']:.2f} % of the face's size, sqrt(width x height) of its box, over "
        f"{r['nme5_faces']} faces found ({r['nme5_missed']} not found); {r['domain']}, {looked_at(r)}."
        for r in detection
        if r["nme5"] is not None
    ]
    landmarks = [r for r in results.landmarks if r["model"] == model]
    if landmarks:
        parts.append(_landmarks(landmarks, with_model=False))
    parts += [
        f"From the detector's faces instead of labelled boxes ({r['end_to_end']}): {100 * r['relative']:+.1f} % of the "
        f"NME, over the {r.get('compared', r['faces'] - r['missed'])} faces found in both ways."
        for r in landmarks
        if r.get("relative") is not None
    ]
    best = results.main_landmarks_of(model)
    if best:
        parts.append(f"NME by part, {best['domain']}, {aligned(best)}:\n\n" + _by_group(best))
    parts += _pose([r for r in results.pose if r["model"] == model], with_model=False)
    parts += _meshes([r for r in results.mesh if r["model"] == model])
    parts += _attention([r for r in results.attention if r["model"] == model])
    parts += _pose_time([r for r in results.pose_time if r["model"] == model])
    runs = [(result, one) for result, one in results.runs_on_all_engines() if one["model"] == model]
    if runs:
        parts.append(_speed(runs, with_model=False))
    parts += [
        f"Memory: {r['photos']:,} small photos in one process: {r['settled_mib']:.0f} MiB after "
        f"{r['settled_after']:,}, at most {r['growth_mib']:.0f} MiB more later."
        for r in results.memory
        if r["model"] == model
    ]
    return "\n\n".join(parts)


def _comparison(result: dict) -> str:
    c = result["comparison"]
    return (
        f"AP@0.5 {figure(c['ap50_a'])} against {figure(c['ap50_b'])} of {c['model']} ({c['with']}), "
        f"{result['domain']}: difference {c['difference']:+.3f}, 95 % interval {c['low']:+.3f} to {c['high']:+.3f}, "
        f"p = {c['p_value']:.4f} (paired bootstrap over photos, {c['resamples']} resamples)."
    )


_REGIONS = {
    "models": models_table,
    "untrained_models": untrained_models_table,
    "landmark_models": landmark_models_table,
    "detection": detection_table,
    "five_points": five_points_table,
    "landmarks": landmarks_table,
    "pose": pose_table,
    "mesh": mesh_table,
    "regressed": regressed_table,
    "pose_time": pose_time_table,
    "attention": attention_table,
    "decoding": decoding_table,
    "ablation": ablation_table,
    "ablation_mos": ablation_mos_table,
    "ablation_kpnet": ablation_kpnet_table,
    "ablation_maskface": ablation_maskface_table,
    "ablation_retinaface": ablation_retinaface_table,
    "face_time": face_time_table,
    "depth": depth_table,
    "speed": speed_table,
    "deploy": deploy_table,
    "devices": estimate_devices.devices_table,
}


if __name__ == "__main__":
    run(main)
