"""JSON files of lists of objects, read one object at a time.

`json.loads` of COCO's 450 MB of training annotations takes 2.6 GB for a while; what is kept of them fits in 60 MB. Here
the text passes through a buffer, and only one element of a list is a Python object at any moment.
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CHUNK = 1 << 22  # bytes read at a time
SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()
GOES_ON = frozenset(("", *"+-.0123456789eEINabcdfilnrstuy"))  # behind a number or a word: not whole yet


def read_lists(path: Path, on_item: Mapping[str, Callable[[Any], None]],
               on_other: Callable[[str, Any], None] | None = None) -> set[str]:
    """Call `on_item[key](element)` for each element of the list under each of these top-level keys, in file order.

    Returns the keys whose value was a list; other keys and values are read and ignored. on_other: called with key
    and value where one of these keys has something else than a list. `ValueError` (as from `json.loads`) where the
    file is not one whole JSON object, `OSError` where it cannot be read.
    """
    with path.open("rb") as file:
        text = _Text(file)
        lists: set[str] = set()
        text.expect("{", "an object")
        if text.peek() == "}":
            text.skip()
        else:
            while True:
                key = text.value()
                if not isinstance(key, str):
                    raise ValueError(f"a name was expected {text.where()}")
                text.expect(":", "a colon")
                if key in on_item and text.peek() == "[":
                    lists.add(key)
                    _elements(text, on_item[key])
                else:
                    value = text.value()
                    if key in on_item and on_other is not None:
                        on_other(key, value)
                if text.either(",", "}") == "}":
                    break
        if text.peek():
            raise ValueError(f"more text {text.where()}, behind the end of the object")
        return lists


def _elements(text: "_Text", call: Callable[[Any], None]) -> None:
    text.expect("[", "a list")
    if text.peek() == "]":
        text.skip()
        return
    while True:
        call(text.value())
        if text.either(",", "]") == "]":
            return


class _Text:
    """A window on the file's text that moves on: `buffer[at:]` is what has not been read yet."""

    def __init__(self, file) -> None:
        self.file, self.buffer, self.at, self.passed, self.ended = file, "", 0, 0, False
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode

    def where(self) -> str:
        return f"at character {self.passed + self.at}"

    def more(self) -> bool:
        """Read on; False at the end of the file. Twice as much while one value fills the buffer, so that is linear."""
        if not self.ended:
            data = self.file.read(max(CHUNK, len(self.buffer) - self.at))
            self.ended = not data
            read = self.decode(data, final=self.ended)
            if read:
                self.passed += self.at
                self.buffer, self.at = self.buffer[self.at:] + read, 0
        return not self.ended

    def peek(self) -> str:
        """The next character that is no space, '' at the end; it stays unread."""
        while True:
            self.at = SPACE.match(self.buffer, self.at).end()
            if self.at < len(self.buffer) or not self.more():
                return self.buffer[self.at:self.at + 1]

    def skip(self) -> None:
        self.at += 1

    def either(self, *characters: str) -> str:
        """Take one of these characters."""
        found = self.peek()
        if found not in characters or not found:
            what = f"{found!r}" if found else "the end of the file"
            raise ValueError(f"{' or '.join(characters)} was expected {self.where()}, found {what}")
        self.skip()
        return found

    def expect(self, character: str, what: str) -> None:
        if self.peek() != character:
            raise ValueError(f"{what} was expected {self.where()}")
        self.skip()

    def value(self) -> Any:
        """Take one whole value."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                if self.more():
                    continue
                raise ValueError(f"{error.msg} at character {self.passed + error.pos}") from None
            closed = self.buffer[end - 1] in '"]}' or self.buffer[end:end + 1] not in GOES_ON
            if closed or not self.more():
                self.at = end
                return value
