"""The scripts of benchmarks/ as modules, as they see each other when they are run."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script by name."""
    pytest.importorskip("mxnet")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module
