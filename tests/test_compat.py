"""MXNet and GluonCV come in quietly, leave NumPy as it was, and their absence is explained."""

import subprocess
import sys

import numpy as np
import pytest

from gluonface import _compat
from gluonface.errors import MissingDependencyError
from gluonface.processor import cpu_features


def run(code: str, *flags: str, path: str = "") -> subprocess.CompletedProcess:
    start = f"import sys\nsys.path.insert(0, {path!r})\n" if path else ""
    return subprocess.run([sys.executable, *flags, "-c", start + code], capture_output=True, text=True, timeout=120)


# Makes a package look as if it were not installed.
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""


def test_mxnet_and_gluoncv_come_in_without_warnings_and_leave_numpy_as_it_was():
    code = """
import numpy as np
before = dict(vars(np))
from gluonface._compat import import_gluoncv, mx
gluoncv = import_gluoncv()
assert not [k for k in ("bool", "int", "float", "object") if (k in vars(np)) != (k in before)]
print(mx.__version__, gluoncv.model_zoo.get_model("mobilenet0.25").__class__.__name__)
"""
    done = run(code, "-W", "always")
    assert done.stdout.split() == ["1.9.1", "MobileNet"], done.stderr
    assert [line for line in done.stderr.splitlines() if "mxnet" in line or "gluon" in line] == []


def test_gluoncv_can_be_imported_first_by_its_own_name_once_mxnet_came_through_us():
    done = run("from gluonface._compat import mx\nimport gluoncv\nprint(gluoncv.model_zoo.__name__)")
    assert done.stdout.strip() == "gluoncv.model_zoo", done.stderr


@pytest.mark.skipif("avx2" not in (cpu_features() or ()), reason="this processor has no AVX2")
@pytest.mark.parametrize(("users", "wanted"), [(None, "Haswell"), ("Nehalem", "Nehalem")])
def test_matrix_products_take_avx2_kernels_unless_the_user_says_otherwise(users, wanted):
    code = """
import ctypes, os, pathlib
before = os.environ.get("OPENBLAS_CORETYPE")
from gluonface._compat import mx
assert os.environ.get("OPENBLAS_CORETYPE") == before
library = pathlib.Path(mx.__file__).with_name("libopenblas.so.0")
if library.exists():
    name = ctypes.CDLL(str(library)).openblas_get_corename
    name.restype = ctypes.c_char_p
    print(name().decode())
"""
    set_by_user = f"import os\nos.environ['OPENBLAS_CORETYPE'] = {users!r}\n" if users else ""
    done = run(set_by_user + code)
    assert done.returncode == 0, done.stderr
    if not done.stdout:
        pytest.skip("this MXNet brings no OpenBLAS")
    assert done.stdout.strip() == wanted


@pytest.mark.parametrize("hidden", ["mxnet", "requests"])
def test_a_missing_mxnet_names_the_extras(hidden):
    code = """
try:
    from gluonface._compat import mx
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = run(HIDE.format(names={hidden}) + code)
    assert done.stdout.startswith("MissingDependencyError"), done.stderr
    assert hidden in done.stdout.lower()
    assert 'pip install "gluonface[cpu]"' in done.stdout
    assert "gluonface[cu112]" in done.stdout


def test_what_gluoncv_itself_lacks_is_named():
    code = """
from gluonface._compat import import_gluoncv
try:
    import_gluoncv()
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = run(HIDE.format(names={"portalocker"}) + code)
    assert done.stdout.startswith("MissingDependencyError portalocker is not installed"), done.stderr
    assert "gluonface[cpu]" in done.stdout


def test_the_package_is_usable_where_mxnet_is_missing():
    code = "import gluonface\nprint(len(gluonface.Faces.empty((4, 5))))\ngluonface.get_model"
    done = run(HIDE.format(names={"mxnet", "gluoncv"}) + code)
    assert done.stdout.strip() == "0"
    assert "MissingDependencyError: MXNet is not installed" in done.stderr


def test_an_mxnet_that_cannot_be_loaded_says_why_and_numpy_stays_clean(tmp_path):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text(
        "import numpy\nnumpy.bool\nraise OSError('libcuda.so.1: cannot open shared object file')"
    )
    code = """
import numpy
try:
    from gluonface._compat import mx
except ImportError as error:
    print(type(error).__name__, error)
assert "bool" not in vars(numpy)
"""
    done = run(code, path=str(tmp_path))
    assert "libcuda.so.1" in done.stdout, done.stderr
    assert "gluonface[cpu]" in done.stdout


def test_numpy_2_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setattr(np, "__version__", "2.1.0")
    monkeypatch.delitem(sys.modules, "mxnet", raising=False)
    with pytest.raises(MissingDependencyError, match=r'NumPy 2\.1\.0 is installed: pip install "numpy<2"'):
        _compat._import_mxnet()


def test_an_optional_module_comes_back_as_it_is():
    assert _compat.import_optional("json.decoder", "viz") is sys.modules["json.decoder"]


def test_a_missing_optional_module_names_its_extra():
    with pytest.raises(MissingDependencyError, match=r'^not_there is not installed: pip install "gluonface\[bench\]"$'):
        _compat.import_optional("not_there", "bench")


def test_a_missing_module_behind_an_optional_one_is_named(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_there_either")
    (tmp_path / "broken.py").write_text("from json import no_such_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"not_there_either is not installed \(needs_more needs it\)"):
        _compat.import_optional("needs_more", "demo")
    with pytest.raises(MissingDependencyError, match=r"broken is installed but cannot be imported .*no_such_name"):
        _compat.import_optional("broken", "demo")


def test_unknown_names_of_the_module_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'mxx'"):
        _ = _compat.mxx
