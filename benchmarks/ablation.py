"""What the scripts that make a paper's ablation share: flags, runs that go on where they were, and when rows differ."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from common import ROOT, provenance, read_result, rounded, write_result

from gluonface import get_model
from gluonface.errors import DataError, GluonFaceError
from gluonface.model_zoo import list_models
from gluonface.training.detection import load_start
from gluonface.training.log import read_log

# ---- flags -----------------------------------------------------------------------------------------------------------


def add_run_arguments(parser: argparse.ArgumentParser, *, epochs: int = 6, minutes: float = 30) -> None:
    """Flags of a table of runs: where they are, how many, how long, and what is made of them."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--epochs", type=int, default=epochs, metavar="N", help="of each run (default: %(default)s)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=minutes,
        metavar="M",
        help="time that a run has at most (default: %(default)g)",
    )
    parser.add_argument("--hours", type=float, default=0, help="start no new run after so many (default: no limit)")
    parser.add_argument("--collect", action="store_true", help="train nothing: tabulate the runs that are there")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument(
        "--add", action="store_true", help="to the result that --json names: runs not made here are taken from it"
    )
    parser.add_argument("--picture", metavar="PNG", help="draw it")


def add_test_arguments(
    parser: argparse.ArgumentParser, rows: Sequence[str], about_detection: str, points: str, about_points: str
) -> None:
    """Which rows there are, and the photos that their runs are measured on: ``--det-val`` and the flag ``points``."""
    parser.add_argument("--det-val", required=True, metavar="JSONL", help=f"photos for {about_detection}")
    parser.add_argument(points, required=True, metavar="JSONL", help=f"photos {about_points}")
    parser.add_argument("--images", metavar="DIR", help="folder of both's photos (default: images/ beside each)")
    parser.add_argument("--rows", nargs="+", choices=rows, help="only these")
    parser.add_argument("--size", type=int, default=640, metavar="N", help="long side of the photos measured on")


def add_start_arguments(parser: argparse.ArgumentParser, model: str, start: str) -> None:
    """The model of all rows, and the detector whose weights their runs start from: not a file of weights, which fits
    one net and not those of other rows.
    """
    parser.add_argument("--model", default=model, metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--start",
        default=start,
        type=_with_weights,
        metavar="MODEL",
        help="detector of the same backbone whose weights all runs start from (default: %(default)s)",
    )


def _with_weights(name: str) -> str:
    if name not in list_models(pretrained=True):
        raise argparse.ArgumentTypeError(f"{name!r} is no model with weights")
    return name


def check_run_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse runs that are none."""
    if args.epochs < 1 or not args.minutes > 0:
        parser.error("--epochs is at least 1, --minutes above 0")
    if args.add and not args.json:
        parser.error("--add goes with --json")


def parse_with_passed_on(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, script: str, own: set[str]
) -> argparse.Namespace:
    """The flags of a script of this folder; ``flags`` are the words after ``--``, for a script of train/.

    Flags that say what a run is, ``own``, are refused among these.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.flags = words[cut + 1 :]
    given = sorted(own & {word.partition("=")[0] for word in args.flags})
    if given:
        parser.error(f"{', '.join(given)}: the rows say that, or a flag of this script before the --")
    if not args.flags and not args.collect:
        parser.error(f"give the data after --, as train/{script} takes them")
    check_run_arguments(parser, args)
    return args


def chosen_rows(args: argparse.Namespace, rows: Iterable[Any]) -> list:
    """The rows that --rows names; all without it."""
    return [row for row in rows if not args.rows or row.folder in args.rows]


def refuse_flags_of_no_row(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rows: Iterable[RunRow], takers: Takers
) -> None:
    """End a script whose command line passes on a flag that none of its rows takes."""
    rows = chosen_rows(args, rows)
    given, _ = _split_flags(args.flags, list(takers))
    idle = [name for name in given if not any(map(takers[name], rows))]
    if idle:
        parser.error(f"{', '.join(idle)}: does nothing for the rows {', '.join(row.folder for row in rows)}")


def flags_for(row: RunRow, flags: Sequence[str], takers: Takers) -> list[str]:
    """The words of the flags passed on, without those of ``takers`` that the row does not take."""
    return _split_flags(flags, [name for name, takes in takers.items() if not takes(row)])[1]


def _split_flags(flags: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of flags passed on: those of ``names``, which take a value each, that are given, and the words of all others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage="%(prog)s [options] -- FLAGS")
    for name in names:
        parser.add_argument(name, dest=name)
    given, others = parser.parse_known_args(list(flags))
    return [name for name, value in vars(given).items() if value is not None], others


# ---- runs ------------------------------------------------------------------------------------------------------------


class RunRow(Protocol):
    """What is read of a row of a table here: its label, and the folder of its runs, before the seed."""

    label: str
    folder: str


#: Flags of a training script that it refuses where they would do nothing, and which rows take them.
Takers = Mapping[str, Callable[[Any], bool]]
#: (label of a row, seed) -> figures.
Measured = dict[tuple[str, int], dict]


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


def seconds_of(folder: Path) -> float:
    """Seconds that a run's epochs took so far."""
    log = folder / "log.jsonl"
    return sum(r["seconds"] for r in read_log(log) if r["kind"] == "epoch") if log.is_file() else 0.0


def make_runs(
    args: argparse.Namespace,
    rows: Sequence[RunRow],
    train_row: Callable[[RunRow, int, Path, float], None],
    measure: Callable[[RunRow, Path], dict],
) -> tuple[Measured, list[str]]:
    """Make the runs that are not there yet, seed by seed, and measure those that ended an epoch.

    Parameters
    ----------
    args : argparse.Namespace
        Of `add_run_arguments`.
    rows : sequence
        Those of one folder share a run, which is made for the first of them.
    train_row : callable
        ``train_row(row, seed, folder, minutes)`` makes a run, or goes on with it, in the minutes that it has left.
    measure : callable
        ``measure(row, folder)`` gives the figures of a run.

    Returns
    -------
    measured : dict of (label, seed) to dict
    failures : list of str
        Runs that failed; the others take hours, and do not depend on them.

    Raises
    ------
    DataError
        Nothing could be measured.
    """
    deadline = time.monotonic() + 60 * args.hours * 60 if args.hours else None
    measured, failures = {}, []
    for seed in args.seeds:
        visited, left_out = set(), set()
        for row in rows:
            folder = args.out / f"{row.folder}-seed{seed}"
            left = args.minutes - seconds_of(folder) / 60
            if folder not in visited and not finished(folder, args.epochs) and left > 0 and not args.collect:
                if deadline and time.monotonic() > deadline:
                    left_out.add(folder)
                else:
                    print(f"{row.label}, seed {seed}: {folder}", flush=True)
                    try:
                        train_row(row, seed, folder, left)
                    except GluonFaceError as error:
                        failures.append(f"{row.label}, seed {seed}: {error}")
                        print(failures[-1], file=sys.stderr, flush=True)
                        left_out.add(folder)
            visited.add(folder)
            if folder not in left_out and epochs_done(folder):
                measured[row.label, seed] = measure(row, folder)
    if not measured:
        raise DataError("; ".join(failures) or f"{args.out}: no run has ended an epoch yet")
    return measured, failures


def with_earlier(args: argparse.Namespace, about: dict, measured: Measured) -> Measured:
    """With ``--add``, the runs measured here and those of the result at ``--json`` that are not among them.

    Parameters
    ----------
    args : argparse.Namespace
    about : dict
        Keys of the result that must be the same: of other data or flags runs are not comparable.
    measured : dict of (label, seed) to dict

    Raises
    ------
    DataError
        That result is about something else.
    """
    if not args.add or not Path(args.json).is_file():
        return measured
    earlier = read_result(args.json)
    other = sorted(key for key, value in about.items() if earlier.get(key) != value)
    if other or "runs" not in earlier:
        raise DataError(f"{args.json}: --add cannot add to it, it differs in {', '.join(other) or 'having no runs'}")
    kept = {(label, int(seed)): one for label, seeds in earlier["runs"].items() for seed, one in seeds.items()}
    return {**kept, **measured}


def runs_by_label(measured: Measured) -> dict[str, dict[str, dict]]:
    """Figures of all runs, by label and seed, as a result keeps them for `with_earlier`."""
    runs: dict[str, dict[str, dict]] = {}
    for (label, seed), one in sorted(measured.items()):
        runs.setdefault(label, {})[str(seed)] = one
    return runs


def tabulate(
    args: argparse.Namespace,
    argv: Sequence[str] | None,
    rows: Sequence[RunRow],
    train_row: Callable[[RunRow, int, Path, float], None],
    measure: Callable[[RunRow, Path], dict],
    *,
    every_row: Sequence[RunRow],
    about: dict,
    paper: str,
    table: Callable[[Sequence[RunRow], Sequence[int], Measured, int], dict],
    describe: Callable[[dict], Sequence[str]],
    plot: Callable[[str, dict], None],
) -> int:
    """Make the runs, and print, write and draw what they gave.

    Parameters
    ----------
    args : argparse.Namespace
        Of `add_run_arguments`.
    argv
        Of the script.
    rows, train_row, measure
        See `make_runs`.
    every_row : sequence
        All rows in the order of the table, of which ``--add`` may bring some.
    about : dict
        Keys of the result that are the same for all runs in it, see `with_earlier`.
    paper : str
        What the paper's figures are.
    table : callable
        ``table(rows, seeds, measured, epochs)`` gives the keys of the result that follow from the runs, ``rows`` among
        them.
    describe, plot : callable
        ``describe(result)`` gives paragraphs, ``plot(path, result)`` draws it.

    Returns
    -------
    int
        Exit status: 1 where a run failed.
    """
    measured, failures = make_runs(args, rows, train_row, measure)
    measured = with_earlier(args, about, measured)
    seeds = sorted({seed for _, seed in measured})
    there = [row for row in every_row if any(row.label == label for label, _ in measured)]
    result = {
        **about,
        "minutes": args.minutes,
        "seeds": seeds,
        "paper": paper,
        **table(there, seeds, measured, args.epochs),
        "runs": runs_by_label(measured),
    }
    result = rounded({**result, **provenance(argv)})
    print("\n\n".join(describe(result)))
    if args.json:
        write_result(args.json, result)
    if args.picture:
        plot(args.picture, result)
    return 1 if failures else 0


def row_trainer(
    script: str, args: argparse.Namespace, flags_of: Callable[[argparse.Namespace, RunRow, int], Sequence[str]]
) -> Callable[[RunRow, int, Path, float], None]:
    """The ``train_row`` of `make_runs` for rows that are runs of a script in train/.

    ``flags_of(args, row, seed)`` are its flags, see `train`.
    """

    def train_row(row: RunRow, seed: int, folder: Path, minutes: float) -> None:
        train(script, folder, flags_of(args, row, seed), limits=[f"--max-minutes={minutes:.2f}"])

    return train_row


def schedule(args: argparse.Namespace) -> list[str]:
    """Flags of a short run: a cosine, since it has no time for steps, and validation at the end."""
    return ["--lr-mode=cosine", "--warmup-epochs=.2", "--keep-checkpoints=1", f"--val-interval={args.epochs}"]


def passed_on(args: argparse.Namespace) -> list[str]:
    """The flags that went on to the training script, without paths of this machine, as a result keeps them."""
    return [Path(word).name if Path(word).is_absolute() else word for word in args.flags]


def measured_once(path: Path, about: dict, measure: Callable[[], dict]) -> dict:
    """Figures of a run, kept in a file and measured again only where what they are ``about`` has changed."""
    if path.is_file():
        result = read_result(path)
        if {key: result.get(key) for key in about} == about:
            return result
    result = rounded({**about, **measure()})
    write_result(path, result)
    return result


def measured_run(
    folder: Path, size: int, domains: dict, figures: Callable[[], dict], name: str = "test", **how: float
) -> dict:
    """`measured_once` of the weights that a run has got to: their ``figures`` on photos of a long side of ``size``, and
    ``how`` they are measured beside that.
    """
    about = {"epochs": epochs_done(folder), "size": size, "domains": domains, **how}
    return measured_once(folder / f"{name}.json", about, lambda: {"seconds": seconds_of(folder), **figures()})


def trained_net(folder: Path, model: str, start: str, **options):
    """The net of a run with its last weights; mean and std are those of the detector that it started from."""
    net = get_model(model, **options)
    load_start(net, start)
    net.load_parameters(str(folder / "last.params"))
    net.hybridize()
    return net


def keep_flags(folder: Path, flags: Sequence[str]) -> None:
    """Note in a run's folder what makes it what it is.

    Raises
    ------
    GluonFaceError
        The folder holds a run with other flags.
    """
    kept = folder / "flags.json"
    if epochs_done(folder):
        before = read_result(kept)["flags"] if kept.is_file() else list(flags)
        if before != list(flags):
            changed = sorted(set(before) ^ set(flags)) or ["their order"]
            raise GluonFaceError(
                f"{folder} holds a run with other flags ({' '.join(changed)}): give those, or another --out"
            )
    write_result(kept, {"flags": list(flags)})


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
    if epochs_done(folder):
        start = [f"--resume={folder}"]
    keep_flags(folder, flags)
    command = [sys.executable, str(ROOT / "train" / script), *flags, *start, *limits, f"--save-prefix={folder}"]
    with (folder / "out.log").open("a", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise GluonFaceError(f"{script} ended with status {status}: see {folder / 'out.log'}")


# ---- rows ------------------------------------------------------------------------------------------------------------


def runs_of(row: RunRow, seeds: Sequence[int], measured: Measured) -> dict[int, dict]:
    """Figures of a row by seed, of the seeds that are there."""
    return {seed: measured[row.label, seed] for seed in seeds if (row.label, seed) in measured}


def whole(found: dict[int, dict], epochs: int) -> bool:
    """Whether no run was cut short."""
    return all(one["epochs"] == epochs for one in found.values())


def change(first: Sequence[float | None], second: Sequence[float | None]) -> dict:
    """Keys ``difference`` of the means and ``beyond_spread``; none where a figure is missing."""
    if not first or not second or None in first or None in second:
        return {}
    difference = float(np.mean(second) - np.mean(first))
    return {"difference": difference, "beyond_spread": beyond_spread(first, second)}


def summary_of(
    keys: Iterable[str],
    found: dict[int, dict],
    before: dict[int, dict],
    epochs: int,
    before_for: Mapping[str, tuple[str, dict[int, dict]]] | None = None,
) -> dict[str, str | list | bool | dict]:
    """What a row's seeds gave, ``figures``, with the change from another row where no run of either was cut short; and
    ``seeds``, ``epochs``, ``cut_short`` and ``seconds``.

    ``before_for`` names rows that single figures are compared with in the place of that one: figure -> label, runs. The
    label goes with the change, as ``compared_with``.
    """
    before_for = before_for or {}
    figures = {}
    for key in keys:
        values = [one[key] for one in found.values()]
        figures[key] = {"values": values, "mean": None if None in values else float(np.mean(values))}
        label, other = before_for.get(key, ("", before))
        if whole(found, epochs) and whole(other, epochs):
            changed = change([one[key] for one in other.values()], values)
            figures[key] |= {**changed, "compared_with": label} if label and changed else changed
    return {
        "seeds": list(found),
        "epochs": [one["epochs"] for one in found.values()],
        "cut_short": not whole(found, epochs),
        "seconds": [one["seconds"] for one in found.values()],
        "figures": figures,
    }


def beyond_spread(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether means differ by more than twice the standard error of the difference; False with one seed."""
    if min(len(first), len(second)) < 2:
        return False
    error = np.sqrt(np.var(first, ddof=1) / len(first) + np.var(second, ddof=1) / len(second))
    return bool(abs(np.mean(second) - np.mean(first)) > 2 * error)


def in_words(difference: float, beyond: bool, digits: int = 2) -> str:
    """A difference as a table shows it."""
    return f"{difference:+.{digits}f}" + ("" if beyond else ", within the spread")


def each_seed(values: Sequence[float | None], factor: float, digits: int) -> str:
    """What each seed gave: "1.20, 1.30"."""
    return ", ".join("-" if value is None else f"{factor * value:.{digits}f}" for value in values)


def cell(one: dict, factor: float, digits: int) -> str:
    """One of the ``figures`` of `summary_of` as a table shows it: "1.25 (1.20, 1.30); +0.10, within the spread", with
    the row that it alone is compared with: "... (from five points)".
    """
    if one["mean"] is None:
        return "-"
    text = f"{factor * one['mean']:.{digits}f} ({each_seed(one['values'], factor, digits)})"
    if "difference" in one:
        # One seed has no spread to be within.
        alone = len(one["values"]) < 2
        text += f"; {in_words(factor * one['difference'], one['beyond_spread'] or alone, digits)}{', one seed' * alone}"
        text += f" (from {one['compared_with']})" if "compared_with" in one else ""
    return text


def runs_in_words(result: dict) -> str:
    """How many epochs and seeds: "6 epochs, 2 seeds"."""
    epochs, seeds = result["epochs"], len(result["seeds"])
    return f"{epochs} epoch{'s' * (epochs > 1)}, {seeds} seed{'s' * (seeds > 1)}"


def cut_short_in_words(result: dict) -> list[str]:
    """A sentence about the rows that were cut short; none where there is no such row."""
    cut = [r["label"] for r in result["rows"] if r["cut_short"]]
    if not cut:
        return []
    return [f"Cut short by the {result['minutes']:g} minutes that a run has, and so not compared: {'; '.join(cut)}."]


def dots_of(rows: Sequence[dict], key: str, factor: float) -> list[tuple[str, list[float]]]:
    """Labels and known values of the rows' figure ``key``, for `draw_rows`."""
    return [
        (
            r["label"] + (" (cut short)" if r["cut_short"] else ""),
            [factor * value for value in r["figures"][key]["values"] if value is not None],
        )
        for r in rows
    ]


def draw_figures(where, rows: Sequence[dict], compared: dict[str, tuple[str, float, int]]) -> None:
    """A panel for each figure that is compared and that some row has, next to each other, rows from above.

    Parameters
    ----------
    where : matplotlib Figure or SubFigure
    rows : sequence of dict
        With what `summary_of` gives.
    compared : dict
        Key -> words, factor, decimals.
    """
    keys = shown_keys(rows, compared)
    for i, key in enumerate(keys):
        words, factor, _ = compared[key]
        axes = where.add_subplot(1, len(keys), i + 1)
        dots = dots_of(rows, key, factor)
        draw_rows(axes, dots, reference=np.mean(dots[0][1]) if dots[0][1] else None)
        axes.set_xlabel(words, size=9)
        if i:
            axes.set_yticklabels([])


def shown_keys(rows: Sequence[dict], keys: Iterable[str]) -> list[str]:
    """The figures that some row has."""
    return [key for key in keys if any(r["figures"][key]["mean"] is not None for r in rows)]


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
