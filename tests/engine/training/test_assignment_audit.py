"""`train.py --audit-assignment`: what a training would assign, counted by object, and nothing trained."""

import csv
import json

import numpy as np
import pytest
import torch

import train
from engine.training.assignment_audit import Tally, tally
from engine.training.assignment_report import Audited, format_table
from models import build_model
from models.assign.assignment import Assignment
from tests.contracts.test_models import narrow
from tests.refusals import refused
from tests.scripts.trainings import words
from tests.tiny import tiny_data
from utils.structures import Batch, Letterbox, Targets, pack_targets


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("audit"), train=6, val=5, size=96)


def audited(place, name, *more, **changes):
    flags = {"--imgsz": 96, "--batch": 4, "--device": "cpu", "--amp": "fp32", "--audit-assignment": 3, **changes}
    return train.main(train.build_parser().parse_args([*words(place, name, **flags), *map(str, more)]))


def three_objects() -> tuple:
    """Two images; objects of 4, 20 and 200 px, of which the first gets none, the second two, the third one positive."""
    targets = pack_targets([
        Targets(torch.tensor([[0.0, 0, 4, 4], [0, 0, 10, 40]]), torch.zeros(2, dtype=torch.int64)),
        Targets(torch.tensor([[0.0, 0, 9, 9], [0, 0, 200, 200]]), torch.zeros(2, dtype=torch.int64),
                torch.tensor([True, False]))])
    found = Assignment(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1]), torch.tensor([0, 1, 1]), torch.ones(3),
                       torch.tensor([[0.0, 0, 10, 40], [0, 0, 10, 20], [0, 0, 100, 200]]))
    return targets, found


def test_positives_are_counted_by_object():
    counted = Tally(2)
    for _ in range(2):
        counted.add(*three_objects())
    result = counted.finish("train", 4, {"prior": False, "cost": False})
    assert result.size.tolist() == [4, 20, 200] * 2 and result.positives.tolist() == [0, 2, 1] * 2
    assert result.levels.tolist() == [[0, 0], [1, 1], [0, 1]] * 2 and result.prior is None
    np.testing.assert_allclose(result.overlap, [0, 1.5, 0.5] * 2)
    rows = {row["size"]: row for row in result.rows()}
    assert rows["< 8"] == {"split": "train", "size": "< 8", "objects": 2, "without": 1.0, "mean": 0.0, "median": 0.0,
                           "iou": None, "anchor_iou": None, "cost": None, "levels": [0.0, 0.0]}
    assert rows["16-32"]["mean"] == 2 and rows["16-32"]["iou"] == 0.75 and rows["16-32"]["levels"] == [0.5, 0.5]
    assert rows["8-16"]["objects"] == 0 and rows["8-16"]["without"] is None
    assert rows["all"]["objects"] == 6 and rows["all"]["without"] == pytest.approx(1 / 3)
    assert rows["all"]["iou"] == pytest.approx(2 / 3)
    assert result.tiny() == "train: of 2 objects below 16 px 0 get a positive, 2 (100.0%) none"
    table = format_table([result], [8, 16]).splitlines()
    assert table[0].split() == ["split", "size", "px", "objects", "without", "mean", "median", "IoU", "/8", "/16"]
    assert table[1].split() == ["train", "<", "8", "2", "100.0%", "0.00", "0", "-", "0%", "0%"]


def test_no_object_is_no_error():
    none = Audited("val", 3, *(np.zeros(0),) * 2, np.zeros((0, 2)), np.zeros(0))
    assert none.tiny() == "val: no object below 16 px" and "all" in format_table([none], [8, 16])


def test_running_statistics_stay_and_a_batch_is_run_as_in_training():
    model = build_model(narrow("yolov5n"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    targets, _ = three_objects()
    batch = Batch(torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8), targets, [1, 2],
                  [Letterbox((256, 256), (256, 256), (1.0, 1.0), (0, 0))] * 2)
    result = tally({"": model}, [(batch.images, batch.targets, batch)], None, "train")[""]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert result.images == 2 and len(result.size) == 3 and result.prior is not None and result.positives[2] > 0
    # anchors of 10 x 13 to 30 x 61 px fit an object of 10 x 40 within a ratio of 4, that of 16 x 30 among them
    assert result.positives[1] >= 3 and result.prior[1] / result.positives[1] < 1


def test_the_command_writes_its_files_and_trains_nothing(place, capsys):
    folder = audited(place, "whole", **{"--oversample-small": 2})
    out = capsys.readouterr().out
    assert "yolov8n, assigner: tal; fresh weights" in out and "images: train 10, val 5" in out
    report = json.loads((folder / "assignment.json").read_text())
    rows = list(csv.DictReader((folder / "assignment.csv").open()))
    assert len(rows) == len(report["rows"]) == 12 and [row["split"] for row in rows] == ["train"] * 6 + ["val"] * 6
    val = next(row for row in report["rows"] if (row["split"], row["size"]) == ("val", "all"))
    assert val["objects"] > 0 and 0 <= val["without"] < 1 and sum(val["levels"]) == pytest.approx(1)
    assert report["tiny"][0].startswith("train: ") and report["images"] == {"train": 10, "val": 5}
    assert (folder / "assignment.png").stat().st_size > 5000
    assert not (folder / "weights").exists() and not (folder / "results.csv").exists()


def test_the_same_settings_give_the_same_table(place):
    tables = [(audited(place, "same", "--noplots") / "assignment.txt").read_text() for _ in range(2)]
    assert tables[0] == tables[1]
    other = (audited(place, "same", "--noplots", **{"--seed": 3}) / "assignment.txt").read_text()
    assert other != tables[0]


@pytest.mark.parametrize(("cfg", "said"), [
    ("ssd300-r18", "IoU 0.5 or more, or the best prior"), ("salience-detr-tiny", "one to one, by the least cost")])
def test_other_families(place, cfg, said, capsys):
    folder = audited(place, cfg, "--noplots", **{
        "--cfg": cfg, "--imgsz": 300 if cfg.startswith("ssd") else 96, "--close-mosaic": 0, "--batch": 2,
        "--audit-assignment": 1})
    table = (folder / "assignment.txt").read_text()
    assert said in table and ("cost" in table) == (cfg == "salience-detr-tiny")
    rows = json.loads((folder / "assignment.json").read_text())["rows"]
    everything = [row for row in rows if row["size"] == "all"]
    assert all(row["without"] == 0 for row in everything)  # every object takes its best prior, or one query
    assert cfg != "salience-detr-tiny" or all(row["mean"] == 1 and row["cost"] for row in everything)


def test_results_go_into_a_folder_of_their_own(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = [part for part in words(place, "own", **{"--imgsz": 64, "--device": "cpu"}) if part != "--project"]
    flags = [part for part in flags if part != str(place)]
    folder = train.main(train.build_parser().parse_args([*flags, "--audit-assignment", "1", "--noplots"]))
    assert str(folder) == "runs/audit/own" and folder.is_dir()


@pytest.mark.parametrize("more", [["--resume"], ["--evolve"], ["--batch", -1]])
def test_modes_that_exclude_each_other_are_refused(place, more):
    with refused("flag-without-effect", "--audit-assignment"):
        audited(place, "x", *more)
