#!/bin/sh
# Proves the AArch64 side without a board: cross-compiles an artefact and the C++ example, runs them under user
# emulation with the runtime of the AArch64 wheels, and compares what they find with x86. Called by `make test-arm`.
#
# PY is the Python of the environment, OUT a folder to keep the downloaded libraries in (100 MB to fetch the first
# time). Tools that are missing are installed with apt-get as root; otherwise it says which they are.
set -eu
: "${PY:?}" "${OUT:?}"

missing=
for tool in qemu-aarch64-static:qemu-user-static aarch64-linux-gnu-g++:g++-aarch64-linux-gnu cmake:cmake; do
    command -v "${tool%%:*}" >/dev/null || missing="$missing ${tool##*:}"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "gluonface: installing$missing"
        apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        echo "gluonface: this takes$missing (on Debian and Ubuntu: sudo apt-get install$missing)" >&2
        exit 1
    fi
fi

version() { "$PY" -c "from importlib.metadata import version; print(version('$1'))"; }
tvm=$(version apache-tvm)
ffi=$(version apache-tvm-ffi)
libraries=$OUT/lib
if [ "$(cat "$libraries/.versions" 2>/dev/null)" != "$tvm $ffi" ]; then
    echo "gluonface: fetching the AArch64 wheels of apache-tvm $tvm and apache-tvm-ffi $ffi"
    rm -rf "$OUT/wheels" "$libraries"
    mkdir -p "$OUT/wheels" "$libraries"
    "$PY" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --platform manylinux_2_28_aarch64 --dest "$OUT/wheels" "apache-tvm==$tvm" "apache-tvm-ffi==$ffi"
    "$PY" - "$OUT/wheels" "$libraries" <<'END'
import sys
import zipfile
from pathlib import Path

wheels, libraries = map(Path, sys.argv[1:])
wanted = {"libtvm_ffi.so", "libtvm_runtime.so", "libtvm_runtime_extra.so"}
for wheel in wheels.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if Path(name).name in wanted:
                (libraries / Path(name).name).write_bytes(archive.read(name))
missing = wanted - {path.name for path in libraries.iterdir()}
sys.exit(f"gluonface: the wheels lack {sorted(missing)}" if missing else 0)
END
    rm -rf "$OUT/wheels"
    echo "$tvm $ffi" >"$libraries/.versions"
fi

GLUONFACE_TEST_ARM=1 GLUONFACE_ARM_LIBRARIES=$libraries "$PY" -m pytest tests/deploy/test_arm.py ${PYTEST_ARGS:-}
