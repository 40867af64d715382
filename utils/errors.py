"""Errors that a user can act on: one sentence that names the cause and the cure."""

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
    """A loader process has ended unexpectedly."""


def lost_worker(error: BaseException) -> UserError | None:
    """The error to report if a loader worker was killed, such as by the kernel when memory runs out; None for any other
    error. torch raises its own wherever the main process happens to be.
    """
    if isinstance(error, LostWorker):
        return error
    text = str(error)
    if not isinstance(error, RuntimeError) or not text.startswith("DataLoader worker"):
        return None
    return LostWorker(f"a loader worker has ended ({text.splitlines()[0].rstrip('. ')}); where memory was short, lower "
                      "--workers or --batch-size, or leave --cache ram off", "lost-worker")


class SafeStream:
    """A text stream that ignores write errors after its reader has gone."""

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
    """Within the block, writing to stderr does not fail if it is closed or its reader has gone."""
    before = sys.stderr
    if before is None:  # closed from the start: keep descriptor 2 from being reused
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
        if isinstance(sys.stderr, SafeStream) and not sys.stderr.broken:  # otherwise Python fails to flush it at exit
            sys.stderr = before


def run_script(main: Callable[[argparse.Namespace], object], parser: argparse.ArgumentParser) -> None:
    """Run a script's `main`: a `UserError` becomes one line on stderr and exit code 1; `--debug` shows the traceback.

    Exit codes: 0 done, 1 user error, 2 wrong flag (argparse), 130 interrupted.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name may hold bytes that cannot be encoded
        sys.stdout.reconfigure(errors="backslashreplace")
    with safe_stderr():
        _run(main, parse_words(parser))


def parse_words(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """`parser.parse_args`; `--name=--`, an empty list in Python before 3.13, is a missing value."""
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
        _print_error(str(error))
        sys.exit(1)
    except RuntimeError as error:
        lost = lost_worker(error)
        if lost is None or args.debug:
            raise
        _print_error(str(lost))
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stdout = None
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission
        if args.debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _print_error(f"{place}{error.strerror or error} (--debug shows where)")
        sys.exit(1)
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _print_error(text: str) -> None:
    """Print a message to stderr without control characters. A long one is cut in the middle: it begins with the cause
    and ends with the cure."""
    text = text if len(text) <= SCREEN else f"{text[:SCREEN * 2 // 3]} ... {text[-SCREEN // 4:]}"
    print("error: " + "\n".join(map(printable, text.split("\n"))), file=sys.stderr)


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 3, 6, 6, 120, 120, 40


def shown(value: object, limit: int = LONGEST) -> str:
    """`repr` of a user's value for a message: at most `limit` characters, without control characters. Nested values are
    not expanded beyond that, so structures of repeated aliases are safe to show."""
    try:
        text = _REPR.repr(value)
    except Exception:  # an object whose own repr fails
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[:limit - 3] + "..."


def short(value: object) -> str:
    """As `shown`, without quotes if it is printable text of at most `LONGEST` characters."""
    return value if isinstance(value, str) and len(value) <= LONGEST and value.isprintable() else shown(value, LONGEST)


def printable(text: str) -> str:
    """A name that is safe to print: control characters, escapes and lone surrogates are written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def nearest(word: str, choices: list[str]) -> str:
    """A hint such as `did you mean 'Conv'?`, or '' if nothing is similar."""
    import difflib

    near = difflib.get_close_matches(word[:LONGEST], choices, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
