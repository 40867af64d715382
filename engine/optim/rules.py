"""Rules of a recipe that give some parameters a learning rate and a weight decay of their own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from math import isfinite
from typing import Any

from torch import nn

from utils.errors import UserError, nearest, shown

PARTS = ("backbone", "neck", "head")
MAX_RULES, MAX_PATTERN = 50, 200
# A pattern is as untrusted as its file or checkpoint: without repeated groups, and with so few repetitions, the time of
# a search grows at most with the fifth power of a name's length.
MAX_REPEATS = 4
MOST = 1e3  # factor of a rate


@dataclass(frozen=True)
class GroupRule:
    """One entry of a recipe's `groups`.

    part: "backbone", "neck" or "head", by the row that a parameter is in; "": any. match: a regular expression that is
    found in the parameter's name (`find_places`). lr: its learning rate, decay: its weight decay, as factors of the
    recipe's; None: it decays as it would without the rule.
    """

    part: str = ""
    match: str = ""
    lr: float = 1.0
    decay: float | None = None

    @cached_property
    def _pattern(self) -> re.Pattern:
        return re.compile(self.match)

    def takes(self, part: str, name: str) -> bool:
        """Whether it is meant for the parameter of that name in that part."""
        return self.part in ("", part) and self._pattern.search(name) is not None

    def __str__(self) -> str:
        return ", ".join(f"{f.name}: {value}" for f in fields(self)
                         if (value := getattr(self, f.name)) not in ("", None))


def read_rules(entries: Any, where: str) -> list[GroupRule]:
    """The rules that a list of mappings says, as it stands in a recipe. Raises `UserError` beginning with `where` and
    the key for an entry that is none, a pattern that cannot be or might take long, a factor out of its range."""
    if not isinstance(entries, list) or len(entries) > MAX_RULES:
        raise UserError(f"{where}: groups: expected a list of at most {MAX_RULES} mappings like {{part: backbone, "
                        f"lr: 0.1}}, got {shown(entries)}", code="bad-value")
    return [_read_rule(entry, f"{where}: groups[{i}]") for i, entry in enumerate(entries)]


def _read_rule(entry: Any, where: str) -> GroupRule:
    known = [f.name for f in fields(GroupRule)]
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: expected a mapping like {{part: backbone, lr: 0.1}}, got {shown(entry)}",
                        code="bad-value")
    for key in entry:
        if key not in known:
            raise UserError(f"{where}: unknown key {shown(key)}; {nearest(str(key), known) or ', '.join(known)}",
                            code="unknown-key")
    if not {"part", "match"} & entry.keys() or not {"lr", "decay"} & entry.keys():
        raise UserError(f"{where}: needs part or match, which say whom it is for, and lr or decay, which say what they "
                        "are multiplied by", code="bad-value")
    if "part" in entry and entry["part"] not in PARTS:
        raise UserError(f"{where}.part: {shown(entry['part'])} is not one of {', '.join(PARTS)}", code="bad-value")
    for key in ("lr", "decay"):
        value = entry.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) \
                or not 0 <= value <= MOST:
            raise UserError(f"{where}.{key}: {shown(value)} should be a number from 0 to {MOST:g}", code="bad-value")
    if "match" in entry:
        _check_pattern(entry["match"], f"{where}.match")
    return GroupRule(entry.get("part", ""), entry.get("match", ""), float(entry.get("lr", 1.0)),
                     float(entry["decay"]) if "decay" in entry else None)


def _check_pattern(text: Any, where: str) -> None:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_PATTERN:
        raise UserError(f"{where}: expected a regular expression of at most {MAX_PATTERN} letters, got {shown(text)}",
                        code="bad-value")
    bare = re.sub(r"\\.", "", text)  # an escaped letter repeats nothing
    repeats = len(re.findall(r"[*+?{]", bare.replace("(?", "(")))
    if repeats > MAX_REPEATS or re.search(r"\)[*+?{]", bare):
        raise UserError(f"{where}: {shown(text)} might be searched for very long; use at most {MAX_REPEATS} "
                        "repetitions, and none of a group in brackets", code="bad-value")
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{where}: {shown(text)} is no regular expression: {error}", code="bad-value") from None


def find_places(model: nn.Module) -> dict[str, tuple[str, str]]:
    """(part, name for rules) of every parameter of a detector, by its name there.

    The name for rules is that within its row behind the row's: `layer1.0.conv1.weight` where the model file names it,
    else its number, `head` and `neck` for the last row and an inserted neck. Rows of the file's `backbone` are the
    backbone, the last row is the head, those between are the neck.
    """
    nodes, places = model.model.nodes, {}
    backbone, last = len(model.config.get("backbone") or ()), len(nodes) - 1
    for name, _ in model.named_parameters():
        _, row, rest = name.split(".", 2)
        number = int(row)
        part = "head" if number == last else "backbone" if number < backbone else "neck"
        own = nodes[number].name or row
        if number == last:
            own = "head"
        elif number == last - 1 and model.config.get("neck"):
            own = "neck"
        places[name] = part, f"{own}.{rest}"
    return places
