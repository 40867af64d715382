"""The registry of layers: what model files may name, without a case for any of them in the builder.

A layer is an `nn.Module` whose first constructor argument is the channels it reads: an int, or a list with one int per
input where it is registered with `multi_input=True`. It exposes `out_channels` and, where it changes resolution,
`stride`, the relative stride (2 halves the map, 0.5 doubles it; absent means 1); both are lists where it gives several
maps, as a list, which rows read as `name.0`, `name.1`, or all of them as `name`. A keyword-only argument called
`strides` receives the strides in pixels of its inputs; one called `rows` receives the channels of all rows before it.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from utils.errors import UserError, nearest

SUPPLIED = ("strides", "rows")  # keyword-only arguments that the builder fills in where a constructor has them


@dataclass(frozen=True)
class LayerType:
    """What a layer declared.

    width: constructor arguments that are channel counts, scaled by a model's width. repeats: the keyword that takes a
    row's repeat count; None where repeats mean copies in series. multi_input: reads several maps, given as one list.
    neck: its name as a neck, for `--neck NAME` and models called `base-NAME`.
    """

    name: str
    cls: type[nn.Module]
    width: tuple[str, ...]
    repeats: str | None
    multi_input: bool
    neck: str | None = None

    @property
    def signature(self) -> inspect.Signature:
        """The constructor's arguments as a row writes them: without those that the builder supplies."""
        own = list(inspect.signature(self.cls).parameters.values())[1:]
        return inspect.Signature([p for p in own if p.name not in (*SUPPLIED, self.repeats)])

    def wants(self, supplied: str) -> bool:
        """Whether the constructor takes one of `SUPPLIED` from the builder."""
        return supplied in inspect.signature(self.cls).parameters

    def accepts(self, args: list[Any], options: dict[str, Any]) -> bool:
        """Whether a row's arguments fit the constructor."""
        try:
            self.signature.bind(*args, **options)
        except TypeError:
            return False
        return True


_LAYERS: dict[str, list[LayerType]] = {}


def register(*names: str, width: str | tuple[str, ...] = (), repeats: str | None = None,
             multi_input: bool = False, neck: str | None = None) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: make a layer known to model files under `names`.

    Several classes may share a name, as the two heads that YOLO files call `Detect` do: a row gets the first one whose
    constructor takes its arguments.
    """
    widths = (width,) if isinstance(width, str) else tuple(width)

    def declare(cls: type[nn.Module]) -> type[nn.Module]:
        for name in names:
            _LAYERS.setdefault(name, []).append(LayerType(name, cls, widths, repeats, multi_input, neck))
        return cls

    return declare


def unregister(module: str) -> None:
    """Remove the layers that a Python module has registered."""
    for name, kinds in list(_LAYERS.items()):
        kinds[:] = [kind for kind in kinds if kind.cls.__module__ != module]
        if not kinds:
            del _LAYERS[name]


def lookup(name: str) -> list[LayerType]:
    """The layers of that name. Raises `UserError` with the nearest names where there is none."""
    if name not in _LAYERS:
        hint = nearest(name, known_layers())
        raise UserError(f"unknown module{'; ' + hint if hint else ' ' + repr(name)}", code="unknown-name")
    return _LAYERS[name]


def choose(option: str, value: str, known: Iterable[str]) -> str:
    """`value` where it is one of `known`. Raises `UserError` with the nearest ones otherwise."""
    names = list(known)
    if value not in names:
        hint = nearest(str(value), names)
        raise UserError(f"{option} {value!r} is not one of {', '.join(names)}{'; ' + hint if hint else ''}",
                        code="unknown-name")
    return value


def known_layers() -> list[str]:
    """All registered names, sorted."""
    return sorted(_LAYERS)


def known_necks() -> dict[str, LayerType]:
    """The layers that are necks, by the name of `--neck`."""
    return {kind.neck: kind for kinds in _LAYERS.values() for kind in kinds if kind.neck}


def subclasses_of(base: type[nn.Module]) -> dict[type[nn.Module], LayerType]:
    """The registered layers of a kind, such as all heads, each under its first name."""
    found: dict[type[nn.Module], LayerType] = {}
    for kinds in _LAYERS.values():
        for kind in kinds:
            if issubclass(kind.cls, base):
                found.setdefault(kind.cls, kind)
    return found
