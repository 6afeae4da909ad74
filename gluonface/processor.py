"""What the processor of this machine can do, and how much memory this process took. Standard library only."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpu_features", "peak_memory_mib"]


def cpu_features(cpuinfo: str | Path = "/proc/cpuinfo") -> frozenset[str] | None:
    """Flags of the processor as Linux lists them; None where there is no such list."""
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return None


def peak_memory_mib(status: str | Path = "/proc/self/status") -> float | None:
    """Memory of this process at its peak, as Linux tells it; None where the system does not say."""
    # Not ru_maxrss, in which what the parent had when it forked counts.
    try:
        text = Path(status).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("VmHWM")), None)
    return None if line is None else int(line.split()[1]) / 1024
