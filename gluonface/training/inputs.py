"""What the training scripts have in common before the first layer: where data come from, and images on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .._compat import mx
from ..data.loader import BatchLoader, Samples
from ..errors import InputError
from ..model_zoo import ModelFacts
from .config import TrainConfig

__all__ = ["add_base_argument", "add_data_arguments", "batch_loader", "image_preparer", "source_weights"]


def add_data_arguments(group, figure: str, *, train_required: bool = True) -> None:
    """Give an argument group the flags that say which annotated photos to learn from and to test on.

    Parameters
    ----------
    group : argument group of argparse
    figure : str
        What is measured on ``--val`` after each epoch, for the help.
    train_required : bool
        False: the script itself says what may stand in the place of ``--train``.
    """
    group.add_argument("--train", required=train_required, metavar="JSONL", help="annotations to learn from")
    group.add_argument("--val", metavar="JSONL", help=f"annotations for the {figure} after each epoch")
    group.add_argument("--images", metavar="DIR", help="folder of the images (default: images/ beside the annotations)")
    group.add_argument("--sources", nargs="+", metavar="NAME", help="learn from these sources of the file only")
    group.add_argument(
        "--source-weight",
        action="append",
        default=[],
        metavar="NAME=WEIGHT",
        help="how much of a source an epoch takes (default 1: each image once)",
    )
    group.add_argument("--cache", choices=("bytes", "memory"), help="keep images once read: encoded, or decoded")
    group.add_argument(
        "--worker-kind",
        choices=("process", "thread"),
        default="process",
        help="threads share one --cache and suit few cores; processes are faster from three or four workers on",
    )


def add_base_argument(group) -> None:
    """``--pretrained-base``, as `gluonface.get_model` takes it."""
    group.add_argument(
        "--pretrained-base",
        nargs="?",
        const=True,
        default=False,
        metavar="NPZ",
        help="start the backbone from ImageNet weights: GluonCV's, or those of an .npz of PyTorch-named arrays",
    )


def source_weights(words: Sequence[str]) -> dict[str, float]:
    """``["helen=2", "ytf=.1"]`` as a mapping.

    Raises
    ------
    InputError
        A word is not of that form.
    """
    weights = {}
    for word in words:
        name, _, value = word.rpartition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise InputError(f"--source-weight: expected NAME=WEIGHT, got {word!r}")
    return weights


def batch_loader(
    samples: Samples, encode: Callable, config: TrainConfig, worker_kind: str, rank: int, num_workers: int
) -> BatchLoader:
    """Batches of one worker's share of the samples, as the settings of a run say.

    Parameters
    ----------
    samples, encode, worker_kind
        See `BatchLoader`.
    config : TrainConfig
    rank, num_workers : int
        Which of how many machines this is: ``engine.rank`` and ``engine.num_workers``.
    """
    return BatchLoader(
        samples,
        config.batch_size,
        encode=encode,
        num_workers=config.num_workers,
        worker_kind=worker_kind,
        seed=config.seed,
        part_index=rank,
        num_parts=num_workers,
    )


def image_preparer(facts: ModelFacts) -> Callable[[tuple, mx.Context], tuple]:
    """``prepare(arrays, ctx)`` for `Engine`: images normalised as a net wants them, targets as they are.

    The first array is images (B, H, W, 3) uint8 RGB and becomes (B, 3, H, W) float32, (rgb / 255 - mean) / std.
    """
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (facts.mean, facts.std))

    def prepare(arrays: tuple, ctx: mx.Context) -> tuple:
        images, *targets = arrays
        x = mx.nd.array(images, ctx=ctx, dtype="uint8").astype("float32").transpose((0, 3, 1, 2)) / 255
        x = (x - mx.nd.array(mean, ctx=ctx)) / mx.nd.array(std, ctx=ctx)
        return (x, *(mx.nd.array(target, ctx=ctx) for target in targets))

    return prepare
