import json

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import WeightsError
from gluonface.facts import ModelFacts
from gluonface.model_zoo import get_model, model_facts

NAME = "retinaface_mobilenet0.25_widerface"
FACTS = {"mean": [0, 0, 0], "std": [1, 1, 1], "licence": "test", "research_only": False, "terms": "None."}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("publish_weights")


def a_run(folder):
    folder.mkdir()
    net = get_model(NAME)
    net.initialize(mx.init.Normal(0.1))
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(folder / "best.params"))
    return folder


def test_published_weights_load_by_name_and_a_better_net_replaces_the_file(script, tmp_path):
    zoo, facts = tmp_path / "zoo", tmp_path / "facts.json"
    zoo.mkdir()
    facts.write_text(json.dumps(FACTS))
    script.main([NAME, "--run", str(a_run(tmp_path / "one")), "--facts", str(facts), "--zoo", str(zoo)])
    first = model_facts(NAME, zoo)
    assert first.file == f"{NAME}-{first.sha256[:8]}.params" and first.licence == "test"
    get_model(NAME, pretrained=True, root=zoo)

    script.main([NAME, "--run", str(a_run(tmp_path / "two")), "--zoo", str(zoo)])
    second = model_facts(NAME, zoo)
    assert second.sha256 != first.sha256 and second.terms == "None."
    get_model(NAME, pretrained=True, root=zoo)
    assert sorted(p.name for p in zoo.iterdir()) == sorted([f"{NAME}.json", second.file])


def test_a_parameter_is_raised_and_all_others_are_as_they_were(script, tmp_path, capsys):
    run, zoo, facts = a_run(tmp_path / "run"), tmp_path / "zoo", tmp_path / "facts.json"
    zoo.mkdir()
    facts.write_text(json.dumps(FACTS))
    asked = [NAME, "--run", str(run), "--facts", str(facts), "--zoo", str(zoo), "--raise"]
    with pytest.raises(SystemExit):
        script.main([*asked, "network.no_such.bias", "1"])
    assert "expected a parameter such as" in capsys.readouterr().err and not list(zoo.glob("*.params"))
    before = mx.nd.load(str(run / "best.params"))
    name = next(name for name in before if name.endswith(".bias"))
    script.main([*asked, name, "2.5"])
    after = mx.nd.load(str(zoo / model_facts(NAME, zoo).file))
    for key, array in before.items():
        moved = after[key].asnumpy() - array.asnumpy()
        assert np.allclose(moved, 2.5, atol=1e-6) if key == name else not moved.any()


def levels(net):
    """What k0 sets, areas from which on boxes are looked at in the next level, and the scale of what is looked at."""
    head = net.network.keypoint_head
    return head.align.areas, head.widen.scale


def test_options_that_a_net_was_trained_with_come_back_with_its_weights_alone(script, tmp_path):
    name, zoo, facts, run = "maskface_mobilenet0.25_fc26", tmp_path / "zoo", tmp_path / "facts.json", tmp_path / "run"
    zoo.mkdir()
    run.mkdir()
    facts.write_text(json.dumps(FACTS))
    net = get_model(name, channels=8, k0=2.0, roi_scale=1.25)
    net.initialize(mx.init.Normal(0.1))
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(run / "best.params"))
    words = [name, "--run", str(run), "--facts", str(facts), "--zoo", str(zoo)]
    with pytest.raises(WeightsError, match="do not fit"):
        script.main(words)
    script.main([*words, "--channels", "8", "--k0", "2", "--roi-scale", "1.25"])

    known = model_facts(name, zoo)
    assert (
        known.options == {"channels": 8, "k0": 2, "roi_scale": 1.25} and ModelFacts.from_dict(known.to_dict()) == known
    )
    back = get_model(name, pretrained=True, root=zoo)
    assert back.facts.params == known.params == net.facts.params
    assert levels(back) == levels(net)
    # Without the weights it is the model's own net, and options that are asked for go before those of the weights.
    own = get_model(name, root=zoo)
    assert levels(own) == levels(get_model(name)) != levels(net)
    assert own.facts.options == {} and own.facts.params == get_model(name).facts.params > known.params
    assert levels(get_model(name, pretrained=True, root=zoo, k0=3.0, roi_scale=1)) == levels(own)


def test_weights_of_another_model_are_not_published(script, tmp_path):
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    with pytest.raises(WeightsError, match="do not fit"):
        script.main(["retinaface_mobilenet0.5_widerface", "--run", str(a_run(tmp_path / "run")), "--zoo", str(zoo)])
    assert not list(zoo.iterdir())
