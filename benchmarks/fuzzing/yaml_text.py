"""YAML with faults in its tree, its text or its bytes: aliases, nesting, tags, encodings."""

import json
from collections.abc import Callable
from typing import Any

import yaml

from benchmarks.fuzzing.mutate import Rng, encoded, pick, spoil_bytes, spoil_tree


def as_yaml(tree: Any) -> str:
    """YAML text; what YAML's writer does not take (lone surrogates, deep trees) comes as JSON, which YAML reads."""
    try:
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return json.dumps(tree)


def spoil_yaml(rng: Rng, tree: Any) -> bytes:
    """A YAML file with faults in its tree, its text or its bytes."""
    chance = rng.random()
    text = as_yaml(spoil_tree(rng, tree) if chance < 0.65 else tree)
    if chance > 0.6:
        text = pick(rng, TEXT_FAULTS)(rng, text)
    data = encoded(rng, text, 0.1)
    return spoil_bytes(rng, data) if rng.random() < 0.1 else data


def _lines(change: Callable[[Rng, list[str]], None]) -> Callable[[Rng, str], str]:
    def fault(rng: Rng, text: str) -> str:
        lines = text.split("\n")
        change(rng, lines)
        return "\n".join(lines)

    return fault


def _insert(rng: Rng, lines: list[str]) -> None:
    lines.insert(int(rng.integers(len(lines) + 1)), pick(rng, YAML_LINES))


def _delete_line(rng: Rng, lines: list[str]) -> None:
    del lines[int(rng.integers(len(lines)))]


def _double_line(rng: Rng, lines: list[str]) -> None:
    at = int(rng.integers(len(lines)))
    lines[at:at] = [lines[at]] * int(rng.choice([1, 2, 2000]))


def _indent(rng: Rng, lines: list[str]) -> None:
    at = int(rng.integers(len(lines)))
    lines[at] = pick(rng, (" ", "\t", "   ", "- ")) + lines[at]


def _value(rng: Rng, lines: list[str]) -> None:
    """Another value behind a key, in a form that only YAML has."""
    at = int(rng.integers(len(lines)))
    lines[at] = lines[at].partition(":")[0] + ": " + pick(rng, YAML_VALUES)


def _control(rng: Rng, lines: list[str]) -> None:
    at = int(rng.integers(len(lines)))
    place = int(rng.integers(len(lines[at]) + 1))
    lines[at] = (
        lines[at][:place]
        + pick(rng, ("\0", "\x1b", "\r", "\x85", "\u2028", "\ufeff", "\x0c", "\x07"))
        + lines[at][place:]
    )


def alias_bomb(levels: int, key: str = "a") -> str:
    """Lines whose last value has 9 ** levels items once its aliases are followed."""
    lines = [f"{key}0: &{key}0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{key}{i}: &{key}{i} [{', '.join([f'*{key}{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def _bomb(rng: Rng, text: str) -> str:
    levels = int(rng.integers(2, 12))
    lines = text.split("\n")
    at = int(rng.integers(len(lines)))
    key = lines[at].partition(":")[0]
    return "\n".join([alias_bomb(levels), *lines[:at], f"{key}: *a{levels - 1}", *lines[at + 1 :]])


def _nest(rng: Rng, text: str) -> str:
    depth = int(rng.choice([10, 100, 900, 5000, 50_000]))
    opening, closing = pick(rng, (("[", "]"), ("{a: ", "}"), ("- ", "")))
    lines = text.split("\n")
    at = int(rng.integers(len(lines)))
    key = lines[at].partition(":")[0]
    lines[at] = f"{key}: " + opening * depth + "1" + closing * depth
    return "\n".join(lines)


YAML_VALUES = (
    "*a", "&a [*a]", "&a {a: *a}", "!!python/object/apply:os.system [echo]", "!!binary aGVsbG8=", "!!set {a, b}",
    "2020-01-01", "2020-13-45", "0o17", "1:30:00", ".inf", ".nan", "|\n  text", ">\n text", "'a", "{a: b", "[1, 2",
    "!!omap [a: 1]", "!!float abc", "!!int 0x", "? a", "@x", "%x", "`x", "0b", "1" * 5000, "1e999999999",
    "!!timestamp 9999-99-99", "9999999999:99:99", "~", "[,]", "<<", "=", "!!null 3",
    "0x" + "f" * 4000,
)
YAML_LINES = (
    "---", "...", "%YAML 9.9", "<<: {names: [x]}", "<<: 3", "<<: [1]", "names:", "nc: 1e7", "nc: 10000000",
    "? [a, b]\n: c", "? {a: b}\n: c", "[]: 1", "null: 1", "1: 2", "true: x", "\t", "{{", "]", "- x", ": :", "a: b: c",
    "# \x1b", "download: rm -rf x",
    "x: " + "y" * 500_000,
    "path: ./", "path: ../..", "base: yolov8n",
)
TEXT_FAULTS: tuple[Callable[[Rng, str], str], ...] = (
    *map(_lines, (_insert, _insert, _delete_line, _double_line, _indent, _value, _value, _control)), _bomb, _nest,
)
