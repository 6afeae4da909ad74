"""Weight files: where they lie, how they are read, checked and written. NumPy only.

MXNet's own loader accepts some damaged files silently and is not meant for files one does not trust;
:func:`read_params` parses the same format strictly, byte by byte, and loads nothing but numbers.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import numpy as np

from ..errors import WeightsError
from ..files import write_atomically

__all__ = ["find_file", "read_params", "sha256_file", "weight_folders", "write_params"]

_LIST_MAGIC = 0x112
_ARRAY_MAGICS = (0xF993FAC9, 0xF993FACA)  # NDArray file format versions 2 and 3
_DENSE = 0
_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8", 7: "|b1"}
_TYPE_FLAGS = {np.dtype(d): flag for flag, d in _DTYPES.items()}
_MAX_NDIM = 8
_REPAIR = "Get the file again (or reinstall gluonface if it came with the package)."


def weight_folders(root: str | os.PathLike | None = None) -> list[Path]:
    """Folders searched for weights: ``root`` if given, then what came with the package.

    An installed wheel carries them as ``gluonface/_model_zoo``; a source checkout has the outer ``model_zoo/`` folder.
    """
    package = Path(__file__).resolve().parents[1]
    folders = [package / "_model_zoo", package.parent / "model_zoo"]
    if root is not None:
        folders.insert(0, Path(root).expanduser())
    return [f for f in folders if f.is_dir()]


def find_file(name: str, root: str | os.PathLike | None = None) -> Path | None:
    """First file called ``name`` in :func:`weight_folders`, or None."""
    return next((f / name for f in weight_folders(root) if (f / name).is_file()), None)


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class _Reader:
    """Takes numbers off a byte string and never reads past its end."""

    def __init__(self, data: bytes, path):
        self.data, self.path, self.at = data, path, 0

    def error(self, what: str) -> WeightsError:
        return WeightsError(f"{self.path}: {what} at byte {self.at} of {len(self.data)}. {_REPAIR}")

    def take(self, count: int, what: str) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise self.error(f"the file ends inside {what}: it is truncated or damaged")
        piece = self.data[self.at : self.at + count]
        self.at += count
        return piece

    def number(self, form: str, what: str) -> int:
        return struct.unpack("<" + form, self.take(struct.calcsize(form), what))[0]


def _read_array(reader: _Reader) -> np.ndarray:
    magic = reader.number("I", "an array's header")
    if magic not in _ARRAY_MAGICS:
        raise reader.error(f"expected an array of format version 2 or 3, found magic number {magic:#x}")
    if reader.number("i", "an array's storage type") != _DENSE:
        raise reader.error("expected a dense array")
    ndim = reader.number("i", "an array's shape")
    if not 0 < ndim <= _MAX_NDIM:
        raise reader.error(f"expected 1 to {_MAX_NDIM} dimensions, found {ndim}")
    shape = struct.unpack(f"<{ndim}q", reader.take(8 * ndim, "an array's shape"))
    reader.take(8, "an array's context")
    flag = reader.number("i", "an array's type")
    if flag not in _DTYPES:
        raise reader.error(f"unknown number type {flag}")
    dtype = np.dtype(_DTYPES[flag])
    count = 1
    for extent in shape:
        if extent < 0:
            raise reader.error(f"negative extent in shape {shape}")
        count *= extent
    # Checked before anything is allocated: a damaged shape may ask for terabytes.
    return np.frombuffer(reader.take(count * dtype.itemsize, f"an array of shape {shape}"), dtype).reshape(shape).copy()


def read_params(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read an MXNet ``.params`` file.

    Parameters
    ----------
    path : path
        As ``save_parameters``, ``export``, ``mx.nd.save`` or :func:`write_params` write it.

    Returns
    -------
    dict of str to ndarray
        In the order of the file; names keep a checkpoint's ``arg:`` and ``aux:`` prefixes.

    Raises
    ------
    WeightsError
        Missing, truncated, damaged, or no such file; says where and what to do.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the weights: {error.strerror or error}") from error
    reader = _Reader(data, path)
    if len(data) < 24 or reader.number("Q", "the header") != _LIST_MAGIC:
        raise WeightsError(
            f"{path}: not an MXNet .params file ({len(data)} bytes, first bytes {data[:8].hex() or 'none'}). {_REPAIR}"
        )
    reader.number("Q", "the header")
    count = reader.number("Q", "the number of arrays")
    if count * 16 > len(data):
        raise reader.error(f"the file is too short for {count} arrays")
    arrays = [_read_array(reader) for _ in range(count)]
    if reader.number("Q", "the number of names") != count:
        raise reader.error(f"expected a name for each of the {count} arrays")
    names = []
    for _ in range(count):
        raw = reader.take(reader.number("Q", "a name's length"), "a name")
        try:
            names.append(raw.decode())
        except UnicodeDecodeError:
            raise reader.error(f"a name is not text: {raw[:20]!r}") from None
    if reader.at != len(data):
        raise reader.error(f"{len(data) - reader.at} bytes too many")
    if len(set(names)) != count:
        raise reader.error("two arrays have the same name")
    return dict(zip(names, arrays))


def write_params(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> Path:
    """Write arrays as an MXNet ``.params`` file, atomically.

    Parameters
    ----------
    path : path
    arrays : dict of str to ndarray
        Of one dimension at least; float16/32/64, int8/32/64, uint8 or bool.

    Returns
    -------
    Path
    """
    path = Path(path)
    parts = [struct.pack("<QQQ", _LIST_MAGIC, 0, len(arrays))]
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype not in _TYPE_FLAGS or array.ndim == 0:
            raise WeightsError(f"{path}: {name}: expected an array MXNet can hold, got {array.dtype} {array.shape}")
        cpu_context = struct.pack("<ii", 1, 0)
        parts += [
            struct.pack("<Iii", _ARRAY_MAGICS[0], _DENSE, array.ndim),
            struct.pack(f"<{array.ndim}q", *array.shape),
            cpu_context,
            struct.pack("<i", _TYPE_FLAGS[array.dtype]),
            np.ascontiguousarray(array).astype(_DTYPES[_TYPE_FLAGS[array.dtype]], copy=False).tobytes(),
        ]
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        encoded = name.encode()
        parts += [struct.pack("<Q", len(encoded)), encoded]
    write_atomically(path, b"".join(parts))
    return path
