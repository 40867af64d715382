"""The augmentation policy of a recipe file, without what else a recipe holds (`engine.training.recipe` reads that)."""

from dataclasses import fields
from pathlib import Path

from data.augment.policies import policy_type
from data.augment.policies.policy import Policy
from utils.config import is_number, read_with_bases
from utils.errors import UserError, shown

LARGEST = 1e9


def read_policy(name: str | Path) -> Policy:
    """The policy of a recipe by name in `cfg/train` or by path. Keys that are no words of it are left to the training.

    Raises `UserError` for an unknown policy and for values that are no numbers, or out of their range.
    """
    policy, words = "yolo", {}
    for path, content in read_with_bases(name, "train"):
        chosen = content.get("policy", policy)
        try:
            known = {f.name: f.default for f in fields(policy_type(chosen))}
        except UserError as error:
            raise UserError(f"{path}: {error}", error.code) from None
        if chosen != policy:
            policy, words = chosen, {}  # the base's words are another policy's
        for key in content.keys() & known.keys():
            value = tuple(content[key]) if isinstance(content[key], list) else content[key]
            number = isinstance(known[key], int | float) or key == "fill"
            if not (number and is_number(value, -LARGEST, LARGEST)) and type(value) is not (
                    tuple if key == "fill" else type(known[key])):
                kind = "number" if number else {tuple: "list"}.get(type(known[key]), type(known[key]).__name__)
                raise UserError(f"{path}: {key}: expected a {kind}, got {shown(content[key])}", "bad-value")
            words[key] = value
    return policy_type(policy)(**words)
