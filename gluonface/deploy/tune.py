"""Tuned schedules: searched by measuring, kept in a small JSON file a target.

What is searched are the few knobs of `gluonface.deploy.schedules`, so some thirty trials see all that is worth trying,
where MetaSchedule's own space, which knows nothing of convolutions, takes hundreds to come near. A record is a kernel's
shape and its knobs: small, readable, good for the nearest other shape too, and not tied to a version of TVM, as
MetaSchedule's traces are.
"""

from __future__ import annotations

import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from .._compat import import_optional
from ..errors import DataError, DeployError
from ..files import write_atomically
from ..model_zoo.store import find_file
from .runtime.machine import cpu_features, processor_name
from .schedules import Knobs, Tile, candidates, schedule, signature, tile_of

__all__ = ["Record", "Records", "search"]

#: A schedule must be this much faster than the rule's to take its place.
_GAIN = 0.01
#: A schedule's time is the median of so many measurements of at least so many milliseconds.
_REPEAT, _MILLISECONDS = 9, 3
#: A device is asked for again after so long.
_DEVICE_SECONDS = 3600


@dataclass(frozen=True)
class Record:
    """The fastest schedule found of one kernel.

    Attributes
    ----------
    kernel : str
        See `gluonface.deploy.schedules.signature`.
    knobs : Knobs
    seconds : float
        It took, in the median.
    trials : int
        Schedules measured.
    """

    kernel: str
    knobs: Knobs
    seconds: float
    trials: int


@dataclass
class Records:
    """Records of one target by kernel.

    Attributes
    ----------
    records : dict of str to Record
    about : dict
        Machine, versions and date of the measurement.
    """

    records: dict[str, Record] = field(default_factory=dict)
    about: dict = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike) -> Records:
        """Records of a file.

        Raises
        ------
        DataError
            It cannot be read or is no such file.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            found = [
                Record(r["kernel"], Knobs(**r["knobs"]), float(r["seconds"]), int(r["trials"]))
                for r in content["records"]
            ]
            return cls({record.kernel: record for record in found}, dict(content["about"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: expected tuning records as gluonface tune writes them: {error!r}") from error

    @classmethod
    def shipped(cls, target: str) -> Records | None:
        """Records that come with the package for a target; None where there are none."""
        path = find_file(f"tuning/{target}/records.json")
        return None if path is None else cls.read(path)

    def write(self, path: str | os.PathLike) -> None:
        """Write a file, whole or not at all."""
        rows = [asdict(record) for _, record in sorted(self.records.items())]
        text = ",\n".join("  " + json.dumps(row) for row in rows)
        head = json.dumps(self.about, indent=1).replace("\n", "\n ")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f'{{\n "about": {head},\n "records": [\n{text}\n ]\n}}\n')

    def merge(self, other: Iterable[Record]) -> None:
        """Take records in; of two of one kernel the faster stays."""
        for record in other:
            own = self.records.get(record.kernel)
            if own is None or record.seconds < own.seconds:
                self.records[record.kernel] = record

    def find(self, kernel: str, tile: Tile, target) -> tuple[Knobs | None, str]:
        """Knobs for a kernel and how they were found: "tuned", "nearest" or "rule"."""
        if kernel in self.records:
            return self.records[kernel].knobs, "tuned"
        kind = kernel.split()[0]
        allowed = set(candidates(tile, target.lanes, target.registers))
        near = [
            (_distance(kernel, name), record.knobs)
            for name, record in self.records.items()
            if name.split()[0] == kind and record.knobs in allowed
        ]
        if near:
            return min(near, key=lambda pair: pair[0])[1], "nearest"
        return None, "rule"


def _distance(one: str, other: str) -> float:
    """How unlike two kernels of a kind are: the sum of the logarithms of the ratios of their extents."""
    a, b = (
        [int(n) for part in name.split()[1:] for n in part.lstrip("abcdefghijklmnopqrstuvwxyz").split("x") if n]
        for name in (one, other)
    )
    if len(a) != len(b):
        return math.inf
    return sum(abs(math.log(x / y)) for x, y in zip(a, b))


def search(
    functions: Sequence,
    target,
    *,
    trials: int,
    path: str | os.PathLike,
    rpc: tuple[str, int, str] | None = None,
    minutes: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Records:
    """Measure schedules of kernels; see `gluonface.deploy.build.tune_model`.

    Parameters
    ----------
    functions : sequence of tvm.tirx.PrimFunc
        Fused and not scheduled; those without a tile are passed over.
    target : CompileTarget
    """
    records = Records.read(path) if Path(path).is_file() else Records()
    kernels = {}
    for function in functions:
        if (tile := tile_of(function)) is not None:
            kernels.setdefault(signature(function), (function, tile))
    start, measure = time.monotonic(), _Measure(target, rpc)
    for number, (name, (function, tile)) in enumerate(kernels.items(), 1):
        tried = candidates(tile, target.lanes, target.registers)[:trials]
        known = records.records.get(name)
        if known is not None and known.trials >= len(tried):
            continue
        if minutes is not None and time.monotonic() - start > 60 * minutes:
            say(f"stopped after {minutes:g} minutes; the same command goes on")
            break
        seconds = measure(function, tried)
        best = int(np.nanargmin(seconds)) if np.isfinite(seconds).any() else None
        if best is None:
            raise DeployError(f"none of the {len(tried)} schedules of {name} could be run: {measure.error}")
        if np.isfinite(seconds[0]) and seconds[best] > (1 - _GAIN) * seconds[0]:
            best = 0
        records.records[name] = Record(name, tried[best], float(seconds[best]), len(tried))
        records.about = {"target": target.name, "date": date.today().isoformat(), **measure.about}
        records.write(path)
        gain = f", rule {1e6 * seconds[0]:.0f} us" if best else ", the rule's"
        say(f"{number}/{len(kernels)} {name}: {1e6 * seconds[best]:.0f} us{gain}")
    return records


def _check_processor(target) -> None:
    """Refuse a target whose kernels this processor cannot run: it would end the whole process."""
    here = cpu_features()
    missing = [] if here is None else sorted(set(target.features) - here)
    if missing:
        raise DeployError(
            f"tuning for {target.name} runs its kernels, and this processor lacks {', '.join(missing)}: tune on a "
            "machine that has them, or give --rpc and --key of one"
        )


class _Measure:
    """Builds schedules and runs them, on one core of this machine or of a device behind an RPC tracker."""

    def __init__(self, target, rpc: tuple[str, int, str] | None):
        self._tvm = import_optional("tvm", "tune")
        self._target, self._link, self.error = target.tvm_target(), target.link(), ""
        self._remote = None
        if rpc is None:
            _check_processor(target)
        self.about = {"machine": processor_name(), "tvm": str(self._tvm.__version__)}
        if rpc is not None:
            host, port, key = rpc
            try:
                # TVM itself would try for a minute.
                socket.create_connection((host, port), timeout=10).close()
                tracker = import_optional("tvm.rpc", "tune").connect_tracker(host, port)
                self._remote = tracker.request(key, session_timeout=_DEVICE_SECONDS)
            except Exception as error:
                raise DeployError(
                    f"expected a TVM RPC tracker at {host}:{port} that knows a device {key!r}: {error}; start them "
                    "with python -m tvm.exec.rpc_tracker and, on the device, python -m tvm.exec.rpc_server"
                ) from error
            self.about["machine"] = f"{key}, by RPC"

    def __call__(self, function, tried: Sequence[Knobs]) -> np.ndarray:
        """Median seconds of each schedule; NaN for one that cannot be built or run."""
        shapes = [(tuple(int(side) for side in p.ty.shape), str(p.ty.dtype)) for p in function.params]
        rng = np.random.default_rng(0)
        device = (self._remote or self._tvm).cpu(0)
        arrays = [rng.uniform(0, 1, shape).astype(dtype) for shape, dtype in shapes]
        tensors = [self._tvm.runtime.tensor(array, device) for array in arrays]
        seconds = np.full(len(tried), np.nan)
        for i, knobs in enumerate(tried):
            try:
                seconds[i] = self._run(self._module(function, knobs), device, tensors)
            except (RuntimeError, self._tvm.error.InternalError) as error:
                self.error = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
        return seconds

    def _run(self, module, device, tensors) -> float:
        built = self._tvm.compile(module, target=self._target)
        with tempfile.TemporaryDirectory() as folder:
            if self._remote is not None:
                path = Path(folder) / "kernel.so"
                built.export_library(str(path), fcompile=self._link)
                self._remote.upload(str(path))
                loaded = self._remote.load_module(path.name)
            else:
                loaded = built.mod
            evaluator = loaded.time_evaluator("main", device, number=1, repeat=_REPEAT, min_repeat_ms=_MILLISECONDS)
            return float(np.median(evaluator(*tensors).results))

    def _module(self, function, knobs: Knobs):
        # On one core: what the cores share is the memory, and the outer loops are theirs in any case.
        scheduled = next(iter(schedule(function, knobs, parallel=False).mod.functions.values()))
        return self._tvm.IRModule({"main": scheduled.with_attr("global_symbol", "main")})
