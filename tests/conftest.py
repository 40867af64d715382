"""Fixtures that every test may use."""

import os

# Before torch is imported: `make test` runs two processes on two cores, and threads that fight for a core spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import yaml  # noqa: E402

from tests.golden_rule import SHARED, load_golden  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory) -> Iterator[None]:
    """What is noted in the user's cache folder, such as digests of exported files, goes away with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of facts, goldens and real images beside the checkout; absent on a user's machine."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here: goldens and real images are kept outside the repository")
    return SHARED


@pytest.fixture
def real_data(shared, tmp_path) -> Callable[[str], Path]:
    """real_data(name) -> the YAML of `cfg/data` of that name, with the images beside the checkout."""

    def write(name: str) -> Path:
        content = yaml.safe_load((ROOT / "cfg/data" / f"{name}.yaml").read_text(encoding="utf-8"))
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**content, "path": str(shared / "data" / name)}), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def golden(shared):
    """golden(name) -> (meta, arrays) of a parity fixture."""
    return load_golden
