"""Errors that a user should get: of a code, naming what they are about. Their wording is free."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from utils.errors import UserError


@contextmanager
def refused(code: str, *names: str) -> Iterator[pytest.ExceptionInfo]:
    """A block that should raise a `UserError` of this code on one line, in which these patterns are found."""
    with pytest.raises(UserError) as error:
        yield error
    text = str(error.value)
    assert error.value.code == code and "\n" not in text, text
    assert not [name for name in names if not re.search(name, text)], text


def user_error(code: str, *names: object):
    """`refused` with plain file names, flags and values instead of patterns."""
    return refused(code, *(re.escape(str(name)) for name in names))
