"""Models by name."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass

from .._compat import mx
from ..errors import ModelNotFoundError
from . import retinaface, store, weights
from .weights import ModelFacts

__all__ = ["DEFAULT_DETECTOR", "get_model", "list_models", "model_facts"]

#: What ``FaceAnalyzer`` runs when nothing is asked for.
DEFAULT_DETECTOR = "retinaface_mobilenet0.25_mask"


@dataclass(frozen=True)
class System:
    """How the models of one paper are built: its table of variants and its constructor."""

    variants: dict
    build: Callable


_SYSTEMS = {"retinaface": System(retinaface.VARIANTS, retinaface.retinaface)}
_MODELS = {name: ("retinaface", backbone, dataset) for name, backbone, dataset in retinaface.MODELS}


def model_facts(name: str, root: str | os.PathLike | None = None) -> ModelFacts:
    """What is known about a model; see :class:`gluonface.model_zoo.weights.ModelFacts`.

    Raises
    ------
    ModelNotFoundError
        No such model; names the nearest.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.3)
        raise ModelNotFoundError(f"no model is called {name!r}; near: {', '.join(near) or ', '.join(_MODELS)}")
    system, backbone, dataset = _MODELS[name]
    variant = _SYSTEMS[system].variants[backbone]
    return ModelFacts(
        name=name,
        system=system,
        backbone=backbone,
        dataset=dataset,
        params=variant.params,
        gf=variant.gf,
        **weights.read_facts(name, root),
    )


def list_models(filter: str = "*", pretrained: bool = False, root: str | os.PathLike | None = None) -> list[str]:
    """Names of the models.

    Parameters
    ----------
    filter : str
        Shell pattern, such as ``"retinaface_*"``; a word without wildcard finds the names that contain it.
    pretrained : bool
        Only models that have weights here.
    root : path, optional
        A folder of weights of your own beside those that came with the package.
    """
    pattern = filter if any(c in filter for c in "*?[") else f"*{filter}*"
    names = fnmatch.filter(_MODELS, pattern)
    return [n for n in names if not pretrained or store.find_file(f"{n}.json", root) is not None]


def get_model(
    name: str,
    pretrained: bool = False,
    pretrained_base: bool | str | os.PathLike = False,
    ctx=None,
    root: str | os.PathLike | None = None,
    *,
    nms_thresh: float = 0.4,
    nms_topk: int = 1000,
    post_nms: int = 750,
    score_thresh: float = 0.02,
):
    """Build a model by name, as GluonCV's ``get_model`` does.

    Parameters
    ----------
    name : str
        One of :func:`list_models`: ``<system>_<backbone>[_<variant>]_<dataset>``.
    pretrained : bool
        Load the weights that came with the package; they are found by their SHA-256, nothing is downloaded.
    pretrained_base : bool or path
        Start the backbone from ImageNet weights: True takes GluonCV's (downloaded by GluonCV), a path an ``.npz`` of
        arrays under their PyTorch names. Ignored when ``pretrained`` is True.
    ctx : Context or list of Context
        Where the parameters go; CPU by default.
    root : path, optional
        Folder searched for weights before the package's own.
    nms_thresh, nms_topk, post_nms, score_thresh
        See :meth:`gluonface.model_zoo.detector.FaceDetector.set_nms`.

    Returns
    -------
    FaceDetector
        With parameters if ``pretrained``; otherwise call ``net.initialize()``, which keeps a pretrained backbone.

    Raises
    ------
    ModelNotFoundError, WeightsError
    """
    facts = model_facts(name, root)
    path = weights.find_weights(facts, root) if pretrained else None
    build = _SYSTEMS[facts.system].build
    net = build(facts.backbone, facts, pretrained_base=False if pretrained else pretrained_base, root=root)
    net.set_nms(nms_thresh, nms_topk, post_nms, score_thresh)
    ctx = ctx if ctx is not None else mx.cpu()
    if path is not None:
        net.load_parameters(path, ctx=ctx)
    elif pretrained_base:
        for parameter in net.collect_params().values():
            if parameter._data is not None:  # the backbone's; the rest waits for net.initialize()
                parameter.reset_ctx(ctx)
    return net
