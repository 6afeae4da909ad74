"""Toy artefacts for the tests of what is compiled."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy():
    """The module toy.py beside this file."""
    spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toys(toy, tmp_path_factory) -> Path:
    """A folder with the artefacts ``detector`` (two sizes, batches of one and three), ``landmarks`` and
    ``detector.zip``; the test is skipped without TVM.
    """
    pytest.importorskip("tvm", reason="compiling takes TVM: pip install gluonface[deploy]")
    folder = tmp_path_factory.mktemp("toys")
    toy.write(folder / "detector", "detection", [(1, (96, 128)), (3, (96, 128)), (1, (480, 640))])
    toy.write(folder / "landmarks", "landmarks", [(1, (64, 64)), (4, (64, 64))])
    libraries = toy.artifact.installed_runtime()
    toy.write(folder / "detector.zip", "detection", [(1, (96, 128))], runtime_libs=libraries, as_zip=True)
    return folder


@pytest.fixture
def photo(rng):
    """A function that makes a photo (h, w, 3) with two bright rectangles, in which the toys find two faces."""
    import numpy as np

    def make(height: int = 300, width: int = 420) -> np.ndarray:
        image = rng.integers(0, 100, (height, width, 3)).astype(np.uint8)
        for channel, share in ((1, 3), (0, 6)):
            h, w = height // share, width // share
            y, x = rng.integers(height - h), rng.integers(width - w)
            image[y : y + h, x : x + w, channel] = 230
        return image

    return make
