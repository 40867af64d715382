"""The settings of `Model.predict`: those of detect.py by shorter names, checked by the same rules."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from engine.inference.config import DetectConfig
from utils.errors import UserError, nearest, shown

# name here -> field of `DetectConfig`, whose help says what it is
NAMES = {"conf": "conf_thres", "iou": "iou_thres", "agnostic": "agnostic_nms"}
NAMES |= {name: name for name in ("imgsz", "max_det", "classes", "slice", "overlap", "with_full", "merge", "augment",
                                  "track", "vid_stride", "max_pixels", "reconnect")}
FLAGS = {field.replace("_", "-"): name for name, field in NAMES.items()}
FLAGS |= {flag: flag for flag in ("device", "half", "trust", "source")}
FLAG = re.compile(rf"--({'|'.join(FLAGS)})(?![\w-])")


def config_of(weights: Sequence[str], source: Any, settings: Mapping[str, Any]) -> DetectConfig:
    """The configuration that these settings make; None stands for the default. source: as `predict` got it.

    Raises `UserError` for an unknown setting, a value that the flag would not take, and settings without effect.
    """
    flags = {flag.name: flag for flag in fields(DetectConfig)}
    values = {}
    for name, value in settings.items():
        if name not in NAMES:
            known = next((ours for ours, field in NAMES.items() if field == name), None)
            hint = f"did you mean {known!r}?" if known else nearest(name, list(NAMES)) or f"known: {', '.join(NAMES)}"
            raise UserError(f"predict: no setting is called {shown(name)}; {hint}", "unknown-setting")
        if value is not None:
            values[NAMES[name]] = _checked(name, value, flags[NAMES[name]].metadata["words"])
    place = str(source) if isinstance(source, str | Path | int) else "memory"
    with python_names():
        return DetectConfig(tuple(weights), place, **values, given=values).check()


def _checked(name: str, value: Any, words: Mapping[str, Any]) -> Any:
    """A value as its flag would give it; words: of `utils.options.option`."""
    if words.get("action") == "store_true":
        if not isinstance(value, bool | np.bool_):
            raise UserError(f"{name}={shown(value)}: give True or False", "bad-value")
        return bool(value)
    if isinstance(value, bool) and "const" in words:  # a flag that is given without a value
        return words["const"] if value else None
    several = words.get("nargs") == "+"
    parts = list(value) if several and isinstance(value, list | tuple | set | range | np.ndarray) else [value]
    if not parts or len(parts) > 2 and name == "imgsz":
        raise UserError(f"{name}={shown(value)}: give {'one or two numbers' if name == 'imgsz' else 'one or more'}, or "
                        "leave it out", "bad-value")
    try:
        read = tuple(words.get("type", str)(str(part)) for part in parts)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{name}: {error}", "bad-value") from None
    choices = words.get("choices")
    if choices and read[0] not in choices:
        raise UserError(f"{name}={shown(value)}: give one of {', '.join(choices)}", "bad-value")
    return read if several else read[0]


@contextmanager
def python_names() -> Iterator[None]:
    """Errors of the block name flags as settings: `--iou-thres` as `iou`."""
    try:
        yield
    except UserError as error:
        raise type(error)(in_python(str(error)), code=error.code) from None


def in_python(text: str) -> str:
    """A message with settings for flags."""
    return FLAG.sub(lambda flag: FLAGS[flag[1]], text)
