"""ASSN from Python: `assn.load_model("best.pt").predict("images/")`. See docs/python.md.

The code lies in `models`, `utils`, `data`, `engine` and the four scripts beside this folder, or inside it once
installed. Here they are `assn.models`, `assn.utils`, ..., apart from other packages of these names. Importing `assn` is
cheap: what a name needs, torch above all, is imported when it is used.
"""

from typing import TYPE_CHECKING, Any

from assn import _isolation

if TYPE_CHECKING:
    from assn.models import Detector, build_model, known_models
    from assn.utils.errors import UserError

__version__ = "0.1.0"
__all__ = ["Detector", "UserError", "build_model", "known_models"]
PLACES = {"Detector": "assn.models", "UserError": "assn.utils.errors", "build_model": "assn.models",
          "known_models": "assn.models"}

_isolation.install()


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use."""
    if name not in PLACES:
        raise AttributeError(f"module 'assn' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
