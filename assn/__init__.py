"""ASSN from Python: `assn.load_model("best.pt").predict("images/")`. See docs/python.md.

The code lies in `models`, `utils`, `data`, `engine` and the four scripts beside this folder, or inside it once
installed. Here they are `assn.models`, `assn.utils`, ..., apart from other packages of these names. Importing `assn` is
cheap: what a name needs, torch above all, is imported when it is used.
"""

from typing import TYPE_CHECKING, Any

from assn import _isolation

if TYPE_CHECKING:
    from assn.engine.inference.detections import Detection, ImageDetections
    from assn.engine.inference.model import Model, load_model
    from assn.models import Detector, build_model, known_models
    from assn.utils.errors import UserError
    from assn.utils.reporting.draw import Style

__version__ = "0.1.0"
__all__ = ["Detection", "Detector", "ImageDetections", "Model", "Style", "UserError", "build_model", "known_models",
           "load_model"]
PLACES = {"Detection": "engine.inference.detections", "ImageDetections": "engine.inference.detections",
          "Model": "engine.inference.model", "load_model": "engine.inference.model", "Detector": "models",
          "build_model": "models", "known_models": "models", "Style": "utils.reporting.draw",
          "UserError": "utils.errors"}

_isolation.install()


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use."""
    if name not in PLACES:
        raise AttributeError(f"module 'assn' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"assn.{PLACES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
