"""The table of targets: each row says all that compiling for it takes."""

import pytest

from gluonface.deploy.runtime.machine import LEVELS
from gluonface.deploy.targets import TARGETS, find_target
from gluonface.errors import InputError

EXPECTED = (
    "native x86-64-v3 x86-64-v4 cortex-a72 cortex-a76 android-arm64 android-opencl cuda-sm75 cuda-sm80 cuda-sm86 "
    "cuda-sm90"
)


def test_the_table_has_the_promised_rows():
    assert list(TARGETS) == EXPECTED.split()


@pytest.mark.parametrize("name", EXPECTED.split()[1:])
def test_tvm_knows_every_target(name):
    tvm = pytest.importorskip("tvm", reason="needs gluonface[deploy]")
    row = find_target(name)
    target = row.tvm_target()
    assert str(target.kind) == row.kind == ("cuda" if "cuda" in name else "opencl" if "opencl" in name else "llvm")
    assert tvm.get_global_func("target.llvm_is_valid_cpu")(row.mcpu, row.mtriple)


def test_vectors_are_as_wide_as_the_processor_has_them():
    widths = {name: (find_target(name).lanes, find_target(name).registers) for name in EXPECTED.split()[1:6]}
    assert widths["x86-64-v3"] == (8, 16) and widths["x86-64-v4"] == (16, 32)
    assert {widths[name] for name in ("cortex-a72", "cortex-a76", "android-arm64")} == {(4, 32)}
    assert find_target("x86-64-v4").features == LEVELS["x86-64-v4"]


def test_native_is_this_machine_and_shares_the_records_of_the_row_it_fits():
    pytest.importorskip("tvm", reason="needs gluonface[deploy]")
    row = find_target("native")
    assert row.name == "native" and row.mcpu and row.records in TARGETS and row.records != "native"
    assert find_target(row) is row


def test_an_unknown_target_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="expected a target among native, .*cuda-sm90, got 'pentium'"):
        find_target("pentium")


def test_without_a_compiler_it_is_said_which_one(monkeypatch):
    for name in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert find_target("android-arm64").compiler() is None
    assert "ANDROID_NDK_HOME" in find_target("android-arm64").without_compiler()
    assert "g++" in find_target("x86-64-v3").without_compiler()
    assert find_target("cortex-a72").compiler() is None


def test_the_ndk_is_found_where_its_variable_points(monkeypatch, tmp_path):
    compiler = tmp_path / "toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android28-clang++"
    compiler.parent.mkdir(parents=True)
    compiler.touch()
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    assert find_target("android-arm64").compiler() == str(compiler)
