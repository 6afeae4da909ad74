import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import WeightsError
from gluonface.model_zoo import store

ARRAYS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "arg:b": np.array([1, -2], np.int64),
    "c": np.array([[0.5]], np.float16),
    "d": np.array([True, False]),
    "e": np.array([7], np.uint8),
}


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_written_arrays_are_read_back(tmp_path):
    same(store.read_params(store.write_params(tmp_path / "x.params", ARRAYS)), ARRAYS)


def test_mxnet_reads_what_we_write(tmp_path):
    loaded = mx.nd.load(str(store.write_params(tmp_path / "x.params", ARRAYS)))
    same({k: v.asnumpy() for k, v in loaded.items()}, ARRAYS)


def test_we_read_what_mxnet_writes(tmp_path):
    path = str(tmp_path / "x.params")
    mx.nd.save(path, {k: mx.nd.array(v, dtype=v.dtype) for k, v in ARRAYS.items()})
    same(store.read_params(path), ARRAYS)


def test_writing_leaves_no_temporary_file_behind(tmp_path):
    store.write_params(tmp_path / "x.params", ARRAYS)
    with pytest.raises(WeightsError, match="bad.*object"):
        store.write_params(tmp_path / "y.params", {"bad": np.array([None])})
    assert [p.name for p in tmp_path.iterdir()] == ["x.params"]


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = store.write_params(tmp_path / "x.params", ARRAYS).read_bytes()
    cut = tmp_path / "cut.params"
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="cut.params"):
            store.read_params(cut)


def test_bytes_after_the_end_are_refused(tmp_path):
    path = store.write_params(tmp_path / "x.params", ARRAYS)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="1 bytes too many"):
        store.read_params(path)


def test_an_array_of_terabytes_is_refused_before_memory_is_taken(tmp_path):
    path = store.write_params(tmp_path / "x.params", {"a": np.zeros((3,), np.float32)})
    data = bytearray(path.read_bytes())
    at = data.index((3).to_bytes(8, "little"), 24)
    data[at : at + 8] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="truncated or damaged"):
        store.read_params(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"x" * 100, b"\x80\x04\x95" * 20])
def test_a_foreign_file_is_named_as_such(tmp_path, content):
    path = tmp_path / "foreign.params"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not an MXNet .params file"):
        store.read_params(path)


def test_a_missing_file_or_a_folder_is_a_typed_error(tmp_path):
    for path in (tmp_path / "none.params", tmp_path):
        with pytest.raises(WeightsError, match="cannot read the weights"):
            store.read_params(path)


def test_a_root_is_searched_before_the_package(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    assert store.find_file("x.json", tmp_path) == tmp_path / "x.json"
    assert store.find_file("x.json") is None
