"""What artefacts can be compiled for: a row each.

A row says what TVM and LLVM are told, how wide and how many the vector registers are (which the schedules go by), and
which compiler links the library.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from .._compat import import_optional
from ..errors import DeployError, InputError
from .runtime.machine import LEVELS, architecture, cpu_features, features_of

__all__ = ["TARGETS", "CompileTarget", "find_target"]

_X86, _ARM, _ANDROID = "x86_64-unknown-linux-gnu", "aarch64-linux-gnu", "aarch64-linux-android28"


@dataclass(frozen=True)
class CompileTarget:
    """A row of the table.

    Attributes
    ----------
    name : str
    meaning : str
        In words.
    kind : str
        TVM's kind of target.
    mtriple, mcpu : str
        LLVM's triple and processor, of the code that runs on the processor.
    lanes, registers : int
        float32 numbers in a vector register, and how many registers there are.
    features : tuple of str
        Flags that the processor must have.
    device : dict
        What TVM is told of the device, where the kernels do not run on the processor.
    tuned_as : str
        Folder of tuning records, where not the row's own.
    """

    name: str
    meaning: str
    mtriple: str
    mcpu: str = ""
    kind: str = "llvm"
    lanes: int = 4
    registers: int = 32
    features: tuple[str, ...] = ()
    device: dict = field(default_factory=dict)
    tuned_as: str = ""

    @property
    def records(self) -> str:
        """Name of the folder of tuning records."""
        return self.tuned_as or self.name

    def tvm_target(self):
        """As TVM wants it."""
        tvm = import_optional("tvm", "deploy")
        host = {"kind": "llvm", "mtriple": self.mtriple, **({"mcpu": self.mcpu} if self.mcpu else {})}
        if self.kind == "llvm":
            return tvm.target.Target(host)
        return tvm.target.Target({"kind": self.kind, **self.device}, host=host)

    def compiler(self) -> str | None:
        """Path of the compiler that links for this target; None when there is none.

        Android's is the NDK's, found through ``ANDROID_NDK_HOME`` or ``ANDROID_NDK_ROOT`` or on the path.
        """
        if "android" in self.mtriple:
            return _ndk_compiler(self.mtriple)
        if self.mtriple.split("-")[0] == architecture():
            return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None)
        return shutil.which(f"{self.mtriple}-g++")

    def link(self) -> Callable | None:
        """What ``export_library`` of TVM links a library with; None without a compiler."""
        compiler = self.compiler()
        cc = import_optional("tvm.support.cc", "deploy")
        return None if compiler is None else cc.cross_compiler(compiler, options=["-shared", "-fPIC"])

    def link_name(self) -> str:
        """What the compiler that links for this target is usually called."""
        if "android" in self.mtriple:
            return f"{self.mtriple}-clang++"
        return f"{self.mtriple}-g++" if self.mtriple.split("-")[0] != "x86_64" else "g++"

    def without_compiler(self) -> str:
        """What to do where `compiler` finds none."""
        if "android" in self.mtriple:
            return "install the Android NDK (r23 or later) and set ANDROID_NDK_HOME to its folder"
        if self.mtriple.split("-")[0] == architecture():
            return "install a C++ compiler (Debian: apt install g++)"
        return f"install a cross-compiler (Debian: apt install g++-{self.mtriple})"


def _ndk_compiler(triple: str) -> str | None:
    name = f"{triple}-clang++"
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK"):
        root = os.environ.get(variable)
        found = sorted(Path(root).glob(f"toolchains/llvm/prebuilt/*/bin/{name}")) if root else []
        if found:
            return str(found[-1])
    return shutil.which(name)


def _native() -> CompileTarget:
    """The row of this machine: the highest that fits, with the processor's own name for LLVM."""
    host, machine = cpu_features(), architecture()
    tvm = import_optional("tvm", "deploy")
    processor = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    if machine == "x86_64":
        fits = [name for name in ("x86-64-v3", "x86-64-v4") if host is not None and set(LEVELS[name]) <= host]
        base = _ROWS[fits[-1]] if fits else replace(_ROWS["x86-64-v3"], lanes=4, registers=16, tuned_as="x86-64-v3")
        return replace(
            base,
            name="native",
            meaning="this machine",
            mcpu=processor,
            features=features_of(processor, host),
            tuned_as=base.records,
        )
    if machine == "aarch64":
        return replace(
            _ROWS["cortex-a72"], name="native", meaning="this machine", mcpu=processor, tuned_as="cortex-a72"
        )
    raise DeployError(f'expected a machine of x86_64 or aarch64 for the target "native", got {machine}')


def _cuda(level: int, cards: str) -> CompileTarget:
    return CompileTarget(
        f"cuda-sm{level}",
        f"NVIDIA GPU: {cards}",
        _X86,
        "x86-64-v3",
        kind="cuda",
        lanes=8,
        registers=16,
        features=LEVELS["x86-64-v3"],
        device={
            "arch": f"sm_{level}",
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 49152,
            "thread_warp_size": 32,
        },
    )


_ROWS = {
    row.name: row
    for row in (
        CompileTarget(
            "x86-64-v3", "PC with AVX2 and FMA (2013 and later)", _X86, "x86-64-v3", lanes=8, registers=16,
            features=LEVELS["x86-64-v3"],
        ),
        CompileTarget(
            "x86-64-v4", "PC or server with AVX-512", _X86, "x86-64-v4", lanes=16, registers=32,
            features=LEVELS["x86-64-v4"],
        ),
        CompileTarget("cortex-a72", "64-bit ARM Linux: Raspberry Pi 4, RK3399", _ARM, "cortex-a72"),
        CompileTarget("cortex-a76", "64-bit ARM Linux: Raspberry Pi 5, RK3588", _ARM, "cortex-a76"),
        CompileTarget("android-arm64", "Android phone, processor", _ANDROID, "cortex-a76", tuned_as="cortex-a76"),
        CompileTarget(
            "android-opencl", "Android phone, Adreno GPU through OpenCL", _ANDROID, "cortex-a76", kind="opencl",
            device={"device": "adreno", "max_threads_per_block": 256},
        ),
        _cuda(75, "GTX 16, RTX 20, T4"),
        _cuda(80, "A100, A30"),
        _cuda(86, "RTX 30, A10, A40"),
        _cuda(90, "H100, H200"),
    )
}  # fmt: skip

#: Name -> function that gives the row; "native" looks at the machine.
TARGETS: dict[str, Callable[[], CompileTarget]] = {
    "native": _native,
    **{name: (lambda row=row: row) for name, row in _ROWS.items()},
}


def find_target(name: str | CompileTarget) -> CompileTarget:
    """The row of that name.

    Raises
    ------
    InputError
        There is none; the message lists those there are.
    """
    if isinstance(name, CompileTarget):
        return name
    if name not in TARGETS:
        raise InputError(f"expected a target among {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name]()
