"""`ModelFacts`: what is known about a model, in code, beside its weights and in the manifest of a compiled artefact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields

from .errors import InputError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ModelFacts"]

#: Mean and standard deviation of ImageNet's RGB values in [0, 1], as GluonCV's presets use them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelFacts:
    """What is known about a model and, where it is trained, about its weights.

    Attributes
    ----------
    name, system, backbone, dataset : str
        The model's name and its parts.
    variant : str
        The part between backbone and dataset, such as a heatmap net's upscaling strategy; "" where there is none.
    task : str
        "detection": photos to faces; "landmarks": a crop of one face to its points.
    params : int
        Trainable parameters.
    gf : float
        Multiply-accumulates in 10^9 for one square input of ``size`` pixels that the model without weights is meant for
        (640 of a detector, 256 of KPNet, 192 of a landmark net), without decoding.
    mean, std : tuple of 3 float
        The input is ``(rgb / 255 - mean) / std``, RGB in this order.
    size : int
        Long side in pixels the net is meant for; of a landmark net the side of its crop.
    scheme : str or None
        Of a landmark net: the key of `gluonface.faces.SCHEMES` whose points it gives.
    template : tuple of five (x, y), or None
        Of a landmark net: where its crop has the five points, in shares of its side.
    mirror_shift : float
        Of a landmark net: how far to the right of a mirrored crop's points the net puts them, in shares of the crop's
        side, since people do not label symmetrically (twice the labels' shift from the middle). Flip averaging takes it
        into account.
    decoder : str
        Of a landmark net, or a MaskFace detector: how its heatmaps are read best, see
        :func:`gluonface.decode.decode_heatmaps`.
    scoring : str
        Of KPNet and of a RetinaFace with a cascade: what a face's score is that ranks faces best, see
        `gluonface.model_zoo.keypoint_detector.SCORINGS` and `gluonface.model_zoo.retinaface_mesh.SCORINGS`.
    score_thresh : float
        Score above which a detection is shown, by default.
    options : dict of str to float
        Options of `get_model` that the net of the weights has and the model without weights has not, such as
        ``{"channels": 64}`` of a light MaskFace.
    trained : bool
        Whether weights come with the package.
    licence : str
        Terms of the weights, in short; ``terms`` in plain words.
    research_only : bool
    data, start, recipe : str
        What it was trained on, from which weights, with which command.
    metric : dict of str to float
        Figure by what it is measured on.
    file, sha256 : str or None
        The weights file and its hash.
    card : str or None
        Path of the model's card.
    """

    name: str
    system: str
    backbone: str
    dataset: str
    params: int
    gf: float
    variant: str = ""
    task: str = "detection"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int = 640
    scheme: str | None = None
    template: tuple[tuple[float, float], ...] | None = None
    mirror_shift: float = 0.0
    decoder: str = "dark"
    scoring: str = "mean"
    score_thresh: float = 0.5
    options: dict = field(default_factory=dict)
    trained: bool = False
    licence: str = "no weights"
    terms: str = ""
    research_only: bool = False
    data: str = ""
    start: str = ""
    recipe: str = ""
    metric: dict = field(default_factory=dict)
    file: str | None = None
    sha256: str | None = None
    card: str | None = None

    def to_dict(self) -> dict:
        """All fields as JSON has them, but for ``card``, a path of this machine."""
        return {name: _as_json(getattr(self, name)) for name in _KINDS_OF}

    @classmethod
    def from_dict(cls, values: Mapping, source: str = "facts of a model") -> ModelFacts:
        """The facts that `to_dict` gave.

        Parameters
        ----------
        values : mapping
            Fields that have a default may be left out.
        source : str
            Named in errors, such as the file that this was read from.

        Raises
        ------
        InputError
            Unknown keys, missing keys, or a value of another kind.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"{source}: expected an object with the fields of ModelFacts, got {values!r:.80}")
        needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        unknown, missing = sorted(map(str, set(values) - set(_KINDS_OF))), sorted(needed - set(values))
        if unknown or missing:
            raise InputError(f"{source}: unknown keys {unknown}, missing keys {missing}")
        for name, value in values.items():
            what, fits = _KINDS[_KINDS_OF[name]]
            if not fits(value):
                raise InputError(f"{source}: expected {name} to be {what}, got {value!r:.80}")
        return cls(**{name: _as_field(value) for name, value in values.items()})


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_row(value, length: int, is_item) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == length and all(map(is_item, value))


def _are_figures(value) -> bool:
    return isinstance(value, Mapping) and all(_is_text(k) and _is_number(v) for k, v in value.items())


def _are_points(value) -> bool:
    return _is_row(value, 5, lambda point: _is_row(point, 2, _is_number))


# Annotation of a field -> what its value is, in words and as a check.
_KINDS = {
    "str": ("a string", _is_text),
    "str | None": ("a string or null", lambda value: value is None or _is_text(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number from 0 on", lambda value: _is_number(value) and isinstance(value, int) and value >= 0),
    "float": ("a number", _is_number),
    "tuple[float, ...]": ("three numbers", lambda value: _is_row(value, 3, _is_number)),
    "tuple[tuple[float, float], ...] | None": ("five points or null", lambda v: v is None or _are_points(v)),
    "dict": ("names with a number each", _are_figures),
}
_KINDS_OF = {f.name: f.type for f in fields(ModelFacts) if f.name != "card"}


def _as_json(value):
    """Lists for tuples, so that a dict is equal to what comes back from its JSON."""
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _as_field(value):
    """Tuples for lists."""
    if isinstance(value, (list, tuple)):
        return tuple(_as_field(item) for item in value)
    return dict(value) if isinstance(value, Mapping) else value
