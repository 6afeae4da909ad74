"""Checkpoints of a training run: everything that is needed to continue it exactly.

A checkpoint is a folder::

    checkpoints/epoch-0007/
      parameters.params   weights and BatchNorm statistics, names as in ``net.save_parameters``
      ema.params          their moving average (where the run keeps one)
      optimizer.params    momentum, Adam's moments, float32 masters: ``<parameter>/<place in the state>``
      manifest.json       epoch, iteration, best value, settings, random states; SHA-256 of each file and of itself

It is written under another name, manifest last, and then renamed, so a folder called ``epoch-*`` is always complete.
Nothing is pickled: the files hold numbers and text only.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._compat import mx
from ..errors import TrainingError, WeightsError
from ..model_zoo.store import read_params, sha256_file, write_params

__all__ = [
    "Checkpoint",
    "find_checkpoint",
    "optimizer_arrays",
    "random_state",
    "read_checkpoint",
    "restore_optimizer",
    "restore_parameters",
    "restore_random_state",
    "write_checkpoint",
]

_FORMAT = 1
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and checked.

    Attributes
    ----------
    path : Path
        Its folder.
    arrays : dict of str to (dict of str to ndarray)
        Groups "parameters", "optimizer" and, where the run keeps one, "ema".
    state : dict
        What else the engine stored.
    """

    path: Path
    arrays: dict[str, dict[str, np.ndarray]]
    state: dict[str, Any]


def write_checkpoint(
    folder: str | os.PathLike, epoch: int, arrays: dict[str, dict[str, np.ndarray]], state: dict[str, Any], keep: int
) -> Path:
    """Write a checkpoint so that a crash at any moment leaves the ones before it intact.

    Parameters
    ----------
    folder : path
        Holds the checkpoints of a run.
    epoch : int
        Epochs that are done.
    arrays : dict of str to (dict of str to ndarray)
        One ``.params`` file per group.
    state : dict
        Anything JSON can hold.
    keep : int
        Newest checkpoints to keep; older ones are removed afterwards.

    Returns
    -------
    Path
        The checkpoint's folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(".tmp-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    target, temporary = folder / f"epoch-{epoch:04d}", folder / f".tmp-{epoch:04d}-{os.getpid()}"
    temporary.mkdir()
    files = {}
    for group, values in arrays.items():
        path = write_params(temporary / f"{group}.params", values)
        _flush(path)
        files[path.name] = sha256_file(path)
    manifest = {"format": _FORMAT, "epoch": epoch, "saved_at": time.time(), "files": files, "state": state}
    manifest["sha256"] = _digest(manifest)
    (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _flush(temporary / _MANIFEST)
    _flush(temporary)

    replaced = target.with_name(target.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        # A folder cannot be replaced in one go. Until the new one is in place the old one keeps a name that is found.
        target.rename(replaced)
    temporary.rename(target)
    _flush(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    for old in _complete(folder)[keep:]:
        # Out of sight first: a removal that is cut short must not leave half a checkpoint under a good name.
        shutil.rmtree(old.rename(folder / f".tmp-{old.name}"), ignore_errors=True)
    return target


def _digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of all of a manifest but this entry."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _complete(folder: Path) -> list[Path]:
    """Checkpoints in a folder, last written first (not highest epoch: a run may be resumed from an older one)."""

    def saved_at(path: Path) -> float:
        try:
            return float(json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["saved_at"])
        except (ValueError, KeyError, TypeError):
            return (path / _MANIFEST).stat().st_mtime  # damaged: found here, refused with a reason when read

    return sorted((p.parent for p in folder.glob(f"epoch-*/{_MANIFEST}")), key=saved_at, reverse=True)


def find_checkpoint(path: str | os.PathLike) -> Path:
    """Checkpoint folder meant by ``--resume``.

    Parameters
    ----------
    path : path
        A run's output folder (its last written checkpoint is taken), its ``checkpoints`` folder, one checkpoint, or a
        file in one.

    Raises
    ------
    TrainingError
        When there is none; says what was looked for.
    """
    path = Path(path)
    if path.is_file():
        if (path.parent / _MANIFEST).is_file():
            return path.parent
        raise TrainingError(
            f"--resume {path}: weights alone cannot continue a run: there is no {_MANIFEST} beside them. Pass the "
            "run's output folder or one of its checkpoints; to start a new run from weights, load them into the net."
        )
    if (path / _MANIFEST).is_file():
        return path
    if not path.is_dir():
        raise TrainingError(f"--resume {path}: there is no such folder or file")
    for folder in (path / "checkpoints", path):
        if found := _complete(folder):
            return found[0]
    raise TrainingError(f"--resume {path}: there is no complete checkpoint (checkpoints/epoch-*/{_MANIFEST}) in it")


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint and check every file of it.

    Parameters
    ----------
    path : path
        As :func:`find_checkpoint` takes it.

    Raises
    ------
    TrainingError
        When there is no checkpoint, or its manifest is damaged or of another version.
    WeightsError
        When a file is missing or is not the one that was written.
    """
    folder = find_checkpoint(path)
    others = [p for p in _complete(folder.parent) if p != folder]
    advice = f"Resume from {others[0]} instead." if others else "There is no other one beside it: start the run again."
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        version, intact = manifest["format"], manifest["sha256"] == _digest(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / _MANIFEST} is damaged ({error!r}). {advice}") from error
    if version != _FORMAT:
        raise TrainingError(
            f"{folder} has format {version}; this version of gluonface reads format {_FORMAT}. {advice}"
        )
    if not intact:
        raise TrainingError(f"{folder / _MANIFEST} is damaged (SHA-256 differs). {advice}")
    files, state = manifest["files"], manifest["state"]
    arrays = {}
    for name, expected in files.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise WeightsError(f"{file} is missing: the checkpoint is damaged. {advice}")
        if sha256_file(file) != expected:
            raise WeightsError(f"{file} is not the file that was written (SHA-256 differs): it is damaged. {advice}")
        arrays[file.stem] = read_params(file)
    return Checkpoint(folder, arrays, state)


def restore_parameters(parameters: dict[str, Any], arrays: dict[str, np.ndarray], source: str | os.PathLike) -> None:
    """Set Gluon parameters, on all their contexts, from arrays of the same names.

    Raises
    ------
    WeightsError
        When names or shapes differ; nothing is changed then.
    """
    missing, extra = sorted(parameters.keys() - arrays.keys()), sorted(arrays.keys() - parameters.keys())
    if missing or extra:
        raise WeightsError(
            f"{source}: made by another network: {len(missing)} parameters of this one are not in it {missing[:3]}, "
            f"{len(extra)} of its own are unknown here {extra[:3]}. Build the net with the options of that run."
        )
    for name, parameter in parameters.items():
        here, there = tuple(parameter.shape), arrays[name].shape
        if here != there:
            raise WeightsError(f"{source}: made by another network: {name} has shape {there} in it and {here} here")
    for name, parameter in parameters.items():
        parameter.set_data(mx.nd.array(arrays[name], dtype=arrays[name].dtype))


def _leaves(state: Any, name: str) -> dict[str, Any]:
    """Arrays of an optimizer's state, which is None, an array or a tuple of such, by ``name/place/place``."""
    if state is None:
        return {}
    if isinstance(state, (tuple, list)):
        return {key: leaf for i, item in enumerate(state) for key, leaf in _leaves(item, f"{name}/{i}").items()}
    return {name: state}


def optimizer_arrays(trainer: Any, names: list[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """State of a ``gluon.Trainer`` that updates on the workers (``update_on_kvstore=False``).

    Parameters
    ----------
    trainer : mxnet.gluon.Trainer
    names : list of str
        Lasting names of the trainer's parameters, in its order.

    Returns
    -------
    arrays : dict of str to ndarray
    counts : dict
        ``num_update`` and the ``updates`` of each parameter, on which Adam's bias correction depends.
    """
    # All contexts hold the same state, since they apply the same summed gradient: the first one's is enough.
    updater, optimizer = trainer._updaters[0], trainer._optimizer
    arrays = {}
    for index, state in updater.states.items():
        arrays.update({key: leaf.asnumpy() for key, leaf in _leaves(state, names[index]).items()})
    device = trainer._contexts[0].device_id
    updates = {names[index]: count for index, count in optimizer._all_index_update_counts[device].items()}
    return arrays, {"num_update": optimizer.num_update, "updates": updates}


def restore_optimizer(
    trainer: Any, names: list[str], arrays: dict[str, np.ndarray], counts: dict[str, Any], source: str | os.PathLike
) -> None:
    """Inverse of :func:`optimizer_arrays`.

    Raises
    ------
    TrainingError
        When the arrays do not fit this trainer's optimizer.
    """
    optimizer, unused = trainer._optimizer, set(arrays)
    for place, updater in enumerate(trainer._updaters):
        for index, (name, parameter) in enumerate(zip(names, trainer._params)):
            if name not in counts["updates"]:
                continue
            state = optimizer.create_state_multi_precision(index, parameter.list_data()[place])
            for key, leaf in _leaves(state, name).items():
                if key not in arrays or arrays[key].shape != leaf.shape:
                    raise _other_optimizer(source, f"has no {key} of shape {leaf.shape}")
                leaf[:] = mx.nd.array(arrays[key], ctx=leaf.context, dtype=arrays[key].dtype)
                unused.discard(key)
            updater.states[index], updater.states_synced[index] = state, True
    if unused:
        raise _other_optimizer(source, f"has {min(unused)}, which this optimizer does not know")
    optimizer.num_update = counts["num_update"]
    by_index = {index: counts["updates"][name] for index, name in enumerate(names) if name in counts["updates"]}
    # One count per device number. Updated in place: the optimizer holds on to the one in use.
    for context in trainer._contexts:
        optimizer._all_index_update_counts.setdefault(context.device_id, {}).update(by_index)


def _other_optimizer(source: str | os.PathLike, what: str) -> TrainingError:
    return TrainingError(
        f"{source}: its optimizer state {what}: it is another optimizer's. Resume with the --optimizer and --momentum "
        "of that run."
    )


def random_state() -> dict[str, Any]:
    """States of Python's and NumPy's global generators, in a form for JSON. (MXNet's cannot be read.)"""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (others may draw from it)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Inverse of :func:`random_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
