import pytest

from gluonface.files import replacing, write_atomically


def test_a_file_is_written_whole(tmp_path):
    write_atomically(tmp_path / "a.txt", "naïve")
    assert (tmp_path / "a.txt").read_bytes() == "naïve".encode()
    write_atomically(tmp_path / "a.txt", b"\x00\xff")
    assert (tmp_path / "a.txt").read_bytes() == b"\x00\xff"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_file_lies_beside_and_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / ("n" * 200 + ".png")) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".png"
        temporary.write_bytes(b"")


def test_a_folder_that_is_missing_is_an_oserror(tmp_path):
    with pytest.raises(OSError):
        write_atomically(tmp_path / "none" / "a.txt", "x")
