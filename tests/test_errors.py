"""Errors: one base, the built-in classes a caller expects, readable texts."""

from __future__ import annotations

import pickle

import pytest

from gluonface import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_a_gluonface_error(name):
    assert issubclass(getattr(errors, name), errors.GluonFaceError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.ImageError, ValueError),
        (errors.DataError, ValueError),
        (errors.ModelNotFoundError, KeyError),
        (errors.MissingDependencyError, ImportError),
        (errors.TrainingError, RuntimeError),
    ],
)
def test_an_error_is_also_the_builtin_a_caller_expects(error, builtin):
    assert issubclass(error, builtin)


def test_an_image_error_says_which_and_why_and_keeps_both():
    error = errors.ImageError("photo.jpg", "is empty")
    assert (error.source, error.reason, str(error)) == ("photo.jpg", "is empty", "photo.jpg: is empty")


def test_an_image_error_survives_the_way_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(errors.ImageError("photo.jpg", "is empty")))
    assert (error.source, error.reason, str(error)) == ("photo.jpg", "is empty", "photo.jpg: is empty")


def test_a_model_not_found_error_is_a_sentence_without_quotes():
    assert str(errors.ModelNotFoundError("no model 'x'")) == "no model 'x'"
