#!/bin/sh
# Makes $VENV hold gluonface, editable, with the extras $EXTRA,$SETS, and writes the files $STAMPS. Called by the Makefile.
set -eu
: "${VENV:?}" "${EXTRA:?}" "${SETS:?}" "${STAMPS:?}"

usable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}
identity() {
    "$1" -c 'import os, sys; print(sys.version.split()[0], os.path.realpath(sys.base_prefix))' 2>/dev/null || echo none
}
fail() {
    echo "gluonface: $1" >&2
    exit 1
}

if [ -n "${PYTHON:-}" ]; then
    usable "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.10, 3.11 or 3.12 with its venv module."
elif usable "$VENV/bin/python"; then
    PYTHON=$VENV/bin/python # no wish: the interpreter that is there will do
else
    for candidate in python3.11 python3.10 python3.12 python3 python; do
        if usable "$candidate"; then
            PYTHON=$candidate
            break
        fi
    done
    [ -n "${PYTHON:-}" ] || fail "no Python 3.10, 3.11 or 3.12 with its venv module found (on Debian and Ubuntu: apt-get \
install python3-venv). One that is not on the PATH is named by: make PYTHON=/path/to/python3.11 ..."
fi

# mxnet and mxnet-cu112 fill the same folder, so another EXTRA asks for a new environment, as another interpreter does.
if [ "$(identity "$VENV/bin/python")" != "$(identity "$PYTHON")" ] || [ "$(cat "$VENV/.extra" 2>/dev/null)" != "$EXTRA" ]; then
    echo "gluonface: making $VENV with $("$PYTHON" --version)"
    case $PYTHON in "$VENV"/*) PYTHON=$("$PYTHON" -c 'import sys; print(sys._base_executable)') ;; esac
    "$PYTHON" -m venv --clear "$VENV"
    echo "$EXTRA" >"$VENV/.extra"
fi

case $SETS in *bench*) size=500 ;; *test*) size=400 ;; *) size=250 ;; esac
echo "gluonface: installing into $VENV (the first time about $size MB to fetch)"
rm -f "$VENV"/.ready-*
rm -f "$VENV/install.log"
"$VENV/bin/python" -m pip install --quiet --log "$VENV/install.log" --disable-pip-version-check \
    --constraint constraints.txt --editable ".[$EXTRA,$SETS]" || fail "pip failed; all it said is in $VENV/install.log"
# shellcheck disable=SC2086
touch $STAMPS
