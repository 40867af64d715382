"""Messages: what a user gave is shown short, on one line and without control characters."""

import argparse
import contextlib
import io
import sys

import pytest

from utils.errors import UserError, parse_words, run_script, shown


def aliases(depth: int) -> list:
    value = ["x"]
    for _ in range(depth):
        value = [value] * 9
    return value


@pytest.mark.parametrize("value", [aliases(30), "y" * 10**6, dict.fromkeys(range(10**4), "z" * 100), 10**400,
                                   [10**5000], b"\0" * 10**5])
def test_large_values_are_shown_short(value):
    assert len(shown(value)) <= 200


def test_small_values_are_shown_as_they_are():
    assert shown("person") == "'person'"
    assert shown([1, 2.5, None]) == "[1, 2.5, None]"


def test_control_characters_never_reach_the_terminal():
    assert "\x1b" not in shown("\x1b[2Jname") and "\n" not in shown("a\nb")


def test_a_value_whose_own_repr_fails_is_named_by_its_type():
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    assert "Broken" in shown(Broken())


def run(monkeypatch, main, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", *words])
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    run_script(main, parser)


@pytest.mark.parametrize("text", ["y" * 10**6, "first\n" + "z" * 10**6, "a" * 10**5 + "; mend it"])
def test_a_message_of_any_length_fits_a_screen(monkeypatch, capsys, text):
    def main(args: argparse.Namespace) -> None:
        raise UserError(f"file.yaml: {text}")

    with pytest.raises(SystemExit):
        run(monkeypatch, main)
    said = capsys.readouterr().err
    assert len(said) < 2000 and said.startswith("error: file.yaml: ") and said[-9:].strip() == text[-8:].strip()


def test_a_file_name_of_any_length_fits_a_screen_too(monkeypatch, capsys):
    def main(args: argparse.Namespace) -> None:
        raise OSError(36, "File name too long", "b" * 10**5 + "\x1b[2J")

    with pytest.raises(SystemExit):
        run(monkeypatch, main)
    said = capsys.readouterr().err
    assert len(said) < 2000 and "File name too long (--debug" in said and "\x1b" not in said


def test_a_name_that_the_terminal_cannot_write_is_written_out(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    run(monkeypatch, lambda args: print("results in runs/\udcff\u4e2d"))
    sys.stdout.flush()
    assert written.getvalue() == b"results in runs/\\udcff\\u4e2d\n"


def test_two_dashes_as_a_value_are_no_empty_list(capsys):
    """argparse drops `--` from `--name=--` and leaves a list with nothing in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    parser.add_argument("--many", nargs="*")
    assert parse_words(parser, ["--name", "a", "--many"]).many == []
    with pytest.raises(SystemExit):
        parse_words(parser, ["--name=--"])
    assert "--name: expected one argument" in capsys.readouterr().err


def test_a_flag_that_may_be_repeated_may_be_absent(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--plugin", action="append", default=[])
    assert parse_words(parser, []).plugin == [] and parse_words(parser, ["--plugin", "a"]).plugin == ["a"]
    with contextlib.suppress(SystemExit):
        assert parse_words(parser, ["--plugin=--"]).plugin == ["--"]  # Python 3.13 and later
