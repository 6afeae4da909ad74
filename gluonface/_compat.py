"""The one door to MXNet, GluonCV and the optional packages.

MXNet 1.9.1 and GluonCV 0.10.5 were written for NumPy below 1.24 and Python below 3.12. They run on NumPy up to 1.26 and
Python up to 3.12 when, while they are imported, NumPy still has its old names for Python's types and ``distutils``
exists. Both are given here, for the time of the import only, so that nothing else in the process sees a changed NumPy.

``from gluonface._compat import mx`` imports MXNet on the spot; importing this module alone does not (PEP 562).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import MissingDependencyError
from .processor import cpu_features

if TYPE_CHECKING:
    from collections.abc import Iterator

    import mxnet as mx

__all__ = ["import_gluoncv", "import_optional", "mx"]

#: NumPy names that were aliases of Python's own types until NumPy 1.24.
NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str}

# What importing MXNet 1.9.1 and GluonCV 0.10.5 is known to say, none of it of use to a user: messages start with these.
_HARMLESS = (
    r"\n?`np\.(bool|int|float|complex|object|str)` is a deprecated alias",
    r"In accordance with NEP 32, the function",
    r"distutils Version classes are deprecated",
    r"The distutils package is deprecated",
    r"invalid escape sequence",
    r"\"is( not)?\" with",
    r"Setuptools is replacing distutils",
)

_MXNET_HINT = 'pip install "gluonface[cpu]" (or "gluonface[cu112]" for CUDA 11.2)'


@contextlib.contextmanager
def _as_mxnet_expects() -> Iterator[None]:
    """Give NumPy its old type names where they are missing and silence the known warnings; undo both afterwards."""
    with warnings.catch_warnings():
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        missing = {name: kind for name, kind in NUMPY_ALIASES.items() if name not in vars(np)}
        for name, kind in missing.items():
            setattr(np, name, kind)
        try:
            yield
        finally:
            for name in missing:
                delattr(np, name)


@contextlib.contextmanager
def _matrix_kernels() -> Iterator[None]:
    """Have the OpenBLAS that MXNet brings take its AVX2 kernels.

    It knows no processor younger than itself and takes kernels of 2004 (SSE3) for those, half to a quarter as fast.
    What it reads is there for the time of the import only, and not at all where the user has set it.
    """
    name = "OPENBLAS_CORETYPE"
    if name in os.environ or not {"avx2", "fma"} <= (cpu_features() or set()):
        yield
        return
    os.environ[name] = "Haswell"
    try:
        yield
    finally:
        del os.environ[name]


def _provide_distutils() -> None:
    """Python 3.12 has no ``distutils``, which both packages import; setuptools brings its own copy under that name."""
    if sys.version_info >= (3, 12) and "distutils" not in sys.modules:
        import_optional("setuptools", "cpu")


def _import_mxnet() -> ModuleType:
    if int(np.__version__.split(".")[0]) >= 2:
        raise MissingDependencyError(
            f'MXNet needs NumPy below 2, but NumPy {np.__version__} is installed: pip install "numpy<2"'
        )
    # Without a bound oneDNN keeps what it prepared for every input shape ever seen, and memory grows as long as photos
    # of new sizes come. A detector prepares some 50 convolutions a shape.
    os.environ.setdefault("MXNET_MKLDNN_CACHE_NUM", "1000")
    _provide_distutils()
    try:
        with _as_mxnet_expects(), _matrix_kernels():
            return importlib.import_module("mxnet")
    except ModuleNotFoundError as error:
        if error.name == "mxnet":
            raise MissingDependencyError(f"MXNet is not installed: {_MXNET_HINT}") from error
        raise MissingDependencyError(f"MXNet needs {error.name}, which is not installed: {_MXNET_HINT}") from error
    except OSError as error:  # the loader lacks a library
        raise MissingDependencyError(
            f"MXNet is installed but cannot be loaded: {error}. mxnet-cu112 needs CUDA 11.2 and cuDNN 8 installed; "
            'without a GPU: pip uninstall mxnet-cu112, then pip install "gluonface[cpu]"'
        ) from error


@functools.cache
def import_gluoncv() -> ModuleType:
    """Import GluonCV with its MXNet side, quietly.

    Returns
    -------
    module
        ``gluoncv``, with ``gluoncv.model_zoo``, ``gluoncv.data`` and ``gluoncv.utils`` loaded.

    Raises
    ------
    MissingDependencyError
        When GluonCV, MXNet or a package that GluonCV needs is not installed.

    """
    _import_mxnet()
    with _as_mxnet_expects():
        try:
            return importlib.import_module("gluoncv")
        except ImportError:
            # GluonCV swallows the reason and says that MXNet is missing; the reason is one of these, or itself.
            for name in ("tqdm", "scipy", "PIL", "portalocker"):
                import_optional(name, "cpu")
            return import_optional("gluoncv", "cpu")


def import_optional(name: str, extra: str) -> ModuleType:
    """Import a module that only some uses of gluonface need.

    Parameters
    ----------
    name : str
        Module to import, as in ``import name``.
    extra : str
        The extra of gluonface that installs it.

    Raises
    ------
    MissingDependencyError
        When it is not installed; the message names the extra.

    Examples
    --------
    >>> plt = import_optional("matplotlib.pyplot", "viz")

    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            what = f"{error.name} is not installed" + ("" if error.name == name else f" ({name} needs it)")
        else:
            what = f"{name} is installed but cannot be imported ({error})"
        raise MissingDependencyError(f'{what}: pip install "gluonface[{extra}]"') from error


def __getattr__(name: str) -> Any:
    if name == "mx":
        module = _import_mxnet()
        globals()["mx"] = module  # the next look-up is a plain one
        return module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
