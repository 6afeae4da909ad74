"""`open_artifact`: a folder or a zip, checked file by file before anything in it is loaded."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import DeployError
from .libraries import check_versions
from .machine import check_machine
from .manifest import LIBRARY, MAX_MANIFEST_BYTES, FileEntry, Manifest, is_safe_name, parse_manifest

__all__ = ["MAX_BYTES", "Artifact", "cache_folder", "open_artifact", "sha256_of"]

#: Artefacts of more files or unpacked bytes are refused: the largest here have a dozen files and some 10 MB.
MAX_FILES = 64
MAX_BYTES = 2**30

_CHUNK = 2**20


@dataclass(frozen=True)
class Artifact:
    """A folder whose files are what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def library(self) -> Path:
        """The compiled library."""
        return self.folder / LIBRARY

    @property
    def runtime_libraries(self) -> Path | None:
        """Folder of the runtime libraries that came along, if any did."""
        return self.folder / "lib" if any(name.startswith("lib/") for name in self.manifest.files) else None


def open_artifact(path: str | os.PathLike, *, check_host: bool = True) -> Artifact:
    """Read an artefact and check it; nothing of it is loaded.

    Parameters
    ----------
    path : path
        A folder, or a zip, which is unpacked into `cache_folder` the first time.
    check_host : bool
        Whether it must run here: on this processor, with the TVM that is installed.

    Raises
    ------
    DeployError
        It is not an artefact, a file is damaged, missing or leads outside, or it was made for another machine or
        another version.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DeployError(f"{path}: expected an artefact (a folder or a zip), cannot read it: {error}") from error
    if stat.S_ISREG(mode):
        folder = _unpacked(path)
    elif stat.S_ISDIR(mode):
        folder = path.resolve()
    else:
        raise DeployError(f"{path}: expected an artefact, a folder or a zip, got something else")
    manifest = _read_manifest(folder, str(path))
    if stat.S_ISREG(mode):
        unnamed = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        unnamed -= {*manifest.files, "manifest.json"}
        if unnamed:
            raise DeployError(f"{path}: expected only files that the manifest names in the zip, got {sorted(unnamed)}")
    if check_host:
        check_machine(manifest.target, str(path))
        check_versions(manifest.versions, str(path))
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry, str(path))
    return Artifact(folder, manifest)


def _read_manifest(folder: Path, where: str) -> Manifest:
    file = folder / "manifest.json"
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise DeployError(f"{where}: expected manifest.json to be a regular file, got a link or something else")
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise DeployError(f"{where}: expected a manifest of at most {MAX_MANIFEST_BYTES} bytes")
        text = file.read_bytes()
    except OSError as error:
        raise DeployError(
            f"{where}: expected an artefact, that is a folder with manifest.json (gluonface compile NAME --out DIR "
            f"makes one), cannot read it: {error}"
        ) from error
    manifest = parse_manifest(text, f"{where}: manifest.json")
    if LIBRARY not in manifest.files:
        raise DeployError(f"{where}: expected {LIBRARY} among the files of the manifest, got {sorted(manifest.files)}")
    _check_bounds(where, len(manifest.files), sum(entry.bytes for entry in manifest.files.values()))
    return manifest


def _check_bounds(where: str, files: int, total: int) -> None:
    if files > MAX_FILES or total > MAX_BYTES:
        raise DeployError(
            f"{where}: expected at most {MAX_FILES} files and {MAX_BYTES} bytes, got {files} files and {total} bytes; "
            "this is no artefact of gluonface"
        )


def _check_file(folder: Path, name: str, entry: FileEntry, where: str) -> None:
    again = "the artefact is damaged or was changed: get it again, or compile it again"
    path = folder
    for part in name.split("/"):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise DeployError(
                f"{where}: expected the file {name}, which the manifest names: {error}; {again}"
            ) from error
        if stat.S_ISLNK(mode):
            raise DeployError(f"{where}: expected {name} to be a file of its own, got a symbolic link; {again}")
    if not stat.S_ISREG(mode):
        raise DeployError(f"{where}: expected {name} to be a regular file; {again}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise DeployError(f"{where}: {name}: expected {entry.bytes} bytes, got {size}; {again}")
    found = sha256_of(path)
    if found != entry.sha256:
        raise DeployError(f"{where}: {name}: expected SHA-256 {entry.sha256}, got {found}; {again}")


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where zips are unpacked: ``GLUONFACE_CACHE``, or ``gluonface`` in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    named = os.environ.get("GLUONFACE_CACHE")
    if named:
        return Path(named)
    # XDG Base Directory Specification: a relative path is to be ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return Path(xdg if Path(xdg).is_absolute() else Path.home() / ".cache") / "gluonface"


def _unpacked(path: Path) -> Path:
    """Folder with the contents of a zip; unpacked once, and again when a file of it was damaged since."""
    # Opened once: hash and contents are of the same file, whatever happens to its name meanwhile.
    try:
        with path.open("rb") as file:
            # The hash costs time in proportion, so what can be no artefact is not hashed.
            _check_bounds(str(path), 1, os.fstat(file.fileno()).st_size)
            if file.read(4) != b"PK\x03\x04":
                raise DeployError(f"{path}: expected an artefact, a folder or a zip, got a file of another kind")
            file.seek(0)
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            folder = _private(cache_folder() / "artifacts") / digest.hexdigest()
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                entries = list(_entries(archive, str(path)))
                if not _complete(folder, entries):
                    _unpack(archive, entries, folder, str(path))
    except zipfile.BadZipFile as error:
        raise DeployError(f"{path}: expected a zip, got a damaged one: {error}; get it again") from error
    except OSError as error:
        raise DeployError(
            f"{path}: cannot unpack it into {cache_folder()} (GLUONFACE_CACHE names another folder): {error}"
        ) from error
    return folder


def _entries(archive: zipfile.ZipFile, where: str) -> Iterator[zipfile.ZipInfo]:
    entries = archive.infolist()
    _check_bounds(where, len(entries), sum(entry.file_size for entry in entries))
    seen = set()
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if not (is_safe_name(name) or name == "manifest.json"):
            raise DeployError(f"{where}: expected names like model.so or lib/name.so in the zip, got {name!r:.100}")
        if kind not in (0, stat.S_IFREG):
            raise DeployError(f"{where}: expected regular files in the zip, {name} is a link or something else")
        if entry.flag_bits & 1:
            raise DeployError(f"{where}: expected files without a password in the zip, {name} has one")
        # Twice also where the file system does not tell a from A.
        if name.lower() in seen:
            raise DeployError(f"{where}: expected each file once in the zip, got {name} twice")
        seen.add(name.lower())
        yield entry


def _complete(folder: Path, entries: list[zipfile.ZipInfo]) -> bool:
    """Whether all files are there as the zip has them; if not, it is unpacked again."""
    try:
        return all(zlib.crc32((folder / entry.filename).read_bytes()) == entry.CRC for entry in entries)
    except OSError:
        return False


def _unpack(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path, where: str) -> None:
    temporary = folder.with_name(f".{secrets.token_hex(8)}")
    try:
        for entry in entries:
            target = temporary / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The size in the header was bounded above; zipfile gives no more than that, and checks the CRC.
            try:
                with archive.open(entry) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, _CHUNK)
            except (EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
                raise DeployError(
                    f"{where}: {entry.filename} cannot be unpacked: {error}; get the zip again"
                ) from error
        shutil.rmtree(folder, ignore_errors=True)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process was faster: the same zip, so the same files.
            if not _complete(folder, entries):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _private(folder: Path) -> Path:
    """A folder that only this user writes to: code is loaded from it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid"):
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise DeployError(
                f"{folder}: expected a folder that you alone can write to, since code is loaded from it; chmod go-w "
                "it, or name another one with GLUONFACE_CACHE"
            )
    return folder
