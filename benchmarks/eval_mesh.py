"""Score the meshes of a detector: vertices, and the points, poses and parts that follow from them.

    python benchmarks/eval_mesh.py --model retinaface_mobilenet0.25_mesh468_fc26 --data facedata/lmk_val.jsonl \
        --meshes facedata/mesh468.npz --json out/mesh.json --picture out/mesh.png
    python benchmarks/eval_mesh.py --model NAME --data data/aflw2000_all.jsonl --images ~/AFLW2000   # tables 3 and 5
    python benchmarks/eval_mesh.py --model NAME --data data/widerface_val.jsonl --crops NET          # table 2
    python benchmarks/eval_mesh.py --model NAME --data ~/SmithCVPR2013_dataset_resized --format helen_parts  # table 4
    python benchmarks/eval_mesh.py --model NAME --data X.jsonl --meshes X.npz --topology bfm1103.npz \
        --dense map.npz --dense-topology bfm53215.npz                    # parts as the paper's, of the denser mesh
    python benchmarks/eval_mesh.py --detections found.jsonl --data X.jsonl --meshes X.npz

``found.jsonl`` is what ``gluonface detect --json`` writes. Photos are in ``images/`` beside the data unless --images
says otherwise. What the data label is measured, the rest is left out; detectors without mesh are scored by their five
points, so that those with and without can be set side by side. One look at each photo: test-time augmentation keeps no
meshes (eval_detection.py and eval_widerface.py have it for boxes and points).

A labelled face and the detection that overlaps it most (intersection over union of at least --iou, 0.5 by default, each
detection once) belong together; a face without one is missed: counted, infinitely far off in AUC and failure rate, and
in none of the means. The box of 300-W and AFLW2000-3D is the one round the 68 points, while detectors' boxes include
the forehead: of turned faces the two overlap little, and a smaller --iou, such as 0.3, keeps these in the means.
Lengths are shares of the face's size, sqrt(width x height) of its labelled box.

  vertices  mean distance from the labelled meshes (--meshes) on the image (xy), of depth from the tip of the nose (z),
            in space (xyz)
  points    five points as people set them, and 68: of the points head, of the mesh by the index maps of its topology,
            of the labelled meshes, which no mesh can be expected to beat, and with --crops of a landmark net on the
            labelled boxes; AUC and failure rate up to 8 and 10 %
  pose      by least squares between mesh and canonical shape, beside that of the labelled meshes
  parts     intersection over union with the parts of the labelled meshes, pixel by pixel over all faces found; with
            --dense of the denser meshes that a linear map makes of both, as the paper takes parts of 53,215 vertices
  |yaw|     NME, and the yaw error with its standard deviation, of faces within 30, 60 and beyond; "mean" is that of the
            three, as in table 3. The last are the profiles of figure 8. All faces count, also those beyond 99 degrees.

--format helen_parts compares parts with those people drew. The paper's table 4 compares with parts that were themselves
derived from a fitted face: figures of labelled meshes are the nearer to it.

The paper's crop-based rows of table 2 ("gtbox") are nets that regress five points from a crop by the labelled box.
--crops runs a heatmap net of this package in their place: the same crops, another way of reading points off them.

AFLW2000-3D is a part of AFLW. --trained-on leaves out photos of the test that were trained on, by name or content: a
net that has seen some is scored on the others. The paper goes the other way: its training leaves out the faces of the
test, all of which count. train/prepare_aflw.py --without does so.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import (
    describe_photos,
    figure,
    looked_at,
    provenance,
    rounded,
    run,
    table,
    write_result,
    zoomed,
)
from detectors import (
    LEAST_IOU,
    add_detector_arguments,
    add_view_arguments,
    build_analyzer,
    check_arguments,
    detect,
    gathered,
    match_faces,
    read_detections,
    read_photos,
    scales,
    view,
)
from eval_landmarks import per_cent, predict
from eval_widerface import progress

from gluonface import Faces
from gluonface.alignment import LandmarkPredictor
from gluonface.data import FaceSample, part_labels, read_helen_parts, read_jsonl, without_photos_of
from gluonface.data.facejsonl import attach_meshes
from gluonface.errors import DataError
from gluonface.faces import SCHEMES
from gluonface.image import load_image, save_image
from gluonface.mesh import (
    PAPER_PARTS,
    PARTS,
    DenseMap,
    MeshTopology,
    load_topology,
    part_iou,
    pose_from_mesh,
    segment_parts,
    topology_468,
)
from gluonface.metrics import PAPER_YAW_BINS, evaluate_landmarks, evaluate_mesh, evaluate_pose, summarize_by_yaw
from gluonface.metrics.pose_scoring import ANGLES
from gluonface.pose import pose_distance
from gluonface.viz import contact_sheet, draw_axes, draw_mesh

#: Of AUC and failure rate: what is usual for landmarks, and the paper's table 2.
THRESHOLDS = (0.08, 0.10)
#: Where points and poses come from -> words.
FROM = {
    "points": "its points",
    "mesh": "its mesh",
    "labelled_mesh": "labelled meshes",
    "crops": "crops by labelled boxes",
}
#: Faces of a picture, and pixels of each of their tiles.
_DRAWN, _TILE = 10, 240


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    topology = load_topology(args.topology) if args.topology else topology_468()
    parts = PartSource.read(args, topology)
    samples, left_out = read_samples(args, topology)
    seen = {"size": None, "flip": False}
    if args.detections:
        detections, name = read_detections(args.detections, samples)
    else:
        analyzer, name = build_analyzer(args, args.score)
        seen = {**view(args), "score_thresh": analyzer.score_thresh}
        detections = list(progress(detect(analyzer, read_photos(samples), args), len(samples)))
    found = match_faces(samples, detections, least_iou=args.iou)
    meshes = gathered(name, samples, found, detections, "mesh", (topology.num_vertices, 3))
    if meshes is not None:
        meshes = topology.checked(meshes, dims=(3,))
    elif args.picture or parts.dense or args.format == "helen_parts":
        raise DataError(f"{name} gives no meshes: there are no parts and there is nothing to draw")

    result = {
        "model": name,
        **seen,
        "topology": topology.name,
        "dense_map": args.dense and Path(args.dense).name,
        "dense_topology": parts.topology.name if parts.dense else None,
        "data": Path(args.data).stem,
        "domain": args.domain or describe_photos(args.data, samples),
        "photos": len(samples),
        "faces": sum(len(sample.faces) for sample in samples),
        "iou": args.iou,
        "missed": sum(len(sample.faces) - len(one.labels) for sample, one in zip(samples, found)),
        "trained_on": left_out,
    }
    if args.format == "helen_parts":
        kinds = {**dict.fromkeys(("mesh", "five", "dense", "pose")), "parts": drawn_parts(samples, meshes, parts)}
    else:
        five = gathered(name, samples, found, detections, "landmarks5", (5, 2))
        crops = None if args.crops is None else on_crops(args, samples)
        kinds = figures(Truth.of(samples), topology, meshes, five, crops)
        kinds["parts"] = labelled_parts(samples, meshes, parts)
    if not any(kinds.values()):
        raise DataError(f"{args.data} labels nothing that {name} gives: meshes (--meshes), points by people or poses")
    result = rounded({**result, "crops": args.crops, **kinds, **provenance(argv)})
    print(describe(result))
    if args.picture:
        draw_picture(args.picture, samples, meshes, topology, parts)
    if args.json:
        write_result(args.json, result)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_detector_arguments(parser)
    add_view_arguments(parser)
    parser.add_argument("--score", type=float, metavar="T", help="take weaker or only surer faces than the net does")
    parser.add_argument("--detections", metavar="FILE", help="score these detections (JSON lines) instead of a model's")
    parser.add_argument("--data", required=True, metavar="JSONL", help="annotated photos, or the folder of --format")
    parser.add_argument("--format", choices=("jsonl", "helen_parts"), default="jsonl", help="see above")
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: images/ beside the data)")
    parser.add_argument("--sources", nargs="+", metavar="NAME", help="only photos of these sources of the data")
    parser.add_argument("--meshes", metavar="NPZ", help="labelled meshes, by the rows that the data name")
    parser.add_argument("--topology", metavar="NPZ", help="what vertices are (default: the 468 of the package)")
    parser.add_argument(
        "--dense", metavar="NPZ", help="linear map to denser meshes (gluonface.mesh.DenseMap), for parts"
    )
    parser.add_argument("--dense-topology", metavar="NPZ", help="what the vertices of the denser meshes are")
    parser.add_argument("--crops", metavar="NET", help="also points of this landmark net on the labelled boxes")
    parser.add_argument(
        "--iou",
        type=float,
        default=LEAST_IOU,
        metavar="T",
        help="a detection that overlaps a labelled face less is not its (default: %(default)s)",
    )
    parser.add_argument(
        "--trained-on",
        nargs="+",
        metavar="JSONL",
        help="leave out photos of the test that are in these, too; to leave the test's photos out of a training "
        "instead, as the paper does: train/prepare_aflw.py --without",
    )
    parser.add_argument("--trained-images", metavar="DIR", help="folder of their photos (default: images/ beside)")
    parser.add_argument("--domain", metavar="TEXT", help="what the photos are, in words, to stand beside the figures")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument(
        "--picture",
        metavar="PNG",
        help="draw ten faces found, from one side to the other: photo, mesh, axes of the head, parts. Photos for "
        "research only make a picture for research only",
    )
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    if bool(args.detections) == bool(args.model or args.insightface):
        parser.error("give either a detector (--model or --insightface) or --detections")
    if args.detections and args.score is not None:
        parser.error("--detections are scored as they are: no --score")
    if not 0 < args.iou <= 1:
        parser.error("--iou is above 0 and at most 1")
    if scales(args) or args.flip:
        parser.error("one look at each photo: test-time augmentation keeps no meshes")
    if args.format != "jsonl" and (args.images or args.sources or args.meshes or args.crops or args.trained_on):
        parser.error(f"--format {args.format}: no --images, --sources, --meshes, --crops or --trained-on")
    if bool(args.dense) != bool(args.dense_topology):
        parser.error("--dense and --dense-topology go together: the map, and what the vertices are that it gives")
    if args.dense and not (args.meshes or args.picture or args.format == "helen_parts"):
        parser.error("--dense is for parts: it goes with --meshes, --picture or --format helen_parts")
    if args.trained_images and not args.trained_on:
        parser.error("--trained-images goes with --trained-on")
    return args


# ---- labels ----------------------------------------------------------------------------------------------------------


def read_samples(args: argparse.Namespace, topology: MeshTopology) -> tuple[list[FaceSample], int]:
    """The photos that show faces, without ignore regions and with the labelled meshes, and how many were left out for
    having been trained on.
    """
    if args.format == "helen_parts":
        return read_helen_parts(args.data), 0
    samples = read_jsonl(args.data, args.images, args.sources)
    removed: list[FaceSample] = []
    for path in args.trained_on or ():
        samples, more = without_photos_of(samples, read_jsonl(path, args.trained_images))
        removed += more
    if args.meshes:
        samples = attach_meshes(samples, args.meshes, topology)
    samples = [dataclasses.replace(sample, faces=sample.faces[~sample.faces.ignore]) for sample in samples]
    samples = [sample for sample in samples if len(sample.faces)]
    if not samples:
        why = f" that was not trained on ({len(removed)} photos were)" if removed else ""
        raise DataError(f"{args.data}: no photo with a face{why}")
    return samples, len(removed)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is labelled of N faces, of one photo after another; NaN where it is not."""

    sizes: np.ndarray  # (N,) what lengths are divided by
    landmarks5: np.ndarray  # (N, 5, 2), as people set them
    landmarks68: np.ndarray  # (N, 68, 2)
    pose: np.ndarray  # (N, 3)
    mesh: np.ndarray | None  # (N, V, 3); None where no face has one

    @classmethod
    def of(cls, samples: list[FaceSample]) -> Truth:
        """The faces of photos."""
        faces = [sample.faces for sample in samples]
        five = [np.where(one.landmarks5_human[:, None, None], one.landmarks5, np.nan) for one in faces]
        dense = [one.landmarks if one.scheme == "68" else np.full((len(one), 68, 2), np.nan) for one in faces]
        sizes, pose = (np.concatenate([getattr(one, part) for one in faces]) for part in ("face_sizes", "pose"))
        shapes = {one.mesh.shape[1:] for one in faces if one.mesh is not None}
        mesh = None
        if shapes:
            bare = shapes.pop()
            mesh = np.concatenate(
                [np.full((len(one), *bare), np.nan, np.float32) if one.mesh is None else one.mesh for one in faces]
            )
        return cls(sizes, np.concatenate(five), np.concatenate(dense), pose.astype(np.float64), mesh)


# ---- parts of meshes -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PartSource:
    """What parts are read off: meshes as they are, or the denser ones that a linear map makes of them (section 4.5)."""

    topology: MeshTopology  # whose parts they are
    dense: DenseMap | None = None

    @classmethod
    def read(cls, args: argparse.Namespace, topology: MeshTopology) -> PartSource:
        """As --dense says, for meshes of a topology.

        Raises
        ------
        DataError
            A file cannot be read; the map is of other meshes, or the denser ones have no parts.
        """
        if not args.dense:
            return cls(topology)
        dense, own = DenseMap.load(args.dense), load_topology(args.dense_topology)
        wanted = (own.num_vertices, topology.num_vertices)
        if dense.matrix.shape != wanted:
            raise DataError(
                f"--dense {args.dense}: expected a matrix {wanted}, from the {wanted[1]} vertices of {topology.name} "
                f"(--topology) to the {wanted[0]} of {own.name} (--dense-topology), got {dense.matrix.shape}"
            )
        if not own.part_names:
            raise DataError(
                f"--dense-topology {args.dense_topology}: {own.name} names no parts; train/make_topology.py puts them "
                "in"
            )
        return cls(own, dense)

    def meshes(self, meshes: np.ndarray) -> np.ndarray:
        """Meshes (n, V, 3) as those that have the parts."""
        return meshes if self.dense is None else self.dense(meshes)

    def labels(self, meshes: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        """See `segment_parts`."""
        return segment_parts(self.meshes(meshes), self.topology, size_hw)


# ---- predictions -----------------------------------------------------------------------------------------------------


def on_crops(args: argparse.Namespace, samples: list[FaceSample]) -> dict[str, np.ndarray]:
    """Points (N, K, 2) of a landmark net on crops by the labelled boxes, by scheme."""
    predictor = LandmarkPredictor(args.crops, root=args.root)
    points = np.concatenate(predict(predictor, samples, "boxes"))
    scheme = predictor.net.scheme
    return {"5": SCHEMES[scheme].five_points(points), scheme: points}


# ---- figures ---------------------------------------------------------------------------------------------------------


def figures(truth: Truth, topology: MeshTopology, meshes, five, crops) -> dict:
    """Figures of vertices, five points, 68 points and pose; None where the detector or the data have none.

    Parameters
    ----------
    meshes : (N, V, 3) array or None
    five : (N, 5, 2) array or None
    crops : dict of str to (N, K, 2) array, or None
        See `on_crops`.
    """
    crops = crops or {}
    sources = {"mesh": meshes, "labelled_mesh": truth.mesh}
    rows = {"5": {"points": five}, "68": {}}
    maps = {"5": ["5"], "68": [scheme for scheme in topology.points if scheme.split("_")[0] == "68"]}
    for scheme, names in maps.items():
        for source, given in sources.items():
            for one in names:
                # The mean of the map's vertices; a second map to 68 points goes by its own name.
                key = source if one == scheme else f"{source}, {one}"
                mapped = one in topology.points or (one == "5" and "68" in topology.points)
                rows[scheme][key] = topology.points_of(given, one)[..., :2] if mapped and given is not None else None
        rows[scheme]["crops"] = crops.get(scheme)
    points = {
        scheme: {
            key: point_figures(predicted, truth, scheme, among_given=key.startswith("labelled_mesh"))
            for key, predicted in given.items()
        }
        for scheme, given in rows.items()
    }
    poses = {source: pose_figures(given, truth, topology) for source, given in sources.items()}
    kinds = {"five": points["5"], "dense": points["68"], "pose": poses}
    kinds = {kind: {key: row for key, row in rows.items() if row is not None} or None for kind, rows in kinds.items()}
    return {"mesh": vertex_figures(meshes, truth, topology), **kinds}


def vertex_figures(meshes: np.ndarray | None, truth: Truth, topology: MeshTopology) -> dict | None:
    if meshes is None or truth.mesh is None:
        return None
    rows = np.isfinite(truth.mesh).all(axis=(1, 2))
    if not rows.any():
        return None
    scores = evaluate_mesh(meshes[rows], truth.mesh[rows], truth.sizes[rows], topology.nose_tip)
    return scores.to_dict()


def point_figures(predicted: np.ndarray | None, truth: Truth, scheme: str, among_given: bool = False) -> dict | None:
    """Figures of predicted points (N, K, 2), NaN for missed faces; with ``among_given`` those do not count."""
    labelled = truth.landmarks5 if scheme == "5" else truth.landmarks68
    rows = np.isfinite(labelled).all(axis=2).any(axis=1)
    if predicted is None or not rows.any():
        return None
    if among_given:
        rows = rows & np.isfinite(predicted).all(axis=(1, 2))
        if not rows.any():
            return None
    sizes = truth.sizes[rows]
    scores = {t: evaluate_landmarks(predicted[rows], labelled[rows], scheme, sizes, t) for t in THRESHOLDS}
    one = scores[THRESHOLDS[0]]
    return {
        **{key: getattr(one, key) for key in ("nme", "faces", "missed")},
        **{key: {f"{t:g}": getattr(row, key) for t, row in scores.items()} for key in ("auc", "failure_rate")},
        "nme_by_yaw": by_yaw(one.errors, truth.pose[rows]),
    }


def pose_figures(meshes: np.ndarray | None, truth: Truth, topology: MeshTopology) -> dict | None:
    """Figures of the poses of meshes; of labelled ones over the faces that have one."""
    rows = np.isfinite(truth.pose).all(axis=1)
    if meshes is None or not rows.any():
        return None
    if meshes is truth.mesh:
        rows = rows & np.isfinite(meshes).all(axis=(1, 2))
        if not rows.any():
            return None
    predicted, _ = pose_from_mesh(meshes[rows], topology)
    scores = evaluate_pose(predicted, truth.pose[rows])
    off = np.full(len(predicted), np.nan)
    there = np.isfinite(predicted).all(axis=1)
    off[there] = pose_distance(predicted[there], truth.pose[rows][there])[:, 0]
    return {**scores.to_dict(), "yaw_by_yaw": by_yaw(off, truth.pose[rows])}


def by_yaw(errors: np.ndarray, pose: np.ndarray) -> dict | None:
    """`summarize_by_yaw` where poses are labelled."""
    return summarize_by_yaw(errors, pose[:, 0]) if np.isfinite(pose).all(axis=1).any() else None


def labelled_parts(samples: list[FaceSample], meshes: np.ndarray | None, parts: PartSource) -> dict | None:
    """Intersection over union with the parts of labelled meshes, over the faces found that have one: of each part, and
    as the paper's table 4 joins them.
    """
    if meshes is None or not parts.topology.part_names:
        return None
    predicted, truth, missed = [], [], 0
    for sample, found in zip(samples, by_photo(samples, meshes)):
        if sample.faces.mesh is None:
            continue
        labelled = np.isfinite(sample.faces.mesh).all(axis=(1, 2))
        there = labelled & np.isfinite(found).all(axis=(1, 2))
        missed += int((labelled & ~there).sum())
        for one, other in zip(found[there], sample.faces.mesh[there]):
            for maps, part in zip((predicted, truth), windowed(one, other, parts)):
                maps.append(part)
    if not predicted and not missed:
        return None
    names = parts.topology.part_names
    joined = part_iou(predicted, truth, names, PAPER_PARTS) if names == PARTS else None
    counts = {"faces": len(predicted) + missed, "missed": missed}
    return {**counts, "single": part_iou(predicted, truth, names), "joined": joined}


def windowed(one: np.ndarray, other: np.ndarray, parts: PartSource) -> list[np.ndarray]:
    """Label maps of two meshes (V, 3) of a face, of the part of the photo that holds the labelled one and what of the
    predicted one lies round it: a mesh gone wild needs no map of a million pixels.
    """
    low, high = other[:, :2].min(axis=0), other[:, :2].max(axis=0)
    low, high = np.floor(low - (high - low)), np.ceil(high + (high - low))
    width, height = (high - low).astype(int)
    shift = np.array([*low, 0])
    return [parts.labels((mesh - shift)[None], (height, width)) for mesh in (one, other)]


def drawn_parts(samples: list[FaceSample], meshes: np.ndarray, parts: PartSource) -> dict:
    """Intersection over union with parts that people drew, as table 4 joins them, over the photos whose face was
    found.
    """
    topology = parts.topology
    if topology.part_names != PARTS:
        raise DataError(f"{topology.name} has the parts {', '.join(topology.part_names) or 'none'}, not {PARTS}")
    predicted, truth = [], []
    for sample, found in zip(samples, by_photo(samples, meshes)):
        if np.isfinite(found).all():
            predicted.append(parts.labels(found, sample.size_hw))
            truth.append(part_labels(sample))
    # Which side the set calls left is not known, so that parts by themselves would say nothing.
    joined = part_iou(predicted, truth, PARTS, PAPER_PARTS)
    return {"faces": len(samples), "missed": len(samples) - len(predicted), "single": None, "joined": joined}


def by_photo(samples: list[FaceSample], rows: np.ndarray) -> list[np.ndarray]:
    """Rows (N, ...) of all faces as those of each photo."""
    return np.split(rows, np.cumsum([len(sample.faces) for sample in samples])[:-1])


# ---- text and picture ------------------------------------------------------------------------------------------------


def tables_of(result: dict) -> list[list[tuple[str, ...]]]:
    """The tables of a result, each a list of rows of cells, the first of them the head."""
    bins = [name for name, *_ in PAPER_YAW_BINS]
    tables = []
    if result["mesh"]:
        one = result["mesh"]
        cells = (str(one["faces"]), str(one["missed"]), *(per_cent(one[key]) for key in ("xy", "z", "xyz")))
        tables.append([("vertices, % of the face's size", "faces", "missed", "xy", "z", "xyz"), ("mesh", *cells)])
    shares = [words for t in THRESHOLDS for words in (f"AUC to {100 * t:g} %", f"over {100 * t:g} %")]
    rows = [("points, % of the face's size", "faces", "missed", "NME", *shares, *bins, "mean of the three")]
    for kind, words in (("five", "five points"), ("dense", "68 points")):
        for source, one in (result[kind] or {}).items():
            cells = [str(one["faces"]), str(one["missed"]), per_cent(one["nme"])]
            cells += [per_cent(one[key][f"{t:g}"]) for t in THRESHOLDS for key in ("auc", "failure_rate")]
            turned = one["nme_by_yaw"]
            cells += [per_cent(turned and turned["by_yaw"][name]["mean"]) for name in bins]
            rows.append((f"{words}, {in_words(source, result)}", *cells, per_cent(turned and turned["mean"])))
    tables += [rows] if len(rows) > 1 else []
    if result["pose"]:
        rows = [("pose, degrees", "faces", "missed", "MAE", *ANGLES, *(f"yaw of {name}" for name in bins))]
        for source, one in result["pose"].items():
            cells = [str(one["faces"]), str(one["missed"]), *(figure(one[key], 2) for key in ("mae", *ANGLES))]
            spread = (one["yaw_by_yaw"]["by_yaw"][name] for name in bins)
            cells += [f"{figure(row['mean'], 2)} ± {figure(row['spread'], 2)}" for row in spread]
            rows.append((in_words(source, result), *cells))
        tables.append(rows)
    for key in ("single", "joined"):
        if result["parts"] and result["parts"][key]:
            one = result["parts"]
            cells = (str(one["faces"]), str(one["missed"]), *map(per_cent, one[key].values()))
            # Results made without --dense may lack the key.
            source = f"mesh, mapped to {result['dense_topology']}" if result.get("dense_topology") else "mesh"
            tables.append([("parts, IoU in %", "faces", "missed", *one[key]), (source, *cells)])
    return tables


def in_words(source: str, result: dict) -> str:
    """Where points or poses come from; a second index map by its name."""
    first, _, index_map = source.partition(", ")
    words = f"{result['crops']} on labelled boxes" if first == "crops" else FROM[first]
    return f"{words}, map {index_map}" if index_map else words


def describe(result: dict) -> str:
    """The result as text."""
    parts = [
        f"{result['model']}, {looked_at(result)}\n{result['domain']}\n"
        f"{result['missed']} of {result['faces']} faces missed, found from an IoU of {result['iou']:g} on"
    ]
    if result["trained_on"]:
        parts.append(f"{result['trained_on']} photos that were trained on are left out")
    return "\n\n".join([*parts, *map(table, tables_of(result))])


def draw_picture(
    path: str, samples: list[FaceSample], meshes: np.ndarray, topology: MeshTopology, parts: PartSource
) -> None:
    """Ten faces, from one side to the other, two in a row, each drawn as `face_tiles` does."""
    owners = [(i, row) for i, sample in enumerate(samples) for row in range(len(sample.faces))]
    poses, _ = pose_from_mesh(meshes, topology)
    there = np.flatnonzero(np.isfinite(poses).all(axis=1))
    if not len(there):
        raise DataError(f"{path}: no labelled face was found, there is nothing to draw")
    order = there[np.argsort(poses[there, 0], kind="stable")]
    chosen = order[np.linspace(0, len(order) - 1, min(_DRAWN, len(order))).round().astype(int)]
    tiles = []
    for k in chosen:
        i, row = owners[k]
        image = load_image(samples[i].image_path)
        tiles += face_tiles(image, samples[i].faces.boxes[row], meshes[k], poses[k], topology, parts)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_image(path, contact_sheet(tiles, (_TILE, _TILE), columns=10))


def face_tiles(
    image: np.ndarray, box: np.ndarray, mesh: np.ndarray, pose: np.ndarray, topology: MeshTopology, parts: PartSource
) -> list[np.ndarray]:
    """A face five times: as it is, with its mesh as lines and as a surface, the axes of the head, its parts."""
    middle, scale = (box[:2] + box[2:]) / 2, _TILE / (1.3 * (box[2:] - box[:2]).max())
    plain, _ = zoomed(image, Faces([box], [1.0], size_hw=image.shape[:2]), middle, scale, _TILE)
    shown = (mesh - (*middle, 0)) * scale + (_TILE / 2, _TILE / 2, 0)
    painted = plain
    if parts.topology.part_names:
        painted = draw_mesh(plain, parts.meshes(shown[None]), parts.topology, "parts")
    return [
        plain,
        draw_mesh(plain, shown[None], topology),
        draw_mesh(plain, shown[None], topology, "shaded"),
        draw_axes(plain, pose, shown[topology.nose_tip, :2], _TILE / 3),
        painted,
    ]


if __name__ == "__main__":
    run(main)
