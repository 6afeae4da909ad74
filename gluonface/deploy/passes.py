"""Rewriting a graph for speed, before it becomes Relax."""

from __future__ import annotations

import numpy as np

from ..errors import DeployError
from ..facts import ModelFacts
from .symbol import Graph, Node

__all__ = ["NORMALISE", "take_canvas"]

#: The node that `take_canvas` puts in: bytes to normalised floats.
NORMALISE = "_normalise"


def take_canvas(graph: Graph, facts: ModelFacts) -> None:
    """Let the graph's one input be the canvas itself, (B, H, W, 3) uint8 RGB, and normalise inside.

    What the normalisation multiplies with goes into the weights of the first convolution, what it takes off is taken
    off where the canvas is padded anyway. ``(v / 255 - mean) / std`` is ``(v - 255 mean) / (255 std)``, and since only
    the product is moved, the border stays exactly what it was: zeros after normalising.

    Raises
    ------
    DeployError
        The graph's input is not (B, 3, H, W).
    """
    if len(graph.inputs) != 1 or len(graph.inputs[0].shape) != 4 or graph.inputs[0].shape[1] != 3:
        raise DeployError(f"expected a net of one input (B, 3, H, W), got {[node.shape for node in graph.inputs]}")
    (old,) = graph.inputs
    batch, _, height, width = old.shape
    canvas = Node("null", "canvas", shapes=[(batch, height, width, 3)], dtypes=["uint8"])
    off = np.float64(facts.mean) * 255
    scale = 1 / (np.float64(facts.std) * 255)
    first = [node for node in graph if (old, 0) in node.inputs]
    if all(_can_take(node, old) for node in first):
        for node in first:
            weight = node.in_value(1) * scale.reshape(1, 3, 1, 1)
            node.inputs[1] = (Node.constant(f"{node.name}_scaled_weight", weight.astype(np.float32)), 0)
        scale = np.ones(3)
    normalised = Node(
        NORMALISE,
        "normalised",
        inputs=[
            (canvas, 0),
            (Node.constant("canvas_mean", off.astype(np.float32)), 0),
            (Node.constant("canvas_scale", scale.astype(np.float32)), 0),
        ],
        shapes=[old.shape],
        dtypes=["float32"],
    )
    graph.replace({(old, 0): (normalised, 0)})
    graph.inputs = [canvas]


def _can_take(node: Node, source: Node) -> bool:
    return (
        node.op == "Convolution"
        and node.inputs[0] == (source, 0)
        and node.integer("num_group", 1) == 1
        and node.in_value(1) is not None
    )
