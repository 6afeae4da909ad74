"""Convolutions channels-last as tensor expressions that a register tile can be laid on; `schedules` lays it.

Weights come packed: the output channels in blocks of a few vectors, each block with all that it needs side by side, so
that the inner loop reads them in order. Channels that fill up the last block are zeros, and cut off again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._compat import import_optional

tvm = import_optional("tvm", "deploy")
te = import_optional("tvm.te", "deploy")
topi = import_optional("tvm.topi", "deploy")
relax = import_optional("tvm.relax", "deploy")

__all__ = ["convolution", "deconvolution", "depthwise", "of_columns"]

#: Output channels in a block: one AVX-512 vector, two of AVX2, four of NEON.
BLOCK = 16
#: For nets of few channels, where a whole block would be more than this share of zeros.
_WASTE, _SMALL = 0.25, 8


def block_of(filters: int) -> int:
    """Output channels in a block of packed weights."""
    full = -(-filters // BLOCK) * BLOCK
    return BLOCK if full - filters <= _WASTE * filters else _SMALL


def pack(weight: np.ndarray, block: int) -> np.ndarray:
    """Weights (..., C, F) to (F / block, ..., C, block), filled up with zeros."""
    filters = weight.shape[-1]
    spare = -filters % block
    weight = np.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, spare)])
    blocks = weight.reshape(*weight.shape[:-1], -1, block)
    return np.ascontiguousarray(np.moveaxis(blocks, -2, 0), np.float32)


def _shape(x) -> tuple[int, ...]:
    return tuple(int(side) for side in x.ty.shape)


def _padded(data, before: Sequence[int], after: Sequence[int]):
    if not any(before) and not any(after):
        return data
    return topi.nn.pad(data, [0, *before, 0], [0, *after, 0], name="padded")


def convolution(
    e,
    x,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    stride: Sequence[int],
    pad: Sequence[int],
    dilate: Sequence[int] = (1, 1),
    subtract: np.ndarray | None = None,
):
    """A convolution of a map channels-last.

    Parameters
    ----------
    e : Emitter
    x : relax.Expr
        (B, h, w, C).
    weight : (F, C, kh, kw) array
        As MXNet has it.
    bias : (F,) array or None
    stride, pad, dilate : (int, int)
    subtract : (C,) array, optional
        Taken off the map, which may be of whole numbers, before it is padded.

    Returns
    -------
    relax.Var
        (B, h', w', F).
    """
    batch, height, width, channels = _shape(x)
    filters, _, kernel_h, kernel_w = weight.shape
    out_h, out_w = (
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, p, d, k, s in zip((height, width), pad, dilate, (kernel_h, kernel_w), stride)
    )
    # DLight's rules for GPUs cannot schedule Winograd's steps.
    if subtract is None and not e.gpu and suits_winograd(weight, (out_h, out_w), stride, pad, dilate):
        return winograd(e, x, weight, bias)
    block = block_of(filters)
    packed = pack(weight.transpose(2, 3, 1, 0), block)
    stored = packed.shape[0] * block

    def compute(data, kernel, *off):
        if off:
            data = te.compute(
                data.shape, lambda n, y, x_, c: data[n, y, x_, c].astype("float32") - off[0][c], name="shifted"
            )
        padded = _padded(data, pad, pad)
        ky, kx = te.reduce_axis((0, kernel_h), "ky"), te.reduce_axis((0, kernel_w), "kx")
        c = te.reduce_axis((0, channels), "c")
        return te.compute(
            (batch, out_h, out_w, stored),
            lambda n, y, x_, f: te.sum(
                padded[n, y * stride[0] + ky * dilate[0], x_ * stride[1] + kx * dilate[1], c]
                * kernel[f // block, ky, kx, c, f % block],
                axis=[ky, kx, c],
            ),
            name="convolution",
        )

    off = [] if subtract is None else [e.constant(subtract.astype(np.float32))]
    result = e.te(compute, x, e.constant(packed), *off, name="convolution")
    return _finish(e, result, bias, filters, stored)


def of_columns(e, columns, sources: Sequence, places: Sequence[int], weight: np.ndarray):
    """A matrix product at every place of a map, with columns that are put together a few rows at a time.

    Parameters
    ----------
    e : Emitter
    columns : callable
        TE tensors for ``sources`` to a tensor (B, h, w, K) of the name "columns".
    sources : sequence of relax.Expr
    places : (int, int, int)
        B, h, w.
    weight : (F, K) array

    Returns
    -------
    relax.Var
        (B, h, w, F).
    """
    filters, length = weight.shape
    block = block_of(filters)
    packed = pack(weight.T[None, None], block)
    stored = packed.shape[0] * block

    def compute(*tensors):
        *others, kernel = tensors
        seen = columns(*others)
        ky, kx, c = (te.reduce_axis((0, extent), name) for extent, name in ((1, "ky"), (1, "kx"), (length, "c")))
        return te.compute(
            (*places, stored),
            lambda n, y, x_, f: te.sum(
                seen[n, y + ky, x_ + kx, c] * kernel[f // block, ky, kx, c, f % block], axis=[ky, kx, c]
            ),
            name="convolution",
        )

    # Where its columns come from is for the kernel alone: what follows may join it, as with any convolution.
    result = e.te(compute, *sources, e.constant(packed), name="convolution", primfunc_attrs={"op_pattern": 4})
    return _finish(e, result, None, filters, stored)


#: Transforms of Winograd's F(2x2, 3x3) for the input, the kernel and the output (Lavin and Gray 2016, section 4.1).
#: Every row of the input's takes two numbers: one added to, or taken off, another.
_FIRST, _SECOND, _SIGN = (0, 1, 2, 1), (2, 2, 1, 3), (-1, 1, -1, -1)
_KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def suits_winograd(weight: np.ndarray, out_hw: Sequence[int], stride, pad, dilate) -> bool:
    """Whether `winograd` is worth while: enough channels and tiles to make up for its transforms."""
    filters, channels = weight.shape[:2]
    tiles = -(-out_hw[0] // 2) * -(-out_hw[1] // 2)
    fits = weight.shape[2:] == (3, 3) and set(stride) == set(dilate) == set(pad) == {1}
    return fits and channels >= 32 and filters >= 16 and tiles >= 48


def _chosen(index, values: Sequence[int]):
    """``values[index]`` as an expression that unrolling turns into a number."""
    result = tvm.tirx.const(values[-1], "int64")
    for place in range(len(values) - 2, -1, -1):
        result = tvm.tirx.Select(index == place, tvm.tirx.const(values[place], "int64"), result)
    return result


def winograd(e, x, weight: np.ndarray, bias: np.ndarray | None):
    """A 3x3 convolution of stride 1 and padding 1 by Winograd's F(2x2, 3x3): 16 products where there were 36.

    Every tile of 2x2 places of the result takes 4x4 of the input, transformed to 16 numbers a channel; each of the 16
    is summed over the channels on its own, and the 16 sums are transformed back. Parameters and result are those of
    `convolution`.
    """
    batch, height, width, channels = _shape(x)
    filters = weight.shape[0]
    rows, columns = -(-height // 2), -(-width // 2)
    block = block_of(filters)
    transformed = np.einsum("ai,fcij,bj->abcf", _KERNEL_TRANSFORM, weight.astype(np.float64), _KERNEL_TRANSFORM)
    packed = pack(transformed, block)
    stored = packed.shape[0] * block

    def compute(data, kernel):
        after = (2 * rows + 1 - height, 2 * columns + 1 - width)
        padded = topi.nn.pad(data, [0, 1, 1, 0], [0, *after, 0], name="padded")

        def taken(n, i, j, c, ty, tx):
            return padded[n, 2 * ty + i, 2 * tx + j, c]

        def to_16(n, ty, a, b, tx, c):
            sign_a, sign_b = (_chosen(index, _SIGN).astype("float32") for index in (a, b))
            i, k = _chosen(a, _FIRST), _chosen(a, _SECOND)
            j, m = _chosen(b, _FIRST), _chosen(b, _SECOND)
            upper = taken(n, i, j, c, ty, tx) + sign_b * taken(n, i, m, c, ty, tx)
            return upper + sign_a * (taken(n, k, j, c, ty, tx) + sign_b * taken(n, k, m, c, ty, tx))

        sixteen = te.compute((batch, rows, 4, 4, columns, channels), to_16, name="transformed")
        c = te.reduce_axis((0, channels), "c")
        sums = te.compute(
            (batch, rows, 4, 4, columns, stored),
            lambda n, ty, a, b, tx, f: te.sum(
                sixteen[n, ty, a, b, tx, c] * kernel[f // block, a, b, c, f % block], axis=[c]
            ),
            name="winograd",
        )

        def back(n, y, x_, f):
            ty, dy, tx, dx = (part for v in (y, x_) for part in (tvm.tirx.floordiv(v, 2), tvm.tirx.floormod(v, 2)))
            total = None
            for i in range(3):
                for j in range(3):
                    term = sums[n, ty, dy + i, dx + j, tx, f]
                    for offset, phase in ((i, dy), (j, dx)):
                        if offset:
                            term = term * tvm.tirx.Select(
                                phase == 0, tvm.tirx.const(1, "float32"), tvm.tirx.const(-1, "float32")
                            )
                    total = term if total is None else total + term
            return total

        return te.compute((batch, height, width, stored), back, name="gathered")

    # The last step reads many sums a number, but only of its own tile: what follows may join it.
    result = e.te(compute, x, e.constant(packed), name="winograd", primfunc_attrs={"op_pattern": 4})
    return _finish(e, result, bias, filters, stored)


def _finish(e, result, bias, filters: int, stored: int):
    """Add the bias and cut off the channels that only fill up the last block."""
    if bias is not None:
        result = e.call(relax.op.add(result, e.constant(np.pad(bias, (0, stored - filters)).astype(np.float32))))
    if stored != filters:
        result = e.call(relax.op.strided_slice(result, [len(result.ty.shape) - 1], [0], [filters]))
    return result


def depthwise(
    e,
    x,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    stride: Sequence[int],
    pad: Sequence[int],
    dilate: Sequence[int] = (1, 1),
):
    """A convolution of each channel with its own kernel; as `convolution`, with a weight (C, 1, kh, kw)."""
    batch, height, width, channels = _shape(x)
    kernel_h, kernel_w = weight.shape[2:]
    out_h, out_w = (
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, p, d, k, s in zip((height, width), pad, dilate, (kernel_h, kernel_w), stride)
    )

    def compute(data, kernel):
        padded = _padded(data, pad, pad)
        ky, kx = te.reduce_axis((0, kernel_h), "ky"), te.reduce_axis((0, kernel_w), "kx")
        return te.compute(
            (batch, out_h, out_w, channels),
            lambda n, y, x_, c: te.sum(
                padded[n, y * stride[0] + ky * dilate[0], x_ * stride[1] + kx * dilate[1], c] * kernel[ky, kx, c],
                axis=[ky, kx],
            ),
            name="depthwise",
        )

    kernel = np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0), np.float32)
    if kernel.shape[:2] == (1, 1) and set(stride) == {1} and not any(pad):
        # A number a channel: a product, which joins what is done element by element around it.
        return _finish(e, e.call(relax.op.multiply(x, e.constant(kernel[0, 0]))), bias, channels, channels)
    result = e.te(compute, x, e.constant(kernel), name="depthwise")
    return _finish(e, result, bias, channels, channels)


def deconvolution(
    e,
    x,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    stride: Sequence[int],
    pad: Sequence[int],
    out_hw: Sequence[int],
    groups: int = 1,
):
    """A deconvolution channels-last without the zeros that TVM's own inserts: a quarter of the work at stride 2.

    Output row ``s i + a`` gathers the input rows ``i + (a + p) // s - t`` with the kernel rows ``(a + p) % s + s t``.
    So every phase (a, b) of the output is a small convolution with its own kernel, and the result, (B, I, s, J, s, F),
    is the map (B, s I, s J, F) as it lies in memory.

    Parameters
    ----------
    e : Emitter
    x : relax.Expr
        (B, h, w, C).
    weight : (C, F / groups, kh, kw) array
    bias : (F,) array or None
    stride, pad : (int, int)
    out_hw : (int, int)
        Height and width of the result.
    groups : int

    Returns
    -------
    relax.Var
        (B, *out_hw, F).
    """
    batch, height, width, _ = _shape(x)
    channels, each = weight.shape[0] // groups, weight.shape[1]
    filters = groups * each
    # (C / groups, F, kh, kw): the input channels that a filter sees.
    weight = weight.reshape(groups, channels, *weight.shape[1:]).swapaxes(0, 1)
    weight = weight.reshape(channels, filters, *weight.shape[3:])
    rows, columns = (_Phases(*what) for what in zip((height, width), stride, weight.shape[2:], pad, out_hw))
    phased = np.zeros((rows.stride, columns.stride, rows.taps, columns.taps, channels, filters), np.float32)
    for a, u, i in rows.places():
        for b, v, j in columns.places():
            phased[a, b, u, v] = weight[:, :, i, j]
    block = block_of(filters)
    packed = pack(phased, block)
    stored = packed.shape[0] * block

    def compute(data, kernel):
        padded = _padded(data, (rows.before, columns.before), (rows.after, columns.after))
        u, v = te.reduce_axis((0, rows.taps), "u"), te.reduce_axis((0, columns.taps), "v")
        c = te.reduce_axis((0, channels), "c")

        def channel(f):
            return c if groups == 1 else tvm.tirx.min(tvm.tirx.floordiv(f, each), groups - 1) * channels + c

        return te.compute(
            (batch, rows.cells, rows.stride, columns.cells, columns.stride, stored),
            lambda n, i, a, j, b, f: te.sum(
                padded[n, i + rows.start(a) + u, j + columns.start(b) + v, channel(f)]
                * kernel[f // block, a, b, u, v, c, f % block],
                axis=[u, v, c],
            ),
            # Where a phase begins is affine up to stride 2; a tile cannot be laid on the rest.
            name="deconvolution" if max(stride) <= 2 and groups == 1 else "phases",
        )

    result = e.te(compute, x, e.constant(packed), name="deconvolution")
    if bias is not None:
        result = e.call(relax.op.add(result, e.constant(np.pad(bias, (0, stored - filters)).astype(np.float32))))
    full_hw = rows.cells * rows.stride, columns.cells * columns.stride
    result = e.call(relax.op.reshape(result, [batch, *full_hw, stored]))
    if full_hw != tuple(out_hw) or stored != filters:
        result = e.call(relax.op.strided_slice(result, [1, 2, 3], [0, 0, 0], [*out_hw, filters]))
    return result


class _Phases:
    """One axis of a deconvolution: which inputs and kernel places each phase of the output takes."""

    def __init__(self, extent: int, stride: int, kernel: int, pad: int, out: int):
        self.stride, self.kernel, self.pad = stride, kernel, pad
        self.taps = -(-kernel // stride)
        self.cells = -(-out // stride)
        offsets = [(a + pad) // stride for a in range(stride)]
        # Tap u of phase a of cell i reads input i + offsets[a] - (taps - 1) + u.
        self.before = max(0, self.taps - 1 - offsets[0])
        self.after = max(0, self.cells - 1 + offsets[-1] - (extent - 1))
        self._first = self.before - (self.taps - 1)

    def start(self, phase):
        """Where a phase begins in the padded input, relative to its cell."""
        if self.stride == 1:
            return self.pad + self._first
        if self.stride == 2:
            # Written without a division, which would keep the index from being seen as affine.
            return self.pad // 2 + phase * (self.pad % 2) + self._first
        return tvm.tirx.floordiv(phase + self.pad, self.stride) + self._first

    def places(self):
        """(phase, tap, place in the kernel) of all kernel places."""
        for a in range(self.stride):
            for u in range(self.taps):
                place = (a + self.pad) % self.stride + self.stride * (self.taps - 1 - u)
                if place < self.kernel:
                    yield a, u, place
