"""Mutations of an input: of bytes, of the tree of a YAML or JSON file, and of rows of text."""

import copy
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator

NUMBERS = (
    0, 1, -1, 2, 3, 7, 100, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63, -(2**63) - 1,
    2**64, 10**20, 10**40, 0.0, -0.0, 0.5, -0.5, 1.5, 1e-7, 5e-324, 1e7, 1e30, 1e308, -1e308, float("nan"),
    float("inf"), float("-inf"),
)
TEXTS = (
    "", " ", "a", "nan", "null", "yes", "no", "007", "1e3", "0x10", "1_000", "-1", "1.0", "\u0661\u0662",
    "\u00e9\u4e2d\u6587", "\U0001f642", "../..", "/dev/null", "/dev/zero", "/proc/self/mem", "C:\\data\\x.jpg",
    "http://x:p@h/y", "a\nb", "a\tb", "\x1b[31mred\x1b[0m", "\x00", "\x7f\x80", "\ud83d", "{}", "%s%n", "${HOME}",
    "__class__", "a" * 300, "b" * 70_000, ".", "-", "person", "images",
)
EXTREMES = (
    b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff", b"\0\0", b"\xff\x7f",
    b"\0\0\0\0", struct.pack("<q", -1), struct.pack("<q", 2**62), b"\0\0\x75\x30", b"\x30\x75\0\0",
)


def pick(rng: Rng, choices: Sequence[Any]) -> Any:
    """One of them, whatever their types."""
    return choices[int(rng.integers(len(choices)))]


def few(rng: Rng, most: int = 3) -> int:
    """1 most often, up to `most`."""
    return min(int(rng.geometric(0.6)), most)


def spoil_bytes(rng: Rng, data: bytes, times: int | None = None) -> bytes:
    """Bytes with one to four random faults, of the kinds that copying, disks and attackers make."""
    out = bytearray(data)
    for _ in range(times or few(rng, 4)):
        pick(rng, BYTE_FAULTS)(rng, out)
    return bytes(out)


def _at(rng: Rng, out: bytearray) -> int:
    """A position; headers are where most is decided, so half of the time among the first bytes."""
    end = min(len(out), 200) if rng.random() < 0.5 else len(out)
    return int(rng.integers(max(end, 1)))


def _flip(rng: Rng, out: bytearray) -> None:
    for _ in range(int(rng.integers(1, 9))):
        if out:
            out[_at(rng, out)] ^= 1 << int(rng.integers(8))


def _truncate(rng: Rng, out: bytearray) -> None:
    del out[int(rng.integers(len(out) + 1)) :]


def _extreme(rng: Rng, out: bytearray) -> None:
    at, word = _at(rng, out), pick(rng, EXTREMES)
    out[at : at + len(word)] = word


def _run(rng: Rng, out: bytearray) -> None:
    at, length = _at(rng, out), int(rng.integers(1, 65))
    out[at : at + length] = bytes([int(rng.choice([0, 255, 32, 65]))]) * length


def _noise(rng: Rng, out: bytearray) -> None:
    at, length = _at(rng, out), int(rng.integers(1, 33))
    out[at : at + length] = rng.bytes(length)


def _cut_out(rng: Rng, out: bytearray) -> None:
    at = _at(rng, out)
    del out[at : at + int(rng.integers(1, 65))]


def _repeat(rng: Rng, out: bytearray) -> None:
    at, length = _at(rng, out), int(rng.integers(1, 257))
    out[at:at] = out[at : at + length] * int(rng.integers(1, 5))


def _append(rng: Rng, out: bytearray) -> None:
    out += rng.bytes(int(rng.integers(1, 257)))


def _empty(rng: Rng, out: bytearray) -> None:
    if rng.random() < 0.1:
        out.clear()


BYTE_FAULTS: tuple[Callable[[Rng, bytearray], None], ...] = (
    _flip, _flip, _flip, _truncate, _extreme, _extreme, _run, _noise, _cut_out, _repeat, _append, _empty,
)


def junk(rng: Rng, depth: int = 0) -> Any:
    """An unexpected value."""
    chance = rng.random()
    if chance < 0.4:
        return pick(rng, NUMBERS)
    if chance < 0.7 or depth > 2:
        return pick(rng, TEXTS)
    if chance < 0.8:
        return pick(rng, (None, True, False))
    items = [junk(rng, depth + 1) for _ in range(int(rng.integers(4)))]
    if chance < 0.92:
        return items
    return {str(pick(rng, TEXTS))[:40] if rng.random() < 0.7 else i: item for i, item in enumerate(items)}


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            todo.append(node[key])
    return found


def spoil_tree(rng: Rng, tree: Any, times: int | None = None) -> Any:
    """A copy of plain data with one to three places changed: value, type, key, order, number."""
    tree = copy.deepcopy(tree)
    for _ in range(times or few(rng)):
        there = places(tree)
        if not there:
            return junk(rng)
        _spoil_place(rng, *pick(rng, there), there)
    return junk(rng) if rng.random() < 0.01 else tree


def _spoil_place(rng: Rng, node: Any, key: Any, there: list[tuple[Any, Any]]) -> None:
    chance = rng.random()
    if chance < 0.5:
        node[key] = junk(rng)
    elif chance < 0.6:
        del node[key]
    elif chance < 0.68:
        node[key] = pick(rng, ([node[key]], {"a": node[key]}, {0: node[key]}, [[node[key]]], str(node[key])))
    elif chance < 0.76:
        other, name = pick(rng, there)
        if isinstance(other, dict) and name in other or isinstance(other, list) and name < len(other):
            node[key] = copy.deepcopy(other[name])
    elif chance < 0.86 and isinstance(node, list):
        node[key:key] = [node[key]] * int(rng.choice([1, 2, 50, 3000]))
    elif chance < 0.9 and isinstance(node, list):
        rng.shuffle(node)
    elif isinstance(node, dict):
        node[str(pick(rng, TEXTS))[:100] if rng.random() < 0.5 else pick(rng, (0, 1, None, True, 1.5))] = (
            node.pop(key) if rng.random() < 0.5 else junk(rng)
        )
    elif type(node[key]) in (int, float):
        node[key] = -node[key] if rng.random() < 0.5 else node[key] * 10 ** int(rng.integers(1, 12))


def as_json(tree: Any) -> bytes:
    """JSON as Python writes it, NaN and lone surrogates too."""
    return json.dumps(tree).encode()


def encoded(rng: Rng, text: str, share: float) -> bytes:
    """UTF-8, or in this share of cases another encoding, or UTF-8 behind a byte order mark."""
    if rng.random() >= share:
        return text.encode("utf-8", "surrogatepass")
    coding = str(rng.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "gbk", "cp1252"]))
    return text.encode(coding, "replace")


def spoil_rows(rng: Rng, rows: list[list[Any]], separator: str = " ") -> list[str]:
    """Rows of numbers as lines, some of them spoiled: every line is still one line."""
    lines = [separator.join(map(str, row)) for row in rows]
    for _ in range(few(rng)):
        at = int(rng.integers(len(rows)))
        words = [str(word) for word in rows[at]]
        _spoil_words(rng, words)
        lines[at] = separator.join(words)
    return [line for line in lines if len(line.splitlines()) == 1 and line.strip()]


def _spoil_words(rng: Rng, words: list[str]) -> None:
    at, chance = int(rng.integers(len(words))), rng.random()
    if chance < 0.5:
        value = pick(rng, NUMBERS) if rng.random() < 0.6 else str(pick(rng, TEXTS))[:500]
        words[at] = "".join(str(value).split()) or "-"
    elif chance < 0.65:
        del words[at]
    elif chance < 0.8:
        words += [str(x) for x in np.round(rng.random(int(rng.integers(1, 20))), 3)]
    elif chance < 0.9:
        words[:] = [word.replace(".", ",") for word in words]
    else:
        words[:] = words * int(rng.choice([2, 3, 500]))
