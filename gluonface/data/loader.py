"""`BatchLoader`: an epoch of batches, made by worker processes or threads, the same whatever their number.

samples.sample(item, epoch) -> (image, labels) -> encode(labels) -> stacked arrays. No MXNet here: workers need none.
What is drawn at random depends on (seed, epoch, item) alone.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import os
import queue
import signal
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import DataError, InputError, TrainingError
from .base import FaceLabels

__all__ = ["BatchLoader", "Samples"]

Encode = Callable[..., tuple[np.ndarray, ...]]


class Samples(Protocol):
    """What a loader draws from, for example `RetinaFaceSamples`. With worker processes it must be picklable."""

    def __len__(self) -> int:
        """Items in an epoch."""

    def sample(self, item: int, epoch: int) -> tuple[np.ndarray, FaceLabels]:
        """One item: an image (H, W, 3) uint8 of the same size for all items, and its labels.

        For `BatchLoader.epoch` with ``stitch`` it also takes ``stitched=True``: several photos on one image.
        """


class _Task(NamedTuple):
    epoch: int
    items: list[int]
    stitched: bool
    seed: int


class Epoch(Iterator):
    """The batches of an epoch, one after another; its length is how many there are in all."""

    def __init__(self, batches: Iterator[tuple[np.ndarray, ...]], count: int):
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        return self._count

    def __next__(self) -> tuple[np.ndarray, ...]:
        return next(self._batches)


class BatchLoader:
    """Batches of an epoch.

    Parameters
    ----------
    samples : Samples
    batch_size : int
        Images per batch of this process.
    seed : int
        Of the order of items, and of what `encode` draws.
    encode : callable, optional
        ``encode(labels)`` gives a tuple of arrays, of the same shapes for all images: training targets. It runs in the
        workers and must be picklable for worker processes (a function or an object of an importable module, no lambda).
        One with an argument ``rng`` is called ``encode(labels, rng=rng)``, with a numpy.random.Generator of its own for
        each (seed, epoch, item): other draws in each epoch, the same whatever the number of workers and after a resume.
    shuffle : bool
        A new order for each epoch, a function of (seed, epoch).
    drop_last : bool
        Leave out items that do not fill a batch.
    num_workers : int
        Workers making batches; 0: made in the calling thread, when asked for.
    worker_kind : "process" or "thread"
        Processes do not share Python's lock; each has its own image cache. They are started afresh (forkserver or
        spawn), because forking a process in which MXNet runs threads can hang, so a script must do its work under
        ``if __name__ == "__main__":``. Threads share one image cache and start at once. With either, OpenCV keeps to
        one thread a worker.
    prefetch : int
        Batches made ahead by each worker.
    part_index, num_parts : int
        This process's share when several machines or processes train together. All parts get the same number of
        batches, and batch b of all parts together is batch b of a single process with `num_parts` times the batch size.

    Examples
    --------
    >>> with BatchLoader(samples, 32, encode=targets, num_workers=2) as loader:
    ...     for epoch in range(80):
    ...         for images, cls_targets, box_targets in loader.epoch(epoch):
    ...             ...

    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        *,
        seed: int = 0,
        encode: Encode | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        num_workers: int = 0,
        worker_kind: str = "process",
        prefetch: int = 2,
        part_index: int = 0,
        num_parts: int = 1,
    ):
        if batch_size < 1 or num_workers < 0 or prefetch < 1 or seed < 0:
            raise InputError(
                "batch_size and prefetch must be at least 1, num_workers and seed at least 0; "
                f"got {batch_size}, {prefetch}, {num_workers} and {seed}"
            )
        if not 0 <= part_index < num_parts:
            raise InputError(f"part_index must be one of 0 .. num_parts - 1, got {part_index} of {num_parts}")
        if worker_kind not in ("process", "thread"):
            raise InputError(f'worker_kind must be "process" or "thread", got {worker_kind!r}')
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.part_index = part_index
        self.num_parts = num_parts
        if not len(self):
            raise InputError(
                f"{len(samples)} items do not fill one batch of {num_parts} x {batch_size}; "
                "take a smaller batch_size or drop_last=False"
            )
        if num_workers == 0:
            self._workers: _Workers = _NoWorkers(samples, encode)
        elif worker_kind == "thread":
            self._workers = _Threads(samples, encode, num_workers, prefetch)
        else:
            self._workers = _Processes(samples, encode, num_workers, prefetch)

    def __len__(self) -> int:
        """Batches per epoch."""
        if self.drop_last:
            return len(self.samples) // (self.batch_size * self.num_parts)
        return -(-len(range(self.part_index, len(self.samples), self.num_parts)) // self.batch_size)

    def order(self, epoch: int, extra_items: Sequence[int] = ()) -> np.ndarray:
        """(n,) int64: this part's items of an epoch in the order in which batches take them."""
        items = np.concatenate([np.arange(len(self.samples)), np.asarray(extra_items, np.int64)])
        if self.shuffle:
            # The last word keeps this stream apart from those of the items, [seed, epoch, item].
            items = np.random.default_rng([self.seed, epoch, 0, 1]).permutation(items)
        count = len(items) // (self.batch_size * self.num_parts)
        items = items[self.part_index :: self.num_parts]
        return items[: count * self.batch_size] if self.drop_last else items

    def epoch(
        self,
        epoch: int,
        start_batch: int = 0,
        *,
        extra_items: Sequence[int] = (),
        stitch: Callable[[], bool] | None = None,
    ) -> Epoch:
        """The batches of an epoch, an iterator with a length.

        Parameters
        ----------
        epoch : int
            From 0.
        start_batch : int
            Leave out the first ones: to resume within an epoch.
        extra_items : sequence of int
            Items beside those of every epoch, such as images that need to be seen more often.
        stitch : callable, optional
            Asked when a batch begins to be made, some batches before it comes out (``num_workers * prefetch``; none
            without workers): whether its items are to be stitched together from several photos each.

        Yields
        ------
        tuple of arrays
            Images (B, H, W, 3) uint8 RGB, then what `encode` gave, stacked along a new first axis; without `encode` the
            second entry is a list of B `FaceLabels`.

        Raises
        ------
        DataError
            When an item cannot be made; names the item and its image.
        TrainingError
            When a worker process died.
        """
        items = self.order(epoch, extra_items).tolist()
        starts = range(start_batch * self.batch_size, len(items), self.batch_size)
        tasks = (
            _Task(epoch, items[start : start + self.batch_size], stitch is not None and bool(stitch()), self.seed)
            for start in starts
        )
        return Epoch(self._workers.run(tasks, len(starts)), len(starts))

    def close(self) -> None:
        """End the workers; also done by ``with``, when the loader is collected and when Python ends."""
        self._workers.close()

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def make_batch(samples: Samples, encode: Encode | None, task: _Task) -> tuple[Any, ...]:
    """Make one batch; DataError naming the item when that fails."""
    images, targets = [], []
    options = {"stitched": True} if task.stitched else {}
    draws = encode is not None and _draws(encode)
    for item in task.items:
        # The last word keeps this stream apart from that of the view, [seed, epoch, item].
        drawn = {"rng": np.random.default_rng([task.seed, task.epoch, item, 3])} if draws else {}
        try:
            image, labels = samples.sample(item, task.epoch, **options)
            targets.append(labels if encode is None else tuple(encode(labels, **drawn)))
        except Exception as error:
            describe = getattr(samples, "describe", None)
            which = f" ({describe(item, task.epoch)})" if describe else ""
            raise DataError(f"item {item} of epoch {task.epoch}{which}: {type(error).__name__}: {error}") from error
        images.append(image)
    try:
        if encode is None:
            return np.stack(images), targets
        return np.stack(images), *(np.stack(column) for column in zip(*targets, strict=True))
    except ValueError as error:
        raise DataError(
            f"items {task.items} of epoch {task.epoch} do not make a batch: {error}; images must be of one size and "
            "encode must give arrays of the same shapes for every image"
        ) from error


def _draws(encode: Encode) -> bool:
    """Whether an encoder has an argument for a generator of random numbers."""
    try:
        return "rng" in inspect.signature(encode).parameters
    except ValueError:  # some builtins do not tell their arguments
        return False


class _Workers(Protocol):
    """Make so many batches; a task is drawn from the iterator only when work on it begins."""

    def run(self, tasks: Iterator[_Task], total: int) -> Iterator[tuple[Any, ...]]: ...

    def close(self) -> None: ...


class _NoWorkers:
    def __init__(self, samples: Samples, encode: Encode | None):
        self._samples, self._encode = samples, encode

    def run(self, tasks: Iterator[_Task], total: int) -> Iterator[tuple[Any, ...]]:
        for task in tasks:
            yield make_batch(self._samples, self._encode, task)

    def close(self) -> None:
        pass


class _Threads:
    def __init__(self, samples: Samples, encode: Encode | None, num_workers: int, prefetch: int):
        import cv2

        cv2.setNumThreads(0)
        self._samples, self._encode = samples, encode
        self._ahead = num_workers * prefetch
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="gluonface-data")

    def run(self, tasks: Iterator[_Task], total: int) -> Iterator[tuple[Any, ...]]:
        waiting: deque[Future] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(make_batch, self._samples, self._encode, task))
                if len(waiting) > self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Processes:
    """Workers that each make every num_workers-th batch and send it through a pipe of their own.

    Pipes rather than shared memory: containers often have 64 MB of it, and running out of it kills the process.
    """

    def __init__(self, samples: Samples, encode: Encode | None, num_workers: int, prefetch: int):
        if not hasattr(os, "readv"):
            raise InputError('worker processes need a Unix system; take worker_kind="thread"')
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(kind)
        self._prefetch = prefetch
        self._generation = 0
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _end_workers, self._workers)
        with _one_thread_each():
            for index in range(num_workers):
                self._workers.append(_Worker(context, index, samples, encode))

    def run(self, tasks: Iterator[_Task], total: int) -> Iterator[tuple[Any, ...]]:
        if not self._finalizer.alive:
            raise TrainingError("this BatchLoader is closed")
        self._generation += 1
        generation = self._generation
        count = len(self._workers)
        sent = 0
        for number in range(total):
            while sent < min(total, number + count * self._prefetch):
                self._workers[sent % count].send(generation, next(tasks))
                sent += 1
            yield self._workers[number % count].receive(generation)
            if generation != self._generation:
                raise TrainingError("this epoch cannot go on: another one was begun with the same BatchLoader")

    def close(self) -> None:
        self._finalizer()


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, context: Any, index: int, samples: Samples, encode: Encode | None):
        self._connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, samples, encode), name=f"gluonface-data-{index}", daemon=True
        )
        self.process.start()
        theirs.close()
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        # A worker may make its next batch only while somebody takes the one it sends.
        self._reader = threading.Thread(
            target=_read_results, args=(self._connection, self._results), name=f"gluonface-data-{index}", daemon=True
        )
        self._reader.start()

    def send(self, generation: int, task: _Task) -> None:
        try:
            self._connection.send((generation, task))
        except OSError as error:
            raise self._death() from error

    def receive(self, generation: int) -> tuple[Any, ...]:
        while True:
            result = self._results.get()
            if result is None:
                self._results.put(None)  # for who asks next
                raise self._death()
            made_for, batch = result
            if made_for != generation:
                continue  # left over from an epoch that was not read to its end
            if isinstance(batch, str):
                raise DataError(batch)
            return batch

    def _death(self) -> TrainingError:
        self.process.join(5)
        code = self.process.exitcode
        why = {
            None: "does not answer",
            -signal.SIGKILL: "was killed, most likely because memory ran out: use fewer workers or less cache",
        }.get(code, f"ended with exit code {code}; its own message is above")
        return TrainingError(
            f"data worker {self.process.name} {why}. If the message is about starting processes, put the script's work "
            'under `if __name__ == "__main__":`'
        )


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile keep the threads of OpenMP and of NumPy's linear algebra to one."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_workers(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
    workers.clear()


def _read_results(connection: Connection, results: queue.SimpleQueue) -> None:
    """Thread of the parent: take batches from a worker as soon as they come; None says that the worker is gone."""
    try:
        while True:
            generation, layout = connection.recv()
            if isinstance(layout, list):
                layout = tuple(_receive_array(connection, np.empty(shape, dtype)) for shape, dtype in layout)
            results.put((generation, layout))
    except (EOFError, OSError):
        results.put(None)


def _bytes_of(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _send_array(connection: Connection, array: np.ndarray) -> None:
    left = _bytes_of(array)
    while left:
        left = left[os.write(connection.fileno(), left) :]


def _receive_array(connection: Connection, array: np.ndarray) -> np.ndarray:
    """Straight into the array: `Connection.recv_bytes` would copy it twice more."""
    left = _bytes_of(array)
    while left:
        count = os.readv(connection.fileno(), [left])
        if not count:
            raise EOFError
        left = left[count:]
    return array


def _serve(connection: Connection, samples: Samples, encode: Encode | None) -> None:
    """Worker process: make batches until the parent is gone."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it ends the workers
    cv2.setNumThreads(0)
    try:
        while True:
            generation, task = connection.recv()
            try:
                batch = make_batch(samples, encode, task)
            except DataError as error:
                connection.send((generation, f"{error}\n\nIn the data worker:\n{traceback.format_exc()}"))
                continue
            if encode is None:
                connection.send((generation, batch))
                continue
            arrays = [np.ascontiguousarray(array) for array in batch]
            connection.send((generation, [(array.shape, array.dtype.str) for array in arrays]))
            for array in arrays:
                _send_array(connection, array)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
