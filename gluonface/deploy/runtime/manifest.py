"""`Manifest`: all that an artefact says about itself, checked key by key.

``manifest.json`` is the JSON of `Manifest.to_dict`. ``manifest.txt`` is the part of it that a C++ program needs, one
fact a line (`Manifest.to_lines`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ...errors import DeployError, InputError
from ...faces import SCHEMES
from ...facts import ModelFacts

__all__ = [
    "FORMAT",
    "LIBRARY",
    "Bucket",
    "FaceFunctions",
    "FileEntry",
    "Manifest",
    "Output",
    "Schedules",
    "Target",
    "parse_manifest",
]

#: Version of the layout of an artefact; a reader takes its own only.
FORMAT = 1
#: Name of the compiled library.
LIBRARY = "model.so"

#: What the functions of a detector give, in this order, the first two always.
DETECTOR_OUTPUTS = ("scores", "bboxes", "landmarks", "pose", "mesh")

#: Larger manifests are refused unread.
MAX_MANIFEST_BYTES = 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FUNCTION = re.compile(r"b([1-9]\d{0,5})_([1-9]\d{0,5})x([1-9]\d{0,5})")
# One part of a path inside an artefact: no separators, no drive letters, nothing hidden.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
# Keys at the top of a manifest -> the field of the facts that each repeats.
_FROM_FACTS = {
    "model": "name",
    "task": "task",
    "licence": "licence",
    "terms": "terms",
    "research_only": "research_only",
}
# No artefact comes near them; the C++ runtime sizes arrays by them, and has the same.
_MAX_LEVELS, _MAX_POINTS = 16, 4096
#: Faces that are looked at at once, at most.
MAX_FACE_BATCH = 4096
# A zip names a folder, too, at most one level down: lib/.
_MAX_PARTS = 2


@dataclass(frozen=True)
class Bucket:
    """One compiled input shape: the function that takes canvases (batch, H, W, 3) uint8 of that size."""

    function: str
    batch: int
    size_hw: tuple[int, int]

    @classmethod
    def of(cls, batch: int, size_hw: tuple[int, int]) -> Bucket:
        """The bucket of that shape, with the name its function has."""
        height, width = size_hw
        return cls(f"b{batch}_{height}x{width}", int(batch), (int(height), int(width)))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its input."""
        return (self.batch, *self.size_hw, 3)


@dataclass(frozen=True)
class FaceFunctions:
    """Functions that look at the faces that were found: for each bucket one for each batch of R faces.

    They take rois (R, 5), image and box xyxy in pixels of the canvas, the image -1 being no face, and the levels, which
    the bucket's function gives behind scores and boxes, and give points (R, K, 2) in pixels of the canvas.

    Attributes
    ----------
    batches : tuple of int
        R, growing, up to 4096.
    levels : int
        How many, up to 16.
    num_points : int
        K, up to 4096: 5, or that of the scheme in the facts.
    """

    batches: tuple[int, ...]
    levels: int
    num_points: int

    @staticmethod
    def function(bucket: Bucket, batch: int) -> str:
        """Name of the function of a bucket for so many faces."""
        return f"{bucket.function}_f{batch}"


@dataclass(frozen=True)
class Output:
    """One array that every function gives back: its name, shape as text, and meaning."""

    name: str
    shape: str
    meaning: str


@dataclass(frozen=True)
class Target:
    """What the library was compiled for.

    Attributes
    ----------
    kind : str
        TVM's kind of target: "llvm" is code for a processor.
    mtriple, mcpu : str
        LLVM's triple, such as "x86_64-unknown-linux-gnu", and processor.
    features : tuple of str
        Flags of ``/proc/cpuinfo`` that the code needs; `gluonface.deploy.runtime.features_of` knows them.
    name : str
        The row of the table of targets.
    """

    kind: str
    mtriple: str
    mcpu: str = ""
    features: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Schedules:
    """How the loops were arranged: whether tuned, in words, and what was used for each bucket's function."""

    tuned: bool
    text: str
    records: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileEntry:
    """What a file of the artefact must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """All that an artefact says about itself.

    Attributes
    ----------
    facts : ModelFacts
        Name, task, mean, std, scheme, template, licence and all else that is known of the model.
    weights_sha256 : str
        Of the file that the weights came from.
    buckets : tuple of Bucket
        In the order in which they were asked for; the first one is the default.
    outputs : tuple of Output
    nms : dict of str to number
        What the detector was compiled with: nms_thresh, nms_topk, post_nms, score_thresh. Empty for landmark nets.
    target : Target
    versions : dict of str to str
        Of gluonface, tvm, tvm_ffi and mxnet.
    schedules : Schedules
    files : dict of str to FileEntry
        Every file but the manifest itself; filled in by the writer.
    format : int
        `FORMAT`.
    faces : FaceFunctions, optional
        Of a detector that finds landmarks by looking at faces once more. The landmarks among its outputs are theirs.
        Other manifests do not have the key.
    """

    facts: ModelFacts
    weights_sha256: str
    buckets: tuple[Bucket, ...]
    outputs: tuple[Output, ...]
    nms: dict[str, float]
    target: Target
    versions: dict[str, str]
    schedules: Schedules
    files: dict[str, FileEntry] = field(default_factory=dict)
    format: int = FORMAT
    faces: FaceFunctions | None = None

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.facts.name

    @property
    def task(self) -> str:
        """What it is for: "detection" or "landmarks"."""
        return self.facts.task

    def bucket(self, batch: int, size_hw: tuple[int, int]) -> Bucket:
        """The bucket of that shape.

        Raises
        ------
        DeployError
            It was not compiled; the message lists those that were.
        """
        wanted = Bucket.of(batch, size_hw)
        if wanted not in self.buckets:
            raise DeployError(
                f"{self.model}: expected one of the compiled shapes {', '.join(b.function for b in self.buckets)}, got "
                f"{wanted.function}; compile it with --batch {batch} --size {size_hw[0]}x{size_hw[1]}"
            )
        return wanted

    def to_dict(self) -> dict:
        """Plain values ready for JSON; `from_dict` is the inverse."""
        # What people look for comes first, though the facts say it, too.
        first = {key: getattr(self.facts, name) for key, name in _FROM_FACTS.items()}
        values = {"format": self.format, **first, **dataclasses.asdict(self), "facts": self.facts.to_dict()}
        if self.faces is None:
            del values["faces"]
        return values

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_lines(self) -> str:
        """The text of ``manifest.txt``: a key and its values a line, ``format`` first.

        Keys: format, model, task, architecture, features (flags that the code needs), library (name, bytes, SHA-256),
        size, bucket (function, batch, height, width; one line each); of a detector score_thresh, and faces (levels,
        points, batches) where it has functions that look at faces; of a landmark net
        template (five x, y in shares of the crop's side); of both, where there are dense points, scheme, points (their
        number) and five lines five (indices of the points whose mean is that one).
        """
        library = self.files[LIBRARY]
        lines = [
            f"format {self.format}",
            f"model {self.model}",
            f"task {self.task}",
            f"architecture {self.target.mtriple.split('-')[0]}",
            f"library {LIBRARY} {library.bytes} {library.sha256}",
            f"size {self.facts.size}",
        ]
        if self.target.features:
            lines.append(" ".join(["features", *self.target.features]))
        lines += [f"bucket {b.function} {b.batch} {b.size_hw[0]} {b.size_hw[1]}" for b in self.buckets]
        if self.task == "detection":
            lines.append(f"score_thresh {float(self.facts.score_thresh)!r}")
            if self.faces is not None:
                numbers = (self.faces.levels, self.faces.num_points, *self.faces.batches)
                lines.append(f"faces {' '.join(map(str, numbers))}")
        else:
            template = [repr(float(value)) for point in self.facts.template for value in point]
            lines.append(f"template {' '.join(template)}")
        if self.facts.scheme is not None:
            scheme = SCHEMES[self.facts.scheme]
            lines += [f"scheme {scheme.name}", f"points {scheme.num_points}"]
            lines += [f"five {' '.join(map(str, part))}" for part in scheme.five]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping, where: str = "manifest") -> Manifest:
        """A manifest of plain values, every one of them checked.

        Parameters
        ----------
        values : mapping
            As `to_dict` gives it.
        where : str
            Named in errors.

        Raises
        ------
        DeployError
            Another format, a key is missing, unknown or of the wrong type, or values contradict one another.
        """
        check = _Checker(where)
        # The format first: another one may have other keys.
        if isinstance(values, Mapping) and values.get("format") != FORMAT:
            raise DeployError(
                f"{where}: expected format {FORMAT}, got {values.get('format')!r:.80}: made by another version of "
                f"gluonface ({_told(values)}); compile it again, or install that version"
            )
        names = {f.name for f in dataclasses.fields(cls)} | set(_FROM_FACTS)
        has_faces = isinstance(values, Mapping) and "faces" in values
        check.keys(values, "", names if has_faces else names - {"faces"})
        manifest = cls(
            facts=check.facts(values),
            weights_sha256=check.sha256(values, "weights_sha256"),
            buckets=tuple(check.bucket(item, f"buckets[{i}]") for i, item in enumerate(check.list(values, "buckets"))),
            outputs=tuple(check.output(item, f"outputs[{i}]") for i, item in enumerate(check.list(values, "outputs"))),
            nms={key: check.number(check.mapping(values, "nms"), key, "nms.") for key in check.mapping(values, "nms")},
            target=check.target(check.mapping(values, "target")),
            versions=check.texts(values, "versions"),
            schedules=check.schedules(check.mapping(values, "schedules")),
            files={name: check.file(name, entry) for name, entry in check.mapping(values, "files").items()},
            faces=check.faces(values) if has_faces else None,
        )
        manifest._check_sense(check)
        return manifest

    def _check_sense(self, check: _Checker) -> None:
        if self.task not in ("detection", "landmarks"):
            check.wrong("task", '"detection" or "landmarks"', self.task)
        if not self.buckets:
            check.wrong("buckets", "at least one", [])
        if len(set(self.buckets)) != len(self.buckets):
            check.wrong("buckets", "each shape once", [b.function for b in self.buckets])
        names = [output.name for output in self.outputs]
        if self.task == "landmarks" and names[:2] != ["landmarks", "scores"]:
            check.wrong("outputs", "landmarks, scores of a landmark net", names)
        in_order = [name for name in DETECTOR_OUTPUTS if name in names]
        if self.task == "detection" and (names != in_order or names[:2] != ["scores", "bboxes"]):
            check.wrong(
                "outputs", f"{', '.join(DETECTOR_OUTPUTS)} of a detector, from the third on where it gives them", names
            )
        if self.faces is not None and names != ["scores", "bboxes", "landmarks"]:
            check.wrong("outputs", "scores, bboxes, landmarks of a detector with functions for faces", names)
        if self.facts.scheme not in SCHEMES and (self.task == "landmarks" or self.facts.scheme is not None):
            check.wrong("facts.scheme", f"one of {', '.join(SCHEMES)}", self.facts.scheme)
        if self.faces is not None:
            dense = None if self.facts.scheme is None else SCHEMES[self.facts.scheme].num_points
            # Of other points nobody knows the five that they stand for.
            if self.faces.num_points not in (5, dense):
                expected = "5" if dense is None else f"5 or {dense}, the points of facts.scheme"
                check.wrong("faces.num_points", expected, self.faces.num_points)
        if self.task == "landmarks":
            size = self.facts.size
            if self.facts.template is None:
                check.wrong("facts.template", "five points (x, y)", None)
            if any(b.size_hw != (size, size) for b in self.buckets):
                check.wrong("buckets", f"crops of {size} x {size} (facts.size)", [b.function for b in self.buckets])


class _Checker:
    """Takes values out of mappings, or says what was expected, what came, and where."""

    def __init__(self, where: str):
        self.where = where

    def wrong(self, key: str, expected: str, found) -> None:
        shown = repr(found)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise DeployError(
            f"{self.where}: {key}: expected {expected}, got {shown}; the manifest is damaged or was changed: get the "
            "artefact again, or compile it again"
        )

    def keys(self, values, prefix: str, names: type | set[str]) -> None:
        """Exactly these keys, or the names of the fields of a dataclass."""
        names = {f.name for f in dataclasses.fields(names)} if isinstance(names, type) else names
        if not isinstance(values, Mapping):
            self.wrong(prefix.rstrip(".") or "the whole", f"an object with the keys {', '.join(sorted(names))}", values)
        missing, unknown = sorted(names - set(values)), sorted(map(str, set(values) - names))
        if missing or unknown:
            self.wrong(
                prefix.rstrip(".") or "the whole",
                f"the keys {', '.join(sorted(names))}",
                f"missing {missing}, unknown {unknown}",
            )

    def _typed(self, values: Mapping, key: str, prefix: str, kind, expected: str):
        value = values.get(key)
        # A bool is an int in Python, not in JSON.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.wrong(prefix + key, expected, value)
        return value

    def text(self, values: Mapping, key: str, prefix: str = "", empty: bool = True) -> str:
        value = self._typed(values, key, prefix, str, "a text")
        if not (empty or value.strip()):
            self.wrong(prefix + key, "a text that is not empty", value)
        return value

    def boolean(self, values: Mapping, key: str, prefix: str = "") -> bool:
        return self._typed(values, key, prefix, bool, "true or false")

    def count(self, values: Mapping, key: str, prefix: str = "", least: int = 1, most: int | None = None) -> int:
        expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
        value = self._typed(values, key, prefix, int, expected)
        if value < least or (most is not None and value > most):
            self.wrong(prefix + key, expected, value)
        return value

    def number(self, values: Mapping, key: str, prefix: str = "") -> float:
        value = self._typed(values, key, prefix, (int, float), "a number")
        if not math.isfinite(value):
            self.wrong(prefix + key, "a finite number", value)
        return value

    def list(self, values: Mapping, key: str, prefix: str = "") -> list:
        return self._typed(values, key, prefix, (list, tuple), "a list")

    def mapping(self, values: Mapping, key: str, prefix: str = "") -> Mapping:
        return self._typed(values, key, prefix, Mapping, "an object")

    def texts(self, values: Mapping, key: str, prefix: str = "") -> dict[str, str]:
        inner = self.mapping(values, key, prefix)
        return {name: self.text(inner, name, f"{prefix}{key}.") for name in inner}

    def sha256(self, values: Mapping, key: str, prefix: str = "") -> str:
        value = self.text(values, key, prefix)
        if not _SHA256.fullmatch(value):
            self.wrong(prefix + key, "a SHA-256: 64 digits 0-9, a-f", value)
        return value

    def facts(self, values: Mapping) -> ModelFacts:
        try:
            facts = ModelFacts.from_dict(self.mapping(values, "facts"), f"{self.where}: facts")
        except InputError as error:
            raise DeployError(f"{error}; get the artefact again, or compile it again") from error
        for key, name in _FROM_FACTS.items():
            if values[key] != getattr(facts, name):
                self.wrong(key, f"what the facts say, {getattr(facts, name)!r}", values[key])
        # A line of manifest.txt is made of it.
        if not _NAME.fullmatch(facts.name):
            self.wrong("facts.name", "the name of a model", facts.name)
        return facts

    def bucket(self, values, prefix: str) -> Bucket:
        self.keys(values, prefix, Bucket)
        function, batch = self.text(values, "function", f"{prefix}."), self.count(values, "batch", f"{prefix}.")
        size = self.list(values, "size_hw", f"{prefix}.")
        if len(size) != 2 or not all(
            isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size
        ):
            self.wrong(f"{prefix}.size_hw", "height and width", size)
        bucket = Bucket(function, batch, tuple(size))
        if not _FUNCTION.fullmatch(function) or bucket != Bucket.of(batch, bucket.size_hw):
            self.wrong(f"{prefix}.function", Bucket.of(batch, bucket.size_hw).function, function)
        return bucket

    def faces(self, values: Mapping) -> FaceFunctions:
        values = self.mapping(values, "faces")
        self.keys(values, "faces", FaceFunctions)
        batches = self.list(values, "batches", "faces.")
        counted = all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= MAX_FACE_BATCH for n in batches)
        if not batches or not counted or list(batches) != sorted(set(batches)):
            self.wrong("faces.batches", f"numbers of faces from 1 to {MAX_FACE_BATCH}, growing", batches)
        levels = self.count(values, "levels", "faces.", most=_MAX_LEVELS)
        return FaceFunctions(tuple(batches), levels, self.count(values, "num_points", "faces.", most=_MAX_POINTS))

    def output(self, values, prefix: str) -> Output:
        self.keys(values, prefix, Output)
        return Output(*(self.text(values, key, f"{prefix}.") for key in ("name", "shape", "meaning")))

    def target(self, values: Mapping) -> Target:
        self.keys(values, "target", Target)
        features = self.list(values, "features", "target.")
        if not all(isinstance(flag, str) and _NAME.fullmatch(flag) for flag in features):
            self.wrong("target.features", "flags of /proc/cpuinfo", features)
        return Target(
            kind=self.text(values, "kind", "target.", empty=False),
            mtriple=self.text(values, "mtriple", "target.", empty=False),
            mcpu=self.text(values, "mcpu", "target."),
            features=tuple(features),
            name=self.text(values, "name", "target."),
        )

    def schedules(self, values: Mapping) -> Schedules:
        self.keys(values, "schedules", Schedules)
        return Schedules(
            tuned=self.boolean(values, "tuned", "schedules."),
            text=self.text(values, "text", "schedules."),
            records=self.texts(values, "records", "schedules."),
        )

    def file(self, name, values) -> FileEntry:
        if not is_safe_name(name):
            self.wrong("files", "names like model.so or lib/name.so, inside the artefact", name)
        prefix = f"files[{name!r}]"
        self.keys(values, prefix, FileEntry)
        return FileEntry(
            self.sha256(values, "sha256", f"{prefix}."), self.count(values, "bytes", f"{prefix}.", least=0)
        )


def is_safe_name(name) -> bool:
    """Whether a path names a file inside the artefact: plain names, no "..", not absolute, one folder deep at most."""
    if not isinstance(name, str) or name in ("manifest.json", ""):
        return False
    parts = name.split("/")
    return (
        len(parts) <= _MAX_PARTS and all(_NAME.fullmatch(part) for part in parts) and str(PurePosixPath(name)) == name
    )


def parse_manifest(text: bytes, where: str) -> Manifest:
    """The manifest in the bytes of a ``manifest.json``.

    Raises
    ------
    DeployError
        Not JSON, a key twice in one object, or as `Manifest.from_dict`.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise DeployError(f"{where}: expected at most {MAX_MANIFEST_BYTES} bytes of manifest, got {len(text)}")

    def unique(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = sorted({key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1})
            raise DeployError(f"{where}: expected each key once in an object, got {', '.join(twice)} twice")
        return found

    def refuse(constant: str):
        raise DeployError(f"{where}: expected finite numbers, got {constant}")

    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DeployError(f"{where}: expected the JSON of a manifest, got {error}; get the artefact again") from error
    return Manifest.from_dict(values, where)


def _told(values: Mapping) -> str:
    versions = values.get("versions")
    version = versions.get("gluonface") if isinstance(versions, Mapping) else None
    return f"gluonface {version}" if isinstance(version, str) else "it does not say which"
