"""Which parameters are trained, and in which group of the optimiser."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from engine.optim.rules import GroupRule, find_places
from utils.commands import command
from utils.errors import UserError

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
KINDS = ("decay", "no_decay", "bias")


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Split the trainable parameters into `decay` (weights), `no_decay` (norm weights, implicit tensors) and `bias`.

    Weights and biases are recognised by their names, also where a layer has several: `in_proj_weight` of attention,
    `weight_ih_l0` of an LSTM. Frozen parameters are in no group. Every norm layer is exempt from decay, BatchNorm3d
    too (the YOLOv7 fork of ssFPN decays that one; the effect is one vector of C numbers).
    """
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in KINDS}
    for _, parameter, kind in _trainable(model):
        groups[kind].append(parameter)
    return groups


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
    """(name, parameter, its group in `parameter_groups`) of every parameter that is not frozen."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            own = name.rpartition(".")[2]
            if not parameter.requires_grad:
                continue
            if own.startswith("bias_") or own.endswith("bias"):
                yield name, parameter, "bias"
            elif isinstance(module, NORMS) or not (own.startswith("weight_") or own.endswith("weight")):
                yield name, parameter, "no_decay"
            else:
                yield name, parameter, "decay"


def optimizer_groups(model: nn.Module, weight_decay: float, decay: str = "weights",
                     rules: Sequence[GroupRule] = ()) -> list[dict[str, Any]]:
    """The groups of an optimiser: `decay`, `no_decay` and `bias` of what no rule takes, then those of each rule.

    weight_decay: of `decay` alone, or with decay "all" of every parameter. A rule takes the parameters that it matches
    and no earlier one does; its group has `factor`, which the learning rate is multiplied by (`Schedule.apply`), and
    where it says so a weight decay of its own for all of them. Raises `UserError` for a rule that takes none.
    """
    taken = rule_of_each(model, rules) if rules else {}
    members: dict[tuple[int, str], list[nn.Parameter]] = {(-1, kind): [] for kind in KINDS}
    for name, parameter, kind in _trainable(model):
        members.setdefault((taken.get(name, -1), kind), []).append(parameter)
    groups = []
    for (number, kind), parameters in sorted(members.items(), key=lambda item: (item[0][0], KINDS.index(item[0][1]))):
        own = weight_decay if kind == "decay" or decay == "all" else 0.0
        group = {"params": parameters, "weight_decay": own, "kind": kind}
        if number >= 0:
            rule = rules[number]
            group["factor"] = rule.lr
            if rule.decay is not None:
                group["weight_decay"] = weight_decay * rule.decay
        groups.append(group)
    return groups


def rule_of_each(model: nn.Module, rules: Sequence[GroupRule]) -> dict[str, int]:
    """The number of the first rule that matches, by the name of the parameter, for those that one matches. Frozen
    parameters count: a rule whose rows are frozen by a flag is not wrong. Raises `UserError` for a rule without any."""
    places, taken = find_places(model), {}
    for name, _ in model.named_parameters():
        number = next((i for i, rule in enumerate(rules) if rule.takes(*places[name])), None)
        if number is not None:
            taken[name] = number
    idle = next((i for i in range(len(rules)) if i not in taken.values()), None)
    if idle is not None:
        example = next(iter(places.values()), ("", ""))[1]
        raise UserError(f"the recipe's groups[{idle}] ({rules[idle]}) takes no parameter of this model, or an earlier "
                        f"one takes them all; names here are like {example}, parts are backbone, neck and head: drop "
                        "or correct it", "flag-without-effect")
    return taken


def freeze(model: nn.Module, layers: Sequence[int]) -> list[str]:
    """Freeze rows of the model by number (`[10]` means rows 0 to 9, as in YOLOv5); returns the frozen names.

    Their batch-norm statistics are still updated, as in YOLOv5. Raises `UserError` for rows that the model does not
    have, and where no trainable parameter remains.
    """
    rows = range(layers[0]) if len(layers) == 1 else layers
    numbers = [int(name.split(".")[1]) for name, _ in model.named_parameters() if name.startswith("model.")]
    last = max(numbers, default=0)
    beyond = [row for row in rows if row > last]
    if beyond:
        raise UserError(f"--freeze {' '.join(map(str, layers))}: this model has rows 0 to {last}; see "
                        f"{command('models')}", "bad-value")
    prefixes = tuple(f"model.{row}." for row in rows)
    names = [name for name, _ in model.named_parameters() if name.startswith(prefixes)] if prefixes else []
    frozen = set(names)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {' '.join(map(str, layers))}: no trainable parameter remains; freeze fewer rows",
                        "bad-value")
    return names
