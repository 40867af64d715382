"""The numbers of a validation: columns, and the one that chooses best.pt."""

import argparse

import numpy as np
import pytest

from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.protocol import COCO, PROTOCOLS
from engine.training.state import update_best
from engine.training.validation import (
    all_numbers,
    best_column,
    nameable,
    score_of,
    validation_lines,
    validation_row,
)
from tests.engine.evaluation.metrics.problems import problem
from tests.refusals import refused

SEED = 17  # with AP of all sizes


def result(protocol: str = "coco", sides=()) -> tuple[Evaluation, list[str]]:
    truth, found = problem(SEED)
    names = [f"c{k}" for k in range(len(truth.category_ids))]
    own = Evaluation(judge(truth, found, names), truth, found, None, {"box": 0.5}, {})
    own.judge_by(PROTOCOLS[protocol].changed(sides=sides), names)
    return own, names


@pytest.mark.parametrize("wanted, protocol, column", [
    ("fitness", "coco", "fitness"), ("F1", "aitod", "F1"), ("P", "coco", "metrics/precision"),
    ("AP_S", "coco", "metrics/AP_S"), ("AR100", "coco", "metrics/AR100"),
    ("AP", "aitod", "metrics/aitod/AP"), ("coco/AP", "aitod", "metrics/AP"),
    ("AP_S", "aitod", "metrics/AP_S"), ("AP50_tiny", "tinyperson", "metrics/tinyperson/AP50_tiny"),
    ("AP:c0", "coco", "metrics/AP:c0"), ("AP_vt:c0", "aitod", "metrics/aitod/AP_vt:c0"),
    ("F1:c0", "coco", "metrics/F1:c0"), ("AP_voc07", "voc07", "metrics/voc07/AP_voc07"),
    ("AR500", "visdrone", "metrics/visdrone/AR500")])
def test_every_number_has_a_column_and_a_value(wanted, protocol, column):
    own, names = result(protocol)
    assert best_column(wanted, PROTOCOLS[protocol], names) == column
    row = validation_row(own, names, column)
    assert column in (*row, "fitness", "F1") and row["val/box"] == 0.5
    assert {"metrics/precision", "metrics/recall", "metrics/AP", "metrics/AP_L"} <= set(row)
    score = score_of(row, column)
    metrics = own.own if column.count("/") > 1 else own.metrics
    expected = {"fitness": 0.1 * own.metrics["AP50"] + 0.9 * own.metrics["AP"], "P": own.metrics.precision}.get(wanted)
    if ":" in wanted:
        scores = metrics.per_class[0]
        expected = scores.values.get(wanted.split(":")[0], scores.f1)
    elif expected is None and wanted != "F1":
        expected = metrics[wanted.removeprefix("coco/")]
    assert wanted == "F1" or score == expected


def test_what_may_be_named_is_what_is_computed():
    for protocol in PROTOCOLS:
        own, names = result(protocol)
        columns = set(nameable(PROTOCOLS[protocol], names).values()) - {"fitness", "F1"}
        assert columns == set(all_numbers(own, names))


@pytest.mark.parametrize("wanted, protocol, told", [
    ("AP_vt", "coco", "did you mean"), ("mAP", "coco", "did you mean 'AP'"),
    ("xyz", "coco", "known: fitness, F1, P, R, AP"), ("AP:dog", "coco", "--protocol coco"), ("", "coco", "known")])
def test_other_names_are_refused_with_the_nearest_or_a_list(wanted, protocol, told):
    with refused("unknown-number", told):
        best_column(wanted, PROTOCOLS[protocol], ["person", "car"])


def test_sizes_of_the_users_have_columns():
    own, names = result(sides=(8, 16))
    assert best_column("AP_8-16", own.own.protocol, names) == "metrics/own/AP_8-16"
    row = validation_row(own, names)
    assert row["metrics/own/AP_<8"] == own.own["AP_<8"] and row["metrics/own/AP_>16"] == own.own["AP_>16"]
    first, second = validation_lines(own).splitlines()
    assert "AP_S" in first and second.startswith("    own: AP ") and "AP_8-16" in second
    assert len(validation_lines(result()[0]).splitlines()) == 1


def test_the_best_is_that_of_the_column():
    run = argparse.Namespace(best=-1.0, best_epoch=0, epoch=1, score=-1.0)
    row = {"metrics/AP": 0.5, "metrics/AP50": 0.6, "metrics/aitod/AP_vt": -1.0}
    assert not update_best(run, row, "metrics/aitod/AP_vt") and run.best_epoch == 0  # no object of that size
    assert update_best(run, row | {"metrics/aitod/AP_vt": 0.1}, "metrics/aitod/AP_vt") and run.best == 0.1
    assert not update_best(run, {"train/box": 1.0}, "metrics/aitod/AP_vt")


def test_the_same_numbers_as_judging():
    own, names = result("aitod")
    values = all_numbers(own, names)
    assert values["metrics/AP"] == own.metrics["AP"] and values["metrics/aitod/AP_t"] == own.own["AP_t"]
    by_class = [values[f"metrics/AP50:{name}"] for name in names]
    assert np.isclose(np.mean([value for value in by_class if value >= 0]), own.metrics["AP50"])
    assert own.primary is own.own and result()[0].primary.protocol == COCO
