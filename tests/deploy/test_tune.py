"""Tuning records: kept, merged, found again, also for shapes that were not measured; and the search that makes them."""

import json

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs gluonface[deploy]")

from gluonface.deploy import tune
from gluonface.deploy.schedules import Knobs, Tile, candidates
from gluonface.deploy.targets import find_target
from gluonface.deploy.tune import Record, Records
from gluonface.errors import DataError, DeployError

V4 = find_target("x86-64-v4")
TILE = Tile("convolution", 24, 24, 128, 16, True)
KERNEL = "convolution out1x24x24x128 sum3x3x64 in1x24x24x64"


def record(kernel=KERNEL, seconds=1e-3, knobs=None, trials=4):
    return Record(kernel, knobs or candidates(TILE, V4.lanes, V4.registers)[1], seconds, trials)


def test_records_come_back_from_their_file(tmp_path):
    records = Records({KERNEL: record()}, {"target": "x86-64-v4"})
    records.write(tmp_path / "r.json")
    assert Records.read(tmp_path / "r.json") == records
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"about": {}, "records": [{"kernel": 1}]}', '{"about": 3, "records": 4}']
)
def test_a_file_that_holds_no_records_is_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match="expected tuning records"):
        Records.read(tmp_path / "r.json")


def test_of_two_records_of_a_kernel_the_faster_stays():
    records = Records({KERNEL: record(seconds=2.0)})
    records.merge([record(seconds=3.0), record("depthwise out1x1x1x8 sum3x3 in1x1x1x8", 1.0)])
    assert records.records[KERNEL].seconds == 2.0 and len(records.records) == 2
    records.merge([record(seconds=1.0)])
    assert records.records[KERNEL].seconds == 1.0


def test_a_kernel_without_a_record_takes_the_nearest_of_its_kind_that_fits_it():
    near, far = Knobs(6, 4, "tile", 4), Knobs(6, 4, "row", 2)
    records = Records(
        {
            KERNEL: record(knobs=near),
            "convolution out1x96x96x16 sum1x1x32 in1x96x96x32": record(knobs=far),
            "depthwise out1x24x24x128 sum3x3 in1x24x24x128": record(knobs=Knobs(8, 1)),
        }
    )
    assert records.find(KERNEL, TILE, V4) == (near, "tuned")
    other = "convolution out1x20x24x128 sum3x3x64 in1x20x24x64"
    assert records.find(other, TILE, V4) == (near, "nearest")
    odd = Tile("convolution", 7, 7, 128, 16, True)  # rows and places that neither record divides
    assert records.find(other, odd, V4) == (None, "rule")
    assert Records().find(other, TILE, V4) == (None, "rule")


class Clock:
    """A measure that knows the answer: schedules take the seconds it is given, in order."""

    about = {"machine": "made up"}  # noqa: RUF012
    error = "it was not to be"

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, 0

    def __call__(self, function, tried):
        self.calls += 1
        return np.array([self.seconds(i) for i in range(len(tried))])


@pytest.fixture
def searched(monkeypatch, tmp_path):
    """A function that searches one made-up kernel with a clock."""
    monkeypatch.setattr(tune, "tile_of", lambda function: TILE)
    monkeypatch.setattr(tune, "signature", lambda function: function)

    def search(seconds, trials=8, kernels=(KERNEL,), **options):
        clock = Clock(seconds)
        monkeypatch.setattr(tune, "_Measure", lambda target, rpc: clock)
        said = []
        records = tune.search(kernels, V4, trials=trials, path=tmp_path / "r.json", say=said.append, **options)
        return records, clock, said

    return search


def test_the_fastest_schedule_is_kept_and_not_searched_again(searched, tmp_path):
    records, clock, said = searched(lambda i: 1.0 if i != 3 else 0.5)
    tried = candidates(TILE, V4.lanes, V4.registers)
    assert records.records[KERNEL].knobs == tried[3] and records.records[KERNEL].trials == 8
    assert json.loads((tmp_path / "r.json").read_text())["about"]["machine"] == "made up"
    assert len(said) == 1 and "1/1" in said[0]
    _, again, _ = searched(lambda i: 1.0)
    assert clock.calls == 1 and again.calls == 0
    _, more, _ = searched(lambda i: 1.0, trials=12)
    assert more.calls == 1


def test_a_gain_within_the_noise_leaves_the_rule_in_place(searched):
    records, _, _ = searched(lambda i: 1.0 if i == 0 else 0.995)
    assert records.records[KERNEL].knobs == candidates(TILE, V4.lanes, V4.registers)[0]


def test_schedules_that_cannot_be_run_are_passed_over(searched):
    records, _, _ = searched(lambda i: np.nan if i < 2 else 1.0 / i)
    assert records.records[KERNEL].knobs == candidates(TILE, V4.lanes, V4.registers)[7]
    with pytest.raises(DeployError, match="it was not to be"):
        searched(lambda i: np.nan, kernels=("convolution out1 sum1 in1",))


def test_a_search_stops_when_its_time_is_over_and_says_so(searched):
    records, clock, said = searched(lambda i: 1.0, minutes=-1.0)
    assert not records.records and clock.calls == 0 and "goes on" in said[0]


@pytest.fixture(scope="module")
def small_kernel():
    from tvm import te

    x, w = te.placeholder((1, 4, 8, 16), name="x"), te.placeholder((1, 1, 1, 16, 16), name="w")
    ky, kx, c = (te.reduce_axis((0, n), name) for n, name in ((1, "ky"), (1, "kx"), (16, "c")))
    y = te.compute(
        (1, 4, 8, 16),
        lambda n, i, j, f: te.sum(x[n, i + ky, j + kx, c] * w[f // 16, ky, kx, c, f % 16], axis=[ky, kx, c]),
        name="convolution",
    )
    return te.create_prim_func([x, w, y])


def test_a_kernel_is_known_by_what_it_computes(small_kernel):
    assert tune.tile_of(small_kernel) == Tile("convolution", 4, 8, 16, 16, False)
    assert tune.signature(small_kernel) == "convolution out1x4x8x16 sum1x1x16 in1x4x8x16"


def test_a_kernel_is_measured_here(small_kernel):
    tried = candidates(tune.tile_of(small_kernel), 8, 16)
    measure = tune._Measure(find_target("native"), None)
    seconds = measure(small_kernel, tried[:2])
    assert (seconds > 0).all() and (seconds < 0.1).all()
    assert set(measure.about) == {"machine", "tvm"}


def test_a_processor_that_cannot_run_the_kernels_is_an_error_and_no_crash(monkeypatch):
    monkeypatch.setattr(tune, "cpu_features", lambda: frozenset({"avx", "avx2", "fma"}))
    with pytest.raises(DeployError, match="tuning for x86-64-v4 runs its kernels, and this processor lacks .*avx512f"):
        tune._Measure(find_target("x86-64-v4"), None)
    monkeypatch.setattr(tune, "cpu_features", lambda: None)  # a system that does not say
    tune._Measure(find_target("x86-64-v4"), None)


def test_a_kernel_is_measured_on_a_device_behind_a_tracker(small_kernel):
    pytest.importorskip("tornado", reason="needs gluonface[tune]")
    rpc, tracker = pytest.importorskip("tvm.rpc.server"), pytest.importorskip("tvm.rpc.tracker")
    if find_target("native").compiler() is None:
        pytest.skip("no C++ compiler here")
    board = tracker.Tracker(host="127.0.0.1", port=9190, port_end=9290, silent=True)
    server = rpc.Server(
        host="127.0.0.1", port=9291, port_end=9391, tracker_addr=("127.0.0.1", board.port), key="toy", silent=True
    )
    try:
        measure = tune._Measure(find_target("native"), ("127.0.0.1", board.port, "toy"))
        seconds = measure(small_kernel, candidates(tune.tile_of(small_kernel), 8, 16)[:1])
        assert 0 < seconds[0] < 0.1 and measure.about["machine"] == "toy, by RPC"
    finally:
        server.terminate()
        board.terminate()


def test_no_tracker_is_an_error_that_says_how_to_start_one():
    with pytest.raises(DeployError, match="rpc_tracker"):
        tune._Measure(find_target("native"), ("127.0.0.1", 1, "toy"))
