"""What a training run tells: means, a log of JSON lines, a progress bar and curves."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .._compat import import_optional
from ..errors import DataError, MissingDependencyError
from ..files import replacing, write_atomically

__all__ = ["RunningMeans", "TrainLog", "draw_curves", "progress_bar", "read_log", "write_json"]

_logger = logging.getLogger(__name__)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object atomically; numbers that are not finite become null."""
    write_atomically(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


class RunningMeans:
    """Means of loss parts over samples, and the speed at which the samples came."""

    def __init__(self):
        self._sums, self.samples, self._began = np.zeros(()), 0.0, time.monotonic()

    def add(self, sums: np.ndarray, samples: float) -> None:
        """Add the sums of the parts over some samples."""
        self._sums, self.samples = self._sums + sums, self.samples + samples

    def means(self, names: list[str]) -> dict[str, float]:
        """Mean of each part per sample."""
        return {name: float(total) / self.samples for name, total in zip(names, self._sums)}

    def rate(self) -> float:
        """Samples per second since this object was made."""
        return self.samples / max(time.monotonic() - self._began, 1e-9)


class TrainLog:
    """Appends JSON lines to a file.

    Parameters
    ----------
    path : path
    first_epoch : int
        Lines of this epoch and later ones, left by a run that was stopped and is now resumed, are dropped.
    """

    def __init__(self, path: str | os.PathLike, first_epoch: int = 0):
        self.path = Path(path)
        kept = [r for r in read_log(self.path) if r["epoch"] < first_epoch] if self.path.exists() else []
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in kept))

    def write(self, **record: Any) -> None:
        """Append one object and the time (seconds since 1970); numbers that are not finite become null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**_plain(record), "time": time.time()}, allow_nan=False) + "\n")


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the objects of a log; a last line that was cut off by a crash is left out.

    Raises
    ------
    DataError
        When another line is not a JSON object with an epoch.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record["epoch"], int):
                raise TypeError("epoch is not a whole number")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}: not a line of a training log ({error})") from None
        records.append(record)
    return records


def progress_bar(batches: Iterable, total: int | None, text: str, enabled: bool) -> Any:
    """Wrap ``batches`` in a tqdm bar, shown on a terminal only; in something silent where tqdm is not installed."""
    try:
        tqdm = import_optional("tqdm", "train")
    except MissingDependencyError as error:
        _logger.debug("no progress bar: %s", error)
        return _NoBar(batches)
    hidden = None if enabled else True  # None: unless on a terminal
    return tqdm.tqdm(batches, total=total, desc=text, unit="batch", disable=hidden, leave=False, dynamic_ncols=True)


class _NoBar:
    """The part of tqdm's interface that the engine uses."""

    disable = True

    def __init__(self, batches: Iterable):
        self._batches = batches

    def __iter__(self) -> Iterator:
        return iter(self._batches)

    def set_postfix_str(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def draw_curves(records: list[dict[str, Any]], path: str | os.PathLike) -> None:
    """Draw the parts of the loss, the learning rate, the validation values of a log over the epochs and, where the run
    has observers, what they report.

    Parameters
    ----------
    records : list of dict
        As :func:`read_log` gives them.
    path : path
        Picture to write; its suffix chooses the format.

    Raises
    ------
    MissingDependencyError
        Without matplotlib.
    """
    figure_module = import_optional("matplotlib.figure", "train")
    epochs = [r for r in records if r["kind"] == "epoch"]
    intervals = [r for r in records if r["kind"] == "train"]
    observed = sorted({name for r in intervals for name in r.get("observed") or ()})
    figure = figure_module.Figure(figsize=(17.5 if observed else 13, 3.8), layout="constrained")
    loss, rate, validation, *others = figure.subplots(1, 4 if observed else 3)

    for name in sorted({name for r in epochs for name in r["losses"]}):
        # The end of epoch 0 stands at 1, where the interval lines of epoch 1 begin.
        points = [(r["epoch"] + 1, r["losses"].get(name)) for r in epochs]
        loss.plot(*zip(*points), marker=".", label=name)
    if intervals:
        positions = [r["position"] for r in intervals]
        loss.plot(positions, [r["loss"] for r in intervals], color="0.75", zorder=0, label="total")
        rate.plot(positions, [r["lr"] for r in intervals])
    for name in sorted({name for r in epochs for name in r["validation"] or ()}):
        points = [(r["epoch"] + 1, r["validation"].get(name)) for r in epochs if r["validation"]]
        validation.plot(*zip(*[(x, math.nan if y is None else y) for x, y in points]), marker=".", label=name)

    for name in observed:
        points = [(r["position"], r["observed"].get(name)) for r in intervals if r.get("observed")]
        others[0].plot(*zip(*[(x, math.nan if y is None else y) for x, y in points]), label=name)

    titles = [(axes, "observed") for axes in others]
    for axes, title in (*titles, (loss, "training loss"), (rate, "learning rate"), (validation, "validation")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    seen = [v for r in intervals for v in (r.get("observed") or {}).values() if v is not None]
    if seen and min(seen) > 0 and max(seen) > 50 * min(seen):
        others[0].set_yscale("log")
    if epochs and all(value > 0 for r in epochs for value in r["losses"].values()):
        loss.set_yscale("log")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
