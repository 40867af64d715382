"""`python -m benchmarks.audit`: its page, its flags, and that what it shows is what a training would do."""

import csv
import json
from dataclasses import fields

import numpy as np
import pytest
import torch

from benchmarks.audit.__main__ import build_parser, main
from benchmarks.audit.flags import LEFT_OUT, read_flags
from benchmarks.audit.positives import report_positives, with_assigners
from data.doctor.seen_sizes import augmented
from engine.training.assignment_report import Audited
from engine.training.config import TrainConfig
from engine.training.preview import open_preview
from models import build_model
from tests.contracts.test_models import narrow
from tests.refusals import refused
from tests.tiny import tiny_data
from utils.distributed.group import Group


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("audit"), train=6, val=5, size=96)


def parsed(place, *more):
    flags = ["--data", place / "tiny.yaml", "--cfg", "yolov8n", "--imgsz", 96, "--batch-size", 4, "--batches", 2,
             "--workers", 0, "--project", place / "runs", "--device", "cpu", "--amp", "fp32", *more]
    return build_parser().parse_args(list(map(str, flags)))


def audited(place, *more):
    """The folder, the values as {(section, subject, size, level, quantity): value}, and the page."""
    folder = main(parsed(place, *more))
    with (folder / "audit.csv").open() as file:
        values = {tuple(key): float(value) if value else None for *key, value in list(csv.reader(file))[1:]}
    return folder, values, (folder / "audit.md").read_text()


def test_flags_are_those_of_a_training_and_nothing_of_it_is_left_out_twice():
    known = {flag.name for flag in fields(TrainConfig) if flag.name != "given"}
    flags = set(vars(build_parser().parse_args([])))
    assert known >= LEFT_OUT and known - LEFT_OUT <= flags and not LEFT_OUT & flags


@pytest.mark.parametrize("more", [["--batch-size", -1], ["--tile-overlap", 0.1]])
def test_flags_without_effect_are_refused(place, more):
    with refused("flag-without-effect", more[0]):
        main(parsed(place, *more))


def test_an_assigner_that_the_head_lacks_is_named(place):
    with refused("unknown-name", "--assign nope"):
        main(parsed(place, "--assign", "tal", "nope", "--noplots"))


def test_assigners_are_compared_on_the_same_batches(place):
    folder, values, page = audited(place, "--cfg", "yolov7-tiny", "--assign", "anchor", "ota", "--noplots")
    for split, images in (("train", "6 training"), ("val", "5 validation")):
        ours = [values["Positives by assigner", f"{name}, {split}", "all", "", "objects"] for name in ("anchor", "ota")]
        assert ours[0] == ours[1] > 0 and f"{images} images" in page
    # every choice of OTA is one of the anchor matches
    means = [values["Positives by assigner", f"{name}, train", "all", "", "mean"] for name in ("anchor", "ota")]
    assert means[0] > means[1] > 0
    assert "none: anchor | none: ota | mean: anchor | mean: ota" in page and not (folder / "audit.png").exists()


def test_copies_differ_in_their_assigner_alone():
    model = build_model(narrow("yolov5n"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = with_assigners(model, ["anchor", "ota"]).values()
    assert first is model and second.head.assigner == "ota"
    assert all(torch.equal(value, before[key]) for key, value in second.state_dict().items())
    assert list(with_assigners(model, [])) == ["anchor"]


def test_shares_are_those_of_the_counts():
    """Of three objects of 4, 12 and 40 px the first has no positive, the second one, the third three."""
    part = Audited("train", 2, np.array([4.0, 12, 40]), np.array([0, 1, 3]), np.array([[0, 0], [1, 0], [1, 2]]),
                   np.zeros(3))
    section = report_positives({"tal": {"train": part}}, [8, 16])
    assert section.said == ["of the 2 objects below 16 px in the training batches no prediction learns 50.0% under tal"]
    assert "| train | 32-96 | 33 · 67 |" in section.lines and "| train | < 8 | 1 | 100.0% | 0.00 |" in section.lines


@pytest.mark.parametrize("more", [[], ["--tile", 64], ["--cfg", "yolov5n"]])
def test_sizes_are_those_that_the_doctor_tells(place, more):
    """The audit takes them from batches with their pixels, the doctor from plans."""
    args = parsed(place, *more)
    preview = open_preview(read_flags(args)[0], Group(), torch.device("cpu"))
    batches = [(targets, len(batch)) for _, targets, batch in preview.training_batches(2)]
    sizes = [(t.boxes[..., 2:] - t.boxes[..., :2]).prod(-1).sqrt()[t.valid] for t, _ in batches]
    told = augmented(preview.train_index, preview.recipe.make_policy(), 96, sum(n for _, n in batches), args.seed)
    np.testing.assert_allclose(torch.cat(sizes), told.sizes, rtol=1e-5)


def test_the_page_holds_its_values(place, capsys):
    folder, values, page = audited(place)
    report = json.loads((folder / "audit.json").read_text())
    assert len(report["values"]) == len(values) and report["made"]["command"].startswith("python ")
    assert page.startswith("# Audit: yolov8n on ") and (folder / "audit.png").stat().st_size > 20_000
    out = capsys.readouterr().out
    for said in report["conclusions"]:
        assert said[1:] in page and said[1:] in out
    shares = [value for key, value in values.items() if key[1:2] == ("seen in training",) and key[2]]
    assert sum(shares) == pytest.approx(1)
    assert not (folder / "weights").exists()


def test_the_same_seed_gives_the_same_values(place):
    first, second, other = (audited(place, "--noplots", "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == second != other
