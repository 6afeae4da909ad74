"""MXNet symbols to TVM Relax: the road that TVM itself no longer has.

Data flow: Symbol, parameters, shapes -> `gluonface.deploy.symbol.read_symbol` -> `Graph` -> a converter an operator
(`gluonface.deploy.relax_ops`) -> Relax function.

Every value has static shapes. Maps may be stored channels-last, which is what vectorises: an operator says with what
it can work, and is given that; a map is only permuted where two neighbours do not agree. Inputs and outputs are always
as MXNet has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .._compat import import_optional
from ..errors import InputError
from .symbol import Graph, Node, Ref, read_symbol

__all__ = ["Emitter", "from_graph", "from_mxnet"]

tvm = import_optional("tvm", "deploy")
relax = import_optional("tvm.relax", "deploy")

#: Permutations from MXNet's order of a map's axes to the stored one, and back.
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def from_mxnet(
    symbol, params: Mapping, shapes: Mapping[str, Sequence[int]], *, channels_last: bool = True, function: str = "main"
):
    """A Relax module of an MXNet symbol.

    Parameters
    ----------
    symbol : mx.sym.Symbol
        Of inference; see :func:`gluonface.deploy.symbol.trace` for blocks.
    params : mapping of str to NDArray or ndarray
        Arguments and auxiliary states; names may begin with "arg:" or "aux:".
    shapes : mapping of str to sequence of int
        Of each input.
    channels_last : bool
        Store maps as (B, h, w, C) inside. False keeps MXNet's (B, C, h, w) throughout.
    function : str
        Name of the function.

    Returns
    -------
    tvm.IRModule
        Its function takes the inputs in the order of ``shapes`` and gives one tensor, or a tuple of the symbol's
        outputs; parameters are constants in it.

    Raises
    ------
    InputError
        Parameters or shapes do not fit the symbol.
    DeployError
        Operators without a converter, all named at once.
    """
    graph = read_symbol(symbol, params, shapes)
    graph.fold_batch_norms()
    graph.find_pixel_shuffles()
    graph.find_channel_shuffles()
    return from_graph(graph, channels_last=channels_last, function=function)


def from_graph(graph: Graph, *, channels_last: bool = True, function: str = "main", builder=None):
    """As `from_mxnet`, of a graph that was read, and perhaps rewritten, before.

    With ``builder``, a ``relax.BlockBuilder``, the function joins those that it has, and the module has them all.
    """
    emitter = Emitter(channels_last, builder)
    bb = emitter.bb
    variables = [relax.Var(node.name, relax.TensorType(node.shape, node.dtypes[0])) for node in graph.inputs]
    with bb.function(function, variables):
        with bb.dataflow():
            for node, variable in zip(graph.inputs, variables):
                emitter.put((node, 0), variable)
            emitter.run(graph)
            outputs = [emitter.plain(ref) for ref in graph.outputs]
            result = bb.emit_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        bb.emit_func_output(result)
    return bb.get()


class Emitter:
    """What converters work with: the values so far and the builder of the function.

    Parameters
    ----------
    prefer_last : bool
        Whether maps are stored channels-last.
    builder : relax.BlockBuilder, optional
    gpu : bool
        Whether kernels written by hand run on a GPU, and so must say on which threads.
    """

    def __init__(self, prefer_last: bool = True, builder=None, gpu: bool = False):
        self.bb = builder or relax.BlockBuilder()
        self.prefer_last, self.gpu = prefer_last, gpu
        self._plain: dict[Ref, relax.Expr] = {}
        self._last: dict[Ref, relax.Expr] = {}

    # ---- values

    def put(self, ref: Ref, value, channels_last: bool = False) -> None:
        """Keep a value."""
        (self._last if channels_last else self._plain)[ref] = value

    def is_last(self, ref: Ref) -> bool:
        """Whether a value is at hand channels-last and not as MXNet has it."""
        return ref in self._last and ref not in self._plain

    def plain(self, ref: Ref):
        """A value with its axes as MXNet has them."""
        if ref not in self._plain:
            if ref[0].value is not None:
                return self.constant(ref[0].value)
            self._plain[ref] = self._permuted(ref, self._last[ref], CHANNELS_FIRST)
        return self._plain[ref]

    def last(self, ref: Ref):
        """A map channels-last."""
        if ref not in self._last:
            if ref[0].value is not None:
                return self.constant(np.ascontiguousarray(ref[0].value.transpose(CHANNELS_LAST)))
            self._last[ref] = self._permuted(ref, self._plain[ref], CHANNELS_LAST)
        return self._last[ref]

    def _permuted(self, ref: Ref, value, axes: Sequence[int]):
        _, channels, height, width = shape = ref[0].shapes[ref[1]]
        if channels == 1 or height * width == 1:  # lies alike in both orders
            turned = [shape[axis] for axis in CHANNELS_LAST] if tuple(axes) == CHANNELS_LAST else shape
            return self.call(relax.op.reshape(value, turned))
        return self.call(relax.op.permute_dims(value, list(axes)))

    def get(self, ref: Ref, channels_last: bool):
        """A value in one order or the other."""
        return self.last(ref) if channels_last else self.plain(ref)

    def constant(self, array):
        """An array, or a number as float32, as a constant."""
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        return relax.const(array, str(array.dtype))  # without a type Relax would make int64 int32

    # ---- emitting

    def call(self, expression):
        """Name the value of an expression; what has a name keeps it, since a second one would hinder fusion."""
        return expression if isinstance(expression, relax.Var) else self.bb.emit(expression)

    def te(self, compute, *args, name: str, **attributes):
        """Name the value of a tensor-expression function, which gets TE tensors for Relax values."""
        return self.bb.emit_te(compute, *args, primfunc_name_hint=name, **attributes)

    def run(self, graph: Graph) -> None:
        """Convert all nodes of a graph whose inputs were `put`.

        Raises
        ------
        DeployError
            Operators without a converter, all named at once.
        """
        from .relax_ops import CONVERTERS

        graph.require(CONVERTERS, "Relax")
        for node in graph:
            if node.op != "null":
                self.emit(CONVERTERS[node.op], node)

    def emit(self, converter, node: Node) -> None:
        """Run a converter and keep what it gives.

        A converter returns an expression, or a list of them, as MXNet orders the axes; or ``Last(expression)``.
        """
        results = converter(self, node)
        for k, result in enumerate(results if isinstance(results, list) else [results]):
            last = isinstance(result, Last)
            self.put((node, k), self.call(result.value if last else result), last)


class Last:
    """Marks what a converter returns as channels-last."""

    def __init__(self, value):
        self.value = value


def checked_axis(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises
    ------
    InputError
        There is no such axis.
    """
    if not -rank <= axis < rank:
        raise InputError(f"expected an axis of a tensor with {rank} axes, got {axis}")
    return axis % rank
