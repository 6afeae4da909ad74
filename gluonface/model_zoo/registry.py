"""Models by name."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass

from .._compat import mx
from ..errors import InputError, ModelNotFoundError
from ..facts import ModelFacts
from . import heatmap, kpnet, maskface, mos, retinaface, retinaface_mesh, store, weights

__all__ = ["DEFAULT_DETECTOR", "get_model", "list_models", "model_facts"]

#: What ``FaceAnalyzer`` runs when nothing is asked for.
DEFAULT_DETECTOR = "retinaface_mobilenet0.25_mask"


@dataclass(frozen=True)
class System:
    """How the models of one paper are named and built.

    Attributes
    ----------
    task : str
        As in `ModelFacts`.
    models : list of (name, backbone, variant, dataset)
        Those that are listed.
    figures : callable
        ``figures(backbone, variant, dataset)``: parameters, GF and what else is known of a model without weights.
    build : callable
        ``build(facts, pretrained_base=, root=, **options)``.
    options : tuple of str
        Which of get_model's options its nets have.
    parse : callable, optional
        Name to (backbone, variant, dataset), or None, for models that are not listed.
    variant_options : callable, optional
        ``variant_options(variant)``: options that nets of this variant have besides.
    counted : tuple of str
        Options that ``figures`` takes besides.
    """

    task: str
    models: list
    figures: Callable
    build: Callable
    options: tuple[str, ...]
    parse: Callable | None = None
    variant_options: Callable[[str], tuple[str, ...]] | None = None
    counted: tuple[str, ...] = ()

    def options_of(self, variant: str) -> tuple[str, ...]:
        """All options of a net."""
        return self.options if self.variant_options is None else (*self.options, *self.variant_options(variant))


_NMS = ("nms_thresh", "nms_topk", "post_nms", "score_thresh")
_SYSTEMS = {
    "retinaface": System(
        "detection",
        retinaface.MODELS,
        retinaface.figures,
        retinaface.retinaface,
        options=_NMS,
        parse=retinaface_mesh.parse,
        variant_options=retinaface.options,
    ),
    "mos": System(
        "detection",
        mos.MODELS,
        mos.figures,
        mos.mos,
        options=(*_NMS, "head", "deformable"),
    ),
    "kpnet": System(
        "detection",
        kpnet.MODELS,
        kpnet.figures,
        kpnet.kpnet,
        options=(*_NMS, "head", "num_points", "reader", "boxes", "box_style", "scoring", "beta"),
    ),
    "maskface": System(
        "detection",
        maskface.MODELS,
        maskface.figures,
        maskface.maskface,
        options=(*_NMS, "channels", "num_points", "k0", "roi_scale", "context", "keypoints", "frozen", "decoder"),
        counted=("channels", "num_points"),
    ),
    "heatmap": System(
        "landmarks",
        heatmap.MODELS,
        heatmap.figures,
        heatmap.heatmap,
        options=("filters", "stem", "num_points", "decoder", "size"),
        parse=heatmap.parse,
        counted=("filters", "stem", "num_points"),
    ),
}
_MODELS = {name: (system, *parts) for system, facts in _SYSTEMS.items() for name, *parts in facts.models}


def _find(name: str) -> tuple[str, str, str, str]:
    """System, backbone, variant and dataset of a model."""
    if name in _MODELS:
        return _MODELS[name]
    for system, facts in _SYSTEMS.items():
        found = facts.parse(name) if facts.parse else None
        if found:
            return system, *found
    near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.3)
    raise ModelNotFoundError(f"no model is called {name!r}; near: {', '.join(near) or ', '.join(_MODELS)}")


def model_facts(name: str, root: str | os.PathLike | None = None) -> ModelFacts:
    """What is known about a model; see :class:`gluonface.facts.ModelFacts`.

    Raises
    ------
    ModelNotFoundError
        No such model; names the nearest.
    """
    system, backbone, variant, dataset = _find(name)
    of_weights = weights.read_facts(name, root)
    counted = {k: v for k, v in of_weights.get("options", {}).items() if k in _SYSTEMS[system].counted}
    known = _SYSTEMS[system].figures(backbone, variant, dataset, **counted)
    known.update(of_weights)
    return ModelFacts(
        name=name,
        system=system,
        backbone=backbone,
        variant=variant,
        dataset=dataset,
        task=_SYSTEMS[system].task,
        **known,
    )


def list_models(
    filter: str = "*",
    pretrained: bool = False,
    root: str | os.PathLike | None = None,
    *,
    task: str | None = None,
) -> list[str]:
    """Names of the models.

    Parameters
    ----------
    filter : str
        Shell pattern, such as ``"retinaface_*"``; a word without wildcard finds the names that contain it.
    pretrained : bool
        Only models that have weights here.
    root : path, optional
        A folder of weights of your own beside those that came with the package.
    task : {"detection", "landmarks"}, optional
        Only models for it.

    Raises
    ------
    InputError
        No such task.
    """
    tasks = sorted({system.task for system in _SYSTEMS.values()})
    if task is not None and task not in tasks:
        raise InputError(f"expected a task among {', '.join(tasks)}, got {task!r}")
    pattern = filter if any(c in filter for c in "*?[") else f"*{filter}*"
    names = fnmatch.filter(_MODELS, pattern)
    return [
        name
        for name in names
        if (task is None or _SYSTEMS[_MODELS[name][0]].task == task)
        and (not pretrained or store.find_file(f"{name}.json", root) is not None)
    ]


def get_model(
    name: str,
    pretrained: bool = False,
    pretrained_base: bool | str | os.PathLike = False,
    ctx=None,
    root: str | os.PathLike | None = None,
    *,
    nms_thresh: float | None = None,
    nms_topk: int | None = None,
    post_nms: int | None = None,
    score_thresh: float | None = None,
    head: str | None = None,
    deformable: bool | None = None,
    cascade: bool | None = None,
    mesh: bool | None = None,
    reader: str | None = None,
    boxes: str | None = None,
    box_style: str | None = None,
    scoring: str | None = None,
    beta: float | None = None,
    channels: int | None = None,
    k0: float | None = None,
    roi_scale: float | None = None,
    context: bool | None = None,
    keypoints: bool | None = None,
    frozen: bool | None = None,
    filters: int | None = None,
    stem: int | None = None,
    num_points: int | None = None,
    decoder: str | None = None,
    size: int | None = None,
):
    """Build a model by name, as GluonCV's ``get_model`` does.

    Parameters
    ----------
    name : str
        One of :func:`list_models`: ``<system>_<backbone>[_<variant>]_<dataset>``. The variant of a heatmap net may be
        any string of up to four letters s and d, listed or not, that of a RetinaFace with a mesh any ``mesh<V>``.
    pretrained : bool
        Load the weights that came with the package; they are found by their SHA-256, nothing is downloaded. The net
        then has the options that these weights were trained with (``options`` of their facts), unless told otherwise.
    pretrained_base : bool or path
        Start the backbone from ImageNet weights: True takes GluonCV's (downloaded by GluonCV), a path an ``.npz`` of
        arrays under their PyTorch names. Ignored when ``pretrained`` is True.
    ctx : Context or list of Context
        Where the parameters go; CPU by default.
    root : path, optional
        Folder searched for weights before the package's own.
    nms_thresh, nms_topk, post_nms, score_thresh
        Of a detector, see :meth:`gluonface.model_zoo.detector.FaceDetector.set_nms`.
    cascade, deformable, mesh, scoring
        Of a RetinaFace with a mesh, see :func:`gluonface.model_zoo.retinaface_mesh.retinaface_mesh`.
    head, deformable
        Of a MOS net, see :func:`gluonface.model_zoo.mos.mos`.
    head, num_points, reader, boxes, box_style, scoring, beta
        Of KPNet, see :func:`gluonface.model_zoo.kpnet.kpnet`.
    channels, num_points, k0, roi_scale, context, keypoints, frozen, decoder
        Of MaskFace, see :func:`gluonface.model_zoo.maskface.maskface`.
    filters, stem, num_points, decoder, size
        Of a landmark net, see :func:`gluonface.model_zoo.heatmap.heatmap`.

    Returns
    -------
    FaceDetector, RetinaFaceMeshDetector, KeypointDetector, TagDetector, MaskFaceDetector or LandmarkNet
        With parameters if ``pretrained``; otherwise call ``net.initialize()``, which keeps a pretrained backbone.

    Raises
    ------
    ModelNotFoundError, WeightsError
    InputError
        An option that this model does not have, or out of range.
    """
    facts = model_facts(name, root)
    path = weights.find_weights(facts, root) if pretrained else None
    of_weights = facts.options if pretrained else {}
    facts = dataclasses.replace(facts, options=of_weights)
    system = _SYSTEMS[facts.system]
    options = {
        "nms_thresh": nms_thresh,
        "nms_topk": nms_topk,
        "post_nms": post_nms,
        "score_thresh": score_thresh,
        "head": head,
        "deformable": deformable,
        "cascade": cascade,
        "mesh": mesh,
        "reader": reader,
        "boxes": boxes,
        "box_style": box_style,
        "scoring": scoring,
        "beta": beta,
        "channels": channels,
        "k0": k0,
        "roi_scale": roi_scale,
        "context": context,
        "keypoints": keypoints,
        "frozen": frozen,
        "filters": filters,
        "stem": stem,
        "num_points": num_points,
        "decoder": decoder,
        "size": size,
    }
    options = of_weights | {option: value for option, value in options.items() if value is not None}
    known = system.options_of(facts.variant)
    foreign = sorted(set(options) - set(known))
    if foreign:
        raise InputError(f"{name} has no {', '.join(foreign)}; its options are {', '.join(known)}")
    base = False if pretrained else pretrained_base
    net = system.build(facts, pretrained_base=base, root=root, **options)
    ctx = ctx if ctx is not None else mx.cpu()
    if path is not None:
        net.load_parameters(path, ctx=ctx)
    elif pretrained_base:
        for parameter in net.collect_params().values():
            if parameter._data is not None:  # the backbone's; the rest waits for net.initialize()
                parameter.reset_ctx(ctx)
    return net
