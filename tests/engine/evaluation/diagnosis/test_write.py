"""`val.py --diagnose`: its files, what it prints, other kinds of models and classes, several processes."""

import json
from pathlib import Path

import pytest
import torch

import val
from data import load_index
from data.loading.build import eval_loader
from data.loading.config import LoaderConfig
from engine.evaluation.diagnosis.diagnose import diagnose
from engine.evaluation.diagnosis.evidence import Watch
from engine.evaluation.diagnosis.files import summary
from engine.evaluation.evaluate import evaluate
from tests.engine.evaluation.test_evaluator_processes import BATCH, predict
from tests.processes import together
from tests.refusals import refused
from tests.tiny import tiny_checkpoint, tiny_data
from utils.distributed.group import Group
from utils.select import EVALUATION, non_max_suppression
from utils.structures import PackedTargets


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tiny_data(tmp_path_factory.mktemp("diagnosis"), train=1, val=7, size=[48, 64])
    tiny_checkpoint(folder / "tiny.pt")
    return folder


def evaluated(folder: Path, name: str, *flags: object):
    words = ["--weights", folder / "tiny.pt", "--data", folder / "tiny.yaml", "--imgsz", 64, "--workers", 0, "--device",
             "cpu", "--batch-size", 3, "--project", folder / "runs", "--name", name, "--exist-ok", "--single-cls",
             *flags]
    return val.main(val.build_parser().parse_args([str(word) for word in words]))


def test_files_and_text(folder, capsys):
    plain = evaluated(folder, "plain")
    assert not list((folder / "runs/plain").glob("diagnosis*"))
    capsys.readouterr()
    result = evaluated(folder, "told", "--diagnose")
    said = capsys.readouterr().out
    assert result.metrics.values == plain.metrics.values
    numbers = json.loads((folder / "runs/told/diagnosis.json").read_text())
    part = numbers["views"]["all"]
    assert numbers["images_seen"] == 7 and numbers["objects"] == result.metrics.n_labels > 10
    assert part["missed"] == sum(part["missed_by_cause"].values())
    assert f"of {numbers['objects']} objects {part['missed']} are missed at confidence 0.001" in said
    assert "ms diagnosis per image" in said and result.speed["load"] >= 0
    assert len((folder / "runs/told/misses.csv").read_text().splitlines()) - 1 == numbers["views"]["best_f1"]["missed"]
    assert "<img" in (folder / "runs/told/diagnosis.html").read_text()


def test_without_pictures(folder):
    evaluated(folder, "bare", "--diagnose", "--noplots")
    assert "<img" not in (folder / "runs/bare/diagnosis.html").read_text()


@pytest.mark.parametrize("flags", [["--submit", "x"], ["--slice", "64"], ["--weights", "found.json"]])
def test_what_it_does_not_go_with(folder, flags):
    with refused("flag-without-effect", "--diagnose"):
        evaluated(folder, "never", "--diagnose", *flags)
    assert not (folder / "runs/never").exists()


def blurred(images: torch.Tensor, targets: PackedTargets):
    """A model that misses some: its boxes lie three pixels off."""
    boxes, scores, losses = predict(images, targets)
    return boxes + 3, scores, losses


def numbers_of(group: Group, folder: Path) -> dict | None:
    with group.local_rank0_first():
        index = load_index(folder / "tiny.yaml", "val")
    loader = eval_loader(index, 64, LoaderConfig(BATCH, rank=group.rank, world=group.world))
    watch = Watch(index.truth, loader, non_max_suppression, lambda scores: scores)
    result = evaluate(blurred, watch.select, watch, index, device=torch.device("cpu"), group=group)
    evidence = watch.gather(group)
    return None if evidence is None else summary(
        diagnose(result.metrics, result.truth, result.found, index.names, evidence, EVALUATION))


@pytest.mark.slow
def test_two_processes_see_what_one_sees(folder):
    first, second = together(numbers_of, folder)
    alone = numbers_of(Group(), folder)
    assert second is None and first == alone
    assert 0 < alone["views"]["all"]["missed"] < alone["objects"]
    assert alone["views"]["best_f1"]["missed_by_cause"]["unseen"] == 0
