"""The source tree as one package: `assn.models`, `assn.utils`, ... beside any other `models` and `utils`.

The tree imports itself by absolute names (`from utils.errors import UserError`), so that `python train.py` reads as in
other YOLO repositories. Those names are everybody's: YOLOv5 and YOLOv7 have `models` and `utils` too, and whichever
comes first in `sys.modules` would answer for both. So, below `assn.`:

- `Finder` finds the files, in the tree around this folder or, installed, inside it;
- each module gets an `__import__` of its own, which takes `utils.errors` for `assn.utils.errors`, now and whenever one
  of its functions imports something later. Python looks `__import__` up in the `__builtins__` of the importing module.

Other ways and their price: real names (`from assn.utils import ...`) would put the four scripts and the whole tree one
folder down; relative imports do not reach from `engine` to `utils` in a plain tree; removing and restoring entries of
`sys.modules` around an import breaks what is imported later and in threads; rewriting the source needs a second cache
of bytecode. Here the code objects are the plain tree's. An import costs one more Python call.
"""

import builtins
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "assn"
TREE = frozenset({"models", "utils", "data", "engine", "train", "val", "detect", "export"})
HERE = Path(__file__).resolve().parent
ROOT = HERE if (HERE / "models").is_dir() else HERE.parent  # installed, or a source tree


def _own_name(name: str) -> str | None:
    """`utils.errors` for `utils.errors` and for `assn.utils.errors`; None for what is not of the tree."""
    plain = name.removeprefix(f"{PACKAGE}.")
    return plain if plain.partition(".")[0] in TREE else None


def _import_isolated(name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (),
                     level: int = 0) -> ModuleType:
    """`__import__` of modules below `assn.`."""
    own = _own_name(name) if not level else None
    if own is None or name != own:
        return builtins.__import__(name, globals, locals, fromlist, level)
    module = builtins.__import__(f"{PACKAGE}.{own}", globals, locals, fromlist, 0)
    return module if fromlist else sys.modules[f"{PACKAGE}.{own.partition('.')[0]}"]  # `import utils.x` binds `utils`


def _import_plain(name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (),
                  level: int = 0) -> ModuleType:
    """`__import__` of a plugin in a plain tree: `assn.models` is the `models` that the program runs."""
    own = _own_name(name) if not level else None
    if level or (name != PACKAGE and (own is None or name == own)):
        return builtins.__import__(name, globals, locals, fromlist, level)
    if own and fromlist:
        return builtins.__import__(own, globals, locals, fromlist, 0)
    if own:
        builtins.__import__(own)
    return _PlainFace(PACKAGE)


class _PlainFace(ModuleType):
    """What `import assn.models` and `from assn import models` bind in a plugin in a plain tree."""

    def __getattr__(self, name: str) -> Any:
        if name in TREE:
            return builtins.__import__(name)
        return getattr(builtins.__import__(PACKAGE), name)


def builtins_beside(module: str) -> dict[str, Any]:
    """The `__builtins__` of code that is to share its modules with `module`, whichever of the two names it imports."""
    return _ISOLATED if module.startswith(f"{PACKAGE}.") else _PLAIN


_ISOLATED = {**vars(builtins), "__import__": _import_isolated}
_PLAIN = {**vars(builtins), "__import__": _import_plain}


class Loader(SourceFileLoader):
    """Runs a file of the tree with the isolated `__import__`."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module's code, cached as that of the plain tree is."""
        module.__dict__["__builtins__"] = _ISOLATED
        super().exec_module(module)


class Finder(MetaPathFinder):
    """Finds the modules of the tree below `assn.`, and no others."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        """The place of a module; `path` is that of its parent, which for `assn.models` is the root of the tree."""
        package, _, own = fullname.partition(".")
        if package != PACKAGE or own.partition(".")[0] not in TREE:
            return None
        spec = PathFinder.find_spec(fullname, path if "." in own else [str(ROOT)], target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(fullname, spec.loader.path)
        return spec


def install() -> None:
    """Put the finder before Python's own, which, installed, would find the files as well and run them plainly."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
