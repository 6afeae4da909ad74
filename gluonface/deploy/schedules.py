"""Schedules of the kernels, by rule and by knobs that can be tuned.

A convolution's output is cut into tiles that stay in registers while everything is summed up: some places along a row
by some vectors of channels. Every weight vector that is loaded serves all places of the tile, and every input number
all its vectors. What follows the convolution (bias, residual, activation) is done on the tile before it is written, and
its input is padded a few rows at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._compat import import_optional

tvm = import_optional("tvm", "deploy")
s_tir = import_optional("tvm.s_tir", "deploy")

__all__ = [
    "Knobs",
    "Tile",
    "candidates",
    "is_written_by_hand",
    "schedule",
    "schedule_plain",
    "schedule_tile",
    "signature",
    "tile_of",
]

#: Blocks that a tile is laid on, by the name that `gluonface.deploy.convolution` gives them -> number of output axes,
#: and which of them is the row and the place in a row; the channels are the last.
TILED = {"convolution": (4, 1, 2), "depthwise": (4, 1, 2), "deconvolution": (6, 1, 3), "winograd": (6, 1, 4)}


#: Blocks of channels from which on the cores share these alone.
_SHARED = 8
#: Parts of the names of blocks that make a convolution's input a few rows at a time.
_INPUT = ("padded", "columns")


@dataclass(frozen=True)
class Knobs:
    """How a tile is laid.

    Attributes
    ----------
    places : int
        Of a row in a tile.
    vectors : int
        Channel blocks in a tile.
    order : {"block", "row", "tile"}
        Which loop the channel blocks are: the outermost, inside a row, or inside a tile of places.
    rows : int
        That are padded together.
    """

    places: int
    vectors: int
    order: str = "row"
    rows: int = 1


@dataclass(frozen=True)
class Tile:
    """What a kernel leaves to choose.

    Attributes
    ----------
    kind : str
        One of `TILED`.
    rows, places, filters : int
        Extents of the output: rows of the map (of a phase), places in a row, channels.
    block : int
        Channels in a block.
    padded : bool
        Whether the input is padded, or made of another map's numbers.
    """

    kind: str
    rows: int
    places: int
    filters: int
    block: int
    padded: bool


def _blocks(sch):
    """Blocks of a function in order, by name; none where it was written by hand."""
    try:
        root = sch.get_sblock("root")
    except s_tir.ScheduleError:
        return {}
    return {sch.get(block).name_hint: block for block in sch.get_child_blocks(root)}


def is_written_by_hand(function) -> bool:
    """Whether a function has no blocks to schedule, as those of `gluonface.deploy.heads`."""
    return not _blocks(s_tir.Schedule(function))


def _anchor_name(names) -> str | None:
    return next((name for name in names if name.rstrip("0123456789_") in TILED), None)


def _is_input(name: str) -> bool:
    return any(part in name for part in _INPUT)


def tile_of(function) -> Tile | None:
    """The tile of a function's main block; None for functions without one."""
    sch = s_tir.Schedule(function)
    blocks = _blocks(sch)
    name = _anchor_name(blocks)
    if name is None:
        return None
    block = sch.get(blocks[name])
    extents = [int(var.dom.extent) for var in block.iter_vars]
    kind = name.rstrip("0123456789_")
    spatial, row, place = TILED[kind]
    filters = extents[spatial - 1]
    if kind == "depthwise":
        lanes = next((n for n in (16, 8, 4, 2) if filters % n == 0), 1)
    else:
        lanes = int(block.reads[-1].source.ty.shape[-1])  # of the packed weights
    return Tile(kind, extents[row], extents[place], filters, lanes, any(map(_is_input, blocks)))


def candidates(tile: Tile, lanes: int, registers: int) -> list[Knobs]:
    """Knobs worth trying, the rule's own choice first.

    Parameters
    ----------
    tile : Tile
    lanes, registers : int
        float32 numbers in a vector register, and how many there are.
    """
    per_block = -(-tile.block // lanes)
    blocks = tile.filters // tile.block
    found = []
    for vectors in (1, 2, 3, 4, 6, 8):
        if blocks % vectors:
            continue
        for places in range(1, min(tile.places, 32) + 1):
            # The sums, the weights that all places share and the input number of one place stay in registers.
            if tile.places % places or (places + 1) * vectors * per_block + 1 > registers:
                continue
            sums, loads = places * vectors * per_block, places + vectors * per_block
            # Depthwise, a weight serves one sum a place, and short tiles of one block do best.
            worth = -abs(places - 8) - 8 * vectors if tile.kind == "depthwise" else sums / loads
            found.append((worth, places, vectors))
    found.sort(reverse=True)
    orders = ("row", "block", "tile") if blocks > 1 else ("row",)
    if tile.kind == "depthwise" and blocks > 1:
        orders = ("block", "row", "tile")
    if tile.kind == "winograd":
        orders = ("row", "tile") if blocks > 1 else ("row",)
    rows = [r for r in (1, 2, 4, 8) if tile.rows % r == 0] if tile.padded and tile.kind != "winograd" else [1]
    result = []
    for _, places, vectors in found[:4]:
        for order in orders:
            for r in rows if order != "block" else (1,):
                result.append(Knobs(places, vectors, order, r))
    return result


def schedule(function, knobs: Knobs, *, parallel: bool = True):
    """A schedule of a function whose `tile_of` is not None.

    Returns
    -------
    tvm.s_tir.Schedule
    """
    tile = tile_of(function)
    if tile.kind == "winograd":
        return _schedule_winograd(function, tile, knobs, parallel)
    sch = s_tir.Schedule(function)
    names = list(blocks := _blocks(sch))
    name = _anchor_name(names)
    anchor = blocks[name]
    after = names[names.index(name) + 1 :]
    # A depthwise convolution reads every number too few times for a padded copy to be worth while.
    before = [n for n in names[: names.index(name)] if not _is_input(n) or tile.kind == "depthwise"]
    for n in (*before, *after[:-1]):
        sch.compute_inline(blocks[n])
    out = blocks[after[-1]] if after else sch.cache_write(anchor, 0, "global")
    spatial, _, place_axis = TILED[tile.kind]

    loops = sch.get_loops(out)
    n, f = loops[0], loops[-1]
    fo, fv, fl = sch.split(f, [None, knobs.vectors, tile.block])
    if spatial == 6:
        _, i, a, j, b, _ = loops
        rows, x = [i], j
        phases = [a, b]
    else:
        _, i, x, _ = loops
        rows, phases = [i], []
    if knobs.rows > 1:
        rows = list(sch.split(i, [None, knobs.rows]))
    xo, xi = sch.split(x, [None, knobs.places])
    order = {
        "block": [n, fo, *phases, *rows, xo],
        "row": [n, rows[0], *phases, fo, *rows[1:], xo],
        "tile": [n, rows[0], *phases, *rows[1:], xo, fo],
    }[knobs.order]
    sch.reorder(*order, xi, fv, fl)

    sch.compute_at(anchor, order[-1], preserve_unit_loops=True)
    reduced = len(sch.get(anchor).iter_vars) - spatial
    own = sch.get_loops(anchor)[-(spatial + reduced) :]
    taps = own[spatial:]
    place, channel = own[place_axis], own[spatial - 1]
    vector, lane = sch.split(channel, [None, tile.block])
    sch.reorder(*taps, place, vector, lane)
    sch.vectorize(lane)
    sch.unroll(vector)
    sch.unroll(place)
    if tile.kind == "depthwise":
        for tap in taps:
            sch.unroll(tap)
    sch.vectorize(fl)
    sch.unroll(fv)
    sch.unroll(xi)

    padded = next((blocks[m] for m in names if _is_input(m) and m not in before), None)
    if padded is not None:
        if knobs.order != "block" and spatial == 4:
            sch.compute_at(padded, order[1], preserve_unit_loops=True)
        elif parallel:
            sch.parallel(sch.fuse(*sch.get_loops(padded)[:2]))
        channel = sch.get_loops(padded)[-1]
        extent = int(sch.get(channel).extent)
        lanes = next((lanes for lanes in (16, 8, 4) if extent % lanes == 0), None)
        if lanes:
            sch.vectorize(sch.split(channel, [None, lanes])[1])
    if parallel:
        shared = order[:2]
        if knobs.order == "block" and math.prod(int(sch.get(loop).extent) for loop in shared) < _SHARED:
            shared = order[:-1]  # too few blocks, perhaps one: the cores share the rows, too
        sch.parallel(sch.fuse(*shared))
    # Last, since the loops around a reduction in two parts are not seen to be independent any more.
    first = sch.decompose_reduction(anchor, taps[0])
    for loop, kind in zip(sch.get_loops(first)[-3:], (sch.unroll, sch.unroll, sch.vectorize)):
        kind(loop)
    return sch


def _schedule_winograd(function, tile: Tile, knobs: Knobs, parallel: bool):
    """A row of tiles at a time, from the padded input to the result: all that lies between stays in the cache."""
    sch = s_tir.Schedule(function)
    names = list(blocks := _blocks(sch))
    anchor_name = _anchor_name(names)
    anchor = blocks[anchor_name]
    for name in names[names.index(anchor_name) + 1 : -1]:
        sch.compute_inline(blocks[name])
    out = blocks[names[-1]]

    image, y, x, f = sch.get_loops(out)
    row, dy = sch.split(y, [None, 2])
    place, dx = sch.split(x, [None, 2])
    block, lane = sch.split(f, [None, tile.block])
    sch.reorder(image, row, place, block, dy, dx, lane)
    for name in (anchor_name, "transformed", "padded"):
        sch.compute_at(blocks[name], row, preserve_unit_loops=True)

    *_, a, b, place, channel, summed = sch.get_loops(anchor)
    outer, places = sch.split(place, [None, knobs.places])
    blocks_outer, vectors, lanes = sch.split(channel, [None, knobs.vectors, tile.block])
    tiles = [blocks_outer, outer] if knobs.order == "row" else [outer, blocks_outer]
    sch.reorder(a, b, *tiles, summed, places, vectors, lanes)
    sch.vectorize(lanes)
    sch.unroll(vectors)
    sch.unroll(places)

    *_, a, b, place, channel = sch.get_loops(blocks["transformed"])
    outer, lanes = _vector_of(sch, channel)
    sch.reorder(place, outer, a, b, lanes)
    sch.unroll(a)
    sch.unroll(b)
    sch.vectorize(lanes)
    sch.vectorize(_vector_of(sch, sch.get_loops(blocks["padded"])[-1])[1])

    sch.vectorize(lane)
    sch.unroll(dx)
    sch.unroll(dy)
    if parallel:
        sch.parallel(sch.fuse(image, row))
    first = sch.decompose_reduction(anchor, summed)
    for loop, kind in zip(sch.get_loops(first)[-3:], (sch.unroll, sch.unroll, sch.vectorize)):
        kind(loop)
    return sch


def _vector_of(sch, loop) -> list:
    """A loop cut into vectors of at most 16 that divide it."""
    extent = int(sch.get(loop).extent)
    return sch.split(loop, [None, next(lanes for lanes in (16, 8, 4, 2, 1) if extent % lanes == 0)])


def schedule_tile(function, tile: Tile, knobs: Knobs | None, lanes: int, registers: int):
    """The function, scheduled with knobs or, with None, by the rule."""
    if knobs is None:
        knobs = candidates(tile, lanes, registers)[0]
    return next(iter(schedule(function, knobs).mod.functions.values()))


def signature(function) -> str:
    """What a tiled kernel computes, in a word and extents: "convolution out1x60x80x64 sum3x3x64 in1x60x80x64"."""
    sch = s_tir.Schedule(function)
    blocks = _blocks(sch)
    name = _anchor_name(blocks)
    block = sch.get(blocks[name])
    kind = name.rstrip("0123456789_")
    extents = [int(var.dom.extent) for var in block.iter_vars]
    spatial = TILED[kind][0]
    source = tuple(int(side) for side in function.params[0].ty.shape)
    parts = (("out", extents[:spatial]), ("sum", extents[spatial:]), ("in", source))
    return " ".join([kind, *(word + "x".join(map(str, sides)) for word, sides in parts)])


def schedule_plain(function):
    """A function without a tile, scheduled simply: all in one pass where that goes, its outer loops over the cores."""
    sch = s_tir.Schedule(function)
    blocks = list(_blocks(sch).values())
    if not blocks:
        return function
    for block in blocks[:-1]:
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:  # a reduction, or written in parts
            continue
    for block in _blocks(sch).values():
        loops = sch.get_loops(block)
        spatial = []
        for loop, var in zip(loops, sch.get(block).iter_vars):
            if int(var.iter_type) != 0:
                break
            spatial.append(loop)
        if len(spatial) > 1:
            try:
                sch.parallel(sch.fuse(*spatial[:-1]))
            except s_tir.ScheduleError:
                continue
    return next(iter(sch.mod.functions.values()))
