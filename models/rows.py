"""A row of a model file: reading it, and finding the layer that it names.

A row is `[from, repeats, module, args]`, a name as fifth entry where wanted, or a mapping with the keys from, repeats,
module, args, options (arguments by name), name. `from` is -1 for the row before, an index, a name, or a list of them.
"""

from dataclasses import dataclass, field
from typing import Any

from models.registry import LayerType, lookup
from utils.errors import UserError, nearest

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
        return f"{self.where} ({self.module})"


def parse_row(entry: Any, where: str) -> Row:
    """A row in either form. Raises `UserError` beginning with `where` for anything else."""
    if isinstance(entry, dict):
        wrong = [str(k) for k in entry if k not in _KEYS]
        if wrong or "module" not in entry:
            problem = f"unknown key {wrong[0]!r}; {nearest(wrong[0], list(_KEYS))}" if wrong else "no `module`"
            raise UserError(f"{where}: {problem}".rstrip("; "))
        entry = [entry.get("from", -1), entry.get("repeats", 1), entry["module"], entry.get("args", []),
                 entry.get("name"), entry.get("options", {})]
    if not isinstance(entry, list) or not 4 <= len(entry) <= 6:
        raise UserError(f"{where}: expected [from, repeats, module, args], found {entry!r}")
    source, repeats, module, args, *rest = entry
    name, options = (*rest, None, None)[:2]
    row = Row(where, source if isinstance(source, list) else [source], repeats, str(module), args, name, options or {})
    if not row.sources or any(isinstance(s, bool) or not isinstance(s, int | str) for s in row.sources):
        raise UserError(f"{row}: `from` must be a row's number or name, or a list of them, not {source!r}")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise UserError(f"{row}: repeats must be a whole number from 1, not {repeats!r}")
    if not isinstance(args, list) or not isinstance(row.options, dict):
        raise UserError(f"{row}: arguments must be a list and options a mapping, not {args!r} and {row.options!r}")
    return row


def find_layer(row: Row, words: dict[str, Any]) -> tuple[LayerType, list[Any], dict[str, Any]]:
    """The layer that takes a row's arguments, and those arguments as values.

    words: what names such as `nc` and `anchors` stand for, module names too; `None`, which YAML reads as a text, is
    known as well.
    Nothing is evaluated. Raises `UserError` where no layer has that name or takes these arguments.
    """
    args = [_value(a, words) for a in row.args]
    options = {str(k): _value(v, words) for k, v in row.options.items()}
    kinds = lookup(str(words.get(row.module, row.module)))
    kind = next((k for k in kinds if k.accepts(args, options)), None)
    if kind is None:
        given = ", ".join([repr(a) for a in args] + [f"{k}={v!r}" for k, v in options.items()])
        raise UserError(f"arguments ({given}) do not fit {' or '.join(f'{k.name}{k.signature}' for k in kinds)}")
    return kind, args, options


def words_of(config: dict[str, Any]) -> dict[str, Any]:
    """The words that rows of this config may use for values of its own."""
    own = {key: config[key] for key in ("nc", "anchors") if config.get(key) is not None}
    return {**(config.get("words") or {}), **own}


def _value(argument: Any, words: dict[str, Any]) -> Any:
    if not isinstance(argument, str):
        return argument
    return {"None": None, "True": True, "False": False, **words}.get(argument, argument)
