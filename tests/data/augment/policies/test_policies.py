"""Policies by name."""

from dataclasses import fields, is_dataclass

import pytest

from data.augment.policies import POLICIES, policy_type
from tests.refusals import refused


@pytest.mark.parametrize("name", POLICIES)
def test_words_of_a_policy_are_the_fields_of_a_frozen_dataclass(name):
    kind = policy_type(name)
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert kind(**{f.name: f.default for f in fields(kind)}) == kind()


def test_an_unknown_policy_is_named_with_a_hint():
    with refused("unknown-value", "policy: ", "yolos", "did you mean .yolo."):
        policy_type("yolos")
