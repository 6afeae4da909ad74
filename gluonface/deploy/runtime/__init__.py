"""Compiled artefacts, run without MXNet and without TVM: NumPy, OpenCV, ``tvm_ffi`` and two small libraries.

>>> from gluonface.deploy import runtime
>>> analyzer = runtime.load("retinaface.artefact", landmarks="heatmap.artefact", threads=2)
>>> faces = analyzer("photo.jpg")  # the same call and the same `Faces` as gluonface.FaceAnalyzer
"""

from .analyzer import CompiledAnalyzer, CompiledLandmarks, load
from .libraries import find_runtime_libraries
from .machine import LEVELS, architecture, cpu_features, features_of
from .manifest import (
    FORMAT,
    Bucket,
    FaceFunctions,
    FileEntry,
    Manifest,
    Output,
    Schedules,
    Target,
    is_safe_name,
    parse_manifest,
)
from .module import Module, aligned_empty
from .reader import Artifact, cache_folder, open_artifact, sha256_of

__all__ = [
    "FORMAT",
    "LEVELS",
    "Artifact",
    "Bucket",
    "CompiledAnalyzer",
    "CompiledLandmarks",
    "FaceFunctions",
    "FileEntry",
    "Manifest",
    "Module",
    "Output",
    "Schedules",
    "Target",
    "aligned_empty",
    "architecture",
    "cache_folder",
    "cpu_features",
    "features_of",
    "find_runtime_libraries",
    "is_safe_name",
    "load",
    "open_artifact",
    "parse_manifest",
    "sha256_of",
]
