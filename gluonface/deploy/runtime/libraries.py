"""TVM's runtime, without TVM: ``tvm_ffi`` and two small libraries.

``import tvm`` loads the compiler, too: 260 MB, 0.6 s. The Relax virtual machine is in ``libtvm_runtime.so``; sorting,
which top-k and non-maximum suppression call, in ``libtvm_runtime_extra.so``.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import threading
from pathlib import Path

from ...errors import DeployError, MissingDependencyError

__all__ = ["RUNTIME_LIBRARIES", "check_versions", "find_runtime_libraries", "load_runtime"]

#: In the order in which they are loaded.
RUNTIME_LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")

_HINT = (
    'pip install "gluonface[deploy]" brings them with the whole of TVM (0.3 GB); an artefact compiled with --bundle '
    'carries them itself, and then "gluonface[runtime]" is enough'
)
_lock = threading.Lock()
_loaded: list[ctypes.CDLL] = []


def find_runtime_libraries(beside: Path | None = None) -> list[Path]:
    """Paths of `RUNTIME_LIBRARIES`.

    Parameters
    ----------
    beside : path, optional
        Folder looked into first: the ``lib`` of an artefact. Else they are those of the installed ``tvm``, which is not
        imported.

    Raises
    ------
    DeployError
        They are in neither.
    """
    folders = [beside, *_tvm_folders()]
    for folder in folders:
        if folder is not None and all((folder / name).is_file() for name in RUNTIME_LIBRARIES):
            return [folder / name for name in RUNTIME_LIBRARIES]
    looked = ", ".join(str(folder) for folder in folders if folder is not None) or "no folder: tvm is not installed"
    raise DeployError(f"expected {' and '.join(RUNTIME_LIBRARIES)} (looked in {looked}): {_HINT}")


def _tvm_folders() -> list[Path]:
    try:
        spec = importlib.util.find_spec("tvm")
    except (ImportError, ValueError):
        return []
    return [] if spec is None else [Path(place) / "lib" for place in spec.submodule_search_locations or ()]


def check_versions(versions: dict[str, str], where: str) -> None:
    """Refuse code compiled against another ``tvm_ffi``: the calls between library and runtime would not fit.

    Raises
    ------
    DeployError
        Another version than the one installed.
    MissingDependencyError
        ``tvm_ffi`` is not installed.
    """
    try:
        installed = importlib.metadata.version("apache-tvm-ffi")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError('apache-tvm-ffi is not installed: pip install "gluonface[runtime]"') from error
    wanted = versions.get("tvm_ffi", "")
    if _release(wanted) != _release(installed) or not wanted:
        raise DeployError(
            f"{where}: expected the tvm_ffi it was compiled with, {wanted or 'of which its manifest says nothing'}, "
            f"got {installed}: pip install apache-tvm-ffi=={wanted or 'VERSION'}, or compile it again"
        )


def check_tvm(versions: dict[str, str], where: str) -> None:
    """The same for the runtime libraries of an installed ``tvm`` (those in an artefact are its own by their hashes)."""
    try:
        installed = importlib.metadata.version("apache-tvm")
    except importlib.metadata.PackageNotFoundError:
        return  # a build of one's own, whose version is not written down
    wanted = versions.get("tvm", "")
    if _release(wanted) != _release(installed):
        raise DeployError(
            f"{where}: expected the TVM it was compiled with, {wanted or 'of which its manifest says nothing'}, got "
            f"{installed}: pip install apache-tvm=={wanted or 'VERSION'}, or compile it again"
        )


def _release(version: str) -> str:
    """The numbers of a version: 0.1.14 of 0.1.14.post1, whose code is the same."""
    return re.match(r"[0-9.]*", version).group().rstrip(".")


def load_runtime(beside: Path | None, versions: dict[str, str], where: str):
    """Load the runtime libraries, once in a process, and import ``tvm_ffi``.

    Parameters
    ----------
    beside : path, optional
        As of `find_runtime_libraries`.
    versions : dict
        Of the manifest.
    where : str
        The artefact, named in errors.

    Returns
    -------
    module
        ``tvm_ffi``.
    """
    try:
        import tvm_ffi
    except ImportError as error:
        raise MissingDependencyError(
            f'tvm_ffi is not installed or cannot be imported ({error}): pip install "gluonface[runtime]"'
        ) from error
    with _lock:
        # Also when tvm itself is imported: the loader then hands out the libraries that are loaded already.
        if not _loaded:
            paths = find_runtime_libraries(beside)
            if paths[0].parent != beside:
                check_tvm(versions, where)
            # TVM pins the threads of a pool to the first cores. Every calling thread has a pool of its own, so that
            # callers of several threads would all crowd these. A value of the caller's wins.
            os.environ.setdefault("TVM_BIND_THREADS", "0")
            for path in paths:
                try:
                    _loaded.append(ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL))
                except OSError as error:
                    _loaded.clear()
                    raise DeployError(f"{path}: cannot be loaded: {error}. {_HINT}") from error
    return tvm_ffi


def set_threads(count: int) -> None:
    """How many threads TVM uses for what this thread asks of it; counts before its first parallel loop only."""
    # A thread-local number in TVM that only C++ reaches: tvm::runtime::threading::SetMaxConcurrency(int). The function
    # runtime.config_threadpool can only lower what TVM_NUM_THREADS said before the process started.
    _loaded[0]["_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"](ctypes.c_int(count))
