"""val.py: what its flags do, and that none is taken without an effect."""

import argparse

import numpy as np
import pytest
import torch

import val
from engine.evaluation import job
from engine.evaluation.collector import Collector
from engine.evaluation.metrics.results_file import result_rows
from engine.evaluation.results import write_labels
from tests.refusals import refused
from tests.tiny import NAMES, tiny_checkpoint, tiny_data
from utils.structures import Detections
from utils.truth import Truth


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("ein Ordner mit Ümlaut"), train=1, val=3)


@pytest.fixture(scope="module")
def weights(place):
    return tiny_checkpoint(place / "tiny.pt")  # three classes, the data have five


def evaluated(place, weights, *flags):
    words = ["--weights", weights, "--data", place / "tiny.yaml", "--imgsz", 64, "--workers", 0, "--project",
             place / "val", "--noplots", *flags]
    return val.main(val.build_parser().parse_args([str(word) for word in words]))


def test_single_cls_evaluates_a_model_of_several_classes_as_one(place, weights):
    with refused("other-classes", "3 classes", "--single-cls"):
        evaluated(place, weights)
    result = evaluated(place, weights, "--single-cls")
    rows = result_rows(result.truth, result.found)
    assert len(NAMES) > 1 and rows and {row["category_id"] for row in rows} == {1}


def test_the_device_is_the_one_that_the_file_can_use(place, weights, monkeypatch):
    asked = []
    load = job.load_runtime

    def spy(path, device, half, **options):
        asked.append(device)
        return load(path, "cpu", half, **options)

    monkeypatch.setattr(job, "load_runtime", spy)
    evaluated(place, weights, "--single-cls")
    assert asked == [""]  # '' lets an ONNX file run on the CPU where onnxruntime has no CUDA


@pytest.mark.parametrize("flags, named", [
    (["--save-conf"], ["--save-conf.*--save-txt"]), (["--name", ""], ["--name"]), (["--data", ""], ["--data"]),
    (["--name", "../x"], ["--name.*--project"]),
    (["--exist-ok", "--weights", "a.pt", "b.pt"], ["--exist-ok.*--weights"]),
    (["--save-conf", "--name", "../x", "--data", ""], ["--save-conf", "--name", "--data"])])
def test_flags_without_effect_are_refused_all_at_once(flags, named):
    with refused("flag-without-effect", *named):
        val.main(val.build_parser().parse_args(["--weights", "x.pt", *flags]))


@pytest.mark.parametrize("words", [["--max-det", "99999999"], ["--batch-size", "99999999"]])
def test_huge_numbers_are_refused_with_the_range(words, capsys):
    with pytest.raises(SystemExit):
        val.build_parser().parse_args(["--weights", "x", *words])
    assert " at most " in capsys.readouterr().err.splitlines()[-1]


def test_save_txt_keeps_images_of_one_name_apart_and_has_files_of_empty_ones(tmp_path):
    record = argparse.Namespace
    truth = Truth.from_coco({"images": [{"id": i} for i in range(3)], "annotations": []}, [7])
    index = record(truth=truth, records=[record(image_id=i, path=p, width=10, height=10)
                            for i, p in enumerate(("a/1.jpg", "b/1.jpg", "b/2.jpg"))])
    collector = Collector(truth)
    found = Detections(torch.tensor([[0.0, 0.0, 5.0, 5.0]]), torch.tensor([0.5]), torch.tensor([0]))
    collector.update([0, 1], [found, found])
    write_labels(collector.found(), index, tmp_path / "labels", with_conf=True)
    assert {p.name: p.read_text() for p in (tmp_path / "labels").iterdir()} == {
        "1.txt": "0 0.25 0.25 0.5 0.5 0.5\n", "1_2.txt": "0 0.25 0.25 0.5 0.5 0.5\n", "2.txt": ""}
    assert np.loadtxt(tmp_path / "labels/1.txt").shape == (6,)
