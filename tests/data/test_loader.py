import gc
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from gluonface.data.jsonl import read_jsonl
from gluonface.data.loader import BatchLoader
from gluonface.data.store import SampleStore
from gluonface.data.transforms.presets.retinaface import RetinaFaceSamples, RetinaFaceTrainTransform
from gluonface.errors import DataError, InputError, TrainingError
from gluonface.targets import AnchorTargets

ENCODE = AnchorTargets((64, 64)).encode_labels


class Numbers:
    """Items that say which they are, and whether they were stitched."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def sample(self, item, epoch, stitched=False):
        return np.full((2, 2, 3), item % 256, np.uint8), (item, epoch, int(stitched))


def identity(labels):
    return (np.array(labels),)


def drawing(labels, rng):
    return (np.array([*labels, rng.integers(2**40)]),)


def numbered(count, batch_size, **changes) -> BatchLoader:
    return BatchLoader(Numbers(count), batch_size, **{"encode": identity, "seed": 3, **changes})


def flat(lists: list[list[int]]) -> list[int]:
    return [entry for part in lists for entry in part]


def items_of(loader, epoch=0, **changes) -> list[list[int]]:
    return [targets[:, 0].tolist() for _, targets in loader.epoch(epoch, **changes)]


@pytest.fixture
def samples(photo_folder):
    store = SampleStore(read_jsonl(photo_folder / "faces.jsonl"))
    return RetinaFaceSamples(store, RetinaFaceTrainTransform(size=64), mosaic_prob=0.3, source_weights={"a": 3.0})


@pytest.fixture(scope="module")
def no_children_left():
    yield
    gc.collect()
    assert not multiprocessing.active_children()


def test_an_epoch_holds_every_item_once_in_an_order_of_its_own():
    loader = numbered(10, 2)
    epochs = [flat(items_of(loader, epoch)) for epoch in range(3)]
    for items in epochs:
        assert sorted(items) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])
    assert items_of(numbered(10, 2), 1) == items_of(loader, 1)
    assert items_of(numbered(10, 2, seed=4), 1) != items_of(loader, 1)
    assert flat(items_of(numbered(10, 2, shuffle=False))) == list(range(10))


def test_the_last_items_are_left_out_or_make_a_smaller_batch():
    assert [len(b) for b in items_of(numbered(10, 4))] == [4, 4] and len(numbered(10, 4)) == 2
    kept = numbered(10, 4, drop_last=False)
    assert [len(b) for b in items_of(kept)] == [4, 4, 2] and len(kept) == 3


def test_an_epoch_can_be_entered_in_the_middle():
    loader = numbered(10, 2)
    assert items_of(loader, 1, start_batch=3) == items_of(loader, 1)[3:]


def test_the_batches_of_all_parts_make_the_batch_of_one_process():
    whole = items_of(numbered(25, 6))
    parts = [items_of(numbered(25, 2, part_index=index, num_parts=3)) for index in range(3)]
    assert [len(part) for part in parts] == [4, 4, 4]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(flat(shares))


def test_without_encode_the_labels_come_as_a_list(samples):
    images, labels = next(BatchLoader(samples, 3).epoch(0))
    assert images.shape == (3, 64, 64, 3) and [type(entry).__name__ for entry in labels] == ["FaceLabels"] * 3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_size": 30}, "10 items do not fill one batch of 1 x 30"),
        ({"num_parts": 2, "part_index": 2}, "part_index must be one of"),
        ({"worker_kind": "fork"}, "worker_kind must be"),
        ({"num_workers": -1}, "num_workers and seed at least 0"),
    ],
)
def test_wrong_arguments_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        numbered(10, changes.pop("batch_size", 2), **changes)


def test_arrays_that_do_not_stack_are_reported():
    loader = numbered(4, 2, encode=lambda labels: (np.zeros(labels[0]),))
    with pytest.raises(DataError, match="do not make a batch: .*encode must give arrays of the same shapes"):
        next(loader.epoch(0))


# Extra items and stitched batches

WORKERS = pytest.mark.parametrize(
    "workers",
    [
        {},
        {"num_workers": 1, "worker_kind": "thread"},
        {"num_workers": 3, "worker_kind": "thread"},
        {"num_workers": 2, "worker_kind": "process", "prefetch": 1},
    ],
    ids=["none", "one thread", "three threads", "two processes"],
)


def targets_of(loader, epoch=0, **changes) -> list[np.ndarray]:
    return [targets for _, targets in loader.epoch(epoch, **changes)]


def test_extra_items_occur_beside_those_of_every_epoch():
    loader = numbered(10, 2)
    extra = [10, 17, 12, 17]
    batches = items_of(loader, 1, extra_items=extra)
    assert sorted(flat(batches)) == sorted([*range(10), *extra]) and len(batches) == 7
    assert flat(batches)[-4:] != extra  # they are spread over the epoch
    assert len(loader.epoch(1, extra_items=extra)) == 7 and len(loader.epoch(1)) == len(loader) == 5
    assert items_of(loader, 1, extra_items=extra) == batches
    assert loader.order(1, extra).tolist() == flat(batches)
    assert items_of(loader, 1) == items_of(numbered(10, 2), 1)
    assert flat(items_of(numbered(4, 2, shuffle=False), extra_items=[6, 5])) == [0, 1, 2, 3, 6, 5]


def test_of_an_epoch_with_extra_items_too_the_last_are_left_out_or_make_a_smaller_batch():
    loader = numbered(10, 4)
    assert [len(b) for b in items_of(loader, extra_items=[10])] == [4, 4]
    assert [len(b) for b in items_of(loader, extra_items=[10, 11])] == [4, 4, 4]
    kept = numbered(10, 4, drop_last=False)
    assert [len(b) for b in items_of(kept, extra_items=[10])] == [4, 4, 3]
    assert [len(b) for b in items_of(kept, extra_items=[10], start_batch=2)] == [3]
    assert len(kept.epoch(0, 2, extra_items=[10])) == 1


def test_all_parts_get_as_many_batches_of_an_epoch_with_extra_items():
    extra = [30, 31, 32]
    whole = items_of(numbered(25, 6), extra_items=extra)
    parts = [items_of(numbered(25, 2, part_index=index, num_parts=3), extra_items=extra) for index in range(3)]
    assert [len(part) for part in parts] == [4, 4, 4]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(flat(shares))


@WORKERS
@pytest.mark.parametrize("decision", [True, False])
def test_a_constant_decision_gives_the_same_batches_whatever_the_workers(workers, decision, no_children_left):
    expected = targets_of(numbered(12, 3), 1, extra_items=[20, 21, 22])
    with numbered(12, 3, **workers) as loader:
        batches = targets_of(loader, 1, extra_items=[20, 21, 22], stitch=lambda: decision)
    assert len(batches) == len(expected) == 5
    for batch, other in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch[:, :2], other[:, :2])
        assert (batch[:, 2] == decision).all() and not other[:, 2].any()


@WORKERS
def test_stitch_is_asked_once_a_batch_as_it_begins_to_be_made(workers, no_children_left):
    ahead = workers.get("num_workers", 0) * workers.get("prefetch", 2)
    asked, got = [], []

    def stitch():
        asked.append(len(got))  # how many batches had come out by then
        return len(asked) % 3 == 0

    with numbered(24, 2, **workers) as loader:
        for _, targets in loader.epoch(0, stitch=stitch):
            got.append(targets)
    assert len(asked) == 12
    # Batch k is begun when at most `ahead` batches (and the one that is waited for) are in the making.
    assert all(0 <= k - came <= ahead for k, came in enumerate(asked))
    assert max(k - came for k, came in enumerate(asked)) >= ahead - 1
    assert [bool(batch[0, 2]) for batch in got] == [k % 3 == 2 for k in range(12)]
    assert all(len(set(batch[:, 2])) == 1 for batch in got)


@WORKERS
def test_stitched_batches_of_photos_are_mosaics_whatever_the_workers(samples, workers, no_children_left):
    def batches(**options):
        with BatchLoader(samples, 2, encode=ENCODE, **options) as loader:
            return list(loader.epoch(2, extra_items=[samples.extra_item(3, 0)], stitch=lambda: True))

    for batch, other in zip(batches(**workers), batches(), strict=True):
        for array, twin in zip(batch, other, strict=True):
            np.testing.assert_array_equal(array, twin)


# Encoders that draw


def drawn_by(loader, epoch=0, **changes) -> dict[int, int]:
    """Item -> what was drawn for it."""
    return {int(row[0]): int(row[3]) for batch in targets_of(loader, epoch, **changes) for row in batch}


@WORKERS
def test_an_encoder_draws_other_numbers_in_each_epoch_and_the_same_whatever_the_workers(workers, no_children_left):
    expected = [drawn_by(numbered(12, 3, encode=drawing), epoch) for epoch in range(2)]
    with numbered(12, 3, encode=drawing, **workers) as loader:
        assert [drawn_by(loader, epoch) for epoch in range(2)] == expected
    first, second = expected
    assert len({*first.values(), *second.values()}) == 24


def test_what_an_encoder_draws_is_a_matter_of_seed_epoch_and_item_alone():
    whole = drawn_by(numbered(12, 3, encode=drawing), 1)
    assert drawn_by(numbered(12, 4, encode=drawing, shuffle=False), 1) == whole
    rest = drawn_by(numbered(12, 3, encode=drawing), 1, start_batch=2)
    assert len(rest) == 6 and rest.items() <= whole.items()
    part = drawn_by(numbered(12, 3, encode=drawing, part_index=1, num_parts=2), 1)
    assert len(part) == 6 and part.items() <= whole.items()
    assert not set(drawn_by(numbered(12, 3, encode=drawing, seed=4), 1).values()) & set(whole.values())


def test_an_encoder_does_not_draw_what_the_view_drew():
    class Views(Numbers):
        def sample(self, item, epoch):
            image, labels = super().sample(item, epoch)
            return image, (*labels, np.random.default_rng([3, epoch, item]).integers(2**40))

    loader = BatchLoader(Views(6), 3, encode=drawing, seed=3)
    assert all((batch[:, 3] != batch[:, 4]).all() for batch in targets_of(loader))


def test_samples_that_cannot_be_stitched_need_not_know_the_word():
    class Plain(Numbers):
        def sample(self, item, epoch):
            return super().sample(item, epoch)

    loader = BatchLoader(Plain(6), 2, encode=identity)
    assert len(list(loader.epoch(0))) == len(list(loader.epoch(0, stitch=lambda: False))) == 3
    with pytest.raises(DataError, match="unexpected keyword argument 'stitched'"):
        next(loader.epoch(0, stitch=lambda: True))


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_the_same_batches_as_none(samples, workers):
    expected = list(BatchLoader(samples, 2, encode=ENCODE).epoch(1))
    with BatchLoader(samples, 2, encode=ENCODE, num_workers=workers, worker_kind="thread") as loader:
        batches = list(loader.epoch(1))
    assert len(batches) == len(expected) == 6
    for batch, other in zip(batches, expected, strict=True):
        for array, twin in zip(batch, other, strict=True):
            np.testing.assert_array_equal(array, twin)


def test_processes_give_the_same_batches_as_none_epoch_after_epoch(samples, no_children_left):
    with BatchLoader(samples, 2, encode=ENCODE, num_workers=2) as loader:
        abandoned = loader.epoch(0)
        next(abandoned)  # leaves batches of epoch 0 under way
        for epoch in (1, 2):
            expected = list(BatchLoader(samples, 2, encode=ENCODE).epoch(epoch))
            for batch, other in zip(loader.epoch(epoch), expected, strict=True):
                assert [(a.shape, a.dtype) for a in batch] == [(a.shape, a.dtype) for a in other]
                for array, twin in zip(batch, other, strict=True):
                    np.testing.assert_array_equal(array, twin)
                    array += 0  # can be written to
        with pytest.raises(TrainingError, match="another one was begun"):
            list(abandoned)
    assert not multiprocessing.active_children()
    with pytest.raises(TrainingError, match="closed"):
        next(loader.epoch(0))


@pytest.mark.parametrize("kind", ["none", "thread", "process"])
def test_a_damaged_photo_is_named_by_whatever_makes_the_batch(samples, kind, no_children_left):
    victim = Path(samples.store.samples[4].image_path)
    victim.write_bytes(b"no image")
    workers = {"num_workers": 0} if kind == "none" else {"num_workers": 1, "worker_kind": kind}
    complaint = rf"item \d+ of epoch 0 \(.*\): ImageError: .*{victim.name}"
    with BatchLoader(samples, 4, encode=ENCODE, **workers) as loader, pytest.raises(DataError, match=complaint):
        list(loader.epoch(0))
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_reported_and_the_others_end(samples, no_children_left):
    with BatchLoader(samples, 2, encode=ENCODE, num_workers=2, prefetch=1) as loader:
        batches = loader.epoch(0)
        next(batches)
        for child in multiprocessing.active_children():
            child.kill()
        with pytest.raises(TrainingError, match="was killed, most likely because memory ran out"):
            list(batches)
    assert not multiprocessing.active_children()


def test_a_loader_that_is_forgotten_ends_its_processes(samples):
    loader = BatchLoader(samples, 2, encode=ENCODE, num_workers=1)
    for _ in loader.epoch(0):
        break
    assert multiprocessing.active_children()
    del loader, _
    gc.collect()
    assert not multiprocessing.active_children()
