"""What the README shows works: its Python runs, its commands, files and models exist."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import gluonface
from gluonface import cli
from gluonface.model_zoo import DEFAULT_DETECTOR

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)


def commands() -> list[list[str]]:
    """Command lines of the README, as words, comments removed and continued lines joined."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory) -> Path:
    """A folder with a photo.jpg of many faces: the crowd of the demo."""
    pytest.importorskip("skimage", reason="the photo is scikit-image's astronaut: pip install 'gluonface[demo]'")
    folder = tmp_path_factory.mktemp("readme")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "from crowd import compose_crowd\nfrom gluonface.image import save_image\n"
        "save_image('photo.jpg', compose_crowd((480, 640), heights=(150, 110, 70), angles=(0, 10, -10)).image)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, timeout=120)
    return folder


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_python_of_the_readme_runs_on_a_photo(number, photo_folder):
    code = blocks("python")[number]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=photo_folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr}"
    if number == 0:
        assert len(re.findall(r"^0\.\d+ \[|^1\.00 \[", done.stdout, re.M)) == 3  # one line for each of the three faces


def test_the_first_example_is_five_lines():
    assert len(blocks("python")[0].strip().splitlines()) == 5


def test_every_command_of_the_readme_exists():
    programs = {words[0] for words in commands()}
    assert programs == {"make", "gluonface", "python", "pip"}
    extras = re.search(r"EXTRAS = \{.*?^\}", (ROOT / "setup.py").read_text(encoding="utf-8"), re.M | re.S)[0]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for words in commands():
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "gluonface":
            assert words[1] in {command.name for command in cli.COMMANDS}, words
        elif words[0] == "pip":
            assert all(f'"{extra}":' in extras for extra in re.search(r"\[(.*)\]", words[-1])[1].split(",")), words
        else:
            assert (ROOT / words[1]).is_file(), words


@cache
def help_of(*program: str) -> str:
    command = [sys.executable, *program, "--help"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120).stdout


def test_every_option_of_the_readme_exists():
    for words in commands():
        if words[0] in ("make", "pip"):
            continue
        program = ("-m", "gluonface", words[1]) if words[0] == "gluonface" else (words[1],)
        for word in words:
            if word.startswith("--"):
                assert re.search(rf"{word}\b", help_of(*program)), f"{' '.join(words)}: no {word}"


def test_every_file_the_readme_names_exists():
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    named = re.findall(r"`((?:train|benchmarks|model_zoo|docs)/[\w./-]*)", TEXT)
    assert len(linked) > 3
    assert len(named) > 3
    for name in {*linked, *named}:
        assert (ROOT / name).exists(), name


def test_every_model_the_readme_names_exists():
    pattern = r"(?:retinaface|heatmap)_(?:mobilenet|resnet)[\w.]*\w"
    names = {re.sub(r"(\.md|-\w+\.params)$", "", name) for name in re.findall(pattern, TEXT)}
    assert {name.split("_")[0] for name in names} == {"retinaface", "heatmap"}
    for name in names:
        assert gluonface.model_zoo.model_facts(name).params > 0


def test_the_readme_lists_every_model_with_weights_and_its_terms():
    table = re.search(r"<!-- begin:models -->(.*)<!-- end:landmark_models -->", TEXT, re.S).group(1)
    for name in gluonface.list_models(pretrained=True):
        assert name in table


def test_the_readme_names_the_default():
    assert f"`FaceAnalyzer()` without a name takes `{DEFAULT_DETECTOR}`" in TEXT


def test_the_pictures_are_small():
    for name in ("crowd.jpg", "landmarks.jpg"):
        assert (ROOT / "docs" / "img" / name).stat().st_size < 300_000


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_the_python_of_the_other_pages_runs(page, tmp_path):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        if "deploy" in code:
            pytest.importorskip("tvm", reason="needs gluonface[deploy]")
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{code}\n{done.stderr}"


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_gluonface_command_of_the_other_pages_exists(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("\\\n", " ")
    names = {command.name for command in cli.COMMANDS}
    for name, options in re.findall(r"^gluonface (\w+)(.*)$", text, re.M):
        assert name in names
        for option in re.findall(r"\s(--[\w-]+)", options):
            assert re.search(rf"{option}\b", help_of("-m", "gluonface", name)), (
                f"{page}: gluonface {name} has no {option}"
            )
