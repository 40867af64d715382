"""Fixtures that every test may use."""

from pathlib import Path

import pytest

from tests.golden_rule import SHARED, load_golden


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of facts, goldens and real images beside the checkout; absent on a user's machine."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here: goldens and real images are kept outside the repository")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared):
    """golden(name) -> (meta, arrays) of a parity fixture."""
    return load_golden
