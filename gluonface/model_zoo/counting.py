"""Parameters and multiply-accumulates of a net, counted on its graph."""

from __future__ import annotations

import json
import math

from .._compat import mx

__all__ = ["count_macs", "count_parameters"]


def count_parameters(block) -> int:
    """Trainable parameters of a block whose shapes are known; BatchNorm's running statistics are none."""
    return sum(math.prod(p.shape) for p in block.collect_params().values() if p.grad_req != "null")


def count_macs(block, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a block's convolutions, deconvolutions and dense layers, as the papers count them.

    Parameters
    ----------
    block : HybridBlock
        Of one input.
    input_shape : tuple of int
        (B, C, H, W); the count is for all B.

    Returns
    -------
    int
        Divide by 1e9 for the papers' GF.
    """
    outputs = block(mx.sym.var("data"))
    symbol = mx.sym.Group(list(outputs)) if isinstance(outputs, (tuple, list)) else outputs
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=input_shape)
    shape_of = dict(zip(internals.list_outputs(), shapes))
    nodes = json.loads(symbol.tojson())["nodes"]
    total = 0
    for node in nodes:
        if node["op"] not in ("Convolution", "Deconvolution", "FullyConnected"):
            continue
        source, weight = (nodes[i[0]] for i in node["inputs"][:2])
        kernel = math.prod(shape_of[weight["name"]][1:])
        if node["op"] == "Deconvolution":  # every input value is spread over the kernel
            name = source["name"]
            total += math.prod(shape_of[name if name in shape_of else f"{name}_output"]) * kernel
        else:
            total += math.prod(shape_of[f"{node['name']}_output"]) * kernel
    return total
