"""memory.py tells growth from settling."""

import numpy as np
import pytest


def test_what_grew_before_it_settled_does_not_count(script):
    readings = [(0, 100.0), (500, 300.0), (1000, 400.0), (5000, 410.0), (10000, 405.0)]
    verdict = script("memory").judge(readings, settled=1000, limit=32)
    assert verdict == {
        "settled_after": 1000,
        "settled_mib": 400,
        "peak_mib": 410,
        "growth_mib": 10,
        "last_mib": 405,
        "flat": True,
    }


def test_a_leak_is_not_flat(script):
    readings = [(count, 400 + count / 100) for count in range(0, 10_001, 100)]
    verdict = script("memory").judge(readings, settled=1000, limit=32)
    assert verdict["growth_mib"] == pytest.approx(90)
    assert not verdict["flat"]


def test_memory_that_falls_has_not_grown(script):
    assert script("memory").judge([(0, 9.0), (10, 8.0), (20, 5.0)], settled=10, limit=0)["growth_mib"] == 0


def test_photos_have_many_sizes_and_come_one_by_one(script):
    photos = script("memory").drawn_photos(200)
    shapes = {next(photos).shape for _ in range(200)}
    assert len(shapes) > 150
    assert min(min(s[:2]) for s in shapes) >= 32
    assert max(max(s[:2]) for s in shapes) <= 256


class Counting:
    """A stand-in for `FaceAnalyzer` that leaks as told."""

    detector_name = "counting"

    def __init__(self, leak=0):
        self.leak, self.kept = leak, []

    def stream(self, photos):
        for _ in photos:
            self.kept.append(np.ones(self.leak, np.uint8))
            yield None


def test_memory_is_read_as_photos_pass(script):
    readings = script("memory").watch(Counting(), count=105, every=25)
    assert [count for count, _ in readings] == [0, 25, 50, 75, 100, 105]
    assert all(mib > 10 for _, mib in readings)


@pytest.mark.alone
@pytest.mark.parametrize(("leak", "status"), [(0, 0), (2**20, 1)])
def test_the_exit_status_says_whether_memory_is_flat(script, tmp_path, monkeypatch, capsys, leak, status):
    module = script("memory")
    monkeypatch.setattr(module, "FaceAnalyzer", lambda *args, **options: Counting(leak))
    out = tmp_path / "memory.json"
    assert module.main(["--count", "100", "--every", "10", "--json", str(out)]) == status
    assert out.is_file()
    assert ("NOT flat" in capsys.readouterr().out) == bool(status)
