"""What the scripts that make a paper's ablation share: runs that go on where they were, and when rows differ."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import ROOT, read_result, write_result

from gluonface.errors import GluonFaceError


def epochs_done(folder: Path) -> int:
    """Epochs of a run that are saved; 0 where there is no run."""
    return max((int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoints/epoch-*")), default=0)


def finished(folder: Path, epochs: int) -> bool:
    """Whether a run of so many epochs has reached its last one."""
    config = folder / "config.json"
    if not config.is_file() or not (folder / "last.params").is_file():
        return False
    wanted = json.loads(config.read_text(encoding="utf-8"))["epochs"]
    return wanted == epochs and epochs_done(folder) == epochs


def train(
    script: str, folder: Path, flags: Sequence[str], start: Sequence[str] = (), limits: Sequence[str] = ()
) -> None:
    """Make a run of a training script in a process of its own, or go on with it; its output goes to ``out.log``.

    Parameters
    ----------
    script : str
        Name of a file in train/.
    folder : Path
        Of the run.
    flags : sequence of str
        What makes the run what it is: a run that was begun with others is not gone on with.
    start : sequence of str
        Flags for the beginning only.
    limits : sequence of str
        Flags that may change from one time to the next.

    Raises
    ------
    GluonFaceError
        The script failed, or the folder holds a run with other flags.
    """
    kept = folder / "flags.json"
    if epochs_done(folder):
        before = read_result(kept)["flags"] if kept.is_file() else list(flags)
        if before != list(flags):
            changed = sorted(set(before) ^ set(flags)) or ["their order"]
            raise GluonFaceError(
                f"{folder} holds a run with other flags ({' '.join(changed)}): give those, or another --out"
            )
        start = [f"--resume={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    write_result(kept, {"flags": list(flags)})
    command = [sys.executable, str(ROOT / "train" / script), *flags, *start, *limits, f"--save-prefix={folder}"]
    with (folder / "out.log").open("a", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise GluonFaceError(f"{script} ended with status {status}: see {folder / 'out.log'}")


def beyond_spread(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether means differ by more than twice the standard error of the difference; False with one seed."""
    if min(len(first), len(second)) < 2:
        return False
    error = np.sqrt(np.var(first, ddof=1) / len(first) + np.var(second, ddof=1) / len(second))
    return bool(abs(np.mean(second) - np.mean(first)) > 2 * error)


def in_words(difference: float, beyond: bool, digits: int = 2) -> str:
    """A difference as a table shows it."""
    return f"{difference:+.{digits}f}" + ("" if beyond else ", within the spread")


def draw_rows(axes, rows: Sequence[tuple[str, Sequence[float]]], reference: float | None = None) -> None:
    """A line a row, from above: a dot a seed, a bar as wide as the seeds are apart, a stroke at their mean."""
    for y, (_, values) in enumerate(rows):
        if len(values):
            axes.plot([min(values), max(values)], [y, y], color="C0", lw=5, alpha=0.25, solid_capstyle="butt")
            axes.plot(values, [y] * len(values), "o", color="C0", alpha=0.7)
            axes.plot([np.mean(values)] * 2, [y - 0.3, y + 0.3], color="C1", lw=2)
    if reference is not None:
        axes.axvline(reference, color="grey", lw=0.8, ls=":")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
