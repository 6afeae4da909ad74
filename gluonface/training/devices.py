"""Devices, machines and the state of the net on them."""

from __future__ import annotations

import importlib
import os
import random
from types import ModuleType

import numpy as np

from .._compat import mx
from ..errors import TrainingError

__all__ = [
    "contexts_from_gpus",
    "copy_to",
    "create_kvstore",
    "forget_graphs",
    "freeze_batch_norm",
    "mixed_precision",
    "seed_everything",
]


def contexts_from_gpus(gpus: str) -> list[mx.Context]:
    """Devices meant by ``--gpus``: ``"0,1"`` -> two GPUs, ``""`` -> the CPU.

    Raises
    ------
    TrainingError
        When this machine, or this build of MXNet, has no such GPU.
    """
    try:
        numbers = [int(part) for part in gpus.split(",") if part.strip()]
    except ValueError:
        raise TrainingError(f"--gpus {gpus}: expected GPU numbers separated by commas, e.g. 0,1") from None
    if not numbers:
        return [mx.cpu()]
    try:
        count = mx.context.num_gpus()
    except mx.MXNetError:  # a CUDA build on a machine without a driver
        count = 0
    if min(numbers) < 0 or max(numbers) >= count:
        hint = "" if count else '; the CUDA build is pip install "gluonface[cu112]"'
        raise TrainingError(f"--gpus {gpus}: MXNet sees {count} GPUs here{hint}")
    return [mx.gpu(number) for number in numbers]


def copy_to(arrays: tuple, ctx: mx.Context) -> tuple:
    """Each array, NumPy or MXNet, on a device; the number type stays."""
    return tuple(
        a.as_in_context(ctx) if isinstance(a, mx.nd.NDArray) else mx.nd.array(a, ctx=ctx, dtype=a.dtype) for a in arrays
    )


def create_kvstore(name: str, contexts: list[mx.Context]) -> mx.kv.KVStore | None:
    """MXNet's store of that name, or None where one device has nothing to exchange.

    Raises
    ------
    TrainingError
        When the store cannot work here; says why.
    """
    words = name.split("_")
    if "async" in words:
        raise TrainingError(
            f"--kvstore {name}: asynchronous stores update on the servers, where the gradient cannot be clipped as a "
            "whole and from where the optimizer's state cannot be saved. Use dist_sync."
        )
    if not set(words) <= {"device", "local", "nccl", "dist", "sync"}:  # MXNet takes any other word for "local"
        raise TrainingError(f"--kvstore {name}: expected device, local, nccl, dist_sync or dist_sync_device")
    if "dist" in words:
        if not mx.runtime.Features().is_enabled("DIST_KVSTORE"):
            raise TrainingError(f"--kvstore {name}: this build of MXNet has no distributed store (DIST_KVSTORE)")
        needed = ("DMLC_ROLE", "DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")
        missing = [variable for variable in needed if variable not in os.environ]
        if missing:  # MXNet would end the process without a word about it
            raise TrainingError(
                f"--kvstore {name}: the environment lacks {', '.join(missing)}. Start one scheduler, the servers and "
                "the workers as processes with these variables set (MXNet's tools/launch.py does)."
            )
    elif len(contexts) == 1:
        return None
    try:
        return mx.kv.create(name)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise TrainingError(f"--kvstore {name}: MXNet cannot create it: {reason}") from error


def forget_graphs(net: mx.gluon.Block) -> None:
    """Have hybridized blocks trace their graph again: it keeps the operators and attributes of its first run."""
    net.apply(lambda block: block._clear_cached_op() if isinstance(block, mx.gluon.HybridBlock) else None)


def freeze_batch_norm(net: mx.gluon.Block) -> None:
    """Have every BatchNorm below ``net`` use, and keep, its stored statistics; scale and shift still learn."""

    def freeze(block: mx.gluon.Block) -> None:
        if isinstance(block, mx.gluon.nn.BatchNorm):
            block._kwargs["use_global_stats"] = True

    net.apply(freeze)
    forget_graphs(net)


def mixed_precision(contexts: list[mx.Context]) -> ModuleType:
    """MXNet's module for mixed precision, which ``import mxnet`` leaves out.

    Raises
    ------
    TrainingError
        Unless all devices are GPUs: MXNet has no half-precision convolutions on the CPU.
    """
    if any(context.device_type != "gpu" for context in contexts):
        raise TrainingError("--amp: mixed precision needs GPUs (--gpus 0); leave the flag out to train on the CPU")
    return importlib.import_module(".contrib.amp", mx.__name__)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and MXNet; call it before the net is initialised."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (other packages draw from the global generator)
    mx.random.seed(seed)
