"""What a model config may hold: the type of every key and the limits that keep building it bounded in time and memory.

A config comes from a YAML file, a checkpoint or a dict, none of which is trusted.
"""

from collections.abc import Callable
from typing import Any

from utils.config import MAX_CLASSES, is_number, is_whole
from utils.errors import UserError, shown

MAX_ROWS = 2_000
MAX_LAYERS = 2_000  # rows times their repeats
MAX_PARAMETERS = 4_000_000_000  # 16 GB in float32
MAX_CHANNELS = 65_536
MAX_STRIDE = 1_024  # input pixels to a cell; the published models end at 128
MIN_STRIDE = 0.25
MAX_BASES = 8  # files in a chain of `base:`
LEVELS = ("p2",)  # that can be added to a base (`models.levels`)
MAX_TEXT = 200  # characters of a name or key


def is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(key) or is_whole(key, 0, MAX_CLASSES) for key in value)


def is_rows(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_ROWS


_NUMBER = (lambda v: is_number(v, 1e-3, 100), "a number from 0.001 to 100")
_TEXT = (is_text, f"a text of at most {MAX_TEXT} characters")
_MAPPING = (is_mapping, "`key: value` lines")
_NORM = (lambda v: isinstance(v, list) and len(v) == 2 and is_number(v[0], 1e-12, 1) and is_number(v[1], 0, 1),
         "[eps, momentum], such as [0.001, 0.03]")
_ROWS = (is_rows, f"a list of at most {MAX_ROWS} rows [from, repeats, module, args]")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "nc": (lambda v: is_whole(v, 1, MAX_CLASSES), f"the number of classes, 1 to {MAX_CLASSES:,}"),
    "names": (lambda v: isinstance(v, list) and len(v) <= MAX_CLASSES or is_mapping(v),
              "a list such as [person, car] or {0: person, 1: car}"),
    "anchors": (lambda v: isinstance(v, list) and len(v) <= 16 or is_whole(v, 1, 100),
                "a list of anchors for each level, or how many of them a level has"),
    "depth_multiple": _NUMBER, "width_multiple": _NUMBER,
    "max_channels": (lambda v: is_whole(v, 1, MAX_CHANNELS), f"a whole number of channels, 1 to {MAX_CHANNELS:,}"),
    "scales": _MAPPING, "scale": _TEXT, "activation": _TEXT, "base": _TEXT, "recipe": _TEXT,
    "backbone": _ROWS, "head": _ROWS,
    "frozen": (lambda v: is_rows(v) and all(map(is_text, v)), "a list of names of rows"),
    "frame": _MAPPING, "pixels": _MAPPING, "batch_norm": _NORM,
    "words": _MAPPING, "aliases": _MAPPING, "replace": _MAPPING, "options": _MAPPING,
    "neck": (lambda v: is_text(v) or is_mapping(v), "a name such as assn, or a mapping with `type`"),
    "levels": (lambda v: v in LEVELS, "p2: a level of half the finest stride"),
    "necks": (lambda v: is_mapping(v) and all(is_mapping(o) for o in v.values()),
              "the options of each neck, such as assn: {levels: [0, 1, 2]}"),
}


def checked_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """`config` without the keys whose value is empty (null), every known key of the right type and by its new name.

    Raises `UserError` naming `source`, the key and what it should be.
    """
    config = {key: value for key, value in config.items() if value is not None}
    for key, (fits, expected) in _RULES.items():
        if key in config and not fits(config[key]):
            raise UserError(f"{source}: `{key}` must be {expected}, not {shown(config[key])}", code="bad-value")
    if "words" in config:  # the name of before
        config["aliases"] = {**config.pop("words"), **config.get("aliases", {})}
    return config


def check_size(where: str, *, layers: int = 0, parameters: int = 0) -> None:
    """Raises `UserError` where a model has grown beyond what is built."""
    if layers > MAX_LAYERS:
        raise UserError(f"{where}: the model has more than {MAX_LAYERS:,} layers with its repeats; lower `repeats`",
                        code="too-large")
    if parameters > MAX_PARAMETERS:
        raise UserError(f"{where}: the model has more than {MAX_PARAMETERS:,} parameters; lower its widths",
                        code="too-large")


def check_stride(stride: float) -> None:
    """Raises `UserError` for a map far larger than the image or far smaller than any object."""
    if not MIN_STRIDE <= stride <= MAX_STRIDE:
        raise UserError(f"its stride is {stride:g} pixels of the image; {MIN_STRIDE} to {MAX_STRIDE} is possible",
                        code="bad-stride")
