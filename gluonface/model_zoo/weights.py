"""Facts about weights, read from beside the weights; and weights put into nets.

``model_zoo/<model>.json`` says which file holds the weights, its SHA-256, how the input is prepared, on what the net
was trained and on what terms it may be used. No fact about a trained net is written in code.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import fields
from pathlib import Path

import numpy as np

from ..errors import WeightsError
from ..facts import ModelFacts
from . import store

__all__ = ["load_arrays", "read_facts"]

#: Says once, when research-only weights are loaded, that they are. Silence:
#: ``logging.getLogger("gluonface.licence").disabled = True``.
licence_log = logging.getLogger("gluonface.licence")
_said: set[str] = set()


_FROM_FILE = {f.name for f in fields(ModelFacts)} - {
    "name",
    "system",
    "backbone",
    "dataset",
    "variant",
    "params",
    "gf",
    "task",
    "scheme",
    "trained",
    "card",
}


def read_facts(name: str, root: str | os.PathLike | None = None) -> dict:
    """Facts of a model's weights as keyword arguments of `ModelFacts`; empty when there are no weights.

    Raises
    ------
    WeightsError
        The facts cannot be read or lack what is needed to load the weights.
    """
    path = store.find_file(f"{name}.json", root)
    if path is None:
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot read the facts of the weights of {name}: {error}") from error
    unknown = sorted(set(facts) - _FROM_FILE)
    missing = sorted({"file", "sha256", "mean", "std", "licence", "research_only"} - set(facts))
    if unknown or missing:
        raise WeightsError(f"{path}: facts of weights: unknown keys {unknown}, missing keys {missing}")
    if "template" in facts:
        facts["template"] = tuple(tuple(point) for point in facts["template"])
    card = path.with_suffix(".md")
    facts.update(
        mean=tuple(facts["mean"]), std=tuple(facts["std"]), trained=True, card=str(card) if card.is_file() else None
    )
    return facts


def find_weights(facts: ModelFacts, root: str | os.PathLike | None = None) -> Path:
    """Path of a model's weights, after its SHA-256 was found right.

    Raises
    ------
    WeightsError
        No weights come with this model, the file is missing, or it is not the file it should be.
    """
    if not facts.trained:
        raise WeightsError(
            f"{facts.name}: no weights come with this model. Models that have some: "
            "gluonface.list_models(pretrained=True). To train it: python train/train_"
            f"{facts.system}.py --model {facts.name} --train LABELS.jsonl (--help says more); then "
            "net.load_parameters(file)."
        )
    path = store.find_file(facts.file, root)
    if path is None:
        looked = ", ".join(map(str, store.weight_folders(root)))
        raise WeightsError(f"{facts.name}: weights file {facts.file} not found in {looked}. Reinstall gluonface.")
    found = store.sha256_file(path)
    if found != facts.sha256:
        raise WeightsError(
            f"{path}: expected SHA-256 {facts.sha256}, found {found}: the file is damaged or another one. "
            "Get it again or reinstall gluonface."
        )
    if facts.research_only and facts.name not in _said:
        _said.add(facts.name)
        licence_log.warning("%s: these weights are for non-commercial research only. %s", facts.name, facts.terms)
    return path


def load_arrays(
    block,
    arrays: dict[str, np.ndarray],
    *,
    source,
    ctx=None,
    allow_missing: bool = False,
    ignore_extra: bool = False,
) -> None:
    """Put arrays into a block's parameters by their structural names, all or none.

    Parameters
    ----------
    block : gluon.Block
    arrays : dict of str to ndarray
    source : str or path
        Named in errors.
    ctx : Context or list of Context, optional
        Where parameters are put that are not initialised yet; CPU by default.
    allow_missing, ignore_extra : bool
        As in Gluon's ``load_parameters``.

    Raises
    ------
    WeightsError
        Names or shapes differ, or a number is not finite; lists what differs. The block is then unchanged.
    """
    params = block._collect_params_with_prefix()
    missing = [] if allow_missing else sorted(set(params) - set(arrays))
    extra = [] if ignore_extra else sorted(set(arrays) - set(params))
    wrong = [
        f"{n}: expected {params[n].shape}, got {a.shape}"
        for n, a in arrays.items()
        if n in params and not _fits(params[n].shape, a.shape)
    ]
    not_finite = [n for n, a in arrays.items() if n in params and not np.isfinite(a).all()]
    problems = [
        f"{title} ({len(names)}): {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for title, names in (
            ("missing", missing),
            ("not in this net", extra),
            ("of another shape", wrong),
            ("not finite", not_finite),
        )
        if names
    ]
    if problems:
        raise WeightsError(f"{source}: these weights do not fit {type(block).__name__}: {'; '.join(problems)}")
    from .._compat import mx

    for name, array in arrays.items():
        if name in params:
            params[name]._load_init(mx.nd.array(array, dtype=array.dtype), ctx or _contexts_of(params[name], mx))


def _fits(expected: tuple, found: tuple) -> bool:
    """Whether shapes agree; 0 is an extent not known yet."""
    return expected is None or (len(expected) == len(found) and all(e in (0, -1, f) for e, f in zip(expected, found)))


def _contexts_of(param, mx):
    return param.list_ctx() if param._data is not None or param._deferred_init else [mx.cpu()]
