"""Flags of val.py and detect.py about how an image is looked at: in slices, augmented, by several models."""

from typing import Any

from engine.inference.merging.models import METHODS as MODEL_METHODS
from engine.inference.merging.views import METHODS as VIEW_METHODS
from engine.inference.slicing import Slicing
from utils.cli import LONGEST_SIDE, Rule, number
from utils.options import option

LEAST = 32  # pixels of a window
OVERLAP, VIEWS, MODELS = 0.2, "nmm", "wbf"  # where no flag says otherwise


def slice_option() -> Any:
    """`--slice`."""
    return option(None, "look at windows of this side at full resolution, and merge what they show",
                  type=number(int, LEAST, LONGEST_SIDE), metavar="PX")


def overlap_option() -> Any:
    """`--overlap`."""
    return option(None, f"of neighbouring windows, as a fraction of --slice (default {OVERLAP})",
                  type=number(float, 0.0, 0.9), metavar="F")


def with_full_option() -> Any:
    """`--with-full`."""
    return option(False, "with --slice: merge what the whole image shows too")


def merge_option() -> Any:
    """`--merge`."""
    return option(None, f"boxes of windows or models: keep one, join parts, average; default {VIEWS} or {MODELS}",
                  choices=tuple(VIEW_METHODS))


def augment_option() -> Any:
    """`--augment`."""
    return option(False, "look also at 0.83 of the size, mirrored, and at 0.67 (test-time augmentation)")


def slicing_of(config: Any) -> Slicing | None:
    """What the flags of a configuration say about slices, None where whole images are looked at."""
    if config.slice is None:
        return None
    overlap = OVERLAP if config.overlap is None else config.overlap
    return Slicing(config.slice, overlap, config.with_full, config.merge or VIEWS)


def views_in_words(config: Any) -> str:
    """How the flags of a configuration look at an image; '' for whole images as they are."""
    slicing = slicing_of(config)
    parts = []
    if slicing:
        parts.append(f"windows of {slicing.size} px that overlap by {slicing.overlap:g}"
                     + ", and whole images" * slicing.with_full + f", merged by {slicing.merge}")
    if config.augment:
        parts.append("each also at 0.83 of the size, mirrored, and at 0.67 (--augment)")
    return ", ".join(parts)


def merges_models(config: Any) -> bool:
    """Whether `--merge` is about several models, and not about windows."""
    return len(config.weights) > 1 and config.slice is None


VIEW_RULES = [
    *(Rule(flag, lambda config, _: config.slice is not None, "says how windows are cut; add --slice")
      for flag in ("overlap", "with_full")),
    Rule("merge", lambda config, _: config.slice is not None or len(config.weights) > 1,
         "merges windows or models; add --slice, or several --weights"),
    Rule("merge", lambda config, _: config.merge in MODEL_METHODS or not merges_models(config),
         f"several models have no parts to put together; use {' or '.join(MODEL_METHODS)}"),
]
