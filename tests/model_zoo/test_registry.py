import hashlib
import json
import logging

import numpy as np
import pytest

import gluonface
from gluonface._compat import mx
from gluonface.errors import InputError, ModelNotFoundError, WeightsError
from gluonface.model_zoo import get_model, list_models, model_facts, weights

NAME = "retinaface_mobilenet0.25_widerface"


@pytest.fixture
def shelf(tmp_path):
    """A folder with random weights of a model that has none, and the facts beside them."""
    net = get_model(NAME)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    file = tmp_path / "weights.params"
    net.save_parameters(str(file))
    facts = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 2, 3],
        "licence": "test",
        "terms": "Only a test.",
        "research_only": True,
    }
    (tmp_path / f"{NAME}.json").write_text(json.dumps(facts))
    return tmp_path


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(ModelNotFoundError, match="near: .*retinaface_mobilenet0.25_fc26"):
        get_model("retinaface_mobilnet0.25_fc26")


def test_models_are_listed_by_pattern_and_by_word():
    assert list_models("*_widerface") == list_models("widerface")
    assert set(list_models("retinaface_*_widerface")) < set(list_models("widerface"))
    assert NAME in list_models() and "retinaface_resnet50_v1b_widerface" in gluonface.list_models("resnet50")
    assert list_models("nothing") == []


def test_models_are_listed_by_task():
    detectors, landmark_nets = list_models(task="detection"), list_models(task="landmarks")
    assert NAME in detectors and "heatmap_resnet50_sdd_wflw" in landmark_nets
    assert sorted(detectors + landmark_nets) == sorted(list_models())
    assert {model_facts(name).task for name in landmark_nets} == {"landmarks"}
    with pytest.raises(InputError, match="detection, landmarks, got 'pose'"):
        list_models(task="pose")


def test_weights_are_listed_where_they_are(shelf):
    assert NAME not in list_models(pretrained=True)
    assert NAME in list_models(pretrained=True, root=shelf)


def test_pretrained_weights_are_loaded_by_hash_with_their_facts(shelf):
    net = get_model(NAME, pretrained=True, root=shelf)
    assert net.facts.mean == (0.1, 0.2, 0.3) and net.facts.trained and net.facts.research_only
    x = mx.nd.random.uniform(shape=(1, 3, 64, 64))
    again = get_model(NAME, pretrained=True, root=shelf)
    for ours, theirs in zip(net.network(x), again.network(x)):
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())


def test_weights_can_be_put_on_several_devices(shelf):
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = get_model(NAME, pretrained=True, root=shelf, ctx=contexts)
    results = [net.network(mx.nd.ones((1, 3, 64, 64), ctx=c))[0].asnumpy() for c in contexts]
    np.testing.assert_array_equal(*results)


def test_damaged_weights_are_refused_before_loading(shelf):
    path = shelf / "weights.params"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="expected SHA-256 .* damaged or another one"):
        get_model(NAME, pretrained=True, root=shelf)


def test_missing_weights_say_what_to_do(shelf):
    (shelf / "weights.params").unlink()
    with pytest.raises(WeightsError, match="weights.params not found in .*Reinstall"):
        get_model(NAME, pretrained=True, root=shelf)
    with pytest.raises(WeightsError, match=r"no weights come with this model.*list_models\(pretrained=True\)"):
        get_model("retinaface_resnet50_v1b_widerface", pretrained=True)


@pytest.mark.parametrize("content", ["", "[", '{"file": "x"}', '{"surprise": 1}'])
def test_damaged_facts_are_a_typed_error(shelf, content):
    (shelf / f"{NAME}.json").write_text(content)
    with pytest.raises(WeightsError, match="facts of"):
        model_facts(NAME, shelf)


def test_research_only_weights_say_so_once(shelf, caplog):
    weights._said.clear()
    with caplog.at_level(logging.WARNING, logger="gluonface.licence"):
        get_model(NAME, pretrained=True, root=shelf)
        get_model(NAME, pretrained=True, root=shelf)
    said = [r.getMessage() for r in caplog.records if r.name == "gluonface.licence"]
    assert said == [f"{NAME}: these weights are for non-commercial research only. Only a test."]


def test_the_shipped_weights_are_what_their_facts_say():
    shipped = list_models(pretrained=True)
    assert shipped, "the package comes with weights"
    for name in shipped:
        facts = model_facts(name)
        path = weights.find_weights(facts)
        assert facts.sha256[:8] in path.name and facts.card and facts.terms and facts.recipe and facts.metric


def test_the_default_detector_has_weights():
    assert gluonface.model_zoo.DEFAULT_DETECTOR in list_models(pretrained=True)
