"""The training loop that ``train/*.py`` share.

``make_batches(epoch)`` -> batch -> a slice per device -> ``prepare`` -> ``loss_fn`` -> gradients summed over devices,
batches (``--accumulate``) and machines -> clipped -> optimizer -> moving average. Each epoch ends with validation, a
checkpoint and the curves.

**Scale.** Each part of the loss is a mean over the samples of its slice. The engine weights slices by their number of
samples, so the gradient of an update is that of the mean over all samples in it, however they are spread over devices,
machines and accumulated batches. (A loss normalised by something else, such as the anchors matched in its slice, and
BatchNorm with live statistics see slices instead of batches: results then differ with the number of devices.)

**Updates** always happen on the workers (``update_on_kvstore=False``), also with ``dist_sync``, whose servers then only
add up the gradients: so clipping sees the whole gradient and the optimizer's state can be saved.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._compat import mx
from .errors import InputError, MissingDependencyError, TrainingError
from .model_zoo.store import sha256_file, write_params
from .training import checkpoint as ckpt
from .training.config import TrainConfig, add_training_arguments, config_from_args, ema_decay_at, learning_rate_at
from .training.devices import (
    contexts_from_gpus,
    copy_to,
    create_kvstore,
    forget_graphs,
    freeze_batch_norm,
    mixed_precision,
    seed_everything,
)
from .training.log import RunningMeans, TrainLog, draw_curves, progress_bar, read_log, write_json
from .training.observers import Observer
from .training.signals import StopSignals, TrainingInterrupted

__all__ = [
    "Batch",
    "Engine",
    "FitResult",
    "TrainConfig",
    "TrainingInterrupted",
    "add_training_arguments",
    "config_from_args",
    "contexts_from_gpus",
    "freeze_batch_norm",
    "learning_rate_at",
    "seed_everything",
]

_logger = logging.getLogger(__name__)

# Settings that may change between two parts of a run without changing its result.
_FREE_TO_CHANGE = {"resume", "start_epoch", "num_workers", "log_interval", "max_minutes"}
_FREE_TO_CHANGE |= {"save_prefix", "save_interval", "keep_checkpoints"}
# Keys in the kvstore beside the trainer's own, which are 0, 1, 2, ... for its parameters.
_REPORT_KEY, _VOTE_KEY, _OBSERVER_KEY = 1_000_000, 1_000_001, 2_000_000
_SECONDS_BETWEEN_CURVES = 60


@dataclass(frozen=True)
class Batch:
    """A batch whose samples have names; ``make_batches`` may give plain tuples of arrays instead.

    Attributes
    ----------
    arrays : tuple of ndarray or NDArray
        First axis: the B samples.
    ids : sequence of str
        What to call the samples in an error.
    """

    arrays: tuple
    ids: Sequence[str] = ()


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes
    ----------
    epoch, iteration : int
        Epochs and updates done since the start of the run.
    best_value : float or None
        Best validation value so far.
    finished : bool
        False when ``max_minutes`` stopped it before its last epoch.
    """

    epoch: int
    iteration: int
    best_value: float | None
    finished: bool


class Engine:
    """Trains a net.

    Parameters
    ----------
    net : mxnet.gluon.Block
        Initialised, with known shapes. Where it has a ``network`` (raw predictions), the parameters of ``net.network``
        are trained, else its own; all of ``net`` is saved.
    loss_fn : callable
        ``loss_fn(net, *arrays) -> dict`` of named parts, each an NDArray of shape (1,), the mean over the samples of
        the slice, or (B,), one value per sample. The loss is their sum. It is called inside ``autograd.record``.
    config : TrainConfig
    contexts : list of mxnet.Context, optional
        Devices; by default those of ``config.gpus``.
    prepare : callable, optional
        ``prepare(arrays, ctx) -> tuple of NDArray`` brings one slice of a batch to a device, and may normalise its
        images there. By default each array is copied as it is.
    evaluate : callable, optional
        ``evaluate(net) -> dict of float``. The net holds the averaged weights meanwhile if the run keeps an average.
    best_key : str, optional
        The validation value that chooses ``best.params``.
    best_mode : {"max", "min"}
        Whether more or less of it is better.
    trained_loss : mxnet.gluon.Block, optional
        A block that ``loss_fn`` uses and whose parameters are trained and saved in checkpoints with the net's, such as
        `gluonface.loss.UncertaintyWeights`.
    watched : sequence of str
        Parts that ``loss_fn`` gives which are logged and shown to observers, but not part of the loss.
    observers : mapping of str to Observer
        See :class:`gluonface.training.observers.Observer`; the names are those of their state in checkpoints.

    Attributes
    ----------
    rank, num_workers : int
        Which of how many machines (``--kvstore dist_sync``) this is. ``make_batches`` gives each its own share of the
        samples, in as many and as large batches. Only worker 0 validates and writes. A loss that is not finite and a
        signal stop all of them; a worker that fails otherwise in the middle of an epoch leaves the others waiting,
        until their launcher ends them.
    epoch, iteration : int
        Epochs and updates done.

    Raises
    ------
    TrainingError, WeightsError
        When the settings cannot work here, or the checkpoint to resume from is damaged or of another net.

    Notes
    -----
    Written to ``config.save_prefix``: ``checkpoints/``, ``best.params`` (and ``best.json``: epoch, values and SHA-256),
    ``last.params`` (the newest weights, averaged where an average is kept), ``config.json``, ``log.jsonl`` and
    ``curves.png``.
    """

    def __init__(
        self,
        net: mx.gluon.Block,
        loss_fn: Callable[..., dict[str, mx.nd.NDArray]],
        config: TrainConfig,
        *,
        contexts: list[mx.Context] | None = None,
        prepare: Callable[[tuple, mx.Context], tuple] | None = None,
        evaluate: Callable[[mx.gluon.Block], dict[str, float]] | None = None,
        best_key: str | None = None,
        best_mode: str = "max",
        trained_loss: mx.gluon.Block | None = None,
        watched: Sequence[str] = (),
        observers: Mapping[str, Observer] | None = None,
    ):
        self.net, self.loss_fn, self.config = net, loss_fn, config
        self.contexts = contexts_from_gpus(config.gpus) if contexts is None else list(contexts)
        self.prepare = prepare or copy_to
        self.evaluate, self.best_key, self.best_mode = evaluate, best_key, best_mode
        self.trained_loss, self.watched, self.observers = trained_loss, tuple(watched), dict(observers or {})
        self.out = Path(config.save_prefix)
        self.epoch, self.iteration = config.start_epoch, 0
        self.best_value: float | None = None
        # Validations since the best one, since the warm-up, or since the learning rate fell; how often it fell
        # (--lr-mode plateau).
        self._waited, self._standstills = 0, 0
        self._part_names: list[str] = []
        self._shared_keys: set[int] = set()
        self._signals = StopSignals()
        self._drawn = -math.inf

        if best_mode not in ("max", "min"):
            raise InputError(f"best_mode: expected 'max' or 'min', got {best_mode!r}")
        if config.lr_mode == "plateau" and not (evaluate and best_key):
            raise TrainingError("--lr-mode plateau: expected a run that is validated (--val): the rate goes by that")
        self._amp = mixed_precision(self.contexts) if config.amp else None
        self._kvstore = create_kvstore(config.kvstore, self.contexts)
        self.rank = self._kvstore.rank if self._kvstore else 0
        self.num_workers = self._kvstore.num_workers if self._kvstore else 1
        self._collect_parameters()
        self._trainer = self._create_trainer()
        # Constants stay as they are, so they need no average.
        self._ema = {
            name: parameter.list_data()[0].copy()
            for name, parameter in self._trained.items()
            if config.ema_decay and name not in self._loss_parameters and not isinstance(parameter, mx.gluon.Constant)
        }
        self._on_all_workers(self._resume if config.resume else self._check_folder)

    # ---- setting up -------------------------------------------------------------------------------------------------

    def _collect_parameters(self) -> None:
        # Names by structure, as net.save_parameters writes them: those of parameter.name differ between processes.
        self._parameters = self.net._collect_params_with_prefix()
        for name, parameter in self._parameters.items():
            try:
                parameter.data(parameter.list_ctx()[0])
            except RuntimeError as error:  # also MXNet's error for shapes that are not known yet
                raise TrainingError(
                    f"parameter {name} is not initialised: initialize the net and run it on one image before training"
                ) from error
            if parameter.list_ctx() != self.contexts:
                parameter.reset_ctx(self.contexts)
        for parameter in self.net.collect_params().values():
            # A decoder's constants are not saved, but validation needs them where the net is.
            if parameter._data is not None and parameter.list_ctx() != self.contexts:
                parameter.reset_ctx(self.contexts)
        if self.config.frozen_bn:
            freeze_batch_norm(self.net)
        inside = {id(p) for p in getattr(self.net, "network", self.net).collect_params().values()}
        self._trained = {}
        for name, parameter in self._parameters.items():
            if id(parameter) in inside:
                inside.remove(id(parameter))  # one that two blocks share is trained once, under its first name
                self._trained[name] = parameter
                if parameter.grad_req != "null":
                    parameter.grad_req = "add" if self.config.accumulate > 1 else "write"
                if self.config.no_wd and name.rsplit(".", 1)[-1] in ("bias", "beta", "gamma", "alpha"):
                    parameter.wd_mult = 0.0
        self._loss_parameters = {}
        if self.trained_loss is not None:
            own = self.trained_loss._collect_params_with_prefix()
            self._loss_parameters = {f"loss.{name}": parameter for name, parameter in own.items()}
            for parameter in own.values():
                if parameter._data is None:
                    parameter.initialize(ctx=self.contexts)
                elif parameter.list_ctx() != self.contexts:
                    parameter.reset_ctx(self.contexts)
                if parameter.grad_req != "null":
                    parameter.grad_req = "add" if self.config.accumulate > 1 else "write"
            self._trained.update(self._loss_parameters)

    def _create_trainer(self) -> mx.gluon.Trainer:
        config = self.config
        options = {"learning_rate": config.lr, "wd": config.wd, "multi_precision": True}
        if config.optimizer == "sgd":
            options["momentum"] = config.momentum
        parameters = list(self._trained.values())
        trainer = mx.gluon.Trainer(parameters, config.optimizer, options, self._kvstore, update_on_kvstore=False)
        if self._amp:
            self._amp.init()
            forget_graphs(self.net)
            self._amp.init_trainer(trainer)
        if self._kvstore:
            # Every worker gets the first one's weights. Sent, and waited for, here: left to the first update, a server
            # may answer with the sum of the gradients, which is what it keeps under the same key from then on.
            trainer._init_kvstore()
            trainer._init_params()
            mx.nd.waitall()
        return trainer

    def _check_folder(self) -> None:
        if self.rank == 0 and any(self.out.glob("checkpoints/epoch-*")):
            raise TrainingError(
                f"{self.out} already holds a run: continue it with --resume {self.out}, or choose another --save-prefix"
            )

    def _resume(self) -> None:
        config = self.config
        point = ckpt.read_checkpoint(config.resume)
        state, source = point.state, point.path
        if config.start_epoch not in (0, state["epoch"]):
            _logger.warning("--start-epoch %d ignored: %s goes on at %d", config.start_epoch, source, state["epoch"])
        before, now = state["config"], json.loads(json.dumps(asdict(config)))
        for name, old, new in _changes(before, now):
            _logger.warning("resuming with --%s %r, it was %r", name.replace("_", "-"), new, old)
        average = point.arrays.get("ema", {})
        if average.keys() != self._ema.keys():
            had = f"an --ema-decay of {before['ema_decay']:g}" if average else "no --ema-decay"
            raise TrainingError(f"{source}: that run had {had}: resume with the same, and the same network")
        ckpt.restore_parameters(self._parameters, point.arrays["parameters"], source)
        ckpt.restore_parameters(self._loss_parameters, point.arrays.get("loss", {}), source)
        for name, value in average.items():
            self._ema[name][:] = mx.nd.array(value, ctx=self.contexts[0], dtype=value.dtype)
        names = list(self._trained)
        ckpt.restore_optimizer(self._trainer, names, point.arrays["optimizer"], state["optimizer"], source)
        if self._amp and state["loss_scale"]:
            vars(self._trainer._amp_loss_scaler).update(state["loss_scale"])
        ckpt.restore_random_state(state["random"])
        for name, observer in self.observers.items():
            if name not in state.get("observers", {}):
                raise TrainingError(f"{source}: that run had no {name}: resume with the options it had")
            observer.load_state_dict(state["observers"][name])
        self.epoch, self.iteration = state["epoch"], state["iteration"]
        # In another folder than the run's own the best weights begin anew.
        self.best_value = state["best_value"] if (self.out / "best.params").exists() else None
        self._waited, self._standstills = state.get("plateau", (0, 0))
        _logger.info("resumed from %s: %d of %d epochs done", source, self.epoch, config.epochs)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def fit(self, make_batches: Callable[[int], Iterable]) -> FitResult:
        """Train up to ``config.epochs``.

        Parameters
        ----------
        make_batches : callable
            ``make_batches(epoch)`` -> iterable of tuples of arrays, or of :class:`Batch`; first axis: the samples. An
            epoch must always give the same batches if a resumed run is to continue exactly. With a length, the learning
            rate moves with every update; without one, with every epoch.

        Raises
        ------
        TrainingError
            When a loss is not finite (names epoch, batch and part) or a batch cannot be used.
        TrainingInterrupted
            After SIGINT or SIGTERM, at the end of the iteration.
        """
        config, started, longest = self.config, time.monotonic(), 0.0
        if self.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(self.out / "config.json", asdict(config))
            self._log = TrainLog(self.out / "log.jsonl", first_epoch=self.epoch)
        if self.epoch >= config.epochs:
            _logger.warning("nothing to train: %d epochs are done and --epochs is %d", self.epoch, config.epochs)
        with self._signals:
            while self.epoch < config.epochs:
                began = time.monotonic()
                summary = self._run_epoch(make_batches)
                self._average_statistics()
                self.epoch += 1
                self._show_epoch()
                self._on_all_workers(self._finish_epoch, summary, began)
                if config.lr_mode == "plateau":  # only the first worker validates
                    own = self._standstills if self.rank == 0 else 0
                    self._standstills = int(self.sum_over_workers(np.array([own]))[0])
                if self._any_worker(bool(self._signals.received)):
                    self._interrupt()
                longest = max(longest, time.monotonic() - began)
                elapsed = time.monotonic() - started
                late = bool(config.max_minutes) and elapsed + longest > config.max_minutes * 60
                if self._any_worker(late) and self.epoch < config.epochs:
                    text = "stopped after epoch %d: another would exceed --max-minutes %g. Continue with --resume %s"
                    _logger.info(text, self.epoch - 1, config.max_minutes, self.out)
                    if self.rank == 0:
                        self._draw()
                    break
        return FitResult(self.epoch, self.iteration, self.best_value, finished=self.epoch >= config.epochs)

    def _run_epoch(self, make_batches: Callable[[int], Iterable]) -> dict[str, Any]:
        """Train one epoch. Returns its last learning rate, mean losses and speed."""
        config, epoch = self.config, self.epoch
        # MXNet's generators can be seeded but not read, so that each epoch starts from a seed of its own.
        seed = np.random.SeedSequence([config.seed, epoch, self.rank]).generate_state(1)[0]
        mx.random.seed(int(seed & 0x7FFFFFFF))
        batches = make_batches(epoch)
        length = len(batches) if hasattr(batches, "__len__") else None
        per_epoch = math.ceil(length / config.accumulate) if length else None
        bar = progress_bar(batches, length, f"epoch {epoch}/{config.epochs}", enabled=self.rank == 0)
        whole, interval = RunningMeans(), RunningMeans()
        pending, samples, updates, number = None, 0, 0, -1
        try:
            for number, batch in enumerate(bar):
                place = (epoch * per_epoch + updates, per_epoch) if per_epoch else (epoch, 1)
                rate = learning_rate_at(config, *place, self._standstills)
                arrays, ids = (batch.arrays, batch.ids) if isinstance(batch, Batch) else (batch, ())
                reports = self._forward_backward(arrays)
                samples += len(arrays[0])
                if (number + 1) % config.accumulate == 0 or number + 1 == length:
                    self._update(rate, samples)
                    samples, updates = 0, updates + 1
                if pending:
                    # The batch before this one is looked at only now, so that the device always has work.
                    self._account(*pending, whole, interval)
                pending = (number, ids, reports)
                if self._signals.received and self.num_workers == 1:
                    self._interrupt()
                if (number + 1) % config.log_interval == 0 and interval.samples:
                    position = epoch + (number + 1) / length if length else float(epoch)
                    self._log_interval(interval, position, rate, bar)
                    interval = RunningMeans()
            if number < 0:
                raise TrainingError(f"make_batches({epoch}) gave no batch: expected at least one")
            if samples:  # the length was not known, and the last batches to accumulate are too few
                self._update(rate, samples)
            self._account(*pending, whole, interval)
        finally:
            bar.close()
            if hasattr(batches, "close"):
                batches.close()
        means = whole.means(self._part_names)
        losses = {name: value for name, value in means.items() if name not in self.watched}
        watched = {name: means[name] for name in self.watched}
        return {"lr": rate, "losses": losses, "watched": watched, "images_per_s": whole.rate()}

    def _forward_backward(self, arrays: tuple) -> list[mx.nd.NDArray]:
        """Add up the gradient of one batch, summed over its samples; a report per device for :meth:`_account`."""
        lengths, devices = {len(array) for array in arrays}, len(self.contexts)
        if len(lengths) != 1 or min(lengths) < devices:
            raise TrainingError(
                f"epoch {self.epoch}: a batch has arrays of {sorted(lengths)} samples; expected one number for all of "
                f"them, at least one sample for each of {devices} devices (leave out a last batch that is too small)"
            )
        cuts = [len(arrays[0]) * i // devices for i in range(devices + 1)]
        inputs = [
            self.prepare(tuple(array[start:end] for array in arrays), ctx)
            for start, end, ctx in zip(cuts, cuts[1:], self.contexts)
        ]
        losses, reports = [], []
        with mx.autograd.record():
            for share, start, end in zip(inputs, cuts, cuts[1:]):
                parts = self.loss_fn(self.net, *share)
                if self._part_names and list(parts) != self._part_names:
                    raise TrainingError(f"loss_fn gave the parts {list(parts)}; before, it gave {self._part_names}")
                if not set(self.watched) < set(parts):
                    raise TrainingError(
                        f"loss_fn gave the parts {list(parts)}; expected {list(self.watched)}, which are watched, "
                        "among them, and at least one that is not"
                    )
                self._part_names = list(parts)
                sums = {name: _mean(part, name, end - start) * (end - start) for name, part in parts.items()}
                losses.append(mx.nd.add_n(*(part for name, part in sums.items() if name not in self.watched)))
                reports.append([s.detach() for s in sums.values()])
            if self._amp:
                with self._amp.scale_loss(losses, self._trainer) as scaled:
                    mx.autograd.backward(scaled)
            else:
                mx.autograd.backward(losses)
        signals = [self._signals.received] + [0] * (devices - 1)
        return [
            mx.nd.concat(*sums, mx.nd.array([end - start, stop], ctx=ctx), dim=0)
            for sums, start, end, stop, ctx in zip(reports, cuts, cuts[1:], signals, self.contexts)
        ]

    def _update(self, rate: float, samples: int) -> None:
        """Update the weights from the gradients of ``samples`` samples of this worker."""
        trainer, config = self._trainer, self.config
        samples *= self.num_workers
        trained = [p for p in self._trained.values() if p.grad_req != "null"]
        trainer.set_learning_rate(rate)
        trainer.allreduce_grads()
        if config.clip_norm:
            # The gradients are sums over the samples (and scaled up in mixed precision), the limit is for their mean.
            limit = config.clip_norm * samples / trainer._scale
            for gradients in zip(*[p.list_grad() for p in trained]):  # of one device
                norm = mx.nd.multi_sum_sq(*gradients, num_arrays=len(gradients)).sum().sqrt()
                scale = mx.nd.minimum(limit / norm, 1)
                for gradient in gradients:
                    gradient *= scale
        try:
            trainer.update(samples)
        except UserWarning as error:  # raised, not warned, by MXNet
            reason = str(error).split(". ")[0]
            raise TrainingError(
                f"{reason}. The loss must use every trained parameter: set grad_req = 'null' on those it does not use"
            ) from error
        if config.accumulate > 1:
            for parameter in trained:
                parameter.zero_grad()
        new = 1 - ema_decay_at(config, self.iteration)
        for name, average in self._ema.items():
            # average - new * (average - weight), in one operator where the formula would take three.
            weight = self._trained[name].list_data()[0]
            mx.nd.sgd_update(average, weight, lr=new, wd=1.0, rescale_grad=-1.0, out=average)
        self.iteration += 1

    def _account(
        self,
        number: int,
        ids: Sequence[str],
        reports: list[mx.nd.NDArray],
        whole: RunningMeans,
        interval: RunningMeans,
    ) -> None:
        """Read the reports of a batch (sums of the parts, number of samples, signal) and stop if need be."""
        own = sum(report.asnumpy().astype(np.float64) for report in reports)
        # Every worker sees the same sums, so that all of them stop at the same batch: one alone would wait for ever.
        *sums, samples, stop = own if self.num_workers == 1 else self._sum_over_workers(_REPORT_KEY, own)
        if not np.isfinite(sums).all():
            raise self._not_finite(number, ids, np.asarray(sums) / samples, here=not np.isfinite(own).all())
        if stop and self.num_workers > 1:
            self._interrupt()
        for means in (whole, interval):
            means.add(np.asarray(sums), samples)
        for observer in self.observers.values():
            observer.after_batch(self.epoch, number, dict(zip(self._part_names, np.asarray(sums) / samples)))

    def _not_finite(self, number: int, ids: Sequence[str], means: np.ndarray, here: bool) -> TrainingError:
        parts = dict(zip(self._part_names, means))
        bad = ", ".join(name for name, value in parts.items() if not math.isfinite(value))
        values = ", ".join(f"{name} {value:g}" for name, value in parts.items())
        which = (f" ({', '.join(map(str, ids))})" if len(ids) else "") if here else " of another worker"
        return TrainingError(
            f"epoch {self.epoch}, batch {number}{which}: the loss part {bad} is not finite: {values}. Nothing of this "
            "epoch was saved. Look at the labels of this batch; then lower --lr, lengthen --warmup-epochs or set "
            f"--clip-norm, and continue with --resume {self.out}"
        )

    # ---- several devices and machines -------------------------------------------------------------------------------

    def sum_over_workers(self, values: np.ndarray) -> np.ndarray:
        """The sum of every worker's numbers, of one shape for all; all of them wait here for each other."""
        if self.num_workers == 1:
            return np.asarray(values, np.float64)
        # A key for each number of values: what the servers keep under one has one shape.
        return self._sum_over_workers(_OBSERVER_KEY + np.size(values), np.ravel(values)).reshape(np.shape(values))

    def _sum_over_workers(self, key: int, values: np.ndarray) -> np.ndarray:
        array = mx.nd.array(values, ctx=self.contexts[0])
        if key not in self._shared_keys:
            self._kvstore.init(key, array.zeros_like())
            self._shared_keys.add(key)
        self._kvstore.pushpull(key, array)
        return array.asnumpy().astype(np.float64)

    def _any_worker(self, wish: bool) -> bool:
        """Whether any worker has this wish; all of them wait here for each other."""
        return wish if self.num_workers == 1 else bool(self._sum_over_workers(_VOTE_KEY, np.array([wish]))[0] > 0)

    def _on_all_workers(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something on every worker and fail on all of them if it fails on one; they wait here for each other."""
        error = None
        try:
            work(*arguments)
        except Exception as caught:
            if self.num_workers == 1:
                raise
            error = caught
        if self._any_worker(error is not None):
            raise error or TrainingError("another worker failed: see what it wrote")

    def _average_statistics(self) -> None:
        """Give every device and machine the mean of the BatchNorm statistics that each of them gathered."""
        if self._kvstore is None or self.config.frozen_bn:
            return
        for index, parameter in enumerate(self._trained.values()):
            if parameter.grad_req == "null" and not isinstance(parameter, mx.gluon.Constant):
                self._kvstore.pushpull(index, parameter.list_data())
                for data in parameter.list_data():
                    data /= len(self.contexts) * self.num_workers

    # ---- the end of an epoch ----------------------------------------------------------------------------------------

    def _show_epoch(self) -> None:
        """Have the observers look at the epoch that just ended."""
        if not self.observers:
            return
        try:
            with self.averaged_weights():
                for observer in self.observers.values():
                    observer.after_epoch(self)
        except Exception:
            if self.rank == 0:
                self._save()  # hours of training should not be lost to a slip in what looks on
                _logger.error("an observer failed; epoch %d is saved, go on with --resume %s", self.epoch - 1, self.out)
            raise

    def _finish_epoch(self, summary: dict[str, Any], began: float) -> None:
        """Validate, save, log and draw, on the first worker; ``self.epoch`` counts the epoch that just ended."""
        if self.rank != 0:
            return
        config, last, validation = self.config, self.epoch >= self.config.epochs, None
        if self.evaluate and (last or self.epoch % config.val_interval == 0):
            try:
                with self.averaged_weights():
                    validation = {name: float(value) for name, value in self.evaluate(self.net).items()}
                    better = self._keep_best(validation)
                # The rate falls from where the warm-up ends: no epoch of it alone can have stood still.
                if self.epoch > config.warmup_epochs:
                    self._count_standstills(better)
            except Exception:
                self._save()  # hours of training should not be lost to a slip in the validation
                _logger.error("validation failed; epoch %d is saved, go on with --resume %s", self.epoch - 1, self.out)
                raise
        if last or self.epoch % config.save_interval == 0:
            self._save()
        losses, seconds = summary["losses"], time.monotonic() - began
        self._log.write(
            kind="epoch", epoch=self.epoch - 1, iteration=self.iteration, lr=summary["lr"], loss=sum(losses.values()),
            losses=losses, watched=summary["watched"], observed=self._observed(), validation=validation,
            best=self.best_value, images_per_s=summary["images_per_s"], seconds=seconds,
        )  # fmt: skip
        every = {**losses, **summary["watched"], **self._observed(), **(validation or {})}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in every.items())
        _logger.info("epoch %d: %s (%.0f s)", self.epoch - 1, shown, seconds)
        if last or time.monotonic() - self._drawn > _SECONDS_BETWEEN_CURVES:
            self._draw()

    def _draw(self) -> None:
        try:
            draw_curves(read_log(self._log.path), self.out / "curves.png")
        except MissingDependencyError as error:
            _logger.info("no curves: %s", error)
        self._drawn = time.monotonic()

    def _keep_best(self, validation: dict[str, float]) -> bool:
        """Keep the weights if they are the best so far; whether they are."""
        if self.best_key is None:
            return False
        if self.best_key not in validation:
            given = ", ".join(sorted(validation)) or "nothing"
            raise TrainingError(f"best_key {self.best_key!r}: expected it among what evaluate gives, which is {given}")
        value, best = validation[self.best_key], self.best_value
        sign = 1 if self.best_mode == "max" else -1
        if math.isnan(value) or (best is not None and sign * value <= sign * best):
            return False
        self.best_value = value
        path = write_params(self.out / "best.params", self._arrays())
        facts = {"epoch": self.epoch - 1, "iteration": self.iteration, "validation": validation}
        write_json(self.out / "best.json", {**facts, "sha256": sha256_file(path)})
        return True

    def _count_standstills(self, better: bool) -> None:
        """Count another validation after the warm-up, for --lr-mode plateau."""
        self._waited = 0 if better else self._waited + 1
        if self._waited >= self.config.lr_patience:
            self._waited, self._standstills = 0, self._standstills + 1

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights, if the run keeps an average, into the net for the time of a ``with`` block."""
        own = {name: [data.copy() for data in self._trained[name].list_data()] for name in self._ema}
        try:
            for name, average in self._ema.items():
                for data in self._trained[name].list_data():
                    average.copyto(data)
            yield
        finally:
            for name, values in own.items():
                for value, data in zip(values, self._trained[name].list_data()):
                    value.copyto(data)

    def _arrays(self) -> dict[str, np.ndarray]:
        """What the net holds now, under the names of ``net.save_parameters``."""
        return {name: parameter.list_data()[0].asnumpy() for name, parameter in self._parameters.items()}

    def _save(self) -> None:
        arrays, counts = ckpt.optimizer_arrays(self._trainer, list(self._trained))
        groups = {"parameters": self._arrays(), "optimizer": arrays}
        if self._loss_parameters:
            groups["loss"] = {name: p.list_data()[0].asnumpy() for name, p in self._loss_parameters.items()}
        if self._ema:
            groups["ema"] = {name: average.asnumpy() for name, average in self._ema.items()}
        scaler = vars(self._trainer._amp_loss_scaler) if self._amp else {}
        state = {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "best_value": self.best_value,
            "plateau": [self._waited, self._standstills],
            "config": asdict(self.config),
            "optimizer": counts,
            "loss_scale": {name: scaler[name] for name in ("_loss_scale", "_next_loss_scale", "_unskipped") if scaler},
            "random": ckpt.random_state(),
            "observers": {name: observer.state_dict() for name, observer in self.observers.items()},
        }
        ckpt.write_checkpoint(self.out / "checkpoints", self.epoch, groups, state, self.config.keep_checkpoints)
        with self.averaged_weights():
            write_params(self.out / "last.params", self._arrays())

    # ---- log and signals --------------------------------------------------------------------------------------------

    def _log_interval(self, interval: RunningMeans, position: float, rate: float, bar: Any) -> None:
        if self.rank != 0:
            return
        means, speed = interval.means(self._part_names), interval.rate()
        losses = {name: value for name, value in means.items() if name not in self.watched}
        watched = {name: means[name] for name in self.watched}
        loss = sum(losses.values())
        self._log.write(
            kind="train", epoch=self.epoch, iteration=self.iteration, position=position, lr=rate, loss=loss,
            losses=losses, watched=watched, observed=self._observed(), images_per_s=speed,
        )  # fmt: skip
        bar.set_postfix_str(f"loss {loss:.4g}, lr {rate:.2g}")
        if bar.disable:
            every = {**losses, **watched, **self._observed()}
            text = ", ".join(f"{name} {value:.4g}" for name, value in every.items())
            _logger.info("epoch %.2f: %s, lr %.3g, %.1f images/s", position, text, rate, speed)

    def _observed(self) -> dict[str, float]:
        return {name: value for observer in self.observers.values() for name, value in observer.report().items()}

    def _interrupt(self) -> None:
        saved = any(self.out.glob("checkpoints/epoch-*"))
        _logger.error(
            "stopped by a signal, %d epochs done; the epoch in progress is not kept. %s",
            self.epoch,
            f"Continue with --resume {self.out}" if saved else "There is no checkpoint yet: start again.",
        )
        raise TrainingInterrupted(128 + (self._signals.received or 15))


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What two parts of a run have otherwise that can change its result: name, value before, value now."""
    names = sorted((now.keys() | before.keys()) - _FREE_TO_CHANGE - {"flags"})
    changes = [(name, before.get(name), now.get(name)) for name in names]
    # Of the script's own flags those that both know: a run of an earlier version has none, or not all.
    old, new = before.get("flags", {}), now["flags"]
    changes += [(name, old[name], new[name]) for name in sorted(old.keys() & new.keys())]
    return [change for change in changes if change[1] != change[2]]


def _mean(part: mx.nd.NDArray, name: str, samples: int) -> mx.nd.NDArray:
    if not isinstance(part, mx.nd.NDArray) or part.shape not in ((1,), (samples,)):
        got = part.shape if isinstance(part, mx.nd.NDArray) else type(part).__name__
        raise TrainingError(f"loss part {name!r}: expected an NDArray of shape (1,) or ({samples},), got {got}")
    return part.astype("float32", copy=False).mean().reshape((1,))
