"""The layer table."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import build_model
from models.__main__ import build_parser, main
from models.summary import format_summary, smallest_normed, summarise
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name, gflops", [("yolov8n", 8.74), ("yolov8s", 28.60), ("yolov7", 105.8), ("yolov5s", 16.5)])
def test_flops_are_the_published_ones(name, gflops):
    with torch.device("meta"):
        model = build_model(name)
    assert sum(line.flops for line in summarise(model, 640)) / 1e9 == pytest.approx(gflops, rel=0.005)


def test_table_lists_every_layer_and_totals():
    with torch.device("meta"):
        model = build_model("yolov8n-assn", 3)
    lines = summarise(model, (320, 640))
    text = format_summary(model, lines).splitlines()
    assert lines[0].shape == "16 x 160 x 320"
    assert (lines[22].module, lines[22].sources) == ("ASSN", "p3, p4, p5")
    assert len(text) == 24 + 2
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in text[-1]
    assert "neck assn" in text[-1]


def test_command_tells_a_wrong_file_by_row_in_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("nc: 2\nhead: [[-1, 1, Conv, [8]], [-1, 1, Detec, [nc]]]\n")
    done = subprocess.run([sys.executable, "-m", "models", str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: {path} row 1 (Detec): unknown module; did you mean 'Detect' or 'IDetect'?\n"


def test_the_fewest_values_that_a_batch_norm_sees_of_one_image() -> None:
    model = build_model("yolov8n")
    assert [smallest_normed(model, size) for size in ((32, 32), (64, 32), (64, 96))] == [1, 2, 6]
    assert smallest_normed(build_model("ssd300-r18"), (300, 300)) == 1


def test_the_command_shows_a_model_at_the_size_of_its_frame(capsys) -> None:
    def told(*words: str) -> str:
        main(build_parser().parse_args(list(words)))
        return capsys.readouterr().out

    assert told("ssd300-r18") == told("ssd300-r18", "--imgsz", "300") and "38 x 38" in told("ssd300-r18")
    assert told("yolov8n") == told("yolov8n", "--imgsz", "640") != told("yolov8n", "--imgsz", "64")
    with refused("bad-size", "300 and 300"):
        told("ssd300-r18", "--imgsz", "320")
