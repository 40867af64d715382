"""Command-line flags that the scripts share: checked numbers, rules between flags, class indices."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError, nearest, shown

MOST = 1_000_000  # of a number whose flag names no bound of its own
LONGEST_SIDE = 16384  # pixels of a side that a model reads
MAX_PIXELS = 400_000_000  # 20,000 x 20,000, the largest aerial images; decoded they take 1.2 GB
HARD_LIMIT = 1 << 30  # pixels: OpenCV decodes nothing larger


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The flags given on the command line, by destination; empty if `args` was not parsed by a `Parser`."""
    return getattr(args, "given", None) or {}


@dataclass(frozen=True)
class Rule:
    """A condition under which a flag has an effect. flag: its destination; works(args, facts): the condition; cure:
    what to do otherwise; fatal: an error if the flag was given in vain, else a note."""

    flag: str
    works: Callable[[argparse.Namespace, Any], bool]
    cure: str
    fatal: bool = True


def check_flags(args: argparse.Namespace, rules: Sequence[Rule], facts: Any = None) -> None:
    """Raise one `UserError` that lists all given flags without effect, so that unsupported flags never pass silently.

    facts: passed to the rules beside the flags, such as the number of processes.
    """
    asked = given(args)
    idle = [rule for rule in rules if rule.flag in asked and not rule.works(args, facts)]
    for rule in idle:
        if not rule.fatal:
            print(f"{flag_of(rule.flag)} has no effect: {rule.cure}")
    wrong = [f"{flag_of(rule.flag)}: {rule.cure}" for rule in idle if rule.fatal]
    if wrong:
        raise UserError("; ".join(wrong), "flag-without-effect")


def flag_of(word: str) -> str:
    """The flag of a destination."""
    return "--" + word.replace("_", "-")


def not_empty(words: Sequence[str]) -> list[Rule]:
    """Rules for flags whose value cannot be empty, such as an unset variable in a job script."""
    return [Rule(word, lambda args, _, word=word: str(getattr(args, word)).strip() != "",
                 "its value is empty; is a variable unset? give a value, or drop the flag") for word in words]


def number(kind: type, low: float, high: float = MOST) -> Callable[[str], float]:
    """An argparse type: an int or float within [low, high]; anything else is an error that names the range."""
    span = f"{low} or more, at most {high}" if high == MOST else f"between {low} and {high}"
    what = "a whole" if kind is int else "a"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{shown(text, 40)} is not {what} number {span}")
        return value

    return parse


positive = number(int, 1)
fraction = number(float, 0.0, 1.0)
pixels = number(int, 1, LONGEST_SIDE)


class OneOrTwo(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if len(values) > 2:
            parser.error(f"{option_string}: takes one or two numbers, got {len(values)}")
        setattr(namespace, self.dest, values)


def worker_count(wanted: int | None, device: str) -> int:
    """Number of loader processes: never more than the cores that this process may use.

    device: type of the device that the model runs on. Loader processes beside a model on the CPU compete for its cores:
    on two cores an epoch of `make demo` takes 14.2 s with two of them and 13.0 s with one.
    """
    if wanted is not None:
        return min(wanted, cores())
    return min(8, cores() if device != "cpu" else cores() // 2)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def class_indices(words: Sequence[str] | None, names: Sequence[str]) -> list[int] | None:
    """Class indices of `--classes 0 2 person`; None if the flag was not given.

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
        raise UserError(f"--classes {word}: out of range, this model has classes 0 to {len(names) - 1}",
                        "unknown-class")
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    hint = nearest(word, list(names)) or f"known: {shown}"
    raise UserError(f"--classes {word}: no such class; {hint}", "unknown-class")
