"""Where layers declare themselves, so that a model file may name them and the builder needs no case for any of them.

A layer is an `nn.Module` whose first constructor argument is the channels it reads: an int, or a list with one int per
input where it is registered with `many=True`. It exposes `out_channels` and, where it changes resolution, `stride`, the
relative stride (2 halves the map, 0.5 doubles it; absent means 1). A keyword-only argument called `strides` receives
the strides in pixels of its inputs; one called `rows` receives the channels of all rows before it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from utils.errors import UserError, nearest

SUPPLIED = ("strides", "rows")  # keyword-only arguments that the builder fills in where a constructor has them


@dataclass(frozen=True)
class LayerType:
    """What a layer declared.

    width: constructor arguments that are channel counts, scaled by a model's width. repeats: the keyword that takes a
    row's repeat count; None where repeats mean copies in series. many: reads several maps, given as one list.
    """

    name: str
    cls: type[nn.Module]
    width: tuple[str, ...]
    repeats: str | None
    many: bool

    @property
    def signature(self) -> inspect.Signature:
        """The constructor's arguments as a row writes them: without those that the builder supplies."""
        own = list(inspect.signature(self.cls).parameters.values())[1:]
        return inspect.Signature([p for p in own if p.name not in (*SUPPLIED, self.repeats)])

    def wants(self, supplied: str) -> bool:
        """Whether the constructor asks the builder for one of `SUPPLIED`."""
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
             many: bool = False) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: make a layer known to model files under `names`.

    Several classes may share a name, as the two heads that YOLO files call `Detect` do: a row gets the first one whose
    constructor takes its arguments.
    """
    widths = (width,) if isinstance(width, str) else tuple(width)

    def declare(cls: type[nn.Module]) -> type[nn.Module]:
        for name in names:
            _LAYERS.setdefault(name, []).append(LayerType(name, cls, widths, repeats, many))
        return cls

    return declare


def lookup(name: str) -> list[LayerType]:
    """The layers of that name. Raises `UserError` with the nearest names where there is none."""
    if name not in _LAYERS:
        hint = nearest(name, known_layers())
        raise UserError(f"unknown module{'; ' + hint if hint else ' ' + repr(name)}")
    return _LAYERS[name]


def known_layers() -> list[str]:
    """All registered names, sorted."""
    return sorted(_LAYERS)
