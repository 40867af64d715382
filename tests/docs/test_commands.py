"""Every command and every piece of Python in the documentation is one that works: flags parse, names exist."""

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from utils.errors import parse_words

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
SCRIPTS = ("train", "val", "detect", "export")
INLINE = re.compile(r"`((?:python|torchrun) [^`\n]+)`")
COMMAND = re.compile(r"^\s*(?:[A-Z_]+=\S+ )*(?:python3?|torchrun|assn-\w+) (?:.*\\\n)*.*", re.MULTILINE)
LAUNCHER = re.compile(r"torchrun .*?(?=train\.py|val\.py)")
PROGRAMS = ("pip", "git", "ffmpeg", "trtexec", "mkdocs", "apt-get")  # whose flags are theirs
# Flags of other programs that pages name.
THEIRS = {"--lr0", "--upgrade", "--strict", "--nproc-per-node", "--nnodes", "--no-deps", "--target", "--max-restarts",
          "--rdzv-backend", "--rdzv-endpoint", "--python-version", "--force-reinstall"}


@cache
def parser_of(module: str):
    """The parser of a module that is a command; None where it has none to ask."""
    found = importlib.import_module(module)
    make = getattr(found, "build_parser", None) or getattr(found, "parser", None)
    return make() if make else None


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The module of ours that a command line runs, and the words for it; None for another program."""
    first, *rest = words
    if first.startswith("assn-"):
        return first.removeprefix("assn-"), rest
    if rest[:1] == ["-m"]:
        name, rest = rest[1], rest[2:]
        if name == "assn":
            from assn.commands import COMMANDS

            return (COMMANDS[rest[0]][0].removeprefix("assn."), rest[1:]) if rest else None
        if name.split(".")[0] not in ("data", "models", "engine", "benchmarks"):
            return None
        folder = ROOT / name.replace(".", "/")
        return (f"{name}.__main__" if folder.is_dir() else name), rest
    script = Path(rest[0]).stem if rest and rest[0].endswith(".py") else ""
    return (script, rest[1:]) if script in SCRIPTS else None


def commands(text: str) -> list[str]:
    """The command lines of a page, in blocks and within lines, without comments and placeholders."""
    found = []
    for line in [match[0] for match in COMMAND.finditer(text)] + INLINE.findall(text):
        line = LAUNCHER.sub("python ", re.sub(r"\\\n\s*", " ", line).strip())
        line = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line)
        words = shlex.split(re.sub(r"<[^>]*>", "x", line), comments=True)
        found.append([word for word in words if word != "..."])
    return found


def test_a_wrong_flag_would_be_found():
    text = "    python train.py --epochs 3 \\\n      --imgs x\n\n`python -m data my.yaml --sized`, `pip install x`"
    first, second = commands(text)
    assert module_of(first) == ("train", ["--epochs", "3", "--imgs", "x"]) and module_of(["pip", "install"]) is None
    for words in (first, second):
        module, rest = module_of(words)
        with pytest.raises(SystemExit):
            parse_words(parser_of(module), rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page, capsys):
    for words in commands(page.read_text(encoding="utf-8")):
        target = module_of(words)
        parser = target and parser_of(target[0])
        if not parser:
            continue
        needed = [word for action in parser._actions if action.required and action.option_strings
                  and not any(word.startswith(action.option_strings[0][:8]) for word in target[1])
                  for word in (action.option_strings[0], "x")]
        try:
            parse_words(parser, [*target[1], *needed])
        except SystemExit as end:
            if end.code:  # --help ends well
                pytest.fail(f"{page.name}: {shlex.join(words)}: {capsys.readouterr().err}")


@cache
def all_flags() -> frozenset[str]:
    modules = [*SCRIPTS, "data.__main__", "models.__main__", "models.convert", "models.module_table",
               "engine.evaluation.__main__", *(f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")
                                               if path.stem != "__init__"),
               *(f"benchmarks.{path.parent.name}.__main__" for path in (ROOT / "benchmarks").glob("*/__main__.py")),
               "benchmarks.gpu.pack"]
    parsers = filter(None, map(parser_of, modules))
    return frozenset(flag for parser in parsers for flag in parser._option_string_actions) | {"--debug"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_the_text_exist(page):
    spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    code = " ".join(span for span in spans if span.split(" ")[0] not in PROGRAMS)
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
    unknown = {flag for flag in flags if flag not in all_flags() | THEIRS
               and not any(own.startswith(flag) for own in all_flags())}
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python_and_its_names_exist(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("models", "utils", "data", "engine",
                                                                                   "assn"):
                module = importlib.import_module(node.module)
                lacking = [alias.name for alias in node.names if not hasattr(module, alias.name)
                           and importlib.util.find_spec(f"{node.module}.{alias.name}") is None]
                assert not lacking, f"{page.name}: from {node.module} import {', '.join(lacking)}"
