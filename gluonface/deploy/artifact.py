"""`write_artifact`: a compiled library and its manifest become an artefact, whole or not at all.

An artefact is a folder, or a zip of it:

    manifest.json   what it is, see `Manifest`            model.so   the compiled functions, weights inside
    manifest.txt    the part of it that C++ programs read  lib/       TVM's runtime libraries, if they were asked for

Reading is `gluonface.deploy.runtime`'s, which needs neither MXNet nor TVM.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import DeployError
from ..files import replacing
from .runtime import FileEntry, Manifest, find_runtime_libraries, is_safe_name, open_artifact, sha256_of
from .runtime.manifest import LIBRARY

__all__ = ["installed_runtime", "installed_versions", "write_artifact"]

# The first moment a zip can name: the same contents make the same zip.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
# Version a distribution is known under in a manifest -> its names.
_DISTRIBUTIONS = {
    "gluonface": ("gluonface",),
    "tvm": ("apache-tvm",),
    "tvm_ffi": ("apache-tvm-ffi",),
    "mxnet": ("mxnet", "mxnet-cu112"),
}


def write_artifact(
    out: str | os.PathLike,
    library_path: str | os.PathLike,
    manifest: Manifest,
    runtime_libs: Iterable[str | os.PathLike] | Mapping[str, str | os.PathLike] | None = None,
    as_zip: bool = False,
) -> Path:
    """Write an artefact.

    Parameters
    ----------
    out : path
        The folder or the zip to make. An artefact that is there already is replaced; anything else is left alone.
    library_path : path
        What TVM's ``export_library`` wrote.
    manifest : Manifest
        Its ``files`` are filled in here.
    runtime_libs : paths, or mapping of str to path, optional
        Files to put under ``lib/``, by their own names or by these: `installed_runtime` for this machine.
    as_zip : bool
        A zip instead of a folder.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    DeployError
        ``out`` is something else than an artefact, a file is missing, or the manifest contradicts itself.
    """
    out = Path(out)
    sources = {LIBRARY: Path(library_path), **{f"lib/{name}": path for name, path in _named(runtime_libs).items()}}
    for name, path in sources.items():
        if not is_safe_name(name):
            raise DeployError(f"{path}: expected a name of letters, digits and . _ + - for an artefact, got {name!r}")
        if not path.is_file():
            raise DeployError(f"{path}: expected a file to put into the artefact as {name}")
    _check_replaceable(out, as_zip)
    temporary = out.with_name(f".{out.name[:64]}-{secrets.token_hex(8)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _fill(temporary, sources, manifest)
        if as_zip:
            with replacing(out) as packed:
                _pack(temporary, packed)
        else:
            _put_in_place(temporary, out)
    except OSError as error:
        raise DeployError(f"{out}: cannot write the artefact: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _named(runtime_libs) -> dict[str, Path]:
    if runtime_libs is None:
        return {}
    if isinstance(runtime_libs, Mapping):
        return {name: Path(path) for name, path in runtime_libs.items()}
    paths = [Path(path) for path in runtime_libs]
    if len({path.name for path in paths}) != len(paths):
        raise DeployError(f"expected runtime libraries of different names, got {', '.join(map(str, paths))}")
    return {path.name: path for path in paths}


def _check_replaceable(out: Path, as_zip: bool) -> None:
    """An artefact of the same form may be replaced: a slip of the hand must not cost a folder of photos."""
    if out.is_symlink() or not out.exists():
        if out.is_symlink():
            raise DeployError(
                f"{out}: expected a path to write an artefact to, got a symbolic link: give what it points to"
            )
        return
    if as_zip:
        fits = out.is_file() and zipfile.is_zipfile(out)
    else:
        fits = out.is_dir() and ((out / "manifest.json").is_file() or not any(out.iterdir()))
    if not fits:
        raise DeployError(
            f"{out}: expected a new path, or an artefact that is a {'zip' if as_zip else 'folder'} to replace, got "
            "something else: remove it, or choose another path"
        )


def _fill(folder: Path, sources: dict[str, Path], manifest: Manifest) -> None:
    folder.mkdir()
    for name, path in sources.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if ".so" in name else 0o644)
    manifest = _with_files(manifest, folder, sources)
    (folder / "manifest.txt").write_text(manifest.to_lines(), encoding="utf-8")
    manifest = _with_files(manifest, folder, [*sources, "manifest.txt"])
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    # What the reader would refuse is not to be written.
    open_artifact(folder, check_host=False)


def _with_files(manifest: Manifest, folder: Path, names: Iterable[str]) -> Manifest:
    files = {name: FileEntry(sha256_of(folder / name), (folder / name).stat().st_size) for name in sorted(names)}
    return dataclasses.replace(manifest, files=files)


def _pack(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        # The manifest first, where people look.
        for path in sorted(folder.rglob("*"), key=lambda p: (p.name != "manifest.json", p)):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _ZIP_EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # Unix, on every system
                entry.external_attr = (stat.S_IFREG | (path.stat().st_mode & 0o777)) << 16
                archive.writestr(entry, path.read_bytes())


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename; an artefact that is there steps aside and goes afterwards."""
    if not out.exists():
        folder.rename(out)
        return
    aside = out.with_name(f".{out.name[:64]}-{secrets.token_hex(8)}")
    out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def installed_versions() -> dict[str, str]:
    """Versions for `Manifest.versions`, without importing any of the packages; those not installed are left out."""
    found = {}
    for key, names in _DISTRIBUTIONS.items():
        for name in names:
            try:
                found[key] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            break
    return found


def installed_runtime(for_cpp: bool = True) -> dict[str, Path]:
    """TVM's runtime libraries of this environment, with their licences, for ``runtime_libs`` of `write_artifact`.

    Parameters
    ----------
    for_cpp : bool
        With ``libtvm_ffi.so``, which a C++ program needs; a Python program has it in ``tvm_ffi``.

    Raises
    ------
    DeployError
        TVM is not installed.
    """
    libraries = find_runtime_libraries()
    found = {path.name: path for path in libraries}
    found.update(_licences(libraries[0].parents[1], "tvm"))
    if for_cpp:
        spec = importlib.util.find_spec("tvm_ffi")
        package = None if spec is None else Path(spec.submodule_search_locations[0])
        if package is None or not (package / "lib" / "libtvm_ffi.so").is_file():
            raise DeployError('expected tvm_ffi to be installed: pip install "gluonface[runtime]"')
        found["libtvm_ffi.so"] = package / "lib" / "libtvm_ffi.so"
    return found


def _licences(package: Path, name: str) -> dict[str, Path]:
    """Its terms ask that they go along."""
    return {f"{kind}.{name}": package / kind for kind in ("LICENSE", "NOTICE") if (package / kind).is_file()}
