"""The flags that say by which protocol is judged, of val.py and train.py: `--protocol --size-bins --eval-iou`."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.evaluation.metrics.protocol import PROTOCOLS, Protocol
from utils.cli import LONGEST_SIDE, Rule
from utils.errors import shown
from utils.options import option

if TYPE_CHECKING:  # it loads torch, which files are judged without
    from utils.select import SelectConfig

PROTOCOL_HELP = f"beside COCO's numbers: {', '.join(name for name in PROTOCOLS if name != 'coco')}"
STEP = 0.05  # of a range of overlaps
OWN_RULES = "VOC and VisDrone judge by overlaps of their own and not by size; drop it, or choose another --protocol"
ONE = "is one more set of rules; give one --protocol that it changes"


def named(config: Any) -> tuple[str, ...]:
    """The protocols that `--protocol` names, each once; the first is that of a model's own tables."""
    return (config.protocol,) if isinstance(config.protocol, str) else tuple(dict.fromkeys(config.protocol))


PROTOCOL_RULES = [rule for flag in ("size_bins", "eval_iou") for rule in (
    Rule(flag, lambda config, _: all(PROTOCOLS[name].rule == "coco" for name in named(config)), OWN_RULES),
    Rule(flag, lambda config, _: len(named(config)) == 1, ONE))]


def sizes(text: str) -> tuple[float, ...]:
    """An argparse type: `8,16,32,96`, ascending sides in pixels."""
    sides = _numbers(text.split(","))
    if not sides or not all(b > a for a, b in zip([0, *sides], sides, strict=False)) or sides[-1] > LONGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{shown(text, 40)} are not ascending sides in pixels such as 8,16,32,96")
    return tuple(sides)


def overlaps(text: str) -> tuple[float, ...]:
    """An argparse type: `0.5`, a list `0.25,0.5`, a range `0.25:0.5` in steps of 0.05, or one with its step
    `0.25:0.75:0.25`; both ends are included."""
    example = "is no IoU, list or range such as 0.5, 0.25,0.5 or 0.25:0.5:0.05, above 0 and at most 1"
    parts = text.split(":")
    values = _numbers(parts if len(parts) > 1 else text.split(","))
    if len(parts) > 1:
        low, high, step = (*values, STEP)[:3] if 2 <= len(values) == len(parts) <= 3 else (0, 0, 0)
        count = round((high - low) / step) if 0 < low < high <= 1 and step >= 0.001 else 0
        if count < 1 or abs(low + count * step - high) > 1e-9:
            raise argparse.ArgumentTypeError(f"{shown(text, 40)} {example}; the step must lead from one end to the "
                                             f"other")
        values = np.linspace(low, high, count + 1).tolist()
    if not values or not all(0 < value <= 1 for value in values) or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"{shown(text, 40)} {example}")
    return tuple(sorted(values))


def _numbers(words: Sequence[str]) -> list[float]:
    """The numbers, none where one of them is none."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return []


def nms_or_eval_iou(text: str) -> float | tuple[float, ...]:
    """An argparse type of `--iou`: a single number in [0, 1] is that of NMS, a list or range those of evaluation."""
    if ":" in text or "," in text:
        return overlaps(text)
    values = _numbers([text])
    if not values or not 0 <= values[0] <= 1:
        raise argparse.ArgumentTypeError(f"{shown(text, 40)} is not a number between 0.0 and 1.0, nor a range such as "
                                         f"0.25:0.5")
    return values[0]


class NmsOrEvalIou(argparse.Action):
    """`--iou 0.65` is NMS's threshold, `--iou 0.25:0.5` is --eval-iou."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, "eval_iou" if isinstance(values, tuple) else self.dest, values)


def protocol_option() -> Any:
    """`--protocol` of train.py."""
    return option("coco", PROTOCOL_HELP, choices=tuple(PROTOCOLS), metavar="NAME")


def protocols_option() -> Any:
    """`--protocol` of val.py, one or several; also under its older name `--metric`."""
    return option(("coco",), PROTOCOL_HELP, "--metric", choices=tuple(PROTOCOLS), nargs="+", metavar="NAME")


def size_bins_option() -> Any:
    """`--size-bins`."""
    return option(None, "limits between object sizes, sides in pixels: 8,16,32,96",
                  type=sizes, metavar="PX,PX")


def eval_iou_option() -> Any:
    """`--eval-iou`."""
    return option(None, "IoU from which a detection is right: a list 0.25,0.5 or a range 0.25:0.5[:step]",
                  type=overlaps, metavar="IOU")


def selection(own: "SelectConfig", *protocols: Protocol) -> "SelectConfig":
    """The thresholds of a model with as many detections of an image as the protocols count, if those are more."""
    return replace(own, max_det=max(own.max_det, *(protocol.kept or 0 for protocol in protocols)))


def chosen_protocol(config: Any, max_det: int | None = None) -> Protocol:
    """The first protocol that flags ask for. max_det: `--max-det` where it was given; above the protocol's own limit
    its numbers stand beside."""
    return chosen_protocols(config, max_det)[0]


def chosen_protocols(config: Any, max_det: int | None = None) -> list[Protocol]:
    """All protocols that flags ask for, as `chosen_protocol` has the first."""
    chosen = [PROTOCOLS[name].changed(config.eval_iou or (), config.size_bins or ()) for name in named(config)]
    return [replace(protocol, beside=max_det) if max_det and max_det > protocol.max_det else protocol
            for protocol in chosen]
