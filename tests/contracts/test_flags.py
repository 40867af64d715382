"""The command line of the four scripts, frozen in `flags.txt`, so that a new or changed flag is a decision.

`python -m tests.contracts.test_flags` writes the file again.
"""

import argparse
import difflib
from pathlib import Path

import detect
import export
import train
import val

FROZEN = Path(__file__).with_name("flags.txt")
COMMAND = "python -m tests.contracts.test_flags"
SCRIPTS = {"train.py": train.build_parser, "val.py": val.build_parser,
           "detect.py": detect.build_parser, "export.py": export.build_parser}


def describe(parser: argparse.ArgumentParser) -> list[str]:
    """A line per flag, sorted: its aliases, default and choices."""
    lines = []
    for action in parser._actions:
        if not action.option_strings or isinstance(action, argparse._HelpAction):
            continue
        flag, *aliases = sorted(action.option_strings, key=lambda name: name.replace("-", "_") != f"__{action.dest}")
        default = list(action.default) if isinstance(action.default, tuple) else action.default
        value = "switch" if action.nargs == 0 else "required" if action.required else f"default {default!r}"
        choices = f"; one of {', '.join(map(str, action.choices))}" if action.choices else ""
        lines.append(f"  {flag}{f' ({chr(32).join(aliases)})' if aliases else ''}: {value}{choices}")
    return sorted(lines, key=lambda line: line.split(':')[0])


def describe_scripts() -> str:
    """All four scripts as `flags.txt` has them."""
    parts = [[name, *describe(build_parser())] for name, build_parser in SCRIPTS.items()]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def test_flags_are_frozen():
    frozen, now = FROZEN.read_text(encoding="utf-8"), describe_scripts()
    changes = "\n".join(difflib.unified_diff(frozen.splitlines(), now.splitlines(), "flags.txt", "now", "", "", 0, ""))
    assert frozen == now, f"flags changed; if that is meant: {COMMAND}\n{changes}"


if __name__ == "__main__":
    FROZEN.write_text(describe_scripts(), encoding="utf-8")
