import ast
import os
import sys

import pytest

from tests.contracts.test_house import ROOT
from utils.threads import DECIDES, SPINS, shorten_spinning


@pytest.mark.parametrize("own", [None, *DECIDES])
def test_a_users_own_setting_wins(monkeypatch, own):
    for name in DECIDES:
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(own, "7")
    shorten_spinning()
    found = {name: os.environ[name] for name in DECIDES if name in os.environ}
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert found == ({own: "7"} if own else {"GOMP_SPINCOUNT": str(SPINS)})


@pytest.mark.parametrize("script", ["train", "val", "detect", "export"])
def test_scripts_set_it_before_pytorch_is_imported(script):
    cheap = {*sys.stdlib_module_names, "utils.threads"}
    for statement in ast.parse((ROOT / f"{script}.py").read_text()).body[1:]:
        if isinstance(statement, ast.If):
            assert ast.unparse(statement).endswith("shorten_spinning()")
            return
        names = {statement.module} if isinstance(statement, ast.ImportFrom) else {n.name for n in statement.names}
        assert {name if name in cheap else name.partition(".")[0] for name in names} <= cheap
    raise AssertionError("never set")
