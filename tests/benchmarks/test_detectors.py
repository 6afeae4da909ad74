"""The detector that the flags of the scoring scripts ask for."""

import argparse

import numpy as np
import pytest

from gluonface.model_zoo import get_model, model_facts

MODEL, START = "mos_mobilenet0.25_fc26", "retinaface_mobilenet0.25_fc26"


@pytest.fixture
def module(script):
    return script("detectors")


def parsed(module, *words):
    parser = argparse.ArgumentParser()
    module.add_detector_arguments(parser)
    module.add_view_arguments(parser)
    args = parser.parse_args(words)
    module.check_arguments(parser, args)
    return args


def test_weights_of_a_run_can_take_the_facts_of_its_start(module, tmp_path):
    from gluonface._compat import mx

    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(tmp_path / "best.params"))
    words = ("--model", "retinaface_mobilenet0.25_widerface", "--weights", str(tmp_path / "best.params"))
    plain, _ = module.build_detector(parsed(module, *words))
    given, name = module.build_detector(parsed(module, *words, "--facts-of", START))
    assert name == "retinaface_mobilenet0.25_widerface (best.params)"
    start = model_facts(START)
    assert (given.facts.mean, given.facts.std) == (start.mean, start.std)
    assert not np.allclose(plain.facts.mean, given.facts.mean)
    assert given.facts.name == plain.facts.name


def test_a_light_net_takes_its_weights_with_the_channels_it_was_trained_with(module, tmp_path):
    from gluonface._compat import mx
    from gluonface.errors import WeightsError

    name, path = "maskface_mobilenet0.25_fc26", str(tmp_path / "best.params")
    net = get_model(name, channels=8)
    net.initialize(mx.init.Xavier())
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(path)
    words = ("--model", name, "--weights", path)
    built, _ = module.build_detector(parsed(module, *words, "--channels", "8", "--k0", "2"))
    assert built.facts.params == net.facts.params
    with pytest.raises(WeightsError, match="do not fit"):
        module.build_detector(parsed(module, *words))


def test_shipped_weights_bring_their_options(module, capsys):
    with pytest.raises(SystemExit):
        parsed(module, "--model", MODEL, "--channels", "8")
    assert "--channels go with --weights" in capsys.readouterr().err


def test_shipped_weights_have_facts_of_their_own(module, capsys):
    with pytest.raises(SystemExit):
        parsed(module, "--model", MODEL, "--facts-of", START)
    assert "--facts-of goes with --weights" in capsys.readouterr().err
