"""A wheel built from the repository works elsewhere: without the sources, without a network, weights included."""

import ast
import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[1]
IN_THE_WHEEL = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "gluonface", "model_zoo")

# What setup.py calls the packages that are imported under another name.
DISTRIBUTION = {"skimage": "scikit-image", "tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi", "cv2": "opencv-python"}

NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
"""


def run(*command, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # In a copy: a build leaves folders behind, and an old build/ gets into the next wheel.
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in IN_THE_WHEEL:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.tmp", ".*"))
        else:
            shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source, cwd=folder)
    shutil.rmtree(source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """Folder into which the wheel is installed, alone."""
    site = wheel.parent / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=wheel.parent)
    return site


def python(installed: Path, *args, cwd: Path) -> str:
    return run(sys.executable, *args, cwd=cwd, env={**os.environ, "PYTHONPATH": str(installed)}).stdout


def test_the_wheel_carries_code_weights_cards_and_licences_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gluonface"}
    for path in (ROOT / "model_zoo").rglob("*"):
        hidden = path.name.startswith(".") or path.suffix == ".tmp"
        if path.is_file() and not hidden and "__pycache__" not in path.parts:
            assert f"gluonface/_model_zoo/{path.relative_to(ROOT / 'model_zoo').as_posix()}" in names
    assert {"gluonface/py.typed", "gluonface/pipeline.py", "gluonface/data/transforms/ops.py"} <= set(names)
    for licence in ("LICENSE", "NOTICE"):
        assert [name for name in names if ".dist-info" in name and name.endswith(licence)]
    assert not [name for name in names if name.endswith((".pyc", ".tmp"))]


def test_the_wheel_is_small_enough_to_ship(wheel):
    assert wheel.stat().st_size < 60e6


def test_the_metadata_names_the_extras(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    extras = {"cpu", "cu112", "deploy", "runtime", "tune", "train", "test", "bench", "demo", "viz", "cofw"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    assert set(re.split(r",\s*", metadata["Requires-Python"])) == {">=3.10", "<3.13"}
    needed = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert {re.match(r"[\w-]+", r).group().lower() for r in needed} == {"numpy", "opencv-python", "pillow"}


def test_an_installed_wheel_finds_its_weights_and_looks_at_a_photo_offline(installed, tmp_path):
    code = f"""
{NO_NETWORK}
import logging; logging.getLogger("gluonface.licence").disabled = True
from pathlib import Path
import numpy as np
import gluonface
assert Path(gluonface.__file__).is_relative_to({str(installed)!r}), gluonface.__file__
names = gluonface.list_models(pretrained=True)
assert names
for name in names:
    facts = gluonface.get_model(name, pretrained=True).facts
    assert (Path(gluonface.__file__).parent / "_model_zoo" / facts.file).is_file(), facts.file
photo = np.full((120, 160, 3), 200, np.uint8)
photo[30:90, 50:110] = (220, 170, 140)
faces = gluonface.FaceAnalyzer()(photo)
print(type(faces).__name__, faces.size_hw, faces.boxes.shape[1])
"""
    assert python(installed, "-c", code, cwd=tmp_path).split("\n")[0] == "Faces (120, 160) 4"


def test_an_installed_wheel_has_the_command(installed, tmp_path):
    assert (installed / "bin" / "gluonface").exists()
    version = python(installed, "-m", "gluonface", "--version", cwd=tmp_path)
    assert re.fullmatch(r"gluonface \d+\.\d+\.\d+\n", version)
    assert "retinaface_mobilenet0.25" in python(installed, "-m", "gluonface", "models", cwd=tmp_path)


@pytest.fixture(scope="module")
def setup_arguments() -> dict:
    """What setup.py hands to setuptools."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **arguments: seen.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return seen


def optional_imports() -> list[tuple[str, str, str]]:
    """(where, module, extra) of every call of import_optional in the repository."""
    found = []
    for folder in ("gluonface", "benchmarks", "train"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_optional")
                if called and all(isinstance(argument, ast.Constant) for argument in node.args):
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", *(a.value for a in node.args)))
    return found


def test_an_error_that_names_an_extra_names_one_that_brings_the_module(setup_arguments):
    extras = setup_arguments["extras_require"]
    through_gluoncv = {"scipy", "PIL", "portalocker"}
    assert len(optional_imports()) > 3
    for where, module, extra in optional_imports():
        assert extra in extras, where
        top = module.split(".")[0]
        wanted = DISTRIBUTION.get(top, top)
        brought = {re.match(r"[\w-]+", requirement).group().lower() for requirement in extras[extra]}
        known = wanted in brought or (extra == "cpu" and top in through_gluoncv)
        assert known, f"{where}: the extra {extra} does not bring {wanted}"


def test_every_direct_requirement_is_pinned_where_the_makefile_installs(setup_arguments):
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.M))
    installed_by_make = ("cpu", "train", "test", "bench", "demo")
    needed = [*setup_arguments["install_requires"]]
    for extra in installed_by_make:
        needed += setup_arguments["extras_require"][extra]
    assert {re.match(r"[\w-]+", r).group().lower() for r in needed} <= {name.lower() for name in pinned}
