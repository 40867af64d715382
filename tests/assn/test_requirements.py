"""pyproject.toml and requirements.txt name the same packages and versions; what detects needs no test tools."""

import re

import pytest

from tests.running import ROOT

tomllib = pytest.importorskip("tomllib")  # Python 3.11
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
WITH_VERSION = re.compile(r"(# ?)?([A-Za-z0-9_.-]+[<>=!~]=?[^ #]+)(\s+#.*)?")  # `name>=1.0  # what for`
LISTED = [match for match in map(WITH_VERSION.fullmatch, LINES) if match]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[ ;]", requirement)[0] for requirement in requirements}


def test_what_make_installs_is_what_pip_installs_with_its_extras():
    """A line behind a `#` is optional: an extra has it, and `make` does not install it."""
    installed = {match[2] for match in LISTED if not match[1]}
    optional = {match[2] for match in LISTED if match[1]}
    extras = {requirement for extra in EXTRAS.values() for requirement in extra if not requirement.startswith("assn[")}
    assert set(PROJECT["dependencies"]) <= installed
    assert installed - set(PROJECT["dependencies"]) <= extras
    assert extras - installed == optional


def test_who_detects_installs_no_tools_of_tests_search_or_export():
    tools = {"pytest", "ruff", "hypothesis", "optuna", "onnx", "onnxruntime", "openvino", "supervision"}
    assert not names(PROJECT["dependencies"]) & tools
    assert {"export", "track", "tune", "dev"} <= set(EXTRAS)


def test_commands_are_those_that_exist():
    from assn import commands

    scripts = ("train", "val", "detect", "export")
    assert PROJECT["scripts"] == {f"assn-{name}": f"assn.commands:{name}" for name in scripts}
    assert all(callable(getattr(commands, name)) for name in scripts)
