"""What tests check of a `UserError`: its code and the names in its message, not its wording."""

import contextlib
from collections.abc import Iterator

import pytest

from utils.errors import UserError


@contextlib.contextmanager
def user_error(code: str, *names: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """The block raises a `UserError` with this code, whose message holds these file names, flags and values."""
    with pytest.raises(UserError) as error:
        yield error
    text = str(error.value)
    assert error.value.code == code, text
    assert not [name for name in names if str(name) not in text], text
