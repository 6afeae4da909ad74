"""The scripts of train/ as modules."""

import importlib.util
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[2] / "train"


@pytest.fixture(scope="session")
def load_script():
    """A function that imports a script by name, without its folder on the path."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, TRAIN / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
