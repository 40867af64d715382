"""A row of a model file: reading it, and finding the layer that it names.

A row is `[from, repeats, module, args]`, a name as fifth entry where wanted, or a mapping with the keys from, repeats,
module, args, options (arguments by name), name. `from` is -1 for the row before, an index, a name, or a list of them.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

from models.config_checks import is_text
from models.registry import LayerType, lookup
from utils.config import is_whole
from utils.errors import UserError, nearest, shown

_KEYS = ("from", "repeats", "module", "args", "name", "options")


@dataclass
class Row:
    """One row as written, `where` saying which for errors."""

    where: str
    sources: list[int | str]
    repeats: int
    module: str
    args: list[Any]
    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.where} ({self.module if self.module.isprintable() else shown(self.module)})"


def parse_row(entry: Any, where: str) -> Row:
    """A row in either form. Raises `UserError` beginning with `where` for anything else."""
    if isinstance(entry, dict):
        wrong = [str(k) for k in entry if k not in _KEYS]
        if wrong:
            hint = f"unknown key {shown(wrong[0])}; {nearest(wrong[0], list(_KEYS))}"
            raise UserError(f"{where}: {hint}".rstrip("; "), code="unknown-key")
        if "module" not in entry:
            raise UserError(f"{where}: no `module`", code="bad-row")
        entry = [entry.get("from", -1), entry.get("repeats", 1), entry["module"], entry.get("args", []),
                 entry.get("name"), entry.get("options", {})]
    if not isinstance(entry, list) or not 4 <= len(entry) <= 6:
        raise UserError(f"{where}: expected [from, repeats, module, args], found {shown(entry)}", code="bad-row")
    source, repeats, module, args, *rest = entry
    name, options = (*rest, None, None)[:2]
    if not is_text(module):
        raise UserError(f"{where}: the module must be a name such as Conv, not {shown(module)}", code="bad-row")
    if name is not None and not is_text(name):
        raise UserError(f"{where} ({module}): the row's name must be a text, not {shown(name)}", code="bad-row")
    row = Row(where, source if isinstance(source, list) else [source], repeats, module, args, name, options or {})
    if not row.sources or any(isinstance(s, bool) or not isinstance(s, int | str) for s in row.sources):
        raise UserError(f"{row}: `from` must be a row's number or name, or a list of them, not {shown(source)}",
                        code="bad-row")
    if not is_whole(repeats, 1, sys.maxsize):
        raise UserError(f"{row}: repeats must be a whole number from 1, not {shown(repeats)}", code="bad-row")
    if not isinstance(args, list) or not isinstance(row.options, dict):
        raise UserError(f"{row}: arguments must be a list and options a mapping, not {shown(args)} and "
                        f"{shown(row.options)}", code="bad-row")
    return row


def find_layer(row: Row, aliases: dict[str, Any]) -> tuple[LayerType, list[Any], dict[str, Any]]:
    """The layer that takes a row's arguments, and those arguments as values.

    aliases: what names such as `nc` and `anchors` stand for, module names too; `None`, which YAML reads as a text, is
    known as well.
    Nothing is evaluated. Raises `UserError` where no layer has that name or takes these arguments.
    """
    args = [_value(a, aliases) for a in row.args]
    options = {str(k): _value(v, aliases) for k, v in row.options.items()}
    module = aliases.get(row.module, row.module)
    if not is_text(module):
        raise UserError(f"`aliases` says that {row.module} is {shown(module)}, which is no name of a module",
                        code="bad-row")
    kinds = lookup(module)
    fitting = [k for k in kinds if k.accepts(args, options)]
    # where a name stands for a layer of one map and for one of several, the row's sources say which is meant
    kind = next((k for k in fitting if k.multi_input == (len(row.sources) > 1)), next(iter(fitting), None))
    if kind is None:
        given = ", ".join([shown(a, 60) for a in args[:8]] + [f"{k[:40]}={shown(v, 60)}" for k, v in options.items()])
        raise UserError(f"arguments ({given}) do not fit {' or '.join(f'{k.name}{k.signature}' for k in kinds)}",
                        code="bad-arguments")
    return kind, args, options


def aliases_of(config: dict[str, Any]) -> dict[str, Any]:
    """The aliases that rows of this config may use for values of its own."""
    own = {key: config[key] for key in ("nc", "anchors") if config.get(key) is not None}
    return {**(config.get("aliases") or {}), **own}


def _value(argument: Any, aliases: dict[str, Any]) -> Any:
    if not isinstance(argument, str):
        return argument
    return {"None": None, "True": True, "False": False, **aliases}.get(argument, argument)
