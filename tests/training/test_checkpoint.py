"""Checkpoints: complete or not there, checked when read, and back in the optimizer."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import TrainingError, WeightsError
from gluonface.training import checkpoint as ckpt

ARRAYS = {
    "parameters": {"0.weight": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "optimizer": {"0.weight/0": np.full((2, 3), 0.5, np.float32)},
}


def write(folder, epoch, value=0.0, keep=3):
    arrays = {**ARRAYS, "ema": {"0.weight": np.full((2, 3), value, np.float32)}}
    return ckpt.write_checkpoint(folder / "checkpoints", epoch, arrays, {"epoch": epoch, "note": "hello"}, keep)


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path):
    path = write(tmp_path, 3, value=2.5)
    point = ckpt.read_checkpoint(path)
    assert point.path == path and point.state == {"epoch": 3, "note": "hello"}
    assert set(point.arrays) == {"parameters", "optimizer", "ema"}
    for group, arrays in ARRAYS.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(point.arrays[group][name], array)
    assert (point.arrays["ema"]["0.weight"] == 2.5).all()


def test_run_folder_checkpoint_and_manifest_all_name_a_checkpoint(tmp_path):
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    for given in (tmp_path, tmp_path / "checkpoints", path, path / "manifest.json", path / "parameters.params"):
        assert ckpt.find_checkpoint(given) == path


def test_the_last_written_checkpoint_is_taken_also_when_its_epoch_is_not_the_highest(tmp_path):
    for epoch in (1, 2, 3, 2):  # the run was resumed from epoch 1 again
        write(tmp_path, epoch, value=epoch)
    assert ckpt.find_checkpoint(tmp_path).name == "epoch-0002"


def test_older_checkpoints_are_removed_and_one_of_the_same_epoch_is_replaced(tmp_path):
    for epoch in (1, 2, 3, 3):
        write(tmp_path, epoch, value=epoch, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["epoch-0002", "epoch-0003"]


@pytest.mark.parametrize("step", ["write_params", "json", "rename"])
def test_a_crash_while_writing_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, step):
    before = write(tmp_path, 1, value=1.0)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "write_params":
            patch.setattr(ckpt, "write_params", crash)
        elif step == "json":
            patch.setattr(ckpt.json, "dumps", crash)
        else:
            patch.setattr(ckpt.Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 2)
    assert ckpt.find_checkpoint(tmp_path) == before
    assert (ckpt.read_checkpoint(tmp_path).arrays["ema"]["0.weight"] == 1.0).all()
    write(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["epoch-0001", "epoch-0002"]


def test_a_crash_while_replacing_the_only_checkpoint_leaves_the_old_one(tmp_path, monkeypatch):
    write(tmp_path, 1, value=1.0)
    rename, calls = ckpt.Path.rename, []

    def second_fails(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(ckpt.Path, "rename", second_fails)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 1, value=2.0)
    assert (ckpt.read_checkpoint(tmp_path).arrays["ema"]["0.weight"] == 1.0).all()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("file", ["parameters.params", "optimizer.params", "ema.params"])
def test_a_damaged_file_is_named_with_the_checkpoint_to_use_instead(tmp_path, file, damage):
    older = write(tmp_path, 1)
    path = write(tmp_path, 2) / file
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-20] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with pytest.raises(WeightsError) as caught:
        ckpt.read_checkpoint(tmp_path)
    assert str(path) in str(caught.value) and f"Resume from {older} instead" in str(caught.value)
    ckpt.read_checkpoint(older)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', None])
def test_a_damaged_manifest_is_an_error_that_says_what_to_do(tmp_path, text):
    path = write(tmp_path, 1) / "manifest.json"
    changed = path.read_text().replace('"epoch": 1', '"epoch": 7')
    path.write_text(changed if text is None else text)
    with pytest.raises(TrainingError, match=r"manifest.json is damaged.*start the run again"):
        ckpt.read_checkpoint(tmp_path)


def test_a_checkpoint_of_a_later_format_is_refused(tmp_path):
    path = write(tmp_path, 1) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(TrainingError, match="format 99"):
        ckpt.read_checkpoint(tmp_path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no such folder"):
        ckpt.find_checkpoint(tmp_path / "nothing")
    with pytest.raises(TrainingError, match="no complete checkpoint"):
        ckpt.find_checkpoint(tmp_path)
    weights = tmp_path / "best.params"
    weights.write_bytes(b"")
    with pytest.raises(TrainingError, match="weights alone"):
        ckpt.find_checkpoint(weights)


def test_parameters_of_another_net_are_refused_and_nothing_is_changed():
    net = mx.gluon.nn.Dense(2, in_units=3)
    net.initialize()
    parameters = net._collect_params_with_prefix()
    before = net.weight.data().asnumpy()
    good = {"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    for bad in ({"weight": good["weight"]}, {**good, "more": good["bias"]}, {**good, "bias": np.zeros(3, np.float32)}):
        with pytest.raises(WeightsError, match="another network"):
            ckpt.restore_parameters(parameters, bad, "here")
    np.testing.assert_array_equal(net.weight.data().asnumpy(), before)
    ckpt.restore_parameters(parameters, good, "here")
    assert not net.weight.data().asnumpy().any()


def trained(steps, optimizer, dtype="float32", devices=1, **options):
    """Two parameters after some steps of an optimizer, and its trainer."""
    parameters = [mx.gluon.Parameter(name, shape=(2, 3), dtype=dtype) for name in "wb"]
    for parameter in parameters:
        parameter.initialize(mx.init.One(), ctx=[mx.cpu(i) for i in range(devices)])
    options = {"learning_rate": 0.1, "multi_precision": True, **options}
    trainer = mx.gluon.Trainer(parameters, optimizer, options, update_on_kvstore=False)
    step(parameters, trainer, steps)
    return parameters, trainer


def step(parameters, trainer, steps):
    w, b = parameters
    for _ in range(steps):
        with mx.autograd.record():
            losses = [((w.data(c) - 0.3 * b.data(c)) ** 2).sum() for c in w.list_ctx()]
        mx.autograd.backward(losses)
        trainer.step(4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("optimizer", "options", "leaves"), [("sgd", {}, 0), ("sgd", {"momentum": 0.9}, 1), ("adam", {}, 2)]
)
def test_an_optimizer_goes_on_as_if_it_had_not_stopped(optimizer, options, leaves, dtype):
    parameters, trainer = trained(3, optimizer, dtype, devices=2, **options)
    arrays, counts = ckpt.optimizer_arrays(trainer, ["w", "b"])
    counts = json.loads(json.dumps(counts))
    assert counts == {"num_update": 3, "updates": {"w": 3, "b": 3}}
    assert len(arrays) == 2 * (leaves + (dtype == "float16"))  # half precision has a float32 master

    others, resumed = trained(0, optimizer, dtype, devices=2, **options)
    for target, source in zip(others, parameters):
        target.set_data(source.list_data()[0])
    ckpt.restore_optimizer(resumed, ["w", "b"], arrays, counts, "here")
    step(parameters, trainer, 2)
    step(others, resumed, 2)
    for one, other in zip(parameters, others):
        for a, b in zip(one.list_data(), other.list_data()):
            np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_the_state_of_another_optimizer_is_refused():
    arrays, counts = ckpt.optimizer_arrays(trained(1, "adam")[1], ["w", "b"])
    with pytest.raises(TrainingError, match="--optimizer"):
        ckpt.restore_optimizer(trained(0, "sgd")[1], ["w", "b"], arrays, counts, "here")
    arrays, counts = ckpt.optimizer_arrays(trained(1, "sgd")[1], ["w", "b"])
    with pytest.raises(TrainingError, match="--optimizer"):
        ckpt.restore_optimizer(trained(0, "adam")[1], ["w", "b"], arrays, counts, "here")


def test_random_generators_go_on_where_they_were():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    draw = np.random.standard_normal
    draw()  # leaves half of a pair of numbers behind
    state = json.loads(json.dumps(ckpt.random_state()))
    expected = random.random(), draw(3).tolist()
    ckpt.restore_random_state(state)
    assert (random.random(), draw(3).tolist()) == expected
