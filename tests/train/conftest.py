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


@pytest.fixture(scope="session")
def face_line():
    """A function that gives the line of a 96x96 photo with one drawn face, in the corpus format."""

    def line(photo, x, y, r, five, **more):
        face = {
            "box": [float(x - r), float(y - r), float(x + r), float(y + r)],
            "box_from": "human",
            "ignore": False,
            "landmarks5": None if five is None else [[float(a), float(b)] for a, b in five],
            "landmarks5_from": "human",
            "landmarks68": None,
            "pose": None,
            "mesh468": None,
            "attributes": {},
            **more,
        }
        return {"image": photo, "width": 96, "height": 96, "source": "drawn", "faces": [face]}

    return line
