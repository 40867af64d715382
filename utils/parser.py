"""The parser of the scripts' command lines: help in groups, errors of one sentence, words of other programs.

A parser of ours can be used like any of argparse; prefixes of flags work (`--batch` for `--batch-size`).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.commands import command
from utils.errors import SCREEN, nearest, printable, shown
from utils.other_programs import MODES, TASKS, is_setting, refusal, spelled, translated

COLUMN = 37  # where the texts of the help begin


class OneLineHelp(argparse.RawDescriptionHelpFormatter):
    """A line for each flag where the terminal is wide enough; the value is named once, after all of a flag's names."""

    def __init__(self, prog: str, indent_increment: int = 2, max_help_position: int = COLUMN,
                 width: int | None = None, **more: Any) -> None:
        super().__init__(prog, indent_increment, max_help_position, width, **more)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        choices = "|".join(map(str, action.choices or ()))
        own = action.metavar if isinstance(action.metavar, str) else action.dest.upper().rsplit("_", 1)[-1]
        name = choices if choices and action.metavar is None else own
        value = {"?": f"[{name}]", "+": f"{name} ..."}.get(action.nargs, name)
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """An argument parser that records explicit flags: `args.given` maps destination to value for every flag on the
    command line, under any alias or abbreviation, even if the value is the default.

    script: which of `other_programs.WORDS` are refused; prog follows from it.
    """

    def __init__(self, *args: Any, script: str = "", **more: Any) -> None:
        own = command(script) if script else None
        super().__init__(*args, **{"formatter_class": OneLineHelp, "prog": own, **more})
        self.script = script
        self._optionals.title = "help"

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The group of flags with this title, made where there is none yet."""
        found = [group for group in self._action_groups if group.title == title]
        return found[0] if found else self.add_argument_group(title)

    def format_usage(self) -> str:
        """What must be given, without the list of all flags."""
        return self._short_usage() + "\n"

    def format_help(self) -> str:
        """The groups in the order in which they were made, `--help` last."""
        self._action_groups.remove(self._optionals)
        self._action_groups.append(self._optionals)
        self.usage = self._short_usage().removeprefix("usage: ").replace("%", "%%")
        return super().format_help()

    def _short_usage(self) -> str:
        needed = [f"{action.option_strings[0]} {action.metavar or action.dest.upper()}"
                  for action in self._actions if action.required and action.option_strings]
        places = [f"[{action.dest}]" if action.nargs in ("?", "*") else action.dest
                  for action in self._actions if not action.option_strings]
        return " ".join([f"usage: {self.prog}", *places, *needed,
                         "[flags]"])

    def error(self, message: str) -> NoReturn:
        """End the program with one sentence (exit code 2)."""
        message = printable(message if len(message) <= SCREEN else f"{message[:SCREEN]} ...")
        self.exit(2, f"error: {message} ({self.prog} --help lists the flags)\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        words = list(sys.argv[1:] if args is None else args)
        found, rest = self.parse_known_args(words, namespace)
        if rest:
            self._refuse_settings(rest, words)
            self.error(self._unknown(rest))
        return found

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        words = list(sys.argv[1:] if args is None else args)
        if self.script:
            self._refuse_foreign(words)
        found, rest = super().parse_known_args(words, namespace)
        unset: list[Any] = []  # a list, since flags that add up copy what is there and append
        blank = argparse.Namespace(**{action.dest: unset for action in self._actions})
        seen, _ = super().parse_known_args(words, blank)
        found.given = {word: value for word, value in vars(seen).items() if value is not unset and hasattr(found, word)}
        return found, rest

    def _refuse_foreign(self, words: Sequence[str]) -> None:
        """End the program where other programs' flags or settings are among the words."""
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        refused = refusal(dict.fromkeys(flag for flag in flags if flag not in self._option_string_actions),
                          self.script)
        if refused:
            self.error(refused)
        before = ["", *words]
        # os.path, since Path raises for a name that is too long
        settings = [word for k, word in enumerate(words) if is_setting(word) and not os.path.exists(word)  # noqa: PTH110
                    and not (before[k].startswith("--") and "=" not in before[k])]
        self._refuse_settings(settings, words)
        leading = list(words[:next((k for k, word in enumerate(words) if word.startswith("-")), len(words))])
        if leading and all(word in (*MODES, *TASKS, "yolo") for word in leading):
            self.error(translated(words, self.script))

    def _refuse_settings(self, settings: Sequence[str], words: Sequence[str]) -> None:
        if self.script and any(map(is_setting, settings)):
            self.error(translated(words, self.script))

    def _unknown(self, rest: Sequence[str]) -> str:
        """What is said of words that belong to no flag."""
        own = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in rest:
            if word.startswith("-"):
                flag = word.partition("=")[0]
                dashed = f"--{spelled(flag)}"
                hint = f"it is {dashed} here" if dashed in own else nearest(flag, own)
                return f"{shown(flag, 60)}: no such flag" + f"; {hint}" * bool(hint)
        return f"{' '.join(shown(word, 60) for word in rest[:5])}: belongs to no flag"
