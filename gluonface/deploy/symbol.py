"""MXNet symbols as a graph that can be read and rewritten: static shapes, constants found, BatchNorm folded.

Data flow: Symbol, parameters and input shapes -> `read_symbol` -> `Graph` of `Node`s, every value with its shape ->
converters (`gluonface.deploy.relax`, `gluonface.deploy.onnx_export`).
"""

from __future__ import annotations

import ast
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .._compat import mx
from ..errors import DeployError, InputError

__all__ = ["Graph", "Node", "Ref", "read_symbol", "trace"]

#: Operators whose result depends on the shape of their input alone.
_OF_SHAPE = frozenset(
    {"zeros_like", "ones_like", "_contrib_arange_like", "_contrib_MultiBoxPrior", "shape_array", "size_array"}
)
#: Operators that change nothing but the shape.
_RESHAPES = frozenset({"Reshape", "Flatten", "expand_dims", "squeeze", "reshape_like"})
#: Operators that give other numbers every time, or training what inference does not need.
_RANDOM = ("_random", "_sample", "_npi_random", "_shuffle")


@dataclass(eq=False)
class Node:
    """An operator, an input or a constant.

    Attributes
    ----------
    op : str
        MXNet's name of the operator; "null" for inputs, parameters and constants.
    name : str
    attrs : dict of str to str
        As MXNet writes them; read them with `text`, `number`, `integer`, `flag` and `integers`.
    inputs : list of (Node, int)
        Which output of which node.
    shapes : list of tuple of int
        Of each output.
    dtypes : list of str
        Of each output, as NumPy names them.
    value : ndarray or None
        Of parameters and constants.
    """

    op: str
    name: str
    attrs: dict[str, str] = field(default_factory=dict)
    inputs: list[Ref] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    value: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"<{self.op} {self.name} {' '.join(map(str, self.shapes))}>"

    @classmethod
    def constant(cls, name: str, value: np.ndarray) -> Node:
        """A node that holds an array."""
        return cls("null", name, shapes=[value.shape], dtypes=[value.dtype.name], value=value)

    @property
    def is_input(self) -> bool:
        """Whether its values come from outside."""
        return self.op == "null" and self.value is None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return self.shapes[0]

    def in_shape(self, i: int = 0) -> tuple[int, ...]:
        """Shape of input ``i``."""
        node, k = self.inputs[i]
        return node.shapes[k]

    def in_dtype(self, i: int = 0) -> str:
        """Type of input ``i``."""
        node, k = self.inputs[i]
        return node.dtypes[k]

    def in_value(self, i: int) -> np.ndarray | None:
        """Array of input ``i`` where it is a constant."""
        return self.inputs[i][0].value

    def literal(self, key: str, default=None):
        """Attribute as a Python value: number, tuple, None, bool; text stays text."""
        text = self.attrs.get(key)
        if text is None:
            return default
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return {"true": True, "false": False, "none": None}.get(text.lower(), text)

    def text(self, key: str, default: str | None = None) -> str | None:
        """Attribute as it is written; the default also for "None"."""
        text = self.attrs.get(key)
        return default if text in (None, "None") else text

    def number(self, key: str, default: float | None = None) -> float | None:
        """Attribute as a float."""
        value = self.literal(key)
        return default if value is None else float(value)

    def integer(self, key: str, default: int | None = None) -> int | None:
        """Attribute as an int."""
        value = self.literal(key)
        return default if value is None else int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """Attribute as a bool; MXNet writes True, true and 1."""
        value = self.literal(key)
        return default if value is None else bool(value)

    def integers(self, key: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """Attribute as a tuple of ints; one number and an empty tuple are the default's business."""
        value = self.literal(key)
        if value is None or value == ():
            return None if default is None else tuple(default)
        return tuple(int(v) for v in value) if isinstance(value, (tuple, list)) else (int(value),)


#: A value: which output of which node.
Ref = tuple[Node, int]


@dataclass
class Graph:
    """Nodes that lead from inputs to outputs.

    Attributes
    ----------
    inputs : list of Node
        In the order in which they were asked for.
    outputs : list of (Node, int)
    """

    inputs: list[Node]
    outputs: list[Ref]

    def __iter__(self) -> Iterator[Node]:
        """Every node that an output needs, after those it needs itself."""
        done: set[Node] = set()
        stack: list[tuple[Node, bool]] = [(node, False) for node, _ in reversed(self.outputs)]
        while stack:
            node, ready = stack.pop()
            if node in done:
                continue
            if ready:
                done.add(node)
                yield node
                continue
            stack.append((node, True))
            stack.extend((n, False) for n, _ in reversed(node.inputs) if n not in done)

    def uses(self) -> Counter:
        """How many inputs and graph outputs take each value."""
        count = Counter(ref for node in self for ref in node.inputs)
        count.update(self.outputs)
        return count

    def replace(self, changes: Mapping[Ref, Ref]) -> None:
        """Let everything that takes a value take another one; chains of changes are followed."""

        def new(ref: Ref) -> Ref:
            while ref in changes:
                ref = changes[ref]
            return ref

        # From the outputs on, so that the nodes that come in are reached as well.
        self.outputs = [new(ref) for ref in self.outputs]
        seen, stack = set(), [node for node, _ in self.outputs]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                node.inputs = [new(ref) for ref in node.inputs]
                stack.extend(n for n, _ in node.inputs)

    def operators(self) -> set[str]:
        """Names of the operators in use."""
        return {node.op for node in self if node.op != "null"}

    def require(self, supported, target: str) -> None:
        """Raise one error with every operator that is not among ``supported``.

        Raises
        ------
        DeployError
            Lists operators with how often they occur and one example each.
        """
        missing: dict[str, list[str]] = {}
        for node in self:
            if node.op != "null" and node.op not in supported:
                missing.setdefault(node.op, []).append(node.name)
        if missing:
            lines = ", ".join(f"{op} ({len(names)} times, such as {names[0]})" for op, names in sorted(missing.items()))
            raise DeployError(f"operators that cannot be written as {target} yet: {lines}")

    def fold_batch_norms(self) -> None:
        """Put every BatchNorm that follows a convolution or a dense layer alone into its weights."""
        uses, changes = self.uses(), {}
        for node in list(self):
            if node.op not in ("BatchNorm", "_contrib_SyncBatchNorm"):
                continue
            scale, shift = batch_norm_terms(node)
            source, k = node.inputs[0]
            axis = node.integer("axis", 1) % len(node.in_shape())
            if (
                source.op not in ("Convolution", "Deconvolution", "FullyConnected")
                or uses[source, k] > 1
                or axis != (1 if source.op != "FullyConnected" else len(source.shape) - 1)
                or source.in_value(1) is None
                or source.text("layout", "NCHW")[:2] != "NC"
            ):
                continue
            _scale(source, scale, shift)
            changes[node, 0] = (source, 0)
        self.replace(changes)

    def find_pixel_shuffles(self) -> None:
        """Put one node in the place of every chain of reshapes and a transposition that is a pixel shuffle.

        The node's operator is "_pixel_shuffle", its attributes are ``block``, rows and columns of a block, and
        ``block_first``: channel ``(i g + j) C + c`` of the input goes to place (i, j) of channel c if True, channel
        ``(c f + i) g + j`` if False.
        """
        changes = {}
        for node in list(self):
            if node.op not in _RESHAPES or len(node.shape) != 4:
                continue
            turned = _before_reshapes(node.inputs[0], 6)[0]
            if turned.op != "transpose" or len(turned.shape) != 6:
                continue
            source = _before_reshapes(turned.inputs[0], 4)
            shape, axes = turned.in_shape(), turned.integers("axes")
            if axes == (0, 1, 4, 2, 5, 3):
                batch, channels, f, g, height, width = shape
            elif axes == (0, 3, 4, 1, 5, 2):
                batch, f, g, channels, height, width = shape
            else:
                continue
            before, after = (batch, channels * f * g, height, width), (batch, channels, height * f, width * g)
            if source[0].shapes[source[1]] == before and node.shape == after:
                attrs = {"block": f"({f}, {g})", "block_first": str(axes[1] == 3)}
                shuffle = Node("_pixel_shuffle", node.name, attrs, [source], [node.shape], [node.dtypes[0]])
                changes[node, 0] = (shuffle, 0)
        self.replace(changes)

    def find_channel_shuffles(self) -> None:
        """Put one node in the place of every stack of n maps and reshape that takes their channels in turn.

        The node's operator is "_channel_shuffle": channel c of map k becomes channel ``n c + k``.
        """
        changes = {}
        for node in list(self):
            if node.op not in _RESHAPES or len(node.shape) != 4:
                continue
            stack = _before_reshapes(node.inputs[0], 5)[0]
            if stack.op != "stack" or len(stack.shape) != 5 or stack.integer("axis", 0) % 5 != 2:
                continue
            batch, channels, count, *sides = stack.shape
            if node.shape == (batch, channels * count, *sides):
                shuffle = Node("_channel_shuffle", node.name, {}, stack.inputs, [node.shape], [node.dtypes[0]])
                changes[node, 0] = (shuffle, 0)
        self.replace(changes)


def _before_reshapes(ref: Ref, rank: int) -> Ref:
    """The value with so many axes from which reshapes lead to this one; the first of all if none has them."""
    while len(ref[0].shapes[ref[1]]) != rank and ref[0].op in _RESHAPES:
        ref = ref[0].inputs[0]
    return ref


def batch_norm_terms(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift (C,) that a BatchNorm in inference is."""
    gamma, beta, mean, variance = (node.in_value(i) for i in range(1, 5))
    if any(array is None for array in (gamma, beta, mean, variance)):
        raise DeployError(f"{node.name}: expected the four arrays of a BatchNorm among the parameters")
    if node.flag("fix_gamma", True):
        gamma = np.ones_like(gamma)
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + node.number("eps", 1e-3))
    return scale, beta - mean * scale


def _scale(source: Node, scale: np.ndarray, shift: np.ndarray) -> None:
    """Let a convolution or dense layer multiply and shift its outputs per channel."""
    weight = source.in_value(1).astype(np.float64)
    if source.op == "Deconvolution":
        # (C_in, C_out / groups, ...): the output channel is the group's times the second axis.
        groups = source.integer("num_group", 1)
        shaped = weight.reshape(groups, -1, *weight.shape[1:])
        shaped = shaped * scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        weight = shaped.reshape(weight.shape)
    else:
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    no_bias = source.flag("no_bias", source.op == "Deconvolution")
    bias = shift if no_bias else shift + source.in_value(2) * scale
    inputs = [source.inputs[0]]
    for role, array in (("weight", weight), ("bias", bias)):
        inputs.append((Node.constant(f"{source.name}_folded_{role}", array.astype(np.float32)), 0))
    source.inputs, source.attrs = inputs, {**source.attrs, "no_bias": "False"}


def trace(block, *names: str):
    """Symbol of a block with its outputs in order, and its parameters.

    Parameters
    ----------
    block : HybridBlock
        Initialised.
    *names : str
        Of its inputs; "data" by default.

    Returns
    -------
    symbol : mx.sym.Symbol
    params : dict of str to ndarray
    """
    outputs = block(*(mx.sym.var(name) for name in names or ("data",)))
    symbol = mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
    wanted = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    params = {
        name: parameter.data(parameter.list_ctx()[0]).asnumpy()
        for name, parameter in block.collect_params().items()
        if name in wanted
    }
    return symbol, params


def read_symbol(symbol, params: Mapping, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """A symbol as a graph, with static shapes and everything that does not depend on the inputs' values computed.

    Parameters
    ----------
    symbol : mx.sym.Symbol
    params : mapping of str to NDArray or ndarray
        Names may begin with "arg:" or "aux:" as in a ``.params`` file.
    shapes : mapping of str to sequence of int
        Shape of every input.

    Returns
    -------
    Graph

    Raises
    ------
    InputError
        Parameters are missing or have another shape, or an input does not occur.
    DeployError
        Shapes cannot be inferred.
    """
    arrays = {name.removeprefix("arg:").removeprefix("aux:"): _as_array(a) for name, a in params.items()}
    shapes = {name: tuple(int(side) for side in shape) for name, shape in shapes.items()}
    variables = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    unknown, missing = sorted(set(shapes) - set(variables)), sorted(set(variables) - set(shapes) - set(arrays))
    if unknown or missing:
        raise InputError(
            "expected a shape for every input and an array for every other variable of the symbol; "
            f"not in the symbol: {unknown or 'none'}; without shape or array: {missing or 'none'}"
        )
    internals = symbol.get_internals()
    content = json.loads(internals.tojson())
    known = {**{n: arrays[n].shape for n in variables if n in arrays and n not in shapes}, **shapes}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cannot decide shape")  # an error of its own
            _, out_shapes, _ = internals.infer_shape(**known)
        _, out_types, _ = internals.infer_type(
            **{n: arrays[n].dtype if n in arrays and n not in shapes else np.float32 for n in known}
        )
    except mx.MXNetError as error:
        raise DeployError(f"shapes {shapes} do not go through the symbol: {error}") from error
    if out_shapes is None or any(0 in shape for shape in out_shapes):
        culprits = _without_shape(internals, content, known)
        raise DeployError(f"shapes of {', '.join(culprits)} do not follow from those of the inputs, {shapes}")

    nodes = [
        Node(n["op"], n["name"], dict(n.get("attrs", {})), value=None if n["name"] in shapes else arrays.get(n["name"]))
        for n in content["nodes"]
    ]
    for node, stored in zip(nodes, content["nodes"]):
        if node.op != "null":
            node.value = None
        node.inputs = [(nodes[i], k) for i, k, *_ in stored["inputs"]]
    place: dict[Ref, int] = {}
    for number, (i, k, *_) in enumerate(content["heads"]):
        node = nodes[i]
        place[node, k] = number
        node.shapes.append(tuple(int(side) for side in out_shapes[number]))
        node.dtypes.append(np.dtype(out_types[number] if out_types else np.float32).name)
    heads = json.loads(symbol.tojson())
    by_name = {node.name: node for node in nodes}
    outputs = [(by_name[heads["nodes"][i]["name"]], k) for i, k, *_ in heads["heads"]]
    graph = Graph([by_name[name] for name in shapes], outputs)
    _fold_constants(graph, internals, place, arrays, shapes)
    return graph


def _as_array(array) -> np.ndarray:
    """NDArray or array; real numbers as float32, in which inputs come and everything is computed."""
    array = np.asarray(array.asnumpy() if hasattr(array, "asnumpy") else array)
    return array.astype(np.float32, copy=False) if np.issubdtype(array.dtype, np.floating) else array


def _without_shape(internals, content: Mapping, known: Mapping) -> list[str]:
    """Operators whose inputs have shapes, but they do not, such as those whose shape depends on values."""
    _, partial, _ = internals.infer_shape_partial(**known)
    nodes = content["nodes"]
    shapes = {(i, k): shape for (i, k, *_), shape in zip(content["heads"], partial)}

    def unknown(i: int, k: int) -> bool:
        return not shapes.get((i, k)) or 0 in shapes[i, k]

    return [
        f"{node['name']} ({node['op']})"
        for i, node in enumerate(nodes)
        if unknown(i, 0) and not any(unknown(source, k) for source, k, *_ in node["inputs"])
    ]


def _fold_constants(graph: Graph, internals, place: Mapping[Ref, int], arrays: Mapping, shapes: Mapping) -> None:
    """Let MXNet compute what needs no input, such as anchors, and put the arrays in its place."""
    fixed: set[Node] = set()
    for node in graph:
        if node.op == "null":
            if not node.is_input:
                fixed.add(node)
        elif node.op in _OF_SHAPE or (all(n in fixed for n, _ in node.inputs) and not node.op.startswith(_RANDOM)):
            fixed.add(node)
    wanted = []
    for ref in [*(ref for node in graph if node not in fixed for ref in node.inputs), *graph.outputs]:
        if ref[0] in fixed and ref[0].op != "null" and ref not in wanted:
            wanted.append(ref)
    if not wanted:
        return
    group = mx.sym.Group([internals[place[ref]] for ref in wanted])
    values = {n: mx.nd.array(arrays[n], dtype=arrays[n].dtype) for n in arrays if n not in shapes}
    # Only the shape of an input matters to what is computed here.
    values |= {name: mx.nd.zeros(shape) for name, shape in shapes.items()}
    executor = group.bind(
        mx.cpu(),
        {n: values[n] for n in group.list_arguments()},
        aux_states={n: values[n] for n in group.list_auxiliary_states()},
        grad_req="null",
    )
    results = executor.forward(is_train=False)
    graph.replace(
        {ref: (Node.constant(f"{ref[0].name}_value", result.asnumpy()), 0) for ref, result in zip(wanted, results)}
    )
