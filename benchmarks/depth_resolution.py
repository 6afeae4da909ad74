r"""How deep a net must be for the photos that it sees: Figure 1 of the KPNet paper on data at hand.

    python benchmarks/depth_resolution.py --out runs/depth --train facedata/det_train.jsonl \
        --val facedata/det_val.jsonl facedata/lmk_val.jsonl --json benchmarks/results/ablation/depth_resolution.json \
        --picture benchmarks/results/ablation/depth_resolution.png

The paper trains detectors of 17 to 50 layers, cut from ResNet-50, on photos of three sizes, with anchors that grow with
them, and finds that enlarging photos takes a deep net, for its receptive field, while on small photos a shallow one is
as good. Here the nets are DRNet with more or fewer residual blocks (--blocks), hence layers and pixels that a cell
sees, with one level of anchors as in the paper's Table 6. Each is trained at each long side (--sizes): so a photo shows
the same at each, the paper's anchors, 16, 32 and 64 times the root of 2 at 320 pixels, grow with it. Faces for which
the smallest is too large, under 10 pixels at 320, are neither learnt nor counted.

All start from random weights, see the whole photos --epochs times, as they are, and the learning rate falls along a
cosine. A run has --minutes at most; one that the time cuts short is said to be so, drawn hollow and not compared.
Runs that were made are not made again, and what was stopped goes on where it was; --collect tabulates what is there.

Measured is the recall of the 100 best proposals of each photo of --val (IoU of at least .5, suppressed at .6). It asks
nothing of the score, so that the photos need not be labelled completely, and some faces are found by chance. Each net
is compared with the next shallower one at its size; a difference counts only where it is larger than twice its standard
error over the seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ablation import (
    add_run_arguments,
    cell,
    check_run_arguments,
    cut_short_in_words,
    epochs_done,
    keep_flags,
    measured_once,
    runs_in_words,
    runs_of,
    seconds_of,
    summary_of,
    tabulate,
)
from common import (
    describe_photos,
    markdown_table,
    new_figure,
    run,
    save_figure,
)
from detectors import most_proposals

from gluonface._compat import mx
from gluonface.data import FaceSample, read_jsonl
from gluonface.data.store import SampleStore
from gluonface.data.transforms.presets.kpnet import WholePhoto
from gluonface.data.transforms.presets.retinaface import RetinaFaceSamples
from gluonface.decode import AnchorSpec
from gluonface.engine import Engine, TrainConfig, seed_everything
from gluonface.errors import DataError
from gluonface.loss import AnchorLoss
from gluonface.metrics import match_photos, recall_at_top
from gluonface.model_zoo import model_facts
from gluonface.model_zoo.counting import count_macs, count_parameters
from gluonface.model_zoo.detector import FaceDetector
from gluonface.model_zoo.kpnet import RPN_ANCHORS, AnchorNetwork
from gluonface.model_zoo.kpnet_backbones import DRNet
from gluonface.targets import AnchorTargets
from gluonface.training.detection import NormalisedBatches
from gluonface.training.inputs import batch_loader, image_preparer

#: Long side of photos to which `RPN_ANCHORS` belong: the upper half of the paper's 200 to 400 pixels.
ANCHORS_AT = 320
#: Sides of the smallest faces there: they overlap the smallest anchor by the .2 that `AnchorTargets` asks for at least.
SMALLEST_AT = 10.0
#: Proposals of a photo that count.
TOP = 100
#: The figure: key, words, factor, decimals.
RECALL = ("recall_top100", f"recall of {TOP} proposals, %", 100, 2)


@dataclass(frozen=True)
class Net:
    """A net at an input size.

    Attributes
    ----------
    blocks : int
        Of `DRNet`.
    size : int
        Long side of the photos in pixels.
    """

    blocks: int
    size: int

    @property
    def layers(self) -> int:
        """Of the backbone, as the paper counts DRNet's 11: not the projections of shortcuts."""
        return 5 + 2 * self.blocks

    @property
    def label(self) -> str:
        """What it is called in a table."""
        return f"{self.layers} layers at {self.size}"

    @property
    def folder(self) -> str:
        """Of its runs, before the seed."""
        return f"blocks{self.blocks}-size{self.size}"

    @property
    def field(self) -> int:
        """Side in pixels of what an anchor's predictions can depend on."""
        # From the predictions back: 5 cells of stride 2 (two 3x3), so 3 of stride 4, 5 before a 3x3, and 3 of stride 8;
        # there each of the blocks adds 4, but the first, of stride 2, 2.
        coarse = 3 + 4 * (self.blocks - 1) + 2
        # Its other convolution, of stride 2; the block of stride 4; the pooling; the first convolution, of stride 2.
        return 2 * (2 * (2 * coarse + 1 + 4)) + 1

    @property
    def spec(self) -> AnchorSpec:
        """The paper's anchors, as much larger as the photos are."""
        scale = self.size / ANCHORS_AT
        sizes = tuple(tuple(side * scale for side in level) for level in RPN_ANCHORS.sizes)
        return AnchorSpec(RPN_ANCHORS.strides, sizes)

    @property
    def min_face(self) -> float:
        """Smaller faces, in pixels of the input, do not count."""
        return SMALLEST_AT * self.size / ANCHORS_AT

    def build(self) -> FaceDetector:
        """The net, not initialised."""
        spec, facts = self.spec, model_facts("kpnet_drnet_fc26")
        return FaceDetector(AnchorNetwork(DRNet(self.blocks), spec, 5), spec, facts, num_points=5)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    rows = [Net(blocks, size) for size in sorted(set(args.sizes)) for blocks in sorted(set(args.blocks))]
    test = Test(args)

    def train_row(row: Net, seed: int, folder: Path, minutes: float) -> None:
        train_net(args, row, seed, folder, minutes)

    about = {
        "system": "kpnet",
        "epochs": args.epochs,
        "sizes": sorted(set(args.sizes)),
        "domain": test.domain,
        "face_sizes": test.face_sizes(ANCHORS_AT),
    }
    return tabulate(
        args,
        argv,
        rows,
        train_row,
        test,
        every_row=rows,
        about=about,
        paper="Song et al. 2020, Figure 1 (a picture: no numbers are told)",
        table=lambda *runs: {"rows": summarise(*runs)},
        describe=describe,
        plot=plot,
    )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser, minutes=15)
    nets = parser.add_argument_group("nets")
    nets.add_argument(
        "--blocks",
        type=int,
        nargs="+",
        default=[1, 3, 6, 12],
        metavar="N",
        help="residual blocks at stride 8; 3 is DRNet (default: 1 3 6 12, 7 to 29 layers)",
    )
    nets.add_argument(
        "--sizes", type=int, nargs="+", default=[160, 320, 640], metavar="N", help="long sides (default: 160 320 640)"
    )
    data = parser.add_argument_group("data and training")
    data.add_argument("--train", metavar="JSONL", help="annotations to learn from, all faces of each photo")
    data.add_argument("--sources", nargs="+", metavar="NAME", help="learn from these sources of the file only")
    data.add_argument("--val", required=True, nargs="+", metavar="JSONL", help="annotations to measure on")
    data.add_argument("--images", metavar="DIR", help="folder of the photos (default: images/ beside each)")
    data.add_argument("--batch-size", type=int, default=16, metavar="N", help="(default: %(default)s)")
    data.add_argument("--lr", type=float, default=1e-3, help="of Adam, at first (default: %(default)s)")
    data.add_argument("--num-workers", "-j", type=int, default=1, metavar="N", help="data loading threads (default: 1)")
    data.add_argument("--gpus", default="", help="GPUs to train on, e.g. 0,1 (default: the CPU)")
    args = parser.parse_args(argv)
    check_run_arguments(parser, args)
    if not args.train and not args.collect:
        parser.error("give --train, or --collect for the runs that are there")
    if min(args.blocks) < 1 or min(args.sizes) < 32:
        parser.error("--blocks are at least 1, --sizes at least 32")
    return args


# ---- training --------------------------------------------------------------------------------------------------------


def train_net(args: argparse.Namespace, row: Net, seed: int, folder: Path, minutes: float) -> None:
    """Make a run, or go on with it, in so many minutes."""
    told = {"train": args.train, "sources": " ".join(args.sources or ()), "blocks": row.blocks, "size": row.size}
    told |= {"epochs": args.epochs, "batch-size": args.batch_size, "lr": args.lr, "seed": seed}
    keep_flags(folder, [f"--{name}={value}" for name, value in told.items() if value != ""])
    config = TrainConfig(
        gpus=args.gpus,
        num_workers=args.num_workers,
        batch_size=args.batch_size,
        epochs=args.epochs,
        resume=str(folder) if epochs_done(folder) else "",
        lr=args.lr,
        lr_mode="cosine",
        warmup_epochs=0.2,
        optimizer="adam",
        wd=1e-5,
        seed=seed,
        save_prefix=str(folder),
        keep_checkpoints=1,
        max_minutes=minutes,
    )
    seed_everything(seed)
    net = row.build()
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.hybridize(static_alloc=True, static_shape=True)
    anchors = AnchorLoss()
    anchors.hybridize(static_alloc=True)

    def losses(net, x, *targets):
        return dict(zip(("cls", "box", "landmark"), anchors(*net.network(x), *targets)))

    engine = Engine(net, losses, config, prepare=image_preparer(net.facts))
    views = RetinaFaceSamples(
        SampleStore(read_jsonl(args.train, args.images, args.sources), "bytes"),
        WholePhoto(size=row.size, min_face=row.min_face),
        seed=seed,
    )
    targets = AnchorTargets((row.size, row.size), row.spec)
    with batch_loader(views, targets.encode_labels, config, "thread", engine.rank, engine.num_workers) as loader:
        engine.fit(lambda epoch: NormalisedBatches(loader.epoch(epoch), _positive_anchors, _positive_anchors))


def _positive_anchors(images, cls_targets, *others) -> int:
    return (cls_targets == 1).sum()


# ---- what is measured ------------------------------------------------------------------------------------------------


class Test:
    """Figures of a run's last weights."""

    def __init__(self, args: argparse.Namespace):
        found = [read_jsonl(path, args.images) for path in args.val]
        self.samples = [_without_small(sample) for sample in itertools.chain(*found)]
        counts = [sum(int((~_without_small(sample).faces.ignore).sum()) for sample in one) for one in found]
        if not sum(counts):
            raise DataError(f"{', '.join(args.val)}: no face is at least {SMALLEST_AT:g} pixels at {ANCHORS_AT}")
        self.domain = "; ".join(describe_photos(path, one, faces) for path, one, faces in zip(args.val, found, counts))

    def face_sizes(self, size: int) -> list[float]:
        """Sizes of the faces in pixels of photos of that long side."""
        return np.concatenate([_sizes(sample, size)[~sample.faces.ignore] for sample in self.samples]).tolist()

    def __call__(self, row: Net, folder: Path) -> dict:
        """Figures of the run in a folder, measured once and kept there."""
        about = {"epochs": epochs_done(folder), "domain": self.domain}
        return measured_once(folder / "test.json", about, lambda: self.figures(row, folder))

    def figures(self, row: Net, folder: Path) -> dict:
        """Recall, and what the net takes."""
        net = row.build()
        net.load_parameters(str(folder / "last.params"))
        net.hybridize()
        proposed = most_proposals(net, TOP, row.size).stream(sample.image_path for sample in self.samples)
        return {
            "seconds": seconds_of(folder),
            "recall_top100": recall_at_top(match_photos(proposed, [sample.faces for sample in self.samples]), TOP),
            "gf": count_macs(net.network, (1, 3, row.size, row.size)) / 1e9,
            "params": count_parameters(net),
        }


def _sizes(sample: FaceSample, size: int) -> np.ndarray:
    return sample.faces.face_sizes * (size / max(sample.size_hw))


def _without_small(sample: FaceSample) -> FaceSample:
    """The photo with faces that do not count as ignore regions."""
    faces = sample.faces
    ignore = faces.ignore | (_sizes(sample, ANCHORS_AT) < SMALLEST_AT)
    return dataclasses.replace(sample, faces=faces.with_(ignore=ignore))


# ---- the table -------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Net], seeds: Sequence[int], measured: dict, epochs: int) -> list[dict]:
    """A dict a row: what each seed gave, its mean, and whether it differs from the next shallower net at that size by
    more than chance.
    """
    result, before = [], None
    for row in rows:
        found = runs_of(row, seeds, measured)
        if not found:
            continue
        shallower = before if before and before.size == row.size else None
        one = next(iter(found.values()))
        result.append(
            {
                "label": row.label,
                "blocks": row.blocks,
                "layers": row.layers,
                "field": row.field,
                "size": row.size,
                "gf": one["gf"],
                "params": one["params"],
                "compared_with": shallower.label if shallower else "",
                **summary_of((RECALL[0],), found, runs_of(shallower, seeds, measured) if shallower else {}, epochs),
            }
        )
        before = row
    return result


def describe(result: dict) -> list[str]:
    """The result in Markdown: what was done, and the table, a line a net, a column a size."""
    key, words, factor, digits = RECALL
    parts = [
        f"DRNet with more or fewer residual blocks and one level of anchors that grow with the photos, "
        f"{runs_in_words(result)} from random weights: {words} at each long side, of faces of at least "
        f"{SMALLEST_AT:g} pixels at {ANCHORS_AT}, on {result['domain']}; in brackets the seeds, then the difference "
        "from the next shallower net."
    ]
    table = [["layers", "parameters, M", "a cell sees, pixels", *(f"long side {size}" for size in result["sizes"])]]
    for layers in sorted({r["layers"] for r in result["rows"]}):
        of_size = {r["size"]: r for r in result["rows"] if r["layers"] == layers}
        one = next(iter(of_size.values()))
        cells = [str(layers), f"{one['params'] / 1e6:.2f}", str(one["field"])]
        for size in result["sizes"]:
            r = of_size.get(size)
            cells.append(f"{cell(r['figures'][key], factor, digits)} at {r['gf']:.2f} GF" if r else "-")
        table.append(cells)
    parts.append(markdown_table(table))
    return parts + cut_short_in_words(result)


# ---- the picture -----------------------------------------------------------------------------------------------------


def plot(path: str, result: dict) -> None:
    """As in the paper: recall over the long side, a line a net, multiply-accumulates at the dots; in the corner the
    sizes of the faces.
    """
    key, words, factor, _ = RECALL
    drawing = new_figure(figsize=(9, 5.5))
    axes, corner = drawing.subplots(1, 2, width_ratios=(3, 1))
    sizes = result["sizes"]
    for i, layers in enumerate(sorted({r["layers"] for r in result["rows"]})):
        rows = [r for r in result["rows"] if r["layers"] == layers and r["figures"][key]["mean"] is not None]
        if not rows:
            continue
        colour, field = f"C{i}", rows[0]["field"]
        means = [factor * r["figures"][key]["mean"] for r in rows]
        axes.plot([r["size"] for r in rows], means, color=colour, label=f"{layers} layers, sees {field} pixels")
        for r, mean in zip(rows, means):
            values = [factor * value for value in r["figures"][key]["values"]]
            axes.plot([r["size"]] * 2, [min(values), max(values)], color=colour, lw=5, alpha=0.25)
            axes.plot(r["size"], mean, "o", color=colour, mfc="none" if r["cut_short"] else colour)
            axes.annotate(
                f"{r['gf']:.2f} GF", (r["size"], mean), (5, 4), textcoords="offset points", size=7, color=colour
            )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="long side of the photos, pixels", ylabel=words)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    faces = np.asarray(result["face_sizes"])
    corner.hist(faces, bins=np.geomspace(SMALLEST_AT, max(ANCHORS_AT, faces.max()), 13), color="grey")
    corner.set_xscale("log", base=2)
    corner.set(xlabel=f"size of a face at {ANCHORS_AT}, pixels", ylabel="faces")
    hollow = ", hollow: cut short" if any(r["cut_short"] for r in result["rows"]) else ""
    drawing.suptitle(
        f"DRNet of several depths, {runs_in_words(result)}, bars as wide as the seeds are apart{hollow}\n"
        f"{result['domain']}",
        size=9,
    )
    save_figure(drawing, path)


if __name__ == "__main__":
    run(main)
