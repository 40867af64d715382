"""The rows of a COCO results file, a block at a time.

`json.load` of the 2 million rows of a test-dev submission takes 2 GB; here a block of them exists at any moment.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

from engine.evaluation.submission.report import Refused

CHUNK = 1 << 20  # bytes that are read at a time
LONGEST_ROW = 1 << 22  # characters
SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, count: int = -1) -> bytes: ...


def row_blocks(file: Stream) -> Iterator[list[Any]]:
    """The elements of the list that a JSON file consists of, in lists of some thousand.

    Raises `Refused` where the file is not one whole JSON list in UTF-8, or one element is longer than `LONGEST_ROW`.
    """
    decode = codecs.getincrementaldecoder("utf-8")().decode
    buffer, ended, begun, passed = "", False, False, 0
    while True:
        try:
            data = file.read(CHUNK)
            ended = not data
            buffer += decode(data, final=ended)
        except UnicodeDecodeError as error:
            raise Refused("not-json", f"not UTF-8 ({error.reason}); write it as JSON in UTF-8") from None
        if not begun:
            buffer = buffer.lstrip(" \t\n\r")
            if not buffer and not ended:
                continue
            if not buffer.startswith("["):
                raise Refused("not-json", f"it begins with {buffer[:20]!r}, and a results file is a JSON list of rows")
            buffer, begun = buffer[1:], True
        elements, rest, closed = _take(buffer, passed > 0)
        passed += len(elements)
        if elements:
            yield elements
        if closed:
            _expect_end(rest, file, decode)
            return
        if ended:
            raise Refused("not-json", f"not whole: it ends in the middle, or has no JSON, behind row {passed:,}; write "
                                      f"it again")
        if len(rest) > LONGEST_ROW:
            raise Refused("not-json", f"row {passed + 1:,} is no JSON, or longer than {LONGEST_ROW:,} characters")
        buffer = rest


def _expect_end(rest: str, file: Stream, decode: Any) -> None:
    """Nothing but space may follow the list."""
    while True:
        if rest.strip(" \t\n\r"):
            raise Refused("not-json", f"more text behind the end of the list: {rest.strip()[:20]!r}")
        data = file.read(CHUNK)
        if not data:
            return
        rest = decode(data)


def _take(buffer: str, after_comma: bool) -> tuple[list[Any], str, bool]:
    """Whole elements at the begin of the text, what is left of it, and whether the list has ended.

    Most blocks are cut behind the last "}," and decoded at once. That such a part decodes shows that its brackets
    balance, so the cut is between two elements; otherwise they are taken one by one. after_comma: the text follows a
    comma, so the list cannot end here.
    """
    cut = buffer.rfind("},")
    if cut > 0:
        try:
            return json.loads(f"[{buffer[:cut + 1]}]"), buffer[cut + 2:], False
        except (ValueError, RecursionError):
            pass
    elements: list[Any] = []
    at = 0
    while True:
        start = SPACE.match(buffer, at).end()
        if buffer.startswith("]", start) and not elements and not after_comma:
            return [], buffer[start + 1:], True
        try:
            value, end = DECODER.raw_decode(buffer, start)
        except (ValueError, RecursionError):
            return elements, buffer[at:], False
        end = SPACE.match(buffer, end).end()
        if buffer.startswith("]", end):
            return [*elements, value], buffer[end + 1:], True
        if not buffer.startswith(",", end):
            return elements, buffer[at:], False
        elements.append(value)
        at = end + 1
