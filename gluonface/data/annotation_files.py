"""Text and MATLAB files as official annotations come in them, read with errors that say where. No MXNet here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._compat import import_optional
from ..errors import DataError

__all__ = ["load_mat", "parse_numbers", "read_lines"]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; DataError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotation file: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error


def parse_numbers(words: Sequence[str], count: int, place: str, what: str) -> list[float]:
    """`count` finite numbers; DataError says where they should be and what they are."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        got = " ".join(words)
        got = repr(got) if len(got) <= 80 else f"{len(words)} words that start with {got[:60]!r}"
        raise DataError(f"{place}: expected {count} numbers, {what}; got {got}")
    return numbers


def load_mat(path: Path, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named variables of a MATLAB file of version 5, and those of the optional ones that it has.

    Raises
    ------
    DataError
        The file is missing, no MATLAB file, or lacks a variable.
    MissingDependencyError
        SciPy is not installed.
    """
    scipy_io = import_optional("scipy.io", "train")
    try:
        mat = scipy_io.loadmat(path, variable_names=[*keys, *optional])
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotation file: {error.strerror or error}") from error
    except Exception as error:  # SciPy raises many types on a damaged file
        raise DataError(f"{path}: not a MATLAB file of version 5: {error}") from error
    missing = [key for key in keys if key not in mat]
    if missing:
        raise DataError(f"{path}: the variables {', '.join(missing)} are missing, expected {', '.join(keys)}")
    return {key: mat[key] for key in (*keys, *optional) if key in mat}
