"""ModelFacts as a plain dict and back, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gluonface.errors import InputError
from gluonface.facts import IMAGENET_MEAN, ModelFacts
from gluonface.geometry import HEATMAP_TEMPLATE

DETECTOR = ModelFacts("d", "retinaface", "mobilenet0.25", "fc26", params=7, gf=0.5)
LANDMARKS = ModelFacts(
    "heatmap_x",
    "heatmap",
    "mobilenetv2_1.0",
    "fc26",
    params=3_000_000,
    gf=0.25,
    variant="sdd",
    task="landmarks",
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    size=192,
    scheme="68",
    template=tuple(map(tuple, HEATMAP_TEMPLATE.tolist())),
    mirror_shift=-0.004,
    decoder="soft",
    trained=True,
    metric={"NME, somewhere": 0.03},
    file="x.params",
    sha256="ab" * 32,
)


@pytest.mark.parametrize("facts", [DETECTOR, LANDMARKS], ids=["detector", "landmarks"])
def test_facts_come_back_from_json_as_they_were(facts):
    values = facts.to_dict()
    text = json.dumps(values)
    assert json.loads(text) == values
    back = ModelFacts.from_dict(json.loads(text))
    assert back == facts
    assert [type(getattr(back, f.name)) for f in dataclasses.fields(back)] == [
        type(getattr(facts, f.name)) for f in dataclasses.fields(facts)
    ]


def test_the_path_of_the_card_stays_on_this_machine():
    values = dataclasses.replace(DETECTOR, card="/home/someone/card.md").to_dict()
    assert "card" not in values
    with pytest.raises(InputError, match=r"unknown keys \['card'\]"):
        ModelFacts.from_dict({**values, "card": "/home/someone/card.md"})


def test_facts_of_every_listed_model_come_back():
    from gluonface.model_zoo import list_models, model_facts

    for name in list_models():
        facts = dataclasses.replace(model_facts(name), card=None)
        assert ModelFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


def test_a_dict_does_not_share_its_metric_with_the_facts():
    LANDMARKS.to_dict()["metric"]["more"] = 1.0
    values = {**LANDMARKS.to_dict()}
    back = ModelFacts.from_dict(values)
    values["metric"]["more"] = 1.0
    assert back.metric == LANDMARKS.metric == {"NME, somewhere": 0.03}


def test_what_has_a_default_may_be_left_out_and_the_rest_may_not():
    needed = {"name": "d", "system": "s", "backbone": "b", "dataset": "f", "params": 0, "gf": 0}
    assert ModelFacts.from_dict(needed).mean == IMAGENET_MEAN
    for name in needed:
        with pytest.raises(InputError, match=rf"missing keys \['{name}'\]"):
            ModelFacts.from_dict({key: value for key, value in needed.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("sise", 640, r"unknown keys \['sise'\]"),
        (3, 640, r"unknown keys \['3'\]"),
        ("name", None, "name to be a string"),
        ("scheme", 68, "scheme to be a string or null"),
        ("size", 0.5, "size to be a whole number"),
        ("size", True, "size to be a whole number"),
        ("size", -1, "size to be a whole number"),
        ("gf", "0.5", "gf to be a number"),
        ("gf", float("nan"), "gf to be a number"),
        ("trained", 1, "trained to be true or false"),
        ("mean", [0.1, 0.2], "mean to be three numbers"),
        ("std", [0.1, 0.2, "0.3"], "std to be three numbers"),
        ("template", [[0.1, 0.2]] * 4, "template to be five points or null"),
        ("template", [[0.1, 0.2, 0.3]] * 5, "template to be five points or null"),
        ("metric", {"AP": "high"}, "metric to be names with a number each"),
        ("metric", [], "metric to be names with a number each"),
    ],
)
def test_unknown_keys_and_values_of_another_kind_are_refused(name, value, says):
    with pytest.raises(InputError, match=rf"manifest\.json: .*{says}"):
        ModelFacts.from_dict({**LANDMARKS.to_dict(), name: value}, "manifest.json")


def test_something_that_is_no_dict_is_refused():
    for values in (None, [], "name"):
        with pytest.raises(InputError, match="expected an object with the fields of ModelFacts"):
            ModelFacts.from_dict(values)


def test_the_model_zoo_and_the_package_speak_of_the_same_class():
    from gluonface import model_zoo

    assert model_zoo.ModelFacts is ModelFacts
