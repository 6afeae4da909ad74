"""The direction of imports (design: a file imports only from rows above its own), read off the sources with ``ast``."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gluonface"

# Top to bottom; units of one row do not know each other. A unit is a file or a folder of the package.
ROWS = (
    ("errors", "processor"),
    ("files", "_compat"),
    ("face_template",),
    ("pose",),
    ("faces", "facts"),
    ("geometry",),
    ("decode", "box_mapping"),
    ("mesh",),
    ("image",),
    ("viz",),
    ("tracking", "video"),
    ("frames",),
    ("analysis",),
    ("nn",),
    ("targets", "loss"),
    ("data",),
    ("model_zoo",),
    ("metrics",),
    ("alignment",),
    ("pipeline",),
    ("tta",),
    ("training",),
    ("engine",),
    ("deploy",),
    ("cli",),
    ("__main__",),
)
ROW_OF = {unit: number for number, row in enumerate(ROWS) for unit in row}

NUMPY_ONLY = (
    "errors",
    "processor",
    "files",
    "faces",
    "facts",
    "geometry",
    "decode",
    "box_mapping",
    "face_template",
    "pose",
    "mesh",
    "image",
    "viz",
    "tracking",
    "video",
    "frames",
    "analysis",
    "targets",
)
SMALL_PACKAGES = {"numpy", "cv2", "PIL"}


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> list[tuple[int, str]]:
    """(line, full dotted name) of everything a file imports, also inside functions, but not for type checking only."""
    module = ("gluonface", *path.relative_to(PACKAGE).with_suffix("").parts)
    package = module[:-1]  # also for an __init__.py, whose own name is the last part
    names = []

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            names.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            names.extend((node.lineno, f"{start}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("import_optional", "importlib.import_module", "import_module", "__import__"):
                names.append((node.lineno, str(node.args[0].value)))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def wrong_way(path: Path) -> list[str]:
    """What a file imports from its own row or from below, as readable lines."""
    unit, found = unit_of(path), []
    for line, name in imported_names(path):
        parts = name.split(".")
        if parts[0] != "gluonface" or len(parts) < 2 or parts[1] not in ROW_OF or parts[1] == unit:
            continue
        if ROW_OF[parts[1]] >= ROW_OF[unit]:
            found.append(f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}, which is not above {unit}")
    return found


def test_every_file_has_a_row():
    assert {unit_of(p) for p in files()} - set(ROW_OF) == set()


def test_a_file_imports_only_from_rows_above_its_own():
    assert [line for path in files() for line in wrong_way(path)] == []


def test_data_and_model_zoo_do_not_know_each_other():
    for one, other in (("data", "model_zoo"), ("model_zoo", "data")):
        for path in sorted((PACKAGE / one).rglob("*.py")):
            names = [name for _, name in imported_names(path)]
            assert not [n for n in names if n.startswith(f"gluonface.{other}")], path


def test_numpy_only_modules_stay_so():
    for path in files():
        if unit_of(path) in NUMPY_ONLY:
            roots = {name.split(".")[0] for _, name in imported_names(path)}
            assert roots <= SMALL_PACKAGES | {"gluonface"} | sys.stdlib_module_names, path
            assert "gluonface._compat.mx" not in [name for _, name in imported_names(path)], path


def test_mxnet_comes_in_through_compat_only():
    for path in files():
        if path.name != "_compat.py":
            roots = {name.split(".")[0] for _, name in imported_names(path)}
            assert not roots & {"mxnet", "gluoncv"}, f"{path}: use gluonface._compat"


def test_the_runtime_of_an_artefact_imports_neither_mxnet_nor_tvm():
    for path in sorted((PACKAGE / "deploy" / "runtime").rglob("*.py")):
        names = [name for _, name in imported_names(path)]
        assert not {name.split(".")[0] for name in names} & {"mxnet", "gluoncv", "tvm", "matplotlib"}, path
        own = {name.split(".")[1] for name in names if name.startswith("gluonface.")}
        assert own <= {*NUMPY_ONLY, "deploy"}, path


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("from ..model_zoo import get_model", "gluonface.model_zoo.get_model"),
        ("from .. import cli", "gluonface.cli"),
        ("import gluonface.engine", "gluonface.engine"),
        ("def f():\n    from gluonface.pipeline import FaceAnalyzer", "gluonface.pipeline.FaceAnalyzer"),
    ],
)
def test_a_wrong_import_would_be_seen(tmp_path, monkeypatch, source, seen):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "gluonface")
    path = tmp_path / "gluonface" / "data" / "wrong.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert [name for _, name in imported_names(path)] == [seen]
    assert len(wrong_way(path)) == 1


def loaded_after(statement: str) -> set[str]:
    """Top-level modules of a fresh interpreter after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_after("import gluonface") & {"mxnet", "gluoncv", "tvm", "matplotlib", "cv2", "PIL", "scipy"}


def test_the_numpy_side_of_the_package_does_without_mxnet():
    names = [unit for unit in NUMPY_ONLY if (PACKAGE / f"{unit}.py").exists()]
    loaded = loaded_after("import " + ", ".join(f"gluonface.{name}" for name in names))
    assert not loaded & {"mxnet", "gluoncv", "tvm", "matplotlib", "scipy"}


def test_the_public_names_are_there_before_they_are_loaded():
    import gluonface

    assert set(gluonface.__all__) <= set(dir(gluonface))
    with pytest.raises(AttributeError, match="no attribute 'get_modell'"):
        _ = gluonface.get_modell
