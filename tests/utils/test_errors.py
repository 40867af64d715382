"""Messages: what a user gave is shown short, on one line and without control characters."""

import pytest

from utils.errors import shown


def aliases(depth: int) -> list:
    value = ["x"]
    for _ in range(depth):
        value = [value] * 9
    return value


@pytest.mark.parametrize("value", [aliases(30), "y" * 10**6, dict.fromkeys(range(10**4), "z" * 100), 10**400,
                                   [10**5000], b"\0" * 10**5])
def test_large_values_are_shown_short(value):
    assert len(shown(value)) <= 200


def test_small_values_are_shown_as_they_are():
    assert shown("person") == "'person'"
    assert shown([1, 2.5, None]) == "[1, 2.5, None]"


def test_control_characters_never_reach_the_terminal():
    assert "\x1b" not in shown("\x1b[2Jname") and "\n" not in shown("a\nb")


def test_a_value_whose_own_repr_fails_is_named_by_its_type():
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    assert "Broken" in shown(Broken())
