"""Augmentation policies, by the name that a recipe gives as `policy`."""

from data.augment.policies.detr import DetrPolicy
from data.augment.policies.policy import Policy
from data.augment.policies.ssd import SsdPolicy
from data.augment.policies.yolo import YoloPolicy
from utils.errors import UserError, nearest, shown

POLICIES: dict[str, type[Policy]] = {"yolo": YoloPolicy, "ssd": SsdPolicy, "detr": DetrPolicy}


def policy_type(name: str) -> type[Policy]:
    """The policy of that name: a dataclass whose fields are the words of its recipes, with their defaults."""
    if name not in POLICIES:
        hint = nearest(str(name), list(POLICIES)) or f"there are {', '.join(POLICIES)}"
        raise UserError(f"policy: unknown augmentation policy {shown(name)}; {hint}", code="unknown-value")
    return POLICIES[name]
