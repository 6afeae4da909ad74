"""What this machine is, and whether code made for a target runs on it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from ...errors import DeployError
from ...processor import cpu_features
from .manifest import Target

__all__ = ["LEVELS", "architecture", "check_machine", "cpu_features", "features_of", "processor_name"]

_V2 = ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
# LZCNT hides behind "abm" in Linux' list, OSXSAVE behind "xsave".
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")

#: Microarchitecture levels of the x86-64 psABI (section 3.1.1), as the flags of ``/proc/cpuinfo``.
LEVELS = {"x86-64": (), "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}

#: Flags beyond the levels that a compiler for one processor may make use of.
_BEYOND = (
    *("avx512_bf16", "avx512_fp16", "avx512_vnni", "avx512ifma", "avx512vbmi", "avx_vnni"),
    *("amx_bf16", "amx_int8", "amx_tile", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2"),
)

_SAME_MACHINE = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def architecture() -> str:
    """Architecture of this process as LLVM calls it: "x86_64", "aarch64", ..."""
    name = platform.machine().lower()
    return _SAME_MACHINE.get(name, name)


def processor_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def features_of(mcpu: str, host: frozenset[str] | None = None) -> tuple[str, ...]:
    """Flags that code compiled for ``mcpu`` needs, for `Target.features`.

    Parameters
    ----------
    mcpu : str
        One of `LEVELS`, or a processor.
    host : frozenset of str, optional
        Flags of the machine compiled on and for, when ``mcpu`` names its processor ("native" builds).

    Returns
    -------
    tuple of str, sorted; empty when nothing is known of ``mcpu``.
    """
    if mcpu in LEVELS:
        return tuple(sorted(LEVELS[mcpu]))
    return tuple(sorted({*_V4, *_BEYOND} & (host or frozenset())))


def check_machine(target: Target, where: str) -> None:
    """Refuse code that this machine cannot run, before any of it is loaded.

    Parameters
    ----------
    target : Target
    where : str
        The artefact, named in errors.

    Raises
    ------
    DeployError
        Another kind of device, architecture or system, or processor flags are missing; the message lists them.
    """
    again = f"compile it again for this machine (gluonface compile NAME --target {_suitable()})"
    if target.kind != "llvm":
        raise DeployError(
            f"{where}: expected an artefact for the processor (target kind llvm), got one for {target.kind}, which "
            f"this runtime does not drive; {again}"
        )
    parts = target.mtriple.lower().split("-")
    wanted = _SAME_MACHINE.get(parts[0], parts[0])
    if wanted != architecture():
        raise DeployError(
            f"{where}: compiled for {wanted} ({target.mtriple}), this machine is {architecture()}; {again}"
        )
    system = next((name for name in ("android", "linux", "darwin", "windows") if name in target.mtriple.lower()), None)
    if "macosx" in target.mtriple.lower():
        system = "darwin"
    here = "android" if hasattr(sys, "getandroidapilevel") else platform.system().lower()
    if system is not None and system != here:
        raise DeployError(f"{where}: compiled for {system} ({target.mtriple}), this system is {here}; {again}")
    features = cpu_features()
    if features is None:  # no such list on this system: the compiler's word is all there is
        return
    missing = sorted(set(target.features) - features)
    if missing:
        raise DeployError(
            f"{where}: compiled for {target.mcpu or target.mtriple}, this processor lacks {', '.join(missing)}; {again}"
        )


def _suitable() -> str:
    """The highest level that this machine has, to name in errors."""
    features = cpu_features()
    if architecture() != "x86_64" or features is None:
        return "native"
    return [name for name, flags in LEVELS.items() if set(flags) <= features][-1]
