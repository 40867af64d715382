"""`python -m assn COMMAND ...`: the four scripts and the other commands, from any folder."""

import sys

from assn.commands import COMMANDS, run


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        del sys.argv[1]
        run(name, f"python -m assn {name}")
        return
    asked = name in ("-h", "--help")
    lines = [f"error: {name!r} is not a command"] if name and not asked else []
    lines += ["usage: python -m assn COMMAND ...; python -m assn COMMAND --help lists its flags"]
    lines += [f"  {command:<12}{purpose}" for command, (_, purpose) in COMMANDS.items()]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    sys.exit(0 if asked else 2)


if __name__ == "__main__":
    main()
