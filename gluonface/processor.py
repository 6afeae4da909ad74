"""What the processor of this machine can do. Standard library only."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpu_features"]


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
