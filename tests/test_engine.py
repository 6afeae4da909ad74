"""The training loop: scale of the gradient, schedules, exact resuming, errors, log and signals."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import signal

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.engine import (
    Batch,
    Engine,
    TrainConfig,
    TrainingInterrupted,
    add_training_arguments,
    config_from_args,
    contexts_from_gpus,
    learning_rate_at,
    seed_everything,
)
from gluonface.errors import InputError, TrainingError, WeightsError
from gluonface.model_zoo.store import read_params
from gluonface.training.config import ema_decay_at
from gluonface.training.log import TrainLog, read_log

SAMPLES, BATCH = 24, 8


def small_net(contexts=None, dropout=0.0):
    """Convolution, BatchNorm and a dense layer, with the same weights at every call."""
    mx.random.seed(7)
    net = mx.gluon.nn.HybridSequential()
    with net.name_scope():
        net.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3), mx.gluon.nn.BatchNorm(in_channels=4))
        net.add(mx.gluon.nn.Activation("relu"), mx.gluon.nn.Dropout(dropout), mx.gluon.nn.Dense(2, in_units=4 * 16))
    net.initialize(mx.init.Xavier(), ctx=contexts or [mx.cpu()])
    net.hybridize()
    return net


def images_and_targets():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (SAMPLES, 6, 6, 3), dtype=np.uint8)
    return images, np.stack([images.mean((1, 2, 3)) / 128 - 1, images[:, 0, 0, 0] / 128 - 1], 1).astype(np.float32)


def make_batches(epoch, batch=BATCH):
    images, targets = images_and_targets()
    order = np.random.default_rng([5, epoch]).permutation(SAMPLES)
    jitter = np.float32(1 + 0.01 * random.random())  # from Python's global generator, whose state a checkpoint keeps
    return [(images[order[i : i + batch]], targets[order[i : i + batch]] * jitter) for i in range(0, SAMPLES, batch)]


def prepare(arrays, ctx):
    images, targets = arrays
    x = mx.nd.array(images, ctx=ctx, dtype=np.uint8).astype("float32").transpose((0, 3, 1, 2)) / 255 - 0.5
    return x, mx.nd.array(targets, ctx=ctx)


def loss_fn(net, x, targets):
    difference = net(x) - targets
    return {"first": (difference[:, 0] ** 2), "second": (difference[:, 1] ** 2).mean()}


def make_engine(folder, net=None, contexts=None, loss=loss_fn, evaluate=None, best_key=None, best_mode="max", **settings):
    options = {"lr": 0.02, "epochs": 2, "wd": 1e-3, "save_prefix": str(folder), "log_interval": 2, **settings}
    contexts = contexts or [mx.cpu()]
    net = net or small_net(contexts)
    return Engine(
        net, loss, TrainConfig(**options), contexts=contexts, prepare=prepare, evaluate=evaluate, best_key=best_key, best_mode=best_mode
    )


def weights(net):
    return {name: p.list_data()[0].asnumpy() for name, p in net._collect_params_with_prefix().items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def close(a, b, tolerance=1e-5):
    return a.keys() == b.keys() and all(np.allclose(a[name], b[name], atol=tolerance, rtol=tolerance) for name in a)


# ---- schedules and settings


def test_the_warm_up_rises_in_a_straight_line_and_then_hands_over():
    config = TrainConfig(lr=1.0, warmup_lr=0.2, warmup_epochs=2, lr_mode="constant", epochs=10)
    assert [learning_rate_at(config, i, 4) for i in (0, 4, 8, 30)] == pytest.approx([0.2, 0.6, 1.0, 1.0])


def test_the_step_schedule_falls_at_its_epochs():
    config = TrainConfig(lr=1.0, lr_mode="step", lr_decay=0.1, lr_decay_epoch=(2, 3), epochs=4)
    assert [learning_rate_at(config, i, 5) for i in (0, 9, 10, 14, 15)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_the_cosine_schedule_passes_half_way_and_ends_at_zero():
    config = TrainConfig(lr=1.0, lr_mode="cosine", warmup_epochs=2, epochs=6)
    assert [learning_rate_at(config, i, 10) for i in (10, 20, 40, 60, 99)] == pytest.approx([0.5, 1.0, 0.5, 0.0, 0.0])
    assert learning_rate_at(config, 30, 10) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_the_decay_of_the_average_rises_to_its_setting():
    config = TrainConfig(ema_decay=0.99)
    assert ema_decay_at(config, 0) == pytest.approx(0.1) and ema_decay_at(config, 10_000) == 0.99


def test_flags_become_settings_and_keep_a_script_s_own_defaults():
    parser = argparse.ArgumentParser()
    add_training_arguments(parser, TrainConfig(lr=0.5, lr_decay_epoch=(3, 4), frozen_bn=True))
    assert config_from_args(parser.parse_args([])) == TrainConfig(lr=0.5, lr_decay_epoch=(3, 4), frozen_bn=True)
    words = "--gpus 0,1 -j 3 --batch-size 4 --lr-mode cosine --lr-decay-epoch 5,6 --no-wd --no-frozen-bn --optimizer adam --amp"
    config = config_from_args(parser.parse_args(words.split()))
    assert (config.gpus, config.num_workers, config.batch_size) == ("0,1", 3, 4)
    assert (config.lr_mode, config.lr_decay_epoch, config.optimizer) == ("cosine", (5, 6), "adam")
    assert config.no_wd and not config.frozen_bn and config.amp


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"batch_size": 0}, "--batch-size"),
        ({"lr": float("nan")}, "--lr"),
        ({"lr_mode": "poly"}, "--lr-mode"),
        ({"ema_decay": 1.0}, "--ema-decay"),
        ({"lr_decay_epoch": (5, 3)}, "--lr-decay-epoch"),
    ],
)
def test_an_impossible_setting_is_refused_by_the_name_of_its_flag(settings, flag):
    with pytest.raises(InputError, match=flag):
        TrainConfig(**settings)


def test_a_gpu_that_is_not_there_is_refused():
    assert contexts_from_gpus("") == [mx.cpu()]
    with pytest.raises(TrainingError, match="MXNet sees"):
        contexts_from_gpus("0,99")
    with pytest.raises(TrainingError, match="numbers"):
        contexts_from_gpus("cuda")


def test_mixed_precision_on_the_cpu_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="--amp"):
        make_engine(tmp_path, amp=True)


# ---- the update


def test_training_lowers_the_loss(tmp_path):
    engine = make_engine(tmp_path, epochs=12, lr=0.05)
    engine.fit(make_batches)
    epochs = [r for r in read_log(tmp_path / "log.jsonl") if r["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.3 * epochs[0]["loss"]


def test_an_update_is_that_of_plain_gradient_descent_on_the_mean_loss(tmp_path):
    net = small_net()
    before = weights(net)
    engine = make_engine(tmp_path, net, epochs=1, momentum=0.0, wd=0.0, lr=0.1, lr_mode="constant")
    batch = make_batches(0)[0]
    engine.fit(lambda epoch: [batch])

    reference = small_net()
    x, targets = prepare(batch, mx.cpu())
    with mx.autograd.record():
        loss = ((reference(x) - targets) ** 2).sum() / BATCH
    loss.backward()
    after = weights(net)
    for name, parameter in reference._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            np.testing.assert_allclose(after[name], before[name] - 0.1 * parameter.grad().asnumpy(), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.05, "accumulate": 2}, {"optimizer": "adam", "lr": 1e-3}])
def test_two_devices_give_the_update_of_one(tmp_path, settings):
    results = []
    for devices in (1, 2):
        contexts = [mx.cpu(i) for i in range(devices)]
        engine = make_engine(tmp_path / str(devices), contexts=contexts, frozen_bn=True, ema_decay=0.9, **settings)
        random.seed(1)
        engine.fit(lambda epoch: make_batches(epoch, batch=7))  # the last batch has 3 samples: slices of 1 and 2
        results.append(weights(engine.net))
        for parameter in engine.net.collect_params().values():
            assert all((data.asnumpy() == parameter.list_data()[0].asnumpy()).all() for data in parameter.list_data())
    assert close(*results)
    assert not close(results[0], weights(small_net()), 1e-4)


def test_devices_share_their_statistics_at_the_end_of_an_epoch(tmp_path):
    engine = make_engine(tmp_path, contexts=[mx.cpu(0), mx.cpu(1)], epochs=1)
    engine.fit(make_batches)
    first, second = (data.asnumpy() for data in engine.net[1].running_mean.list_data())
    assert np.array_equal(first, second) and not np.array_equal(first, np.zeros_like(first))


def test_accumulated_batches_give_the_update_of_one_large_batch(tmp_path):
    results = []
    for size, accumulate in ((SAMPLES, 1), (BATCH, 3), (10, 3)):  # 10 + 10 + 4 samples
        engine = make_engine(tmp_path / f"{size}", frozen_bn=True, accumulate=accumulate, epochs=3)
        random.seed(1)
        engine.fit(lambda epoch, size=size: make_batches(epoch, batch=size))
        assert engine.iteration == 3
        results.append(weights(engine.net))
    assert close(results[0], results[1]) and close(results[0], results[2])


def test_the_gradient_s_norm_is_clipped_over_the_whole_net(tmp_path):
    net = small_net()
    before = weights(net)
    engine = make_engine(tmp_path, net, epochs=1, momentum=0.0, wd=0.0, lr=1.0, lr_mode="constant", clip_norm=0.01, frozen_bn=True)
    batch = make_batches(0)[0]
    engine.fit(lambda epoch: [batch])
    after = weights(net)
    norm = math.sqrt(sum(((after[name] - before[name]) ** 2).sum() for name in before))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_frozen_statistics_stay_while_the_weights_learn(tmp_path):
    engine = make_engine(tmp_path, frozen_bn=True)
    before = weights(engine.net)
    engine.fit(make_batches)
    after = weights(engine.net)
    assert np.array_equal(before["1.running_mean"], after["1.running_mean"])
    assert not np.array_equal(before["1.gamma"], after["1.gamma"])


def test_no_wd_spares_biases_and_normalisation(tmp_path):
    def nothing(net, x, targets):
        return {"zero": (net(x) * 0).mean()}

    engine = make_engine(tmp_path, loss=nothing, no_wd=True, wd=0.1, lr=0.5, lr_mode="constant")
    before = weights(engine.net)
    engine.fit(make_batches)
    after = weights(engine.net)
    assert np.array_equal(before["1.gamma"], after["1.gamma"])
    assert np.abs(after["0.weight"]).sum() < 0.9 * np.abs(before["0.weight"]).sum()


def test_only_the_network_inside_a_detector_is_trained(tmp_path):
    class Detector(mx.gluon.Block):
        def __init__(self):
            super().__init__()
            self.network = small_net()
            self.extra = mx.gluon.nn.Dense(1, in_units=1)

    net = Detector()
    net.extra.initialize()
    before = weights(net)
    make_engine(tmp_path, net, loss=lambda net, x, y: loss_fn(net.network, x, y)).fit(make_batches)
    after = weights(net)
    assert np.array_equal(before["extra.weight"], after["extra.weight"])
    assert not np.array_equal(before["network.0.weight"], after["network.0.weight"])
    assert set(read_params(tmp_path / "last.params")) == set(after)


# ---- the moving average and validation


def test_validation_and_the_best_weights_use_the_moving_average(tmp_path):
    seen = []

    def evaluate(net):
        seen.append(weights(net))
        return {"ap": [0.1, 0.7, 0.4][len(seen) - 1], "nme": math.nan}

    engine = make_engine(tmp_path, epochs=3, ema_decay=0.9, evaluate=evaluate, best_key="ap")
    result = engine.fit(make_batches)
    assert result.best_value == 0.7 and result.finished
    assert same(read_params(tmp_path / "best.params"), seen[1])
    assert same(read_params(tmp_path / "last.params"), seen[2])
    assert not same(seen[2], weights(engine.net))
    assert not np.array_equal(seen[2]["1.running_mean"], weights(engine.net)["1.running_mean"])
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["epoch"] == 1 and best["validation"] == {"ap": 0.7, "nme": None}
    small_net().load_parameters(str(tmp_path / "best.params"))


def test_the_moving_average_follows_its_formula(tmp_path):
    net = small_net()
    expected, history = weights(net), []

    def remember(net, x, targets):
        history.append(weights(net))
        return loss_fn(net, x, targets)

    engine = make_engine(tmp_path, net, loss=remember, epochs=1, ema_decay=0.5)
    engine.fit(make_batches)
    for i, after in enumerate([*history[1:], weights(net)]):
        decay = min(0.5, (1 + i) / (10 + i))
        expected = {name: decay * expected[name] + (1 - decay) * after[name] for name in expected}
    assert close(read_params(tmp_path / "last.params"), expected, 1e-6)


def test_a_smaller_value_can_be_the_better_one(tmp_path):
    values = iter([3.0, 1.0, 2.0])
    engine = make_engine(tmp_path, epochs=3, evaluate=lambda net: {"nme": next(values)}, best_key="nme", best_mode="min")
    assert engine.fit(make_batches).best_value == 1.0


def test_a_best_key_that_evaluate_does_not_give_is_named(tmp_path):
    engine = make_engine(tmp_path, evaluate=lambda net: {"ap": 1.0}, best_key="map")
    with pytest.raises(TrainingError, match=r"map.*ap"):
        engine.fit(make_batches)


# ---- resuming


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "lr_mode": "cosine", "ema_decay": 0.9, "accumulate": 2, "warmup_epochs": 1.5, "clip_norm": 1.0},
        {"optimizer": "adam", "lr": 1e-3, "lr_mode": "step", "lr_decay_epoch": (3,), "ema_decay": 0.9},
        {"optimizer": "sgd", "momentum": 0.0},
    ],
)
def test_a_resumed_run_ends_bit_for_bit_where_a_straight_one_does(tmp_path, settings):
    def value(net):
        return {"norm": float(sum(np.abs(w).sum() for w in weights(net).values()))}

    def run(folder, **more):
        engine = make_engine(
            tmp_path / folder, small_net(dropout=0.3), evaluate=value, best_key="norm", **{"epochs": 4, **settings, **more}
        )
        engine.fit(make_batches)
        return engine

    seed_everything(11)
    straight = run("straight")
    seed_everything(11)
    # The settings of the whole run, stopped after two epochs: the time for a third is not there.
    first = run("halves", max_minutes=1e-9) if False else None
    engine = make_engine(tmp_path / "halves", small_net(dropout=0.3), evaluate=value, best_key="norm", **{"epochs": 4, **settings})

    def two_epochs(epoch):
        if epoch == 2:
            raise KeyError("the machine went down")
        return make_batches(epoch)

    with pytest.raises(KeyError):
        engine.fit(two_epochs)
    assert first is None and engine.epoch == 2
    seed_everything(99)  # a new process would not have the old generators' states
    random.random()
    resumed = run("halves", resume=str(tmp_path / "halves"))
    assert resumed.iteration == straight.iteration and resumed.best_value == straight.best_value
    assert same(weights(resumed.net), weights(straight.net))
    for name in ("last.params", "best.params"):
        assert same(read_params(tmp_path / "halves" / name), read_params(tmp_path / "straight" / name))
    optimizers = [read_params(tmp_path / f / "checkpoints" / "epoch-0004" / "optimizer.params") for f in ("halves", "straight")]
    assert same(*optimizers)
    losses = [[r["losses"] for r in read_log(tmp_path / f / "log.jsonl") if r["kind"] == "epoch"] for f in ("halves", "straight")]
    assert losses[0] == losses[1] and len(losses[0]) == 4
