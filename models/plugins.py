"""Layers, necks, heads and box losses of a user's own: Python files that register them, named on the command line.

    # my_layers.py
    from torch import nn
    from models.registry import register

    @register("Halve", width="c2")
    class Halve(nn.Module): ...

`python train.py --cfg my_model.yaml --plugin my_layers.py`. The file is the user's own code and runs as such; it is
taken from the command line alone, never from a model file or a checkpoint.
"""

import importlib.util
import sys
import traceback
import zlib
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from models import builder  # noqa: F401  our own layers come first, so that a name that they have is seen as taken
from models.boxes.similarity import KINDS
from models.registry import known_layers, lookup, unregister
from utils.errors import UserError


def load_plugin(path: str | Path) -> list[str]:
    """Import the one file at `path`; returns the names of the layers and box losses that it registered, sorted.

    A file that was loaded before is not run again. Raises `UserError` naming the file, and the line where there is one,
    for a file that is missing or does not run, that registers nothing, or that registers a name which is taken or a
    class which is no `nn.Module`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--plugin {path}: no such file", code="missing-file")
    if path.suffix != ".py":
        raise UserError(f"--plugin {path}: not a Python file (.py)", code="not-a-plugin")
    name = f"{__package__.replace('.', '_')}_plugin_{zlib.crc32(str(path.resolve()).encode()):08x}_{path.stem}"
    if name not in sys.modules:
        taken = set(known_layers())
        try:
            _run(path, name)
            _check(path, name, taken)
        except UserError:
            _forget(name)
            raise
    return sorted(_layers_of(name) + _losses_of(name))


def _check(path: Path, module: str, taken: set[str]) -> None:
    """Raises `UserError` where a module registers nothing, a name that is taken, or what is no layer."""
    layers = _layers_of(module)
    if not layers + _losses_of(module):
        raise UserError(f"--plugin {path}: registers no layer; decorate a class with @register(\"Name\") of "
                        "models.registry, or a box loss with @register_kind(\"name\") of models.boxes.similarity",
                        code="not-a-plugin")
    for layer in layers:
        if layer in taken:
            raise UserError(f"--plugin {path}: the name {layer!r} is taken; register the class under another "
                            f"and let the model file say `aliases: {{{layer}: MyName}}`, so its rows need no change",
                            code="name-taken")
        wrong = next((k.cls for k in lookup(layer) if not issubclass(k.cls, nn.Module)), None)
        if wrong is not None:
            raise UserError(f"--plugin {path}: {wrong.__name__}, registered as {layer!r}, must be an nn.Module",
                            code="not-a-plugin")


def load_plugins(paths: Sequence[str | Path]) -> list[str]:
    """Load every file that `--plugin` names, before any model is built. Returns the names that they register."""
    return [layer for path in paths for layer in load_plugin(path)]


def _layers_of(module: str) -> list[str]:
    """The layers that this module registered, by name."""
    return [name for name in known_layers() if any(kind.cls.__module__ == module for kind in lookup(name))]


def _losses_of(module: str) -> list[str]:
    """The box losses that this module registered, by name."""
    return [name for name, similarity in KINDS.items() if similarity.__module__ == module]


def _forget(module: str) -> None:
    """Remove a module that failed, and what it had registered."""
    sys.modules.pop(module, None)
    unregister(module)
    for kind in _losses_of(module):
        del KINDS[kind]


def _run(path: Path, name: str) -> None:
    """Execute the file as a module of that name. Raises `UserError` with the line of an error."""
    from assn._isolation import builtins_beside

    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = builtins_beside(__name__)  # `models` and `assn.models` are the ones in use
    sys.modules[name] = module  # dataclasses and typing look their module up there while it runs
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"--plugin {path}: line {error.lineno}: {error.msg}", code="broken-plugin") from error
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.resolve()
                 or f.filename == str(path)]
        where = f"line {lines[-1]}: " if lines else ""
        raise UserError(f"--plugin {path}: {where}{type(error).__name__}: {error}", code="broken-plugin") from error
