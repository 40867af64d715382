"""The command lines: help of one line for each flag, errors of one sentence."""

import pytest

import detect
import export
import train
import val
from data.__main__ import build_parser as data_parser
from engine.evaluation.__main__ import build_parser as judge_parser
from models.__main__ import build_parser as models_parser
from models.convert import build_parser as convert_parser
from utils.errors import run_script

PARSERS = {"train": train.build_parser, "val": val.build_parser, "detect": detect.build_parser,
           "export": export.build_parser, "data": data_parser, "models": models_parser,
           "models.convert": convert_parser, "engine.evaluation": judge_parser}
MOST_LINES = 15  # of a title and its flags


@pytest.fixture(params=PARSERS)
def parser(request):
    return PARSERS[request.param]()


def test_every_flag_has_one_line_of_help_under_a_title(parser, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = parser.format_help()
    first, *groups = text.split("\n\n")
    assert first.startswith("usage: python ") and "\n" not in first
    shown = [line for group in groups for line in group.splitlines() if line.startswith("  ")]
    assert all(line[2] != " " for line in shown), [line for line in shown if line[2] == " "]
    assert all(line[2:].strip().count("  ") for line in shown)  # a name and a text
    assert all(len(group.splitlines()) <= MOST_LINES for group in groups)
    assert groups[-1].startswith("help:") and "options:" not in text and text == parser.format_help()


def test_every_title_begins_at_a_flag():
    for build in list(PARSERS.values())[:4]:
        titles = {group.title for group in build()._action_groups if group._group_actions}
        assert len(titles) > 3 and "flags" not in titles


@pytest.mark.parametrize("words, told", [
    (["--epoch-s", "3"], "--epoch-s': no such flag; did you mean '--epochs'?"),
    (["--save_period", "3"], "it is --save-period here"), (["coco.yaml"], "'coco.yaml': belongs to no flag"),
    (["--epochs", "x"], "'x' is not a whole number"), (["--no"], "ambiguous"), (["--data"], "expected one argument")])
def test_an_error_is_one_sentence(words, told, capsys):
    with pytest.raises(SystemExit) as stop:
        train.build_parser().parse_args(words)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and told in said
    assert said.endswith("(python train.py --help lists the flags)\n")


def test_a_hostile_command_line_is_told_in_a_short_printable_line(capsys):
    for words in (["model=a\x1b[2J\n.pt"], ["--epochs", "\x1b[2J"], ["x\n" * 5000], ["epochs=" + "9" * 5000]):
        with pytest.raises(SystemExit):
            train.build_parser().parse_args(words)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "\x1b" not in said and len(said) < 2000


def test_prefixes_and_explicit_flags():
    args = train.build_parser().parse_args(["--batch", "16", "--img", "320", "--weight", "a.pt", "--sync"])
    assert args.given == {"batch_size": 16, "imgsz": [320], "weights": "a.pt", "sync_bn": True}


def test_help_ends_the_program_well(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["detect.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        run_script(detect.main, detect.build_parser())
    said = capsys.readouterr().out
    assert not stop.value.code and "--debug" in said and "usage: python detect.py --weights FILE" in said
