"""The scripts of benchmarks/ as modules, as they see each other when they are run."""

import importlib
import json
from pathlib import Path

import pytest

from gluonface.errors import GluonFaceError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script by name."""
    pytest.importorskip("mxnet")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def save_run():
    """A function that makes the folder of a training run that has got so far, with weights that hold nothing."""

    def save(folder, done, wanted, seconds=0.0):
        (folder / "checkpoints" / f"epoch-{done:04d}").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"epochs": wanted}))
        (folder / "last.params").write_bytes(b"")
        log = [{"kind": "epoch", "epoch": i, "seconds": seconds / done} for i in range(done)]
        (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))

    return save


@pytest.fixture
def pretend(monkeypatch, save_run):
    """A function that has an ablation script make no run for real: those of a folder's name ``fails`` fail, those of
    ``stuck`` get no further, the others are done after 6 epochs. ``measured_as(epochs=)`` is what their test gives.
    Returns a list of the script, run and limits that were asked for.
    """

    def pretend_for(module, measured_as, domains=("detection", "points"), fails=None, stuck=None):
        made, epochs_done = [], importlib.import_module("ablation").epochs_done

        class Test:
            def __init__(self, args):
                self.domains = dict(zip(domains, ("streets", "portraits")))

            def __call__(self, row, folder):
                return measured_as(epochs=epochs_done(folder))

        def train(script, folder, flags, limits):
            made.append((script, folder.name, *limits))
            if fails and folder.name.startswith(fails):
                raise GluonFaceError("it failed")
            if not stuck or not folder.name.startswith(stuck):
                save_run(folder, done=6, wanted=6)

        monkeypatch.setattr(module, "Test", Test)
        monkeypatch.setattr("ablation.train", train)
        return made

    return pretend_for
