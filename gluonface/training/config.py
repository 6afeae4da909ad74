"""Settings of a training run, their command-line flags and the schedules computed from them. No MXNet here."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from ..errors import InputError

__all__ = [
    "TrainConfig",
    "add_training_arguments",
    "config_from_args",
    "ema_decay_at",
    "flags_given",
    "learning_rate_at",
    "refuse_flags",
]

#: Flags of the scripts' own that change nothing of a run, or nothing that its checkpoints do not bring: where photos
#: lie, how they are read, and the weights that the backbone started from. (--start is none: mean and std come with it.)
_PLUMBING = {"images", "cache", "worker_kind", "pretrained_base"}


def _option(default: Any, text: str, *, short: str | None = None, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "short": short, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; every field is a command-line flag (``lr_decay_epoch`` is ``--lr-decay-epoch``) but
    ``flags``: what the script's own flags say, such as those about net and data, name -> value as JSON has it. The
    engine stores them with the run, and tells which of them another part of the run has changed.

    Raises
    ------
    InputError
        When a value is impossible; the message names the flag.
    """

    gpus: str = _option("", "GPUs to train on, e.g. 0,1; empty: the CPU")
    num_workers: int = _option(2, "data loading processes", short="-j")
    batch_size: int = _option(32, "images per step on this machine, over all its devices")
    epochs: int = _option(100, "epochs in all, counted from 0 also when resuming")
    start_epoch: int = _option(0, "first epoch when the run is not resumed from a checkpoint")
    resume: str = _option("", "run folder, checkpoint folder or its manifest.json to continue from exactly")
    lr: float = _option(0.01, "learning rate after the warm-up")
    lr_mode: str = _option("step", "how the learning rate falls", choices=("step", "cosine", "plateau", "constant"))
    lr_decay: float = _option(0.1, "factor at each of --lr-decay-epoch (step), or at each standstill (plateau)")
    lr_decay_epoch: tuple[int, ...] = _option((), "epochs at which the learning rate falls, e.g. 60,80 (step)")
    lr_patience: int = _option(3, "validations after the warm-up, none of them better, that are a standstill (plateau)")
    lr_min: float = _option(0.0, "the learning rate does not fall below this (plateau)")
    warmup_epochs: float = _option(0.0, "epochs of linear warm-up, fractions allowed; they count as epochs")
    warmup_lr: float = _option(0.0, "learning rate the warm-up starts from")
    optimizer: str = _option("sgd", "optimizer", choices=("sgd", "adam"))
    momentum: float = _option(0.9, "momentum (sgd)")
    wd: float = _option(5e-4, "weight decay")
    no_wd: bool = _option(False, "no weight decay on biases and normalisation parameters")
    clip_norm: float = _option(0.0, "largest Euclidean norm of the whole gradient; 0: no limit")
    accumulate: int = _option(1, "batches whose gradients are added up before an update")
    ema_decay: float = _option(0.0, "decay of the moving average of the weights, e.g. 0.999; 0: none")
    amp: bool = _option(False, "mixed precision (GPU)")
    kvstore: str = _option("device", "MXNet's exchange of gradients: device, local, nccl, dist_sync, dist_sync_device")
    seed: int = _option(233, "random seed")
    log_interval: int = _option(20, "batches between two log lines")
    save_prefix: str = _option("out", "output folder of the run")
    save_interval: int = _option(1, "epochs between checkpoints; the last epoch always has one")
    val_interval: int = _option(1, "epochs between validations; the last epoch always has one")
    keep_checkpoints: int = _option(3, "newest checkpoints kept")
    frozen_bn: bool = _option(False, "keep the BatchNorm statistics as they are (use_global_stats)")
    max_minutes: float = _option(0.0, "stop after the last epoch that fits into this time; 0: no limit")
    flags: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        at_least = {
            "num_workers": 0, "batch_size": 1, "epochs": 1, "start_epoch": 0, "lr": 0, "lr_decay": 0, "momentum": 0,
            "warmup_epochs": 0, "warmup_lr": 0, "wd": 0, "clip_norm": 0, "accumulate": 1, "ema_decay": 0, "seed": 0,
            "log_interval": 1, "save_interval": 1, "val_interval": 1, "keep_checkpoints": 1, "max_minutes": 0,
            "lr_patience": 1, "lr_min": 0,
        }  # fmt: skip
        for name, smallest in at_least.items():
            value = getattr(self, name)
            if not value >= smallest or math.isinf(value):
                raise InputError(f"{_flag(name)}: expected a number of {smallest} or more, got {value}")
        for setting in _settings():
            choices, value = setting.metadata["choices"], getattr(self, setting.name)
            if choices and value not in choices:
                raise InputError(f"{_flag(setting.name)}: expected one of {', '.join(choices)}, got {value!r}")
        for name in ("momentum", "ema_decay"):
            if getattr(self, name) >= 1:
                raise InputError(f"{_flag(name)}: expected a number below 1, got {getattr(self, name)}")
        if list(self.lr_decay_epoch) != sorted(set(self.lr_decay_epoch)) or any(e < 0 for e in self.lr_decay_epoch):
            raise InputError(f"--lr-decay-epoch: expected rising epochs, got {self.lr_decay_epoch}")


def _settings() -> list[Field]:
    """The fields that are flags of every script."""
    return [setting for setting in fields(TrainConfig) if setting.metadata]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _epochs(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def add_training_arguments(parser: argparse.ArgumentParser, defaults: TrainConfig | None = None) -> None:
    """Give a training script the flags of :class:`TrainConfig`.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    defaults : TrainConfig, optional
        The script's own recipe.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_training_arguments(parser, TrainConfig(lr=1e-3, epochs=80))
    >>> config = config_from_args(parser.parse_args())

    """
    defaults = defaults or TrainConfig()
    group = parser.add_argument_group("training")
    for setting in _settings():
        default, meta = getattr(defaults, setting.name), setting.metadata
        names = [_flag(setting.name)] + ([meta["short"]] if meta["short"] else [])
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{meta['help']} (default: {'none' if shown == '' else shown})"
        if setting.name == "no_wd":  # its opposite would read --no-no-wd
            group.add_argument(*names, action="store_true", default=default, help=text)
        elif isinstance(default, bool):
            group.add_argument(*names, action=argparse.BooleanOptionalAction, default=default, help=meta["help"])
        else:
            kind = _epochs if isinstance(default, tuple) else type(default)
            group.add_argument(*names, type=kind, default=default, choices=meta["choices"], help=text)


def config_from_args(args: argparse.Namespace) -> TrainConfig:
    """Settings from the parsed flags of :func:`add_training_arguments`.

    What else a script was told becomes ``flags``, without what changes nothing of a run, such as ``--cache``.
    """
    settings = {setting.name: getattr(args, setting.name) for setting in _settings()}
    own = sorted(vars(args).keys() - settings.keys() - _PLUMBING)
    return TrainConfig(**settings, flags={name: _as_json(getattr(args, name)) for name in own})


def _as_json(value: Any) -> Any:
    """A flag's value as it comes back from a JSON file."""
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def flags_given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> set[str]:
    """Which flags a command line names, be it with their default values: their attributes of the parsed arguments.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    argv : sequence of str or None
        As ``parser.parse_args`` takes it.
    """
    # A default goes where the attribute is missing, and a flag that may be repeated adds to a copy of its list.
    unset: list = []
    names = vars(parser.parse_args(argv))
    found = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names, unset)))
    return {name for name in names if getattr(found, name) is not unset}


def refuse_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None, reasons: Mapping[str, str]) -> None:
    """End a script, as ``parser.error`` does, whose command line names a flag that would do nothing.

    Parameters
    ----------
    parser, argv
        See :func:`flags_given`.
    reasons : mapping of str to str
        Attribute of such a flag (``lambda_kp`` of ``--lambda-kp``) -> why it would do nothing, or when it counts.
    """
    given = flags_given(parser, argv)
    for name, reason in reasons.items():
        if name in given:
            parser.error(f"{_flag(name)} does nothing here: {reason}")


def learning_rate_at(config: TrainConfig, iteration: int, iterations_per_epoch: int, standstills: int = 0) -> float:
    """Learning rate of one update.

    With ``e = iteration / iterations_per_epoch`` (epochs done, a fraction), ``w = warmup_epochs`` and ``E = epochs``::

        e < w:      warmup_lr + (lr - warmup_lr) * e / w
        constant:   lr
        step:       lr * lr_decay ** (how many of lr_decay_epoch are <= e)
        plateau:    lr * lr_decay ** standstills, at least lr_min
        cosine:     lr * (1 + cos(pi * (e - w) / (E - w))) / 2        (0 from E on)

    Parameters
    ----------
    iteration : int
        Updates done before this one, from the start of the run.
    iterations_per_epoch : int
    standstills : int
        How often the validation has come to a standstill since the warm-up (`Engine` counts that).
    """
    position = iteration / iterations_per_epoch
    if position < config.warmup_epochs:
        return config.warmup_lr + (config.lr - config.warmup_lr) * position / config.warmup_epochs
    if config.lr_mode == "step":
        return config.lr * config.lr_decay ** sum(epoch <= position for epoch in config.lr_decay_epoch)
    if config.lr_mode == "plateau":
        return max(config.lr * config.lr_decay**standstills, min(config.lr, config.lr_min))
    if config.lr_mode == "cosine":
        if position >= config.epochs:
            return 0.0
        done = (position - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        return config.lr * (1 + math.cos(math.pi * done)) / 2
    return config.lr


def ema_decay_at(config: TrainConfig, iteration: int) -> float:
    """Decay of the moving average after update ``iteration`` (from 0): ``min(ema_decay, (1 + i) / (10 + i))``.

    The rising start keeps the first, random weights from staying in the average for thousands of updates.
    """
    return min(config.ema_decay, (1 + iteration) / (10 + iteration))
