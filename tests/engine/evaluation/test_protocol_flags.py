"""The flags of protocols: what they are read as, and that none is taken without an effect."""

import argparse
import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import val
from engine.evaluation.config import ValConfig
from engine.evaluation.metrics.protocol import COCO_IOUS, PROTOCOLS
from engine.evaluation.protocol_flags import nms_or_eval_iou, overlaps, sizes
from tests.refusals import refused
from tests.tiny import tiny_checkpoint, tiny_data
from utils.select import EVALUATION


def config(*flags: str) -> ValConfig:
    parser = ValConfig.parser("val", "val")
    return ValConfig.from_args(parser.parse_args(["--weights", "a.pt", *flags])).check()


@pytest.mark.parametrize("flags, nms, ious", [
    ((), None, None), (("--iou", "0.6"), 0.6, None), (("--iou-thres", "0.6"), 0.6, None),
    (("--iou-t", "0.6"), 0.6, None),
    (("--iou", "0.25:0.5"), None, (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)), (("--iou", "0.25,0.5"), None, (0.25, 0.5)),
    (("--iou", "0.6", "--iou", "0.25:0.75:0.25"), 0.6, (0.25, 0.5, 0.75)), (("--eval-iou", "0.5"), None, (0.5,)),
    (("--eval-iou", "0.5:0.95"), None, COCO_IOUS)])
def test_one_number_is_that_of_nms_and_several_those_of_evaluation(flags, nms, ious):
    read = config(*flags)
    assert read.iou_thres == nms and (read.eval_iou == ious or read.eval_iou == pytest.approx(ious))


@pytest.mark.parametrize("flags", [
    ("--iou", "1.5"), ("--iou", "x"), ("--iou", "0.5:"), ("--iou", "0.5:0.25"), ("--iou", "0.25:0.52"),
    ("--iou", "0.2:0.4:0.1:1"), ("--eval-iou", "0"), ("--eval-iou", "0.5,0.5"), ("--eval-iou", "nan"),
    ("--size-bins", "32,8"), ("--size-bins", "0,8"), ("--size-bins", "8,8"), ("--size-bins", ""),
    ("--size-bins", "8,1e9"), ("--size-bins", "nan"), ("--protocol", "cocoo")])
def test_other_values_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        config(*flags)
    assert flags[0] in capsys.readouterr().err


@given(text=st.one_of(st.text("0123456789.,:-e", max_size=12), st.lists(st.floats(), max_size=4).map(
    lambda values: ":".join(map(str, values)))), parse=st.sampled_from((overlaps, sizes, nms_or_eval_iou)))
def test_any_text_is_refused_or_gives_usable_numbers(text, parse):
    try:
        values = parse(text)
    except argparse.ArgumentTypeError:
        return
    single = not isinstance(values, tuple)
    values = [values] if single else list(values)
    assert values == sorted(set(values)) and all(0 <= value < np.inf for value in values) and values
    assert values[0] > 0 or single and parse is nms_or_eval_iou


@pytest.mark.parametrize("protocol", ["voc", "voc07", "visdrone"])
def test_protocols_without_sizes_take_none(protocol):
    for flags in (("--size-bins", "8"), ("--eval-iou", "0.5")):
        with refused("flag-without-effect", flags[0]):
            config("--protocol", protocol, *flags)


def test_metric_is_the_older_name():
    assert config("--metric", "voc07").judged_by() is PROTOCOLS["voc07"]
    assert config().judged_by() is PROTOCOLS["coco"]


@pytest.mark.parametrize("protocol, kept", [("coco", 300), ("voc07", 300), ("tinyperson", 300), ("visdrone", 500),
                                            ("aitod", 1500), ("sodad", 20_000)])
def test_selection_leaves_what_the_protocol_counts(protocol, kept):
    assert config("--protocol", protocol).thresholds(EVALUATION).max_det == kept
    assert config("--protocol", protocol, "--max-det", "7").thresholds(EVALUATION).max_det == 7


def test_a_limit_above_the_protocols_is_shown_beside():
    assert config("--max-det", "500").judged_by().beside == 500
    assert config("--max-det", "100").judged_by().beside is None
    assert config("--protocol", "voc", "--max-det", "5000").judged_by().beside is None


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("protocols"), train=1, val=3)


def evaluated(place, name, *flags):
    words = ["--weights", tiny_checkpoint(place / "tiny.pt"), "--data", place / "tiny.yaml", "--imgsz", 64, "--workers",
             0, "--project", place / "val", "--name", name, "--noplots", "--single-cls", *flags]
    return val.main(val.build_parser().parse_args([str(word) for word in words])), place / "val" / name


def tables(folder) -> str:
    """metrics.txt without its header."""
    lines = (folder / "metrics.txt").read_text().splitlines()
    last = max(k for k, line in enumerate(lines) if line.startswith("runtime"))
    return "\n".join(lines[last + 1:]).strip()


def test_the_protocol_stands_before_coco_in_every_file(place, capsys):
    result, folder = evaluated(place, "aitod", "--protocol", "aitod")
    text, printed = tables(folder), capsys.readouterr().out
    assert text.strip() in printed and "up to 1500 detections per image" in printed
    assert text.startswith("AI-TOD") and text.index("AP_vt") < text.index("\nCOCO: ") < text.index("AP_S")
    assert "gives the same 14 numbers" in text and "gives the same twelve numbers" in text
    stored = json.loads((folder / "metrics.json").read_text())
    assert [p["protocol"] for p in stored["protocols"]] == ["aitod", "coco"] and stored["max_det"] == 1500
    for record, metrics in zip(stored["protocols"], (result.own, result.metrics), strict=True):
        values = {name: -1.0 if value is None else value for name, value in record["values"].items()}
        assert values == metrics.values
        assert sum(row["objects"] for row in record["sizes"]) >= record["labels"] > 0
    assert [row["size"] for row in stored["protocols"][0]["sizes"]] == ["very tiny", "tiny", "small", "medium"]
    with (folder / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + len(result.own.per_class) and rows[0]["class"] == ""
    assert float(rows[0]["AP50"]) == result.own["AP50"]
    assert int(rows[0]["objects tiny"]) == result.own.sizes.objects[:, 1].sum()


def test_other_sizes_and_overlaps_are_not_called_cocos(place):
    result, folder = evaluated(place, "bins", "--size-bins", "8,16", "--iou", "0.25:0.5")
    plain, _ = evaluated(place, "plain")
    text = tables(folder)
    assert text.startswith("NOT the numbers of coco") and "AP_8-16" in text and "(objects in brackets)" in text
    assert plain.own is None and plain.primary is plain.metrics and result.primary is result.own
    assert plain.metrics.values == result.metrics.values and result.own["AP"] > result.metrics["AP"] >= 0


def test_a_row_for_more_detections_stands_beside(place):
    result, folder = evaluated(place, "more", "--max-det", "400", "--protocol", "tinyperson")
    assert [row.title for row in result.own.alternatives] == ["all, 400 a class"] and not result.metrics.alternatives
    assert "AP@400" in (folder / "metrics.txt").read_text()
