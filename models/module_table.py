"""The table of every module that a row may name, made from what the layers declare:
`python -m models.module_table` prints it, `--write docs/model_files.md` puts it into that file between its marks.
"""

import argparse
import inspect
from pathlib import Path

from models import builder  # noqa: F401  fills the registry
from models.registry import LayerType, known_layers, lookup
from utils.errors import UserError, run_script

BEGIN, END = "<!-- modules: made by python -m models.module_table -->", "<!-- end of modules -->"


def layer_table() -> str:
    """Markdown, one line per layer of this project: its names, its arguments as a row writes them, what it is."""
    by_class: dict[type, list[LayerType]] = {}
    for name in known_layers():
        for kind in lookup(name):
            if kind.cls.__module__.startswith(f"{__package__}."):  # not those of plugins
                by_class.setdefault(kind.cls, []).append(kind)
    kinds = sorted(by_class.values(), key=lambda k: (k[0].name.removeprefix("nn.").lower(), k[0].cls.__qualname__))
    lines = ["| module | arguments | what it is |", "|---|---|---|"]
    for kind in kinds:
        names = ", ".join(f"`{k.name}`" for k in kind)
        lines.append(f"| {names} | {_arguments(kind[0])} | {_purpose(kind[0])} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """A document with the table between its marks made anew. Raises `UserError` where the marks are missing."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(f"no table of modules: the lines {BEGIN} and {END} are missing", code="bad-document")
    return f"{head}{BEGIN}\n{layer_table()}\n{END}{tail}"


def _arguments(kind: LayerType) -> str:
    """`c2`*, `k=1`, ...: a star behind those that a model's width scales."""
    shown = []
    for p in kind.signature.parameters.values():
        default = "" if p.default is inspect.Parameter.empty else f"={_short(p.default)}"
        star = "\\*" if p.name in kind.width else ""
        shown.append(f"`{'*' if p.kind is p.VAR_POSITIONAL else ''}{p.name}{default}`{star}")
    notes = ["reads several rows"] * kind.multi_input + [f"repeats: `{kind.repeats}`"] * bool(kind.repeats)
    return " ".join(shown) + (f"{' ' if shown else ''}({', '.join(notes)})" if notes else "")


def _short(value: object) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return value if isinstance(value, str) else repr(value)


def _purpose(kind: LayerType) -> str:
    """The first paragraph of the class's docstring on one line."""
    text = inspect.cleandoc(kind.cls.__doc__ or "").split("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(prog="python -m models.module_table", description="The modules that rows may name.")
    flags.add_argument("--write", type=Path, metavar="FILE", help="put the table into this document")
    return flags


def main(args: argparse.Namespace) -> None:
    """Print the table, or write it into a document."""
    if args.write is None:
        print(layer_table())
        return
    if not args.write.is_file():
        raise UserError(f"--write {args.write}: no such file", code="missing-file")
    args.write.write_text(updated(args.write.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    run_script(main, build_parser())
