"""With `--tile`, the numbers of a training are those of val.py on the same windows, and the model remembers them."""

import json

import pytest

import export
import train
import val
from benchmarks import table
from engine.inference.hints import trained_tile
from engine.inference.runtimes.open import load_runtime
from tests.scripts.trainings import parsed
from tests.tiny import tiny_checkpoint, tiny_data
from utils.checkpoint import load_checkpoint
from utils.reporting.run_log import read_csv


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on windows of 64 pixels of scenes of 128 x 160."""
    place = tiny_data(tmp_path_factory.mktemp("tiled"), train=4, val=5, size=[128, 160])
    tiny_checkpoint(place / "start.pt")
    train.main(parsed(place, "tiled", "--tile", 64, "--weights", place / "start.pt", "--hyp",
                      write(place / "still.yaml", "lr0: 1.0e-9\noptimizer: SGD\n")))
    return place


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def numbers(folder):
    return json.loads((folder / "metrics.json").read_text())["protocols"]


def test_the_numbers_are_those_of_val_on_the_same_windows(place, capsys):
    weights = place / "tiled/weights/best.pt"
    words = ["--weights", str(weights), "--project", str(place), "--device", "cpu", "--workers", "0", "--noplots"]
    sliced = val.main(val.build_parser().parse_args([*words, "--slice", "64", "--name", "sliced"]))
    assert "hint" not in capsys.readouterr().out
    val.main(val.build_parser().parse_args([*words, "--name", "whole"]))
    assert "was trained on windows of 64 pixels" in (said := capsys.readouterr().out) and "--slice 64" in said
    assert numbers(place / "tiled") == numbers(place / "sliced") != numbers(place / "whole")
    assert sliced.metrics["AP"] > 0
    row, = read_csv(place / "tiled/results.csv")
    assert float(row["metrics/AP"]) == pytest.approx(sliced.metrics["AP"], abs=1e-5)


def test_a_model_remembers_its_windows_and_so_does_its_export(place):
    weights = place / "tiled/weights/best.pt"
    assert load_checkpoint(weights)["config"]["trained"] == {
        "data": str(place / "tiny.yaml"), "imgsz": [64], "tile": 64, "image": 64}
    files = export.main(export.build_parser().parse_args(["--weights", str(weights), "--include", "onnx"]))
    runtime = load_runtime(files[0])
    assert trained_tile(runtime) == 64 and runtime.trained["image"] == 64


def test_a_run_notes_its_command_for_tables(place):
    run = json.loads((place / "tiled/metrics.json").read_text())["run"]
    assert "--tile 64" in run["command"] and run["epochs"] == 1 and run["parameters"] > 3e6 and run["seconds"] > 0
    row, = table.main(table.build_parser().parse_args([str(place / "tiled")]))
    assert row["seeds"] == "0" and row["epochs"][0] == 1 and row["AP"] is not None
