"""The benchmarks of inference and of detect.py run, and their tables say what was measured."""

import sys

import numpy as np
import pytest

from benchmarks.detecting import __main__ as detecting
from benchmarks.detecting import contest
from benchmarks.inference import __main__ as inference
from benchmarks.inference import clock, files, page
from engine.inference.look import STAGES
from tests.engine.inference.blobs import THRESHOLDS, BlobRuntime, draw
from utils.errors import UserError

ROWS = [{"runtime": "PyTorch fp32", "batch": 1, "pre-process": 2.0, "inference": 16.0, "NMS": 2.0, "AP": 0.25},
        {"runtime": "PyTorch fp32", "batch": 4, "pre-process": 1.0, "inference": 8.0, "NMS": 1.0, "AP": 0.25},
        {"runtime": "peer", "batch": 1, "pre-process": 5.0, "inference": 30.0, "NMS": 5.0}]


def test_a_batch_is_timed_by_stage():
    pictures = [draw((60, 80), [(10, 10, 40, 40, 1)])] * 3
    runtime = BlobRuntime()
    spent = clock.time_batch(runtime, pictures, (64, 64), THRESHOLDS)
    assert list(spent) == list(STAGES) and all(value > 0 for value in spent.values())
    assert runtime.batches == [(3, 3, 64, 64)]
    assert clock.medians([dict.fromkeys(STAGES, value) for value in (1.0, 9.0, 2.0)]) == dict.fromkeys(STAGES, 2.0)


def test_the_table_the_csv_and_the_picture(tmp_path):
    text = page.lines(ROWS)
    assert text[2] == "| PyTorch fp32 | 1 | 2.0 | 16.0 | 2.0 | 20.0 | 50.0 | 0.2500 |"
    assert text[4].endswith(" 25.0 |  |")
    page.write_csv(ROWS, tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text().splitlines()[3] == "peer,1,5.0,30.0,5.0,"
    page.draw(ROWS, "title", tmp_path / "rows.png")
    assert (tmp_path / "rows.png").stat().st_size > 5000


def test_what_cannot_be_made_here_is_told():
    forms = {form.name: form for form in files.FORMS}
    assert "--data" in files.why_not(forms["OpenVINO int8"], "", "cpu") or "installed" in files.why_not(
        forms["OpenVINO int8"], "", "cpu")
    assert files.why_not(forms["TensorRT fp16"], "", "cpu") and not files.why_not(forms["PyTorch fp32"], "", "cpu")


def test_commands_run_in_turn_and_failures_are_told(tmp_path):
    note = f"import os; open({str(tmp_path / 'log')!r}, 'a').write(os.environ['WHO'] + '%s ')"
    commands = {side: [sys.executable, "-c", note % side] for side in "ab"}
    costs = contest.in_turn(commands, {"WHO": "x"}, 2)
    assert (tmp_path / "log").read_text().split() == ["xa", "xb"] * 3
    assert all(cost.wall > 0 and cost.cpu > 0 for runs in costs.values() for cost in runs)
    with pytest.raises(UserError, match="ValueError: seven"):
        contest.run([sys.executable, "-c", "raise ValueError('seven')"], {})


def test_cells_are_medians_and_ratios_of_pairs():
    costs = {"ours": [contest.Cost(2.0, 3.0), contest.Cost(4.0, 3.0)], "peer": [contest.Cost(4.0, 1.0)] * 2}
    assert contest.cells(costs) == ["3.00", "3.00", "4.00", "1.00", "1.50"]
    start = {"ours": [contest.Cost(1.0, 1.0)], "peer": [contest.Cost(2.0, 1.0)]}
    assert contest.cells(costs, start, 10)[:3] == ["5.0", "3.00", "5.0"]


def test_busy_programs_end():
    with contest.busy(2) as running:
        assert [process.poll() for process in running] == [None, None]
    assert None not in [process.poll() for process in running]


def test_pictures_repeat_and_become_a_video(tmp_path):
    detecting.make_pictures("", 2, tmp_path / "made")
    detecting.make_pictures(str(tmp_path / "made"), 5, tmp_path / "linked")
    assert len(list((tmp_path / "linked").iterdir())) == 5
    detecting.make_video(tmp_path / "linked", 7, tmp_path / "clip.mp4")
    found = list(detecting.open_source(str(tmp_path / "clip.mp4")))
    assert len(found) == 7 and np.shape(found[0].image) == (*detecting.SIZE, 3)


@pytest.mark.slow
def test_small(tmp_path):
    inference.main(inference.build_parser().parse_args(["--small", "--out", str(tmp_path)]))
    text = (tmp_path / "inference_cpu.md").read_text(encoding="utf-8")
    assert "| PyTorch fp32 | 2 |" in text and "| ONNX fp32 | 1 |" in text and "- not measured: OpenVINO int8" in text
    detecting.main(detecting.build_parser().parse_args(["--small", "--busy", "1", "--out", str(tmp_path)]))
    text = (tmp_path / "detect_busy_cpu.md").read_text(encoding="utf-8")
    assert all(f"\n| {name} | " in text for name in ("`--help`", "one picture", "folder", "video"))
