"""Flags that the scripts share."""

import argparse

import pytest

from utils import cli
from utils.cli import class_indices, fraction, number
from utils.errors import UserError
from utils.options import add_flag, size_option

NAMES = ["person", "traffic light", "car"]


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    add_flag(parser, "imgsz", size_option())
    parser.add_argument("--include", nargs="+")
    return parser


@pytest.mark.parametrize("words, size", [([], None), (["--img", "320"], [320]), (["--imgsz", "64"], [64]),
                                         (["--img-size", "320", "416"], [320, 416])])
def test_size(parser, words, size):
    assert parser.parse_args(words).imgsz == size


@pytest.mark.parametrize("words, told", [
    (["--img", "0"], "'0' is not a whole number between 1 and 16384"),
    (["--img", "6.5"], "'6.5' is not a whole number"),
    (["--img", "1", "2", "3"], "takes one or two numbers"),
])
def test_refusals(parser, words, told, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize("words, indices", [(None, None), (["2", "0", "2"], [0, 2]), (["car", "0"], [0, 2]),
                                            (["0,2"], [0, 2]), (["traffic light"], [1]), (["person,car"], [0, 2])])
def test_class_indices(words, indices):
    assert class_indices(words, NAMES) == indices


@pytest.mark.parametrize("word, told", [("3", "classes 0 to 2"), ("-1", "classes 0 to 2"),
                                        ("perso", "did you mean 'person'"), ("zebra", "known: person, traffic")])
def test_unknown_classes(word, told):
    with pytest.raises(UserError, match=told):
        class_indices([word], NAMES)


def test_numbers():
    assert fraction("0.5") == 0.5 and number(int, 1, 3)("3") == 3
    for parse, text in ((fraction, "1.5"), (fraction, "nan"), (fraction, "much"), (number(int, 1, 3), "4")):
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


def test_loaders_leave_cores_to_a_model_on_the_cpu(monkeypatch):
    monkeypatch.setattr(cli.os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert cli.worker_count(None, "cuda") == 8 and cli.worker_count(None, "cpu") == 6
    assert cli.worker_count(0, "cuda") == 0 and cli.worker_count(64, "cpu") == 12
