"""hotcoco against pycocotools: every array equal, on problems made to find a difference."""

import builtins

import numpy as np
import pytest

from engine.evaluation.metrics import engine
from engine.evaluation.metrics import judge as judging
from engine.evaluation.metrics.engine import HotcocoEngine, PycocotoolsEngine, open_engine, ranks
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.matching import match_at
from engine.evaluation.metrics.protocol import COCO, PROTOCOLS, Protocol, Stat
from tests.engine.evaluation.metrics.problems import problem, pycocotools_matches
from utils.truth import Truth

TINY = Protocol("tiny", "other limits in everything", (0.25, 0.5), {"all": (0.0, 1e10), "tiny": (0.0, 256.0)},
                (1, 20, 300), (Stat("AP", "AP", max_det=300), Stat("AR20", "AR", 0.25, "tiny", 20)))


def differing(seeds: range, protocol: Protocol) -> list[int]:
    """Seeds of the problems on which an array or a match differs."""
    found = []
    for seed in seeds:
        engines = [make(*problem(seed)) for make in (HotcocoEngine, PycocotoolsEngine)]
        ours, reference = (e.accumulate(protocol) for e in engines)
        matches = (match_at(*problem(seed), [protocol.ious[0]], protocol.max_det)[0],
                   pycocotools_matches(*problem(seed), protocol.ious[0], protocol.max_det))
        same = (np.array_equal(ours.precision, reference.precision) and np.array_equal(ours.recall, reference.recall)
                and np.array_equal(ours.id_order, reference.id_order)
                and np.array_equal(matches[0].state, matches[1].state)
                and np.array_equal(matches[0].objects, matches[1].objects))
        if not same:
            found.append(seed)
    return found


@pytest.mark.parametrize("protocol", [COCO, TINY], ids=lambda p: p.name)
def test_every_array_is_that_of_pycocotools(protocol):
    assert differing(range(60), protocol) == []


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [COCO, TINY], ids=lambda p: p.name)
def test_every_array_is_that_of_pycocotools_in_thousands_of_cases(protocol):
    assert differing(range(1000, 4000), protocol) == []


def test_the_problems_hold_what_they_should():
    """Otherwise the comparison above would prove little."""
    problems = [problem(seed) for seed in range(200)]
    assert any(truth.crowd.any() for truth, _ in problems) and any(np.isnan(truth.areas).any() for truth, _ in problems)
    assert any(len(found) > 500 for _, found in problems) and any(len(found) == 0 for _, found in problems)
    assert {type(truth.image_ids[0]) for truth, _ in problems} == {int, str}
    values = [judge(truth, found)["AP"] for truth, found in problems[:60]]
    assert min(values) == -1 and sum(0.01 < value < 0.9 for value in values) > 20


def test_without_hotcoco_pycocotools_does_the_work(monkeypatch):
    truth, found = problem(3)
    expected = judge(truth, found)
    real = builtins.__import__

    def refuse(name, *rest, **words):
        if name.split(".")[0] == "hotcoco":
            raise ImportError(name)
        return real(name, *rest, **words)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert isinstance(open_engine(truth, found), engine.PycocotoolsEngine)
    assert judge(truth, found).values == expected.values


def test_ids_stand_as_pycocotools_sorts_them():
    assert ranks([30, -1, 7]).tolist() == [2, 0, 1]
    assert ranks(["b", 2, "a"]).tolist() == [2, 0, 1]


def test_the_best_of_an_image_are_the_first_of_equal_ones():
    found = Found(np.ones(2, bool), np.array([0, 0, 0, 1]), np.array([0, 1, 0, 0]), np.zeros((4, 4)),
                  np.array([.5, .5, .5, .1]))
    assert found.best(1).labels.tolist() == [0, 1, 0] and found.best(1).images.tolist() == [0, 0, 1]
    assert found.best(2, by_class=False).labels.tolist() == [0, 1, 0]
    assert len(Found.empty(3).best(4)) == 0 and Found.join([found, found]).images.tolist() == [0] * 6 + [1] * 2


def test_columns_that_disagree_are_told():
    with pytest.raises(ValueError, match="boxes"):
        Found(np.ones(1, bool), np.zeros(1, int), np.zeros(1, int), np.zeros((2, 4)), np.zeros(1))
    with pytest.raises(ValueError, match="ascending"):
        Found(np.ones(2, bool), np.array([1, 0]), np.zeros(2, int), np.zeros((2, 4)), np.zeros(2))


@pytest.mark.parametrize("protocol", ["coco", "voc", "visdrone"])
def test_without_objects_nothing_is_looked_at_and_every_number_is_undefined(protocol, monkeypatch):
    none = np.zeros(0, np.int64)
    truth = Truth([1, 2, 3], [1, 2], none, none, np.zeros((0, 4)), np.zeros(0), none.astype(bool))
    found = Found(np.array([True, False, True]), np.array([0, 2]), np.array([0, 1]), np.ones((2, 4)), np.ones(2))
    monkeypatch.setattr(judging, "open_engine", lambda truth, found: open_engine(truth, found) if not len(found) else 1)
    metrics = judge(truth, found, ["a", "b"], PROTOCOLS[protocol])
    assert set(metrics.values.values()) == {-1.0} and metrics.unseen == 1
