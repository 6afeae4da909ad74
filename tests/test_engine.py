"""The training loop: scale of the gradient, schedules, exact resuming, errors, log and signals."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import random
import signal
from pathlib import Path

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
from gluonface.loss import UncertaintyWeights
from gluonface.model_zoo.store import read_params
from gluonface.training.config import ema_decay_at
from gluonface.training.devices import mixed_precision
from gluonface.training.log import TrainLog, draw_curves, read_log
from gluonface.training.observers import Observer

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


def make_engine(
    folder,
    net=None,
    contexts=None,
    loss=loss_fn,
    evaluate=None,
    best_key=None,
    best_mode="max",
    trained_loss=None,
    watched=(),
    observers=None,
    **settings,
):
    options = {"lr": 0.02, "epochs": 2, "wd": 1e-3, "save_prefix": str(folder), "log_interval": 2, **settings}
    contexts = contexts or [mx.cpu()]
    net = net or small_net(contexts)
    return Engine(
        net,
        loss,
        TrainConfig(**options),
        contexts=contexts,
        prepare=prepare,
        evaluate=evaluate,
        best_key=best_key,
        best_mode=best_mode,
        trained_loss=trained_loss,
        watched=watched,
        observers=observers,
    )


@pytest.fixture(autouse=True)
def _no_curves(request, monkeypatch):
    """Drawing takes longer than the training here; the test that looks at the curves asks for ``real_curves``."""
    if "real_curves" not in request.fixturenames:
        monkeypatch.setattr("gluonface.engine.draw_curves", lambda records, path: None)


@pytest.fixture
def real_curves():
    """Have the engine draw."""


def epochs_of(folder):
    return [record for record in read_log(folder / "log.jsonl") if record["kind"] == "epoch"]


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


def test_the_plateau_schedule_falls_with_each_standstill_down_to_its_floor():
    config = TrainConfig(lr=1.0, warmup_epochs=1, lr_mode="plateau", lr_decay=0.1, lr_min=0.05)
    assert [learning_rate_at(config, 9, 3, falls) for falls in (0, 1, 2)] == [1.0, 0.1, 0.05]
    assert learning_rate_at(config, 1, 4, 2) == 0.25  # still warming up
    # A floor above the rate does not raise it.
    assert learning_rate_at(TrainConfig(lr=0.01, lr_mode="plateau", lr_min=0.1), 9, 3, 1) == 0.01


def test_the_decay_of_the_average_rises_to_its_setting():
    config = TrainConfig(ema_decay=0.99)
    assert ema_decay_at(config, 0) == pytest.approx(0.1) and ema_decay_at(config, 10_000) == 0.99


def test_flags_become_settings_and_keep_a_script_s_own_defaults():
    parser = argparse.ArgumentParser()
    add_training_arguments(parser, TrainConfig(lr=0.5, lr_decay_epoch=(3, 4), frozen_bn=True))
    assert config_from_args(parser.parse_args([])) == TrainConfig(lr=0.5, lr_decay_epoch=(3, 4), frozen_bn=True)
    words = "--gpus 0,1 -j 3 --batch-size 4 --lr-mode cosine --lr-decay-epoch 5,6 --no-wd --no-frozen-bn --amp"
    config = config_from_args(parser.parse_args([*words.split(), "--optimizer", "adam"]))
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
    losses = [record["loss"] for record in epochs_of(tmp_path)]
    assert losses[-1] < 0.3 * losses[0]


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
            np.testing.assert_allclose(
                after[name], before[name] - 0.1 * parameter.grad().asnumpy(), atol=1e-6, err_msg=name
            )


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
    engine = make_engine(
        tmp_path, net, epochs=1, momentum=0.0, wd=0.0, lr=1.0, lr_mode="constant", clip_norm=0.01, frozen_bn=True
    )
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


def test_mixed_precision_scales_the_loss_up_and_the_gradient_down(tmp_path, monkeypatch):
    """MXNet's operators stay in float32 here, since half precision needs a GPU: what is tested is the loss scale."""
    amp = mixed_precision([])
    monkeypatch.setattr("gluonface.engine.mixed_precision", lambda contexts: amp)
    monkeypatch.setattr(amp, "init", lambda: None)
    monkeypatch.setattr(amp.amp, "_amp_initialized", True)
    monkeypatch.setattr(amp.amp, "_amp_loss_scale_initialized", True)  # a scaler for each trainer
    results = []
    for name, settings in (("without", {}), ("with", {"amp": True})):
        engine = make_engine(tmp_path / name, clip_norm=0.05, accumulate=2, ema_decay=0.9, **settings)
        random.seed(1)
        engine.fit(make_batches)
        results.append(weights(engine.net))
    assert close(*results, 1e-6)

    resumed = make_engine(tmp_path / "with", amp=True, epochs=3, ema_decay=0.9, resume=str(tmp_path / "with"))
    scaler = resumed._trainer._amp_loss_scaler
    assert scaler.loss_scale == 2.0**16 and scaler._unskipped == 4
    scaler._loss_scale = scaler._next_loss_scale = 2.0**127  # the gradient overflows: no update, and a smaller scale
    resumed.fit(lambda epoch: [make_batches(epoch)[0]])
    np.testing.assert_array_equal(weights(resumed.net)["0.weight"], results[1]["0.weight"])
    assert scaler._next_loss_scale == 2.0**126


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
    engine = make_engine(
        tmp_path, epochs=3, evaluate=lambda net: {"nme": next(values)}, best_key="nme", best_mode="min"
    )
    assert engine.fit(make_batches).best_value == 1.0


def plateau_run(folder, epochs, values, resume="", **settings):
    values = iter(values)
    engine = make_engine(
        folder,
        evaluate=lambda net: {"ap": next(values)},
        best_key="ap",
        epochs=epochs,
        resume=resume,
        lr=0.02,
        lr_mode="plateau",
        lr_patience=2,
        lr_min=0.001,
        **settings,
    )
    engine.fit(make_batches)
    return [record["lr"] / 0.02 for record in epochs_of(folder)]


def test_the_rate_falls_when_validations_in_a_row_are_no_better(tmp_path):
    nan = float("nan")
    values = [0.5, 0.4, 0.6, 0.6, nan, 0.5, 0.7, 0.1, 0.1]
    # After the fifth, which ends the first standstill, another one is counted anew.
    rates = [1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(plateau_run(tmp_path / "a", 9, values), rates)
    np.testing.assert_allclose(plateau_run(tmp_path / "b", 10, [*values, 0.1]), [*rates, 0.05])


@pytest.mark.parametrize(("warmup", "first_fall"), [(4, 6), (3.5, 5)])
def test_standstills_are_counted_from_the_end_of_the_warm_up_on(tmp_path, warmup, first_fall):
    # Best at once, and no better for long: two validations in a row are a standstill, but none of the warm-up alone.
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0, 0.0]
    rates = plateau_run(tmp_path, 8, values, warmup_epochs=warmup)
    assert first_fall == next(epoch for epoch in range(4, 8) if rates[epoch] < 1)
    np.testing.assert_allclose(rates[4:first_fall], 1)
    np.testing.assert_allclose(rates[first_fall : first_fall + 2], 0.1)


def test_a_resumed_run_knows_how_long_its_validation_has_stood_still(tmp_path):
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    straight = plateau_run(tmp_path / "a", 6, values)
    np.testing.assert_allclose(straight, [1, 1, 1, 0.1, 0.1, 0.05])
    plateau_run(tmp_path / "b", 2, values)
    assert plateau_run(tmp_path / "b", 6, values[2:], resume=str(tmp_path / "b")) == straight


def test_a_rate_that_goes_by_the_validation_needs_one(tmp_path):
    with pytest.raises(TrainingError, match="--lr-mode plateau: expected a run that is validated"):
        make_engine(tmp_path, lr_mode="plateau")


def test_a_best_key_that_evaluate_does_not_give_is_named(tmp_path):
    engine = make_engine(tmp_path, evaluate=lambda net: {"ap": 1.0}, best_key="map")
    with pytest.raises(TrainingError, match=r"map.*ap"):
        engine.fit(make_batches)


def test_a_validation_that_fails_does_not_lose_the_epoch(tmp_path):
    def slip(net):
        raise KeyError("no such photo")

    engine = make_engine(tmp_path, epochs=1, ema_decay=0.9, evaluate=slip)
    with pytest.raises(KeyError):
        engine.fit(make_batches)
    assert same(read_params(tmp_path / "checkpoints" / "epoch-0001" / "parameters.params"), weights(engine.net))


# ---- resuming


@pytest.mark.parametrize(
    "settings",
    [
        {
            "optimizer": "sgd",
            "lr_mode": "cosine",
            "ema_decay": 0.9,
            "accumulate": 2,
            "warmup_epochs": 1.5,
            "clip_norm": 1.0,
        },
        {"optimizer": "adam", "lr": 1e-3, "lr_mode": "step", "lr_decay_epoch": (3,), "ema_decay": 0.9},
        {"optimizer": "sgd", "momentum": 0.0},
    ],
)
def test_a_resumed_run_ends_bit_for_bit_where_a_straight_one_does(tmp_path, settings):
    def value(net):
        return {"norm": float(sum(np.abs(w).sum() for w in weights(net).values()))}

    def run(folder, batches=make_batches, resume=""):
        net = small_net(dropout=0.3)
        engine = make_engine(
            tmp_path / folder, net, evaluate=value, best_key="norm", epochs=4, resume=resume, **settings
        )
        engine.fit(batches)
        return engine

    seed_everything(11)
    straight = run("straight")
    seed_everything(11)

    def two_epochs(epoch):
        if epoch == 2:
            raise KeyError("the machine went down")
        return make_batches(epoch)

    with pytest.raises(KeyError):
        run("halves", batches=two_epochs)
    seed_everything(99)  # a new process does not have the old one's generators
    resumed = run("halves", resume=str(tmp_path / "halves"))
    assert resumed.iteration == straight.iteration and resumed.best_value == straight.best_value
    assert same(weights(resumed.net), weights(straight.net))
    for name in ("last.params", "best.params", "checkpoints/epoch-0004/optimizer.params"):
        assert same(read_params(tmp_path / "halves" / name), read_params(tmp_path / "straight" / name)), name
    losses = [[r["losses"] for r in epochs_of(tmp_path / folder)] for folder in ("halves", "straight")]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_resuming_with_other_settings_says_which(tmp_path, caplog):
    make_engine(tmp_path, epochs=1).fit(make_batches)
    with caplog.at_level(logging.WARNING):
        engine = make_engine(tmp_path, epochs=3, lr=0.5, resume=str(tmp_path), start_epoch=2, log_interval=7)
    said = [record.getMessage() for record in caplog.records]
    assert any("--lr 0.5" in line and "0.02" in line for line in said) and any("--epochs 3" in line for line in said)
    assert any("--start-epoch 2 ignored" in line for line in said) and not any("log-interval" in line for line in said)
    assert engine.epoch == 1


def test_resuming_with_other_flags_of_the_script_says_which(tmp_path, caplog):
    begun = {"frozen": False, "k0": 3.0, "face_sizes": None, "train": "a.jsonl", "gone": 1}
    make_engine(tmp_path, epochs=1, flags=begun).fit(make_batches)
    assert json.loads((tmp_path / "config.json").read_text())["flags"] == begun
    with caplog.at_level(logging.WARNING):
        now = {"frozen": True, "k0": 3.0, "face_sizes": [8.0, 16.0], "train": "a.jsonl", "new": 2}
        make_engine(tmp_path, epochs=1, flags=now, resume=str(tmp_path))
    assert [record.getMessage() for record in caplog.records] == [
        "resuming with --face-sizes [8.0, 16.0], it was None",
        "resuming with --frozen True, it was False",
    ]


def test_a_run_from_before_the_flags_of_scripts_were_kept_goes_on(tmp_path, caplog, monkeypatch):
    def settings_of_old(config):
        return {name: value for name, value in dataclasses.asdict(config).items() if name != "flags"}

    with monkeypatch.context() as earlier:
        earlier.setattr("gluonface.engine.asdict", settings_of_old)
        make_engine(tmp_path, epochs=1).fit(make_batches)
    with caplog.at_level(logging.WARNING):
        make_engine(tmp_path, epochs=1, flags={"k0": 3.0}, resume=str(tmp_path))
    assert not caplog.records


def test_a_run_is_not_resumed_with_another_optimizer_average_or_net(tmp_path):
    make_engine(tmp_path, epochs=1).fit(make_batches)
    with pytest.raises(TrainingError, match="--optimizer"):
        make_engine(tmp_path, optimizer="adam", resume=str(tmp_path))
    with pytest.raises(TrainingError, match="no --ema-decay"):
        make_engine(tmp_path, ema_decay=0.9, resume=str(tmp_path))
    other = mx.gluon.nn.HybridSequential()
    other.add(mx.gluon.nn.Dense(1, in_units=2))
    other.initialize()
    with pytest.raises(WeightsError, match="another network"):
        make_engine(tmp_path, other, resume=str(tmp_path))


def test_a_finished_run_is_not_overwritten_by_a_new_one(tmp_path):
    make_engine(tmp_path, epochs=1).fit(make_batches)
    with pytest.raises(TrainingError, match="--resume"):
        make_engine(tmp_path)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    make_engine(tmp_path, epochs=4, keep_checkpoints=2).fit(make_batches)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["epoch-0003", "epoch-0004"]


def test_a_run_stops_before_its_time_is_spent_and_can_go_on(tmp_path):
    result = make_engine(tmp_path, epochs=3, max_minutes=1e-6).fit(make_batches)
    assert (result.epoch, result.finished) == (1, False)
    result = make_engine(tmp_path, epochs=3, resume=str(tmp_path)).fit(make_batches)
    assert (result.epoch, result.finished) == (3, True)


# ---- a loss that is trained, watched parts and observers


class Weighted:
    """`loss_fn` with learned weights of its parts, and a watched part that would spoil everything if it counted."""

    watched = ("large",)

    def __init__(self):
        self.weights = UncertaintyWeights({"first": "classification", "second": "regression"})
        self.weights.hybridize()

    def __call__(self, net, x, targets):
        difference = net(x) - targets
        first, second, scales = self.weights(difference[:, 0] ** 2, difference[:, 1] ** 2)
        return {"first": first, "second": second, "scales": scales, "large": 1000 * (difference**2).sum(axis=1)}

    def scales(self):
        return self.weights.log_scales.list_data()[0].asnumpy()


class Diary(Observer):
    """Writes down what it is told, and the weights that the net holds then."""

    def __init__(self):
        self.batches, self.epochs, self.counter = [], [], 0

    def after_batch(self, epoch, batch, means):
        self.batches.append((epoch, batch, means))
        self.counter += 1

    def after_epoch(self, engine):
        self.epochs.append((engine.epoch, len(self.batches), weights(engine.net)))

    def report(self):
        return {"batches seen": float(self.counter)}

    def state_dict(self):
        return {"counter": self.counter}

    def load_state_dict(self, state):
        self.counter = state["counter"]


def weighted_run(folder, loss=None, **options):
    loss = loss or Weighted()
    return loss, make_engine(folder, loss=loss, trained_loss=loss.weights, watched=loss.watched, **options)


def test_the_parameters_of_the_loss_are_trained_without_weight_decay(tmp_path):
    batch = make_batches(0)[0]
    for wd in (0.0, 0.5):
        loss, reference = Weighted(), Weighted()
        for each in (loss, reference):
            each.weights.initialize()
            each.weights.start_at({"first": 0.3, "second": 7.0})
        _, engine = weighted_run(tmp_path / str(wd), loss, epochs=1, wd=wd, momentum=0.0, lr=0.1, lr_mode="constant")
        with mx.autograd.record():
            parts = reference(small_net(), *prepare(batch, mx.cpu()))
            total = parts["first"].mean() + parts["second"].mean() + parts["scales"].sum()
        total.backward()
        engine.fit(lambda epoch, batch=batch: [batch])
        gradient = reference.weights.log_scales.grad().asnumpy()
        assert np.abs(gradient).min() > 1e-3
        np.testing.assert_allclose(loss.scales(), reference.scales() - 0.1 * gradient, rtol=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trained_loss_learns_on_two_devices_what_it_learns_on_one(tmp_path, accumulate):
    results = []
    for devices in (1, 2):
        contexts = [mx.cpu(i) for i in range(devices)]
        options = {"frozen_bn": True, "ema_decay": 0.9, "clip_norm": 0.5, "accumulate": accumulate, "epochs": 3}
        diary = Diary()
        loss, engine = weighted_run(tmp_path / str(devices), contexts=contexts, observers={"diary": diary}, **options)
        random.seed(1)
        engine.fit(lambda epoch: make_batches(epoch, batch=7))
        for data in loss.weights.log_scales.list_data():
            np.testing.assert_array_equal(data.asnumpy(), loss.scales())
        results.append((weights(engine.net), loss.scales(), diary))
    (one, scales, diary), (two, other_scales, other_diary) = results
    assert close(one, two) and np.abs(scales).max() > 1e-3
    np.testing.assert_allclose(other_scales, scales, rtol=1e-4)
    for mine, theirs in zip(diary.batches, other_diary.batches, strict=True):
        assert mine[:2] == theirs[:2] and mine[2] == pytest.approx(theirs[2], rel=1e-4)


def test_a_loss_that_has_values_already_keeps_them(tmp_path):
    loss = Weighted()
    loss.weights.initialize()
    loss.weights.start_at({"first": 0.3, "second": 7.0})
    before = loss.scales()
    weighted_run(tmp_path, loss, contexts=[mx.cpu(0), mx.cpu(1)])
    np.testing.assert_array_equal(loss.scales(), before)


def test_the_parameters_of_the_loss_are_in_checkpoints_but_not_among_the_net_s(tmp_path):
    loss, engine = weighted_run(tmp_path, epochs=1, ema_decay=0.5)
    engine.fit(make_batches)
    folder = tmp_path / "checkpoints" / "epoch-0001"
    (saved,) = read_params(folder / "loss.params").values()
    np.testing.assert_array_equal(saved, loss.scales())
    for file in (tmp_path / "last.params", folder / "parameters.params", folder / "ema.params"):
        assert set(read_params(file)) <= set(weights(engine.net))


@pytest.mark.parametrize(
    "settings", [{"ema_decay": 0.9, "lr_mode": "cosine"}, {"optimizer": "adam", "lr": 1e-3, "accumulate": 2}]
)
def test_a_resumed_run_has_the_same_weights_loss_and_observers_bit_for_bit(tmp_path, settings):
    def run(folder, epochs, resume=""):
        diary = Diary()
        loss, engine = weighted_run(
            tmp_path / folder,
            net=small_net(dropout=0.3),
            observers={"diary": diary},
            epochs=epochs,
            resume=resume,
            **settings,
        )
        engine.fit(make_batches)
        return loss, engine, diary

    settings = {**settings, "lr_mode": "step", "lr_decay_epoch": (3,)}  # not of the number of epochs
    seed_everything(11)
    loss, straight, diary = run("straight", 4)
    seed_everything(11)
    run("halves", 2)
    seed_everything(99)
    again, resumed, second = run("halves", 4, resume=str(tmp_path / "halves"))
    assert same(weights(resumed.net), weights(straight.net))
    np.testing.assert_array_equal(again.scales(), loss.scales())
    assert second.counter == diary.counter == 12 and second.batches == diary.batches[6:]
    files = ("last.params", *(f"checkpoints/epoch-0004/{name}.params" for name in ("optimizer", "loss", "parameters")))
    for name in files:
        assert same(read_params(tmp_path / "halves" / name), read_params(tmp_path / "straight" / name)), name
    logs = [
        [(r["losses"], r["watched"], r["observed"]) for r in epochs_of(tmp_path / f)] for f in ("halves", "straight")
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 4


def test_a_run_is_not_resumed_without_the_trained_loss_or_with_other_observers(tmp_path):
    make_engine(tmp_path / "plain", epochs=1).fit(make_batches)
    with pytest.raises(WeightsError, match="log_scales"):
        weighted_run(tmp_path / "plain", resume=str(tmp_path / "plain"))
    with pytest.raises(TrainingError, match="that run had no diary: resume with the options it had"):
        make_engine(tmp_path / "plain", observers={"diary": Diary()}, resume=str(tmp_path / "plain"))
    weighted_run(tmp_path / "weighted", epochs=1)[1].fit(make_batches)
    with pytest.raises((TrainingError, WeightsError), match="another|loss"):
        make_engine(tmp_path / "weighted", resume=str(tmp_path / "weighted"))


def test_watched_parts_are_logged_but_are_not_part_of_the_loss(tmp_path):
    def with_more(net, x, targets):
        return {**loss_fn(net, x, targets), "large": 1000 * (net(x) ** 2).sum(axis=1)}

    results = []
    for folder, options in (("plain", {}), ("watched", {"loss": with_more, "watched": ("large",)})):
        random.seed(1)
        engine = make_engine(tmp_path / folder, epochs=2, **options)
        engine.fit(make_batches)
        results.append(weights(engine.net))
    assert same(*results)
    for record in read_log(tmp_path / "watched" / "log.jsonl"):
        assert set(record["losses"]) == {"first", "second"} and set(record["watched"]) == {"large"}
        assert record["watched"]["large"] > 10 and record["loss"] == pytest.approx(sum(record["losses"].values()))


@pytest.mark.parametrize("watched", [("large",), ("first", "second")])
def test_watched_parts_that_the_loss_does_not_give_are_named(tmp_path, watched):
    with pytest.raises(TrainingError, match=r"expected \['(large|first)'.*which are watched"):
        make_engine(tmp_path, watched=watched).fit(make_batches)


def test_observers_are_told_the_means_of_every_batch_and_epoch(tmp_path):
    diary, given = Diary(), []

    def remember(net, x, targets):
        parts = loss_fn(net, x, targets)
        given.append((float(parts["first"].mean().asscalar()), float(parts["second"].asscalar())))
        return parts

    engine = make_engine(tmp_path, loss=remember, epochs=2, observers={"diary": diary})
    engine.fit(lambda epoch: make_batches(epoch, batch=7))  # four batches, the last of three samples
    assert [place[:2] for place in diary.batches] == [(epoch, number) for epoch in (0, 1) for number in range(4)]
    for (_, _, means), (first, second) in zip(diary.batches, given, strict=True):
        assert means == pytest.approx({"first": first, "second": second}, rel=1e-5)
    # After an epoch all its batches are accounted for, and it counts as done.
    assert [entry[:2] for entry in diary.epochs] == [(1, 4), (2, 8)]
    assert [r["observed"] for r in epochs_of(tmp_path)] == [{"batches seen": 4.0}, {"batches seen": 8.0}]
    assert all(r["observed"] for r in read_log(tmp_path / "log.jsonl"))


def test_observers_see_the_averaged_weights_after_an_epoch_and_training_goes_on_with_its_own(tmp_path):
    results = []
    for observers in ({}, {"diary": Diary()}):
        random.seed(1)
        engine = make_engine(tmp_path / str(len(observers)), epochs=2, ema_decay=0.9, observers=observers)
        engine.fit(make_batches)
        results.append(weights(engine.net))
    assert same(*results)
    seen = observers["diary"].epochs[-1][2]
    assert same(seen, read_params(tmp_path / "1" / "last.params")) and not same(seen, results[1])


def test_an_observer_that_fails_does_not_lose_the_epoch(tmp_path):
    class Slip(Observer):
        def after_epoch(self, engine):
            raise KeyError("no such photo")

    engine = make_engine(tmp_path, epochs=1, ema_decay=0.9, observers={"slip": Slip()})
    with pytest.raises(KeyError):
        engine.fit(make_batches)
    assert same(read_params(tmp_path / "checkpoints" / "epoch-0001" / "parameters.params"), weights(engine.net))
    assert make_engine(tmp_path, epochs=1, ema_decay=0.9, observers={"slip": Slip()}, resume=str(tmp_path)).epoch == 1


def test_what_observers_change_takes_effect_in_the_next_epoch(tmp_path):
    class Halving(Observer):
        size = 8

        def after_epoch(self, engine):
            self.size //= 2

    sizes, observer = [], Halving()

    def batches(epoch):
        sizes.append(observer.size)
        return make_batches(epoch, batch=observer.size)

    make_engine(tmp_path, epochs=3, observers={"halving": observer}).fit(batches)
    assert sizes == [8, 4, 2]


def test_one_worker_s_sum_over_workers_is_what_it_has(tmp_path):
    engine = make_engine(tmp_path)
    assert engine.sum_over_workers(np.array([[1, 2], [3, 4]])).tolist() == [[1, 2], [3, 4]]


# ---- what goes wrong


def test_a_loss_that_is_not_finite_is_named_with_its_batch_and_part(tmp_path):
    def poisoned(epoch):
        batches = [
            Batch(arrays, ids=[f"photo{i}-{j}" for j in range(BATCH)]) for i, arrays in enumerate(make_batches(epoch))
        ]
        if epoch == 1:
            batches[1].arrays[1][3, 1] = np.inf
        return batches

    with pytest.raises(TrainingError) as caught:
        make_engine(tmp_path, epochs=3).fit(poisoned)
    said = str(caught.value)
    assert "epoch 1, batch 1 (photo1-0, " in said and "part second is not finite" in said and "second inf" in said
    assert "first inf" not in said and f"--resume {tmp_path}" in said
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["epoch-0001"]


def test_a_loss_of_the_wrong_form_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"'whole'.*\(8,\).*\(8, 2\)"):
        make_engine(tmp_path, loss=lambda net, x, y: {"whole": (net(x) - y) ** 2}).fit(make_batches)
    names = iter(["a", "b"])
    with pytest.raises(TrainingError, match=r"\['b'\].*\['a'\]"):
        make_engine(tmp_path, loss=lambda net, x, y: {next(names): net(x).mean()}).fit(make_batches)


def test_a_batch_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="one number"):
        make_engine(tmp_path).fit(lambda epoch: [(np.zeros((4, 6, 6, 3)), np.zeros((3, 2)))])
    with pytest.raises(TrainingError, match="2 devices"):
        make_engine(tmp_path, contexts=[mx.cpu(0), mx.cpu(1)]).fit(lambda epoch: make_batches(epoch, batch=23))
    with pytest.raises(TrainingError, match="no batch"):
        make_engine(tmp_path).fit(lambda epoch: [])


def test_a_parameter_the_loss_does_not_use_is_named(tmp_path):
    net = small_net()
    with pytest.raises(TrainingError, match="grad_req"):
        make_engine(tmp_path, net, loss=lambda net, x, y: {"zero": net[0](x).mean()}).fit(make_batches)


def test_a_net_that_is_not_initialised_is_refused(tmp_path):
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Dense(2))
    with pytest.raises(TrainingError, match="0.weight"):
        make_engine(tmp_path, net)
    net.initialize()
    with pytest.raises(TrainingError, match="0.weight"):
        make_engine(tmp_path, net)


@pytest.mark.parametrize(("name", "reason"), [("dist_sync", "DMLC_ROLE"), ("dist_async", "dist_sync"), ("foo", "foo")])
def test_a_kvstore_that_cannot_work_is_refused(tmp_path, monkeypatch, name, reason):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    with pytest.raises(TrainingError, match=reason):
        make_engine(tmp_path, contexts=[mx.cpu(0), mx.cpu(1)], kvstore=name)


# ---- log, curves and signals


def test_the_log_is_made_of_json_objects_with_losses_rate_speed_and_validation(tmp_path):
    values = iter([0.5, math.nan])
    engine = make_engine(
        tmp_path, log_interval=2, evaluate=lambda net: {"ap": next(values)}, lr=0.02, lr_mode="constant"
    )
    engine.fit(make_batches)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["kind"] for r in records] == ["train", "epoch"] * 2
    first = records[0]
    assert set(first["losses"]) == {"first", "second"} and first["loss"] == pytest.approx(sum(first["losses"].values()))
    assert first["lr"] == 0.02 and first["images_per_s"] > 0 and first["position"] == pytest.approx(2 / 3)
    assert [r["validation"] for r in records[1::2]] == [{"ap": 0.5}, {"ap": None}]
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 0.02


def test_validation_keeps_its_interval_and_never_misses_the_last_epoch(tmp_path):
    make_engine(tmp_path, epochs=3, val_interval=2, evaluate=lambda net: {"ap": 1.0}).fit(make_batches)
    assert [r["validation"] is not None for r in epochs_of(tmp_path)] == [False, True, True]


def test_batches_of_unknown_number_are_all_used(tmp_path):
    engine = make_engine(tmp_path, accumulate=2, lr_mode="cosine", epochs=2)
    engine.fit(
        lambda epoch: (batch for batch in make_batches(epoch))
    )  # 3 batches: an update of two and one of the third
    assert engine.iteration == 4
    assert [r["lr"] for r in epochs_of(tmp_path)] == pytest.approx([0.02, 0.01])


def test_a_resumed_log_drops_the_lines_of_epochs_that_run_again(tmp_path):
    path = tmp_path / "log.jsonl"
    log = TrainLog(path)
    for epoch in range(3):
        log.write(kind="epoch", epoch=epoch)
    with path.open("a") as file:
        file.write('{"kind": "tra')  # a crash in the middle of a line
    TrainLog(path, first_epoch=2)
    assert [r["epoch"] for r in read_log(path)] == [0, 1]


def test_curves_are_drawn_at_the_end(tmp_path, real_curves):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    make_engine(tmp_path, epochs=2, evaluate=lambda net: {"ap": 0.5}).fit(make_batches)
    with image.open(tmp_path / "curves.png") as picture:
        assert picture.size > (500, 200)


def observed(position, **values):
    return {
        "kind": "train", "epoch": int(position), "position": position, "lr": 0.1, "loss": 1.0,
        "losses": {"cls": 1.0}, "watched": {}, "observed": values,
    }  # fmt: skip


@pytest.fixture
def panels(monkeypatch):
    """A function that draws a log and gives its panels by title."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []

    def savefig(self, path, **options):
        drawn.append(self)
        Path(path).touch()

    monkeypatch.setattr(Figure, "savefig", savefig)

    def draw(records, path):
        draw_curves(records, path)
        return {axes.get_title(): axes for axes in drawn[-1].axes}

    return draw


def test_what_observers_report_is_drawn_in_a_panel_of_its_own(tmp_path, panels):
    records = [observed(0.5, share=0.4, weight=10.0), observed(1.0, share=None), observed(1.5, share=0.2, weight=900.0)]
    shown = panels(records, tmp_path / "curves.png")
    assert set(shown) == {"training loss", "learning rate", "validation", "observed"}
    lines = {line.get_label(): line for line in shown["observed"].get_lines()}
    assert set(lines) == {"share", "weight"}
    assert lines["share"].get_xdata().tolist() == [0.5, 1.0, 1.5]
    np.testing.assert_array_equal(lines["share"].get_ydata(), [0.4, np.nan, 0.2])
    np.testing.assert_array_equal(lines["weight"].get_ydata(), [10, np.nan, 900])
    assert shown["observed"].get_yscale() == "log"  # .2 to 900
    assert (
        panels([observed(0.5, share=0.4), observed(1.0, share=0.2)], tmp_path / "curves.png")["observed"].get_yscale()
        == "linear"
    )
    assert (
        panels([observed(0.5, share=0.0), observed(1.0, share=0.2)], tmp_path / "curves.png")["observed"].get_yscale()
        == "linear"
    )


def test_without_observers_there_is_no_such_panel(tmp_path, panels):
    old = {key: value for key, value in observed(0.5).items() if key not in ("observed", "watched")}
    for record in (observed(0.5), old):
        assert set(panels([record], tmp_path / "curves.png")) == {"training loss", "learning rate", "validation"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_the_iteration_and_keeps_the_last_whole_epoch(tmp_path, caplog, number, status):
    handler = signal.getsignal(number)

    def interrupted(net, x, targets):
        if engine.epoch == 1:
            os.kill(os.getpid(), number)
        return loss_fn(net, x, targets)

    engine = make_engine(tmp_path, epochs=3, loss=interrupted)
    with pytest.raises(TrainingInterrupted) as caught:
        engine.fit(make_batches)
    assert caught.value.code == status
    assert engine.iteration == 4  # three of the first epoch and the one that was running
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["epoch-0001"]
    assert f"--resume {tmp_path}" in caplog.text
    assert signal.getsignal(number) is handler
