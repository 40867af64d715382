"""Rules that give some parameters a learning rate and a weight decay of their own."""

import time

import pytest
import torch
from torch import nn

from engine.optim.groups import optimizer_groups, rule_of_each
from engine.optim.optimizer import build_optimizer
from engine.optim.rules import find_places, read_rules
from engine.optim.schedule import Schedule
from models import build_model
from tests.refusals import user_error

# Two rows of a backbone, the first with a name, one of a neck and a head.
ROWS = {"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3, 2], "stem"], [-1, 1, "Conv", [8, 3, 2]]],
        "head": [[-1, 1, "Conv", [8, 3, 2], "between"], [[0, 1, 2], 1, "DFLDetect", ["nc"]]]}


@pytest.fixture(scope="module")
def model():
    return build_model(ROWS)


def members(model, groups):
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in groups]


def test_parts_and_names_are_those_of_rows(model):
    places = find_places(model)
    assert places["model.0.conv.weight"] == ("backbone", "stem.conv.weight")
    assert places["model.1.bn.bias"] == ("backbone", "1.bn.bias")
    assert places["model.2.conv.weight"] == ("neck", "between.conv.weight")
    last = [place for name, place in places.items() if name.startswith("model.3.")]
    assert last and all(part == "head" and name.startswith("head.") for part, name in last)
    necked = find_places(build_model("yolov8n", 2, neck="assn"))
    last = max(int(name.split(".")[1]) for name in necked)
    assert {place[0] for name, place in necked.items() if name.startswith(f"model.{last - 1}.")} == {"neck"}
    assert all(place[1].startswith("neck.") for name, place in necked.items() if name.startswith(f"model.{last - 1}."))


def test_the_first_rule_that_matches_wins_and_its_factors_hold(model):
    rules = read_rules([{"match": "^stem\\.bn", "lr": 0.5, "decay": 2}, {"part": "backbone", "lr": 0.1},
                        {"part": "head", "match": "bias$", "decay": 0.0}], "a.yaml")
    groups = optimizer_groups(model, 0.01, rules=rules)
    found = members(model, groups)
    assert sum(map(len, found)) == sum(p.requires_grad for p in model.parameters()) == len(set.union(*found))
    by_name = {name: group for names, group in zip(found, groups, strict=True) for name in names}
    stem, second, head = by_name["model.0.bn.weight"], by_name["model.1.conv.weight"], by_name["model.2.conv.weight"]
    assert (stem["factor"], stem["weight_decay"], stem["kind"]) == (0.5, 0.02, "no_decay")
    assert (second["factor"], second["weight_decay"], second["kind"]) == (0.1, 0.01, "decay")
    assert by_name["model.1.bn.weight"]["weight_decay"] == 0 and by_name["model.0.bn.bias"]["factor"] == 0.5
    assert "factor" not in head and head["weight_decay"] == 0.01
    bias = next(group for name, group in by_name.items() if name.startswith("model.3.") and name.endswith("bias")
                and group.get("factor"))
    assert (bias["factor"], bias["weight_decay"]) == (1.0, 0.0)


def test_the_schedule_multiplies_the_rates_of_a_rule(model):
    optimizer = build_optimizer(optimizer_groups(model, 0.0, rules=read_rules([{"part": "backbone", "lr": 0.1}], "")),
                                "SGD", 0.1, 0.9)
    Schedule(0.1, 1.0, 10, 64, 4, 0.9, 0.8, 0.4).apply(optimizer, 2, 0)
    rates = {(group["kind"], group.get("factor")): group["lr"] for group in optimizer.param_groups}
    assert rates == {("decay", None): 0.05, ("no_decay", None): 0.05, ("bias", None): 0.25, ("decay", 0.1): 0.05 * 0.1,
                     ("no_decay", 0.1): 0.05 * 0.1, ("bias", 0.1): 0.25 * 0.1}


def test_a_rule_without_a_parameter_is_refused(model):
    for entries, number in (([{"part": "backbone", "lr": 0.1}, {"match": "^stem", "lr": 0.2}], 1),
                            ([{"match": "layer9", "decay": 0.0}], 0)):
        with user_error("flag-without-effect", f"groups[{number}]", "stem.conv.weight"):
            rule_of_each(model, read_rules(entries, "a.yaml"))


def test_frozen_rows_leave_their_rule_without_members_and_that_is_no_error():
    frozen = build_model(ROWS)
    frozen.model[0].requires_grad_(False)
    groups = optimizer_groups(frozen, 0.01, rules=read_rules([{"match": "^stem", "lr": 0.1}], ""))
    assert len(groups) == 3 and not any("model.0." in name for names in members(frozen, groups) for name in names)


def test_everything_decays_where_the_recipe_says_so():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    assert [g["weight_decay"] for g in optimizer_groups(model, 0.01, "all")] == [0.01] * 3
    assert [g["weight_decay"] for g in optimizer_groups(model, 0.01)] == [0.01, 0.0, 0.0]
    optimizer = build_optimizer(optimizer_groups(model, 0.01, "all"), "SGD", 0.1, 0.9, nesterov=False)
    assert not any(group["nesterov"] for group in optimizer.param_groups)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.allclose(p, torch.full_like(p, 2.0 - 0.1 * 0.01 * 2.0)) for p in model.parameters())


@pytest.mark.parametrize("entries, code, told", [
    ("head", "bad-value", "groups: expected a list"), ([1], "bad-value", "groups[0]: expected a mapping"),
    ([{"part": "head", "lr": 1.0}, {"parts": "head", "lr": 1.0}], "unknown-key", "groups[1]: unknown key 'parts'"),
    ([{"part": "tail", "lr": 1.0}], "bad-value", "groups[0].part: 'tail'"),
    ([{"part": ["head"], "lr": 1.0}], "bad-value", "groups[0].part"),
    ([{"part": "head"}], "bad-value", "groups[0]: needs"), ([{"lr": 0.1}], "bad-value", "groups[0]: needs"),
    ([{"part": "head", "lr": -1}], "bad-value", "groups[0].lr: -1"),
    ([{"part": "head", "decay": True}], "bad-value", "groups[0].decay"),
    ([{"part": "head", "lr": float("nan")}], "bad-value", "groups[0].lr: nan"),
    ([{"part": "head", "lr": None}], "bad-value", "groups[0].lr: None"),
    ([{"match": "(", "lr": 1.0}], "bad-value", "groups[0].match: '(' is no regular expression"),
    ([{"match": "", "lr": 1.0}], "bad-value", "groups[0].match"), ([{"match": 7, "lr": 1.0}], "bad-value", "match"),
    ([{"match": "x" * 201, "lr": 1.0}], "bad-value", "at most 200"),
    ([{"match": "(a|aa)+$", "lr": 1.0}], "bad-value", "might be searched for very long"),
    ([{"match": "a?a?a?a?a?aaaaa", "lr": 1.0}], "bad-value", "might be searched"),
    ([{"match": "(?:a*)*b", "lr": 1.0}], "bad-value", "might be searched"),
    ([{"part": "head", "lr": 1.0}] * 51, "bad-value", "at most 50")])
def test_wrong_rules_are_told_by_file_and_key(entries, code, told):
    with user_error(code, "a.yaml: ", told):
        read_rules(entries, "a.yaml")


def test_patterns_of_use_are_taken():
    for pattern in (r"^layer[12]\.", r"(stem|layer1)\..*bn\d?\.", r"\.(weight|bias)$", r"\+\*\?\(\)\+", "(?:a|b)c+"):
        read_rules([{"match": pattern, "lr": 0.1}], "")
    rule = read_rules([{"match": ".*.*.*.*!", "lr": 0.1}], "")[0]
    began = time.perf_counter()
    assert not rule.takes("head", "model.105.m.0.cv2.conv.weight" * 2)
    assert time.perf_counter() - began < 5
