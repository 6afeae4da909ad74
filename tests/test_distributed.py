"""Several workers (``--kvstore dist_sync``): scheduler, server and two workers as processes on the loopback interface.

The net's BatchNorm statistics are frozen. With live ones the results differ by design: each worker normalises with the
statistics of its own share of the batch, and only at the end of an epoch does the engine give all of them the mean of
what they gathered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gluonface

SAMPLES, BATCH, EPOCHS = 16, 8, 2
LIMIT_S = 90


def train(folder: str, kvstore: str, poison: str = "") -> None:
    """What each worker runs; one worker alone (kvstore "device") sees the same global batches."""
    from gluonface._compat import mx
    from gluonface.engine import Engine, TrainConfig

    logging.basicConfig(level=logging.INFO)
    mx.random.seed(7)
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3), mx.gluon.nn.BatchNorm(in_channels=4))
    net.add(mx.gluon.nn.Dense(2, in_units=64))
    net.initialize(mx.init.Xavier())
    rng = np.random.default_rng(3)
    images = rng.normal(size=(SAMPLES, 3, 6, 6)).astype(np.float32)
    targets = rng.normal(size=(SAMPLES, 2)).astype(np.float32)

    def loss_fn(net, x, targets):
        return {"distance": ((net(x) - targets) ** 2).mean(1)}

    settings = {"clip_norm": 0.5, "accumulate": 2, "ema_decay": 0.9, "frozen_bn": True}
    config = TrainConfig(epochs=EPOCHS, lr=0.05, kvstore=kvstore, save_prefix=folder, **settings)
    engine = Engine(net, loss_fn, config, contexts=[mx.cpu()], evaluate=lambda net: {"one": 1.0}, best_key="one")

    def make_batches(epoch):
        order = np.random.default_rng(epoch).permutation(SAMPLES).reshape(-1, BATCH)
        share = np.array_split(order, engine.num_workers, axis=1)[engine.rank]
        x = images.copy()
        if poison and engine.rank == 1 and epoch == 1:
            x[share[0, 0]] = np.nan
        return [(x[rows], targets[rows]) for rows in share]

    engine.fit(make_batches)
    arrays = {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}
    np.savez(Path(folder).with_name(f"{Path(folder).name}-{engine.rank}.npz"), **arrays)


@contextlib.contextmanager
def cluster(folder: Path, poison: str = ""):
    """Yield the two worker processes; whatever happens, no process is left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(
        os.environ, DMLC_PS_ROOT_URI="127.0.0.1", DMLC_PS_ROOT_PORT=str(port), DMLC_NODE_HOST="127.0.0.1"
    )
    environment.update(DMLC_NUM_WORKER="2", DMLC_NUM_SERVER="1", OMP_NUM_THREADS="1")
    environment["PYTHONPATH"] = str(Path(gluonface.__file__).parents[1])
    command = [sys.executable, __file__, str(folder / "two"), "dist_sync", poison]
    processes = []
    try:
        for number, role in enumerate(("scheduler", "server", "worker", "worker")):
            with (folder / f"{number}-{role}.txt").open("w") as output:
                own = {**environment, "DMLC_ROLE": role}
                processes.append(subprocess.Popen(command, env=own, stdout=output, stderr=subprocess.STDOUT))
        yield processes[2:]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def wait_for(workers, folder: Path) -> list[int]:
    end = time.monotonic() + LIMIT_S
    try:
        return [worker.wait(max(1.0, end - time.monotonic())) for worker in workers]
    except subprocess.TimeoutExpired:
        said = "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("*-*.txt")))
        pytest.fail(f"the workers were not done after {LIMIT_S} s\n{said}")


@pytest.fixture(autouse=True)
def _needs_distributed_mxnet():
    from gluonface._compat import mx

    if not mx.runtime.Features().is_enabled("DIST_KVSTORE"):
        pytest.skip("this build of MXNet has no distributed kvstore")


def test_two_workers_get_the_weights_of_one_with_the_same_global_batch(tmp_path):
    with cluster(tmp_path) as workers:
        train(str(tmp_path / "one"), "device")
        codes = wait_for(workers, tmp_path)
    assert codes == [0, 0], "\n".join(p.read_text()[-2000:] for p in tmp_path.glob("*-worker.txt"))
    one, first, second = (np.load(tmp_path / name) for name in ("one-0.npz", "two-0.npz", "two-1.npz"))
    for name in one.files:
        np.testing.assert_allclose(first[name], one[name], atol=1e-5, rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    # One of them wrote, once.
    assert sorted(p.name for p in (tmp_path / "two" / "checkpoints").iterdir()) == ["epoch-0001", "epoch-0002"]
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == EPOCHS


def test_a_loss_that_is_not_finite_on_one_worker_stops_all_of_them(tmp_path):
    with cluster(tmp_path, "poison") as workers:
        codes = wait_for(workers, tmp_path)
    said = [(tmp_path / f"{number}-worker.txt").read_text() for number in (2, 3)]
    assert codes == [1, 1] and all("epoch 1, batch 0" in text for text in said)
    assert sum("of another worker" in text for text in said) == 1


if __name__ == "__main__":
    train(*sys.argv[1:])
