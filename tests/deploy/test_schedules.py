"""What a schedule may choose fits the machine, and a kernel's name says what it computes."""

import pytest

pytest.importorskip("tvm", reason="needs gluonface[deploy]")

from gluonface.deploy.schedules import Tile, candidates

MACHINES = {"AVX-512": (16, 32), "AVX2": (8, 16), "NEON": (4, 32)}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", ["convolution", "depthwise"])
@pytest.mark.parametrize(
    ("places", "filters", "block"), [(12, 128, 16), (80, 24, 8), (53, 80, 16), (5, 960, 16), (1, 8, 8)]
)
def test_a_tile_fits_the_registers_and_the_map(machine, kind, places, filters, block):
    lanes, registers = MACHINES[machine]
    found = candidates(Tile(kind, 6, places, filters, block, True), lanes, registers)
    assert found and len(set(found)) == len(found)
    for knobs in found:
        assert places % knobs.places == 0 and (filters // block) % knobs.vectors == 0 and 6 % knobs.rows == 0
        assert (knobs.places + 1) * knobs.vectors * -(-block // lanes) < registers


def test_the_rule_prefers_tiles_that_use_what_they_load_most():
    first = candidates(Tile("convolution", 24, 24, 128, 16, True), 16, 32)[0]
    assert first.places * first.vectors >= 24 and first.vectors > 1
    narrow = candidates(Tile("convolution", 24, 24, 128, 16, True), 8, 16)[0]
    assert narrow.places * narrow.vectors * 2 <= 13
