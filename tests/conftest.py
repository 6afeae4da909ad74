"""Fixtures that several tests share."""

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def facedata() -> Path:
    """The folder of the face corpus; the test is skipped where there is none."""
    candidates = [os.environ.get("GLUONFACE_FACEDATA"), Path(__file__).parents[2] / "shared" / "facedata"]
    for folder in candidates:
        if folder and (Path(folder) / "det_val.jsonl").is_file():
            return Path(folder)
    pytest.skip("needs the face corpus: neither $GLUONFACE_FACEDATA nor ../shared/facedata holds it")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(20240611)


@pytest.fixture
def cells():
    """A function that makes a MATLAB cell column of a list, as the official WIDER FACE files nest them."""

    def column_of(items):
        column = np.empty((len(items), 1), object)
        for i, item in enumerate(items):
            column[i, 0] = item
        return column

    return column_of
