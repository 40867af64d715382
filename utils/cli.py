"""What the four scripts share on the command line: YOLO's words, checked numbers, and words that are refused."""

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from utils.errors import UserError, nearest

MAX_PIXELS = 400_000_000  # 20,000 x 20,000, the largest aerial images; decoded they take 1.2 GB
HARD_LIMIT = 1 << 30  # pixels: OpenCV decodes nothing larger


def number(kind: type, low: float, high: float = math.inf) -> Callable[[str], float]:
    """An argparse type: an int or float within [low, high]; anything else is told with what was expected."""
    span = f"{low} or more" if high == math.inf else f"between {low} and {high}"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole' if kind is int else 'a'} number {span}")
        return value

    return parse


positive = number(int, 1)
fraction = number(float, 0.0, 1.0)


def add_size(parser: argparse.ArgumentParser, default: int | None = 640, meaning: str = "height and width") -> None:
    """The flag `--imgsz | --img | --img-size`: one or two whole numbers, kept as a list in `args.imgsz`.

    meaning: what two numbers stand for in this script (`train, test` in YOLOv7's train.py, `height, width` elsewhere).
    """
    parser.add_argument("--imgsz", "--img", "--img-size", nargs="+", type=positive, metavar="PX",
                        default=None if default is None else [default], action=_OneOrTwo,
                        help=f"input size in pixels: one number, or two for {meaning}")


class _OneOrTwo(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if len(values) > 2:
            parser.error(f"{option_string}: takes one or two numbers, got {len(values)}")
        setattr(namespace, self.dest, values)


def add_device(parser: argparse.ArgumentParser, default: str = "") -> None:
    """The flag `--device`, read by `utils.device.select_device`."""
    parser.add_argument("--device", default=default, help="'' takes the first GPU or else the CPU; cpu; 0, 1, ...")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The flag `--workers`, read by `worker_count`."""
    parser.add_argument("--workers", type=number(int, 0), metavar="N",
                        help="processes that load images, at most one per core; 0 loads in this process; default 8, or "
                             "half the cores where the model computes on the CPU")


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """The flag `--max-pixels`: what an image may claim before memory is taken for it."""
    parser.add_argument("--max-pixels", type=number(int, 1, HARD_LIMIT), default=MAX_PIXELS, metavar="N",
                        help=f"larger images are skipped and counted, not decoded; default {MAX_PIXELS:,}")


def worker_count(wanted: int | None, device: str) -> int:
    """Processes to load images with: never more than the cores that this process may use.

    device: the type that the model computes on. Loaders beside a model on the CPU take its cores away: on two cores a
    training epoch of `make demo` takes 14.2 s with two of them and 13.0 s with one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if wanted is not None:
        return min(wanted, cores)
    return min(8, cores if device != "cpu" else cores // 2)


def input_size(values: Sequence[int], stride: int) -> tuple[int, int]:
    """(height, width) in pixels from the one or two numbers of `--imgsz`, rounded up to whole strides, and said so."""
    height, width = values[0], values[-1]
    size = tuple(math.ceil(side / stride) * stride for side in (height, width))
    if size != (height, width):
        print(f"--imgsz {height} {width}: rounded up to {size[0]} {size[1]}, whole multiples of the stride {stride}")
    return size


def class_indices(words: Sequence[str] | None, names: Sequence[str]) -> list[int] | None:
    """The indices that `--classes 0 2 person` means; None where the flag was not given.

    Each word, or each part of it between commas, is an index or a class name. Raises `UserError` for an unknown one.
    """
    if words is None:
        return None
    parts = [part for word in words for part in ([word] if word in names else word.split(","))]
    return sorted({_class_index(part.strip(), names) for part in parts})


def _class_index(word: str, names: Sequence[str]) -> int:
    if word in names:
        return list(names).index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    if word.lstrip("-").isdecimal():
        raise UserError(f"--classes {word}: out of range, this model has classes 0 to {len(names) - 1}")
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise UserError(f"--classes {word}: no such class; {nearest(word, list(names)) or 'known: ' + shown}")


def refused(parser: argparse.ArgumentParser, replacements: Mapping[str, str]) -> None:
    """Teach the parser words that YOLO has and we do not: `{"--int8": "use --half instead"}`.

    Given on the command line, such a word ends the program (exit code 2) with its advice. None is accepted and
    ignored, so that nobody believes in an effect that is not there.
    """
    for flag, advice in replacements.items():
        parser.add_argument(flag, action=_Refuse, advice=advice)


class _Refuse(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, advice: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs="*", help=argparse.SUPPRESS)
        self.advice = advice

    def __call__(self, parser, namespace, values, option_string=None) -> NoReturn:
        parser.error(f"{self.option_strings[0]} is not supported: {self.advice}")
