import argparse
import dataclasses
import json
from pathlib import Path

import pytest

from gluonface.training.config import (
    TrainConfig,
    add_training_arguments,
    config_from_args,
    flags_given,
    refuse_flags,
)


@pytest.fixture
def parser():
    """A script's parser with flags of every kind that scripts have."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", required=True)
    parser.add_argument("--frozen", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--focal", action="store_true")
    parser.add_argument("--source-weight", action="append", default=[])
    parser.add_argument("--start", default="none")
    parser.add_argument("--ratios", type=float, nargs="+", default=(0.5, 1.0))
    parser.add_argument("--size", type=int)
    parser.add_argument("--file", type=Path)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--left", type=float, default=1.0)
    choice.add_argument("--right", type=float)
    for name in ("--images", "--cache", "--worker-kind", "--pretrained-base"):
        parser.add_argument(name)
    add_training_arguments(parser, TrainConfig(lr_decay_epoch=(3, 4)))
    parser.set_defaults(size=640)
    return parser


# ---- what a run keeps of its flags -----------------------------------------------------------------------------------


def test_a_script_s_own_flags_are_kept_with_its_settings_but_those_that_change_no_run(parser):
    words = "--train a.jsonl --no-frozen --ratios 1 2 --source-weight a=2 --file x/y.npz --images d --cache bytes -j 7"
    config = config_from_args(parser.parse_args([*words.split(), "--worker-kind", "thread", "--pretrained-base", "b"]))
    assert config.num_workers == 7
    assert config.flags == {
        "train": "a.jsonl", "frozen": False, "focal": False, "source_weight": ["a=2"], "start": "none",
        "ratios": [1.0, 2.0], "size": 640, "file": "x/y.npz", "left": 1.0, "right": None,
    }  # fmt: skip


def test_settings_with_flags_are_the_same_after_a_json_file(parser):
    config = config_from_args(parser.parse_args(["--train", "a.jsonl"]))
    read = json.loads(json.dumps(dataclasses.asdict(config)))
    assert read["flags"] == config.flags
    again = TrainConfig(**{**read, "lr_decay_epoch": tuple(read["lr_decay_epoch"])})
    assert again == config and hash(again) == hash(config)
    assert config != config_from_args(parser.parse_args(["--train", "b.jsonl"]))


def test_the_kept_flags_are_no_flag_themselves(parser):
    assert "--flags" not in parser.format_help()


# ---- flags that do nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("", set()),
        ("--frozen --left 1", {"frozen", "left"}),  # with their defaults
        ("--no-frozen --focal --ratios .5 1", {"frozen", "focal", "ratios"}),
        ("--source-weight a=1 --source-weight b=2 --start=none", {"source_weight", "start"}),
        ("--size 640 -j 2 --lr-decay-epoch 3,4", {"size", "num_workers", "lr_decay_epoch"}),
    ],
)
def test_flags_that_are_given_are_told_from_defaults(parser, words, given):
    argv = ["--train", "x", *words.split()]
    assert flags_given(parser, argv) == {"train", *given}
    assert parser.parse_args(["--train", "x"]).source_weight == []  # the defaults are as they were


def test_flags_of_the_process_are_looked_at_where_none_are_handed_over(parser, monkeypatch):
    monkeypatch.setattr("sys.argv", ["script", "--train", "x", "--focal"])
    assert flags_given(parser, None) == {"train", "focal"}


def test_a_flag_that_would_do_nothing_is_named_with_the_reason(parser, capsys):
    reasons = {"source_weight": "it counts with --focal", "size": "never"}
    refuse_flags(parser, ["--train", "x"], reasons)
    with pytest.raises(SystemExit) as ended:
        refuse_flags(parser, ["--train", "x", "--source-weight", "a=1"], reasons)
    assert ended.value.code == 2
    assert "--source-weight does nothing here: it counts with --focal" in capsys.readouterr().err
