"""Every error this package raises on purpose.

All derive from `GluonFaceError`, so one ``except`` catches them; each also derives from the built-in class a caller
would expect.
"""

from __future__ import annotations

__all__ = [
    "GluonFaceError",
    "InputError",
    "ImageError",
    "VideoError",
    "DataError",
    "WeightsError",
    "ModelNotFoundError",
    "MissingDependencyError",
    "TrainingError",
    "DeployError",
]


class GluonFaceError(Exception):
    """Base of all errors of this package."""


class InputError(GluonFaceError, ValueError):
    """An argument has the wrong shape, type or value."""


class ImageError(GluonFaceError, ValueError):
    """An image cannot be read or written.

    Parameters
    ----------
    source : str
        Which image: its path, or a description of the bytes or array.
    reason : str
        Why not.
    """

    def __init__(self, source: str, reason: str):
        # Both go to Exception.args so that the error survives pickling (worker processes).
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class VideoError(ImageError):
    """A video cannot be read; `source` and `reason` say which and why."""


class DataError(GluonFaceError, ValueError):
    """An annotation file is wrong; the message names file and line."""


class WeightsError(GluonFaceError):
    """A weight file is damaged, foreign or does not fit the network."""


class ModelNotFoundError(GluonFaceError, KeyError):
    """No model, or no weights, of that name."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which puts a sentence in quotes.
        return Exception.__str__(self)


class MissingDependencyError(GluonFaceError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class TrainingError(GluonFaceError, RuntimeError):
    """Training cannot go on, for example because a loss is not finite."""


class DeployError(GluonFaceError, RuntimeError):
    """A net cannot be compiled or exported, or an artefact cannot be read or run."""
