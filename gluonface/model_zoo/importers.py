"""Weights of other packages brought into our blocks.

:func:`import_insightface` reads RetinaFace checkpoints of InsightFace's kind (MXNet symbol + params);
:func:`load_torch_backbone` reads ImageNet backbones as arrays under their PyTorch names.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np

from .._compat import mx
from ..errors import WeightsError
from . import store
from .weights import load_arrays

__all__ = ["import_insightface", "load_torch_backbone"]

# --- InsightFace
# -----------------------------------------------------------------------------------------------------------

# Their anchors stand 8 pixels from each cell's corner at every stride (base anchor 0..15, centre 7.5 counted from pixel
# centres); ours stand in the middle of the cell.
_INSIGHTFACE_CENTRE = 8.0
# Finest level first: stride, and the names of the lateral and of the level's convolutions.
_LEVELS = ((8, "rf_c1_red_conv", "rf_c1"), (16, "rf_c2_lateral", "rf_c2"), (32, "rf_c3_lateral", "rf_c3"))
_CONTEXT = {
    "conv3": "det_conv1",
    "stem": "det_context_conv1",
    "conv5": "det_context_conv2",
    "conv7_1": "det_context_conv3_1",
    "conv7_2": "det_context_conv3_2",
}


def _conv_names(num_backbone: int) -> list[tuple[str, str, str]]:
    """(our block, their convolution, their BatchNorm) of every normalised convolution, backbone first."""
    rows = []
    for i in range(num_backbone):
        rows.append((f"backbone:{i}", f"mobilenet0_conv{i}_fwd", f"mobilenet0_batchnorm{i}_fwd"))
    for level, (_, lateral, prefix) in enumerate(_LEVELS):
        rows.append((f"pyramid.laterals.{level}", lateral, f"{lateral}_bn"))
        if level < len(_LEVELS) - 1:
            rows.append((f"pyramid.smooth.{level}", f"{prefix}_aggr", f"{prefix}_aggr_bn"))
        for ours, theirs in _CONTEXT.items():
            rows.append((f"context.{level}.{ours}", f"{prefix}_{theirs}", f"{prefix}_{theirs}_bn"))
    return rows


def import_insightface(
    params: str | os.PathLike,
    symbol: str | os.PathLike | None = None,
    name: str = "retinaface_mobilenet0.25_widerface",
    ctx=None,
):
    """Read an InsightFace-style MXNet RetinaFace checkpoint (``mnet.25``) into our block.

    The symbol is compared with our network layer by layer (kernel, stride, padding, groups, filters, activation) before
    a weight is touched. Three things are converted, all exactly: a convolution's bias goes into the BatchNorm behind
    it, BatchNorm's epsilon into its variance, and the offset of their anchors into the biases of the box and point
    heads, so that the net decodes with our own anchors.

    Parameters
    ----------
    params : path
        ``*-0000.params``.
    symbol : path, optional
        ``*-symbol.json``; found beside the parameters by its usual name when not given.
    name : str
        Our model to fill.
    ctx : Context or list of Context

    Returns
    -------
    FaceDetector
        Its ``facts`` say how such a net wants its input: RGB values 0..255 as they are.

    Raises
    ------
    WeightsError
        Says precisely what differs: every layer that is missing or another, and every array without a place.
    """
    from .registry import get_model

    params = Path(params)
    symbol = (
        Path(symbol)
        if symbol is not None
        else params.with_name(re.sub(r"-\d+\.params$", "", params.name) + "-symbol.json")
    )
    arrays = {re.sub("^(arg|aux):", "", k): v for k, v in store.read_params(params).items()}
    nodes = _read_symbol(symbol)
    net = get_model(name)
    net.initialize(ctx=ctx if ctx is not None else mx.cpu())
    # Fixes the shapes that GluonCV's backbones leave to the first pass.
    net.network(mx.nd.zeros((1, 3, 64, 64), ctx=net.collect_params().list_ctx()[0]))
    converter = _InsightFaceConverter(net, nodes, arrays)
    values = converter.convert()
    if converter.problems:
        raise WeightsError(
            f"{params}: this checkpoint is not a {name}: " + "; ".join(converter.problems) + ". "
            "Give name= the model that it is, or train that model here."
        )
    load_arrays(net.network, values, source=params, ctx=ctx)
    net.facts = dataclasses.replace(net.facts, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    return net


def _read_symbol(path: Path) -> dict[str, dict]:
    """Nodes of a symbol file by name."""
    try:
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        return {
            n["name"]: {
                "op": n["op"],
                "attrs": n.get("attrs", n.get("attr", {})),
                "inputs": [nodes[i[0]]["name"] for i in n["inputs"]],
            }
            for n in nodes
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise WeightsError(f"{path}: cannot read the symbol: {type(error).__name__}: {error}") from error


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"-?\d+", text))


class _InsightFaceConverter:
    """Walks over our network and their checkpoint side by side and collects what differs."""

    def __init__(self, net, nodes: dict[str, dict], arrays: dict[str, np.ndarray]):
        self.net, self.nodes, self.arrays = net, nodes, arrays
        self.ours = _blocks_by_path(net.network)
        self.problems: list[str] = []
        self.used: set[str] = set()
        self.readers: dict[str, list[str]] = {}
        for node, facts in nodes.items():
            for source in facts["inputs"]:
                self.readers.setdefault(source, []).append(node)

    def take(self, name: str, shape: tuple | None = None) -> np.ndarray:
        self.used.add(name)
        if name not in self.arrays:
            self.problems.append(f"array {name} is missing")
            return np.zeros(shape or (1,), np.float32)
        array = self.arrays[name]
        if shape is not None and array.shape != shape:
            self.problems.append(f"array {name}: expected shape {shape}, got {array.shape}")
            return np.zeros(shape, np.float32)
        return array.astype(np.float32)

    def convert(self) -> dict[str, np.ndarray]:
        values = {}
        backbone = [p for p in self.ours if p.startswith("backbone.") and _is_conv(self.ours[p])]
        for ours, conv, norm in _conv_names(len(backbone)):
            if ours.startswith("backbone:"):
                conv_path = backbone[int(ours.split(":")[1])]
                norm_path = _next_path(conv_path)
            else:
                conv_path, norm_path = f"{ours}.0", f"{ours}.1"
            values.update(self._conv_and_norm(conv_path, norm_path, conv, norm))
        values.update(self._heads())
        left = sorted(set(self.arrays) - self.used)
        if left:
            self.problems.append(f"arrays without a place ({len(left)}): {', '.join(left[:5])}")
        return values

    def _conv_and_norm(self, conv_path: str, norm_path: str, conv: str, norm: str) -> dict[str, np.ndarray]:
        block = self.ours[conv_path]
        self._same_conv(block, conv)
        stem = conv.removesuffix("_fwd")
        norm_stem = norm.removesuffix("_fwd")
        channels = block._channels
        weight = self.take(f"{stem}_weight", block.weight.shape)
        attrs = self.nodes.get(norm, {}).get("attrs", {})
        if norm not in self.nodes:
            self.problems.append(f"layer {norm} is missing")
        gamma, beta = self.take(f"{norm_stem}_gamma", (channels,)), self.take(f"{norm_stem}_beta", (channels,))
        if attrs.get("fix_gamma", "True") in ("True", "1"):
            gamma = np.ones_like(gamma)
        # Gluon saves "running_", Module "moving_"; the fixture mixes both.
        kind = "running" if f"{norm_stem}_running_mean" in self.arrays else "moving"
        mean = self.take(f"{norm_stem}_{kind}_mean", (channels,))
        variance = self.take(f"{norm_stem}_{kind}_var", (channels,))
        if self.nodes.get(conv, {}).get("attrs", {}).get("no_bias", "False") not in ("True", "1"):
            mean = mean - self.take(f"{stem}_bias", (channels,))
        variance = variance + float(attrs.get("eps", 1e-3)) - self.ours[norm_path]._kwargs["eps"]
        self._same_activation(norm_path, norm)
        return {
            f"{conv_path}.weight": weight,
            f"{norm_path}.gamma": gamma,
            f"{norm_path}.beta": beta,
            f"{norm_path}.running_mean": mean,
            f"{norm_path}.running_var": variance,
        }

    def _same_conv(self, block, name: str) -> None:
        node = self.nodes.get(name)
        if node is None or node["op"] != "Convolution":
            self.problems.append(f"convolution {name} is missing")
            return
        kwargs = block._kwargs
        for key, default in (("kernel", None), ("stride", "(1, 1)"), ("pad", "(0, 0)"), ("dilate", "(1, 1)")):
            theirs = _numbers(node["attrs"].get(key, default))
            if tuple(kwargs[key]) != theirs:
                self.problems.append(f"{name}: {key} {theirs} where ours has {tuple(kwargs[key])}")
        for key, default in (("num_filter", None), ("num_group", "1")):
            theirs = int(node["attrs"].get(key, default))
            if kwargs[key] != theirs:
                self.problems.append(f"{name}: {key} {theirs} where ours has {kwargs[key]}")

    def _same_activation(self, norm_path: str, norm: str) -> None:
        expected = type(self.ours.get(_next_path(norm_path))).__name__ == "Activation"
        acts = [
            self.nodes[r]
            for r in self.readers.get(norm, [])
            if self.nodes[r]["op"] in ("Activation", "LeakyReLU", "clip")
        ]
        found = bool(acts)
        if found != expected:
            self.problems.append(
                f"{norm}: {'an' if found else 'no'} activation behind it where ours has {'one' if expected else 'none'}"
            )
        for act in acts:
            if act["op"] != "Activation" or act["attrs"].get("act_type") != "relu":
                self.problems.append(f"{norm}: activation {act['op']} {act['attrs']} where ours has relu")

    def _heads(self) -> dict[str, np.ndarray]:
        spec = self.net.spec
        values = {}
        for level, (stride, _, _) in enumerate(_LEVELS):
            # Their anchors of a cell are sorted from large to small, ours from small to large.
            shift = (_INSIGHTFACE_CENTRE - stride / 2) / np.asarray(spec.sizes[level], np.float32)
            for head, theirs, width in (
                ("cls_head", "cls_score", 2),
                ("box_head", "bbox_pred", 4),
                ("landmark_head", "landmark_pred", 2 * self.net.num_points),
            ):
                name = f"face_rpn_{theirs}_stride{stride}"
                block = self.ours[f"{head}.convs.{level}"]
                self._same_conv(block, name)
                weight = self.take(f"{name}_weight", block.weight.shape)
                bias = self.take(f"{name}_bias", block.bias.shape)
                per_cell = spec.per_cell
                if head == "cls_head":  # class-major there, anchor-major here
                    weight = weight.reshape(width, per_cell, *weight.shape[1:]).swapaxes(0, 1)
                    bias = bias.reshape(width, per_cell).swapaxes(0, 1)
                else:
                    weight = weight.reshape(per_cell, width, *weight.shape[1:])
                    bias = bias.reshape(per_cell, width)
                weight, bias = weight[::-1], bias[::-1].copy()
                if head == "box_head":
                    bias[:, :2] += shift[:, None]
                elif head == "landmark_head":
                    bias += shift[:, None]
                values[f"{head}.convs.{level}.weight"] = weight.reshape(block.weight.shape)
                values[f"{head}.convs.{level}.bias"] = bias.reshape(-1)
        return values


def _blocks_by_path(block, path: str = "") -> dict:
    """All descendants of a block by their structural path, in forward order of definition."""
    found = {}
    for name, child in block._children.items():
        child_path = f"{path}.{name}" if path else name
        found[child_path] = child
        found.update(_blocks_by_path(child, child_path))
    return found


def _is_conv(block) -> bool:
    return isinstance(block, mx.gluon.nn.Conv2D)


def _next_path(path: str) -> str:
    """Structural path of the following child of the same HybridSequential."""
    head, _, index = path.rpartition(".")
    return f"{head}.{int(index) + 1}"


# --- PyTorch-named backbones
# -----------------------------------------------------------------------------------------------


def _natural(name: str) -> list:
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def _forward_order(stem: str) -> list:
    """Sorts layers as they follow each other: in natural order, but torchvision's ShuffleNet V2 has its conv5 behind
    the stages.
    """
    return _natural(re.sub(r"^(module\.)?conv5\b", r"\1stage5", stem))


def load_torch_backbone(backbone, source: str | os.PathLike | dict[str, np.ndarray]) -> list[str]:
    """Fill a backbone from ImageNet weights kept under their PyTorch names.

    Both nets are walked in the order of their layers, a convolution and the BatchNorm behind it at a time; every shape
    must agree. Classifier layers and convolutions behind the last stage are left out.

    The published MobileNetV1 0.25 was trained with leaky activations (slope 0.1), GluonCV's backbone has plain ReLU:
    such weights are a start for training, not a classifier.

    Parameters
    ----------
    backbone : Backbone
    source : path of an ``.npz`` or dict of str to ndarray

    Returns
    -------
    list of str
        Names that were not used: the classifier and what stands behind the last stage.

    Raises
    ------
    WeightsError
        The file cannot be read or its layers are not this backbone's; names the first that differs.
    """
    if isinstance(source, dict):
        arrays, where = source, "arrays"
    else:
        where = os.fspath(source)
        try:
            with np.load(where, allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise WeightsError(f"{where}: cannot read the arrays of a backbone: {error}") from error
    stems = sorted({k.rpartition(".")[0] for k in arrays}, key=_forward_order)
    convs = [s for s in stems if arrays.get(f"{s}.weight", np.zeros(0)).ndim == 4]
    norms = [s for s in stems if f"{s}.running_mean" in arrays]
    blocks = _blocks_by_path(backbone)
    our_convs = [p for p, b in blocks.items() if _is_conv(b)]
    our_norms = [p for p, b in blocks.items() if isinstance(b, mx.gluon.nn.BatchNorm)]
    if len(convs) < len(our_convs) or len(norms) < len(our_norms):
        raise WeightsError(
            f"{where}: expected at least {len(our_convs)} convolutions and {len(our_norms)} BatchNorms, "
            f"found {len(convs)} and {len(norms)}"
        )
    values, used = {}, set()
    names = (("gamma", "weight"), ("beta", "bias"), ("running_mean", "running_mean"), ("running_var", "running_var"))
    for path, stem in zip(our_convs, convs):
        values[f"{path}.weight"] = arrays[f"{stem}.weight"]
        used.add(f"{stem}.weight")
    for path, stem in zip(our_norms, norms):
        for ours, theirs in names:
            if f"{stem}.{theirs}" not in arrays:
                raise WeightsError(f"{where}: {stem}.{theirs} is missing")
            values[f"{path}.{ours}"] = arrays[f"{stem}.{theirs}"]
            used.add(f"{stem}.{theirs}")
    expected = backbone._collect_params_with_prefix()
    for name, array in values.items():
        ours = expected[name].shape
        # Depthwise weights have extent 1 where GluonCV leaves the number of input channels (0) to the first pass.
        if len(ours) != array.ndim or any(o not in (0, n) for o, n in zip(ours, array.shape)):
            raise WeightsError(f"{where}: {name}: expected shape {ours}, got {array.shape}")
    load_arrays(backbone, {k: v.astype(np.float32) for k, v in values.items()}, source=where)
    return sorted(n for n in arrays if n not in used and not n.endswith("num_batches_tracked"))
