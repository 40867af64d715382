"""Errors that a user can act on: one sentence that names the thing and the cure."""

import argparse
import contextlib
import io
import os
import reprlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

LONGEST = 200  # characters of a user's value in a message
SCREEN = 1600  # characters of a message


class UserError(Exception):
    """A mistake in what the user gave us; its text names the file, row or flag and the cure.

    code: what kind of mistake, in words joined by hyphens (`unknown-key`, `missing-file`). It stays the same when the
    text changes, so that programs and tests can tell errors apart.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class LostWorker(UserError):
    """A process that loads images has ended before its time."""


def lost_worker(error: BaseException) -> UserError | None:
    """What to tell where a loader worker was killed, as a system does that runs out of memory; None for another error.

    torch raises its error wherever the main process happens to be.
    """
    if isinstance(error, LostWorker):
        return error
    text = str(error)
    if not isinstance(error, RuntimeError) or not text.startswith("DataLoader worker"):
        return None
    return LostWorker(f"a loader worker has ended ({text.splitlines()[0].rstrip('. ')}); where memory was short, lower "
                      "--workers or --batch-size, or leave --cache ram off")


class SafeStream:
    """A text stream that outlives its reader: what nobody can receive any more is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.broken = stream, False

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self.broken = True
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self.broken = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_stderr() -> Iterator[None]:
    """Within the block no error and no progress bar fails because stderr is closed or its reader has gone."""
    before = sys.stderr
    if before is None:  # closed from the start: nothing that is opened later may take its number
        try:
            os.fstat(2)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  as long as the process
    else:
        sys.stderr = SafeStream(before)
    try:
        yield
    finally:
        if isinstance(sys.stderr, SafeStream) and not sys.stderr.broken:  # else Python fails at its end to flush it
            sys.stderr = before


def run_script(main: Callable[[argparse.Namespace], object], parser: argparse.ArgumentParser) -> None:
    """Run a script's `main`: a `UserError` becomes one line on stderr and exit code 1; `--debug` shows the traceback.

    Exit codes: 0 done, 1 user error, 2 wrong flag (argparse), 130 interrupted.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what no encoding can write
        sys.stdout.reconfigure(errors="backslashreplace")
    with safe_stderr():
        _run(main, parse_words(parser))


def parse_words(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """`parser.parse_args`. Of `--name=--` Python before 3.13 makes an empty list: that flag lacks its value."""
    args = parser.parse_args(words)
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        lacks = isinstance(value, list) and ([] in value if isinstance(action.default, list) else not value)
        if action.nargs is None and action.option_strings and lacks:
            parser.error(f"argument {'/'.join(action.option_strings)}: expected one argument")
    return args


def _run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    try:
        main(args)
    except UserError as error:
        if args.debug:
            raise
        _tell(str(error))
        sys.exit(1)
    except RuntimeError as error:
        lost = lost_worker(error)
        if lost is None or args.debug:
            raise
        _tell(str(lost))
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone: there is nobody left to tell
        sys.stdout = None
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission: nothing that a traceback would help with
        if args.debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _tell(f"{place}{error.strerror or error} (--debug shows where)")
        sys.exit(1)
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _tell(text: str) -> None:
    """A message on stderr that fits a screen: of a longer one the beginning, which names the thing, and the end, the
    cure; without control characters."""
    text = text if len(text) <= SCREEN else f"{text[:SCREEN * 2 // 3]} ... {text[-SCREEN // 4:]}"
    print("error: " + "\n".join(map(printable, text.split("\n"))), file=sys.stderr)


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 3, 6, 6, 120, 120, 40


def shown(value: object, limit: int = LONGEST) -> str:
    """`repr` of something a user gave, for a message: at most `limit` characters, however large or nested it is, and
    without control characters. Nothing is expanded beyond that, so structures of repeated aliases are safe to show."""
    try:
        text = _REPR.repr(value)
    except Exception:  # an object whose own repr fails
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[:limit - 3] + "..."


def short(value: object) -> str:
    """As `shown`, without quotes where it is printable text of at most `LONGEST` characters."""
    return value if isinstance(value, str) and len(value) <= LONGEST and value.isprintable() else shown(value, LONGEST)


def printable(text: str) -> str:
    """A name as a terminal may show it: control characters, escapes and what is no Unicode are written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def nearest(word: str, choices: list[str]) -> str:
    """A hint such as `did you mean 'Conv'?`, or '' where nothing is near."""
    import difflib

    near = difflib.get_close_matches(word[:LONGEST], choices, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
