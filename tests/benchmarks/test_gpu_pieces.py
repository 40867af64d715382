"""Every kind of piece for a GPU in its tiny form, on the CPU."""

from pathlib import Path

import pytest
import torch

from benchmarks.gpu.behaviour import candidates
from benchmarks.gpu.context import Context
from benchmarks.gpu.plan import CONTEST, make_plan
from benchmarks.gpu.speed import Traffic
from benchmarks.gpu.worker import answer_to
from tests.benchmarks.test_gpu import call, pieces_in
from tests.golden_rule import SHARED

TASKS = {task.key: task for task in make_plan(True) if task.function != CONTEST}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.mark.parametrize("key", TASKS)
def test_piece(key, work):
    rows = []
    context = Context(torch.device("cpu"), True, SHARED, work, rows.append)
    threads = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    assert answer_to({"function": TASKS[key].function, "args": TASKS[key].args}, context) == {"end": "done"}
    assert rows and [row["what"] for row in rows if not row.get("ok", True)] == []
    after = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    assert after == threads


@pytest.mark.slow
def test_the_whole_program(tmp_path, capsys):
    """A worker, the loop of train.py from end to end, and a training, through the program itself."""
    words = ("--pieces", "nms", "train.py", "shapes yolov8n seed 0")
    call(tmp_path, *words)
    assert "everything asked for is done" in capsys.readouterr().out
    found = pieces_in(tmp_path)
    loop, = found["train.py yolov8n batch 2 gpu"]["rows"]
    assert loop["images_per_s"] > 0 and 0 <= loop["waited_ms"] <= loop["ms"]
    trained = found["shapes yolov8n seed 0"]
    assert 0 <= trained["test"]["AP"] <= 1 and trained["images_per_s"] > 0 and trained["memory_gb"] > 0
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "| nms | 2 of 2 |" in text and "**shapes**: 1 epochs at 64 px" in text and "waiting for data" in text

    call(tmp_path, *words)  # again: nothing to do
    assert pieces_in(tmp_path) == found and (tmp_path / "out" / "gpu.md").read_text() == text


def test_bytes_are_counted_and_views_are_free():
    a, b = torch.zeros(100), torch.zeros(100)
    with Traffic() as traffic:
        (a + b).view(10, 10).t()
    assert (traffic.operations, traffic.bytes) == (1, 1200)


@pytest.mark.parametrize("dense, least, most", [(False, 20, 200), (True, 5000, 60000)])
def test_candidates_are_few_or_many(dense, least, most):
    boxes, scores = candidates(1, 8400, 80, dense)
    assert boxes.shape == (1, 8400, 4) and scores.shape == (1, 8400, 80)
    assert (boxes[..., 2:] > boxes[..., :2]).all() and scores.min() >= 0 and scores.max() <= 1
    assert least <= int((scores > (0.001 if dense else 0.25)).sum()) <= most
