"""`python -m assn COMMAND` and `assn-train`: the same programs under another name."""

import os
import sys

import pytest

from assn import __main__ as program
from assn import commands
from utils.commands import command


def said(capsys, monkeypatch, *words: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `python -m assn WORDS`."""
    monkeypatch.setattr(sys, "argv", ["assn", *words])
    with pytest.raises(SystemExit) as end:
        program.main()
    return (end.value.code, *capsys.readouterr())


def test_help_lists_every_command(capsys, monkeypatch):
    code, out, err = said(capsys, monkeypatch, "--help")
    assert code == 0 and not err and all(f"  {name} " in out for name in commands.COMMANDS)


@pytest.mark.parametrize("words", [(), ("tarin",)])
def test_no_command_is_an_error(capsys, monkeypatch, words):
    code, out, err = said(capsys, monkeypatch, *words)
    assert code == 2 and not out and "  train " in err and all(f"{word!r} is not a command" in err for word in words)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_a_parser_of_its_name(capsys, monkeypatch, name):
    code, out, _ = said(capsys, monkeypatch, name, "--help")
    assert code == 0 and out.startswith(f"usage: python -m assn {name} ")


def test_a_user_error_is_one_line(capsys, monkeypatch):
    code, out, err = said(capsys, monkeypatch, "models", "yolov8nn")
    assert code == 1 and not out and err.count("\n") == 1
    assert err.startswith("error: yolov8nn: no such model; did you mean 'yolov8n'")


def test_installed_scripts(capsys, monkeypatch):
    for name in ("train", "val", "detect", "export"):
        monkeypatch.setattr(sys, "argv", [f"assn-{name}", "--help"])
        with pytest.raises(SystemExit):
            getattr(commands, name)()
        assert capsys.readouterr().out.startswith(f"usage: assn-{name} ")


def test_threads_wait_as_in_the_scripts(monkeypatch, capsys):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    said(capsys, monkeypatch, "models", "--help")
    assert os.environ.pop("GOMP_SPINCOUNT")


def test_messages_name_commands_as_the_user_types_them(monkeypatch):
    from assn.utils import commands as isolated

    names = ("train", "data", "models.convert")
    assert [*map(command, names)] == ["python train.py", "python -m data", "python -m models.convert"]
    assert [*map(isolated.command, names)] == [f"python -m assn {name}" for name in ("train", "data", "convert")]
    monkeypatch.setattr(isolated, "SOURCE_TREE", None)  # installed
    assert [*map(isolated.command, names)] == ["assn-train", "python -m assn data", "python -m assn convert"]
