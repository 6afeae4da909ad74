"""Damaged weight files: only a `WeightsError` or arrays come out, and never more than the file holds."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from gluonface.errors import WeightsError
from gluonface.model_zoo.store import read_params, sha256_file, write_params

ARRAYS = {
    "stem.weight": np.arange(4 * 3 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 3),
    "stem.bias": np.ones(4, np.float32),
    "head.weight": np.arange(40, dtype=np.float16).reshape(8, 5),
    "steps": np.array([7], np.int64),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "original.params"
    write_params(path, ARRAYS)
    return path.read_bytes()


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    kind = rng.integers(6)
    if kind == 0:
        for at in rng.integers(0, len(data), rng.integers(1, 10)):
            damaged[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        for at in rng.integers(0, 64, rng.integers(1, 5)):
            damaged[at] = rng.integers(256)
    elif kind == 2:
        del damaged[rng.integers(len(data)) :]
    elif kind == 3:
        start = rng.integers(len(data))
        del damaged[start : start + rng.integers(1, 40)]
    elif kind == 4:
        damaged += rng.bytes(int(rng.integers(1, 100)))
    else:  # a length or count made extreme
        start = rng.integers(len(data) - 8)
        damaged[start : start + 8] = struct.pack("<q", rng.choice([-1, 2**31, 2**62, 2**40, 0, 255]))
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_file_gives_a_weights_error_or_arrays(seed, original, tmp_path):
    data = mutated(original, np.random.default_rng(seed))
    path = tmp_path / "damaged.params"
    path.write_bytes(data)
    try:
        arrays = read_params(path)
    except WeightsError as error:
        assert str(path) in str(error)
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(data)
    assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in arrays.items())


def test_no_damage_of_the_file_goes_unnoticed_by_its_hash(original, tmp_path):
    path = tmp_path / "weights.params"
    path.write_bytes(original)
    good = sha256_file(path)
    for seed in range(20):
        data = mutated(original, np.random.default_rng(seed))
        path.write_bytes(data)
        assert (sha256_file(path) == good) == (data == original)


def test_the_undamaged_file_gives_the_arrays_back(original, tmp_path):
    path = tmp_path / "weights.params"
    path.write_bytes(original)
    arrays = read_params(path)
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x12\x01",
        b"PK\x03\x04" + bytes(100),
        b"\x93NUMPY" + bytes(100),
        b"<html>not found</html>" * 9,
        bytes(4096),
    ],
    ids=["empty", "two bytes", "zip", "npy", "html", "zeros"],
)
def test_a_foreign_file_is_refused_and_named(data, tmp_path):
    path = tmp_path / "foreign.params"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"foreign\.params"):
        read_params(path)
