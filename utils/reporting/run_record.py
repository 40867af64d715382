"""What a run was, for the tables that are made of many: its command and the state of the source."""

import shlex
import subprocess
from pathlib import Path

from utils.commands import command
from utils.options import Options

ROOT = Path(__file__).resolve().parents[2]
SECRET = ("storage",)  # a database's address may hold a password


def given_command(name: str, config: Options) -> str:
    """The command line that gave these settings; name: as of `utils.commands.command`. Flags whose value may hold a
    password stand without it."""
    words = []
    for field, value in config.given.items():
        flag = "--" + field.replace("_", "-")
        if field in SECRET:
            words += [flag, "..."]
        elif value is True:
            words.append(flag)
        elif value is False:
            words.append(f"--no-{flag[2:]}")
        elif value is not None:
            words += [flag, *map(str, value if isinstance(value, list | tuple) else (value,))]
    return f"{command(name)} {shlex.join(words)}".strip()


def revision() -> str:
    """The commit of this source tree, with `+` where files differ from it; '' where it is none of git's."""
    try:
        if not (ROOT / ".git").exists():
            return ""
        commit, changed = (subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10,
                                          check=True).stdout.strip()
                           for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"]))
    except (OSError, subprocess.SubprocessError):  # no git, or it does not trust the folder
        return ""
    return commit + "+" * bool(changed)
